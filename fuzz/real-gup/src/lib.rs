// SPDX-License-Identifier: GPL-2.0-only
//! The kernel's own mm/gup.c, running in the model of gup-core.
//!
//! `build.rs` compiles the text of a kernel tree as it is, against the
//! headers in `c/`. Whatever gup.c reaches for beyond itself is answered by
//! gup-core: the same primitives that the port calls, with the same steps.
//! So the functions here can stand in for those of the port, and what
//! differs between the two is gup.c alone.
//!
//! * A BUG in the C is recorded as a splat and ends the call, which then
//!   answers `EFAULT`; what the kernel would have left locked stays locked.
//! * A WARN is recorded and the call goes on, every time, not only once.
//! * Each step can be traced to its line of the C: see [`sites`].
//!
//! All `unsafe` of the project is in this package.

mod ffi;
pub mod sites;

use core::ffi::{CStr, c_char, c_int, c_long};

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::model::folio::Folio;
use gup_core::model::mm::{MmId, Vma, vma_at};
use gup_core::model::{Cpu, Page};

/// The most pages that a call can be asked for.
const MOST: usize = 64;
/// An entry of `vmas` that a call has not set. C: NO_VMA, c/shim.c
const NO_VMA: u32 = u32::MAX;
/// What a call answers if gup.c came to a BUG. C: SHIM_BUG, c/shim.c
const BUG: c_long = c_long::MIN;

/// What a call is given. C: struct args, c/shim.c
#[repr(C)]
struct Args {
    start: u64,
    nr: u64,
    pages: *mut u16,
    len: u64,
    vmas: *mut u32,
    locked: *mut c_int,
    flags: u32,
    current_mm: u32,
    mm: u32,
    dirty: u32,
}

type Call = unsafe extern "C-unwind" fn(*const Args) -> c_long;

