// SPDX-License-Identifier: GPL-2.0-only
//! NUMA nodes, which is how user space says where memory comes from: nodes 0
//! and 1 have movable memory, 2 and 3 have none. Processes run on node 0.

use std::ffi::{c_long, c_void};

use gup_core::model::zone::Prefer;
use gup_fuzz::on_kernel::wire::Answer;
use nix::errno::Errno;

/// C: linux/mempolicy.h
const MPOL_DEFAULT: c_long = 0;
const MPOL_PREFERRED: c_long = 1;
const MPOL_MF_MOVE_ALL: c_long = 1 << 2;

/// The first node of a kind, and the other: a page moves from one to the
/// other.
fn nodes(prefer: Prefer) -> [i32; 2] {
    if prefer == Prefer::Normal { [2, 3] } else { [0, 1] }
}

/// From now on this process gets movable allocations there.
/// C: set_mempolicy(2)
pub fn set_preference(prefer: Prefer) -> nix::Result<()> {
    let [node, _] = nodes(prefer);
    let mask: u64 = 1 << node;
    let policy = if node == 0 { MPOL_DEFAULT } else { MPOL_PREFERRED };
    let (mask, bits) = if node == 0 { (std::ptr::null(), 0) } else { (&raw const mask, 64) };
    // SAFETY: the kernel reads 64 bits of `mask` at most.
    Errno::result(unsafe { libc::syscall(libc::SYS_set_mempolicy, policy, mask, bits) }).map(drop)
}

/// Moves the folios at these addresses of this process to another node.
/// C: move_pages(2)
pub fn migrate(addrs: &[u64], prefer: Prefer) -> Answer {
    let [node, other] = nodes(prefer);
    let from = match move_pages(addrs, None) {
        Ok((_, from)) => from,
        Err(e) => return Answer::Failed(e as i32),
    };
    let to: Vec<i32> = from.iter().map(|&n| if n == node { other } else { node }).collect();
    match move_pages(addrs, Some(&to)) {
        Err(e) => Answer::Failed(e as i32),
        // So many were isolated and could not be moved.
        Ok((1.., _)) => Answer::Failed(libc::EBUSY),
        Ok((_, status)) => match status.iter().find(|&&s| s < 0) {
            Some(e) => Answer::Failed(-e),
            None => Answer::Done,
        },
    }
}

/// What the call returned, and the status of each page. Without nodes it only
/// asks where they are.
fn move_pages(addrs: &[u64], to: Option<&[i32]>) -> nix::Result<(c_long, Vec<i32>)> {
    let mut status = vec![-libc::EBUSY; addrs.len()];
    let to = to.map_or(std::ptr::null(), <[i32]>::as_ptr);
    // SAFETY: the kernel reads `addrs` and `to` and writes `status`, which
    // are as long; the addresses are not followed.
    let moved = unsafe {
        libc::syscall(
            libc::SYS_move_pages,
            0,
            addrs.len(),
            addrs.as_ptr(),
            to.cast::<c_void>(),
            status.as_mut_ptr(),
            MPOL_MF_MOVE_ALL,
        )
    };
    Errno::result(moved).map(|n| (n, status))
}
