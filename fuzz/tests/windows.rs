// SPDX-License-Identifier: GPL-2.0-only
//! Ops that another CPU does in the middle of an op.

use gup_core::history::Kernel;
use gup_core::step::StepKind;
use gup_fuzz::exec::{Executor, Met, Outcome, Raced, Trace};
use gup_fuzz::repro::report::op_line;
use gup_fuzz::repro::{Reproducer, text};
use gup_fuzz::scenario::{Op, Scenario};

fn parse(ops: &str) -> Reproducer {
    let text = format!("{}\nkernel: v5.15 fixed\n\n{ops}", text::HEADER);
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

fn ops(text: &str) -> Vec<Op> {
    parse(text).ops()
}

/// What became of the ops of a scenario that holds.
fn lines(kernel: &str, scenario: &str) -> Vec<String> {
    let kernel: Kernel = kernel.parse().unwrap();
    let trace = Executor::new(kernel).trace(&ops(scenario));
    assert_eq!(trace.finding, None, "{:#?}", told(&trace));
    told(&trace)
}

fn told(trace: &Trace) -> Vec<String> {
    let one_line = |text: String| text.split('\n').map(str::trim).collect::<Vec<_>>().join(" ");
    trace.lines.iter().enumerate().map(|(i, l)| one_line(op_line(i, l))).collect()
}

const KERNELS: [&str; 2] = ["v5.15 fixed", "v6.12 fixed"];
const MAPPED: &str = "mmap m0 0x0 1 rw private anon\nwrite m0 0x0 1\n";

#[test]
fn an_op_runs_before_the_step_that_its_window_names() {
    for kernel in KERNELS {
        let zapped = format!(
            "{MAPPED}h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE\n\
             at pte-read 2 madvise m0 0x0 1 dontneed\n\
             dma_write h0\nread m0 0x0 1\n"
        );
        let trace = Executor::new(kernel.parse().unwrap()).trace(&ops(&zapped));
        assert_eq!(trace.finding, None);
        // The entry is gone when GUP-fast looks again: the slow path faults.
        assert_eq!(trace.lines[2].outcome, Outcome::Returned(Ok(1)));
        assert_eq!(trace.lines[3].outcome, Outcome::Done);
        let reads = |l: usize| trace.lines[l].steps.iter().filter(|s| s.kind.slug() == "pte-read");
        assert!(reads(2).count() > 2, "{:?}", trace.lines[2].steps);
        assert!(reads(3).count() > 0, "{:?}", trace.lines[3].steps);
    }
}

#[test]
fn what_would_wait_does_not_run_and_says_for_what() {
    let waits = [
        ("h0 = pin_user_pages m0 0x0 1 0", "lock 1 munmap m0 0x0 1", "mmap_lock of m0"),
        ("h0 = pin_user_pages m0 0x0 1 0", "unlock 1 madvise m0 0x0 1 dontneed", "page table"),
        ("h0 = pin_user_pages_fast m0 0x0 1 0", "pte-read 1 munmap m0 0x0 1", "interrupts are off"),
        ("migrate m0 0x0", "data 1 read m0 0x0 1", "is under migration"),
        ("fork m0 m1", "lock 1 munmap m0 0x0 1", "mmap_lock of m0"),
    ];
    for kernel in KERNELS {
        for (outer, inner, what) in waits {
            let said = lines(kernel, &format!("{MAPPED}lru_add_drain_all\n{outer}\nat {inner}\n"));
            assert!(said[4].contains("(blocked: "), "{kernel}, {outer}: {said:#?}");
            assert!(said[4].contains(what), "{kernel}, {outer}: {said:#?}");
        }
    }
}

#[test]
fn what_cannot_run_says_why() {
    let mapped = format!("{MAPPED}h0 = pin_user_pages m0 0x0 1 0\n");
    for (inner, why) in [
        ("unpin_user_pages h0\nat vmstat 1 unpin_user_page h0", "uses the handle"),
        ("read m0 0x0 1\nat data 9 lru_add_drain", "its window was not reached"),
        ("read m0 0x0 1\nat data 1 exit m0", "needs the process"),
        ("exit m0\nat lock 1 read m0 0x0 1", "starts or ends the process"),
        ("fork m0 m1\nat lock 1 read m1 0x0 1", "starts or ends the process"),
        ("read m0 0x0 1\nat data 1 exit m3", "no such process"),
        ("truncate shmem 1\nat cache-set 1 close shmem", "has the file open"),
        ("close shmem\nat cache-set 1 truncate shmem 1", "closes the file"),
        ("close shmem\nat cache-set 1 mmap m0 0x1000 1 rw shared shmem 0", "closes the file"),
    ] {
        let said = lines("v6.12 fixed", &format!("{mapped}{inner}\n"));
        assert!(said[4].contains("(skipped: ") && said[4].contains(why), "{said:#?}");
    }
}

#[test]
fn several_windows_may_be_in_one_op_and_at_one_step() {
    let said = lines(
        "v6.12 fixed",
        &format!(
            "{MAPPED}read m0 0x0 1\n\
             at data 1 h1 = pin_user_pages m0 0x0 1 FOLL_WRITE\n\
             at data 1 unpin_user_pages h1\n\
             at data 1 write m0 0x0 1\n"
        ),
    );
    let at = "before data 64 in user_access()";
    assert_eq!(
        said[3],
        format!("4     at data 1 h1 = pin_user_pages m0 0x0 1 FOLL_WRITE -> 1 {at}")
    );
    assert_eq!(said[4], format!("5     at data 1 unpin_user_pages h1 {at}"));
}

#[test]
fn a_window_names_the_function_that_it_stops() {
    let fast = "h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE";
    for (kernel, outer, inner, function) in [
        ("v5.15 fixed", fast, "pte-read 2 madvise m0 0x0 1 dontneed", "gup_pte_range"),
        ("v6.12 fixed", fast, "pte-read 2 madvise m0 0x0 1 dontneed", "gup_fast_pte_range"),
        ("v5.15 fixed", fast, "ref-add-unless-zero 1 lru_add_drain", "try_get_compound_head"),
        ("v6.12 fixed", fast, "ref-add-unless-zero 1 lru_add_drain", "try_get_folio"),
        ("v5.15 fixed", "fork m0 m1", "entry-rmw 1 lru_add_drain", "copy_present_pte"),
    ] {
        let said = lines(kernel, &format!("{MAPPED}{outer}\nat {inner}\n"));
        assert!(said[3].ends_with(&format!(" in {function}()")), "{kernel}: {said:#?}");
    }
}

/// Runs a scenario once for each step of its op `outer`, with ops of another
/// CPU in the window before it; each run must hold. Answers in how many the
/// first of them ran.
fn at_every_step(kernel: &str, before: &str, outer: &str, inner: &[&str], after: &str) -> usize {
    let alone = format!("{before}{outer}\n");
    let at = alone.lines().count() - 1;
    let trace = Executor::new(kernel.parse().unwrap()).trace(&ops(&alone));
    let mut taken = [0; StepKind::ALL.len()];
    let mut ran = 0;
    for step in &trace.lines[at].steps {
        let nth = &mut taken[step.kind as usize];
        *nth += 1;
        let window = format!("at {} {nth}", step.kind.slug());
        let inner: String = inner.iter().map(|op| format!("{window} {op}\n")).collect();
        let said = lines(kernel, &format!("{alone}{inner}{after}"));
        ran += usize::from(
            !said[at + 1].contains("(skipped: ") && !said[at + 1].contains("(blocked: "),
        );
    }
    ran
}

/// The THP has no target as a whole, so it is split and its parts move.
#[test]
fn a_page_may_go_while_migration_splits_its_thp() {
    for kernel in KERNELS {
        let ran = at_every_step(
            kernel,
            "mmap m0 0x0 8 rw private anon thp\nwrite m0 0x0 8\n",
            "h0 = pin_user_pages_remote m0 0x0 2 FOLL_LONGTERM fail alloc 1",
            &["madvise m0 0x1000 1 dontneed"],
            "",
        );
        assert!(ran > 40, "{kernel}: {ran}");
    }
}

/// A fault that got no THP falls back to a small page.
#[test]
fn a_thp_may_come_while_a_fault_falls_back() {
    let thp = "mmap m0 0x0 8 rw private anon thp\n";
    for kernel in KERNELS {
        for fault in ["write m0 0x0 1", "read m0 0x0 1"] {
            for inner in ["write m0 0x0 1", "read m0 0x0 1"] {
                let fallback = format!("{fault} fail alloc 3");
                let ran = at_every_step(kernel, thp, &fallback, &[inner], "write m0 0x0 8\n");
                assert!(ran > 12, "{kernel}: {ran}");
            }
        }
        // Or the mapping that is split for it goes, and another comes.
        let forked = format!("{thp}write m0 0x0 1\nfork m0 m1\n");
        let other = ["madvise m0 0x0 8 dontneed", "read m0 0x0 1"];
        let ran = at_every_step(kernel, &forked, "write m0 0x0 1", &other, "write m0 0x0 8\n");
        assert!(ran > 12, "{kernel}: {ran}");
    }
}

/// Whoever finds the new page before the migration is done waits for it.
#[test]
fn a_file_may_be_cut_off_while_its_page_moves() {
    for (kernel, file) in
        [("v5.15 fixed", "file"), ("v6.12 fixed", "file"), ("v6.12 fixed", "hugetlb")]
    {
        let ran = at_every_step(
            kernel,
            &format!("mmap m0 0x0 8 rw shared {file} 0\nwrite m0 0x0 1\nlru_add_drain_all\n"),
            "migrate m0 0x0",
            &[&format!("truncate {file} 0")],
            "h0 = pin_user_pages_remote m0 0x0 1 0\n",
        );
        assert!(ran > 20, "{kernel}, {file}: {ran}");
    }
}

/// A process may unmap a file, and close it, while GUP-fast is about to take one
/// of its pages.
#[test]
fn a_file_may_go_while_gup_fast_finds_its_page() {
    for kernel in KERNELS {
        for file in ["file", "shmem", "secretmem"] {
            // Anonymous memory beside it keeps the page table.
            let mapped = format!(
                "mmap m0 0x0 1 rw shared {file} 0\nmmap m0 0x1000 1 rw private anon\n\
                 write m0 0x0 2\n"
            );
            let gone = ["munmap m0 0x0 1", &format!("close {file}"), "write m0 0x1000 1"];
            for call in ["get_user_pages_fast m0 0x0 1 0", "pin_user_pages_fast m0 0x0 1 0"] {
                let ran = at_every_step(kernel, &mapped, &format!("h0 = {call}"), &gone, "");
                assert!(ran > 10, "{kernel}, {file}: {ran}");
            }
        }
    }
}

/// What is unmapped has the file open until all is done.
#[test]
fn nobody_closes_a_file_while_it_is_unmapped() {
    let mapped = "mmap m0 0x0 1 rw shared shmem 0\nmmap m0 0x1000 1 rw private anon\n\
                  write m0 0x0 2\n";
    for kernel in KERNELS {
        for outer in ["munmap m0 0x0 2", "exit m0"] {
            let closed = at_every_step(kernel, mapped, outer, &["close shmem"], "close shmem\n");
            assert_eq!(closed, 0, "{kernel}, {outer}");
        }
    }
}

/// What is held of a file that is closed is nobody's from then on.
#[test]
fn pins_stay_while_their_file_is_closed() {
    let mapped = "mmap m0 0x0 1 rw shared shmem 0\nwrite m0 0x0 1\n\
                  h0 = pin_user_pages m0 0x0 1 FOLL_WRITE\nmunmap m0 0x0 1\n";
    let after = "mmap m0 0x0 1 rw shared shmem 0\nread m0 0x0 1\ndma_write h0\nread m0 0x0 1\n";
    for kernel in KERNELS {
        for inner in ["dma_write h0", "dma_read h0", "unpin_user_pages h0"] {
            let ran = at_every_step(kernel, mapped, "close shmem", &[inner], after);
            assert!(ran > 10, "{kernel}, {inner}: {ran}");
        }
    }
}

/// What is shown of a fast pin and of what another CPU does meanwhile.
fn raced(kernel: &str, call: &str, inner: &str) -> Raced {
    let mut exec = Executor::new(kernel.parse().unwrap());
    let scenario = format!("{MAPPED}lru_add_drain_all\n{call}\nat {inner}\n");
    assert_eq!(exec.run(&ops(&scenario)), None, "{scenario}");
    let [raced] = exec.raced() else { panic!("{:?}", exec.raced()) };
    assert_eq!(raced.at, 3);
    raced.clone()
}

#[test]
fn a_run_shows_where_windows_make_a_difference() {
    let call = "h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE";
    for kernel in KERNELS {
        let late = raced(kernel, call, "irq-restore 1 madvise m0 0x0 1 dontneed");
        assert_eq!((late.met, late.freed, late.idle()), (Met::Ran, false, false));
        let has = |kind, nth| late.places.iter().any(|w| w.kind == kind && w.nth == nth);
        // The entry is read first, then the page is grabbed and the entry read again.
        assert!(!has(StepKind::PteRead, 1), "{:?}", late.places);
        assert!(has(StepKind::RefAddUnlessZero, 1), "{:?}", late.places);
        assert!(has(StepKind::PteRead, 2), "{:?}", late.places);
        // Nothing that dontneed writes, nor anything at all.
        let unmet = [StepKind::TableRead, StepKind::SeqRead, StepKind::IrqSave, StepKind::Vmstat];
        assert!(late.places.iter().all(|w| !unmet.contains(&w.kind)), "{:?}", late.places);

        let early = raced(kernel, call, "pte-read 1 madvise m0 0x0 1 dontneed");
        assert_eq!((early.met, early.freed), (Met::Ran, true));
        // What had to wait has been tried on a copy of the world.
        let waits = raced(kernel, call, "pte-read 1 munmap m0 0x0 1");
        assert_eq!((waits.met, waits.places.is_empty()), (Met::Blocked, false));
        let nothing = raced(kernel, call, "pte-read 1 unpin_user_pages h5");
        assert_eq!((nothing.met, nothing.places.len()), (Met::Nothing, 0));
        let failed = raced(kernel, call, "pte-read 1 collapse m0 0x0");
        assert_eq!(failed.met, Met::Failed);
        let nowhere = raced(kernel, call, "pte-read 9 madvise m0 0x0 1 dontneed");
        assert_eq!((nowhere.met, nowhere.idle()), (Met::Nowhere, false));
        let idle = raced(kernel, "read m1 0x0 1", "pte-read 1 madvise m0 0x0 1 dontneed");
        assert_eq!((idle.met, idle.idle()), (Met::Nowhere, true));
    }
}

#[test]
fn windows_survive_text_and_bytes() {
    let scenario = format!(
        "{MAPPED}h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM   -> 1\n\
         \x20   at entry-rmw 65535 h1 = get_user_pages m0 0x0 1 0 fail alloc 2\n\
         \x20   at barrier 1 munmap m0 0x0 1    # never\n"
    );
    let r = parse(&scenario);
    assert!(r.to_string().ends_with(&scenario), "{r}");
    let s = Scenario { ops: r.ops() };
    assert_eq!(Scenario::decode(&s.encode()), s);
    let head = "# gup reproducer, format 1\nkernel: v5.15\n";
    for (line, words) in [
        ("at pte-read 1 lru_add_drain", "`at` without an op above it"),
        ("cpu 0\nat pte-raed 1 lru_add_drain", "did you mean `pte-read`?"),
        ("cpu 0\nat pte-read 0 lru_add_drain", "which step of that kind, 1 to 65535"),
        ("cpu 0\nat pte-read 1", "the line ends; expected an op"),
    ] {
        let e = format!("{head}{line}").parse::<Reproducer>().unwrap_err();
        assert!(e.message.contains(words), "{line}: {e}");
    }
}

#[test]
fn a_window_without_an_op_is_no_op() {
    let op: Op = "read m0 0x0 1".parse().unwrap();
    let with = |window: [u8; 8]| {
        let bytes = [op.encode(), window, op.encode(), window].concat();
        Scenario::decode(&bytes).ops
    };
    let known = with([56, 0, 0, 0, 1, 0, 0, 0]);
    assert_eq!((known.len(), known[1].to_string()), (2, "at pte-read 1 read m0 0x0 1".into()));
    assert_eq!(with([56, 0, 0, 0, 255, 1, 0, 0]), [op], "there is no such step");
    let orphan = [[56, 0, 0, 0, 1, 1, 0, 0], op.encode()].concat();
    assert_eq!(Scenario::decode(&orphan).ops, []);
    // Only a program can make one; it is skipped.
    assert_eq!(Executor::new(Kernel::fixed(gup_core::history::Base::V6_12)).run(&known[1..]), None);
}
