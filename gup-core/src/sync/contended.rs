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
//! two, and loom does not try B's store before A's load. So each load of a word
//! to which that happens also touches a word of its own, a reminder, and such a
//! store touches it, too.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::Ordering::SeqCst;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use loom::sync::atomic::Ordering::{self, Relaxed};

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
fn switching<R>(f: impl FnOnce() -> R) -> R {
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
    if mutant::change_of("fence", &[Change::LeftOut]).is_none() {
        loom::sync::atomic::fence(order);
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
        let all = self.all.fetch_or(1 << cpu, SeqCst) | 1 << cpu;
        let writers = self.writers.fetch_or(u32::from(writes) << cpu, SeqCst);
        if all.count_ones() > 1 && (writes || writers != 0) {
            found(number, false);
        }
    }
}

/// A word that reminds loom of loads.
type Reminder = Arc<loom::sync::atomic::AtomicU32>;

/// The loads since the last store of a word of which loom is told: each CPU
/// that has loaded, the last of them last, with the word that it touched.
#[derive(Debug, Default)]
struct Loads(Mutex<Vec<(usize, Option<Reminder>)>>);

impl Loads {
    fn all(&self) -> MutexGuard<'_, Vec<(usize, Option<Reminder>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Before `cpu` loads.
    fn remind(&self, cpu: usize) -> Option<Reminder> {
        let known =
            self.all().iter().find_map(|(other, word)| word.clone().filter(|_| *other == cpu));
        let word = known.or_else(new_reminder)?;
        switching(|| word.fetch_add(0, Relaxed));
        Some(word)
    }
    /// `cpu` has loaded.
    fn add(&self, cpu: usize, word: Option<Reminder>) {
        let mut all = self.all();
        all.retain(|(other, _)| *other != cpu);
        all.push((cpu, word));
    }
    /// Before `cpu` stores to word `number`. loom knows of the last load.
    fn before_store(&self, cpu: usize, number: usize) {
        let mut forgotten = self.all().clone();
        forgotten.pop();
        for (_, word) in forgotten.iter().filter(|(other, _)| *other != cpu) {
            match word {
                // To read what is there now, and nothing older.
                Some(word) => drop(switching(|| word.fetch_add(0, Relaxed))),
                None => found(number, true),
            }
        }
    }
    fn after_store(&self) {
        self.all().clear();
    }
}

macro_rules! atomic {
    ($name:ident, $word:ident, $int:ty) => {
        #[derive(Debug)]
        struct $word {
            number: usize,
            reminded: bool,
            users: Users,
            /// What was stored last.
            value: std::sync::atomic::$name,
            told: OnceLock<(loom::sync::atomic::$name, Loads)>,
        }

        impl Tell for $word {
            fn tell(&self) {
                let word = loom::sync::atomic::$name::new(self.value.load(SeqCst));
                assert!(self.told.set((word, Loads::default())).is_ok(), "one race in a world");
            }
        }

        #[derive(Debug)]
        pub(crate) struct $name(Arc<$word>);

        #[allow(dead_code)]
        impl $name {
            pub(crate) fn new(v: $int) -> Self {
                Self(made(|number, reminded| $word {
                    number,
                    reminded,
                    users: Users::default(),
                    value: std::sync::atomic::$name::new(v),
                    told: OnceLock::new(),
                }))
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
                let Some(cpu) = running() else { return self.0.value.load(SeqCst) };
                let Some((word, loads)) = self.0.told.get() else {
                    self.0.users.note(self.0.number, cpu, false);
                    return self.0.value.load(SeqCst);
                };
                let reminder = if self.0.reminded { loads.remind(cpu) } else { None };
                let v = switching(|| word.load(order));
                loads.add(cpu, reminder);
                v
            }
            pub(crate) fn store(&self, v: $int, order: Ordering) {
                let possible = [Change::LeftOut, Change::Unordered];
                let possible = &possible[..1 + usize::from(order != Relaxed)];
                match mutant::change_of("store", possible) {
                    Some(Change::LeftOut) => {}
                    Some(_) => self.store_again(v, Relaxed),
                    None => self.store_again(v, order),
                }
            }
            fn store_again(&self, v: $int, order: Ordering) {
                let whole = |word: &loom::sync::atomic::$name| {
                    word.store(v, order);
                    v
                };
                self.change(whole, |_| Some(v));
            }
            /// Stores what `new` makes of the value, if anything; answers what
            /// was there before. `whole` is how loom does it.
            fn change(
                &self,
                whole: impl FnOnce(&loom::sync::atomic::$name) -> $int,
                new: impl FnOnce($int) -> Option<$int>,
            ) -> $int {
                let cpu = running();
                let told = self.0.told.get().filter(|_| cpu.is_some());
                let old = match (cpu, told) {
                    (Some(cpu), Some((word, loads))) => {
                        loads.before_store(cpu, self.0.number);
                        let old = switching(|| whole(word));
                        loads.after_store();
                        old
                    }
                    _ => self.0.value.load(SeqCst),
                };
                let new = new(old);
                if let (Some(cpu), None) = (cpu, told) {
                    self.0.users.note(self.0.number, cpu, new.is_some());
                }
                if let Some(new) = new {
                    self.0.value.store(new, SeqCst);
                }
                old
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
                    return self.change(whole, |old| Some(new(old)));
                };
                let old = self.load_again(Relaxed);
                if change == Change::Torn {
                    self.store_again(new(old), Relaxed);
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
                let now = match change {
                    None => self.change(
                        |a| a.compare_exchange(old, new, ok, failed).unwrap_or_else(|now| now),
                        |now| (now == old).then_some(new),
                    ),
                    Some(_) => self.load_again(Relaxed),
                };
                if now != old {
                    return Err(now);
                }
                if change == Some(Change::Torn) {
                    self.store_again(new, Relaxed);
                }
                mutant::is_done("cmpxchg");
                Ok(now)
            }
        }
    };
}
atomic!(AtomicU32, Word32, u32);
atomic!(AtomicU64, Word64, u64);

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
        let told = match (running(), self.0.told.get()) {
            (Some(_), Some(lock)) => Some(switching(|| match how {
                Hold::Read => Told::Read(lock.read().expect(poisoned)),
                Hold::Write => Told::Write(lock.write().expect(poisoned)),
            })),
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
    _told: Option<Told<'l>>,
}

/// What loom gives for a lock.
enum Told<'l> {
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
