// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios with windows.
//!
//! Drawn like any other, but shorter and busier; then some ops get others
//! that run in the middle of them, about the same pages. Of a window the
//! generator knows what kinds of steps such an op takes, and that early ones
//! are reached more often than late ones.

use gup_core::step::StepKind;

use super::{Generator, Place, Taste};
use crate::scenario::{MAX_OPS, Op, Range, Scenario, Unpin, What, Window, end_of_group};

/// Steps of a walk without locks, and of grabbing what it finds.
const FAST: &[StepKind] = &[
    StepKind::TableRead,
    StepKind::PteRead,
    StepKind::CompoundHead,
    StepKind::RefAddUnlessZero,
    StepKind::FlagRead,
    StepKind::PincountAdd,
    StepKind::RefAdd,
    StepKind::SeqRead,
    StepKind::SeqRetry,
    StepKind::Barrier,
    StepKind::IrqRestore,
    StepKind::MmFlagSet,
];
/// Steps of giving references back.
const RELEASE: &[StepKind] = &[
    StepKind::CompoundHead,
    StepKind::FlagRead,
    StepKind::PincountAdd,
    StepKind::RefAdd,
    StepKind::RefDecAndTest,
    StepKind::Free,
    StepKind::Vmstat,
    StepKind::FlagSet,
];
/// Steps of faults, and of work on page tables and pages under locks.
const LOCKED: &[StepKind] = &[
    StepKind::TableRead,
    StepKind::PteRead,
    StepKind::EntrySet,
    StepKind::EntryRmw,
    StepKind::Lock,
    StepKind::Unlock,
    StepKind::MmapLock,
    StepKind::MmapUnlock,
    StepKind::RefRead,
    StepKind::RefAdd,
    StepKind::RefDecAndTest,
    StepKind::RefFreeze,
    StepKind::RefSet,
    StepKind::Mapcount,
    StepKind::PincountRead,
    StepKind::FlagRead,
    StepKind::FlagSet,
    StepKind::MappingRead,
    StepKind::CompoundHead,
    StepKind::Alloc,
    StepKind::Free,
    StepKind::Data,
    StepKind::Barrier,
    StepKind::SeqWrite,
    StepKind::MmFlagRead,
    StepKind::CacheRead,
    StepKind::CacheSet,
    StepKind::PageblockRead,
];

/// The steps that an op takes, roughly; none for ops that are settings.
fn steps_of(what: &What) -> &'static [StepKind] {
    match what {
        What::Call(c) if c.call.fast() => FAST,
        What::Unpin(..) | What::PutPage(_) | What::Tee(..) | What::FolioAddPin(..) => RELEASE,
        What::Cpu(_) | What::Prefer(_) | What::UnisolateBlock(_) => &[],
        _ => LOCKED,
    }
}

impl Generator {
    /// Draws a scenario with windows.
    pub fn race(&mut self, out: &mut Scenario) {
        out.ops.clear();
        let taste = self.busy();
        let place = self.place(taste);
        let op = Self::mmap(place.range, gup_core::model::mmap::Prot::ReadWrite, place.kind);
        self.push(out, op, taste);
        if !self.one_in(4) {
            self.push(out, What::Write(place.range), taste);
        }
        if self.one_in(3) {
            self.push(out, What::LruAddDrainAll, taste);
        }
        for _ in 0..self.rng.usize(1..=8) {
            let what = self.what(place, taste);
            self.push(out, what, taste);
            if self.one_in(2) {
                self.open_window(out, out.ops.len() - 1, place, taste);
            }
        }
    }

    fn busy(&mut self) -> Taste {
        Taste {
            fork: !self.one_in(3),
            kernel_work: !self.one_in(3),
            failures: self.one_in(8),
            protection: self.one_in(6),
            files: self.one_in(6),
        }
    }

    /// Lets one to three ops run in a window of op `at`, which is in none.
    fn open_window(&mut self, s: &mut Scenario, at: usize, place: Place, taste: Taste) {
        let kinds = steps_of(&s.ops[at].what);
        if kinds.is_empty() {
            return;
        }
        let window = Window { kind: self.pick(kinds), nth: self.nth() };
        let mut more = true;
        while more && s.ops.len() < MAX_OPS {
            let range = self.range(place);
            let what = self.disturbance(range, place, taste);
            let end = end_of_group(&s.ops, at);
            if let Some(op) = Op::decode(Op::from(what).encode()) {
                s.ops.insert(end, Op { at: Some(window), ..op });
            }
            more = self.one_in(3);
        }
    }

    /// Which step of its kind.
    fn nth(&mut self) -> u16 {
        let most = self.pick(&[1, 2, 4, 8, 16, 64]);
        self.rng.u16(1..=most)
    }

    /// What another CPU may do to the pages of an op.
    fn disturbance(&mut self, range: Range, place: Place, taste: Taste) -> What {
        match self.rng.u8(0..16) {
            0..=3 => self.kernel_work(range),
            4..=5 => What::Dontneed(range),
            6 => self.memory(range, place),
            7..=8 => self.process(range),
            9 => What::Write(range),
            10..=12 => self.call(range),
            13 => What::Unpin(self.pick(Unpin::ALL), self.handle()),
            14 if taste.files => self.file_work(),
            _ => self.what(place, taste),
        }
    }

    /// Changes a scenario with windows a little.
    pub fn mutate_race(&mut self, s: &mut Scenario) {
        match s.ops.len() {
            0 => self.race(s),
            _ if self.rng.bool() => self.mutate(s),
            n => {
                let at = self.rng.usize(0..n);
                self.mutate_window(s, at);
            }
        }
        // What lost its op has no window to run in.
        let orphans = s.ops.iter().take_while(|op| op.at.is_some()).count();
        s.ops.drain(..orphans);
    }

    fn mutate_window(&mut self, s: &mut Scenario, at: usize) {
        let around = s.ops[..=at].iter().rposition(|op| op.at.is_none()).unwrap_or(0);
        let kinds = steps_of(&s.ops[around].what);
        let Some(window) = s.ops[at].at else {
            let taste = self.busy();
            let range = self.some_range(s, at, taste);
            let kind = super::Mapped::Kind(gup_core::model::mmap::Kind::Anon);
            self.open_window(s, around, Place { range, kind }, taste);
            return;
        };
        s.ops[at].at = Some(match self.rng.u8(0..4) {
            0 if !kinds.is_empty() => Window { kind: self.pick(kinds), nth: self.nth() },
            1 => Window { nth: window.nth.saturating_add(1), ..window },
            2 => Window { nth: (window.nth - 1).max(1), ..window },
            _ => Window { nth: self.nth(), ..window },
        });
    }
}
