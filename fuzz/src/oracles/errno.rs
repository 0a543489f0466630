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
use gup_core::flags::{Foll, Pg, VmFlags};
use gup_core::history::Base;
use gup_core::model::cpu::Event;
use gup_core::model::filemap::File;
use gup_core::model::mm::{Vma, vma_lookup};
use gup_core::model::pgtable::{Leaf, leaf_or_swapped_at};
use gup_core::model::zone::must_move;
use gup_core::model::{Cpu, Page};

use super::Violation;
use super::bookkeeping::owned_of;
use crate::exec::Ledger;
use crate::scenario::{Call, CallOp, CallResult};
use crate::subject::Chosen;

/// What a call may return, as far as it is known before it runs.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// The caller broke a documented rule: the kernel warns and refuses.
    pub misuse: bool,
    /// Pages up to the first that cannot be had.
    reachable: usize,
    /// Of these, the ones before the first that might need a fault which the
    /// caller forbids.
    sure: usize,
    /// What the call says of the first page if that cannot be had.
    refusal: Errno,
    /// A page may be one of hugetlbfs: no memory is SIGBUS there.
    hugetlb: bool,
    /// A page that a longterm pin must move has references that forbid it.
    immovable: bool,
    /// A longterm pin must move a THP, which is split if it is mapped in part or
    /// if there is no memory for another: since v6.12 its pages of zeroes
    /// become the zero page then, which must be replaced before it is pinned.
    may_split: bool,
    /// A page's count is so high that it must be refused.
    saturated: bool,
}

/// What callers are allowed and told, as far as texts differ in it.
#[derive(Debug)]
struct Api {
    /// Flags that nobody may pass.
    internal: Foll,
    /// Flags that the fast calls know.
    fast: Foll,
    /// A longterm pin does not drop mmap_lock.
    longterm_keeps_lock: bool,
    /// The pinning calls say 0, not -EINVAL, to those who break a rule; else
    /// the calls that only try the fast path do.
    pins_refuse_with_none: bool,
    /// Entries that nobody may access stop whoever does not say FOLL_FORCE;
    /// else only those who say FOLL_HONOR_NUMA_FAULT.
    hints_stop_all: bool,
    /// hugetlbfs has a walk of its own: FOLL_SPLIT_PMD means nothing there, a
    /// core dump gets what it would get elsewhere, and a signal is EFAULT.
    hugetlb_apart: bool,
}

const FAST: Foll =
    Foll::WRITE.union(Foll::LONGTERM).union(Foll::FORCE).union(Foll::PIN).union(Foll::GET);

const V5_15: Api = Api {
    internal: Foll::empty(),
    fast: FAST,
    longterm_keeps_lock: true,
    pins_refuse_with_none: false,
    hints_stop_all: true,
    hugetlb_apart: true,
};

/// The C of a tree before v6.3, in the surroundings of v6.12.
const V6_1: Api = Api { fast: FAST.union(Foll::NOFAULT), ..V5_15 };

const V6_12: Api = Api {
    internal: Foll::TOUCH.union(Foll::PIN),
    fast: V6_1.fast.union(Foll::HONOR_NUMA_FAULT),
    longterm_keeps_lock: false,
    pins_refuse_with_none: true,
    hints_stop_all: false,
    hugetlb_apart: false,
};

impl Api {
    fn of(base: Base) -> &'static Api {
        match base {
            Base::V5_15 => &V5_15,
            Base::V6_12 if Chosen::of_process().is_before(6, 3) => &V6_1,
            Base::V6_12 => &V6_12,
        }
    }

    /// Whether the flags break a rule that is documented by a WARN.
    fn is_misuse(&self, op: &CallOp) -> bool {
        let f = op.flags;
        if (op.call.fast() && !self.fast.contains(f)) || f.intersects(self.internal) {
            return true;
        }
        if !op.call.pins() {
            // Before v6.3 get_user_pages_unlocked() and _fast_only() do not
            // look for FOLL_PIN.
            return f.intersects(Foll::PIN | Foll::LONGTERM);
        }
        let unlockable = matches!(op.call, Call::PinUserPagesLocked | Call::PinUserPagesUnlocked)
            || (op.call.remote() && op.locked);
        let drops = self.longterm_keeps_lock && f.contains(Foll::LONGTERM) && unlockable;
        f.contains(Foll::GET) || drops
    }

    /// What a call that was misused returns.
    fn refused(&self, call: Call) -> CallResult {
        let as_none = if self.pins_refuse_with_none {
            use Call::{PinUserPages, PinUserPagesRemote, PinUserPagesUnlocked};
            matches!(call, PinUserPages | PinUserPagesRemote | PinUserPagesUnlocked)
        } else {
            call.fast_only()
        };
        if as_none { Ok(0) } else { Err(Errno::EINVAL) }
    }
}

