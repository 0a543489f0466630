// SPDX-License-Identifier: GPL-2.0-only
#![cfg_attr(fuzzing, no_main)]
//! See [`gup_fuzz::targets::against_c`].

use gup_fuzz::scenario::Scenario;
use gup_fuzz::targets;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|s: Scenario| targets::against_c(&s));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    targets::replay_files(|bytes| targets::against_c(&Scenario::decode(bytes)))
}
