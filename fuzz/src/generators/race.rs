// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios with windows.
//!
//! Drawn like any other, but shorter and busier; then some ops get others
//! that run in the middle of them, about the same pages. Of a window the
//! generator knows what kinds of steps such an op takes, and that early ones
//! are reached more often than late ones.

use gup_core::model::mmap::{Kind, Prot};
use gup_core::step::StepKind;

use super::{Generator, Mapped, Place, Taste};
use crate::scenario::{MAX_OPS, Op, PAGES, Range, Scenario, Unpin, What, Window, end_of_group};

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
    /// Draws a scenario with windows: memory is brought into some state, ops
    /// meet, and what came of it is looked at.
    pub fn race(&mut self, out: &mut Scenario) {
        out.ops.clear();
        let taste = self.busy();
        let places = [self.race_place(taste), self.race_place(taste)];
        let used = if self.one_in(3) { &places[..] } else { &places[..1] };
        for place in used {
            self.push(out, Self::mmap(place.range, Prot::ReadWrite, place.kind), taste);
        }
        if !self.one_in(4) {
            self.push(out, What::Write(places[0].range), taste);
        }
        if self.one_in(3) {
            self.push(out, What::LruAddDrainAll, taste);
        }
        for _ in 0..self.rng.u8(0..4) {
            let range = self.range(places[0]);
            let what = self.disturbance(range, places[0], taste);
            self.push(out, what, taste);
        }
        for _ in 0..=self.rng.u8(0..2) {
            let range = self.range(places[0]);
            let what = match self.rng.bool() {
                true => self.call(range),
                false => self.disturbance(range, places[0], taste),
            };
            self.push(out, what, taste);
            self.open_window(out, out.ops.len() - 1, used, taste);
        }
        for _ in 0..self.rng.u8(0..4) {
            let what = self.what(places[0], taste);
            self.push(out, what, taste);
        }
    }

    /// Small pages, or just as often room for a huge one, at its beginning.
    fn race_place(&mut self, taste: Taste) -> Place {
        let mut place = self.place(taste);
        if self.rng.bool() {
            let page = self.rng.u8(0..PAGES / 8) * 8;
            let kind = self.pick(&[Kind::Anon, Kind::AnonThp]);
            place.range = Range { page, pages: 8, ..place.range };
            place.kind = Mapped::Kind(kind);
        }
        place
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
    fn open_window(&mut self, s: &mut Scenario, at: usize, places: &[Place], taste: Taste) {
        let kinds = steps_of(&s.ops[at].what);
        if kinds.is_empty() {
            return;
        }
        let window = Window { kind: self.pick(kinds), nth: self.nth() };
        let mut more = true;
        while more && s.ops.len() < MAX_OPS {
            let place = self.pick(places);
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
        let most = self.pick(&[1, 1, 2, 4, 8, 32]);
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
            let kind = Mapped::Kind(Kind::Anon);
            self.open_window(s, around, &[Place { range, kind }], taste);
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

#[cfg(test)]
mod tests {
    use gup_core::history::Base;

    use super::*;

    #[test]
    fn every_kind_of_step_has_windows_and_every_scenario_survives() {
        let (mut g, mut s) = (Generator::new(1, Base::V6_12), Scenario::default());
        let mut drawn = [false; StepKind::ALL.len()];
        for i in 0..20_000 {
            match i % 2 {
                0 => g.race(&mut s),
                _ => g.mutate_race(&mut s),
            }
            assert!(s.ops.first().is_none_or(|op| op.at.is_none()));
            assert_eq!(Scenario::decode(&s.encode()).ops, s.ops);
            s.ops.iter().filter_map(|op| op.at).for_each(|at| drawn[at.kind as usize] = true);
        }
        let missing: Vec<_> = StepKind::ALL.iter().filter(|&&k| !drawn[k as usize]).collect();
        assert!(
            missing.iter().all(|k| matches!(k, StepKind::IrqSave | StepKind::Signal)),
            "{missing:?}"
        );
    }
}
