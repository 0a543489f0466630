// SPDX-License-Identifier: GPL-2.0-only
//! Ops and scenarios: the one vocabulary of generators, text, minimiser and
//! reports.
//!
//! Arguments are fixed small slots (mm 0–3, page 0–63, handle 0–15), never an
//! index into what is alive, so deleting an op does not change what the
//! others mean. An op that cannot run is skipped, and the trace says so.
//!
//! An op may run in the middle of the one above it, on another CPU: then it
//! has a [`Window`].
//!
//! The binary form is eight bytes an op, `[opcode, mm, page, pages, flags,
//! flags, extra, fail]`, each reduced to its range. Opcodes are stable: a new
//! op takes a new number, and an unassigned number is no op at all. A window
//! is a record of its own before that of its op.

use std::fmt;

use arbitrary::{Arbitrary, Unstructured};
use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::history::Base;
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::filemap::File;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{FileMap, Kind, Prot};
use gup_core::model::zone::Prefer;
use gup_core::step::StepKind;

/// Address spaces a scenario can name.
pub const MMS: u8 = 4;
/// Pages of an address space.
pub const PAGES: u8 = 64;
/// The most pages that one op is about.
pub const MAX_PAGES: u8 = 16;
/// Handles for what calls returned.
pub const HANDLES: u8 = 16;
/// Pageblocks that can be isolated.
pub const BLOCKS: u8 = 15;
/// CPUs that ops can run on.
pub const CPUS: u8 = 2;
/// Ops of a scenario that come from bytes; the rest is cut off.
pub const MAX_OPS: usize = 64;
/// Bytes of an op in the binary form.
pub const RECORD: usize = 8;

/// A list of ops.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Scenario {
    /// The ops, in order.
    pub ops: Vec<Op>,
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Op {
    /// What is done.
    pub what: What,
    /// What fails meanwhile.
    pub fail: Option<Fail>,
    /// Where in the last op without a window above it another CPU does it;
    /// `None`: after that op has ended.
    pub at: Option<Window>,
}

/// The moment before a step of an op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Window {
    /// Of steps of this kind,
    pub kind: StepKind,
    /// the one with this number, from 1.
    pub nth: u16,
}

/// How many steps of each kind an op took.
pub type StepCounts = [u16; StepKind::ALL.len()];

/// The record of a window.
const WINDOW: u8 = 56;

impl Window {
    /// Reads its record; `None` if there is no such kind of step.
    fn decode(r: [u8; RECORD]) -> Option<Window> {
        let kind = *StepKind::ALL.get(usize::from(r[4]))?;
        Some(Window { kind, nth: u16::from_le_bytes([r[5], r[6]]).max(1) })
    }

    fn encode(self) -> [u8; RECORD] {
        let kind = StepKind::ALL.iter().position(|&k| k == self.kind).unwrap_or(0) as u8;
        let [low, high] = self.nth.to_le_bytes();
        [WINDOW, 0, 0, 0, kind, low, high, 0]
    }
}

/// The end of what belongs to op `i`: itself, or the op around it, and all
/// that runs in its windows.
pub fn end_of_group(ops: &[Op], i: usize) -> usize {
    let further = ops.iter().skip(i + 1).take_while(|op| op.at.is_some()).count();
    (i + 1 + further).min(ops.len())
}

/// The op that `ops` begins with, and the ops that run in its windows.
pub fn split_first(ops: &[Op]) -> Option<(&Op, &[Op], &[Op])> {
    let (outer, rest) = ops.split_first()?;
    let inner = rest.iter().take_while(|op| op.at.is_some()).count();
    Some((outer, &rest[..inner], &rest[inner..]))
}

/// A range of pages of one address space.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Range {
    /// The address space.
    pub mm: MmId,
    /// The first page.
    pub page: u8,
    /// How many, from 1.
    pub pages: u8,
}

