// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup against-c --coverage`: what of the C is run.
//!
//! A build for gcov, in a target folder of its own, runs the tests against
//! the C and then random scenarios. What they do not come to must have a
//! reason here: a line more than that is a violation. A function that gcc
//! inlines has the branches of all its copies.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use serde::Deserialize;

use super::{Failure, Outcome, Verdict, root};
use crate::repro::report::wrap;

/// The lines of the pin logic that must be run, per cent.
const ENOUGH: f64 = 95.0;

/// Functions that are no pin logic, or not modelled, for which port_map has the
/// reasons; and one that only older texts call.
const LEFT_OUT: &[&str] = &[
    "__mm_populate",
    "check_and_migrate_movable_folios",
    "fault_in_readable",
    "fault_in_safe_writeable",
    "fault_in_subpage_writeable",
    "fault_in_writeable",
    "faultin_page_range",
    "fixup_user_fault",
    "get_dump_page",
    "get_gate_page",
    "gup_fast_devmap_leaf",
    "gup_fast_devmap_pmd_leaf",
    "gup_fast_devmap_pud_leaf",
    "gup_fast_pgd_leaf",
    "gup_fast_undo_dev_pagemap",
    "huge_pte_offset",
    "memfd_pin_folios",
    "populate_vma_page_range",
    "vma_permits_fault",
];

/// What no run comes to in 6.12.117: the function, how many lines, and why.
const NEVER_RUN: &[(&str, usize, &str)] = &[
    ("__get_user_pages", 7, "FOLL_MADV_POPULATE is said by faultin_page_range() alone"),
    ("__get_user_pages", 1, "BUG(): faultin_page() has no other errors"),
    ("__get_user_pages_locked", 1, "a WARN: no page and no error, but for FOLL_NOWAIT, never is"),
    ("__pte_offset_map", 5, TABLE_STAYS),
    ("__pte_offset_map_lock", 2, TABLE_STAYS),
    ("can_follow_write_pmd", 1, "no huge page of a file is read-only where stores are allowed"),
    ("can_follow_write_pmd", 1, MAY_WRITE),
    ("can_follow_write_pte", 1, MAY_WRITE),
    ("check_vma_flags", 1, "every VMA has VM_MAYREAD"),
    ("collect_longterm_unpinnable_folios", 1, NO_DEVICE),
    ("faultin_page", 1, "BUG(): VM_FAULT_FALLBACK is not seen outside of the handler"),
    ("folio_expected_ref_count", 1, "a WARN: no page of user memory has a type but hugetlb's"),
    ("folio_is_longterm_pinnable", 1, "the zero page is replaced before it is pinned for long"),
    ("folio_is_longterm_pinnable", 1, NO_DEVICE),
    ("follow_huge_pmd", 1, "there is no huge zero page"),
    ("follow_page_pte", 1, TABLE_STAYS),
    ("follow_pud_mask", 1, "a PUD is bad only if it is huge"),
    ("gup_fast_fallback", 1, "access_ok() asks what TASK_SIZE_MAX has answered"),
    ("gup_fast_folio_allowed", 1, "a WARN: no slab page is mapped"),
    ("gup_fast_pmd_leaf", 2, "no THP is of a file"),
    ("gup_fast_pte_range", 1, "the PMD that it looks at is its own copy"),
    ("gup_fast_pud_leaf", 2, "no THP is of a file"),
    ("migrate_longterm_unpinnable_folios", 5, NO_DEVICE),
    ("pofs_get_folio", 1, "only memfd_pin_folios() has folios"),
    ("pofs_unpin", 1, "only memfd_pin_folios() has folios"),
    ("try_grab_folio", 1, NO_DEVICE),
    ("try_grab_folio_fast", 1, "a WARN: every caller says FOLL_GET or FOLL_PIN"),
    ("try_grab_folio_fast", 1, NO_DEVICE),
    ("try_grab_folio_fast", 1, "the entry of the zero page is special, and so refused before"),
    ("vm_fault_to_errno", 1, "no page is poisoned"),
    ("vm_fault_to_errno", 1, "VM_FAULT_FALLBACK is not seen outside of the handler"),
];

const MAY_WRITE: &str = "check_vma_flags() has asked for VM_WRITE or VM_MAYWRITE";
const NO_DEVICE: &str = "no device has memory of its own";
const TABLE_STAYS: &str =
    "while mmap_lock is held a table goes only to the THP of a file, and there is none";

/// What gcov says, as far as it is of interest.
#[derive(Deserialize)]
struct Gcov {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    file: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    line_number: usize,
    count: u64,
    branches: Vec<Branch>,
}

