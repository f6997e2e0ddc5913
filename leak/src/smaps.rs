//! `/proc/PID/smaps` and the files shaped like it, parsed line by line.
//!
//! A process may have 100,000 mappings, and `smaps` has 25 lines for each: nothing is kept but what is needed. The
//! format is described in <https://docs.kernel.org/filesystems/proc.html>.

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::ops::Range;

/// One mapping with its resident memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// First address behind it.
    pub end: u64,
    /// Whether it may be read or written; a guard may be neither.
    pub accessible: bool,
    /// Whether writes are shared with other processes or the file.
    pub shared: bool,
    /// Inode of the file, 0 for anonymous mappings.
    pub inode: u64,
    /// Path or `[name]`, empty for plain anonymous mappings.
    pub name: String,
    /// Resident bytes.
    pub rss_bytes: u64,
    /// Resident bytes that no file backs.
    pub anonymous_bytes: u64,
}

impl Mapping {
    /// Bytes of address space.
    pub fn len_bytes(&self) -> u64 {
        self.end - self.start
    }
}

/// Reads a list of mappings in small steps. The kernel keeps the process from changing its mappings for as long as it takes
/// to write down what one read asks for, and longer if the reader loses its processor meanwhile.
pub fn in_small_steps(list: File) -> BufReader<File> {
    /// Some three lines of `maps`. The kernel's own steps are pages, 50 lines.
    const STEP_BYTES: usize = 256;
    BufReader::with_capacity(STEP_BYTES, list)
}

/// Reads all mappings. Lines that are no part of the format are an [`io::ErrorKind::InvalidData`].
pub fn read(mut reader: impl BufRead) -> io::Result<Vec<Mapping>> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Ok(mappings);
        }
        // File names may be any bytes; everything else is ASCII.
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end_matches('\n');
        if let Some((key, value)) = attribute(text) {
            let Some(mapping) = mappings.last_mut() else { return Err(invalid(text)) };
            match key {
                "Rss" => mapping.rss_bytes = kib(value).ok_or_else(|| invalid(text))?,
                "Anonymous" => mapping.anonymous_bytes = kib(value).ok_or_else(|| invalid(text))?,
                _ => {}
            }
        } else {
            let mapping = header(text).ok_or_else(|| invalid(text))?;
            outdate(&mut mappings, mapping.start, |before| before.end);
            mappings.push(mapping);
        }
    }
}

/// The lines `Key:   N kB` of smaps_rollup and status as (key, bytes); others are left out.
pub fn sizes(text: &str) -> impl Iterator<Item = (&str, u64)> {
    text.lines().filter_map(|line| {
        let (key, value) = attribute(line)?;
        Some((key, kib(value)?))
    })
}

/// `text`, which is shaped like smaps, mapping by mapping, without those that were listed again when they had grown.
pub fn up_to_date(text: &str) -> impl Iterator<Item = &str> {
    /// Where a mapping ends, and where it stands in the text.
    struct Block {
        end: u64,
        lines: Range<usize>,
    }
    let mut blocks: Vec<Block> = Vec::new();
    let mut read = 0;
    for line in text.split_inclusive('\n') {
        let lines = read..read + line.len();
        read = lines.end;
        if let Some(mapping) = header(line.trim_end_matches('\n')) {
            outdate(&mut blocks, mapping.start, |block| block.end);
            blocks.push(Block { end: mapping.end, lines });
        } else if let Some(block) = blocks.last_mut() {
            block.lines.end = read;
        }
    }
    blocks.into_iter().map(|block| &text[block.lines])
}

/// Takes out of `listed` what lies where a mapping starts that is listed now. The list is no snapshot: between two lines
/// of it a mapping may grow over the one that came last, or be found a second time because its end has moved (Linux 6.18: in
/// 1 of 160 readings of a process that mapped 30,000 times per second). What comes later is newer.
fn outdate<T>(listed: &mut Vec<T>, start: u64, end: impl Fn(&T) -> u64) {
    while listed.pop_if(|before| end(before) > start).is_some() {}
}

/// `Key: value`, where the key has no blank: a header's first word has no colon at its end.
fn attribute(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.split_once(':')?;
    let word = key.starts_with(|c: char| c.is_ascii_uppercase())
        && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    word.then(|| (key, value.trim()))
}

fn kib(value: &str) -> Option<u64> {
    value.strip_suffix("kB")?.trim_end().parse::<u64>().ok()?.checked_mul(1024)
}

