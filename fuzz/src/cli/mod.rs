// SPDX-License-Identifier: GPL-2.0-only
//! The verbs of `cargo gup`.
//!
//! Every verb ends in a [`Verdict`] or a [`Failure`]; exit codes follow from
//! that: 0 held, 1 a violation, 2 it could not be done. What fails says what
//! to type next.

mod against_c;
mod confirm;
mod conform;
mod coverage;
pub mod engine;
pub(crate) mod folder;
mod holes;
mod judge;
mod kernels;
mod nightly;
mod progress;
mod replay;
mod test;

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Parser, Subcommand};
use gup_core::history::{Base, Kernel};

use crate::repro::report::kernel_text;
use crate::subject::Chosen;

/// What a verb found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Nothing was found.
    Held,
    /// Something was.
    Violated,
}

/// Why a verb could not be done, and what to type next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// What went wrong.
    pub message: String,
    /// A command.
    pub next: String,
}

impl Failure {
    pub(crate) fn new(message: impl fmt::Display, next: impl Into<String>) -> Self {
        Failure { message: message.to_string(), next: next.into() }
    }
}

type Outcome = Result<Verdict, Failure>;

#[derive(Parser, Debug)]
#[command(name = "cargo gup", bin_name = "cargo gup", version, max_term_width = 80)]
/// Finds bugs in the pin logic of Linux mm/gup.c.
///
/// Exit status: 0 held, 1 a violation was found, 2 it could not be done.
#[command(after_help = "\
The two commands to begin with:
  cargo gup nightly --kernel v5.15 --minutes 1
  cargo gup report gup-out/finding-1/reproducer.gup")]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
    /// What runs in the model
    #[arg(long, global = true, value_enum, default_value_t)]
    subject: Chosen,
}

#[derive(Subcommand, Debug)]
enum Verb {
    Nightly(nightly::Nightly),
    Replay(replay::Replay),
    Minimise(replay::Minimise),
    Report(replay::Report),
    Confirm(confirm::Confirm),
    Conform(conform::Conform),
    AgainstC(against_c::AgainstC),
    Judge(judge::Judge),
    Seeds(judge::Seeds),
    Kernels(kernels::Kernels),
    Test(test::Test),
    Loom(test::Loom),
}

/// What the shell says of a program that SIGPIPE ended.
const CLOSED_PIPE: i32 = 128 + 13;

/// Ends quietly if whoever reads our output (`| head`) has read enough: the
/// standard library ignores SIGPIPE and panics instead.
fn end_quietly_on_a_closed_pipe() {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let text = info.payload().downcast_ref::<String>();
        if text.is_some_and(|t| t.starts_with("failed printing to stdout")) {
            std::process::exit(CLOSED_PIPE);
        }
        hook(info);
    }));
}

/// Runs the command line.
pub fn main() -> ExitCode {
    end_quietly_on_a_closed_pipe();
    // clap itself ends with 2 on what it cannot parse.
    let cli = Cli::parse();
    let needs_c = matches!(&cli.verb, Verb::AgainstC(v) if v.needs_c());
    if !cli.subject.is_built() || (needs_c && !Chosen::C.is_built()) {
        return in_build_with_c();
    }
    cli.subject.choose();
    let outcome = match cli.verb {
        Verb::Nightly(v) => v.run(),
        Verb::Replay(v) => v.run(),
        Verb::Minimise(v) => v.run(),
        Verb::Report(v) => v.run(),
        Verb::Confirm(v) => v.run(),
        Verb::Conform(v) => v.run(),
        Verb::AgainstC(v) => v.run(),
        Verb::Judge(v) => v.run(),
        Verb::Seeds(v) => v.run(),
        Verb::Kernels(v) => v.run(),
        Verb::Test(v) => v.run(),
        Verb::Loom(v) => v.run(),
    };
    match outcome {
        Ok(Verdict::Held) => ExitCode::SUCCESS,
        Ok(Verdict::Violated) => ExitCode::from(1),
        Err(failure) => failed(&failure),
    }
}

