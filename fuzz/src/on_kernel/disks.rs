// SPDX-License-Identifier: GPL-2.0-only
//! The guest's disks: one with a file system that tracks dirty pages, and one
//! for swap. Images are made once and never written to: what a guest writes
//! is gone with it.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::parts::run;
use crate::cli::Failure;

/// Bytes of the disk with the file system; a scenario has one file of 2 MiB.
const FILES: u64 = 32 << 20;
/// Bytes for swap: more than twice what scenarios use, or the kernel hurries
/// to give it back.
const SWAP: u64 = 256 << 20;
/// The page size.
const PAGE: u64 = 4096;

/// The images, in the order of their namespaces. `cache` exists.
///
/// # Errors
/// Names what is missing.
pub fn make(cache: &Path) -> Result<[PathBuf; 2], Failure> {
    let images = [cache.join("files.ext4"), cache.join("swap")];
    image(&images[0], FILES, ext4)?;
    image(&images[1], SWAP, |file, _| {
        let header = swap_header();
        header.iter().try_for_each(|(at, bytes)| file.write_all_at(bytes, *at)).map_err(Into::into)
    })?;
    Ok(images)
}

/// Makes an image if it is not there; it is whole or not there.
fn image(
    path: &Path,
    size: u64,
    fill: impl FnOnce(&File, &Path) -> Result<(), Box<dyn std::error::Error>>,
) -> Result<(), Failure> {
    if path.exists() {
        return Ok(());
    }
    let part = path.with_extension(format!("{}.part", std::process::id()));
    let made = File::create(&part)
        .map_err(Into::into)
        .and_then(|file| file.set_len(size).map_err(Into::into).and_then(|()| fill(&file, &part)))
        .and_then(|()| std::fs::rename(&part, path).map_err(Into::into));
    made.map_err(|e| {
        Failure::new(format!("{}: {e}", path.display()), "sudo apt-get install e2fsprogs")
    })
}

/// ext4 without a journal: nothing happens there by itself.
fn ext4(_: &File, path: &Path) -> Result<(), Box<dyn std::error::Error>> {
    let options = ["-q", "-F", "-t", "ext4", "-b", "4096", "-O", "^has_journal"];
    let mut mke2fs = Command::new("/sbin/mke2fs");
    mke2fs.args(options).args(["-E", "lazy_itable_init=0"]).arg(path);
    run(&mut mke2fs, "").map_err(|e| e.message.into())
}

/// What mkswap(8) writes, and where. C: union swap_header, linux/swap.h
fn swap_header() -> [(u64, Vec<u8>); 2] {
    let (version, last_page) = (1u32, (SWAP / PAGE) as u32 - 1);
    let info = [version.to_le_bytes(), last_page.to_le_bytes()].concat();
    [(1024, info), (PAGE - 10, b"SWAPSPACE2".into())]
}

/// How QEMU is told of them: two namespaces of one NVMe controller, of which
/// stock kernels have the driver built in.
pub fn arguments(images: &[PathBuf; 2]) -> Vec<String> {
    let mut all = vec!["-device".into(), "nvme,serial=gup".into()];
    for (i, image) in (1..).zip(images) {
        // A comma in a value is written twice.
        let file = image.display().to_string().replace(',', ",,");
        all.extend([
            "-drive".into(),
            format!("if=none,id=disk{i},format=raw,snapshot=on,file={file}"),
        ]);
        all.extend(["-device".into(), format!("nvme-ns,drive=disk{i},nsid={i}")]);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_is_made_once_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("swap");
        assert!(image(&path, 4096, |_, _| Err("no".into())).is_err());
        assert!(!path.exists());
        image(&path, 8192, |file, _| file.write_all_at(b"x", 5).map_err(Into::into)).unwrap();
        image(&path, 1, |_, _| Err("again".into())).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!((bytes.len(), bytes[5]), (8192, b'x'));
    }

    #[test]
    fn a_comma_in_a_path_does_not_end_it() {
        let all = arguments(&["a,b".into(), "c".into()]).join(" ");
        assert!(all.contains("file=a,,b ") && all.contains("nvme-ns,drive=disk2,nsid=2"), "{all}");
    }
}
