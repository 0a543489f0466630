// SPDX-License-Identifier: GPL-2.0-only
//! A guest's run beside the model's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use gup_core::errno::Errno;
use gup_core::history::{Base, Kernel};

use super::machine::{GuestRun, Ran, is_bad};
use super::wire::{Answer, Seen, SeenFlags};
use crate::exec::{Executor, Outcome, Slot, SlotView, Trace, TraceLine};
use crate::scenario::{Op, What};

/// Something in which a kernel and the model differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Difference {
    /// The op after which it shows; the number of ops if that was the
    /// tear-down.
    pub op: usize,
    /// Whose page, if it is about one.
    pub slot: Option<Slot>,
    /// What differs, in one word.
    pub what: &'static str,
    /// What the model has.
    pub model: String,
    /// What the kernel has.
    pub kernel: String,
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(slot) = self.slot {
            write!(f, "{slot} ")?;
        }
        write!(f, "{}: model {}, kernel {}", self.what, self.model, self.kernel)
    }
}

/// Runs ops on the model as a guest does: with the LRU batches drained after
/// each. In a new world: statistics go on from one run to the next.
pub fn model(kernel: Kernel, ops: &[Op]) -> Trace {
    let drain = Op::from(What::LruAddDrainAll);
    let with_drains: Vec<Op> = ops.iter().flat_map(|&op| [op, drain]).collect();
    let mut trace = Executor::new(kernel).trace(&with_drains);
    // What is seen of an op is what is there after the drain.
    let mut lines = Vec::new();
    let mut all = std::mem::take(&mut trace.lines).into_iter();
    while let Some(line) = all.next() {
        let state = all.next().map(|drained| drained.state);
        lines.push(TraceLine { state: state.unwrap_or_else(|| line.state.clone()), ..line });
    }
    Trace { lines, finding: trace.finding.map(|f| crate::exec::Finding { op: f.op / 2, ..f }) }
}

/// What a guest would say that does as the model does.
pub fn as_guest(trace: &Trace, scale: u32) -> GuestRun {
    let each = i64::from(scale);
    let ops = trace.lines.iter().map(|line| {
        let answer = match line.outcome {
            Outcome::Returned(Ok(n)) => Answer::Returned(n as i64 * each),
            Outcome::Returned(Err(e)) => Answer::Returned(-(e as i64)),
            Outcome::Done => Answer::Done,
            Outcome::Failed(e) => Answer::Failed(e as i32),
            Outcome::Skipped(why) => Answer::Skipped(why.into()),
            Outcome::Blocked(wait) => Answer::Skipped(format!("blocked: {wait}")),
        };
        let pins = (line.state.pins.0 * each, line.state.pins.1 * each);
        let slots = line.state.slots.iter().map(|(&slot, v)| (slot, seen(slot, v, scale)));
        let kernel = line.splats.iter().map(|splat| format!("WARNING: {splat}")).collect();
        Ran { answer, kernel, pins, slots: slots.collect() }
    });
    let ops: Vec<Ran> = ops.collect();
    let pins = ops.last().map_or(0, |ran| ran.pins.0);
    let (kernel, slots) = (Vec::new(), BTreeMap::new());
    let end = Ran { answer: Answer::Done, kernel, pins: (pins, pins), slots };
    GuestRun { ops, end: Some(end), ..GuestRun::default() }
}

fn seen(slot: Slot, v: &SlotView, scale: u32) -> Seen {
    let e = expected(v, scale);
    let flags = [
        (matches!(slot, Slot::Mapped(..)), SeenFlags::PRESENT),
        (v.accessible, SeenFlags::ACCESS),
        (v.write, SeenFlags::WRITABLE),
        (v.huge, SeenFlags::HUGE),
        (v.special, SeenFlags::SPECIAL),
        (v.zero_page, SeenFlags::ZERO),
        (v.anon, SeenFlags::ANON),
        (v.movable, SeenFlags::MOVABLE),
        (v.exclusive, SeenFlags::EXCLUSIVE),
        (e.pinned, SeenFlags::DMA_PINNED),
    ];
    Seen {
        frame: 0x3_0000 + u64::from(v.page.0) * u64::from(scale),
        token: v.data,
        flags: flags.iter().filter(|f| f.0).fold(SeenFlags::empty(), |all, f| all | f.1),
        order: e.order as u32,
        refcount: e.refcount as i32,
        mapcount: e.mapcount as i32,
        entire: v.entire,
        pincount: e.pincount as i32,
        ..Seen::default()
    }
}

