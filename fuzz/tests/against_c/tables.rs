// SPDX-License-Identifier: GPL-2.0-only
//! What random scenarios say seldom or cannot say, as tables: all flags, odd
//! arguments, counts about to overflow, borders between mappings, failures
//! one after the other.

use std::cell::Cell;

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::gup::{v5_15, v6_12};
use gup_core::history::Base;
use gup_core::model::cpu::{Fail, FailSite, Watch};
use gup_core::model::filemap::File;
use gup_core::model::folio::{Folio, folio_ref_add};
use gup_core::model::limits::{MAX_CALL_PAGES, PAGE_SIZE, TASK_SIZE};
use gup_core::model::memory::user_store;
use gup_core::model::mm::{MmId, mmap_read_lock};
use gup_core::model::mmap::{FileMap, Kind, Prot, mm_alloc, mmap, mmap_file, mmap_stack};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::{Cpu, Limits, Page, World};
use gup_core::splat::SplatKind;
use gup_core::step::{Step, StepKind};
use gup_fuzz::exec::{Executor, Outcome};
use gup_fuzz::real::{against_c, base, differences, kernel};
use gup_fuzz::repro::text;
use gup_fuzz::scenario::{Call, CallOp, CallResult, Handle, Op, Range, What};
use gup_fuzz::subject::{Args, Port, RealGup, Subject};

use super::same;

const MM: MmId = MmId(0);
/// The pages that one call is asked for, at most.
const MOST: u8 = MAX_CALL_PAGES as u8;

/// The calls that the base has.
fn calls() -> impl Iterator<Item = Call> {
    Call::ALL.iter().copied().filter(|call| call.exists_in(base()))
}

/// A call on pages of [`MM`].
fn call(call: Call, page: u8, pages: u8, flags: Foll) -> CallOp {
    let range = Range { mm: MM, page, pages };
    CallOp { call, range, flags, locked: false, nopages: false, handle: Handle(0) }
}

/// Every call at each of the pages, for each number of pages, with each of
/// the flags.
fn each<'a>(
    pages: &'a [u8],
    numbers: &'a [u8],
    flags: &'a [Foll],
) -> impl Iterator<Item = CallOp> + 'a {
    let at = move |which, page| {
        let one = move |nr, flags: &Foll| call(which, page, nr, *flags);
        numbers.iter().flat_map(move |&nr| flags.iter().map(move |flags| one(nr, flags)))
    };
    calls().flat_map(move |which| pages.iter().flat_map(move |&page| at(which, page)))
}

/// What a call came to. A BUG ends it in the C, but not in the port: then
/// only what was before it counts.
#[derive(PartialEq, Debug)]
struct Came {
    /// The answer, the array, and `*locked`.
    to: Option<(CallResult, Vec<Page>, Option<bool>)>,
    splats: Vec<(SplatKind, &'static str, u32)>,
    steps: Vec<Step>,
}

impl Came {
    fn of(cpu: &Cpu, result: CallResult, pages: &[Page], locked: Option<bool>) -> Came {
        let mut splats: Vec<_> =
            cpu.splats().iter().map(|s| (s.kind, s.function, s.step)).collect();
        let mut steps = cpu.recorded_steps().to_vec();
        let mut to = Some((result, pages.to_vec(), locked));
        if let Some(bug) = splats.iter().position(|s| s.0 == SplatKind::Bug) {
            steps.truncate(splats[bug].2 as usize);
            splats.truncate(bug + 1);
            to = None;
        }
        Came { to, splats, steps }
    }
}

/// A world for each subject, and what both are brought into.
struct Twins {
    start: World,
    ours: World,
    theirs: World,
}

impl Twins {
    fn new(set: impl Fn(&Cpu)) -> Twins {
        let [start, ours, theirs] = [(); 3].map(|()| World::new(Limits::FUZZ));
        let cpu = Cpu::alone(&start, kernel(), 0);
        mm_alloc(&cpu, MM).unwrap();
        set(&cpu);
        Twins { start, ours, theirs }
    }

