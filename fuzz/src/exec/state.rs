// SPDX-License-Identifier: GPL-2.0-only
//! A world at rest, seen from outside: every page by the slots that lead to
//! it, so that it can be laid beside another world, where frames have other
//! numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use gup_core::flags::Pg;
use gup_core::model::filemap::File;
use gup_core::model::limits::{PAGE_SIZE, TASK_PAGES};
use gup_core::model::mm::{MmId, mm_alive};
use gup_core::model::page::pages_of;
use gup_core::model::pgtable::{leaf_at, leaf_or_swapped_at};
use gup_core::model::vmstat::NodeStat;
use gup_core::model::zone::is_zone_movable_page;
use gup_core::model::{Cpu, Page};

use super::Ledger;
use crate::oracles::bookkeeping::owned_of;
use crate::scenario::{HANDLES, Handle, MMS};

/// A way to name a page without its frame number.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub enum Slot {
    /// What maps this page of an address space.
    Mapped(MmId, u8),
    /// What a handle holds at this index.
    Held(Handle, u8),
}

/// `m0:0x3000`, `h1[2]`.
impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Slot::Mapped(mm, page) => write!(f, "m{}:{:#x}", mm.0, u64::from(*page) * PAGE_SIZE),
            Slot::Held(h, i) => write!(f, "{h}[{i}]"),
        }
    }
}

/// The entry of a slot and the page it leads to. Counts are those of the
/// compound page.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotView {
    /// The page.
    pub page: Page,
    /// log2 of the compound page's pages.
    pub order: u32,
    /// User space may access it without a fault.
    pub accessible: bool,
    /// And write it.
    pub write: bool,
    /// Mapped by a PMD.
    pub huge: bool,
    /// Without a page that is counted.
    pub special: bool,
    /// The zero page.
    pub zero_page: bool,
    /// In ZONE_MOVABLE.
    pub movable: bool,
    /// Anonymous memory.
    pub anon: bool,
    /// PageAnonExclusive
    pub exclusive: bool,
    /// References, but for those of LRU batches.
    pub refcount: i32,
    /// Mappings: PMDs once, PTEs each.
    pub mapcount: i32,
    /// The PMDs among them.
    pub entire: i32,
    /// The pin count of a large page.
    pub pincount: i32,
    /// References and pins that the scenario's handles hold.
    pub held: i32,
    /// The file in whose page cache it is.
    pub file: Option<File>,
    /// References of the page cache or the swap cache.
    pub cached: i32,
    /// What was stored last.
    pub data: u64,
}

/// A world at rest.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct State {
    /// Every mapped page and every held one.
    pub slots: BTreeMap<Slot, SlotView>,
    /// Where swap entries are.
    pub swapped: BTreeSet<Slot>,
    /// NR_FOLL_PIN_ACQUIRED and NR_FOLL_PIN_RELEASED.
    pub pins: (i64, i64),
}

/// Looks; takes no steps.
pub(super) fn state(cpu: &Cpu, ledger: &Ledger) -> State {
    let (mut slots, mut swapped) = (BTreeMap::new(), BTreeSet::new());
    for mm in (0..MMS).map(MmId).filter(|&mm| mm_alive(cpu, mm)) {
        for n in 0..TASK_PAGES {
            let Some(leaf) = leaf_at(cpu, mm, n * PAGE_SIZE) else {
                if leaf_or_swapped_at(cpu, mm, n * PAGE_SIZE).is_some() {
                    swapped.insert(Slot::Mapped(mm, n as u8));
                }
                continue;
            };
            let page = view(cpu, ledger, leaf.page, leaf.huge);
            let (accessible, write, huge) = (leaf.accessible, leaf.write, leaf.huge);
            let entry = SlotView { accessible, write, huge, special: leaf.special, ..page };
            slots.insert(Slot::Mapped(mm, n as u8), entry);
        }
    }
    let frames = cpu.world.limits().frames;
    for h in (0..HANDLES).map(Handle) {
        let pages = ledger.handle(h).into_iter().flat_map(|held| held.pages());
        for (i, &page) in pages.enumerate().filter(|(_, p)| p.0 < frames) {
            slots.insert(Slot::Held(h, i as u8), view(cpu, ledger, page, false));
        }
    }
    let stat = |item| cpu.world.node_stat(item);
    let pins = (stat(NodeStat::NR_FOLL_PIN_ACQUIRED), stat(NodeStat::NR_FOLL_PIN_RELEASED));
    State { slots, swapped, pins }
}

/// A page that nothing is known to map.
fn view(cpu: &Cpu, ledger: &Ledger, page: Page, huge: bool) -> SlotView {
    let world = cpu.world;
    let head = world.look(world.head_of(page));
    let batched = world.batched().filter(|&p| p == head.page).count() as i32;
    let owned = owned_of(cpu, ledger, head.page);
    let cached = head.flags.contains(Pg::SWAPCACHE) || head.file.is_some();
    let ptes = pages_of(world.span_of(head.page)).map(|p| world.look(p).mapcount);
    // A page that a PMD maps has its mark on the head.
    let mark = if huge { head.page } else { page };
    SlotView {
        page,
        order: head.order,
        accessible: false,
        write: false,
        huge: false,
        special: false,
        zero_page: page == world.zero_page(),
        movable: is_zone_movable_page(world, page),
        anon: head.anon,
        exclusive: head.anon && world.look(mark).flags.contains(Pg::ANON_EXCLUSIVE),
        refcount: head.refcount - batched,
        mapcount: head.compound_mapcount + ptes.sum::<i32>(),
        entire: head.compound_mapcount,
        pincount: head.pincount,
        held: owned.gets + owned.pins,
        file: head.file,
        cached: if cached { 1 << head.order } else { 0 },
        data: world.look(page).data,
    }
}
