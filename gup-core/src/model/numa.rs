// SPDX-License-Identifier: GPL-2.0-only
//! NUMA balancing: entries that are made inaccessible so that the next access
//! tells who uses the page, and the faults that make them accessible again.
//!
//! Duplicated: which entries are left alone; how the write bit survives (v5.15
//! keeps it in the entry, v6.12 works out whether it may be had). Customised:
//! only anonymous memory is hinted. Stubbed: there is one node, so no page is
//! misplaced, and the fault never migrates.

use super::cpu::Cpu;
use super::folio::page_anon_exclusive;
use super::limits::{PAGE_SIZE, PMD_SIZE};
use super::memory::vm_normal_page;
use super::mm::{MmId, Vma, mmap_read_lock, mmap_read_unlock, vma_lookup};
use super::mmap::{can_change_pte_writable, vma_wants_manual_pte_write_upgrade};
use super::page::{
    Page, compound_head, page_anon, page_compound, page_mapcount, page_maybe_dma_pinned,
    thp_nr_pages, total_mapcount,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, Ptl, mm_find_pmd, pmd_addr_end, pmd_lock, pte_offset_map,
    pte_offset_map_lock, pte_unmap_unlock, spin_unlock,
};
use crate::errno::Errno;
use crate::flags::{VmFault, VmFlags};
use crate::history::Base;

/// Makes the entries of a range NUMA hints. C: task_numa_work(),
/// kernel/sched/fair.c; change_prot_numa(), mm/mempolicy.c
///
/// # Errors
/// `EINVAL` where no accessible anonymous memory is mapped.
pub fn change_prot_numa(cpu: &Cpu, mm: MmId, start: u64, pages: u64) -> Result<(), Errno> {
    mmap_read_lock(cpu, mm);
    let vma = vma_lookup(cpu, mm, start).filter(|v| v.is_anonymous() && v.is_accessible());
    if let Some(vma) = &vma {
        hint_range(cpu, vma, start, vma.end.min(start + pages * PAGE_SIZE));
    }
    mmap_read_unlock(cpu, mm);
    vma.map(|_| ()).ok_or(Errno::EINVAL)
}

/// C: change_pmd_range() with MM_CP_PROT_NUMA, mm/mprotect.c
fn hint_range(cpu: &Cpu, vma: &Vma, start: u64, end: u64) {
    let mut addr = start;
    while addr < end {
        let next = pmd_addr_end(addr, end);
        if let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) {
            let pmd = pmdp.read(cpu);
            if pmd.trans_huge() {
                // The kernel would split the PMD for a part of it.
                if next - addr == PMD_SIZE {
                    hint_huge_pmd(cpu, pmdp);
                }
            } else if !pmd.bad() {
                hint_ptes(cpu, vma, pmd, addr, next);
            }
        }
        addr = next;
    }
}

/// C: change_huge_pmd() with MM_CP_PROT_NUMA, mm/huge_memory.c
fn hint_huge_pmd(cpu: &Cpu, pmdp: PmdPtr) {
    let ptl = pmd_lock(cpu, pmdp);
    let pmd = pmdp.read(cpu);
    if pmd.trans_huge() && !pmd.protnone() {
        let old = pmdp.invalidate(cpu);
        let hint = old.modify(VmFlags::empty());
        // C: preserve_write
        let keep = !cpu.since(Base::V6_12) && old.write();
        pmdp.set(cpu, if keep { hint.mkwrite() } else { hint });
    }
    spin_unlock(cpu, ptl);
}

/// C: change_pte_range() with MM_CP_PROT_NUMA, mm/mprotect.c
fn hint_ptes(cpu: &Cpu, vma: &Vma, pmd: Pmd, start: u64, end: u64) {
    let (first, ptl) = pte_offset_map_lock(cpu, pmd, start);
    for addr in (start..end).step_by(PAGE_SIZE as usize) {
        let ptep = pte_offset_map(pmd, addr);
        let pte = ptep.read(cpu);
        if pte.present() && !pte.protnone() && is_hinted(cpu, vma, addr, pte) {
            let old = ptep.get_and_clear(cpu);
            let hint = old.modify(VmFlags::empty());
            // C: preserve_write
            let keep = !cpu.since(Base::V6_12) && old.write();
            ptep.set(cpu, if keep { hint.mkwrite() } else { hint });
        }
    }
    pte_unmap_unlock(cpu, first, ptl);
}

