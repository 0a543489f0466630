// SPDX-License-Identifier: GPL-2.0-only
//! Address spaces and their VMAs: struct mm_struct, struct vm_area_struct.
//!
//! Duplicated: mmap_lock; MMF_HAS_PINNED; write_protect_seq; which shared
//! mappings need write notification. Customised: at most eight VMAs, in fixed
//! slots, found by a linear search; an anon_vma is the fact that one exists,
//! and is kept for mappings of files only.

use super::cpu::{Cpu, Event, FailSite, Hold};
use super::filemap::{self, File};
use super::folio::smp_mb;
use super::limits::{MAX_VMAS, PAGE_SIZE};
use super::wait::Wait;
use crate::atomic::{Atomic32, Flags32, Guarded32, RawLock, Seqcount};
use crate::errno::Errno;
use crate::flags::VmFlags;
use crate::history::{Base, Defect, Safeguard};
use crate::step::StepKind;

/// An address space, by number. C: struct mm_struct *
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct MmId(pub u8);

/// "Some page of this mm was pinned, ever." C: MMF_HAS_PINNED
const MMF_HAS_PINNED: u32 = 1;

/// An address space.
#[derive(Debug)]
pub struct Mm {
    /// The PGD's table plus 1; 0: no such mm.
    pub(crate) pgd: Atomic32,
    pub(crate) vmas: [VmaSlot; MAX_VMAS],
    pub(crate) flags: Flags32,
    pub(crate) write_protect_seq: Seqcount,
    pub(crate) mmap_lock: RawLock,
}

/// One VMA; `start == end` says that the slot is free. Bytes.
#[derive(Debug)]
pub(crate) struct VmaSlot {
    pub(crate) start: Guarded32,
    pub(crate) end: Guarded32,
    pub(crate) flags: Guarded32,
    /// What is mapped: see [`Backing`].
    backing: Guarded32,
}

impl VmaSlot {
    fn new() -> Self {
        let zero = || Guarded32::new(0);
        VmaSlot { start: zero(), end: zero(), flags: zero(), backing: zero() }
    }
    pub(crate) fn set(&self, start: u64, end: u64, flags: VmFlags, backing: Backing) {
        self.start.set(start as u32);
        self.end.set(end as u32);
        self.flags.set(flags.bits());
        self.backing.set(backing.0);
    }
    pub(crate) fn clear(&self) {
        self.set(0, 0, VmFlags::empty(), Backing::NONE);
    }
}

/// What a VMA maps: no file, or a file from some page on; and whether it ever
/// had anonymous pages. C: vma->vm_file,
/// vma->vm_pgoff, vma->anon_vma
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Backing(u32);

impl Backing {
    /// No file: anonymous memory, or a driver's.
    pub const NONE: Backing = Backing(0);
    const FILE: u32 = 0xff;
    const PGOFF_SHIFT: u32 = 8;
    const ANON_VMA: u32 = 1 << 31;

    /// `file` from page `pgoff` on.
    pub fn new(file: File, pgoff: u64) -> Self {
        Backing((file as u32 + 1) | ((pgoff as u32) << Self::PGOFF_SHIFT))
    }
    /// C: vma->vm_file
    #[inline]
    pub fn file(self) -> Option<File> {
        match self.0 & Self::FILE {
            0 => None,
            n => File::ALL.get(n as usize - 1).copied(),
        }
    }
    /// C: vma->vm_pgoff
    #[inline]
    pub fn pgoff(self) -> u64 {
        u64::from((self.0 & !Self::ANON_VMA) >> Self::PGOFF_SHIFT)
    }
    /// Of the part of a mapping that begins `pages` pages behind its start.
    #[must_use]
    pub fn further(self, pages: u64) -> Self {
        if self.file().is_none() {
            return self;
        }
        Backing(self.0 + ((pages as u32) << Self::PGOFF_SHIFT))
    }
}

impl Mm {
    pub(crate) fn new() -> Self {
        Mm {
            pgd: Atomic32::new(0),
            vmas: std::array::from_fn(|_| VmaSlot::new()),
            flags: Flags32::default(),
            write_protect_seq: Seqcount::new(),
            mmap_lock: RawLock::new(),
        }
    }

