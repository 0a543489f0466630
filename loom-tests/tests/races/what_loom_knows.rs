// SPDX-License-Identifier: GPL-2.0-only
//! What gup_core::sync::contended finds out, and why it reminds loom 0.7, which
//! forgets loads.
//!
//!   CPU 0                                    CPU 1
//!   (A1) load                                (B1) load
//!                                            (B2) store 1
//!
//! (A1) may come behind (B2), and find 1. loom runs (A1) first; then (B1) takes
//! its place as the last load, and (B2) is not tried before (A1).

// What was found is noted from outside of the model.
#![allow(clippy::disallowed_types)]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use gup_core::atomic::{Atomic32, Hold, Locks, RawLock, smp_mb};
use gup_core::sync::contended;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::Relaxed;

/// What a CPU does with the words, and what it finds.
trait Act<W>: Fn(&W) -> u32 + Clone + Send + Sync + 'static {}
impl<W, F: Fn(&W) -> u32 + Clone + Send + Sync + 'static> Act<W> for F {}

/// What CPU 0 and CPU 1 find, in all interleavings.
fn found<W: 'static>(
    words: fn() -> W,
    cpu_0: impl Act<W>,
    cpu_1: impl Act<W>,
) -> BTreeSet<(u32, u32)> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    contended::begin("").expect("nothing is known");
    loop {
        let (found, cpu_0, cpu_1) = (Arc::clone(&all), cpu_0.clone(), cpu_1.clone());
        loom::model(move || {
            contended::round();
            let words = Arc::new(words());
            let (here, there, cpu_0, cpu_1) =
                (Arc::clone(&words), words, cpu_0.clone(), cpu_1.clone());
            let jobs: Vec<Box<dyn FnOnce() -> u32>> =
                vec![Box::new(move || cpu_1(&there)), Box::new(move || cpu_0(&here))];
            let both = contended::at_once(jobs);
            found.lock().expect("no panic under it").insert((both[1], both[0]));
        });
        if !contended::found_more() {
            return all.lock().expect("no panic under it").clone();
        }
        contended::anew();
    }
}

#[test]
fn loom_still_forgets_a_load() {
    let load_and_store = |word: &AtomicU32| {
        let seen = word.load(Relaxed);
        word.store(1, Relaxed);
        seen
    };
    let found = found(|| AtomicU32::new(0), |word| word.load(Relaxed), load_and_store);
    let mended = "loom is mended: gup_core::sync::contended need not remind it";
    assert_eq!(found, BTreeSet::from([(0, 0)]), "{mended}");
}

#[test]
fn it_is_reminded() {
    let load_and_store = |word: &Atomic32| {
        let seen = word.read();
        word.set(1);
        seen as u32
    };
    let found = found(|| Atomic32::new(0), |word| word.read() as u32, load_and_store);
    assert_eq!(found, BTreeSet::from([(0, 0), (1, 0)]));
}

/// Each CPU sets a word, and then looks at that of the other.
fn set_and_look(barrier: fn()) -> BTreeSet<(u32, u32)> {
    let cpu = |mine: usize| {
        move |words: &[Atomic32; 2]| {
            words[mine].set(1);
            barrier();
            words[1 - mine].read() as u32
        }
    };
    found(|| [0, 0].map(Atomic32::new), cpu(0), cpu(1))
}

#[test]
fn stores_wait_in_a_buffer() {
    let all = BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]);
    assert_eq!(set_and_look(|| {}), all);
}

#[test]
fn a_barrier_empties_it() {
    let all = BTreeSet::from([(0, 1), (1, 0), (1, 1)]);
    assert_eq!(set_and_look(smp_mb), all);
}

/// Each CPU adds one to a word in two accesses, and says what it was.
fn add_one(how: Option<Hold>) -> BTreeSet<(u32, u32)> {
    let add = move |(word, lock): &(Atomic32, RawLock)| {
        let locks = Locks::new();
        if let Some(how) = how {
            locks.try_lock(lock, how);
        }
        let n = word.read();
        word.set(n + 1);
        if let Some(how) = how {
            locks.unlock(lock, how);
        }
        n as u32
    };
    found(|| (Atomic32::new(0), RawLock::new()), add, add)
}

#[test]
fn a_lock_keeps_others_out() {
    let in_turn = BTreeSet::from([(0, 1), (1, 0)]);
    assert_eq!(add_one(Some(Hold::Write)), in_turn);
    let at_once = BTreeSet::from([(0, 0), (0, 1), (1, 0)]);
    assert_eq!(add_one(Some(Hold::Read)), at_once);
    assert_eq!(add_one(None), at_once);
}

/// Each CPU looks at a word twice and adds one to it twice: every order of the
/// four additions, and every pair of looks at what was there before.
#[test]
fn nothing_is_left_out() {
    let cpu = |word: &Atomic32| {
        let looks = [word.read(), word.read()];
        let sums = [word.add_return(1), word.add_return(1)];
        looks.into_iter().chain(sums).fold(0, |all, n| all * 10 + n as u32)
    };
    let mut all = BTreeSet::new();
    for (mine, other) in [(12, 34), (13, 24), (14, 23), (34, 12), (24, 13), (23, 14)] {
        // What is seen before the first addition is no later than it.
        let looks = |sums: u32| {
            let before = sums / 10 - 1;
            (0..=before).flat_map(move |a| (a..=before).map(move |b| (a * 10 + b) * 100 + sums))
        };
        all.extend(looks(mine).flat_map(|m| looks(other).map(move |o| (m, o))));
    }
    assert_eq!(found(|| Atomic32::new(0), cpu, cpu), all);
}
