/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What mm/gup.c finds instead of the kernel's headers.
 *
 * Nothing here keeps state of its own. Pointers are tokens: a struct page is
 * the place in mem_map that says which frame it is, a pte_t * the place in a
 * copy of the page tables that says which entry, and so on. Every accessor
 * turns tokens into numbers and calls shim_NAME(), which is Rust (src/ffi.rs)
 * and calls the primitive of that name in gup-core: the same one, with the
 * same steps, that the port calls.
 *
 * A plain load of a page-table entry (pmdval = *pmd) cannot be caught by a
 * macro. gup.c is compiled so that the compiler calls a hook (shim.c) before
 * every load; the hook takes the model's step and stores what it read, so
 * that the load finds it. Accessors such as ptep_get() are plain loads here
 * for that reason.
 *
 * Duplicated: names and calling conventions. Customised: sizes, which are
 * the model's (model.h is written by build/header.rs). Stubbed: device
 * memory behind get_dev_pagemap(), the gate area, userfaultfd, soft-dirty,
 * memfd_pin_folios(), fault_in_*().
 *
 * Policies (gup_must_unshare(), folio_is_longterm_pinnable() ...) are not
 * here: policy.h has them in the words of the tree (build/cut.rs).
 *
 * versions.h says what trees of different versions differ in.
 */
#ifndef SHIM_SHIM_H
#define SHIM_SHIM_H

#include <errno.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "model.h"

/* ------------------------------------------------------------- configuration */
#define CONFIG_64BIT 1
#define CONFIG_ARCH_HAS_PTE_SPECIAL 1
#define CONFIG_CMA 1
#define CONFIG_DEBUG_VM 1
#define CONFIG_ELF_CORE 1
#define CONFIG_HAVE_FAST_GUP 1		/* the name until v6.9 */
#define CONFIG_HAVE_GUP_FAST 1
#define CONFIG_MIGRATION 1
#define CONFIG_MMU 1
#define CONFIG_PGTABLE_HAS_HUGE_LEAVES 1
#define CONFIG_SECRETMEM 1
#define CONFIG_SMP 1
#define CONFIG_TRANSPARENT_HUGEPAGE 1

/* 1 if the option is defined as 1, else 0. */
#define SHIM_ENABLED_1 ,
#define SHIM_SECOND(a, b, ...) b
#define SHIM_ENABLED_(x) SHIM_SECOND(x 1, 0, 0)
#define SHIM_ENABLED__(x) SHIM_ENABLED_(SHIM_ENABLED_##x)
#define IS_ENABLED(option) SHIM_ENABLED__(option)

/* ----------------------------------------------------------------- the tongue */
#define __user
#define __must_check
#define __maybe_unused __attribute__((unused))
#undef __always_inline
#define __always_inline inline __attribute__((always_inline))
#define noinline __attribute__((noinline))
#define fallthrough __attribute__((fallthrough))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define READ_ONCE(x) (*(const volatile __typeof__(x) *)&(x))
#define EXPORT_SYMBOL(x)
#define EXPORT_SYMBOL_GPL(x)
#define BUILD_BUG_ON(c) ((void)sizeof(c))
#define BUILD_BUG() ((void)0)
#define container_of(p, type, member) ((type *)((char *)(p) - offsetof(type, member)))
#define check_add_overflow(a, b, sum) __builtin_add_overflow(a, b, sum)
#define min_t(type, a, b) ({ type a_ = (a), b_ = (b); a_ < b_ ? a_ : b_; })
#define min(a, b) min_t(__typeof__(a), a, b)
#define min3(a, b, c) min_t(__typeof__(a), min_t(__typeof__(a), a, b), c)
#define ALIGN_DOWN(a, size) ((a) & ~((size) - 1))

typedef uint64_t u64;
typedef uint32_t u32;
typedef unsigned int gfp_t, vm_fault_t;
typedef unsigned long pgoff_t, vm_flags_t;

#define MAX_ERRNO 4095
#define IS_ERR_VALUE(x) unlikely((unsigned long)(x) >= (unsigned long)-MAX_ERRNO)
static inline void *ERR_PTR(long error) { return (void *)error; }
static inline long PTR_ERR(const void *p) { return (long)p; }
static inline bool IS_ERR(const void *p) { return IS_ERR_VALUE(p); }

/* --------------------------------------------------------- the way to the model */
/* Notes where in gup.c we are; the steps that follow belong there. */
void shim_at(void);
#define shim_call(name, ...) (shim_at(), shim_##name(__VA_ARGS__))

void shim_warn(const char *function, const char *condition);
/* Does not return to gup.c, but to whoever called into it. */
_Noreturn void shim_bug(const char *function, const char *condition);

/* Each macro quotes its own argument, so that macros in it stay as written. */
#define shim_warn_if(c, text) \
	({ bool c_ = !!(c); if (unlikely(c_)) shim_warn(__func__, text); c_; })
