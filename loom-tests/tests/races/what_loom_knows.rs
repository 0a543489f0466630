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

use gup_core::atomic::{Atomic32, Flags32, Hold, Locks, RawLock, smp_mb, smp_rmb};
use gup_core::sync::contended;
use gup_core::sync::redundant::{self, LeaveOut};
use loom::model::Builder;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::Relaxed;

/// What a CPU does with the words, and what it finds.
type Act<W> = Arc<dyn Fn(&W) -> u32 + Send + Sync>;

/// What CPU 0 and CPU 1 find, in all interleavings.
fn found<W: 'static>(
    words: fn() -> W,
    cpu_0: impl Fn(&W) -> u32 + Send + Sync + 'static,
    cpu_1: impl Fn(&W) -> u32 + Send + Sync + 'static,
) -> BTreeSet<(u32, u32)> {
    // The last job runs first.
    let acts: Vec<Act<W>> = vec![Arc::new(cpu_1), Arc::new(cpu_0)];
    explored(words, &acts, LeaveOut::Redundant)
        .into_iter()
        .map(|found| (found[1], found[0]))
        .collect()
}

/// What each CPU finds, in all interleavings but those that are left out.
fn explored<W: 'static>(
    words: fn() -> W,
    acts: &[Act<W>],
    leave_out: LeaveOut,
) -> BTreeSet<Vec<u32>> {
    explored_within(&Builder::new(), words, acts, leave_out)
}

