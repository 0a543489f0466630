// SPDX-License-Identifier: GPL-2.0-only
//! Transparent huge pages.
//!
//! Duplicated: faults and COW of PMD-mapped THPs; the split of a PMD (one
//! reference more for each further PTE, write bits kept); the split of a page
//! (all mappings become migration entries, the count is frozen at exactly the
//! caller's one reference, tails come alive with one reference each). On
//! v6.12: exclusivity of the THP is told by its head while a PMD maps it, by
//! each page afterwards; an exclusive THP is reused as it is; unsharing; pages
//! of zeroes that a split finds become the zero page. Customised:
//! /sys/kernel/mm/transparent_hugepage/use_zero_page is 0, so a read fault
//! gets a real THP; enabled is "madvise"; nothing works the deferred split
//! queue off. Stubbed: the deposited page table (a split allocates one).

use super::cpu::Cpu;
use super::folio::page_anon_exclusive;
use super::fork::page_needs_cow_for_dma;
use super::limits::{HPAGE_PMD_NR, HPAGE_PMD_ORDER, PMD_SIZE};
use super::lru::lru_cache_add;
use super::memory::cow_broken;
use super::migrate::PageList;
use super::mm::{Vma, anon_vma_prepare};
use super::mmap::vma_wants_manual_pte_write_upgrade;
use super::page::{
    Page, compound_head, compound_nr, get_page, get_page_unless_gone, page_anon, page_count,
    page_ref_add, page_ref_freeze, page_ref_unfreeze, put_page, set_flag, set_page_anon_exclusive,
    set_page_dirty, test_flag, total_mapcount, trylock_page, unlock_page,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, pgtable_trans_huge_withdraw, pmd_lock, pte_free, pte_offset_map, spin_unlock,
};
use super::rmap::{
    Rmap, RmapPlace, Unmap, folio_try_dup_anon_rmap, folio_try_share_anon_rmap, page_add_anon_rmap,
    page_add_new_anon_rmap, page_dup_rmap, page_remove_rmap, remove_migration_ptes_locked,
    rmap_lock_write, rmap_unlock_write, try_to_migrate,
};
use super::swap::{free_page_and_swap_cache, in_swap_cache, try_to_free_swap};
use super::zone::alloc_pages;
use crate::atomic::smp_wmb;
use crate::errno::Errno;
use crate::flags::{GFP_HIGHUSER_MOVABLE, Gfp, Pg, VmFault, VmFlags};
use crate::history::{Base, Defect};

/// Whether the huge page around `addr` fits into the VMA and is wanted.
/// C: transparent_hugepage_enabled(), thp_vma_allowable_order()
pub(crate) fn wants_thp(vma: &Vma, addr: u64) -> bool {
    vma.flags.contains(VmFlags::HUGEPAGE) && vma.is_anonymous() && pmd_suitable(vma, addr)
}

/// Whether the huge page around `addr` fits into the VMA.
/// C: transhuge_vma_suitable(), thp_vma_suitable_order(), linux/huge_mm.h
pub(crate) fn pmd_suitable(vma: &Vma, addr: u64) -> bool {
    let haddr = addr & !(PMD_SIZE - 1);
    haddr >= vma.start && haddr + PMD_SIZE <= vma.end
}

/// C: do_huge_pmd_anonymous_page(), mm/huge_memory.c
pub(crate) fn do_huge_pmd_anonymous_page(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, addr: u64) -> VmFault {
    anon_vma_prepare(cpu, vma);
    let gfp = GFP_HIGHUSER_MOVABLE | Gfp::COMP;
    let Some(page) = alloc_pages(cpu, gfp, HPAGE_PMD_ORDER) else { return VmFault::FALLBACK };
    let ptl = pmd_lock(cpu, pmdp);
    if !pmdp.read(cpu).none() {
        spin_unlock(cpu, ptl);
        put_page(cpu, page);
        return VmFault::empty();
    }
    let entry = Pmd::mk_huge(page, vma.flags).mkdirty().maybe_mkwrite(vma.flags);
    page_add_new_anon_rmap(cpu, page, addr & !(PMD_SIZE - 1), true);
    lru_cache_add(cpu, page);
    pmdp.set(cpu, entry);
    spin_unlock(cpu, ptl);
    VmFault::empty()
}

