// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against fork()'s write-protection of the page that it pins.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  copy_page_range()
//!   (A1) set MMF_HAS_PINNED                  (B1) write_protect_seq + 1: odd
//!   (A2) seq = write_protect_seq, if even    (B2) MMF_HAS_PINNED, and pinned?
//!   (A3) read the PTE: page, writable             then copy for the child
//!   (A4) pin the page, PTE still the same?   (B3) else write-protect and share
//!   (A5) write_protect_seq still seq?        (B4) write_protect_seq + 1: even
//!
//! (A2) keeps out a pin between (B2) and (B3), (A5) one that began before (B1).
//! Both are of 57efa1fe5957, the copy is of 70e806e4e645. Neither helps if (B2)
//! comes before (B1) is seen, or (A5) before (A4) is: v5.15 has a write barrier
//! and the page-table lock between (B1) and (B2), and an atomic_add() in (A4),
//! which is enough on x86, and not where they are no full barriers. A finding
//! of this race. v6.12 counts a reference of its own before (B2), which orders
//! it against (A4), and has a barrier behind (A4).
//!
//! v6.12 notices with CONFIG_DEBUG_VM: a page is pinned that is not exclusive.
//!
//! Never: CPU 0 has pinned a page that CPU 1 has shared: the next store of the
//! process goes to a copy.

use gup_core::flags::Foll;
use gup_core::model::Cpu;
use gup_core::model::fork::copy_page_range;
use gup_core::model::memory::user_store;
use loom_tests::calls::{FORK, MM, mapped_before_fork, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, [parent, child]) = scene(FORK, kernel, mapped_before_fork);
    let fork = body(move |cpu| {
        copy_page_range(cpu, &child, &parent).expect("there are tables");
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [fork, fast])?;
    held.adds_up(&world)?;
    let cpu = Cpu::new(&world, kernel, 0);
    user_store(&cpu, MM, 0, 2).expect("there is memory");
    pins_are_mapped(&cpu, &held, 0)
}

#[test]
fn pin_or_share_but_not_both() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_57efa1fe5957() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V5_15, V6_12], "without 57efa1fe5957", race);
}

#[test]
fn found_without_the_look_before() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V5_15, V6_12], "without safeguard:seq-even", race);
}

#[test]
fn found_without_the_look_after() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V5_15, V6_12], "without safeguard:seq-retry", race);
}

#[test]
fn found_without_the_flag() {
    fails!(
        "reliability",
        Bound::Preemptions(2),
        [V5_15, V6_12],
        "without safeguard:has-pinned-first",
        race
    );
}

#[test]
fn found_without_70e806e4e645() {
    fails!("reliability", Bound::Preemptions(2), [V5_15], "without 70e806e4e645", race);
}

#[test]
fn found_without_088b8aa537c2() {
    fails!("reliability", Bound::Preemptions(2), [V5_15], "without 088b8aa537c2", race);
}
