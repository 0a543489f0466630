// SPDX-License-Identifier: GPL-2.0-only
//! The port of mm/gup.c: one folder for each base text, whole functions, in
//! the file's order.
//!
//! How to read it beside the C:
//!
//! * Names are the kernel's. `cpu` is the CPU the code runs on; the kernel
//!   reaches it through `current` and per-CPU variables.
//! * `struct page *` that may be NULL or an ERR_PTR is
//!   `Result<Option<Page>, Errno>`; a `long` count is `Result<usize, Errno>`.
//! * Every access to shared state is one call of a model primitive, which is
//!   one step; barriers are inside the primitives, as in the kernel.
//! * `// PORT:` marks a difference from the C.
//! * `if cpu.has(Defect::X)` marks a statement at which kernels differ. With
//!   all defects off the text is the fixed kernel's.

pub mod v5_15;
pub mod v6_12;
