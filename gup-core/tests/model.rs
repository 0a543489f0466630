// SPDX-License-Identifier: GPL-2.0-only
//! What the model owes the kernel, rule by rule.

mod common;

use common::{CHILD, PARENT, on};
use gup_core::errno::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::gup::v5_15::{
    get_user_pages_fast, pin_user_pages_fast, pin_user_pages_fast_only, unpin_user_pages,
};
use gup_core::history::{Base, Kernel};
use gup_core::invariants::{Owned, counts_add_up, everything_free};
use gup_core::model::fork::dup_mmap;
use gup_core::model::huge_memory::{split_huge_page_of, split_huge_pmd};
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE, PAGEVEC_SIZE};
use gup_core::model::lru::{isolate_lru_page, lru_add_drain_all};
use gup_core::model::memory::{user_load, user_store};
use gup_core::model::migrate::move_page;
use gup_core::model::mm::vma_lookup;
use gup_core::model::mmap::{Kind, Prot, exit_mmap, madvise_dontneed, mm_alloc, mmap, mprotect};
use gup_core::model::page::{page_ref_add, put_page};
use gup_core::model::pgtable::{leaf_at, mapped_page, mm_find_pmd};
use gup_core::model::zone::{Place, Prefer, place, set_preference};
use gup_core::model::{Cpu, Limits, Page, World};

fn with_process(kind: Kind, test: impl FnOnce(&Cpu)) {
    on(Kernel::fixed(Base::V5_15), kind, test);
}

fn pin(cpu: &Cpu, addr: u64) -> Page {
    let mut page = [Page::UNSET];
    assert_eq!(pin_user_pages_fast(cpu, addr, 1, Foll::WRITE, &mut page), Ok(1));
    page[0]
}

#[test]
fn a_read_maps_the_zero_page_and_a_write_replaces_it() {
    with_process(Kind::Anon, |cpu| {
        let (page, token) = user_load(cpu, PARENT, 0).unwrap();
        assert_eq!((page, token), (cpu.world.zero_page(), 0));
        let page = user_store(cpu, PARENT, 0, 7).unwrap();
        assert_ne!(page, cpu.world.zero_page());
        assert_eq!(user_load(cpu, PARENT, 0), Ok((page, 7)));
    });
}

#[test]
fn faults_allocate_movable_memory_unless_told_otherwise() {
    with_process(Kind::Anon, |cpu| {
        for (i, (prefer, lands)) in [
            (Prefer::Movable, Place::Movable),
            (Prefer::Cma, Place::Cma),
            (Prefer::Normal, Place::Normal),
        ]
        .into_iter()
        .enumerate()
        {
            set_preference(cpu, prefer);
            let page = user_store(cpu, PARENT, i as u64 * PAGE_SIZE, 1).unwrap();
            assert_eq!(place(cpu.world, page), lands);
        }
        set_preference(cpu, Prefer::Movable);
    });
}

#[test]
fn a_fresh_page_waits_in_the_batch_with_a_reference_and_off_the_lru() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        assert_eq!(cpu.world.refcount(page), 2);
        assert!(!cpu.world.look(page).flags.contains(Pg::LRU));
        for i in 1..PAGEVEC_SIZE as u64 {
            user_store(cpu, PARENT, i * PAGE_SIZE, 1).unwrap();
        }
        assert_eq!(cpu.world.refcount(page), 1, "a full batch drains");
        assert!(cpu.world.look(page).flags.contains(Pg::LRU));
    });
}

#[test]
fn isolation_takes_the_lru_flag_and_a_reference() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        assert_eq!(isolate_lru_page(cpu, page), Err(Errno::EBUSY), "still in the batch");
        lru_add_drain_all(cpu);
        isolate_lru_page(cpu, page).unwrap();
        assert_eq!(cpu.world.refcount(page), 2);
        assert_eq!(isolate_lru_page(cpu, page), Err(Errno::EBUSY));
        gup_core::model::lru::putback_lru_page(cpu, page);
    });
}

#[test]
fn fork_shares_a_page_until_either_side_writes() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_eq!(mapped_page(cpu, CHILD, 0), Some(page));
        let copy = user_store(cpu, PARENT, 0, 2).unwrap();
        assert_ne!(copy, page);
        assert_eq!(user_load(cpu, CHILD, 0), Ok((page, 1)));
    });
}

#[test]
fn fork_copies_a_pinned_page_at_once_and_leaves_the_parent_alone() {
    with_process(Kind::Anon, |cpu| {
        let page = pin(cpu, 0);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_ne!(mapped_page(cpu, CHILD, 0), Some(page));
        let leaf = leaf_at(cpu, PARENT, 0).unwrap();
        assert!(leaf.page == page && leaf.write);
        unpin_user_pages(cpu, &[page], Ok(1));
    });
}

