// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: words.
//!
//! loom is told which of its stores an access to a word is about, so that two
//! that stored the same value differ. What the only CPU that writes a word
//! reads of it is its own, and loom is told nothing.
//!
//! loom forgets: of the loads since the last store it remembers the last alone.
//! If A loads, then B loads and stores, B's own load stands between the two, and
//! loom does not try B's store before A's load. So behind each load of a word to
//! which that happens comes a touch of a word of its own, a reminder, and behind
//! such a store, too.

use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use loom::sync::atomic::Ordering::{self, Relaxed};

use super::barriers::{self, What};
use super::contended::{
    Contended, Tell, Used, Users, found, made, new_reminder, running, switching,
};
use super::redundant::{self, Access};
use crate::mutant::{self, Change};

/// A word that reminds loom of loads.
pub(super) type Reminder = Arc<loom::sync::atomic::AtomicU32>;

/// Touches a word together with the access before: nobody comes between.
fn remind(word: &Reminder) {
    loom::stop_exploring();
    // To read what is there now, and nothing older.
    switching(|| word.fetch_add(0, Relaxed));
    loom::explore();
}

/// The loads since the last store of a word of which loom is told: each CPU
/// that has loaded, the last of them last, with the word that it touched.
#[derive(Debug, Default)]
struct Loads(Mutex<Vec<(usize, Option<Reminder>)>>);

impl Loads {
    fn all(&self) -> MutexGuard<'_, Vec<(usize, Option<Reminder>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// `cpu` has loaded; whether loom must be reminded of it.
    fn add(&self, cpu: usize, reminded: bool) {
        let mut all = self.all();
        let at = all.iter().position(|(other, _)| *other == cpu);
        let known = at.and_then(|at| all.remove(at).1);
        let word = if reminded { known.or_else(new_reminder) } else { None };
        all.push((cpu, word.clone()));
        drop(all);
        word.iter().for_each(remind);
    }
    /// `cpu` has stored to a word. loom knows of the last load. Whether it has
    /// forgotten others that it was not reminded of.
    fn forget(&self, cpu: usize) -> bool {
        let mut forgotten = std::mem::take(&mut *self.all());
        forgotten.pop();
        let others = forgotten.iter().filter(|(other, _)| *other != cpu).map(|(_, word)| word);
        others.clone().flatten().for_each(remind);
        others.clone().any(Option::is_none)
    }
}

/// A word.
#[derive(Debug)]
pub(super) struct Word {
    number: usize,
    contended: Contended,
    users: Users,
    /// What was stored last.
    value: std::sync::atomic::AtomicU64,
    told: OnceLock<Told>,
}

/// The number of a store that is never made.
const NEVER: usize = usize::MAX;

/// How many stores of a word loom remembers.
const HISTORY: usize = 7;

/// A store, by whose number loom knows it.
#[derive(Clone, Copy, Debug)]
struct Store {
    value: u64,
    /// The first was made before they started.
    cpu: Option<usize>,
    /// How many were made before it.
    turn: usize,
}

/// A word of which loom is told.
#[derive(Debug)]
struct Told {
    number: usize,
    word: loom::sync::atomic::AtomicUsize,
    stores: Mutex<Vec<Store>>,
    /// How many of them have been made.
    made: std::sync::atomic::AtomicUsize,
    /// The last store.
    last: std::sync::atomic::AtomicUsize,
    /// loom may not know the order of the stores.
    unordered: std::sync::atomic::AtomicBool,
    loads: Loads,
}

impl Tell for Word {
    fn tell(&self) {
        let first = Store { value: self.peek(), cpu: None, turn: 0 };
        let told = Told {
            number: self.number,
            word: loom::sync::atomic::AtomicUsize::new(0),
            stores: Mutex::new(vec![first]),
            made: 1.into(),
            last: std::sync::atomic::AtomicUsize::new(0),
            unordered: false.into(),
            loads: Loads::default(),
        };
        assert!(self.told.set(told).is_ok(), "one race in a world");
    }
}

/// How something is stored.
#[derive(Clone, Copy)]
pub(super) enum How {
    /// Whatever was there.
    Store(Ordering),
    /// By a read-modify-write that always stores.
    Always(Ordering),
    /// By one that may not; its order where it does. Else it has none.
    Perhaps(Ordering),
}

impl How {
    fn is_full(self) -> bool {
        matches!(self, How::Always(SeqCst))
    }
}

/// How loom is told of it: the fences of a fully ordered one stand beside it.
fn loosely(order: Ordering) -> Ordering {
    if order == SeqCst { Relaxed } else { order }
}

