// SPDX-License-Identifier: GPL-2.0-only
//! The reverse map: from a page to the entries that map it.
//!
//! Duplicated: which mapcount and reference a mapping holds; migration
//! entries in place of mappings, and back. Customised: there is no mremap(),
//! so an anonymous page can only be mapped at the address it was made for,
//! in the mm that made it or one that fork() copied from it: the walk looks
//! there in every mm instead of following anon_vma chains; the mappings of a
//! file are found by looking at every VMA instead of in an interval tree; a
//! migration entry keeps young and dirty in the page. Stubbed: deferred
//! splitting, mlock. A driver's pages have no reverse map.

use super::cpu::Cpu;
use super::filemap::File;
use super::huge_memory::split_huge_pmd;
use super::limits::{HPAGE_PMD_NR, PAGE_SIZE, PMD_SIZE};
use super::mm::{self, MmId, Vma};
use super::page::{
    Mapping, Page, compound_head, compound_nr, get_page, put_page, set_flag, set_page_dirty,
    total_mapcount,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, mm_find_pmd, pmd_lock, pte_offset_map_lock, pte_unmap_unlock,
    spin_unlock,
};
use crate::flags::{Pg, VmFlags};
use crate::step::StepKind;

/// A fresh anonymous page gets its first mapping.
/// C: page_add_new_anon_rmap(), mm/rmap.c
pub(crate) fn page_add_new_anon_rmap(cpu: &Cpu, page: Page, addr: u64, compound: bool) {
    let f = cpu.world.frame(page);
    f.mapping.set(Mapping::Anon.word());
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

/// What the reverse map goes by. C: folio->mapping, folio->index
#[derive(Clone, Copy, Debug)]
pub(crate) struct RmapPlace {
    file: Option<File>,
    /// In a file; else the address, in pages.
    index: u64,
}

impl RmapPlace {
    /// Of a head.
    pub(crate) fn of(cpu: &Cpu, head: Page) -> Self {
        let f = cpu.world.frame(head);
        let file = Mapping::from_word(f.mapping.read()).file();
        RmapPlace { file, index: f.index.read() as u64 }
    }
    /// Where a VMA maps the page `i` pages behind it, if it can.
    fn address_in(self, vma: &Vma, i: u64) -> Option<u64> {
        match self.file {
            None => Some((self.index + i) * PAGE_SIZE).filter(|a| (vma.start..vma.end).contains(a)),
            file if vma.file() == file => vma.address_of(self.index + i),
            _ => None,
        }
    }
}

/// Every VMA there is.
fn all_vmas<'a>(cpu: &'a Cpu<'_>) -> impl Iterator<Item = Vma> + 'a {
    let mms = (0..cpu.world.limits.mms).map(MmId);
    mms.filter(|&mm| mm::mm_alive(cpu, mm)).flat_map(|mm| mm::vmas(cpu, mm))
}

/// The VMAs that map a file. C: mapping->i_mmap
pub(crate) fn vmas_of<'a>(cpu: &'a Cpu<'_>, file: File) -> impl Iterator<Item = Vma> + 'a {
    all_vmas(cpu).filter(move |v| v.file() == Some(file))
}

/// Every VMA and address at which the page `i` pages behind `place` could be
/// mapped. C: rmap_walk(), mm/rmap.c
fn rmap_walk<'a>(
    cpu: &'a Cpu<'_>,
    place: RmapPlace,
    i: u64,
) -> impl Iterator<Item = (Vma, u64)> + 'a {
    all_vmas(cpu).filter_map(move |v| Some((v, place.address_in(&v, i)?)))
}

/// C: page_mapped(), linux/mm.h
pub(crate) fn page_mapped(cpu: &Cpu, page: Page) -> bool {
    total_mapcount(cpu, page) > 0
}

/// Write-protects and cleans the shared mappings of a locked page of a file;
/// whether there was anything to do. C: folio_mkclean(), mm/rmap.c
#[doc(alias = "page_mkclean")]
pub(crate) fn folio_mkclean(cpu: &Cpu, page: Page) -> bool {
    let mut cleaned = false;
    for (vma, addr) in rmap_walk(cpu, RmapPlace::of(cpu, page), 0) {
        if !vma.flags.contains(VmFlags::SHARED) {
            continue;
        }
        with_pte_of(cpu, &vma, addr, page, |ptep, pte| {
            if pte.dirty() || pte.write() {
                ptep.get_and_clear(cpu);
                ptep.set(cpu, pte.wrprotect().mkclean());
                cleaned = true;
            }
        });
    }
    cleaned
}

/// Unmaps a locked page of a file wherever it is mapped.
/// C: unmap_mapping_folio(), mm/memory.c
pub(crate) fn unmap_mapping_folio(cpu: &Cpu, page: Page) {
    for (vma, addr) in rmap_walk(cpu, RmapPlace::of(cpu, page), 0) {
        with_pte_of(cpu, &vma, addr, page, |ptep, pte| {
            ptep.get_and_clear(cpu);
            if pte.dirty() {
                set_page_dirty(cpu, page);
            }
            page_remove_rmap(cpu, page, false);
            put_page(cpu, page);
        });
    }
}

/// Calls `f` with the PTE lock held if `addr` maps the page.
/// C: page_vma_mapped_walk(), mm/page_vma_mapped.c
fn with_pte_of(cpu: &Cpu, vma: &Vma, addr: u64, page: Page, f: impl FnOnce(PtePtr, Pte)) {
    let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { return };
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let pte = ptep.read(cpu);
    if pte.present() && !pte.special() && pte.pfn() == page {
        f(ptep, pte);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
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
    let place = RmapPlace::of(cpu, head);
    let nr = compound_nr(cpu, head);
    for i in 0..nr {
        for (vma, addr) in rmap_walk(cpu, place, i) {
            let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.trans_huge() && pmd.pfn() == head {
                if how == Unmap::Whole {
                    set_pmd_migration_entry(cpu, pmdp, head);
                    continue;
                }
                split_huge_pmd(cpu, &vma, pmdp);
            }
            unmap_pte(cpu, &vma, addr, head.nth(i));
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
fn unmap_pte(cpu: &Cpu, vma: &Vma, addr: u64, page: Page) {
    with_pte_of(cpu, vma, addr, page, |ptep, _| {
        let pte = ptep.get_and_clear(cpu);
        if pte.dirty() {
            set_page_dirty(cpu, page);
        }
        ptep.set(cpu, pte.to_migration());
        page_remove_rmap(cpu, page, false);
        put_page(cpu, page);
    });
}

/// Replaces every migration entry for the compound page that `old` heads (or
/// headed, if it was split) by a mapping of the page at the same place in
/// `new`. `nr` is the number of pages, `place` where `old` was made. C: remove_migration_ptes(),
/// mm/migrate.c
pub(crate) fn remove_migration_ptes(cpu: &Cpu, old: Page, new: Page, place: RmapPlace, nr: u64) {
    for i in 0..nr {
        for (vma, addr) in rmap_walk(cpu, place, i) {
            let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { continue };
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
        let mut pte = Pte::mk(new, vma.page_prot()).mkold();
        if entry.migration_write() {
            pte = pte.maybe_mkwrite(vma.flags);
        }
        page_dup_rmap(cpu, new, false);
        ptep.set(cpu, pte);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
}
