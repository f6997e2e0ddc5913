//! What UCX's registration cache holds, by its own account.
//!
//! UCX describes its objects in a tree of named files that it keeps for its FUSE daemon
//! (<https://github.com/openucx/ucx/blob/v1.19.0/src/ucs/memory/rcache_vfs.c>). Objects are in the
//! tree whether or not a daemon runs, and libucs exports what reads it. It is no part of UCP's
//! stable interface, so each function is looked up when UCX is loaded, and where one is missing, or
//! a file is, there is no figure.
//!
//! # Thread safety
//! The tree and the cache have locks of their own, which reading takes, so any thread may read
//! while progress threads work. What no lock covers is a cache's destruction, so contexts are
//! cleaned up through [`Rcache::while_nobody_reads`].

use std::ffi::{CStr, CString, c_char, c_void};
use std::mem::MaybeUninit;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

use libloading::os::unix::Library;

use super::ffi::Status;

/// The directory of all registration caches of the process.
const ROOT: &CStr = c"/ucs/rcache";
/// How the names of those of UCP contexts begin; a second context's has its address behind.
const UCP: &str = "ucp_rcache";

/// The length of the queue is counted by UCX entry by entry under the cache's lock, for which the
/// process's unmaps wait: 4 ms for 300,000 entries. It is counted again when the last figure is
/// this many times as old as it took to get, so that unmaps wait for 2% of the time at most.
const REST: u32 = 50;

/// What the caches of all UCP contexts of this process hold together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figures {
    /// Regions, in use or not.
    pub(super) regions: u64,
    /// Their bytes.
    pub(super) bytes: u64,
    /// Unmapped ranges that are yet to be acted upon. Up to 1.20 each unmap is one; from 1.21 on
    /// neighbours are joined.
    pub(super) queue: u64,
}

/// The registration caches of this process.
pub(super) struct Rcache {
    files: Option<Files>,
    /// Held while caches are read, and while one is destroyed.
    queue: Mutex<Queue>,
}

/// The length of the queues when it was last counted.
#[derive(Default)]
struct Queue {
    len: u64,
    again: Option<Instant>,
}

impl Rcache {
    /// `None`: this UCX does not tell.
    pub(super) fn new(files: Option<Files>) -> Self {
        Self { files, queue: Mutex::default() }
    }

    /// `None` if this UCX does not tell, or has no context with a cache.
    pub(super) fn figures(&self) -> Option<Figures> {
        let files = self.files.as_ref()?;
        // Between any two statements the figure is a figure, so a poisoned lock is still good.
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let mut caches = files.list(ROOT)?;
        caches.retain(|name| name.starts_with(UCP));
        let sum = |file| caches.iter().map(|cache| files.number(cache, file)).sum::<Option<u64>>();
        let (regions, bytes) = (sum("num_regions")?, sum("total_size")?);
        let began = Instant::now();
        if queue.again.is_none_or(|again| began >= again) {
            queue.len = sum("inv_q/length")?;
            let took = began.elapsed();
            queue.again = Some(began + took.saturating_mul(REST));
        }
        Some(Figures { regions, bytes, queue: queue.len })
    }

    /// Runs `destroy`, after which a cache is gone.
    pub(super) fn while_nobody_reads(&self, destroy: impl FnOnce()) {
        let _queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        destroy();
    }
}

/// The functions that read UCX's tree.
pub(super) struct Files {
    list_dir: unsafe extern "C" fn(*const c_char, ListCallback, *mut c_void) -> Status,
    read_file: unsafe extern "C" fn(*const c_char, *mut StringBuffer) -> Status,
    init: unsafe extern "C" fn(*mut StringBuffer),
    text: unsafe extern "C" fn(*const StringBuffer) -> *const c_char,
    cleanup: unsafe extern "C" fn(*mut StringBuffer),
}

/// Name and the caller's argument.
type ListCallback = unsafe extern "C" fn(*const c_char, *mut c_void);

/// Room for UCX's `ucs_string_buffer_t`: a pointer and two lengths, 24 bytes, in 1.13 to 1.22. UCX
/// alone looks inside.
#[repr(C, align(16))]
struct StringBuffer(MaybeUninit<[u8; 256]>);

impl Files {
    /// The functions, if this UCX has all of them.
    ///
    /// # Safety
    /// `library` must be `libucp.so.0` of UCX 1.13 or a later 1.x and must never be unloaded.
    pub(super) unsafe fn load(library: &Library) -> Option<Self> {
        // SAFETY: the caller vouches for the library. These five have had these signatures since
        // they appeared: https://github.com/openucx/ucx/blob/v1.19.0/src/ucs/vfs/base/vfs_obj.h and
        // https://github.com/openucx/ucx/blob/v1.19.0/src/ucs/datastruct/string_buffer.h.
        unsafe {
            Some(Self {
                list_dir: *library.get(b"ucs_vfs_path_list_dir\0").ok()?,
                read_file: *library.get(b"ucs_vfs_path_read_file\0").ok()?,
                init: *library.get(b"ucs_string_buffer_init\0").ok()?,
                text: *library.get(b"ucs_string_buffer_cstr\0").ok()?,
                cleanup: *library.get(b"ucs_string_buffer_cleanup\0").ok()?,
            })
        }
    }

    /// The names in a directory.
    fn list(&self, directory: &CStr) -> Option<Vec<String>> {
        let mut names = Vec::<String>::new();
        // SAFETY: the path is a C string; the callback runs during the call only, with the list
        // that nobody else touches meanwhile.
        let status =
            unsafe { (self.list_dir)(directory.as_ptr(), collect, (&raw mut names).cast()) };
        status.is_ok().then_some(names)
    }

    /// The number in a file of a cache.
    fn number(&self, cache: &str, file: &str) -> Option<u64> {
        let path = CString::new(format!("{}/{cache}/{file}", ROOT.to_str().ok()?)).ok()?;
        let mut buffer = StringBuffer(MaybeUninit::uninit());
        // SAFETY: the buffer is larger than UCX's type and aligned for it, does not move, and is
        // initialised by the first call and cleaned up by the last. The text is UCX's own, valid
        // and ended by a zero until then, and parsed before.
        unsafe {
            (self.init)(&mut buffer);
            let status = (self.read_file)(path.as_ptr(), &mut buffer);
            let text = status.is_ok().then(|| CStr::from_ptr((self.text)(&buffer)));
            let number = text.and_then(|text| text.to_str().ok()?.trim().parse().ok());
            (self.cleanup)(&mut buffer);
            number
        }
    }
}

unsafe extern "C" fn collect(name: *const c_char, names: *mut c_void) {
    // SAFETY: called by `Files::list` with its list, and by UCX with a C string that is valid
    // during the call.
    let (name, names) = unsafe { (CStr::from_ptr(name), &mut *names.cast::<Vec<String>>()) };
    names.push(name.to_string_lossy().into_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_functions_there_are_no_figures() {
        let rcache = Rcache::new(None);
        assert_eq!(rcache.figures(), None);
        rcache.while_nobody_reads(|| assert!(rcache.queue.try_lock().is_err()));
    }
}
