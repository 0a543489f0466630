// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the split of a THP that a PMD maps.
//!
//!   CPU 0  get_user_pages_fast_only()        CPU 1  split_huge_page()
//!   (A1) read the PMD: head                  (B1) the PMD becomes a table
//!   (A2) refcount of head + 1, unless 0      (B2) freeze head, take it apart, thaw
//!   (A3) PMD still the same?
//!
//! The call asks for the second page of the THP. With (B1) and (B2) between
//! (A1) and (A2), the reference is one on the page that was the head, and has
//! nothing to do with the second any more.
//!
//! Never: the call returns a page, and the reference is elsewhere.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::Cpu;
use gup_core::model::limits::PAGE_SIZE;
use loom_tests::calls::{TWO_THPS, get_user_pages_fast_only, scene, split, thp};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(TWO_THPS, kernel, |cpu| thp(cpu, PAGE_SIZE));
    let fast = body(|cpu| get_user_pages_fast_only(cpu, PAGE_SIZE, Foll::WRITE));
    at_once(&world, kernel, [split(page), fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_reference_sits_on_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pmd_recheck() {
    let bound = Bound::Preemptions(2);
    fails!("accounting", bound, [V5_15, V6_12], "without safeguard:pmd-recheck", race);
}
