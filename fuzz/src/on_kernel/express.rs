// SPDX-License-Identifier: GPL-2.0-only
//! Which ops a guest can bring about.

use gup_core::flags::Foll;
use gup_core::history::Base;
use gup_core::model::filemap::File;
use gup_core::model::mmap::{FileMap, Kind};
use gup_core::model::zone::Prefer;

use crate::exec::{Outcome, Slot, SlotView, State, TraceLine};
use crate::scenario::{Call, CallOp, Op, Range, Unpin, What};

/// Pages of the guest for one of the model, where there are huge pages: 512
/// for 8.
pub const THP_SCALE: u32 = 64;

/// Pages of the guest for one of the model.
pub fn scale(ops: &[Op]) -> u32 {
    let huge = |op: &Op| {
        op.what.file().is_some_and(File::is_hugetlb)
            || matches!(op.what, What::Mmap(_, _, Kind::AnonThp) | What::Collapse(_))
    };
    if ops.iter().any(huge) { THP_SCALE } else { 1 }
}

/// A kernel's version, as far as it matters here.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32);

impl Version {
    /// Of a release such as `6.12.117+deb12-cloud-amd64`.
    pub fn of(release: &str) -> Option<Version> {
        let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some(Version(numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    /// The base whose rules are nearest.
    pub fn base(self) -> Base {
        if self >= Version(6, 12) { Base::V6_12 } else { Base::V5_15 }
    }
}

/// Why an op cannot be had in a guest with this kernel; `None` if it can.
pub fn not_expressible(op: &Op, version: Version, scale: u32) -> Option<&'static str> {
    if op.fail.is_some() {
        return Some("stock kernels have no fault injection");
    }
    if op.at.is_some() {
        return Some("stock kernels do not stop at a step");
    }
    match op.what {
        What::Call(c) => call(&c, version),
        What::Unpin(how, _) if !how.exists_in(version.base()) => {
            Some("the call came later than this kernel")
        }
        What::Mmap(_, _, Kind::DriverOrder1) if scale > 1 => {
            Some("pages of order 1 do not scale beside huge ones")
        }
        What::MmapFile(r, _, FileMap { file: File::Hugetlb, .. })
            if !r.pages.is_multiple_of(1 << File::Hugetlb.order()) =>
        {
            Some("mmap(2) makes the length of a hugetlbfs mapping fit, the model refuses it")
        }
        What::MmapFile(_, _, FileMap { file, .. })
        | What::Truncate(file, _)
        | What::Fsync(file)
        | What::Close(file) => of_file(file, version),
        What::Mmap(..)
        | What::Munmap(_)
        | What::Mprotect(..)
        | What::Dontneed(_)
        | What::Write(_)
        | What::Read(_)
        | What::Fork(..)
        | What::Exit(_)
        | What::Unpin(..)
        | What::PutPage(_)
        | What::Tee(..)
        | What::DmaWrite(_)
        | What::DmaRead(_)
        | What::LruAddDrain
        | What::LruAddDrainAll
        | What::SplitHugePage(_)
        | What::SplitHugePmd(_)
        | What::Migrate(_)
        | What::Collapse(_)
        | What::Swapout(_)
        | What::Prefer(Prefer::Movable | Prefer::Normal)
        | What::Cpu(_) => None,
        What::Prefer(Prefer::Cma) => Some("stock kernels have no CMA"),
        What::IsolateBlock(_) | What::UnisolateBlock(_) => {
            Some("stock kernels have no CMA, and offlining takes a whole section")
        }
        What::FolioAddPin(..) => Some("no kernel exports folio_add_pin()"),
        What::NumaHint(_) => Some(
            "mbind(2) refuses MPOL_MF_LAZY, and task_numa_work() takes VMA after VMA at a tick, \
             of a process with one thread only pages of other nodes",
        ),
    }
}

/// Why an op cannot be had without the module; `None` if it can.
pub fn needs_module(op: &Op, scale: u32) -> Option<&'static str> {
    match op.what {
        What::Call(c) if by_io_uring(&c) || by_vmsplice(&c) => None,
        What::Call(_) => Some(
            "without the module only io_uring pins, with FOLL_WRITE|FOLL_LONGTERM, and \
             vmsplice(2) gets, by get_user_pages_fast() without flags",
        ),
        What::Unpin(Unpin::Page | Unpin::Pages, _) => None,
        What::Unpin(..) => Some("io_uring gives its pins back in one way"),
        What::DmaWrite(_) => Some("without the module there is no device to write"),
        What::Mmap(_, _, Kind::Driver | Kind::DriverOrder1 | Kind::Pfnmap) => {
            Some("without the module there is no driver to map")
        }
        What::SplitHugePmd(_) | What::Collapse(_) => {
            Some("without the module it is not seen what a PMD maps")
        }
        What::Swapout(_) if scale > 1 => Some("without the module it is not seen what a PMD maps"),
        _ => None,
    }
}

/// Whether registered buffers are pinned in this way.
pub fn by_io_uring(c: &CallOp) -> bool {
    matches!(c.call, Call::PinUserPages | Call::PinUserPagesFast)
        && c.flags == Foll::WRITE | Foll::LONGTERM
        && !(c.nopages || c.locked)
}

/// Why what the model did there cannot be had without the module.
pub fn needs_module_for(line: &TraceLine) -> Option<&'static str> {
    match (line.op.what, line.outcome) {
        (What::Call(c), Outcome::Returned(Ok(n)))
            if by_io_uring(&c) && n < c.range.pages.into() =>
        {
            Some("io_uring gives back what is fewer pages than it asked for")
        }
        _ => None,
    }
}

