//! What a role owns now and has done so far: `GET /pdlab/snapshot`.
//!
//! Counters only grow. The leak sampler pairs them with memory readings, because a leak per unit
//! of work is stable where a leak per second is not. Gauges return to their baseline after a
//! drain; [`Snapshot::is_drained`] is the definition of "drained".

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ready::Role;

/// State of one role.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Which process this is.
    pub role: Role,
    /// Process id.
    pub pid: u32,
    /// Work done since the start.
    pub work: Work,
    /// HTTP requests being served.
    pub http_in_flight: u64,
    /// KV blocks and requests; null on the router.
    pub engine: Option<EngineState>,
    /// Regions, endpoints, transfers; null on the router.
    pub transport: Option<TransportState>,
    /// Where the KV pool lies in the address space of the process; null on the router.
    #[serde(default)]
    pub kv_pool: Option<AddressRange>,
    /// `host:port` of the side channel (prefill); null elsewhere.
    #[serde(default)]
    pub side_channel: Option<String>,
    /// Bytes of KV received, by the `host:port` of the side channel of the prefill that they came
    /// from (decode). At most 256 of them; with more, the counts begin anew.
    #[serde(default)]
    pub kv_bytes_from: BTreeMap<String, u64>,
    /// Handshakes with remote engines that are remembered (decode).
    pub remote_engines: u64,
    /// Leases that pin blocks for a remote reader (prefill).
    pub leases: u64,
    /// Lost things by kind, such as `kv_expired`, `notification_after_expiry`, `handshake`.
    pub failures: BTreeMap<String, u64>,
}

/// A stretch of the address space of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AddressRange {
    /// First address.
    pub base: u64,
    /// Length in bytes.
    pub len_bytes: u64,
}

/// Where the memory lies that a role has registered with its transport: `GET /pdlab/regions`. Apart from the snapshot,
/// which is asked for many times per second, because there may be tens of thousands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regions {
    /// The regions, the KV pool among them.
    pub regions: Vec<AddressRange>,
}

/// Counters of work. A role leaves at zero what it does not do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// Unmap events caused by the churn source, counted exactly.
    pub unmaps: u64,
    /// Requests finished, with whatever end.
    pub requests: u64,
    /// KV transfers completed.
    pub transfers: u64,
    /// Prompt tokens of finished prefills.
    pub prompt_tokens: u64,
    /// Tokens generated.
    pub generation_tokens: u64,
    /// Bytes of KV received from remote prefills.
    pub kv_bytes: u64,
    /// KV blocks received and found to be what they must be.
    pub blocks_verified: u64,
    /// KV blocks received that were not; never served.
    pub corrupt_blocks: u64,
    /// Engine steps.
    pub steps: u64,
    /// Connections to a prefill that decode had dropped and has made anew.
    #[serde(default)]
    pub reconnects: u64,
}

/// State of the engine.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EngineState {
    /// KV blocks that requests can have; the null block does not count.
    pub blocks_total: u64,
    /// KV blocks that can be allocated (cached ones included).
    pub blocks_free: u64,
    /// KV blocks kept for a remote reader.
    pub blocks_pinned: u64,
    /// Requests in the running batch.
    pub running: u64,
    /// Requests that wait for a place.
    pub waiting: u64,
    /// Requests that wait for remote KV.
    pub waiting_remote: u64,
}

/// State of the transport agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransportState {
    /// Registered memory regions.
    pub regions: u64,
    /// Bytes in them.
    pub registered_bytes: u64,
    /// Endpoints to peers.
    pub endpoints: u64,
    /// Transfers that the device has not finished with.
    pub transfers_in_flight: u64,
    /// Notifications received and not yet read.
    pub notifications_queued: u64,
    /// Bytes read from peers.
    pub bytes_read: u64,
    /// Keys to the memory of peers; null where the backend has none.
    #[serde(default)]
    pub rkeys: Option<u64>,
    /// Regions in UCX's registration cache: those of the agent, and those that outlived a
    /// deregistration. Null without UCX, and where a UCX does not tell.
    #[serde(default)]
    pub rcache_regions: Option<u64>,
    /// Bytes in them; null as above.
    #[serde(default)]
    pub rcache_bytes: Option<u64>,
    /// Unmapped ranges that wait in the cache's invalidation queue; null as above.
    #[serde(default)]
    pub rcache_queue: Option<u64>,
    /// Memory regions of the RDMA device, message buffers included; null but for verbs.
    #[serde(default)]
    pub memory_regions: Option<u64>,
    /// Queue pairs of it, both directions; null as above.
    #[serde(default)]
    pub queue_pairs: Option<u64>,
    /// Completion queues of it; null as above.
    #[serde(default)]
    pub completion_queues: Option<u64>,
    /// Failures by kind.
    pub failures: BTreeMap<String, u64>,
}

impl Snapshot {
    /// An idle snapshot of a role.
    pub fn new(role: Role, pid: u32) -> Self {
        Self {
            role,
            pid,
            work: Work::default(),
            http_in_flight: 0,
            engine: None,
            transport: None,
            kv_pool: None,
            side_channel: None,
            kv_bytes_from: BTreeMap::new(),
            remote_engines: 0,
            leases: 0,
            failures: BTreeMap::new(),
        }
    }

    /// Nothing in flight, nothing pinned, every block free. Regions and endpoints stay: they
    /// belong to the process, not to a request.
    pub fn is_drained(&self) -> bool {
        let engine = self.engine.is_none_or(|e| {
            e.blocks_free == e.blocks_total
                && e.blocks_pinned + e.running + e.waiting + e.waiting_remote == 0
        });
        let transport = self
            .transport
            .as_ref()
            .is_none_or(|t| t.transfers_in_flight + t.notifications_queued == 0);
        engine && transport && self.http_in_flight == 0 && self.leases == 0
    }
}

impl Work {
    /// The counters by the names that scenarios use as units of work.
    pub fn by_unit(&self) -> BTreeMap<&'static str, u64> {
        BTreeMap::from([
            ("unmap", self.unmaps),
            ("request", self.requests),
            ("transfer", self.transfers),
            ("token", self.generation_tokens),
            ("byte", self.kv_bytes),
            ("step", self.steps),
            ("reconnect", self.reconnects),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drained_means_every_block_is_free() {
        let mut snapshot = Snapshot::new(Role::Decode, 1);
        assert!(snapshot.is_drained());
        let engine = EngineState { blocks_total: 8, blocks_free: 8, ..EngineState::default() };
        snapshot.engine = Some(engine);
        assert!(snapshot.is_drained());
        snapshot.engine = Some(EngineState { blocks_free: 7, ..engine });
        assert!(!snapshot.is_drained());
        snapshot.engine = Some(EngineState { blocks_pinned: 1, ..engine });
        assert!(!snapshot.is_drained());
    }

    #[test]
    fn a_transfer_in_flight_is_not_drained() {
        let mut snapshot = Snapshot::new(Role::Decode, 1);
        snapshot.transport =
            Some(TransportState { transfers_in_flight: 1, ..TransportState::default() });
        assert!(!snapshot.is_drained());
    }
}