    pub(crate) fn reset(&self) {
        self.pgd.set(0);
        for v in &self.vmas {
            v.clear();
        }
        self.flags.set_all(0);
        self.write_protect_seq.reset();
        self.mmap_lock.reset();
    }

    /// What is not as in `other`, in words.
    pub(crate) fn difference(&self, other: &Mm) -> Option<&'static str> {
        let vma = |v: &VmaSlot| [v.start.read(), v.end.read(), v.flags.read(), v.backing.read()];
        if self.pgd.read() != other.pgd.read() {
            Some("its PGD")
        } else if !self.vmas.iter().map(vma).eq(other.vmas.iter().map(vma)) {
            Some("its VMAs")
        } else if self.flags.read(u32::MAX) != other.flags.read(u32::MAX) {
            Some("mm->flags")
        } else if self.write_protect_seq.value() != other.write_protect_seq.value() {
            Some("mm->write_protect_seq")
        } else if self.mmap_lock.holders() != other.mmap_lock.holders() {
            Some("mm->mmap_lock")
        } else {
            None
        }
    }

    pub(crate) fn copy_from(&self, other: &Mm) {
        self.pgd.set(other.pgd.read());
        self.flags.set_all(other.flags.read(u32::MAX));
        self.write_protect_seq.copy_from(&other.write_protect_seq);
        self.mmap_lock.copy_from(&other.mmap_lock);
        for (to, from) in self.vmas.iter().zip(&other.vmas) {
            to.start.set(from.start.read());
            to.end.set(from.end.read());
            to.flags.set(from.flags.read());
            to.backing.set(from.backing.read());
        }
    }
}

/// A VMA: a handle that is valid while mmap_lock is held.
/// C: struct vm_area_struct *
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Vma {
    /// The mm it belongs to. C: vma->vm_mm
    pub mm: MmId,
    pub(crate) slot: usize,
    /// The first byte. C: vma->vm_start
    pub start: u64,
    /// The byte after the last. C: vma->vm_end
    pub end: u64,
    /// C: vma->vm_flags
    pub flags: VmFlags,
    /// C: vma->vm_file, vma->vm_pgoff
    pub backing: Backing,
}

impl Vma {
    /// An entry of a `vmas[]` array that no call has set.
    pub const UNSET: Vma = Vma {
        mm: MmId(u8::MAX),
        slot: usize::MAX,
        start: 0,
        end: 0,
        flags: VmFlags::empty(),
        backing: Backing::NONE,
    };

    /// Which of the mm's slots it is in.
    pub fn slot(&self) -> usize {
        self.slot
    }
    /// C: vma_is_anonymous(), linux/mm.h
    pub fn is_anonymous(&self) -> bool {
        !self.flags.intersects(VmFlags::MIXEDMAP | VmFlags::PFNMAP) && self.file().is_none()
    }
    /// The file it maps. C: vma->vm_file
    #[inline]
    pub fn file(&self) -> Option<File> {
        self.backing.file()
    }
    /// The page of the file that is mapped at an address of the VMA.
    /// C: linear_page_index(), linux/pagemap.h
    pub fn page_index(&self, addr: u64) -> u64 {
        (addr - self.start) / PAGE_SIZE + self.backing.pgoff()
    }
    /// Where a page of the file is mapped, if it is.
    /// C: vma_address(), mm/internal.h
    pub fn address_of(&self, index: u64) -> Option<u64> {
        let addr = self.start + index.checked_sub(self.backing.pgoff())? * PAGE_SIZE;
        (addr < self.end).then_some(addr)
    }
    /// C: is_vm_hugetlb_page(), linux/hugetlb_inline.h
    #[inline]
    pub fn is_hugetlb(&self) -> bool {
        self.flags.contains(VmFlags::HUGETLB)
    }
    /// C: vma_is_secretmem(), mm/secretmem.c
    pub fn is_secretmem(&self) -> bool {
        self.file() == Some(File::Secretmem)
    }
    /// Whether stores through it must be noticed one by one, so that the
    /// file system learns of each page that gets dirty.
    /// C: vma_needs_dirty_tracking(), mm/vma.c
    pub fn needs_dirty_tracking(&self) -> bool {
        self.flags.contains(VmFlags::WRITE | VmFlags::SHARED)
            && self.file().is_some_and(filemap::has_page_mkwrite)
    }
    /// The flags that the protection of its entries follows: without SHARED,
    /// and so write-protected at first, where stores must be noticed.
    /// C: vma_set_page_prot(), mm/mmap.c
    pub fn page_prot(&self) -> VmFlags {
        if self.needs_dirty_tracking() { self.flags - VmFlags::SHARED } else { self.flags }
    }
    /// Private and writable, or may become so. C: is_cow_mapping()
    pub fn is_cow_mapping(&self) -> bool {
        self.flags & (VmFlags::SHARED | VmFlags::MAYWRITE) == VmFlags::MAYWRITE
    }
    /// Any access at all. C: vma_is_accessible(), linux/mm.h
    pub fn is_accessible(&self) -> bool {
        self.flags.intersects(VmFlags::READ | VmFlags::WRITE)
    }
}

