// SPDX-License-Identifier: GPL-2.0-only
//! Page faults, COW and unmapping.
//!
//! Duplicated: anonymous faults; the zero page for reads; do_wp_page(), which
//! on v5.15 reuses a page in place only if the fault's own mapping holds its
//! one reference, on v6.12 also if the page is exclusive, and there unshares
//! it, too; VM_FAULT_RETRY with and without dropping mmap_lock;
//! VM_FAULT_COMPLETED. Customised: a retry, and a fault that is completed
//! without the lock, happen only where they are injected; a store or load of
//! user space walks the tables like the hardware, without setting accessed and
//! dirty bits, and faults like exc_page_fault(). Faults on files are in
//! [`fault`]. Swap is in [`reclaim`](super::reclaim). Stubbed: userfaultfd,
//! memory cgroups.
//!
//! [`fault`]: super::fault

use super::cpu::{Cpu, Event, FailSite};
use super::fault::{do_fault, wp_page_shared};
use super::folio::page_anon_exclusive;
use super::huge_memory::{
    do_huge_pmd_anonymous_page, do_huge_pmd_wp_page, huge_pmd_set_accessed, split_huge_pmd,
    wants_thp, zap_huge_pmd,
};
use super::hugetlb::{hugetlb_fault, unmap_hugepage_range};
use super::limits::{PAGE_SIZE, PMD_SIZE, TASK_SIZE};
use super::lru::{lru_add_drain, lru_cache_add};
use super::mm::{self, MmId, Vma, anon_vma_prepare, mmap_read_lock, mmap_read_unlock};
use super::numa::{do_huge_pmd_numa_page, do_numa_page};
use super::page::{
    Page, get_page, is_zero_page, page_anon, page_compound, page_count, page_lru, page_mapcount,
    put_page, set_page_anon_exclusive, set_page_dirty, trylock_page, unlock_page,
};
use super::pgtable::{
    Pmd, PmdPtr, Pte, PtePtr, Ptl, leaf_at, mm_find_pmd, pmd_addr_end, pmd_alloc, pte_alloc,
    pte_offset_map_lock, pte_unmap_unlock,
};
use super::reclaim::{do_swap_page, reuse_swap_page};
use super::rmap::{page_add_new_anon_rmap, page_remove_rmap};
use super::swap::{
    free_page_and_swap_cache, free_swap_and_cache, free_swap_cache, in_swap_cache, try_to_free_swap,
};
use super::wait::Wait;
use super::zone::alloc_pages;
use crate::errno::Errno;
use crate::flags::{FaultFlag, GFP_HIGHUSER_MOVABLE, VmFault, VmFlags};
use crate::history::{Base, Defect};
use crate::step::StepKind;

/// The page behind a PTE, if it has a struct page that counts mappings.
/// C: vm_normal_page(), mm/memory.c
#[inline]
pub fn vm_normal_page(_cpu: &Cpu, _vma: &Vma, _addr: u64, pte: Pte) -> Option<Page> {
    (!pte.special()).then(|| pte.pfn())
}

/// Handles a fault at `addr`. mmap_lock is held for reading; it has been
/// dropped if the answer is RETRY and the flags did not say RETRY_NOWAIT, or
/// if it is COMPLETED.
/// C: handle_mm_fault(), mm/memory.c
pub fn handle_mm_fault(cpu: &Cpu, vma: &Vma, addr: u64, mut flags: FaultFlag) -> VmFault {
    if cpu.since(Base::V6_12)
        && let Err(ret) = sanitize_fault_flags(cpu, vma, &mut flags)
    {
        return ret;
    }
    if flags.contains(FaultFlag::ALLOW_RETRY) && cpu.should_fail(FailSite::Retry) {
        cpu.event(Event::RETRIED);
        if !flags.contains(FaultFlag::RETRY_NOWAIT) {
            mmap_read_unlock(cpu, vma.mm);
        }
        return VmFault::RETRY;
    }
    if vma.is_hugetlb() {
        return hugetlb_fault(cpu, vma, addr, flags);
    }
    let ret = __handle_mm_fault(cpu, vma, addr & !(PAGE_SIZE - 1), flags);
    // C: fault_dirty_shared_page(), which throttles a writer without the lock
    let may_drop = flags.contains(FaultFlag::ALLOW_RETRY)
        && !flags.intersects(FaultFlag::TRIED | FaultFlag::RETRY_NOWAIT);
    if cpu.since(Base::V6_12)
        && may_drop
        && !ret.intersects(VmFault::ERROR | VmFault::RETRY | VmFault::COMPLETED)
        && cpu.should_fail(FailSite::Completed)
    {
        mmap_read_unlock(cpu, vma.mm);
        return ret | VmFault::COMPLETED;
    }
    ret
}

