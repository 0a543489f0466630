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
//! and the one that finds B's value is new. Nor does a load wake a store, unless
//! that makes loom forget what the load finds. So of all rounds in which each
//! load finds the same store, one remains.
//!
//! Nor is a load new that finds a newer store than the one that was explored, but
//! the same value, or one that is the same to the CPU: it knows more of what
//! others did before the newer store, and as loom runs it can only do less.
//!
//! With three CPUs nothing stays asleep: to turn two accesses round, loom lets the
//! CPU of the later one go first, which may be asleep while the third must go
//! first. Only what has been explored at the same place, behind the same accesses,
//! is redundant.
//!
//! With a bound of preemptions not even that is. A CPU that has started, and
//! accessed nothing yet, took a preemption more, and what was explored then was
//! less. But of stores of the same value that a load can find at a place, the
//! oldest is enough.

use std::cell::{Cell, RefCell};

/// What an exploration leaves out of what loom could be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaveOut {
    /// All that is redundant without a bound of preemptions.
    Redundant,
    /// What is redundant with a bound of preemptions, too: barriers whose order
    /// nobody can see, and loads that find one more store of the same value.
    Bounded,
    /// Nothing, which takes long: for a test to compare with.
    Nothing,
}

/// One access of which loom is told, with its outcome.
#[derive(Clone, Copy, Debug)]
pub(super) struct Access {
    pub(super) cpu: usize,
    pub(super) object: usize,
    /// The turn of the store that it reads; 0 if it reads none, or can read but
    /// one.
    pub(super) reads: usize,
    /// If it does nothing else: what the value is to the CPU.
    pub(super) loads: Option<u64>,
    /// loom may not know the order of the stores.
    pub(super) unordered: bool,
    /// The turn of the first store that loom does not forget for this one.
    pub(super) remembers: usize,
}

impl Access {
    /// One that others have their places before or behind.
    pub(super) fn whole(cpu: usize, object: usize) -> Self {
        Self { cpu, object, reads: 0, loads: None, unordered: false, remembers: 0 }
    }
    /// Whether the other has the same outcome behind this one as before it.
    fn leaves(&self, other: &Access) -> bool {
        let load = other.loads.is_some() || self.loads.is_some() && self.reads >= other.remembers;
        let ordered = !self.unordered && !other.unordered;
        self.object != other.object || load && ordered
    }
    /// Whether it is the other one: what a CPU does next is known but for the
    /// outcome.
    fn is(&self, other: &Access) -> bool {
        (self.cpu, self.reads) == (other.cpu, other.reads)
    }
    /// Whether it is a load to whose CPU the other one is the same, but that it
    /// finds an older store: so nothing follows that one that does not follow this.
    fn is_older_than(&self, other: &Access) -> bool {
        let ordered = !self.unordered && !other.unordered;
        let same = self.loads.is_some() && self.loads == other.loads && self.cpu == other.cpu;
        same && ordered && self.reads < other.reads
    }
}

#[derive(Default)]
struct Search {
    /// There is no bound of preemptions.
    unbounded: bool,
    /// And there are two CPUs.
    two: bool,
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
        s.unbounded = LEAVE_OUT.get() == LeaveOut::Redundant;
        s.two = s.unbounded && cpus == 2;
        s.before = std::mem::take(&mut s.now);
        s.same = true;
        s.asleep.clear();
    });
}

/// An access has been made.
pub(super) fn accessed(access: Access) {
    if !leaves_out_nothing() && !is_redundant() {
        REDUNDANT.set(SEARCH.with_borrow_mut(|s| s.accessed(access)));
    }
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
        let covered =
            |other: &Access| other.is_older_than(&access) || self.unbounded && other.is(&access);
        let was_asleep = self.asleep.iter().any(covered);
        self.asleep.retain(|other| self.two && other.cpu != access.cpu && access.leaves(other));
        self.now.push(access);
        was_asleep
    }
}
