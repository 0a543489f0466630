// SPDX-License-Identifier: GPL-2.0-only
//! The comparison of two subjects sees what it is there to see.

use gup_core::history::{Base, Kernel};
use gup_core::model::page::{page_ref_add, page_ref_count};
use gup_core::model::{Cpu, Page};
use gup_fuzz::exec::against::{Against, Alike, Difference, Divergence, OpsRun};
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
    compare_but_for(&[], changed).0
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

/// The comparison with less expected of every call.
fn compare_but_for(alike: &'static [Difference], changed: Changed) -> (Option<Divergence>, OpsRun) {
    let text = "# gup reproducer, format 1\nkernel: v5.15\n\n\
        mmap m0 0x0 2 rw private anon\nwrite m0 0x0 1\nh0 = pin_user_pages m0 0x0 1 FOLL_WRITE\n";
    let ops = text::parse(text.as_bytes()).unwrap().ops();
    let mut against = Against::new(Kernel::fixed(Base::V5_15), changed, Port).but_for(alike);
    (against.run(&ops), against.ops_run())
}

const fn of_pins(alike: Option<Alike>) -> [Difference; 2] {
    let since = "never";
    [
        Difference { since, what: "", shows: |_, op| op.call.pins(), alike },
        // The least that any row leaves counts; this one leaves all.
        Difference { since, what: "", shows: |_, _| true, alike: Some(Alike::Steps) },
    ]
}

#[test]
fn reads_may_differ_where_only_effects_are_compared() {
    static EFFECTS: [Difference; 2] = of_pins(Some(Alike::Effects));
    let read = |cpu: &Cpu| {
        page_ref_count(cpu, Page(64));
    };
    let (d, ops) = compare_but_for(&EFFECTS, Changed(read, |_, r| r));
    assert_eq!((d, ops.steps, ops.effects), (None, 2, 1));
    // An atomic that takes back what it did is none.
    let twice = |cpu: &Cpu| [1, -1].into_iter().for_each(|n| page_ref_add(cpu, Page(64), n));
    let d = compare_but_for(&EFFECTS, Changed(twice, |_, r| r)).0.unwrap();
    assert_eq!((d.step, &*d.finding.actual), (Some(1), "ref-add 64 +1"));
}

#[test]
fn steps_may_differ_where_only_the_world_is_compared() {
    static WORLD: [Difference; 2] = of_pins(Some(Alike::World));
    let twice = |cpu: &Cpu| [1, -1].into_iter().for_each(|n| page_ref_add(cpu, Page(64), n));
    let (d, ops) = compare_but_for(&WORLD, Changed(twice, |_, r| r));
    assert_eq!((d, ops.world), (None, 1));
    let once = |cpu: &Cpu| page_ref_add(cpu, Page(64), 1);
    assert!(compare_but_for(&WORLD, Changed(once, |_, r| r)).0.is_some(), "the world differs");
    let d = compare_but_for(&WORLD, Changed(|_| {}, |_, r| r.map(|_| 0))).0.unwrap();
    assert_eq!(d.finding.function, "pin_user_pages", "the result differs");
}

#[test]
fn what_is_left_out_does_not_run() {
    static NOTHING: [Difference; 2] = of_pins(None);
    let (d, ops) = compare_but_for(&NOTHING, Changed(|_| unreachable!(), |_, r| r));
    assert_eq!((d, ops.compared(), ops.left_out), (None, 2, 1));
}
