// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: what need not be explored, by sleep sets (Godefroid,
//! Partial-Order Methods for the Verification of Concurrent Systems, 1996).
//!
//! When all that can follow an access of CPU A has been explored, and loom lets
//! CPU B go first instead, then what follows A's access is only new once B has
//! made an access behind which A's has another outcome. Until then A's access
//! is asleep; where loom makes it nevertheless, the round is redundant, and loom
//! is told no more of it.
//!
//! An access here is one with its outcome. If B stores, a load of A's that finds
//! an older value has the same outcome before and behind that: it stays asleep,
//! and the one that finds B's value is new. Nor does a load wake a store. So of
//! all rounds in which each load finds the same store, one remains.
//!
//! With a bound of preemptions this does not hold, as the other order may have
//! been beyond it. Nor does it with three CPUs: to turn two accesses round, loom
//! lets the CPU of the later one go first, which may be asleep while the third
//! must go first.

use std::cell::{Cell, RefCell};

/// What an exploration leaves out of what loom could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOut {
    /// Also interleavings that are redundant. Of two CPUs, and not with a bound:
    /// of three it is as [`LeaveOut::Barriers`].
    Redundant,
    /// Barriers whose order nobody can see.
    Barriers,
    /// Nothing, which takes long: for a test to compare with.
    Nothing,
}

/// One access of which loom is told, with its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) cpu: usize,
    pub(super) object: usize,
    /// Which store it reads; 0 if it reads none, or can read but one.
    pub(super) reads: usize,
    /// It does nothing else.
    pub(super) loads: bool,
    /// It may change what a load can read otherwise than by one store more.
    pub(super) unordered: bool,
}

impl Access {
    /// One that others have their places before or behind.
    pub(super) fn whole(cpu: usize, object: usize) -> Self {
        Self { cpu, object, reads: 0, loads: false, unordered: false }
    }
    /// Whether the other has the same outcome behind this one as before it.
    fn leaves(&self, other: &Access) -> bool {
        let ordered = !self.unordered && !other.unordered;
        self.object != other.object || (self.loads || other.loads) && ordered
    }
    /// Whether it is the other one: what a CPU does next is known but for the
    /// outcome.
    fn is(&self, other: &Access) -> bool {
        (self.cpu, self.reads) == (other.cpu, other.reads)
    }
}

#[derive(Default)]
struct Search {
    /// There are two CPUs, and there is no bound.
    on: bool,
    /// The accesses of this round.
    now: Vec<Access>,
    /// Those of the round before.
    before: Vec<Access>,
    /// This round has been as the one before.
    same: bool,
    /// By the number of accesses before: those that have been explored there.
    explored: Vec<Vec<Access>>,
    /// Those that are asleep.
    asleep: Vec<Access>,
}

thread_local! {
    static SEARCH: RefCell<Search> = RefCell::default();
    static LEAVE_OUT: Cell<LeaveOut> = const { Cell::new(LeaveOut::Nothing) };
    static REDUNDANT: Cell<bool> = const { Cell::new(false) };
}

/// An exploration begins.
pub fn explore(leave_out: LeaveOut) {
    LEAVE_OUT.set(leave_out);
    REDUNDANT.set(false);
    SEARCH.replace(Search::default());
}

/// Whether this round has turned out to be redundant: then it says nothing.
pub fn is_redundant() -> bool {
    REDUNDANT.get()
}

/// Whether there are no exceptions.
pub(super) fn leaves_out_nothing() -> bool {
    LEAVE_OUT.get() == LeaveOut::Nothing
}

/// So many CPUs are about to start.
pub(super) fn start(cpus: usize) {
    REDUNDANT.set(false);
    SEARCH.with_borrow_mut(|s| {
        s.on = cpus == 2 && LEAVE_OUT.get() == LeaveOut::Redundant;
        s.before = std::mem::take(&mut s.now);
        s.same = true;
        s.asleep.clear();
    });
}

/// An access has been made.
pub(super) fn accessed(access: Access) {
    SEARCH.with_borrow_mut(|s| {
        if s.on && !REDUNDANT.get() {
            REDUNDANT.set(s.accessed(access));
        }
    });
}

impl Search {
    /// Whether the access was asleep.
    fn accessed(&mut self, access: Access) -> bool {
        let at = self.now.len();
        let before = self.before.get(at).filter(|_| self.same);
        if before.is_none_or(|before| !before.is(&access)) {
            // From here on this round is another. What was explored behind
            // this point was so in other circumstances.
            self.same = false;
            self.explored.resize(at + 1, Vec::new());
            self.explored[at].extend(before);
        }
        self.asleep.extend(self.explored.get(at).into_iter().flatten());
        let was_asleep = self.asleep.iter().any(|other| other.is(&access));
        self.asleep.retain(|other| other.cpu != access.cpu && access.leaves(other));
        self.now.push(access);
        was_asleep
    }
}
