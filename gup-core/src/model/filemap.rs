// SPDX-License-Identifier: GPL-2.0-only
//! Files and their page cache: struct address_space.
//!
//! Duplicated: the page cache's reference on each of its pages; a page's
//! mapping and index, cleared when it is cut off; i_size, beyond which a
//! mapping gets SIGBUS; truncation, which unmaps first, private copies too,
//! and does not care who else holds the page; writeback, which write-protects
//! and cleans the mappings of a file that tracks dirty pages; secret memory
//! is never from movable memory and never changes its size; mmap() for
//! writing makes a file of hugetlbfs longer. Customised: one file of each
//! kind, of few pages, all zeroes at first; it always exists: once it is
//! evicted, by the last close or when the world is torn down, it is a new one;
//! reading from disk takes no time; fault_around_bytes is one page, so that a
//! fault maps what it is about. Stubbed: large folios in the page cache,
//! readahead, reclaim of file pages, swap of shmem, memcg charges,
//! RLIMIT_MEMLOCK.

use super::cpu::{Cpu, Hold};
use super::folio::{Folio, folio_put_refs};
use super::limits::{HPAGE_PMD_ORDER, HPAGE_PUD_NR, HPAGE_PUD_ORDER, PAGE_SIZE};
use super::lru::lru_cache_add;
use super::memory::zap_page_range;
use super::page::{
    Mapping, Page, clear_flag, lock_page, page_dirty, page_ref_add, page_ref_add_unless_zero,
    page_ref_sub, put_page, set_flag, set_page_dirty, unlock_page,
};
use super::rmap::{
    folio_mkclean, page_mapped, rmap_lock_read, rmap_unlock_read, unmap_mapping_folio, vmas_of,
};
use super::wait::Wait;
use super::world::World;
use super::zone::alloc_pages;
use crate::atomic::{Atomic32, RawLock};
use crate::errno::Errno;
use crate::flags::{GFP_HIGHUSER_MOVABLE, GFP_USER, Gfp, Pg, VmFault};
use crate::step::StepKind;

/// A file, by what it is of. C: struct file *, struct address_space *
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum File {
    /// A file of a file system that must know which pages are dirty, such as
    /// ext4: it has page_mkwrite() and can write back.
    Regular,
    /// tmpfs or a memfd.
    Shmem,
    /// memfd_secret(2)
    Secretmem,
    /// A file of hugetlbfs, of pages of PMD size. On v6.12 only: v5.15 is
    /// built without CONFIG_HUGETLBFS.
    Hugetlb,
    /// The same of PUD size.
    HugetlbPud,
}

/// The most places of a page cache.
const CACHE_SLOTS: usize = 8;
/// The most pages of any file.
pub const FILE_PAGES: u64 = 2 * HPAGE_PUD_NR;

impl File {
    /// Every file.
    pub const ALL: &'static [File] = &Self::ALL_ARRAY;
    pub(crate) const ALL_ARRAY: [File; 5] =
        [File::Regular, File::Shmem, File::Secretmem, File::Hugetlb, File::HugetlbPud];
    /// How many there are.
    pub const COUNT: usize = Self::ALL_ARRAY.len();
    /// Its name in scenarios.
    pub fn name(self) -> &'static str {
        match self {
            File::Regular => "file",
            File::Shmem => "shmem",
            File::Secretmem => "secretmem",
            File::Hugetlb => "hugetlb",
            File::HugetlbPud => "hugetlb-pud",
        }
    }
    /// log2 of the small pages in one of its pages. C: huge_page_order()
    #[inline]
    pub fn order(self) -> u32 {
        match self {
            File::Regular | File::Shmem | File::Secretmem => 0,
            File::Hugetlb => HPAGE_PMD_ORDER,
            File::HugetlbPud => HPAGE_PUD_ORDER,
        }
    }
    /// In bytes. C: huge_page_size()
    pub fn page_size(self) -> u64 {
        PAGE_SIZE << self.order()
    }
    /// The most of its own pages that it can have.
    pub fn max_pages(self) -> u64 {
        if self.is_hugetlb() { 2 } else { CACHE_SLOTS as u64 }
    }
    /// Of hugetlbfs.
    pub fn is_hugetlb(self) -> bool {
        self.order() > 0
    }
    /// What its pages are allocated with. C: mapping_gfp_mask()
    fn gfp(self) -> Gfp {
        match self {
            File::Secretmem => GFP_USER,
            _ => GFP_HIGHUSER_MOVABLE,
        }
    }
}

