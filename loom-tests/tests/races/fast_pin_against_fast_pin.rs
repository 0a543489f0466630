// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against itself, unpin and put, on one page and on tails of one
//! compound page.
//!
//!   CPU 0  pin_user_pages_fast_only()   CPU 1  the same, or    CPU 2
//!   (A1) refcount of head + 1           (B1) as (A1)           (C1) pins of head − 1,
//!   (A2) pins of head + 1,              (B2) as (A2)                or refcount − 1023
//!        or refcount + 1023                                    (C2) refcount − 1
//!   (A3) entry still the same?          (B3) as (A3)
//!
//! Nobody unmaps anything, so all that can go wrong is the counting. A small
//! page carries its pins in the reference count; v6.12 counts those of every
//! compound page apart, v5.15 from order 2 on. But once CPU 1 unmaps what CPU 0
//! pins, before it unpins it: then (A3) undoes (A1) and (A2) beside (C1).
//!
//! Never: a page carries more or less than its mapping and the pins; it looks
//! as if it was not pinned, while somebody has a pin on it.

use std::sync::{Arc, OnceLock};

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::{Broken, mapcounts_match_tables};
use gup_core::model::limits::{HPAGE_PMD_NR, PAGE_SIZE};
use gup_core::model::mmap::madvise_dontneed;
use gup_core::model::page::{get_page, page_maybe_dma_pinned, put_page};
use gup_core::model::{Cpu, Limits, Page};
use loom_tests::calls::{
    FOUR, MM, TWO_THPS, grab_fast, mapped, pin_user_pages, pin_user_pages_fast_only, scene, thp,
    unpin_user_page,
};
use loom_tests::{Body, Bound, Held, Kernel, Verdict, at_once, body, holds};

/// What is pinned: the small page at 0, or tails of the THP there.
#[derive(Clone, Copy)]
enum What {
    Small,
    Thp,
}

impl What {
    /// The page, with a pin and a reference.
    fn pinned(self, cpu: &Cpu) -> Result<Page, Errno> {
        match self {
            What::Small => mapped(cpu, 1)?,
            What::Thp => thp(cpu, 0)?,
        };
        let page = pin_user_pages(cpu, self.addr(0), Foll::WRITE).pins.pop();
        let page = page.ok_or(Errno::EFAULT)?;
        get_page(cpu, page);
        Ok(page)
    }
    /// Where to pin: of a THP, tails.
    fn addr(self, n: u64) -> u64 {
        match self {
            What::Small => 0,
            What::Thp => (n + 1) * PAGE_SIZE,
        }
    }
    /// How much is mapped.
    fn pages(self) -> u64 {
        match self {
            What::Small => 1,
            What::Thp => HPAGE_PMD_NR,
        }
    }
    fn pin(self, n: u64) -> Body {
        body(move |cpu| pin_user_pages_fast_only(cpu, self.addr(n), Foll::WRITE))
    }
    /// Runs `bodies`; `rest` is what is held then of the pin and the reference
    /// that were there before.
    fn race<const N: usize>(
        self,
        kernel: Kernel,
        bodies: impl FnOnce(Page) -> [Body; N],
        rest: fn(Page) -> Held,
    ) -> Verdict {
        let limits = match self {
            What::Small => FOUR,
            What::Thp => TWO_THPS,
        };
        let limits = Limits { cpus: N as u8, ..limits };
        let (world, page) = scene(limits, kernel, |cpu| self.pinned(cpu));
        let held = at_once(&world, kernel, bodies(page))?;
        held.and(rest(page)).adds_up(&world)?;
        mapcounts_match_tables(&Cpu::new(&world, kernel, 0))
    }
}

/// Does something for which nothing is held afterwards.
fn undo(page: Page, how: fn(&Cpu, Page)) -> Body {
    body(move |cpu| {
        how(cpu, page);
        Held::nothing()
    })
}

fn pin_against_pin(kernel: Kernel, what: What) -> Verdict {
    let both = |page| Held::pins([page]).and(Held::gets([page]));
    what.race(kernel, |_| [what.pin(0), what.pin(1)], both)
}

fn pin_against_unpin(kernel: Kernel, what: What) -> Verdict {
    let bodies = |page| [what.pin(1), undo(page, unpin_user_page)];
    what.race(kernel, bodies, |page| Held::gets([page]))
}

fn pin_against_put(kernel: Kernel, what: What) -> Verdict {
    what.race(kernel, |page| [what.pin(1), undo(page, put_page)], |page| Held::pins([page]))
}

/// The page is unmapped first; another reference keeps it.
fn pin_against_zap_and_unpin(kernel: Kernel, what: What) -> Verdict {
    let bodies = |page| {
        let zap_and_unpin = body(move |cpu| {
            madvise_dontneed(cpu, MM, 0, what.pages()).expect("the VMA is there");
            unpin_user_page(cpu, page);
            Held::nothing()
        });
        [zap_and_unpin, what.pin(1)]
    };
    what.race(kernel, bodies, |page| Held::gets([page]))
}

/// Two grabs, without the walks around them, and an unpin.
fn all_three(kernel: Kernel, what: What) -> Verdict {
    let grab = |page: Page| body(move |cpu| grab_fast(cpu, page, Foll::PIN));
    let bodies = |page| [grab(page), grab(page), undo(page, unpin_user_page)];
    what.race(kernel, bodies, |page| Held::gets([page]))
}

/// One pin is taken and another given back, while CPU 1 looks.
fn always_pinned(kernel: Kernel, what: What) -> Verdict {
    let looked = Arc::new(OnceLock::new());
    let found = Arc::clone(&looked);
    let bodies = |page| {
        let change = body(move |cpu| {
            let held = pin_user_pages_fast_only(cpu, what.addr(1), Foll::WRITE);
            assert_eq!(held.pins.len(), 1, "it is mapped, and stays so");
            unpin_user_page(cpu, page);
            held
        });
        let look = body(move |cpu| {
            found.set(page_maybe_dma_pinned(cpu, page)).expect("it looks once");
            Held::nothing()
        });
        [change, look]
    };
    what.race(kernel, bodies, |page| Held::gets([page]))?;
    if looked.get() == Some(&true) {
        return Ok(());
    }
    let rule = "a page that is pinned looks pinned";
    let what = "somebody has a pin all the time, and none was seen".into();
    Err(Broken { oracle: "accounting", page: None, rule, what })
}

#[test]
fn counts_add_up() {
    let races = [pin_against_pin, pin_against_unpin, pin_against_put, pin_against_zap_and_unpin];
    for race in races {
        for what in [What::Small, What::Thp] {
            holds!(Bound::All, [V5_15, V6_12], move |kernel| race(kernel, what));
        }
    }
}

#[test]
fn counts_of_three_cpus_add_up() {
    holds!(Bound::All, [V5_15, V6_12], |kernel| all_three(kernel, What::Small));
    holds!(Bound::All, [V5_15, V6_12], |kernel| all_three(kernel, What::Thp));
}

#[test]
fn what_is_pinned_looks_pinned() {
    holds!(Bound::All, [V5_15, V6_12], |kernel| always_pinned(kernel, What::Small));
    holds!(Bound::All, [V5_15, V6_12], |kernel| always_pinned(kernel, What::Thp));
}
