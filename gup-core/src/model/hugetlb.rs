// SPDX-License-Identifier: GPL-2.0-only
//! hugetlbfs, as v6.12 has it: huge pages that are mapped whole, by a PMD or
//! by a PUD.
//!
//! Duplicated: faults, COW and unsharing; reuse of a page by its mapcount;
//! PageAnonExclusive() and the early copy of pinned pages at fork; mprotect();
//! unmapping; ranges that do not fit the page size are refused; pages of a
//! file are in its page cache, private ones are anonymous and never on the
//! LRU; isolation by HPG_migratable, and what migration is to them. Customised: there is no pool and there are no reservations
//! (MAP_NORESERVE, nr_hugepages 0, unlimited nr_overcommit_hugepages), so
//! pages of both sizes come from the page allocator at the fault and go back
//! there, and a failed allocation is SIGBUS; those of PUD size may be movable,
//! as ones from hugetlb_cma are. Stubbed: shared PMD tables, userfaultfd,
//! cgroups, subpools, hardware poison.

use super::cpu::{Cpu, Event, FailSite};
use super::filemap::{
    __filemap_add_folio, File, filemap_get_entry, hugetlb_fault_mutex_lock,
    hugetlb_fault_mutex_unlock, i_size_read, i_size_write,
};
use super::fork::page_needs_cow_for_dma;
use super::limits::PAGE_SIZE;
use super::memory::{copy_highpage, migration_entry_wait};
use super::mm::{Vma, anon_vma_prepare, write_protect_seq_begin, write_protect_seq_end};
use super::page::{
    Mapping, Page, clear_flag, get_page, lock_page, page_anon, page_dirty, page_file,
    page_ref_add_unless_zero, put_page, set_flag, set_page_dirty, test_flag, total_mapcount,
    trylock_page, unlock_page,
};
use super::pgtable::{
    Pte, PtePtr, Ptl, free_pmd_range, huge_pte_lock, mm_find_pud, pmd_alloc, pmd_offset, pud_alloc,
    spin_lock, spin_unlock,
};
use super::rmap::{folio_try_share_anon_rmap, page_dup_rmap, page_remove_rmap};
use super::wait::Wait;
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{FaultFlag, GFP_HIGHUSER_MOVABLE, Gfp, Pg, VmFault, VmFlags};
use crate::history::Defect;
use crate::step::StepKind;

/// The file of a VMA of hugetlbfs. C: hstate_vma()
fn hstate_vma(vma: &Vma) -> File {
    vma.file().filter(|f| f.is_hugetlb()).unwrap_or(File::Hugetlb)
}

/// The entry for `addr`, with the tables above it made as needed.
/// C: huge_pte_alloc(), mm/hugetlb.c
fn huge_pte_alloc(cpu: &Cpu, vma: &Vma, addr: u64) -> Option<PtePtr> {
    match hstate_vma(vma) {
        File::HugetlbPud => Some(pud_alloc(cpu, vma.mm, addr)?.as_pte()),
        _ => Some(pmd_alloc(cpu, vma.mm, addr)?.as_pte()),
    }
}

/// The entry for `addr` if its table exists.
/// C: hugetlb_walk(), linux/hugetlb.h; huge_pte_offset(), mm/hugetlb.c
fn hugetlb_walk(cpu: &Cpu, vma: &Vma, addr: u64) -> Option<PtePtr> {
    let pudp = mm_find_pud(cpu, vma.mm, addr)?;
    if hstate_vma(vma) == File::HugetlbPud {
        return Some(pudp.as_pte());
    }
    let pud = pudp.read(cpu);
    (!pud.bad()).then(|| pmd_offset(pud, addr).as_pte())
}

/// Whether a range begins and ends where huge pages do; all ranges do in
/// other VMAs. C: hugetlb_vm_op_split(), mm/hugetlb.c
pub(crate) fn may_split(vma: &Vma, addr: u64) -> bool {
    align_down(vma, addr) == addr
}

/// Down to the page size of the VMA, if it is one of hugetlbfs.
pub(crate) fn align_down(vma: &Vma, addr: u64) -> u64 {
    if vma.is_hugetlb() { addr & !(hstate_vma(vma).page_size() - 1) } else { addr }
}

