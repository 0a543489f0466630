// SPDX-License-Identifier: GPL-2.0-only
//! Runs one scenario: starts its processes, has each op done, and says what
//! changed.
//!
//! The rules for what is skipped are the executor's, and so are the tokens
//! that stores leave behind, so that both can be laid side by side.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gup_core::model::filemap::{File as ModelFile, has_page_mkwrite};
use gup_core::model::mm::MmId;
use gup_core::model::zone::Prefer;
use gup_fuzz::exec::Slot;
use gup_fuzz::on_kernel::express::unpin_number;
use gup_fuzz::on_kernel::wire::{Answer, Line, Seen, SeenFlags};
use gup_fuzz::scenario::{CallOp, HANDLES, Handle, MMS, Op, PAGES, Range, Unpin, What};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::mman::{MapFlags, MmapAdvise, ProtFlags, madvise, mmap_anonymous};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, fsync};

use crate::device::{self, Device, Row, Stat};
use crate::files::Files;
use crate::kmsg::Kmsg;
use crate::nodes;
use crate::process::{self, Pipes, Told, address};

/// An op that takes longer hangs: software emulation needs some tens of
/// milliseconds for the largest.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A process of the scenario.
struct Process {
    pid: Pid,
    /// Its number in the model.
    number: u16,
    /// Pages that were ever mapped, one bit each.
    used: u64,
}

/// What a call handed out.
struct Held {
    pinned: bool,
    write: bool,
    /// The process it was made in, by its number in the model.
    number: u16,
    /// Pages of the model.
    pages: u32,
}

/// A scenario that runs.
pub struct Run {
    scale: u32,
    device: Rc<dyn Device>,
    pipes: Rc<Pipes>,
    files: Rc<Files>,
    processes: [Option<Process>; MMS as usize],
    handles: [Option<Held>; HANDLES as usize],
    stores: u64,
    numbers: u16,
    prefer: Prefer,
    before: Stat,
    seen: BTreeMap<Slot, Seen>,
    kmsg: Kmsg,
    rows: Vec<Row>,
}

const NO_PROCESS: &str = "no such process";
const NO_HANDLE: &str = "no such handle";

fn skipped(why: &str) -> Answer {
    Answer::Skipped(why.into())
}

impl Run {
    /// A scenario of these ops, in which one page of the model is `scale` pages
    /// here.
    pub fn new(ops: &[Op], scale: u32) -> std::io::Result<Run> {
        let device = device::open()?;
        let before = device.stat()?;
        Ok(Run {
            scale,
            device,
            pipes: Rc::new(Pipes::new()?),
            files: Rc::new(Files::new(scale, ops)),
            processes: [const { None }; MMS as usize],
            handles: [const { None }; HANDLES as usize],
            stores: 0,
            numbers: 0,
            prefer: Prefer::default(),
            before,
            seen: BTreeMap::new(),
            kmsg: Kmsg::open()?,
            rows: Vec::new(),
        })
    }

    /// Runs the ops, up to one after which nothing can be said any more.
    pub fn run(&mut self, ops: &[Op], say: &mut dyn FnMut(Line)) {
        for (i, op) in ops.iter().enumerate() {
            let answer = self.op(op);
            let last = matches!(answer, Answer::Lost(_) | Answer::Cannot(_));
            say(Line::Answer(i, answer));
            self.observe(say);
            if last {
                break;
            }
        }
    }

    /// Gives everything back and says how the statistics came out.
    pub fn end(mut self, say: &mut dyn FnMut(Line)) {
        say(Line::TearDown);
        for h in 0..HANDLES {
            if let Some(held) = self.handles[usize::from(h)].take() {
                let unpin = unpin_number(Unpin::Pages);
                self.device.release(h, if held.pinned { unpin } else { device::PUT_PAGE }).ok();
            }
        }
        for p in self.processes.iter_mut().filter_map(Option::take) {
            kill(p.pid, Signal::SIGKILL).ok();
            waitpid(p.pid, None).ok();
        }
        nodes::set_preference(Prefer::default()).ok();
        drain();
        self.observe(say);
        say(Line::End);
    }

