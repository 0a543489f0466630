// SPDX-License-Identifier: GPL-2.0-only
//! Pipes that hold user pages.
//!
//! Duplicated: tee(2) takes one more reference on a page whose reference the
//! pipe holds already. Stubbed: everything else of a pipe.

use super::cpu::Cpu;
use super::page::{Page, try_get_page};

/// Takes another reference on the page of a pipe buffer; false if the page
/// refuses. Runs in process context, with nothing locked but the pipe.
/// C: generic_pipe_buf_get(), fs/pipe.c
pub fn generic_pipe_buf_get(cpu: &Cpu, page: Page) -> bool {
    try_get_page(cpu, page)
}
