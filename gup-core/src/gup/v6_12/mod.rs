// SPDX-License-Identifier: GPL-2.0-only
//! mm/gup.c of 6.12.117.

pub mod api;
pub mod fast;
pub mod faultin;
pub mod follow;
pub mod grab;
pub mod longterm;

pub use api::{
    get_user_pages, get_user_pages_remote, get_user_pages_unlocked, pin_user_pages,
    pin_user_pages_remote, pin_user_pages_unlocked,
};
pub use fast::{get_user_pages_fast, get_user_pages_fast_only, pin_user_pages_fast};
pub use grab::{
    folio_add_pin, unpin_folio, unpin_folios, unpin_user_folio, unpin_user_page,
    unpin_user_page_range_dirty_lock, unpin_user_pages, unpin_user_pages_dirty_lock,
};
