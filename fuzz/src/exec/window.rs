// SPDX-License-Identifier: GPL-2.0-only
//! Windows: ops that another CPU does in the middle of an op.
//!
//! The op above is stopped before a step, the op of the window runs from its
//! beginning to its end on a second CPU, and the op above goes on. First it
//! runs on a copy of the world: if it would have to wait there for something
//! that the op above holds, it does not run at all, and the trace says for
//! what. So nothing ever waits.
//!
//! What runs inside a window is judged at its end by the oracles that look
//! at one call (result-array, placement, permission, reliability and isolation
//! of what was read) and by splat, progress and locking of its own CPU;
//! accounting, lifetime and the ties of pins are judged when the op around it
//! has ended, for all pages that both have touched. What both may legitimately
//! do to each other is exempt, and nothing else:
//!
//! | oracle | exempt | because |
//! |---|---|---|
//! | errno | a call around or inside a window that ran | its specification is of a world in which nobody else is at work: another's reference makes a migration fail, a fault is repeated |
//! | agreement | a call around a window that ran | the slow call would need the window at the same place |
//! | result-array | a page that the address mapped before or after one of the windows | GUP gives back what was mapped at some time during the call |
//! | permission, but for secret memory | addresses whose VMA a window changed | GUP-fast never looks at VMAs; munmap() and mprotect() need not wait for it |
//! | placement, isolated pageblocks | if a window isolated one | set_migratetype_isolate() looks before it sets, and so does GUP |
//! | reliability of a pin | addresses given up inside (munmap, madvise; on v5.15 mprotect) before the call returned | the pin may be older than that |
//! | contents | ranges that the op around gives up or cuts off, until it ends; and of a child, what was stored during fork() | old and new contents may both be seen |
//!
//! The op of a window is skipped if it names a handle that the op around it
//! names (its pages are in use there), a process that the op around it starts,
//! ends or runs in and that it would end, or if one of both closes a file that
//! the other has open.

use std::cell::{Cell, OnceCell, RefCell};

use gup_core::model::cpu::{Event, Watch};
use gup_core::model::filemap::File;
use gup_core::model::limits::MAX_CALL_PAGES;
use gup_core::model::mm::{MmId, Vma, mm_alive, vma_lookup, vmas};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Page, Wait, World};
use gup_core::splat::Splat;
use gup_core::step::{Step, StepKind};

use super::ops::Run;
use super::place;
use super::trace::{self, TraceLine};
use super::{Judged, Ledger, Outcome};
use crate::oracles::Violation;
use crate::scenario::{CallOp, CallResult, Op, Range, StepCounts, What, Window};
use crate::subject::Subject;

const ALONE: Outcome = Outcome::Skipped("no op above it to run in");
const NOT_REACHED: Outcome = Outcome::Skipped("its window was not reached");
const IN_USE: Outcome = Outcome::Skipped("the op around it uses the handle");
const NEEDED: Outcome = Outcome::Skipped("the op around it needs the process");
const OPEN: Outcome = Outcome::Skipped("the op around it has the file open");
const CLOSED: Outcome = Outcome::Skipped("the op around it closes the file");
const NOBODY: Outcome = Outcome::Skipped("the op around it starts or ends the process");

/// An op in a window, and what became of it.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) op: Op,
    pub(super) outcome: Outcome,
    pub(super) violation: Option<Violation>,
    /// On the copy of the world.
    tried: Vec<Step>,
    /// If a record is kept.
    pub(super) steps: Vec<Step>,
    pub(super) splats: Vec<Splat>,
    /// If a record is kept.
    pub(super) line: Option<TraceLine>,
    done: bool,
}

impl Inner {
    fn new(op: Op) -> Self {
        let (outcome, violation, line) = (NOT_REACHED, None, None);
        let (steps, tried, splats) = (vec![], vec![], vec![]);
        Inner { op, outcome, violation, tried, steps, splats, line, done: false }
    }

