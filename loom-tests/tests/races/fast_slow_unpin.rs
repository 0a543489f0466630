// SPDX-License-Identifier: GPL-2.0-only
//! A fast pin, a slow pin and an unpin of one page, by three CPUs.
//!
//! The page is a small one, mapped, and pinned once. Nobody unmaps it, so all
//! that can go wrong is the counting.
//!
//!   CPU 0  unpin_user_page()        CPU 1  pin_user_pages()    CPU 2  pin_user_pages_fast()
//!   (A1) released + 1               (B1) lock the PTEs         (C1) read the PTE
//!   (A2) refcount still ≥ 1024?     (B2) refcount > 0?         (C2) refcount + 1, unless 0
//!   (A3) refcount − 1023            (B3) refcount + 1024       (C3) page still a head?
//!   (A4) refcount − 1: is it 0?     (B4) acquired + 1          (C4) refcount + 1023
//!                                                              (C5) acquired + 1, PTE the same?
//!
//! A small page is its own head for good, so the recheck (C3) finds nothing
//! here: fast_slow_last_unpin.rs is the race that it decides, and has the
//! twin that fails without it.
//!
//! Never: the page carries more or less than its mapping and the two pins.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, pin_user_pages, pin_user_pages_fast, scene, unpin_user_page};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, holds};

/// One page to pin, and a few to spare.
const LIMITS: Limits = Limits { frames: 4, movable_start: 2, device_start: 4, ..Limits::LOOM };

/// A mapped page, and a pin of it.
fn pinned_page(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon)?;
    user_store(cpu, MM, 0, 1)?;
    pin_user_pages(cpu, 0, Foll::WRITE).pins.pop().ok_or(Errno::EFAULT)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, pinned_page);
    let unpin = body(move |cpu| {
        unpin_user_page(cpu, page);
        Held::nothing()
    });
    let slow = body(|cpu| pin_user_pages(cpu, 0, Foll::WRITE));
    let fast = body(|cpu| pin_user_pages_fast(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [unpin, slow, fast])?;
    assert_eq!(held.pins, [page, page], "both find the page mapped");
    held.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn counts_add_up() {
    holds!(Bound::All, [V5_15, V6_12], race);
}