#define shim_bug_if(c, text) do { if (unlikely(c)) shim_bug(__func__, text); } while (0)
#define WARN_ON(c) shim_warn_if(c, #c)
#define WARN_ON_ONCE(c) shim_warn_if(c, #c)	/* here every time counts */
#define VM_WARN_ON_ONCE(c) ((void)shim_warn_if(c, #c))
#define VM_WARN_ON_ONCE_PAGE(c, page) shim_warn_if(c, #c)
#define BUG() shim_bug(__func__, "BUG()")
#define BUG_ON(c) shim_bug_if(c, #c)
#define VM_BUG_ON(c) shim_bug_if(c, #c)
#define VM_BUG_ON_PAGE(c, page) shim_bug_if(c, #c)
#define VM_BUG_ON_VMA(c, vma) shim_bug_if(c, #c)
#define pr_warn(...) ((void)0)
#define dump_stack() ((void)0)

/* ------------------------------------------------------------------- lists, bits */
struct list_head { struct list_head *next, *prev; };
#define LIST_HEAD(name) struct list_head name = { &(name), &(name) }
static inline bool list_empty(const struct list_head *head) { return head->next == head; }
static inline void list_add_tail(struct list_head *new, struct list_head *head)
{
	struct list_head *last = head->prev;

	new->next = head;
	new->prev = last;
	last->next = head->prev = new;
}

typedef struct { int counter; } atomic_t;

/* --------------------------------------------------------------- pages and folios */
/* Aligned: the low bits of folio->mapping are flags. */
struct address_space_operations { char token; };
struct address_space { const struct address_space_operations *a_ops; };
#define SHIM_PAGE_FIELDS			\
	struct list_head lru;		\
	struct address_space *mapping;	\
	atomic_t _pincount;
struct page { SHIM_PAGE_FIELDS };
struct folio { union { struct { SHIM_PAGE_FIELDS }; struct page page; }; };

extern __thread struct page mem_map[SHIM_FRAMES];

/* The number of a page or folio as Rust's Page has it. */
uint16_t shim_pfn(const void *page);
static inline struct page *pfn_to_page(unsigned long pfn) { return &mem_map[0] + pfn; }
#define page_to_pfn(p) ((unsigned long)shim_pfn(p))
#define pfn_valid(pfn) shim_pfn_valid(pfn)
bool shim_pfn_valid(unsigned long pfn);
#define nth_page(page, n) ((page) + (n))
#define virt_to_page(v) ((struct page *)(v))
#define folio_page(folio, n) (&(folio)->page + (n))
#define folio_page_idx(folio, p) ((p) - &(folio)->page)
#define folio_pfn(folio) page_to_pfn(folio)

#define compound_head(p) pfn_to_page(shim_call(compound_head, shim_pfn(p)))
uint16_t shim_compound_head(uint16_t page);
#define page_folio(p) ((struct folio *)compound_head(p))

/* bool NAME(struct page *) or bool NAME(struct folio *) */
#define SHIM_TESTS(test)				\
	test(PageAnon)				\
	test(PageAnonExclusive)			\
	test(PageDirty)				\
	test(folio_is_device_coherent)		\
	test(folio_is_zone_movable)		\
	test(folio_test_anon)			\
	test(folio_test_dirty)			\
	test(folio_test_hugetlb)		\
	test(folio_test_large)			\
	test(folio_test_private)		\
	test(folio_test_slab)			\
	test(folio_test_swapcache)		\
	test(page_has_type)			\
	test(is_pci_p2pdma_page)
#define SHIM_DECLARE(name) bool shim_##name(uint16_t page);
SHIM_TESTS(SHIM_DECLARE)
#define PageAnon(p) shim_call(PageAnon, shim_pfn(p))
#define PageAnonExclusive(p) shim_call(PageAnonExclusive, shim_pfn(p))
#define PageDirty(p) shim_call(PageDirty, shim_pfn(p))
#define folio_is_device_coherent(f) shim_call(folio_is_device_coherent, shim_pfn(f))
#define folio_is_zone_movable(f) shim_call(folio_is_zone_movable, shim_pfn(f))
#define folio_test_anon(f) shim_call(folio_test_anon, shim_pfn(f))
#define folio_test_dirty(f) shim_call(folio_test_dirty, shim_pfn(f))
#define folio_test_hugetlb(f) shim_call(folio_test_hugetlb, shim_pfn(f))
#define folio_test_large(f) shim_call(folio_test_large, shim_pfn(f))
#define folio_test_private(f) shim_call(folio_test_private, shim_pfn(f))
#define folio_test_slab(f) shim_call(folio_test_slab, shim_pfn(f))
#define folio_test_swapcache(f) shim_call(folio_test_swapcache, shim_pfn(f))
#define page_has_type(p) shim_call(page_has_type, shim_pfn(p))
#define is_pci_p2pdma_page(p) shim_call(is_pci_p2pdma_page, shim_pfn(p))

