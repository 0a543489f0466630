// SPDX-License-Identifier: GPL-2.0-only
//! Page tables of five levels, the P4D folded into the PGD.
//!
//! Duplicated: the bits of an x86-64 entry and what each test looks at
//! (present includes PROT_NONE entries, a huge PMD counts as present while it
//! is invalidated); one lock for each table; freeing a table waits until no
//! CPU is in an interrupts-off section. Customised: tables come from an arena
//! of their own and hold few entries; non-present entries are migration
//! entries and those of the one swap device; the lock of a PUD table stands
//! for mm->page_table_lock. Stubbed: TLBs, hugepd.

use super::compare::words;
use super::cpu::{Cpu, Event, FailSite, Hold};
use super::limits::{
    PAGE_SHIFT, PAGE_SIZE, PGDIR_SIZE, PMD_SIZE, PTRS_PER_PGD, PTRS_PER_PMD, PTRS_PER_PTE,
    PTRS_PER_PUD, PUD_SIZE,
};
use super::mm::MmId;
use super::page::Page;
use super::swap::SwapSlot;
use super::wait::Wait;
use super::world::World;
use crate::atomic::{RawLock, Word64};
use crate::flags::VmFlags;
use crate::history::Safeguard;
use crate::step::StepKind;
use crate::sync::Locked;

const PRESENT: u64 = 1 << 0;
const RW: u64 = 1 << 1;
const ACCESSED: u64 = 1 << 5;
const DIRTY: u64 = 1 << 6;
const PSE: u64 = 1 << 7;
const PROTNONE: u64 = 1 << 8;
const SPECIAL: u64 = 1 << 9;
/// A non-present entry that stands for a page under migration.
const MIGRATION: u64 = 1 << 10;
/// A migration entry of a writable mapping.
const MIGRATION_WRITE: u64 = 1 << 11;
/// A migration entry of a mapping that could not be written through, of a
/// page that is exclusive all the same. Never beside [`MIGRATION_WRITE`].
const MIGRATION_EXCLUSIVE: u64 = 1 << 2;
/// A non-present entry that stands for a page in swap.
const SWAP: u64 = 1 << 3;
/// A swap entry of a page that is exclusive to this mapping.
/// C: _PAGE_SWP_EXCLUSIVE
const SWP_EXCLUSIVE: u64 = 1 << 4;
const FLAGS: u64 = (1 << PAGE_SHIFT) - 1;
const TABLE: u64 = PRESENT | RW | ACCESSED | DIRTY;
/// The most entries a table has.
const PTRS_MAX: usize = PTRS_PER_PTE as usize;

/// The arena of page tables.
#[derive(Debug)]
pub struct Tables {
    slots: Box<[Table]>,
    used: Locked<u128>,
}

#[derive(Debug)]
struct Table {
    entries: [Word64; PTRS_MAX],
    lock: RawLock,
}

impl Tables {
    pub(crate) fn new(n: u16) -> Self {
        let table =
            || Table { entries: std::array::from_fn(|_| Word64::new(0)), lock: RawLock::new() };
        Tables { slots: (0..n).map(|_| table()).collect(), used: Locked::new(0) }
    }

    pub(crate) fn reset(&self) {
        for t in &self.slots {
            t.entries.iter().for_each(|e| e.set(0));
            t.lock.reset();
        }
        *self.used.lock() = 0;
    }

    pub(crate) fn copy_from(&self, other: &Tables) {
        for (to, from) in self.slots.iter().zip(&other.slots) {
            for (to, from) in to.entries.iter().zip(&from.entries) {
                to.set(from.read());
            }
            to.lock.copy_from(&from.lock);
        }
        *self.used.lock() = *other.used.lock();
    }

    /// What is not as in `other`, in words.
    pub(crate) fn difference(&self, other: &Tables) -> Option<String> {
        let mut pairs = self.slots.iter().zip(&other.slots).enumerate();
        let entry = pairs.find_map(|(n, (a, b))| {
            let lock = (a.lock.holders() != b.lock.holders()).then(|| format!("lock of table {n}"));
            lock.or_else(|| words(&format_args!("table {n}, entry"), &a.entries, &b.entries))
        });
        let used = || (*self.used.lock() != *other.used.lock()).then(|| "tables in use".into());
        entry.or_else(used)
    }

    /// Tables in use.
    pub(crate) fn in_use(&self) -> u32 {
        self.used.lock().count_ones()
    }
}

/// The place of one entry: a table and an index.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Slot {
    table: u16,
    index: u16,
}

impl Slot {
    /// The entry as a number: what steps call it.
    pub fn id(self) -> u32 {
        u32::from(self.table) * PTRS_MAX as u32 + u32::from(self.index)
    }
    /// The entry of a number.
    pub fn from_id(id: u32) -> Slot {
        let (table, index) = (id / PTRS_MAX as u32, id % PTRS_MAX as u32);
        Slot { table: table as u16, index: index as u16 }
    }
    /// The table it is in.
    pub fn table(self) -> u16 {
        self.table
    }
    #[inline]
    fn word(self, world: &World) -> &Word64 {
        &world.tables.slots[usize::from(self.table)].entries[usize::from(self.index)]
    }
}

