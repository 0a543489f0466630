// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, writing, against soft-dirty tracking, which write-protects pages.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  clear_refs_write()
//!   (A1) set MMF_HAS_PINNED                  (B1) MMF_HAS_PINNED, and pinned?
//!   (A2) read the PTE: page, writable             then leave it alone
//!   (A3) pin the page, PTE still the same?   (B2) write-protect the PTE
//!
//! Nothing keeps a pin out between (B1) and (B2), which is of 9348b73c2e1b and
//! has no sequence count. The next store of the process comes to a read-only
//! PTE. On v5.15 it goes to a copy then, as the page has more references than
//! one: a finding of this race, and the waiver pin-then-mprotect. Since
//! 6c287605fd56 (v5.19) an exclusive page is reused, and stays so here.
//!
//! Never: CPU 0 has pinned a page, and the next store goes elsewhere.

use gup_core::flags::Foll;
use gup_core::model::Cpu;
use gup_core::model::memory::user_store;
use gup_core::model::soft_dirty::clear_refs_write;
use loom_tests::calls::{FOUR, MM, mapped, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, _) = scene(FOUR, kernel, |cpu| mapped(cpu, 1));
    let track = body(|cpu| {
        clear_refs_write(cpu, MM);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [track, fast])?;
    held.adds_up(&world)?;
    let cpu = Cpu::new(&world, kernel, 0);
    user_store(&cpu, MM, 0, 2).expect("there is memory");
    pins_are_mapped(&cpu, &held, 0)
}

#[test]
fn a_store_is_seen_through_the_pin() {
    holds!(Bound::All, [V6_12], race);
}

#[test]
fn found_where_pages_are_not_known_to_be_exclusive() {
    fails!("reliability", Bound::All, [V5_15], "", race);
}