int shim_folio_migratetype(uint16_t folio);
#define folio_migratetype(f) shim_call(folio_migratetype, shim_pfn(f))
enum { MIGRATE_OTHER, MIGRATE_CMA, MIGRATE_ISOLATE };
int shim_folio_ref_count(uint16_t folio);
#define folio_ref_count(f) shim_call(folio_ref_count, shim_pfn(f))
int shim_folio_mapcount(uint16_t folio);
#define folio_mapcount(f) shim_call(folio_mapcount, shim_pfn(f))
unsigned int shim_folio_order(uint16_t folio);
#define folio_order(f) shim_call(folio_order, shim_pfn(f))
long shim_folio_nr_pages(uint16_t folio);
#define folio_nr_pages(f) shim_call(folio_nr_pages, shim_pfn(f))
void shim_folio_ref_add(uint16_t folio, int refs);
#define folio_ref_add(f, n) shim_call(folio_ref_add, shim_pfn(f), n)
#define folio_ref_inc(f) folio_ref_add(f, 1)
bool shim_folio_ref_try_add(uint16_t folio, int refs);
#define folio_ref_try_add(f, n) shim_call(folio_ref_try_add, shim_pfn(f), n)
void shim_folio_put_refs(uint16_t folio, int refs);
#define folio_put_refs(f, n) shim_call(folio_put_refs, shim_pfn(f), n)
void shim_folio_get(uint16_t folio);
#define folio_get(f) shim_call(folio_get, shim_pfn(f))
#define folio_put(f) folio_put_refs(f, 1)
#define get_page(p) folio_get(page_folio(p))

/* The one atomic_t that gup.c touches by its address is _pincount. */
#define shim_of_pincount(v) container_of(v, struct page, _pincount)
void shim_pincount_add(uint16_t folio, int refs);
#define atomic_add(n, v) shim_call(pincount_add, shim_pfn(shim_of_pincount(v)), n)
#define atomic_sub(n, v) atomic_add(-(n), v)
#define atomic_inc(v) atomic_add(1, v)
int shim_pincount_read(uint16_t folio);
#define atomic_read(v) shim_call(pincount_read, shim_pfn(shim_of_pincount(v)))

void shim_folio_set_referenced(uint16_t folio);
#define folio_set_referenced(f) shim_call(folio_set_referenced, shim_pfn(f))
#define folio_clear_referenced(f) ((void)(f))	/* only for device memory */
void shim_folio_lock(uint16_t folio);
#define folio_lock(f) shim_call(folio_lock, shim_pfn(f))
void shim_folio_unlock(uint16_t folio);
#define folio_unlock(f) shim_call(folio_unlock, shim_pfn(f))
void shim_folio_mark_dirty(uint16_t folio);
#define folio_mark_dirty(f) shim_call(folio_mark_dirty, shim_pfn(f))
void shim_set_page_dirty(uint16_t page);
#define set_page_dirty(p) shim_call(set_page_dirty, shim_pfn(p))
void shim_mark_page_accessed(uint16_t page);
#define mark_page_accessed(p) shim_call(mark_page_accessed, shim_pfn(p))
bool shim_folio_is_file_lru(uint16_t folio);
#define folio_is_file_lru(f) shim_call(folio_is_file_lru, shim_pfn(f))
bool shim_is_zero_pfn(unsigned long pfn);
#define is_zero_pfn(pfn) shim_is_zero_pfn(pfn)
int shim_arch_make_folio_accessible(uint16_t folio);
#define arch_make_folio_accessible(f) shim_call(arch_make_folio_accessible, shim_pfn(f))
void shim_mod_node_page_state(unsigned int item, long nr);
#define node_stat_mod_folio(f, item, nr) shim_call(mod_node_page_state, item, nr)

/* folio->mapping is loaded plainly: the hook sees it. */
#define PAGE_MAPPING_ANON 1UL
#define PAGE_MAPPING_FLAGS 3UL
bool shim_secretmem_mapping(int mapping);
bool shim_shmem_mapping(int mapping);
int shim_mapping_word(const struct address_space *mapping);
extern const struct address_space_operations secretmem_aops;
#define secretmem_mapping(m) shim_secretmem_mapping(shim_mapping_word(m))
#define shmem_mapping(m) shim_shmem_mapping(shim_mapping_word(m))

/* -------------------------------------------------------------------- page tables */
/* A copy of the model's tables: PTEs in one, all higher levels in the other.
 * Only the entry that was loaded last is up to date. */
