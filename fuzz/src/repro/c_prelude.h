/* SPDX-License-Identifier: GPL-2.0-only */
/* ---- the scenario's memory ---- */

#define PAGE 4096ul
#define MAIN (-1)
#define UNUSED __attribute__((unused))

static int device;
/* Shared by all processes. */
static struct {
	atomic_int turn;
	atomic_int pid[4];
} *shared;

static char *at(unsigned long page)
{
	return (char *)(64ul << 30) + page * SCALE * PAGE;
}

static long result(long ret)
{
	return ret < 0 ? -errno : ret;
}

UNUSED static long map(unsigned long page, unsigned long pages, int prot,
		       int flags, int fd, long offset)
{
	void *p = mmap(at(page), pages * SCALE * PAGE, prot,
		       flags | MAP_FIXED_NOREPLACE, fd, offset * PAGE);

	return p == MAP_FAILED ? -errno : 0;
}

UNUSED static long advise(unsigned long page, unsigned long pages, int advice)
{
	return result(madvise(at(page), pages * SCALE * PAGE, advice));
}

UNUSED static long split_pmd(unsigned long page)
{
	char *second = (char *)((unsigned long)at(page) & ~0x1ffffful) + PAGE;

	/* A VMA that ends inside a huge page. */
	if (madvise(second, PAGE, MADV_DONTDUMP))
		return -errno;
	return result(madvise(second, PAGE, MADV_DODUMP));
}

UNUSED static long split_page(unsigned long page)
{
	FILE *f = fopen("/sys/kernel/debug/split_huge_pages", "w");

	if (!f)
		return -errno;
	fprintf(f, "%d,%p,%p", getpid(), (void *)at(page),
		(void *)(at(page) + PAGE));
	return result(fclose(f));
}

static sigjmp_buf faulted;

static void on_fault(int sig)
{
	siglongjmp(faulted, sig);
}

UNUSED static long touch(unsigned long page, unsigned long pages, int store)
{
	volatile unsigned long *p;

	if (sigsetjmp(faulted, 1))
		return -EFAULT;
	for (p = (void *)at(page); (char *)p < at(page + pages);
	     p += PAGE / sizeof(*p)) {
		if (store)
			*p = 1;
		else
			(void)*p;
	}
	return 0;
}

/* ---- the calls ---- */

UNUSED static long gup(unsigned int call, unsigned long page,
		       unsigned long pages, unsigned int flags,
		       unsigned int options, unsigned int handle)
{
	struct gupdev_call a = {
		.addr = (unsigned long)at(page), .nr = pages * SCALE,
		.call = call, .flags = flags, .options = options,
		.handle = handle,
	};

	return ioctl(device, GUPDEV_CALL, &a) ? -errno : (long)a.ret;
}

UNUSED static long give_back(unsigned int handle, unsigned int how)
{
	struct gupdev_release a = { .handle = handle, .how = how };

	return result(ioctl(device, GUPDEV_RELEASE, &a));
}

UNUSED static long tee_pages(unsigned int from, unsigned int to)
{
	struct gupdev_tee a = { .from = from, .to = to };

	return ioctl(device, GUPDEV_TEE, &a) ? -errno : (long)a.ret;
}

UNUSED static long dma(unsigned int handle, unsigned int write)
{
	struct gupdev_dma a = {
		.handle = handle, .nr = GUPDEV_MAX_PAGES, .write = write,
		.token = 2,
	};

	return result(ioctl(device, GUPDEV_DMA, &a));
}

/* ---- processes: each step is done by its own, in turn ---- */

static void run(int me, int step);

UNUSED static long start(int mm, int step)
{
	pid_t pid = fork();

	if (pid == 0) {
		atomic_store(&shared->pid[mm], getpid());
		run(mm, step + 1);
		_exit(0);
	}
	return pid < 0 ? -errno : 0;
}

UNUSED static long leave(int step)
{
	atomic_store(&shared->turn, step + 1);
	_exit(0);
}

/* Its memory is gone when its pidfd says so. */
UNUSED static long wait_for(int mm)
{
	struct pollfd p = { .events = POLLIN };

	p.fd = syscall(SYS_pidfd_open, atomic_load(&shared->pid[mm]), 0);
	return p.fd < 0 || poll(&p, 1, -1) < 0 ? -errno : 0;
}

static void say(const char *op, long ret)
{
	if (ret < 0)
		printf("%s -> -%ld (%s)\n", op, -ret, strerror(-ret));
	else
		printf("%s -> %ld\n", op, ret);
	fflush(stdout);
}
