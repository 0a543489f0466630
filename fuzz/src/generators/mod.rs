// SPDX-License-Identifier: GPL-2.0-only
//! Scenarios that tend to get somewhere.
//!
//! The generator knows nothing of the world and nothing of any bug. What it
//! knows is how such tests are written by hand: something is mapped, touched
//! and pinned, then disturbed, then looked at and given back, most of it
//! around the same few pages. Each scenario picks one or two such places and
//! a taste (which kinds of ops it uses at all), and draws the rest.

use std::collections::HashMap;

use fastrand::Rng;
use gup_core::flags::Foll;
use gup_core::history::Base;
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::filemap::{File, has_page_mkwrite};
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{FileMap, Kind, Prot};
use gup_core::model::zone::Prefer;

use crate::scenario::{
    BLOCKS, CALL_FLAGS, CPUS, Call, CallOp, Handle, MAX_NTH, MAX_OPS, MAX_PAGES, Op, PAGES, Range,
    Scenario, Unpin, What, Window, flags_of,
};

/// Handles that a scenario uses; few, so that ops meet.
const FEW_HANDLES: u8 = 4;
/// Flags that ask for something unusual, by their weight out of 256.
const FLAG_WEIGHTS: [(Foll, u8); 14] = [
    (Foll::WRITE, 140),
    (Foll::LONGTERM, 80),
    (Foll::FORCE, 16),
    (Foll::DUMP, 6),
    (Foll::NOWAIT, 6),
    (Foll::ANON, 4),
    (Foll::SPLIT_PMD, 8),
    (Foll::HWPOISON, 2),
    (Foll::GET, 3),
    (Foll::PIN, 2),
    (Foll::TOUCH, 8),
    (Foll::NOFAULT, 8),
    (Foll::INTERRUPTIBLE, 4),
    (Foll::HONOR_NUMA_FAULT, 8),
];

/// A source of scenarios; the same seed gives the same ones.
#[derive(Debug)]
pub struct Generator {
    rng: Rng,
    base: Base,
    /// Where windows were seen to make a difference, by the opcode of the op
    /// around.
    windows: HashMap<u8, Vec<Window>>,
}

/// The place a scenario is about.
#[derive(Clone, Copy, Debug)]
struct Place {
    range: Range,
    kind: Mapped,
}

/// What is mapped there.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mapped {
    Kind(Kind),
    File(FileMap),
}

/// Which kinds of ops a scenario uses: swarm testing in its simplest form.
#[derive(Clone, Copy, Debug)]
struct Taste {
    fork: bool,
    kernel_work: bool,
    failures: bool,
    protection: bool,
    files: bool,
}

impl Generator {
    /// A generator of scenarios for a base: of the calls and flags it has.
    pub fn new(seed: u64, base: Base) -> Self {
        Generator { rng: Rng::with_seed(seed), base, windows: HashMap::new() }
    }

