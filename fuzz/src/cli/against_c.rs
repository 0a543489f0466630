// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup against-c`: the port beside the mm/gup.c that it follows.

use std::path::PathBuf;

use clap::Args;

#[cfg(not(feature = "real-gup"))]
use super::Outcome;

/// Compares the port with the C, step by step.
#[derive(Args, Debug)]
#[command(after_help = "\
After every op both must have the same result, the same world and the same
sequence of steps. The text is that of the tree in LINUX, or of the package
linux-source-6.12. Where they part, the scenario is made small and the steps
are printed side by side, with the line of the C.

Examples:
  cargo gup against-c
  cargo gup against-c --ops 100000000
  cargo gup against-c --coverage
  LINUX=~/linux cargo gup against-c gup-out/finding-1/reproducer.gup")]
pub struct AgainstC {
    /// Compare these reproducers instead of random scenarios
    files: Vec<PathBuf>,
    /// Ops to run, in all threads
    #[arg(long, default_value_t = 1_000_000)]
    ops: u64,
    /// Threads [default: all cores]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=1024))]
    jobs: Option<u16>,
    /// Where the random numbers begin
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print which lines and branches of the C that and the tests come to;
    /// it needs gcov
    #[arg(long, conflicts_with_all = ["files", "jobs", "seed"])]
    coverage: bool,
}

impl AgainstC {
    /// Whether this build can do it: the C has to be compiled in, or is
    /// compiled anew.
    pub(super) fn needs_c(&self) -> bool {
        !self.coverage
    }
}

#[cfg(not(feature = "real-gup"))]
impl AgainstC {
    pub(super) fn run(self) -> Outcome {
        let AgainstC { files, ops, jobs, seed, coverage } = self;
        if coverage {
            return super::coverage::measure(ops);
        }
        // The front end starts another build; see in_build_with_c().
        let message = format!("built without the C: {files:?} {ops} {jobs:?} {seed}");
        Err(super::Failure::new(message, "cargo gup against-c"))
    }
}

#[cfg(feature = "real-gup")]
mod with_c {
    use std::fmt::Write;
    use std::sync::mpsc::{Sender, channel};
    use std::thread;
    use std::time::{Duration, Instant};

    use super::AgainstC;
    use crate::cli::progress::Progress;
    use crate::cli::replay::read;
    use crate::cli::{Failure, Outcome, Verdict, thousands};
    use crate::exec::against::{Alike, Difference, OpsRun};
    use crate::generators::Generator;
    use crate::real::{PortAgainstC, against_c, base, differences, explain, kernel};
    use crate::repro::report::wrap;
    use crate::scenario::{MAX_OPS, Op, Scenario};

    /// A worker tells of so many ops at once.
    const AT_ONCE: u64 = 1000;

    /// What workers tell.
    enum Event {
        /// So many ops were compared.
        Ops(u64),
        /// Port and C part there.
        Differs(String),
    }

    impl AgainstC {
        pub(in crate::cli) fn run(self) -> Outcome {
            if self.coverage {
                return crate::cli::coverage::measure(self.ops);
            }
            let text = real_gup::text();
            println!("mm/gup.c of {}, {}", text.release, text.path);
            println!("beside the port of {}", kernel());
            let start = Instant::now();
            let (told, ops) = if self.files.is_empty() { self.random() } else { self.replay()? };
            let seconds = start.elapsed().as_secs_f64();
            let rate = thousands((ops.compared() as f64 / seconds.max(0.001)) as u64);
            println!("{} ops in {seconds:.1} s, {rate} a second", thousands(ops.compared()));
            let known = if text.known { "known text" } else { "new text" };
            match told {
                None => println!("{known}: conforms"),
                Some(told) => {
                    println!("{known}: differs\n\n{told}");
                    // A text that no port claims to follow may differ.
                    if text.known {
                        return Ok(Verdict::Violated);
                    }
                }
            }
            if !differences().is_empty() {
                print!("{}", otherwise(differences(), ops));
            }
            Ok(Verdict::Held)
        }

