// SPDX-License-Identifier: GPL-2.0-only
//! What the model owes the kernel about hugetlbfs, on v6.12.

mod common;

use common::in_a_world;
use gup_core::errno::Errno;
use gup_core::flags::{FaultFlag, Foll, Pg, VmFault};
use gup_core::gup::v6_12::{pin_user_pages, pin_user_pages_fast, unpin_user_pages};
use gup_core::history::{Base, Kernel};
use gup_core::invariants::{Owned, counts_add_up};
use gup_core::model::filemap::{File, truncate};
use gup_core::model::folio::{Folio, folio_pincount_add, folio_ref_add};
use gup_core::model::fork::dup_mmap;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::memory::{handle_mm_fault, user_load, user_store};
use gup_core::model::migrate::move_page;
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock, set_mm_has_pinned, vma_lookup};
use gup_core::model::mmap::{
    FileMap, Kind, Prot, madvise_dontneed, mm_alloc, mmap, mmap_file, mprotect, munmap,
};
use gup_core::model::page::{get_page, put_page};
use gup_core::model::pgtable::leaf_at;
use gup_core::model::zone::{Place, place};
use gup_core::model::{Cpu, Page};

const A: MmId = MmId(0);
const B: MmId = MmId(1);

/// Both sizes, and the small pages of each.
const SIZES: [(File, u64); 2] = [(File::Hugetlb, 8), (File::HugetlbPud, 16)];

fn map(cpu: &Cpu, mm: MmId, file: File, shared: bool, prot: Prot) -> Result<(), Errno> {
    mmap_file(cpu, mm, 0, 16, prot, FileMap { shared, file, pgoff: 0 })
}

/// Runs `test` with one process that has mapped 16 pages at 0.
fn with_mapping(file: File, shared: bool, test: impl FnOnce(&Cpu)) {
    in_a_world(Kernel::fixed(Base::V6_12), |cpu| {
        cpu.begin_op(A, None);
        mm_alloc(cpu, A).unwrap();
        map(cpu, A, file, shared, Prot::ReadWrite).unwrap();
        test(cpu);
    });
}

fn add_up(cpu: &Cpu, page: Page, owned: Owned) {
    counts_add_up(cpu.world, cpu.kernel, cpu.world.head_of(page), owned).unwrap();
}

/// A pin of one small page, as try_grab_folio() takes it.
fn pin(cpu: &Cpu, page: Page, n: i32) {
    let head = Folio(cpu.world.head_of(page));
    set_mm_has_pinned(cpu, A);
    folio_ref_add(cpu, head, n);
    folio_pincount_add(cpu, head, n);
}

#[test]
fn one_entry_maps_all_pages_of_a_huge_page() {
    for (file, nr) in SIZES {
        for shared in [false, true] {
            with_mapping(file, shared, |cpu| {
                let first = user_store(cpu, A, 0, 1).unwrap();
                for i in 0..nr {
                    let leaf = leaf_at(cpu, A, i * PAGE_SIZE).unwrap();
                    assert_eq!((leaf.page, leaf.huge, leaf.write), (first.nth(i), true, true));
                }
                let v = cpu.world.look(first);
                assert_eq!((v.head, 1 << v.order, v.compound_mapcount), (first, nr, 1));
                assert!(v.flags.contains(Pg::HUGETLB | Pg::HUGETLB_MIGRATABLE));
                assert!(!v.flags.contains(Pg::LRU));
                assert_eq!(cpu.world.cached(file, 0), shared.then_some(first));
                add_up(cpu, first, Owned::default());
            });
        }
    }
}

#[test]
fn the_page_cache_holds_a_reference_for_each_small_page() {
    for (file, nr) in SIZES {
        with_mapping(file, true, |cpu| {
            let page = user_load(cpu, A, 0).unwrap().0;
            assert_eq!(cpu.world.refcount(page), nr as i32 + 1);
        });
    }
}

#[test]
fn a_fault_in_the_middle_finds_its_page() {
    for (file, _) in SIZES {
        with_mapping(file, false, |cpu| {
            let page = user_store(cpu, A, 5 * PAGE_SIZE, 7).unwrap();
            assert_eq!(leaf_at(cpu, A, 0).unwrap().page.nth(5), page);
            assert_eq!(user_load(cpu, A, 5 * PAGE_SIZE), Ok((page, 7)));
            assert_eq!(user_load(cpu, A, 4 * PAGE_SIZE).unwrap().1, 0);
        });
    }
}

