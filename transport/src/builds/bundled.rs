//! A UCX that a wheel brings along under other names.
//!
//! auditwheel puts a hash into the name of every library that it copies into a wheel, and into all
//! that refer to it (`libucs-311e600f.so.0.0.0`), so that two wheels can have a UCX each. The build
//! works as it is; only whoever looks for `libucp.so.0` does not find it. Links with the usual names
//! beside the libraries cure that. UCX finds its modules by the directory and the ending of the name
//! that libucs was opened by, so that one has to be a usual one, too.
//!
//! libibverbs came along as well, and cannot serve: a provider such as librxe is linked with the
//! machine's `libibverbs.so.1` and registers there, so a second libibverbs in the process sees no
//! device but those of the libmlx5 beside it. Where the machine has the library, it is put in the place
//! of the copy.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::Error;

/// Where NIXL's wheel has them.
pub(super) const NIXL_LIBS: &str = "nixl_cu12.libs";

/// UCX's own libraries.
const UCX: [&str; 4] = ["libucp", "libuct", "libucs", "libucm"];

/// What must be there once per process, with the name by which providers know it.
const OF_THE_MACHINE: [(&str, &str); 2] =
    [("libibverbs", "libibverbs.so.1"), ("libmlx5", "libmlx5.so.1")];

/// What those need that the machine may not have: libnl and libnl-route.
const NEEDED: &str = "libnl";

/// Whether a file of the wheel's libraries is UCX's, or needed by it.
pub(super) fn is_ucx(file: &str) -> bool {
    let verbs = OF_THE_MACHINE.map(|(stem, _)| stem);
    UCX.iter().chain(&verbs).chain([&NEEDED]).any(|stem| is_copy_of(stem, file))
}

/// `libucs-311e600f.so.0.0.0` is a copy of `libucs`, `libucx_utils-32b59d93.so` is none of `libuc`.
fn is_copy_of(stem: &str, file: &str) -> bool {
    file.strip_prefix(stem).is_some_and(|rest| rest.starts_with('-') && rest.contains(".so."))
}

/// Makes the links in `libs`. `machine` tells where this machine has a library.
pub(super) fn link(libs: &Path, machine: &dyn Fn(&str) -> Option<PathBuf>) -> Result<(), Error> {
    let entries = match fs::read_dir(libs) {
        // A wheel of another shape, which the fetch then refuses for want of a libucp.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(Error::cache("read", libs))?,
    };
    for entry in entries {
        let name = entry.map_err(Error::cache("read", libs))?.file_name();
        let Some(file) = name.to_str() else { continue };
        if let Some(stem) = UCX.iter().find(|stem| is_copy_of(stem, file)) {
            let usual = libs.join(format!("{stem}.so.0"));
            symlink(file, &usual).map_err(Error::cache("link", &usual))?;
        }
        let shared = OF_THE_MACHINE.iter().find(|(stem, _)| is_copy_of(stem, file));
        if let Some(of_machine) = shared.and_then(|(_, library)| machine(library)) {
            let copy = libs.join(file);
            fs::remove_file(&copy).map_err(Error::cache("replace", &copy))?;
            symlink(of_machine, &copy).map_err(Error::cache("link", &copy))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const COPIES: [&str; 6] = [
        "libucp-e470a167.so.0.0.0",
        "libuct-2d55eade.so.0.0.0",
        "libucs-311e600f.so.0.0.0",
        "libucm-e091ff91.so.0.0.0",
        "libibverbs-1de1263b.so.1.14.48.0",
        "libmlx5-79ef1d27.so.1.24.48.0",
    ];

    fn libs() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for name in COPIES {
            fs::write(dir.path().join(name), name).unwrap();
        }
        dir
    }

    fn read(dir: &tempfile::TempDir, name: &str) -> String {
        fs::read_to_string(dir.path().join(name)).unwrap()
    }

    #[test]
    fn ucx_is_found_by_its_usual_names_and_verbs_are_the_machines() {
        let (libs, machine) = (libs(), tempfile::tempdir().unwrap());
        let verbs = machine.path().join("libibverbs.so.1");
        fs::write(&verbs, "the machine's").unwrap();
        link(libs.path(), &|name| (name == "libibverbs.so.1").then(|| verbs.clone())).unwrap();

        for (usual, copy) in
            ["libucp.so.0", "libuct.so.0", "libucs.so.0", "libucm.so.0"].iter().zip(COPIES)
        {
            assert_eq!(read(&libs, usual), copy);
        }
        assert_eq!(read(&libs, COPIES[4]), "the machine's");
        assert_eq!(read(&libs, COPIES[5]), COPIES[5], "what the machine has not stays");
    }

    #[test]
    fn a_wheel_of_another_shape_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        link(&dir.path().join("no-such"), &|_| None).unwrap();
        fs::write(dir.path().join("libucx_utils-32b59d93.so"), "NIXL's").unwrap();
        link(dir.path(), &|_| None).unwrap();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_what_ucx_needs_is_taken() {
        assert!(COPIES.iter().all(|name| is_ucx(name)));
        assert!(
            is_ucx("libnl-route-3-3ad497a3.so.200.26.0") && is_ucx("libnl-3-47cd035c.so.200.26.0")
        );
        assert!(!is_ucx("libucx_utils-32b59d93.so") && !is_ucx("libgrpc-fc22ff19.so.48.0.0"));
    }
}
