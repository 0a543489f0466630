// SPDX-License-Identifier: GPL-2.0-only
//! A fast pin, a slow pin and a split of one THP, by three CPUs.
//!
//! The THP is mapped by PTEs, as in fast_get_against_split.rs. The slow pin is
//! of its first page, the fast one of its second.
//!
//!   CPU 2  pin_user_pages_fast_only()  CPU 1  pin_user_pages()   CPU 0  split
//!   (A1) read the PTE: page            (B1) lock the PTEs        (C1) PTEs become
//!   (A2) head = compound_head(page)    (B2) page there: pin it,       migration
//!   (A3) refcount of head + 1               else give up              entries
//!   (A4) page still of head?           (B3) unlock               (C2) freeze head,
//!   (A5) PTE still the same?                                          thaw
//!                                                                (C3) PTEs come back
//!
//! A pin from before (C2) puts the split off, and both are on one head; from
//! behind it, each is on its own page. With (C1) to (C3) between (A2) and (A3)
//! only (A4), the recheck of c24d37322548, tells.
//!
//! Never: a pin sits elsewhere than on the head of the page that was returned.

use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{
    THREE_THPS, pin_user_pages_fast_only, pin_user_pages_once, scene, split, two_of_a_thp,
};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(Limits { cpus: 3, ..THREE_THPS }, kernel, two_of_a_thp);
    let slow = body(|cpu| pin_user_pages_once(cpu, 0, Foll::WRITE));
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, PAGE_SIZE, Foll::WRITE));
    at_once(&world, kernel, [split(page), slow, fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

// A test for each base, which run at the same time.
#[test]
fn pins_sit_on_the_heads_of_their_pages_of_5_15() {
    holds!(Bound::Preemptions(3), [V5_15], race);
}

#[test]
fn pins_sit_on_the_heads_of_their_pages_of_6_12() {
    holds!(Bound::Preemptions(3), [V6_12], race);
}

#[test]
fn found_without_the_head_recheck() {
    fails!("accounting", Bound::Preemptions(3), [V5_15, V6_12], "without c24d37322548", race);
}
