// SPDX-License-Identifier: GPL-2.0-only
//! Page migration of anonymous memory and of pages of files.
//!
//! Duplicated: a page moves only if, once all its mappings are migration
//! entries, nobody but the isolation and the page cache holds a reference (a
//! page of a file is frozen then, and its place in the cache goes to the new
//! page); on v6.12 it does not come so far if it is exclusive and may be
//! pinned, and a large one is frozen for a moment before it moves; secret
//! memory is never moved; the return value (the number of pages that failed,
//! or −ENOMEM at once if a small page has no target); a THP without a target
//! is split and its parts move one by one, on v6.12 also one that is on the
//! deferred split queue, where the first move by PTEs puts it; failed pages
//! stay on the list.
//! Customised: 3 passes instead of 10, as nothing changes between passes on
//! one CPU. Stubbed: asynchronous modes, writeback.

use super::cpu::{Cpu, Event, FailSite};
use super::filemap::{File, replace_page_cache};
use super::folio::{Folio, folio_is_file_lru};
use super::huge_memory::split_huge_page_to_list;
use super::hugetlb::{
    alloc_hugetlb_folio, folio_putback_active_hugetlb, is_hugetlb, isolate_hugetlb,
};
use super::limits::MAX_CALL_PAGES;
use super::lru::{isolate_lru_page, putback_lru_page};
use super::memory::copy_highpage;
use super::page::{
    Mapping, Page, clear_flag, compound_head, compound_nr, compound_order, get_page_unless_gone,
    page_anon, page_compound, page_count, page_file, page_ref_add, page_ref_freeze,
    page_ref_unfreeze, put_page, set_flag, test_flag, thp_nr_pages, trylock_page, unlock_page,
};
use super::rmap::{RmapPlace, Unmap, remove_migration_ptes, try_to_migrate};
use super::swap::{in_swap_cache, replace_swap_cache};
use super::vmstat::{NodeStat, mod_node_page_state};
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{Gfp, Pg};
use crate::history::Base;

/// Attempts for a page that is busy. The kernel makes 10; loom has enough to
/// explore in one.
const PASSES: u32 = if cfg!(loom) { 1 } else { 3 };
/// A list holds what one call isolates, each THP split into its pages.
const LIST_MAX: usize = MAX_CALL_PAGES * 8;

/// Isolated pages. C: a list_head of page->lru
#[derive(Clone, Debug)]
pub struct PageList {
    len: usize,
    pages: [Page; LIST_MAX],
}

impl Default for PageList {
    fn default() -> Self {
        Self::new()
    }
}

impl PageList {
    /// An empty list. C: LIST_HEAD()
    pub fn new() -> Self {
        PageList { len: 0, pages: [Page::UNSET; LIST_MAX] }
    }
    /// C: list_empty()
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
    /// C: list_add_tail(&page->lru, list)
    pub fn add_tail(&mut self, page: Page) {
        self.pages[self.len] = page;
        self.len += 1;
    }
    /// The pages, in the order of the list.
    pub fn as_slice(&self) -> &[Page] {
        &self.pages[..self.len]
    }
    fn remove(&mut self, i: usize) {
        self.pages.copy_within(i + 1..self.len, i);
        self.len -= 1;
    }
}

/// Where migrated pages go. C: struct migration_target_control, mm/internal.h
#[derive(Clone, Copy, Debug)]
pub struct MigrationTarget {
    /// What to allocate with.
    pub gfp: Gfp,
}

/// C: alloc_migration_target(), mm/migrate.c
fn alloc_migration_target(cpu: &Cpu, page: Page, mtc: &MigrationTarget) -> Option<Page> {
    let order = compound_order(cpu, page);
    if is_hugetlb(cpu, page) {
        return alloc_hugetlb_folio(cpu, order);
    }
    // C: GFP_TRANSHUGE has __GFP_MOVABLE; PF_MEMALLOC_PIN takes it away again.
    let gfp = if order > 0 { mtc.gfp | Gfp::COMP | Gfp::MOVABLE } else { mtc.gfp };
    alloc_pages(cpu, gfp, order)
}