#[test]
fn fork_of_a_pinned_thp_splits_the_parents_entry_and_copies_every_page() {
    with_process(Kind::AnonThp, |cpu| {
        let page = pin(cpu, 0);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        for addr in (0..HPAGE_PMD_NR).map(|i| i * PAGE_SIZE) {
            let (parent, child) = (leaf_at(cpu, PARENT, addr), leaf_at(cpu, CHILD, addr));
            assert!(parent.is_some_and(|l| !l.huge && l.write));
            assert_ne!(parent.map(|l| l.page), child.map(|l| l.page));
        }
        unpin_user_pages(cpu, &[page], Ok(1));
    });
}

#[test]
fn a_small_pin_is_1024_references_and_a_large_one_counts_by_itself() {
    with_process(Kind::Anon, |cpu| {
        let page = pin(cpu, 0);
        assert_eq!((cpu.world.refcount(page), cpu.world.look(page).pincount), (1026, 0));
        counts_add_up(cpu.world, cpu.kernel, page, Owned { gets: 0, pins: 1 }).unwrap();
        unpin_user_pages(cpu, &[page], Ok(1));
    });
    with_process(Kind::AnonThp, |cpu| {
        let page = pin(cpu, PAGE_SIZE);
        let head = cpu.world.head_of(page);
        assert_eq!((cpu.world.refcount(head), cpu.world.look(head).pincount), (2, 1));
        unpin_user_pages(cpu, &[page], Ok(1));
    });
}

#[test]
fn a_compound_page_of_two_is_pinned_like_a_small_one() {
    with_process(Kind::Anon, |cpu| {
        let addr = 32 * PAGE_SIZE;
        mmap(cpu, PARENT, addr, 2, Prot::ReadWrite, Kind::DriverOrder1).unwrap();
        let page = pin(cpu, addr + PAGE_SIZE);
        let head = cpu.world.head_of(page);
        assert_ne!(head, page);
        assert_eq!((cpu.world.refcount(head), cpu.world.look(head).pincount), (1026, 0));
        unpin_user_pages(cpu, &[page], Ok(1));
    });
}

#[test]
fn migration_moves_a_page_and_its_contents_but_not_a_pinned_one() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 5).unwrap();
        move_page(cpu, page).unwrap();
        let (moved, token) = user_load(cpu, PARENT, 0).unwrap();
        assert!(moved != page && token == 5);
        let pinned = pin(cpu, 0);
        assert_eq!(move_page(cpu, pinned), Err(Errno::EBUSY));
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(pinned));
        unpin_user_pages(cpu, &[pinned], Ok(1));
    });
}

#[test]
fn migration_moves_a_shared_thp_in_both_processes() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 5).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        move_page(cpu, head).unwrap();
        let new = mapped_page(cpu, PARENT, 0).unwrap();
        assert_ne!(new, head);
        assert_eq!(mapped_page(cpu, CHILD, 0), Some(new));
        assert_eq!(user_load(cpu, CHILD, 0), Ok((new, 5)));
        assert!(leaf_at(cpu, CHILD, 0).is_some_and(|l| l.huge && !l.write));
    });
}

#[test]
fn since_v6_12_a_thp_that_is_mapped_in_part_is_split_before_it_moves() {
    for (kernel, order) in [("v5.15 fixed", 3), ("v6.12", 0)] {
        on(kernel.parse().unwrap(), Kind::AnonThp, |cpu| {
            let head = user_store(cpu, PARENT, 0, 1).unwrap();
            madvise_dontneed(cpu, PARENT, PAGE_SIZE, 1).unwrap();
            move_page(cpu, head).unwrap();
            let moved = mapped_page(cpu, PARENT, 2 * PAGE_SIZE).unwrap();
            assert_eq!(cpu.world.look(cpu.world.head_of(moved)).order, order, "{kernel}");
            assert_eq!(user_load(cpu, PARENT, 0).unwrap().1, 1);
        });
    }
}

#[test]
fn since_v6_12_a_thp_that_was_moved_by_its_ptes_is_split_the_next_time() {
    let thp = |cpu: &Cpu| cpu.world.look(cpu.world.head_of(mapped_page(cpu, PARENT, 0).unwrap()));
    for (kernel, second) in [("v5.15 fixed", 3), ("v6.12", 0)] {
        on(kernel.parse().unwrap(), Kind::AnonThp, |cpu| {
            let head = user_store(cpu, PARENT, 0, 1).unwrap();
            let vma = vma_lookup(cpu, PARENT, 0).unwrap();
            split_huge_pmd(cpu, &vma, mm_find_pmd(cpu, PARENT, 0).unwrap());
            move_page(cpu, head).unwrap();
            assert_eq!(thp(cpu).order, 3, "{kernel}");
            move_page(cpu, thp(cpu).page).unwrap();
            assert_eq!(thp(cpu).order, second, "{kernel}");
        });
    }
}

#[test]
fn splitting_a_pmd_keeps_the_page_whole_and_writable() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        let vma = vma_lookup(cpu, PARENT, 0).unwrap();
        split_huge_pmd(cpu, &vma, mm_find_pmd(cpu, PARENT, 0).unwrap());
        assert_eq!(cpu.world.look(head).order, 3);
        assert_eq!(cpu.world.refcount(head), HPAGE_PMD_NR as i32);
        assert!(leaf_at(cpu, PARENT, PAGE_SIZE).is_some_and(|l| l.write && !l.huge));
    });
}

