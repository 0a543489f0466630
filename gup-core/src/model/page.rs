// SPDX-License-Identifier: GPL-2.0-only
//! Page frames: struct page and the helpers around it.
//!
//! Duplicated: the reference count with its freezing, add-unless-zero and
//! saturation tests; compound pages; their pin count, from the order on that
//! the base has it for; page_maybe_dma_pinned(); is_pinnable_page();
//! PageAnonExclusive(). Customised: mapcounts start at 0 instead of −1; PMD
//! mappings are counted on the head alone (no double-map trick); the contents
//! of a page are one data token; an epoch counts how often the frame was
//! allocated. Stubbed: memory cgroups, hardware poison, KASAN tags.

use super::cpu::{Cpu, Event, FailSite, STEP_BUDGET};
use super::filemap::File;
use super::folio::{Folio, Migratetype, folio_mapping, folio_migratetype, secretmem_mapping};
use super::wait::Wait;
use super::zone;
use crate::atomic::{Atomic32, Flags32, Guarded32, Guarded64};
use crate::errno::Errno;
use crate::flags::Pg;
use crate::history::{Defect, Safeguard};
use crate::step::StepKind;

/// What a pin of a small page adds to its reference count.
/// C: GUP_PIN_COUNTING_BIAS, linux/mm.h
pub const GUP_PIN_COUNTING_BIAS: i32 = 1 << 10;

/// A page frame, by number. C: struct page *
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Page(pub u16);

impl Page {
    /// An entry of a result array that no call has set.
    pub const UNSET: Page = Page(u16::MAX);
    /// A page pointer that a call has set to NULL.
    pub const NULL: Page = Page(u16::MAX - 1);

    /// Its bit in a set of frames; none for [`Page::UNSET`].
    #[inline]
    pub fn bit(self) -> u128 {
        1u128.checked_shl(self.0.into()).unwrap_or(0)
    }
    /// The page `n` frames on. C: nth_page()
    #[inline]
    pub fn nth(self, n: u64) -> Page {
        Page(self.0.wrapping_add(n as u16))
    }
}

/// The pages of a set of frames, lowest first.
pub fn pages_of(mut set: u128) -> impl Iterator<Item = Page> {
    core::iter::from_fn(move || {
        let n = set.trailing_zeros();
        set &= set.wrapping_sub(1);
        (n < 128).then_some(Page(n as u16))
    })
}

/// Who a page belongs to. C: page->mapping
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mapping {
    /// Nobody: the kernel, or free, or cut off from its file.
    None,
    /// Anonymous memory.
    Anon,
    /// A driver's buffer, mapped with vm_insert_page().
    Driver,
    /// The page cache of a file.
    File(File),
}

impl Mapping {
    /// As it is stored: 0 nobody, 1 anonymous memory.
    pub fn word(self) -> i32 {
        match self {
            Mapping::None => 0,
            Mapping::Anon => 1,
            Mapping::Driver => 2,
            Mapping::File(file) => 3 + file as i32,
        }
    }
    /// What is stored so.
    pub fn from_word(word: i32) -> Self {
        match word {
            0 => Mapping::None,
            1 => Mapping::Anon,
            2 => Mapping::Driver,
            n => File::ALL.get(n as usize - 3).map_or(Mapping::None, |&f| Mapping::File(f)),
        }
    }
    /// The file, if it is one.
    pub fn file(self) -> Option<File> {
        match self {
            Mapping::File(file) => Some(file),
            _ => None,
        }
    }
}

/// One page frame. Head fields of a compound page are those of its first
/// frame.
#[derive(Debug)]
pub struct PageFrame {
    /// References. 0: free, or frozen by somebody who is about to split or
    /// free it; > 0: in use; < 0: overflown, and refused by every getter.
    /// A small page that is pinned carries 1024 for each pin, so ≥ 1024 means
    /// "maybe pinned". C: page->_refcount
    pub(crate) refcount: Atomic32,
    /// PTEs that map this very frame. C: page->_mapcount + 1
    pub(crate) mapcount: Atomic32,
    /// Head only: PMDs that map the whole page.
    /// C: `page[1].compound_mapcount` + 1
    pub(crate) compound_mapcount: Atomic32,
    /// Head of order > 1 only: pins. C: `page[2].hpage_pinned_refcount`
    pub(crate) pincount: Atomic32,
    /// 0: not a tail; else the number of the head plus 1.
    /// C: page->compound_head
    pub(crate) compound_head: Atomic32,
    /// Head only. C: `page[1].compound_order`
    pub(crate) order: Atomic32,
    /// C: page->flags
    pub(crate) flags: Flags32,
    /// A [`Mapping`].
    pub(crate) mapping: Atomic32,
    /// The page of the address space it was made for; on heads.
    /// C: page->index
    pub(crate) index: Guarded32,
    /// How often the frame was allocated.
    pub(crate) epoch: Guarded32,
    /// The contents. 0: zeroes.
    pub(crate) data: Guarded64,
}

