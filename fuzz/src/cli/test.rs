// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup test` and `cargo gup loom`: what CI runs.

#[path = "../../real-gup/build/find.rs"]
mod find;

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use clap::Args;

use super::confirm::SERIES;
use super::{Failure, Outcome, Verdict, holes, root};
use crate::on_kernel::parts;

/// Runs everything that CI runs.
#[derive(Args, Debug)]
#[command(after_help = "\
Steps: fmt, clippy, tests, regressions, loom, docs; the port beside the real
mm/gup.c, if its text is there; if QEMU and a kernel's headers are, guests
that misbehave, 100 scenarios on a stock kernel, and the tracked ones with
their C programs. The output of a step is shown if it fails.

Examples:
  cargo gup test
  cargo gup test --no-loom")]
pub struct Test {
    /// Leave the loom tests out
    #[arg(long)]
    no_loom: bool,
}

/// Runs the races under every interleaving, or under random schedules.
#[derive(Args, Debug)]
#[command(after_help = "\
GUP_KERNEL names the kernel on which the claims are checked, instead of the
fixed one of each base. Other arguments go to the test binary.

Examples:
  cargo gup loom
  cargo gup loom fast_get_against_split
  cargo gup loom --unbounded
  cargo gup loom --replay grab_against_split::found_without_an_exact_freeze
  cargo gup loom --shuttle 10000
  cargo gup loom --holes
  GUP_KERNEL='v5.15 fixed without c24d37322548' cargo gup loom")]
pub struct Loom {
    /// Explore every interleaving, however long that takes
    #[arg(long)]
    unbounded: bool,
    /// Print the steps of each CPU, in the order in which they were taken, of
    /// the interleaving that breaks a rule; save it, and next time begin with it
    #[arg(long)]
    replay: bool,
    /// Run N schedules of each race, drawn at random by each of shuttle's two
    /// schedulers, with more CPUs, instead of every interleaving
    #[arg(long, value_name = "N", conflicts_with_all = ["unbounded", "replay"])]
    shuttle: Option<u32>,
    /// Do to each access of the fast path what a mistake might do, and list
    /// what no race notices
    #[arg(long, conflicts_with_all = ["unbounded", "replay", "shuttle"])]
    holes: bool,
    /// Which tests, and other arguments of the test binary
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

/// `cargo` with `args`, in the workspace.
fn cargo(root: &Path, args: &[&str]) -> Command {
    let mut c = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    c.args(args).current_dir(root);
    c
}

/// The loom tests. Their own target folder: the flags differ from those of
/// everything else, and each build would throw the other away.
pub(super) fn loom_command(root: &Path) -> Command {
    let mut c = cargo(root, &["test", "--release", "-p", "loom-tests"]);
    c.args(["--test", "races", "--", "--nocapture", "--test-threads=2"]);
    c.env("RUSTFLAGS", "--cfg loom").env("CARGO_TARGET_DIR", root.join("target-loom"));
    c
}

/// The same tests, built with shuttle.
fn shuttle_command(root: &Path, schedules: u32) -> Command {
    let mut c = cargo(root, &["test", "--release", "-p", "loom-tests", "--features", "shuttle"]);
    c.args(["--test", "races", "--", "--nocapture", "--test-threads=2"]);
    c.env("SHUTTLE_SCHEDULES", schedules.to_string());
    c
}

fn cannot_start(what: &str, e: &std::io::Error) -> Failure {
    Failure::new(format!("cannot start {what}: {e}"), "cargo --version")
}

impl Loom {
    pub(super) fn run(self) -> Outcome {
        let root = root()?;
        if self.holes {
            return holes::run(|| loom_command(&root), &self.args);
        }
        let mut command = match self.shuttle {
            Some(n) => shuttle_command(&root, n),
            None => loom_command(&root),
        };
        for (set, name) in [(self.unbounded, "LOOM_UNBOUNDED"), (self.replay, "LOOM_REPLAY")] {
            if set {
                command.env(name, "1");
            }
        }
        let status = command.args(&self.args).status().map_err(|e| cannot_start("cargo", &e))?;
        Ok(if status.success() { Verdict::Held } else { Verdict::Violated })
    }
}

impl Test {
    pub(super) fn run(self) -> Outcome {
        let root = root()?;
        let mut docs = cargo(&root, &["doc", "--workspace", "--no-deps"]);
        docs.env("RUSTDOCFLAGS", "-D warnings");
        let clippy = ["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"];
        let mut steps = vec![
            ("fmt", cargo(&root, &["fmt", "--all", "--check"])),
            ("clippy", cargo(&root, &clippy)),
            ("tests", cargo(&root, &["test", "--workspace"])),
            ("regressions", cargo(&root, &["test", "-p", "gup-fuzz", "--test", "regressions"])),
        ];
        match find::kernel() {
            Ok(tree) => {
                println!("against_c runs mm/gup.c of {}", tree.display());
                let args = ["test", "-p", "gup-fuzz", "--features", "real-gup"];
                let mut against_c = cargo(&root, &args);
                against_c.args(["--test", "against_c"]);
                steps.push(("against_c", against_c));
            }
            Err(why) => println!("against_c    not run: {why}"),
        }
        if !self.no_loom {
            steps.push(("loom", loom_command(&root)));
        }
        steps.push(("docs", docs));
        let guest = ["test", "--release", "-p", "gup-fuzz", "--test", "guest", "--", "--ignored"];
        let conform = ["gup", "conform", "--scenarios", "100", "--out", "target/conform"];
        let tracked = ["fuzz/regressions", "fuzz/seeds"];
        let confirm = [&["gup", "confirm", "--c", "--brief"][..], &tracked].concat();
        let missing = parts::missing(SERIES);
        if missing.is_none() {
            steps.push(("guest", cargo(&root, &guest)));
            steps.push(("conform", cargo(&root, &conform)));
            steps.push(("confirm", cargo(&root, &confirm)));
        }
        let (mut passed, mut failed) = (0, 0);
        for (name, mut command) in steps {
            let ok = step(name, &mut command)?;
            *(if ok { &mut passed } else { &mut failed }) += 1;
        }
        if let Some(Failure { message, next }) = missing {
            println!("guest        SKIPPED: {message}\nnext: {next}");
        }
        println!("{passed} passed, {failed} failed");
        Ok(if failed == 0 { Verdict::Held } else { Verdict::Violated })
    }
}

/// Runs a step; its output is of interest only if it fails.
fn step(name: &str, command: &mut Command) -> Result<bool, Failure> {
    let start = Instant::now();
    let output = command.output().map_err(|e| cannot_start(name, &e))?;
    let seconds = start.elapsed().as_secs_f64();
    if output.status.success() {
        println!("{name:<12} ok      {seconds:6.1} s");
        return Ok(true);
    }
    println!("{name:<12} FAILED  {seconds:6.1} s");
    print!("{}", String::from_utf8_lossy(&output.stdout));
    eprint!("{}", String::from_utf8_lossy(&output.stderr));
    let args: Vec<_> = command.get_args().map(|a| a.to_string_lossy()).collect();
    let next = if name == "loom" { "gup loom".into() } else { args.join(" ") };
    println!("next: cargo {next}");
    Ok(false)
}
