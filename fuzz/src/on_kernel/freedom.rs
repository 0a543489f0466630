// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel is free to do in one way or another: differences from the
//! model that say nothing against it. Each is a row here, with its reason.

use std::collections::BTreeSet;
use std::ops::Range;

use gup_core::flags::Foll;
use gup_core::history::Base;
use gup_core::model::limits::{HPAGE_PMD_NR, Limits};
use gup_core::model::mmap::{Kind, Prot};
use gup_core::model::zone::Prefer;

use super::compare::Difference;
use super::express::Version;
use crate::exec::{Slot, SlotView, State, Trace};
use crate::scenario::{Op, What};

/// The freedom that explains what differs after an op, if one does: what it
/// explains brings the rest with it. `trace` is the model's.
pub fn explains(
    version: Version,
    ops: &[Op],
    trace: &Trace,
    found: &[Difference],
) -> Option<&'static str> {
    let no_state = State::default();
    let explains = |f: &&Freedom| {
        found.iter().any(|d| {
            let state = trace.lines.get(d.op).map_or(&no_state, |line| &line.state);
            (f.explains)(ops.get(..=d.op).unwrap_or(ops), d, state)
        })
    };
    // No base is nearer to a kernel in between than v5.15.
    let more = if version.base() == Base::V5_15 { SINCE_V5_15 } else { OF_V6_12 };
    FREEDOMS.iter().chain(more).find(explains).map(|f| f.name)
}

/// Pages of the model that a PMD maps.
const PMD_PAGES: u8 = HPAGE_PMD_NR as u8;

struct Freedom {
    /// In a few words, for the summary.
    name: &'static str,
    /// Whether it explains a difference after the last of these ops, which
    /// left the model in this state.
    explains: fn(&[Op], &Difference, &State) -> bool,
}

const FREEDOMS: &[Freedom] = &[
    Freedom {
        // The model has few VMAs, few page-table pages and short files of
        // hugetlbfs.
        name: "the model's tables or files are full",
        explains: |ops, d, _| {
            let tables = |op: &Op| matches!(op.name(), "mmap" | "munmap" | "mprotect" | "fork");
            let full = d.what == "answer" && d.model == "-> ENOMEM" && d.kernel == "done";
            full && ops.last().is_some_and(tables)
        },
    },
    Freedom {
        // Two VMAs that became alike are one in a kernel. Where the model's two
        // have no room for a huge page, it may have some, as
        // hugepage_vma_revalidate() sees before a collapse; and fork() copies
        // the entries of all of it if one page is anonymous.
        name: "VMAs merge",
        explains: |ops, d, _| {
            let changes = |op: &&Op| matches!(op.what, What::Mmap(..) | What::Mprotect(..));
            let protects = |op: &&Op| matches!(op.what, What::Mprotect(..));
            let fork = ops.last().is_some_and(|op| matches!(op.what, What::Fork(..)));
            let collapse = ops.last().is_some_and(|op| matches!(op.what, What::Collapse(_)));
            let huger = d.what == "huge" && d.model == "0" && d.kernel == "1";
            let more = d.what == "entry" && d.model == "nothing" && fork;
            let room = d.what == "answer" && d.model == "-> EINVAL" && collapse;
            let room = room && matches!(&*d.kernel, "done" | "-> EAGAIN");
            let one = side_by_side(ops) || ops.iter().filter(protects).count() > 1;
            huger && ops.iter().filter(changes).count() > 1
                || more && side_by_side(ops)
                || room && one
        },
    },
    Freedom {
        // The model has 48 frames that are neither movable nor CMA.
        name: "the model's memory without movable pages is full",
        explains: |ops, d, _| {
            let normal = |op: &Op| op.what == What::Prefer(Prefer::Normal);
            let full = d.what == "movable" && d.model == "1" && d.kernel == "0";
            full && ops.iter().any(normal)
        },
    },
    Freedom {
        // The model has 56 movable frames: less than a huge page is left. Of a
        // compound page all frames are in use, however few are mapped.
        name: "the model's movable memory is full",
        explains: |_, d, state| {
            let used = state.slots.values().filter(|v| v.movable).flat_map(frames);
            let used = used.collect::<BTreeSet<_>>().len() as u64;
            let limits = Limits::FUZZ;
            let all = u64::from(limits.device_start - limits.movable_start);
            d.what == "movable" && d.model == "0" && d.kernel == "1" && used + HPAGE_PMD_NR > all
        },
    },
    Freedom {
        // hpage_collapse_find_target_node(), mm/khugepaged.c: the new huge
        // page lies on the node that has most of the old pages, wherever
        // allocations go otherwise.
        name: "a collapse stays on its node",
        explains: |ops, d, _| {
            let other = |op: &Op| matches!(op.what, What::Prefer(_));
            let collapse = ops.last().is_some_and(|op| matches!(op.what, What::Collapse(_)));
            d.what == "movable" && collapse && ops.iter().any(other)
        },
    },
];

