// SPDX-License-Identifier: GPL-2.0-only
//! The collapse of small pages into a THP, and NUMA hints.

mod common;

use common::{CHILD, PARENT, on_both};
use gup_core::errno::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::gup::v5_15::{get_user_pages_fast, pin_user_pages_fast, unpin_user_pages};
use gup_core::history::Base;
use gup_core::model::fork::dup_mmap;
use gup_core::model::huge_memory::split_huge_pmd;
use gup_core::model::khugepaged::collapse;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::{user_load, user_store};
use gup_core::model::mm::{MmId, vma_lookup};
use gup_core::model::mmap::{Kind, Prot, mprotect};
use gup_core::model::numa::change_prot_numa;
use gup_core::model::page::put_page;
use gup_core::model::pgtable::{leaf_at, mapped_page, mm_find_pmd};
use gup_core::model::{Cpu, Page};

/// A THP, mapped by PTEs, of which `pages` hold their number plus 1.
fn mapped_by_ptes(cpu: &Cpu, pages: u64) {
    for i in 0..pages {
        user_store(cpu, PARENT, i * PAGE_SIZE, i + 1).unwrap();
    }
    let vma = vma_lookup(cpu, PARENT, 0).unwrap();
    split_huge_pmd(cpu, &vma, mm_find_pmd(cpu, PARENT, 0).unwrap());
}

fn is_huge(cpu: &Cpu, mm: MmId, addr: u64) -> bool {
    leaf_at(cpu, mm, addr).is_some_and(|l| l.huge)
}

#[test]
fn a_collapse_keeps_the_contents_and_frees_the_old_pages() {
    on_both(Kind::AnonThp, |cpu| {
        mapped_by_ptes(cpu, 3);
        let old = mapped_page(cpu, PARENT, 0).unwrap();
        collapse(cpu, PARENT, 0).unwrap();
        assert!(is_huge(cpu, PARENT, 0) && mapped_page(cpu, PARENT, 0) != Some(old));
        for i in 0..HPAGE_PMD_NR {
            let token = if i < 3 { i + 1 } else { 0 };
            assert_eq!(user_load(cpu, PARENT, i * PAGE_SIZE).unwrap().1, token);
        }
        lru_add_drain_all(cpu);
        assert_eq!(cpu.world.refcount(old), 0);
    });
}

#[test]
fn a_collapsed_thp_is_collapsed_already() {
    on_both(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        assert_eq!(collapse(cpu, PARENT, 0), Ok(()));
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(page));
        assert_eq!(collapse(cpu, PARENT, 8 * PAGE_SIZE), Err(Errno::EINVAL), "nothing there");
    });
}

#[test]
fn pages_with_other_references_are_not_collapsed() {
    on_both(Kind::AnonThp, |cpu| {
        mapped_by_ptes(cpu, 1);
        let mut page = [Page::UNSET];
        pin_user_pages_fast(cpu, 0, 1, Foll::WRITE, &mut page).unwrap();
        assert_eq!(collapse(cpu, PARENT, 0), Err(Errno::EAGAIN));
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(page[0]));
        unpin_user_pages(cpu, &page, Ok(1));
        get_user_pages_fast(cpu, 0, 1, Foll::empty(), &mut page).unwrap();
        assert_eq!(collapse(cpu, PARENT, 0), Err(Errno::EAGAIN));
        put_page(cpu, page[0]);
        assert_eq!(collapse(cpu, PARENT, 0), Ok(()));
    });
}

#[test]
fn a_collapse_ends_the_sharing_for_one_side_alone() {
    on_both(Kind::AnonThp, |cpu| {
        mapped_by_ptes(cpu, 1);
        let page = mapped_page(cpu, PARENT, 0).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        // v5.15 minds that so many pages are shared, and both mind that no
        // page is writable.
        let one_written = user_store(cpu, PARENT, PAGE_SIZE, 9).map(|_| ());
        assert_eq!(one_written, Ok(()));
        let limits = cpu.kernel.base() < Base::V6_12;
        lru_add_drain_all(cpu);
        let want = if limits { Err(Errno::EBUSY) } else { Ok(()) };
        assert_eq!(collapse(cpu, PARENT, 0), want);
        assert_eq!(is_huge(cpu, PARENT, 0), !limits);
        assert_eq!(mapped_page(cpu, CHILD, 0), Some(page));
    });
}

#[test]
fn only_memory_that_may_be_written_is_collapsed() {
    on_both(Kind::AnonThp, |cpu| {
        mapped_by_ptes(cpu, 1);
        mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
        assert_eq!(collapse(cpu, PARENT, 0), Err(Errno::EINVAL));
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| !l.huge));
    });
}

#[test]
fn a_numa_hint_takes_the_access_and_a_fault_gives_all_of_it_back() {
    for kind in [Kind::Anon, Kind::AnonThp] {
        on_both(kind, |cpu| {
            let page = user_store(cpu, PARENT, 0, 1).unwrap();
            change_prot_numa(cpu, PARENT, 0, 16).unwrap();
            assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| !l.accessible && l.page == page));
            assert_eq!(user_load(cpu, PARENT, 0), Ok((page, 1)));
            assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| l.write), "without a write fault");
        });
    }
}

#[test]
fn pages_shared_after_fork_are_not_hinted() {
    on_both(Kind::Anon, |cpu| {
        user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        change_prot_numa(cpu, PARENT, 0, 16).unwrap();
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| l.accessible));
    });
}

#[test]
fn pinned_pages_are_not_hinted_on_v6_12() {
    on_both(Kind::Anon, |cpu| {
        let mut page = [Page::UNSET];
        pin_user_pages_fast(cpu, 0, 1, Foll::WRITE, &mut page).unwrap();
        change_prot_numa(cpu, PARENT, 0, 16).unwrap();
        let left_alone = leaf_at(cpu, PARENT, 0).is_some_and(|l| l.accessible);
        assert_eq!(left_alone, cpu.kernel.base() >= Base::V6_12);
        unpin_user_pages(cpu, &page, Ok(1));
    });
}

#[test]
fn a_collapsed_thp_is_exclusive_on_v6_12() {
    on_both(Kind::AnonThp, |cpu| {
        mapped_by_ptes(cpu, 1);
        collapse(cpu, PARENT, 0).unwrap();
        let head = mapped_page(cpu, PARENT, 0).unwrap();
        let exclusive = cpu.world.look(head).flags.contains(Pg::ANON_EXCLUSIVE);
        assert_eq!(exclusive, cpu.kernel.base() >= Base::V6_12);
    });
}
