// SPDX-License-Identifier: GPL-2.0-only
//! What kernels differ in: the one table of defects, their commits, and the
//! changes that were proposed and never merged.
//!
//! A [`Kernel`] is a base text, the set of defects present in it and the set
//! of proposals applied to it. It is a value chosen at run time, and it has a
//! text form in which commits are the words:
//!
//! ```
//! use gup_core::history::{Defect, Kernel};
//!
//! let released: Kernel = "v5.15".parse().unwrap();
//! assert!(released.has(Defect::SlowGrabIsFast));
//! let fixed: Kernel = "v5.15 with c36c04c2e132".parse().unwrap();
//! assert!(!fixed.has(Defect::SlowGrabIsFast));
//! // Either commit of a defect may be named.
//! assert_eq!(fixed, "v5.15 without 54d516b1d62f".parse().unwrap());
//! ```

use core::{fmt, str::FromStr};

/// The kernel text that the port follows, function by function.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub enum Base {
    /// mm/gup.c as commit 54d516b1d62f (v5.15-rc1) left it.
    V5_15,
    /// mm/gup.c of 6.12.117.
    V6_12,
}

impl Base {
    /// Every base.
    pub const ALL: &'static [Base] = &[Base::V5_15, Base::V6_12];
    /// Its name in the text form of kernels.
    pub fn name(self) -> &'static str {
        match self {
            Base::V5_15 => "v5.15",
            Base::V6_12 => "v6.12",
        }
    }
}

/// One row of the table: a bug that some kernel has or had.
#[derive(Debug)]
pub struct DefectInfo {
    /// Stable name.
    pub slug: &'static str,
    /// The commit that brought it, if one did.
    pub introduced: Option<Commit>,
    /// The commit that took it away, where that is known.
    pub fixed: Option<Commit>,
    /// The bases whose text it can be in, and whether each has it as
    /// released. A base that is not listed has no such statement.
    pub bases: &'static [(Base, Released)],
    /// What is wrong, in one sentence.
    pub what: &'static str,
    /// The oracles that see it.
    pub oracles: &'static [&'static str],
    /// What kind of run finds it.
    pub reach: Reach,
}

/// What a base as released has of a defect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Released {
    /// The defect: its fix came later.
    Open,
    /// The fix.
    Fixed,
}

impl DefectInfo {
    /// What `base` has of it as released; `None` if it does not apply there.
    pub fn in_base(&self, base: Base) -> Option<Released> {
        self.bases.iter().find(|&&(b, _)| b == base).map(|&(_, r)| r)
    }
    /// The words that give it to a kernel, or take it away: by its fix, or if
    /// none is known, by the commit that introduced it.
    pub fn switch(&self, on: bool) -> String {
        let id = |c: Option<Commit>| c.map_or("?", |c| c.id);
        let (word, id) = match self.fixed {
            Some(fix) => (if on { "without" } else { "with" }, fix.id),
            None => (if on { "with" } else { "without" }, id(self.introduced)),
        };
        format!("{word} {id}")
    }
    /// Whether `base` as released has it.
    pub fn open_in(&self, base: Base) -> bool {
        self.in_base(base) == Some(Released::Open)
    }
}

/// A mainline commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Commit {
    /// The first twelve digits.
    pub id: &'static str,
    /// The subject line.
    pub subject: &'static str,
    /// The first tag that contains it.
    pub release: &'static str,
}

/// What kind of run a defect shows itself in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// One op after the other.
    Sequence,
    /// Two CPUs at once. It is enough that an op of one runs, from its
    /// beginning to its end, in the middle of an op of the other.
    Race,
    /// Two CPUs at once, under loom alone: what windows cannot express of it.
    Loom(&'static str),
}

/// Windows show steps in one order.
const STORE_BUFFER: Reach = Reach::Loom("a store of one CPU, or a load of the other, comes late");
/// An op in a window runs to its end.
const TO_AND_FRO: Reach = Reach::Loom("the two CPUs take turns: each is stopped by the other");

