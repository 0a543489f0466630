// SPDX-License-Identifier: GPL-2.0-only
#![cfg_attr(fuzzing, no_main)]
//! See [`gup_fuzz::targets::race`].

use gup_fuzz::scenario::Scenario;
use gup_fuzz::targets;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|s: Scenario| targets::race(&s));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    targets::replay_files(|bytes| targets::race(&Scenario::decode(bytes)))
}