/// Moves the isolated pages of `from` to new frames. What could not be moved
/// stays on the list. C: migrate_pages(), mm/migrate.c
///
/// # Errors
/// `ENOMEM` at once if no target could be had. `Ok` counts the pages that
/// failed for other reasons.
pub fn migrate_pages(
    cpu: &Cpu,
    from: &mut PageList,
    mtc: &MigrationTarget,
) -> Result<usize, Errno> {
    let mut nr_failed = 0;
    let mut never;
    let mut retry = true;
    let mut pass = 0;
    while pass < PASSES && retry {
        retry = false;
        let mut again = 0;
        never = 0;
        let mut i = 0;
        while i < from.len {
            let page = from.pages[i];
            // C: the deferred split queue of v6.12. Its head moves alone if
            // it can be split, else the whole tries.
            if partially_mapped(cpu, page) {
                let _ = split_isolated(cpu, page, from);
            }
            match unmap_and_move(cpu, page, mtc) {
                Ok(()) => from.remove(i),
                Err(Errno::EAGAIN) => {
                    again += 1;
                    retry = true;
                    i += 1;
                }
                Err(Errno::EBUSY) => {
                    // For good: no other pass will do better.
                    never += 1;
                    i += 1;
                }
                Err(e) => {
                    if compound_nr(cpu, page) == 1 || is_hugetlb(cpu, page) {
                        cpu.event(Event::MIGRATE_FAILED);
                        return Err(e);
                    }
                    // C: try_split_thp(); the head is tried again.
                    split_isolated(cpu, page, from).map_err(|_| e)?;
                }
            }
        }
        nr_failed = again + never;
        pass += 1;
    }
    if nr_failed > 0 {
        cpu.event(Event::MIGRATE_FAILED);
    }
    Ok(nr_failed)
}

/// C: folio_test_partially_mapped(), linux/page-flags.h, v6.12
fn partially_mapped(cpu: &Cpu, head: Page) -> bool {
    cpu.since(Base::V6_12) && page_compound(cpu, head) && test_flag(cpu, head, Pg::PARTIALLY_MAPPED)
}

/// Splits an isolated THP in place; its tails join the list.
/// C: try_split_thp(), mm/migrate.c
fn split_isolated(cpu: &Cpu, page: Page, from: &mut PageList) -> Result<(), Errno> {
    if !trylock_page(cpu, page) {
        return Err(Errno::EBUSY);
    }
    let ret = split_huge_page_to_list(cpu, page, Some(from));
    unlock_page(cpu, page);
    ret
}

/// C: unmap_and_move(), mm/migrate.c
fn unmap_and_move(cpu: &Cpu, page: Page, mtc: &MigrationTarget) -> Result<(), Errno> {
    let nr = thp_nr_pages(cpu, page);
    if is_hugetlb(cpu, page) {
        return unmap_and_move_huge_page(cpu, page, mtc, nr);
    }
    if page_count(cpu, page) == 1 {
        // Freed from under us: only the isolation holds it.
        done_with(cpu, page, nr);
        return Ok(());
    }
    if cpu.should_fail(FailSite::Migrate) {
        cpu.event(Event::MIGRATE_INJECTED);
        return Err(Errno::EAGAIN);
    }
    let new = alloc_migration_target(cpu, page, mtc).ok_or(Errno::ENOMEM)?;
    match __unmap_and_move(cpu, page, new, nr) {
        Ok(()) => {
            done_with(cpu, page, nr);
            putback_lru_page(cpu, new);
            Ok(())
        }
        Err(e) => {
            put_page(cpu, new);
            Err(e)
        }
    }
}

/// C: unmap_and_move_huge_page(), mm/migrate.c
fn unmap_and_move_huge_page(
    cpu: &Cpu,
    page: Page,
    mtc: &MigrationTarget,
    nr: u64,
) -> Result<(), Errno> {
    if page_count(cpu, page) == 1 {
        folio_putback_active_hugetlb(cpu, page);
        return Ok(());
    }
    if cpu.should_fail(FailSite::Migrate) {
        cpu.event(Event::MIGRATE_INJECTED);
        return Err(Errno::EAGAIN);
    }
    let new = alloc_migration_target(cpu, page, mtc).ok_or(Errno::ENOMEM)?;
    let moved = __unmap_and_move(cpu, page, new, nr);
    if moved.is_ok() {
        folio_putback_active_hugetlb(cpu, page);
    }
    // C: put_new_folio is NULL, so an unused target is given back so, too
    folio_putback_active_hugetlb(cpu, new);
    moved
}

