//! UCX builds: naming one, finding it, fetching it.
//!
//! The UCX backend opens its library at run time, so that one program runs every UCX. A *build* is
//! a directory with `libucp.so.0` in it. Users name it by version (`1.19.0`, or `nixl-0.7.1` for the
//! one that NIXL brings along; fetched from the Python package index and kept in a cache directory),
//! as `system`, or by a path (an HPC-X or MOFED tree, a build of their own).
//!
//! This module moves files only. It compiles without the cargo feature `ucx`, so that every
//! program can list and fetch builds, and never loads what it finds.
//!
//! - [`BuildSpec`]: how a user names a build.
//! - [`Builds`]: the cache directory; lists, fetches and resolves.
//! - `pinned`: the versions that can be fetched, with the SHA-256 of each wheel.
//! - `locate`: where `libucp.so.0` may be, and whether this machine can load it.
//! - `bundled`: a UCX that a wheel brings along under other names.
//! - `fetch`, `unpack`: from the package index into the cache, all or nothing.
//!
//! # Concurrency
//! Any number of processes may share a cache directory. A build appears in it by one `rename`, so
//! it is there as a whole or not at all; fetches take turns by a lock file.

mod bundled;
mod error;
mod fetch;
mod locate;
mod pinned;
mod spec;
mod unpack;

use std::env::consts::ARCH;
use std::path::{Path, PathBuf};

use serde::Serialize;

pub use crate::config::UcxBuild;
pub use error::Error;
pub use fetch::FetchStep;
pub use spec::BuildSpec;

/// The UCX builds that this machine has or can get.
#[derive(Clone, Debug)]
pub struct Builds {
    /// Holds one directory per fetched version.
    dir: PathBuf,
    python: PathBuf,
}

/// One line of [`Builds::list`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct BuildInfo {
    /// What to write to get it: a version or `system`.
    pub name: String,
    /// Version of the wheel it is fetched as; none for `system`.
    pub wheel: Option<String>,
    /// Whether it can be fetched: there is a wheel for this machine's architecture.
    pub fetchable: bool,
    /// Where its libraries are, if it is here.
    pub directory: Option<PathBuf>,
}

impl Builds {
    /// Keeps builds in `<cache_dir>/ucx/<version>`. Nothing is created before the first fetch.
    #[must_use]
    pub fn new(cache_dir: &Path) -> Self {
        Self { dir: cache_dir.join("ucx"), python: "python3".into() }
    }

    /// Uses another Python than the `python3` of the search path to run pip.
    #[must_use]
    pub fn with_python(self, python: impl Into<PathBuf>) -> Self {
        Self { python: python.into(), ..self }
    }

    /// Every known version, oldest first, then the system's UCX.
    #[must_use]
    pub fn list(&self) -> Vec<BuildInfo> {
        let directory = |libucp: PathBuf| libucp.parent().map(Path::to_owned);
        let system = BuildInfo {
            name: BuildSpec::System.to_string(),
            wheel: None,
            fetchable: false,
            directory: locate::in_system().ok().and_then(directory),
        };
        let known = pinned::PINNED.iter().map(|pinned| BuildInfo {
            name: pinned.version.into(),
            wheel: Some(pinned.wheel.into()),
            fetchable: pinned.sha256(ARCH).is_some(),
            directory: locate::in_path(&self.home_of(pinned)).ok().and_then(directory),
        });
        known.chain([system]).collect()
    }

    /// Downloads a version with pip and unpacks it into the cache, unless it is there already.
    ///
    /// pip is run as `python3 -m pip download`, so the user's own index, mirror and proxy settings
    /// apply. The wheel is refused unless its SHA-256 is the pinned one. Blocks; `progress` is
    /// called before each step.
    ///
    /// # Errors
    /// An unknown version, no pip, pip's own failure, a hash or an architecture that does not fit,
    /// a cache directory that cannot be written. Nothing half-done is left in the cache.
    pub fn fetch(
        &self,
        version: &str,
        progress: &mut dyn FnMut(FetchStep),
    ) -> Result<UcxBuild, Error> {
        let pinned = self.known(version)?;
        let libucp =
            fetch::fetch(pinned, &self.dir, &self.home_of(pinned), &self.python, progress)?;
        Ok(build(pinned.version.into(), libucp))
    }

