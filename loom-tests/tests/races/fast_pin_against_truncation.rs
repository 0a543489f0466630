// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the truncation of the file whose page it finds.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  truncate_pagecache()
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) refcount + 1, + 1023                (B2) page leaves the page cache,
//!   (A3) PTE still the same?                      its mapping is NULL
//!                                            (B3) last put: the page is free
//!                                            (B4) somebody else's page
//!
//! A pin from before (B3) keeps the page, which belongs to nobody any more;
//! the kernel promises no more. With (A2) behind (B4), (A3) gives it back; on
//! v6.12 that (B4)'s page has no mapping is reason enough.
//!
//! Never: the call returns a page that was freed since it began; the counts
//! are others than what is held.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE};
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::filemap::{File, truncate};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{FileMap, Prot, mm_alloc, mmap_file};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Page};
use loom_tests::calls::{FOUR, MM, pin_user_pages_fast_only, scene};
use loom_tests::rules::not_used_again;
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// A page of a shared mapping of a file, written to.
fn of_a_file(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    let map = FileMap { shared: true, file: File::Shmem, pgoff: 0 };
    mmap_file(cpu, MM, 0, 1, Prot::ReadWrite, map)?;
    let page = user_store(cpu, MM, 0, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(FOUR, kernel, of_a_file);
    let epoch = world.epoch(page);
    let cut = body(|cpu| {
        truncate(cpu, File::Shmem, 0).expect("files can be truncated");
        // Two pages are left where the page was, if it is free.
        let page = || alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0);
        Held::gets([page(), page()].into_iter().flatten())
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [cut, fast])?;
    not_used_again(&world, &Held::pins(held.pins.clone()), epoch)?;
    held.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_page_that_was_freed_is_not_returned() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pte_recheck() {
    let change = "without safeguard:pte-recheck";
    fails!("lifetime", Bound::Preemptions(2), [V5_15], change, race);
}
