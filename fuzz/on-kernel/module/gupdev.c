// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/gupdev, see gupdev.h. One source for 6.1 and later. It runs in a guest
 * with one CPU, where nothing else moves while it looks.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/huge_mm.h>
#include <linux/hugetlb.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/mmzone.h>
#include <linux/module.h>
#include <linux/pfn_t.h>
#include <linux/pgtable.h>
#include <linux/pid.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmstat.h>

#include "gupdev.h"

#define SINCE(a, b) (LINUX_VERSION_CODE >= KERNEL_VERSION(a, b, 0))

/* The calls had a vmas argument up to 6.4. */
#if SINCE(6, 5)
#define VMAS
#else
#define VMAS , NULL
#endif

/* Nothing is there: between the PCI configuration space and the devices. */
#define RAW_PFN 0xe0000UL

struct handle {
	struct page **pages;
	unsigned long nr;
	bool pinned;
};

struct state {
	struct mutex lock;
	struct handle handles[GUPDEV_HANDLES];
};

static const struct {
	unsigned int ours, foll;
} foll_bits[] = {
	{ GUPDEV_WRITE, FOLL_WRITE },
	{ GUPDEV_LONGTERM, FOLL_LONGTERM },
	{ GUPDEV_FORCE, FOLL_FORCE },
	{ GUPDEV_DUMP, FOLL_DUMP },
	{ GUPDEV_NOWAIT, FOLL_NOWAIT },
	{ GUPDEV_SPLIT_PMD, FOLL_SPLIT_PMD },
	{ GUPDEV_HWPOISON, FOLL_HWPOISON },
	{ GUPDEV_GET, FOLL_GET },
	{ GUPDEV_NOFAULT, FOLL_NOFAULT },
#if SINCE(6, 3)
	/* In mm/internal.h: a caller outside of mm must not pass them. */
	{ GUPDEV_TOUCH, 1 << 16 },
	{ GUPDEV_PIN, 1 << 19 },
	{ GUPDEV_INTERRUPTIBLE, FOLL_INTERRUPTIBLE },
	{ GUPDEV_HONOR_NUMA_FAULT, FOLL_HONOR_NUMA_FAULT },
#else
	{ GUPDEV_TOUCH, FOLL_TOUCH },
	{ GUPDEV_PIN, FOLL_PIN },
	{ GUPDEV_ANON, FOLL_ANON },
#endif
};

static long foll_of(unsigned int ours)
{
	unsigned int i, foll = 0;

	for (i = 0; i < ARRAY_SIZE(foll_bits); i++) {
		if (ours & foll_bits[i].ours)
			foll |= foll_bits[i].foll;
		ours &= ~foll_bits[i].ours;
	}
	return ours ? -EOPNOTSUPP : (long)foll;
}

static struct handle *handle_at(struct state *s, unsigned int i)
{
	return i < GUPDEV_HANDLES ? &s->handles[i] : NULL;
}

static void unpin_ranges(struct handle *h, bool make_dirty)
{
	unsigned long i, run;

	for (i = 0; i < h->nr; i += run) {
		for (run = 1; i + run < h->nr; run++)
			if (page_to_pfn(h->pages[i + run]) !=
			    page_to_pfn(h->pages[i]) + run)
				break;
		unpin_user_page_range_dirty_lock(h->pages[i], run, make_dirty);
	}
}

#if SINCE(6, 12)
static void unpin_user_folios(struct handle *h)
{
	struct folio *folio;
	unsigned long i, run;

	for (i = 0; i < h->nr; i += run) {
		folio = page_folio(h->pages[i]);
		for (run = 1; i + run < h->nr; run++)
			if (page_folio(h->pages[i + run]) != folio)
				break;
		unpin_user_folio(folio, run);
	}
}

