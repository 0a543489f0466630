// SPDX-License-Identifier: GPL-2.0-only
//! A slow pin against the migration of the page that it finds.
//!
//!   CPU 0  follow_page_pte()                 CPU 1  migrate_pages()
//!   (A1) lock the PTEs                       (B1) lock the PTEs
//!   (A2) read the PTE: page                  (B2) set a migration entry, unlock
//!   (A3) refcount + 1024, unlock             (B3) anybody else? then put it back
//!                                            (B4) map a copy, put the page
//!
//! If (A1) comes first, (B3) finds the pin; if (B1), there is no page to pin,
//! and the fault waits until (B4). Without the lock (B2) and (B3) come between
//! (A2) and (A3).
//!
//! Never: the call says that a page is pinned, and the address maps another.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::Cpu;
use loom_tests::calls::{FOUR, mapped_and_isolated, migrate, pin_user_pages_once, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, list) = scene(FOUR, kernel, mapped_and_isolated);
    let slow = body(|cpu| pin_user_pages_once(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [migrate(list), slow])?;
    let cpu = Cpu::new(&world, kernel, 0);
    pins_are_mapped(&cpu, &held, 0)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_pinned_page_does_not_move() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_lock() {
    let change = "without safeguard:page-table-lock";
    fails!("reliability", Bound::All, [V5_15, V6_12], change, race);
}
