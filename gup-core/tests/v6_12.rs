// SPDX-License-Identifier: GPL-2.0-only
//! What the port of v6.12 promises its callers.

mod common;

use common::{CHILD, PARENT, on};
use gup_core::errno::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::gup::v6_12::{
    folio_add_pin, get_user_pages, get_user_pages_fast, get_user_pages_fast_only,
    get_user_pages_remote, get_user_pages_unlocked, pin_user_pages, pin_user_pages_fast,
    pin_user_pages_remote, pin_user_pages_unlocked, unpin_folio, unpin_folios, unpin_user_folio,
    unpin_user_page, unpin_user_page_range_dirty_lock, unpin_user_pages,
    unpin_user_pages_dirty_lock,
};
use gup_core::history::{Base, Defect, Kernel};
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::folio::Folio;
use gup_core::model::fork::dup_mmap;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE, TASK_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::{user_load, user_store};
use gup_core::model::mm::{mmap_lock_holders, mmap_read_lock, mmap_read_unlock};
use gup_core::model::mmap::{Kind, Prot, mprotect};
use gup_core::model::page::put_page;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::zone::{Place, place};
use gup_core::model::{Cpu, Page};
use gup_core::step::StepKind;

const THP: usize = HPAGE_PMD_NR as usize;

fn with_process(kind: Kind, test: impl FnOnce(&Cpu)) {
    on(Kernel::fixed(Base::V6_12), kind, test);
}

/// The ways to pin pages of the current process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Locked,
    Unlocked,
    Remote,
    Fast,
}

const CALLS: [Call; 4] = [Call::Locked, Call::Unlocked, Call::Remote, Call::Fast];

fn pin(cpu: &Cpu, call: Call, flags: Foll, pages: &mut [Page]) -> Result<usize, Errno> {
    let nr = pages.len();
    if matches!(call, Call::Locked | Call::Remote) {
        mmap_read_lock(cpu, PARENT);
    }
    let n = match call {
        Call::Locked => pin_user_pages(cpu, 0, nr, flags, Some(pages)),
        Call::Unlocked => pin_user_pages_unlocked(cpu, 0, nr, Some(pages), flags),
        Call::Remote => pin_user_pages_remote(cpu, PARENT, 0, nr, flags, Some(pages), None),
        Call::Fast => pin_user_pages_fast(cpu, 0, nr, flags, Some(pages)),
    };
    if matches!(call, Call::Locked | Call::Remote) {
        mmap_read_unlock(cpu, PARENT);
    }
    assert_eq!(mmap_lock_holders(cpu, PARENT), 0, "{call:?}");
    n
}

/// A page of the process at 0, off the batches.
fn touched(cpu: &Cpu) -> Page {
    let page = user_store(cpu, PARENT, 0, 1).unwrap();
    lru_add_drain_all(cpu);
    page
}

/// References and pins of the folio that a page is in.
fn counts(cpu: &Cpu, page: Page) -> (i32, i32) {
    let head = cpu.world.head_of(page);
    (cpu.world.refcount(head), cpu.world.look(head).pincount)
}

#[test]
fn every_call_takes_1024_references_of_a_small_page_for_a_pin() {
    for call in CALLS {
        with_process(Kind::Anon, |cpu| {
            let page = touched(cpu);
            let mut pages = [Page::UNSET];
            assert_eq!(pin(cpu, call, Foll::WRITE, &mut pages), Ok(1), "{call:?}");
            assert_eq!((pages, counts(cpu, page)), ([page], (1025, 0)));
            unpin_user_page(cpu, page);
            assert_eq!(counts(cpu, page), (1, 0));
        });
    }
}

#[test]
fn the_pages_of_a_thp_are_grabbed_in_two_adds_whichever_call_it_is() {
    for (call, adds) in [(Call::Locked, vec![1, 7]), (Call::Fast, vec![8])] {
        with_process(Kind::AnonThp, |cpu| {
            let head = touched(cpu);
            let mut pages = [Page::UNSET; THP];
            cpu.record_steps(true);
            cpu.begin_op(PARENT, None);
            assert_eq!(pin(cpu, call, Foll::WRITE, &mut pages), Ok(THP));
            let steps = cpu.recorded_steps();
            let pins = steps.iter().filter(|s| s.kind == StepKind::PincountAdd).map(|s| s.arg);
            assert_eq!(pins.collect::<Vec<_>>(), adds, "{call:?}");
            drop(steps);
            cpu.record_steps(false);
            assert!((0..THP).all(|i| pages[i] == head.nth(i as u64)));
            assert_eq!(counts(cpu, head), (9, 8));
            unpin_user_pages(cpu, &pages, Ok(THP));
            assert_eq!(counts(cpu, head), (1, 0));
        });
    }
}

