// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the fault that brings the page.
//!
//! CPU 1 gives back a compound page of two, for whose head there is a new user
//! at once; the fault gets what was its tail.
//!
//!   CPU 0  get_user_pages_fast_only()        CPU 1  put_page(), alloc_pages()
//!   (A1) read the PTE: page                  (B1) page leaves its head
//!   (A2) head = compound_head(page)          (B2) the old head has a new user
//!   (A3) refcount of head + 1                (B3) a fault sets the PTE: page
//!   (A4) compound_head(page) still head?
//!   (A5) PTE still the same?
//!
//! Whoever sees (B3) sees (B1): a barrier in front of (B3) pairs with the
//! address dependency between (A1) and (A2). Even if (A2) finds the old head,
//! (A4) does not: the full barrier of (A3) pairs with (B2).
//!
//! Never: the call returns a page, and the reference is elsewhere.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::page::put_page;
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Page};
use loom_tests::calls::{FOUR, MM, get_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, holds};

/// A compound page of two, and two pages to map. The second is there, and with
/// it the tables.
fn ready(cpu: &Cpu) -> Result<Page, Errno> {
    let head = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE | Gfp::COMP, 1).ok_or(Errno::ENOMEM)?;
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 2, Prot::ReadWrite, Kind::Anon)?;
    user_store(cpu, MM, PAGE_SIZE, 1)?;
    lru_add_drain_all(cpu);
    Ok(head)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, head) = scene(FOUR, kernel, ready);
    let fault = body(move |cpu| {
        put_page(cpu, head);
        let user = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0);
        let page = user_store(cpu, MM, 0, 2);
        assert_eq!((user, page), (Some(head), Ok(head.nth(1))), "nothing else is free");
        Held::gets(user)
    });
    let fast = body(|cpu| get_user_pages_fast_only(cpu, 0, Foll::WRITE));
    at_once(&world, kernel, [fault, fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_reference_sits_on_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], race);
}
