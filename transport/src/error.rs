//! Every way in which a transport operation can fail: the operation, what it was on, the cure.

use std::time::Duration;

use crate::config::BackendKind;

/// Why an operation failed. [`kind`](Error::kind) gives the name under which it is counted.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A setting of the agent cannot be.
    #[error("cannot open an agent: {reason}")]
    BadConfig {
        /// Which setting, and what it may be.
        reason: String,
    },
    /// The backend could not be opened on this machine.
    #[error("cannot open the {backend} backend: {reason}")]
    Open {
        /// The backend that was asked for.
        backend: BackendKind,
        /// What went wrong, and the cure.
        reason: String,
    },
    /// Memory could not be mapped or registered.
    #[error("cannot register {len} bytes: {reason}")]
    Register {
        /// Length of the memory, in bytes.
        len: usize,
        /// Which limit or call failed, and how to raise it.
        reason: String,
    },
    /// The bytes handed to `connect` are not metadata of an agent.
    #[error("cannot use the peer's metadata: {reason}; fetch it again from the peer")]
    BadMetadata {
        /// What is wrong with them.
        reason: String,
    },
    /// The peer speaks another backend.
    #[error(
        "cannot connect to '{peer}': it uses {theirs}, this side uses {ours}; start both sides \
         with the same transport"
    )]
    BackendMismatch {
        /// Name of the peer's agent.
        peer: String,
        /// Our backend.
        ours: BackendKind,
        /// The peer's backend.
        theirs: BackendKind,
    },
    /// Nobody, or somebody else, answers at the peer's address.
    #[error("cannot reach '{peer}': {reason}")]
    Unreachable {
        /// Name of the peer's agent.
        peer: String,
        /// What happened on the way.
        reason: String,
    },
    /// The connection to the peer ended. Connect again, with fresh metadata if it restarted.
    #[error("lost '{peer}': {reason}; connect to it again")]
    PeerLost {
        /// Name of the peer's agent.
        peer: String,
        /// What ended the connection.
        reason: String,
    },
    /// The time the caller gave has passed. A read that ends so takes the connection with it.
    #[error("{operation} '{peer}' took longer than {after:?}; is the peer stopped or overloaded?")]
    Deadline {
        /// `connect to`, `read from` or `notify`.
        operation: &'static str,
        /// Name of the peer's agent.
        peer: String,
        /// The time that was given.
        after: Duration,
    },
    /// A byte range lies outside of its region.
    #[error(
        "{what} is out of range: offset {offset} + {len} bytes exceeds the region's {limit} bytes"
    )]
    OutOfRange {
        /// Which range: local or remote, and the descriptor's index.
        what: String,
        /// First byte asked for.
        offset: u64,
        /// Bytes asked for.
        len: u64,
        /// Length of the region; 0 if there is no such region.
        limit: u64,
    },
    /// Somebody else owns some of these bytes at the moment.
    #[error(
        "bytes {offset}..{end} of region {region} are in use by another access or transfer; wait \
         for it to end"
    )]
    Busy {
        /// Index of the region.
        region: u32,
        /// First byte of the range that was asked for.
        offset: usize,
        /// One past its last byte.
        end: usize,
    },
    /// Something exceeds a limit of [`Limits`](crate::Limits).
    #[error("{what} is {size}, the limit is {limit}; split it or raise the limit")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        size: u64,
        /// How large it may be.
        limit: u64,
    },
    /// The region is not registered with this agent, or no longer.
    #[error(
        "region {region} is not registered with this agent; register its memory with the agent that reads"
    )]
    NotRegistered {
        /// Index of the region at its own agent.
        region: u32,
    },
    /// The agent has been closed.
    #[error("cannot {operation}: the agent is closed")]
    Closed {
        /// What was tried.
        operation: &'static str,
    },
    /// This build or backend cannot do it.
    #[error("{reason}")]
    Unsupported {
        /// What is missing and how to get it.
        reason: String,
    },
    /// A system call failed.
    #[error("cannot {operation}: {source}")]
    Io {
        /// What was tried, and on what.
        operation: String,
        /// The system's reason.
        source: std::io::Error,
    },
}

impl Error {
    /// A short, stable name for counters and logs.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::BadConfig { .. } => "bad_config",
            Self::Open { .. } => "open",
            Self::Register { .. } => "register",
            Self::BadMetadata { .. } => "bad_metadata",
            Self::BackendMismatch { .. } => "backend_mismatch",
            Self::Unreachable { .. } => "unreachable",
            Self::PeerLost { .. } => "peer_lost",
            Self::Deadline { .. } => "deadline",
            Self::OutOfRange { .. } => "out_of_range",
            Self::Busy { .. } => "busy",
            Self::TooLarge { .. } => "too_large",
            Self::NotRegistered { .. } => "not_registered",
            Self::Closed { .. } => "closed",
            Self::Unsupported { .. } => "unsupported",
            Self::Io { .. } => "io",
        }
    }
}
