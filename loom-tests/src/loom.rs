// SPDX-License-Identifier: GPL-2.0-only
//! Races under loom: every interleaving, one after the other.

// Counts interleavings from outside of the model: no state of a race.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;
use std::{env, fs};

use gup_core::invariants::Broken;
use gup_core::model::cpu::Watch;
use gup_core::model::{Cpu, World};
use gup_core::step::Step;
use gup_core::sync::contended;
use gup_core::sync::redundant::{self, LeaveOut};
use loom::model::Builder;

use crate::{Body, Bound, Kernel, Race, Verdict, holes};

/// Far above what a race takes; a CPU that spins for ever comes there.
const MAX_STEPS: usize = 50_000;

thread_local! {
    /// The steps of this round, and the CPU that took each. loom runs its
    /// threads on one thread of the machine, one at a time.
    static LOG: RefCell<Vec<(u8, Step)>> = const { RefCell::new(Vec::new()) };
}

/// Notes the steps of all CPUs in the order in which they are taken.
pub(crate) struct Columns;

impl Watch for Columns {
    fn before(&self, cpu: &Cpu, step: &Step) {
        LOG.with_borrow_mut(|log| log.push((cpu.id.get(), *step)));
        holes::before(step.kind);
    }
}

/// Nobody else is there.
pub(crate) fn bystanders(_: &World) -> Vec<Body> {
    Vec::new()
}

/// Runs the bodies of one round.
pub(crate) fn run<T: Send + 'static>(jobs: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    LOG.take();
    contended::at_once(jobs)
}

/// Explores until a rule breaks or `bound` is reached; prints how far it went.
/// With `LOOM_REPLAY`, begins with the interleaving that was saved, and prints
/// the columns of the one that ends badly.
/// `text` is the kernel's name.
pub(crate) fn explore(
    name: &str,
    text: &str,
    kernel: Kernel,
    bound: Bound,
    race: impl Race,
) -> Verdict {
    contended::begin("").expect("nothing is known");
    let mut builder = Builder::new();
    builder.max_branches = MAX_STEPS;
    if let (None, Bound::Preemptions(n), false) =
        (builder.preemption_bound, bound, env::var_os("LOOM_UNBOUNDED").is_some())
    {
        builder.preemption_bound = Some(n);
    }
    if env::var_os("LOOM_HOLES").is_some() {
        holes::look(name, text, kernel.base().name(), || {
            // A mutant may also make the race itself panic.
            let ended = catch_unwind(AssertUnwindSafe(|| check(&builder, kernel, &race)));
            ended.map_or((true, 0), |(verdict, count)| (verdict.is_err(), count))
        });
        return Ok(());
    }
    let bound = builder.preemption_bound.map_or("all".into(), |n| format!("preemption bound {n}"));
    let replay = env::var_os("LOOM_REPLAY").is_some();
    let saved = saved_file(name, text);
    if let (true, Ok(known)) = (replay, fs::read_to_string(known_file(&saved))) {
        contended::begin(&known).expect("as it was saved");
        builder.checkpoint_file = Some(saved.clone());
    }
    let start = Instant::now();
    let (verdict, count) = check(&builder, kernel, &race);
    let so_far = if verdict.is_ok() { "" } else { "stopped, " };
    let secs = start.elapsed().as_secs_f64();
    println!("loom: {name} on {text}: {count} interleavings, {so_far}{bound}, {secs:.2} s");
    if verdict.is_err() && replay {
        print!("{}", columns(&LOG.take()));
        if builder.checkpoint_file.is_none() {
            save(builder, saved, count, kernel, &race);
        }
    }
    verdict
}

/// Runs the race until it breaks a rule; how often it ran, once it was known
/// what its CPUs contend for.
fn check(builder: &Builder, kernel: Kernel, race: &impl Race) -> (Verdict, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    // Most of what is contended turns out soon.
    let mut quick = Builder::new();
    (quick.max_branches, quick.preemption_bound) = (MAX_STEPS, Some(1));
    let mut first = builder.checkpoint_file.is_none().then_some(&quick);
    let ended = loop {
        let builder = first.unwrap_or(builder);
        let leave_out = match builder.preemption_bound {
            None => LeaveOut::Redundant,
            Some(_) => LeaveOut::Bounded,
        };
        count.store(0, Ordering::Relaxed);
        redundant::explore(leave_out);
        let (counter, race) = (Arc::clone(&count), race.clone());
        let round = move || {
            counter.fetch_add(1, Ordering::Relaxed);
            contended::round();
            let verdict = race(kernel);
            if redundant::is_redundant() {
                return;
            }
            // Here all threads have ended and the world is gone: a safe place
            // to leave from, and without the message of a panic.
            if contended::found_more() {
                resume_unwind(Box::new("there is more to interleave"));
            }
            verdict.unwrap_or_else(|broken| resume_unwind(Box::new(broken)));
        };
        let ended = catch_unwind(AssertUnwindSafe(|| builder.check(round)));
        if contended::found_more() {
            contended::anew();
        } else if first.take().is_none() {
            break ended;
        }
    };
    let verdict = ended.map_err(|cause| match cause.downcast::<Broken>() {
        Ok(broken) => *broken,
        Err(cause) => resume_unwind(cause),
    });
    (verdict, count.load(Ordering::Relaxed))
}

/// Where the interleaving that breaks a rule is saved.
fn saved_file(name: &str, kernel: &str) -> PathBuf {
    let file = format!("{name} {kernel}.json").replace([' ', ':'], "-");
    PathBuf::from(env::var_os("CARGO_TARGET_DIR").unwrap_or("target".into()))
        .join("interleavings")
        .join(file)
}

/// Where it is saved, beside an interleaving, what the CPUs contend for.
fn known_file(interleaving: &Path) -> PathBuf {
    interleaving.with_extension("contended")
}

/// Saves interleaving `n`: explores up to it once more.
fn save(mut builder: Builder, file: PathBuf, n: usize, kernel: Kernel, race: &impl Race) {
    let folder = file.parent().unwrap_or(Path::new("."));
    let written =
        fs::create_dir_all(folder).and_then(|()| fs::write(known_file(&file), contended::known()));
    if let Err(e) = written {
        println!("loom: cannot save to {}: {e}", folder.display());
        return;
    }
    println!("loom: saved as {}", file.display());
    builder.checkpoint_file = Some(file);
    builder.checkpoint_interval = n;
    drop(check(&builder, kernel, race));
}

/// The steps of each CPU in a column of its own, in the order in which they
/// were taken. A read may have seen an older value than the last one set.
fn columns(log: &[(u8, Step)]) -> String {
    let cpus = log.iter().map(|&(cpu, _)| cpu).max().map_or(0, |n| usize::from(n) + 1);
    let width = 75 / cpus.max(1);
    let mut text = String::new();
    for cpu in 0..cpus {
        let _ = write!(text, "{:<width$}", format!("CPU {cpu}"));
    }
    for (cpu, step) in log {
        let _ = write!(text, "\n{:indent$}{step}", "", indent = usize::from(*cpu) * width);
    }
    text + "\n"
}
