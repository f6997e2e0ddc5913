//! `pdlab up`: a local cluster until Ctrl-C.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use pdlab_api::openai::served_model_name;
use pdlab_api::ready::{Ready, Role};
use pdlab_leak::scenario::{Pattern, ScenarioError, Transport, parse_setting};
use serde::Serialize;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::memory::MemoryWatch;
use super::plan::{KV_LEASE_DURATION_S, KV_READ_TIMEOUT_MS, MAX_NUM_BATCHED_TOKENS};
use super::{ChurnPlan, Cluster, ClusterError, ClusterPlan, End, EnginePlan, Patience, Policy};

/// Options of `pdlab up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Prefill processes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub prefill_count: u32,
    /// Decode processes
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub decode_count: u32,
    /// Address that the router listens on; the workers stay on 127.0.0.1
    #[arg(long, default_value = "127.0.0.1")]
    pub host: String,
    /// Port of the router; 0 takes a free one
    #[arg(long, default_value_t = 8000)]
    pub port: u16,
    /// How the router picks workers
    #[arg(long, value_enum, default_value_t = Policy::RoundRobin)]
    pub policy: Policy,
    /// Model preset
    #[arg(long, default_value = "llama-3.1-8b", env = "PDLAB_MODEL")]
    pub model: String,
    /// Name that requests give as `model` [default: the preset's]
    #[arg(long, value_name = "NAME", value_parser = served_model_name)]
    pub served_model_name: Option<String>,
    /// Share of the real KV bytes per token that is moved; 1 is full size
    #[arg(long, default_value_t = 1.0 / 64.0, env = "PDLAB_KV_SCALE")]
    pub kv_scale: f64,
    /// Share of the real compute time that is waited; 0 is as fast as possible
    #[arg(long, default_value_t = 1.0, env = "PDLAB_TIME_SCALE")]
    pub time_scale: f64,
    /// KV blocks in the pool of each worker
    #[arg(long, value_name = "N", default_value_t = 2048)]
    pub num_gpu_blocks: u32,
    /// Tokens per KV block
    #[arg(long, value_name = "N", default_value_t = 16)]
    pub block_size: u32,
    /// Most requests in a batch
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub max_num_seqs: u32,
    /// Most tokens computed in a step
    #[arg(long, value_name = "N", default_value_t = MAX_NUM_BATCHED_TOKENS)]
    pub max_num_batched_tokens: u32,
    /// What moves the KV blocks: tcp, ucx, verbs or auto
    #[arg(long, default_value_t = Transport::Auto, env = "PDLAB_TRANSPORT")]
    pub transport: Transport,
    /// UCX build: a version such as 1.19.0, system, or the path of one
    #[arg(long, value_name = "BUILD", env = "PDLAB_UCX")]
    pub ucx: Option<String>,
    /// Environment variable of every role (repeatable)
    #[arg(long, value_name = "NAME=VALUE")]
    pub set: Vec<String>,
    /// Churn pattern of decode: same, adjacent, disjoint, random, arena, threads or madvise
    #[arg(long, value_name = "PATTERN", default_value_t = Pattern::Same, env = "PDLAB_CHURN")]
    pub churn: Pattern,
    /// Bytes of a churned mapping
    #[arg(long, value_name = "BYTES", default_value_t = 65_536)]
    pub churn_bytes: u64,
    /// Mappings that `disjoint` and `random` keep
    #[arg(long, value_name = "N", default_value_t = 1024)]
    pub churn_resident: u32,
    /// Unmaps per engine step of decode
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub churn_per_step: f64,
    /// Unmaps per generated token
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub churn_per_token: f64,
    /// Unmaps per second, requests or not
    #[arg(long, value_name = "N", default_value_t = 0.0)]
    pub churn_rate: f64,
    /// Milliseconds that one KV read may take
    #[arg(long, value_name = "N", default_value_t = KV_READ_TIMEOUT_MS)]
    pub kv_read_timeout_ms: u64,
    /// Seed of what is random in a role
    #[arg(long, value_name = "N", default_value_t = 1, env = "PDLAB_SEED")]
    pub seed: u64,
    /// Show the cluster live on a page of the router, at /ui; a worker that dies is shown there and
    /// does not end the others
    #[arg(long)]
    pub ui: bool,
    /// Print the addresses as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Directory for logs [default: runs/{UTC time}-up]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
}

