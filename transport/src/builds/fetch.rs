//! From the package index into the cache, all or nothing.

use std::env::consts::ARCH;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::pinned::{Package, Pinned};
use super::{Error, bundled, locate, unpack};

/// Prefix of the directories in which fetches work. One that is found while no fetch runs was
/// left by a fetch that was killed.
const SCRATCH: &str = ".fetch-";

/// What a fetch is about to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FetchStep {
    /// Another process fetches into the same cache; this one waits for it.
    Waiting,
    /// pip downloads the wheel: 23 to 45 MB.
    Downloading {
        /// Package and version, as pip knows it.
        requirement: String,
    },
    /// The wheel's SHA-256 is compared with the pinned one.
    Verifying,
    /// The libraries are written to the cache.
    Unpacking,
    /// The build is there.
    Ready,
}

/// Brings `pinned` to `home`, a directory below `dir`, and returns its libucp.
pub(super) fn fetch(
    pinned: &Pinned,
    dir: &Path,
    home: &Path,
    python: &Path,
    progress: &mut dyn FnMut(FetchStep),
) -> Result<PathBuf, Error> {
    let sha256 = pinned
        .sha256(ARCH)
        .ok_or(Error::NoWheelForArch { version: pinned.version.into(), arch: ARCH })?;
    fs::create_dir_all(dir).map_err(Error::cache("create", dir))?;
    let lock = lock(dir, progress)?;
    if let Ok(libucp) = locate::in_path(home) {
        progress(FetchStep::Ready);
        return Ok(libucp);
    }
    remove_leftovers(dir)?;

    let scratch = tempfile::Builder::new()
        .prefix(SCRATCH)
        .tempdir_in(dir)
        .map_err(Error::cache("create a directory in", dir))?;
    let requirement = format!("{}=={}", pinned.package.name(), pinned.wheel);
    progress(FetchStep::Downloading { requirement: requirement.clone() });
    let wheel =
        download(&requirement, pinned.package.pip_args(ARCH), sha256, python, scratch.path())?;
    progress(FetchStep::Verifying);
    verify(&wheel, sha256)?;
    progress(FetchStep::Unpacking);
    let unpacked = scratch.path().join("build");
    unpack::unpack(&wheel, &unpacked)?;
    if pinned.package == Package::Nixl {
        bundled::link(&unpacked.join(bundled::NIXL_LIBS), &locate::listed_by_linker)?;
    }
    if locate::in_path(&unpacked).is_err() {
        let reason = format!("there is no {} for {ARCH} in it", locate::LIBUCP);
        return Err(Error::BadWheel { wheel: requirement, reason });
    }

    // What is there holds no UCX, or this would have ended above: somebody emptied it.
    match fs::rename(home, scratch.path().join("replaced")) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            return Err(Error::Cache { action: "replace", path: home.into(), source: error });
        }
        _ => fs::rename(&unpacked, home).map_err(Error::cache("create", home))?,
    }
    drop(lock);
    progress(FetchStep::Ready);
    locate::in_path(home)
}

/// Waits until no other process fetches into `dir`. The lock ends with the returned file, or with
/// the process, however it ends.
fn lock(dir: &Path, progress: &mut dyn FnMut(FetchStep)) -> Result<File, Error> {
    let path = dir.join(".lock");
    let file = File::create(&path).map_err(Error::cache("create", &path))?;
    match file.try_lock() {
        Ok(()) => return Ok(file),
        Err(fs::TryLockError::WouldBlock) => progress(FetchStep::Waiting),
        Err(fs::TryLockError::Error(source)) => {
            return Err(Error::Cache { action: "lock", path, source });
        }
    }
    file.lock().map_err(Error::cache("lock", path))?;
    Ok(file)
}

/// Must be called with the lock held: then every scratch directory is a dead one.
fn remove_leftovers(dir: &Path) -> Result<(), Error> {
    for entry in fs::read_dir(dir).map_err(Error::cache("read", dir))? {
        let entry = entry.map_err(Error::cache("read", dir))?;
        if entry.file_name().to_string_lossy().starts_with(SCRATCH) {
            fs::remove_dir_all(entry.path()).map_err(Error::cache("remove", entry.path()))?;
        }
    }
    Ok(())
}

