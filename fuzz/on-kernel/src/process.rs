// SPDX-License-Identifier: GPL-2.0-only
//! A process of a scenario: one address space, which does what it is told.
//!
//! Orders and answers go through pipes of which there is a pair for each
//! address space, open in all of them, so that a fork of a fork finds its
//! own.

use std::ffi::c_void;
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd};
use std::ptr::NonNull;
use std::rc::Rc;

use gup_core::model::mm::MmId;
use gup_core::model::mmap::{FileMap, Kind, Prot};
use gup_core::model::zone::Prefer;
use gup_fuzz::on_kernel::wire::{Answer, SeenFlags};
use gup_fuzz::scenario::{CALL_FLAGS, Call, CallOp, MMS, Op, RECORD, Range, What};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::mman::{
    MapFlags, MmapAdvise, ProtFlags, madvise, mmap, mmap_anonymous, mprotect, munmap,
};
use nix::unistd::{Pid, pipe2};

use crate::device::{self, Device, Row};
use crate::files::Files;
use crate::{disks, nodes, touch};

/// Where the scenario's page 0 is: the start of a PMD, far from anything of
/// ours.
const BASE: u64 = 64 << 30;
/// The page size.
const PAGE: u64 = 4096;
/// The size of a huge page.
const HPAGE: u64 = 2 << 20;

/// The address of a page of the model.
pub fn address(page: u8, scale: u32) -> u64 {
    BASE + u64::from(page) * u64::from(scale) * PAGE
}

/// C: linux/mman.h, since v6.1
const MADV_COLLAPSE: i32 = 25;

/// An order: the op, and how many stores the scenario has made and which
/// process of the model this is, for the tokens.
const ORDER: usize = RECORD + 8 + 2;
/// An answer: its kind, a number, how many pages it came to, a process.
const ANSWER: usize = 1 + 8 + 4 + 4;

/// The ends of the pipes.
pub struct Pipes {
    orders: [(File, File); MMS as usize],
    answers: [(File, File); MMS as usize],
}

fn pipe() -> nix::Result<(File, File)> {
    pipe2(OFlag::O_CLOEXEC).map(|(r, w)| (r.into(), w.into()))
}

impl Pipes {
    /// One pair for each address space.
    pub fn new() -> nix::Result<Pipes> {
        Ok(Pipes {
            orders: [pipe()?, pipe()?, pipe()?, pipe()?],
            answers: [pipe()?, pipe()?, pipe()?, pipe()?],
        })
    }

    /// Where the answers of an address space come.
    pub fn answers(&self, mm: MmId) -> BorrowedFd<'_> {
        self.answers[usize::from(mm.0)].0.as_fd()
    }

    /// Tells a process what to do.
    pub fn order(&self, mm: MmId, op: Op, stores: u64, pid: u16) -> std::io::Result<()> {
        let mut order = [0; ORDER];
        order[..RECORD].copy_from_slice(&op.encode());
        order[RECORD..RECORD + 8].copy_from_slice(&stores.to_le_bytes());
        order[RECORD + 8..].copy_from_slice(&pid.to_le_bytes());
        (&self.orders[usize::from(mm.0)].1).write_all(&order)
    }

    /// What it came to. The answer must be there.
    pub fn answer(&self, mm: MmId) -> std::io::Result<Told> {
        let mut b = [0; ANSWER];
        (&self.answers[usize::from(mm.0)].0).read_exact(&mut b)?;
        let number = i64::from_le_bytes(b[1..9].try_into().unwrap_or_default());
        let word = |at: usize| u32::from_le_bytes(b[at..at + 4].try_into().unwrap_or_default());
        let answer = match b[0] {
            0 => Answer::Done,
            1 => Answer::Returned(number),
            2 => Answer::Failed(number as i32),
            _ => Answer::Cannot("the module has no such call or flag on this kernel".into()),
        };
        Ok(Told { answer, pages: word(9), child: Pid::from_raw(word(13) as i32) })
    }
}

