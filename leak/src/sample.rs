//! One reading of a process: its memory, paired with the work it has done.

use serde::{Deserialize, Serialize};

use crate::work::{Unit, Work};

/// Memory of a process at one moment, in bytes unless the name says otherwise.
///
/// The first group comes from `/proc/PID/smaps_rollup`, which walks the page tables and is exact; the second from
/// `/proc/PID/status`, whose counters lag by up to some 64 pages per processor
/// (<https://docs.kernel.org/filesystems/proc.html>).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident pages of every kind.
    pub rss_bytes: u64,
    /// Resident pages, shared ones divided by the number of processes that map them.
    pub pss_bytes: u64,
    /// Resident pages that no file backs: heap, stacks, anonymous mmap.
    pub anonymous_bytes: u64,
    /// Resident pages that no other process maps.
    pub private_bytes: u64,
    /// Anonymous pages already offered to the kernel by `madvise(MADV_FREE)`.
    pub lazy_free_bytes: u64,
    /// Huge pages of hugetlbfs, which RSS leaves out.
    pub hugetlb_bytes: u64,
    /// Pages swapped out.
    pub swap_bytes: u64,

    /// Mapped address space.
    pub vm_bytes: u64,
    /// Resident pages of files.
    pub rss_file_bytes: u64,
    /// Resident pages of shared memory.
    pub rss_shmem_bytes: u64,
    /// Pages pinned for devices (VmPin), as RDMA registrations are.
    pub pinned_bytes: u64,
    /// Pages locked by mlock (VmLck).
    pub locked_bytes: u64,
    /// Threads, a count.
    pub threads: u64,
    /// Open file descriptors, a count; 0 where they may not be listed.
    pub fds: u64,
}

/// Which memory a slope is taken of.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Gauge {
    /// What only the process can give back: anonymous (without pages already offered by MADV_FREE), shared memory,
    /// huge pages, and what of them is swapped out. File pages are left out, since the kernel drops them under
    /// pressure: a page cache that fills is no leak.
    #[default]
    Held,
    /// RSS, as `ps` and `top` show it.
    Rss,
}

impl Memory {
    /// The bytes that `gauge` looks at.
    pub fn gauge(&self, gauge: Gauge) -> u64 {
        match gauge {
            Gauge::Rss => self.rss_bytes,
            Gauge::Held => {
                let anonymous = self.anonymous_bytes.saturating_sub(self.lazy_free_bytes);
                anonymous + self.rss_shmem_bytes + self.hugetlb_bytes + self.swap_bytes
            }
        }
    }

    /// The readings by name, in the order of the columns of `samples.csv`.
    pub fn fields(&self) -> [(&'static str, u64); 14] {
        [
            ("rss_bytes", self.rss_bytes),
            ("pss_bytes", self.pss_bytes),
            ("anonymous_bytes", self.anonymous_bytes),
            ("private_bytes", self.private_bytes),
            ("lazy_free_bytes", self.lazy_free_bytes),
            ("hugetlb_bytes", self.hugetlb_bytes),
            ("swap_bytes", self.swap_bytes),
            ("vm_bytes", self.vm_bytes),
            ("rss_file_bytes", self.rss_file_bytes),
            ("rss_shmem_bytes", self.rss_shmem_bytes),
            ("pinned_bytes", self.pinned_bytes),
            ("locked_bytes", self.locked_bytes),
            ("threads", self.threads),
            ("fds", self.fds),
        ]
    }
}

/// A reading of one process: when, after how much work, and how much memory.
///
/// The counters and the memory cannot be read at the same instant. Read the counters right before or right after the
/// memory and always in the same order: a constant delay shifts the series and leaves its slope alone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The process, for example `decode-0`: letters, digits, dashes, dots and underscores.
    pub process: String,
    /// Microseconds since the measurement began.
    pub t_us: u64,
    /// Work done so far.
    pub work: Work,
    /// Memory held.
    pub memory: Memory,
}

impl Sample {
    /// Seconds since the measurement began.
    pub fn t_s(&self) -> f64 {
        self.t_us as f64 / 1e6
    }

    /// Where the sample lies on the axis of `unit`.
    pub fn position(&self, unit: Unit) -> f64 {
        match self.work.count(unit) {
            Some(count) => count as f64,
            None => self.t_s(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn held_memory_leaves_out_what_the_kernel_may_drop() {
        let memory = Memory {
            rss_bytes: 1000,
            anonymous_bytes: 500,
            lazy_free_bytes: 50,
            rss_file_bytes: 400,
            rss_shmem_bytes: 100,
            hugetlb_bytes: 7,
            swap_bytes: 3,
            ..Memory::default()
        };
        assert_eq!(memory.gauge(Gauge::Rss), 1000);
        assert_eq!(memory.gauge(Gauge::Held), 450 + 100 + 7 + 3);
    }

    #[test]
    fn a_sample_lies_at_its_counter_or_at_its_time() {
        let work = Work { unmaps: 70, ..Work::default() };
        let sample =
            Sample { process: "decode-0".into(), t_us: 1_500_000, work, memory: Memory::default() };
        assert_eq!(sample.position(Unit::Unmap), 70.0);
        assert_eq!(sample.position(Unit::Second), 1.5);
    }
}
