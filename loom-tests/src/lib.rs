// SPDX-License-Identifier: GPL-2.0-only
//! What every race needs: the wrapper that runs it, and the rules that its
//! world must obey when its threads have ended.
//!
//! A race is a function from a [`Kernel`] to a [`Verdict`]. It builds a small
//! world, lets two or three CPUs loose on it with [`at_once`], and ends with
//! [`Held::adds_up`]. Built with `--cfg loom`, [`model`] runs it in every
//! interleaving, and in every outcome of every unordered load, that its
//! [`Bound`] admits; built without, it runs some thousand rounds on real
//! threads.
//!
//! ```text
//! cargo loom                                    every race, every interleaving
//! cargo test -p loom-tests                      the same bodies on real threads
//! GUP_KERNEL='v5.15 fixed' cargo loom           on another kernel
//! LOOM_MAX_PREEMPTIONS=4 cargo loom             with another bound
//! ```
//!
//! A race that must fail, because its kernel lacks a safeguard, goes through
//! [`must_fail`], which wants to see the right oracle broken.

use std::sync::Arc;

use gup_core::invariants::{Broken, Owned, counts_add_up, nothing_left_behind, pin_statistics};
use gup_core::model::{Cpu, Page, World};
use gup_core::splat::Splat;

pub use engine::{model, must_fail};
pub use gup_core::Kernel;

#[cfg(loom)]
#[path = "loom.rs"]
mod engine;
#[cfg(not(loom))]
#[path = "threads.rs"]
mod engine;

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

/// The kernel that a text names.
///
/// # Panics
/// If it names none.
pub fn kernel(text: &str) -> Kernel {
    text.parse().expect("a kernel that history.rs knows")
}

/// The kernel on which the claims must hold: every fix applied, or what
/// `GUP_KERNEL` names (`cargo gup judge` sets it).
pub fn kernel_under_test() -> Kernel {
    kernel(std::env::var("GUP_KERNEL").as_deref().unwrap_or("v5.15 fixed"))
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
    let jobs = bodies.into_iter().zip(0..).map(|(body, id)| {
        let world = Arc::clone(world);
        move || on_cpu(&Cpu::new(&world, kernel, id), body)
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

/// The file and the test that a closure was written in, as `file::test`.
fn name_of<F>(_: &F) -> &'static str {
    std::any::type_name::<F>().trim_end_matches("::{{closure}}")
}

/// What to say when the race `name` broke a rule: the rule, and the command
/// that runs it again.
fn next_command(name: &str, broken: &Broken) -> String {
    let (file, test) = name.split_once("::").unwrap_or(("*", name));
    let kernel = std::env::var("GUP_KERNEL").map(|k| format!("GUP_KERNEL='{k}' "));
    let flags =
        if cfg!(loom) { "RUSTFLAGS='--cfg loom' CARGO_TARGET_DIR=target-loom " } else { "" };
    let kernel = kernel.unwrap_or_default();
    let test = format!("--test {file} -- --exact {test} --nocapture");
    let command = format!("{kernel}{flags}cargo test --release -p loom-tests {test}");
    format!("{broken}\nrule: {}\nnext: {command}", broken.rule)
}
