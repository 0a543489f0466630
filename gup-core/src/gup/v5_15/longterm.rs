// SPDX-License-Identifier: GPL-2.0-only
//! FOLL_LONGTERM in the slow path: pages that must stay movable are moved
//! away before they are pinned.

use super::faultin::__get_user_pages_locked;
use super::grab::unpin_user_pages;
use crate::errno::Errno;
use crate::flags::{Foll, GFP_USER, Gfp};
use crate::history::Defect;
use crate::model::Cpu;
use crate::model::lru::{isolate_lru_page, lru_add_drain_all};
use crate::model::migrate::{MigrationTarget, PageList, migrate_pages, putback_movable_pages};
use crate::model::mm::{MmId, Vma};
use crate::model::page::{
    Page, compound_head, is_pinnable_page, page_is_file_lru, page_lru, put_page, thp_nr_pages,
};
use crate::model::vmstat::{NodeStat, mod_node_page_state};

/// The number of pages if all may stay where they are. Else all are released
/// and those that may not stay are migrated: 0 if that went well and the
/// caller shall start again, an error if not.
///
/// C: check_and_migrate_movable_pages(), mm/gup.c, v5.15
fn check_and_migrate_movable_pages(
    cpu: &Cpu,
    pages: &[Page],
    gup_flags: Foll,
) -> Result<usize, Errno> {
    let mut isolation_error_count = 0;
    let mut drain_allow = true;
    let mut movable_page_list = PageList::new();
    let mut prev_head = None;
    let mtc = MigrationTarget { gfp: GFP_USER | Gfp::NOWARN };

    for &page in pages {
        let head = compound_head(cpu, page);
        if Some(head) == prev_head {
            continue;
        }
        prev_head = Some(head);
        if !is_pinnable_page(cpu, head) {
            // PORT: no hugetlb pages.
            if !page_lru(cpu, head) && drain_allow {
                lru_add_drain_all(cpu);
                drain_allow = false;
            }
            if isolate_lru_page(cpu, head).is_err() {
                isolation_error_count += 1;
                continue;
            }
            movable_page_list.add_tail(head);
            // C: the arguments of one call, which gcc works out from the last.
            let nr = thp_nr_pages(cpu, head) as i64;
            let file = page_is_file_lru(cpu, head);
            let item = if file { NodeStat::NR_ISOLATED_FILE } else { NodeStat::NR_ISOLATED_ANON };
            mod_node_page_state(cpu, item, nr);
        }
    }

    // Nothing isolated, nothing in the way: all is where it may stay.
    if movable_page_list.is_empty() && isolation_error_count == 0 {
        return Ok(pages.len());
    }

    if gup_flags.contains(Foll::PIN) && !cpu.has(Defect::PutPageOnPinned) {
        unpin_user_pages(cpu, pages, Ok(pages.len()));
    } else {
        for &page in pages {
            put_page(cpu, page);
        }
    }
    let mut ret = Ok(0);
    if !movable_page_list.is_empty() {
        ret = migrate_pages(cpu, &mut movable_page_list, &mtc);
        if ret != Ok(0) && !movable_page_list.is_empty() {
            putback_movable_pages(cpu, &mut movable_page_list);
        }
    }
    match ret {
        Ok(failed) if failed > 0 => Err(Errno::ENOMEM),
        ret => ret,
    }
}

/// [`__get_user_pages_locked`] for callers that may say FOLL_LONGTERM.
///
/// C: __gup_longterm_locked(), mm/gup.c, v5.15
pub(crate) fn __gup_longterm_locked(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    mut pages: Option<&mut [Page]>,
    mut vmas: Option<&mut [Vma]>,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    if !gup_flags.contains(Foll::LONGTERM) {
        return __get_user_pages_locked(cpu, mm, start, nr_pages, pages, vmas, None, gup_flags);
    }
    let flags = cpu.memalloc_pin_save();
    let rc = loop {
        let (p, v) = (pages.as_deref_mut(), vmas.as_deref_mut());
        let rc = __get_user_pages_locked(cpu, mm, start, nr_pages, p, v, None, gup_flags);
        let Ok(n @ 1..) = rc else { break rc };
        // PORT: the C would follow a NULL array here; the port finds no page
        // to move, and starts again until it is killed.
        let got = pages.as_deref().map_or(&[][..], |p| &p[..n]);
        match check_and_migrate_movable_pages(cpu, got, gup_flags) {
            Ok(0) => {}
            // Pinned again where they are, without another look.
            Err(_) if cpu.has(Defect::MigrateFailureIsSuccess) => {
                break __get_user_pages_locked(
                    cpu, mm, start, nr_pages, pages, vmas, None, gup_flags,
                );
            }
            rc => break rc,
        }
    };
    cpu.memalloc_pin_restore(flags);

    rc
}
