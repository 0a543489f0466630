// SPDX-License-Identifier: GPL-2.0-only
//! From an address to its page, under mmap_lock and the page-table locks.
//!
//! Each function returns the page, grabbed as the flags ask; `Ok(None)` if
//! the caller must fault it in; `EMLINK` if it must be unshared first; or
//! another error.

use super::grab::{try_grab_folio, unpin_user_page};
use crate::errno::Errno;
use crate::flags::{Foll, VmFlags};
use crate::history::{Defect, Safeguard};
use crate::model::folio::{
    arch_make_folio_accessible, page_anon, page_anon_exclusive, page_folio, smp_rmb,
};
use crate::model::huge_memory::{split_huge_pmd, touch_pmd};
use crate::model::hugetlb::hugetlbfs_pagecache_present;
use crate::model::limits::{HPAGE_PMD_NR, HPAGE_PUD_NR, PAGE_SHIFT, PMD_SIZE, PUD_SIZE};
use crate::model::memory::vm_normal_page;
use crate::model::mm::Vma;
use crate::model::page::{is_zero_page, mark_page_accessed, page_dirty, set_page_dirty};
use crate::model::pgtable::{
    __pte_offset_map_lock, P4dPtr, PgdPtr, Pmd, PmdPtr, Pte, PtePtr, PudPtr, assert_pud_locked,
    assert_spin_locked, p4d_offset, pgd_offset, pmd_lock, pmd_offset, pte_alloc, pte_unmap_unlock,
    pud_lock, pud_offset, spin_unlock,
};
use crate::model::{Cpu, Page};

/// What a look-up of a page answers.
type Followed = Result<Option<Page>, Errno>;

/// What one look-up tells beside the page.
///
/// C: struct follow_page_context, mm/gup.c, v6.12
// PORT: no pgmap: there is no device memory yet.
#[derive(Default)]
pub(crate) struct FollowPageContext {
    /// The number of pages of the huge page that was found, minus 1.
    pub(crate) page_mask: u64,
}

/// Nothing is mapped: to be faulted in, unless a core dump prefers a hole.
///
/// C: no_page_table(), mm/gup.c, v6.12
fn no_page_table(cpu: &Cpu, vma: &Vma, flags: Foll, address: u64) -> Followed {
    if !flags.contains(Foll::DUMP) {
        return Ok(None);
    }
    if vma.is_hugetlb() {
        if !hugetlbfs_pagecache_present(cpu, vma, address) {
            return Err(Errno::EFAULT);
        }
    } else if vma.is_anonymous() || vma.file().is_none() {
        // PORT: a mapping without a file is a driver's without a fault handler.
        return Err(Errno::EFAULT);
    }
    Ok(None)
}

/// Looks at a huge PUD, whose lock is held.
///
/// C: follow_huge_pud(), mm/gup.c, v6.12
fn follow_huge_pud(
    cpu: &Cpu,
    vma: &Vma,
    addr: u64,
    pudp: PudPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let pud = pudp.read(cpu);
    let mut pfn = pud.pfn();

    assert_pud_locked(cpu, pudp, "follow_huge_pud");

    if flags.contains(Foll::WRITE) && !pud.write() {
        return Ok(None);
    }
    if !pud.present() {
        return Ok(None);
    }
    pfn = pfn.nth((addr & (PUD_SIZE - 1)) >> PAGE_SHIFT);
    // PORT: no device memory: pud_devmap() is false.
    let page = pfn;

    if !pud.write() && gup_must_unshare(cpu, Some(vma), flags, page) {
        return Err(Errno::EMLINK);
    }
    try_grab_folio(cpu, page_folio(cpu, page), 1, flags)?;
    ctx.page_mask = HPAGE_PUD_NR - 1;

    Ok(Some(page))
}

/// Whether a write may go through this huge entry: FOLL_FORCE writes to a
/// read-only one if the page is the process's own.
///
/// C: can_follow_write_pmd(), mm/gup.c, v6.12
fn can_follow_write_pmd(cpu: &Cpu, pmd: Pmd, page: Page, vma: &Vma, flags: Foll) -> bool {
    // PORT: neither soft-dirty tracking nor userfaultfd ask for a fault.
    pmd.write() || forced_write(cpu, Some(page), vma, flags)
}