/// What the model of v6.12 leaves out.
const OF_V6_12: &[Freedom] = &[Freedom {
    // Pages of zeroes need no room in swap since v6.12, and are free at
    // once; what comes back is another page, a small one.
    name: "0ca0c24e3211: zeroes come back from swap as another page",
    explains: |ops, d, _| {
        let swapout = |op: &Op| matches!(op.what, What::Swapout(_));
        let small = d.what == "order" && d.model == "9" && d.kernel == "0";
        let movable = d.what == "movable" && d.model == "0" && d.kernel == "1";
        (small || movable) && ops.iter().any(swapout)
    },
}];

/// What changed between v5.15 and v6.1, beside whose kernel the base v5.15
/// stands.
const SINCE_V5_15: &[Freedom] = &[
    Freedom {
        name: "c8070b787519: pins of the zero page are not counted",
        explains: |ops, d, _| {
            let fewer =
                matches!((d.model.parse::<i64>(), d.kernel.parse()), (Ok(m), Ok(k)) if m > k);
            let statistic = d.what.starts_with("nr_foll_pin") || d.what == "pins held";
            fewer && statistic && ops.iter().any(|op| pins(op, Foll::empty()))
        },
    },
    Freedom {
        name: "5232c63f46fd: pages of order 1 have a pin count, too",
        explains: |ops, d, _| {
            let order1 = |op: &Op| matches!(op.what, What::Mmap(_, _, Kind::DriverOrder1));
            d.what == "maybe dma pinned" && d.model == "0" && ops.iter().any(order1)
        },
    },
    Freedom {
        name: "65462462ffb2: a raw frame number is EEXIST with a pages array",
        explains: |_, d, _| d.what == "answer" && d.model == "-> EFAULT" && d.kernel == "-> EEXIST",
    },
    Freedom {
        // Without FOLL_COW it faults, and do_wp_page() copies what anybody else
        // refers to.
        name: "5535be309971: a forced write looks for an exclusive page, not for FOLL_COW",
        explains: |ops, d, _| {
            let forced = |op: &Op| calls(op, Foll::FORCE | Foll::WRITE);
            let split = matches!(d.what, "huge" | "order") && ops.iter().any(forced);
            split || is_of_a_copy(d) && ops.last().is_some_and(forced)
        },
    },
    Freedom {
        // do_wp_page() of v5.15 copies what anybody else refers to. An entry
        // of an exclusive page that is not writable comes of mprotect() or of
        // swapping.
        name: "6c287605fd56: a write reuses an exclusive page, whoever refers to it",
        explains: |ops, d, _| {
            let protects = |op: &Op| matches!(op.what, What::Mprotect(..) | What::Swapout(_));
            ops.last().is_some_and(writes) && is_of_a_copy(d) && ops.iter().any(protects)
        },
    },
    Freedom {
        name: "a7f226604170: a read-only pin of a shared page takes a copy first",
        explains: |ops, d, _| {
            let forks = |op: &Op| matches!(op.what, What::Fork(..));
            let pin = |op: &Op| pins(op, Foll::empty()) && !writes(op);
            // The copy can be allocated where longterm pins may be.
            let moved = d.what == "answer" && d.model == "-> ENOMEM";
            let copy = moved || is_of_a_copy(d);
            ops.last().is_some_and(pin) && copy && ops.iter().any(forks)
        },
    },
    Freedom {
        // One page of the model stands for 64. Of those in which a THP in the
        // swap cache begins, ksm_might_need_to_copy() leaves the head alone
        // and copies the others; the model does the same with its own pages.
        name: "before 1486fb50136f only the very first page of a THP comes back from swap",
        explains: |ops, d, state| {
            let first = |v: &SlotView| {
                v.order > 1 && !v.huge && u64::from(v.page.0).is_multiple_of(HPAGE_PMD_NR)
            };
            let begins = d.slot.and_then(|slot| state.slots.get(&slot)).is_some_and(first);
            let counts = ["refcount", "mapcount", "pincount", "pages that differ in the run"];
            let swapout = |op: &Op| matches!(op.what, What::Swapout(_));
            counts.contains(&d.what) && begins && ops.iter().any(swapout)
        },
    },
    Freedom {
        name: "64fe24a3e05e: mprotect() makes the entries of exclusive pages writable",
        explains: |ops, d, _| {
            let to = |op: &Op| matches!(op.what, What::Mprotect(_, Prot::ReadWrite));
            let writable = d.what == "writable" && d.model == "0" && d.kernel == "1";
            writable && ops.last().is_some_and(to)
        },
    },
    Freedom {
        // In base v5.15 it is khugepaged that collapses: only where
        // MADV_HUGEPAGE was said, with limits for shared and swapped pages.
        name: "7d8faaf15545: MADV_COLLAPSE needs no MADV_HUGEPAGE and has no limits",
        explains: |ops, d, _| {
            let Some(What::Collapse(r)) = ops.last().map(|op| op.what) else { return false };
            let thp = |op: &Op| match op.what {
                What::Mmap(of, _, Kind::AnonThp) => {
                    of.page / PMD_PAGES <= r.page / PMD_PAGES
                        && r.page / PMD_PAGES <= (of.page + of.pages - 1) / PMD_PAGES
                }
                _ => false,
            };
            let refused = d.model == "-> EBUSY" || d.model == "-> EINVAL" && !ops.iter().any(thp);
            d.what == "answer" && refused && matches!(&*d.kernel, "done" | "-> EAGAIN")
        },
    },
    Freedom {
        // copy_present_pte() of v5.15 asks of every page of a private mapping
        // whether it is pinned.
        name: "fb3d824d1a46: fork() copies pinned pages only if they are anonymous",
        explains: |ops, d, _| {
            let fork = ops.last().is_some_and(|op| matches!(op.what, What::Fork(..)));
            let private = |op: &Op| matches!(op.what, What::MmapFile(_, _, m) if !m.shared);
            let counts = matches!(d.what, "refcount" | "mapcount" | "sharing" | "anon");
            let pinned = ops.iter().any(|op| pins(op, Foll::empty()));
            fork && counts && pinned && ops.iter().any(private)
        },
    },
    Freedom {
        // add_page_for_migration() of v6.1 comes to its page by follow_page(),
        // with FOLL_DUMP: no_page_table() makes that EFAULT where a PMD maps.
        name: "move_pages(2) of v6.1 finds nothing behind PROT_NONE",
        explains: |ops, d, state| {
            let Some(What::Migrate(r)) = ops.last().map(|op| op.what) else { return false };
            let at = state.slots.get(&Slot::Mapped(r.mm, r.page));
            let pmd = at.is_some_and(|v| v.huge && !v.accessible);
            d.what == "answer" && (d.kernel == "-> ENOENT" || d.kernel == "-> EFAULT" && pmd)
        },
    },
];

