//! Flags that choose and find a transport.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser};
use pdlab_transport::builds::{self, BuildSpec, Builds, UcxBuild};
use pdlab_transport::rdma::Completion;
use pdlab_transport::{AgentConfig, BackendChoice, BackendKind};

use crate::exit::Failure;
use crate::rdma_args::RdmaArgs;

/// The UCX version that is opened when none is named: the one of the default scenario.
pub(crate) const DEFAULT_UCX: &str = "1.19.0";

/// How KV blocks move.
#[derive(Debug, Clone, Args)]
pub(crate) struct TransportArgs {
    /// What moves KV blocks: auto, tcp, ucx or verbs
    #[arg(long, default_value = "auto", env = "PDLAB_TRANSPORT")]
    transport: BackendChoice,
    /// UCX build: a version such as 1.19.0, `system`, or a path
    #[arg(long, value_name = "BUILD", default_value = DEFAULT_UCX, env = "PDLAB_UCX")]
    ucx: BuildSpec,
    /// How callers learn that UCX has read for them: `event` sleeps; with `poll`, who waits for a read
    /// drives UCX itself, and takes a core per process
    #[arg(long, value_name = "HOW", default_value_t = Completion::Event, env = "PDLAB_UCX_COMPLETION")]
    ucx_completion: Completion,
    #[command(flatten)]
    rdma: RdmaArgs,
}

impl TransportArgs {
    /// As if they had been given on the command line, and everything else in the environment.
    pub(crate) fn new(transport: BackendChoice, ucx: BuildSpec) -> Result<Self, Failure> {
        /// Flags can only be parsed as part of a command.
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            transport: TransportArgs,
        }
        let alone = Alone::try_parse_from(["pdlab"]).map_err(Failure::bad_input)?;
        Ok(Self { transport, ucx, ..alone.transport })
    }

    /// The transport of an agent. With `auto`, a UCX build that is not there is no error.
    pub(crate) fn agent(&self, name: String, listen: IpAddr) -> Result<AgentConfig, Failure> {
        let ucx = match self.transport {
            BackendChoice::Only(BackendKind::Tcp | BackendKind::Verbs) => None,
            BackendChoice::Auto => ucx_builds().resolve(&self.ucx).ok(),
            BackendChoice::Only(_) => Some(resolve(&self.ucx)?),
        };
        Ok(AgentConfig {
            choice: self.transport,
            listen,
            ucx,
            ucx_variables: ucx_variables(),
            ucx_completion: self.ucx_completion,
            rdma: self.rdma.settings().map_err(Failure::bad_input)?,
            ..AgentConfig::new(name)
        })
    }
}

/// Finds a build; one that does not exist is bad input, one that is not here is the environment.
pub(crate) fn resolve(spec: &BuildSpec) -> Result<UcxBuild, Failure> {
    ucx_builds().resolve(spec).map_err(build_failure)
}

pub(crate) fn build_failure(error: builds::Error) -> Failure {
    use builds::Error::{BadSpec, NoLibucp, NoSuchPath, NotLibucp, UnknownVersion};
    match error {
        BadSpec(_) | UnknownVersion { .. } | NoSuchPath { .. } | NoLibucp { .. } | NotLibucp(_) => {
            Failure::bad_input(error)
        }
        _ => Failure::environment(error),
    }
}

/// UCX builds live in the user's cache directory.
pub(crate) fn ucx_builds() -> Builds {
    Builds::new(&cache_dir())
}

/// `PDLAB_CACHE_DIR`, else `$XDG_CACHE_HOME/pdlab`, else `~/.cache/pdlab`, else the temporary directory
/// (<https://specifications.freedesktop.org/basedir-spec/latest/>).
fn cache_dir() -> PathBuf {
    let var = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    var("PDLAB_CACHE_DIR")
        .or_else(|| var("XDG_CACHE_HOME").map(|dir| dir.join("pdlab")))
        .or_else(|| var("HOME").map(|dir| dir.join(".cache/pdlab")))
        .unwrap_or_else(|| std::env::temp_dir().join("pdlab-cache"))
}

/// The user's `UCX_*` variables, which win over every default of ours.
pub(crate) fn ucx_variables() -> BTreeMap<String, String> {
    std::env::vars().filter(|(name, _)| name.starts_with("UCX_")).collect()
}
