//! What decode shows of itself: NIXL's metrics under vLLM's names, and gauges for the snapshot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use pdlab_api::snapshot::Snapshot;
use pdlab_transport::ReadReport;
use pdlab_worker::Observer;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::remotes::Remotes;

/// Buckets of transfer time, in seconds
/// (<https://github.com/vllm-project/vllm/tree/main/vllm/distributed/kv_transfer/kv_connector/v1/nixl>).
const XFER_S: [f64; 12] = [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0];
/// Buckets of the time to post a transfer, in seconds.
const POST_S: [f64; 13] =
    [0.001, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0];
/// Buckets of descriptors per transfer.
const DESCRIPTORS: [f64; 14] = [
    10.0, 20.0, 30.0, 50.0, 75.0, 100.0, 200.0, 400.0, 1000.0, 2000.0, 4000.0, 10000.0, 20000.0,
    50000.0,
];

/// Prefills whose bytes are counted apart. Addresses come with requests, so that a bound is needed; a
/// cluster has fewer.
const MAX_SOURCES: usize = 256;

/// Metrics of transfers.
#[derive(Debug)]
pub struct Figures {
    remotes: Arc<Remotes>,
    xfer: Histogram,
    post: Histogram,
    bytes: Histogram,
    descriptors: Histogram,
    failed: Counter,
    failed_notifications: Counter,
    /// Bytes by the side channel of the prefill that they came from.
    sources: Mutex<BTreeMap<String, u64>>,
}

impl Figures {
    /// Figures of these remotes.
    pub fn new(remotes: Arc<Remotes>) -> Self {
        // 2^11, 2^13, … 2^33 bytes.
        let byte_bounds = (11..=33).step_by(2).map(|exponent| f64::powi(2.0, exponent));
        Self {
            remotes,
            xfer: Histogram::new(XFER_S),
            post: Histogram::new(POST_S),
            bytes: Histogram::new(byte_bounds),
            descriptors: Histogram::new(DESCRIPTORS),
            failed: Counter::default(),
            failed_notifications: Counter::default(),
            sources: Mutex::default(),
        }
    }

    /// A transfer from the prefill with this side channel is done.
    pub fn transferred(&self, host: &str, port: u16, report: &ReadReport) {
        self.count(format!("{host}:{port}"), report.bytes);
        self.xfer.observe(report.duration.as_secs_f64());
        self.post.observe(report.post_duration.as_secs_f64());
        self.bytes.observe(report.bytes as f64);
        self.descriptors.observe(report.blocks as f64);
    }

    fn count(&self, source: String, bytes: u64) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        if sources.len() >= MAX_SOURCES && !sources.contains_key(&source) {
            // Those that still serve are back with the next transfer.
            sources.clear();
        }
        *sources.entry(source).or_default() += bytes;
    }

    /// A handshake or a transfer failed.
    pub fn failed(&self) {
        self.failed.inc();
    }

    /// A notification could not be sent; vLLM counts it as a failed transfer too.
    pub fn notification_failed(&self) {
        self.failed.inc();
        self.failed_notifications.inc();
    }
}

impl Observer for Figures {
    fn observe(&self, snapshot: &mut Snapshot) {
        snapshot.remote_engines = self.remotes.len() as u64;
        snapshot.work.reconnects = self.remotes.reconnects();
        snapshot
            .kv_bytes_from
            .clone_from(&self.sources.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn register(&self, r: &mut Registry) {
        let name = |suffix: &str| format!("vllm:nixl_{suffix}");
        r.register(name("xfer_time_seconds"), "KV transfer, post to done", self.xfer.clone());
        r.register(name("post_time_seconds"), "Posting a KV transfer", self.post.clone());
        r.register(name("bytes_transferred"), "Bytes per KV transfer", self.bytes.clone());
        r.register(name("num_descriptors"), "Blocks per KV transfer", self.descriptors.clone());
        r.register(
            name("num_failed_transfers"),
            "Transfers, handshakes and notifications that failed",
            self.failed.clone(),
        );
        r.register(
            name("num_failed_notifications"),
            "Notifications that could not be sent",
            self.failed_notifications.clone(),
        );
    }
}
