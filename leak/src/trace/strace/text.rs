//! What `strace -f -k` prints, parsed line by line. Pure; takes any text.
//!
//! With `-f` strace follows child processes, too, whose calls change another address space. Whether a new number is a
//! thread or a child is told by the `clone` that made it, which may return after the first calls of the new one are
//! printed: lines of unknown numbers wait until then.

use std::collections::HashMap;

use super::super::book::{Call, Returned};
use super::super::space::Remap;

/// Lines that wait for one number at most.
const MAX_WAITING: usize = 10_000;

/// A frame as strace prints it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TextFrame {
    /// `None` for what is no file.
    pub(super) path: Option<String>,
    pub(super) function: Option<String>,
    pub(super) offset: u64,
}

/// What a line, with the stack below it, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Event {
    /// A call has begun, and others are printed before it returns.
    Begun { tid: u32, call: Call },
    /// A call has returned. Where `Begun` came before, it is the same call.
    Done { tid: u32, call: Call, returned: Returned, value: i64, frames: Vec<TextFrame> },
    /// The process has called `exec`.
    Exec,
    /// A thread has ended.
    Ended { tid: u32 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kin {
    Thread,
    Child,
}

/// Puts lines together.
#[derive(Debug)]
pub(super) struct Parser {
    kin: HashMap<u32, Kin>,
    waiting: HashMap<u32, Vec<String>>,
    /// Calls that have begun: name and arguments.
    open: HashMap<u32, String>,
    /// A call that has returned and whose stack is being printed.
    last: Option<Event>,
}

impl Parser {
    /// For a process that has these threads.
    pub(super) fn new(threads: impl IntoIterator<Item = u32>) -> Parser {
        Parser {
            kin: threads.into_iter().map(|tid| (tid, Kin::Thread)).collect(),
            waiting: HashMap::new(),
            open: HashMap::new(),
            last: None,
        }
    }

    /// Takes the next line, and gives what is complete by it to `take`.
    pub(super) fn line(&mut self, line: &str, take: &mut impl FnMut(Event)) {
        if let Some(text) = line.strip_prefix(" > ") {
            if let (Some(Event::Done { frames, .. }), Some(frame)) = (&mut self.last, frame(text)) {
                frames.push(frame);
            }
            return;
        }
        self.end(take);
        let Some((tid, rest)) = line.trim_start().split_once(' ') else { return };
        let Ok(tid) = tid.parse::<u32>() else { return };
        self.of(tid, rest.trim_start(), take);
    }

    /// The text has ended, or pauses: the last stack is complete.
    pub(super) fn end(&mut self, take: &mut impl FnMut(Event)) {
        if let Some(event) = self.last.take() {
            take(event);
        }
    }

    fn of(&mut self, tid: u32, rest: &str, take: &mut impl FnMut(Event)) {
        match self.kin.get(&tid) {
            Some(Kin::Thread) => self.call(tid, rest, take),
            Some(Kin::Child) => {
                // What a child starts is no thread of ours either.
                if let Some((_, number)) = started(rest) {
                    self.kin.insert(number, Kin::Child);
                    self.waiting.remove(&number);
                }
            }
            None => {
                let waiting = self.waiting.entry(tid).or_default();
                if waiting.len() < MAX_WAITING {
                    waiting.push(rest.to_owned());
                }
            }
        }
    }

    fn call(&mut self, tid: u32, rest: &str, take: &mut impl FnMut(Event)) {
        if rest.starts_with("+++") {
            self.open.remove(&tid);
            return take(Event::Ended { tid });
        }
        if let Some(begun) = rest.strip_suffix("<unfinished ...>") {
            if let Some((call @ Call::Munmap { .. }, _)) = parse_call(begun) {
                take(Event::Begun { tid, call });
            }
            self.open.insert(tid, begun.trim_end().to_owned());
            return;
        }
        let whole = match rest.strip_prefix("<... ") {
            Some(resumed) => {
                let Some(begun) = self.open.remove(&tid) else { return };
                let Some((_, tail)) = resumed.split_once("resumed>") else { return };
                begun + tail
            }
            None => rest.to_owned(),
        };
        let Some((call, value)) = whole.rsplit_once(" = ") else { return };
        let Some(value) = value.split_whitespace().next().and_then(number) else { return };
        if let Some((kin, number)) = started(&whole) {
            self.kin.insert(number, kin);
            let waiting = self.waiting.remove(&number).unwrap_or_default();
            for line in waiting {
                self.of(number, &line, take);
                // Its stack was not kept.
                self.end(take);
            }
        } else if call.starts_with("execve") && value == 0 {
            take(Event::Exec);
        } else if let Some((call, returned)) = parse_call(call) {
            // strace prints -1 and the name of the error, the kernel returns its number.
            self.last = Some(Event::Done { tid, call, returned, value, frames: Vec::new() });
        }
    }
}

/// The number that a `clone` or `fork` has returned, and what it is.
fn started(whole: &str) -> Option<(Kin, u32)> {
    let name = whole.split('(').next()?;
    if !matches!(name, "clone" | "clone3" | "fork" | "vfork") {
        return None;
    }
    let number = whole.rsplit_once(" = ")?.1.split_whitespace().next()?.parse().ok()?;
    let kin = if whole.contains("CLONE_THREAD") { Kin::Thread } else { Kin::Child };
    Some((kin, number))
}

/// `munmap(0x7f00, 4096)`, whatever comes behind the arguments that matter.
fn parse_call(text: &str) -> Option<(Call, Returned)> {
    let (name, arguments) = text.split_once('(')?;
    let arguments: Vec<&str> =
        arguments.trim_end().trim_end_matches(')').split(',').map(str::trim).collect();
    let value = |i: usize| Some(number(arguments.get(i)?)? as u64);
    Some(match name {
        "mmap" => (Call::Mmap { len_bytes: value(1)? }, Returned::Mmap),
        "munmap" => (Call::Munmap { start: value(0)?, len_bytes: value(1)? }, Returned::Munmap),
        "mremap" => {
            let asked = Remap {
                old_start: value(0)?,
                old_len_bytes: value(1)?,
                new_len_bytes: value(2)?,
                keep_old: arguments.get(3).is_some_and(|flags| flags.contains("DONTUNMAP")),
            };
            (Call::Mremap(asked), Returned::Mremap)
        }
        "brk" => (Call::Brk, Returned::Brk),
        _ => return None,
    })
}

fn number(text: &str) -> Option<i64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(|value| value as i64),
        None if text == "NULL" => Some(0),
        None => text.parse().ok(),
    }
}

/// `/usr/lib/libc.so.6(__mmap+0x13) [0x1019b3]`
fn frame(text: &str) -> Option<TextFrame> {
    let (place, offset) = text.trim_end().strip_suffix(']')?.rsplit_once(" [0x")?;
    let offset = u64::from_str_radix(offset, 16).ok()?;
    // A path may contain a parenthesis, and so may a demangled name; a path is followed by one without a blank before.
    let split = place.match_indices('(').map(|(at, _)| at).find(|&at| !place[..at].ends_with(' '));
    let (path, symbol) = split.map_or((place, ""), |at| (&place[..at], &place[at + 1..]));
    let symbol = symbol.strip_suffix(')').unwrap_or(symbol);
    let function = symbol.rsplit_once("+0x").map_or(symbol, |(name, _)| name);
    let is_file = path.starts_with('/') || path == "[vdso]";
    Some(TextFrame {
        path: is_file.then(|| path.to_owned()),
        function: (!function.is_empty()).then(|| function.to_owned()),
        offset,
    })
}

#[cfg(test)]
mod tests;