macro_rules! level {
    ($(#[$doc:meta])* $value:ident, $ptr:ident, $kind:ident, $present:expr) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $value(pub u64);

        #[doc = concat!("Where a [`", stringify!($value), "`] is stored.")]
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub struct $ptr(pub Slot);

        impl $ptr {
            /// Reads the entry, once. C: READ_ONCE(*ptr)
            #[inline]
            pub fn read(self, cpu: &Cpu) -> $value {
                cpu.step(StepKind::$kind, self.0.id(), 0);
                // What the entry points to is only reached through it: an
                // address dependency. Pairs with the release in `set`.
                $value(self.0.word(cpu.world).read_dependent())
            }
            /// Stores an entry. The release orders the set-up of the page or
            /// table before it, as the kernel's smp_wmb() or page-table lock
            /// does; pairs with `read`.
            pub fn set(self, cpu: &Cpu, v: $value) {
                cpu.step(StepKind::EntrySet, self.0.id(), v.0 as i64);
                self.0.word(cpu.world).set_release(v.0);
            }
            /// Reads the entry again, to see whether it is what it was. Nothing
            /// is followed from it, so nothing is ordered after it.
            /// C: the same READ_ONCE(*ptr)
            #[inline]
            pub fn read_again(self, cpu: &Cpu) -> $value {
                cpu.step(StepKind::$kind, self.0.id(), 0);
                $value(self.0.word(cpu.world).read())
            }
            /// Stores an entry of a page that was mapped before: there is
            /// nothing to publish, and nothing is ordered. C: set_pte_at()
            pub fn set_again(self, cpu: &Cpu, v: $value) {
                cpu.step(StepKind::EntrySet, self.0.id(), v.0 as i64);
                self.0.word(cpu.world).set(v.0);
            }
            /// Takes the entry out. Architectures give no order with it: on
            /// arm64 it is xchg_relaxed(). C: ptep_get_and_clear() and relatives
            pub fn get_and_clear(self, cpu: &Cpu) -> $value {
                cpu.step(StepKind::EntryRmw, self.0.id(), 0);
                $value(self.0.word(cpu.world).xchg_relaxed(0))
            }
            /// Takes the write bit away. C: ptep_set_wrprotect() and
            /// relatives
            pub fn set_wrprotect(self, cpu: &Cpu) {
                cpu.step(StepKind::EntryRmw, self.0.id(), -(RW as i64));
                self.0.word(cpu.world).and_not(RW);
            }
            /// The next entry of the table. C: ptr + 1
            #[must_use]
            pub fn next(self) -> Self {
                $ptr(Slot { index: self.0.index + 1, ..self.0 })
            }
        }

        impl $value {
            /// Nothing there.
            pub fn none(self) -> bool {
                self.0 == 0
            }
            /// Something there. At the two lowest levels PROT_NONE entries
            /// count, and of the PMDs invalidated huge ones, too; a PROT_NONE
            /// leaf in a PUD does not.
            pub fn present(self) -> bool {
                self.0 & ($present) != 0
            }
            /// Not a pointer to a table.
            pub fn bad(self) -> bool {
                self.0 & FLAGS != TABLE
            }
        }
    };
}

level!(
    /// C: pgd_t
    Pgd, PgdPtr, TableRead, PRESENT
);
level!(
    /// C: p4d_t; with the folded P4D it is the PGD's entry.
    P4d, P4dPtr, TableRead, PRESENT
);
level!(
    /// C: pud_t
    Pud, PudPtr, TableRead, PRESENT
);
level!(
    /// C: pmd_t
    Pmd, PmdPtr, TableRead, PRESENT | PROTNONE | PSE
);
level!(
    /// C: pte_t
    Pte, PtePtr, PteRead, PRESENT | PROTNONE
);

macro_rules! points_to_table {
    ($($value:ident),+) => {$(
        impl $value {
            /// The table it points to.
            fn table(self) -> u16 {
                (self.0 >> PAGE_SHIFT) as u16
            }
            fn to_table(table: u16) -> Self {
                $value(u64::from(table) << PAGE_SHIFT | TABLE)
            }
        }
    )+};
}
points_to_table!(P4d, Pud, Pmd);

macro_rules! leaf {
    ($value:ident) => {
        impl $value {
            /// The frame it maps.
            pub fn pfn(self) -> Page {
                Page((self.0 >> PAGE_SHIFT) as u16)
            }
            /// Writable.
            pub fn write(self) -> bool {
                self.0 & RW != 0
            }
            /// Written through.
            pub fn dirty(self) -> bool {
                self.0 & DIRTY != 0
            }
            /// Accessed.
            pub fn young(self) -> bool {
                self.0 & ACCESSED != 0
            }
            /// Mapped without any access: PROT_NONE, or a NUMA hint.
            pub fn protnone(self) -> bool {
                self.0 & (PROTNONE | PRESENT) == PROTNONE
            }
            /// Whether user space may access it so without a fault.
            /// C: pte_access_permitted(), pmd_access_permitted()
            pub fn access_permitted(self, write: bool) -> bool {
                self.0 & PRESENT != 0 && (!write || self.write())
            }
            /// Stands for a page under migration.
            pub fn is_migration(self) -> bool {
                !self.present() && self.0 & MIGRATION != 0
            }
            /// The migration entry that stands for this entry: writable,
            /// readable but exclusive, or readable; with or without the young
            /// and dirty bits. PROT_NONE survives in the VMA.
            /// C: make_*_migration_entry(), linux/swapops.h
            #[must_use]
            pub fn to_migration(self, exclusive: bool, keep_ad: bool) -> Self {
                let kind = match (self.write(), exclusive) {
                    (true, _) => MIGRATION_WRITE,
                    (false, true) => MIGRATION_EXCLUSIVE,
                    (false, false) => 0,
                };
                let ad = if keep_ad { self.0 & (ACCESSED | DIRTY) } else { 0 };
                $value(self.0 & !FLAGS | MIGRATION | kind | ad)
            }
            /// A migration entry of a writable mapping.
            /// C: is_writable_migration_entry(), linux/swapops.h
            pub fn migration_write(self) -> bool {
                self.0 & MIGRATION_WRITE != 0
            }
            /// A migration entry of a page that may be shared.
            /// C: is_readable_migration_entry(), linux/swapops.h
            pub fn migration_shared(self) -> bool {
                self.0 & (MIGRATION_WRITE | MIGRATION_EXCLUSIVE) == 0
            }
            /// The same migration entry, for a page that is shared from now
            /// on. C: make_readable_migration_entry(), linux/swapops.h
            #[must_use]
            pub fn migration_share(self) -> Self {
                $value(self.0 & !(MIGRATION_WRITE | MIGRATION_EXCLUSIVE))
            }
            /// The same migration entry, to come back read-only.
            /// C: make_readable_exclusive_migration_entry()
            #[must_use]
            pub fn migration_wrprotect(self) -> Self {
                $value(self.0 & !MIGRATION_WRITE | MIGRATION_EXCLUSIVE)
            }
            /// C: *_mkwrite()
            #[must_use]
            pub fn mkwrite(self) -> Self {
                $value(self.0 | RW)
            }
            /// C: *_wrprotect()
            #[must_use]
            pub fn wrprotect(self) -> Self {
                $value(self.0 & !RW)
            }
            /// C: *_mkdirty()
            #[must_use]
            pub fn mkdirty(self) -> Self {
                $value(self.0 | DIRTY)
            }
            /// C: *_mkclean()
            #[must_use]
            pub fn mkclean(self) -> Self {
                $value(self.0 & !DIRTY)
            }
            /// C: *_mkyoung()
            #[must_use]
            pub fn mkyoung(self) -> Self {
                $value(self.0 | ACCESSED)
            }
            /// C: *_mkold()
            #[must_use]
            pub fn mkold(self) -> Self {
                $value(self.0 & !ACCESSED)
            }
            /// Gives the write bit if the VMA has it. C: maybe_mkwrite()
            #[must_use]
            pub fn maybe_mkwrite(self, flags: VmFlags) -> Self {
                if flags.contains(VmFlags::WRITE) { self.mkwrite() } else { self }
            }
            /// The same entry under another protection. C: pte_modify()
            #[must_use]
            pub fn modify(self, flags: VmFlags) -> Self {
                $value(self.0 & !(PRESENT | PROTNONE | RW) | prot(flags))
            }
        }
    };
}
leaf!(Pte);
leaf!(Pmd);
leaf!(Pud);

/// The protection bits of a VMA: a private mapping never starts writable.
/// C: vm_get_page_prot(), mm/mmap.c
fn prot(flags: VmFlags) -> u64 {
    if !flags.intersects(VmFlags::READ | VmFlags::WRITE) {
        PROTNONE
    } else if flags.contains(VmFlags::WRITE | VmFlags::SHARED) {
        PRESENT | RW
    } else {
        PRESENT
    }
}

impl Pte {
    /// The swap entry of a slot. C: swp_entry_to_pte(), pte_swp_mkexclusive()
    pub(crate) fn mk_swap(slot: SwapSlot, exclusive: bool) -> Pte {
        let exclusive = if exclusive { SWP_EXCLUSIVE } else { 0 };
        Pte(u64::from(slot.0) << PAGE_SHIFT | SWAP | exclusive)
    }
    /// The slot, if it is a swap entry. C: pte_to_swp_entry()
    pub(crate) fn swap_slot(self) -> Option<SwapSlot> {
        let is_swap = !self.present() && self.0 & SWAP != 0;
        is_swap.then_some(SwapSlot((self.0 >> PAGE_SHIFT) as u16))
    }
    /// C: pte_swp_exclusive()
    pub(crate) fn swp_exclusive(self) -> bool {
        self.0 & SWP_EXCLUSIVE != 0
    }
    /// C: pte_swp_clear_exclusive()
    #[must_use]
    pub(crate) fn swp_clear_exclusive(self) -> Pte {
        Pte(self.0 & !SWP_EXCLUSIVE)
    }
    /// The same entry, for another page. C: pte_advance_pfn()
    #[must_use]
    pub(crate) fn of_page(self, page: Page) -> Pte {
        Pte(self.0 & FLAGS | u64::from(page.0) << PAGE_SHIFT)
    }
    /// The swap entry `n` slots on. C: pte_move_swp_offset()
    #[must_use]
    pub(crate) fn move_swp_offset(self, n: u64) -> Pte {
        Pte(self.0.wrapping_add(n << PAGE_SHIFT))
    }
    /// An empty entry.
    pub const NONE: Pte = Pte(0);
    /// Maps `page` with the protection of a VMA. C: mk_pte()
    pub fn mk(page: Page, flags: VmFlags) -> Pte {
        Pte(u64::from(page.0) << PAGE_SHIFT | prot(flags) | ACCESSED)
    }
    /// Without a struct page behind it, or not to be touched through it.
    pub fn special(self) -> bool {
        self.0 & SPECIAL != 0
    }
    /// C: pte_mkspecial()
    #[must_use]
    pub fn mkspecial(self) -> Pte {
        Pte(self.0 | SPECIAL)
    }
    /// C: pte_devmap(); there is no device memory yet.
    pub fn devmap(self) -> bool {
        false
    }
    /// The same entry in a PMD or PUD. C: pte_mkhuge()
    #[must_use]
    pub(crate) fn mkhuge(self) -> Pte {
        Pte(self.0 | PSE)
    }
}

impl Pmd {
    /// Maps the THP `page` with the protection of a VMA. C: mk_huge_pmd()
    pub fn mk_huge(page: Page, flags: VmFlags) -> Pmd {
        Pmd(u64::from(page.0) << PAGE_SHIFT | prot(flags) | ACCESSED | PSE)
    }
    /// A THP. C: pmd_trans_huge()
    pub fn trans_huge(self) -> bool {
        self.0 & PSE != 0
    }
    /// Maps memory, not a table. C: pmd_leaf()
    pub fn leaf(self) -> bool {
        self.0 & PSE != 0
    }
    /// A THP, or one under migration. C: is_swap_pmd() || pmd_trans_huge()
    pub(crate) fn is_swap_or_trans_huge(self) -> bool {
        self.trans_huge() || self.is_migration()
    }
    /// Of a THP's migration entry, that of its `i`th page.
    pub fn migration_of_page(self, i: u64) -> Pte {
        Pte(self.0 + (i << PAGE_SHIFT))
    }
    /// A huge leaf as hugetlbfs makes them: any leaf that is not a table.
    /// C: pmd_huge(), arch/x86/mm/hugetlbpage.c
    pub fn huge(self) -> bool {
        !self.none() && self.0 & (PRESENT | PSE) != PRESENT
    }
    /// C: pmd_devmap(); there is no device memory yet.
    pub fn devmap(self) -> bool {
        false
    }
}

impl Pud {
    /// Maps a page of PUD size. C: pud_leaf(), pud_huge(), on x86
    #[doc(alias = "pud_huge")]
    pub fn leaf(self) -> bool {
        self.0 & PSE != 0
    }
    /// C: pud_devmap(); there is no device memory yet.
    pub fn devmap(self) -> bool {
        false
    }
}

impl PudPtr {
    /// The same place, for an entry of hugetlbfs. C: (pte_t *)pud
    pub(crate) fn as_pte(self) -> PtePtr {
        PtePtr(self.0)
    }
}

impl PmdPtr {
    /// The same place, for an entry of hugetlbfs. C: (pte_t *)pmd
    pub(crate) fn as_pte(self) -> PtePtr {
        PtePtr(self.0)
    }
    /// Makes a huge entry invalid for the hardware while it still counts as a
    /// huge entry for everyone who looks; returns what it was.
    /// C: pmdp_invalidate(), mm/pgtable-generic.c
    pub fn invalidate(self, cpu: &Cpu) -> Pmd {
        cpu.step(StepKind::EntryRmw, self.0.id(), -(PRESENT as i64));
        Pmd(self.0.word(cpu.world).fetch_and_not(PRESENT | PROTNONE))
    }
}

macro_rules! addr_end {
    ($name:ident, $size:ident) => {
        /// The end of the range, or of the entry that `addr` is in.
        #[doc = concat!("C: ", stringify!($name), "(), linux/pgtable.h")]
        #[inline]
        pub fn $name(addr: u64, end: u64) -> u64 {
            ((addr + $size) & !($size - 1)).min(end)
        }
    };
}
addr_end!(pgd_addr_end, PGDIR_SIZE);
addr_end!(pud_addr_end, PUD_SIZE);
addr_end!(pmd_addr_end, PMD_SIZE);

/// C: p4d_addr_end(), folded
#[inline]
pub fn p4d_addr_end(_addr: u64, end: u64) -> u64 {
    end
}

fn index(addr: u64, size: u64, entries: u64) -> u16 {
    (addr / size % entries) as u16
}

/// C: pgd_offset(), linux/pgtable.h
#[inline]
pub fn pgd_offset(cpu: &Cpu, mm: MmId, addr: u64) -> PgdPtr {
    let table = (cpu.world.mm(mm).pgd.read() - 1) as u16;
    PgdPtr(Slot { table, index: index(addr, PGDIR_SIZE, PTRS_PER_PGD) })
}

/// C: p4d_offset(), p4d_offset_lockless(); folded
#[inline]
pub fn p4d_offset(pgdp: PgdPtr) -> P4dPtr {
    P4dPtr(pgdp.0)
}

/// C: pud_offset_lockless(), linux/pgtable.h
#[inline]
pub fn pud_offset(p4d: P4d, addr: u64) -> PudPtr {
    PudPtr(Slot { table: p4d.table(), index: index(addr, PUD_SIZE, PTRS_PER_PUD) })
}

/// C: pmd_offset_lockless(), linux/pgtable.h
#[inline]
pub fn pmd_offset(pud: Pud, addr: u64) -> PmdPtr {
    PmdPtr(Slot { table: pud.table(), index: index(addr, PMD_SIZE, PTRS_PER_PMD) })
}

/// C: pte_offset_map(), linux/pgtable.h
#[inline]
pub fn pte_offset_map(pmd: Pmd, addr: u64) -> PtePtr {
    PtePtr(Slot { table: pmd.table(), index: index(addr, PAGE_SIZE, PTRS_PER_PTE) })
}

/// A page-table lock, by its table. C: spinlock_t *ptl
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ptl(pub u16);

/// C: spin_lock(ptl), linux/spinlock.h
pub fn spin_lock(cpu: &Cpu, ptl: Ptl) {
    cpu.step(StepKind::Lock, ptl.0.into(), 0);
    let bit = 1u128 << ptl.0;
    if cpu.bug_on(cpu.held.get() & bit != 0, "spin_lock", "possible recursive locking detected") {
        return;
    }
    let lock = &cpu.world.tables.slots[usize::from(ptl.0)].lock;
    if !cpu.lacks(Safeguard::PageTableLock) {
        cpu.take(lock, Hold::Write, Wait::PageTableLock(ptl.0));
    }
    cpu.held.set(cpu.held.get() | bit);
}

/// C: spin_unlock(ptl), linux/spinlock.h
pub fn spin_unlock(cpu: &Cpu, ptl: Ptl) {
    cpu.step(StepKind::Unlock, ptl.0.into(), 0);
    let bit = 1u128 << ptl.0;
    if cpu.bug_on(cpu.held.get() & bit == 0, "spin_unlock", "bad unlock balance detected") {
        return;
    }
    cpu.held.set(cpu.held.get() & !bit);
    if !cpu.lacks(Safeguard::PageTableLock) {
        cpu.release(&cpu.world.tables.slots[usize::from(ptl.0)].lock, Hold::Write);
    }
}

/// Whether this CPU holds the lock. C: spin_is_locked(ptl)
pub fn spin_is_locked(cpu: &Cpu, ptl: Ptl) -> bool {
    cpu.held.get() & 1 << ptl.0 != 0
}

/// C: assert_spin_locked(pmd_lockptr(mm, pmd))
pub fn assert_spin_locked(cpu: &Cpu, pmdp: PmdPtr, function: &'static str) {
    let held = cpu.held.get() & 1 << pmdp.0.table != 0;
    cpu.bug_on(!held, function, "the PMD lock is not held");
}

/// C: assert_spin_locked(pud_lockptr(mm, pud))
pub fn assert_pud_locked(cpu: &Cpu, pudp: PudPtr, function: &'static str) {
    let held = cpu.held.get() & 1 << pudp.0.table != 0;
    cpu.bug_on(!held, function, "the PUD lock is not held");
}

/// C: pmd_lock(), linux/mm.h
pub fn pmd_lock(cpu: &Cpu, pmdp: PmdPtr) -> Ptl {
    let ptl = Ptl(pmdp.0.table);
    spin_lock(cpu, ptl);
    ptl
}

/// C: pud_lock(), linux/mm.h
pub fn pud_lock(cpu: &Cpu, pudp: PudPtr) -> Ptl {
    huge_pte_lock(cpu, pudp.as_pte())
}

/// Locks the table that an entry of hugetlbfs is in.
/// C: huge_pte_lock(), linux/hugetlb.h
pub(crate) fn huge_pte_lock(cpu: &Cpu, ptep: PtePtr) -> Ptl {
    let ptl = Ptl(ptep.0.table);
    spin_lock(cpu, ptl);
    ptl
}

/// The lock of the table that `pmd` points to. C: pte_lockptr(), linux/mm.h
#[inline]
pub fn pte_lockptr(pmd: Pmd) -> Ptl {
    Ptl(pmd.table())
}

/// Locks the table that `pmd` points to. C: pte_offset_map_lock(), linux/mm.h
pub fn pte_offset_map_lock(cpu: &Cpu, pmd: Pmd, addr: u64) -> (PtePtr, Ptl) {
    let ptl = pte_lockptr(pmd);
    spin_lock(cpu, ptl);
    (pte_offset_map(pmd, addr), ptl)
}

/// The PTE slot under the value of a PMD; `None` if that leads to no table.
/// C: __pte_offset_map(), mm/pgtable-generic.c, v6.12
#[inline]
pub fn __pte_offset_map(pmd: Pmd, addr: u64) -> Option<PtePtr> {
    // PORT: a bad entry, which the C would clear, only comes from a huge one.
    let table = !pmd.none() && !pmd.is_migration() && !pmd.trans_huge() && !pmd.bad();
    table.then(|| pte_offset_map(pmd, addr))
}

/// Locks the table that the PMD points to, now and once the lock is taken;
/// `None` if there is no table. C: __pte_offset_map_lock(),
/// mm/pgtable-generic.c, v6.12
pub fn __pte_offset_map_lock(cpu: &Cpu, pmdp: PmdPtr, addr: u64) -> Option<(PtePtr, Ptl)> {
    // again:
    loop {
        let pmd = pmdp.read(cpu);
        let ptep = __pte_offset_map(pmd, addr)?;
        let ptl = pte_lockptr(pmd);
        spin_lock(cpu, ptl);
        if pmd == pmdp.read(cpu) {
            return Some((ptep, ptl));
        }
        pte_unmap_unlock(cpu, ptep, ptl);
    }
}

/// C: pte_unmap_unlock(), linux/mm.h
pub fn pte_unmap_unlock(cpu: &Cpu, _ptep: PtePtr, ptl: Ptl) {
    spin_unlock(cpu, ptl);
}

/// A fresh, empty table; `None` and an event if there are none.
fn table_alloc(cpu: &Cpu) -> Option<u16> {
    let table = if cpu.should_fail(FailSite::Alloc) { None } else { table_take(cpu) };
    if table.is_none() {
        cpu.event(Event::ALLOC_FAILED);
    }
    table
}

fn table_take(cpu: &Cpu) -> Option<u16> {
    let tables = &cpu.world.tables;
    let mut used = tables.used.lock();
    let n = used.trailing_ones();
    if n as usize >= tables.slots.len() {
        return None;
    }
    *used |= 1 << n;
    Some(n as u16)
}

/// Frees a table that no entry points to any more, after every CPU that may
/// still walk it with interrupts off has left.
/// C: tlb_remove_table(), mm/mmu_gather.c
fn table_free(cpu: &Cpu, table: u16) {
    if !cpu.lacks(Safeguard::TableWait) {
        tlb_remove_table_sync(cpu);
    }
    let t = &cpu.world.tables.slots[usize::from(table)];
    t.entries.iter().for_each(|e| e.set(0));
    *cpu.world.tables.used.lock() &= !(1 << table);
}

/// Waits until no other CPU is in an interrupts-off section. A CPU that waits
/// with its own interrupts off would deadlock: that is a bug.
/// C: tlb_remove_table_sync_one(), mm/mmu_gather.c
pub(crate) fn tlb_remove_table_sync(cpu: &Cpu) {
    let at = "tlb_remove_table_sync_one";
    if cpu.bug_on(cpu.irqs_off.get() != 0, at, "waiting for an IPI with interrupts off") {
        return;
    }
    cpu.world.irqs_off.synchronize(&cpu.locks, || {
        let alone = cpu.goes_on_without(Wait::InterruptsOff);
        if !alone {
            cpu.waits();
        }
        alone
    });
}

/// Gives `mm` an empty PGD. C: pgd_alloc(), arch/x86/mm/pgtable.c
pub(crate) fn pgd_alloc(cpu: &Cpu, mm: MmId) -> bool {
    let Some(table) = table_alloc(cpu) else { return false };
    cpu.world.mm(mm).pgd.set(i32::from(table) + 1);
    true
}

/// Links a fresh table under an empty entry, under the lock of the table that
/// the entry is in: of two CPUs that fault at the same time, one is faster,
/// and the other gives its table back. `None` if there is no table.
/// C: __pud_alloc(), __pmd_alloc(), pmd_install(), mm/memory.c
fn install(cpu: &Cpu, slot: Slot, empty: impl Fn() -> bool, link: impl Fn(u16)) -> Option<()> {
    let table = table_alloc(cpu)?;
    let ptl = Ptl(slot.table);
    spin_lock(cpu, ptl);
    let mine = empty();
    if mine {
        link(table);
    }
    spin_unlock(cpu, ptl);
    if !mine {
        // Never linked, so nobody walks it.
        *cpu.world.tables.used.lock() &= !(1 << table);
    }
    Some(())
}

/// The PUD slot for `addr`, with its table made as needed; `None` if it could
/// not be had. C: pud_alloc(), mm/memory.c
pub(crate) fn pud_alloc(cpu: &Cpu, mm: MmId, addr: u64) -> Option<PudPtr> {
    let p4dp = p4d_offset(pgd_offset(cpu, mm, addr));
    let mut p4d = p4dp.read(cpu);
    if p4d.none() {
        let link = |table| p4dp.set(cpu, P4d::to_table(table));
        install(cpu, p4dp.0, || p4dp.read(cpu).none(), link)?;
        p4d = p4dp.read(cpu);
    }
    Some(pud_offset(p4d, addr))
}

/// The PMD slot for `addr`, with the tables above it made as needed; `None`
/// if one could not be had. C: pmd_alloc(), mm/memory.c
pub(crate) fn pmd_alloc(cpu: &Cpu, mm: MmId, addr: u64) -> Option<PmdPtr> {
    let pudp = pud_alloc(cpu, mm, addr)?;
    let mut pud = pudp.read(cpu);
    if pud.none() {
        let link = |table| pudp.set(cpu, Pud::to_table(table));
        install(cpu, pudp.0, || pudp.read(cpu).none(), link)?;
        pud = pudp.read(cpu);
    }
    Some(pmd_offset(pud, addr))
}

/// Makes a PTE table under an empty PMD; false if there is no memory.
/// C: pte_alloc(), linux/mm.h
pub fn pte_alloc(cpu: &Cpu, pmdp: PmdPtr) -> bool {
    if !pmdp.read(cpu).none() {
        return true;
    }
    let link = |table| pmdp.set(cpu, Pmd::to_table(table));
    install(cpu, pmdp.0, || pmdp.read(cpu).none(), link).is_some()
}

/// The PTE table that the kernel deposited when it mapped a THP, so that a
/// split cannot fail. The model takes it from the arena now, which holds all
/// the tables that its address spaces can need.
/// C: pgtable_trans_huge_withdraw(), mm/pgtable-generic.c
pub(crate) fn pgtable_trans_huge_withdraw(cpu: &Cpu) -> Pmd {
    Pmd::to_table(table_take(cpu).expect("Limits::tables covers every address space"))
}

/// Takes back an empty table that a THP replaces: the kernel keeps it for the
/// split, the arena for whoever asks next. Does not wait for CPUs that may
/// still walk it.
/// C: pgtable_trans_huge_deposit(), mm/pgtable-generic.c
pub(crate) fn pgtable_trans_huge_deposit(cpu: &Cpu, table: Pmd) {
    *cpu.world.tables.used.lock() &= !(1 << table.table());
}

/// C: pte_free(), for a table that was never linked.
pub(crate) fn pte_free(cpu: &Cpu, table: Pmd) {
    table_free(cpu, table.table());
}

/// The PMD slot for `addr` if all tables above it exist.
/// C: mm_find_pmd(), mm/rmap.c (without its test for a present table)
pub fn mm_find_pmd(cpu: &Cpu, mm: MmId, addr: u64) -> Option<PmdPtr> {
    let p4d = p4d_offset(pgd_offset(cpu, mm, addr)).read(cpu);
    if p4d.none() {
        return None;
    }
    let pud = pud_offset(p4d, addr).read(cpu);
    (!pud.bad()).then(|| pmd_offset(pud, addr))
}

/// The PUD slot for `addr` if its table exists.
/// C: the head of huge_pte_offset(), mm/hugetlb.c
pub(crate) fn mm_find_pud(cpu: &Cpu, mm: MmId, addr: u64) -> Option<PudPtr> {
    let p4d = p4d_offset(pgd_offset(cpu, mm, addr)).read(cpu);
    p4d.present().then(|| pud_offset(p4d, addr))
}

/// Frees the PMD table under a PUD, if there is one. All its entries must be
/// empty. C: free_pmd_range(), mm/memory.c
pub(crate) fn free_pmd_range(cpu: &Cpu, pudp: PudPtr) {
    let pud = pudp.read(cpu);
    if pud.bad() {
        return;
    }
    pudp.get_and_clear(cpu);
    table_free(cpu, pud.table());
}

/// Frees the PTE table under a PMD, if there is one. All its entries must be
/// empty. C: free_pte_range(), mm/memory.c
pub(crate) fn free_pte_range(cpu: &Cpu, pmdp: PmdPtr) {
    let pmd = pmdp.read(cpu);
    if pmd.none() || pmd.trans_huge() {
        return;
    }
    pmdp.get_and_clear(cpu);
    table_free(cpu, pmd.table());
}

/// Frees the PUD and PMD tables of an mm and its PGD.
/// C: free_pgtables(), pgd_free()
pub(crate) fn free_upper_tables(cpu: &Cpu, mm: MmId) {
    for g in 0..PTRS_PER_PGD {
        let p4dp = p4d_offset(pgd_offset(cpu, mm, g * PGDIR_SIZE));
        let p4d = p4dp.get_and_clear(cpu);
        if p4d.none() {
            continue;
        }
        for u in 0..PTRS_PER_PUD {
            let pud = pud_offset(p4d, u * PUD_SIZE).get_and_clear(cpu);
            if !pud.none() {
                table_free(cpu, pud.table());
            }
        }
        table_free(cpu, p4d.table());
    }
    let pgd = &cpu.world.mm(mm).pgd;
    table_free(cpu, (pgd.read() - 1) as u16);
    pgd.set(0);
}

/// The PUD slot's value for `addr`, without a step.
#[inline]
fn peek_pud(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Pud> {
    let world = cpu.world;
    let p4d = P4d(p4d_offset(pgd_offset(cpu, mm, addr)).0.word(world).read());
    (!p4d.none()).then(|| Pud(pud_offset(p4d, addr).0.word(world).read()))
}

/// A leaf entry, as an observer or the hardware sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Leaf {
    /// The frame.
    pub page: Page,
    /// User space may access it without a fault.
    pub accessible: bool,
    /// Writable.
    pub write: bool,
    /// Without a struct page that counts mappings: the zero page, or a raw
    /// frame number.
    pub special: bool,
    /// In a PMD or PUD: of a THP or of hugetlbfs.
    pub huge: bool,
}

/// The leaf that maps an address, PROT_NONE included. Takes no step.
pub fn leaf_at(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Leaf> {
    let huge = |first: Page, size: u64, accessible, write| {
        let page = first.nth(addr % size / PAGE_SIZE);
        Some(Leaf { page, accessible, write, special: false, huge: true })
    };
    let pud = peek_pud(cpu, mm, addr)?;
    if pud.leaf() {
        return huge(pud.pfn(), PUD_SIZE, pud.access_permitted(false), pud.write());
    }
    if pud.bad() {
        return None;
    }
    let pmd = Pmd(pmd_offset(pud, addr).0.word(cpu.world).read());
    if pmd.leaf() {
        return huge(pmd.pfn(), PMD_SIZE, pmd.access_permitted(false), pmd.write());
    }
    if pmd.bad() {
        return None;
    }
    let pte = Pte(pte_offset_map(pmd, addr).0.word(cpu.world).read());
    pte.present().then(|| Leaf {
        page: pte.pfn(),
        accessible: pte.access_permitted(false),
        write: pte.write(),
        special: pte.special(),
        huge: false,
    })
}

/// [`leaf_at`], and where a swap entry is, the page in the swap cache that a
/// fault would map: inaccessible so far. Takes no step.
pub fn leaf_or_swapped_at(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Leaf> {
    leaf_at(cpu, mm, addr).or_else(|| {
        let slot = swap_slot_at(cpu, mm, addr)?;
        let page = cpu.world.swap.lock().page(slot)?;
        Some(Leaf { page, accessible: false, write: false, special: false, huge: false })
    })
}

/// The PTE at an address, if there is a table for it. Takes no step.
fn peek_pte(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Pte> {
    let pud = peek_pud(cpu, mm, addr).filter(|pud| !pud.bad())?;
    let pmd = Pmd(pmd_offset(pud, addr).0.word(cpu.world).read());
    (!pmd.bad()).then(|| Pte(pte_offset_map(pmd, addr).0.word(cpu.world).read()))
}

/// The slot of the swap entry at an address. Takes no step.
pub(crate) fn swap_slot_at(cpu: &Cpu, mm: MmId, addr: u64) -> Option<SwapSlot> {
    peek_pte(cpu, mm, addr)?.swap_slot()
}

/// The frame an address is mapped to, PROT_NONE included, unless it is a raw
/// frame number. Takes no step.
pub fn mapped_page(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Page> {
    leaf_at(cpu, mm, addr)?.counted(cpu.world)
}

impl Leaf {
    /// The frame, unless it is a raw frame number.
    pub fn counted(&self, world: &World) -> Option<Page> {
        (!self.special || self.page == world.zero_page()).then_some(self.page)
    }
}
