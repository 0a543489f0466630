// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel is free to do in one way or another: differences from the
//! model that say nothing against it. Each is a row here, with its reason.

use gup_core::flags::Foll;
use gup_core::history::Base;
use gup_core::model::mmap::Kind;
use gup_core::model::zone::Prefer;

use super::compare::Difference;
use super::express::Version;
use crate::scenario::{Op, What};

/// The freedom that explains what differs after an op, if one does: what it
/// explains brings the rest with it.
pub fn explains(version: Version, ops: &[Op], found: &[Difference]) -> Option<&'static str> {
    let explains =
        |f: &&Freedom| found.iter().any(|d| (f.explains)(ops.get(..=d.op).unwrap_or(ops), d));
    // No base is nearer to a kernel in between than v5.15.
    let since = if version.base() == Base::V5_15 { SINCE_V5_15 } else { &[] };
    FREEDOMS.iter().chain(since).find(explains).map(|f| f.name)
}

struct Freedom {
    /// In a few words, for the summary.
    name: &'static str,
    /// Whether it explains a difference after the last of these ops.
    explains: fn(&[Op], &Difference) -> bool,
}

const FREEDOMS: &[Freedom] = &[
    Freedom {
        // The model has few VMAs, few page-table pages and short files of
        // hugetlbfs.
        name: "the model's tables or files are full",
        explains: |ops, d| {
            let tables = |op: &Op| matches!(op.name(), "mmap" | "munmap" | "mprotect" | "fork");
            let full = d.what == "answer" && d.model == "-> ENOMEM" && d.kernel == "done";
            full && ops.last().is_some_and(tables)
        },
    },
    Freedom {
        // Two VMAs that became alike are one in a kernel, which may have
        // room for a huge page where the model's two have none.
        name: "VMAs merge",
        explains: |ops, d| {
            let changes = |op: &&Op| matches!(op.what, What::Mmap(..) | What::Mprotect(..));
            let huger = d.what == "huge" && d.model == "0" && d.kernel == "1";
            huger && ops.iter().filter(changes).count() > 1
        },
    },
    Freedom {
        // The model has 48 frames that are neither movable nor CMA.
        name: "the model's memory without movable pages is full",
        explains: |ops, d| {
            let normal = |op: &Op| op.what == What::Prefer(Prefer::Normal);
            let full = d.what == "movable" && d.model == "1" && d.kernel == "0";
            full && ops.iter().any(normal)
        },
    },
    Freedom {
        // Pages of zeroes need no room in swap since v6.12, and are free at
        // once; what comes back is another page, a small one.
        name: "0ca0c24e3211: zeroes come back from swap as another page",
        explains: |ops, d| {
            let swapout = |op: &Op| matches!(op.what, What::Swapout(_));
            let small = d.what == "order" && d.model == "9" && d.kernel == "0";
            let movable = d.what == "movable" && d.model == "0" && d.kernel == "1";
            (small || movable) && ops.iter().any(swapout)
        },
    },
    Freedom {
        // hpage_collapse_find_target_node(), mm/khugepaged.c: the new huge
        // page lies on the node that has most of the old pages, wherever
        // allocations go otherwise.
        name: "a collapse stays on its node",
        explains: |ops, d| {
            let other = |op: &Op| matches!(op.what, What::Prefer(_));
            let collapse = ops.last().is_some_and(|op| matches!(op.what, What::Collapse(_)));
            d.what == "movable" && collapse && ops.iter().any(other)
        },
    },
];

/// What changed between v5.15 and v6.1, beside whose kernel the base v5.15
/// stands.
const SINCE_V5_15: &[Freedom] = &[
    Freedom {
        name: "c8070b787519: pins of the zero page are not counted",
        explains: |ops, d| {
            let fewer =
                matches!((d.model.parse::<i64>(), d.kernel.parse()), (Ok(m), Ok(k)) if m > k);
            let statistic = d.what.starts_with("nr_foll_pin") || d.what == "pins held";
            fewer && statistic && ops.iter().any(|op| pins(op, Foll::empty()))
        },
    },
    Freedom {
        name: "5232c63f46fd: pages of order 1 have a pin count, too",
        explains: |ops, d| {
            let order1 = |op: &Op| matches!(op.what, What::Mmap(_, _, Kind::DriverOrder1));
            d.what == "maybe dma pinned" && d.model == "0" && ops.iter().any(order1)
        },
    },
    Freedom {
        name: "65462462ffb2: a raw frame number is EEXIST with a pages array",
        explains: |_, d| d.what == "answer" && d.model == "-> EFAULT" && d.kernel == "-> EEXIST",
    },
    Freedom {
        name: "5535be309971: a forced write looks for an exclusive page, not for FOLL_COW",
        explains: |ops, d| {
            d.what == "huge" && ops.iter().any(|op| calls(op, Foll::FORCE | Foll::WRITE))
        },
    },
    Freedom {
        // A read-only pin of a shared page, reuse at a write and at
        // mprotect(), swapping in: all go by the mark instead of by counts.
        name: "6c287605fd56, a7f226604170: exclusive pages are marked, others unshared",
        explains: |ops, d| {
            let counts = matches!(
                d.what,
                "refcount" | "mapcount" | "writable" | "sharing" | "anon" | "maybe dma pinned"
            );
            let call = |op: &Op| matches!(op.what, What::Call(_));
            let other = |op: &Op| matches!(op.name(), "fork" | "swapout" | "mprotect");
            let acts = |op: &Op| {
                call(op) || matches!(op.name(), "write" | "read" | "mprotect" | "swapout")
            };
            counts && ops.last().is_some_and(acts) && ops.iter().any(|op| call(op) || other(op))
        },
    },
    Freedom {
        // add_page_for_migration() of v6.1 comes to its page by follow_page().
        name: "move_pages(2) of v6.1 finds nothing behind PROT_NONE",
        explains: |ops, d| {
            let migrate = ops.last().is_some_and(|op| matches!(op.what, What::Migrate(_)));
            migrate && d.what == "answer" && d.kernel == "-> ENOENT"
        },
    },
];

