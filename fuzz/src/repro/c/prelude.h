/* SPDX-License-Identifier: GPL-2.0-only */
/* ---- the scenario's memory ---- */

#define PAGE 4096ul
#define MAIN (-1)
/* An op that cannot run now: no such handle, no huge page to split. */
#define NOT_RUN (-5000l)
#define ANY (-5001l)
#define UNUSED __attribute__((unused))

/* Shared by all processes. */
static struct {
	atomic_int turn;
	atomic_int pid[4];
	/* Stores are numbered, so that the contents of pages can be told. */
	atomic_long stores;
	atomic_int failed;
	/* The pages of a handle that a device may write to. */
	atomic_int writable[16];
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

/* Nobody maps it or has it open: it goes, and a new one takes its place. */
UNUSED static long renew(int file, int new, unsigned long length)
{
	long ret = new < 0 ? -errno : result(dup2(new, file));

	close(new);
	return ret < 0 ? ret : result(ftruncate(file, length));
}

/* The LRU batch of this CPU holds references; MADV_DONTNEED drains it. */
static void drain(void)
{
	void *p = mmap(NULL, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS,
		       -1, 0);

	if (p == MAP_FAILED)
		return;
	madvise(p, PAGE, MADV_DONTNEED);
	munmap(p, PAGE);
}

static sigjmp_buf faulted;

static void on_fault(int sig)
{
	siglongjmp(faulted, sig);
}

static long token(void)
{
	return (atomic_fetch_add(&shared->stores, 1) + 1) << 16;
}

UNUSED static long touch(unsigned long page, unsigned long pages, int store)
{
	unsigned long i;

	if (sigsetjmp(faulted, 1))
		return -EFAULT;
	for (i = page; i < page + pages; i++) {
		long value = store ? token() : 0;
		volatile long *p;

		for (p = (void *)at(i); (char *)p < at(i + 1);
		     p += PAGE / sizeof(*p)) {
			if (store)
				*p = value;
			else
				(void)*p;
		}
	}
	return 0;
}

/* ---- processes: each step is done by its own, in turn ---- */

static void run(int me, int step);

static void wait_until_done(int step)
{
	while (atomic_load(&shared->turn) <= step)
		sched_yield();
}

UNUSED static long start(int mm, int step)
{
	/* All have the same files, so that what one closes is closed. */
	pid_t pid = syscall(SYS_clone, CLONE_FILES | SIGCHLD, 0, 0, 0, 0);

	if (pid == 0) {
		wait_until_done(step);
		run(mm, step + 1);
		_exit(0);
	}
	if (pid < 0)
		return -errno;
	/* It may be looked at before it has run. */
	atomic_store(&shared->pid[mm], pid);
	return 0;
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
	long ret;

	p.fd = syscall(SYS_pidfd_open, atomic_load(&shared->pid[mm]), 0);
	ret = p.fd < 0 || poll(&p, 1, -1) < 0 ? -errno : 0;
	close(p.fd);
	return ret;
}

static void on_alarm(int sig)
{
	static const char text[] = "no end: a step hangs, or its process is gone\n";

	if (write(STDOUT_FILENO, text, sizeof(text) - 1) < 0)
		_exit(2);
	kill(0, SIGKILL);
}

/* ---- what is said ---- */

static const char *text_of(long ret)
{
	static char text[32];

	if (ret == NOT_RUN)
		return "not run";
	if (ret < 0 && errno_name(-ret))
		snprintf(text, sizeof(text), "-%s", errno_name(-ret));
	else
		snprintf(text, sizeof(text), "%ld", ret);
	return text;
}

static void expect(const char *what, long got, long expected)
{
	if (expected == ANY || got == expected)
		return;
	atomic_store(&shared->failed, 1);
	printf("%s: %s", what, text_of(got));
	printf(", expected %s\n", text_of(expected));
	fflush(stdout);
}
