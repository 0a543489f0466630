// SPDX-License-Identifier: GPL-2.0-only
//! One op: run it, book it, have it judged.

use std::cell::RefCell;

use gup_core::errno::Errno;
use gup_core::flags::{Foll, VmFlags};
use gup_core::history::Base;
use gup_core::model::filemap::File;
use gup_core::model::limits::{MAX_CALL_PAGES, PAGE_SIZE};
use gup_core::model::mm::{
    MmId, Vma, mm_alive, mmap_lock_holders, mmap_read_lock, mmap_read_unlock, vma_lookup, vmas,
};
use gup_core::model::pgtable::{leaf_at, leaf_or_swapped_at, mapped_page, mm_find_pmd};
use gup_core::model::{
    Cpu, Page, World, filemap, fork, huge_memory, khugepaged, lru, memory, migrate, mmap, numa,
    page, pipe, reclaim, zone,
};
use gup_core::splat::SplatKind;

use super::ledger::{Expect, FilePage, Ledger, Owner};
use super::window::Around;
use super::{Judged, Outcome};
use crate::oracles::agreement::{self, Side};
use crate::oracles::{Violation, bookkeeping, contents, errno, results};
use crate::scenario::{Call, CallOp, CallResult, Handle, MMS, Op, Range, Unpin, What, flags_of};
use crate::subject::{Args, Subject};

const NO_PROCESS: Outcome = Outcome::Skipped("no such process");
const NO_HANDLE: Outcome = Outcome::Skipped("no such handle");
const NO_CALL: Outcome = Outcome::Skipped("this base has no such call");
const NEVER_ENDS: Outcome = Outcome::Skipped("waiver forced-read-of-a-prot-none-pud");
const NO_FLAG: Outcome = Outcome::Skipped("this base has no such flag");
const HANDLE_BUSY: Outcome = Outcome::Skipped("handle in use");

/// What an op runs with.
pub(super) struct Run<'a, 'w, S: Subject> {
    pub(super) cpu: &'a Cpu<'w>,
    /// Never borrowed while a step may be taken: a window may need it.
    pub(super) ledger: &'a RefCell<Ledger>,
    pub(super) subject: &'a S,
    /// Where the slow path runs beside the fast one, if it does.
    pub(super) shadow: Option<&'a World>,
    /// What a call returned before an oracle objected.
    pub(super) returned: Option<CallResult>,
    /// The windows of the op, if it has any.
    pub(super) windows: Option<&'a dyn Around>,
    /// The op in a window of which it runs.
    pub(super) inside: Option<What>,
}

impl<S: Subject> Run<'_, '_, S> {
    /// Runs one op; every oracle looks at what it did.
    pub(super) fn op(&mut self, op: &Op) -> Judged {
        let mm = op.what.mm().unwrap_or(MmId(0));
        let base = self.cpu.kernel.base();
        self.cpu.begin_op(mm, op.fail);
        if self.needs_process(&op.what) && !mm_alive(self.cpu, mm) {
            return Ok(NO_PROCESS);
        }
        let (outcome, misuse) = match op.what {
            ref what if self.subject.lacks(what) => return Ok(NO_CALL),
            What::Call(call) if !call.call.exists_in(base) => return Ok(NO_CALL),
            What::Call(call) if !flags_of(base).contains(call.flags) => return Ok(NO_FLAG),
            What::Call(call) if self.never_ends(&call) => return Ok(NEVER_ENDS),
            What::Call(call) => self.call(&call)?,
            What::Unpin(how, _) if !how.exists_in(base) => return Ok(NO_CALL),
            What::FolioAddPin(..) if base < Base::V6_12 => return Ok(NO_CALL),
            What::Unpin(how, h) if how.is_misuse() => (self.misunpin(how, h), true),
            ref what => {
                self.cpu.watch_steps(self.windows.is_some());
                let done = self.other(what);
                self.cpu.watch_steps(false);
                (done?, false)
            }
        };
        if self.inside.is_some() {
            return bookkeeping::check_own(self.cpu, misuse).map_or(Ok(outcome), Err);
        }
        if let Some(v) = bookkeeping::check(self.cpu, &self.ledger.borrow(), misuse)
            .or_else(|| contents::ties(self.cpu, &self.ledger.borrow()))
        {
            return Err(v);
        }
        Ok(outcome)
    }

