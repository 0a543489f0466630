// SPDX-License-Identifier: GPL-2.0-only
//! A reproducer as a C program: it stands alone, but for the module whose
//! device it opens.
//!
//! Each address space is a process, and every op is a step that one of them
//! does in its turn. Addresses are scaled as in a guest ([`on_kernel`]). Its
//! exit status tells a kernel with the bug from one without: see the module `check`.
//!
//! [`on_kernel`]: crate::on_kernel

mod check;

use std::fmt::Write;

use gup_core::errno::Errno;
use gup_core::history::Kernel;
use gup_core::model::filemap::{File, has_page_mkwrite};
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{Kind, Prot};
use gup_core::model::zone::Prefer;

use self::check::{Check, Look};
use super::Reproducer;
use super::report::kernel_text;
use super::text::{flags_text, result_text};
use crate::on_kernel::compare::{as_guest, model};
use crate::on_kernel::express::{Version, by_io_uring, not_expressible, scale};
use crate::on_kernel::machine::GuestRun;
use crate::on_kernel::wire::Answer;
use crate::scenario::{CallOp, MMS, Op, Range, Unpin, What};

const DEVICE_TYPES: &str = include_str!("../../on-kernel/module/gupdev.h");
const PRELUDE: &str = include_str!("c/prelude.h");
const DEVICE: &str = include_str!("c/device.h");
const RING: &str = include_str!("c/ring.h");
const KMSG: &str = include_str!("c/kmsg.h");
const INCLUDES: [&str; 19] = [
    "errno.h",
    "fcntl.h",
    "linux/io_uring.h",
    "linux/memfd.h",
    "poll.h",
    "sched.h",
    "setjmp.h",
    "signal.h",
    "stdatomic.h",
    "stdio.h",
    "stdlib.h",
    "string.h",
    "sys/ioctl.h",
    "sys/mman.h",
    "sys/prctl.h",
    "sys/syscall.h",
    "sys/uio.h",
    "sys/wait.h",
    "unistd.h",
];

/// The files that a program can map: its names for them, and where it gets
/// them from.
const FILES: [(File, &str, &str); 4] = [
    (File::Regular, "regular", "open(\".\", O_TMPFILE | O_RDWR, 0600)"),
    (File::Shmem, "shmem", "memfd_create(\"gup\", 0)"),
    (File::Secretmem, "secretmem", "syscall(SYS_memfd_secret, 0)"),
    (File::Hugetlb, "hugetlb", "memfd_create(\"gup\", MFD_HUGETLB | MFD_HUGE_2MB)"),
];

/// Why there is no program: which op, from 0, and why not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotExpressible(pub usize, pub &'static str);

/// A program, and what is known of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Program {
    /// The C.
    pub text: String,
    /// It needs the module.
    pub module: bool,
    /// What its exit status tells apart, if anything does.
    pub tells: Option<String>,
}

/// What runs a step.
type Owner = Option<MmId>;

/// One step of the program.
struct Step {
    owner: Owner,
    op: String,
    code: String,
    /// What is said of it: which op, and what it should return.
    said: Option<(&'static str, Option<i64>)>,
}

/// How the program pins.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Means {
    /// By io_uring's registered buffers.
    Ring,
    /// By the module's device.
    Device,
}

/// Writes the program.
///
/// # Errors
/// If an op cannot be had from user space and our module.
pub fn program(r: &Reproducer) -> Result<Program, NotExpressible> {
    let ops = r.ops();
    let scale = scale(&ops);
    let run = |kernel| as_guest(&model(kernel, &ops), scale);
    let (bad, good) = (run(r.kernel), run(Kernel::fixed(r.kernel.base())));
    let check = check::find(&bad, &good);
    let look = check.as_ref().and_then(|c| c.look.as_ref());
    let means = means(&ops, look, &[&bad, &good], scale);
    let mut steps = Steps { all: Vec::new(), alive: [false; MMS as usize], scale, means };
    for (i, op) in ops.iter().enumerate() {
        if let Some(why) = not_expressible(op, Version(6, 12), scale) {
            return Err(NotExpressible(i, why));
        }
        let answer = good.ops.get(i).map(|ran| &ran.answer);
        let skipped = matches!(answer, Some(Answer::Skipped(_)));
        let expected = answer.and_then(|answer| expected(i, answer, &check));
        steps.push(op, skipped, expected).ok_or(NotExpressible(i, lacks(&op.what)))?;
        if let Some((c, look)) = check.as_ref().zip(look).filter(|(c, _)| c.op == i) {
            debug_assert_eq!(c.op, i);
            steps.look(op, look);
        }
    }
    let tells = check.map(|c| match c.look {
        Some(look) => look.what,
        None => format!("what op {}, {}, returns", c.op + 1, ops[c.op].name()),
    });
    let text = text(r, scale, means, &steps.all);
    Ok(Program { text, module: means == Means::Device, tells })
}