/// Whether it is a call of mm/gup.c with all of these flags.
fn calls(op: &Op, flags: Foll) -> bool {
    matches!(op.what, What::Call(c) if c.flags.contains(flags))
}

/// Whether memory was mapped or protected right behind some other.
fn side_by_side(ops: &[Op]) -> bool {
    let ranges = || {
        ops.iter().filter_map(|op| match op.what {
            What::Mmap(r, ..) | What::Mprotect(r, _) => Some(r),
            _ => None,
        })
    };
    ranges().any(|a| ranges().any(|b| a.mm == b.mm && a.page + a.pages == b.page))
}

/// The frames of a page; of a compound page, all.
fn frames(view: &SlotView) -> Range<u16> {
    let head = view.page.0 >> view.order << view.order;
    head..head + (1 << view.order)
}

/// Whether it stores, or makes a call that may.
fn writes(op: &Op) -> bool {
    matches!(op.what, What::Write(_)) || calls(op, Foll::WRITE)
}

/// Whether it can come of a copy on one side only.
fn is_of_a_copy(d: &Difference) -> bool {
    let of_a_copy = ["refcount", "mapcount", "writable", "huge", "order", "movable", "sharing"];
    of_a_copy.contains(&d.what)
}

/// Whether it pins with all of these flags.
fn pins(op: &Op, flags: Foll) -> bool {
    matches!(op.what, What::Call(c) if c.call.pins()) && calls(op, flags)
}