typedef struct { u64 pte; } pte_t;
typedef struct { u64 pmd; } pmd_t;
typedef struct { u64 pud; } pud_t;
typedef struct { u64 p4d; } p4d_t;
typedef struct { u64 pgd; } pgd_t;
#define SHIM_TABLES 128
#define SHIM_PTRS PTRS_PER_PTE	/* the most that a table has */
extern __thread u64 shim_ptes[SHIM_TABLES][SHIM_PTRS];
extern __thread u64 shim_upper[SHIM_TABLES][SHIM_PTRS];
typedef struct { char token; } spinlock_t;
extern __thread spinlock_t shim_locks[SHIM_TABLES];
/* The slot of an entry as Rust's Slot has it. */
uint32_t shim_slot(const void *entry);

#define pte_val(x) ((x).pte)
#define pmd_val(x) ((x).pmd)
#define pud_val(x) ((x).pud)
#define p4d_val(x) ((x).p4d)
#define pgd_val(x) ((x).pgd)
#define ptep_get(p) (*(p))
#define ptep_get_lockless(p) (*(p))
#define pmdp_get(p) (*(p))
#define pmdp_get_lockless(p) (*(p))
#define pudp_get(p) (*(p))
#define p4dp_get(p) (*(p))
#define pgdp_get(p) (*(p))

/* What an entry says: tests of the value, no step. */
#define SHIM_ENTRY_TESTS(test)							\
	test(pte_none) test(pte_present) test(pte_write) test(pte_dirty)	\
	test(pte_protnone) test(pte_special)					\
	test(pmd_none) test(pmd_present) test(pmd_bad) test(pmd_leaf)		\
	test(pmd_write) test(pmd_dirty) test(pmd_protnone)			\
	test(pmd_trans_huge)							\
	test(pmd_is_migration)							\
	test(pud_none) test(pud_present) test(pud_bad) test(pud_leaf)		\
	test(pud_write)								\
	test(p4d_none) test(p4d_present) test(p4d_bad)
#define SHIM_DECLARE_ENTRY(name) bool shim_##name(u64 entry);
SHIM_ENTRY_TESTS(SHIM_DECLARE_ENTRY)
bool shim_pte_access_permitted(u64 entry, bool write);
bool shim_pmd_access_permitted(u64 entry, bool write);
bool shim_pud_access_permitted(u64 entry, bool write);
unsigned long shim_entry_pfn(u64 entry);
u64 shim_pte_mkdirty(u64 entry);
u64 shim_pte_mkyoung(u64 entry);
#define pte_none(x) shim_pte_none(pte_val(x))
#define pte_present(x) shim_pte_present(pte_val(x))
#define pte_write(x) shim_pte_write(pte_val(x))
#define pte_dirty(x) shim_pte_dirty(pte_val(x))
#define pte_protnone(x) shim_pte_protnone(pte_val(x))
#define pte_special(x) shim_pte_special(pte_val(x))
#define pmd_none(x) shim_pmd_none(pmd_val(x))
#define pmd_present(x) shim_pmd_present(pmd_val(x))
#define pmd_bad(x) shim_pmd_bad(pmd_val(x))
#define pmd_leaf(x) shim_pmd_leaf(pmd_val(x))
#define pmd_write(x) shim_pmd_write(pmd_val(x))
#define pmd_dirty(x) shim_pmd_dirty(pmd_val(x))
#define pmd_protnone(x) shim_pmd_protnone(pmd_val(x))
#define pmd_trans_huge(x) shim_pmd_trans_huge(pmd_val(x))
#define pud_none(x) shim_pud_none(pud_val(x))
#define pud_present(x) shim_pud_present(pud_val(x))
#define pud_bad(x) shim_pud_bad(pud_val(x))
#define pud_leaf(x) shim_pud_leaf(pud_val(x))
#define pud_write(x) shim_pud_write(pud_val(x))
#define p4d_none(x) shim_p4d_none(p4d_val(x))
#define p4d_present(x) shim_p4d_present(p4d_val(x))
#define p4d_bad(x) shim_p4d_bad(p4d_val(x))
#define pte_access_permitted(x, w) shim_pte_access_permitted(pte_val(x), w)
#define pmd_access_permitted(x, w) shim_pmd_access_permitted(pmd_val(x), w)
#define pud_access_permitted(x, w) shim_pud_access_permitted(pud_val(x), w)
#define pte_pfn(x) shim_entry_pfn(pte_val(x))
#define pte_page(x) pfn_to_page(pte_pfn(x))
#define pmd_pfn(x) shim_entry_pfn(pmd_val(x))
#define pmd_page(x) pfn_to_page(pmd_pfn(x))
#define pud_pfn(x) shim_entry_pfn(pud_val(x))
#define pud_page(x) pfn_to_page(pud_pfn(x))
#define pte_mkdirty(x) ((pte_t){ shim_pte_mkdirty(pte_val(x)) })
#define pte_mkyoung(x) ((pte_t){ shim_pte_mkyoung(pte_val(x)) })
#define pte_same(a, b) (pte_val(a) == pte_val(b))
#define pmd_same(a, b) (pmd_val(a) == pmd_val(b))
#define pmd_special(x) false
#define pud_special(x) false
/* The P4D is folded into the PGD, whose entries then are never none, bad or
 * leaves: as in asm-generic/pgtable-nop4d.h, nothing is loaded to know it. */