    /// Finds the build that `spec` names on this machine. Never downloads.
    ///
    /// # Errors
    /// [`Error::NotFetched`] for a known version that is not in the cache; otherwise what is wrong
    /// with the version, the path, or the system's UCX.
    pub fn resolve(&self, spec: &BuildSpec) -> Result<UcxBuild, Error> {
        let libucp = match spec {
            BuildSpec::System => locate::in_system()?,
            BuildSpec::Path(path) => locate::in_path(path)?,
            BuildSpec::Version(version) => {
                let pinned = self.known(version)?;
                let home = self.home_of(pinned);
                if !home.exists() {
                    let cache_dir = self.dir.clone();
                    return Err(Error::NotFetched { version: pinned.version, cache_dir });
                }
                let libucp = locate::in_path(&home)?;
                return Ok(build(pinned.version.into(), libucp));
            }
        };
        Ok(build(spec.to_string(), libucp))
    }

    fn known(&self, version: &str) -> Result<&'static pinned::Pinned, Error> {
        pinned::find(version).ok_or_else(|| Error::UnknownVersion {
            version: version.into(),
            known: pinned::known(),
        })
    }

    fn home_of(&self, pinned: &pinned::Pinned) -> PathBuf {
        self.dir.join(pinned.version)
    }
}

fn build(label: String, libucp: PathBuf) -> UcxBuild {
    let directory = libucp.parent().unwrap_or(Path::new("/")).to_owned();
    UcxBuild { label, directory, libucp }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_known_version_that_is_not_here_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let builds = Builds::new(dir.path());
        for name in ["1.16.0", "1.16.0.post2"] {
            let spec = BuildSpec::Version(name.into());
            let error = builds.resolve(&spec).unwrap_err().to_string();
            assert!(error.contains("pdlab ucx fetch 1.16.0"), "{error}");
        }
        let unknown = builds.resolve(&BuildSpec::Version("1.0.0".into())).unwrap_err().to_string();
        assert!(unknown.contains("1.0.0") && unknown.contains("1.19.0"), "{unknown}");
        assert!(builds.fetch("1.0.0", &mut |_| {}).is_err());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_is_in_the_cache_is_listed_and_resolved() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("ucx/1.19.0/libucx/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libucp.so.0"), locate::tests::native_elf()).unwrap();
        let builds = Builds::new(dir.path());
        let lib = lib.canonicalize().unwrap();

        let build = builds.resolve(&BuildSpec::Version("1.19.0".into())).unwrap();
        assert_eq!((build.label.as_str(), &build.directory), ("1.19.0", &lib));
        assert_eq!(build.libucp, lib.join("libucp.so.0"));
        let by_path = builds.resolve(&BuildSpec::Path(lib.clone())).unwrap();
        assert_eq!((by_path.label.as_str(), by_path.libucp), (lib.to_str().unwrap(), build.libucp));

        let list = builds.list();
        let here: Vec<_> =
            list.iter().filter(|info| info.wheel.is_some() && info.directory.is_some()).collect();
        assert_eq!(here.len(), 1);
        assert_eq!((here[0].name.as_str(), here[0].directory.as_ref()), ("1.19.0", Some(&lib)));
        assert_eq!(list.last().map(|info| info.name.as_str()), Some("system"));
    }

    #[test]
    fn a_gutted_build_is_an_error_and_not_a_build() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("ucx/1.19.0")).unwrap();
        let error = Builds::new(dir.path()).resolve(&BuildSpec::Version("1.19.0".into()));
        assert!(matches!(error, Err(Error::NoLibucp { .. })));
    }
}
