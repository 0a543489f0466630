// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: what the CPUs of a race contend for.
//!
//! Each access to an object of loom's costs time and may be interleaved with
//! those of others. But most of a world only one CPU comes to, or all of them
//! just read, and that needs no order: loom is told of what is contended alone.
//! What that is turns out. A word or a lock that one CPU writes and another
//! uses is noted, and its round of the race goes on, as one of those that can
//! happen. Then the race is explored anew from its beginning, with the word told
//! to loom, until an exploration has come to its end and noted none:
//! [`found_more`].
//!
//! To store what is there already is no writing: who finds what was there before
//! knows less of others, and can do more.
//!
//! Objects are known by the order in which they were made since [`round`].
//! Before the CPUs start, and after they have ended, there is nothing but
//! values.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};

use loom::sync::atomic::Ordering::{self, SeqCst};

use super::words::Reminder;
use super::{barriers, redundant};
use crate::mutant::{self, Change};

/// How CPUs contend for an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Contended {
    /// The only CPU that writes it, unless there are more.
    pub(super) writer: Option<usize>,
    /// loom must be reminded of loads.
    pub(super) reminded: bool,
}

/// What is known of the objects of a race.
#[derive(Default)]
struct Known {
    /// Those that are contended.
    contended: BTreeMap<usize, Contended>,
    /// How many words it takes to remind loom of loads.
    reminders: usize,
    /// What this exploration has found beside, and does not use.
    more: BTreeMap<usize, Contended>,
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
            let object = word.trim_end_matches('!');
            let (number, writer) = match object.split_once('w') {
                Some((number, writer)) => (number, Some(writer.parse()?)),
                None => (object, None),
            };
            let reminded = word.ends_with('!');
            known.contended.insert(number.parse()?, Contended { writer, reminded });
        }
    }
    KNOWN.replace(known);
    Ok(())
}

/// What is known of the race, for [`begin`]: `12w0!` is object 12, which only
/// CPU 0 writes, and of whose loads loom must be reminded, by one of the `+8`
/// words there are for that.
pub fn known() -> String {
    let one = |(n, c): (&usize, &Contended)| {
        let writer = c.writer.map(|cpu| format!("w{cpu}")).unwrap_or_default();
        format!("{n}{writer}{}", if c.reminded { "!" } else { "" })
    };
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
pub(super) trait Tell {
    /// The CPUs are about to start.
    fn tell(&self);
}

/// The number of the first of `n` new objects, and those that are contended.
pub(super) fn numbered(n: usize) -> (usize, Vec<(usize, Contended)>) {
    KNOWN.with_borrow_mut(|k| {
        let first = k.made;
        k.made += n;
        (first, k.contended.range(first..k.made).map(|(&n, &how)| (n, how)).collect())
    })
}

/// loom is to be told of the object when the CPUs start.
pub(super) fn to_tell(object: Arc<dyn Tell>) {
    KNOWN.with_borrow_mut(|k| k.to_tell.push(object));
}

/// A new object by its number.
pub(super) fn made<T: Tell + 'static>(object: impl FnOnce(usize, Contended) -> T) -> Arc<T> {
    let (number, contended) = numbered(1);
    let how = contended.first().map(|(_, how)| *how);
    let object = Arc::new(object(number, how.unwrap_or_default()));
    if how.is_some() {
        to_tell(Arc::clone(&object) as Arc<dyn Tell>);
    }
    object
}

/// A word that was made before the CPUs started.
pub(super) fn new_reminder() -> Option<Reminder> {
    KNOWN.with_borrow_mut(|k| {
        let word = k.unused.pop();
        if word.is_none() {
            k.more_reminders = 8;
        }
        word
    })
}

/// Object `number` is contended, and how.
pub(super) fn found(number: usize, how: Contended) {
    KNOWN.with_borrow_mut(|k| k.more.insert(number, how));
}

/// loom has no more threads.
const MOST_CPUS: usize = 5;

/// Who has used objects of consecutive numbers, of which loom is not told.
#[derive(Debug)]
pub(super) struct Users {
    first: usize,
    by_cpu: Mutex<[Used; MOST_CPUS]>,
}

/// Which of them one CPU has used, and which of these to write: one bit each.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    pub(super) all: u32,
    pub(super) written: u32,
}

impl Users {
    pub(super) fn new(first: usize) -> Self {
        Users { first, by_cpu: Mutex::default() }
    }
    /// The CPU that runs, if they run at once, uses some.
    pub(super) fn note(&self, used: Used) {
        let Some(cpu) = running().filter(|_| used.all != 0 && !redundant::is_redundant()) else {
            return;
        };
        let mut by_cpu = self.by_cpu.lock().unwrap_or_else(PoisonError::into_inner);
        by_cpu[cpu].all |= used.all;
        by_cpu[cpu].written |= used.written;
        let others = (0..).zip(by_cpu.iter()).filter(|&(other, _)| other != cpu);
        let mut contended = others.fold(0, |contended, (_, other)| {
            contended | used.all & other.written | used.written & other.all
        });
        while contended != 0 {
            let one = contended & contended.wrapping_neg();
            // If there are others, it will turn out.
            let writer = by_cpu.iter().position(|used| used.written & one != 0);
            let number = self.first + one.trailing_zeros() as usize;
            found(number, Contended { writer, reminded: false });
            contended &= !one;
        }
    }
}

impl Used {
    /// The only one.
    pub(super) fn one(writes: bool) -> Self {
        Used { all: 1, written: writes.into() }
    }
}
