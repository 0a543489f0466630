// SPDX-License-Identifier: GPL-2.0-only
//! A finding as a mail: plain text, at most 75 columns, in the order in
//! which a maintainer asks: what, where, since when, how do I see it myself.
//!
//! Only tags such as `Fixes:` are longer where they must be; the kernel's own
//! rules say that they are never wrapped.

use std::fmt::Write;

use gup_core::flags::Pg;
use gup_core::history::{Commit, Defect, Kernel, Proposal, Safeguard};
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::mm::MmId;

use super::Reproducer;
use super::c::{NotExpressible, program};
use super::text::{WIDTH, result_text};
use crate::exec::{Executor, Finding, Outcome, PageRow, Trace, TraceLine};
use crate::scenario::Op;
use crate::subject::Chosen;

/// Replays a scenario with every oracle there is: op by op, and if that is
/// silent, once more with the fast path compared.
pub fn judge(exec: &mut Executor, ops: &[Op]) -> Option<Finding> {
    exec.run(ops).or_else(|| exec.fast_vs_slow(ops))
}

/// [`judge`] with a record.
pub fn trace(exec: &mut Executor, ops: &[Op]) -> Trace {
    let trace = exec.trace(ops);
    if trace.finding.is_some() { trace } else { exec.trace_fast_vs_slow(ops) }
}

/// A kernel in the shorter of its two text forms: as changes of the base as
/// released, or of the base with every fix.
pub fn kernel_text(kernel: Kernel) -> String {
    let mut fixed = Kernel::fixed(kernel.base()).to_string();
    for d in kernel.defects() {
        let _ = write!(fixed, " {}", d.info().switch(true));
    }
    for p in kernel.proposals() {
        let _ = write!(fixed, " with proposal:{}", p.info().slug);
    }
    for s in kernel.left_out() {
        let _ = write!(fixed, " without safeguard:{}", s.slug());
    }
    let released = kernel.to_string();
    if fixed.len() < released.len() { fixed } else { released }
}

/// What a finding is about: the kernel, or the C that ran in its place.
pub fn subject_text(kernel: Kernel) -> String {
    Chosen::of_process().title(kernel_text(kernel))
}

/// What makes a kernel show a finding.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Culprit {
    /// A bug of some kernel.
    Defect(Defect),
    /// A change that was never merged.
    Proposal(Proposal),
    /// A statement that is left out of it.
    Safeguard(Safeguard),
}

/// What the port of `kernel` violates.
fn on_port(kernel: Kernel, ops: &[Op]) -> Option<Finding> {
    judge(&mut Executor::with_subject(kernel, Chosen::Port), ops)
}

/// Whether `oracle` fires on the port of `kernel`.
fn fires(kernel: Kernel, ops: &[Op], oracle: &str) -> bool {
    on_port(kernel, ops).is_some_and(|f| f.oracle == oracle)
}

/// A finding of the C that is no news: a defect that its text has, `text`
/// being the kernel whose port follows it, with which the port violates the
/// same rule in the same function, and without which it does not.
pub fn known_of_c(text: Kernel, ops: &[Op], finding: &Finding) -> Option<Defect> {
    let fixed = Kernel::fixed(text.base());
    let same = |kernel| on_port(kernel, ops).is_some_and(|f| f.key() == finding.key());
    if same(fixed) {
        return None;
    }
    let seen_so = |d: &Defect| d.info().oracles.contains(&finding.oracle);
    let alone = text.defects().find(|&d| same(fixed.with_defect(d)));
    // It may only show in a world that another of them made,
    let among_all = || {
        let all = same(text);
        text.defects().filter(seen_so).find(|&d| all && !same(text.without_defect(d)))
    };
    // or at a step that another of them moves.
    let beside_another = || {
        let with = |d| move |e| same(fixed.with_defect(d).with_defect(e));
        text.defects().filter(seen_so).find(|&d| text.defects().any(with(d)))
    };
    alone.or_else(among_all).or_else(beside_another)
}

/// [`known_of_c`], if it is the C that runs in this process.
pub fn known(ops: &[Op], finding: &Finding) -> Option<Defect> {
    known_of_c(Chosen::of_process().follows()?, ops, finding)
}