/// Whether the file system is asked before a page becomes writable; those
/// that are can also write back. C: vma->vm_ops->page_mkwrite != NULL,
/// mapping_can_writeback()
pub fn has_page_mkwrite(file: File) -> bool {
    file == File::Regular
}

/// The page cache of a file. C: struct address_space, struct inode
#[derive(Debug)]
pub(crate) struct AddressSpace {
    /// In small pages. C: inode->i_size
    i_size: Atomic32,
    /// The head's frame plus 1, by the file's own pages; 0: not in the cache.
    /// C: mapping->i_pages
    pages: [Atomic32; CACHE_SLOTS],
    /// Of hugetlbfs: keeps faults on a page and its truncation apart.
    /// C: hugetlb_fault_mutex_table, which hashes file and page
    fault_mutex: [RawLock; CACHE_SLOTS],
    /// Keeps changes of the size apart. C: inode->i_rwsem
    i_rwsem: RawLock,
    /// Keeps the VMAs that map it. C: mapping->i_mmap_rwsem
    i_mmap_rwsem: RawLock,
}

impl AddressSpace {
    pub(crate) fn new(file: File) -> Self {
        AddressSpace {
            i_size: Atomic32::new((file.max_pages() << file.order()) as i32),
            pages: std::array::from_fn(|_| Atomic32::new(0)),
            fault_mutex: std::array::from_fn(|_| RawLock::new()),
            i_rwsem: RawLock::new(),
            i_mmap_rwsem: RawLock::new(),
        }
    }

    pub(crate) fn same_as(&self, other: &AddressSpace) -> bool {
        let mut pages = self.pages.iter().zip(&other.pages);
        self.i_size.read() == other.i_size.read() && pages.all(|(a, b)| a.read() == b.read())
    }

    pub(crate) fn copy_from(&self, other: &AddressSpace) {
        self.i_size.set(other.i_size.read());
        for (to, from) in self.pages.iter().zip(&other.pages) {
            to.set(from.read());
        }
        for (to, from) in self.fault_mutex.iter().zip(&other.fault_mutex) {
            to.copy_from(from);
        }
        self.i_rwsem.copy_from(&other.i_rwsem);
        self.i_mmap_rwsem.copy_from(&other.i_mmap_rwsem);
    }
}

fn space(world: &World, file: File) -> &AddressSpace {
    &world.files[file as usize]
}

impl World {
    /// The small page at a place of the page cache, for observers.
    pub fn cached(&self, file: File, index: u64) -> Option<Page> {
        let slot = space(self, file).pages.get((index >> file.order()) as usize)?.read();
        let rest = index & ((1 << file.order()) - 1);
        (slot != 0).then(|| Page((slot - 1) as u16).nth(rest))
    }
    /// The small pages of a file, for observers. C: i_size_read()
    pub fn file_pages(&self, file: File) -> u64 {
        space(self, file).i_size.read() as u64
    }
    /// C: folio->index, for observers
    pub(crate) fn index_of(&self, page: Page) -> u64 {
        self.frame(page).index.read().into()
    }
    /// References that the page cache or the swap cache holds on a head, for observers: one for
    /// each small page.
    pub(crate) fn cache_refs(&self, page: Page) -> i32 {
        let f = self.frame(page);
        if f.flags.test(Pg::SWAPCACHE.bits()) {
            return self.span_of(page).count_ones() as i32;
        }
        let Some(file) = Mapping::from_word(f.mapping.read()).file() else { return 0 };
        let cached = self.cached(file, self.index_of(page)) == Some(page);
        if cached { 1 << file.order() } else { 0 }
    }
}