unsafe extern "C-unwind" {
    fn shim_c_get_user_pages(a: *const Args) -> c_long;
    fn shim_c_get_user_pages_remote(a: *const Args) -> c_long;
    fn shim_c_get_user_pages_unlocked(a: *const Args) -> c_long;
    fn shim_c_get_user_pages_fast(a: *const Args) -> c_long;
    fn shim_c_get_user_pages_fast_only(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages_remote(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages_unlocked(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages_fast(a: *const Args) -> c_long;
    fn shim_c_get_user_pages_locked(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages_locked(a: *const Args) -> c_long;
    fn shim_c_pin_user_pages_fast_only(a: *const Args) -> c_long;
    fn shim_c_unpin_user_page(a: *const Args) -> c_long;
    fn shim_c_unpin_user_pages(a: *const Args) -> c_long;
    fn shim_c_unpin_user_pages_dirty_lock(a: *const Args) -> c_long;
    fn shim_c_unpin_user_page_range_dirty_lock(a: *const Args) -> c_long;
    fn shim_c_unpin_user_folio(a: *const Args) -> c_long;
    fn shim_c_unpin_folio(a: *const Args) -> c_long;
    fn shim_c_unpin_folios(a: *const Args) -> c_long;
    fn shim_c_folio_add_pin(a: *const Args) -> c_long;

    static shim_release: [c_char; 0];
    static shim_known: [c_char; 0];
    static shim_sha256: [c_char; 0];
    static shim_path: [c_char; 0];
}

/// The text that was compiled.
#[derive(Clone, Copy, Debug)]
pub struct Text {
    /// The version of the tree, `6.12.117`.
    pub release: &'static str,
    /// Whether mm/gup.c is byte for byte one that is known to work.
    pub known: bool,
    /// The SHA-256 of mm/gup.c, in hex.
    pub sha256: &'static str,
    /// Its path when it was compiled.
    pub path: &'static str,
}

impl Text {
    /// Whether the tree is of version `major.minor`, or of a later one.
    pub fn since(&self, major: u32, minor: u32) -> bool {
        let mut numbers = self.release.split('.').map(|n| n.parse().unwrap_or(0u32));
        (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (major, minor)
    }
}

/// Which text was compiled.
pub fn text() -> Text {
    let text = |at: *const [c_char; 0]| {
        // SAFETY: these are constant strings of c/shim.c, with their
        // terminators.
        unsafe { CStr::from_ptr(at.cast()) }.to_str().unwrap_or("?")
    };
    Text {
        release: text(&raw const shim_release),
        known: !text(&raw const shim_known).is_empty(),
        sha256: text(&raw const shim_sha256),
        path: text(&raw const shim_path),
    }
}

/// A call into gup.c: the arrays as numbers, the answer as a `Result`.
struct Request<'a> {
    start: u64,
    flags: Foll,
    mm: MmId,
    /// A count, or an error number below zero where a caller passes one on.
    nr: i64,
    pages: Option<&'a mut [Page]>,
    /// As long as `pages`, if that is there.
    vmas: Option<&'a mut [Vma]>,
    locked: Option<&'a mut bool>,
    dirty: bool,
}

impl<'a> Request<'a> {
    /// One of the current mm.
    fn new(cpu: &Cpu, start: u64, nr: usize, flags: Foll, pages: Option<&'a mut [Page]>) -> Self {
        let (mm, nr) = (cpu.current_mm(), nr as i64);
        Request { start, flags, mm, nr, pages, vmas: None, locked: None, dirty: false }
    }

    fn run(self, cpu: &Cpu, call: Call) -> Result<usize, Errno> {
        let mut numbers = [Page::UNSET.0; MOST];
        let mut slots = [NO_VMA; MOST];
        let mut locked = c_int::from(self.locked.as_deref().copied().unwrap_or_default());
        let (pages, vmas) = (self.pages, self.vmas);
        let len = vmas.as_deref().map_or(0, <[Vma]>::len);
        let len = pages.as_deref().map_or(len, <[Page]>::len);
        assert!(len <= MOST, "no caller has so many pages");
        if let Some(pages) = pages.as_deref() {
            numbers.iter_mut().zip(pages).for_each(|(n, page)| *n = page.0);
        }
        let args = Args {
            start: self.start,
            nr: self.nr as u64,
            len: len as u64,
            pages: if pages.is_some() { numbers.as_mut_ptr() } else { core::ptr::null_mut() },
            vmas: if vmas.is_some() { slots.as_mut_ptr() } else { core::ptr::null_mut() },
            locked: if self.locked.is_some() { &raw mut locked } else { core::ptr::null_mut() },
            flags: self.flags.bits(),
            current_mm: cpu.current_mm().0.into(),
            mm: self.mm.0.into(),
            dirty: self.dirty.into(),
        };
        // SAFETY: `args` is what c/shim.c expects: `pages` and `vmas` have
        // room for `len` numbers, `locked` is an int, and all outlive the
        // call.
        let ret = ffi::enter(cpu, || unsafe { call(&raw const args) });
        if let Some(pages) = pages {
            pages.iter_mut().zip(numbers).for_each(|(page, n)| *page = Page(n));
        }
        for (vma, slot) in vmas.into_iter().flatten().zip(slots).filter(|&(_, n)| n != NO_VMA) {
            *vma = vma_at(cpu, self.mm, slot as usize).unwrap_or(Vma::UNSET);
        }
        if let Some(out) = self.locked {
            *out = locked != 0;
        }
        answer(cpu, ret)
    }
}

/// A `long` of the kernel: a count, or an error number below zero.
fn answer(cpu: &Cpu, ret: c_long) -> Result<usize, Errno> {
    if ret == BUG {
        return Err(Errno::EFAULT);
    }
    usize::try_from(ret).map_err(|_| {
        let known = Errno::ALL.iter().find(|&&e| -(e as c_long) == ret);
        cpu.bug_on(known.is_none(), "mm/gup.c", "an error number that the model does not know");
        known.copied().unwrap_or(Errno::EINVAL)
    })
}

/// The calls that get pages: `name(an mm first; what comes after pages)`.
macro_rules! calls {
    ($($name:ident($($mm:ident)?; $($extra:ident: $ty:ty),*) => $c:ident;)+) => {$(
        #[doc = concat!("C: ", stringify!($name), "()")]
        ///
        /// # Errors
        /// As in the C.
        #[allow(clippy::too_many_arguments)]
        pub fn $name(
            cpu: &Cpu,
            $($mm: MmId,)?
            start: u64,
            nr_pages: usize,
            gup_flags: Foll,
            pages: Option<&mut [Page]>,
            $($extra: $ty),*
        ) -> Result<usize, Errno> {
            let request = Request::new(cpu, start, nr_pages, gup_flags, pages);
            Request { $($mm,)? $($extra,)* ..request }.run(cpu, $c)
        }
    )+};
}

calls! {
    get_user_pages(; vmas: Option<&mut [Vma]>) => shim_c_get_user_pages;
    get_user_pages_locked(; locked: Option<&mut bool>) => shim_c_get_user_pages_locked;
    get_user_pages_unlocked(;) => shim_c_get_user_pages_unlocked;
    get_user_pages_remote(mm; vmas: Option<&mut [Vma]>, locked: Option<&mut bool>)
        => shim_c_get_user_pages_remote;
    get_user_pages_fast(;) => shim_c_get_user_pages_fast;
    get_user_pages_fast_only(;) => shim_c_get_user_pages_fast_only;
    pin_user_pages(; vmas: Option<&mut [Vma]>) => shim_c_pin_user_pages;
    pin_user_pages_locked(; locked: Option<&mut bool>) => shim_c_pin_user_pages_locked;
    pin_user_pages_unlocked(;) => shim_c_pin_user_pages_unlocked;
    pin_user_pages_remote(mm; vmas: Option<&mut [Vma]>, locked: Option<&mut bool>)
        => shim_c_pin_user_pages_remote;
    pin_user_pages_fast(;) => shim_c_pin_user_pages_fast;
    pin_user_pages_fast_only(;) => shim_c_pin_user_pages_fast_only;
}

/// A call that gives pins back, of these pages or folios.
fn release(cpu: &Cpu, pages: &[Page], nr: i64, dirty: bool, call: Call) {
    let mut array = [Page::UNSET; MOST];
    array[..pages.len()].copy_from_slice(pages);
    let request = Request::new(cpu, 0, 0, Foll::empty(), Some(&mut array[..pages.len()]));
    // These calls return nothing.
    let _ = Request { nr, dirty, ..request }.run(cpu, call);
}

/// What the kernel passes on as `unsigned long npages`.
fn count(npages: Result<usize, Errno>) -> i64 {
    npages.map_or_else(|e| -(e as i64), |n| n as i64)
}

/// C: unpin_user_page()
pub fn unpin_user_page(cpu: &Cpu, page: Page) {
    release(cpu, &[page], 1, false, shim_c_unpin_user_page);
}

/// C: unpin_user_pages()
pub fn unpin_user_pages(cpu: &Cpu, pages: &[Page], npages: Result<usize, Errno>) {
    release(cpu, pages, count(npages), false, shim_c_unpin_user_pages);
}

/// C: unpin_user_pages_dirty_lock()
pub fn unpin_user_pages_dirty_lock(cpu: &Cpu, pages: &[Page], make_dirty: bool) {
    release(cpu, pages, pages.len() as i64, make_dirty, shim_c_unpin_user_pages_dirty_lock);
}

/// C: unpin_user_page_range_dirty_lock()
pub fn unpin_user_page_range_dirty_lock(cpu: &Cpu, page: Page, npages: usize, make_dirty: bool) {
    let call = shim_c_unpin_user_page_range_dirty_lock;
    release(cpu, &[page], npages as i64, make_dirty, call);
}

/// C: unpin_user_folio()
pub fn unpin_user_folio(cpu: &Cpu, folio: Folio, npages: usize) {
    release(cpu, &[folio.0], npages as i64, false, shim_c_unpin_user_folio);
}

/// C: unpin_folio()
pub fn unpin_folio(cpu: &Cpu, folio: Folio) {
    release(cpu, &[folio.0], 1, false, shim_c_unpin_folio);
}

/// C: unpin_folios()
pub fn unpin_folios(cpu: &Cpu, folios: &[Folio], nfolios: Result<usize, Errno>) {
    let mut pages = [Page::UNSET; MOST];
    pages.iter_mut().zip(folios).for_each(|(page, folio)| *page = folio.0);
    release(cpu, &pages[..folios.len()], count(nfolios), false, shim_c_unpin_folios);
}

/// C: folio_add_pin()
pub fn folio_add_pin(cpu: &Cpu, folio: Folio) {
    release(cpu, &[folio.0], 1, false, shim_c_folio_add_pin);
}
