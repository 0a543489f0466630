// SPDX-License-Identifier: GPL-2.0-only
//! One CPU and the task that runs on it.
//!
//! Duplicated: the nesting of local_irq_save(); the scope flag
//! PF_MEMALLOC_PIN. Customised: a pending fatal signal appears only when it
//! is injected, or when an op has used up its budget of steps, so that a
//! call that would never end is ended the way the kernel would end it.

use core::cell::{Cell, Ref, RefCell};
use core::fmt;

use super::mm::MmId;
use super::page::Page;
use super::wait::Wait;
use super::world::World;
pub(crate) use crate::atomic::Hold;
use crate::atomic::{Locks, RawLock};
use crate::history::{Base, Defect, Kernel, Safeguard};
use crate::splat::{Splat, SplatKind};
use crate::step::{Step, StepKind};
use crate::sync::yield_now;

/// Steps an op may take before it is killed. The longest op of a healthy
/// kernel takes under 6,000.
pub const STEP_BUDGET: u32 = 60_000;

/// What can be made to fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum FailSite {
    /// The allocation of a page or a page table.
    Alloc,
    /// isolate_lru_page().
    Isolate,
    /// The migration of one page.
    Migrate,
    /// arch_make_page_accessible().
    Arch,
    /// handle_mm_fault() answers VM_FAULT_RETRY.
    Retry,
    /// A fatal signal is pending, or comes while mmap_lock is waited for.
    Signal,
    /// handle_mm_fault() answers VM_FAULT_COMPLETED, where the base has it.
    Completed,
}

impl FailSite {
    /// Every site.
    pub const ALL: &'static [FailSite] = &[
        FailSite::Alloc,
        FailSite::Isolate,
        FailSite::Migrate,
        FailSite::Arch,
        FailSite::Retry,
        FailSite::Signal,
        FailSite::Completed,
    ];
    /// Its name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            FailSite::Alloc => "alloc",
            FailSite::Isolate => "isolate",
            FailSite::Migrate => "migrate",
            FailSite::Arch => "arch",
            FailSite::Retry => "retry",
            FailSite::Signal => "signal",
            FailSite::Completed => "completed",
        }
    }
}

/// "The `nth` time this op comes to `site`, fail."
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Fail {
    /// Where.
    pub site: FailSite,
    /// Which time, from 1.
    pub nth: u8,
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "fail {} {}", self.site.name(), self.nth)
    }
}

bitflags::bitflags! {
    /// What happened during an op that its result may be explained by.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Event: u32 {
        /// An allocation failed, injected or not.
        const ALLOC_FAILED = 1 << 0;
        /// A page could not be isolated.
        const ISOLATE_FAILED = 1 << 1;
        /// A page could not be migrated.
        const MIGRATE_FAILED = 1 << 2;
        /// arch_make_page_accessible() failed.
        const ARCH_FAILED = 1 << 3;
        /// A fault asked for a retry.
        const RETRIED = 1 << 4;
        /// A fatal signal was seen.
        const SIGNALLED = 1 << 5;
        /// The op ran out of its budget of steps.
        const OUT_OF_BUDGET = 1 << 6;
        /// A migration was made to fail.
        const MIGRATE_INJECTED = 1 << 7;
    }

    /// Task flags. C: PF_*, linux/sched.h
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct TaskFlags: u32 {
        /// Allocations must not use memory that has to stay movable.
        const MEMALLOC_PIN = 1 << 0;
    }
}

bitflags::bitflags! {
    /// Who is told of each step.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    struct Observers: u8 {
        const RECORD = 1 << 0;
        const WATCH = 1 << 1;
    }
}

/// Is told of each step of a CPU before it is taken, and may let another CPU
/// run then.
pub trait Watch {
    /// `cpu` is about to take `step`.
    fn before(&self, cpu: &Cpu, step: &Step);
    /// A CPU waits for another, which may go on.
    fn waits(&self) {
        yield_now();
    }
}

