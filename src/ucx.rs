//! `pdlab ucx list|fetch|path`: UCX builds.

use clap::Subcommand;
use pdlab_transport::builds::{BuildSpec, FetchStep};

use crate::exit::Failure;
use crate::transport_args::{build_failure, resolve, ucx_builds};

/// What to do with UCX builds.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum UcxCommand {
    /// Show the versions that can be fetched and what is here already
    List {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Fetch a version into the cache
    Fetch {
        /// Version, such as 1.19.0
        version: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Print the directory of a build
    Path {
        /// Version, `system`, or a path
        build: BuildSpec,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(command: &UcxCommand) -> Result<(), Failure> {
    match command {
        UcxCommand::List { json } => list(*json),
        UcxCommand::Fetch { version, json } => {
            let mut progress = |step: FetchStep| eprintln!("{}", describe(&step, version));
            let build = ucx_builds().fetch(version, &mut progress).map_err(build_failure)?;
            show_path(&build.directory, *json);
            Ok(())
        }
        UcxCommand::Path { build, json } => {
            show_path(&resolve(build)?.directory, *json);
            Ok(())
        }
    }
}

fn describe(step: &FetchStep, version: &str) -> String {
    match step {
        FetchStep::Waiting => "waiting for another fetch to end".to_owned(),
        FetchStep::Downloading { requirement } => format!("downloading {requirement} with pip"),
        FetchStep::Verifying => "checking its SHA-256".to_owned(),
        FetchStep::Unpacking => "unpacking the libraries".to_owned(),
        FetchStep::Ready => format!("UCX {version} is ready"),
    }
}

fn show_path(directory: &std::path::Path, json: bool) {
    if json {
        println!("{}", serde_json::json!({ "directory": directory }));
    } else {
        println!("{}", directory.display());
    }
}

fn list(json: bool) -> Result<(), Failure> {
    let all = ucx_builds().list();
    if json {
        println!("{}", serde_json::json!({ "builds": all }));
        return Ok(());
    }
    println!("{:<10} {:<14} where", "build", "wheel");
    for build in all {
        let place = match (&build.directory, build.fetchable) {
            (Some(directory), _) => directory.display().to_string(),
            (None, true) => format!("not here: pdlab ucx fetch {}", build.name),
            (None, false) if build.wheel.is_none() => "not installed".to_owned(),
            (None, false) => "no wheel for this machine".to_owned(),
        };
        println!("{:<10} {:<14} {place}", build.name, build.wheel.as_deref().unwrap_or("-"));
    }
    Ok(())
}