impl Range {
    /// The address of the first byte.
    pub fn addr(self) -> u64 {
        u64::from(self.page) * PAGE_SIZE
    }
    /// Its addresses.
    pub fn bytes(self) -> std::ops::Range<u64> {
        self.addr()..self.addr() + u64::from(self.pages) * PAGE_SIZE
    }
    /// The addresses of its pages.
    pub fn addrs(self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.pages)).map(move |i| self.addr() + i * PAGE_SIZE)
    }
}

/// What a call returned, kept for later ops.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Handle(pub u8);

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum What {
    /// mmap(2); starts the process if there is none.
    Mmap(Range, Prot, Kind),
    /// mmap(2) of a file.
    MmapFile(Range, Prot, FileMap),
    /// munmap(2)
    Munmap(Range),
    /// mprotect(2)
    Mprotect(Range, Prot),
    /// madvise(2) with MADV_DONTNEED
    Dontneed(Range),
    /// The process stores to each page.
    Write(Range),
    /// The process loads from each page.
    Read(Range),
    /// fork(2) of the first into the second.
    Fork(MmId, MmId),
    /// exit(2)
    Exit(MmId),
    /// One of the twelve calls of mm/gup.c.
    Call(CallOp),
    /// Gives the pins of a handle back.
    Unpin(Unpin, Handle),
    /// put_page() on each page of a handle of references.
    PutPage(Handle),
    /// tee(2): the second handle gets references on the pages of the first.
    Tee(Handle, Handle),
    /// folio_add_pin() on each page of the first handle, for the second.
    FolioAddPin(Handle, Handle),
    /// A device writes to the pages of a handle.
    DmaWrite(Handle),
    /// A device reads the pages of a handle.
    DmaRead(Handle),
    /// lru_add_drain() on this CPU.
    LruAddDrain,
    /// lru_add_drain_all()
    LruAddDrainAll,
    /// Migrates the page at an address to wherever a movable allocation goes.
    Migrate(Range),
    /// Splits the THP at an address.
    SplitHugePage(Range),
    /// Maps the THP at an address by PTEs.
    SplitHugePmd(Range),
    /// Reclaim puts the page at an address into the swap cache and unmaps it.
    Swapout(Range),
    /// khugepaged, or madvise(2) with MADV_COLLAPSE, makes a THP of what is
    /// mapped around an address.
    Collapse(Range),
    /// NUMA balancing makes entries of anonymous memory inaccessible.
    NumaHint(Range),
    /// Isolates a pageblock, as CMA allocation and memory offlining do.
    IsolateBlock(u8),
    /// Gives it back to the allocator.
    UnisolateBlock(u8),
    /// Where movable allocations go first from now on.
    Prefer(Prefer),
    /// Which CPU the ops run on from now on.
    Cpu(u8),
    /// ftruncate(2): a file gets this many of its own pages.
    Truncate(File, u8),
    /// fsync(2): the dirty pages of a file are written back.
    Fsync(File),
    /// close(2) of the last descriptor of a file that has no name any more:
    /// if nobody maps it, it goes, and the next mapping is of a new one.
    Close(File),
}

/// A call of mm/gup.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallOp {
    /// Which one.
    pub call: Call,
    /// The pages asked for. Their mm is the caller's own, but for the
    /// `_remote` calls.
    pub range: Range,
    /// The flags passed.
    pub flags: Foll,
    /// `_remote` only: pass a `locked` pointer.
    pub locked: bool,
    /// Where it can be: pass no `pages` array.
    pub nopages: bool,
    /// Where the pages go.
    pub handle: Handle,
}

/// The calls of mm/gup.c.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Call {
    GetUserPages,
    GetUserPagesLocked,
    GetUserPagesUnlocked,
    GetUserPagesRemote,
    GetUserPagesFast,
    GetUserPagesFastOnly,
    PinUserPages,
    PinUserPagesLocked,
    PinUserPagesUnlocked,
    PinUserPagesRemote,
    PinUserPagesFast,
    PinUserPagesFastOnly,
}

