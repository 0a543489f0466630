// SPDX-License-Identifier: GPL-2.0-only
//! Races under shuttle: schedules drawn at random, one CPU at a time, of more
//! CPUs than loom can take. Each step is where another CPU may go on; loads
//! see the last store.

// Counts schedules from outside of the race: no state of one.
#![allow(clippy::disallowed_types)]

use std::env;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use gup_core::flags::Foll;
use gup_core::model::cpu::Watch;
use gup_core::model::mm::mm_alive;
use gup_core::model::{Cpu, World};
use gup_core::step::Step;
use shuttle::scheduler::{PctScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::AtomicBool;
use shuttle::{Config, FailurePersistence, Runner};

use crate::calls::{MM, get_user_pages_fast_only, pin_user_pages_fast_only, unpin_user_page};
use crate::{Base, Body, Bound, Held, Kernel, Race, Verdict, body};

/// Schedules of each race and each scheduler, unless `SHUTTLE_SCHEDULES` says
/// another number.
const SCHEDULES: usize = 500;
/// Preemptions that a PCT schedule is made of.
const PCT_DEPTH: usize = 4;

/// Lets another CPU go on before a step.
pub(crate) struct Columns;

impl Watch for Columns {
    fn before(&self, _: &Cpu, _: &Step) {
        // shuttle switches threads at its own atomics.
        AtomicBool::new(false).load(Ordering::Relaxed);
    }
    fn waits(&self) {
        shuttle::thread::yield_now();
    }
}

/// Two more CPUs of the process, which leave everything as it was.
pub(crate) fn bystanders(world: &World) -> Vec<Body> {
    let there =
        world.limits().mms > 0 && mm_alive(&Cpu::new(world, Kernel::fixed(Base::V6_12), 0), MM);
    if !there {
        return Vec::new();
    }
    let pin = body(|cpu| {
        for page in pin_user_pages_fast_only(cpu, 0, Foll::WRITE).pins {
            unpin_user_page(cpu, page);
        }
        Held::nothing()
    });
    let get = body(|cpu| {
        for page in get_user_pages_fast_only(cpu, 0, Foll::empty()).gets {
            gup_core::model::page::put_page(cpu, page);
        }
        Held::nothing()
    });
    vec![pin, get]
}

/// Runs the bodies of one round.
pub(crate) fn run<T: Send + 'static>(jobs: Vec<impl FnOnce() -> T + Send + 'static>) -> Vec<T> {
    let threads: Vec<_> = jobs.into_iter().map(shuttle::thread::spawn).collect();
    threads.into_iter().map(|t| t.join().expect("a body panicked")).collect()
}

/// Runs the race under schedules of both kinds until it breaks a rule.
pub(crate) fn explore(
    name: &str,
    text: &str,
    kernel: Kernel,
    _: Bound,
    race: impl Race,
) -> Verdict {
    let n = env::var("SHUTTLE_SCHEDULES").ok().and_then(|n| n.parse().ok()).unwrap_or(SCHEDULES);
    let start = Instant::now();
    let random = check(RandomScheduler::new(n), kernel, race.clone());
    let pct = check(PctScheduler::new(PCT_DEPTH, n), kernel, race);
    let (count, secs) = (random.1 + pct.1, start.elapsed().as_secs_f64());
    let rate = count as f64 / secs;
    println!("shuttle: {name} on {text}: {count} schedules, {secs:.2} s, {rate:.0} a second");
    random.0.and(pct.0)
}

/// Runs the race until it breaks a rule, or no schedule is left; how often it
/// ran.
fn check(scheduler: impl Scheduler + 'static, kernel: Kernel, race: impl Race) -> (Verdict, usize) {
    let count = Arc::new(AtomicUsize::new(0));
    let broken = Arc::new(OnceLock::new());
    let (counter, first) = (Arc::clone(&count), Arc::clone(&broken));
    let mut config = Config::new();
    config.failure_persistence = FailurePersistence::None;
    Runner::new(scheduler, config).run(move || {
        if first.get().is_none() {
            counter.fetch_add(1, Ordering::Relaxed);
            if let Err(rule) = race(kernel) {
                // Only the first is told.
                let _ = first.set(rule);
            }
        }
    });
    let verdict = broken.get().cloned().map_or(Ok(()), Err);
    (verdict, count.load(Ordering::Relaxed))
}
