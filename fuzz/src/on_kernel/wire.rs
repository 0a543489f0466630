// SPDX-License-Identifier: GPL-2.0-only
//! What goes over the serial line between us and the guest: lines of text.
//!
//! To the guest, one scenario:
//!
//! ```text
//! run SCALE
//! mmap m0 0x0 1 rw private anon
//! h0 = pin_user_pages m0 0x0 1 FOLL_WRITE
//! go
//! ```
//!
//! or `exec NAME`, for a program that came with the guest.
//!
//! From the guest a [`Line`] each: for every op its answer, what the kernel
//! printed, the pin statistics, and the slots whose page changed; at the end
//! [`Line::End`].

use std::fmt;
use std::str::FromStr;

use bitflags::bitflags;
use gup_core::model::mm::MmId;

use crate::exec::Slot;
use crate::scenario::Handle;

/// Ends the ops of a scenario.
pub const GO: &str = "go";
/// Begins a scenario; the scale follows.
pub const RUN: &str = "run";
/// Runs a program; its name follows.
pub const EXEC: &str = "exec";

bitflags! {
    /// What the guest's module says of an entry and of its page.
    /// C: GUPDEV_*, on-kernel/module/gupdev.h
    #[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
    pub struct SeenFlags: u32 {
        /// Something is mapped, PROT_NONE included.
        const PRESENT = 1 << 0;
        /// User space may read it.
        const ACCESS = 1 << 1;
        /// User space may write it.
        const WRITABLE = 1 << 2;
        /// By a PMD.
        const HUGE = 1 << 3;
        /// Without a page that is counted.
        const SPECIAL = 1 << 4;
        /// A swap or migration entry, or a marker.
        const NONPRESENT = 1 << 5;
        /// The zero page.
        const ZERO = 1 << 8;
        /// Anonymous memory.
        const ANON = 1 << 9;
        /// PageAnonExclusive
        const EXCLUSIVE = 1 << 10;
        /// folio_maybe_dma_pinned()
        const DMA_PINNED = 1 << 11;
        /// In ZONE_MOVABLE.
        const MOVABLE = 1 << 12;
        /// On an LRU list.
        const LRU = 1 << 13;
        /// Dirty.
        const DIRTY = 1 << 14;
        /// Backed by swap.
        const SWAPBACKED = 1 << 15;
        /// Locked.
        const LOCKED = 1 << 16;
        /// Of hugetlbfs.
        const HUGETLB = 1 << 17;
        /// The kernel cannot read its contents.
        const SECRET = 1 << 18;
        /// The file system holds a reference, for its buffers.
        const PRIVATE = 1 << 19;
    }
}

/// What is in a slot. Counts are those of its folio.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    /// The frame.
    pub frame: u64,
    /// The frame of the folio's head.
    pub head: u64,
    /// Its contents.
    pub token: u64,
    /// Flags of entry and page.
    pub flags: SeenFlags,
    /// log2 of the folio's pages.
    pub order: u32,
    /// The reference count.
    pub refcount: i32,
    /// Mappings: PMDs once, PTEs each.
    pub mapcount: i32,
    /// The PMDs among them.
    pub entire: i32,
    /// The pin count of a large folio.
    pub pincount: i32,
    /// Of the pages that stand for this one, the first that differs from the
    /// first; 0 if none does.
    pub odd: u32,
}

/// What became of an op.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// A call of mm/gup.c returned a count of pages, or an error number below
    /// zero.
    Returned(i64),
    /// Done.
    Done,
    /// Failed with this error number.
    Failed(i32),
    /// It could not run.
    Skipped(String),
    /// The guest does not know how.
    Cannot(String),
    /// The process is gone or does not answer: killed by the kernel, hung.
    Lost(String),
}

/// One line from the guest.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Line {
    /// It takes scenarios; the kernel's release.
    Ready(String),
    /// An op came to this.
    Answer(usize, Answer),
    /// The kernel printed this meanwhile.
    Kernel(String),
    /// A program printed this.
    Printed(String),
    /// NR_FOLL_PIN_ACQUIRED and _RELEASED since the scenario began.
    Pins(i64, i64),
    /// What is in a slot now.
    Now(Slot, Seen),
    /// Nothing is there any more.
    Gone(Slot),
    /// All is given back now.
    TearDown,
    /// All was.
    End,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Returned(n) => write!(f, "returned {n}"),
            Answer::Done => write!(f, "done"),
            Answer::Failed(e) => write!(f, "failed {e}"),
            Answer::Skipped(why) => write!(f, "skipped {why}"),
            Answer::Cannot(why) => write!(f, "cannot {why}"),
            Answer::Lost(why) => write!(f, "lost {why}"),
        }
    }
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Line::Ready(release) => write!(f, "ready {release}"),
            Line::Answer(op, answer) => write!(f, "= {op} {answer}"),
            Line::Kernel(text) => write!(f, "k {text}"),
            Line::Printed(text) => write!(f, "p {text}"),
            Line::Pins(acquired, released) => write!(f, "s {acquired} {released}"),
            Line::Now(slot, s) => write!(
                f,
                "+ {} {:x} {:x} {:x} {:x} {} {} {} {} {} {}",
                Short(*slot),
                s.frame,
                s.head,
                s.token,
                s.flags.bits(),
                s.order,
                s.refcount,
                s.mapcount,
                s.entire,
                s.pincount,
                s.odd
            ),
            Line::Gone(slot) => write!(f, "- {}", Short(*slot)),
            Line::TearDown => write!(f, "~"),
            Line::End => write!(f, "."),
        }
    }
}

