/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What trees of different versions want of the shim: the one place that asks
 * for KVER. shim.h includes it when all else is there.
 *
 * The newest first. A name that a tree does not use does no harm, so only
 * what has another meaning, or would define what the tree defines itself,
 * asks for the version.
 */
#ifndef SHIM_VERSIONS_H
#define SHIM_VERSIONS_H

/* ---------------------------------------------------------- v6.12: entry points */
#if KVER >= 612
void unpin_user_folio(struct folio *, unsigned long);
void unpin_folio(struct folio *);
void unpin_folios(struct folio **, unsigned long);
void folio_add_pin(struct folio *);
#else	/* RealGup::lacks() keeps everybody from them */
#define unpin_user_folio(folio, n) BUG()
#define unpin_folio(folio) BUG()
#define unpin_folios(folios, n) BUG()
#define folio_add_pin(folio) BUG()
#endif

/* ------------------------- v6.5: the look-up of a PTE, and the end of vmas[] */
#if KVER >= 605	/* since 0d940a9b270b a look-up can fail; policy.h says when */
#define __pte_map(pmd, addr) shim_pte_offset(*(pmd), addr)
#define pmdp_get_lockless_start() 0UL
#define pmdp_get_lockless_end(flags) ((void)(flags))
#define rcu_read_lock() ((void)0)
#define rcu_read_unlock() ((void)0)
#define pmd_clear_bad(pmd) BUG()
#define pte_offset_map(pmd, addr) __pte_offset_map(pmd, addr, NULL)
#define pte_offset_map_lock(mm, pmd, addr, ptlp) __pte_offset_map_lock(mm, pmd, addr, ptlp)
/* 54d020692b34, b2cac248191b */
#define SHIM_VMAS_TYPE
#define SHIM_VMAS_ARG(vmas)
#else
#define pte_offset_map(pmd, addr) shim_pte_offset(*(pmd), addr)
/* The call lets the compiler load the entry twice, as the text says. */
#define pte_offset_map_lock(mm, pmd, addr, ptlp) \
	({ *(ptlp) = pte_lockptr(mm, pmd); shim_at(); \
	   pte_t *p_ = pte_offset_map(pmd, addr); spin_lock(*(ptlp)); p_; })
#define SHIM_VMAS_TYPE , struct vm_area_struct **
#define SHIM_VMAS_ARG(vmas) , vmas
#endif

/* --------------------------------------------------- v6.3: isolation says whether */
#if KVER >= 603	/* be2d57563822 */
#define folio_isolate_lru(f) shim_call(folio_isolate_lru, shim_pfn(f))
#else
#define folio_isolate_lru(f) (shim_call(folio_isolate_lru, shim_pfn(f)) ? 0 : -EBUSY)
#endif
/* With a page, and 0 or an error, in stable trees before. */
#define folio_isolate_hugetlb(page, list) \
	(isolate_hugetlb((struct folio *)(page), list) ? 0 : -EBUSY)

/* ------------------------------------------ before v6.5: pages where folios are now */
#if KVER < 605
bool try_grab_page(struct page *page, unsigned int flags);
struct folio *try_grab_folio(struct page *page, int refs, unsigned int flags);
#endif
#define folio_ref_try_add_rcu(f, n) folio_ref_try_add(f, n)
#define folio_pincount_ptr(f) (&(f)->_pincount)
bool shim_PageHead(uint16_t page);
bool shim_PageCompound(uint16_t page);
#define PageHead(p) shim_call(PageHead, shim_pfn(p))
#define PageCompound(p) shim_call(PageCompound, shim_pfn(p))
#define ClearPageReferenced(p) ((void)(p))	/* only for device memory */
void shim_put_page(uint16_t page);
#define put_page(p) shim_call(put_page, shim_pfn(p))
#define is_zone_device_page(p) false
#define is_device_coherent_page(p) folio_is_device_coherent(p)
#define is_zone_movable_page(p) folio_is_zone_movable(p)
#define get_pageblock_migratetype(p) folio_migratetype(p)
#define arch_make_page_accessible(p) arch_make_folio_accessible(p)
#define migrate_device_coherent_page(p) (-EBUSY)

/* ------------------------ before v6.12: hugetlbfs has a walk of its own, hugepd */
/* An entry of any level as a PTE: the bits are the same. */
#define huge_ptep_get(p) (*(p))
#define huge_pte_none(x) pte_none(x)
#define huge_pte_write(x) pte_write(x)
#define huge_pte_lock(h, mm, p) shim_locked(pmd_lockptr(mm, p))
#define is_swap_pte(x) (!pte_none(x) && !pte_present(x))
unsigned int shim_hugetlb_fault(unsigned int mm, u32 slot, u64 addr, unsigned int flags);
#define hugetlb_fault(mm, vma, addr, flags) \
	shim_call(hugetlb_fault, shim_vma_args(vma), addr, flags)
#define pages_per_huge_page(h) (huge_page_size(h) >> PAGE_SHIFT)
#if KVER >= 518
#define PageHuge(p) (PageCompound(p) && folio_test_hugetlb(page_folio(p)))
/* A leaf, or an entry of a page under migration. */
#define pmd_huge(x) \
	({ pmd_t h_ = (x); pmd_leaf(h_) || !(pmd_none(h_) || pmd_present(h_)); })
