/* SPDX-License-Identifier: GPL-2.0-only */
/* ---- the calls, by the module's device ---- */

static int device;

/* Since the first time. */
UNUSED static long pins_held(void)
{
	static long before;
	static int known;
	struct gupdev_stat now = { 0 };

	ioctl(device, GUPDEV_STAT, &now);
	if (!known++)
		before = now.acquired - now.released;
	return now.acquired - now.released - before;
}

static void set_up(void)
{
	device = open("/dev/gupdev", O_RDWR);
	if (device < 0) {
		perror("/dev/gupdev: insmod gupdev.ko");
		exit(2);
	}
	pins_held();
}

UNUSED static long gup(unsigned int call, unsigned long page,
		       unsigned long pages, unsigned int flags,
		       unsigned int options, unsigned int handle)
{
	struct gupdev_call a = {
		.addr = (unsigned long)at(page), .nr = pages * SCALE,
		.call = call, .flags = flags, .options = options,
		.handle = handle,
	};
	int writable = call >= GUPDEV_PIN_USER_PAGES && flags & GUPDEV_WRITE;

	if (ioctl(device, GUPDEV_CALL, &a))
		return NOT_RUN;
	if (a.ret > 0) {
		long owned = a.unset < a.ret ? a.unset : a.ret;

		shared->writable[handle] =
			writable ? (owned + SCALE - 1) / SCALE : 0;
	}
	return a.ret;
}

/* The device says EBADF if there is no such handle. */
static long handled(int ret)
{
	if (!ret)
		return 0;
	return errno == EBADF ? NOT_RUN : -errno;
}

UNUSED static long give_back(unsigned int handle, unsigned int how)
{
	struct gupdev_release a = { .handle = handle, .how = how };

	return handled(ioctl(device, GUPDEV_RELEASE, &a));
}

UNUSED static long tee_pages(unsigned int from, unsigned int to)
{
	struct gupdev_tee a = { .from = from, .to = to };
	long ret = handled(ioctl(device, GUPDEV_TEE, &a));

	if (ret)
		return ret;
	shared->writable[to] = 0;
	return a.ret > 0 ? 0 : -EFAULT;
}

UNUSED static long dma_read(unsigned int handle)
{
	struct gupdev_dma a = { .handle = handle, .nr = 1 };

	return handled(ioctl(device, GUPDEV_DMA, &a));
}

UNUSED static long dma_write(unsigned int handle)
{
	long ret = NOT_RUN;
	int i;

	for (i = 0; i < shared->writable[handle]; i++) {
		struct gupdev_dma a = {
			.handle = handle, .first = i * SCALE, .nr = SCALE,
			.write = 1, .token = token(),
		};

		ret = handled(ioctl(device, GUPDEV_DMA, &a));
		if (ret)
			break;
	}
	return ret;
}

/* ---- pages ---- */

/* What cannot be looked at tells nothing; a handle may be empty. */
static void seen(int ret)
{
	if (!ret || errno == EBADF)
		return;
	perror("/dev/gupdev: cannot look");
	exit(2);
}

static struct gupdev_row page_of(int pid, unsigned long page)
{
	struct gupdev_row row = { 0 };
	struct gupdev_walk a = {
		.addr = (unsigned long)at(page), .nr = 1, .pid = pid,
		.rows = (unsigned long)&row,
	};

	seen(ioctl(device, GUPDEV_WALK, &a));
	return row;
}

UNUSED static struct gupdev_row mapped_page(int mm, unsigned long page)
{
	return page_of(shared->pid[mm], page);
}

UNUSED static struct gupdev_row held_page(int handle, unsigned long i)
{
	static struct gupdev_row rows[GUPDEV_MAX_PAGES];
	struct gupdev_held a = {
		.rows = (unsigned long)rows, .handle = handle,
		.nr = GUPDEV_MAX_PAGES,
	};

	memset(rows, 0, sizeof(rows));
	seen(ioctl(device, GUPDEV_HELD, &a));
	return rows[i * SCALE];
}

UNUSED static long split_pmd(unsigned long page)
{
	char *second = (char *)((unsigned long)at(page) & ~0x1ffffful) + PAGE;

	if (!(page_of(getpid(), page).flags & GUPDEV_HUGE))
		return NOT_RUN;
	/* A VMA that ends inside a huge page. */
	if (madvise(second, PAGE, MADV_DONTDUMP))
		return -errno;
	return result(madvise(second, PAGE, MADV_DODUMP));
}

/* What an address maps is a page. */
UNUSED static int is_page(struct gupdev_row row)
{
	return row.flags & GUPDEV_PRESENT &&
	       (!(row.flags & GUPDEV_SPECIAL) || row.flags & GUPDEV_ZERO);
}

UNUSED static long split_page(unsigned long page)
{
	struct gupdev_row row = page_of(getpid(), page);
	FILE *f;

	if (!is_page(row))
		return NOT_RUN;
	if (!row.order || !(row.flags & GUPDEV_ISANON))
		return -EINVAL;
	drain();
	f = fopen("/sys/kernel/debug/split_huge_pages", "w");
	if (!f)
		return -errno;
	fprintf(f, "%d,%p,%p", getpid(), (void *)at(page),
		(void *)(at(page) + PAGE));
	if (fclose(f))
		return -errno;
	return page_of(getpid(), page).order ? -EBUSY : 0;
}

UNUSED static void wait_for_writeback(void)
{
	char line[80];
	int done = 0;
	FILE *f;

	while (!done) {
		f = fopen("/proc/sys/vm/stat_refresh", "w");
		if (f) {
			fputs("1", f);
			fclose(f);
		}
		f = fopen("/proc/vmstat", "r");
		if (!f)
			return;
		while (fgets(line, sizeof(line), f))
			done |= !strcmp(line, "nr_writeback 0\n");
		fclose(f);
	}
}

UNUSED static long swap_out(unsigned long page, unsigned long pages)
{
	struct gupdev_row row = page_of(getpid(), page);
	unsigned long start = (unsigned long)at(page);
	unsigned long len = pages * SCALE * PAGE;

	if (!is_page(row))
		return NOT_RUN;
	if (row.flags & GUPDEV_HUGE) {
		start &= ~0x1ffffful;
		len = 0x200000;
	}
	if (madvise((void *)start, len, MADV_PAGEOUT))
		return row.flags & GUPDEV_HUGETLB ? -EBUSY : -errno;
	wait_for_writeback();
	if (!is_page(page_of(getpid(), page)))
		return 0;
	return row.flags & GUPDEV_ISANON ? -EBUSY : -EINVAL;
}

UNUSED static long collapse(unsigned long page)
{
	char *start = (char *)((unsigned long)at(page) & ~0x1ffffful);
	unsigned char resident[512];
	struct gupdev_row row = { 0 };
	struct gupdev_walk a = {
		.addr = (unsigned long)start, .nr = 1, .pid = getpid(),
		.rows = (unsigned long)&row,
	};

	/* MADV_COLLAPSE; -ENOMEM is also what it says of a hole. */
	if (madvise(start, 0x200000, 25))
		return errno == ENOMEM && mincore(start, 0x200000, resident) ?
		       -EINVAL : -errno;
	ioctl(device, GUPDEV_WALK, &a);
	return row.flags & GUPDEV_HUGE ? 0 : -EINVAL;
}

static void tear_down(void)
{
	close(device);
}
