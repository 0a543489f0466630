// SPDX-License-Identifier: GPL-2.0-only
//! Every function in gup/ cites its C original, exactly once, and every
//! function of the C is ported or has a reason not to be.
//!
//! `cargo test -p gup-core --test port_map -- --nocapture` prints the table.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// The functions of mm/gup.c at 54d516b1d62f that have no port, and why.
const NOT_PORTED: &[(&str, &str)] = &[
    ("follow_page", "no caller in the model: KSM and move_pages() look pages up themselves"),
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
];

/// Functions of mm/gup.c there with CONFIG_MMU, CONFIG_MIGRATION and
/// CONFIG_HAVE_FAST_GUP, the variants for other configurations not counted.
const GUP_C_FUNCTIONS: usize = 70;

/// The base that citations name.
const BASE: &str = "v5.15";

#[derive(Debug)]
struct Ported {
    name: String,
    place: String,
    citation: Option<String>,
    marked: bool,
}

fn functions(dir: &Path) -> Vec<Ported> {
    let mut files: Vec<_> = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.iter().flat_map(|f| functions_of(f)).collect()
}

fn functions_of(file: &Path) -> Vec<Ported> {
    let text = fs::read_to_string(file).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        let rest = ["pub(crate) fn ", "pub fn ", "fn "].iter().find_map(|p| line.strip_prefix(p));
        let Some(rest) = rest else { continue };
        let name = rest.split(['(', '<']).next().unwrap().to_owned();
        let above =
            lines[..i].iter().rev().take_while(|l| l.starts_with("//") || l.starts_with('#'));
        let above: Vec<&&str> = above.collect();
        let cited: Vec<&str> = above.iter().filter_map(|l| l.strip_prefix("/// C: ")).collect();
        assert!(cited.len() <= 1, "{name} cites {cited:?}");
        found.push(Ported {
            name,
            place: format!("{}:{}", file.file_name().unwrap().to_string_lossy(), i + 1),
            citation: cited.first().map(|s| (*s).to_owned()),
            marked: above.iter().any(|l| l.starts_with("// PORT: not in the C")),
        });
    }
    found
}

#[test]
fn every_ported_function_cites_its_original_once() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gup/v5_15");
    let mut cited = BTreeMap::new();
    println!("| function | port | C |\n|---|---|---|");
    for f in functions(&dir) {
        let Some(citation) = f.citation else {
            assert!(f.marked, "{} ({}) has no line `C: name(), file, {BASE}`", f.name, f.place);
            continue;
        };
        let expected = format!("{}(), ", f.name);
        assert!(citation.starts_with(&expected), "{} ({}) cites {citation}", f.name, f.place);
        let file = citation[expected.len()..].trim_end_matches(BASE).trim_end_matches(", ");
        assert!(["mm/gup.c", "mm/huge_memory.c", "linux/mm.h"].contains(&file), "{citation}");
        println!("| {} | {} | {file} |", f.name, f.place);
        let twice = cited.insert(f.name.clone(), file.to_owned());
        assert_eq!(twice, None, "{} is ported twice", f.name);
    }
    println!("\n| not ported | why |\n|---|---|");
    for (name, why) in NOT_PORTED {
        println!("| {name} | {why} |");
        assert!(!cited.contains_key(*name), "{name} is ported after all");
    }
    let from_gup = cited.values().filter(|file| *file == "mm/gup.c").count();
    assert_eq!(from_gup + NOT_PORTED.len(), GUP_C_FUNCTIONS);
}

#[test]
fn deviations_are_marked_where_they_are() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/gup/v5_15");
    let mut marks = 0;
    for file in fs::read_dir(dir).unwrap() {
        let text = fs::read_to_string(file.unwrap().path()).unwrap();
        marks += text.matches("// PORT:").count();
    }
    assert!(marks > 20, "{marks} marks: were they renamed?");
}
