// SPDX-License-Identifier: GPL-2.0-only
//! The reverse map: from a page to the entries that map it.
//!
//! Duplicated: which mapcount and reference a mapping holds; migration entries
//! in place of mappings, and back; on v6.12 the protocol around
//! PageAnonExclusive: who sets it, what fork and unmapping must find before
//! they may take it away, and the barriers that pair with GUP-fast; which THPs
//! count as partially mapped.
//! Customised: there is no mremap(), so an anonymous page can only be mapped
//! at the address it was made for, in the mm that made it or one that fork()
//! copied from it: the walk looks there in every mm, page by page, instead of
//! following anon_vma chains VMA by VMA; the mappings of a file are found by
//! looking at every VMA instead of in an interval tree; all anonymous memory
//! has one anon_vma lock. Stubbed: mlock. A driver's pages have no reverse map.

use super::cpu::{Cpu, Hold};
use super::filemap::{File, i_mmap_rwsem};
use super::folio::{page_anon_exclusive, smp_mb, smp_mb__after_atomic};
use super::fork::page_needs_cow_for_dma;
use super::huge_memory::{split_huge_pmd, split_huge_pmd_freeze};
use super::hugetlb;
use super::limits::{HPAGE_PMD_NR, PAGE_SIZE, PMD_SIZE};
use super::mm::{self, MmId, Vma};
use super::page::{
    Mapping, Page, clear_page_anon_exclusive, compound_head, compound_nr, get_page, page_anon,
    page_contents, page_dirty, page_maybe_dma_pinned, pages_of, put_page, set_flag,
    set_page_anon_exclusive, set_page_dirty, total_mapcount,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, mm_find_pmd, pmd_lock, pte_offset_map_lock, pte_unmap_unlock,
    spin_unlock,
};
use super::swap::{page_swap_entry, swap_duplicate, swap_free};
use super::wait::Wait;
use super::world::World;
use crate::atomic::RawLock;
use crate::errno::Errno;
use crate::flags::{Pg, VmFlags};
use crate::history::{Base, Defect, Safeguard};
use crate::step::StepKind;

/// Whether an anonymous page gets a mapping that is its only one.
/// C: rmap_t, linux/rmap.h
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Rmap {
    /// It may be shared. C: RMAP_NONE
    None,
    /// It is not. C: RMAP_EXCLUSIVE
    Exclusive,
}

/// A fresh anonymous page gets its first mapping, and is exclusive to it.
/// C: page_add_new_anon_rmap(), folio_add_new_anon_rmap(), mm/rmap.c
pub(crate) fn page_add_new_anon_rmap(cpu: &Cpu, page: Page, addr: u64, compound: bool) {
    let f = cpu.world.frame(page);
    f.mapping.set(Mapping::Anon.word());
    f.index.set((addr / PAGE_SIZE) as u32);
    set_flag(cpu, page, Pg::SWAPBACKED);
    page_dup_rmap(cpu, page, compound);
    if cpu.since(Base::V6_12) {
        set_page_anon_exclusive(cpu, page);
    }
}

/// One more mapping of an anonymous page that is no longer fresh.
/// C: page_add_anon_rmap(), folio_add_anon_rmap_pte(),
/// folio_add_anon_rmap_pmd(), mm/rmap.c
pub(crate) fn page_add_anon_rmap(cpu: &Cpu, page: Page, compound: bool, rmap: Rmap) {
    page_dup_rmap(cpu, page, compound);
    if !cpu.since(Base::V6_12) {
        return;
    }
    if rmap == Rmap::Exclusive {
        set_page_anon_exclusive(cpu, page);
    }
    let head = compound_head(cpu, page);
    for i in 0..if compound { HPAGE_PMD_NR } else { 1 } {
        // While a PMD is split there are a PMD and a PTE mapping.
        let twice = cpu.world.frame(page.nth(i)).mapcount.read() > 1
            || cpu.world.frame(head).compound_mapcount.read() > 1;
        let at = "__folio_add_anon_rmap";
        cpu.warn_on(
            twice && page_anon_exclusive(cpu, page.nth(i)),
            at,
            "an exclusive page is mapped twice",
        );
    }
}