impl fmt::Debug for dyn Watch + '_ {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// A CPU with its current task.
#[derive(Debug)]
pub struct Cpu<'w> {
    /// The shared state.
    pub world: &'w World,
    /// The kernel it runs.
    pub kernel: Kernel,
    /// Its number: which LRU batch it fills.
    pub id: Cell<u8>,
    mm: Cell<MmId>,
    pub(crate) flags: Cell<TaskFlags>,
    pub(crate) irqs_off: Cell<u32>,
    pub(crate) locks: Locks<'w>,
    /// Page-table locks held, by table.
    pub(crate) held: Cell<u128>,
    /// mmap_locks held, by mm.
    pub(crate) mmap_held: Cell<u32>,
    fail: Cell<Option<Fail>>,
    events: Cell<Event>,
    touched: Cell<u128>,
    steps: Cell<u32>,
    observers: Cell<Observers>,
    watch: Option<&'w dyn Watch>,
    /// No other CPU runs while this one does, so that it never waits.
    alone: bool,
    wait: Cell<Option<Wait>>,
    record: RefCell<Vec<Step>>,
    splats: RefCell<Vec<Splat>>,
}

impl<'w> Cpu<'w> {
    /// CPU `id` of `world`, running in mm 0 on `kernel`.
    pub fn new(world: &'w World, kernel: Kernel, id: u8) -> Self {
        Cpu {
            world,
            kernel,
            id: Cell::new(id),
            mm: Cell::new(MmId(0)),
            flags: Cell::new(TaskFlags::empty()),
            irqs_off: Cell::new(0),
            locks: Locks::new(),
            held: Cell::new(0),
            mmap_held: Cell::new(0),
            fail: Cell::new(None),
            events: Cell::new(Event::empty()),
            touched: Cell::new(0),
            steps: Cell::new(0),
            observers: Cell::new(Observers::empty()),
            watch: None,
            alone: false,
            wait: Cell::new(None),
            record: RefCell::new(Vec::new()),
            splats: RefCell::new(Vec::new()),
        }
    }

    /// A CPU beside which no other runs: what it would have to wait for never
    /// comes. It notes the [`Wait`] and goes on as if it had come.
    pub fn alone(world: &'w World, kernel: Kernel, id: u8) -> Self {
        Cpu { alone: true, ..Cpu::new(world, kernel, id) }
    }

    /// Another CPU of `outer`'s machine, in `world`: an op runs on it from
    /// beginning to end while `outer` is about to take a step.
    pub fn beside(outer: &Cpu, world: &'w World) -> Self {
        let id = (outer.id.get() + 1) % world.limits.cpus.max(1);
        Cpu::alone(world, outer.kernel, id)
    }

    /// Its steps are watched, while [`Cpu::watch_steps`] says so.
    #[must_use]
    pub fn watched_by(self, watch: &'w dyn Watch) -> Self {
        Cpu { watch: Some(watch), ..self }
    }

    /// Whether the watch is told of the steps from now on.
    pub fn watch_steps(&self, on: bool) {
        self.observe(Observers::WATCH, on);
    }

    /// Whether the kernel it runs has the defect.
    #[inline]
    pub fn has(&self, d: Defect) -> bool {
        self.kernel.has(d)
    }

    /// Whether the safeguard is left out of the kernel it runs.
    #[inline]
    pub fn lacks(&self, s: Safeguard) -> bool {
        self.kernel.lacks(s)
    }

    /// Whether the base of the kernel it runs is `base` or a later one.
    #[inline]
    pub fn since(&self, base: Base) -> bool {
        self.kernel.base() >= base
    }

    /// Starts an op of the task of `mm`: a fresh budget, `fail` armed,
    /// nothing touched, no events. Splats and recorded steps are dropped.
    pub fn begin_op(&self, mm: MmId, fail: Option<Fail>) {
        self.mm.set(mm);
        self.fail.set(fail);
        self.events.set(Event::empty());
        self.touched.set(0);
        self.steps.set(0);
        self.wait.set(None);
        self.record.borrow_mut().clear();
        self.splats.borrow_mut().clear();
    }