/// Whether the address space exists.
pub fn mm_alive(cpu: &Cpu, mm: MmId) -> bool {
    cpu.world.mm(mm).pgd.read() != 0
}

/// The VMAs of an mm, in slot order.
pub fn vmas<'a>(cpu: &'a Cpu<'_>, mm: MmId) -> impl Iterator<Item = Vma> + 'a {
    (0..MAX_VMAS).filter_map(move |slot| vma_at(cpu, mm, slot))
}

/// The VMA in a slot, if there is one.
#[inline]
pub fn vma_at(cpu: &Cpu, mm: MmId, slot: usize) -> Option<Vma> {
    let s = &cpu.world.mm(mm).vmas[slot];
    let (start, end) = (s.start.read().into(), s.end.read().into());
    (start < end).then(|| Vma {
        mm,
        slot,
        start,
        end,
        flags: VmFlags::from_bits_retain(s.flags.read()),
        backing: Backing(s.backing.read()),
    })
}

/// Whether it ever had anonymous pages, the zero page apart.
/// C: vma->anon_vma != NULL
pub(crate) fn has_anon_vma(cpu: &Cpu, vma: &Vma) -> bool {
    cpu.world.mm(vma.mm).vmas[vma.slot].backing.read() & Backing::ANON_VMA != 0
}

/// C: anon_vma_prepare(), linux/rmap.h
pub(crate) fn anon_vma_prepare(cpu: &Cpu, vma: &Vma) {
    let backing = &cpu.world.mm(vma.mm).vmas[vma.slot].backing;
    backing.set(backing.read() | Backing::ANON_VMA);
}

/// The VMA that contains `addr`. C: vma_lookup(), linux/mm.h
pub fn vma_lookup(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Vma> {
    vmas(cpu, mm).find(|v| (v.start..v.end).contains(&addr))
}

/// The first VMA that ends behind `addr`. C: find_vma(), mm/mmap.c
pub fn find_vma(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Vma> {
    vmas(cpu, mm).filter(|v| addr < v.end).min_by_key(|v| v.start)
}

/// The VMA that contains `addr`, growing a stack if needed (there is none
/// here). C: find_extend_vma(), mm/mmap.c
pub fn find_extend_vma(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Vma> {
    vma_lookup(cpu, mm, addr)
}

/// C: mmap_read_lock(), linux/mmap_lock.h
pub fn mmap_read_lock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapLock, mm.0.into(), 1);
    let bit = 1 << mm.0;
    let twice = cpu.mmap_held.get() & bit != 0;
    cpu.bug_on(twice, "mmap_read_lock", "possible recursive locking detected");
    if !cpu.lacks(Safeguard::MmapLock) {
        cpu.take(&cpu.world.mm(mm).mmap_lock, Hold::Read, Wait::MmapLock(mm));
    }
    cpu.mmap_held.set(cpu.mmap_held.get() | bit);
}

/// C: mmap_read_lock_killable(), linux/mmap_lock.h
///
/// # Errors
/// `EINTR` if a fatal signal comes while it waits. As nothing contends for
/// the lock here, it waits where a scenario lets a signal come, and only there.
pub fn mmap_read_lock_killable(cpu: &Cpu, mm: MmId) -> Result<(), Errno> {
    if cpu.should_fail(FailSite::Signal) {
        cpu.step(StepKind::Signal, 0, 0);
        cpu.event(Event::SIGNALLED);
        return Err(Errno::EINTR);
    }
    mmap_read_lock(cpu, mm);
    Ok(())
}

/// C: mmap_read_unlock(), linux/mmap_lock.h
pub fn mmap_read_unlock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapUnlock, mm.0.into(), 1);
    let bit = 1 << mm.0;
    let held = cpu.mmap_held.get() & bit != 0;
    if cpu.bug_on(!held, "mmap_read_unlock", "bad unlock balance detected") {
        return;
    }
    cpu.mmap_held.set(cpu.mmap_held.get() & !bit);
    if !cpu.lacks(Safeguard::MmapLock) {
        cpu.release(&cpu.world.mm(mm).mmap_lock, Hold::Read);
    }
}