// PORT: not in the C, which has it twice: what can_follow_write_pmd() and
// can_follow_write_pte() ask of an entry that is not writable.
fn forced_write(cpu: &Cpu, page: Option<Page>, vma: &Vma, flags: Foll) -> bool {
    if !flags.contains(Foll::FORCE) {
        return false;
    }
    // without effect on shared mappings,
    if vma.flags.intersects(VmFlags::MAYSHARE | VmFlags::SHARED) {
        return false;
    }
    // on private ones that may never be written,
    if !vma.flags.contains(VmFlags::MAYWRITE) {
        return false;
    }
    // and on those that only need a write fault
    if vma.flags.contains(VmFlags::WRITE) {
        return false;
    }
    page.is_some_and(|p| page_anon(cpu, p) && page_anon_exclusive(cpu, p))
}

/// Looks at a huge PMD, whose lock is held.
///
/// C: follow_huge_pmd(), mm/gup.c, v6.12
#[doc(alias = "follow_trans_huge_pmd")]
fn follow_huge_pmd(
    cpu: &Cpu,
    vma: &Vma,
    addr: u64,
    pmdp: PmdPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let at = "follow_huge_pmd";
    let pmdval = pmdp.read(cpu);

    assert_spin_locked(cpu, pmdp, at);

    let page = pmdval.pfn();
    if flags.contains(Foll::WRITE) && !can_follow_write_pmd(cpu, pmdval, page, vma, flags) {
        return Ok(None);
    }
    // PORT: no huge zero page for FOLL_DUMP to leave out.
    if pmdp.read(cpu).protnone() && !gup_can_follow_protnone(vma, flags) {
        return Ok(None);
    }
    if !pmdval.write() && gup_must_unshare(cpu, Some(vma), flags, page) {
        return Err(Errno::EMLINK);
    }
    pinned_is_exclusive(cpu, flags, page, at);

    try_grab_folio(cpu, page_folio(cpu, page), 1, flags)?;
    if pmdval.trans_huge() && flags.contains(Foll::TOUCH) {
        touch_pmd(cpu, pmdp, flags.contains(Foll::WRITE));
    }
    ctx.page_mask = HPAGE_PMD_NR - 1;
    Ok(Some(page.nth((addr & (PMD_SIZE - 1)) >> PAGE_SHIFT)))
}

// PORT: not in the C, which has this VM_BUG_ON_PAGE() twice.
fn pinned_is_exclusive(cpu: &Cpu, flags: Foll, page: Page, function: &'static str) {
    let shared =
        flags.contains(Foll::PIN) && page_anon(cpu, page) && !page_anon_exclusive(cpu, page);
    let what = "(flags & FOLL_PIN) && PageAnon(page) && !PageAnonExclusive(page)";
    cpu.bug_on(shared, function, what);
}

/// An entry without a struct page.
///
/// C: follow_pfn_pte(), mm/gup.c, v6.12
fn follow_pfn_pte(cpu: &Cpu, ptep: PtePtr, flags: Foll) -> Errno {
    if flags.contains(Foll::TOUCH) {
        let orig_entry = ptep.read(cpu);
        let mut entry = orig_entry;

        if flags.contains(Foll::WRITE) {
            entry = entry.mkdirty();
        }
        entry = entry.mkyoung();

        if orig_entry != entry {
            ptep.set(cpu, entry);
        }
    }
    Errno::EEXIST
}

/// As [`can_follow_write_pmd`], for a PTE and the page behind it, if it has a
/// struct page.
///
/// C: can_follow_write_pte(), mm/gup.c, v6.12
fn can_follow_write_pte(cpu: &Cpu, pte: Pte, page: Option<Page>, vma: &Vma, flags: Foll) -> bool {
    // PORT: neither soft-dirty tracking nor userfaultfd ask for a fault.
    pte.write() || forced_write(cpu, page, vma, flags)
}

