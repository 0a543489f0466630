// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup nightly`: fuzz, minimise what is found, write a folder.
//!
//! A finding is on disk before anything else is done with it, so that
//! whatever stops the night, findings are kept. If the disk does not take
//! it, it is printed.

use std::collections::HashSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use clap::Args;
use gup_core::history::{Defect, Kernel};
use serde::Serialize;

use super::engine::{
    Event, Features, Hit, Job, PANIC, Target, USUAL, caught, keep_panics_quiet, spawn,
};
use super::folder::Folder;
use super::progress::Progress;
use super::{
    Failure, Outcome, Verdict, fits, fixed, print_json, quoted, root, subject_option, thousands,
};
use crate::exec::{Executor, Finding};
use crate::repro::Reproducer;
use crate::repro::minimise::minimise;
use crate::repro::report::{Culprit, explain, known, page_table, report, subject_text};
use crate::scenario::{Op, Scenario};
use crate::subject::Chosen;

/// Fuzzes every target and writes what it finds into a folder.
#[derive(Args, Debug)]
#[command(after_help = "\
One finding per oracle and function, however often it fires:
  OUT/summary.json, OUT/summary.md
  OUT/finding-N/reproducer.gup    the minimised scenario, as text
  OUT/finding-N/report.txt        the mail
  OUT/finding-N/artifact          the scenario as found, for cargo fuzz
  OUT/finding-N/log               when and how it was found

Examples:
  cargo gup nightly --kernel v5.15 --minutes 1
  cargo gup nightly --target race --minutes 60
  cargo gup nightly --minutes 480 --out /var/tmp/gup --json")]
pub struct Nightly {
    /// The kernel [default: v5.15 fixed; with the C: its base, fixed]
    #[arg(long)]
    kernel: Option<Kernel>,
    /// How long
    #[arg(long, default_value = "10", value_parser = minutes)]
    minutes: f64,
    /// The folder for findings; those of earlier nights stay
    #[arg(long, default_value = "gup-out")]
    out: PathBuf,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Where the random numbers begin [default: a new one each night]
    #[arg(long)]
    seed: Option<u64>,
    /// Interesting scenarios, kept between nights [default: fuzz/corpus]
    #[arg(long)]
    corpus: Option<PathBuf>,
    /// What to run, in turn [default: sequence, twice, fast_vs_slow and race]
    #[arg(long, value_delimiter = ',')]
    target: Vec<Target>,
    /// Print summary.json instead of text
    #[arg(long)]
    json: bool,
}

fn minutes(text: &str) -> Result<f64, String> {
    let good = |m: &f64| *m > 0.0 && *m <= 1_000_000.0;
    text.parse().ok().filter(good).ok_or_else(|| "expected minutes, such as 0.5 or 480".into())
}

#[derive(Serialize, Default)]
struct Summary {
    kernel: String,
    verdict: &'static str,
    stopped_by: &'static str,
    seed: u64,
    jobs: usize,
    seconds: f64,
    executions: u64,
    ops: u64,
    corpus_loaded: usize,
    corpus_new: usize,
    findings: Vec<Found>,
    problems: Vec<String>,
}

#[derive(Serialize)]
struct Found {
    folder: Option<String>,
    oracle: &'static str,
    function: &'static str,
    target: &'static str,
    expected: String,
    actual: String,
    ops: usize,
    /// Of the thread that found it.
    execution: u64,
    introduced: Option<&'static str>,
    fixed: Option<&'static str>,
    /// The C is known to do this: the base has the defect as released.
    known: bool,
    explained_by: Option<&'static str>,
}

impl Summary {
    /// How it stands, of a night of this length.
    fn line(&self, at: Duration, length: Duration) -> String {
        let rate = self.executions as f64 / at.as_secs_f64().max(0.001);
        format!(
            "{:.0} of {:.0} s, {} executions, {} a second, {} in the corpus, {} findings",
            at.as_secs_f64(),
            length.as_secs_f64(),
            thousands(self.executions),
            thousands(rate as u64),
            thousands((self.corpus_loaded + self.corpus_new) as u64),
            self.findings.len()
        )
    }

    /// The first finding that is not known of the text that ran.
    fn news(&self) -> Option<&Found> {
        self.findings.iter().find(|f| !f.known)
    }
}

