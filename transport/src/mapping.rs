//! Anonymous memory mappings that give themselves back.

use std::ops::Range;
use std::ptr::NonNull;

use crate::error::Error;

/// Page-aligned, zeroed, private memory, owned.
///
/// Dropping it calls `munmap` through libc's symbol, because that is the symbol that UCX's memory
/// hooks patch: <https://openucx.readthedocs.io/en/master/faq.html>.
#[derive(Debug)]
pub struct Mapping {
    base: NonNull<u8>,
    /// What the caller asked for, in bytes.
    len: usize,
    /// `len` rounded up to whole pages: what the kernel gave.
    mapped: usize,
    /// Bytes of a page: what ranges must be multiples of.
    page: usize,
}

/// What pages a mapping is made of. Larger ones take fewer entries of a processor's, and of a
/// device's, translation tables
/// (<https://docs.kernel.org/admin-guide/mm/hugetlbpage.html>).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pages {
    /// The machine's own, 4 KiB on x86.
    #[default]
    Small,
    /// Small ones, which the kernel may join to huge ones (`madvise(MADV_HUGEPAGE)`).
    Transparent,
    /// Reserved ones of 2 MiB.
    Huge2M,
    /// Reserved ones of 1 GiB.
    Huge1G,
}

impl Pages {
    /// Bytes of a page that was reserved beforehand; `None` for the machine's own.
    fn reserved(self) -> Option<usize> {
        match self {
            Self::Small | Self::Transparent => None,
            Self::Huge2M => Some(1 << 21),
            Self::Huge1G => Some(1 << 30),
        }
    }
}

