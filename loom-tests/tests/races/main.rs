// SPDX-License-Identifier: GPL-2.0-only
//! The races, a file each.

mod fast_get_against_huge_split;
mod fast_get_against_split;
mod fast_get_against_table_free;
mod fast_get_against_zap;
mod fast_pin_against_collapse;
mod fast_pin_against_fork;
mod fast_pin_against_ksm;
mod fast_pin_against_migration;
mod fast_pin_against_reuse;
mod fast_pin_against_swap_out;
mod fast_pin_against_unmap;
mod fast_slow_last_unpin;
mod fast_slow_unpin;
mod grab_against_reuse;
mod grab_against_split;
mod slow_pin_against_slow_pin;
