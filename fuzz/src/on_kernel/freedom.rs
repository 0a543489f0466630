// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel is free to do in one way or another: differences from the
//! model that say nothing against it. Each is a row here, with its reason.

use gup_core::model::zone::Prefer;

use super::compare::Difference;
use crate::scenario::{Op, What};

/// The freedom that explains what differs after an op, if one does: what it
/// explains brings the rest with it.
pub fn explains(ops: &[Op], found: &[Difference]) -> Option<&'static str> {
    let explains =
        |f: &&Freedom| found.iter().any(|d| (f.explains)(ops.get(..=d.op).unwrap_or(ops), d));
    FREEDOMS.iter().find(explains).map(|f| f.name)
}

struct Freedom {
    /// In a few words, for the summary.
    name: &'static str,
    /// Whether it explains a difference after the last of these ops.
    explains: fn(&[Op], &Difference) -> bool,
}

const FREEDOMS: &[Freedom] = &[
    Freedom {
        // The model has few VMAs and few page-table pages, a kernel many.
        name: "the model's tables are full",
        explains: |ops, d| {
            let tables = |op: &Op| matches!(op.name(), "mmap" | "munmap" | "mprotect" | "fork");
            let full = d.what == "answer" && d.model == "-> ENOMEM" && d.kernel == "done";
            full && ops.last().is_some_and(tables)
        },
    },
    Freedom {
        // Two VMAs that became alike are one in a kernel, which may have
        // room for a huge page where the model's two have none.
        name: "VMAs merge",
        explains: |ops, d| {
            let changes = |op: &&Op| matches!(op.what, What::Mmap(..) | What::Mprotect(..));
            let huger = d.what == "huge" && d.model == "0" && d.kernel == "1";
            huger && ops.iter().filter(changes).count() > 1
        },
    },
    Freedom {
        // The model has 48 frames that are neither movable nor CMA.
        name: "the model's memory without movable pages is full",
        explains: |ops, d| {
            let normal = |op: &Op| op.what == What::Prefer(Prefer::Normal);
            let full = d.what == "movable" && d.model == "1" && d.kernel == "0";
            full && ops.iter().any(normal)
        },
    },
    Freedom {
        // ext4_dirty_folio(), fs/ext4/inode.c: whoever makes a page dirty that
        // was only pinned for reading is warned of.
        name: "ext4 warns of a dirty page without buffers",
        explains: |_, d| d.what == "warning" && d.kernel.contains("ext4_dirty_folio"),
    },
    Freedom {
        // hpage_collapse_find_target_node(), mm/khugepaged.c: the new huge
        // page lies on the node that has most of the old pages, wherever
        // allocations go otherwise.
        name: "a collapse stays on its node",
        explains: |ops, d| {
            let other = |op: &Op| matches!(op.what, What::Prefer(_));
            let collapse = ops.last().is_some_and(|op| matches!(op.what, What::Collapse(_)));
            d.what == "movable" && collapse && ops.iter().any(other)
        },
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn difference(what: &'static str, model: &str, kernel: &str) -> Difference {
        let (model, kernel) = (model.into(), kernel.into());
        Difference { op: 2, slot: None, what, model, kernel }
    }

    #[test]
    fn a_freedom_explains_only_what_it_is_about() {
        let merge: Vec<Op> =
            ["mmap m0 0x0 8 r private anon thp", "mprotect m0 0x0 1 rw", "mprotect m0 0x1000 7 rw"]
                .map(|l| l.parse().unwrap())
                .into();
        let huge = difference("huge", "0", "1");
        let more = difference("pins held", "0", "64");
        let why = |ops: &[Op], d: &Difference| explains(ops, std::slice::from_ref(d));
        assert_eq!(why(&merge, &huge), Some("VMAs merge"));
        assert_eq!(explains(&merge, &[more.clone(), huge.clone()]), Some("VMAs merge"));
        assert_eq!(explains(&merge, &[more]), None);
        assert_eq!(explains(&merge, &[]), None);
        assert_eq!(why(&merge[..1], &huge), None);
        assert_eq!(why(&merge, &difference("huge", "1", "0")), None);
        let full = difference("answer", "-> ENOMEM", "done");
        assert_eq!(why(&merge, &full), Some("the model's tables are full"));
        assert_eq!(why(&merge, &difference("answer", "-> EFAULT", "done")), None);
        assert_eq!(why(&merge, &difference("refcount", "1", "2")), None);
        let collapse: Vec<Op> =
            ["prefer normal", "mmap m0 0x0 8 rw private anon", "collapse m0 0x0"]
                .map(|l| l.parse().unwrap())
                .into();
        let movable = difference("movable", "0", "1");
        assert_eq!(why(&collapse, &movable), Some("a collapse stays on its node"));
        assert_eq!(why(&collapse[1..], &movable), None);
        let full = difference("movable", "1", "0");
        let place = "the model's memory without movable pages is full";
        assert_eq!(why(&collapse[..2], &full), Some(place));
        assert_eq!(why(&collapse[1..2], &full), None);
        let warning = |at| difference("warning", "none", at);
        let ext4 = warning("WARNING: CPU: 0 PID: 1 at fs/ext4/inode.c:1 ext4_dirty_folio+0x1");
        assert_eq!(why(&[], &ext4), Some("ext4 warns of a dirty page without buffers"));
        assert_eq!(why(&[], &warning("WARNING: CPU: 0 PID: 1 at mm/gup.c:1")), None);
        assert_eq!(why(&collapse, &difference("refcount", "1", "2")), None);
    }
}
