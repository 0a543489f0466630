// SPDX-License-Identifier: GPL-2.0-only
//! mmap(), munmap(), mprotect(), madvise(), exit.
//!
//! Duplicated: what mprotect() does to entries (the write bit is taken at once
//! and comes back only by a fault; on v6.12 at once where the page is
//! exclusive); VMAs split at the borders of a change; MADV_DONTNEED under
//! mmap_lock held for reading; a shared mapping whose stores must be noticed
//! gets its write bits by faults alone. Customised: VMAs never merge; a fixed
//! address that is taken is refused (MAP_FIXED_NOREPLACE); MADV_DONTNEED
//! drains the LRU batch once, not per VMA. What can be mapped beside anonymous
//! memory: a driver's buffer mapped with vm_insert_page(), every fourth page
//! of it a raw frame number as vmf_insert_mixed() makes them; raw frame
//! numbers alone (VM_PFNMAP); and files ([`filemap`](super::filemap)).

use super::cpu::Cpu;
use super::filemap::File;
use super::folio::page_anon_exclusive;
use super::huge_memory::{change_huge_pmd, split_huge_pmd};
use super::hugetlb;
use super::limits::{MAX_VMAS, PAGE_SIZE, PMD_SIZE, TASK_SIZE};
use super::lru::lru_add_drain;
use super::memory::zap_page_range;
use super::mm::{
    self, Backing, MmId, Vma, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock,
    vma_at,
};
use super::page::{Mapping, get_page, page_anon, put_page};
use super::pgtable::{
    PmdPtr, Pte, free_pte_range, free_upper_tables, mm_find_pmd, pgd_alloc, pmd_addr_end,
    pmd_alloc, pte_alloc, pte_offset_map_lock, pte_unmap_unlock,
};
use super::rmap::{change_vmas, page_dup_rmap};
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{GFP_USER, Gfp, VmFlags};
use crate::history::Base;

/// Page protection, as mmap() and mprotect() take it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Prot {
    /// PROT_NONE
    None,
    /// PROT_READ
    Read,
    /// PROT_READ | PROT_WRITE
    ReadWrite,
}

impl Prot {
    /// Every protection.
    pub const ALL: &'static [Prot] = &[Prot::None, Prot::Read, Prot::ReadWrite];
    /// Its name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Prot::None => "none",
            Prot::Read => "r",
            Prot::ReadWrite => "rw",
        }
    }
    fn vm_flags(self) -> VmFlags {
        match self {
            Prot::None => VmFlags::empty(),
            Prot::Read => VmFlags::READ,
            Prot::ReadWrite => VmFlags::READ | VmFlags::WRITE,
        }
    }
}

/// What is mapped.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Kind {
    /// Private anonymous memory of small pages.
    Anon,
    /// Private anonymous memory with MADV_HUGEPAGE.
    AnonThp,
    /// A driver's buffer of small pages, shared.
    Driver,
    /// A driver's buffer of compound pages of two pages, shared.
    DriverOrder1,
    /// Raw frame numbers.
    Pfnmap,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Kind] =
        &[Kind::Anon, Kind::AnonThp, Kind::Driver, Kind::DriverOrder1, Kind::Pfnmap];
    /// Its words in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Anon => "private anon",
            Kind::AnonThp => "private anon thp",
            Kind::Driver => "shared driver",
            Kind::DriverOrder1 => "shared driver order1",
            Kind::Pfnmap => "shared pfnmap",
        }
    }
    fn vm_flags(self) -> VmFlags {
        let shared = VmFlags::SHARED | VmFlags::MAYREAD | VmFlags::MAYWRITE;
        match self {
            Kind::Anon => VmFlags::MAYREAD | VmFlags::MAYWRITE,
            Kind::AnonThp => VmFlags::MAYREAD | VmFlags::MAYWRITE | VmFlags::HUGEPAGE,
            Kind::Driver | Kind::DriverOrder1 => shared | VmFlags::MIXEDMAP,
            Kind::Pfnmap => shared | VmFlags::PFNMAP | VmFlags::IO,
        }
    }
}

/// Which page of every four of a driver's buffer is a raw frame number.
const RAW_EVERY: u64 = 4;

