// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against khugepaged, which collapses the pages that it walks to.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  collapse_huge_page()
//!   (A1) read the PMD: a page table          (B1) clear the PMD
//!   (A2) read the PTE: page                  (B2) wait for GUP-fast
//!   (A3) pin the page                        (B3) only mappings hold the page?
//!   (A4) PTE still the same?                 (B4) copy it, clear the PTE
//!   (A5) PMD still the same?                 (B5) map the THP
//!
//! The PTE stays as it is up to (B4), so with (B3) between (A2) and (A3) and
//! (A4) before (B4), (A4) sees nothing. (A5) is the recheck of 70cbc3cc78a9,
//! (B2) the wait of 2ba99c5e0881; here either is enough. (B2) is also what
//! keeps the page table from being used again under (A2).
//!
//! Never: the call says that a page is pinned, and the address maps another.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::khugepaged::{
    __collapse_huge_page_copy, __collapse_huge_page_copy_succeeded, __collapse_huge_page_isolate,
    clear_pmd, give_up, install, start,
};
use gup_core::model::limits::HPAGE_PMD_NR;
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{MM, mapped, pin_user_pages_fast, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

const LIMITS: Limits =
    Limits { frames: 24, movable_start: 8, device_start: 24, cpus: 2, ..Limits::LOOM };

/// Collapses what is around the one small page at 0.
fn collapse_huge_page(cpu: &Cpu) {
    let mut c = start(cpu, MM, 0).expect("there is memory for a THP");
    clear_pmd(cpu, &mut c);
    if __collapse_huge_page_isolate(cpu, &mut c).is_err() {
        give_up(cpu, &c);
        return;
    }
    __collapse_huge_page_copy(cpu, &c);
    __collapse_huge_page_copy_succeeded(cpu, &c);
    install(cpu, &c);
}

fn race(kernel: Kernel) -> Verdict {
    let (world, _) = scene(LIMITS, kernel, |cpu| mapped(cpu, HPAGE_PMD_NR));
    let collapse = body(|cpu| {
        collapse_huge_page(cpu);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [collapse, fast])?;
    let cpu = Cpu::new(&world, kernel, 0);
    pins_are_mapped(&cpu, &held, 0)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_pin_sits_on_the_page_that_is_mapped() {
    holds!(Bound::All, [V6_12], race);
}

#[test]
fn found_without_the_recheck_and_the_wait() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V6_12], "without 70cbc3cc78a9 without 2ba99c5e0881", race);
}
