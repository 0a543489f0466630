// SPDX-License-Identifier: GPL-2.0-only
//! Under loom one access of a race can be made to do less, to see whether the
//! race notices.
//!
//! Before each step whoever explores says at which place in the code it is.
//! The accesses of the step, and its fences, say what could be done to them,
//! and are told whether it is.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeSet, HashMap};

use crate::sync::contended::running;

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
    /// There is a task.
    static ON: Cell<bool> = const { Cell::new(false) };
    /// The place of each CPU, and the last access of the step.
    static AT: RefCell<HashMap<usize, (u64, &'static str)>> = RefCell::default();
    /// What each CPU has loaded, by address, and by flags if it is a word of them.
    static LOADED: RefCell<HashMap<(usize, usize, u32), u64>> = RefCell::default();
}

/// From the next round on this is the task; returns the one before.
pub fn set(task: Task) -> Task {
    ON.set(task != Task::Nothing);
    TASK.replace(task)
}

/// The CPUs of a round start.
pub(crate) fn begin() {
    AT.take();
    LOADED.take();
}

/// Whether there is a task, and the CPUs of a round are at it.
pub fn is_on() -> bool {
    ON.get() && running().is_some()
}

/// The CPU that runs, if it has something to do.
fn cpu() -> Option<usize> {
    running().filter(|_| ON.get())
}

/// The CPU that runs is about to take a step at `place`.
pub fn at(place: u64) {
    if let Some(cpu) = cpu() {
        AT.with_borrow_mut(|at| at.insert(cpu, (place, "")));
    }
}

/// An access of the last step that this CPU has begun; what is done to it, if
/// it is one of `possible`.
pub(crate) fn change_of(access: &'static str, possible: &[Change]) -> Option<Change> {
    let cpu = cpu()?;
    let (place, after) = AT.with_borrow(|at| at.get(&cpu).copied())?;
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
    let Some(cpu) = cpu() else { return };
    AT.with_borrow_mut(|at| {
        if let Some((_, after)) = at.get_mut(&cpu) {
            *after = access;
        }
    });
}

/// What this CPU has loaded from `address` before.
pub(crate) fn loaded(address: usize, flags: u32) -> Option<u64> {
    let key = (cpu()?, address, flags);
    LOADED.with_borrow(|all| all.get(&key).copied())
}

/// This CPU has loaded `value` from `address`.
pub(crate) fn has_loaded(address: usize, flags: u32, value: u64) {
    if let Some(cpu) = cpu() {
        LOADED.with_borrow_mut(|all| all.insert((cpu, address, flags), value));
    }
}