/// A write to a write-protected THP, or its unsharing.
/// C: do_huge_pmd_wp_page(), mm/huge_memory.c
pub(crate) fn do_huge_pmd_wp_page(
    cpu: &Cpu,
    vma: &Vma,
    pmdp: PmdPtr,
    orig: Pmd,
    unshare: bool,
) -> VmFault {
    let ptl = pmd_lock(cpu, pmdp);
    if pmdp.read(cpu) != orig {
        spin_unlock(cpu, ptl);
        return VmFault::empty();
    }
    let page = orig.pfn();
    let (reuse, locked) = if cpu.since(Base::V6_12) {
        (can_reuse_thp(cpu, page), false)
    } else {
        let mine = if cpu.has(Defect::ThpReusedByMapcount) {
            // C: reuse_swap_page(): references without a mapping do not count.
            total_mapcount(cpu, page) <= 1
        } else {
            page_count(cpu, page) == 1
        };
        let locked = mine && trylock_page(cpu, page);
        (locked, locked)
    };
    if !reuse {
        spin_unlock(cpu, ptl);
        split_huge_pmd(cpu, vma, pmdp);
        return VmFault::FALLBACK;
    }
    if !unshare {
        pmdp.set(cpu, orig.mkyoung().mkdirty().maybe_mkwrite(vma.flags));
    }
    if locked {
        unlock_page(cpu, page);
    }
    spin_unlock(cpu, ptl);
    cow_broken(cpu)
}

/// Whether nobody else maps or uses the THP; it is exclusive then. The part
/// of do_huge_pmd_wp_page() that is under the PMD lock, v6.12. The page lock,
/// which the C waits for without the PMD lock, is never held for long here.
fn can_reuse_thp(cpu: &Cpu, page: Page) -> bool {
    if page_anon_exclusive(cpu, page) {
        return true;
    }
    if !trylock_page(cpu, page) {
        return false;
    }
    // C: folio_free_swap() where the swap cache holds the other references
    let mine = page_count(cpu, page) <= 1 + extra_pins(cpu, page)
        && (!in_swap_cache(cpu, page) || try_to_free_swap(cpu, page))
        && page_count(cpu, page) == 1;
    if mine {
        set_page_anon_exclusive(cpu, page);
    }
    unlock_page(cpu, page);
    mine
}

/// A fault on a THP that found nothing to do.
/// C: huge_pmd_set_accessed(), mm/huge_memory.c
pub(crate) fn huge_pmd_set_accessed(cpu: &Cpu, pmdp: PmdPtr, orig: Pmd, write: bool) {
    let ptl = pmd_lock(cpu, pmdp);
    if pmdp.read(cpu) == orig {
        touch_pmd(cpu, pmdp, write);
    }
    spin_unlock(cpu, ptl);
}

/// Marks a THP's entry accessed, the PMD lock held. As on x86, nothing is
/// stored for a read. C: touch_pmd(), mm/huge_memory.c
pub fn touch_pmd(cpu: &Cpu, pmdp: PmdPtr, write: bool) {
    if write {
        let pmd = pmdp.read(cpu);
        pmdp.set(cpu, pmd.mkyoung().mkdirty());
    }
}

/// Maps the pages of a THP by PTEs instead of one PMD; the page stays whole.
/// C: __split_huge_pmd(), mm/huge_memory.c
pub fn split_huge_pmd(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr) {
    __split_huge_pmd(cpu, vma, pmdp, false, None);
}

/// The same for unmap_page(), if `page` is still mapped there: on v6.12 by
/// migration entries at once, where it may lose its exclusivity.
/// C: split_huge_pmd_address(freeze)
pub(crate) fn split_huge_pmd_freeze(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, page: Page) {
    // PORT: v5.15 freezes here, too; the model leaves that to the caller.
    __split_huge_pmd(cpu, vma, pmdp, cpu.since(Base::V6_12), Some(page));
}