#define p4d_leaf(x) false
#define pgd_none(x) false
#define pgd_bad(x) false
#define pgd_leaf(x) false
#define pgd_write(x) false
#define pgd_page(x) ((struct page *)NULL)
#define pgd_access_permitted(x, w) false
/* Device memory is configured out, CONFIG_ARCH_HAS_PTE_DEVMAP. */
#define pte_devmap(x) false
#define pmd_devmap(x) false
#define pud_devmap(x) false
#define pgd_devmap(x) false

#define PAGE_SIZE (1UL << PAGE_SHIFT)
#define PAGE_MASK (~(PAGE_SIZE - 1))
#define PMD_SIZE (1UL << PMD_SHIFT)
#define PMD_MASK (~(PMD_SIZE - 1))
#define PUD_SIZE (1UL << PUD_SHIFT)
#define PUD_MASK (~(PUD_SIZE - 1))
#define PGDIR_SIZE (1UL << PGDIR_SHIFT)
#define PGDIR_MASK (~(PGDIR_SIZE - 1))
#define P4D_SHIFT PGDIR_SHIFT
#define HPAGE_PMD_NR ((int)(PMD_SIZE / PAGE_SIZE))
#define HPAGE_PMD_MASK PMD_MASK
#define HPAGE_PUD_NR ((int)(PUD_SIZE / PAGE_SIZE))
#define TASK_SIZE_MAX TASK_SIZE
#define PAGE_ALIGN(a) (((a) + PAGE_SIZE - 1) & PAGE_MASK)
#define PAGE_ALIGNED(a) (((unsigned long)(a) & ~PAGE_MASK) == 0)
#define access_ok(p, n) ((unsigned long)(p) + (n) <= TASK_SIZE)
#define untagged_addr(a) (a)
#define untagged_addr_remote(mm, a) (a)

#define shim_addr_end(addr, end, size) \
	({ unsigned long end_ = ((addr) + (size)) & ~((size) - 1); min(end_, end); })
#define pmd_addr_end(addr, end) shim_addr_end(addr, end, PMD_SIZE)
#define pud_addr_end(addr, end) shim_addr_end(addr, end, PUD_SIZE)
#define p4d_addr_end(addr, end) (end)
#define pgd_addr_end(addr, end) shim_addr_end(addr, end, PGDIR_SIZE)

/* The table that an entry points to, and the place of an address in it. */
#define shim_table(entry) ((entry) >> PAGE_SHIFT & (SHIM_TABLES - 1))
#define shim_index(addr, shift, ptrs) ((addr) >> (shift) & ((ptrs) - 1))
#define shim_below(view, entry, index) (&shim_##view[shim_table(entry)][0] + (index))
uint32_t shim_pgd_table(unsigned int mm);
#define pgd_offset(mm, addr) ((pgd_t *)(&shim_upper[shim_pgd_table(shim_mm(mm))][0] + \
				shim_index(addr, PGDIR_SHIFT, PTRS_PER_PGD)))
#define p4d_offset(pgdp, addr) ((p4d_t *)(pgdp))
#define p4d_offset_lockless(pgdp, pgd, addr) p4d_offset(pgdp, addr)
#define pud_offset_lockless(p4dp, p4d, addr) \
	((pud_t *)shim_below(upper, p4d_val(p4d), shim_index(addr, PUD_SHIFT, PTRS_PER_PUD)))
#define pud_offset(p4dp, addr) pud_offset_lockless(p4dp, *(p4dp), addr)
#define pmd_offset_lockless(pudp, pud, addr) \
	((pmd_t *)shim_below(upper, pud_val(pud), shim_index(addr, PMD_SHIFT, PTRS_PER_PMD)))
#define pmd_offset(pudp, addr) pmd_offset_lockless(pudp, *(pudp), addr)
#define shim_pte_offset(pmd, addr) \
	((pte_t *)shim_below(ptes, pmd_val(pmd), shim_index(addr, PAGE_SHIFT, PTRS_PER_PTE)))
#define is_pmd_migration_entry(x) shim_pmd_is_migration(pmd_val(x))
#define pte_unmap(ptep) ((void)(ptep))
void shim_set_pte(uint32_t slot, u64 entry);
#define set_pte_at(mm, addr, p, x) shim_call(set_pte, shim_slot(p), pte_val(x))
#define update_mmu_cache(vma, addr, p) ((void)0)
#define flush_anon_page(vma, page, addr) ((void)(page))
#define flush_dcache_page(page) ((void)(page))

