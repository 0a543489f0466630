// SPDX-License-Identifier: GPL-2.0-only
//! Makes a scenario smaller, as long as the same oracle fires in the same
//! function.
//!
//! Ops are dropped, in chunks and from the back; then what fails meanwhile;
//! what runs in a window is put before or after the op around it, or earlier
//! into it; then arguments are made simpler, one by one and the same argument in all
//! ops at once. All of it again until nothing helps. What "simpler" means
//! comes from the binary form: every argument is a byte, and smaller is
//! simpler, but for protections, where `rw` is.

use crate::exec::Finding;
use crate::scenario::{HANDLES, MMS, Op, PAGES, RECORD, What, Window, end_of_group};

/// Runs that a minimisation may take. It needs some hundred.
const MAX_RUNS: usize = 20_000;

/// Bytes of a record; see [`crate::scenario`].
const MM: usize = 1;
const PAGE: usize = 2;
/// Pages of the range after the first.
const MORE_PAGES: usize = 3;
const FLAGS: [usize; 2] = [4, 5];
const EXTRA: usize = 6;

/// A smaller scenario with the same finding, or `None` if `check` finds
/// nothing to begin with.
pub fn minimise(
    ops: &[Op],
    check: impl FnMut(&[Op]) -> Option<Finding>,
) -> Option<(Vec<Op>, Finding)> {
    let mut check = check;
    let finding = check(ops)?;
    let mut m = Minimiser { check, ops: ops.to_vec(), finding, runs: 0 };
    m.cut();
    loop {
        let before = m.ops.clone();
        m.drop_ops();
        m.drop_failures();
        m.leave_windows();
        m.shift_windows();
        m.simplify_arguments();
        m.shrink_ranges();
        m.move_pages();
        m.renumber();
        if m.ops == before || m.runs >= MAX_RUNS {
            return Some((m.ops, m.finding));
        }
    }
}

struct Minimiser<C> {
    check: C,
    ops: Vec<Op>,
    finding: Finding,
    runs: usize,
}

impl<C: FnMut(&[Op]) -> Option<Finding>> Minimiser<C> {
    /// Keeps `ops` if the finding is still there.
    fn keep(&mut self, mut ops: Vec<Op>) -> bool {
        // Without the op around it there is no window.
        let orphans = ops.iter().take_while(|op| op.at.is_some()).count();
        ops.drain(..orphans);
        if ops == self.ops || self.runs >= MAX_RUNS {
            return false;
        }
        self.runs += 1;
        match (self.check)(&ops) {
            Some(finding) if finding.key() == self.finding.key() => {
                self.ops = ops;
                self.finding = finding;
                self.cut();
                true
            }
            _ => false,
        }
    }

    /// A run ends at the finding, so the ops after it do not matter.
    fn cut(&mut self) {
        self.ops.truncate(end_of_group(&self.ops, self.finding.op));
        // One in the tear-down has no op of its own.
        self.finding.op = self.finding.op.min(self.ops.len());
    }

    fn drop_ops(&mut self) {
        let mut size = self.ops.len().div_ceil(2);
        while size > 0 {
            let mut end = self.ops.len();
            while end > 0 {
                let start = end.saturating_sub(size);
                let mut ops = self.ops.clone();
                ops.drain(start..end);
                self.keep(ops);
                end = start.min(self.ops.len());
            }
            size /= 2;
        }
    }

    fn drop_failures(&mut self) {
        for i in (0..self.ops.len()).rev() {
            if i < self.ops.len() && self.ops[i].fail.is_some() {
                let mut ops = self.ops.clone();
                ops[i].fail = None;
                self.keep(ops);
            }
        }
    }

    /// What need not run in the middle of an op runs before or after it.
    fn leave_windows(&mut self) {
        for i in (1..self.ops.len()).rev() {
            let Some(op) = self.ops.get(i).copied().filter(|op| op.at.is_some()) else { continue };
            let around = self.ops[..i].iter().rposition(|op| op.at.is_none()).unwrap_or(0);
            for to in [around, end_of_group(&self.ops, around) - 1] {
                let mut ops = self.ops.clone();
                ops.remove(i);
                ops.insert(to, Op { at: None, ..op });
                if self.keep(ops) {
                    break;
                }
            }
        }
    }

    /// Windows open as early as they can.
    fn shift_windows(&mut self) {
        for i in 0..self.ops.len() {
            while let Some(op) = self.ops.get(i).copied()
                && let Some(at) = op.at
            {
                let earlier = [1, at.nth / 2, at.nth - 1].into_iter();
                let mut earlier = earlier.filter(|&nth| (1..at.nth).contains(&nth));
                let shifted = |nth| Op { at: Some(Window { nth, ..at }), ..op };
                if !earlier.any(|nth| self.replace(i, shifted(nth))) {
                    break;
                }
            }
        }
    }