    fn process(&self, mm: MmId) -> Option<&Process> {
        self.processes[usize::from(mm.0)].as_ref()
    }

    fn op(&mut self, op: &Op) -> Answer {
        match op.what {
            What::Mmap(r, ..) | What::MmapFile(r, ..) => self.mmap(op, r),
            What::Munmap(r)
            | What::Mprotect(r, _)
            | What::Dontneed(r)
            | What::Read(r)
            | What::Collapse(r) => self.in_process(op, r.mm).0,
            What::Write(r) => {
                let (answer, pages) = self.in_process(op, r.mm);
                self.stores += u64::from(pages);
                answer
            }
            What::Fork(parent, child) => self.fork(op, parent, child),
            What::Exit(mm) => self.exit(mm),
            What::Call(c) => self.call(op, &c),
            What::Unpin(how, h) => self.release(h, Some(how)),
            What::PutPage(h) => self.release(h, None),
            What::Tee(from, to) => self.tee(from, to),
            What::DmaWrite(h) => self.dma_write(h),
            What::DmaRead(h) => match self.held(h) {
                Some(_) => Answer::Done,
                None => skipped(NO_HANDLE),
            },
            // All batches are drained after every op, and there is one CPU.
            What::LruAddDrain | What::LruAddDrainAll | What::Cpu(_) => Answer::Done,
            What::Prefer(p) => self.prefer(op, p),
            What::Migrate(r) => self.migrate(op, r),
            What::Swapout(r) => self.swapout(op, r),
            What::SplitHugePage(r) => self.split_huge_page(op, r),
            What::SplitHugePmd(r) => match self.look(r) {
                None => skipped(NO_PROCESS),
                Some(row) if is_thp(&row) => self.in_process(op, r.mm).0,
                Some(_) => skipped("no PMD-mapped THP there"),
            },
            What::Truncate(file, pages) => self.truncate(file, pages),
            // The model says so of files that live in memory alone.
            What::Fsync(file) if !has_page_mkwrite(file) => Answer::Failed(libc::EINVAL),
            What::Fsync(file) => match self.files.file(file).map(fsync) {
                Ok(Ok(())) => Answer::Done,
                Ok(Err(e)) | Err(e) => Answer::Failed(e as i32),
            },
            What::Close(file) => self.close(file).unwrap_or_else(|e| Answer::Failed(e as i32)),
            _ => Answer::Cannot("init has no such op".into()),
        }
    }

    /// Has a process do an op; also says how many pages it came to.
    fn in_process(&mut self, op: &Op, mm: MmId) -> (Answer, u32) {
        match self.told(op, mm) {
            Ok(told) => (told.answer, told.pages),
            Err(answer) => (answer, 0),
        }
    }

    fn told(&mut self, op: &Op, mm: MmId) -> Result<Told, Answer> {
        let Some(p) = self.process(mm) else { return Err(skipped(NO_PROCESS)) };
        let lost = |e: std::io::Error| Answer::Lost(e.to_string());
        self.pipes.order(mm, *op, self.stores, p.number).map_err(lost)?;
        wait_for(self.pipes.answers(mm), p.pid)?;
        self.pipes.answer(mm).map_err(lost)
    }

    fn mmap(&mut self, op: &Op, r: Range) -> Answer {
        if self.process(r.mm).is_none() {
            match process::start(
                r.mm,
                self.scale,
                self.prefer,
                &self.device,
                &self.pipes,
                &self.files,
            ) {
                Ok(pid) => self.add(r.mm, pid, 0),
                Err(e) => return Answer::Failed(e as i32),
            }
        }
        let answer = self.in_process(op, r.mm).0;
        if let Some(p) = &mut self.processes[usize::from(r.mm.0)] {
            p.used |= (1u64 << r.pages).wrapping_sub(1) << r.page;
        }
        answer
    }