#[derive(Deserialize)]
struct Branch {
    count: u64,
    /// The way that a panic of the model takes through the C.
    throw: bool,
}

/// How much of something was run.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
struct Run {
    of: usize,
    run: usize,
}

impl Run {
    fn add(&mut self, run: bool) {
        self.of += 1;
        self.run += usize::from(run);
    }
    fn percent(self) -> f64 {
        100.0 * self.run as f64 / self.of.max(1) as f64
    }
}

#[derive(Default, PartialEq, Eq, Debug)]
struct Function {
    lines: Run,
    branches: Run,
    /// The lines that were not run.
    missed: Vec<usize>,
}

/// Builds, runs, and tells.
pub(super) fn measure(ops: u64) -> Outcome {
    let root = root()?;
    // What earlier runs counted.
    counts(&root).iter().for_each(|file| drop(fs::remove_file(file)));
    let package = ["--release", "--package", "gup-fuzz", "--features", "real-gup"];
    let mut tests = cargo(&root, "test");
    tests.args(package).args(["--test", "against_c"]);
    let mut random = cargo(&root, "run");
    random.args(package).args(["--bin", "gup", "--", "against-c", "--ops", &ops.to_string()]);
    for mut command in [tests, random] {
        let next = "cargo gup against-c, which tells more of what went wrong";
        if !command.status().map_err(|e| cannot_start("cargo", &e))?.success() {
            return Err(Failure::new("a run for gcov failed", next));
        }
    }
    let mut gcov = Command::new("gcov");
    gcov.args(["--json-format", "--branch-probabilities", "--stdout"]).args(counts(&root));
    let output = gcov.output().map_err(|e| cannot_start("gcov", &e))?;
    let told: Gcov = serde_json::from_slice(&output.stdout).map_err(|e| {
        Failure::new(format!("what gcov says is not understood: {e}"), "gcov --version")
    })?;
    let mut functions = BTreeMap::new();
    for file in told.files.iter().filter(|f| Path::new(&f.file).is_absolute()) {
        let text = fs::read_to_string(&file.file).map_err(|e| {
            Failure::new(format!("{}: {e}", file.file), "rm -r target/coverage, and again")
        })?;
        by_function(file, &text, &mut functions);
    }
    let (text, verdict) = table(&functions, NEVER_RUN);
    print!("{text}");
    Ok(verdict)
}

fn cannot_start(what: &str, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start {what}: {e}"), format!("{what} --version"))
}

fn cargo(root: &Path, verb: &str) -> Command {
    let mut c = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.current_dir(root).args([verb, "--quiet", "--target-dir", "target/coverage"]);
    c.env("GUP_C_COVERAGE", "1").env("RUSTFLAGS", "-Clink-arg=--coverage");
    c
}

/// The files that a build for gcov counts in.
fn counts(root: &Path) -> Vec<PathBuf> {
    let entries = |dir: PathBuf| fs::read_dir(dir).into_iter().flatten().flatten();
    let builds = entries(root.join("target/coverage/release/build"));
    let files = builds.flat_map(|build| entries(build.path().join("out")));
    let is_it = |file: &PathBuf| file.to_string_lossy().ends_with("-gup.gcda");
    files.map(|file| file.path()).filter(is_it).collect()
}

/// Counts the lines of a file for the functions that they stand in; an
/// inlined one has no name in what gcov says.
fn by_function(file: &File, text: &str, all: &mut BTreeMap<String, Function>) {
    let names = names(text);
    let mut lines: BTreeMap<usize, (bool, Run)> = BTreeMap::new();
    for line in &file.lines {
        let (run, branches) = lines.entry(line.line_number).or_default();
        *run |= line.count > 0;
        line.branches.iter().filter(|b| !b.throw).for_each(|b| branches.add(b.count > 0));
    }
    for (number, (run, branches)) in lines {
        let Some((_, name)) = names.range(..=number).next_back() else { continue };
        let function = all.entry(name.clone()).or_default();
        function.lines.add(run);
        function.branches.of += branches.of;
        function.branches.run += branches.run;
        if !run {
            function.missed.push(number);
        }
    }
}

/// The functions of a file in kernel style, by the line they begin in.
fn names(text: &str) -> BTreeMap<usize, String> {
    let mut names = BTreeMap::new();
    let mut head: Option<(usize, &str)> = None;
    for (i, line) in text.lines().enumerate() {
        let word = |c: char| c.is_alphanumeric() || c == '_';
        if line == "{"
            && let Some((at, before)) = head
        {
            let name = before.rsplit(|c| !word(c)).next().unwrap_or_default();
            names.insert(at, name.to_string());
        } else if line.starts_with(|c: char| c.is_alphabetic() || c == '_')
            && let Some((before, _)) = line.split_once('(')
        {
            head = Some((i + 1, before));
        }
    }
    names
}