// SAFETY: the mapping is plain memory that this value alone owns; nothing in it is tied to the
// thread that made it.
unsafe impl Send for Mapping {}
// SAFETY: through `&Mapping` memory can only be read; every mutation takes `&mut`.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Maps `len` bytes of zeroed memory. No page of it is resident until it is touched.
    ///
    /// # Errors
    /// [`Error::Register`] if `len` is 0 or the kernel has no room for it.
    pub fn anonymous(len: usize) -> Result<Self, Error> {
        Self::of_pages(len, Pages::Small)
    }

    /// Maps `len` bytes of zeroed memory, of such pages.
    ///
    /// # Errors
    /// [`Error::Register`] if `len` is 0, the kernel has no room for it, or not enough pages of that size were reserved.
    pub fn of_pages(len: usize, pages: Pages) -> Result<Self, Error> {
        let failed = |reason: String| Error::Register { len, reason };
        if len == 0 {
            return Err(failed("a mapping needs at least one byte".to_owned()));
        }
        let page = pages.reserved().unwrap_or_else(page_size);
        let mapped = len
            .checked_next_multiple_of(page)
            .ok_or_else(|| failed("the length exceeds the address space".to_owned()))?;
        let huge = pages.reserved().map_or(0, |bytes| {
            libc::MAP_HUGETLB | (bytes.trailing_zeros() << libc::MAP_HUGE_SHIFT) as i32
        });
        // SAFETY: an anonymous mapping at an address of the kernel's choice overlays nothing.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | huge,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED {
            let cause = std::io::Error::last_os_error();
            let cure = match pages.reserved() {
                None => "free memory or raise `ulimit -v`".to_owned(),
                Some(bytes) => format!(
                    "reserve {} huge pages: /sys/kernel/mm/hugepages/hugepages-{}kB/nr_hugepages",
                    mapped / bytes,
                    bytes >> 10
                ),
            };
            return Err(failed(format!("mmap failed: {cause}; {cure}")));
        }
        let base =
            NonNull::new(base.cast()).ok_or_else(|| failed("mmap gave address 0".to_owned()))?;
        let mapping = Self { base, len, mapped, page };
        if pages == Pages::Transparent {
            mapping.advise(libc::MADV_HUGEPAGE).map_err(|cause| {
                failed(format!("no transparent huge pages: {cause}; this kernel has none"))
            })?;
        }
        Ok(mapping)
    }

    /// Length in bytes, as asked for.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a mapping is never empty")]
    pub fn len(&self) -> usize {
        self.len
    }

    /// The first byte. Valid for `len` bytes while the mapping lives.
    #[must_use]
    pub fn as_ptr(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    /// Makes every page resident by writing to it, and leaves the content as it is.
    pub fn prefault(&mut self) {
        for page in self.as_mut_slice().chunks_mut(page_size()) {
            let first: *mut u8 = &raw mut page[0];
            // SAFETY: `first` comes from a unique reference; the access is volatile so that the
            // compiler cannot see that it changes nothing.
            unsafe { first.write_volatile(first.read_volatile()) };
        }
    }

    /// The bytes.
    #[must_use]
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: `base..base+len` is mapped readable and writable, zero-initialised by the
        // kernel, and stays so until drop; `&self` keeps `&mut` users away.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }

    /// The bytes, to change them.
    #[must_use]
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as in `as_slice`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// Gives the pages of `range` back to the kernel (`madvise(MADV_DONTNEED)`): they read as
    /// zero afterwards and are not resident until touched again. The address range stays mapped.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the range leaves the mapping; [`Error::Register`] if it does not
    /// begin and end on page boundaries (the mapping's own end counts as one).
    pub fn discard(&mut self, range: Range<usize>) -> Result<(), Error> {
        if range.start > range.end || range.end > self.len {
            return Err(Error::OutOfRange {
                what: "the range to discard".to_owned(),
                offset: range.start as u64,
                len: range.end.saturating_sub(range.start) as u64,
                limit: self.len as u64,
            });
        }
        let end = if range.end == self.len { self.mapped } else { range.end };
        self.require_page_boundary(range.start)?;
        self.require_page_boundary(end)?;
        // SAFETY: the range lies inside of the mapping and covers whole pages; `&mut self` says
        // that nobody reads them meanwhile.
        let status = unsafe {
            libc::madvise(
                self.base.as_ptr().add(range.start).cast(),
                end - range.start,
                libc::MADV_DONTNEED,
            )
        };
        if status != 0 {
            let source = std::io::Error::last_os_error();
            return Err(Error::Io { operation: "discard pages with madvise".to_owned(), source });
        }
        Ok(())
    }

    /// Makes the mapping longer or shorter (`mremap`). It may move; what is new is zeroed.
    ///
    /// # Errors
    /// [`Error::Register`] if `len` is 0 or the kernel has no room for it; the mapping is then as
    /// before.
    pub fn resize(&mut self, len: usize) -> Result<(), Error> {
        let failed = |reason: String| Error::Register { len, reason };
        let mapped = len
            .checked_next_multiple_of(self.page)
            .filter(|mapped| *mapped > 0)
            .ok_or_else(|| failed("that is no length of a mapping".to_owned()))?;
        // SAFETY: the old range is ours, whole, and `&mut self` says that nobody refers to it. The
        // kernel picks the new one, which overlays nothing.
        let base = unsafe {
            libc::mremap(self.base.as_ptr().cast(), self.mapped, mapped, libc::MREMAP_MAYMOVE)
        };
        if base == libc::MAP_FAILED {
            let cause = std::io::Error::last_os_error();
            return Err(failed(format!(
                "mremap failed: {cause}; free memory or raise `ulimit -v`"
            )));
        }
        self.base =
            NonNull::new(base.cast()).ok_or_else(|| failed("mremap gave address 0".to_owned()))?;
        (self.len, self.mapped) = (len, mapped);
        Ok(())
    }

    /// Has the memory touched page by page only: where transparent huge pages are on, one byte
    /// could otherwise make 2 MiB resident. A kernel without them has nothing to switch off.
    pub fn refuse_huge_pages(&mut self) {
        let _ = self.advise(libc::MADV_NOHUGEPAGE);
    }

    /// Says to the kernel which pages the mapping is to have; `advice` is one of the two that say that.
    fn advise(&self, advice: libc::c_int) -> std::io::Result<()> {
        debug_assert!([libc::MADV_HUGEPAGE, libc::MADV_NOHUGEPAGE].contains(&advice));
        // SAFETY: the whole mapping, which is ours; the advice changes nothing that is read or written.
        let status = unsafe { libc::madvise(self.base.as_ptr().cast(), self.mapped, advice) };
        if status == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
    }

    /// Cuts the mapping in two that are unmapped one by one, as an allocator does that returns a
    /// large arena in pieces.
    ///
    /// # Errors
    /// [`Error::Register`] if `middle` is no page boundary strictly inside; the mapping is then
    /// unmapped as a whole.
    pub fn split_at(self, middle: usize) -> Result<(Self, Self), Error> {
        self.require_page_boundary(middle)?;
        if middle == 0 || middle >= self.len {
            return Err(Error::Register {
                len: self.len,
                reason: format!("cannot split at byte {middle}: one part would be empty"),
            });
        }
        let whole = std::mem::ManuallyDrop::new(self);
        // SAFETY: `middle < len <= mapped`, so the sum stays inside of the mapping.
        let base = unsafe { whole.base.add(middle) };
        let page = whole.page;
        let head = Self { base: whole.base, len: middle, mapped: middle, page };
        let tail = Self { base, len: whole.len - middle, mapped: whole.mapped - middle, page };
        Ok((head, tail))
    }

    fn require_page_boundary(&self, offset: usize) -> Result<(), Error> {
        if offset.is_multiple_of(self.page) {
            return Ok(());
        }
        let reason = format!("byte {offset} is no multiple of the page size, {}", self.page);
        Err(Error::Register { len: self.len, reason })
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: `base..base+mapped` was mapped by us, whole pages, and no reference into it can
        // outlive `self`. Regions keep their mapping alive until the device is done with it.
        let status = unsafe { libc::munmap(self.base.as_ptr().cast(), self.mapped) };
        debug_assert_eq!(status, 0, "munmap of an owned mapping cannot fail");
    }
}

