// SPDX-License-Identifier: GPL-2.0-only
//! Taking and giving back references and pins.
//!
//! "Grab" means: look at the flags, then take what they ask for. A get is
//! one reference. A pin of a small page, or of a compound page of two, is
//! 1024 references; a pin of a larger compound page is one reference and one
//! on the head's pin count.

use crate::errno::Errno;
use crate::flags::Foll;
use crate::history::{Defect, Proposal, Safeguard};
use crate::model::Cpu;
use crate::model::folio::smp_mb__after_atomic;
use crate::model::page::{
    GUP_PIN_COUNTING_BIAS, Page, compound_head, compound_nr, compound_order, compound_pincount_add,
    hpage_pincount_available, is_pinnable_page, page_cache_add_speculative, page_compound,
    page_dirty, page_ref_add, page_ref_count_is, page_ref_sub, put_page, set_page_dirty_lock,
    try_get_page,
};
use crate::model::vmstat::{NodeStat, mod_node_page_state};

/// Counts `refs` pins of a head of order > 1.
///
/// C: hpage_pincount_add(), mm/gup.c, v5.15
fn hpage_pincount_add(cpu: &Cpu, page: Page, refs: i32) {
    let at = "hpage_pincount_add";
    cpu.bug_on(!hpage_pincount_available(cpu, page), at, "!hpage_pincount_available(page)");
    cpu.bug_on(page != compound_head(cpu, page), at, "page != compound_head(page)");

    compound_pincount_add(cpu, page, refs);
}

/// Takes `refs` pins off the count of a head of order > 1.
///
/// C: hpage_pincount_sub(), mm/gup.c, v5.15
fn hpage_pincount_sub(cpu: &Cpu, page: Page, refs: i32) {
    let at = "hpage_pincount_sub";
    cpu.bug_on(!hpage_pincount_available(cpu, page), at, "!hpage_pincount_available(page)");
    cpu.bug_on(page != compound_head(cpu, page), at, "page != compound_head(page)");

    compound_pincount_add(cpu, page, refs.wrapping_neg());
}

/// Gives back `refs` references, the last with put_page().
///
/// C: put_page_refs(), mm/gup.c, v5.15
fn put_page_refs(cpu: &Cpu, page: Page, refs: i32) {
    // PORT: CONFIG_DEBUG_VM is on.
    let few = page_ref_count_is(cpu, page, |count| count < refs);
    if cpu.warn_on(few, "put_page_refs", "page_ref_count(page) < refs") {
        return;
    }
    if refs > 1 {
        page_ref_sub(cpu, page, refs - 1);
    }
    put_page(cpu, page);
}

/// Takes `refs` references on the head of `page` for somebody who holds none
/// yet; `None` if the head is free, frozen or overflown, or if the page left
/// it meanwhile.
///
/// C: try_get_compound_head(), mm/gup.c, v5.15
pub(crate) fn try_get_compound_head(cpu: &Cpu, page: Page, refs: i32) -> Option<Page> {
    let head = compound_head(cpu, page);

    let negative = page_ref_count_is(cpu, head, |count| count < 0);
    if cpu.warn_on(negative, "try_get_compound_head", "page_ref_count(head) < 0") {
        return None;
    }
    if !page_cache_add_speculative(cpu, head, refs) {
        return None;
    }
    // The head is stable from here on. Whether the page still belongs to it
    // is another question: it may have been split off before the reference.
    if !cpu.has(Defect::HeadNotRechecked) && compound_head(cpu, page) != head {
        put_page_refs(cpu, head, refs);
        return None;
    }
    Some(head)
}

