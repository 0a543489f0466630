// SPDX-License-Identifier: GPL-2.0-only
//! The races, a file each.

mod fast_get_against_fault;
mod fast_get_against_huge_split;
mod fast_get_against_split;
mod fast_get_against_table_free;
mod fast_get_against_zap;
mod fast_pin_against_collapse;
mod fast_pin_against_fast_pin;
mod fast_pin_against_fork;
mod fast_pin_against_isolation;
mod fast_pin_against_ksm;
mod fast_pin_against_migration;
mod fast_pin_against_mprotect;
mod fast_pin_against_offline;
mod fast_pin_against_reuse;
mod fast_pin_against_secretmem_evict;
mod fast_pin_against_soft_dirty;
mod fast_pin_against_swap_out;
mod fast_pin_against_truncation;
mod fast_pin_against_unmap;
mod fast_pin_fork_write;
mod fast_slow_last_unpin;
mod fast_slow_split;
mod fast_slow_unpin;
mod grab_against_reuse;
mod grab_against_split;
mod grab_near_saturation;
#[cfg(loom)]
mod replay;
mod slow_pin_against_migration;
mod slow_pin_against_munmap;
mod slow_pin_against_slow_pin;
mod slow_pin_against_split;
mod slow_pin_against_zap;
mod unpin_against_put;
#[cfg(loom)]
mod what_loom_knows;
