//! What is wrong in a file: counted, and the first ten told.

use std::path::Path;

use super::{Error, Source};

/// Bad lines that are shown.
const SHOWN: usize = 10;

/// The bad lines of one file.
#[derive(Debug)]
pub(super) struct BadLines {
    /// `line` or `entry`: what is numbered.
    unit: &'static str,
    count: usize,
    first: Vec<String>,
}

impl BadLines {
    pub(super) fn new(unit: &'static str) -> Self {
        Self { unit, count: 0, first: Vec::new() }
    }

    /// `number` counts from 1.
    pub(super) fn add(&mut self, number: usize, problem: impl std::fmt::Display) {
        self.count += 1;
        if self.first.len() < SHOWN {
            self.first.push(format!("  {} {number}: {problem}", self.unit));
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// What became of a file of which `good` lines were read: the number of bad ones and what to
    /// say of them if the source skips them.
    ///
    /// Fails if they are not to be skipped, and if nothing good is left. `example` is a good line.
    pub(super) fn judge(
        mut self,
        source: &Source,
        good: usize,
        example: &str,
    ) -> Result<(u64, Vec<String>), Error> {
        if good == 0 && self.count == 0 {
            self.add(1, "there is no request in the file");
        }
        if self.count == 0 {
            return Ok((0, Vec::new()));
        }
        if good == 0 || !source.skip_bad_lines {
            self.first.push(format!("  a {} looks like this: {example}", self.unit));
            if good > 0 {
                self.first.push("  --skip-bad-lines leaves them out".to_owned());
            }
            let path = source.path.clone();
            return Err(Error::Dataset { path, bad: self.count, first: self.first });
        }
        let told = format!(
            "skipped {} bad {}(s) of {}:\n{}",
            self.count,
            self.unit,
            source.path.display(),
            self.first.join("\n")
        );
        Ok((self.count as u64, vec![told]))
    }
}

/// Why a file could not be read.
pub(super) fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> Error + '_ {
    |source| Error::File { action: "read", path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bad(count: usize) -> BadLines {
        let mut bad = BadLines::new("line");
        (1..=count).for_each(|number| bad.add(number, "odd"));
        bad
    }

    #[test]
    fn bad_lines_refuse_the_file_unless_they_may_be_skipped() {
        let strict = Source::new("d.jsonl");
        assert_eq!(bad(0).judge(&strict, 3, "{}").unwrap(), (0, vec![]));
        let error = bad(12).judge(&strict, 3, "{}").unwrap_err();
        assert!(error.is_bad_input());
        let text = error.to_string();
        assert!(text.starts_with("d.jsonl: 12 bad line(s):\n  line 1: odd"), "{text}");
        assert!(text.contains("line 10") && !text.contains("line 11"), "{text}");
        assert!(text.ends_with("a line looks like this: {}\n  --skip-bad-lines leaves them out"));

        let lenient = Source { skip_bad_lines: true, ..strict };
        let (count, notes) = bad(12).judge(&lenient, 3, "{}").unwrap();
        assert_eq!(count, 12);
        assert!(notes[0].starts_with("skipped 12 bad line(s) of d.jsonl:\n  line 1: odd"));
        assert!(bad(1).judge(&lenient, 0, "{}").is_err());
    }

    #[test]
    fn a_file_without_requests_is_an_error() {
        let text = bad(0).judge(&Source::new("x"), 0, "{}").unwrap_err().to_string();
        assert!(text.contains("no request in the file"), "{text}");
    }
}
