// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast: the walk without locks.
//!
//! With interrupts off no page table that the walk can reach is freed. The
//! pages are not so lucky: each is grabbed speculatively, and then the entry
//! is read again, and the one above it, to see whether they still lead there.
//! A pin is given up again if fork() write-protected pages meanwhile, or if
//! the page is not the process's own.

use super::api::is_valid_gup_args;
use super::faultin::mm_set_has_pinned_flag;
use super::follow::gup_must_unshare;
use super::grab::{
    gup_fast_unpin_user_pages, gup_put_folio, sanity_check_pinned_pages, try_grab_folio_fast,
};
use super::longterm::__gup_longterm_locked;
use crate::errno::Errno;
use crate::flags::Foll;
use crate::history::{Defect, Safeguard};
use crate::model::folio::{
    Folio, arch_make_folio_accessible, folio_mapping, folio_set_referenced, folio_test_hugetlb,
    folio_test_large, folio_test_slab, secretmem_mapping, shmem_mapping,
};
use crate::model::limits::{PAGE_SHIFT, PAGE_SIZE, PMD_SIZE, PUD_SIZE, TASK_SIZE};
use crate::model::mm::{read_write_protect_seq, retry_write_protect_seq};
use crate::model::page::{Mapping, page_lru};
use crate::model::pgtable::{
    __pte_offset_map, P4d, P4dPtr, PgdPtr, Pmd, PmdPtr, Pud, PudPtr, p4d_addr_end, p4d_offset,
    pgd_addr_end, pgd_offset, pmd_addr_end, pmd_offset, pud_addr_end, pud_offset,
};
use crate::model::{Cpu, Page};

/// Notes the pages of a huge page of `sz` bytes; returns how many.
///
/// C: record_subpages(), mm/gup.c, v6.12
fn record_subpages(page: Page, sz: u64, mut addr: u64, end: u64, pages: &mut [Page]) -> usize {
    let start_page = page.nth((addr & (sz - 1)) >> PAGE_SHIFT);
    let mut nr = 0;
    while addr != end {
        pages[nr] = start_page.nth(nr as u64);
        nr += 1;
        addr += PAGE_SIZE;
    }
    nr
}

/// Whether GUP-fast may have a folio, which it has grabbed: never secret
/// memory, and for a longterm write no file but shmem.
///
/// C: gup_fast_folio_allowed(), mm/gup.c, v6.12
#[doc(alias = "folio_fast_pin_allowed")]
fn gup_fast_folio_allowed(cpu: &Cpu, folio: Folio, flags: Foll) -> bool {
    let at = "gup_fast_folio_allowed";
    let reject_file_backed = flags.contains(Foll::PIN | Foll::LONGTERM | Foll::WRITE)
        && !cpu.has(Defect::FastLongtermWriteToFile);
    // Secret memory comes in small folios only.
    let mut check_secretmem = !folio_test_large(cpu, folio);
    if cpu.has(Defect::SecretmemOffLru) {
        check_secretmem &= page_lru(cpu, folio.page());
    }

    if !reject_file_backed && !check_secretmem {
        return true;
    }
    if cpu.warn_on(folio_test_slab(cpu, folio), at, "folio_test_slab(folio)") {
        return false;
    }
    if folio_test_hugetlb(cpu, folio) {
        return true;
    }
    // The mapping is freed under RCU, and interrupts are off.
    cpu.bug_on(!cpu.irqs_disabled(), at, "lockdep_assert_irqs_disabled()");

    match folio_mapping(cpu, folio) {
        // Perhaps truncated: the slow path will know.
        Mapping::None => cpu.lacks(Safeguard::MappingGone),
        Mapping::Anon => true,
        mapping if check_secretmem && secretmem_mapping(mapping) => false,
        mapping => !reject_file_backed || shmem_mapping(mapping),
    }
}

