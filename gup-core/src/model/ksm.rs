// SPDX-License-Identifier: GPL-2.0-only
//! KSM: the write-protection of a page that may be merged.
//!
//! Duplicated: write_protect_page(), which takes a page for shared from then
//! on, under one page-table lock, unless anybody else holds a reference.
//! Stubbed: everything else, and the TLB.

use super::cpu::Cpu;
use super::folio::page_anon_exclusive;
use super::mm::Vma;
use super::page::{Page, page_count, page_mapcount, set_page_dirty};
use super::pgtable::{PtePtr, mm_find_pmd, pte_offset_map_lock, pte_unmap_unlock};
use super::rmap::folio_try_share_anon_rmap;
use super::swap::in_swap_cache;
use crate::errno::Errno;
use crate::history::Base;

/// Makes the entry of a small page read-only and clean, and the page one that
/// may be shared. The caller holds a reference on it.
/// C: write_protect_page(), mm/ksm.c
///
/// # Errors
/// `EFAULT` if the page is not mapped there, or in use by others.
pub fn write_protect_page(cpu: &Cpu, vma: &Vma, addr: u64, page: Page) -> Result<(), Errno> {
    let pmd = mm_find_pmd(cpu, vma.mm, addr).ok_or(Errno::EFAULT)?.read(cpu);
    if pmd.bad() {
        return Err(Errno::EFAULT);
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let ret = write_protect_pte(cpu, ptep, page);
    pte_unmap_unlock(cpu, ptep, ptl);
    ret
}

fn write_protect_pte(cpu: &Cpu, ptep: PtePtr, page: Page) -> Result<(), Errno> {
    let pte = ptep.read(cpu);
    if !pte.present() || pte.pfn() != page {
        return Err(Errno::EFAULT);
    }
    let exclusive = cpu.since(Base::V6_12) && page_anon_exclusive(cpu, page);
    if !pte.write() && !pte.dirty() && !exclusive {
        return Ok(());
    }
    let swapped = i32::from(in_swap_cache(cpu, page));
    let entry = ptep.get_and_clear(cpu);
    if page_mapcount(cpu, page) + 1 + swapped != page_count(cpu, page) {
        ptep.set(cpu, entry);
        return Err(Errno::EFAULT);
    }
    // C: see folio_try_share_anon_rmap_pte(): the entry is cleared first
    if exclusive && folio_try_share_anon_rmap(cpu, page).is_err() {
        ptep.set(cpu, entry);
        return Err(Errno::EFAULT);
    }
    if entry.dirty() {
        set_page_dirty(cpu, page);
    }
    ptep.set_again(cpu, entry.mkclean().wrprotect());
    Ok(())
}
