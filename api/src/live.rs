//! What the live page of a router shows, and what the router is told for it.
//!
//! `GET /ui/state?after=N` answers a [`LiveState`]; the page asks for it once a second.
//! `POST /ui/memory` takes a [`MemoryReport`] from whoever watches the processes, which the router
//! itself cannot do: workers may be on other hosts. Both exist only where the page does.

use serde::{Deserialize, Serialize};

use crate::ready::Role;
use crate::snapshot::Snapshot;

/// All that the page needs, at most [`POINTS`] points and [`EVENTS`] events of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveState {
    /// When the router process began, in milliseconds since 1970: another number is another
    /// process, whose points and events have nothing to do with those before.
    pub run: u64,
    /// Milliseconds between two points.
    pub tick_ms: u64,
    /// Milliseconds that the percentiles look back.
    pub window_ms: u64,
    /// What to ask next, as `after`: only what is newer will be answered.
    pub next: u64,
    /// The router, then prefills, then decodes, in the order of its configuration.
    pub roles: Vec<LiveRole>,
    /// Who reads KV from whom: those pairs between which bytes have moved.
    pub links: Vec<LiveLink>,
    /// Points newer than `after`, oldest first.
    pub points: Vec<LivePoint>,
    /// All events that are kept, oldest first; null when none is newer than `after`.
    pub events: Option<Vec<LiveEvent>>,
}

/// Points that are kept: five minutes of them.
pub const POINTS: usize = 300;

/// Events that are kept.
pub const EVENTS: usize = 64;

/// One process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveRole {
    /// `router`, `prefill-0`, `decode-1`: the role and its place in the router's configuration.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// Base URL, as the router calls it; null for the router.
    pub url: Option<String>,
    /// How the router sees it.
    pub health: LiveHealth,
    /// Why it is not up, where that is known.
    pub why: Option<String>,
    /// Legs in flight on it; of the router, requests.
    pub in_flight: u64,
    /// What it holds and has done; null when it does not tell, as a worker that is not pdlab's.
    pub snapshot: Option<Snapshot>,
    /// Its memory; null when nobody watches it.
    pub memory: Option<RoleMemory>,
}

/// How the router sees a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveHealth {
    /// It gets requests.
    Up,
    /// It gets requests when nobody else can: not checked yet, or a request has just failed.
    Suspect,
    /// It gets none.
    Down,
}

/// KV that moves from a prefill to a decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LiveLink {
    /// Name of the prefill, or the `host:port` of its side channel if the router does not know it.
    pub from: String,
    /// Name of the decode.
    pub to: String,
    /// Bytes per second over the last tick.
    pub bytes_per_s: f64,
    /// Bytes since the decode started.
    pub bytes: u64,
}

/// The cluster over one tick.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LivePoint {
    /// Its number; each is one more than the one before.
    pub seq: u64,
    /// When, in milliseconds since 1970.
    pub at_ms: u64,
    /// Generation requests that ended, per second.
    pub requests_per_s: f64,
    /// Of those, requests that failed or were cut, per second.
    pub failed_per_s: f64,
    /// Tokens that the decodes generated, per second.
    pub tokens_per_s: f64,
    /// Requests in flight.
    pub in_flight: u64,
    /// From a request's arrival to the first bytes of its streamed answer.
    pub ttft: Option<Percentiles>,
    /// From one piece of a streamed answer to the next: the inter-token latency as the router
    /// sees it.
    pub itl: Option<Percentiles>,
    /// KV bytes that the decodes received, per second.
    pub kv_bytes_per_s: f64,
    /// KV blocks pinned for a remote reader, in all prefills.
    pub blocks_pinned: u64,
    /// Resident memory of each process, in the order of [`LiveState::roles`]; null when nobody
    /// watches it.
    pub rss_bytes: Vec<Option<u64>>,
}

/// Percentiles of the times within the window, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Median.
    pub p50_us: u64,
    /// 90th percentile.
    pub p90_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Times that these are of.
    pub samples: u64,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LiveEvent {
    /// When it last did, in milliseconds since 1970.
    pub at_ms: u64,
    /// How bad that is.
    pub level: LiveLevel,
    /// Whom it happened to, by [`LiveRole::name`].
    pub role: String,
    /// What happened, in words; equal words are one event that happened `count` times.
    pub text: String,
    /// How often, within a short while.
    pub count: u64,
}

/// How bad an event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LiveLevel {
    /// Good to know.
    Info,
    /// Something did not work and was coped with.
    Warning,
    /// Somebody should look.
    Problem,
}

/// What whoever watches the processes has seen: the body of `POST /ui/memory`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemoryReport {
    /// The processes that are watched, each once.
    pub processes: Vec<RoleMemory>,
}

/// Memory of one process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RoleMemory {
    /// Its name, as in [`LiveRole::name`].
    pub process: String,
    /// Resident memory.
    pub rss_bytes: u64,
    /// What it holds of it that only it can give back: what the slope is of.
    pub held_bytes: u64,
    /// Open file descriptors.
    pub fds: u64,
    /// Threads.
    pub threads: u64,
    /// Growth per unit of work; null as long as there is too little to tell from.
    pub slope: Option<MemorySlope>,
    /// Whether it leaks.
    pub verdict: LeakVerdict,
    /// The verdict in a sentence, with the reason where it is open.
    pub says: String,
}

/// Growth of memory.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct MemorySlope {
    /// Unit of work: `unmap`, `request` or `second`.
    pub unit: String,
    /// Bytes per unit.
    pub bytes_per_unit: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
    /// Bytes per second at the rate of work seen.
    pub bytes_per_s: f64,
}

/// Whether a process leaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LeakVerdict {
    /// Memory grows with work and does not stop.
    Leak,
    /// It does not grow.
    Clean,
    /// It cannot be told, yet.
    Inconclusive,
}