fn __split_huge_pmd(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, freeze: bool, page: Option<Page>) {
    let table = pgtable_trans_huge_withdraw(cpu);
    let ptl = pmd_lock(cpu, pmdp);
    let old = pmdp.read(cpu);
    if old.trans_huge() && page.is_none_or(|page| page == old.pfn()) {
        __split_huge_pmd_locked(cpu, vma, pmdp, table, freeze);
        spin_unlock(cpu, ptl);
    } else if old.is_migration() && page.is_none() {
        split_pmd_migration(cpu, pmdp, table, old);
        spin_unlock(cpu, ptl);
    } else {
        spin_unlock(cpu, ptl);
        pte_free(cpu, table);
    }
}

/// C: __split_huge_pmd_locked(), mm/huge_memory.c
fn __split_huge_pmd_locked(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, table: Pmd, mut freeze: bool) {
    let old = pmdp.invalidate(cpu);
    let page = old.pfn();
    if old.dirty() {
        set_page_dirty(cpu, page);
    }
    let new = cpu.since(Base::V6_12);
    let exclusive = new && page_anon_exclusive(cpu, page);
    // See folio_try_share_anon_rmap(): the entry is invalid by now. A page
    // that must stay exclusive is only mapped by PTEs, and the caller fails.
    freeze = freeze && (!exclusive || folio_try_share_anon_rmap(cpu, page).is_ok());
    if !freeze {
        page_ref_add(cpu, page, HPAGE_PMD_NR as i32 - 1);
    }
    let rmap = if exclusive { Rmap::Exclusive } else { Rmap::None };
    let mut ptep = pte_offset_map(table, 0);
    for i in 0..HPAGE_PMD_NR {
        let mut pte = Pte::mk(page.nth(i), vma.flags);
        pte = if old.write() { pte.mkwrite() } else { pte.wrprotect() };
        if !old.young() {
            pte = pte.mkold();
        }
        if new && old.dirty() {
            pte = pte.mkdirty();
        }
        if freeze {
            ptep.set(cpu, pte.to_migration(exclusive, true));
        } else {
            ptep.set(cpu, pte);
            page_add_anon_rmap(cpu, page.nth(i), false, rmap);
        }
        ptep = ptep.next();
    }
    page_remove_rmap(cpu, page, true);
    if freeze {
        put_page(cpu, page);
    }
    smp_wmb();
    pmdp.set(cpu, table);
}

/// The case of a THP under migration in __split_huge_pmd_locked().
fn split_pmd_migration(cpu: &Cpu, pmdp: PmdPtr, table: Pmd, old: Pmd) {
    let mut ptep = pte_offset_map(table, 0);
    for i in 0..HPAGE_PMD_NR {
        ptep.set(cpu, old.migration_of_page(i));
        ptep = ptep.next();
    }
    smp_wmb();
    pmdp.set(cpu, table);
}

/// [`split_huge_page_to_list`] of a page that is on the LRU.
/// C: split_huge_page(), linux/huge_mm.h
///
/// # Errors
/// As there.
pub fn split_huge_page(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    split_huge_page_to_list(cpu, page, None)
}

/// Splits a compound page of anonymous memory into small ones. The caller
/// holds a reference on `page` and its lock; both survive, on `page`. If it
/// has isolated the page, its tails are isolated, too, and join `list`.
/// C: split_huge_page_to_list(), mm/huge_memory.c
///
/// # Errors
/// `EBUSY`, since v6.12 `EAGAIN`, if anybody else holds a reference that is
/// not a mapping.
pub fn split_huge_page_to_list(
    cpu: &Cpu,
    page: Page,
    list: Option<&mut PageList>,
) -> Result<(), Errno> {
    let head = compound_head(cpu, page);
    if !page_anon(cpu, head) {
        return Err(Errno::EBUSY);
    }
    let nr = compound_nr(cpu, head);
    let busy = Err(if cpu.since(Base::V6_12) { Errno::EAGAIN } else { Errno::EBUSY });
    if nr == 1 || !can_split_huge_page(cpu, head) {
        return busy;
    }
    let place = RmapPlace::of(cpu, head);
    rmap_lock_write(cpu, place.file());
    // C: unmap_page(); if it fails, so does what follows
    try_to_migrate(cpu, head, Unmap::SplitHugePmd);
    if !page_ref_freeze(cpu, head, 1 + extra_pins(cpu, head)) {
        // C: remap_page()
        remove_migration_ptes_locked(cpu, head, head, place, nr, false);
        rmap_unlock_write(cpu, place.file());
        return busy;
    }
    __split_huge_page(cpu, head, nr, list);
    remove_migration_ptes_locked(cpu, head, head, place, nr, cpu.since(Base::V6_12));
    rmap_unlock_write(cpu, place.file());
    for i in 0..nr {
        let subpage = head.nth(i);
        if subpage == page {
            continue;
        }
        unlock_page(cpu, subpage);
        free_page_and_swap_cache(cpu, subpage);
    }
    Ok(())
}

