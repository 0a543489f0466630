// SPDX-License-Identifier: GPL-2.0-only
//! Reclaim into the swap cache, and the faults that bring pages back.

mod common;

use common::{CHILD, PARENT, on_both};
use gup_core::errno::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::gup::v5_15::{get_user_pages_fast, pin_user_pages_fast, unpin_user_pages};
use gup_core::history::{Base, Kernel};
use gup_core::invariants::{Owned, counts_add_up, everything_free};
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::fork::dup_mmap;
use gup_core::model::huge_memory::split_huge_page_of;
use gup_core::model::khugepaged::collapse;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::{user_load, user_store};
use gup_core::model::migrate::move_page;
use gup_core::model::mmap::{Kind, Prot, exit_mmap, madvise_dontneed, mm_alloc, mmap};
use gup_core::model::page::put_page;
use gup_core::model::pgtable::{leaf_at, leaf_or_swapped_at, mapped_page};
use gup_core::model::reclaim::{shrink_swap_cache, swap_out};
use gup_core::model::{Cpu, Limits, Page, World};

fn knows_exclusive(cpu: &Cpu) -> bool {
    cpu.kernel.base() >= Base::V6_12
}

fn flags(cpu: &Cpu, page: Page) -> Pg {
    cpu.world.look(page).flags
}

/// A page that was stored to, and is in swap now.
fn swapped(cpu: &Cpu) -> Page {
    let page = user_store(cpu, PARENT, 0, 7).unwrap();
    swap_out(cpu, page).unwrap();
    assert_eq!(leaf_at(cpu, PARENT, 0), None);
    page
}

#[test]
fn a_page_comes_back_from_swap_with_its_contents() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        lru_add_drain_all(cpu);
        counts_add_up(cpu.world, cpu.kernel, page, Owned::default()).unwrap();
        assert_eq!(user_load(cpu, PARENT, 0), Ok((page, 7)));
    });
}

#[test]
fn swap_remembers_exclusivity_where_the_base_knows_it() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        assert!(!flags(cpu, page).contains(Pg::ANON_EXCLUSIVE));
        user_load(cpu, PARENT, 0).unwrap();
        let exclusive = flags(cpu, page).contains(Pg::ANON_EXCLUSIVE);
        assert_eq!(exclusive, knows_exclusive(cpu));
        assert_eq!(leaf_at(cpu, PARENT, 0).unwrap().write, exclusive);
    });
}

#[test]
fn fork_shares_what_is_in_swap() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_eq!(user_load(cpu, PARENT, 0), Ok((page, 7)));
        assert!(!leaf_at(cpu, PARENT, 0).unwrap().write);
        assert!(user_store(cpu, PARENT, 0, 8).is_ok_and(|own| own != page));
        assert_eq!(user_load(cpu, CHILD, 0), Ok((page, 7)));
    });
}

#[test]
fn a_write_takes_the_page_out_of_the_swap_cache_if_it_is_the_only_user() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        lru_add_drain_all(cpu);
        assert_eq!(user_store(cpu, PARENT, 0, 8), Ok(page));
        assert!(!flags(cpu, page).contains(Pg::SWAPCACHE));
    });
}

#[test]
fn a_pinned_page_is_not_swapped_out() {
    on_both(Kind::Anon, |cpu| {
        let mut page = [Page::UNSET];
        pin_user_pages_fast(cpu, 0, 1, Foll::WRITE, &mut page).unwrap();
        let before = (leaf_at(cpu, PARENT, 0), flags(cpu, page[0]) - Pg::LRU);
        assert_eq!(swap_out(cpu, page[0]), Err(Errno::EBUSY));
        assert_eq!((leaf_at(cpu, PARENT, 0), flags(cpu, page[0]) - Pg::LRU), before);
        unpin_user_pages(cpu, &page, Ok(1));
    });
}

#[test]
fn a_reference_of_others_keeps_a_shared_page_from_being_reused() {
    on_both(Kind::Anon, |cpu| {
        user_store(cpu, PARENT, 0, 7).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        lru_add_drain_all(cpu);
        let mut got = [Page::UNSET];
        get_user_pages_fast(cpu, 0, 1, Foll::empty(), &mut got).unwrap();
        swap_out(cpu, got[0]).unwrap();
        exit_mmap(cpu, CHILD);
        assert!(user_store(cpu, PARENT, 0, 8).is_ok_and(|own| own != got[0]));
        put_page(cpu, got[0]);
    });
}

