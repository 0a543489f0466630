// SPDX-License-Identifier: GPL-2.0-only
//! A slow pin against the unmapping of a page, which is freed and used again.
//!
//!   CPU 0  follow_page_pte()                 CPU 1  zap_pte_range()
//!   (A1) lock the PTEs                       (B1) lock the PTEs
//!   (A2) read the PTE: page                  (B2) clear the PTE, unlock
//!   (A3) refcount > 0? refcount + 1024       (B3) put_page(): page is free
//!   (A4) unlock                              (B4) a fault elsewhere uses page
//!
//! mmap_lock keeps neither out: both hold it for reading. The slow path does
//! not look again what the PTE says: with (B2) between (A2) and (A3) it would
//! pin a page that is free, or another's. The lock is what forbids that.
//!
//! Never: the call warns of a page without references, or pins a page that the
//! address did not map.

use gup_core::flags::Foll;
use gup_core::invariants::{Broken, mapcounts_match_tables};
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::madvise_dontneed;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{FOUR, MM, mapped, pin_user_pages, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, _) = scene(Limits { movable_start: 1, ..FOUR }, kernel, |cpu| mapped(cpu, 2));
    let zap = body(|cpu| {
        madvise_dontneed(cpu, MM, 0, 1).expect("the VMA is there");
        user_store(cpu, MM, PAGE_SIZE, 2).expect("there is memory");
        Held::nothing()
    });
    let slow = body(|cpu| pin_user_pages(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [zap, slow])?;
    let cpu = Cpu::new(&world, kernel, 0);
    let elsewhere = mapped_page(&cpu, MM, PAGE_SIZE);
    if let Some(&page) = held.pins.iter().find(|&&p| Some(p) == elsewhere) {
        let rule = "a call returns what is mapped at the address";
        let what = format!("page {} was returned, and is that of another address", page.0);
        return Err(Broken { oracle: "isolation", page: Some(page), rule, what });
    }
    held.adds_up(&world)?;
    mapcounts_match_tables(&cpu)
}

#[test]
fn a_page_that_is_unmapped_is_not_pinned() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_lock() {
    let change = "without safeguard:page-table-lock";
    fails!("isolation", Bound::All, [V5_15, V6_12], change, race);
}
