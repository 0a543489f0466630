// SPDX-License-Identifier: GPL-2.0-only
//! Folios, and the accessors through which mm/gup.c of v6.12 sees pages.
//!
//! One function for each helper of the kernel's headers that gup.c, or a
//! policy inline that it uses, calls; the port calls them, and so does the
//! real gup.c. So what a helper costs in steps is written down once:
//!
//! | helper | steps |
//! |---|---|
//! | page_folio() | compound-head |
//! | folio_ref_count(), folio_mapcount(), pincount read | one read each |
//! | folio_ref_add(), pincount add, folio_get() | one RMW each |
//! | folio_ref_try_add() | ref-add-unless-zero |
//! | folio_put_refs(), folio_put() | ref-dec-and-test; freeing, if it was the last |
//! | folio_test_*(), PageAnonExclusive() | flag-read |
//! | folio_test_anon(), folio->mapping | mapping-read |
//! | PageAnon(), PageDirty(), set_page_dirty() … | compound-head, then as the folio's |
//! | folio_order(), folio_nr_pages() | flag-read: is it large? |
//! | folio_set_*(), folio_lock(), folio_unlock(), folio_mark_dirty() | flag-set |
//! | folio_migratetype() | pageblock-read |
//! | smp_rmb(), smp_mb__after_atomic() | barrier |
//! | is_zero_page(), folio_is_zone_movable(), folio_page_idx() … | none: constants |
//!
//! Duplicated: all of the above. Stubbed: slab pages, buffers
//! (folio_test_private()), device-coherent and PCI peer-to-peer memory do not
//! exist, and asking for them takes no step.

use super::cpu::{Cpu, Event, FailSite};
use super::filemap::File;
use super::hugetlb;
use super::lru;
use super::page::{
    self, Mapping, Page, compound_head, page_ref_add, page_ref_add_unless_zero, page_ref_count,
    page_ref_count_is, page_ref_sub_and_test,
};
use super::vmstat::{NodeStat, mod_node_page_state};
use super::zone;
use crate::atomic;
use crate::errno::Errno;
use crate::flags::Pg;
use crate::step::StepKind;

/// A page that is not a tail, and its tails. C: struct folio *
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Hash)]
pub struct Folio(pub Page);

impl Folio {
    /// Its first page. C: &folio->page
    #[inline]
    pub fn page(self) -> Page {
        self.0
    }
}

/// C: page_folio(), linux/page-flags.h
#[inline]
pub fn page_folio(cpu: &Cpu, page: Page) -> Folio {
    Folio(compound_head(cpu, page))
}

/// C: folio_ref_count(), linux/page_ref.h
#[inline]
pub fn folio_ref_count(cpu: &Cpu, folio: Folio) -> i32 {
    page_ref_count(cpu, folio.0)
}

/// C: folio_ref_count(), compared
#[inline]
pub fn folio_ref_count_is(cpu: &Cpu, folio: Folio, is: impl Fn(i32) -> bool) -> bool {
    page_ref_count_is(cpu, folio.0, is)
}

/// C: folio_ref_add(), linux/page_ref.h
#[inline]
pub fn folio_ref_add(cpu: &Cpu, folio: Folio, nr: i32) {
    page_ref_add(cpu, folio.0, nr);
}

/// C: folio_ref_inc(), linux/page_ref.h
#[inline]
pub fn folio_ref_inc(cpu: &Cpu, folio: Folio) {
    page_ref_add(cpu, folio.0, 1);
}

/// A reference for somebody who does not know whether the folio is still in
/// use. C: folio_ref_try_add(), linux/page_ref.h
#[inline]
pub fn folio_ref_try_add(cpu: &Cpu, folio: Folio, count: i32) -> bool {
    page_ref_add_unless_zero(cpu, folio.0, count)
}

/// C: folio_get(), linux/mm.h
pub fn folio_get(cpu: &Cpu, folio: Folio) {
    let count = cpu.world.frame(folio.0).refcount.peek();
    let bad = count.wrapping_add(127) as u32 <= 127;
    cpu.bug_on(bad, "folio_get", "folio_ref_zero_or_close_to_overflow(folio)");
    page_ref_add(cpu, folio.0, 1);
}

/// C: folio_put_refs(), linux/mm.h
pub fn folio_put_refs(cpu: &Cpu, folio: Folio, refs: i32) {
    if page_ref_sub_and_test(cpu, folio.0, refs) {
        zone::__put_page(cpu, folio.0);
    }
}

/// C: folio_put(), linux/mm.h
pub fn folio_put(cpu: &Cpu, folio: Folio) {
    let free = cpu.world.frame(folio.0).refcount.peek() == 0;
    if !cpu.bug_on(free, "folio_put_testzero", "folio_ref_count(folio) == 0") {
        folio_put_refs(cpu, folio, 1);
    }
}

