// SPDX-License-Identifier: GPL-2.0-only
//! Taking and giving back references and pins.
//!
//! "Grab" means: look at the flags, then take what they ask for. A get is
//! one reference. A pin of a small folio is 1024 references; a pin of a large
//! one is one reference and one on its pin count. The zero page cannot go
//! away, and is not pinned at all.

use crate::errno::Errno;
use crate::flags::Foll;
use crate::history::{Defect, Safeguard};
use crate::model::folio::{
    Folio, Migratetype, folio_is_device_coherent, folio_is_zone_movable, folio_lock,
    folio_mark_dirty, folio_migratetype, folio_nr_pages, folio_page_idx, folio_pincount,
    folio_pincount_add, folio_put_refs, folio_ref_add, folio_ref_count_is, folio_ref_inc,
    folio_ref_try_add, folio_test_anon, folio_test_dirty, folio_test_hugetlb, folio_test_large,
    folio_unlock, is_pci_p2pdma_page, is_zero_folio, node_stat_mod_folio, page_anon_exclusive,
    page_folio, smp_mb__after_atomic,
};
use crate::model::page::{GUP_PIN_COUNTING_BIAS, is_zero_page};
use crate::model::vmstat::NodeStat;
use crate::model::{Cpu, Page};

/// A pinned anonymous page is mapped by one process alone, and stays so.
///
/// C: sanity_check_pinned_pages(), mm/gup.c, v6.12
pub(super) fn sanity_check_pinned_pages(cpu: &Cpu, pages: &[Page]) {
    let at = "sanity_check_pinned_pages";
    // PORT: CONFIG_DEBUG_VM is on.
    for &page in pages {
        if !cpu.has(Defect::NullPageUnpinned) && page == Page::NULL {
            continue;
        }
        let folio = page_folio(cpu, page);

        if is_zero_page(cpu, page) || !folio_test_anon(cpu, folio) {
            continue;
        }
        if !folio_test_large(cpu, folio) || folio_test_hugetlb(cpu, folio) {
            let shared = !page_anon_exclusive(cpu, folio.page());
            cpu.bug_on(shared, at, "!PageAnonExclusive(&folio->page)");
        } else {
            // How the THP was mapped when it was pinned is not known.
            let shared = !page_anon_exclusive(cpu, folio.page()) && !page_anon_exclusive(cpu, page);
            cpu.bug_on(shared, at, "!PageAnonExclusive(&folio->page) && !PageAnonExclusive(page)");
        }
    }
}

/// Takes `refs` references on the folio of `page` for somebody who holds none
/// yet; `None` if it is free, frozen or overflown.
///
/// C: try_get_folio(), mm/gup.c, v6.12
#[doc(alias = "try_get_compound_head")]
fn try_get_folio(cpu: &Cpu, page: Page, refs: i32) -> Option<Folio> {
    // retry:
    loop {
        let folio = page_folio(cpu, page);
        let negative = folio_ref_count_is(cpu, folio, |count| count < 0);
        if cpu.warn_on(negative, "try_get_folio", "folio_ref_count(folio) < 0") {
            return None;
        }
        if !folio_ref_try_add(cpu, folio, refs) {
            return None;
        }
        // The folio is stable from here on. Whether the page still belongs to
        // it is another question: it may have been split off before.
        if !cpu.has(Defect::HeadNotRechecked) && page_folio(cpu, page) != folio {
            // PORT: no device memory: put_devmap_managed_folio_refs() is false.
            folio_put_refs(cpu, folio, refs);
            continue;
        }
        return Some(folio);
    }
}

/// Gives back what grabbing `refs` times with `flags` took.
///
/// C: gup_put_folio(), mm/gup.c, v6.12
#[doc(alias = "put_compound_head")]
pub(super) fn gup_put_folio(cpu: &Cpu, folio: Folio, mut refs: i32, flags: Foll) {
    if flags.contains(Foll::PIN) {
        if !cpu.has(Defect::ZeroPagePinned) && is_zero_folio(cpu, folio) {
            return;
        }
        node_stat_mod_folio(cpu, folio, NodeStat::NR_FOLL_PIN_RELEASED, refs.into());
        if folio_test_large(cpu, folio) {
            if cpu.lacks(Safeguard::PincountBeforePut) {
                folio_put_refs(cpu, folio, refs);
                return folio_pincount_add(cpu, folio, refs.wrapping_neg());
            }
            folio_pincount_add(cpu, folio, refs.wrapping_neg());
        } else {
            refs = refs.wrapping_mul(GUP_PIN_COUNTING_BIAS);
        }
    }
    // PORT: no device memory: put_devmap_managed_folio_refs() is false.
    folio_put_refs(cpu, folio, refs);
}

