// SPDX-License-Identifier: GPL-2.0-only
//! Faults on mappings of files: do_fault() and its relatives of mm/memory.c.
//!
//! Duplicated: the three kinds of fault (read, copy on write, shared); the
//! question to the file system before a page becomes writable; mmap_lock
//! dropped after a page was dirtied, if the fault may. Customised: the page
//! table is there already when the page is asked for; dirtiers are never
//! throttled, but mmap_lock is dropped as if they might be. Stubbed: the
//! faults around a fault.

use super::cpu::Cpu;
use super::filemap::{File, has_page_mkwrite, page_mkwrite, vm_ops_fault};
use super::lru::lru_cache_add;
use super::memory::{copy_highpage, wp_page_reuse};
use super::mm::{Vma, anon_vma_prepare, mmap_read_unlock};
use super::page::{
    Page, get_page, lock_page, page_dirty, page_file, put_page, set_page_dirty, unlock_page,
};
use super::pgtable::{Pmd, PmdPtr, Pte, PtePtr, Ptl, mm_find_pmd};
use super::pgtable::{pte_offset_map_lock, pte_unmap_unlock};
use super::rmap::{page_add_new_anon_rmap, page_dup_rmap};
use super::zone::alloc_pages;
use crate::flags::{FaultFlag, GFP_HIGHUSER_MOVABLE, VmFault, VmFlags};
use crate::history::Base;

/// A fault where nothing is mapped yet. C: do_fault(), mm/memory.c
pub(crate) fn do_fault(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, addr: u64, flags: FaultFlag) -> VmFault {
    let Some(file) = vma.file() else { return VmFault::SIGBUS };
    if !flags.contains(FaultFlag::WRITE) {
        do_read_fault(cpu, vma, file, pmdp, addr)
    } else if !vma.flags.contains(VmFlags::SHARED) {
        do_cow_fault(cpu, vma, file, pmdp, addr)
    } else {
        do_shared_fault(cpu, vma, file, pmdp, addr, flags)
    }
}

/// C: do_read_fault(), mm/memory.c
fn do_read_fault(cpu: &Cpu, vma: &Vma, file: File, pmdp: PmdPtr, addr: u64) -> VmFault {
    let page = match vm_ops_fault(cpu, file, vma.page_index(addr)) {
        Ok(page) => page,
        Err(ret) => return ret,
    };
    let mapped = finish_fault(cpu, pmdp, addr, Pte::mk(page, vma.page_prot()), false);
    unlock_page(cpu, page);
    if !mapped {
        put_page(cpu, page);
        return VmFault::NOPAGE;
    }
    VmFault::empty()
}

/// C: do_cow_fault(), mm/memory.c
fn do_cow_fault(cpu: &Cpu, vma: &Vma, file: File, pmdp: PmdPtr, addr: u64) -> VmFault {
    anon_vma_prepare(cpu, vma);
    let Some(new) = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0) else { return VmFault::OOM };
    let page = match vm_ops_fault(cpu, file, vma.page_index(addr)) {
        Ok(page) => page,
        Err(ret) => {
            put_page(cpu, new);
            return ret;
        }
    };
    copy_highpage(cpu, new, page);
    let entry = Pte::mk(new, vma.flags).mkdirty().maybe_mkwrite(vma.flags);
    let mapped = finish_fault(cpu, pmdp, addr, entry, true);
    unlock_page(cpu, page);
    put_page(cpu, page);
    if !mapped {
        put_page(cpu, new);
        return VmFault::NOPAGE;
    }
    VmFault::empty()
}

/// C: do_shared_fault(), mm/memory.c
fn do_shared_fault(
    cpu: &Cpu,
    vma: &Vma,
    file: File,
    pmdp: PmdPtr,
    addr: u64,
    flags: FaultFlag,
) -> VmFault {
    let page = match vm_ops_fault(cpu, file, vma.page_index(addr)) {
        Ok(page) => page,
        Err(ret) => return ret,
    };
    if has_page_mkwrite(file) {
        unlock_page(cpu, page);
        if let Err(ret) = page_mkwrite(cpu, file, page) {
            put_page(cpu, page);
            return ret;
        }
    }
    let entry = Pte::mk(page, vma.page_prot()).mkdirty().maybe_mkwrite(vma.flags);
    if !finish_fault(cpu, pmdp, addr, entry, false) {
        unlock_page(cpu, page);
        put_page(cpu, page);
        return VmFault::NOPAGE;
    }
    fault_dirty_shared_page(cpu, vma, page, flags)
}