static long unpin_as_folios(struct handle *h, unsigned int how)
{
	/* A folio is its head page; the pages are not needed any more. */
	struct folio **folios = (struct folio **)h->pages;
	unsigned long i;

	switch (how) {
	case GUPDEV_UNPIN_FOLIO:
		for (i = 0; i < h->nr; i++)
			unpin_folio(page_folio(h->pages[i]));
		return 0;
	case GUPDEV_UNPIN_FOLIOS:
		for (i = 0; i < h->nr; i++)
			folios[i] = page_folio(h->pages[i]);
		unpin_folios(folios, h->nr);
		return 0;
	case GUPDEV_UNPIN_USER_FOLIO:
		unpin_user_folios(h);
		return 0;
	case GUPDEV_UNPIN_FOLIOS_ERROR:
		unpin_folios(folios, -ENOMEM);
		return 0;
	}
	return -EOPNOTSUPP;
}
#else
static long unpin_as_folios(struct handle *h, unsigned int how)
{
	return -EOPNOTSUPP;
}
#endif

static long give_back(struct handle *h, unsigned int how)
{
	unsigned long i;

	switch (how) {
	case GUPDEV_PUT_PAGE:
		for (i = 0; i < h->nr; i++)
			put_page(h->pages[i]);
		return 0;
	case GUPDEV_UNPIN_USER_PAGES:
		unpin_user_pages(h->pages, h->nr);
		return 0;
	case GUPDEV_UNPIN_USER_PAGES_ERROR:
		unpin_user_pages(h->pages, -ENOMEM);
		return 0;
	case GUPDEV_UNPIN_USER_PAGE:
		for (i = 0; i < h->nr; i++)
			unpin_user_page(h->pages[i]);
		return 0;
	case GUPDEV_UNPIN_USER_PAGES_DIRTY_LOCK:
	case GUPDEV_UNPIN_USER_PAGES_DIRTY_LOCK_CLEAN:
		unpin_user_pages_dirty_lock(h->pages, h->nr,
			how == GUPDEV_UNPIN_USER_PAGES_DIRTY_LOCK);
		return 0;
	case GUPDEV_UNPIN_USER_PAGE_RANGE_DIRTY_LOCK:
	case GUPDEV_UNPIN_USER_PAGE_RANGE_DIRTY_LOCK_CLEAN:
		unpin_ranges(h, how == GUPDEV_UNPIN_USER_PAGE_RANGE_DIRTY_LOCK);
		return 0;
	}
	return unpin_as_folios(h, how);
}

static long release(struct handle *h, unsigned int how)
{
	long ret = give_back(h, how);

	if (!ret && how != GUPDEV_UNPIN_USER_PAGES_ERROR &&
	    how != GUPDEV_UNPIN_FOLIOS_ERROR) {
		kvfree(h->pages);
		memset(h, 0, sizeof(*h));
	}
	return ret;
}

static long slow_call(struct gupdev_call *a, unsigned int foll,
		      struct page **pages)
{
	struct mm_struct *mm = current->mm;
	int locked = 1;
	int *lockedp = a->options & GUPDEV_LOCKED ? &locked : NULL;
	long ret;

	mmap_read_lock(mm);
	switch (a->call) {
	case GUPDEV_GET_USER_PAGES:
		ret = get_user_pages(a->addr, a->nr, foll, pages VMAS);
		break;
	case GUPDEV_GET_USER_PAGES_REMOTE:
		ret = get_user_pages_remote(mm, a->addr, a->nr, foll, pages
					    VMAS, lockedp);
		break;
	case GUPDEV_PIN_USER_PAGES:
		ret = pin_user_pages(a->addr, a->nr, foll, pages VMAS);
		break;
	default:
		ret = pin_user_pages_remote(mm, a->addr, a->nr, foll, pages
					    VMAS, lockedp);
		break;
	}
	if (locked)
		mmap_read_unlock(mm);
	return ret;
}

