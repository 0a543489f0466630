// SPDX-License-Identifier: GPL-2.0-only
//! What v6.12 promises about anonymous pages: exclusivity, and unsharing.

mod common;

use common::{CHILD, PARENT, on};
use gup_core::errno::Errno;
use gup_core::flags::{FaultFlag, Pg, VmFault};
use gup_core::history::{Base, Kernel};
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::folio::{Folio, folio_pincount_add, folio_ref_add};
use gup_core::model::fork::dup_mmap;
use gup_core::model::huge_memory::{split_huge_page_of, split_huge_pmd};
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::memory::{handle_mm_fault, user_load, user_store};
use gup_core::model::migrate::move_page;
use gup_core::model::mm::{
    MmId, mmap_lock_holders, mmap_read_lock, mmap_read_unlock, set_mm_has_pinned, vma_lookup,
};
use gup_core::model::mmap::{Kind, Prot, exit_mmap, mm_alloc, mmap, mprotect};
use gup_core::model::page::{GUP_PIN_COUNTING_BIAS, get_page, put_page};
use gup_core::model::pgtable::{leaf_at, mapped_page, mm_find_pmd};
use gup_core::model::{Cpu, Limits, Page, World};

fn with_process(kind: Kind, test: impl FnOnce(&Cpu)) {
    on(Kernel::fixed(Base::V6_12), kind, test);
}

/// What a pin leaves on a page, until it is given back.
struct Pinned<'a>(&'a Cpu<'a>, Page);

fn pin<'a>(cpu: &'a Cpu, page: Page) -> Pinned<'a> {
    set_mm_has_pinned(cpu, PARENT);
    count_pin(cpu, page, 1);
    Pinned(cpu, page)
}

fn count_pin(cpu: &Cpu, page: Page, n: i32) {
    let head = Folio(cpu.world.head_of(page));
    if cpu.world.look(head.page()).order > 0 {
        folio_pincount_add(cpu, head, n);
        folio_ref_add(cpu, head, n);
    } else {
        folio_ref_add(cpu, head, n * GUP_PIN_COUNTING_BIAS);
    }
}

impl Drop for Pinned<'_> {
    fn drop(&mut self) {
        count_pin(self.0, self.1, -1);
    }
}

fn exclusive(cpu: &Cpu, page: Page) -> bool {
    cpu.world.look(page).flags.contains(Pg::ANON_EXCLUSIVE)
}

fn fault(cpu: &Cpu, addr: u64, flags: FaultFlag) -> VmFault {
    let vma = vma_lookup(cpu, PARENT, addr).unwrap();
    mmap_read_lock(cpu, PARENT);
    let ret = handle_mm_fault(cpu, &vma, addr, flags);
    if !ret.contains(VmFault::COMPLETED) {
        mmap_read_unlock(cpu, PARENT);
    }
    ret
}

fn writable(cpu: &Cpu, mm: MmId, addr: u64) -> bool {
    leaf_at(cpu, mm, addr).is_some_and(|l| l.write)
}

#[test]
fn a_fresh_page_is_exclusive_until_fork_shares_it() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        assert!(exclusive(cpu, page));
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert!(!exclusive(cpu, page));
        assert_eq!(mapped_page(cpu, CHILD, 0), Some(page));
    });
}

#[test]
fn fork_copies_a_pinned_exclusive_page_and_leaves_it_exclusive() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        let _pin = pin(cpu, page);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert!(exclusive(cpu, page) && writable(cpu, PARENT, 0));
        let copy = mapped_page(cpu, CHILD, 0).unwrap();
        assert!(copy != page && exclusive(cpu, copy));
    });
}

#[test]
fn fork_of_a_pinned_thp_leaves_every_page_of_it_exclusive() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        let _pin = pin(cpu, head);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        for i in 0..HPAGE_PMD_NR {
            assert!(exclusive(cpu, head.nth(i)), "page {i}");
            assert_ne!(mapped_page(cpu, CHILD, i * PAGE_SIZE), Some(head.nth(i)));
        }
    });
}