/// A line is none of the guest's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NotALine;

/// `m0.3`, `h1.2`.
struct Short(Slot);

impl fmt::Display for Short {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Slot::Mapped(mm, page) => write!(f, "m{}.{page}", mm.0),
            Slot::Held(h, i) => write!(f, "h{}.{i}", h.0),
        }
    }
}

fn slot_of(text: &str) -> Result<Slot, NotALine> {
    let (slot, index) = text.split_once('.').ok_or(NotALine)?;
    let index = index.parse().map_err(|_| NotALine)?;
    let number = |letter| slot.strip_prefix(letter)?.parse::<u8>().ok();
    match (number('m'), number('h')) {
        (Some(mm), _) => Ok(Slot::Mapped(MmId(mm), index)),
        (_, Some(h)) => Ok(Slot::Held(Handle(h), index)),
        _ => Err(NotALine),
    }
}

impl FromStr for Answer {
    type Err = NotALine;

    fn from_str(text: &str) -> Result<Self, NotALine> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match word {
            "returned" => Answer::Returned(rest.parse().map_err(|_| NotALine)?),
            "done" => Answer::Done,
            "failed" => Answer::Failed(rest.parse().map_err(|_| NotALine)?),
            "skipped" => Answer::Skipped(rest.into()),
            "cannot" => Answer::Cannot(rest.into()),
            "lost" => Answer::Lost(rest.into()),
            _ => return Err(NotALine),
        })
    }
}

impl FromStr for Line {
    type Err = NotALine;

    fn from_str(text: &str) -> Result<Self, NotALine> {
        let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
        Ok(match word {
            "ready" => Line::Ready(rest.into()),
            "=" => {
                let (op, answer) = rest.split_once(' ').ok_or(NotALine)?;
                Line::Answer(op.parse().map_err(|_| NotALine)?, answer.parse()?)
            }
            "k" => Line::Kernel(rest.into()),
            "p" => Line::Printed(rest.into()),
            "s" => {
                let (acquired, released) = rest.split_once(' ').ok_or(NotALine)?;
                let number = |n: &str| n.parse().map_err(|_| NotALine);
                Line::Pins(number(acquired)?, number(released)?)
            }
            "+" => {
                let (slot, row) = rest.split_once(' ').ok_or(NotALine)?;
                Line::Now(slot_of(slot)?, row_of(row).ok_or(NotALine)?)
            }
            "-" => Line::Gone(slot_of(rest)?),
            "~" => Line::TearDown,
            "." => Line::End,
            _ => return Err(NotALine),
        })
    }
}

fn row_of(text: &str) -> Option<Seen> {
    let words: Vec<&str> = text.split(' ').collect();
    let [frame, head, token, flags, order, refcount, mapcount, entire, pincount, odd] = words[..]
    else {
        return None;
    };
    let hex = |n| u64::from_str_radix(n, 16).ok();
    Some(Seen {
        frame: hex(frame)?,
        head: hex(head)?,
        token: hex(token)?,
        flags: SeenFlags::from_bits(u32::from_str_radix(flags, 16).ok()?)?,
        order: order.parse().ok()?,
        refcount: refcount.parse().ok()?,
        mapcount: mapcount.parse().ok()?,
        entire: entire.parse().ok()?,
        pincount: pincount.parse().ok()?,
        odd: odd.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_guest_prints_is_read_back() {
        let seen = Seen {
            frame: 0x4_2000,
            head: 0x4_2000,
            token: 0x1_0001,
            flags: SeenFlags::PRESENT | SeenFlags::ANON,
            order: 9,
            refcount: -3,
            mapcount: 1,
            entire: 1,
            pincount: 2,
            odd: 63,
        };
        for line in [
            Line::Ready("6.12.117+deb12-cloud-amd64".into()),
            Line::Answer(3, Answer::Returned(-14)),
            Line::Answer(0, Answer::Failed(22)),
            Line::Answer(0, Answer::Skipped("no such handle".into())),
            Line::Answer(63, Answer::Lost("killed by signal 9".into())),
            Line::Kernel("WARNING: CPU: 0 PID: 1 at mm/gup.c:1".into()),
            Line::Printed("pin_user_pages: -ENOMEM, expected 1".into()),
            Line::Pins(3, -1),
            Line::Now(Slot::Mapped(MmId(3), 63), seen),
            Line::Gone(Slot::Held(Handle(15), 0)),
            Line::TearDown,
            Line::End,
        ] {
            assert_eq!(line.to_string().parse(), Ok(line));
        }
    }

    #[test]
    fn noise_is_no_line() {
        for text in ["", "= ", "= x done", "+ m0.1 1 2", "- q1.0", "s 1", "[    0.1] hello"] {
            assert_eq!(text.parse::<Line>(), Err(NotALine), "{text:?}");
        }
    }
}
