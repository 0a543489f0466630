// SPDX-License-Identifier: GPL-2.0-only
//! Runs a scenario in a world and has every op judged.
//!
//! One [`Executor`] runs many scenarios: the world is torn down after each,
//! which is a check in itself, and used again. After a finding the world is
//! wiped instead.

pub mod against;
pub mod ledger;
mod ops;
mod place;
pub mod state;
pub mod trace;
mod window;

use std::cell::{OnceCell, RefCell};

use gup_core::errno::Errno;
use gup_core::history::{Base, Kernel};
use gup_core::invariants::everything_free;
use gup_core::model::mm::{MmId, mm_alive};
use gup_core::model::{Cpu, Limits, Page, Wait, World, filemap, lru, mmap, page, reclaim, zone};

pub use ledger::Ledger;
pub use state::{Slot, SlotView, State};
pub use trace::{PageRow, Trace, TraceLine};
pub use window::{Met, Raced};

use window::Windows;

use crate::oracles::{Violation, bookkeeping};
use crate::scenario::{CallResult, MMS, Op, Unpin, What, split_first};
use crate::subject::{Chosen, Subject};

/// One violation, and where it came up.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// The oracle.
    pub oracle: &'static str,
    /// The kernel function, or the op that ran.
    pub function: &'static str,
    /// The index of the op; the number of ops if it was the tear-down.
    pub op: usize,
    /// The page it is about.
    pub page: Option<Page>,
    /// What should be.
    pub expected: String,
    /// What is.
    pub actual: String,
}

impl Finding {
    /// Findings with the same key are one finding.
    pub fn key(&self) -> (&'static str, &'static str) {
        (self.oracle, self.function)
    }
}

/// What became of an op.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// A call of mm/gup.c returned.
    Returned(CallResult),
    /// Done.
    Done,
    /// Failed, as the op may.
    Failed(Errno),
    /// It could not run, for this reason.
    Skipped(&'static str),
    /// In its window it would have had to wait for the op around it, so it
    /// did not run.
    Blocked(Wait),
}

impl From<Result<(), Errno>> for Outcome {
    fn from(r: Result<(), Errno>) -> Self {
        r.map_or_else(Outcome::Failed, |()| Outcome::Done)
    }
}

impl Outcome {
    /// Ops that it counts for: those that ran.
    fn counts(self) -> u64 {
        u64::from(!matches!(self, Outcome::Skipped(_) | Outcome::Blocked(_)))
    }
}

/// What an op came to, or what it violated.
type Judged = Result<Outcome, Violation>;

/// Runs scenarios.
#[derive(Debug)]
pub struct Executor<S: Subject = Chosen> {
    kernel: Kernel,
    subject: S,
    world: World,
    /// A second world for the agreement oracle, made when first needed.
    shadow: Option<Box<World>>,
    /// And one to try on what would have to wait, likewise.
    copy: OnceCell<Box<World>>,
    ledger: RefCell<Ledger>,
    ops_run: u64,
    features: Vec<u32>,
    raced: Vec<Raced>,
}

impl Executor<Chosen> {
    /// An executor for the subject of this process on `kernel`.
    pub fn new(kernel: Kernel) -> Self {
        Self::with_subject(kernel, Chosen::of_process())
    }
}

impl<S: Subject> Executor<S> {
    /// An executor for any subject.
    pub fn with_subject(kernel: Kernel, subject: S) -> Self {
        Executor {
            kernel,
            subject,
            world: World::new(Limits::FUZZ),
            shadow: None,
            copy: OnceCell::new(),
            ledger: RefCell::new(Ledger::new()),
            ops_run: 0,
            features: Vec::new(),
            raced: Vec::new(),
        }
    }

    /// The kernel that runs.
    pub fn kernel(&self) -> Kernel {
        self.kernel
    }

    /// Ops run since the executor was made; skipped ops do not count.
    pub fn ops_run(&self) -> u64 {
        self.ops_run
    }

    /// Runs a scenario, op by op, up to the first violation.
    pub fn run(&mut self, ops: &[Op]) -> Option<Finding> {
        self.go(ops, false, None)
    }

    /// [`Executor::run`], and each fast call is compared with the slow one.
    pub fn fast_vs_slow(&mut self, ops: &[Op]) -> Option<Finding> {
        self.go(ops, true, None)
    }

    /// [`Executor::run`] with a record of everything.
    pub fn trace(&mut self, ops: &[Op]) -> Trace {
        let mut lines = Vec::new();
        let finding = self.go(ops, false, Some(&mut lines));
        Trace { lines, finding }
    }

    /// [`Executor::fast_vs_slow`] with a record of everything.
    pub fn trace_fast_vs_slow(&mut self, ops: &[Op]) -> Trace {
        let mut lines = Vec::new();
        let finding = self.go(ops, true, Some(&mut lines));
        Trace { lines, finding }
    }

    /// Appends what the last run showed: numbers that are equal when two
    /// runs did the same kind of thing.
    pub fn features(&self, out: &mut Vec<u32>) {
        out.extend_from_slice(&self.features);
    }

    /// What the last run showed of the ops that have windows.
    pub fn raced(&self) -> &[Raced] {
        &self.raced
    }

