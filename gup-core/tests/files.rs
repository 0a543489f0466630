// SPDX-License-Identifier: GPL-2.0-only
//! What the model owes the kernel about files and their page cache.

mod common;

use common::in_a_world;
use gup_core::errno::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::gup::v5_15::{
    get_user_pages_unlocked, pin_user_pages, pin_user_pages_fast, pin_user_pages_fast_only,
    unpin_user_pages,
};
use gup_core::history::{Base, Kernel};
use gup_core::invariants::{Owned, counts_add_up};
use gup_core::model::filemap::{File, fsync, truncate};
use gup_core::model::fork::dup_mmap;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::{dma_write, user_load, user_store};
use gup_core::model::migrate::move_page;
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock};
use gup_core::model::mmap::{FileMap, Prot, exit_mmap, mm_alloc, mmap_file, mprotect, munmap};
use gup_core::model::pgtable::leaf_at;
use gup_core::model::zone::{Place, place};
use gup_core::model::{Cpu, Limits, Page, World};

const A: MmId = MmId(0);
const B: MmId = MmId(1);

fn shared(file: File) -> FileMap {
    FileMap { shared: true, file, pgoff: 0 }
}

fn private(file: File) -> FileMap {
    FileMap { shared: false, file, pgoff: 0 }
}

/// Runs `test` with two processes that have each mapped four pages at 0.
fn with_mappings(a: FileMap, b: FileMap, test: impl FnOnce(&Cpu)) {
    in_a_world("v5.15 fixed".parse().unwrap(), |cpu| {
        cpu.begin_op(A, None);
        for (mm, map) in [(A, a), (B, b)] {
            mm_alloc(cpu, mm).unwrap();
            mmap_file(cpu, mm, 0, 4, Prot::ReadWrite, map).unwrap();
        }
        test(cpu);
    });
}

fn add_up(cpu: &Cpu, page: Page, pins: i32) {
    counts_add_up(cpu.world, cpu.kernel, page, Owned { gets: 0, pins }).unwrap();
}

fn pin(cpu: &Cpu, addr: u64, flags: Foll) -> Result<Page, Errno> {
    let mut page = [Page::UNSET];
    mmap_read_lock(cpu, A);
    let n = pin_user_pages(cpu, addr, 1, flags, Some(&mut page), None);
    mmap_read_unlock(cpu, A);
    n.map(|n| {
        assert_eq!(n, 1);
        page[0]
    })
}

fn unpin(cpu: &Cpu, page: Page) {
    unpin_user_pages(cpu, &[page], Ok(1));
}

#[test]
fn two_shared_mappings_have_the_same_page_and_its_contents() {
    for file in [File::Regular, File::Shmem, File::Secretmem] {
        with_mappings(shared(file), shared(file), |cpu| {
            let page = user_store(cpu, A, 0, 7).unwrap();
            assert_eq!(user_load(cpu, B, 0), Ok((page, 7)));
            assert_eq!(cpu.world.cached(file, 0), Some(page));
            add_up(cpu, page, 0);
        });
    }
}

#[test]
fn a_store_to_a_private_mapping_makes_an_anonymous_copy() {
    with_mappings(private(File::Regular), shared(File::Regular), |cpu| {
        let cached = user_store(cpu, B, 0, 7).unwrap();
        assert_eq!(user_load(cpu, A, 0), Ok((cached, 7)));
        let copy = user_store(cpu, A, 0, 8).unwrap();
        assert_ne!(copy, cached);
        assert!(cpu.world.look(copy).anon);
        assert_eq!(user_load(cpu, B, 0), Ok((cached, 7)));
        // Without a page mapped before, too.
        let copy = user_store(cpu, A, PAGE_SIZE, 9).unwrap();
        assert!(cpu.world.look(copy).anon);
        assert_eq!(user_load(cpu, B, PAGE_SIZE).unwrap().1, 0);
    });
}

#[test]
fn stores_to_a_tracked_file_are_noticed_again_after_each_writeback() {
    with_mappings(shared(File::Regular), shared(File::Regular), |cpu| {
        let page = user_load(cpu, A, 0).unwrap().0;
        assert!(!leaf_at(cpu, A, 0).unwrap().write, "mapped by a read");
        for token in 1..4 {
            user_store(cpu, A, 0, token).unwrap();
            assert!(leaf_at(cpu, A, 0).unwrap().write);
            assert!(cpu.world.look(page).flags.contains(Pg::DIRTY));
            fsync(cpu, File::Regular).unwrap();
            assert!(!leaf_at(cpu, A, 0).unwrap().write, "cleaned");
            assert!(!cpu.world.look(page).flags.contains(Pg::DIRTY));
        }
    });
}

#[test]
fn pages_of_shmem_are_writable_at_once() {
    with_mappings(shared(File::Shmem), shared(File::Shmem), |cpu| {
        user_load(cpu, A, 0).unwrap();
        assert!(leaf_at(cpu, A, 0).unwrap().write);
        assert_eq!(fsync(cpu, File::Shmem), Err(Errno::EINVAL));
    });
}

