// SPDX-License-Identifier: GPL-2.0-only
//! One scenario, two subjects, each in a world of its own: after every op
//! the same result, the same world, the same steps.
//!
//! The oracles run, too, but only because they are part of running an op;
//! what both subjects violate alike is no difference.

use std::cell::{OnceCell, RefCell};

use gup_core::history::Kernel;
use gup_core::model::{Cpu, Limits, World};
use gup_core::splat::{Splat, SplatKind};
use gup_core::step::Step;

use super::window::{Inner, Windows};
use super::{Finding, Judged, Ledger, tear_down, uncounted};
use crate::scenario::{Op, split_first};
use crate::subject::Subject;

/// The oracle's place in findings of a comparison.
pub const AGAINST: &str = "against";

/// A subject with all that belongs to a run of it.
#[derive(Debug)]
struct Lane<S> {
    subject: S,
    world: World,
    copy: OnceCell<Box<World>>,
    ledger: RefCell<Ledger>,
}

impl<S: Subject> Lane<S> {
    fn new(subject: S) -> Self {
        let ledger = RefCell::new(Ledger::new());
        Lane { subject, world: World::new(Limits::FUZZ), copy: OnceCell::new(), ledger }
    }
}

/// Compares two subjects. The findings say what the first one does as
/// `actual`, and what the second one does as `expected`.
#[derive(Debug)]
pub struct Against<A, B> {
    kernel: Kernel,
    ours: Lane<A>,
    theirs: Lane<B>,
    ops_run: u64,
}

/// Where two subjects part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The op, what `theirs` does as `expected` and `ours` as `actual`.
    pub finding: Finding,
    /// The first step of the op that differs, if one does.
    pub step: Option<usize>,
}

impl<A: Subject, B: Subject> Against<A, B> {
    /// A comparison on a kernel.
    pub fn new(kernel: Kernel, ours: A, theirs: B) -> Self {
        Against { kernel, ours: Lane::new(ours), theirs: Lane::new(theirs), ops_run: 0 }
    }

    /// Ops run since this was made; skipped ops do not count.
    pub fn ops_run(&self) -> u64 {
        self.ops_run
    }

    /// Runs a scenario up to the first difference.
    pub fn run(&mut self, ops: &[Op]) -> Option<Divergence> {
        self.go(ops, |_, _, _| {})
    }

    /// The steps of the last op that is in no window, ours and theirs. `before`
    /// is called when it is about to run.
    pub fn steps_of_last(
        &mut self,
        ops: &[Op],
        mut before: impl FnMut(),
    ) -> (Vec<Step>, Vec<Step>) {
        let mut steps = Default::default();
        let last = ops.iter().rposition(|op| op.at.is_none()).unwrap_or(0);
        self.go(ops, |i, ours, theirs| match theirs {
            None if i == last => before(),
            Some(theirs) if i == last => {
                steps = (ours.recorded_steps().to_vec(), theirs.recorded_steps().to_vec());
            }
            _ => {}
        });
        steps
    }

    /// `watch` is called before each op, without the second CPU, and after.
    fn go(
        &mut self,
        ops: &[Op],
        mut watch: impl FnMut(usize, &Cpu, Option<&Cpu>),
    ) -> Option<Divergence> {
        let Against { kernel, ours, theirs, ops_run } = self;
        let uncounted = uncounted(*kernel, &ours.world);
        ours.ledger.get_mut().reset(&ours.world, uncounted);
        theirs.ledger.get_mut().reset(&theirs.world, uncounted);
        let our_windows = Windows::new(&ours.subject, &ours.ledger, &ours.copy);
        let their_windows = Windows::new(&theirs.subject, &theirs.ledger, &theirs.copy);
        let a = Cpu::alone(&ours.world, *kernel, 0).watched_by(&our_windows);
        let b = Cpu::alone(&theirs.world, *kernel, 0).watched_by(&their_windows);
        a.record_steps(true);
        b.record_steps(true);
        let mut end = End::Quiet;
        let mut i = 0;
        while let Some((op, inner, _)) = split_first(&ops[i..]) {
            watch(i, &a, None);
            let did = our_windows.run(&a, op, inner, None).0;
            let should = their_windows.run(&b, op, inner, None).0;
            watch(i, &a, Some(&b));
            *ops_run += did.as_ref().map_or(1, |outcome| outcome.counts());
            end = compare_all(
                (&a, &did, &our_windows.inner()),
                (&b, &should, &their_windows.inner()),
            );
            if let End::Differs(step, expected, actual) = end {
                let finding = Finding {
                    oracle: AGAINST,
                    function: op.name(),
                    op: i,
                    page: None,
                    expected,
                    actual,
                };
                ours.world.reset();
                theirs.world.reset();
                return Some(Divergence { finding, step });
            }
            if matches!(end, End::Over) {
                break;
            }
            i += 1 + inner.len();
        }
        let quiet = matches!(end, End::Quiet);
        let (did, should) = if quiet {
            let did = tear_down(&a, &ours.ledger, &ours.subject);
            (did, tear_down(&b, &theirs.ledger, &theirs.subject))
        } else {
            (Ok(()), Ok(()))
        };
        if !quiet || did.is_err() || should.is_err() {
            ours.world.reset();
            theirs.world.reset();
        }
        (did != should).then(|| {
            let text = |r: &Result<(), _>| format!("{r:?}");
            let (expected, actual) = (text(&should), text(&did));
            let function = "exit_mmap";
            let finding =
                Finding { oracle: AGAINST, function, op: ops.len(), page: None, expected, actual };
            Divergence { finding, step: None }
        })
    }
}

