// SPDX-License-Identifier: GPL-2.0-only
//! Races on real threads: a smoke test, in which nothing says that the
//! interesting interleaving ever happens.

use std::sync::{Arc, Barrier};
use std::thread;

use gup_core::model::cpu::Watch;
use gup_core::model::{Cpu, World};
use gup_core::step::Step;

use crate::{Body, Bound, Kernel, Race, Verdict};

/// Rounds of each race: together a few seconds.
const ROUNDS: usize = 500;

/// Notes nothing: real threads have no order that could be seen.
pub(crate) struct Columns;

impl Watch for Columns {
    fn before(&self, _: &Cpu, _: &Step) {}
}

/// Nobody else is there.
pub(crate) fn bystanders(_: &World) -> Vec<Body> {
    Vec::new()
}

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

/// Runs the race again and again, until it breaks a rule.
pub(crate) fn explore(_: &str, _: &str, kernel: Kernel, _: Bound, race: impl Race) -> Verdict {
    (0..ROUNDS).try_for_each(|_| race(kernel))
}