/// Looks below a PMD that is not huge.
///
/// C: follow_page_pte(), mm/gup.c, v6.12
fn follow_page_pte(cpu: &Cpu, vma: &Vma, address: u64, pmdp: PmdPtr, flags: Foll) -> Followed {
    let at = "follow_page_pte";
    let both = flags.contains(Foll::PIN | Foll::GET);
    if cpu.warn_on(both, at, "(flags & (FOLL_PIN | FOLL_GET)) == (FOLL_PIN | FOLL_GET)") {
        return Err(Errno::EINVAL);
    }
    let Some((ptep, ptl)) = __pte_offset_map_lock(cpu, pmdp, address) else {
        return no_page_table(cpu, vma, flags, address);
    };
    let pte = ptep.read(cpu);
    let page = 'out: {
        'no_page: {
            if !pte.present() {
                break 'no_page;
            }
            if pte.protnone() && !gup_can_follow_protnone(vma, flags) {
                break 'no_page;
            }
            let page = vm_normal_page(cpu, vma, address, pte);

            if flags.contains(Foll::WRITE) && !can_follow_write_pte(cpu, pte, page, vma, flags) {
                break 'out Ok(None);
            }
            let page = match page {
                // PORT: no device memory: pte_devmap() is false.
                Some(page) => page,
                None if flags.contains(Foll::DUMP) => {
                    // A core dump leaves out special pages, the zero page too.
                    break 'out Err(Errno::EFAULT);
                }
                None if is_zero_page(cpu, pte.pfn()) => pte.pfn(),
                None => break 'out Err(follow_pfn_pte(cpu, ptep, flags)),
            };
            let folio = page_folio(cpu, page);

            if !pte.write() && gup_must_unshare(cpu, Some(vma), flags, page) {
                break 'out Err(Errno::EMLINK);
            }
            pinned_is_exclusive(cpu, flags, page, at);

            if let Err(ret) = try_grab_folio(cpu, folio, 1, flags) {
                break 'out Err(ret);
            }
            // Only a pin's holder is going to touch the contents.
            if flags.contains(Foll::PIN)
                && let Err(ret) = arch_make_folio_accessible(cpu, folio)
            {
                unpin_user_page(cpu, page);
                break 'out Err(ret);
            }
            if flags.contains(Foll::TOUCH) {
                if flags.contains(Foll::WRITE) && !pte.dirty() && !page_dirty(cpu, page) {
                    set_page_dirty(cpu, page);
                }
                mark_page_accessed(cpu, page);
            }
            break 'out Ok(Some(page));
        }
        // no_page:
        pte_unmap_unlock(cpu, ptep, ptl);
        if !pte.none() {
            return Ok(None);
        }
        return no_page_table(cpu, vma, flags, address);
    };
    // out:
    pte_unmap_unlock(cpu, ptep, ptl);
    page
}

/// C: follow_pmd_mask(), mm/gup.c, v6.12
fn follow_pmd_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    pudp: PudPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let pmdp = pmd_offset(pudp.read(cpu), address);
    let mut pmdval = pmdp.read(cpu);
    if pmdval.none() {
        return no_page_table(cpu, vma, flags, address);
    }
    if !pmdval.present() {
        return no_page_table(cpu, vma, flags, address);
    }
    // PORT: no device memory: pmd_devmap() is false.
    if !pmdval.leaf() {
        return follow_page_pte(cpu, vma, address, pmdp, flags);
    }
    if pmdval.protnone() && !gup_can_follow_protnone(vma, flags) {
        return no_page_table(cpu, vma, flags, address);
    }
    let ptl = pmd_lock(cpu, pmdp);
    pmdval = pmdp.read(cpu);
    if !pmdval.present() {
        spin_unlock(cpu, ptl);
        return no_page_table(cpu, vma, flags, address);
    }
    if !pmdval.leaf() {
        spin_unlock(cpu, ptl);
        return follow_page_pte(cpu, vma, address, pmdp, flags);
    }
    if pmdval.trans_huge() && flags.contains(Foll::SPLIT_PMD) {
        spin_unlock(cpu, ptl);
        split_huge_pmd(cpu, vma, pmdp);
        // The PMD may have been left empty.
        return if pte_alloc(cpu, pmdp) {
            follow_page_pte(cpu, vma, address, pmdp, flags)
        } else {
            Err(Errno::ENOMEM)
        };
    }
    let page = follow_huge_pmd(cpu, vma, address, pmdp, flags, ctx);
    spin_unlock(cpu, ptl);
    page
}

