// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast: the walk without locks.
//!
//! With interrupts off no page table that the walk can reach is freed. The
//! pages are not so lucky: each is grabbed speculatively, and then the entry
//! is read again to see whether it still maps it. A pin is given up again if
//! fork() write-protected pages meanwhile.

use super::api::{get_user_pages_unlocked, is_valid_gup_flags};
use super::faultin::mm_set_has_pinned_flag;
use super::grab::{put_compound_head, try_grab_compound_head, unpin_user_page, unpin_user_pages};
use super::longterm::__gup_longterm_locked;
use crate::errno::Errno;
use crate::flags::Foll;
use crate::history::{Defect, Proposal, Safeguard};
use crate::model::Cpu;
use crate::model::limits::{PAGE_SHIFT, PAGE_SIZE, PMD_SIZE, TASK_SIZE};
use crate::model::mm::{
    mmap_read_lock, mmap_read_unlock, read_write_protect_seq, retry_write_protect_seq,
};
use crate::model::page::{
    Page, arch_make_page_accessible, compound_head, is_pinnable_page, page_is_secretmem,
    set_page_referenced,
};
use crate::model::pgtable::{
    P4d, Pgd, Pmd, PmdPtr, Pud, p4d_addr_end, p4d_offset, pgd_addr_end, pgd_offset, pmd_addr_end,
    pmd_offset, pte_offset_map, pud_addr_end, pud_offset,
};

/// The helper as the fast walkers call it, in the kernels in which that is
/// different from calling it.
// PORT: not in the C.
fn fast_grab(cpu: &Cpu, page: Page, refs: i32, mut flags: Foll) -> Option<Page> {
    if cpu.kernel.applies(Proposal::FastOnlyFlag) {
        flags |= Foll::FAST_ONLY;
    }
    let head = try_grab_compound_head(cpu, page, refs, flags)?;
    if cpu.kernel.applies(Proposal::CheckInFastWalkers)
        && flags.contains(Foll::LONGTERM)
        && !is_pinnable_page(cpu, head)
    {
        put_compound_head(cpu, head, refs, flags);
        return None;
    }
    Some(head)
}

/// Grabs the pages of one PTE table from `addr` to `end`; false if one could
/// not be had. What was grabbed before it stays grabbed.
///
/// C: gup_pte_range(), mm/gup.c, v5.15
fn gup_pte_range(
    cpu: &Cpu,
    pmd: Pmd,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let mut ptep = pte_offset_map(pmd, addr);
    loop {
        let pte = ptep.read(cpu);

        // A NUMA hint is for the slow path.
        if pte.protnone() {
            return false;
        }
        if !pte.access_permitted(flags.contains(Foll::WRITE)) {
            return false;
        }
        // PORT: no device memory: pte_devmap() is false.
        if pte.special() {
            return false;
        }
        let page = pte.pfn();

        let Some(head) = fast_grab(cpu, page, 1, flags) else {
            return false;
        };
        if page_is_secretmem(cpu, page) {
            put_compound_head(cpu, head, 1, flags);
            return false;
        }
        if pte != ptep.read_again(cpu) && !cpu.lacks(Safeguard::PteRecheck) {
            put_compound_head(cpu, head, 1, flags);
            return false;
        }
        let moved = compound_head(cpu, page) != head;
        cpu.bug_on(moved, "gup_pte_range", "compound_head(page) != head");

        // Only a pin's holder is going to touch the contents.
        if flags.contains(Foll::PIN) && arch_make_page_accessible(cpu, page).is_err() {
            unpin_user_page(cpu, page);
            // The C returns the error number, which its caller takes for
            // "all grabbed": the walk goes on behind a hole.
            return cpu.has(Defect::ArchErrorIsSuccess);
        }
        set_page_referenced(cpu, page);
        pages[*nr] = page;
        *nr += 1;

        ptep = ptep.next();
        addr += PAGE_SIZE;
        if addr == end {
            return true;
        }
    }
}

/// Notes the pages of a huge page; returns how many.
///
/// C: record_subpages(), mm/gup.c, v5.15
fn record_subpages(mut page: Page, mut addr: u64, end: u64, pages: &mut [Page]) -> usize {
    let mut nr = 0;
    while addr != end {
        pages[nr] = page;
        nr += 1;
        page = page.nth(1);
        addr += PAGE_SIZE;
    }
    nr
}

