/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /dev/gupdev: the calls of mm/gup.c as user space cannot make them, and
 * pages as user space cannot see them.
 *
 * What a call hands out is kept in one of GUPDEV_HANDLES places of the open
 * file until it is given back; closing the file gives everything back. The
 * numbers are our own, the same for every kernel.
 */
#ifndef GUPDEV_H
#define GUPDEV_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define GUPDEV_HANDLES 16
#define GUPDEV_MAX_PAGES 1024

enum {
	GUPDEV_GET_USER_PAGES,
	GUPDEV_GET_USER_PAGES_UNLOCKED,
	GUPDEV_GET_USER_PAGES_REMOTE,
	GUPDEV_GET_USER_PAGES_FAST,
	GUPDEV_GET_USER_PAGES_FAST_ONLY,
	GUPDEV_PIN_USER_PAGES,
	GUPDEV_PIN_USER_PAGES_UNLOCKED,
	GUPDEV_PIN_USER_PAGES_REMOTE,
	GUPDEV_PIN_USER_PAGES_FAST,
	GUPDEV_PIN_USER_PAGES_FAST_ONLY,
};

/*
 * FOLL_*, in the order of CALL_FLAGS in fuzz/src/scenario.rs. What the kernel
 * does not have is refused with EOPNOTSUPP.
 */
#define GUPDEV_WRITE		(1u << 0)
#define GUPDEV_LONGTERM		(1u << 1)
#define GUPDEV_FORCE		(1u << 2)
#define GUPDEV_DUMP		(1u << 3)
#define GUPDEV_NOWAIT		(1u << 4)
#define GUPDEV_ANON		(1u << 5)
#define GUPDEV_SPLIT_PMD	(1u << 6)
#define GUPDEV_HWPOISON		(1u << 7)
#define GUPDEV_GET		(1u << 8)
#define GUPDEV_PIN		(1u << 9)
#define GUPDEV_TOUCH		(1u << 10)
#define GUPDEV_NOFAULT		(1u << 11)
#define GUPDEV_INTERRUPTIBLE	(1u << 12)
#define GUPDEV_HONOR_NUMA_FAULT	(1u << 13)

/* Pass no pages array; _remote: pass a pointer for *locked. */
#define GUPDEV_NOPAGES		(1u << 0)
#define GUPDEV_LOCKED		(1u << 1)

struct gupdev_call {
	__u64 addr;
	__u32 nr;
	__u32 flags;
	__u32 call;
	__u32 options;
	__u32 handle;
	__u32 unset;	/* out: pages[unset] was not set; nr if all were */
	__s64 ret;	/* out: what the call returned */
};

/*
 * The ways to unpin, in the order of Unpin in fuzz/src/scenario.rs. What the
 * kernel does not have is refused with EOPNOTSUPP. _CLEAN: without make_dirty;
 * _ERROR: an errno is the number of pages, and the handle stays.
 */
enum {
	GUPDEV_PUT_PAGE,
	GUPDEV_UNPIN_USER_PAGE,
	GUPDEV_UNPIN_USER_PAGES,
	GUPDEV_UNPIN_USER_PAGES_DIRTY_LOCK,
	GUPDEV_UNPIN_USER_PAGE_RANGE_DIRTY_LOCK,
	GUPDEV_UNPIN_FOLIO,
	GUPDEV_UNPIN_FOLIOS,
	GUPDEV_UNPIN_USER_FOLIO,
	GUPDEV_UNPIN_USER_PAGES_DIRTY_LOCK_CLEAN,
	GUPDEV_UNPIN_USER_PAGE_RANGE_DIRTY_LOCK_CLEAN,
	GUPDEV_UNPIN_USER_PAGES_ERROR,
	GUPDEV_UNPIN_FOLIOS_ERROR,
};

struct gupdev_release {
	__u32 handle;
	__u32 how;
};

/* As tee(2): references on the pages of one handle, for another. */
struct gupdev_tee {
	__u32 from;
	__u32 to;
	__s64 ret;	/* out: how many references could be had */
};

/* A device's access: the first eight bytes of each of nr pages. */
struct gupdev_dma {
	__u32 handle;
	__u32 first;
	__u32 nr;
	__u32 write;
	__u64 token;	/* out, for a read: what the first page holds */
};

/* Of the entry that maps an address. */
#define GUPDEV_PRESENT		(1u << 0)
#define GUPDEV_ACCESS		(1u << 1)	/* not PROT_NONE */
#define GUPDEV_WRITABLE		(1u << 2)
#define GUPDEV_HUGE		(1u << 3)	/* a PMD or PUD */
#define GUPDEV_SPECIAL		(1u << 4)	/* no page that is counted */
#define GUPDEV_NONPRESENT	(1u << 5)	/* swap, migration, marker */
/* Of the page. */
#define GUPDEV_ZERO		(1u << 8)
#define GUPDEV_ISANON		(1u << 9)
#define GUPDEV_EXCLUSIVE	(1u << 10)	/* PageAnonExclusive */
#define GUPDEV_DMA_PINNED	(1u << 11)	/* maybe_dma_pinned */
#define GUPDEV_MOVABLE		(1u << 12)	/* in ZONE_MOVABLE */
#define GUPDEV_LRU		(1u << 13)
#define GUPDEV_DIRTY		(1u << 14)
#define GUPDEV_SWAPBACKED	(1u << 15)
#define GUPDEV_ISLOCKED		(1u << 16)
#define GUPDEV_HUGETLB		(1u << 17)
#define GUPDEV_SECRET		(1u << 18)	/* the token cannot be read */
#define GUPDEV_PRIVATE		(1u << 19)	/* the file system has a reference */

struct gupdev_row {
	__u64 pfn;
	__u64 head;	/* the frame of the folio's head */
	__u64 token;	/* the first eight bytes of the page */
	__u32 flags;
	__u32 order;
	__s32 refcount;	/* of the folio, as all below */
	__s32 mapcount;	/* PMDs once, PTEs each */
	__s32 entire;	/* the PMDs (PUDs) among them */
	__s32 pincount;
};

/* What maps each of nr addresses of the process pid. */
struct gupdev_walk {
	__u64 addr;
	__u64 rows;	/* a struct gupdev_row for each */
	__u32 nr;
	__s32 pid;
};

/* The pages of a handle. */
struct gupdev_held {
	__u64 rows;
	__u32 handle;
	__u32 nr;	/* in: room; out: pages of the handle */
};

struct gupdev_stat {
	__s64 acquired;	/* NR_FOLL_PIN_ACQUIRED */
	__s64 released;	/* NR_FOLL_PIN_RELEASED */
};

#define GUPDEV_CALL	_IOWR('g', 0xa0, struct gupdev_call)
#define GUPDEV_RELEASE	_IOW('g', 0xa1, struct gupdev_release)
#define GUPDEV_TEE	_IOWR('g', 0xa2, struct gupdev_tee)
#define GUPDEV_DMA	_IOWR('g', 0xa3, struct gupdev_dma)
#define GUPDEV_WALK	_IOW('g', 0xa4, struct gupdev_walk)
#define GUPDEV_HELD	_IOWR('g', 0xa5, struct gupdev_held)
#define GUPDEV_STAT	_IOR('g', 0xa6, struct gupdev_stat)

/*
 * mmap(): a driver's buffer. The offset, in pages, is one of these, plus
 * 16 * N: of every four runs of N pages the last is raw frame numbers.
 */
#define GUPDEV_MAP_PAGES	0
#define GUPDEV_MAP_ORDER1	1
#define GUPDEV_MAP_PFN		2

#endif