/// The page cache's page, with a reference for the caller; `index` in small
/// pages, as everywhere. C: filemap_get_entry(), mm/filemap.c
pub(crate) fn filemap_get_entry(cpu: &Cpu, file: File, index: u64) -> Option<Page> {
    loop {
        cpu.step(StepKind::CacheRead, file as u32, index as i64);
        let page = cpu.world.head_of(cpu.world.cached(file, index)?);
        if !page_ref_add_unless_zero(cpu, page, 1) {
            // Gone, or frozen: then it comes back, or leaves the cache.
            let now = cpu.world.cached(file, index).map(|p| cpu.world.head_of(p));
            if now == Some(page) {
                if cpu.goes_on_without(Wait::Frozen(page)) {
                    return None;
                }
                cpu.waits();
            }
            continue;
        }
        cpu.step(StepKind::CacheRead, file as u32, index as i64);
        if cpu.world.cached(file, index).map(|p| cpu.world.head_of(p)) == Some(page) {
            return Some(page);
        }
        put_page(cpu, page);
    }
}

/// In small pages. C: i_size_read(), linux/fs.h
pub(crate) fn i_size_read(cpu: &Cpu, file: File) -> u64 {
    cpu.step(StepKind::CacheRead, file as u32, -1);
    cpu.world.file_pages(file)
}

/// In small pages. C: i_size_write(), linux/fs.h
pub(crate) fn i_size_write(cpu: &Cpu, file: File, pages: u64) {
    cpu.step(StepKind::CacheSet, file as u32, -1);
    space(cpu.world, file).i_size.set(pages as i32);
}

fn cache_set(cpu: &Cpu, file: File, index: u64, page: Option<Page>) {
    cpu.step(StepKind::CacheSet, file as u32, index as i64);
    let word = page.map_or(0, |p| i32::from(p.0) + 1);
    slot(cpu.world, file, index).set_release(word);
}

/// The place of a page in the cache. C: an entry of mapping->i_pages
fn slot(world: &World, file: File, index: u64) -> &Atomic32 {
    &space(world, file).pages[(index >> file.order()) as usize]
}

/// Puts a fresh, locked page into the page cache, which takes a reference for
/// each of its small pages; false if another page is there already, which the
/// C calls EEXIST. C: __filemap_add_folio(), mm/filemap.c
pub(crate) fn __filemap_add_folio(cpu: &Cpu, file: File, index: u64, page: Page) -> bool {
    page_ref_add(cpu, page, 1 << file.order());
    let f = cpu.world.frame(page);
    f.mapping.set(Mapping::File(file).word());
    f.index.set(index as u32);
    cpu.step(StepKind::CacheSet, file as u32, index as i64);
    let added = slot(cpu.world, file, index).cmpxchg(0, i32::from(page.0) + 1);
    if !added {
        f.mapping.set(Mapping::None.word());
        page_ref_sub(cpu, page, 1 << file.order());
    }
    added
}

/// Takes a locked page out of the page cache; the cache's references become
/// the caller's. C: filemap_remove_folio(), mm/filemap.c
fn filemap_remove_folio(cpu: &Cpu, file: File, index: u64, page: Page) {
    let mapped = page_mapped(cpu, page);
    cpu.bug_on(mapped, "filemap_unaccount_folio", "VM_BUG_ON_FOLIO(folio_mapped(folio), folio)");
    cache_set(cpu, file, index, None);
    // The index stays.
    cpu.world.frame(page).mapping.set(Mapping::None.word());
}

/// Replaces the page of a cache slot by another, which is not seen by anybody
/// yet and gets references of the cache. The old page is frozen meanwhile.
/// C: __folio_migrate_mapping(), mm/migrate.c
pub(crate) fn replace_page_cache(cpu: &Cpu, file: File, old: Page, new: Page) {
    let index = cpu.world.index_of(old);
    page_ref_add(cpu, new, 1 << file.order());
    cache_set(cpu, file, index, Some(new));
}