static long call(struct gupdev_call *a, unsigned int foll, struct page **pages)
{
	switch (a->call) {
	case GUPDEV_GET_USER_PAGES:
	case GUPDEV_GET_USER_PAGES_REMOTE:
	case GUPDEV_PIN_USER_PAGES:
	case GUPDEV_PIN_USER_PAGES_REMOTE:
		return slow_call(a, foll, pages);
	case GUPDEV_GET_USER_PAGES_UNLOCKED:
		return get_user_pages_unlocked(a->addr, a->nr, pages, foll);
	case GUPDEV_GET_USER_PAGES_FAST:
		return get_user_pages_fast(a->addr, a->nr, foll, pages);
	case GUPDEV_GET_USER_PAGES_FAST_ONLY:
		return get_user_pages_fast_only(a->addr, a->nr, foll, pages);
	case GUPDEV_PIN_USER_PAGES_UNLOCKED:
		return pin_user_pages_unlocked(a->addr, a->nr, pages, foll);
	case GUPDEV_PIN_USER_PAGES_FAST:
		return pin_user_pages_fast(a->addr, a->nr, foll, pages);
#if !SINCE(6, 3)
	case GUPDEV_PIN_USER_PAGES_FAST_ONLY:
		return pin_user_pages_fast_only(a->addr, a->nr, foll, pages);
#endif
	}
	return -EOPNOTSUPP;
}

