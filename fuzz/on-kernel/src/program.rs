// SPDX-License-Identifier: GPL-2.0-only
//! Runs a program that came with the guest: the C form of a reproducer.

use std::io::{BufRead, BufReader};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use gup_fuzz::on_kernel::wire::{Answer, Line};

use crate::files::DISK;
use crate::kmsg::Kmsg;

/// Runs it, and says what it and the kernel printed and how it ended: its
/// exit status, or 128 and the signal. It ends by itself, as its alarm does.
pub fn run(name: &str, say: &mut dyn FnMut(Line)) -> std::io::Result<()> {
    let mut kmsg = Kmsg::open()?;
    let (out, end) = std::io::pipe()?;
    // On ext4, where there is a disk.
    let folder = if Path::new(DISK).exists() { DISK } else { "/" };
    let mut command = Command::new(format!("/{name}"));
    let mut child = command.current_dir(folder).stdout(end.try_clone()?).stderr(end).spawn()?;
    drop(command);
    for line in BufReader::new(out).lines() {
        say(Line::Printed(line?));
    }
    let status = child.wait()?;
    let code = status.code().or(status.signal().map(|s| 128 + s)).unwrap_or(-1);
    say(Line::Answer(0, Answer::Returned(code.into())));
    kmsg.pass_on(say);
    say(Line::End);
    Ok(())
}