impl Call {
    /// Every call.
    pub const ALL: &'static [Call] = &[
        Call::GetUserPages,
        Call::GetUserPagesLocked,
        Call::GetUserPagesUnlocked,
        Call::GetUserPagesRemote,
        Call::GetUserPagesFast,
        Call::GetUserPagesFastOnly,
        Call::PinUserPages,
        Call::PinUserPagesLocked,
        Call::PinUserPagesUnlocked,
        Call::PinUserPagesRemote,
        Call::PinUserPagesFast,
        Call::PinUserPagesFastOnly,
    ];
    /// Its kernel name.
    pub fn name(self) -> &'static str {
        match self {
            Call::GetUserPages => "get_user_pages",
            Call::GetUserPagesLocked => "get_user_pages_locked",
            Call::GetUserPagesUnlocked => "get_user_pages_unlocked",
            Call::GetUserPagesRemote => "get_user_pages_remote",
            Call::GetUserPagesFast => "get_user_pages_fast",
            Call::GetUserPagesFastOnly => "get_user_pages_fast_only",
            Call::PinUserPages => "pin_user_pages",
            Call::PinUserPagesLocked => "pin_user_pages_locked",
            Call::PinUserPagesUnlocked => "pin_user_pages_unlocked",
            Call::PinUserPagesRemote => "pin_user_pages_remote",
            Call::PinUserPagesFast => "pin_user_pages_fast",
            Call::PinUserPagesFastOnly => "pin_user_pages_fast_only",
        }
    }
    /// Whether it pins.
    pub fn pins(self) -> bool {
        self as u8 >= Call::PinUserPages as u8
    }
    /// Whether it tries the fast path.
    pub fn fast(self) -> bool {
        use Call::{
            GetUserPagesFast, GetUserPagesFastOnly, PinUserPagesFast, PinUserPagesFastOnly,
        };
        matches!(
            self,
            GetUserPagesFast | GetUserPagesFastOnly | PinUserPagesFast | PinUserPagesFastOnly
        )
    }
    /// Whether it never falls back to the slow path.
    pub fn fast_only(self) -> bool {
        matches!(self, Call::GetUserPagesFastOnly | Call::PinUserPagesFastOnly)
    }
    /// Whether the base has it.
    pub fn exists_in(self, base: Base) -> bool {
        use Call::{GetUserPagesLocked, PinUserPagesFastOnly, PinUserPagesLocked};
        base < Base::V6_12
            || !matches!(self, GetUserPagesLocked | PinUserPagesLocked | PinUserPagesFastOnly)
    }
    /// Whether it works on another task's mm.
    pub fn remote(self) -> bool {
        matches!(self, Call::GetUserPagesRemote | Call::PinUserPagesRemote)
    }
}

/// The ways to give pins back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unpin {
    /// unpin_user_page() for each page.
    Page,
    /// unpin_user_pages()
    Pages,
    /// unpin_user_pages_dirty_lock(make_dirty)
    DirtyLock,
    /// unpin_user_page_range_dirty_lock(make_dirty), once for each run of
    /// frames.
    RangeDirtyLock,
    /// unpin_folio() for the folio of each page.
    Folio,
    /// unpin_folios()
    Folios,
    /// unpin_user_folio(), once for each run of pages of one folio.
    UserFolio,
    /// unpin_user_pages_dirty_lock() without make_dirty
    PagesClean,
    /// unpin_user_page_range_dirty_lock() without make_dirty
    RangeClean,
    /// unpin_user_pages() with the error of a call that pinned nothing as
    /// the number of pages: a WARN, and nothing is given back.
    PagesError,
    /// unpin_folios() likewise.
    FoliosError,
}

