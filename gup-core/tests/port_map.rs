// SPDX-License-Identifier: GPL-2.0-only
//! Every function in gup/ cites its C original, exactly once, and every
//! function of the C is ported or has a reason not to be; for each base.
//!
//! `cargo test -p gup-core --test port_map -- --nocapture` prints the tables.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use gup_core::history::{Base, Defect};

/// One base text: what of its mm/gup.c is in gup/, and what is not.
struct Text {
    base: Base,
    /// Its folder in gup/.
    folder: &'static str,
    /// Functions of mm/gup.c there with CONFIG_MMU, CONFIG_MIGRATION and
    /// GUP-fast, the variants for other configurations not counted.
    functions: usize,
    /// Those that have no port, and why.
    not_ported: &'static [(&'static str, &'static str)],
    /// The other files that a function may come from.
    others: &'static [&'static str],
}

const TEXTS: &[Text] = &[
    Text {
        base: Base::V5_15,
        folder: "v5_15",
        functions: 70,
        not_ported: &[
            ("follow_page", "no caller: KSM and move_pages() look pages up themselves"),
            ("get_gate_page", "no gate area"),
            ("vma_permits_fault", "only for fixup_user_fault()"),
            ("fixup_user_fault", "takes no reference: futexes and s390"),
            ("populate_vma_page_range", "mlock and MAP_POPULATE are not modelled"),
            ("faultin_vma_page_range", "MADV_POPULATE is not modelled"),
            ("__mm_populate", "mlock and MAP_POPULATE are not modelled"),
            ("get_dump_page", "core dumps are not modelled; FOLL_DUMP is"),
            ("undo_dev_pagemap", "no device memory"),
            ("__gup_device_huge", "no device memory"),
            ("__gup_device_huge_pmd", "no device memory"),
            ("__gup_device_huge_pud", "no device memory"),
            ("hugepte_addr_end", "hugepd: not on x86"),
            ("gup_hugepte", "hugepd: not on x86"),
            ("gup_huge_pd", "hugepd: not on x86"),
            ("gup_huge_pud", "hugetlb: no 1 GiB leaves"),
            ("gup_huge_pgd", "no leaves in the PGD on x86"),
            ("gup_fast_permitted", "what access_ok() tests already"),
        ],
        others: &["mm/huge_memory.c", "linux/mm.h"],
    },
    Text {
        base: Base::V6_12,
        folder: "v6_12",
        functions: 84,
        not_ported: &[
            ("get_gate_page", "no gate area"),
            ("vma_permits_fault", "only for fixup_user_fault()"),
            ("fixup_user_fault", "takes no reference: futexes and s390"),
            ("populate_vma_page_range", "mlock and MAP_POPULATE are not modelled"),
            ("faultin_page_range", "MADV_POPULATE is not modelled"),
            ("__mm_populate", "mlock and MAP_POPULATE are not modelled"),
            ("fault_in_writeable", "takes no reference: touches user memory"),
            ("fault_in_subpage_writeable", "takes no reference: touches user memory"),
            ("fault_in_safe_writeable", "takes no reference: fixup_user_fault()"),
            ("fault_in_readable", "takes no reference: touches user memory"),
            ("get_dump_page", "core dumps are not modelled; FOLL_DUMP is"),
            ("check_and_migrate_movable_folios", "only for memfd_pin_folios()"),
            ("gup_fast_undo_dev_pagemap", "no device memory"),
            ("gup_fast_devmap_leaf", "no device memory"),
            ("gup_fast_devmap_pmd_leaf", "no device memory"),
            ("gup_fast_devmap_pud_leaf", "no device memory"),
            ("gup_fast_pgd_leaf", "no leaves in the PGD on x86"),
            ("gup_fast_permitted", "what access_ok() tests already"),
            ("memfd_pin_folios", "udmabuf alone calls it: no memfd is pinned by its file"),
        ],
        others: &["linux/mm.h", "linux/swap.h", "mm/internal.h"],
    },
];

#[derive(Debug)]
struct Ported {
    name: String,
    place: String,
    citation: Option<String>,
    marked: bool,
}

fn source(folder: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src").join(folder)
}

/// The files of a folder with their text, by name.
fn files(dir: &Path) -> BTreeMap<String, String> {
    let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
    let name = |p: &Path| p.file_name().unwrap().to_string_lossy().into_owned();
    entries.map(|p| (name(&p), fs::read_to_string(&p).unwrap())).collect()
}