/// fork() shares a mapping of an anonymous page, unless the page is exclusive
/// and may be pinned. What was shared must not be writable on either side
/// afterwards. C: folio_try_dup_anon_rmap_pte(), _pmd(), linux/rmap.h, v6.12
///
/// # Errors
/// `EBUSY` if it may not be shared; nothing has changed then.
pub(crate) fn folio_try_dup_anon_rmap(
    cpu: &Cpu,
    page: Page,
    src: &Vma,
    compound: bool,
) -> Result<(), Errno> {
    let maybe_pinned = page_needs_cow_for_dma(cpu, src, page);
    if page_anon_exclusive(cpu, page) {
        if maybe_pinned {
            return Err(Errno::EBUSY);
        }
        clear_page_anon_exclusive(cpu, page);
    }
    page_dup_rmap(cpu, page, compound);
    Ok(())
}

/// An exclusive page loses its mark, because its only mapping goes away for a
/// while; not if it may be pinned. The page-table lock is held and the entry
/// is cleared or invalidated already:
///
/// ```text
///   here                                GUP-fast
///   (A1) clear the entry                (B1) read the entry
///   (A2) pinned? then put it back       (B2) pin the page
///   (A3) clear PageAnonExclusive        (B3) entry still the same?
///   (A4) set an entry, not writable     (B4) not writable: still exclusive?
/// ```
///
/// The first barrier orders (A1) before (A2), against (B2) before (B3) in
/// try_grab_folio_fast(); the second (A3) before (A4), against (B3) before
/// (B4) in gup_must_unshare().
/// C: folio_try_share_anon_rmap_pte(), _pmd(), linux/rmap.h, v6.12
///
/// # Errors
/// `EBUSY` if it may be pinned; it stays exclusive then.
pub(crate) fn folio_try_share_anon_rmap(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    let barriers = !cpu.has(Defect::ExclusiveWithoutBarriers);
    if barriers && !cpu.lacks(Safeguard::BarrierAfterClear) {
        smp_mb(cpu);
    }
    if page_maybe_dma_pinned(cpu, page) {
        return Err(Errno::EBUSY);
    }
    clear_page_anon_exclusive(cpu, page);
    if barriers && !cpu.lacks(Safeguard::BarrierAfterShare) {
        smp_mb__after_atomic(cpu);
    }
    Ok(())
}

/// One more mapping, which says nothing of exclusivity: of an anonymous page
/// at fork on v5.15, and of any other page.
/// C: page_dup_rmap(), page_add_file_rmap(), folio_add_file_rmap_pte()
pub(crate) fn page_dup_rmap(cpu: &Cpu, page: Page, compound: bool) {
    mapcount_add(cpu, page, compound, 1);
}

/// One mapping less. C: page_remove_rmap(), folio_remove_rmap_pte(), _pmd()
pub(crate) fn page_remove_rmap(cpu: &Cpu, page: Page, compound: bool) {
    mapcount_add(cpu, page, compound, -1);
    if cpu.since(Base::V6_12) {
        deferred_split_folio(cpu, page, compound);
    }
}

