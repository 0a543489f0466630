// SPDX-License-Identifier: GPL-2.0-only
//! The files that a scenario can map: new ones for each.

use std::fs::File;
use std::os::fd::FromRawFd;

use gup_core::model::filemap::{FILE_PAGES, File as ModelFile};
use nix::errno::Errno;
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

/// The page size.
const PAGE: i64 = 4096;

/// A memfd and a secret one. There is no disk for a file that is written
/// back.
pub struct Files {
    shmem: File,
    /// Not every kernel has it.
    secretmem: Option<File>,
}

impl Files {
    /// Files of as many pages as the model's.
    pub fn new(scale: u32) -> nix::Result<Files> {
        let shmem = File::from(memfd_create(c"gup", MFdFlags::MFD_CLOEXEC)?);
        // SAFETY: a system call without pointers.
        let fd = unsafe { libc::syscall(libc::SYS_memfd_secret, libc::O_CLOEXEC) };
        // SAFETY: if it is not negative it is ours alone.
        let secretmem = (fd >= 0).then(|| unsafe { File::from_raw_fd(fd as i32) });
        let files = Files { shmem, secretmem };
        for file in [ModelFile::Shmem, ModelFile::Secretmem] {
            if files.file(file).is_some() {
                files.truncate(file, FILE_PAGES as u8, scale)?;
            }
        }
        Ok(files)
    }

    /// The file, if the guest has one.
    pub fn file(&self, file: ModelFile) -> Option<&File> {
        match file {
            ModelFile::Shmem => Some(&self.shmem),
            ModelFile::Secretmem => self.secretmem.as_ref(),
            _ => None,
        }
    }

    /// ftruncate() to so many pages of the model.
    pub fn truncate(&self, file: ModelFile, pages: u8, scale: u32) -> nix::Result<()> {
        let file = self.file(file).ok_or(Errno::EOPNOTSUPP)?;
        ftruncate(file, i64::from(pages) * i64::from(scale) * PAGE)
    }
}