    fn met(&self) -> Met {
        match self.outcome {
            NOT_REACHED => Met::Nowhere,
            Outcome::Skipped(_) => Met::Nothing,
            Outcome::Blocked(_) => Met::Blocked,
            Outcome::Failed(_) | Outcome::Returned(Err(_)) => Met::Failed,
            Outcome::Done | Outcome::Returned(Ok(_)) => Met::Ran,
        }
    }
}

/// What became of the ops in the windows of an op: of several, the most.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Met {
    /// No window was reached.
    Nowhere,
    /// They had nothing to work on there.
    Nothing,
    /// They failed.
    Failed,
    /// They would have had to wait there.
    Blocked,
    /// They ran.
    Ran,
}

/// What a run showed of an op with windows.
#[derive(Clone, Debug)]
pub struct Raced {
    /// Its place in the scenario.
    pub at: usize,
    /// What it is.
    pub what: What,
    /// How many steps of each kind it took.
    pub steps: StepCounts,
    /// What became of the ops in its windows.
    pub met: Met,
    /// Where windows can make a difference: before each step that uses what
    /// the ops in them use, one of both writing, but for the first, before
    /// which they might as well run before the whole op.
    pub places: Vec<Window>,
    /// The ops in its windows gave pages back.
    pub freed: bool,
}

impl Raced {
    /// Whether the op could not run, so that nothing can run inside of it.
    pub fn idle(&self) -> bool {
        self.steps.iter().all(|&n| n == 0)
    }
}

/// The steps of the op around, each with its number among those of its kind.
#[derive(Debug)]
struct Taken {
    counts: StepCounts,
    steps: Vec<(Step, u16)>,
}

impl Taken {
    const NONE: Taken = Taken { counts: [0; StepKind::ALL.len()], steps: Vec::new() };

    fn clear(&mut self) {
        self.counts = Taken::NONE.counts;
        self.steps.clear();
    }

    /// Adds a step; answers its number.
    fn add(&mut self, step: &Step) -> u16 {
        let n = &mut self.counts[step.kind as usize];
        *n = n.saturating_add(1);
        self.steps.push((*step, *n));
        *n
    }
}

/// What ops use: sets of frames, address spaces, files and page-table entries.
#[derive(Default)]
struct Used {
    read: [u128; Used::WORDS],
    written: [u128; Used::WORDS],
}

impl Used {
    const WORDS: usize = 8;

    /// The number of what a step uses, and whether it writes there; `None` if
    /// it makes no difference who is first: locks, barriers, statistics.
    fn of(step: &Step) -> Option<(usize, bool)> {
        use StepKind::{
            Barrier, CacheRead, CacheSet, EntryRmw, EntrySet, IrqRestore, IrqSave, Lock,
            MmFlagRead, MmFlagSet, MmapLock, MmapUnlock, PteRead, SeqRead, SeqRetry, SeqWrite,
            Signal, TableRead, Unlock, Vmstat,
        };
        let first = match step.kind {
            Vmstat | Lock | Unlock | MmapLock | MmapUnlock | IrqSave | IrqRestore | Signal
            | Barrier => return None,
            SeqRead | SeqRetry | SeqWrite | MmFlagRead | MmFlagSet => 128,
            CacheRead | CacheSet => 192,
            TableRead | PteRead | EntrySet | EntryRmw => 256,
            _ => 0,
        };
        let reads = step.kind.is_read() || matches!(step.kind, SeqRead | SeqRetry);
        Some((first + step.object as usize, !reads))
    }

    fn add(&mut self, steps: &[Step]) {
        for (object, writes) in steps.iter().filter_map(Used::of) {
            let set = if writes { &mut self.written } else { &mut self.read };
            if let Some(word) = set.get_mut(object / 128) {
                *word |= 1 << (object % 128);
            }
        }
    }

    fn meets(&self, step: &Step) -> bool {
        let has = |set: &[u128], object: usize| {
            set.get(object / 128).is_some_and(|word| word >> (object % 128) & 1 != 0)
        };
        Used::of(step).is_some_and(|(object, writes)| {
            has(&self.written, object) || (writes && has(&self.read, object))
        })
    }
}