#[test]
fn a_store_to_a_private_mapping_of_a_cached_page_copies_it() {
    for (file, _) in SIZES {
        with_mapping(file, false, |cpu| {
            mm_alloc(cpu, B).unwrap();
            map(cpu, B, file, true, Prot::ReadWrite).unwrap();
            let cached = user_store(cpu, B, PAGE_SIZE, 7).unwrap();
            assert_eq!(user_load(cpu, A, PAGE_SIZE), Ok((cached, 7)));
            assert!(!leaf_at(cpu, A, 0).unwrap().write);
            let copy = user_store(cpu, A, 0, 8).unwrap();
            assert!(cpu.world.look(copy).anon);
            assert_eq!(user_load(cpu, A, PAGE_SIZE).unwrap().1, 7);
            assert_eq!(user_load(cpu, B, 0).unwrap().1, 0);
            assert!(cpu.world.look(copy).flags.contains(Pg::ANON_EXCLUSIVE));
        });
    }
}

#[test]
fn after_fork_a_store_copies_and_the_last_mapping_is_reused() {
    for (file, _) in SIZES {
        with_mapping(file, false, |cpu| {
            let page = user_store(cpu, A, 0, 1).unwrap();
            dup_mmap(cpu, A, B).unwrap();
            assert!(!cpu.world.look(page).flags.contains(Pg::ANON_EXCLUSIVE));
            let copy = user_store(cpu, B, 0, 2).unwrap();
            assert_ne!(copy, page);
            assert_eq!(user_store(cpu, A, 0, 3), Ok(page), "mapped once: reused");
            assert!(cpu.world.look(page).flags.contains(Pg::ANON_EXCLUSIVE));
            assert_eq!(user_load(cpu, B, 0), Ok((copy, 2)));
        });
    }
}

#[test]
fn fork_copies_a_pinned_page_at_once() {
    for (file, _) in SIZES {
        with_mapping(file, false, |cpu| {
            let page = user_store(cpu, A, 0, 1).unwrap();
            pin(cpu, page, 1);
            dup_mmap(cpu, A, B).unwrap();
            let leaf = leaf_at(cpu, A, 0).unwrap();
            assert_eq!((leaf.page, leaf.write), (page, true));
            assert_ne!(leaf_at(cpu, B, 0).unwrap().page, page);
            assert_eq!(user_load(cpu, B, 0).unwrap().1, 1);
            add_up(cpu, page, Owned { gets: 0, pins: 1 });
            pin(cpu, page, -1);
        });
    }
}

#[test]
fn unsharing_makes_a_page_exclusive_and_leaves_it_read_only() {
    for (file, _) in SIZES {
        with_mapping(file, false, |cpu| {
            let page = user_store(cpu, A, 0, 1).unwrap();
            dup_mmap(cpu, A, B).unwrap();
            mmap_read_lock(cpu, B);
            let vma = vma_lookup(cpu, B, 0).unwrap();
            let ret = handle_mm_fault(cpu, &vma, 0, FaultFlag::UNSHARE);
            mmap_read_unlock(cpu, B);
            assert_eq!(ret, VmFault::empty());
            let leaf = leaf_at(cpu, B, 0).unwrap();
            assert!(leaf.page != page && !leaf.write);
            assert!(cpu.world.look(leaf.page).flags.contains(Pg::ANON_EXCLUSIVE));
        });
    }
}

/// A range that ends within a huge page is refused, but its start has become one
/// of a VMA by then.
#[test]
fn what_is_refused_at_its_end_is_split_at_its_start() {
    with_mapping(File::Hugetlb, true, |cpu| {
        user_store(cpu, A, 0, 1).unwrap();
        let none = mprotect(cpu, A, 8 * PAGE_SIZE, 1, Prot::None);
        assert_eq!(none, Err(Errno::EINVAL));
        assert_eq!(vma_lookup(cpu, A, 0).unwrap().end, 8 * PAGE_SIZE);
        assert_eq!(mprotect(cpu, A, 0, 9, Prot::Read), Err(Errno::EINVAL));
        assert_eq!(leaf_at(cpu, A, 0).map(|l| l.write), Some(false));
    });
}

#[test]
fn what_does_not_fit_the_page_size_is_refused() {
    with_mapping(File::Hugetlb, false, |cpu| {
        let map = FileMap { shared: true, file: File::HugetlbPud, pgoff: 0 };
        for (page, pages) in [(16, 8), (24, 16)] {
            let got = mmap_file(cpu, A, page * PAGE_SIZE, pages, Prot::Read, map);
            assert_eq!(got, Err(Errno::EINVAL));
        }
        user_store(cpu, A, 0, 1).unwrap();
        assert_eq!(munmap(cpu, A, 0, 4), Err(Errno::EINVAL));
        assert_eq!(mprotect(cpu, A, 4 * PAGE_SIZE, 4, Prot::Read), Err(Errno::EINVAL));
        assert_eq!(madvise_dontneed(cpu, A, 4 * PAGE_SIZE, 4), Err(Errno::EINVAL));
        assert_eq!(madvise_dontneed(cpu, A, 0, 12), Ok(()), "rounded down");
        assert_eq!(leaf_at(cpu, A, 0), None);
        user_store(cpu, A, 0, 1).unwrap();
        assert_eq!(munmap(cpu, A, 8 * PAGE_SIZE, 8), Ok(()));
        assert_eq!(leaf_at(cpu, A, 7 * PAGE_SIZE).map(|l| l.huge), Some(true));
    });
}

