// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios with windows.
//!
//! Drawn like any other, but shorter and busier; then some ops get others
//! that run in the middle of them, about the same pages. Once the scenario has
//! run, it is known where they meet: at the steps of the op around that use
//! what the ops in the windows use, one of both writing. Then it runs some more
//! times, with the windows at such steps, or with others in them.

use gup_core::model::filemap::File;
use gup_core::model::limits::PTRS_PER_PTE;
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{Kind, Prot};
use gup_core::step::StepKind;

use super::{FEW_HANDLES, Generator, Mapped, Place, Taste};
use crate::exec::{Met, Raced};
use crate::scenario::{
    MAX_OPS, MMS, Op, PAGES, Range, Scenario, StepCounts, What, Window, end_of_group,
};

/// Windows that are remembered for each kind of op.
const WINDOWS_KEPT: usize = 64;

/// Whether the op takes steps at all; settings do not.
fn takes_steps(what: &What) -> bool {
    !matches!(what, What::Cpu(_) | What::Prefer(_) | What::UnisolateBlock(_))
}

/// The file whose mapping the last op takes away, as far as can be told from the
/// ops alone.
fn unmapped_file(ops: &[Op]) -> Option<File> {
    let What::Munmap(gone) = ops.last()?.what else { return None };
    ops.iter().find_map(|op| match op.what {
        What::MmapFile(r, _, map) if r.mm == gone.mm => {
            gone.bytes().contains(&r.addr()).then_some(map.file)
        }
        _ => None,
    })
}

impl Generator {
    /// Draws a scenario with windows: memory is brought into some state, ops
    /// meet, and what came of it is looked at.
    pub fn race(&mut self, out: &mut Scenario) {
        out.ops.clear();
        let taste = self.busy();
        let place = self.race_place(taste);
        let other = match self.rng.u8(0..4) {
            0..=1 => self.beside(place, taste),
            2 => self.near(place, taste),
            _ => self.race_place(taste),
        };
        let places = [place, other];
        let used = if self.one_in(3) { &places[..1] } else { &places[..] };
        for place in used {
            self.push(out, Self::mmap(place.range, Prot::ReadWrite, place.kind), taste);
        }
        if !self.one_in(4) {
            self.push(out, What::Write(places[0].range), taste);
        }
        self.drain(out, taste);
        for _ in 0..self.rng.u8(0..5) {
            let range = self.range(places[0]);
            // The rest mostly takes away what is there.
            let what = match self.one_in(4) {
                false => self.page_work(range),
                true => self.disturbance(range, places[0], taste),
            };
            self.push_fitting(out, what, taste);
        }
        self.drain(out, taste);
        for _ in 0..=self.rng.u8(0..2) {
            let range = self.range(places[0]);
            let what = match self.rng.u8(0..5) {
                0 => self.call(range),
                1..=2 => self.fast_call(range),
                _ => self.disturbance(range, places[0], taste),
            };
            self.push_fitting(out, what, taste);
            self.open_window(out, out.ops.len() - 1, taste);
        }
        for _ in 0..self.rng.u8(0..4) {
            let what = self.what(places[0], taste);
            self.push_fitting(out, what, taste);
        }
    }

    /// As long as a page waits in a batch for its place on the LRU, there is a
    /// reference more: it cannot be moved, split or collapsed.
    fn drain(&mut self, out: &mut Scenario, taste: Taste) {
        if self.rng.bool() {
            self.push(out, What::LruAddDrainAll, taste);
        }
    }

    /// GUP-fast takes no lock, so most can happen in the middle of it.
    fn fast_call(&mut self, range: Range) -> What {
        loop {
            let what = self.call(range);
            if matches!(what, What::Call(c) if c.call.fast()) {
                return what;
            }
        }
    }

    fn push_fitting(&mut self, out: &mut Scenario, mut what: What, taste: Taste) {
        self.fit(&mut what, &out.ops);
        self.push(out, what, taste);
    }

