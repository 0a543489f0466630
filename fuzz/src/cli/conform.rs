// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup conform`: random scenarios on the model and on a real kernel.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Args;
use gup_core::flags::Foll;
use gup_core::history::Kernel;

use super::confirm::{OnKernel, beside};
use super::progress::Progress;
use super::{Failure, Outcome, Verdict, quoted, thousands};
use crate::exec::{Finding, State};
use crate::generators::Generator;
use crate::on_kernel::compare::{Difference, compare, model};
use crate::on_kernel::express::{Version, not_expressible, not_expressible_in, scale};
use crate::on_kernel::freedom;
use crate::on_kernel::machine::Guest;
use crate::repro::minimise::minimise;
use crate::repro::report::{kernel_text, wrap};
use crate::repro::{Line, Reproducer};
use crate::scenario::{Op, Scenario, What};

/// The longest that one divergence is minimised.
const MINIMISING: Duration = Duration::from_secs(60);

/// Runs random scenarios on the model and on a real kernel, and compares.
#[derive(Args, Debug)]
#[command(after_help = "\
Ops that a guest cannot express are left out. What differs is minimised by
running it again, and kept in a file for each kind. Exit status 1: something
differs that no listed freedom of the kernel explains.

Examples:
  cargo gup conform --scenarios 10000
  cargo gup conform --scenarios 2000 --kernel-image 6.1 --seed 7")]
pub struct Conform {
    /// How many scenarios
    #[arg(long, default_value_t = 1000)]
    scenarios: u64,
    /// The same seed draws the same scenarios
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The model's kernel [default: the base nearest to the guest's]
    #[arg(long)]
    kernel: Option<Kernel>,
    /// Where divergences are written
    #[arg(long, default_value = "gup-out", value_name = "FOLDER")]
    out: PathBuf,
    #[command(flatten)]
    machine: OnKernel,
}

/// Differences of one kind.
struct Group {
    count: u64,
    first: u64,
    what: Difference,
    ops: Vec<Op>,
    file: Option<PathBuf>,
}