/// Takes away what means nothing for the VMA; an error is the fault's answer.
/// C: sanitize_fault_flags(), mm/memory.c, v6.12
fn sanitize_fault_flags(cpu: &Cpu, vma: &Vma, flags: &mut FaultFlag) -> Result<(), VmFault> {
    let at = "sanitize_fault_flags";
    let write = flags.contains(FaultFlag::WRITE);
    if flags.contains(FaultFlag::UNSHARE) {
        if cpu.warn_on(write, at, "FAULT_FLAG_UNSHARE | FAULT_FLAG_WRITE") {
            return Err(VmFault::SIGSEGV);
        }
        if !vma.is_cow_mapping() {
            *flags -= FaultFlag::UNSHARE;
        }
    } else if write {
        let may = vma.flags.contains(VmFlags::MAYWRITE);
        let forced = !vma.flags.contains(VmFlags::WRITE);
        if cpu.warn_on(!may, at, "!(vma->vm_flags & VM_MAYWRITE)")
            || cpu.warn_on(forced && !vma.is_cow_mapping(), at, "!is_cow_mapping(vma->vm_flags)")
        {
            return Err(VmFault::SIGSEGV);
        }
    }
    Ok(())
}

/// C: __handle_mm_fault(), mm/memory.c
fn __handle_mm_fault(cpu: &Cpu, vma: &Vma, addr: u64, flags: FaultFlag) -> VmFault {
    let Some(pmdp) = pmd_alloc(cpu, vma.mm, addr) else { return VmFault::OOM };
    let write = flags.contains(FaultFlag::WRITE);
    let unshare = flags.contains(FaultFlag::UNSHARE);
    let pmd = pmdp.read(cpu);
    if pmd.none() && wants_thp(vma, addr) {
        let ret = do_huge_pmd_anonymous_page(cpu, vma, pmdp, addr);
        if !ret.contains(VmFault::FALLBACK) {
            return ret;
        }
    } else if pmd.trans_huge() {
        if pmd.protnone() && vma.is_accessible() {
            return do_huge_pmd_numa_page(cpu, vma, pmdp, pmd);
        }
        if (write || unshare) && !pmd.write() {
            let ret = do_huge_pmd_wp_page(cpu, vma, pmdp, pmd, unshare);
            if !ret.contains(VmFault::FALLBACK) {
                return ret;
            }
        } else {
            huge_pmd_set_accessed(cpu, pmdp, pmd, write);
            return VmFault::empty();
        }
    } else if pmd.is_migration() {
        migration_entry_wait(cpu, pmd.pfn());
        return VmFault::empty();
    } else if pmd.none() && !vma.is_anonymous() && vma.file().is_none() {
        // C: do_fault() without a handler
        return VmFault::SIGBUS;
    }
    handle_pte_fault(cpu, vma, pmdp, addr, flags)
}

