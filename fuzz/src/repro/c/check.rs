// SPDX-License-Identifier: GPL-2.0-only
//! What a program can look at to tell a kernel with a bug from one without:
//! the first thing in which their models differ.

use gup_core::model::limits::PAGE_SIZE;

use crate::exec::Slot;
use crate::on_kernel::machine::GuestRun;
use crate::on_kernel::wire::{Seen, SeenFlags};

/// What tells two kernels apart.
pub(super) struct Check {
    /// After which op.
    pub(super) op: usize,
    /// How to look; `None`: it is what the op returns.
    pub(super) look: Option<Look>,
}

/// A look at pages, statistics or the log.
pub(super) struct Look {
    /// What it is, for people.
    pub(super) what: String,
    /// An expression in C.
    pub(super) code: String,
    /// Its value on a kernel without the bug.
    pub(super) expected: i64,
}

/// A field of a page: its name, its expression, its value.
struct Field(&'static str, &'static str, fn(&Seen) -> i64);

fn flag(seen: &Seen, flag: SeenFlags) -> i64 {
    seen.flags.contains(flag).into()
}

/// The most telling first.
const FIELDS: [Field; 10] = [
    Field("in ZONE_MOVABLE", "!!(ROW.flags & GUPDEV_MOVABLE)", |s| flag(s, SeenFlags::MOVABLE)),
    Field("accessible", "!!(ROW.flags & GUPDEV_ACCESS)", |s| flag(s, SeenFlags::ACCESS)),
    Field("writable", "!!(ROW.flags & GUPDEV_WRITABLE)", |s| flag(s, SeenFlags::WRITABLE)),
    Field("the zero page", "!!(ROW.flags & GUPDEV_ZERO)", |s| flag(s, SeenFlags::ZERO)),
    Field("anonymous", "!!(ROW.flags & GUPDEV_ISANON)", |s| flag(s, SeenFlags::ANON)),
    Field("order", "(long)ROW.order", |s| s.order.into()),
    Field("pincount", "(long)ROW.pincount", |s| s.pincount.into()),
    Field("refcount", "(long)ROW.refcount", |s| s.refcount.into()),
    Field("mapcount", "(long)ROW.mapcount", |s| s.mapcount.into()),
    Field("store that it holds", "(long)(ROW.token >> 16)", |s| (s.token >> 16) as i64),
];

/// Finds it. `None`: a program sees no difference.
pub(super) fn find(bad: &GuestRun, good: &GuestRun) -> Option<Check> {
    for (op, (b, g)) in bad.ops.iter().zip(&good.ops).enumerate() {
        if b.answer != g.answer {
            return Some(Check { op, look: None });
        }
        let look = |what: &str, code: &str, expected| {
            let (what, code) = (what.into(), code.into());
            Some(Check { op, look: Some(Look { what, code, expected }) })
        };
        if b.kernel.is_empty() != g.kernel.is_empty() {
            return look("a warning in the log", "warnings()", (!g.kernel.is_empty()).into());
        }
        let slots: Vec<(Slot, &Seen, &Seen)> =
            b.slots.iter().filter_map(|(&s, b)| Some((s, b, g.slots.get(&s)?))).collect();
        if let Some(l) = sharing(&slots).or_else(|| field(&slots)) {
            return Some(Check { op, look: Some(l) });
        }
        let held = |pins: (i64, i64)| pins.0 - pins.1;
        if held(b.pins) != held(g.pins) {
            let what = "nr_foll_pin_acquired - nr_foll_pin_released";
            return look(what, "pins_held()", held(g.pins));
        }
    }
    None
}

/// Two slots with one page in one of the runs, and not in the other.
fn sharing(slots: &[(Slot, &Seen, &Seen)]) -> Option<Look> {
    let pairs = slots.iter().enumerate().flat_map(|(i, a)| slots[..i].iter().map(move |b| (b, a)));
    for ((slot, bad, good), (other, bad2, good2)) in pairs {
        let same = good.frame == good2.frame;
        if same != (bad.frame == bad2.frame) {
            let what = format!("{} is the page of {}", name(*slot), name(*other));
            let code = format!("{}.pfn == {}.pfn", row(*slot), row(*other));
            return Some(Look { what, code, expected: same.into() });
        }
    }
    None
}

fn field(slots: &[(Slot, &Seen, &Seen)]) -> Option<Look> {
    // Nobody counts those.
    let counted = |s: &Seen| !s.flags.intersects(SeenFlags::ZERO | SeenFlags::SPECIAL);
    for Field(what, code, value) in FIELDS {
        for (slot, bad, good) in slots {
            if value(bad) != value(good) && counted(bad) && counted(good) {
                let what = format!("{}: {what}", name(*slot));
                let code = code.replace("ROW", &row(*slot));
                return Some(Look { what, code, expected: value(good) });
            }
        }
    }
    None
}

fn name(slot: Slot) -> String {
    match slot {
        Slot::Mapped(mm, page) => format!("m{} {:#x}", mm.0, u64::from(page) * PAGE_SIZE),
        Slot::Held(h, i) => format!("h{}[{i}]", h.0),
    }
}

fn row(slot: Slot) -> String {
    match slot {
        Slot::Mapped(mm, page) => format!("mapped_page({}, {page})", mm.0),
        Slot::Held(h, i) => format!("held_page({}, {i})", h.0),
    }
}