/// What differs, op by op, up to the first op with a difference: what comes
/// after it follows from it.
pub fn compare(kernel: Kernel, trace: &Trace, run: &GuestRun, scale: u32) -> Vec<Difference> {
    let rules = Rules { base: kernel.base(), scale, module: !run.no_module };
    for (op, (line, ran)) in trace.lines.iter().zip(&run.ops).enumerate() {
        let mut found = Vec::new();
        rules.answer(line, ran, &mut found);
        rules.pins(line, ran, &mut found);
        rules.slots(line, ran, &mut found);
        if !found.is_empty() {
            found.iter_mut().for_each(|d| d.op = op);
            return found;
        }
    }
    rules.end(trace, run)
}

/// Which frame of one world is which of the other.
#[derive(Default)]
struct Frames {
    kernel_of: BTreeMap<u16, u64>,
    model_of: BTreeMap<u64, u16>,
}

/// What a guest without the module does not show.
pub const NOT_COMPARED: &str = "contents of pages; which entries are writable, huge or \
    PROT_NONE; exclusive marks; what handles hold; reference, map and pin counts of huge pages; \
    how many pins came and went, but for what is left of small ones";

struct Rules {
    base: Base,
    scale: u32,
    /// All can be seen.
    module: bool,
}

fn difference(
    what: &'static str,
    model: impl fmt::Display,
    kernel: impl fmt::Display,
) -> Difference {
    Difference { op: 0, slot: None, what, model: model.to_string(), kernel: kernel.to_string() }
}

/// An error number as the kernel writes it.
pub fn errno_text(number: i64) -> String {
    let known = Errno::ALL.iter().find(|&&e| e as i64 == number);
    known.map_or_else(|| format!("errno {number}"), |e| e.name().into())
}

/// An answer in the words of a reproducer, counts as the model's.
pub fn answer_text(answer: &Answer, scale: u32) -> String {
    match answer {
        Answer::Returned(n) if *n < 0 => format!("-> {}", errno_text(-n)),
        Answer::Returned(n) => match n % i64::from(scale) {
            0 => format!("-> {}", n / i64::from(scale)),
            _ => format!("-> {n}/{scale}"),
        },
        Answer::Done => "done".into(),
        Answer::Failed(e) => format!("-> {}", errno_text((*e).into())),
        Answer::Skipped(why) => format!("skipped: {why}"),
        Answer::Cannot(why) => format!("cannot: {why}"),
        Answer::Lost(why) => format!("lost: {why}"),
    }
}

/// The same of the model.
pub fn outcome_text(outcome: Outcome) -> String {
    match outcome {
        Outcome::Returned(Ok(n)) => format!("-> {n}"),
        Outcome::Returned(Err(e)) | Outcome::Failed(e) => format!("-> {e}"),
        Outcome::Done => "done".into(),
        Outcome::Skipped(why) => format!("skipped: {why}"),
        Outcome::Blocked(wait) => format!("blocked: {wait}"),
    }
}

impl Rules {
    fn answer(&self, line: &TraceLine, ran: &Ran, found: &mut Vec<Difference>) {
        let (model, kernel) = (outcome_text(line.outcome), answer_text(&ran.answer, self.scale));
        // debugfs does not say why it did not split.
        let refused = matches!(line.op.what, What::SplitHugePage(_))
            && matches!(line.outcome, Outcome::Failed(_))
            && matches!(ran.answer, Answer::Failed(_));
        if model != kernel && !refused {
            found.push(difference("answer", model, kernel));
        }
        let warned = |text: &&String| text.contains("WARNING:") || text.contains("BUG");
        let (splat, warning) = (line.splats.first(), ran.kernel.iter().find(warned));
        if splat.is_some() != warning.is_some() {
            let none = || String::from("none");
            let splat = splat.map_or_else(none, ToString::to_string);
            found.push(difference("warning", splat, warning.cloned().unwrap_or_else(none)));
        }
    }