    fn add(&mut self, mm: MmId, pid: Pid, used: u64) {
        self.numbers += 1;
        self.processes[usize::from(mm.0)] = Some(Process { pid, number: self.numbers, used });
    }

    fn fork(&mut self, op: &Op, parent: MmId, child: MmId) -> Answer {
        let Some(p) = self.process(parent) else { return skipped(NO_PROCESS) };
        let used = p.used;
        if self.process(child).is_some() {
            return skipped("the child's slot is taken");
        }
        match self.told(op, parent) {
            Ok(told) => {
                if told.answer == Answer::Done {
                    self.add(child, told.child, used);
                }
                told.answer
            }
            Err(answer) => answer,
        }
    }

    fn exit(&mut self, mm: MmId) -> Answer {
        let Some(p) = self.processes[usize::from(mm.0)].take() else {
            return skipped(NO_PROCESS);
        };
        // It waits in read(); what ends it matters not to its memory.
        kill(p.pid, Signal::SIGKILL).ok();
        match waitpid(p.pid, None) {
            Ok(_) => Answer::Done,
            Err(e) => Answer::Lost(e.to_string()),
        }
    }

    fn held(&self, h: Handle) -> Option<&Held> {
        self.handles[usize::from(h.0)].as_ref()
    }

    fn call(&mut self, op: &Op, c: &CallOp) -> Answer {
        let Some(p) = self.process(c.range.mm) else { return skipped(NO_PROCESS) };
        let number = p.number;
        if self.held(c.handle).is_some() {
            return skipped("handle in use");
        }
        let (answer, pages) = self.in_process(op, c.range.mm);
        if pages > 0 {
            let write = c.flags.contains(gup_core::flags::Foll::WRITE);
            let pages = pages.div_ceil(self.scale);
            let held = Held { pinned: c.call.pins(), write, number, pages };
            self.handles[usize::from(c.handle.0)] = Some(held);
        }
        answer
    }

    /// Gives pins back in one way or another, or references.
    fn release(&mut self, h: Handle, how: Option<Unpin>) -> Answer {
        if self.held(h).is_none_or(|held| held.pinned != how.is_some()) {
            return skipped(NO_HANDLE);
        }
        if !how.is_some_and(Unpin::is_misuse) {
            self.handles[usize::from(h.0)] = None;
        }
        match self.device.release(h.0, how.map_or(device::PUT_PAGE, unpin_number)) {
            Ok(()) => Answer::Done,
            Err(e) => Answer::Lost(e.to_string()),
        }
    }

    fn tee(&mut self, from: Handle, to: Handle) -> Answer {
        let Some(held) = self.held(from).filter(|h| !h.pinned) else { return skipped(NO_HANDLE) };
        let (write, number) = (held.write, held.number);
        if self.held(to).is_some() {
            return skipped("handle in use");
        }
        match self.device.tee(from.0, to.0) {
            Ok(n) if n > 0 => {
                let pages = (n as u32).div_ceil(self.scale);
                let held = Held { pinned: false, write, number, pages };
                self.handles[usize::from(to.0)] = Some(held);
                Answer::Done
            }
            Ok(_) => Answer::Failed(libc::EFAULT),
            Err(e) => Answer::Lost(e.to_string()),
        }
    }

    fn dma_write(&mut self, h: Handle) -> Answer {
        let Some(held) = self.held(h) else { return skipped(NO_HANDLE) };
        if !(held.pinned && held.write) {
            return skipped("not pinned for writing");
        }
        let (number, pages) = (held.number, held.pages);
        for i in 0..pages {
            self.stores += 1;
            let token = self.stores << 16 | u64::from(number);
            if let Err(e) = self.device.dma_write(h.0, i * self.scale, self.scale, token) {
                return Answer::Lost(e.to_string());
            }
        }
        Answer::Done
    }

    fn truncate(&self, file: ModelFile, pages: u8) -> Answer {
        if u64::from(pages) > file.max_pages() {
            return Answer::Failed(libc::EINVAL);
        }
        match self.files.truncate(file, pages) {
            Ok(()) => Answer::Done,
            Err(e) => Answer::Failed(e as i32),
        }
    }

