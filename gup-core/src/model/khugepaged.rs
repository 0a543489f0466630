// SPDX-License-Identifier: GPL-2.0-only
//! The collapse of small pages into a THP.
//!
//! The phases of collapse_huge_page() are functions of their own, as other
//! CPUs may come in between:
//!
//! | phase | does |
//! |---|---|
//! | [`start`] | allocates the THP; mmap_lock for writing from here on |
//! | [`clear_pmd`] | takes the page table out; waits for GUP-fast |
//! | [`__collapse_huge_page_isolate`] | locks and isolates the pages, unless somebody holds a reference |
//! | [`__collapse_huge_page_copy`] | copies the contents |
//! | [`__collapse_huge_page_copy_succeeded`] | unmaps and gives back the old pages |
//! | [`install`] | maps the THP |
//!
//! Duplicated: all of that, and who is refused. GUP-fast walks without locks:
//! it must see that the PMD has gone (70cbc3cc78a9), or be waited for
//! (2ba99c5e0881). Customised: on v5.15 TLBs are flushed by interrupts, as on
//! x86 without a hypervisor, which waits for GUP-fast by itself; on v6.12 they
//! are not, as on arm64. What khugepaged counts and weighs is left out but for
//! its limit of shared pages: the pages were looked at often enough. On v6.12
//! it is madvise(MADV_COLLAPSE), which has no limits and needs no
//! MADV_HUGEPAGE. Stubbed: files, memory cgroups, poisoned pages.

use super::cpu::Cpu;
use super::huge_memory::{pmd_suitable, wants_thp};
use super::limits::{HPAGE_PMD_NR, HPAGE_PMD_ORDER, PAGE_SIZE, PMD_SIZE};
use super::lru::{
    isolate_lru_page, lru_add_drain, lru_add_drain_all, lru_cache_add, putback_lru_page,
};
use super::memory::{copy_highpage, vm_normal_page};
use super::migrate::{PageList, isolated_stat};
use super::mm::{
    MmId, Vma, mmap_read_lock, mmap_read_unlock, mmap_write_lock, mmap_write_unlock, vma_lookup,
};
use super::page::{
    Page, compound_head, is_zero_page, page_anon, page_compound, page_count, page_lru,
    page_mapcount, put_page, test_flag, thp_nr_pages, total_mapcount, trylock_page, unlock_page,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, mm_find_pmd, pgtable_trans_huge_deposit, pmd_lock, pte_offset_map,
    pte_offset_map_lock, pte_unmap_unlock, spin_unlock, tlb_remove_table_sync,
};
use super::reclaim::do_swap_page;
use super::rmap::{page_add_new_anon_rmap, page_remove_rmap, rmap_lock_write, rmap_unlock_write};
use super::swap::{free_page_and_swap_cache, free_swap_cache};
use super::vmstat::mod_node_page_state;
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{FaultFlag, GFP_HIGHUSER_MOVABLE, Gfp, Pg, VmFault};
use crate::history::{Base, Defect};

/// Pages with further mappings that khugepaged puts up with.
/// C: khugepaged_max_ptes_shared
const MAX_PTES_SHARED: u64 = HPAGE_PMD_NR / 2;
/// Pages in swap likewise. C: khugepaged_max_ptes_swap
const MAX_PTES_SWAP: u64 = HPAGE_PMD_NR / 8;

/// A collapse that has begun. mmap_lock is held for writing.
#[derive(Debug)]
pub struct Collapse {
    vma: Vma,
    address: u64,
    pmdp: PmdPtr,
    /// The page table that maps the small pages.
    table: Pmd,
    new: Page,
    compound_pagelist: PageList,
}