/// An answer of a process.
pub struct Told {
    /// What the op came to.
    pub answer: Answer,
    /// Pages that were stored to, or that a call handed out.
    pub pages: u32,
    /// The child of a fork.
    pub child: Pid,
}

/// What a process needs.
struct Process {
    mm: MmId,
    scale: u32,
    prefer: Prefer,
    device: Rc<dyn Device>,
    pipes: Rc<Pipes>,
    files: Rc<Files>,
}

/// Starts a process without memory of the scenario.
pub fn start(
    mm: MmId,
    scale: u32,
    prefer: Prefer,
    device: &Rc<dyn Device>,
    pipes: &Rc<Pipes>,
    files: &Rc<Files>,
) -> nix::Result<Pid> {
    match copy(0)? {
        Some(child) => Ok(child),
        None => {
            touch::catch_faults();
            Process {
                mm,
                scale,
                prefer,
                device: device.clone(),
                pipes: pipes.clone(),
                files: files.clone(),
            }
            .run()
        }
    }
}

/// fork(), but with the descriptors in common: a file that one closes is
/// closed. `None` in the child.
fn copy(flags: libc::c_int) -> nix::Result<Option<Pid>> {
    let flags = (flags | libc::CLONE_FILES | libc::SIGCHLD) as libc::c_long;
    // SAFETY: a copy of this single-threaded process, with its own copy of the
    // stack.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
    Errno::result(pid).map(|pid| (pid != 0).then(|| Pid::from_raw(pid as i32)))
}

impl Process {
    /// Does what it is told, until it is killed.
    fn run(mut self) -> ! {
        loop {
            let mut order = [0; ORDER];
            if (&self.pipes.orders[usize::from(self.mm.0)].0).read_exact(&mut order).is_err() {
                std::process::exit(0);
            }
            let record = order[..RECORD].try_into().unwrap_or_default();
            let stores =
                u64::from_le_bytes(order[RECORD..RECORD + 8].try_into().unwrap_or_default());
            let pid = u16::from_le_bytes(order[RECORD + 8..].try_into().unwrap_or_default());
            let Some(op) = Op::decode(record) else { continue };
            let told = match op.what {
                What::Fork(_, child) => match self.fork(child) {
                    Some(told) => told,
                    None => continue,
                },
                _ => self.run_op(&op.what, stores, pid),
            };
            self.tell(&told);
        }
    }

    fn tell(&self, told: &Told) {
        let (kind, number) = match told.answer {
            Answer::Done => (0, 0),
            Answer::Returned(n) => (1, n),
            Answer::Failed(e) => (2, e.into()),
            _ => (3, 0),
        };
        let mut b = [0; ANSWER];
        b[0] = kind;
        b[1..9].copy_from_slice(&i64::to_le_bytes(number));
        b[9..13].copy_from_slice(&told.pages.to_le_bytes());
        b[13..].copy_from_slice(&told.child.as_raw().to_le_bytes());
        if (&self.pipes.answers[usize::from(self.mm.0)].1).write_all(&b).is_err() {
            std::process::exit(0);
        }
    }

    /// Forks. The child is the controller's, so that its end is seen there;
    /// it goes on in another address space and tells nothing.
    fn fork(&mut self, child: MmId) -> Option<Told> {
        let (answer, child) = match copy(libc::CLONE_PARENT) {
            Ok(None) => {
                self.mm = child;
                return None;
            }
            Ok(Some(child)) => (Answer::Done, child),
            Err(e) => (Answer::Failed(e as i32), Pid::from_raw(-1)),
        };
        Some(Told { answer, pages: 0, child })
    }

