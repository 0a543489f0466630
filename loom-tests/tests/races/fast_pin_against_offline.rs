// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, longterm, against memory that goes offline.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  offline_pages()
//!   (A1) read the PTE: page                  (B1) the pageblock: MIGRATE_ISOLATE
//!   (A2) pageblock not isolated?             (B2) set a migration entry
//!   (A3) refcount + 1, unless 0              (B3) nobody else holds the page?
//!   (A4) refcount + 1023                          then freeze it: offline
//!   (A5) PTE still the same?                 (B4) else undo (B1)
//!
//! v6.12 has (A2) behind (A3). The pageblock may be isolated behind (A2): then
//! (B3) finds the reference, or (A3) a page that is frozen; without "unless 0"
//! there still is (A5). What (B3) is of,
//! migrate_pages(), is in fast_pin_against_migration.rs; here it ends where the
//! page would be copied.
//!
//! Never: the memory is offline, and a page of it is pinned.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE};
use gup_core::invariants::Broken;
use gup_core::model::limits::PAGEBLOCK_ORDER;
use gup_core::model::page::{get_page, page_ref_freeze};
use gup_core::model::rmap::{Unmap, try_to_migrate};
use gup_core::model::zone::{
    alloc_pages, is_migrate_isolate_page, set_migratetype_isolate, unset_migratetype_isolate,
};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{mapped, pin_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// Two pageblocks; in the first is the zero page, which keeps it online.
const LIMITS: Limits =
    Limits { frames: 16, movable_start: 16, device_start: 16, cpus: 2, ..Limits::LOOM };

/// A page in the second pageblock; who isolates it has a reference.
fn mapped_in_the_second(cpu: &Cpu) -> Result<Page, Errno> {
    while alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0).ok_or(Errno::ENOMEM)? < Page(7) {}
    let page = mapped(cpu, 1)?;
    get_page(cpu, page);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, mapped_in_the_second);
    let offline = body(move |cpu| {
        let block = page.0 >> PAGEBLOCK_ORDER;
        set_migratetype_isolate(cpu, block).expect("the page is on the LRU");
        // False if the pin came first.
        try_to_migrate(cpu, page, Unmap::Whole);
        if !page_ref_freeze(cpu, page, 1) {
            unset_migratetype_isolate(cpu, block);
        }
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE | Foll::LONGTERM));
    let held = at_once(&world, kernel, [offline, fast])?;
    if let Some(&page) = held.pins.iter().find(|&&p| is_migrate_isolate_page(&world, p)) {
        let rule = "no longterm pin in memory that has gone offline";
        let what = format!("page {} is offline, and pinned for long", page.0);
        return Err(Broken { oracle: "placement", page: Some(page), rule, what });
    }
    Ok(())
}

#[test]
fn no_pin_in_memory_that_is_offline() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_an_exact_freeze() {
    let change = "without safeguard:freeze-exact";
    fails!("placement", Bound::Preemptions(2), [V5_15, V6_12], change, race);
}