/// The culprit of what the subject of this process was found to do.
pub fn explain(kernel: Kernel, ops: &[Op], finding: &Finding) -> Option<Culprit> {
    match Chosen::of_process() {
        Chosen::Port => culprit(kernel, ops, finding.oracle),
        Chosen::C => known(ops, finding).map(Culprit::Defect),
    }
}

/// The defect, or else the proposal, without which the oracle is silent; or
/// else the safeguard with which it is.
pub fn culprit(kernel: Kernel, ops: &[Op], oracle: &str) -> Option<Culprit> {
    let mut defects = kernel.defects();
    let defect = defects.find(|&d| !fires(kernel.without_defect(d), ops, oracle));
    let proposal = || {
        let mut proposals = kernel.proposals();
        proposals.find(|&p| !fires(without_proposal(kernel, p), ops, oracle))
    };
    let safeguard = || kernel.left_out().find(|&s| !fires(kernel.with_safeguard(s), ops, oracle));
    (defect.map(Culprit::Defect))
        .or_else(|| proposal().map(Culprit::Proposal))
        .or_else(|| safeguard().map(Culprit::Safeguard))
}

/// The kernel without the culprit.
pub fn without(kernel: Kernel, culprit: Culprit) -> Kernel {
    match culprit {
        Culprit::Defect(d) => kernel.without_defect(d),
        Culprit::Proposal(p) => without_proposal(kernel, p),
        Culprit::Safeguard(s) => kernel.with_safeguard(s),
    }
}

fn without_proposal(kernel: Kernel, p: Proposal) -> Kernel {
    let bare = kernel.defects().fold(Kernel::fixed(kernel.base()), Kernel::with_defect);
    let bare = kernel.left_out().fold(bare, Kernel::without_safeguard);
    kernel.proposals().filter(|&q| q != p).fold(bare, Kernel::with_proposal)
}

/// A report could not be written: no oracle fires.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Silent;

/// Writes the mail. What the reproducer says about results and oracle is
/// replaced by what a replay shows.
///
/// # Errors
/// [`Silent`] if no oracle fires on the reproducer's kernel.
pub fn report(given: &Reproducer) -> Result<String, Silent> {
    let ops = given.ops();
    let trace = trace(&mut Executor::new(given.kernel), &ops);
    let finding = trace.finding.as_ref().ok_or(Silent)?;
    let mut r = Reproducer::of(given.kernel, &ops, &trace, finding);
    r.story.clone_from(&given.story);
    if !given.title.is_empty() {
        r.title.clone_from(&given.title);
    }
    let mut out = String::new();
    head(&mut out, &r, finding);
    section(&mut out, "Scenario", &r.to_string());
    section(&mut out, "Page states", &page_table(&trace));
    section(&mut out, "Kernels", &kernels(r.kernel, &ops, finding));
    section(&mut out, "To replay it", &to_replay(&r));
    origin(&mut out, explain(r.kernel, &ops, finding));
    Ok(ascii(&out))
}

fn to_replay(r: &Reproducer) -> String {
    let (option, tree) = match Chosen::of_process() {
        Chosen::Port => ("", ""),
        Chosen::C => ("--subject c ", ", with LINUX=DIR for the tree whose mm/gup.c ran"),
    };
    let in_c = match program(r) {
        Ok(p) => {
            let needs = if p.module { "with fuzz/on-kernel/module" } else { "with io_uring" };
            let tells = p.tells.unwrap_or("nothing that a program can see".into());
            format!(
                "The C program runs on any kernel {needs}; exit status 1: it happens. What tells: {tells}."
            )
        }
        Err(NotExpressible(op, why)) => format!("There is no C program: op {}: {why}.", op + 1),
    };
    let lines = format!(
        "Save the scenario, from its line \"# gup reproducer\" on, as FILE. Then{tree}\n\n\
        \x20   cargo gup replay {option}FILE\n\
        \x20   cargo gup confirm FILE           # on a stock kernel under QEMU\n\
        \x20   cargo gup report FILE --c        # as a C program\n\n"
    );
    lines + &wrap(&in_c, "", "")
}

