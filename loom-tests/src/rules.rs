// SPDX-License-Identifier: GPL-2.0-only
//! Rules that races end with, beside those of gup-core.

use gup_core::invariants::Broken;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Page, World};

use crate::calls::MM;
use crate::{Held, Verdict};

/// What is pinned is what the address maps.
///
/// # Errors
/// The rule `reliability`.
pub fn pins_are_mapped(cpu: &Cpu, held: &Held, addr: u64) -> Verdict {
    let mapped = mapped_page(cpu, MM, addr);
    let Some(&page) = held.pins.iter().find(|&&p| mapped != Some(p)) else { return Ok(()) };
    let what = format!("page {} is pinned, {} is mapped", page.0, number(mapped));
    let rule = "a pinned address still maps the pinned page";
    Err(Broken { oracle: "reliability", page: Some(page), rule, what })
}

/// A page that a call returned was not used again since it was allocated for
/// the `epoch`th time.
///
/// # Errors
/// The rule `lifetime`.
pub fn not_used_again(world: &World, held: &Held, epoch: u32) -> Verdict {
    let mut pages = held.pins.iter().chain(&held.gets);
    let Some(&page) = pages.find(|&&p| world.epoch(p) != epoch) else { return Ok(()) };
    let what = format!("page {} was returned after it was used again", page.0);
    let rule = "a page that is held is not used again";
    Err(Broken { oracle: "lifetime", page: Some(page), rule, what })
}

fn number(page: Option<Page>) -> String {
    page.map_or("none".into(), |p| p.0.to_string())
}