impl Nightly {
    pub(super) fn run(self) -> Outcome {
        let kernel = fits(self.kernel.unwrap_or_else(fixed))?;
        let folder = Folder::create(&self.out).map_err(|e| {
            let message = format!("cannot write to {}: {e}", self.out.display());
            Failure::new(message, "cargo gup nightly --out OTHER_FOLDER")
        })?;
        let corpus = match &self.corpus {
            Some(dir) => dir.clone(),
            None => root()?.join("fuzz/corpus"),
        };
        let loaded = load(&corpus)?;
        let summary = Summary {
            kernel: subject_text(kernel),
            seed: self.seed.unwrap_or_else(|| u64::from(fastrand::u32(..))),
            jobs: self.jobs.map_or_else(
                || thread::available_parallelism().map_or(1, usize::from),
                usize::from,
            ),
            corpus_loaded: loaded.len(),
            ..Summary::default()
        };
        let length = Duration::from_secs_f64(self.minutes * 60.0);
        let targets = if self.target.is_empty() { USUAL.to_vec() } else { self.target };
        let night = Night {
            kernel,
            targets,
            start: Instant::now(),
            length,
            folder,
            corpus,
            known: HashSet::new(),
            seen: Features::new(),
            unsaved: Vec::new(),
            corpus_broken: false,
            progress: Progress::new(),
            summary,
        };
        let summary = night.run(loaded)?;
        if self.json {
            print_json(&summary);
        } else {
            print!("{}", markdown(&summary, &self.out));
        }
        if let Some(problem) = summary.problems.first() {
            return Err(Failure::new(problem, "cargo gup nightly --out OTHER_FOLDER"));
        }
        Ok(if summary.news().is_none() { Verdict::Held } else { Verdict::Violated })
    }
}

/// Reads the corpus of earlier nights, and of cargo fuzz.
fn load(dir: &Path) -> Result<Vec<(Target, Scenario)>, Failure> {
    let mut all = Vec::new();
    for target in Target::ALL {
        let dir = dir.join(target.name());
        fs::create_dir_all(&dir).map_err(|e| {
            let message = format!("cannot keep a corpus in {}: {e}", dir.display());
            Failure::new(message, "cargo gup nightly --corpus OTHER_FOLDER")
        })?;
        let files = fs::read_dir(&dir).into_iter().flatten().filter_map(|e| Some(e.ok()?.path()));
        let mut files: Vec<_> = files.collect();
        // The order in which a file system lists them is not the same twice.
        files.sort();
        let read = files.iter().filter_map(|f| fs::read(f).ok());
        all.extend(read.map(|bytes| (target, target.scenario(&bytes))));
    }
    Ok(all)
}

struct Night {
    kernel: Kernel,
    targets: Vec<Target>,
    start: Instant,
    length: Duration,
    folder: Folder,
    corpus: PathBuf,
    known: HashSet<(&'static str, &'static str, Option<Defect>)>,
    seen: Features,
    unsaved: Vec<(Target, Scenario)>,
    corpus_broken: bool,
    progress: Progress,
    summary: Summary,
}

impl Night {
    fn run(mut self, corpus: Vec<(Target, Scenario)>) -> Result<Summary, Failure> {
        keep_panics_quiet();
        let (send, events) = channel();
        let interrupt = send.clone();
        ctrlc::set_handler(move || {
            // The second time, nobody listens: end at once.
            if interrupt.send(Event::Interrupt).is_err() {
                std::process::exit(130);
            }
        })
        .map_err(|e| Failure::new(format!("cannot handle Ctrl-C: {e}"), "cargo gup nightly"))?;
        thread::scope(|scope| {
            for i in 0..self.summary.jobs as u64 {
                let seed = self.summary.seed.wrapping_add(i);
                let (kernel, corpus) = (self.kernel, corpus.clone());
                let targets = self.targets.clone();
                spawn(scope, Job { kernel, seed, corpus, limit: u64::MAX, targets }, send.clone());
            }
            drop(send);
            self.summary.stopped_by = self.listen(events);
        });
        self.progress.finish();
        while !self.unsaved.is_empty() {
            self.save_one();
        }
        self.write_summary();
        Ok(self.summary)
    }

