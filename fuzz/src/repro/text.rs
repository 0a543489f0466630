// SPDX-License-Identifier: GPL-2.0-only
//! The text form of scenarios.
//!
//! ```text
//! # gup reproducer, format 1
//! title:  pin_user_pages(FOLL_LONGTERM) fails with ENOMEM on a movable page
//! kernel: v5.15
//! oracle: errno
//!
//! # The story, in any number of lines.
//! mmap m0 0x0 1 rw private anon
//! write m0 0x0 1    # lands in ZONE_MOVABLE
//! h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM   -> ENOMEM    # expected: 1
//! ```
//!
//! One op a line: `HANDLE = NAME ARGUMENTS OPTIONS fail SITE NTH -> RESULT
//! # COMMENT`. `m0` is an address space, `h0` a handle, addresses are hex
//! bytes and counts are pages. Flags are kernel names, `0` if there are none.
//! An op that another CPU does in the middle of the one above it begins with
//! `at STEP N`: before the Nth step of that kind. A `\` at the end of a line
//! continues it on the next. The names of the ops
//! and the order of their arguments are in [`What`] and below in
//! `impl Display for Op`.
//!
//! Any input at all ends in a [`Reproducer`] or in a [`ParseError`].

use std::fmt;
use std::str::FromStr;

use gup_core::errno::Errno;
use gup_core::flags::Foll;
use gup_core::history::Kernel;
use gup_core::model::cpu::{Fail, FailSite};
use gup_core::model::filemap::File;
use gup_core::model::limits::PAGE_SIZE;
use gup_core::model::mm::MmId;
use gup_core::model::mmap::{FileMap, Kind, Prot};
use gup_core::model::zone::Prefer;
use gup_core::step::StepKind;

use super::report::kernel_text;
use super::{Line, Reproducer};
use crate::oracles;
use crate::scenario::{
    BLOCKS, CALL_FLAGS, CPUS, CallOp, CallResult, HANDLES, Handle, MAX_NTH, MAX_OPS, MAX_PAGES,
    MMS, Op, PAGES, RECORD, Range, Unpin, What, Window,
};

/// The first line of every reproducer.
pub const HEADER: &str = "# gup reproducer, format 1";
/// What continues a line, or runs inside the op above.
const INDENT: &str = "    ";
/// The longest text that is looked at.
pub const MAX_BYTES: usize = 64 << 10;
/// Columns that printed text keeps to, where its words allow.
pub const WIDTH: usize = 75;

/// Why a text is no reproducer, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ParseError {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
    /// What is wrong and what was expected.
    pub message: String,
}

impl ParseError {
    fn new(at: At, message: impl Into<String>) -> Self {
        ParseError { line: at.line, column: at.column, message: message.into() }
    }

    /// The line of `text` that it is about, with a mark below the column.
    pub fn excerpt(&self, text: &str) -> String {
        let line = text.lines().nth(self.line - 1).unwrap_or("").replace('\t', " ");
        format!("    {line}\n    {:>1$}", '^', self.column)
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}: {}", self.line, self.column, self.message)
    }
}

impl std::error::Error for ParseError {}

/// A place in the text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct At {
    line: usize,
    column: usize,
}

type Parsed<T> = Result<T, ParseError>;

// ---- printing ----

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "m{} {:#x} {}", self.mm.0, self.addr(), self.pages)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "h{}", self.0)
    }
}

/// `at entry-rmw 1`
impl fmt::Display for Window {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at {} {}", self.kind.slug(), self.nth)
    }
}

impl fmt::Display for Op {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(at) = self.at {
            write!(f, "{at} ")?;
        }
        match self.what {
            What::Call(c) => write!(f, "{} = ", c.handle)?,
            What::Tee(_, to) | What::FolioAddPin(_, to) => write!(f, "{to} = ")?,
            _ => {}
        }
        f.write_str(self.name())?;
        match self.what {
            What::Mmap(r, prot, kind) => write!(f, " {r} {} {}", prot.name(), kind.name())?,
            What::MmapFile(r, prot, map) => {
                write!(f, " {r} {} {} {}", prot.name(), file_map_name(map), map.pgoff)?;
            }
            What::Mprotect(r, prot) => write!(f, " {r} {}", prot.name())?,
            What::Dontneed(r) => write!(f, " {r} dontneed")?,
            What::Munmap(r) | What::Write(r) | What::Read(r) | What::NumaHint(r) => {
                write!(f, " {r}")?;
            }
            What::Migrate(r)
            | What::SplitHugePage(r)
            | What::SplitHugePmd(r)
            | What::Swapout(r)
            | What::Collapse(r) => {
                write!(f, " m{} {:#x}", r.mm.0, r.addr())?;
            }
            What::Fork(parent, child) => write!(f, " m{} m{}", parent.0, child.0)?,
            What::Exit(mm) => write!(f, " m{}", mm.0)?,
            What::Call(c) => {
                write!(f, " {} {}", c.range, flags_text(c.flags))?;
                f.write_str(if c.locked { " locked" } else { "" })?;
                f.write_str(if c.nopages { " nopages" } else { "" })?;
            }
            What::Unpin(how, h) => {
                write!(f, " {h}")?;
                how.option().map_or(Ok(()), |option| write!(f, " {option}"))?;
            }
            What::PutPage(h)
            | What::DmaWrite(h)
            | What::DmaRead(h)
            | What::Tee(h, _)
            | What::FolioAddPin(h, _) => write!(f, " {h}")?,
            What::LruAddDrain | What::LruAddDrainAll => {}
            What::IsolateBlock(n) | What::UnisolateBlock(n) | What::Cpu(n) => write!(f, " {n}")?,
            What::Prefer(p) => write!(f, " {}", p.name())?,
            What::Truncate(file, pages) => write!(f, " {} {pages}", file.name())?,
            What::Fsync(file) | What::Close(file) => write!(f, " {}", file.name())?,
        }
        self.fail.map_or(Ok(()), |fail| write!(f, " {fail}"))
    }
}

