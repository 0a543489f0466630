// SPDX-License-Identifier: GPL-2.0-only
//! A grab against the last put of a compound page and the reuse of its head.
//!
//! The page is a tail. Nobody holds anything on it but the CPU that is about
//! to give it up; GUP-fast has read its number from a page table a moment ago.
//!
//!   CPU 0  try_grab_compound_head(page)      CPU 1  its last user
//!   (A1) head = compound_head(page)          (B1) put_page(head): refcount 0
//!   (A2) refcount of head + 1, unless 0      (B2) page leaves head, all is free
//!   (A3) compound_head(page) still head?     (B3) alloc_pages(): head is a page
//!   (A4) count the pin on head                    of a stranger, refcount 1
//!
//! With (B1) to (B3) between (A1) and (A2), the reference is one on the
//! stranger's page. (A3) is the recheck of c24d37322548.
//!
//! Never: CPU 0 has pinned `page`, and the pin is not on the head of `page`.

use std::sync::Arc;

use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::gup::v5_15::grab::try_grab_compound_head;
use gup_core::model::page::put_page;
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits, World};
use loom_tests::{
    Body, Bound, Held, Kernel, Verdict, at_once, kernel, kernel_under_test, model, must_fail,
};

/// No address space: the page was looked up before.
const LIMITS: Limits = Limits { tables: 0, mms: 0, ..Limits::LOOM };

fn race(kernel: Kernel, order: u32) -> Verdict {
    let world = Arc::new(World::new(LIMITS));
    let gfp = GFP_HIGHUSER_MOVABLE;
    let head = alloc_pages(&Cpu::new(&world, kernel, 0), gfp | Gfp::COMP, order);
    let head = head.expect("the world is empty");
    let page = head.nth(1);

    let grab: Body = Box::new(move |cpu| {
        let flags = cpu.local_irq_save();
        let grabbed = try_grab_compound_head(cpu, page, 1, Foll::PIN);
        cpu.local_irq_restore(flags);
        Held::pins(grabbed.map(|_| page))
    });
    let put_and_reuse: Body = Box::new(move |cpu| {
        put_page(cpu, head);
        Held::gets(alloc_pages(cpu, gfp, 0))
    });
    at_once(&world, kernel, [grab, put_and_reuse])?.adds_up(&world)
}

#[test]
fn a_pin_sits_on_the_pages_own_head() {
    model(Bound::All, || race(kernel_under_test(), 1));
}

#[test]
fn a_pin_sits_on_the_pages_own_head_that_has_a_pin_count() {
    model(Bound::All, || race(kernel_under_test(), 2));
}

#[test]
fn found_without_c24d37322548() {
    must_fail("accounting", Bound::All, || race(kernel("v5.15 fixed without c24d37322548"), 1));
}

#[test]
fn found_without_c24d37322548_with_a_pin_count() {
    must_fail("accounting", Bound::All, || race(kernel("v5.15 fixed without c24d37322548"), 2));
}