/// Grabs a folio that cannot go away meanwhile, `refs` times: the slow path
/// holds the lock of the table that maps it. With neither FOLL_GET nor
/// FOLL_PIN nothing is done.
///
/// # Errors
/// `ENOMEM` if its reference count has overflown, `EREMOTEIO` for memory of
/// another device that the caller did not ask for.
///
/// C: try_grab_folio(), mm/gup.c, v6.12
#[doc(alias = "try_grab_page")]
pub fn try_grab_folio(cpu: &Cpu, folio: Folio, refs: i32, flags: Foll) -> Result<(), Errno> {
    let dead = folio_ref_count_is(cpu, folio, |count| count <= 0);
    if cpu.warn_on(dead, "try_grab_folio", "folio_ref_count(folio) <= 0") {
        return Err(Errno::ENOMEM);
    }
    if !flags.contains(Foll::PCI_P2PDMA) && is_pci_p2pdma_page(cpu, folio.page()) {
        return Err(Errno::EREMOTEIO);
    }
    if flags.contains(Foll::GET) {
        folio_ref_add(cpu, folio, refs);
    } else if flags.contains(Foll::PIN) {
        if !cpu.has(Defect::ZeroPagePinned) && is_zero_folio(cpu, folio) {
            return Ok(());
        }
        // One reference is taken in any case, so that the page stays.
        if folio_test_large(cpu, folio) {
            folio_ref_add(cpu, folio, refs);
            folio_pincount_add(cpu, folio, refs);
        } else {
            folio_ref_add(cpu, folio, refs.wrapping_mul(GUP_PIN_COUNTING_BIAS));
        }
        node_stat_mod_folio(cpu, folio, NodeStat::NR_FOLL_PIN_ACQUIRED, refs.into());
    }
    Ok(())
}

/// Gives back one pin.
///
/// C: unpin_user_page(), mm/gup.c, v6.12
pub fn unpin_user_page(cpu: &Cpu, page: Page) {
    sanity_check_pinned_pages(cpu, &[page]);
    gup_put_folio(cpu, page_folio(cpu, page), 1, Foll::PIN);
}

/// Gives back one pin of a folio.
///
/// C: unpin_folio(), mm/gup.c, v6.12
pub fn unpin_folio(cpu: &Cpu, folio: Folio) {
    gup_put_folio(cpu, folio, 1, Foll::PIN);
}

/// A further pin for somebody who holds one already.
///
/// C: folio_add_pin(), mm/gup.c, v6.12
pub fn folio_add_pin(cpu: &Cpu, folio: Folio) {
    let at = "folio_add_pin";
    if !cpu.has(Defect::ZeroPagePinned) && is_zero_folio(cpu, folio) {
        return;
    }
    if folio_test_large(cpu, folio) {
        let none = folio_pincount(cpu, folio) < 1;
        cpu.warn_on(none, at, "atomic_read(&folio->_pincount) < 1");
        folio_ref_inc(cpu, folio);
        folio_pincount_add(cpu, folio, 1);
    } else {
        let none = folio_ref_count_is(cpu, folio, |count| count < GUP_PIN_COUNTING_BIAS);
        cpu.warn_on(none, at, "folio_ref_count(folio) < GUP_PIN_COUNTING_BIAS");
        folio_ref_add(cpu, folio, GUP_PIN_COUNTING_BIAS);
    }
}

/// The folio and the number of pages of the next run of a range of frames.
///
/// C: gup_folio_range_next(), mm/gup.c, v6.12
#[doc(alias = "compound_range_next")]
fn gup_folio_range_next(cpu: &Cpu, start: Page, npages: usize, i: usize) -> (Folio, usize) {
    let next = start.nth(i as u64);
    let folio = page_folio(cpu, next);
    let mut nr = 1;

    if folio_test_large(cpu, folio) {
        let left = folio_nr_pages(cpu, folio) - folio_page_idx(folio, next);
        nr = (left as usize).min(npages - i);
    }
    (folio, nr)
}