/// `shared file`
fn file_map_name(map: FileMap) -> String {
    format!("{} {}", if map.shared { "shared" } else { "private" }, map.file.name())
}

/// `FOLL_WRITE|FOLL_LONGTERM`, or `0`.
pub fn flags_text(flags: Foll) -> String {
    let names: Vec<_> = flags.iter().filter_map(|f| f.kernel_name()).collect();
    if names.is_empty() { "0".into() } else { names.join("|") }
}

/// `3` or `ENOMEM`.
pub fn result_text(result: CallResult) -> String {
    result.map_or_else(|e| e.to_string(), |n| n.to_string())
}

impl fmt::Display for Reproducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEADER}")?;
        header(f, "title: ", &self.title)?;
        header(f, "kernel:", &kernel_text(self.kernel))?;
        if let Some(oracle) = &self.oracle {
            header(f, "oracle:", oracle)?;
        }
        writeln!(f)?;
        self.story.iter().try_for_each(|s| comment_line(f, s))?;
        if !self.story.is_empty() && !self.lines.is_empty() {
            writeln!(f)?;
        }
        self.lines.iter().try_for_each(|l| write!(f, "{l}"))
    }
}

fn header(f: &mut fmt::Formatter<'_>, key: &str, value: &str) -> fmt::Result {
    writeln!(f, "{}", format!("{key} {}", one_line(value)).trim_end())
}

fn comment_line(f: &mut fmt::Formatter<'_>, text: &str) -> fmt::Result {
    writeln!(f, "{}", format!("# {}", one_line(text)).trim_end())
}

/// What the parser would give back for a comment or a title.
fn one_line(text: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    text.trim().into()
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = self.result.map(|r| format!("   -> {}", result_text(r))).unwrap_or_default();
        let indent = if self.op.at.is_some() { INDENT } else { "" };
        let mut rest = format!("{indent}{}{result}", self.op);
        while rest.len() > WIDTH {
            let room = &rest[..WIDTH - " \\".len()];
            let cut = room.rfind(['|', ' ']).filter(|&cut| cut > INDENT.len());
            let Some(cut) = cut else { break };
            writeln!(f, "{} \\", rest[..=cut].trim_end())?;
            rest = format!("{INDENT}{}", rest[cut + 1..].trim_start());
        }
        let comment = self.comment.as_deref().map(one_line).filter(|c| !c.is_empty());
        let comment = comment.map(|c| format!("    # {c}")).unwrap_or_default();
        writeln!(f, "{rest}{comment}")?;
        self.after.iter().try_for_each(|s| comment_line(f, s))
    }
}

// ---- parsing ----

impl FromStr for Reproducer {
    type Err = ParseError;

    fn from_str(text: &str) -> Parsed<Self> {
        parse(text.as_bytes())
    }
}

/// Whether a file is meant to be a reproducer: raw fuzzing input is not.
pub fn is_text(bytes: &[u8]) -> bool {
    bytes.starts_with(b"# gup")
}

