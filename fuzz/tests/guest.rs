// SPDX-License-Identifier: GPL-2.0-only
//! Guests that misbehave: whatever happens in one, there is a clear result,
//! no QEMU is left, and the next scenario runs. Guests without the module, and
//! a bug that a stock kernel has.
//!
//! They need QEMU and a kernel's headers, so `cargo gup test` runs them where
//! those are, and says so where not.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, id};
use std::time::{Duration, Instant};

use gup_fuzz::on_kernel::machine::{Guest, ProgramRun, Trouble};
use gup_fuzz::on_kernel::parts::{Choice, QEMU, compile, gather};
use gup_fuzz::on_kernel::wire::Answer;
use gup_fuzz::scenario::Op;

/// Emulators are counted by process: one test with its own at a time.
fn alone() -> File {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("guest.lock");
    let file = File::create(path).unwrap();
    file.lock().unwrap();
    file
}

/// A guest with a program in it.
fn with_program(name: &str, text: &str) -> Guest {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut guest =
        Guest::new(gather(root, &Choice::Debian("6.12".into()), true).unwrap()).unwrap();
    guest.bring(&[(name.into(), compile(text).unwrap())]).unwrap();
    guest
}

/// QEMUs that are children of a process.
fn emulators(of: u32) -> Vec<PathBuf> {
    let ours = |dir: &Path| {
        let stat = fs::read_to_string(dir.join("stat")).unwrap_or_default();
        // Its name, in parentheses, its state, its parent.
        let (name, rest) = stat.rsplit_once(')')?;
        let parent = rest.split_whitespace().nth(1)?;
        (name.contains(&QEMU[..15]) && parent == of.to_string()).then_some(())
    };
    let all = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    all.map(|entry| entry.path()).filter(|dir| ours(dir).is_some()).collect()
}

/// Runs a program that ends its guest; then a scenario, for which there must
/// be another.
fn misbehaves(name: &str, text: &str) -> ProgramRun {
    let mut guest = with_program(name, text);
    guest.silence = Duration::from_secs(20);
    let run = guest.exec(name).unwrap();
    assert_eq!((emulators(id()).len(), guest.boots().0), (0, 1), "{run:?}");
    let ops = ["mmap m0 0x0 1 rw private anon", "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE"];
    let ops: Vec<Op> = ops.map(|l| l.parse().unwrap()).into();
    let next = guest.run(&ops, 1).unwrap();
    assert_eq!(next.ops[1].answer, Answer::Returned(1), "{next:?}");
    assert_eq!((emulators(id()).len(), guest.boots().0), (1, 2));
    drop(guest);
    assert_eq!(emulators(id()).len(), 0, "a stray process");
    run
}

