// SPDX-License-Identifier: GPL-2.0-only
//! What a guest is made of: a kernel image, our module built for it, our
//! init, and an archive of the last two.
//!
//! All of it is kept below the target folder, by the kernel's release.
//! Nothing is installed; what has to be is named with the command that does
//! it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disks;
use crate::cli::Failure;

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The module's source.
const MODULE: [(&str, &str); 3] = [
    ("gupdev.c", include_str!("../../on-kernel/module/gupdev.c")),
    ("gupdev.h", include_str!("../../on-kernel/module/gupdev.h")),
    ("Kbuild", include_str!("../../on-kernel/module/Kbuild")),
];

/// Where init runs.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A kernel to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The newest cloud image that Debian has of a series, such as `6.12`.
    Debian(String),
    /// An image (bzImage or vmlinux) of one's own, and the build folder or
    /// headers that its modules are built against.
    Own {
        /// The image.
        image: PathBuf,
        /// The folder.
        headers: PathBuf,
    },
}

/// All that QEMU needs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Parts {
    /// The kernel's release.
    pub release: String,
    /// Its image.
    pub image: PathBuf,
    /// The archive with init and the module.
    pub initrd: PathBuf,
    /// The images of its disks.
    pub disks: [PathBuf; 2],
}

/// Gets everything, or says what is missing. `root` is the workspace.
///
/// # Errors
/// Names the package or tool that is missing and the command that gets it.
pub fn gather(root: &Path, choice: &Choice) -> Result<Parts, Failure> {
    emulator()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let cache = target.join("on-kernel");
    let (release, image, headers) = match choice {
        Choice::Debian(series) => debian(&cache, series)?,
        Choice::Own { image, headers } => own(image, headers)?,
    };
    let dir = cache.join(&release);
    let module = build_module(&dir.join("module"), &headers)?;
    let init = build_init(root, &cache)?;
    let initrd = dir.join("initrd");
    let files = [("init", 0o755, init), ("gupdev.ko", 0o644, module)];
    let archive = archive(&files).map_err(|e| Failure::new(e, "cargo gup confirm --help"))?;
    // Another guest may be reading it.
    if fs::read(&initrd).ok().as_ref() != Some(&archive) {
        write(&initrd, &archive)?;
    }
    let disks = disks::make(&cache)?;
    Ok(Parts { release, image, initrd, disks })
}

impl Parts {
    /// Brings programs along: in an archive of its own, `to`. A kernel
    /// unpacks archives that stand one behind the other.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn bring(&mut self, programs: &[(String, Vec<u8>)], to: &Path) -> Result<(), Failure> {
        let next = format!("ls -l {}", self.initrd.display());
        let mut all = fs::read(&self.initrd).map_err(|e| Failure::new(e, &next))?;
        let files: Vec<_> =
            programs.iter().map(|(name, bytes)| (name.as_str(), 0o755, bytes.clone())).collect();
        all.extend(archive(&files).map_err(|e| Failure::new(e, &next))?);
        write(to, &all)?;
        self.initrd = to.into();
        Ok(())
    }
}

/// Compiles a program: static, so that it needs nothing beside it.
///
/// # Errors
/// If there is no compiler, or it says anything.
pub fn compile(text: &str) -> Result<Vec<u8>, Failure> {
    let next = "sudo apt-get install gcc libc6-dev";
    let dir = tempfile::tempdir().map_err(|e| Failure::new(e, next))?;
    let (source, binary) = (dir.path().join("reproducer.c"), dir.path().join("reproducer"));
    write(&source, text.as_bytes())?;
    let mut cc = Command::new("cc");
    cc.args(["-O1", "-s", "-static", "-Wall", "-Werror", "-o"]).arg(&binary).arg(&source);
    run(&mut cc, next)?;
    fs::read(&binary).map_err(|e| Failure::new(e, next))
}

/// What a guest with the newest kernel of a series lacks that only the user
/// can install.
pub fn missing(series: &str) -> Option<Failure> {
    emulator().and_then(|()| newest(series)).err()
}

fn emulator() -> Result<(), Failure> {
    let there = Command::new(QEMU).arg("--version").output().is_ok();
    let next = "sudo apt-get install qemu-system-x86";
    there.then_some(()).ok_or_else(|| Failure::new(format!("{QEMU} is not there"), next))
}