    /// Whether another op ran in the middle of this one.
    fn raced(&self) -> bool {
        self.windows.is_some_and(Around::ran)
    }

    fn needs_process(&self, what: &What) -> bool {
        match what {
            What::Munmap(_)
            | What::Mprotect(..)
            | What::Dontneed(_)
            | What::Write(_)
            | What::Read(_)
            | What::Migrate(_)
            | What::SplitHugePage(_)
            | What::SplitHugePmd(_)
            | What::Swapout(_)
            | What::Collapse(_)
            | What::NumaHint(_)
            | What::Fork(..)
            | What::Exit(_)
            | What::Call(_) => true,
            What::Mmap(..)
            | What::MmapFile(..)
            | What::Truncate(..)
            | What::Fsync(_)
            | What::Close(_)
            | What::Unpin(..)
            | What::PutPage(_)
            | What::Tee(..)
            | What::FolioAddPin(..)
            | What::DmaWrite(_)
            | What::DmaRead(_)
            | What::LruAddDrain
            | What::LruAddDrainAll
            | What::IsolateBlock(_)
            | What::UnisolateBlock(_)
            | What::Prefer(_)
            | What::Cpu(_) => false,
        }
    }

    /// Every op but the calls.
    fn other(&mut self, what: &What) -> Judged {
        let cpu = self.cpu;
        Ok(match *what {
            What::Mmap(r, prot, kind) => {
                let map = |r: Range| mmap::mmap(cpu, r.mm, r.addr(), r.pages.into(), prot, kind);
                self.mmap(r, Expect::Exactly(0), map)
            }
            What::MmapFile(r, prot, map) => {
                let map =
                    |r: Range| mmap::mmap_file(cpu, r.mm, r.addr(), r.pages.into(), prot, map);
                self.mmap(r, Expect::Anything, map)
            }
            What::Munmap(r) => {
                self.unsettle(r);
                let done = mmap::munmap(cpu, r.mm, r.addr(), r.pages.into());
                self.forget(r, done.is_ok());
                done.into()
            }
            What::Mprotect(r, prot) => {
                // Waiver pin-then-mprotect, for pins that come in a window, too.
                let untie = || self.ledger.borrow_mut().untie(r.mm, r.bytes());
                let waived = !cpu.since(Base::V6_12);
                waived.then(untie);
                let done = mmap::mprotect(cpu, r.mm, r.addr(), r.pages.into(), prot);
                waived.then(untie);
                done.into()
            }
            What::Dontneed(r) => {
                self.unsettle(r);
                let done = mmap::madvise_dontneed(cpu, r.mm, r.addr(), r.pages.into());
                // A hole does not keep it from the rest.
                self.forget(r, done != Err(Errno::EINVAL));
                done.into()
            }
            What::Write(r) => self.write(r),
            What::Read(r) => return self.read(r),
            What::Fork(parent, child) => self.fork(parent, child),
            What::Exit(mm) => {
                self.ledger.borrow_mut().untie(mm, 0..u64::MAX);
                mmap::exit_mmap(cpu, mm);
                Outcome::Done
            }
            What::Unpin(how, h) => {
                let Some(held) = self.ledger.borrow_mut().handle(h).filter(|x| x.pinned).copied()
                else {
                    return Ok(NO_HANDLE);
                };
                self.subject.unpin(cpu, how, held.pages());
                self.ledger.borrow_mut().release(h);
                Outcome::Done
            }
            What::PutPage(h) => {
                let Some(held) = self.ledger.borrow_mut().handle(h).filter(|x| !x.pinned).copied()
                else {
                    return Ok(NO_HANDLE);
                };
                held.pages().iter().for_each(|&p| page::put_page(cpu, p));
                self.ledger.borrow_mut().release(h);
                Outcome::Done
            }
            What::Tee(from, to) => return self.tee(from, to),
            What::FolioAddPin(from, to) => self.add_pin(from, to),
            What::DmaWrite(h) => self.dma_write(h),
            What::DmaRead(h) => return self.dma_read(h),
            What::Call(_) => unreachable!("calls are run by call()"),
            ref rest => self.kernel_work(rest),
        })
    }