fn functions_of(file: &str, text: &str) -> Vec<Ported> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let heads = ["pub(crate) fn ", "pub(super) fn ", "pub fn ", "fn "];
        let Some(rest) = heads.iter().find_map(|p| line.strip_prefix(p)) else { continue };
        let name = rest.split(['(', '<']).next().unwrap().to_owned();
        let above: Vec<&str> = lines[..i]
            .iter()
            .rev()
            .copied()
            .take_while(|l| l.starts_with("//") || l.starts_with('#'))
            .collect();
        let cited: Vec<&str> = above.iter().filter_map(|l| l.strip_prefix("/// C: ")).collect();
        assert!(cited.len() <= 1, "{name} cites {cited:?}");
        found.push(Ported {
            name,
            place: format!("{file}:{}", i + 1),
            citation: cited.first().map(|s| (*s).to_owned()),
            marked: above.iter().any(|l| l.starts_with("// PORT: not in the C")),
        });
    }
    found
}

/// What a base's folder ports: the function, and the file it is from.
fn cited(text: &Text) -> BTreeMap<String, String> {
    let mut cited = BTreeMap::new();
    let base = text.base.name();
    let all = files(&source("gup").join(text.folder));
    for f in all.iter().flat_map(|(name, text)| functions_of(name, text)) {
        let Some(citation) = f.citation else {
            assert!(f.marked, "{} ({}) has no line `C: name(), file, {base}`", f.name, f.place);
            continue;
        };
        assert!(!f.marked, "{} ({}) cites the C and is not in it", f.name, f.place);
        let file = citation
            .strip_prefix(&format!("{}(), ", f.name))
            .map(|rest| rest.strip_suffix(&format!(", {base}")).unwrap_or(rest))
            .unwrap_or_else(|| panic!("{} ({}) cites {citation}", f.name, f.place));
        assert!(file == "mm/gup.c" || text.others.contains(&file), "{citation} ({})", f.place);
        println!("| {} | {} | {file} |", f.name, f.place);
        let twice = cited.insert(f.name.clone(), file.to_owned());
        assert_eq!(twice, None, "{} is ported twice", f.name);
    }
    cited
}

#[test]
fn every_ported_function_cites_its_original_once() {
    for text in TEXTS {
        println!("\n{}\n\n| function | port | C |\n|---|---|---|", text.base.name());
        let cited = cited(text);
        println!("\n| not ported | why |\n|---|---|");
        for (name, why) in text.not_ported {
            println!("| {name} | {why} |");
            assert!(!cited.contains_key(*name), "{name} is ported after all");
        }
        let from_gup = cited.values().filter(|file| *file == "mm/gup.c").count();
        assert_eq!(from_gup + text.not_ported.len(), text.functions, "{}", text.base.name());
    }
}

#[test]
fn every_base_has_a_table() {
    let bases: Vec<Base> = TEXTS.iter().map(|t| t.base).collect();
    assert_eq!(bases, Base::ALL);
}

/// `grep -rn PORT: gup-core` is the full list of differences: no other way to
/// write the mark, and no mark without a reason.
#[test]
fn every_deviation_is_marked_in_the_one_way_that_grep_finds() {
    for text in TEXTS {
        for (name, body) in files(&source("gup").join(text.folder)) {
            for (i, line) in body.lines().enumerate() {
                let place = format!("{}/{name}:{}", text.folder, i + 1);
                if !line.to_ascii_lowercase().contains("port:") {
                    continue;
                }
                let reason = line.trim_start().strip_prefix("// PORT: ");
                assert!(reason.is_some_and(|r| r.contains(' ')), "{place}: {line}");
            }
        }
    }
}

/// The defects that a text asks for, as in `cpu.has(Defect::X)`.
fn asked_for(texts: impl IntoIterator<Item = String>) -> BTreeSet<String> {
    let ident = |s: &str| s.split(|c: char| !c.is_alphanumeric()).next().unwrap().to_owned();
    let of = |t: String| t.split(".has(Defect::").skip(1).map(ident).collect::<Vec<_>>();
    texts.into_iter().flat_map(of).collect()
}

/// A row of history.rs without its statement is a kernel that differs in name
/// alone; a statement whose row does not list the base can never run.
#[test]
fn a_defect_has_its_statement_in_each_base_that_its_row_lists() {
    let model = asked_for(files(&source("model")).into_values());
    for text in TEXTS {
        let here = asked_for(files(&source("gup").join(text.folder)).into_values());
        for &d in Defect::ALL {
            let (name, base) = (format!("{d:?}"), text.base.name());
            let applies = d.info().in_base(text.base).is_some();
            let stated = here.contains(&name) || model.contains(&name);
            assert!(stated || !applies, "{name} applies to {base}, which has no statement of it");
            assert!(applies || !here.contains(&name), "{base} has {name}, its row does not say so");
        }
    }
}
