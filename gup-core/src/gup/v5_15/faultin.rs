// SPDX-License-Identifier: GPL-2.0-only
//! The slow path: look up, fault in, look up again, and what happens to
//! mmap_lock meanwhile.

use super::follow::{FollowPageContext, follow_page_mask};
use crate::errno::Errno;
use crate::flags::{FaultFlag, Foll, VmFault, VmFlags};
use crate::model::Cpu;
use crate::model::limits::{PAGE_SHIFT, PAGE_SIZE};
use crate::model::memory::handle_mm_fault;
use crate::model::mm::{
    MmId, Vma, find_extend_vma, mm_has_pinned, mmap_read_lock_killable, mmap_read_unlock,
    set_mm_has_pinned,
};
use crate::model::page::Page;

/// Remembers for good that a page of this mm was pinned; written only once,
/// as many CPUs may pin at the same time.
///
/// C: mm_set_has_pinned_flag(), mm/gup.c, v5.15
pub(crate) fn mm_set_has_pinned_flag(cpu: &Cpu, mm: MmId) {
    if !mm_has_pinned(cpu, mm) {
        set_mm_has_pinned(cpu, mm);
    }
}

/// C: vm_fault_to_errno(), linux/mm.h
fn vm_fault_to_errno(ret: VmFault, flags: Foll) -> Option<Errno> {
    if ret.contains(VmFault::OOM) {
        Some(Errno::ENOMEM)
    } else if ret.contains(VmFault::HWPOISON) {
        Some(if flags.contains(Foll::HWPOISON) { Errno::EHWPOISON } else { Errno::EFAULT })
    } else if ret.intersects(VmFault::SIGBUS | VmFault::SIGSEGV) {
        Some(Errno::EFAULT)
    } else {
        None
    }
}

/// Faults one page in. mmap_lock is held; it may be dropped if `locked` is
/// there and the flags do not say NOWAIT: then `*locked` becomes false and
/// the answer is EBUSY. May add FOLL_COW to the flags.
///
/// C: faultin_page(), mm/gup.c, v5.15
fn faultin_page(
    cpu: &Cpu,
    vma: &Vma,
    address: u64,
    flags: &mut Foll,
    locked: Option<&mut bool>,
) -> Result<(), Errno> {
    let mut fault_flags = FaultFlag::empty();

    if *flags & (Foll::POPULATE | Foll::MLOCK) == Foll::MLOCK {
        return Err(Errno::ENOENT);
    }
    if flags.contains(Foll::WRITE) {
        fault_flags |= FaultFlag::WRITE;
    }
    if flags.contains(Foll::REMOTE) {
        fault_flags |= FaultFlag::REMOTE;
    }
    if locked.is_some() {
        fault_flags |= FaultFlag::ALLOW_RETRY | FaultFlag::KILLABLE;
    }
    if flags.contains(Foll::NOWAIT) {
        fault_flags |= FaultFlag::ALLOW_RETRY | FaultFlag::RETRY_NOWAIT;
    }
    if flags.contains(Foll::TRIED) {
        fault_flags |= FaultFlag::TRIED;
    }

    let ret = handle_mm_fault(cpu, vma, address, fault_flags);
    if ret.intersects(VmFault::ERROR) {
        if let Some(err) = vm_fault_to_errno(ret, *flags) {
            return Err(err);
        }
        cpu.bug_on(true, "faultin_page", "unknown fault error");
        // PORT: after BUG() the C does not go on.
        return Err(Errno::EFAULT);
    }
    if ret.contains(VmFault::RETRY) {
        if let Some(locked) = locked
            && !fault_flags.contains(FaultFlag::RETRY_NOWAIT)
        {
            *locked = false;
        }
        return Err(Errno::EBUSY);
    }
    // COW was broken, yet the entry may have stayed read-only for want of
    // VM_WRITE: from here on the page may be looked up as for a read.
    if ret.contains(VmFault::WRITE) && !vma.flags.contains(VmFlags::WRITE) {
        *flags |= Foll::COW;
    }
    Ok(())
}