    /// What the kernel does by itself, and settings of the scenario.
    fn kernel_work(&mut self, what: &What) -> Outcome {
        let cpu = self.cpu;
        match *what {
            What::Migrate(r) => match mapped_page(cpu, r.mm, r.addr()) {
                Some(page) => migrate::move_page(cpu, page).into(),
                None => Outcome::Skipped("nothing is mapped there"),
            },
            What::SplitHugePage(r) => match mapped_page(cpu, r.mm, r.addr()) {
                Some(page) => huge_memory::split_huge_page_of(cpu, page).into(),
                None => Outcome::Skipped("nothing is mapped there"),
            },
            What::SplitHugePmd(r) => self.split_huge_pmd(r),
            What::Swapout(r) => match mapped_page(cpu, r.mm, r.addr()) {
                Some(page) => reclaim::swap_out(cpu, page).into(),
                None => Outcome::Skipped("nothing is mapped there"),
            },
            What::Collapse(r) => khugepaged::collapse(cpu, r.mm, r.addr()).into(),
            What::NumaHint(r) => numa::change_prot_numa(cpu, r.mm, r.addr(), r.pages.into()).into(),
            What::LruAddDrain => {
                lru::lru_add_drain(cpu);
                Outcome::Done
            }
            What::LruAddDrainAll => {
                lru::lru_add_drain_all(cpu);
                Outcome::Done
            }
            What::IsolateBlock(b) => zone::set_migratetype_isolate(cpu, b.into()).into(),
            What::UnisolateBlock(b) => {
                zone::unset_migratetype_isolate(cpu, b.into());
                Outcome::Done
            }
            What::Prefer(p) => {
                zone::set_preference(cpu, p);
                Outcome::Done
            }
            What::Cpu(id) => {
                cpu.id.set(id);
                Outcome::Done
            }
            What::Truncate(file, size) => self.truncate(file, size),
            What::Fsync(file) => filemap::fsync(cpu, file).into(),
            What::Close(file) => self.close(file),
            _ => unreachable!("run by other()"),
        }
    }

    /// Maps something in which private memory holds `expect` at first.
    fn mmap(
        &mut self,
        r: Range,
        expect: Expect,
        map: impl FnOnce(Range) -> Result<(), Errno>,
    ) -> Outcome {
        if !mm_alive(self.cpu, r.mm) {
            if let Err(e) = mmap::mm_alloc(self.cpu, r.mm) {
                return Outcome::Failed(e);
            }
            self.ledger.borrow_mut().start(r.mm);
        }
        let done = map(r);
        if done.is_ok() {
            r.addrs().for_each(|a| self.ledger.borrow_mut().set_expect(r.mm, a, expect));
        }
        done.into()
    }

    /// The op is about to give up a range, and others may look meanwhile.
    fn unsettle(&mut self, r: Range) {
        if self.windows.is_some() {
            self.ledger.borrow_mut().unsettle(r.mm, r.bytes());
        }
    }

    /// The process gave up a range, or what of it could be had: what comes
    /// there next is zero, or what the file holds. If it was not `all` and
    /// nothing is there now, the op around may be about to put it back.
    fn forget(&mut self, r: Range, all: bool) {
        let away = !all && self.inside.is_some();
        for a in r.addrs() {
            if leaf_or_swapped_at(self.cpu, r.mm, a).is_some() {
                if self.raced() {
                    // Of before, or of whoever came in between.
                    self.ledger.borrow_mut().set_expect(r.mm, a, Expect::Anything);
                }
                continue;
            }
            let vma = vma_lookup(self.cpu, r.mm, a);
            let file = vma.is_some_and(|v| v.file().is_some());
            self.ledger.borrow_mut().untie(r.mm, a..a + 1);
            let expect = if file || away { Expect::Anything } else { Expect::Exactly(0) };
            self.ledger.borrow_mut().set_expect(r.mm, a, expect);
        }
    }