/// The kind of a difference: what differs, and after which op.
type Key = (String, &'static str);

/// Both sides.
struct Both {
    kernel: Kernel,
    version: Version,
    guest: Guest,
    /// What the guest did apart from scenarios that are counted.
    minimising: Duration,
}

/// What came of a scenario.
enum Judged {
    Equal,
    /// What differs is the kernel's choice: this one.
    Free(&'static str),
    /// What differs first.
    Differ(Difference),
}

/// How it stands.
#[derive(Default)]
struct Tally {
    equal: u64,
    ops: u64,
    free: BTreeMap<&'static str, u64>,
    groups: BTreeMap<Key, Group>,
}

impl Tally {
    fn line(&self, done: u64, of: u64, at: Duration) -> String {
        let rate = done as f64 / at.as_secs_f64().max(0.001);
        let differ: u64 = self.groups.values().map(|g| g.count).sum();
        format!(
            "{} of {} scenarios, {rate:.1} a second, {} equal, {} free to differ, {differ} differ",
            thousands(done),
            thousands(of),
            thousands(self.equal),
            thousands(self.free.values().sum()),
        )
    }
}

impl Conform {
    pub(super) fn run(self) -> Outcome {
        let start = Instant::now();
        let (guest, version) = self.machine.guest(true)?;
        if let Some(why) = guest.no_module() {
            return Err(why.clone());
        }
        let kernel = self.kernel.unwrap_or_else(|| beside(version));
        let mut both = Both { kernel, version, guest, minimising: Duration::ZERO };
        let ready = start.elapsed();
        let mut generator = Generator::new(self.seed, kernel.base());
        let mut scenario = Scenario::default();
        let mut tally = Tally::default();
        let mut progress = Progress::new();
        for n in 0..self.scenarios {
            generator.scenario(&mut scenario);
            let ops = fit_for_a_guest(kernel, expressible(&scenario.ops, version));
            self.one(n, &ops, &mut both, &mut tally)?;
            progress.show(|at| tally.line(n + 1, self.scenarios, at));
        }
        progress.finish();
        self.print(&both, &tally, ready, start.elapsed());
        Ok(if tally.groups.is_empty() { Verdict::Held } else { Verdict::Violated })
    }

    /// Runs one scenario on both sides and books what came of it.
    fn one(&self, n: u64, ops: &[Op], both: &mut Both, tally: &mut Tally) -> Result<(), Failure> {
        tally.ops += ops.len() as u64;
        let difference = match both.judge(ops)? {
            Judged::Equal => {
                tally.equal += 1;
                return Ok(());
            }
            Judged::Free(freedom) => {
                *tally.free.entry(freedom).or_default() += 1;
                return Ok(());
            }
            Judged::Differ(difference) => difference,
        };
        let key = key(ops, &difference);
        if let Some(group) = tally.groups.get_mut(&key) {
            group.count += 1;
            return Ok(());
        }
        let start = Instant::now();
        let (ops, what) = both.minimised(ops, difference, &key)?;
        both.minimising += start.elapsed();
        let file = self.out.join(format!("conform-{}.gup", tally.groups.len() + 1));
        let mut group = Group { count: 1, first: n, what, ops, file: None };
        self.write(&file, both, &group)?;
        group.file = Some(file);
        tally.groups.insert(key, group);
        Ok(())
    }

    fn write(&self, file: &PathBuf, both: &Both, group: &Group) -> Result<(), Failure> {
        let text = reproducer(both, group).to_string();
        fs::create_dir_all(&self.out)
            .and_then(|()| fs::write(file, text))
            .map_err(|e| Failure::new(format!("{}: {e}", file.display()), "ls -ld gup-out"))
    }

    fn print(&self, both: &Both, tally: &Tally, ready: Duration, total: Duration) {
        let (boots, booting) = both.guest.boots();
        let running = (total - ready - both.minimising).as_secs_f64();
        println!(
            "{} scenarios, {} ops, on {} and on the model of {}",
            thousands(self.scenarios),
            thousands(tally.ops),
            both.guest.release(),
            kernel_text(both.kernel)
        );
        println!("  {:>8} equal", thousands(tally.equal));
        for (name, count) in &tally.free {
            println!("  {:>8} differ, free to: {name}", thousands(*count));
        }
        let differ: u64 = tally.groups.values().map(|g| g.count).sum();
        println!("  {:>8} differ, {} kinds", thousands(differ), tally.groups.len());
        for ((what, op), g) in &tally.groups {
            println!("\n{} times, first in scenario {}: {what} after {op}", g.count, g.first + 1);
            print!("{}", wrap(&g.what.to_string(), "  ", "    "));
            g.ops.iter().for_each(|op| println!("    {op}"));
            if let Some(file) = &g.file {
                println!("  next: cargo gup confirm {}", quoted(file));
            }
        }
        println!(
            "\n{:.1} s to get ready, {:.1} s for scenarios ({:.1} a second), {:.1} s minimising; \
             {boots} boots, {:.1} s",
            ready.as_secs_f64(),
            running,
            self.scenarios as f64 / running.max(0.001),
            both.minimising.as_secs_f64(),
            booting.as_secs_f64()
        );
    }
}

/// The ops that a guest can express where they come, and of which the model
/// has nothing to warn: a WARN costs a fresh boot.
fn fit_for_a_guest(kernel: Kernel, mut ops: Vec<Op>) -> Vec<Op> {
    loop {
        let trace = model(kernel, &ops);
        let mut before = &State::default();
        let at = trace.lines.iter().position(|line| {
            let unfit = !line.splats.is_empty() || not_expressible_in(&line.op, before).is_some();
            before = &line.state;
            unfit
        });
        let Some(at) = at else { return ops };
        ops.remove(at);
    }
}

/// The ops that a guest can express, without flags that no caller passes.
fn expressible(ops: &[Op], version: Version) -> Vec<Op> {
    let scale = scale(ops);
    let ops = ops.iter().map(|&op| {
        let mut op = Op { fail: None, ..op };
        if let What::Call(c) = &mut op.what {
            c.flags -= Foll::GET | Foll::PIN | Foll::TOUCH;
            if !c.call.pins() {
                c.flags -= Foll::LONGTERM;
            }
        }
        op
    });
    // A warning costs a boot, and this one says the same each time.
    let misuse = |op: &Op| matches!(op.what, What::Unpin(how, _) if how.is_misuse());
    ops.filter(|op| !misuse(op) && not_expressible(op, version, scale).is_none()).collect()
}

fn key(ops: &[Op], d: &Difference) -> Key {
    let what = match d.what {
        // Which answers differ makes the kind.
        "answer" => format!("answer {} for {}", d.kernel, d.model),
        what => what.into(),
    };
    (what, ops.get(d.op).map_or("the tear-down", Op::name))
}

impl Both {
    /// Runs ops on both sides.
    fn judge(&mut self, ops: &[Op]) -> Result<Judged, Failure> {
        let scale = scale(ops);
        let trace = model(self.kernel, ops);
        let run = self.guest.run(ops, scale)?;
        if let Some(trouble) = &run.trouble {
            let (model, kernel) = ("goes on".into(), format!("the guest {}", trouble.name()));
            let (op, slot, what) = (run.ops.len(), None, "trouble");
            return Ok(Judged::Differ(Difference { op, slot, what, model, kernel }));
        }
        let found = compare(self.kernel, &trace, &run, scale);
        Ok(match (freedom::explains(self.version, ops, &trace, &found), found.into_iter().next()) {
            (_, None) => Judged::Equal,
            (Some(freedom), _) => Judged::Free(freedom),
            (None, Some(first)) => Judged::Differ(first),
        })
    }

    /// The first thing that differs, if nothing explains it.
    fn first_difference(&mut self, ops: &[Op]) -> Result<Option<Difference>, Failure> {
        Ok(match self.judge(ops)? {
            Judged::Differ(difference) => Some(difference),
            Judged::Equal | Judged::Free(_) => None,
        })
    }

    /// A smaller scenario with a difference of the same kind. A guest that
    /// dies of it boots anew each time, so those stay as they are.
    fn minimised(
        &mut self,
        ops: &[Op],
        difference: Difference,
        wanted: &Key,
    ) -> Result<(Vec<Op>, Difference), Failure> {
        if difference.what == "trouble" {
            return Ok((ops.to_vec(), difference));
        }
        let (start, mut failure, mut last) = (Instant::now(), None, difference.clone());
        let found = minimise(ops, |ops| {
            if start.elapsed() > MINIMISING || failure.is_some() {
                return None;
            }
            match self.first_difference(ops) {
                Ok(d) => d.filter(|d| key(ops, d) == *wanted).map(|d| {
                    let op = d.op;
                    last = d;
                    as_finding(op)
                }),
                Err(e) => {
                    failure = Some(e);
                    None
                }
            }
        });
        match (failure, found) {
            (Some(e), _) => Err(e),
            (_, Some((small, _))) => {
                let difference = self.first_difference(&small)?.unwrap_or(last);
                Ok((small, difference))
            }
            // It does not happen every time.
            (_, None) => Ok((ops.to_vec(), difference)),
        }
    }
}

/// What the minimiser wants to know. The kind was compared already.
fn as_finding(op: usize) -> Finding {
    let (expected, actual) = (String::new(), String::new());
    Finding { oracle: "conform", function: "conform", op, page: None, expected, actual }
}

fn reproducer(both: &Both, group: &Group) -> Reproducer {
    let mut r = Reproducer::from_ops(both.kernel, &group.ops);
    r.title = format!("the model and {} differ", both.guest.release());
    let text = wrap(&group.what.to_string(), "", "");
    r.story = text.lines().map(Into::into).collect();
    if let Some(line) = r.lines.get_mut(group.what.op) {
        Line::note(line, "here".into());
    }
    r
}
