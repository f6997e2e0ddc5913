//! Server-sent events from bytes, as they come.
//!
//! Follows the event stream format of HTML
//! (<https://html.spec.whatwg.org/multipage/server-sent-events.html>) as far as `data` goes:
//! lines end in LF, CRLF or CR, several `data` lines make one event, comments and other fields
//! are skipped, and an event without its empty line at the end of the stream is no event.

use memchr::memchr2;

/// Longest event or line that is taken, in bytes: a token is a few hundred, a prompt's
/// log probabilities a few million.
pub const MAX_EVENT_BYTES: usize = 16 << 20;

/// An event or a line is longer than [`MAX_EVENT_BYTES`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is longer than {MAX_EVENT_BYTES} bytes")]
pub struct EventTooLong;

/// An incremental parser: feed it chunks, cut anywhere.
#[derive(Debug, Default, Clone)]
pub struct Parser {
    /// A line whose end has not come yet.
    line: Vec<u8>,
    /// The `data` of the event so far, each line followed by LF.
    data: Vec<u8>,
    /// The last byte was a CR: an LF that follows belongs to it.
    after_cr: bool,
    /// Any line has been seen; a byte order mark only counts before that.
    started: bool,
}

impl Parser {
    /// Takes the next bytes of the stream and calls `on_event` with the data of each event that
    /// they complete.
    ///
    /// Fails when an event outgrows [`MAX_EVENT_BYTES`]; the parser is of no further use then.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(&[u8]),
    ) -> Result<(), EventTooLong> {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_cr) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let Some(end) = memchr2(b'\n', b'\r', bytes) else {
                self.line.extend_from_slice(bytes);
                return self.check_size();
            };
            self.after_cr = bytes[end] == b'\r';
            if self.line.is_empty() {
                self.end_line(&bytes[..end], &mut on_event);
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(&bytes[..end]);
                self.end_line(&line, &mut on_event);
                line.clear();
                self.line = line;
            }
            self.check_size()?;
            bytes = &bytes[end + 1..];
        }
        Ok(())
    }

    /// Whether the stream stopped inside an event, so that something was lost.
    pub fn is_mid_event(&self) -> bool {
        !self.line.is_empty() || !self.data.is_empty()
    }

    fn end_line(&mut self, mut line: &[u8], on_event: &mut impl FnMut(&[u8])) {
        if !std::mem::replace(&mut self.started, true) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            // `data` ends with the LF of its last line, which is not part of the event.
            if let Some((_, data)) = self.data.split_last() {
                on_event(data);
                self.data.clear();
            }
        } else if let Some(rest) = line.strip_prefix(b"data") {
            let value = match rest {
                [] => rest,
                [b':', b' ', value @ ..] | [b':', value @ ..] => value,
                // Another field whose name begins with "data".
                _ => return,
            };
            self.data.extend_from_slice(value);
            self.data.push(b'\n');
        }
    }

    fn check_size(&self) -> Result<(), EventTooLong> {
        if self.line.len().max(self.data.len()) > MAX_EVENT_BYTES {
            Err(EventTooLong)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn events<'a>(chunks: impl IntoIterator<Item = &'a [u8]>) -> (Vec<String>, bool) {
        let mut parser = Parser::default();
        let mut events = Vec::new();
        for chunk in chunks {
            parser
                .push(chunk, |data| events.push(String::from_utf8_lossy(data).into_owned()))
                .unwrap();
        }
        (events, parser.is_mid_event())
    }

    fn all(stream: &str) -> Vec<String> {
        events([stream.as_bytes()]).0
    }

    #[test]
    fn events_end_with_an_empty_line() {
        assert_eq!(all("data: a\n\ndata: b\n\n"), ["a", "b"]);
        assert_eq!(all("data: a\r\n\r\ndata:b\r\rdata\n\n"), ["a", "b", ""]);
        assert_eq!(events([&b"data: a\n"[..]]), (vec![], true));
    }

    #[test]
    fn comments_and_other_fields_are_skipped() {
        let stream = ": keep-alive\n\nevent: x\nid: 1\ndatabase: y\ndata: a\n: in between\n\n\n\n";
        assert_eq!(all(stream), ["a"]);
    }

    #[test]
    fn data_lines_join() {
        assert_eq!(all("data: a\ndata:  b\ndata\n\n"), ["a\n b\n"]);
    }

    #[test]
    fn a_byte_order_mark_counts_only_in_front() {
        assert_eq!(all("\u{feff}data: a\n\n\u{feff}data: b\n\n"), ["a"]);
    }

    #[test]
    fn endless_lines_are_refused() {
        let mut parser = Parser::default();
        let chunk = vec![b'x'; MAX_EVENT_BYTES / 2];
        assert_eq!(parser.push(&chunk, |_| ()), Ok(()));
        assert_eq!(parser.push(&chunk, |_| ()), Ok(()));
        assert_eq!(parser.push(b"x", |_| ()), Err(EventTooLong));
    }

    proptest! {
        #[test]
        fn any_chunking_gives_the_same_events(
            lines in prop::collection::vec("(data|data:|data: |:|id: |)[a-c\u{e9} ]{0,6}(\n|\r\n|\r)", 0..20),
            cuts in prop::collection::vec(0_usize..200, 0..12),
        ) {
            let stream = lines.concat().into_bytes();
            let mut cuts: Vec<usize> = cuts.into_iter().map(|c| c.min(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces = events(cuts.windows(2).map(|w| &stream[w[0]..w[1]]));
            let whole = events([&stream[..]]);
            prop_assert_eq!(&pieces, &whole);
            let bytewise = events(stream.chunks(1));
            prop_assert_eq!(&bytewise, &whole);
        }

        #[test]
        fn what_is_written_is_read(
            texts in prop::collection::vec("[^\r\n]{0,30}", 0..8), newline in "(\n|\r\n|\r)"
        ) {
            let stream: String =
                texts.iter().map(|text| format!("data: {text}{newline}{newline}")).collect();
            prop_assert_eq!(all(&stream), texts);
        }
    }
}
