// SPDX-License-Identifier: GPL-2.0-only
//! The exported slow-path calls.
//!
//! All work on the current task's mm, except the `_remote` ones. `pages`
//! receives the pages and must be at least `nr_pages` long; without it the
//! pages are only faulted in, and who asks for references or pins is refused.
//! The answer is the number of pages, which may be fewer than asked for; an
//! error only if there were none.

use super::faultin::__get_user_pages_locked;
use super::longterm::__gup_longterm_locked;
use crate::errno::Errno;
use crate::flags::Foll;
use crate::model::mm::MmId;
use crate::model::{Cpu, Page};

/// What callers may not say: the calls set it themselves.
///
/// C: INTERNAL_GUP_FLAGS, mm/internal.h, v6.12
// PORT: without FOLL_MADV_POPULATE, which no caller has.
const INTERNAL_GUP_FLAGS: Foll = Foll::TOUCH
    .union(Foll::TRIED)
    .union(Foll::REMOTE)
    .union(Foll::PIN)
    .union(Foll::FAST_ONLY)
    .union(Foll::UNLOCKABLE);

/// The flags with what the call needs, if the caller may use them so;
/// `has_pages` says whether there is an array for the pages.
///
/// C: is_valid_gup_args(), mm/gup.c, v6.12
#[doc(alias = "is_valid_gup_flags")]
pub(super) fn is_valid_gup_args(
    cpu: &Cpu,
    has_pages: bool,
    locked: Option<&bool>,
    mut gup_flags: Foll,
    to_set: Foll,
) -> Option<Foll> {
    let at = "is_valid_gup_args";
    let refuse = |cond, what| cpu.warn_on(cond, at, what);

    if refuse(gup_flags.intersects(INTERNAL_GUP_FLAGS), "gup_flags & INTERNAL_GUP_FLAGS") {
        return None;
    }
    gup_flags |= to_set;
    if let Some(locked) = locked {
        if refuse(!*locked, "*locked != 1") {
            return None;
        }
        gup_flags |= Foll::UNLOCKABLE;
    }
    let both = gup_flags.contains(Foll::PIN | Foll::GET);
    if refuse(both, "(gup_flags & (FOLL_PIN | FOLL_GET)) == (FOLL_PIN | FOLL_GET)") {
        return None;
    }
    let longterm = gup_flags.contains(Foll::LONGTERM);
    let unpinned = !gup_flags.contains(Foll::PIN) && longterm;
    if refuse(unpinned, "!(gup_flags & FOLL_PIN) && (gup_flags & FOLL_LONGTERM)") {
        return None;
    }
    let nowhere = gup_flags.intersects(Foll::GET | Foll::PIN) && !has_pages;
    if refuse(nowhere, "(gup_flags & (FOLL_GET | FOLL_PIN)) && !pages") {
        return None;
    }
    let p2pdma = longterm && gup_flags.contains(Foll::PCI_P2PDMA);
    if refuse(p2pdma, "(gup_flags & FOLL_LONGTERM) && (gup_flags & FOLL_PCI_P2PDMA)") {
        return None;
    }
    Some(gup_flags)
}

/// References on pages of any mm, whose mmap_lock is held. With `locked` it
/// may be dropped.
///
/// # Errors
/// `EINVAL` for flags that need a pin, `EFAULT` where nothing is mapped or
/// the VMA forbids it, `EEXIST` for memory without struct pages, `ENOMEM`,
/// `EINTR`.
///
/// C: get_user_pages_remote(), mm/gup.c, v6.12
pub fn get_user_pages_remote(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    let mut local_locked = true;
    let to_set = Foll::TOUCH | Foll::REMOTE;
    let given = locked.as_deref();

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), given, gup_flags, to_set) else {
        return Err(Errno::EINVAL);
    };
    let locked = locked.unwrap_or(&mut local_locked);
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, locked, gup_flags)
}

/// References on pages of the current task, whose mmap_lock is held and
/// stays so.
///
/// # Errors
/// As [`get_user_pages_remote`].
///
/// C: get_user_pages(), mm/gup.c, v6.12
pub fn get_user_pages(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
) -> Result<usize, Errno> {
    let mut locked = true;

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, Foll::TOUCH)
    else {
        return Err(Errno::EINVAL);
    };
    let mm = cpu.current_mm();
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, &mut locked, gup_flags)
}

/// [`get_user_pages`] for a caller that does not hold mmap_lock.
///
/// # Errors
/// As [`get_user_pages_remote`].
///
/// C: get_user_pages_unlocked(), mm/gup.c, v6.12
pub fn get_user_pages_unlocked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    pages: Option<&mut [Page]>,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    let mut locked = false;
    let to_set = Foll::TOUCH | Foll::UNLOCKABLE;

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, to_set) else {
        return Err(Errno::EINVAL);
    };
    let mm = cpu.current_mm();
    __get_user_pages_locked(cpu, mm, start, nr_pages, pages, &mut locked, gup_flags)
}

/// [`get_user_pages_remote`] with pins. Wrong flags are a warning and no page
/// at all.
///
/// # Errors
/// As [`get_user_pages_remote`], but for `EINVAL`.
///
/// C: pin_user_pages_remote(), mm/gup.c, v6.12
pub fn pin_user_pages_remote(
    cpu: &Cpu,
    mm: MmId,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
    locked: Option<&mut bool>,
) -> Result<usize, Errno> {
    let mut local_locked = true;
    let to_set = Foll::PIN | Foll::TOUCH | Foll::REMOTE;
    let given = locked.as_deref();

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), given, gup_flags, to_set) else {
        return Ok(0);
    };
    let pages = pages.unwrap_or_default();
    let locked = locked.unwrap_or(&mut local_locked);
    __gup_longterm_locked(cpu, mm, start, nr_pages, pages, locked, gup_flags)
}

/// [`get_user_pages`] with pins. Wrong flags are a warning and no page at
/// all.
///
/// # Errors
/// As [`pin_user_pages_remote`].
///
/// C: pin_user_pages(), mm/gup.c, v6.12
pub fn pin_user_pages(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    gup_flags: Foll,
    pages: Option<&mut [Page]>,
) -> Result<usize, Errno> {
    let mut locked = true;

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, Foll::PIN)
    else {
        return Ok(0);
    };
    let (mm, pages) = (cpu.current_mm(), pages.unwrap_or_default());
    __gup_longterm_locked(cpu, mm, start, nr_pages, pages, &mut locked, gup_flags)
}

/// [`get_user_pages_unlocked`] with pins. Wrong flags are a warning and no
/// page at all.
///
/// # Errors
/// As [`pin_user_pages_remote`].
///
/// C: pin_user_pages_unlocked(), mm/gup.c, v6.12
pub fn pin_user_pages_unlocked(
    cpu: &Cpu,
    start: u64,
    nr_pages: usize,
    pages: Option<&mut [Page]>,
    gup_flags: Foll,
) -> Result<usize, Errno> {
    let mut locked = false;
    let to_set = Foll::PIN | Foll::TOUCH | Foll::UNLOCKABLE;

    let Some(gup_flags) = is_valid_gup_args(cpu, pages.is_some(), None, gup_flags, to_set) else {
        return Ok(0);
    };
    let (mm, pages) = (cpu.current_mm(), pages.unwrap_or_default());
    __gup_longterm_locked(cpu, mm, start, nr_pages, pages, &mut locked, gup_flags)
}
