//! Files that rotate: a line a window, bounded on disk however long a soak runs.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::serve::Error;

/// A file that has grown beyond this is followed by another. At some 3 kB a window of a minute,
/// four days.
const LARGEST_BYTES: u64 = 16 << 20;

/// Files that are kept; the oldest goes when there is one more.
const KEPT: u64 = 8;

/// `windows-000000.jsonl` and its successors in one directory.
#[derive(Debug)]
pub struct Windows {
    dir: PathBuf,
    number: u64,
    bytes: u64,
    file: Option<File>,
    largest_bytes: u64,
}

impl Windows {
    /// Files in `dir`, which is empty.
    pub fn open(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir, number: 0, bytes: 0, file: None, largest_bytes: LARGEST_BYTES }
    }

    /// Appends a line.
    ///
    /// Fails if the disk does.
    pub fn write(&mut self, line: &str) -> Result<(), Error> {
        if self.bytes >= self.largest_bytes {
            self.number += 1;
            self.bytes = 0;
            self.file = None;
            if let Some(oldest) = self.number.checked_sub(KEPT) {
                // One that is gone already needs no removing.
                let _ = fs::remove_file(self.path(oldest));
            }
        }
        let path = self.path(self.number);
        let failed = |source| Error::File { action: "write", path: path.clone(), source };
        let mut file = match self.file.take() {
            Some(file) => file,
            None => OpenOptions::new().create(true).append(true).open(&path).map_err(failed)?,
        };
        file.write_all(format!("{line}\n").as_bytes()).map_err(failed)?;
        self.bytes += line.len() as u64 + 1;
        self.file = Some(file);
        Ok(())
    }

    fn path(&self, number: u64) -> PathBuf {
        self.dir.join(format!("windows-{number:06}.jsonl"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_rotate_and_the_oldest_goes() {
        let dir = tempfile::tempdir().unwrap();
        let mut windows = Windows { largest_bytes: 10, ..Windows::open(dir.path()) };
        for i in 0..24 {
            windows.write(&format!("line {i:02}")).unwrap();
        }
        let mut names: Vec<String> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names.len() as u64, KEPT);
        let last = fs::read_to_string(dir.path().join(names.last().unwrap())).unwrap();
        assert_eq!(last, "line 22\nline 23\n");
    }

    #[test]
    fn a_disk_that_fails_is_named() {
        let error = Windows::open(Path::new("/nowhere")).write("x").unwrap_err().to_string();
        assert!(error.starts_with("cannot write /nowhere/windows-000000.jsonl"), "{error}");
    }
}