#[test]
fn mprotect_takes_access_away_and_a_fault_gives_the_write_bit_back() {
    for (file, _) in SIZES {
        for shared in [false, true] {
            with_mapping(file, shared, |cpu| {
                let page = user_store(cpu, A, 0, 1).unwrap();
                mprotect(cpu, A, 0, 16, Prot::None).unwrap();
                assert!(!leaf_at(cpu, A, 0).unwrap().accessible);
                assert_eq!(user_load(cpu, A, 0), Err(Errno::EFAULT));
                mprotect(cpu, A, 0, 16, Prot::ReadWrite).unwrap();
                assert_eq!(user_store(cpu, A, 0, 2), Ok(page));
            });
        }
    }
}

#[test]
fn truncation_leaves_a_pinned_huge_page_to_its_pin() {
    for (file, nr) in SIZES {
        with_mapping(file, true, |cpu| {
            let page = user_store(cpu, A, 0, 1).unwrap();
            pin(cpu, page, nr as i32);
            truncate(cpu, file, 0).unwrap();
            assert_eq!(leaf_at(cpu, A, 0), None);
            assert_eq!(user_load(cpu, A, 0), Err(Errno::EFAULT));
            add_up(cpu, page, Owned { gets: 0, pins: nr as i32 });
            assert_eq!(cpu.world.refcount(page), nr as i32);
            folio_pincount_add(cpu, Folio(page), -(nr as i32));
            (0..nr).for_each(|_| put_page(cpu, page));
            assert_ne!(cpu.world.free_frames() & page.bit(), 0);
        });
    }
}

#[test]
fn a_mapping_that_is_refused_makes_no_file_longer() {
    with_mapping(File::Hugetlb, false, |cpu| {
        truncate(cpu, File::Hugetlb, 0).unwrap();
        assert_eq!(map(cpu, A, File::Hugetlb, false, Prot::ReadWrite), Err(Errno::EEXIST));
        assert_eq!(cpu.world.file_pages(File::Hugetlb), 0);
    });
}

#[test]
fn mmap_for_writing_makes_the_file_longer() {
    with_mapping(File::Hugetlb, true, |cpu| {
        truncate(cpu, File::Hugetlb, 0).unwrap();
        mm_alloc(cpu, B).unwrap();
        map(cpu, B, File::Hugetlb, true, Prot::Read).unwrap();
        assert_eq!(user_load(cpu, B, 0), Err(Errno::EFAULT));
        munmap(cpu, B, 0, 16).unwrap();
        map(cpu, B, File::Hugetlb, true, Prot::ReadWrite).unwrap();
        assert_eq!(user_load(cpu, A, 0).unwrap().1, 0);
    });
}

#[test]
fn a_pud_leaf_goes_where_small_pages_were_mapped_before() {
    with_mapping(File::HugetlbPud, false, |cpu| {
        let at = 16 * PAGE_SIZE;
        mmap(cpu, A, at, 16, Prot::ReadWrite, Kind::Anon).unwrap();
        user_store(cpu, A, at, 1).unwrap();
        munmap(cpu, A, at, 16).unwrap();
        let map = FileMap { shared: false, file: File::HugetlbPud, pgoff: 0 };
        mmap_file(cpu, A, at, 16, Prot::ReadWrite, map).unwrap();
        user_store(cpu, A, at, 2).unwrap();
        assert!(leaf_at(cpu, A, at).unwrap().huge);
        munmap(cpu, A, at, 16).unwrap();
        mmap(cpu, A, at, 16, Prot::ReadWrite, Kind::AnonThp).unwrap();
        user_store(cpu, A, at, 3).unwrap();
    });
}

#[test]
fn without_memory_a_fault_is_sigbus() {
    with_mapping(File::HugetlbPud, false, |cpu| {
        mm_alloc(cpu, B).unwrap();
        let mut held = Vec::new();
        for i in 0..7 {
            let map = FileMap { shared: false, file: File::HugetlbPud, pgoff: 0 };
            let mm = if i < 4 { A } else { B };
            let at = (i % 4) * 16 * PAGE_SIZE;
            let done = mmap_file(cpu, mm, at, 16, Prot::ReadWrite, map);
            assert!(done.is_ok() || i == 0, "{done:?}");
            match user_store(cpu, mm, at, 1) {
                Ok(page) => {
                    get_page(cpu, page);
                    held.push(page);
                }
                Err(e) => {
                    assert_eq!(e, Errno::EFAULT);
                    held.drain(..).for_each(|p| put_page(cpu, p));
                    return;
                }
            }
        }
        panic!("there are not so many frames");
    });
}