fn head(out: &mut String, r: &Reproducer, f: &Finding) {
    let Finding { oracle, function, expected, actual, .. } = f;
    let _ = writeln!(out, "Subject: [BUG] mm/gup: {}\n", r.title);
    let what = match r.lines.get(f.op) {
        Some(line) => format!("op {}, {}", f.op + 1, line.op.name()),
        None => "the tear-down after the last op".into(),
    };
    let summary = format!(
        "On {}, {function}() breaks a rule that must hold whatever a program does. \
         The rule, \"{oracle}\": {}. It is broken by {what}; what comes before it is legal.",
        match Chosen::of_process() {
            Chosen::Port => format!("kernel {}", kernel_text(r.kernel)),
            Chosen::C => subject_text(r.kernel),
        },
        rule(oracle)
    );
    out.push_str(&wrap(&summary, "", ""));
    out.push('\n');
    let kernel = subject_text(r.kernel);
    let values = [
        ("Kernel:  ", kernel.as_str()),
        ("Oracle:  ", oracle),
        ("Expected:", expected.as_str()),
        ("Actual:  ", actual.as_str()),
    ];
    for (key, value) in values {
        out.push_str(&wrap(value, &format!("{key} "), "          "));
    }
    if let Some(page) = f.page {
        let _ = writeln!(out, "Page:     {}", page.0);
    }
}

/// What an oracle watches over.
fn rule(oracle: &str) -> &'static str {
    match oracle {
        "accounting" => "every reference and every pin is held by somebody",
        "errno" => "a call fails only for a reason, and does what it says",
        "result-array" => "entry i of pages[] is the page of start + i",
        "placement" => "no FOLL_LONGTERM pin in memory that has to stay movable",
        "permission" => "no page that a store or a look through it could do harm with",
        "agreement" => "GUP-fast and the slow path come to the same",
        "isolation" => "no process sees what another stored after fork",
        "reliability" => "the address goes on mapping the page that is pinned",
        "lifetime" => "nothing is touched after it was freed",
        "progress" => "every call ends",
        "locking" => "no lock is leaked or taken twice, and *locked is true",
        "splat" => "no WARN and no BUG",
        _ => "the harness works",
    }
}

fn section(out: &mut String, title: &str, text: &str) {
    let _ = write!(out, "\n{title}\n{}\n\n{text}", "-".repeat(title.len()));
}

/// The table of page states: `-` before an op, `+` after it. What ran in a
/// window is below the op around it, whose rows are of before and after both.
pub fn page_table(trace: &Trace) -> String {
    let mut out = String::from(
        "The pages that an op changed: - before it, + after it. Under the op that\n\
         broke the rule, = is every other page in use.\n\n\
         \x20 page ord place        ref map pin lru  held flags   mapped at\n",
    );
    let mut now: Vec<PageRow> = Vec::new();
    for (i, line) in trace.lines.iter().enumerate() {
        let _ = writeln!(out, "{}", op_line(i, line));
        for (before, after) in &line.rows {
            let row = |out: &mut String, mark, row: &Option<PageRow>| {
                out.push_str(&row.as_ref().map(|r| page_row(mark, r)).unwrap_or_default());
            };
            row(&mut out, '-', before);
            row(&mut out, '+', after);
            if line.op.at.is_some() {
                // The op around it has ended since.
                continue;
            }
            let gone = before.as_ref().or(after.as_ref()).map(|r| r.page);
            now.retain(|r| Some(r.page) != gone);
        }
        if trace.finding.as_ref().is_some_and(|f| f.op == i) {
            now.iter().for_each(|r| out.push_str(&page_row('=', r)));
        }
        let rows = if line.op.at.is_some() { &[] } else { &line.rows[..] };
        now.extend(rows.iter().filter_map(|(_, after)| after.clone()));
    }
    out
}