impl PageFrame {
    pub(crate) fn new() -> Self {
        let zero = || Atomic32::new(0);
        PageFrame {
            refcount: zero(),
            mapcount: zero(),
            compound_mapcount: zero(),
            pincount: zero(),
            compound_head: zero(),
            order: zero(),
            flags: Flags32::default(),
            mapping: zero(),
            index: Guarded32::new(0),
            epoch: Guarded32::new(0),
            data: Guarded64::new(0),
        }
    }

    fn words(&self) -> [&Atomic32; 7] {
        [
            &self.refcount,
            &self.mapcount,
            &self.compound_mapcount,
            &self.pincount,
            &self.compound_head,
            &self.order,
            &self.mapping,
        ]
    }

    pub(crate) fn same_as(&self, other: &PageFrame) -> bool {
        let mut pairs = self.words().into_iter().zip(other.words());
        pairs.all(|(a, b)| a.read() == b.read())
            && self.flags.read(u32::MAX) == other.flags.read(u32::MAX)
            && self.index.read() == other.index.read()
            && self.epoch.read() == other.epoch.read()
            && self.data.read() == other.data.read()
    }

    pub(crate) fn copy_from(&self, other: &PageFrame) {
        for (to, from) in self.words().into_iter().zip(other.words()) {
            to.set(from.read());
        }
        self.flags.set_all(other.flags.read(u32::MAX));
        self.index.set(other.index.read());
        self.epoch.set(other.epoch.read());
        self.data.set(other.data.read());
    }
}

#[inline]
fn frame<'a>(cpu: &'a Cpu<'_>, page: Page) -> &'a PageFrame {
    cpu.world.frame(page)
}

/// C: compound_head(), linux/page-flags.h
#[inline]
pub fn compound_head(cpu: &Cpu, page: Page) -> Page {
    let wild = !cpu.world.has_frame(page);
    cpu.bug_on(wild, "compound_head", "unable to handle page fault: a wild struct page pointer");
    cpu.step(StepKind::CompoundHead, page.0.into(), 0);
    // The head is only followed after this read: an address dependency.
    match frame(cpu, page).compound_head.read_dependent() {
        0 => page,
        head => Page((head - 1) as u16),
    }
}

/// C: PageTail(), linux/page-flags.h
pub fn page_tail(cpu: &Cpu, page: Page) -> bool {
    compound_head(cpu, page) != page
}

/// C: PageHead(), linux/page-flags.h
pub fn page_head(cpu: &Cpu, page: Page) -> bool {
    test_flag(cpu, page, Pg::HEAD)
}

/// C: PageCompound(), linux/page-flags.h
pub fn page_compound(cpu: &Cpu, page: Page) -> bool {
    page_head(cpu, page) || page_tail(cpu, page)
}

/// The order of a head; 0 for a page that is none. C: compound_order()
pub fn compound_order(cpu: &Cpu, page: Page) -> u32 {
    if page_head(cpu, page) { frame(cpu, page).order.read() as u32 } else { 0 }
}

/// C: compound_nr(), linux/mm.h
pub fn compound_nr(cpu: &Cpu, page: Page) -> u64 {
    1 << compound_order(cpu, page)
}

/// C: thp_nr_pages(), linux/huge_mm.h
pub fn thp_nr_pages(cpu: &Cpu, page: Page) -> u64 {
    compound_nr(cpu, page)
}

/// Whether the page has a pin count of its own: a compound page of order > 1,
/// since v5.19 of any order.
/// C: hpage_pincount_available(), folio_has_pincount(), linux/mm.h
#[inline]
pub fn hpage_pincount_available(cpu: &Cpu, page: Page) -> bool {
    if cpu.has(Defect::BiasOnCompound) {
        return false;
    }
    let head = compound_head(cpu, page);
    page_compound(cpu, head) && compound_order(cpu, head) >= cpu.kernel.pincount_order()
}