/// Why the program has no step for it.
fn lacks(what: &What) -> &'static str {
    match what {
        What::Prefer(_) | What::Migrate(_) => "a program of its own has no NUMA nodes to choose",
        _ => "the program has no such op",
    }
}

/// What a step should return on a kernel without the bug; up to the step
/// that tells.
fn expected(i: usize, answer: &Answer, check: &Option<Check>) -> Option<i64> {
    let tells = check.as_ref().is_some_and(|c| c.op == i && c.look.is_none());
    let after = check.as_ref().is_some_and(|c| c.op < i);
    match *answer {
        Answer::Returned(n) if !after => Some(n),
        Answer::Failed(e) if tells => Some(-i64::from(e)),
        Answer::Done if tells => Some(0),
        _ => None,
    }
}

/// How the program can do it: without the module if that is enough.
fn means(ops: &[Op], look: Option<&Look>, runs: &[&GuestRun], scale: u32) -> Means {
    let plain = ops.iter().all(|op| match op.what {
        What::Call(c) => by_io_uring(&c),
        What::Mmap(_, _, kind) => matches!(kind, Kind::Anon | Kind::AnonThp),
        What::PutPage(_)
        | What::Tee(..)
        | What::DmaRead(_)
        | What::DmaWrite(_)
        | What::SplitHugePage(_)
        | What::SplitHugePmd(_)
        | What::Swapout(_)
        | What::Collapse(_) => false,
        _ => true,
    });
    let mut answers = runs.iter().flat_map(|run| ops.iter().zip(&run.ops));
    let whole = answers.all(|(op, ran)| match (op.what, &ran.answer) {
        (What::Call(c), &Answer::Returned(n)) => {
            n < 0 || n == i64::from(c.range.pages) * i64::from(scale)
        }
        _ => true,
    });
    let log = look.is_none_or(|l| l.code == "warnings()");
    if plain && whole && log { Means::Ring } else { Means::Device }
}

/// A file of C without its licence line: the program has begun with one.
fn part(text: &str) -> &str {
    text.split_once('\n').map_or(text, |(_, rest)| rest)
}

fn text(r: &Reproducer, scale: u32, means: Means, steps: &[Step]) -> String {
    let mut out = head(r, means);
    let _ = writeln!(out, "#define SCALE {scale}ul\n");
    out.push_str(&errno_names());
    out.push_str(part(PRELUDE));
    out.push('\n');
    out.push_str(part(if means == Means::Ring { RING } else { DEVICE }));
    let needs = |word: &str| steps.iter().any(|s: &Step| s.code.contains(word));
    if needs("warnings()") {
        out.push_str(&format!("\n{}", part(KMSG)));
    }
    let files: Vec<_> = FILES.into_iter().filter(|f| needs(f.1)).collect();
    files.iter().for_each(|f| out.push_str(&format!("\nstatic int {};\n", f.1)));
    out.push_str(&body(steps));
    out.push_str(&main_function(&files, needs("warnings()")));
    out
}