#[test]
fn splitting_a_thp_needs_every_reference_to_be_a_mapping() {
    with_process(Kind::AnonThp, |cpu| {
        let page = pin(cpu, 3 * PAGE_SIZE);
        assert_eq!(split_huge_page_of(cpu, page), Err(Errno::EBUSY));
        unpin_user_pages(cpu, &[page], Ok(1));
        split_huge_page_of(cpu, page).unwrap();
        let v = cpu.world.look(page);
        assert_eq!((v.head, v.order, v.refcount, v.mapcount), (page, 0, 1, 1));
    });
}

#[test]
fn splitting_a_thp_frees_the_parts_that_nobody_maps() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        madvise_dontneed(cpu, PARENT, PAGE_SIZE, 2).unwrap();
        split_huge_page_of(cpu, head).unwrap();
        let free = cpu.world.free_frames();
        assert_eq!(free & head.nth(1).bit(), head.nth(1).bit());
        assert_eq!(free & head.nth(3).bit(), 0);
    });
}

#[test]
fn mprotect_takes_the_write_bit_and_gives_it_back_only_by_a_fault() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        lru_add_drain_all(cpu);
        mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
        assert_eq!(user_store(cpu, PARENT, 0, 2), Err(Errno::EFAULT));
        mprotect(cpu, PARENT, 0, 16, Prot::ReadWrite).unwrap();
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| !l.write));
        assert_eq!(user_store(cpu, PARENT, 0, 2), Ok(page), "the only reference: reused");
    });
}

#[test]
fn mprotect_that_changes_nothing_splits_no_huge_entry() {
    with_process(Kind::AnonThp, |cpu| {
        user_store(cpu, PARENT, 0, 1).unwrap();
        mprotect(cpu, PARENT, 0, 1, Prot::ReadWrite).unwrap();
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| l.huge));
        mprotect(cpu, PARENT, 0, 1, Prot::Read).unwrap();
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| !l.huge));
    });
}

#[test]
fn fork_leaves_out_what_never_had_an_anonymous_page() {
    with_process(Kind::Anon, |cpu| {
        user_load(cpu, PARENT, 0).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_eq!(leaf_at(cpu, CHILD, 0), None);
        exit_mmap(cpu, CHILD);
        user_store(cpu, PARENT, PAGE_SIZE, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert!(leaf_at(cpu, CHILD, 0).is_some_and(|l| l.special));
    });
}

#[test]
fn a_write_fault_copies_a_page_with_any_other_reference() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        lru_add_drain_all(cpu);
        let mut got = [Page::UNSET];
        assert_eq!(get_user_pages_fast(cpu, 0, 1, Foll::empty(), &mut got), Ok(1));
        mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
        mprotect(cpu, PARENT, 0, 16, Prot::ReadWrite).unwrap();
        assert_ne!(user_store(cpu, PARENT, 0, 2), Ok(page));
        put_page(cpu, got[0]);
    });
}

#[test]
fn the_fast_path_alone_takes_no_faults() {
    with_process(Kind::Anon, |cpu| {
        let mut pages = [Page::UNSET; 2];
        assert_eq!(pin_user_pages_fast_only(cpu, 0, 2, Foll::WRITE, &mut pages), 0);
        user_store(cpu, PARENT, 0, 1).unwrap();
        assert_eq!(pin_user_pages_fast_only(cpu, 0, 2, Foll::WRITE, &mut pages), 1);
        unpin_user_pages(cpu, &pages, Ok(1));
    });
}

#[test]
fn a_copied_world_behaves_like_the_original() {
    let world = World::new(Limits::FUZZ);
    let cpu = Cpu::new(&world, "v5.15 fixed".parse().unwrap(), 0);
    mm_alloc(&cpu, PARENT).unwrap();
    mmap(&cpu, PARENT, 0, 16, Prot::ReadWrite, Kind::AnonThp).unwrap();
    user_store(&cpu, PARENT, 0, 9).unwrap();
    let copy = World::new(Limits::FUZZ);
    copy.copy_from(&world);
    let other = Cpu::new(&copy, cpu.kernel, 0);
    assert_eq!(user_load(&other, PARENT, 0), user_load(&cpu, PARENT, 0));
    exit_mmap(&other, PARENT);
    everything_free(&copy).unwrap();
    assert!(everything_free(&world).is_err(), "the original still runs");
}

#[test]
fn what_a_wild_page_pointer_leads_to_is_part_of_the_world() {
    let (world, copy) = (World::new(Limits::FUZZ), World::new(Limits::FUZZ));
    let cpu = Cpu::new(&world, "v6.12 fixed".parse().unwrap(), 0);
    page_ref_add(&cpu, Page::NULL, 7);
    copy.copy_from(&world);
    assert_eq!(copy.look(Page::NULL).refcount, 7);
    world.reset();
    assert_eq!(world.look(Page::NULL).refcount, 0);
    copy.copy_from(&world);
    assert_eq!(copy.look(Page::NULL).refcount, 0);
}