/// Marks the THP of a page that lost its last mapping while other pages have
/// one. C: __folio_remove_rmap(), mm/rmap.c; deferred_split_folio(),
/// mm/huge_memory.c
fn deferred_split_folio(cpu: &Cpu, page: Page, compound: bool) {
    let world = cpu.world;
    let head = world.head_of(page);
    let span = world.span_of(head);
    let f = world.frame(head);
    let marked = || f.flags.read((Pg::PARTIALLY_MAPPED | Pg::SWAPCACHE).bits()) != 0;
    let anon = || Mapping::from_word(f.mapping.read()) == Mapping::Anon;
    if span.count_ones() <= 2 || !anon() || f.compound_mapcount.read() > 0 || marked() {
        return;
    }
    let unmapped = |p: Page| world.frame(p).mapcount.read() == 0;
    let lost = compound || unmapped(page);
    if lost && pages_of(span).any(unmapped) && !pages_of(span).all(unmapped) {
        set_flag(cpu, head, Pg::PARTIALLY_MAPPED);
    }
}

fn mapcount_add(cpu: &Cpu, page: Page, compound: bool, n: i32) {
    cpu.step(StepKind::Mapcount, page.0.into(), n.into());
    cpu.touch(compound_head(cpu, page));
    let f = cpu.world.frame(page);
    if compound { &f.compound_mapcount } else { &f.mapcount }.add(n);
}

/// What the reverse map goes by. C: folio->mapping, folio->index
#[derive(Clone, Copy, Debug)]
pub struct RmapPlace {
    file: Option<File>,
    /// In a file; else the address, in pages.
    index: u64,
}

