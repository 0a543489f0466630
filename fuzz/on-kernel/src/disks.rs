// SPDX-License-Identifier: GPL-2.0-only
//! The disks: one with a file system, one for swap.

use std::ffi::CString;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::mount::{MsFlags, mount};

use crate::files::DISK;

/// The longest that a disk takes to show up, on a busy machine.
const WAIT: Duration = Duration::from_secs(20);

/// Mounts the first and swaps to the second. What is missing shows when an
/// op needs it.
pub fn attach() {
    if !Path::new("/sys/module/nvme").exists() {
        return;
    }
    let (Some(files), Some(swap)) = (wait_for(1), wait_for(2)) else { return };
    // As in the model, a fault reads one page.
    fs::write(format!("/sys/block/{files}/queue/read_ahead_kb"), "0").ok();
    // A disk that has not written anything yet has no share of the dirty
    // pages that may be: its first one would be written back at once.
    // C: domain_over_bg_thresh()
    fs::write(format!("/sys/block/{files}/bdi/min_ratio"), "50").ok();
    let source = format!("/dev/{files}");
    let (noatime, ext4) = (MsFlags::MS_NOATIME, Some("ext4"));
    // Without the disk there must be no folder either, which would be a
    // place for files of another kind.
    if fs::create_dir(DISK).is_ok()
        && mount(Some(source.as_str()), DISK, ext4, noatime, None::<&str>).is_err()
    {
        fs::remove_dir(DISK).ok();
    }
    if let Ok(path) = CString::new(format!("/dev/{swap}")) {
        // SAFETY: a path that ends in NUL.
        unsafe { libc::swapon(path.as_ptr(), 0) };
    }
}

/// The disk that is this namespace. They get their names in the order in
/// which they happen to be found.
fn wait_for(nsid: u32) -> Option<&'static str> {
    let is_it = |disk: &&str| {
        let said = fs::read_to_string(format!("/sys/block/{disk}/nsid"));
        said.is_ok_and(|n| n.trim() == nsid.to_string())
            && Path::new(&format!("/dev/{disk}")).exists()
    };
    let start = Instant::now();
    while start.elapsed() < WAIT {
        let found = ["nvme0n1", "nvme0n2"].into_iter().find(is_it);
        if found.is_some() {
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    None
}

/// Waits until nothing is being written any more. C: NR_WRITEBACK
pub fn wait_for_writeback() -> nix::Result<()> {
    loop {
        // What CPUs have counted is added up.
        fs::write("/proc/sys/vm/stat_refresh", "1").ok();
        let text = fs::read_to_string("/proc/vmstat").map_err(|_| Errno::EIO)?;
        if text.lines().any(|l| l == "nr_writeback 0") {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
}