/// C: can_split_huge_page(), can_split_folio(), mm/huge_memory.c
pub(crate) fn can_split_huge_page(cpu: &Cpu, head: Page) -> bool {
    total_mapcount(cpu, head) == page_count(cpu, head) - extra_pins(cpu, head) - 1
}

/// The references of the swap cache on a head.
fn extra_pins(cpu: &Cpu, head: Page) -> i32 {
    if in_swap_cache(cpu, head) { compound_nr(cpu, head) as i32 } else { 0 }
}

/// Takes a frozen compound page apart: head and tails end with one reference
/// each, tails on `list` with that of the isolation besides, locked.
/// C: __split_huge_page(), mm/huge_memory.c
pub fn __split_huge_page(cpu: &Cpu, head: Page, nr: u64, mut list: Option<&mut PageList>) {
    let keep = Pg::REFERENCED | Pg::DIRTY | Pg::SWAPBACKED | Pg::LOCKED | Pg::SWAPCACHE;
    let f = cpu.world.frame(head);
    let lru = test_flag(cpu, head, Pg::LRU);
    // Each page keeps its own place in the swap cache.
    let cached = i32::from(in_swap_cache(cpu, head));
    let flags = f.flags.read(keep.bits());
    for i in (1..nr).rev() {
        // C: __split_huge_page_tail(): everything before the tail is seen as
        // a page of its own, and before its count leaves 0.
        let tail = cpu.world.frame(head.nth(i));
        tail.flags.set_all(flags);
        tail.mapping.set(f.mapping.read());
        tail.index.set(f.index.read() + i as u32);
        smp_wmb();
        tail.compound_head.set(0);
        page_ref_unfreeze(cpu, head.nth(i), 1 + cached);
        // C: lru_add_page_tail(): the list's reference is there before anybody
        // can map the tail, or give it up
        if let Some(list) = &mut list {
            get_page(cpu, head.nth(i));
            list.add_tail(head.nth(i));
        } else if lru {
            set_flag(cpu, head.nth(i), Pg::LRU);
        }
    }
    f.order.set(0);
    super::page::clear_flag(cpu, head, Pg::HEAD | Pg::PARTIALLY_MAPPED);
    page_ref_unfreeze(cpu, head, 1 + cached);
}

/// Unmaps a whole PMD-mapped THP; false if there is none any more.
/// C: zap_huge_pmd(), mm/huge_memory.c
pub(crate) fn zap_huge_pmd(cpu: &Cpu, pmdp: PmdPtr) -> bool {
    let ptl = pmd_lock(cpu, pmdp);
    let pmd = pmdp.read(cpu);
    if pmd.is_migration() {
        // The mapping's reference went when the entry was made.
        pmdp.get_and_clear(cpu);
    }
    if !pmd.trans_huge() {
        spin_unlock(cpu, ptl);
        return pmd.is_migration();
    }
    let page = pmdp.get_and_clear(cpu).pfn();
    page_remove_rmap(cpu, page, true);
    spin_unlock(cpu, ptl);
    free_page_and_swap_cache(cpu, page);
    true
}

