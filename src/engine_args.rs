//! Flags of the engine and its HTTP server, under vLLM's names where vLLM has one.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::{Args, ValueEnum};
use pdlab_api::fault::FaultKind;
use pdlab_api::openai::served_model_name;
use pdlab_api::ready::Role;
use pdlab_engine::cost::H100_SXM;
use pdlab_engine::{CostModel, CostTable, EngineConfig, KvGeometry, LoadFailurePolicy, Model};
use pdlab_transport::Pages;
use pdlab_worker::{KvMemory, WorkerConfig};

use crate::exit::Failure;

/// A worker: where it listens, what it serves.
#[derive(Debug, Clone, Args)]
pub(crate) struct WorkerArgs {
    /// Address to listen on, for HTTP and for KV transfers
    #[arg(long, default_value = "127.0.0.1", env = "PDLAB_HOST")]
    pub(crate) host: IpAddr,
    /// HTTP port; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// Model preset
    #[arg(long, default_value = "llama-3.1-8b", env = "PDLAB_MODEL")]
    model: String,
    /// Name that requests give as `model` [default: the preset's]
    #[arg(long, value_name = "NAME", value_parser = served_model_name)]
    served_model_name: Option<String>,
    /// Share of the real KV bytes per token that is moved; 1 is full size
    #[arg(long, default_value_t = 1.0 / 64.0, env = "PDLAB_KV_SCALE")]
    kv_scale: f64,
    /// Share of the real compute time that is waited; 0 is as fast as possible
    #[arg(long, default_value_t = 1.0, env = "PDLAB_TIME_SCALE")]
    time_scale: f64,
    /// KV blocks in the pool
    #[arg(long, default_value_t = 2048)]
    num_gpu_blocks: usize,
    /// Tokens per KV block
    #[arg(long, default_value_t = 16)]
    block_size: usize,
    /// Tensor parallel size whose share of the KV one worker holds
    #[arg(long, default_value_t = 1)]
    tensor_parallel_size: u32,
    /// Most tokens of prompt and output [default: the model's, or what the pool holds]
    #[arg(long)]
    max_model_len: Option<usize>,
    /// Most requests in a batch
    #[arg(long, default_value_t = 256)]
    max_num_seqs: usize,
    /// Most tokens computed in a step
    #[arg(long, default_value_t = 2048)]
    max_num_batched_tokens: usize,
    /// Do not touch the pages of the KV pool at start: memory then grows until each was used
    #[arg(long)]
    no_kv_prefault: bool,
    /// Pages of the KV pool: small, transparent, or 2M and 1G, which must have been reserved
    #[arg(long, value_enum, default_value_t = KvPages::Small, env = "PDLAB_KV_PAGES")]
    kv_pages: KvPages,
    /// Do not reuse KV of equal prompt prefixes
    #[arg(long)]
    no_enable_prefix_caching: bool,
    /// What to do when KV cannot be loaded from prefill
    #[arg(long, value_enum, default_value_t = FailurePolicy::Fail)]
    kv_load_failure_policy: FailurePolicy,
    /// End outputs at random: one token in so many is end-of-sequence; 0 is never
    #[arg(long, default_value_t = 512)]
    eos_one_in: u32,
    /// Seconds that prefill keeps blocks for a decode that is silent
    #[arg(long, default_value_t = 30.0)]
    kv_lease_duration: f64,
    /// Largest request body in bytes
    #[arg(long, default_value_t = 64 << 20)]
    max_body_bytes: usize,
    /// Seconds that requests may take to end at shutdown
    #[arg(long, default_value_t = 5.0)]
    drain_timeout: f64,
    /// End when the parent process does
    #[arg(long)]
    pub(crate) die_with_parent: bool,
}

/// `--kv-pages`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KvPages {
    /// The machine's own.
    Small,
    /// Joined by the kernel where it can.
    Transparent,
    /// Reserved ones of 2 MiB.
    #[value(name = "2M")]
    Huge2M,
    /// Reserved ones of 1 GiB.
    #[value(name = "1G")]
    Huge1G,
}

impl From<KvPages> for Pages {
    fn from(pages: KvPages) -> Self {
        match pages {
            KvPages::Small => Self::Small,
            KvPages::Transparent => Self::Transparent,
            KvPages::Huge2M => Self::Huge2M,
            KvPages::Huge1G => Self::Huge1G,
        }
    }
}

/// vLLM's `kv_load_failure_policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FailurePolicy {
    /// The request fails.
    Fail,
    /// The prompt is computed here.
    Recompute,
}

impl WorkerArgs {
    pub(crate) fn config(
        &self,
        role: Role,
        faults: Vec<FaultKind>,
    ) -> Result<WorkerConfig, Failure> {
        let model = Model::by_name(&self.model).map_err(Failure::bad_input)?;
        let geometry = KvGeometry::new(
            &model,
            self.tensor_parallel_size,
            self.kv_scale,
            self.block_size,
            self.num_gpu_blocks,
        )
        .map_err(Failure::bad_input)?;
        let table = CostTable::roofline(&model, &H100_SXM, self.tensor_parallel_size);
        let cost = CostModel::new(table, self.time_scale).map_err(Failure::bad_input)?;
        let defaults = EngineConfig::new(model, geometry);
        let engine = EngineConfig {
            max_num_seqs: self.max_num_seqs,
            max_num_batched_tokens: self.max_num_batched_tokens,
            max_model_len: self.max_model_len.unwrap_or(defaults.max_model_len),
            prefix_caching: !self.no_enable_prefix_caching,
            kv_load_failure_policy: match self.kv_load_failure_policy {
                FailurePolicy::Fail => LoadFailurePolicy::Fail,
                FailurePolicy::Recompute => LoadFailurePolicy::Recompute,
            },
            eos_one_in: self.eos_one_in,
            ..defaults
        };
        engine.validate().map_err(Failure::bad_input)?;
        Ok(WorkerConfig {
            role,
            listen: SocketAddr::new(self.host, self.port),
            served_model_name: self.served_model_name.clone().unwrap_or_else(|| self.model.clone()),
            engine,
            kv_memory: KvMemory { prefault: !self.no_kv_prefault, pages: self.kv_pages.into() },
            cost,
            max_body_bytes: self.max_body_bytes,
            drain_timeout: seconds("--drain-timeout", self.drain_timeout)?,
            faults,
        })
    }

    pub(crate) fn kv_lease(&self) -> Result<Duration, Failure> {
        let lease = seconds("--kv-lease-duration", self.kv_lease_duration)?;
        if lease.is_zero() {
            return Err(Failure::bad_input("--kv-lease-duration is 0: nobody could ever read"));
        }
        Ok(lease)
    }
}

fn seconds(flag: &str, value: f64) -> Result<Duration, Failure> {
    Duration::try_from_secs_f64(value).map_err(|_| {
        Failure::bad_input(format!("{flag} is {value}: use a number of seconds, 0 or more"))
    })
}
