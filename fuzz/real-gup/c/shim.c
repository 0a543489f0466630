/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The tokens that shim.h speaks of, the hooks that turn plain loads into
 * steps, and the way in: shim_c_NAME() is what Rust calls for NAME().
 *
 * Compiled without the hooks.
 */
#include "shim.h"

#include <limits.h>
#include <setjmp.h>

/* ------------------------------------------------------------------------ tokens */
/* One set for each thread: worlds of different threads have nothing to do
 * with each other. */
__thread struct page mem_map[SHIM_FRAMES];
__thread u64 shim_ptes[SHIM_TABLES][SHIM_PTRS];
__thread u64 shim_upper[SHIM_TABLES][SHIM_PTRS];
__thread spinlock_t shim_locks[SHIM_TABLES];
__thread struct mm_struct shim_mms[SHIM_MMS];
__thread struct task_struct shim_task;
static __thread struct vm_area_struct vmas[SHIM_MMS][SHIM_VMAS];
static __thread struct address_space mappings[256];
const struct address_space_operations secretmem_aops;

/* Rust's Page::NULL and Page::UNSET. */
#define NO_PAGE UINT16_MAX
#define NULL_PAGE (UINT16_MAX - 1)

struct page *shim_page(uint16_t page)
{
	return page == NULL_PAGE ? NULL : pfn_to_page(page);
}

uint16_t shim_pfn(const void *page)
{
	uintptr_t offset = (uintptr_t)page - (uintptr_t)mem_map;

	if (!page)
		return NULL_PAGE;
	if (offset % sizeof(struct page) || offset / sizeof(struct page) > NO_PAGE)
		return NO_PAGE;
	return offset / sizeof(struct page);
}

/* The address within an array, or something at least as large as the array. */
#define OFFSET_IN(p, array) ((uintptr_t)(p) - (uintptr_t)(array))
#define IS_IN(p, array) (OFFSET_IN(p, array) < sizeof(array))

uint32_t shim_slot(const void *entry)
{
	uintptr_t base = IS_IN(entry, shim_ptes) ? (uintptr_t)shim_ptes : (uintptr_t)shim_upper;

	return ((uintptr_t)entry - base) / sizeof(u64);
}

uint16_t shim_lock_table(const spinlock_t *lock)
{
	return lock - shim_locks;
}

static vm_fault_t some_fault(struct vm_fault *vmf)
{
	return 0;
}

struct vm_area_struct *shim_keep_vma(unsigned int mm, struct shim_vma found)
{
	static const struct vm_operations_struct none, some = { some_fault };
	struct vm_area_struct *vma = &vmas[mm][found.slot];

	if (!(found.kind & SHIM_VMA_FOUND))
		return NULL;
	*vma = (struct vm_area_struct){
		.vm_start = found.start,
		.vm_end = found.end,
		.vm_mm = &shim_mms[mm],
		.vm_flags = found.flags,
		.vm_ops = found.kind & SHIM_VMA_ANON ? NULL : found.kind & SHIM_VMA_FAULT ? &some : &none,
		.slot = found.slot,
		.kind = found.kind,
	};
	return vma;
}

int shim_mapping_word(const struct address_space *mapping)
{
	return mapping - mappings;
}

/* ------------------------------------------------------------------- plain accesses */
u64 shim_read_pte(uint32_t slot);
u64 shim_read_entry(uint32_t slot);
int shim_folio_mapping(uint16_t folio);

static __thread const void *last_pc;

void shim_at(void)
{
	last_pc = __builtin_return_address(0);
}

/* Where in gup.c the last step was taken. */
const void *shim_pc(void)
{
	return last_pc;
}

#ifdef SHIM_SANITIZE
void *__asan_region_is_poisoned(void *begin, size_t size);
void __asan_report_load_n(unsigned long addr, size_t size);
void __asan_report_store_n(unsigned long addr, size_t size);

/* Does not return if the memory is not gup.c's. */
#define CHECK(access, addr, size)						\
	do {									\
		if (__asan_region_is_poisoned((void *)(addr), size))		\
			__asan_report_##access##_n(addr, size);			\
	} while (0)
#else
#define CHECK(access, addr, size) ((void)0)
void __asan_handle_no_return(void) {}
#endif

