// SPDX-License-Identifier: GPL-2.0-only
//! A reproducer as a C program: it stands alone, but for the module whose
//! device it opens.
//!
//! Each address space is a process, and every op is a step that one of them
//! does in its turn. Addresses are scaled as in a guest ([`on_kernel`]).
//!
//! [`on_kernel`]: crate::on_kernel

use std::fmt::Write;

use gup_core::model::filemap::{FILE_PAGES, File};
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{Kind, Prot};

use super::Reproducer;
use super::report::kernel_text;
use super::text::{flags_text, result_text};
use crate::on_kernel::express::{Version, not_expressible, scale, unpin_number};
use crate::scenario::{CallOp, MMS, Op, Range, Unpin, What};

const DEVICE: &str = include_str!("../../on-kernel/module/gupdev.h");
const PRELUDE: &str = include_str!("c_prelude.h");
const INCLUDES: [&str; 14] = [
    "errno.h",
    "poll.h",
    "sched.h",
    "setjmp.h",
    "signal.h",
    "stdatomic.h",
    "stdio.h",
    "string.h",
    "fcntl.h",
    "sys/ioctl.h",
    "sys/mman.h",
    "sys/syscall.h",
    "sys/wait.h",
    "unistd.h",
];

/// Why there is no program: which op, from 0, and why not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotExpressible(pub usize, pub &'static str);

/// What runs a step.
type Owner = Option<MmId>;

/// One step of the program.
struct Step {
    owner: Owner,
    op: String,
    code: String,
    /// What is said of it.
    said: bool,
}

/// Writes the program.
///
/// # Errors
/// If an op cannot be had from user space and our module.
pub fn program(r: &Reproducer) -> Result<String, NotExpressible> {
    let ops = r.ops();
    let scale = scale(&ops);
    let mut steps = Vec::new();
    let mut alive = [false; MMS as usize];
    for (i, op) in ops.iter().enumerate() {
        if let Some(why) = not_expressible(op, Version(6, 12), scale) {
            return Err(NotExpressible(i, why));
        }
        push(&mut steps, &mut alive, op, scale)
            .ok_or(NotExpressible(i, "the program has no such op"))?;
    }
    let mut out = head(r);
    let _ = writeln!(out, "#define SCALE {scale}ul");
    // Without its licence line: the program has begun with one.
    out.push_str(PRELUDE.split_once('\n').map_or(PRELUDE, |(_, rest)| rest));
    let needs = |file: &str| steps.iter().any(|s: &Step| s.code.contains(file));
    let (shmem, secretmem) = (needs("shmem"), needs("secretmem"));
    let files = [(shmem, "shmem"), (secretmem, "secretmem")];
    files.iter().filter(|f| f.0).for_each(|f| out.push_str(&format!("\nstatic int {};\n", f.1)));
    out.push_str(&body(&steps));
    out.push_str(&main_function(shmem, secretmem));
    Ok(out)
}

fn head(r: &Reproducer) -> String {
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
    out.push_str(
        " *\n * cc -Wall -o reproducer reproducer.c, and as root, on one CPU and with\n \
         * fuzz/on-kernel/module loaded: ./reproducer\n */\n#define _GNU_SOURCE\n",
    );
    INCLUDES.iter().for_each(|name| out.push_str(&format!("#include <{name}>\n")));
    let device = DEVICE.split_once("*/\n").map_or(DEVICE, |(_, rest)| rest);
    let _ = writeln!(out, "\n{device}");
    out
}

fn body(steps: &[Step]) -> String {
    let mut out =
        String::from("\n/* Which process does a step. */\nstatic const signed char owners[] = {");
    for step in steps {
        match step.owner {
            Some(mm) => out.push_str(&format!(" {},", mm.0)),
            None => out.push_str(" MAIN,"),
        }
    }
    out.push_str(" };\n\n#define STEPS (int)(sizeof(owners) / sizeof(*owners))\n");
    out.push_str("\nstatic long do_step(int step)\n{\n\tswitch (step) {\n");
    for (i, step) in steps.iter().enumerate() {
        let _ = writeln!(out, "\tcase {i}: /* {} */\n\t\treturn {};", step.op, step.code);
    }
    out.push_str("\t}\n\treturn -EINVAL;\n}\n\nstatic const char *const texts[] = {\n");
    for step in steps {
        let text = if step.said { format!("\"{}\"", step.op) } else { "NULL".into() };
        let _ = writeln!(out, "\t{text},");
    }
    out.push_str("};\n");
    out
}

