// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: locks.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::AtomicI32;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use super::barriers::{self, What};
use super::contended::{Tell, Used, Users, made, running, switching, yield_now};
use super::redundant::{self, Access};
use crate::atomic::Hold;

#[derive(Debug)]
struct LockWord {
    number: usize,
    users: Users,
    /// 0 free, n readers, −1 a writer.
    holders: AtomicI32,
    told: OnceLock<loom::sync::RwLock<()>>,
}

impl Tell for LockWord {
    fn tell(&self) {
        assert!(self.told.set(loom::sync::RwLock::new(())).is_ok(), "one race in a world");
    }
}

/// A lock that readers share.
#[derive(Debug)]
pub(crate) struct Lock(Arc<LockWord>);

impl Lock {
    pub(crate) fn new() -> Self {
        Self(made(|number, _| LockWord {
            number,
            users: Users::new(number),
            holders: 0.into(),
            told: OnceLock::new(),
        }))
    }
    /// 0 free, n readers, −1 a writer.
    pub(crate) fn holders(&self) -> i32 {
        self.0.holders.load(SeqCst)
    }
    /// Waits until it can be had.
    pub(crate) fn take(&self, how: Hold) -> LockGuard<'_> {
        let poisoned = "a panic ends the model";
        let told = self.0.told.get().filter(|_| !redundant::is_redundant());
        let told = match (running(), told) {
            (Some(cpu), Some(lock)) => {
                barriers::before(cpu, What::Store);
                let guard = switching(|| match how {
                    Hold::Read => Guard::Read(lock.read().expect(poisoned)),
                    Hold::Write => Guard::Write(lock.write().expect(poisoned)),
                });
                let object = self.0.number;
                redundant::accessed(Access::whole(cpu, object));
                Some(guard)
            }
            _ => {
                self.0.users.note(Used::one(how == Hold::Write));
                None
            }
        };
        let (most, change) = if how == Hold::Read { (i32::MAX, 1) } else { (0, -1) };
        while !(0..=most).contains(&self.holders()) {
            yield_now();
        }
        self.0.holders.fetch_add(change, SeqCst);
        LockGuard { holders: &self.0.holders, change, _told: told }
    }
}

/// A lock that is held.
pub(crate) struct LockGuard<'l> {
    holders: &'l AtomicI32,
    change: i32,
    _told: Option<Guard<'l>>,
}

/// What loom gives for a lock.
enum Guard<'l> {
    Read(#[allow(dead_code)] loom::sync::RwLockReadGuard<'l, ()>),
    Write(#[allow(dead_code)] loom::sync::RwLockWriteGuard<'l, ()>),
}

impl Drop for LockGuard<'_> {
    fn drop(&mut self) {
        self.holders.fetch_sub(self.change, SeqCst);
    }
}

impl fmt::Debug for LockGuard<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LockGuard")
    }
}

/// State that is reached only under a lock of its own.
#[derive(Debug)]
pub(crate) struct Locked<T> {
    lock: Lock,
    value: Mutex<T>,
}

impl<T> Locked<T> {
    pub(crate) fn new(value: T) -> Self {
        Self { lock: Lock::new(), value: Mutex::new(value) }
    }
    pub(crate) fn lock(&self) -> LockedGuard<'_, T> {
        let held = self.lock.take(Hold::Write);
        LockedGuard { value: self.value(), _held: held }
    }
    /// Such changes share the lock.
    pub(crate) fn commute(&self, change: impl FnOnce(&mut T)) {
        let _held = self.lock.take(Hold::Read);
        change(&mut self.value());
    }
    fn value(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That state, while its lock is held.
pub(crate) struct LockedGuard<'l, T> {
    value: MutexGuard<'l, T>,
    _held: LockGuard<'l>,
}

impl<T> Deref for LockedGuard<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T> DerefMut for LockedGuard<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.value
    }
}