/// Reads a reproducer.
pub fn parse(bytes: &[u8]) -> Parsed<Reproducer> {
    let text = decode(bytes)?;
    let mut lines = text.lines().enumerate().map(|(i, l)| (i + 1, l.trim_end()));
    let first = lines.next().map_or("", |(_, l)| l);
    if first != HEADER {
        let why = if first.starts_with("# gup reproducer, format") {
            "this program reads format 1 only"
        } else {
            "not a reproducer"
        };
        let message = format!("{why}; expected `{HEADER}`");
        return Err(ParseError::new(At { line: 1, column: 1 }, message));
    }
    let mut parser = Parser::default();
    let mut tokens = Vec::new();
    for (number, line) in lines {
        let (code, comment) = split_comment(line);
        let code = code.trim_end();
        let (code, continues) = match code.strip_suffix('\\') {
            Some(code) if comment.is_none() => (code, true),
            _ => (code, false),
        };
        if tokens.is_empty() && parser.header(number, code, line)? {
            continue;
        }
        tokenise(number, code, &mut tokens);
        if !continues {
            let end = At { line: number, column: code.chars().count() + 1 };
            parser.line(std::mem::take(&mut tokens), comment, end)?;
        }
    }
    let end = At { line: text.lines().count(), column: 1 };
    match tokens.first() {
        Some(_) => Err(ParseError::new(end, "the text ends in a continued line")),
        None => parser.finish(end),
    }
}

fn decode(bytes: &[u8]) -> Parsed<&str> {
    if bytes.len() > MAX_BYTES {
        let message = format!("longer than the {MAX_BYTES} bytes a reproducer may have");
        return Err(ParseError::new(At { line: 1, column: 1 }, message));
    }
    let text = std::str::from_utf8(bytes).map_err(|e| {
        let good = String::from_utf8_lossy(&bytes[..e.valid_up_to()]);
        ParseError::new(end_of(&good), "not UTF-8 text")
    })?;
    let odd = |c: char| c.is_control() && !matches!(c, '\n' | '\t' | '\r');
    match text.find(odd) {
        Some(i) => Err(ParseError::new(end_of(&text[..i]), "a control character in the text")),
        None => Ok(text),
    }
}

/// The place after `text`.
fn end_of(text: &str) -> At {
    let last = text.rsplit('\n').next().unwrap_or("");
    At { line: text.matches('\n').count() + 1, column: last.chars().count() + 1 }
}

fn split_comment(line: &str) -> (&str, Option<String>) {
    match line.split_once('#') {
        Some((code, comment)) => (code, Some(one_line(comment))),
        None => (line, None),
    }
}

/// A word, `=`, `|` or `->`, and where it is.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Token<'t> {
    word: &'t str,
    at: At,
}

fn tokenise<'t>(line: usize, code: &'t str, out: &mut Vec<Token<'t>>) {
    let mut rest = code;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return;
        }
        let len = match rest {
            _ if rest.starts_with(['=', '|']) => 1,
            _ if rest.starts_with("->") => 2,
            _ => rest
                .find(|c: char| c.is_whitespace() || matches!(c, '=' | '|'))
                .unwrap_or(rest.len()),
        };
        let column = code[..code.len() - rest.len()].chars().count() + 1;
        let (word, tail) = rest.split_at(len);
        out.push(Token { word, at: At { line, column } });
        rest = tail;
    }
}

#[derive(Default)]
struct Parser {
    title: Option<String>,
    kernel: Option<Kernel>,
    oracle: Option<String>,
    story: Vec<String>,
    lines: Vec<Line>,
}

const KEYS: [&str; 3] = ["title", "kernel", "oracle"];

impl Parser {
    /// Reads a `key: value` line; false if it is none.
    fn header(&mut self, number: usize, code: &str, line: &str) -> Parsed<bool> {
        // A title may contain what elsewhere starts a comment.
        let value_of = |key: &str| line.strip_prefix(key)?.trim_start().strip_prefix(':');
        let Some((key, value)) = KEYS.iter().find_map(|k| Some((*k, value_of(k)?))) else {
            let word = code.split_whitespace().next().unwrap_or("");
            let Some(key) = word.strip_suffix(':') else { return Ok(false) };
            let at = At { line: number, column: 1 };
            return Err(unknown(at, "header", key, KEYS, "title, kernel or oracle"));
        };
        let column = line.len() - value.trim_start().len();
        let at = At { line: number, column: line[..column].chars().count() + 1 };
        if !self.lines.is_empty() {
            return Err(ParseError::new(at, format!("`{key}:` after the first op")));
        }
        let value = value.trim();
        let again = match key {
            "title" => self.title.replace(one_line(value)).is_some(),
            "kernel" => {
                let kernel = value.parse().map_err(|e| ParseError::new(at, format!("{e}")))?;
                self.kernel.replace(kernel).is_some()
            }
            _ if oracles::SLUGS.contains(&value) => self.oracle.replace(value.into()).is_some(),
            _ => {
                let slugs = oracles::SLUGS.iter().copied();
                return Err(unknown(at, "oracle", value, slugs, &oracles::SLUGS.join(", ")));
            }
        };
        if again {
            return Err(ParseError::new(at, format!("a second `{key}:`")));
        }
        Ok(true)
    }