/// Whether the page is worth a hint: not shared after fork, on v6.12 not
/// pinned either.
fn is_hinted(cpu: &Cpu, vma: &Vma, addr: u64, pte: Pte) -> bool {
    let Some(page) = vm_normal_page(cpu, vma, addr, pte) else { return false };
    if cpu.since(Base::V6_12) {
        !page_maybe_dma_pinned(cpu, page) && !folio_likely_mapped_shared(cpu, page)
    } else {
        page_mapcount(cpu, page) == 1
    }
}

/// C: folio_likely_mapped_shared(), linux/mm.h
fn folio_likely_mapped_shared(cpu: &Cpu, page: Page) -> bool {
    let head = compound_head(cpu, page);
    let mappings = total_mapcount(cpu, head);
    if !page_compound(cpu, head) || mappings <= 1 {
        return mappings > 1;
    }
    let whole = cpu.world.frame(head).compound_mapcount.read();
    whole > 0
        || mappings > thp_nr_pages(cpu, head) as i32
        || cpu.world.frame(head).mapcount.read() > 1
}

/// A fault on a hint. Comes with the PTE lock held.
/// C: do_numa_page(), mm/memory.c
pub(crate) fn do_numa_page(
    cpu: &Cpu,
    vma: &Vma,
    ptep: PtePtr,
    ptl: Ptl,
    addr: u64,
    old: Pte,
) -> VmFault {
    let page = vm_normal_page(cpu, vma, addr, old);
    if cpu.since(Base::V6_12)
        && let Some(page) = page
        && page_compound(cpu, compound_head(cpu, page))
    {
        numa_rebuild_large_mapping(cpu, vma, addr, page);
    } else {
        numa_rebuild_single_mapping(cpu, vma, ptep, old);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
    VmFault::empty()
}

/// C: numa_rebuild_single_mapping(), mm/memory.c
fn numa_rebuild_single_mapping(cpu: &Cpu, vma: &Vma, ptep: PtePtr, old: Pte) {
    ptep.get_and_clear(cpu);
    let pte = old.modify(vma.flags).mkyoung();
    let writable = if cpu.since(Base::V6_12) {
        vma_wants_manual_pte_write_upgrade(cpu, vma.flags) && can_change_pte_writable(cpu, pte)
    } else {
        // C: pte_savedwrite()
        old.write()
    };
    ptep.set(cpu, if writable { pte.mkwrite() } else { pte });
}

/// Every entry of the same large page, as far as VMA and table reach.
/// C: numa_rebuild_large_mapping(), mm/memory.c, v6.12
fn numa_rebuild_large_mapping(cpu: &Cpu, vma: &Vma, addr: u64, page: Page) {
    let head = compound_head(cpu, page);
    let pmd = mm_find_pmd(cpu, vma.mm, addr).map_or(Pmd(0), |p| p.read(cpu));
    let first = (addr & !(PMD_SIZE - 1)).max(vma.start);
    for addr in (first..pmd_addr_end(addr, vma.end)).step_by(PAGE_SIZE as usize) {
        let ptep = pte_offset_map(pmd, addr);
        let pte = ptep.read(cpu);
        if pte.protnone() && !pte.special() && compound_head(cpu, pte.pfn()) == head {
            numa_rebuild_single_mapping(cpu, vma, ptep, pte);
        }
    }
}

/// A fault on the hint of a THP. C: do_huge_pmd_numa_page(), mm/huge_memory.c
pub(crate) fn do_huge_pmd_numa_page(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, orig: Pmd) -> VmFault {
    let ptl = pmd_lock(cpu, pmdp);
    if pmdp.read(cpu) == orig {
        let pmd = orig.modify(vma.flags).mkyoung();
        let page = pmd.pfn();
        let writable = if cpu.since(Base::V6_12) {
            vma_wants_manual_pte_write_upgrade(cpu, vma.flags)
                && page_anon(cpu, page)
                && page_anon_exclusive(cpu, page)
        } else {
            // C: pmd_savedwrite()
            orig.write()
        };
        pmdp.set(cpu, if writable { pmd.mkwrite() } else { pmd });
    }
    spin_unlock(cpu, ptl);
    VmFault::empty()
}
