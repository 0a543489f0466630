// SPDX-License-Identifier: GPL-2.0-only
//! A fast pin, fork() and a write fault of the parent, by three CPUs.
//!
//!   CPU 2  pin_user_pages_fast_only()  CPU 1  dup_mmap()          CPU 0  a store
//!   (A1) seq = write_protect_seq       (B1) mmap_lock, writing    (C1) read-only?
//!   (A2) read the PTE: page, writable  (B2) write_protect_seq + 1 (C2) mmap_lock
//!   (A3) pin the page, PTE the same?   (B3) pinned? copy for the  (C3) shared? then
//!   (A4) write_protect_seq still seq?       child, else share it       map a copy
//!                                      (B4) write_protect_seq + 1
//!
//! fast_pin_against_fork.rs has what the pin and fork do to each other; here
//! the store comes at any time. If fork shares the page between (A3) and (A4),
//! (C3) replaces it, and the PTE is writable again: (A3) alone would not do.
//!
//! Never: CPU 2 has pinned a page, and the parent maps another.

use gup_core::flags::Foll;
use gup_core::model::fork::copy_page_range;
use gup_core::model::memory::user_store;
use gup_core::model::mm::{mmap_write_lock, mmap_write_unlock};
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{FORK, MM, mapped_before_fork, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let limits = Limits { cpus: 3, ..FORK };
    let (world, [parent, child]) = scene(limits, kernel, mapped_before_fork);
    let fork = body(move |cpu| {
        mmap_write_lock(cpu, MM);
        copy_page_range(cpu, &child, &parent).expect("there are tables");
        mmap_write_unlock(cpu, MM);
        Held::nothing()
    });
    let store = body(|cpu| {
        user_store(cpu, MM, 0, 2).expect("there is memory");
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [store, fork, fast])?;
    held.adds_up(&world)?;
    let cpu = Cpu::new(&world, kernel, 0);
    user_store(&cpu, MM, 0, 3).expect("there is memory");
    pins_are_mapped(&cpu, &held, 0)
}

#[test]
fn a_pin_is_where_the_parent_stores() {
    holds!(Bound::Preemptions(3), [V5_15, V6_12], race);
}

#[test]
fn found_without_57efa1fe5957() {
    let bound = Bound::Preemptions(2);
    fails!("reliability", bound, [V5_15, V6_12], "without 57efa1fe5957", race);
}
