// SPDX-License-Identifier: GPL-2.0-only
//! How far long work has come: one line that changes on a terminal, lines
//! from time to time where there is none.

use std::time::{Duration, Instant};

use indicatif::ProgressBar;

/// How often a line is written where there is no terminal.
const PLAIN: Duration = Duration::from_secs(15);

/// Tells on the standard error how work goes on.
pub(super) struct Progress {
    bar: ProgressBar,
    start: Instant,
    next: Duration,
}

impl Progress {
    pub(super) fn new() -> Self {
        // Hides itself where the standard error is no terminal.
        let bar = ProgressBar::new_spinner();
        bar.enable_steady_tick(Duration::from_millis(250));
        Progress { bar, start: Instant::now(), next: PLAIN }
    }

    /// Tells how it stands, if it is time to. `line` is given the time since
    /// the work began.
    pub(super) fn show(&mut self, line: impl FnOnce(Duration) -> String) {
        let at = self.start.elapsed();
        if !self.bar.is_hidden() {
            self.bar.set_message(line(at));
        } else if self.is_due(at) {
            eprintln!("{}", line(at));
        }
    }

    /// Whether it is time for a line, which is the last for a while.
    fn is_due(&mut self, at: Duration) -> bool {
        let due = at >= self.next;
        if due {
            self.next = at + PLAIN;
        }
        due
    }

    /// A line that stays.
    pub(super) fn say(&self, text: &str) {
        if self.bar.is_hidden() {
            eprintln!("{text}");
        } else {
            self.bar.println(text);
        }
    }

    pub(super) fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_there_is_no_terminal_a_line_comes_from_time_to_time() {
        let mut progress = Progress::new();
        let at = Duration::from_secs;
        let lines = (0..100).filter(|&s| progress.is_due(at(s))).collect::<Vec<_>>();
        assert_eq!(lines, [15, 30, 45, 60, 75, 90]);
        // However long it is not asked, there is one line for that.
        assert!(progress.is_due(at(1000)) && !progress.is_due(at(1001)));
    }
}
