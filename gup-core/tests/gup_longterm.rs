// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's selftest gup_longterm on the model, on both bases.
//!
//! Ten cases over four kinds of files: longterm pins, for reading and for
//! writing, slow and fast, of shared and private mappings, and what io_uring
//! does for a fixed buffer. Pages are faulted in first; for reading they are
//! write-protected first. It works if the mapping is private, if nobody
//! writes, or if the file is of tmpfs or hugetlbfs: that is the rule of
//! v6.12. On v5.15 it always works, as the refusals came with 8ac268436e6d
//! and a6e79df92e4a (v6.5), and there is no hugetlbfs.
//!
//! `cargo test -p gup-core --test gup_longterm -- --nocapture` prints KTAP.

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::gup::{v5_15, v6_12};
use gup_core::history::{Base, Kernel};
use gup_core::invariants::{Owned, counts_add_up, everything_free};
use gup_core::model::filemap::{File, evict_inodes};
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::memory::user_store;
use gup_core::model::mm::{MmId, mmap_read_lock, mmap_read_unlock};
use gup_core::model::mmap::{FileMap, Prot, exit_mmap, mm_alloc, mmap_file, mprotect};
use gup_core::model::page::page_maybe_dma_pinned;
use gup_core::model::pgtable::mapped_page;
use gup_core::model::zone::{Place, place};
use gup_core::model::{Cpu, Limits, Page, World};

const MM: MmId = MmId(0);
/// Enough for a page of hugetlbfs.
const NR: usize = 8;

/// How the pages are pinned.
#[derive(Clone, Copy, PartialEq, Eq)]
enum How {
    Slow,
    Fast,
    /// IORING_REGISTER_BUFFERS: for writing, by the slow path.
    FixedBuffer,
}

/// The selftest's names: what is pinned how, whether for writing.
const CASES: [(&str, How, bool); 5] = [
    ("R/W longterm GUP pin", How::Slow, true),
    ("R/W longterm GUP-fast pin", How::Fast, true),
    ("R/O longterm GUP pin", How::Slow, false),
    ("R/O longterm GUP-fast pin", How::Fast, false),
    ("io_uring fixed buffer", How::FixedBuffer, true),
];

/// Its files; memfd and tmpfs are the same here.
const FILES: [(&str, File); 4] = [
    ("memfd", File::Shmem),
    ("tmpfile", File::Shmem),
    ("local tmpfile", File::Regular),
    ("memfd hugetlb (PMD)", File::Hugetlb),
];

fn pin(cpu: &Cpu, how: How, flags: Foll, pages: &mut [Page]) -> Result<usize, Errno> {
    let new = cpu.since(Base::V6_12);
    if how == How::Fast {
        return if new {
            v6_12::pin_user_pages_fast(cpu, 0, NR, flags, Some(pages))
        } else {
            v5_15::pin_user_pages_fast(cpu, 0, NR, flags, pages)
        };
    }
    mmap_read_lock(cpu, MM);
    let n = if new {
        v6_12::pin_user_pages(cpu, 0, NR, flags, Some(pages))
    } else {
        v5_15::pin_user_pages(cpu, 0, NR, flags, Some(pages), None)
    };
    mmap_read_unlock(cpu, MM);
    n
}

fn unpin(cpu: &Cpu, pages: &[Page]) {
    if cpu.since(Base::V6_12) {
        v6_12::unpin_user_pages(cpu, pages, Ok(NR));
    } else {
        v5_15::unpin_user_pages(cpu, pages, Ok(NR));
    }
}

/// Runs one case; looks at what was pinned, and at the books at the end.
fn run(base: Base, file: File, shared: bool, how: How, write: bool) -> Result<usize, Errno> {
    let world = World::new(Limits::FUZZ);
    let cpu = &Cpu::new(&world, Kernel::fixed(base), 0);
    cpu.begin_op(MM, None);
    mm_alloc(cpu, MM)?;
    let map = FileMap { shared, file, pgoff: 0 };
    mmap_file(cpu, MM, 0, NR as u64, Prot::ReadWrite, map)?;
    for i in 0..NR as u64 {
        user_store(cpu, MM, i * PAGE_SIZE, i + 1)?;
    }
    let mut flags = Foll::LONGTERM;
    if write {
        flags |= Foll::WRITE;
    } else {
        mprotect(cpu, MM, 0, NR as u64, Prot::Read)?;
    }
    let mut pages = [Page::UNSET; NR];
    let got = pin(cpu, how, flags, &mut pages);
    if got == Ok(NR) {
        for (i, &page) in pages.iter().enumerate() {
            assert_eq!(mapped_page(cpu, MM, i as u64 * PAGE_SIZE), Some(page));
            assert!(page_maybe_dma_pinned(cpu, page));
            assert_eq!(place(cpu.world, page), Place::Normal);
            let pins = if file.is_hugetlb() { NR as i32 } else { 1 };
            let head = world.head_of(page);
            counts_add_up(&world, cpu.kernel, head, Owned { gets: 0, pins }).unwrap();
        }
        unpin(cpu, &pages);
    }
    exit_mmap(cpu, MM);
    evict_inodes(cpu);
    lru_add_drain_all(cpu);
    everything_free(&world).unwrap();
    assert_eq!(cpu.splats(), []);
    got
}

#[test]
fn longterm_pins_work_where_the_selftest_says_so() {
    println!("KTAP version 1");
    println!("1..{}", Base::ALL.len() * FILES.len() * CASES.len() * 2);
    let (mut n, mut bad) = (0, Vec::new());
    for &base in Base::ALL {
        for (place, file) in FILES {
            for (case, how, write) in CASES {
                for shared in [true, false] {
                    n += 1;
                    let kind = if shared { "MAP_SHARED" } else { "MAP_PRIVATE" };
                    let name = format!("{}: {case} in {kind} file mapping: {place}", base.name());
                    if base < Base::V6_12 && file.is_hugetlb() {
                        println!("ok {n} {name} # SKIP no hugetlbfs");
                        continue;
                    }
                    let rule = !shared || !write || file != File::Regular;
                    let xfail = base < Base::V6_12 && !rule;
                    let expected = if rule || xfail { Ok(NR) } else { Err(Errno::EFAULT) };
                    let got = run(base, file, shared, how, write);
                    let ok = if got == expected { "ok" } else { "not ok" };
                    let note = if xfail { " # XFAIL refused since v6.5" } else { "" };
                    println!("{ok} {n} {name}{note}");
                    if got != expected {
                        bad.push(format!("{name}: {got:?} instead of {expected:?}"));
                    }
                }
            }
        }
    }
    assert!(bad.is_empty(), "{bad:#?}");
}
