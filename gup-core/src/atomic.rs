// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's atomics, barriers, sequence counts and locks.
//!
//! This is the only file that names a memory ordering. The kernel's rules
//! (Documentation/atomic_t.txt) are written down once, here:
//!
//! | kernel primitive | ordering there | written here as |
//! |---|---|---|
//! | atomic_read/set, READ_ONCE, WRITE_ONCE | none | Relaxed |
//! | atomic_add/sub/inc without value | none | Relaxed RMW |
//! | RMW that returns a value, successful cmpxchg | full | see below |
//! | failed cmpxchg or add_unless | none | no fence after it |
//! | smp_load_acquire, smp_store_release, locks | acquire, release | the same |
//! | smp_rmb, smp_wmb | read-read, write-write | Acquire, Release fence (a little stronger) |
//! | address dependency | ordered | Acquire load, with a comment |
//!
//! loom treats a SeqCst *access* as AcqRel but honours SeqCst *fences*, so a
//! fully ordered RMW is two fences around a relaxed one there. Outside loom
//! one SeqCst RMW gives the same on the machines a fuzzer runs on, at a third
//! of the price.
#![allow(clippy::disallowed_types)]

#[cfg(loom)]
use std::cell::RefCell;
#[cfg(not(loom))]
use std::marker::PhantomData;

#[cfg(loom)]
use crate::mutant::{self, Change};
use crate::sync::{AtomicFlags, AtomicU32, AtomicU64, Ordering, fence};
#[cfg(loom)]
use crate::sync::{Lock, LockGuard};
use Ordering::{Acquire, Relaxed, Release};

const FULL: Ordering = Ordering::SeqCst;

/// The barrier before a fully ordered read-modify-write; pairs with any other
/// full barrier on the same pair of locations.
#[inline]
fn full_before() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// The barrier after a fully ordered, successful read-modify-write.
#[inline]
fn full_after() {
    #[cfg(loom)]
    fence(Ordering::SeqCst);
}

/// A full barrier. C: smp_mb(), asm-generic/barrier.h
#[inline]
pub fn smp_mb() {
    fence(Ordering::SeqCst);
}

/// Orders reads before reads. Stronger than the kernel's: it also orders the
/// earlier reads before later writes. C: smp_rmb()
#[inline]
pub fn smp_rmb() {
    fence(Acquire);
}

/// Orders writes before writes. Stronger than the kernel's: it also orders
/// earlier reads before the later writes. C: smp_wmb()
#[inline]
pub fn smp_wmb() {
    fence(Release);
}

/// A 32-bit counter or word. C: atomic_t, linux/atomic.h
#[derive(Debug)]
pub struct Atomic32(AtomicU32);