    /// Names processes and handles that there are once `ops` have run, as far
    /// as can be told from the ops alone.
    fn fit(&mut self, what: &mut What, ops: &[Op]) {
        let (mut alive, mut held) = ([false; MMS as usize], [false; FEW_HANDLES as usize]);
        for op in ops {
            match op.what {
                What::Mmap(r, ..) | What::MmapFile(r, ..) => alive[usize::from(r.mm.0)] = true,
                What::Fork(_, child) => alive[usize::from(child.0)] = true,
                What::Exit(mm) => alive[usize::from(mm.0)] = false,
                _ => {}
            }
            let [a, b] = op.what.handles();
            let takes = matches!(op.what, What::Call(_) | What::Tee(..) | What::FolioAddPin(..));
            let gives = matches!(op.what, What::Unpin(..) | What::PutPage(_));
            if let Some(h) = b.or(a).filter(|h| h.0 < FEW_HANDLES && (takes || gives)) {
                held[usize::from(h.0)] = takes;
            }
        }
        let one_of = |g: &mut Self, all: &[bool], wanted: bool, now: u8| {
            let fits = |i: &u8| all.get(usize::from(*i)).is_none_or(|&is| is == wanted);
            let mut others = (0..all.len() as u8).filter(fits);
            let n = others.clone().count();
            if fits(&now) || n == 0 { now } else { others.nth(g.rng.usize(0..n)).unwrap_or(now) }
        };
        let starts = matches!(what, What::Mmap(..) | What::MmapFile(..)) && !alive.contains(&true);
        if let Some(range) = what.range_mut().filter(|_| !starts) {
            range.mm.0 = one_of(self, &alive, true, range.mm.0);
        }
        match what {
            What::Fork(parent, child) => {
                parent.0 = one_of(self, &alive, true, parent.0);
                child.0 = one_of(self, &alive, false, child.0);
            }
            What::Exit(mm) => {
                mm.0 = one_of(self, &alive, true, mm.0);
                // Without any process, nothing would follow.
                if alive.iter().filter(|&&is| is).count() < 2 {
                    *what = What::Fork(*mm, MmId((mm.0 + 1) % MMS));
                }
            }
            What::Call(call) => call.handle.0 = one_of(self, &held, false, call.handle.0),
            What::Unpin(_, h) | What::PutPage(h) | What::DmaWrite(h) | What::DmaRead(h) => {
                h.0 = one_of(self, &held, true, h.0);
            }
            What::Tee(from, to) | What::FolioAddPin(from, to) => {
                from.0 = one_of(self, &held, true, from.0);
                to.0 = one_of(self, &held, false, to.0);
            }
            _ => {}
        }
    }

    /// A file, small pages, or just as often as these room for a huge one, at its
    /// beginning.
    fn race_place(&mut self, taste: Taste) -> Place {
        let mut place = self.place(taste);
        if matches!(place.kind, Mapped::Kind(_)) && self.rng.bool() {
            let page = self.rng.u8(0..PAGES / 8) * 8;
            let kind = self.pick(&[Kind::Anon, Kind::AnonThp]);
            place.range = Range { page, pages: 8, ..place.range };
            place.kind = Mapped::Kind(kind);
        }
        place
    }

    /// A place of the same process under the page table beside that of `place`:
    /// the one above is common to both, and may get what the other gives up.
    fn beside(&mut self, place: Place, taste: Taste) -> Place {
        const TABLE: u8 = PTRS_PER_PTE as u8;
        let other = self.race_place(taste);
        let page = ((place.range.page / TABLE) ^ 1) * TABLE + other.range.page % TABLE;
        let pages = other.range.pages.min(PAGES - page);
        Place { range: Range { mm: place.range.mm, page, pages }, ..other }
    }

