//! What is judged: bytes of memory, or a count of something that a process holds.
//!
//! A leak need not be memory that grows: stranded KV blocks live in a pool of constant size, and file descriptors run
//! out long before memory does. A gauge picks one number of a [`Sample`], knows whether it counts bytes, and what one
//! is called.

use crate::names::names;
use crate::sample::{Memory, Sample};
use crate::work::Unit;

names! {
    /// Which number of a sample a slope is taken of.
    #[derive(Default)]
    "gauge" Gauge {
        /// What only the process can give back: anonymous (without pages already offered by MADV_FREE), shared memory,
        /// huge pages, and what of them is swapped out. File pages are left out, since the kernel drops them under
        /// pressure: a page cache that fills is no leak.
        #[default]
        Held = "held",
        /// RSS, as `ps` and `top` show it.
        Rss = "rss",
        /// Pages pinned for devices (VmPin).
        Pinned = "pinned",
        /// Open file descriptors.
        Fds = "fds",
        /// Threads.
        Threads = "threads",
        /// KV blocks that are not free.
        KvBlocks = "kv_blocks",
        /// Leases that pin KV blocks for a remote reader (prefill).
        Leases = "leases",
        /// Memory regions registered by the role.
        Regions = "regions",
        /// Bytes in them.
        Registered = "registered",
        /// Endpoints to peers.
        Endpoints = "endpoints",
        /// Keys to the memory of peers.
        Rkeys = "rkeys",
        /// Transfers whose handle is not released, in flight or finished.
        Transfers = "transfers",
        /// Notifications received and not yet taken.
        Notifications = "notifications",
        /// Prefills that decode remembers.
        RemoteEngines = "remote_engines",
        /// Regions in UCX's registration cache.
        RcacheRegions = "rcache_regions",
        /// Bytes in them.
        RcacheBytes = "rcache_bytes",
        /// Unmapped ranges that wait in that cache's invalidation queue.
        RcacheQueue = "rcache_queue",
        /// Bytes that UCX still has registered and the role has not: registrations that outlived their memory.
        Outlived = "outlived",
        /// Bytes pinned for RDMA devices beyond what the role has registered: pages of registrations that outlived their
        /// memory, which no RSS shows.
        PinnedOutlived = "pinned_outlived",
        /// Memory regions on RDMA devices, as the kernel counts them.
        RdmaMrs = "rdma_mrs",
        /// Bytes in them.
        RdmaMrBytes = "rdma_mr_bytes",
        /// Queue pairs.
        RdmaQps = "rdma_qps",
        /// Completion queues.
        RdmaCqs = "rdma_cqs",
        /// Protection domains.
        RdmaPds = "rdma_pds",
    }
}

impl Gauge {
    /// The number that it reads off `sample`; `None` if the process does not tell it.
    pub fn of(self, sample: &Sample) -> Option<u64> {
        let (memory, held, rdma) = (&sample.memory, &sample.held, sample.rdma.as_ref());
        match self {
            Gauge::Held => Some(held_bytes(memory)),
            Gauge::Rss => Some(memory.rss_bytes),
            Gauge::Pinned => Some(memory.pinned_bytes),
            Gauge::Fds => Some(memory.fds),
            Gauge::Threads => Some(memory.threads),
            Gauge::KvBlocks => Some(held.kv_blocks),
            Gauge::Leases => Some(held.leases),
            Gauge::Regions => Some(held.regions),
            Gauge::Registered => Some(held.registered_bytes),
            Gauge::Endpoints => Some(held.endpoints),
            Gauge::Rkeys => held.rkeys,
            Gauge::Transfers => Some(held.transfers_open),
            Gauge::Notifications => Some(held.notifications_queued),
            Gauge::RemoteEngines => Some(held.remote_engines),
            Gauge::RcacheRegions => held.rcache_regions,
            Gauge::RcacheBytes => held.rcache_bytes,
            Gauge::RcacheQueue => held.rcache_queue,
            Gauge::Outlived => {
                held.rcache_bytes.map(|bytes| bytes.saturating_sub(held.registered_bytes))
            }
            Gauge::PinnedOutlived => rdma.map(|rdma| {
                let own = held.registered_bytes.saturating_mul(rdma.devices.max(1));
                memory.pinned_bytes.saturating_sub(own)
            }),
            Gauge::RdmaMrs => rdma.map(|rdma| rdma.memory_regions),
            Gauge::RdmaMrBytes => rdma.map(|rdma| rdma.region_bytes),
            Gauge::RdmaQps => rdma.map(|rdma| rdma.queue_pairs),
            Gauge::RdmaCqs => rdma.map(|rdma| rdma.completion_queues),
            Gauge::RdmaPds => rdma.map(|rdma| rdma.protection_domains),
        }
    }