/* One lock for each table. */
void shim_spin_lock(uint16_t table);
void shim_spin_unlock(uint16_t table);
bool shim_spin_is_locked(uint16_t table);
uint16_t shim_lock_table(const spinlock_t *lock);
#define pmd_lockptr(mm, p) (&shim_locks[shim_slot(p) / SHIM_PTRS])
#define pud_lockptr(mm, p) pmd_lockptr(mm, p)
#define pte_lockptr(mm, p) (&shim_locks[shim_table(pmd_val(*(p)))])
#define spin_lock(l) shim_call(spin_lock, shim_lock_table(l))
#define spin_unlock(l) shim_call(spin_unlock, shim_lock_table(l))
#define assert_spin_locked(l) \
	shim_bug_if(!shim_spin_is_locked(shim_lock_table(l)), "the lock is not held")
#define shim_locked(l) ({ spinlock_t *l_ = (l); spin_lock(l_); l_; })
#define pmd_lock(mm, p) shim_locked(pmd_lockptr(mm, p))
#define pud_lock(mm, p) shim_locked(pud_lockptr(mm, p))
#define pte_unmap_unlock(ptep, l) spin_unlock(l)

/* ------------------------------------------------------------ address spaces, tasks */
struct mm_struct { unsigned long flags; unsigned int write_protect_seq; char mmap_lock; };
extern __thread struct mm_struct shim_mms[SHIM_MMS];
struct task_struct { struct mm_struct *mm; };
extern __thread struct task_struct shim_task;
#define current (&shim_task)
#define shim_mm(m) ((unsigned int)((m) - &shim_mms[0]))

struct vm_fault;
struct vm_operations_struct { vm_fault_t (*fault)(struct vm_fault *); };
struct file;
struct vm_area_struct {
	unsigned long vm_start, vm_end;
	struct mm_struct *vm_mm;
	unsigned long vm_flags;
	const struct vm_operations_struct *vm_ops;
	struct vm_area_struct *vm_next;	/* until v6.0, for __mm_populate() */
	unsigned int slot, kind;
};
/* What Rust says of a VMA. */
struct shim_vma { u64 start, end; u32 flags, slot, kind; };
enum {
	SHIM_VMA_FOUND = 1,
	SHIM_VMA_ANON = 2,
	SHIM_VMA_FAULT = 4,	/* it has a fault handler */
	SHIM_VMA_SECRETMEM = 8,
	SHIM_VMA_DIRTY_TRACKING = 16,
	SHIM_VMA_HUGETLB = 32,
	SHIM_VMA_HUGETLB_PUD = 64,	/* its pages are of PUD size */
};
struct vm_area_struct *shim_keep_vma(unsigned int mm, struct shim_vma found);
struct shim_vma shim_find_vma(unsigned int mm, u64 addr);
struct shim_vma shim_vma_lookup(unsigned int mm, u64 addr);
#define shim_found(name, m, addr) \
	({ unsigned int m_ = shim_mm(m); shim_keep_vma(m_, shim_call(name, m_, addr)); })
#define find_vma(m, addr) shim_found(find_vma, m, addr)
#define vma_lookup(m, addr) shim_found(vma_lookup, m, addr)
#define find_vma_intersection(m, start, end) \
	({ struct vm_area_struct *v_ = find_vma(m, start); v_ && v_->vm_start < (end) ? v_ : NULL; })
#define is_vm_hugetlb_page(vma) (!!((vma)->kind & SHIM_VMA_HUGETLB))
#define vma_is_secretmem(vma) (!!((vma)->kind & SHIM_VMA_SECRETMEM))
#define vma_is_fsdax(vma) false
#define vma_needs_dirty_tracking(vma) (!!((vma)->kind & SHIM_VMA_DIRTY_TRACKING))
#define vma_is_accessible(vma) (!!((vma)->vm_flags & (VM_READ | VM_WRITE)))
#define arch_vma_access_permitted(vma, write, execute, foreign) true
#define vma_pgtable_walk_begin(vma) ((void)(vma))
#define vma_pgtable_walk_end(vma) ((void)(vma))
#define in_gate_area(mm, addr) false
#define get_gate_vma(mm) ((struct vm_area_struct *)NULL)
#define pgd_offset_k(addr) pgd_offset(current->mm, addr)
#define pgd_offset_gate(mm, addr) pgd_offset(mm, addr)
#define vma_soft_dirty_enabled(vma) false
#define pte_soft_dirty(x) true
#define pmd_soft_dirty(x) true
#define pte_needs_soft_dirty_wp(vma, x) false
#define pmd_needs_soft_dirty_wp(vma, x) false
#define userfaultfd_pte_wp(vma, x) false
#define userfaultfd_huge_pmd_wp(vma, x) false