/* The compiler calls this before each load of eight bytes. */
void __asan_load8_noabort(unsigned long addr)
{
	CHECK(load, addr, 8);
	if (IS_IN(addr, shim_ptes)) {
		last_pc = __builtin_return_address(0);
		*(u64 *)addr = shim_read_pte(shim_slot((void *)addr));
	} else if (IS_IN(addr, shim_upper)) {
		last_pc = __builtin_return_address(0);
		*(u64 *)addr = shim_read_entry(shim_slot((void *)addr));
	} else if (IS_IN(addr, mem_map) &&
		   OFFSET_IN(addr, mem_map) % sizeof(struct page) == offsetof(struct page, mapping)) {
		struct page *page = container_of((void *)addr, struct page, mapping);
		int word;

		last_pc = __builtin_return_address(0);
		/* 0 nobody, 1 anonymous memory, else an address space. */
		word = shim_folio_mapping(shim_pfn(page));
		if (word > 1)
			mappings[word].a_ops = shim_secretmem_mapping(word) ? &secretmem_aops : NULL;
		page->mapping = word > 1 ? &mappings[word] : (void *)(intptr_t)word;
	}
}

/* Nothing that the model keeps is stored to plainly. */
static void check_store(unsigned long addr)
{
	if (IS_IN(addr, shim_ptes) || IS_IN(addr, shim_upper))
		shim_warn("gup.c", "a plain store to a page table");
}

#define HOOK(name, ...) void __asan_##name##_noabort(unsigned long addr __VA_ARGS__)
HOOK(load1) { CHECK(load, addr, 1); }
HOOK(load2) { CHECK(load, addr, 2); }
HOOK(load4) { CHECK(load, addr, 4); }
HOOK(load16) { CHECK(load, addr, 16); }
HOOK(loadN, , size_t size) { CHECK(load, addr, size); }
HOOK(store1) { CHECK(store, addr, 1); }
HOOK(store2) { CHECK(store, addr, 2); }
HOOK(store4) { CHECK(store, addr, 4); }
HOOK(store8) { CHECK(store, addr, 8); check_store(addr); }
HOOK(store16) { CHECK(store, addr, 16); check_store(addr); }
HOOK(storeN, , size_t size) { CHECK(store, addr, size); check_store(addr); }

/* ---------------------------------------------------------------------- WARN and BUG */
enum { SPLAT_WARN, SPLAT_BUG };
void shim_splat(int kind, const char *function, const char *what);

/* A call into gup.c, innermost last: a window may run another op inside. */
struct frame { struct frame *up; struct task_struct task; jmp_buf bug; };
static __thread struct frame *frames;

void shim_warn(const char *function, const char *condition)
{
	shim_splat(SPLAT_WARN, function, condition);
}

void shim_bug(const char *function, const char *condition)
{
	shim_splat(SPLAT_BUG, function, condition);
	/* Only C frames lie between here and the way in: Rust that was called
	 * from gup.c has returned before gup.c can come here. */
	longjmp(frames->bug, 1);
}

/* After a panic of the model passed through: how deep we are. */
void *shim_frames(void)
{
	return frames;
}
void shim_set_frames(void *saved)
{
	frames = saved;
}

/* ----------------------------------------------------------------------- other calls */
/* Isolated folios are a list here and an array in the model. */
void shim_list_clear(void);
void shim_list_add(uint16_t folio);
uint16_t shim_list_get(unsigned int n);
int shim_migrate_list(gfp_t gfp);
void shim_putback_list(void);

static void to_model(struct list_head *list)
{
	struct list_head *at;

	shim_list_clear();
	for (at = list->next; at != list; at = at->next)
		shim_list_add(shim_pfn(container_of(at, struct page, lru)));
}

static void from_model(struct list_head *list)
{
	uint16_t page;
	unsigned int i;

	list->next = list->prev = list;
	for (i = 0; (page = shim_list_get(i)) != NULL_PAGE; i++)
		list_add_tail(&shim_page(page)->lru, list);
}

int shim_migrate_pages(struct list_head *from, const struct migration_target_control *mtc)
{
	int ret;

	to_model(from);
	ret = shim_migrate_list(mtc->gfp_mask);
	from_model(from);
	return ret;
}

void shim_putback_movable_pages(struct list_head *list)
{
	to_model(list);
	shim_putback_list();
	list->next = list->prev = list;
}

/* ------------------------------------------------------------------------ the way in */
/* What a call answers if gup.c came to a BUG. */
#define SHIM_BUG LONG_MIN

/* What a call is given; the pages are numbers. */
struct args {
	u64 start;
	u64 nr;
	uint16_t *pages;	/* or NULL */
	u64 len;		/* of pages and vmas */
	u32 *vmas;		/* slots, or NULL */
	int *locked;		/* or NULL */
	u32 flags;
	u32 current_mm;
	u32 mm;
	u32 dirty;
};