    /// Whether the kernel counts it on RDMA devices.
    pub fn is_of_devices(self) -> bool {
        matches!(
            self,
            Gauge::RdmaMrs
                | Gauge::RdmaMrBytes
                | Gauge::RdmaQps
                | Gauge::RdmaCqs
                | Gauge::RdmaPds
                | Gauge::PinnedOutlived
        )
    }

    /// Whether it counts bytes, so that rates and memory limits mean something.
    pub fn is_bytes(self) -> bool {
        match self {
            Gauge::Held
            | Gauge::Rss
            | Gauge::Pinned
            | Gauge::Registered
            | Gauge::RcacheBytes
            | Gauge::Outlived
            | Gauge::PinnedOutlived
            | Gauge::RdmaMrBytes => true,
            Gauge::Fds
            | Gauge::Threads
            | Gauge::KvBlocks
            | Gauge::Leases
            | Gauge::Regions
            | Gauge::Endpoints
            | Gauge::Rkeys
            | Gauge::Transfers
            | Gauge::Notifications
            | Gauge::RemoteEngines
            | Gauge::RcacheRegions
            | Gauge::RcacheQueue
            | Gauge::RdmaMrs
            | Gauge::RdmaQps
            | Gauge::RdmaCqs
            | Gauge::RdmaPds => false,
        }
    }

    /// What stands behind a number of them: `144.0 B per unmap`, `16.0 KV blocks per request`.
    pub fn label(self) -> &'static str {
        match self {
            Gauge::Held | Gauge::Rss => "B",
            Gauge::Pinned => "B pinned",
            Gauge::Registered => "B registered",
            Gauge::RcacheBytes => "B in UCX's registration cache",
            Gauge::Outlived => "B of outlived registrations",
            Gauge::Fds => "fds",
            Gauge::Threads => "threads",
            Gauge::KvBlocks => "KV blocks",
            Gauge::Leases => "leases",
            Gauge::Regions => "regions",
            Gauge::Endpoints => "endpoints",
            Gauge::Rkeys => "rkeys",
            Gauge::Transfers => "transfer handles",
            Gauge::Notifications => "unread notifications",
            Gauge::RemoteEngines => "remote engines",
            Gauge::RcacheRegions => "cached registrations",
            Gauge::RcacheQueue => "queued invalidations",
            Gauge::PinnedOutlived => "B pinned for nothing",
            Gauge::RdmaMrs => "RDMA memory regions",
            Gauge::RdmaMrBytes => "B in RDMA memory regions",
            Gauge::RdmaQps => "RDMA queue pairs",
            Gauge::RdmaCqs => "RDMA completion queues",
            Gauge::RdmaPds => "RDMA protection domains",
        }
    }

    /// What grows or falls, as the subject of a sentence in the singular: `memory`, `the number of fds`.
    pub fn subject(self) -> String {
        match self {
            Gauge::Held | Gauge::Rss => "memory".to_string(),
            Gauge::Pinned => "pinned memory".to_string(),
            Gauge::Registered => "registered memory".to_string(),
            Gauge::RcacheBytes => "UCX's registration cache".to_string(),
            Gauge::Outlived => "memory registered for nothing".to_string(),
            Gauge::PinnedOutlived => "memory pinned for nothing".to_string(),
            Gauge::RdmaMrBytes => "memory in RDMA memory regions".to_string(),
            count => format!("the number of {}", count.label()),
        }
    }

    /// Growth over a run below which nothing is ever a leak. 256 KiB: a handful of lazily touched stacks, or one chunk
    /// of a pool. 16 of what is counted: connections of a pool, threads that start late.
    pub fn min_growth(self) -> f64 {
        if self.is_bytes() { 262_144.0 } else { 16.0 }
    }

    /// What a process gains in one run and not in the next, whatever work it does: 64 KiB, sixteen pages touched for
    /// the first time. Within a run nothing tells it from the leak, so no interval may be surer than that. Measured: it
    /// is what 100 runs of one leak take to agree (`docs/CALIBRATION.md`). Counts are exact: 0.
    pub fn stray(self) -> f64 {
        if self.is_bytes() { 65_536.0 } else { 0.0 }
    }
}

