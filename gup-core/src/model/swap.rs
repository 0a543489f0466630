// SPDX-License-Identifier: GPL-2.0-only
//! The swap cache, and the counts of swap entries.
//!
//! Duplicated: a reference for each page in the swap cache; how many swap
//! entries name a slot; when a page may leave the cache. Customised: nothing
//! is ever written out, so a page stays in the cache for as long as a swap
//! entry names it, and a fault always finds it there; slots are as many as
//! frames, and belong to one device. Stubbed: readahead, writeback, priorities.

use super::cpu::Cpu;
use super::limits::MAX_FRAMES;
use super::page::{
    Page, clear_flag, compound_head, compound_order, page_ref_add, page_ref_add_unless_zero,
    page_ref_sub, put_page, set_flag, set_page_dirty, test_flag, total_mapcount, trylock_page,
    unlock_page,
};
use super::wait::Wait;
use super::zone::{first_fit, span};
use crate::flags::Pg;

/// A place in swap: of the page that a swap entry stands for.
/// C: swp_entry_t
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SwapSlot(pub u16);

/// The slots. C: struct swap_info_struct, and its swap cache
#[derive(Clone, PartialEq, Debug)]
pub struct Swap {
    free: u128,
    /// The page of each slot in use.
    cache: [Page; MAX_FRAMES],
    /// Swap entries that name each slot. C: si->swap_map
    map: [u8; MAX_FRAMES],
}

impl Swap {
    pub(crate) fn new() -> Self {
        Swap { free: u128::MAX, cache: [Page::NULL; MAX_FRAMES], map: [0; MAX_FRAMES] }
    }
    fn slot_of(&self, page: Page) -> Option<usize> {
        let used = |n: &usize| self.free >> n & 1 == 0;
        (0..MAX_FRAMES).filter(used).find(|&n| self.cache[n] == page)
    }
    /// Slots in use.
    pub(crate) fn in_use(&self) -> u32 {
        self.free.count_zeros()
    }
    /// The page of a slot.
    pub(crate) fn page(&self, slot: SwapSlot) -> Option<Page> {
        let n = usize::from(slot.0);
        (self.free >> n & 1 == 0 && self.cache[n] != Page::NULL).then(|| self.cache[n])
    }
    /// Swap entries of every slot.
    pub(crate) fn counts(&self) -> &[u8; MAX_FRAMES] {
        &self.map
    }
}

/// C: folio_test_swapcache(), linux/page-flags.h
pub(crate) fn in_swap_cache(cpu: &Cpu, head: Page) -> bool {
    test_flag(cpu, head, Pg::SWAPCACHE)
}

/// Puts the pages of a locked head into the swap cache; false if there is no
/// room. C: add_to_swap(), mm/swap_state.c
pub(crate) fn add_to_swap(cpu: &Cpu, head: Page) -> bool {
    let order = compound_order(cpu, head);
    let Some(first) = get_swap_page(cpu, order) else { return false };
    page_ref_add(cpu, head, 1 << order);
    set_flag(cpu, head, Pg::SWAPCACHE);
    {
        let mut swap = cpu.world.swap.lock();
        for i in 0..1 << order {
            swap.cache[usize::from(first.nth(i).0)] = head.nth(i);
        }
    }
    set_page_dirty(cpu, head);
    true
}

/// Free slots, which are in use from now on. C: get_swap_page(), mm/swap_slots.c
fn get_swap_page(cpu: &Cpu, order: u32) -> Option<Page> {
    let mut swap = cpu.world.swap.lock();
    let first = first_fit(swap.free, order)?;
    swap.free &= !span(first, order);
    Some(first)
}

/// The slot of a page in the swap cache. C: page_swap_entry(), linux/swap.h
pub(crate) fn page_swap_entry(cpu: &Cpu, page: Page) -> Option<SwapSlot> {
    cpu.world.swap.lock().slot_of(page).map(|n| SwapSlot(n as u16))
}

/// The page that a swap entry stands for and its head, with a reference.
/// C: swap_cache_get_folio(), mm/swap_state.c; filemap_get_entry()
pub(crate) fn swap_cache_get_folio(cpu: &Cpu, slot: SwapSlot) -> Option<(Page, Page)> {
    loop {
        let page = swap_cache_page(cpu, slot)?;
        let head = compound_head(cpu, page);
        if !page_ref_add_unless_zero(cpu, head, 1) {
            // Gone, or frozen: then it comes back, or leaves the cache.
            let frozen = swap_cache_page(cpu, slot) == Some(page);
            if frozen && cpu.goes_on_without(Wait::Frozen(head)) {
                return None;
            }
            continue;
        }
        if swap_cache_page(cpu, slot) == Some(page) && cpu.world.head_of(page) == head {
            return Some((page, head));
        }
        put_page(cpu, head);
    }
}

