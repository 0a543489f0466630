// SPDX-License-Identifier: GPL-2.0-only
//! agreement: the fast path does what the slow path would have done.
//!
//! The slow call runs on a copy of the world as it was before the fast one.
//! Where the fast path succeeds, both must hand out the same pages and leave
//! the same counts; where it gives up and falls back, nothing may be lost.

use gup_core::model::{Cpu, Page, World};

use super::Violation;
use crate::scenario::{Call, CallOp, CallResult};

/// The slow call that a fast one must agree with.
pub fn slow_counterpart(op: &CallOp) -> Option<CallOp> {
    let call = match op.call {
        Call::GetUserPagesFast | Call::GetUserPagesFastOnly => Call::GetUserPages,
        Call::PinUserPagesFast | Call::PinUserPagesFastOnly => Call::PinUserPages,
        _ => return None,
    };
    Some(CallOp { call, ..*op })
}

/// What one side did.
#[derive(Debug)]
pub struct Side<'a> {
    /// What it returned.
    pub result: CallResult,
    /// What it handed out.
    pub pages: &'a [Page],
    /// The world after it.
    pub world: &'a World,
}

/// Compares the two sides. `op` is the fast call.
pub fn check(op: &CallOp, fast: &Side<'_>, slow: &Side<'_>) -> Option<Violation> {
    let asked = usize::from(op.range.pages);
    let said = |r: CallResult| r.map_or_else(|e| format!("-{e}"), |n| n.to_string());
    if fast.result != slow.result {
        let gave_up = match (fast.result, slow.result) {
            // Alone, the fast path may stop anywhere.
            (Ok(n), _) if op.call.fast_only() => n < asked,
            // What the fast path had already is not given back on an error.
            (Ok(n), Err(_)) => n > 0 && n < asked,
            _ => false,
        };
        return (!gave_up).then(|| {
            let expected = format!("{} as the slow path returns", said(slow.result));
            Violation::new("agreement", expected, said(fast.result))
        });
    }
    let n = fast.result.unwrap_or(0);
    if let Some(i) = (0..n).find(|&i| fast.pages[i] != slow.pages[i]) {
        let expected = format!("pages[{i}] is page {} as in the slow path", slow.pages[i].0);
        let actual = format!("it is page {}", fast.pages[i].0);
        return Some(Violation::new("agreement", expected, actual));
    }
    same_counts(fast.world, slow.world)
}

fn same_counts(fast: &World, slow: &World) -> Option<Violation> {
    for page in fast.pages() {
        let (f, s) = (fast.look(page), slow.look(page));
        let counts = |v: &gup_core::model::world::PageView| {
            (v.refcount, v.mapcount, v.compound_mapcount, v.pincount)
        };
        if counts(&f) != counts(&s) {
            let say = |v: &gup_core::model::world::PageView| {
                format!("page {} has refcount {}, pincount {}", page.0, v.refcount, v.pincount)
            };
            let expected = format!("{} as after the slow path", say(&s));
            return Some(Violation::new("agreement", expected, say(&f)).of_page(page));
        }
    }
    None
}

/// Whether a fast call can be compared at all: an injected failure hits the
/// two sides at different places.
pub fn comparable(cpu: &Cpu, misuse: bool) -> bool {
    !misuse && cpu.events().is_empty()
}
