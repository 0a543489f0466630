// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: the words and locks that the CPUs of a race contend for.
//!
//! Each access to an object of loom's costs time and may be interleaved with
//! those of others. But most of a world only one CPU comes to, or all of them
//! just read, and that needs no order: loom is told of what is contended alone.
//! What that is turns out. A word or a lock that two CPUs use, one of them to
//! write it, is noted, and its round of the race goes on, as one of those that
//! can happen. Then the race is explored anew from its beginning, with the
//! word told to loom, until an exploration has come to its end and noted none:
//! [`found_more`].
//!
//! Objects are known by the order in which they were made since [`round`].
//! Before the CPUs start, and after they have ended, there is nothing but
//! values.
//!
//! loom also forgets: of the loads since the last store it remembers the last
//! alone. If A loads, then B loads and stores, B's own load stands between the
//! two, and loom does not try B's store before A's load. So behind each load of a
//! word to which that happens comes a touch of a word of its own, a reminder, and
//! behind such a store, too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use loom::sync::atomic::Ordering::{self, Relaxed};

use super::barriers::{self, What};
use super::redundant::{self, Access};
use crate::atomic::Hold;
use crate::mutant::{self, Change};

/// What is known of the objects of a race.
#[derive(Default)]
struct Known {
    /// Those that are contended; whether loom must be reminded of loads.
    contended: BTreeMap<usize, bool>,
    /// How many words it takes to remind loom of loads.
    reminders: usize,
    /// What this exploration has found beside, and does not use.
    more: BTreeMap<usize, bool>,
    more_reminders: usize,
    /// Those of this round that are not used yet.
    unused: Vec<Reminder>,
    /// How many objects this round has made.
    made: usize,
    /// What to tell loom when the CPUs of this round start.
    to_tell: Vec<Arc<dyn Tell>>,
}

thread_local! {
    static KNOWN: RefCell<Known> = RefCell::default();
    /// The CPU that runs now, if they run at once. loom runs its threads on one
    /// thread of the machine.
    static RUNNING: Cell<Option<usize>> = const { Cell::new(None) };
}

/// Another race begins; `contended` is what is known of it, as [`known`] wrote
/// it down: in the beginning nothing.
///
/// # Errors
/// What is no such text.
pub fn begin(contended: &str) -> Result<(), std::num::ParseIntError> {
    let mut known = Known::default();
    for word in contended.split_whitespace() {
        if let Some(n) = word.strip_prefix('+') {
            known.reminders = n.parse()?;
        } else {
            known.contended.insert(word.trim_end_matches('!').parse()?, word.ends_with('!'));
        }
    }
    KNOWN.replace(known);
    Ok(())
}

/// What is known of the race, for [`begin`].
pub fn known() -> String {
    let one = |(n, reminded): (&usize, &bool)| format!("{n}{}", if *reminded { "!" } else { "" });
    KNOWN.with_borrow(|k| {
        let objects: Vec<_> = k.contended.iter().map(one).collect();
        format!("{} +{}", objects.join(" "), k.reminders)
    })
}

/// Another round of the race is about to make its world.
pub fn round() {
    RUNNING.set(None);
    KNOWN.with_borrow_mut(|k| {
        k.made = 0;
        k.to_tell.clear();
    });
}

/// Whether more of the race has turned out to be contended, so that it must be
/// explored anew.
pub fn found_more() -> bool {
    KNOWN.with_borrow(|k| !k.more.is_empty() || k.more_reminders > 0)
}

/// It is, from now on.
pub fn anew() {
    KNOWN.with_borrow_mut(|k| {
        k.contended.append(&mut k.more);
        k.reminders += std::mem::take(&mut k.more_reminders);
    });
}

