// SPDX-License-Identifier: GPL-2.0-only
//! A guest that runs, and dies.
//!
//! Many scenarios run in one boot. After a WARN, or when the guest crashed,
//! hung or flooded its console, the next one gets a fresh boot. Whatever
//! happens, QEMU is gone when its [`Guest`] is, or the thread that booted it:
//! also if we are killed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::disks;
use super::parts::{Parts, QEMU, emulator};
use super::wire::{Answer, EXEC, GO, Line, RUN, Seen};
use crate::cli::Failure;
use crate::exec::Slot;
use crate::scenario::Op;

/// A boot takes 3 to 6 s on an idle machine.
const BOOT: Duration = Duration::from_secs(180);
/// The longest that a guest says nothing: six times what its init waits for
/// an op.
const SILENCE: Duration = Duration::from_secs(60);
/// The longest console, in bytes: about 10,000 lines.
const MAX_CONSOLE: u64 = 1 << 20;
/// The longest answer to one order.
const MAX_ANSWER: usize = 4 << 20;
/// How often the console is looked at.
const TICK: Duration = Duration::from_millis(200);

/// The kernel's command line. Movable memory is taken from the large nodes.
const APPEND: &str = "console=ttyS0 nokaslr mitigations=off quiet loglevel=4 panic=-1 \
                      movablecore=320M secretmem.enable=1";
/// NUMA nodes 0 and 1 are large enough to have movable memory, 2 and 3 are
/// not: see on-kernel/src/nodes.rs. More than 512 MiB in all, or THP is off.
const NODES: [&str; 4] = ["512M", "320M", "96M", "96M"];
const ARGS: [&str; 16] = [
    "-accel",
    "tcg",
    "-M",
    "q35",
    "-cpu",
    "max,la57=off",
    "-smp",
    "1",
    "-m",
    "1G",
    "-nodefaults",
    "-no-user-config",
    "-display",
    "none",
    "-no-reboot",
    "-append",
];

/// What ended a guest before its scenario did.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trouble {
    /// It is gone; the end of its console.
    Died(String),
    /// It says nothing any more; the end of its console.
    Hung(String),
    /// It printed without end; the beginning of that.
    Flooded(String),
}

impl Trouble {
    /// In one word.
    pub fn name(&self) -> &'static str {
        match self {
            Trouble::Died(_) => "died",
            Trouble::Hung(_) => "hung",
            Trouble::Flooded(_) => "flooded its console",
        }
    }

    /// What it printed.
    pub fn console(&self) -> &str {
        let (Trouble::Died(text) | Trouble::Hung(text) | Trouble::Flooded(text)) = self;
        text
    }
}

/// One op of a run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// What it came to.
    pub answer: Answer,
    /// What the kernel printed: warnings and worse.
    pub kernel: Vec<String>,
    /// NR_FOLL_PIN_ACQUIRED and _RELEASED since the scenario began.
    pub pins: (i64, i64),
    /// Every page in use after it.
    pub slots: BTreeMap<Slot, Seen>,
}

/// A scenario on a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct GuestRun {
    /// Op by op, as far as it came.
    pub ops: Vec<Ran>,
    /// How it was when all had been given back.
    pub end: Option<Ran>,
    /// What ended it early.
    pub trouble: Option<Trouble>,
    /// It ran without the module, which shows the rest.
    pub no_module: bool,
}

impl GuestRun {
    /// Whether the kernel warned of anything.
    pub fn warned(&self) -> bool {
        self.ops.iter().chain(&self.end).flat_map(|op| &op.kernel).any(|l| is_bad(l))
    }

    /// Whether a process of it was lost, which may be anywhere by now.
    fn lost(&self) -> bool {
        self.ops.iter().any(|op| matches!(op.answer, Answer::Lost(_)))
    }
}

/// Whether a kernel says in this line that something went wrong.
pub(super) fn is_bad(line: &str) -> bool {
    ["WARNING:", "BUG", "Oops", "cut here", "Kernel panic"].iter().any(|w| line.contains(w))
}

/// A program on a kernel.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct ProgramRun {
    /// What it printed.
    pub printed: Vec<String>,
    /// What the kernel printed: warnings and worse.
    pub kernel: Vec<String>,
    /// Its exit status; 128 and more: the signal that ended it.
    pub status: Option<i64>,
    /// What ended the guest.
    pub trouble: Option<Trouble>,
}

/// A QEMU process with a guest in it.
#[derive(Debug)]
struct Machine {
    qemu: Child,
    orders: ChildStdin,
    lines: Receiver<String>,
    console: PathBuf,
    /// The longest that it says nothing.
    silence: Duration,
}

/// What has been heard of an order.
struct Heard {
    bytes: usize,
    /// When the console was last looked at.
    looked: Instant,
}

