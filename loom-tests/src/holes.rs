// SPDX-License-Identifier: GPL-2.0-only
//! `cargo loom --holes`: what can be done to the fast path, and which race
//! notices.
//!
//! On the first run of a race each access of the fast path is noted with what
//! could be done to it: [`Mutant`]. Then each that no race has noticed so far
//! is done, at all places that are the same statement of the port.
// What has been noticed is shared by the tests, not by the CPUs of a race.
#![allow(clippy::disallowed_types)]

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{LazyLock, Mutex};
use std::{env, fs, panic};

use gup_core::mutant::{self, Change, Mutant, Task};
use gup_core::step::StepKind;

/// The frames in which the place of a step is told from others.
const FRAMES: usize = 24;

/// Functions of the fast path: what is called by one of them, and not by one
/// of [`SLOW`], belongs to it.
const FAST: [&str; 6] = [
    "gup_fast",
    "gup_fast_fallback",
    "internal_get_user_pages_fast",
    "lockless_pages_from_mm",
    "try_grab_compound_head",
    "try_grab_folio_fast",
];
/// Where the fast path goes on as the slow one. One that ends by calling the
/// next may have left the stack by then.
const SLOW: [&str; 4] = [
    "__gup_longterm_locked",
    "__gup_longterm_unlocked",
    "__get_user_pages_locked",
    "__get_user_pages",
];

/// What has been noticed; at first what the file says that `LOOM_HOLES` names.
static NOTICED: LazyLock<Mutex<BTreeSet<String>>> = LazyLock::new(|| {
    let file = env::var_os("LOOM_HOLES").unwrap_or_default();
    let text = fs::read_to_string(file).unwrap_or_default();
    Mutex::new(text.lines().map(String::from).collect())
});

thread_local! {
    /// The addresses of each place, and what kind of step is there.
    static PLACES: RefCell<HashMap<u64, (StepKind, Vec<usize>)>> = RefCell::default();
    /// The kinds of step that matter in this run: of all others the place is 0.
    static KINDS: RefCell<Option<HashSet<StepKind>>> = const { RefCell::new(None) };
}

/// A CPU is about to take a step of this kind.
pub(crate) fn before(kind: StepKind) {
    if !mutant::is_on() {
        return;
    }
    let matters = KINDS.with_borrow(|kinds| kinds.as_ref().is_none_or(|k| k.contains(&kind)));
    mutant::at(if matters { place(kind) } else { 0 });
}

/// The number of the place that runs.
fn place(kind: StepKind) -> u64 {
    let mut addresses = Vec::with_capacity(FRAMES);
    backtrace::trace(|frame| {
        addresses.push(frame.ip().addr());
        addresses.len() < FRAMES
    });
    let mut hasher = DefaultHasher::new();
    (&addresses, kind).hash(&mut hasher);
    let place = hasher.finish();
    PLACES.with_borrow_mut(|places| {
        places.entry(place).or_insert((kind, addresses));
    });
    place
}

/// The functions of a place, from the inside to the outside, each with its file
/// and line.
fn functions(addresses: &[usize]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for &address in addresses {
        // The address is behind the call.
        let inside = std::ptr::without_provenance_mut(address.saturating_sub(1));
        backtrace::resolve(inside, |symbol| {
            let name = symbol.name().map(|name| format!("{name:#}")).unwrap_or_default();
            let name = name.rsplit("::").find(|part| !part.starts_with('{')).unwrap_or_default();
            let file = symbol.filename().map(|f| f.display().to_string()).unwrap_or_default();
            let line = symbol.lineno().unwrap_or_default();
            all.push((name.to_string(), format!("{file}:{line}")));
        });
    }
    all
}

/// The statement of the fast path that takes a step at these addresses, and the
/// functions of the model that it calls for that; `None` if it is not of the
/// fast path, or if a page is being freed, which is not of mm/gup.c.
fn statement(kind: StepKind, addresses: &[usize]) -> Option<String> {
    let all = functions(addresses);
    let calls = |names: &[&str]| all.iter().any(|(name, _)| names.contains(&name.as_str()));
    if !calls(&FAST) || calls(&SLOW) || calls(&["__put_page"]) {
        return None;
    }
    let at = all.iter().position(|(_, place)| place.contains("gup-core/src/gup/"))?;
    let (function, place) = &all[at];
    let line = place.rsplit('/').next()?;
    // What the model is made of, such as Cpu::step(), is the same everywhere.
    let inner = all[..at].iter().rev().map(|(name, _)| name.as_str());
    let inner: Vec<_> = inner.take_while(|name| !["step", "show"].contains(name)).collect();
    Some(format!("{function}() {line} {}: {}", inner.join("/"), kind.slug()))
}

/// What is done, in words.
fn in_words(m: &Mutant) -> String {
    let change = match m.change {
        Change::Unordered => "unordered",
        Change::Stale => "stale",
        Change::LeftOut => "left out",
        Change::Torn => "torn",
    };
    match (m.access, m.after) {
        ("fence", after) if !after.is_empty() => format!("fence after {after} {change}"),
        (access, _) => format!("{access} {change}"),
    }
}

/// Whether it says something of the step to do `change` to it. To repeat what
/// was loaded is to leave out a look at something; a read-modify-write that
/// starts from an old value just tries again.
fn is_a_mutant(kind: StepKind, change: Change) -> bool {
    let reads = kind.is_read() || matches!(kind, StepKind::SeqRead | StepKind::SeqRetry);
    change != Change::Stale || reads
}

/// Does one thing after the other to the fast path of a race, if no race has
/// noticed it yet. `run` explores the race and answers whether it failed, and
/// after how many interleavings.
pub(crate) fn look(name: &str, text: &str, base: &str, mut run: impl FnMut() -> (bool, usize)) {
    // A mutant may make a race panic, and nobody wants to read that.
    panic::set_hook(Box::new(|_| {}));
    PLACES.take();
    KINDS.set(None);
    mutant::set(Task::Note(BTreeSet::new()));
    let (failed, count) = run();
    if failed {
        println!("loom: {name} on {text}: does not hold, with nothing changed");
        panic!("it must hold");
    }
    let Task::Note(all) = mutant::set(Task::Nothing) else { unreachable!("the task was to note") };
    println!("loom: {name} on {text}: {count} interleavings with nothing changed");
    let places = PLACES.take();
    let mut statements: BTreeMap<String, Vec<Mutant>> = BTreeMap::new();
    for m in all {
        let Some((kind, addresses)) = places.get(&m.place) else { continue };
        if let (true, Some(what)) = (is_a_mutant(*kind, m.change), statement(*kind, addresses)) {
            let key = format!("{base} {what} {}", in_words(&m));
            statements.entry(key).or_default().push(m);
        }
    }
    for (key, mutants) in statements {
        if NOTICED.lock().expect("no panic under it").contains(&key) {
            continue;
        }
        let kinds = mutants.iter().filter_map(|m| places.get(&m.place)).map(|(kind, _)| *kind);
        KINDS.set(Some(kinds.collect()));
        mutant::set(Task::Do(mutants));
        let (failed, count) = run();
        mutant::set(Task::Nothing);
        let how = if failed { "noticed after" } else { "not noticed in" };
        println!("loom: mutant: {key}; {how} {count} interleavings of {name}");
        if failed {
            NOTICED.lock().expect("no panic under it").insert(key);
        }
    }
}
