// SPDX-License-Identifier: GPL-2.0-only
//! What runs in the world: the port, or something else with the same calls.

use std::sync::OnceLock;

use clap::ValueEnum;
use gup_core::Errno;
use gup_core::flags::Foll;
use gup_core::history::{Base, Kernel};
use gup_core::model::folio::Folio;
use gup_core::model::mm::Vma;
use gup_core::model::{Cpu, Page};

use crate::scenario::{Call, CallOp, CallResult, Unpin, What};

/// The arrays and pointers that go with a call.
#[derive(Debug)]
pub struct Args<'a> {
    /// Receives the pages; `None` where the op says `nopages`.
    pub pages: Option<&'a mut [Page]>,
    /// Receives the VMAs, where the call has such an argument.
    pub vmas: Option<&'a mut [Vma]>,
    /// Whether mmap_lock is still held, for the calls that may drop it.
    pub locked: Option<&'a mut bool>,
}

/// An implementation of mm/gup.c. The same scenarios run on it, judged by
/// the same oracles.
pub trait Subject {
    /// One of the twelve calls. mmap_lock is held where the call wants it.
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult;
    /// Gives pins back.
    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]);
    /// A further pin on the folio of each page.
    fn add_pin(&self, cpu: &Cpu, pages: &[Page]);
    /// Whether it has no such call although the base has.
    fn lacks(&self, _what: &What) -> bool {
        false
    }
}

/// The port in gup-core.
#[derive(Clone, Copy, Debug, Default)]
pub struct Port;

/// Gives pins back through the functions of a text that take pages.
macro_rules! unpin_pages {
    ($gup:path, $cpu:expr, $how:expr, $pages:expr) => {{
        use $gup as gup;
        let (cpu, how, pages): (&Cpu, Unpin, &[Page]) = ($cpu, $how, $pages);
        match how {
            Unpin::Page => pages.iter().for_each(|&p| gup::unpin_user_page(cpu, p)),
            Unpin::Pages => gup::unpin_user_pages(cpu, pages, Ok(pages.len())),
            Unpin::DirtyLock => gup::unpin_user_pages_dirty_lock(cpu, pages, true),
            Unpin::PagesClean => gup::unpin_user_pages_dirty_lock(cpu, pages, false),
            Unpin::PagesError => gup::unpin_user_pages(cpu, pages, Err(Errno::ENOMEM)),
            Unpin::RangeDirtyLock | Unpin::RangeClean => {
                for run in runs(pages) {
                    let make_dirty = how == Unpin::RangeDirtyLock;
                    gup::unpin_user_page_range_dirty_lock(cpu, run[0], run.len(), make_dirty);
                }
            }
            // The executor skips what the base does not have.
            Unpin::Folio | Unpin::Folios | Unpin::UserFolio | Unpin::FoliosError => {}
        }
    }};
}

/// The same of a text that also has functions that take folios.
macro_rules! unpin {
    ($gup:path, $cpu:expr, $how:expr, $pages:expr) => {{
        use $gup as of_folios;
        let (cpu, pages): (&Cpu, &[Page]) = ($cpu, $pages);
        let all = || folios(cpu, pages).collect::<Vec<Folio>>();
        match $how {
            Unpin::Folio => all().into_iter().for_each(|f| of_folios::unpin_folio(cpu, f)),
            Unpin::Folios => of_folios::unpin_folios(cpu, &all(), Ok(pages.len())),
            Unpin::UserFolio => {
                for run in all().chunk_by(|a, b| a == b) {
                    of_folios::unpin_user_folio(cpu, run[0], run.len());
                }
            }
            Unpin::FoliosError => of_folios::unpin_folios(cpu, &all(), Err(Errno::ENOMEM)),
            how => unpin_pages!($gup, cpu, how, pages),
        }
    }};
}

impl Subject for Port {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        match cpu.kernel.base() {
            Base::V5_15 => call_v5_15(cpu, op, args),
            Base::V6_12 => call_v6_12(cpu, op, args),
        }
    }

    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        match cpu.kernel.base() {
            Base::V5_15 => unpin_pages!(gup_core::gup::v5_15, cpu, how, pages),
            Base::V6_12 => unpin!(gup_core::gup::v6_12, cpu, how, pages),
        }
    }

    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        folios(cpu, pages).for_each(|folio| gup_core::gup::v6_12::folio_add_pin(cpu, folio));
    }
}