/// Grabs the pages of one PTE table from `addr` to `end`; false if one could
/// not be had. What was grabbed before it stays grabbed.
///
/// C: gup_fast_pte_range(), mm/gup.c, v6.12
#[allow(clippy::too_many_arguments)]
#[doc(alias = "gup_pte_range")]
fn gup_fast_pte_range(
    cpu: &Cpu,
    pmd: Pmd,
    pmdp: PmdPtr,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let Some(mut ptep) = __pte_offset_map(pmd, addr) else { return false };
    loop {
        let pte = ptep.read(cpu);

        // PROT_NONE is for the slow path, which knows the VMA.
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
        cpu.bug_on(!cpu.world.has_frame(page), "gup_fast_pte_range", "!pfn_valid(pte_pfn(pte))");

        let Some(folio) = try_grab_folio_fast(cpu, page, 1, flags) else {
            return false;
        };
        // The table may be on its way out, too: khugepaged clears the PMD
        // first, and leaves the PTEs as they are.
        let pmd_moved = !cpu.has(Defect::CollapseUnseen) && pmd != pmdp.read_again(cpu);
        let pte_moved = |cpu| pte != ptep.read_again(cpu) && !cpu.lacks(Safeguard::PteRecheck);
        if pmd_moved || pte_moved(cpu) {
            gup_put_folio(cpu, folio, 1, flags);
            return false;
        }
        if !gup_fast_folio_allowed(cpu, folio, flags) {
            gup_put_folio(cpu, folio, 1, flags);
            return false;
        }
        if !pte.write() && gup_must_unshare(cpu, None, flags, page) {
            gup_put_folio(cpu, folio, 1, flags);
            return false;
        }
        // Only a pin's holder is going to touch the contents.
        if flags.contains(Foll::PIN) && arch_make_folio_accessible(cpu, folio).is_err() {
            gup_put_folio(cpu, folio, 1, flags);
            // The C returns the error number, which its caller takes for
            // "all grabbed": the walk goes on behind a hole.
            return cpu.has(Defect::ArchErrorIsSuccess);
        }
        folio_set_referenced(cpu, folio);
        pages[*nr] = page;
        *nr += 1;

        ptep = ptep.next();
        addr += PAGE_SIZE;
        if addr == end {
            return true;
        }
    }
}

/// Grabs the pages of a huge PMD from `addr` to `end`.
///
/// C: gup_fast_pmd_leaf(), mm/gup.c, v6.12
#[allow(clippy::too_many_arguments)]
#[doc(alias = "gup_huge_pmd")]
fn gup_fast_pmd_leaf(
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
    // PORT: neither special huge entries nor device memory: pmd_special()
    // and pmd_devmap() are false.
    let page = orig.pfn();
    let refs = record_subpages(page, PMD_SIZE, addr, end, &mut pages[*nr..]);

    let Some(folio) = try_grab_folio_fast(cpu, page, refs as i32, flags) else {
        return false;
    };
    if orig != pmdp.read_again(cpu) && !cpu.lacks(Safeguard::PmdRecheck) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    if !gup_fast_folio_allowed(cpu, folio, flags) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    if !orig.write() && gup_must_unshare(cpu, None, flags, folio.page()) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    *nr += refs;
    folio_set_referenced(cpu, folio);
    true
}

/// Grabs the pages of a huge PUD from `addr` to `end`.
///
/// C: gup_fast_pud_leaf(), mm/gup.c, v6.12
#[allow(clippy::too_many_arguments)]
#[doc(alias = "gup_huge_pud")]
fn gup_fast_pud_leaf(
    cpu: &Cpu,
    orig: Pud,
    pudp: PudPtr,
    addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    if !orig.access_permitted(flags.contains(Foll::WRITE)) {
        return false;
    }
    // PORT: neither special huge entries nor device memory: pud_special()
    // and pud_devmap() are false.
    let page = orig.pfn();
    let refs = record_subpages(page, PUD_SIZE, addr, end, &mut pages[*nr..]);

    let Some(folio) = try_grab_folio_fast(cpu, page, refs as i32, flags) else {
        return false;
    };
    if orig != pudp.read_again(cpu) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    if !gup_fast_folio_allowed(cpu, folio, flags) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    if !orig.write() && gup_must_unshare(cpu, None, flags, folio.page()) {
        gup_put_folio(cpu, folio, refs as i32, flags);
        return false;
    }
    *nr += refs;
    folio_set_referenced(cpu, folio);
    true
}