/// A file is as long as any mapping for writing, in small pages.
/// C: hugetlbfs_file_mmap(), fs/hugetlbfs/inode.c
///
/// # Errors
/// `ENOMEM` if that is more than a file can have.
pub(crate) fn grow(cpu: &Cpu, file: File, pages: u64) -> Result<(), Errno> {
    if pages > file.max_pages() << file.order() {
        return Err(Errno::ENOMEM);
    }
    if i_size_read(cpu, file) < pages {
        i_size_write(cpu, file, pages);
    }
    Ok(())
}

/// Takes the place of an empty PMD table that earlier mappings left, which
/// the kernel frees when they go.
pub(crate) fn make_room(cpu: &Cpu, vma: &Vma) {
    if hstate_vma(vma) != File::HugetlbPud {
        return;
    }
    for addr in addrs(vma, vma.start, vma.end) {
        if let Some(pudp) = mm_find_pud(cpu, vma.mm, addr) {
            free_pmd_range(cpu, pudp);
        }
    }
}

/// The addresses of the huge pages of a range.
fn addrs(vma: &Vma, start: u64, end: u64) -> impl Iterator<Item = u64> + use<> {
    (start..end).step_by(hstate_vma(vma).page_size() as usize)
}

/// A fresh huge page. C: alloc_hugetlb_folio(),
/// alloc_hugetlb_folio_nodemask(), mm/hugetlb.c
pub(crate) fn alloc_hugetlb_folio(cpu: &Cpu, order: u32) -> Option<Page> {
    let page = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE | Gfp::COMP, order)?;
    set_flag(cpu, page, Pg::HUGETLB);
    Some(page)
}

/// Copies a huge page. C: copy_user_large_folio(), mm/memory.c
fn copy_user_large_folio(cpu: &Cpu, to: Page, from: Page, file: File) {
    for i in 0..1 << file.order() {
        copy_highpage(cpu, to.nth(i), from.nth(i));
    }
}

/// C: make_huge_pte(), mm/hugetlb.c
fn make_huge_pte(vma: &Vma, page: Page, writable: bool) -> Pte {
    let entry = Pte::mk(page, vma.flags).mkhuge();
    if writable { entry.mkdirty().mkwrite() } else { entry.wrprotect() }
}

/// C: hugetlb_add_new_anon_rmap(), mm/rmap.c
fn hugetlb_add_new_anon_rmap(cpu: &Cpu, page: Page, addr: u64) {
    let f = cpu.world.frame(page);
    f.mapping.set(Mapping::Anon.word());
    f.index.set((addr / PAGE_SIZE) as u32);
    page_dup_rmap(cpu, page, true);
    set_flag(cpu, page, Pg::ANON_EXCLUSIVE);
}

/// fork() shares an anonymous page unless it is exclusive and may be pinned.
/// C: hugetlb_try_dup_anon_rmap(), linux/rmap.h
fn hugetlb_try_dup_anon_rmap(cpu: &Cpu, vma: &Vma, page: Page) -> Result<(), Errno> {
    if test_flag(cpu, page, Pg::ANON_EXCLUSIVE) {
        if page_needs_cow_for_dma(cpu, vma, page) {
            return Err(Errno::EBUSY);
        }
        clear_flag(cpu, page, Pg::ANON_EXCLUSIVE);
    }
    page_dup_rmap(cpu, page, true);
    Ok(())
}

/// What a fault is about. C: struct vm_fault
struct HugeFault<'a> {
    vma: &'a Vma,
    file: File,
    /// Of the huge page.
    addr: u64,
    flags: FaultFlag,
    ptep: PtePtr,
    orig: Pte,
}

impl HugeFault<'_> {
    fn is(&self, flag: FaultFlag) -> bool {
        self.flags.contains(flag)
    }
    fn may_share(&self) -> bool {
        self.vma.flags.contains(VmFlags::MAYSHARE)
    }
}

/// C: hugetlb_fault(), mm/hugetlb.c
pub fn hugetlb_fault(cpu: &Cpu, vma: &Vma, addr: u64, flags: FaultFlag) -> VmFault {
    let file = hstate_vma(vma);
    let addr = addr & !(file.page_size() - 1);
    let index = vma.page_index(addr);
    hugetlb_fault_mutex_lock(cpu, file, index);
    let ret = hugetlb_fault_alone(cpu, vma, file, addr, flags);
    hugetlb_fault_mutex_unlock(cpu, file, index);
    ret
}