fn own(image: &Path, headers: &Path) -> Result<(String, PathBuf, PathBuf), Failure> {
    let next = "cargo gup confirm --help";
    fs::metadata(image).map_err(|e| Failure::new(format!("{}: {e}", image.display()), next))?;
    let file = headers.join("include/config/kernel.release");
    let release = fs::read_to_string(&file).map_err(|e| {
        Failure::new(format!("{}: {e}", file.display()), "make modules_prepare in that folder")
    })?;
    Ok((release.trim().into(), image.into(), headers.into()))
}

// ---- Debian's packages ----

/// The newest image of a series whose headers are here; downloads it once.
fn debian(cache: &Path, series: &str) -> Result<(String, PathBuf, PathBuf), Failure> {
    let release = newest(series)?;
    let image = cache.join(&release).join("vmlinuz");
    if !image.exists() {
        download(&cache.join(&release), &release)?;
    }
    let headers = headers(&release);
    Ok((release, image, headers))
}

fn headers(release: &str) -> PathBuf {
    format!("/usr/src/linux-headers-{release}").into()
}

/// The newest release of a series whose headers are here.
fn newest(series: &str) -> Result<String, Failure> {
    let releases = releases(series)?;
    let built = |release: &&String| headers(release).join("Makefile").exists();
    releases.iter().find(built).cloned().ok_or_else(|| {
        Failure::new(
            format!("no headers of a {series} cloud kernel, which our module is built against"),
            format!("sudo apt-get install linux-headers-{}", releases[0]),
        )
    })
}

/// The releases of a series that apt knows, the newest first.
fn releases(series: &str) -> Result<Vec<String>, Failure> {
    let escaped = series.replace('.', r"\.");
    let pattern = format!(r"^linux-image-{escaped}\.[0-9].*-cloud-amd64$");
    let found = Command::new("apt-cache").args(["search", "--names-only", &pattern]).output();
    let found = found.map_err(|e| {
        Failure::new(
            format!("apt-cache: {e}: stock kernels come from Debian's archive"),
            "cargo gup confirm --vmlinux FILE --headers FOLDER",
        )
    })?;
    let text = String::from_utf8_lossy(&found.stdout);
    let mut releases: Vec<String> = text
        .lines()
        .filter_map(|l| l.split(' ').next()?.strip_prefix("linux-image-").map(Into::into))
        .collect();
    if releases.is_empty() {
        let message = format!("apt knows no package linux-image-{series}.*-cloud-amd64");
        return Err(Failure::new(message, "sudo apt-get update"));
    }
    releases.sort_by_key(|r| std::cmp::Reverse(numbers(r)));
    Ok(releases)
}

/// `6.12.117+deb12` as numbers, for comparison.
fn numbers(release: &str) -> Vec<u64> {
    release.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse().ok()).collect()
}

/// Downloads a package and takes the image out of it.
fn download(dir: &Path, release: &str) -> Result<(), Failure> {
    let package = format!("linux-image-{release}");
    let again = format!("apt-get download {package}");
    make_dir(dir)?;
    let work = tempfile::tempdir_in(dir).map_err(|e| Failure::new(e, &again))?;
    eprintln!("downloading {package} ...");
    run(Command::new("apt-get").args(["download", &package]).current_dir(&work), &again)?;
    let unpack = format!(
        "dpkg-deb --fsys-tarfile {package}_*.deb | tar -xf - --wildcards './boot/vmlinuz-*'"
    );
    run(Command::new("sh").args(["-c", &unpack]).current_dir(&work), &again)?;
    let image = work.path().join("boot").join(format!("vmlinuz-{release}"));
    fs::rename(&image, dir.join("vmlinuz")).map_err(|e| Failure::new(e, again))
}

// ---- what we build ----

/// Builds the module if its source or the headers changed.
fn build_module(dir: &Path, headers: &Path) -> Result<Vec<u8>, Failure> {
    make_dir(dir)?;
    for (name, text) in MODULE {
        let file = dir.join(name);
        if fs::read(&file).ok().as_deref() != Some(text.as_bytes()) {
            write(&file, text.as_bytes())?;
            // What was built of the old text.
            fs::remove_file(dir.join("gupdev.ko")).ok();
        }
    }
    let ko = dir.join("gupdev.ko");
    if !ko.exists() {
        let (headers, m) = (headers.display(), format!("M={}", dir.display()));
        let next = format!("make -C {headers} {m} modules");
        let mut make = Command::new("make");
        make.args(["-s", "-C", &headers.to_string(), &m, "modules"]);
        run(&mut make, &next)?;
        let strip = format!("strip -d {}", ko.display());
        run(Command::new("strip").arg("-d").arg(&ko), &strip)?;
    }
    fs::read(&ko).map_err(|e| Failure::new(format!("{}: {e}", ko.display()), "cargo gup confirm"))
}

