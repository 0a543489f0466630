// SPDX-License-Identifier: GPL-2.0-only
//! What a run did, for people: page states in kernel terms; and for a
//! corpus: features.

use gup_core::flags::{Foll, Pg};
use gup_core::model::cpu::Event;
use gup_core::model::limits::{PAGE_SIZE, TASK_PAGES};
use gup_core::model::mm::{MmId, mm_alive};
use gup_core::model::page::total_mapcount;
use gup_core::model::pgtable::leaf_at;
use gup_core::model::zone::{Place, is_migrate_isolate_page, place};
use gup_core::model::{Cpu, Page};
use gup_core::splat::Splat;
use gup_core::step::Step;

use super::state::{State, state};
use super::window::Inner;
use super::{Finding, Ledger, Outcome};
use crate::oracles::bookkeeping::owned_of;
use crate::scenario::{MMS, Op, What};

/// A run, op by op.
#[derive(Debug)]
pub struct Trace {
    /// One line an op that was reached.
    pub lines: Vec<TraceLine>,
    /// What ended it, if anything did.
    pub finding: Option<Finding>,
}

/// One op of a run.
#[derive(Debug)]
pub struct TraceLine {
    /// The op.
    pub op: Op,
    /// What became of it.
    pub outcome: Outcome,
    /// If it ran in a window: before which step, in which function.
    pub place: Option<String>,
    /// What the kernel would have printed.
    pub splats: Vec<Splat>,
    /// Its failure was armed and never reached.
    pub fail_unreached: bool,
    /// The pages whose state changed: before, after.
    pub rows: Vec<(Option<PageRow>, Option<PageRow>)>,
    /// Every page in use after it.
    pub state: State,
    /// Its steps.
    pub steps: Vec<Step>,
}

/// A page (or compound page) at rest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PageRow {
    /// The page, or the head.
    pub page: Page,
    /// log2 of its pages.
    pub order: u32,
    /// Where it lies.
    pub place: Place,
    /// Whether its pageblock is isolated.
    pub isolated_block: bool,
    /// Whether it is free.
    pub free: bool,
    /// The reference count.
    pub refcount: i32,
    /// All mappings. C: total_mapcount()
    pub mapcount: i32,
    /// The pin count, for order > 1.
    pub pincount: i32,
    /// Page flags.
    pub flags: Pg,
    /// Anonymous memory.
    pub anon: bool,
    /// In a page cache, which holds one of the references.
    pub cached: bool,
    /// The zero page.
    pub zero_page: bool,
    /// References of per-CPU LRU batches.
    pub lru_batch: u32,
    /// Where it is mapped, and whether writable.
    pub maps: Vec<(MmId, u64, bool)>,
    /// References the scenario holds.
    pub gets: i32,
    /// Pins the scenario holds.
    pub pins: i32,
}

/// The state of every page in use.
pub(super) fn rows(cpu: &Cpu, ledger: &Ledger) -> Vec<PageRow> {
    // Observing must leave no steps in the record.
    cpu.record_steps(false);
    let world = cpu.world;
    let mut maps: Vec<Vec<(MmId, u64, bool)>> = vec![Vec::new(); world.pages().count()];
    for mm in (0..MMS).map(MmId).filter(|&mm| mm_alive(cpu, mm)) {
        for addr in (0..TASK_PAGES).map(|n| n * PAGE_SIZE) {
            let Some(leaf) = leaf_at(cpu, mm, addr) else { continue };
            if let Some(page) = leaf.counted(world) {
                maps[usize::from(world.head_of(page).0)].push((mm, addr, leaf.write));
            }
        }
    }
    let free = world.free_frames();
    let used = world.pages().filter(|&p| {
        let in_zone = p.0 < world.limits().device_start;
        let held = ledger.held(p) != (0, 0);
        world.head_of(p) == p && in_zone && (free & p.bit() == 0 || held)
    });
    let rows = used.map(|page| row(cpu, ledger, page, &mut maps)).collect();
    cpu.record_steps(true);
    rows
}