    fn pins(&self, line: &TraceLine, ran: &Ran, found: &mut Vec<Difference>) {
        let (model, scale) = (line.state.pins, i64::from(self.scale));
        if !self.module && scale > 1 {
            // io_uring may keep one pin for a whole huge page.
            return;
        }
        if !self.module || scale > 1 {
            // io_uring makes the call that it likes, and a fast path that gives
            // up took its pins once, not once for each page of a run: only what
            // is left compares.
            let (model, kernel) = ((model.0 - model.1) * scale, ran.pins.0 - ran.pins.1);
            if model != kernel {
                found.push(difference("pins held", model, kernel));
            }
            return;
        }
        if model.0 != ran.pins.0 {
            found.push(difference("nr_foll_pin_acquired", model.0, ran.pins.0));
        }
        if model.1 != ran.pins.1 {
            found.push(difference("nr_foll_pin_released", model.1, ran.pins.1));
        }
    }

    fn slots(&self, line: &TraceLine, ran: &Ran, found: &mut Vec<Difference>) {
        let state = &line.state;
        let slots: BTreeSet<Slot> =
            state.slots.keys().chain(&state.swapped).chain(ran.slots.keys()).copied().collect();
        let seen = |slot: &Slot| self.module || matches!(slot, Slot::Mapped(..));
        // Of this moment only: a frame may be used again by the next op.
        let frames = &mut Frames::default();
        for slot in slots.into_iter().filter(seen) {
            let before = found.len();
            match (state.slots.get(&slot), ran.slots.get(&slot)) {
                (Some(model), Some(seen)) => self.slot(model, seen, frames, found),
                (model, seen) => {
                    let swapped = seen.is_some_and(|s| s.flags.contains(SeenFlags::NONPRESENT));
                    let model = entry(model.is_some(), state.swapped.contains(&slot));
                    let kernel = entry(seen.is_some(), swapped);
                    if model != kernel {
                        found.push(difference("entry", model, kernel));
                    }
                }
            }
            found[before..].iter_mut().for_each(|d| d.slot = Some(slot));
        }
    }

    fn slot(&self, m: &SlotView, k: &Seen, frames: &mut Frames, found: &mut Vec<Difference>) {
        let has = |flag| k.flags.contains(flag);
        let mut differ = |what, model: i64, kernel: i64| {
            if model != kernel {
                found.push(difference(what, model, kernel));
            }
        };
        let mut flag = |what, model: bool, flag| differ(what, model.into(), has(flag).into());
        if self.module && k.flags.contains(SeenFlags::PRESENT) {
            flag("accessible", m.accessible, SeenFlags::ACCESS);
            flag("writable", m.accessible && m.write, SeenFlags::WRITABLE);
            flag("huge", m.huge, SeenFlags::HUGE);
            flag("special", m.special, SeenFlags::SPECIAL);
        }
        flag("zero page", m.zero_page, SeenFlags::ZERO);
        // Nobody counts those.
        if m.special || has(SeenFlags::SPECIAL) || m.zero_page {
            return;
        }
        flag("anon", m.anon, SeenFlags::ANON);
        flag("movable", m.movable, SeenFlags::MOVABLE);
        if self.module && self.base >= Base::V6_12 && k.flags.contains(SeenFlags::PRESENT) {
            flag("exclusive", m.exclusive, SeenFlags::EXCLUSIVE);
        }
        let expected = expected(m, self.scale);
        if self.module {
            flag("maybe dma pinned", expected.pinned, SeenFlags::DMA_PINNED);
        }
        differ("order", expected.order, k.order.into());
        if self.module || expected.order == 0 {
            differ("refcount", expected.refcount, (k.refcount - buffers(k)).into());
            differ("mapcount", expected.mapcount, k.mapcount.into());
        }
        if self.module {
            differ("pincount", expected.pincount, k.pincount.into());
            differ("pages that differ in the run", 0, k.odd.into());
            self.contents(m, k, found);
        }
        if let Some(other) = frames.pair(m.page.0, k.frame) {
            found.push(difference("sharing", format!("page {}", m.page.0), other));
        }
    }