impl Unpin {
    /// Every way.
    pub const ALL: &'static [Unpin] = &[
        Unpin::Pages,
        Unpin::Page,
        Unpin::DirtyLock,
        Unpin::RangeDirtyLock,
        Unpin::Folio,
        Unpin::Folios,
        Unpin::UserFolio,
        Unpin::PagesClean,
        Unpin::RangeClean,
        Unpin::PagesError,
        Unpin::FoliosError,
    ];
    /// Its kernel name.
    pub fn name(self) -> &'static str {
        match self {
            Unpin::Page => "unpin_user_page",
            Unpin::Pages | Unpin::PagesError => "unpin_user_pages",
            Unpin::DirtyLock | Unpin::PagesClean => "unpin_user_pages_dirty_lock",
            Unpin::RangeDirtyLock | Unpin::RangeClean => "unpin_user_page_range_dirty_lock",
            Unpin::Folio => "unpin_folio",
            Unpin::Folios | Unpin::FoliosError => "unpin_folios",
            Unpin::UserFolio => "unpin_user_folio",
        }
    }
    /// What tells it from the others of that name: no word, for one of them.
    pub fn option(self) -> Option<&'static str> {
        match self {
            Unpin::PagesClean | Unpin::RangeClean => Some("clean"),
            Unpin::PagesError | Unpin::FoliosError => Some("error"),
            _ => None,
        }
    }
    fn opcode(self) -> u8 {
        match self {
            Unpin::Pages => 20,
            Unpin::Page => 21,
            Unpin::DirtyLock => 22,
            Unpin::RangeDirtyLock => 23,
            Unpin::Folio => 64,
            Unpin::Folios => 65,
            Unpin::UserFolio => 66,
            Unpin::PagesClean => 68,
            Unpin::RangeClean => 69,
            Unpin::PagesError => 70,
            Unpin::FoliosError => 71,
        }
    }
    fn with_opcode(opcode: u8) -> Option<Unpin> {
        Unpin::ALL.iter().copied().find(|how| how.opcode() == opcode)
    }
    /// Whether it gives nothing back and the kernel warns instead.
    pub fn is_misuse(self) -> bool {
        matches!(self, Unpin::PagesError | Unpin::FoliosError)
    }
    /// Whether the base has it.
    pub fn exists_in(self, base: Base) -> bool {
        let folios =
            matches!(self, Unpin::Folio | Unpin::Folios | Unpin::UserFolio | Unpin::FoliosError);
        base >= Base::V6_12 || !folios
    }
}

/// Flags that a scenario can pass, by their bit in the binary form.
pub const CALL_FLAGS: [Foll; 14] = [
    Foll::WRITE,
    Foll::LONGTERM,
    Foll::FORCE,
    Foll::DUMP,
    Foll::NOWAIT,
    Foll::ANON,
    Foll::SPLIT_PMD,
    Foll::HWPOISON,
    Foll::GET,
    Foll::PIN,
    Foll::TOUCH,
    Foll::NOFAULT,
    Foll::INTERRUPTIBLE,
    Foll::HONOR_NUMA_FAULT,
];

/// The flags of [`CALL_FLAGS`] that callers have on a base.
pub fn flags_of(base: Base) -> Foll {
    let since_v6_12 = Foll::NOFAULT | Foll::INTERRUPTIBLE | Foll::HONOR_NUMA_FAULT;
    let all = CALL_FLAGS.into_iter().fold(Foll::empty(), |all, flag| all | flag);
    if base >= Base::V6_12 { all } else { all - since_v6_12 }
}

impl From<What> for Op {
    fn from(what: What) -> Self {
        Op { what, fail: None, at: None }
    }
}