/// Collapses the small pages around `address` into a THP.
/// C: madvise_collapse(), khugepaged_scan_mm_slot(), mm/khugepaged.c
///
/// # Errors
/// `EAGAIN` if a page is in use by others, `EINVAL` if there is nothing to
/// collapse, `EBUSY` if too many pages are shared, `ENOMEM`.
pub fn collapse(cpu: &Cpu, mm: MmId, address: u64) -> Result<(), Errno> {
    let address = address & !(PMD_SIZE - 1);
    lru_add_drain_all(cpu);
    mmap_read_lock(cpu, mm);
    let wanted = hpage_collapse_scan_pmd(cpu, mm, address);
    mmap_read_unlock(cpu, mm);
    if !wanted? {
        return Ok(());
    }
    collapse_huge_page(cpu, mm, address)
}

/// C: collapse_huge_page(), mm/khugepaged.c
fn collapse_huge_page(cpu: &Cpu, mm: MmId, address: u64) -> Result<(), Errno> {
    let mut c = start(cpu, mm, address)?;
    clear_pmd(cpu, &mut c);
    __collapse_huge_page_isolate(cpu, &mut c).inspect_err(|_| give_up(cpu, &c))?;
    __collapse_huge_page_copy(cpu, &c);
    __collapse_huge_page_copy_succeeded(cpu, &c);
    install(cpu, &c);
    Ok(())
}

/// The VMA, if a THP fits there and is wanted.
/// C: hugepage_vma_revalidate(), mm/khugepaged.c
fn hugepage_vma_revalidate(cpu: &Cpu, mm: MmId, address: u64) -> Result<Vma, Errno> {
    let vma = vma_lookup(cpu, mm, address).ok_or(Errno::EINVAL)?;
    let fits = if cpu.since(Base::V6_12) {
        vma.is_anonymous() && pmd_suitable(&vma, address)
    } else {
        wants_thp(&vma, address)
    };
    if fits { Ok(vma) } else { Err(Errno::EINVAL) }
}

/// The PMD slot that points to a table of small pages; `None` if a THP is
/// mapped already. C: find_pmd_or_thp_or_none(), mm/khugepaged.c
fn find_pmd_or_thp_or_none(cpu: &Cpu, mm: MmId, address: u64) -> Result<Option<PmdPtr>, Errno> {
    let pmdp = mm_find_pmd(cpu, mm, address).ok_or(Errno::EINVAL)?;
    let pmd = pmdp.read(cpu);
    if pmd.trans_huge() {
        return Ok(None);
    }
    if pmd.bad() { Err(Errno::EINVAL) } else { Ok(Some(pmdp)) }
}

/// Whether a collapse is likely to succeed, and not done already. mmap_lock is
/// held for reading. C: hpage_collapse_scan_pmd(), mm/khugepaged.c
#[doc(alias = "khugepaged_scan_pmd")]
fn hpage_collapse_scan_pmd(cpu: &Cpu, mm: MmId, address: u64) -> Result<bool, Errno> {
    let vma = hugepage_vma_revalidate(cpu, mm, address)?;
    let Some(pmdp) = find_pmd_or_thp_or_none(cpu, mm, address)? else { return Ok(false) };
    let (first, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), address);
    let ret = scan_ptes(cpu, &vma, first);
    pte_unmap_unlock(cpu, first, ptl);
    ret.map(|()| true)
}

fn scan_ptes(cpu: &Cpu, vma: &Vma, mut ptep: PtePtr) -> Result<(), Errno> {
    let (mut writable, mut shared, mut swapped) = (false, 0, 0);
    for i in 0..HPAGE_PMD_NR {
        let pte = ptep.read(cpu);
        if pte.swap_slot().is_some() {
            swapped += 1;
            if !cpu.since(Base::V6_12) && swapped > MAX_PTES_SWAP {
                return Err(Errno::EBUSY);
            }
        } else if !pte_none_or_zero(cpu, pte) {
            let page = suitable_page(cpu, vma, pte)?;
            count_shared(cpu, page, &mut shared)?;
            writable |= pte.write();
            let head = compound_head(cpu, page);
            let busy = !page_lru(cpu, head) || test_flag(cpu, head, Pg::LOCKED);
            if busy || !is_refcount_suitable(cpu, head) {
                return Err(Errno::EAGAIN);
            }
        }
        if i + 1 < HPAGE_PMD_NR {
            ptep = ptep.next();
        }
    }
    if writable { Ok(()) } else { Err(Errno::EINVAL) }
}

