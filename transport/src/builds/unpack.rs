//! Taking the shared libraries out of a wheel.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path};

use zip::ZipArchive;

use super::{Error, bundled};

/// UCX's own benchmark, next to its libraries.
const PERFTEST: &str = "ucx_perftest";

/// Unpacks what a running UCX needs, and its licence, with the wheel's own directory layout: the
/// libraries find each other by paths relative to themselves. Returns the number of files.
pub(super) fn unpack(wheel: &Path, into: &Path) -> Result<usize, Error> {
    let bad = |reason: String| Error::BadWheel { wheel: file_name(wheel), reason };
    let file = File::open(wheel).map_err(Error::cache("open", wheel))?;
    let mut archive = ZipArchive::new(file).map_err(|error| bad(error.to_string()))?;
    let mut files = 0;
    for index in 0..archive.len() {
        let mut entry = archive.by_index(index).map_err(|error| bad(error.to_string()))?;
        // A name that would leave the directory is a forged wheel, not one to be skipped.
        let name = entry.enclosed_name().ok_or_else(|| bad(format!("entry {index} leaves it")))?;
        if !entry.is_file() || !wanted(&name) {
            continue;
        }
        let target = into.join(&name);
        let parent = target.parent().unwrap_or(into);
        fs::create_dir_all(parent).map_err(Error::cache("create", parent))?;
        let mut out = File::create(&target).map_err(Error::cache("create", &target))?;
        io::copy(&mut entry, &mut out)
            .map_err(|error| bad(format!("{}: {error}", name.display())))?;
        if file_name(&name) == PERFTEST {
            let mode = fs::Permissions::from_mode(0o755);
            out.set_permissions(mode).map_err(Error::cache("make executable", &target))?;
        }
        files += 1;
    }
    Ok(files)
}

/// Versioned libraries and modules, what they bundle, their configuration file, and the licence.
/// Of the tools only the benchmark, the yardstick for reads over this very library. Leaves out
/// static archives, the `.so` and `.so.0.0.0` copies of every library (wheels have no links), and
/// the CUDA half of the benchmark.
fn wanted(name: &Path) -> bool {
    let mut parts = name.components().filter_map(|part| match part {
        Component::Normal(part) => part.to_str(),
        _ => None,
    });
    let (top, second) = (parts.next().unwrap_or(""), parts.next().unwrap_or(""));
    let file = file_name(name);
    match (top, second) {
        ("libucx", "lib") => file.ends_with(".so.0") && !file.starts_with("libucx_perftest"),
        ("libucx", "etc") => true,
        ("libucx", "bin") => file == PERFTEST,
        (bundled::NIXL_LIBS, "ucx") => {
            file.ends_with(".so.0") && !file.starts_with("libucx_perftest")
        }
        // Most of what is there is NIXL's.
        (bundled::NIXL_LIBS, _) => bundled::is_ucx(&file),
        _ if top.ends_with(".libs") => true,
        _ if top.ends_with(".dist-info") => file == "LICENSE",
        _ => false,
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

#[cfg(test)]
pub(super) mod tests {
    use std::io::Write;

    use zip::ZipWriter;
    use zip::write::SimpleFileOptions;

    use super::*;

    /// Writes a wheel with these entries.
    pub(in crate::builds) fn write_wheel(path: &Path, entries: &[(&str, &[u8])]) {
        let mut writer = ZipWriter::new(File::create(path).unwrap());
        for (name, content) in entries {
            writer.start_file(*name, SimpleFileOptions::default()).unwrap();
            writer.write_all(content).unwrap();
        }
        writer.finish().unwrap();
    }

    #[test]
    fn libraries_and_licence_come_out_and_the_rest_stays() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join("w.whl");
        let keep = [
            "libucx/lib/libucp.so.0",
            "libucx/lib/ucx/libuct_cma.so.0",
            "libucx/etc/ucx/ucx.conf",
            "libucx/bin/ucx_perftest",
            "libucx_cu12.libs/libnuma-3387f5e3.so.1.0.0",
            "libucx_cu12-1.19.0.dist-info/licenses/LICENSE",
        ];
        let skip = [
            "libucx/lib/libucp.so",
            "libucx/lib/libucp.so.0.0.0",
            "libucx/lib/libucp.a",
            "libucx/lib/ucx/libucx_perftest_cuda.so.0",
            "libucx/bin/ucx_info",
            "libucx/include/ucp/api/ucp.h",
            "libucx_cu12-1.19.0.dist-info/RECORD",
            "elsewhere/libucp.so.0",
        ];
        let entries: Vec<_> =
            keep.iter().chain(&skip).map(|name| (*name, name.as_bytes())).collect();
        write_wheel(&wheel, &entries);

        let into = dir.path().join("out");
        assert_eq!(unpack(&wheel, &into).unwrap(), keep.len());
        for name in keep {
            assert_eq!(fs::read(into.join(name)).unwrap(), name.as_bytes());
        }
        let mode = fs::metadata(into.join("libucx/bin/ucx_perftest")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o755);
        for name in skip {
            assert!(!into.join(name).exists(), "{name}");
        }
    }

    #[test]
    fn of_nixl_only_its_ucx_comes_out() {
        let wanted = |name: &str| wanted(Path::new(name));
        for keep in [
            "nixl_cu12.libs/libucs-311e600f.so.0.0.0",
            "nixl_cu12.libs/libibverbs-1de1263b.so.1.14.48.0",
            "nixl_cu12.libs/ucx/libuct_ib.so.0",
            "nixl_cu12-0.7.1.dist-info/LICENSE",
        ] {
            assert!(wanted(keep), "{keep}");
        }
        for skip in [
            "nixl_cu12.libs/libgrpc-fc22ff19.so.48.0.0",
            "nixl_cu12.libs/libucx_utils-32b59d93.so",
            "nixl_cu12.libs/ucx/libuct_ib.so.0.0.0",
            "nixl_cu12.libs/ucx/libucx_perftest_mad.so.0",
            "nixl_cu12/_bindings.so",
        ] {
            assert!(!wanted(skip), "{skip}");
        }
    }

    #[test]
    fn forged_and_broken_wheels_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let wheel = dir.path().join("w.whl");
        write_wheel(&wheel, &[("../libucx/lib/libucp.so.0", b"x")]);
        assert!(matches!(unpack(&wheel, &dir.path().join("out")), Err(Error::BadWheel { .. })));
        assert!(!dir.path().join("libucx").exists());

        fs::write(&wheel, b"not a zip file").unwrap();
        let error = unpack(&wheel, &dir.path().join("out")).unwrap_err().to_string();
        assert!(error.contains("w.whl"), "{error}");
    }
}