/// An op and what became of it.
pub fn op_line(i: usize, line: &TraceLine) -> String {
    let came_to = match line.outcome {
        Outcome::Returned(result) => format!("-> {}", result_text(result)),
        Outcome::Done => String::new(),
        Outcome::Failed(e) => format!("-> {e}"),
        Outcome::Skipped(why) => format!("(skipped: {why})"),
        Outcome::Blocked(wait) => format!("(blocked: {wait})"),
    };
    let unreached = if line.fail_unreached { " (its failure was not reached)" } else { "" };
    let text = format!("{} {came_to}{unreached}", line.op);
    let indent = if line.op.at.is_some() { "    " } else { "" };
    let first = format!("{:>2} {indent}", i + 1);
    let mut out = wrap(text.trim_end(), &first, &format!("       {indent}"));
    if let Some(place) = &line.place {
        out.push_str(&wrap(place, "           ", "               "));
    }
    for splat in &line.splats {
        out.push_str(&wrap(&splat.to_string(), "   ", "       "));
    }
    out.trim_end().into()
}

fn page_row(mark: char, r: &PageRow) -> String {
    let held =
        if (r.gets, r.pins) == (0, 0) { "-".into() } else { format!("{}/{}", r.gets, r.pins) };
    let place = format!("{}{}", r.place.name(), if r.isolated_block { ",iso" } else { "" });
    let flags = if r.free { "free".into() } else { flag_letters(r) };
    let columns = format!(
        "{mark} {:>4} {:>3} {place:<11} {:>4} {:>3} {:>3} {:>3} {held:>5} {flags:<7} ",
        r.page.0, r.order, r.refcount, r.mapcount, r.pincount, r.lru_batch
    );
    wrap(&mapped_at(&r.maps), &columns, &" ".repeat(columns.len()))
}

/// The letters of the kernel's tools/vm/page-types.c.
fn flag_letters(r: &PageRow) -> String {
    let flags = [
        (Pg::LOCKED, 'L'),
        (Pg::REFERENCED, 'R'),
        (Pg::DIRTY, 'D'),
        (Pg::LRU, 'l'),
        (Pg::SWAPBACKED, 'b'),
        (Pg::HEAD, 'H'),
        (Pg::RESERVED, 'r'),
        (Pg::ANON_EXCLUSIVE, 'd'),
        (Pg::SWAPCACHE, 's'),
    ];
    let set = flags.into_iter().filter(|&(f, _)| r.flags.contains(f)).map(|(_, c)| c);
    let kinds = [(r.anon, 'a'), (r.cached, 'c'), (r.zero_page, 'z')];
    let letters: String = set.chain(kinds.into_iter().filter(|k| k.0).map(|(_, c)| c)).collect();
    if letters.is_empty() { "-".into() } else { letters }
}

/// `m0:0x0-0x7000w`: first and last page of each run, and whether writable.
fn mapped_at(maps: &[(MmId, u64, bool)]) -> String {
    let mut runs: Vec<(MmId, u64, u64, bool)> = Vec::new();
    for &(mm, addr, write) in maps {
        match runs.last_mut() {
            Some(r) if r.0 == mm && r.3 == write && r.2 + PAGE_SIZE == addr => r.2 = addr,
            _ => runs.push((mm, addr, addr, write)),
        }
    }
    let text = runs.iter().map(|&(mm, first, last, write)| {
        let last = if first == last { String::new() } else { format!("-{last:#x}") };
        format!("m{}:{first:#x}{last}{}", mm.0, if write { "w" } else { "r" })
    });
    let text = text.collect::<Vec<_>>().join(" ");
    if text.is_empty() { "-".into() } else { text }
}

/// Replays on every kernel there is.
fn kernels(kernel: Kernel, ops: &[Op], finding: &Finding) -> String {
    let mut all = vec![kernel];
    all.extend(Kernel::all_known(kernel.base()).into_iter().filter(|&k| k != kernel));
    let (mut bad, mut good) = (String::new(), String::new());
    for k in all {
        let found = on_port(k, ops).map(|f| f.oracle);
        let list = if found == Some(finding.oracle) { &mut bad } else { &mut good };
        list.push_str(&wrap(&kernel_text(k), "    ", "        "));
        if let Some(other) = found.filter(|&o| o != finding.oracle) {
            let _ = writeln!(list, "        (but breaks \"{other}\")");
        }
    }
    let none = |list: String| if list.is_empty() { "    none\n".into() } else { list };
    let by = match Chosen::of_process() {
        Chosen::Port => "by replay",
        Chosen::C => "by replay on the port of each",
    };
    format!("Affected, {by}:\n{}\nNot affected:\n{}", none(bad), none(good))
}