fn head(r: &Reproducer, means: Means) -> String {
    // A comment must not end early.
    let plain = |text: &str| text.replace("*/", "* /").replace("/*", "/ *");
    let mut out = String::from("/* SPDX-License-Identifier: GPL-2.0-only */\n/*\n");
    let _ = writeln!(out, " * {}", plain(&r.title));
    let _ = writeln!(out, " * Kernel: {}\n *", kernel_text(r.kernel));
    for line in &r.story {
        let _ = writeln!(out, " * {}", plain(line));
    }
    let _ = writeln!(out, " *\n * The scenario, with what it returned there:");
    for line in &r.lines {
        let result = line.result.map(|r| format!("   -> {}", result_text(r))).unwrap_or_default();
        let _ = writeln!(out, " *   {}{result}", line.op);
    }
    let module = match means {
        Means::Ring => "",
        Means::Device => ", with fuzz/on-kernel/module loaded",
    };
    let _ = write!(
        out,
        " *\n * cc -Wall -o reproducer reproducer.c, and as root{module}:\n\
         \x20* taskset 1 ./reproducer\n\
         \x20* in a folder on ext4. Boot with movablecore=256M, or nothing lies in\n\
         \x20* ZONE_MOVABLE. Huge pages come from vm.nr_overcommit_hugepages. Exit status:\n\
         \x20* 0 as without the bug, 1 not so, 2 or a signal: it could not run.\n\
         \x20*/\n#define _GNU_SOURCE\n"
    );
    INCLUDES.iter().for_each(|name| out.push_str(&format!("#include <{name}>\n")));
    if means == Means::Device {
        let types = DEVICE_TYPES.split_once("*/\n").map_or(DEVICE_TYPES, |(_, rest)| rest);
        let _ = writeln!(out, "\n{types}");
    }
    out
}

/// Not every C library has strerrorname_np().
fn errno_names() -> String {
    let mut out = String::from("static const char *errno_name(long e)\n{\n\tswitch (e) {\n");
    for e in Errno::ALL {
        let _ = writeln!(out, "\tcase {}:\n\t\treturn \"{e}\";", *e as i32);
    }
    out.push_str("\t}\n\treturn NULL;\n}\n\n");
    out
}

fn body(steps: &[Step]) -> String {
    let mut out = String::from(
        "\n/* Which process does a step, what it is, and what it should return. */\n\
         static const struct {\n\tsigned char owner;\n\tconst char *text, *name;\n\
         \tlong expected;\n} steps[] = {\n",
    );
    for step in steps {
        let owner = step.owner.map_or("MAIN".into(), |mm| mm.0.to_string());
        let _ = match step.said {
            Some((name, expected)) => {
                let expected = expected.map_or("ANY".into(), |n| n.to_string());
                writeln!(out, "\t{{ {owner}, \"{}\",\n\t  \"{name}\", {expected} }},", step.op)
            }
            None => writeln!(out, "\t{{ {owner} }},"),
        };
    }
    out.push_str("};\n\n#define STEPS (int)(sizeof(steps) / sizeof(*steps))\n");
    out.push_str("\nstatic long do_step(int step)\n{\n\tswitch (step) {\n");
    for (i, step) in steps.iter().enumerate() {
        let _ = writeln!(out, "\tcase {i}: /* {} */\n\t\treturn {};", step.op, step.code);
    }
    out.push_str("\t}\n\treturn -EINVAL;\n}\n");
    out
}