/// C: handle_pte_fault(), mm/memory.c
fn handle_pte_fault(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, addr: u64, flags: FaultFlag) -> VmFault {
    if !pte_alloc(cpu, pmdp) {
        return VmFault::OOM;
    }
    let write = flags.contains(FaultFlag::WRITE);
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        // C: pmd_trans_unstable(), or !pte_offset_map(): another fault has
        // mapped a THP meanwhile. From here on mmap_lock keeps the table.
        return VmFault::empty();
    }
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let entry = ptep.read(cpu);
    if entry.none() {
        pte_unmap_unlock(cpu, ptep, ptl);
        return if vma.is_anonymous() {
            do_anonymous_page(cpu, vma, pmdp, addr, write)
        } else {
            do_fault(cpu, vma, pmdp, addr, flags)
        };
    }
    if entry.is_migration() {
        pte_unmap_unlock(cpu, ptep, ptl);
        migration_entry_wait(cpu, entry.pfn());
        return VmFault::empty();
    }
    if entry.swap_slot().is_some() {
        pte_unmap_unlock(cpu, ptep, ptl);
        return do_swap_page(cpu, vma, pmdp, addr, entry, flags);
    }
    if entry.protnone() && vma.is_accessible() {
        return do_numa_page(cpu, vma, ptep, ptl, addr, entry);
    }
    if flags.intersects(FaultFlag::WRITE | FaultFlag::UNSHARE) && !entry.write() {
        return do_wp_page(cpu, vma, ptep, ptl, addr, entry, flags);
    }
    // C: ptep_set_access_flags(), which on x86 stores for a write only
    if write {
        ptep.set(cpu, entry.mkyoung().mkdirty());
    }
    pte_unmap_unlock(cpu, ptep, ptl);
    VmFault::empty()
}

/// Waits until the page has moved, without a lock, and the access comes again;
/// here by coming again at once. C: migration_entry_wait(), mm/migrate.c
#[doc(alias = "pmd_migration_entry_wait")]
pub(crate) fn migration_entry_wait(cpu: &Cpu, page: Page) {
    if !cpu.goes_on_without(Wait::Migration(page)) {
        cpu.waits();
    }
}

/// C: do_anonymous_page(), mm/memory.c
fn do_anonymous_page(cpu: &Cpu, vma: &Vma, pmdp: PmdPtr, addr: u64, write: bool) -> VmFault {
    if !write {
        let zero = Pte::mk(cpu.world.zero_page(), vma.flags).mkspecial();
        let (ptep, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), addr);
        if ptep.read(cpu).none() {
            ptep.set(cpu, zero);
        }
        pte_unmap_unlock(cpu, ptep, ptl);
        return VmFault::empty();
    }
    anon_vma_prepare(cpu, vma);
    let Some(page) = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0) else { return VmFault::OOM };
    let entry = Pte::mk(page, vma.flags);
    let entry = if vma.flags.contains(VmFlags::WRITE) { entry.mkdirty().mkwrite() } else { entry };
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmdp.read(cpu), addr);
    if !ptep.read(cpu).none() {
        pte_unmap_unlock(cpu, ptep, ptl);
        put_page(cpu, page);
        return VmFault::empty();
    }
    page_add_new_anon_rmap(cpu, page, addr, false);
    lru_cache_add(cpu, page);
    ptep.set(cpu, entry);
    pte_unmap_unlock(cpu, ptep, ptl);
    VmFault::empty()
}

/// A write to a write-protected page, or its unsharing. On v6.12 a page that
/// is exclusive is reused without further questions.
/// C: do_wp_page(), mm/memory.c
pub(crate) fn do_wp_page(
    cpu: &Cpu,
    vma: &Vma,
    ptep: PtePtr,
    ptl: Ptl,
    addr: u64,
    orig: Pte,
    flags: FaultFlag,
) -> VmFault {
    let unshare = flags.contains(FaultFlag::UNSHARE);
    let Some(page) = vm_normal_page(cpu, vma, addr, orig) else {
        if is_zero_page(cpu, orig.pfn()) {
            return wp_page_copy(cpu, vma, ptep, ptl, addr, orig, None, unshare);
        }
        // C: wp_pfn_shared()
        wp_page_reuse(cpu, vma, ptep, ptl, orig);
        return cow_broken(cpu);
    };
    let anon = page_anon(cpu, page);
    if !anon && vma.flags.contains(VmFlags::WRITE | VmFlags::SHARED) {
        let ret = wp_page_shared(cpu, vma, ptep, ptl, addr, orig, page, flags);
        // C: ret starts as VM_FAULT_WRITE; an error replaces it.
        let gave_up = ret.intersects(VmFault::ERROR | VmFault::NOPAGE);
        return if gave_up { ret } else { ret | cow_broken(cpu) };
    }
    let mine = anon
        && if cpu.since(Base::V6_12) {
            page_anon_exclusive(cpu, page) || wp_can_reuse_anon_folio(cpu, page)
        } else {
            can_reuse_page(cpu, page)
        };
    if mine {
        if cpu.since(Base::V6_12) && !page_anon_exclusive(cpu, page) {
            set_page_anon_exclusive(cpu, page);
        }
        if unshare {
            pte_unmap_unlock(cpu, ptep, ptl);
            return VmFault::empty();
        }
        wp_page_reuse(cpu, vma, ptep, ptl, orig);
        return cow_broken(cpu);
    }
    get_page(cpu, page);
    wp_page_copy(cpu, vma, ptep, ptl, addr, orig, Some(page), unshare)
}

