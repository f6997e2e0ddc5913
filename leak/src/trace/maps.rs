//! `/proc/PID/maps`: what is mapped now, and what of it is code.

use std::io::{self, BufRead};

use super::modules::Code;
use super::space::Span;

/// The mappings of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Maps {
    /// All of them, neighbours joined, in the order of their addresses.
    pub(crate) spans: Vec<Span>,
    /// Those that may be executed.
    pub(crate) code: Vec<Code>,
    /// Where `[heap]` ends, if there is one.
    pub(crate) heap_end: Option<u64>,
}

impl Maps {
    /// Reads them line by line; what is no line of the format is left out.
    pub(crate) fn read(mut reader: impl BufRead) -> io::Result<Maps> {
        let mut maps = Maps::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(maps);
            }
            // File names may be any bytes; everything else is ASCII.
            maps.take(String::from_utf8_lossy(&line).trim_end_matches('\n'));
        }
    }

    /// `START-END PERMS OFFSET DEVICE INODE [NAME]`, where the name may contain blanks.
    fn take(&mut self, line: &str) -> Option<()> {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let start = u64::from_str_radix(start, 16).ok()?;
        let end = u64::from_str_radix(end, 16).ok()?;
        let (perms, rest) = rest.split_once(' ')?;
        let (offset, rest) = rest.split_once(' ')?;
        let (_device, rest) = rest.split_once(' ')?;
        let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
        let name = name.trim_start_matches(' ');
        // vsyscall is the kernel's: it lies where no program can map anything.
        if start >= end || name == "[vsyscall]" {
            return None;
        }
        // Addresses ascend, but the list is no snapshot: a mapping that grew downwards since the line before, into
        // what that line showed, comes with its new start.
        let goes_back = self.spans.last().is_some_and(|last| last.end > start);
        let mut joined = Span { start, end };
        while let Some(last) = self.spans.pop_if(|last| last.end >= joined.start) {
            joined = Span { start: last.start.min(joined.start), end: last.end.max(joined.end) };
        }
        self.spans.push(joined);
        if name == "[heap]" {
            self.heap_end = Some(end);
        }
        if perms.contains('x') && !goes_back {
            self.code.push(Code {
                start,
                end,
                file_offset: u64::from_str_radix(offset, 16).ok()?,
                inode: inode.parse().ok()?,
                path: name.to_owned(),
            });
        }
        Some(())
    }

    /// Bytes that are mapped here and were not in `before`.
    pub(crate) fn new_bytes(&self, before: &[Span]) -> u64 {
        let all: u64 = self.spans.iter().map(Span::len_bytes).sum();
        let mut common = 0;
        let mut rest = before;
        for span in &self.spans {
            while let [first, ..] = rest
                && first.end <= span.start
            {
                rest = &rest[1..];
            }
            common += rest
                .iter()
                .take_while(|old| old.start < span.end)
                .filter_map(|old| old.overlap(span))
                .map(|both| both.len_bytes())
                .sum::<u64>();
        }
        all - common
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &[u8] = b"\
1000-3000 r--p 00000000 fe:00 42 /usr/lib/a b.so
3000-5000 r-xp 00002000 fe:00 42                  /usr/lib/a b.so (deleted)
8000-9000 rw-p 00000000 00:00 0                   [heap]
a000-b000 r-xp 00000000 00:00 0                   [vdso]
c000-d000 rwxp 00000000 00:00 0 \n\
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0 [vsyscall]
";

    #[test]
    fn neighbours_are_joined_and_code_is_told_apart() {
        let maps = Maps::read(TEXT).unwrap();
        let span = |start, end| Span { start, end };
        assert_eq!(
            maps.spans,
            [
                span(0x1000, 0x5000),
                span(0x8000, 0x9000),
                span(0xa000, 0xb000),
                span(0xc000, 0xd000)
            ]
        );
        assert_eq!(maps.heap_end, Some(0x9000));
        let names: Vec<&str> = maps.code.iter().map(|code| code.path.as_str()).collect();
        assert_eq!(names, ["/usr/lib/a b.so (deleted)", "[vdso]", ""]);
        assert_eq!((maps.code[0].file_offset, maps.code[0].inode), (0x2000, 42));
    }

    #[test]
    fn a_mapping_that_grew_downwards_while_the_list_was_read_is_kept_whole() {
        let zeros = "rw-p 00000000 00:00 0";
        let read = |ranges: &[&str]| {
            let text: String = ranges.iter().map(|range| format!("{range} {zeros}\n")).collect();
            Maps::read(text.as_bytes()).unwrap().spans
        };
        let whole = |start, end| vec![Span { start, end }];
        assert_eq!(read(&["4000-6000", "5000-9000"]), whole(0x4000, 0x9000));
        assert_eq!(read(&["4000-6000", "3000-9000"]), whole(0x3000, 0x9000));
        assert_eq!(read(&["1000-3000", "4000-6000", "2000-9000"]), whole(0x1000, 0x9000));
        assert_eq!(read(&["4000-6000", "4000-5000"]), whole(0x4000, 0x6000));
        let heap = format!("4000-6000 {zeros} [heap]\n4000-7000 {zeros} [heap]\n");
        assert_eq!(Maps::read(heap.as_bytes()).unwrap().heap_end, Some(0x7000));
    }

    #[test]
    fn what_is_new_is_counted_once() {
        let maps = Maps::read(TEXT).unwrap();
        assert_eq!(maps.new_bytes(&maps.spans), 0);
        assert_eq!(maps.new_bytes(&[]), 0x7000);
        let before = [Span { start: 0, end: 0x1800 }, Span { start: 0x2000, end: 0x8800 }];
        assert_eq!(maps.new_bytes(&before), 0x800 + 0x800 + 0x1000 + 0x1000);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Maps::read(&bytes[..]).is_ok());
        }

        #[test]
        fn damaged_maps_give_ordered_spans(at in 0..TEXT.len(), byte in any::<u8>()) {
            let mut text = TEXT.to_vec();
            text[at] = byte;
            let maps = Maps::read(&text[..]).unwrap();
            prop_assert!(maps.spans.windows(2).all(|pair| pair[0].end <= pair[1].start));
            let _ = maps.new_bytes(&[Span { start: 0x2000, end: 0xa800 }]);
        }
    }
}
