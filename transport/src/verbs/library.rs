//! Opening `libibverbs.so.1` at run time, once per process.

use std::error::Error as _;
use std::sync::OnceLock;

use libloading::os::unix::{Library, RTLD_LOCAL, RTLD_NOW};

use super::ffi::Functions;
use crate::config::BackendKind;
use crate::error::Error;

/// The ABI that every rdma-core since 2006 has.
const LIBIBVERBS: &str = "libibverbs.so.1";

/// Loads libibverbs, or returns it if it is loaded already. It stays loaded: providers register
/// themselves with it and cannot be taken out.
///
/// # Errors
/// [`Error::Open`] with the dynamic linker's words and the packages to install.
pub(super) fn load() -> Result<&'static Functions, Error> {
    static LOADED: OnceLock<Result<Functions, String>> = OnceLock::new();
    let loaded = LOADED.get_or_init(|| {
        // SAFETY: loading runs the library's constructors, which set up tables of its own.
        let library = unsafe { Library::open(Some(LIBIBVERBS), RTLD_NOW | RTLD_LOCAL) };
        let library = library.map_err(|error| {
            format!(
                "the dynamic linker cannot load {LIBIBVERBS}: {}; install libibverbs1 and \
                 ibverbs-providers (Debian, Ubuntu) or libibverbs (RHEL, SUSE)",
                cause(&error)
            )
        })?;
        // Leaked: never unloaded.
        let library: &'static Library = Box::leak(Box::new(library));
        // SAFETY: the name is libibverbs's, and it is never unloaded.
        unsafe { Functions::load(library) }
            .map_err(|error| format!("{LIBIBVERBS} is too old: {}", cause(&error)))
    });
    loaded.as_ref().map_err(|reason| refused(reason.clone()))
}

/// The backend cannot be opened, for this reason.
pub(super) fn refused(reason: String) -> Error {
    Error::Open { backend: BackendKind::Verbs, reason }
}

/// What the dynamic linker said. libloading's own message leaves that to `source`.
fn cause(error: &libloading::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

#[cfg(test)]
mod tests {
    /// The dynamic linker must not need libibverbs to start a program. (`readelf -d` shows the
    /// same for the release binary.)
    #[test]
    fn no_libibverbs_is_needed_to_start() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        let name = b"\0libibverbs.so.1\0";
        // Our own constant has no zeros about it; an entry of NEEDED has.
        assert!(!program.windows(name.len()).any(|window| window == name));
    }
}