    fn go(
        &mut self,
        ops: &[Op],
        compare: bool,
        mut lines: Option<&mut Vec<TraceLine>>,
    ) -> Option<Finding> {
        let Executor { kernel, subject, world, shadow, copy, ledger, ops_run, features, raced } =
            self;
        if compare && shadow.is_none() {
            *shadow = Some(Box::new(World::new(Limits::FUZZ)));
        }
        let shadow = if compare { shadow.as_deref() } else { None };
        ledger.get_mut().reset(world, uncounted(*kernel, world));
        features.clear();
        raced.clear();
        let windows = Windows::new(&*subject, &*ledger, copy);
        let cpu = Cpu::alone(world, *kernel, 0).watched_by(&windows);
        cpu.record_steps(lines.is_some());
        let mut finding = None;
        let mut last = 0;
        let mut i = 0;
        while let Some((&op, inner, _)) = split_first(&ops[i..]) {
            let before = lines.is_some().then(|| trace::rows(&cpu, &ledger.borrow()));
            let (judged, returned) = windows.run(&cpu, &op, inner, shadow);
            let outcome = match &judged {
                Ok(outcome) => *outcome,
                Err(_) => returned.map_or(Outcome::Done, Outcome::Returned),
            };
            *ops_run += outcome.counts();
            if let (Some(lines), Some(before)) = (lines.as_deref_mut(), before) {
                lines.push(trace::line(&cpu, &ledger.borrow(), op, outcome, before));
            }
            last = trace::feature(&cpu, op, outcome, last, features);
            if !inner.is_empty() {
                raced.push(windows.raced(i));
            }
            for (j, inner) in (i + 1..).zip(windows.inner().iter_mut()) {
                *ops_run += inner.outcome.counts();
                trace::inner_feature(inner.op, inner.outcome, last, features);
                if let Some(lines) = lines.as_deref_mut() {
                    lines.push(
                        inner
                            .line
                            .take()
                            .unwrap_or_else(|| trace::idle(&cpu, &ledger.borrow(), inner)),
                    );
                }
                if let Some(v) = inner.violation.take().filter(|_| finding.is_none()) {
                    finding = Some(found(v, j, inner.op.name()));
                }
            }
            if let (Err(v), None) = (judged, &finding) {
                finding = Some(found(v, i, op.name()));
            }
            if finding.is_some() {
                break;
            }
            i += 1 + inner.len();
        }
        if finding.is_none()
            && let Err(v) = tear_down(&cpu, ledger, subject)
        {
            finding = Some(found(v, ops.len(), "exit_mmap"));
        }
        if finding.is_some() {
            world.reset();
        }
        finding
    }
}

/// The page whose pins the kernel does not count.
fn uncounted(kernel: Kernel, world: &World) -> Option<Page> {
    (kernel.base() >= Base::V6_12).then(|| world.zero_page())
}

fn found(v: Violation, op: usize, function: &'static str) -> Finding {
    Finding {
        oracle: v.oracle,
        function: v.function.unwrap_or(function),
        op,
        page: v.page,
        expected: v.expected,
        actual: v.actual,
    }
}

/// Ends everything and gives everything back: the world must be empty then.
fn tear_down<S: Subject>(
    cpu: &Cpu,
    ledger: &RefCell<Ledger>,
    subject: &S,
) -> Result<(), Violation> {
    cpu.id.set(0);
    let mut ledger = ledger.borrow_mut();
    for h in ledger.live_handles() {
        let Some(held) = ledger.handle(h).copied() else { continue };
        cpu.begin_op(held.mm, None);
        if held.pinned {
            subject.unpin(cpu, Unpin::Pages, held.pages());
        } else {
            held.pages().iter().for_each(|&p| page::put_page(cpu, p));
        }
        ledger.release(h);
        bookkeeping::check(cpu, &ledger, false).map_or(Ok(()), Err)?;
    }
    for mm in (0..MMS).map(MmId).filter(|&mm| mm_alive(cpu, mm)) {
        cpu.begin_op(mm, None);
        mmap::exit_mmap(cpu, mm);
        bookkeeping::check(cpu, &ledger, false).map_or(Ok(()), Err)?;
    }
    cpu.begin_op(MmId(0), None);
    filemap::evict_inodes(cpu);
    lru::lru_add_drain_all(cpu);
    reclaim::shrink_swap_cache(cpu);
    zone::reset_placement(cpu);
    bookkeeping::check(cpu, &ledger, false).map_or(Ok(()), Err)?;
    everything_free(cpu.world).map_err(Violation::from)
}

impl Op {
    /// The kernel function, or what else the op is called.
    pub fn name(&self) -> &'static str {
        match self.what {
            What::Call(c) => c.call.name(),
            What::Unpin(how, _) => how.name(),
            What::Mmap(..) | What::MmapFile(..) => "mmap",
            What::Munmap(_) => "munmap",
            What::Mprotect(..) => "mprotect",
            What::Dontneed(_) => "madvise",
            What::Write(_) => "write",
            What::Read(_) => "read",
            What::Fork(..) => "fork",
            What::Exit(_) => "exit",
            What::PutPage(_) => "put_page",
            What::Tee(..) => "tee",
            What::FolioAddPin(..) => "folio_add_pin",
            What::DmaWrite(_) => "dma_write",
            What::DmaRead(_) => "dma_read",
            What::LruAddDrain => "lru_add_drain",
            What::LruAddDrainAll => "lru_add_drain_all",
            What::Migrate(_) => "migrate",
            What::SplitHugePage(_) => "split_huge_page",
            What::SplitHugePmd(_) => "split_huge_pmd",
            What::Swapout(_) => "swapout",
            What::Collapse(_) => "collapse",
            What::NumaHint(_) => "numa_hint",
            What::IsolateBlock(_) => "isolate_block",
            What::UnisolateBlock(_) => "unisolate_block",
            What::Prefer(_) => "prefer",
            What::Cpu(_) => "cpu",
            What::Truncate(..) => "truncate",
            What::Fsync(_) => "fsync",
            What::Close(_) => "close",
        }
    }
}
