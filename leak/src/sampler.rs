//! Reads the memory of a process from outside.
//!
//! [`Watched::read`] is for every sample: two small files, one of them (`smaps_rollup`) at the price of a walk of the
//! page tables, 5 to 25 milliseconds per gigabyte mapped in small pages. While it walks a mapping, the process cannot map
//! or unmap anything. [`Watched::layout`] reads every mapping and is for the start and the end of a run.
//!
//! [`Watched::glance`] and [`Watched::survey_gently`] are for processes that must not be held up: they make do with the
//! kernel's own counters and with page tables read in small steps.
//!
//! A [`Watched`] keeps the process's directory in `/proc` open. The kernel ties that handle to the process and not to
//! its number, so a reading can never come from another process that was given the same number later.

mod pagemap;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, BufReader, Read};

use procfs::ProcError;
use procfs::process::{FDInfo, FDTarget, Process};

use crate::descriptors::Descriptors;
use crate::layout::{Class, Layout, Range, Segments, Told};
use crate::sample::Memory;
use crate::smaps;
use crate::trace::space::Span;
use pagemap::PageTable;

/// A process cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// It does not exist, or has ended.
    #[error("process {pid} is gone: it has ended, or never existed")]
    Gone {
        /// Its number.
        pid: u32,
    },
    /// It belongs to someone else.
    #[error(
        "no permission to read /proc/{pid}/{file}: run as the owner of process {pid}, or as root, or with CAP_SYS_PTRACE"
    )]
    Denied {
        /// Its number.
        pid: u32,
        /// The file in its directory.
        file: &'static str,
    },
    /// The kernel answered something else.
    #[error("cannot read /proc/{pid}/{file}: {source}")]
    Read {
        /// Its number.
        pid: u32,
        /// The file in its directory.
        file: &'static str,
        /// What went wrong.
        source: io::Error,
    },
}

/// A process under watch.
#[derive(Debug)]
pub struct Watched {
    process: Process,
    pid: u32,
}

/// Where a program and its stack lie: the kernel puts them at random when one is executed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Image {
    code: u64,
    stack: u64,
}

impl Watched {
    /// Starts to watch `pid`, and sees that it may.
    pub fn open(pid: u32) -> Result<Watched, SampleError> {
        // No process has a number that is no pid_t.
        let number = i32::try_from(pid).map_err(|_| SampleError::Gone { pid })?;
        let process = Process::new(number).map_err(|error| from_procfs(pid, "", error))?;
        let watched = Watched { process, pid };
        // The kernel decides when the file is opened; nothing is walked yet.
        watched.open_file("smaps_rollup")?;
        watched.glance()?;
        Ok(watched)
    }

    /// The process's number.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// One reading.
    pub fn read(&self) -> Result<Memory, SampleError> {
        // A process that has ended and waits for its parent has no memory to roll up.
        let gone = || SampleError::Gone { pid: self.pid };
        let rollup = self.text("smaps_rollup")?;
        let counters = self.counters()?;
        let memory = summed(&rollup, counters).ok_or_else(gone)?;
        if is_whole(&memory, &counters) {
            return Ok(memory);
        }
        summed(&self.text("smaps")?, counters).ok_or_else(gone)
    }

    /// One reading from the kernel's counters alone, without a walk of the page tables: the process is not held up,
    /// however large it is. What only a walk tells (PSS, private and lazily freed pages) is 0, and the rest may lag by
    /// some 64 pages per processor.
    pub fn glance(&self) -> Result<Memory, SampleError> {
        let memory = self.counters()?;
        // A process that has ended and waits for its parent has no memory.
        if memory.vm_bytes == 0 { Err(SampleError::Gone { pid: self.pid }) } else { Ok(memory) }
    }

    /// What identifies the program that the process runs now. Another value means that it has executed another program,
    /// and that all its memory is new. `None` once it has ended, and for the moment in which it changes programs: the new
    /// memory is there before the kernel has noted where the program lies.
    pub fn image(&self) -> Option<Image> {
        let stat = self.process.stat().ok().filter(|stat| stat.startstack != 0)?;
        Some(Image { code: stat.startcode, stack: stat.startstack })
    }