    /// `run` is made to come to the same in both worlds. `what` tells which
    /// row of a table it is.
    fn same(&self, what: &dyn std::fmt::Debug, run: impl Fn(&Cpu, &dyn Subject) -> Came) -> Came {
        let one = |world: &World, subject: &dyn Subject| {
            world.copy_from(&self.start);
            let cpu = Cpu::alone(world, kernel(), 0);
            cpu.record_steps(true);
            run(&cpu, subject)
        };
        let (ours, theirs) = (one(&self.ours, &Port), one(&self.theirs, &RealGup));
        assert_eq!(ours, theirs, "the port, the C: {what:?}");
        if ours.to.is_some() {
            assert_eq!(self.ours.difference(&self.theirs), None, "{what:?}");
        }
        ours
    }

    /// The same of one call.
    fn same_call(&self, op: &CallOp, locked: Option<bool>) -> Came {
        self.same(&(op, locked), |cpu, subject| {
            cpu.begin_op(MM, None);
            make(cpu, subject, op, locked)
        })
    }
}

/// Makes a call; `locked` is what a `_remote` one is given to point to.
fn make(cpu: &Cpu, subject: &dyn Subject, op: &CallOp, locked: Option<bool>) -> Came {
    use Call::{GetUserPagesUnlocked, PinUserPagesUnlocked};
    let mut pages = [Page::UNSET; MAX_CALL_PAGES];
    let pages = &mut pages[..op.range.pages.into()];
    let mut flag = locked;
    let locks_itself =
        op.call.fast() || matches!(op.call, GetUserPagesUnlocked | PinUserPagesUnlocked);
    if !locks_itself {
        mmap_read_lock(cpu, MM);
    }
    let array = (!op.nopages).then_some(&mut *pages);
    let args = Args { pages: array, vmas: None, locked: flag.as_mut() };
    let result = subject.call(cpu, op, args);
    Came::of(cpu, result, pages, flag)
}

/// The table is about the text that the port follows.
fn is_followed() -> bool {
    differences().is_empty()
}

/// Small pages, a THP, holes, what nobody may write, a driver's pages, raw
/// frame numbers.
fn mixed(cpu: &Cpu) {
    mmap(cpu, MM, 0, 4, Prot::ReadWrite, Kind::Anon).unwrap();
    mmap(cpu, MM, 8 * PAGE_SIZE, 8, Prot::ReadWrite, Kind::AnonThp).unwrap();
    mmap(cpu, MM, 16 * PAGE_SIZE, 2, Prot::Read, Kind::Anon).unwrap();
    mmap(cpu, MM, 24 * PAGE_SIZE, 5, Prot::ReadWrite, Kind::Driver).unwrap();
    mmap(cpu, MM, 32 * PAGE_SIZE, 2, Prot::ReadWrite, Kind::Pfnmap).unwrap();
    for page in [0, 2, 8] {
        user_store(cpu, MM, page * PAGE_SIZE, 1).unwrap();
    }
}

#[test]
fn the_port_is_the_c_for_every_pair_of_flags() {
    if !is_followed() {
        return;
    }
    let twins = Twins::new(mixed);
    let pairs = Foll::all().iter().flat_map(|a| Foll::all().iter().map(move |b| a | b));
    let mut flags: Vec<Foll> = pairs.chain([Foll::empty()]).collect();
    flags.sort_by_key(Foll::bits);
    flags.dedup();
    let (mut refused, mut served) = (0, 0);
    for op in each(&[0, 7, 16, 23, 32], &[3], &flags) {
        // On v5.15 GUP-fast follows the array, be it NULL.
        let needed = op.call.fast() && base() == Base::V5_15;
        let without = (!needed).then_some(CallOp { nopages: true, ..op });
        for op in [Some(op), without].into_iter().flatten() {
            let come = twins.same_call(&op, None);
            *(if come.splats.is_empty() { &mut served } else { &mut refused }) += 1;
            if op.call.remote() {
                twins.same_call(&op, Some(true));
                twins.same_call(&op, Some(false));
            }
        }
    }
    assert!(refused > 1_000 && served > 1_000, "{refused} refused, {served} served");
}

/// GUP-fast is not asked for no page at all: there the C walks from the first
/// page to where it finds none, see gup_fast_pgd_range() of the port.
#[test]
fn the_port_is_the_c_for_no_page_at_all() {
    if !is_followed() {
        return;
    }
    let twins = Twins::new(mixed);
    for op in each(&[0, 8, 16, 40], &[0], &[Foll::WRITE]).filter(|op| !op.call.fast()) {
        for locked in [None, Some(true)] {
            let come = twins.same_call(&op, locked);
            assert_eq!(come.to.map(|to| to.0), Some(Ok(0)));
        }
    }
}

#[test]
fn the_port_is_the_c_at_the_end_of_the_addresses() {
    type Fast = fn(&Cpu, u64, usize, Foll, Option<&mut [Page]>) -> CallResult;
    if !is_followed() {
        return;
    }
    let last = TASK_SIZE - PAGE_SIZE;
    let twins = Twins::new(|cpu| {
        mmap(cpu, MM, last, 1, Prot::ReadWrite, Kind::Anon).unwrap();
        user_store(cpu, MM, last, 1).unwrap();
    });
    let theirs: [Fast; 3] = [
        real_gup::get_user_pages_fast,
        real_gup::get_user_pages_fast_only,
        real_gup::pin_user_pages_fast,
    ];
    let ours: [Fast; 3] = match base() {
        Base::V5_15 => [
            |c, s, n, f, p| v5_15::get_user_pages_fast(c, s, n, f, p.unwrap_or_default()),
            |c, s, n, f, p| Ok(v5_15::get_user_pages_fast_only(c, s, n, f, p.unwrap_or_default())),
            |c, s, n, f, p| v5_15::pin_user_pages_fast(c, s, n, f, p.unwrap_or_default()),
        ],
        Base::V6_12 => {
            use v6_12::{get_user_pages_fast, get_user_pages_fast_only, pin_user_pages_fast};
            [get_user_pages_fast, get_user_pages_fast_only, pin_user_pages_fast]
        }
    };
    let top = 0u64.wrapping_sub(PAGE_SIZE);
    for (ours, theirs) in ours.into_iter().zip(theirs) {
        for (start, nr, error) in [
            (last, 1, None),
            (last + 1, 1, None),
            (last, 2, Some(Errno::EFAULT)),
            (TASK_SIZE, 1, Some(Errno::EFAULT)),
            (top, 1, Some(Errno::EOVERFLOW)),
            (top - PAGE_SIZE, 2, Some(Errno::EOVERFLOW)),
            (top - PAGE_SIZE, 1, Some(Errno::EFAULT)),
        ] {
            let came = [(&twins.ours, ours), (&twins.theirs, theirs)].map(|(world, call)| {
                world.copy_from(&twins.start);
                let cpu = Cpu::alone(world, kernel(), 0);
                cpu.record_steps(true);
                cpu.begin_op(MM, None);
                let mut pages = [Page::UNSET; 2];
                let result = call(&cpu, start, nr, Foll::WRITE, Some(&mut pages));
                if base() == Base::V6_12 {
                    assert_eq!(result.err(), error, "{start:#x} {nr}");
                }
                Came::of(&cpu, result, &pages, None)
            });
            assert_eq!(came[0], came[1], "{start:#x} {nr}");
            assert_eq!(twins.ours.difference(&twins.theirs), None);
        }
    }
}

/// The C tells the log, and never more than once an hour. On v5.15 it lets
/// the stack grow, which the model does not.
#[test]
fn the_port_is_the_c_below_a_stack() {
    if !is_followed() || base() == Base::V5_15 {
        return;
    }
    let twins = Twins::new(|cpu| mmap_stack(cpu, MM, 40 * PAGE_SIZE, 2).unwrap());
    for op in each(&[39, 20, 41], &[1], &[Foll::WRITE]).filter(|op| !op.call.fast_only()) {
        let result = if op.range.page < 40 { Err(Errno::EFAULT) } else { Ok(1) };
        assert_eq!(twins.same_call(&op, None).to.map(|to| to.0), Some(result));
    }
}

/// Where memory of each kind lies, and what it is.
fn every_kind(cpu: &Cpu) {
    let map = |page: u64, pages, kind| {
        mmap(cpu, MM, page * PAGE_SIZE, pages, Prot::ReadWrite, kind).unwrap();
    };
    let map_file = |page: u64, pages, file| {
        let map = FileMap { shared: true, file, pgoff: 0 };
        mmap_file(cpu, MM, page * PAGE_SIZE, pages, Prot::ReadWrite, map).unwrap();
    };
    map(0, 2, Kind::Anon);
    map(8, 8, Kind::AnonThp);
    if base() == Base::V6_12 {
        map_file(16, 16, File::HugetlbPud);
        map_file(32, 8, File::Hugetlb);
    }
    map(40, 3, Kind::DriverOrder1);
    map_file(48, 2, File::Shmem);
    for page in kinds() {
        user_store(cpu, MM, u64::from(page) * PAGE_SIZE, 1).unwrap();
    }
}

fn kinds() -> impl Iterator<Item = u8> {
    let hugetlb = |page: &u8| (16..40).contains(page);
    [0, 8, 16, 32, 41, 48].into_iter().filter(move |page| base() == Base::V6_12 || !hugetlb(page))
}

const COUNTS: [i32; 10] =
    [i32::MIN, -1024, -1, 0, 1, 1023, 1024, i32::MAX - 1024, i32::MAX - 1, i32::MAX];

#[test]
fn the_port_is_the_c_whatever_a_count_has_come_to() {
    if !is_followed() {
        return;
    }
    let twins = Twins::new(every_kind);
    let flags = [Foll::empty(), Foll::WRITE, Foll::LONGTERM];
    let (mut warned, mut failed) = (0, 0);
    for op in each(&kinds().collect::<Vec<_>>(), &[1, 2], &flags) {
        for count in COUNTS {
            let come = twins.same(&(op, count), |cpu, subject| {
                saturate(cpu, op.range.page, count);
                cpu.begin_op(MM, None);
                make(cpu, subject, &op, None)
            });
            warned += u32::from(!come.splats.is_empty());
            let result = come.to.map(|to| to.0);
            failed += u32::from(result == Some(Err(Errno::ENOMEM)));
        }
    }
    assert!(warned > 100 && failed > 100, "{warned} warned, {failed} failed");
}

/// Gives the folio that is mapped at a page this many references.
fn saturate(cpu: &Cpu, page: u8, count: i32) {
    let head = mapped_page(cpu, MM, u64::from(page) * PAGE_SIZE).map(|p| cpu.world.head_of(p));
    let folio = Folio(head.unwrap());
    folio_ref_add(cpu, folio, count.wrapping_sub(cpu.world.refcount(folio.page())));
}

/// What is mapped from some page on.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Mapped {
    Hole,
    Memory(Kind, Prot),
    File(File, bool, Prot),
}

