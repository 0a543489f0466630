// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's own mm/gup.c in the world of the port.
#![cfg(feature = "real-gup")]

#[path = "against_c/tables.rs"]
mod tables;

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::history::{Base, Defect, Kernel};
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock};
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::{Cpu, Limits, Page, World};
use gup_core::splat::SplatKind;
use gup_fuzz::exec::Executor;
use gup_fuzz::exec::against::Against;
use gup_fuzz::generators::Generator;
use gup_fuzz::real::{self, against_c, base, explain};
use gup_fuzz::repro::report::{judge, known_of_c, subject_text};
use gup_fuzz::repro::text;
use gup_fuzz::scenario::{Op, Scenario};
use gup_fuzz::subject::{Chosen, RealGup};

fn kernel() -> Kernel {
    Kernel::fixed(base())
}

#[test]
fn the_c_runs_in_the_world() {
    let world = World::new(Limits::FUZZ);
    let (cpu, mm) = (Cpu::new(&world, kernel(), 0), MmId(0));
    mm_alloc(&cpu, mm).unwrap();
    mmap(&cpu, mm, 0x0, 2, Prot::ReadWrite, Kind::Anon).unwrap();
    let mut pages = [Page::UNSET; 2];
    mmap_read_lock(&cpu, mm);
    let n = real_gup::get_user_pages(&cpu, 0x0, 2, Foll::WRITE, Some(&mut pages), None);
    mmap_read_unlock(&cpu, mm);
    assert_eq!((n, pages), (Ok(2), [Page(64), Page(65)]));
    assert_eq!(world.look(Page(64)).refcount, 3, "mapped, in a batch, and ours");
    assert_eq!(cpu.splats(), []);
}

#[test]
fn a_bug_of_the_c_ends_the_call() {
    let world = World::new(Limits::FUZZ);
    let (cpu, mm) = (Cpu::new(&world, kernel(), 0), MmId(0));
    mm_alloc(&cpu, mm).unwrap();
    mmap(&cpu, mm, 0x0, 1, Prot::ReadWrite, Kind::Anon).unwrap();
    let get =
        || real_gup::get_user_pages(&cpu, 0x0, 1, Foll::WRITE, Some(&mut [Page::UNSET]), None);
    cpu.begin_op(mm, None);
    if real_gup::text().since(6, 3) {
        assert_eq!(get(), Err(Errno::EFAULT), "mmap_lock is not held");
    } else {
        let (pages, locked) = (Some(&mut [Page::UNSET][..]), Some(&mut false));
        let flags = Foll::WRITE;
        let r = real_gup::get_user_pages_remote(&cpu, mm, 0, 1, flags, pages, None, locked);
        assert_eq!(r, Err(Errno::EFAULT), "*locked says that mmap_lock is not held");
    }
    let splats: Vec<_> = cpu.splats().iter().map(|s| (s.kind, s.function)).collect();
    assert_eq!(splats, [(SplatKind::Bug, "__get_user_pages_locked")]);
    // The way in is as it was.
    mmap_read_lock(&cpu, mm);
    assert_eq!(get(), Ok(1));
    mmap_read_unlock(&cpu, mm);
}

#[test]
fn each_step_has_its_line_of_the_c() {
    let world = World::new(Limits::FUZZ);
    let (cpu, mm) = (Cpu::new(&world, kernel(), 0), MmId(0));
    mm_alloc(&cpu, mm).unwrap();
    mmap(&cpu, mm, 0x0, 1, Prot::ReadWrite, Kind::Anon).unwrap();
    real_gup::sites::keep(true);
    cpu.begin_op(mm, None);
    let mut pages = [Page::UNSET];
    let n = real_gup::get_user_pages_fast(&cpu, 0x0, 1, Foll::WRITE, Some(&mut pages));
    assert_eq!(n, Ok(1));
    let sites = real_gup::sites::kept();
    real_gup::sites::keep(false);
    let lines: Vec<String> = sites.iter().map(|s| s.describe()).collect();
    let names = |name: &str| lines.iter().any(|l| l.starts_with(&format!("{name}() mm/gup.c:")));
    // An accessor, a plain load of an entry, and a call that goes on in Rust.
    let [fast, walker] = if real_gup::text().since(6, 10) {
        ["gup_fast", "gup_fast_pgd_range"]
    } else {
        ["lockless_pages_from_mm", "gup_pgd_range"]
    };
    assert!(names(fast) && names(walker) && names("faultin_page"), "{lines:#?}");
}

#[test]
fn the_c_takes_the_same_steps_every_time() {
    let mut against = Against::new(kernel(), RealGup, RealGup);
    let (mut generator, mut s) = (Generator::new(1, base()), Scenario::default());
    for _ in 0..2_000 {
        generator.scenario(&mut s);
        assert_eq!(against.run(&s.ops), None);
    }
    assert!(against.ops_run().compared() > 10_000);
}

/// Nothing differs, or the test fails with two columns of steps.
fn same(against: &mut gup_fuzz::real::PortAgainstC, ops: &[Op]) {
    if against.run(ops).is_some() {
        panic!("\n{}", explain(against, ops).unwrap_or_default());
    }
}

