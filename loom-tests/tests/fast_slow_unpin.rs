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

use std::sync::Arc;

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::gup::v5_15::{pin_user_pages, pin_user_pages_fast, unpin_user_page};
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::memory::user_store;
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock};
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::{Cpu, Limits, Page, World};
use loom_tests::{Body, Bound, Held, Kernel, Verdict, at_once, kernel_under_test, model};

/// One page to pin, and a few to spare.
const LIMITS: Limits = Limits { frames: 4, movable_start: 2, device_start: 4, ..Limits::LOOM };
const MM: MmId = MmId(0);
const ADDR: u64 = 0;

fn pin_slowly(cpu: &Cpu) -> Result<Page, Errno> {
    let mut pages = [Page::UNSET];
    mmap_read_lock(cpu, MM);
    let n = pin_user_pages(cpu, ADDR, 1, Foll::WRITE, Some(&mut pages), None);
    mmap_read_unlock(cpu, MM);
    n.map(|_| pages[0])
}

/// A mapped page, and a pin of it.
fn pinned_page(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, ADDR, 1, Prot::ReadWrite, Kind::Anon)?;
    user_store(cpu, MM, ADDR, 1)?;
    pin_slowly(cpu)
}

fn race(kernel: Kernel) -> Verdict {
    let world = Arc::new(World::new(LIMITS));
    let page = pinned_page(&Cpu::new(&world, kernel, 0)).expect("the world is empty");

    let unpin: Body = Box::new(move |cpu| {
        unpin_user_page(cpu, page);
        Held::nothing()
    });
    let slow: Body = Box::new(|cpu| Held::pins(pin_slowly(cpu)));
    let fast: Body = Box::new(|cpu| {
        let mut pages = [Page::UNSET];
        let n = pin_user_pages_fast(cpu, ADDR, 1, Foll::WRITE, &mut pages);
        Held::pins(n.map(|_| pages[0]))
    });
    let held = at_once(&world, kernel, [unpin, slow, fast])?;
    assert_eq!(held.pins, [page, page], "both find the page mapped");
    held.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn counts_add_up() {
    model(Bound::Preemptions(4), || race(kernel_under_test()));
}
