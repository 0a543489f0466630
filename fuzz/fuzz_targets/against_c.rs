// SPDX-License-Identifier: GPL-2.0-only
#![cfg_attr(fuzzing, no_main)]
//! See [`gup_fuzz::targets::sequence`].

use gup_fuzz::scenario::Scenario;
use gup_fuzz::targets;

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|s: Scenario| targets::sequence(&s));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    targets::replay_files(|bytes| targets::sequence(&Scenario::decode(bytes)))
}