/// Whether the fault's own mapping holds the one reference on the page. The
/// part of do_wp_page() that looks at anonymous pages, v5.15
fn can_reuse_page(cpu: &Cpu, page: Page) -> bool {
    if cpu.has(Defect::MapcountDecidesReuse) {
        // References without a mapping do not count.
        if !trylock_page(cpu, page) {
            return false;
        }
        let mine = reuse_swap_page(cpu, page);
        unlock_page(cpu, page);
        return mine;
    }
    if page_count(cpu, page) != 1 || !trylock_page(cpu, page) {
        return false;
    }
    let mine = page_mapcount(cpu, page) == 1 && page_count(cpu, page) == 1;
    unlock_page(cpu, page);
    mine
}

/// The same, v6.12: it is not large, and its LRU batch may be drained for it.
/// C: wp_can_reuse_anon_folio(), mm/memory.c
fn wp_can_reuse_anon_folio(cpu: &Cpu, page: Page) -> bool {
    if page_compound(cpu, page) || page_count(cpu, page) > 3 {
        return false;
    }
    if !page_lru(cpu, page) {
        lru_add_drain(cpu);
    }
    let cached = i32::from(in_swap_cache(cpu, page));
    if page_count(cpu, page) > 1 + cached || !trylock_page(cpu, page) {
        return false;
    }
    if in_swap_cache(cpu, page) {
        try_to_free_swap(cpu, page);
    }
    let mine = page_count(cpu, page) == 1;
    unlock_page(cpu, page);
    mine
}

/// What a fault answers when COW was broken or the page was reused; since
/// v6.1 nobody asks. C: VM_FAULT_WRITE
pub(crate) fn cow_broken(cpu: &Cpu) -> VmFault {
    if cpu.since(Base::V6_12) { VmFault::empty() } else { VmFault::WRITE }
}

/// C: wp_page_reuse(), mm/memory.c
pub(crate) fn wp_page_reuse(cpu: &Cpu, vma: &Vma, ptep: PtePtr, ptl: Ptl, orig: Pte) {
    ptep.set(cpu, orig.mkyoung().mkdirty().maybe_mkwrite(vma.flags));
    pte_unmap_unlock(cpu, ptep, ptl);
}