/// Since when, until when, and the tag.
fn origin(out: &mut String, culprit: Option<Culprit>) {
    let mut text = String::new();
    match culprit {
        None => text.push_str("No defect in the table explains it.\n"),
        Some(Culprit::Proposal(p)) => {
            let info = p.info();
            let what = format!(
                "It comes with the proposal \"{}\", which was never merged: {}.",
                info.slug, info.what
            );
            text.push_str(&wrap(&what, "", ""));
        }
        Some(Culprit::Safeguard(s)) => {
            let what = format!("It comes without the safeguard \"{}\": {}.", s.slug(), s.what());
            text.push_str(&wrap(&what, "", ""));
        }
        Some(Culprit::Defect(d)) => {
            let info = d.info();
            text.push_str(&wrap(&format!("{}: {}.", info.slug, info.what), "", ""));
            let since = info.introduced.map_or("always".into(), |c| commit(&c));
            text.push_str(&wrap(&since, "\nIntroduced: ", "            "));
            let fix = info.fixed.map_or("not known".into(), |c| commit(&c));
            text.push_str(&wrap(&fix, "Fixed:      ", "            "));
            if let Some(c) = info.introduced {
                let _ = writeln!(text, "\nFixes: {} (\"{}\")", c.id, c.subject);
            }
        }
    }
    section(out, "Origin", &text);
}

fn commit(c: &Commit) -> String {
    format!("{} (\"{}\"), {}", c.id, c.subject, c.release)
}

/// Breaks `text` at spaces, and at `|` if it must, into lines of at most
/// [`WIDTH`] columns; the first begins with `first`, the others with `then`.
pub(crate) fn wrap(text: &str, first: &str, then: &str) -> String {
    let mut out = String::new();
    let mut line = String::from(first);
    let mut empty = true;
    for word in text.split_whitespace().flat_map(|w| w.split_inclusive('|').enumerate()) {
        let (i, word) = word;
        let gap = if empty || i > 0 { "" } else { " " };
        if !empty && line.len() + gap.len() + word.len() > WIDTH {
            out.push_str(line.trim_end());
            out.push('\n');
            line = format!("{then}{word}");
        } else {
            line.push_str(gap);
            line.push_str(word);
        }
        empty = false;
    }
    out.push_str(line.trim_end());
    out.push('\n');
    out
}

