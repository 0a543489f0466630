// SPDX-License-Identifier: GPL-2.0-only
//! errno: a naive specification of what each call may return.
//!
//! Written from what the calls promise, not from how they work: it looks at
//! the VMAs and at what is mapped, page by page, and never takes a
//! reference. A call must handle all pages up to the first that it cannot
//! have. It may stop earlier, or fail, only for a reason: an allocation
//! failed, a signal came, an architecture hook refused, a page that had to
//! move could not, a counter is full.

use gup_core::errno::Errno;
use gup_core::flags::{Foll, VmFlags};
use gup_core::model::cpu::Event;
use gup_core::model::mm::{Vma, vma_lookup};
use gup_core::model::page::is_pinnable_page;
use gup_core::model::pgtable::{Leaf, leaf_at};
use gup_core::model::{Cpu, Page};

use super::Violation;
use super::bookkeeping::owned_of;
use crate::exec::Ledger;
use crate::scenario::{Call, CallOp, CallResult};

/// What a call may return, as far as it is known before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The caller broke a documented rule: the kernel warns and refuses.
    pub misuse: bool,
    /// Pages up to the first that cannot be had.
    reachable: usize,
    /// A page that a longterm pin must move has references that forbid it.
    immovable: bool,
    /// A page's count is so high that it must be refused.
    saturated: bool,
}

/// Whether the flags break a rule that the kernel documents by a WARN.
fn is_misuse(op: &CallOp) -> bool {
    let f = op.flags;
    if !op.call.pins() {
        // get_user_pages_unlocked() and _fast_only() do not look for FOLL_PIN.
        return f.intersects(Foll::PIN | Foll::LONGTERM) || fast_flags_unknown(op);
    }
    let unlockable = matches!(op.call, Call::PinUserPagesLocked | Call::PinUserPagesUnlocked)
        || (op.call.remote() && op.locked);
    f.contains(Foll::GET) || (f.contains(Foll::LONGTERM) && unlockable) || fast_flags_unknown(op)
}

fn fast_flags_unknown(op: &CallOp) -> bool {
    let known = Foll::WRITE | Foll::LONGTERM | Foll::FORCE | Foll::PIN | Foll::GET;
    op.call.fast() && !known.contains(op.flags)
}

/// The specification of `op` in the world as it is now.
pub fn specify(cpu: &Cpu, ledger: &Ledger, op: &CallOp) -> Spec {
    let misuse = is_misuse(op);
    let mut spec = Spec { misuse, reachable: 0, immovable: false, saturated: false };
    if misuse {
        return spec;
    }
    for addr in op.range.addrs() {
        let leaf = leaf_at(cpu, op.range.mm, addr);
        let vma = vma_lookup(cpu, op.range.mm, addr);
        if !vma.is_some_and(|v| reachable(op, &v, leaf)) {
            break;
        }
        spec.reachable += 1;
        if let Some(page) = leaf.and_then(|l| l.counted(cpu.world)) {
            let head = cpu.world.head_of(page);
            spec.saturated |= cpu.world.refcount(head) <= 0;
            if op.flags.contains(Foll::LONGTERM) && !is_pinnable_page(cpu, head) {
                spec.immovable |= has_foreign_references(cpu, ledger, head);
            }
        }
    }
    spec
}

/// Whether a page of `vma`, mapped so or not at all, can be had with these
/// flags.
fn reachable(op: &CallOp, vma: &Vma, leaf: Option<Leaf>) -> bool {
    let f = op.flags;
    let has = |flag| vma.flags.contains(flag);
    let forced = f.contains(Foll::FORCE);
    let permitted = if f.contains(Foll::WRITE) {
        has(VmFlags::WRITE) || (forced && vma.is_cow_mapping())
    } else {
        has(VmFlags::READ) || forced
    };
    if !permitted || has(VmFlags::PFNMAP) || (f.contains(Foll::ANON) && !vma.is_anonymous()) {
        return false;
    }
    let special = leaf.is_some_and(|l| l.special);
    if f.contains(Foll::DUMP) && (leaf.is_none() || special) {
        // A core dump takes what is there, and no zero page. A special page
        // that a write would replace is replaced first.
        let replaced = special && f.contains(Foll::WRITE) && vma.is_anonymous();
        return replaced;
    }
    if vma.is_anonymous() {
        return true;
    }
    // A driver's mapping: only what it inserted, and raw frame numbers only
    // for callers that want no page.
    leaf.is_some() && (!special || op.nopages)
}

/// References that no migration can account for: the harness's own, and
/// those on pages that are not on the LRU for good.
fn has_foreign_references(cpu: &Cpu, ledger: &Ledger, head: Page) -> bool {
    let owned = owned_of(cpu, ledger, head);
    owned.gets != 0 || owned.pins != 0 || !cpu.world.look(head).anon
}

/// Whether `result` is one that the specification allows, given what
/// happened meanwhile.
pub fn check(cpu: &Cpu, op: &CallOp, spec: &Spec, result: CallResult) -> Option<Violation> {
    let events = cpu.events();
    let asked = usize::from(op.range.pages);
    let fail = |expected: String| {
        let actual = match result {
            Ok(n) => n.to_string(),
            Err(e) => format!("-{e}"),
        };
        Some(Violation::new("errno", expected, actual))
    };
    if spec.misuse {
        let refused = if op.call.fast_only() { Ok(0) } else { Err(Errno::EINVAL) };
        return if result == refused { None } else { fail(word(refused)) };
    }
    let excuse = Excuse::new(spec, op, events);
    let allowed = match result {
        // The fast path alone may stop anywhere.
        Ok(n) if op.call.fast_only() => n <= spec.reachable,
        Ok(0) => excuse.nowait,
        Ok(n) => n == spec.reachable || (n < spec.reachable && excuse.any()),
        Err(_) if op.call.fast_only() => false,
        Err(Errno::EFAULT) => spec.reachable == 0,
        Err(Errno::ENOMEM) => excuse.no_memory,
        Err(Errno::EINTR) => excuse.signal,
        Err(Errno::EINVAL) => excuse.arch,
        Err(_) => false,
    };
    if allowed {
        return None;
    }
    fail(match spec.reachable {
        0 => "-EFAULT".into(),
        n if n == asked => n.to_string(),
        n => format!("{n} of {asked}"),
    })
}

/// Why a call may return less than it could.
struct Excuse {
    no_memory: bool,
    signal: bool,
    arch: bool,
    nowait: bool,
}

impl Excuse {
    fn new(spec: &Spec, op: &CallOp, events: Event) -> Self {
        let longterm = op.flags.contains(Foll::LONGTERM);
        Excuse {
            no_memory: events.contains(Event::ALLOC_FAILED)
                || spec.saturated
                || (longterm && (spec.immovable || events.contains(Event::MIGRATE_INJECTED))),
            signal: events.contains(Event::SIGNALLED),
            arch: events.contains(Event::ARCH_FAILED),
            nowait: events.contains(Event::RETRIED) && op.flags.contains(Foll::NOWAIT),
        }
    }
    fn any(&self) -> bool {
        self.no_memory || self.signal || self.arch || self.nowait
    }
}

fn word(r: CallResult) -> String {
    match r {
        Ok(n) => n.to_string(),
        Err(e) => format!("-{e}"),
    }
}
