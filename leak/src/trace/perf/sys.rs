//! The system calls of perf events, and the buffer that the kernel writes records into: all of this crate's `unsafe`.
//!
//! The protocol of the buffer is described in <https://man7.org/linux/man-pages/man2/perf_event_open.2.html>, "MMAP
//! layout": a page of control data, then a ring of a power of two of pages. The kernel moves `data_head`, the reader
//! moves `data_tail`.

#![expect(unsafe_code, reason = "perf events have no safe interface; this module is it")]

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use perf_event_open_sys as raw;

pub(super) use raw::bindings;
pub(super) use raw::bindings::perf_event_attr;

/// An open perf event. Dropping it closes it, and those that threads have inherited from it.
#[derive(Debug)]
pub(super) struct Event(File);

impl Event {
    /// Opens an event on thread `tid` while it runs on `cpu`.
    pub(super) fn open(attr: &mut perf_event_attr, tid: u32, cpu: u32) -> io::Result<Event> {
        let tid = i32::try_from(tid).map_err(|_| io::Error::from_raw_os_error(libc::ESRCH))?;
        let flags = raw::bindings::PERF_FLAG_FD_CLOEXEC;
        // SAFETY: `attr` is a live, exclusive reference for the whole call, and its `size` field is that of the type
        // (set by `events::attr`), so that the kernel reads and writes inside of it. Nothing is kept after the call.
        let fd = unsafe { raw::perf_event_open(attr, tid, cpu as i32, -1, u64::from(flags) as _) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the call has just returned this descriptor; nobody else knows it, so that nobody else closes it.
        Ok(Event(File::from(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Lets only those records pass that `filter` holds for. Once per event: the kernel does not replace a filter.
    pub(super) fn set_filter(&self, filter: &CStr) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self` is borrowed. The kernel copies the string, which ends with
        // a NUL, and does not write to it, whatever the type of the argument says.
        let result =
            unsafe { raw::ioctls::SET_FILTER(self.0.as_raw_fd(), filter.as_ptr().cast_mut()) };
        check(result)
    }

    /// Writes the records of this event into the buffer of `leader`, which is on the same CPU.
    pub(super) fn set_output(&self, leader: &Event) -> io::Result<()> {
        // SAFETY: both descriptors are open as long as they are borrowed. The kernel counts references to the buffer,
        // so that the order in which the two are closed later does not matter.
        check(unsafe { raw::ioctls::SET_OUTPUT(self.0.as_raw_fd(), leader.0.as_raw_fd()) })
    }

    /// Starts it, and those that threads have inherited from it.
    pub(super) fn enable(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open as long as `self` is borrowed; the call takes no pointer.
        check(unsafe { raw::ioctls::ENABLE(self.0.as_raw_fd(), 0) })
    }

    /// Stops it, and those that threads have inherited from it.
    pub(super) fn disable(&self) -> io::Result<()> {
        // SAFETY: as for `enable`.
        check(unsafe { raw::ioctls::DISABLE(self.0.as_raw_fd(), 0) })
    }

    /// How often it has happened, in all threads that have inherited it, too.
    pub(super) fn count(&self) -> io::Result<u64> {
        let mut bytes = [0; 8];
        (&self.0).read_exact(&mut bytes)?;
        Ok(u64::from_ne_bytes(bytes))
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn check(result: i32) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The buffer of an event, mapped into this process. Dropping it unmaps it.
#[derive(Debug)]
pub(super) struct Ring {
    base: NonNull<u8>,
    page_bytes: usize,
    data_bytes: usize,
}

// SAFETY: a `Ring` owns its mapping alone: no other value points into it, and it has no tie to the thread that made it.
// It is not `Sync`: reading moves the tail, and takes `&mut self`.
unsafe impl Send for Ring {}

impl Ring {
    /// Maps a buffer of `data_bytes`, a power of two of pages of `page_bytes`, for `event`.
    pub(super) fn new(event: &Event, page_bytes: usize, data_bytes: usize) -> io::Result<Ring> {
        if !data_bytes.is_power_of_two() || data_bytes < page_bytes {
            return Err(io::Error::from(io::ErrorKind::InvalidInput));
        }
        // SAFETY: a new mapping at an address of the kernel's choice touches nothing that exists. The descriptor is
        // open for the time of the call; the mapping keeps the buffer alive afterwards.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                page_bytes + data_bytes,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                event.0.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).expect("mmap gives no null unless asked for it");
        Ok(Ring { base, page_bytes, data_bytes })
    }

    /// Appends every byte that is complete to `out`, and gives the room back to the kernel. The bytes are whole
    /// records: the kernel moves the head by whole records only.
    pub(super) fn drain(&mut self, out: &mut Vec<u8>) {
        // Acquire: what the kernel wrote before it moved the head is read after this.
        let head = self.head().load(Ordering::Acquire);
        // Nobody but this reader moves the tail.
        let tail = self.tail().load(Ordering::Relaxed);
        let len = (head.wrapping_sub(tail) as usize).min(self.data_bytes);
        let start = tail as usize & (self.data_bytes - 1);
        let first = len.min(self.data_bytes - start);
        for (offset, len) in [(start, first), (0, len - first)] {
            // SAFETY: `offset + len` is at most `data_bytes` by the two lines above, so the slice lies in the mapping,
            // which lives as long as `self`. The kernel does not write between tail and head: it sees the tail, which
            // is moved below, after the copy. The slice is gone before that.
            let bytes = unsafe {
                std::slice::from_raw_parts(self.base.as_ptr().add(self.page_bytes + offset), len)
            };
            out.extend_from_slice(bytes);
        }
        // Release: the copy above is done before the kernel may write there again.
        self.tail().store(head, Ordering::Release);
    }

    fn head(&self) -> &AtomicU64 {
        self.control(std::mem::offset_of!(raw::bindings::perf_event_mmap_page, data_head))
    }

    fn tail(&self) -> &AtomicU64 {
        self.control(std::mem::offset_of!(raw::bindings::perf_event_mmap_page, data_tail))
    }

    fn control(&self, offset: usize) -> &AtomicU64 {
        // SAFETY: the control page is the first of the mapping, which lives as long as `self`; `offset` is that of an
        // aligned u64 field of the page's type. The kernel changes it at any time, and so it is read as an atomic.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(offset).cast()) }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // SAFETY: the range is exactly the one that `new` mapped; `&mut self` says that nobody reads it any more. If
        // it fails there is nothing to be done about it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.page_bytes + self.data_bytes) };
    }
}