    /// Takes a line with or without an op.
    fn line(&mut self, tokens: Vec<Token<'_>>, comment: Option<String>, end: At) -> Parsed<()> {
        let Some(first) = tokens.first() else {
            let notes = self.lines.last_mut().map_or(&mut self.story, |l| &mut l.after);
            notes.extend(comment);
            return Ok(());
        };
        if self.lines.len() == MAX_OPS {
            return Err(ParseError::new(first.at, format!("more than {MAX_OPS} ops")));
        }
        let mut words = Words { tokens: &tokens, end };
        let (op, result) = words.op()?;
        if op.at.is_some() && self.lines.is_empty() {
            return Err(ParseError::new(first.at, "`at` without an op above it to run in"));
        }
        let comment = comment.filter(|c| !c.is_empty());
        self.lines.push(Line { op, result, comment, after: Vec::new() });
        Ok(())
    }

    fn finish(self, end: At) -> Parsed<Reproducer> {
        let kernel = self
            .kernel
            .ok_or_else(|| ParseError::new(end, "no kernel; expected a line `kernel: v5.15`"))?;
        let Parser { title, oracle, story, lines, .. } = self;
        Ok(Reproducer { title: title.unwrap_or_default(), kernel, oracle, story, lines })
    }
}

/// Every op, with arguments that do not matter.
fn templates() -> impl Iterator<Item = Op> {
    (0..=u8::MAX).filter_map(|opcode| {
        let mut record = [0; RECORD];
        record[0] = opcode;
        Op::decode(record)
    })
}

/// Reads one op, outside of any file.
impl FromStr for Op {
    type Err = ParseError;

    fn from_str(text: &str) -> Parsed<Self> {
        let mut tokens = Vec::new();
        tokenise(1, text, &mut tokens);
        Words { tokens: &tokens, end: end_of(text) }.op().map(|(op, _)| op)
    }
}

/// The words of a line that are still to be read.
struct Words<'t> {
    tokens: &'t [Token<'t>],
    end: At,
}

impl<'t> Words<'t> {
    fn at(&self) -> At {
        self.tokens.first().map_or(self.end, |t| t.at)
    }

    fn next(&mut self, expected: &str) -> Parsed<&'t Token<'t>> {
        let Some((first, rest)) = self.tokens.split_first() else {
            return Err(ParseError::new(self.end, format!("the line ends; expected {expected}")));
        };
        self.tokens = rest;
        Ok(first)
    }

    /// Takes the word if it is next.
    fn take(&mut self, word: &str) -> bool {
        let found = self.tokens.first().is_some_and(|t| t.word == word);
        self.tokens = &self.tokens[usize::from(found)..];
        found
    }

    /// A line: an op and what it returned.
    fn op(&mut self) -> Parsed<(Op, Option<CallResult>)> {
        let at = if self.take("at") { Some(self.window()?) } else { None };
        let start = self.at();
        let to = match self.tokens.get(1) {
            Some(t) if t.word == "=" => {
                let to = self.handle()?;
                self.take("=");
                Some(to)
            }
            _ => None,
        };
        let name = self.next("an op")?;
        let Some(template) = templates().find(|op| op.name() == name.word) else {
            let names: Vec<_> = templates().map(|op| op.name()).collect();
            return Err(unknown(name.at, "op", name.word, names, "such as mmap or pin_user_pages"));
        };
        let returns_pages =
            matches!(template.what, What::Call(_) | What::Tee(..) | What::FolioAddPin(..));
        if returns_pages != to.is_some() {
            let message = match to {
                Some(_) => format!("`{}` returns no pages", name.word),
                None => format!("expected a handle: `h0 = {} ...`", name.word),
            };
            return Err(ParseError::new(start, message));
        }
        let what = self.arguments(template.what, to.unwrap_or(Handle(0)))?;
        let fail = if self.take("fail") { Some(self.fail()?) } else { None };
        let op = Op { what, fail, at };
        let result = if self.take("->") { Some(self.result()?) } else { None };
        if let Some(t) = self.tokens.first() {
            return Err(ParseError::new(t.at, format!("unexpected `{}`", t.word)));
        }
        // What the call does not have must not be asked for.
        match Op::decode(op.encode()) {
            Some(same) if (Op { at, ..same }) == op => Ok((op, result)),
            other => Err(ParseError::new(name.at, no_such_option(op, other))),
        }
    }