/// Starts a process without memory. C: mm_alloc(), kernel/fork.c
///
/// # Errors
/// `EEXIST` if it runs already, `ENOMEM`.
pub fn mm_alloc(cpu: &Cpu, mm: MmId) -> Result<(), Errno> {
    if mm::mm_alive(cpu, mm) {
        return Err(Errno::EEXIST);
    }
    if pgd_alloc(cpu, mm) { Ok(()) } else { Err(Errno::ENOMEM) }
}

/// A mapping of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct FileMap {
    /// MAP_SHARED, or MAP_PRIVATE.
    pub shared: bool,
    /// Of what.
    pub file: File,
    /// From which of its own pages on.
    pub pgoff: u8,
}

impl FileMap {
    fn vm_flags(self) -> VmFlags {
        let mut may = VmFlags::MAYREAD | VmFlags::MAYWRITE;
        may.set(VmFlags::HUGETLB, self.file.is_hugetlb());
        if self.shared { may | VmFlags::SHARED | VmFlags::MAYSHARE } else { may }
    }
}

/// Maps `pages` pages at `addr`. C: do_mmap(), mm/mmap.c
///
/// # Errors
/// `EINVAL` outside the address space, `EEXIST` if something is there,
/// `ENOMEM` if there are too many mappings or no memory for a buffer.
pub fn mmap(
    cpu: &Cpu,
    mm: MmId,
    addr: u64,
    pages: u64,
    prot: Prot,
    kind: Kind,
) -> Result<(), Errno> {
    let flags = prot.vm_flags() | kind.vm_flags();
    mmap_region(cpu, mm, addr, pages, flags, Backing::NONE, |vma| match kind {
        Kind::Anon | Kind::AnonThp => Ok(()),
        Kind::Driver => insert_buffer(cpu, vma, 0),
        Kind::DriverOrder1 => insert_buffer(cpu, vma, 1),
        Kind::Pfnmap => (vma.start..vma.end)
            .step_by(PAGE_SIZE as usize)
            .try_for_each(|a| insert_pte(cpu, vma, a, raw_entry(cpu, vma))),
    })
}

/// Maps `pages` pages at `addr` with MAP_GROWSDOWN. In the model nothing lets
/// the stack grow: since v6.5 GUP does not either. C: do_mmap(), mm/mmap.c
///
/// # Errors
/// As [`mmap`].
pub fn mmap_stack(cpu: &Cpu, mm: MmId, addr: u64, pages: u64) -> Result<(), Errno> {
    let flags = Prot::ReadWrite.vm_flags() | Kind::Anon.vm_flags() | VmFlags::GROWSDOWN;
    mmap_region(cpu, mm, addr, pages, flags, Backing::NONE, |_| Ok(()))
}

/// Maps `pages` pages of a file at `addr`. C: do_mmap(), mm/mmap.c, and the
/// mmap() of file_operations
///
/// # Errors
/// `EINVAL` outside the address space, for private secret memory, for what
/// does not fit the page size of the file, and for hugetlbfs on v5.15;
/// `EEXIST` if something is there, `ENOMEM` if there are too many mappings or
/// if the file would have to become too long.
pub fn mmap_file(
    cpu: &Cpu,
    mm: MmId,
    addr: u64,
    pages: u64,
    prot: Prot,
    map: FileMap,
) -> Result<(), Errno> {
    // C: secretmem_mmap()
    if map.file == File::Secretmem && !map.shared {
        return Err(Errno::EINVAL);
    }
    let flags = prot.vm_flags() | map.vm_flags();
    let pgoff = u64::from(map.pgoff) << map.file.order();
    if map.file.is_hugetlb() {
        // C: prepare_hugepage_range(), hugetlbfs_file_mmap()
        let fits = |n: u64| n.is_multiple_of(map.file.page_size());
        if !cpu.since(Base::V6_12) || !fits(addr) || !fits(pages * PAGE_SIZE) {
            return Err(Errno::EINVAL);
        }
    }
    let backing = Backing::new(map.file, pgoff);
    mmap_region(cpu, mm, addr, pages, flags, backing, |vma| {
        if vma.is_hugetlb() {
            hugetlb::make_room(cpu, vma);
            if prot == Prot::ReadWrite {
                hugetlb::grow(cpu, map.file, pgoff + pages)?;
            }
        }
        Ok(())
    })
}

