// SPDX-License-Identifier: GPL-2.0-only
//! Steps: single accesses to shared state.
//!
//! The port and the model touch shared state only through primitives, and
//! each primitive is one step. The sequence of steps of a call is part of
//! what the port must get right: it is what loom interleaves, and what a
//! comparison with the C compares.

use core::fmt;

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = $slug:literal,)+) => {
        /// What is accessed, and how.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum StepKind { $($(#[$doc])* $name),+ }

        impl StepKind {
            /// Every kind. The places are part of the binary form of
            /// scenarios: a new kind goes to the end.
            pub const ALL: &'static [StepKind] = &[$(StepKind::$name),+];
            /// Its stable name.
            pub fn slug(self) -> &'static str {
                match self { $(StepKind::$name => $slug),+ }
            }
        }
    };
}

impl StepKind {
    /// Whether it only reads, and orders nothing.
    pub fn is_read(self) -> bool {
        use StepKind::{
            CacheRead, CompoundHead, FlagRead, MappingRead, MmFlagRead, PageblockRead,
            PincountRead, PteRead, RefRead, Signal, TableRead,
        };
        matches!(
            self,
            TableRead
                | PteRead
                | CompoundHead
                | RefRead
                | PincountRead
                | FlagRead
                | MmFlagRead
                | Signal
                | CacheRead
                | MappingRead
                | PageblockRead
        )
    }
}

kinds! {
    /// READ_ONCE of a page-table entry above the PTE.
    TableRead = "table-read",
    /// Read of a PTE.
    PteRead = "pte-read",
    /// Write of a page-table entry at any level.
    EntrySet = "entry-set",
    /// Atomic exchange or update of a page-table entry.
    EntryRmw = "entry-rmw",
    /// compound_head().
    CompoundHead = "compound-head",
    /// page_ref_count().
    RefRead = "ref-read",
    /// page_ref_add(), page_ref_sub() and their relatives without value.
    RefAdd = "ref-add",
    /// page_ref_add_unless_zero().
    RefAddUnlessZero = "ref-add-unless-zero",
    /// page_ref_dec_and_test().
    RefDecAndTest = "ref-dec-and-test",
    /// page_ref_freeze().
    RefFreeze = "ref-freeze",
    /// page_ref_unfreeze(), set_page_count().
    RefSet = "ref-set",
    /// compound_pincount read.
    PincountRead = "pincount-read",
    /// hpage_pincount_add(), hpage_pincount_sub().
    PincountAdd = "pincount-add",
    /// A mapcount changes or is read.
    Mapcount = "mapcount",
    /// A page flag is read.
    FlagRead = "flag-read",
    /// A page flag is written.
    FlagSet = "flag-set",
    /// A statistic changes.
    Vmstat = "vmstat",
    /// raw_read_seqcount().
    SeqRead = "seq-read",
    /// read_seqcount_retry().
    SeqRetry = "seq-retry",
    /// raw_write_seqcount_begin(), _end().
    SeqWrite = "seq-write",
    /// A spinlock is taken.
    Lock = "lock",
    /// A spinlock is released.
    Unlock = "unlock",
    /// mmap_lock is taken.
    MmapLock = "mmap-lock",
    /// mmap_lock is released.
    MmapUnlock = "mmap-unlock",
    /// local_irq_save().
    IrqSave = "irq-save",
    /// local_irq_restore().
    IrqRestore = "irq-restore",
    /// mm->flags is read.
    MmFlagRead = "mm-flag-read",
    /// mm->flags is written.
    MmFlagSet = "mm-flag-set",
    /// fatal_signal_pending().
    Signal = "signal",
    /// A page is allocated.
    Alloc = "alloc",
    /// A page is freed.
    Free = "free",
    /// A slot of a page cache, or the size of a file (slot −1), is read.
    CacheRead = "cache-read",
    /// A slot of a page cache, or the size of a file, is written.
    CacheSet = "cache-set",
    /// The contents of a page are read or written.
    Data = "data",
    /// page->mapping is read.
    MappingRead = "mapping-read",
    /// The type of a pageblock is read.
    PageblockRead = "pageblock-read",
    /// A barrier that stands by itself: 1 smp_rmb(), 2 smp_mb__after_atomic().
    Barrier = "barrier",
}

/// One access to shared state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// What is accessed, and how.
    pub kind: StepKind,
    /// The object: a page frame, a table slot, an mm; see the primitive.
    pub object: u32,
    /// The amount or the new value, where there is one.
    pub arg: i64,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.slug(), self.object)?;
        if self.arg != 0 {
            write!(f, " {:+}", self.arg)?;
        }
        Ok(())
    }
}