    fn counters(&self) -> Result<Memory, SampleError> {
        let status = self.text("status")?;
        let mut memory = Memory::default();
        for (key, bytes) in smaps::sizes(&status) {
            match key {
                "VmSize" => memory.vm_bytes = bytes,
                "VmRSS" => memory.rss_bytes = bytes,
                "RssAnon" => memory.anonymous_bytes = bytes,
                "HugetlbPages" => memory.hugetlb_bytes = bytes,
                "VmSwap" => memory.swap_bytes = bytes,
                "RssFile" => memory.rss_file_bytes = bytes,
                "RssShmem" => memory.rss_shmem_bytes = bytes,
                "VmPin" => memory.pinned_bytes = bytes,
                "VmLck" => memory.locked_bytes = bytes,
                _ => {}
            }
        }
        memory.threads = status
            .lines()
            .find_map(|line| line.strip_prefix("Threads:")?.trim().parse().ok())
            .unwrap_or(0);
        memory.fds = self.process.fd_count().map_or(0, |count| count as u64);
        Ok(memory)
    }

    /// Resident memory by class. `kv_pool` is where the process has said that its KV pool lies.
    pub fn layout(&self, kv_pool: Option<Range>) -> Result<Layout, SampleError> {
        Ok(self.survey(&Told { kv_pool, regions: Vec::new() })?.layout)
    }

    /// Resident memory by class and by address, of one reading of the mappings. `told` is what the process has said.
    pub fn survey(&self, told: &Told) -> Result<Survey, SampleError> {
        let mappings = smaps::read(BufReader::new(self.open_file("smaps")?))
            .map_err(|error| from_io(self.pid, "smaps", error))?;
        if mappings.is_empty() {
            return Err(SampleError::Gone { pid: self.pid });
        }
        let segments = Segments::of(&mappings, told);
        let mut pages = PageTable::new(self.open_file("pagemap").ok());
        let layout = Layout::of(&mappings, &segments, |span| pages.resident_bytes(span));
        Ok(Survey { layout, segments })
    }

    /// How much of each group of spans is resident now, by the class of what it lies in according to `survey`. What was
    /// mapped after the survey counts for nothing, so that the survey's bytes are never exceeded by much, however long
    /// it has taken to find the spans.
    pub fn resident(&self, survey: &Survey, groups: &[&[Span]]) -> Vec<BTreeMap<Class, u64>> {
        let mut pages = PageTable::new(self.open_file("pagemap").ok());
        let mut resident = |spans: &&[Span]| {
            let mut by_class = BTreeMap::new();
            for (part, class) in spans.iter().flat_map(|span| survey.segments.under(*span)) {
                *by_class.entry(class).or_default() += pages.resident_bytes(part).unwrap_or(0);
            }
            by_class
        };
        groups.iter().map(&mut resident).collect()
    }

    /// As [`Watched::survey`], but the process is held up for microseconds only, however large it is: `maps` and
    /// `pagemap` are read in small steps, 512 pages each, where `smaps` takes a whole mapping at a time. Mappings of more
    /// than 1 TiB are reservations, and taken to be empty; inaccessible ones are.
    pub fn survey_gently(&self) -> Result<Survey, SampleError> {
        const RESERVATION_BYTES: u64 = 1 << 40;
        let mut mappings = smaps::read(smaps::in_small_steps(self.open_file("maps")?))
            .map_err(|error| from_io(self.pid, "maps", error))?;
        if mappings.is_empty() {
            return Err(SampleError::Gone { pid: self.pid });
        }
        let mut pages = PageTable::new(self.open_file("pagemap").ok());
        for mapping in mappings.iter_mut().filter(|mapping| mapping.accessible) {
            let span = Span { start: mapping.start, end: mapping.end };
            if span.len_bytes() <= RESERVATION_BYTES {
                // What was unmapped since, or lies in the kernel's half, has no page table.
                mapping.rss_bytes = pages.resident_bytes(span).unwrap_or(0);
            }
        }
        let segments = Segments::of(&mappings, &Told::default());
        let layout = Layout::of(&mappings, &segments, |span| pages.resident_bytes(span));
        Ok(Survey { layout, segments })
    }