    fn run_op(&mut self, what: &What, stores: u64, pid: u16) -> Told {
        let answer = match *what {
            What::Mmap(r, prot, kind) => self.mmap(r, prot, kind),
            What::MmapFile(r, prot, map) => self.mmap_file(r, prot, map),
            What::Munmap(r) => self.mapped(r, |at, len| {
                // SAFETY: the range is the scenario's own.
                unsafe { munmap(at, len) }
            }),
            What::Mprotect(r, prot) => self.mapped(r, |at, len| {
                // SAFETY: as above.
                unsafe { mprotect(at, len, flags_of(prot)) }
            }),
            What::Dontneed(r) => self.mapped(r, |at, len| {
                // SAFETY: as above.
                unsafe { madvise(at, len, MmapAdvise::MADV_DONTNEED) }
            }),
            What::Prefer(p) => {
                self.prefer = p;
                nodes::set_preference(p).into_answer()
            }
            What::Migrate(r) => self.migrate(r),
            What::Collapse(r) => self.collapse(r),
            What::Swapout(r) => self.swapout(r),
            What::SplitHugePmd(r) => self.split_huge_pmd(r),
            What::SplitHugePage(r) => self.split_huge_page(r),
            What::Write(r) => {
                let token = |i: u64| (stores + i + 1) << 16 | u64::from(pid);
                return self.touch(r, |i, addr| touch::store(addr, token(i)));
            }
            What::Read(r) => return self.touch(r, |_, addr| touch::load(addr)),
            What::Call(c) => return self.call(&c),
            _ => Answer::Cannot(String::new()),
        };
        Told { answer, pages: 0, child: Pid::from_raw(0) }
    }

    fn bytes(&self, r: Range) -> NonZeroUsize {
        let bytes = usize::from(r.pages) * self.scale as usize * PAGE as usize;
        NonZeroUsize::new(bytes).unwrap_or(NonZeroUsize::MIN)
    }

    fn mmap(&self, r: Range, prot: Prot, kind: Kind) -> Answer {
        let at = NonZeroUsize::new(address(r.page, self.scale) as usize);
        let len = self.bytes(r);
        let (prot, fixed) = (flags_of(prot), MapFlags::MAP_FIXED_NOREPLACE);
        let buffer = |kind: i64| {
            let offset = (kind + 16 * i64::from(self.scale)) * PAGE as i64;
            let device = self.device.buffer().ok_or(Errno::ENODEV)?;
            // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
            unsafe { mmap(at, len, prot, MapFlags::MAP_SHARED | fixed, device, offset) }
        };
        let mapped = match kind {
            Kind::Anon | Kind::AnonThp => {
                // SAFETY: as above.
                unsafe { mmap_anonymous(at, len, prot, MapFlags::MAP_PRIVATE | fixed) }
            }
            Kind::Driver => buffer(0),
            Kind::DriverOrder1 => buffer(1),
            Kind::Pfnmap => buffer(2),
        };
        match mapped {
            Ok(at) if kind == Kind::AnonThp => {
                // SAFETY: what has just been mapped.
                unsafe { madvise(at, len.get(), MmapAdvise::MADV_HUGEPAGE) }.into_answer()
            }
            other => other.map(drop).into_answer(),
        }
    }

    fn mmap_file(&self, r: Range, prot: Prot, map: FileMap) -> Answer {
        let Ok(file) = self.files.file(map.file) else { return Answer::Cannot(String::new()) };
        let at = NonZeroUsize::new(address(r.page, self.scale) as usize);
        let shared = if map.shared { MapFlags::MAP_SHARED } else { MapFlags::MAP_PRIVATE };
        // The model reserves no huge pages.
        let flags = shared | MapFlags::MAP_FIXED_NOREPLACE | MapFlags::MAP_NORESERVE;
        let offset = self.files.bytes(map.file, map.pgoff.into());
        // SAFETY: MAP_FIXED_NOREPLACE replaces nothing.
        unsafe { mmap(at, self.bytes(r), flags_of(prot), flags, file, offset) }
            .map(drop)
            .into_answer()
    }