/// The page that a swap entry stands for, without a reference.
pub(crate) fn swap_cache_page(cpu: &Cpu, slot: SwapSlot) -> Option<Page> {
    cpu.world.swap.lock().page(slot)
}

/// One more swap entry. C: swap_duplicate(), mm/swapfile.c
pub(crate) fn swap_duplicate(cpu: &Cpu, slot: SwapSlot) {
    cpu.world.swap.lock().map[usize::from(slot.0)] += 1;
}

/// One swap entry less. C: swap_free(), mm/swapfile.c
pub(crate) fn swap_free(cpu: &Cpu, slot: SwapSlot) {
    let count = cpu.world.swap.lock().map[usize::from(slot.0)];
    if !cpu.bug_on(count == 0, "swap_free", "Unused swap offset entry") {
        let mut swap = cpu.world.swap.lock();
        let n = usize::from(slot.0);
        swap.map[n] = count - 1;
        if count == 1 && swap.cache[n] == Page::NULL {
            swap.free |= 1 << n;
        }
    }
}

/// Swap entries that name the page. C: page_swapcount(), mm/swapfile.c
pub(crate) fn page_swapcount(cpu: &Cpu, page: Page) -> i32 {
    let swap = cpu.world.swap.lock();
    swap.slot_of(page).map_or(0, |n| swap.map[n].into())
}

/// Takes the pages of a locked head out of the swap cache, unless a swap entry
/// names one of them. C: try_to_free_swap(), folio_free_swap(), mm/swapfile.c
#[doc(alias = "folio_free_swap")]
pub(crate) fn try_to_free_swap(cpu: &Cpu, head: Page) -> bool {
    let nr = 1u64 << compound_order(cpu, head);
    if !in_swap_cache(cpu, head) || (0..nr).any(|i| page_swapcount(cpu, head.nth(i)) > 0) {
        return false;
    }
    delete_from_swap_cache(cpu, head);
    true
}

/// Takes the pages of a locked head out of the swap cache; a slot that a swap
/// entry still names is given up with its last.
/// C: delete_from_swap_cache(), mm/swap_state.c
pub(crate) fn delete_from_swap_cache(cpu: &Cpu, head: Page) {
    let nr = 1u64 << compound_order(cpu, head);
    {
        let mut swap = cpu.world.swap.lock();
        for i in 0..nr {
            if let Some(n) = swap.slot_of(head.nth(i)) {
                swap.cache[n] = Page::NULL;
                if swap.map[n] == 0 {
                    swap.free |= 1 << n;
                }
            }
        }
    }
    clear_flag(cpu, head, Pg::SWAPCACHE);
    page_ref_sub(cpu, head, nr as i32);
    set_page_dirty(cpu, head);
}

/// The same for a page that lost a mapping: only if nobody maps it any more.
/// C: free_swap_cache(), mm/swap_state.c
pub(crate) fn free_swap_cache(cpu: &Cpu, page: Page) {
    let head = compound_head(cpu, page);
    if in_swap_cache(cpu, head) && total_mapcount(cpu, head) == 0 && trylock_page(cpu, head) {
        try_to_free_swap(cpu, head);
        unlock_page(cpu, head);
    }
}

/// Gives a reference back that a mapping held.
/// C: free_page_and_swap_cache(), mm/swap_state.c
pub(crate) fn free_page_and_swap_cache(cpu: &Cpu, page: Page) {
    free_swap_cache(cpu, page);
    put_page(cpu, page);
}

/// A swap entry is unmapped. C: free_swap_and_cache(), mm/swapfile.c
pub(crate) fn free_swap_and_cache(cpu: &Cpu, slot: SwapSlot) {
    swap_free(cpu, slot);
    try_to_reclaim_swap(cpu, slot);
}

/// Takes the page of a slot out of the swap cache if nobody maps it and no
/// swap entry names it. C: __try_to_reclaim_swap(), mm/swapfile.c
pub(crate) fn try_to_reclaim_swap(cpu: &Cpu, slot: SwapSlot) {
    if let Some((_, head)) = swap_cache_get_folio(cpu, slot) {
        free_swap_cache(cpu, head);
        put_page(cpu, head);
    }
}

/// Moves the place in the swap cache from a page to the one that replaces it.
pub(crate) fn replace_swap_cache(cpu: &Cpu, head: Page, new: Page, nr: u64) {
    let mut swap = cpu.world.swap.lock();
    for i in 0..nr {
        if let Some(n) = swap.slot_of(head.nth(i)) {
            swap.cache[n] = new.nth(i);
        }
    }
}
