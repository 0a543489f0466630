// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, reading, against reclaim of the exclusive page that it finds.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  try_to_unmap()
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) count the pin                       (B2) pinned? then put it back
//!   (A3) PTE still the same?                 (B3) clear PageAnonExclusive
//!   (A4) PageAnonExclusive still set?        (B4) set a swap entry
//!
//! The same as fast_pin_against_unmap.rs, which has the twins. Here is a small
//! page, and the whole of reclaim around it.
//!
//! Never: the call says that a page is pinned, and reclaim has unmapped it.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::mmap::{Prot, mprotect};
use gup_core::model::reclaim::swap_out;
use gup_core::model::{Cpu, Page};
use loom_tests::calls::{FOUR, MM, mapped, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, holds};

fn read_only(cpu: &Cpu) -> Result<Page, Errno> {
    let page = mapped(cpu, 1)?;
    mprotect(cpu, MM, 0, 1, Prot::Read)?;
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(FOUR, kernel, read_only);
    let reclaim = body(move |cpu| {
        // EBUSY if the pin came first.
        let _ = swap_out(cpu, page);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::empty()));
    let held = at_once(&world, kernel, [reclaim, fast])?;
    let cpu = Cpu::new(&world, kernel, 0);
    pins_are_mapped(&cpu, &held, 0)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_pinned_page_stays_mapped() {
    holds!(Bound::All, [V6_12], race);
}
