// SPDX-License-Identifier: GPL-2.0-only
//! Where in the C a step was taken.
//!
//! While sites are kept, each step of a call can be traced to its function
//! and line. It costs a few nanoseconds a step and memory, so it is for
//! printing, not for fuzzing.

use core::cell::{Cell, RefCell};
use core::ffi::c_void;

use gup_core::model::Cpu;

thread_local! {
    static KEEP: Cell<bool> = const { Cell::new(false) };
    static SITES: RefCell<Vec<Site>> = const { RefCell::new(Vec::new()) };
}

unsafe extern "C-unwind" {
    safe fn shim_pc() -> *const c_void;
}

/// From some step of the op on, the C was here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Site {
    /// The number of the step within the op, from 0.
    pub step: u32,
    pc: usize,
}

/// Whether sites are kept from now on, on this thread. Forgets what was kept.
pub fn keep(on: bool) {
    KEEP.set(on);
    SITES.with_borrow_mut(Vec::clear);
}

/// What was kept, in the order of the steps.
pub fn kept() -> Vec<Site> {
    SITES.with_borrow(Clone::clone)
}

/// A call of the C into the model begins.
#[inline]
pub(crate) fn note(cpu: &Cpu) {
    if KEEP.get() {
        let site = Site { step: cpu.steps_taken(), pc: shim_pc() as usize };
        SITES.with_borrow_mut(|sites| sites.push(site));
    }
}

impl Site {
    /// `gup_fast_pte_range() mm/gup.c:2873`, as the debug information has it.
    pub fn describe(&self) -> String {
        let mut found = String::from("?");
        // The return address is behind the call.
        backtrace::resolve((self.pc - 1) as *mut c_void, |symbol| {
            let name = symbol.name().map(|n| n.to_string()).unwrap_or_default();
            let file = symbol.filename().map(|f| f.display().to_string()).unwrap_or_default();
            let short = file.rfind("/mm/").or_else(|| file.rfind("/include/"));
            let file = short.map_or(&*file, |at| &file[at + 1..]);
            found = format!("{name}() {file}:{}", symbol.lineno().unwrap_or_default());
        });
        found
    }
}