use Mapped::{Hole, Memory};

impl Mapped {
    fn op(self, page: u8, pages: u8) -> Option<What> {
        let range = Range { mm: MM, page, pages };
        match self {
            Hole => None,
            Memory(kind, prot) => Some(What::Mmap(range, prot, kind)),
            Mapped::File(file, shared, prot) => {
                Some(What::MmapFile(range, prot, FileMap { shared, file, pgoff: 0 }))
            }
        }
    }
}

/// Two mappings of `pages` pages side by side, touched where they let one; then
/// what `disturb` says, and calls across the border.
fn across(kinds: &[Mapped], pages: u8, flags: &[Foll], disturb: &[Option<What>]) {
    let mut against = against_c();
    let (left, border) = (pages, 2 * pages);
    let touch = [left, border].map(|page| What::Write(Range { mm: MM, page, pages }));
    for (&a, &b) in kinds.iter().flat_map(|a| kinds.iter().map(move |b| (a, b))) {
        for disturbed in disturb {
            let maps = [a.op(left, pages), b.op(border, pages)].into_iter().flatten();
            let set: Vec<What> = maps.chain(touch).chain(*disturbed).collect();
            for (before, after) in [(pages, 1), (1, pages), (1, 1)] {
                let before = before.min(MOST - 1);
                let (page, nr) = (border - before, (before + after).min(MOST));
                for op in each(&[page], &[nr], flags) {
                    let ops = set.iter().copied().chain([What::Call(op)]).map(Op::from);
                    same(&mut against, &ops.collect::<Vec<_>>());
                }
            }
        }
    }
    assert!(against.ops_run().compared() > 10_000);
}

