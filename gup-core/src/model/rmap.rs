// SPDX-License-Identifier: GPL-2.0-only
//! The reverse map: from a page to the entries that map it.
//!
//! Duplicated: which mapcount and reference a mapping holds; migration
//! entries in place of mappings, and back. Customised: there is no mremap(),
//! so an anonymous page can only be mapped at the address it was made for,
//! in the mm that made it or one that fork() copied from it: the walk looks
//! there in every mm instead of following anon_vma chains; a migration entry
//! keeps young and dirty in the page. Stubbed: file mappings (a driver's
//! pages have no reverse map), deferred splitting, mlock.

use super::cpu::Cpu;
use super::huge_memory::split_huge_pmd;
use super::limits::{HPAGE_PMD_NR, PAGE_SIZE, PMD_SIZE};
use super::mm::{self, MmId, Vma};
use super::page::{
    Mapping, Page, compound_head, compound_nr, get_page, put_page, set_flag, set_page_dirty,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, mm_find_pmd, pmd_lock, pte_offset_map_lock, pte_unmap_unlock, spin_unlock,
};
use crate::flags::Pg;
use crate::step::StepKind;

/// A fresh anonymous page gets its first mapping.
/// C: page_add_new_anon_rmap(), mm/rmap.c
pub(crate) fn page_add_new_anon_rmap(cpu: &Cpu, page: Page, addr: u64, compound: bool) {
    let f = cpu.world.frame(page);
    f.mapping.set(Mapping::Anon as i32);
    f.index.set((addr / PAGE_SIZE) as i32);
    set_flag(cpu, page, Pg::SWAPBACKED);
    page_dup_rmap(cpu, page, compound);
}

/// One more mapping. C: page_dup_rmap(), page_add_anon_rmap(),
/// page_add_file_rmap()
pub(crate) fn page_dup_rmap(cpu: &Cpu, page: Page, compound: bool) {
    mapcount_add(cpu, page, compound, 1);
}

/// One mapping less. C: page_remove_rmap(), mm/rmap.c
pub(crate) fn page_remove_rmap(cpu: &Cpu, page: Page, compound: bool) {
    mapcount_add(cpu, page, compound, -1);
}

fn mapcount_add(cpu: &Cpu, page: Page, compound: bool, n: i32) {
    cpu.step(StepKind::Mapcount, page.0.into(), n.into());
    cpu.touch(compound_head(cpu, page));
    let f = cpu.world.frame(page);
    if compound { &f.compound_mapcount } else { &f.mapcount }.add(n);
}

/// Where the head of a page's compound page would be mapped.
fn head_address(cpu: &Cpu, head: Page) -> u64 {
    cpu.world.frame(head).index.read() as u64 * PAGE_SIZE
}

/// Every mm and VMA in which the page at `addr` could be mapped.
fn candidates<'a>(cpu: &'a Cpu<'_>, addr: u64) -> impl Iterator<Item = (MmId, Vma)> + 'a {
    (0..cpu.world.limits.mms).map(MmId).filter_map(move |mm| {
        if !mm::mm_alive(cpu, mm) {
            return None;
        }
        Some((mm, mm::vma_lookup(cpu, mm, addr)?))
    })
}

/// How a page is taken out of its mappings.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Unmap {
    /// Huge mappings become one migration entry.
    Whole,
    /// Huge mappings are split first. C: TTU_SPLIT_HUGE_PMD
    SplitHugePmd,
}

/// Replaces every mapping of the compound page of `head` by a migration
/// entry. C: try_to_migrate(), mm/rmap.c
pub(crate) fn try_to_migrate(cpu: &Cpu, head: Page, how: Unmap) {
    let base = head_address(cpu, head);
    let nr = compound_nr(cpu, head);
    for i in 0..nr {
        let addr = base + i * PAGE_SIZE;
        for (mm, vma) in candidates(cpu, addr) {
            let Some(pmdp) = mm_find_pmd(cpu, mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.trans_huge() && pmd.pfn() == head {
                if how == Unmap::Whole {
                    set_pmd_migration_entry(cpu, pmdp, head);
                    continue;
                }
                split_huge_pmd(cpu, &vma, pmdp);
            }
            unmap_pte(cpu, pmdp, addr, head.nth(i));
        }
    }
}

/// C: set_pmd_migration_entry(), mm/huge_memory.c
fn set_pmd_migration_entry(cpu: &Cpu, pmdp: PmdPtr, head: Page) {
    let ptl = pmd_lock(cpu, pmdp);
    let now = pmdp.read(cpu);
    if !now.trans_huge() || now.pfn() != head {
        spin_unlock(cpu, ptl);
        return;
    }
    let pmd = pmdp.invalidate(cpu);
    if pmd.dirty() {
        set_page_dirty(cpu, head);
    }
    pmdp.set(cpu, pmd.to_migration());
    page_remove_rmap(cpu, head, true);
    put_page(cpu, head);
    spin_unlock(cpu, ptl);
}

/// One PTE of try_to_migrate_one().
fn unmap_pte(cpu: &Cpu, pmdp: PmdPtr, addr: u64, page: Page) {
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let pte = ptep.read(cpu);
    if pte.present() && !pte.special() && pte.pfn() == page {
        let pte = ptep.get_and_clear(cpu);
        if pte.dirty() {
            set_page_dirty(cpu, page);
        }
        ptep.set(cpu, pte.to_migration());
        page_remove_rmap(cpu, page, false);
        put_page(cpu, page);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
}

/// Replaces every migration entry for the compound page that `old` heads (or
/// headed, if it was split) by a mapping of the page at the same place in
/// `new`. `nr` is the number of pages. C: remove_migration_ptes(),
/// mm/migrate.c
pub(crate) fn remove_migration_ptes(cpu: &Cpu, old: Page, new: Page, base: u64, nr: u64) {
    for i in 0..nr {
        let addr = base + i * PAGE_SIZE;
        for (mm, vma) in candidates(cpu, addr) {
            let Some(pmdp) = mm_find_pmd(cpu, mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.is_migration() {
                if nr == HPAGE_PMD_NR && pmd.pfn() == old && addr & (PMD_SIZE - 1) == 0 {
                    restore_pmd(cpu, &vma, pmdp, pmd, new);
                }
                continue;
            }
            restore_pte(cpu, &vma, pmdp, addr, old.nth(i), new.nth(i));
        }
    }
}

/// C: remove_migration_pmd(), mm/huge_memory.c
fn restore_pmd(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, entry: Pmd, new: Page) {
    let ptl = pmd_lock(cpu, pmdp);
    get_page(cpu, new);
    let mut pmd = Pmd::mk_huge(new, vma.flags).mkold();
    if entry.migration_write() {
        pmd = pmd.maybe_mkwrite(vma.flags);
    }
    page_dup_rmap(cpu, new, true);
    pmdp.set(cpu, pmd);
    spin_unlock(cpu, ptl);
}

/// C: remove_migration_pte(), mm/migrate.c
fn restore_pte(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, addr: u64, old: Page, new: Page) {
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let entry = ptep.read(cpu);
    if entry.is_migration() && entry.pfn() == old {
        get_page(cpu, new);
        let mut pte = Pte::mk(new, vma.flags).mkold();
        if entry.migration_write() {
            pte = pte.maybe_mkwrite(vma.flags);
        }
        page_dup_rmap(cpu, new, false);
        ptep.set(cpu, pte);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
}

/// The address at which the compound page of `head` was made.
pub(crate) fn page_address_in_vma(cpu: &Cpu, head: Page) -> u64 {
    head_address(cpu, head)
}
