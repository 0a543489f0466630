// SPDX-License-Identifier: GPL-2.0-only
//! Why gup-core has `sync::seen`: loom 0.7 forgets loads.
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

use gup_core::atomic::Atomic32;
use gup_core::sync::seen;
use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::Relaxed;

/// What (A1) finds in all interleavings.
fn found(load: fn(&Word) -> u32, store: fn(&Word)) -> BTreeSet<u32> {
    let all = Arc::new(Mutex::new(BTreeSet::new()));
    let found = Arc::clone(&all);
    loom::model(move || {
        let word = Arc::new(Word { plain: AtomicU32::new(0), ours: Atomic32::new(0) });
        seen::begin();
        let other = Arc::clone(&word);
        let cpu_1 = loom::thread::spawn(move || {
            load(&other);
            store(&other);
        });
        found.lock().expect("no panic under it").insert(load(&word));
        cpu_1.join().expect("it does not panic");
        seen::end();
    });
    let all = all.lock().expect("no panic under it");
    all.clone()
}

struct Word {
    plain: AtomicU32,
    ours: Atomic32,
}

#[test]
fn loom_still_forgets_a_load() {
    let found = found(|w| w.plain.load(Relaxed), |w| w.plain.store(1, Relaxed));
    assert_eq!(found, BTreeSet::from([0]), "loom is mended: gup_core::sync::seen can go");
}

#[test]
fn seen_reminds_it() {
    let found = found(|w| w.ours.read() as u32, |w| w.ours.set(1));
    assert_eq!(found, BTreeSet::from([0, 1]));
}
