// SPDX-License-Identifier: GPL-2.0-only
//! The exported slow-path calls.
//!
//! All work on the current task's mm, except the `_remote` ones. `pages`
//! receives the pages and must be at least `nr_pages` long; without it the
//! pages are only faulted in. The answer is the number of pages, which may
//! be fewer than asked for; an error only if there were none.

use super::faultin::__get_user_pages_locked;
use super::longterm::__gup_longterm_locked;
use crate::errno::Errno;
use crate::flags::Foll;
use crate::model::Cpu;
use crate::model::mm::{MmId, Vma, mmap_read_lock, mmap_read_unlock};
use crate::model::page::Page;

/// Whether a caller of the get_user_pages family may use these flags: pins
/// and what needs them come in through the pin_user_pages family only.
///
/// C: is_valid_gup_flags(), mm/gup.c, v5.15
pub(crate) fn is_valid_gup_flags(cpu: &Cpu, gup_flags: Foll) -> bool {
    let at = "is_valid_gup_flags";
    if cpu.warn_on(gup_flags.contains(Foll::PIN), at, "FOLL_PIN") {
        return false;
    }
    if cpu.warn_on(gup_flags.contains(Foll::LONGTERM), at, "FOLL_LONGTERM") {
        return false;
    }
    true
}

/// C: __get_user_pages_remote(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
fn __get_user_pages_remote(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    vmas: Option<&mut [Vma]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    let flags = gup_flags | Foll::TOUCH | Foll::REMOTE;
    // A longterm pin cannot drop the lock: the check of the VMAs would not
    // hold any more.
    if gup_flags.contains(Foll::LONGTERM) {
        if cpu.warn_on(locked.is_some(), "__get_user_pages_remote", "locked") {
            return Err(Errno::EINVAL);
        }
        return __gup_longterm_locked(cpu, mm, start, nr_pages, pages, vmas, flags);
    }
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, vmas, locked, flags)
}

/// References on pages of any mm, whose mmap_lock is held. With `locked` it
/// may be dropped.
///
/// # Errors
/// `EINVAL` for flags that need a pin, `EFAULT` where nothing is mapped or
/// the VMA forbids it, `ENOMEM`, `EINTR`.
///
/// C: get_user_pages_remote(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
pub fn get_user_pages_remote(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    vmas: Option<&mut [Vma]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    if !is_valid_gup_flags(cpu, gup_flags) {
        return Err(Errno::EINVAL);
    }
    __get_user_pages_remote(cpu, mm, start, nr_pages, gup_flags, pages, vmas, locked)
}

/// References on pages of the current task, whose mmap_lock is held and
/// stays so.
///
/// # Errors
/// As [`get_user_pages_remote`].
///
/// C: get_user_pages(), mm/gup.c, v5.15
pub fn get_user_pages(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    vmas: Option<&mut [Vma]>,
) -> Result<usize, Errno> {
    if !is_valid_gup_flags(cpu, gup_flags) {
        return Err(Errno::EINVAL);
    }
    let flags = gup_flags | Foll::TOUCH;
    __gup_longterm_locked(cpu, cpu.current_mm(), start, nr_pages, pages, vmas, flags)
}

/// [`get_user_pages`] that may drop mmap_lock: `locked` starts as true and
/// tells afterwards whether it is still held.
///
/// # Errors
/// As [`get_user_pages_remote`].
///
/// C: get_user_pages_locked(), mm/gup.c, v5.15
pub fn get_user_pages_locked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    let at = "get_user_pages_locked";
    if cpu.warn_on(gup_flags.contains(Foll::LONGTERM), at, "FOLL_LONGTERM") {
        return Err(Errno::EINVAL);
    }
    if cpu.warn_on(gup_flags.contains(Foll::PIN), at, "FOLL_PIN") {
        return Err(Errno::EINVAL);
    }
    let (mm, flags) = (cpu.current_mm(), gup_flags | Foll::TOUCH);
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, None, locked, flags)
}

/// [`get_user_pages`] that takes and releases mmap_lock itself.
///
/// # Errors
/// As [`get_user_pages_remote`].
///
/// C: get_user_pages_unlocked(), mm/gup.c, v5.15
pub fn get_user_pages_unlocked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    pages: Option<&mut [Page]>,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    let mm = cpu.current_mm();
    let mut locked = true;

    let at = "get_user_pages_unlocked";
    if cpu.warn_on(gup_flags.contains(Foll::LONGTERM), at, "FOLL_LONGTERM") {
        return Err(Errno::EINVAL);
    }
    mmap_read_lock(cpu, mm);
    let flags = gup_flags | Foll::TOUCH;
    let held = Some(&mut locked);
    let ret = __get_user_pages_locked(cpu, mm, start, nr_pages, pages, None, held, flags);
    if locked {
        mmap_read_unlock(cpu, mm);
    }
    ret
}

/// [`get_user_pages_remote`] with pins.
///
/// # Errors
/// As there; `EINVAL` for FOLL_GET.
///
/// C: pin_user_pages_remote(), mm/gup.c, v5.15
#[allow(clippy::too_many_arguments)]
pub fn pin_user_pages_remote(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    vmas: Option<&mut [Vma]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    if cpu.warn_on(gup_flags.contains(Foll::GET), "pin_user_pages_remote", "FOLL_GET") {
        return Err(Errno::EINVAL);
    }
    let flags = gup_flags | Foll::PIN;
    __get_user_pages_remote(cpu, mm, start, nr_pages, flags, pages, vmas, locked)
}

/// [`get_user_pages`] with pins; does not mark the pages accessed.
///
/// # Errors
/// As there; `EINVAL` for FOLL_GET. With FOLL_LONGTERM also `ENOMEM` if a
/// page that must stay movable could not be moved away.
///
/// C: pin_user_pages(), mm/gup.c, v5.15
pub fn pin_user_pages(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    vmas: Option<&mut [Vma]>,
) -> Result<usize, Errno> {
    if cpu.warn_on(gup_flags.contains(Foll::GET), "pin_user_pages", "FOLL_GET") {
        return Err(Errno::EINVAL);
    }
    let flags = gup_flags | Foll::PIN;
    __gup_longterm_locked(cpu, cpu.current_mm(), start, nr_pages, pages, vmas, flags)
}

/// [`get_user_pages_unlocked`] with pins.
///
/// # Errors
/// As there; `EINVAL` for FOLL_GET.
///
/// C: pin_user_pages_unlocked(), mm/gup.c, v5.15
pub fn pin_user_pages_unlocked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    pages: Option<&mut [Page]>,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    if cpu.warn_on(gup_flags.contains(Foll::GET), "pin_user_pages_unlocked", "FOLL_GET") {
        return Err(Errno::EINVAL);
    }
    get_user_pages_unlocked(cpu, start, nr_pages, pages, gup_flags | Foll::PIN)
}

/// [`get_user_pages_locked`] with pins.
///
/// # Errors
/// As there; `EINVAL` for FOLL_GET.
///
/// C: pin_user_pages_locked(), mm/gup.c, v5.15
pub fn pin_user_pages_locked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    let at = "pin_user_pages_locked";
    if cpu.warn_on(gup_flags.contains(Foll::LONGTERM), at, "FOLL_LONGTERM") {
        return Err(Errno::EINVAL);
    }
    if cpu.warn_on(gup_flags.contains(Foll::GET), at, "FOLL_GET") {
        return Err(Errno::EINVAL);
    }
    let (mm, flags) = (cpu.current_mm(), gup_flags | Foll::PIN | Foll::TOUCH);
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, None, locked, flags)
}