/// Breaks COW, or unshares: then the copy is mapped read-only. Comes with the
/// PTE lock held and, if there is an old page, a reference on it.
/// C: wp_page_copy(), mm/memory.c
#[allow(clippy::too_many_arguments)]
fn wp_page_copy(
    cpu: &Cpu,
    vma: &Vma,
    ptep: PtePtr,
    ptl: Ptl,
    addr: u64,
    orig: Pte,
    old: Option<Page>,
    unshare: bool,
) -> VmFault {
    pte_unmap_unlock(cpu, ptep, ptl);
    anon_vma_prepare(cpu, vma);
    let Some(new) = alloc_pages(cpu, GFP_HIGHUSER_MOVABLE, 0) else {
        if let Some(old) = old {
            put_page(cpu, old);
        }
        return VmFault::OOM;
    };
    if let Some(old) = old {
        copy_highpage(cpu, new, old);
    }
    let pmd = mm_find_pmd(cpu, vma.mm, addr).map_or(Pmd(0), |p| p.read(cpu));
    let (ptep, ptl) = pte_offset_map_lock(cpu, pmd, addr);
    let copied = ptep.read(cpu) == orig;
    if copied {
        ptep.get_and_clear(cpu);
        page_add_new_anon_rmap(cpu, new, addr, false);
        lru_cache_add(cpu, new);
        let entry = Pte::mk(new, vma.flags);
        let writable = entry.mkdirty().maybe_mkwrite(vma.flags);
        ptep.set(cpu, if unshare { entry } else { writable });
        if let Some(old) = old {
            page_remove_rmap(cpu, old, false);
        }
    }
    // The kernel names the page that lost: the old one, or the unused new one.
    let lost = if copied { old } else { Some(new) };
    if let Some(lost) = lost {
        put_page(cpu, lost);
    }
    pte_unmap_unlock(cpu, ptep, ptl);
    if let Some(old) = old {
        if copied {
            free_swap_cache(cpu, old);
        }
        put_page(cpu, old);
    }
    if copied { cow_broken(cpu) } else { VmFault::empty() }
}

/// Copies the contents of a page. C: copy_highpage(), linux/highmem.h
pub(crate) fn copy_highpage(cpu: &Cpu, to: Page, from: Page) {
    cpu.step(StepKind::Data, to.0.into(), from.0.into());
    cpu.world.frame(to).data.set(cpu.world.frame(from).data.read());
}

/// Unmaps a range of one VMA. C: unmap_page_range(), mm/memory.c
pub(crate) fn zap_page_range(cpu: &Cpu, vma: &Vma, start: u64, end: u64) {
    if vma.is_hugetlb() {
        unmap_hugepage_range(cpu, vma, start, end);
        return;
    }
    let mut addr = start;
    while addr < end {
        let next = pmd_addr_end(addr, end);
        if let Some(pmdp) = mm_find_pmd(cpu, vma.mm, addr) {
            let pmd = pmdp.read(cpu);
            let huge = pmd.is_swap_or_trans_huge();
            if huge && next - addr != PMD_SIZE {
                split_huge_pmd(cpu, vma, pmdp);
            } else if huge && zap_huge_pmd(cpu, pmdp) {
                addr = next;
                continue;
            }
            // What was huge may have been split by somebody else just now.
            zap_pte_range(cpu, pmdp, addr, next);
        }
        addr = next;
    }
}

/// C: zap_pte_range(), mm/memory.c
fn zap_pte_range(cpu: &Cpu, pmdp: PmdPtr, start: u64, end: u64) {
    let pmd = pmdp.read(cpu);
    if pmd.bad() {
        return;
    }
    let (mut ptep, ptl) = pte_offset_map_lock(cpu, pmd, start);
    let first = ptep;
    // The pages are given back after the lock, as the mmu_gather does.
    let mut gathered = [None; (PMD_SIZE / PAGE_SIZE) as usize];
    for slot in &mut gathered[..((end - start) / PAGE_SIZE) as usize] {
        let pte = ptep.read(cpu);
        if !pte.none() {
            ptep.get_and_clear(cpu);
            if pte.present() && !pte.special() {
                let page = pte.pfn();
                if pte.dirty() && !page_anon(cpu, page) {
                    set_page_dirty(cpu, page);
                }
                page_remove_rmap(cpu, page, false);
                *slot = Some(page);
            } else if let Some(swap) = pte.swap_slot() {
                free_swap_and_cache(cpu, swap);
            }
        }
        ptep = ptep.next();
    }
    pte_unmap_unlock(cpu, first, ptl);
    for page in gathered.into_iter().flatten() {
        free_page_and_swap_cache(cpu, page);
    }
}

