// SPDX-License-Identifier: GPL-2.0-only
//! Reclaim of anonymous memory, and the fault that brings it back.
//!
//! Duplicated: what shrink_page_list() does with one anonymous page up to the
//! write to swap: into the swap cache, but not if it may be pinned; all
//! mappings become swap entries, which on v6.12 remember exclusivity;
//! do_swap_page() and the rules by which it may map the page writable; on v5.15
//! that it copies each page of a THP but the first, which KSM's check of
//! page->index takes for the page of another place.
//! Customised: the page that the scenario names is taken, whatever its age;
//! the write never happens, so the page stays in the swap cache; a THP that
//! finds no room in swap is left alone instead of split; the index of a tail,
//! which in the kernel is that of the frame's last use, is never the right one.
//! Stubbed: files, memory cgroups, mlock, what KSM merged.

use super::cpu::Cpu;
use super::folio::page_anon_exclusive;
use super::huge_memory::can_split_huge_page;
use super::limits::{HPAGE_PMD_NR, MAX_FRAMES, PAGE_SIZE, PMD_SIZE};
use super::lru::{isolate_lru_page, lru_add_drain, lru_cache_add, putback_lru_page};
use super::memory::{copy_highpage, cow_broken, do_wp_page};
use super::migrate::isolated_stat;
use super::mm::{Vma, mmap_read_unlock};
use super::page::{
    Page, compound_head, compound_nr, get_page_unless_gone, lock_page, page_anon, page_compound,
    page_count, page_lru, page_mapcount, page_maybe_dma_pinned, page_ref_add, put_page,
    set_page_dirty, total_mapcount, trylock_page, unlock_page,
};
use super::pgtable::{PmdPtr, Pte, PtePtr, pte_offset_map, pte_offset_map_lock, pte_unmap_unlock};
use super::rmap::{Rmap, page_add_anon_rmap, page_add_new_anon_rmap, try_to_unmap};
use super::swap::{
    SwapSlot, add_to_swap, in_swap_cache, page_swapcount, swap_cache_get_folio, swap_cache_page,
    swap_free, try_to_free_swap, try_to_reclaim_swap,
};
use super::vmstat::mod_node_page_state;
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{FaultFlag, GFP_HIGHUSER_MOVABLE, VmFault, VmFlags};
use crate::history::{Base, Defect};

/// Swaps the page out that the caller found mapped.
/// C: shrink_inactive_list(), mm/vmscan.c
///
/// # Errors
/// `EBUSY` if it cannot be isolated or unmapped, or may be pinned; `EINVAL`
/// if it is not anonymous; `ENOMEM` if there is no room in swap.
pub fn swap_out(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    let head = compound_head(cpu, page);
    if !page_anon(cpu, head) {
        return Err(Errno::EINVAL);
    }
    lru_add_drain(cpu);
    // C: isolate_lru_pages(): a reference first, for the page may go
    if !get_page_unless_gone(cpu, page, head) {
        return Err(Errno::EBUSY);
    }
    let taken = isolate_lru_page(cpu, head);
    put_page(cpu, head);
    taken?;
    let nr = compound_nr(cpu, head) as i64;
    mod_node_page_state(cpu, isolated_stat(cpu, head), nr);
    let ret = if trylock_page(cpu, head) {
        let ret = shrink_page(cpu, head);
        unlock_page(cpu, head);
        ret
    } else {
        Err(Errno::EBUSY)
    };
    mod_node_page_state(cpu, isolated_stat(cpu, head), -nr);
    putback_lru_page(cpu, head);
    ret
}

/// One locked page of shrink_page_list(), shrink_folio_list(), mm/vmscan.c
fn shrink_page(cpu: &Cpu, head: Page) -> Result<(), Errno> {
    // It may have been freed before it was isolated, and be of a file now:
    // those are not reclaimed here.
    if !page_anon(cpu, head) {
        return Err(Errno::EBUSY);
    }
    if !in_swap_cache(cpu, head) {
        // What is pinned cannot be reclaimed, and from the swap cache a fault
        // might copy it away from its pin.
        if !cpu.has(Defect::SwapOutOfPinned) && page_maybe_dma_pinned(cpu, head) {
            return Err(Errno::EBUSY);
        }
        if page_compound(cpu, head) && !can_split_huge_page(cpu, head) {
            return Err(Errno::EBUSY);
        }
        if !add_to_swap(cpu, head) {
            return Err(Errno::ENOMEM);
        }
    }
    try_to_unmap(cpu, head);
    if total_mapcount(cpu, head) == 0 { Ok(()) } else { Err(Errno::EBUSY) }
}

/// Frees what stayed in the swap cache although no swap entry names it and
/// nobody maps it: a later pass of reclaim. C: __remove_mapping(), mm/vmscan.c
pub fn shrink_swap_cache(cpu: &Cpu) {
    if cpu.world.swap.lock().in_use() == 0 {
        return;
    }
    (0..MAX_FRAMES as u16).for_each(|n| try_to_reclaim_swap(cpu, SwapSlot(n)));
}

