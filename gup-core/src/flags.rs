// SPDX-License-Identifier: GPL-2.0-only
//! FOLL_*, VM_*, PG_* and the other flag words, with the values of v5.15
//! where it has them.

use bitflags::bitflags;

bitflags! {
    /// What a caller of get_user_pages and its family asks for.
    /// C: FOLL_*, linux/mm.h, v5.15
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Foll: u32 {
        /// Check that the PTE is writable.
        const WRITE = 0x01;
        /// Mark the page accessed (and dirty, with WRITE).
        const TOUCH = 0x02;
        /// Take a plain reference on each page.
        const GET = 0x04;
        /// Fail on holes and zero pages: a core dump wants neither.
        const DUMP = 0x08;
        /// Ignore the VMA's permissions as ptrace may.
        const FORCE = 0x10;
        /// Do not wait for a page that needs I/O.
        const NOWAIT = 0x20;
        /// Fault in even VM_LOCKONFAULT areas.
        const POPULATE = 0x40;
        /// Report a poisoned page as EHWPOISON.
        const HWPOISON = 0x100;
        /// Take NUMA hinting faults.
        const NUMA = 0x200;
        /// Wait for a page under migration.
        const MIGRATION = 0x400;
        /// A retry: the fault handler dropped the lock before.
        const TRIED = 0x800;
        /// mlock the page.
        const MLOCK = 0x1000;
        /// The caller works on another task's mm.
        const REMOTE = 0x2000;
        /// Internal: COW was broken, the PTE may stay read-only.
        const COW = 0x4000;
        /// Fail on anything but anonymous memory.
        const ANON = 0x8000;
        /// The reference will be held for long: keep out of movable memory.
        const LONGTERM = 0x10000;
        /// Split a huge PMD first.
        const SPLIT_PMD = 0x20000;
        /// Internal: take a pin instead of a reference.
        const PIN = 0x40000;
        /// Internal: the fast path alone, no fallback.
        const FAST_ONLY = 0x80000;
        // Since v6.x; the numbers are the model's own.
        /// Fail where a page would have to be faulted in.
        const NOFAULT = 0x100000;
        /// Any signal may end a wait, not only a fatal one.
        const INTERRUPTIBLE = 0x200000;
        /// Take NUMA hinting faults. Before v6.6 the other way round:
        /// FOLL_NUMA, set by the calls themselves.
        const HONOR_NUMA_FAULT = 0x400000;
        /// Pages of PCI peer-to-peer memory are wanted.
        const PCI_P2PDMA = 0x800000;
        /// Internal: `locked` may be cleared.
        const UNLOCKABLE = 0x1000000;
    }

    /// C: VM_*, linux/mm.h
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct VmFlags: u32 {
        /// Readable.
        const READ = 0x1;
        /// Writable.
        const WRITE = 0x2;
        /// Shared mapping.
        const SHARED = 0x8;
        /// mprotect() may add READ.
        const MAYREAD = 0x10;
        /// mprotect() may add WRITE.
        const MAYWRITE = 0x20;
        /// A shared mapping, be it of a file opened for reading only.
        const MAYSHARE = 0x80;
        /// A stack that grows by itself.
        const GROWSDOWN = 0x100;
        /// A driver's mapping of raw frame numbers, without struct pages.
        const PFNMAP = 0x400;
        /// mlock()ed.
        const LOCKED = 0x2000;
        /// Memory-mapped I/O.
        const IO = 0x4000;
        /// A mapping of hugetlbfs.
        const HUGETLB = 0x40_0000;
        /// May hold struct pages and raw frame numbers.
        const MIXEDMAP = 0x1000_0000;
        /// madvise(MADV_HUGEPAGE).
        const HUGEPAGE = 0x2000_0000;
    }

    /// Page flags. C: PG_*, linux/page-flags.h (the model's own numbers)
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
    pub struct Pg: u32 {
        /// Locked by trylock_page().
        const LOCKED = 1 << 0;
        /// Touched recently.
        const REFERENCED = 1 << 1;
        /// Written.
        const DIRTY = 1 << 2;
        /// On an LRU list.
        const LRU = 1 << 3;
        /// The head of a compound page.
        const HEAD = 1 << 4;
        /// Backed by swap, that is anonymous.
        const SWAPBACKED = 1 << 5;
        /// Reserved by the kernel: the zero page.
        const RESERVED = 1 << 6;
        /// Anonymous, and mapped by one process alone. On tails, too.
        const ANON_EXCLUSIVE = 1 << 7;
        /// In the swap cache.
        const SWAPCACHE = 1 << 8;
        /// A page of hugetlbfs; a page type in the kernel.
        const HUGETLB = 1 << 9;
        /// Of hugetlbfs, in use and not isolated. C: HPG_migratable
        const HUGETLB_MIGRATABLE = 1 << 10;
        /// Some pages of this THP lost their last mapping while others had one;
        /// on the deferred split queue.
        const PARTIALLY_MAPPED = 1 << 11;
    }

    /// How a fault is handled. C: FAULT_FLAG_*, linux/mm.h
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct FaultFlag: u32 {
        /// A write access.
        const WRITE = 0x01;
        /// The handler may drop mmap_lock and ask for a retry.
        const ALLOW_RETRY = 0x04;
        /// With ALLOW_RETRY: do not drop the lock, do not wait.
        const RETRY_NOWAIT = 0x08;
        /// A fatal signal may interrupt the wait.
        const KILLABLE = 0x10;
        /// The second attempt.
        const TRIED = 0x20;
        /// On behalf of another task.
        const REMOTE = 0x80;
        /// Any signal may interrupt the wait.
        const INTERRUPTIBLE = 0x200;
        /// Give the mapping an anonymous page of its own, read-only still.
        const UNSHARE = 0x400;
    }

    /// What a fault came to. C: VM_FAULT_*, linux/mm_types.h
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct VmFault: u32 {
        /// No memory.
        const OOM = 0x1;
        /// No page behind the address.
        const SIGBUS = 0x2;
        /// COW was broken or the page was reused.
        const WRITE = 0x8;
        /// A poisoned page.
        const HWPOISON = 0x10;
        /// No mapping or no permission.
        const SIGSEGV = 0x40;
        /// Nothing was mapped: somebody else did, or will have to.
        const NOPAGE = 0x100;
        /// mmap_lock was dropped (or the caller would not wait): try again.
        const RETRY = 0x400;
        /// A huge page could not be had: use small ones.
        const FALLBACK = 0x800;
        /// Done, but mmap_lock was dropped.
        const COMPLETED = 0x4000;
        /// All errors. C: VM_FAULT_ERROR
        const ERROR = 0x1 | 0x2 | 0x10 | 0x40 | 0x800;
    }

    /// Allocation flags. C: gfp_t, linux/gfp.h (the model's own numbers)
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Gfp: u32 {
        /// The page may be moved: ZONE_MOVABLE and CMA blocks will do.
        const MOVABLE = 1 << 0;
        /// Build a compound page.
        const COMP = 1 << 1;
        /// No message on failure.
        const NOWARN = 1 << 2;
    }
}

impl Foll {
    /// The flag's kernel name, for flags with exactly one bit.
    pub fn kernel_name(self) -> Option<String> {
        self.iter_names().next().map(|(name, _)| format!("FOLL_{name}"))
    }
}

/// GFP_USER: a page of user memory that need not be movable.
pub const GFP_USER: Gfp = Gfp::empty();
/// GFP_HIGHUSER_MOVABLE: what page faults allocate with.
pub const GFP_HIGHUSER_MOVABLE: Gfp = Gfp::MOVABLE;
