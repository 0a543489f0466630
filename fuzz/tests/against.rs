// SPDX-License-Identifier: GPL-2.0-only
//! The comparison of two subjects sees what it is there to see.

use gup_core::history::{Base, Kernel};
use gup_core::model::page::page_ref_count;
use gup_core::model::{Cpu, Page};
use gup_fuzz::exec::against::{Against, Divergence};
use gup_fuzz::repro::text;
use gup_fuzz::scenario::{CallOp, CallResult, Unpin};
use gup_fuzz::subject::{Args, Port, Subject};

/// The port, with one thing done before and after each call.
struct Changed(fn(&Cpu), fn(&Cpu, CallResult) -> CallResult);

impl Subject for Changed {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        (self.0)(cpu);
        (self.1)(cpu, Port.call(cpu, op, args))
    }
    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        Port.unpin(cpu, how, pages);
    }
    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        Port.add_pin(cpu, pages);
    }
}

fn compare(changed: Changed) -> Option<Divergence> {
    let text = "# gup reproducer, format 1\nkernel: v5.15\n\n\
        mmap m0 0x0 2 rw private anon\nwrite m0 0x0 1\nh0 = pin_user_pages m0 0x0 1 FOLL_WRITE\n";
    let ops = text::parse(text.as_bytes()).unwrap().ops();
    Against::new(Kernel::fixed(Base::V5_15), changed, Port).run(&ops)
}

#[test]
fn two_of_the_same_do_not_differ() {
    assert_eq!(compare(Changed(|_| {}, |_, r| r)), None);
}

#[test]
fn one_read_too_many_is_seen() {
    let read = |cpu: &Cpu| {
        page_ref_count(cpu, Page(64));
    };
    let d = compare(Changed(read, |_, r| r)).unwrap();
    // mmap_lock is taken first, by whoever calls.
    assert_eq!((d.finding.op, d.step), (2, Some(1)));
    assert_eq!(d.finding.actual, "ref-read 64");
}

#[test]
fn another_result_is_seen() {
    let d = compare(Changed(|_| {}, |_, r| r.map(|_| 0))).unwrap();
    assert_eq!((d.finding.function, d.step), ("pin_user_pages", None));
}

#[test]
fn a_warning_of_one_side_is_seen() {
    let warn = |cpu: &Cpu| {
        cpu.warn_on(true, "somewhere", "something");
    };
    let d = compare(Changed(warn, |_, r| r)).unwrap();
    assert!(d.finding.actual.contains("somewhere"), "{d:?}");
}

#[test]
fn another_world_is_seen() {
    // A store of the CPU is no step of its op, but changes the world.
    let hidden = |cpu: &Cpu| gup_core::model::zone::set_preference(cpu, Default::default());
    assert_eq!(compare(Changed(hidden, |_, r| r)), None, "what changes nothing is not seen");
    let hidden = |cpu: &Cpu| {
        let to = gup_core::model::zone::Prefer::Cma;
        gup_core::model::zone::set_preference(cpu, to);
    };
    let d = compare(Changed(hidden, |_, r| r)).unwrap();
    assert_eq!(d.finding.actual, "the free lists");
}