/// C: follow_pud_mask(), mm/gup.c, v6.12
fn follow_pud_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    p4dp: P4dPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let pudp = pud_offset(p4dp.read(cpu), address);
    let pud = pudp.read(cpu);
    if !pud.present() {
        return no_page_table(cpu, vma, flags, address);
    }
    if pud.leaf() {
        let ptl = pud_lock(cpu, pudp);
        let page = follow_huge_pud(cpu, vma, address, pudp, flags, ctx);
        spin_unlock(cpu, ptl);
        return match page {
            Ok(None) => no_page_table(cpu, vma, flags, address),
            page => page,
        };
    }
    if pud.bad() {
        return no_page_table(cpu, vma, flags, address);
    }
    follow_pmd_mask(cpu, vma, address, pudp, flags, ctx)
}

/// C: follow_p4d_mask(), mm/gup.c, v6.12
fn follow_p4d_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    pgdp: PgdPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let p4dp = p4d_offset(pgdp);
    let p4d = p4dp.read(cpu);

    if !p4d.present() || p4d.bad() {
        return no_page_table(cpu, vma, flags, address);
    }
    follow_pud_mask(cpu, vma, address, p4dp, flags, ctx)
}

/// Looks up the page at an address.
///
/// C: follow_page_mask(), mm/gup.c, v6.12
pub(super) fn follow_page_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    // PORT: hugetlb's page tables are never shared between processes:
    // vma_pgtable_walk_begin() and _end() do nothing.
    ctx.page_mask = 0;
    let pgdp = pgd_offset(cpu, vma.mm, address);

    // PORT: with the folded P4D a PGD entry is never none or bad, and the
    // compiler drops the reads.
    follow_p4d_mask(cpu, vma, address, pgdp, flags, ctx)
}

/// Whether a PROT_NONE entry can be followed, or is a NUMA hint that the
/// caller wants to be honoured.
///
/// C: gup_can_follow_protnone(), linux/mm.h, v6.12
fn gup_can_follow_protnone(vma: &Vma, flags: Foll) -> bool {
    if !flags.contains(Foll::HONOR_NUMA_FAULT) {
        return true;
    }
    // In a VMA without any access there are no hints.
    !vma.is_accessible()
}

/// Whether a read-only pin would come loose at the next write fault, so that
/// the page must be replaced by one of the process's own first. GUP-fast has
/// no VMA.
///
/// C: gup_must_unshare(), mm/internal.h, v6.12
pub(super) fn gup_must_unshare(cpu: &Cpu, vma: Option<&Vma>, flags: Foll, page: Page) -> bool {
    // A writable entry of an anonymous page says that it is exclusive.
    if flags & (Foll::WRITE | Foll::PIN) != Foll::PIN {
        return false;
    }
    if !page_anon(cpu, page) {
        // Only a longterm pin is meant to see later stores.
        if !flags.contains(Foll::LONGTERM) || cpu.has(Defect::LongtermReadNotUnshared) {
            return false;
        }
        let Some(vma) = vma else { return true };
        return vma.is_cow_mapping();
    }
    // The entry before the flag: pairs with the barrier between clearing the
    // flag and setting the entry in folio_try_share_anon_rmap().
    if !cpu.has(Defect::ExclusiveWithoutBarriers) && !cpu.lacks(Safeguard::BarrierBeforeExclusive) {
        smp_rmb(cpu);
    }
    !page_anon_exclusive(cpu, page)
}