    /// A place behind that of `place`, under the same page table, if there is room:
    /// who unmaps one of both need not wait until nobody uses the table.
    fn near(&mut self, place: Place, taste: Taste) -> Place {
        const TABLE: u8 = PTRS_PER_PTE as u8;
        let range = place.range;
        let page = range.page + range.pages;
        match TABLE - range.page % TABLE {
            room if room > range.pages => Place {
                range: Range { page, pages: self.rng.u8(1..=room - range.pages), ..range },
                kind: Mapped::Kind(Kind::Anon),
            },
            _ => self.race_place(taste),
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

    /// Lets some ops run in a window of op `at`, which is in none: about the
    /// same pages as that op, or others that the scenario is about. How many
    /// steps the op takes is not known yet; see [`Generator::aim`].
    fn open_window(&mut self, s: &mut Scenario, at: usize, taste: Taste) {
        let around = s.ops[at].what;
        if !takes_steps(&around) {
            return;
        }
        let window = self.likely_window(&around);
        let mut more = true;
        while more && s.ops.len() < MAX_OPS {
            let end = end_of_group(&s.ops, at);
            let place = self.mapped_place(s, taste);
            let range = match around.range() {
                Some(range) if !self.one_in(4) => range,
                _ => self.range(place),
            };
            let what = match end > at + 1 && self.rng.bool() {
                true => self.after(&s.ops[..end], place),
                false => self.disturbance(range, place, taste),
            };
            self.push_inside(s, at, window, what);
            more = self.one_in(2);
        }
    }

    /// What follows upon the last op, in its window: what it gave up is used
    /// again; a file that it unmapped can be closed.
    fn after(&mut self, ops: &[Op], place: Place) -> What {
        match unmapped_file(ops) {
            Some(file) if self.rng.bool() => What::Close(file),
            _ => What::Write(place.range),
        }
    }

    /// A place that the scenario maps something at.
    fn mapped_place(&mut self, s: &Scenario, taste: Taste) -> Place {
        let all = || {
            s.ops.iter().filter_map(|op| match op.what {
                What::Mmap(range, _, kind) => Some(Place { range, kind: Mapped::Kind(kind) }),
                What::MmapFile(range, _, map) => Some(Place { range, kind: Mapped::File(map) }),
                _ => None,
            })
        };
        let nth = self.rng.usize(0..all().count().max(1));
        all().nth(nth).unwrap_or_else(|| self.race_place(taste))
    }

    /// Where a window of such an op was seen to make a difference, or anywhere.
    fn likely_window(&mut self, around: &What) -> Window {
        let near = !self.one_in(4);
        if let Some(seen) = self.windows.get(&around.opcode()).filter(|_| near) {
            return seen[self.rng.usize(0..seen.len())];
        }
        Window { kind: self.pick(StepKind::ALL), nth: self.rng.u16(1..=4) }
    }

    /// Keeps a window that makes a difference, in place of an earlier one if
    /// there are enough.
    fn remember(&mut self, around: &What, places: &[Window]) {
        if places.is_empty() {
            return;
        }
        let window = self.pick(places);
        let seen = self.windows.entry(around.opcode()).or_default();
        if seen.len() < WINDOWS_KEPT {
            seen.push(window);
        } else {
            seen[self.rng.usize(0..WINDOWS_KEPT)] = window;
        }
    }

    /// Changes the windows of a scenario by what its run showed: they go to
    /// another step at which it makes a difference who is first, or to any
    /// step. Where they make none, others mostly take their place; what was
    /// freed in them may be used again, and a file that they unmapped be closed.
    pub fn aim(&mut self, s: &mut Scenario, raced: &[Raced]) {
        let taste = self.busy();
        // From the end, so that the places of those before stay.
        for r in raced.iter().rev() {
            self.remember(&r.what, &r.places);
            let redraw = match r.met {
                Met::Nowhere => false,
                Met::Nothing => !self.one_in(8),
                Met::Failed => !self.one_in(4),
                Met::Blocked => self.rng.bool(),
                Met::Ran if r.places.is_empty() => !self.one_in(4),
                Met::Ran => self.one_in(4),
            };
            if redraw {
                s.ops.drain(r.at + 1..end_of_group(&s.ops, r.at));
                self.open_window(s, r.at, taste);
            } else if r.met == Met::Ran && self.rng.bool() {
                self.go_on(s, r, taste);
            }
            let aimed = !r.places.is_empty() && !self.one_in(8);
            let window = if aimed { self.meeting(&r.places) } else { self.window(&r.steps) };
            let end = end_of_group(&s.ops, r.at);
            for op in &mut s.ops[r.at + 1..end] {
                op.at = window.or(op.at);
            }
        }
    }

    /// Lets what the op in a window freed be used again, or the file that it
    /// unmapped be closed, if there is one op there alone.
    fn go_on(&mut self, s: &mut Scenario, r: &Raced, taste: Taste) {
        if end_of_group(&s.ops, r.at) != r.at + 2 {
            return;
        }
        let unmapped = unmapped_file(&s.ops[..r.at + 2]);
        if unmapped.is_none() && !r.freed {
            return;
        }
        let range = self.mapped_place(s, taste).range;
        let what = match (unmapped, self.one_in(4)) {
            (Some(file), _) => What::Close(file),
            (None, true) => What::Fork(range.mm, MmId(self.rng.u8(0..MMS))),
            (None, false) => What::Write(range),
        };
        if let Some(window) = s.ops[r.at + 1].at {
            self.push_inside(s, r.at, window, what);
        }
    }

    /// Lets an op run in the middle of op `at`, after those that are there.
    fn push_inside(&mut self, s: &mut Scenario, at: usize, window: Window, mut what: What) {
        let end = end_of_group(&s.ops, at);
        self.fit(&mut what, &s.ops[..end]);
        if let Some(op) = Op::decode(Op::from(what).encode()) {
            s.ops.insert(end, Op { at: Some(window), ..op });
        }
    }

    /// One of the windows that make a difference; half of the time the first of
    /// its kind: what an op does later, with what it has by then, is often refused.
    fn meeting(&mut self, places: &[Window]) -> Option<Window> {
        let any = self.pick(places);
        let first = places.iter().find(|w| w.kind == any.kind).copied();
        if self.rng.bool() { first } else { Some(any) }
    }

    fn window(&mut self, taken: &StepCounts) -> Option<Window> {
        let all = || StepKind::ALL.iter().copied().zip(*taken).filter(|&(_, n)| n > 0);
        if self.rng.bool() {
            let kinds = all().count();
            let (kind, n) = all().nth(self.rng.usize(0..kinds.max(1)))?;
            return Some(Window { kind, nth: self.rng.u16(1..=n) });
        }
        let steps: u32 = all().map(|(_, n)| u32::from(n)).sum();
        let mut step = self.rng.u32(0..steps.max(1));
        for (kind, n) in all() {
            match step.checked_sub(n.into()) {
                Some(rest) => step = rest,
                None => return Some(Window { kind, nth: step as u16 + 1 }),
            }
        }
        None
    }

    /// What another CPU may do to the pages of an op.
    fn disturbance(&mut self, range: Range, place: Place, taste: Taste) -> What {
        match self.rng.u8(0..16) {
            0..=4 => self.page_work(range),
            5 if taste.files => What::Munmap(range),
            5..=6 => What::Dontneed(range),
            7 => self.memory(range, place),
            8..=9 => self.process(range),
            10 => What::Write(range),
            11..=12 => self.call(range),
            13 => What::Unpin(self.unpin(), self.handle()),
            14 if taste.files => self.file_work(place),
            _ => self.what(place, taste),
        }
    }

    /// What the kernel does to a page that is mapped.
    fn page_work(&mut self, range: Range) -> What {
        let page = range.page + self.rng.u8(0..range.pages);
        let one = Range { page, pages: 1, ..range };
        match self.rng.u8(0..6) {
            0 => What::Migrate(one),
            1 => What::SplitHugePage(one),
            2 => What::SplitHugePmd(one),
            3 => What::Collapse(one),
            4 => What::NumaHint(range),
            _ => What::Swapout(one),
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
        let Some(window) = s.ops[at].at else {
            let taste = self.busy();
            self.open_window(s, around, taste);
            return;
        };
        s.ops[at].at = Some(match self.rng.u8(0..4) {
            0 => Window { nth: window.nth.saturating_add(1), ..window },
            1 => Window { nth: (window.nth - 1).max(1), ..window },
            2 => Window { nth: self.rng.u16(1..=4), ..window },
            _ => Window { kind: self.pick(StepKind::ALL), ..window },
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
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn places_are_often_under_tables_beside_each_other() {
        let (mut g, mut s) = (Generator::new(1, Base::V6_12), Scenario::default());
        let mut beside = 0;
        for _ in 0..1_000 {
            g.race(&mut s);
            let places = s.ops.iter().filter_map(|op| match op.what {
                What::Mmap(r, ..) | What::MmapFile(r, ..) => Some((r.mm, r.page / 8)),
                _ => None,
            });
            let [a, b] = places.take(2).collect::<Vec<_>>()[..] else { continue };
            beside += u32::from((a.0, a.1 ^ 1) == b);
        }
        assert!((250..600).contains(&beside), "{beside}");
    }

    #[test]
    fn windows_go_where_they_make_a_difference() {
        let at = |kind, nth| Some(Window { kind, nth });
        let op = |text: &str| text.parse::<Op>().unwrap();
        let call = op("h0 = pin_user_pages_fast m0 0x0 1 0");
        let zap = Op { at: at(StepKind::IrqSave, 1), ..op("madvise m0 0x0 1 dontneed") };
        let before = Scenario { ops: vec![op("mmap m0 0x0 8 rw private anon"), call, zap] };
        let mut steps = [0; StepKind::ALL.len()];
        (steps[StepKind::IrqSave as usize], steps[StepKind::PteRead as usize]) = (1, 2);
        let places = vec![Window { kind: StepKind::PteRead, nth: 2 }];
        let raced = Raced { at: 1, what: call.what, steps, met: Met::Ran, places, freed: true };
        let mut g = Generator::new(1, Base::V6_12);
        let (mut aimed, mut kept, mut used_again) = (0, 0, 0);
        for _ in 0..1_000 {
            let mut s = before.clone();
            g.aim(&mut s, std::slice::from_ref(&raced));
            let inner = &s.ops[2..];
            assert!(inner.iter().all(|op| op.at == inner[0].at && op.at.is_some()), "{s:?}");
            aimed += u32::from(inner[0].at == at(StepKind::PteRead, 2));
            kept += u32::from(inner[0].what == zap.what);
            used_again += u32::from(inner.len() == 2 && inner[0].what == zap.what);
        }
        assert!((850..990).contains(&aimed), "{aimed}");
        assert!((700..900).contains(&kept), "{kept}");
        assert!(used_again > 300, "{used_again}");
    }

    #[test]
    fn a_file_that_a_window_unmaps_is_closed_there() {
        let map = "mmap m0 0x1000 2 rw shared shmem 0";
        let lines = ["mmap m0 0x0 1 rw private anon", map, "read m0 0x0 1", "munmap m0 0x0 4"];
        let mut ops = lines.map(|line| line.parse::<Op>().unwrap()).to_vec();
        assert_eq!(unmapped_file(&ops), Some(File::Shmem));
        assert_eq!(unmapped_file(&ops[..3]), None);
        ops[3].at = Some(Window { kind: StepKind::Data, nth: 1 });
        let steps = [1; StepKind::ALL.len()];
        let raced =
            Raced { at: 2, what: ops[2].what, steps, met: Met::Ran, places: vec![], freed: false };
        let mut g = Generator::new(1, Base::V6_12);
        let closed = (0..1_000).filter(|_| {
            let mut s = Scenario { ops: ops.clone() };
            g.aim(&mut s, std::slice::from_ref(&raced));
            s.ops.get(4).is_some_and(|op| op.what == What::Close(File::Shmem) && op.at.is_some())
        });
        assert!(closed.count() > 50);
    }
}
