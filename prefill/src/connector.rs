//! Prefill's part of the engine loop: pin, answer with transfer parameters, free.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use pdlab_api::kv_transfer::{KvTransferParams, RemotePrefill};
use pdlab_api::notification::KvNotification;
use pdlab_api::snapshot::Snapshot;
use pdlab_engine::RequestId;
use pdlab_worker::{Connector, Declined, EngineHandle, Kept, Load, Observer, Shared};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

use crate::identity::Identity;
use crate::pins::{Pins, Read};

/// Figures that the HTTP side shows.
#[derive(Debug, Default)]
pub struct Figures {
    side_channel: String,
    leases: AtomicU64,
    expired: Counter,
    late: Counter,
}

impl Figures {
    /// Of the prefill with its side channel at this `host:port`.
    pub fn new(side_channel: String) -> Self {
        Self { side_channel, ..Self::default() }
    }
}

impl Observer for Figures {
    fn observe(&self, snapshot: &mut Snapshot) {
        snapshot.side_channel = Some(self.side_channel.clone());
        snapshot.leases = self.leases.load(Ordering::Relaxed);
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "vllm:nixl_num_kv_expired_reqs",
            "Requests whose KV nobody read before the lease ended",
            self.expired.clone(),
        );
        registry.register(
            "vllm:nixl_num_notifications_after_expiry",
            "Reads that ended after the lease",
            self.late.clone(),
        );
    }
}

/// The connector of a prefill worker.
#[derive(Debug)]
pub struct PrefillConnector {
    identity: Identity,
    pins: Pins,
    figures: Arc<Figures>,
    shared: Arc<Shared>,
    engine: EngineHandle,
}

impl PrefillConnector {
    /// Keeps blocks for `lease` unless a decode renews it.
    pub fn new(
        identity: Identity,
        lease: Duration,
        figures: Arc<Figures>,
        shared: Arc<Shared>,
        engine: EngineHandle,
    ) -> Self {
        Self { identity, pins: Pins::new(lease), figures, shared, engine }
    }

    fn count(&self) {
        self.figures.leases.store(self.pins.len() as u64, Ordering::Relaxed);
    }
}

impl Connector for PrefillConnector {
    fn keep(&mut self, kept: Kept<'_>, now: Duration) -> KvTransferParams {
        let engine_id = self.identity.answer(self.pins.is_empty());
        self.pins.pin(kept.wire_id, kept.id, now);
        self.count();
        KvTransferParams {
            do_remote_prefill: Some(true),
            do_remote_decode: Some(false),
            remote_block_ids: Some(vec![kept.blocks.iter().map(|block| block.0).collect()]),
            remote_engine_id: Some(engine_id),
            remote_request_id: Some(kept.wire_id.to_owned()),
            remote_host: Some(self.identity.host.clone()),
            remote_port: Some(self.identity.port),
            tp_size: Some(1),
            dcp_size: Some(1),
            pp_size: Some(1),
            remote_num_tokens: Some(kept.num_tokens as u64),
            remote_blocks_expiry_time: None,
            // The pool is registered once, at start.
            remote_registration_generation: Some(1),
            transfer_mode: Some("pull".into()),
            remote_prefill_cached_tokens: Some(kept.cached_tokens as u64),
            // The engine loop knows the times, and adds them if the client asks.
            pdlab_prefill: None,
        }
    }

    fn expect(&mut self, _pull: &RemotePrefill) {}

    /// A pull makes no sense here: this worker has no way to read from another. The request fails
    /// with the reason, and the other side's lease frees its blocks.
    fn load(&mut self, load: Load) {
        let why = "this worker is a prefill and does not pull: send do_remote_prefill to a decode";
        self.engine.loaded(load.id, Err(why.into()));
    }

    fn decline(&mut self, pull: RemotePrefill, _why: Declined) {
        tracing::warn!(
            request = pull.request_id,
            "a pull was sent to prefill; its lease will end it"
        );
    }

    fn notified(&mut self, payload: &Bytes, now: Duration) -> Vec<RequestId> {
        let mut freed = Vec::new();
        match KvNotification::decode(payload) {
            Some(KvNotification::Read { request_id, readers }) => {
                match self.pins.read(&request_id, readers) {
                    Read::Done(id) => freed.push(id),
                    Read::Partly => {}
                    Read::TooLate => {
                        self.figures.late.inc();
                        self.shared.failed("notification_after_expiry");
                        tracing::error!(
                            request = request_id,
                            "read after the lease had expired: the blocks may have been overwritten"
                        );
                    }
                    Read::Unknown => self.shared.failed("notification_unknown"),
                }
            }
            Some(KvNotification::Heartbeat(ids)) => {
                for id in ids {
                    self.pins.heartbeat(&id, now);
                }
            }
            None => {
                self.shared.failed("notification_garbage");
                tracing::warn!(
                    bytes = payload.len(),
                    "a notification that is not vLLM's was ignored"
                );
            }
        }
        self.count();
        freed
    }

    fn tick(&mut self, now: Duration) -> Vec<RequestId> {
        let expired = self.pins.expire(now);
        self.count();
        let mut freed = Vec::with_capacity(expired.len());
        for (wire_id, id) in expired {
            self.figures.expired.inc();
            self.shared.failed("kv_expired");
            tracing::warn!(request = wire_id, "nobody read the KV before its lease ended: freed");
            freed.push(id);
        }
        freed
    }

    fn step_done(&mut self, _tokens: u64) {}
}
