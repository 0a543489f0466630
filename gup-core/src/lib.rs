// SPDX-License-Identifier: GPL-2.0-only
//! The pin logic of Linux mm/gup.c, ported function by function, and a small
//! model of the kernel for it to run in.
//!
//! * [`gup`] is the port. Every function cites its C original; where it
//!   differs, a `PORT:` comment says how.
//! * [`model`] is just enough kernel around it: page frames, zones, page
//!   tables, faults, COW, fork, migration.
//! * [`history`] is the table of what kernels differ on. A [`Kernel`] is a
//!   value, so one build runs them all.
//! * [`invariants`] are the rules that a world at rest obeys.
//!
//! A call, start to end:
//!
//! ```
//! use gup_core::flags::Foll;
//! use gup_core::gup::v5_15::{pin_user_pages, unpin_user_pages};
//! use gup_core::model::mm::{mmap_read_lock, mmap_read_unlock, MmId};
//! use gup_core::model::mmap::{mm_alloc, mmap, Kind, Prot};
//! use gup_core::model::{Cpu, Limits, Page, World};
//!
//! let world = World::new(Limits::FUZZ);
//! let cpu = Cpu::new(&world, "v5.15 fixed".parse().unwrap(), 0);
//! let mm = MmId(0);
//! mm_alloc(&cpu, mm).unwrap();
//! mmap(&cpu, mm, 0x0, 1, Prot::ReadWrite, Kind::Anon).unwrap();
//!
//! let mut pages = [Page::UNSET];
//! mmap_read_lock(&cpu, mm);
//! let n = pin_user_pages(&cpu, 0x0, 1, Foll::WRITE | Foll::LONGTERM, Some(&mut pages), None);
//! mmap_read_unlock(&cpu, mm);
//! assert_eq!(n, Ok(1));
//! unpin_user_pages(&cpu, &pages, Ok(1));
//! ```
#![deny(missing_docs)]

pub mod atomic;
pub mod errno;
pub mod flags;
pub mod gup;
pub mod history;
pub mod invariants;
pub mod model;
#[cfg(loom)]
pub mod mutant;
pub mod splat;
pub mod step;
pub mod sync;

pub use errno::Errno;
pub use history::Kernel;
