// SPDX-License-Identifier: GPL-2.0-only
//! Reproducers: scenarios that people read, send and keep.
//!
//! * [`text`] prints and parses `.gup` files.
//! * [`minimise`] makes a scenario smaller while the same oracle fires.
//! * [`report`] writes a finding down as a mail.
//! * [`c`] writes a reproducer as a C program.
//!
//! A reproducer says on which kernel it runs and which oracle fires there,
//! so that it can be replayed by anyone, and years later.

pub mod c;
pub mod columns;
pub mod minimise;
pub mod report;
pub mod text;

use gup_core::history::Kernel;

use crate::exec::{Finding, Outcome, Trace};
use crate::scenario::{CallResult, Op};

/// A scenario with its kernel, its oracle and its story: a `.gup` file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Reproducer {
    /// What it shows, in one line.
    pub title: String,
    /// The kernel it runs on.
    pub kernel: Kernel,
    /// The oracle that fires on that kernel; `None`: none does.
    pub oracle: Option<String>,
    /// The comment lines before the first op.
    pub story: Vec<String>,
    /// The ops.
    pub lines: Vec<Line>,
}

/// One op of a reproducer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Line {
    /// The op.
    pub op: Op,
    /// What it returned when it was written down, for calls.
    pub result: Option<CallResult>,
    /// The comment at its end.
    pub comment: Option<String>,
    /// The comment lines between it and the next op.
    pub after: Vec<String>,
}

impl From<Op> for Line {
    fn from(op: Op) -> Self {
        Line { op, result: None, comment: None, after: Vec::new() }
    }
}

impl Line {
    /// Adds a comment, at the end of the line if it fits there.
    pub fn note(&mut self, text: String) {
        self.comment = Some(text);
        if self.to_string().lines().any(|l| l.chars().count() > text::WIDTH) {
            self.after.splice(0..0, self.comment.take());
        }
    }
}

impl Reproducer {
    /// A scenario that shows nothing yet.
    pub fn from_ops(kernel: Kernel, ops: &[Op]) -> Self {
        let lines = ops.iter().map(|&op| Line::from(op)).collect();
        Reproducer { title: String::new(), kernel, oracle: None, story: Vec::new(), lines }
    }

    /// Writes down what a traced run found, with the results of its calls.
    pub fn of(kernel: Kernel, ops: &[Op], trace: &Trace, finding: &Finding) -> Self {
        let mut r = Reproducer::from_ops(kernel, ops);
        for (line, traced) in r.lines.iter_mut().zip(&trace.lines) {
            if let Outcome::Returned(result) = traced.outcome {
                line.result = Some(result);
            }
        }
        let note = format!("expected: {}", finding.expected);
        if let Some(line) = r.lines.get_mut(finding.op) {
            line.note(note);
        } else if let Some(last) = r.lines.last_mut() {
            last.after.push(format!("at the end; {note}"));
        }
        Reproducer { title: title(finding), oracle: Some(finding.oracle.into()), ..r }
    }

    /// Its ops.
    pub fn ops(&self) -> Vec<Op> {
        self.lines.iter().map(|l| l.op).collect()
    }
}

/// A finding in one line: the subject of its mail.
pub fn title(finding: &Finding) -> String {
    let Finding { function, actual, oracle, .. } = finding;
    let text = format!("{function}(): {actual}");
    if text.len() <= 64 { text } else { format!("{function}() violates {oracle}") }
}
