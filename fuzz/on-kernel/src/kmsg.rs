// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel prints.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;

use gup_fuzz::on_kernel::wire::Line;

/// Lines that are passed on at a time.
const MAX_LINES: usize = 16;

/// The kernel's log, from now on.
pub struct Kmsg(File);

impl Kmsg {
    /// Opens it. What was printed before is passed over.
    pub fn open() -> std::io::Result<Kmsg> {
        let mut log =
            File::options().read(true).custom_flags(libc::O_NONBLOCK).open("/dev/kmsg")?;
        while log.read(&mut [0; 8192]).is_ok_and(|n| n > 0) {}
        Ok(Kmsg(log))
    }

    /// Passes on what was printed as a warning or worse.
    pub fn pass_on(&mut self, say: &mut dyn FnMut(Line)) {
        let mut record = [0; 8192];
        let mut lines = 0;
        while let Ok(n) = self.0.read(&mut record) {
            let text = String::from_utf8_lossy(&record[..n]);
            let Some((head, text)) = text.split_once(';') else { continue };
            let level = head.split(',').next().and_then(|n| n.parse::<u32>().ok()).unwrap_or(7);
            lines += 1;
            if level & 7 <= 4 && lines <= MAX_LINES {
                say(Line::Kernel(text.lines().next().unwrap_or("").into()));
            }
        }
    }
}