fn call_v5_15(cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
    use gup_core::gup::v5_15 as gup;
    let (mm, start, nr) = (op.range.mm, op.range.addr(), usize::from(op.range.pages));
    let Args { pages, vmas, locked } = args;
    let flags: Foll = op.flags;
    match op.call {
        Call::GetUserPages => gup::get_user_pages(cpu, start, nr, flags, pages, vmas),
        Call::GetUserPagesLocked => {
            gup::get_user_pages_locked(cpu, start, nr, flags, pages, locked)
        }
        Call::GetUserPagesUnlocked => gup::get_user_pages_unlocked(cpu, start, nr, pages, flags),
        Call::GetUserPagesRemote => {
            gup::get_user_pages_remote(cpu, mm, start, nr, flags, pages, vmas, locked)
        }
        Call::PinUserPages => gup::pin_user_pages(cpu, start, nr, flags, pages, vmas),
        Call::PinUserPagesLocked => {
            gup::pin_user_pages_locked(cpu, start, nr, flags, pages, locked)
        }
        Call::PinUserPagesUnlocked => gup::pin_user_pages_unlocked(cpu, start, nr, pages, flags),
        Call::PinUserPagesRemote => {
            gup::pin_user_pages_remote(cpu, mm, start, nr, flags, pages, vmas, locked)
        }
        Call::GetUserPagesFast => {
            gup::get_user_pages_fast(cpu, start, nr, flags, pages.unwrap_or_default())
        }
        Call::PinUserPagesFast => {
            gup::pin_user_pages_fast(cpu, start, nr, flags, pages.unwrap_or_default())
        }
        Call::GetUserPagesFastOnly => {
            Ok(gup::get_user_pages_fast_only(cpu, start, nr, flags, pages.unwrap_or_default()))
        }
        Call::PinUserPagesFastOnly => {
            Ok(gup::pin_user_pages_fast_only(cpu, start, nr, flags, pages.unwrap_or_default()))
        }
    }
}

fn call_v6_12(cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
    use gup_core::gup::v6_12 as gup;
    let (mm, start, nr) = (op.range.mm, op.range.addr(), usize::from(op.range.pages));
    let Args { pages, vmas: _, locked } = args;
    let flags: Foll = op.flags;
    match op.call {
        Call::GetUserPages => gup::get_user_pages(cpu, start, nr, flags, pages),
        Call::GetUserPagesUnlocked => gup::get_user_pages_unlocked(cpu, start, nr, pages, flags),
        Call::GetUserPagesRemote => {
            gup::get_user_pages_remote(cpu, mm, start, nr, flags, pages, locked)
        }
        Call::GetUserPagesFast => gup::get_user_pages_fast(cpu, start, nr, flags, pages),
        Call::GetUserPagesFastOnly => gup::get_user_pages_fast_only(cpu, start, nr, flags, pages),
        Call::PinUserPages => gup::pin_user_pages(cpu, start, nr, flags, pages),
        Call::PinUserPagesUnlocked => gup::pin_user_pages_unlocked(cpu, start, nr, pages, flags),
        Call::PinUserPagesRemote => {
            gup::pin_user_pages_remote(cpu, mm, start, nr, flags, pages, locked)
        }
        Call::PinUserPagesFast => gup::pin_user_pages_fast(cpu, start, nr, flags, pages),
        // The executor skips calls that the base does not have.
        Call::GetUserPagesLocked | Call::PinUserPagesLocked | Call::PinUserPagesFastOnly => {
            Err(Errno::EOPNOTSUPP)
        }
    }
}

/// Runs of consecutive frames.
fn runs(pages: &[Page]) -> impl Iterator<Item = &[Page]> {
    pages.chunk_by(|a, b| a.nth(1) == *b)
}

/// The folio of each page, looked up by the caller: no steps of the calls.
fn folios(cpu: &Cpu, pages: &[Page]) -> impl Iterator<Item = Folio> {
    pages.iter().map(|&page| Folio(cpu.world.head_of(page)))
}

/// Which of the subjects a process runs: the port, unless it was told
/// otherwise before the first use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, ValueEnum)]
pub enum Chosen {
    /// The port
    #[default]
    Port,
    /// mm/gup.c itself, of the tree in LINUX or of linux-source-6.12
    C,
}

static CHOSEN: OnceLock<Chosen> = OnceLock::new();

impl Chosen {
    /// Whether this build can run it: the C has to be compiled in.
    pub fn is_built(self) -> bool {
        self == Chosen::Port || cfg!(feature = "real-gup")
    }
    /// The subject of this process from now on; too late once one was used.
    pub fn choose(self) {
        let _ = CHOSEN.set(self);
    }
    /// The subject of this process.
    pub fn of_process() -> Chosen {
        *CHOSEN.get_or_init(Chosen::default)
    }
    /// Whether it is the C of a tree older than `major.minor`.
    #[cfg(feature = "real-gup")]
    pub fn is_before(self, major: u32, minor: u32) -> bool {
        self == Chosen::C && !real_gup::text().since(major, minor)
    }
    /// Whether it is the C of a tree older than `major.minor`.
    #[cfg(not(feature = "real-gup"))]
    pub fn is_before(self, _major: u32, _minor: u32) -> bool {
        false
    }
    /// What it is in reports, running on a kernel of this name: the text of
    /// the C is what it is on any.
    pub fn title(self, kernel: String) -> String {
        match self {
            Chosen::Port => kernel,
            Chosen::C => c_text(),
        }
    }
    /// The kernel whose port the C follows.
    pub fn follows(self) -> Option<Kernel> {
        (self == Chosen::C).then(c_kernel)
    }
    /// The base whose surroundings it runs in, if it cannot run in any.
    pub fn base(self) -> Option<Base> {
        self.follows().map(Kernel::base)
    }
}

