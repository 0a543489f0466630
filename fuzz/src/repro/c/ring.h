/* SPDX-License-Identifier: GPL-2.0-only */
/* ---- the calls, by io_uring's registered buffers ---- */

/*
 * They are pinned with FOLL_WRITE|FOLL_LONGTERM, by pin_user_pages() or
 * pin_user_pages_fast() as the kernel has it. Fewer pages than were asked
 * for are given back and end in -EFAULT.
 */
static int rings[16];

static void set_up(void)
{
	int i;

	for (i = 0; i < 16; i++) {
		struct io_uring_params p = { 0 };

		rings[i] = syscall(SYS_io_uring_setup, 1, &p);
		if (rings[i] < 0) {
			perror("io_uring_setup");
			exit(2);
		}
	}
}

UNUSED static long pin(unsigned long page, unsigned long pages,
		       unsigned int handle)
{
	struct iovec v = { at(page), pages * SCALE * PAGE };
	long ret = syscall(SYS_io_uring_register, rings[handle],
			   IORING_REGISTER_BUFFERS, &v, 1);

	if (ret < 0)
		return errno == EBUSY ? NOT_RUN : -errno;
	return pages * SCALE;
}

static long give_back(unsigned int handle)
{
	long ret = syscall(SYS_io_uring_register, rings[handle],
			   IORING_UNREGISTER_BUFFERS, NULL, 0);

	return ret < 0 ? NOT_RUN : 0;
}

/* A ring that is closed gives its pages back only later. */
static void tear_down(void)
{
	int i;

	for (i = 0; i < 16; i++)
		give_back(i);
}