    /// Truncation takes the copies in private mappings away, too.
    fn truncate(&mut self, file: File, size: u8) -> Outcome {
        if self.windows.is_some() {
            self.unsettle_mappings(file);
        }
        let done = filemap::truncate(self.cpu, file, size.into());
        if done.is_err() {
            return done.into();
        }
        let size = size << file.order();
        self.ledger.borrow_mut().truncate(file, size);
        for mm in (0..MMS).map(MmId).filter(|&mm| mm_alive(self.cpu, mm)) {
            for vma in vmas(self.cpu, mm).filter(|v| v.file() == Some(file)) {
                let first = vma.backing.pgoff().max(size.into());
                let Some(addr) = vma.address_of(first) else { continue };
                let pages = ((vma.end - addr) / PAGE_SIZE) as u8;
                self.forget(Range { mm, page: (addr / PAGE_SIZE) as u8, pages }, true);
            }
        }
        Outcome::Done
    }

    /// The last user of a file goes, and its contents with it.
    fn close(&mut self, file: File) -> Outcome {
        let maps = |mm| vmas(self.cpu, mm).any(|v| v.file() == Some(file));
        if (0..MMS).map(MmId).any(|mm| mm_alive(self.cpu, mm) && maps(mm)) {
            return Outcome::Skipped("it is mapped");
        }
        filemap::evict(self.cpu, file);
        self.ledger.borrow_mut().truncate(file, 0);
        Outcome::Done
    }

    /// Truncation is about to take pages away, page by page.
    fn unsettle_mappings(&mut self, file: File) {
        let mut ledger = self.ledger.borrow_mut();
        ledger.unsettle_file(file);
        for mm in (0..MMS).map(MmId).filter(|&mm| mm_alive(self.cpu, mm)) {
            for vma in vmas(self.cpu, mm).filter(|v| v.file() == Some(file)) {
                ledger.unsettle(mm, vma.start..vma.end);
            }
        }
    }

    fn write(&mut self, r: Range) -> Outcome {
        for addr in r.addrs() {
            let store = || {
                let shared = shared_page(self.cpu, r.mm, addr);
                let mut ledger = self.ledger.borrow_mut();
                let pid = if shared.is_some() { 0 } else { ledger.pid(r.mm) };
                let token = ledger.next_store(pid);
                match shared {
                    Some(page) => ledger.set_expect_in_file(page, Expect::Exactly(token)),
                    None => ledger.set_expect(r.mm, addr, Expect::Exactly(token)),
                }
                token
            };
            if let Err(e) = memory::user_store_with(self.cpu, r.mm, addr, store) {
                return Outcome::Failed(e);
            }
        }
        Outcome::Done
    }

    fn read(&mut self, r: Range) -> Judged {
        for addr in r.addrs() {
            let (page, token) = match memory::user_load(self.cpu, r.mm, addr) {
                Ok(found) => found,
                Err(e) => return Ok(Outcome::Failed(e)),
            };
            // A driver's buffer is shared by design.
            let driver = |v: Vma| !v.is_anonymous() && v.file().is_none();
            if vma_lookup(self.cpu, r.mm, addr).is_none_or(driver) {
                continue;
            }
            let expect = match shared_page(self.cpu, r.mm, addr) {
                Some(page) => self.ledger.borrow_mut().expect_in_file(page),
                None => self.ledger.borrow_mut().expect(r.mm, addr),
            };
            let pid = self.ledger.borrow_mut().pid(r.mm);
            contents::read(&self.ledger.borrow(), pid, page, expect, token).map_or(Ok(()), Err)?;
        }
        Ok(Outcome::Done)
    }

    fn fork(&mut self, parent: MmId, child: MmId) -> Outcome {
        if mm_alive(self.cpu, child) {
            return Outcome::Skipped("the child's slot is taken");
        }
        if self.inside.is_some() && !self.cpu.since(Base::V6_12) {
            self.untie_migrating(parent);
        }
        let before = self.windows.map(|_| self.ledger.borrow().contents(parent));
        let done = fork::dup_mmap(self.cpu, parent, child);
        if done.is_ok() {
            self.ledger.borrow_mut().fork(parent, child);
            if let Some(before) = before {
                self.ledger.borrow_mut().stored_during_fork(child, &before);
            }
        }
        done.into()
    }