/// C: compound_pincount(), linux/mm.h
pub fn compound_pincount(cpu: &Cpu, page: Page) -> i32 {
    let head = compound_head(cpu, page);
    cpu.step(StepKind::PincountRead, head.0.into(), 0);
    frame(cpu, head).pincount.read()
}

/// C: atomic_add(refs, compound_pincount_ptr(page))
#[inline]
pub(crate) fn compound_pincount_add(cpu: &Cpu, head: Page, refs: i32) {
    cpu.step(StepKind::PincountAdd, head.0.into(), refs.into());
    cpu.touch(head);
    frame(cpu, head).pincount.add(refs);
}

/// C: page_ref_count(), linux/page_ref.h
#[inline]
pub fn page_ref_count(cpu: &Cpu, page: Page) -> i32 {
    cpu.step(StepKind::RefRead, page.0.into(), 0);
    frame(cpu, page).refcount.read()
}

/// [`page_ref_count`] for a check that only reports: see [`Atomic32::peek`].
fn checked_ref_count(cpu: &Cpu, page: Page) -> i32 {
    cpu.step(StepKind::RefRead, page.0.into(), 0);
    frame(cpu, page).refcount.peek()
}

/// Whether page_ref_count() is as `is` says, which is all that is asked.
/// C: page_ref_count(), compared
#[inline]
pub fn page_ref_count_is(cpu: &Cpu, page: Page, is: impl Fn(i32) -> bool) -> bool {
    cpu.step(StepKind::RefRead, page.0.into(), 0);
    frame(cpu, page).refcount.read_is(is)
}

/// C: page_count(), linux/page_ref.h
pub fn page_count(cpu: &Cpu, page: Page) -> i32 {
    page_ref_count(cpu, compound_head(cpu, page))
}

/// C: page_ref_add(), linux/page_ref.h
#[inline]
pub fn page_ref_add(cpu: &Cpu, page: Page, nr: i32) {
    cpu.step(StepKind::RefAdd, page.0.into(), nr.into());
    cpu.touch(page);
    frame(cpu, page).refcount.add(nr);
}

/// C: page_ref_sub(), linux/page_ref.h
#[inline]
pub fn page_ref_sub(cpu: &Cpu, page: Page, nr: i32) {
    page_ref_add(cpu, page, nr.wrapping_neg());
}

/// C: page_ref_add_unless(page, nr, 0), linux/page_ref.h
#[inline]
pub fn page_ref_add_unless_zero(cpu: &Cpu, page: Page, nr: i32) -> bool {
    cpu.step(StepKind::RefAddUnlessZero, page.0.into(), nr.into());
    cpu.touch(page);
    if cpu.lacks(Safeguard::UnlessZero) {
        frame(cpu, page).refcount.add_return(nr);
        return true;
    }
    frame(cpu, page).refcount.add_unless(nr, 0)
}

/// Takes the count from exactly `count` to 0, so that nobody can get a
/// reference. C: page_ref_freeze(), linux/page_ref.h
pub fn page_ref_freeze(cpu: &Cpu, page: Page, count: i32) -> bool {
    cpu.step(StepKind::RefFreeze, page.0.into(), count.into());
    cpu.touch(page);
    if cpu.lacks(Safeguard::FreezeExact) {
        frame(cpu, page).refcount.set(0);
        return true;
    }
    frame(cpu, page).refcount.cmpxchg(count, 0)
}

/// C: page_ref_unfreeze(), linux/page_ref.h
pub fn page_ref_unfreeze(cpu: &Cpu, page: Page, count: i32) {
    let count_now = checked_ref_count(cpu, compound_head(cpu, page));
    cpu.bug_on(count_now != 0, "page_ref_unfreeze", "page is not frozen");
    set_page_count(cpu, page, count);
}

/// C: set_page_count(), linux/page_ref.h. The release stands for the barrier
/// before it; pairs with the fully ordered add in
/// page_ref_add_unless_zero().
pub(crate) fn set_page_count(cpu: &Cpu, page: Page, count: i32) {
    cpu.step(StepKind::RefSet, page.0.into(), count.into());
    cpu.touch(page);
    frame(cpu, page).refcount.set_release(count);
}

