// SPDX-License-Identifier: GPL-2.0-only
//! The model's numbers as C macros, so that nothing is written twice.

use std::collections::BTreeSet;
use std::fmt::Write;

use bitflags::Flags;
use gup_core::flags::{FaultFlag, Foll, GFP_USER, Gfp, VmFault, VmFlags};
use gup_core::model::limits::{self, Limits};
use gup_core::model::page::GUP_PIN_COUNTING_BIAS;
use gup_core::model::vmstat::NodeStat;

use crate::tree::Tree;

/// The text of model.h. `kernel` is all kernel text that is compiled.
pub fn model(kernel: &str, tree: &Tree) -> String {
    let mut out = String::new();
    for (name, value) in sizes() {
        let _ = writeln!(out, "#define {name} {value}UL");
    }
    flag_word(&mut out, kernel, "FOLL_", named::<Foll>());
    flag_word(&mut out, kernel, "FAULT_FLAG_", named::<FaultFlag>());
    flag_word(&mut out, kernel, "VM_FAULT_", named::<VmFault>());
    flag_word(&mut out, kernel, "VM_", named::<VmFlags>());
    let nowarn = ("__GFP_NOWARN", Gfp::NOWARN.bits());
    for (name, bits) in [("GFP_USER", GFP_USER.bits()), nowarn] {
        let _ = writeln!(out, "#define {name} {bits:#x}U");
    }
    for item in NodeStat::ALL {
        let _ = writeln!(out, "#define {item:?} {}", *item as u32);
    }
    let _ = writeln!(out, "#define SHIM_RELEASE \"{}\"", tree.release());
    let _ = writeln!(out, "#define SHIM_KNOWN \"{}\"", tree.known().unwrap_or_default());
    let _ = writeln!(out, "#define SHIM_SHA256 \"{}\"", tree.sha256().unwrap_or_default());
    let _ = writeln!(out, "#define SHIM_PATH \"{}\"", tree.file("mm/gup.c").display());
    out
}

fn sizes() -> [(&'static str, u64); 13] {
    [
        ("PAGE_SHIFT", limits::PAGE_SHIFT.into()),
        ("PMD_SHIFT", limits::PMD_SIZE.trailing_zeros().into()),
        ("PUD_SHIFT", limits::PUD_SIZE.trailing_zeros().into()),
        ("PGDIR_SHIFT", limits::PGDIR_SIZE.trailing_zeros().into()),
        ("PTRS_PER_PTE", limits::PTRS_PER_PTE),
        ("PTRS_PER_PMD", limits::PTRS_PER_PMD),
        ("PTRS_PER_PUD", limits::PTRS_PER_PUD),
        ("PTRS_PER_PGD", limits::PTRS_PER_PGD),
        ("TASK_SIZE", limits::TASK_SIZE),
        ("SHIM_FRAMES", limits::MAX_FRAMES as u64),
        ("SHIM_VMAS", limits::MAX_VMAS as u64),
        ("SHIM_MMS", Limits::FUZZ.mms.into()),
        ("GUP_PIN_COUNTING_BIAS", GUP_PIN_COUNTING_BIAS as u64),
    ]
}

fn named<F: Flags<Bits = u32>>() -> Vec<(&'static str, u32)> {
    F::FLAGS.iter().map(|f| (f.name(), f.value().bits())).collect()
}

/// One flag word. A flag that the kernel's text names and the model does not
/// know is a bit that nobody ever sets.
fn flag_word(out: &mut String, kernel: &str, prefix: &str, known: Vec<(&str, u32)>) {
    for (name, bits) in &known {
        let _ = writeln!(out, "#define {prefix}{name} {bits:#x}U");
    }
    let used = known.iter().fold(0, |all, (_, bits)| all | bits);
    let mut spare = (0..32).rev().map(|n| 1u32 << n).filter(|bit| used & bit == 0);
    let unknown = words(kernel, prefix).into_iter().filter(|w| known.iter().all(|(n, _)| n != w));
    for (name, bit) in unknown.zip(&mut spare) {
        let _ = writeln!(out, "#define {prefix}{name} {bit:#x}U");
    }
}

/// What follows `prefix` in the identifiers of a text. Names that are macros
/// of another kind (VM_FAULT_*, VM_BUG_ON) belong to other words.
fn words<'a>(text: &'a str, prefix: &str) -> BTreeSet<&'a str> {
    let identifiers = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let names = identifiers.filter_map(|w| w.strip_prefix(prefix));
    let other = ["BUG_", "WARN_", "FAULT_"];
    names.filter(|n| !n.is_empty() && !other.iter().any(|o| n.starts_with(o))).collect()
}
