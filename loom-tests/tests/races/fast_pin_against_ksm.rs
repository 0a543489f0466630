// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast, reading, against KSM, which takes an exclusive page for shared and
//! maps it again as it was.
//!
//!   CPU 0  pin_user_pages_fast()             CPU 1  write_protect_page()
//!   (A1) read the PTE: page                  (B1) clear the PTE
//!   (A2) pin the page                        (B2) pinned? then put it back
//!   (A3) PTE still the same?                 (B3) clear PageAnonExclusive
//!   (A4) PageAnonExclusive still set?        (B4) set the PTE, read-only and clean
//!
//! It was read-only and clean before, so with (A1) before (B1), (A2) behind
//! (B2) and (A3) behind (B4), (A3) sees nothing. (A4) does: the barrier between
//! (A3) and (A4) pairs with one between (B3) and (B4). Both are of 088b8aa537c2.
//!
//! Never: CPU 0 has pinned a page that CPU 1 takes for shared.

use gup_core::Errno;
use gup_core::flags::{Foll, Pg};
use gup_core::invariants::Broken;
use gup_core::model::ksm::write_protect_page;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_load;
use gup_core::model::mm::{Vma, vma_lookup};
use gup_core::model::mmap::{Kind, Prot, mm_alloc, mmap};
use gup_core::model::page::get_page;
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{MM, pin_user_pages, pin_user_pages_fast_only, scene, unpin_user_page};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

const LIMITS: Limits =
    Limits { frames: 4, movable_start: 4, device_start: 4, cpus: 2, ..Limits::LOOM };

/// A page that was unshared for a pin: read-only, clean and exclusive. KSM has
/// a reference on it.
fn unshared(cpu: &Cpu) -> Result<(Page, Vma), Errno> {
    mm_alloc(cpu, MM)?;
    mmap(cpu, MM, 0, 1, Prot::ReadWrite, Kind::Anon)?;
    user_load(cpu, MM, 0)?;
    let page = pin_user_pages(cpu, 0, Foll::LONGTERM).pins.pop().ok_or(Errno::EFAULT)?;
    unpin_user_page(cpu, page);
    lru_add_drain_all(cpu);
    get_page(cpu, page);
    Ok((page, vma_lookup(cpu, MM, 0).ok_or(Errno::EFAULT)?))
}

fn race(kernel: Kernel) -> Verdict {
    let (world, (page, vma)) = scene(LIMITS, kernel, unshared);
    let ksm = body(move |cpu| {
        // EFAULT if the pin came first.
        let _ = write_protect_page(cpu, &vma, 0, page);
        Held::gets([page])
    });
    let fast = body(|cpu| pin_user_pages_fast_only(cpu, 0, Foll::empty()));
    let held = at_once(&world, kernel, [ksm, fast])?;
    let exclusive = world.look(page).flags.contains(Pg::ANON_EXCLUSIVE);
    if !held.pins.is_empty() && !exclusive {
        let rule = "a pinned page of anonymous memory is exclusive";
        let what = format!("page {} is pinned and taken for shared", page.0);
        return Err(Broken { oracle: "reliability", page: Some(page), rule, what });
    }
    held.adds_up(&world)
}

#[test]
fn a_pinned_page_is_not_shared() {
    holds!(Bound::All, [V6_12], race);
}

#[test]
fn found_without_the_barrier_before_the_look_at_exclusive() {
    let change = "without safeguard:barrier-before-exclusive";
    fails!("reliability", Bound::Preemptions(3), [V6_12], change, race);
}

#[test]
fn found_without_the_barrier_after_exclusive() {
    fails!(
        "reliability",
        Bound::Preemptions(3),
        [V6_12],
        "without safeguard:barrier-after-share",
        race
    );
}
