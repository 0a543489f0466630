// SPDX-License-Identifier: GPL-2.0-only
//! fork(): the copy of an address space.
//!
//! Duplicated: pages that may be pinned (on v6.12: and are exclusive) are
//! copied for the child at once and stay as they are in the parent; all others
//! are write-protected on both sides and shared; write_protect_seq is odd
//! while that happens. Customised: the page for a copy is allocated when it is
//! needed, without dropping the locks; all anonymous VMAs are copied, those
//! without a page, too. Stubbed: counters of the mm.

use super::cpu::Cpu;
use super::huge_memory::copy_huge_pmd;
use super::hugetlb::copy_hugetlb_page_range;
use super::limits::PAGE_SIZE;
use super::lru::lru_cache_add;
use super::memory::{copy_highpage, vm_normal_page};
use super::mm::{
    self, MmId, Vma, has_anon_vma, mm_has_pinned, mmap_write_lock, mmap_write_unlock,
    read_write_protect_seq, write_protect_seq_begin, write_protect_seq_end,
};
use super::mmap::{exit_mmap, mm_alloc};
use super::page::{Page, get_page, page_anon, page_maybe_dma_pinned, put_page};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, mm_find_pmd, pmd_addr_end, pmd_alloc, pte_alloc, pte_offset_map_lock,
    pte_unmap_unlock,
};
use super::rmap::{change_vmas, folio_try_dup_anon_rmap, page_add_new_anon_rmap, page_dup_rmap};
use super::swap::swap_duplicate;
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{GFP_HIGHUSER_MOVABLE, VmFlags};
use crate::history::{Base, Defect};

/// Makes `child` a copy of `parent`. C: dup_mmap(), kernel/fork.c
///
/// # Errors
/// `EEXIST` if the child exists, `ENOMEM`; nothing of the child is left then.
pub fn dup_mmap(cpu: &Cpu, parent: MmId, child: MmId) -> Result<(), Errno> {
    mm_alloc(cpu, child)?;
    mmap_write_lock(cpu, parent);
    mmap_write_lock(cpu, child);
    let mut ret = Ok(());
    for src in mm::vmas(cpu, parent) {
        let slot = &cpu.world.mm(child).vmas[src.slot];
        let copy = || slot.set(src.start, src.end, src.flags, src.backing);
        change_vmas(cpu, src.file(), copy);
        let dst = Vma { mm: child, ..src };
        if !vma_needs_copy(cpu, &src) {
            continue;
        }
        ret = copy_page_range(cpu, &dst, &src);
        if ret.is_err() {
            break;
        }
    }
    mmap_write_unlock(cpu, child);
    mmap_write_unlock(cpu, parent);
    if ret.is_err() {
        exit_mmap(cpu, child);
    }
    ret
}

/// Whether the child needs the entries: faults would not find what is there,
/// as they do pages of a file and the zero page.
/// C: vma_needs_copy(), mm/memory.c
fn vma_needs_copy(cpu: &Cpu, src: &Vma) -> bool {
    src.flags.intersects(VmFlags::PFNMAP | VmFlags::MIXEDMAP) || has_anon_vma(cpu, src)
}

/// C: copy_page_range(), mm/memory.c
pub fn copy_page_range(cpu: &Cpu, dst: &Vma, src: &Vma) -> Result<(), Errno> {
    if src.is_hugetlb() {
        return copy_hugetlb_page_range(cpu, dst, src);
    }
    let is_cow = src.is_cow_mapping();
    if is_cow {
        write_protect_seq_begin(cpu, src.mm);
    }
    let mut addr = src.start;
    let mut ret = Ok(());
    while addr < src.end && ret.is_ok() {
        let next = pmd_addr_end(addr, src.end);
        if let Some(src_pmdp) = mm_find_pmd(cpu, src.mm, addr) {
            ret = copy_pmd(cpu, dst, src, src_pmdp, addr, next);
        }
        addr = next;
    }
    if is_cow {
        write_protect_seq_end(cpu, src.mm);
    }
    ret
}

/// C: the body of copy_pmd_range(), mm/memory.c
fn copy_pmd(
    cpu: &Cpu,
    dst: &Vma,
    src: &Vma,
    src_pmdp: PmdPtr,
    addr: u64,
    next: u64,
) -> Result<(), Errno> {
    let pmd = src_pmdp.read(cpu);
    if pmd.none() {
        return Ok(());
    }
    let dst_pmdp = pmd_alloc(cpu, dst.mm, addr).ok_or(Errno::ENOMEM)?;
    if pmd.is_swap_or_trans_huge() {
        match copy_huge_pmd(cpu, dst_pmdp, src_pmdp, src) {
            Err(Errno::EAGAIN) => {}
            done => return done,
        }
    }
    if !pte_alloc(cpu, dst_pmdp) {
        return Err(Errno::ENOMEM);
    }
    copy_pte_range(cpu, dst, src, dst_pmdp.read(cpu), src_pmdp.read(cpu), addr, next)
}

