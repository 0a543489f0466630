// SPDX-License-Identifier: GPL-2.0-only
//! The slow path: look up, fault in, look up again.

use super::follow::{FollowPageContext, follow_page_mask};
use super::grab::{gup_put_folio, try_grab_folio, try_grab_folio_fast};
use crate::errno::Errno;
use crate::flags::{FaultFlag, Foll, VmFault, VmFlags};
use crate::history::Defect;
use crate::model::folio::page_folio;
use crate::model::limits::{PAGE_SHIFT, PAGE_SIZE};
use crate::model::memory::handle_mm_fault;
use crate::model::mm::{
    self, MmId, Vma, find_vma, mmap_assert_locked, mmap_read_lock_killable, mmap_read_unlock,
};
use crate::model::{Cpu, Page};

/// Notes that the mm has had pinned pages. Sticky.
///
/// C: mm_set_has_pinned_flag(), mm/gup.c, v6.12
pub(super) fn mm_set_has_pinned_flag(cpu: &Cpu, mm: MmId) {
    if !mm::mm_has_pinned(cpu, mm) {
        mm::set_mm_has_pinned(cpu, mm);
    }
}

/// The error for a fault that failed; `None` for one that did not.
///
/// C: vm_fault_to_errno(), linux/mm.h, v6.12
fn vm_fault_to_errno(vm_fault: VmFault, foll_flags: Foll) -> Option<Errno> {
    if vm_fault.contains(VmFault::OOM) {
        return Some(Errno::ENOMEM);
    }
    // PORT: no poisoned huge pages: VM_FAULT_HWPOISON_LARGE does not exist.
    if vm_fault.contains(VmFault::HWPOISON) {
        let wants = foll_flags.contains(Foll::HWPOISON);
        return Some(if wants { Errno::EHWPOISON } else { Errno::EFAULT });
    }
    if vm_fault.intersects(VmFault::SIGBUS | VmFault::SIGSEGV) {
        return Some(Errno::EFAULT);
    }
    None
}

/// Faults a page in. mmap_lock is held; with FOLL_UNLOCKABLE and without
/// FOLL_NOWAIT it may be dropped, and `locked` is false then.
///
/// # Errors
/// `EBUSY` if the fault must be tried again; `EAGAIN` if it is done, but the
/// lock was dropped; otherwise what went wrong.
///
/// C: faultin_page(), mm/gup.c, v6.12
fn faultin_page(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    flags: Foll,
    unshare: bool,
    locked: &mut bool,
) -> Result<(), Errno> {
    let at = "faultin_page";
    let mut fault_flags = FaultFlag::empty();

    if flags.contains(Foll::NOFAULT) {
        return Err(Errno::EFAULT);
    }
    if flags.contains(Foll::WRITE) {
        fault_flags |= FaultFlag::WRITE;
    }
    if flags.contains(Foll::REMOTE) {
        fault_flags |= FaultFlag::REMOTE;
    }
    if flags.contains(Foll::UNLOCKABLE) {
        fault_flags |= FaultFlag::ALLOW_RETRY | FaultFlag::KILLABLE;
        // Not every caller can cope with other signals than fatal ones.
        if flags.contains(Foll::INTERRUPTIBLE) {
            fault_flags |= FaultFlag::INTERRUPTIBLE;
        }
    }
    if flags.contains(Foll::NOWAIT) {
        fault_flags |= FaultFlag::ALLOW_RETRY | FaultFlag::RETRY_NOWAIT;
    }
    if flags.contains(Foll::TRIED) {
        fault_flags |= FaultFlag::TRIED;
    }
    if unshare {
        fault_flags |= FaultFlag::UNSHARE;
        let write = fault_flags.contains(FaultFlag::WRITE);
        cpu.bug_on(write, at, "fault_flags & FAULT_FLAG_WRITE");
    }

    let ret = handle_mm_fault(cpu, vma, address, fault_flags);

    if ret.contains(VmFault::COMPLETED) {
        let nowait = fault_flags.contains(FaultFlag::RETRY_NOWAIT);
        cpu.warn_on(nowait, at, "fault_flags & FAULT_FLAG_RETRY_NOWAIT");
        *locked = false;
        return Err(Errno::EAGAIN);
    }
    if ret.intersects(VmFault::ERROR) {
        if let Some(err) = vm_fault_to_errno(ret, flags) {
            return Err(err);
        }
        cpu.bug_on(true, at, "BUG()");
        // PORT: after BUG() the C does not go on.
        return Err(Errno::EFAULT);
    }
    if ret.contains(VmFault::RETRY) {
        if !fault_flags.contains(FaultFlag::RETRY_NOWAIT) {
            *locked = false;
        }
        return Err(Errno::EBUSY);
    }
    Ok(())
}