/// All functions, what was not run of them and why; violated if a line has no
/// reason, or if they are too few in all.
fn table(all: &BTreeMap<String, Function>, reasons: &[(&str, usize, &str)]) -> (String, Verdict) {
    let mut out = String::from("\n     lines    branches  function\n");
    let (mut lines, mut branches) = (Run::default(), Run::default());
    let mut verdict = Verdict::Held;
    for (name, f) in all.iter().filter(|(name, _)| !LEFT_OUT.contains(&name.as_str())) {
        let cells = |r: Run| format!("{:>4}/{:<4}", r.run, r.of);
        let _ = writeln!(out, " {}   {}  {name}", cells(f.lines), cells(f.branches));
        for (total, part) in [(&mut lines, f.lines), (&mut branches, f.branches)] {
            total.of += part.of;
            total.run += part.run;
        }
        let known = || reasons.iter().filter(|(function, _, _)| function == name);
        if !f.missed.is_empty() {
            known().for_each(|(_, _, why)| out += &wrap(why, "      ", "      "));
        }
        if f.missed.len() > known().map(|(_, lines, _)| lines).sum() {
            let numbers: Vec<_> = f.missed.iter().map(ToString::to_string).collect();
            let text = format!("NO REASON for all of lines {}", numbers.join(", "));
            out += &wrap(&text, "      ", "      ");
            verdict = Verdict::Violated;
        }
    }
    if lines.percent() < ENOUGH {
        verdict = Verdict::Violated;
    }
    for (what, r) in [("lines", lines), ("branches", branches)] {
        let _ = writeln!(out, "{} of {} {what}: {:.1} %", r.run, r.of, r.percent());
    }
    (out, verdict)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
static int first(int a,
		 int b)
{
	if (a)
		return b;
	return 0;
}

int second(void)
{
	return 1;
}
";

    fn measured(counts: [u64; 4]) -> BTreeMap<String, Function> {
        let lines = [4, 5, 6, 11].into_iter().zip(counts);
        let line = |(line_number, count)| {
            let branches =
                if line_number == 4 { vec![(1, false), (0, false), (0, true)] } else { vec![] };
            let branches = branches.into_iter().map(|(count, throw)| Branch { count, throw });
            let branches = branches.collect();
            Line { line_number, count, branches }
        };
        let file = File { file: "/gup.c".into(), lines: lines.map(line).collect() };
        let mut all = BTreeMap::new();
        by_function(&file, TEXT, &mut all);
        all
    }

    #[test]
    fn lines_belong_to_the_function_they_stand_in() {
        let all = measured([1, 0, 1, 1]);
        assert_eq!(all.keys().collect::<Vec<_>>(), ["first", "second"]);
        assert_eq!(all["first"].lines, Run { of: 3, run: 2 });
        assert_eq!(all["first"].branches, Run { of: 2, run: 1 });
        assert_eq!(all["first"].missed, [5]);
    }

    #[test]
    fn a_line_without_a_reason_is_a_violation() {
        let many = |all: &mut BTreeMap<String, Function>| {
            let lines = Run { of: 100, run: 100 };
            all.insert("third".into(), Function { lines, ..Function::default() });
        };
        let mut all = measured([1, 0, 1, 1]);
        many(&mut all);
        let (text, verdict) = table(&all, &[]);
        assert_eq!(verdict, Verdict::Violated);
        assert!(text.contains("NO REASON for all of lines 5\n"), "{text}");
        let (text, verdict) = table(&all, &[("first", 1, "nobody says so")]);
        assert_eq!(verdict, Verdict::Held, "{text}");
        assert!(text.contains("nobody says so") && text.contains("103 of 104 lines"), "{text}");
        // One line more.
        let mut all = measured([1, 0, 0, 1]);
        many(&mut all);
        assert_eq!(table(&all, &[("first", 1, "nobody says so")]).1, Verdict::Violated);
    }

    #[test]
    fn too_few_lines_in_all_are_a_violation() {
        let reasons = [("first", 3, "nobody says so")];
        assert_eq!(table(&measured([0, 0, 0, 1]), &reasons).1, Verdict::Violated);
        assert_eq!(table(&measured([1, 1, 1, 1]), &reasons).1, Verdict::Held);
    }
}
