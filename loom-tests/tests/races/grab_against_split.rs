// SPDX-License-Identifier: GPL-2.0-only
//! A grab against the split of the compound page.
//!
//! The page is a tail. CPU 1 holds the only reference on the compound page,
//! and splits it as split_huge_page() does: it keeps the tail and gives the
//! rest back, the old head with it.
//!
//!   CPU 0  try_grab_compound_head(page)      CPU 1  __split_huge_page(head)
//!   (A1) head = compound_head(page)          (B1) freeze head: refcount 1 → 0
//!   (A2) refcount of head + 1, unless 0      (B2) page leaves head, refcount 1
//!   (A3) compound_head(page) still head?     (B3) thaw head: refcount 1
//!   (A4) count the pin on head               (B4) put_page(head): head is free
//!
//! With (B1) to (B3) between (A1) and (A2), the reference is one on the old
//! head, with which `page` has nothing to do any more. (A3) is the recheck of
//! c24d37322548. (B1) keeps (A2) out of the split itself: CPU 0 gets its
//! reference before it, and the split is off, or after. If (B1) took any
//! count, a reference from before it would be lost.
//!
//! Never: CPU 0 has pinned `page`, and the pin is not on the head of `page`.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::model::huge_memory::__split_huge_page;
use gup_core::model::page::{page_ref_freeze, put_page, trylock_page, unlock_page};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{grab_fast, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// No address space: the page was looked up before, and nobody maps it.
const LIMITS: Limits = Limits { tables: 0, mms: 0, cpus: 2, ..Limits::LOOM };
const GFP: Gfp = GFP_HIGHUSER_MOVABLE;

fn race(kernel: Kernel, order: u32) -> Verdict {
    let (world, head) =
        scene(LIMITS, kernel, |cpu| alloc_pages(cpu, GFP | Gfp::COMP, order).ok_or(Errno::ENOMEM));
    let page = head.nth(1);
    let grab = body(move |cpu| grab_fast(cpu, page, Foll::PIN));
    let split = body(move |cpu| {
        split_off(cpu, head, page, 1 << order);
        Held::gets([page])
    });
    at_once(&world, kernel, [grab, split])?.adds_up(&world)
}

/// split_huge_page() of a page that nobody maps: the caller's reference ends
/// on `page`, whether the split succeeds or not.
fn split_off(cpu: &Cpu, head: Page, page: Page, nr: u64) {
    assert!(trylock_page(cpu, page), "nobody else locks pages here");
    if page_ref_freeze(cpu, head, 1) {
        __split_huge_page(cpu, head, nr, None);
        for subpage in (0..nr).map(|i| head.nth(i)).filter(|&p| p != page) {
            unlock_page(cpu, subpage);
            put_page(cpu, subpage);
        }
    }
    unlock_page(cpu, page);
}

#[test]
fn a_pin_sits_on_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], |kernel| race(kernel, 1));
    holds!(Bound::All, [V5_15, V6_12], |kernel| race(kernel, 2));
}

#[test]
fn found_without_the_head_recheck() {
    fails!("accounting", Bound::Preemptions(2), [V5_15, V6_12], "without c24d37322548", |k| race(
        k, 1
    ));
    fails!("accounting", Bound::Preemptions(2), [V5_15, V6_12], "without c24d37322548", |k| race(
        k, 2
    ));
}

#[test]
fn found_without_an_exact_freeze() {
    let race = |kernel| race(kernel, 1);
    fails!(
        "accounting",
        Bound::Preemptions(2),
        [V5_15, V6_12],
        "without safeguard:freeze-exact",
        race
    );
}
