// SPDX-License-Identifier: GPL-2.0-only
//! Under loom: flags.
//!
//! Each of a word of flags is an object of its own: a race about one has nothing
//! to do with those about others. So loom knows nothing of the order of two
//! accesses to different flags of a word, and tries more than can happen.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::SeqCst;

use loom::sync::atomic::Ordering::{self, Relaxed};

use super::contended::{Tell, Used, Users, numbered, to_tell};
use super::redundant;
use super::words::{How, Word};
use crate::mutant::{self, Change};

/// 32 flags.
#[derive(Debug)]
pub(crate) struct AtomicFlags {
    users: Users,
    /// Those that have no word.
    value: AtomicU32,
    /// Those that are contended, with a word each.
    words: Vec<(u32, Arc<Word>)>,
}

impl Default for AtomicFlags {
    fn default() -> Self {
        let (first, contended) = numbered(u32::BITS as usize);
        let word = |(number, how)| {
            let word = Arc::new(Word::new(number, how, 0));
            to_tell(Arc::clone(&word) as Arc<dyn Tell>);
            (1 << (number - first), word)
        };
        let words = contended.into_iter().map(word).collect();
        AtomicFlags { users: Users::new(first), value: 0.into(), words }
    }
}

impl AtomicFlags {
    /// Those of some flags that have no word.
    fn plain(&self, flags: u32) -> u32 {
        self.words.iter().fold(flags, |plain, (flag, _)| plain & !flag)
    }
    /// `plain`, and those of some flags of whose words `is` says 1.
    fn and_words(&self, plain: u32, flags: u32, is: impl Fn(u32, &Word) -> u64) -> u32 {
        let words = self.words.iter().filter(|(flag, _)| flag & flags != 0);
        words.fold(plain, |all, (flag, word)| if is(*flag, word) == 1 { all | flag } else { all })
    }
    /// Makes of some flags what `new` says; answers what they were, if `how`
    /// reads them.
    fn change(&self, flags: u32, how: How, new: u32) -> u32 {
        let plain = self.plain(flags);
        let v = self.value.load(SeqCst);
        let all = redundant::leaves_out_nothing();
        let written = if all { plain } else { (v ^ new) & plain };
        self.users.note(Used { all: plain, written });
        self.value.store(v & !plain | new & plain, SeqCst);
        self.and_words(v & plain, flags, |flag, word| {
            let new = Some((new & flag != 0).into());
            word.change(how, &|_| new)
        })
    }
    pub(crate) fn load(&self, flags: u32) -> u32 {
        let address = std::ptr::from_ref(self).addr();
        if let Some(before) = mutant::loaded(address, flags)
            && mutant::change_of("load", &[Change::Stale]).is_some()
        {
            return before as u32;
        }
        let plain = self.plain(flags);
        self.users.note(Used { all: plain, written: 0 });
        let plain = self.value.load(SeqCst) & plain;
        let v = self.and_words(plain, flags, |_, word| word.load(Relaxed, &|v| v));
        mutant::has_loaded(address, flags, v.into());
        mutant::is_done("load");
        v
    }
    /// What was stored last; loom is not told.
    pub(crate) fn peek(&self, flags: u32) -> u32 {
        let plain = self.value.load(SeqCst) & self.plain(flags);
        self.and_words(plain, flags, |_, word| word.peek())
    }
    pub(crate) fn store(&self, v: u32) {
        if mutant::change_of("store", &[Change::LeftOut]).is_none() {
            self.change(u32::MAX, How::Store(Relaxed), v);
        }
    }
    pub(crate) fn fetch_or(&self, flags: u32, order: Ordering) -> u32 {
        self.rmw("or", flags, order, flags)
    }
    pub(crate) fn fetch_and_not(&self, flags: u32, order: Ordering) -> u32 {
        self.rmw("and", flags, order, 0)
    }
    fn rmw(&self, access: &'static str, flags: u32, order: Ordering, new: u32) -> u32 {
        let change = mutant::change_of(access, &[Change::LeftOut, Change::Torn]);
        mutant::is_done(access);
        if let Some(change) = change {
            let old = self.load(u32::MAX);
            if change == Change::Torn {
                self.change(u32::MAX, How::Store(Relaxed), old & !flags | new);
            }
            return old & flags;
        }
        self.change(flags, How::Always(order), new)
    }
}
