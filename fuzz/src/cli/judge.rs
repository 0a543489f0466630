// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup judge` and `cargo gup seeds`: what can be said of a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::channel;
use std::thread;

use clap::Args;
use gup_core::history::{Base, Defect, Kernel, Proposal};
use serde::Serialize;

use super::engine::{Event, Hit, Job, Target, USUAL, find_first, keep_panics_quiet, spawn};
use super::test::loom_command;
use super::{Failure, Outcome, Verdict, fits, print_json, quoted_kernel, root, thousands, word};
use crate::exec::Executor;
use crate::oracles::SLUGS;
use crate::repro::minimise::minimise;
use crate::repro::report::kernel_text;
use crate::subject::Chosen;

/// Says of kernels and proposals what fuzzing and loom say of them.
#[derive(Args, Debug)]
#[command(after_help = "\
A change of plain v5.15, such as 'v5.15 with c36c04c2e132', is judged on
'v5.15 fixed' with nothing but that change and the defect it repairs: the
other open defects of v5.15 would drown it. The table names the kernel
that was run.

Examples:
  cargo gup judge
  cargo gup judge --no-loom 'v5.15 with proposal:fast-only-flag'
  cargo gup judge --json --executions 10000000 'v5.15 fixed'")]
pub struct Judge {
    /// Kernels [default: v5.15, its proposals, its fix, `v5.15 fixed`]
    kernels: Vec<String>,
    /// Scenarios to run on each kernel
    #[arg(long, default_value_t = 1_000_000)]
    executions: u64,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Leave the loom tests out
    #[arg(long)]
    no_loom: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Serialize)]
struct Row {
    kernel: String,
    run_on: String,
    verdict: &'static str,
    violates: Vec<String>,
    executions: u64,
    /// None: not run.
    interleavings: Option<u64>,
    loom_failures: Vec<String>,
    /// Ops of the smallest reproducer.
    reproducer_ops: Option<usize>,
}

impl Judge {
    pub(super) fn run(self) -> Outcome {
        let texts = if self.kernels.is_empty() { default_kernels() } else { self.kernels.clone() };
        let kernels: Result<Vec<_>, Failure> = texts
            .into_iter()
            .map(|text| {
                let kernel = text.parse().map_err(|e| Failure::new(e, "cargo gup kernels"))?;
                let kernel = fits(kernel)?;
                Ok((run_on(&text, kernel), text))
            })
            .collect();
        let kernels = kernels?;
        keep_panics_quiet();
        let mut rows: Vec<Row> = Vec::new();
        for (kernel, text) in kernels {
            // Two texts may name one kernel, as the fix and `fixed` do.
            let same = rows.iter().find(|r| r.run_on == kernel_text(kernel)).cloned();
            rows.push(match same {
                Some(row) => Row { kernel: text, ..row },
                None => {
                    eprintln!("judging {text} ...");
                    self.judge(text, kernel)?
                }
            });
        }
        if self.json {
            print_json(&rows);
        } else {
            print_table(&rows, self.no_loom);
        }
        let held = rows.iter().all(|r| r.violates.is_empty());
        Ok(if held { Verdict::Held } else { Verdict::Violated })
    }

    fn judge(&self, text: String, kernel: Kernel) -> Result<Row, Failure> {
        let (hits, executions) = fuzz(kernel, self.seed, self.executions);
        let sizes = hits.values().filter_map(|hit| {
            let mut exec = Executor::new(kernel);
            minimise(&hit.scenario.ops, |ops| hit.target.run_caught(&mut exec, ops))
        });
        let reproducer_ops = sizes.map(|(ops, _)| ops.len()).min();
        let loom = if self.no_loom { None } else { Some(loom(kernel)?) };
        let (interleavings, loom_failures) = loom.map_or((None, vec![]), |l| (Some(l.0), l.1));
        let mut violates: Vec<String> = hits.into_keys().map(String::from).collect();
        violates.extend(loom_failures.iter().map(|name| format!("loom:{name}")));
        let verdict = if violates.is_empty() { "holds" } else { "violates" };
        let run_on = kernel_text(kernel);
        Ok(Row {
            kernel: text,
            run_on,
            verdict,
            violates,
            executions,
            interleavings,
            loom_failures,
            reproducer_ops,
        })
    }
}

