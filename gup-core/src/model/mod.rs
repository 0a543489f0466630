// SPDX-License-Identifier: GPL-2.0-only
//! Just enough kernel for mm/gup.c to run in.
//!
//! Every file opens by saying what in it is *Duplicated* (follows the
//! kernel's rules exactly), *Customised* (simplified, and how) and *Stubbed*
//! (does nothing). Everything shared lives in a [`World`]; everything a CPU
//! has for itself (the current task, interrupts, failure injection, the
//! record of steps) lives in a [`Cpu`]. Functions carry the names of the
//! kernel functions they stand for and take the CPU they run on.

mod compare;
pub mod cpu;
pub mod fault;
pub mod filemap;
pub mod folio;
pub mod fork;
pub mod huge_memory;
pub mod hugetlb;
pub mod khugepaged;
pub mod ksm;
pub mod limits;
pub mod lru;
pub mod memory;
pub mod migrate;
pub mod mm;
pub mod mmap;
pub mod numa;
pub mod page;
pub mod pgtable;
pub mod pipe;
pub mod reclaim;
pub mod rmap;
pub mod soft_dirty;
pub mod swap;
pub mod vmstat;
pub mod wait;
pub mod world;
pub mod zone;

pub use cpu::Cpu;
pub use folio::Folio;
pub use limits::Limits;
pub use page::Page;
pub use wait::Wait;
pub use world::World;
