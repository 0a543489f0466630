// SPDX-License-Identifier: GPL-2.0-only
//! What holds in a world at rest, whatever happened before.
//!
//! Pure predicates, used by the fuzzing oracles after an op and by the loom
//! tests after all threads have ended. "At rest" means that no op is in the
//! middle: no lock is held, no page is isolated.

use std::fmt;

use crate::flags::Pg;
use crate::history::{Base, Kernel};
use crate::model::filemap::File;
use crate::model::limits::{MAX_FRAMES, PAGE_SIZE, TASK_PAGES};
use crate::model::mm::{MmId, mm_alive, mmap_lock_holders, vma_lookup};
use crate::model::page::{GUP_PIN_COUNTING_BIAS, Page};
use crate::model::pgtable::{Leaf, leaf_at, swap_slot_at};
use crate::model::vmstat::NodeStat;
use crate::model::{Cpu, World};

/// A rule that does not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Broken {
    /// The oracle that it belongs to.
    pub oracle: &'static str,
    /// The page it is about, if it is about one.
    pub page: Option<Page>,
    /// What should be.
    pub rule: &'static str,
    /// What is the case.
    pub what: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.oracle, self.what)
    }
}

const COUNTS: &str = "every reference, mapping and pin is counted exactly once";
const EXCLUSIVE: &str = "an exclusive page has one mapping, and others are not writable";
const ALL_FREE: &str = "after tear-down every page and table is free";

/// Builds an `Err` of the rule `accounting` for a page.
fn broken(rule: &'static str, page: Page, what: String) -> Result<(), Broken> {
    Err(Broken { oracle: "accounting", page: Some(page), rule, what })
}

/// What somebody outside the world holds on one page: on a compound page, on
/// any of its pages together.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owned {
    /// References from get_user_pages() and its relatives.
    pub gets: i32,
    /// Pins.
    pub pins: i32,
}

/// Whether the reference count and the pin count of a head (or small page)
/// are exactly what its mappings, the LRU batches and `owned` explain on
/// `kernel`.
///
/// # Errors
/// The rule `accounting`, with both numbers.
#[inline]
pub fn counts_add_up(
    world: &World,
    kernel: Kernel,
    head: Page,
    owned: Owned,
) -> Result<(), Broken> {
    let batched = world.batched().filter(|&p| p == head).count() as i32;
    counts_add_up_with(world, kernel, head, owned, batched)
}

/// [`counts_add_up`] for callers that know how many references the LRU
/// batches hold on the page.
///
/// # Errors
/// As there.
#[inline]
pub fn counts_add_up_with(
    world: &World,
    kernel: Kernel,
    head: Page,
    owned: Owned,
    batched: i32,
) -> Result<(), Broken> {
    let expected = Expected::of(world, kernel, head, owned, batched);
    let frame = world.frame(head);
    if frame.refcount.read() == expected.refcount && frame.pincount.read() == expected.pincount {
        return Ok(());
    }
    expected.differs(world, head, owned)
}

/// What the counts of a head should be.
struct Expected {
    refcount: i32,
    pincount: i32,
    mapped: i32,
    cached: i32,
    batched: i32,
}

impl Expected {
    fn of(world: &World, kernel: Kernel, head: Page, owned: Owned, batched: i32) -> Self {
        let nr = u64::from(world.span_of(head).count_ones());
        let mut mapped = world.frame(head).compound_mapcount.read();
        for i in 0..nr {
            mapped += world.frame(head.nth(i)).mapcount.read();
        }
        let (pin_refs, pincount) = if nr >= 1 << kernel.pincount_order() {
            (owned.pins, owned.pins)
        } else {
            (owned.pins * GUP_PIN_COUNTING_BIAS, 0)
        };
        let kernel = i32::from(head == world.zero_page());
        let cached = world.cache_refs(head);
        let refcount = mapped + cached + batched + kernel + owned.gets + pin_refs;
        Expected { refcount, pincount, mapped, cached, batched }
    }

    #[cold]
    fn differs(&self, world: &World, head: Page, owned: Owned) -> Result<(), Broken> {
        let v = world.look(head);
        let Expected { refcount, pincount, mapped, cached, batched } = self;
        let what = if v.refcount == *refcount {
            format!("page {} has pincount {} instead of {pincount}", head.0, v.pincount)
        } else {
            format!(
                "page {} has refcount {} instead of {refcount}: {mapped} mapped, {cached} in the \
                 page or swap cache, {batched} in LRU batches, {} got, {} pinned",
                head.0, v.refcount, owned.gets, owned.pins,
            )
        };
        broken(COUNTS, head, what)
    }
}

/// Whether as many pins were counted in and out of the statistics as are
/// held.
///
/// # Errors
/// The rule `accounting`.
pub fn pin_statistics(world: &World, pins: i64) -> Result<(), Broken> {
    let acquired = world.node_stat(NodeStat::NR_FOLL_PIN_ACQUIRED);
    let released = world.node_stat(NodeStat::NR_FOLL_PIN_RELEASED);
    if acquired - released == pins {
        return Ok(());
    }
    let what = format!(
        "nr_foll_pin_acquired {acquired} - nr_foll_pin_released {released}, {pins} pins held"
    );
    Err(Broken { oracle: "accounting", page: None, rule: "acquired - released = pins held", what })
}

