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
    /// More runs: one shows what differs from the first; several of `pdlab bench serve` stand side by side
    #[arg(value_name = "RUN2")]
    others: Vec<PathBuf>,
    /// Write the page here [default: RUN/report.html, or RUN2/difference.html]
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
    match (page::load(&args.run).map_err(Failure::bad_input)?, args.others.as_slice()) {
        (document, []) => finish(args, &document, args.run.join(page::FILE)),
        (first @ Document::Bench(_), _) => together(args, first),
        (_, [other]) => {
            let document = page::load_two(&args.run, other).map_err(Failure::bad_input)?;
            finish(args, &document, other.join(page::DIFFERENCE))
        }
        (_, others) => Err(Failure::bad_input(format!(
            "{} runs do not fit on one page: give two to see what differs, or runs of `pdlab bench \
             serve` to see them side by side",
            1 + others.len()
        ))),
    }
}

/// Writes `document` to where it was asked for, or else to `default`, and says so.
fn finish(args: &ReportArgs, document: &Document, default: PathBuf) -> Result<(), Failure> {
    written(args, &document.render(), default, document.notes())
}

/// Several runs side by side, on a page in the directory of the first.
fn together(args: &ReportArgs, first: Document) -> Result<(), Failure> {
    let others = args.others.iter().map(|run| page::load(run));
    let documents: Result<Vec<Document>, _> = std::iter::once(Ok(first)).chain(others).collect();
    let documents = documents.map_err(Failure::bad_input)?;
    let html = page::render_together(documents).map_err(Failure::bad_input)?;
    written(args, &html, args.run.join(page::FILE), &[])
}

/// Writes a page and says where it is, and on stderr what is missing in it.
fn written(
    args: &ReportArgs,
    html: &str,
    default: PathBuf,
    notes: &[String],
) -> Result<(), Failure> {
    let page = args.out.clone().unwrap_or(default);
    write(&page, html)?;
    notes.iter().for_each(|note| eprintln!("note: {note}"));
    if args.json {
        return say_json(&Written { page: &page, bytes: html.len(), notes });
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