/// C: NR_ISOLATED_ANON + folio_is_file_lru(folio)
pub(crate) fn isolated_stat(cpu: &Cpu, page: Page) -> NodeStat {
    if folio_is_file_lru(cpu, Folio(page)) {
        NodeStat::NR_ISOLATED_FILE
    } else {
        NodeStat::NR_ISOLATED_ANON
    }
}

/// The old page leaves isolation for good.
fn done_with(cpu: &Cpu, page: Page, nr: u64) {
    mod_node_page_state(cpu, isolated_stat(cpu, page), -(nr as i64));
    put_page(cpu, page);
}

/// C: __unmap_and_move(); on v6.12 migrate_folio_unmap(), migrate_folio_move()
fn __unmap_and_move(cpu: &Cpu, page: Page, new: Page, nr: u64) -> Result<(), Errno> {
    if !trylock_page(cpu, page) {
        return Err(Errno::EAGAIN);
    }
    // Who finds the new page, by the page cache or by an entry, waits.
    let moved = if trylock_page(cpu, new) {
        let moved = move_locked(cpu, page, new, nr);
        unlock_page(cpu, new);
        moved
    } else {
        Err(Errno::EAGAIN)
    };
    unlock_page(cpu, page);
    moved
}

/// The part of __unmap_and_move() under the locks of both pages.
fn move_locked(cpu: &Cpu, page: Page, new: Page, nr: u64) -> Result<(), Errno> {
    let place = RmapPlace::of(cpu, page);
    let moved = if try_to_migrate(cpu, page, Unmap::Whole) {
        move_to_new_page(cpu, page, new, nr)
    } else {
        Err(Errno::EAGAIN)
    };
    let at = if moved.is_ok() { new } else { page };
    remove_migration_ptes(cpu, page, at, place, nr, false);
    // C: the new page takes the place of the old on the deferred split queue
    if moved.is_ok() && partially_mapped(cpu, page) {
        set_flag(cpu, new, Pg::PARTIALLY_MAPPED);
    }
    moved
}

/// C: move_to_new_page(), migrate_page(), migrate_page_move_mapping(); on
/// v6.12 move_to_new_folio(), __migrate_folio(), __folio_migrate_mapping()
fn move_to_new_page(cpu: &Cpu, page: Page, new: Page, nr: u64) -> Result<(), Errno> {
    if in_swap_cache(cpu, page) {
        return move_in_swap_cache(cpu, page, new, nr);
    }
    let Some(file) = page_file(cpu, page) else {
        // Anonymous and not in the swap cache: the isolation's reference is
        // all that may be left.
        if page_count(cpu, page) != 1 {
            return Err(Errno::EAGAIN);
        }
        if cpu.since(Base::V6_12) && page_compound(cpu, page) {
            // C: __folio_migrate_mapping(), to take it off the split queue
            if !page_ref_freeze(cpu, page, 1) {
                return Err(Errno::EAGAIN);
            }
            page_ref_unfreeze(cpu, page, 1);
        }
        migrate_page_copy(cpu, page, new, nr);
        return Ok(());
    };
    if file == File::Secretmem {
        // C: secretmem_migratepage()
        return Err(Errno::EBUSY);
    }
    // The isolation's reference and the page cache's, one for each page.
    let (isolation, cache) = (1, 1 << file.order());
    if !page_ref_freeze(cpu, page, isolation + cache) {
        return Err(Errno::EAGAIN);
    }
    replace_page_cache(cpu, file, page, new);
    page_ref_unfreeze(cpu, page, isolation);
    migrate_page_copy(cpu, page, new, nr);
    cpu.world.frame(page).mapping.set(Mapping::None.word());
    Ok(())
}