/// Whether vmsplice(2) gets pages in this way.
pub fn by_vmsplice(c: &CallOp) -> bool {
    c.call == Call::GetUserPagesFast && c.flags.is_empty() && !(c.nopages || c.locked)
}

fn of_file(file: File, version: Version) -> Option<&'static str> {
    match file {
        File::Regular | File::Shmem | File::Secretmem => None,
        File::Hugetlb if version.base() >= Base::V6_12 => None,
        File::Hugetlb => Some("the model of v5.15 has no hugetlbfs"),
        File::HugetlbPud => Some("a page of PUD size is 1 GiB, and the guest has no more"),
    }
}

/// The module's number for a way to unpin.
pub fn unpin_number(how: Unpin) -> u32 {
    how as u32 + 1
}

/// Why an op cannot be had in a guest in this state of the model.
pub fn not_expressible_in(op: &Op, before: &State) -> Option<&'static str> {
    let maps = |r: Range| before.slots.get(&Slot::Mapped(r.mm, r.page));
    let of_file = |v: &SlotView| v.file.is_some();
    let regular = |(&slot, v): (&Slot, &SlotView)| {
        matches!(op.what, What::Unpin(_, h) if matches!(slot, Slot::Held(of, _) if of == h))
            && v.file == Some(File::Regular)
    };
    match op.what {
        What::Unpin(Unpin::DirtyLock | Unpin::RangeDirtyLock, _)
            if before.slots.iter().any(regular) =>
        {
            Some("ext4 warns of a dirty page that was pinned for reading, once a boot")
        }
        What::Collapse(r) if maps(r).is_some_and(of_file) => {
            Some("MADV_COLLAPSE takes pages of files, too, and the model only anonymous ones")
        }
        What::Swapout(r) if maps(r).is_some_and(of_file) => {
            Some("MADV_PAGEOUT takes pages of files, too, and the model only anonymous ones")
        }
        What::Swapout(r) if maps(r).is_some_and(|v| v.mapcount > 1 || v.order > 1 && !v.huge) => {
            Some("MADV_PAGEOUT takes only what one entry maps")
        }
        _ => None,
    }
}

fn call(c: &CallOp, version: Version) -> Option<&'static str> {
    let since_6_3 = version >= Version(6, 3);
    match c.call {
        Call::GetUserPagesLocked | Call::PinUserPagesLocked => {
            return Some("no later kernel exports this call");
        }
        Call::PinUserPagesFastOnly if since_6_3 => return Some("gone since v6.3"),
        _ => {}
    }
    if c.flags.contains(Foll::ANON) && since_6_3 {
        return Some("FOLL_ANON is gone since v6.3");
    }
    let new = Foll::INTERRUPTIBLE | Foll::HONOR_NUMA_FAULT;
    if c.flags.intersects(new) && !since_6_3 {
        return Some("the flag came later than this kernel");
    }
    None
}

#[cfg(test)]
mod tests {
    use gup_core::history::Kernel;

    use super::*;
    use crate::on_kernel::compare::model;

    #[test]
    fn a_release_names_its_version() {
        assert_eq!(Version::of("6.12.117+deb12-cloud-amd64"), Some(Version(6, 12)));
        assert_eq!(Version::of("6.1.0-56-cloud-amd64"), Some(Version(6, 1)));
        assert_eq!(Version::of("6.14-rc1"), Some(Version(6, 14)));
        assert_eq!(Version::of("linux"), None);
    }

    #[test]
    fn only_huge_pages_are_scaled() {
        let op = |text: &str| text.parse::<Op>().unwrap();
        assert_eq!(scale(&[op("mmap m0 0x0 8 rw private anon")]), 1);
        assert_eq!(scale(&[op("mmap m0 0x0 8 rw private anon thp")]), THP_SCALE);
        assert_eq!(scale(&[op("collapse m0 0x0")]), THP_SCALE);
    }