#[cfg(test)]
mod tests {
    use gup_core::history::Kernel;
    use gup_core::model::mm::MmId;

    use super::*;
    use crate::on_kernel::compare::model;

    fn difference(what: &'static str, model: &str, kernel: &str) -> Difference {
        let (model, kernel) = (model.into(), kernel.into());
        Difference { op: 2, slot: None, what, model, kernel }
    }

    fn none() -> Trace {
        model(Kernel::released(Base::V6_12), &[])
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
        let why = |ops: &[Op], d: &Difference| explains(new, ops, &none(), std::slice::from_ref(d));
        assert_eq!(why(&merge, &huge), Some("VMAs merge"));
        assert_eq!(
            explains(new, &merge, &none(), &[more.clone(), huge.clone()]),
            Some("VMAs merge")
        );
        assert_eq!(explains(new, &merge, &none(), &[more]), None);
        assert_eq!(explains(new, &merge, &none(), &[]), None);
        assert_eq!(why(&merge[..1], &huge), None);
        assert_eq!(why(&merge, &difference("huge", "1", "0")), None);
        let copied = difference("entry", "nothing", "something");
        assert_eq!(why(&merge, &copied), None);
        let fork: Vec<Op> = merge.iter().copied().chain(["fork m0 m1".parse().unwrap()]).collect();
        assert_eq!(why(&fork, &Difference { op: 3, ..copied.clone() }), Some("VMAs merge"));
        assert_eq!(why(&fork[2..], &Difference { op: 1, ..copied }), None);
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
    fn movable_memory_is_full_when_it_is() {
        let why = |lines: &[&str]| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let trace = model(Kernel::released(Base::V6_12), &ops);
            let d = Difference { op: ops.len() - 1, ..difference("movable", "0", "1") };
            explains(Version(6, 12), &ops, &trace, &[d])
        };
        let all = [
            "mmap m0 0x0 16 rw private anon thp",
            "h0 = pin_user_pages m0 0x7000 2 0",
            "fork m0 m1",
            "fork m0 m2",
            "madvise m0 0x0 9 dontneed",
            "write m0 0x2000 7",
            "write m0 0x0 2",
        ];
        assert_eq!(why(&all), Some("the model's movable memory is full"));
        assert_eq!(why(&all[..3]), None);
        let held_by_a_page = [
            "mmap m1 0x8000 16 rw private anon thp",
            "h1 = get_user_pages_fast m1 0xf000 2 0",
            "madvise m1 0x8000 16 dontneed",
            "write m1 0xf000 2",
            "madvise m1 0x9000 10 dontneed",
            "write m1 0x9000 10",
            "fork m1 m0",
            "h0 = get_user_pages_unlocked m0 0x8000 15 FOLL_WRITE",
        ];
        assert_eq!(why(&held_by_a_page), Some("the model's movable memory is full"));
        assert_eq!(why(&held_by_a_page[..5]), None);
    }