    fn arguments(&mut self, template: What, to: Handle) -> Parsed<What> {
        Ok(match template {
            What::Mmap(..) | What::MmapFile(..) => {
                let (range, prot) = (self.range()?, self.prot()?);
                match self.file_map()? {
                    Some(map) => What::MmapFile(range, prot, map),
                    None => What::Mmap(range, prot, self.kind()?),
                }
            }
            What::Munmap(_) => What::Munmap(self.range()?),
            What::Mprotect(..) => What::Mprotect(self.range()?, self.prot()?),
            What::Dontneed(_) => {
                let range = self.range()?;
                self.named("advice", &["dontneed"], |a| a)?;
                What::Dontneed(range)
            }
            What::Write(_) => What::Write(self.range()?),
            What::Read(_) => What::Read(self.range()?),
            What::Fork(..) => What::Fork(self.mm()?, self.mm()?),
            What::Exit(_) => What::Exit(self.mm()?),
            What::Call(c) => {
                let (range, flags) = (self.range()?, self.flags()?);
                let (locked, nopages) = (self.take("locked"), self.take("nopages"));
                What::Call(CallOp { call: c.call, range, flags, locked, nopages, handle: to })
            }
            What::Unpin(how, _) => {
                let h = self.handle()?;
                let same = |other: &&Unpin| other.name() == how.name();
                let taken = |other: &&Unpin| other.option().is_some_and(|o| self.take(o));
                What::Unpin(*Unpin::ALL.iter().filter(same).find(taken).unwrap_or(&how), h)
            }
            What::PutPage(_) => What::PutPage(self.handle()?),
            What::Tee(..) => What::Tee(self.handle()?, to),
            What::FolioAddPin(..) => What::FolioAddPin(self.handle()?, to),
            What::DmaWrite(_) => What::DmaWrite(self.handle()?),
            What::DmaRead(_) => What::DmaRead(self.handle()?),
            What::LruAddDrain | What::LruAddDrainAll => template,
            What::Migrate(_) => What::Migrate(self.address()?),
            What::SplitHugePage(_) => What::SplitHugePage(self.address()?),
            What::SplitHugePmd(_) => What::SplitHugePmd(self.address()?),
            What::Swapout(_) => What::Swapout(self.address()?),
            What::Collapse(_) => What::Collapse(self.address()?),
            What::NumaHint(_) => What::NumaHint(self.range()?),
            What::IsolateBlock(_) => {
                What::IsolateBlock(self.number("a pageblock", 0, BLOCKS - 1)?)
            }
            What::UnisolateBlock(_) => {
                What::UnisolateBlock(self.number("a pageblock", 0, BLOCKS - 1)?)
            }
            What::Prefer(_) => What::Prefer(self.named("preference", Prefer::ALL, |p| p.name())?),
            What::Cpu(_) => What::Cpu(self.number("a CPU", 0, CPUS - 1)?),
            What::Truncate(..) => {
                let file = self.file()?;
                let pages = self.number("how many pages", 0, file.max_pages() as u8)?;
                What::Truncate(file, pages)
            }
            What::Fsync(_) => What::Fsync(self.file()?),
            What::Close(_) => What::Close(self.file()?),
        })
    }

    /// One of `all`, by name.
    fn named<T: Copy>(
        &mut self,
        kind: &str,
        all: &[T],
        name: impl Fn(T) -> &'static str,
    ) -> Parsed<T> {
        let names: Vec<&str> = all.iter().map(|&x| name(x)).collect();
        let list = names.join(", ");
        let t = self.next(&format!("a {kind}: {list}"))?;
        match names.iter().position(|n| *n == t.word) {
            Some(i) => Ok(all[i]),
            None => Err(unknown(t.at, kind, t.word, names, &list)),
        }
    }

    fn prot(&mut self) -> Parsed<Prot> {
        self.named("protection", Prot::ALL, Prot::name)
    }

    fn file(&mut self) -> Parsed<File> {
        self.named("file", File::ALL, File::name)
    }

    /// A mapping of a file, if the words that are there say so.
    fn file_map(&mut self) -> Parsed<Option<FileMap>> {
        let word = |i: usize| self.tokens.get(i).map_or("", |t| t.word);
        let shared = word(0) == "shared";
        let file = File::ALL.iter().find(|f| f.name() == word(1));
        let Some(&file) = file.filter(|_| shared || word(0) == "private") else { return Ok(None) };
        self.tokens = &self.tokens[2..];
        let pgoff = self.number("the first page of the file", 0, file.max_pages() as u8 - 1)?;
        Ok(Some(FileMap { shared, file, pgoff }))
    }

    /// The kind with the most words that are there.
    fn kind(&mut self) -> Parsed<Kind> {
        let at = self.at();
        let words = |k: Kind| k.name().split(' ');
        let fits = |k: Kind| {
            let mut here = self.tokens.iter().map(|t| t.word);
            words(k).all(|w| here.next() == Some(w))
        };
        let found = Kind::ALL.iter().copied().filter(|&k| fits(k));
        let found = found.max_by_key(|&k| words(k).count());
        let Some(kind) = found else {
            let kinds = Kind::ALL.iter().map(|k| k.name().to_string());
            let files = File::ALL.iter().map(|f| format!("shared {} 0", f.name()));
            let all: Vec<_> = kinds.chain(files).collect();
            let message = format!("expected a kind of mapping: {}", all.join(", "));
            return Err(ParseError::new(at, message));
        };
        self.tokens = &self.tokens[words(kind).count()..];
        Ok(kind)
    }