/// Grabs `refs` times the head of `page`, for somebody who holds no
/// reference yet. The fast path's helper: it refuses what the slow path
/// would have to repair.
///
/// Returns the head; `None` if it could not be had, or if the flags ask for
/// neither a get nor a pin, which is also a warning.
///
/// C: try_grab_compound_head(), mm/gup.c, v5.15
#[doc(alias = "try_grab_folio")]
pub fn try_grab_compound_head(cpu: &Cpu, page: Page, refs: i32, flags: Foll) -> Option<Page> {
    if flags.contains(Foll::GET) {
        return try_get_compound_head(cpu, page, refs);
    } else if flags.contains(Foll::PIN) {
        // A page that must stay movable is left to the slow path, which can
        // migrate it.
        if refuses_unpinnable(cpu, refs, flags)
            && flags.contains(Foll::LONGTERM)
            && !is_pinnable_page(cpu, page)
        {
            return None;
        }
        // Before this point the head may change at any time.
        let page = try_get_compound_head(cpu, page, refs)?;

        // One reference is kept in any case, so that the page stays.
        if hpage_pincount_available(cpu, page) {
            hpage_pincount_add(cpu, page, refs);
        } else {
            page_ref_add(cpu, page, refs.wrapping_mul(GUP_PIN_COUNTING_BIAS - 1));
        }
        // PORT: not in the C: the pin before the second look at
        // write_protect_seq; pairs with the one in write_protect_seq_begin().
        if !cpu.has(Defect::ForkSeqUnordered) {
            smp_mb__after_atomic(cpu);
        }
        mod_node_page_state(cpu, NodeStat::NR_FOLL_PIN_ACQUIRED, refs.into());
        return Some(page);
    }
    cpu.warn_on(true, "try_grab_compound_head", "neither FOLL_GET nor FOLL_PIN");
    None
}

// PORT: not in the C: the kernels in which the helper looks at the placement
// of a longterm pin in some calls only, or never.
fn refuses_unpinnable(cpu: &Cpu, refs: i32, flags: Foll) -> bool {
    !cpu.has(Defect::FastLongtermUnchecked)
        && (!cpu.kernel.applies(Proposal::SkipCheckForSingleRef) || refs > 1)
        && !cpu.kernel.applies(Proposal::CheckInFastWalkers)
        && (!cpu.kernel.applies(Proposal::FastOnlyFlag) || flags.contains(Foll::FAST_ONLY))
}

/// Gives back what grabbing `refs` times with `flags` took.
///
/// C: put_compound_head(), mm/gup.c, v5.15
pub(crate) fn put_compound_head(cpu: &Cpu, page: Page, mut refs: i32, flags: Foll) {
    if flags.contains(Foll::PIN) {
        mod_node_page_state(cpu, NodeStat::NR_FOLL_PIN_RELEASED, refs.into());

        if hpage_pincount_available(cpu, page) {
            if cpu.lacks(Safeguard::PincountBeforePut) {
                put_page_refs(cpu, page, refs);
                return compound_pincount_add(cpu, page, refs.wrapping_neg());
            }
            hpage_pincount_sub(cpu, page, refs);
        } else {
            refs = refs.wrapping_mul(GUP_PIN_COUNTING_BIAS);
        }
    }
    put_page_refs(cpu, page, refs);
}

/// Grabs a page that cannot go away meanwhile: the slow path holds the lock
/// of the table that maps it. With neither FOLL_GET nor FOLL_PIN nothing is
/// done. False only if the page's reference count has overflown.
///
/// C: try_grab_page(), mm/gup.c, v5.15
pub fn try_grab_page(cpu: &Cpu, mut page: Page, flags: Foll) -> bool {
    if cpu.has(Defect::SlowGrabIsFast) {
        if !flags.intersects(Foll::GET | Foll::PIN) {
            return true;
        }
        return try_grab_compound_head(cpu, page, 1, flags).is_some();
    }
    let both = flags.contains(Foll::GET | Foll::PIN);
    cpu.warn_on(both, "try_grab_page", "FOLL_GET and FOLL_PIN");

    if flags.contains(Foll::GET) {
        return try_get_page(cpu, page);
    } else if flags.contains(Foll::PIN) {
        let mut refs = 1;

        page = compound_head(cpu, page);

        let dead = page_ref_count_is(cpu, page, |count| count <= 0);
        if cpu.warn_on(dead, "try_grab_page", "page_ref_count(page) <= 0") {
            return false;
        }
        if hpage_pincount_available(cpu, page) {
            hpage_pincount_add(cpu, page, 1);
        } else {
            refs = GUP_PIN_COUNTING_BIAS;
        }
        page_ref_add(cpu, page, refs);
        mod_node_page_state(cpu, NodeStat::NR_FOLL_PIN_ACQUIRED, 1);
    }
    true
}

