// SPDX-License-Identifier: GPL-2.0-only
//! A grab against the last put of a page and the reuse of its frame.
//!
//! Nobody holds anything on the page but the CPU that is about to give it up;
//! GUP-fast has read its number from a page table a moment ago. It is a tail,
//! or a small page.
//!
//!   CPU 0  try_grab_compound_head(page)      CPU 1  its last user
//!   (A1) head = compound_head(page)          (B1) put_page(head): refcount 0
//!   (A2) refcount of head + 1, unless 0      (B2) page leaves head, all is free
//!   (A3) compound_head(page) still head?     (B3) alloc_pages(): head is a page
//!   (A4) count the pin on head                    of a stranger, refcount 1
//!
//! With (B1) to (B3) between (A1) and (A2), the reference is one on the
//! stranger's page. (A3) is the recheck of c24d37322548. With (B1) before (A2)
//! it is one on a free page, but for "unless 0".
//!
//! Never: CPU 0 has grabbed `page`, and not the head of `page`.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::model::Limits;
use gup_core::model::page::put_page;
use gup_core::model::zone::alloc_pages;
use loom_tests::calls::{grab_fast, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// No address space: the page was looked up before.
const LIMITS: Limits = Limits { tables: 0, mms: 0, cpus: 2, ..Limits::LOOM };
const GFP: Gfp = GFP_HIGHUSER_MOVABLE;

/// The page is the second of one of order `order`.
fn tail(kernel: Kernel, order: u32) -> Verdict {
    let (world, head) =
        scene(LIMITS, kernel, |cpu| alloc_pages(cpu, GFP | Gfp::COMP, order).ok_or(Errno::ENOMEM));
    let grab = body(move |cpu| grab_fast(cpu, head.nth(1), Foll::PIN));
    let put_and_reuse = body(move |cpu| {
        put_page(cpu, head);
        Held::gets(alloc_pages(cpu, GFP, 0))
    });
    at_once(&world, kernel, [grab, put_and_reuse])?.adds_up(&world)
}

/// The page is a small one, and becomes the second of two.
fn becomes_a_tail(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, |cpu| {
        let pages = [(); 2].map(|()| alloc_pages(cpu, GFP, 0).expect("empty"));
        put_page(cpu, pages[0]);
        Ok(pages[1])
    });
    let grab = body(move |cpu| grab_fast(cpu, page, Foll::GET));
    let put_and_reuse = body(move |cpu| {
        put_page(cpu, page);
        Held::gets(alloc_pages(cpu, GFP | Gfp::COMP, 1))
    });
    at_once(&world, kernel, [grab, put_and_reuse])?.adds_up(&world)
}

#[test]
fn a_grab_is_one_of_the_pages_own_head() {
    holds!(Bound::All, [V5_15, V6_12], |kernel| tail(kernel, 1));
    holds!(Bound::All, [V5_15, V6_12], |kernel| tail(kernel, 2));
    holds!(Bound::All, [V5_15, V6_12], becomes_a_tail);
}

#[test]
fn found_without_the_head_recheck() {
    fails!("accounting", Bound::All, [V5_15, V6_12], "without c24d37322548", |k| tail(k, 1));
    fails!("accounting", Bound::All, [V5_15, V6_12], "without c24d37322548", |k| tail(k, 2));
}

#[test]
fn found_without_unless_zero() {
    fails!(
        "accounting",
        Bound::All,
        [V5_15, V6_12],
        "without safeguard:unless-zero",
        becomes_a_tail
    );
}
