// SPDX-License-Identifier: GPL-2.0-only
//! What every race needs: the wrapper that runs it, and the rules that its
//! world must obey when its threads have ended.
//!
//! A race is a function from a [`Kernel`] to a [`Verdict`]. It builds a small
//! world, lets two or three CPUs loose on it with [`at_once`], and ends with
//! [`Held::adds_up`]. Built with `--cfg loom`, it runs in every interleaving,
//! and in every outcome of every unordered load, that its [`Bound`] admits;
//! with feature `shuttle`, under schedules drawn at random, with more CPUs that
//! pin and unpin; with neither, some hundred rounds on real threads.
//!
//! ```text
//! cargo loom                                    every race
//! cargo loom fast_pin_against_split             some of them
//! cargo loom --unbounded                        every interleaving of every race
//! cargo loom --replay fast_pin_against_split::found_without_the_head_recheck
//! cargo loom --shuttle 10000                    so many schedules of every race
//! cargo test -p loom-tests                      the same bodies on real threads
//! GUP_KERNEL='v5.15' cargo loom                 the claims on another kernel
//! ```
//!
//! A race makes claims with [`holds!`], on the fixed kernel of each base. What
//! keeps it from failing is shown by twins with [`fails!`]: on a kernel that
//! lacks one safeguard, the right oracle must be broken.

use std::sync::Arc;

use gup_core::invariants::{Broken, Owned, counts_add_up, nothing_left_behind, pin_statistics};
use gup_core::model::limits::MAX_CPUS;
use gup_core::model::{Cpu, Page, World};
use gup_core::splat::Splat;

pub use gup_core::Kernel;
pub use gup_core::history::Base;

pub mod calls;
pub mod rules;

#[cfg(loom)]
#[path = "loom.rs"]
mod engine;
#[cfg(all(not(loom), feature = "shuttle"))]
#[path = "shuttle.rs"]
mod engine;
#[cfg(not(any(loom, feature = "shuttle")))]
#[path = "threads.rs"]
mod engine;
#[cfg(loom)]
mod holes;

/// Whether a race ended as it should.
pub type Verdict = Result<(), Broken>;

/// How much of a race loom explores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bound {
    /// Every interleaving.
    All,
    /// Every interleaving in which at most so many times a CPU is interrupted
    /// at a step after which it could have gone on.
    Preemptions(usize),
}

/// The name of the function that it is used in, as `file::function`.
#[macro_export]
macro_rules! here {
    () => {{
        fn here() {}
        $crate::name_of(here)
    }};
}

/// Claims that a race ends well on the fixed kernel of each base.
///
/// `holds!(Bound::All, [V5_15, V6_12], race)`. If `GUP_KERNEL` names a kernel
/// (`cargo gup judge` sets it), then on that, where its base is listed.
#[macro_export]
macro_rules! holds {
    ($bound:expr, [$($base:ident),+], $race:expr) => {
        $crate::holds($crate::here!(), $bound, &[$($crate::Base::$base),+], $race)
    };
}

/// Claims that a race breaks a rule of one oracle, and none of another before,
/// on the fixed kernel of each base, changed by some words. On real threads no
/// more than that it may break.
///
/// `fails!("accounting", Bound::All, [V5_15], "without c24d37322548", race)`
#[macro_export]
macro_rules! fails {
    ($oracle:literal, $bound:expr, [$($base:ident),+], $change:expr, $race:expr) => {
        $crate::fails(
            $crate::here!(), $oracle, $bound, &[$($crate::Base::$base),+], $change, $race,
        )
    };
}

/// The file and the function that a function was written in.
#[doc(hidden)]
pub fn name_of<F>(_: F) -> &'static str {
    let name = std::any::type_name::<F>().trim_end_matches("::here");
    name.split_once("::").map_or(name, |(_, rest)| rest)
}

/// See [`holds!`].
///
/// # Panics
/// If the race does not end well, with the rule that broke.
pub fn holds(name: &str, bound: Bound, bases: &[Base], race: impl Race) {
    for kernel in bases.iter().filter_map(|&base| kernel_under_test(base)) {
        let text = kernel.to_string();
        if let Err(broken) = engine::explore(name, &text, kernel, bound, race.clone()) {
            panic!("{name} on {text}: {broken}\nrule: {}\n{}", broken.rule, next(name));
        }
    }
}

/// See [`fails!`].
///
/// # Panics
/// If the race ends well in all interleavings, or badly in another way.
pub fn fails(
    name: &str,
    oracle: &str,
    bound: Bound,
    bases: &[Base],
    change: &str,
    race: impl Race,
) {
    for base in bases {
        let text = format!("{} fixed {change}", base.name());
        let kernel = text.parse().expect("a kernel that history.rs knows");
        match engine::explore(name, &text, kernel, bound, race.clone()) {
            Err(broken) => {
                println!("loom: {name} on {text}: found {broken}");
                // Threads take any order, and what breaks last in one may break first
                // in another: only loom always comes to the same one.
                let same = broken.oracle == oracle || cfg!(not(loom));
                assert!(same, "{name} on {text}: not the {oracle} that is claimed: {broken}");
            }
            // Nor can threads promise to come to any.
            Ok(()) if cfg!(not(loom)) => {}
            Ok(()) => panic!("{name} on {text}: nothing went wrong; the race misses its point"),
        }
    }
}