impl UpArgs {
    /// What to start. `program` is the pdlab binary; `ucx` the resolved build, if one is wanted.
    /// The environment of the caller reaches the roles by itself, so that only `--set` is laid
    /// over it.
    ///
    /// # Errors
    /// [`ScenarioError::Setting`] for a `--set` that is no `NAME=VALUE`.
    pub fn plan(
        &self,
        program: PathBuf,
        ucx: Option<String>,
    ) -> Result<ClusterPlan, ScenarioError> {
        let env: BTreeMap<String, String> =
            self.set.iter().map(|text| parse_setting(text)).collect::<Result<_, _>>()?;
        Ok(ClusterPlan {
            program,
            prefill_count: self.prefill_count,
            decode_count: self.decode_count,
            engine: EnginePlan {
                model: self.model.clone(),
                served_model_name: self.served_model_name.clone(),
                kv_scale: self.kv_scale,
                time_scale: self.time_scale,
                num_gpu_blocks: self.num_gpu_blocks,
                kv_prefault: true,
                block_size: self.block_size,
                max_num_seqs: self.max_num_seqs,
                max_num_batched_tokens: self.max_num_batched_tokens,
            },
            transport: self.transport,
            ucx,
            churn: ChurnPlan {
                pattern: self.churn,
                bytes: self.churn_bytes,
                resident: self.churn_resident,
                per_step: self.churn_per_step,
                per_token: self.churn_per_token,
                rate_per_s: self.churn_rate,
            },
            kv_lease_duration_s: KV_LEASE_DURATION_S,
            kv_read_timeout_ms: self.kv_read_timeout_ms,
            decode_max_num_seqs: None,
            decode_max_model_len: None,
            decode_memlock_bytes: None,
            renew_engine_every: None,
            reconnect_every: None,
            health_interval_s: None,
            faults: Vec::new(),
            seed: self.seed,
            policy: self.policy,
            listen: (self.host.clone(), self.port),
            ui: self.ui,
            env,
        })
    }
}

/// Where a running cluster is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Addresses {
    /// Base URL of the router: where clients go.
    pub url: String,
    /// The live page; null without one.
    pub ui: Option<String>,
    /// Where the roles log.
    pub logs: PathBuf,
    /// The ready lines of all roles.
    pub roles: Vec<Ready>,
}

/// How often the roles are looked after, and their memory is read for a live page.
const WATCH_EVERY: Duration = Duration::from_millis(500);

/// Runs a cluster until `cancel` is cancelled, and ends it in order. `up` is called once, when it
/// serves.
///
/// # Errors
/// If it does not start, or a role dies; the others are ended then. With a live page, on which a
/// dead worker is shown, only the router's death is the end.
pub async fn run(
    plan: &ClusterPlan,
    log_dir: &Path,
    patience: Patience,
    cancel: &CancellationToken,
    up: impl FnOnce(&Addresses),
) -> Result<Vec<End>, ClusterError> {
    let mut cluster = match Cluster::start(plan, log_dir, patience, cancel).await {
        Ok(cluster) => cluster,
        Err(ClusterError::Cancelled) => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    up(&Addresses {
        url: cluster.url().to_owned(),
        ui: plan.ui.then(|| format!("{}/ui", cluster.url())),
        logs: log_dir.to_owned(),
        roles: cluster.roles().iter().map(|role| role.ready().clone()).collect(),
    });
    let died = tokio::select! {
        error = look_after(&mut cluster, plan) => Some(error),
        () = cancel.cancelled() => None,
    };
    let ends = cluster.stop().await;
    died.map_or(Ok(ends), Err)
}

/// Looks after the roles until the cluster is at its end, and says of what.
async fn look_after(cluster: &mut Cluster, plan: &ClusterPlan) -> ClusterError {
    let mut ticks = interval(WATCH_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut memory = plan.ui.then(|| MemoryWatch::open(cluster, plan.seed));
    let mut mourned = Vec::new();
    loop {
        ticks.tick().await;
        for (index, death) in cluster.deaths() {
            if !plan.ui || cluster.roles()[index].ready().role == Role::Router {
                return death;
            }
            if !mourned.contains(&index) {
                eprintln!("{death}");
                mourned.push(index);
            }
        }
        if let Some(memory) = &mut memory {
            let report = memory.look(cluster, &mourned).await;
            // A router that does not take it is dead, which the next tick finds, or busy, and then
            // the next report is the better one.
            let _ = cluster.tell_memory(&report).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        up: UpArgs,
    }

    fn plan(line: &str) -> Result<ClusterPlan, ScenarioError> {
        let words = std::iter::once("up").chain(line.split_whitespace());
        Cli::try_parse_from(words).unwrap().up.plan("/bin/pdlab".into(), None)
    }

    #[test]
    fn options_reach_the_command_lines() {
        let plan = plan(
            "--prefill-count 2 --decode-count 3 --port 0 --churn-rate 0.5 --served-model-name m",
        )
        .unwrap();
        let commands = plan.workers();
        assert_eq!(commands.len(), 5);
        assert!(commands[4].args.join(" ").contains("--churn-rate 0.5"));
        assert!(commands.iter().all(|c| c.args.join(" ").contains("--served-model-name m ")));
        assert_eq!(
            plan.router(vec![], vec![]).args[..5],
            ["router", "--host", "127.0.0.1", "--port", "0"]
        );
    }

    #[test]
    fn the_callers_environment_is_left_alone_and_set_is_laid_over_it() {
        assert!(plan("").unwrap().env.is_empty());
        let env = plan("--set UCX_TLS=tcp").unwrap().env;
        assert_eq!(env, BTreeMap::from([("UCX_TLS".to_owned(), "tcp".to_owned())]));
    }

    #[test]
    fn wrong_options_are_refused() {
        assert!(plan("--set novalue").unwrap_err().to_string().contains("novalue"));
        for line in ["--prefill-count 0", "--decode-count 65", "--policy best", "--transport x"] {
            let words = std::iter::once("up").chain(line.split_whitespace());
            assert_eq!(Cli::try_parse_from(words).unwrap_err().exit_code(), 2, "{line}");
        }
    }
}
