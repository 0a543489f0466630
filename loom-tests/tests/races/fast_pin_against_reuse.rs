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

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, madvise_dontneed, mm_alloc, mmap};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{MM, pin_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

const LIMITS: Limits = Limits { cpus: 2, ..Limits::LOOM };

fn mapped(cpu: &Cpu) -> Result<(), Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon)?;
    user_store(cpu, MM, 0, 1)?;
    lru_add_drain_all(cpu);
    Ok(())
}

fn race(kernel: Kernel) -> Verdict {
    let (world, ()) = scene(LIMITS, kernel, mapped);
    let zap = body(|cpu| {
        madvise_dontneed(cpu, MM, 0, 1).expect("the VMA is there");
        Held::gets(alloc_pages(cpu, GFP_HIGHUSER_MOVABLE | Gfp::COMP, 2))
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    at_once(&world, kernel, [zap, fast])?.adds_up(&world)
}

#[test]
fn a_pin_that_comes_late_leaves_no_trace() {
    holds!(Bound::Preemptions(3), [V5_15, V6_12], race);
}

#[test]
fn found_without_ee66e9c34fd3() {
    fails!("accounting", Bound::Preemptions(3), [V5_15, V6_12], "without ee66e9c34fd3", race);
}