/// C: atomic_read(&folio->_pincount)
#[inline]
pub fn folio_pincount(cpu: &Cpu, folio: Folio) -> i32 {
    cpu.step(StepKind::PincountRead, folio.0.0.into(), 0);
    cpu.world.frame(folio.0).pincount.read()
}

/// C: atomic_add(refs, &folio->_pincount)
#[inline]
pub fn folio_pincount_add(cpu: &Cpu, folio: Folio, refs: i32) {
    page::compound_pincount_add(cpu, folio.0, refs);
}

/// Mappings of the whole folio: PMDs once, PTEs each.
/// C: folio_mapcount(), linux/mm.h
pub fn folio_mapcount(cpu: &Cpu, folio: Folio) -> i32 {
    cpu.step(StepKind::Mapcount, folio.0.0.into(), 0);
    page::mapcount_of(cpu, folio.0)
}

/// C: folio_test_large(), linux/page-flags.h
#[inline]
pub fn folio_test_large(cpu: &Cpu, folio: Folio) -> bool {
    page::test_flag(cpu, folio.0, Pg::HEAD)
}

/// C: folio_has_pincount(), linux/mm.h, v6.12 on a 64-bit machine
#[inline]
pub fn folio_has_pincount(cpu: &Cpu, folio: Folio) -> bool {
    folio_test_large(cpu, folio)
}

/// C: folio_order(), linux/mm.h
#[inline]
pub fn folio_order(cpu: &Cpu, folio: Folio) -> u32 {
    if folio_test_large(cpu, folio) { cpu.world.frame(folio.0).order.read() as u32 } else { 0 }
}

/// C: folio_nr_pages(), linux/mm.h
#[inline]
pub fn folio_nr_pages(cpu: &Cpu, folio: Folio) -> u64 {
    1 << folio_order(cpu, folio)
}

/// The place of `page` in its folio. C: folio_page_idx(), linux/mm.h
#[inline]
pub fn folio_page_idx(folio: Folio, page: Page) -> u64 {
    page.0.wrapping_sub(folio.0.0).into()
}

/// C: folio_pfn(), linux/mm.h
#[inline]
pub fn folio_pfn(folio: Folio) -> u64 {
    folio.0.0.into()
}

/// C: folio_test_anon(), linux/page-flags.h
#[inline]
pub fn folio_test_anon(cpu: &Cpu, folio: Folio) -> bool {
    folio_mapping(cpu, folio) == Mapping::Anon
}

/// Who the folio belongs to, read once; of a driver's pages the kernel knows
/// nobody. C: READ_ONCE(folio->mapping)
#[inline]
pub fn folio_mapping(cpu: &Cpu, folio: Folio) -> Mapping {
    cpu.step(StepKind::MappingRead, folio.0.0.into(), 0);
    match page::mapping_of(cpu, folio.0) {
        Mapping::Driver => Mapping::None,
        mapping => mapping,
    }
}

/// C: secretmem_mapping(), linux/secretmem.h
pub fn secretmem_mapping(mapping: Mapping) -> bool {
    mapping.file() == Some(File::Secretmem)
}

/// C: shmem_mapping(), linux/shmem_fs.h
pub fn shmem_mapping(mapping: Mapping) -> bool {
    mapping.file() == Some(File::Shmem)
}

/// C: PageAnon(), linux/page-flags.h
#[inline]
pub fn page_anon(cpu: &Cpu, page: Page) -> bool {
    folio_test_anon(cpu, page_folio(cpu, page))
}

/// Whether the anonymous page is certainly mapped by one process alone. Of a
/// THP that a PMD maps only its head tells; of one that PTEs map each page for
/// itself; of a page of hugetlbfs always the head, whichever page is asked.
/// C: PageAnonExclusive(), linux/page-flags.h
#[inline]
pub fn page_anon_exclusive(cpu: &Cpu, page: Page) -> bool {
    let head = cpu.world.head_of(page);
    let hugetlb = cpu.world.frame(head).flags.test(Pg::HUGETLB.bits());
    page::test_flag(cpu, if hugetlb { head } else { page }, Pg::ANON_EXCLUSIVE)
}

/// C: folio_test_dirty(), linux/page-flags.h
pub fn folio_test_dirty(cpu: &Cpu, folio: Folio) -> bool {
    page::test_flag(cpu, folio.0, Pg::DIRTY)
}

/// C: folio_test_hugetlb(), linux/page-flags.h
#[inline]
pub fn folio_test_hugetlb(cpu: &Cpu, folio: Folio) -> bool {
    page::test_flag(cpu, folio.0, Pg::HUGETLB)
}

/// The only type that a mapped page has is hugetlb.
/// C: page_has_type(), linux/page-flags.h
pub fn page_has_type(cpu: &Cpu, page: Page) -> bool {
    page::test_flag(cpu, page, Pg::HUGETLB)
}

/// C: folio_test_swapcache(), linux/page-flags.h
pub fn folio_test_swapcache(cpu: &Cpu, folio: Folio) -> bool {
    page::test_flag(cpu, folio.0, Pg::SWAPCACHE)
}

