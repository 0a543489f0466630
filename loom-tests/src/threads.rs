// SPDX-License-Identifier: GPL-2.0-only
//! Races on real threads: a smoke test, in which nothing says that the
//! interesting interleaving ever happens.

use std::sync::{Arc, Barrier};
use std::thread;

use crate::{Bound, Verdict, name_of, next_command};

/// Rounds of each race: together a few seconds.
const ROUNDS: usize = 2_000;

/// Runs the bodies of one round, started together.
pub(crate) fn run<T: Send + 'static>(jobs: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    let line = Arc::new(Barrier::new(jobs.len()));
    let start = |job: Box<dyn FnOnce() -> T + Send>| {
        let line = Arc::clone(&line);
        thread::spawn(move || {
            line.wait();
            job()
        })
    };
    let threads: Vec<_> = jobs.into_iter().map(|job| start(Box::new(job))).collect();
    threads.into_iter().map(|t| t.join().expect("a body panicked")).collect()
}

/// Checks that the race ends well, again and again.
///
/// # Panics
/// If it does not, with the rule that broke.
pub fn model(_: Bound, race: impl Fn() -> Verdict) {
    let name = name_of(&race);
    for round in 0..ROUNDS {
        let verdict = race();
        assert!(
            verdict.is_ok(),
            "{name}, round {round}: {}",
            next_command(name, &verdict.unwrap_err())
        );
    }
}

/// Runs the race, which may break a rule of `oracle`. Only loom can promise
/// that it does: without it, a race that ends well proves nothing.
///
/// # Panics
/// If it breaks a rule of another oracle.
pub fn must_fail(oracle: &str, _: Bound, race: impl Fn() -> Verdict) {
    let name = name_of(&race);
    for round in 0..ROUNDS {
        if let Err(broken) = race() {
            assert_eq!(broken.oracle, oracle, "{name}, round {round}: {broken}");
        }
    }
}
