// SPDX-License-Identifier: GPL-2.0-only
//! What makes calls of mm/gup.c, keeps what they hand out in sixteen handles,
//! and looks at pages: the module's device ([`module`]), or what user space
//! has in its place ([`user_space`]). The types are those of module/gupdev.h.
//!
//! [`module`]: crate::module
//! [`user_space`]: crate::user_space

use std::os::fd::BorrowedFd;
use std::path::Path;
use std::rc::Rc;

use nix::errno::Errno;
use nix::unistd::Pid;

use crate::module::Module;
use crate::user_space::UserSpace;

/// C: struct gupdev_call
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Call {
    pub addr: u64,
    pub nr: u32,
    pub flags: u32,
    pub call: u32,
    pub options: u32,
    pub handle: u32,
    pub unset: u32,
    pub ret: i64,
}

/// C: GUPDEV_NOPAGES
pub const NOPAGES: u32 = 1 << 0;
/// C: GUPDEV_LOCKED
pub const LOCKED: u32 = 1 << 1;
/// C: GUPDEV_PUT_PAGE; the ways to unpin come behind it.
pub const PUT_PAGE: u32 = 0;

/// C: struct gupdev_row
#[repr(C)]
#[derive(Clone, Copy, PartialEq, Eq, Default)]
pub struct Row {
    pub pfn: u64,
    pub head: u64,
    pub token: u64,
    pub flags: u32,
    pub order: u32,
    pub refcount: i32,
    pub mapcount: i32,
    pub entire: i32,
    pub pincount: i32,
}

/// C: struct gupdev_stat
#[repr(C)]
#[derive(Clone, Copy, Default)]
pub struct Stat {
    pub acquired: i64,
    pub released: i64,
}

/// C: GUPDEV_MAX_PAGES
pub const MAX_PAGES: usize = 1024;

/// Both.
pub trait Device {
    /// Makes a call of mm/gup.c on this process; what it hands out is kept.
    fn call(&self, call: &mut Call) -> Result<(), Errno>;

    /// Gives a handle back.
    fn release(&self, handle: u8, how: u32) -> Result<(), Errno>;

    /// References on the pages of one handle for another; how many it got.
    fn tee(&self, from: u8, to: u8) -> Result<i64, Errno>;

    /// Writes to `nr` pages of a handle, as a device would.
    fn dma_write(&self, handle: u8, first: u32, nr: u32, token: u64) -> Result<(), Errno>;

    /// What maps each of the addresses of a process from `addr` on.
    fn walk(&self, pid: Pid, addr: u64, rows: &mut [Row]) -> Result<(), Errno>;

    /// The pages of a handle; as many rows as are known.
    fn held(&self, handle: u8, rows: &mut Vec<Row>) -> Result<(), Errno>;

    /// The kernel's pin statistics.
    fn stat(&self) -> Result<Stat, Errno>;

    /// What a driver would map, if there is one.
    fn buffer(&self) -> Option<BorrowedFd<'_>>;
}

/// Opens the module's device if the module is loaded, else what user space
/// has.
pub fn open() -> std::io::Result<Rc<dyn Device>> {
    if Path::new("/dev/gupdev").exists() {
        return Ok(Rc::new(Module::open()?));
    }
    Ok(Rc::new(UserSpace::open()?))
}
