// SPDX-License-Identifier: GPL-2.0-only
//! The one switch between real threads and loom.
//!
//! Nothing else in the crate names `std::sync` or `loom`, so a model checked
//! by loom and a world fuzzed at full speed are built from the same text.
#![allow(clippy::disallowed_types)]

#[cfg(loom)]
pub use loom::sync::Arc;
#[cfg(loom)]
pub(crate) use loom::sync::atomic::Ordering;
#[cfg(loom)]
use loom::sync::{Mutex, MutexGuard};
#[cfg(loom)]
pub(crate) use loom::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
#[cfg(loom)]
pub(crate) use loom::thread::{self, ThreadId, yield_now};
#[cfg(not(loom))]
pub use std::sync::Arc;
#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::{sync::atomic::fence, thread::yield_now};

#[cfg(loom)]
pub(crate) use seen::{AtomicU32, AtomicU64, fence};

/// loom's atomics, with the loads that loom forgets.
///
/// Of the loads since the last store loom remembers the last alone. If A loads,
/// then B loads and stores, B's own load stands between the two, and loom does
/// not try B's store before A's load. So each load of a race also touches a
/// word of its thread and of what it loads, and such a store reads that word.
#[cfg(loom)]
pub mod seen {
    use std::cell::RefCell;
    use std::sync::{Arc, Mutex};

    use loom::sync::atomic::Ordering::{self, Relaxed};
    use loom::thread::{self, ThreadId};

    use crate::mutant::{self, Change};

    /// Words of one round of a race; the longest takes half of them.
    const WORDS: usize = 128;

    thread_local! {
        /// The words that nothing loaded has got yet. loom runs its threads on
        /// one thread of the machine.
        static WORDS_LEFT: RefCell<Vec<Word>> = const { RefCell::new(Vec::new()) };
    }

    type Word = Arc<loom::sync::atomic::AtomicU32>;

    /// A race begins: loads matter from here on. To be called before the first
    /// of its threads is there.
    pub fn begin() {
        let word = || Word::new(loom::sync::atomic::AtomicU32::new(0));
        let words = (0..WORDS).map(|_| word()).collect();
        WORDS_LEFT.replace(words);
    }

    /// All threads but one have ended.
    pub fn end() {
        WORDS_LEFT.take();
    }

    /// Who has loaded since the last store, with the word.
    #[derive(Debug)]
    struct Loads(Mutex<Vec<(ThreadId, Word)>>);

    impl Loads {
        fn new() -> Self {
            Loads(Mutex::default())
        }
        fn all(&self) -> Vec<(ThreadId, Word)> {
            self.0.lock().expect("no panic under it").clone()
        }
        /// This thread is about to load.
        fn load(&self) {
            if WORDS_LEFT.with_borrow(Vec::is_empty) {
                return;
            }
            let me = thread::current().id();
            let known = self.all().into_iter().find(|(thread, _)| *thread == me);
            let (_, word) = known.unwrap_or_else(|| {
                let word = WORDS_LEFT.with_borrow_mut(|words| {
                    assert!(words.len() > 1, "a race loads more than {WORDS} words");
                    words.pop().expect("more than one")
                });
                self.0.lock().expect("no panic under it").push((me, Word::clone(&word)));
                (me, word)
            });
            word.fetch_add(0, Relaxed);
        }
        /// This thread is about to store.
        fn store(&self) {
            let all = self.all();
            if all.is_empty() {
                return;
            }
            let me = thread::current().id();
            if all.iter().any(|(thread, _)| *thread == me) {
                for (_, word) in all.iter().filter(|(thread, _)| *thread != me) {
                    word.load(Relaxed);
                }
            }
            self.0.lock().expect("no panic under it").clear();
        }
    }

