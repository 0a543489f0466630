// SPDX-License-Identifier: GPL-2.0-only
//! Takes single functions and macros out of kernel text.
//!
//! What decides something for gup.c but lies in a header would otherwise have
//! to be written again in the shim, and then be the shim's and no longer the
//! kernel's. The text goes from the tree to `OUT_DIR`, never into this
//! repository.

use std::fmt::Write;

use crate::read;
use crate::tree::Tree;

/// The files that may define a policy, in the order in which they are asked.
const FILES: [&str; 9] = [
    "mm/internal.h",
    "include/linux/mm.h",
    "include/linux/swap.h",
    "include/linux/mmzone.h",
    "include/linux/mm_inline.h",
    "include/linux/secretmem.h",
    "mm/huge_memory.c",
    "mm/hugetlb.c",
    "mm/pgtable-generic.c",
];

/// Macros: which flags a caller may pass, which folios count their pins.
const MACROS: [&str; 2] = ["INTERNAL_GUP_FLAGS", "folio_has_pincount"];

/// Functions, each after those it calls. A tree need not have them all: what
/// gup.c asks for and nobody defines, the compiler misses.
const FUNCTIONS: [&str; 19] = [
    "is_cow_mapping",
    "vma_is_anonymous",
    // Until v5.18.
    "hpage_pincount_available",
    // Of the trees before 5.18, that of v5.17 asks for it.
    "try_get_page",
    "is_pinnable_page",
    "is_zero_page",
    "is_zero_folio",
    "is_longterm_pinnable_page",
    "folio_is_longterm_pinnable",
    "folio_may_be_lru_cached",
    "folio_expected_ref_count",
    "vm_fault_to_errno",
    "gup_can_follow_protnone",
    "gup_must_unshare",
    // Until v6.11 in mm/huge_memory.c; since then in gup.c itself.
    "can_follow_write_pmd",
    "follow_trans_huge_pmd",
    "page_is_secretmem",
    // Since v6.5; before, the look-up of a PTE could not fail.
    "__pte_offset_map",
    "__pte_offset_map_lock",
];

/// Until v6.11 the walk of hugetlbfs, which the model has since v6.12.
const HUGETLB: [&str; 4] = [
    "huge_pte_offset",
    "record_subpages_vmas",
    "__follow_hugetlb_must_fault",
    "follow_hugetlb_page",
];

/// The header of what was taken out of the tree.
pub fn policy(tree: &Tree) -> Result<String, String> {
    let gup = read(&tree.file("mm/gup.c"))?;
    let texts: Vec<(&str, String)> =
        FILES.iter().map(|&f| Ok((f, read(&tree.file(f))?))).collect::<Result<_, String>>()?;
    let mut out = String::new();
    for name in MACROS {
        if let Some(text) = texts.iter().find_map(|(_, t)| macro_text(t, name)) {
            let _ = writeln!(out, "{text}");
        }
    }
    let hugetlb = if tree.kver() < 518 { &[][..] } else { &HUGETLB };
    let names = FUNCTIONS.iter().chain(hugetlb);
    for name in names.filter(|name| function(&gup, name).is_none()) {
        let found = texts.iter().find_map(|(f, t)| Some((*f, function(t, name)?)));
        if let Some((file, (line, text))) = found {
            // Splats, coverage and debuggers then name the kernel's file.
            let path = tree.file(file);
            let _ = writeln!(out, "#line {line} \"{}\"\n{text}", path.display());
        }
    }
    Ok(out)
}

/// The first `#define` of a macro, continued lines included.
fn macro_text(text: &str, name: &str) -> Option<String> {
    let mut lines = text.lines();
    let is_it = |l: &&str| {
        let rest = l.strip_prefix("#define ").and_then(|r| r.strip_prefix(name));
        rest.is_some_and(|r| !r.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    };
    let first = lines.find(is_it)?;
    let mut out = vec![first];
    while out.last().is_some_and(|l| l.ends_with('\\')) {
        out.push(lines.next()?);
    }
    Some(out.join("\n"))
}

/// The first definition of a function, in kernel style: it starts in the
/// first column, and its closing brace is alone there. Also the line it
/// starts at, from 1.
fn function(text: &str, name: &str) -> Option<(usize, String)> {
    let lines: Vec<&str> = text.lines().collect();
    let call = format!("{name}(");
    let at = (0..lines.len()).find(|&i| is_head(&lines, i, &call))?;
    let first = (0..=at).rev().take_while(|&i| i == at || is_type(lines[i])).last()?;
    let end = (at..lines.len()).find(|&i| lines[i] == "}")?;
    Some((first + 1, lines[first..=end].join("\n")))
}

/// Whether a definition of the function has its name in this line.
fn is_head(lines: &[&str], i: usize, call: &str) -> bool {
    let line = lines[i];
    let word = line
        .find(call)
        .filter(|&n| !line[..n].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
    let starts = line.starts_with(|c: char| c.is_alphabetic() || c == '_');
    // A declaration ends with a semicolon before any brace opens.
    let rest = lines[i..].iter().find(|l| l.ends_with(';') || **l == "{");
    word.is_some() && starts && rest == Some(&"{")
}

/// A line that can be the return type of a function in the next one.
fn is_type(line: &str) -> bool {
    line.starts_with(|c: char| c.is_alphabetic()) && !line.contains([';', '(', '}'])
}