/// Whether pages of a file's mapping may be pinned for writing: not for long,
/// if the file system must hear of each store.
///
/// C: writable_file_mapping_allowed(), mm/gup.c, v6.12
fn writable_file_mapping_allowed(cpu: &Cpu, vma: &Vma, gup_flags: Foll) -> bool {
    if cpu.has(Defect::LongtermWriteToFile) {
        return true;
    }
    if !gup_flags.contains(Foll::PIN | Foll::LONGTERM) {
        return true;
    }
    !vma.needs_dirty_tracking()
}

/// Whether the VMA permits what the flags ask for.
///
/// C: check_vma_flags(), mm/gup.c, v6.12
fn check_vma_flags(cpu: &Cpu, vma: &Vma, gup_flags: Foll) -> Result<(), Errno> {
    let vm_flags = vma.flags;
    let vma_anon = vma.is_anonymous();

    if vm_flags.intersects(VmFlags::IO | VmFlags::PFNMAP) {
        return Err(Errno::EFAULT);
    }
    if gup_flags.contains(Foll::ANON) && !vma_anon {
        return Err(Errno::EFAULT);
    }
    // PORT: no DAX file for FOLL_LONGTERM to refuse.
    if gup_flags.contains(Foll::SPLIT_PMD) && vma.is_hugetlb() {
        return Err(Errno::EOPNOTSUPP);
    }
    if vma.is_secretmem() {
        return Err(Errno::EFAULT);
    }
    if gup_flags.contains(Foll::WRITE) {
        if !vma_anon && !writable_file_mapping_allowed(cpu, vma, gup_flags) {
            return Err(Errno::EFAULT);
        }
        // PORT: no shadow stacks.
        if !vm_flags.contains(VmFlags::WRITE) {
            if !gup_flags.contains(Foll::FORCE) {
                return Err(Errno::EFAULT);
            }
            if vma.is_hugetlb() {
                return Err(Errno::EFAULT);
            }
            // Forced writes go to private copies only.
            if !vma.is_cow_mapping() {
                return Err(Errno::EFAULT);
            }
        }
    } else if !vm_flags.contains(VmFlags::READ) {
        if !gup_flags.contains(Foll::FORCE) {
            return Err(Errno::EFAULT);
        }
        if !vm_flags.contains(VmFlags::MAYREAD) {
            return Err(Errno::EFAULT);
        }
    }
    // PORT: no protection keys: arch_vma_access_permitted() is true.
    Ok(())
}

/// The VMA at an address. A stack does not grow for GUP any more.
///
/// C: gup_vma_lookup(), mm/gup.c, v6.12
fn gup_vma_lookup(cpu: &Cpu, mm: MmId, addr: u64) -> Option<Vma> {
    let vma = find_vma(cpu, mm, addr);
    // PORT: without the message that a stack does not grow any more.
    vma.filter(|v| addr >= v.start)
}