    fn flags(&mut self) -> Parsed<Foll> {
        let mut flags = Foll::empty();
        if self.take("0") {
            return Ok(flags);
        }
        loop {
            let t = self.next("flags such as FOLL_WRITE, or 0")?;
            let names = || CALL_FLAGS.iter().filter_map(|&f| Some((f, f.kernel_name()?)));
            let Some((flag, _)) = names().find(|(_, name)| name == t.word) else {
                let names: Vec<_> = names().map(|(_, name)| name).collect();
                let list = names.join(", ");
                let names = names.iter().map(String::as_str);
                return Err(unknown(t.at, "flag", t.word, names, &list));
            };
            if flags.contains(flag) {
                return Err(ParseError::new(t.at, format!("`{}` twice", t.word)));
            }
            flags |= flag;
            if !self.take("|") {
                return Ok(flags);
            }
        }
    }

    fn window(&mut self) -> Parsed<Window> {
        let kind = self.named("kind of step", StepKind::ALL, StepKind::slug)?;
        let expected = format!("which step of that kind, 1 to {}", u16::MAX);
        let t = self.next(&expected)?;
        let nth = plain_number(t.word).and_then(|n| u16::try_from(n).ok()).filter(|&n| n > 0);
        let unknown = format!("unknown number `{}`; expected {expected}", t.word);
        Ok(Window { kind, nth: nth.ok_or_else(|| ParseError::new(t.at, unknown))? })
    }

    fn fail(&mut self) -> Parsed<Fail> {
        let site = self.named("place to fail at", FailSite::ALL, FailSite::name)?;
        Ok(Fail { site, nth: self.number("which time it fails", 1, MAX_NTH)? })
    }

    fn result(&mut self) -> Parsed<CallResult> {
        let t = self.next("a number of pages or an error such as ENOMEM")?;
        if let Some(&e) = Errno::ALL.iter().find(|e| e.name() == t.word) {
            return Ok(Err(e));
        }
        let n = plain_number(t.word).filter(|&n| n <= MAX_PAGES.into());
        n.map(|n| Ok(n as usize)).ok_or_else(|| {
            let names = Errno::ALL.iter().map(|e| e.name());
            unknown(t.at, "result", t.word, names, "a number of pages or an error such as ENOMEM")
        })
    }

    fn number(&mut self, what: &str, min: u8, max: u8) -> Parsed<u8> {
        let expected = format!("{what}, {min} to {max}");
        let t = self.next(&expected)?;
        let n = plain_number(t.word).and_then(|n| u8::try_from(n).ok());
        n.filter(|n| (min..=max).contains(n)).ok_or_else(|| {
            ParseError::new(t.at, format!("unknown number `{}`; expected {expected}", t.word))
        })
    }

    /// `m0` or `h0`.
    fn slot(&mut self, letter: char, what: &str, count: u8) -> Parsed<u8> {
        let expected = format!("{what}, {letter}0 to {letter}{}", count - 1);
        let t = self.next(&expected)?;
        let n = t.word.strip_prefix(letter).and_then(plain_number);
        n.and_then(|n| u8::try_from(n).ok()).filter(|&n| n < count).ok_or_else(|| {
            ParseError::new(t.at, format!("unknown slot `{}`; expected {expected}", t.word))
        })
    }

    fn mm(&mut self) -> Parsed<MmId> {
        self.slot('m', "an address space", MMS).map(MmId)
    }

    fn handle(&mut self) -> Parsed<Handle> {
        self.slot('h', "a handle", HANDLES).map(Handle)
    }

    /// An address space and the address of one page.
    fn address(&mut self) -> Parsed<Range> {
        let mm = self.mm()?;
        let last = u64::from(PAGES - 1) * PAGE_SIZE;
        let expected = format!("the address of a page, 0x0 to {last:#x}");
        let t = self.next(&expected)?;
        let hex = t.word.strip_prefix("0x").filter(|h| !h.starts_with('+'));
        let addr = hex.and_then(|h| u64::from_str_radix(h, 16).ok());
        let addr = addr.filter(|a| a % PAGE_SIZE == 0 && *a <= last).ok_or_else(|| {
            ParseError::new(t.at, format!("unknown address `{}`; expected {expected}", t.word))
        })?;
        Ok(Range { mm, page: (addr / PAGE_SIZE) as u8, pages: 1 })
    }

    fn range(&mut self) -> Parsed<Range> {
        let at = self.address()?;
        let most = MAX_PAGES.min(PAGES - at.page);
        Ok(Range { pages: self.number("how many pages", 1, most)?, ..at })
    }
}

/// Digits and nothing else.
fn plain_number(word: &str) -> Option<u64> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok())?
}