impl Atomic32 {
    /// A counter that starts at `v`.
    pub fn new(v: i32) -> Self {
        Self(AtomicU32::new(v as u32))
    }
    /// C: atomic_read(), READ_ONCE()
    #[inline]
    pub fn read(&self) -> i32 {
        self.0.load(Relaxed) as i32
    }
    /// A load that later accesses through the value depend on; the kernel
    /// gets this order from the address dependency, loom needs it spelled
    /// out. Pairs with [`Atomic32::set_release`].
    #[inline]
    pub fn read_dependent(&self) -> i32 {
        self.0.load(Acquire) as i32
    }
    /// Whether the value is as `is` says, which is all that is asked of it: loom
    /// need not tell apart two values of which it says the same.
    /// C: atomic_read(), compared
    #[inline]
    pub fn read_is(&self, is: impl Fn(i32) -> bool) -> bool {
        #[cfg(loom)]
        return self.0.load_is(|v| is(v as i32));
        #[cfg(not(loom))]
        is(self.read())
    }
    /// For a check that only reports. Under loom nobody comes between it and the
    /// access before, and what it finds is no reason to explore. So it may miss
    /// what is wrong for a moment only, as a count that goes from 0 to 1 and back.
    #[inline]
    pub fn peek(&self) -> i32 {
        #[cfg(loom)]
        return self.0.peek() as i32;
        #[cfg(not(loom))]
        self.read()
    }
    /// C: atomic_set(), WRITE_ONCE()
    #[inline]
    pub fn set(&self, v: i32) {
        self.0.store(v as u32, Relaxed);
    }
    /// C: atomic_set_release(); pairs with [`Atomic32::read_dependent`].
    #[inline]
    pub fn set_release(&self, v: i32) {
        self.0.store(v as u32, Release);
    }
    /// C: atomic_add() (no ordering)
    #[inline]
    pub fn add(&self, n: i32) {
        self.0.fetch_add(n as u32, Relaxed);
    }
    /// Adds and returns the new value. C: atomic_add_return()
    #[inline]
    pub fn add_return(&self, n: i32) -> i32 {
        full_before();
        let v = self.0.fetch_add(n as u32, FULL).wrapping_add(n as u32) as i32;
        full_after();
        v
    }
    /// Subtracts; true if the result is zero. C: atomic_sub_and_test()
    #[inline]
    pub fn sub_and_test(&self, n: i32) -> bool {
        self.add_return(n.wrapping_neg()) == 0
    }
    /// Adds `n` unless the value is `u`; true if it added.
    /// C: atomic_add_unless()
    #[inline]
    pub fn add_unless(&self, n: i32, u: i32) -> bool {
        if self.read_is(|v| v == u) {
            return false;
        }
        full_before();
        let add = |old: u32| (old != u as u32).then_some(old.wrapping_add(n as u32));
        let added = self.0.fetch_update(FULL, Relaxed, add).is_ok();
        if added {
            full_after();
        }
        added
    }
    /// Replaces `old` by `new`; true if it did. C: atomic_cmpxchg() == old
    #[inline]
    pub fn cmpxchg(&self, old: i32, new: i32) -> bool {
        full_before();
        let ok = self.0.compare_exchange(old as u32, new as u32, FULL, Relaxed).is_ok();
        if ok {
            full_after();
        }
        ok
    }
    /// Frees a lock word; pairs with the acquiring side.
    /// C: smp_store_release()
    #[inline]
    pub fn store_release(&self, v: i32) {
        self.0.store(v as u32, Release);
    }
    /// Takes a lock word; pairs with [`Atomic32::store_release`].
    /// C: atomic_try_cmpxchg_acquire()
    #[inline]
    pub fn cmpxchg_acquire(&self, old: i32, new: i32) -> bool {
        self.0.compare_exchange(old as u32, new as u32, Acquire, Relaxed).is_ok()
    }
}

/// Flags, none of them set in the beginning. Most accesses are about one.
/// C: `unsigned long flags`, as `page->flags`, linux/bitops.h
#[derive(Debug, Default)]
pub struct Flags32(AtomicFlags);

impl Flags32 {
    /// Those of `flags` that are set. C: READ_ONCE()
    #[inline]
    pub fn read(&self, flags: u32) -> u32 {
        self.0.load(flags)
    }
    /// Whether all of `flags` are set. C: test_bit()
    #[inline]
    pub fn test(&self, flags: u32) -> bool {
        self.read(flags) == flags
    }
    /// [`Flags32::read`], as [`Atomic32::peek`].
    #[inline]
    pub fn peek(&self, flags: u32) -> u32 {
        #[cfg(loom)]
        return self.0.peek(flags);
        #[cfg(not(loom))]
        self.read(flags)
    }
    /// Replaces all of them. C: WRITE_ONCE()
    #[inline]
    pub fn set_all(&self, flags: u32) {
        self.0.store(flags);
    }
    /// Sets `flags`. C: set_bit() and its relatives (no ordering)
    #[inline]
    pub fn set(&self, flags: u32) {
        self.0.fetch_or(flags, Relaxed);
    }
    /// Clears `flags`. C: clear_bit() (no ordering)
    #[inline]
    pub fn clear(&self, flags: u32) {
        self.0.fetch_and_not(flags, Relaxed);
    }
    /// Sets `flags` and returns whether all of them were set before.
    /// C: test_and_set_bit()
    #[inline]
    pub fn test_and_set(&self, flags: u32) -> bool {
        full_before();
        let old = self.0.fetch_or(flags, FULL);
        full_after();
        old == flags
    }
    /// Clears `flags` and returns whether all of them were set before.
    /// C: test_and_clear_bit()
    #[inline]
    pub fn test_and_clear(&self, flags: u32) -> bool {
        full_before();
        let old = self.0.fetch_and_not(flags, FULL);
        full_after();
        old == flags
    }
}