impl Told {
    fn stores(&self) -> MutexGuard<'_, Vec<Store>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn store(&self, number: usize) -> Store {
        self.stores()[number]
    }
    /// The number of a store that `cpu` is about to make.
    fn new_store(&self, cpu: usize, value: u64) -> usize {
        let mut stores = self.stores();
        stores.push(Store { value, cpu: Some(cpu), turn: usize::MAX });
        stores.len() - 1
    }
    /// It has been made.
    fn made(&self, number: usize) {
        self.stores()[number].turn = self.made.fetch_add(1, SeqCst);
    }
    /// `cpu` has loaded.
    fn loaded(&self, cpu: usize, reads: usize, kind: &dyn Fn(u64) -> u64) {
        let store = self.store(reads);
        if store.cpu.is_some_and(|other| other != cpu) {
            barriers::seen(cpu);
        }
        let unordered = self.unordered.load(SeqCst);
        let (object, reads, loads) = (self.number, store.turn, Some(kind(store.value)));
        redundant::accessed(Access { cpu, object, reads, loads, unordered, remembers: 0 });
    }
    /// `cpu` has stored; what it read, if it did.
    fn stored(&self, cpu: usize, reads: Option<usize>) {
        let last = self.store(self.last.load(SeqCst)).cpu;
        if reads.is_none() && last.is_some_and(|last| last != cpu) {
            self.unordered.store(true, SeqCst);
        }
        let unordered = self.unordered.load(SeqCst);
        let remembers = self.made.load(SeqCst).saturating_sub(HISTORY);
        let reads = reads.map_or(0, |store| self.store(store).turn);
        let object = self.number;
        redundant::accessed(Access { cpu, object, reads, loads: None, unordered, remembers });
    }
    /// `cpu` stores what `new` makes of the value: which store that is, if any,
    /// and which was read.
    fn change(
        &self,
        cpu: usize,
        how: How,
        new: &dyn Fn(u64) -> Option<u64>,
    ) -> (Option<usize>, usize) {
        match how {
            How::Store(order) => {
                let store = self.new_store(cpu, new(0).unwrap_or(0));
                switching(|| self.word.store(store, order));
                self.made(store);
                self.stored(cpu, None);
                (Some(store), 0)
            }
            How::Always(order) => {
                let store = self.new_store(cpu, 0);
                let read = switching(|| self.word.swap(store, loosely(order)));
                self.made(store);
                self.stored(cpu, Some(read));
                let old = self.store(read).value;
                self.stores()[store].value = new(old).unwrap_or(old);
                (Some(store), read)
            }
            How::Perhaps(ok) => self.change_perhaps(cpu, ok, new),
        }
    }
    /// First a cmpxchg that fails, to see what is there when it is this CPU's
    /// turn; then, with nobody between, the one that counts. Of two stores that
    /// have no order loom may find the other then.
    fn change_perhaps(
        &self,
        cpu: usize,
        ok: Ordering,
        new: &dyn Fn(u64) -> Option<u64>,
    ) -> (Option<usize>, usize) {
        let exchange = |old, new, ok| {
            let (Ok(read) | Err(read)) =
                switching(|| self.word.compare_exchange(old, new, ok, Relaxed));
            read
        };
        let mut read = exchange(NEVER, NEVER, Relaxed);
        let mut stored = None;
        while let (None, Some(v)) = (stored, new(self.store(read).value)) {
            let store = self.new_store(cpu, v);
            loom::stop_exploring();
            let found = exchange(read, store, loosely(ok));
            loom::explore();
            if found == read {
                self.made(store);
                stored = Some(store);
            }
            read = found;
        }
        self.stored(cpu, Some(read));
        (stored, read)
    }
}

impl Word {
    pub(super) fn new(number: usize, contended: Contended, v: u64) -> Self {
        let users = Users::new(number);
        Word { number, contended, users, value: v.into(), told: OnceLock::new() }
    }
    /// The CPU at work, and the word as loom knows it.
    fn told(&self) -> Option<(usize, &Told)> {
        running().filter(|_| !redundant::is_redundant()).zip(self.told.get())
    }
    /// Two values of a kind are the same to the CPU.
    pub(super) fn load(&self, order: Ordering, kind: &dyn Fn(u64) -> u64) -> u64 {
        let Some((cpu, told)) = self.told() else { return self.load_plainly() };
        if self.contended.writer == Some(cpu) && !redundant::leaves_out_nothing() {
            // It reads its own, and nobody can tell when.
            return self.peek();
        }
        barriers::before(cpu, What::Load);
        let store = switching(|| told.word.load(order));
        told.loads.add(cpu, self.contended.reminded);
        told.loaded(cpu, store, kind);
        if redundant::is_redundant() { self.load_plainly() } else { told.store(store).value }
    }
    fn load_plainly(&self) -> u64 {
        self.users.note(Used::one(false));
        self.peek()
    }
    /// What was stored last; loom is not told.
    pub(super) fn peek(&self) -> u64 {
        self.value.load(SeqCst)
    }
    /// Stores what `new` makes of the value, if anything; answers what was
    /// there before, if it was read.
    pub(super) fn change(&self, how: How, new: &dyn Fn(u64) -> Option<u64>) -> u64 {
        let Some((cpu, told)) = self.told() else { return self.change_plainly(new) };
        barriers::before(cpu, if how.is_full() { What::FullRmw } else { What::Store });
        let (store, read) = told.change(cpu, how, new);
        let reminded = self.contended.reminded | told.loads.forget(cpu);
        let writer = self.contended.writer.filter(|&writer| writer == cpu);
        if (writer, reminded) != (self.contended.writer, self.contended.reminded) {
            found(self.number, Contended { writer, reminded });
        }
        if redundant::is_redundant() {
            return self.change_plainly(new);
        }
        if let Some(store) = store {
            told.last.store(store, SeqCst);
            self.value.store(told.store(store).value, SeqCst);
        }
        told.store(read).value
    }
    fn change_plainly(&self, new: &dyn Fn(u64) -> Option<u64>) -> u64 {
        let old = self.peek();
        let new = new(old).unwrap_or(old);
        self.users.note(Used::one(new != old || redundant::leaves_out_nothing()));
        self.value.store(new, SeqCst);
        old
    }
}

