// SPDX-License-Identifier: GPL-2.0-only
//! What `cargo loom --replay` and `--unbounded` do, shown on a small race: this
//! binary runs itself.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// A twin that takes some hundred interleavings to fail, within a bound.
const TWIN: &str = "fast_get_against_table_free::found_without_the_wait";

/// What a test prints with `set` in its environment.
fn run(test: &str, set: &[(&str, &str)], target: &Path) -> String {
    let mut command = Command::new(env::current_exe().expect("it runs"));
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    command.env_remove("GUP_KERNEL").env("CARGO_TARGET_DIR", target).envs(set.iter().copied());
    let output = command.output().expect("it can be run again");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// An empty folder of the test `name`.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if folder.exists() {
        fs::remove_dir_all(&folder).expect("it is ours");
    }
    folder
}

/// How often the race ran on each kernel.
fn interleavings(out: &str) -> Vec<u64> {
    let counts = out.lines().filter_map(|line| line.split_once(" interleavings"));
    counts.map(|(head, _)| head.rsplit(' ').next().unwrap_or(head).parse().unwrap()).collect()
}

/// The steps that were printed.
fn columns(out: &str) -> Vec<&str> {
    let steps = out.lines().skip_while(|line| !line.starts_with("CPU 0"));
    steps.take_while(|line| !line.starts_with("loom: ")).collect()
}

#[test]
fn what_is_found_is_saved_and_replayed_at_once() {
    let target = folder("replay");
    let found = run(TWIN, &[("LOOM_REPLAY", "1")], &target);
    assert!(interleavings(&found).iter().all(|&n| n > 1), "{found}");
    assert!(found.contains("saved as"), "{found}");
    let steps = columns(&found);
    let right = steps.iter().filter(|line| line.starts_with(' ')).count();
    assert!(right > 1 && right + 2 < steps.len(), "steps of both CPUs: {found}");

    let again = run(TWIN, &[("LOOM_REPLAY", "1")], &target);
    assert!(interleavings(&again).iter().all(|&n| n == 1), "{again}");
    assert!(!again.contains("saved as"), "{again}");
    assert_eq!(columns(&again), steps, "the same interleaving");
}

#[test]
fn unbounded_means_all() {
    let bounded = run(TWIN, &[], &folder("bounded"));
    assert!(bounded.contains("interleavings, stopped, preemption bound 3, "), "{bounded}");
    let all = run(TWIN, &[("LOOM_UNBOUNDED", "1")], &folder("unbounded"));
    assert!(all.contains("interleavings, stopped, all, "), "{all}");
}
