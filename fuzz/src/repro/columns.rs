// SPDX-License-Identifier: GPL-2.0-only
//! Where two subjects part, as two columns of steps.

use std::fmt::Write;

use super::Reproducer;
use crate::exec::against::{Divergence, Numbered};

/// Steps shown before the first that differs.
const BEFORE: usize = 6;
/// Steps shown from there on.
const AFTER: usize = 4;

/// The scenario, what differs, and the steps around it: ours, theirs, and in
/// which function and line of the C theirs was taken.
pub fn columns(
    scenario: &Reproducer,
    d: &Divergence,
    ours: &[Numbered],
    theirs: &[Numbered],
    place: impl Fn(usize) -> String,
) -> String {
    let mut out = format!("{scenario}\n");
    let f = &d.finding;
    let _ = writeln!(out, "differs in op {}, {}():", f.op + 1, f.function);
    let _ = writeln!(out, "  the C:    {}\n  the port: {}\n", f.expected, f.actual);
    let Some(at) = d.step else { return out };
    let _ = writeln!(out, "   step {:<26}{:<26}line of the C", "the port", "the C");
    let end = (at + AFTER).min(ours.len().max(theirs.len()));
    for i in at.saturating_sub(BEFORE)..end {
        let text = |steps: &[Numbered]| steps.get(i).map_or("-".into(), |s| s.1.to_string());
        let (a, b) = (text(ours), text(theirs));
        let mark = if a == b { ' ' } else { '!' };
        let (number, place) = theirs.get(i).map_or((i, String::new()), |s| (s.0, place(s.0)));
        let line = format!("{mark}{:>6} {a:<26}{b:<26}{place}", number + 1);
        let _ = writeln!(out, "{}", line.trim_end());
    }
    out
}

#[cfg(test)]
mod tests {
    use gup_core::history::{Base, Kernel};
    use gup_core::step::{Step, StepKind};

    use super::*;
    use crate::exec::Finding;

    #[test]
    fn the_first_step_that_differs_is_marked() {
        let step = |n, object| (n, Step { kind: StepKind::RefRead, object, arg: 0 });
        let (ours, theirs) = ([step(0, 1), step(1, 2)], [step(0, 1), step(1, 3)]);
        let finding = Finding {
            oracle: "against",
            function: "pin_user_pages",
            op: 0,
            page: None,
            expected: theirs[1].1.to_string(),
            actual: ours[1].1.to_string(),
        };
        let r = Reproducer::from_ops(Kernel::fixed(Base::V6_12), &[]);
        let d = Divergence { finding, step: Some(1) };
        let text = columns(&r, &d, &ours, &theirs, |i| format!("f() gup.c:{i}"));
        assert!(text.contains("      1 ref-read 1                ref-read 1                f()"));
        assert!(text.contains("!     2 ref-read 2                ref-read 3                f()"));
    }
}
