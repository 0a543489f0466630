// SPDX-License-Identifier: GPL-2.0-only
//! What the harness itself knows: what it holds, what was written where, and
//! which pin is tied to which address.

use std::ops::Range;

use gup_core::model::filemap::{FILE_PAGES, File};
use gup_core::model::limits::{MAX_CALL_PAGES, MAX_FRAMES, PAGE_SIZE};
use gup_core::model::mm::MmId;
use gup_core::model::vmstat::NodeStat;
use gup_core::model::{Page, World};

use crate::scenario::{HANDLES, Handle, MMS, PAGES};

/// What a read should find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expect {
    /// This token.
    Exactly(u64),
    /// Unknown: a device wrote through a pin that was not tied any more.
    Anything,
}

/// A page of a file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FilePage {
    /// The file.
    pub file: File,
    /// Which of its pages.
    pub index: u8,
}

/// Whose a page is that a call handed out.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    /// The process's own; or a driver's.
    Process,
    /// Everybody's who maps the file.
    File(FilePage),
    /// Nobody's any more: the file was truncated.
    Nobody,
}

/// What a call handed out, until it is given back.
#[derive(Clone, Copy, Debug)]
pub struct Held {
    /// Pins, or plain references.
    pub pinned: bool,
    /// Whether the call asked for FOLL_WRITE.
    pub write: bool,
    /// The process whose memory it was.
    pub pid: u16,
    /// Its mm.
    pub mm: MmId,
    /// The address of the first page.
    pub addr: u64,
    len: usize,
    pages: [Page; MAX_CALL_PAGES],
    owners: [Owner; MAX_CALL_PAGES],
    tied: u16,
}

impl Held {
    /// The pages, in the order of the addresses.
    pub fn pages(&self) -> &[Page] {
        &self.pages[..self.len]
    }
    /// The address that page `i` was found at.
    pub fn addr_of(&self, i: usize) -> u64 {
        self.addr + i as u64 * PAGE_SIZE
    }
    /// Whether page `i` must still be what its address maps.
    pub fn is_tied(&self, i: usize) -> bool {
        self.tied >> i & 1 != 0
    }
    /// Whose page `i` is.
    pub fn owner(&self, i: usize) -> Owner {
        self.owners[i]
    }
    /// Page `i` was found in a shared mapping of a file.
    pub fn is_of(&mut self, i: usize, page: FilePage) {
        self.owners[i] = Owner::File(page);
    }
    /// Page `i` is of a file no more.
    pub fn is_nobodys(&mut self, i: usize) {
        self.owners[i] = Owner::Nobody;
    }
    /// Further references on the first `n` pages, for the same process: a
    /// pipe's pages stay those of whoever filled it.
    #[must_use]
    pub fn teed(&self, n: usize) -> Held {
        Held { pinned: false, len: n, tied: 0, ..*self }
    }
    fn tie(&mut self, i: usize) {
        self.tied |= 1 << i;
    }
}

/// A process, dead or alive: mms are used again, processes are not.
#[derive(Clone, Copy, Debug)]
struct Process {
    parent: u16,
    /// The parent's stores up to this one are its own, too.
    forked_at: u64,
}

/// What the harness knows of a run.
#[derive(Clone, Debug)]
pub struct Ledger {
    handles: [Option<Held>; HANDLES as usize],
    gets: [i32; MAX_FRAMES],
    pins: [i32; MAX_FRAMES],
    epochs: [u32; MAX_FRAMES],
    owned: u128,
    pins_counted: i64,
    /// The page whose pins the kernel does not count: the zero page since
    /// c8070b787519.
    uncounted: Option<Page>,
    tied: u128,
    /// Process 0 is nobody, or everybody.
    processes: Vec<Process>,
    pids: [u16; MMS as usize],
    shadow: [[Expect; PAGES as usize]; MMS as usize],
    files: [[Expect; FILE_PAGES as usize]; File::COUNT],
    stores: u64,
    /// What another CPU does in the middle of an op is booked now.
    inside: bool,
    /// The addresses that were given up so.
    given_up: Vec<(MmId, Range<u64>)>,
    /// What the op around gives up meanwhile, page by page.
    unsettled: Vec<(MmId, Range<u64>)>,
    unsettled_file: Option<File>,
}