fn no_such_option(op: Op, decoded: Option<Op>) -> String {
    let (What::Call(asked), Some(Op { what: What::Call(has), .. })) = (op.what, decoded) else {
        return format!("`{}` cannot do this", op.name());
    };
    let mut extra = Vec::new();
    extra.extend((asked.locked && !has.locked).then(|| "locked".into()));
    extra.extend((asked.nopages && !has.nopages).then(|| "nopages".into()));
    extra.extend((asked.flags - has.flags).iter().map(flags_text));
    format!("`{}` does not take {} here", op.name(), extra.join(", "))
}

fn unknown<'a>(
    at: At,
    kind: &str,
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
    expected: &str,
) -> ParseError {
    let close = known.into_iter().map(|k| (distance(word, k), k)).min();
    let hint = match close {
        Some((d, k)) if d <= 2 && d < k.len() => format!("did you mean `{k}`?"),
        _ => format!("expected {expected}"),
    };
    let word: String = word.chars().take(40).collect();
    ParseError::new(at, format!("unknown {kind} `{word}`; {hint}"))
}

/// Letters to change, add or drop to make one word of the other
/// (Levenshtein); large at once for words that are not nearly as long.
fn distance(a: &str, b: &str) -> usize {
    if a.len().abs_diff(b.len()) > 2 {
        return usize::MAX;
    }
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, &y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use gup_core::history::Base;
    use proptest::prelude::*;

    use super::*;
    use crate::generators::Generator;
    use crate::scenario::Scenario;

    const SEED: &str = "\
# gup reproducer, format 1
title:  pin_user_pages(FOLL_LONGTERM) fails with ENOMEM # on a movable page
kernel: v5.15
oracle: errno

# The story.

mmap m0 0x0 1 rw private anon
write m0 0x0 1    # lands in ZONE_MOVABLE
# and now
h0 = pin_user_pages m0 0x0 1 FOLL_WRITE|FOLL_LONGTERM   -> ENOMEM
# expected: 1, and this comment is too long for the line of the op it is on
";

    fn survives(text: &str) {
        let read: Reproducer = text.parse().unwrap();
        assert_eq!(read.to_string(), text);
    }

    /// What it printed reads back the same.
    fn stable(r: &Reproducer) {
        let text = r.to_string();
        let again: Reproducer = text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"));
        assert_eq!(&again, r, "{text}");
        assert_eq!(again.to_string(), text);
    }

    fn of_ops(ops: &[Op]) -> Reproducer {
        Reproducer::from_ops("v5.15 fixed".parse().unwrap(), ops)
    }

    #[test]
    fn what_it_prints_it_reads() {
        survives(SEED);
    }

    #[test]
    fn what_people_write_is_accepted() {
        let text = "# gup reproducer, format 1\r\nkernel:v5.15\r\n\
                    h1=get_user_pages_remote  m1 0x3F000 1 FOLL_WRITE | \\\r\n\
                    \tFOLL_FORCE locked fail retry 2 -> 1";
        let r: Reproducer = text.parse().unwrap();
        let op =
            "h1 = get_user_pages_remote m1 0x3f000 1 FOLL_WRITE|FOLL_FORCE locked fail retry 2";
        assert_eq!(r.lines[0].op.to_string(), op);
        assert_eq!(r.lines[0].result, Some(Ok(1)));
        stable(&r);
    }

    #[test]
    fn errors_name_the_place_and_what_was_expected() {
        let head = "# gup reproducer, format 1\nkernel: v5.15\n";
        for (op, column, words) in [
            ("frobnicate m0", 1, "unknown op `frobnicate`"),
            ("munmpa m0 0x0 1", 1, "did you mean `munmap`?"),
            ("munmap m4 0x0 1", 8, "unknown slot `m4`; expected an address space, m0 to m3"),
            ("unpin_user_pages h16", 18, "unknown slot `h16`"),
            ("munmap m0 0x0", 14, "the line ends; expected how many pages, 1 to 16"),
            ("munmap m0 0x3f000 2", 19, "expected how many pages, 1 to 1"),
            ("munmap m0 0x800 1", 11, "unknown address `0x800`"),
            ("h0 = pin_user_pages m0 0x0 1 FOLL_WRTE", 30, "did you mean `FOLL_WRITE`?"),
            ("h0 = pin_user_pages m0 0x0 1 FOLL_MLOCK", 30, "unknown flag `FOLL_MLOCK`"),
            ("h0 = pin_user_pages m0 0x0 1 0 locked", 6, "does not take locked"),
            ("pin_user_pages m0 0x0 1 0", 1, "expected a handle: `h0 = pin_user_pages ...`"),
            ("h0 = munmap m0 0x0 1", 1, "returns no pages"),
            ("h0 = pin_user_pages m0 0x0 1 0 -> ENOMEN", 35, "did you mean `ENOMEM`?"),
            ("mmap m0 0x0 1 rx private anon", 15, "unknown protection `rx`"),
            ("mmap m0 0x0 1 rw public", 18, "expected a kind of mapping: private anon,"),
            ("write m0 0x0 1 fail allok 1", 21, "did you mean `alloc`?"),
            ("write m0 0x0 1 fail alloc 9", 27, "which time it fails, 1 to 8"),
            ("write m0 0x0 1 1", 16, "unexpected `1`"),
            ("cpu \u{e9}\u{e9} 2", 5, "expected a CPU, 0 to 1"),
            ("write m0 0x0 1 \\", 1, "ends in a continued line"),
            ("tittle: x", 1, "did you mean `title`?"),
            ("kernel: v5.15", 9, "a second `kernel:`"),
            ("oracle: errmo", 9, "did you mean `errno`?"),
        ] {
            let e = format!("{head}{op}").parse::<Reproducer>().unwrap_err();
            assert_eq!((e.line, e.column), (3, column), "{op}: {e}");
            assert!(e.message.contains(words), "{op}: {e}");
        }
        for (text, words) in [
            ("", "expected `# gup reproducer, format 1`"),
            ("# gup reproducer, format 2", "reads format 1 only"),
            ("# gup reproducer, format 1\n", "no kernel; expected a line `kernel: v5.15`"),
            ("# gup reproducer, format 1\nkernel: v9\n", "unknown base `v9`"),
            ("# gup reproducer, format 1\n\u{1b}[0m", "a control character"),
        ] {
            let e = text.parse::<Reproducer>().unwrap_err();
            assert!(e.message.contains(words), "{text:?}: {e}");
        }
        let e = parse(b"# gup reproducer, format 1\nk\xff").unwrap_err();
        assert_eq!((e.line, e.column), (2, 2));
        let many = format!("{head}{}", "cpu 0\n".repeat(MAX_OPS + 1));
        assert!(many.parse::<Reproducer>().unwrap_err().message.contains("more than 64 ops"));
        assert!(parse(&[b'#'; MAX_BYTES + 1]).unwrap_err().message.contains("longer than"));
    }

    #[test]
    fn every_prefix_and_every_change_of_a_byte_ends_well() {
        for end in 0..SEED.len() {
            let _ = parse(&SEED.as_bytes()[..end]);
        }
        let mut bytes = SEED.as_bytes().to_vec();
        for i in 0..bytes.len() {
            for b in 0..=u8::MAX {
                let old = std::mem::replace(&mut bytes[i], b);
                if let Ok(r) = parse(&bytes) {
                    stable(&r);
                }
                bytes[i] = old;
            }
        }
    }

    #[test]
    fn generated_scenarios_survive() {
        let (mut generator, mut scenario) = (Generator::new(1, Base::V6_12), Scenario::default());
        for _ in 0..1_000 {
            generator.scenario(&mut scenario);
            stable(&of_ops(&scenario.ops));
        }
    }

    #[test]
    fn long_lines_are_continued_within_the_width() {
        let flags = CALL_FLAGS.map(|f| f.kernel_name().unwrap()).join("|");
        let op = format!("h15 = get_user_pages_remote m3 0x30000 16 {flags} locked fail isolate 8");
        let mut r = of_ops(&[op.parse().unwrap()]);
        r.lines[0].result = Some(Err(Errno::EOPNOTSUPP));
        stable(&r);
        assert!(r.to_string().lines().all(|l| l.len() <= WIDTH), "{r}");
    }

    proptest! {
        #[test]
        fn any_scenario_survives(bytes: Vec<u8>) {
            let opcodes = bytes.chunks_exact(RECORD).flat_map(|r| {
                let mut r: [u8; RECORD] = r.try_into().unwrap();
                r[0] %= 72;
                r
            });
            let ops = Scenario::decode(&opcodes.collect::<Vec<u8>>()).ops;
            let r = of_ops(&ops);
            stable(&r);
            prop_assert_eq!(r.to_string().parse::<Reproducer>().unwrap(), r);
        }

        #[test]
        fn any_comment_survives(title: String, story: Vec<String>, comment: String) {
            let mut r = of_ops(&["cpu 1".parse().unwrap()]);
            r.lines[0].comment = Some(comment.clone());
            r.lines[0].after = vec![comment];
            // As written by a program: the first print makes lines of it.
            let text = Reproducer { title, story, ..r }.to_string();
            stable(&text.parse().unwrap());
        }

        #[test]
        fn any_text_ends_well(lines in proptest::collection::vec("[ -~]{0,40}", 0..8)) {
            let text = format!("{HEADER}\nkernel: v5.15\n{}", lines.join("\n"));
            if let Ok(r) = text.parse::<Reproducer>() {
                stable(&r);
            }
        }
    }
}