    /// Waiver fork-during-migration.
    fn untie_migrating(&mut self, mm: MmId) {
        let mut ledger = self.ledger.borrow_mut();
        let ties = ledger
            .ties()
            .filter(|&(m, addr, _)| m == mm && mapped_page(self.cpu, mm, addr).is_none());
        let migrating: Vec<u64> = ties.map(|(_, addr, _)| addr).collect();
        migrating.into_iter().for_each(|addr| ledger.untie(mm, addr..addr + 1));
    }

    fn split_huge_pmd(&mut self, r: Range) -> Outcome {
        let (cpu, addr) = (self.cpu, r.addr());
        let huge = leaf_at(cpu, r.mm, addr).is_some_and(|l| l.huge);
        let vma = vma_lookup(cpu, r.mm, addr).filter(|v| !v.is_hugetlb());
        let found = vma.zip(mm_find_pmd(cpu, r.mm, addr));
        let Some((vma, pmdp)) = found.filter(|_| huge) else {
            return Outcome::Skipped("no PMD-mapped THP there");
        };
        mmap_read_lock(cpu, r.mm);
        huge_memory::split_huge_pmd(cpu, &vma, pmdp);
        mmap_read_unlock(cpu, r.mm);
        Outcome::Done
    }

    fn tee(&mut self, from: Handle, to: Handle) -> Judged {
        let Some(held) = self.ledger.borrow_mut().handle(from).filter(|h| !h.pinned).copied()
        else {
            return Ok(NO_HANDLE);
        };
        if self.ledger.borrow_mut().handle(to).is_some() {
            return Ok(HANDLE_BUSY);
        }
        let got = held.pages().iter().take_while(|&&p| pipe::generic_pipe_buf_get(self.cpu, p));
        let got = got.count();
        if got > 0 {
            self.ledger.borrow_mut().hold(self.cpu.world, to, held.teed(got), |_, _| false);
        }
        if got < held.pages().len() {
            let expected = "whoever holds a reference can have another".into();
            let actual = format!("tee() got {got} of {}", held.pages().len());
            let v = Violation::new("errno", expected, actual);
            return Err(Violation { function: Some("generic_pipe_buf_get"), ..v });
        }
        Ok(Outcome::Done)
    }

    fn add_pin(&mut self, from: Handle, to: Handle) -> Outcome {
        let Some(held) = self.ledger.borrow().handle(from).filter(|h| h.pinned).copied() else {
            return NO_HANDLE;
        };
        if self.ledger.borrow().handle(to).is_some() {
            return HANDLE_BUSY;
        }
        self.subject.add_pin(self.cpu, held.pages());
        // A window may have changed what is known of the pins.
        let held = self.ledger.borrow().handle(from).copied().unwrap_or(held);
        self.ledger.borrow_mut().hold_again(self.cpu.world, to, held);
        Outcome::Done
    }

    /// The kernel warns and gives nothing back, so the handle stays.
    fn misunpin(&mut self, how: Unpin, h: Handle) -> Outcome {
        let held = self.ledger.borrow().handle(h).filter(|h| h.pinned).copied();
        let Some(held) = held else { return NO_HANDLE };
        self.subject.unpin(self.cpu, how, held.pages());
        Outcome::Done
    }

    fn dma_write(&mut self, h: Handle) -> Outcome {
        let Some(mut held) = self.ledger.borrow_mut().handle(h).copied() else { return NO_HANDLE };
        if !(held.pinned && held.write) {
            return Outcome::Skipped("not pinned for writing");
        }
        for i in 0..held.pages().len() {
            let page = held.pages()[i];
            let store = || {
                let mut ledger = self.ledger.borrow_mut();
                // A window may have changed what is known of the pins.
                held = ledger.handle(h).copied().unwrap_or(held);
                let pid = if held.owner(i) == Owner::Process { held.pid } else { 0 };
                ledger.next_store(pid)
            };
            let token = memory::dma_write_with(self.cpu, page, store);
            let (owner, mm, addr) = (held.owner(i), held.mm, held.addr_of(i));
            if let Owner::File(page) = owner {
                self.ledger.borrow_mut().set_expect_in_file(page, Expect::Exactly(token));
            } else if owner == Owner::Nobody {
                continue;
            } else if held.is_tied(i) {
                self.ledger.borrow_mut().set_expect(mm, addr, Expect::Exactly(token));
            } else if self.ledger.borrow_mut().pid(mm) == held.pid {
                self.ledger.borrow_mut().set_expect(mm, addr, Expect::Anything);
            }
        }
        Outcome::Done
    }

