//! Opening `libucp.so.0` at run time, once per process.

use std::error::Error as _;
use std::ffi::{CStr, c_int, c_uint};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use libloading::os::unix::{Library, RTLD_LAZY, RTLD_LOCAL, RTLD_NOW};

use super::ffi::{Functions, Status};
use super::rcache::{Files, Rcache};
use crate::config::{BackendKind, UcxBuild};
use crate::error::Error;

/// What libucp depends on, dependencies first. Opened by full path before libucp, because not
/// every build carries a search path that finds its own siblings, and the environment may have
/// one that finds those of another build.
const SIBLINGS: [&str; 3] = ["libucm.so.0", "libucs.so.0", "libuct.so.0"];

/// The oldest UCX whose operations accept a memory handle.
const OLDEST: Version = Version { major: 1, minor: 13, release: 0 };

/// UCX's version, as it reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version {
    pub(super) major: c_uint,
    pub(super) minor: c_uint,
    pub(super) release: c_uint,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.release)
    }
}

/// A loaded UCX. It lives as long as the process: UCX patches libc's `munmap` and its kin to call
/// into itself, starts a thread, and installs handlers, none of which `dlclose` takes back.
pub(super) struct Ucx {
    pub(super) f: Functions,
    pub(super) version: Version,
    pub(super) rcache: Rcache,
    libucp: PathBuf,
}

static LOADED: Mutex<Option<&'static Ucx>> = Mutex::new(None);

impl Ucx {
    /// Loads `build`, or returns it if it is loaded already.
    ///
    /// # Errors
    /// [`Error::Open`] if the dynamic linker refuses it, if it is too old, or if this process has
    /// loaded another UCX before: the libraries of two versions have the same names, and the
    /// dynamic linker would connect the second libucp with the first one's libucs.
    pub(super) fn load(build: &UcxBuild) -> Result<&'static Self, Error> {
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(ucx) = *loaded {
            if ucx.libucp == build.libucp {
                return Ok(ucx);
            }
            return Err(refused(format!(
                "this process has loaded {} already and cannot load {}; use one UCX per process",
                ucx.libucp.display(),
                build.libucp.display()
            )));
        }
        let ucx: &'static Self = Box::leak(Box::new(Self::load_first(build)?));
        super::leaving::wait_at_exit();
        *loaded = Some(ucx);
        Ok(ucx)
    }

    fn load_first(build: &UcxBuild) -> Result<Self, Error> {
        for sibling in SIBLINGS {
            let path = build.directory.join(sibling);
            if path.exists() {
                // Lazily, because libucm calls into libucs, which comes only after it. If one
                // cannot be loaded, libucp will not load either, and says why.
                let _ = open(&path, RTLD_LAZY);
            }
        }
        let library = open(&build.libucp, RTLD_NOW)?;
        // SAFETY: `open` leaks what it opens, so nothing is ever unloaded. That the file is
        // libucp 1.x is what its name says; a foreign library lacks the symbols.
        let f = unsafe { Functions::load(library) }.map_err(|error| {
            let path = build.libucp.display();
            refused(format!("{path} is no UCX that this program can use: {}", cause(&error)))
        })?;
        let mut version = Version { major: 0, minor: 0, release: 0 };
        let Version { major, minor, release } = &mut version;
        // SAFETY: three valid, distinct pointers to write to.
        unsafe { (f.ucp_get_version)(major, minor, release) };
        if version < OLDEST || version.major > 1 {
            return Err(refused(format!(
                "{} is UCX {version}, and this program needs 1.{} or a later 1.x; \
                 run `pdlab ucx list` for versions that work",
                build.libucp.display(),
                OLDEST.minor
            )));
        }
        // SAFETY: as for `Functions::load`; the version has been checked.
        let rcache = Rcache::new(unsafe { Files::load(library) });
        Ok(Self { f, version, rcache, libucp: build.libucp.clone() })
    }

    /// UCX's words for a status, with its number: `Connection reset by remote peer (status -25)`.
    pub(super) fn describe(&self, status: Status) -> String {
        // SAFETY: the function returns a string that is static, or in a buffer of its own for
        // numbers it does not know; it is copied before anything else can be called.
        let text = unsafe { CStr::from_ptr((self.f.ucs_status_string)(status)) };
        format!("{} ({status:?})", text.to_string_lossy())
    }
}

/// Opens a library for good.
fn open(path: &Path, binding: c_int) -> Result<&'static Library, Error> {
    // SAFETY: loading runs the library's constructors. Those of UCX read its environment and set
    // up tables; nothing in this process relies on what they change. It is never unloaded.
    let library = unsafe { Library::open(Some(path), binding | RTLD_LOCAL) }.map_err(|error| {
        refused(format!(
            "the dynamic linker cannot load {}: {}; `ldd {}` shows what is missing",
            path.display(),
            cause(&error),
            path.display()
        ))
    })?;
    Ok(Box::leak(Box::new(library)))
}

/// What the dynamic linker said. libloading's own message leaves that to `source`.
fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// The backend cannot be opened, for this reason.
pub(super) fn refused(reason: String) -> Error {
    Error::Open { backend: BackendKind::Ucx, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The dynamic linker must not need UCX to start a program: nothing of it is in memory before
    /// one is opened, and no test of this binary opens one. (`readelf -d` shows the same.)
    #[test]
    fn no_ucx_is_linked() {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mapped = |name| maps.lines().any(|line| line.contains(name));
        assert!(mapped("libc.so"), "the list is not empty");
        for library in ["libucp", "libuct", "libucs", "libucm"] {
            assert!(!mapped(library), "{library} is loaded");
        }
    }

    #[test]
    fn what_is_not_ucx_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let libucp = dir.path().join("libucp.so.0");
        let label = "made up".to_owned();
        let build = UcxBuild { label, directory: dir.path().to_owned(), libucp: libucp.clone() };
        let reason = || Ucx::load(&build).err().unwrap().to_string();
        let missing = reason();
        std::fs::write(&libucp, "not a library").unwrap();
        for error in [missing, reason()] {
            assert!(error.contains(libucp.to_str().unwrap()) && error.contains("ldd"), "{error}");
        }
    }
}
