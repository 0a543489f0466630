// SPDX-License-Identifier: GPL-2.0-only
//! LRU lists and the per-CPU batches in front of them.
//!
//! Duplicated: a fresh page waits in this CPU's batch, which holds a reference
//! and keeps PG_lru clear, until the batch is drained; compound pages drain it
//! at once; isolation takes PG_lru and a reference. Customised: one batch a
//! CPU with 4 slots (kernel: several with 15); the lists themselves are the
//! flag PG_lru, as nothing here depends on their order. Stubbed: ageing (so
//! the activation batch, which holds a reference on a page touched twice, does
//! not exist), memory cgroups.

use super::cpu::{Cpu, Event, FailSite};
use super::limits::{MAX_CPUS, PAGEVEC_SIZE};
use super::page::{Page, clear_flag, compound_head, get_page, page_compound, put_page, set_flag};
use super::page::{page_tail, test_flag};
use crate::errno::Errno;
use crate::flags::Pg;
use crate::step::StepKind;

/// The batches of all CPUs. C: lru_pvecs, mm/swap.c
#[derive(Clone, PartialEq, Debug)]
pub struct Lru {
    batches: [Batch; MAX_CPUS],
}

#[derive(Clone, Copy, PartialEq, Debug)]
struct Batch {
    len: usize,
    pages: [Page; PAGEVEC_SIZE],
}

impl Batch {
    const EMPTY: Batch = Batch { len: 0, pages: [Page::UNSET; PAGEVEC_SIZE] };
}

impl Lru {
    pub(crate) fn new() -> Self {
        Lru { batches: [Batch::EMPTY; MAX_CPUS] }
    }
    pub(crate) fn batched(&self) -> impl Iterator<Item = Page> + use<> {
        self.batches.into_iter().flat_map(|b| b.pages.into_iter().take(b.len))
    }
}

/// Puts a page into this CPU's batch. C: lru_cache_add(), mm/swap.c
pub fn lru_cache_add(cpu: &Cpu, page: Page) {
    get_page(cpu, page);
    let full = {
        let mut lru = cpu.world.lru.lock();
        let batch = &mut lru.batches[usize::from(cpu.id.get())];
        batch.pages[batch.len] = page;
        batch.len += 1;
        batch.len == PAGEVEC_SIZE
    };
    if full || page_compound(cpu, page) {
        lru_add_drain(cpu);
    }
}

/// Empties this CPU's batch. C: lru_add_drain(), mm/swap.c
pub fn lru_add_drain(cpu: &Cpu) {
    lru_add_drain_cpu(cpu, cpu.id.get());
}

/// Empties every CPU's batch. C: lru_add_drain_all(), mm/swap.c
pub fn lru_add_drain_all(cpu: &Cpu) {
    for id in 0..cpu.world.limits.cpus {
        lru_add_drain_cpu(cpu, id);
    }
}

/// C: lru_add_drain_cpu(), mm/swap.c
fn lru_add_drain_cpu(cpu: &Cpu, id: u8) {
    let batch = {
        let mut lru = cpu.world.lru.lock();
        core::mem::replace(&mut lru.batches[usize::from(id)], Batch::EMPTY)
    };
    for &page in &batch.pages[..batch.len] {
        // C: __pagevec_lru_add_fn(), then release_pages()
        set_flag(cpu, page, Pg::LRU);
        put_page(cpu, page);
    }
}

/// Takes a page off the LRU and a reference on it.
/// C: isolate_lru_page(), mm/vmscan.c
///
/// # Errors
/// `EBUSY` if the page is not on the LRU.
pub fn isolate_lru_page(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    cpu.warn_on(page_tail(cpu, page), "isolate_lru_page", "trying to isolate tail page");
    let head = compound_head(cpu, page);
    if isolate(cpu, head) { Ok(()) } else { Err(Errno::EBUSY) }
}

/// C: folio_isolate_lru(), mm/vmscan.c
pub(crate) fn isolate(cpu: &Cpu, head: Page) -> bool {
    cpu.step(StepKind::FlagSet, head.0.into(), -i64::from(Pg::LRU.bits()));
    let failed = cpu.should_fail(FailSite::Isolate)
        || !cpu.world.frame(head).flags.test_and_clear(Pg::LRU.bits());
    if failed {
        cpu.event(Event::ISOLATE_FAILED);
        return false;
    }
    get_page(cpu, head);
    true
}

/// Gives an isolated page back. C: putback_lru_page(), mm/vmscan.c
pub fn putback_lru_page(cpu: &Cpu, page: Page) {
    lru_cache_add(cpu, page);
    put_page(cpu, page);
}

/// Takes a page that is being freed off its list.
/// C: __page_cache_release(), mm/swap.c
pub(crate) fn __page_cache_release(cpu: &Cpu, page: Page) {
    if test_flag(cpu, page, Pg::LRU) {
        clear_flag(cpu, page, Pg::LRU);
    }
}
