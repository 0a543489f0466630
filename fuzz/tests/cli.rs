// SPDX-License-Identifier: GPL-2.0-only
//! The command line: exit codes, and what it says when something is wrong.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const SEED: &str = "# gup reproducer, format 1
kernel: v5.15
oracle: errno

mmap m0 0x0 1 rw private anon
write m0 0x0 1
h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM
";

/// What a command printed, and its exit code.
struct Ran {
    code: Option<i32>,
    out: String,
    err: String,
}

fn gup(args: &[&str]) -> Ran {
    let output = command(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gup"));
    command.args(args);
    command
}

/// The command must fail, and name what is wrong and what to type next.
fn refused(args: &[&str], words: &str) {
    let ran = gup(args);
    assert_eq!(ran.code, Some(2), "{args:?}: {}", ran.err);
    assert!(ran.err.contains(words), "{args:?}: {}", ran.err);
    let next = ran.err.contains("next:  ") || ran.err.contains("try '--help'");
    assert!(next, "{args:?} does not say what to type next: {}", ran.err);
}

/// A folder with the seed in it.
fn with_seed() -> (TempDir, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = write(dir.path(), "seed.gup", SEED);
    (dir, file)
}

fn write(dir: &Path, name: &str, text: &str) -> String {
    let path = dir.join(name);
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().into()
}

#[test]
fn replay_ends_with_0_if_it_holds_and_with_1_if_not() {
    let (_dir, seed) = with_seed();
    let ran = gup(&["replay", &seed]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert!(ran.out.contains("violates errno in pin_user_pages()"), "{}", ran.out);
    assert!(ran.out.contains("next: cargo gup report"), "{}", ran.out);
    let ran = gup(&["replay", "--steps", "--kernel", "v5.15 with c36c04c2e132", &seed]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("holds"), "{}", ran.out);
    assert!(ran.out.contains("pte-read"), "{}", ran.out);
}

#[test]
fn raw_inputs_of_cargo_fuzz_are_replayed() {
    let dir = tempfile::tempdir().unwrap();
    let ops = SEED.parse::<gup_fuzz::repro::Reproducer>().unwrap().ops();
    let path = dir.path().join("crash-0123");
    fs::write(&path, gup_fuzz::scenario::Scenario { ops }.encode()).unwrap();
    let path = path.to_str().unwrap();
    let ran = gup(&["replay", "--target", "fast_vs_slow", "--kernel", "v5.15", path]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    assert_eq!(gup(&["replay", path]).code, Some(0), "fixed without --kernel");
}

#[test]
fn minimise_and_report_print_what_can_be_sent() {
    let (dir, _) = with_seed();
    let long = write(dir.path(), "long.gup", &SEED.replace("write", "cpu 1\nwrite"));
    let ran = gup(&["minimise", &long]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let small = write(dir.path(), "small.gup", &ran.out);
    assert!(!ran.out.contains("cpu"), "{}", ran.out);
    let ran = gup(&["report", &small]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    assert!(ran.out.contains("Fixes: 54d516b1d62f"), "{}", ran.out);
    refused(&["report", "--kernel", "v5.15 fixed", &small], "no oracle fires on v5.15 fixed");
    refused(&["minimise", "--kernel", "v5.15 fixed", &small], "no oracle fires");
}

#[test]
fn what_is_unknown_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let bad = |old: &str, new: &str, words: &str| {
        let file = write(dir.path(), "bad.gup", &SEED.replace(old, new));
        refused(&["replay", &file], words);
    };
    bad("v5.15", "v9.99", "unknown base `v9.99`");
    bad("v5.15", "v5.15 with 0123456789ab", "unknown commit `0123456789ab`");
    bad("mmap m0", "mmop m0", "did you mean `mmap`?");
    bad("FOLL_WRITE", "FOLL_WRITES", "did you mean `FOLL_WRITE`?");
    bad("h0 =", "h99 =", "bad.gup:7:1: unknown slot `h99`");
    bad("errno", "luck", "unknown oracle `luck`");
    refused(&["replay", "--kernel", "v9.99", "x"], "unknown base `v9.99`");
    refused(&["judge", "--no-loom", "v5.15 with nothing"], "unknown commit `nothing`");
    refused(&["judge", "v5.15 with proposal:magic"], "unknown proposal `magic`");
    refused(&["seeds", "--oracle", "luck"], "luck");
    refused(&["nightly", "--minutes", "0"], "--minutes");
    refused(&["frobnicate"], "frobnicate");
}

#[test]
fn missing_files_and_folders_are_named() {
    let (dir, seed) = with_seed();
    refused(&["replay", "no/such/file.gup"], "no/such/file.gup");
    refused(&["replay"], "FILES");
    let empty = write(dir.path(), "empty", "");
    refused(&["replay", &empty], "no op in it");
    // A file is where a folder should be: fails for root, too.
    refused(&["nightly", "--out", &seed], "cannot write to");
    let out = dir.path().join("out");
    let args = ["nightly", "--out", out.to_str().unwrap(), "--corpus", &seed];
    refused(&args, "cannot keep a corpus in");
}

/// Arguments of a night that leaves nothing outside of `dir`.
fn night(dir: &Path, rest: &[&str]) -> Vec<String> {
    let path = |name| dir.join(name).to_str().unwrap().to_string();
    let mut args = vec!["nightly".into(), "--out".into(), path("out")];
    args.extend(["--corpus".into(), path("corpus")]);
    args.extend(rest.iter().map(ToString::to_string));
    args
}

fn run_night(dir: &Path, rest: &[&str]) -> Ran {
    let args = night(dir, rest);
    gup(&args.iter().map(String::as_str).collect::<Vec<_>>())
}

/// The reproducers in a report folder.
fn reproducers(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir.join("out")).unwrap().map(|e| e.unwrap().path());
    entries.map(|p| p.join("reproducer.gup")).filter(|p| p.exists()).collect()
}

#[test]
fn a_night_finds_the_seed_and_writes_it_down() {
    let dir = tempfile::tempdir().unwrap();
    let ran = run_night(dir.path(), &["--kernel", "v5.15", "--minutes", "0.1", "--json"]);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let summary: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    let findings = summary["findings"].as_array().unwrap();
    let seeds = findings.iter().filter(|f| f["introduced"] == "54d516b1d62f");
    // It shows in several calls, in some of them less plainly.
    let seed = seeds.min_by_key(|f| f["ops"].as_u64()).unwrap();
    assert_eq!(seed["oracle"], "errno");
    assert_eq!(seed["fixed"], "c36c04c2e132");
    assert!(seed["ops"].as_u64().unwrap() <= 3);
    let keys: Vec<_> = findings.iter().map(|f| (&f["oracle"], &f["function"])).collect();
    assert!(keys.iter().all(|k| keys.iter().filter(|l| l == &k).count() == 1), "{keys:?}");
    let folder = dir.path().join("out").join(seed["folder"].as_str().unwrap());
    for file in ["reproducer.gup", "report.txt", "artifact", "log"] {
        assert!(folder.join(file).exists(), "{file}");
    }
    for file in reproducers(dir.path()) {
        assert_eq!(gup(&["replay", file.to_str().unwrap()]).code, Some(1), "{file:?}");
    }
    assert!(dir.path().join("out/summary.md").exists());
    assert!(fs::read_dir(dir.path().join("corpus/sequence")).unwrap().count() > 0);
}

#[test]
fn a_night_on_the_fixed_kernel_is_silent() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        // The second time, with the corpus of the first.
        let ran = run_night(dir.path(), &["--minutes", "0.02", "--seed", "1"]);
        assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
        assert!(ran.out.contains("holds on v5.15 fixed"), "{}", ran.out);
    }
}

#[test]
#[cfg(unix)]
fn ctrl_c_is_a_clean_stop_with_findings_kept() {
    let dir = tempfile::tempdir().unwrap();
    let args = night(dir.path(), &["--kernel", "v5.15", "--minutes", "10"]);
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let child = command(&args).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    while !dir.path().join("out/summary.json").exists() {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let out = String::from_utf8(output.stdout).unwrap();
    assert!(out.contains("Stopped by Ctrl-C"), "{out}");
    assert!(!reproducers(dir.path()).is_empty());
}

#[test]
fn the_other_verbs_answer() {
    let ran = gup(&["kernels"]);
    assert_eq!(ran.code, Some(0));
    assert!(ran.out.contains("slow-grab-is-fast") && ran.out.contains("54d516b1d62f"));
    let json = gup(&["kernels", "--json"]).out;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["defects"][0]["fixed"]["id"], "c36c04c2e132");
    let ran = gup(&["seeds", "--seeds", "2", "--limit", "50000", "--oracle", "errno"]);
    assert!(ran.out.contains("2 of 2 seeds found it"), "{}", ran.out);
    let args = ["judge", "--no-loom", "--json", "--executions", "2000", "v5.15"];
    let ran = gup(&args);
    assert_eq!(ran.code, Some(1), "{}", ran.err);
    let rows: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert!(rows[0]["violates"].as_array().unwrap().iter().any(|o| o == "errno"), "{rows}");
}

#[test]
fn every_verb_has_help() {
    let verbs =
        ["nightly", "replay", "minimise", "report", "judge", "seeds", "kernels", "test", "loom"];
    for verb in verbs {
        let ran = gup(&[verb, "--help"]);
        assert_eq!(ran.code, Some(0), "{verb}");
        assert!(ran.out.contains("Examples:"), "{verb}");
    }
}

#[test]
fn a_reader_that_has_read_enough_is_no_panic() {
    let mut child =
        command(&["kernels"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Nobody reads: the first line that is printed meets a closed pipe.
    drop(child.stdout.take());
    let ended = child.wait_with_output().unwrap();
    assert!(ended.stderr.is_empty(), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn confirm_names_what_is_missing_and_how_to_get_it() {
    let (dir, seed) = with_seed();
    refused(&["confirm", "no-such-file"], "no-such-file");
    let none = dir.path().to_str().unwrap();
    let output = command(&["confirm", &seed]).env("PATH", none).output().unwrap();
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{err}");
    assert!(err.contains("qemu-system-x86_64 is not there"), "{err}");
    assert!(err.contains("next:  sudo apt-get install qemu-system-x86"), "{err}");
}

/// What `confirm` says where these tools, each a script, are all there is.
fn confirm_with(tools: &[(&str, &str)], args: &[&str]) -> Ran {
    use std::os::unix::fs::PermissionsExt;
    let (dir, seed) = with_seed();
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for (name, script) in tools {
        let file = bin.join(name);
        fs::write(&file, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
    let mut command = command(&[&["confirm", &seed], args].concat());
    command.env("PATH", &bin).env("CARGO_TARGET_DIR", dir.path().join("target"));
    let output = command.output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
}

#[test]
fn what_a_guest_lacks_is_named_with_the_command_that_gets_it() {
    let (qemu, apt_cache) = ("qemu-system-x86_64", "apt-cache");
    let release = "6.12.999-cloud-amd64";
    let knows = format!("echo linux-image-{release} - Linux");
    let image = ["--vmlinux", "no-such-image"];
    type Tools<'a> = &'a [(&'a str, &'a str)];
    let setpriv = ("setpriv", "");
    let lacks: [(Tools, &[&str], &str, &str); 7] = [
        (&[], &[], "qemu-system-x86_64 is not there", "sudo apt-get install qemu-system-x86"),
        (&[(qemu, "")], &[], "setpriv --pdeathsig is not there", "apt-get install util-linux"),
        (&[(qemu, ""), setpriv], &[], "apt-cache: ", "confirm --vmlinux FILE --headers FOLDER"),
        (&[(qemu, ""), setpriv, (apt_cache, "")], &[], "linux-image-6.12.*", "apt-get update"),
        (
            &[(qemu, ""), setpriv, (apt_cache, &knows)],
            &[],
            "apt-get: ",
            "apt-get download linux-image-",
        ),
        (&[(qemu, ""), setpriv], &image, "no-such-image: ", "cargo gup confirm --help"),
        (&[(qemu, ""), setpriv], &["--headers", "x"], "--vmlinux", "--help"),
    ];
    for (tools, args, what, next) in lacks {
        let ran = confirm_with(tools, args);
        assert_eq!(ran.code, Some(2), "{tools:?}: {}{}", ran.out, ran.err);
        assert!(ran.err.contains(what) && ran.err.contains(next), "{tools:?}: {}", ran.err);
    }
}
