//! Which pages of a process are resident, read from its page table.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

use crate::trace::space::Span;

/// The page table of a process, opened once for many ranges. A process that may not be read has none.
///
/// Older kernels (6.1 is one) walk to the end of the table that an entry is in, 512 pages, for whoever asks for that one. So
/// whole tables are read, and what was read last is kept for its neighbours: else a process of many small mappings would
/// be walked hundreds of times over.
#[derive(Debug)]
pub(super) struct PageTable {
    file: Option<File>,
    page_bytes: u64,
    /// The pages that `entries` tells of.
    window: Range<u64>,
    entries: Vec<u8>,
}

impl PageTable {
    /// An entry is 8 bytes, and bit 63 says "present" (<https://docs.kernel.org/admin-guide/mm/pagemap.html>).
    const ENTRY_BYTES: usize = 8;

    /// Pages of one lowest page table; the kernel releases the lock of the address space after each.
    const TABLE: u64 = 512;

    /// Entries read at a time, at most: 64 KiB of them, for 32 MiB of address space in small pages.
    const ENTRIES: u64 = 8192;

    /// Of the process whose `pagemap` this is.
    pub(super) fn new(file: Option<File>) -> PageTable {
        PageTable { file, page_bytes: procfs::page_size(), window: 0..0, entries: Vec::new() }
    }

    /// How much of `span` is resident; `None` if that cannot be read.
    pub(super) fn resident_bytes(&mut self, span: Span) -> Option<u64> {
        let (mut page, end) = (span.start / self.page_bytes, span.end.div_ceil(self.page_bytes));
        let mut present = 0;
        while page < end {
            if !self.window.contains(&page) {
                self.read(page, end)?;
            }
            let upto = end.min(self.window.end);
            let at = |page: u64| (page - self.window.start) as usize * Self::ENTRY_BYTES;
            let (entries, _) = self.entries[at(page)..at(upto)].as_chunks::<8>();
            present += entries.iter().map(|entry| u64::from_ne_bytes(*entry) >> 63).sum::<u64>();
            page = upto;
        }
        Some(present * self.page_bytes)
    }

    /// Reads the tables from `page` on, `end` being the last that is of interest now. `None` if it has no entry.
    fn read(&mut self, page: u64, end: u64) -> Option<()> {
        let file = self.file.as_ref()?;
        let start = page - page % Self::TABLE;
        let wanted = (end - start).next_multiple_of(Self::TABLE).min(Self::ENTRIES);
        self.entries.resize(wanted as usize * Self::ENTRY_BYTES, 0);
        let mut read = 0;
        // There is less at the end of the address space.
        while read < self.entries.len() {
            match file
                .read_at(&mut self.entries[read..], start * Self::ENTRY_BYTES as u64 + read as u64)
            {
                Ok(0) => break,
                Ok(bytes) => read += bytes,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        self.window = start..start + (read / Self::ENTRY_BYTES) as u64;
        self.window.contains(&page).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Seek, Write};

    use super::*;

    /// A page table in which every third page of `pages` is resident.
    fn table(pages: u64) -> (PageTable, File) {
        let mut file = tempfile::tempfile().unwrap();
        for page in 0..pages {
            file.write_all(&(u64::from(page % 3 == 0) << 63 | 7).to_ne_bytes()).unwrap();
        }
        (PageTable::new(Some(file.try_clone().unwrap())), file)
    }

    fn span(table: &PageTable, pages: Range<u64>) -> Span {
        Span { start: pages.start * table.page_bytes, end: pages.end * table.page_bytes }
    }

    #[test]
    fn spans_of_any_size_and_order_are_counted() {
        let (mut table, _file) = table(20_000);
        for pages in [0..1, 3..600, 511..513, 512..512, 100..19_999, 7..8, 1_023..10_000] {
            let resident = pages.clone().filter(|page| page % 3 == 0).count() as u64;
            let span = span(&table, pages);
            assert_eq!(table.resident_bytes(span), Some(resident * table.page_bytes), "{span:?}");
        }
    }

    #[test]
    fn neighbours_are_read_once() {
        let (mut table, mut file) = table(2_048);
        let first = span(&table, 512..514);
        assert_eq!(table.resident_bytes(first), Some(table.page_bytes));
        // All are resident now, which only a new look can tell.
        file.rewind().unwrap();
        file.write_all(&[0xFF; 2_048 * 8]).unwrap();
        let (neighbour, far) = (span(&table, 514..520), span(&table, 1_024..1_030));
        assert_eq!(table.resident_bytes(neighbour), Some(2 * table.page_bytes));
        assert_eq!(table.resident_bytes(far), Some(6 * table.page_bytes));
    }

    #[test]
    fn the_last_table_may_be_cut_short() {
        let (mut table, _file) = table(700);
        let (last, beyond) = (span(&table, 690..700), span(&table, 690..701));
        assert_eq!(table.resident_bytes(last), Some(4 * table.page_bytes));
        assert_eq!(table.resident_bytes(beyond), None);
        let mut none = PageTable::new(None);
        assert_eq!(none.resident_bytes(last), None);
    }
}