impl Default for Heard {
    fn default() -> Heard {
        Heard { bytes: 0, looked: Instant::now() }
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // Both fail only if it is gone already.
        self.qemu.kill().ok();
        self.qemu.wait().ok();
    }
}

impl Machine {
    /// Boots and waits until the guest takes scenarios.
    fn boot(parts: &Parts, console: &Path, silence: Duration) -> Result<Machine, Failure> {
        let mut qemu = emulator();
        for (i, size) in NODES.iter().enumerate() {
            qemu.arg("-object").arg(format!("memory-backend-ram,id=ram{i},size={size}"));
            let cpus = if i == 0 { ",cpus=0" } else { "" };
            qemu.arg("-numa").arg(format!("node,nodeid={i},memdev=ram{i}{cpus}"));
        }
        qemu.args(ARGS).arg(APPEND).arg("-kernel").arg(&parts.image);
        qemu.arg("-initrd").arg(&parts.initrd).args(disks::arguments(&parts.disks));
        qemu.arg("-serial").arg(format!("file:{}", console.display())).args(["-serial", "stdio"]);
        Machine::start(qemu, console, silence).map_err(|(message, trouble)| {
            let (image, initrd) = (parts.image.display(), parts.initrd.display());
            let console = trouble.map(|t| format!("\n{}", t.console())).unwrap_or_default();
            let next = format!("{QEMU} -m 1G -kernel {image} -initrd {initrd}");
            Failure::new(format!("{message}{console}"), next)
        })
    }

    /// Starts the emulator and waits until the guest takes scenarios.
    fn start(
        mut qemu: Command,
        console: &Path,
        silence: Duration,
    ) -> Result<Machine, (String, Option<Trouble>)> {
        let failed = |e: std::io::Error| (format!("{QEMU}: {e}"), None);
        qemu.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        fs::write(console, "").map_err(failed)?;
        let mut qemu = qemu.spawn().map_err(failed)?;
        let (orders, answers) = (qemu.stdin.take(), qemu.stdout.take());
        let (Some(orders), Some(answers)) = (orders, answers) else {
            return Err((format!("{QEMU} has no pipes"), None));
        };
        let (send, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(answers).lines().map_while(Result::ok) {
                if send.send(line).is_err() {
                    return;
                }
            }
        });
        let machine = Machine { qemu, orders, lines, console: console.into(), silence };
        match machine.line(BOOT, &mut Heard::default()) {
            Ok(Line::Ready(_)) => Ok(machine),
            Ok(line) => Err((format!("the guest began with `{line}`"), None)),
            Err(trouble) => Err((format!("the guest {}", trouble.name()), Some(trouble))),
        }
    }

    /// The next line from the guest. What else comes over the wire is noise.
    fn line(&self, silence: Duration, heard: &mut Heard) -> Result<Line, Trouble> {
        let mut last = Instant::now();
        loop {
            if heard.looked.elapsed() >= TICK {
                self.console_is_finite()?;
                heard.looked = Instant::now();
            }
            match self.lines.recv_timeout(TICK) {
                Ok(text) => {
                    heard.bytes += text.len() + 1;
                    if heard.bytes > MAX_ANSWER {
                        return Err(Trouble::Flooded(format!("over the wire: {text}")));
                    }
                    if let Ok(line) = text.trim_end().parse() {
                        return Ok(line);
                    }
                    last = Instant::now();
                }
                Err(RecvTimeoutError::Disconnected) => return Err(Trouble::Died(self.tail())),
                Err(RecvTimeoutError::Timeout) if last.elapsed() > silence => {
                    return Err(Trouble::Hung(self.tail()));
                }
                Err(RecvTimeoutError::Timeout) => {}
            }
        }
    }

    fn console_is_finite(&self) -> Result<(), Trouble> {
        if fs::metadata(&self.console).map_or(0, |m| m.len()) <= MAX_CONSOLE {
            return Ok(());
        }
        let head = self.console_lines().into_iter().take(20).collect::<Vec<_>>();
        Err(Trouble::Flooded(head.join("\n")))
    }

    fn console_lines(&self) -> Vec<String> {
        let text = fs::read(&self.console).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(|l| l.trim_end().into()).collect()
    }

    /// The console from where something went wrong on, else its end.
    fn tail(&self) -> String {
        let lines = self.console_lines();
        let end = lines.len().saturating_sub(20);
        let from = lines.iter().position(|l| is_bad(l)).unwrap_or(end);
        lines[from..].iter().take(40).cloned().collect::<Vec<_>>().join("\n")
    }

    fn run(&mut self, ops: &[Op], scale: u32) -> GuestRun {
        let mut text = format!("{RUN} {scale}\n");
        ops.iter().for_each(|op| text.push_str(&format!("{op}\n")));
        text.push_str(&format!("{GO}\n"));
        let mut run = GuestRun::default();
        run.trouble = self.order(&text, |line| run.note(line)).err();
        run
    }

    fn exec(&mut self, name: &str) -> ProgramRun {
        let mut run = ProgramRun::default();
        let result = self.order(&format!("{EXEC} {name}\n"), |line| match line {
            Line::Printed(text) => run.printed.push(text),
            Line::Kernel(text) => run.kernel.push(text),
            Line::Answer(_, Answer::Returned(status)) => run.status = Some(status),
            _ => {}
        });
        run.trouble = result.err();
        run
    }

    /// Gives an order and hears what comes of it.
    fn order(&mut self, text: &str, mut note: impl FnMut(Line)) -> Result<(), Trouble> {
        if self.orders.write_all(text.as_bytes()).is_err() {
            return Err(Trouble::Died(self.tail()));
        }
        let mut heard = Heard::default();
        loop {
            match self.line(self.silence, &mut heard)? {
                Line::End => return Ok(()),
                line => note(line),
            }
        }
    }
}