/// A fault on a swap entry. Comes without the PTE lock.
/// C: do_swap_page(), mm/memory.c
pub(crate) fn do_swap_page(
    cpu: &Cpu,
    vma: &Vma,
    pmdp: PmdPtr,
    addr: u64,
    orig: Pte,
    mut flags: FaultFlag,
) -> VmFault {
    let at = "do_swap_page";
    let found = orig.swap_slot().and_then(|s| Some((s, swap_cache_get_folio(cpu, s)?)));
    let Some((slot, (page, head))) = found else {
        // Somebody was faster.
        return VmFault::empty();
    };
    if let Err(ret) = folio_lock_or_retry(cpu, vma, head, flags) {
        put_page(cpu, head);
        return ret;
    }
    let write = flags.contains(FaultFlag::WRITE);
    if cpu.since(Base::V6_12) && write && !page_lru(cpu, head) {
        lru_add_drain(cpu);
    }
    if swap_cache_page(cpu, slot) != Some(page) {
        release(cpu, head);
        return VmFault::empty();
    }
    let Some(mapped) = ksm_might_need_to_copy(cpu, page, head) else {
        release(cpu, head);
        return VmFault::OOM;
    };
    let copied = mapped != page;
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), addr);
    if ptep.read(cpu) != orig {
        pte_unmap_unlock(cpu, ptep, ptl);
        if copied {
            release(cpu, mapped);
        }
        release(cpu, head);
        return VmFault::empty();
    }
    let new = cpu.since(Base::V6_12);
    let stale = new && page_anon_exclusive(cpu, page);
    cpu.bug_on(stale, at, "folio_test_anon(folio) && PageAnonExclusive(page)");
    let mine = if new {
        Mine::since_v6_12(cpu, vma, pmdp, addr, orig, page, slot, write)
    } else if copied {
        Mine::copy(cpu, slot, write)
    } else {
        Mine::v5_15(cpu, page, slot, write)
    };
    let mut pte = Pte::mk(mapped, vma.flags);
    if mine.exclusive && vma.flags.contains(VmFlags::WRITE) && (new || write) {
        pte = pte.mkwrite();
        if write {
            pte = pte.mkdirty();
            flags -= FaultFlag::WRITE;
        }
    }
    mine.map(cpu, pmdp, addr, mapped, pte);
    unlock_page(cpu, mapped);
    if copied {
        release(cpu, head);
    }
    if flags.contains(FaultFlag::WRITE) {
        return do_wp_page(cpu, vma, ptep, ptl, addr, pte, flags);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
    if write { cow_broken(cpu) } else { VmFault::empty() }
}

/// What the fault is to map: the page, or a locked copy of it; `None` without
/// memory for that. A tail of a THP has no index of its own, which looks as if
/// KSM had merged it. Since 1486fb50136f (v6.8) that is asked of small pages
/// only. C: ksm_might_need_to_copy(), mm/ksm.c
fn ksm_might_need_to_copy(cpu: &Cpu, page: Page, head: Page) -> Option<Page> {
    if cpu.since(Base::V6_12) || page == head {
        return Some(page);
    }
    let new = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0)?;
    copy_highpage(cpu, new, page);
    set_page_dirty(cpu, new);
    // C: __SetPageLocked()
    trylock_page(cpu, new);
    Some(new)
}

/// Unlocks the page and gives the reference back.
fn release(cpu: &Cpu, head: Page) {
    unlock_page(cpu, head);
    put_page(cpu, head);
}

/// Locks the page, or says how the fault ends if it has to wait.
/// C: folio_lock_or_retry(), linux/pagemap.h
fn folio_lock_or_retry(cpu: &Cpu, vma: &Vma, head: Page, flags: FaultFlag) -> Result<(), VmFault> {
    if trylock_page(cpu, head) {
        return Ok(());
    }
    if flags.contains(FaultFlag::ALLOW_RETRY) && !flags.contains(FaultFlag::TRIED) {
        if !flags.contains(FaultFlag::RETRY_NOWAIT) {
            mmap_read_unlock(cpu, vma.mm);
        }
        return Err(VmFault::RETRY);
    }
    lock_page(cpu, head);
    Ok(())
}

/// How much of a page in the swap cache a fault maps, and how.
struct Mine {
    /// Nobody else maps or uses it.
    exclusive: bool,
    /// It is a copy, which nobody has seen yet.
    copied: bool,
    /// Pages before the one of the fault that are mapped, too.
    before: u64,
    /// Pages mapped in all.
    nr: u64,
}