static long do_call(struct state *s, struct gupdev_call *a)
{
	struct handle *h = handle_at(s, a->handle);
	bool keep = !(a->options & GUPDEV_NOPAGES);
	struct page **pages;
	long foll = foll_of(a->flags);
	unsigned long owned = 0;

	if (foll < 0)
		return foll;
	if (!h || h->pages || !a->nr || a->nr > GUPDEV_MAX_PAGES)
		return -EINVAL;
	if (a->call > GUPDEV_PIN_USER_PAGES_FAST_ONLY ||
	    (a->call == GUPDEV_PIN_USER_PAGES_FAST_ONLY && SINCE(6, 3)))
		return -EOPNOTSUPP;
	pages = kvcalloc(a->nr, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	a->ret = call(a, foll, keep ? pages : NULL);
	while (keep && a->ret > 0 && owned < a->ret && pages[owned])
		owned++;
	a->unset = keep && a->ret > 0 && owned < a->ret ? owned : a->nr;
	if (!owned) {
		kvfree(pages);
		return 0;
	}
	h->pages = pages;
	h->nr = owned;
	h->pinned = a->call >= GUPDEV_PIN_USER_PAGES;
	return 0;
}

static long do_release(struct state *s, struct gupdev_release *a)
{
	struct handle *h = handle_at(s, a->handle);

	if (!h || !h->pages || h->pinned == (a->how == GUPDEV_PUT_PAGE))
		return -EBADF;
	return release(h, a->how);
}

static long do_tee(struct state *s, struct gupdev_tee *a)
{
	struct handle *from = handle_at(s, a->from);
	struct handle *to = handle_at(s, a->to);
	unsigned long i;

	if (!from || !from->pages || from->pinned || !to || to->pages)
		return -EBADF;
	to->pages = kvcalloc(from->nr, sizeof(*to->pages), GFP_KERNEL);
	if (!to->pages)
		return -ENOMEM;
	for (i = 0; i < from->nr && try_get_page(from->pages[i]); i++)
		to->pages[i] = from->pages[i];
	a->ret = to->nr = i;
	if (!i) {
		kvfree(to->pages);
		to->pages = NULL;
	}
	return 0;
}

static long do_dma(struct state *s, struct gupdev_dma *a)
{
	struct handle *h = handle_at(s, a->handle);
	unsigned int i;

	if (!h || !h->pages)
		return -EBADF;
	for (i = a->first; i < h->nr && i - a->first < a->nr; i++) {
		u64 *at = kmap_local_page(h->pages[i]);

		if (a->write)
			*at = a->token;
		else if (i == a->first)
			a->token = *at;
		kunmap_local(at);
	}
	return 0;
}

#if SINCE(6, 5)
static int mapcount_of(struct folio *folio)
{
	return folio_mapcount(folio);
}
#else
/* folio_mapcount() of 6.1 is not for modules. */
static int mapcount_of(struct folio *folio)
{
	int i, nr = folio_nr_pages(folio), entire, sum = 0;

	if (!folio_test_large(folio))
		return atomic_read(&folio->_mapcount) + 1;
	entire = folio_entire_mapcount(folio);
	if (folio_test_hugetlb(folio))
		return entire;
	for (i = 0; i < nr; i++)
		sum += atomic_read(&folio_page(folio, i)->_mapcount) + 1;
	if (!folio_test_anon(folio))
		return sum + entire - entire * nr;
	/* A doubly mapped THP counts its PMDs once more in every page. */
	if (PageDoubleMap(&folio->page))
		sum -= nr;
	return sum + entire;
}
#endif

static int pincount_of(struct folio *folio)
{
	if (!folio_test_large(folio))
		return 0;
#if SINCE(6, 5)
	return atomic_read(&folio->_pincount);
#else
	return atomic_read(folio_pincount_ptr(folio));
#endif
}

static void look_at_page(struct page *page, struct gupdev_row *row)
{
	struct folio *folio = page_folio(page);
	/* A page that a PMD maps has its mark on the head. */
	struct page *mark = row->flags & GUPDEV_HUGE ? &folio->page : page;
	bool hugetlb = folio_test_hugetlb(folio);

	row->head = folio_pfn(folio);
	row->order = folio_order(folio);
	row->refcount = folio_ref_count(folio);
	row->mapcount = mapcount_of(folio);
	row->entire = folio_test_large(folio) ? folio_entire_mapcount(folio) : 0;
	row->pincount = pincount_of(folio);
	if (is_zero_pfn(row->pfn))
		row->flags |= GUPDEV_ZERO;
	if (folio_test_anon(folio)) {
		row->flags |= GUPDEV_ISANON;
		if (PageAnonExclusive(hugetlb ? &folio->page : mark))
			row->flags |= GUPDEV_EXCLUSIVE;
	}
	if (folio_maybe_dma_pinned(folio))
		row->flags |= GUPDEV_DMA_PINNED;
	if (is_zone_movable_page(page))
		row->flags |= GUPDEV_MOVABLE;
	if (folio_test_lru(folio))
		row->flags |= GUPDEV_LRU;
	if (folio_test_dirty(folio))
		row->flags |= GUPDEV_DIRTY;
	if (folio_test_swapbacked(folio))
		row->flags |= GUPDEV_SWAPBACKED;
	if (folio_test_locked(folio))
		row->flags |= GUPDEV_ISLOCKED;
	if (hugetlb)
		row->flags |= GUPDEV_HUGETLB;
	else if (folio_test_private(folio))
		row->flags |= GUPDEV_PRIVATE;
	/* Secret memory is not in the kernel's map. */
	if (copy_from_kernel_nofault(&row->token, page_address(page), 8)) {
		row->flags |= GUPDEV_SECRET;
		row->token = 0;
	}
}

static void present(struct gupdev_row *row, pteval_t bits, unsigned long pfn)
{
	row->pfn = pfn;
	row->flags |= GUPDEV_PRESENT;
	if (bits & _PAGE_PRESENT)
		row->flags |= GUPDEV_ACCESS;
	if (bits & _PAGE_RW)
		row->flags |= GUPDEV_WRITABLE;
	if (bits & _PAGE_SPECIAL)
		row->flags |= GUPDEV_SPECIAL;
}

/* The entry that maps an address. mmap_lock is held. */
static void walk_to(struct mm_struct *mm, unsigned long addr,
		    struct gupdev_row *row)
{
	pgd_t *pgd = pgd_offset(mm, addr);
	p4d_t *p4d;
	pud_t *pud;
	pmd_t pmd;
	pte_t pte;

	if (pgd_none(*pgd))
		return;
	p4d = p4d_offset(pgd, addr);
	if (p4d_none(*p4d))
		return;
	pud = pud_offset(p4d, addr);
	if (pud_none(*pud))
		return;
	pmd = *pmd_offset(pud, addr);
	if (pmd_none(pmd))
		return;
	if (!pmd_present(pmd)) {
		row->flags |= GUPDEV_NONPRESENT;
		return;
	}
	if (pmd_val(pmd) & _PAGE_PSE) {
		row->flags |= GUPDEV_HUGE;
		present(row, pmd_val(pmd), pmd_pfn(pmd) +
			((addr & ~PMD_MASK) >> PAGE_SHIFT));
		return;
	}
	pte = *pte_offset_kernel(&pmd, addr);
	if (pte_present(pte))
		present(row, pte_val(pte), pte_pfn(pte));
	else if (!pte_none(pte))
		row->flags |= GUPDEV_NONPRESENT;
}

static long do_walk(struct gupdev_walk *a)
{
	struct gupdev_row __user *to = u64_to_user_ptr(a->rows);
	struct task_struct *task;
	struct mm_struct *mm;
	struct pid *pid = find_get_pid(a->pid);
	unsigned int i;
	long ret = 0;

	task = get_pid_task(pid, PIDTYPE_PID);
	put_pid(pid);
	if (!task)
		return -ESRCH;
	mm = get_task_mm(task);
	put_task_struct(task);
	if (!mm)
		return -ESRCH;
	for (i = 0; i < a->nr && !ret; i++) {
		struct gupdev_row row = {};

		mmap_read_lock(mm);
		walk_to(mm, a->addr + i * PAGE_SIZE, &row);
		if (row.flags & GUPDEV_PRESENT && pfn_valid(row.pfn))
			look_at_page(pfn_to_page(row.pfn), &row);
		mmap_read_unlock(mm);
		if (copy_to_user(to + i, &row, sizeof(row)))
			ret = -EFAULT;
	}
	mmput(mm);
	return ret;
}

static long do_held(struct state *s, struct gupdev_held *a)
{
	struct gupdev_row __user *to = u64_to_user_ptr(a->rows);
	struct handle *h = handle_at(s, a->handle);
	unsigned int i;

	if (!h || !h->pages)
		return -EBADF;
	for (i = 0; i < h->nr && i < a->nr; i++) {
		struct gupdev_row row = { .pfn = page_to_pfn(h->pages[i]) };

		look_at_page(h->pages[i], &row);
		if (copy_to_user(to + i, &row, sizeof(row)))
			return -EFAULT;
	}
	a->nr = h->nr;
	return 0;
}

static s64 node_stat(enum node_stat_item item)
{
	s64 sum = atomic_long_read(&vm_node_stat[item]);
	int nid, cpu;

	for_each_online_node(nid)
		for_each_online_cpu(cpu)
			sum += per_cpu_ptr(NODE_DATA(nid)->per_cpu_nodestats,
					   cpu)->vm_node_stat_diff[item];
	return sum;
}

union argument {
	struct gupdev_call call;
	struct gupdev_release release;
	struct gupdev_tee tee;
	struct gupdev_dma dma;
	struct gupdev_walk walk;
	struct gupdev_held held;
	struct gupdev_stat stat;
};

static long dispatch(struct state *s, unsigned int cmd, union argument *a)
{
	switch (cmd) {
	case GUPDEV_CALL:
		return do_call(s, &a->call);
	case GUPDEV_RELEASE:
		return do_release(s, &a->release);
	case GUPDEV_TEE:
		return do_tee(s, &a->tee);
	case GUPDEV_DMA:
		return do_dma(s, &a->dma);
	case GUPDEV_WALK:
		return do_walk(&a->walk);
	case GUPDEV_HELD:
		return do_held(s, &a->held);
	case GUPDEV_STAT:
		a->stat.acquired = node_stat(NR_FOLL_PIN_ACQUIRED);
		a->stat.released = node_stat(NR_FOLL_PIN_RELEASED);
		return 0;
	}
	return -ENOTTY;
}

static long gupdev_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct state *s = file->private_data;
	void __user *user = (void __user *)arg;
	union argument a = {};
	long ret;

	if (_IOC_SIZE(cmd) > sizeof(a))
		return -ENOTTY;
	if (_IOC_DIR(cmd) & _IOC_WRITE &&
	    copy_from_user(&a, user, _IOC_SIZE(cmd)))
		return -EFAULT;
	mutex_lock(&s->lock);
	ret = dispatch(s, cmd, &a);
	mutex_unlock(&s->lock);
	if (!ret && _IOC_DIR(cmd) & _IOC_READ &&
	    copy_to_user(user, &a, _IOC_SIZE(cmd)))
		ret = -EFAULT;
	return ret;
}