    /// The last descriptor of a file without a name.
    fn close(&mut self, file: ModelFile) -> nix::Result<Answer> {
        for p in self.processes.iter().flatten() {
            if self.files.is_mapped(file, p.pid)? {
                return Ok(skipped("it is mapped"));
            }
        }
        // Others have it in their copies of this memory alone.
        Rc::get_mut(&mut self.files).ok_or(Errno::EBUSY)?.close(file)?;
        Ok(Answer::Done)
    }

    /// The entry at an address.
    fn look(&self, r: Range) -> Option<Row> {
        let p = self.process(r.mm)?;
        let mut row = [Row::default()];
        self.device.walk(p.pid, address(r.page, self.scale), &mut row).ok()?;
        Some(row[0])
    }

    /// What maps an address, if that is a page.
    fn mapped(&self, r: Range) -> Result<Row, Answer> {
        let row = self.look(r).ok_or(skipped(NO_PROCESS))?;
        let flags = SeenFlags::from_bits_truncate(row.flags);
        let mapped = !flags.contains(SeenFlags::SPECIAL) || flags.contains(SeenFlags::ZERO);
        let mapped = mapped && flags.contains(SeenFlags::PRESENT);
        mapped.then_some(row).ok_or(skipped("nothing is mapped there"))
    }

    fn migrate(&mut self, op: &Op, r: Range) -> Answer {
        match self.mapped(r) {
            Ok(_) => self.in_process(op, r.mm).0,
            Err(answer) => answer,
        }
    }

    fn swapout(&mut self, op: &Op, r: Range) -> Answer {
        let row = match self.mapped(r) {
            Ok(row) => row,
            Err(answer) => return answer,
        };
        match self.in_process(op, r.mm).0 {
            Answer::Done if self.mapped(r).is_ok() => {
                let anon = row.flags & SeenFlags::ANON.bits() != 0;
                Answer::Failed(if anon { libc::EBUSY } else { libc::EINVAL })
            }
            // madvise(2) refuses hugetlbfs; the model finds it on no LRU list.
            Answer::Failed(libc::EINVAL) if row.flags & SeenFlags::HUGETLB.bits() != 0 => {
                Answer::Failed(libc::EBUSY)
            }
            answer => answer,
        }
    }

    fn prefer(&mut self, op: &Op, p: Prefer) -> Answer {
        self.prefer = p;
        if let Err(e) = nodes::set_preference(p) {
            return Answer::Cannot(format!("set_mempolicy(2): {e}"));
        }
        for mm in (0..MMS).map(MmId).filter(|&mm| self.process(mm).is_some()).collect::<Vec<_>>() {
            if let (answer @ Answer::Lost(_), _) = self.in_process(op, mm) {
                return answer;
            }
        }
        Answer::Done
    }

    fn split_huge_page(&mut self, op: &Op, r: Range) -> Answer {
        let row = match self.mapped(r) {
            Ok(row) => row,
            Err(answer) => return answer,
        };
        let flags = SeenFlags::from_bits_truncate(row.flags);
        if row.order == 0 || !flags.contains(SeenFlags::ANON) {
            return Answer::Failed(libc::EINVAL);
        }
        drain();
        match self.in_process(op, r.mm).0 {
            // Whether it was split shows in the page only.
            Answer::Done if self.look(r).is_some_and(|row| row.order > 0) => {
                Answer::Failed(libc::EBUSY)
            }
            answer => answer,
        }
    }