/// The specification of `op` in the world as it is now.
pub fn specify(cpu: &Cpu, ledger: &Ledger, op: &CallOp) -> Spec {
    let base = cpu.kernel.base();
    let api = Api::of(base);
    let misuse = api.is_misuse(op);
    let mut spec = Spec {
        misuse,
        reachable: 0,
        sure: 0,
        refusal: Errno::EFAULT,
        hugetlb: false,
        immovable: false,
        may_split: false,
        saturated: false,
    };
    if misuse {
        return spec;
    }
    let mut sure = true;
    for addr in op.range.addrs() {
        let leaf = leaf_or_swapped_at(cpu, op.range.mm, addr);
        let vma = vma_lookup(cpu, op.range.mm, addr);
        let cannot_split = |v: &Vma| {
            let f = op.flags;
            let splits = f.contains(Foll::SPLIT_PMD) && !f.contains(Foll::ANON);
            v.is_hugetlb() && splits && !api.hugetlb_apart
        };
        if vma.as_ref().is_some_and(cannot_split) {
            if spec.reachable == 0 {
                spec.refusal = Errno::EOPNOTSUPP;
            }
            break;
        }
        let Some(vma) = vma.filter(|v| permitted(base, op, v)) else { break };
        spec.hugetlb |= vma.is_hugetlb();
        let in_file = vma.file().map(|file| (file, vma.page_index(addr)));
        let beyond = in_file.is_some_and(|(file, i)| i >= cpu.world.file_pages(file));
        if beyond {
            break;
        }
        let cached = in_file.and_then(|(file, i)| cpu.world.cached(file, i));
        if let Err(refusal) = reachable(base, op, &vma, leaf, cached) {
            if spec.reachable == 0 {
                spec.refusal = refusal;
            }
            break;
        }
        if op.flags.contains(Foll::NOFAULT) {
            let Some(leaf) = leaf else { break };
            sure &= needs_no_fault(cpu, op, leaf);
        }
        spec.reachable += 1;
        spec.sure += usize::from(sure);
        if let Some(page) = leaf.map_or(cached, |l| l.counted(cpu.world)) {
            let head = cpu.world.head_of(page);
            spec.saturated |= cpu.world.refcount(head) <= 0;
            if op.flags.contains(Foll::LONGTERM) && must_move(cpu.world, head) {
                spec.immovable |= has_foreign_references(cpu, ledger, head);
                let page = cpu.world.look(head);
                spec.may_split |= base >= Base::V6_12 && page.anon && page.order > 0;
            }
        }
    }
    spec
}

/// Whether the VMA permits the access that the flags ask for.
fn permitted(base: Base, op: &CallOp, vma: &Vma) -> bool {
    let f = op.flags;
    let has = |flag| vma.flags.contains(flag);
    let forced = f.contains(Foll::FORCE);
    let access = if f.contains(Foll::WRITE) {
        has(VmFlags::WRITE) || (forced && vma.is_cow_mapping() && !vma.is_hugetlb())
    } else {
        has(VmFlags::READ) || forced
    };
    // Since v6.5 nobody writes for long to pages whose file must notice.
    let unnoticed = base >= Base::V6_12
        && op.call.pins()
        && f.contains(Foll::LONGTERM | Foll::WRITE)
        && vma.needs_dirty_tracking();
    access
        && !unnoticed
        && !vma.is_secretmem()
        && !has(VmFlags::PFNMAP)
        && (!f.contains(Foll::ANON) || vma.is_anonymous())
}

