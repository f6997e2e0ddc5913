//! Finding `libucp.so.0` on this machine.

use std::{
    env::consts::ARCH,
    fs::File,
    io::Read,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use super::{Error, bundled};

/// The library's file name: the name that UCX has carried through every 1.x.
pub(super) const LIBUCP: &str = "libucp.so.0";

/// Where below a given directory UCX may be: the directory itself, an installation prefix, an HPC-X tree, an unpacked wheel.
const SUBDIRS: &[&str] =
    &["", "lib", "lib64", "ucx/lib", "ucx/lib64", "libucx/lib", bundled::NIXL_LIBS];

/// Directories of the dynamic linker that `ldconfig` may not list in a container.
const SYSTEM_DIRS: &[&str] = &[
    "/usr/lib/x86_64-linux-gnu",
    "/usr/lib/aarch64-linux-gnu",
    "/usr/lib64",
    "/usr/lib",
    "/usr/local/lib",
    "/usr/local/lib64",
    "/opt/ucx/lib",
];

/// The library that `path` means: a file named `libucp.so…`, or a directory that has one.
///
/// The result is absolute and for this machine's architecture.
pub(super) fn in_path(path: &Path) -> Result<PathBuf, Error> {
    let absolute =
        path.canonicalize().map_err(|source| Error::NoSuchPath { path: path.into(), source })?;
    if !absolute.is_dir() {
        let named_libucp = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.starts_with("libucp.so"));
        if !named_libucp {
            return Err(Error::NotLibucp(path.into()));
        }
        return checked(absolute);
    }
    match SUBDIRS.iter().map(|sub| absolute.join(sub).join(LIBUCP)).find(|file| file.is_file()) {
        Some(file) => checked(file),
        None => Err(Error::NoLibucp {
            path: path.into(),
            looked_in: SUBDIRS
                .iter()
                .map(|sub| if sub.is_empty() { "." } else { sub })
                .collect::<Vec<_>>()
                .join(", "),
        }),
    }
}

/// The library that the dynamic linker would take, else the first one in the usual directories.
pub(super) fn in_system() -> Result<PathBuf, Error> {
    let listed = listed_by_linker(LIBUCP);
    let usual = SYSTEM_DIRS.iter().map(|dir| Path::new(dir).join(LIBUCP));
    listed
        .into_iter()
        .chain(usual)
        .find(|file| file.is_file() && checked(file.clone()).is_ok())
        .ok_or_else(|| Error::NoSystemUcx { looked_in: SYSTEM_DIRS.join(", ") })
}

/// Where the dynamic linker finds `library`, by its own list.
pub(super) fn listed_by_linker(library: &str) -> Option<PathBuf> {
    ["ldconfig", "/sbin/ldconfig"].iter().find_map(|program| {
        let output = Command::new(program)
            .arg("-p")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        first_listed(library, &String::from_utf8_lossy(&output.stdout))
    })
}

/// Reads a line of `ldconfig -p`: `libucp.so.0 (libc6,x86-64) => /lib/x86_64-linux-gnu/libucp.so.0`.
fn first_listed(library: &str, output: &str) -> Option<PathBuf> {
    output
        .lines()
        .filter(|line| line.split_whitespace().next() == Some(library))
        .find_map(|line| line.split_once("=> ").map(|(_, path)| PathBuf::from(path.trim())))
}

/// Refuses a file that the dynamic linker would refuse with a message nobody understands.
fn checked(library: PathBuf) -> Result<PathBuf, Error> {
    let mut header = [0u8; 20];
    let read = File::open(&library).and_then(|mut file| file.read_exact(&mut header));
    let found = match read {
        Err(error) => format!("not readable as a library ({error})"),
        Ok(()) => match machine(&header) {
            Some(arch) if arch == ARCH => return Ok(library),
            Some(arch) => format!("a library for {arch}"),
            None => "not a 64-bit ELF file".into(),
        },
    };
    Err(Error::WrongArch { path: library, found, wanted: ARCH })
}

/// The architecture in an ELF header, in the words of [`std::env::consts::ARCH`]. Numbers as in `<elf.h>`:
/// class 2 is 64 bit; machine (little-endian, offset 18) 62 is x86-64, 183 is AArch64.
fn machine(header: &[u8; 20]) -> Option<&'static str> {
    if &header[..5] != b"\x7fELF\x02" {
        return None;
    }
    match u16::from_le_bytes([header[18], header[19]]) {
        62 => Some("x86_64"),
        183 => Some("aarch64"),
        _ => Some("another architecture"),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::fs;

    use super::*;

    /// The first 20 bytes of a shared library for `machine`, by `<elf.h>`'s number.
    pub(in crate::builds) fn elf(machine: u16) -> Vec<u8> {
        let mut header = b"\x7fELF\x02\x01\x01".to_vec();
        header.resize(20, 0);
        header[18..].copy_from_slice(&machine.to_le_bytes());
        header
    }

    /// A header for the machine the tests run on.
    pub(in crate::builds) fn native_elf() -> Vec<u8> {
        elf(if ARCH == "aarch64" { 183 } else { 62 })
    }

    #[test]
    fn a_library_is_found_in_every_layout() {
        for sub in SUBDIRS {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir_all(dir.path().join(sub)).unwrap();
            let library = dir.path().join(sub).join(LIBUCP);
            fs::write(&library, native_elf()).unwrap();
            let found = in_path(dir.path()).unwrap();
            assert_eq!(found, library.canonicalize().unwrap());
            assert_eq!(in_path(&library).unwrap(), found);
        }
    }

    #[test]
    fn a_directory_without_ucx_is_named_with_the_places_tried() {
        let dir = tempfile::tempdir().unwrap();
        let error = in_path(dir.path()).unwrap_err().to_string();
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
        assert!(error.contains(LIBUCP) && error.contains("lib64"), "{error}");
    }

    #[test]
    fn wrong_files_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let library = dir.path().join(LIBUCP);
        assert!(matches!(in_path(&library), Err(Error::NoSuchPath { .. })));

        let other = dir.path().join("libfoo.so");
        fs::write(&other, native_elf()).unwrap();
        assert!(matches!(in_path(&other), Err(Error::NotLibucp(_))));

        for (content, what) in [
            (b"short".to_vec(), "not readable"),
            (b"not an ELF file at all, really".to_vec(), "not a 64-bit ELF"),
            (elf(if ARCH == "aarch64" { 62 } else { 183 }), "a library for"),
            (elf(243), "another architecture"),
        ] {
            fs::write(&library, content).unwrap();
            let error = in_path(dir.path()).unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(ARCH), "{error}");
        }
    }

    #[test]
    fn the_linkers_list_is_read() {
        let output = "42 libs found in cache\n\tlibucpx.so.0 (libc6) => /no\n\tlibucp.so.0 (libc6,x86-64) => /lib/libucp.so.0\n";
        assert_eq!(first_listed(LIBUCP, output), Some("/lib/libucp.so.0".into()));
        assert_eq!(first_listed(LIBUCP, "nothing here"), None);
    }
}