#[test]
fn an_exclusive_page_is_reused_whoever_holds_a_reference() {
    with_process(Kind::Anon, |cpu| {
        fault(cpu, 0, FaultFlag::UNSHARE);
        fault(cpu, 0, FaultFlag::UNSHARE);
        let page = mapped_page(cpu, PARENT, 0).unwrap();
        assert!(exclusive(cpu, page) && !writable(cpu, PARENT, 0));
        get_page(cpu, page);
        assert_eq!(user_store(cpu, PARENT, 0, 2), Ok(page));
        put_page(cpu, page);
    });
}

#[test]
fn mprotect_gives_the_write_bit_back_to_exclusive_pages_alone() {
    for (kind, shared) in [(Kind::Anon, false), (Kind::Anon, true), (Kind::AnonThp, false)] {
        with_process(kind, |cpu| {
            user_store(cpu, PARENT, 0, 1).unwrap();
            if shared {
                dup_mmap(cpu, PARENT, CHILD).unwrap();
            }
            mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
            assert!(!writable(cpu, PARENT, 0));
            mprotect(cpu, PARENT, 0, 16, Prot::ReadWrite).unwrap();
            assert_eq!(writable(cpu, PARENT, 0), !shared);
        });
    }
}

#[test]
fn unsharing_copies_a_shared_page_and_leaves_it_read_only() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_eq!(fault(cpu, 0, FaultFlag::UNSHARE), VmFault::empty());
        let (own, token) = user_load(cpu, PARENT, 0).unwrap();
        assert!(own != page && token == 1 && exclusive(cpu, own));
        assert!(!writable(cpu, PARENT, 0));
        assert_eq!(user_store(cpu, PARENT, 0, 2), Ok(own), "and a write reuses it");
    });
}

#[test]
fn unsharing_takes_over_a_page_that_nobody_else_has_any_more() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        exit_mmap(cpu, CHILD);
        assert_eq!(fault(cpu, 0, FaultFlag::UNSHARE), VmFault::empty());
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(page));
        assert!(exclusive(cpu, page) && !writable(cpu, PARENT, 0));
    });
}

#[test]
fn unsharing_replaces_the_zero_page() {
    with_process(Kind::Anon, |cpu| {
        user_load(cpu, PARENT, 0).unwrap();
        assert_eq!(fault(cpu, 0, FaultFlag::UNSHARE), VmFault::empty());
        let page = mapped_page(cpu, PARENT, 0).unwrap();
        assert!(page != cpu.world.zero_page() && exclusive(cpu, page));
        assert!(!writable(cpu, PARENT, 0));
    });
}

#[test]
fn unsharing_a_shared_thp_copies_the_one_page() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        assert_eq!(fault(cpu, PAGE_SIZE, FaultFlag::UNSHARE), VmFault::empty());
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(head));
        let own = mapped_page(cpu, PARENT, PAGE_SIZE).unwrap();
        assert!(own != head.nth(1) && exclusive(cpu, own));
    });
}

#[test]
fn unsharing_and_writing_at_once_is_refused() {
    let world = World::new(Limits::FUZZ);
    let cpu = Cpu::new(&world, Kernel::fixed(Base::V6_12), 0);
    mm_alloc(&cpu, PARENT).unwrap();
    mmap(&cpu, PARENT, 0, 1, Prot::ReadWrite, Kind::Anon).unwrap();
    let both = FaultFlag::UNSHARE | FaultFlag::WRITE;
    assert_eq!(fault(&cpu, 0, both), VmFault::SIGSEGV);
    assert_eq!(cpu.splats().len(), 1);
}

#[test]
fn the_last_mapping_of_a_shared_thp_makes_it_exclusive_again() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        exit_mmap(cpu, CHILD);
        assert_eq!(user_store(cpu, PARENT, 0, 2), Ok(head));
        assert!(exclusive(cpu, head) && leaf_at(cpu, PARENT, 0).is_some_and(|l| l.huge));
    });
}