/// What the addresses of a call mapped before and after the windows.
#[derive(Debug)]
struct Seen {
    call: Option<CallOp>,
    pages: [u128; MAX_CALL_PAGES],
    vmas: [Option<Vma>; MAX_CALL_PAGES],
    /// The VMA is another, or gone.
    changed: u16,
    /// The pages of secret memory among them, with their epochs.
    secrets: Vec<(Page, u32)>,
}

impl Seen {
    const NOTHING: Seen = Seen {
        call: None,
        pages: [0; MAX_CALL_PAGES],
        vmas: [None; MAX_CALL_PAGES],
        changed: 0,
        secrets: Vec::new(),
    };

    fn of(cpu: &Cpu, op: &Op) -> Self {
        let What::Call(call) = op.what else { return Seen::NOTHING };
        let mut seen = Seen { call: Some(call), ..Seen::NOTHING };
        for (vma, addr) in seen.vmas.iter_mut().zip(call.range.addrs()) {
            *vma = vma_lookup(cpu, call.range.mm, addr);
        }
        seen
    }

    fn look(&mut self, cpu: &Cpu) {
        let Some(call) = self.call else { return };
        for (i, addr) in call.range.addrs().enumerate().take(MAX_CALL_PAGES) {
            if let Some(page) = mapped_page(cpu, call.range.mm, addr) {
                self.pages[i] |= page.bit();
                if cpu.world.look(page).file == Some(File::Secretmem) {
                    self.secrets.push((page, cpu.world.epoch(page)));
                }
            }
            let same = vma_lookup(cpu, call.range.mm, addr) == self.vmas[i];
            self.changed |= u16::from(!same) << i;
        }
    }
}

/// The files that an op has open: those that it names, and what it unmaps.
/// C: remove_vma(), mm/vma.c, which comes last
fn has_open(cpu: &Cpu, what: &What) -> [bool; File::COUNT] {
    let mut open = [false; File::COUNT];
    let unmaps = match *what {
        What::Munmap(Range { mm, .. }) | What::Exit(mm) => Some(mm),
        _ => None,
    };
    let unmapped = unmaps.into_iter().flat_map(|mm| vmas(cpu, mm)).filter_map(|v| v.file());
    what.file().into_iter().chain(unmapped).for_each(|file| open[file as usize] = true);
    open
}

/// The windows of the op that runs.
pub(super) struct Windows<'a, S: Subject> {
    subject: &'a S,
    ledger: &'a RefCell<Ledger>,
    /// The copy of the world, made when first needed.
    copy: &'a OnceCell<Box<World>>,
    op: Cell<Op>,
    /// The process that the op starts.
    starts: Cell<Option<MmId>>,
    /// The files that stay open until the op ends.
    open: Cell<[bool; File::COUNT]>,
    inner: RefCell<Vec<Inner>>,
    taken: RefCell<Taken>,
    seen: RefCell<Seen>,
    ran: Cell<bool>,
}

impl<'a, S: Subject> Windows<'a, S> {
    pub(super) fn new(
        subject: &'a S,
        ledger: &'a RefCell<Ledger>,
        copy: &'a OnceCell<Box<World>>,
    ) -> Self {
        Windows {
            subject,
            ledger,
            copy,
            op: Cell::new(Op::from(What::LruAddDrain)),
            starts: Cell::new(None),
            open: Cell::new([false; File::COUNT]),
            inner: RefCell::new(Vec::new()),
            taken: RefCell::new(Taken::NONE),
            seen: RefCell::new(Seen::NOTHING),
            ran: Cell::new(false),
        }
    }

