// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against split_huge_page() of the THP that it walks to.
//!
//! The THP is mapped by PTEs, and only its first two pages are. The PTEs are
//! old and clean, so that the split leaves them as they were.
//!
//!   CPU 0  get_user_pages_fast_only()        CPU 1  split_huge_page()
//!   (A1) read the PTE: page                  (B1) PTEs become migration entries
//!   (A2) head = compound_head(page)          (B2) freeze head, take it apart, thaw
//!   (A3) refcount of head + 1, unless 0      (B3) the PTEs come back as they were
//!   (A4) compound_head(page) still head?     (B4) put the tails that nobody maps
//!   (A5) PTE still the same?
//!
//! With (B1) to (B3) between (A2) and (A3), the reference is one on the page
//! that was the head, and (A5) sees nothing. (A4) is the recheck of
//! c24d37322548.
//!
//! Never: the call returns `page`, and the reference is elsewhere.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::Cpu;
use gup_core::model::limits::PAGE_SIZE;
use loom_tests::calls::{THREE_THPS, get_user_pages_fast_only, scene, split, two_of_a_thp};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

/// The second page of the THP.
const ADDR: u64 = PAGE_SIZE;

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(THREE_THPS, kernel, two_of_a_thp);
    let fast = body(|cpu| get_user_pages_fast_only(cpu, ADDR, Foll::WRITE));
    at_once(&world, kernel, [split(page), fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_reference_sits_on_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_head_recheck() {
    fails!("accounting", Bound::Preemptions(3), [V5_15, V6_12], "without c24d37322548", race);
}

#[test]
fn found_without_an_exact_freeze() {
    let bound = Bound::Preemptions(2);
    fails!("accounting", bound, [V5_15, V6_12], "without safeguard:freeze-exact", race);
}