#[test]
fn mprotect_gives_a_tracked_page_its_write_bit_back_only_while_it_is_dirty() {
    with_mappings(shared(File::Regular), shared(File::Regular), |cpu| {
        user_store(cpu, A, 0, 1).unwrap();
        mprotect(cpu, A, 0, 1, Prot::Read).unwrap();
        mprotect(cpu, A, 0, 1, Prot::ReadWrite).unwrap();
        assert!(leaf_at(cpu, A, 0).unwrap().write);
        fsync(cpu, File::Regular).unwrap();
        mprotect(cpu, A, 0, 1, Prot::Read).unwrap();
        mprotect(cpu, A, 0, 1, Prot::ReadWrite).unwrap();
        assert!(!leaf_at(cpu, A, 0).unwrap().write);
    });
}

#[test]
fn beyond_the_end_of_a_file_is_sigbus() {
    with_mappings(shared(File::Shmem), private(File::Shmem), |cpu| {
        user_store(cpu, A, 3 * PAGE_SIZE, 1).unwrap();
        user_store(cpu, B, 3 * PAGE_SIZE, 2).unwrap();
        truncate(cpu, File::Shmem, 3).unwrap();
        for mm in [A, B] {
            assert_eq!(leaf_at(cpu, mm, 3 * PAGE_SIZE), None, "the private copy goes, too");
            assert_eq!(user_load(cpu, mm, 3 * PAGE_SIZE), Err(Errno::EFAULT));
        }
        truncate(cpu, File::Shmem, File::Shmem.max_pages()).unwrap();
        assert_eq!(user_load(cpu, A, 3 * PAGE_SIZE).unwrap().1, 0);
    });
}

#[test]
fn truncation_leaves_a_pinned_page_to_its_pin() {
    with_mappings(shared(File::Regular), shared(File::Regular), |cpu| {
        let page = pin(cpu, 0, Foll::WRITE).unwrap();
        user_store(cpu, B, 0, 1).unwrap();
        truncate(cpu, File::Regular, 0).unwrap();
        lru_add_drain_all(cpu);
        assert_eq!(cpu.world.look(page).file, None);
        assert_eq!(cpu.world.look(page).mapcount, 0);
        add_up(cpu, page, 1);
        truncate(cpu, File::Regular, File::Regular.max_pages()).unwrap();
        dma_write(cpu, page, 9);
        assert_eq!(user_load(cpu, A, 0).unwrap().1, 0, "another page");
        unpin(cpu, page);
        assert_ne!(cpu.world.free_frames() & page.bit(), 0);
    });
}

#[test]
fn a_device_and_both_processes_share_a_pinned_page_of_a_file() {
    with_mappings(shared(File::Shmem), shared(File::Shmem), |cpu| {
        let page = pin(cpu, 0, Foll::WRITE).unwrap();
        dma_write(cpu, page, 5);
        assert_eq!(user_load(cpu, A, 0), Ok((page, 5)));
        assert_eq!(user_load(cpu, B, 0), Ok((page, 5)));
        unpin(cpu, page);
    });
}

#[test]
fn a_page_of_a_file_moves_with_its_mappings_and_its_place_in_the_cache() {
    for file in [File::Regular, File::Shmem] {
        with_mappings(shared(file), private(file), |cpu| {
            let old = user_store(cpu, A, 0, 7).unwrap();
            user_load(cpu, B, 0).unwrap();
            move_page(cpu, old).unwrap();
            let new = cpu.world.cached(file, 0).unwrap();
            assert_ne!(new, old);
            assert_eq!(user_load(cpu, A, 0), Ok((new, 7)));
            assert_eq!(user_load(cpu, B, 0), Ok((new, 7)));
            assert!(cpu.world.look(new).flags.contains(Pg::DIRTY));
            add_up(cpu, new, 0);
            assert_ne!(cpu.world.free_frames() & old.bit(), 0);
        });
    }
}

#[test]
fn a_pinned_page_of_a_file_stays_where_it_is() {
    with_mappings(shared(File::Shmem), private(File::Shmem), |cpu| {
        let page = pin(cpu, 0, Foll::WRITE).unwrap();
        assert_eq!(move_page(cpu, page), Err(Errno::EBUSY));
        assert_eq!(leaf_at(cpu, A, 0).unwrap().page, page);
        add_up(cpu, page, 1);
        unpin(cpu, page);
    });
}

#[test]
fn a_longterm_pin_moves_a_page_of_a_file_out_of_movable_memory() {
    for file in [File::Regular, File::Shmem] {
        with_mappings(shared(file), shared(file), |cpu| {
            let old = user_store(cpu, A, 0, 7).unwrap();
            assert_eq!(place(cpu.world, old), Place::Movable);
            let page = pin(cpu, 0, Foll::LONGTERM).unwrap();
            assert_eq!(place(cpu.world, page), Place::Normal);
            assert_eq!(user_load(cpu, B, 0), Ok((page, 7)));
            unpin(cpu, page);
        });
    }
}