    /// Runs an op with its windows on a CPU that this watches. Also answers
    /// what a call returned before an oracle objected.
    pub(super) fn run(
        &self,
        cpu: &Cpu,
        op: &Op,
        inner: &[Op],
        shadow: Option<&World>,
    ) -> (Judged, Option<CallResult>) {
        self.inner.borrow_mut().clear();
        if op.at.is_some() {
            return (Ok(ALONE), None);
        }
        if !inner.is_empty() {
            self.open(cpu, op, inner);
        }
        let (ledger, subject) = (self.ledger, self.subject);
        let windows = (!inner.is_empty()).then_some(self as &dyn Around);
        let mut run = Run { cpu, ledger, subject, shadow, returned: None, windows, inside: None };
        let judged = run.op(op);
        let returned = run.returned;
        if !inner.is_empty() {
            self.ledger.borrow_mut().settle();
        }
        (judged, returned)
    }

    fn open(&self, cpu: &Cpu, op: &Op, inner: &[Op]) {
        self.op.set(*op);
        self.ran.set(false);
        self.starts.set(match op.what {
            What::Mmap(r, ..) | What::MmapFile(r, ..) if !mm_alive(cpu, r.mm) => Some(r.mm),
            What::Fork(_, child) => Some(child),
            _ => None,
        });
        self.open.set(has_open(cpu, &op.what));
        self.inner.borrow_mut().extend(inner.iter().copied().map(Inner::new));
        self.taken.borrow_mut().clear();
        *self.seen.borrow_mut() = Seen::of(cpu, op);
    }

    /// What the run showed of the op, which is at `at` and has windows.
    pub(super) fn raced(&self, at: usize) -> Raced {
        let all = self.inner.borrow();
        let mut used = Used::default();
        all.iter().for_each(|inner| used.add(&inner.tried));
        let taken = self.taken.borrow();
        let met = taken.steps.iter().filter(|(step, _)| used.meets(step));
        let window = |&(step, nth): &(Step, u16)| Window { kind: step.kind, nth };
        Raced {
            at,
            what: self.op.get().what,
            steps: taken.counts,
            met: all.iter().map(Inner::met).max().unwrap_or(Met::Nowhere),
            places: met.skip(1).map(window).collect(),
            freed: all.iter().any(|i| i.tried.iter().any(|s| s.kind == StepKind::Free)),
        }
    }

    /// The ops that ran, or did not, in the order of the lines.
    pub(super) fn inner(&self) -> std::cell::RefMut<'_, Vec<Inner>> {
        self.inner.borrow_mut()
    }

    /// Why the op cannot run inside the one around it.
    fn conflict(&self, inner: &Op) -> Option<Outcome> {
        let outer = self.op.get();
        let uses = |op: &Op, h| op.what.handles().contains(&Some(h));
        if inner.what.handles().into_iter().flatten().any(|h| uses(&outer, h)) {
            return Some(IN_USE);
        }
        let ends = if let What::Exit(mm) = outer.what { Some(mm) } else { None };
        let gone = |mm| Some(mm) == ends || Some(mm) == self.starts.get();
        let child = if let What::Fork(_, child) = inner.what { Some(child) } else { None };
        if inner.what.mm().is_some_and(gone) || child.is_some_and(gone) {
            return Some(NOBODY);
        }
        match inner.what {
            What::Exit(mm) if outer.what.mm() == Some(mm) => Some(NEEDED),
            What::Close(file) if self.open.get()[file as usize] => Some(OPEN),
            what if matches!(outer.what, What::Close(_)) && what.file() == outer.what.file() => {
                Some(CLOSED)
            }
            _ => None,
        }
    }

    /// Runs the op of a window, if it need not wait.
    fn let_in(&self, outer: &Cpu, inner: &mut Inner, step: &Step) {
        if let Some(conflict) = self.conflict(&inner.op) {
            inner.outcome = conflict;
            return;
        }
        let copy = self.copy.get_or_init(|| Box::new(World::new(*outer.world.limits())));
        copy.copy_from(outer.world);
        let ledger = RefCell::new(self.ledger.borrow().clone());
        let cpu = Cpu::beside(outer, copy);
        cpu.record_steps(true);
        let (dry, _) = self.run_inside(&cpu, &ledger, &inner.op);
        inner.tried = cpu.recorded_steps().to_vec();
        let retries = cpu.events().contains(Event::OUT_OF_BUDGET).then_some(Wait::Retries);
        if let Some(wait) = cpu.waits_for().or(retries) {
            inner.outcome = Outcome::Blocked(wait);
            return;
        }
        if let Ok(Outcome::Skipped(_)) = dry {
            inner.outcome = dry.unwrap_or(NOT_REACHED);
            return;
        }
        self.seen.borrow_mut().look(outer);
        self.ledger.borrow_mut().inside(true);
        let cpu = Cpu::beside(outer, outer.world);
        cpu.record_steps(outer.records_steps());
        let before = outer.records_steps().then(|| trace::rows(&cpu, &self.ledger.borrow()));
        let (judged, returned) = self.run_inside(&cpu, self.ledger, &inner.op);
        self.ledger.borrow_mut().inside(false);
        self.seen.borrow_mut().look(outer);
        self.ran.set(true);
        outer.touch_also(cpu.touched());
        let called = returned.map_or(Outcome::Done, Outcome::Returned);
        inner.outcome = *judged.as_ref().unwrap_or(&called);
        inner.violation = judged.err();
        inner.steps = cpu.recorded_steps().to_vec();
        inner.splats = cpu.splats();
        let ledger = self.ledger.borrow();
        inner.line = before.map(|b| {
            let function = place::function().map(|f| format!(" in {f}")).unwrap_or_default();
            let place = Some(format!("before {step}{function}"));
            TraceLine { place, ..trace::line(&cpu, &ledger, inner.op, inner.outcome, b) }
        });
    }

    fn run_inside(
        &self,
        cpu: &Cpu,
        ledger: &RefCell<Ledger>,
        op: &Op,
    ) -> (Judged, Option<CallResult>) {
        let (subject, windows, inside) = (self.subject, None, Some(self.op.get().what));
        let mut run = Run { cpu, ledger, subject, shadow: None, returned: None, windows, inside };
        let judged = run.op(op);
        (judged, run.returned)
    }
}