#define pud_huge(x) \
	({ pud_t h_ = (x); pud_leaf(h_) || !(pud_none(h_) || pud_present(h_)); })
#endif
#define p4d_huge(x) false
#define pgd_huge(x) false
#define pgd_present(x) true
typedef struct { unsigned long pd; } hugepd_t;
#define __hugepd(x) ((hugepd_t){ x })
#define is_hugepd(x) false
#define follow_huge_addr(mm, addr, write) ((struct page *)ERR_PTR(-EINVAL))
/* Reached from follow_page() alone, which nobody calls. */
#define follow_huge_pmd_pte(vma, addr, flags) ({ BUG(); (struct page *)NULL; })
#if KVER < 612	/* a static function of gup.c there */
#define follow_huge_pud(mm, addr, pud, flags) ({ BUG(); (struct page *)NULL; })
#endif
#define follow_huge_pgd(mm, addr, pgd, flags) ({ BUG(); (struct page *)NULL; })
#define follow_huge_pd(vma, addr, pd, flags, shift) ({ BUG(); (struct page *)NULL; })
#define follow_devmap_pud(vma, addr, pud, flags, map) ((struct page *)NULL)

/* ----------------- before v5.18: base v5.15, whose surroundings have no hugetlbfs */
#if KVER < 518	/* as with CONFIG_HUGETLB_PAGE=n */
#define PageHuge(p) false
#define pmd_huge(x) false
#define pud_huge(x) false
#define isolate_huge_page(p, list) false
#define follow_hugetlb_page(mm, vma, pages, vmas, start, nr, i, flags, locked) ({ BUG(); 0L; })
#define follow_huge_pmd(mm, addr, pmd, flags) ({ BUG(); (struct page *)NULL; })
#define SHIM_V5_15(call) (call)
long get_user_pages_locked(unsigned long, unsigned long, unsigned int, struct page **, int *);
long pin_user_pages_locked(unsigned long, unsigned long, unsigned int, struct page **, int *);
int pin_user_pages_fast_only(unsigned long, int, unsigned int, struct page **);
#else	/* calls that the executor makes on base v5.15 only */
#define SHIM_V5_15(call) ({ BUG(); 0L; })
#endif
struct shim_vma shim_find_extend_vma(unsigned int mm, u64 addr);
#define find_extend_vma(m, addr) shim_found(find_extend_vma, m, addr)
#define compound_pincount_ptr(p) (&(p)->_pincount)
#define compound_order(p) folio_order(p)
#define compound_nr(p) folio_nr_pages(p)
#define thp_nr_pages(p) folio_nr_pages(p)
#define page_ref_count(p) folio_ref_count(p)
#define page_ref_add(p, n) folio_ref_add(p, n)
#define page_ref_inc(p) folio_ref_add(p, 1)
#define page_ref_sub(p, n) folio_ref_add(p, -(n))
bool shim_page_cache_add_speculative(uint16_t page, int refs);
#define page_cache_add_speculative(p, n) \
	shim_call(page_cache_add_speculative, shim_pfn(p), n)
bool shim_PageLRU(uint16_t page);
#define PageLRU(p) shim_call(PageLRU, shim_pfn(p))
bool shim_page_is_file_lru(uint16_t page);
#define page_is_file_lru(p) shim_call(page_is_file_lru, shim_pfn(p))
void shim_SetPageReferenced(uint16_t page);
#define SetPageReferenced(p) shim_call(SetPageReferenced, shim_pfn(p))
void shim_set_page_dirty_lock(uint16_t page);
#define set_page_dirty_lock(p) shim_call(set_page_dirty_lock, shim_pfn(p))
bool shim_isolate_lru_page(uint16_t page);
#define isolate_lru_page(p) (shim_call(isolate_lru_page, shim_pfn(p)) ? 0 : -EBUSY)
#define mod_node_page_state(pgdat, item, nr) shim_call(mod_node_page_state, item, nr)
#define is_migrate_cma_page(p) (get_pageblock_migratetype(p) == MIGRATE_CMA)
/* FOLL_MLOCK: no VMA of the model is VM_LOCKED. */
#define PageTransCompound(p) PageCompound(p)
#define PageDoubleMap(p) false
#define compound_mapcount(p) ({ BUG(); 0; })
#define trylock_page(p) ({ BUG(); false; })
#define unlock_page(p) BUG()
#define mlock_vma_page(p) BUG()

/* ---------- before v6.7: waiting for migration, for KSM and follow_page() alone */
typedef struct { u64 val; } swp_entry_t;
#define pte_to_swp_entry(x) ((swp_entry_t){ pte_val(x) })
#define is_migration_entry(entry) false
#define migration_entry_wait(mm, pmd, addr) BUG()
#define pmd_migration_entry_wait(mm, pmd) BUG()
#define thp_migration_supported() true
#define is_huge_zero_page(p) false
#define pmd_trans_unstable(pmd) false	/* only for the huge zero page */

#endif
