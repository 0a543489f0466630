// SPDX-License-Identifier: GPL-2.0-only
//! What gup.c calls: for each accessor of c/shim.h the primitive of
//! gup-core, on the CPU that called into gup.c.
//!
//! Pointers stay on the C side: everything here is numbers.

use core::cell::{Cell, RefCell};
use core::ffi::{CStr, c_char, c_int, c_long, c_uint, c_ulong, c_void};

use gup_core::errno::Errno;
use gup_core::flags::{FaultFlag, Gfp};
use gup_core::model::cpu::TaskFlags;
use gup_core::model::filemap::File;
use gup_core::model::folio::{self, Folio};
use gup_core::model::huge_memory::{split_huge_pmd, touch_pmd};
use gup_core::model::hugetlb::{hugetlb_fault, hugetlbfs_pagecache_present};
use gup_core::model::memory::{handle_mm_fault, vm_normal_page};
use gup_core::model::migrate::{MigrationTarget, PageList, migrate_pages, putback_movable_pages};
use gup_core::model::mm::{self, MmId, Vma, vma_at};
use gup_core::model::page::{self, Mapping};
use gup_core::model::pgtable::{self, P4d, PgdPtr, Pmd, PmdPtr, Pte, PtePtr, Ptl, Pud, Slot};
use gup_core::model::vmstat::{NodeStat, mod_node_page_state};
use gup_core::model::{Cpu, Page, lru};

use crate::sites;

unsafe extern "C-unwind" {
    safe fn shim_frames() -> *mut c_void;
    safe fn shim_set_frames(saved: *mut c_void);
}

thread_local! {
    /// The CPU of the innermost call into gup.c on this thread.
    static CPU: Cell<*const Cpu<'static>> = const { Cell::new(core::ptr::null()) };
    /// The pages that gup.c has isolated, while the model works on them.
    static LIST: RefCell<PageList> = RefCell::new(PageList::new());
}