/// C: pte_none_or_zero(), mm/khugepaged.c
fn pte_none_or_zero(cpu: &Cpu, pte: Pte) -> bool {
    pte.none() || (pte.present() && is_zero_page(cpu, pte.pfn()))
}

/// The anonymous page behind an entry.
fn suitable_page(cpu: &Cpu, vma: &Vma, pte: Pte) -> Result<Page, Errno> {
    if !pte.present() {
        return Err(Errno::EINVAL);
    }
    let page = vm_normal_page(cpu, vma, 0, pte).ok_or(Errno::EINVAL)?;
    if page_anon(cpu, page) { Ok(page) } else { Err(Errno::EINVAL) }
}

fn count_shared(cpu: &Cpu, page: Page, shared: &mut u64) -> Result<(), Errno> {
    if !cpu.since(Base::V6_12) && page_mapcount(cpu, page) > 1 {
        *shared += 1;
        if *shared > MAX_PTES_SHARED {
            return Err(Errno::EBUSY);
        }
    }
    Ok(())
}

/// Whether every reference on a head is one that mappings or the swap cache
/// explain. C: is_refcount_suitable(), mm/khugepaged.c
fn is_refcount_suitable(cpu: &Cpu, head: Page) -> bool {
    let mut expected = total_mapcount(cpu, head);
    if test_flag(cpu, head, Pg::SWAPCACHE) {
        expected += thp_nr_pages(cpu, head) as i32;
    }
    page_count(cpu, head) == expected
}

/// Allocates the THP and takes mmap_lock for writing.
/// C: the beginning of collapse_huge_page(), mm/khugepaged.c
///
/// # Errors
/// As [`collapse`]; the lock is not held then.
pub fn start(cpu: &Cpu, mm: MmId, address: u64) -> Result<Collapse, Errno> {
    let gfp = GFP_HIGHUSER_MOVABLE | Gfp::COMP;
    let new = alloc_pages(cpu, gfp, HPAGE_PMD_ORDER).ok_or(Errno::ENOMEM)?;
    mmap_read_lock(cpu, mm);
    if let Err(e) = __collapse_huge_page_swapin(cpu, mm, address) {
        put_page(cpu, new);
        return Err(e);
    }
    mmap_read_unlock(cpu, mm);
    mmap_write_lock(cpu, mm);
    let found = hugepage_vma_revalidate(cpu, mm, address).and_then(|vma| {
        let pmdp = find_pmd_or_thp_or_none(cpu, mm, address)?.ok_or(Errno::EINVAL)?;
        Ok((vma, pmdp))
    });
    match found {
        Ok((vma, pmdp)) => {
            let (table, compound_pagelist) = (Pmd(0), PageList::new());
            Ok(Collapse { vma, address, pmdp, table, new, compound_pagelist })
        }
        Err(e) => {
            mmap_write_unlock(cpu, mm);
            put_page(cpu, new);
            Err(e)
        }
    }
}