fn main_function(shmem: bool, secretmem: bool) -> String {
    let mut out = String::from(
        "
static void run(int me, int step)
{
	signal(SIGSEGV, on_fault);
	signal(SIGBUS, on_fault);
	for (; step < STEPS; step++) {
		if (owners[step] == me) {
			long ret = do_step(step);

			if (texts[step] || ret < 0)
				say(texts[step] ? texts[step] : \"?\", ret);
			atomic_store(&shared->turn, step + 1);
		}
		while (atomic_load(&shared->turn) <= step)
			sched_yield();
	}
}

int main(void)
{
	device = open(\"/dev/gupdev\", O_RDWR);
	if (device < 0) {
		perror(\"/dev/gupdev: insmod gupdev.ko\");
		return 2;
	}
	shared = mmap(NULL, PAGE, PROT_READ | PROT_WRITE,
		      MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		return 2;
",
    );
    let bytes = format!("{FILE_PAGES} * SCALE * PAGE");
    for (needed, name, call) in [
        (shmem, "shmem", "memfd_create(\"gup\", 0)"),
        (secretmem, "secretmem", "syscall(SYS_memfd_secret, 0)"),
    ] {
        if needed {
            let _ = writeln!(out, "\t{name} = {call};");
            let _ = writeln!(out, "\tif (ftruncate({name}, {bytes}))\n\t\treturn 2;");
        }
    }
    out.push_str("\trun(MAIN, 0);\n\twhile (wait(NULL) > 0)\n\t\t;\n\treturn 0;\n}\n");
    out
}

/// Adds the steps of an op; `None` if there is no such step.
fn push(
    steps: &mut Vec<Step>,
    alive: &mut [bool; MMS as usize],
    op: &Op,
    scale: u32,
) -> Option<()> {
    let mut add = |owner, code: String, said| {
        steps.push(Step { owner, op: op.to_string(), code, said });
        steps.len()
    };
    let mm = match op.what {
        What::Mmap(r, ..) | What::MmapFile(r, ..) => {
            let there = std::mem::replace(&mut alive[usize::from(r.mm.0)], true);
            if !there {
                add(None, format!("start({}, step)", r.mm.0), false);
            }
            Some(r.mm)
        }
        What::Munmap(r)
        | What::Mprotect(r, _)
        | What::Dontneed(r)
        | What::Write(r)
        | What::Read(r)
        | What::SplitHugePage(r)
        | What::SplitHugePmd(r) => Some(r.mm),
        What::Fork(mm, _) | What::Exit(mm) => Some(mm),
        What::Call(c) => Some(c.range.mm),
        _ => None,
    };
    // Skipped there, too.
    if mm.is_some_and(|mm| !alive[usize::from(mm.0)]) {
        return Some(());
    }
    match op.what {
        What::Fork(_, child) => {
            if !std::mem::replace(&mut alive[usize::from(child.0)], true) {
                add(mm, format!("start({}, step)", child.0), true);
            }
        }
        What::Exit(gone) => {
            alive[usize::from(gone.0)] = false;
            add(mm, "leave(step)".into(), false);
            add(None, format!("wait_for({})", gone.0), true);
        }
        _ => {
            let code = code(&op.what, scale)?;
            add(mm, code, true);
        }
    }
    Some(())
}

fn code(what: &What, scale: u32) -> Option<String> {
    Some(match *what {
        What::Mmap(r, prot, kind) => mmap(r, prot, kind, scale),
        What::MmapFile(r, prot, map) => {
            let shared = if map.shared { "MAP_SHARED" } else { "MAP_PRIVATE" };
            let (name, offset) = (file(map.file)?, u32::from(map.pgoff) * scale);
            format!("map({}, {}, {shared}, {name}, {offset})", pages(r), prot_text(prot))
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
        What::Call(c) => call(&c),
        What::Unpin(how, h) => format!("give_back({}, {})", h.0, unpin(how)?),
        What::PutPage(h) => format!("give_back({}, GUPDEV_PUT_PAGE)", h.0),
        What::Tee(from, to) => format!("tee_pages({}, {})", from.0, to.0),
        What::DmaWrite(h) => format!("dma({}, 1)", h.0),
        What::DmaRead(h) => format!("dma({}, 0)", h.0),
        What::Truncate(f, n) => format!("result(ftruncate({}, {n} * SCALE * PAGE))", file(f)?),
        // As madvise() does on its way.
        What::LruAddDrain | What::LruAddDrainAll => "0".into(),
        What::Prefer(_) | What::Cpu(_) => "0".into(),
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
    match file {
        File::Shmem => Some("shmem"),
        File::Secretmem => Some("secretmem"),
        _ => None,
    }
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

fn unpin(how: Unpin) -> Option<String> {
    unpin_number(how).map(|_| format!("GUPDEV_{}", how.name().to_uppercase()))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;
    use crate::generators::Generator;
    use crate::scenario::Scenario;
    use gup_core::history::{Base, Kernel};

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
    fn the_seed_is_a_program() {
        let ops = [
            "mmap m0 0x0 1 rw private anon",
            "write m0 0x0 1",
            "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM",
            "fork m0 m1",
            "exit m0",
            "unpin_user_pages h0",
        ]
        .map(|l| l.parse().unwrap());
        let text = program(&of("v5.15".parse().unwrap(), &ops)).unwrap();
        assert!(text.contains("GUPDEV_WRITE | GUPDEV_LONGTERM"), "{text}");
        compiles(&text);
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
        compiles(&program(&of(kernel, &all)).unwrap());
    }

    #[test]
    fn what_it_cannot_express_is_named() {
        let op = "isolate_block 1".parse().unwrap();
        let refused = program(&of("v5.15".parse().unwrap(), &[op])).unwrap_err();
        assert_eq!(refused.0, 0);
    }
}