/// The plane that a slope lies in: what is counted, over which work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Axes {
    /// What is judged.
    pub gauge: Gauge,
    /// The unit of work.
    pub unit: Unit,
}

impl std::fmt::Display for Axes {
    /// `B per unmap`, `KV blocks per request`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} per {}", self.gauge.label(), self.unit)
    }
}

fn held_bytes(memory: &Memory) -> u64 {
    let anonymous = memory.anonymous_bytes.saturating_sub(memory.lazy_free_bytes);
    anonymous + memory.rss_shmem_bytes + memory.hugetlb_bytes + memory.swap_bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::Objects;
    use crate::sample::Counts;

    fn sample(memory: Memory, held: Counts) -> Sample {
        Sample { memory, held, ..Sample::default() }
    }

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
        let sample = sample(memory, Counts::default());
        assert_eq!(Gauge::Rss.of(&sample), Some(1000));
        assert_eq!(Gauge::Held.of(&sample), Some(450 + 100 + 7 + 3));
    }

    #[test]
    fn what_outlived_is_what_ucx_has_and_the_role_has_not() {
        let outlived = |registered_bytes, rcache_bytes| {
            let held = Counts { registered_bytes, rcache_bytes, ..Counts::default() };
            Gauge::Outlived.of(&sample(Memory::default(), held))
        };
        assert_eq!(outlived(1000, Some(1500)), Some(500));
        assert_eq!(outlived(1000, Some(900)), Some(0), "not everything goes through the cache");
        assert_eq!(outlived(1000, None), None, "unknown is not zero");
    }

    #[test]
    fn what_is_pinned_for_nothing_is_what_the_role_has_not_registered() {
        let pinned = |pinned_bytes, registered_bytes, rdma| {
            let memory = Memory { pinned_bytes, ..Memory::default() };
            let held = Counts { registered_bytes, ..Counts::default() };
            Gauge::PinnedOutlived.of(&Sample { rdma, ..sample(memory, held) })
        };
        let on = |devices| Some(Objects { devices, ..Objects::default() });
        assert_eq!(pinned(5000, 4096, on(1)), Some(904));
        assert_eq!(pinned(9000, 4096, on(2)), Some(9000 - 8192), "each device pins");
        assert_eq!(pinned(100, 4096, on(1)), Some(0));
        assert_eq!(pinned(5000, 4096, None), None, "unknown is not zero");
    }

    #[test]
    fn every_gauge_reads_a_number_of_its_own() {
        let n = |n: u64| Some(100 + n);
        let held = Counts {
            kv_blocks: 101,
            leases: 102,
            regions: 103,
            registered_bytes: 104,
            endpoints: 105,
            rkeys: n(6),
            transfers_open: 107,
            notifications_queued: 108,
            remote_engines: 109,
            rcache_regions: n(10),
            rcache_bytes: n(111 + 50),
            rcache_queue: n(12),
            ..Counts::default()
        };
        let memory = Memory {
            anonymous_bytes: 113,
            rss_bytes: 114,
            pinned_bytes: 115, // 11 beyond what is registered
            threads: 116,
            fds: 117,
            ..Memory::default()
        };
        let rdma = Objects {
            devices: 0, // taken for one
            memory_regions: 118,
            region_bytes: 119,
            queue_pairs: 120,
            completion_queues: 121,
            protection_domains: 122,
        };
        let sample = Sample { rdma: Some(rdma), ..sample(memory, held) };
        let read: std::collections::BTreeSet<u64> =
            Gauge::ALL.iter().map(|gauge| gauge.of(&sample).expect("all are told")).collect();
        assert_eq!(read.len(), Gauge::ALL.len());
    }

    #[test]
    fn axes_read_as_people_say_them() {
        let say = |gauge, unit| Axes { gauge, unit }.to_string();
        assert_eq!(say(Gauge::Held, Unit::Unmap), "B per unmap");
        assert_eq!(say(Gauge::KvBlocks, Unit::Request), "KV blocks per request");
        assert_eq!(Gauge::Fds.subject(), "the number of fds");
        for gauge in Gauge::ALL {
            assert_eq!(gauge.label().starts_with('B'), gauge.is_bytes(), "{gauge}");
        }
    }
}