macro_rules! atomic {
    ($name:ident, $int:ty) => {
        #[derive(Debug)]
        pub(crate) struct $name(Arc<Word>);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(v: $int) -> Self {
                Self(made(|number, contended| Word::new(number, contended, v.into())))
            }
            pub(crate) fn load(&self, order: Ordering) -> $int {
                self.load_of(order, &|v| v)
            }
            fn load_of(&self, order: Ordering, kind: &dyn Fn(u64) -> u64) -> $int {
                if !mutant::is_on() {
                    return self.0.load(order, kind) as $int;
                }
                let address = std::ptr::from_ref(self).addr();
                let before = mutant::loaded(address, 0);
                let mut possible = Vec::new();
                possible.extend((order != Relaxed).then_some(Change::Unordered));
                possible.extend(before.map(|_| Change::Stale));
                let order = match (mutant::change_of("load", &possible), before) {
                    (Some(Change::Stale), Some(v)) => return v as $int,
                    (Some(_), _) => Relaxed,
                    (None, _) => order,
                };
                let v = self.0.load(order, kind);
                mutant::has_loaded(address, 0, v);
                mutant::is_done("load");
                v as $int
            }
            /// A relaxed load of which only what `is` says counts.
            pub(crate) fn load_is(&self, is: impl Fn($int) -> bool) -> bool {
                let kind = |v: u64| is(v as $int).into();
                is(self.load_of(Relaxed, &kind))
            }
            /// What was stored last; loom is not told.
            pub(crate) fn peek(&self) -> $int {
                self.0.peek() as $int
            }
            pub(crate) fn store(&self, v: $int, order: Ordering) {
                let possible = [Change::LeftOut, Change::Unordered];
                let possible = &possible[..1 + usize::from(order != Relaxed)];
                let order = match mutant::change_of("store", possible) {
                    Some(Change::LeftOut) => return,
                    Some(_) => Relaxed,
                    None => order,
                };
                self.0.change(How::Store(order), &|_| Some(v.into()));
            }
            /// A read-modify-write; `new` says what it stores.
            fn rmw(
                &self,
                access: &'static str,
                order: Ordering,
                new: impl Fn($int) -> $int,
            ) -> $int {
                let change = mutant::change_of(access, &[Change::LeftOut, Change::Torn]);
                mutant::is_done(access);
                let Some(change) = change else {
                    let new = |old| Some(new(old as $int).into());
                    return self.0.change(How::Always(order), &new) as $int;
                };
                let old = self.load(Relaxed);
                if change == Change::Torn {
                    self.0.change(How::Store(Relaxed), &|_| Some(new(old).into()));
                }
                old
            }
            pub(crate) fn swap(&self, v: $int, order: Ordering) -> $int {
                self.rmw("exchange", order, |_| v)
            }
            pub(crate) fn fetch_add(&self, v: $int, order: Ordering) -> $int {
                self.rmw("add", order, |old| old.wrapping_add(v))
            }
            pub(crate) fn fetch_and(&self, v: $int, order: Ordering) -> $int {
                self.rmw("and", order, |old| old & v)
            }
            pub(crate) fn compare_exchange(
                &self,
                old: $int,
                new: $int,
                ok: Ordering,
                failed: Ordering,
            ) -> Result<$int, $int> {
                self.fetch_update(ok, failed, |now| (now == old).then_some(new))
            }
            /// If another store comes between, std's tries again, which nobody
            /// can tell from one that comes behind that store.
            pub(crate) fn fetch_update(
                &self,
                ok: Ordering,
                _relaxed: Ordering,
                new: impl Fn($int) -> Option<$int>,
            ) -> Result<$int, $int> {
                let change = mutant::change_of("cmpxchg", &[Change::LeftOut, Change::Torn]);
                let old = match change {
                    None => self.0.change(How::Perhaps(ok), &|old| new(old as $int).map(u64::from)),
                    Some(_) => self.0.load(Relaxed, &|v| v),
                } as $int;
                let new = new(old).ok_or(old)?;
                if change == Some(Change::Torn) {
                    self.0.change(How::Store(Relaxed), &|_| Some(new.into()));
                }
                mutant::is_done("cmpxchg");
                Ok(old)
            }
        }
    };
}
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);