#[test]
fn secret_memory_is_never_handed_out() {
    with_mappings(shared(File::Secretmem), shared(File::Secretmem), |cpu| {
        let page = user_store(cpu, A, 0, 7).unwrap();
        assert_eq!(place(cpu.world, page), Place::Normal, "never movable");
        for drained in [false, true] {
            let mut pages = [Page::UNSET];
            assert_eq!(pin(cpu, 0, Foll::WRITE), Err(Errno::EFAULT));
            assert_eq!(pin_user_pages_fast_only(cpu, 0, 1, Foll::empty(), &mut pages), 0);
            let fast = pin_user_pages_fast(cpu, 0, 1, Foll::empty(), &mut pages);
            assert_eq!(fast, Err(Errno::EFAULT), "drained: {drained}");
            lru_add_drain_all(cpu);
        }
        assert_eq!(move_page(cpu, page), Err(Errno::EBUSY));
        assert_eq!(truncate(cpu, File::Secretmem, 1), Err(Errno::EINVAL));
        assert_eq!(
            mmap_file(cpu, A, 8 * PAGE_SIZE, 1, Prot::Read, private(File::Secretmem)),
            Err(Errno::EINVAL)
        );
    });
}

#[test]
fn a_fault_that_dirties_a_page_drops_the_lock_and_is_repeated() {
    with_mappings(shared(File::Regular), shared(File::Regular), |cpu| {
        let mut pages = [Page::UNSET; 3];
        let n = get_user_pages_unlocked(cpu, 0, 3, Some(&mut pages), Foll::WRITE);
        assert_eq!(n, Ok(3));
        for (i, page) in pages.into_iter().enumerate() {
            assert_eq!(cpu.world.cached(File::Regular, i as u64), Some(page));
            gup_core::model::page::put_page(cpu, page);
        }
    });
}

#[test]
fn a_child_faults_the_pages_of_a_file_in_and_inherits_private_copies() {
    with_mappings(private(File::Shmem), shared(File::Shmem), |cpu| {
        let child = MmId(2);
        let file_page = user_load(cpu, A, 0).unwrap().0;
        dup_mmap(cpu, A, child).unwrap();
        assert_eq!(leaf_at(cpu, child, 0), None, "left to a fault");
        assert_eq!(user_load(cpu, child, 0).unwrap().0, file_page);
        exit_mmap(cpu, child);

        let copy = user_store(cpu, A, PAGE_SIZE, 5).unwrap();
        dup_mmap(cpu, A, child).unwrap();
        assert_eq!(user_load(cpu, child, PAGE_SIZE), Ok((copy, 5)));
        assert_eq!(leaf_at(cpu, child, 0).unwrap().page, file_page, "copied along");
    });
}

#[test]
fn a_mapping_that_is_cut_keeps_the_offsets_of_its_parts() {
    with_mappings(shared(File::Shmem), shared(File::Shmem), |cpu| {
        munmap(cpu, A, PAGE_SIZE, 1).unwrap();
        for i in [0, 2, 3] {
            user_store(cpu, A, i * PAGE_SIZE, 10 + i).unwrap();
            assert_eq!(user_load(cpu, B, i * PAGE_SIZE).unwrap().1, 10 + i);
        }
    });
}

#[test]
fn secret_memory_is_never_handed_out_by_v6_12_either() {
    use gup_core::gup::v6_12::{get_user_pages, get_user_pages_fast, get_user_pages_fast_only};

    let world = World::new(Limits::FUZZ);
    let cpu = &Cpu::new(&world, Kernel::fixed(Base::V6_12), 0);
    cpu.begin_op(A, None);
    mm_alloc(cpu, A).unwrap();
    mmap_file(cpu, A, 0, 4, Prot::ReadWrite, shared(File::Secretmem)).unwrap();
    user_store(cpu, A, 0, 7).unwrap();
    for _drained in [false, true] {
        let mut pages = [Page::UNSET];
        mmap_read_lock(cpu, A);
        let slow = get_user_pages(cpu, 0, 1, Foll::WRITE, Some(&mut pages));
        mmap_read_unlock(cpu, A);
        assert_eq!(slow, Err(Errno::EFAULT));
        let fast = get_user_pages_fast(cpu, 0, 1, Foll::WRITE, Some(&mut pages));
        assert_eq!(fast, Err(Errno::EFAULT));
        assert_eq!(get_user_pages_fast_only(cpu, 0, 1, Foll::empty(), Some(&mut pages)), Ok(0));
        assert_eq!(pages, [Page::UNSET]);
        lru_add_drain_all(cpu);
    }
}