/// Runs the jobs at the same time, each on a CPU, and returns what they do.
/// The last runs on this thread, which has nothing else to do, so that loom has
/// one thread less to interleave.
///
/// # Panics
/// If there are none.
pub fn at_once<T: 'static>(jobs: Vec<impl FnOnce() -> T + 'static>) -> Vec<T> {
    mutant::begin();
    let cpus = jobs.len();
    redundant::start(cpus);
    barriers::start(cpus);
    // loom tells apart only what this thread does at different times, and
    // takes its time 0 for never.
    loom::sync::atomic::fence(Ordering::Release);
    KNOWN.with_borrow_mut(|k| {
        k.to_tell.drain(..).for_each(|object| object.tell());
        k.unused.clear();
        k.unused.resize_with(k.reminders, Reminder::default);
    });
    loom::sync::atomic::fence(Ordering::Release);
    let all: Rc<Vec<Cell<Option<T>>>> = Rc::new((0..cpus).map(|_| Cell::new(None)).collect());
    let left = Rc::new(Cell::new(cpus));
    let waits = Rc::new(Cell::new(false));
    let first = loom::thread::current();
    let on_cpus = jobs.into_iter().enumerate().map(|(cpu, job)| {
        let (all, left, waits) = (Rc::clone(&all), Rc::clone(&left), Rc::clone(&waits));
        let first = first.clone();
        move || {
            RUNNING.set(Some(cpu));
            all[cpu].set(Some(job()));
            left.set(left.get() - 1);
            // To join a thread would be one more thing to interleave.
            if left.get() == 0 && waits.get() {
                first.unpark();
            }
        }
    });
    let mut on_cpus: Vec<_> = on_cpus.collect();
    let last = on_cpus.pop().expect("there is a job");
    for job in on_cpus {
        loom::thread::spawn(job);
    }
    last();
    while left.get() > 0 {
        waits.set(true);
        loom::thread::park();
    }
    RUNNING.set(None);
    all.iter().map(|result| result.take().expect("it has ended")).collect()
}

/// The CPU that runs, if they run at once.
pub(crate) fn running() -> Option<usize> {
    RUNNING.get()
}

/// Calls loom, which may let others run meanwhile.
pub(super) fn switching<R>(f: impl FnOnce() -> R) -> R {
    let me = RUNNING.get();
    let result = f();
    RUNNING.set(me);
    result
}

/// Lets others run.
pub(crate) fn yield_now() {
    switching(loom::thread::yield_now);
}

/// A fence of loom's.
pub(crate) fn fence(order: Ordering) {
    if mutant::change_of("fence", &[Change::LeftOut]).is_some() {
        return;
    }
    match running() {
        Some(cpu) if order == SeqCst => barriers::come(cpu),
        Some(_) => loom::sync::atomic::fence(order),
        None => {}
    }
}

/// What loom can be told of.
trait Tell {
    /// The CPUs are about to start.
    fn tell(&self);
}

/// Registers an object; what loom is to be told of, it is when the CPUs start.
fn made<T: Tell + 'static>(object: impl FnOnce(usize, bool) -> T) -> Arc<T> {
    KNOWN.with_borrow_mut(|k| {
        let number = k.made;
        k.made += 1;
        let reminded = k.contended.get(&number).copied();
        let object = Arc::new(object(number, reminded == Some(true)));
        if reminded.is_some() {
            k.to_tell.push(Arc::clone(&object) as Arc<dyn Tell>);
        }
        object
    })
}

/// A word that was made before the CPUs started.
fn new_reminder() -> Option<Reminder> {
    KNOWN.with_borrow_mut(|k| {
        let word = k.unused.pop();
        if word.is_none() {
            k.more_reminders = 8;
        }
        word
    })
}

/// Object `number` is contended.
fn found(number: usize, reminded: bool) {
    KNOWN.with_borrow_mut(|k| k.more.insert(number, reminded));
}

/// Who has used an object, one bit for each CPU.
#[derive(Debug, Default)]
struct Users {
    all: std::sync::atomic::AtomicU32,
    writers: std::sync::atomic::AtomicU32,
}

impl Users {
    /// `cpu` uses object `number`, of which loom is not told.
    fn note(&self, number: usize, cpu: usize, writes: bool) {
        if redundant::is_redundant() {
            return;
        }
        let all = self.all.fetch_or(1 << cpu, SeqCst) | 1 << cpu;
        let writers = self.writers.fetch_or(u32::from(writes) << cpu, SeqCst);
        if all.count_ones() > 1 && (writes || writers != 0) {
            found(number, false);
        }
    }
}

/// A word that reminds loom of loads.
type Reminder = Arc<loom::sync::atomic::AtomicU32>;

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
    /// `cpu` has stored to word `number`. loom knows of the last load.
    fn forget(&self, cpu: usize, number: usize) {
        let mut forgotten = std::mem::take(&mut *self.all());
        forgotten.pop();
        for (_, word) in forgotten.iter().filter(|(other, _)| *other != cpu) {
            match word {
                Some(word) => remind(word),
                None => found(number, true),
            }
        }
    }
}

