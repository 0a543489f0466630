// SPDX-License-Identifier: GPL-2.0-only
//! Oracles: rules that must hold whatever the scenario.
//!
//! An oracle looks at an op that has just run, at the world after it and at
//! the [`Ledger`](crate::exec::Ledger) of what the harness itself holds, and answers with a
//! violation or nothing. Rules that need only the world are in
//! [`gup_core::invariants`]; the ones here need history.
//!
//! | slug | where |
//! |---|---|
//! | accounting, lifetime, locking, splat, progress | [`bookkeeping`] |
//! | errno | [`errno`], a naive specification of every call |
//! | result-array, placement, permission | [`results`] |
//! | reliability, isolation | [`contents`] |
//! | agreement | [`agreement`] |
//!
//! What a base is known not to promise is a [`Waiver`], never a silent `if`.

pub mod agreement;
pub mod bookkeeping;
pub mod contents;
pub mod errno;
pub mod results;

use gup_core::history::Base;
use gup_core::model::Page;

/// A rule that did not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Violation {
    /// The oracle's slug.
    pub oracle: &'static str,
    /// The kernel function at fault, where the oracle knows better than "the
    /// op that ran".
    pub function: Option<&'static str>,
    /// The page it is about.
    pub page: Option<Page>,
    /// What should be.
    pub expected: String,
    /// What is.
    pub actual: String,
}

impl Violation {
    /// A violation of `oracle`.
    pub fn new(oracle: &'static str, expected: String, actual: String) -> Self {
        Violation { oracle, function: None, page: None, expected, actual }
    }
    /// The same, about a page.
    #[must_use]
    pub fn of_page(mut self, page: Page) -> Self {
        self.page = Some(page);
        self
    }
}

impl From<gup_core::invariants::Broken> for Violation {
    fn from(b: gup_core::invariants::Broken) -> Self {
        Violation { page: b.page, ..Violation::new(b.oracle, b.rule.into(), b.what) }
    }
}

/// Every oracle's slug.
pub const SLUGS: &[&str] = &[
    "accounting",
    "errno",
    "result-array",
    "placement",
    "permission",
    "agreement",
    "isolation",
    "reliability",
    "lifetime",
    "progress",
    "locking",
    "splat",
];

/// Something that an oracle would report and the base does not promise.
#[derive(Debug)]
pub struct Waiver {
    /// Stable name.
    pub slug: &'static str,
    /// The base it is for.
    pub base: Base,
    /// The oracle that holds its tongue.
    pub oracle: &'static str,
    /// What the base does, and since when a later kernel does better.
    pub reason: &'static str,
}

/// What the bases do not promise.
pub const WAIVERS: &[Waiver] = &[
    Waiver {
        slug: "read-only-pin-of-read-only-entry",
        base: Base::V5_15,
        oracle: "reliability",
        reason: "a pin taken through an entry that is not writable (a page still shared after \
                 fork, the zero page, a FOLL_FORCE pin of a read-only mapping) comes loose at \
                 the next write fault; since a7f226604170 (v5.19) such pages are unshared first",
    },
    Waiver {
        slug: "pin-then-mprotect",
        base: Base::V5_15,
        oracle: "reliability",
        reason: "mprotect() takes the write bit away, and do_wp_page() then copies a page that \
                 has references besides the mapping; since 6c287605fd56 (v5.19) an exclusive \
                 page is reused",
    },
    Waiver {
        slug: "pin-during-swap-out",
        base: Base::V5_15,
        oracle: "reliability",
        reason: "reclaim asks page_maybe_dma_pinned() before it unmaps; who pins in between is \
                 not noticed; since 6c287605fd56 (v5.19) try_to_unmap_one() leaves a mapping of \
                 an exclusive page that may be pinned",
    },
    Waiver {
        slug: "fork-during-migration",
        base: Base::V5_15,
        oracle: "reliability",
        reason: "fork() makes migration entries read-only, of a page that is pinned and so will \
                 not move, too; since 6c287605fd56 (v5.19) try_to_migrate_one() leaves a mapping \
                 of an exclusive page that may be pinned",
    },
    Waiver {
        slug: "read-only-pin-of-nothing-yet",
        base: Base::V6_12,
        oracle: "reliability",
        reason: "a read-only pin of the zero page or of a private file page comes loose at the \
                 next write fault; only FOLL_LONGTERM replaces such pages first \
                 (gup_must_unshare())",
    },
    Waiver {
        slug: "forced-read-of-a-prot-none-pud",
        base: Base::V6_12,
        oracle: "progress",
        reason: "pud_present() does not know PROT_NONE leaves, which pte_present() does: \
                 follow_pud_mask() finds nothing, hugetlb_fault() finds nothing to do, and \
                 __get_user_pages() goes round until it is killed; since 9cb28da54643 (v6.10) \
                 hugetlb pages are looked up so",
    },
    Waiver {
        slug: "gigantic-page-by-its-head",
        base: Base::V6_12,
        oracle: "placement",
        reason: "folio_is_longterm_pinnable() asks for the pageblock of the head alone; a page \
                 of PUD size spans several, of which others may be isolated",
    },
    Waiver {
        slug: "further-pins-uncounted",
        base: Base::V6_12,
        oracle: "accounting",
        reason: "folio_add_pin() does not count into NR_FOLL_PIN_ACQUIRED, and whoever gives \
                 such a pin back counts into NR_FOLL_PIN_RELEASED",
    },
    Waiver {
        slug: "hugetlb-reuse-by-mapcount",
        base: Base::V6_12,
        oracle: "isolation",
        reason: "hugetlb_wp() reuses a page that is mapped once, whoever else has a reference: \
                 a child's get_user_pages() sees what the parent stores after the child \
                 unmapped; copying could run out of huge pages, says the comment there",
    },
];