/// C: mmap_region(), mm/mmap.c
fn mmap_region(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    pages: u64,
    flags: VmFlags,
    backing: Backing,
    fill: impl FnOnce(&Vma) -> Result<(), Errno>,
) -> Result<(), Errno> {
    let end = start + pages * PAGE_SIZE;
    if pages == 0 || end > TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    mmap_write_lock(cpu, mm);
    let ret = 'out: {
        if mm::vmas(cpu, mm).any(|v| v.start < end && start < v.end) {
            break 'out Err(Errno::EEXIST);
        }
        let Some(slot) = free_slot(cpu, mm) else { break 'out Err(Errno::ENOMEM) };
        let vmas = &cpu.world.mm(mm).vmas;
        change_vmas(cpu, backing.file(), || vmas[slot].set(start, end, flags, backing));
        let vma = Vma { mm, slot, start, end, flags, backing };
        let filled = fill(&vma);
        if filled.is_err() {
            unmap_vma(cpu, &vma);
        }
        filled
    };
    mmap_write_unlock(cpu, mm);
    ret
}

fn free_slot(cpu: &Cpu, mm: MmId) -> Option<usize> {
    (0..MAX_VMAS).find(|&i| vma_at(cpu, mm, i).is_none())
}

/// An entry for memory without a struct page to count.
fn raw_entry(cpu: &Cpu, vma: &Vma) -> Pte {
    Pte::mk(cpu.world.device_page(), vma.flags).mkspecial()
}

/// A driver fills its mapping with pages it allocates, and hands them over:
/// the mappings hold the only references. C: vm_insert_page(), mm/memory.c
fn insert_buffer(cpu: &Cpu, vma: &Vma, order: u32) -> Result<(), Errno> {
    let step = PAGE_SIZE << order;
    for addr in (vma.start..vma.end).step_by(step as usize) {
        let head = alloc_pages(cpu, GFP_USER | Gfp::COMP, order).ok_or(Errno::ENOMEM)?;
        cpu.world.frame(head).mapping.set(Mapping::Driver.word());
        let mut result = Ok(());
        for i in 0..1u64 << order {
            let at = addr + i * PAGE_SIZE;
            if at >= vma.end || result.is_err() {
                break;
            }
            let raw = (at - vma.start) / PAGE_SIZE % RAW_EVERY == RAW_EVERY - 1;
            if raw {
                result = insert_pte(cpu, vma, at, raw_entry(cpu, vma));
                continue;
            }
            get_page(cpu, head.nth(i));
            page_dup_rmap(cpu, head.nth(i), false);
            result = insert_pte(cpu, vma, at, Pte::mk(head.nth(i), vma.flags));
            if result.is_err() {
                super::rmap::page_remove_rmap(cpu, head.nth(i), false);
                put_page(cpu, head.nth(i));
            }
        }
        put_page(cpu, head);
        result?;
    }
    Ok(())
}

fn insert_pte(cpu: &Cpu, vma: &Vma, addr: u64, pte: Pte) -> Result<(), Errno> {
    let pmdp = pmd_alloc(cpu, vma.mm, addr).ok_or(Errno::ENOMEM)?;
    if !pte_alloc(cpu, pmdp) {
        return Err(Errno::ENOMEM);
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), addr);
    ptep.set(cpu, pte);
    pte_unmap_unlock(cpu, ptep, ptl);
    Ok(())
}

/// Unmaps a VMA and forgets it; frees page tables that serve no other.
fn unmap_vma(cpu: &Cpu, vma: &Vma) {
    zap_page_range(cpu, vma, vma.start, vma.end);
    change_vmas(cpu, vma.file(), || cpu.world.mm(vma.mm).vmas[vma.slot].clear());
    free_pgtables(cpu, vma);
}

/// C: free_pgtables(), mm/memory.c; tables above the PTEs stay until exit
fn free_pgtables(cpu: &Cpu, vma: &Vma) {
    let mut addr = vma.start & !(PMD_SIZE - 1);
    while addr < vma.end {
        let used = mm::vmas(cpu, vma.mm).any(|v| v.start < addr + PMD_SIZE && addr < v.end);
        if !used && let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) {
            free_pte_range(cpu, pmdp);
        }
        addr += PMD_SIZE;
    }
}

