//! The directory of a run: where results, samples, the resolved scenario and logs go.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::{page, repro};

/// Where runs go unless `--out` says otherwise.
const RUNS: &str = "runs";

/// Files of a run, which a later run in the same directory replaces.
const OWN_FILES: [&str; 8] = [
    "result.json",
    "samples.csv",
    "scenario.toml",
    "watch.toml",
    "report.txt",
    "gate.json",
    repro::STACKS,
    repro::FOLDED,
];

/// Directories of a run, likewise.
const OWN_DIRS: [&str; 4] = ["logs", "mitigations", "steps", "windows"];

/// A directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}: {source}; choose another directory with --out", path.display())]
pub struct RunDirError {
    action: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// An existing directory of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunDir {
    path: PathBuf,
}

impl RunDir {
    /// Makes `out`, or without it `runs/<UTC time>-<name>`. A directory that exists is used
    /// again: what an earlier run left there under the names of a run is removed first, so that
    /// two runs are never mixed, and nothing else is touched.
    ///
    /// # Errors
    /// If it cannot be made, or holds something that cannot be removed.
    pub fn create(out: Option<&Path>, name: &str, now: SystemTime) -> Result<Self, RunDirError> {
        let dir = Self::open(&Self::place(out, name, now))?;
        for file in OWN_FILES {
            dir.remove(file, |path| fs::remove_file(path))?;
        }
        for sub in OWN_DIRS {
            dir.remove(sub, |path| fs::remove_dir_all(path))?;
        }
        // Others name their reports so, too.
        for file in [page::FILE, page::DIFFERENCE] {
            if fs::read(dir.file(file)).is_ok_and(|text| page::is_page(&text)) {
                dir.remove(file, |path| fs::remove_file(path))?;
            }
        }
        Ok(dir)
    }

    /// Makes `path` unless it exists, and leaves what is in it: for runs that are completed later.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn open(path: &Path) -> Result<Self, RunDirError> {
        fs::create_dir_all(path).map_err(failed("make", path))?;
        Ok(Self { path: path.to_owned() })
    }

    /// Where a run named `name` goes unless `out` says otherwise: `runs/<UTC time>-<name>`.
    pub fn place(out: Option<&Path>, name: &str, now: SystemTime) -> PathBuf {
        let unnamed = || unused(Path::new(RUNS), &format!("{}-{name}", utc(now)));
        out.map_or_else(unnamed, Path::to_owned)
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The path of `file` in it.
    pub fn file(&self, file: &str) -> PathBuf {
        self.path.join(file)
    }

    /// Makes the directory `sub` in it, `a/b` for one in another.
    ///
    /// # Errors
    /// If it cannot be made.
    pub fn make_dir(&self, sub: &str) -> Result<PathBuf, RunDirError> {
        let path = self.path.join(sub);
        fs::create_dir_all(&path).map_err(failed("make", &path))?;
        Ok(path)
    }

    /// Writes `file`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, file: &str, content: &[u8]) -> Result<(), RunDirError> {
        let path = self.file(file);
        fs::write(&path, content).map_err(failed("write", &path))
    }

    /// Writes `file` as indented JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write_json(&self, file: &str, value: &impl Serialize) -> Result<(), RunDirError> {
        self.write(file, &self.json(file, value)?)
    }

    /// Writes `file` in one piece: whoever reads it meanwhile, or after a crash, finds what was
    /// there before or what is there now.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace(&self, file: &str, content: &[u8]) -> Result<(), RunDirError> {
        let part = format!("{file}.part");
        self.write(&part, content)?;
        let path = self.file(file);
        fs::rename(self.file(&part), &path).map_err(failed("replace", &path))
    }

    /// As [`replace`](Self::replace), with indented JSON.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn replace_json(&self, file: &str, value: &impl Serialize) -> Result<(), RunDirError> {
        self.replace(file, &self.json(file, value)?)
    }

    fn json(&self, file: &str, value: &impl Serialize) -> Result<Vec<u8>, RunDirError> {
        let path = self.file(file);
        let mut json = serde_json::to_vec_pretty(value)
            .map_err(|source| failed("write", &path)(io::Error::other(source)))?;
        json.push(b'\n');
        Ok(json)
    }

    /// Adds `value` as a line of JSON to `file`. The line is there when this returns, whatever
    /// happens to the process afterwards.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn append_json_line(&self, file: &str, value: &impl Serialize) -> Result<(), RunDirError> {
        let path = self.file(file);
        let append = || {
            let mut line = serde_json::to_vec(value)?;
            line.push(b'\n');
            fs::OpenOptions::new().create(true).append(true).open(&path)?.write_all(&line)
        };
        append().map_err(failed("write", &path))
    }

    fn remove(
        &self,
        name: &str,
        remove: impl Fn(&Path) -> io::Result<()>,
    ) -> Result<(), RunDirError> {
        let path = self.file(name);
        match remove(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(failed("replace", &path)(source))
            }
            _ => Ok(()),
        }
    }
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> RunDirError {
    let path = path.to_owned();
    move |source| RunDirError { action, path, source }
}