/// Mail to the list is ASCII.
fn ascii(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii() { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_oracle_has_its_rule() {
        for slug in crate::oracles::SLUGS {
            assert_ne!(rule(slug), rule("panic"), "{slug}");
        }
    }

    /// The longterm pin that fails by the seed's mistake leaves the batches as
    /// they are; if it succeeds, nothing is wrong.
    #[test]
    fn what_one_known_defect_shows_in_the_world_of_another_is_known() {
        let text = b"# gup reproducer, format 1
kernel: v5.15

mmap m0 0x0 2 rw shared secretmem 0
mmap m1 0x1000 3 rw private anon
h0 = get_user_pages_remote m1 0x1000 3 FOLL_WRITE
h1 = pin_user_pages m1 0x1000 2 FOLL_LONGTERM
write m0 0x0 2
h1 = pin_user_pages_fast_only m0 0x1000 1 0
";
        let ops = crate::repro::text::parse(text).unwrap().ops();
        let text = Kernel::released(gup_core::history::Base::V5_15);
        let finding = on_port(text, &ops).unwrap();
        assert_eq!(finding.oracle, "permission");
        assert_eq!(known_of_c(text, &ops, &finding), Some(Defect::SecretmemOffLru));
    }

    const SEED: &str = "# gup reproducer, format 1
title: pin_user_pages(FOLL_LONGTERM) fails on a movable page
kernel: v5.15
oracle: errno

mmap m0 0x0 1 rw private anon
write m0 0x0 1
h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM   -> ENOMEM
";

    fn seed() -> Reproducer {
        SEED.parse().unwrap()
    }

    #[test]
    fn the_report_says_what_since_when_and_how_to_see_it() {
        let text = report(&seed()).unwrap();
        for part in [
            "Subject: [BUG] mm/gup: pin_user_pages(FOLL_LONGTERM) fails on a movable page\n",
            "Kernel:   v5.15\n",
            "Expected: 1\n",
            "Actual:   -ENOMEM\n",
            "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM   -> ENOMEM\n",
            "Fixes: 54d516b1d62f (\"mm/gup: small refactoring: simplify try_grab_page()\")\n",
            "c36c04c2e132",
            "v5.17-rc3",
            "    v5.15 fixed without c36c04c2e132\n",
            "cargo gup replay FILE",
            "What tells: what op 3,",
            "with io_uring",
            "Movable",
        ] {
            assert!(text.contains(part), "{part:?} is not in\n{text}");
        }
        let (bad, good) = text.split_once("\nNot affected:\n").unwrap();
        assert!(bad.contains("Affected, by replay:\n    v5.15\n    v5.15 fixed without c36"));
        assert!(good.starts_with("    v5.15 fixed\n"), "{good}");
    }

    #[test]
    fn it_is_a_mail() {
        let text = report(&seed()).unwrap();
        assert!(text.is_ascii());
        let tag = |l: &str| l.starts_with("Fixes: ") || l.starts_with("Subject: ");
        let long = text.lines().find(|l| l.len() > WIDTH && !tag(l));
        assert_eq!(long, None);
    }

    #[test]
    fn its_scenario_replays() {
        let text = report(&seed()).unwrap();
        let start = text.find("# gup reproducer").unwrap();
        let end = text.find("\nPage states").unwrap();
        let again: Reproducer = text[start..end].parse().unwrap();
        assert_eq!(again.ops(), seed().ops());
    }

    /// The window names a step by its number, and another defect, 65291dcfcf89,
    /// brings steps of that kind.
    #[test]
    fn what_the_c_does_is_known_where_two_of_its_defects_meet() {
        let text = "\
# gup reproducer, format 1
kernel: v5.15 fixed without c36c04c2e132 without 65291dcfcf89

mmap m0 0x0 8 rw private anon thp
write m0 0x0 1
swapout m0 0x0
write m0 0x0 1
fork m0 m1
h0 = get_user_pages_fast_only m0 0x0 1 0
    at compound-head 4 write m0 0x0 1
h0 = pin_user_pages m0 0x0 1 FOLL_LONGTERM
";
        let r: Reproducer = text.parse().unwrap();
        let finding = on_port(r.kernel, &r.ops()).unwrap();
        assert_eq!(finding.key(), ("errno", "pin_user_pages"));
        let known = known_of_c("v5.15".parse().unwrap(), &r.ops(), &finding);
        assert_eq!(known, Some(Defect::SlowGrabIsFast));
    }

    #[test]
    fn a_proposal_can_be_the_culprit() {
        let text = "# gup reproducer, format 1
kernel: v5.15 fixed without c36c04c2e132 with proposal:skip-check-for-single-ref
oracle: placement

mmap m0 0x0 1 rw private anon
write m0 0x0 1
h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM
";
        let r: Reproducer = text.parse().unwrap();
        let found = culprit(r.kernel, &r.ops(), "placement");
        assert_eq!(found, Some(Culprit::Proposal(Proposal::SkipCheckForSingleRef)));
        assert!(report(&r).unwrap().contains("proposal \"skip-check-for-single-ref\""));
    }

    #[test]
    fn it_says_why_there_is_no_c_program() {
        let mut r = seed();
        r.lines.insert(0, "unisolate_block 1".parse::<Op>().unwrap().into());
        assert!(report(&r).unwrap().contains("There is no C program: op 1: "));
    }

    #[test]
    fn a_silent_scenario_has_no_report() {
        let kernel = "v5.15 fixed".parse().unwrap();
        assert_eq!(report(&Reproducer { kernel, ..seed() }), Err(Silent));
    }

    #[test]
    fn long_text_is_wrapped_at_words() {
        let long = wrap(&"word ".repeat(40), "a: ", "   ");
        assert!(long.lines().all(|l| l.len() <= WIDTH));
        assert!(long.starts_with("a: word word"));
        assert_eq!(long.split_whitespace().count(), 41);
    }
}