/// How an op compared.
enum End {
    /// The same on both sides.
    Quiet,
    /// The same on both sides, but the run cannot go on.
    Over,
    /// The step, what should be, what is.
    Differs(Option<usize>, String, String),
}

/// What one side did: an op, and what ran in its windows.
type Side<'a> = (&'a Cpu<'a>, &'a Judged, &'a [Inner]);

fn compare_all(ours: Side<'_>, theirs: Side<'_>) -> End {
    // A BUG ends a call of the C at once; the port goes on, and all that
    // follows differs.
    for (mine, its) in ours.2.iter().zip(theirs.2) {
        if let Some(bug) = first_bug(&its.splats) {
            return compare_bug(&Did::of_inner(mine), &Did::of_inner(its), &bug);
        }
    }
    let end = compare(&Did::of(ours.0, ours.1), &Did::of(theirs.0, theirs.1));
    if !matches!(end, End::Quiet) {
        return end;
    }
    for (mine, its) in ours.2.iter().zip(theirs.2) {
        match compare(&Did::of_inner(mine), &Did::of_inner(its)) {
            End::Quiet => {}
            // The steps are not those of the op around.
            End::Differs(_, expected, actual) => {
                let inside = |text: String| format!("in \"{}\": {text}", its.op);
                return End::Differs(None, inside(expected), inside(actual));
            }
            End::Over => return End::Over,
        }
    }
    match theirs.0.world.difference(ours.0.world) {
        Some(what) => End::Differs(None, "the same world".into(), what),
        None => End::Quiet,
    }
}

/// One op of one side.
struct Did {
    steps: Vec<Step>,
    splats: Vec<Splat>,
    judged: Judged,
}

impl Did {
    fn of(cpu: &Cpu, judged: &Judged) -> Self {
        let steps = cpu.recorded_steps().to_vec();
        Did { steps, splats: cpu.splats(), judged: judged.clone() }
    }
    fn of_inner(inner: &Inner) -> Self {
        let judged = inner.violation.clone().map_or(Ok(inner.outcome), Err);
        Did { steps: inner.steps.clone(), splats: inner.splats.clone(), judged }
    }
}

fn compare(ours: &Did, theirs: &Did) -> End {
    if let Some(bug) = first_bug(&theirs.splats) {
        return compare_bug(ours, theirs, &bug);
    }
    if ours.steps != theirs.steps {
        let differs = |&i: &usize| ours.steps.get(i) != theirs.steps.get(i);
        let at = (0..).find(differs).unwrap_or_default();
        return End::Differs(Some(at), step_text(&theirs.steps, at), step_text(&ours.steps, at));
    }
    let splats = |did: &Did| did.splats.iter().map(key).collect::<Vec<_>>();
    if splats(ours) != splats(theirs) {
        let text = |did: &Did| format!("{:?}", splats(did));
        return End::Differs(None, text(theirs), text(ours));
    }
    if ours.judged != theirs.judged {
        let text = |did: &Did| format!("{:?}", did.judged);
        return End::Differs(None, text(theirs), text(ours));
    }
    if ours.judged.is_err() { End::Over } else { End::Quiet }
}

/// The words of a condition are each side's own.
fn key(splat: &Splat) -> (SplatKind, &'static str) {
    (splat.kind, splat.function)
}

fn first_bug(splats: &[Splat]) -> Option<Splat> {
    splats.iter().copied().find(|s| s.kind == SplatKind::Bug)
}

/// Theirs came to a BUG: ours must have come there, too, by the same steps.
fn compare_bug(ours: &Did, theirs: &Did, bug: &Splat) -> End {
    let at = bug.step as usize;
    let mine = first_bug(&ours.splats);
    let there = mine.is_some_and(|mine| key(&mine) == key(bug) && mine.step == bug.step);
    if there && ours.steps.get(..at) == theirs.steps.get(..at) {
        return End::Over;
    }
    let differs = |&i: &usize| ours.steps.get(i) != theirs.steps.get(i);
    let differs = (0..at).find(differs).unwrap_or(at);
    let mine = mine.map_or_else(|| step_text(&ours.steps, differs), |s| s.to_string());
    End::Differs(Some(differs), bug.to_string(), mine)
}

fn step_text(steps: &[Step], i: usize) -> String {
    steps.get(i).map_or_else(|| "no further step".into(), Step::to_string)
}