/// Makes sure that no VMA crosses `start` or `end`. If it cannot be split at the
/// end, it stays split at the start.
/// C: split_vma(), mm/mmap.c
fn split_vmas(cpu: &Cpu, mm: MmId, start: u64, end: u64) -> Result<(), Errno> {
    for at in [start, end] {
        let Some(v) = mm::vmas(cpu, mm).find(|v| v.start < at && at < v.end) else { continue };
        if !hugetlb::may_split(&v, at) {
            return Err(Errno::EINVAL);
        }
        let slot = free_slot(cpu, mm).ok_or(Errno::ENOMEM)?;
        // C: vma_adjust_trans_huge()
        if at & (PMD_SIZE - 1) != 0
            && let Some(pmdp) = mm_find_pmd(cpu, mm, at)
            && pmdp.read(cpu).is_swap_or_trans_huge()
        {
            split_huge_pmd(cpu, &v, pmdp);
        }
        let mm = cpu.world.mm(mm);
        let behind = v.backing.further((at - v.start) / PAGE_SIZE);
        change_vmas(cpu, v.file(), || {
            mm.vmas[v.slot].set(v.start, at, v.flags, v.backing);
            mm.vmas[slot].set(at, v.end, v.flags, behind);
        });
    }
    Ok(())
}

/// C: __do_munmap(), mm/mmap.c
///
/// # Errors
/// `EINVAL` outside the address space and for part of a huge page of
/// hugetlbfs, `ENOMEM` if there are too many mappings.
pub fn munmap(cpu: &Cpu, mm: MmId, addr: u64, pages: u64) -> Result<(), Errno> {
    let end = addr + pages * PAGE_SIZE;
    if pages == 0 || end > TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    mmap_write_lock(cpu, mm);
    let ret = split_vmas(cpu, mm, addr, end);
    if ret.is_ok() {
        // C: unmap_region()
        lru_add_drain(cpu);
        for slot in 0..MAX_VMAS {
            if let Some(v) = vma_at(cpu, mm, slot).filter(|v| v.start >= addr && v.end <= end) {
                unmap_vma(cpu, &v);
            }
        }
    }
    mmap_write_unlock(cpu, mm);
    ret
}

/// C: do_mprotect_pkey(), mm/mprotect.c
///
/// # Errors
/// `ENOMEM` if part of the range is not mapped or there are too many
/// mappings, `EINVAL` outside the address space.
pub fn mprotect(cpu: &Cpu, mm: MmId, addr: u64, pages: u64, prot: Prot) -> Result<(), Errno> {
    let end = addr + pages * PAGE_SIZE;
    if pages == 0 || end > TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    mmap_write_lock(cpu, mm);
    let ret = mprotect_locked(cpu, mm, addr, end, prot);
    mmap_write_unlock(cpu, mm);
    ret
}

fn mprotect_locked(cpu: &Cpu, mm: MmId, start: u64, end: u64, prot: Prot) -> Result<(), Errno> {
    let access = VmFlags::READ | VmFlags::WRITE;
    let mut addr = start;
    while addr < end {
        let mut v = mm::vma_lookup(cpu, mm, addr).ok_or(Errno::ENOMEM)?;
        let flags = (v.flags - access) | prot.vm_flags();
        // C: mprotect_fixup(), which leaves alone what need not change
        if flags != v.flags {
            split_vmas(cpu, mm, addr, v.end.min(end))?;
            v = mm::vma_lookup(cpu, mm, addr).ok_or(Errno::ENOMEM)?;
            cpu.world.mm(mm).vmas[v.slot].set(v.start, v.end, flags, v.backing);
            change_protection(cpu, &Vma { flags, ..v });
        }
        addr = v.end;
    }
    Ok(())
}

/// C: change_protection(), mm/mprotect.c
fn change_protection(cpu: &Cpu, vma: &Vma) {
    if vma.is_hugetlb() {
        hugetlb::hugetlb_change_protection(cpu, vma);
        return;
    }
    let mut addr = vma.start;
    while addr < vma.end {
        let next = pmd_addr_end(addr, vma.end);
        let pmdp = mm_find_pmd(cpu, vma.mm, addr);
        if let Some(pmdp) = pmdp {
            let pmd = pmdp.read(cpu);
            let huge = pmd.is_swap_or_trans_huge();
            if huge && next - addr != PMD_SIZE {
                split_huge_pmd(cpu, vma, pmdp);
            } else if huge && change_huge_pmd(cpu, pmdp, vma.flags) {
                addr = next;
                continue;
            }
            change_pte_range(cpu, vma, pmdp, addr, next);
        }
        addr = next;
    }
}