/// Runs a call into gup.c on `cpu`. The call may come back here, through a
/// window that runs another op: the CPUs form a stack.
pub(crate) fn enter<R>(cpu: &Cpu, call: impl FnOnce() -> R) -> R {
    /// Restores what was there before, after a panic of the model, too.
    struct Leave(*const Cpu<'static>, *mut c_void);
    impl Drop for Leave {
        fn drop(&mut self) {
            CPU.set(self.0);
            shim_set_frames(self.1);
        }
    }
    let cpu = core::ptr::from_ref(cpu).cast();
    let _leave = Leave(CPU.replace(cpu), shim_frames());
    call()
}

/// Runs `f` on the CPU of the call.
#[inline]
fn with<R>(f: impl FnOnce(&Cpu) -> R) -> R {
    let cpu = CPU.get();
    assert!(!cpu.is_null(), "gup.c runs inside of enter()");
    // SAFETY: enter() put it there and is still running, and so is whoever
    // lent it the CPU; it is shared by one thread only.
    let cpu = unsafe { &*cpu };
    sites::note(cpu);
    f(cpu)
}

/// Functions that C calls: names and types as declared in c/shim.h.
macro_rules! accessors {
    ($(fn $name:ident($cpu:ident $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)? $body:block)+) => {$(
        #[unsafe(no_mangle)]
        extern "C-unwind" fn $name($($arg: $ty),*) $(-> $ret)? { with(|$cpu| $body) }
    )+};
}

/// What a predicate of the model looks at.
fn folio_of(page: u16) -> Folio {
    Folio(Page(page))
}

// Pages and folios.
accessors! {
    fn shim_compound_head(cpu, p: u16) -> u16 { folio::page_folio(cpu, Page(p)).0.0 }
    fn shim_PageAnon(cpu, p: u16) -> bool { folio::page_anon(cpu, Page(p)) }
    fn shim_PageAnonExclusive(cpu, p: u16) -> bool { folio::page_anon_exclusive(cpu, Page(p)) }
    fn shim_PageHead(cpu, p: u16) -> bool { page::page_head(cpu, Page(p)) }
    fn shim_PageCompound(cpu, p: u16) -> bool { page::page_compound(cpu, Page(p)) }
    fn shim_PageDirty(cpu, p: u16) -> bool { page::page_dirty(cpu, Page(p)) }
    fn shim_PageLRU(cpu, p: u16) -> bool { page::page_lru(cpu, Page(p)) }
    fn shim_page_is_file_lru(cpu, p: u16) -> bool { page::page_is_file_lru(cpu, Page(p)) }
    fn shim_page_cache_add_speculative(cpu, p: u16, refs: c_int) -> bool {
        page::page_cache_add_speculative(cpu, Page(p), refs)
    }
    fn shim_put_page(cpu, p: u16) { page::put_page(cpu, Page(p)); }
    fn shim_SetPageReferenced(cpu, p: u16) { page::set_page_referenced(cpu, Page(p)); }
    fn shim_set_page_dirty_lock(cpu, p: u16) { page::set_page_dirty_lock(cpu, Page(p)); }
    fn shim_folio_is_device_coherent(cpu, f: u16) -> bool {
        folio::folio_is_device_coherent(cpu, folio_of(f))
    }
    fn shim_folio_is_zone_movable(cpu, f: u16) -> bool {
        folio::folio_is_zone_movable(cpu, folio_of(f))
    }
    fn shim_folio_test_anon(cpu, f: u16) -> bool { folio::folio_test_anon(cpu, folio_of(f)) }
    fn shim_folio_test_dirty(cpu, f: u16) -> bool { folio::folio_test_dirty(cpu, folio_of(f)) }
    fn shim_folio_test_hugetlb(cpu, f: u16) -> bool { folio::folio_test_hugetlb(cpu, folio_of(f)) }
    fn shim_folio_test_large(cpu, f: u16) -> bool { folio::folio_test_large(cpu, folio_of(f)) }
    fn shim_folio_test_private(cpu, f: u16) -> bool { folio::folio_test_private(cpu, folio_of(f)) }
    fn shim_folio_test_slab(cpu, f: u16) -> bool { folio::folio_test_slab(cpu, folio_of(f)) }
    fn shim_folio_test_swapcache(cpu, f: u16) -> bool {
        folio::folio_test_swapcache(cpu, folio_of(f))
    }
    fn shim_page_has_type(cpu, p: u16) -> bool { folio::page_has_type(cpu, Page(p)) }
    fn shim_is_pci_p2pdma_page(cpu, p: u16) -> bool { folio::is_pci_p2pdma_page(cpu, Page(p)) }
    fn shim_folio_migratetype(cpu, f: u16) -> c_int {
        folio::folio_migratetype(cpu, folio_of(f)) as c_int
    }
    fn shim_folio_ref_count(cpu, f: u16) -> c_int { folio::folio_ref_count(cpu, folio_of(f)) }
    fn shim_folio_mapcount(cpu, f: u16) -> c_int { folio::folio_mapcount(cpu, folio_of(f)) }
    fn shim_folio_order(cpu, f: u16) -> c_uint { folio::folio_order(cpu, folio_of(f)) }
    fn shim_folio_nr_pages(cpu, f: u16) -> c_long {
        folio::folio_nr_pages(cpu, folio_of(f)) as c_long
    }
    fn shim_folio_ref_add(cpu, f: u16, refs: c_int) {
        folio::folio_ref_add(cpu, folio_of(f), refs);
    }
    fn shim_folio_ref_try_add(cpu, f: u16, refs: c_int) -> bool {
        folio::folio_ref_try_add(cpu, folio_of(f), refs)
    }
    fn shim_folio_put_refs(cpu, f: u16, refs: c_int) {
        folio::folio_put_refs(cpu, folio_of(f), refs);
    }
    fn shim_folio_get(cpu, f: u16) { folio::folio_get(cpu, folio_of(f)); }
    fn shim_pincount_add(cpu, f: u16, refs: c_int) {
        folio::folio_pincount_add(cpu, folio_of(f), refs);
    }
    fn shim_pincount_read(cpu, f: u16) -> c_int { folio::folio_pincount(cpu, folio_of(f)) }
    fn shim_folio_set_referenced(cpu, f: u16) {
        folio::folio_set_referenced(cpu, folio_of(f));
    }
    fn shim_folio_lock(cpu, f: u16) { folio::folio_lock(cpu, folio_of(f)); }
    fn shim_folio_unlock(cpu, f: u16) { folio::folio_unlock(cpu, folio_of(f)); }
    fn shim_folio_mark_dirty(cpu, f: u16) { folio::folio_mark_dirty(cpu, folio_of(f)); }
    fn shim_set_page_dirty(cpu, p: u16) { page::set_page_dirty(cpu, Page(p)); }
    fn shim_mark_page_accessed(cpu, p: u16) { page::mark_page_accessed(cpu, Page(p)); }
    fn shim_folio_is_file_lru(cpu, f: u16) -> bool {
        folio::folio_is_file_lru(cpu, folio_of(f))
    }
    fn shim_is_zero_pfn(cpu, pfn: c_ulong) -> bool { page::is_zero_page(cpu, Page(pfn as u16)) }
    fn shim_pfn_valid(cpu, pfn: c_ulong) -> bool { cpu.world.has_frame(Page(pfn as u16)) }
    fn shim_arch_make_folio_accessible(cpu, f: u16) -> c_int {
        zero_or_error(folio::arch_make_folio_accessible(cpu, folio_of(f)))
    }
    fn shim_folio_mapping(cpu, f: u16) -> c_int { folio::folio_mapping(cpu, folio_of(f)).word() }
    fn shim_secretmem_mapping(_cpu, mapping: c_int) -> bool {
        folio::secretmem_mapping(Mapping::from_word(mapping))
    }
    fn shim_shmem_mapping(_cpu, mapping: c_int) -> bool {
        folio::shmem_mapping(Mapping::from_word(mapping))
    }
    fn shim_mod_node_page_state(cpu, item: c_uint, nr: c_long) {
        if let Some(&item) = NodeStat::ALL.get(item as usize) {
            mod_node_page_state(cpu, item, nr);
        }
    }
}

/// What the kernel answers for a `Result` without a value.
fn zero_or_error(r: Result<(), Errno>) -> c_int {
    r.map_or_else(|e| -(e as c_int), |()| 0)
}

/// Tests of an entry's value.
macro_rules! entry_tests {
    ($($name:ident = $level:ident::$test:ident;)+) => {$(
        #[unsafe(no_mangle)]
        extern "C-unwind" fn $name(entry: u64) -> bool { $level(entry).$test() }
    )+};
}

entry_tests! {
    shim_pte_none = Pte::none;
    shim_pte_present = Pte::present;
    shim_pte_write = Pte::write;
    shim_pte_dirty = Pte::dirty;
    shim_pte_protnone = Pte::protnone;
    shim_pte_special = Pte::special;
    shim_pmd_none = Pmd::none;
    shim_pmd_present = Pmd::present;
    shim_pmd_bad = Pmd::bad;
    shim_pmd_leaf = Pmd::leaf;
    shim_pmd_write = Pmd::write;
    shim_pmd_dirty = Pmd::dirty;
    shim_pmd_protnone = Pmd::protnone;
    shim_pmd_trans_huge = Pmd::trans_huge;
    shim_pmd_is_migration = Pmd::is_migration;
    shim_pud_none = Pud::none;
    shim_pud_present = Pud::present;
    shim_pud_bad = Pud::bad;
    shim_pud_leaf = Pud::leaf;
    shim_pud_write = Pud::write;
    shim_p4d_none = P4d::none;
    shim_p4d_present = P4d::present;
    shim_p4d_bad = P4d::bad;
}

// Page tables.
accessors! {
    fn shim_pte_access_permitted(_cpu, entry: u64, write: bool) -> bool {
        Pte(entry).access_permitted(write)
    }
    fn shim_pmd_access_permitted(_cpu, entry: u64, write: bool) -> bool {
        Pmd(entry).access_permitted(write)
    }
    fn shim_pud_access_permitted(_cpu, entry: u64, write: bool) -> bool {
        Pud(entry).access_permitted(write)
    }
    fn shim_entry_pfn(_cpu, entry: u64) -> c_ulong { Pte(entry).pfn().0.into() }
    fn shim_pte_mkdirty(_cpu, entry: u64) -> u64 { Pte(entry).mkdirty().0 }
    fn shim_pte_mkyoung(_cpu, entry: u64) -> u64 { Pte(entry).mkyoung().0 }
    fn shim_read_pte(cpu, slot: u32) -> u64 { PtePtr(Slot::from_id(slot)).read(cpu).0 }
    fn shim_read_entry(cpu, slot: u32) -> u64 { PmdPtr(Slot::from_id(slot)).read(cpu).0 }
    fn shim_set_pte(cpu, slot: u32, entry: u64) {
        PtePtr(Slot::from_id(slot)).set(cpu, Pte(entry));
    }
    fn shim_pgd_table(cpu, mm: c_uint) -> u32 {
        let PgdPtr(slot) = pgtable::pgd_offset(cpu, MmId(mm as u8), 0);
        slot.table().into()
    }
    fn shim_spin_lock(cpu, table: u16) { pgtable::spin_lock(cpu, Ptl(table)); }
    fn shim_spin_unlock(cpu, table: u16) { pgtable::spin_unlock(cpu, Ptl(table)); }
    fn shim_spin_is_locked(cpu, table: u16) -> bool { pgtable::spin_is_locked(cpu, Ptl(table)) }
    fn shim_pte_alloc(cpu, pmd: u32) -> c_int {
        c_int::from(!pgtable::pte_alloc(cpu, PmdPtr(Slot::from_id(pmd))))
    }
    fn shim_touch_pmd(cpu, pmd: u32, write: bool) {
        touch_pmd(cpu, PmdPtr(Slot::from_id(pmd)), write);
    }
}

/// What gup.c may know of a VMA. C: struct shim_vma, c/shim.h
#[repr(C)]
struct ShimVma {
    start: u64,
    end: u64,
    flags: u32,
    slot: u32,
    kind: u32,
}

impl From<Option<Vma>> for ShimVma {
    fn from(found: Option<Vma>) -> Self {
        let Some(vma) = found else {
            return ShimVma { start: 0, end: 0, flags: 0, slot: 0, kind: 0 };
        };
        // C: SHIM_VMA_*, c/shim.h
        let kinds = [
            true,
            vma.is_anonymous(),
            // A driver's mapping has its pages from the start.
            vma.file().is_some(),
            vma.is_secretmem(),
            vma.needs_dirty_tracking(),
            vma.is_hugetlb(),
            vma.file() == Some(File::HugetlbPud),
        ];
        let kind = kinds.iter().enumerate().map(|(n, &is)| u32::from(is) << n).sum();
        let slot = vma.slot() as u32;
        ShimVma { start: vma.start, end: vma.end, flags: vma.flags.bits(), slot, kind }
    }
}

/// The VMA that gup.c holds a pointer to: it can only have gone if gup.c
/// kept the pointer after mmap_lock was dropped.
fn vma(cpu: &Cpu, mm: c_uint, slot: u32) -> Option<Vma> {
    let vma = vma_at(cpu, MmId(mm as u8), slot as usize);
    cpu.bug_on(vma.is_none(), "mm/gup.c", "use of a VMA that is gone");
    vma
}

// Address spaces and tasks.
accessors! {
    fn shim_find_vma(cpu, mm: c_uint, addr: u64) -> ShimVma {
        mm::find_vma(cpu, MmId(mm as u8), addr).into()
    }
    fn shim_vma_lookup(cpu, mm: c_uint, addr: u64) -> ShimVma {
        mm::vma_lookup(cpu, MmId(mm as u8), addr).into()
    }
    fn shim_find_extend_vma(cpu, mm: c_uint, addr: u64) -> ShimVma {
        mm::find_extend_vma(cpu, MmId(mm as u8), addr).into()
    }
    fn shim_mmap_read_lock(cpu, mm: c_uint) { mm::mmap_read_lock(cpu, MmId(mm as u8)); }
    fn shim_mmap_read_unlock(cpu, mm: c_uint) { mm::mmap_read_unlock(cpu, MmId(mm as u8)); }
    fn shim_mmap_read_lock_killable(cpu, mm: c_uint) -> c_int {
        zero_or_error(mm::mmap_read_lock_killable(cpu, MmId(mm as u8)))
    }
    fn shim_mmap_is_locked(cpu, mm: c_uint) -> bool {
        mm::mmap_lock_holders(cpu, MmId(mm as u8)) != 0
    }
    fn shim_mm_has_pinned(cpu, mm: c_uint) -> bool { mm::mm_has_pinned(cpu, MmId(mm as u8)) }
    fn shim_set_mm_has_pinned(cpu, mm: c_uint) { mm::set_mm_has_pinned(cpu, MmId(mm as u8)); }
    fn shim_read_write_protect_seq(cpu, mm: c_uint) -> c_uint {
        mm::read_write_protect_seq(cpu, MmId(mm as u8)) as c_uint
    }
    fn shim_retry_write_protect_seq(cpu, mm: c_uint, seq: c_uint) -> bool {
        mm::retry_write_protect_seq(cpu, MmId(mm as u8), seq as i32)
    }
    fn shim_local_irq_save(cpu) -> c_uint { cpu.local_irq_save() }
    fn shim_local_irq_restore(cpu, flags: c_uint) { cpu.local_irq_restore(flags); }
    fn shim_irqs_disabled(cpu) -> bool { cpu.irqs_disabled() }
    fn shim_smp_rmb(cpu) { folio::smp_rmb(cpu); }
    fn shim_smp_mb__after_atomic(cpu) { folio::smp_mb__after_atomic(cpu); }
    fn shim_fatal_signal_pending(cpu) -> bool { cpu.fatal_signal_pending() }
    fn shim_signal_pending_(cpu) -> bool { cpu.signal_pending() }
    fn shim_memalloc_pin_save(cpu) -> c_uint { cpu.memalloc_pin_save().bits() }
    fn shim_memalloc_pin_restore(cpu, flags: c_uint) {
        cpu.memalloc_pin_restore(TaskFlags::from_bits_retain(flags));
    }
}

// The rest of mm.
accessors! {
    fn shim_handle_mm_fault(cpu, mm: c_uint, slot: u32, addr: u64, flags: c_uint) -> c_uint {
        let Some(vma) = vma(cpu, mm, slot) else { return 0 };
        handle_mm_fault(cpu, &vma, addr, FaultFlag::from_bits_retain(flags)).bits()
    }
    fn shim_hugetlb_fault(cpu, mm: c_uint, slot: u32, addr: u64, flags: c_uint) -> c_uint {
        let Some(vma) = vma(cpu, mm, slot) else { return 0 };
        hugetlb_fault(cpu, &vma, addr, FaultFlag::from_bits_retain(flags)).bits()
    }
    fn shim_vm_normal_page(cpu, mm: c_uint, slot: u32, addr: u64, pte: u64) -> u16 {
        let found = vma(cpu, mm, slot).and_then(|v| vm_normal_page(cpu, &v, addr, Pte(pte)));
        found.unwrap_or(Page::NULL).0
    }
    fn shim_split_huge_pmd(cpu, mm: c_uint, slot: u32, pmd: u32) {
        if let Some(vma) = vma(cpu, mm, slot) {
            split_huge_pmd(cpu, &vma, PmdPtr(Slot::from_id(pmd)));
        }
    }
    fn shim_hugetlbfs_pagecache_present(cpu, mm: c_uint, slot: u32, addr: u64) -> bool {
        vma(cpu, mm, slot).is_some_and(|v| hugetlbfs_pagecache_present(cpu, &v, addr))
    }
    fn shim_lru_add_drain(cpu) { lru::lru_add_drain(cpu); }
    fn shim_lru_add_drain_all(cpu) { lru::lru_add_drain_all(cpu); }
    fn shim_folio_isolate_lru(cpu, f: u16) -> bool { folio::folio_isolate_lru(cpu, folio_of(f)) }
    fn shim_isolate_lru_page(cpu, p: u16) -> bool { lru::isolate_lru_page(cpu, Page(p)).is_ok() }
    fn shim_isolate_hugetlb(cpu, f: u16) -> bool { folio::isolate_hugetlb(cpu, folio_of(f)) }
    fn shim_list_clear(_cpu) { LIST.set(PageList::new()); }
    fn shim_list_add(_cpu, f: u16) { LIST.with_borrow_mut(|list| list.add_tail(Page(f))); }
    fn shim_list_get(_cpu, n: c_uint) -> u16 {
        LIST.with_borrow(|list| list.as_slice().get(n as usize).copied()).unwrap_or(Page::NULL).0
    }
    fn shim_migrate_list(cpu, gfp: c_uint) -> c_int {
        // Taken out meanwhile: a window may bring another call here.
        let mut list = LIST.take();
        let mtc = MigrationTarget { gfp: Gfp::from_bits_retain(gfp) };
        let ret = migrate_pages(cpu, &mut list, &mtc);
        LIST.set(list);
        ret.map_or_else(|e| -(e as c_int), |failed| failed as c_int)
    }
    fn shim_putback_list(cpu) {
        putback_movable_pages(cpu, &mut LIST.take());
    }
}

/// C: shim_splat(), c/shim.c. The texts are string literals of the C.
#[unsafe(no_mangle)]
extern "C-unwind" fn shim_splat(bug: c_int, function: *const c_char, what: *const c_char) {
    let text = |at: *const c_char| {
        // SAFETY: __func__ and a stringified condition, which are constants.
        let text: &'static CStr = unsafe { CStr::from_ptr(at) };
        text.to_str().unwrap_or("?")
    };
    with(|cpu| {
        if bug != 0 {
            cpu.bug_on(true, text(function), text(what));
        } else {
            cpu.warn_on(true, text(function), text(what));
        }
    });
}