    fn dma_read(&mut self, h: Handle) -> Judged {
        let Some(held) = self.ledger.borrow_mut().handle(h).copied() else { return Ok(NO_HANDLE) };
        for (i, page) in held.pages().to_vec().into_iter().enumerate() {
            let token = memory::dma_read(self.cpu, page);
            let held = self.ledger.borrow().handle(h).copied().unwrap_or(held);
            let expect = match held.owner(i) {
                Owner::File(page) => self.ledger.borrow_mut().expect_in_file(page),
                // A driver's, or a file's page that was only read.
                _ if !self.cpu.world.look(page).anon => continue,
                // Waiver hugetlb-reuse-by-mapcount.
                _ if !held.pinned && self.cpu.world.look(page).hugetlb => continue,
                _ if held.is_tied(i) => self.ledger.borrow_mut().expect(held.mm, held.addr_of(i)),
                _ => Expect::Anything,
            };
            contents::read(&self.ledger.borrow(), held.pid, page, expect, token)
                .map_or(Ok(()), Err)?;
        }
        Ok(Outcome::Done)
    }

    /// Waiver forced-read-of-a-prot-none-pud.
    fn never_ends(&self, op: &CallOp) -> bool {
        let forced = op.flags.contains(Foll::FORCE) && !op.flags.contains(Foll::WRITE);
        let prot_none_pud = |addr| {
            let vma = vma_lookup(self.cpu, op.range.mm, addr);
            vma.is_some_and(|v| v.file() == Some(File::HugetlbPud) && !v.is_accessible())
        };
        forced && !op.call.fast_only() && op.range.addrs().any(prot_none_pud)
    }

    /// A call of mm/gup.c; also whether it broke a documented rule.
    fn call(&mut self, op: &CallOp) -> Result<(Outcome, bool), Violation> {
        if self.ledger.borrow_mut().handle(op.handle).is_some() {
            return Ok((HANDLE_BUSY, false));
        }
        let spec = errno::specify(self.cpu, &self.ledger.borrow(), op);
        let slow = self.shadow.filter(|_| self.windows.is_none()).and_then(|shadow| {
            let slow = agreement::slow_counterpart(op)?;
            shadow.copy_from(self.cpu.world);
            Some((slow, shadow))
        });
        let asked = usize::from(op.range.pages);
        let mut pages = [Page::UNSET; MAX_CALL_PAGES];
        let mut vmas = [Vma::UNSET; MAX_CALL_PAGES];
        self.cpu.watch_steps(self.windows.is_some());
        let (result, lock_lie) =
            invoke(self.cpu, self.subject, op, &mut pages[..asked], &mut vmas[..asked]);
        self.cpu.watch_steps(false);
        self.returned = Some(result);
        let n = result.unwrap_or(0).min(asked);
        if !op.nopages {
            self.book(op, &pages[..n]);
        }
        // After a BUG the task is dead: what it left behind is no wonder.
        let bug =
            self.cpu.has_splat() && self.cpu.splats().iter().any(|s| s.kind == SplatKind::Bug);
        let objection = lock_lie
            .filter(|_| !bug)
            .or_else(|| self.judge_call(op, &spec, result, &pages[..n], &vmas[..n]))
            .or_else(|| {
                let (slow, shadow) = slow?;
                self.compare(op, &slow, shadow, spec.misuse, result, &pages)
            });
        match objection {
            Some(v) => Err(v),
            None => Ok((Outcome::Returned(result), spec.misuse)),
        }
    }