#[test]
fn a_huge_page_moves_with_all_its_mappings() {
    for (file, nr) in SIZES {
        for shared in [false, true] {
            with_mapping(file, shared, |cpu| {
                let old = user_store(cpu, A, 0, 1).unwrap();
                user_store(cpu, A, PAGE_SIZE, 2).unwrap();
                dup_mmap(cpu, A, B).unwrap();
                user_load(cpu, B, 0).unwrap();
                move_page(cpu, old.nth(nr - 1)).unwrap();
                let new = leaf_at(cpu, A, 0).unwrap().page;
                assert_ne!(new, old);
                assert_eq!(user_load(cpu, A, PAGE_SIZE), Ok((new.nth(1), 2)));
                assert_eq!(user_load(cpu, B, 0), Ok((new, 1)));
                assert_eq!(cpu.world.cached(file, 0), shared.then_some(new));
                add_up(cpu, new, Owned::default());
                assert_ne!(cpu.world.free_frames() & old.bit(), 0);
                assert!(cpu.world.look(new).flags.contains(Pg::HUGETLB_MIGRATABLE));
            });
        }
    }
}

#[test]
fn an_exclusive_huge_page_stays_exclusive_when_it_moves() {
    for (file, _) in SIZES {
        for prot in [Prot::ReadWrite, Prot::Read] {
            with_mapping(file, false, |cpu| {
                let old = user_store(cpu, A, 0, 1).unwrap();
                mprotect(cpu, A, 0, 16, prot).unwrap();
                move_page(cpu, old).unwrap();
                let leaf = leaf_at(cpu, A, 0).unwrap();
                assert_eq!((leaf.page != old, leaf.write), (true, prot == Prot::ReadWrite));
                assert!(cpu.world.look(leaf.page).flags.contains(Pg::ANON_EXCLUSIVE));
            });
        }
    }
}

#[test]
fn a_pinned_huge_page_stays_where_it_is() {
    for (file, _) in SIZES {
        for shared in [false, true] {
            with_mapping(file, shared, |cpu| {
                let page = user_store(cpu, A, 0, 1).unwrap();
                pin(cpu, page, 1);
                assert_eq!(move_page(cpu, page), Err(Errno::EBUSY));
                let leaf = leaf_at(cpu, A, 0).unwrap();
                assert_eq!((leaf.page, leaf.write), (page, true));
                add_up(cpu, page, Owned { gets: 0, pins: 1 });
                pin(cpu, page, -1);
                assert!(move_page(cpu, page).is_ok(), "and moves afterwards");
            });
        }
    }
}

#[test]
fn all_pages_under_one_leaf_are_pinned_as_one_folio() {
    for (file, nr) in SIZES {
        for fast in [false, true] {
            with_mapping(file, false, |cpu| {
                let first = user_store(cpu, A, 0, 1).unwrap();
                let mut pages = [Page::UNSET; 16];
                let pages = &mut pages[..nr as usize];
                let all = Ok(pages.len());
                if fast {
                    assert_eq!(
                        pin_user_pages_fast(cpu, 0, nr as usize, Foll::WRITE, Some(pages)),
                        all
                    );
                } else {
                    mmap_read_lock(cpu, A);
                    assert_eq!(pin_user_pages(cpu, 0, nr as usize, Foll::WRITE, Some(pages)), all);
                    mmap_read_unlock(cpu, A);
                }
                assert!((0..nr).all(|i| pages[i as usize] == first.nth(i)));
                assert_eq!(cpu.world.look(first).pincount, nr as i32);
                add_up(cpu, first, Owned { gets: 0, pins: nr as i32 });
                unpin_user_pages(cpu, pages, all);
            });
        }
    }
}

#[test]
fn a_longterm_pin_moves_a_huge_page_out_of_movable_memory() {
    for (file, _) in SIZES {
        for shared in [false, true] {
            with_mapping(file, shared, |cpu| {
                let old = user_store(cpu, A, PAGE_SIZE, 7).unwrap();
                assert_eq!(place(cpu.world, old), Place::Movable);
                let mut page = [Page::UNSET];
                let flags = Foll::WRITE | Foll::LONGTERM;
                assert_eq!(pin_user_pages_fast(cpu, PAGE_SIZE, 1, flags, Some(&mut page)), Ok(1));
                assert_eq!(place(cpu.world, page[0]), Place::Normal);
                assert_eq!(user_load(cpu, A, PAGE_SIZE), Ok((page[0], 7)));
                unpin_user_pages(cpu, &page, Ok(1));
            });
        }
    }
}