/// Grabs up to `nr_pages` pages from `start` on, faulting them in as needed.
/// mmap_lock is held; see [`faultin_page`] for when it is dropped.
///
/// Returns how many pages were handled, which may be fewer than asked for,
/// and 0 if a fault asked for a retry; an error only if none was.
///
/// C: __get_user_pages(), mm/gup.c, v6.12
fn __get_user_pages(
    cpu: &Cpu,
    mm: MmId,
    mut start: u64,
    mut nr_pages: usize,
    gup_flags: Foll,
    mut pages: Option<&mut [Page]>,
    locked: &mut bool,
) -> Result<usize, Errno> {
    let at = "__get_user_pages";
    let mut ret = Ok(());
    let mut i = 0;
    let mut vma: Option<Vma> = None;
    let mut ctx = FollowPageContext::default();

    if nr_pages == 0 {
        return Ok(0);
    }
    // PORT: no address tags to take off.
    let grabs = gup_flags.intersects(Foll::GET | Foll::PIN);
    cpu.bug_on(pages.is_some() != grabs, at, "!!pages != !!(gup_flags & (FOLL_GET | FOLL_PIN))");

    'out: loop {
        // the first page, or one beyond the VMA
        let v = match vma {
            Some(v) if start < v.end => v,
            _ => {
                // PORT: no caller says FOLL_MADV_POPULATE; no gate area.
                let Some(v) = gup_vma_lookup(cpu, mm, start) else {
                    ret = Err(Errno::EFAULT);
                    break 'out;
                };
                vma = Some(v);
                ret = check_vma_flags(cpu, &v, gup_flags);
                if ret.is_err() {
                    break 'out;
                }
                v
            }
        };
        let page = 'retry: loop {
            // No further pages for a task that is about to die.
            if cpu.fatal_signal_pending() {
                ret = Err(Errno::EINTR);
                break 'out;
            }
            let page = follow_page_mask(cpu, &v, start, gup_flags, &mut ctx);
            match page {
                Ok(None) | Err(Errno::EMLINK) => {
                    let unshare = page == Err(Errno::EMLINK);
                    match faultin_page(cpu, &v, start, gup_flags, unshare, locked) {
                        Ok(()) => continue 'retry,
                        Err(Errno::EBUSY | Errno::EAGAIN) => {
                            ret = Ok(());
                            break 'out;
                        }
                        Err(e @ (Errno::EFAULT | Errno::ENOMEM | Errno::EHWPOISON)) => {
                            ret = Err(e);
                            break 'out;
                        }
                        Err(e) => {
                            cpu.bug_on(true, at, "BUG()");
                            // PORT: after BUG() the C does not go on.
                            ret = Err(e);
                            break 'out;
                        }
                    }
                }
                // An entry without a struct page: nothing to store.
                Err(Errno::EEXIST) if pages.is_none() => break 'retry Page::NULL,
                Err(e) => {
                    ret = Err(e);
                    break 'out;
                }
                Ok(Some(page)) => break 'retry page,
            }
        };
        // next_page:
        let page_increm = 1 + (!(start >> PAGE_SHIFT) & ctx.page_mask) as usize;
        let page_increm = page_increm.min(nr_pages);

        if let Some(pages) = pages.as_deref_mut() {
            // The rest of a large folio, or of the part that is wanted.
            if page_increm > 1 {
                let folio = page_folio(cpu, page);
                let more = page_increm as i32 - 1;

                if cpu.has(Defect::BatchGrabIsFast) {
                    let failed = try_grab_folio_fast(cpu, page, more, gup_flags).is_none();
                    if cpu.warn_on(failed, at, "!folio") {
                        gup_put_folio(cpu, folio, 1, gup_flags);
                        ret = Err(Errno::EFAULT);
                        break 'out;
                    }
                } else if try_grab_folio(cpu, folio, more, gup_flags).is_err() {
                    // A folio with a problem: the first page, too.
                    gup_put_folio(cpu, folio, 1, gup_flags);
                    ret = Err(Errno::EFAULT);
                    break 'out;
                }
            }
            for j in 0..page_increm {
                pages[i + j] = page.nth(j as u64);
                // PORT: no caches to flush.
            }
        }
        i += page_increm;
        start += page_increm as u64 * PAGE_SIZE;
        nr_pages -= page_increm;
        if nr_pages == 0 {
            break 'out;
        }
    }
    // out:
    if i > 0 { Ok(i) } else { ret.map(|()| 0) }
}

/// Whether a retry must be given up.
///
/// C: gup_signal_pending(), mm/gup.c, v6.12
fn gup_signal_pending(cpu: &Cpu, flags: Foll) -> bool {
    if cpu.fatal_signal_pending() {
        return true;
    }
    if !flags.contains(Foll::INTERRUPTIBLE) {
        return false;
    }
    cpu.signal_pending()
}