fn main_function(files: &[(File, &str, &str)], warnings: bool) -> String {
    let mut out = String::from(
        "
static void run(int me, int step)
{
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	for (; step < STEPS; step++) {
		if (steps[step].owner == me) {
			long ret = do_step(step);

			drain();
			if (steps[step].text) {
				printf(\"%s -> %s\\n\", steps[step].text, text_of(ret));
				fflush(stdout);
				expect(steps[step].name, ret, steps[step].expected);
			}
			atomic_store(&shared->turn, step + 1);
		}
		wait_until_done(step);
	}
}

int main(void)
{
	setpgid(0, 0);
	/* To wait for those that its processes start. */
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	signal(SIGALRM, on_alarm);
	alarm(60);
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
	set_up();
",
    );
    if warnings {
        out.push_str("\tlisten();\n");
    }
    for &(file, name, call) in files {
        let length = bytes(file, file.max_pages());
        let _ = writeln!(out, "\t{name} = {call};");
        let _ = writeln!(out, "\tif (ftruncate({name}, {length})) {{");
        let _ = writeln!(out, "\t\tperror(\"{name}\");\n\t\treturn 2;\n\t}}");
    }
    out.push_str(
        "	run(MAIN, 0);
	while (wait(NULL) > 0)
		;
	tear_down();
	if (!shared->failed)
		printf(\"as without the bug\\n\");
	return shared->failed;
}
",
    );
    out
}

/// The steps of a program as they are added.
struct Steps {
    all: Vec<Step>,
    /// Which address spaces exist.
    alive: [bool; MMS as usize],
    scale: u32,
    means: Means,
}

impl Steps {
    fn add(&mut self, op: &Op, owner: Owner, code: String) {
        self.all.push(Step { owner, op: op.to_string(), code, said: None });
    }

    fn alive(&mut self, mm: MmId) -> &mut bool {
        &mut self.alive[usize::from(mm.0)]
    }

    /// Adds the steps of an op, of which the last is spoken of; `None` if
    /// there is no such step. The model may have `skipped` it.
    fn push(&mut self, op: &Op, skipped: bool, expected: Option<i64>) -> Option<()> {
        let mm = op.what.mm();
        if let What::Mmap(r, ..) | What::MmapFile(r, ..) = op.what
            && !std::mem::replace(self.alive(r.mm), true)
        {
            self.add(op, None, format!("start({}, step)", r.mm.0));
        }
        let there = mm.is_none_or(|mm| *self.alive(mm));
        match op.what {
            _ if !there => self.add(op, None, "NOT_RUN".into()),
            What::Fork(_, child) if std::mem::replace(self.alive(child), true) => {
                self.add(op, None, "NOT_RUN".into());
            }
            What::Fork(_, child) => self.add(op, mm, format!("start({}, step)", child.0)),
            What::Exit(gone) => {
                *self.alive(gone) = false;
                self.add(op, mm, "leave(step)".into());
                self.add(op, None, format!("wait_for({})", gone.0));
            }
            What::Close(_) if skipped => self.add(op, None, "NOT_RUN".into()),
            _ => {
                let code = code(&op.what, self.scale, self.means)?;
                self.add(op, mm, code);
            }
        }
        self.all.last_mut()?.said = Some((op.name(), expected));
        Some(())
    }

    /// Adds a look after an op.
    fn look(&mut self, op: &Op, look: &Look) {
        let Look { what, code, expected } = look;
        let code = format!("(expect(\"{what}\",\n\t\t\t{code}, {expected}), 0)");
        self.add(op, None, code);
    }
}

fn code(what: &What, scale: u32, means: Means) -> Option<String> {
    Some(match *what {
        What::Mmap(r, prot, kind) => mmap(r, prot, kind, scale),
        What::MmapFile(r, prot, map) => {
            let shared = if map.shared { "MAP_SHARED" } else { "MAP_PRIVATE" };
            let (name, offset) =
                (file(map.file)?, (u32::from(map.pgoff) << map.file.order()) * scale);
            let flags = format!("{shared} | MAP_NORESERVE");
            format!("map({}, {},\n\t\t\t{flags}, {name}, {offset})", pages(r), prot_text(prot))
        }
        What::Munmap(r) => format!("result(munmap(at({}), {} * SCALE * PAGE))", r.page, r.pages),
        What::Mprotect(r, prot) => {
            let len = format!("{} * SCALE * PAGE", r.pages);
            format!("result(mprotect(at({}), {len}, {}))", r.page, prot_text(prot))
        }
        What::Dontneed(r) => format!("advise({}, MADV_DONTNEED)", pages(r)),
        What::Write(r) => format!("touch({}, 1)", pages(r)),
        What::Read(r) => format!("touch({}, 0)", pages(r)),
        What::SplitHugePmd(r) => format!("split_pmd({})", r.page),
        What::SplitHugePage(r) => format!("split_page({})", r.page),
        What::Call(c) if means == Means::Ring => format!("pin({}, {})", pages(c.range), c.handle.0),
        What::Call(c) => call(&c),
        What::Unpin(_, h) if means == Means::Ring => format!("give_back({})", h.0),
        What::Unpin(how, h) => format!("give_back({}, {})", h.0, unpin(how)),
        What::PutPage(h) => format!("give_back({}, GUPDEV_PUT_PAGE)", h.0),
        What::Tee(from, to) => format!("tee_pages({}, {})", from.0, to.0),
        What::DmaWrite(h) => format!("dma_write({})", h.0),
        What::DmaRead(h) => format!("dma_read({})", h.0),
        What::Truncate(f, n) => format!("result(ftruncate({}, {}))", file(f)?, bytes(f, n.into())),
        What::Fsync(f) if !has_page_mkwrite(f) => "-EINVAL".into(),
        What::Fsync(f) => format!("result(fsync({}))", file(f)?),
        What::Close(f) => {
            let (_, name, call) = FILES.iter().find(|row| row.0 == f)?;
            format!("renew({name},\n\t\t\t{call},\n\t\t\t{})", bytes(f, f.max_pages()))
        }
        What::Swapout(r) => format!("swap_out({})", pages(r)),
        What::Collapse(r) => format!("collapse({})", r.page),
        // As madvise() does on its way.
        What::LruAddDrain | What::LruAddDrainAll => "0".into(),
        What::Prefer(Prefer::Movable) | What::Cpu(_) => "0".into(),
        _ => return None,
    })
}

fn pages(r: Range) -> String {
    format!("{}, {}", r.page, r.pages)
}

fn prot_text(prot: Prot) -> &'static str {
    match prot {
        Prot::None => "PROT_NONE",
        Prot::Read => "PROT_READ",
        Prot::ReadWrite => "PROT_READ | PROT_WRITE",
    }
}

fn file(file: File) -> Option<&'static str> {
    FILES.iter().find(|f| f.0 == file).map(|f| f.1)
}

