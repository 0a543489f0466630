// SPDX-License-Identifier: GPL-2.0-only
//! The C program of a reproducer in a guest, beside the scenario there.

use super::compare::errno_text;
use super::machine::{GuestRun, ProgramRun};
use super::wire::Answer;

/// What a program prints for an answer of the scenario.
fn expected(answer: &Answer) -> String {
    let number = |n: i64| if n < 0 { format!("-{}", errno_text(-n)) } else { n.to_string() };
    match answer {
        Answer::Returned(n) => number(*n),
        Answer::Done => "0".into(),
        Answer::Failed(e) => number(-i64::from(*e)),
        Answer::Skipped(_) | Answer::Cannot(_) => "not run".into(),
        Answer::Lost(why) => why.clone(),
    }
}

/// In what a program differs from the scenario that it was made of, and
/// `happens`: what the scenario says of the bug, if it says something.
/// `None`: in nothing.
pub fn difference(
    program: &ProgramRun,
    scenario: &GuestRun,
    happens: Option<bool>,
) -> Option<String> {
    if let Some(trouble) = &program.trouble {
        return Some(format!("the guest {}", trouble.name()));
    }
    let said: Vec<&str> =
        program.printed.iter().filter_map(|l| l.split_once(" -> ")).map(|l| l.1).collect();
    for (i, ran) in scenario.ops.iter().enumerate() {
        let (said, expected) = (said.get(i).copied().unwrap_or("nothing"), expected(&ran.answer));
        if said != expected {
            return Some(format!("op {}: {said}, the scenario {expected}", i + 1));
        }
    }
    let wanted = happens.map(i64::from);
    if program.status.is_none_or(|s| s > 1) || wanted.is_some_and(|w| program.status != Some(w)) {
        let status = program.status.map_or("none".into(), |s| s.to_string());
        let last = program.printed.last().map_or("", |l| l);
        return Some(format!("exit status {status}: {last}"));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_kernel::machine::Ran;

    fn scenario() -> GuestRun {
        let answers =
            [Answer::Done, Answer::Skipped("no such handle".into()), Answer::Returned(-12)];
        let ran =
            |answer| Ran { answer, kernel: Vec::new(), pins: (0, 0), slots: Default::default() };
        GuestRun { ops: answers.map(ran).into(), ..GuestRun::default() }
    }

    fn printed(lines: &[&str], status: i64) -> ProgramRun {
        let printed = lines.iter().map(|&l| l.into()).collect();
        ProgramRun { printed, status: Some(status), ..ProgramRun::default() }
    }

    const ALIKE: [&str; 4] = [
        "write m0 0x0 1 -> 0",
        "put_page h0 -> not run",
        "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM -> -ENOMEM",
        "pin_user_pages: -ENOMEM, expected 1",
    ];

    #[test]
    fn a_program_that_does_as_the_scenario_does_not_differ() {
        assert_eq!(difference(&printed(&ALIKE, 1), &scenario(), Some(true)), None);
        assert_eq!(difference(&printed(&ALIKE, 1), &scenario(), None), None);
    }

    #[test]
    fn what_differs_is_named() {
        let of = |lines: &[&str], status, happens| {
            difference(&printed(lines, status), &scenario(), happens).unwrap()
        };
        assert!(of(&ALIKE, 0, Some(true)).starts_with("exit status 0"));
        assert!(of(&ALIKE, 1, Some(false)).starts_with("exit status 1"));
        assert!(of(&ALIKE, 137, None).starts_with("exit status 137"));
        assert_eq!(of(&ALIKE[..2], 1, Some(true)), "op 3: nothing, the scenario -ENOMEM");
        let other = ["mmap m0 -> -EINVAL"];
        assert_eq!(of(&other, 1, Some(true)), "op 1: -EINVAL, the scenario 0");
    }
}
