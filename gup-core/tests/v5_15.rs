// SPDX-License-Identifier: GPL-2.0-only
//! The steps of the port of v5.15, as its C takes them.
//!
//! `cargo gup against-c` found each of these wrong once, with a tree of 5.15
//! that is not at hand everywhere.

use gup_core::flags::Foll;
use gup_core::gup::v5_15::{get_user_pages, get_user_pages_fast_only, pin_user_pages};
use gup_core::history::{Base, Defect, Kernel};
use gup_core::model::filemap::File;
use gup_core::model::limits::HPAGE_PMD_NR;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mm::{MmId, mmap_read_lock};
use gup_core::model::mmap::{FileMap, Kind, Prot, mm_alloc, mmap, mmap_file};
use gup_core::model::{Cpu, Limits, Page, World};
use gup_core::step::Step;

const MM: MmId = MmId(0);

/// The steps of `call` on a world that `map` has set up.
fn steps(kernel: Kernel, map: impl FnOnce(&Cpu), call: impl FnOnce(&Cpu)) -> String {
    let world = World::new(Limits::FUZZ);
    let cpu = Cpu::new(&world, kernel, 0);
    mm_alloc(&cpu, MM).unwrap();
    map(&cpu);
    user_store(&cpu, MM, 0, 1).unwrap();
    lru_add_drain_all(&cpu);
    cpu.record_steps(true);
    cpu.begin_op(MM, None);
    call(&cpu);
    let steps = cpu.recorded_steps();
    let runs = steps.chunk_by(|a, b| a.kind == b.kind);
    let text = |run: &[Step]| match run.len() {
        1 => run[0].kind.slug().into(),
        n => format!("{} x{n}", run[0].kind.slug()),
    };
    runs.map(text).collect::<Vec<_>>().join(", ")
}

fn released() -> Kernel {
    Kernel::released(Base::V5_15)
}

fn anon(cpu: &Cpu) {
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon).unwrap();
}

fn thp(cpu: &Cpu) {
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp).unwrap();
}

/// One page by the slow path, without a reference on it.
fn look_up(cpu: &Cpu, flags: Foll) {
    mmap_read_lock(cpu, MM);
    assert_eq!(get_user_pages(cpu, 0, 1, flags, None, None), Ok(1));
}

#[test]
fn the_walk_reads_a_table_entry_for_each_test_and_none_of_the_folded_level() {
    let steps = steps(released(), anon, |cpu| look_up(cpu, Foll::empty()));
    let walk = "table-read x10, lock, pte-read, compound-head, flag-set, unlock";
    assert_eq!(steps, format!("mmap-lock, signal, {walk}"));
}

#[test]
fn a_huge_entry_is_read_again_for_each_test_under_its_lock() {
    let ends = ["flag-read x2, unlock", "flag-read, table-read, entry-set, flag-read, unlock"];
    for (flags, reads, then) in [
        (Foll::empty(), 5, ends[0]),
        (Foll::WRITE, 6, ends[1]),
        (Foll::DUMP, 6, ends[0]),
        (Foll::FORCE, 4, ends[0]),
        (Foll::SPLIT_PMD, 4, "unlock, lock, table-read, entry-rmw, "),
    ] {
        let steps = steps(released(), thp, |cpu| look_up(cpu, flags));
        let walk = format!("mmap-lock, signal, table-read x7, lock, table-read x{reads}, {then}");
        assert!(steps.starts_with(&walk), "{flags:?}: {steps}");
    }
}

#[test]
fn secret_memory_is_known_by_its_kind_its_place_on_the_lru_and_its_mapping() {
    let secret = |cpu: &Cpu| {
        let map = FileMap { shared: true, file: File::Secretmem, pgoff: 0 };
        mmap_file(cpu, MM, 0, 1, Prot::ReadWrite, map).unwrap();
    };
    for (kernel, lru) in [
        (released(), "compound-head x2, flag-read, "),
        (released().without_defect(Defect::SecretmemOffLru), "compound-head, "),
    ] {
        let steps = steps(kernel, secret, |cpu| {
            let n = get_user_pages_fast_only(cpu, 0, 1, Foll::empty(), &mut [Page::UNSET]);
            assert_eq!(n, 0);
        });
        let test = format!("compound-head, flag-read, {lru}mapping-read, ");
        let put = "ref-read, compound-head, ref-dec-and-test, irq-restore";
        let expected = format!("ref-add-unless-zero, {test}{put}");
        assert!(steps.ends_with(&expected), "{kernel}: {steps}");
    }
}

#[test]
fn a_page_that_must_move_is_told_by_its_zone_then_by_its_pageblock() {
    let slow = released().without_defect(Defect::SlowGrabIsFast);
    let isolation = "compound-head x2, flag-set, compound-head, ref-add, flag-read, \
                     compound-head, flag-read, vmstat";
    for (kernel, test) in [
        (slow, "compound-head x2, flag-read"),
        (
            slow.without_defect(Defect::IsolateIsPinnable),
            "compound-head, pageblock-read, compound-head, flag-read",
        ),
    ] {
        let steps = steps(kernel, anon, |cpu| {
            mmap_read_lock(cpu, MM);
            let flags = Foll::LONGTERM | Foll::WRITE;
            let n = pin_user_pages(cpu, 0, 1, flags, Some(&mut [Page::UNSET]), None);
            assert_eq!(n, Ok(1));
        });
        let expected = format!("unlock, {test}, {isolation}, ");
        assert!(steps.contains(&expected), "{kernel}: {steps}");
    }
}