    /// Books what a call handed out.
    fn book(&mut self, op: &CallOp, pages: &[Page]) {
        // Entries that were never set, or set to NULL, are nothing to own.
        let none = |&p: &Page| !self.cpu.world.has_frame(p);
        let owned = pages.iter().position(none).unwrap_or(pages.len());
        if owned == 0 {
            return;
        }
        let (cpu, mm) = (self.cpu, op.range.mm);
        let write = op.flags.contains(Foll::WRITE);
        let mut held = self.ledger.borrow_mut().new_held(
            op.call.pins(),
            write,
            mm,
            op.range.addr(),
            &pages[..owned],
        );
        for (i, addr) in op.range.addrs().take(owned).enumerate() {
            let file = shared_page(cpu, mm, addr);
            if let Some(page) = file {
                held.is_of(i, page);
            }
            // Truncated before the call returned.
            let cut_off = file.is_some() && cpu.world.look(held.pages()[i]).file.is_none();
            if self.raced() && cut_off {
                held.is_nobodys(i);
            }
        }
        let (base, raced) = (cpu.kernel.base(), self.raced());
        let for_long = op.call.pins() && op.flags.contains(Foll::LONGTERM);
        // Waiver pin-during-swap-out.
        let unheeded = base < Base::V6_12 && matches!(self.inside, Some(What::Swapout(_)));
        let unsettled = |addr: u64| self.ledger.borrow().is_unsettled(mm, addr);
        let given_up = op.range.addrs().take(owned).enumerate();
        let given_up = given_up.fold(0u16, |set, (i, a)| set | u16::from(unsettled(a)) << i);
        let firm = if raced { self.firm(op, &pages[..owned]) } else { 0 };
        self.ledger.borrow_mut().hold(cpu.world, op.handle, held, |i, page| {
            if unheeded || given_up >> i & 1 != 0 {
                return false;
            }
            if raced && firm >> i & 1 != 0 {
                return true;
            }
            let addr = held.addr_of(i);
            let vma = vma_lookup(cpu, mm, addr);
            let private = vma.is_some_and(|v| v.is_cow_mapping());
            let leaf = leaf_at(cpu, mm, addr).filter(|l| private && l.page == page);
            if base >= Base::V6_12 {
                // Waiver read-only-pin-of-nothing-yet.
                leaf.is_some_and(|l| for_long || cpu.world.look(l.page).anon)
            } else {
                // Waiver read-only-pin-of-read-only-entry.
                let writable = vma.is_some_and(|v| v.flags.contains(VmFlags::WRITE));
                leaf.is_some_and(|l| l.write && writable)
            }
        });
    }

    /// Which pins of a call must hold whatever ran in its windows: the entry
    /// may be another by now, and that is just what must not be.
    fn firm(&self, op: &CallOp, pages: &[Page]) -> u16 {
        let (cpu, ledger) = (self.cpu, self.ledger.borrow());
        let firm = |addr, page| {
            let vma = vma_lookup(cpu, op.range.mm, addr).filter(|v| v.is_cow_mapping());
            let given_up = ledger.was_given_up(op.range.mm, addr);
            let promised = if cpu.since(Base::V6_12) {
                vma.is_some()
            } else {
                // Waiver read-only-pin-of-read-only-entry.
                let flags = op.flags & (Foll::WRITE | Foll::FORCE);
                flags == Foll::WRITE && vma.is_some_and(|v| v.flags.contains(VmFlags::WRITE))
            };
            promised && !given_up && cpu.world.look(page).anon
        };
        let all = op.range.addrs().zip(pages).enumerate();
        all.fold(0, |set, (i, (addr, &page))| set | u16::from(firm(addr, page)) << i)
    }

    fn judge_call(
        &self,
        op: &CallOp,
        spec: &errno::Spec,
        result: CallResult,
        pages: &[Page],
        vmas: &[Vma],
    ) -> Option<Violation> {
        if !spec.misuse && !op.nopages {
            let vmas = takes_vmas(self.cpu.kernel.base(), op).then_some(vmas);
            let raced = self.windows.filter(|w| w.ran());
            let was_mapped = |i, page| raced.is_some_and(|w| w.was_mapped(i, page));
            let vma_changed = |i| raced.is_some_and(|w| w.vma_changed(i));
            let was_secret = |page| raced.is_some_and(|w| w.was_secret(self.cpu.world, page));
            let isolates = |what: &What| matches!(what, What::IsolateBlock(_));
            let isolated = raced.is_some_and(|w| w.any(isolates));
            if let Some(v) = results::array(self.cpu, op, pages, vmas, was_mapped)
                .or_else(|| results::placement(self.cpu, op, pages, isolated))
                .or_else(|| results::permission(self.cpu, op, pages, vma_changed, was_secret))
            {
                return Some(v);
            }
        }
        if self.inside.is_some() {
            return bookkeeping::check_own(self.cpu, spec.misuse);
        }
        // A call that the kernel had to warn about, or that never ended, is
        // reported as that.
        let errno = || errno::check(self.cpu, op, spec, result);
        bookkeeping::check(self.cpu, &self.ledger.borrow(), spec.misuse)
            .or_else(|| if self.raced() { None } else { errno() })
    }