/// The seed's history: the bug, what was proposed, what was merged.
fn default_kernels() -> Vec<String> {
    if let Some(base) = Chosen::of_process().base() {
        return vec![kernel_text(Kernel::fixed(base))];
    }
    let base = Base::V5_15.name();
    let mut all = vec![base.to_string()];
    let proposals = Proposal::ALL.iter();
    all.extend(proposals.map(|p| format!("{base} with proposal:{}", p.info().slug)));
    all.push(format!("{base} {}", Defect::SlowGrabIsFast.info().switch(false)));
    all.push(format!("{base} fixed"));
    all
}

/// The kernel on which a change of a released base shows by itself.
fn run_on(text: &str, kernel: Kernel) -> Kernel {
    let released = Kernel::released(kernel.base());
    if kernel == released || text.split_ascii_whitespace().any(|w| w == "fixed") {
        return kernel;
    }
    let added = kernel.defects().filter(|&d| !released.has(d));
    let repaired = kernel.proposals().map(|p| p.info().repairs).filter(|&d| kernel.has(d));
    let fixed = Kernel::fixed(kernel.base());
    let alone = added.chain(repaired).fold(fixed, Kernel::with_defect);
    kernel.proposals().fold(alone, Kernel::with_proposal)
}

/// The first hit of each oracle, and the scenarios run.
fn fuzz(kernel: Kernel, seed: u64, limit: u64) -> (BTreeMap<&'static str, Hit>, u64) {
    let jobs = thread::available_parallelism().map_or(1, usize::from) as u64;
    let (send, events) = channel();
    let (mut hits, mut total) = (BTreeMap::new(), 0);
    thread::scope(|scope| {
        for i in 0..jobs {
            let limit = limit / jobs + u64::from(i < limit % jobs);
            let (seed, corpus, targets) = (seed.wrapping_add(i), Vec::new(), USUAL.to_vec());
            let job = Job { kernel, seed, corpus, limit, targets };
            spawn(scope, job, send.clone());
        }
        drop(send);
        for event in events {
            match event {
                Event::Hit(hit) => drop(hits.entry(hit.finding.oracle).or_insert(*hit)),
                Event::Progress { executions, .. } => total += executions,
                Event::New(..) | Event::Interrupt => {}
            }
        }
    });
    (hits, total)
}

/// Runs the loom tests on a kernel: interleavings explored, tests failed.
fn loom(kernel: Kernel) -> Result<(u64, Vec<String>), Failure> {
    let mut command = loom_command(&root()?);
    command.env("GUP_KERNEL", kernel.to_string());
    let next = format!("GUP_KERNEL={} cargo gup loom", quoted_kernel(kernel));
    let output = command.output().map_err(|e| Failure::new(e, "cargo --version"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let (count, failures) = loom_results(&text);
    if count == 0 || (failures.is_empty() && !output.status.success()) {
        let tail = String::from_utf8_lossy(&output.stderr);
        let tail: Vec<_> = tail.lines().rev().take(5).collect();
        let tail: Vec<_> = tail.into_iter().rev().collect();
        return Err(Failure::new(
            format!("the loom tests did not run:\n{}", tail.join("\n")),
            next,
        ));
    }
    Ok((count, failures))
}

/// Reads `loom: NAME on KERNEL: N interleavings, ...`. Tests that are there to fail on
/// kernels of their own say so, and tell nothing of this one.
fn loom_results(output: &str) -> (u64, Vec<String>) {
    let mut counts: BTreeMap<&str, u64> = BTreeMap::new();
    for line in output.lines().filter_map(|l| Some(l.split_once("loom: ")?.1)) {
        let Some((name, rest)) = line.split_once(": ") else { continue };
        if rest.starts_with("found ") {
            counts.remove(name);
        } else if let Some((n, _)) = rest.split_once(" interleavings") {
            *counts.entry(name).or_default() += n.parse().unwrap_or(0);
        }
    }
    // libtest lists the failures of a binary at its end.
    let mut failures = BTreeSet::new();
    let mut in_list = false;
    for line in output.lines() {
        match line.strip_prefix("    ") {
            Some(name) if in_list && !name.contains(' ') => drop(failures.insert(name.into())),
            _ => in_list = line == "failures:" || (in_list && line.is_empty()),
        }
    }
    (counts.values().sum(), failures.into_iter().collect())
}

fn print_table(rows: &[Row], no_loom: bool) {
    println!();
    for r in rows {
        println!("{}", r.kernel);
        if r.run_on != r.kernel {
            println!("    run on:        {}", r.run_on);
        }
        let violated = r.violates.join(", ");
        println!("    {}", format!("{} {violated}", r.verdict).trim_end());
        println!("    executions:    {}", thousands(r.executions));
        match r.interleavings {
            Some(n) => println!("    interleavings: {}", thousands(n)),
            None => println!("    interleavings: none, --no-loom"),
        }
        if let Some(ops) = r.reproducer_ops {
            println!("    reproducer:    {ops} ops");
        }
        println!();
    }
    println!("\"holds\" means that nothing was found by what was run, not that it is right.");
    if no_loom {
        println!("Races were looked at by windows alone: run without --no-loom.");
    }
    if let Some(bad) = rows.iter().find(|r| r.reproducer_ops.is_some()) {
        println!("next: cargo gup nightly --minutes 1 --kernel {}", word(&bad.run_on));
    }
}

/// Prints after how many executions a finding comes up, from an empty corpus.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo gup seeds --kernel v5.15 --oracle errno
  cargo gup seeds --kernel 'v5.15 fixed without 1c563432588d' --limit 5000000
  cargo gup seeds --target race --kernel 'v5.15 fixed without c24d37322548'")]
pub struct Seeds {
    /// The kernel
    #[arg(long, default_value = "v5.15")]
    kernel: Kernel,
    /// Count only findings of this oracle
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(SLUGS))]
    oracle: Option<String>,
    /// The target
    #[arg(long, default_value = "sequence")]
    target: Target,
    /// How many seeds, from 1
    #[arg(long, default_value_t = 30)]
    seeds: u64,
    /// Give up after so many executions
    #[arg(long, default_value_t = 1_000_000)]
    limit: u64,
}

