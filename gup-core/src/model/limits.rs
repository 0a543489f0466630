// SPDX-License-Identifier: GPL-2.0-only
//! The sizes of the model's universe.
//!
//! Small on purpose, so that collisions happen. Page tables have the shape
//! of x86-64 with a folded P4D and few entries a table; the rest is a
//! [`Limits`] value, so that loom builds a world of a few frames with the
//! same code.

/// log2 of the page size in bytes.
pub const PAGE_SHIFT: u32 = 12;
/// The page size in bytes.
pub const PAGE_SIZE: u64 = 1 << PAGE_SHIFT;
/// Entries of a PTE table; the pages of a PMD-mapped THP.
pub const PTRS_PER_PTE: u64 = 8;
/// Entries of a PMD table.
pub const PTRS_PER_PMD: u64 = 2;
/// Entries of a PUD table.
pub const PTRS_PER_PUD: u64 = 2;
/// Entries of a PGD.
pub const PTRS_PER_PGD: u64 = 2;
/// Bytes under one PMD entry.
pub const PMD_SIZE: u64 = PAGE_SIZE * PTRS_PER_PTE;
/// Bytes under one PUD entry.
pub const PUD_SIZE: u64 = PMD_SIZE * PTRS_PER_PMD;
/// Bytes under one PGD entry.
pub const PGDIR_SIZE: u64 = PUD_SIZE * PTRS_PER_PUD;
/// The end of user addresses.
pub const TASK_SIZE: u64 = PGDIR_SIZE * PTRS_PER_PGD;
/// Pages of user address space.
pub const TASK_PAGES: u64 = TASK_SIZE / PAGE_SIZE;
/// Pages of a page of PUD size.
pub const HPAGE_PUD_NR: u64 = PTRS_PER_PTE * PTRS_PER_PMD;
/// Its order.
pub const HPAGE_PUD_ORDER: u32 = HPAGE_PUD_NR.trailing_zeros();
/// Pages of a PMD-mapped THP.
pub const HPAGE_PMD_NR: u64 = PTRS_PER_PTE;
/// Its order.
pub const HPAGE_PMD_ORDER: u32 = PTRS_PER_PTE.trailing_zeros();
/// log2 of the frames in a pageblock.
pub const PAGEBLOCK_ORDER: u32 = 3;
/// Pages a per-CPU LRU batch holds. The kernel's is 15.
pub const PAGEVEC_SIZE: usize = 4;
/// VMAs an mm can have. C: sysctl_max_map_count
pub const MAX_VMAS: usize = 8;
/// The most pages that one call of the API is asked for.
pub const MAX_CALL_PAGES: usize = 16;
/// The most CPUs a world can have.
pub const MAX_CPUS: usize = 4;
/// The most frames a world can have.
pub const MAX_FRAMES: usize = 128;

/// The sizes that differ between a fuzzed world and one under loom.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Page frames in all, at most [`MAX_FRAMES`].
    pub frames: u16,
    /// The first frame of ZONE_MOVABLE; everything below is ZONE_NORMAL.
    pub movable_start: u16,
    /// The first frame of ZONE_DEVICE.
    pub device_start: u16,
    /// The CMA pageblocks inside ZONE_NORMAL, as frame numbers.
    pub cma: (u16, u16),
    /// Page-table pages, at most 128.
    pub tables: u16,
    /// Address spaces.
    pub mms: u8,
    /// CPUs, at most [`MAX_CPUS`].
    pub cpus: u8,
}

impl Limits {
    /// The world that is fuzzed.
    pub const FUZZ: Limits = Limits {
        frames: 128,
        movable_start: 64,
        device_start: 120,
        cma: (48, 64),
        tables: 72,
        mms: 4,
        cpus: 2,
    };
    /// A world small enough for loom: eight frames, four of them movable.
    pub const LOOM: Limits = Limits {
        frames: 8,
        movable_start: 4,
        device_start: 8,
        cma: (0, 0),
        tables: 5,
        mms: 1,
        cpus: 3,
    };
}
