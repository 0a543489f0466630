// SPDX-License-Identifier: GPL-2.0-only
//! Whether two worlds are the same: for two implementations of mm/gup.c that
//! ran the same ops, each in a world of its own.

use core::fmt::Display;

use super::filemap::File;
use super::page::Page;
use super::vmstat::NodeStat;
use super::world::World;
use crate::atomic::Word64;

impl World {
    /// What of this world at rest is not as in `other`, in words; `None` if
    /// nothing differs. Takes no step.
    pub fn difference(&self, other: &World) -> Option<String> {
        self.differing_page(other)
            .or_else(|| self.tables.difference(&other.tables))
            .or_else(|| {
                let mut mms = self.mms.iter().zip(&other.mms).enumerate();
                mms.find_map(|(n, (a, b))| Some(format!("m{n}: {}", a.difference(b)?)))
            })
            .or_else(|| {
                let mut files = File::ALL.iter().zip(self.files.iter().zip(&other.files));
                let file = files.find(|(_, (a, b))| !a.same_as(b))?.0;
                Some(format!("the page cache of {}", file.name()))
            })
            .or_else(|| self.differing_statistic(other))
            .or_else(|| self.differing_rest(other))
    }

    fn differing_statistic(&self, other: &World) -> Option<String> {
        let both = |i: NodeStat| (other.node_stat(i), self.node_stat(i));
        let mut all = NodeStat::ALL.iter().map(|&i| (i, both(i)));
        let (item, (b, a)) = all.find(|(_, (b, a))| a != b)?;
        Some(format!("{item:?}: {b}, not {a}"))
    }

    fn differing_page(&self, other: &World) -> Option<String> {
        let differs = |&p: &Page| !self.frame(p).same_as(other.frame(p));
        self.pages().find(differs).map(|p| format!("{:?}, not {:?}", other.look(p), self.look(p)))
    }

    /// The model's internals.
    fn differing_rest(&self, other: &World) -> Option<String> {
        if *self.zone.lock() != *other.zone.lock() {
            return Some("the free lists".into());
        }
        if *self.lru.lock() != *other.lru.lock() {
            return Some("the LRU batches".into());
        }
        if *self.swap.lock() != *other.swap.lock() {
            return Some("the swap cache".into());
        }
        let counters = |w: &World| (w.isolated_blocks.read(u32::MAX), w.irqs_off.count());
        (counters(self) != counters(other)).then(|| "isolated pageblocks".into())
    }
}

/// The first of some words that differs.
pub(crate) fn words(what: &dyn Display, a: &[Word64], b: &[Word64]) -> Option<String> {
    let mut pairs = a.iter().zip(b).map(|(a, b)| (a.read(), b.read())).enumerate();
    let (n, (a, b)) = pairs.find(|(_, (a, b))| a != b)?;
    Some(format!("{what} {n}: {b:#x}, not {a:#x}"))
}
