// SPDX-License-Identifier: GPL-2.0-only
//! In which kernel function a step is about to be taken, so that a kernel
//! developer knows where to put a delay. Functions of the port and of the
//! model have the kernel's names, so the stack tells.

use std::backtrace::Backtrace;

/// Files of primitives: what calls them is the kernel's function.
const PRIMITIVES: [&str; 8] = [
    "model/cpu.rs",
    "model/page.rs",
    "model/folio.rs",
    "model/pgtable.rs",
    "model/vmstat.rs",
    "model/mm.rs",
    "model/filemap.rs",
    "gup-core/src/atomic.rs",
];

/// The function that runs, and of the C its line; `None` if this was built
/// without debug information.
pub(super) fn function() -> Option<String> {
    function_in(&Backtrace::force_capture().to_string())
}

fn function_in(stack: &str) -> Option<String> {
    let lines: Vec<&str> = stack.lines().map(str::trim).collect();
    let frames = lines.windows(2).filter_map(|pair| {
        let name = pair[0].split_once(": ")?.1;
        let (file, line) = pair[1].strip_prefix("at ")?.rsplit_once(':')?.0.rsplit_once(':')?;
        let name = name.rsplit("::").next()?.split('<').next()?;
        (!name.contains('{')).then_some((name, file, line))
    });
    let frames: Vec<_> = frames.collect();
    if let Some((name, _, line)) = frames.iter().find(|f| f.1.ends_with("/mm/gup.c")) {
        return Some(format!("{name}() mm/gup.c:{line}"));
    }
    let ours = || frames.iter().filter(|f| f.1.contains("gup-core/src/"));
    let is_primitive = |file: &str| PRIMITIVES.iter().any(|p| file.ends_with(p));
    let (name, ..) = ours().find(|f| !is_primitive(f.1)).or_else(|| ours().next_back())?;
    Some(format!("{name}()"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PORT: &str = "   0: show
             at ./gup-core/src/model/cpu.rs:341:19
   1: page_ref_add_unless_zero
             at ./gup-core/src/model/page.rs:88:5
   2: {closure#0}
             at ./gup-core/src/gup/v6_12/grab.rs:70:9
   3: gup_core::gup::v6_12::grab::try_get_folio
             at ./gup-core/src/gup/v6_12/grab.rs:71:9
   4: call<Chosen>
             at ./fuzz/src/subject.rs:9:9
";

    #[test]
    fn the_caller_of_the_primitive_is_named() {
        assert_eq!(function_in(PORT).as_deref(), Some("try_get_folio()"));
    }

    #[test]
    fn of_the_c_the_line_is_named() {
        let c = "   2: gup_fast_pte_range\n   at /k/linux-source-6.12/mm/gup.c:2873:8\n";
        let primitives = PORT.split("   2: ").next().unwrap_or_default();
        let both = format!("{primitives}{c}");
        assert_eq!(function_in(&both).as_deref(), Some("gup_fast_pte_range() mm/gup.c:2873"));
    }

    #[test]
    fn a_stack_without_files_names_nothing() {
        assert_eq!(function_in("   0: main\n   1: <unknown>\n"), None);
    }
}
