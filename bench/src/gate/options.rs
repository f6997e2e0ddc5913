//! The options of `pdlab gate`.

use std::path::PathBuf;

use clap::Args;

use crate::repro::ReproArgs;

/// Options of `pdlab gate`.
#[derive(Debug, Clone, Args)]
pub struct GateArgs {
    /// What to run, as `pdlab repro` takes it; cures are not proven
    #[command(flatten)]
    pub run: ReproArgs,
    /// What to compare with: a file made by --update, or the result.json of a run
    #[arg(long, value_name = "FILE", env = "PDLAB_BASELINE")]
    pub baseline: PathBuf,
    /// Take the baseline anew: run, and write FILE from what is found
    #[arg(long)]
    pub update: bool,
    /// Write what was found as JUnit XML
    #[arg(long, value_name = "FILE", env = "PDLAB_JUNIT")]
    pub junit: Option<PathBuf>,
    /// Append what was found as Markdown, for the page of a CI job ($GITHUB_STEP_SUMMARY)
    #[arg(long, value_name = "FILE", env = "PDLAB_SUMMARY")]
    pub summary: Option<PathBuf>,
}
