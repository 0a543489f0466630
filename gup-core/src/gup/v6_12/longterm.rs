// SPDX-License-Identifier: GPL-2.0-only
//! FOLL_LONGTERM in the slow path: folios that must stay movable are moved
//! away, and everything is pinned again.

use super::faultin::__get_user_pages_locked;
use super::grab::{folio_is_longterm_pinnable, unpin_folio, unpin_user_pages};
use crate::errno::Errno;
use crate::flags::{Foll, GFP_USER, Gfp};
use crate::history::Defect;
use crate::model::folio::{
    Folio, folio_has_pincount, folio_is_file_lru, folio_isolate_lru, folio_mapcount, folio_mapping,
    folio_nr_pages, folio_order, folio_pfn, folio_ref_count, folio_test_anon, folio_test_hugetlb,
    folio_test_large, folio_test_private, folio_test_swapcache, isolate_hugetlb,
    node_stat_mod_folio, page_folio, page_has_type,
};
use crate::model::lru::{lru_add_drain, lru_add_drain_all};
use crate::model::migrate::{MigrationTarget, PageList, migrate_pages, putback_movable_pages};
use crate::model::mm::MmId;
use crate::model::page::{GUP_PIN_COUNTING_BIAS, Mapping};
use crate::model::vmstat::NodeStat;
use crate::model::{Cpu, Page};

/// The array that is looked through.
///
/// C: struct pages_or_folios, mm/gup.c, v6.12
// PORT: pages only: folios come from memfd_pin_folios() alone.
struct PagesOrFolios<'a> {
    entries: &'a mut [Page],
}

/// C: pofs_get_folio(), mm/gup.c, v6.12
fn pofs_get_folio(cpu: &Cpu, pofs: &PagesOrFolios<'_>, i: usize) -> Folio {
    page_folio(cpu, pofs.entries[i])
}

/// C: pofs_clear_entry(), mm/gup.c, v6.12
fn pofs_clear_entry(pofs: &mut PagesOrFolios<'_>, i: usize) {
    pofs.entries[i] = Page::NULL;
}

/// C: pofs_unpin(), mm/gup.c, v6.12
fn pofs_unpin(cpu: &Cpu, pofs: &PagesOrFolios<'_>) {
    unpin_user_pages(cpu, pofs.entries, Ok(pofs.entries.len()));
}

/// The folio of the next entry that is not of `folio`; `None` at the end.
///
/// C: pofs_next_folio(), mm/gup.c, v6.12
fn pofs_next_folio(
    cpu: &Cpu,
    folio: Folio,
    pofs: &PagesOrFolios<'_>,
    index: &mut usize,
) -> Option<Folio> {
    let mut i = *index + 1;

    if folio_test_large(cpu, folio) {
        let start_pfn = folio_pfn(folio);
        let end_pfn = start_pfn + folio_nr_pages(cpu, folio);

        while i < pofs.entries.len() {
            if !(start_pfn..end_pfn).contains(&u64::from(pofs.entries[i].0)) {
                break;
            }
            i += 1;
        }
    }
    if i == pofs.entries.len() {
        return None;
    }
    *index = i;
    Some(pofs_get_folio(cpu, pofs, i))
}

/// Isolates the folios that must move, as far as they can be; returns how
/// many must.
///
/// C: collect_longterm_unpinnable_folios(), mm/gup.c, v6.12
#[doc(alias = "collect_longterm_unpinnable_pages")]
fn collect_longterm_unpinnable_folios(
    cpu: &Cpu,
    movable_folio_list: &mut PageList,
    pofs: &PagesOrFolios<'_>,
) -> usize {
    let mut collected = 0;
    let mut drained = 0;
    let mut i = 0;
    let mut next = Some(pofs_get_folio(cpu, pofs, i));

    while let Some(folio) = next {
        'next: {
            let pin_refs = if folio_has_pincount(cpu, folio) { 1 } else { GUP_PIN_COUNTING_BIAS };

            if folio_is_longterm_pinnable(cpu, folio) {
                break 'next;
            }
            collected += 1;

            // PORT: no device-coherent memory.
            if folio_test_hugetlb(cpu, folio) {
                if isolate_hugetlb(cpu, folio) {
                    movable_folio_list.add_tail(folio.page());
                }
                break 'next;
            }
            // References of LRU batches would forbid the migration.
            if drained == 0 && folio_may_be_lru_cached(cpu, folio) && foreign(cpu, folio, pin_refs)
            {
                lru_add_drain(cpu);
                drained = 1;
            }
            if drained == 1 && folio_may_be_lru_cached(cpu, folio) && foreign(cpu, folio, pin_refs)
            {
                lru_add_drain_all(cpu);
                drained = 2;
            }
            // The defect takes the answer the wrong way round.
            if folio_isolate_lru(cpu, folio) == cpu.has(Defect::IsolationInverted) {
                break 'next;
            }
            movable_folio_list.add_tail(folio.page());
            // PORT: two arguments, in the order in which gcc evaluates them.
            let nr = folio_nr_pages(cpu, folio) as i64;
            let file = folio_is_file_lru(cpu, folio);
            let item = if file { NodeStat::NR_ISOLATED_FILE } else { NodeStat::NR_ISOLATED_ANON };
            node_stat_mod_folio(cpu, folio, item, nr);
        }
        next = pofs_next_folio(cpu, folio, pofs, &mut i);
    }
    collected
}