    /// Stores are numbered; who may see which is the oracles' business.
    fn contents(&self, m: &SlotView, k: &Seen, found: &mut Vec<Difference>) {
        if m.data >> 16 != k.token >> 16 && !k.flags.contains(SeenFlags::SECRET) {
            found.push(difference("contents", store(m.data), store(k.token)));
        }
    }

    /// After the tear-down nothing is pinned.
    fn end(&self, trace: &Trace, run: &GuestRun) -> Vec<Difference> {
        let Some(end) = run.end.as_ref().filter(|_| trace.finding.is_none()) else {
            return Vec::new();
        };
        let (acquired, released) = end.pins;
        let mut found = Vec::new();
        if acquired != released {
            found.push(difference("pins left", 0, acquired - released));
        }
        // A slow host has the clock's watchdog say things, too.
        if let Some(text) = end.kernel.iter().find(|line| is_bad(line)) {
            found.push(difference("warning", "none", text));
        }
        found.iter_mut().for_each(|d| d.op = trace.lines.len());
        found
    }
}

/// What a guest should count for a page.
fn expected(m: &SlotView, scale: u32) -> Expected {
    let large = m.order > 1;
    // What is counted for each page of a huge one.
    let more = if large { i64::from(scale) - 1 } else { 0 };
    let ptes = i64::from(m.mapcount - m.entire);
    let pincount = i64::from(m.pincount) * (more + 1);
    let refcount = i64::from(m.refcount) + more * (ptes + i64::from(m.held + m.cached));
    Expected {
        order: if large { 9 } else { m.order.into() },
        refcount,
        mapcount: i64::from(m.mapcount) + more * ptes,
        pincount,
        pinned: if m.order > 0 { pincount > 0 } else { refcount >= 1024 },
    }
}

struct Expected {
    order: i64,
    refcount: i64,
    mapcount: i64,
    pincount: i64,
    pinned: bool,
}

/// References that the buffers of a file system hold. The model's have none.
pub fn buffers(k: &Seen) -> i32 {
    k.flags.contains(SeenFlags::PRIVATE).into()
}

/// What kind of entry a slot is.
fn entry(there: bool, swapped: bool) -> &'static str {
    match (there, swapped) {
        (_, true) => "a swap entry",
        (true, false) => "something",
        (false, false) => "nothing",
    }
}

/// `store 3`; what no scenario stored is shown as it is.
fn store(token: u64) -> String {
    match token {
        0 => "zeroes".into(),
        _ if token >> 16 > 4096 => format!("{token:#x}"),
        _ => format!("store {}", token >> 16),
    }
}

