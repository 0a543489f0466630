// SPDX-License-Identifier: GPL-2.0-only
//! What mm/gup.c of 6.1.192 does otherwise than that of base v6.12.
//!
//! What shows no row is the same in every step: unpins, the ops that are no
//! calls, calls that never look at a page. Rows that leave less than the world
//! alike leave the op out; it runs on the C under the oracles alone.

use gup_core::flags::Foll;
use gup_core::history::Defect;
use gup_core::model::mm::{Vma, vma_lookup};
use gup_core::model::pgtable::leaf_or_swapped_at;
use gup_core::model::zone::must_move;
use gup_core::model::{Cpu, Page};

use crate::exec::against::{Alike, Difference};
use crate::scenario::{Call, CallOp};

/// What the text lacks and the port can leave out, too.
pub const DEFECTS: &[Defect] = &[
    Defect::LongtermReadNotUnshared,
    Defect::LongtermWriteToFile,
    Defect::FastLongtermWriteToFile,
];

/// The rows.
pub const DIFFERENCES: &[Difference] = &[
    Difference {
        since: "0d940a9b270b (v6.5) and others",
        what: "entries are read once on the way down, and again under the lock; GUP-fast looks \
               at the mapping of each page",
        shows: |_, _| true,
        alike: Some(Alike::Effects),
    },
    Difference {
        since: "57edfcfd3419 (v6.6)",
        what: "the further pages of a THP are grabbed at once, instead of one walk for each",
        shows: |cpu, op| op.range.pages > 1 && vmas(cpu, op).any(|v| v.is_anonymous()),
        alike: Some(Alike::World),
    },
    Difference {
        since: "4849807114b8 (v6.6)",
        what: "hugetlbfs is walked by follow_page_mask(), not by follow_hugetlb_page()",
        shows: |cpu, op| vmas(cpu, op).any(|v| v.is_hugetlb()),
        alike: Some(Alike::World),
    },
    Difference {
        since: "4849807114b8 (v6.6) and later",
        what: "FOLL_NOFAULT and FOLL_DUMP mean the same on hugetlbfs as elsewhere, \
               FOLL_SPLIT_PMD is refused there",
        shows: |cpu, op| {
            op.flags.intersects(Foll::NOFAULT | Foll::DUMP | Foll::SPLIT_PMD)
                && vmas(cpu, op).any(|v| v.is_hugetlb())
        },
        alike: None,
    },
    Difference {
        since: "4849807114b8 (v6.6)",
        what: "FOLL_TOUCH marks entries of hugetlbfs, too",
        shows: |cpu, op| {
            let there = |addr| leaf_or_swapped_at(cpu, op.range.mm, addr).is_some();
            let mut huge = mapped(cpu, op).filter(|(_, vma)| vma.is_hugetlb());
            op.call != Call::PinUserPages && huge.any(|(addr, _)| there(addr))
        },
        alike: None,
    },
    Difference {
        since: "d64e2dbc33a1 (v6.3) and its series",
        what: "FOLL_TOUCH, FOLL_PIN and, to pins, FOLL_GET are refused, by pins with 0",
        shows: |_, op| {
            let pin_and_get = op.call.pins() && op.flags.contains(Foll::GET);
            op.flags.intersects(Foll::TOUCH | Foll::PIN) || pin_and_get
        },
        alike: None,
    },
    Difference {
        since: "d64e2dbc33a1 (v6.3) and its series",
        what: "a longterm pin may drop mmap_lock, and GUP-fast falls back to one that marks the \
               page accessed",
        shows: |_, op| {
            let unlockable = op.call == Call::PinUserPagesUnlocked || op.locked || op.call.fast();
            op.flags.contains(Foll::LONGTERM) && unlockable
        },
        alike: None,
    },
    Difference {
        since: "9198a9196ee6 (v6.3)",
        what: "get_user_pages_fast_only() returns errors",
        shows: |_, op| {
            let known = Foll::WRITE | Foll::LONGTERM | Foll::FORCE | Foll::GET | Foll::NOFAULT;
            op.call.fast_only() && !known.contains(op.flags)
        },
        alike: None,
    },
    Difference {
        since: "\"mm/gup: fix always draining LRU caches\" (6.12.y)",
        what: "the LRU batches are drained before a page is moved only if it may be in one",
        shows: |cpu, op| {
            let movable = |page: &Page| must_move(cpu.world, cpu.world.head_of(*page));
            op.flags.contains(Foll::LONGTERM) && pages(cpu, op).any(|page| movable(&page))
        },
        alike: None,
    },
    Difference {
        since: "d74943a2f3cd (v6.5)",
        what: "entries without access by anyone stop only those who say FOLL_HONOR_NUMA_FAULT, \
               not all who do not say FOLL_FORCE",
        shows: |cpu, op| {
            let hint =
                |addr| leaf_or_swapped_at(cpu, op.range.mm, addr).is_some_and(|l| !l.accessible);
            op.flags.contains(Foll::HONOR_NUMA_FAULT) || mapped(cpu, op).any(|(addr, _)| hint(addr))
        },
        alike: None,
    },
    Difference {
        since: "a6e79df92e4a (v6.5)",
        what: "GUP-fast takes no page that is neither anonymous nor of a file",
        shows: |cpu, op| {
            let driver = |v: Vma| !v.is_anonymous() && v.file().is_none();
            op.call.fast() && vmas(cpu, op).any(driver)
        },
        alike: None,
    },
];

/// The addresses of a call that lie in VMAs.
fn mapped(cpu: &Cpu, op: &CallOp) -> impl Iterator<Item = (u64, Vma)> {
    let mm = op.range.mm;
    op.range.addrs().filter_map(move |addr| Some((addr, vma_lookup(cpu, mm, addr)?)))
}

fn vmas(cpu: &Cpu, op: &CallOp) -> impl Iterator<Item = Vma> {
    mapped(cpu, op).map(|(_, vma)| vma)
}

/// The pages that are mapped there, or would be by a fault.
fn pages(cpu: &Cpu, op: &CallOp) -> impl Iterator<Item = Page> {
    mapped(cpu, op).filter_map(move |(addr, vma)| {
        let leaf = leaf_or_swapped_at(cpu, op.range.mm, addr);
        leaf.map(|l| l.page).or_else(|| cpu.world.cached(vma.file()?, vma.page_index(addr)))
    })
}
