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

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::huge_memory::split_huge_page_of;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, get_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

const LIMITS: Limits =
    Limits { frames: 16, movable_start: 8, device_start: 16, cpus: 2, ..Limits::LOOM };

fn thp(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp)?;
    let page = user_store(cpu, MM, PAGE_SIZE, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, thp);
    let split = body(move |cpu| {
        // EBUSY if the reference came first.
        let _ = split_huge_page_of(cpu, page);
        Held::nothing()
    });
    let fast = body(|cpu| get_user_pages_fast_only(cpu, PAGE_SIZE, Foll::WRITE));
    at_once(&world, kernel, [split, fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_reference_sits_on_the_pages_own_head() {
    holds!(Bound::Preemptions(2), [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pmd_recheck() {
    let bound = Bound::Preemptions(2);
    fails!("accounting", bound, [V5_15, V6_12], "without safeguard:pmd-recheck", race);
}