/// Grabs the pages of a huge PMD from `addr` to `end`.
///
/// C: gup_huge_pmd(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
fn gup_huge_pmd(
    cpu: &Cpu,
    orig: Pmd,
    pmdp: PmdPtr,
    addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    if !orig.access_permitted(flags.contains(Foll::WRITE)) {
        return false;
    }
    // PORT: no device memory: pmd_devmap() is false.
    let page = orig.pfn().nth((addr & (PMD_SIZE - 1)) >> PAGE_SHIFT);
    let refs = record_subpages(page, addr, end, &mut pages[*nr..]);

    let Some(head) = fast_grab(cpu, orig.pfn(), refs as i32, flags) else {
        return false;
    };
    if orig != pmdp.read_again(cpu) && !cpu.lacks(Safeguard::PmdRecheck) {
        put_compound_head(cpu, head, refs as i32, flags);
        return false;
    }
    *nr += refs;
    set_page_referenced(cpu, head);
    true
}

/// C: gup_pmd_range(), mm/gup.c, v5.15
fn gup_pmd_range(
    cpu: &Cpu,
    pud: Pud,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let mut pmdp = pmd_offset(pud, addr);
    loop {
        let pmd = pmdp.read(cpu);

        let next = pmd_addr_end(addr, end);
        if !pmd.present() {
            return false;
        }
        if pmd.trans_huge() || pmd.huge() || pmd.devmap() {
            // A NUMA hint is for the slow path.
            if pmd.protnone() {
                return false;
            }
            if !gup_huge_pmd(cpu, pmd, pmdp, addr, next, flags, pages, nr) {
                return false;
            }
        // PORT: no hugepd.
        } else if !gup_pte_range(cpu, pmd, addr, next, flags, pages, nr) {
            return false;
        }
        addr = next;
        if addr == end {
            return true;
        }
        pmdp = pmdp.next();
    }
}

/// C: gup_pud_range(), mm/gup.c, v5.15
fn gup_pud_range(
    cpu: &Cpu,
    p4d: P4d,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let mut pudp = pud_offset(p4d, addr);
    loop {
        let pud = pudp.read(cpu);

        let next = pud_addr_end(addr, end);
        if !pud.present() {
            return false;
        }
        // PORT: no 1 GiB leaves, no hugepd: pud_huge() is false.
        if !gup_pmd_range(cpu, pud, addr, next, flags, pages, nr) {
            return false;
        }
        addr = next;
        if addr == end {
            return true;
        }
        pudp = pudp.next();
    }
}

/// C: gup_p4d_range(), mm/gup.c, v5.15
fn gup_p4d_range(
    cpu: &Cpu,
    pgdp: crate::model::pgtable::PgdPtr,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let p4dp = p4d_offset(pgdp);
    loop {
        let p4d = p4dp.read(cpu);

        let next = p4d_addr_end(addr, end);
        if p4d.none() {
            return false;
        }
        // PORT: no hugepd.
        if !gup_pud_range(cpu, p4d, addr, next, flags, pages, nr) {
            return false;
        }
        // PORT: the folded P4D has one entry.
        addr = next;
        if addr == end {
            return true;
        }
    }
}

/// Grabs pages of the current mm from `addr` to `end` until one cannot be
/// had. Interrupts are off.
///
/// C: gup_pgd_range(), mm/gup.c, v5.15
fn gup_pgd_range(
    cpu: &Cpu,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) {
    // PORT: the C's loop runs once even for an empty range, up to the end of
    // the address space; callers with no pages to grab do not come here.
    let mut pgdp = pgd_offset(cpu, cpu.current_mm(), addr);
    loop {
        // PORT: with the folded P4D a PGD entry is never none or huge.
        let _: Pgd = pgdp.read(cpu);

        let next = pgd_addr_end(addr, end);
        if !gup_p4d_range(cpu, pgdp, addr, next, flags, pages, nr) {
            return;
        }
        addr = next;
        if addr == end {
            return;
        }
        pgdp = pgdp.next();
    }
}

/// The slow path behind the fast one.
///
/// C: __gup_longterm_unlocked(), mm/gup.c, v5.15
fn __gup_longterm_unlocked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> Result<usize, Errno> {
    if gup_flags.contains(Foll::LONGTERM) {
        let mm = cpu.current_mm();
        mmap_read_lock(cpu, mm);
        let ret = __gup_longterm_locked(cpu, mm, start, nr_pages, Some(pages), None, gup_flags);
        mmap_read_unlock(cpu, mm);
        ret
    } else {
        get_user_pages_unlocked(cpu, start, nr_pages, Some(pages), gup_flags)
    }
}

