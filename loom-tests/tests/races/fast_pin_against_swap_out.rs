// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, reading, against reclaim of the exclusive page that it finds.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  try_to_unmap()
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) count the pin                       (B2) pinned? then put it back
//!   (A3) PTE still the same?                 (B3) clear PageAnonExclusive
//!   (A4) PageAnonExclusive still set?        (B4) set a swap entry
//!
//! The page is one of a THP, and the same as fast_pin_against_unmap.rs goes for
//! it, which has the twins. Here is the whole of reclaim around it.
//!
//! Never: the call says that a page is pinned, and reclaim has unmapped it.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, madvise_dontneed, mm_alloc, mmap, mprotect};
use gup_core::model::reclaim::swap_out;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, pin_user_pages_fast_only, scene};
use loom_tests::rules::pins_are_mapped;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, holds};

const LIMITS: Limits =
    Limits { frames: 16, movable_start: 8, device_start: 16, cpus: 2, ..Limits::LOOM };

/// The first page of a THP of which no other is mapped, read-only.
fn mapped_head(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp)?;
    let page = user_store(cpu, MM, 0, 1)?;
    madvise_dontneed(cpu, MM, PAGE_SIZE, HPAGE_PMD_NR - 1)?;
    mprotect(cpu, MM, 0, HPAGE_PMD_NR, Prot::Read)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, mapped_head);
    let reclaim = body(move |cpu| {
        // EBUSY if the pin came first.
        let _ = swap_out(cpu, page);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::empty()));
    let held = at_once(&world, kernel, [fast, reclaim])?;
    let cpu = Cpu::new(&world, kernel, 0);
    pins_are_mapped(&cpu, &held, 0)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_pinned_page_stays_mapped() {
    holds!(Bound::Preemptions(1), [V6_12], race);
}