/// Whether it is a call of mm/gup.c with all of these flags.
fn calls(op: &Op, flags: Foll) -> bool {
    matches!(op.what, What::Call(c) if c.flags.contains(flags))
}

/// Whether it pins with all of these flags.
fn pins(op: &Op, flags: Foll) -> bool {
    matches!(op.what, What::Call(c) if c.call.pins()) && calls(op, flags)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(what: &'static str, model: &str, kernel: &str) -> Difference {
        let (model, kernel) = (model.into(), kernel.into());
        Difference { op: 2, slot: None, what, model, kernel }
    }

    #[test]
    fn a_freedom_explains_only_what_it_is_about() {
        let merge: Vec<Op> =
            ["mmap m0 0x0 8 r private anon thp", "mprotect m0 0x0 1 rw", "mprotect m0 0x1000 7 rw"]
                .map(|l| l.parse().unwrap())
                .into();
        let huge = difference("huge", "0", "1");
        let more = difference("pins held", "0", "64");
        let new = Version(6, 12);
        let why = |ops: &[Op], d: &Difference| explains(new, ops, std::slice::from_ref(d));
        assert_eq!(why(&merge, &huge), Some("VMAs merge"));
        assert_eq!(explains(new, &merge, &[more.clone(), huge.clone()]), Some("VMAs merge"));
        assert_eq!(explains(new, &merge, &[more]), None);
        assert_eq!(explains(new, &merge, &[]), None);
        assert_eq!(why(&merge[..1], &huge), None);
        assert_eq!(why(&merge, &difference("huge", "1", "0")), None);
        let full = difference("answer", "-> ENOMEM", "done");
        assert_eq!(why(&merge, &full), Some("the model's tables or files are full"));
        assert_eq!(why(&merge, &difference("answer", "-> EFAULT", "done")), None);
        assert_eq!(why(&merge, &difference("refcount", "1", "2")), None);
        let collapse: Vec<Op> =
            ["prefer normal", "mmap m0 0x0 8 rw private anon", "collapse m0 0x0"]
                .map(|l| l.parse().unwrap())
                .into();
        let movable = difference("movable", "0", "1");
        assert_eq!(why(&collapse, &movable), Some("a collapse stays on its node"));
        assert_eq!(why(&collapse[1..], &movable), None);
        let swapped = ["swapout m0 0x0", "read m0 0x0 1"].map(|l| l.parse().unwrap());
        assert!(why(&swapped, &difference("order", "9", "0")).is_some());
        assert_eq!(why(&swapped[1..], &difference("order", "9", "0")), None);
        assert_eq!(why(&swapped, &difference("order", "0", "9")), None);
        assert!(why(&swapped, &difference("movable", "0", "1")).is_some());
        assert_eq!(why(&swapped, &difference("movable", "1", "0")), None);
        let full = difference("movable", "1", "0");
        let place = "the model's memory without movable pages is full";
        assert_eq!(why(&collapse[..2], &full), Some(place));
        assert_eq!(why(&collapse[1..2], &full), None);
        assert_eq!(why(&collapse, &difference("refcount", "1", "2")), None);
    }
    #[test]
    fn what_changed_after_a_base_is_no_freedom_of_its_own_kernel() {
        let ops: Vec<Op> =
            ["mmap m0 0x0 1 rw private anon", "h0 = pin_user_pages m0 0x0 1 0", "migrate m0 0x0"]
                .map(|l| l.parse().unwrap())
                .into();
        let why = |version, d: &Difference| explains(version, &ops, std::slice::from_ref(d));
        for (what, model, kernel) in [
            ("nr_foll_pin_acquired", "1", "0"),
            ("answer", "-> EFAULT", "-> EEXIST"),
            ("answer", "-> EBUSY", "-> ENOENT"),
        ] {
            let d = difference(what, model, kernel);
            assert!(why(Version(6, 1), &d).is_some(), "{what}");
            assert_eq!(why(Version(6, 12), &d), None, "{what}");
        }
        assert_eq!(why(Version(6, 1), &difference("nr_foll_pin_acquired", "0", "1")), None);
        assert_eq!(why(Version(6, 1), &difference("contents", "store 1", "zeroes")), None);
    }
}