/// A 64-bit word: a page-table entry, a page's contents, a statistic.
#[derive(Debug)]
pub struct Word64(AtomicU64);

impl Word64 {
    /// A word that starts at `v`.
    pub fn new(v: u64) -> Self {
        Self(AtomicU64::new(v))
    }
    /// C: READ_ONCE()
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Relaxed)
    }
    /// A load whose value is then followed (entry to table, entry to page):
    /// the kernel's address dependency. Pairs with [`Word64::set_release`].
    #[inline]
    pub fn read_dependent(&self) -> u64 {
        self.0.load(Acquire)
    }
    /// C: WRITE_ONCE()
    #[inline]
    pub fn set(&self, v: u64) {
        self.0.store(v, Relaxed);
    }
    /// Publishes what was written before; pairs with
    /// [`Word64::read_dependent`]. The kernel orders the initialisation of a
    /// page or a table before the entry by the page-table lock or smp_wmb().
    #[inline]
    pub fn set_release(&self, v: u64) {
        self.0.store(v, Release);
    }
    /// Exchanges the word (no ordering). C: xchg_relaxed()
    #[inline]
    pub fn xchg_relaxed(&self, v: u64) -> u64 {
        self.0.swap(v, Relaxed)
    }
    /// Clears bits (no ordering). C: clear_bit()
    #[inline]
    pub fn and_not(&self, bits: u64) {
        self.0.fetch_and(!bits, Relaxed);
    }
    /// Clears bits and returns the word before (no ordering).
    /// C: a cmpxchg_relaxed() loop
    #[inline]
    pub fn fetch_and_not(&self, bits: u64) -> u64 {
        self.0.fetch_and(!bits, Relaxed)
    }
    /// Adds (no ordering). C: atomic_long_add()
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n as u64, Relaxed);
    }
}

/// C: seqcount_t, linux/seqlock.h
///
/// Even: no writer. Odd: a writer is inside.
#[derive(Debug)]
pub struct Seqcount(Atomic32);

impl Seqcount {
    /// A sequence count with no writer.
    pub fn new() -> Self {
        Self(Atomic32::new(0))
    }
    /// C: raw_read_seqcount(): the value, then smp_rmb().
    #[inline]
    pub fn raw_read(&self) -> i32 {
        let seq = self.0.read();
        smp_rmb();
        seq
    }
    /// C: read_seqcount_retry(): smp_rmb(), then compare.
    #[inline]
    pub fn read_retry(&self, seq: i32) -> bool {
        smp_rmb();
        self.0.read() != seq
    }
    /// C: raw_write_seqcount_begin(): count, then smp_wmb().
    #[inline]
    pub fn write_begin(&self) {
        self.0.set(self.0.read().wrapping_add(1));
        smp_wmb();
    }
    /// C: raw_write_seqcount_end(): smp_wmb(), then count.
    #[inline]
    pub fn write_end(&self) {
        smp_wmb();
        self.0.set(self.0.read().wrapping_add(1));
    }
    /// The bare value, for observers at rest.
    pub fn value(&self) -> i32 {
        self.0.read()
    }
    /// Back to zero, for a world that is used again.
    pub(crate) fn reset(&self) {
        self.0.set(0);
    }
    /// The value of `other`, in a copy of its world.
    pub(crate) fn copy_from(&self, other: &Seqcount) {
        self.0.set(other.value());
    }
}

impl Default for Seqcount {
    fn default() -> Self {
        Self::new()
    }
}

/// How a lock is held.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Hold {
    /// With other readers.
    Read,
    /// Alone.
    Write,
}

/// A lock that is taken and released by separate calls, as the port needs:
/// a spinlock, and an rw_semaphore with any number of readers. Taken and
/// released through the [`Locks`] of a CPU.
#[derive(Debug)]
pub struct RawLock {
    /// 0 free, n > 0 readers, −1 writer (or spinlock owner).
    #[cfg(not(loom))]
    holders: Atomic32,
    #[cfg(loom)]
    lock: Lock,
}