#[test]
fn the_port_is_the_c_across_the_border_of_two_mappings() {
    let rw = Prot::ReadWrite;
    across(
        &[
            Hole,
            Memory(Kind::Anon, rw),
            Memory(Kind::Anon, Prot::Read),
            Memory(Kind::Anon, Prot::None),
            Memory(Kind::Driver, rw),
            Memory(Kind::Pfnmap, rw),
            Mapped::File(File::Regular, true, rw),
            Mapped::File(File::Regular, false, Prot::Read),
            Mapped::File(File::Secretmem, true, rw),
        ],
        2,
        &[Foll::empty(), Foll::WRITE, Foll::FORCE, Foll::WRITE | Foll::FORCE, Foll::ANON],
        &[None],
    );
}

#[test]
fn the_port_is_the_c_across_the_border_of_two_huge_pages() {
    let whole = Range { mm: MM, page: 32, pages: 16 };
    let fork = What::Fork(MM, MmId(1));
    across(
        &[
            Hole,
            Memory(Kind::Anon, Prot::ReadWrite),
            Memory(Kind::AnonThp, Prot::ReadWrite),
            Mapped::File(File::Hugetlb, false, Prot::ReadWrite),
            Mapped::File(File::Hugetlb, true, Prot::ReadWrite),
            Mapped::File(File::HugetlbPud, false, Prot::ReadWrite),
            Mapped::File(File::HugetlbPud, true, Prot::ReadWrite),
        ],
        16,
        &[Foll::empty(), Foll::WRITE, Foll::WRITE | Foll::LONGTERM, Foll::LONGTERM],
        &[None, Some(fork), Some(What::Mprotect(whole, Prot::Read))],
    );
}