/// C: mmap_write_lock(), linux/mmap_lock.h
pub fn mmap_write_lock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapLock, mm.0.into(), 2);
    cpu.take(&cpu.world.mm(mm).mmap_lock, Hold::Write, Wait::MmapLock(mm));
}

/// C: mmap_write_unlock(), linux/mmap_lock.h
pub fn mmap_write_unlock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapUnlock, mm.0.into(), 2);
    cpu.release(&cpu.world.mm(mm).mmap_lock, Hold::Write);
}

/// C: mmap_assert_locked(), linux/mmap_lock.h
pub fn mmap_assert_locked(cpu: &Cpu, mm: MmId) {
    let free = cpu.world.mm(mm).mmap_lock.holders() == 0;
    cpu.bug_on(free, "mmap_assert_locked", "mmap_lock is not held");
}

/// Who holds mmap_lock: 0 nobody, n readers, −1 a writer; for observers.
pub fn mmap_lock_holders(cpu: &Cpu, mm: MmId) -> i32 {
    cpu.world.mm(mm).mmap_lock.holders()
}

/// C: test_bit(MMF_HAS_PINNED, &mm->flags)
pub fn mm_has_pinned(cpu: &Cpu, mm: MmId) -> bool {
    cpu.step(StepKind::MmFlagRead, mm.0.into(), 0);
    cpu.world.mm(mm).flags.test(MMF_HAS_PINNED)
}

/// C: set_bit(MMF_HAS_PINNED, &mm->flags)
pub fn set_mm_has_pinned(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmFlagSet, mm.0.into(), 0);
    cpu.world.mm(mm).flags.set(MMF_HAS_PINNED);
}

/// C: raw_read_seqcount(&mm->write_protect_seq)
pub fn read_write_protect_seq(cpu: &Cpu, mm: MmId) -> i32 {
    cpu.step(StepKind::SeqRead, mm.0.into(), 0);
    cpu.world.mm(mm).write_protect_seq.raw_read()
}

/// C: read_seqcount_retry(&mm->write_protect_seq, seq)
pub fn retry_write_protect_seq(cpu: &Cpu, mm: MmId, seq: i32) -> bool {
    cpu.step(StepKind::SeqRetry, mm.0.into(), 0);
    cpu.world.mm(mm).write_protect_seq.read_retry(seq)
}

/// C: raw_write_seqcount_begin(&mm->write_protect_seq)
pub fn write_protect_seq_begin(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::SeqWrite, mm.0.into(), 1);
    cpu.world.mm(mm).write_protect_seq.write_begin();
    // PORT: on no kernel: pairs with the one in try_grab_compound_head().
    if !cpu.since(Base::V6_12) && !cpu.has(Defect::ForkSeqUnordered) {
        smp_mb(cpu);
    }
}

/// C: raw_write_seqcount_end(&mm->write_protect_seq)
pub fn write_protect_seq_end(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::SeqWrite, mm.0.into(), -1);
    cpu.world.mm(mm).write_protect_seq.write_end();
}
