// SPDX-License-Identifier: GPL-2.0-only
//! All shared state of one run.

use super::filemap::{AddressSpace, File};
use super::limits::{Limits, MAX_CPUS};
use super::lru::Lru;
use super::mm::{Mm, MmId};
use super::page::{Mapping, Page, PageFrame};
use super::pgtable::Tables;
use super::swap::Swap;
use super::vmstat::NodeStat;
use super::zone::Zone;
use crate::atomic::{Flags32, IrqsOff, RawLock, Statistic};
use crate::flags::Pg;
use crate::sync::{Locked, OwnCpu};

/// The shared state: page frames, page tables, address spaces, files, LRU
/// batches, free lists, statistics.
#[derive(Debug)]
pub struct World {
    pub(crate) limits: Limits,
    frames: Box<[PageFrame]>,
    /// What a wild page pointer leads to.
    nowhere: PageFrame,
    pub(crate) tables: Tables,
    pub(crate) mms: Box<[Mm]>,
    pub(crate) files: [AddressSpace; File::COUNT],
    pub(crate) zone: Locked<Zone>,
    pub(crate) lru: OwnCpu<Lru>,
    pub(crate) swap: Locked<Swap>,
    /// Keeps the VMAs of anonymous pages. C: anon_vma->root->rwsem
    pub(crate) anon_vma: RawLock,
    /// Pageblocks of type MIGRATE_ISOLATE, one bit each.
    pub(crate) isolated_blocks: Flags32,
    pub(crate) vmstat: [Statistic; NodeStat::COUNT],
    /// CPUs inside an interrupts-off section.
    pub(crate) irqs_off: IrqsOff,
}

impl World {
    /// An empty world: all memory free, no address space alive.
    pub fn new(limits: Limits) -> Self {
        let world = World {
            limits,
            frames: (0..limits.frames).map(|_| PageFrame::new()).collect(),
            nowhere: PageFrame::new(),
            tables: Tables::new(limits.tables),
            mms: (0..limits.mms).map(|_| Mm::new()).collect(),
            files: File::ALL_ARRAY.map(AddressSpace::new),
            zone: Locked::new(Zone::new(&limits)),
            lru: OwnCpu::new(Lru::new()),
            swap: Locked::new(Swap::new()),
            anon_vma: RawLock::new(),
            isolated_blocks: Flags32::default(),
            vmstat: std::array::from_fn(|_| Statistic::new()),
            irqs_off: IrqsOff::new(limits.cpus),
        };
        debug_assert!(usize::from(limits.cpus) <= MAX_CPUS);
        world.set_up_zero_page();
        world
    }

    /// The zero page belongs to the kernel and is never freed.
    fn set_up_zero_page(&self) {
        let zero = self.frame(self.zero_page());
        zero.refcount.set(1);
        zero.flags.set_all(Pg::RESERVED.bits());
    }

    /// Back to the state of [`World::new`], in place.
    pub fn reset(&self) {
        for f in self.frames.iter().chain([&self.nowhere]) {
            f.copy_from(&PageFrame::new());
        }
        self.set_up_zero_page();
        self.tables.reset();
        for mm in &self.mms {
            mm.reset();
        }
        for (space, file) in self.files.iter().zip(File::ALL) {
            space.copy_from(&AddressSpace::new(*file));
        }
        *self.zone.lock() = Zone::new(&self.limits);
        *self.lru.lock() = Lru::new();
        *self.swap.lock() = Swap::new();
        self.anon_vma.reset();
        self.isolated_blocks.set_all(0);
        for v in &self.vmstat {
            v.set(0);
        }
        self.irqs_off.set_count(0);
    }

    /// Makes this world a copy of `other`, which must have the same limits.
    /// No CPU may be at work in either; what is locked stays locked.
    pub fn copy_from(&self, other: &World) {
        assert_eq!(self.limits, other.limits, "worlds of different sizes");
        for (to, from) in self.frames.iter().zip(&other.frames) {
            to.copy_from(from);
        }
        self.nowhere.copy_from(&other.nowhere);
        self.tables.copy_from(&other.tables);
        for (to, from) in self.mms.iter().zip(&other.mms) {
            to.copy_from(from);
        }
        for (to, from) in self.files.iter().zip(&other.files) {
            to.copy_from(from);
        }
        *self.zone.lock() = other.zone.lock().clone();
        *self.lru.lock() = other.lru.lock().clone();
        *self.swap.lock() = other.swap.lock().clone();
        self.anon_vma.copy_from(&other.anon_vma);
        self.isolated_blocks.set_all(other.isolated_blocks.read(u32::MAX));
        for (to, from) in self.vmstat.iter().zip(&other.vmstat) {
            to.set(from.read());
        }
        self.irqs_off.set_count(other.irqs_off.count());
    }