/// Builds init: static, so that it needs nothing beside it.
fn build_init(root: &Path, cache: &Path) -> Result<Vec<u8>, Failure> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--quiet", "--release", "-p", "gup-on-kernel", "--target", TARGET]);
    build.arg("--target-dir").arg(cache.join("init")).current_dir(root);
    build.env("RUSTFLAGS", "-C target-feature=+crt-static -C strip=symbols");
    run(&mut build, "cargo build -p gup-on-kernel")?;
    let init = cache.join("init").join(TARGET).join("release/init");
    fs::read(&init).map_err(|e| {
        Failure::new(format!("{}: {e}", init.display()), "cargo build -p gup-on-kernel")
    })
}

/// Runs a tool; its output is of interest only if it fails.
pub(super) fn run(command: &mut Command, next: &str) -> Result<(), Failure> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command.output().map_err(|e| Failure::new(format!("{name}: {e}"), next))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let tail: Vec<&str> = text.lines().rev().take(12).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    Err(Failure::new(format!("{name} failed: {}\n{}", output.status, tail.join("\n")), next))
}

fn make_dir(dir: &Path) -> Result<(), Failure> {
    let next = format!("ls -ld {}", dir.display());
    fs::create_dir_all(dir).map_err(|e| Failure::new(format!("{}: {e}", dir.display()), next))
}

fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let next = format!("ls -l {}", file.display());
    fs::write(file, bytes).map_err(|e| Failure::new(format!("{}: {e}", file.display()), next))
}

// ---- the archive ----

/// An initramfs: folders to mount on, a console, and files. The kernel's
/// Documentation/driver-api/early-userspace/buffer-format.rst has the format.
fn archive(files: &[(&str, u32, Vec<u8>)]) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    for dir in ["dev", "proc", "sys"] {
        entry(&mut out, dir, 0o40755, (0, 0), &[])?;
    }
    entry(&mut out, "dev/console", 0o20600, (5, 1), &[])?;
    for (name, mode, bytes) in files {
        entry(&mut out, name, 0o100_000 | mode, (0, 0), bytes)?;
    }
    entry(&mut out, "TRAILER!!!", 0, (0, 0), &[])?;
    Ok(out)
}

fn entry(
    out: &mut Vec<u8>,
    name: &str,
    mode: u32,
    device: (u32, u32),
    bytes: &[u8],
) -> Result<(), String> {
    let size = u32::try_from(bytes.len()).map_err(|_| format!("{name} is too large"))?;
    let inode = out.len() as u32;
    let fields =
        [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name.len() as u32 + 1, 0];
    out.extend(b"070701");
    out.extend(fields.iter().flat_map(|n| format!("{n:08X}").into_bytes()));
    out.extend(name.as_bytes());
    out.push(0);
    out.resize(out.len().next_multiple_of(4), 0);
    out.extend(bytes);
    out.resize(out.len().next_multiple_of(4), 0);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases_are_compared_by_number() {
        assert!(numbers("6.12.117+deb12-cloud-amd64") > numbers("6.12.99+deb13-cloud-amd64"));
        assert!(numbers("6.1.0-56-cloud-amd64") > numbers("6.1.0-9-cloud-amd64"));
    }

    #[test]
    fn every_part_of_an_archive_is_aligned() {
        let files = [("init", 0o755, vec![1, 2, 3]), ("x.ko", 0o644, vec![])];
        let bytes = archive(&files).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        let heads: Vec<usize> = text.match_indices("070701").map(|(i, _)| i).collect();
        assert_eq!(heads.len(), 7);
        assert!(heads.iter().all(|i| i % 4 == 0), "{heads:?}");
        assert!(text.contains("TRAILER!!!"));
    }

    #[test]
    fn what_is_missing_is_named_with_the_command_that_gets_it() {
        let none = own(Path::new("no-such-image"), Path::new("/")).unwrap_err();
        assert!(none.message.contains("no-such-image"), "{none:?}");
        let failed = run(&mut Command::new("no-such-tool"), "get it").unwrap_err();
        assert_eq!(failed.next, "get it");
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), "x").unwrap_err();
        assert!(failed.message.contains("why"), "{failed:?}");
    }
}
