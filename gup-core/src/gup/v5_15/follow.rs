// SPDX-License-Identifier: GPL-2.0-only
//! From an address to its page, under mmap_lock and the page-table locks.
//!
//! Each function returns the page, grabbed as the flags ask; `Ok(None)` if
//! the caller must fault it in; or an error.

use super::grab::{try_grab_page, unpin_user_page};
use crate::errno::Errno;
use crate::flags::Foll;
use crate::history::Defect;
use crate::model::Cpu;
use crate::model::huge_memory::{split_huge_pmd, touch_pmd};
use crate::model::limits::{HPAGE_PMD_NR, PAGE_SHIFT};
use crate::model::memory::vm_normal_page;
use crate::model::mm::Vma;
use crate::model::page::{
    Page, arch_make_page_accessible, is_zero_page, mark_page_accessed, page_compound, page_dirty,
    page_head, set_page_dirty,
};
use crate::model::pgtable::{
    P4dPtr, PgdPtr, Pmd, PmdPtr, Pte, PtePtr, PudPtr, assert_spin_locked, p4d_offset, pgd_offset,
    pmd_lock, pmd_offset, pte_alloc, pte_lockptr, pte_offset_map, pte_unmap_unlock, pud_offset,
    spin_lock, spin_unlock,
};

/// What a look-up of a page answers.
type Followed = Result<Option<Page>, Errno>;

/// What one look-up tells beside the page.
///
/// C: struct follow_page_context, mm/gup.c, v5.15
// PORT: no pgmap: there is no device memory yet.
#[derive(Default)]
pub(crate) struct FollowPageContext {
    /// The number of pages of the huge page that was found, minus 1.
    pub(crate) page_mask: u64,
}

/// Nothing is mapped: to be faulted in, unless a core dump prefers a hole.
///
/// C: no_page_table(), mm/gup.c, v5.15
fn no_page_table(vma: &Vma, flags: Foll) -> Followed {
    // PORT: of the other VMAs a driver's has no fault handler.
    if flags.contains(Foll::DUMP) && vma.file().is_none() {
        return Err(Errno::EFAULT);
    }
    Ok(None)
}

/// An entry without a struct page.
///
/// C: follow_pfn_pte(), mm/gup.c, v5.15
fn follow_pfn_pte(cpu: &Cpu, ptep: PtePtr, flags: Foll) -> Errno {
    // A pin cannot be taken on it either.
    let asks = if cpu.has(Defect::PinOfPfnPte) { Foll::GET } else { Foll::GET | Foll::PIN };
    if flags.intersects(asks) {
        return Errno::EFAULT;
    }
    if flags.contains(Foll::TOUCH) {
        let mut entry = ptep.read(cpu);

        if flags.contains(Foll::WRITE) {
            entry = entry.mkdirty();
        }
        entry = entry.mkyoung();

        if ptep.read(cpu) != entry {
            ptep.set(cpu, entry);
        }
    }
    Errno::EEXIST
}

/// Whether a write may go through this entry: FOLL_FORCE writes to a
/// read-only one after COW was broken for it and left it dirty.
///
/// C: can_follow_write_pte(), mm/gup.c, v5.15
fn can_follow_write_pte(pte: Pte, flags: Foll) -> bool {
    pte.write() || (flags.contains(Foll::FORCE | Foll::COW) && pte.dirty())
}

/// Looks below a PMD that is not huge.
///
/// C: follow_page_pte(), mm/gup.c, v5.15
fn follow_page_pte(cpu: &Cpu, vma: &Vma, address: u64, pmdp: PmdPtr, flags: Foll) -> Followed {
    let both = flags.contains(Foll::PIN | Foll::GET);
    if cpu.warn_on(both, "follow_page_pte", "FOLL_GET and FOLL_PIN") {
        return Err(Errno::EINVAL);
    }
    // PORT: FOLL_MIGRATION would wait and retry; no ported caller sets the
    // flag.
    if pmdp.read(cpu).bad() {
        return no_page_table(vma, flags);
    }
    // C: pte_offset_map_lock(), which reads the entry for the lock, and again
    // for the table.
    let ptl = pte_lockptr(pmdp.read(cpu));
    let ptep = pte_offset_map(pmdp.read(cpu), address);
    spin_lock(cpu, ptl);
    let pte = ptep.read(cpu);
    let page = 'out: {
        'no_page: {
            if !pte.present() {
                break 'no_page;
            }
            if flags.contains(Foll::NUMA) && pte.protnone() {
                break 'no_page;
            }
            if flags.contains(Foll::WRITE) && !can_follow_write_pte(pte, flags) {
                pte_unmap_unlock(cpu, ptep, ptl);
                return Ok(None);
            }
            let page = match vm_normal_page(cpu, vma, address, pte) {
                // PORT: no device memory yet.
                Some(page) => page,
                None if flags.contains(Foll::DUMP) => {
                    // A core dump leaves out special pages, the zero page too.
                    break 'out Err(Errno::EFAULT);
                }
                None if is_zero_page(cpu, pte.pfn()) => pte.pfn(),
                None => break 'out Err(follow_pfn_pte(cpu, ptep, flags)),
            };
            if !try_grab_page(cpu, page, flags) {
                break 'out Err(Errno::ENOMEM);
            }
            // Only a pin's holder is going to touch the contents.
            if flags.contains(Foll::PIN)
                && let Err(ret) = arch_make_page_accessible(cpu, page)
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
            // PORT: FOLL_MLOCK: no VMA of the model is VM_LOCKED.
            break 'out Ok(Some(page));
        }
        // no_page:
        pte_unmap_unlock(cpu, ptep, ptl);
        if !pte.none() {
            return Ok(None);
        }
        return no_page_table(vma, flags);
    };
    // out:
    pte_unmap_unlock(cpu, ptep, ptl);
    page
}

