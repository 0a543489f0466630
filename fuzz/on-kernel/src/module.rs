// SPDX-License-Identifier: GPL-2.0-only
//! /dev/gupdev, the module's device: see module/gupdev.h, which these types
//! repeat.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd};

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::device::{Call, Device, MAX_PAGES, Row, Stat};

/// C: struct gupdev_release
#[repr(C)]
pub struct Release {
    handle: u32,
    how: u32,
}

/// C: struct gupdev_tee
#[repr(C)]
pub struct Tee {
    from: u32,
    to: u32,
    ret: i64,
}

/// C: struct gupdev_dma
#[repr(C)]
pub struct Dma {
    handle: u32,
    first: u32,
    nr: u32,
    write: u32,
    token: u64,
}

/// C: struct gupdev_walk
#[repr(C)]
pub struct Walk {
    addr: u64,
    rows: u64,
    nr: u32,
    pid: i32,
}

/// C: struct gupdev_held
#[repr(C)]
pub struct Held {
    rows: u64,
    handle: u32,
    nr: u32,
}

nix::ioctl_readwrite!(
    /// C: GUPDEV_CALL
    ioctl_call, b'g', 0xa0, Call
);
nix::ioctl_write_ptr!(
    /// C: GUPDEV_RELEASE
    ioctl_release, b'g', 0xa1, Release
);
nix::ioctl_readwrite!(
    /// C: GUPDEV_TEE
    ioctl_tee, b'g', 0xa2, Tee
);
nix::ioctl_readwrite!(
    /// C: GUPDEV_DMA
    ioctl_dma, b'g', 0xa3, Dma
);
nix::ioctl_write_ptr!(
    /// C: GUPDEV_WALK
    ioctl_walk, b'g', 0xa4, Walk
);
nix::ioctl_readwrite!(
    /// C: GUPDEV_HELD
    ioctl_held, b'g', 0xa5, Held
);
nix::ioctl_read!(
    /// C: GUPDEV_STAT
    ioctl_stat, b'g', 0xa6, Stat
);

/// An open device: sixteen handles, all given back when the last copy of it
/// is closed.
pub struct Module(File);

impl Module {
    /// Opens it.
    pub fn open() -> std::io::Result<Module> {
        File::options().read(true).write(true).open("/dev/gupdev").map(Module)
    }

    fn fd(&self) -> RawFd {
        self.0.as_raw_fd()
    }
}

impl Device for Module {
    fn call(&self, call: &mut Call) -> Result<(), Errno> {
        // SAFETY: the module reads and writes `*call` only. The pages it
        // keeps are its own business.
        unsafe { ioctl_call(self.fd(), call) }.map(drop)
    }

    fn release(&self, handle: u8, how: u32) -> Result<(), Errno> {
        let a = Release { handle: handle.into(), how };
        // SAFETY: the module reads `a` only.
        unsafe { ioctl_release(self.fd(), &a) }.map(drop)
    }

    fn tee(&self, from: u8, to: u8) -> Result<i64, Errno> {
        let mut a = Tee { from: from.into(), to: to.into(), ret: 0 };
        // SAFETY: the module reads and writes `a` only.
        unsafe { ioctl_tee(self.fd(), &mut a) }.map(|_| a.ret)
    }

    fn dma_write(&self, handle: u8, first: u32, nr: u32, token: u64) -> Result<(), Errno> {
        let mut a = Dma { handle: handle.into(), first, nr, write: 1, token };
        // SAFETY: the module reads and writes `a`, and pages that a process
        // gave to a device.
        unsafe { ioctl_dma(self.fd(), &mut a) }.map(drop)
    }

    fn walk(&self, pid: Pid, addr: u64, rows: &mut [Row]) -> Result<(), Errno> {
        let nr = rows.len() as u32;
        let a = Walk { addr, rows: rows.as_mut_ptr() as u64, nr, pid: pid.as_raw() };
        // SAFETY: the module writes `nr` rows, which is what `rows` has room
        // for; any bits are a `Row`.
        unsafe { ioctl_walk(self.fd(), &a) }.map(drop)
    }

    fn held(&self, handle: u8, rows: &mut Vec<Row>) -> Result<(), Errno> {
        rows.resize(MAX_PAGES, Row::default());
        let nr = MAX_PAGES as u32;
        let mut a = Held { rows: rows.as_mut_ptr() as u64, handle: handle.into(), nr };
        // SAFETY: as in `walk`.
        unsafe { ioctl_held(self.fd(), &mut a) }?;
        rows.truncate(a.nr as usize);
        Ok(())
    }

    fn stat(&self) -> Result<Stat, Errno> {
        let mut stat = Stat::default();
        // SAFETY: the module writes `stat` only.
        unsafe { ioctl_stat(self.fd(), &mut stat) }.map(|_| stat)
    }

    fn buffer(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.as_fd())
    }
}
