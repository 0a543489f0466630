// SPDX-License-Identifier: GPL-2.0-only
//! Under loom one access of a race can be made to do less, to see whether the
//! race notices.
//!
//! Before each step whoever explores says at which place in the code it is.
//! The accesses of the step, and its fences, say what could be done to them,
//! and are told whether it is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use crate::sync::{ThreadId, thread};

/// What is done to an access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Change {
    /// A load or a store orders nothing.
    Unordered,
    /// A load answers what this CPU has loaded there before.
    Stale,
    /// A store, a fence or a lock does nothing; a read-modify-write only reads.
    LeftOut,
    /// A read-modify-write reads, and then writes.
    Torn,
}

/// Something that could be done to an access.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Mutant {
    /// Where the step is, as [`at`] was told.
    pub place: u64,
    /// The kind of access, or `fence`.
    pub access: &'static str,
    /// The access of the same step before it, if any, that had an effect: so
    /// the fences before and behind a read-modify-write differ.
    pub after: &'static str,
    /// What is done to it.
    pub change: Change,
}

/// What to do in the rounds of a race.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Task {
    /// Nothing.
    Nothing,
    /// Note what could be done.
    Note(BTreeSet<Mutant>),
    /// Do this, at each place where it can be done.
    Do(Vec<Mutant>),
}

thread_local! {
    static TASK: RefCell<Task> = const { RefCell::new(Task::Nothing) };
    /// In the middle of a race, and there is a task.
    static ON: Cell<bool> = const { Cell::new(false) };
    /// The place of each CPU, and the last access of the step.
    static AT: RefCell<HashMap<ThreadId, (u64, &'static str)>> = RefCell::default();
    /// What each CPU has loaded, by address.
    static LOADED: RefCell<HashMap<(ThreadId, usize), u64>> = RefCell::default();
}

/// From the next race on this is the task; returns the one before.
pub fn set(task: Task) -> Task {
    // A race that panics does not come to its end.
    ON.set(false);
    TASK.replace(task)
}

/// A race begins. To be called before the first of its threads is there.
pub fn begin() {
    AT.take();
    LOADED.take();
    ON.set(TASK.with_borrow(|task| *task != Task::Nothing));
}

/// All threads but one have ended.
pub fn end() {
    ON.set(false);
}

/// Whether there is a task, and a race.
pub fn is_on() -> bool {
    ON.get()
}

/// This CPU is about to take a step at `place`.
pub fn at(place: u64) {
    AT.with_borrow_mut(|at| at.insert(thread::current().id(), (place, "")));
}

/// An access of the last step that this CPU has begun; what is done to it, if
/// it is one of `possible`.
pub(crate) fn change_of(access: &'static str, possible: &[Change]) -> Option<Change> {
    if !ON.get() {
        return None;
    }
    let (place, after) = AT.with_borrow(|at| at.get(&thread::current().id()).copied())?;
    let mut mutants = possible.iter().map(|&change| Mutant { place, access, after, change });
    TASK.with_borrow_mut(|task| match task {
        Task::Nothing => None,
        Task::Note(all) => {
            all.extend(mutants);
            None
        }
        Task::Do(wanted) => mutants.find(|m| wanted.contains(m)).map(|m| m.change),
    })
}

/// An access is over, and had an effect.
pub(crate) fn is_done(access: &'static str) {
    if ON.get() {
        AT.with_borrow_mut(|at| {
            if let Some((_, after)) = at.get_mut(&thread::current().id()) {
                *after = access;
            }
        });
    }
}

/// What this CPU has loaded from `address` before.
pub(crate) fn loaded(address: usize) -> Option<u64> {
    let key = || (thread::current().id(), address);
    if ON.get() { LOADED.with_borrow(|all| all.get(&key()).copied()) } else { None }
}

/// This CPU has loaded `value` from `address`.
pub(crate) fn has_loaded(address: usize, value: u64) {
    if ON.get() {
        LOADED.with_borrow_mut(|all| all.insert((thread::current().id(), address), value));
    }
}