/// Copies a huge PMD to a child at fork.
/// C: copy_huge_pmd(), mm/huge_memory.c
///
/// # Errors
/// `EAGAIN` if it was split instead, so that the caller goes on with PTEs.
pub(crate) fn copy_huge_pmd(
    cpu: &Cpu,
    dst_pmdp: PmdPtr,
    src_pmdp: PmdPtr,
    src_vma: &Vma,
) -> Result<(), Errno> {
    let dst_ptl = pmd_lock(cpu, dst_pmdp);
    let src_ptl = pmd_lock(cpu, src_pmdp);
    let unlock = || {
        spin_unlock(cpu, src_ptl);
        spin_unlock(cpu, dst_ptl);
    };
    let pmd = src_pmdp.read(cpu);
    if pmd.is_migration() {
        // Shared from now on, on both sides.
        let pmd = pmd.migration_share();
        src_pmdp.set(cpu, pmd);
        dst_pmdp.set(cpu, pmd);
        unlock();
        return Ok(());
    }
    if !pmd.trans_huge() {
        unlock();
        return Err(Errno::EAGAIN);
    }
    if share_huge_pmd(cpu, pmd.pfn(), src_vma).is_err() {
        unlock();
        split_huge_pmd(cpu, src_vma, src_pmdp);
        return Err(Errno::EAGAIN);
    }
    src_pmdp.set_wrprotect(cpu);
    dst_pmdp.set(cpu, pmd.wrprotect().mkold());
    unlock();
    Ok(())
}

/// A reference and a mapping for the child; not if the page may be pinned.
fn share_huge_pmd(cpu: &Cpu, page: Page, src_vma: &Vma) -> Result<(), Errno> {
    if cpu.since(Base::V6_12) {
        get_page(cpu, page);
        return folio_try_dup_anon_rmap(cpu, page, src_vma, true)
            .inspect_err(|_| put_page(cpu, page));
    }
    if page_needs_cow_for_dma(cpu, src_vma, page) {
        return Err(Errno::EBUSY);
    }
    get_page(cpu, page);
    page_dup_rmap(cpu, page, true);
    Ok(())
}

/// mprotect() of a whole huge PMD; false if there is none any more.
/// C: change_huge_pmd(), mm/huge_memory.c
pub(crate) fn change_huge_pmd(cpu: &Cpu, pmdp: PmdPtr, newflags: VmFlags) -> bool {
    let ptl = pmd_lock(cpu, pmdp);
    let pmd = pmdp.read(cpu);
    if pmd.trans_huge() {
        let mut entry = pmdp.invalidate(cpu).modify(newflags);
        // C: can_change_pmd_writable()
        if vma_wants_manual_pte_write_upgrade(cpu, newflags)
            && !entry.write()
            && page_anon_exclusive(cpu, entry.pfn())
        {
            entry = entry.mkwrite();
        }
        pmdp.set(cpu, entry);
    } else if pmd.is_migration() && pmd.migration_write() {
        pmdp.set(cpu, protected_migration(cpu, pmd));
    }
    spin_unlock(cpu, ptl);
    pmd.is_swap_or_trans_huge()
}

/// A writable migration entry under mprotect(): no longer writable, but what
/// was exclusive stays so where the base knows the word.
fn protected_migration(cpu: &Cpu, pmd: Pmd) -> Pmd {
    if cpu.since(Base::V6_12) { pmd.migration_wrprotect() } else { pmd.migration_share() }
}

/// Splits the THP that the caller found at an address, as debugfs's
/// split_huge_pages does.  C: split_huge_pages_pid(), mm/huge_memory.c
///
/// # Errors
/// `EBUSY` if it cannot be locked; what split_huge_page() answers; `EINVAL`
/// if it is no THP.
pub fn split_huge_page_of(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    let head = compound_head(cpu, page);
    let hugetlb = test_flag(cpu, head, Pg::HUGETLB);
    if compound_nr(cpu, head) == 1 || !page_anon(cpu, head) || hugetlb {
        return Err(Errno::EINVAL);
    }
    if !get_page_unless_gone(cpu, page, head) {
        return Err(Errno::EBUSY);
    }
    if !trylock_page(cpu, page) {
        put_page(cpu, page);
        return Err(Errno::EBUSY);
    }
    let done = split_huge_page(cpu, page);
    unlock_page(cpu, page);
    put_page(cpu, page);
    done
}