/// A reference for somebody who does not know whether the page is still in
/// use. Only without sleep between the look-up of the page and this call:
/// interrupts off, or a spinlock held (CONFIG_TINY_RCU asserts it, and so
/// does the model). C: page_cache_add_speculative(), linux/pagemap.h
#[inline]
pub fn page_cache_add_speculative(cpu: &Cpu, page: Page, count: i32) -> bool {
    let at = "page_cache_add_speculative";
    cpu.bug_on(!cpu.in_atomic(), at, "speculative reference outside atomic context");
    if !page_ref_add_unless_zero(cpu, page, count) {
        return false;
    }
    // PORT: the C also has VM_BUG_ON_PAGE(PageTail(page), page) here, which a
    // split and a new allocation in between can trip; it is left to the
    // callers' recheck.
    true
}

/// Takes `nr` references away; true if none is left.
/// C: page_ref_sub_and_test(), linux/page_ref.h
pub(crate) fn page_ref_sub_and_test(cpu: &Cpu, page: Page, nr: i32) -> bool {
    cpu.step(StepKind::RefDecAndTest, page.0.into(), nr.into());
    cpu.touch(page);
    frame(cpu, page).refcount.sub_and_test(nr)
}

/// C: get_page(), linux/mm.h
pub fn get_page(cpu: &Cpu, page: Page) {
    let page = compound_head(cpu, page);
    let bad = frame(cpu, page).refcount.peek().wrapping_add(127) as u32 <= 127;
    cpu.bug_on(bad, "get_page", "page_ref_zero_or_close_to_overflow(page)");
    page_ref_add(cpu, page, 1);
}

/// A reference for somebody who found the page without holding anything that
/// keeps it; false if it is not in use any more, or not part of `head`.
/// C: get_page_unless_zero(), linux/mm.h, and the look at what it got
#[doc(alias = "folio_try_get")]
pub(crate) fn get_page_unless_gone(cpu: &Cpu, page: Page, head: Page) -> bool {
    if !page_ref_add_unless_zero(cpu, head, 1) {
        return false;
    }
    let there = compound_head(cpu, page) == head;
    if !there {
        put_page(cpu, head);
    }
    there
}

/// A further reference for somebody who holds one already.
/// C: try_get_page(), linux/mm.h
pub fn try_get_page(cpu: &Cpu, page: Page) -> bool {
    if cpu.has(Defect::SpeculativeTryGet) {
        return crate::gup::v5_15::grab::try_get_compound_head(cpu, page, 1).is_some();
    }
    let page = compound_head(cpu, page);
    let dead = page_ref_count_is(cpu, page, |count| count <= 0);
    if cpu.warn_on(dead, "try_get_page", "page_ref_count(page) <= 0") {
        return false;
    }
    page_ref_add(cpu, page, 1);
    true
}

/// C: put_page_testzero(), linux/mm.h
pub fn put_page_testzero(cpu: &Cpu, page: Page) -> bool {
    let free = frame(cpu, page).refcount.peek() == 0;
    if cpu.bug_on(free, "put_page_testzero", "page_ref_count(page) == 0") {
        return false;
    }
    page_ref_sub_and_test(cpu, page, 1)
}

/// C: put_page(), linux/mm.h
pub fn put_page(cpu: &Cpu, page: Page) {
    let page = compound_head(cpu, page);
    if put_page_testzero(cpu, page) {
        zone::__put_page(cpu, page);
    }
}

/// Whether somebody may have pinned the page; small pages answer yes for
/// 1024 plain references, too.
/// C: page_maybe_dma_pinned(), folio_maybe_dma_pinned(), linux/mm.h
pub fn page_maybe_dma_pinned(cpu: &Cpu, page: Page) -> bool {
    if hpage_pincount_available(cpu, page) {
        return compound_pincount(cpu, page) > 0;
    }
    let head = compound_head(cpu, page);
    page_ref_count_is(cpu, head, |count| count as u32 >= GUP_PIN_COUNTING_BIAS as u32)
}

/// Whether the page may be pinned for long where it is.
/// C: is_pinnable_page(), linux/mm.h, v5.15
#[inline]
#[doc(alias = "folio_is_longterm_pinnable")]
pub fn is_pinnable_page(cpu: &Cpu, page: Page) -> bool {
    let movable = !cpu.has(Defect::CmaOnly) && zone::is_zone_movable_page(cpu.world, page);
    let migratetype = || folio_migratetype(cpu, Folio(page));
    if cpu.has(Defect::IsolateIsPinnable) {
        return !(movable || migratetype() == Migratetype::Cma) || is_zero_page(cpu, page);
    }
    migratetype() == Migratetype::Other && (!movable || is_zero_page(cpu, page))
}

/// C: is_zero_pfn(page_to_pfn(page)), linux/pgtable.h
pub fn is_zero_page(cpu: &Cpu, page: Page) -> bool {
    page == cpu.world.zero_page()
}

