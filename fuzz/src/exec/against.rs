// SPDX-License-Identifier: GPL-2.0-only
//! One scenario, two subjects, each in a world of its own: after every op
//! the same result, the same world, the same steps.
//!
//! The oracles run, too, but only because they are part of running an op;
//! what both subjects violate alike is no difference.

use std::cell::{OnceCell, RefCell};

use gup_core::history::Kernel;
use gup_core::model::cpu::FailSite;
use gup_core::model::{Cpu, Limits, World};
use gup_core::splat::{Splat, SplatKind};
use gup_core::step::{Step, StepKind};

use super::window::{Inner, Raced, Windows};
use super::{Finding, Judged, Ledger, tear_down, uncounted};
use crate::scenario::{CallOp, Op, What, split_first};
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

/// How much of an op two subjects must do alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Alike {
    /// The result and the world after it.
    World,
    /// And every step but mere reads: stores, atomics, locks, barriers.
    Effects,
    /// And every step.
    Steps,
}

impl Alike {
    /// The steps that are looked at, with their numbers within the op.
    fn of(self, steps: &[Step]) -> impl Iterator<Item = Numbered> {
        let seen = move |kind: StepKind| match self {
            Alike::World => false,
            Alike::Effects => !kind.is_read(),
            Alike::Steps => true,
        };
        steps.iter().copied().enumerate().filter(move |&(_, step)| seen(step.kind))
    }
}

/// A step, and its number within the op, from 0.
pub type Numbered = (usize, Step);

/// Something that two texts are known to do differently.
#[derive(Debug)]
pub struct Difference {
    /// The commit that one text has and the other has not, or its subject.
    pub since: &'static str,
    /// What is different, and why that is so.
    pub what: &'static str,
    /// Whether it can show in a call, in the world before it.
    pub shows: fn(&Cpu, &CallOp) -> bool,
    /// What is alike all the same; `None` leaves the op out of the run.
    pub alike: Option<Alike>,
}

/// Compares two subjects. The findings say what the first one does as
/// `actual`, and what the second one does as `expected`.
#[derive(Debug)]
pub struct Against<A, B> {
    kernel: Kernel,
    ours: Lane<A>,
    theirs: Lane<B>,
    differences: &'static [Difference],
    ops_run: OpsRun,
    raced: Vec<Raced>,
}

/// Ops that were compared; skipped ops do not count.
#[derive(Clone, Copy, Default, Debug)]
pub struct OpsRun {
    /// In every step.
    pub steps: u64,
    /// In every step but mere reads.
    pub effects: u64,
    /// In their result and the world after them.
    pub world: u64,
    /// Ops that were left out.
    pub left_out: u64,
}

impl OpsRun {
    /// All that were compared.
    pub fn compared(self) -> u64 {
        self.steps + self.effects + self.world
    }
    fn count(&mut self, alike: Alike, ops: u64) {
        *match alike {
            Alike::Steps => &mut self.steps,
            Alike::Effects => &mut self.effects,
            Alike::World => &mut self.world,
        } += ops;
    }
}

impl std::iter::Sum for OpsRun {
    fn sum<I: Iterator<Item = OpsRun>>(all: I) -> OpsRun {
        all.fold(OpsRun::default(), |a, b| OpsRun {
            steps: a.steps + b.steps,
            effects: a.effects + b.effects,
            world: a.world + b.world,
            left_out: a.left_out + b.left_out,
        })
    }
}

/// Where two subjects part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Divergence {
    /// The op, what `theirs` does as `expected` and `ours` as `actual`.
    pub finding: Finding,
    /// The first step of the op that differs, if one does.
    pub step: Option<usize>,
}

impl Divergence {
    fn at(
        op: usize,
        function: &'static str,
        step: Option<usize>,
        expected: String,
        actual: String,
    ) -> Self {
        let finding = Finding { oracle: AGAINST, function, op, page: None, expected, actual };
        Divergence { finding, step }
    }
}

impl<A: Subject, B: Subject> Against<A, B> {
    /// A comparison on a kernel, step by step.
    pub fn new(kernel: Kernel, ours: A, theirs: B) -> Self {
        let (ours, theirs) = (Lane::new(ours), Lane::new(theirs));
        let ops_run = OpsRun::default();
        Against { kernel, ours, theirs, differences: &[], ops_run, raced: Vec::new() }
    }

    /// The same, but for what is known to be different.
    #[must_use]
    pub fn but_for(mut self, differences: &'static [Difference]) -> Self {
        self.differences = differences;
        self
    }

    /// Ops run since this was made.
    pub fn ops_run(&self) -> OpsRun {
        self.ops_run
    }

    /// As of an [`Executor`](super::Executor): what the last run showed of the
    /// ops that have windows.
    pub fn raced(&self) -> &[Raced] {
        &self.raced
    }

    /// Runs a scenario up to the first difference.
    pub fn run(&mut self, ops: &[Op]) -> Option<Divergence> {
        self.go(ops, |_, _, _, _| {})
    }

    /// The steps that are compared of the last op that is in no window, ours
    /// and theirs, with their numbers. `before` is called when it is about to
    /// run.
    pub fn steps_of_last(&mut self, ops: &[Op], mut before: impl FnMut()) -> [Vec<Numbered>; 2] {
        let mut steps = Default::default();
        let last = ops.iter().rposition(|op| op.at.is_none()).unwrap_or(0);
        self.go(ops, |i, alike, ours, theirs| match theirs {
            None if i == last => before(),
            Some(theirs) if i == last => {
                steps = [ours, theirs].map(|cpu| alike.of(&cpu.recorded_steps()).collect());
            }
            _ => {}
        });
        steps
    }