/// Gives back one pin.
///
/// C: unpin_user_page(), mm/gup.c, v5.15
#[doc(alias = "put_user_page")]
pub fn unpin_user_page(cpu: &Cpu, page: Page) {
    put_compound_head(cpu, compound_head(cpu, page), 1, Foll::PIN);
}

/// The head and the number of pages of the next run of a range of frames.
///
/// C: compound_range_next(), mm/gup.c, v5.15
fn compound_range_next(cpu: &Cpu, i: usize, npages: usize, first: Page) -> Option<(Page, usize)> {
    if i >= npages {
        return None;
    }
    let mut nr = 1;
    let next = first.nth(i as u64);
    let page = compound_head(cpu, next);
    if page_compound(cpu, page) && compound_order(cpu, page) >= 1 {
        let left = u64::from(page.0) + compound_nr(cpu, page) - u64::from(next.0);
        nr = (left as usize).min(npages - i);
    }
    Some((page, nr))
}

/// The head and the number of pages of the next run of an array.
///
/// C: compound_next(), mm/gup.c, v5.15
fn compound_next(cpu: &Cpu, i: usize, list: &[Page]) -> Option<(Page, usize)> {
    if i >= list.len() {
        return None;
    }
    let page = compound_head(cpu, list[i]);
    let mut nr = i + 1;
    while nr < list.len() {
        if compound_head(cpu, list[nr]) != page {
            break;
        }
        nr += 1;
    }
    Some((page, nr - i))
}

/// Gives back the pins of an array, marking the pages dirty first if
/// `make_dirty`.
///
/// C: unpin_user_pages_dirty_lock(), mm/gup.c, v5.15
#[doc(alias = "put_user_pages_dirty_lock")]
pub fn unpin_user_pages_dirty_lock(cpu: &Cpu, pages: &[Page], make_dirty: bool) {
    if !make_dirty {
        unpin_user_pages(cpu, pages, Ok(pages.len()));
        return;
    }
    let mut index = 0;
    while let Some((head, ntails)) = compound_next(cpu, index, pages) {
        if !page_dirty(cpu, head) {
            set_page_dirty_lock(cpu, head);
        }
        put_compound_head(cpu, head, ntails as i32, Foll::PIN);
        index += ntails;
    }
}

/// Gives back the pins of `npages` frames from `page` on, marking them dirty
/// first if `make_dirty`.
///
/// C: unpin_user_page_range_dirty_lock(), mm/gup.c, v5.15
pub fn unpin_user_page_range_dirty_lock(cpu: &Cpu, page: Page, npages: usize, make_dirty: bool) {
    let mut index = 0;
    while let Some((head, ntails)) = compound_range_next(cpu, index, npages, page) {
        if make_dirty && !page_dirty(cpu, head) {
            set_page_dirty_lock(cpu, head);
        }
        put_compound_head(cpu, head, ntails as i32, Foll::PIN);
        index += ntails;
    }
}

/// Gives back the first `npages` pins of an array. `npages` is what a call
/// that pinned returned: an error here is a warning and releases nothing.
///
/// C: unpin_user_pages(), mm/gup.c, v5.15
#[doc(alias = "put_user_pages")]
pub fn unpin_user_pages(cpu: &Cpu, pages: &[Page], npages: Result<usize, Errno>) {
    if cpu.warn_on(npages.is_err(), "unpin_user_pages", "IS_ERR_VALUE(npages)") {
        return;
    }
    let pages = &pages[..npages.unwrap_or(0)];
    let mut index = 0;
    while let Some((head, ntails)) = compound_next(cpu, index, pages) {
        put_compound_head(cpu, head, ntails as i32, Foll::PIN);
        index += ntails;
    }
}
