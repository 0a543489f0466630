// SPDX-License-Identifier: GPL-2.0-only
//! What a guest is made of: a kernel image, our module built for it, our
//! init, and an archive of the last two.
//!
//! All of it is kept below the target folder, by the kernel's release.
//! Nothing is installed; what has to be is named with the command that does
//! it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::disks;
use crate::cli::{Failure, folder};

/// The emulator.
pub const QEMU: &str = "qemu-system-x86_64";

/// The module's source.
const MODULE: [(&str, &str); 3] = [
    ("gupdev.c", include_str!("../../on-kernel/module/gupdev.c")),
    ("gupdev.h", include_str!("../../on-kernel/module/gupdev.h")),
    ("Kbuild", include_str!("../../on-kernel/module/Kbuild")),
];

/// Our module without what a debugger needs.
const STRIPPED: &str = "gupdev-stripped.ko";

/// Where init runs.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// A kernel to run.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Choice {
    /// The newest cloud image that Debian has of a series, such as `6.12`.
    Debian(String),
    /// A kernel of one's own.
    Own {
        /// Its image: bzImage or vmlinux.
        image: PathBuf,
        /// The build folder or headers that its modules are built against.
        headers: Option<PathBuf>,
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
    /// Why there is no module, if there is none, and what would get it.
    pub no_module: Option<Failure>,
}

/// Gets everything, or says what is missing. `root` is the workspace. A
/// module that is not `wanted`, or cannot be built, is left out.
///
/// # Errors
/// Names the package or tool that is missing and the command that gets it.
pub fn gather(root: &Path, choice: &Choice, wanted: bool) -> Result<Parts, Failure> {
    emulator_is_there()?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or(root.join("target"), PathBuf::from);
    let cache = target.join("on-kernel");
    let _alone = alone(&cache)?;
    let (release, image, headers) = match choice {
        Choice::Debian(series) => debian(&cache, series)?,
        Choice::Own { image, headers } => own(image, headers.as_deref())?,
    };
    let dir = cache.join(&release);
    let headers = match wanted {
        true => headers,
        false => Err(Failure::new("it was not wanted", "leave out --no-module")),
    };
    let module = headers.and_then(|headers| build_module(&dir.join("module"), &headers));
    let init = build_init(root, &cache)?;
    make_dir(&dir)?;
    let mut files = vec![("init", 0o755, init)];
    // Another guest may want it otherwise.
    let initrd = dir.join(if module.is_ok() { "initrd" } else { "initrd-no-module" });
    let no_module = module.map(|ko| files.push(("gupdev.ko", 0o644, ko))).err();
    let archive = archive(&files).map_err(|e| Failure::new(e, "cargo gup confirm --help"))?;
    if fs::read(&initrd).ok().as_ref() != Some(&archive) {
        write(&initrd, &archive)?;
    }
    let disks = disks::make(&cache)?;
    Ok(Parts { release, image, initrd, disks, no_module })
}

/// Waits until nobody else makes parts there: tests do at once, and two
/// runs of make(1) in one folder take each other's files away.
fn alone(cache: &Path) -> Result<File, Failure> {
    make_dir(cache)?;
    let path = cache.join("lock");
    let next = format!("ls -l {}", path.display());
    let lock = File::create(&path).and_then(|file| file.lock().map(|()| file));
    lock.map_err(|e| Failure::new(format!("{}: {e}", path.display()), next))
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
    let found = emulator_is_there().and_then(|()| releases(series));
    found.and_then(|releases| with_headers(&releases).map(drop)).err()
}

/// Starts the emulator so that it is killed when the thread that starts it is
/// gone, however that comes about. C: PR_SET_PDEATHSIG, prctl(2)
pub(super) fn emulator() -> Command {
    let mut qemu = Command::new("setpriv");
    qemu.args(["--pdeathsig", "KILL", QEMU]);
    qemu
}

fn emulator_is_there() -> Result<(), Failure> {
    let answers = |mut c: Command| c.arg("--version").output().is_ok_and(|o| o.status.success());
    let none = |what, package| {
        Failure::new(format!("{what} is not there"), format!("sudo apt-get install {package}"))
    };
    if !answers(Command::new(QEMU)) {
        return Err(none(QEMU, "qemu-system-x86"));
    }
    match answers(emulator()) {
        true => Ok(()),
        false => Err(none("setpriv --pdeathsig", "util-linux")),
    }
}

/// A kernel: its release, its image, and its headers or why there are none.
type Kernel = (String, PathBuf, Result<PathBuf, Failure>);

fn own(image: &Path, headers: Option<&Path>) -> Result<Kernel, Failure> {
    let next = "cargo gup confirm --help";
    let failed =
        |what: &dyn std::fmt::Display| Failure::new(format!("{}: {what}", image.display()), next);
    let bytes = fs::read(image).map_err(|e| failed(&e))?;
    let release = release_of(&bytes).ok_or_else(|| failed(&"neither a bzImage nor a vmlinux"))?;
    let Some(headers) = headers else {
        let next = "cargo gup confirm --vmlinux FILE --headers FOLDER";
        let none = Failure::new("no --headers, which our module is built against", next);
        return Ok((release, image.into(), Err(none)));
    };
    let file = headers.join("include/config/kernel.release");
    let theirs = fs::read_to_string(&file).map_err(|e| {
        Failure::new(format!("{}: {e}", file.display()), "make modules_prepare in that folder")
    })?;
    if theirs.trim() != release {
        let message = format!("the image is of {release}, the headers of {}", theirs.trim());
        return Err(Failure::new(message, next));
    }
    Ok((release, image.into(), Ok(headers.into())))
}