        fn replay(&self) -> Result<(Option<String>, OpsRun), Failure> {
            let mut against = against_c();
            for file in &self.files {
                if let Some(told) = compare(&mut against, &read(file, None)?.ops()) {
                    return Ok((Some(told), against.ops_run()));
                }
            }
            Ok((None, against.ops_run()))
        }

        fn line(&self, done: u64, at: Duration) -> String {
            let rate = done as f64 / at.as_secs_f64().max(0.001);
            let rate = thousands(rate as u64);
            format!("{} of {} ops, {rate} a second", thousands(done), thousands(self.ops))
        }

        /// Random scenarios, until one differs or the ops are run.
        fn random(&self) -> (Option<String>, OpsRun) {
            let cores = || thread::available_parallelism().map_or(1, usize::from) as u64;
            let jobs = self.jobs.map_or_else(cores, u64::from);
            let (send, events) = channel();
            let (mut done, mut told, mut progress) = (0, None, Progress::new());
            let ops = thread::scope(|scope| {
                let work = (0..jobs).map(|n| {
                    let (send, seed, ops) = (send.clone(), self.seed + n, self.ops / jobs);
                    scope.spawn(move || worker(seed, ops, &send))
                });
                let work: Vec<_> = work.collect();
                drop(send);
                for event in events {
                    match event {
                        Event::Ops(n) => done += n,
                        Event::Differs(text) => drop(told.get_or_insert(text)),
                    }
                    progress.show(|at| self.line(done, at));
                }
                progress.finish();
                work.into_iter().map(|w| w.join().unwrap_or_default()).sum()
            });
            (told, ops)
        }
    }

    /// What the text is known to do otherwise, and how much was compared.
    fn otherwise(differences: &[Difference], ops: OpsRun) -> String {
        let mut out = String::from("\nOf these ops the same was\n");
        for (n, what) in [
            (ops.steps, "every step"),
            (ops.effects, "every step but mere reads, the result and the world"),
            (ops.world, "the result and the world"),
            (ops.left_out, "not compared, these were left out"),
        ] {
            let _ = writeln!(out, "{:>14}  {what}", thousands(n));
        }
        out.push_str("\nThe base does otherwise than the text\n");
        for d in differences {
            let left = match d.alike {
                Some(Alike::Steps) => "every step",
                Some(Alike::Effects) => "all but reads",
                Some(Alike::World) => "result and world",
                None => "left out",
            };
            let _ = writeln!(out, "  since {}; compared: {left}", d.since);
            out.push_str(&wrap(d.what, "    ", "    "));
        }
        out
    }

    fn compare(against: &mut PortAgainstC, ops: &[Op]) -> Option<String> {
        against.run(ops)?;
        explain(against, ops)
    }

    /// Half of the scenarios have windows; half are earlier ones changed.
    fn worker(seed: u64, ops: u64, tell: &Sender<Event>) -> OpsRun {
        let mut against = against_c();
        let mut generator = Generator::new(seed, base());
        let (mut scenario, mut n) = (Scenario::default(), 0u64);
        let mut told = 0;
        while against.ops_run().compared() < ops {
            n += 1;
            match n % 8 {
                0 | 4 => generator.scenario(&mut scenario),
                1 | 5 => generator.mutate(&mut scenario),
                2 => generator.race(&mut scenario),
                6 => generator.mutate_race(&mut scenario),
                _ => generator.aim(&mut scenario, against.raced()),
            }
            scenario.ops.truncate(MAX_OPS);
            if let Some(text) = compare(&mut against, &scenario.ops) {
                // Who listens does so until the last worker is done.
                tell.send(Event::Differs(text)).ok();
                break;
            }
            let untold = against.ops_run().compared() - told;
            if untold >= AT_ONCE {
                tell.send(Event::Ops(untold)).ok();
                told += untold;
            }
        }
        against.ops_run()
    }
}