impl<S: Subject> Watch for Windows<'_, S> {
    fn before(&self, cpu: &Cpu, step: &Step) {
        let nth = self.taken.borrow_mut().add(step);
        let here = |inner: &Inner| {
            !inner.done && inner.op.at.is_some_and(|w| w.kind == step.kind && w.nth == nth)
        };
        let mut all = self.inner.borrow_mut();
        for inner in all.iter_mut().filter(|inner| here(inner)) {
            inner.done = true;
            self.let_in(cpu, inner, step);
        }
    }
}

/// What an op asks of its windows.
pub(super) trait Around {
    /// Whether any of them ran.
    fn ran(&self) -> bool;
    /// Whether an op that `which` says ran in one of them.
    fn any(&self, which: fn(&What) -> bool) -> bool;
    /// Whether page `i` of the call was seen to be mapped there meanwhile.
    fn was_mapped(&self, i: usize, page: Page) -> bool;
    /// Whether the VMA of page `i` of the call was changed meanwhile.
    fn vma_changed(&self, i: usize) -> bool;
    /// Whether the page was of secret memory that the call's addresses were seen
    /// to map meanwhile, and has not been used again since.
    fn was_secret(&self, world: &World, page: Page) -> bool;
}

impl<S: Subject> Around for Windows<'_, S> {
    fn ran(&self) -> bool {
        self.ran.get()
    }
    fn any(&self, which: fn(&What) -> bool) -> bool {
        self.inner.borrow().iter().any(|inner| {
            let ran = !matches!(inner.outcome, Outcome::Skipped(_) | Outcome::Blocked(_));
            ran && which(&inner.op.what)
        })
    }
    fn was_mapped(&self, i: usize, page: Page) -> bool {
        self.seen.borrow().pages[i] & page.bit() != 0
    }
    fn vma_changed(&self, i: usize) -> bool {
        self.seen.borrow().changed >> i & 1 != 0
    }
    fn was_secret(&self, world: &World, page: Page) -> bool {
        self.seen.borrow().secrets.contains(&(page, world.epoch(page)))
    }
}
