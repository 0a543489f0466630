// SPDX-License-Identifier: GPL-2.0-only
//! Loads and stores that may fault.
//!
//! A store where nothing may be stored ends in SIGSEGV or SIGBUS. The handler
//! does what the kernel does with its exception table: it looks where the
//! access happened, and goes on elsewhere.

use std::arch::global_asm;

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};

global_asm!(
    ".globl touch_store, touch_load, touch_faulted",
    // extern "C" fn(addr: rdi, token: rsi) -> bool
    "touch_store:",
    "mov qword ptr [rdi], rsi",
    "mov eax, 1",
    "ret",
    // extern "C" fn(addr: rdi) -> bool
    "touch_load:",
    "mov rax, qword ptr [rdi]",
    "mov eax, 1",
    "ret",
    "touch_faulted:",
    "xor eax, eax",
    "ret",
);

unsafe extern "C" {
    fn touch_store(addr: u64, token: u64) -> bool;
    fn touch_load(addr: u64) -> bool;
    fn touch_faulted() -> bool;
}

extern "C" fn handler(signal: i32, _: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: the kernel passes the context of what was interrupted, and
    // nobody else uses it meanwhile.
    let context = unsafe { &mut *context.cast::<libc::ucontext_t>() };
    let rip = &mut context.uc_mcontext.gregs[libc::REG_RIP as usize];
    let at = *rip as usize;
    if at == touch_store as *const () as usize || at == touch_load as *const () as usize {
        *rip = touch_faulted as *const () as usize as i64;
    } else {
        // SAFETY: _exit() may be called in a handler.
        unsafe { libc::_exit(128 + signal) }
    }
}

/// From now on [`store`] and [`load`] may be used in this process and in what
/// it forks.
pub fn catch_faults() {
    let action = SigAction::new(
        SigHandler::SigAction(handler),
        SaFlags::SA_SIGINFO | SaFlags::SA_NODEFER,
        SigSet::empty(),
    );
    for signal in [Signal::SIGSEGV, Signal::SIGBUS] {
        // SAFETY: the handler changes the interrupted context only where that
        // is the first instruction of one of ours, with nothing on the stack
        // but the return address.
        unsafe { sigaction(signal, &action) }.ok();
    }
}

/// Stores to the first eight bytes of a page of the scenario; false if that
/// ends in a signal.
pub fn store(addr: u64, token: u64) -> bool {
    // SAFETY: `addr` lies in the part of the address space that belongs to
    // the scenario, where nothing of ours is; a fault is caught.
    unsafe { touch_store(addr, token) }
}

/// Loads them.
pub fn load(addr: u64) -> bool {
    // SAFETY: as in `store`.
    unsafe { touch_load(addr) }
}
