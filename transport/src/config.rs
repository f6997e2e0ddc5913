//! What an agent is opened with: backend, address, UCX build, limits.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;
use crate::rdma::{Completion, RdmaSettings};

/// A way of moving bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum BackendKind {
    /// Plain sockets. Always there.
    Tcp,
    /// UCX, opened at run time. Needs the cargo feature `ucx` and a UCX build.
    Ucx,
    /// RDMA verbs, libibverbs opened at run time. Needs the cargo feature `verbs` and a device.
    Verbs,
}

impl BackendKind {
    /// Every backend, the usable and the others.
    pub const ALL: &[Self] = &[Self::Tcp, Self::Ucx, Self::Verbs];

    /// The lowercase name, as in flags and results.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Ucx => "ucx",
            Self::Verbs => "verbs",
        }
    }
}

impl fmt::Display for BackendKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no backend.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown transport '{name}'; choose {expected}")]
pub struct UnknownBackend {
    name: String,
    expected: &'static str,
}

impl FromStr for BackendKind {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let mut all = Self::ALL.iter().copied();
        all.find(|kind| kind.as_str() == name)
            .ok_or_else(|| UnknownBackend { name: name.to_owned(), expected: "tcp, ucx or verbs" })
    }
}

/// Which backend to open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum BackendChoice {
    /// Verbs where there is an RDMA device, else UCX when it is usable here, else TCP. [`Agent::why`](crate::Agent::why) tells the reason.
    #[default]
    Auto,
    /// This one or an error.
    Only(BackendKind),
}

impl fmt::Display for BackendChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Only(kind) => kind.fmt(f),
        }
    }
}

impl FromStr for BackendChoice {
    type Err = UnknownBackend;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        if name == "auto" {
            return Ok(Self::Auto);
        }
        name.parse().map(Self::Only).map_err(|error: UnknownBackend| UnknownBackend {
            expected: "auto, tcp, ucx or verbs",
            ..error
        })
    }
}

/// A UCX installation that can be opened: where it is and what to call it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UcxBuild {
    /// How the user named it: a version, `system`, or a path.
    pub label: String,
    /// The directory that holds the libraries.
    pub directory: PathBuf,
    /// Full path of `libucp.so.0` in it.
    pub libucp: PathBuf,
}

/// Everything an agent needs to know when it opens. Resolved once, by the program.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// What peers see as [`Notification::from`](crate::Notification::from). 1 to 255 bytes.
    pub name: String,
    /// Which backend. Default: [`BackendChoice::Auto`].
    pub choice: BackendChoice,
    /// Where TCP listens, and verbs for the exchange of queue pairs, on a port that the kernel picks. Default: 127.0.0.1. An unspecified
    /// address is rejected, because peers could not connect to it.
    pub listen: IpAddr,
    /// The UCX build to open. Default: none, which makes UCX unusable.
    pub ucx: Option<UcxBuild>,
    /// The `UCX_*` variables of the process's environment, by name. UCX reads them itself; they
    /// are here so that this crate's own defaults leave alone what the user has set. Default:
    /// none.
    pub ucx_variables: BTreeMap<String, String>,
    /// Which RDMA device verbs opens, and how it uses it.
    pub rdma: RdmaSettings,
    /// How completions of UCX are learnt of. With polling, callers that wait for a read drive UCX
    /// themselves, and its thread never sleeps while nobody waits: a core per agent.
    pub ucx_completion: Completion,
    /// Bounds. The defaults suit one engine with a handful of peers.
    pub limits: Limits,
    /// Mistakes to make on purpose. Default: none.
    pub faults: Faults,
}

impl AgentConfig {
    /// Defaults for everything but the name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            choice: BackendChoice::Auto,
            listen: IpAddr::V4(Ipv4Addr::LOCALHOST),
            ucx: None,
            ucx_variables: BTreeMap::new(),
            rdma: RdmaSettings::default(),
            ucx_completion: Completion::default(),
            limits: Limits::default(),
            faults: Faults::default(),
        }
    }
}

/// Bounds on everything that a peer or a caller could otherwise grow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Regions that may be registered at a time. Default 64.
    pub regions: usize,
    /// Descriptors in one read. Default 65,536: a prompt of 8,192 tokens in 16-token blocks over
    /// 80 layers, one descriptor per layer, needs 40,960. A TCP server refuses larger requests.
    pub descriptors_per_read: usize,
    /// Reads in flight per peer; the next one waits, within its deadline. Default 256.
    pub reads_per_peer: usize,
    /// Bytes in one notification. Default 16 KiB.
    pub notification_bytes: usize,
    /// Notifications that wait for [`Agent::next_notification`](crate::Agent::next_notification).
    /// Default 65,536. More are dropped and counted as `notifications_dropped`: a slow owner must
    /// not stop one-sided reads.
    pub notifications_queued: usize,
    /// Bytes of waiting notifications, together. Default 64 MiB. More are dropped and counted.
    pub notifications_queued_bytes: usize,
    /// Connections that a TCP or verbs server keeps open. Default 1,024. More are refused.
    pub connections: usize,
    /// How long a TCP or verbs server waits for a new connection to say hello. Default 10 s.
    pub handshake: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            regions: 64,
            descriptors_per_read: 65_536,
            reads_per_peer: 256,
            notification_bytes: 16 << 10,
            notifications_queued: 65_536,
            notifications_queued_bytes: 64 << 20,
            connections: 1_024,
            handshake: Duration::from_secs(10),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_round_trip() {
        for kind in BackendKind::ALL.iter().copied() {
            assert_eq!(kind.to_string().parse(), Ok(kind));
            assert_eq!(kind.to_string().parse(), Ok(BackendChoice::Only(kind)));
        }
        assert_eq!("auto".parse(), Ok(BackendChoice::Auto));
    }

    #[test]
    fn unknown_names_are_named() {
        let error = "rdma".parse::<BackendChoice>().unwrap_err();
        assert_eq!(error.to_string(), "unknown transport 'rdma'; choose auto, tcp, ucx or verbs");
        assert!("auto".parse::<BackendKind>().is_err());
        assert!("TCP".parse::<BackendKind>().is_err());
    }
}
