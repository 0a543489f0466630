// SPDX-License-Identifier: GPL-2.0-only
//! The page allocator.
//!
//! Duplicated: which memory an allocation may come from (ZONE_MOVABLE and CMA
//! pageblocks only for __GFP_MOVABLE, isolated pageblocks for nobody,
//! PF_MEMALLOC_PIN takes __GFP_MOVABLE away); the bad-page checks at free.
//! Customised: no buddy lists but a bitmap, lowest fitting frame first, so
//! that a freed frame is soon used again; which of the allowed places is tried
//! first is a setting of the scenario ([`Prefer`]), as it depends on the load
//! of a real machine. Stubbed: reclaim, compaction on allocation, watermarks,
//! per-CPU free lists, NUMA nodes.

use super::cpu::{Cpu, Event, FailSite, TaskFlags};
use super::folio::Migratetype;
use super::hugetlb::is_hugetlb;
use super::limits::{Limits, MAX_FRAMES, PAGEBLOCK_ORDER};
use super::lru;
use super::page::{
    Mapping, Page, compound_head, page_lru, page_ref_count, pages_of, prep_compound_page,
    set_page_count,
};
use super::world::World;
use crate::errno::Errno;
use crate::flags::{Gfp, Pg};
use crate::history::Defect;
use crate::step::StepKind;

/// Where a movable allocation is served from first.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, Default)]
pub enum Prefer {
    /// ZONE_MOVABLE, then CMA, then the rest: an idle machine.
    #[default]
    Movable,
    /// CMA pageblocks, then ZONE_MOVABLE, then the rest.
    Cma,
    /// Unmovable memory first: ZONE_MOVABLE is full.
    Normal,
}

impl Prefer {
    /// Every setting.
    pub const ALL: &'static [Prefer] = &[Prefer::Movable, Prefer::Cma, Prefer::Normal];
    /// Its name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            Prefer::Movable => "movable",
            Prefer::Cma => "cma",
            Prefer::Normal => "normal",
        }
    }
}

/// Where a page lies, as reports say it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Place {
    /// ZONE_NORMAL, an ordinary pageblock.
    Normal,
    /// ZONE_NORMAL, a CMA pageblock.
    Cma,
    /// ZONE_MOVABLE.
    Movable,
    /// ZONE_DEVICE.
    Device,
}

impl Place {
    /// Its name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Place::Normal => "Normal",
            Place::Cma => "CMA",
            Place::Movable => "Movable",
            Place::Device => "Device",
        }
    }
}

/// The free frames and the state of the pageblocks.
#[derive(Clone, PartialEq, Debug)]
pub struct Zone {
    pub(crate) free: u128,
    pub(crate) prefer: Prefer,
    normal: u128,
    cma: u128,
    movable: u128,
}

fn frames(from: u16, to: u16) -> u128 {
    let below = |n: u16| if usize::from(n) >= MAX_FRAMES { u128::MAX } else { (1u128 << n) - 1 };
    below(to) & !below(from)
}

impl Zone {
    pub(crate) fn new(l: &Limits) -> Self {
        let cma = frames(l.cma.0, l.cma.1);
        let normal = frames(0, l.movable_start) & !cma;
        let movable = frames(l.movable_start, l.device_start);
        // Frame 0 is the zero page.
        Zone {
            free: (normal | cma | movable) & !1,
            prefer: Prefer::default(),
            normal,
            cma,
            movable,
        }
    }

    fn take(&mut self, isolated: u128, gfp: Gfp, order: u32) -> Option<Page> {
        let (n, c, m) = (self.normal, self.cma, self.movable);
        let places = match self.prefer {
            _ if !gfp.contains(Gfp::MOVABLE) => [n, 0, 0],
            Prefer::Movable => [m, c, n],
            Prefer::Cma => [c, m, n],
            Prefer::Normal => [n, m, c],
        };
        for place in places {
            let first = first_fit(self.free & place & !isolated, order);
            if let Some(page) = first {
                self.free &= !span(page, order);
                return Some(page);
            }
        }
        None
    }
}

/// The lowest naturally aligned run of 2^order frames.
pub(crate) fn first_fit(mut free: u128, order: u32) -> Option<Page> {
    // After step k a bit says that 2^(k+1) frames from it on are free.
    for k in 0..order {
        free &= free >> (1 << k);
    }
    let aligned = match order {
        0 => u128::MAX,
        1 => u128::MAX / 0x3,
        2 => u128::MAX / 0xf,
        3 => u128::MAX / 0xff,
        _ => u128::MAX / 0xffff,
    };
    let n = (free & aligned).trailing_zeros();
    (n < 128).then_some(Page(n as u16))
}

