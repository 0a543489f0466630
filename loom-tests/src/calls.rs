// SPDX-License-Identifier: GPL-2.0-only
//! The calls of mm/gup.c that races make, on whichever base the CPU runs, and
//! the start of a race.

use std::sync::Arc;

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::gup::{v5_15, v6_12};
use gup_core::history::Base;
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::huge_memory::split_huge_page_of;
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::migrate::{PageList, isolate_page, move_isolated, move_page};
use gup_core::model::mm::{MmId, Vma, mmap_read_lock, mmap_read_unlock, vma_lookup};
use gup_core::model::mmap::{Kind, Prot, madvise_dontneed, mm_alloc, mmap};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Limits, Page, World};

use crate::{Body, Held, Kernel, body};

/// The process that most races are about.
pub const MM: MmId = MmId(0);
/// Another, such as its child.
pub const CHILD: MmId = MmId(1);

/// A world of four pages for two CPUs.
pub const FOUR: Limits =
    Limits { frames: 4, movable_start: 2, device_start: 4, cpus: 2, ..Limits::LOOM };
/// A world of two processes, of which one forks the other, and six pages.
pub const FORK: Limits = Limits { frames: 6, device_start: 6, tables: 8, mms: 2, ..FOUR };
/// A world of a THP and as much again for two CPUs.
pub const TWO_THPS: Limits =
    Limits { frames: 16, movable_start: 8, device_start: 16, cpus: 2, ..Limits::LOOM };
/// The same with room for another, as one is moved.
pub const THREE_THPS: Limits = Limits { frames: 24, device_start: 24, ..TWO_THPS };

