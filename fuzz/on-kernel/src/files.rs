// SPDX-License-Identifier: GPL-2.0-only
//! The files that a scenario can map: new ones for each, before its first
//! process starts, so that all have the same.

use std::fs::File;
use std::os::fd::FromRawFd;
use std::os::unix::fs::OpenOptionsExt;

use gup_core::model::filemap::File as ModelFile;
use gup_core::model::mmap::FileMap;
use gup_fuzz::scenario::{Op, What};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

/// The page size.
const PAGE: i64 = 4096;
/// Where the disk with the file system is mounted.
pub const DISK: &str = "/disk";

/// One file of each kind that the scenario names.
pub struct Files {
    scale: u32,
    files: [Option<File>; ModelFile::COUNT],
}

impl Files {
    /// Files of as many pages as the model's.
    pub fn new(scale: u32, ops: &[Op]) -> Files {
        let mut files = Files { scale, files: [const { None }; ModelFile::COUNT] };
        for op in ops {
            let (What::MmapFile(_, _, FileMap { file, .. })
            | What::Truncate(file, _)
            | What::Fsync(file)) = op.what
            else {
                continue;
            };
            if files.files[file as usize].is_none() {
                // Not every kernel has every one.
                files.files[file as usize] = make(file).ok();
                files.truncate(file, file.max_pages() as u8).ok();
            }
        }
        files
    }

    /// The file, if the guest has one.
    pub fn file(&self, file: ModelFile) -> nix::Result<&File> {
        self.files[file as usize].as_ref().ok_or(Errno::EOPNOTSUPP)
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
fn make(file: ModelFile) -> nix::Result<File> {
    let memfd = |flags| memfd_create(c"gup", MFdFlags::MFD_CLOEXEC | flags).map(File::from);
    match file {
        ModelFile::Shmem => memfd(MFdFlags::empty()),
        ModelFile::Hugetlb => memfd(MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB),
        ModelFile::HugetlbPud => memfd(MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_1GB),
        ModelFile::Regular => {
            let open =
                File::options().read(true).write(true).custom_flags(libc::O_TMPFILE).open(DISK);
            open.map_err(|e| Errno::from_raw(e.raw_os_error().unwrap_or(libc::EIO)))
        }
        ModelFile::Secretmem => {
            // SAFETY: a system call without pointers.
            let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
            // SAFETY: if it is not negative it is ours alone.
            Errno::result(fd).map(|fd| unsafe { File::from_raw_fd(fd as i32) })
        }
    }
}