/// The frames of the 2^order pages from `page`.
pub(crate) fn span(page: Page, order: u32) -> u128 {
    frames(page.0, page.0 + (1 << order))
}

/// C: is_zone_movable_page(), linux/mmzone.h
#[inline]
pub fn is_zone_movable_page(world: &World, page: Page) -> bool {
    (world.limits.movable_start..world.limits.device_start).contains(&page.0)
}

/// The type of a page's pageblock, which has one: while it is isolated it is
/// not CMA. C: get_pageblock_migratetype(), linux/mmzone.h
#[inline]
pub(crate) fn get_pageblock_migratetype(world: &World, page: Page) -> Migratetype {
    let (from, to) = world.limits.cma;
    if is_migrate_isolate_page(world, page) {
        Migratetype::Isolate
    } else if (from..to).contains(&page.0) {
        Migratetype::Cma
    } else {
        Migratetype::Other
    }
}

/// C: is_migrate_isolate_page(), linux/page-isolation.h
#[inline]
pub fn is_migrate_isolate_page(world: &World, page: Page) -> bool {
    // A wild page has no pageblock.
    let block = 1u32.checked_shl(u32::from(page.0 >> PAGEBLOCK_ORDER));
    block.is_some_and(|block| world.isolated_blocks.test(block))
}

/// Whether a longterm pin may not leave the page where it is: a look from
/// outside, no step.
pub fn must_move(world: &World, page: Page) -> bool {
    let kept = matches!(place(world, page), Place::Movable | Place::Cma);
    page != world.zero_page() && (kept || is_migrate_isolate_page(world, page))
}

fn isolated_frames(world: &World) -> u128 {
    let blocks = world.isolated_blocks.read(u32::MAX);
    if blocks == 0 {
        return 0;
    }
    (0..nr_pageblocks(world)).filter(|b| blocks >> b & 1 != 0).map(block_frames).sum()
}

/// Where the page lies.
pub fn place(world: &World, page: Page) -> Place {
    let (from, to) = world.limits.cma;
    if page.0 >= world.limits.device_start {
        Place::Device
    } else if page.0 >= world.limits.movable_start {
        Place::Movable
    } else if (from..to).contains(&page.0) {
        Place::Cma
    } else {
        Place::Normal
    }
}

/// Gives all pageblocks back to the allocator and forgets the preference.
pub fn reset_placement(cpu: &Cpu) {
    cpu.world.isolated_blocks.set_all(0);
    set_preference(cpu, Prefer::default());
}

/// Chooses where movable allocations are served from first.
pub fn set_preference(cpu: &Cpu, prefer: Prefer) {
    cpu.world.zone.lock().prefer = prefer;
}

/// Pageblocks of the world.
pub fn nr_pageblocks(world: &World) -> u16 {
    world.limits.device_start >> PAGEBLOCK_ORDER
}

/// Takes a pageblock from the allocator, as the start of CMA allocation and
/// of memory offlining do. C: set_migratetype_isolate(), mm/page_isolation.c
///
/// # Errors
/// `EBUSY` if it is isolated already, or if a page in it could never be moved
/// away.
pub fn set_migratetype_isolate(cpu: &Cpu, block: u16) -> Result<(), Errno> {
    let isolated = cpu.world.isolated_blocks.test(1 << block);
    if isolated || pages_of(block_frames(block)).any(|p| is_unmovable(cpu, p)) {
        return Err(Errno::EBUSY);
    }
    cpu.world.isolated_blocks.set(1 << block);
    Ok(())
}

/// In use, and neither on the LRU, nor of hugetlbfs, nor in memory that only
/// takes movable pages. C: has_unmovable_pages(), mm/page_isolation.c
fn is_unmovable(cpu: &Cpu, page: Page) -> bool {
    let head = compound_head(cpu, page);
    place(cpu.world, page) == Place::Normal
        && page_ref_count(cpu, head) != 0
        && !page_lru(cpu, head)
        && !is_hugetlb(cpu, head)
}

/// C: unset_migratetype_isolate(), mm/page_isolation.c
pub fn unset_migratetype_isolate(cpu: &Cpu, block: u16) {
    cpu.world.isolated_blocks.clear(1 << block);
}