/// A page in the swap cache is frozen while another takes its place there.
/// C: migrate_page_move_mapping(), __folio_migrate_mapping()
fn move_in_swap_cache(cpu: &Cpu, page: Page, new: Page, nr: u64) -> Result<(), Errno> {
    // The isolation's reference and the swap cache's.
    if !page_ref_freeze(cpu, page, 1 + nr as i32) {
        return Err(Errno::EAGAIN);
    }
    page_ref_add(cpu, new, nr as i32);
    set_flag(cpu, new, Pg::SWAPCACHE);
    replace_swap_cache(cpu, page, new, nr);
    page_ref_unfreeze(cpu, page, 1);
    migrate_page_copy(cpu, page, new, nr);
    clear_flag(cpu, page, Pg::SWAPCACHE);
    Ok(())
}

/// C: migrate_page_copy(), migrate_page_states()
fn migrate_page_copy(cpu: &Cpu, page: Page, new: Page, nr: u64) {
    let (from, to) = (cpu.world.frame(page), cpu.world.frame(new));
    to.mapping.set(from.mapping.read());
    to.index.set(from.index.read());
    // A mark of exclusivity that is left is that of a first page which nobody
    // maps any more; the kernel copies it, too.
    let keep = Pg::REFERENCED | Pg::DIRTY | Pg::SWAPBACKED | Pg::ANON_EXCLUSIVE;
    to.flags.set(from.flags.read(keep.bits()));
    for i in 0..nr {
        copy_highpage(cpu, new.nth(i), page.nth(i));
    }
}

/// Gives back what could not be moved.
/// C: putback_movable_pages(), mm/migrate.c
pub fn putback_movable_pages(cpu: &Cpu, list: &mut PageList) {
    for &page in list.as_slice() {
        if is_hugetlb(cpu, page) {
            folio_putback_active_hugetlb(cpu, page);
            continue;
        }
        let nr = thp_nr_pages(cpu, page);
        mod_node_page_state(cpu, isolated_stat(cpu, page), -(nr as i64));
        putback_lru_page(cpu, page);
    }
    *list = PageList::new();
}

/// Moves the page that the caller found mapped, as move_pages(2) does: to
/// wherever a movable allocation goes now. C: do_move_pages_to_node(),
/// mm/migrate.c
///
/// # Errors
/// `EBUSY` if it cannot be isolated or moved, `EINVAL` if it is a driver's,
/// `ENOMEM`.
pub fn move_page(cpu: &Cpu, page: Page) -> Result<(), Errno> {
    move_isolated(cpu, isolate_page(cpu, page)?)
}

/// Isolates the page that the caller found mapped.
/// C: add_page_for_migration(), mm/migrate.c
///
/// # Errors
/// `EBUSY` if that cannot be, `EINVAL` if the page is a driver's.
pub fn isolate_page(cpu: &Cpu, page: Page) -> Result<PageList, Errno> {
    let head = compound_head(cpu, page);
    if !page_anon(cpu, head) && page_file(cpu, head).is_none() {
        return Err(Errno::EINVAL);
    }
    super::lru::lru_add_drain_all(cpu);
    if is_hugetlb(cpu, head) {
        if !isolate_hugetlb(cpu, head) {
            return Err(Errno::EBUSY);
        }
    } else {
        if !get_page_unless_gone(cpu, page, head) {
            return Err(Errno::EBUSY);
        }
        let taken = isolate_lru_page(cpu, head);
        put_page(cpu, head);
        taken?;
        mod_node_page_state(cpu, isolated_stat(cpu, head), thp_nr_pages(cpu, head) as i64);
    }
    let mut list = PageList::new();
    list.add_tail(head);
    Ok(list)
}

/// Moves isolated pages, and puts back what cannot be moved.
/// C: the rest of do_move_pages_to_node()
///
/// # Errors
/// `EBUSY` if one could not be moved, `ENOMEM`.
pub fn move_isolated(cpu: &Cpu, mut list: PageList) -> Result<(), Errno> {
    let failed = migrate_pages(cpu, &mut list, &MigrationTarget { gfp: Gfp::MOVABLE });
    putback_movable_pages(cpu, &mut list);
    if failed? > 0 { Err(Errno::EBUSY) } else { Ok(()) }
}