    /// Says what changed since the last time.
    fn observe(&mut self, say: &mut dyn FnMut(Line)) {
        drain();
        self.kmsg.pass_on(say);
        if let Ok(now) = self.device.stat() {
            let acquired = now.acquired - self.before.acquired;
            say(Line::Pins(acquired, now.released - self.before.released));
        }
        let mut now = BTreeMap::new();
        for mm in (0..MMS).map(MmId) {
            self.observe_mm(mm, &mut now);
        }
        for h in 0..HANDLES {
            if self.handles[usize::from(h)].is_some() && self.device.held(h, &mut self.rows).is_ok()
            {
                // Which mapping a mark belongs to is not known here.
                self.rows.iter_mut().for_each(|r| r.flags &= !SeenFlags::EXCLUSIVE.bits());
                for (i, rows) in self.rows.chunks(self.scale as usize).enumerate() {
                    now.insert(Slot::Held(Handle(h), i as u8), summary(rows));
                }
            }
        }
        for (&slot, _) in self.seen.iter().filter(|(slot, _)| !now.contains_key(slot)) {
            say(Line::Gone(slot));
        }
        for (&slot, &seen) in now.iter().filter(|(slot, seen)| self.seen.get(slot) != Some(seen)) {
            say(Line::Now(slot, seen));
        }
        self.seen = now;
    }

    fn observe_mm(&mut self, mm: MmId, now: &mut BTreeMap<Slot, Seen>) {
        let Some(p) = &self.processes[usize::from(mm.0)] else { return };
        for page in (0..PAGES).filter(|page| p.used >> page & 1 != 0) {
            self.rows.clear();
            self.rows.resize(self.scale as usize, Row::default());
            if self.device.walk(p.pid, address(page, self.scale), &mut self.rows).is_err() {
                return;
            }
            let seen = summary(&self.rows);
            if seen.flags != SeenFlags::empty() || seen.odd != 0 {
                now.insert(Slot::Mapped(mm, page), seen);
            }
        }
    }
}

/// Whether a PMD maps it, and not one of hugetlbfs.
fn is_thp(row: &Row) -> bool {
    let flags = SeenFlags::from_bits_truncate(row.flags);
    flags.contains(SeenFlags::HUGE) && !flags.contains(SeenFlags::HUGETLB)
}

/// The pages that stand for one of the model: the first, and which is not
/// like it.
fn summary(rows: &[Row]) -> Seen {
    let Some(first) = rows.first() else { return Seen::default() };
    let like = |row: &Row| {
        let plain = |row: &Row| Row { pfn: 0, head: 0, ..*row };
        plain(row) == plain(first) && (row.order == 0 || row.head == first.head)
    };
    Seen {
        frame: first.pfn,
        head: first.head,
        token: first.token,
        flags: SeenFlags::from_bits_truncate(first.flags),
        order: first.order,
        refcount: first.refcount,
        mapcount: first.mapcount,
        entire: first.entire,
        pincount: first.pincount,
        odd: rows.iter().position(|row| !like(row)).unwrap_or(0) as u32,
    }
}

/// Waits for the answer of a process, or for its end.
fn wait_for(answers: std::os::fd::BorrowedFd<'_>, pid: Pid) -> Result<(), Answer> {
    let start = Instant::now();
    loop {
        let mut fds = [PollFd::new(answers.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, PollTimeout::from(100u8)).is_ok_and(|n| n > 0) {
            return Ok(());
        }
        match waitpid(pid, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => {}
            Ok(status) => return Err(Answer::Lost(format!("the process ended: {status:?}"))),
            Err(e) => return Err(Answer::Lost(e.to_string())),
        }
        if start.elapsed() > TIMEOUT {
            return Err(Answer::Lost("no answer: the op hangs".into()));
        }
    }
}

/// lru_add_drain(): MADV_DONTNEED begins with it. With one CPU this is
/// lru_add_drain_all().
fn drain() {
    let len = std::num::NonZeroUsize::MIN.saturating_add(4095);
    // SAFETY: a mapping of our own, never touched.
    unsafe {
        if let Ok(at) = mmap_anonymous(None, len, ProtFlags::PROT_READ, MapFlags::MAP_PRIVATE) {
            madvise(at, len.get(), MmapAdvise::MADV_DONTNEED).ok();
            nix::sys::mman::munmap(at, len.get()).ok();
        }
    }
}
