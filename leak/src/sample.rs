//! One reading of a process: its memory and what else it holds, paired with the work it has done.

use serde::{Deserialize, Serialize};

use crate::rdma::Objects;
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

impl Memory {
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

/// What the role says it holds, as counts and bytes. `None` is "it cannot tell", which is not zero: only some transports
/// have keys, and only some versions of UCX show their registration cache.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counts {
    /// KV blocks that are not free: in use by requests, or pinned.
    pub kv_blocks: u64,
    /// Of those, blocks kept for a remote reader (prefill).
    pub kv_blocks_pinned: u64,
    /// Requests that wait for remote KV (decode).
    pub waiting_remote: u64,
    /// Leases that pin blocks for a remote reader (prefill).
    pub leases: u64,
    /// Registered memory regions.
    pub regions: u64,
    /// Bytes in them.
    pub registered_bytes: u64,
    /// Endpoints to peers.
    pub endpoints: u64,
    /// Transfers whose handle is not released.
    pub transfers_open: u64,
    /// Notifications received and not yet taken.
    pub notifications_queued: u64,
    /// Remote engines that are remembered (decode).
    pub remote_engines: u64,
    /// Keys to the memory of peers.
    pub rkeys: Option<u64>,
    /// Regions in UCX's registration cache, live or waiting for their release.
    pub rcache_regions: Option<u64>,
    /// Bytes in them.
    pub rcache_bytes: Option<u64>,
    /// Unmapped ranges in that cache's invalidation queue.
    pub rcache_queue: Option<u64>,
}

impl Counts {
    /// The counts by name, in the order of the columns of `samples.csv`.
    pub fn fields(&self) -> [(&'static str, Option<u64>); 14] {
        [
            ("kv_blocks", Some(self.kv_blocks)),
            ("kv_blocks_pinned", Some(self.kv_blocks_pinned)),
            ("waiting_remote", Some(self.waiting_remote)),
            ("leases", Some(self.leases)),
            ("regions", Some(self.regions)),
            ("registered_bytes", Some(self.registered_bytes)),
            ("endpoints", Some(self.endpoints)),
            ("transfers_open", Some(self.transfers_open)),
            ("notifications_queued", Some(self.notifications_queued)),
            ("remote_engines", Some(self.remote_engines)),
            ("rkeys", self.rkeys),
            ("rcache_regions", self.rcache_regions),
            ("rcache_bytes", self.rcache_bytes),
            ("rcache_queue", self.rcache_queue),
        ]
    }
}

/// A reading of one process: when, after how much work, and how much it holds.
///
/// The counters and the memory cannot be read at the same instant. Read the counters right before or right after the
/// memory and always in the same order: a constant delay shifts the series and leaves its slope alone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sample {
    /// The process, for example `decode-0`: letters, digits, dashes, dots and underscores.
    pub process: String,
    /// Microseconds since the measurement began.
    pub t_us: u64,
    /// Work done so far.
    pub work: Work,
    /// Memory, as the kernel counts it.
    pub memory: Memory,
    /// What the role itself says it holds.
    #[serde(default)]
    pub held: Counts,
    /// Its RDMA objects, as the kernel counts them. `None` where there is no RDMA device, or nobody has asked.
    #[serde(default)]
    pub rdma: Option<Objects>,
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
    fn a_sample_lies_at_its_counter_or_at_its_time() {
        let work = Work { unmaps: 70, ..Work::default() };
        let sample = Sample { t_us: 1_500_000, work, ..Sample::default() };
        assert_eq!(sample.position(Unit::Unmap), 70.0);
        assert_eq!(sample.position(Unit::Second), 1.5);
    }
}