/// The part of hugetlb_fault() under hugetlb_fault_mutex. What the C waits for
/// after it has released that, is never held for long here.
fn hugetlb_fault_alone(cpu: &Cpu, vma: &Vma, file: File, addr: u64, flags: FaultFlag) -> VmFault {
    let Some(ptep) = huge_pte_alloc(cpu, vma, addr) else { return VmFault::OOM };
    let orig = ptep.read(cpu);
    let vmf = HugeFault { vma, file, addr, flags, ptep, orig };
    if orig.none() {
        return hugetlb_no_page(cpu, &vmf);
    }
    if !orig.present() {
        // C: migration_entry_wait_huge()
        migration_entry_wait(cpu, orig.pfn());
        return VmFault::empty();
    }
    let ptl = huge_pte_lock(cpu, ptep);
    let ret = hugetlb_fault_locked(cpu, &vmf, ptl);
    spin_unlock(cpu, ptl);
    ret
}

/// The part of hugetlb_fault() under the page-table lock.
fn hugetlb_fault_locked(cpu: &Cpu, vmf: &HugeFault<'_>, ptl: Ptl) -> VmFault {
    if vmf.ptep.read(cpu) != vmf.orig {
        return VmFault::empty();
    }
    if vmf.flags.intersects(FaultFlag::WRITE | FaultFlag::UNSHARE) && !vmf.orig.write() {
        let page = vmf.orig.pfn();
        let anon = page_anon(cpu, page);
        if anon && !trylock_page(cpu, page) {
            // C: folio_wait_locked(), and the fault comes again
            cpu.goes_on_without(Wait::PageLock(page));
            return VmFault::empty();
        }
        get_page(cpu, page);
        let ret = hugetlb_wp(cpu, vmf, ptl);
        if anon {
            unlock_page(cpu, page);
        }
        put_page(cpu, page);
        return ret;
    }
    // C: huge_ptep_set_access_flags(), which on x86 stores for a write only
    if vmf.is(FaultFlag::WRITE) {
        vmf.ptep.set(cpu, vmf.orig.mkdirty().mkyoung());
    }
    VmFault::empty()
}

/// The page of the file, locked and with a reference, if it is in the cache.
/// C: filemap_lock_hugetlb_folio(), linux/hugetlb.h
fn filemap_lock_hugetlb_folio(cpu: &Cpu, file: File, index: u64) -> Option<Page> {
    loop {
        let page = filemap_get_entry(cpu, file, index)?;
        lock_page(cpu, page);
        if page_file(cpu, page) == Some(file) {
            return Some(page);
        }
        unlock_page(cpu, page);
        put_page(cpu, page);
        if cpu.waits_for().is_some() {
            return None;
        }
    }
}

/// C: hugetlb_no_page(), mm/hugetlb.c
fn hugetlb_no_page(cpu: &Cpu, vmf: &HugeFault<'_>) -> VmFault {
    let (vma, file) = (vmf.vma, vmf.file);
    let index = vma.page_index(vmf.addr);
    let shared = vma.flags.contains(VmFlags::SHARED);
    let found = filemap_lock_hugetlb_folio(cpu, file, index);
    let fresh = found.is_none();
    let anon_rmap = fresh && !vmf.may_share();
    let page = match found {
        Some(page) => page,
        None => {
            if index >= i_size_read(cpu, file) {
                return VmFault::SIGBUS;
            }
            if anon_rmap {
                anon_vma_prepare(cpu, vma);
            }
            let Some(page) = alloc_hugetlb_folio(cpu, file.order()) else { return VmFault::SIGBUS };
            lock_page(cpu, page);
            if !anon_rmap {
                // C: hugetlb_add_to_page_cache()
                let added = __filemap_add_folio(cpu, file, index, page);
                cpu.bug_on(!added, "hugetlb_no_page", "a page in spite of hugetlb_fault_mutex");
                set_page_dirty(cpu, page);
            }
            page
        }
    };
    let ptl = huge_pte_lock(cpu, vmf.ptep);
    if vmf.ptep.read(cpu) != vmf.orig {
        spin_unlock(cpu, ptl);
        unlock_page(cpu, page);
        put_page(cpu, page);
        return VmFault::empty();
    }
    if anon_rmap {
        hugetlb_add_new_anon_rmap(cpu, page, vmf.addr);
    } else {
        page_dup_rmap(cpu, page, true);
    }
    vmf.ptep.set(cpu, make_huge_pte(vma, page, shared && vma.flags.contains(VmFlags::WRITE)));
    let mut ret = VmFault::empty();
    let cow = vmf.is(FaultFlag::WRITE) && !shared;
    if cow {
        // COW at once, without a second fault.
        if !anon_rmap {
            unlock_page(cpu, page);
        }
        ret = hugetlb_wp(cpu, vmf, ptl);
    }
    if fresh {
        set_flag(cpu, page, Pg::HUGETLB_MIGRATABLE);
    }
    if !cow || anon_rmap {
        unlock_page(cpu, page);
    }
    spin_unlock(cpu, ptl);
    ret
}