    #[test]
    fn what_a_kernel_lacks_is_named() {
        let why = |text: &str, version| not_expressible(&text.parse().unwrap(), version, 1);
        let (old, new) = (Version(6, 1), Version(6, 12));
        assert_eq!(why("h0 = pin_user_pages_fast_only m0 0x0 1 0", old), None);
        assert!(why("h0 = pin_user_pages_fast_only m0 0x0 1 0", new).is_some());
        assert!(why("h0 = get_user_pages_locked m0 0x0 1 0", old).is_some());
        assert!(why("write m0 0x0 1 fail alloc 1", new).is_some());
        assert!(why("isolate_block 1", new).is_some());
        assert_eq!(why("unpin_user_pages_dirty_lock h0", new), None);
        assert_eq!(why("unpin_user_pages_dirty_lock h0 clean", old), None);
        assert!(why("unpin_user_folio h0", old).is_some());
        assert_eq!(why("unpin_user_folio h0", new), None);
        assert!(why("prefer cma", new).is_some());
        assert!(why("numa_hint m0 0x0 1", new).is_some());
        assert!(why("mmap m0 0x0 8 rw private hugetlb 0", old).is_some());
        assert!(why("mmap m0 0x0 16 rw private hugetlb-pud 0", new).is_some());
        for text in [
            "write m0 0x0 1",
            "prefer normal",
            "migrate m0 0x0",
            "collapse m0 0x0",
            "swapout m0 0x0",
            "mmap m0 0x0 8 rw private hugetlb 0",
            "mmap m0 0x0 1 rw shared file 0",
        ] {
            assert_eq!(why(text, new), None, "{text}");
        }
    }

    #[test]
    fn what_needs_the_module_is_named() {
        let why = |text: &str, scale| needs_module(&text.parse().unwrap(), scale);
        for text in [
            "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM",
            "h0 = pin_user_pages_fast m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM",
            "h0 = get_user_pages_fast m0 0x0 1 0",
            "h1 = tee h0",
            "put_page h1",
            "unpin_user_pages h0",
            "dma_read h0",
            "swapout m0 0x0",
            "migrate m0 0x0",
        ] {
            assert_eq!(why(text, 1), None, "{text}");
        }
        for text in [
            "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE",
            "h0 = pin_user_pages_unlocked m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM",
            "h0 = get_user_pages_fast m0 0x0 1 FOLL_WRITE",
            "h0 = get_user_pages m0 0x0 1 0",
            "unpin_user_pages_dirty_lock h0",
            "dma_write h0",
            "mmap m0 0x0 1 rw shared driver",
            "collapse m0 0x0",
            "split_huge_pmd m0 0x0",
        ] {
            assert!(why(text, 1).is_some(), "{text}");
        }
        assert!(why("swapout m0 0x0", THP_SCALE).is_some());
    }

    #[test]
    fn io_uring_does_not_keep_a_part() {
        let of = |lines: [&str; 2]| {
            let ops = lines.map(|l| l.parse().unwrap());
            let trace = model(Kernel::fixed(Base::V6_12), &ops);
            needs_module_for(&trace.lines[1]).is_some()
        };
        let map = "mmap m0 0x0 1 rw private anon";
        assert!(of([map, "h0 = pin_user_pages m0 0x0 2 FOLL_WRITE|FOLL_LONGTERM"]));
        assert!(!of([map, "h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM"]));
        assert!(!of([map, "h0 = pin_user_pages m0 0x8000 1 FOLL_WRITE|FOLL_LONGTERM"]));
        assert!(!of([map, "h0 = get_user_pages_fast m0 0x0 2 0"]));
    }

    #[test]
    fn what_cannot_be_had_depends_on_what_is_mapped() {
        let why = |mapped: &str| {
            let ops = [mapped, "read m0 0x0 8"].map(|l| l.parse().unwrap());
            let trace = model(Kernel::fixed(Base::V6_12), &ops);
            let why = |op: &str| not_expressible_in(&op.parse().unwrap(), &trace.lines[1].state);
            [why("collapse m0 0x0").is_some(), why("swapout m0 0x0").is_some()]
        };
        let ops = [
            "mmap m0 0x0 1 rw shared file 0",
            "h0 = pin_user_pages m0 0x0 1 0",
            "mmap m0 0x8000 1 rw shared shmem 0",
            "h1 = pin_user_pages m0 0x8000 1 0",
        ];
        let trace = model(Kernel::fixed(Base::V6_12), &ops.map(|l| l.parse().unwrap()));
        let dirty = |op: &str| not_expressible_in(&op.parse().unwrap(), &trace.lines[3].state);
        assert!(dirty("unpin_user_pages_dirty_lock h0").is_some());
        assert_eq!(dirty("unpin_user_pages_dirty_lock h1"), None);
        assert_eq!(dirty("unpin_user_pages h0"), None);
        assert_eq!(why("mmap m0 0x0 8 r shared shmem 0"), [true, true]);
        assert_eq!(why("mmap m0 0x0 8 rw private anon"), [false, false]);
        assert_eq!(why("mmap m0 0x0 8 rw private anon thp"), [false, false]);
    }
}
