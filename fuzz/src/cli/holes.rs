// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup loom --holes`: what can be done to the fast path, and no race
//! notices.
//!
//! A mutant is one access of the fast path that is left out, or not ordered,
//! or stale, or torn. Those that no race notices are holes; each must have a
//! reason here.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::{Failure, Outcome, Verdict, root};
use crate::repro::report::wrap;

/// Interleavings of a race that are explored for a mutant, at most: most are
/// noticed soon, and only the others are worth more.
const PASSES: [&str; 2] = ["300", "4000"];

const HELD: &str = "the page is held by now: its head, its kind, its mapping stay as they are";
const HINT: &str = "a hint for reclaim, which no race looks at";
const SAME_BIT: &str =
    "CPUs that set MMF_HAS_PINNED at once set the same bit, and no other changes";
const TABLES: &str = "a table that a race sets was empty before: an old entry of it is none, and \
                      GUP-fast gives up";
const FOLDED: &str = "the P4D is the PGD's entry, read a moment ago, and stays as it is";
const LOOKED: &str = "what an old value leads to is looked at again, behind the full barrier of the \
                      reference";
const AGAIN: &str = "of a second try: with the old head it fails once more, until the head is free";
const READS: &str = "only reads are before it, and what they found is looked at again behind the \
                     barrier after the reference";
const GRAB: &str = "the full barrier of the grab stands between the same accesses";
const EITHER: &str = "the wait for interrupts and the second look at the PMD (70cbc3cc78a9) are each \
                      enough; the twins without both fail";
const LAST: &str = "a put: nothing of the page was touched before it, and no race changes what is \
                    read behind it";
const FREED: &str = "a put: behind it only the checks of a page that is freed look at it, and loom \
                     is not told of those";

/// Functions that give a reference back.
const PUTS: &[&str] = &["gup_put_folio", "put_page_refs", "try_get_folio", "try_grab_folio_fast"];

/// Functions that run, or go on, when the page is held.
const BEHIND_THE_GRAB: &[&str] = &[
    "compound_next",
    "gup_fast_folio_allowed",
    "gup_folio_next",
    "gup_huge_pmd",
    "gup_must_unshare",
    "gup_pte_range",
    "gup_put_folio",
    "hpage_pincount_add",
    "hpage_pincount_sub",
    "put_compound_head",
    "put_page_refs",
    "sanity_check_pinned_pages",
    "try_grab_compound_head",
    "try_grab_folio_fast",
];

/// Holes that are known: functions, how many holes, what is done to which step,
/// and why no race notices.
const KNOWN: &[(&[&str], usize, &str, &str)] = &[
    (BEHIND_THE_GRAB, 17, "compound-head load stale", HELD),
    (BEHIND_THE_GRAB, 17, "compound-head load unordered", HELD),
    (BEHIND_THE_GRAB, 16, "flag-read load stale", HELD),
    (BEHIND_THE_GRAB, 2, "mapping-read load stale", HELD),
    (
        &["gup_fast_pmd_leaf", "gup_fast_pte_range", "gup_huge_pmd", "gup_pte_range"],
        4,
        "flag-set or left out",
        HINT,
    ),
    (&["mm_set_has_pinned_flag"], 2, "mm-flag-set or torn", SAME_BIT),
    (
        &[
            "gup_fast_p4d_range",
            "gup_fast_pgd_range",
            "gup_fast_pmd_range",
            "gup_fast_pud_range",
            "gup_p4d_range",
            "gup_pgd_range",
            "gup_pmd_range",
            "gup_pud_range",
        ],
        8,
        "table-read load unordered",
        TABLES,
    ),
    (&["gup_fast_p4d_range", "gup_p4d_range"], 2, "table-read load stale", FOLDED),
    (&["try_get_compound_head", "try_get_folio"], 4, "compound-head load unordered", LOOKED),
    (&["gup_fast_pte_range", "gup_pte_range"], 2, "pte-read load unordered", LOOKED),
    (&["try_get_compound_head", "try_get_folio"], 2, "compound-head load stale", AGAIN),
    (
        &["try_get_compound_head", "try_get_folio"],
        2,
        "ref-add-unless-zero fence after load left out",
        READS,
    ),
    (&["gup_fast", "lockless_pages_from_mm"], 2, "seq-read fence after load left out", GRAB),
    (&["gup_fast", "lockless_pages_from_mm"], 1, "seq-retry fence left out", GRAB),
    (&["gup_fast"], 1, "irq-save lock left out", EITHER),
    (&["gup_fast_pte_range"], 1, "table-read load stale", EITHER),
    (PUTS, 4, "ref-dec-and-test fence after add left out", FREED),
    (PUTS, 4, "ref-dec-and-test fence left out", LAST),
];

/// What one race said of one mutant.
struct Said {
    /// `v6.12 try_get_folio() grab.rs:58 page_folio: compound-head load stale`
    mutant: String,
    noticed: bool,
}

