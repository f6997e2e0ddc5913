//! What can be wrong before the router serves.

use std::net::SocketAddr;

/// The router cannot start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken, not ours, or privileged.
    #[error(
        "the router cannot listen on {addr}: {source}; choose another address, or port 0 for any free port"
    )]
    Listen {
        /// The address that was asked for.
        addr: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// A setting has a value that cannot work.
    #[error("router setting `{setting}`: {problem}")]
    Setting {
        /// The field of [`RouterConfig`](crate::RouterConfig).
        setting: &'static str,
        /// What is wrong with it and what would be right.
        problem: String,
    },
    /// A worker's address cannot be understood.
    #[error("worker address `{url}`: {problem}; write http://HOST:PORT")]
    WorkerUrl {
        /// The address as it was given.
        url: String,
        /// What is wrong with it.
        problem: &'static str,
    },
}
