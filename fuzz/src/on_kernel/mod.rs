// SPDX-License-Identifier: GPL-2.0-only
//! The same scenarios on a kernel in a QEMU guest, beside the model.
//!
//! * [`parts`]: what a guest is made of, and how to get what is missing.
//! * [`disks`]: its disks.
//! * [`machine`]: a guest that runs, and dies.
//! * [`wire`]: what it is told and what it says.
//! * [`express`]: which ops user space and a module can bring about.
//! * [`freedom`]: differences that say nothing against the model.
//! * [`program`]: a reproducer in C there.
//! * [`compare`]: a guest's run beside the model's; [`table`] prints both.
//!
//! # One world in the other
//!
//! The model's page tables have 8 entries, the kernel's 512. A scenario
//! without huge pages runs one page for one page, from the start of a PMD
//! on. In one with huge pages each page of the model is a run of
//! [`express::THP_SCALE`] pages of the guest: a THP of 8 pages is one of 512,
//! every boundary stays where it was, and every range stays one range. Counts
//! of pages, and all that is counted for each page (pins and gets of a THP,
//! its PTEs), are that many times as large; what is counted for a PMD is not.
//! Pages of a run that differ from each other are a difference by themselves.
//!
//! The guest drains the LRU batches before it looks, so the model does so
//! after every op, too. Not compared: frame numbers, which zone among those
//! that are not movable, page flags but those below, what raw frame numbers
//! lead to, and DEBUG_VM's checks, which stock kernels do without.

pub mod compare;
pub mod disks;
pub mod express;
pub mod freedom;
pub mod machine;
pub mod parts;
pub mod program;
pub mod table;
pub mod wire;