void shim_mmap_read_lock(unsigned int mm);
void shim_mmap_read_unlock(unsigned int mm);
int shim_mmap_read_lock_killable(unsigned int mm);
bool shim_mmap_is_locked(unsigned int mm);
#define mmap_read_lock(m) shim_call(mmap_read_lock, shim_mm(m))
#define mmap_read_unlock(m) shim_call(mmap_read_unlock, shim_mm(m))
#define mmap_read_lock_killable(m) shim_call(mmap_read_lock_killable, shim_mm(m))
#define mmap_assert_locked(m) \
	shim_bug_if(!shim_mmap_is_locked(shim_mm(m)), "mmap_lock is not held")
#define might_lock_read(lock) ((void)0)

/* The one bit of mm->flags, and the one sequence count. */
enum { MMF_HAS_PINNED };
bool shim_mm_has_pinned(unsigned int mm);
void shim_set_mm_has_pinned(unsigned int mm);
#define shim_of_member(p, member) shim_mm(container_of(p, struct mm_struct, member))
#define test_bit(n, word) shim_call(mm_has_pinned, shim_of_member(word, flags))
#define set_bit(n, word) shim_call(set_mm_has_pinned, shim_of_member(word, flags))
unsigned int shim_read_write_protect_seq(unsigned int mm);
bool shim_retry_write_protect_seq(unsigned int mm, unsigned int seq);
#define raw_read_seqcount(s) shim_call(read_write_protect_seq, shim_of_member(s, write_protect_seq))
#define read_seqcount_retry(s, seq) \
	shim_call(retry_write_protect_seq, shim_of_member(s, write_protect_seq), seq)

unsigned int shim_local_irq_save(void);
void shim_local_irq_restore(unsigned int flags);
bool shim_irqs_disabled(void);
#define local_irq_save(f) ((f) = shim_call(local_irq_save))
#define local_irq_restore(f) shim_call(local_irq_restore, f)
#define irqs_disabled() shim_irqs_disabled()
#define lockdep_assert_irqs_disabled() \
	((void)shim_warn_if(!irqs_disabled(), "interrupts are on"))
void shim_smp_rmb(void);
#define smp_rmb() shim_call(smp_rmb)
void shim_smp_mb__after_atomic(void);
#define smp_mb__after_atomic() shim_call(smp_mb__after_atomic)

bool shim_fatal_signal_pending(void);
#define fatal_signal_pending(task) shim_call(fatal_signal_pending)
bool shim_signal_pending_(void);
#define signal_pending(task) shim_call(signal_pending_)
unsigned int shim_memalloc_pin_save(void);
void shim_memalloc_pin_restore(unsigned int flags);
#define memalloc_pin_save() shim_call(memalloc_pin_save)
#define memalloc_pin_restore(flags) shim_call(memalloc_pin_restore, flags)
#define cond_resched() ((void)0)
#define jiffies 0UL
#define HZ 250
#define time_before(a, b) ((long)((a) - (b)) < 0)

/* ----------------------------------------------------------- mm beyond gup.c: Rust */
struct pt_regs;
/* A VMA as Rust knows it. */
#define shim_vma_args(vma) shim_mm((vma)->vm_mm), (vma)->slot
unsigned int shim_handle_mm_fault(unsigned int mm, u32 slot, u64 addr, unsigned int flags);
#define handle_mm_fault(vma, addr, flags, regs) \
	shim_call(handle_mm_fault, shim_vma_args(vma), addr, flags)
uint16_t shim_vm_normal_page(unsigned int mm, u32 slot, u64 addr, u64 pte);
struct page *shim_page(uint16_t page);
#define vm_normal_page(vma, addr, pte) \
	shim_page(shim_call(vm_normal_page, shim_vma_args(vma), addr, pte_val(pte)))
void shim_split_huge_pmd(unsigned int mm, u32 slot, uint32_t pmd);
#define split_huge_pmd(vma, pmd, addr) shim_call(split_huge_pmd, shim_vma_args(vma), shim_slot(pmd))
int shim_pte_alloc(uint32_t pmd);
#define pte_alloc(mm, pmd) shim_call(pte_alloc, shim_slot(pmd))
void shim_touch_pmd(uint32_t pmd, bool write);
/* Until v5.18 the last one is all the flags. */
#define touch_pmd(vma, addr, pmd, flags) \
	shim_call(touch_pmd, shim_slot(pmd), (flags) & FOLL_WRITE)
#define touch_pud(vma, addr, pud, write) ((void)0)	/* only for device memory */
#define is_huge_zero_pmd(x) ({ pmd_t pmd_ = (x); (void)pmd_; false; })

void shim_lru_add_drain(void);
void shim_lru_add_drain_all(void);
bool shim_folio_isolate_lru(uint16_t folio);
#define lru_add_drain() shim_call(lru_add_drain)
#define lru_add_drain_all() shim_call(lru_add_drain_all)
bool shim_isolate_hugetlb(uint16_t folio);
#define isolate_hugetlb(f, list) \
	(shim_call(isolate_hugetlb, shim_pfn(f)) ? (list_add_tail(&(f)->lru, list), true) : false)