/// Bytes in a page of this machine.
#[must_use]
pub fn page_size() -> usize {
    // SAFETY: sysconf reads no memory of ours.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    usize::try_from(size).expect("Linux always knows its page size")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_zeroed_aligned_and_as_long_as_asked() {
        let mut mapping = Mapping::anonymous(page_size() + 1).unwrap();
        assert_eq!(mapping.len(), page_size() + 1);
        assert_eq!(mapping.as_ptr() as usize % page_size(), 0);
        assert!(mapping.as_slice().iter().all(|byte| *byte == 0));
        mapping.as_mut_slice().fill(7);
        mapping.prefault();
        assert!(mapping.as_slice().iter().all(|byte| *byte == 7));
    }

    #[test]
    fn discard_zeroes_whole_pages_and_refuses_others() {
        let page = page_size();
        let mut mapping = Mapping::anonymous(3 * page - 5).unwrap();
        mapping.as_mut_slice().fill(9);
        mapping.discard(page..mapping.len()).unwrap();
        assert!(mapping.as_slice()[..page].iter().all(|byte| *byte == 9));
        assert!(mapping.as_slice()[page..].iter().all(|byte| *byte == 0));
        assert_eq!(mapping.discard(1..page).unwrap_err().kind(), "register");
        assert_eq!(mapping.discard(0..3 * page).unwrap_err().kind(), "out_of_range");
        assert_eq!(mapping.discard(0..page + 1).unwrap_err().kind(), "register");
    }

    #[test]
    fn a_resized_mapping_keeps_its_content() {
        let page = page_size();
        let mut mapping = Mapping::anonymous(page).unwrap();
        mapping.refuse_huge_pages();
        mapping.as_mut_slice().fill(3);
        mapping.resize(5 * page - 1).unwrap();
        assert_eq!(mapping.len(), 5 * page - 1);
        assert!(mapping.as_slice()[..page].iter().all(|byte| *byte == 3));
        assert!(mapping.as_slice()[page..].iter().all(|byte| *byte == 0));
        mapping.resize(1).unwrap();
        assert_eq!(mapping.as_slice(), [3]);
        for impossible in [0, usize::MAX, 1 << 60] {
            assert_eq!(mapping.resize(impossible).unwrap_err().kind(), "register");
        }
        assert_eq!(mapping.as_slice(), [3]);
    }

    #[test]
    fn huge_pages_come_or_what_is_missing_is_named() {
        for (pages, bytes) in [(Pages::Huge2M, 1 << 21), (Pages::Huge1G, 1 << 30)] {
            match Mapping::of_pages(bytes + 1, pages) {
                Ok(mut mapping) => {
                    assert_eq!(mapping.as_ptr() as usize % bytes, 0);
                    mapping.as_mut_slice()[bytes] = 1;
                    assert_eq!(mapping.discard(0..page_size()).unwrap_err().kind(), "register");
                }
                Err(error) => {
                    let text = error.to_string();
                    let file = format!("hugepages-{}kB/nr_hugepages", bytes >> 10);
                    assert!(
                        text.contains("reserve 2 huge pages") && text.contains(&file),
                        "{text}"
                    );
                }
            }
        }
        let huge = Mapping::of_pages(1 << 22, Pages::Transparent);
        if std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            huge.unwrap().prefault();
        } else {
            assert!(huge.unwrap_err().to_string().contains("transparent huge pages"));
        }
    }

    #[test]
    fn parts_live_and_die_alone() {
        let page = page_size();
        let mut mapping = Mapping::anonymous(4 * page).unwrap();
        mapping.as_mut_slice().fill(3);
        let (head, tail) = mapping.split_at(page).unwrap();
        assert_eq!((head.len(), tail.len()), (page, 3 * page));
        drop(head);
        assert!(tail.as_slice().iter().all(|byte| *byte == 3));
        assert!(tail.split_at(0).is_err());
    }

    #[test]
    fn impossible_lengths_are_errors() {
        assert_eq!(Mapping::anonymous(0).unwrap_err().kind(), "register");
        assert_eq!(Mapping::anonymous(usize::MAX).unwrap_err().kind(), "register");
        assert_eq!(Mapping::anonymous(1 << 60).unwrap_err().kind(), "register");
    }
}