/// So many of the file's own pages, in bytes.
fn bytes(file: File, pages: u64) -> String {
    format!("{} * SCALE * PAGE", pages << file.order())
}

fn mmap(r: Range, prot: Prot, kind: Kind, scale: u32) -> String {
    let (pages, prot) = (pages(r), prot_text(prot));
    let device =
        |kind: &str| format!("map({pages}, {prot}, MAP_SHARED, device, {kind} + 16 * {scale})");
    let anon = format!("map({pages}, {prot}, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)");
    match kind {
        Kind::Anon => anon,
        Kind::AnonThp => format!("{anon} ?:\n\t\t\tadvise({pages}, MADV_HUGEPAGE)"),
        Kind::Driver => device("GUPDEV_MAP_PAGES"),
        Kind::DriverOrder1 => device("GUPDEV_MAP_ORDER1"),
        Kind::Pfnmap => device("GUPDEV_MAP_PFN"),
    }
}

fn call(c: &CallOp) -> String {
    let flags = flags_text(c.flags).replace("FOLL_", "GUPDEV_").replace('|', " | ");
    let options = match (c.nopages, c.locked) {
        (false, false) => "0",
        (true, false) => "GUPDEV_NOPAGES",
        (false, true) => "GUPDEV_LOCKED",
        (true, true) => "GUPDEV_NOPAGES | GUPDEV_LOCKED",
    };
    let name = c.call.name().to_uppercase();
    let range = pages(c.range);
    format!("gup(GUPDEV_{name}, {range},\n\t\t\t{flags}, {options}, {})", c.handle.0)
}