impl GuestRun {
    /// Takes a line of the guest's.
    fn note(&mut self, line: Line) {
        match line {
            Line::Answer(_, answer) => return self.ops.push(self.next(answer)),
            Line::TearDown => return self.end = Some(self.next(Answer::Done)),
            _ => {}
        }
        let Some(last) = self.end.as_mut().or(self.ops.last_mut()) else { return };
        match line {
            Line::Kernel(text) => last.kernel.push(text),
            Line::Pins(acquired, released) => last.pins = (acquired, released),
            Line::Now(slot, seen) => drop(last.slots.insert(slot, seen)),
            Line::Gone(slot) => drop(last.slots.remove(&slot)),
            _ => {}
        }
    }

    /// An op about which only this is known: the rest is as it was.
    fn next(&self, answer: Answer) -> Ran {
        let (pins, slots) = match self.ops.last() {
            Some(last) => (last.pins, last.slots.clone()),
            None => Default::default(),
        };
        Ran { answer, kernel: Vec::new(), pins, slots }
    }
}

/// Boots a kernel as often as it takes.
#[derive(Debug)]
pub struct Guest {
    parts: Parts,
    machine: Option<Machine>,
    /// Where its console goes, and the archive that is for this guest only:
    /// dropped after the machine that writes there.
    dir: TempDir,
    /// The longest that it may say nothing, from the next boot on: after that
    /// it hangs.
    pub silence: Duration,
    boots: u32,
    booting: Duration,
}

impl Guest {
    /// A guest that boots when it is first needed. What is its own is in a
    /// folder beside its archive, and gone with it.
    ///
    /// # Errors
    /// If there cannot be such a folder.
    pub fn new(parts: Parts) -> Result<Guest, Failure> {
        let beside = parts.initrd.with_file_name("");
        let dir = tempfile::Builder::new().prefix("guest-").tempdir_in(&beside);
        let next = format!("ls -ld {}", beside.display());
        let dir = dir.map_err(|e| Failure::new(format!("{}: {e}", beside.display()), next))?;
        let (machine, silence, booting) = (None, SILENCE, Duration::ZERO);
        Ok(Guest { parts, machine, dir, silence, boots: 0, booting })
    }

    /// Brings programs along, by name, from the next boot on.
    ///
    /// # Errors
    /// If the archive cannot be written.
    pub fn bring(&mut self, programs: &[(String, Vec<u8>)]) -> Result<(), Failure> {
        self.machine = None;
        self.parts.bring(programs, &self.dir.path().join("initrd"))
    }

    /// The kernel's release.
    pub fn release(&self) -> &str {
        &self.parts.release
    }

    /// Why it has no module, if it has none.
    pub fn no_module(&self) -> Option<&Failure> {
        self.parts.no_module.as_ref()
    }

    /// How often it booted, and how long that took in all.
    pub fn boots(&self) -> (u32, Duration) {
        (self.boots, self.booting)
    }

    /// Runs a scenario.
    ///
    /// # Errors
    /// If it does not boot. What happens to the guest later is an answer.
    pub fn run(&mut self, ops: &[Op], scale: u32) -> Result<GuestRun, Failure> {
        let mut run = self.booted()?.run(ops, scale);
        run.no_module = self.parts.no_module.is_some();
        if run.warned() || run.trouble.is_some() || run.lost() {
            self.machine = None;
        }
        Ok(run)
    }

    /// Runs a program of those that the archive has.
    ///
    /// # Errors
    /// As [`Guest::run`].
    pub fn exec(&mut self, name: &str) -> Result<ProgramRun, Failure> {
        let run = self.booted()?.exec(name);
        if !run.kernel.is_empty() || run.trouble.is_some() || run.status.is_none_or(|s| s > 2) {
            self.machine = None;
        }
        Ok(run)
    }