enum migrate_mode { MIGRATE_SYNC };
enum { MR_LONGTERM_PIN, NUMA_NO_NODE = -1 };
struct migration_target_control { int nid; void *nmask; gfp_t gfp_mask; int reason; };
int shim_migrate_pages(struct list_head *from, const struct migration_target_control *mtc);
#define migrate_pages(from, get_new, put_new, mtc, mode, reason, succeeded) \
	(shim_at(), shim_migrate_pages(from, (const void *)(mtc)))
void shim_putback_movable_pages(struct list_head *list);
#define putback_movable_pages(list) (shim_at(), shim_putback_movable_pages(list))

/* ------------------------------------------------------- configured out or not called */
struct dev_pagemap;
#define get_dev_pagemap(pfn, map) ((struct dev_pagemap *)NULL)
#define put_dev_pagemap(map) ((void)(map))
#define put_devmap_managed_folio_refs(f, n) false
#define put_devmap_managed_page_refs(p, n) false
#define follow_devmap_pmd(vma, addr, pmd, flags, map) ((struct page *)NULL)
#define migrate_device_coherent_folio(f) (-EBUSY)
#define probe_subpage_writeable(p, n) 0
#define user_write_access_begin(p, n) access_ok(p, n)
#define user_read_access_begin(p, n) access_ok(p, n)
#define user_write_access_end() ((void)0)
#define user_read_access_end() ((void)0)
#define unsafe_put_user(x, p, label) do { if (!(p)) goto label; } while (0)
#define unsafe_get_user(x, p, label) do { (x) = 0; if (!(p)) goto label; } while (0)
struct hstate;
struct inode;
struct file { struct address_space *f_mapping; };
#define shmem_file(file) false
#define is_file_hugepages(file) false
#define file_inode(file) ((struct inode *)NULL)
#define i_size_read(inode) 0
#define hstate_file(file) ((struct hstate *)NULL)
#define hstate_vma(vma) ((struct hstate *)(vma))	/* a file has pages of one size */
#define huge_page_size(h) \
	(((struct vm_area_struct *)(h))->kind & SHIM_VMA_HUGETLB_PUD ? PUD_SIZE : PMD_SIZE)
#define huge_page_mask(h) (~(huge_page_size(h) - 1))
bool shim_hugetlbfs_pagecache_present(unsigned int mm, uint32_t slot, u64 addr);
#define hugetlbfs_pagecache_present(h, vma, addr) \
	((void)(h), shim_call(hugetlbfs_pagecache_present, shim_mm((vma)->vm_mm), (vma)->slot, addr))
#define huge_page_shift(h) PAGE_SHIFT
#define huge_page_order(h) 0
struct folio_batch { struct folio *folios[1]; };
#define folio_batch_init(batch) ((void)(batch))
#define folio_batch_release(batch) ((void)(batch))
#define filemap_get_folios_contig(mapping, start, end, batch) ((void)(batch), 0)
#define memfd_alloc_folio(file, index) ((struct folio *)ERR_PTR(-ENOMEM))
#define folio_index(f) 0UL
#define folio_next_index(f) 0UL
#define offset_in_folio(f, p) 0UL

#include "versions.h"

/* ---------------------------------------------------------------- what gup.c defines */
/* Declared here so that a tree with another idea of them does not compile. */
long get_user_pages(unsigned long, unsigned long, unsigned int, struct page ** SHIM_VMAS_TYPE);
long get_user_pages_remote(struct mm_struct *, unsigned long, unsigned long, unsigned int,
			   struct page ** SHIM_VMAS_TYPE, int *);
long get_user_pages_unlocked(unsigned long, unsigned long, struct page **, unsigned int);
int get_user_pages_fast(unsigned long, int, unsigned int, struct page **);
int get_user_pages_fast_only(unsigned long, int, unsigned int, struct page **);
long pin_user_pages(unsigned long, unsigned long, unsigned int, struct page ** SHIM_VMAS_TYPE);
long pin_user_pages_remote(struct mm_struct *, unsigned long, unsigned long, unsigned int,
			   struct page ** SHIM_VMAS_TYPE, int *);
long pin_user_pages_unlocked(unsigned long, unsigned long, struct page **, unsigned int);
int pin_user_pages_fast(unsigned long, int, unsigned int, struct page **);
void unpin_user_page(struct page *);
void unpin_user_pages(struct page **, unsigned long);
void unpin_user_pages_dirty_lock(struct page **, unsigned long, bool);
void unpin_user_page_range_dirty_lock(struct page *, unsigned long, bool);

#ifdef __MM_INTERNAL_H	/* this is gup.c, see build.rs */
#include "policy.h"
#endif

#endif