/// Looks below a PUD.
///
/// C: follow_pmd_mask(), mm/gup.c, v5.15
fn follow_pmd_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    pudp: PudPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let pmdp = pmd_offset(pudp.read(cpu), address);
    // One read: the value must not change under the tests below.
    let pmdval = pmdp.read(cpu);
    if pmdval.none() {
        return no_page_table(vma, flags);
    }
    // PORT: no hugetlbfs VMA, no hugepd.
    if !pmdval.present() {
        // PORT: FOLL_MIGRATION would wait; see follow_page_pte().
        return no_page_table(vma, flags);
    }
    // PORT: no device memory: pmd_devmap() is false.
    if !pmdval.trans_huge() {
        return follow_page_pte(cpu, vma, address, pmdp, flags);
    }
    if flags.contains(Foll::NUMA) && pmdval.protnone() {
        return no_page_table(vma, flags);
    }
    let ptl = pmd_lock(cpu, pmdp);
    if pmdp.read(cpu).none() {
        spin_unlock(cpu, ptl);
        return no_page_table(vma, flags);
    }
    if !pmdp.read(cpu).present() {
        spin_unlock(cpu, ptl);
        return no_page_table(vma, flags);
    }
    if !pmdp.read(cpu).trans_huge() {
        spin_unlock(cpu, ptl);
        return follow_page_pte(cpu, vma, address, pmdp, flags);
    }
    if flags.contains(Foll::SPLIT_PMD) {
        // PORT: no huge zero page: of the test for it the read is left.
        let _: Pmd = pmdp.read(cpu);
        spin_unlock(cpu, ptl);
        split_huge_pmd(cpu, vma, pmdp);
        return if pte_alloc(cpu, pmdp) {
            follow_page_pte(cpu, vma, address, pmdp, flags)
        } else {
            Err(Errno::ENOMEM)
        };
    }
    let page = follow_trans_huge_pmd(cpu, vma, address, pmdp, flags);
    spin_unlock(cpu, ptl);
    ctx.page_mask = HPAGE_PMD_NR - 1;
    page
}

/// Looks below a P4D.
///
/// C: follow_pud_mask(), mm/gup.c, v5.15
fn follow_pud_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    p4dp: P4dPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let pudp = pud_offset(p4dp.read(cpu), address);
    if pudp.read(cpu).none() {
        return no_page_table(vma, flags);
    }
    // PORT: no 1 GiB leaves, no hugepd, no device memory.
    if pudp.read(cpu).bad() {
        return no_page_table(vma, flags);
    }
    follow_pmd_mask(cpu, vma, address, pudp, flags, ctx)
}

/// Looks below a PGD.
///
/// C: follow_p4d_mask(), mm/gup.c, v5.15
fn follow_p4d_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    pgdp: PgdPtr,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    let p4dp = p4d_offset(pgdp);
    if p4dp.read(cpu).none() {
        return no_page_table(vma, flags);
    }
    if p4dp.read(cpu).bad() {
        return no_page_table(vma, flags);
    }
    // PORT: no hugepd.
    follow_pud_mask(cpu, vma, address, p4dp, flags, ctx)
}

/// The page at an address, and in `ctx` the size of the page it is part of.
///
/// C: follow_page_mask(), mm/gup.c, v5.15
pub(crate) fn follow_page_mask(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    flags: Foll,
    ctx: &mut FollowPageContext,
) -> Followed {
    ctx.page_mask = 0;

    // PORT: follow_huge_addr() knows no address on x86.
    let pgdp = pgd_offset(cpu, vma.mm, address);

    // PORT: with the folded P4D a PGD entry is never none, bad or huge, and
    // nothing is read to know it.
    follow_p4d_mask(cpu, vma, address, pgdp, flags, ctx)
}

/// Whether a write may go through this huge entry; as for a PTE.
///
/// C: can_follow_write_pmd(), mm/huge_memory.c, v5.15
fn can_follow_write_pmd(pmd: Pmd, flags: Foll) -> bool {
    pmd.write() || (flags.contains(Foll::FORCE | Foll::COW) && pmd.dirty())
}

/// The page at an address under a huge PMD, whose lock is held.
///
/// C: follow_trans_huge_pmd(), mm/huge_memory.c, v5.15
fn follow_trans_huge_pmd(cpu: &Cpu, _vma: &Vma, addr: u64, pmdp: PmdPtr, flags: Foll) -> Followed {
    assert_spin_locked(cpu, pmdp, "follow_trans_huge_pmd");

    if flags.contains(Foll::WRITE) && !can_follow_write_pmd(pmdp.read(cpu), flags) {
        return Ok(None);
    }
    if flags.contains(Foll::DUMP) {
        // PORT: no huge zero page to leave out: of the test the read is left.
        let _: Pmd = pmdp.read(cpu);
    }
    if flags.contains(Foll::NUMA) && pmdp.read(cpu).protnone() {
        return Ok(None);
    }
    let page = pmdp.read(cpu).pfn();
    cpu.bug_on(!page_head(cpu, page), "follow_trans_huge_pmd", "!PageHead(page)");

    if !try_grab_page(cpu, page, flags) {
        return Err(Errno::ENOMEM);
    }
    if flags.contains(Foll::TOUCH) {
        touch_pmd(cpu, pmdp, flags.contains(Foll::WRITE));
    }
    // PORT: FOLL_MLOCK: no VMA of the model is VM_LOCKED.
    let page = page.nth(addr >> PAGE_SHIFT & (HPAGE_PMD_NR - 1));
    cpu.bug_on(!page_compound(cpu, page), "follow_trans_huge_pmd", "!PageCompound(page)");

    Ok(Some(page))
}