    fn simplify_arguments(&mut self) {
        for i in (0..self.ops.len()).rev() {
            // Each candidate that is kept gives new ones; all are smaller,
            // so this ends.
            while i < self.ops.len() && simpler(self.ops[i]).any(|op| self.replace(i, op)) {}
        }
    }

    fn replace(&mut self, i: usize, op: Op) -> bool {
        let mut ops = self.ops.clone();
        ops[i] = op;
        self.keep(ops)
    }

    /// Takes pages off the front and the back of a range, in all ops that
    /// are about it at once, and then in each alone.
    fn shrink_ranges(&mut self) {
        let shrunk = |r: &[u8; RECORD], front: u8, back: u8| {
            let mut r = *r;
            r[PAGE] += front;
            r[MORE_PAGES] -= front + back;
            r
        };
        for i in 0..self.ops.len() {
            for (front, back) in [(1, 0), (0, 1)] {
                while let Some(now) = self.ops.get(i).map(|op| op.encode())
                    && now[MORE_PAGES] > 0
                {
                    let all = |r: &mut [u8; RECORD]| {
                        if r[PAGE..=MORE_PAGES] == now[PAGE..=MORE_PAGES] {
                            *r = shrunk(r, front, back);
                        }
                    };
                    let one = self.ops[i].with_record(shrunk(&now, front, back));
                    if !self.rename(all) && !one.is_some_and(|op| self.replace(i, op)) {
                        break;
                    }
                }
            }
        }
    }

    /// Moves everything at an address at once, as low as it goes.
    fn move_pages(&mut self) {
        for from in 0..PAGES {
            let lower =
                (0..from).find(|&to| self.rename(|r| move_page(r, |p| p == from, from - to)));
            if lower.is_none() {
                // The same for everything from there on.
                (1..=from).rev().any(|by| self.rename(|r| move_page(r, |p| p >= from, by)));
            }
        }
    }

    /// Numbers address spaces and handles in the order of their appearance.
    fn renumber(&mut self) {
        for to in 0..MMS {
            (to + 1..MMS).for_each(|from| {
                let swap = |n: &mut u8| *n = swapped(*n, from, to);
                self.rename_if_earlier(MM, |r| {
                    swap(&mut r[MM]);
                    if is_fork(r) {
                        swap(&mut r[EXTRA]);
                    }
                });
            });
        }
        for to in 0..HANDLES {
            (to + 1..HANDLES).for_each(|from| {
                self.rename_if_earlier(EXTRA, |r| {
                    if !has_handle(r) {
                        return;
                    }
                    r[EXTRA] = swapped(r[EXTRA], from, to);
                    if has_two_handles(r) {
                        r[PAGE] = swapped(r[PAGE], from, to);
                    }
                });
            });
        }
    }

    /// Changes every record; keeps the result only if that puts a smaller
    /// number first, so that two renamings cannot undo each other for ever.
    fn rename_if_earlier(&mut self, byte: usize, change: impl Fn(&mut [u8; RECORD])) {
        let Some(ops) = changed(&self.ops, change) else { return };
        let numbers = |ops: &[Op]| ops.iter().map(|op| op.encode()[byte]).collect::<Vec<_>>();
        if numbers(&ops) < numbers(&self.ops) {
            self.keep(ops);
        }
    }

    fn rename(&mut self, change: impl Fn(&mut [u8; RECORD])) -> bool {
        changed(&self.ops, change).is_some_and(|ops| self.keep(ops))
    }
}

fn changed(ops: &[Op], change: impl Fn(&mut [u8; RECORD])) -> Option<Vec<Op>> {
    let each = ops.iter().map(|op| {
        let mut record = op.encode();
        change(&mut record);
        op.with_record(record)
    });
    each.collect()
}

fn swapped(n: u8, a: u8, b: u8) -> u8 {
    if n == a {
        b
    } else if n == b {
        a
    } else {
        n
    }
}

fn move_page(r: &mut [u8; RECORD], which: impl Fn(u8) -> bool, by: u8) {
    if !has_two_handles(r) && which(r[PAGE]) && r[PAGE] >= by {
        r[PAGE] -= by;
    }
}

fn is_fork(r: &[u8; RECORD]) -> bool {
    matches!(Op::decode(*r).map(|op| op.what), Some(What::Fork(..)))
}

fn has_two_handles(r: &[u8; RECORD]) -> bool {
    matches!(Op::decode(*r).map(|op| op.what), Some(What::Tee(..) | What::FolioAddPin(..)))
}

fn has_handle(r: &[u8; RECORD]) -> bool {
    let Some(op) = Op::decode(*r) else { return false };
    matches!(
        op.what,
        What::Call(_)
            | What::Unpin(..)
            | What::PutPage(_)
            | What::Tee(..)
            | What::FolioAddPin(..)
            | What::DmaWrite(_)
            | What::DmaRead(_)
    )
}