/// [`__get_user_pages`] again and again where faults ask for it. `locked`
/// says at the start whether the caller holds mmap_lock: if not, it is taken
/// and dropped here; if so, it tells afterwards whether it is still held.
/// Never 0 pages without an error, unless the caller said NOWAIT.
///
/// C: __get_user_pages_locked(), mm/gup.c, v6.12
pub(super) fn __get_user_pages_locked(
    cpu: &Cpu,
    mm: MmId,
    mut start: u64,
    mut nr_pages: usize,
    mut pages: Option<&mut [Page]>,
    locked: &mut bool,
    mut flags: Foll,
) -> Result<usize, Errno> {
    let at = "__get_user_pages_locked";
    let mut must_unlock = false;

    if nr_pages == 0 {
        return Ok(0);
    }
    if *locked {
        mmap_assert_locked(cpu, mm);
    } else {
        if mmap_read_lock_killable(cpu, mm).is_err() {
            return Err(Errno::EAGAIN);
        }
        must_unlock = true;
        *locked = true;
    }
    if flags.contains(Foll::PIN) {
        mm_set_has_pinned_flag(cpu, mm);
    }
    // A caller that wants pages and forgot to say how gets references.
    if pages.is_some() && !flags.contains(Foll::PIN) {
        flags |= Foll::GET;
    }

    let mut pages_done = Ok(0);
    let mut done = 0;
    'outer: loop {
        let rest = pages.as_deref_mut().map(|p| &mut p[done..]);
        let ret = __get_user_pages(cpu, mm, start, nr_pages, flags, rest, locked);
        if !flags.contains(Foll::UNLOCKABLE) {
            // No retry could be asked for.
            pages_done = ret;
            break 'outer;
        }
        if !*locked {
            cpu.bug_on(ret.is_err(), at, "ret < 0");
            cpu.bug_on(ret.is_ok_and(|n| n >= nr_pages), at, "ret >= nr_pages");
        }
        let got = ret.unwrap_or(0);
        if got > 0 {
            nr_pages -= got;
            done += got;
            pages_done = Ok(done);
            if nr_pages == 0 {
                break 'outer;
            }
        }
        if *locked {
            // No retry was asked for, or the caller said NOWAIT.
            if done == 0 {
                pages_done = ret;
            }
            break 'outer;
        }
        start += (got as u64) << PAGE_SHIFT;
        must_unlock = true;

        // retry: the address whose fault dropped the lock, alone.
        loop {
            // A signal must end this, or it could go on for ever.
            if gup_signal_pending(cpu, flags) {
                if done == 0 {
                    pages_done = Err(Errno::EINTR);
                }
                break 'outer;
            }
            if let Err(ret) = mmap_read_lock_killable(cpu, mm) {
                if done == 0 {
                    pages_done = Err(ret);
                }
                break 'outer;
            }
            *locked = true;
            let one = pages.as_deref_mut().map(|p| &mut p[done..]);
            let tried = flags | Foll::TRIED;
            let ret = __get_user_pages(cpu, mm, start, 1, tried, one, locked);
            if !*locked {
                cpu.bug_on(ret != Ok(0), at, "ret != 0");
                continue;
            }
            if ret != Ok(1) {
                cpu.bug_on(ret.is_ok_and(|n| n > 1), at, "ret > 1");
                if done == 0 {
                    pages_done = ret;
                }
                break 'outer;
            }
            break;
        }
        nr_pages -= 1;
        done += 1;
        pages_done = Ok(done);
        if nr_pages == 0 {
            break 'outer;
        }
        start += PAGE_SIZE;
    }
    if must_unlock && *locked {
        // The lock was dropped meanwhile, or is the call's own.
        mmap_read_unlock(cpu, mm);
        *locked = false;
    }
    let nothing = pages_done == Ok(0) && !flags.contains(Foll::NOWAIT);
    if cpu.warn_on(nothing, at, "pages_done == 0 && !(flags & FOLL_NOWAIT)") {
        return Err(Errno::EFAULT);
    }
    pages_done
}