/// Maps the page of a fault, whose reference becomes the mapping's, unless
/// something is mapped there meanwhile. C: finish_fault(), set_pte_range()
fn finish_fault(cpu: &Cpu, pmdp: PmdPtr, addr: u64, entry: Pte, copied: bool) -> bool {
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), addr);
    let empty = ptep.read(cpu).none();
    if empty {
        if copied {
            page_add_new_anon_rmap(cpu, entry.pfn(), addr, false);
            lru_cache_add(cpu, entry.pfn());
        } else {
            page_dup_rmap(cpu, entry.pfn(), false);
        }
        ptep.set(cpu, entry);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
    empty
}

/// A locked page of a file was made writable for a store: it is dirty now.
/// mmap_lock is dropped, as writers of too many dirty pages wait here.
/// C: fault_dirty_shared_page(), mm/memory.c
fn fault_dirty_shared_page(cpu: &Cpu, vma: &Vma, page: Page, flags: FaultFlag) -> VmFault {
    let dirtied = !page_dirty(cpu, page);
    set_page_dirty(cpu, page);
    let file = page_file(cpu, page);
    unlock_page(cpu, page);
    let waits = file.is_some_and(|file| dirtied || has_page_mkwrite(file));
    // C: maybe_unlock_mmap_for_io(), fault_flag_allow_retry_first()
    let first = flags.contains(FaultFlag::ALLOW_RETRY) && !flags.contains(FaultFlag::TRIED);
    if !waits || !first || flags.contains(FaultFlag::RETRY_NOWAIT) {
        return VmFault::empty();
    }
    mmap_read_unlock(cpu, vma.mm);
    // Since v6.0 the fault need not be repeated.
    if cpu.since(Base::V6_12) { VmFault::COMPLETED } else { VmFault::RETRY }
}

/// A write to a write-protected page of a shared mapping. Comes with the PTE
/// lock held. C: wp_page_shared(), mm/memory.c
#[allow(clippy::too_many_arguments)]
pub(crate) fn wp_page_shared(
    cpu: &Cpu,
    vma: &Vma,
    ptep: PtePtr,
    ptl: Ptl,
    addr: u64,
    orig: Pte,
    page: Page,
    flags: FaultFlag,
) -> VmFault {
    get_page(cpu, page);
    let ret = 'out: {
        if let Some(file) = vma.file().filter(|&f| has_page_mkwrite(f)) {
            pte_unmap_unlock(cpu, ptep, ptl);
            if let Err(ret) = page_mkwrite(cpu, file, page) {
                break 'out ret;
            }
            if !finish_mkwrite_fault(cpu, vma, addr, orig) {
                unlock_page(cpu, page);
                break 'out VmFault::NOPAGE;
            }
        } else {
            wp_page_reuse(cpu, vma, ptep, ptl, orig);
            lock_page(cpu, page);
        }
        fault_dirty_shared_page(cpu, vma, page, flags)
    };
    put_page(cpu, page);
    ret
}

/// Makes the entry writable if it is still what it was.
/// C: finish_mkwrite_fault(), mm/memory.c
fn finish_mkwrite_fault(cpu: &Cpu, vma: &Vma, addr: u64, orig: Pte) -> bool {
    let pmd = mm_find_pmd(cpu, vma.mm, addr).map_or(Pmd(0), |p| p.read(cpu));
    if pmd.bad() {
        return false;
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    if ptep.read(cpu) != orig {
        pte_unmap_unlock(cpu, ptep, ptl);
        return false;
    }
    wp_page_reuse(cpu, vma, ptep, ptl, orig);
    true
}
