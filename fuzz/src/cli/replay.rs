// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup replay`, `minimise` and `report`: one scenario at a time.

use std::fs;
use std::path::{Path, PathBuf};

use clap::Args;
use gup_core::history::Kernel;

use super::engine::Target;
use super::{Failure, Outcome, Verdict, fits, fixed, quoted, quoted_kernel, subject_option};
use crate::exec::{Executor, Finding, Trace};
use crate::repro::c::{NotExpressible, program};
use crate::repro::report::{judge, op_line, page_table, report, subject_text, trace};
use crate::repro::{Reproducer, minimise::minimise, text};
use crate::scenario::{Op, Scenario};

/// Runs scenarios and says what the oracles say.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo gup replay gup-out/finding-1/reproducer.gup
  cargo gup replay --kernel 'v5.15 fixed' --steps finding.gup
  cargo gup replay --target fast_vs_slow fuzz/artifacts/fast_vs_slow/crash-0123")]
pub struct Replay {
    /// Reproducers (.gup), or raw inputs of cargo fuzz
    #[arg(required = true)]
    files: Vec<PathBuf>,
    #[command(flatten)]
    how: How,
    /// Print every access to shared state
    #[arg(long)]
    steps: bool,
}

/// Makes a scenario smaller while the same oracle fires in the same function.
#[derive(Args, Debug)]
#[command(after_help = "\
The smaller scenario goes to the standard output.

Examples:
  cargo gup minimise long.gup > short.gup
  cargo gup minimise --kernel v5.15 fuzz/artifacts/sequence/crash-0123")]
pub struct Minimise {
    /// A reproducer (.gup), or a raw input of cargo fuzz
    file: PathBuf,
    #[command(flatten)]
    how: How,
}

/// Writes a finding as a mail to linux-mm.
#[derive(Args, Debug)]
#[command(after_help = "\
Examples:
  cargo gup report gup-out/finding-1/reproducer.gup
  cargo gup report gup-out/finding-1/reproducer.gup > mail.txt
  cargo gup report gup-out/finding-1/reproducer.gup --c > reproducer.c")]
pub struct Report {
    /// A reproducer (.gup), or a raw input of cargo fuzz
    file: PathBuf,
    /// Write a C program instead, which uses fuzz/on-kernel/module
    #[arg(long)]
    c: bool,
    #[command(flatten)]
    how: How,
}

#[derive(Args, Debug)]
struct How {
    /// The kernel, instead of the one in the file (raw inputs: `v5.15 fixed`)
    #[arg(long)]
    kernel: Option<Kernel>,
    /// How to run it [default: as both, one after the other]
    #[arg(long)]
    target: Option<Target>,
}

impl How {
    fn read(&self, path: &Path) -> Result<Reproducer, Failure> {
        read(path, self.kernel)
    }

    fn judge(&self, exec: &mut Executor, ops: &[Op]) -> Option<Finding> {
        match self.target {
            Some(target) => target.run(exec, ops),
            None => judge(exec, ops),
        }
    }

    fn trace(&self, exec: &mut Executor, ops: &[Op]) -> Trace {
        match self.target {
            Some(target) => target.trace(exec, ops),
            None => trace(exec, ops),
        }
    }
}

/// Reads a file of either kind.
pub(super) fn read(path: &Path, kernel: Option<Kernel>) -> Result<Reproducer, Failure> {
    let shown = path.display();
    let bytes = fs::read(path).map_err(|e| {
        Failure::new(format!("{shown}: {e}"), "ls gup-out/*/reproducer.gup fuzz/artifacts/*")
    })?;
    let mut r = if text::is_text(&bytes) {
        text::parse(&bytes).map_err(|e| {
            let excerpt = e.excerpt(&String::from_utf8_lossy(&bytes));
            let message = format!("{shown}:{}:{}: {}\n{excerpt}", e.line, e.column, e.message);
            Failure::new(message, format!("edit it, then: cargo gup replay {}", quoted(path)))
        })?
    } else {
        Reproducer::from_ops(fixed(), &Scenario::decode(&bytes).ops)
    };
    if r.lines.is_empty() {
        let message = format!("{shown}: no op in it");
        return Err(Failure::new(message, "cargo gup nightly --minutes 1"));
    }
    r.kernel = fits(kernel.unwrap_or(r.kernel))?;
    Ok(r)
}

impl Replay {
    pub(super) fn run(self) -> Outcome {
        let mut verdict = Verdict::Held;
        for file in &self.files {
            if self.replay(file)? {
                verdict = Verdict::Violated;
            }
        }
        Ok(verdict)
    }

    /// Replays one file; says whether an oracle fired.
    fn replay(&self, file: &Path) -> Result<bool, Failure> {
        let r = self.how.read(file)?;
        let trace = self.how.trace(&mut Executor::new(r.kernel), &r.ops());
        println!("{}, on {}\n", file.display(), subject_text(r.kernel));
        print!("{}", page_table(&trace));
        if self.steps {
            print_steps(&trace);
        }
        println!();
        let Some(f) = &trace.finding else {
            println!("holds: no oracle fires");
            if let Some(oracle) = r.oracle.filter(|_| self.how.kernel.is_none()) {
                let file = quoted(file);
                println!("(the file says that {oracle} does; it may have been fixed since)");
                println!("next: cargo gup replay --kernel KERNEL {file}");
            }
            return Ok(false);
        };
        println!("violates {} in {}()", f.oracle, f.function);
        println!("  expected: {}\n  actual:   {}", f.expected, f.actual);
        let kernel = match self.how.kernel {
            Some(k) => format!("--kernel {} ", quoted_kernel(k)),
            None => String::new(),
        };
        println!("next: cargo gup report {}{kernel}{}", subject_option(), quoted(file));
        Ok(true)
    }
}

fn print_steps(trace: &Trace) {
    println!("\nSteps: what is accessed, which, and the amount or new value");
    for (i, line) in trace.lines.iter().enumerate() {
        println!("{}", op_line(i, line));
        line.steps.iter().for_each(|s| println!("     {s}"));
    }
}

/// What a verb says that needs a finding and has none.
fn silent(r: &Reproducer, file: &Path) -> Failure {
    let message = format!("no oracle fires on {}: {}", subject_text(r.kernel), file.display());
    Failure::new(message, format!("cargo gup replay {}", quoted(file)))
}

impl Minimise {
    pub(super) fn run(self) -> Outcome {
        let r = self.how.read(&self.file)?;
        let mut exec = Executor::new(r.kernel);
        let found = minimise(&r.ops(), |ops| self.how.judge(&mut exec, ops));
        let (ops, finding) = found.ok_or_else(|| silent(&r, &self.file))?;
        let trace = self.how.trace(&mut exec, &ops);
        let small =
            Reproducer { story: r.story, ..Reproducer::of(r.kernel, &ops, &trace, &finding) };
        eprintln!("{} ops, from {}", ops.len(), r.lines.len());
        print!("{small}");
        Ok(Verdict::Held)
    }
}

impl Report {
    pub(super) fn run(self) -> Outcome {
        let r = self.how.read(&self.file)?;
        if self.c {
            let program = program(&r).map_err(|NotExpressible(op, why)| {
                let message = format!("not expressible in C: op {}: {why}", op + 1);
                Failure::new(message, format!("cargo gup report {}", quoted(&self.file)))
            })?;
            print!("{}", program.text);
            return Ok(Verdict::Held);
        }
        let mail = report(&r).map_err(|_| silent(&r, &self.file))?;
        print!("{mail}");
        Ok(Verdict::Held)
    }
}