/// Reads `loom: mutant: MUTANT; noticed after N interleavings of NAME`.
fn said(line: &str) -> Option<Said> {
    let (mutant, how) = line.split_once("loom: mutant: ")?.1.split_once("; ")?;
    Some(Said { mutant: mutant.into(), noticed: how.starts_with("noticed") })
}

/// The row that explains a hole.
fn row_of(mutant: &str) -> Option<usize> {
    let function = mutant.split(' ').nth(1)?.trim_end_matches("()");
    KNOWN.iter().position(|(functions, _, step, _)| {
        functions.contains(&function) && mutant.ends_with(&format!(": {step}"))
    })
}

/// Runs `command`, the loom tests, in passes; `args` name tests.
pub(super) fn run(command: impl Fn() -> Command, args: &[String]) -> Outcome {
    let file = root()?.join("target-loom").join("noticed");
    let next = "cargo gup loom --holes";
    let cannot = |e| Failure::new(format!("cannot write {}: {e}", file.display()), next);
    let mut mutants: BTreeMap<String, bool> = BTreeMap::new();
    for (n, limit) in PASSES.iter().enumerate() {
        let noticed: Vec<&str> =
            mutants.iter().filter(|(_, noticed)| **noticed).map(|(m, _)| m.as_str()).collect();
        println!("pass {} of {}: up to {limit} interleavings", n + 1, PASSES.len());
        fs::create_dir_all(file.with_file_name("")).map_err(cannot)?;
        fs::write(&file, noticed.join("\n")).map_err(cannot)?;
        let mut tests = command();
        tests
            .args(["--skip", "found_", "--skip", "replay::", "--skip", "what_loom_knows::"])
            .args(args);
        tests.env("LOOM_HOLES", &file).env("LOOM_MAX_PERMUTATIONS", limit);
        tests.env("LOOM_CHECKPOINT_INTERVAL", "100").stdout(Stdio::piped());
        let mut tests = tests.spawn().map_err(|e| Failure::new(e, "cargo --version"))?;
        let output = tests.stdout.take().expect("it is piped");
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            if let Some(Said { mutant, noticed }) = said(&line) {
                *mutants.entry(mutant).or_default() |= noticed;
            } else if let Some((_, race)) = line.split_once("loom: ") {
                println!("{race}");
            }
        }
        let status = tests.wait().map_err(|e| Failure::new(e, "cargo --version"))?;
        if !status.success() {
            return Err(Failure::new("the loom tests failed", "cargo gup loom"));
        }
    }
    Ok(print(&mutants, args.is_empty()))
}

/// Prints the function with its line, and below it the way to the step.
fn print_hole(mutant: &str) {
    let words: Vec<&str> = mutant.splitn(4, ' ').collect();
    if let [base, function, line, step] = words[..] {
        println!("{base} {function} {line}");
        print!("{}", wrap(&step.replace('/', " > "), "    ", "        "));
    }
}

/// Prints the holes; `all` says that no race was left out.
fn print(mutants: &BTreeMap<String, bool>, all: bool) -> Verdict {
    let holes: Vec<&str> =
        mutants.iter().filter(|(_, noticed)| !**noticed).map(|(m, _)| m.as_str()).collect();
    let mut rows: BTreeMap<usize, Vec<&str>> = BTreeMap::new();
    let mut unknown = Vec::new();
    for &hole in &holes {
        match row_of(hole) {
            Some(row) => rows.entry(row).or_default().push(hole),
            None => unknown.push(hole),
        }
    }
    for (row, holes) in &rows {
        println!();
        holes.iter().for_each(|hole| print_hole(hole));
        print!("{}", wrap(KNOWN[*row].3, "    = ", "      "));
    }
    if !unknown.is_empty() {
        println!("\nNo reason is known for:");
        unknown.iter().for_each(|hole| print_hole(hole));
    }
    let count = |n| rows.get(&n).map_or(0, Vec::len);
    let others: Vec<usize> = (0..KNOWN.len()).filter(|&n| all && count(n) != KNOWN[n].1).collect();
    if !others.is_empty() {
        println!("\nNot as many as fuzz/src/cli/holes.rs has:");
    }
    for &n in &others {
        let (functions, known, step, _) = KNOWN[n];
        println!("{} of {known}: {step} in {}", count(n), functions.join(", "));
    }
    println!("\n{} mutants, {} holes", mutants.len(), holes.len());
    if unknown.is_empty() && others.is_empty() {
        return Verdict::Held;
    }
    println!("next: a race that notices, or a row in fuzz/src/cli/holes.rs");
    Verdict::Violated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_races_say_is_understood() {
        let line = "test a ... loom: mutant: v6.12 f() a.rs:1 g: ref-add add torn; \
                    noticed after 7 interleavings of a::b";
        let Some(Said { mutant, noticed }) = said(line) else { panic!("it is such a line") };
        assert_eq!((mutant.as_str(), noticed), ("v6.12 f() a.rs:1 g: ref-add add torn", true));
        assert!(!said(&line.replace("noticed after", "not noticed in")).is_none_or(|s| s.noticed));
        assert!(said("loom: a::b on v6.12 fixed: 12 interleavings, all, 0.01 s").is_none());
    }
}