static int insert_raw(struct vm_area_struct *vma, unsigned long addr)
{
	vm_fault_t ret;

	ret = vmf_insert_mixed(vma, addr, __pfn_to_pfn_t(RAW_PFN, PFN_DEV));
	return ret == VM_FAULT_NOPAGE ? 0 : -EFAULT;
}

static int insert_buffer(struct vm_area_struct *vma, unsigned int order,
			 unsigned long run)
{
	unsigned long i, nr = vma_pages(vma), k;
	int ret = 0;

	for (i = 0; i < nr && !ret; i += 1 << order) {
		struct page *page = alloc_pages(GFP_USER | __GFP_COMP |
						__GFP_ZERO, order);

		if (!page)
			return -ENOMEM;
		for (k = i; k < nr && k < i + (1 << order) && !ret; k++) {
			unsigned long addr = vma->vm_start + k * PAGE_SIZE;

			if (k / run % 4 == 3)
				ret = insert_raw(vma, addr);
			else
				ret = vm_insert_page(vma, addr, page + k - i);
		}
		put_page(page);
	}
	return ret;
}

static int gupdev_mmap(struct file *file, struct vm_area_struct *vma)
{
	unsigned long kind = vma->vm_pgoff % 16;
	unsigned long run = max(vma->vm_pgoff / 16, 1UL);

	if (kind == GUPDEV_MAP_PFN)
		return remap_pfn_range(vma, vma->vm_start, RAW_PFN,
				       vma->vm_end - vma->vm_start,
				       vma->vm_page_prot);
#if SINCE(6, 3)
	vm_flags_set(vma, VM_MIXEDMAP);
#else
	vma->vm_flags |= VM_MIXEDMAP;
#endif
	return insert_buffer(vma, kind == GUPDEV_MAP_ORDER1, run);
}

static int gupdev_open(struct inode *inode, struct file *file)
{
	struct state *s = kvzalloc(sizeof(*s), GFP_KERNEL);

	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	file->private_data = s;
	return 0;
}

static int gupdev_release(struct inode *inode, struct file *file)
{
	struct state *s = file->private_data;
	int i;

	for (i = 0; i < GUPDEV_HANDLES; i++)
		if (s->handles[i].pages)
			release(&s->handles[i], s->handles[i].pinned ?
				GUPDEV_UNPIN_USER_PAGES : GUPDEV_PUT_PAGE);
	kvfree(s);
	return 0;
}

static const struct file_operations gupdev_fops = {
	.owner = THIS_MODULE,
	.open = gupdev_open,
	.release = gupdev_release,
	.unlocked_ioctl = gupdev_ioctl,
	.mmap = gupdev_mmap,
};

static struct miscdevice gupdev = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "gupdev",
	.fops = &gupdev_fops,
};
module_misc_device(gupdev);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("mm/gup.c and page states for reproducers");