#[test]
fn a_longterm_pin_moves_what_may_not_stay() {
    for kind in [Kind::Anon, Kind::AnonThp] {
        for call in CALLS {
            with_process(kind, |cpu| {
                let page = touched(cpu);
                assert_eq!(place(cpu.world, page), Place::Movable);
                let mut pages = [Page::UNSET; THP];
                let flags = Foll::WRITE | Foll::LONGTERM;
                assert_eq!(pin(cpu, call, flags, &mut pages), Ok(THP), "{kind:?} {call:?}");
                for (i, &p) in pages.iter().enumerate() {
                    assert_eq!(place(cpu.world, p), Place::Normal);
                    assert_eq!(mapped_page(cpu, PARENT, i as u64 * PAGE_SIZE), Some(p));
                }
                assert_eq!(user_load(cpu, PARENT, 0), Ok((pages[0], 1)));
                unpin_user_pages(cpu, &pages, Ok(THP));
            });
        }
    }
}

#[test]
fn a_longterm_pin_that_cannot_move_a_page_leaves_nothing_behind() {
    for held in [false, true] {
        with_process(Kind::Anon, |cpu| {
            let page = touched(cpu);
            // Another reference, or no memory for the target.
            let fail = Fail { site: FailSite::Alloc, nth: 1 };
            let mut other = [Page::UNSET];
            if held {
                assert_eq!(get_user_pages_fast(cpu, 0, 1, Foll::empty(), Some(&mut other)), Ok(1));
            }
            cpu.begin_op(PARENT, (!held).then_some(fail));
            let mut pages = [Page::UNSET];
            let n = pin(cpu, Call::Locked, Foll::WRITE | Foll::LONGTERM, &mut pages);
            assert_eq!((n, pages), (Err(Errno::ENOMEM), [Page::NULL]), "held: {held}");
            if held {
                put_page(cpu, other[0]);
            }
            lru_add_drain_all(cpu);
            assert_eq!(counts(cpu, page), (1, 0));
            assert_eq!(mapped_page(cpu, PARENT, 0), Some(page));
        });
    }
}

#[test]
fn the_batch_grab_with_the_fast_helper_refuses_what_could_be_moved() {
    let kernel = Kernel::fixed(Base::V6_12).with_defect(Defect::BatchGrabIsFast);
    on(kernel, Kind::AnonThp, |cpu| {
        let head = touched(cpu);
        let mut pages = [Page::UNSET; THP];
        let flags = Foll::WRITE | Foll::LONGTERM;
        assert_eq!(pin(cpu, Call::Locked, flags, &mut pages), Err(Errno::EFAULT));
        assert!(cpu.has_splat());
        assert_eq!(counts(cpu, head), (1, 0));
        cpu.begin_op(PARENT, None);
    });
}

#[test]
fn the_zero_page_is_never_counted() {
    for call in CALLS {
        for (defect, more) in [(None, 0), (Some(Defect::ZeroPagePinned), 1024)] {
            let mut kernel = Kernel::fixed(Base::V6_12);
            kernel = defect.map_or(kernel, |d| kernel.with_defect(d));
            on(kernel, Kind::Anon, |cpu| {
                user_load(cpu, PARENT, 0).unwrap();
                let zero = cpu.world.zero_page();
                let before = counts(cpu, zero).0;
                let mut pages = [Page::UNSET];
                assert_eq!(pin(cpu, call, Foll::empty(), &mut pages), Ok(1));
                assert_eq!(pages, [zero]);
                assert_eq!(counts(cpu, zero).0, before + more, "{call:?} {defect:?}");
                unpin_user_pages(cpu, &pages, Ok(1));
                assert_eq!(counts(cpu, zero).0, before);
            });
        }
    }
}

#[test]
fn a_longterm_read_of_the_zero_page_gets_a_page_of_its_own() {
    with_process(Kind::Anon, |cpu| {
        user_load(cpu, PARENT, 0).unwrap();
        let mut pages = [Page::UNSET];
        assert_eq!(pin(cpu, Call::Fast, Foll::LONGTERM, &mut pages), Ok(1));
        assert_ne!(pages[0], cpu.world.zero_page());
        assert_eq!(user_store(cpu, PARENT, 0, 3), Ok(pages[0]));
        unpin_user_pages(cpu, &pages, Ok(1));
    });
}