#[test]
fn migration_carries_exclusivity_over() {
    for kind in [Kind::Anon, Kind::AnonThp] {
        with_process(kind, |cpu| {
            let page = user_store(cpu, PARENT, 0, 5).unwrap();
            mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
            move_page(cpu, page).unwrap();
            let moved = mapped_page(cpu, PARENT, 0).unwrap();
            assert!(moved != page && exclusive(cpu, moved));
            mprotect(cpu, PARENT, 0, 16, Prot::ReadWrite).unwrap();
            assert!(writable(cpu, PARENT, 0), "young, dirty and writable as before");
        });
    }
}

#[test]
fn migration_of_a_shared_page_leaves_it_shared() {
    with_process(Kind::Anon, |cpu| {
        let page = user_store(cpu, PARENT, 0, 5).unwrap();
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        move_page(cpu, page).unwrap();
        let moved = mapped_page(cpu, PARENT, 0).unwrap();
        assert!(!exclusive(cpu, moved) && mapped_page(cpu, CHILD, 0) == Some(moved));
    });
}

#[test]
fn migration_of_a_pinned_page_is_refused_and_leaves_all_as_it_was() {
    for kind in [Kind::Anon, Kind::AnonThp] {
        with_process(kind, |cpu| {
            let page = user_store(cpu, PARENT, 0, 5).unwrap();
            let _pin = pin(cpu, page);
            let before = (leaf_at(cpu, PARENT, 0), exclusive(cpu, page));
            assert_eq!(move_page(cpu, page), Err(Errno::EBUSY));
            assert_eq!((leaf_at(cpu, PARENT, 0), exclusive(cpu, page)), before);
        });
    }
}

#[test]
fn splitting_a_pmd_tells_every_page_that_it_is_exclusive() {
    with_process(Kind::AnonThp, |cpu| {
        let head = user_store(cpu, PARENT, 0, 1).unwrap();
        assert!(!exclusive(cpu, head.nth(1)), "the head tells for all");
        let vma = vma_lookup(cpu, PARENT, 0).unwrap();
        split_huge_pmd(cpu, &vma, mm_find_pmd(cpu, PARENT, 0).unwrap());
        assert!((0..HPAGE_PMD_NR).all(|i| exclusive(cpu, head.nth(i))));
    });
}

#[test]
fn splitting_a_thp_turns_pages_of_zeroes_into_the_zero_page() {
    with_process(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, PAGE_SIZE, 1).unwrap();
        split_huge_page_of(cpu, page).unwrap();
        assert_eq!(mapped_page(cpu, PARENT, 0), Some(cpu.world.zero_page()));
        assert_eq!(mapped_page(cpu, PARENT, PAGE_SIZE), Some(page));
        assert!(exclusive(cpu, page) && writable(cpu, PARENT, PAGE_SIZE));
    });
}

#[test]
fn a_thp_that_is_pinned_is_not_split() {
    with_process(Kind::AnonThp, |cpu| {
        let page = user_store(cpu, PARENT, PAGE_SIZE, 1).unwrap();
        let _pin = pin(cpu, page);
        assert_eq!(split_huge_page_of(cpu, page), Err(Errno::EAGAIN));
        assert!(leaf_at(cpu, PARENT, 0).is_some_and(|l| l.huge && l.write));
    });
}

#[test]
fn a_fault_may_be_completed_with_the_lock_dropped() {
    with_process(Kind::Anon, |cpu| {
        let flags = FaultFlag::WRITE | FaultFlag::ALLOW_RETRY;
        let armed = Some(Fail { site: FailSite::Completed, nth: 1 });
        for (tried, done) in [(true, VmFault::empty()), (false, VmFault::COMPLETED)] {
            cpu.begin_op(PARENT, armed);
            let tried = if tried { FaultFlag::TRIED } else { FaultFlag::empty() };
            assert_eq!(fault(cpu, 0, flags | tried), done);
            assert_eq!(mmap_lock_holders(cpu, PARENT), 0);
            assert!(writable(cpu, PARENT, 0));
        }
        cpu.begin_op(PARENT, armed);
        user_store(cpu, PARENT, PAGE_SIZE, 1).unwrap();
    });
}