/// C: folio_test_slab(), linux/page-flags.h
pub fn folio_test_slab(_cpu: &Cpu, _folio: Folio) -> bool {
    false
}

/// C: folio_test_private(), linux/page-flags.h
pub fn folio_test_private(_cpu: &Cpu, _folio: Folio) -> bool {
    false
}

/// C: folio_is_device_coherent(), linux/memremap.h
pub fn folio_is_device_coherent(_cpu: &Cpu, _folio: Folio) -> bool {
    false
}

/// C: is_pci_p2pdma_page(), linux/memremap.h
pub fn is_pci_p2pdma_page(_cpu: &Cpu, _page: Page) -> bool {
    false
}

/// C: folio_is_file_lru(), linux/mm_inline.h
pub fn folio_is_file_lru(cpu: &Cpu, folio: Folio) -> bool {
    !page::test_flag(cpu, folio.0, Pg::SWAPBACKED)
}

/// C: folio_is_zone_movable(), linux/mmzone.h
#[inline]
pub fn folio_is_zone_movable(cpu: &Cpu, folio: Folio) -> bool {
    zone::is_zone_movable_page(cpu.world, folio.0)
}

/// What a pageblock may be used for, as far as it matters here.
/// C: enum migratetype, linux/mmzone.h
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Migratetype {
    /// Anything else.
    Other,
    /// C: MIGRATE_CMA
    Cma,
    /// C: MIGRATE_ISOLATE
    Isolate,
}

/// C: folio_migratetype(), linux/mmzone.h
#[inline]
pub fn folio_migratetype(cpu: &Cpu, folio: Folio) -> Migratetype {
    cpu.step(StepKind::PageblockRead, folio.0.0.into(), 0);
    zone::get_pageblock_migratetype(cpu.world, folio.0)
}

/// C: is_zero_folio(), linux/mm.h
#[inline]
pub fn is_zero_folio(cpu: &Cpu, folio: Folio) -> bool {
    page::is_zero_page(cpu, folio.0)
}

/// C: folio_set_referenced(), linux/page-flags.h
#[inline]
pub fn folio_set_referenced(cpu: &Cpu, folio: Folio) {
    page::set_flag(cpu, folio.0, Pg::REFERENCED);
}

/// C: folio_mark_dirty(), mm/page-writeback.c
pub fn folio_mark_dirty(cpu: &Cpu, folio: Folio) {
    page::set_flag(cpu, folio.0, Pg::DIRTY);
}

/// C: folio_lock(), linux/pagemap.h
pub fn folio_lock(cpu: &Cpu, folio: Folio) {
    page::lock_folio(cpu, folio.0);
}

/// C: folio_unlock(), mm/filemap.c
pub fn folio_unlock(cpu: &Cpu, folio: Folio) {
    page::unlock_folio(cpu, folio.0);
}

/// C: arch_make_folio_accessible(), linux/mm.h
///
/// # Errors
/// `EINVAL` where it is made to fail.
pub fn arch_make_folio_accessible(cpu: &Cpu, _folio: Folio) -> Result<(), Errno> {
    if cpu.should_fail(FailSite::Arch) {
        cpu.event(Event::ARCH_FAILED);
        return Err(Errno::EINVAL);
    }
    Ok(())
}

/// Takes a folio off the LRU and a reference on it; false if it is not there.
/// C: folio_isolate_lru(), mm/vmscan.c
pub fn folio_isolate_lru(cpu: &Cpu, folio: Folio) -> bool {
    lru::isolate(cpu, folio.0)
}

/// Takes a hugetlb folio out of those in use, and a reference on it; false if
/// it is not there. C: isolate_hugetlb(), mm/hugetlb.c
pub fn isolate_hugetlb(cpu: &Cpu, folio: Folio) -> bool {
    hugetlb::isolate_hugetlb(cpu, folio.0)
}

/// C: node_stat_mod_folio(), linux/vmstat.h
#[inline]
pub fn node_stat_mod_folio(cpu: &Cpu, _folio: Folio, item: NodeStat, nr: i64) {
    mod_node_page_state(cpu, item, nr);
}

/// C: smp_rmb(), asm-generic/barrier.h
#[inline]
pub fn smp_rmb(cpu: &Cpu) {
    cpu.step(StepKind::Barrier, 0, 1);
    atomic::smp_rmb();
}

/// C: smp_mb(), asm-generic/barrier.h
#[inline]
pub(crate) fn smp_mb(cpu: &Cpu) {
    cpu.step(StepKind::Barrier, 0, 3);
    atomic::smp_mb();
}

/// C: smp_mb__after_atomic(), asm-generic/barrier.h
#[inline]
#[allow(non_snake_case)]
pub fn smp_mb__after_atomic(cpu: &Cpu) {
    cpu.step(StepKind::Barrier, 0, 2);
    atomic::smp_mb();
}
