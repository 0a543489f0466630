// SPDX-License-Identifier: GPL-2.0-only
//! Two slow pins that fault in the first pages of one page table.
//!
//! The two addresses are neighbours, under a PMD entry that is still empty, so
//! both CPUs make a table for it. mmap_lock keeps neither out: both hold it for
//! reading. The tables above exist: what the model does without the kernel's
//! page_table_lock is not raced here.
//!
//!   CPU 0  pin_user_pages(0)                 CPU 1  pin_user_pages(1)
//!   (A1) PMD empty: allocate a table         (B1) PMD empty: allocate a table
//!   (A2) lock, still empty: link it,         (B2) lock, still empty: link it,
//!        else free it again                       else free it again
//!   (A3) fault the page in, pin it           (B3) fault the page in, pin it
//!
//! Never: a table, and with it a page that is pinned and mapped, is lost.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::limits::{PAGE_SIZE, PMD_SIZE};
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Limits};
use loom_tests::calls::{MM, pin_user_pages, scene};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, holds};

/// The tables of one address, and one more PTE table for each CPU.
const LIMITS: Limits =
    Limits { frames: 5, movable_start: 1, device_start: 5, tables: 6, cpus: 2, ..Limits::LOOM };

/// Two pages to fault in, and a neighbour that brings the upper tables.
fn empty_vma(cpu: &Cpu) -> Result<(), Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 2, Prot::ReadWrite, Kind::Anon)?;
    mmap(cpu, MM, PMD_SIZE, 1, Prot::ReadWrite, Kind::Anon)?;
    user_store(cpu, MM, PMD_SIZE, 1).map(|_| ())
}

fn race(kernel: Kernel) -> Verdict {
    let (world, ()) = scene(LIMITS, kernel, empty_vma);
    let pin = |addr| body(move |cpu| pin_user_pages(cpu, addr, Foll::WRITE));
    let held = at_once(&world, kernel, [pin(0), pin(PAGE_SIZE)])?;
    held.adds_up(&world)?;
    let cpu = Cpu::new(&world, kernel, 0);
    mapcounts_match_tables(&cpu)?;
    let mapped = [0, PAGE_SIZE].map(|addr| mapped_page(&cpu, MM, addr));
    assert!(held.pins.into_iter().map(Some).eq(mapped), "each pins what is mapped there");
    Ok(())
}

#[test]
fn no_page_and_no_table_is_lost() {
    holds!(Bound::All, [V5_15, V6_12], race);
}