/// Brings pages back that are in swap. mmap_lock is held for reading, and
/// released if this fails. C: __collapse_huge_page_swapin(), mm/khugepaged.c
fn __collapse_huge_page_swapin(cpu: &Cpu, mm: MmId, address: u64) -> Result<(), Errno> {
    let found = hugepage_vma_revalidate(cpu, mm, address)
        .and_then(|vma| Ok((vma, find_pmd_or_thp_or_none(cpu, mm, address)?)));
    let (vma, pmdp) = match found {
        Ok((vma, Some(pmdp))) => (vma, pmdp),
        _ => {
            mmap_read_unlock(cpu, mm);
            return Err(Errno::EINVAL);
        }
    };
    let mut swapped_in = false;
    for addr in (address..address + PMD_SIZE).step_by(PAGE_SIZE as usize) {
        let pte = pte_offset_map(pmdp.read(cpu), addr).read(cpu);
        if pte.swap_slot().is_none() {
            continue;
        }
        let ret = do_swap_page(cpu, &vma, pmdp, addr, pte, FaultFlag::ALLOW_RETRY);
        if ret.contains(VmFault::RETRY) {
            return Err(Errno::EAGAIN);
        }
        swapped_in = true;
    }
    if swapped_in {
        lru_add_drain(cpu);
    }
    Ok(())
}

/// Takes the page table out of the tree. Whoever walks it without a lock has
/// begun before, and is waited for. C: pmdp_collapse_flush(),
/// tlb_remove_table_sync_one()
pub fn clear_pmd(cpu: &Cpu, c: &mut Collapse) {
    rmap_lock_write(cpu, None);
    let ptl = pmd_lock(cpu, c.pmdp);
    c.table = c.pmdp.get_and_clear(cpu);
    spin_unlock(cpu, ptl);
    if !cpu.has(Defect::CollapseWithoutIpi) {
        tlb_remove_table_sync(cpu);
    }
}

/// Locks and isolates every page.
/// C: __collapse_huge_page_isolate(), mm/khugepaged.c
///
/// # Errors
/// As [`collapse`]; no page is isolated then.
pub fn __collapse_huge_page_isolate(cpu: &Cpu, c: &mut Collapse) -> Result<(), Errno> {
    let (first, ptl) = pte_offset_map_lock(cpu, c.table, c.address);
    let (mut writable, mut shared) = (false, 0);
    let mut ret = Ok(());
    let mut done = 0;
    for ptep in ptes(c) {
        let pte = ptep.read(cpu);
        if !pte_none_or_zero(cpu, pte) {
            ret = isolate_page(cpu, c, pte, &mut shared);
            writable |= pte.write();
        }
        if ret.is_err() {
            break;
        }
        done += 1;
    }
    if ret.is_ok() && !writable {
        ret = Err(Errno::EINVAL);
    }
    if ret.is_err() {
        release_pte_pages(cpu, c, done);
    }
    pte_unmap_unlock(cpu, first, ptl);
    // Every page is locked and isolated, or the table comes back.
    rmap_unlock_write(cpu, None);
    ret
}

/// The entries of the table.
fn ptes(c: &Collapse) -> impl Iterator<Item = PtePtr> + use<> {
    let (table, address) = (c.table, c.address);
    (0..HPAGE_PMD_NR).map(move |i| pte_offset_map(table, address + i * PAGE_SIZE))
}

fn isolate_page(cpu: &Cpu, c: &mut Collapse, pte: Pte, shared: &mut u64) -> Result<(), Errno> {
    let page = suitable_page(cpu, &c.vma, pte)?;
    count_shared(cpu, page, shared)?;
    let head = compound_head(cpu, page);
    let large = page_compound(cpu, head);
    if large && c.compound_pagelist.as_slice().contains(&head) {
        return Ok(());
    }
    if !trylock_page(cpu, head) {
        return Err(Errno::EAGAIN);
    }
    // Who holds a reference now has one for good: the page table is out of
    // reach, and other processes can only copy.
    if !is_refcount_suitable(cpu, head) || isolate_lru_page(cpu, head).is_err() {
        unlock_page(cpu, head);
        return Err(Errno::EAGAIN);
    }
    mod_node_page_state(cpu, isolated_stat(cpu, head), thp_nr_pages(cpu, head) as i64);
    if large {
        c.compound_pagelist.add_tail(head);
    }
    Ok(())
}