impl Op {
    /// Reads one record; `None` if its opcode is not assigned. The op has no
    /// window.
    pub fn decode(r: [u8; RECORD]) -> Option<Op> {
        let [opcode, mm, page, pages, f0, f1, extra, fail] = r;
        let mm = MmId(mm % MMS);
        let page = page % PAGES;
        let pages = (pages % MAX_PAGES + 1).min(PAGES - page);
        let range = Range { mm, page, pages };
        let one = Range { pages: 1, ..range };
        let handle = Handle(extra % HANDLES);
        let to = Handle(page % HANDLES);
        let pick = |n: usize| usize::from(extra) % n;
        let what = match opcode {
            0 => What::Mmap(
                range,
                Prot::ALL[usize::from(f0) % Prot::ALL.len()],
                Kind::ALL[pick(Kind::ALL.len())],
            ),
            1 => What::Munmap(range),
            2 => What::Mprotect(range, Prot::ALL[usize::from(f0) % Prot::ALL.len()]),
            3 => What::Dontneed(range),
            4 => What::Write(range),
            5 => What::Read(range),
            6 => What::Fork(mm, MmId(extra % MMS)),
            7 => What::Exit(mm),
            8..=19 => What::Call(CallOp {
                call: Call::ALL[usize::from(opcode - 8)],
                range,
                flags: decode_flags(u16::from_le_bytes([f0, f1])),
                locked: f1 & 0x40 != 0,
                nopages: f1 & 0x80 != 0,
                handle,
            }),
            24 => What::PutPage(handle),
            25 => What::Tee(handle, to),
            26 => What::DmaWrite(handle),
            27 => What::DmaRead(handle),
            28 => What::LruAddDrain,
            29 => What::LruAddDrainAll,
            30 => What::Migrate(one),
            31 => What::SplitHugePage(one),
            32 => What::SplitHugePmd(one),
            33 => What::IsolateBlock(extra % BLOCKS),
            34 => What::UnisolateBlock(extra % BLOCKS),
            35 => What::Prefer(Prefer::ALL[pick(Prefer::ALL.len())]),
            36 => What::Cpu(extra % CPUS),
            40 => What::Swapout(one),
            41 => What::Collapse(one),
            42 => What::NumaHint(range),
            48 => {
                let file = decode_file(extra >> 1)?;
                let pgoff = f1 % file.max_pages() as u8;
                let map = FileMap { shared: extra & 1 != 0, file, pgoff };
                What::MmapFile(range, Prot::ALL[usize::from(f0) % Prot::ALL.len()], map)
            }
            49 => {
                let file = decode_file(extra)?;
                What::Truncate(file, f0 % (file.max_pages() as u8 + 1))
            }
            50 => What::Fsync(decode_file(extra)?),
            51 => What::Close(decode_file(extra)?),
            67 => What::FolioAddPin(handle, to),
            other => What::Unpin(Unpin::with_opcode(other)?, handle),
        };
        Some(Op { what: what.normalised(), fail: decode_fail(fail), at: None })
    }

    /// The op of another record, in the same window.
    pub fn with_record(self, r: [u8; RECORD]) -> Option<Op> {
        Op::decode(r).map(|op| Op { at: self.at, ..op })
    }

    /// Writes one record; decoding it gives the same op, without its window.
    pub fn encode(self) -> [u8; RECORD] {
        let index = |found: Option<usize>| found.unwrap_or(0) as u8;
        let prot = |p: Prot| index(Prot::ALL.iter().position(|&x| x == p));
        let mut r = [0; RECORD];
        let range = |r: &mut [u8; RECORD], g: Range| {
            r[1] = g.mm.0;
            r[2] = g.page;
            r[3] = g.pages - 1;
        };
        match self.what {
            What::Mmap(g, p, k) => {
                range(&mut r, g);
                r[4] = prot(p);
                r[6] = index(Kind::ALL.iter().position(|&x| x == k));
            }
            What::MmapFile(g, p, map) => {
                range(&mut r, g);
                (r[4], r[5]) = (prot(p), map.pgoff);
                r[6] = u8::from(map.shared) | (map.file as u8) << 1;
            }
            What::Mprotect(g, p) => {
                range(&mut r, g);
                r[4] = prot(p);
            }
            What::Munmap(g)
            | What::Dontneed(g)
            | What::Write(g)
            | What::Read(g)
            | What::Migrate(g)
            | What::SplitHugePage(g)
            | What::SplitHugePmd(g)
            | What::Swapout(g)
            | What::Collapse(g)
            | What::NumaHint(g) => range(&mut r, g),
            What::Fork(a, b) => (r[1], r[6]) = (a.0, b.0),
            What::Exit(mm) => r[1] = mm.0,
            What::Call(c) => {
                range(&mut r, c.range);
                [r[4], r[5]] = encode_flags(c.flags).to_le_bytes();
                r[5] |= u8::from(c.locked) << 6 | u8::from(c.nopages) << 7;
                r[6] = c.handle.0;
            }
            What::Unpin(_, h) | What::PutPage(h) | What::DmaWrite(h) | What::DmaRead(h) => {
                r[6] = h.0;
            }
            What::Tee(from, to) | What::FolioAddPin(from, to) => (r[6], r[2]) = (from.0, to.0),
            What::IsolateBlock(b) | What::UnisolateBlock(b) | What::Cpu(b) => r[6] = b,
            What::Prefer(p) => r[6] = index(Prefer::ALL.iter().position(|&x| x == p)),
            What::LruAddDrain | What::LruAddDrainAll => {}
            What::Truncate(file, pages) => (r[6], r[4]) = (file as u8, pages),
            What::Fsync(file) | What::Close(file) => r[6] = file as u8,
        }
        r[0] = self.what.opcode();
        r[7] = encode_fail(self.fail);
        r
    }
}

