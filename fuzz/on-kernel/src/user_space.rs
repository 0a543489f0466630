// SPDX-License-Identifier: GPL-2.0-only
//! Calls and page states without the module: pins by io_uring's registered
//! buffers, which pin with FOLL_WRITE|FOLL_LONGTERM, gets for reading by
//! vmsplice(2) into a pipe, page states from /proc and, for reference counts,
//! from the kernel's memory. What that does not show is left out of a
//! [`Row`]: `gup_fuzz::on_kernel::compare` knows.

use std::ffi::c_long;
use std::fs::{self, File};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;

use gup_core::flags::Foll;
use gup_fuzz::on_kernel::wire::SeenFlags;
use gup_fuzz::scenario::CALL_FLAGS;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, SpliceFFlags, fcntl, tee};
use nix::unistd::{Pid, pipe2, read};

use crate::device::{Call, Device, MAX_PAGES, PUT_PAGE, Row, Stat};

/// The page size.
const PAGE: u64 = 4096;
/// Pages of the largest folio.
const LARGEST: u64 = 512;
/// Where the kernel's array of struct page begins: with `nokaslr` and without
/// five levels. C: __VMEMMAP_BASE_L4
const VMEMMAP: u64 = 0xffff_ea00_0000_0000;
/// The size of struct page, and where `_refcount` is in it. Both are so on
/// x86-64 from v5.15 to v6.12.
const STRUCT_PAGE: (u64, u64) = (64, 52);

/// By their numbers in module/gupdev.h.
const GET_USER_PAGES_FAST: u32 = 3;
const PIN_USER_PAGES: u32 = 5;
const PIN_USER_PAGES_FAST: u32 = 8;

/// C: linux/io_uring.h
const IORING_REGISTER_BUFFERS: c_long = 0;
const IORING_UNREGISTER_BUFFERS: c_long = 1;
/// The size of struct io_uring_params.
const IO_URING_PARAMS: usize = 120;

/// What /proc/PID/pagemap says of an address.
/// C: fs/proc/task_mmu.c
const PM_PFN: u64 = (1 << 55) - 1;
const PM_SWAP: u64 = 1 << 62;
const PM_PRESENT: u64 = 1 << 63;

/// What /proc/kpageflags says of a frame.
/// C: linux/kernel-page-flags.h
const KPF_COMPOUND_TAIL: u64 = 1 << 16;
const FLAGS: [(u64, SeenFlags); 8] = [
    (1 << 0, SeenFlags::LOCKED),
    (1 << 4, SeenFlags::DIRTY),
    (1 << 5, SeenFlags::LRU),
    (1 << 12, SeenFlags::ANON),
    (1 << 14, SeenFlags::SWAPBACKED),
    (1 << 17, SeenFlags::HUGETLB),
    (1 << 24, SeenFlags::ZERO),
    (1 << 36, SeenFlags::PRIVATE),
];

/// A ring and a pipe for each handle, and where pages are seen.
pub struct UserSpace {
    rings: Vec<OwnedFd>,
    pipes: Vec<(OwnedFd, OwnedFd)>,
    kpageflags: File,
    kpagecount: File,
    kcore: File,
    /// Where in `kcore` the first struct page is.
    vmemmap: u64,
    movable: Vec<Range<u64>>,
}

impl UserSpace {
    /// Opens all of it.
    pub fn open() -> io::Result<UserSpace> {
        let kcore = File::open("/proc/kcore")?;
        let vmemmap = offset_in(&kcore, VMEMMAP)?;
        let handles = 0..gup_fuzz::scenario::HANDLES;
        Ok(UserSpace {
            rings: handles.clone().map(|_| ring()).collect::<nix::Result<_>>()?,
            pipes: handles
                .map(|_| pipe2(OFlag::O_NONBLOCK | OFlag::O_CLOEXEC))
                .collect::<nix::Result<_>>()?,
            kpageflags: File::open("/proc/kpageflags")?,
            kpagecount: File::open("/proc/kpagecount")?,
            kcore,
            vmemmap,
            movable: movable(&fs::read_to_string("/proc/zoneinfo")?),
        })
    }

    /// io_uring_register(2) on the ring of a handle.
    fn register(&self, handle: u32, what: c_long, buffer: Option<&libc::iovec>) -> nix::Result<()> {
        let ring = self.rings.get(handle as usize).ok_or(Errno::EBADF)?;
        let (at, nr) = buffer.map_or((std::ptr::null(), 0), |b| (&raw const *b, 1));
        // SAFETY: the kernel reads `nr` buffers at `at`. What it pins are
        // pages of the scenario, which are never Rust's.
        let done =
            unsafe { libc::syscall(libc::SYS_io_uring_register, ring.as_raw_fd(), what, at, nr) };
        Errno::result(done).map(drop)
    }