#[cfg(not(loom))]
impl RawLock {
    /// A free lock.
    pub fn new() -> Self {
        Self { holders: Atomic32::new(0) }
    }
    /// 0 free, n readers, −1 a writer.
    #[inline]
    pub fn holders(&self) -> i32 {
        self.holders.read()
    }
    /// False if somebody else has it so that it cannot be had, and among
    /// readers if one came or went meanwhile.
    #[inline]
    fn try_lock(&self, how: Hold) -> bool {
        match how {
            Hold::Write => self.holders.cmpxchg_acquire(0, -1),
            Hold::Read => {
                let n = self.holders.read();
                n >= 0 && self.holders.cmpxchg_acquire(n, n + 1)
            }
        }
    }
    /// Forgets all holders, for a world that is used again.
    pub(crate) fn reset(&self) {
        self.holders.set(0);
    }
    /// Has as many holders as `other`, in a copy of its world.
    pub(crate) fn copy_from(&self, other: &RawLock) {
        self.holders.set(other.holders());
    }
}

/// The locks that a CPU holds. loom wants the guards back that it gave out.
#[derive(Debug)]
pub struct Locks<'w> {
    #[cfg(not(loom))]
    world: PhantomData<&'w RawLock>,
    #[cfg(loom)]
    held: RefCell<Vec<(&'w RawLock, LockGuard<'w>)>>,
}

#[cfg(not(loom))]
impl<'w> Locks<'w> {
    /// None.
    pub fn new() -> Self {
        Self { world: PhantomData }
    }
    /// Takes a lock without waiting; false if it cannot be had.
    #[inline]
    pub fn try_lock(&self, lock: &'w RawLock, how: Hold) -> bool {
        lock.try_lock(how)
    }
    /// Gives a lock up.
    #[inline]
    pub fn unlock(&self, lock: &'w RawLock, how: Hold) {
        match how {
            Hold::Write => lock.holders.store_release(0),
            // Release: what the reader saw stays before a later writer.
            Hold::Read => drop(lock.holders.add_return(-1)),
        }
    }
}

#[cfg(loom)]
#[allow(missing_docs)]
impl RawLock {
    pub fn new() -> Self {
        Self { lock: Lock::new() }
    }
    pub fn holders(&self) -> i32 {
        self.lock.holders()
    }
    pub(crate) fn reset(&self) {}
    pub(crate) fn copy_from(&self, _: &RawLock) {}
}

#[cfg(loom)]
#[allow(missing_docs)]
impl<'w> Locks<'w> {
    pub fn new() -> Self {
        Self { held: RefCell::default() }
    }
    /// Waits, as loom likes it better.
    pub fn try_lock(&self, lock: &'w RawLock, how: Hold) -> bool {
        if mutant::change_of("lock", &[Change::LeftOut]).is_some() {
            return true;
        }
        let guard = lock.lock.take(how);
        self.held.borrow_mut().push((lock, guard));
        true
    }
    pub fn unlock(&self, lock: &'w RawLock, _: Hold) {
        let mut held = self.held.borrow_mut();
        let Some(i) = held.iter().position(|(l, _)| std::ptr::eq(*l, lock)) else {
            assert!(mutant::is_on(), "it is held");
            return;
        };
        let (_, guard) = held.swap_remove(i);
        drop(held);
        drop(guard);
    }
}

impl Default for Locks<'_> {
    fn default() -> Self {
        Self::new()
    }
}

impl Default for RawLock {
    fn default() -> Self {
        Self::new()
    }
}

