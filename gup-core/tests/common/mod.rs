// SPDX-License-Identifier: GPL-2.0-only
//! Worlds that end with a look at the books.

// Not every test needs all of it.
#![allow(dead_code)]

use gup_core::history::{Base, Kernel};
use gup_core::invariants::{
    everything_free, mapcounts_match_tables, nothing_left_behind, page_caches_match,
};
use gup_core::model::filemap::evict_inodes;
use gup_core::model::lru::lru_add_drain_all;
use gup_core::model::mm::{MmId, mm_alive};
use gup_core::model::mmap::{Kind, Prot, exit_mmap, mm_alloc, mmap};
use gup_core::model::{Cpu, Limits, World};

pub const PARENT: MmId = MmId(0);
pub const CHILD: MmId = MmId(1);

/// Runs `test` in a world of its own; then ends what processes there are:
/// every count is right before, and nothing is left and nothing was warned of
/// behind.
pub fn in_a_world(kernel: Kernel, test: impl FnOnce(&Cpu)) {
    let world = World::new(Limits::FUZZ);
    let cpu = Cpu::new(&world, kernel, 0);
    test(&cpu);
    mapcounts_match_tables(&cpu).unwrap();
    page_caches_match(&world).unwrap();
    for mm in (0..4).map(MmId).filter(|&mm| mm_alive(&cpu, mm)) {
        exit_mmap(&cpu, mm);
    }
    evict_inodes(&cpu);
    lru_add_drain_all(&cpu);
    nothing_left_behind(&cpu).unwrap();
    everything_free(&world).unwrap();
    assert_eq!(cpu.splats(), []);
}

/// The same with one process that has mapped 16 pages at 0.
pub fn on(kernel: Kernel, kind: Kind, test: impl FnOnce(&Cpu)) {
    in_a_world(kernel, |cpu| {
        mm_alloc(cpu, PARENT).unwrap();
        mmap(cpu, PARENT, 0, 16, Prot::ReadWrite, kind).unwrap();
        test(cpu);
    });
}

/// The same on both bases, with every known fix.
pub fn on_both(kind: Kind, test: impl Fn(&Cpu)) {
    for &base in Base::ALL {
        on(Kernel::fixed(base), kind, &test);
    }
}