    /// Runs a system call on a range of the scenario's memory.
    fn mapped(&self, r: Range, call: impl Fn(NonNull<c_void>, usize) -> nix::Result<()>) -> Answer {
        match NonNull::new(address(r.page, self.scale) as *mut c_void) {
            Some(at) => call(at, self.bytes(r).get()).into_answer(),
            None => Answer::Failed(libc::EINVAL),
        }
    }

    /// Loads from or stores to every page, up to the first that faults.
    fn touch(&self, r: Range, access: impl Fn(u64, u64) -> bool) -> Told {
        let (mut answer, mut pages) = (Answer::Done, 0);
        'all: for i in 0..r.pages {
            for k in 0..u64::from(self.scale) {
                let addr = address(r.page + i, self.scale) + k * PAGE;
                if !access(i.into(), addr) {
                    answer = Answer::Failed(libc::EFAULT);
                    break 'all;
                }
            }
            pages += 1;
        }
        Told { answer, pages, child: Pid::from_raw(0) }
    }

    /// Moves the folios that an address maps.
    fn migrate(&self, r: Range) -> Answer {
        let mut rows = vec![Row::default(); self.scale as usize];
        let at = address(r.page, self.scale);
        if let Err(e) = self.device.walk(Pid::this(), at, &mut rows) {
            return Answer::Failed(e as i32);
        }
        // A folio can be isolated once.
        let mut addrs = Vec::new();
        for (i, row) in (0..).zip(&rows) {
            if rows[..i as usize].iter().all(|earlier| earlier.head != row.head) {
                addrs.push(at + i * PAGE);
            }
        }
        let movable = SeenFlags::ANON | SeenFlags::LRU | SeenFlags::HUGETLB;
        match nodes::migrate(&addrs, self.prefer) {
            // Of a page that is nobody's to move, as the model says it.
            Answer::Failed(_) if rows[0].flags & movable.bits() == 0 => {
                Answer::Failed(libc::EINVAL)
            }
            answer => answer,
        }
    }

    /// Splits the PMD around an address: a VMA that ends inside a huge page
    /// makes the kernel do that. The VMAs merge again.
    fn split_huge_pmd(&self, r: Range) -> Answer {
        let start = address(r.page, self.scale) & !(HPAGE - 1);
        let Some(second) = NonNull::new((start + PAGE) as *mut c_void) else {
            return Answer::Failed(libc::EINVAL);
        };
        for advice in [MmapAdvise::MADV_DONTDUMP, MmapAdvise::MADV_DODUMP] {
            // SAFETY: the second page of a huge page of the scenario.
            if let Err(e) = unsafe { madvise(second, PAGE as usize, advice) } {
                return Answer::Failed(e as i32);
            }
        }
        Answer::Done
    }

    /// Has what an address maps reclaimed: all of it, where that is a huge
    /// page. The kernel does not say whether it came to that.
    fn swapout(&self, r: Range) -> Answer {
        let at = address(r.page, self.scale);
        let mut row = [Row::default()];
        if let Err(e) = self.device.walk(Pid::this(), at, &mut row) {
            return Answer::Failed(e as i32);
        }
        let huge = row[0].flags & SeenFlags::HUGE.bits() != 0;
        let (at, len) = match huge {
            true => (at & !(HPAGE - 1), HPAGE as usize),
            false => (at, self.bytes(r).get()),
        };
        // SAFETY: the scenario's own memory keeps its contents.
        let asked = unsafe { libc::madvise(at as *mut c_void, len, libc::MADV_PAGEOUT) };
        Errno::result(asked).and_then(|_| disks::wait_for_writeback()).into_answer()
    }

    /// Makes a huge page of what is mapped around an address.
    fn collapse(&self, r: Range) -> Answer {
        let start = (address(r.page, self.scale) & !(HPAGE - 1)) as *mut c_void;
        // SAFETY: the scenario's own memory keeps its contents.
        let collapsed = unsafe { libc::madvise(start, HPAGE as usize, MADV_COLLAPSE) };
        let huge = |row: &[Row; 1]| row[0].flags & SeenFlags::HUGE.bits() != 0;
        let mut row = [Row::default()];
        match Errno::result(collapsed) {
            // ENOMEM is also what madvise(2) says of a range with a hole in
            // it, and nothing of one in several VMAs.
            Err(Errno::ENOMEM) if !is_mapped(start) => Answer::Failed(libc::EINVAL),
            Err(e) => Answer::Failed(e as i32),
            Ok(_) => match self.device.walk(Pid::this(), start as u64, &mut row) {
                Ok(()) if huge(&row) => Answer::Done,
                _ => Answer::Failed(libc::EINVAL),
            },
        }
    }

    /// Asks for the split of the huge page at an address. The kernel does not
    /// say whether it came to that.
    fn split_huge_page(&self, r: Range) -> Answer {
        let (pid, at) = (std::process::id(), address(r.page, self.scale));
        let order = format!("{pid},{at:#x},{:#x}", at + PAGE);
        match std::fs::write("/sys/kernel/debug/split_huge_pages", order) {
            Ok(()) => Answer::Done,
            Err(e) => Answer::Failed(e.raw_os_error().unwrap_or(libc::EIO)),
        }
    }

    fn call(&self, op: &CallOp) -> Told {
        let flags = CALL_FLAGS.iter().enumerate().filter(|&(_, &f)| op.flags.contains(f));
        let options = [(op.nopages, device::NOPAGES), (op.locked, device::LOCKED)];
        let nr = u32::from(op.range.pages) * self.scale;
        let mut call = device::Call {
            addr: address(op.range.page, self.scale),
            nr,
            flags: flags.fold(0, |all, (i, _)| all | 1 << i),
            options: options.iter().filter(|o| o.0).fold(0, |all, o| all | o.1),
            handle: op.handle.0.into(),
            ..Default::default()
        };
        let number = CALLS.iter().position(|&c| c == op.call);
        let made = number.ok_or(Errno::EOPNOTSUPP).and_then(|n| {
            call.call = n as u32;
            self.device.call(&mut call)
        });
        let answer = match made {
            Ok(()) => Answer::Returned(call.ret),
            Err(_) => Answer::Cannot(String::new()),
        };
        let owned = if op.nopages || call.ret < 0 { 0 } else { call.unset.min(call.ret as u32) };
        Told { answer, pages: owned, child: Pid::from_raw(0) }
    }
}

