//! `pdlab report`: a run as one HTML page.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::Args;
use pdlab_bench::page::{self, Document};
use serde::Serialize;

use crate::exit::Failure;
use crate::measure::{say, say_json};

/// Options of `pdlab report`.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Directory of a run, such as runs/20261123T144016Z-ucx-rcache-invq
    #[arg(value_name = "RUN")]
    run: PathBuf,
    /// More runs, to stand beside it on the same page
    #[arg(value_name = "RUN")]
    others: Vec<PathBuf>,
    /// Write the page here [default: RUN/report.html]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Print where the page is as JSON
    #[arg(long)]
    json: bool,
}

/// What `--json` prints.
#[derive(Serialize)]
struct Written<'a> {
    page: &'a Path,
    bytes: usize,
    /// What is missing in the run, if anything.
    notes: &'a [String],
}

/// `pdlab report`. The page of a zoo links to those of its runs, which are made first.
pub(crate) fn run(args: &ReportArgs) -> Result<(), Failure> {
    if let Document::Zoo(zoo) = page::load(&args.run).map_err(Failure::bad_input)? {
        for row in &zoo.scenarios {
            let dir = args.run.join(&row.scenario);
            // One that failed before its first sample has no page, and the zoo's says why.
            if let Ok(document) = page::load(&dir) {
                write(&dir.join(page::FILE), &document.render())?;
            }
        }
    }
    let document = page::load(&args.run).map_err(Failure::bad_input)?;
    if !args.others.is_empty() {
        return together(args, document);
    }
    let html = document.render();
    let page = args.out.clone().unwrap_or_else(|| args.run.join(page::FILE));
    write(&page, &html)?;
    let notes = document.notes();
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if args.json {
        return say_json(&Written { page: &page, bytes: html.len(), notes });
    }
    say(&page.display().to_string());
    Ok(())
}

/// Several runs side by side, on a page in the directory of the first.
fn together(args: &ReportArgs, first: Document) -> Result<(), Failure> {
    let others = args.others.iter().map(|run| page::load(run));
    let documents: Result<Vec<Document>, _> = std::iter::once(Ok(first)).chain(others).collect();
    let documents = documents.map_err(Failure::bad_input)?;
    let html = page::render_together(documents).map_err(Failure::bad_input)?;
    let page = args.out.clone().unwrap_or_else(|| args.run.join(page::FILE));
    write(&page, &html)?;
    if args.json {
        return say_json(&Written { page: &page, bytes: html.len(), notes: &[] });
    }
    say(&page.display().to_string());
    Ok(())
}

/// Writes the page. A file that is there is replaced only if it is a page, too: whoever mistypes
/// `--out` loses nothing.
fn write(page: &Path, html: &str) -> Result<(), Failure> {
    if page.is_file() && !is_page(page) {
        let page = page.display();
        return Err(Failure::bad_input(format!(
            "{page} is there and is no page of pdlab report; choose another file with --out"
        )));
    }
    fs::write(page, html).map_err(|error| {
        let page = page.display();
        Failure::environment(format!("cannot write {page}: {error}; choose a file with --out"))
    })
}

/// Whether `file` is a page of ours; one that cannot be read is none.
fn is_page(file: &Path) -> bool {
    let mut head = Vec::new();
    let read = File::open(file).and_then(|file| file.take(512).read_to_end(&mut head));
    read.is_ok() && page::is_page(&head)
}