impl What {
    /// The range of addresses that it is about, if it is about one.
    pub fn range(mut self) -> Option<Range> {
        self.range_mut().copied()
    }

    /// The same, to be changed.
    pub fn range_mut(&mut self) -> Option<&mut Range> {
        match self {
            What::Mmap(r, ..)
            | What::MmapFile(r, ..)
            | What::Munmap(r)
            | What::Mprotect(r, _)
            | What::Dontneed(r)
            | What::Write(r)
            | What::Read(r)
            | What::Migrate(r)
            | What::SplitHugePage(r)
            | What::SplitHugePmd(r)
            | What::Swapout(r)
            | What::Collapse(r)
            | What::NumaHint(r) => Some(r),
            What::Call(c) => Some(&mut c.range),
            _ => None,
        }
    }

    /// The address space that it is about, if it is about one.
    pub fn mm(self) -> Option<MmId> {
        match self {
            What::Fork(mm, _) | What::Exit(mm) => Some(mm),
            _ => self.range().map(|r| r.mm),
        }
    }

    /// The file that it names.
    pub fn file(self) -> Option<File> {
        match self {
            What::MmapFile(_, _, map) => Some(map.file),
            What::Truncate(file, _) | What::Fsync(file) | What::Close(file) => Some(file),
            _ => None,
        }
    }

    /// The handles that it names; of two the second is what it fills.
    pub fn handles(self) -> [Option<Handle>; 2] {
        match self {
            What::Call(c) => [Some(c.handle), None],
            What::Unpin(_, h) | What::PutPage(h) | What::DmaWrite(h) | What::DmaRead(h) => {
                [Some(h), None]
            }
            What::Tee(from, to) | What::FolioAddPin(from, to) => [Some(from), Some(to)],
            _ => [None, None],
        }
    }

    /// Its stable number.
    pub fn opcode(self) -> u8 {
        match self {
            What::Mmap(..) => 0,
            What::Munmap(_) => 1,
            What::Mprotect(..) => 2,
            What::Dontneed(_) => 3,
            What::Write(_) => 4,
            What::Read(_) => 5,
            What::Fork(..) => 6,
            What::Exit(_) => 7,
            What::Call(c) => 8 + c.call as u8,
            What::Unpin(how, _) => how.opcode(),
            What::PutPage(_) => 24,
            What::Tee(..) => 25,
            What::DmaWrite(_) => 26,
            What::DmaRead(_) => 27,
            What::LruAddDrain => 28,
            What::LruAddDrainAll => 29,
            What::Migrate(_) => 30,
            What::SplitHugePage(_) => 31,
            What::SplitHugePmd(_) => 32,
            What::Swapout(_) => 40,
            What::Collapse(_) => 41,
            What::NumaHint(_) => 42,
            What::IsolateBlock(_) => 33,
            What::UnisolateBlock(_) => 34,
            What::Prefer(_) => 35,
            What::Cpu(_) => 36,
            What::MmapFile(..) => 48,
            What::Truncate(..) => 49,
            What::Fsync(_) => 50,
            What::Close(_) => 51,
            What::FolioAddPin(..) => 67,
        }
    }

