//! The tables of a scenario file: what each key means, its unit, its default, and what follows from it.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::sample::Gauge;

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
    /// Requests a worker runs at once; more wait. Default 64.
    #[serde(default = "default_max_num_seqs")]
    pub max_num_seqs: u32,
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
    /// Tokens at the start of every prompt that all requests share, at most `input_tokens`. Default 0: nothing hits
    /// the prefix cache, and all of the prompt's KV moves.
    #[serde(default)]
    pub prefix_tokens: u32,
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
    /// Bytes per mapping, a multiple of 4096, at most 1 GiB; for `random` the largest.
    pub bytes: u64,
    /// Mappings that `disjoint` (the pieces between the holes) and `random` keep in place; past that the oldest goes.
    /// 1 to 60,000, since Linux allows a process 65,530 mappings. Default 1. The others do not use it.
    #[serde(default = "one")]
    pub resident: u32,
    /// Unmaps per engine step. Default 0.
    #[serde(default)]
    pub unmaps_per_step: u32,
    /// Unmaps per generated token. Default 0.
    #[serde(default)]
    pub unmaps_per_token: u32,
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
    /// Milliseconds between samples, 10 to 60,000. Default 100. The estimator wants 40 samples or more.
    #[serde(default = "default_sample_interval_ms")]
    pub sample_interval_ms: u64,
    /// Which memory is judged. Default `held`: pages that only the process itself can give back.
    #[serde(default)]
    pub gauge: Gauge,
    /// Slopes within this many bytes per unit of zero count as clean; above it, a proven growth is a leak.
    pub margin_bytes_per_unit: f64,
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
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Rate;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("requests per second above 0, or \"inf\"")
            }

            fn visit_f64<E: serde::de::Error>(self, rate: f64) -> Result<Rate, E> {
                if rate > 0.0 {
                    Ok(Rate(rate))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Float(rate), &self))
                }
            }

            fn visit_i64<E: serde::de::Error>(self, rate: i64) -> Result<Rate, E> {
                self.visit_f64(rate as f64)
            }

            fn visit_u64<E: serde::de::Error>(self, rate: u64) -> Result<Rate, E> {
                self.visit_f64(rate as f64)
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Rate, E> {
                match text {
                    "inf" => Ok(Rate::unlimited()),
                    _ => Err(E::invalid_value(serde::de::Unexpected::Str(text), &self)),
                }
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

macro_rules! names {
    ($(#[$doc:meta])* $kind:literal $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$variant_doc])* #[serde(rename = $text)] $variant,)*
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &[$name] = &[$($name::$variant,)*];

            /// The name in files, on the command line and in results.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }

        impl FromStr for $name {
            type Err = String;

            /// Finds the variant, or says which there are.
            fn from_str(text: &str) -> Result<$name, String> {
                $name::ALL.iter().copied().find(|known| known.name() == text).ok_or_else(|| {
                    let known: Vec<&str> = $name::ALL.iter().map(|known| known.name()).collect();
                    format!("unknown {} \"{text}\"; known are {}", $kind, known.join(", "))
                })
            }
        }
    };
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
