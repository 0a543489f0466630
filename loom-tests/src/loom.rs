// SPDX-License-Identifier: GPL-2.0-only
//! Races under loom: every interleaving, one after the other.

// Counts interleavings from outside of the model: no state of a race.
#![allow(clippy::disallowed_types)]

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use gup_core::invariants::Broken;

use crate::{Bound, Verdict, name_of, next_command};

/// Far above what a race takes; a CPU that spins for ever comes there.
const MAX_STEPS: usize = 50_000;

/// Runs the bodies of one round: the last on this thread, which has nothing
/// else to do, so that loom has one thread less to interleave.
pub(crate) fn run<T: Send + 'static>(mut jobs: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    let last = jobs.pop();
    let others: Vec<_> = jobs.into_iter().map(loom::thread::spawn).collect();
    let last = last.map(|job| job());
    let join = |t: loom::thread::JoinHandle<T>| t.join().expect("a panic ends the whole model");
    let mut done: Vec<_> = others.into_iter().map(join).collect();
    done.extend(last);
    done
}

/// Explores until a rule breaks or `bound` is reached; prints how far it went.
fn explore(
    name: &str,
    bound: Bound,
    race: impl Fn() -> Verdict + Send + Sync + 'static,
) -> Verdict {
    let mut builder = loom::model::Builder::new();
    builder.max_branches = MAX_STEPS;
    if let (None, Bound::Preemptions(n)) = (builder.preemption_bound, bound) {
        builder.preemption_bound = Some(n);
    }
    let bound = builder.preemption_bound.map_or("all".into(), |n| format!("preemption bound {n}"));
    let count = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&count);
    let start = Instant::now();
    let ended = catch_unwind(AssertUnwindSafe(|| {
        builder.check(move || {
            counter.fetch_add(1, Ordering::Relaxed);
            // Here all threads have ended and the world is gone: a safe place
            // to leave from, and without the message of a panic.
            race().unwrap_or_else(|broken| resume_unwind(Box::new(broken)));
        });
    }));
    let (count, secs) = (count.load(Ordering::Relaxed), start.elapsed().as_secs_f64());
    let verdict = ended.map_err(|cause| match cause.downcast::<Broken>() {
        Ok(broken) => *broken,
        Err(cause) => resume_unwind(cause),
    });
    let so_far = if verdict.is_ok() { "" } else { "stopped, " };
    println!("loom: {name}: {count} interleavings, {so_far}{bound}, {secs:.2} s");
    verdict
}

/// Checks that the race ends well in every interleaving that `bound` admits.
///
/// # Panics
/// If it does not, with the rule that broke.
pub fn model(bound: Bound, race: impl Fn() -> Verdict + Send + Sync + 'static) {
    let name = name_of(&race);
    let verdict = explore(name, bound, race);
    assert!(verdict.is_ok(), "{name}: {}", next_command(name, &verdict.unwrap_err()));
}

/// Checks that some interleaving breaks a rule of `oracle`, and that none
/// before it breaks another.
///
/// # Panics
/// If the race ends well in all of them, or badly in another way.
pub fn must_fail(oracle: &str, bound: Bound, race: impl Fn() -> Verdict + Send + Sync + 'static) {
    let name = name_of(&race);
    let verdict = explore(name, bound, race);
    assert!(verdict.is_err(), "{name}: nothing went wrong; the race misses what it is there for");
    let broken = verdict.unwrap_err();
    println!("loom: {name}: found {broken}");
    assert_eq!(broken.oracle, oracle, "{name}: wrong for another reason: {broken}");
}