/// Who a head belongs to. C: page->mapping
pub(crate) fn mapping_of(cpu: &Cpu, head: Page) -> Mapping {
    Mapping::from_word(frame(cpu, head).mapping.read())
}

/// C: PageAnon(), linux/page-flags.h
pub fn page_anon(cpu: &Cpu, page: Page) -> bool {
    let head = compound_head(cpu, page);
    frame(cpu, head).mapping.read() == Mapping::Anon.word()
}

/// C: page->mapping != NULL
pub fn page_has_mapping(cpu: &Cpu, page: Page) -> bool {
    frame(cpu, page).mapping.read() != Mapping::None.word()
}

/// The file whose page cache the page is in; of a head. C: page_mapping()
pub fn page_file(cpu: &Cpu, page: Page) -> Option<File> {
    Mapping::from_word(frame(cpu, page).mapping.read()).file()
}

/// Whether it is a page of secret memory, which nobody but its owner's CPU may
/// touch. C: page_is_secretmem(), linux/secretmem.h
#[doc(alias = "secretmem_mapping")]
pub fn page_is_secretmem(cpu: &Cpu, page: Page) -> bool {
    if page_compound(cpu, page) {
        return false;
    }
    // A fresh page still waits in a batch, and is not on the LRU.
    if cpu.has(Defect::SecretmemOffLru) && !page_lru(cpu, page) {
        return false;
    }
    secretmem_mapping(folio_mapping(cpu, Folio(page)))
}

/// C: page_is_file_lru(), linux/mm_inline.h, v5.15
pub fn page_is_file_lru(cpu: &Cpu, page: Page) -> bool {
    !test_flag(cpu, compound_head(cpu, page), Pg::SWAPBACKED)
}

/// C: test_bit(flag, &page->flags)
pub(crate) fn test_flag(cpu: &Cpu, page: Page, flag: Pg) -> bool {
    cpu.step(StepKind::FlagRead, page.0.into(), flag.bits().into());
    frame(cpu, page).flags.test(flag.bits())
}

pub(crate) fn set_flag(cpu: &Cpu, page: Page, flag: Pg) {
    cpu.step(StepKind::FlagSet, page.0.into(), flag.bits().into());
    frame(cpu, page).flags.set(flag.bits());
}

pub(crate) fn clear_flag(cpu: &Cpu, page: Page, flag: Pg) {
    cpu.step(StepKind::FlagSet, page.0.into(), -i64::from(flag.bits()));
    frame(cpu, page).flags.clear(flag.bits());
}

/// C: SetPageAnonExclusive(), linux/page-flags.h
pub(crate) fn set_page_anon_exclusive(cpu: &Cpu, page: Page) {
    set_flag(cpu, page, Pg::ANON_EXCLUSIVE);
}

/// C: ClearPageAnonExclusive(), linux/page-flags.h
pub(crate) fn clear_page_anon_exclusive(cpu: &Cpu, page: Page) {
    clear_flag(cpu, page, Pg::ANON_EXCLUSIVE);
}

/// C: PageDirty(), linux/page-flags.h
pub fn page_dirty(cpu: &Cpu, page: Page) -> bool {
    test_flag(cpu, compound_head(cpu, page), Pg::DIRTY)
}

/// C: set_page_dirty(), mm/page-writeback.c
pub fn set_page_dirty(cpu: &Cpu, page: Page) {
    set_flag(cpu, compound_head(cpu, page), Pg::DIRTY);
}

/// C: set_page_dirty_lock(), mm/page-writeback.c
pub fn set_page_dirty_lock(cpu: &Cpu, page: Page) {
    lock_page(cpu, page);
    set_page_dirty(cpu, page);
    unlock_page(cpu, page);
}

/// C: SetPageReferenced(), linux/page-flags.h
pub fn set_page_referenced(cpu: &Cpu, page: Page) {
    set_flag(cpu, compound_head(cpu, page), Pg::REFERENCED);
}

/// C: mark_page_accessed(), mm/swap.c
pub fn mark_page_accessed(cpu: &Cpu, page: Page) {
    set_page_referenced(cpu, page);
}

/// C: PageLRU(), linux/page-flags.h
pub fn page_lru(cpu: &Cpu, page: Page) -> bool {
    test_flag(cpu, compound_head(cpu, page), Pg::LRU)
}