/// The folio and the number of pages of the next run of an array.
///
/// C: gup_folio_next(), mm/gup.c, v6.12
#[doc(alias = "compound_next")]
fn gup_folio_next(cpu: &Cpu, list: &[Page], i: usize) -> (Folio, usize) {
    let folio = page_folio(cpu, list[i]);
    let mut nr = i + 1;
    while nr < list.len() {
        if page_folio(cpu, list[nr]) != folio {
            break;
        }
        nr += 1;
    }
    (folio, nr - i)
}

/// Gives back the pins of an array, marking the folios dirty first if
/// `make_dirty`.
///
/// C: unpin_user_pages_dirty_lock(), mm/gup.c, v6.12
pub fn unpin_user_pages_dirty_lock(cpu: &Cpu, pages: &[Page], make_dirty: bool) {
    if !make_dirty {
        unpin_user_pages(cpu, pages, Ok(pages.len()));
        return;
    }
    sanity_check_pinned_pages(cpu, pages);
    let mut i = 0;
    while i < pages.len() {
        let (folio, nr) = gup_folio_next(cpu, pages, i);
        if !folio_test_dirty(cpu, folio) {
            folio_lock(cpu, folio);
            folio_mark_dirty(cpu, folio);
            folio_unlock(cpu, folio);
        }
        gup_put_folio(cpu, folio, nr as i32, Foll::PIN);
        i += nr;
    }
}

/// Gives back the pins of `npages` frames from `page` on, marking them dirty
/// first if `make_dirty`.
///
/// C: unpin_user_page_range_dirty_lock(), mm/gup.c, v6.12
pub fn unpin_user_page_range_dirty_lock(cpu: &Cpu, page: Page, npages: usize, make_dirty: bool) {
    let mut i = 0;
    while i < npages {
        let (folio, nr) = gup_folio_range_next(cpu, page, npages, i);
        if make_dirty && !folio_test_dirty(cpu, folio) {
            folio_lock(cpu, folio);
            folio_mark_dirty(cpu, folio);
            folio_unlock(cpu, folio);
        }
        gup_put_folio(cpu, folio, nr as i32, Foll::PIN);
        i += nr;
    }
}

/// Gives back what GUP-fast has pinned too late: some pages may be shared by
/// now, so nothing is checked.
///
/// C: gup_fast_unpin_user_pages(), mm/gup.c, v6.12
pub(super) fn gup_fast_unpin_user_pages(cpu: &Cpu, pages: &[Page]) {
    let mut i = 0;
    while i < pages.len() {
        let (folio, nr) = gup_folio_next(cpu, pages, i);
        gup_put_folio(cpu, folio, nr as i32, Foll::PIN);
        i += nr;
    }
}

/// Gives back the first `npages` pins of an array, whose entries may be NULL.
/// `npages` is what a call that pinned returned: an error here is a warning
/// and releases nothing.
///
/// C: unpin_user_pages(), mm/gup.c, v6.12
pub fn unpin_user_pages(cpu: &Cpu, pages: &[Page], npages: Result<usize, Errno>) {
    if cpu.warn_on(npages.is_err(), "unpin_user_pages", "IS_ERR_VALUE(npages)") {
        return;
    }
    let pages = &pages[..npages.unwrap_or(0)];
    sanity_check_pinned_pages(cpu, pages);
    let mut i = 0;
    while i < pages.len() {
        if !cpu.has(Defect::NullPageUnpinned) && pages[i] == Page::NULL {
            i += 1;
            continue;
        }
        let (folio, nr) = gup_folio_next(cpu, pages, i);
        gup_put_folio(cpu, folio, nr as i32, Foll::PIN);
        i += nr;
    }
}

/// Gives back `npages` pins of one folio.
///
/// C: unpin_user_folio(), mm/gup.c, v6.12
pub fn unpin_user_folio(cpu: &Cpu, folio: Folio, npages: usize) {
    gup_put_folio(cpu, folio, npages as i32, Foll::PIN);
}

