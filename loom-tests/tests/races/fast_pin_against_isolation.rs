// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, longterm, against who wants the memory that the page is in: CMA
//! allocation, and memory that goes offline.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  alloc_contig_range()
//!   (A1) read the PTE: page                  (B1) the pageblock: MIGRATE_ISOLATE
//!   (A2) pageblock neither CMA nor isolated? (B2) migrate the pages in it
//!   (A3) pin the page                        (B3) the pageblock is as before
//!   (A4) PTE still the same?
//!
//! v6.12 has (A2) behind (A3). A pageblock has one type: that of CMA is not
//! CMA any more while it is isolated, so (A2) must know both, and from one
//! look: 1c563432588d. Other memory may be pinned, and its pageblock isolated
//! behind (A2): who finds the pin at (B2), or (A4) finds that the page has
//! moved, as in fast_pin_against_migration.rs.
//!
//! v6.12 gives back the reference of (A3) if (A2) says no, while others may give
//! up theirs.
//!
//! Never: a longterm pin in CMA memory; a pin that is refused leaves a trace.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::Broken;
use gup_core::model::limits::PAGEBLOCK_ORDER;
use gup_core::model::page::{get_page, put_page};
use gup_core::model::zone::{
    Place, Prefer, place, set_migratetype_isolate, set_preference, unset_migratetype_isolate,
};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{mapped, pin_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// Two pageblocks; the second is of CMA.
const CMA: Limits = Limits {
    frames: 16,
    movable_start: 16,
    device_start: 16,
    cma: (8, 16),
    cpus: 2,
    ..Limits::LOOM
};

/// The page is of CMA.
fn in_cma(cpu: &Cpu) -> Result<Page, Errno> {
    set_preference(cpu, Prefer::Cma);
    mapped(cpu, 1)
}

/// The page's pageblock is isolated, and given back.
fn isolated(kernel: Kernel) -> Verdict {
    let (world, page) = scene(CMA, kernel, in_cma);
    let block = page.0 >> PAGEBLOCK_ORDER;
    let isolate = body(move |cpu| {
        set_migratetype_isolate(cpu, block).expect("the page is on the LRU");
        unset_migratetype_isolate(cpu, block);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE | Foll::LONGTERM));
    let held = at_once(&world, kernel, [isolate, fast])?;
    if let Some(&page) = held.pins.first()
        && place(&world, page) == Place::Cma
    {
        let rule = "no longterm pin in memory that must stay movable";
        let what = format!("page {} of CMA is pinned for long", page.0);
        return Err(Broken { oracle: "placement", page: Some(page), rule, what });
    }
    held.adds_up(&world)
}

/// Somebody else gives up a reference, and the pin is refused.
fn refused(kernel: Kernel) -> Verdict {
    let (world, page) = scene(CMA, kernel, in_cma);
    get_page(&Cpu::new(&world, kernel, 0), page);
    let put = body(move |cpu| {
        put_page(cpu, page);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE | Foll::LONGTERM));
    let held = at_once(&world, kernel, [put, fast])?;
    assert!(held.pins.is_empty(), "it is CMA memory all the time");
    held.adds_up(&world)
}

#[test]
fn no_longterm_pin_in_cma() {
    holds!(Bound::All, [V5_15, V6_12], isolated);
}

#[test]
fn a_refused_pin_leaves_no_trace() {
    holds!(Bound::All, [V5_15, V6_12], refused);
}

#[test]
fn found_without_1c563432588d() {
    fails!("placement", Bound::All, [V5_15], "without 1c563432588d", isolated);
}
