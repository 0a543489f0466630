// SPDX-License-Identifier: GPL-2.0-only
//! The files that a scenario can map: new ones for each, before its first
//! process starts, so that all have the same.

use std::fs::{self, File};
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use gup_core::model::filemap::File as ModelFile;
use gup_fuzz::scenario::Op;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::{fstat, major, minor};
use nix::unistd::{Pid, dup3, ftruncate};

/// The page size.
const PAGE: i64 = 4096;
/// Where the disk with the file system is mounted.
pub const DISK: &str = "/disk";

/// One file of each kind that the scenario names; its processes share the
/// descriptors.
pub struct Files {
    scale: u32,
    files: [Option<OwnedFd>; ModelFile::COUNT],
}

impl Files {
    /// Files of as many pages as the model's.
    pub fn new(scale: u32, ops: &[Op]) -> Files {
        let mut files = Files { scale, files: [const { None }; ModelFile::COUNT] };
        for file in ops.iter().filter_map(|op| op.what.file()) {
            if files.files[file as usize].is_none() {
                // Not every kernel has every one.
                files.files[file as usize] = make(file).ok();
                files.truncate(file, file.max_pages() as u8).ok();
            }
        }
        files
    }

    /// The file, if the guest has one.
    pub fn file(&self, file: ModelFile) -> nix::Result<&OwnedFd> {
        self.files[file as usize].as_ref().ok_or(Errno::EOPNOTSUPP)
    }

    /// Whether a process maps it.
    pub fn is_mapped(&self, file: ModelFile, pid: Pid) -> nix::Result<bool> {
        let stat = fstat(self.file(file)?)?;
        let device = format!("{:02x}:{:02x}", major(stat.st_dev), minor(stat.st_dev));
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).map_err(errno_of)?;
        // C: show_map_vma(): range, flags, offset, device, inode, name
        Ok(maps.lines().any(|line| {
            let mut words = line.split_ascii_whitespace().skip(3);
            words.next() == Some(&device) && words.next() == Some(&stat.st_ino.to_string())
        }))
    }

    /// Closes it; a new one takes its place.
    pub fn close(&mut self, file: ModelFile) -> nix::Result<()> {
        let new = make(file)?;
        let old = self.files[file as usize].as_mut().ok_or(Errno::EOPNOTSUPP)?;
        dup3(new, old, OFlag::O_CLOEXEC)?;
        self.truncate(file, file.max_pages() as u8)
    }

    /// ftruncate() to so many of its own pages.
    pub fn truncate(&self, file: ModelFile, pages: u8) -> nix::Result<()> {
        ftruncate(self.file(file)?, self.bytes(file, pages.into()))
    }

    /// So many of the file's own pages, in bytes.
    pub fn bytes(&self, file: ModelFile, pages: u64) -> i64 {
        ((pages << file.order()) * u64::from(self.scale)) as i64 * PAGE
    }
}

/// An empty file.
fn make(file: ModelFile) -> nix::Result<OwnedFd> {
    let memfd = |flags| memfd_create(c"gup", MFdFlags::MFD_CLOEXEC | flags);
    match file {
        ModelFile::Shmem => memfd(MFdFlags::empty()),
        ModelFile::Hugetlb => memfd(MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB),
        ModelFile::HugetlbPud => memfd(MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB),
        ModelFile::Regular => {
            let open =
                File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(DISK);
            open.map(OwnedFd::from).map_err(errno_of)
        }
        ModelFile::Secretmem => {
            // SAFETY: a system call without pointers.
            let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
            // SAFETY: if it is not negative it is ours alone.
            Errno::result(fd).map(|fd| unsafe { OwnedFd::from_raw_fd(fd as i32) })
        }
    }
}

fn errno_of(e: std::io::Error) -> Errno {
    Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO))
}
