// SPDX-License-Identifier: GPL-2.0-only
//! What the fuzz targets share: each takes an input and panics, with text
//! that can be replayed, if an oracle fires.
//!
//! The kernel is never chosen by the input: it is the environment variable
//! `GUP_KERNEL`, and `v5.15 fixed` without it.

use std::cell::RefCell;
use std::process::ExitCode;

use gup_core::history::{Base, Kernel};

use crate::exec::{Executor, Finding};
use crate::repro::{Reproducer, text};
use crate::scenario::{Op, Scenario};

/// The kernel to fuzz.
///
/// # Errors
/// A text for the user if `GUP_KERNEL` names none.
pub fn kernel() -> Result<Kernel, String> {
    match std::env::var("GUP_KERNEL") {
        Ok(text) => text.parse().map_err(|e| format!("GUP_KERNEL: {e}")),
        Err(_) => Ok(Kernel::fixed(Base::V5_15)),
    }
}

thread_local! {
    /// One executor for all inputs of a process. A kernel that does not exist
    /// is a mistake of the caller's, said once and for all.
    static EXECUTOR: RefCell<Executor> = RefCell::new(Executor::new(kernel().unwrap_or_else(|e| {
        eprintln!("{e}");
        std::process::exit(2)
    })));
}

/// How a target runs a scenario.
type Engine = fn(&mut Executor, &[Op]) -> Option<Finding>;

fn judge(s: &Scenario, run: Engine) {
    EXECUTOR.with_borrow_mut(|exec| {
        if let Some(f) = run(exec, &s.ops) {
            let mut r = Reproducer::from_ops(exec.kernel(), &s.ops);
            r.oracle = Some(f.oracle.into());
            r.title = crate::repro::title(&f);
            panic!(
                "{} violated in {}() by op {}\n  expected: {}\n  actual:   {}\n\n{r}",
                f.oracle,
                f.function,
                f.op + 1,
                f.expected,
                f.actual
            );
        }
    });
}

/// The scenario without what runs in windows.
fn without_windows(s: &Scenario) -> Scenario {
    Scenario { ops: s.ops.iter().copied().filter(|op| op.at.is_none()).collect() }
}

/// Target `sequence`: one op after the other, judged by every oracle.
pub fn sequence(s: &Scenario) {
    judge(&without_windows(s), Executor::run);
}

/// Target `race`: ops in the middle of ops, judged by every oracle but for
/// what concurrency itself explains.
pub fn race(s: &Scenario) {
    judge(s, Executor::run);
}

/// Target `fast_vs_slow`: each fast call is also compared with the slow one.
pub fn fast_vs_slow(s: &Scenario) {
    judge(&without_windows(s), Executor::fast_vs_slow);
}

#[cfg(feature = "real-gup")]
thread_local! {
    static AGAINST_C: RefCell<crate::real::PortAgainstC> = RefCell::new(crate::real::against_c());
}

/// Target `against_c`: the port takes the steps of the C.
#[cfg(feature = "real-gup")]
pub fn against_c(s: &Scenario) {
    AGAINST_C.with_borrow_mut(|against| {
        if against.run(&s.ops).is_some() {
            panic!("\n{}", crate::real::explain(against, &s.ops).unwrap_or_default());
        }
    });
}

/// Target `text`: any bytes parse or fail with an error, and what parses
/// prints to a text that parses to the same.
pub fn text(bytes: &[u8]) {
    let Ok(r) = text::parse(bytes) else { return };
    let printed = r.to_string();
    let again = text::parse(printed.as_bytes());
    assert_eq!(again.as_ref(), Ok(&r), "printed:\n{printed}");
    assert_eq!(again.map(|r| r.to_string()), Ok(printed));
}

/// The `main` of a target that was built without libFuzzer: runs the target
/// over the files it is given.
pub fn replay_files(target: impl Fn(&[u8])) -> ExitCode {
    let files: Vec<String> = std::env::args().skip(1).collect();
    if files.is_empty() {
        eprintln!("built without libFuzzer: give files to replay, or use `cargo fuzz run`");
        return ExitCode::from(2);
    }
    for file in files {
        match std::fs::read(&file) {
            Ok(bytes) => target(&bytes),
            Err(e) => {
                eprintln!("{file}: {e}");
                return ExitCode::from(2);
            }
        }
    }
    ExitCode::SUCCESS
}