/// A word. loom is told which of its stores an access is about, so that two
/// that stored the same value differ.
#[derive(Debug)]
struct Word {
    number: usize,
    reminded: bool,
    users: Users,
    /// What was stored last.
    value: std::sync::atomic::AtomicU64,
    told: OnceLock<Told>,
}

/// How many stores of a word loom remembers.
const HISTORY: usize = 7;

/// A word of which loom is told.
#[derive(Debug)]
struct Told {
    number: usize,
    word: loom::sync::atomic::AtomicUsize,
    /// What each store stored, and which CPU it was; the first was before they
    /// started.
    stores: Mutex<Vec<(u64, Option<usize>)>>,
    /// The last store.
    last: std::sync::atomic::AtomicUsize,
    /// loom may not know the order of the stores.
    unordered: std::sync::atomic::AtomicBool,
    loads: Loads,
}

impl Tell for Word {
    fn tell(&self) {
        let told = Told {
            number: self.number,
            word: loom::sync::atomic::AtomicUsize::new(0),
            stores: Mutex::new(vec![(self.value.load(SeqCst), None)]),
            last: std::sync::atomic::AtomicUsize::new(0),
            unordered: false.into(),
            loads: Loads::default(),
        };
        assert!(self.told.set(told).is_ok(), "one race in a world");
    }
}

/// How something is stored.
#[derive(Clone, Copy)]
enum How {
    /// Whatever was there.
    Store(Ordering),
    /// By a read-modify-write that always stores.
    Always(Ordering),
    /// By one that may not; its orders where it does and where it does not.
    Perhaps(Ordering, Ordering),
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
    fn stores(&self) -> MutexGuard<'_, Vec<(u64, Option<usize>)>> {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn value(&self, store: usize) -> u64 {
        self.stores()[store].0
    }
    /// The number of a store that `cpu` is about to make.
    fn new_store(&self, cpu: usize, v: u64) -> usize {
        let mut stores = self.stores();
        stores.push((v, Some(cpu)));
        stores.len() - 1
    }
    /// `cpu` has loaded.
    fn loaded(&self, cpu: usize, reads: usize) {
        if self.stores()[reads].1.is_some_and(|other| other != cpu) {
            barriers::seen(cpu);
        }
        let unordered = self.unordered.load(SeqCst);
        let object = self.number;
        redundant::accessed(Access { cpu, object, reads, loads: true, unordered });
    }
    /// `cpu` has stored; what it read, if it did.
    fn stored(&self, cpu: usize, reads: Option<usize>) {
        let last = self.stores()[self.last.load(SeqCst)].1;
        if reads.is_none() && last.is_some_and(|last| last != cpu) {
            self.unordered.store(true, SeqCst);
        }
        // The oldest store is forgotten for this one.
        let forgets = self.stores().len() > HISTORY;
        let unordered = self.unordered.load(SeqCst) || forgets;
        let reads = reads.unwrap_or(0);
        let object = self.number;
        redundant::accessed(Access { cpu, object, reads, loads: false, unordered });
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
                self.stored(cpu, None);
                (Some(store), 0)
            }
            How::Always(order) => {
                let store = self.new_store(cpu, 0);
                let read = switching(|| self.word.swap(store, loosely(order)));
                self.stored(cpu, Some(read));
                let old = self.value(read);
                self.stores()[store].0 = new(old).unwrap_or(old);
                (Some(store), read)
            }
            How::Perhaps(ok, failed) => self.change_perhaps(cpu, ok, failed, new),
        }
    }
    /// loom compares which store it is, and the kernel values: where another
    /// store of the same value was made meanwhile, this tries again.
    fn change_perhaps(
        &self,
        cpu: usize,
        ok: Ordering,
        failed: Ordering,
        new: &dyn Fn(u64) -> Option<u64>,
    ) -> (Option<usize>, usize) {
        let mut guess = self.last.load(SeqCst);
        loop {
            // None is like a store that is never made.
            let (expected, store) = match new(self.value(guess)) {
                Some(v) => (guess, self.new_store(cpu, v)),
                None => (usize::MAX, usize::MAX),
            };
            let found =
                switching(|| self.word.compare_exchange(expected, store, loosely(ok), failed));
            let (Ok(read) | Err(read)) = found;
            self.stored(cpu, Some(read));
            if found.is_ok() {
                return (Some(store), read);
            }
            if redundant::is_redundant() || new(self.value(read)).is_none() {
                return (None, read);
            }
            guess = read;
        }
    }
}