    /// Its open file descriptors by kind. One that is closed while they are listed is left out.
    pub fn descriptors(&self) -> Result<Descriptors, SampleError> {
        let open = self.process.fd().map_err(|error| from_procfs(self.pid, "fd", error))?;
        let target = |fd: FDInfo| match fd.target {
            FDTarget::Socket(_) | FDTarget::Net(_) => "socket:",
            FDTarget::Pipe(_) => "pipe:",
            FDTarget::AnonInode(_) => "anon_inode:",
            FDTarget::Path(_)
            | FDTarget::MemFD(_)
            | FDTarget::Other(..)
            | FDTarget::Unknown(..) => "",
        };
        Ok(Descriptors::of(open.flatten().map(target)))
    }

    fn text(&self, file: &'static str) -> Result<String, SampleError> {
        let mut bytes = Vec::with_capacity(4096);
        self.open_file(file)?
            .read_to_end(&mut bytes)
            .map_err(|error| from_io(self.pid, file, error))?;
        // The name of the process may be any bytes.
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn open_file(&self, file: &'static str) -> Result<File, SampleError> {
        self.process.open_relative(file).map_err(|error| from_procfs(self.pid, file, error))
    }
}

/// What the memory of a process is made of, at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Survey {
    /// By class.
    pub layout: Layout,
    /// By address.
    pub segments: Segments,
}

/// `counters`, with what `smaps`, a file of sizes of mappings, sums up to in the place of what lags; `None` if it has none.
fn summed(smaps: &str, counters: Memory) -> Option<Memory> {
    let mut memory =
        Memory { rss_bytes: 0, anonymous_bytes: 0, hugetlb_bytes: 0, swap_bytes: 0, ..counters };
    let mut readable = false;
    for (key, bytes) in smaps::up_to_date(smaps).flat_map(smaps::sizes) {
        match key {
            "Rss" => {
                memory.rss_bytes += bytes;
                readable = true;
            }
            "Pss" => memory.pss_bytes += bytes,
            "Anonymous" => memory.anonymous_bytes += bytes,
            "Private_Clean" | "Private_Dirty" => memory.private_bytes += bytes,
            "LazyFree" => memory.lazy_free_bytes += bytes,
            "Shared_Hugetlb" | "Private_Hugetlb" => memory.hugetlb_bytes += bytes,
            "Swap" => memory.swap_bytes += bytes,
            _ => {}
        }
    }
    readable.then_some(memory)
}

/// Whether a sum has every mapping in it, by what the kernel counts. `smaps_rollup` gives way to whoever waits to change the
/// mappings, and Linux 6.1 (Debian's 6.1.0-56) then leaves some of them out: of a process of 165 MB that unmapped
/// 1,800 times per second, it summed up 18 to 165 MB. `smaps` has no such gaps, and costs a text per mapping.
fn is_whole(memory: &Memory, counters: &Memory) -> bool {
    /// Pages that a thread may have taken or given back and not yet told: `TASK_RSS_EVENTS_THRESH` of Linux up to 6.1.
    const UNTOLD_PAGES: u64 = 64;
    let lag_bytes = UNTOLD_PAGES * procfs::page_size() * counters.threads.max(1);
    memory.rss_bytes.saturating_add(lag_bytes) >= counters.rss_bytes
}

fn from_procfs(pid: u32, file: &'static str, error: ProcError) -> SampleError {
    match error {
        ProcError::NotFound(_) => SampleError::Gone { pid },
        ProcError::PermissionDenied(_) => SampleError::Denied { pid, file },
        ProcError::Io(source, _) => from_io(pid, file, source),
        other => SampleError::Read { pid, file, source: io::Error::other(other.to_string()) },
    }
}

fn from_io(pid: u32, file: &'static str, source: io::Error) -> SampleError {
    /// "No such process": what files of a process say that ended after they were opened.
    const ESRCH: i32 = 3;
    match source.kind() {
        _ if source.raw_os_error() == Some(ESRCH) => SampleError::Gone { pid },
        io::ErrorKind::NotFound => SampleError::Gone { pid },
        io::ErrorKind::PermissionDenied => SampleError::Denied { pid, file },
        _ => SampleError::Read { pid, file, source },
    }
}

#[cfg(test)]
mod tests;
