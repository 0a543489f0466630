// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the migration of the page that it pins.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  migrate_pages()
//!   (A1) read the PTE: page                  (B1) set a migration entry
//!   (A2) refcount + 1, + 1023                (B2) anybody else? then put it back
//!   (A3) PTE still the same?                 (B3) copy the page
//!                                            (B4) map the copy
//!
//! With (B1) and (B2) between (A1) and (A2), the page has moved, and (A3) sees
//! another PTE. With (A2) before (B2), the page stays.
//!
//! Never: the call says that a page is pinned, and the address maps another.

use gup_core::flags::Foll;
use gup_core::model::Cpu;
use loom_tests::calls::{FOUR, mapped_and_isolated, migrate, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, list) = scene(FOUR, kernel, mapped_and_isolated);
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [migrate(list), fast])?;
    pins_are_mapped(&Cpu::new(&world, kernel, 0), &held, 0)?;
    held.adds_up(&world)
}

#[test]
fn a_pinned_page_does_not_move() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pte_recheck() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V5_15], "without safeguard:pte-recheck", race);
    // The kernel notices first: the page is not exclusive any more.
    fails!("splat", bound, [V6_12], "without safeguard:pte-recheck", race);
}