impl Frames {
    /// Notes that two frames are the same; what one of them was before, if
    /// they cannot be.
    fn pair(&mut self, model: u16, kernel: u64) -> Option<String> {
        let k = *self.kernel_of.entry(model).or_insert(kernel);
        let m = *self.model_of.entry(kernel).or_insert(model);
        if k != kernel {
            return Some(format!("another frame ({kernel:#x}) than where else it is ({k:#x})"));
        }
        (m != model).then(|| format!("the same frame as the model's page {m}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::on_kernel::express::THP_SCALE;

    fn kernel() -> Kernel {
        Kernel::fixed(Base::V5_15)
    }

    fn ops(lines: &[&str]) -> Vec<Op> {
        lines.iter().map(|l| l.parse().unwrap()).collect()
    }

    const SMALL: [&str; 5] = [
        "mmap m0 0x0 2 rw private anon",
        "write m0 0x0 2",
        "h0 = pin_user_pages m0 0x0 2 FOLL_WRITE",
        "fork m0 m1",
        "read m1 0x8000 1",
    ];
    const HUGE: [&str; 4] = [
        "mmap m0 0x0 8 rw private anon thp",
        "write m0 0x0 8",
        "h0 = pin_user_pages m0 0x0 2 FOLL_WRITE",
        "split_huge_pmd m0 0x0",
    ];

    #[test]
    fn a_guest_that_does_as_the_model_does_not_differ() {
        for (lines, scale) in [(&SMALL[..], 1), (&HUGE[..], THP_SCALE)] {
            let trace = model(kernel(), &ops(lines));
            assert_eq!(trace.lines.len(), lines.len());
            let run = as_guest(&trace, scale);
            assert_eq!(compare(kernel(), &trace, &run, scale), []);
        }
    }

    #[test]
    fn what_is_counted_for_each_page_of_a_huge_one_is_scaled() {
        let trace = model(kernel(), &ops(&HUGE));
        let run = as_guest(&trace, THP_SCALE);
        let first = |op: usize| *run.ops[op].slots.values().next().unwrap();
        // As a 6.12 kernel has them: one PMD, then 128 pins, then 512 PTEs.
        assert_eq!((first(1).refcount, first(1).mapcount, first(1).order), (1, 1, 9));
        assert_eq!((first(2).refcount, first(2).pincount), (129, 128));
        assert_eq!((first(3).refcount, first(3).mapcount, first(3).entire), (640, 512, 0));
    }

    #[test]
    fn every_change_is_noticed() {
        let trace = model(kernel(), &ops(&SMALL));
        type Change = fn(&mut Seen);
        let changes: [(&str, Change); 11] = [
            ("accessible", |s| s.flags.toggle(SeenFlags::ACCESS)),
            ("writable", |s| s.flags.toggle(SeenFlags::WRITABLE)),
            ("anon", |s| s.flags.toggle(SeenFlags::ANON)),
            ("movable", |s| s.flags.toggle(SeenFlags::MOVABLE)),
            ("maybe dma pinned", |s| s.flags.toggle(SeenFlags::DMA_PINNED)),
            ("refcount", |s| s.refcount += 1),
            ("refcount", |s| s.flags.insert(SeenFlags::PRIVATE)),
            ("mapcount", |s| s.mapcount -= 1),
            ("pincount", |s| s.pincount += 1),
            ("contents", |s| s.token = 0),
            ("pages that differ in the run", |s| s.odd = 1),
        ];
        let slot = Slot::Mapped(gup_core::model::mm::MmId(0), 0);
        for (what, change) in changes {
            let mut run = as_guest(&trace, 1);
            change(run.ops[2].slots.get_mut(&slot).unwrap());
            let found = compare(kernel(), &trace, &run, 1);
            let found: Vec<_> = found.iter().map(|d| (d.op, d.slot, d.what)).collect();
            assert_eq!(found, [(2, Some(slot), what)]);
        }
    }

    #[test]
    fn without_the_module_only_what_is_seen_is_compared() {
        let without = |trace| GuestRun { no_module: true, ..as_guest(trace, 1) };
        let shared = model(kernel(), &ops(&[SMALL[0], SMALL[1], SMALL[3]]));
        type Change = fn(&mut Seen);
        let changes: [(bool, Change); 8] = [
            (true, |s| s.frame += 100),
            (true, |s| s.flags.toggle(SeenFlags::ANON)),
            (true, |s| s.flags.toggle(SeenFlags::MOVABLE)),
            (true, |s| s.refcount += 1),
            (true, |s| s.mapcount -= 1),
            (false, |s| s.flags.toggle(SeenFlags::ACCESS | SeenFlags::WRITABLE)),
            (false, |s| s.pincount += 1),
            (false, |s| s.token = 0),
        ];
        for (i, (noticed, change)) in changes.into_iter().enumerate() {
            let mut run = without(&shared);
            change(run.ops[2].slots.values_mut().next().unwrap());
            assert_eq!(compare(kernel(), &shared, &run, 1).is_empty(), !noticed, "{i}");
        }
        let trace = model(kernel(), &ops(&SMALL));
        let mut run = without(&trace);
        run.ops[2].slots.retain(|slot, _| matches!(slot, Slot::Mapped(..)));
        run.ops[2].pins = (run.ops[2].pins.0 + 1, run.ops[2].pins.1 + 1);
        assert_eq!(compare(kernel(), &trace, &run, 1), []);
        run.ops[2].pins.0 += 1;
        assert_eq!(compare(kernel(), &trace, &run, 1)[0].what, "pins held");
        run.ops[1].slots.clear();
        assert_eq!(compare(kernel(), &trace, &run, 1)[0].what, "entry");
    }

    #[test]
    fn a_swap_entry_is_neither_a_page_nor_nothing() {
        let lines = ["mmap m0 0x0 1 rw private anon", "write m0 0x0 1", "swapout m0 0x0"];
        let trace = model(kernel(), &ops(&lines));
        let slot = Slot::Mapped(gup_core::model::mm::MmId(0), 0);
        let entry = Seen { flags: SeenFlags::NONPRESENT, ..Seen::default() };
        let mut run = as_guest(&trace, 1);
        let what = |run: &GuestRun| {
            let found = compare(kernel(), &trace, run, 1);
            found.iter().map(|d| (d.op, d.what)).collect::<Vec<_>>()
        };
        assert_eq!(what(&run), [(2, "entry")]);
        run.ops[2].slots.insert(slot, entry);
        assert_eq!(what(&run), []);
        run.ops[0].slots.insert(slot, entry);
        assert_eq!(what(&run), [(0, "entry")]);
    }

    #[test]
    fn a_copy_where_the_model_shares_is_noticed() {
        let trace = model(kernel(), &ops(&SMALL));
        let mut run = as_guest(&trace, 1);
        run.ops[2].slots.values_mut().last().unwrap().frame += 100;
        let found = compare(kernel(), &trace, &run, 1);
        assert_eq!((found.len(), found[0].what), (1, "sharing"));
    }

    #[test]
    fn answers_warnings_statistics_and_what_is_left_are_compared() {
        let trace = model(kernel(), &ops(&SMALL));
        let what = |change: fn(&mut GuestRun)| {
            let mut run = as_guest(&trace, 1);
            change(&mut run);
            let found = compare(kernel(), &trace, &run, 1);
            found.iter().map(|d| (d.op, d.what)).collect::<Vec<_>>()
        };
        assert_eq!(what(|r| r.ops[2].answer = Answer::Returned(1)), [(2, "answer")]);
        assert_eq!(what(|r| r.ops[4].answer = Answer::Failed(14)), []);
        assert_eq!(what(|r| r.ops[4].answer = Answer::Done), [(4, "answer")]);
        assert_eq!(what(|r| r.ops[3].pins.0 += 1), [(3, "nr_foll_pin_acquired")]);
        assert_eq!(what(|r| r.ops[3].pins.1 += 1), [(3, "nr_foll_pin_released")]);
        assert_eq!(what(|r| r.end.as_mut().unwrap().pins.1 -= 1), [(5, "pins left")]);
        let warn = |r: &mut GuestRun| r.ops[0].kernel.push("WARNING: at mm/gup.c".into());
        assert_eq!(what(warn), [(0, "warning")]);
        assert_eq!(what(|r| r.ops[1].slots.clear()), [(1, "entry"); 2]);
        let says = |r: &mut GuestRun, text: &str| r.end.as_mut().unwrap().kernel.push(text.into());
        let what = |change: &dyn Fn(&mut GuestRun)| {
            let mut run = as_guest(&trace, 1);
            change(&mut run);
            compare(kernel(), &trace, &run, 1).iter().map(|d| d.what).collect::<Vec<_>>()
        };
        assert_eq!(what(&|r| says(r, "BUG: Bad page state in process init")), ["warning"]);
        assert_eq!(what(&|r| says(r, "clocksource: Long readout interval")), [""; 0]);
    }
}