const ZEROES: [[Expect; FILE_PAGES as usize]; File::COUNT] =
    [[Expect::Exactly(0); FILE_PAGES as usize]; File::COUNT];

impl Default for Ledger {
    fn default() -> Self {
        Self::new()
    }
}

fn slot(addr: u64) -> usize {
    (addr / PAGE_SIZE) as usize
}

impl Ledger {
    /// Nothing held, nothing written.
    pub fn new() -> Self {
        Ledger {
            handles: [None; HANDLES as usize],
            gets: [0; MAX_FRAMES],
            pins: [0; MAX_FRAMES],
            epochs: [0; MAX_FRAMES],
            owned: 0,
            pins_counted: 0,
            uncounted: None,
            tied: 0,
            processes: vec![Process { parent: 0, forked_at: 0 }],
            pids: [0; MMS as usize],
            shadow: [[Expect::Exactly(0); PAGES as usize]; MMS as usize],
            files: ZEROES,
            stores: 0,
            inside: false,
            given_up: Vec::new(),
            unsettled: Vec::new(),
            unsettled_file: None,
        }
    }

    /// Forgets everything, in place: nothing is held in `world`. Pins of
    /// `uncounted` do not count from now on.
    pub fn reset(&mut self, world: &World, uncounted: Option<Page>) {
        self.uncounted = uncounted;
        self.handles = [None; HANDLES as usize];
        self.gets = [0; MAX_FRAMES];
        self.pins = [0; MAX_FRAMES];
        (self.owned, self.tied, self.stores) = (0, 0, 0);
        self.pins_counted = world.node_stat(NodeStat::NR_FOLL_PIN_ACQUIRED)
            - world.node_stat(NodeStat::NR_FOLL_PIN_RELEASED);
        self.processes.truncate(1);
        self.files = ZEROES;
    }

