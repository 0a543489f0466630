// SPDX-License-Identifier: GPL-2.0-only
//! The fuzzing engine of `cargo gup`: no nightly toolchain, no C++.
//!
//! Half of the scenarios are drawn by the [`Generator`], half are changed
//! entries of a corpus, which keeps what showed a new feature. A [`Fuzzer`]
//! is single-threaded and the same for the same seed, so that "found after
//! so many executions" can be repeated; [`spawn`] runs one on each core.

use std::cell::RefCell;
use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::Sender;
use std::thread::{self, Scope};
use std::time::{Duration, Instant};

use clap::ValueEnum;
use fastrand::Rng;
use gup_core::history::{Defect, Kernel};

use crate::exec::{Executor, Finding, Raced, Trace};
use crate::generators::Generator;
use crate::repro::Reproducer;
use crate::repro::report::known;
use crate::scenario::{MAX_OPS, Op, Scenario};
use crate::targets;

/// How a scenario is run and judged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Target {
    /// One op after the other.
    Sequence,
    /// And each fast call is compared with the slow one.
    FastVsSlow,
    /// Ops in the middle of ops.
    Race,
}

impl Target {
    /// Every target that runs scenarios.
    pub const ALL: [Target; 3] = [Target::Sequence, Target::FastVsSlow, Target::Race];

    /// The name of the fuzz target, and of its corpus folder.
    pub fn name(self) -> &'static str {
        match self {
            Target::Sequence => "sequence",
            Target::FastVsSlow => "fast_vs_slow",
            Target::Race => "race",
        }
    }

    /// Reads its input: only in `race` there are windows.
    pub fn scenario(self, bytes: &[u8]) -> Scenario {
        let mut s = Scenario::decode(bytes);
        if self != Target::Race {
            s.ops.retain(|op| op.at.is_none());
        }
        s
    }

    /// Runs a scenario.
    pub fn run(self, exec: &mut Executor, ops: &[Op]) -> Option<Finding> {
        match self {
            Target::Sequence | Target::Race => exec.run(ops),
            Target::FastVsSlow => exec.fast_vs_slow(ops),
        }
    }

    /// Runs a scenario and keeps a record.
    pub fn trace(self, exec: &mut Executor, ops: &[Op]) -> Trace {
        match self {
            Target::Sequence | Target::Race => exec.trace(ops),
            Target::FastVsSlow => exec.trace_fast_vs_slow(ops),
        }
    }

    /// [`Target::run`] in which a panic of ours is a finding, too: it would
    /// otherwise end a night.
    pub fn run_caught(self, exec: &mut Executor, ops: &[Op]) -> Option<Finding> {
        let kernel = exec.kernel();
        caught(|| self.run(exec, ops)).unwrap_or_else(|message| {
            *exec = Executor::new(kernel);
            Some(our_panic(message, ops.len()))
        })
    }
}

/// The oracle's place in findings that are mistakes of the harness.
pub const PANIC: &str = "panic";

fn our_panic(message: String, op: usize) -> Finding {
    let expected = "the harness does not panic".into();
    Finding { oracle: PANIC, function: "harness", op, page: None, expected, actual: message }
}

thread_local! {
    /// Inside of [`caught`]: the message of the panic, once there is one.
    static CAUGHT: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// From now on, panics inside of [`caught`] are kept for findings instead of
/// being printed each.
pub fn keep_panics_quiet() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        CAUGHT.with_borrow_mut(|message| match message {
            Some(message) => {
                let payload = info.payload();
                let text = payload.downcast_ref::<String>().map(String::as_str);
                let what = text.or_else(|| payload.downcast_ref().copied()).unwrap_or("panic");
                let place = info.location().map(|l| format!(" at {}:{}", l.file(), l.line()));
                *message = format!("{what}{}", place.unwrap_or_default()).replace('\n', " ");
            }
            None => print(info),
        });
    }));
}

/// Runs `f`; a panic is an error with its message.
pub fn caught<T>(f: impl FnOnce() -> T) -> Result<T, String> {
    CAUGHT.set(Some("panic".into()));
    let result = catch_unwind(AssertUnwindSafe(f));
    let message = CAUGHT.take().unwrap_or_default();
    result.map_err(|_| message)
}

/// A finding with the scenario that shows it.
#[derive(Clone, Debug)]
pub struct Hit {
    /// What was found.
    pub finding: Finding,
    /// How the scenario is to be run.
    pub target: Target,
    /// The scenario, as it was drawn.
    pub scenario: Scenario,
    /// The execution it came up in, from 1.
    pub execution: u64,
}

impl Hit {
    /// Hits with the same key are one finding. What the C is known to do is
    /// one wherever it shows, and does not hide what else it does there.
    pub fn key(&self) -> (&'static str, &'static str, Option<Defect>) {
        let (oracle, function) = self.finding.key();
        if oracle != PANIC
            && let Some(defect) = known(&self.scenario.ops, &self.finding)
        {
            return (oracle, "", Some(defect));
        }
        (oracle, function, None)
    }
}

