//! A file seen through memory, for reading.

use std::fs::File;
use std::ops::Range;
use std::ptr::NonNull;

use crate::error::Error;
use crate::mapping::page_size;

/// A private, read-only mapping of a whole file. Pages of it count as resident once they are
/// touched, and are the page cache's own.
#[derive(Debug)]
pub struct FileView {
    base: NonNull<u8>,
    len: usize,
    /// Open for as long as its pages are looked at.
    file: File,
}

// SAFETY: read-only memory that this value alone owns; nothing in it is tied to a thread.
unsafe impl Send for FileView {}
// SAFETY: nothing can be written through it.
unsafe impl Sync for FileView {}

impl FileView {
    /// Maps the file as long as it is now.
    ///
    /// # Errors
    /// [`Error::Io`] if it is empty or cannot be mapped.
    pub fn open(file: File) -> Result<Self, Error> {
        use std::os::fd::AsRawFd;
        let failed = |source| Error::Io { operation: "map a file".to_owned(), source };
        let len = file.metadata().map_err(failed)?.len() as usize;
        // SAFETY: a mapping of an open file at an address of the kernel's choice overlays nothing.
        // An empty file is refused by the kernel.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                len,
                libc::PROT_READ,
                libc::MAP_PRIVATE,
                file.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(failed(std::io::Error::last_os_error()));
        }
        let zero = || failed(std::io::Error::other("mmap gave address 0"));
        let base = NonNull::new(base.cast()).ok_or_else(zero)?;
        Ok(Self { base, len, file })
    }

    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "an empty file cannot be mapped")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Reads a byte of every page of the range, which makes them resident.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Io`] if the file has become shorter.
    pub fn touch(&self, range: Range<usize>) -> Result<(), Error> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::OutOfRange {
                what: "the range to touch".to_owned(),
                offset: range.start as u64,
                len: range.end.saturating_sub(range.start) as u64,
                limit: self.len as u64,
            });
        }
        let failed = |source| Error::Io { operation: "look at a mapped file".to_owned(), source };
        let now = self.file.metadata().map_err(failed)?.len();
        if now < range.end as u64 {
            return Err(failed(std::io::Error::other("it has become shorter")));
        }
        for offset in range.step_by(page_size()) {
            // SAFETY: inside of the mapping, and of the file: pages past the end of one that is cut
            // short in this very moment would end the process by SIGBUS. Volatile, because the
            // value may change under us, and so that the compiler does not leave the read out.
            unsafe { self.base.as_ptr().add(offset).read_volatile() };
        }
        Ok(())
    }
}

impl Drop for FileView {
    fn drop(&mut self) {
        // SAFETY: mapped by us with this length, and no reference into it was ever given out.
        let status = unsafe { libc::munmap(self.base.as_ptr().cast(), self.len) };
        debug_assert_eq!(status, 0, "munmap of an owned mapping cannot fail");
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_file_is_touched_within_its_length() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(FileView::open(file.try_clone().unwrap()).is_err(), "it is empty");
        file.write_all(&[7; 10_000]).unwrap();
        let view = FileView::open(file.try_clone().unwrap()).unwrap();
        assert_eq!(view.len(), 10_000);
        view.touch(0..10_000).unwrap();
        assert_eq!(view.touch(0..10_001).unwrap_err().kind(), "out_of_range");
        file.set_len(100).unwrap();
        assert_eq!(view.touch(0..10_000).unwrap_err().kind(), "io");
    }
}