    /// Pins all of it or nothing.
    fn pin(&self, call: &Call) -> nix::Result<i64> {
        self.register(call.handle, IORING_REGISTER_BUFFERS, Some(&iovec(call)))?;
        Ok(call.nr.into())
    }

    /// References on as many pages as can be had.
    fn get(&self, call: &Call) -> nix::Result<i64> {
        let (_, end) = self.pipes.get(call.handle as usize).ok_or(Errno::EBADF)?;
        fcntl(end, FcntlArg::F_SETPIPE_SZ(call.nr.max(16) as i32 * PAGE as i32))?;
        let v = iovec(call);
        // SAFETY: the kernel reads one iovec and takes references on pages of
        // the scenario, which are never Rust's.
        let got = unsafe {
            libc::vmsplice(end.as_raw_fd(), &v, 1, SpliceFFlags::SPLICE_F_NONBLOCK.bits())
        };
        Errno::result(got).map(|bytes| bytes as i64 / PAGE as i64)
    }

    /// The page of a frame.
    fn look_at_page(&self, row: &mut Row) -> io::Result<()> {
        let start = row.pfn & !(LARGEST - 1);
        let mut words = [0; LARGEST as usize * 8];
        let n = self.kpageflags.read_at(&mut words, start * 8)?;
        let flags: Vec<u64> = words[..n].chunks_exact(8).map(word).collect();
        let tail = |i: usize| flags.get(i).is_some_and(|f| f & KPF_COMPOUND_TAIL != 0);
        let at = (row.pfn - start) as usize;
        let head = (0..=at).rev().find(|&i| !tail(i)).unwrap_or(0);
        let tails = (head + 1..flags.len()).take_while(|&i| tail(i)).count();
        row.head = start + head as u64;
        row.order = (tails + 1).ilog2();
        let of_page = flags.get(at).copied().unwrap_or(0);
        let known = FLAGS.iter().filter(|f| of_page & f.0 != 0);
        row.flags |= known.fold(0, |all, f| all | f.1.bits());
        if self.movable.iter().any(|zone| zone.contains(&row.pfn)) {
            row.flags |= SeenFlags::MOVABLE.bits();
        }
        let mut count = [0; 8];
        self.kpagecount.read_exact_at(&mut count, row.pfn * 8)?;
        row.mapcount = word(&count) as i32;
        let mut count = [0; 4];
        let (size, refcount) = STRUCT_PAGE;
        self.kcore.read_exact_at(&mut count, self.vmemmap + row.head * size + refcount)?;
        row.refcount = i32::from_le_bytes(count);
        Ok(())
    }

    fn walk_to(&self, pid: Pid, addr: u64, rows: &mut [Row]) -> io::Result<()> {
        let mut entries = vec![0; rows.len() * 8];
        let pagemap = File::open(format!("/proc/{pid}/pagemap"))?;
        pagemap.read_exact_at(&mut entries, addr / PAGE * 8)?;
        for (row, entry) in rows.iter_mut().zip(entries.chunks_exact(8).map(word)) {
            *row = Row::default();
            if entry & PM_PRESENT != 0 {
                row.pfn = entry & PM_PFN;
                row.flags = SeenFlags::PRESENT.bits();
                self.look_at_page(row)?;
            } else if entry & PM_SWAP != 0 {
                row.flags = SeenFlags::NONPRESENT.bits();
            }
        }
        Ok(())
    }
}

impl Device for UserSpace {
    fn call(&self, call: &mut Call) -> Result<(), Errno> {
        let of = |flags: Foll| {
            let set = CALL_FLAGS.iter().enumerate().filter(|&(_, &f)| flags.contains(f));
            set.fold(0, |all, (i, _)| all | 1 << i)
        };
        let ret = match (call.call, call.options) {
            (PIN_USER_PAGES | PIN_USER_PAGES_FAST, 0)
                if call.flags == of(Foll::WRITE | Foll::LONGTERM) =>
            {
                self.pin(call)
            }
            (GET_USER_PAGES_FAST, 0) if call.flags == 0 => self.get(call),
            _ => return Err(Errno::EOPNOTSUPP),
        };
        call.ret = ret.unwrap_or_else(|e| -(e as i64));
        call.unset = call.nr;
        Ok(())
    }