/// Whether every page of a huge page's range belongs to a mapping.
fn is_mapped(start: *mut c_void) -> bool {
    let mut resident = [0; (HPAGE / PAGE) as usize];
    // SAFETY: the kernel writes a byte for each page, and follows nothing.
    unsafe { libc::mincore(start, HPAGE as usize, resident.as_mut_ptr()) == 0 }
}

/// The calls that the module knows, by its numbers.
const CALLS: [Call; 10] = [
    Call::GetUserPages,
    Call::GetUserPagesUnlocked,
    Call::GetUserPagesRemote,
    Call::GetUserPagesFast,
    Call::GetUserPagesFastOnly,
    Call::PinUserPages,
    Call::PinUserPagesUnlocked,
    Call::PinUserPagesRemote,
    Call::PinUserPagesFast,
    Call::PinUserPagesFastOnly,
];

fn flags_of(prot: Prot) -> ProtFlags {
    match prot {
        Prot::None => ProtFlags::PROT_NONE,
        Prot::Read => ProtFlags::PROT_READ,
        Prot::ReadWrite => ProtFlags::PROT_READ | ProtFlags::PROT_WRITE,
    }
}

trait IntoAnswer {
    fn into_answer(self) -> Answer;
}

impl IntoAnswer for nix::Result<()> {
    fn into_answer(self) -> Answer {
        self.map_or_else(|e| Answer::Failed(e as i32), |()| Answer::Done)
    }
}
