//! What the engine thread, the HTTP side and the role's tasks share: counters and the last stats.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use pdlab_api::ready::Role;
use pdlab_api::snapshot::{EngineState, Snapshot, TransportState, Work};
use pdlab_engine::EngineStats;
use pdlab_transport::Agent;

/// Counters of one worker. They are statistics: relaxed ordering is enough, nothing is decided by
/// comparing two of them.
#[derive(Debug, Default)]
pub struct Shared {
    /// Unmap events of the churn source.
    pub unmaps: AtomicU64,
    /// Requests ended.
    pub requests: AtomicU64,
    /// KV transfers completed.
    pub transfers: AtomicU64,
    /// Prompt tokens of requests that produced a first token.
    pub prompt_tokens: AtomicU64,
    /// Tokens generated.
    pub generation_tokens: AtomicU64,
    /// KV bytes received.
    pub kv_bytes: AtomicU64,
    /// KV blocks received and found right.
    pub blocks_verified: AtomicU64,
    /// KV blocks received and found wrong.
    pub corrupt_blocks: AtomicU64,
    /// Engine steps.
    pub steps: AtomicU64,
    /// HTTP requests being served.
    pub http_in_flight: AtomicU64,
    failures: Mutex<BTreeMap<String, u64>>,
    stats: Mutex<EngineStats>,
}

impl Shared {
    /// Adds to a counter.
    pub fn add(counter: &AtomicU64, n: u64) {
        counter.fetch_add(n, Ordering::Relaxed);
    }

    /// Counts one failure of a kind.
    pub fn failed(&self, kind: &str) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures.entry(kind.to_owned()).or_default() += 1;
    }

    /// Failures of a kind so far.
    pub fn failures(&self, kind: &str) -> u64 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(kind).copied().unwrap_or(0)
    }

    /// The engine's figures after its last step.
    pub fn stats(&self) -> EngineStats {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn publish(&self, stats: EngineStats) {
        *self.stats.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// The state of this process, but for what only the role knows.
    pub fn snapshot(&self, role: Role, agent: &Agent) -> Snapshot {
        let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let stats = self.stats();
        let transport = agent.snapshot();
        Snapshot {
            work: Work {
                unmaps: get(&self.unmaps),
                requests: get(&self.requests),
                transfers: get(&self.transfers),
                prompt_tokens: get(&self.prompt_tokens),
                generation_tokens: get(&self.generation_tokens),
                kv_bytes: get(&self.kv_bytes),
                blocks_verified: get(&self.blocks_verified),
                corrupt_blocks: get(&self.corrupt_blocks),
                steps: get(&self.steps),
                // Decode's own count.
                reconnects: 0,
            },
            http_in_flight: get(&self.http_in_flight),
            engine: Some(EngineState {
                blocks_total: stats.blocks_total as u64,
                blocks_free: stats.blocks_free as u64,
                blocks_pinned: stats.blocks_pinned as u64,
                running: stats.running as u64,
                waiting: stats.waiting as u64,
                waiting_remote: stats.waiting_remote as u64,
            }),
            transport: Some(TransportState {
                regions: transport.regions,
                registered_bytes: transport.registered_bytes,
                endpoints: transport.endpoints,
                transfers_in_flight: transport.transfers_in_flight,
                notifications_queued: transport.notifications_queued,
                bytes_read: transport.bytes_read,
                rkeys: transport.rkeys,
                rcache_regions: transport.rcache_regions,
                rcache_bytes: transport.rcache_bytes,
                rcache_queue: transport.rcache_queue,
                memory_regions: transport.memory_regions,
                queue_pairs: transport.queue_pairs,
                completion_queues: transport.completion_queues,
                failures: transport.failures,
            }),
            failures: self.failures.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            ..Snapshot::new(role, std::process::id())
        }
    }
}