/// Has pip download the wheel into `scratch`. pip checks the hash, too, and takes no other file.
fn download(
    requirement: &str,
    which: Vec<String>,
    sha256: &str,
    python: &Path,
    scratch: &Path,
) -> Result<PathBuf, Error> {
    let requirements = scratch.join("requirements.txt");
    fs::write(&requirements, format!("{requirement} --hash=sha256:{sha256}\n"))
        .map_err(Error::cache("write", &requirements))?;
    let wheels = scratch.join("wheels");
    let output = Command::new(python)
        .args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--require-hashes"])
        .args(["--no-input", "--disable-pip-version-check", "--progress-bar", "off"])
        .args(which)
        .arg("--requirement")
        .arg(&requirements)
        .arg("--dest")
        .arg(&wheels)
        .stdin(Stdio::null())
        .output()
        .map_err(|source| Error::NoPython { python: python.into(), source })?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        if errors.contains("No module named pip") {
            return Err(Error::NoPip(python.into()));
        }
        return Err(Error::PipFailed {
            requirement: requirement.into(),
            output: format!("{}\n{}", output.status, last_lines(&errors, 8)),
        });
    }
    let mut found = fs::read_dir(&wheels).map_err(Error::cache("read", &wheels))?;
    let wheel = found.next().ok_or_else(|| Error::PipFailed {
        requirement: requirement.into(),
        output: "pip reported success and left no file".into(),
    })?;
    Ok(wheel.map_err(Error::cache("read", &wheels))?.path())
}

fn verify(wheel: &Path, expected: &str) -> Result<(), Error> {
    let found = sha256_of(wheel).map_err(Error::cache("read", wheel))?;
    if found == expected {
        return Ok(());
    }
    let name = wheel.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(Error::HashMismatch { wheel: name, expected: expected.into(), found })
}

fn sha256_of(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hash = Sha256::new();
    let mut chunk = vec![0; 1 << 16];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            n => hash.update(&chunk[..n]),
        }
    }
}

fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use tempfile::TempDir;

    use super::super::locate::tests::native_elf;
    use super::super::unpack::tests::write_wheel;
    use super::*;

    /// A cache directory, a wheel, and a program that behaves like `python3 -m pip download`.
    struct Bench {
        dir: TempDir,
        pinned: Pinned,
    }

    impl Bench {
        fn new(entries: &[(&str, &[u8])]) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let wheel = dir.path().join("served.whl");
            write_wheel(&wheel, entries);
            let pinned = Pinned::made_up(sha256_of(&wheel).unwrap().leak());
            Self { dir, pinned }
        }

        fn with_libucp() -> Self {
            Self::new(&[("libucx/lib/libucp.so.0", &native_elf())])
        }

        fn cache(&self) -> PathBuf {
            self.dir.path().join("cache")
        }

        fn home(&self) -> PathBuf {
            self.cache().join("9.9.9")
        }

        /// Runs `body` with the destination directory as `$dest`, and counts its runs.
        fn python(&self, body: &str) -> PathBuf {
            let path = self.dir.path().join("python3");
            let here = self.dir.path().display();
            let script =
                format!("#!/bin/sh\necho run >> {here}/runs\neval dest=\\${{$#}}\n{body}\n");
            // Written by another process: while this one held the file open for writing, a test
            // that forks on another thread would make it "text file busy".
            let mut writer = Command::new("sh")
                .args(["-c", "cat > \"$0\" && chmod +x \"$0\""])
                .arg(&path)
                .stdin(Stdio::piped())
                .spawn()
                .unwrap();
            writer.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
            assert!(writer.wait().unwrap().success());
            path
        }

        fn honest_python(&self) -> PathBuf {
            let here = self.dir.path().display();
            self.python(&format!("mkdir -p $dest && cp {here}/served.whl $dest/libucx.whl"))
        }

        fn runs(&self) -> usize {
            fs::read_to_string(self.dir.path().join("runs")).unwrap_or_default().lines().count()
        }

        fn fetch(&self, python: &Path) -> Result<PathBuf, Error> {
            fetch(&self.pinned, &self.cache(), &self.home(), python, &mut |_| {})
        }

        /// What is in the cache, the lock file aside.
        fn cached(&self) -> Vec<String> {
            let entries = fs::read_dir(self.cache()).unwrap();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.filter(|name| name != ".lock").collect()
        }
    }

    #[test]
    fn a_build_is_fetched_once() {
        let bench = Bench::with_libucp();
        let mut steps = Vec::new();
        let python = bench.honest_python();
        let first = fetch(&bench.pinned, &bench.cache(), &bench.home(), &python, &mut |step| {
            steps.push(step)
        });
        let libucp = first.unwrap();
        assert!(libucp.starts_with(bench.home().canonicalize().unwrap()));
        assert_eq!(fs::read(libucp).unwrap(), native_elf());
        let requirement = "libucx-cu12==9.9.9".into();
        let all =
            [FetchStep::Downloading { requirement }, FetchStep::Verifying, FetchStep::Unpacking];
        assert_eq!(steps[..3], all);
        assert_eq!(steps[3..], [FetchStep::Ready]);
        assert_eq!(bench.cached(), ["9.9.9"]);

        bench.fetch(Path::new("/nonexistent/python3")).unwrap();
        assert_eq!(bench.runs(), 1);
    }

    #[test]
    fn concurrent_fetches_take_turns_and_download_once() {
        let bench = Bench::with_libucp();
        let python = bench.honest_python();
        std::thread::scope(|scope| {
            let fetches: Vec<_> = (0..4).map(|_| scope.spawn(|| bench.fetch(&python))).collect();
            for fetch in fetches {
                fetch.join().unwrap().unwrap();
            }
        });
        assert_eq!(bench.runs(), 1);
        assert_eq!(bench.cached(), ["9.9.9"]);
    }

    #[test]
    fn a_wheel_with_another_hash_leaves_nothing() {
        let bench = Bench::with_libucp();
        let python = bench.python("mkdir -p $dest && echo forged > $dest/libucx.whl");
        let error = bench.fetch(&python).unwrap_err().to_string();
        assert!(error.contains("libucx.whl") && error.contains(bench.pinned.sha256(ARCH).unwrap()));
        assert!(bench.cached().is_empty(), "{:?}", bench.cached());
    }

    #[test]
    fn a_wheel_without_the_library_leaves_nothing() {
        let bench = Bench::new(&[("libucx/lib/libucs.so.0", b"x")]);
        let error = bench.fetch(&bench.honest_python()).unwrap_err().to_string();
        assert!(error.contains("libucp.so.0"), "{error}");
        assert!(bench.cached().is_empty());
    }

    #[test]
    fn a_failing_pip_is_quoted_and_a_missing_one_named() {
        let bench = Bench::with_libucp();
        let python = bench.python("echo 'ERROR: no route to host' >&2; exit 1");
        let error = bench.fetch(&python).unwrap_err().to_string();
        assert!(error.contains("no route to host") && error.contains("==9.9.9"), "{error}");

        let python = bench.python("echo 'python3: No module named pip' >&2; exit 1");
        assert!(matches!(bench.fetch(&python), Err(Error::NoPip(_))));
        let missing = bench.dir.path().join("no-python");
        assert!(matches!(bench.fetch(&missing), Err(Error::NoPython { .. })));
        let python = bench.python("mkdir -p $dest");
        assert!(matches!(bench.fetch(&python), Err(Error::PipFailed { .. })));
        assert!(bench.cached().is_empty());
    }

    #[test]
    fn what_a_killed_fetch_left_is_removed_and_a_gutted_build_replaced() {
        let bench = Bench::with_libucp();
        fs::create_dir_all(bench.cache().join(".fetch-dead/wheels")).unwrap();
        fs::create_dir_all(bench.home().join("libucx")).unwrap();
        bench.fetch(&bench.honest_python()).unwrap();
        assert_eq!(bench.cached(), ["9.9.9"]);
        assert!(bench.home().join("libucx/lib/libucp.so.0").is_file());
    }
}
