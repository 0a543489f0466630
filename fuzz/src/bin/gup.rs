// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup`: see [`gup_fuzz::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    gup_fuzz::cli::main()
}
