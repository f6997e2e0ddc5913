//! One self-contained HTML page of a run: verdict, plots, settings, and how to repeat it.
//!
//! Files of a run go in, a string comes out. Nothing is measured here, and nothing judged by rules
//! of its own: slopes and verdicts are [`pdlab_leak`]'s, sentences are
//! [`pdlab_leak::explain`]'s. The page has no scripts and makes no requests.
//!
//! - [`load`] reads a directory (the only part that touches the disk), [`Document::render`] makes
//!   the page.
//! - [`run`]: a run from the text of its files, whole or cut off, and its page. Start here.
//! - [`growth`]: a gauge against work with the fitted line; `memory`: the plot of it.
//! - `owners`, `roles`, [`cures`], `facts`: the other sections.
//! - `flame`: growth by call stack; [`compare`]: two runs beside each other.
//! - [`watch`]: the page of a process that was watched.
//! - [`matrix`] and its `heat` maps; [`zoo`]: the pages of many runs.
//! - [`transfer`]: bandwidth and latency of `pdlab bench transfer`.
//! - [`mod@bench`]: runs of the load generator, one or several side by side.
//! - [`markdown`]: the main plot for the page of a CI job.
//! - `svg`, `scale`, `thin`: plots: places, ticks, fewer points. `html`, `words`: page and phrases.

pub mod bench;
pub mod compare;
pub mod cures;
mod error;
mod facts;
#[cfg(test)]
mod fixture;
mod flame;
mod folder;
pub mod growth;
mod heat;
mod html;
mod markdown;
pub mod matrix;
mod memory;
mod owners;
mod roles;
pub mod run;
mod scale;
mod svg;
mod thin;
pub mod transfer;
pub mod watch;
mod words;
pub mod zoo;

pub use error::PageError;
pub use folder::{load, load_two};
pub use html::is_page;
pub use markdown::markdown;

use bench::BenchRun;
use bench::sweep::SweepRun;
use compare::Comparison;
use matrix::Matrix;
use run::Run;
use transfer::Transfer;
use watch::WatchRun;
use zoo::Zoo;

/// The name of the page of two runs, in the directory of the second.
pub const DIFFERENCE: &str = "difference.html";

/// The name of the page in the directory of its run.
pub const FILE: &str = "report.html";

/// What a page can be made of.
#[derive(Debug, Clone, PartialEq)]
pub enum Document {
    /// One run.
    Run(Box<Run>),
    /// A process that was watched.
    Watch(Box<WatchRun>),
    /// A scenario over versions and settings.
    Matrix(Box<Matrix>),
    /// Many scenarios.
    Zoo(Zoo),
    /// Two runs beside each other.
    Comparison(Box<Comparison>),
    /// Transfers over block sizes.
    Transfer(Box<Transfer>),
    /// A benchmark of a server.
    Bench(Box<BenchRun>),
    /// A benchmark of a server at many rates.
    Sweep(Box<SweepRun>),
}

/// One page of several runs, side by side. Only benchmarks can be compared so.
///
/// # Errors
/// [`PageError::Apart`] on another kind of run, and on more than can be told apart.
pub fn render_together(documents: Vec<Document>) -> Result<String, PageError> {
    let count = documents.len();
    let runs: Option<Vec<BenchRun>> = documents
        .into_iter()
        .map(|document| match document {
            Document::Bench(run) => Some(*run),
            _ => None,
        })
        .collect();
    match runs {
        Some(runs) if (1..=bench::MOST_RUNS).contains(&count) => Ok(bench::render(&runs)),
        _ => Err(PageError::Apart { count, most: bench::MOST_RUNS }),
    }
}

impl Document {
    /// The page.
    pub fn render(&self) -> String {
        match self {
            Self::Run(run) => run::render(run),
            Self::Watch(run) => watch::render(run),
            Self::Matrix(matrix) => matrix::render(matrix),
            Self::Zoo(zoo) => zoo::render(zoo),
            Self::Comparison(comparison) => comparison.render(),
            Self::Transfer(transfer) => transfer::render(transfer),
            Self::Bench(run) => bench::render(std::slice::from_ref(run)),
            Self::Sweep(sweep) => bench::sweep::render(sweep),
        }
    }

    /// What is missing in the files, if anything.
    pub fn notes(&self) -> &[String] {
        match self {
            Self::Run(run) => &run.notes,
            Self::Watch(run) => &run.notes,
            Self::Matrix(matrix) => &matrix.notes,
            Self::Zoo(zoo) => &zoo.notes,
            Self::Comparison(comparison) => comparison.notes(),
            Self::Transfer(transfer) => &transfer.notes,
            Self::Bench(_) | Self::Sweep(_) => &[],
        }
    }
}
