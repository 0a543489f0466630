// SPDX-License-Identifier: GPL-2.0-only
//! What a kernel is free to do in one way or another: differences from the
//! model that say nothing against it. Each is a row here, with its reason.

use super::compare::Difference;
use crate::scenario::{Op, What};

/// The freedom that explains a difference, if one does.
pub fn explains(ops: &[Op], d: &Difference) -> Option<&'static str> {
    let before = ops.get(..=d.op).unwrap_or(ops);
    FREEDOMS.iter().find(|f| (f.explains)(before, d)).map(|f| f.name)
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
        assert_eq!(explains(&merge, &huge), Some("VMAs merge"));
        assert_eq!(explains(&merge[..1], &huge), None);
        assert_eq!(explains(&merge, &difference("huge", "1", "0")), None);
        let full = difference("answer", "-> ENOMEM", "done");
        assert_eq!(explains(&merge, &full), Some("the model's tables are full"));
        assert_eq!(explains(&merge, &difference("answer", "-> EFAULT", "done")), None);
        assert_eq!(explains(&merge, &difference("refcount", "1", "2")), None);
    }
}
