// SPDX-License-Identifier: GPL-2.0-only
//! Two grabs of a page whose reference count is nearly full.
//!
//!   CPU 0  try_get_folio()                   CPU 1  the same
//!   (A1) refcount < 0? then warn, give up    (B1) as (A1)
//!   (A2) refcount + 1, unless 0              (B2) as (A2)
//!   (A3) refcount + 1023                     (B3) as (A3)
//!
//! (A1) of 8fde12ca79af does not keep the count from becoming negative: with
//! both looks before both additions it goes beyond i32::MAX. But then it is
//! 2³¹ grabs from 0, and every later one is refused.
//!
//! Never: the count comes to 0 by adding, so that the page is freed under its
//! users; a grab succeeds when the count was negative before it began.

use gup_core::Errno;
use gup_core::flags::{Foll, GFP_HIGHUSER_MOVABLE};
use gup_core::invariants::Broken;
use gup_core::model::page::{GUP_PIN_COUNTING_BIAS, page_ref_add};
use gup_core::model::zone::alloc_pages;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{FOUR, grab_fast, scene};
use loom_tests::{Bound, Kernel, Verdict, at_once, body, holds};

/// References that others hold: room for one pin.
const HELD: i32 = i32::MAX - GUP_PIN_COUNTING_BIAS;

fn nearly_full(cpu: &Cpu) -> Result<Page, Errno> {
    let page = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0).ok_or(Errno::ENOMEM)?;
    page_ref_add(cpu, page, HELD - 1);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(Limits { tables: 0, mms: 0, ..FOUR }, kernel, nearly_full);
    let pin = || body(move |cpu| grab_fast(cpu, page, Foll::PIN));
    let held = at_once(&world, kernel, [pin(), pin()])?;
    let pins = held.pins.len() as i32;
    let expected = HELD.wrapping_add(pins * GUP_PIN_COUNTING_BIAS);
    let late = grab_fast(&Cpu::new(&world, kernel, 0), page, Foll::PIN).pins;
    let refused = expected > 0 || late.is_empty();
    if world.refcount(page) == expected && refused && (1..=2).contains(&pins) {
        return Ok(());
    }
    let rule = "a count that has overflown is not added to";
    let what = format!("{pins} pins, then {}: refcount {}", late.len(), world.refcount(page));
    Err(Broken { oracle: "lifetime", page: Some(page), rule, what })
}

#[test]
fn a_full_count_stays_away_from_zero() {
    holds!(Bound::All, [V5_15, V6_12], race);
}