    macro_rules! atomic {
        ($name:ident, $int:ty) => {
            #[derive(Debug)]
            pub(crate) struct $name(loom::sync::atomic::$name, Loads);

            #[allow(dead_code)]
            impl $name {
                pub(crate) fn new(v: $int) -> Self {
                    $name(loom::sync::atomic::$name::new(v), Loads::new())
                }
                pub(crate) fn load(&self, order: Ordering) -> $int {
                    if !mutant::is_on() {
                        return self.load_again(order);
                    }
                    let address = std::ptr::from_ref(self).addr();
                    let before = mutant::loaded(address);
                    let mut possible = Vec::new();
                    possible.extend((order != Relaxed).then_some(Change::Unordered));
                    possible.extend(before.map(|_| Change::Stale));
                    let order = match (mutant::change_of("load", &possible), before) {
                        (Some(Change::Stale), Some(v)) => return v as $int,
                        (Some(_), _) => Relaxed,
                        (None, _) => order,
                    };
                    let v = self.load_again(order);
                    mutant::has_loaded(address, v.into());
                    mutant::is_done("load");
                    v
                }
                fn load_again(&self, order: Ordering) -> $int {
                    self.1.load();
                    self.0.load(order)
                }
                pub(crate) fn store(&self, v: $int, order: Ordering) {
                    let possible = [Change::LeftOut, Change::Unordered];
                    let possible = &possible[..1 + usize::from(order != Relaxed)];
                    let order = match mutant::change_of("store", possible) {
                        Some(Change::LeftOut) => return,
                        Some(_) => Relaxed,
                        None => order,
                    };
                    self.1.store();
                    self.0.store(v, order);
                }
                /// A read-modify-write, by `whole`; `new` says what it stores.
                fn rmw(
                    &self,
                    access: &'static str,
                    whole: impl FnOnce(&loom::sync::atomic::$name) -> $int,
                    new: impl FnOnce($int) -> $int,
                ) -> $int {
                    let change = mutant::change_of(access, &[Change::LeftOut, Change::Torn]);
                    mutant::is_done(access);
                    let Some(change) = change else {
                        self.1.store();
                        return whole(&self.0);
                    };
                    let old = self.load_again(Relaxed);
                    if change == Change::Torn {
                        self.1.store();
                        self.0.store(new(old), Relaxed);
                    }
                    old
                }
                pub(crate) fn swap(&self, v: $int, order: Ordering) -> $int {
                    self.rmw("exchange", |a| a.swap(v, order), |_| v)
                }
                pub(crate) fn fetch_add(&self, v: $int, order: Ordering) -> $int {
                    self.rmw("add", |a| a.fetch_add(v, order), |old| old.wrapping_add(v))
                }
                pub(crate) fn fetch_or(&self, v: $int, order: Ordering) -> $int {
                    self.rmw("or", |a| a.fetch_or(v, order), |old| old | v)
                }
                pub(crate) fn fetch_and(&self, v: $int, order: Ordering) -> $int {
                    self.rmw("and", |a| a.fetch_and(v, order), |old| old & v)
                }
                pub(crate) fn compare_exchange(
                    &self,
                    old: $int,
                    new: $int,
                    ok: Ordering,
                    failed: Ordering,
                ) -> Result<$int, $int> {
                    let change = mutant::change_of("cmpxchg", &[Change::LeftOut, Change::Torn]);
                    if change.is_none() {
                        self.1.store();
                        let found = self.0.compare_exchange(old, new, ok, failed);
                        if found.is_ok() {
                            mutant::is_done("cmpxchg");
                        }
                        return found;
                    }
                    let now = self.load_again(Relaxed);
                    if now != old {
                        return Err(now);
                    }
                    if change == Some(Change::Torn) {
                        self.1.store();
                        self.0.store(new, Relaxed);
                    }
                    mutant::is_done("cmpxchg");
                    Ok(now)
                }
            }
        };
    }
    atomic!(AtomicU32, u32);
    atomic!(AtomicU64, u64);

    pub(crate) fn fence(order: Ordering) {
        if mutant::change_of("fence", &[Change::LeftOut]).is_none() {
            loom::sync::atomic::fence(order);
        }
    }
}

/// State that is reached only under a lock of its own: the model's internals,
/// such as free lists. What the port touches has primitives of its own.
#[derive(Debug)]
pub(crate) struct Locked<T>(Mutex<T>);

impl<T> Locked<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    /// Takes the lock. A panic while it was held is a mistake of ours that
    /// has been reported already, so poisoning is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// State of which each CPU has its own, such as LRU batches: it orders nothing
/// between CPUs, and loom is not told of it.
#[derive(Debug)]
pub(crate) struct OwnCpu<T>(std::sync::Mutex<T>);

impl<T> OwnCpu<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(std::sync::Mutex::new(value))
    }
    /// Takes the lock, which is never held across a step.
    pub(crate) fn lock(&self) -> std::sync::MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