/// A race, as the engines run it.
pub trait Race: Fn(Kernel) -> Verdict + Clone + Send + Sync + 'static {}
impl<F: Fn(Kernel) -> Verdict + Clone + Send + Sync + 'static> Race for F {}

/// The kernel on which a claim about `base` must hold: every fix applied, or
/// what `GUP_KERNEL` names; none if that is of another base.
fn kernel_under_test(base: Base) -> Option<Kernel> {
    match std::env::var("GUP_KERNEL") {
        Ok(text) => {
            let kernel: Kernel = text.parse().expect("a kernel that history.rs knows");
            (kernel.base() == base).then_some(kernel)
        }
        Err(_) => Some(Kernel::fixed(base)),
    }
}

/// The command that runs a race again.
fn next(name: &str) -> String {
    let kernel = std::env::var("GUP_KERNEL").map(|k| format!("GUP_KERNEL='{k}' "));
    let command = if cfg!(loom) { "cargo loom --replay" } else { "cargo test -p loom-tests" };
    format!("next: {}{command} {name}", kernel.unwrap_or_default())
}

/// What the code around the race holds, and what it was told meanwhile.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Held {
    /// Pages pinned, as the calls returned them: once for every pin.
    pub pins: Vec<Page>,
    /// Pages with a plain reference: once for every reference.
    pub gets: Vec<Page>,
    /// What the kernel would have printed.
    pub splats: Vec<Splat>,
    /// The kernel that the race ran on, once it has.
    kernel: Option<Kernel>,
}

impl Held {
    /// Nothing.
    pub fn nothing() -> Self {
        Held::default()
    }
    /// One pin each of `pages`.
    pub fn pins(pages: impl IntoIterator<Item = Page>) -> Self {
        Held { pins: pages.into_iter().collect(), ..Held::default() }
    }
    /// One reference each on `pages`.
    pub fn gets(pages: impl IntoIterator<Item = Page>) -> Self {
        Held { gets: pages.into_iter().collect(), ..Held::default() }
    }
    /// Both together.
    #[must_use]
    pub fn and(mut self, other: Held) -> Self {
        self.pins.extend(other.pins);
        self.gets.extend(other.gets);
        self.splats.extend(other.splats);
        self.kernel = self.kernel.or(other.kernel);
        self
    }

    /// Whether every page carries exactly what is held of it: a pin sits on
    /// the head that the pinned page has now, and on no other page. Then
    /// whether the kernel complained. For what [`at_once`] returned.
    ///
    /// # Errors
    /// The first rule that does not hold.
    ///
    /// # Panics
    /// If no race has run.
    pub fn adds_up(&self, world: &World) -> Verdict {
        let kernel = self.kernel.expect("what at_once() returned");
        let on =
            |list: &[Page], head| list.iter().filter(|&&p| world.head_of(p) == head).count() as i32;
        for head in world.pages().filter(|&p| world.head_of(p) == p) {
            let owned = Owned { gets: on(&self.gets, head), pins: on(&self.pins, head) };
            counts_add_up(world, kernel, head, owned)?;
        }
        pin_statistics(world, self.pins.len() as i64)?;
        let Some(splat) = self.splats.first() else { return Ok(()) };
        let rule = "no WARN or BUG";
        Err(Broken { oracle: "splat", page: None, rule, what: splat.to_string() })
    }
}

/// What one CPU does in a race; it answers with what it holds at the end.
pub type Body = Box<dyn FnOnce(&Cpu) -> Held + Send>;

/// A [`Body`] of a closure.
pub fn body(f: impl FnOnce(&Cpu) -> Held + Send + 'static) -> Body {
    Box::new(f)
}

/// Runs the bodies at the same time, each on a CPU of its own, numbered from
/// 0, and returns what they hold together.
///
/// # Errors
/// If a CPU left a lock or its interrupts in the wrong state.
pub fn at_once(
    world: &Arc<World>,
    kernel: Kernel,
    bodies: impl IntoIterator<Item = Body>,
) -> Result<Held, Broken> {
    let bodies = bodies.into_iter().chain(engine::bystanders(world));
    let jobs = bodies.zip((0..MAX_CPUS as u8).cycle()).map(|(body, id)| {
        let world = Arc::clone(world);
        move || {
            let cpu = Cpu::new(&world, kernel, id).watched_by(&engine::Columns);
            cpu.watch_steps(true);
            on_cpu(&cpu, body)
        }
    });
    let held = engine::run(jobs.collect());
    nothing_left_behind(&Cpu::new(world, kernel, 0))?;
    let start = Held { kernel: Some(kernel), ..Held::nothing() };
    held.into_iter().try_fold(start, |sum, one| Ok(sum.and(one?)))
}

fn on_cpu(cpu: &Cpu, body: Body) -> Result<Held, Broken> {
    let held = body(cpu);
    if let Some(what) = cpu.left_behind() {
        let rule = "an op leaves no lock held";
        return Err(Broken { oracle: "locking", page: None, rule, what: what.into() });
    }
    Ok(held.and(Held { splats: cpu.splats(), ..Held::nothing() }))
}
