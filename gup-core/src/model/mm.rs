// SPDX-License-Identifier: GPL-2.0-only
//! Address spaces and their VMAs: struct mm_struct, struct vm_area_struct.
//!
//! Duplicated: mmap_lock; MMF_HAS_PINNED; write_protect_seq. Customised: at
//! most eight VMAs, in fixed slots, found by a linear search.

use super::cpu::Cpu;
use super::limits::MAX_VMAS;
use crate::atomic::{Atomic32, RawLock, Seqcount};
use crate::errno::Errno;
use crate::flags::VmFlags;
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
    pub(crate) flags: Atomic32,
    pub(crate) write_protect_seq: Seqcount,
    pub(crate) mmap_lock: RawLock,
}

/// One VMA; `start == end` says that the slot is free. Bytes.
#[derive(Debug)]
pub(crate) struct VmaSlot {
    pub(crate) start: Atomic32,
    pub(crate) end: Atomic32,
    pub(crate) flags: Atomic32,
}

impl VmaSlot {
    fn new() -> Self {
        VmaSlot { start: Atomic32::new(0), end: Atomic32::new(0), flags: Atomic32::new(0) }
    }
    pub(crate) fn set(&self, start: u64, end: u64, flags: VmFlags) {
        self.start.set(start as i32);
        self.end.set(end as i32);
        self.flags.set(flags.bits() as i32);
    }
}

impl Mm {
    pub(crate) fn new() -> Self {
        Mm {
            pgd: Atomic32::new(0),
            vmas: std::array::from_fn(|_| VmaSlot::new()),
            flags: Atomic32::new(0),
            write_protect_seq: Seqcount::new(),
            mmap_lock: RawLock::new(),
        }
    }

    pub(crate) fn reset(&self) {
        self.pgd.set(0);
        for v in &self.vmas {
            v.set(0, 0, VmFlags::empty());
        }
        self.flags.set(0);
        self.write_protect_seq.reset();
        self.mmap_lock.reset();
    }

    pub(crate) fn copy_from(&self, other: &Mm) {
        self.reset();
        self.pgd.set(other.pgd.read());
        self.flags.set(other.flags.read());
        for (to, from) in self.vmas.iter().zip(&other.vmas) {
            to.start.set(from.start.read());
            to.end.set(from.end.read());
            to.flags.set(from.flags.read());
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
}

impl Vma {
    /// An entry of a `vmas[]` array that no call has set.
    pub const UNSET: Vma =
        Vma { mm: MmId(u8::MAX), slot: usize::MAX, start: 0, end: 0, flags: VmFlags::empty() };

    /// C: vma_is_anonymous(), linux/mm.h
    pub fn is_anonymous(&self) -> bool {
        !self.flags.intersects(VmFlags::MIXEDMAP | VmFlags::PFNMAP)
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

#[inline]
pub(crate) fn vma_at(cpu: &Cpu, mm: MmId, slot: usize) -> Option<Vma> {
    let s = &cpu.world.mm(mm).vmas[slot];
    let (start, end) = (s.start.read() as u64, s.end.read() as u64);
    (start < end).then(|| Vma {
        mm,
        slot,
        start,
        end,
        flags: VmFlags::from_bits_retain(s.flags.read() as u32),
    })
}

/// The VMA that contains `addr`. C: vma_lookup(), linux/mm.h
pub fn vma_lookup(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Vma> {
    vmas(cpu, mm).find(|v| (v.start..v.end).contains(&addr))
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
    cpu.world.mm(mm).mmap_lock.read();
    cpu.mmap_held.set(cpu.mmap_held.get() | bit);
}

/// C: mmap_read_lock_killable(), linux/mmap_lock.h
///
/// # Errors
/// `EINTR` if a fatal signal is pending and the lock cannot be had at once;
/// as nothing contends for it here, that never happens.
pub fn mmap_read_lock_killable(cpu: &Cpu, mm: MmId) -> Result<(), Errno> {
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
    cpu.world.mm(mm).mmap_lock.read_unlock();
}

/// C: mmap_write_lock(), linux/mmap_lock.h
pub fn mmap_write_lock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapLock, mm.0.into(), 2);
    cpu.world.mm(mm).mmap_lock.write();
}

/// C: mmap_write_unlock(), linux/mmap_lock.h
pub fn mmap_write_unlock(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmapUnlock, mm.0.into(), 2);
    cpu.world.mm(mm).mmap_lock.write_unlock();
}

/// Who holds mmap_lock: 0 nobody, n readers, −1 a writer; for observers.
pub fn mmap_lock_holders(cpu: &Cpu, mm: MmId) -> i32 {
    cpu.world.mm(mm).mmap_lock.holders()
}

/// C: test_bit(MMF_HAS_PINNED, &mm->flags)
pub fn mm_has_pinned(cpu: &Cpu, mm: MmId) -> bool {
    cpu.step(StepKind::MmFlagRead, mm.0.into(), 0);
    cpu.world.mm(mm).flags.read() as u32 & MMF_HAS_PINNED != 0
}

/// C: set_bit(MMF_HAS_PINNED, &mm->flags)
pub fn set_mm_has_pinned(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::MmFlagSet, mm.0.into(), 0);
    cpu.world.mm(mm).flags.or(MMF_HAS_PINNED);
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
}

/// C: raw_write_seqcount_end(&mm->write_protect_seq)
pub fn write_protect_seq_end(cpu: &Cpu, mm: MmId) {
    cpu.step(StepKind::SeqWrite, mm.0.into(), -1);
    cpu.world.mm(mm).write_protect_seq.write_end();
}
