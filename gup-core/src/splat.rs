// SPDX-License-Identifier: GPL-2.0-only
//! What the kernel would have printed: WARN and BUG, recorded.

use core::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SplatKind {
    /// WARN_ON and its relatives: the kernel goes on.
    Warn,
    /// BUG_ON, VM_BUG_ON, bad page state: the kernel would have stopped the
    /// task. The port goes on, so that the harness can look around.
    Bug,
}

/// One message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Splat {
    /// WARN or BUG.
    pub kind: SplatKind,
    /// The function that the kernel's message would name.
    pub function: &'static str,
    /// The condition, in words.
    pub what: &'static str,
    /// Steps that the op had taken before.
    pub step: u32,
}

impl fmt::Display for Splat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self.kind {
            SplatKind::Warn => "WARNING",
            SplatKind::Bug => "BUG",
        };
        write!(f, "{kind} in {}(): {}", self.function, self.what)
    }
}
