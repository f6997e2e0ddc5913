//! The tables of a scenario file: what each key means, its unit, its default, and what follows from it.

use std::fmt;

use pdlab_api::fault::FaultKind;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::gauge::Gauge;
use crate::names::names;

/// `[cluster]`: the processes and the model they pretend to run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cluster {
    /// Prefill processes. Default 1.
    #[serde(default = "one")]
    pub prefill: u32,
    /// Decode processes. Default 1. The judged one is the first.
    #[serde(default = "one")]
    pub decode: u32,
    /// Model preset: decides the bytes per token and the pretended compute time.
    pub model: String,
    /// Factor on the KV bytes per token, above 0 and at most 1. Small values let a laptop keep up.
    pub kv_scale: f64,
    /// Factor on pretended compute time; 0 runs as fast as the machine can. Default 0.
    #[serde(default)]
    pub time_scale: f64,
    /// KV blocks in the pool of each worker; with the model and `kv_scale` this is its size in bytes.
    pub num_gpu_blocks: u32,
    /// Tokens per KV block. Default 16, vLLM's.
    #[serde(default = "default_block_size")]
    pub block_size: u32,
    /// Whether the pages of the KV pool are touched at start. Default true. If not, memory grows until every block was
    /// used once.
    #[serde(default = "yes", skip_serializing_if = "is_true")]
    pub kv_prefault: bool,
    /// Requests a worker runs at once; more wait. Default 64.
    #[serde(default = "default_max_num_seqs")]
    pub max_num_seqs: u32,
    /// The same for decode alone, so that requests queue there. Absent: as `max_num_seqs`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_max_num_seqs: Option<u32>,
    /// Tokens of prompt and answer above which decode rejects a request, and prefill does not. Absent: no such limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_max_model_len: Option<u32>,
    /// Seconds that prefill keeps KV blocks for a decode that neither reads nor sends heartbeats. Default 30, vLLM's
    /// since 0.22; before, it was 480 (<https://github.com/vllm-project/vllm/pull/41383>).
    #[serde(default = "default_kv_lease_seconds")]
    pub kv_lease_seconds: f64,
    /// Bytes that decode may lock or pin (RLIMIT_MEMLOCK), without the privilege to exceed that. Absent: what the user may.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decode_memlock_bytes: Option<u64>,
    /// Milliseconds that decode waits for one handshake and for one KV read. Absent: pdlab's own default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_read_timeout_ms: Option<u64>,
    /// Transfers after which decode drops its connection to a prefill and makes a new one. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reconnect_every: Option<u32>,
    /// Answers after which prefill takes a new engine id, as one does that was started anew; it waits for a moment
    /// without leases. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew_engine_every: Option<u32>,
    /// Seconds after which the last decode is killed without warning and started again, over and over while it is
    /// measured. Absent: never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub crash_every_seconds: Option<f64>,
}

/// `[load]`: the requests that flow while memory is measured.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Load {
    /// Requests per second, Poisson arrivals, or `"inf"` (default): as fast as `concurrency` lets them.
    #[serde(default = "Rate::unlimited")]
    pub request_rate: Rate,
    /// Requests in flight at most. With `request_rate = "inf"` this sets the load.
    pub concurrency: u32,
    /// Prompt length in tokens.
    pub input_tokens: u32,
    /// Answer length in tokens; the end-of-sequence token is ignored.
    pub output_tokens: u32,
    /// How far prompt lengths vary: uniform over `input_tokens` x (1 ± ratio), below 1. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub input_range_ratio: f64,
    /// Tokens at the start of every prompt that all requests share, at most `input_tokens`. Default 0: nothing hits
    /// the prefix cache, and all of the prompt's KV moves.
    #[serde(default)]
    pub prefix_tokens: u32,
    /// Share of the requests whose client goes away before the answer, 0 to 1. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub abort_ratio: f64,
    /// Milliseconds after which such a client goes away. Default 50.
    #[serde(default = "default_abort_after_ms")]
    pub abort_after_ms: u64,
}

/// `[[fault]]`: a mistake that a role makes on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// The role that makes it.
    pub role: Role,
    /// What it does wrong.
    pub kind: FaultKind,
    /// Which process of the role, from 0. Absent: all of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub process: Option<u32>,
}

