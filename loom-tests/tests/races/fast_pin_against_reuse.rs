// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the unmapping of a page that becomes the head of a
//! compound page.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  madvise(), alloc_pages()
//!   (A1) read the PTE: page                  (B1) clear the PTE, free the page
//!   (A2) refcount + 1, unless 0              (B2) refcount = 1
//!   (A3) large? then count the pin there,    (B3) mark it as a head
//!        else refcount + 1023
//!   (A4) PTE changed: large? then take back
//!        as it was counted
//!
//! With (A2) and (A3) between (B2) and (B3), (A4) takes back something else
//! than (A3) has counted. On the kernels from ee66e9c34fd3 (v6.14-rc1) on, (B3)
//! is before (B2): they have no other reason for it than pages without a
//! count. Both bases are open to it: a finding of this race.
//!
//! Never: what CPU 1 allocated carries something of CPU 0.

use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::model::Limits;
use gup_core::model::mmap::madvise_dontneed;
use gup_core::model::zone::alloc_pages;
use loom_tests::calls::{MM, mapped, pin_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

const LIMITS: Limits = Limits { cpus: 2, ..Limits::LOOM };

fn race(kernel: Kernel) -> Verdict {
    let (world, _) = scene(LIMITS, kernel, |cpu| mapped(cpu, 1));
    let zap = body(|cpu| {
        madvise_dontneed(cpu, MM, 0, 1).expect("the VMA is there");
        Held::gets(alloc_pages(cpu, GFP_HIGHUSER_MOVABLE | Gfp::COMP, 2))
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    at_once(&world, kernel, [zap, fast])?.adds_up(&world)
}

#[test]
fn a_pin_that_comes_late_leaves_no_trace() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_ee66e9c34fd3() {
    fails!("accounting", Bound::Preemptions(3), [V5_15, V6_12], "without ee66e9c34fd3", race);
}
