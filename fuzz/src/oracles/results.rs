// SPDX-License-Identifier: GPL-2.0-only
//! result-array, placement and permission: what a successful call handed out.

use gup_core::flags::{Foll, VmFlags};
use gup_core::history::Base;
use gup_core::model::filemap::{File, has_page_mkwrite};
use gup_core::model::mm::{Vma, vma_lookup};
use gup_core::model::pgtable::mapped_page;
use gup_core::model::zone::{Place, is_migrate_isolate_page, place};
use gup_core::model::{Cpu, Page};

use super::Violation;
use crate::scenario::CallOp;

/// result-array: each entry up to the returned count is the page that the
/// address maps, or `was_mapped` during the call, and was set by it; so for
/// the VMAs.
pub fn array(
    cpu: &Cpu,
    op: &CallOp,
    pages: &[Page],
    vmas: Option<&[Vma]>,
    was_mapped: impl Fn(usize, Page) -> bool,
) -> Option<Violation> {
    for (i, (addr, &page)) in op.range.addrs().zip(pages).enumerate() {
        let mapped = mapped_page(cpu, op.range.mm, addr);
        if mapped == Some(page) || was_mapped(i, page) {
            continue;
        }
        let expected = match mapped {
            Some(p) => format!("pages[{i}] is page {}, mapped at {addr:#x}", p.0),
            None => format!("no pages[{i}]: nothing with a struct page is mapped at {addr:#x}"),
        };
        let actual = if page == Page::UNSET {
            format!("counted as done, but pages[{i}] was never set")
        } else if page == Page::NULL {
            format!("counted as done, but pages[{i}] is NULL")
        } else {
            format!("pages[{i}] is page {}", page.0)
        };
        return Some(Violation::new("result-array", expected, actual));
    }
    let vmas = &vmas?[..pages.len()];
    let wrong = op.range.addrs().zip(vmas).position(|(a, v)| !(v.start..v.end).contains(&a));
    wrong.map(|i| {
        let expected = format!("vmas[{i}] is the VMA of the address");
        Violation::new("result-array", expected, format!("it is {:#x}", vmas[i].start))
    })
}

/// placement: a longterm pin leaves no page in memory that must stay
/// movable; a pageblock may be `isolated` since it was asked for.
pub fn placement(cpu: &Cpu, op: &CallOp, pages: &[Page], isolated: bool) -> Option<Violation> {
    if !op.flags.contains(Foll::LONGTERM) || !op.call.pins() {
        return None;
    }
    let misplaced = |&p: &Page| {
        // Waiver gigantic-page-by-its-head.
        let p = if cpu.world.look(p).hugetlb { cpu.world.head_of(p) } else { p };
        p != Page::UNSET
            && p != cpu.world.zero_page()
            && (matches!(place(cpu.world, p), Place::Movable | Place::Cma)
                || (!isolated && is_migrate_isolate_page(cpu.world, p)))
    };
    let page = *pages.iter().find(|p| misplaced(p))?;
    let isolated = is_migrate_isolate_page(cpu.world, page);
    let lies = if isolated { "an isolated pageblock" } else { place(cpu.world, page).name() };
    let expected = "no longterm pin in ZONE_MOVABLE, CMA or isolated memory".into();
    let actual = format!("page {} is pinned in {lies}", page.0);
    Some(Violation::new("placement", expected, actual).of_page(page))
}

/// permission: no page of secret memory, nor one that `was_secret` during the
/// call; no page of a file for stores that the mapping keeps from the file, or
/// that the file must notice and, since v6.5, may not have for long. Of all but
/// the first it says nothing where the `vma_changed`.
pub fn permission(
    cpu: &Cpu,
    op: &CallOp,
    pages: &[Page],
    vma_changed: impl Fn(usize) -> bool,
    was_secret: impl Fn(Page) -> bool,
) -> Option<Violation> {
    let f = op.flags;
    let for_long = op.call.pins() && f.contains(Foll::LONGTERM) && cpu.since(Base::V6_12);
    for (i, (addr, &page)) in op.range.addrs().zip(pages).enumerate() {
        if was_secret(page) {
            let expected = "a page of secret memory is handed out to nobody".into();
            let actual = format!("pages[{i}] is page {}, which was secret", page.0);
            return Some(Violation::new("permission", expected, actual).of_page(page));
        }
        if vma_changed(i) {
            continue;
        }
        let Some(file) = cpu.world.look(page).file else { continue };
        let shared =
            vma_lookup(cpu, op.range.mm, addr).is_some_and(|v| v.flags.contains(VmFlags::SHARED));
        let never = match file {
            File::Secretmem => "a page of secret memory is handed out to nobody",
            _ if !f.contains(Foll::WRITE) => continue,
            _ if !shared => "a store to a private mapping does not reach the file",
            file if for_long && has_page_mkwrite(file) => {
                "nobody stores for long to pages whose file must notice each store"
            }
            _ => continue,
        };
        let actual = format!("pages[{i}] is page {} of {}", page.0, file.name());
        return Some(Violation::new("permission", never.into(), actual).of_page(page));
    }
    None
}
