//! The last lines of a log, for error messages.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::Path;

/// Lines shown: what fits on a screen together with the explanation around it.
const LINES: usize = 12;

/// Bytes read from the end of the file, so that a log of any size costs the same.
const BYTES: u64 = 8 * 1024;

/// The last lines of the log at `path`, as the tail of an error message.
pub fn last_words(path: &Path) -> String {
    let file = path.display();
    match last_bytes(path) {
        Ok(bytes) => match last_lines(&bytes).as_slice() {
            [] => format!("; its log {file} is empty"),
            lines => format!("; the last lines of {file}:\n    {}", lines.join("\n    ")),
        },
        Err(source) => format!("; its log {file} cannot be read: {source}"),
    }
}

fn last_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(BYTES)))?;
    let mut bytes = Vec::new();
    file.take(BYTES).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn last_lines(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(LINES);
    lines[first..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_come_in_order_and_blank_ones_do_not_count() {
        let text: String = (0..40).map(|n| format!("line {n}\n\n")).collect();
        let lines = last_lines(text.as_bytes());
        assert_eq!(lines.len(), LINES);
        assert_eq!(lines.first().unwrap(), "line 28");
        assert_eq!(lines.last().unwrap(), "line 39");
    }

    #[test]
    fn only_the_end_of_a_large_log_is_quoted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("role.log");
        std::fs::write(&path, "x".repeat(100_000) + "\nthe\nend\n").unwrap();
        let words = last_words(&path);
        assert!(words.starts_with(&format!("; the last lines of {}:\n    xx", path.display())));
        assert!(words.ends_with("xx\n    the\n    end"));
        assert!(words.len() < BYTES as usize + 200);
    }

    #[test]
    fn an_empty_or_missing_log_is_said_to_be() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("role.log");
        assert!(last_words(&path).contains("role.log cannot be read"));
        std::fs::write(&path, "\n").unwrap();
        assert!(last_words(&path).ends_with("role.log is empty"));
    }
}
