// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, reading, against the unmapping of an exclusive page for migration
//! or swap.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  try_to_migrate()
//!   (A1) read the PMD: page                  (B1) invalidate the PMD
//!   (A2) count the pin                       (B2) pinned? then put it back
//!   (A3) PMD still the same?                 (B3) clear PageAnonExclusive
//!   (A4) PageAnonExclusive still set?        (B4) set a migration entry
//!
//! The page is a THP, whose pins have a counter of their own, added to without
//! an order. A barrier between (A2) and (A3) pairs with one between (B1) and
//! (B2), both of 088b8aa537c2: without either, (A3) sees the PMD from before
//! (B1), and (B2) sees no pin.
//!
//! Never: the call says that a page is pinned, and it is unmapped.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::model::limits::HPAGE_PMD_NR;
use gup_core::model::mmap::{Prot, mprotect};
use gup_core::model::rmap::{Unmap, try_to_migrate};
use gup_core::model::{Cpu, Page};
use loom_tests::calls::{MM, TWO_THPS, pin_user_pages_fast_only, scene, thp};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn read_only(cpu: &Cpu) -> Result<Page, Errno> {
    let page = thp(cpu, 0)?;
    mprotect(cpu, MM, 0, HPAGE_PMD_NR, Prot::Read)?;
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(TWO_THPS, kernel, read_only);
    let unmap = body(move |cpu| {
        // False if the pin came first.
        try_to_migrate(cpu, page, Unmap::Whole);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::empty()));
    let held = at_once(&world, kernel, [unmap, fast])?;
    pins_are_mapped(&Cpu::new(&world, kernel, 0), &held, 0)?;
    held.adds_up(&world)
}

#[test]
fn a_pinned_page_stays_mapped() {
    holds!(Bound::All, [V6_12], race);
}

#[test]
fn found_without_the_barrier_after_the_grab() {
    let bound = Bound::All;
    fails!("reliability", bound, [V6_12], "without safeguard:barrier-after-grab", race);
}

#[test]
fn found_without_the_barrier_after_the_clearing() {
    let bound = Bound::All;
    fails!("reliability", bound, [V6_12], "without safeguard:barrier-after-clear", race);
}

#[test]
fn found_without_088b8aa537c2() {
    fails!("reliability", Bound::All, [V6_12], "without 088b8aa537c2", race);
}