/// The same within the bound of a builder.
fn explored_within<W: 'static>(
    builder: &Builder,
    words: fn() -> W,
    acts: &[Act<W>],
    leave_out: LeaveOut,
) -> BTreeSet<Vec<u32>> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    contended::begin("").expect("nothing is known");
    loop {
        redundant::explore(leave_out);
        let (found, acts) = (Arc::clone(&all), acts.to_vec());
        builder.check(move || {
            contended::round();
            let words = Arc::new(words());
            let job = |act: &Act<W>| {
                let (words, act) = (Arc::clone(&words), Arc::clone(act));
                move || act(&words)
            };
            let results = contended::at_once(acts.iter().map(job).collect());
            if !redundant::is_redundant() {
                found.lock().expect("no panic under it").insert(results);
            }
        });
        let found = std::mem::take(&mut *all.lock().expect("no panic under it"));
        if !contended::found_more() {
            return found;
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

#[test]
fn an_old_store_is_read_before_loom_forgets_it() {
    let eight_times = |word: &Atomic32| {
        for _ in 0..8 {
            word.add(1);
        }
        0
    };
    let found = found(|| Atomic32::new(0), |word| word.read() as u32, eight_times);
    assert_eq!(found, (0..=8).map(|n| (n, 0)).collect());
}

/// Of two stores of the same value, loom finds that first which knows more, and
/// nobody comes between the stores to find the other.
#[test]
fn who_finds_an_older_store_knows_less() {
    let acts: Vec<Act<[Atomic32; 2]>> = vec![
        Arc::new(|words| (words[0].read_dependent() * 10 + words[1].read()) as u32),
        Arc::new(|words| {
            for _ in 0..6 {
                words[0].set(1);
            }
            words[1].set(1);
            words[0].set_release(1);
            0
        }),
    ];
    let mut builder = Builder::new();
    builder.preemption_bound = Some(0);
    let words = || [0, 0].map(Atomic32::new);
    let all = explored_within(&builder, words, &acts, LeaveOut::Bounded);
    let seen: Vec<_> = all.iter().map(|found| found[0]).collect();
    assert_eq!(seen, [10, 11]);
}

/// Whether acts find the same, within bounds, if something is left out.
fn compare_within<W: 'static>(bounds: &[usize], words: fn() -> W, acts: &[Act<W>]) {
    for &bound in bounds {
        let mut builder = Builder::new();
        builder.preemption_bound = Some(bound);
        let all = explored_within(&builder, words, acts, LeaveOut::Nothing);
        let found = explored_within(&builder, words, acts, LeaveOut::Bounded);
        assert_eq!(found, all, "within {bound}");
    }
}

/// A CPU that has started, and accessed nothing yet, has taken a preemption.
#[test]
fn the_same_accesses_take_more_preemptions_or_fewer() {
    let add = |n: i32, times: i32| -> Act<Atomic32> {
        Arc::new(move |word| (0..times).fold(0, |all, _| all * 1000 + word.add_return(n) as u32))
    };
    let acts = [add(100, 1), add(10, 2), add(1, 2)];
    compare_within(&[0, 1, 2, 3], || Atomic32::new(0), &acts);
    let act = |cpu: usize| -> Act<[Atomic32; 3]> {
        Arc::new(move |words: &[Atomic32; 3]| {
            let next = |set, n: usize| {
                words[cpu].set(set);
                words[(cpu + n) % 3].read() as u32
            };
            next(1, 1) * 10 + next(2, 2)
        })
    };
    compare_within(&[0, 1, 2], || [0; 3].map(Atomic32::new), &[act(0), act(1), act(2)]);
}

/// A CPU comes to a store, and another makes one first.
#[test]
fn stores_are_counted_when_they_are_made() {
    let acts: Vec<Act<[Atomic32; 2]>> = vec![
        Arc::new(|words| {
            words[0].add(100);
            let other = words[1].add_return(1) as u32 - 1;
            other * 1000 + words[0].read() as u32
        }),
        Arc::new(|words| {
            (0..6).for_each(|_| words[0].add(1));
            words[1].add(1);
            words[0].add(1);
            0
        }),
    ];
    let words = || [0, 0].map(Atomic32::new);
    let all = explored(words, &acts, LeaveOut::Nothing);
    assert_eq!(explored(words, &acts, LeaveOut::Redundant), all);

    let acts: Vec<Act<[Atomic32; 3]>> = vec![
        Arc::new(|words| {
            let told = words[0].read() == 5 && words[1].read() == 1;
            words[0].add(100);
            words[2].set((told && words[0].read() == 1105).into());
            0
        }),
        Arc::new(|words| {
            let last = words[2].read();
            let many = words[0].read_is(|v| v >= 105);
            smp_rmb();
            (last * 100 + i32::from(many) * 10 + words[1].read()) as u32
        }),
        Arc::new(|words| {
            (0..5).for_each(|_| words[0].add(1));
            words[1].set(1);
            words[0].add_return(1000);
            0
        }),
    ];
    compare_within(&[2], || [0; 3].map(Atomic32::new), &acts);
}

/// Which of two stores is older, loom does not know if nothing orders them.
#[test]
fn stores_without_an_order_are_not_compared() {
    let acts: Vec<Act<[Atomic32; 2]>> = vec![
        Arc::new(|words| {
            words[0].set(1);
            0
        }),
        Arc::new(|words| (words[0].read_dependent() * 10 + words[1].read()) as u32),
        Arc::new(|words| {
            words[1].set(1);
            words[0].set_release(1);
            0
        }),
    ];
    compare_within(&[0], || [0, 0].map(Atomic32::new), &acts);
}

/// What CPU 1 has seen of CPU 0 before a barrier is known behind that of CPU 2.
#[test]
fn a_barrier_is_for_what_was_seen() {
    let acts: Vec<Act<[Atomic32; 2]>> = vec![
        Arc::new(|words| {
            words[0].set(1);
            0
        }),
        Arc::new(|words| {
            let seen = words[0].read();
            smp_mb();
            (seen * 10 + words[1].read()) as u32
        }),
        Arc::new(|words| {
            words[1].set(1);
            smp_mb();
            words[0].read() as u32
        }),
    ];
    let all = explored(|| [0, 0].map(Atomic32::new), &acts, LeaveOut::Bounded);
    let seen: Vec<_> = all.iter().map(|found| (found[1], found[2])).collect();
    assert!(!seen.contains(&(10, 0)), "{seen:?}");
    assert_eq!(seen.len(), 7, "{seen:?}");
}

/// One or two that are set, one that is counted in, and one under a lock; and
/// some flags.
#[derive(Debug)]
struct Words {
    words: [Atomic32; 4],
    lock: RawLock,
    flags: Flags32,
}

/// What a CPU that sets word `mine` does in step `n` of a program that is drawn at
/// random.
type Draw = fn(words: &Words, n: u32, step: i32, mine: usize) -> i32;

/// Words that are set to another value each time.
fn words(w: &Words, n: u32, step: i32, mine: usize) -> i32 {
    let any = &w.words[(n >> 30) as usize];
    match (n >> 16) % 10 {
        0..=2 => return any.read(),
        3 => return any.read_dependent(),
        4 => return w.words[2].add_return(1),
        5 => return w.words[2].cmpxchg(0, step).into(),
        6 => {
            let locks = Locks::new();
            locks.try_lock(&w.lock, Hold::Write);
            let found = w.words[3].read();
            w.words[3].set(found + 1);
            locks.unlock(&w.lock, Hold::Write);
            return found;
        }
        7 => smp_mb(),
        8 => w.words[mine].set(step + 1),
        _ => w.words[mine].set_release(step + 1),
    }
    0
}

/// Words that are set to the same values again, and flags.
fn values(w: &Words, n: u32, step: i32, mine: usize) -> i32 {
    let any = &w.words[(n >> 30) as usize];
    let flag = 1 << (n >> 24 & 1);
    match (n >> 16) % 12 {
        0 => return any.read(),
        1 | 2 => return any.read_is(|v| v > 1).into(),
        3 => return any.read_dependent(),
        4 => return w.words[2].add_unless(1, 2).into(),
        5 => return w.flags.test(flag).into(),
        6 => return w.flags.test_and_set(flag).into(),
        7 => w.flags.clear(flag),
        8 => smp_mb(),
        9 => w.words[2].add(-1),
        10 => w.words[mine].set(step % 2 + 1),
        _ => w.words[mine].set_release(step % 2 + 1),
    }
    0
}

/// What program `n` finds with a CPU for each of the words that they set.
fn finds(
    draw: Draw,
    n: u32,
    mine: &[usize],
    steps: i32,
    leave_out: LeaveOut,
) -> BTreeSet<Vec<u32>> {
    let words = || Words {
        words: [0; 4].map(Atomic32::new),
        lock: RawLock::new(),
        flags: Flags32::default(),
    };
    let act = |(cpu, &mine): (usize, &usize)| -> Act<Words> {
        let seed = n.wrapping_mul(2_654_435_761).wrapping_add(cpu as u32 * 40_503);
        Arc::new(move |words: &Words| {
            let mut n = seed;
            (1..=steps).fold(0, |seen, step| {
                n = n.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                seen * 10 + draw(words, n, step, mine) as u32
            })
        })
    };
    let acts: Vec<_> = mine.iter().enumerate().map(act).collect();
    explored(words, &acts, leave_out)
}

/// Whether a program finds the same if something is left out.
fn compare(draw: Draw, n: u32, mine: &[usize], steps: i32, leave_out: &[LeaveOut]) {
    let all = finds(draw, n, mine, steps, LeaveOut::Nothing);
    for &leave_out in leave_out {
        let found = finds(draw, n, mine, steps, leave_out);
        assert_eq!(found, all, "program {n} of {mine:?}, {leave_out:?}");
    }
}

/// Those that lose outcomes where a barrier is put off for too long: behind a
/// store, behind a read-modify-write that fails.
const TELLING: [u32; 8] = [32, 108, 195, 252, 361, 574, 640, 694];

const BOTH: [LeaveOut; 2] = [LeaveOut::Redundant, LeaveOut::Bounded];

#[test]
fn what_is_left_out_is_redundant() {
    for n in TELLING {
        compare(words, n, &[0, 1], 6, &BOTH);
    }
    for n in 0..40 {
        compare(words, n, &[0, 1], 4, &[LeaveOut::Redundant]);
        compare(words, n, &[0, 0], 4, &[LeaveOut::Redundant]);
    }
    for n in 0..10 {
        compare(words, n, &[0, 1, 1], 2, &[LeaveOut::Redundant]);
    }
}

#[test]
fn what_is_the_same_to_a_cpu_is_redundant() {
    for n in 0..24 {
        compare(values, n, &[0, 1], 4, &BOTH);
    }
    for n in 0..3 {
        compare(values, n, &[0, 1, 1], 2, &BOTH);
    }
}