/// Grabs what can be grabbed without locks; returns how many pages.
///
/// C: lockless_pages_from_mm(), mm/gup.c, v5.15
fn lockless_pages_from_mm(
    cpu: &Cpu,
    start: u64,
    end: u64,
    gup_flags: Foll,
    pages: &mut [Page],
) -> usize {
    let mm = cpu.current_mm();
    let mut nr_pinned = 0;
    let mut seq = 0;

    // PORT: gup_fast_permitted() is what access_ok() was.
    let sees_fork = gup_flags.contains(Foll::PIN) && !cpu.has(Defect::ForkUnseen);
    if sees_fork {
        seq = read_write_protect_seq(cpu, mm);
        if seq & 1 != 0 && !cpu.lacks(Safeguard::SeqEven) {
            return 0;
        }
    }
    // No page table is freed and no THP is split under the walk.
    let flags = cpu.local_irq_save();
    gup_pgd_range(cpu, start, end, gup_flags, pages, &mut nr_pinned);
    cpu.local_irq_restore(flags);

    // fork() may have write-protected what was pinned: pinned too late.
    if sees_fork && retry_write_protect_seq(cpu, mm, seq) && !cpu.lacks(Safeguard::SeqRetry) {
        unpin_user_pages(cpu, pages, Ok(nr_pinned));
        return 0;
    }
    nr_pinned
}

/// The fast path, then the slow path for the rest.
///
/// C: internal_get_user_pages_fast(), mm/gup.c, v5.15
#[doc(alias = "gup_fast_fallback")]
fn internal_get_user_pages_fast(
    cpu: &Cpu,
    mut start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> Result<usize, Errno> {
    let known =
        Foll::WRITE | Foll::LONGTERM | Foll::FORCE | Foll::PIN | Foll::GET | Foll::FAST_ONLY;
    if cpu.warn_on(!known.contains(gup_flags), "internal_get_user_pages_fast", "unknown flags") {
        return Err(Errno::EINVAL);
    }
    if gup_flags.contains(Foll::PIN) && !cpu.lacks(Safeguard::HasPinnedFirst) {
        mm_set_has_pinned_flag(cpu, cpu.current_mm());
    }
    // PORT: might_lock_read() only informs lockdep.
    start &= !(PAGE_SIZE - 1);
    let len = (nr_pages as u64) << PAGE_SHIFT;
    let Some(end) = start.checked_add(len) else { return Ok(0) };
    // C: access_ok()
    if end > TASK_SIZE {
        return Err(Errno::EFAULT);
    }
    // PORT: an empty range ends here; see gup_pgd_range().
    if nr_pages == 0 {
        return Ok(0);
    }
    let nr_pinned = lockless_pages_from_mm(cpu, start, end, gup_flags, pages);
    if nr_pinned == nr_pages || gup_flags.contains(Foll::FAST_ONLY) {
        return Ok(nr_pinned);
    }
    start += (nr_pinned as u64) << PAGE_SHIFT;
    let rest = &mut pages[nr_pinned..];
    match __gup_longterm_unlocked(cpu, start, nr_pages - nr_pinned, gup_flags, rest) {
        // The caller must learn of the pages that it has to release.
        Err(_) if nr_pinned > 0 => Ok(nr_pinned),
        Err(ret) => Err(ret),
        Ok(ret) => Ok(ret + nr_pinned),
    }
}

/// References on pages of the current task by the fast path alone; can be
/// called with interrupts off. Never an error: 0 instead.
///
/// C: get_user_pages_fast_only(), mm/gup.c, v5.15
#[doc(alias = "__get_user_pages_fast")]
pub fn get_user_pages_fast_only(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> usize {
    let flags = gup_flags | Foll::GET | Foll::FAST_ONLY;
    internal_get_user_pages_fast(cpu, start, nr_pages, flags, pages).unwrap_or(0)
}

/// References on pages of the current task, if possible without taking
/// mmap_lock; it must not be held.
///
/// # Errors
/// As get_user_pages().
///
/// C: get_user_pages_fast(), mm/gup.c, v5.15
pub fn get_user_pages_fast(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> Result<usize, Errno> {
    if !is_valid_gup_flags(cpu, gup_flags) {
        return Err(Errno::EINVAL);
    }
    internal_get_user_pages_fast(cpu, start, nr_pages, gup_flags | Foll::GET, pages)
}

/// [`get_user_pages_fast`] with pins.
///
/// # Errors
/// As pin_user_pages().
///
/// C: pin_user_pages_fast(), mm/gup.c, v5.15
pub fn pin_user_pages_fast(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> Result<usize, Errno> {
    if cpu.warn_on(gup_flags.contains(Foll::GET), "pin_user_pages_fast", "FOLL_GET") {
        return Err(Errno::EINVAL);
    }
    internal_get_user_pages_fast(cpu, start, nr_pages, gup_flags | Foll::PIN, pages)
}

/// [`get_user_pages_fast_only`] with pins.
///
/// C: pin_user_pages_fast_only(), mm/gup.c, v5.15
pub fn pin_user_pages_fast_only(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> usize {
    if cpu.warn_on(gup_flags.contains(Foll::GET), "pin_user_pages_fast_only", "FOLL_GET") {
        return 0;
    }
    let flags = gup_flags | Foll::PIN | Foll::FAST_ONLY;
    internal_get_user_pages_fast(cpu, start, nr_pages, flags, pages).unwrap_or(0)
}