/// C: change_pte_range(), mm/mprotect.c
fn change_pte_range(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, start: u64, end: u64) {
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let upgrade = vma_wants_manual_pte_write_upgrade(cpu, vma.flags);
    let (first, ptl) = pte_offset_map_lock(cpu, pmd, start);
    let mut ptep = first;
    for _ in 0..(end - start) / PAGE_SIZE {
        let old = ptep.read(cpu);
        if old.present() {
            let mut pte = ptep.get_and_clear(cpu).modify(vma.page_prot());
            // A dirty page's file system knows already.
            // C: dirty_accountable; can_change_shared_pte_writable()
            if vma.needs_dirty_tracking() && pte.dirty()
                || upgrade && !pte.write() && can_change_pte_writable(cpu, pte)
            {
                pte = pte.mkwrite();
            }
            ptep.set(cpu, pte);
        } else if old.is_migration() && old.migration_write() {
            // What was exclusive stays so where the base knows the word.
            let new = cpu.since(Base::V6_12);
            ptep.set(cpu, if new { old.migration_wrprotect() } else { old.migration_share() });
        }
        ptep = ptep.next();
    }
    pte_unmap_unlock(cpu, first, ptl);
}

/// Whether entries of a VMA with these flags must be looked at one by one to
/// find those that may be writable: of a private writable one.
/// C: vma_wants_manual_pte_write_upgrade(), linux/mm.h, v6.12
pub(crate) fn vma_wants_manual_pte_write_upgrade(cpu: &Cpu, flags: VmFlags) -> bool {
    cpu.since(Base::V6_12) && flags.contains(VmFlags::WRITE) && !flags.contains(VmFlags::SHARED)
}

/// Whether an entry of a private writable VMA may be writable: a write fault
/// would make it so without further questions.
/// C: can_change_pte_writable(), mm/mprotect.c, v6.12
pub(crate) fn can_change_pte_writable(cpu: &Cpu, pte: Pte) -> bool {
    let page = pte.pfn();
    !pte.protnone() && !pte.special() && page_anon(cpu, page) && page_anon_exclusive(cpu, page)
}

/// C: madvise_dontneed_single_vma(), mm/madvise.c
///
/// # Errors
/// `ENOMEM` if part of the range is not mapped, `EINVAL` for raw frame
/// numbers, from within a page of hugetlbfs on, and outside the address
/// space.
pub fn madvise_dontneed(cpu: &Cpu, mm: MmId, addr: u64, pages: u64) -> Result<(), Errno> {
    let end = addr + pages * PAGE_SIZE;
    if pages == 0 || end > TASK_SIZE {
        return Err(Errno::EINVAL);
    }
    mmap_read_lock(cpu, mm);
    lru_add_drain(cpu);
    let mut at = addr;
    let mut ret = Ok(());
    while at < end {
        let Some(v) = mm::vma_lookup(cpu, mm, at) else {
            ret = Err(Errno::ENOMEM);
            at += PAGE_SIZE;
            continue;
        };
        if v.flags.contains(VmFlags::PFNMAP) {
            ret = Err(Errno::EINVAL);
            break;
        }
        // C: madvise_dontneed_free_valid_vma(): whole huge pages only
        if !hugetlb::may_split(&v, at) {
            ret = Err(Errno::EINVAL);
            break;
        }
        zap_page_range(cpu, &v, at, hugetlb::align_down(&v, v.end.min(end)));
        at = v.end;
    }
    mmap_read_unlock(cpu, mm);
    ret
}

/// Ends a process: all its memory is unmapped. C: exit_mmap(), mm/mmap.c
pub fn exit_mmap(cpu: &Cpu, mm: MmId) {
    lru_add_drain(cpu);
    for slot in 0..MAX_VMAS {
        if let Some(v) = vma_at(cpu, mm, slot) {
            zap_page_range(cpu, &v, v.start, v.end);
            change_vmas(cpu, v.file(), || cpu.world.mm(mm).vmas[slot].clear());
            free_pgtables(cpu, &v);
        }
    }
    free_upper_tables(cpu, mm);
    cpu.world.mm(mm).reset();
}