    /// `watch` is called before each op, without the second CPU, and after.
    fn go(
        &mut self,
        ops: &[Op],
        mut watch: impl FnMut(usize, Alike, &Cpu, Option<&Cpu>),
    ) -> Option<Divergence> {
        let Against { kernel, ours, theirs, differences, ops_run, raced } = self;
        raced.clear();
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
            let all = || std::iter::once(op).chain(inner);
            let lacks = |op: &Op| ours.subject.lacks(&op.what) || theirs.subject.lacks(&op.what);
            let Some(alike) = alike(differences, &b, op, inner).filter(|_| !all().any(lacks))
            else {
                ops_run.left_out += 1 + inner.len() as u64;
                i += 1 + inner.len();
                continue;
            };
            watch(i, alike, &a, None);
            let did = our_windows.run(&a, op, inner, None).0;
            let should = their_windows.run(&b, op, inner, None).0;
            watch(i, alike, &a, Some(&b));
            if !inner.is_empty() {
                raced.push(our_windows.raced(i));
            }
            ops_run.count(alike, did.as_ref().map_or(1, |outcome| outcome.counts()));
            end = compare_all(
                alike,
                (&a, &did, &our_windows.inner()),
                (&b, &should, &their_windows.inner()),
            );
            if let End::Differs(step, expected, actual) = end {
                ours.world.reset();
                theirs.world.reset();
                return Some(Divergence::at(i, op.name(), step, expected, actual));
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
            Divergence::at(ops.len(), "exit_mmap", None, text(&should), text(&did))
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

/// What must be alike in an op that is about to run, `inner` in its windows.
fn alike(differences: &[Difference], cpu: &Cpu, op: &Op, inner: &[Op]) -> Option<Alike> {
    let alike = match &op.what {
        What::Call(call) => {
            let shown = differences.iter().filter(|d| (d.shows)(cpu, call)).map(|d| d.alike);
            shown.min().unwrap_or(Some(Alike::Steps))?
        }
        _ => Alike::Steps,
    };
    // The nth of something fails, or opens a window, and that is another one
    // on the other side; looking for signals is a read. And in a window the
    // world is not the one seen here.
    let same_nth = match (alike, op.fail) {
        (Alike::Steps, _) | (_, None) => true,
        (Alike::Effects, Some(fail)) => fail.site != FailSite::Signal,
        (Alike::World, Some(_)) => false,
    };
    let calls = |op: &Op| matches!(op.what, What::Call(_)) && !differences.is_empty();
    let same_windows = inner.is_empty() || (alike == Alike::Steps && !inner.iter().any(calls));
    (same_nth && same_windows).then_some(alike)
}

/// What one side did: an op, and what ran in its windows.
type Side<'a> = (&'a Cpu<'a>, &'a Judged, &'a [Inner]);

fn compare_all(alike: Alike, ours: Side<'_>, theirs: Side<'_>) -> End {
    // A BUG ends a call of the C at once; the port goes on, and all that
    // follows differs.
    for (mine, its) in ours.2.iter().zip(theirs.2) {
        if let Some(bug) = first_bug(&its.splats) {
            return compare_bug(&Did::of_inner(mine), &Did::of_inner(its), &bug);
        }
    }
    let end = compare(&Did::of(alike, ours.0, ours.1), &Did::of(alike, theirs.0, theirs.1));
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

/// One op of one side, as far as it is compared.
struct Did {
    alike: Alike,
    steps: Vec<Step>,
    splats: Vec<Splat>,
    judged: Judged,
}

impl Did {
    fn of(alike: Alike, cpu: &Cpu, judged: &Judged) -> Self {
        let recorded = cpu.recorded_steps();
        let steps = alike.of(&recorded).map(|(_, step)| step).collect();
        let mut splats = cpu.splats();
        for splat in &mut splats {
            // It came up before this one of the steps that are compared.
            let before = recorded.get(..splat.step as usize).unwrap_or(&recorded);
            splat.step = alike.of(before).count() as u32;
        }
        Did { alike, steps, splats, judged: judged.clone() }
    }
    fn of_inner(inner: &Inner) -> Self {
        let judged = inner.violation.clone().map_or(Ok(inner.outcome), Err);
        let (steps, splats) = (inner.steps.clone(), inner.splats.clone());
        Did { alike: Alike::Steps, steps, splats, judged }
    }
    /// The words of a condition are each side's own; the names of functions
    /// are the same where the steps are.
    fn key(&self, splat: &Splat) -> (SplatKind, &'static str) {
        (splat.kind, if self.alike == Alike::Steps { splat.function } else { "" })
    }
    fn same_judgement(&self, other: &Did) -> bool {
        match (&self.judged, &other.judged) {
            (Err(a), Err(b)) if self.alike != Alike::Steps => a.oracle == b.oracle,
            (a, b) => a == b,
        }
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
    let splats = |did: &Did| did.splats.iter().map(|s| did.key(s)).collect::<Vec<_>>();
    if splats(ours) != splats(theirs) {
        let text = |did: &Did| format!("{:?}", splats(did));
        return End::Differs(None, text(theirs), text(ours));
    }
    if !ours.same_judgement(theirs) {
        let text = |did: &Did| format!("{:?}", did.judged);
        return End::Differs(None, text(theirs), text(ours));
    }
    if ours.judged.is_err() { End::Over } else { End::Quiet }
}

fn first_bug(splats: &[Splat]) -> Option<Splat> {
    splats.iter().copied().find(|s| s.kind == SplatKind::Bug)
}

/// Theirs came to a BUG: ours must have come there, too, by the same steps.
fn compare_bug(ours: &Did, theirs: &Did, bug: &Splat) -> End {
    let at = bug.step as usize;
    let mine = first_bug(&ours.splats);
    let there =
        mine.is_some_and(|mine| ours.key(&mine) == theirs.key(bug) && mine.step == bug.step);
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