    /// Takes what the workers tell until it is time; they end when this
    /// drops their channel.
    fn listen(&mut self, events: Receiver<Event>) -> &'static str {
        loop {
            let left = self.length.saturating_sub(self.start.elapsed());
            if left.is_zero() {
                return "time";
            }
            // What is new in the corpus is written when there is time.
            let patience = if self.unsaved.is_empty() { left } else { Duration::ZERO };
            match events.recv_timeout(patience.min(Duration::from_secs(1))) {
                Ok(Event::Hit(hit)) => self.found(&hit),
                Ok(Event::New(target, scenario, features)) => {
                    if self.seen.add(&features) {
                        self.unsaved.push((target, scenario));
                    }
                }
                Ok(Event::Progress { executions, ops }) => {
                    self.summary.executions += executions;
                    self.summary.ops += ops;
                }
                Ok(Event::Interrupt) => return "Ctrl-C",
                Err(RecvTimeoutError::Timeout) => self.save_one(),
                Err(RecvTimeoutError::Disconnected) => return "the end of all workers",
            }
            self.progress.show(|at| self.summary.line(at, self.length));
        }
    }

    /// Keeps a scenario for the nights to come.
    fn save_one(&mut self) {
        let Some((target, scenario)) = self.unsaved.pop() else { return };
        if self.corpus_broken {
            return;
        }
        let bytes = scenario.encode();
        let name = format!("{:016x}", fnv1a(&bytes));
        // Not as careful as with findings: half of a scenario is one, too.
        match fs::write(self.corpus.join(target.name()).join(name), &bytes) {
            Ok(()) => self.summary.corpus_new += 1,
            Err(e) => {
                // Once is enough: fuzzing goes on without.
                self.corpus_broken = true;
                self.problem(format!("cannot write to {}: {e}", self.corpus.display()));
            }
        }
    }

    fn problem(&mut self, text: String) {
        self.progress.say(&format!("warning: {text}"));
        self.summary.problems.push(text);
    }

    fn found(&mut self, hit: &Hit) {
        let key = hit.key();
        if !self.known.insert(key) {
            return;
        }
        let raw = self.written_down(&hit.scenario.ops, hit);
        let artifact = hit.scenario.encode();
        let log = self.log(hit);
        let files: [(&str, &[u8]); 3] = [
            ("reproducer.gup", raw.0.as_bytes()),
            ("artifact", &artifact),
            ("log", log.as_bytes()),
        ];
        let saved = self.folder.add_finding(&files);
        let mut exec = Executor::new(self.kernel);
        // It must not become another finding on its way.
        let same = |ops: &[Op], f: &Finding| f.oracle == PANIC || known(ops, f) == key.2;
        let small = minimise(&hit.scenario.ops, |ops| {
            hit.target.run_caught(&mut exec, ops).filter(|f| same(ops, f))
        });
        let (ops, finding) =
            small.unwrap_or_else(|| (hit.scenario.ops.clone(), hit.finding.clone()));
        let hit = Hit { finding, ..hit.clone() };
        let (text, mail) = self.written_down(&ops, &hit);
        let written = saved.and_then(|name| {
            self.folder.write(&format!("{name}/reproducer.gup"), text.as_bytes())?;
            self.folder.write(&format!("{name}/report.txt"), mail.as_bytes())?;
            Ok(name)
        });
        let folder = match written {
            Ok(name) => Some(name),
            Err(e) => {
                let out = self.folder.path("").display().to_string();
                self.problem(format!("cannot write to {out}: {e}; the finding is printed"));
                println!("{text}\n{mail}");
                None
            }
        };
        self.add(folder, &ops, &hit);
        self.write_summary();
    }

    /// The reproducer and the mail.
    fn written_down(&self, ops: &[Op], hit: &Hit) -> (String, String) {
        let of_ours = |message: String| {
            let mut r = Reproducer::from_ops(self.kernel, ops);
            r.title = "the harness panics: a mistake in gup, not in the kernel".into();
            let mail = format!("{}\n{message}\n", r.title);
            r.story = vec![message];
            (r.to_string(), mail)
        };
        if hit.finding.oracle == PANIC {
            return of_ours(hit.finding.actual.clone());
        }
        let written = caught(|| {
            let trace = hit.target.trace(&mut Executor::new(self.kernel), ops);
            let mut r = Reproducer::of(self.kernel, ops, &trace, &hit.finding);
            if Chosen::of_process() == Chosen::C {
                r.story.push(format!("Found in {}.", subject_text(self.kernel)));
            }
            let mail = report(&r).unwrap_or_else(|_| page_table(&trace));
            (r.to_string(), mail)
        });
        written.unwrap_or_else(of_ours)
    }

    fn log(&self, hit: &Hit) -> String {
        let f = &hit.finding;
        format!(
            "kernel:    {}\ntarget:    {}\noracle:    {}\nfunction:  {}\nop:        {}\n\
             expected:  {}\nactual:    {}\nseed:      {}\nexecution: {} of its thread\n\
             seconds:   {:.1}\nscenario as found:\n{:?}",
            subject_text(self.kernel),
            hit.target.name(),
            f.oracle,
            f.function,
            f.op + 1,
            f.expected,
            f.actual,
            self.summary.seed,
            hit.execution,
            self.start.elapsed().as_secs_f64(),
            hit.scenario
        )
    }

    fn add(&mut self, folder: Option<String>, ops: &[Op], hit: &Hit) {
        let f = &hit.finding;
        // It replays on other kernels, where other things may go wrong.
        let explained = caught(|| explain(self.kernel, ops, f)).ok().flatten();
        let culprit = explained.filter(|_| f.oracle != PANIC);
        let defect = match culprit {
            Some(Culprit::Defect(d)) => Some(d.info()),
            _ => None,
        };
        let place = folder.as_deref().unwrap_or("(printed)");
        self.progress.say(&format!(
            "{place}: {} in {}(), {} ops, after {} executions",
            f.oracle,
            f.function,
            ops.len(),
            thousands(hit.execution)
        ));
        self.summary.findings.push(Found {
            folder,
            oracle: f.oracle,
            function: f.function,
            target: hit.target.name(),
            expected: f.expected.clone(),
            actual: f.actual.clone(),
            ops: ops.len(),
            execution: hit.execution,
            introduced: defect.and_then(|d| d.introduced).map(|c| c.id),
            fixed: defect.and_then(|d| d.fixed).map(|c| c.id),
            known: Chosen::of_process() == Chosen::C && defect.is_some(),
            explained_by: match culprit {
                Some(Culprit::Defect(d)) => Some(d.info().slug),
                Some(Culprit::Proposal(p)) => Some(p.info().slug),
                Some(Culprit::Safeguard(s)) => Some(s.slug()),
                None => None,
            },
        });
    }

    fn write_summary(&mut self) {
        let s = &mut self.summary;
        s.seconds = self.start.elapsed().as_secs_f64();
        s.verdict = if s.news().is_none() { "holds" } else { "violates" };
        let json = serde_json::to_string_pretty(s).unwrap_or_default();
        let md = markdown(s, &self.folder.path(""));
        let written = self
            .folder
            .write("summary.json", json.as_bytes())
            .and_then(|()| self.folder.write("summary.md", md.as_bytes()));
        if let Err(e) = written
            && self.summary.problems.is_empty()
        {
            let out = self.folder.path("").display().to_string();
            self.problem(format!("cannot write the summary to {out}: {e}"));
        }
    }
}