macro_rules! defects {
    ($($(#[$doc:meta])* $name:ident = $info:expr;)+) => {
        /// A bug that some kernel has or had. The rows are in
        /// [`Defect::info`]; each is one `if` at the statement that its fix
        /// touched.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Defect { $($(#[$doc])* $name),+ }

        impl Defect {
            /// Every defect, in the order of the table.
            pub const ALL: &'static [Defect] = &[$(Defect::$name),+];
            /// Its row.
            pub fn info(self) -> &'static DefectInfo {
                match self { $(Defect::$name => { const I: DefectInfo = $info; &I })+ }
            }
        }
    };
}

defects! {
    /// The seed.
    SlowGrabIsFast = DefectInfo {
        slug: "slow-grab-is-fast",
        introduced: Some(Commit {
            id: "54d516b1d62f",
            subject: "mm/gup: small refactoring: simplify try_grab_page()",
            release: "v5.15-rc1",
        }),
        fixed: Some(Commit {
            id: "c36c04c2e132",
            subject: "Revert \"mm/gup: small refactoring: simplify try_grab_page()\"",
            release: "v5.17-rc3",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "the slow path grabs with the fast path's helper, which refuses \
               FOLL_LONGTERM on a movable page instead of letting it migrate",
        oracles: &["errno"],
        reach: Reach::Sequence,
    };
    /// try_get_page() replaced by the speculative getter.
    SpeculativeTryGet = DefectInfo {
        slug: "speculative-try-get",
        introduced: Some(Commit {
            id: "9857a17f206f",
            subject: "mm/gup: remove try_get_page(), call try_get_compound_head() directly",
            release: "v5.15-rc1",
        }),
        fixed: Some(Commit {
            id: "cd1adf1b63a1",
            subject: "Revert \"mm/gup: remove try_get_page(), call try_get_compound_head() directly\"",
            release: "v5.15-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "holders of a stable reference take another one speculatively: \
               outside the getter's context, and a count of 0 fails quietly",
        oracles: &["splat", "errno"],
        reach: Reach::Sequence,
    };
    /// The head is not looked at again after the speculative reference.
    HeadNotRechecked = DefectInfo {
        slug: "head-not-rechecked",
        introduced: Some(Commit {
            id: "7aef4172c795",
            subject: "mm: handle PTE-mapped tail pages in gerneric fast gup implementaiton",
            release: "v4.5-rc1",
        }),
        fixed: Some(Commit {
            id: "c24d37322548",
            subject: "mm/gup: fix try_grab_compound_head() race with split_huge_page()",
            release: "v5.14-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed), (Base::V6_12, Released::Fixed)],
        what: "a split or free between the lookup of the head and the \
               speculative reference leaves the reference on a stranger",
        oracles: &["accounting", "lifetime"],
        reach: Reach::Race,
    };
    /// Pins are released as plain references before migration.
    PutPageOnPinned = DefectInfo {
        slug: "put-page-on-pinned",
        introduced: Some(Commit {
            id: "3faa52c03f44",
            subject: "mm/gup: track FOLL_PIN pages",
            release: "v5.7-rc1",
        }),
        fixed: Some(Commit {
            id: "96e1fac162cc",
            subject: "mm/gup: use unpin_user_pages() in __gup_longterm_locked()",
            release: "v5.10-rc4",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "when a longterm pin must migrate, its pins are released with \
               put_page(): 1 is taken where 1024 was added",
        oracles: &["accounting"],
        reach: Reach::Sequence,
    };
    /// GUP-fast does not look at FOLL_LONGTERM.
    FastLongtermUnchecked = DefectInfo {
        slug: "fast-longterm-unchecked",
        introduced: Some(Commit {
            id: "7af75561e171",
            subject: "mm/gup: add FOLL_LONGTERM capability to GUP fast",
            release: "v5.2-rc1",
        }),
        fixed: Some(Commit {
            id: "df3a0a21b698",
            subject: "mm/gup: fix omission of check on FOLL_LONGTERM in gup fast path",
            release: "v5.7-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "GUP-fast pins pages in memory that must stay movable",
        oracles: &["placement"],
        reach: Reach::Sequence,
    };
    /// Compound pages have no pin count of their own.
    BiasOnCompound = DefectInfo {
        slug: "bias-on-compound",
        introduced: Some(Commit {
            id: "3faa52c03f44",
            subject: "mm/gup: track FOLL_PIN pages",
            release: "v5.7-rc1",
        }),
        fixed: Some(Commit {
            id: "47e29d32afba",
            subject: "mm/gup: page->hpage_pinned_refcount: exact pin counts for huge pages",
            release: "v5.7-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "every pin of a tail adds 1024 to the reference count of the head",
        oracles: &["accounting", "errno"],
        reach: Reach::Sequence,
    };
    /// A pin of an entry without a struct page counts as done.
    PinOfPfnPte = DefectInfo {
        slug: "pin-of-pfn-pte",
        introduced: Some(Commit {
            id: "3faa52c03f44",
            subject: "mm/gup: track FOLL_PIN pages",
            release: "v5.7-rc1",
        }),
        fixed: Some(Commit {
            id: "7196040e19ad",
            subject: "mm: fix invalid page pointer returned with FOLL_PIN gups",
            release: "v5.18-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "follow_pfn_pte() refuses FOLL_GET but not FOLL_PIN: the entry \
               counts as pinned, and its place in pages[] is never set",
        oracles: &["result-array"],
        reach: Reach::Sequence,
    };
    /// A write-protected THP is reused if only one mapping is left.
    ThpReusedByMapcount = DefectInfo {
        slug: "thp-reused-by-mapcount",
        introduced: None,
        fixed: Some(Commit {
            id: "3bff7e3f1f16",
            subject: "mm/huge_memory: streamline COW logic in do_huge_pmd_wp_page()",
            release: "v5.18-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "do_huge_pmd_wp_page() asks for mappings, not references: a child \
               that keeps a reference and unmaps sees the parent's later stores \
               (CVE-2020-29374 for THP)",
        oracles: &["isolation"],
        reach: Reach::Sequence,
    };
    /// Memory that is being isolated counts as pinnable.
    IsolateIsPinnable = DefectInfo {
        slug: "isolate-is-pinnable",
        introduced: None,
        fixed: Some(Commit {
            id: "1c563432588d",
            subject: "mm: fix is_pinnable_page against a cma page",
            release: "v5.19-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "(with its repair 034e5afad921, which pins the zero page again) \
               is_pinnable_page() knows MIGRATE_CMA but not MIGRATE_ISOLATE, the \
               type of a CMA pageblock while it is being allocated",
        oracles: &["placement"],
        reach: Reach::Sequence,
    };
    /// GUP-fast goes on behind a page that the architecture refused.
    ArchErrorIsSuccess = DefectInfo {
        slug: "arch-error-is-success",
        introduced: Some(Commit {
            id: "f28d43636d6f",
            subject: "mm/gup/writeback: add callbacks for inaccessible pages",
            release: "v5.7-rc1",
        }),
        fixed: Some(Commit {
            id: "7cad96ae59b3",
            subject: "mm/gup: fix handling of errors from arch_make_folio_accessible() in \
                      follow_page_pte()",
            release: "v6.18-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open), (Base::V6_12, Released::Open)],
        what: "gup_pte_range() returns the error of arch_make_page_accessible() \
               where 0 means failure: the walk goes on in the next table, and \
               later pages land in the places of earlier ones",
        oracles: &["result-array"],
        reach: Reach::Sequence,
    };
    /// A page of secret memory is known by its place on the LRU alone.
    SecretmemOffLru = DefectInfo {
        slug: "secretmem-off-lru",
        introduced: Some(Commit {
            id: "1507f51255c9",
            subject: "mm: introduce memfd_secret system call to create \"secret\" memory areas",
            release: "v5.14-rc1",
        }),
        fixed: Some(Commit {
            id: "65291dcfcf89",
            subject: "mm/secretmem: fix GUP-fast succeeding on secretmem folios",
            release: "v6.9-rc3",
        }),
        bases: &[(Base::V5_15, Released::Open), (Base::V6_12, Released::Fixed)],
        what: "GUP-fast takes a page that is not on the LRU for no secret memory; \
               a fresh one waits in a per-CPU batch, and is handed out",
        oracles: &["permission"],
        reach: Reach::Sequence,
    };
    /// The slow path pins pages of any file for long and for writing.
    LongtermWriteToFile = DefectInfo {
        slug: "longterm-write-to-file",
        introduced: None,
        fixed: Some(Commit {
            id: "8ac268436e6d",
            subject: "mm/gup: disallow FOLL_LONGTERM GUP-nonfast writing to file-backed mappings",
            release: "v6.5-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "the slow path hands out pages for longterm stores that their file \
               system must notice, and cannot once it has cleaned them",
        oracles: &["permission"],
        reach: Reach::Sequence,
    };
    /// GUP-fast does.
    FastLongtermWriteToFile = DefectInfo {
        slug: "fast-longterm-write-to-file",
        introduced: None,
        fixed: Some(Commit {
            id: "a6e79df92e4a",
            subject: "mm/gup: disallow FOLL_LONGTERM GUP-fast writing to file-backed mappings",
            release: "v6.5-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "GUP-fast hands out what the slow path refuses: pages for longterm \
               stores that their file system must notice",
        oracles: &["permission"],
        reach: Reach::Sequence,
    };
    /// A longterm pin for reading takes the zero page, and pages of files in
    /// private mappings.
    LongtermReadNotUnshared = DefectInfo {
        slug: "longterm-read-not-unshared",
        introduced: None,
        fixed: Some(Commit {
            id: "84209e87c696",
            subject: "mm/gup: reliable R/O long-term pinning in COW mappings",
            release: "v6.2-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "a longterm pin for reading comes loose when the process stores: it \
               takes the zero page, or a private mapping's page of the file",
        oracles: &["reliability"],
        reach: Reach::Sequence,
    };
    /// GUP-fast does not see that khugepaged took the page table out.
    CollapseUnseen = DefectInfo {
        slug: "collapse-unseen",
        introduced: Some(Commit {
            id: "2667f50e8b81",
            subject: "mm: introduce a general RCU get_user_pages_fast()",
            release: "v3.18-rc1",
        }),
        fixed: Some(Commit {
            id: "70cbc3cc78a9",
            subject: "mm: gup: fix the fast GUP race against THP collapse",
            release: "v6.1-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "GUP-fast looks again at the PTE only, which a collapse leaves as it \
               is until the page was copied: the pin is on the old page. Shows where \
               nothing waits for GUP-fast, so together with 2ba99c5e0881",
        oracles: &["reliability"],
        reach: Reach::Race,
    };
    /// khugepaged does not wait for GUP-fast before it uses the page table.
    CollapseWithoutIpi = DefectInfo {
        slug: "collapse-without-ipi",
        introduced: Some(Commit {
            id: "ba76149f47d8",
            subject: "thp: khugepaged",
            release: "v2.6.38-rc1",
        }),
        fixed: Some(Commit {
            id: "2ba99c5e0881",
            subject: "mm/khugepaged: fix GUP-fast interaction by sending IPI",
            release: "v6.1-rc8",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "a page table that a collapse took out is used again while GUP-fast \
               may still walk it",
        oracles: &["reliability"],
        reach: Reach::Race,
    };
    /// The batch grab of a THP uses the fast path's helper: the seed again.
    BatchGrabIsFast = DefectInfo {
        slug: "batch-grab-is-fast",
        introduced: Some(Commit {
            id: "57edfcfd3419",
            subject: "mm/gup: accelerate thp gup even for \"pages != NULL\"",
            release: "v6.6-rc1",
        }),
        fixed: Some(Commit {
            id: "f442fa614137",
            subject: "mm: gup: stop abusing try_grab_folio",
            release: "v6.10",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "__get_user_pages() grabs the further pages of a THP with the fast \
               path's helper, which refuses FOLL_LONGTERM on a movable page: \
               EFAULT instead of migrating it",
        oracles: &["splat", "errno"],
        reach: Reach::Sequence,
    };
    /// The zero page is pinned like any other.
    ZeroPagePinned = DefectInfo {
        slug: "zero-page-pinned",
        introduced: Some(Commit {
            id: "3faa52c03f44",
            subject: "mm/gup: track FOLL_PIN pages",
            release: "v5.7-rc1",
        }),
        fixed: Some(Commit {
            id: "c8070b787519",
            subject: "mm: Don't pin ZERO_PAGE in pin_user_pages()",
            release: "v6.5-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "pins of the zero page add to its reference count, which everybody \
               shares and a program can make overflow",
        oracles: &["accounting"],
        reach: Reach::Sequence,
    };
    /// A folio that was isolated counts as one that was not.
    IsolationInverted = DefectInfo {
        slug: "isolation-inverted",
        introduced: Some(Commit {
            id: "67e139b02d99",
            subject: "mm/gup.c: refactor check_and_migrate_movable_pages()",
            release: "v6.1-rc1",
        }),
        fixed: Some(Commit {
            id: "aa1e6a932ca6",
            subject: "mm/gup: add folio to list when folio_isolate_lru() succeed",
            release: "v6.2-rc7",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "the answer of folio_isolate_lru() is taken the wrong way round: what \
               was isolated is left out, and what was not is migrated without the \
               reference of the isolation",
        oracles: &["accounting", "splat", "progress"],
        reach: Reach::Sequence,
    };
    /// What could not be isolated counts as nothing to move.
    UnisolatedIsPinnable = DefectInfo {
        slug: "unisolated-is-pinnable",
        introduced: Some(Commit {
            id: "1aaf8c122918",
            subject: "mm: gup: fix infinite loop within __get_longterm_locked",
            release: "v6.14-rc1",
        }),
        fixed: Some(Commit {
            id: "517f496e1e61",
            subject: "mm/gup: revert \"mm: gup: fix infinite loop within __get_longterm_locked\"",
            release: "v6.16-rc4",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "(in stable trees of v6.12, too) if no folio that must move could be \
               isolated, all count as allowed to stay, instead of being tried again",
        oracles: &["placement"],
        reach: Reach::Sequence,
    };
    /// unpin_user_pages() takes NULL for a page.
    NullPageUnpinned = DefectInfo {
        slug: "null-page-unpinned",
        introduced: Some(Commit {
            id: "94efde1d1539",
            subject: "mm/gup: avoid an unnecessary allocation call for FOLL_LONGTERM cases",
            release: "v6.12",
        }),
        fixed: Some(Commit {
            id: "a1268be280d8",
            subject: "mm/gup: handle NULL pages in unpin_user_pages()",
            release: "v6.13-rc2",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "(CVE-2024-56612, fixed in 6.12.5, too) when a longterm pin cannot \
               migrate, unpin_user_pages() gets an array whose entries are NULL \
               already, and follows them",
        oracles: &["splat"],
        reach: Reach::Sequence,
    };
    /// fork() copies a pinned hugetlb page writable, whatever the VMA says.
    HugetlbForkWritable = DefectInfo {
        slug: "hugetlb-fork-writable",
        introduced: Some(Commit {
            id: "4eae4efa2c29",
            subject: "hugetlb: do early cow when page pinned on src mm",
            release: "v5.12-rc3",
        }),
        fixed: None,
        bases: &[(Base::V6_12, Released::Open)],
        what: "the child's copy of a pinned page of hugetlbfs is mapped writable in a \
               VMA that is not (on the list: \"mm/hugetlb: don't map folios writable \
               without VM_WRITE when copying during fork()\", 2024-12)",
        oracles: &["errno", "permission"],
        reach: Reach::Sequence,
    };
    /// PageAnonExclusive is cleared without barriers against GUP-fast.
    ExclusiveWithoutBarriers = DefectInfo {
        slug: "exclusive-without-barriers",
        introduced: Some(Commit {
            id: "6c287605fd56",
            subject: "mm: remember exclusively mapped anonymous pages with PG_anon_exclusive",
            release: "v5.19-rc1",
        }),
        fixed: Some(Commit {
            id: "088b8aa537c2",
            subject: "mm: fix PageAnonExclusive clearing racing with concurrent RCU GUP-fast",
            release: "v6.1-rc1",
        }),
        bases: &[(Base::V6_12, Released::Fixed)],
        what: "nothing orders the clearing of an entry before the look at the pin \
               count, nor that of PageAnonExclusive before the next entry: a page is \
               pinned and taken for shared at once",
        oracles: &["reliability"],
        reach: STORE_BUFFER,
    };
    /// A compound page can be had before it is one.
    CountBeforeCompound = DefectInfo {
        slug: "count-before-compound",
        introduced: None,
        fixed: Some(Commit {
            id: "ee66e9c34fd3",
            subject: "mm/page_alloc: move set_page_refcounted() to callers of prep_new_page()",
            release: "v6.14-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open), (Base::V6_12, Released::Open)],
        what: "prep_new_page() sets the reference count before it makes the page \
               compound: GUP-fast, which comes late to a page that was freed, counts \
               its pin as one of a small page, and takes it back as one of a large one",
        oracles: &["accounting"],
        reach: TO_AND_FRO,
    };
    /// fork() and GUP-fast do not know of each other.
    ForkUnseen = DefectInfo {
        slug: "fork-unseen",
        introduced: None,
        fixed: Some(Commit {
            id: "57efa1fe5957",
            subject: "mm/gup: prevent gup_fast from racing with COW during fork",
            release: "v5.11-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed), (Base::V6_12, Released::Fixed)],
        what: "GUP-fast pins a page between the look of fork() at its pins and the \
               write-protection of its entry: the next store of the process goes to a \
               copy",
        oracles: &["reliability"],
        reach: Reach::Race,
    };
    /// fork() looks for pins before it is seen.
    ForkSeqUnordered = DefectInfo {
        slug: "fork-seq-unordered",
        introduced: None,
        fixed: Some(Commit {
            id: "088b8aa537c2",
            subject: "mm: fix PageAnonExclusive clearing racing with concurrent RCU GUP-fast",
            release: "v6.1-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "nothing orders write_protect_seq before the look of fork() at the pins, \
               nor a pin of GUP-fast before its second look at the count, where \
               spin_lock() and atomic_add() are no full barriers, as they are on x86 \
               (the fix gave the barrier after the pin, for another reason; fork() takes \
               a reference before it looks since v5.19)",
        oracles: &["reliability"],
        reach: STORE_BUFFER,
    };
    /// fork() shares pinned pages.
    NoEarlyCowAtFork = DefectInfo {
        slug: "no-early-cow-at-fork",
        introduced: None,
        fixed: Some(Commit {
            id: "70e806e4e645",
            subject: "mm: Do early cow for pinned pages during fork() for ptes",
            release: "v5.9",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "fork() write-protects and shares a pinned page; the next store of \
               the process that pinned it goes to a copy",
        oracles: &["reliability"],
        reach: Reach::Sequence,
    };
    /// do_wp_page() reuses a page if one mapping is left.
    MapcountDecidesReuse = DefectInfo {
        slug: "mapcount-decides-reuse",
        introduced: None,
        fixed: Some(Commit {
            id: "09854ba94c6a",
            subject: "mm: do_wp_page() simplification",
            release: "v5.9-rc5",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "do_wp_page() asks for mappings, not references: a child that keeps a \
               reference and unmaps sees the parent's later stores (CVE-2020-29374)",
        oracles: &["isolation"],
        reach: Reach::Sequence,
    };
    /// A longterm pin is taken although the page could not be moved.
    MigrateFailureIsSuccess = DefectInfo {
        slug: "migrate-failure-is-success",
        introduced: None,
        fixed: Some(Commit {
            id: "f0f4463837da",
            subject: "mm/gup: return an error on migration failure",
            release: "v5.13-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "when migration fails, the pages are pinned again where they are, and \
               the call succeeds",
        oracles: &["placement"],
        reach: Reach::Sequence,
    };
    /// Only CMA pages are moved out of the way of a longterm pin.
    CmaOnly = DefectInfo {
        slug: "cma-only",
        introduced: None,
        fixed: Some(Commit {
            id: "d1e153fea2a8",
            subject: "mm/gup: migrate pinned pages out of movable zone",
            release: "v5.13-rc1",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "pages in ZONE_MOVABLE are pinned for long where they are",
        oracles: &["placement"],
        reach: Reach::Sequence,
    };
    /// Reclaim does not ask whether a page is pinned.
    SwapOutOfPinned = DefectInfo {
        slug: "swap-out-of-pinned",
        introduced: Some(Commit {
            id: "09854ba94c6a",
            subject: "mm: do_wp_page() simplification",
            release: "v5.9-rc5",
        }),
        fixed: Some(Commit {
            id: "feb889fb40fa",
            subject: "mm: don't put pinned pages into the swap cache",
            release: "v5.11-rc5",
        }),
        bases: &[(Base::V5_15, Released::Fixed)],
        what: "a pinned page goes to the swap cache, whose reference keeps the next \
               write fault from reusing it: the process gets a copy, the pin does not",
        oracles: &["reliability"],
        reach: Reach::Sequence,
    };
    /// A page is mapped writable from the swap cache if one mapping is left.
    SwapInReusesByMapcount = DefectInfo {
        slug: "swap-in-reuses-by-mapcount",
        introduced: None,
        fixed: Some(Commit {
            id: "c145e0b47c77",
            subject: "mm: streamline COW logic in do_swap_page()",
            release: "v5.18-rc1",
        }),
        bases: &[(Base::V5_15, Released::Open)],
        what: "do_swap_page() asks for mappings and swap entries, not references: a \
               child that keeps a reference and unmaps sees the parent's later stores \
               (CVE-2020-29374 by way of swap)",
        oracles: &["isolation", "reliability"],
        reach: Reach::Sequence,
    };
}

/// One row of the table of proposals.
#[derive(Debug)]
pub struct ProposalInfo {
    /// Stable name, after `proposal:` in the text form.
    pub slug: &'static str,
    /// The defect it was meant to repair.
    pub repairs: Defect,
    /// What it does, in one sentence.
    pub what: &'static str,
}

/// A change that was discussed on the list and never merged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Proposal {
    /// "mm/gup: skip pinnable check for refs==1", linux-mm, 2022-01-31.
    SkipCheckForSingleRef,
    /// The same thread, repair (a).
    CheckInFastWalkers,
    /// The same thread, repair (b).
    FastOnlyFlag,
}

impl Proposal {
    /// Every proposal.
    pub const ALL: &'static [Proposal] =
        &[Proposal::SkipCheckForSingleRef, Proposal::CheckInFastWalkers, Proposal::FastOnlyFlag];

    /// Its row.
    pub fn info(self) -> &'static ProposalInfo {
        match self {
            Proposal::SkipCheckForSingleRef => &ProposalInfo {
                slug: "skip-check-for-single-ref",
                repairs: Defect::SlowGrabIsFast,
                what: "try_grab_compound_head() looks at the placement only if refs > 1",
            },
            Proposal::CheckInFastWalkers => &ProposalInfo {
                slug: "check-in-fast-walkers",
                repairs: Defect::SlowGrabIsFast,
                what: "the placement check moves from the helper into the fast walkers",
            },
            Proposal::FastOnlyFlag => &ProposalInfo {
                slug: "fast-only-flag",
                repairs: Defect::SlowGrabIsFast,
                what: "every caller but try_grab_page() passes FOLL_FAST_ONLY, and \
                       the helper looks at the placement only then",
            },
        }
    }
}

macro_rules! safeguards {
    ($($(#[$doc:meta])* $name:ident = $slug:literal, $reach:expr, $what:literal;)+) => {
        /// A statement that keeps two CPUs apart, and that no row of [`Defect`]
        /// takes out by itself. The loom tests leave it out to see that they
        /// notice: one `if` at the statement, as for a defect, but it stands
        /// for no kernel that was released.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
        pub enum Safeguard { $($(#[$doc])* $name),+ }

        impl Safeguard {
            /// Every safeguard.
            pub const ALL: &'static [Safeguard] = &[$(Safeguard::$name),+];
            /// Its stable name, after `safeguard:` in the text form.
            pub fn slug(self) -> &'static str {
                match self { $(Safeguard::$name => $slug),+ }
            }
            /// The bases whose text has it, and what kind of run shows there
            /// that it is needed.
            pub fn reach(self) -> &'static [(Base, Reach)] {
                match self { $(Safeguard::$name => $reach),+ }
            }
            /// What it does, in one sentence.
            pub fn what(self) -> &'static str {
                match self { $(Safeguard::$name => $what),+ }
            }
        }
    };
}

const BY_RACE: &[(Base, Reach)] = &[(Base::V5_15, Reach::Race), (Base::V6_12, Reach::Race)];
const BY_SEQUENCE: &[(Base, Reach)] =
    &[(Base::V5_15, Reach::Sequence), (Base::V6_12, Reach::Sequence)];
const BARRIER: &[(Base, Reach)] = &[(Base::V6_12, STORE_BUFFER)];

safeguards! {
    /// In gup_pte_range(), gup_fast_pte_range().
    PteRecheck = "pte-recheck", BY_RACE,
        "GUP-fast reads the PTE again once it has grabbed the page";
    /// In gup_huge_pmd(), gup_fast_pmd_leaf().
    PmdRecheck = "pmd-recheck", BY_RACE,
        "GUP-fast reads a huge PMD again once it has grabbed the page";
    /// In page_ref_add_unless_zero().
    UnlessZero = "unless-zero", BY_RACE,
        "GUP-fast takes no reference on a page that has none";
    /// In lockless_pages_from_mm(), gup_fast().
    SeqEven = "seq-even", BY_RACE,
        "GUP-fast does not begin while fork() write-protects";
    /// In lockless_pages_from_mm(), gup_fast().
    SeqRetry = "seq-retry", &[(Base::V5_15, TO_AND_FRO), (Base::V6_12, TO_AND_FRO)],
        "GUP-fast gives its pins back if fork() has write-protected meanwhile";
    /// In internal_get_user_pages_fast(), gup_fast_fallback().
    HasPinnedFirst = "has-pinned-first", BY_SEQUENCE,
        "GUP-fast sets MMF_HAS_PINNED before it walks";
    /// In try_grab_folio_fast().
    BarrierAfterGrab = "barrier-after-grab", BARRIER,
        "a barrier orders the pin before the second read of the PTE";
    /// In gup_must_unshare().
    BarrierBeforeExclusive = "barrier-before-exclusive", BARRIER,
        "a barrier orders the second read of the PTE before the look at PageAnonExclusive";
    /// In folio_try_share_anon_rmap().
    BarrierAfterClear = "barrier-after-clear", BARRIER,
        "a barrier orders the clearing of an entry before the look at the pins";
    /// In folio_try_share_anon_rmap().
    BarrierAfterShare = "barrier-after-share", BARRIER,
        "a barrier orders the clearing of PageAnonExclusive before the next entry";
    /// In page_ref_freeze().
    FreezeExact = "freeze-exact", BY_SEQUENCE,
        "a page is frozen only if nobody else holds a reference";
    /// In put_compound_head(), gup_put_folio().
    PincountBeforePut = "pincount-before-put", BY_SEQUENCE,
        "a pin of a compound page is counted off while its reference still keeps the page";
    /// In gup_fast_folio_allowed(), v6.12.
    MappingGone = "mapping-gone", &[(Base::V6_12, Reach::Race)],
        "GUP-fast leaves a page that has lost its mapping to the slow path";
    /// In spin_lock(), for the lock of a page table.
    PageTableLock = "page-table-lock", BY_RACE,
        "the entries of a page table are changed under its lock";
    /// In mmap_read_lock().
    MmapLock = "mmap-lock", BY_SEQUENCE,
        "mmap_lock keeps changes of the VMAs out of the slow path";
    /// In tlb_remove_table().
    TableWait = "table-wait", BY_RACE,
        "a page table is freed after all CPUs had interrupts on (on v6.12 70cbc3cc78a9 \
         is enough by itself)";
}

impl Safeguard {
    /// The fixed base without it, and without a fix that does the same there:
    /// what must fail.
    pub fn twin(self, base: Base) -> Kernel {
        let kernel = Kernel::fixed(base).without_safeguard(self);
        match (self, base) {
            (Safeguard::TableWait, Base::V6_12) => kernel.with_defect(Defect::CollapseUnseen),
            _ => kernel,
        }
    }
}

/// A base text with its defects and proposals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Kernel {
    base: Base,
    defects: u64,
    proposals: u64,
    /// Safeguards that are left out.
    left_out: u64,
}

impl Kernel {
    /// The base as it was released.
    pub fn released(base: Base) -> Self {
        let mut k = Kernel::fixed(base);
        for &d in Defect::ALL {
            if d.info().open_in(base) {
                k = k.with_defect(d);
            }
        }
        k
    }
    /// The base with every known fix: what a nightly run fuzzes.
    pub fn fixed(base: Base) -> Self {
        Kernel { base, defects: 0, proposals: 0, left_out: 0 }
    }
    /// Its base.
    pub fn base(self) -> Base {
        self.base
    }
    /// The lowest order of a compound page that counts its pins by itself:
    /// there is room for a pin count since pages of two pages have it, too.
    /// C: hpage_pincount_available(), folio_has_pincount()
    #[inline]
    pub fn pincount_order(self) -> u32 {
        if self.base >= Base::V6_12 { 1 } else { 2 }
    }
    /// Whether it has the defect.
    #[inline]
    pub fn has(self, d: Defect) -> bool {
        self.defects & (1 << d as u64) != 0
    }
    /// Whether the proposal is applied to it.
    #[inline]
    pub fn applies(self, p: Proposal) -> bool {
        self.proposals & (1 << p as u64) != 0
    }
    /// Whether the safeguard is left out of it.
    #[inline]
    pub fn lacks(self, s: Safeguard) -> bool {
        self.left_out & (1 << s as u64) != 0
    }
    /// The safeguards that are left out of it.
    pub fn left_out(self) -> impl Iterator<Item = Safeguard> {
        Safeguard::ALL.iter().copied().filter(move |&s| self.lacks(s))
    }
    /// The same kernel with the safeguard.
    pub fn with_safeguard(mut self, s: Safeguard) -> Self {
        self.left_out &= !(1 << s as u64);
        self
    }
    /// The same kernel without the safeguard.
    pub fn without_safeguard(mut self, s: Safeguard) -> Self {
        self.left_out |= 1 << s as u64;
        self
    }
    /// The same kernel with the defect.
    pub fn with_defect(mut self, d: Defect) -> Self {
        self.defects |= 1 << d as u64;
        self
    }
    /// The same kernel without the defect.
    pub fn without_defect(mut self, d: Defect) -> Self {
        self.defects &= !(1 << d as u64);
        self
    }
    /// The same kernel with the proposal.
    pub fn with_proposal(mut self, p: Proposal) -> Self {
        self.proposals |= 1 << p as u64;
        self
    }
    /// The defects it has, in the order of the table.
    pub fn defects(self) -> impl Iterator<Item = Defect> {
        Defect::ALL.iter().copied().filter(move |&d| self.has(d))
    }
    /// The proposals applied to it.
    pub fn proposals(self) -> impl Iterator<Item = Proposal> {
        Proposal::ALL.iter().copied().filter(move |&p| self.applies(p))
    }

    /// Every kernel that a reproducer is replayed on to say which are
    /// affected: the base as released and fixed, each defect alone on the
    /// fixed base, each proposal on the base that it was meant for.
    pub fn all_known(base: Base) -> Vec<Kernel> {
        let fixed = Kernel::fixed(base);
        let mut all = vec![Kernel::released(base), fixed];
        let here = |d: Defect| d.info().in_base(base).is_some();
        let defects = Defect::ALL.iter().filter(|&&d| here(d));
        all.extend(defects.map(|&d| fixed.with_defect(d)));
        let proposals = Proposal::ALL.iter().filter(|p| here(p.info().repairs));
        all.extend(proposals.map(|&p| fixed.with_defect(p.info().repairs).with_proposal(p)));
        let mut seen = Vec::new();
        all.retain(|k| {
            let new = !seen.contains(k);
            seen.push(*k);
            new
        });
        all
    }
}

impl fmt::Display for Kernel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.base.name())?;
        let open = || Defect::ALL.iter().copied().filter(|d| d.info().open_in(self.base));
        let all_fixed = !open().any(|d| self.has(d)) && open().next().is_some();
        if all_fixed {
            f.write_str(" fixed")?;
        }
        for d in Defect::ALL.iter().copied() {
            let expected = d.info().open_in(self.base) && !all_fixed;
            match (self.has(d), expected) {
                (true, false) => write!(f, " {}", d.info().switch(true))?,
                (false, true) => write!(f, " {}", d.info().switch(false))?,
                _ => {}
            }
        }
        for p in self.proposals() {
            write!(f, " with proposal:{}", p.info().slug)?;
        }
        for s in self.left_out() {
            write!(f, " without safeguard:{}", s.slug())?;
        }
        Ok(())
    }
}

/// Why a text does not name a kernel.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseKernelError(String);

impl fmt::Display for ParseKernelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl core::error::Error for ParseKernelError {}

const FORM: &str = "expected `BASE [fixed] [with COMMIT | without COMMIT | with proposal:NAME | \
                    without safeguard:NAME]...`; see `cargo gup kernels`";

impl FromStr for Kernel {
    type Err = ParseKernelError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let err = |what: String| ParseKernelError(format!("{what}; {FORM}"));
        let mut words = text.split_ascii_whitespace();
        let name = words.next().ok_or_else(|| err("no kernel".into()))?;
        let base = Base::ALL
            .iter()
            .copied()
            .find(|b| b.name() == name)
            .ok_or_else(|| err(format!("unknown base `{name}`")))?;
        let mut kernel = Kernel::released(base);
        let mut first = true;
        while let Some(word) = words.next() {
            match word {
                "fixed" if first => kernel = Kernel::fixed(base),
                "with" | "without" => {
                    let what =
                        words.next().ok_or_else(|| err(format!("nothing follows `{word}`")))?;
                    kernel = kernel.changed(word == "with", what).map_err(err)?;
                }
                _ => return Err(err(format!("unexpected word `{word}`"))),
            }
            first = false;
        }
        Ok(kernel)
    }
}

impl Kernel {
    /// Applies one `with WHAT` or `without WHAT`.
    fn changed(mut self, with: bool, what: &str) -> Result<Self, String> {
        if let Some(slug) = what.strip_prefix("proposal:") {
            let p = Proposal::ALL.iter().copied().find(|p| p.info().slug == slug);
            let p = p.ok_or_else(|| format!("unknown proposal `{slug}`"))?;
            if p.info().repairs.info().in_base(self.base).is_none() {
                return Err(format!("`{what}` does not apply to {}", self.base.name()));
            }
            return if with {
                Ok(self.with_proposal(p))
            } else {
                Err(format!("`without {what}`: a proposal is only ever added"))
            };
        }
        if let Some(slug) = what.strip_prefix("safeguard:") {
            let s = Safeguard::ALL.iter().copied().find(|s| s.slug() == slug);
            let s = s.ok_or_else(|| format!("unknown safeguard `{slug}`"))?;
            return if with {
                Err(format!("`with {what}`: every kernel has it; it is only ever left out"))
            } else {
                Ok(self.without_safeguard(s))
            };
        }
        // Long and short forms of a commit id name the same commit.
        let names = |id: &str| {
            let n = what.len().min(id.len());
            n >= 7 && what.is_ascii() && id[..n] == what[..n]
        };
        let (mut known, mut applies) = (false, false);
        for &d in Defect::ALL {
            let info = d.info();
            let fix = info.fixed.is_some_and(|c| names(c.id));
            let cause = info.introduced.is_some_and(|c| names(c.id));
            if !fix && !cause {
                continue;
            }
            known = true;
            if info.in_base(self.base).is_some() {
                applies = true;
                self = if with == fix { self.without_defect(d) } else { self.with_defect(d) };
            }
        }
        match (known, applies) {
            (_, true) => Ok(self),
            (true, _) => Err(format!("commit `{what}` does not apply to {}", self.base.name())),
            _ => Err(format!("unknown commit `{what}`")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_known_kernel_survives_its_text_form() {
        for k in Base::ALL.iter().flat_map(|&b| Kernel::all_known(b)) {
            assert_eq!(k.to_string().parse::<Kernel>().as_ref(), Ok(&k), "{k}");
        }
    }

    #[test]
    fn a_safeguard_can_be_left_out() {
        for &base in Base::ALL {
            for &s in Safeguard::ALL {
                let k = Kernel::fixed(base).without_safeguard(s);
                assert!(k.lacks(s) && !Kernel::fixed(base).lacks(s));
                assert_eq!(k.to_string().parse::<Kernel>().as_ref(), Ok(&k), "{k}");
            }
        }
    }

    #[test]
    fn either_commit_of_a_defect_names_it() {
        let fixed = "v5.15 fixed".parse::<Kernel>().unwrap();
        let a: Kernel = "v5.15 fixed without c24d37322548".parse().unwrap();
        let b: Kernel = "v5.15 fixed with 7aef4172c795".parse().unwrap();
        assert_eq!(a, b);
        assert_ne!(a, fixed);
    }

    #[test]
    fn nonsense_is_named_in_the_error() {
        for (text, word) in [
            ("", "no kernel"),
            ("v9.9", "v9.9"),
            ("v5.15 with", "with"),
            ("v5.15 with 123456789abc", "123456789abc"),
            ("v5.15 with proposal:x", "`x`"),
            ("v5.15 without proposal:fast-only-flag", "only ever added"),
            ("v5.15 without safeguard:x", "unknown safeguard `x`"),
            ("v5.15 with safeguard:pte-recheck", "only ever left out"),
            ("v5.15 and more", "and"),
            ("v5.15 with c36c04c2e132 fixed", "fixed"),
            ("v5.15 with ç36c04c2e132", "unknown commit"),
        ] {
            let e = text.parse::<Kernel>().unwrap_err().to_string();
            assert!(e.contains(word), "{text:?}: {e}");
        }
    }

    #[test]
    fn slugs_are_unique() {
        for (i, a) in Defect::ALL.iter().enumerate() {
            for b in &Defect::ALL[i + 1..] {
                assert_ne!(a.info().slug, b.info().slug);
            }
        }
    }
}