impl Mine {
    /// The swap entry told, or the reference of the fault is the only one once
    /// the page has left the swap cache.
    #[allow(clippy::too_many_arguments)]
    fn since_v6_12(
        cpu: &Cpu,
        vma: &Vma,
        pmdp: PmdPtr,
        addr: u64,
        orig: Pte,
        page: Page,
        slot: SwapSlot,
        write: bool,
    ) -> Mine {
        let head = compound_head(cpu, page);
        let before = whole_folio(cpu, vma, pmdp, addr, orig, page);
        let (before, nr) = before.map_or((0, 1), |before| (before, compound_nr(cpu, head)));
        for i in 0..nr {
            swap_free(cpu, SwapSlot(slot.0 - before as u16 + i as u16));
        }
        // C: should_try_to_free_swap()
        if write && page_count(cpu, head) == 1 + compound_nr(cpu, head) as i32 {
            try_to_free_swap(cpu, head);
        }
        Mine {
            exclusive: orig.swp_exclusive() || page_count(cpu, head) == 1,
            copied: false,
            before,
            nr,
        }
    }

    /// The mappings and swap entries tell, on the fixed kernel the references.
    fn v5_15(cpu: &Cpu, page: Page, slot: SwapSlot, write: bool) -> Mine {
        let head = compound_head(cpu, page);
        let exclusive = if cpu.has(Defect::SwapInReusesByMapcount) {
            let reuse = write && reuse_swap_page(cpu, page);
            swap_free(cpu, slot);
            reuse
        } else {
            swap_free(cpu, slot);
            // C: should_try_to_free_swap(), v5.18
            if write && page_count(cpu, head) == 2 {
                try_to_free_swap(cpu, head);
            }
            write && page_count(cpu, head) == 1
        };
        Mine { exclusive, copied: false, before: 0, nr: 1 }
    }

    /// A copy is nobody else's; on v5.15 only a write maps it as such.
    fn copy(cpu: &Cpu, slot: SwapSlot, write: bool) -> Mine {
        swap_free(cpu, slot);
        Mine { exclusive: write, copied: true, before: 0, nr: 1 }
    }

    /// Sets the entries. The reference of the fault becomes that of a mapping.
    fn map(&self, cpu: &Cpu, pmdp: PmdPtr, addr: u64, page: Page, pte: Pte) {
        if self.nr > 1 {
            page_ref_add(cpu, compound_head(cpu, page), self.nr as i32 - 1);
        }
        let rmap = if self.exclusive { Rmap::Exclusive } else { Rmap::None };
        let first = Page(page.0 - self.before as u16);
        for i in 0..self.nr {
            if self.copied {
                page_add_new_anon_rmap(cpu, page, addr, false);
                lru_cache_add(cpu, page);
            } else {
                page_add_anon_rmap(cpu, first.nth(i), false, rmap);
            }
        }
        let pmd = pmdp.read(cpu);
        for i in 0..self.nr {
            let at = addr - self.before * PAGE_SIZE + i * PAGE_SIZE;
            pte_offset_map(pmd, at).set(cpu, pte.of_page(first.nth(i)));
        }
    }
}

/// If every page of a THP in the swap cache can be mapped at once: the number
/// of pages before this one. C: the same in do_swap_page(), v6.12
fn whole_folio(
    cpu: &Cpu,
    vma: &Vma,
    pmdp: PmdPtr,
    addr: u64,
    orig: Pte,
    page: Page,
) -> Option<u64> {
    let head = compound_head(cpu, page);
    if !page_compound(cpu, head) {
        return None;
    }
    let before = u64::from(page.0 - head.0);
    let start = (addr & !(PMD_SIZE - 1)).max(vma.start);
    let first = addr.checked_sub(before * PAGE_SIZE).filter(|&first| first >= start)?;
    if first + HPAGE_PMD_NR * PAGE_SIZE > vma.end {
        return None;
    }
    let pmd = pmdp.read(cpu);
    let entry = |i: u64| -> PtePtr { pte_offset_map(pmd, first + i * PAGE_SIZE) };
    let all = (0..HPAGE_PMD_NR)
        .all(|i| entry(i).read(cpu) == orig.move_swp_offset(i.wrapping_sub(before)));
    all.then_some(before)
}

/// Whether the mapping or swap entry of the fault is the only one; the page
/// leaves the swap cache then. References do not count.
/// C: reuse_swap_page(), mm/swapfile.c, v5.15
pub(crate) fn reuse_swap_page(cpu: &Cpu, page: Page) -> bool {
    let head = compound_head(cpu, page);
    let each = |i| page_mapcount(cpu, head.nth(i)) + page_swapcount(cpu, head.nth(i));
    let count = (0..compound_nr(cpu, head)).map(each).max().unwrap_or(0);
    let swapped = || (0..compound_nr(cpu, head)).map(|i| page_swapcount(cpu, head.nth(i))).sum();
    if count == 1 && in_swap_cache(cpu, head) {
        let total: i32 = swapped();
        if total == page_swapcount(cpu, page) {
            super::swap::delete_from_swap_cache(cpu, head);
        }
    }
    count <= 1
}
