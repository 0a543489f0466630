// SPDX-License-Identifier: GPL-2.0-only
//! Where a kernel tree is: `LINUX`, a tree or a tarball of one; without it
//! the tarball of Debian's package linux-source-6.12, else of 6.1.

use std::env;
use std::path::PathBuf;

const TARBALLS: [&str; 2] =
    ["/usr/src/linux-source-6.12.tar.xz", "/usr/src/linux-source-6.1.tar.xz"];

/// The tree or tarball to use.
pub fn kernel() -> Result<PathBuf, String> {
    if let Some(named) = env::var_os("LINUX") {
        return Ok(named.into());
    }
    let tarball = TARBALLS.map(PathBuf::from).into_iter().find(|path| path.is_file());
    tarball
        .ok_or_else(|| "no kernel tree: apt-get install linux-source-6.12, or set LINUX=DIR".into())
}