impl Seeds {
    /// Whether the fixed kernel shows the finding, too, so that it says nothing
    /// of this one.
    fn on_fixed_too(&self, hit: &Hit) -> bool {
        let fixed = Kernel::fixed(self.kernel.base());
        let shown = || {
            let mut exec = Executor::new(fixed);
            self.target.run_caught(&mut exec, &hit.scenario.ops)
        };
        self.kernel != fixed && shown().is_some_and(|f| f.key() == hit.finding.key())
    }

    pub(super) fn run(self) -> Outcome {
        keep_panics_quiet();
        let wanted = self.oracle.as_deref();
        let mut found = Vec::new();
        for seed in 1..=self.seeds {
            let hit = find_first(self.kernel, seed, self.target, self.limit, |hit| {
                wanted.is_none_or(|oracle| oracle == hit.finding.oracle) && !self.on_fixed_too(hit)
            });
            match &hit {
                Some(Hit { execution, finding: f, .. }) => println!(
                    "seed {seed:>3}: {:>9}  {} in {}()",
                    thousands(*execution),
                    f.oracle,
                    f.function
                ),
                None => println!("seed {seed:>3}: none in {}", thousands(self.limit)),
            }
            found.extend(hit.map(|h| h.execution));
        }
        found.sort_unstable();
        if let (Some(&most), Some(&middle)) = (found.last(), found.get(found.len() / 2)) {
            println!("median {}, most {}", thousands(middle), thousands(most));
        }
        println!("{} of {} seeds found it", found.len(), self.seeds);
        Ok(if found.is_empty() { Verdict::Held } else { Verdict::Violated })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runs(text: &str) -> String {
        kernel_text(run_on(text, text.parse().unwrap()))
    }

    #[test]
    fn a_change_is_judged_by_itself() {
        for (asked, run) in [
            ("v5.15", "v5.15"),
            ("v5.15 fixed", "v5.15 fixed"),
            ("v5.15 with c36c04c2e132", "v5.15 fixed"),
            ("v5.15 without c24d37322548", "v5.15 fixed without c24d37322548"),
            ("v5.15 fixed without c36c04c2e132", "v5.15 fixed without c36c04c2e132"),
            (
                "v5.15 with proposal:fast-only-flag",
                "v5.15 fixed without c36c04c2e132 with proposal:fast-only-flag",
            ),
        ] {
            assert_eq!(runs(asked), run);
        }
    }

    #[test]
    fn the_output_of_the_loom_tests_is_understood() {
        let output = "\
running 3 tests
test holds ... loom: a::holds on v5.15: 12 interleavings, all, 0.01 s
ok
test found_without ... loom: a::found_without on v5.15 fixed without c24d37322548: 5 interleavings, stopped, all, 0.01 s
loom: a::found_without on v5.15 fixed without c24d37322548: found accounting of page 1
ok
test bad ... loom: a::bad on v5.15: 7 interleavings, stopped, all, 0.01 s
FAILED

failures:

failures:
    bad

test result: FAILED. 2 passed; 1 failed; 0 ignored
";
        assert_eq!(loom_results(output), (19, vec!["bad".to_string()]));
    }
}