#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn a_guest_that_misbehaves_is_named_and_replaced() {
    let _alone = alone();
    let run = misbehaves(
        "crash",
        "#include <stdio.h>
         #include <unistd.h>
         int main(void)
         {
             puts(\"before\");
             fflush(stdout);
             sleep(2); /* until init has passed it on */
             FILE *f = fopen(\"/proc/sysrq-trigger\", \"w\");
             fputs(\"c\", f);
             fclose(f);
             return 0;
         }",
    );
    let Some(Trouble::Died(console)) = &run.trouble else { panic!("{run:?}") };
    assert!(console.contains("sysrq triggered crash"), "{console}");
    assert_eq!(run.printed, ["before"]);

    let run = misbehaves(
        "hang",
        "#include <sched.h>
         #include <stdio.h>
         int main(void)
         {
             struct sched_param first = { .sched_priority = 99 };
             FILE *f = fopen(\"/proc/sys/kernel/sched_rt_runtime_us\", \"w\");
             fputs(\"-1\", f);
             fclose(f);
             if (sched_setscheduler(0, SCHED_FIFO, &first))
                 return 1;
             for (;;)
                 ;
         }",
    );
    assert!(matches!(run.trouble, Some(Trouble::Hung(_))), "{run:?}");
    assert_eq!(run.status, None);

    let run = misbehaves(
        "flood",
        "#include <stdio.h>
         int main(void)
         {
             FILE *f = fopen(\"/dev/console\", \"w\");
             while (fputs(\"again and again and again\\n\", f) >= 0)
                 ;
             return 1;
         }",
    );
    let Some(Trouble::Flooded(console)) = &run.trouble else { panic!("{run:?}") };
    assert!(console.contains("again and again"), "{console}");
}

/// What `cargo gup confirm` prints of a scenario, and its exit status.
fn confirm(args: &[&str], text: &str) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenario.gup");
    fs::write(&file, text).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_gup"));
    let output = command.arg("confirm").args(args).arg(&file).output().unwrap();
    let error = String::from_utf8_lossy(&output.stderr);
    (format!("{}{error}", String::from_utf8_lossy(&output.stdout)), output.status.code())
}

/// Waits until something is so.
fn wait_until(what: &str, is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() {
        assert!(start.elapsed() < Duration::from_secs(60), "never {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The guest itself powers off only where it runs, and after a while.
#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn no_emulator_is_left_if_we_are_killed() {
    let _alone = alone();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("scenario.gup");
    fs::write(&file, PLAIN).unwrap();
    // All that a boot needs is there from now on.
    drop(with_program("nothing", "int main(void) { return 0; }"));
    let mut gup = Command::new(env!("CARGO_BIN_EXE_gup"));
    let gup = gup.arg("confirm").arg(&file).stdout(Stdio::null()).stderr(Stdio::null());
    let mut gup = gup.spawn().unwrap();
    wait_until("booted", || !emulators(gup.id()).is_empty());
    let qemu = emulators(gup.id());
    gup.kill().unwrap();
    gup.wait().unwrap();
    let killed = Instant::now();
    wait_until("gone", || qemu.iter().all(|dir| !dir.exists()));
    assert!(killed.elapsed() < Duration::from_secs(20), "it went by itself");
}

/// Why `numa_hint` is not expressible.
#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn user_space_cannot_ask_for_numa_hints_of_a_range() {
    let _alone = alone();
    let mut guest = with_program(
        "lazy",
        "#include <errno.h>
         #include <stdio.h>
         #include <sys/mman.h>
         #include <sys/syscall.h>
         #include <unistd.h>
         int main(void)
         {
             enum { MPOL_PREFERRED = 1, MPOL_MF_MOVE = 2, MPOL_MF_LAZY = 8 };
             unsigned long nodes = 1;
             char *m = mmap(0, 8192, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             m[0] = 1;
             if (syscall(SYS_mbind, m, 4096, MPOL_PREFERRED, &nodes, 64, MPOL_MF_MOVE))
                 return 2;
             errno = 0;
             syscall(SYS_mbind, m, 4096, MPOL_PREFERRED, &nodes, 64,
                     MPOL_MF_MOVE | MPOL_MF_LAZY);
             return errno != EINVAL;
         }",
    );
    let run = guest.exec("lazy").unwrap();
    assert_eq!(run.status, Some(0), "{run:?}");
}

/// Without its line breaks.
fn flat(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Pins, gets and page states without the module, and more than one process.
const PLAIN: &str = "# gup reproducer, format 1
kernel: v5.15
oracle: errno

mmap m0 0x0 4 rw private anon
write m0 0x0 2
read m0 0x2000 1
h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM
h1 = get_user_pages_fast m0 0x0 3 0
h2 = tee h1
fork m0 m1
write m1 0x0 2
swapout m1 0x1000
read m1 0x1000 1
put_page h1
h3 = pin_user_pages_fast m1 0x8000 1 FOLL_WRITE|FOLL_LONGTERM
unpin_user_pages h0
exit m0
migrate m1 0x0
put_page h2
";

#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn without_the_module_a_scenario_is_confirmed_and_the_rest_is_named() {
    let same = "does not happen: the kernel does as v6.12";
    let (with, status) = confirm(&[], PLAIN);
    assert!(with.contains(same) && status == Some(0), "{with}");
    assert!(!with.contains("WITHOUT") && !with.contains("without the module"), "{with}");

    let (without, status) = confirm(&["--no-module"], PLAIN);
    assert!(without.contains(&format!("{same}; compared without the module")), "{without}");
    assert_eq!(status, Some(0));
    assert!(without.contains("WITHOUT THE MODULE:"), "{without}");
    assert!(without.contains("Not compared: contents of pages"), "{without}");
    // The pinned page, which is not movable any more.
    for row in ["m0:0x0     1025     1     0 a\n", "m1:0x1000 swap entry"] {
        assert!(without.contains(row), "{row}: {without}");
    }
    assert!(!without.contains("(kernel)"), "{without}");

    let more = PLAIN.replace("tee h1", "get_user_pages m0 0x0 1 FOLL_WRITE");
    let (refused, status) = confirm(&["--no-module"], &more);
    assert!(refused.contains("not expressible: op 6: without the module"), "{refused}");
    assert_eq!(status, Some(0));
}

/// fork() makes a page of hugetlbfs writable that its mapping is not: the
/// regression hugetlb-fork-writable, with pages of PMD size. Stock 6.12 does.
const HAPPENS: &str = "# gup reproducer, format 1
kernel: v6.12
oracle: errno

mmap m0 0x0 8 r private hugetlb 0
h0 = pin_user_pages_fast m0 0x0 1 0
fork m0 m1
h1 = get_user_pages_fast m1 0x0 1 FOLL_WRITE
";

#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn a_bug_that_the_kernel_has_is_found_by_scenario_and_program() {
    let (said, status) = confirm(&["--c"], HAPPENS);
    let what = "happens: the kernel does as v6.12, which violates errno in get_user_pages_fast()";
    assert!(flat(&said).contains(&format!("{what}; the C program, too")), "{said}");
    assert!(said.contains("what tells: m1 0x0: writable"), "{said}");
    assert!(said.contains("m1 0x0: writable: 1, expected 0"), "{said}");
    assert_eq!(status, Some(1), "{said}");
}

#[test]
#[ignore = "needs QEMU and a kernel's headers: cargo gup test"]
fn a_file_without_a_program_says_why() {
    let text = PLAIN.replace("h2 = tee h1", "prefer normal");
    let (said, _) = confirm(&["--c", "--brief"], &text);
    assert!(flat(&said).contains("no C program: op 6: a program of its own has no"), "{said}");
}