    /// Runs the slow counterpart in the shadow world and compares.
    fn compare(
        &self,
        op: &CallOp,
        slow: &CallOp,
        shadow: &World,
        misuse: bool,
        result: CallResult,
        pages: &[Page],
    ) -> Option<Violation> {
        if !agreement::comparable(self.cpu, misuse) {
            return None;
        }
        let cpu = Cpu::new(shadow, self.cpu.kernel, self.cpu.id.get());
        cpu.begin_op(op.range.mm, None);
        let asked = usize::from(op.range.pages);
        let mut slow_pages = [Page::UNSET; MAX_CALL_PAGES];
        let mut vmas = [Vma::UNSET; MAX_CALL_PAGES];
        let (slow_result, _) =
            invoke(&cpu, self.subject, slow, &mut slow_pages[..asked], &mut vmas[..asked]);
        let fast = Side { result, pages, world: self.cpu.world };
        let slow = Side { result: slow_result, pages: &slow_pages, world: shadow };
        agreement::check(op, &fast, &slow)
    }
}

/// The page of a file that an address maps shared.
fn shared_page(cpu: &Cpu, mm: MmId, addr: u64) -> Option<FilePage> {
    let vma = vma_lookup(cpu, mm, addr).filter(|v| v.flags.contains(VmFlags::SHARED))?;
    Some(FilePage { file: vma.file()?, index: vma.page_index(addr) as u8 })
}

/// Whether the call has a `vmas` argument that can be used with these options.
fn takes_vmas(base: Base, op: &CallOp) -> bool {
    let has = matches!(op.call, Call::GetUserPages | Call::PinUserPages) || op.call.remote();
    base < Base::V6_12 && has && !op.locked
}

/// Makes the call with the locks and pointers that it wants. Also answers
/// whether `*locked` told the truth about mmap_lock.
fn invoke<S: Subject>(
    cpu: &Cpu,
    subject: &S,
    op: &CallOp,
    pages: &mut [Page],
    vmas: &mut [Vma],
) -> (CallResult, Option<Violation>) {
    let mm = op.range.mm;
    let takes_locked =
        op.locked || matches!(op.call, Call::GetUserPagesLocked | Call::PinUserPagesLocked);
    let locks_itself = op.call.fast()
        || matches!(op.call, Call::GetUserPagesUnlocked | Call::PinUserPagesUnlocked);
    let mut locked = true;
    // Others hold it in the middle of an op of theirs.
    let others = mmap_lock_holders(cpu, mm);
    if !locks_itself {
        mmap_read_lock(cpu, mm);
    }
    let result = subject.call(
        cpu,
        op,
        Args {
            pages: (!op.nopages).then_some(pages),
            vmas: takes_vmas(cpu.kernel.base(), op).then_some(vmas),
            locked: takes_locked.then_some(&mut locked),
        },
    );
    let held = mmap_lock_holders(cpu, mm) - others;
    let should = i32::from(!locks_itself && locked);
    let lie = (held != should).then(|| {
        let expected = match (takes_locked, should) {
            (true, _) => {
                format!("*locked == {} tells whether mmap_lock is held", i32::from(locked))
            }
            (false, 0) => "mmap_lock is not held after the call".into(),
            (false, _) => "mmap_lock is still held after the call".into(),
        };
        Violation::new("locking", expected, format!("it has {held} holders"))
    });
    if held == 1 && lie.is_none() {
        mmap_read_unlock(cpu, mm);
    }
    (result, lie)
}