/// Whether the VMA permits what the flags ask for.
///
/// C: check_vma_flags(), mm/gup.c, v5.15
fn check_vma_flags(vma: &Vma, gup_flags: Foll) -> Result<(), Errno> {
    let vm_flags = vma.flags;

    if vm_flags.intersects(VmFlags::IO | VmFlags::PFNMAP) {
        return Err(Errno::EFAULT);
    }
    if gup_flags.contains(Foll::ANON) && !vma.is_anonymous() {
        return Err(Errno::EFAULT);
    }
    // PORT: no DAX file for FOLL_LONGTERM to refuse.
    if vma.is_secretmem() {
        return Err(Errno::EFAULT);
    }
    if gup_flags.contains(Foll::WRITE) {
        if !vm_flags.contains(VmFlags::WRITE) {
            if !gup_flags.contains(Foll::FORCE) {
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

/// Grabs up to `nr_pages` pages from `start` on, faulting them in as needed.
/// mmap_lock is held; see [`faultin_page`] for when it is dropped.
///
/// Returns how many pages were handled, which may be fewer than asked for,
/// and 0 if a fault asked for a retry; an error only if none was.
///
/// C: __get_user_pages(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
fn __get_user_pages(
    cpu: &Cpu,
    mm: MmId,
    mut start: u64,
    mut nr_pages: usize,
    mut gup_flags: Foll,
    mut pages: Option<&mut [Page]>,
    mut vmas: Option<&mut [Vma]>,
    mut locked: Option<&mut bool>,
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

    // A forced access is none that NUMA balancing should learn from.
    if !gup_flags.contains(Foll::FORCE) {
        gup_flags |= Foll::NUMA;
    }

    'out: loop {
        let mut foll_flags = gup_flags;

        // the first page, or one beyond the VMA
        let v = match vma {
            Some(v) if start < v.end => v,
            _ => {
                // PORT: no gate area, no hugetlbfs VMA.
                let Some(v) = find_extend_vma(cpu, mm, start) else {
                    ret = Err(Errno::EFAULT);
                    break 'out;
                };
                vma = Some(v);
                ret = check_vma_flags(&v, gup_flags);
                if ret.is_err() {
                    break 'out;
                }
                v
            }
        };
        'next_page: {
            let page = 'retry: loop {
                // No further pages for a task that is about to die.
                if cpu.fatal_signal_pending() {
                    ret = Err(Errno::EINTR);
                    break 'out;
                }
                match follow_page_mask(cpu, &v, start, foll_flags, &mut ctx) {
                    Ok(None) => {
                        let lock = locked.as_deref_mut();
                        match faultin_page(cpu, &v, start, &mut foll_flags, lock) {
                            Ok(()) => continue 'retry,
                            Err(Errno::EBUSY) => {
                                ret = Ok(());
                                break 'out;
                            }
                            Err(e @ (Errno::EFAULT | Errno::ENOMEM | Errno::EHWPOISON)) => {
                                ret = Err(e);
                                break 'out;
                            }
                            Err(Errno::ENOENT) => break 'next_page,
                            Err(e) => {
                                cpu.bug_on(true, at, "unknown error of faultin_page()");
                                // PORT: after BUG() the C does not go on.
                                ret = Err(e);
                                break 'out;
                            }
                        }
                    }
                    // An entry without a struct page: nothing to store.
                    Err(Errno::EEXIST) => break 'next_page,
                    Err(e) => {
                        ret = Err(e);
                        break 'out;
                    }
                    Ok(Some(page)) => break 'retry page,
                }
            };
            if let Some(pages) = pages.as_deref_mut() {
                pages[i] = page;
                // PORT: no caches to flush.
                ctx.page_mask = 0;
            }
        }
        // next_page:
        if let Some(vmas) = vmas.as_deref_mut() {
            vmas[i] = v;
            ctx.page_mask = 0;
        }
        let page_increm = 1 + (!(start >> PAGE_SHIFT) & ctx.page_mask) as usize;
        let page_increm = page_increm.min(nr_pages);
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

/// [`__get_user_pages`] again and again where faults ask for it and `locked`
/// allows it. With `locked`, it starts as true and tells afterwards whether
/// mmap_lock is still held; it is never 0 pages without an error unless the
/// caller said NOWAIT.
///
/// C: __get_user_pages_locked(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
pub(crate) fn __get_user_pages_locked(
    cpu: &Cpu,
    mm: MmId,
    mut start: u64,
    mut nr_pages: usize,
    mut pages: Option<&mut [Page]>,
    mut vmas: Option<&mut [Vma]>,
    mut locked: Option<&mut bool>,
    mut flags: Foll,
) -> Result<usize, Errno> {
    let at = "__get_user_pages_locked";
    if let Some(locked) = &locked {
        cpu.bug_on(vmas.is_some(), at, "vmas");
        cpu.bug_on(!**locked, at, "*locked != 1");
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
    let mut lock_dropped = false;
    'outer: loop {
        let rest = pages.as_deref_mut().map(|p| &mut p[done..]);
        let ret = __get_user_pages(
            cpu,
            mm,
            start,
            nr_pages,
            flags,
            rest,
            vmas.as_deref_mut(),
            locked.as_deref_mut(),
        );
        // Without `locked` no retry could be asked for.
        let Some(locked) = locked.as_deref_mut() else { return ret };

        if !*locked {
            cpu.bug_on(ret.is_err(), at, "ret < 0");
            cpu.bug_on(ret.is_ok_and(|n| n >= nr_pages), at, "ret >= nr_pages");
        }
        let got = ret.unwrap_or(0);
        if got > 0 {
            nr_pages -= got;
            done += got;
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
        lock_dropped = true;

        // retry: the address whose fault dropped the lock, alone.
        loop {
            // A fatal signal must end this, or it could go on for ever.
            if cpu.fatal_signal_pending() {
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
            let ret = __get_user_pages(cpu, mm, start, 1, tried, one, None, Some(&mut *locked));
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
        if nr_pages == 0 {
            break 'outer;
        }
        start += PAGE_SIZE;
    }
    if let Some(locked) = locked
        && lock_dropped
        && *locked
    {
        // The caller must know that the lock was not held throughout.
        mmap_read_unlock(cpu, mm);
        *locked = false;
    }
    if done > 0 { Ok(done) } else { pages_done }
}