/// C: copy_pte_range(), mm/memory.c
fn copy_pte_range(
    cpu: &Cpu,
    dst: &Vma,
    src: &Vma,
    dst_pmd: Pmd,
    src_pmd: Pmd,
    start: u64,
    end: u64,
) -> Result<(), Errno> {
    let (dst_first, dst_ptl) = pte_offset_map_lock(cpu, dst_pmd, start);
    let (src_first, src_ptl) = pte_offset_map_lock(cpu, src_pmd, start);
    let (mut dst_ptep, mut src_ptep) = (dst_first, src_first);
    let mut ret = Ok(());
    for addr in (start..end).step_by(PAGE_SIZE as usize) {
        let pte = src_ptep.read(cpu);
        if !pte.none() && !pte.present() {
            copy_nonpresent_pte(cpu, src, dst_ptep, src_ptep, pte);
        } else if !pte.none() {
            ret = copy_present_pte(cpu, dst, src, dst_ptep, src_ptep, addr);
            if ret.is_err() {
                break;
            }
        }
        (dst_ptep, src_ptep) = (dst_ptep.next(), src_ptep.next());
    }
    pte_unmap_unlock(cpu, src_first, src_ptl);
    pte_unmap_unlock(cpu, dst_first, dst_ptl);
    ret
}

/// Copies an entry that maps nothing now: the page is shared when it comes
/// back. C: copy_nonpresent_pte(), mm/memory.c
fn copy_nonpresent_pte(cpu: &Cpu, src: &Vma, dst_ptep: PtePtr, src_ptep: PtePtr, mut pte: Pte) {
    if let Some(slot) = pte.swap_slot() {
        swap_duplicate(cpu, slot);
        if pte.swp_exclusive() {
            pte = pte.swp_clear_exclusive();
            src_ptep.set(cpu, pte);
        }
        dst_ptep.set(cpu, pte);
        return;
    }
    if !pte.migration_shared() && src.is_cow_mapping() {
        pte = pte.migration_share();
        src_ptep.set(cpu, pte);
    }
    dst_ptep.set(cpu, pte);
}

/// C: copy_present_pte(), copy_present_ptes(), mm/memory.c
fn copy_present_pte(
    cpu: &Cpu,
    dst: &Vma,
    src: &Vma,
    dst_ptep: PtePtr,
    src_ptep: PtePtr,
    addr: u64,
) -> Result<(), Errno> {
    let mut pte = src_ptep.read(cpu);
    if let Some(page) = vm_normal_page(cpu, src, addr, pte) {
        if cpu.since(Base::V6_12) {
            get_page(cpu, page);
            if !page_anon(cpu, page) {
                page_dup_rmap(cpu, page, false);
            } else if folio_try_dup_anon_rmap(cpu, page, src, false).is_err() {
                put_page(cpu, page);
                return copy_present_page(cpu, dst, dst_ptep, addr, page);
            }
        } else {
            let early = !cpu.has(Defect::NoEarlyCowAtFork);
            if early && page_needs_cow_for_dma(cpu, src, page) {
                return copy_present_page(cpu, dst, dst_ptep, addr, page);
            }
            get_page(cpu, page);
            page_dup_rmap(cpu, page, false);
        }
    }
    if src.is_cow_mapping() && pte.write() {
        src_ptep.set_wrprotect(cpu);
        pte = pte.wrprotect();
    }
    if src.flags.contains(VmFlags::SHARED) {
        pte = pte.mkclean();
    }
    dst_ptep.set(cpu, pte.mkold());
    Ok(())
}

/// Copies a page that may be pinned, for the child; the parent's entry is not
/// touched. C: copy_present_page(), mm/memory.c
fn copy_present_page(
    cpu: &Cpu,
    dst: &Vma,
    dst_ptep: PtePtr,
    addr: u64,
    page: Page,
) -> Result<(), Errno> {
    let new = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0).ok_or(Errno::ENOMEM)?;
    copy_highpage(cpu, new, page);
    page_add_new_anon_rmap(cpu, new, addr, false);
    lru_cache_add(cpu, new);
    dst_ptep.set(cpu, Pte::mk(new, dst.flags).mkdirty().maybe_mkwrite(dst.flags));
    Ok(())
}

/// Whether fork must copy the page now: somebody may have pinned it through
/// this mm. C: page_needs_cow_for_dma(), folio_needs_cow_for_dma(), linux/mm.h
pub(crate) fn page_needs_cow_for_dma(cpu: &Cpu, vma: &Vma, page: Page) -> bool {
    if cpu.since(Base::V6_12) {
        let odd = read_write_protect_seq(cpu, vma.mm) & 1 != 0;
        cpu.bug_on(!odd, "folio_needs_cow_for_dma", "!(write_protect_seq & 1)");
    } else if !vma.is_cow_mapping() {
        return false;
    }
    mm_has_pinned(cpu, vma.mm) && page_maybe_dma_pinned(cpu, page)
}
