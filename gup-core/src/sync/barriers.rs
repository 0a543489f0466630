// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: full barriers, in every order.
//!
//! loom lets nobody come between an access and the fence behind it, so that it
//! tries the order of two accesses, but not that of two fences. Here a full
//! barrier touches a word that all of them touch, and is thereby an access of
//! its own.
//!
//! Most need not be. Which comes first of those of two CPUs is only seen if
//! each has stored before its own and accesses something behind it. So one is
//! put off to the next access of which loom is told, is left out if nothing was
//! stored since the last, and waits for that behind a read-modify-write that has
//! one on either side. What a barrier means for its own CPU alone is not put
//! off.

use std::cell::RefCell;
use std::sync::Arc;

use loom::sync::atomic::AtomicU32;
use loom::sync::atomic::Ordering::{AcqRel, Relaxed, SeqCst};
use loom::sync::atomic::fence;

use super::contended::switching;
use super::redundant::{self, Access};

/// The word, among objects: no other has this number.
const WORD: usize = usize::MAX;

/// An access, as far as barriers are concerned.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum What {
    Load,
    /// Or anything else, such as to take a lock.
    Store,
    /// A read-modify-write between two barriers.
    FullRmw,
}

/// What a CPU has done since its last full barrier.
#[derive(Clone, Copy, Default)]
struct Since {
    accessed: bool,
    /// It knows what others may not know.
    news: bool,
    /// There is another to come.
    put_off: bool,
}

#[derive(Default)]
struct Barriers {
    /// None before the first round.
    word: Option<Arc<AtomicU32>>,
    since: Vec<Since>,
}

thread_local! {
    static BARRIERS: RefCell<Barriers> = RefCell::default();
}

/// So many CPUs are about to start.
pub(super) fn start(cpus: usize) {
    BARRIERS.with_borrow_mut(|b| {
        b.word = Some(Arc::default());
        b.since.clear();
        b.since.resize(cpus, Since::default());
    });
}

/// `cpu` comes to a full barrier.
pub(super) fn come(cpu: usize) {
    if redundant::leaves_out_nothing() {
        return touch(cpu);
    }
    let accessed = BARRIERS.with_borrow_mut(|b| {
        let since = &mut b.since[cpu];
        since.put_off |= since.news;
        std::mem::take(&mut since.accessed)
    });
    if accessed {
        fence(AcqRel);
    }
}

/// `cpu` is about to access something of which loom is told.
pub(super) fn before(cpu: usize, what: What) {
    let comes = BARRIERS.with_borrow_mut(|b| {
        let since = &mut b.since[cpu];
        let comes = since.put_off && what != What::FullRmw;
        if comes {
            *since = Since::default();
        }
        since.accessed = true;
        since.news |= what != What::Load;
        comes
    });
    if comes {
        touch(cpu);
    }
}

/// `cpu` has seen what another one stored. Of three it may be the first to.
pub(super) fn seen(cpu: usize) {
    BARRIERS.with_borrow_mut(|b| b.since[cpu].news |= b.since.len() > 2);
}

fn touch(cpu: usize) {
    let word = BARRIERS.with_borrow(|b| b.word.clone()).expect("the CPUs have started");
    switching(|| word.fetch_add(0, Relaxed));
    redundant::accessed(Access::whole(cpu, WORD));
    fence(SeqCst);
}