    /// From now on `fail` is what fails, in place of what was armed before.
    pub fn arm(&self, fail: Fail) {
        self.fail.set(Some(fail));
    }

    /// The current task's mm. C: current->mm
    #[inline]
    pub fn current_mm(&self) -> MmId {
        self.mm.get()
    }

    /// Keep the steps of the ops that follow, or stop keeping them.
    pub fn record_steps(&self, on: bool) {
        self.observe(Observers::RECORD, on);
    }

    /// Whether steps are kept.
    pub fn records_steps(&self) -> bool {
        self.observers.get().contains(Observers::RECORD)
    }

    fn observe(&self, who: Observers, on: bool) {
        let mut observers = self.observers.get();
        observers.set(who, on);
        self.observers.set(observers);
    }

    /// The steps recorded since [`Cpu::begin_op`].
    pub fn recorded_steps(&self) -> Ref<'_, [Step]> {
        Ref::map(self.record.borrow(), Vec::as_slice)
    }

    /// How many steps the op has taken.
    pub fn steps_taken(&self) -> u32 {
        self.steps.get()
    }

    /// What happened during the op.
    pub fn events(&self) -> Event {
        self.events.get()
    }

    /// Whether the armed failure has not been reached.
    pub fn fail_pending(&self) -> bool {
        self.fail.get().is_some()
    }

    /// The frames whose counters the op changed or read for a reference, one
    /// bit each.
    pub fn touched(&self) -> u128 {
        self.touched.get()
    }

    /// The splats of the op so far.
    pub fn splats(&self) -> Vec<Splat> {
        self.splats.borrow().clone()
    }

    /// Whether the op has caused a splat.
    pub fn has_splat(&self) -> bool {
        !self.splats.borrow().is_empty()
    }

    /// One access to shared state is about to happen.
    #[inline]
    pub(crate) fn step(&self, kind: StepKind, object: u32, arg: i64) {
        if !self.observers.get().is_empty() {
            self.show(Step { kind, object, arg });
        }
        self.steps.set(self.steps.get() + 1);
    }

    #[cold]
    fn show(&self, step: Step) {
        let observers = self.observers.get();
        if let Some(watch) = self.watch.filter(|_| observers.contains(Observers::WATCH)) {
            watch.before(self, &step);
        }
        if observers.contains(Observers::RECORD) {
            self.record.borrow_mut().push(step);
        }
    }

    /// What the op would have had to wait for, first of all.
    pub fn waits_for(&self) -> Option<Wait> {
        self.wait.get()
    }

    /// Something must be waited for. Where that never comes it is noted, and
    /// the answer is true: go on without.
    pub(crate) fn goes_on_without(&self, what: Wait) -> bool {
        if self.alone && self.wait.get().is_none() {
            self.wait.set(Some(what));
        }
        self.alone
    }

    /// Takes a lock.
    pub(crate) fn take(&self, lock: &'w RawLock, how: Hold, what: Wait) {
        while !self.locks.try_lock(lock, how) && !self.goes_on_without(what) {
            self.waits();
        }
    }

    /// Lets others go on, for one of which it waits.
    pub(crate) fn waits(&self) {
        match self.watch {
            Some(watch) => watch.waits(),
            None => yield_now(),
        }
    }

    /// Releases what [`Cpu::take`] took.
    pub(crate) fn release(&self, lock: &'w RawLock, how: Hold) {
        self.locks.unlock(lock, how);
    }

    #[inline]
    pub(crate) fn touch(&self, page: Page) {
        self.touched.set(self.touched.get() | page.bit());
    }

    /// Counts what another CPU touched in the middle of this one's op as
    /// touched by the op.
    pub fn touch_also(&self, frames: u128) {
        self.touched.set(self.touched.get() | frames);
    }

    pub(crate) fn event(&self, e: Event) {
        self.events.set(self.events.get() | e);
    }

    /// Whether this visit of `site` is the one that shall fail.
    #[inline]
    pub(crate) fn should_fail(&self, site: FailSite) -> bool {
        match self.fail.get() {
            Some(f) if f.site == site => self.count_down(f),
            _ => false,
        }
    }

    fn count_down(&self, f: Fail) -> bool {
        let fires = f.nth <= 1;
        self.fail.set((!fires).then_some(Fail { nth: f.nth.wrapping_sub(1), ..f }));
        fires
    }

    /// C: fatal_signal_pending(current), linux/sched/signal.h
    pub fn fatal_signal_pending(&self) -> bool {
        self.step(StepKind::Signal, 0, 0);
        if self.should_fail(FailSite::Signal) {
            self.event(Event::SIGNALLED);
        }
        if self.steps.get() > STEP_BUDGET {
            self.event(Event::SIGNALLED | Event::OUT_OF_BUDGET);
        }
        // SIGKILL stays pending.
        self.events.get().contains(Event::SIGNALLED)
    }

    fn splat(&self, kind: SplatKind, function: &'static str, what: &'static str) {
        let step = self.steps.get();
        self.splats.borrow_mut().push(Splat { kind, function, what, step });
    }

    /// Records a warning if `cond`; returns `cond`.
    /// C: WARN_ON_ONCE(), asm-generic/bug.h; here every time counts.
    #[inline]
    pub fn warn_on(&self, cond: bool, function: &'static str, what: &'static str) -> bool {
        if cond {
            self.splat(SplatKind::Warn, function, what);
        }
        cond
    }

    /// Records a bug if `cond`; returns `cond`. C: BUG_ON(), VM_BUG_ON()
    #[inline]
    pub fn bug_on(&self, cond: bool, function: &'static str, what: &'static str) -> bool {
        if cond {
            self.splat(SplatKind::Bug, function, what);
        }
        cond
    }

    /// Whether the CPU cannot sleep now. C: in_atomic() || irqs_disabled()
    pub fn in_atomic(&self) -> bool {
        self.held.get() != 0 || self.irqs_off.get() != 0
    }

    /// C: irqs_disabled(), linux/irqflags.h
    pub fn irqs_disabled(&self) -> bool {
        self.irqs_off.get() != 0
    }

    /// There are no other signals than fatal ones.
    /// C: signal_pending(current), linux/sched/signal.h
    pub fn signal_pending(&self) -> bool {
        self.fatal_signal_pending()
    }

    /// Disables interrupts; returns what to give back.
    /// C: local_irq_save(), linux/irqflags.h
    pub fn local_irq_save(&self) -> u32 {
        self.step(StepKind::IrqSave, 0, 0);
        let flags = self.irqs_off.get();
        if flags == 0 {
            self.world.irqs_off.save(self.id.get(), &self.locks);
        }
        self.irqs_off.set(flags + 1);
        flags
    }

    /// C: local_irq_restore(), linux/irqflags.h
    pub fn local_irq_restore(&self, flags: u32) {
        self.step(StepKind::IrqRestore, 0, 0);
        self.irqs_off.set(flags);
        if flags == 0 {
            self.world.irqs_off.restore(self.id.get(), &self.locks);
        }
    }

    /// C: memalloc_pin_save(), linux/sched/mm.h
    pub fn memalloc_pin_save(&self) -> TaskFlags {
        let old = self.flags.get() & TaskFlags::MEMALLOC_PIN;
        self.flags.set(self.flags.get() | TaskFlags::MEMALLOC_PIN);
        old
    }

    /// C: memalloc_pin_restore(), linux/sched/mm.h
    pub fn memalloc_pin_restore(&self, old: TaskFlags) {
        self.flags.set((self.flags.get() - TaskFlags::MEMALLOC_PIN) | old);
    }

    /// What an op must not leave behind on its CPU, in words; `None` if it
    /// left nothing.
    pub fn left_behind(&self) -> Option<&'static str> {
        if self.held.get() != 0 {
            Some("a page-table lock is still held")
        } else if self.irqs_off.get() != 0 {
            Some("interrupts are still off")
        } else if !self.flags.get().is_empty() {
            Some("PF_MEMALLOC_PIN is still set")
        } else {
            None
        }
    }
}
