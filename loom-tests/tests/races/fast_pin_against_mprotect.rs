// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, writing, against mprotect(PROT_READ) and a look at the pins.
//!
//!   CPU 0  pin_user_pages_fast_only()        CPU 1  change_protection()
//!   (A1) read the PTE: writable              (B1) clear the PTE
//!   (A2) refcount + 1, + 1023                (B2) set it, read-only
//!   (A3) PTE still the same?                 (B3) a full barrier: the TLB flush
//!                                            (B4) page_maybe_dma_pinned()?
//!
//! Whoever write-protects a page and then finds no pin may rely on its
//! contents. With (A2) behind (B4), (A3) sees another PTE. With (A2) before
//! (B4) the pin is found: the barrier between (A2) and (A3) pairs with (B3).
//!
//! Never: (B4) finds no pin, and CPU 0 has one, through which it may store.

use std::sync::{Arc, OnceLock};

use gup_core::flags::Foll;
use gup_core::invariants::Broken;
use gup_core::model::mmap::{Prot, mprotect};
use gup_core::model::page::{page_maybe_dma_pinned, trylock_page, unlock_page};
use loom_tests::calls::{FOUR, MM, mapped, pin_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(FOUR, kernel, |cpu| mapped(cpu, 1));
    let looked = Arc::new(OnceLock::new());
    let found = Arc::clone(&looked);
    let protect = body(move |cpu| {
        mprotect(cpu, MM, 0, 1, Prot::Read).expect("the VMA is there");
        // As who writes a page to a disk, it locks the page: with (B3).
        assert!(trylock_page(cpu, page), "nobody else locks pages here");
        found.set(page_maybe_dma_pinned(cpu, page)).expect("it looks once");
        unlock_page(cpu, page);
        Held::nothing()
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::WRITE));
    let held = at_once(&world, kernel, [protect, fast])?;
    if !held.pins.is_empty() && looked.get() == Some(&false) {
        let rule = "a page that is write-protected and not pinned is not written";
        let what = format!("page {} is pinned for writing, and none was seen", page.0);
        return Err(Broken { oracle: "permission", page: Some(page), rule, what });
    }
    held.adds_up(&world)
}

#[test]
fn a_pin_that_may_write_is_seen() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_the_pte_recheck() {
    let change = "without safeguard:pte-recheck";
    fails!("permission", Bound::Preemptions(3), [V5_15, V6_12], change, race);
}

#[test]
fn found_without_the_barrier_after_the_grab() {
    let change = "without safeguard:barrier-after-grab";
    fails!("permission", Bound::Preemptions(3), [V6_12], change, race);
}
