// SPDX-License-Identifier: GPL-2.0-only
//! `cargo gup`: see [`gup_fuzz::cli`].
#![cfg_attr(fuzzing, no_main)]

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    gup_fuzz::cli::main()
}

// `cargo fuzz build` links every binary of the package with libFuzzer, which
// brings a main of its own. As a target this one does nothing: what it costs
// is what libFuzzer costs.
#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|_bytes: &[u8]| {});
