//! Mistakes that a role makes on purpose: the leaks of real connectors, in pdlab's own code.
//!
//! Each kind leaves out one step of the real path, as the bug that it stands for did. All are off
//! unless a user asks for them twice, by option and by environment. What is kept stays owned, so
//! that it shows in snapshots and is released when the process ends in order.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::ready::Role;

/// One mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FaultKind {
    /// Decode registers a staging region for every transfer and never deregisters it.
    RegionKept,
    /// Decode does not release the handle of a finished transfer.
    TransferKept,
    /// Prefill looks at notifications and never takes them out of the queue.
    NotificationUnread,
    /// Decode unpacks prefill's keys for every transfer and never destroys them.
    RkeyKept,
    /// Decode drops a connection and never closes its endpoint.
    EndpointKept,
    /// Decode never forgets a prefill that is gone.
    RemoteKept,
    /// Decode rejects a request and does not tell prefill, which keeps the KV until its lease ends.
    SilentReject,
    /// The same for a request whose client goes away before its KV was read.
    SilentAbort,
    /// Decode waits without end for a handshake and for a read.
    NoReadDeadline,
    /// Prefill never answers a handshake.
    Mute,
    /// Decode sends no heartbeats, and reads when the lease has expired.
    LateRead,
}

impl FaultKind {
    /// Every kind, in the order of the documentation.
    pub const ALL: [Self; 11] = [
        Self::RegionKept,
        Self::TransferKept,
        Self::NotificationUnread,
        Self::RkeyKept,
        Self::EndpointKept,
        Self::RemoteKept,
        Self::SilentReject,
        Self::SilentAbort,
        Self::NoReadDeadline,
        Self::Mute,
        Self::LateRead,
    ];

    /// The name on the command line, in scenario files and in results.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RegionKept => "region-kept",
            Self::TransferKept => "transfer-kept",
            Self::NotificationUnread => "notification-unread",
            Self::RkeyKept => "rkey-kept",
            Self::EndpointKept => "endpoint-kept",
            Self::RemoteKept => "remote-kept",
            Self::SilentReject => "silent-reject",
            Self::SilentAbort => "silent-abort",
            Self::NoReadDeadline => "no-read-deadline",
            Self::Mute => "mute",
            Self::LateRead => "late-read",
        }
    }

    /// The role that can make the mistake.
    pub fn role(self) -> Role {
        match self {
            Self::NotificationUnread | Self::Mute => Role::Prefill,
            Self::RegionKept
            | Self::TransferKept
            | Self::RkeyKept
            | Self::EndpointKept
            | Self::RemoteKept
            | Self::SilentReject
            | Self::SilentAbort
            | Self::NoReadDeadline
            | Self::LateRead => Role::Decode,
        }
    }

    /// What the role does wrong, in a sentence.
    pub fn mistake(self) -> &'static str {
        match self {
            Self::RegionKept => {
                "registers a staging region for every transfer and never deregisters it"
            }
            Self::TransferKept => "does not release the handle of a finished transfer",
            Self::NotificationUnread => {
                "looks at notifications and never takes them out of the queue"
            }
            Self::RkeyKept => "unpacks remote keys for every transfer and never destroys them",
            Self::EndpointKept => "never closes the endpoint of a connection that it drops",
            Self::RemoteKept => "never forgets a prefill that is gone",
            Self::SilentReject => "rejects a request and does not tell prefill",
            Self::SilentAbort => "aborts a request and does not tell prefill",
            Self::NoReadDeadline => "waits without end for a handshake and for a read",
            Self::Mute => "never answers a handshake",
            Self::LateRead => "sends no heartbeats and reads when the lease has expired",
        }
    }

    /// The public bug that the mistake stands for.
    pub fn bug(self) -> &'static str {
        match self {
            Self::RegionKept => "https://github.com/openucx/ucx/issues/9259",
            Self::TransferKept => "https://github.com/vllm-project/vllm/issues/18204",
            Self::NotificationUnread => "https://github.com/ai-dynamo/nixl/issues/1516",
            Self::RkeyKept => "https://github.com/open-mpi/ompi/issues/8954",
            Self::EndpointKept => "https://github.com/ai-dynamo/nixl/issues/2025",
            Self::RemoteKept => "https://github.com/vllm-project/vllm/issues/44424",
            Self::SilentReject => "https://github.com/vllm-project/vllm/pull/41269",
            Self::SilentAbort => "https://github.com/vllm-project/vllm/pull/20139",
            Self::NoReadDeadline | Self::Mute => {
                "https://github.com/vllm-project/vllm/issues/46283"
            }
            Self::LateRead => "https://github.com/vllm-project/vllm/issues/21570",
        }
    }
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The text names no fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown fault `{name}`: use one of {}", known())]
pub struct UnknownFault {
    name: String,
}

impl FromStr for FaultKind {
    type Err = UnknownFault;

    fn from_str(name: &str) -> Result<Self, UnknownFault> {
        let kind = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        kind.ok_or_else(|| UnknownFault { name: name.to_owned() })
    }
}

fn known() -> String {
    FaultKind::ALL.map(FaultKind::as_str).join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_same_everywhere() {
        for kind in FaultKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
            assert!(kind.bug().starts_with("https://"));
        }
        let unknown = "leak-a-bit".parse::<FaultKind>().unwrap_err().to_string();
        assert!(unknown.contains("leak-a-bit") && unknown.contains("rkey-kept"), "{unknown}");
    }
}
