// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the freeing of the page table that it walks.
//!
//!   CPU 0  get_user_pages_fast_only(0)       CPU 1  munmap(0), then a fault
//!   (A1) interrupts off                      (B1) clear the PTE and the PMD
//!   (A2) read the PMD: a table               (B2) wait for interrupts on
//!   (A3) read the PTE in it: page            (B3) free the table
//!   (A4) grab; PTE still the same?           (B4) use it for another address,
//!   (A5) interrupts on                            map another page there
//!
//! Without (B2), (A3) may come behind (B4): the page is that of the other
//! address, and (A4) sees nothing. On v6.12 the PMD is read again, too, since
//! 70cbc3cc78a9, which is enough here.
//!
//! Never: the call returns a page that was never mapped at the address.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::{Broken, mapcounts_match_tables};
use gup_core::model::limits::PMD_SIZE;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap, munmap};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, get_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// The tables of one address, and no more.
const LIMITS: Limits =
    Limits { frames: 4, movable_start: 1, device_start: 4, tables: 4, cpus: 2, ..Limits::LOOM };

/// A page under one PMD, and a mapping without pages under the next.
fn mapped(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon)?;
    mmap(cpu, MM, PMD_SIZE, 1, Prot::ReadWrite, Kind::Anon)?;
    let page = user_store(cpu, MM, 0, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, mapped);
    let epoch = world.epoch(page);
    let unmap = body(|cpu| {
        munmap(cpu, MM, 0, 1).expect("it is mapped");
        user_store(cpu, MM, PMD_SIZE, 2).expect("there is memory");
        Held::nothing()
    });
    let fast = body(|cpu| get_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [unmap, fast])?;
    if let Some(&got) = held.gets.first()
        && (got, world.epoch(got)) != (page, epoch)
    {
        let rule = "a call returns what was mapped at the address";
        let what = format!("page {} was returned, and never mapped there", got.0);
        return Err(Broken { oracle: "isolation", page: Some(got), rule, what });
    }
    held.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn a_page_of_another_address_is_not_returned() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_wait() {
    let bound = Bound::Preemptions(3);
    fails!("isolation", bound, [V5_15], "without safeguard:table-wait", race);
    let both = "without 70cbc3cc78a9 without safeguard:table-wait";
    fails!("isolation", bound, [V6_12], both, race);
}
