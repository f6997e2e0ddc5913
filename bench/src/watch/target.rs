//! Who the watched process is: its program, its user, its UCX, as `/proc` tells from outside.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};

use procfs::process::{MMapPath, Process};
use serde::{Deserialize, Serialize};

/// A process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its number.
    pub pid: u32,
    /// What it calls itself, at most 15 characters of it.
    pub name: String,
    /// Its command line.
    pub command: String,
    /// The file that it runs, as it sees it; empty if unknown.
    #[serde(default)]
    pub program: String,
    /// The user whose rights it has.
    #[serde(default)]
    pub uid: u32,
    /// Whether it has a mount namespace of its own, so that its paths mean something else: a container, mostly.
    #[serde(default)]
    pub contained: bool,
    /// Its number in its own namespace, if that is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inner_pid: Option<u32>,
    /// The UCX library that it has mapped, as it sees it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx_library: Option<String>,
    /// The version of that library, if the file tells.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ucx: Option<String>,
    /// The variables for UCX that it was started with.
    #[serde(default)]
    pub settings: BTreeMap<String, String>,
}

/// What of a command line is kept: it may be megabytes.
const COMMAND_CHARS: usize = 400;

impl Target {
    /// What can be found out about `pid`; what cannot stays empty.
    pub fn inspect(pid: u32) -> Self {
        let mut target = Self { pid, ..Self::default() };
        let Some(process) = i32::try_from(pid).ok().and_then(|pid| Process::new(pid).ok()) else {
            return target;
        };
        if let Ok(status) = process.status() {
            target.name = status.name;
            target.uid = status.euid;
            let inner = status.nspid.and_then(|pids| pids.last().copied());
            target.inner_pid =
                inner.and_then(|inner| u32::try_from(inner).ok()).filter(|&inner| inner != pid);
        }
        let command = process.cmdline().unwrap_or_default().join(" ");
        target.command = command.chars().take(COMMAND_CHARS).collect();
        target.program = process.exe().map(|path| shown(&path)).unwrap_or_default();
        let theirs = mounts(&pid.to_string());
        target.contained = theirs.is_some() && theirs != mounts("self");
        let library = process.maps().ok().and_then(|maps| {
            maps.into_iter().find_map(|map| match map.pathname {
                MMapPath::Path(path) if is_ucp(&path) => Some(path),
                _ => None,
            })
        });
        if let Some(library) = library {
            target.ucx = version_in(pid, &library);
            target.ucx_library = Some(shown(&library));
        }
        target.settings = settings(&process);
        target
    }

    /// Its name and number as files and tables have it: `python3-4711`.
    pub fn label(&self) -> String {
        let plain = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
        let name: String = self.name.chars().map(plain).collect();
        let name = name.trim_matches('-');
        if name.is_empty() { format!("pid-{}", self.pid) } else { format!("{name}-{}", self.pid) }
    }
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// The mount namespace of a process: two processes of one see the same files.
fn mounts(process: &str) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{process}/ns/mnt")).ok()
}

/// `libucp.so.0.0.0`, also with the hash that wheels put into the name.
fn is_ucp(path: &Path) -> bool {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned());
    name.is_some_and(|name| name.starts_with("libucp") && name.contains(".so"))
}

fn settings(process: &Process) -> BTreeMap<String, String> {
    let text = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
        Some((name.into_string().ok()?, value.into_string().ok()?))
    };
    let environment = process.environ().unwrap_or_default();
    environment.into_iter().filter_map(text).filter(|(name, _)| name.starts_with("UCX_")).collect()
}

/// A libucp has some MB; whatever is larger than this is not one.
const LIBRARY_LIMIT_BYTES: u64 = 64 << 20;

/// The version that the file of `library` holds, seen through the root directory of `pid`.
fn version_in(pid: u32, library: &Path) -> Option<String> {
    let inside = library.strip_prefix("/").unwrap_or(library);
    let file = File::open(PathBuf::from(format!("/proc/{pid}/root")).join(inside)).ok()?;
    let mut bytes = Vec::new();
    BufReader::new(file).take(LIBRARY_LIMIT_BYTES).read_to_end(&mut bytes).ok()?;
    sole_version(&bytes)
}

/// The only `1.MINOR.PATCH` that ends a string in `bytes`: what `ucp_get_version_string` returns. `None` if there are
/// several, since then nobody knows which.
fn sole_version(bytes: &[u8]) -> Option<String> {
    let mut found = BTreeSet::new();
    for text in bytes.split(|&byte| byte == 0) {
        let start =
            text.iter().rposition(|b| !b.is_ascii_digit() && *b != b'.').map_or(0, |i| i + 1);
        let digits = text[start..].split(|&byte| byte == b'.');
        let number = |part: &[u8]| (1..=3).contains(&part.len());
        let parts: Vec<&[u8]> = digits.collect();
        if let [b"1", minor, patch] = parts[..]
            && number(minor)
            && number(patch)
        {
            found.insert(String::from_utf8_lossy(&text[start..]).into_owned());
        }
    }
    if found.len() == 1 { found.pop_first() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn our_own_process_is_described() {
        let own = Target::inspect(std::process::id());
        assert_eq!(own.pid, std::process::id());
        assert!(!own.name.is_empty() && !own.command.is_empty() && own.program.starts_with('/'));
        assert!(!own.contained && own.inner_pid.is_none(), "{own:?}");
        assert_eq!(own.ucx, None);
    }

    #[test]
    fn a_process_that_is_gone_has_only_a_number() {
        assert_eq!(Target::inspect(u32::MAX), Target { pid: u32::MAX, ..Target::default() });
    }

    #[test]
    fn labels_are_safe_in_files() {
        let label = |name: &str| Target { pid: 7, name: name.into(), ..Target::default() }.label();
        assert_eq!(label("VLLM::Worker,1"), "VLLM--Worker-1-7");
        assert_eq!(label("python3.12"), "python3.12-7");
        assert_eq!(label("\u{e4}"), "pid-7");
    }

    #[test]
    fn a_version_is_told_if_it_is_the_only_one() {
        let version = |bytes: &[u8]| sole_version(bytes);
        assert_eq!(version(b"\x00A1.19.0\x00more\x00"), Some("1.19.0".to_owned()));
        assert_eq!(version(b"1.19.0\x00x\x001.19.0\x00"), Some("1.19.0".to_owned()));
        assert_eq!(version(b"1.19.0\x001.20.0\x00"), None);
        for none in
            [&b"1.19\x00"[..], b"2.19.0\x00", b"11.19.0\x00", b"1..0\x00", b"1.19.0 x\x00", b""]
        {
            assert_eq!(version(none), None, "{none:?}");
        }
    }

    #[test]
    fn libraries_of_wheels_are_found_too() {
        for (path, is) in [
            ("/opt/ucx/lib/libucp.so.0.0.0", true),
            ("/x/nixl_cu12.libs/libucp-1b2c3d4e.so.0.0.0", true),
            ("/opt/ucx/lib/libuct.so.0", false),
            ("/opt/libucp/lib/libucs.so.0", false),
        ] {
            assert_eq!(is_ucp(Path::new(path)), is, "{path}");
        }
    }

    proptest! {
        #[test]
        fn any_file_is_searched(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = sole_version(&bytes);
        }
    }
}