    fn one_in(&mut self, n: u8) -> bool {
        self.rng.u8(0..n) == 0
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.rng.usize(0..all.len())]
    }

    /// Draws a scenario.
    pub fn scenario(&mut self, out: &mut Scenario) {
        out.ops.clear();
        let taste = Taste {
            fork: self.rng.bool(),
            kernel_work: self.rng.bool(),
            failures: self.one_in(3),
            protection: self.one_in(3),
            files: self.one_in(4),
        };
        let places = [self.place(taste), self.place(taste)];
        let used = if self.one_in(3) { &places[..] } else { &places[..1] };
        if self.one_in(4) {
            let prefer = self.pick(Prefer::ALL);
            self.push(out, What::Prefer(prefer), taste);
        }
        for place in used {
            let prot = if self.one_in(6) { self.pick(Prot::ALL) } else { Prot::ReadWrite };
            let op = Self::mmap(place.range, prot, place.kind);
            self.push(out, op, taste);
        }
        let len = self.rng.usize(2..=24);
        for _ in 0..len {
            let place = self.pick(used);
            let what = self.what(place, taste);
            self.push(out, what, taste);
        }
    }

    fn push(&mut self, out: &mut Scenario, what: What, taste: Taste) {
        let fail = if taste.failures && self.one_in(5) { Some(self.fail()) } else { None };
        // The round trip gives every op its one form.
        out.ops.extend(Op::decode(Op { fail, ..Op::from(what) }.encode()));
    }

    fn fail(&mut self) -> Fail {
        // Early visits are reached more often than late ones.
        let nth = self.rng.u8(1..=MAX_NTH).min(self.rng.u8(1..=MAX_NTH));
        Fail { site: self.pick(FailSite::ALL), nth }
    }

    fn place(&mut self, taste: Taste) -> Place {
        let kind = match self.rng.u8(0..16) {
            _ if taste.files && self.one_in(2) => Mapped::File(self.file_map()),
            0..=7 => Mapped::Kind(Kind::Anon),
            8..=12 => Mapped::Kind(Kind::AnonThp),
            13 => Mapped::Kind(Kind::Driver),
            14 => Mapped::Kind(Kind::DriverOrder1),
            _ => Mapped::Kind(Kind::Pfnmap),
        };
        let thp = kind == Mapped::Kind(Kind::AnonThp);
        let hugetlb = match kind {
            Mapped::File(map) if map.file.is_hugetlb() => Some(1 << map.file.order()),
            _ => None,
        };
        // Huge pages need aligned room; others may start anywhere.
        let page = if let Some(size) = hugetlb {
            self.rng.u8(0..PAGES / size) * size
        } else if thp || self.rng.bool() {
            self.rng.u8(0..PAGES / 8) * 8
        } else {
            self.rng.u8(0..PAGES)
        };
        let pages = match kind {
            _ if thp => self.pick(&[8, 8, 16]),
            _ if hugetlb.is_some() => hugetlb.unwrap_or(8).max(self.pick(&[8, 8, 16])),
            Mapped::File(_) => self.rng.u8(1..=4),
            _ if self.rng.bool() => self.rng.u8(1..=3),
            _ => self.rng.u8(1..=MAX_PAGES),
        };
        let mm = MmId(u8::from(self.one_in(8)));
        Place { range: Range { mm, page, pages: pages.min(PAGES - page) }, kind }
    }

    fn file_map(&mut self) -> FileMap {
        let small = [File::Regular, File::Regular, File::Shmem, File::Secretmem];
        let huge = [File::Hugetlb, File::Hugetlb, File::HugetlbPud];
        let hugetlb = self.base >= Base::V6_12 && self.rng.bool();
        let file = if hugetlb { self.pick(&huge) } else { self.pick(&small) };
        let shared = self.rng.bool() || file == File::Secretmem;
        let last = if hugetlb { 1 } else { 2 };
        FileMap { shared, file, pgoff: if self.rng.bool() { 0 } else { self.rng.u8(0..=last) } }
    }

    fn mmap(range: Range, prot: Prot, kind: Mapped) -> What {
        match kind {
            Mapped::Kind(kind) => What::Mmap(range, prot, kind),
            Mapped::File(map) => What::MmapFile(range, prot, map),
        }
    }

    /// Part of a place, seldom more, sometimes in another process.
    fn range(&mut self, place: Place) -> Range {
        let all = place.range;
        let mut r = match self.rng.u8(0..8) {
            0..=3 => all,
            4..=6 => {
                let first = self.rng.u8(0..all.pages);
                let pages = self.rng.u8(1..=all.pages - first);
                Range { page: all.page + first, pages, ..all }
            }
            _ => {
                let pages = self.rng.u8(1..=MAX_PAGES).min(PAGES - all.page);
                Range { pages, ..all }
            }
        };
        if self.one_in(4) {
            r.mm = MmId(self.rng.u8(0..3));
        }
        r
    }

    fn handle(&mut self) -> Handle {
        Handle(self.rng.u8(0..FEW_HANDLES))
    }

    fn what(&mut self, place: Place, taste: Taste) -> What {
        let range = self.range(place);
        match self.rng.u8(0..32) {
            0..=4 => What::Write(range),
            5..=6 => What::Read(range),
            7..=14 => self.call(range),
            15..=17 => What::Unpin(self.unpin(), self.handle()),
            18 if self.base >= Base::V6_12 && self.one_in(3) => {
                What::FolioAddPin(self.handle(), self.handle())
            }
            18 => What::PutPage(self.handle()),
            19 => What::DmaWrite(self.handle()),
            20 => What::DmaRead(self.handle()),
            21..=23 if taste.fork => self.process(range),
            24 if taste.files => self.file_work(place),
            24..=26 if taste.kernel_work => self.kernel_work(range),
            27..=28 if taste.protection => What::Mprotect(range, self.pick(Prot::ALL)),
            29 => What::Dontneed(range),
            30 => self.memory(range, place),
            _ => self.call(range),
        }
    }

    fn unpin(&mut self) -> Unpin {
        loop {
            let how = self.pick(Unpin::ALL);
            // What gives nothing back leads nowhere.
            if how.exists_in(self.base) && (!how.is_misuse() || self.one_in(4)) {
                break how;
            }
        }
    }

    fn process(&mut self, range: Range) -> What {
        let other = MmId(self.rng.u8(0..3));
        if self.one_in(3) { What::Exit(other) } else { What::Fork(range.mm, other) }
    }

    fn memory(&mut self, range: Range, place: Place) -> What {
        if self.rng.bool() {
            What::Munmap(range)
        } else {
            Self::mmap(range, self.pick(Prot::ALL), place.kind)
        }
    }

    /// What can be done with a file; mostly with the one that is mapped there.
    fn file_work(&mut self, place: Place) -> What {
        let all = [File::Regular, File::Shmem, File::Secretmem, File::Hugetlb, File::HugetlbPud];
        let all = if self.base >= Base::V6_12 { &all[..] } else { &all[..3] };
        let file = match place.kind {
            Mapped::File(map) if !self.one_in(4) => map.file,
            _ => self.pick(all),
        };
        let pages = file.max_pages() as u8;
        match self.rng.u8(0..4) {
            0 if has_page_mkwrite(file) => What::Fsync(file),
            // Secret memory never changes its size.
            1 if file != File::Secretmem => What::Truncate(file, pages),
            2 if file != File::Secretmem => What::Truncate(file, self.rng.u8(0..pages.min(4))),
            _ => What::Close(file),
        }
    }

    fn kernel_work(&mut self, range: Range) -> What {
        let first = Range { pages: 1, ..range };
        match self.rng.u8(0..13) {
            0 => What::LruAddDrain,
            1 => What::LruAddDrainAll,
            2..=3 => What::Migrate(first),
            4 => What::SplitHugePage(first),
            5 => What::SplitHugePmd(first),
            6 => What::IsolateBlock(self.rng.u8(0..BLOCKS)),
            7 => What::UnisolateBlock(self.rng.u8(0..BLOCKS)),
            8 => What::Prefer(self.pick(Prefer::ALL)),
            9 => What::Collapse(first),
            10 => What::NumaHint(range),
            11 => What::Swapout(first),
            _ => match self.rng.bool() {
                true => What::Cpu(self.rng.u8(0..CPUS)),
                false => What::Tee(self.handle(), self.handle()),
            },
        }
    }

    fn call(&mut self, range: Range) -> What {
        let call = loop {
            let call = self.pick(Call::ALL);
            if call.exists_in(self.base) {
                break call;
            }
        };
        let mut flags = Foll::empty();
        let known = flags_of(self.base);
        for (flag, weight) in FLAG_WEIGHTS.into_iter().filter(|&(f, _)| known.contains(f)) {
            // References cannot be longterm; asking for it is seldom of use.
            let odd = flag == Foll::LONGTERM && !call.pins();
            let weight = if odd { weight / 16 } else { weight };
            if self.rng.u8(..) < weight {
                flags |= flag;
            }
        }
        What::Call(CallOp {
            call,
            range,
            flags,
            locked: self.one_in(3),
            nopages: self.one_in(16),
            handle: self.handle(),
        })
    }

    /// Changes a scenario a little: an op more, less, elsewhere or other.
    pub fn mutate(&mut self, s: &mut Scenario) {
        for _ in 0..=self.rng.u8(0..3) {
            self.mutate_once(s);
        }
        s.ops.truncate(MAX_OPS);
    }

    fn mutate_once(&mut self, s: &mut Scenario) {
        if s.ops.is_empty() {
            self.scenario(s);
            return;
        }
        let at = self.rng.usize(0..s.ops.len());
        match self.rng.u8(0..6) {
            0 => {
                s.ops.remove(at);
            }
            1 => {
                let op = s.ops[at];
                let to = self.rng.usize(0..=s.ops.len());
                s.ops.insert(to, op);
            }
            2 => {
                let to = self.rng.usize(0..s.ops.len());
                s.ops.swap(at, to);
            }
            3 => {
                // One byte of one record: another argument, or another op.
                let mut record = s.ops[at].encode();
                let byte = self.rng.usize(0..record.len());
                record[byte] = self.rng.u8(..);
                if let Some(op) = s.ops[at].with_record(record) {
                    s.ops[at] = op;
                }
            }
            _ => {
                let taste = Taste {
                    fork: true,
                    kernel_work: true,
                    failures: true,
                    protection: true,
                    files: self.one_in(4),
                };
                let range = self.some_range(s, at, taste);
                let file = taste.files && self.one_in(2);
                let kind =
                    if file { Mapped::File(self.file_map()) } else { Mapped::Kind(Kind::Anon) };
                let what = self.what(Place { range, kind }, taste);
                let fail = if self.one_in(8) { Some(self.fail()) } else { None };
                let to = self.rng.usize(0..=s.ops.len());
                if let Some(op) = Op::decode(Op { fail, ..Op::from(what) }.encode()) {
                    s.ops.insert(to, op);
                }
            }
        }
    }

    /// A range that the scenario is about already.
    fn some_range(&mut self, s: &Scenario, at: usize, taste: Taste) -> Range {
        let ranges = s.ops[at..].iter().chain(&s.ops[..at]).filter_map(|op| match op.what {
            What::Mmap(r, ..)
            | What::MmapFile(r, ..)
            | What::Write(r)
            | What::Read(r)
            | What::Munmap(r) => Some(r),
            What::Call(c) => Some(c.range),
            _ => None,
        });
        ranges.into_iter().next().unwrap_or_else(|| self.place(taste).range)
    }
}