/// C: trylock_page(), linux/pagemap.h
pub fn trylock_page(cpu: &Cpu, page: Page) -> bool {
    let head = compound_head(cpu, page);
    trylock_folio(cpu, head)
}

/// C: folio_trylock(), linux/pagemap.h
fn trylock_folio(cpu: &Cpu, head: Page) -> bool {
    cpu.step(StepKind::FlagSet, head.0.into(), Pg::LOCKED.bits().into());
    !frame(cpu, head).flags.test_and_set(Pg::LOCKED.bits())
}

/// Waits for the lock of a page. Whoever holds it for ever has a bug, which
/// ends the wait. C: lock_page(), linux/pagemap.h
pub fn lock_page(cpu: &Cpu, page: Page) {
    while !trylock_page(cpu, page) {
        if keeps_locked(cpu, cpu.world.head_of(page)) {
            return;
        }
        cpu.waits();
    }
}

fn keeps_locked(cpu: &Cpu, head: Page) -> bool {
    cpu.goes_on_without(Wait::PageLock(head))
        || cpu.bug_on(cpu.steps_taken() > STEP_BUDGET, "lock_page", "the page stays locked")
}

/// [`lock_page`] of a head. C: folio_lock(), linux/pagemap.h
pub(crate) fn lock_folio(cpu: &Cpu, head: Page) {
    while !trylock_folio(cpu, head) {
        if keeps_locked(cpu, head) {
            return;
        }
        cpu.waits();
    }
}

/// C: folio_unlock(), mm/filemap.c
pub(crate) fn unlock_folio(cpu: &Cpu, head: Page) {
    cpu.step(StepKind::FlagSet, head.0.into(), -i64::from(Pg::LOCKED.bits()));
    let was = frame(cpu, head).flags.test_and_clear(Pg::LOCKED.bits());
    cpu.bug_on(!was, "unlock_page", "!PageLocked(page)");
}

/// C: unlock_page(), mm/filemap.c
pub fn unlock_page(cpu: &Cpu, page: Page) {
    unlock_folio(cpu, compound_head(cpu, page));
}

/// PTEs that map this frame plus PMDs that map the whole page.
/// C: page_mapcount(), linux/mm.h
pub fn page_mapcount(cpu: &Cpu, page: Page) -> i32 {
    cpu.step(StepKind::Mapcount, page.0.into(), 0);
    let head = compound_head(cpu, page);
    frame(cpu, page).mapcount.read() + frame(cpu, head).compound_mapcount.read()
}

/// Mappings of the whole compound page: PMDs once, PTEs of every subpage.
/// C: total_mapcount(), mm/huge_memory.c
pub fn total_mapcount(cpu: &Cpu, page: Page) -> i32 {
    let head = compound_head(cpu, page);
    cpu.step(StepKind::Mapcount, head.0.into(), 0);
    let nr = compound_nr(cpu, head);
    mapcounts(cpu, head, nr)
}

/// [`total_mapcount`] of a head, without a step.
pub(crate) fn mapcount_of(cpu: &Cpu, head: Page) -> i32 {
    mapcounts(cpu, head, cpu.world.span_of(head).count_ones().into())
}

fn mapcounts(cpu: &Cpu, head: Page, nr: u64) -> i32 {
    let whole = frame(cpu, head).compound_mapcount.read();
    (0..nr).fold(whole, |n, i| n + frame(cpu, head.nth(i)).mapcount.read())
}

/// The contents of a page. C: kmap_local_page() and a load
pub(crate) fn page_contents(cpu: &Cpu, page: Page) -> u64 {
    cpu.step(StepKind::Data, page.0.into(), 0);
    frame(cpu, page).data.read()
}

/// Makes the page's contents reachable for the kernel and for devices; some
/// architectures must export protected memory first, and may fail.
/// C: arch_make_page_accessible(), linux/mm.h
pub fn arch_make_page_accessible(cpu: &Cpu, _page: Page) -> Result<(), Errno> {
    if cpu.should_fail(FailSite::Arch) {
        cpu.event(Event::ARCH_FAILED);
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Builds a compound page. C: prep_compound_page(), mm/page_alloc.c
pub fn prep_compound_page(cpu: &Cpu, head: Page, order: u32) {
    set_flag(cpu, head, Pg::HEAD);
    for i in 1..1u64 << order {
        frame(cpu, head.nth(i)).compound_head.set(i32::from(head.0) + 1);
    }
    frame(cpu, head).order.set(order as i32);
    frame(cpu, head).compound_mapcount.set(0);
    frame(cpu, head).pincount.set(0);
}
