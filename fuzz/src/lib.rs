// SPDX-License-Identifier: GPL-2.0-only
//! The harness around gup-core.
//!
//! * [`scenario`]: ops, the one vocabulary of everything here.
//! * [`exec`]: runs a scenario in a world and keeps the ledger.
//! * [`oracles`]: rules that must hold whatever the scenario.
//! * [`generators`]: scenarios that tend to get somewhere.
//! * [`repro`]: scenarios as text, the minimiser, the report.
//! * [`targets`]: what the fuzz targets share.
//! * [`on_kernel`]: the same scenarios on a kernel in a QEMU guest.
//! * [`cli`]: the verbs of `cargo gup`.

pub mod cli;
pub mod exec;
pub mod generators;
pub mod on_kernel;
pub mod oracles;
#[cfg(feature = "real-gup")]
pub mod real;
pub mod repro;
pub mod scenario;
pub mod subject;
pub mod targets;