/// Features seen. They are folded into a small table, so that a corpus has an
/// end: without it every tenth scenario is new in some way, for ever.
#[derive(Clone, Debug)]
pub struct Features(Vec<bool>);

/// The most entries of a corpus.
const FEATURES: usize = 1 << 13;

impl Features {
    /// None yet.
    pub fn new() -> Self {
        Features(vec![false; FEATURES])
    }
    /// Adds some; says whether any is new.
    pub fn add(&mut self, features: &[u32]) -> bool {
        let mut new = false;
        for &f in features {
            new |= !std::mem::replace(&mut self.0[f as usize % FEATURES], true);
        }
        new
    }
}

impl Default for Features {
    fn default() -> Self {
        Self::new()
    }
}

/// Draws scenarios, runs them, keeps a corpus.
#[derive(Debug)]
pub struct Fuzzer {
    exec: Executor,
    generator: Generator,
    rng: Rng,
    corpus: Vec<Scenario>,
    seen: Features,
    features: Vec<u32>,
    scenario: Scenario,
    /// The last scenario of target `race`, what its run showed of the ops in it
    /// that have windows, and how often it is yet to run with other windows.
    aimed: (Scenario, Vec<Raced>, u8),
    executions: u64,
}

/// How often a scenario runs with other windows.
const AIMS: u8 = 7;

impl Fuzzer {
    /// A fuzzer with an empty corpus.
    pub fn new(kernel: Kernel, seed: u64) -> Self {
        Fuzzer {
            exec: Executor::new(kernel),
            generator: Generator::new(seed, kernel.base()),
            // Another stream than the generator's.
            rng: Rng::with_seed(!seed),
            corpus: Vec::new(),
            seen: Features::new(),
            features: Vec::new(),
            scenario: Scenario::default(),
            aimed: Default::default(),
            executions: 0,
        }
    }

    /// Scenarios run.
    pub fn executions(&self) -> u64 {
        self.executions
    }

    /// Ops run.
    pub fn ops(&self) -> u64 {
        self.exec.ops_run()
    }

    /// Runs a scenario of an earlier night.
    pub fn load(&mut self, target: Target, scenario: Scenario) -> Option<Hit> {
        self.scenario = scenario;
        self.run(target).0
    }

    /// Draws and runs one scenario; says what it violated and whether it is
    /// new in the corpus.
    pub fn step(&mut self, target: Target) -> (Option<Hit>, bool) {
        if target == Target::Race {
            return self.race_step();
        }
        let s = &mut self.scenario;
        let drawn = self.corpus.is_empty() || self.rng.bool();
        if !drawn {
            let entry = &self.corpus[self.rng.usize(0..self.corpus.len())];
            s.ops.clone_from(&entry.ops);
        }
        if drawn {
            self.generator.scenario(s);
        } else {
            s.ops.retain(|op| op.at.is_none());
            self.generator.mutate(s);
        }
        self.scenario.ops.truncate(MAX_OPS);
        self.run(target)
    }

    fn race_step(&mut self) -> (Option<Hit>, bool) {
        let (aimed, raced, left) = &mut self.aimed;
        let s = &mut self.scenario;
        if *left > 0 {
            *left -= 1;
            s.ops.clone_from(&aimed.ops);
            self.generator.aim(s, raced);
        } else if self.corpus.is_empty() || self.rng.bool() {
            *left = AIMS;
            self.generator.race(s);
        } else {
            *left = AIMS;
            s.ops.clone_from(&self.corpus[self.rng.usize(0..self.corpus.len())].ops);
            self.generator.mutate_race(s);
        }
        s.ops.truncate(MAX_OPS);
        aimed.ops.clone_from(&s.ops);
        let ran = self.run(Target::Race);
        let (_, raced, left) = &mut self.aimed;
        raced.clear();
        raced.extend_from_slice(self.exec.raced());
        if ran.0.is_some() || raced.iter().all(Raced::idle) {
            // What was found is not looked for again, nor where nothing can be.
            *left = 0;
        }
        ran
    }

    fn run(&mut self, target: Target) -> (Option<Hit>, bool) {
        self.executions += 1;
        let finding = target.run_caught(&mut self.exec, &self.scenario.ops);
        if let Some(finding) = finding {
            let (scenario, execution) = (self.scenario.clone(), self.executions);
            return (Some(Hit { finding, target, scenario, execution }), false);
        }
        self.features.clear();
        self.exec.features(&mut self.features);
        let new = self.seen.add(&self.features);
        if new {
            self.corpus.push(self.scenario.clone());
        }
        (None, new)
    }

    /// The scenario that ran last, and its features.
    pub fn last(&self) -> (&Scenario, &[u32]) {
        (&self.scenario, &self.features)
    }