/* Rust's NO_VMA. */
#define NO_VMA UINT32_MAX

typedef long call_fn(const struct args *a, struct page **pages, struct vm_area_struct **vmas);

/* Makes a call into gup.c; a BUG ends it. */
static long enter(call_fn *call, const struct args *a)
{
	struct frame frame = { .up = frames, .task = shim_task };
	/* As long as the caller said, so that what lies behind is not gup.c's. */
	struct page *pages[a->pages && a->len ? a->len : 1];
	struct vm_area_struct *found[a->vmas && a->len ? a->len : 1];
	volatile long ret = SHIM_BUG;
	unsigned int i;

	for (i = 0; a->pages && i < a->len; i++)
		pages[i] = shim_page(a->pages[i]);
	for (i = 0; a->vmas && i < a->len; i++)
		found[i] = NULL;
	shim_task.mm = &shim_mms[a->current_mm];
	frames = &frame;
	if (!setjmp(frame.bug))
		ret = call(a, a->pages ? pages : NULL, a->vmas ? found : NULL);
	frames = frame.up;
	shim_task = frame.task;
	for (i = 0; a->pages && i < a->len; i++)
		a->pages[i] = shim_pfn(pages[i]);
	for (i = 0; a->vmas && i < a->len; i++)
		a->vmas[i] = found[i] ? found[i]->slot : NO_VMA;
	return ret;
}

#define CALL(name, expression)						\
	static long call_##name(const struct args *a, struct page **pages,	\
				struct vm_area_struct **vmas)		\
	{								\
		return expression;					\
	}								\
	long shim_c_##name(const struct args *a) { return enter(call_##name, a); }
#define MM (&shim_mms[a->mm])

CALL(get_user_pages, get_user_pages(a->start, a->nr, a->flags, pages SHIM_VMAS_ARG(vmas)))
CALL(get_user_pages_remote,
     get_user_pages_remote(MM, a->start, a->nr, a->flags, pages SHIM_VMAS_ARG(vmas), a->locked))
CALL(get_user_pages_unlocked, get_user_pages_unlocked(a->start, a->nr, pages, a->flags))
CALL(get_user_pages_fast, get_user_pages_fast(a->start, a->nr, a->flags, pages))
CALL(get_user_pages_fast_only, get_user_pages_fast_only(a->start, a->nr, a->flags, pages))
CALL(pin_user_pages, pin_user_pages(a->start, a->nr, a->flags, pages SHIM_VMAS_ARG(vmas)))
CALL(pin_user_pages_remote,
     pin_user_pages_remote(MM, a->start, a->nr, a->flags, pages SHIM_VMAS_ARG(vmas), a->locked))
CALL(pin_user_pages_unlocked, pin_user_pages_unlocked(a->start, a->nr, pages, a->flags))
CALL(pin_user_pages_fast, pin_user_pages_fast(a->start, a->nr, a->flags, pages))
CALL(get_user_pages_locked,
     SHIM_V5_15(get_user_pages_locked(a->start, a->nr, a->flags, pages, a->locked)))
CALL(pin_user_pages_locked,
     SHIM_V5_15(pin_user_pages_locked(a->start, a->nr, a->flags, pages, a->locked)))
CALL(pin_user_pages_fast_only,
     SHIM_V5_15(pin_user_pages_fast_only(a->start, a->nr, a->flags, pages)))
CALL(unpin_user_page, (unpin_user_page(pages[0]), 0))
CALL(unpin_user_pages, (unpin_user_pages(pages, a->nr), 0))
CALL(unpin_user_pages_dirty_lock, (unpin_user_pages_dirty_lock(pages, a->nr, a->dirty), 0))
CALL(unpin_user_page_range_dirty_lock,
     (unpin_user_page_range_dirty_lock(pages[0], a->nr, a->dirty), 0))
CALL(unpin_user_folio, (unpin_user_folio((struct folio *)pages[0], a->nr), 0))
CALL(unpin_folio, (unpin_folio((struct folio *)pages[0]), 0))
CALL(unpin_folios, (unpin_folios((struct folio **)pages, a->nr), 0))
CALL(folio_add_pin, (folio_add_pin((struct folio *)pages[0]), 0))

/* Which text this is. */
const char shim_release[] = SHIM_RELEASE;
const char shim_known[] = SHIM_KNOWN;
const char shim_sha256[] = SHIM_SHA256;
const char shim_path[] = SHIM_PATH;