fn block_frames(block: u16) -> u128 {
    frames(block << PAGEBLOCK_ORDER, (block + 1) << PAGEBLOCK_ORDER)
}

/// 2^order pages with one reference, contents zero; `None` and an event if
/// there are none. C: alloc_pages(), mm/mempolicy.c
pub fn alloc_pages(cpu: &Cpu, gfp: Gfp, order: u32) -> Option<Page> {
    // C: current_gfp_context(), linux/sched/mm.h
    let pinning = cpu.flags.get().contains(TaskFlags::MEMALLOC_PIN);
    let gfp = if pinning { gfp - Gfp::MOVABLE } else { gfp };
    let page = if cpu.should_fail(FailSite::Alloc) {
        None
    } else {
        cpu.world.zone.lock().take(isolated_frames(cpu.world), gfp, order)
    };
    let Some(page) = page else {
        cpu.event(Event::ALLOC_FAILED);
        return None;
    };
    cpu.step(StepKind::Alloc, page.0.into(), order.into());
    // C: prep_new_page(), mm/page_alloc.c
    for i in 0..1 << order {
        let f = cpu.world.frame(page.nth(i));
        f.epoch.set(f.epoch.read().wrapping_add(1));
        f.data.set(0);
    }
    let early = cpu.has(Defect::CountBeforeCompound);
    if early {
        set_page_count(cpu, page, 1);
    }
    if order > 0 && gfp.contains(Gfp::COMP) {
        prep_compound_page(cpu, page, order);
    }
    if !early {
        set_page_count(cpu, page, 1);
    }
    Some(page)
}

/// Frees a page whose last reference is gone. C: __put_page(), mm/swap.c
pub(crate) fn __put_page(cpu: &Cpu, page: Page) {
    lru::__page_cache_release(cpu, page);
    free_pages(cpu, page);
}

/// C: free_pages_prepare() and __free_pages_ok(), mm/page_alloc.c
fn free_pages(cpu: &Cpu, page: Page) {
    let f = cpu.world.frame(page);
    let is_head = f.flags.test(Pg::HEAD.bits());
    let order = if is_head { f.order.read() as u32 } else { 0 };
    cpu.step(StepKind::Free, page.0.into(), order.into());
    if check_free_page(cpu, page, order) {
        // A bad page is not given back. C: bad_page(), mm/page_alloc.c
        return;
    }
    f.flags.set_all(0);
    f.order.set(0);
    f.mapping.set(Mapping::None.word());
    for i in 1..1 << order {
        let tail = cpu.world.frame(page.nth(i));
        tail.compound_head.set(0);
        tail.flags.set_all(0);
    }
    cpu.world.zone.commute(|zone| zone.free |= span(page, order));
}

/// C: free_page_is_bad(), mm/page_alloc.c
fn check_free_page(cpu: &Cpu, page: Page, order: u32) -> bool {
    let at = "free_pages_prepare";
    let f = cpu.world.frame(page);
    let mapped = (0..1 << order).any(|i| cpu.world.frame(page.nth(i)).mapcount.peek() != 0);
    let stray = (1..1 << order).any(|i| cpu.world.frame(page.nth(i)).refcount.peek() != 0);
    let bad_flags = f.flags.peek((Pg::LRU | Pg::LOCKED | Pg::RESERVED).bits());
    cpu.bug_on(mapped, at, "Bad page state: nonzero mapcount")
        | cpu.bug_on(
            f.compound_mapcount.peek() != 0,
            at,
            "Bad page state: nonzero compound_mapcount",
        )
        | cpu.bug_on(f.pincount.peek() != 0, at, "Bad page state: nonzero compound_pincount")
        | cpu.bug_on(stray, at, "Bad page state: nonzero _refcount of a tail")
        | cpu.bug_on(bad_flags != 0, at, "Bad page state: PAGE_FLAGS_CHECK_AT_FREE")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_is_found_only_where_all_its_frames_are_free_and_aligned() {
        assert_eq!(first_fit(0b1111_0110, 1), Some(Page(4)));
        assert_eq!(first_fit(0b1111_0110, 2), Some(Page(4)));
        assert_eq!(first_fit(0b0111_1110, 2), None);
        assert_eq!(first_fit(0xff00 | 0x7f, 3), Some(Page(8)));
        assert_eq!(first_fit(u128::MAX << 120, 3), Some(Page(120)));
        assert_eq!(first_fit(0, 0), None);
    }
}
