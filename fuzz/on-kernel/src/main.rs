// SPDX-License-Identifier: GPL-2.0-only
//! /init of the guest in which scenarios run on a real kernel.
//!
//! * [`run`]: one scenario, op by op.
//! * [`process`]: its processes.
//! * [`files`]: what they map; [`disks`]: where some of that lies.
//! * [`nodes`]: where their memory comes from.
//! * [`device`]: calls and page states, by [`module`] or by [`user_space`].
//! * [`kmsg`]: what the kernel prints.
//! * [`program`]: a reproducer in C.
//! * [`touch`]: loads and stores that may fault.
//!
//! Scenarios come over the second serial port and answers go back there, as
//! `gup_fuzz::on_kernel::wire` says. The first is the kernel's console.

mod device;
mod disks;
mod files;
mod kmsg;
mod module;
mod nodes;
mod process;
mod program;
mod run;
mod touch;
mod user_space;

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use gup_fuzz::on_kernel::wire::{EXEC, GO, Line, RUN};
use gup_fuzz::scenario::Op;
use nix::fcntl::OFlag;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};

/// Without an order for so long, nobody is there any more.
const IDLE: Duration = Duration::from_secs(50);

/// What must be as the model has it.
const SETTINGS: [(&str, &str); 12] = [
    ("/sys/kernel/mm/transparent_hugepage/enabled", "madvise"),
    ("/sys/kernel/mm/transparent_hugepage/defrag", "madvise"),
    ("/sys/kernel/mm/transparent_hugepage/use_zero_page", "0"),
    ("/sys/kernel/mm/transparent_hugepage/khugepaged/scan_sleep_millisecs", "4000000000"),
    ("/sys/kernel/mm/transparent_hugepage/khugepaged/alloc_sleep_millisecs", "4000000000"),
    ("/sys/kernel/debug/fault_around_bytes", "4096"),
    ("/proc/sys/vm/overcommit_memory", "1"),
    ("/proc/sys/vm/nr_overcommit_hugepages", "64"),
    ("/proc/sys/vm/dirty_writeback_centisecs", "0"),
    ("/proc/sys/vm/page-cluster", "0"),
    ("/proc/sys/kernel/printk_ratelimit", "0"),
    ("/proc/sys/kernel/numa_balancing", "0"),
];

fn main() {
    if let Err(e) = serve() {
        eprintln!("init: {e}");
    }
    // Also if it failed: the host sees the machine go.
    reboot(RebootMode::RB_POWER_OFF).ok();
}

fn serve() -> Result<(), Box<dyn std::error::Error>> {
    for (kind, place) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        mount(Some(kind), place, Some(kind), MsFlags::empty(), None::<&str>)?;
    }
    for (file, value) in SETTINGS {
        // Not every kernel has every one.
        fs::write(file, value).ok();
    }
    // Without it there are other ways.
    if let Ok(module) = File::open("/gupdev.ko") {
        finit_module(module, c"", ModuleInitFlags::empty())?;
    }
    disks::attach();
    let mut out = serial()?;
    let input = BufReader::new(out.try_clone()?);
    let release = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    writeln!(out, "{}", Line::Ready(release.trim().into()))?;
    orders(input, &mut out)
}

/// The second serial port, as bytes.
fn serial() -> Result<File, Box<dyn std::error::Error>> {
    let port = nix::fcntl::open(
        "/dev/ttyS1",
        OFlag::O_RDWR | OFlag::O_NOCTTY,
        nix::sys::stat::Mode::empty(),
    )?;
    let port = File::from(port);
    let mut settings = tcgetattr(&port)?;
    cfmakeraw(&mut settings);
    tcsetattr(&port, SetArg::TCSANOW, &settings)?;
    Ok(port)
}

/// Runs scenarios as they come.
fn orders(mut input: BufReader<File>, out: &mut File) -> Result<(), Box<dyn std::error::Error>> {
    let mut line = String::new();
    let (mut ops, mut scale): (Vec<Op>, u32) = (Vec::new(), 1);
    loop {
        if input.buffer().is_empty() {
            let mut fds = [PollFd::new(input.get_ref().as_fd(), PollFlags::POLLIN)];
            let timeout = PollTimeout::try_from(IDLE).unwrap_or(PollTimeout::MAX);
            if poll(&mut fds, timeout)? == 0 {
                return Err("nobody is there".into());
            }
        }
        line.clear();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        match line.trim_end().split_once(' ').unwrap_or((line.trim_end(), "")) {
            (RUN, n) => {
                ops.clear();
                scale = n.parse()?;
            }
            (GO, _) => scenario(&ops, scale, out)?,
            (EXEC, name) => {
                program::run(name, &mut |line| drop(writeln!(out, "{line}")))?;
            }
            _ => ops.push(line.trim_end().parse().map_err(|e| format!("{line}: {e}"))?),
        }
    }
}

fn scenario(ops: &[Op], scale: u32, out: &mut File) -> Result<(), Box<dyn std::error::Error>> {
    // One write for an op: a byte at a time costs a switch each.
    let mut text = String::new();
    let mut say = |line: Line| {
        use std::fmt::Write;
        let op = matches!(line, Line::Answer(..) | Line::TearDown);
        if op && !text.is_empty() {
            out.write_all(text.as_bytes()).ok();
            text.clear();
        }
        writeln!(text, "{line}").ok();
    };
    let mut run = run::Run::new(ops, scale)?;
    run.run(ops, &mut say);
    run.end(&mut say);
    out.write_all(text.as_bytes())?;
    Ok(())
}