/// The page of the file for a fault: locked, with a reference. C: the fault()
/// of vm_operations_struct: filemap_fault(), shmem_fault(), secretmem_fault()
///
/// # Errors
/// SIGBUS beyond the end of the file, OOM.
pub(crate) fn vm_ops_fault(cpu: &Cpu, file: File, index: u64) -> Result<Page, VmFault> {
    loop {
        if index >= i_size_read(cpu, file) {
            return Err(VmFault::SIGBUS);
        }
        if let Some(page) = filemap_get_entry(cpu, file, index) {
            lock_page(cpu, page);
            // Truncated, or moved, meanwhile?
            if cpu.world.frame(page).mapping.read() == Mapping::File(file).word() {
                return within_size(cpu, file, index, page, false);
            }
            unlock_page(cpu, page);
            put_page(cpu, page);
            // Where nobody waits, it would come out the same for ever.
            if cpu.waits_for().is_some() {
                return Err(VmFault::OOM);
            }
            continue;
        }
        let page = alloc_pages(cpu, file.gfp(), 0).ok_or(VmFault::OOM)?;
        lock_page(cpu, page);
        if file == File::Shmem {
            set_flag(cpu, page, Pg::SWAPBACKED);
        }
        if !__filemap_add_folio(cpu, file, index, page) {
            unlock_page(cpu, page);
            put_page(cpu, page);
            if cpu.waits_for().is_some() {
                return Err(VmFault::OOM);
            }
            continue;
        }
        lru_cache_add(cpu, page);
        return within_size(cpu, file, index, page, true);
    }
}

/// A locked page of the cache, if the file has not become too short for it
/// meanwhile; a fresh one leaves the cache then, as with shmem. Files on disk
/// keep truncation out by invalidate_lock until the page is there.
/// C: the ends of filemap_fault() and shmem_get_folio_gfp()
fn within_size(
    cpu: &Cpu,
    file: File,
    index: u64,
    page: Page,
    fresh: bool,
) -> Result<Page, VmFault> {
    if index < i_size_read(cpu, file) {
        return Ok(page);
    }
    if fresh {
        filemap_remove_folio(cpu, file, index, page);
        put_page(cpu, page);
    }
    unlock_page(cpu, page);
    put_page(cpu, page);
    Err(VmFault::SIGBUS)
}

/// The file system learns that a page is about to become writable; the page
/// is locked if it may. C: filemap_page_mkwrite(), mm/filemap.c
///
/// # Errors
/// NOPAGE if the page is not the file's any more.
pub(crate) fn page_mkwrite(cpu: &Cpu, file: File, page: Page) -> Result<(), VmFault> {
    lock_page(cpu, page);
    if cpu.world.frame(page).mapping.read() != Mapping::File(file).word() {
        unlock_page(cpu, page);
        return Err(VmFault::NOPAGE);
    }
    set_page_dirty(cpu, page);
    Ok(())
}

/// C: mapping->i_mmap_rwsem
pub(crate) fn i_mmap_rwsem(world: &World, file: File) -> &RawLock {
    &space(world, file).i_mmap_rwsem
}

/// C: mutex_lock(&hugetlb_fault_mutex_table[hash]), mm/hugetlb.c
pub(crate) fn hugetlb_fault_mutex_lock(cpu: &Cpu, file: File, index: u64) {
    cpu.take(fault_mutex(cpu.world, file, index), Hold::Write, Wait::HugetlbFault(file));
}

/// C: mutex_unlock(&hugetlb_fault_mutex_table[hash]), mm/hugetlb.c
pub(crate) fn hugetlb_fault_mutex_unlock(cpu: &Cpu, file: File, index: u64) {
    cpu.release(fault_mutex(cpu.world, file, index), Hold::Write);
}

fn fault_mutex(world: &World, file: File, index: u64) -> &RawLock {
    let n = (index >> file.order()) as usize % CACHE_SLOTS;
    &space(world, file).fault_mutex[n]
}

/// Unmaps pages of a file wherever they are mapped, from `start` on; private
/// copies of them, too. C: unmap_mapping_range(even_cows), mm/memory.c;
/// hugetlb_vmdelete_list(), fs/hugetlbfs/inode.c
fn unmap_mapping_range(cpu: &Cpu, file: File, start: u64) {
    rmap_lock_read(cpu, Some(file));
    for vma in vmas_of(cpu, file) {
        let first = start.max(vma.backing.pgoff());
        if let Some(addr) = vma.address_of(first) {
            zap_page_range(cpu, &vma, addr, vma.end);
        }
    }
    rmap_unlock_read(cpu, Some(file));
}