    /// Options that the call does not have are off, so that every op has one
    /// form.
    fn normalised(mut self) -> Self {
        if let What::Call(c) = &mut self {
            c.locked &= c.call.remote();
            // A pin without pages follows a NULL pointer in the C of v5.15.
            c.nopages &= !c.call.pins() && !c.call.fast();
            if c.nopages {
                c.flags -= Foll::GET;
            }
            // Not looked for by the call, and without a meaning.
            match c.call {
                Call::GetUserPagesUnlocked => c.flags -= Foll::PIN,
                Call::GetUserPagesFastOnly => c.flags -= Foll::PIN | Foll::LONGTERM,
                call if call.pins() => c.flags -= Foll::PIN,
                _ => {}
            }
        }
        self
    }
}

fn decode_flags(bits: u16) -> Foll {
    let set = CALL_FLAGS.iter().enumerate().filter(|&(i, _)| bits >> i & 1 != 0);
    set.fold(Foll::empty(), |all, (_, &flag)| all | flag)
}

fn encode_flags(flags: Foll) -> u16 {
    let set = CALL_FLAGS.iter().enumerate().filter(|&(_, &f)| flags.contains(f));
    set.fold(0, |bits, (i, _)| bits | 1 << i)
}

/// There is room for eight files.
fn decode_file(bits: u8) -> Option<File> {
    File::ALL.get(usize::from(bits % 8)).copied()
}

/// 0: none. Else the site in the low bits and the visit above them.
fn decode_fail(b: u8) -> Option<Fail> {
    let site = *FailSite::ALL.get(usize::from(b & 7).checked_sub(1)?)?;
    Some(Fail { site, nth: (b >> 3) % MAX_NTH + 1 })
}

/// The latest visit of a site that can be made to fail.
pub const MAX_NTH: u8 = 8;

fn encode_fail(fail: Option<Fail>) -> u8 {
    let Some(f) = fail else { return 0 };
    let site = FailSite::ALL.iter().position(|&s| s == f.site).unwrap_or(0) as u8 + 1;
    site | (f.nth - 1) << 3
}

impl Scenario {
    /// Reads the binary form. Records with an unassigned opcode, a cut-off
    /// last record and what exceeds [`MAX_OPS`] are left out; so are ops with
    /// a window that have no op above them.
    pub fn decode(bytes: &[u8]) -> Scenario {
        let mut scenario = Scenario::default();
        scenario.decode_from(bytes);
        scenario
    }

    /// [`Scenario::decode`] into an existing scenario, without allocating.
    pub fn decode_from(&mut self, bytes: &[u8]) {
        self.ops.clear();
        let mut window = None;
        for record in bytes.as_chunks().0 {
            if self.ops.len() == MAX_OPS {
                return;
            }
            if record[0] == WINDOW {
                window = Some(Window::decode(*record));
                continue;
            }
            let op = match (Op::decode(*record), window.take()) {
                (op, None) => op,
                (Some(op), Some(Some(at))) if !self.ops.is_empty() => {
                    Some(Op { at: Some(at), ..op })
                }
                _ => None,
            };
            self.ops.extend(op);
        }
    }

    /// Writes the binary form.
    pub fn encode(&self) -> Vec<u8> {
        let records = |op: &Op| op.at.map(Window::encode).into_iter().chain([op.encode()]);
        self.ops.iter().flat_map(records).flatten().collect()
    }
}

impl<'a> Arbitrary<'a> for Scenario {
    fn arbitrary(u: &mut Unstructured<'a>) -> arbitrary::Result<Self> {
        let n = u.len();
        Ok(Scenario::decode(u.bytes(n)?))
    }
    fn size_hint(_: usize) -> (usize, Option<usize>) {
        (0, None)
    }
}

/// cargo-fuzz prints the input of a crash so: as text that can be replayed.
impl fmt::Debug for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        for op in &self.ops {
            writeln!(f, "    {}{op}", if op.at.is_some() { "    " } else { "" })?;
        }
        Ok(())
    }
}

/// What a call returned, as `-> 3` or `-> ENOMEM` says it.
pub type CallResult = Result<usize, Errno>;