/// Arms a failure as soon as mmap_lock has been dropped, and another one when
/// it has been dropped again.
struct Then(Cell<u8>, [Option<Fail>; 2]);

impl Watch for Then {
    fn before(&self, cpu: &Cpu, step: &Step) {
        if step.kind == StepKind::MmapUnlock {
            let n = usize::from(self.0.replace(self.0.get().saturating_add(1)));
            if let Some(fail) = self.1.get(n).copied().flatten() {
                cpu.arm(fail);
            }
        }
    }
}

/// What fails, three times in a row: first something that drops mmap_lock.
fn failures() -> Vec<[Option<Fail>; 3]> {
    let nths = |sites: &[FailSite]| -> Vec<Option<Fail>> {
        let all = sites.iter().flat_map(|&site| (1..=3).map(move |nth| Fail { site, nth }));
        all.map(Some).collect()
    };
    let drops = nths(&[FailSite::Retry, FailSite::Completed]);
    let mut more = nths(&[FailSite::Retry, FailSite::Completed, FailSite::Signal, FailSite::Alloc]);
    more.push(None);
    let pairs = drops.iter().flat_map(|&a| more.iter().map(move |&b| [a, b]));
    pairs.flat_map(|[a, b]| more.iter().map(move |&c| [a, b, c])).collect()
}