    fn booted(&mut self) -> Result<&mut Machine, Failure> {
        match &mut self.machine {
            Some(machine) => Ok(machine),
            none => {
                let start = Instant::now();
                let console = self.dir.path().join("console");
                let machine = Machine::boot(&self.parts, &console, self.silence)?;
                self.boots += 1;
                self.booting += start.elapsed();
                Ok(none.insert(machine))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Something else in QEMU's place.
    fn guest(script: &str) -> (tempfile::TempDir, Result<Machine, (String, Option<Trouble>)>) {
        let dir = tempfile::tempdir().unwrap();
        let console = dir.path().join("console");
        let mut sh = Command::new("sh");
        sh.args(["-c", script, "sh"]).arg(&console);
        let machine = Machine::start(sh, &console, SILENCE);
        (dir, machine)
    }

    fn ops() -> Vec<Op> {
        ["mmap m0 0x0 1 rw private anon", "write m0 0x0 1"].map(|l| l.parse().unwrap()).into()
    }

    #[test]
    fn answers_are_booked_for_their_ops_and_noise_is_passed_over() {
        let (_dir, machine) = guest(
            "echo noise; echo ready x; read run; read a; read b; read go
             echo '= 0 done'; echo 's 0 0'; echo '[ 0.1] noise'; echo '= 1 failed 14'
             echo 'k WARNING: CPU'; echo 's 2 1'; echo '- m0.0'; echo '~'; echo 's 2 2'; echo .
             exec sleep 60",
        );
        let run = machine.unwrap().run(&ops(), 1);
        let answers: Vec<_> = run.ops.iter().map(|op| &op.answer).collect();
        assert_eq!(answers, [&Answer::Done, &Answer::Failed(14)]);
        assert_eq!((run.ops[1].pins, run.end.as_ref().unwrap().pins), ((2, 1), (2, 2)));
        assert!(run.warned() && run.trouble.is_none());
    }

    #[test]
    fn a_guest_that_dies_leaves_what_it_said_and_its_console() {
        let (_dir, machine) = guest(
            "echo ready x; read run; read a; echo '= 0 done'; echo 'Kernel panic' > $1; exit 1",
        );
        let run = machine.unwrap().run(&ops(), 1);
        assert_eq!(run.ops.len(), 1);
        assert_eq!(run.trouble, Some(Trouble::Died("Kernel panic".into())));
    }

    #[test]
    fn a_panic_is_shown_from_its_first_line_on() {
        let (_dir, machine) = guest(
            "echo ready x; read run
             (echo early; echo 'Kernel panic: why'; seq 100) > $1; exit 1",
        );
        let trouble = machine.unwrap().run(&ops(), 1).trouble.unwrap();
        assert!(trouble.console().starts_with("Kernel panic: why\n1\n2\n"), "{trouble:?}");
    }

    #[test]
    fn a_guest_that_floods_its_console_is_stopped() {
        let (_dir, machine) =
            guest("echo ready x; read run; yes oops | head -c 2000000 > $1; exec sleep 60");
        let mut machine = machine.unwrap();
        let pid = machine.qemu.id();
        let run = machine.run(&ops(), 1);
        assert_eq!(run.trouble.as_ref().map(Trouble::name), Some("flooded its console"));
        assert!(run.trouble.is_some_and(|t| t.console().starts_with("oops\n")));
        drop(machine);
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "a stray process");
    }

    #[test]
    fn a_guest_that_answers_while_it_floods_its_console_is_stopped() {
        let (_dir, machine) = guest(
            "echo ready x; read run; yes oops | head -c 2000000 > $1
             while echo 'k oops'; do sleep 0.05; done",
        );
        let run = machine.unwrap().run(&ops(), 1);
        assert_eq!(run.trouble.as_ref().map(Trouble::name), Some("flooded its console"));
    }

    #[test]
    fn a_program_that_prints_without_end_is_stopped() {
        let (_dir, machine) = guest("echo ready x; read exec; exec yes 'p again'");
        let run = machine.unwrap().exec("yes");
        assert_eq!(run.trouble, Some(Trouble::Flooded("over the wire: p again".into())));
        assert!(run.printed.len() > 1000);
    }

    #[test]
    fn a_guest_that_says_nothing_hangs() {
        let (_dir, machine) = guest("echo ready x; echo stuck > $1; exec sleep 60");
        let hung =
            machine.unwrap().line(Duration::from_millis(300), &mut Heard::default()).unwrap_err();
        assert_eq!(hung, Trouble::Hung("stuck".into()));
    }

    #[test]
    fn a_guest_that_does_not_boot_is_a_failure() {
        let (_dir, machine) = guest("exit 1");
        assert_eq!(
            machine.unwrap_err(),
            ("the guest died".into(), Some(Trouble::Died(String::new())))
        );
    }
}