/// The process has anonymous memory of `pages` pages at 0. The first is there,
/// writable, dirty and on the LRU: the page.
///
/// # Errors
/// `ENOMEM`
pub fn mapped(cpu: &Cpu, pages: u64) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, pages, Prot::ReadWrite, Kind::Anon)?;
    let page = user_store(cpu, MM, 0, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

/// The process has a THP at 0, which a PMD maps: its page at `addr`.
///
/// # Errors
/// `ENOMEM`
pub fn thp(cpu: &Cpu, addr: u64) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, HPAGE_PMD_NR, Prot::ReadWrite, Kind::AnonThp)?;
    let page = user_store(cpu, MM, addr, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

/// The process has the first two pages of a THP at 0, which PTEs map. They are
/// old and clean, as migration leaves them: the second page.
///
/// # Errors
/// `ENOMEM`
pub fn two_of_a_thp(cpu: &Cpu) -> Result<Page, Errno> {
    let page = thp(cpu, PAGE_SIZE)?;
    move_page(cpu, page)?;
    madvise_dontneed(cpu, MM, 2 * PAGE_SIZE, HPAGE_PMD_NR - 2)?;
    mapped_page(cpu, MM, PAGE_SIZE).ok_or(Errno::EFAULT)
}

/// [`mapped`], a page; the child has a mapping for its copy, still empty. The
/// two VMAs.
///
/// # Errors
/// `ENOMEM`
pub fn mapped_before_fork(cpu: &Cpu) -> Result<[Vma; 2], Errno> {
    mapped(cpu, 1)?;
    mm_alloc(cpu, CHILD)?;
    mmap(cpu, CHILD, 0, 1, Prot::ReadWrite, Kind::Anon)?;
    let vma = |mm| vma_lookup(cpu, mm, 0).ok_or(Errno::EFAULT);
    Ok([vma(MM)?, vma(CHILD)?])
}

/// split_huge_page() of the THP of `page`, if nobody holds it: else EBUSY.
pub fn split(page: Page) -> Body {
    body(move |cpu| {
        let _ = split_huge_page_of(cpu, page);
        Held::nothing()
    })
}

/// [`mapped`], and the page is isolated for migration.
///
/// # Errors
/// `ENOMEM`
pub fn mapped_and_isolated(cpu: &Cpu) -> Result<PageList, Errno> {
    let page = mapped(cpu, 1)?;
    isolate_page(cpu, page)
}

/// migrate_pages() of isolated pages, if nobody else holds them: else EBUSY.
pub fn migrate(list: PageList) -> Body {
    body(move |cpu| {
        let _ = move_isolated(cpu, list);
        Held::nothing()
    })
}

/// A world, and what `ready` put into it on CPU 0 before the race.
///
/// # Panics
/// If `ready` fails: the world is too small for it.
pub fn scene<T>(
    limits: Limits,
    kernel: Kernel,
    ready: impl FnOnce(&Cpu) -> Result<T, Errno>,
) -> (Arc<World>, T) {
    let world = Arc::new(World::new(limits));
    let found = ready(&Cpu::new(&world, kernel, 0)).expect("the world is empty");
    (world, found)
}

/// One page of the process: pin_user_pages_fast().
pub fn pin_user_pages_fast(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    let mut pages = [Page::UNSET];
    let n = match cpu.kernel.base() {
        Base::V5_15 => v5_15::pin_user_pages_fast(cpu, addr, 1, flags, &mut pages),
        Base::V6_12 => v6_12::pin_user_pages_fast(cpu, addr, 1, flags, Some(&mut pages)),
    };
    Held::pins(pages.into_iter().take(n.unwrap_or(0)))
}

/// One page of the process by the fast path alone: pin_user_pages_fast_only(),
/// and where the base has none, pin_user_pages_fast() of a task that is being
/// killed, for which the slow path gives up at once.
pub fn pin_user_pages_fast_only(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    if cpu.kernel.base() == Base::V5_15 {
        let mut pages = [Page::UNSET];
        let n = v5_15::pin_user_pages_fast_only(cpu, addr, 1, flags, &mut pages);
        return Held::pins(pages.into_iter().take(n));
    }
    cpu.begin_op(MM, Some(Fail { site: FailSite::Signal, nth: 1 }));
    pin_user_pages_fast(cpu, addr, flags)
}

/// One page of the process: get_user_pages_fast_only(), which needs no lock
/// and gives up where another call would fault.
pub fn get_user_pages_fast_only(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    let mut pages = [Page::UNSET];
    let n = match cpu.kernel.base() {
        Base::V5_15 => v5_15::get_user_pages_fast_only(cpu, addr, 1, flags, &mut pages),
        Base::V6_12 => {
            v6_12::get_user_pages_fast_only(cpu, addr, 1, flags, Some(&mut pages)).unwrap_or(0)
        }
    };
    Held::gets(pages.into_iter().take(n))
}

/// One page of the process: pin_user_pages() under mmap_lock.
pub fn pin_user_pages(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    let mut pages = [Page::UNSET];
    mmap_read_lock(cpu, MM);
    let n = match cpu.kernel.base() {
        Base::V5_15 => v5_15::pin_user_pages(cpu, addr, 1, flags, Some(&mut pages), None),
        Base::V6_12 => v6_12::pin_user_pages(cpu, addr, 1, flags, Some(&mut pages)),
    };
    mmap_read_unlock(cpu, MM);
    Held::pins(pages.into_iter().take(n.unwrap_or(0)))
}

/// [`pin_user_pages`] of a task that is killed once it had to fault, so that it
/// does not wait again and again for who unmaps the page for a while.
pub fn pin_user_pages_once(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    cpu.begin_op(MM, Some(Fail { site: FailSite::Signal, nth: 2 }));
    pin_user_pages(cpu, addr, flags)
}

/// One page of the process: pin_user_pages_unlocked(), whose first fault asks
/// for a retry, and drops mmap_lock meanwhile.
pub fn pin_user_pages_with_retry(cpu: &Cpu, addr: u64, flags: Foll) -> Held {
    let mut pages = [Page::UNSET];
    cpu.begin_op(MM, Some(Fail { site: FailSite::Retry, nth: 1 }));
    let n = match cpu.kernel.base() {
        Base::V5_15 => v5_15::pin_user_pages_unlocked(cpu, addr, 1, Some(&mut pages), flags),
        Base::V6_12 => v6_12::pin_user_pages_unlocked(cpu, addr, 1, Some(&mut pages), flags),
    };
    Held::pins(pages.into_iter().take(n.unwrap_or(0)))
}

/// GUP-fast's grab of a page that was looked up before, with interrupts off:
/// try_grab_compound_head(), try_grab_folio_fast().
pub fn grab_fast(cpu: &Cpu, page: Page, flags: Foll) -> Held {
    let irqs = cpu.local_irq_save();
    let grabbed = match cpu.kernel.base() {
        Base::V5_15 => v5_15::grab::try_grab_compound_head(cpu, page, 1, flags).is_some(),
        Base::V6_12 => v6_12::grab::try_grab_folio_fast(cpu, page, 1, flags).is_some(),
    };
    cpu.local_irq_restore(irqs);
    let pages = grabbed.then_some(page);
    if flags.contains(Foll::PIN) { Held::pins(pages) } else { Held::gets(pages) }
}

/// unpin_user_page()
pub fn unpin_user_page(cpu: &Cpu, page: Page) {
    match cpu.kernel.base() {
        Base::V5_15 => v5_15::unpin_user_page(cpu, page),
        Base::V6_12 => v6_12::unpin_user_page(cpu, page),
    }
}
