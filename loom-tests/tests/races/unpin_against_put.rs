// SPDX-License-Identifier: GPL-2.0-only
//! An unpin against the last put of a compound page, whose frames are pinned
//! anew.
//!
//!   CPU 0  unpin_user_page()                 CPU 1  put_page(), alloc_pages()
//!   (A1) pins of head − 1                    (B1) refcount of head − 1
//!   (A2) refcount of head − 1                (B2) free now? then allocate it,
//!                                                 pins = 0
//!                                            (B3) pin it, look at the pins
//!
//! Whoever comes last frees the page. The reference of (A2) keeps it until (A1)
//! is done: the other way round (B1) frees a page that counts a pin, and after
//! (B3) it would look as if nobody had pinned it.
//!
//! Never: a page is freed that counts a pin; a page that is pinned does not
//! look so.

use std::sync::{Arc, OnceLock};

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE, Gfp};
use gup_core::invariants::Broken;
use gup_core::model::page::{page_maybe_dma_pinned, put_page};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{grab_fast, scene, unpin_user_page};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

/// Room for one compound page.
const LIMITS: Limits = Limits { tables: 0, mms: 0, cpus: 2, ..Limits::LOOM };

/// A compound page with a pin count of its own, nobody's yet.
fn compound_page(cpu: &Cpu) -> Option<Page> {
    alloc_pages(cpu, GFP_HIGHUSER_MOVABLE | Gfp::COMP, 2)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(LIMITS, kernel, |cpu| {
        let page = compound_page(cpu).ok_or(Errno::ENOMEM)?;
        grab_fast(cpu, page, Foll::PIN);
        Ok(page)
    });
    let looked = Arc::new(OnceLock::new());
    let found = Arc::clone(&looked);
    let unpin = body(move |cpu| {
        unpin_user_page(cpu, page);
        Held::nothing()
    });
    let put_and_reuse = body(move |cpu| {
        put_page(cpu, page);
        let Some(page) = compound_page(cpu) else { return Held::nothing() };
        let pins = grab_fast(cpu, page, Foll::PIN);
        found.set(page_maybe_dma_pinned(cpu, page)).expect("it looks once");
        Held::gets([page]).and(pins)
    });
    let held = at_once(&world, kernel, [unpin, put_and_reuse])?;
    held.adds_up(&world)?;
    if looked.get() == Some(&false) {
        let rule = "a page that is pinned looks pinned";
        let what = format!("page {} is pinned, and does not look so", page.0);
        return Err(Broken { oracle: "accounting", page: Some(page), rule, what });
    }
    Ok(())
}

#[test]
fn a_pin_of_the_next_user_stays() {
    holds!(Bound::All, [V5_15, V6_12], race);
}

#[test]
fn found_without_pins_before_references() {
    // The kernel notices that it frees a page that counts a pin.
    fails!("splat", Bound::All, [V5_15, V6_12], "without safeguard:pincount-before-put", race);
}
