// SPDX-License-Identifier: GPL-2.0-only
#![cfg_attr(fuzzing, no_main)]
//! See [`gup_fuzz::targets::text`].

use gup_fuzz::targets;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| targets::text(bytes));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    targets::replay_files(targets::text)
}
