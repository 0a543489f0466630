// SPDX-License-Identifier: GPL-2.0-only
//! The statistics that gup touches.
//!
//! Duplicated: which item changes by how much. Customised: one node, no
//! per-CPU deltas.

use super::cpu::Cpu;
use crate::step::StepKind;

/// C: enum node_stat_item, linux/mmzone.h
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(non_camel_case_types, clippy::upper_case_acronyms)]
pub enum NodeStat {
    /// Anonymous pages off the LRU for migration or reclaim.
    NR_ISOLATED_ANON,
    /// File pages likewise.
    NR_ISOLATED_FILE,
    /// Pins taken.
    NR_FOLL_PIN_ACQUIRED,
    /// Pins given back.
    NR_FOLL_PIN_RELEASED,
}

impl NodeStat {
    /// Every item.
    pub const ALL: &'static [NodeStat] = &[
        NodeStat::NR_ISOLATED_ANON,
        NodeStat::NR_ISOLATED_FILE,
        NodeStat::NR_FOLL_PIN_ACQUIRED,
        NodeStat::NR_FOLL_PIN_RELEASED,
    ];
    /// How many there are.
    pub const COUNT: usize = Self::ALL.len();
}

/// C: mod_node_page_state(), linux/vmstat.h
#[inline]
pub fn mod_node_page_state(cpu: &Cpu, item: NodeStat, delta: i64) {
    cpu.step(StepKind::Vmstat, item as u32, delta);
    cpu.world.vmstat[item as usize].add(delta);
}