fn row(cpu: &Cpu, ledger: &Ledger, page: Page, maps: &mut [Vec<(MmId, u64, bool)>]) -> PageRow {
    let world = cpu.world;
    let v = world.look(page);
    let owned = owned_of(cpu, ledger, page);
    let lru_batch = world.batched().filter(|&p| p == page).count() as u32;
    PageRow {
        page,
        order: v.order,
        place: place(world, page),
        isolated_block: is_migrate_isolate_page(world, page),
        free: world.free_frames() & page.bit() != 0,
        refcount: v.refcount,
        mapcount: total_mapcount(cpu, page),
        pincount: v.pincount,
        flags: v.flags,
        anon: v.anon,
        cached: v.file.is_some(),
        zero_page: page == world.zero_page(),
        lru_batch,
        maps: std::mem::take(&mut maps[usize::from(page.0)]),
        gets: owned.gets,
        pins: owned.pins,
    }
}

/// The record of an op that has just run.
pub(super) fn line(
    cpu: &Cpu,
    ledger: &Ledger,
    op: Op,
    outcome: Outcome,
    before: Vec<PageRow>,
) -> TraceLine {
    let steps = cpu.recorded_steps().to_vec();
    let splats = cpu.splats();
    let after = rows(cpu, ledger);
    let mut pages: Vec<Page> = before.iter().chain(&after).map(|r| r.page).collect();
    pages.sort_unstable();
    pages.dedup();
    let find = |rows: &[PageRow], p: Page| rows.iter().find(|r| r.page == p).cloned();
    let rows = pages.into_iter().map(|p| (find(&before, p), find(&after, p)));
    let rows = rows.filter(|(b, a)| a != b).collect();
    let (state, fail_unreached) = (state(cpu, ledger), cpu.fail_pending());
    TraceLine { op, outcome, place: None, splats, fail_unreached, rows, state, steps }
}

/// Notes what kind of thing an op did: by itself, with the flags that change
/// most, what went wrong meanwhile and roughly how long it took; and after
/// which other kind. Coarse on purpose, so that a corpus stays some thousand
/// scenarios. Returns what to pass for the next op.
pub(super) fn feature(
    cpu: &Cpu,
    op: Op,
    outcome: Outcome,
    last: u32,
    features: &mut Vec<u32>,
) -> u32 {
    let came_to = match outcome {
        Outcome::Returned(Ok(0)) => 1,
        Outcome::Returned(Ok(_)) => 2,
        Outcome::Returned(Err(e)) | Outcome::Failed(e) => 16 + e as u32,
        Outcome::Done => 3,
        Outcome::Skipped(_) | Outcome::Blocked(_) => return last,
    };
    let flags = match op.what {
        What::Call(c) => (c.flags & (Foll::WRITE | Foll::LONGTERM | Foll::FORCE)).bits(),
        _ => 0,
    };
    let events = (cpu.events() - Event::OUT_OF_BUDGET).bits();
    let length = cpu.steps_taken().max(1).ilog2() / 2;
    let this = hash(u32::from(op.what.opcode()), came_to);
    features.push(hash(hash(this, flags), hash(events, length)));
    features.push(hash(last, this));
    this
}

/// Notes what kind of thing was done in a window of which other kind.
pub(super) fn inner_feature(op: Op, outcome: Outcome, around: u32, features: &mut Vec<u32>) {
    let came_to = match outcome {
        Outcome::Returned(Ok(0)) => 1,
        Outcome::Returned(Ok(_)) => 2,
        Outcome::Returned(Err(_)) | Outcome::Failed(_) => 4,
        Outcome::Done => 3,
        Outcome::Blocked(_) => 5,
        Outcome::Skipped(_) => return,
    };
    let step = op.at.map_or(0, |at| at.kind as u32);
    let this = hash(u32::from(op.what.opcode()), came_to);
    features.push(hash(hash(around, this), !step));
}

/// The record of an op whose window did not let it run.
pub(super) fn idle(cpu: &Cpu, ledger: &Ledger, inner: &Inner) -> TraceLine {
    TraceLine {
        op: inner.op,
        outcome: inner.outcome,
        place: None,
        splats: Vec::new(),
        fail_unreached: false,
        rows: Vec::new(),
        state: state(cpu, ledger),
        steps: Vec::new(),
    }
}

/// Mixes two numbers (the finaliser of MurmurHash3).
fn hash(a: u32, b: u32) -> u32 {
    let mut h = a.rotate_left(15) ^ b.wrapping_mul(0x9e37_79b9);
    h = (h ^ h >> 16).wrapping_mul(0x85eb_ca6b);
    h = (h ^ h >> 13).wrapping_mul(0xc2b2_ae35);
    h ^ h >> 16
}