/// A write to, or the unsharing of, a write-protected page. Called with the
/// page-table lock held, and returns with it held.
/// C: hugetlb_wp(), mm/hugetlb.c
fn hugetlb_wp(cpu: &Cpu, vmf: &HugeFault<'_>, ptl: Ptl) -> VmFault {
    let at = "hugetlb_wp";
    let (vma, unshare) = (vmf.vma, vmf.is(FaultFlag::UNSHARE));
    let pte = vmf.ptep.read(cpu);
    let readonly = !unshare && !vma.flags.contains(VmFlags::WRITE);
    if cpu.warn_on(readonly, at, "a forced write to a read-only mapping") {
        return VmFault::SIGSEGV;
    }
    if vmf.may_share() {
        vmf.ptep.set(cpu, pte.mkdirty().mkwrite());
        return VmFault::empty();
    }
    let old = pte.pfn();
    let anon = page_anon(cpu, old);
    if total_mapcount(cpu, old) == 1 && anon {
        set_flag(cpu, old, Pg::ANON_EXCLUSIVE);
        if !unshare {
            vmf.ptep.set(cpu, pte.mkdirty().mkwrite());
        }
        return VmFault::empty();
    }
    let exclusive = anon && test_flag(cpu, old, Pg::ANON_EXCLUSIVE);
    cpu.bug_on(exclusive, at, "an exclusive page is mapped twice");
    get_page(cpu, old);
    spin_unlock(cpu, ptl);
    let Some(new) = alloc_hugetlb_folio(cpu, vmf.file.order()) else {
        put_page(cpu, old);
        spin_lock(cpu, ptl);
        return VmFault::SIGBUS;
    };
    anon_vma_prepare(cpu, vma);
    copy_user_large_folio(cpu, new, old, vmf.file);
    spin_lock(cpu, ptl);
    let mut unused = new;
    if vmf.ptep.read(cpu) == pte {
        vmf.ptep.get_and_clear(cpu);
        page_remove_rmap(cpu, old, true);
        hugetlb_add_new_anon_rmap(cpu, new, vmf.addr);
        vmf.ptep.set(cpu, make_huge_pte(vma, new, !unshare));
        set_flag(cpu, new, Pg::HUGETLB_MIGRATABLE);
        unused = old;
    }
    spin_unlock(cpu, ptl);
    put_page(cpu, unused);
    put_page(cpu, old);
    spin_lock(cpu, ptl);
    VmFault::empty()
}

/// C: __unmap_hugepage_range(), mm/hugetlb.c
pub(crate) fn unmap_hugepage_range(cpu: &Cpu, vma: &Vma, start: u64, end: u64) {
    for addr in addrs(vma, start, end) {
        let Some(ptep) = hugetlb_walk(cpu, vma, addr) else { continue };
        let ptl = huge_pte_lock(cpu, ptep);
        let pte = ptep.read(cpu);
        if pte.none() {
            spin_unlock(cpu, ptl);
            continue;
        }
        ptep.get_and_clear(cpu);
        if !pte.present() {
            spin_unlock(cpu, ptl);
            continue;
        }
        let page = pte.pfn();
        if pte.dirty() {
            set_page_dirty(cpu, page);
        }
        page_remove_rmap(cpu, page, true);
        spin_unlock(cpu, ptl);
        put_page(cpu, page);
    }
}

/// C: hugetlb_change_protection(), mm/hugetlb.c
pub(crate) fn hugetlb_change_protection(cpu: &Cpu, vma: &Vma) {
    for addr in addrs(vma, vma.start, vma.end) {
        let Some(ptep) = hugetlb_walk(cpu, vma, addr) else { continue };
        let ptl = huge_pte_lock(cpu, ptep);
        let old = ptep.read(cpu);
        if old.present() {
            let pte = ptep.get_and_clear(cpu);
            ptep.set(cpu, pte.modify(vma.flags));
        } else if old.is_migration() && old.migration_write() {
            let anon = page_anon(cpu, old.pfn());
            ptep.set(cpu, if anon { old.migration_wrprotect() } else { old.migration_share() });
        }
        spin_unlock(cpu, ptl);
    }
}

