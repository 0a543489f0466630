// SPDX-License-Identifier: GPL-2.0-only
//! A fast pin, a slow pin and the last unpin of one page, by three CPUs.
//!
//! The page is a tail of a THP, the only one of it that is still mapped, and
//! pinned once. CPU 1 unmaps it, gives up the pin, which frees the THP, and
//! allocates a page for another purpose.
//!
//!   CPU 2  pin_user_pages_fast()     CPU 0  pin_user_pages()    CPU 1
//!   (A1) read the PTE: page          (B1) lock the PTEs         (C1) MADV_DONTNEED
//!   (A2) head = compound_head(page)  (B2) page there: pin it,   (C2) unpin: all is free
//!   (A3) refcount of head + 1        (B3) else fault one in,    (C3) alloc_pages()
//!   (A4) page still of head?              look again, pin it
//!   (A5) PTE still the same?
//!   else give up, go on as CPU 0
//!
//! (A5) does not stand in for (A4), the recheck of c24d37322548: with (C1) to
//! (C3) between (A2) and (A3), `head` is what (C3) allocated. If (B3) comes
//! next, the fault gets `page`, now a page of its own, and the PTE is the
//! same again.
//!
//! Never: a page carries more or less than its mappings and the pins that the
//! calls returned.

use gup_core::Errno;
use gup_core::flags::{FaultFlag, Foll, GFP_HIGHUSER_MOVABLE};
use gup_core::invariants::mapcounts_match_tables;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::memory::{handle_mm_fault, user_store};
use gup_core::model::mm::vma_lookup;
use gup_core::model::mmap::{Kind, Prot, madvise_dontneed, mm_alloc, mmap};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, pin_user_pages, pin_user_pages_fast, scene, unpin_user_page};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// A THP and as much again.
const LIMITS: Limits = Limits { frames: 16, movable_start: 8, device_start: 16, ..Limits::LOOM };
const ADDR: u64 = PAGE_SIZE;

/// A page of a THP of which nothing else is mapped, and a pin of it.
fn last_mapped_tail(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp)?;
    user_store(cpu, MM, ADDR, 1)?;
    madvise_dontneed(cpu, MM, 0, 1)?;
    madvise_dontneed(cpu, MM, 2 * PAGE_SIZE, HPAGE_PMD_NR - 2)?;
    // Dirty and young, as the PTE of a page that a write faults in.
    let vma = vma_lookup(cpu, MM, ADDR).expect("mapped above");
    handle_mm_fault(cpu, &vma, ADDR, FaultFlag::WRITE);
    pin_user_pages(cpu, ADDR, Foll::WRITE).pins.pop().ok_or(Errno::EFAULT)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, last_mapped_tail);
    let fast = body(|cpu| pin_user_pages_fast(cpu, ADDR, Foll::WRITE));
    let slow = body(|cpu| pin_user_pages(cpu, ADDR, Foll::WRITE));
    let unpin = body(move |cpu| {
        madvise_dontneed(cpu, MM, ADDR, 1).expect("the VMA is there");
        unpin_user_page(cpu, page);
        Held::gets(alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0))
    });
    // The last body runs on the thread that starts: with the fast pin there,
    // two preemptions are enough for the story above, else it takes three.
    at_once(&world, kernel, [slow, unpin, fast])?.adds_up(&world)?;
    mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
}

#[test]
fn counts_add_up() {
    holds!(Bound::Preemptions(3), [V5_15], race);
}

#[test]
fn found_without_the_head_recheck() {
    fails!("accounting", Bound::Preemptions(2), [V5_15], "without c24d37322548", race);
}