/// Runs this command line again in a build that has the C compiled in, which
/// needs a kernel tree.
fn in_build_with_c() -> ExitCode {
    let run = || -> Result<i32, Failure> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["run", "--quiet", "--release", "--package", "gup-fuzz"]);
        cargo.args(["--features", "real-gup", "--bin", "gup", "--manifest-path"]);
        cargo.arg(root()?.join("Cargo.toml")).arg("--").args(std::env::args_os().skip(1));
        let status = cargo
            .status()
            .map_err(|e| Failure::new(format!("cannot start cargo: {e}"), "cargo --version"))?;
        // 101: cargo could not build it, and has said why.
        match status.code() {
            Some(101) | None => {
                let next = "apt-get install linux-source-6.12, or set LINUX=DIR";
                Err(Failure::new("there is no mm/gup.c to run", next))
            }
            Some(code) => Ok(code),
        }
    };
    match run() {
        Ok(code) => ExitCode::from(code as u8),
        Err(failure) => failed(&failure),
    }
}

fn failed(Failure { message, next }: &Failure) -> ExitCode {
    eprintln!("error: {message}\nnext:  {next}");
    ExitCode::from(2)
}

/// The kernel that is fuzzed if none is named.
fn fixed() -> Kernel {
    Kernel::fixed(Chosen::of_process().base().unwrap_or(Base::V5_15))
}

/// `kernel`, if the subject can run in its surroundings.
fn fits(kernel: Kernel) -> Result<Kernel, Failure> {
    match Chosen::of_process().base().filter(|&base| base != kernel.base()) {
        None => Ok(kernel),
        Some(base) => {
            let message = format!("the C runs in the surroundings of {} only", base.name());
            Err(Failure::new(message, format!("add: --kernel '{} fixed'", base.name())))
        }
    }
}

/// What has to be added to a command so that it runs the same subject.
fn subject_option() -> &'static str {
    match Chosen::of_process() {
        Chosen::Port => "",
        Chosen::C => "--subject c ",
    }
}

/// The workspace, for the verbs that call cargo and for the corpus.
fn root() -> Result<PathBuf, Failure> {
    let is_root = |dir: &Path| dir.join("gup-core").is_dir() && dir.join("fuzz").is_dir();
    // Set by `cargo run`, so that the command works from any folder in it.
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let here = manifest.or_else(|| std::env::current_dir().ok()).unwrap_or_default();
    here.ancestors().find(|dir| is_root(dir)).map(Path::to_path_buf).ok_or_else(|| {
        Failure::new("this is not the folder that gup was cloned to", "cd GUP_FOLDER")
    })
}

/// `1234567` as `1,234,567`.
fn thousands(n: u64) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(|g| String::from_utf8_lossy(g)).collect::<Vec<_>>().join(",")
}

/// Prints JSON; it cannot fail on what is printed here.
fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string_pretty(value).unwrap_or_default());
}

/// A file name as the shell wants it typed.
fn quoted(path: &Path) -> String {
    word(&path.display().to_string())
}

/// A kernel as the shell wants it typed.
fn quoted_kernel(kernel: Kernel) -> String {
    word(&kernel_text(kernel))
}

fn word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:+,@".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text.into()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_verb_has_examples() {
        for verb in Cli::command().get_subcommands() {
            let help = verb.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(help.contains("cargo gup "), "{}", verb.get_name());
        }
    }

    #[test]
    fn numbers_and_names_are_printed_for_people() {
        assert_eq!(thousands(0), "0");
        assert_eq!(thousands(1_234_567), "1,234,567");
        assert_eq!(quoted(Path::new("a/b.gup")), "a/b.gup");
        assert_eq!(quoted(Path::new("a b")), "'a b'");
    }
}