mod race;

const _: () = assert!(FLAG_WEIGHTS.len() == CALL_FLAGS.len());

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_scenarios() {
        let draw = |seed| {
            let (mut g, mut s) = (Generator::new(seed, Base::V5_15), Scenario::default());
            (0..50).for_each(|_| g.scenario(&mut s));
            s
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_op_and_flag_is_drawn() {
        let mut s = Scenario::default();
        let mut generators = [Base::V5_15, Base::V6_12].map(|base| Generator::new(1, base));
        let (mut opcodes, mut flags) = (0u128, Foll::empty());
        for i in 0..40_000 {
            generators[i % 2].scenario(&mut s);
            for op in &s.ops {
                opcodes |= 1 << op.what.opcode();
                if let What::Call(c) = op.what {
                    flags |= c.flags;
                }
            }
        }
        let (files, anon, folios) = (0b1111 << 48, 0b111 << 40, 0xff << 64);
        let all = ((1 << 37) - 1) | files | anon | folios;
        assert_eq!(opcodes, all, "opcodes drawn: {opcodes:b}");
        assert!(CALL_FLAGS.iter().all(|&f| flags.contains(f)), "{flags:?}");
    }

    #[test]
    fn mutation_keeps_a_scenario_encodable() {
        let (mut g, mut s) = (Generator::new(3, Base::V6_12), Scenario::default());
        for _ in 0..2_000 {
            g.mutate(&mut s);
            assert_eq!(Scenario::decode(&s.encode()), s);
        }
    }
}