/// `parent/name`, or `parent/name-2` and so on if two runs start within a second.
fn unused(parent: &Path, name: &str) -> PathBuf {
    let numbered = (2..).map(|n| parent.join(format!("{name}-{n}")));
    std::iter::once(parent.join(name))
        .chain(numbered)
        .find(|path| !path.exists())
        .expect("there are more numbers than directories")
}

/// `20261123T124430Z`: sorts by time and needs no quoting.
pub(crate) fn utc(now: SystemTime) -> String {
    let s = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (year, month, day) = date(s / 86_400);
    let (hour, minute, second) = (s / 3600 % 24, s / 60 % 60, s % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// `2026-11-23T12:44:30.000250`: UTC, as Python prints a naive time.
pub(crate) fn utc_micros(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let s = since.as_secs();
    let (year, month, day) = date(s / 86_400);
    let (hour, minute, second, us) = (s / 3600 % 24, s / 60 % 60, s % 60, since.subsec_micros());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{us:06}")
}

/// Year, month and day of the Gregorian calendar, `days` after 1970-01-01.
fn date(days: u64) -> (u64, u64, u64) {
    let leap = |year: u64| {
        (year.is_multiple_of(4) && !year.is_multiple_of(100)) || year.is_multiple_of(400)
    };
    let mut rest = days;
    let mut year = 1970;
    while rest >= 365 + u64::from(leap(year)) {
        rest -= 365 + u64::from(leap(year));
        year += 1;
    }
    let february = 28 + u64::from(leap(year));
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if rest < length {
            break;
        }
        rest -= length;
        month += 1;
    }
    (year, month, rest + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn times_are_utc() {
        let text = |s| utc(UNIX_EPOCH + Duration::from_secs(s));
        assert_eq!(text(0), "19700101T000000Z");
        assert_eq!(text(951_827_696), "20000229T123456Z");
        assert_eq!(text(1_709_251_199), "20240229T235959Z");
        assert_eq!(text(1_709_251_200), "20240301T000000Z");
        assert_eq!(text(4_102_444_799), "20991231T235959Z");
        assert_eq!(text(4_107_542_400), "21000301T000000Z");
    }

    #[test]
    fn a_run_in_the_same_directory_replaces_the_earlier_one_and_nothing_else() {
        let parent = tempfile::tempdir().unwrap();
        let out = parent.path().join("a/b");
        let dir = RunDir::create(Some(&out), "x", UNIX_EPOCH).unwrap();
        dir.write_json("result.json", &1).unwrap();
        fs::write(dir.make_dir("logs/main").unwrap().join("router.log"), "old").unwrap();
        dir.write("notes.txt", b"mine").unwrap();
        dir.write(page::FILE, b"<html>mine").unwrap();

        let dir = RunDir::create(Some(&out), "x", UNIX_EPOCH).unwrap();
        assert!(!dir.file("result.json").exists() && !dir.file("logs").exists());
        assert_eq!(fs::read(dir.file("notes.txt")).unwrap(), b"mine");
        assert_eq!(fs::read(dir.file(page::FILE)).unwrap(), b"<html>mine", "of another tool");

        let page = r#"<meta name="generator" content="pdlab report">"#;
        dir.write(page::FILE, page.as_bytes()).unwrap();
        let dir = RunDir::create(Some(&out), "x", UNIX_EPOCH).unwrap();
        assert!(!dir.file(page::FILE).exists(), "a page of the earlier run");
    }

    #[test]
    fn two_runs_of_a_second_get_two_directories() {
        let parent = tempfile::tempdir().unwrap();
        let first = unused(parent.path(), "run");
        fs::create_dir(&first).unwrap();
        assert_eq!(unused(parent.path(), "run"), parent.path().join("run-2"));
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let error = RunDir::create(Some(Path::new("/proc/x/y")), "x", UNIX_EPOCH).unwrap_err();
        let text = error.to_string();
        assert!(text.starts_with("cannot make /proc/x/y: ") && text.contains("--out"), "{text}");
    }
}