macro_rules! guarded {
    ($(#[$doc:meta])* $name:ident, $atomic:ident, $int:ty) => {
        $(#[$doc])*
        /// Whoever reads it is kept apart from whoever writes it by a lock, or only
        /// observes: loom is not told of it, and has less to explore.
        #[derive(Debug)]
        pub struct $name(std::sync::atomic::$atomic);

        impl $name {
            /// A word that starts at `v`.
            pub fn new(v: $int) -> Self {
                Self(std::sync::atomic::$atomic::new(v))
            }
            /// The value.
            #[inline]
            pub fn read(&self) -> $int {
                self.0.load(std::sync::atomic::Ordering::Relaxed)
            }
            /// Replaces it.
            #[inline]
            pub fn set(&self, v: $int) {
                self.0.store(v, std::sync::atomic::Ordering::Relaxed);
            }
        }
    };
}
guarded!(
    /// A field of a VMA, or what is known of a page beside the kernel.
    Guarded32,
    AtomicU32,
    u32
);
guarded!(
    /// The contents of a page.
    Guarded64,
    AtomicU64,
    u64
);

/// A statistic. The kernel counts per CPU and adds up when somebody asks, so
/// counting is no order between CPUs and no part of any race: loom is not told.
#[derive(Debug)]
pub struct Statistic(std::sync::atomic::AtomicU64);

impl Statistic {
    /// One that starts at 0.
    pub fn new() -> Self {
        Self(std::sync::atomic::AtomicU64::new(0))
    }
    /// Adds to it.
    #[inline]
    pub fn add(&self, n: i64) {
        self.0.fetch_add(n as u64, std::sync::atomic::Ordering::Relaxed);
    }
    /// For observers at rest.
    pub fn read(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed) as i64
    }
    pub(crate) fn set(&self, v: i64) {
        self.0.store(v as u64, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Default for Statistic {
    fn default() -> Self {
        Self::new()
    }
}

/// Which CPUs have interrupts off, as somebody sees it who sends an interrupt
/// to all of them and waits until each has taken it. Nothing else is ordered by
/// turning interrupts off: it is no barrier.
#[derive(Debug)]
pub struct IrqsOff {
    #[cfg(not(loom))]
    sections: Atomic32,
    /// A section holds its CPU's lock; who waits takes each for a moment. So
    /// all of a section is before the wait or behind it, and two sections are
    /// not ordered by it.
    #[cfg(loom)]
    sections: Box<[RawLock]>,
}

#[cfg(not(loom))]
impl IrqsOff {
    /// All on.
    pub fn new(_cpus: u8) -> Self {
        Self { sections: Atomic32::new(0) }
    }
    /// CPU `_id`, which holds `_locks`, turns them off.
    #[inline]
    pub fn save<'w>(&'w self, _id: u8, _locks: &Locks<'w>) {
        self.sections.add_return(1);
    }
    /// CPU `_id` turns them on again.
    #[inline]
    pub fn restore<'w>(&'w self, _id: u8, _locks: &Locks<'w>) {
        self.sections.add_return(-1);
    }
    /// Waits until every CPU has had them on, or until `give_up`, which is
    /// asked again and again.
    pub fn synchronize<'w>(&'w self, _locks: &Locks<'w>, give_up: impl Fn() -> bool) {
        while self.sections.add_return(0) != 0 && !give_up() {}
    }
    /// CPUs that have them off, for observers.
    pub fn count(&self) -> i32 {
        self.sections.read()
    }
    pub(crate) fn set_count(&self, n: i32) {
        self.sections.set(n);
    }
}

#[cfg(loom)]
#[allow(missing_docs)]
impl IrqsOff {
    pub fn new(cpus: u8) -> Self {
        Self { sections: (0..cpus).map(|_| RawLock::new()).collect() }
    }
    pub fn save<'w>(&'w self, id: u8, locks: &Locks<'w>) {
        locks.try_lock(&self.sections[usize::from(id)], Hold::Write);
    }
    pub fn restore<'w>(&'w self, id: u8, locks: &Locks<'w>) {
        locks.unlock(&self.sections[usize::from(id)], Hold::Write);
    }
    pub fn synchronize<'w>(&'w self, locks: &Locks<'w>, _: impl Fn() -> bool) {
        for section in &self.sections {
            locks.try_lock(section, Hold::Write);
            locks.unlock(section, Hold::Write);
        }
    }
    pub fn count(&self) -> i32 {
        self.sections.iter().filter(|s| s.holders() != 0).count() as i32
    }
    pub(crate) fn set_count(&self, _: i32) {
        self.sections.iter().for_each(RawLock::reset);
    }
}