fn markdown(s: &Summary, out: &Path) -> String {
    let mut text = format!("# {} on {}\n\n", s.verdict, s.kernel);
    let _ = writeln!(
        text,
        "{} executions, {} ops in {:.0} s on {} threads, seed {}.\nCorpus: {} loaded, {} new.",
        thousands(s.executions),
        thousands(s.ops),
        s.seconds,
        s.jobs,
        s.seed,
        thousands(s.corpus_loaded as u64),
        thousands(s.corpus_new as u64)
    );
    if s.stopped_by == "Ctrl-C" {
        text.push_str("Stopped by Ctrl-C, before its time.\n");
    }
    if s.findings.is_empty() {
        text.push_str("\nNothing was found. That is not a proof that nothing is there.\n");
        return text;
    }
    text.push_str("\n| finding | oracle | function | ops | execution | introduced | fixed |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for f in &s.findings {
        let _ = writeln!(
            text,
            "| {} | {} | {}() | {} | {} | {} | {} |",
            f.folder.as_deref().unwrap_or("(printed)"),
            f.oracle,
            f.function,
            f.ops,
            thousands(f.execution),
            f.introduced.unwrap_or("-"),
            match f.fixed.or(f.explained_by) {
                Some(fix) if f.known => format!("known: {fix}"),
                fix => fix.unwrap_or("not in the table").into(),
            }
        );
    }
    if s.news().is_none() {
        text.push_str("\nAll of it is known of the text. Nothing else was found.\n");
    }
    let first = s.news().or(s.findings.first());
    if let Some(name) = first.and_then(|f| f.folder.as_deref()) {
        let file = out.join(name).join("reproducer.gup");
        let _ = writeln!(text, "\nnext: cargo gup report {}{}", subject_option(), quoted(&file));
    }
    text
}

/// A hash that is the same on every machine and in every release.
fn fnv1a(bytes: &[u8]) -> u64 {
    let step = |h: u64, b: &u8| (h ^ u64::from(*b)).wrapping_mul(0x0100_0000_01b3);
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minutes_are_a_length_of_time() {
        assert_eq!(minutes("0.5"), Ok(0.5));
        for bad in ["0", "-1", "NaN", "inf", "1e9", "x", ""] {
            assert!(minutes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn corpus_names_do_not_depend_on_the_machine() {
        assert_eq!(fnv1a(b"a"), 0xaf63_dc4c_8601_ec8c);
    }
}