/// `[churn]`: memory that is mapped and unmapped beside the transfers, standing in for what Python, PyTorch and graph
/// compilation do in a real decode process.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Churn {
    /// The role that makes it. Default `decode`.
    #[serde(default = "default_churn_role")]
    pub role: Role,
    /// Which addresses are unmapped, and how.
    pub pattern: Pattern,
    /// Bytes of an operation, a multiple of 4096, at most 1 GiB: of a mapping, for `random` and `heap` of the largest,
    /// for `plant` exactly what stays, which may be any number.
    pub bytes: u64,
    /// Mappings that `disjoint` (the pieces between the holes), `random` and `pool` keep, buffers that `register` has at
    /// first, buffers of a burst of `heap`. 1 to 60,000, since Linux allows a process 65,530 mappings. Default 1. The
    /// others do not use it.
    #[serde(default = "one")]
    pub resident: u32,
    /// Operations per engine step, each of them one unmap but for the innocent patterns. Default 0.
    #[serde(default)]
    pub unmaps_per_step: u32,
    /// Operations per generated token. Default 0.
    #[serde(default)]
    pub unmaps_per_token: u32,
    /// Unmaps per second, whether or not there is work; up to 1,000,000. Default 0.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub unmaps_per_second: f64,
}

/// `[measure]`: how much, how finely, and how strictly.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measure {
    /// Units of work to measure before the first verdict.
    pub units: u64,
    /// Units at which an inconclusive run gives up. Default: three times `units`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_units: Option<u64>,
    /// Seconds after which the measurement ends with whatever work was done. Default 60.
    #[serde(default = "default_max_seconds")]
    pub max_seconds: f64,
    /// Milliseconds between samples, 10 to 60,000. Default 100. A verdict waits for 40 samples
    /// ([`crate::estimate::WANTED_SAMPLES`]), however fast the work is done.
    #[serde(default = "default_sample_interval_ms")]
    pub sample_interval_ms: u64,
    /// What is judged. Default `held`: pages that only the process itself can give back.
    #[serde(default)]
    pub gauge: Gauge,
    /// Slopes within this much of zero count as clean, in what the gauge counts per unit; above it, a proven growth is
    /// a leak.
    #[serde(alias = "margin_bytes_per_unit")]
    pub margin_per_unit: f64,
    /// What goes before the first sample. Default `blocks`.
    #[serde(default)]
    pub warm_up: WarmUp,
    /// Memory limit, in bytes, for "full in so many hours". Default 64 GiB.
    #[serde(default = "default_memory_limit_bytes")]
    pub memory_limit_bytes: u64,
    /// Whether to prove the mitigations after a leak was found. Default true.
    #[serde(default = "yes")]
    pub prove_mitigations: bool,
}

impl Measure {
    /// Units at which an inconclusive run gives up, default filled in.
    pub fn give_up_units(&self) -> u64 {
        self.max_units.unwrap_or(self.units.saturating_mul(3))
    }
}

/// What goes before the first sample.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub enum WarmUp {
    /// `"blocks"`: so many requests that every KV block has been used some times.
    #[default]
    Blocks,
    /// `"none"`: nothing; the start is what the scenario is about.
    None,
    /// A number of seconds, above 0, under load.
    Seconds(f64),
}

impl Serialize for WarmUp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            WarmUp::Blocks => serializer.serialize_str("blocks"),
            WarmUp::None => serializer.serialize_str("none"),
            WarmUp::Seconds(seconds) => serializer.serialize_f64(*seconds),
        }
    }
}

impl<'de> Deserialize<'de> for WarmUp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WarmUp, D::Error> {
        let expected = "\"blocks\", \"none\", or seconds above 0 and at most 3600";
        match NumberOrWord::deserialize(deserializer, expected)? {
            NumberOrWord::Number(seconds) if seconds > 0.0 && seconds <= 3600.0 => {
                Ok(WarmUp::Seconds(seconds))
            }
            NumberOrWord::Word(word) if word == "blocks" => Ok(WarmUp::Blocks),
            NumberOrWord::Word(word) if word == "none" => Ok(WarmUp::None),
            other => Err(other.refused(expected)),
        }
    }
}

/// Requests per second, or no limit.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate(f64);

impl Rate {
    /// `per_second` requests per second; `f64::INFINITY` for no limit.
    pub fn new(per_second: f64) -> Rate {
        Rate(per_second)
    }

    /// No limit.
    pub fn unlimited() -> Rate {
        Rate(f64::INFINITY)
    }