/// Whether this CPU left locks, interrupts or task flags behind, and whether
/// anybody holds a lock of the world.
///
/// # Errors
/// The rule `locking`, or `accounting` for pages still isolated.
pub fn nothing_left_behind(cpu: &Cpu) -> Result<(), Broken> {
    let rule = "an op leaves no lock held and no page isolated";
    let fail = |oracle, what: String| Err(Broken { oracle, page: None, rule, what });
    if let Some(what) = cpu.left_behind() {
        return fail("locking", what.into());
    }
    for mm in (0..cpu.world.limits().mms).map(MmId) {
        let n = mmap_lock_holders(cpu, mm);
        if n != 0 {
            return fail("locking", format!("mmap_lock of m{} is still held ({n})", mm.0));
        }
    }
    let isolated = cpu.world.node_stat(NodeStat::NR_ISOLATED_ANON);
    if isolated != 0 {
        return fail("accounting", format!("nr_isolated_anon is {isolated}"));
    }
    let isolated = cpu.world.node_stat(NodeStat::NR_ISOLATED_FILE);
    if isolated != 0 {
        return fail("accounting", format!("nr_isolated_file is {isolated}"));
    }
    Ok(())
}

/// Whether every page of a page cache is in use, and knows its file and its
/// place there.
///
/// # Errors
/// The rule `accounting`.
pub fn page_caches_match(world: &World) -> Result<(), Broken> {
    let rule = "a page in a page cache belongs to that file";
    for &file in File::ALL {
        let nr = 1 << file.order();
        for index in (0..file.max_pages() * nr).step_by(nr as usize) {
            let Some(page) = world.cached(file, index) else { continue };
            if world.cache_refs(page) == 0 || world.index_of(page) != index {
                let what = format!("page {} is not page {index} of {}", page.0, file.name());
                return broken(rule, page, what);
            }
        }
    }
    Ok(())
}

/// Whether every mapcount is the number of entries that map the page; where
/// the base knows exclusive pages, also whether such a page has one mapping,
/// and whether only such pages are writable in private memory. Walks all page
/// tables.
///
/// # Errors
/// The rule `accounting`.
pub fn mapcounts_match_tables(cpu: &Cpu) -> Result<(), Broken> {
    let world = cpu.world;
    let mut found = vec![(0, 0); usize::from(world.limits().frames)];
    let mut swapped = [0; MAX_FRAMES];
    for mm in (0..world.limits().mms).map(MmId).filter(|&mm| mm_alive(cpu, mm)) {
        for addr in (0..TASK_PAGES).map(|n| n * PAGE_SIZE) {
            if let Some(slot) = swap_slot_at(cpu, mm, addr) {
                swapped[usize::from(slot.0)] += 1;
            }
            let Some(leaf) = leaf_at(cpu, mm, addr) else { continue };
            let Some(page) = leaf.counted(world) else { continue };
            exclusive_where_writable(cpu, mm, addr, page, leaf)?;
            let count = &mut found[usize::from(page.0)];
            if !leaf.huge {
                count.0 += 1;
            } else if world.look(page).head == page {
                count.1 += 1;
            }
        }
    }
    for page in world.pages().filter(|&p| p != world.zero_page()) {
        let v = world.look(page);
        let count = found[usize::from(page.0)];
        if (v.mapcount, v.compound_mapcount) != count {
            let what = format!(
                "page {} has mapcount {} and compound_mapcount {}, but {} PTEs and {} PMDs map it",
                page.0, v.mapcount, v.compound_mapcount, count.0, count.1
            );
            return broken(COUNTS, page, what);
        }
        if v.flags.contains(Pg::ANON_EXCLUSIVE) && count.0 + count.1 > 1 {
            let what = format!("page {} is exclusive, but {count:?} PTEs, PMDs map it", page.0);
            return broken(EXCLUSIVE, page, what);
        }
    }
    if *world.swap.lock().counts() != swapped {
        let what = "the counts of swap entries are not those of the tables".into();
        return Err(Broken { oracle: "accounting", page: None, rule: COUNTS, what });
    }
    Ok(())
}

/// C: pte_write(pte) && !PageAnonExclusive(page), asserted here and there
fn exclusive_where_writable(
    cpu: &Cpu,
    mm: MmId,
    addr: u64,
    page: Page,
    leaf: Leaf,
) -> Result<(), Broken> {
    let private = vma_lookup(cpu, mm, addr).is_some_and(|v| v.is_cow_mapping());
    if !leaf.write || !private || !cpu.since(Base::V6_12) {
        return Ok(());
    }
    let teller = if leaf.huge { cpu.world.head_of(page) } else { page };
    if cpu.world.look(teller).flags.contains(Pg::ANON_EXCLUSIVE) {
        return Ok(());
    }
    let what = format!("m{} {addr:#x} may write to page {}, which may be shared", mm.0, page.0);
    broken(EXCLUSIVE, page, what)
}

/// Whether a world in which every process has ended and everything was given
/// back is as empty as a new one.
///
/// # Errors
/// The rule `accounting`, naming the first page that is not free.
pub fn everything_free(world: &World) -> Result<(), Broken> {
    let empty = world.free_frames();
    for page in world.pages().take(usize::from(world.limits().device_start)) {
        let refcount = world.refcount(page);
        let zero = page == world.zero_page();
        if refcount != i32::from(zero) || (!zero && empty & page.bit() == 0) {
            let what = format!("page {} has refcount {refcount} after all was given back", page.0);
            return broken(COUNTS, page, what);
        }
    }
    let slots = world.swap.lock().in_use();
    if slots != 0 {
        let what = format!("{slots} slots in swap are left");
        return Err(Broken { oracle: "accounting", page: None, rule: ALL_FREE, what });
    }
    if world.tables.in_use() != 0 {
        let what = format!("{} page tables are left", world.tables.in_use());
        return Err(Broken { oracle: "accounting", page: None, rule: ALL_FREE, what });
    }
    Ok(())
}