    #[test]
    fn what_is_khugepaged_in_the_model_has_no_limits_there() {
        let why = |lines: &[&str], d: &Difference| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let d = Difference { op: ops.len() - 1, ..d.clone() };
            explains(Version(6, 1), &ops, &none(), &[d]).is_some()
        };
        let (small, huge) = ("mmap m0 0x0 8 rw private anon", "mmap m0 0x0 8 rw private anon thp");
        let answer = |model, kernel| difference("answer", model, kernel);
        let refused = answer("-> EINVAL", "-> EAGAIN");
        assert!(why(&[small, "collapse m0 0x0"], &refused));
        assert!(why(&[small, "collapse m0 0x0"], &answer("-> EINVAL", "done")));
        assert!(why(&[huge, "collapse m0 0x0"], &answer("-> EBUSY", "done")));
        assert!(why(&[huge, "collapse m0 0x8000"], &refused));
        assert!(!why(&[huge, "collapse m0 0x0"], &refused));
        assert!(!why(&[small, "collapse m0 0x0"], &answer("done", "-> EINVAL")));
        assert!(!why(&[small, "read m0 0x0 1"], &refused));
    }

    #[test]
    fn copies_are_explained_where_the_commits_explain_them() {
        let (old, new) = (Version(6, 1), Version(6, 12));
        let why = |lines: &[&str], version, what, model, kernel| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let d = Difference { op: ops.len() - 1, ..difference(what, model, kernel) };
            explains(version, &ops, &none(), &[d]).map(|name| &name[..12])
        };
        let (protect, fork, store) = ("mprotect m0 0x0 1 rw", "fork m0 m1", "write m0 0x0 1");
        let (pin, get) = ("h0 = pin_user_pages m0 0x0 1 0", "h0 = get_user_pages m0 0x0 1 0");
        let write = "h1 = get_user_pages m0 0x0 1 FOLL_WRITE";
        let count = |lines: &[&str], version| why(lines, version, "refcount", "1", "2");
        for lines in [[protect, store], [protect, write], ["swapout m0 0x0", store]] {
            assert_eq!(count(&lines, old), Some("6c287605fd56"), "{lines:?}");
            assert_eq!(count(&lines, new), None);
        }
        let forced = "h0 = get_user_pages_fast m0 0x0 1 FOLL_WRITE|FOLL_FORCE";
        assert_eq!(count(&[store, forced], old), Some("5535be309971"));
        assert_eq!(count(&[forced, store], old), None);
        assert_eq!(count(&[store, forced], new), None);
        for lines in [[fork, store], [protect, "read m0 0x0 1"], [protect, pin]] {
            assert_eq!(count(&lines, old), None, "{lines:?}");
        }
        assert_eq!(count(&[fork, pin], old), Some("a7f226604170"));
        assert_eq!(why(&[fork, pin], old, "answer", "-> ENOMEM", "-> 1"), Some("a7f226604170"));
        assert_eq!(why(&[fork, pin], old, "answer", "-> EFAULT", "-> 1"), None);
        for lines in [[fork, get], [fork, write], [store, pin], [pin, fork]] {
            assert_eq!(count(&lines, old), None, "{lines:?}");
        }
        let writable = |lines: &[&str], from, to| why(lines, old, "writable", from, to);
        assert_eq!(writable(&[store, protect], "0", "1"), Some("64fe24a3e05e"));
        assert_eq!(writable(&[store, protect], "1", "0"), None);
        assert_eq!(writable(&[store, "mprotect m0 0x0 1 r"], "0", "1"), None);
        assert_eq!(why(&[store, protect], old, "contents", "zeroes", "store 1"), None);
    }

    #[test]
    fn a_thp_comes_back_from_swap_as_it_is_by_its_head_alone() {
        let why = |lines: &[&str], page, what| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let trace = model(Kernel::fixed(Base::V5_15), &ops);
            let slot = Some(Slot::Mapped(MmId(0), page));
            let d = Difference { op: ops.len() - 1, slot, ..difference(what, "576", "513") };
            let why = |version| explains(version, &ops, &trace, std::slice::from_ref(&d));
            assert_eq!(why(Version(6, 12)), None);
            why(Version(6, 1))
        };
        let lines = [
            "mmap m0 0x0 8 rw private anon thp",
            "write m0 0x0 8",
            "swapout m0 0x0",
            "read m0 0x0 2",
        ];
        assert!(why(&lines, 0, "refcount").is_some());
        assert_eq!(why(&lines, 1, "refcount"), None);
        assert_eq!(why(&lines, 0, "contents"), None);
        assert_eq!(why(&lines[..2], 0, "refcount"), None);
        assert_eq!(why(&[&lines[..2], &["split_huge_pmd m0 0x0"]].concat(), 0, "refcount"), None);
    }

    #[test]
    fn pinned_pages_of_files_are_shared_at_fork() {
        let lines =
            ["mmap m0 0x0 1 rw private file 0", "h0 = pin_user_pages m0 0x0 1 0", "fork m0 m1"];
        let ops = lines.map(|l| l.parse().unwrap());
        let d = difference("refcount", "1026", "1027");
        let why = |ops: &[Op], v| explains(v, ops, &none(), std::slice::from_ref(&d)).is_some();
        assert!(why(&ops, Version(6, 1)));
        assert!(!why(&ops, Version(6, 12)));
        assert!(!why(&[ops[0], ops[2], ops[2]], Version(6, 1)));
        assert!(!why(&[ops[1], ops[1], ops[2]], Version(6, 1)));
        assert!(!why(&[ops[0], ops[1], ops[1]], Version(6, 1)));
    }

    #[test]
    fn vmas_that_merge_have_room_for_a_collapse() {
        let why = |lines: &[&str], kernel| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let d = Difference { op: ops.len() - 1, ..difference("answer", "-> EINVAL", kernel) };
            explains(Version(6, 12), &ops, &none(), &[d])
        };
        let lines = [
            "mmap m0 0x0 8 rw private anon",
            "mprotect m0 0x0 1 r",
            "mprotect m0 0x0 1 rw",
            "collapse m0 0x0",
        ];
        let merge = Some("VMAs merge");
        assert_eq!(why(&lines, "-> EAGAIN"), merge);
        assert_eq!(why(&lines, "done"), merge);
        assert_eq!(why(&lines, "-> EBUSY"), None);
        assert_eq!(why(&[lines[0], lines[1], lines[3]], "done"), None);
        assert_eq!(why(&lines[..3], "done"), None);
        let halves = ["mmap m0 0x0 4 rw private anon", "mmap m0 0x4000 4 rw private anon"];
        assert_eq!(why(&[halves[0], halves[1], lines[3]], "done"), merge);
    }

    #[test]
    fn move_pages_refuses_what_a_pmd_maps_without_access() {
        let why = |lines: &[&str]| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let trace = model(Kernel::fixed(Base::V5_15), &ops);
            let d =
                Difference { op: ops.len() - 1, ..difference("answer", "-> EBUSY", "-> EFAULT") };
            let why = |version| explains(version, &ops, &trace, std::slice::from_ref(&d));
            assert_eq!(why(Version(6, 12)), None);
            why(Version(6, 1)).is_some()
        };
        let call = "h0 = get_user_pages_fast m0 0x0 1 FOLL_FORCE";
        let migrate = "migrate m0 0x0";
        assert!(why(&["mmap m0 0x0 8 none private anon thp", call, migrate]));
        assert!(!why(&["mmap m0 0x0 8 r private anon thp", call, migrate]));
        assert!(!why(&["mmap m0 0x0 8 none private anon", call, migrate]));
        assert!(!why(&["mmap m0 0x0 8 none private anon thp", call, "read m0 0x0 1"]));
    }

    #[test]
    fn what_changed_after_a_base_is_no_freedom_of_its_own_kernel() {
        let ops: Vec<Op> =
            ["mmap m0 0x0 1 rw private anon", "h0 = pin_user_pages m0 0x0 1 0", "migrate m0 0x0"]
                .map(|l| l.parse().unwrap())
                .into();
        let why =
            |version, d: &Difference| explains(version, &ops, &none(), std::slice::from_ref(d));
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
