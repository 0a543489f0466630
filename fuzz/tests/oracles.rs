// SPDX-License-Identifier: GPL-2.0-only
//! Every oracle can fail.
//!
//! For each there is a subject that makes one mistake, and a scenario in
//! which only that oracle sees it. The same scenario on the port is silent.

use std::cell::Cell;

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::gup::v5_15::pin_user_pages_fast;
use gup_core::history::{Base, Kernel};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mm::{MmId, mmap_read_unlock};
use gup_core::model::mmap::madvise_dontneed;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Page, page};
use gup_fuzz::exec::{Executor, Finding};
use gup_fuzz::oracles::SLUGS;
use gup_fuzz::scenario::{CallOp, CallResult, Op, Unpin};
use gup_fuzz::subject::{Args, Port, Subject};

fn ops(text: &str) -> Vec<Op> {
    text.lines().map(str::trim).filter(|l| !l.is_empty()).map(|l| l.parse().unwrap()).collect()
}

fn fixed() -> Kernel {
    "v5.15 fixed".parse().unwrap()
}

/// The port, but for what `after` does to the answer of each call.
struct Wrong<F>(F);

impl<F: Fn(&Cpu, &CallOp, Args<'_>) -> CallResult> Subject for Wrong<F> {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        (self.0)(cpu, op, args)
    }
    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        Port.unpin(cpu, how, pages);
    }
    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        Port.add_pin(cpu, pages);
    }
}

/// A typed closure, so that the compiler knows the lifetimes.
fn wrong<F: Fn(&Cpu, &CallOp, Args<'_>) -> CallResult>(f: F) -> Wrong<F> {
    Wrong(f)
}

/// Runs `text` on a wrong subject and on the port; only `oracle` may fire,
/// and only on the first.
fn only(oracle: &str, subject: impl Subject, text: &str) -> Finding {
    only_on(fixed(), oracle, subject, text)
}

fn only_on(kernel: Kernel, oracle: &str, subject: impl Subject, text: &str) -> Finding {
    assert!(SLUGS.contains(&oracle));
    let ops = ops(text);
    assert_eq!(Executor::new(kernel).fast_vs_slow(&ops), None, "on the port");
    let mut wrong = Executor::with_subject(kernel, subject);
    // The comparison with the slow path would see many a mistake, too.
    let compare = oracle == "agreement";
    let found = if compare { wrong.fast_vs_slow(&ops) } else { wrong.run(&ops) };
    let found = found.unwrap_or_else(|| panic!("{oracle} is silent"));
    assert_eq!(found.oracle, oracle, "{found:?}");
    found
}

const PIN: &str = "
    mmap m0 0x0 2 rw private anon
    write m0 0x0 2
    h0 = pin_user_pages m0 0x0 2 FOLL_WRITE";

#[test]
fn accounting_sees_a_reference_too_many() {
    let leaks = wrong(|cpu, op, args| {
        let Args { pages: Some(pages), vmas, locked } = args else { return Err(Errno::EINVAL) };
        let n = Port.call(cpu, op, Args { pages: Some(&mut *pages), vmas, locked })?;
        page::get_page(cpu, pages[0]);
        Ok(n)
    });
    let f = only("accounting", leaks, PIN);
    assert!(f.actual.contains("refcount 1027 instead of 1026"), "{f:?}");
}

/// The port, but for what happens to pins that are there already.
struct WrongPins {
    unpin: fn(&Cpu, Unpin, &[Page]),
    add_pin: fn(&Cpu, &[Page]),
}

impl Subject for WrongPins {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        Port.call(cpu, op, args)
    }
    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        (self.unpin)(cpu, how, pages);
    }
    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        (self.add_pin)(cpu, pages);
    }
}

#[test]
fn accounting_sees_pins_given_back_for_an_error() {
    let right = |cpu: &Cpu, pages: &[Page]| Port.add_pin(cpu, pages);
    let unpins = |cpu: &Cpu, _: Unpin, pages: &[Page]| Port.unpin(cpu, Unpin::Pages, pages);
    let subject = WrongPins { unpin: unpins, add_pin: right };
    only("accounting", subject, &format!("{PIN}\nunpin_user_pages h0 error"));
}

#[test]
fn accounting_sees_a_further_pin_that_was_not_taken() {
    let kernel = Kernel::fixed(Base::V6_12);
    let text = format!("{PIN}\nh1 = folio_add_pin h0\nunpin_folios h0");
    let forgets = WrongPins {
        unpin: |cpu, how, pages| Port.unpin(cpu, how, pages),
        add_pin: |cpu, pages| Port.add_pin(cpu, &pages[1..]),
    };
    only_on(kernel, "accounting", forgets, &text);
}

#[test]
fn errno_sees_a_failure_without_a_reason() {
    only("errno", wrong(|_, _, _| Err(Errno::ENOMEM)), PIN);
}

#[test]
fn errno_sees_a_page_left_out() {
    let short = wrong(|cpu, op, args| {
        let range = gup_fuzz::scenario::Range { pages: 1, ..op.range };
        Port.call(cpu, &CallOp { range, ..*op }, args)
    });
    only("errno", short, PIN);
}

