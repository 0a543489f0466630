// SPDX-License-Identifier: GPL-2.0-only
//! Files that are there as a whole or not at all.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

/// Writes a file next to its place, then moves it there.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let mut file = NamedTempFile::new_in(dir)?;
    file.write_all(bytes)?;
    file.as_file().sync_all()?;
    readable(file.path())?;
    file.persist(path)?;
    Ok(())
}

/// Temporary files are private; reports are not.
#[cfg(unix)]
fn readable(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let mode = if path.is_dir() { 0o755 } else { 0o644 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

#[cfg(not(unix))]
fn readable(_: &Path) -> io::Result<()> {
    Ok(())
}

/// The report folder of a night.
#[derive(Debug)]
pub struct Folder {
    dir: PathBuf,
    next: usize,
}

impl Folder {
    /// Makes it, and makes sure now that it can be written to.
    pub fn create(dir: &Path) -> io::Result<Folder> {
        fs::create_dir_all(dir)?;
        NamedTempFile::new_in(dir)?.write_all(b"gup")?;
        // Findings of earlier nights stay.
        let number = |name: &str| name.strip_prefix("finding-")?.parse::<usize>().ok();
        let names = fs::read_dir(dir)?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let last = names.filter_map(|n| number(&n)).max().unwrap_or(0);
        Ok(Folder { dir: dir.into(), next: last + 1 })
    }

    /// Where a file or a finding is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file into it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        write(&self.path(name), bytes)
    }

    /// Makes `finding-N` with the files given; returns its name.
    pub fn add_finding(&mut self, files: &[(&str, &[u8])]) -> io::Result<String> {
        let new = tempfile::Builder::new().prefix(".finding-").tempdir_in(&self.dir)?;
        for (name, bytes) in files {
            write(&new.path().join(name), bytes)?;
        }
        readable(new.path())?;
        let name = format!("finding-{}", self.next);
        fs::rename(new.path(), self.path(&name))?;
        // It has moved: there is nothing to clean up any more.
        let _ = new.keep();
        self.next += 1;
        Ok(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_are_numbered_on_and_nothing_else_is_left() {
        let dir = tempfile::tempdir().unwrap();
        for expected in ["finding-1", "finding-2"] {
            let mut folder = Folder::create(dir.path()).unwrap();
            assert_eq!(folder.add_finding(&[("log", b"x")]).unwrap(), expected);
        }
        assert_eq!(fs::read(dir.path().join("finding-2/log")).unwrap(), b"x");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_file_in_the_way_is_an_error() {
        let file = NamedTempFile::new().unwrap();
        assert!(Folder::create(file.path()).is_err());
        assert!(Folder::create(&file.path().join("below")).is_err());
    }
}