impl RmapPlace {
    /// The file, of a page of one.
    pub(crate) fn file(self) -> Option<File> {
        self.file
    }
    /// Of a head.
    pub fn of(cpu: &Cpu, head: Page) -> Self {
        let f = cpu.world.frame(head);
        let file = Mapping::from_word(f.mapping.read()).file();
        RmapPlace { file, index: f.index.read().into() }
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

/// What keeps the VMAs that map a page as they are: the lock of its file, or
/// of anonymous memory. C: mapping->i_mmap_rwsem, anon_vma->root->rwsem
fn rmap_lock(world: &World, file: Option<File>) -> &RawLock {
    match file {
        Some(file) => i_mmap_rwsem(world, file),
        None => &world.anon_vma,
    }
}

/// C: anon_vma_lock_read(), i_mmap_lock_read()
pub(crate) fn rmap_lock_read(cpu: &Cpu, file: Option<File>) {
    cpu.take(rmap_lock(cpu.world, file), Hold::Read, Wait::Rmap(file));
}

/// C: anon_vma_unlock_read(), i_mmap_unlock_read()
pub(crate) fn rmap_unlock_read(cpu: &Cpu, file: Option<File>) {
    cpu.release(rmap_lock(cpu.world, file), Hold::Read);
}

/// C: anon_vma_lock_write(), i_mmap_lock_write()
pub(crate) fn rmap_lock_write(cpu: &Cpu, file: Option<File>) {
    cpu.take(rmap_lock(cpu.world, file), Hold::Write, Wait::Rmap(file));
}

/// C: anon_vma_unlock_write(), i_mmap_unlock_write()
pub(crate) fn rmap_unlock_write(cpu: &Cpu, file: Option<File>) {
    cpu.release(rmap_lock(cpu.world, file), Hold::Write);
}

/// Changes which VMAs of an mm map `file` or anonymous memory, or where.
/// C: unlink_anon_vmas(), unlink_file_vma(), vma_prepare(), mm/vma.c
pub(crate) fn change_vmas(cpu: &Cpu, file: Option<File>, change: impl FnOnce()) {
    // Private mappings of a file have anonymous pages, too.
    rmap_lock_write(cpu, None);
    if file.is_some() {
        rmap_lock_write(cpu, file);
    }
    change();
    if file.is_some() {
        rmap_unlock_write(cpu, file);
    }
    rmap_unlock_write(cpu, None);
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
    let place = RmapPlace::of(cpu, page);
    rmap_lock_read(cpu, place.file);
    for (vma, addr) in rmap_walk(cpu, place, 0) {
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
    rmap_unlock_read(cpu, place.file);
    cleaned
}

/// Unmaps a locked page of a file wherever it is mapped.
/// C: unmap_mapping_folio(), mm/memory.c
pub(crate) fn unmap_mapping_folio(cpu: &Cpu, page: Page) {
    let place = RmapPlace::of(cpu, page);
    rmap_lock_read(cpu, place.file);
    for (vma, addr) in rmap_walk(cpu, place, 0) {
        if vma.is_hugetlb() {
            hugetlb::unmap_file_folio(cpu, &vma, addr, page);
            continue;
        }
        with_pte_of(cpu, &vma, addr, page, |ptep, pte| {
            ptep.get_and_clear(cpu);
            if pte.dirty() {
                set_page_dirty(cpu, page);
            }
            page_remove_rmap(cpu, page, false);
            put_page(cpu, page);
        });
    }
    rmap_unlock_read(cpu, place.file);
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
pub enum Unmap {
    /// Huge mappings become one migration entry.
    Whole,
    /// Huge mappings are split first. C: TTU_SPLIT_HUGE_PMD
    SplitHugePmd,
}

/// Replaces every mapping of the compound page of `head` by a migration
/// entry. On v6.12 false, and some mappings are left, if a page is exclusive
/// and may be pinned. C: try_to_migrate(), mm/rmap.c
pub fn try_to_migrate(cpu: &Cpu, head: Page, how: Unmap) -> bool {
    let place = RmapPlace::of(cpu, head);
    // C: who splits the page has the lock for writing, TTU_RMAP_LOCKED
    let locked = how == Unmap::SplitHugePmd;
    if !locked {
        rmap_lock_read(cpu, place.file);
    }
    let done = migrate_mappings(cpu, head, place, how);
    if !locked {
        rmap_unlock_read(cpu, place.file);
    }
    done
}

/// C: try_to_migrate_one(), mm/rmap.c, for every mapping
fn migrate_mappings(cpu: &Cpu, head: Page, place: RmapPlace, how: Unmap) -> bool {
    if hugetlb::is_hugetlb(cpu, head) {
        let one = |(vma, addr)| hugetlb::try_to_migrate_one(cpu, &vma, addr, head);
        return rmap_walk(cpu, place, 0).all(one);
    }
    let nr = compound_nr(cpu, head);
    for i in 0..nr {
        for (vma, addr) in rmap_walk(cpu, place, i) {
            let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.trans_huge() && pmd.pfn() == head {
                if how == Unmap::SplitHugePmd {
                    split_huge_pmd_freeze(cpu, &vma, pmdp, head);
                } else if let Some(done) = set_pmd_migration_entry(cpu, pmdp, head) {
                    if done {
                        continue;
                    }
                    return false;
                }
            }
            if !unmap_pte(cpu, &vma, addr, head.nth(i)) {
                return false;
            }
        }
    }
    true
}

/// Replaces every mapping of the compound page of `head`, which is in the swap
/// cache, by a swap entry, as far as it goes: on v6.12 not where a page is
/// exclusive and may be pinned. C: try_to_unmap(), mm/rmap.c
pub(crate) fn try_to_unmap(cpu: &Cpu, head: Page) {
    let place = RmapPlace::of(cpu, head);
    rmap_lock_read(cpu, place.file);
    unmap_mappings(cpu, head, place);
    rmap_unlock_read(cpu, place.file);
}

/// C: try_to_unmap_one(), mm/rmap.c, for every mapping
fn unmap_mappings(cpu: &Cpu, head: Page, place: RmapPlace) {
    for i in 0..compound_nr(cpu, head) {
        for (vma, addr) in rmap_walk(cpu, place, i) {
            let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.trans_huge() && pmd.pfn() == head {
                split_huge_pmd(cpu, &vma, pmdp);
            }
            if !swap_out_pte(cpu, &vma, addr, head.nth(i)) {
                return;
            }
        }
    }
}

/// One PTE of try_to_unmap_one(): false if the page may not lose its
/// exclusivity.
fn swap_out_pte(cpu: &Cpu, vma: &Vma, addr: u64, page: Page) -> bool {
    let mut done = true;
    with_pte_of(cpu, vma, addr, page, |ptep, _| {
        let exclusive = cpu.since(Base::V6_12) && page_anon_exclusive(cpu, page);
        let pte = ptep.get_and_clear(cpu);
        if pte.dirty() {
            set_page_dirty(cpu, page);
        }
        let Some(slot) = page_swap_entry(cpu, page) else {
            cpu.warn_on(true, "try_to_unmap_one", "the page is not in the swap cache");
            ptep.set(cpu, pte);
            done = false;
            return;
        };
        swap_duplicate(cpu, slot);
        // C: see folio_try_share_anon_rmap_pte(): the entry is cleared first
        if exclusive && folio_try_share_anon_rmap(cpu, page).is_err() {
            swap_free(cpu, slot);
            ptep.set(cpu, pte);
            done = false;
            return;
        }
        ptep.set(cpu, Pte::mk_swap(slot, exclusive));
        page_remove_rmap(cpu, page, false);
        put_page(cpu, page);
    });
    done
}

/// False if the page may not lose its exclusivity; `None` if the PMD does not
/// map it any more. C: set_pmd_migration_entry(), mm/huge_memory.c
fn set_pmd_migration_entry(cpu: &Cpu, pmdp: PmdPtr, head: Page) -> Option<bool> {
    let ptl = pmd_lock(cpu, pmdp);
    let now = pmdp.read(cpu);
    if !now.trans_huge() || now.pfn() != head {
        spin_unlock(cpu, ptl);
        return None;
    }
    let pmd = pmdp.invalidate(cpu);
    let exclusive = cpu.since(Base::V6_12) && page_anon_exclusive(cpu, head);
    if exclusive && folio_try_share_anon_rmap(cpu, head).is_err() {
        pmdp.set(cpu, pmd);
        spin_unlock(cpu, ptl);
        return Some(false);
    }
    if pmd.dirty() {
        set_page_dirty(cpu, head);
    }
    pmdp.set(cpu, pmd.to_migration(exclusive, cpu.since(Base::V6_12)));
    page_remove_rmap(cpu, head, true);
    put_page(cpu, head);
    spin_unlock(cpu, ptl);
    Some(true)
}

/// One PTE of try_to_migrate_one(): false if the page may not lose its
/// exclusivity.
fn unmap_pte(cpu: &Cpu, vma: &Vma, addr: u64, page: Page) -> bool {
    let (at, new) = ("try_to_migrate_one", cpu.since(Base::V6_12));
    let mut done = true;
    with_pte_of(cpu, vma, addr, page, |ptep, _| {
        let anon = new && page_anon(cpu, page);
        let exclusive = anon && page_anon_exclusive(cpu, page);
        let pte = ptep.get_and_clear(cpu);
        if pte.dirty() {
            set_page_dirty(cpu, page);
        }
        cpu.bug_on(anon && pte.write() && !exclusive, at, "pte_write(pteval) && !anon_exclusive");
        // C: see folio_try_share_anon_rmap_pte(): the entry is cleared first
        done = !exclusive || folio_try_share_anon_rmap(cpu, page).is_ok();
        if done {
            ptep.set(cpu, pte.to_migration(exclusive, new));
            page_remove_rmap(cpu, page, false);
            put_page(cpu, page);
        } else {
            ptep.set(cpu, pte);
        }
    });
    done
}

/// Replaces every migration entry for the compound page that `old` heads (or
/// headed, if it was split) by a mapping of the page at the same place in
/// `new`. `nr` is the number of pages, `place` where `old` was made.
/// `zeropage`: small pages of zeroes are replaced by the zero page instead.
/// C: remove_migration_ptes(), mm/migrate.c; RMP_USE_SHARED_ZEROPAGE
pub fn remove_migration_ptes(
    cpu: &Cpu,
    old: Page,
    new: Page,
    place: RmapPlace,
    nr: u64,
    zeropage: bool,
) {
    rmap_lock_read(cpu, place.file);
    remove_migration_ptes_locked(cpu, old, new, place, nr, zeropage);
    rmap_unlock_read(cpu, place.file);
}

/// [`remove_migration_ptes`] with the lock held. C: RMP_LOCKED
pub(crate) fn remove_migration_ptes_locked(
    cpu: &Cpu,
    old: Page,
    new: Page,
    place: RmapPlace,
    nr: u64,
    zeropage: bool,
) {
    if hugetlb::is_hugetlb(cpu, old) {
        let one = |(vma, addr)| hugetlb::remove_migration_pte(cpu, &vma, addr, old, new);
        return rmap_walk(cpu, place, 0).for_each(one);
    }
    for i in 0..nr {
        for (vma, addr) in rmap_walk(cpu, place, i) {
            let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) else { continue };
            let pmd = pmdp.read(cpu);
            if pmd.is_migration() {
                let first = nr == HPAGE_PMD_NR && addr & (PMD_SIZE - 1) == 0;
                if !first || restore_pmd(cpu, &vma, pmdp, old, new) {
                    continue;
                }
                // Split meanwhile.
            }
            restore_pte(cpu, &vma, pmdp, addr, old.nth(i), new.nth(i), zeropage);
        }
    }
}

/// False if there is a table by now.
/// C: remove_migration_pmd(), mm/huge_memory.c
fn restore_pmd(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, old: Page, new: Page) -> bool {
    let ptl = pmd_lock(cpu, pmdp);
    // C: page_vma_mapped_walk()
    let entry = pmdp.read(cpu);
    if !entry.is_migration() || entry.pfn() != old {
        spin_unlock(cpu, ptl);
        return entry.none() || entry.is_swap_or_trans_huge();
    }
    get_page(cpu, new);
    let mut pmd = Pmd::mk_huge(new, vma.flags);
    if entry.migration_write() {
        pmd = pmd.maybe_mkwrite(vma.flags);
    }
    if !entry.young() {
        pmd = pmd.mkold();
    }
    if entry.dirty() && page_dirty(cpu, new) {
        pmd = pmd.mkdirty();
    }
    page_add_anon_rmap(cpu, new, true, rmap_of(entry.migration_shared()));
    pmdp.set(cpu, pmd);
    spin_unlock(cpu, ptl);
    true
}

fn rmap_of(shared: bool) -> Rmap {
    if shared { Rmap::None } else { Rmap::Exclusive }
}

/// C: remove_migration_pte(), mm/migrate.c
fn restore_pte(
    cpu: &Cpu,
    vma: &Vma,
    pmdp: PmdPtr,
    addr: u64,
    old: Page,
    new: Page,
    zeropage: bool,
) {
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let entry = ptep.read(cpu);
    if entry.is_migration() && entry.pfn() == old {
        // C: try_to_map_unused_to_zeropage()
        if zeropage && page_contents(cpu, new) == 0 {
            ptep.set(cpu, Pte::mk(cpu.world.zero_page(), vma.flags).mkspecial());
            pte_unmap_unlock(cpu, ptep, ptl);
            return;
        }
        get_page(cpu, new);
        let mut pte = Pte::mk(new, vma.page_prot());
        if !entry.young() {
            pte = pte.mkold();
        }
        if entry.dirty() && page_dirty(cpu, new) {
            pte = pte.mkdirty();
        }
        if entry.migration_write() {
            pte = pte.maybe_mkwrite(vma.flags);
        }
        if cpu.since(Base::V6_12) && page_anon(cpu, new) {
            page_add_anon_rmap(cpu, new, false, rmap_of(entry.migration_shared()));
        } else {
            page_dup_rmap(cpu, new, false);
        }
        ptep.set(cpu, pte);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
}