    /// What a handle holds.
    pub fn handle(&self, h: Handle) -> Option<&Held> {
        self.handles[usize::from(h.0)].as_ref()
    }
    /// The handles in use.
    pub fn live_handles(&self) -> impl Iterator<Item = Handle> + use<> {
        let live = (0..HANDLES).filter(|&h| self.handles[usize::from(h)].is_some());
        live.map(Handle).collect::<Vec<_>>().into_iter()
    }
    /// Frames on which something is held.
    pub fn owned_frames(&self) -> u128 {
        self.owned
    }
    /// References and pins held on one frame.
    pub fn held(&self, page: Page) -> (i32, i32) {
        (self.gets[usize::from(page.0)], self.pins[usize::from(page.0)])
    }
    /// The epoch of a held frame when it was first held.
    pub fn epoch(&self, page: Page) -> u32 {
        self.epochs[usize::from(page.0)]
    }
    /// Pins held in all, as the statistics should have them.
    pub fn pins_counted(&self) -> i64 {
        self.pins_counted
    }
    /// Frames with a tied pin.
    pub fn tied_frames(&self) -> u128 {
        self.tied
    }
    /// Every tied pin: the address and the page it must map.
    pub fn ties(&self) -> impl Iterator<Item = (MmId, u64, Page)> + '_ {
        self.handles.iter().flatten().filter(|h| h.tied != 0).flat_map(|h| {
            let tied = (0..h.len).filter(|&i| h.is_tied(i));
            tied.map(|i| (h.mm, h.addr_of(i), h.pages[i]))
        })
    }

    /// Books what a call handed out. `tied` says which pages are tied to
    /// their addresses.
    pub fn hold(
        &mut self,
        world: &World,
        h: Handle,
        mut held: Held,
        tied: impl Fn(usize, Page) -> bool,
    ) {
        for i in 0..held.len {
            let page = held.pages[i];
            let n = usize::from(page.0);
            let first = self.gets[n] == 0 && self.pins[n] == 0;
            // What the op around gives back may have been used again already.
            if first || self.inside {
                self.epochs[n] = world.epoch(page);
                self.owned |= page.bit();
            }
            if held.pinned {
                let counts = i32::from(self.uncounted != Some(page));
                self.pins[n] += counts;
                self.pins_counted += i64::from(counts);
                if tied(i, page) {
                    held.tie(i);
                    self.tied |= page.bit();
                }
            } else {
                self.gets[n] += 1;
            }
        }
        self.handles[usize::from(h.0)] = Some(held);
    }

    /// Books further pins on all that `held` has, by folio_add_pin().
    pub fn hold_again(&mut self, world: &World, to: Handle, held: Held) {
        let counted = self.pins_counted;
        self.hold(world, to, held, |i, _| held.is_tied(i));
        // Waiver further-pins-uncounted.
        self.pins_counted = counted;
    }

    /// A [`Held`] of these pages.
    pub fn new_held(&self, pinned: bool, write: bool, mm: MmId, addr: u64, pages: &[Page]) -> Held {
        let mut all = [Page::UNSET; MAX_CALL_PAGES];
        all[..pages.len()].copy_from_slice(pages);
        let pid = self.pid(mm);
        let owners = [Owner::Process; MAX_CALL_PAGES];
        Held { pinned, write, pid, mm, addr, len: pages.len(), pages: all, owners, tied: 0 }
    }

    /// Books that a handle was given back.
    pub fn release(&mut self, h: Handle) {
        let Some(held) = self.handles[usize::from(h.0)].take() else { return };
        for &page in held.pages() {
            let n = usize::from(page.0);
            if held.pinned {
                let counts = i32::from(self.uncounted != Some(page));
                self.pins[n] -= counts;
                self.pins_counted -= i64::from(counts);
            } else {
                self.gets[n] -= 1;
            }
            if self.gets[n] == 0 && self.pins[n] == 0 {
                self.owned &= !page.bit();
            }
        }
        self.recount_ties();
    }

    fn recount_ties(&mut self) {
        if self.tied != 0 {
            self.tied = self.ties().fold(0, |set, (_, _, page)| set | page.bit());
        }
    }

    /// The addresses are the process's own business from now on: pins taken
    /// there are no longer tied.
    pub fn untie(&mut self, mm: MmId, addrs: Range<u64>) {
        if self.inside {
            self.given_up.push((mm, addrs.clone()));
        }
        if self.tied == 0 {
            return;
        }
        for held in self.handles.iter_mut().flatten().filter(|h| h.mm == mm) {
            for i in 0..held.len {
                if addrs.contains(&held.addr_of(i)) {
                    held.tied &= !(1 << i);
                }
            }
        }
        self.recount_ties();
    }

    /// What is booked from now on happens in the middle of an op, or not.
    pub fn inside(&mut self, inside: bool) {
        self.inside = inside;
    }

    /// Whether an address was given up in the middle of the op that runs.
    pub fn was_given_up(&self, mm: MmId, addr: u64) -> bool {
        self.given_up.iter().any(|(m, addrs)| *m == mm && addrs.contains(&addr))
    }

    /// The op that runs gives these addresses up, page by page: until it ends,
    /// nobody knows what is there, and pins taken there are no longer tied.
    pub fn unsettle(&mut self, mm: MmId, addrs: Range<u64>) {
        self.untie(mm, addrs.clone());
        self.unsettled.push((mm, addrs));
    }

    /// Likewise what a file holds.
    pub fn unsettle_file(&mut self, file: File) {
        self.unsettled_file = Some(file);
    }

    /// The op with windows has ended.
    pub fn settle(&mut self) {
        self.given_up.clear();
        self.unsettled.clear();
        self.unsettled_file = None;
    }

    /// Whether the op around gives the address up now.
    pub fn is_unsettled(&self, mm: MmId, addr: u64) -> bool {
        self.unsettled.iter().any(|(m, addrs)| *m == mm && addrs.contains(&addr))
    }

    /// The process that runs in an mm now.
    pub fn pid(&self, mm: MmId) -> u16 {
        self.pids[usize::from(mm.0)]
    }

    /// A process without memory starts.
    pub fn start(&mut self, mm: MmId) {
        self.pids[usize::from(mm.0)] = self.processes.len() as u16;
        self.processes.push(Process { parent: 0, forked_at: 0 });
        self.shadow[usize::from(mm.0)] = [Expect::Exactly(0); PAGES as usize];
    }

    /// `child` starts as a copy of `parent` as it is now.
    pub fn fork(&mut self, parent: MmId, child: MmId) {
        let pid = self.pid(parent);
        self.pids[usize::from(child.0)] = self.processes.len() as u16;
        self.processes.push(Process { parent: pid, forked_at: self.stores });
        self.shadow[usize::from(child.0)] = self.shadow[usize::from(parent.0)];
    }

    /// What a process should read, page by page.
    pub fn contents(&self, mm: MmId) -> [Expect; PAGES as usize] {
        self.shadow[usize::from(mm.0)]
    }

    /// `before` is what the parent had when fork() began: what it stored since
    /// then the child may have or not.
    pub fn stored_during_fork(&mut self, child: MmId, before: &[Expect; PAGES as usize]) {
        for (now, then) in self.shadow[usize::from(child.0)].iter_mut().zip(before) {
            if now != then {
                *now = Expect::Anything;
            }
        }
    }

    /// A token for the next store of a process.
    pub fn next_store(&mut self, pid: u16) -> u64 {
        self.stores += 1;
        self.stores << 16 | u64::from(pid)
    }

    /// What a process should read at an address.
    pub fn expect(&self, mm: MmId, addr: u64) -> Expect {
        if self.is_unsettled(mm, addr) {
            return Expect::Anything;
        }
        self.shadow[usize::from(mm.0)][slot(addr)]
    }

    /// What it should read from now on.
    pub fn set_expect(&mut self, mm: MmId, addr: u64, e: Expect) {
        self.shadow[usize::from(mm.0)][slot(addr)] = e;
    }

    /// What a page of a file should hold.
    pub fn expect_in_file(&self, p: FilePage) -> Expect {
        if self.unsettled_file == Some(p.file) {
            return Expect::Anything;
        }
        let pages = self.files[p.file as usize];
        pages.get(usize::from(p.index)).copied().unwrap_or(Expect::Anything)
    }

    /// What it should hold from now on.
    pub fn set_expect_in_file(&mut self, p: FilePage, e: Expect) {
        if let Some(slot) = self.files[p.file as usize].get_mut(usize::from(p.index)) {
            *slot = e;
        }
    }

    /// The file lost its pages from `size` on; what is held of them is cut
    /// off, and what comes in their places is zero.
    pub fn truncate(&mut self, file: File, size: u8) {
        let from = usize::from(size).min(FILE_PAGES as usize);
        self.files[file as usize][from..].fill(Expect::Exactly(0));
        for owner in self.handles.iter_mut().flatten().flat_map(|h| &mut h.owners) {
            if matches!(owner, Owner::File(p) if p.file == file && p.index >= size) {
                *owner = Owner::Nobody;
            }
        }
    }

    /// Whether a process may see a store: its own, or an ancestor's from
    /// before they parted; or one to shared memory, which is of process 0.
    pub fn may_see(&self, pid: u16, token: u64) -> bool {
        let (writer, when) = ((token & 0xffff) as u16, token >> 16);
        if writer == 0 {
            return true;
        }
        let (mut p, mut until) = (pid, u64::MAX);
        while p != 0 {
            if writer == p {
                return when <= until;
            }
            let Process { parent, forked_at } = self.processes[usize::from(p)];
            (p, until) = (parent, until.min(forked_at));
        }
        false
    }
}
