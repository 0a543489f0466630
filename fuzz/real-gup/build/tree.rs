// SPDX-License-Identifier: GPL-2.0-only
//! Where the kernel's text comes from.
//!
//! `LINUX` names a tree or a tarball of one; without it, the tarball of
//! Debian's package linux-source-6.12 is taken, else linux-source-6.1.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{find, read};

/// Texts of mm/gup.c that are known to work, by SHA-256.
const KNOWN: [(&str, &str); 3] = [
    ("7da2ba7bfc1def6282d945b833f3ffc582725d94d1dd28e43b0ca5260b51633a", "6.12.117"),
    ("61afa3601307c82d4fd255182a1a80bd5787fde7757a997ed490cbfa82b03778", "6.1.192"),
    ("2c420ede3e3e3ceed9b5d7429483337d466357765127bb5b5bbdbed8efca18e6", "5.15.0"),
];

/// Everything that is read of a tree.
const FILES: [&str; 11] = [
    "Makefile",
    "include/linux/mm.h",
    "include/linux/mm_inline.h",
    "include/linux/mmzone.h",
    "include/linux/secretmem.h",
    "include/linux/swap.h",
    "mm/gup.c",
    "mm/huge_memory.c",
    "mm/hugetlb.c",
    "mm/internal.h",
    "mm/pgtable-generic.c",
];

/// A kernel tree, or what was taken out of one.
pub struct Tree {
    dir: PathBuf,
    version: [u32; 3],
}

impl Tree {
    /// Finds the tree; `cache` is where what is taken out of a tarball stays.
    pub fn find(cache: &Path) -> Result<Tree, String> {
        let path = find::kernel()?;
        let dir = if path.is_dir() { path } else { unpack(&path, cache)? };
        for file in FILES {
            println!("cargo::rerun-if-changed={}", dir.join(file).display());
        }
        let version = version(&read(&dir.join("Makefile"))?);
        Ok(Tree { dir, version })
    }

    /// A file of the tree.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The version as the shim's macro KVER: 612 for 6.12.
    pub fn kver(&self) -> u32 {
        self.version[0] * 100 + self.version[1]
    }

    /// `6.12.117`
    pub fn release(&self) -> String {
        self.version.map(|n| n.to_string()).join(".")
    }

    /// Which known text mm/gup.c is, if it is one.
    pub fn known(&self) -> Option<&'static str> {
        let sum = self.sha256()?;
        KNOWN.iter().find(|(known, _)| *known == sum).map(|&(_, name)| name)
    }

    /// The SHA-256 of mm/gup.c.
    pub fn sha256(&self) -> Option<String> {
        let bytes = fs::read(self.file("mm/gup.c")).ok()?;
        Some(Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect())
    }
}

/// VERSION, PATCHLEVEL and SUBLEVEL of a Makefile.
fn version(makefile: &str) -> [u32; 3] {
    ["VERSION", "PATCHLEVEL", "SUBLEVEL"].map(|name| {
        let line = makefile.lines().find_map(|l| l.strip_prefix(name)?.trim().strip_prefix('='));
        line.and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    })
}

/// Takes [`FILES`] out of a tarball, once: searching it takes half a minute.
fn unpack(tarball: &Path, cache: &Path) -> Result<PathBuf, String> {
    let shown = tarball.display();
    let meta = fs::metadata(tarball).map_err(|e| format!("{shown}: {e}"))?;
    let name = tarball.file_name().unwrap_or_default().to_string_lossy();
    let top = name.split(".tar").next().unwrap_or_default().to_string();
    // A newer package has another size; else the cache would hide it.
    let dir = cache.join("kernel").join(format!("{top}-{}", meta.len()));
    if FILES.iter().all(|f| dir.join(f).is_file()) {
        return Ok(dir);
    }
    fs::create_dir_all(&dir).map_err(|e| format!("{}: {e}", dir.display()))?;
    let members = FILES.map(|f| format!("{top}/{f}"));
    let mut tar = Command::new("tar");
    tar.arg("-xf").arg(tarball).arg("-C").arg(&dir);
    tar.args(["--strip-components=1", "--occurrence=1"]).args(members);
    let output = tar.output().map_err(|e| format!("cannot start tar: {e}"))?;
    if output.status.success() {
        return Ok(dir);
    }
    let why = String::from_utf8_lossy(&output.stderr).trim().replace('\n', "; ");
    Err(format!("{shown}: {why}"))
}
