// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the unmapping of a page, which is freed and used again.
//!
//!   CPU 0  get_user_pages_fast_only()        CPU 1  madvise(MADV_DONTNEED)
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) refcount + 1, unless 0              (B2) put_page(): page is free
//!   (A3) PTE still the same?                 (B3) a fault elsewhere uses page
//!
//! With (B1) to (B3) between (A1) and (A2), the reference is one on what may
//! be another's page, and (A3) gives it back. "Unless 0" is for (A2) between (B2) and (B3).
//!
//! Never: the call returns a page that was freed since the call began.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::Cpu;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::madvise_dontneed;
use loom_tests::calls::{FOUR, MM, get_user_pages_fast_only, mapped, scene};
use loom_tests::rules::not_used_again;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(FOUR, kernel, |cpu| mapped(cpu, 2));
    let epoch = world.epoch(page);
    let fast = body(|cpu| get_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let zap = body(|cpu| {
        madvise_dontneed(cpu, MM, 0, 1).expect("the VMA is there");
        user_store(cpu, MM, PAGE_SIZE, 2).expect("there is memory");
        Held::nothing()
    });
    let held = at_once(&world, kernel, [zap, fast])?;
    not_used_again(&world, &held, epoch)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_page_that_was_freed_is_not_returned() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pte_recheck() {
    fails!("lifetime", Bound::All, [V5_15, V6_12], "without safeguard:pte-recheck", race);
}

#[test]
fn found_without_unless_zero() {
    fails!("accounting", Bound::All, [V5_15, V6_12], "without safeguard:unless-zero", race);
}