    fn release(&self, handle: u8, how: u32) -> Result<(), Errno> {
        if how != PUT_PAGE {
            return self.register(handle.into(), IORING_UNREGISTER_BUFFERS, None);
        }
        // A page that is read out is given back.
        let (end, _) = self.pipes.get(usize::from(handle)).ok_or(Errno::EBADF)?;
        let mut bytes = vec![0; PAGE as usize];
        loop {
            match read(end, &mut bytes) {
                Ok(0) | Err(Errno::EAGAIN) => return Ok(()),
                Ok(_) => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn tee(&self, from: u8, to: u8) -> Result<i64, Errno> {
        let pipes = self.pipes.get(usize::from(from)).zip(self.pipes.get(usize::from(to)));
        let ((from, _), (_, to)) = pipes.ok_or(Errno::EBADF)?;
        fcntl(to, FcntlArg::F_SETPIPE_SZ(fcntl(from, FcntlArg::F_GETPIPE_SZ)?))?;
        let all = MAX_PAGES * PAGE as usize;
        match tee(from, to, all, SpliceFFlags::SPLICE_F_NONBLOCK) {
            Err(Errno::EFAULT) => Ok(0),
            other => other.map(|bytes| bytes as i64 / PAGE as i64),
        }
    }

    fn dma_write(&self, _: u8, _: u32, _: u32, _: u64) -> Result<(), Errno> {
        Err(Errno::EOPNOTSUPP)
    }

    fn walk(&self, pid: Pid, addr: u64, rows: &mut [Row]) -> Result<(), Errno> {
        let raw = |e: io::Error| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO));
        self.walk_to(pid, addr, rows).map_err(raw)
    }

    /// Nothing says which pages they are.
    fn held(&self, _: u8, rows: &mut Vec<Row>) -> Result<(), Errno> {
        rows.clear();
        Ok(())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        // What CPUs have counted is added up.
        fs::write("/proc/sys/vm/stat_refresh", "1").map_err(|_| Errno::EIO)?;
        let text = fs::read_to_string("/proc/vmstat").map_err(|_| Errno::EIO)?;
        let of = |name: &str| {
            let mut lines = text.lines().filter_map(|l| l.split_once(' '));
            lines.find(|l| l.0 == name).and_then(|l| l.1.parse().ok()).ok_or(Errno::ENOENT)
        };
        Ok(Stat { acquired: of("nr_foll_pin_acquired")?, released: of("nr_foll_pin_released")? })
    }

    fn buffer(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}

/// A ring without entries to speak of.
fn ring() -> nix::Result<OwnedFd> {
    let mut params = [0u8; IO_URING_PARAMS];
    // SAFETY: the kernel reads and writes a struct io_uring_params.
    let fd = unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, params.as_mut_ptr()) };
    // SAFETY: if it is not negative it is ours alone.
    Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

fn iovec(call: &Call) -> libc::iovec {
    let len = call.nr as usize * PAGE as usize;
    libc::iovec { iov_base: call.addr as *mut _, iov_len: len }
}

/// Eight bytes as a number.
fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes.try_into().unwrap_or_default())
}

/// Where in an ELF file an address is: /proc/kcore is one.
fn offset_in(elf: &File, addr: u64) -> io::Result<u64> {
    let mut header = [0; 64];
    elf.read_exact_at(&mut header, 0)?;
    let (at, nr) = (word(&header[32..40]), u16::from_le_bytes([header[56], header[57]]));
    for i in 0..u64::from(nr) {
        let mut segment = [0; 56];
        elf.read_exact_at(&mut segment, at + i * 56)?;
        let [offset, start, size] = [8, 16, 32].map(|at| word(&segment[at..at + 8]));
        if (start..start.saturating_add(size)).contains(&addr) {
            return Ok(offset + (addr - start));
        }
    }
    Err(io::Error::other("/proc/kcore has no array of struct page where it should be"))
}

/// The frames of ZONE_MOVABLE, from /proc/zoneinfo.
fn movable(zoneinfo: &str) -> Vec<Range<u64>> {
    let mut found = Vec::new();
    for zone in zoneinfo.split("Node ").filter(|z| z.contains("zone  Movable")) {
        let number = |name: &str| {
            let line = zone.lines().find_map(|l| l.trim_start().strip_prefix(name))?;
            line.trim().parse::<u64>().ok()
        };
        if let (Some(start), Some(spanned)) = (number("start_pfn:"), number("spanned")) {
            found.push(start..start + spanned);
        }
    }
    found
}