    /// Target `text` on the last scenario: printed, with one byte changed,
    /// it parses or is refused.
    pub fn text_step(&mut self) -> Option<Hit> {
        self.executions += 1;
        let mut text = Reproducer::from_ops(self.exec.kernel(), &self.scenario.ops).to_string();
        let at = self.rng.usize(0..text.len());
        let byte = char::from(self.rng.u8(0..128));
        text.replace_range(at..=at, byte.encode_utf8(&mut [0; 4]));
        let message = caught(|| targets::text(text.as_bytes())).err()?;
        // The scenario alone does not show it; the text does.
        let finding = our_panic(format!("{message}; text: {text:?}"), 0);
        let (scenario, execution) = (self.scenario.clone(), self.executions);
        Some(Hit { finding, target: Target::Sequence, scenario, execution })
    }
}

/// The first finding of `target`, from an empty corpus, within `limit`
/// executions; `wanted` says which findings count.
pub fn find_first(
    kernel: Kernel,
    seed: u64,
    target: Target,
    limit: u64,
    wanted: impl Fn(&Hit) -> bool,
) -> Option<Hit> {
    let mut fuzzer = Fuzzer::new(kernel, seed);
    while fuzzer.executions() < limit {
        if let (Some(hit), _) = fuzzer.step(target)
            && wanted(&hit)
        {
            return Some(hit);
        }
    }
    None
}

/// What a worker tells.
#[derive(Debug)]
pub enum Event {
    /// Something new was found; boxed, as the other events are small.
    Hit(Box<Hit>),
    /// A scenario showed a new feature.
    New(Target, Scenario, Vec<u32>),
    /// Executions and ops since the last time.
    Progress { executions: u64, ops: u64 },
    /// Not from a worker: the user wants to stop.
    Interrupt,
}

/// What a worker works on.
#[derive(Clone, Debug)]
pub struct Job {
    /// The kernel.
    pub kernel: Kernel,
    /// Its seed; each worker has its own.
    pub seed: u64,
    /// Scenarios to begin with.
    pub corpus: Vec<(Target, Scenario)>,
    /// Executions after which it ends by itself.
    pub limit: u64,
    /// What it runs, in turn.
    pub targets: Vec<Target>,
}

/// Who takes turns if nothing is said.
pub const USUAL: [Target; 4] =
    [Target::Sequence, Target::Sequence, Target::FastVsSlow, Target::Race];

/// Every sixteenth execution is of the target `text`; the others take turns.
fn target_of(execution: u64, targets: &[Target]) -> Option<Target> {
    match (execution % 16) as usize {
        15 => None,
        n => targets.get(n % targets.len().max(1)).copied(),
    }
}

/// Starts a worker. It ends when nobody listens any more.
pub fn spawn<'s>(scope: &'s Scope<'s, '_>, job: Job, events: Sender<Event>) {
    let name = format!("fuzz {}", job.seed);
    let worker = move || drop(work(job, &events));
    if let Err(e) = thread::Builder::new().name(name).spawn_scoped(scope, worker) {
        // Fewer cores is no reason to end the night.
        eprintln!("cannot start a worker: {e}");
    }
}

fn work(job: Job, events: &Sender<Event>) -> Result<(), std::sync::mpsc::SendError<Event>> {
    let mut fuzzer = Fuzzer::new(job.kernel, job.seed);
    let mut seen = HashSet::new();
    let mut told = (0, 0);
    let mut last = Instant::now();
    let mut report = |hit: Option<Hit>| match hit {
        Some(hit) if seen.insert(hit.key()) => events.send(Event::Hit(Box::new(hit))),
        _ => Ok(()),
    };
    for (target, scenario) in job.corpus {
        report(fuzzer.load(target, scenario))?;
    }
    loop {
        match target_of(fuzzer.executions(), &job.targets) {
            Some(target) => {
                let (hit, new) = fuzzer.step(target);
                report(hit)?;
                if new {
                    let (scenario, features) = fuzzer.last();
                    events.send(Event::New(target, scenario.clone(), features.to_vec()))?;
                }
            }
            None => report(fuzzer.text_step())?,
        }
        let done = fuzzer.executions() >= job.limit;
        // A look at the clock is not free.
        if done
            || (fuzzer.executions().is_multiple_of(64)
                && last.elapsed() > Duration::from_millis(100))
        {
            let now = (fuzzer.executions(), fuzzer.ops());
            events.send(Event::Progress { executions: now.0 - told.0, ops: now.1 - told.1 })?;
            (told, last) = (now, Instant::now());
        }
        if done {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_finds_the_same() {
        let kernel = "v5.15".parse().unwrap();
        let find = || {
            let hit =
                find_first(kernel, 3, Target::Sequence, 20_000, |h| h.finding.oracle == "errno");
            hit.map(|h| (h.execution, h.scenario, h.finding))
        };
        let first = find().expect("the seed defect is found");
        assert_eq!(find(), Some(first));
    }

    #[test]
    fn a_panic_of_ours_is_a_finding() {
        keep_panics_quiet();
        let message = caught(|| panic!("oh\nno")).unwrap_err();
        assert!(message.starts_with("oh no at fuzz"), "{message}");
    }
}