/// C: release_pte_folio(), mm/khugepaged.c
fn release_pte_page(cpu: &Cpu, head: Page) {
    mod_node_page_state(cpu, isolated_stat(cpu, head), -(thp_nr_pages(cpu, head) as i64));
    unlock_page(cpu, head);
    putback_lru_page(cpu, head);
}

/// Gives back what the first `done` entries map.
/// C: release_pte_pages(), mm/khugepaged.c
fn release_pte_pages(cpu: &Cpu, c: &Collapse, done: usize) {
    for ptep in ptes(c).take(done) {
        let pte = ptep.read(cpu);
        if !pte_none_or_zero(cpu, pte) && !page_compound(cpu, pte.pfn()) {
            release_pte_page(cpu, pte.pfn());
        }
    }
    for &head in c.compound_pagelist.as_slice() {
        release_pte_page(cpu, head);
    }
}

/// Puts the page table back and ends the collapse.
/// C: the error path of collapse_huge_page(), mm/khugepaged.c
pub fn give_up(cpu: &Cpu, c: &Collapse) {
    let ptl = pmd_lock(cpu, c.pmdp);
    c.pmdp.set(cpu, c.table);
    spin_unlock(cpu, ptl);
    mmap_write_unlock(cpu, c.vma.mm);
    put_page(cpu, c.new);
}

/// Copies the contents; what is not mapped stays zero.
/// C: __collapse_huge_page_copy(), mm/khugepaged.c
pub fn __collapse_huge_page_copy(cpu: &Cpu, c: &Collapse) {
    for (i, ptep) in (0..).zip(ptes(c)) {
        let pte = ptep.read(cpu);
        if !pte_none_or_zero(cpu, pte) {
            copy_highpage(cpu, c.new.nth(i), pte.pfn());
        }
    }
}

/// Clears the entries and gives the old pages back.
/// C: __collapse_huge_page_copy_succeeded(), mm/khugepaged.c
pub fn __collapse_huge_page_copy_succeeded(cpu: &Cpu, c: &Collapse) {
    for (i, ptep) in (0..).zip(ptes(c)) {
        let pte = ptep.read(cpu);
        if pte.none() {
            continue;
        }
        let zero = pte_none_or_zero(cpu, pte);
        let page = pte.pfn();
        if !zero && !page_compound(cpu, page) {
            release_pte_page(cpu, page);
        }
        let (ptep, ptl) = pte_offset_map_lock(cpu, c.table, c.address + i * PAGE_SIZE);
        ptep.get_and_clear(cpu);
        if !zero {
            page_remove_rmap(cpu, page, false);
        }
        pte_unmap_unlock(cpu, ptep, ptl);
        if !zero {
            free_page_and_swap_cache(cpu, page);
        }
    }
    for &head in c.compound_pagelist.as_slice() {
        // C: the same as release_pte_page(), with the swap cache in between
        mod_node_page_state(cpu, isolated_stat(cpu, head), -(thp_nr_pages(cpu, head) as i64));
        unlock_page(cpu, head);
        free_swap_cache(cpu, head);
        putback_lru_page(cpu, head);
    }
}

/// Maps the THP and ends the collapse.
/// C: the end of collapse_huge_page(), mm/khugepaged.c
pub fn install(cpu: &Cpu, c: &Collapse) {
    let pmd = Pmd::mk_huge(c.new, c.vma.flags).mkdirty().maybe_mkwrite(c.vma.flags);
    let ptl = pmd_lock(cpu, c.pmdp);
    cpu.bug_on(!c.pmdp.read(cpu).none(), "collapse_huge_page", "!pmd_none(*pmd)");
    page_add_new_anon_rmap(cpu, c.new, c.address, true);
    lru_cache_add(cpu, c.new);
    pgtable_trans_huge_deposit(cpu, c.table);
    c.pmdp.set(cpu, pmd);
    spin_unlock(cpu, ptl);
    mmap_write_unlock(cpu, c.vma.mm);
}