fn unpin(how: Unpin) -> String {
    let words = [how.name()].into_iter().chain(how.option());
    let name = words.map(str::to_uppercase).collect::<Vec<_>>().join("_");
    format!("GUPDEV_{name}")
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::generators::Generator;
    use crate::on_kernel::express::unpin_number;
    use crate::scenario::Scenario;
    use gup_core::history::Base;

    #[test]
    fn the_module_numbers_the_ways_to_unpin_alike() {
        let (_, rest) = DEVICE_TYPES.split_once("GUPDEV_PUT_PAGE,").unwrap();
        let names = rest.split_once('}').unwrap().0.split(',').map(str::trim);
        let names: Vec<_> = names.filter(|name| !name.is_empty()).collect();
        assert_eq!(names.len(), Unpin::ALL.len());
        for &how in Unpin::ALL {
            assert_eq!(names[unpin_number(how) as usize - 1], unpin(how));
        }
    }

    /// Has the C compiler look at it.
    fn compiles(text: &str) {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("reproducer.c");
        std::fs::write(&file, text).unwrap();
        let mut cc = Command::new("cc");
        cc.args(["-Wall", "-Werror", "-fsyntax-only"]).arg(&file);
        let output = cc.output().unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{errors}\n{text}");
    }

    fn of(kernel: Kernel, ops: &[Op]) -> Reproducer {
        Reproducer { title: "ends */ early".into(), ..Reproducer::from_ops(kernel, ops) }
    }

    #[test]
    fn the_seed_is_a_program_that_needs_no_module() {
        let ops = [
            "mmap m0 0x0 1 rw private anon",
            "write m0 0x0 1",
            "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM",
            "fork m0 m1",
            "exit m0",
            "unpin_user_pages h0",
        ]
        .map(|l| l.parse().unwrap());
        let program = program(&of("v5.15".parse().unwrap(), &ops)).unwrap();
        assert_eq!(program.tells.as_deref(), Some("what op 3, pin_user_pages, returns"));
        assert!(!program.module);
        assert!(program.text.contains("IORING_REGISTER_BUFFERS"), "{}", program.text);
        compiles(&program.text);
    }

    #[test]
    fn what_no_result_tells_is_looked_at() {
        let of = |kernel: &str, lines: &[&str]| {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            let program = program(&of(kernel.parse().unwrap(), &ops)).unwrap();
            compiles(&program.text);
            assert!(program.module);
            program.tells.unwrap()
        };
        let (map, store) = ("mmap m0 0x0 1 rw private anon", "write m0 0x0 1");
        let pin = "h0 = pin_user_pages_fast m0 0x0 1 FOLL_LONGTERM";
        let told = of("v5.15 fixed without df3a0a21b698", &[map, store, pin]);
        assert_eq!(told, "m0 0x0: in ZONE_MOVABLE");
        let pin = "h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE";
        let told = of("v5.15 fixed without 70e806e4e645", &[map, pin, "fork m0 m1"]);
        assert_eq!(told, "m0 0x0 is the page of m1 0x0");
        let get = "h0 = get_user_pages m0 0x0 1 0";
        let told = of("v5.15 fixed without cd1adf1b63a1", &[map, get, "h1 = tee h0"]);
        assert_eq!(told, "a warning in the log");
        let pin = "h0 = pin_user_pages m0 0x0 1 0";
        let told = of("v6.12 fixed without c8070b787519", &[map, "read m0 0x0 1", pin]);
        assert_eq!(told, "nr_foll_pin_acquired - nr_foll_pin_released");
    }

    #[test]
    fn files_swap_and_collapse_compile() {
        for lines in [
            &["mmap m0 0x0 8 r private hugetlb 1", "read m0 0x0 8", "truncate hugetlb 1"][..],
            &["mmap m0 0x0 1 rw shared file 0", "fsync file", "fsync shmem", "truncate file 1"],
            &["close file", "close shmem", "close secretmem", "close hugetlb"],
            &["mmap m0 0x0 8 rw private anon", "swapout m0 0x0", "collapse m0 0x0"],
        ] {
            let ops: Vec<Op> = lines.iter().map(|l| l.parse().unwrap()).collect();
            compiles(&program(&of(Kernel::released(Base::V6_12), &ops)).unwrap().text);
        }
    }

    #[test]
    fn what_the_generator_draws_compiles() {
        let kernel = Kernel::released(Base::V6_12);
        let mut generator = Generator::new(9, kernel.base());
        let mut scenario = Scenario::default();
        // What can be had beside a THP can be had beside all the others.
        let thp: Op = "mmap m0 0x0 8 rw private anon thp".parse().unwrap();
        let can = |op: &Op| program(&of(kernel, &[thp, *op])).is_ok();
        let mut all = Vec::new();
        while all.len() < 64 {
            generator.scenario(&mut scenario);
            all.extend(scenario.ops.iter().copied().filter(can).take(8));
        }
        compiles(&program(&of(kernel, &all)).unwrap().text);
    }

    #[test]
    fn what_it_cannot_express_is_named() {
        let op = "isolate_block 1".parse().unwrap();
        let refused = program(&of("v5.15".parse().unwrap(), &[op])).unwrap_err();
        assert_eq!(refused.0, 0);
    }
}