#[test]
fn a_thp_is_swapped_out_whole_and_comes_back_by_ptes() {
    on_both(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, PAGE_SIZE, 7).unwrap();
        swap_out(cpu, page).unwrap();
        assert!((0..HPAGE_PMD_NR).all(|i| leaf_at(cpu, PARENT, i * PAGE_SIZE).is_none()));
        let (back, data) = user_load(cpu, PARENT, PAGE_SIZE).unwrap();
        assert_eq!(data, 7);
        // v6.12 maps all of it again, if it is all there; v5.15 copies what is
        // not its head.
        assert_eq!(leaf_at(cpu, PARENT, 0).is_some(), knows_exclusive(cpu));
        assert_eq!(back == page, knows_exclusive(cpu));
        let head = cpu.world.head_of(page);
        assert_eq!(user_load(cpu, PARENT, 0), Ok((head, 0)));
        lru_add_drain_all(cpu);
        counts_add_up(cpu.world, cpu.kernel, cpu.world.head_of(page), Owned::default()).unwrap();
    });
}

#[test]
fn a_copy_of_a_tail_in_swap_is_its_process_own() {
    on_both(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, PAGE_SIZE, 7).unwrap();
        swap_out(cpu, page).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        if knows_exclusive(cpu) {
            return;
        }
        // Without memory for it the fault fails, and can be had again.
        cpu.begin_op(PARENT, Some(Fail { site: FailSite::Alloc, nth: 1 }));
        assert!(user_store(cpu, PARENT, PAGE_SIZE, 8).is_err());
        cpu.begin_op(PARENT, None);
        let own = user_store(cpu, PARENT, PAGE_SIZE, 8).unwrap();
        lru_add_drain_all(cpu);
        let look = cpu.world.look(own);
        assert_eq!((look.order, look.refcount, look.mapcount), (0, 1, 1));
        assert_eq!(user_load(cpu, CHILD, PAGE_SIZE).map(|(_, data)| data), Ok(7));
        assert_eq!(user_load(cpu, PARENT, PAGE_SIZE), Ok((own, 8)));
    });
}

#[test]
fn a_thp_in_swap_splits_with_each_page_in_its_slot() {
    on_both(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, PAGE_SIZE, 7).unwrap();
        user_store(cpu, PARENT, 0, 9).unwrap();
        swap_out(cpu, page).unwrap();
        user_load(cpu, PARENT, 0).unwrap();
        lru_add_drain_all(cpu);
        split_huge_page_of(cpu, mapped_page(cpu, PARENT, 0).unwrap()).unwrap();
        assert_eq!(cpu.world.look(page).order, 0);
        assert_eq!(user_load(cpu, PARENT, PAGE_SIZE), Ok((page, 7)));
    });
}

#[test]
fn what_a_split_leaves_in_the_swap_cache_goes_with_the_next_reclaim() {
    let world = World::new(Limits::FUZZ);
    let cpu = Cpu::new(&world, Kernel::fixed(Base::V6_12), 0);
    mm_alloc(&cpu, PARENT).unwrap();
    mmap(&cpu, PARENT, 0, 8, Prot::ReadWrite, Kind::AnonThp).unwrap();
    let (head, _) = user_load(&cpu, PARENT, 0).unwrap();
    swap_out(&cpu, head).unwrap();
    user_load(&cpu, PARENT, 0).unwrap();
    lru_add_drain_all(&cpu);
    // All its pages are zeroes: the zero page replaces them.
    split_huge_page_of(&cpu, head).unwrap();
    exit_mmap(&cpu, PARENT);
    assert!(everything_free(&world).is_err());
    shrink_swap_cache(&cpu);
    everything_free(&world).unwrap();
}

#[test]
fn a_page_moves_with_its_place_in_the_swap_cache() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        user_load(cpu, PARENT, 0).unwrap();
        move_page(cpu, page).unwrap();
        let moved = mapped_page(cpu, PARENT, 0).unwrap();
        assert!(moved != page && flags(cpu, moved).contains(Pg::SWAPCACHE));
        assert_eq!(user_load(cpu, CHILD, 0), Ok((moved, 7)));
    });
}

#[test]
fn what_is_in_swap_is_given_up_as_well() {
    on_both(Kind::Anon, |cpu| {
        let page = swapped(cpu);
        madvise_dontneed(cpu, PARENT, 0, 1).unwrap();
        lru_add_drain_all(cpu);
        assert_eq!(leaf_or_swapped_at(cpu, PARENT, 0), None);
        assert_eq!(cpu.world.refcount(page), 0);
    });
}

#[test]
fn a_collapse_brings_back_what_is_in_swap() {
    on_both(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 7).unwrap();
        user_store(cpu, PARENT, PAGE_SIZE, 8).unwrap();
        split_huge_page_of(cpu, head).unwrap();
        lru_add_drain_all(cpu);
        swap_out(cpu, head).unwrap();
        collapse(cpu, PARENT, 0).unwrap();
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| l.huge));
        assert_eq!(user_load(cpu, PARENT, 0).map(|(_, token)| token), Ok(7));
    });
}