#[test]
fn a_read_only_pin_of_a_shared_page_unshares_it_first() {
    for kind in [Kind::Anon, Kind::AnonThp] {
        for call in CALLS {
            with_process(kind, |cpu| {
                let page = touched(cpu);
                dup_mmap(cpu, PARENT, CHILD).unwrap();
                let mut pages = [Page::UNSET];
                assert_eq!(pin(cpu, call, Foll::empty(), &mut pages), Ok(1));
                assert_ne!(pages[0], page, "{kind:?} {call:?}");
                assert!(cpu.world.look(pages[0]).flags.contains(Pg::ANON_EXCLUSIVE));
                assert_eq!(user_store(cpu, PARENT, 0, 2), Ok(pages[0]), "and it stays so");
                unpin_user_pages(cpu, &pages, Ok(1));
            });
        }
    }
}

#[test]
fn gup_fast_looks_at_the_pmd_again_behind_a_barrier() {
    for (defect, reads, barriers) in [
        (None, 2, 1),
        (Some(Defect::CollapseUnseen), 1, 1),
        (Some(Defect::ExclusiveWithoutBarriers), 2, 0),
    ] {
        let mut kernel = Kernel::fixed(Base::V6_12);
        kernel = defect.map_or(kernel, |d| kernel.with_defect(d));
        on(kernel, Kind::Anon, |cpu| {
            touched(cpu);
            let mut pages = [Page::UNSET];
            cpu.record_steps(true);
            cpu.begin_op(PARENT, None);
            assert_eq!(pin(cpu, Call::Fast, Foll::WRITE, &mut pages), Ok(1));
            let steps: Vec<_> = cpu.recorded_steps().to_vec();
            cpu.record_steps(false);
            let of = |kind| steps.iter().filter(move |s| s.kind == kind).count();
            // PGD, P4D, PUD and PMD, and the PMD again.
            assert_eq!(of(StepKind::TableRead), 3 + reads, "{defect:?}");
            assert_eq!(of(StepKind::Barrier), barriers, "{defect:?}");
            assert_eq!(of(StepKind::PteRead), 2, "{defect:?}");
            let last = |kind| steps.iter().rposition(|s| s.kind == kind);
            assert!(last(StepKind::RefAdd) < last(StepKind::PteRead), "pinned, then read again");
            unpin_user_pages(cpu, &pages, Ok(1));
        });
    }
}

#[test]
fn wrong_arguments_are_a_warning_and_no_page() {
    with_process(Kind::Anon, |cpu| {
        touched(cpu);
        mmap_read_lock(cpu, PARENT);
        let pages = &mut [Page::UNSET];
        let splat = |cpu: &Cpu, what: &str| {
            assert!(cpu.has_splat(), "{what}");
            cpu.begin_op(PARENT, None);
        };
        let internal =
            [Foll::TOUCH, Foll::PIN, Foll::TRIED, Foll::REMOTE, Foll::FAST_ONLY, Foll::UNLOCKABLE];
        for flags in internal.into_iter().chain([Foll::LONGTERM]) {
            let n = get_user_pages(cpu, 0, 1, flags, Some(pages));
            assert_eq!(n, Err(Errno::EINVAL), "{flags:?}");
            splat(cpu, "get_user_pages");
        }
        for flags in internal.into_iter().chain([Foll::GET, Foll::LONGTERM | Foll::PCI_P2PDMA]) {
            assert_eq!(pin_user_pages(cpu, 0, 1, flags, Some(pages)), Ok(0), "{flags:?}");
            splat(cpu, "pin_user_pages");
        }
        let mut locked = false;
        let n = get_user_pages_remote(cpu, PARENT, 0, 1, Foll::GET, None, Some(&mut locked));
        assert_eq!(n, Err(Errno::EINVAL));
        splat(cpu, "*locked != 1");
        assert_eq!(get_user_pages(cpu, 0, 1, Foll::GET, None), Err(Errno::EINVAL));
        splat(cpu, "no array");
        mmap_read_unlock(cpu, PARENT);
        let n = pin_user_pages_fast(cpu, 0, 1, Foll::DUMP, Some(pages));
        assert_eq!(n, Err(Errno::EINVAL));
        splat(cpu, "pin_user_pages_fast");
        assert_eq!(*pages, [Page::UNSET]);
    });
}