/// Whether a page of `vma`, mapped so or not at all, can be had with these
/// flags.
///
/// # Errors
/// What the call answers if it is the first.
fn reachable(
    base: Base,
    op: &CallOp,
    vma: &Vma,
    leaf: Option<Leaf>,
    cached: Option<Page>,
) -> Result<(), Errno> {
    let f = op.flags;
    if vma.is_hugetlb() && f.contains(Foll::DUMP) && cached.is_none() {
        // A core dump takes what is there: in a PUD, as it is there.
        let pud = vma.file() == Some(File::HugetlbPud) && !Api::of(base).hugetlb_apart;
        let as_is = |l: Leaf| l.accessible && (l.write || !f.contains(Foll::WRITE));
        let there = leaf.is_some_and(|l| !pud || as_is(l));
        return if there { Ok(()) } else { Err(Errno::EFAULT) };
    }
    if vma.file().is_some() {
        return Ok(());
    }
    let special = leaf.is_some_and(|l| l.special);
    if f.contains(Foll::DUMP) && (leaf.is_none() || special) {
        // A core dump takes what is there, and no zero page. A special page
        // that a write would replace is replaced first.
        let replaced = special && f.contains(Foll::WRITE) && vma.is_anonymous();
        return if replaced { Ok(()) } else { Err(Errno::EFAULT) };
    }
    // A NUMA hint on a THP counts as a hole for a core dump, unless it forces.
    let sees_hints = if Api::of(base).hints_stop_all {
        !f.contains(Foll::FORCE)
    } else {
        f.contains(Foll::HONOR_NUMA_FAULT)
    };
    let hint = leaf.is_some_and(|l| l.huge && !l.accessible) && vma.is_accessible();
    if f.contains(Foll::DUMP) && hint && sees_hints {
        return Err(Errno::EFAULT);
    }
    if vma.is_anonymous() {
        return Ok(());
    }
    // A driver's mapping: only what it inserted, and raw frame numbers only
    // for callers that want no page.
    match leaf {
        None => Err(Errno::EFAULT),
        Some(_) if special && !op.nopages => {
            Err(if base >= Base::V6_12 { Errno::EEXIST } else { Errno::EFAULT })
        }
        Some(_) => Ok(()),
    }
}

/// Whether the page can be had as it is mapped now, for certain.
fn needs_no_fault(cpu: &Cpu, op: &CallOp, leaf: Leaf) -> bool {
    let write = op.flags.contains(Foll::WRITE);
    let page = cpu.world.look(leaf.page);
    let shared =
        op.call.pins() && !write && !(page.anon && page.flags.contains(Pg::ANON_EXCLUSIVE));
    leaf.accessible && !leaf.special && (leaf.write || !write) && !shared
}

/// References that no migration can account for: the harness's own, and
/// those on pages that are not on the LRU for good.
fn has_foreign_references(cpu: &Cpu, ledger: &Ledger, head: Page) -> bool {
    let owned = owned_of(cpu, ledger, head);
    let page = cpu.world.look(head);
    owned.gets != 0 || owned.pins != 0 || !(page.anon || page.file.is_some())
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
    let api = Api::of(cpu.kernel.base());
    if spec.misuse {
        let refused = api.refused(op.call);
        return if result == refused { None } else { fail(word(refused)) };
    }
    let excuse = Excuse::new(spec, op, events);
    let allowed = match result {
        // The fast path alone may stop anywhere.
        Ok(n) if op.call.fast_only() => n <= spec.reachable,
        Ok(0) => excuse.nowait,
        Ok(n) => {
            n <= spec.reachable
                && (n >= spec.sure_of(op) || excuse.any() || spec.no_replacement(op))
        }
        Err(_) if op.call.fast_only() => false,
        Err(Errno::EFAULT) if spec.no_replacement(op) => true,
        Err(Errno::EFAULT) if spec.hugetlb && api.hugetlb_apart && excuse.signal => true,
        Err(Errno::EFAULT) if op.flags.contains(Foll::NOFAULT) => spec.sure == 0,
        Err(Errno::EFAULT) if spec.hugetlb && events.contains(Event::ALLOC_FAILED) => true,
        Err(e @ (Errno::EFAULT | Errno::EEXIST | Errno::EOPNOTSUPP)) => {
            spec.reachable == 0 && e == spec.refusal
        }
        Err(Errno::ENOMEM) => excuse.no_memory,
        // EAGAIN: a signal came while the call waited for mmap_lock.
        Err(Errno::EINTR | Errno::EAGAIN) => excuse.signal,
        Err(Errno::EINVAL) => excuse.arch,
        Err(_) => false,
    };
    if allowed {
        return None;
    }
    fail(match spec.reachable {
        0 => format!("-{}", spec.refusal),
        n if n == asked => n.to_string(),
        n => format!("{n} of {asked}"),
    })
}

impl Spec {
    /// Whether a page may turn into the zero page on its way, and no fault may
    /// replace that, or a core dump wants none.
    fn no_replacement(&self, op: &CallOp) -> bool {
        self.may_split && op.flags.intersects(Foll::NOFAULT | Foll::DUMP)
    }
    /// Pages that the call must handle unless something went wrong.
    fn sure_of(&self, op: &CallOp) -> usize {
        if op.flags.contains(Foll::NOFAULT) { self.sure } else { self.reachable }
    }
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