impl Word {
    fn new(number: usize, reminded: bool, v: u64) -> Self {
        Word { number, reminded, users: Users::default(), value: v.into(), told: OnceLock::new() }
    }
    /// The CPU at work, and the word as loom knows it.
    fn told(&self) -> Option<(usize, &Told)> {
        running().filter(|_| !redundant::is_redundant()).zip(self.told.get())
    }
    fn load(&self, order: Ordering) -> u64 {
        let Some((cpu, told)) = self.told() else { return self.load_plainly() };
        barriers::before(cpu, What::Load);
        let store = switching(|| told.word.load(order));
        told.loads.add(cpu, self.reminded);
        told.loaded(cpu, store);
        if redundant::is_redundant() { self.load_plainly() } else { told.value(store) }
    }
    fn load_plainly(&self) -> u64 {
        if let Some(cpu) = running() {
            self.users.note(self.number, cpu, false);
        }
        self.value.load(SeqCst)
    }
    /// Stores what `new` makes of the value, if anything; answers what was
    /// there before, if it was read.
    fn change(&self, how: How, new: &dyn Fn(u64) -> Option<u64>) -> u64 {
        let Some((cpu, told)) = self.told() else { return self.change_plainly(new) };
        barriers::before(cpu, if how.is_full() { What::FullRmw } else { What::Store });
        let (store, read) = told.change(cpu, how, new);
        told.loads.forget(cpu, self.number);
        if redundant::is_redundant() {
            return self.change_plainly(new);
        }
        if let Some(store) = store {
            told.last.store(store, SeqCst);
            self.value.store(told.value(store), SeqCst);
        }
        told.value(read)
    }
    fn change_plainly(&self, new: &dyn Fn(u64) -> Option<u64>) -> u64 {
        let old = self.value.load(SeqCst);
        let new = new(old);
        if let Some(cpu) = running() {
            self.users.note(self.number, cpu, new.is_some());
        }
        self.value.store(new.unwrap_or(old), SeqCst);
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
                Self(made(|number, reminded| Word::new(number, reminded, v.into())))
            }
            pub(crate) fn load(&self, order: Ordering) -> $int {
                if !mutant::is_on() {
                    return self.0.load(order) as $int;
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
                let v = self.0.load(order);
                mutant::has_loaded(address, v);
                mutant::is_done("load");
                v as $int
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
                let old = self.0.load(Relaxed) as $int;
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
            pub(crate) fn fetch_or(&self, v: $int, order: Ordering) -> $int {
                self.rmw("or", order, |old| old | v)
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
                let change = mutant::change_of("cmpxchg", &[Change::LeftOut, Change::Torn]);
                let perhaps = |now| (now == u64::from(old)).then_some(new.into());
                let now = match change {
                    None => self.0.change(How::Perhaps(ok, failed), &perhaps),
                    Some(_) => self.0.load(Relaxed),
                } as $int;
                if now != old {
                    return Err(now);
                }
                if change == Some(Change::Torn) {
                    self.0.change(How::Store(Relaxed), &|_| Some(new.into()));
                }
                mutant::is_done("cmpxchg");
                Ok(now)
            }
        }
    };
}
atomic!(AtomicU32, u32);
atomic!(AtomicU64, u64);

#[derive(Debug)]
struct LockWord {
    number: usize,
    users: Users,
    /// 0 free, n readers, −1 a writer.
    holders: std::sync::atomic::AtomicI32,
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
            users: Users::default(),
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
                redundant::accessed(Access {
                    cpu,
                    object,
                    reads: 0,
                    loads: false,
                    unordered: false,
                });
                Some(guard)
            }
            (Some(cpu), None) => {
                self.0.users.note(self.0.number, cpu, how == Hold::Write);
                None
            }
            (None, _) => None,
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
    holders: &'l std::sync::atomic::AtomicI32,
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
        let value = self.value.lock().unwrap_or_else(PoisonError::into_inner);
        LockedGuard { value, _held: held }
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
