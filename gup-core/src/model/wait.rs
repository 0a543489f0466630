// SPDX-License-Identifier: GPL-2.0-only
//! What a CPU may have to wait for.

use core::fmt;

use super::filemap::File;
use super::mm::MmId;
use super::page::Page;

/// Something that another CPU holds, or is in the middle of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// mm->mmap_lock
    MmapLock(MmId),
    /// The lock of a page table, by its number.
    PageTableLock(u16),
    /// PG_locked
    PageLock(Page),
    /// A migration entry: the page is on its way.
    Migration(Page),
    /// The page's reference count is frozen.
    Frozen(Page),
    /// hugetlb_fault_mutex_table
    HugetlbFault(File),
    /// mapping->i_mmap_rwsem, or the anon_vma's lock
    Rmap(Option<File>),
    /// inode->i_rwsem
    Inode(File),
    /// Nothing in particular: the op tries again until another CPU is done.
    Retries,
    /// Interrupts are off elsewhere, so that an IPI is not answered.
    InterruptsOff,
}

impl fmt::Display for Wait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wait::MmapLock(mm) => write!(f, "mmap_lock of m{}", mm.0),
            Wait::PageTableLock(table) => write!(f, "the lock of page table {table}"),
            Wait::PageLock(page) => write!(f, "the lock of page {}", page.0),
            Wait::Migration(page) => write!(f, "page {} is under migration", page.0),
            Wait::Frozen(page) => write!(f, "the count of page {} is frozen", page.0),
            Wait::HugetlbFault(file) => write!(f, "hugetlb_fault_mutex of {}", file.name()),
            Wait::Rmap(Some(file)) => write!(f, "i_mmap_rwsem of {}", file.name()),
            Wait::Rmap(None) => f.write_str("the lock of an anon_vma"),
            Wait::Inode(file) => write!(f, "i_rwsem of {}", file.name()),
            Wait::Retries => f.write_str("it tries again until the op around it is done"),
            Wait::InterruptsOff => f.write_str("interrupts are off on the other CPU"),
        }
    }
}
