// SPDX-License-Identifier: GPL-2.0-only
//! Soft-dirty tracking: which pages were stored to since somebody asked.
//!
//! Duplicated: who starts to track write-protects every page, so that the next
//! store faults, but none that may be pinned. Customised: nobody reads what is
//! tracked, so there is no bit for it. Stubbed: THPs, hugetlbfs.

use super::cpu::Cpu;
use super::limits::PAGE_SIZE;
use super::memory::vm_normal_page;
use super::mm::{self, MmId, Vma, mm_has_pinned, mmap_write_lock, mmap_write_unlock};
use super::page::page_maybe_dma_pinned;
use super::pgtable::{Pte, PtePtr, mm_find_pmd, pte_offset_map_lock, pte_unmap_unlock};

/// Begins to track a process. C: clear_refs_write(), fs/proc/task_mmu.c
pub fn clear_refs_write(cpu: &Cpu, mm: MmId) {
    mmap_write_lock(cpu, mm);
    for vma in mm::vmas(cpu, mm) {
        for addr in (vma.start..vma.end).step_by(PAGE_SIZE as usize) {
            let pmd = mm_find_pmd(cpu, mm, addr).map(|pmdp| pmdp.read(cpu));
            let Some(pmd) = pmd.filter(|pmd| !pmd.bad()) else { continue };
            let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
            clear_soft_dirty(cpu, &vma, addr, ptep);
            pte_unmap_unlock(cpu, ptep, ptl);
        }
    }
    mmap_write_unlock(cpu, mm);
}

/// C: clear_soft_dirty(), fs/proc/task_mmu.c
fn clear_soft_dirty(cpu: &Cpu, vma: &Vma, addr: u64, ptep: PtePtr) {
    let pte = ptep.read(cpu);
    if pte.present() && !pte_is_pinned(cpu, vma, addr, pte) {
        let old = ptep.get_and_clear(cpu);
        ptep.set_again(cpu, old.wrprotect());
    }
}

/// C: pte_is_pinned(), fs/proc/task_mmu.c
fn pte_is_pinned(cpu: &Cpu, vma: &Vma, addr: u64, pte: Pte) -> bool {
    pte.write()
        && vma.is_cow_mapping()
        && mm_has_pinned(cpu, vma.mm)
        && vm_normal_page(cpu, vma, addr, pte).is_some_and(|page| page_maybe_dma_pinned(cpu, page))
}