#[test]
fn ranges_outside_of_user_space_are_refused() {
    with_process(Kind::Anon, |cpu| {
        let pages = &mut [Page::UNSET; 2];
        let top = u64::MAX - PAGE_SIZE + 1;
        let n = get_user_pages_fast(cpu, top, 2, Foll::empty(), Some(pages));
        assert_eq!(n, Err(Errno::EOVERFLOW));
        let n = get_user_pages_fast(cpu, TASK_SIZE - PAGE_SIZE, 2, Foll::empty(), Some(pages));
        assert_eq!(n, Err(Errno::EFAULT));
        let n = get_user_pages_unlocked(cpu, 16 * PAGE_SIZE, 1, Some(pages), Foll::empty());
        assert_eq!(n, Err(Errno::EFAULT), "not mapped");
        assert_eq!(*pages, [Page::UNSET; 2]);
    });
}

#[test]
fn what_comes_before_a_hole_is_handed_out() {
    for call in CALLS {
        with_process(Kind::Anon, |cpu| {
            let mut pages = [Page::UNSET; 17];
            assert_eq!(pin(cpu, call, Foll::WRITE, &mut pages), Ok(16), "{call:?}");
            assert_eq!(pages[16], Page::UNSET);
            unpin_user_pages(cpu, &pages, Ok(16));
        });
    }
}

#[test]
fn nofault_and_the_fast_path_alone_fault_nothing_in() {
    with_process(Kind::Anon, |cpu| {
        let pages = &mut [Page::UNSET];
        assert_eq!(get_user_pages_fast_only(cpu, 0, 1, Foll::WRITE, Some(pages)), Ok(0));
        let n = get_user_pages_unlocked(cpu, 0, 1, Some(pages), Foll::WRITE | Foll::NOFAULT);
        assert_eq!((n, mapped_page(cpu, PARENT, 0)), (Err(Errno::EFAULT), None));
        let page = touched(cpu);
        assert_eq!(get_user_pages_fast_only(cpu, 0, 1, Foll::WRITE, Some(pages)), Ok(1));
        assert_eq!(*pages, [page]);
        put_page(cpu, page);
    });
}

#[test]
fn locked_tells_whether_the_lock_was_dropped() {
    for (site, kept) in
        [(None, true), (Some(FailSite::Retry), false), (Some(FailSite::Completed), false)]
    {
        with_process(Kind::Anon, |cpu| {
            cpu.begin_op(PARENT, site.map(|site| Fail { site, nth: 1 }));
            let (mut locked, mut pages) = (true, [Page::UNSET; 2]);
            mmap_read_lock(cpu, PARENT);
            let lock = Some(&mut locked);
            let n = pin_user_pages_remote(cpu, PARENT, 0, 2, Foll::WRITE, Some(&mut pages), lock);
            assert_eq!((n, locked), (Ok(2), kept), "{site:?}");
            if locked {
                mmap_read_unlock(cpu, PARENT);
            }
            assert_eq!(mmap_lock_holders(cpu, PARENT), 0);
            unpin_user_pages(cpu, &pages, Ok(2));
        });
    }
}

#[test]
fn a_forced_write_goes_to_a_copy_and_the_mapping_stays_read_only() {
    with_process(Kind::Anon, |cpu| {
        let page = touched(cpu);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        mprotect(cpu, PARENT, 0, 16, Prot::Read).unwrap();
        let mut pages = [Page::UNSET];
        let n = pin(cpu, Call::Unlocked, Foll::WRITE, &mut pages);
        assert_eq!(n, Err(Errno::EFAULT));
        assert_eq!(pin(cpu, Call::Unlocked, Foll::WRITE | Foll::FORCE, &mut pages), Ok(1));
        assert_ne!(pages[0], page);
        assert_eq!(user_store(cpu, PARENT, 0, 2), Err(Errno::EFAULT));
        unpin_user_pages(cpu, &pages, Ok(1));
    });
}

/// A way to give back one pin of each page of a THP.
type Unpin = fn(&Cpu, &[Page; THP]);

