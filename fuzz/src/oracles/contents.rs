// SPDX-License-Identifier: GPL-2.0-only
//! reliability and isolation: who sees whose stores.
//!
//! Every store writes a token that says who wrote it and when. What a
//! process should read at an address is kept in the [`Ledger`]; a pin ties
//! its page to the address it was taken at, for as long as the base promises
//! that (see [`super::WAIVERS`]).

use gup_core::model::page::pages_of;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Page};

use super::Violation;
use crate::exec::Ledger;
use crate::exec::ledger::Expect;

/// Judges what a process (`pid`), or a device working for it, has read.
/// `expect` is what it should have read, where that is known.
pub fn read(
    ledger: &Ledger,
    pid: u16,
    page: Page,
    expect: Expect,
    token: u64,
) -> Option<Violation> {
    if !ledger.may_see(pid, token) {
        let (who, when) = (token & 0xffff, token >> 16);
        let expected = format!("process {pid} sees no store made by others after fork");
        let actual = format!("page {} holds store {when} of process {who}", page.0);
        return Some(Violation::new("isolation", expected, actual).of_page(page));
    }
    let Expect::Exactly(t) = expect else { return None };
    if t == token {
        return None;
    }
    let expected = format!("store {} is read", t >> 16);
    let actual = format!("page {} holds store {}", page.0, token >> 16);
    Some(Violation::new("reliability", expected, actual).of_page(page))
}

/// reliability: an address that a pin is tied to still maps the pinned page.
pub fn ties(cpu: &Cpu, ledger: &Ledger) -> Option<Violation> {
    // Nobody counts the mappings of the zero page: losing one is no touch.
    let touched = cpu.touched() | cpu.world.zero_page().bit();
    if touched & ledger.tied_frames() == 0 {
        // Only a page that lost a mapping can have come loose, and it is
        // touched then; compound pages are touched at their head.
        let heads = pages_of(ledger.tied_frames()).map(|p| cpu.world.head_of(p));
        if !heads.into_iter().any(|h| touched & h.bit() != 0) {
            return None;
        }
    }
    for (mm, addr, page) in ledger.ties() {
        let mapped = mapped_page(cpu, mm, addr);
        if mapped != Some(page) {
            let expected = format!("m{} {addr:#x} still maps page {}, pinned there", mm.0, page.0);
            let actual = match mapped {
                Some(p) => format!("it maps page {}", p.0),
                None => "it maps nothing".into(),
            };
            return Some(Violation::new("reliability", expected, actual).of_page(page));
        }
    }
    None
}