/// Gives a file another size, in its own pages. C: truncate_setsize(),
/// shmem_setattr(), secretmem_setattr(), hugetlbfs_setattr()
///
/// # Errors
/// `EINVAL` for secret memory, and for more than [`File::max_pages`].
pub fn truncate(cpu: &Cpu, file: File, size: u64) -> Result<(), Errno> {
    if file == File::Secretmem || size > file.max_pages() {
        return Err(Errno::EINVAL);
    }
    let size = size << file.order();
    // C: inode_lock(), linux/fs.h, by do_truncate()
    let i_rwsem = &space(cpu.world, file).i_rwsem;
    cpu.take(i_rwsem, Hold::Write, Wait::Inode(file));
    let old = i_size_read(cpu, file);
    i_size_write(cpu, file, size);
    if size < old {
        truncate_pagecache(cpu, file, size);
    }
    cpu.release(i_rwsem, Hold::Write);
    Ok(())
}

/// C: truncate_pagecache(), mm/truncate.c
fn truncate_pagecache(cpu: &Cpu, file: File, size: u64) {
    unmap_mapping_range(cpu, file, size);
    truncate_inode_pages(cpu, file, size);
    // Faults that were under way may have mapped more.
    unmap_mapping_range(cpu, file, size);
}

/// C: truncate_inode_pages(), mm/truncate.c; remove_inode_hugepages()
fn truncate_inode_pages(cpu: &Cpu, file: File, start: u64) {
    for index in (start..file.max_pages() << file.order()).step_by(1 << file.order()) {
        if file.is_hugetlb() {
            hugetlb_fault_mutex_lock(cpu, file, index);
        }
        truncate_inode_page(cpu, file, index);
        if file.is_hugetlb() {
            hugetlb_fault_mutex_unlock(cpu, file, index);
        }
    }
}

/// C: truncate_inode_folio(), remove_inode_single_folio()
fn truncate_inode_page(cpu: &Cpu, file: File, index: u64) {
    let Some(page) = filemap_get_entry(cpu, file, index) else { return };
    lock_page(cpu, page);
    if cpu.world.frame(page).mapping.read() == Mapping::File(file).word() {
        // C: truncate_cleanup_folio()
        if page_mapped(cpu, page) {
            unmap_mapping_folio(cpu, page);
        }
        clear_flag(cpu, page, Pg::DIRTY);
        filemap_remove_folio(cpu, file, index, page);
        // C: filemap_free_folio()
        folio_put_refs(cpu, Folio(page), 1 << file.order());
    }
    unlock_page(cpu, page);
    put_page(cpu, page);
}

/// [`evict`] of every file, at the end of the world.
pub fn evict_inodes(cpu: &Cpu) {
    for &file in File::ALL {
        evict(cpu, file);
    }
}

/// Forgets the contents of a file that nobody maps or has open any more; what
/// comes in its place is new, and of the size that all have at first.
/// C: evict(), fs/inode.c; truncate_inode_pages_final(), mm/truncate.c,
/// shmem_evict_inode(), hugetlbfs_evict_inode()
pub fn evict(cpu: &Cpu, file: File) {
    truncate_inode_pages(cpu, file, 0);
    i_size_write(cpu, file, file.max_pages() << file.order());
}

/// Writes the dirty pages of a file back: their mappings become clean and
/// read-only, so that the next store is noticed. C: write_cache_pages(),
/// folio_clear_dirty_for_io(), mm/page-writeback.c
///
/// # Errors
/// `EINVAL` for files that live in memory alone.
pub fn fsync(cpu: &Cpu, file: File) -> Result<(), Errno> {
    if !has_page_mkwrite(file) {
        return Err(Errno::EINVAL);
    }
    for index in 0..file.max_pages() {
        let Some(page) = filemap_get_entry(cpu, file, index) else { continue };
        lock_page(cpu, page);
        if page_dirty(cpu, page) {
            if folio_mkclean(cpu, page) {
                set_page_dirty(cpu, page);
            }
            clear_flag(cpu, page, Pg::DIRTY);
        }
        unlock_page(cpu, page);
        put_page(cpu, page);
    }
    Ok(())
}
