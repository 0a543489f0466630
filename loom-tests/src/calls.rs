// SPDX-License-Identifier: GPL-2.0-only
//! The calls of mm/gup.c that races make, on whichever base the CPU runs, and
//! the start of a race.

use std::sync::Arc;

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::gup::{v5_15, v6_12};
use gup_core::history::Base;
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock};
use gup_core::model::{Cpu, Limits, Page, World};

use crate::{Held, Kernel};

/// The process that most races are about.
pub const MM: MmId = MmId(0);
/// Another, such as its child.
pub const CHILD: MmId = MmId(1);

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
