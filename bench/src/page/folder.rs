//! Reads the files of a run from its directory: all that touches the disk in here.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use super::Document;
use super::bench::BenchRun;
use super::bench::sweep::SweepRun;
use super::compare::Comparison;
use super::error::PageError;
use super::matrix::Matrix;
use super::run::{Run, RunFiles};
use super::transfer::Transfer;
use super::watch::WatchRun;
use super::zoo::Zoo;
use crate::repro::STACKS;
use crate::zoo::ZOO_FILE;

/// Of a log, as much as a reader looks at: the end, where the trouble is.
const LOG_LINES: usize = 30;

/// And not more than this of it in bytes, however long its lines are.
const LOG_BYTES: usize = 8192;

/// What is in the directory `dir`.
///
/// # Errors
/// If it cannot be read, is no directory of a run, or holds something that is none of a run.
pub fn load(dir: &Path) -> Result<Document, PageError> {
    // An error of its own for a directory that is not there: its files are all missing, too.
    fs::read_dir(dir).map_err(failed(dir))?;
    if let Some(json) = text(&dir.join("matrix.json"))? {
        return Ok(Document::Matrix(Box::new(Matrix::parse(&name(dir), &json)?)));
    }
    if let Some(json) = text(&dir.join(ZOO_FILE))? {
        let has_page = |run: &str| dir.join(run).join(super::FILE).is_file();
        return Ok(Document::Zoo(Zoo::parse(&name(dir), &json, has_page)?));
    }
    if let Some(json) = text(&dir.join("result.json"))?.filter(|json| Transfer::is_one(json)) {
        return Ok(Document::Transfer(Box::new(Transfer::parse(&name(dir), &json)?)));
    }
    let files = read(dir)?;
    if let Some(json) = files.result.as_deref().filter(|json| BenchRun::is_one(json)) {
        return Ok(Document::Bench(Box::new(BenchRun::parse(&name(dir), json)?)));
    }
    if let Some(json) = files.result.as_deref().filter(|json| SweepRun::is_one(json)) {
        return Ok(Document::Sweep(Box::new(SweepRun::parse(&name(dir), json)?)));
    }
    if let Some(plan) = text(&dir.join("watch.toml"))? {
        return Ok(Document::Watch(Box::new(WatchRun::parse(&files, &plan)?)));
    }
    if files.result.is_none() && files.samples.is_none() && files.scenario.is_none() {
        let wanted = vec!["result.json", "samples.csv", "scenario.toml", "matrix.json", ZOO_FILE];
        return Err(PageError::NoRun { path: dir.to_owned(), wanted });
    }
    Ok(Document::Run(Box::new(Run::parse(&files)?)))
}

/// The runs in the directories `before` and `after`, to be compared.
///
/// # Errors
/// As [`load`]; and if one is no single run, or they measured different things.
pub fn load_two(before: &Path, after: &Path) -> Result<Document, PageError> {
    let run = |dir: &Path| match load(dir)? {
        Document::Run(run) => Ok(*run),
        _ => Err(PageError::File {
            file: dir.display().to_string(),
            reason: "it holds many runs; give the directories of two single ones".to_owned(),
        }),
    };
    let comparison = Comparison::of(run(before)?, run(after)?)?;
    Ok(Document::Comparison(Box::new(comparison)))
}

fn read(dir: &Path) -> Result<RunFiles, PageError> {
    Ok(RunFiles {
        name: name(dir),
        result: text(&dir.join("result.json"))?,
        samples: text(&dir.join("samples.csv"))?,
        scenario: text(&dir.join("scenario.toml"))?,
        stacks: text(&dir.join(STACKS))?,
        cures: texts(&dir.join("mitigations"), "csv")?,
        logs: texts(&dir.join("logs"), "log")?
            .into_iter()
            .map(|(role, log)| (role, tail(&log)))
            .filter(|(_, log)| !log.is_empty())
            .collect(),
    })
}

/// The last part of the path; for `.` that of the directory meant.
fn name(dir: &Path) -> String {
    let real = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    real.file_name().map_or("run".into(), |name| name.to_string_lossy().into_owned())
}

/// The text of a file, `None` if there is none. What is no text is none of a run's, and the
/// parsers will say so.
fn text(path: &Path) -> Result<Option<String>, PageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed(path)(source)),
    }
}

/// The texts of the files in `dir` that end in `extension`, by their names without it.
fn texts(dir: &Path, extension: &str) -> Result<BTreeMap<String, String>, PageError> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(source) => return Err(failed(dir)(source)),
    };
    let mut texts = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(failed(dir))?.path();
        let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned());
        let (Some(stem), true) = (stem, path.extension().is_some_and(|e| e == extension)) else {
            continue;
        };
        texts.extend(text(&path)?.map(|text| (stem, text)));
    }
    Ok(texts)
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    let text = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
    let mut start = text.len().saturating_sub(LOG_BYTES);
    while !text.is_char_boundary(start) {
        start += 1;
    }
    text[start..].to_owned()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PageError {
    let path = path.to_owned();
    move |source| PageError::Read { path, source }
}