/// What drops mmap_lock may do so again, and a signal may come in between.
#[test]
fn the_port_is_the_c_when_one_failure_follows_another() {
    if !is_followed() {
        return;
    }
    let twins = Twins::new(|cpu| {
        mmap(cpu, MM, 0, 4, Prot::ReadWrite, Kind::Anon).unwrap();
        user_store(cpu, MM, 0, 1).unwrap();
    });
    let flags = [Foll::WRITE, Foll::INTERRUPTIBLE, Foll::NOWAIT];
    let ops: Vec<CallOp> = each(&[0, 1], &[3], &flags).collect();
    let (mut nothing, mut some) = (0, 0);
    for [first, second, third] in failures() {
        for (op, locked) in ops.iter().flat_map(|op| [(op, None), (op, Some(true))]) {
            let come = twins.same(&(first, second, third, op), |cpu, subject| {
                let then = Then(Cell::new(0), [second, third]);
                let cpu = Cpu::alone(cpu.world, kernel(), 0).watched_by(&then);
                cpu.record_steps(true);
                cpu.watch_steps(true);
                cpu.begin_op(MM, first);
                make(&cpu, subject, op, locked)
            });
            match come.to.map(|to| to.0) {
                Some(Err(Errno::EINTR)) => nothing += 1,
                Some(Ok(1..3)) => some += 1,
                _ => {}
            }
        }
    }
    assert!(nothing > 100 && some > 100, "{nothing} interrupted, {some} in the middle");
}

/// What another CPU does in the middle of an op, and the C looks for.
const MIDDLE: &[(&str, &str)] = &[
    (
        "try_get_folio(): the page is not of that folio any more",
        "mmap m0 0x0 8 rw private anon thp
         write m0 0x0 1
         split_huge_pmd m0 0x0
         h0 = get_user_pages_fast m0 0x1000 1 0
             at ref-add-unless-zero 1 split_huge_page m0 0x0",
    ),
    (
        "gup_fast_unpin_user_pages(): fork() came after the pins",
        "mmap m0 0x0 2 rw private anon
         write m0 0x0 2
         h0 = pin_user_pages_fast m0 0x0 2 FOLL_WRITE
             at irq-restore 1 fork m0 m1",
    ),
    (
        "follow_huge_pud(): the PUD is empty under its lock",
        "mmap m0 0x0 16 rw shared hugetlb-pud 0
         write m0 0x0 1
         h0 = get_user_pages m0 0x0 1 0
             at lock 1 madvise m0 0x0 16 dontneed",
    ),
    (
        "gup_fast_pud_leaf(): the PUD has changed",
        "mmap m0 0x0 16 rw shared hugetlb-pud 0
         write m0 0x0 1
         h0 = get_user_pages_fast m0 0x0 1 0
             at ref-add-unless-zero 1 madvise m0 0x0 16 dontneed",
    ),
    (
        "follow_huge_pmd(): the PMD has become a NUMA hint",
        "mmap m0 0x0 8 rw private anon thp
         write m0 0x0 1
         h0 = get_user_pages m0 0x0 1 FOLL_HONOR_NUMA_FAULT
             at lock 1 numa_hint m0 0x0 8",
    ),
    (
        "sanity_check_pinned_pages(): the page is exclusive, its head is not",
        "mmap m0 0x0 8 rw private anon thp
         write m0 0x0 1
         lru_add_drain_all
         split_huge_pmd m0 0x0
         swapout m0 0x0
             at entry-rmw 2 h0 = pin_user_pages_fast m0 0x7000 1 FOLL_WRITE
         unpin_user_pages h0",
    ),
];

#[test]
fn the_port_is_the_c_in_the_middle_of_an_op() {
    let (mut against, mut executor) = (against_c(), Executor::with_subject(kernel(), RealGup));
    // What v5.15 has no words for.
    let newer = |ops: &str| ops.contains("hugetlb") || ops.contains("HONOR_NUMA");
    for (what, ops) in MIDDLE.iter().filter(|(_, ops)| base() == Base::V6_12 || !newer(ops)) {
        let text = format!("# gup reproducer, format 1\nkernel: v6.12 fixed\n\n{ops}\n");
        let ops = text::parse(text.as_bytes()).unwrap().ops();
        same(&mut against, &ops);
        let idle = |outcome| matches!(outcome, Outcome::Skipped(_) | Outcome::Blocked(_));
        for line in executor.trace(&ops).lines {
            assert!(!idle(line.outcome), "{what}: {}: {:?}", line.op, line.outcome);
        }
    }
}