#[test]
fn result_array_sees_pages_in_the_wrong_order() {
    let swaps = wrong(|cpu, op, args| {
        let Args { pages: Some(pages), vmas, locked } = args else { return Err(Errno::EINVAL) };
        let n = Port.call(cpu, op, Args { pages: Some(&mut *pages), vmas, locked })?;
        pages.swap(0, 1);
        Ok(n)
    });
    only("result-array", swaps, PIN);
}

#[test]
fn result_array_sees_a_null_page() {
    let forgets = wrong(|cpu, op, args| {
        let Args { pages: Some(pages), vmas, locked } = args else { return Err(Errno::EINVAL) };
        let n = Port.call(cpu, op, Args { pages: Some(&mut *pages), vmas, locked })?;
        Port.unpin(cpu, Unpin::Page, &pages[1..]);
        pages[1] = Page::NULL;
        Ok(n)
    });
    let f = only("result-array", forgets, PIN);
    assert!(f.actual.contains("pages[1] is NULL"), "{f:?}");
}

#[test]
fn placement_sees_a_longterm_pin_in_movable_memory() {
    let forgets = wrong(|cpu, op, args| {
        Port.call(cpu, &CallOp { flags: op.flags - Foll::LONGTERM, ..*op }, args)
    });
    let text = PIN.replace("FOLL_WRITE", "FOLL_WRITE|FOLL_LONGTERM");
    only("placement", forgets, &text);
}

#[test]
fn permission_sees_a_page_of_a_file_behind_a_private_mapping() {
    let reads = wrong(|cpu, op, args| {
        Port.call(cpu, &CallOp { flags: op.flags - Foll::WRITE, ..*op }, args)
    });
    let text = PIN.replace("private anon", "private file 0").replace("write m0", "read m0");
    only("permission", reads, &text);
}

#[test]
fn locking_sees_a_lock_given_up_behind_the_callers_back() {
    let unlocks = wrong(|cpu, op, args| {
        let n = Port.call(cpu, op, args);
        mmap_read_unlock(cpu, op.range.mm);
        n
    });
    only("locking", unlocks, PIN);
}

#[test]
fn splat_sees_a_warning() {
    let warns = wrong(|cpu, op, args| {
        cpu.warn_on(true, "pin_user_pages", "a test");
        Port.call(cpu, op, args)
    });
    only("splat", warns, PIN);
}

#[test]
fn progress_sees_a_call_that_never_ends() {
    let spins = wrong(|cpu, _, _| {
        while !cpu.fatal_signal_pending() {}
        Err(Errno::EINTR)
    });
    only("progress", spins, PIN);
}

const PIN_THEN_CALL: &str = "
    mmap m0 0x0 2 rw private anon
    write m0 0x0 2
    h0 = pin_user_pages m0 0x0 1 FOLL_WRITE
    h1 = get_user_pages_fast m0 0x1000 1 0";

/// A subject whose second call first does `mischief` with the page that the
/// first call pinned.
fn second_call(mischief: impl Fn(&Cpu, Page)) -> impl Subject {
    let pinned = Cell::new(None);
    wrong(move |cpu, op, args| {
        if let Some(page) = pinned.take() {
            mischief(cpu, page);
        } else if op.call.pins() {
            pinned.set(mapped_page(cpu, op.range.mm, op.range.addr()));
        }
        Port.call(cpu, op, args)
    })
}

/// The process gives the page at 0x0 up and touches a new one there.
fn replace_page(cpu: &Cpu) {
    madvise_dontneed(cpu, MmId(0), 0, 1).unwrap();
    user_store(cpu, MmId(0), 0, 0).unwrap();
}

#[test]
fn lifetime_sees_a_frame_freed_and_used_again_under_its_pin() {
    // In the end all counts are right: the same frame is mapped at the same
    // address and pinned once. Only it is not the same page any more.
    let reuses = second_call(|cpu, page| {
        lru_add_drain_all(cpu);
        Port.unpin(cpu, Unpin::Pages, &[page]);
        replace_page(cpu);
        let mut again = [Page::UNSET];
        pin_user_pages_fast(cpu, 0, 1, Foll::WRITE, &mut again).unwrap();
        assert_eq!(again, [page]);
    });
    only("lifetime", reuses, PIN_THEN_CALL);
}

#[test]
fn reliability_sees_an_address_that_lost_its_pinned_page() {
    let loses = second_call(|cpu, _| replace_page(cpu));
    only("reliability", loses, PIN_THEN_CALL);
}

#[test]
fn agreement_sees_a_fast_path_with_a_side_effect() {
    let drains = wrong(|cpu, op, args| {
        if op.call.fast() {
            lru_add_drain_all(cpu);
        }
        Port.call(cpu, op, args)
    });
    only("agreement", drains, &PIN.replace("pin_user_pages", "pin_user_pages_fast"));
}

#[test]
fn isolation_sees_a_store_of_another_process() {
    let kernel: Kernel = "v5.15 fixed without 3bff7e3f1f16".parse().unwrap();
    let ops = ops("
        mmap m0 0x0 8 rw private anon thp
        write m0 0x0 8
        h0 = get_user_pages m0 0x0 1 0
        fork m0 m1
        write m0 0x0 8
        write m1 0x0 1
        dma_read h0");
    assert_eq!(Executor::new(fixed()).run(&ops), None);
    assert_eq!(Executor::new(kernel).run(&ops).map(|f| f.oracle), Some("isolation"));
}
