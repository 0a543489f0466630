// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, reading, against reclaim of the exclusive page that it finds.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  try_to_unmap()
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) count the pin                       (B2) pinned? then put it back
//!   (A3) PTE still the same?                 (B3) clear PageAnonExclusive
//!   (A4) PageAnonExclusive still set?        (B4) set a swap entry
//!
//! The page is one of a THP, whose pins have a counter of their own, added to
//! without an order. A barrier between (A2) and (A3) pairs with one between
//! (B1) and (B2): both are of 088b8aa537c2. Without them (A3) sees the PTE from
//! before (B1), and (B2) sees no pin.
//!
//! Never: the call says that a page is pinned, and reclaim has unmapped it.

use std::sync::Arc;

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::gup::v6_12::pin_user_pages_fast;
use gup_core::invariants::{Broken, mapcounts_match_tables};
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{Kind, Prot, madvise_dontneed, mm_alloc, mmap, mprotect};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::reclaim::swap_out;
use gup_core::model::{Cpu, Limits, Page, World};
use loom_tests::{Body, Bound, Held, Kernel, Verdict, at_once, kernel, model, must_fail};

const LIMITS: Limits = Limits { frames: 16, movable_start: 8, device_start: 16, ..Limits::LOOM };
const MM: MmId = MmId(0);

/// The first page of a THP of which no other is mapped, read-only.
fn mapped_head(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp)?;
    let page = user_store(cpu, MM, 0, 1)?;
    madvise_dontneed(cpu, MM, PAGE_SIZE, HPAGE_PMD_NR - 1)?;
    mprotect(cpu, MM, 0, HPAGE_PMD_NR, Prot::Read)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let world = Arc::new(World::new(LIMITS));
    let page = mapped_head(&Cpu::new(&world, kernel, 0)).expect("the world is empty");

    let reclaim: Body = Box::new(move |cpu| {
        // EBUSY if the pin came first.
        let _ = swap_out(cpu, page);
        Held::nothing()
    });
    let fast: Body = Box::new(|cpu| {
        let mut pages = [Page::UNSET];
        let n = pin_user_pages_fast(cpu, 0, 1, Foll::empty(), &mut pages);
        Held::pins(pages.into_iter().take(n.unwrap_or(0)))
    });
    let held = at_once(&world, kernel, [fast, reclaim])?;
    let cpu = Cpu::new(&world, kernel, 0);
    let mapped = mapped_page(&cpu, MM, 0);
    if let Some(&page) = held.pins.first()
        && mapped != Some(page)
    {
        let rule = "a pinned address still maps the pinned page";
        let what = format!("page {} is pinned, {mapped:?} is mapped", page.0);
        return Err(Broken { oracle: "reliability", page: Some(page), rule, what });
    }
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_pinned_page_stays_mapped() {
    model(Bound::Preemptions(2), || race(kernel("v6.12 fixed")));
}

#[test]
fn found_without_088b8aa537c2() {
    must_fail("reliability", Bound::Preemptions(2), || {
        race(kernel("v6.12 fixed without 088b8aa537c2"))
    });
}