/// C: copy_hugetlb_page_range(), mm/hugetlb.c
///
/// # Errors
/// `ENOMEM`
pub(crate) fn copy_hugetlb_page_range(cpu: &Cpu, dst: &Vma, src: &Vma) -> Result<(), Errno> {
    let cow = src.is_cow_mapping();
    if cow {
        write_protect_seq_begin(cpu, src.mm);
    }
    let ret = addrs(src, src.start, src.end).try_for_each(|addr| {
        let Some(src_ptep) = hugetlb_walk(cpu, src, addr) else { return Ok(()) };
        let dst_ptep = huge_pte_alloc(cpu, dst, addr).ok_or(Errno::ENOMEM)?;
        copy_huge_pte(cpu, dst, src, dst_ptep, src_ptep, addr)
    });
    if cow {
        write_protect_seq_end(cpu, src.mm);
    }
    ret
}

/// The body of the loop of copy_hugetlb_page_range().
fn copy_huge_pte(
    cpu: &Cpu,
    dst: &Vma,
    src: &Vma,
    dst_ptep: PtePtr,
    src_ptep: PtePtr,
    addr: u64,
) -> Result<(), Errno> {
    let dst_ptl = huge_pte_lock(cpu, dst_ptep);
    let src_ptl = huge_pte_lock(cpu, src_ptep);
    let unlock = || {
        spin_unlock(cpu, src_ptl);
        spin_unlock(cpu, dst_ptl);
    };
    let mut entry = src_ptep.read(cpu);
    if entry.none() {
        unlock();
        return Ok(());
    }
    if !entry.present() {
        // A page under migration: read-only from now on, on both sides.
        if src.is_cow_mapping() {
            entry = entry.migration_share();
            src_ptep.set(cpu, entry);
        }
        dst_ptep.set(cpu, entry);
        unlock();
        return Ok(());
    }
    let page = entry.pfn();
    get_page(cpu, page);
    if !page_anon(cpu, page) {
        page_dup_rmap(cpu, page, true);
    } else if hugetlb_try_dup_anon_rmap(cpu, src, page).is_err() {
        unlock();
        let new = alloc_hugetlb_folio(cpu, hstate_vma(src).order());
        if let Some(new) = new {
            copy_user_large_folio(cpu, new, page, hstate_vma(src));
        }
        put_page(cpu, page);
        let new = new.ok_or(Errno::ENOMEM)?;
        // C: hugetlb_install_folio(); mmap_lock keeps the entry as it was
        let ptl = huge_pte_lock(cpu, dst_ptep);
        hugetlb_add_new_anon_rmap(cpu, new, addr);
        let writable = cpu.has(Defect::HugetlbForkWritable) || dst.flags.contains(VmFlags::WRITE);
        dst_ptep.set(cpu, make_huge_pte(dst, new, writable));
        set_flag(cpu, new, Pg::HUGETLB_MIGRATABLE);
        spin_unlock(cpu, ptl);
        return Ok(());
    }
    if src.is_cow_mapping() {
        src_ptep.set_wrprotect(cpu);
        entry = entry.wrprotect();
    }
    dst_ptep.set(cpu, entry);
    unlock();
    Ok(())
}

/// Whether the page cache has the page of an address of the VMA.
/// C: hugetlbfs_pagecache_present(), mm/hugetlb.c
pub fn hugetlbfs_pagecache_present(cpu: &Cpu, vma: &Vma, addr: u64) -> bool {
    let page = filemap_get_entry(cpu, hstate_vma(vma), vma.page_index(addr));
    if let Some(page) = page {
        put_page(cpu, page);
    }
    page.is_some()
}

/// Takes a huge page out of those in use, and a reference on it; false if it
/// is isolated already, or no huge page. C: isolate_hugetlb(), mm/hugetlb.c
pub(crate) fn isolate_hugetlb(cpu: &Cpu, head: Page) -> bool {
    cpu.step(StepKind::FlagSet, head.0.into(), -i64::from(Pg::HUGETLB_MIGRATABLE.bits()));
    let isolated = !cpu.should_fail(FailSite::Isolate)
        && cpu.world.frame(head).flags.test_and_clear(Pg::HUGETLB_MIGRATABLE.bits())
        && page_ref_add_unless_zero(cpu, head, 1);
    if !isolated {
        cpu.event(Event::ISOLATE_FAILED);
    }
    isolated
}