#[test]
fn the_port_is_the_c_on_every_tracked_scenario() {
    let mut against = against_c();
    let (mut seen, mut with_windows) = (0, 0);
    for dir in ["seeds", "regressions"] {
        let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
        for file in std::fs::read_dir(dir).unwrap().flatten() {
            let r = text::parse(&std::fs::read(file.path()).unwrap()).unwrap();
            let ops = r.ops();
            same(&mut against, &ops);
            seen += 1;
            with_windows += usize::from(ops.iter().any(|op| op.at.is_some()));
        }
    }
    assert!(seen > 10 && with_windows > 4, "{seen} scenarios, {with_windows} with windows");
}

/// What a text is known to do wrong: each row of history.rs that is about
/// gup.c and open in its base shows on the C by its regression.
#[test]
fn what_the_text_is_known_to_do_shows_on_the_c_and_is_told_from_news() {
    let expected = match base() {
        Base::V5_15 => &[
            Defect::SlowGrabIsFast,
            Defect::PinOfPfnPte,
            Defect::IsolateIsPinnable,
            Defect::ArchErrorIsSuccess,
            Defect::SecretmemOffLru,
        ][..],
        Base::V6_12 if real_gup::text().since(6, 12) => &[Defect::ArchErrorIsSuccess],
        Base::V6_12 => &[
            Defect::ArchErrorIsSuccess,
            // Enough for the fast path's, too: that falls back to it.
            Defect::LongtermWriteToFile,
            Defect::LongtermReadNotUnshared,
        ],
    };
    // No port has all that a text between the bases does.
    let all_known = base() == Base::V5_15 || real_gup::text().since(6, 12);
    let mut on_c = Executor::with_subject(kernel(), Chosen::C);
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions");
    let mut known = Vec::new();
    for file in std::fs::read_dir(dir).unwrap().flatten() {
        let r = text::parse(&std::fs::read(file.path()).unwrap()).unwrap();
        let Some(finding) = judge(&mut on_c, &r.ops()) else { continue };
        let defect = known_of_c(real::kernel(), &r.ops(), &finding);
        assert!(defect.is_some() || !all_known, "{}: {finding:?}", r.title);
        known.extend(defect);
        // The same rule in another function is something else.
        let other = gup_fuzz::exec::Finding { function: "get_dump_page", ..finding };
        assert_eq!(known_of_c(real::kernel(), &r.ops(), &other), None);
    }
    known.sort_by_key(|&d| d as u32);
    known.dedup();
    assert_eq!(known, expected);
}

#[test]
fn reports_name_the_text() {
    let text = real_gup::text();
    assert_eq!(text.sha256.len(), 64);
    let title = Chosen::C.title("v6.12 fixed".into());
    assert!(title.starts_with(&format!("mm/gup.c of {}", text.release)), "{title}");
    assert!(title.contains(if text.known { "known text" } else { "new text" }), "{title}");
    assert!(title.contains(&text.sha256[..12]), "{title}");
    assert_eq!(subject_text(kernel()), kernel().to_string(), "the port is its kernel");
}

#[test]
fn the_port_is_the_c_on_random_scenarios() {
    let mut against = against_c();
    let (mut generator, mut s) = (Generator::new(7, base()), Scenario::default());
    for _ in 0..10_000 {
        generator.scenario(&mut s);
        same(&mut against, &s.ops);
    }
    assert!(against.ops_run().compared() > 50_000);
}

#[test]
fn the_port_is_the_c_in_windows() {
    let mut against = against_c();
    let (mut generator, mut s) = (Generator::new(8, base()), Scenario::default());
    for i in 0..8_000 {
        match i % 4 {
            0 => generator.race(&mut s),
            _ => generator.aim(&mut s, against.raced()),
        }
        same(&mut against, &s.ops);
    }
    assert!(against.ops_run().compared() > 30_000);
}

#[test]
fn a_window_names_the_line_of_the_c() {
    let text = "# gup reproducer, format 1\nkernel: v6.12 fixed\n\n\
        mmap m0 0x0 1 rw private anon\nwrite m0 0x0 1\n\
        h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE\n    at pte-read 2 madvise m0 0x0 1 dontneed\n";
    let ops = text::parse(text.as_bytes()).unwrap().ops();
    let trace = Executor::with_subject(kernel(), RealGup).trace(&ops);
    let place = trace.lines[3].place.as_deref().unwrap_or_default();
    let walker = if real_gup::text().since(6, 10) { "gup_fast_pte_range" } else { "gup_pte_range" };
    assert!(place.contains(&format!(" in {walker}() mm/gup.c:")), "{place}");
}

/// Each file tells the story. It is hugetlbfs or files, which base v5.15 has
/// not, or does not mind.
#[test]
fn what_the_c_of_6_1_does_wrong_is_seen() {
    if base() == Base::V5_15 {
        return;
    }
    for (file, oracle) in [
        ("seeds/longterm-pin-of-movable-hugetlb.gup", "splat"),
        ("seeds/nofault-on-hugetlb.gup", "errno"),
        ("seeds/longterm-pin-of-nothing-yet.gup", "reliability"),
        ("regressions/longterm-write-to-file.gup", "permission"),
        ("regressions/fast-longterm-write-to-file.gup", "permission"),
    ] {
        let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(file);
        let ops = text::parse(&std::fs::read(path).unwrap()).unwrap().ops();
        let found = Executor::with_subject(kernel(), RealGup).run(&ops).map(|f| f.oracle);
        let expected = (!real_gup::text().since(6, 6)).then_some(oracle);
        assert_eq!(found, expected, "{file}");
    }
}