// PORT: not in the C, which has this test twice.
fn foreign(cpu: &Cpu, folio: Folio, pin_refs: i32) -> bool {
    folio_ref_count(cpu, folio) != folio_expected_ref_count(cpu, folio) + pin_refs
}

/// Whether an LRU batch may hold a reference on the folio.
///
/// C: folio_may_be_lru_cached(), linux/swap.h, v6.12
fn folio_may_be_lru_cached(cpu: &Cpu, folio: Folio) -> bool {
    !folio_test_large(cpu, folio)
}

/// The references that caches and mappings explain.
///
/// C: folio_expected_ref_count(), linux/mm.h, v6.12
fn folio_expected_ref_count(cpu: &Cpu, folio: Folio) -> i32 {
    let order = folio_order(cpu, folio);
    let mut ref_count = 0;

    let typed = page_has_type(cpu, folio.page()) && !folio_test_hugetlb(cpu, folio);
    let what = "page_has_type(&folio->page) && !folio_test_hugetlb(folio)";
    if cpu.warn_on(typed, "folio_expected_ref_count", what) {
        return 0;
    }
    ref_count += i32::from(folio_test_swapcache(cpu, folio)) << order;

    if !folio_test_anon(cpu, folio) {
        ref_count += i32::from(folio_mapping(cpu, folio) != Mapping::None) << order;
        ref_count += i32::from(folio_test_private(cpu, folio));
    }
    ref_count + folio_mapcount(cpu, folio)
}

/// Gives all pins back and migrates what was isolated.
///
/// # Errors
/// `EAGAIN` if all was migrated, and shall be pinned again; else what went
/// wrong.
///
/// C: migrate_longterm_unpinnable_folios(), mm/gup.c, v6.12
#[doc(alias = "migrate_longterm_unpinnable_pages")]
fn migrate_longterm_unpinnable_folios(
    cpu: &Cpu,
    movable_folio_list: &mut PageList,
    pofs: &mut PagesOrFolios<'_>,
) -> Errno {
    for i in 0..pofs.entries.len() {
        let folio = pofs_get_folio(cpu, pofs, i);

        // PORT: no device-coherent memory.
        // No other reference than the isolation's may be left.
        unpin_folio(cpu, folio);
        pofs_clear_entry(pofs, i);
    }
    if !movable_folio_list.is_empty() {
        let mtc = MigrationTarget { gfp: GFP_USER | Gfp::NOWARN };

        if migrate_pages(cpu, movable_folio_list, &mtc) != Ok(0) {
            // err:
            pofs_unpin(cpu, pofs);
            putback_movable_pages(cpu, movable_folio_list);
            return Errno::ENOMEM;
        }
    }
    putback_movable_pages(cpu, movable_folio_list);
    Errno::EAGAIN
}

/// C: check_and_migrate_movable_pages_or_folios(), mm/gup.c, v6.12
fn check_and_migrate_movable_pages_or_folios(
    cpu: &Cpu,
    pofs: &mut PagesOrFolios<'_>,
) -> Result<(), Errno> {
    let mut movable_folio_list = PageList::new();
    let collected = collect_longterm_unpinnable_folios(cpu, &mut movable_folio_list, pofs);
    // The defect looks at the list, as if all that must move were on it.
    let unisolated = cpu.has(Defect::UnisolatedIsPinnable) && movable_folio_list.is_empty();
    if collected == 0 || unisolated {
        return Ok(());
    }
    Err(migrate_longterm_unpinnable_folios(cpu, &mut movable_folio_list, pofs))
}

/// Whether all pinned pages may stay where they are. If not, all pins are
/// given back, and the pages that may not stay are migrated.
///
/// # Errors
/// `EAGAIN` if the caller shall pin all again; else what went wrong.
///
/// C: check_and_migrate_movable_pages(), mm/gup.c, v6.12
fn check_and_migrate_movable_pages(cpu: &Cpu, pages: &mut [Page]) -> Result<(), Errno> {
    let mut pofs = PagesOrFolios { entries: pages };
    check_and_migrate_movable_pages_or_folios(cpu, &mut pofs)
}

/// [`__get_user_pages_locked`] for callers that may say FOLL_LONGTERM.
///
/// C: __gup_longterm_locked(), mm/gup.c, v6.12
pub(super) fn __gup_longterm_locked(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    pages: &mut [Page],
    locked: &mut bool,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    if !gup_flags.contains(Foll::LONGTERM) {
        return __get_user_pages_locked(cpu, mm, start, nr_pages, Some(pages), locked, gup_flags);
    }
    let flags = cpu.memalloc_pin_save();
    let rc = loop {
        let nr_pinned_pages =
            __get_user_pages_locked(cpu, mm, start, nr_pages, Some(pages), locked, gup_flags);
        let Ok(n @ 1..) = nr_pinned_pages else { break nr_pinned_pages };

        // FOLL_LONGTERM implies FOLL_PIN.
        match check_and_migrate_movable_pages(cpu, &mut pages[..n]) {
            Err(Errno::EAGAIN) => {}
            rc => break rc.map(|()| n),
        }
    };
    cpu.memalloc_pin_restore(flags);
    rc
}
