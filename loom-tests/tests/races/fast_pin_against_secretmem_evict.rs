// SPDX-License-Identifier: GPL-2.0-only
//! GUP-fast against the end of the secret memory whose page it finds.
//!
//!   CPU 0  v5.15                 CPU 0  v6.12              CPU 1
//!   (A1) read the PTE: page      (A1) the same             (B1) munmap()
//!   (A2) grab the page           (A2) the same             (B2) evict(): mapping
//!   (A3) mapping of secret       (A3) PTE still the            is NULL, last put
//!        memory?                      same?
//!   (A4) PTE still the same?     (A4) mapping of secret
//!                                     memory, or none?
//!
//! After (B2) nothing says what the page was. v6.12 takes a page without a
//! mapping for one that was just cut off, and leaves it to the slow path. On
//! v5.15 only (A4) tells, and nothing orders the reads of (A3) and (A4): where
//! loads are not in order, (A4) may see the PTE from before (B1), and (A3) the
//! mapping from after (B2). A finding of this race; not on x86.
//!
//! Never: the call returns a page that was secret when it was mapped.

use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::invariants::Broken;
use gup_core::model::filemap::{File, evict};
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mmap::{FileMap, Kind, Prot, mm_alloc, mmap, mmap_file, munmap};
use gup_core::model::{Cpu, Page};
use loom_tests::calls::{FOUR, MM, get_user_pages_fast_only, scene};
use loom_tests::{Bound, Held, Kernel, Verdict, at_once, body, fails, holds};

fn secret(cpu: &Cpu) -> Result<Page, Errno> {
    mm_alloc(cpu, MM)?;
    // A neighbour in the same page table, which so is not freed and waited for.
    mmap(cpu, MM, PAGE_SIZE, 1, Prot::ReadWrite, Kind::Anon)?;
    let map = FileMap { shared: true, file: File::Secretmem, pgoff: 0 };
    mmap_file(cpu, MM, 0, 1, Prot::ReadWrite, map)?;
    let page = user_store(cpu, MM, 0, 1)?;
    lru_add_drain_all(cpu);
    Ok(page)
}

fn race(kernel: Kernel) -> Verdict {
    let (world, page) = scene(FOUR, kernel, secret);
    let end = body(|cpu| {
        munmap(cpu, MM, 0, 1).expect("it is mapped");
        evict(cpu, File::Secretmem);
        Held::nothing()
    });
    let fast = body(|cpu| get_user_pages_fast_only(cpu, 0, Foll::empty()));
    let held = at_once(&world, kernel, [end, fast])?;
    if held.gets.contains(&page) {
        let rule = "never a page of secret memory";
        let what = format!("page {} was secret, and is handed out", page.0);
        return Err(Broken { oracle: "permission", page: Some(page), rule, what });
    }
    held.adds_up(&world)
}

#[test]
fn a_secret_is_kept() {
    holds!(Bound::All, [V6_12], race);
}

#[test]
fn found_where_the_mapping_is_read_before_the_pte() {
    fails!("permission", Bound::Preemptions(3), [V5_15], "", race);
}

#[test]
fn found_without_the_look_for_a_mapping() {
    fails!("permission", Bound::Preemptions(3), [V6_12], "without safeguard:mapping-gone", race);
}