/// Gives an isolated huge page back. C: folio_putback_active_hugetlb(),
/// mm/hugetlb.c
pub(crate) fn folio_putback_active_hugetlb(cpu: &Cpu, head: Page) {
    set_flag(cpu, head, Pg::HUGETLB_MIGRATABLE);
    put_page(cpu, head);
}

/// C: folio_test_hugetlb(), linux/page-flags.h
pub(crate) fn is_hugetlb(cpu: &Cpu, head: Page) -> bool {
    test_flag(cpu, head, Pg::HUGETLB)
}

/// Replaces the mapping of a huge page at `addr` by a migration entry: false
/// if the page is exclusive and may be pinned.
/// C: try_to_migrate_one(), mm/rmap.c
pub(crate) fn try_to_migrate_one(cpu: &Cpu, vma: &Vma, addr: u64, head: Page) -> bool {
    let Some((ptep, ptl)) = lock_entry(cpu, vma, addr, |pte| pte.present() && pte.pfn() == head)
    else {
        return true;
    };
    let pte = ptep.get_and_clear(cpu);
    if pte.dirty() {
        set_page_dirty(cpu, head);
    }
    let anon = page_anon(cpu, head);
    let exclusive = anon && test_flag(cpu, head, Pg::ANON_EXCLUSIVE);
    let at = "try_to_migrate_one";
    cpu.bug_on(anon && pte.write() && !exclusive, at, "pte_write(pteval) && !anon_exclusive");
    let done = !exclusive || folio_try_share_anon_rmap(cpu, head).is_ok();
    if done {
        ptep.set(cpu, pte.to_migration(exclusive, true));
        page_remove_rmap(cpu, head, true);
        put_page(cpu, head);
    } else {
        ptep.set(cpu, pte);
    }
    spin_unlock(cpu, ptl);
    done
}

/// Replaces the migration entry for `old` at `addr` by a mapping of `new`.
/// C: remove_migration_pte(), mm/migrate.c
pub(crate) fn remove_migration_pte(cpu: &Cpu, vma: &Vma, addr: u64, old: Page, new: Page) {
    let ours = |pte: Pte| pte.is_migration() && pte.pfn() == old;
    let Some((ptep, ptl)) = lock_entry(cpu, vma, addr, ours) else { return };
    let entry = ptep.read(cpu);
    get_page(cpu, new);
    let mut pte = Pte::mk(new, vma.flags).mkhuge();
    if !entry.young() {
        pte = pte.mkold();
    }
    if entry.dirty() && page_dirty(cpu, new) {
        pte = pte.mkdirty();
    }
    if entry.migration_write() {
        pte = pte.mkwrite();
    }
    // C: hugetlb_add_anon_rmap(), hugetlb_add_file_rmap()
    page_dup_rmap(cpu, new, true);
    if page_anon(cpu, new) && !entry.migration_shared() {
        set_flag(cpu, new, Pg::ANON_EXCLUSIVE);
    }
    ptep.set(cpu, pte);
    spin_unlock(cpu, ptl);
}

/// The entry for `addr` in a VMA of hugetlbfs, locked, if it is `wanted`.
/// C: page_vma_mapped_walk(), mm/page_vma_mapped.c
fn lock_entry(
    cpu: &Cpu,
    vma: &Vma,
    addr: u64,
    wanted: impl FnOnce(Pte) -> bool,
) -> Option<(PtePtr, Ptl)> {
    let ptep = hugetlb_walk(cpu, vma, addr).filter(|_| vma.is_hugetlb())?;
    let ptl = huge_pte_lock(cpu, ptep);
    if wanted(ptep.read(cpu)) {
        return Some((ptep, ptl));
    }
    spin_unlock(cpu, ptl);
    None
}

/// Unmaps a locked huge page of a file from shared and private mappings.
/// C: hugetlb_unmap_file_folio(), fs/hugetlbfs/inode.c
pub(crate) fn unmap_file_folio(cpu: &Cpu, vma: &Vma, addr: u64, head: Page) {
    let ours = |pte: Pte| pte.present() && pte.pfn() == head;
    if let Some((_, ptl)) = lock_entry(cpu, vma, addr, ours) {
        spin_unlock(cpu, ptl);
        unmap_hugepage_range(cpu, vma, addr, addr + hstate_vma(vma).page_size());
    }
}