/// Ops with one argument less far from nothing, the simplest first.
fn simpler(op: Op) -> impl Iterator<Item = Op> {
    let record = op.encode();
    let is_call = matches!(op.what, What::Call(_));
    let has_prot = matches!(op.what, What::Mmap(..) | What::MmapFile(..) | What::Mprotect(..));
    let with = move |i: usize, byte: u8| {
        let mut r = record;
        r[i] = byte;
        op.with_record(r)
    };
    let fail = (record[RECORD - 1] >> 3 != 0).then(|| (RECORD - 1, record[RECORD - 1] & 7));
    let candidates = (1..=EXTRA).flat_map(move |i| {
        let byte = record[i];
        match () {
            () if is_call && FLAGS.contains(&i) => {
                (0..8).filter(|b| byte >> b & 1 != 0).map(|b| (i, byte & !(1 << b))).collect()
            }
            // Protections are numbered up to `rw`, the simplest.
            () if has_prot && i == FLAGS[0] => Vec::from_iter((byte < 2).then_some((i, 2))),
            () if byte == 0 => Vec::new(),
            () => vec![(i, 0), (i, byte / 2), (i, byte - 1)],
        }
    });
    candidates.chain(fail).filter_map(move |(i, b)| with(i, b)).filter(move |&new| new != op)
}

#[cfg(test)]
mod tests {
    use gup_core::history::Base;

    use super::*;
    use crate::generators::Generator;
    use crate::scenario::Scenario;

    fn ops(text: &str) -> Vec<Op> {
        text.lines().map(|l| l.trim().parse().unwrap()).collect()
    }

    fn text(ops: &[Op]) -> Vec<String> {
        ops.iter().map(Op::to_string).collect()
    }

    fn finding(oracle: &'static str, op: usize) -> Finding {
        let (expected, actual) = (String::new(), String::new());
        Finding { oracle, function: "f", op, page: None, expected, actual }
    }

    /// Fires at the first op that `bad` likes, given the ops before it.
    fn fires(ops: &[Op], bad: impl Fn(&[Op], Op) -> bool) -> Option<Finding> {
        let at = (0..ops.len()).find(|&i| bad(&ops[..i], ops[i]))?;
        Some(finding("errno", at))
    }

    #[test]
    fn nothing_to_begin_with_is_said() {
        assert_eq!(minimise(&ops("cpu 1"), |_| None), None);
    }

    #[test]
    fn what_does_not_matter_goes() {
        let long = ops("cpu 1
            mmap m2 0x18000 8 r private anon thp
            fork m2 m1
            write m2 0x1a000 3 fail alloc 2
            h7 = pin_user_pages m2 0x1a000 2 FOLL_WRITE|FOLL_LONGTERM|FOLL_FORCE fail retry 3
            unpin_user_pages h7
            exit m1");
        let mapped = |before: &[Op], r: crate::scenario::Range| {
            let hit = |op: &Op| match op.what {
                What::Mmap(m, ..) => m.mm == r.mm && (m.page..m.page + m.pages).contains(&r.page),
                _ => false,
            };
            before.iter().any(hit)
        };
        let bad = |before: &[Op], op: Op| match op.what {
            What::Call(c) => {
                c.flags.contains(gup_core::flags::Foll::LONGTERM) && mapped(before, c.range)
            }
            _ => false,
        };
        let (small, found) = minimise(&long, |ops| fires(ops, bad)).unwrap();
        let expected =
            ["mmap m0 0x0 1 rw private anon", "h0 = pin_user_pages m0 0x0 1 FOLL_LONGTERM"];
        assert_eq!(text(&small), expected);
        assert_eq!(found.op, 1);
    }

    #[test]
    fn another_oracle_is_another_finding() {
        let check = |ops: &[Op]| match ops.len() {
            0..=2 => Some(finding("splat", 0)),
            n => Some(finding("errno", n - 1)),
        };
        let (small, found) = minimise(&ops("cpu 1\ncpu 0\ncpu 1\ncpu 0"), check).unwrap();
        assert_eq!((small.len(), found.oracle), (3, "errno"));
    }

    #[test]
    fn a_finding_in_the_tear_down_keeps_its_ops() {
        let check = |ops: &[Op]| (!ops.is_empty()).then(|| finding("accounting", ops.len()));
        let (small, found) = minimise(&ops("cpu 1\ncpu 1\nexit m2"), check).unwrap();
        assert_eq!((small.len(), found.op), (1, 1));
    }

    #[test]
    fn it_ends_on_any_scenario_and_twice_is_once() {
        let (mut generator, mut s) = (Generator::new(5, Base::V5_15), Scenario::default());
        let calls = |op: &Op| matches!(op.what, What::Call(_));
        let check = |ops: &[Op]| fires(ops, |before, op| calls(&op) && before.iter().any(calls));
        for _ in 0..50 {
            generator.scenario(&mut s);
            let Some((once, _)) = minimise(&s.ops, check) else { continue };
            assert_eq!(once.len(), 2);
            let (twice, _) = minimise(&once, check).unwrap();
            assert_eq!(text(&once), text(&twice));
        }
    }
}
