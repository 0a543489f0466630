// SPDX-License-Identifier: GPL-2.0-only
//! Every tracked scenario, both ways.
//!
//! A regression (`regressions/*.gup`) fires its oracle on its kernel, and is
//! silent on the same kernel without what explains it, and on the fixed one.
//! What `history.rs` says windows show, one of them shows; what it says loom
//! alone does, a loom test does. A seed (`seeds/*.gup`) is silent on the fixed
//! kernel: it shows what scenarios look like, and corpora begin with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;

use gup_core::history::{Defect, Kernel, Reach, Safeguard};
use gup_fuzz::exec::Executor;
use gup_fuzz::repro::report::{culprit, judge, report, without};
use gup_fuzz::repro::{Reproducer, text};

/// The files of a folder, parsed.
fn files(folder: &str) -> Vec<(String, Reproducer)> {
    let read = |path: PathBuf| {
        let name = path.display().to_string();
        let bytes = fs::read(&path).unwrap();
        let r = text::parse(&bytes).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(r.to_string().as_bytes(), bytes, "{name}: not as it would be printed");
        assert!(!r.title.is_empty() && !r.story.is_empty(), "{name}: tells no story");
        (name, r)
    };
    let all: Vec<_> = paths(folder).into_iter().map(read).collect();
    assert!(!all.is_empty(), "{folder}: no files");
    all
}

fn paths(folder: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "gup")).collect()
}

fn fires_on(kernel: Kernel, r: &Reproducer) -> Option<&'static str> {
    judge(&mut Executor::new(kernel), &r.ops()).map(|f| f.oracle)
}

#[test]
fn regressions_fire_with_their_defect_and_not_without() {
    for (name, r) in files("regressions") {
        let oracle = r.oracle.as_deref().unwrap_or_else(|| panic!("{name}: names no oracle"));
        assert_eq!(fires_on(r.kernel, &r), Some(oracle), "{name} on {}", r.kernel);
        let culprit = culprit(r.kernel, &r.ops(), oracle);
        let culprit = culprit.unwrap_or_else(|| panic!("{name}: no defect explains it"));
        for kernel in [without(r.kernel, culprit), Kernel::fixed(r.kernel.base())] {
            assert_ne!(fires_on(kernel, &r), Some(oracle), "{name} on {kernel}");
        }
        assert_eq!(fires_on(Kernel::fixed(r.kernel.base()), &r), None, "{name}");
    }
}

/// Whether a scenario fires on `kernel`, and is silent on `without` and on the
/// fixed kernel.
fn tells(r: &Reproducer, kernel: Kernel, without: Kernel) -> bool {
    let silent = |k| fires_on(k, r).is_none();
    fires_on(kernel, r).is_some() && silent(without) && silent(Kernel::fixed(kernel.base()))
}

#[test]
fn a_regression_shows_each_safeguard_on_each_base_unless_only_loom_does() {
    let all = files("regressions");
    let rows = Safeguard::ALL.iter().flat_map(|&s| s.reach().iter().map(move |&row| (s, row)));
    for (s, (base, reach)) in rows.filter(|(_, (_, reach))| !matches!(reach, Reach::Loom(_))) {
        let twin = s.twin(base);
        let mut its_own = all.iter().filter(|(_, r)| r.kernel.lacks(s));
        let shown = its_own.any(|(_, r)| tells(r, twin, twin.with_safeguard(s)));
        assert!(shown, "no regression shows {twin}; reach: {reach:?}");
    }
}

#[test]
fn a_regression_shows_each_defect_that_windows_show() {
    let all = files("regressions");
    for &d in Defect::ALL.iter().filter(|d| d.info().reach == Reach::Race) {
        let mut its_own = all.iter().filter(|(_, r)| r.kernel.has(d));
        let shown = its_own.any(|(_, r)| tells(r, r.kernel, r.kernel.without_defect(d)));
        assert!(shown, "no regression shows {}", d.info().slug);
    }
}

/// The source of the loom tests.
fn twins() -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../loom-tests/tests/races");
    let files = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    files.filter(|path| path.is_file()).map(|path| fs::read_to_string(path).unwrap()).collect()
}

#[test]
fn a_loom_test_fails_without_each_safeguard_and_each_fix_of_a_race() {
    let twins = twins();
    let has = |change: String| twins.contains(&change);
    for &s in Safeguard::ALL {
        assert!(has(format!("without safeguard:{}\"", s.slug())), "{s:?}");
    }
    for &d in Defect::ALL.iter().filter(|d| d.info().reach != Reach::Sequence) {
        let fix = d.info().fixed.expect("a race that is known is fixed").id;
        assert!(has(format!("without {fix}")), "{d:?}");
    }
}

#[test]
fn regressions_have_a_report() {
    for (name, r) in files("regressions") {
        assert!(report(&r).unwrap().contains("\nOrigin\n"), "{name}");
    }
}

#[test]
fn seeds_are_silent_on_the_fixed_kernel() {
    for (name, r) in files("seeds") {
        assert_eq!(fires_on(Kernel::fixed(r.kernel.base()), &r), None, "{name}");
    }
}

#[test]
fn every_prefix_and_every_change_of_a_byte_ends_well() {
    let spoil = |path: PathBuf| {
        let mut bytes = fs::read(path).unwrap();
        (0..bytes.len()).for_each(|end| drop(text::parse(&bytes[..end])));
        for i in 0..bytes.len() {
            let old = bytes[i];
            for b in 0..=u8::MAX {
                bytes[i] = b;
                let _ = text::parse(&bytes);
            }
            bytes[i] = old;
        }
    };
    let all = [paths("seeds"), paths("regressions")].concat();
    thread::scope(|scope| {
        for path in all {
            scope.spawn(move || spoil(path));
        }
    });
}
