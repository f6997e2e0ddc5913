//! What can go wrong with a UCX build.

use std::path::PathBuf;

/// Why a UCX build could not be named, found or fetched. Every message says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is none of the three forms of a [`BuildSpec`](super::BuildSpec).
    #[error(
        "`{0}` names no UCX build: write a version (such as 1.19.0), `system`, or a path with a slash in it (such as ./ucx)"
    )]
    BadSpec(String),

    /// A version that is not pinned in this program.
    #[error(
        "UCX {version} is not known; known versions: {known}. For another one, give the path of a directory with libucp.so.0"
    )]
    UnknownVersion {
        /// The version asked for.
        version: String,
        /// Those that can be fetched.
        known: String,
    },

    /// There are wheels for x86_64 and aarch64 only.
    #[error(
        "there is no wheel of UCX {version} for {arch}; use `system` or the path of a UCX built for this machine"
    )]
    NoWheelForArch {
        /// The version asked for.
        version: String,
        /// This machine's architecture.
        arch: &'static str,
    },

    /// A known version that has not been fetched yet.
    #[error("UCX {version} is not in {cache_dir}; run `pdlab ucx fetch {version}` first")]
    NotFetched {
        /// The version asked for.
        version: &'static str,
        /// Where fetched builds are kept.
        cache_dir: PathBuf,
    },

    /// The path given does not exist.
    #[error("cannot use {path} as a UCX build: {source}")]
    NoSuchPath {
        /// The path as given.
        path: PathBuf,
        /// Why it cannot be opened.
        source: std::io::Error,
    },

    /// A directory, but no UCX in it.
    #[error(
        "there is no libucp.so.0 in {path} (looked in {looked_in}); give the directory of a UCX installation"
    )]
    NoLibucp {
        /// The directory as given.
        path: PathBuf,
        /// The places below it that were tried.
        looked_in: String,
    },

    /// The file given is not libucp.
    #[error("{0} is not libucp; give libucp.so.0 itself or the directory of a UCX installation")]
    NotLibucp(PathBuf),

    /// The machine has no UCX of its own.
    #[error(
        "no libucp.so.0 is installed on this system (asked ldconfig, looked in {looked_in}); install it (Debian: `apt install libucx0`) or run `pdlab ucx fetch 1.19.0`"
    )]
    NoSystemUcx {
        /// The directories that were tried.
        looked_in: String,
    },

    /// The library is for another machine, or no library at all.
    #[error("{path} is {found}, and this machine needs a 64-bit ELF library for {wanted}")]
    WrongArch {
        /// The library.
        path: PathBuf,
        /// What it is.
        found: String,
        /// This machine's architecture.
        wanted: &'static str,
    },

    /// `python3` could not be started.
    #[error(
        "fetching UCX needs {python} with pip, and it could not be started: {source}; install it (Debian: `apt install python3 python3-pip`)"
    )]
    NoPython {
        /// The interpreter that was tried.
        python: PathBuf,
        /// Why it did not start.
        source: std::io::Error,
    },

    /// The interpreter has no pip.
    #[error("{0} has no pip, which fetches UCX; install it (Debian: `apt install python3-pip`)")]
    NoPip(PathBuf),

    /// pip ended with an error.
    #[error(
        "pip could not download {requirement}: {output}\nCheck the network, or pip's settings for a proxy or a mirror (`python3 -m pip config list`)"
    )]
    PipFailed {
        /// Package and version.
        requirement: String,
        /// The last lines pip printed.
        output: String,
    },

    /// The wheel is not the one that is pinned.
    #[error(
        "{wheel} has SHA-256 {found}, but {expected} is pinned: it was not unpacked. A mirror may serve another file under this name"
    )]
    HashMismatch {
        /// File name of the wheel.
        wheel: String,
        /// The pinned hash.
        expected: String,
        /// The hash of what was downloaded.
        found: String,
    },

    /// The wheel cannot be read.
    #[error("cannot unpack {wheel}: {reason}")]
    BadWheel {
        /// File name of the wheel.
        wheel: String,
        /// What is wrong with it.
        reason: String,
    },

    /// A file or directory of the cache could not be read or written.
    #[error("cannot {action} {path}: {source}; check the directory's owner and free space")]
    Cache {
        /// `create`, `write`, …
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
}

impl Error {
    /// Adapter for `map_err` on file operations below the cache directory.
    pub(super) fn cache(
        action: &'static str,
        path: impl Into<PathBuf>,
    ) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Cache { action, path, source }
    }
}