/// `START-END PERMS OFFSET DEVICE INODE [NAME]`, where the name may contain blanks.
fn header(line: &str) -> Option<Mapping> {
    let (range, rest) = line.split_once(' ')?;
    let (start, end) = range.split_once('-')?;
    let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
    let (perms, rest) = rest.split_once(' ')?;
    let (_offset, rest) = rest.split_once(' ')?;
    let (_device, rest) = rest.split_once(' ')?;
    let (inode, name) = rest.split_once(' ').unwrap_or((rest, ""));
    if perms.len() != 4 || start > end {
        return None;
    }
    Some(Mapping {
        start,
        end,
        accessible: perms.contains(['r', 'w', 'x']),
        shared: perms.ends_with('s'),
        inode: inode.parse().ok()?,
        name: name.trim_start_matches(' ').to_string(),
        rss_bytes: 0,
        anonymous_bytes: 0,
    })
}

fn invalid(line: &str) -> io::Error {
    let shown: String = line.chars().take(80).collect();
    io::Error::new(io::ErrorKind::InvalidData, format!("no line of smaps: {shown:?}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TEXT: &[u8] = b"\
55d0-55f0 r-xp 00001000 fe:00 42 /usr/bin/a name: with (deleted)
Size:                  4 kB
Rss:                   8 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
7f00-7f80 rw-p 00000000 00:00 0
Rss:                  16 kB
Anonymous:            12 kB
7f80-7f90 ---p 00000000 00:00 0 [anon: guard]
";

    #[test]
    fn mappings_have_their_attributes() {
        let mappings = read(TEXT).unwrap();
        assert_eq!(mappings.len(), 3);
        assert_eq!(mappings[0].name, "/usr/bin/a name: with (deleted)");
        assert_eq!((mappings[0].rss_bytes, mappings[0].inode), (8192, 42));
        assert_eq!((mappings[1].rss_bytes, mappings[1].anonymous_bytes), (16384, 12288));
        assert_eq!(mappings[1].name, "");
        assert_eq!(mappings[1].len_bytes(), 0x80);
        assert!(!mappings[2].accessible && mappings[2].rss_bytes == 0);
    }

    #[test]
    fn a_mapping_that_grew_while_the_list_was_read_is_counted_once() {
        let upwards = "7f00-7f80 rw-p 0 0:0 0\nRss: 16 kB\n7f00-7f90 rw-p 0 0:0 0\nRss: 20 kB\n";
        let downwards = "7e00-7e10 rw-p 0 0:0 0\nRss: 4 kB\n7f00-7f10 rw-p 0 0:0 0\nRss: 8 kB\n\
                         7e80-8f00 rw-p 0 0:0 0\nRss: 64 kB\n";
        for (text, rss_kib) in [(upwards, vec![20]), (downwards, vec![4, 64])] {
            let mappings = read(text.as_bytes()).unwrap();
            let read: Vec<u64> = mappings.iter().map(|mapping| mapping.rss_bytes / 1024).collect();
            assert_eq!(read, rss_kib);
            let summed: u64 = up_to_date(text).flat_map(sizes).map(|(_, bytes)| bytes / 1024).sum();
            assert_eq!(summed, rss_kib.iter().sum::<u64>());
        }
    }

    #[test]
    fn garbage_is_an_error_that_shows_the_line() {
        for bad in [
            &b"Rss: 4 kB\n"[..],
            b"hello\n",
            b"1-0 rw-p 0 0:0 0\n",
            b"0-1 rw-p 0 0:0 0\nRss: many kB\n",
        ] {
            let error = read(bad).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData);
            assert!(error.to_string().contains("no line of smaps"), "{error}");
        }
    }

    #[test]
    fn our_own_smaps_parse_and_add_up() {
        let file = File::open("/proc/self/smaps").unwrap();
        let mappings = read(BufReader::new(file)).unwrap();
        assert!(mappings.iter().any(|m| m.name == "[heap]" && m.rss_bytes > 0));
        assert!(
            mappings
                .windows(2)
                .all(|pair| pair[0].end <= pair[1].start || pair[1].name == "[vsyscall]")
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = read(&bytes[..]);
            let text = String::from_utf8_lossy(&bytes);
            let _ = up_to_date(&text).flat_map(sizes).count();
        }

        #[test]
        fn damaged_smaps_are_read_or_refused(at in 0..TEXT.len(), byte in any::<u8>(), cut in 0..TEXT.len()) {
            let mut text = TEXT.to_vec();
            text[at] = byte;
            text.truncate(cut);
            let _ = read(&text[..]);
        }
    }
}
