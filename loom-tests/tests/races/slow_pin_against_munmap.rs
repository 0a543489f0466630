// SPDX-License-Identifier: GPL-2.0-only
//! A slow pin whose fault drops mmap_lock, against munmap().
//!
//!   CPU 0  pin_user_pages_unlocked()         CPU 1  munmap()
//!   (A1) mmap_lock, for reading              (B1) mmap_lock, for writing
//!   (A2) find the VMA                        (B2) unmap the pages, free the
//!   (A3) the fault says RETRY: unlocked           tables, forget the VMA
//!   (A4) mmap_lock again                     (B3) unlock
//!   (A5) find the VMA: gone?
//!   (A6) the fault brings a page, pin it
//!
//! With (B1) to (B3) between (A3) and (A4) the VMA of (A2) is gone, and (A5)
//! looks again. (B1) waits for the lock of (A4): else the page of (A6) would
//! come into what (B2) takes apart.
//!
//! Never: a page is mapped that no VMA knows, or pinned and lost.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::{Broken, mapcounts_match_tables};
use gup_core::model::Cpu;
use gup_core::model::mm::vma_lookup;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap, munmap};
use gup_core::model::pgtable::mapped_page;
use loom_tests::calls::{FOUR, MM, pin_user_pages_with_retry, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn untouched(cpu: &Cpu) -> Result<(), Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, ()) = scene(FOUR, kernel, untouched);
    let unmap = body(|cpu| {
        munmap(cpu, MM, 0, 1).expect("it is mapped");
        Held::nothing()
    });
    let slow = body(|cpu| pin_user_pages_with_retry(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [unmap, slow])?;
    let cpu = Cpu::new(&world, kernel, 0);
    if let Some(page) = mapped_page(&cpu, MM, 0)
        && vma_lookup(&cpu, MM, 0).is_none()
    {
        let rule = "what is mapped belongs to a VMA";
        let what = format!("page {} is mapped, and there is no VMA", page.0);
        return Err(Broken { oracle: "accounting", page: Some(page), rule, what });
    }
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn nothing_is_faulted_into_a_vma_that_is_gone() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_lock() {
    let change = "without safeguard:mmap-lock";
    fails!("accounting", Bound::All, [V5_15, V6_12], change, race);
}