    /// The sizes it was built with.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    #[inline]
    pub(crate) fn frame(&self, page: Page) -> &PageFrame {
        self.frames.get(usize::from(page.0)).unwrap_or(&self.nowhere)
    }

    #[inline]
    pub(crate) fn mm(&self, mm: MmId) -> &Mm {
        &self.mms[usize::from(mm.0)]
    }

    /// The frame that raw frame numbers name: a device's, never allocated.
    pub(crate) fn device_page(&self) -> Page {
        Page(self.limits.device_start)
    }

    /// Whether there is such a page; a pointer that was never set has none.
    #[inline]
    pub fn has_frame(&self, page: Page) -> bool {
        usize::from(page.0) < self.frames.len()
    }

    /// The shared page of zeroes. C: ZERO_PAGE(0)
    pub fn zero_page(&self) -> Page {
        Page(0)
    }

    /// Every frame.
    pub fn pages(&self) -> impl Iterator<Item = Page> + use<> {
        (0..self.limits.frames).map(Page)
    }

    /// A statistic.
    pub fn node_stat(&self, item: NodeStat) -> i64 {
        self.vmstat[item as usize].read()
    }

    /// What can be seen of a page without taking a step: for observers of a
    /// world at rest.
    pub fn look(&self, page: Page) -> PageView {
        let f = self.frame(page);
        let flags = Pg::from_bits_retain(f.flags.read(u32::MAX));
        let head = self.head_of(page);
        let mapping = Mapping::from_word(self.frame(head).mapping.read());
        PageView {
            page,
            head,
            order: if flags.contains(Pg::HEAD) { f.order.read() as u32 } else { 0 },
            refcount: f.refcount.read(),
            mapcount: f.mapcount.read(),
            compound_mapcount: f.compound_mapcount.read(),
            pincount: f.pincount.read(),
            flags,
            anon: mapping == Mapping::Anon,
            driver: mapping == Mapping::Driver,
            hugetlb: self.frame(head).flags.test(Pg::HUGETLB.bits()),
            file: mapping.file(),
            epoch: f.epoch.read(),
            data: f.data.read(),
        }
    }

    /// The page's reference count, for observers.
    #[inline]
    pub fn refcount(&self, page: Page) -> i32 {
        self.frame(page).refcount.read()
    }

    /// The head of a page's compound page, or the page itself, for observers.
    #[inline]
    pub fn head_of(&self, page: Page) -> Page {
        match self.frame(page).compound_head.read() {
            0 => page,
            head => Page((head - 1) as u16),
        }
    }

    /// The frames of the compound page of `head`, for observers.
    #[inline]
    pub fn span_of(&self, head: Page) -> u128 {
        let f = self.frame(head);
        if !f.flags.test(Pg::HEAD.bits()) {
            return head.bit();
        }
        ((1u128 << (1 << f.order.read())) - 1) << head.0
    }

    /// How often the frame was allocated, for observers.
    #[inline]
    pub fn epoch(&self, page: Page) -> u32 {
        self.frame(page).epoch.read()
    }

    /// The frames that are free, one bit each.
    pub fn free_frames(&self) -> u128 {
        self.zone.lock().free
    }

    /// The pages in the LRU batches of all CPUs; each holds a reference.
    #[inline]
    pub fn batched(&self) -> impl Iterator<Item = Page> + use<> {
        self.lru.lock().batched()
    }
}

/// A page as an observer sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageView {
    /// The page itself.
    pub page: Page,
    /// The head of its compound page, or itself.
    pub head: Page,
    /// On a head: the order of the compound page. Else 0.
    pub order: u32,
    /// The reference count (of this very frame: 0 on tails).
    pub refcount: i32,
    /// PTEs that map this frame.
    pub mapcount: i32,
    /// On a head: PMDs that map the whole page.
    pub compound_mapcount: i32,
    /// On a head of order > 1: pins.
    pub pincount: i32,
    /// Page flags.
    pub flags: Pg,
    /// Anonymous memory.
    pub anon: bool,
    /// A driver's buffer.
    pub driver: bool,
    /// Of hugetlbfs.
    pub hugetlb: bool,
    /// A page of the page cache of this file.
    pub file: Option<File>,
    /// How often the frame was allocated.
    pub epoch: u32,
    /// The data token.
    pub data: u64,
}
