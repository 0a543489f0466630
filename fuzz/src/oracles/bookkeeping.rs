// SPDX-License-Identifier: GPL-2.0-only
//! accounting, lifetime, locking, splat, progress: the books are right after
//! every op.

use gup_core::invariants::{Owned, counts_add_up_with, nothing_left_behind, pin_statistics};
use gup_core::model::limits::{MAX_CPUS, PAGEVEC_SIZE};
use gup_core::model::page::pages_of;
use gup_core::model::{Cpu, Page};

use super::Violation;
use crate::exec::Ledger;

/// Checks every page that the op touched, and what it may have left behind.
pub fn check(cpu: &Cpu, ledger: &Ledger, misuse: bool) -> Option<Violation> {
    let touched = cpu.touched();
    lifetime(cpu, ledger, touched)
        .or_else(|| own(cpu, misuse))
        .or_else(|| nothing_left_behind(cpu).err().map(Violation::from))
        .or_else(|| accounting(cpu, ledger, touched))
}

/// Checks what the CPU may have left behind of an op that ran in the middle of
/// another's: the pages are both of theirs.
pub fn check_own(cpu: &Cpu, misuse: bool) -> Option<Violation> {
    own(cpu, misuse).or_else(|| {
        let left = cpu.left_behind()?;
        Some(Violation::new("locking", "an op leaves no lock held".into(), left.into()))
    })
}

fn own(cpu: &Cpu, misuse: bool) -> Option<Violation> {
    if misuse { None } else { splat(cpu) }.or_else(|| progress(cpu))
}

/// accounting: the counts of each touched page, and the pin statistics.
fn accounting(cpu: &Cpu, ledger: &Ledger, touched: u128) -> Option<Violation> {
    let mut done = 0u128;
    let mut batched = [Page::UNSET; MAX_CPUS * PAGEVEC_SIZE];
    if touched != 0 {
        batched.iter_mut().zip(cpu.world.batched()).for_each(|(slot, page)| *slot = page);
    }
    for page in pages_of(touched) {
        let head = cpu.world.head_of(page);
        if done & head.bit() != 0 {
            continue;
        }
        done |= head.bit();
        let owned = owned_of(cpu, ledger, head);
        let batched = batched.iter().filter(|&&p| p == head).count() as i32;
        if let Err(b) = counts_add_up_with(cpu.world, cpu.kernel, head, owned, batched) {
            return Some(b.into());
        }
    }
    pin_statistics(cpu.world, ledger.pins_counted()).err().map(Violation::from)
}

/// What the harness holds on a compound page.
pub fn owned_of(cpu: &Cpu, ledger: &Ledger, head: Page) -> Owned {
    let mut owned = Owned::default();
    let span = cpu.world.span_of(head);
    for page in pages_of(span & ledger.owned_frames()) {
        let (gets, pins) = ledger.held(page);
        owned.gets += gets;
        owned.pins += pins;
    }
    owned
}

/// lifetime: no frame that the harness holds was freed.
fn lifetime(cpu: &Cpu, ledger: &Ledger, touched: u128) -> Option<Violation> {
    let owned = ledger.owned_frames();
    let free = if owned != 0 { cpu.world.free_frames() } else { 0 };
    for page in pages_of(owned) {
        let head = cpu.world.head_of(page);
        if touched & (page.bit() | head.bit()) == 0 {
            continue;
        }
        let used_again = cpu.world.epoch(page) != ledger.epoch(page);
        let freed = cpu.world.refcount(head) == 0 || free & page.bit() != 0;
        if used_again || freed {
            let (gets, pins) = ledger.held(page);
            let expected = format!("page {} stays in use: {gets} got, {pins} pinned", page.0);
            let refcount = cpu.world.refcount(head);
            let actual = format!("it was freed (refcount of its head {refcount})");
            return Some(Violation::new("lifetime", expected, actual).of_page(page));
        }
    }
    None
}

/// splat: no WARN, no BUG.
fn splat(cpu: &Cpu) -> Option<Violation> {
    if !cpu.has_splat() {
        return None;
    }
    let first = *cpu.splats().first()?;
    let v = Violation::new("splat", "no WARN and no BUG".into(), first.to_string());
    Some(Violation { function: Some(first.function), ..v })
}

/// progress: the op came to an end by itself.
fn progress(cpu: &Cpu) -> Option<Violation> {
    if let Some(wait) = cpu.waits_for() {
        let actual = format!("it waits for ever: {wait}");
        return Some(Violation::new("progress", "the call ends by itself".into(), actual));
    }
    let stuck = cpu.events().contains(gup_core::model::cpu::Event::OUT_OF_BUDGET);
    stuck.then(|| {
        let actual = format!("it was killed after {} steps", cpu.steps_taken());
        Violation::new("progress", "the call ends by itself".into(), actual)
    })
}
