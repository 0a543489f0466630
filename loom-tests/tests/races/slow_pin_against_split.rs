// SPDX-License-Identifier: GPL-2.0-only
//! A slow pin against the split of the THP whose tail it finds.
//!
//!   CPU 0  follow_page_pte()                 CPU 1  split_huge_page()
//!   (A1) lock the table                      (B1) lock the table: the PMD, and
//!   (A2) read the entry: page                     then the PTEs, become
//!   (A3) head = compound_head(page)               migration entries, unlock
//!   (A4) refcount of head > 0? pin head      (B2) freeze head, take it apart,
//!   (A5) unlock                                   thaw
//!
//! The slow path trusts (A3): with (B1) and (B2) between (A3) and (A4) it would
//! pin what was the head, and warn if that is free. The lock forbids that.
//!
//! Never: the call returns `page`, and the pin is elsewhere.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::Cpu;
use gup_core::model::limits::PAGE_SIZE;
use loom_tests::calls::{TWO_THPS, pin_user_pages_once, scene, split, thp};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(TWO_THPS, kernel, |cpu| thp(cpu, PAGE_SIZE));
    let slow = body(|cpu| pin_user_pages_once(cpu, PAGE_SIZE, Foll::WRITE));
    at_once(&world, kernel, [split(page), slow])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_pin_sits_on_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_lock() {
    let change = "without safeguard:page-table-lock";
    fails!("accounting", Bound::Preemptions(3), [V5_15, V6_12], change, race);
}