/// The release that an image says it is. The kernel's
/// Documentation/arch/x86/boot.rst has the header of a bzImage; a vmlinux has
/// its banner.
fn release_of(image: &[u8]) -> Option<String> {
    let text = if image.get(0x202..0x206) == Some(b"HdrS") {
        let at = image.get(0x20e..0x210)?;
        image.get(0x200 + usize::from(u16::from_le_bytes([at[0], at[1]]))..)?
    } else if image.starts_with(b"\x7fELF") {
        const BANNER: &[u8] = b"Linux version ";
        let at = image.windows(BANNER.len()).position(|w| w == BANNER)?;
        &image[at + BANNER.len()..]
    } else {
        return None;
    };
    let end = text.iter().position(|&b| b == b' ' || b == 0)?;
    String::from_utf8(text[..end].into()).ok()
}

// ---- Debian's packages ----

/// The newest image of a series whose headers are here, or without those the
/// newest; downloads it once.
fn debian(cache: &Path, series: &str) -> Result<Kernel, Failure> {
    let releases = releases(series)?;
    let (release, headers) = match with_headers(&releases) {
        Ok(release) => (release, Ok(headers(release))),
        Err(none) => (&releases[0], Err(none)),
    };
    let image = cache.join(release).join("vmlinuz");
    if !image.exists() {
        download(&cache.join(release), release)?;
    }
    Ok((release.clone(), image, headers))
}

fn headers(release: &str) -> PathBuf {
    format!("/usr/src/linux-headers-{release}").into()
}

/// The newest of these releases whose headers are here.
fn with_headers(releases: &[String]) -> Result<&String, Failure> {
    let built = |release: &&String| headers(release).join("Makefile").exists();
    releases.iter().find(built).ok_or_else(|| {
        Failure::new(
            format!("no headers of {}, which our module is built against", releases[0]),
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
            // What was built of the old text.
            fs::remove_file(dir.join(STRIPPED)).ok();
            write(&file, text.as_bytes())?;
        }
    }
    let ko = dir.join(STRIPPED);
    if !ko.exists() {
        let (headers, m) = (headers.display(), format!("M={}", dir.display()));
        let next = format!("make -C {headers} {m} modules");
        let mut make = Command::new("make");
        make.args(["-s", "-C", &headers.to_string(), &m, "modules"]);
        run(&mut make, &next)?;
        // Whole or not there, should we be killed.
        let (built, part) = (dir.join("gupdev.ko"), dir.join("gupdev.part"));
        let next = format!("strip -d {}", built.display());
        run(Command::new("strip").arg("-d").arg("-o").args([&part, &built]), &next)?;
        fs::rename(&part, &ko).map_err(|e| Failure::new(e, next))?;
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

/// A guest that reads the old file goes on reading it.
fn write(file: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let next = format!("ls -l {}", file.display());
    folder::write(file, bytes).map_err(|e| Failure::new(format!("{}: {e}", file.display()), next))
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
    fn parts_are_made_by_one_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let cache = dir.path().join("on-kernel");
        let first = alone(&cache).unwrap();
        let second = File::open(cache.join("lock")).unwrap();
        assert!(second.try_lock().is_err());
        drop(first);
        second.try_lock().unwrap();
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
        let none = own(Path::new("no-such-image"), None).unwrap_err();
        assert!(none.message.contains("no-such-image"), "{none:?}");
        let failed = run(&mut Command::new("no-such-tool"), "get it").unwrap_err();
        assert_eq!(failed.next, "get it");
        let failed = run(Command::new("sh").args(["-c", "echo why >&2; exit 3"]), "x").unwrap_err();
        assert!(failed.message.contains("why"), "{failed:?}");
    }

    #[test]
    fn headers_that_are_not_there_are_named() {
        let none = with_headers(&["6.12.999-cloud-amd64".into()]).unwrap_err();
        assert!(none.message.contains("no headers of 6.12.999-cloud-amd64"), "{none:?}");
        assert_eq!(none.next, "sudo apt-get install linux-headers-6.12.999-cloud-amd64");
    }

    #[test]
    fn an_image_says_which_release_it_is() {
        let mut bzimage = vec![0; 0x300];
        bzimage[0x202..0x206].copy_from_slice(b"HdrS");
        bzimage[0x20e..0x210].copy_from_slice(&0x40u16.to_le_bytes());
        bzimage[0x240..0x250].copy_from_slice(b"6.14.0-rc1+ (me)");
        assert_eq!(release_of(&bzimage).as_deref(), Some("6.14.0-rc1+"));
        bzimage[0x20f] = 0xff;
        assert_eq!(release_of(&bzimage), None);
        let vmlinux = b"\x7fELF ... Linux version 6.1.192 (gcc) ...";
        assert_eq!(release_of(vmlinux).as_deref(), Some("6.1.192"));
        for other in [&b""[..], b"\x7fELF Linux version 6", b"#! Linux version 6.1 "] {
            assert_eq!(release_of(other), None);
        }
    }

    #[test]
    fn headers_must_be_those_of_the_image() {
        let dir = tempfile::tempdir().unwrap();
        let image = dir.path().join("vmlinux");
        write(&image, b"\x7fELF Linux version 6.12.1 (gcc)").unwrap();
        let (release, _, headers) = own(&image, None).unwrap();
        assert_eq!(release, "6.12.1");
        assert!(headers.unwrap_err().next.contains("--headers"));
        let none = own(&image, Some(dir.path())).unwrap_err();
        assert!(none.next.contains("modules_prepare"), "{none:?}");
        let config = dir.path().join("include/config");
        make_dir(&config).unwrap();
        for (theirs, fit) in [("6.12.1\n", true), ("6.12.2\n", false)] {
            write(&config.join("kernel.release"), theirs.as_bytes()).unwrap();
            assert_eq!(own(&image, Some(dir.path())).is_ok(), fit, "{theirs}");
        }
    }
}
