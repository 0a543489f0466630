// SPDX-License-Identifier: GPL-2.0-only
//! The one switch between real threads and loom.
//!
//! Nothing outside of it names `std::sync` or `loom`, so a model checked by loom
//! and a world fuzzed at full speed are built from the same text.
#![allow(clippy::disallowed_types)]

#[cfg(not(loom))]
pub(crate) use std::sync::atomic::{AtomicU32, AtomicU64, Ordering, fence};
#[cfg(not(loom))]
use std::sync::{Mutex, MutexGuard};
#[cfg(not(loom))]
pub(crate) use std::thread::yield_now;

#[cfg(loom)]
pub(crate) use contended::{fence, yield_now};
#[cfg(loom)]
pub(crate) use flags::AtomicFlags;
#[cfg(loom)]
pub(crate) use locks::{Lock, LockGuard, Locked};
#[cfg(loom)]
pub(crate) use loom::sync::atomic::Ordering;
#[cfg(loom)]
pub(crate) use words::{AtomicU32, AtomicU64};

#[cfg(loom)]
mod barriers;
#[cfg(loom)]
pub mod contended;
#[cfg(loom)]
mod flags;
#[cfg(loom)]
mod locks;
#[cfg(loom)]
pub mod redundant;
#[cfg(loom)]
mod words;

/// Flags, each of which stands for itself.
#[cfg(not(loom))]
#[derive(Debug, Default)]
pub(crate) struct AtomicFlags(AtomicU32);

#[cfg(not(loom))]
impl AtomicFlags {
    #[inline]
    pub(crate) fn load(&self, flags: u32) -> u32 {
        self.0.load(Ordering::Relaxed) & flags
    }
    #[inline]
    pub(crate) fn store(&self, v: u32) {
        self.0.store(v, Ordering::Relaxed);
    }
    #[inline]
    pub(crate) fn fetch_or(&self, flags: u32, order: Ordering) -> u32 {
        self.0.fetch_or(flags, order) & flags
    }
    #[inline]
    pub(crate) fn fetch_and_not(&self, flags: u32, order: Ordering) -> u32 {
        self.0.fetch_and(!flags, order) & flags
    }
}

/// State that is reached only under a lock of its own: the model's internals,
/// such as free lists. What the port touches has primitives of its own.
#[cfg(not(loom))]
#[derive(Debug)]
pub(crate) struct Locked<T>(Mutex<T>);

#[cfg(not(loom))]
impl<T> Locked<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Mutex::new(value))
    }
    /// Takes the lock. A panic while it was held is a mistake of ours that
    /// has been reported already, so poisoning is ignored.
    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    /// Makes a change under the lock that others of its kind may come before or
    /// behind: loom need not tell which. It touches nothing else.
    pub(crate) fn commute(&self, change: impl FnOnce(&mut T)) {
        change(&mut self.lock());
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