/// Gives back the first `nfolios` pins of an array of folios. An error is a
/// warning and releases nothing.
///
/// C: unpin_folios(), mm/gup.c, v6.12
pub fn unpin_folios(cpu: &Cpu, folios: &[Folio], nfolios: Result<usize, Errno>) {
    if cpu.warn_on(nfolios.is_err(), "unpin_folios", "IS_ERR_VALUE(nfolios)") {
        return;
    }
    let folios = &folios[..nfolios.unwrap_or(0)];
    let mut i = 0;
    while i < folios.len() {
        let mut j = i + 1;
        while j < folios.len() {
            if folios[i] != folios[j] {
                break;
            }
            j += 1;
        }
        if folios[i].page() != Page::NULL {
            gup_put_folio(cpu, folios[i], (j - i) as i32, Foll::PIN);
        }
        i = j;
    }
}

/// Grabs `refs` times the folio of `page`, for somebody who holds no
/// reference yet. GUP-fast's helper: it refuses what the slow path would
/// have to repair.
///
/// Returns the folio; `None` if it could not be had, or if the flags ask for
/// neither a get nor a pin, which is also a warning.
///
/// C: try_grab_folio_fast(), mm/gup.c, v6.12
#[doc(alias = "try_grab_compound_head")]
pub fn try_grab_folio_fast(cpu: &Cpu, page: Page, refs: i32, flags: Foll) -> Option<Folio> {
    let at = "try_grab_folio_fast";
    // The warning came with the fix: before, the slow path did so.
    let slow = !cpu.has(Defect::BatchGrabIsFast) && !cpu.irqs_disabled();
    cpu.warn_on(slow, at, "!irqs_disabled()");

    let neither = !flags.intersects(Foll::GET | Foll::PIN);
    if cpu.warn_on(neither, at, "(flags & (FOLL_GET | FOLL_PIN)) == 0") {
        return None;
    }
    if !flags.contains(Foll::PCI_P2PDMA) && is_pci_p2pdma_page(cpu, page) {
        return None;
    }
    if flags.contains(Foll::GET) {
        return try_get_folio(cpu, page, refs);
    }
    // FOLL_PIN:
    if !cpu.has(Defect::ZeroPagePinned) && is_zero_page(cpu, page) {
        return Some(page_folio(cpu, page));
    }
    let folio = try_get_folio(cpu, page, refs)?;

    // A page that must stay movable is left to the slow path, which can
    // migrate it.
    if flags.contains(Foll::LONGTERM) && !folio_is_longterm_pinnable(cpu, folio) {
        // PORT: no device memory: put_devmap_managed_folio_refs() is false.
        folio_put_refs(cpu, folio, refs);
        return None;
    }
    // The references of try_get_folio() stay, so that the page does.
    if folio_test_large(cpu, folio) {
        folio_pincount_add(cpu, folio, refs);
    } else {
        folio_ref_add(cpu, folio, refs.wrapping_mul(GUP_PIN_COUNTING_BIAS - 1));
    }
    // The pin before the entry is read again: pairs with the barrier between
    // clearing the entry and looking for pins in folio_try_share_anon_rmap().
    if !cpu.has(Defect::ExclusiveWithoutBarriers) && !cpu.lacks(Safeguard::BarrierAfterGrab) {
        smp_mb__after_atomic(cpu);
    }
    node_stat_mod_folio(cpu, folio, NodeStat::NR_FOLL_PIN_ACQUIRED, refs.into());

    Some(folio)
}

/// Whether the folio may be pinned for long where it is.
///
/// C: folio_is_longterm_pinnable(), linux/mm.h, v6.12
#[doc(alias = "is_pinnable_page")]
pub fn folio_is_longterm_pinnable(cpu: &Cpu, folio: Folio) -> bool {
    let mt = folio_migratetype(cpu, folio);

    if mt == Migratetype::Cma || mt == Migratetype::Isolate {
        return false;
    }
    if is_zero_folio(cpu, folio) {
        return true;
    }
    if folio_is_device_coherent(cpu, folio) {
        return false;
    }
    !folio_is_zone_movable(cpu, folio)
}
