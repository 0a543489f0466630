// SPDX-License-Identifier: GPL-2.0-only
//! Pages of a guest beside the model's, for people.

use std::fmt::Write;

use super::compare::buffers;
use super::machine::Ran;
use super::wire::{Seen, SeenFlags};
use crate::exec::{SlotView, TraceLine};

/// The slots that an op changed in the guest: one row if the model has the
/// same numbers, else one each. Of a huge page's slots only the first is
/// shown. Without the module what it would see is left out.
pub fn page_rows(
    line: &TraceLine,
    before: Option<&Ran>,
    ran: &Ran,
    scale: u32,
    module: bool,
) -> String {
    let mut out = String::new();
    let mut shown = None;
    for (slot, seen) in &ran.slots {
        if before.and_then(|ran| ran.slots.get(slot)) == Some(seen) {
            continue;
        }
        let whole = (seen.order > 1).then_some((seen.head, std::mem::discriminant(slot)));
        if whole.is_some() && whole == shown {
            continue;
        }
        shown = whole;
        let letters = if module { "wHszaeM" } else { "zaM" };
        let kernel = kernel_row(seen, scale, letters);
        let swapped = line.state.swapped.contains(slot);
        let model = match line.state.slots.get(slot) {
            Some(v) if module || seen.order == 0 => model_row(v, seen, letters),
            Some(_) => kernel.clone(),
            None if swapped => SWAP_ENTRY.into(),
            None => "nothing".into(),
        };
        let name = slot.to_string();
        if out.is_empty() {
            out.push_str("     slot        ref   map   pin flags\n");
        }
        if model == kernel {
            let _ = writeln!(out, "     {name:<9} {kernel}");
        } else {
            let _ = writeln!(out, "     {name:<9} {model}   (model)");
            let _ = writeln!(out, "     {:<9} {kernel}   (kernel)", "");
        }
    }
    let gone = before.into_iter().flat_map(|b| b.slots.keys());
    for slot in gone.filter(|slot| !ran.slots.contains_key(slot)) {
        let _ = writeln!(out, "     {slot}: nothing any more");
    }
    out
}

/// How an entry is shown that maps nothing.
const SWAP_ENTRY: &str = "swap entry";

/// Counts as the model has them: what is counted for each page of a huge one
/// is divided.
fn kernel_row(s: &Seen, scale: u32, shown: &str) -> String {
    if s.flags.contains(SeenFlags::NONPRESENT) {
        return SWAP_ENTRY.into();
    }
    let each = if s.order > 1 { scale as i32 } else { 1 };
    let refcount = s.refcount - buffers(s);
    let whole = s.entire + (refcount - s.entire).rem_euclid(each);
    let refcount = whole + (refcount - whole) / each;
    let mapcount = s.entire + (s.mapcount - s.entire) / each;
    let flags = [
        (SeenFlags::WRITABLE, 'w'),
        (SeenFlags::HUGE, 'H'),
        (SeenFlags::SPECIAL, 's'),
        (SeenFlags::ZERO, 'z'),
        (SeenFlags::ANON, 'a'),
        (SeenFlags::EXCLUSIVE, 'e'),
        (SeenFlags::MOVABLE, 'M'),
    ];
    let letters = flags.into_iter().filter(|&(f, _)| s.flags.contains(f)).map(|(_, c)| c);
    let letters = letters.filter(|&c| shown.contains(c));
    counts(refcount, mapcount, s.pincount / each, &letters.collect::<String>())
}

/// Uncounted pages have what the kernel says.
fn model_row(v: &SlotView, s: &Seen, shown: &str) -> String {
    let flags = [
        (v.accessible && v.write, 'w'),
        (v.huge, 'H'),
        (v.special, 's'),
        (v.zero_page, 'z'),
        (v.anon, 'a'),
        (v.exclusive && s.flags.contains(SeenFlags::PRESENT), 'e'),
        (v.movable, 'M'),
    ];
    let letters = flags.into_iter().filter(|f| f.0).map(|(_, c)| c);
    let letters = letters.filter(|&c| shown.contains(c)).collect::<String>();
    if v.special || v.zero_page {
        return counts(s.refcount, s.mapcount, s.pincount, &letters);
    }
    counts(v.refcount, v.mapcount, v.pincount, &letters)
}

fn counts(refcount: i32, mapcount: i32, pincount: i32, letters: &str) -> String {
    format!("{refcount:>5} {mapcount:>5} {pincount:>5} {letters:<7}").trim_end().into()
}