    /// Requests per second, or `None` for no limit.
    pub fn per_second(&self) -> Option<f64> {
        self.0.is_finite().then_some(self.0)
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.per_second() {
            Some(rate) => serializer.serialize_f64(rate),
            None => serializer.serialize_str("inf"),
        }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Rate, D::Error> {
        let expected = "requests per second above 0, or \"inf\"";
        match NumberOrWord::deserialize(deserializer, expected)? {
            NumberOrWord::Number(rate) if rate > 0.0 => Ok(Rate(rate)),
            NumberOrWord::Word(word) if word == "inf" => Ok(Rate::unlimited()),
            other => Err(other.refused(expected)),
        }
    }
}

/// A TOML value that is a number or one of a few words.
enum NumberOrWord {
    Number(f64),
    Word(String),
}

impl NumberOrWord {
    /// Reads it, or says what was `expected`.
    fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
        expected: &'static str,
    ) -> Result<NumberOrWord, D::Error> {
        struct Visitor(&'static str);
        impl serde::de::Visitor<'_> for Visitor {
            type Value = NumberOrWord;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.0)
            }

            fn visit_f64<E>(self, number: f64) -> Result<NumberOrWord, E> {
                Ok(NumberOrWord::Number(number))
            }

            fn visit_i64<E>(self, number: i64) -> Result<NumberOrWord, E> {
                Ok(NumberOrWord::Number(number as f64))
            }

            fn visit_u64<E>(self, number: u64) -> Result<NumberOrWord, E> {
                Ok(NumberOrWord::Number(number as f64))
            }

            fn visit_str<E>(self, word: &str) -> Result<NumberOrWord, E> {
                Ok(NumberOrWord::Word(word.to_string()))
            }
        }
        deserializer.deserialize_any(Visitor(expected))
    }

    fn refused<E: serde::de::Error>(&self, expected: &str) -> E {
        use serde::de::Unexpected;
        match self {
            NumberOrWord::Number(number) => E::invalid_value(Unexpected::Float(*number), &expected),
            NumberOrWord::Word(word) => E::invalid_value(Unexpected::Str(word), &expected),
        }
    }
}

names! {
    /// A role of the cluster.
    "role" Role {
        /// Computes KV and serves it.
        Prefill = "prefill",
        /// Reads KV and generates.
        Decode = "decode",
        /// The front door.
        Router = "router",
    }
}

names! {
    /// What moves the KV blocks.
    "transport" Transport {
        /// pdlab's own framed TCP; no UCX in the process.
        Tcp = "tcp",
        /// UCX, opened from the build that `ucx` names.
        Ucx = "ucx",
        /// RDMA verbs without UCX.
        Verbs = "verbs",
        /// The best that the machine offers.
        Auto = "auto",
    }
}

names! {
    /// Which addresses the churn unmaps, and how.
    "churn pattern" Pattern {
        /// The same range again and again.
        Same = "same",
        /// Ranges side by side, so that an interval tree can merge them.
        Adjacent = "adjacent",
        /// Ranges with gaps between them, so that nothing merges.
        Disjoint = "disjoint",
        /// A set of mappings of random sizes, replaced at random.
        Random = "random",
        /// malloc and free in an arena of glibc's that is not the main one.
        Arena = "arena",
        /// Threads that start and end: each gives a stack back.
        Threads = "threads",
        /// madvise(MADV_DONTNEED) on a mapping that stays.
        Madvise = "madvise",
        /// mremap of a mapping to twice its size and back.
        Mremap = "mremap",
        /// Registered buffers are deregistered and unmapped one by one, with no registration in between.
        Register = "register",
        /// Innocent: bursts of malloc and free in several threads, whose arenas keep what they had. No unmaps.
        Heap = "heap",
        /// Innocent: a file is read through a mapping, page by page. No unmaps.
        Files = "files",
        /// Innocent: a pool that grows to `bytes` x `resident` and stays. No unmaps.
        Pool = "pool",
        /// A leak on purpose: `bytes` of touched anonymous memory are kept per operation. No unmaps.
        Plant = "plant",
    }
}

fn one() -> u32 {
    1
}

fn default_block_size() -> u32 {
    16
}

fn default_max_num_seqs() -> u32 {
    64
}

fn default_kv_lease_seconds() -> f64 {
    30.0
}

fn default_abort_after_ms() -> u64 {
    50
}

fn is_true(value: &bool) -> bool {
    *value
}

fn is_zero(value: &f64) -> bool {
    *value == 0.0
}

fn default_churn_role() -> Role {
    Role::Decode
}

fn default_max_seconds() -> f64 {
    60.0
}

fn default_sample_interval_ms() -> u64 {
    100
}

fn default_memory_limit_bytes() -> u64 {
    64 << 30
}

fn yes() -> bool {
    true
}