#[test]
fn every_way_to_unpin_takes_the_same_off() {
    let ways: [(&str, Unpin); 5] = [
        ("unpin_user_pages", |cpu, p| unpin_user_pages(cpu, p, Ok(THP))),
        ("unpin_user_pages_dirty_lock", |cpu, p| unpin_user_pages_dirty_lock(cpu, p, true)),
        ("unpin_user_page_range_dirty_lock", |cpu, p| {
            unpin_user_page_range_dirty_lock(cpu, p[0], THP, true);
        }),
        ("unpin_user_folio", |cpu, p| unpin_user_folio(cpu, Folio(p[0]), THP)),
        ("unpin_folios", |cpu, p| unpin_folios(cpu, &[Folio(p[0]); THP], Ok(THP))),
    ];
    for (name, unpin) in ways {
        with_process(Kind::AnonThp, |cpu| {
            let head = touched(cpu);
            let mut pages = [Page::UNSET; THP];
            assert_eq!(pin(cpu, Call::Fast, Foll::WRITE, &mut pages), Ok(THP));
            folio_add_pin(cpu, Folio(head));
            assert_eq!(counts(cpu, head), (10, 9));
            unpin_folio(cpu, Folio(head));
            unpin(cpu, &pages);
            assert_eq!(counts(cpu, head), (1, 0), "{name}");
            let dirty = cpu.world.look(head).flags.contains(Pg::DIRTY);
            assert_eq!(dirty, name.ends_with("dirty_lock"), "{name}");
        });
    }
}

#[test]
fn unpinning_what_a_call_failed_with_is_a_warning() {
    with_process(Kind::Anon, |cpu| {
        let page = touched(cpu);
        let mut pages = [Page::UNSET];
        assert_eq!(pin(cpu, Call::Fast, Foll::WRITE, &mut pages), Ok(1));
        unpin_user_pages(cpu, &pages, Err(Errno::EFAULT));
        unpin_folios(cpu, &[Folio(page)], Err(Errno::EFAULT));
        assert_eq!((cpu.splats().len(), counts(cpu, page)), (2, (1025, 0)));
        cpu.begin_op(PARENT, None);
        unpin_folio(cpu, Folio(page));
    });
}

/// unpin_user_pages() leaves NULL entries out, which pofs_unpin() relies on;
/// but gup_folio_next() does not: behind a page of the array it follows them,
/// in the C too. In the kernel NULL entries only ever come first.
#[test]
fn null_entries_are_left_out_where_they_come_first() {
    for (nulls_first, splats) in [(true, 0), (false, 1)] {
        with_process(Kind::Anon, |cpu| {
            let page = touched(cpu);
            let mut pages = [Page::UNSET];
            assert_eq!(pin(cpu, Call::Fast, Foll::WRITE, &mut pages), Ok(1));
            let array = if nulls_first { [Page::NULL, page] } else { [page, Page::NULL] };
            unpin_user_pages(cpu, &array, Ok(2));
            unpin_folios(cpu, &[Folio(Page::NULL)], Ok(1));
            assert_eq!((cpu.splats().len(), counts(cpu, page)), (splats, (1, 0)));
            cpu.begin_op(PARENT, None);
        });
    }
}

#[test]
fn unpinning_a_page_that_lost_its_exclusivity_is_a_bug_that_is_seen() {
    with_process(Kind::Anon, |cpu| {
        let page = touched(cpu);
        dup_mmap(cpu, PARENT, CHILD).unwrap();
        let mut got = [Page::UNSET];
        assert_eq!(get_user_pages_fast(cpu, 0, 1, Foll::empty(), Some(&mut got)), Ok(1));
        assert_eq!(got, [page]);
        folio_add_pin(cpu, Folio(page));
        unpin_user_page(cpu, page);
        assert_eq!(cpu.splats().len(), 2, "no pin to add to, and not exclusive");
        cpu.begin_op(PARENT, None);
        put_page(cpu, page);
    });
}

#[test]
fn a_signal_while_mmap_lock_is_waited_for_ends_the_call() {
    with_process(Kind::Anon, |cpu| {
        // EAGAIN of the lock itself, EINTR once the pages are looked up.
        for (nth, errno) in [(1, Errno::EAGAIN), (2, Errno::EINTR)] {
            cpu.begin_op(PARENT, Some(Fail { site: FailSite::Signal, nth }));
            let pinned = pin(cpu, Call::Unlocked, Foll::WRITE, &mut [Page::UNSET]);
            assert_eq!(pinned, Err(errno));
            assert_eq!(mmap_lock_holders(cpu, PARENT), 0);
        }
        cpu.begin_op(PARENT, None);
    });
}
