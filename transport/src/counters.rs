//! What an agent holds and has done. Guards keep the gauges, so that no path forgets to count down.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// The state of an agent at one moment. Gauges return to zero when it drains.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Snapshot {
    /// Regions registered with the backend.
    pub regions: u64,
    /// Their length, together.
    pub registered_bytes: u64,
    /// Outgoing connections, until every resource of theirs is gone.
    pub endpoints: u64,
    /// Incoming connections that are alive. Always 0 for UCX, which does not tell.
    pub connections_accepted: u64,
    /// Reads whose local bytes may still be written, cancelled ones included.
    pub transfers_in_flight: u64,
    /// Notifications that wait to be taken.
    pub notifications_queued: u64,
    /// Bytes that completed reads have brought here.
    pub bytes_read: u64,
    /// Bytes that peers have read from here. Always 0 for UCX, which does not tell.
    pub bytes_served: u64,
    /// Reads started.
    pub transfers_total: u64,
    /// Keys to the memory of peers. `None` for TCP, which has none.
    pub rkeys: Option<u64>,
    /// Regions in the registration caches of UCX in this process: what is registered, and what
    /// has outlived its deregistration. `None` for TCP, and where a UCX does not tell.
    pub rcache_regions: Option<u64>,
    /// Bytes in them; `None` as above.
    pub rcache_bytes: Option<u64>,
    /// Unmapped ranges that wait in the cache's invalidation queue; `None` as above.
    pub rcache_queue: Option<u64>,
    /// Memory regions of the RDMA device, message buffers included. `None` but for verbs.
    pub memory_regions: Option<u64>,
    /// Queue pairs of it, both directions; `None` as above.
    pub queue_pairs: Option<u64>,
    /// Completion queues of it; `None` as above.
    pub completion_queues: Option<u64>,
    /// Failures by [`Error::kind`](crate::Error::kind), plus `cancelled`, `notifications_dropped`
    /// and `protocol`: what a server refused. Verbs
    /// adds `rdma_...` kinds: what the device reported, on either side.
    pub failures: BTreeMap<String, u64>,
}

/// The live counters behind a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) regions: Gauge,
    pub(crate) registered_bytes: Gauge,
    pub(crate) endpoints: Gauge,
    #[cfg(any(feature = "ucx", feature = "verbs"))]
    pub(crate) rkeys: Gauge,
    #[cfg(feature = "verbs")]
    pub(crate) memory_regions: Gauge,
    #[cfg(feature = "verbs")]
    pub(crate) queue_pairs: Gauge,
    #[cfg(feature = "verbs")]
    pub(crate) completion_queues: Gauge,
    pub(crate) connections_accepted: Gauge,
    pub(crate) transfers_in_flight: Gauge,
    pub(crate) bytes_read: AtomicU64,
    pub(crate) bytes_served: AtomicU64,
    pub(crate) transfers_total: AtomicU64,
    failures: Mutex<BTreeMap<&'static str, u64>>,
}

impl Counters {
    /// Counts one failure. Kinds are few and fixed, so the map is bounded.
    pub(crate) fn fail(&self, kind: &'static str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(kind).or_default() += 1;
    }

    pub(crate) fn snapshot(&self, notifications_queued: u64) -> Snapshot {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        Snapshot {
            regions: self.regions.get(),
            registered_bytes: self.registered_bytes.get(),
            endpoints: self.endpoints.get(),
            connections_accepted: self.connections_accepted.get(),
            transfers_in_flight: self.transfers_in_flight.get(),
            notifications_queued,
            bytes_read: self.bytes_read.load(Relaxed),
            bytes_served: self.bytes_served.load(Relaxed),
            transfers_total: self.transfers_total.load(Relaxed),
            rkeys: None,
            rcache_regions: None,
            rcache_bytes: None,
            rcache_queue: None,
            memory_regions: None,
            queue_pairs: None,
            completion_queues: None,
            failures: failures.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
        }
    }
}

/// A number that goes up and, when the [`Held`] drops, down again.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauge(Arc<AtomicU64>);

impl Gauge {
    /// Adds `amount` until the result drops.
    pub(crate) fn hold(&self, amount: u64) -> Held {
        self.0.fetch_add(amount, Relaxed);
        Held { gauge: self.clone(), amount }
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Relaxed)
    }
}

/// A share of a [`Gauge`]. Store it in the thing that is counted.
#[derive(Debug)]
pub(crate) struct Held {
    gauge: Gauge,
    amount: u64,
}

impl Drop for Held {
    fn drop(&mut self) {
        self.gauge.0.fetch_sub(self.amount, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gauges_follow_their_guards() {
        let counters = Counters::default();
        let one = counters.regions.hold(1);
        let bytes = counters.registered_bytes.hold(4096);
        counters.fail("busy");
        counters.fail("busy");
        let full = counters.snapshot(3);
        assert_eq!((full.regions, full.registered_bytes, full.notifications_queued), (1, 4096, 3));
        assert_eq!(full.failures.get("busy"), Some(&2));
        drop((one, bytes));
        let empty = counters.snapshot(0);
        assert_eq!((empty.regions, empty.registered_bytes), (0, 0));
    }
}
