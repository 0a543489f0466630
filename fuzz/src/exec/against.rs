// SPDX-License-Identifier: GPL-2.0-only
//! One scenario, two subjects, each in a world of its own: after every op
//! the same result, the same world, the same steps.
//!
//! The oracles run, too, but only because they are part of running an op;
//! what both subjects violate alike is no difference.

use gup_core::history::Kernel;
use gup_core::model::{Cpu, Limits, World};
use gup_core::splat::{Splat, SplatKind};
use gup_core::step::Step;

use super::{Finding, Judged, Ledger, Outcome, ops, tear_down, uncounted};
use crate::scenario::Op;
use crate::subject::Subject;

/// The oracle's place in findings of a comparison.
pub const AGAINST: &str = "against";

/// A subject with all that belongs to a run of it.
#[derive(Debug)]
struct Lane<S> {
    subject: S,
    world: World,
    ledger: Ledger,
}

impl<S: Subject> Lane<S> {
    fn new(subject: S) -> Self {
        Lane { subject, world: World::new(Limits::FUZZ), ledger: Ledger::new() }
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

    /// The steps of the last op, ours and theirs. `before` is called when it
    /// is about to run.
    pub fn steps_of_last(
        &mut self,
        ops: &[Op],
        mut before: impl FnMut(),
    ) -> (Vec<Step>, Vec<Step>) {
        let mut steps = Default::default();
        let last = ops.len().saturating_sub(1);
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
        ours.ledger.reset(&ours.world, uncounted);
        theirs.ledger.reset(&theirs.world, uncounted);
        let (a, b) = (Cpu::new(&ours.world, *kernel, 0), Cpu::new(&theirs.world, *kernel, 0));
        a.record_steps(true);
        b.record_steps(true);
        let mut end = End::Quiet;
        for (i, op) in ops.iter().enumerate() {
            watch(i, &a, None);
            let did = run_op(&a, &ours.subject, &mut ours.ledger, op);
            let should = run_op(&b, &theirs.subject, &mut theirs.ledger, op);
            watch(i, &a, Some(&b));
            *ops_run += u64::from(!matches!(did, Ok(Outcome::Skipped(_))));
            end = compare(&a, &did, &b, &should);
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
        }
        let quiet = matches!(end, End::Quiet);
        let (did, should) = if quiet {
            let did = tear_down(&a, &mut ours.ledger, &ours.subject);
            (did, tear_down(&b, &mut theirs.ledger, &theirs.subject))
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

fn run_op<S: Subject>(cpu: &Cpu, subject: &S, ledger: &mut Ledger, op: &Op) -> Judged {
    ops::Run { cpu, ledger, subject, shadow: None, returned: None }.op(op)
}

fn compare(a: &Cpu, did: &Judged, b: &Cpu, should: &Judged) -> End {
    let (ours, theirs) = (a.recorded_steps(), b.recorded_steps());
    // A BUG ends a call of the C at once; the port goes on.
    if b.has_splat()
        && let Some(bug) = first_bug(b)
    {
        return compare_bug(a, &ours, &theirs, &bug);
    }
    if *ours != *theirs {
        let at = (0..).find(|&i| ours.get(i) != theirs.get(i)).unwrap_or_default();
        return End::Differs(Some(at), step_text(&theirs, at), step_text(&ours, at));
    }
    let splats = |cpu: &Cpu| cpu.splats().iter().map(key).collect::<Vec<_>>();
    if (a.has_splat() || b.has_splat()) && splats(a) != splats(b) {
        let text = |cpu: &Cpu| format!("{:?}", splats(cpu));
        return End::Differs(None, text(b), text(a));
    }
    if did != should {
        return End::Differs(None, format!("{should:?}"), format!("{did:?}"));
    }
    match b.world.difference(a.world) {
        Some(what) => End::Differs(None, "the same world".into(), what),
        None if did.is_err() => End::Over,
        None => End::Quiet,
    }
}

/// The words of a condition are each side's own.
fn key(splat: &Splat) -> (SplatKind, &'static str) {
    (splat.kind, splat.function)
}

fn first_bug(cpu: &Cpu) -> Option<Splat> {
    cpu.splats().into_iter().find(|s| s.kind == SplatKind::Bug)
}

/// Theirs came to a BUG: ours must have come there, too, by the same steps.
fn compare_bug(a: &Cpu, ours: &[Step], theirs: &[Step], bug: &Splat) -> End {
    let at = bug.step as usize;
    let mine = first_bug(a);
    let there = mine.is_some_and(|mine| key(&mine) == key(bug) && mine.step == bug.step);
    if there && ours.get(..at) == theirs.get(..at) {
        return End::Over;
    }
    let differs = (0..at).find(|&i| ours.get(i) != theirs.get(i)).unwrap_or(at);
    let mine = mine.map_or_else(|| step_text(ours, differs), |s| s.to_string());
    End::Differs(Some(differs), bug.to_string(), mine)
}

fn step_text(steps: &[Step], i: usize) -> String {
    steps.get(i).map_or_else(|| "no further step".into(), Step::to_string)
}