#[cfg(feature = "real-gup")]
use crate::real::kernel as c_kernel;

#[cfg(not(feature = "real-gup"))]
fn c_kernel() -> Kernel {
    Kernel::released(Base::V6_12)
}

/// Which mm/gup.c was compiled in.
#[cfg(feature = "real-gup")]
fn c_text() -> String {
    let real_gup::Text { release, known, sha256, .. } = real_gup::text();
    let known = if known { "known" } else { "new" };
    let sum = sha256.get(..12).unwrap_or(sha256);
    format!("mm/gup.c of {release} ({known} text, sha256 {sum})")
}

#[cfg(not(feature = "real-gup"))]
fn c_text() -> String {
    "mm/gup.c".into()
}

impl Subject for Chosen {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        match self {
            Chosen::Port => Port.call(cpu, op, args),
            Chosen::C => RealGup.call(cpu, op, args),
        }
    }

    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        match self {
            Chosen::Port => Port.unpin(cpu, how, pages),
            Chosen::C => RealGup.unpin(cpu, how, pages),
        }
    }

    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        match self {
            Chosen::Port => Port.add_pin(cpu, pages),
            Chosen::C => RealGup.add_pin(cpu, pages),
        }
    }

    fn lacks(&self, what: &What) -> bool {
        match self {
            Chosen::Port => Port.lacks(what),
            Chosen::C => RealGup.lacks(what),
        }
    }
}

/// Nobody gets to it: the front end starts a build that has the C.
#[cfg(not(feature = "real-gup"))]
use Port as RealGup;

/// mm/gup.c itself, of the kernel tree that this was built with.
#[cfg(feature = "real-gup")]
#[derive(Clone, Copy, Debug, Default)]
pub struct RealGup;

#[cfg(feature = "real-gup")]
impl Subject for RealGup {
    fn call(&self, cpu: &Cpu, op: &CallOp, args: Args<'_>) -> CallResult {
        use real_gup as gup;
        let (mm, start, nr) = (op.range.mm, op.range.addr(), usize::from(op.range.pages));
        let Args { pages, vmas, locked } = args;
        let flags: Foll = op.flags;
        match op.call {
            Call::GetUserPages => gup::get_user_pages(cpu, start, nr, flags, pages, vmas),
            Call::GetUserPagesLocked => {
                gup::get_user_pages_locked(cpu, start, nr, flags, pages, locked)
            }
            Call::GetUserPagesUnlocked => {
                gup::get_user_pages_unlocked(cpu, start, nr, flags, pages)
            }
            Call::GetUserPagesRemote => {
                gup::get_user_pages_remote(cpu, mm, start, nr, flags, pages, vmas, locked)
            }
            Call::GetUserPagesFast => gup::get_user_pages_fast(cpu, start, nr, flags, pages),
            Call::GetUserPagesFastOnly => {
                gup::get_user_pages_fast_only(cpu, start, nr, flags, pages)
            }
            Call::PinUserPages => gup::pin_user_pages(cpu, start, nr, flags, pages, vmas),
            Call::PinUserPagesLocked => {
                gup::pin_user_pages_locked(cpu, start, nr, flags, pages, locked)
            }
            Call::PinUserPagesUnlocked => {
                gup::pin_user_pages_unlocked(cpu, start, nr, flags, pages)
            }
            Call::PinUserPagesRemote => {
                gup::pin_user_pages_remote(cpu, mm, start, nr, flags, pages, vmas, locked)
            }
            Call::PinUserPagesFast => gup::pin_user_pages_fast(cpu, start, nr, flags, pages),
            Call::PinUserPagesFastOnly => {
                gup::pin_user_pages_fast_only(cpu, start, nr, flags, pages)
            }
        }
    }

    fn unpin(&self, cpu: &Cpu, how: Unpin, pages: &[Page]) {
        unpin!(real_gup, cpu, how, pages);
    }

    fn add_pin(&self, cpu: &Cpu, pages: &[Page]) {
        folios(cpu, pages).for_each(|folio| real_gup::folio_add_pin(cpu, folio));
    }

    fn lacks(&self, what: &What) -> bool {
        let of_folios = match what {
            What::Unpin(how, _) => !how.exists_in(Base::V5_15),
            What::FolioAddPin(..) => true,
            _ => false,
        };
        of_folios && !real_gup::text().since(6, 12)
    }
}