/// C: gup_fast_pmd_range(), mm/gup.c, v6.12
#[doc(alias = "gup_pmd_range")]
fn gup_fast_pmd_range(
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
        if pmd.leaf() {
            // PROT_NONE is for the slow path, as in gup_fast_pte_range().
            if pmd.protnone() {
                return false;
            }
            if !gup_fast_pmd_leaf(cpu, pmd, pmdp, addr, next, flags, pages, nr) {
                return false;
            }
        } else if !gup_fast_pte_range(cpu, pmd, pmdp, addr, next, flags, pages, nr) {
            return false;
        }
        addr = next;
        if addr == end {
            return true;
        }
        pmdp = pmdp.next();
    }
}

/// C: gup_fast_pud_range(), mm/gup.c, v6.12
#[doc(alias = "gup_pud_range")]
fn gup_fast_pud_range(
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
        if pud.leaf() {
            if !gup_fast_pud_leaf(cpu, pud, pudp, addr, next, flags, pages, nr) {
                return false;
            }
        } else if !gup_fast_pmd_range(cpu, pud, addr, next, flags, pages, nr) {
            return false;
        }
        addr = next;
        if addr == end {
            return true;
        }
        pudp = pudp.next();
    }
}

/// C: gup_fast_p4d_range(), mm/gup.c, v6.12
#[doc(alias = "gup_p4d_range")]
fn gup_fast_p4d_range(
    cpu: &Cpu,
    pgdp: PgdPtr,
    mut addr: u64,
    end: u64,
    flags: Foll,
    pages: &mut [Page],
    nr: &mut usize,
) -> bool {
    let p4dp: P4dPtr = p4d_offset(pgdp);
    loop {
        let p4d = p4dp.read(cpu);

        let next = p4d_addr_end(addr, end);
        if !p4d.present() {
            return false;
        }
        if !gup_fast_pud_range(cpu, p4d, addr, next, flags, pages, nr) {
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
/// C: gup_fast_pgd_range(), mm/gup.c, v6.12
#[doc(alias = "gup_pgd_range")]
fn gup_fast_pgd_range(
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
        // PORT: with the folded P4D a PGD entry is never none, and on x86 no
        // leaf, so there is no gup_fast_pgd_leaf().
        pgdp.read(cpu);

        let next = pgd_addr_end(addr, end);
        if !gup_fast_p4d_range(cpu, pgdp, addr, next, flags, pages, nr) {
            return;
        }
        addr = next;
        if addr == end {
            return;
        }
        pgdp = pgdp.next();
    }
}

/// Grabs what can be grabbed without locks; returns how many pages.
///
/// C: gup_fast(), mm/gup.c, v6.12
#[doc(alias = "lockless_pages_from_mm")]
fn gup_fast(cpu: &Cpu, start: u64, end: u64, gup_flags: Foll, pages: &mut [Page]) -> usize {
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
    gup_fast_pgd_range(cpu, start, end, gup_flags, pages, &mut nr_pinned);
    cpu.local_irq_restore(flags);

    // fork() may have write-protected what was pinned: pinned too late.
    if gup_flags.contains(Foll::PIN) {
        let forked = sees_fork && retry_write_protect_seq(cpu, mm, seq);
        if forked && !cpu.lacks(Safeguard::SeqRetry) {
            gup_fast_unpin_user_pages(cpu, &pages[..nr_pinned]);
            return 0;
        }
        sanity_check_pinned_pages(cpu, &pages[..nr_pinned]);
    }
    nr_pinned
}

/// The fast path, then the slow path for the rest.
///
/// C: gup_fast_fallback(), mm/gup.c, v6.12
#[doc(alias = "internal_get_user_pages_fast")]
fn gup_fast_fallback(
    cpu: &Cpu,
    mut start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: &mut [Page],
) -> Result<usize, Errno> {
    let known = Foll::WRITE
        | Foll::LONGTERM
        | Foll::FORCE
        | Foll::PIN
        | Foll::GET
        | Foll::FAST_ONLY
        | Foll::NOFAULT
        | Foll::PCI_P2PDMA
        | Foll::HONOR_NUMA_FAULT;
    if cpu.warn_on(!known.contains(gup_flags), "gup_fast_fallback", "unknown flags") {
        return Err(Errno::EINVAL);
    }
    if gup_flags.contains(Foll::PIN) && !cpu.lacks(Safeguard::HasPinnedFirst) {
        mm_set_has_pinned_flag(cpu, cpu.current_mm());
    }
    // PORT: might_lock_read() only informs lockdep.
    start &= !(PAGE_SIZE - 1);
    let len = (nr_pages as u64) << PAGE_SHIFT;
    let Some(end) = start.checked_add(len) else { return Err(Errno::EOVERFLOW) };
    // PORT: TASK_SIZE_MAX is TASK_SIZE, and access_ok() asks the same.
    if end > TASK_SIZE {
        return Err(Errno::EFAULT);
    }
    // PORT: an empty range ends here; see gup_fast_pgd_range().
    if nr_pages == 0 {
        return Ok(0);
    }
    let nr_pinned = gup_fast(cpu, start, end, gup_flags, pages);
    if nr_pinned == nr_pages || gup_flags.contains(Foll::FAST_ONLY) {
        return Ok(nr_pinned);
    }
    start += (nr_pinned as u64) << PAGE_SHIFT;
    let rest = &mut pages[nr_pinned..];
    let mut locked = false;
    let slow = gup_flags | Foll::TOUCH | Foll::UNLOCKABLE;
    let mm = cpu.current_mm();
    match __gup_longterm_locked(cpu, mm, start, nr_pages - nr_pinned, rest, &mut locked, slow) {
        // The caller must learn of the pages that it has to release.
        Err(_) if nr_pinned > 0 => Ok(nr_pinned),
        Err(ret) => Err(ret),
        Ok(ret) => Ok(ret + nr_pinned),
    }
}

/// References on pages of the current task by the fast path alone; can be
/// called with interrupts off.
///
/// # Errors
/// `EINVAL` for flags that need a pin, `EFAULT` outside of user space.
///
/// C: get_user_pages_fast_only(), mm/gup.c, v6.12
pub fn get_user_pages_fast_only(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
) -> Result<usize, Errno> {
    let to_set = Foll::GET | Foll::FAST_ONLY;
    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, to_set) else {
        return Err(Errno::EINVAL);
    };
    gup_fast_fallback(cpu, start, nr_pages, gup_flags, pages.unwrap_or_default())
}

/// References on pages of the current task, if possible without taking
/// mmap_lock; it must not be held.
///
/// # Errors
/// As get_user_pages().
///
/// C: get_user_pages_fast(), mm/gup.c, v6.12
pub fn get_user_pages_fast(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
) -> Result<usize, Errno> {
    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, Foll::GET)
    else {
        return Err(Errno::EINVAL);
    };
    gup_fast_fallback(cpu, start, nr_pages, gup_flags, pages.unwrap_or_default())
}

/// [`get_user_pages_fast`] with pins.
///
/// # Errors
/// As get_user_pages().
///
/// C: pin_user_pages_fast(), mm/gup.c, v6.12
pub fn pin_user_pages_fast(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
) -> Result<usize, Errno> {
    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, Foll::PIN)
    else {
        return Err(Errno::EINVAL);
    };
    gup_fast_fallback(cpu, start, nr_pages, gup_flags, pages.unwrap_or_default())
}