/// The page that a load or store of user space at `addr` reaches now, faulting
/// it in as needed. C: exc_page_fault(), arch/x86/mm/fault.c
///
/// # Errors
/// `EFAULT` where the process would get SIGSEGV or SIGBUS, `ENOMEM` where
/// the OOM killer would run.
pub fn user_access(cpu: &Cpu, mm: MmId, addr: u64, write: bool) -> Result<Page, Errno> {
    if addr >= TASK_SIZE {
        return Err(Errno::EFAULT);
    }
    let mut flags = FaultFlag::ALLOW_RETRY | FaultFlag::KILLABLE;
    flags.set(FaultFlag::WRITE, write);
    // A fault may leave work for a second one; no access takes more than a few.
    for _ in 0..8 {
        // The hardware's walk takes no steps.
        let walk =
            || leaf_at(cpu, mm, addr).filter(|leaf| leaf.accessible && (leaf.write || !write));
        if let Some(leaf) = walk() {
            cpu.step(StepKind::Data, leaf.page.0.into(), write.into());
            // The access is part of the walk: who changes the entry waits
            // until no TLB has it any more.
            if walk() == Some(leaf) {
                return Ok(leaf.page);
            }
            continue;
        }
        mmap_read_lock(cpu, mm);
        let vma = mm::vma_lookup(cpu, mm, addr);
        let Some(vma) = vma.filter(|v| !access_error(v, write)) else {
            mmap_read_unlock(cpu, mm);
            return Err(Errno::EFAULT);
        };
        let ret = handle_mm_fault(cpu, &vma, addr, flags);
        if ret.contains(VmFault::COMPLETED) {
            continue;
        }
        if ret.contains(VmFault::RETRY) {
            flags |= FaultFlag::TRIED;
            continue;
        }
        if ret.contains(VmFault::COMPLETED) {
            continue;
        }
        mmap_read_unlock(cpu, mm);
        if ret.intersects(VmFault::ERROR) {
            return Err(if ret.contains(VmFault::OOM) { Errno::ENOMEM } else { Errno::EFAULT });
        }
    }
    cpu.bug_on(true, "exc_page_fault", "the same access faults for ever");
    Err(Errno::EFAULT)
}

/// C: access_error(), arch/x86/mm/fault.c
fn access_error(vma: &Vma, write: bool) -> bool {
    if write { !vma.flags.contains(VmFlags::WRITE) } else { !vma.is_accessible() }
}

/// A store of user space. C: a mov to memory
///
/// # Errors
/// As [`user_access`].
pub fn user_store(cpu: &Cpu, mm: MmId, addr: u64, token: u64) -> Result<Page, Errno> {
    user_store_with(cpu, mm, addr, || token)
}

/// [`user_store`] of what `token` gives at the moment of the store.
///
/// # Errors
/// As [`user_access`].
pub fn user_store_with(
    cpu: &Cpu,
    mm: MmId,
    addr: u64,
    token: impl FnOnce() -> u64,
) -> Result<Page, Errno> {
    let page = user_access(cpu, mm, addr, true)?;
    cpu.world.frame(page).data.set(token());
    Ok(page)
}

/// A load of user space: the page and its contents. C: a mov from memory
///
/// # Errors
/// As [`user_access`].
pub fn user_load(cpu: &Cpu, mm: MmId, addr: u64) -> Result<(Page, u64), Errno> {
    let page = user_access(cpu, mm, addr, false)?;
    Ok((page, cpu.world.frame(page).data.read()))
}

/// A device writes to a page it was given.
pub fn dma_write(cpu: &Cpu, page: Page, token: u64) {
    dma_write_with(cpu, page, || token);
}

/// [`dma_write`] of what `token` gives at the moment of the store; returns it.
pub fn dma_write_with(cpu: &Cpu, page: Page, token: impl FnOnce() -> u64) -> u64 {
    cpu.step(StepKind::Data, page.0.into(), 1);
    let token = token();
    cpu.world.frame(page).data.set(token);
    token
}

/// A device reads a page it was given.
pub fn dma_read(cpu: &Cpu, page: Page) -> u64 {
    cpu.step(StepKind::Data, page.0.into(), 0);
    cpu.world.frame(page).data.read()
}
