//! What a cluster is made of, as command lines. Pure: nothing is started here.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pdlab_api::fault::FaultKind;
use pdlab_api::ready::Role;
use pdlab_leak::scenario::{Pattern, Transport};

/// Where local roles listen. A cluster is one machine; nothing of it belongs on a network.
const LOCAL_HOST: &str = "127.0.0.1";

/// Seconds for which prefill keeps KV blocks for a reader that does not come unless told
/// otherwise: the default of vLLM's `kv_lease_duration`, see
/// <https://github.com/vllm-project/vllm/pull/41383>.
pub const KV_LEASE_DURATION_S: f64 = 30.0;

/// How long decode waits for one KV read unless told otherwise, in milliseconds. On loopback a
/// read takes microseconds; far below the lease, so that a late read never meets freed blocks.
pub const KV_READ_TIMEOUT_MS: u64 = 10_000;

/// Tokens in an engine step at most unless told otherwise: the default of vLLM's API server on
/// GPUs below 70 GiB,
/// <https://github.com/vllm-project/vllm/blob/main/vllm/engine/arg_utils.py>.
pub const MAX_NUM_BATCHED_TOKENS: u32 = 2048;

/// The variable without which a role refuses to make a mistake on purpose.
pub const ALLOW_FAULTS: &str = "PDLAB_ALLOW_FAULTS";

/// Everything needed to start a cluster.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterPlan {
    /// The pdlab binary: it is its own prefill, decode and router.
    pub program: PathBuf,
    /// Prefill processes.
    pub prefill_count: u32,
    /// Decode processes.
    pub decode_count: u32,
    /// The engine, the same in every worker.
    pub engine: EnginePlan,
    /// What moves the KV blocks.
    pub transport: Transport,
    /// The UCX build (a version, `system` or a path), already resolved by the caller. `None`
    /// leaves it to the role, which is right where no UCX is used.
    pub ucx: Option<String>,
    /// The churn that the decodes make.
    pub churn: ChurnPlan,
    /// Seconds that prefill keeps KV blocks for a decode that is silent.
    pub kv_lease_duration_s: f64,
    /// How long decode waits for one KV read, in milliseconds.
    pub kv_read_timeout_ms: u64,
    /// Requests in a batch of decode at most, where it is not the engine's limit.
    pub decode_max_num_seqs: Option<u32>,
    /// Tokens above which decode alone rejects a request.
    pub decode_max_model_len: Option<u32>,
    /// Bytes that decode may lock or pin; `None`: what its parent may.
    pub decode_memlock_bytes: Option<u64>,
    /// Answers after which prefill takes a new engine id; `None` for never.
    pub renew_engine_every: Option<u32>,
    /// Transfers after which decode drops its connection to a prefill and makes a new one; `None`
    /// for never.
    pub reconnect_every: Option<u32>,
    /// Seconds between the router's health checks of a worker; `None` for its own default.
    pub health_interval_s: Option<f64>,
    /// Mistakes that the roles make on purpose.
    pub faults: Vec<FaultPlan>,
    /// Seed of what is random in a role.
    pub seed: u64,
    /// How the router picks workers.
    pub policy: Policy,
    /// Where the router listens: `host`, `port` (0: one of the kernel's choice). The workers
    /// always listen on ports of the kernel's choice on 127.0.0.1.
    pub listen: (String, u16),
    /// Whether the router serves its live page.
    pub ui: bool,
    /// Environment of every role, on top of the environment of this process.
    pub env: BTreeMap<String, String>,
}

/// The engine of a worker.
#[derive(Debug, Clone, PartialEq)]
pub struct EnginePlan {
    /// Model preset.
    pub model: String,
    /// Name that requests give as `model`; `None` for the preset's.
    pub served_model_name: Option<String>,
    /// Factor on the KV bytes per token.
    pub kv_scale: f64,
    /// Factor on pretended compute time.
    pub time_scale: f64,
    /// KV blocks in the pool.
    pub num_gpu_blocks: u32,
    /// Whether the pages of the pool are touched at start.
    pub kv_prefault: bool,
    /// Tokens per KV block.
    pub block_size: u32,
    /// Requests in a batch at most.
    pub max_num_seqs: u32,
    /// Tokens in a step at most.
    pub max_num_batched_tokens: u32,
}

/// The churn of a decode process.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ChurnPlan {
    /// Which addresses are unmapped, and how.
    pub pattern: Pattern,
    /// Bytes per mapping.
    pub bytes: u64,
    /// Mappings that stay in place.
    pub resident: u32,
    /// Unmaps per engine step.
    pub per_step: f64,
    /// Unmaps per generated token.
    pub per_token: f64,
    /// Unmaps per second apart from any work; 0 for none.
    pub rate_per_s: f64,
}

/// A mistake that processes of a role make on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultPlan {
    /// What they do wrong; it says which role.
    pub kind: FaultKind,
    /// Which process of the role; `None` for all of them.
    pub process: Option<u32>,
}

/// How the router picks workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
#[value(rename_all = "snake_case")]
pub enum Policy {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest requests in flight.
    LeastLoaded,
}

/// One process to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleCommand {
    /// What it will be.
    pub role: Role,
    /// `decode-0`: names it in messages and its log file.
    pub label: String,
    /// Arguments, the subcommand first.
    pub args: Vec<String>,
}

impl RoleCommand {
    /// The same process again, with its HTTP server on `port`, where others expect it.
    pub fn on_port(mut self, port: u16) -> Self {
        let value = self.args.iter().position(|arg| arg == "--port").map(|at| at + 1);
        if let Some(value) = value.and_then(|at| self.args.get_mut(at)) {
            *value = port.to_string();
        }
        self
    }
}

impl Policy {
    /// The name on the command line of the router.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastLoaded => "least_loaded",
        }
    }
}

impl ClusterPlan {
    /// The command lines of all prefills, then all decodes.
    pub fn workers(&self) -> Vec<RoleCommand> {
        let prefills = (0..self.prefill_count).map(|index| self.prefill(index));
        let decodes = (0..self.decode_count).map(|index| self.decode(index));
        prefills.chain(decodes).collect()
    }

    /// The command line of the router in front of workers at these URLs.
    pub fn router(&self, prefill_urls: Vec<String>, decode_urls: Vec<String>) -> RoleCommand {
        let mut args = Args::new("router");
        args.option("--host", &self.listen.0).option("--port", self.listen.1);
        for url in prefill_urls {
            args.option("--prefill", url);
        }
        for url in decode_urls {
            args.option("--decode", url);
        }
        args.option("--policy", self.policy.as_str())
            .optional("--health-interval", self.health_interval_s);
        if self.ui {
            args.flag("--ui");
        }
        RoleCommand { role: Role::Router, label: "router".to_owned(), args: args.finish() }
    }

    /// The program that becomes a process of `role`, with the arguments that come before those of the role. A memory lock
    /// limit is set by util-linux, which also gives up root's privilege to exceed it; the role is executed in place of
    /// them, under the same process id.
    pub fn program(&self, role: Role, as_root: bool) -> (PathBuf, Vec<String>) {
        let limit = self.decode_memlock_bytes.filter(|_| role == Role::Decode);
        let Some(bytes) = limit else { return (self.program.clone(), Vec::new()) };
        let unprivileged = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
        let unprivileged = unprivileged.into_iter().filter(|_| as_root).map(str::to_owned);
        let limited = ["prlimit".to_owned(), format!("--memlock={bytes}:{bytes}")];
        let role = self.program.display().to_string();
        let mut words = unprivileged.chain(limited).chain([role]);
        let program = words.next().map(PathBuf::from).unwrap_or_default();
        (program, words.collect())
    }

    fn prefill(&self, index: u32) -> RoleCommand {
        let mut args = self.worker(Role::Prefill, index, self.engine.max_num_seqs);
        args.option("--side-channel-host", LOCAL_HOST).option("--side-channel-port", 0);
        args.optional("--renew-engine-every", self.renew_engine_every);
        RoleCommand { role: Role::Prefill, label: format!("prefill-{index}"), args: args.finish() }
    }

    fn decode(&self, index: u32) -> RoleCommand {
        let max_num_seqs = self.decode_max_num_seqs.unwrap_or(self.engine.max_num_seqs);
        let mut args = self.worker(Role::Decode, index, max_num_seqs);
        args.option("--churn-pattern", self.churn.pattern)
            .option("--churn-bytes", self.churn.bytes)
            .option("--churn-resident", self.churn.resident)
            .option("--churn-per-step", self.churn.per_step)
            .option("--churn-per-token", self.churn.per_token)
            .option("--churn-rate", self.churn.rate_per_s)
            .option("--kv-read-timeout-ms", self.kv_read_timeout_ms)
            .option("--seed", self.seed);
        args.optional("--max-model-len", self.decode_max_model_len)
            .optional("--reconnect-every", self.reconnect_every);
        RoleCommand { role: Role::Decode, label: format!("decode-{index}"), args: args.finish() }
    }

    fn worker(&self, role: Role, index: u32, max_num_seqs: u32) -> Args {
        let mut args = Args::new(role.as_str());
        args.option("--host", LOCAL_HOST)
            .option("--port", 0)
            .option("--model", &self.engine.model)
            .option("--kv-scale", self.engine.kv_scale)
            .option("--time-scale", self.engine.time_scale)
            .option("--num-gpu-blocks", self.engine.num_gpu_blocks)
            .option("--block-size", self.engine.block_size)
            .option("--max-num-seqs", max_num_seqs)
            .option("--max-num-batched-tokens", self.engine.max_num_batched_tokens)
            .option("--transport", self.transport);
        args.optional("--served-model-name", self.engine.served_model_name.as_ref())
            .optional("--ucx", self.ucx.as_ref());
        args.option("--kv-lease-duration", self.kv_lease_duration_s);
        if !self.engine.kv_prefault {
            args.flag("--no-kv-prefault");
        }
        for fault in &self.faults {
            if fault.kind.role() == role && fault.process.is_none_or(|process| process == index) {
                args.option("--fault", fault.kind);
            }
        }
        args
    }
}

/// A command line in the making.
struct Args(Vec<String>);

impl Args {
    fn new(subcommand: &str) -> Self {
        Self(vec![subcommand.to_owned()])
    }

    fn option(&mut self, name: &str, value: impl ToString) -> &mut Self {
        self.0.push(name.to_owned());
        self.0.push(value.to_string());
        self
    }

    fn optional(&mut self, name: &str, value: Option<impl ToString>) -> &mut Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    fn flag(&mut self, name: &str) -> &mut Self {
        self.0.push(name.to_owned());
        self
    }

    fn finish(mut self) -> Vec<String> {
        self.0.push("--die-with-parent".to_owned());
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> ClusterPlan {
        ClusterPlan {
            program: "/bin/pdlab".into(),
            prefill_count: 1,
            decode_count: 2,
            engine: EnginePlan {
                model: "tiny".into(),
                served_model_name: None,
                kv_scale: 0.5,
                time_scale: 0.0,
                num_gpu_blocks: 100,
                kv_prefault: true,
                block_size: 16,
                max_num_seqs: 8,
                max_num_batched_tokens: 2048,
            },
            transport: Transport::Ucx,
            ucx: Some("/opt/ucx".into()),
            churn: ChurnPlan {
                pattern: Pattern::Same,
                bytes: 4096,
                resident: 1,
                per_step: 3.0,
                per_token: 0.5,
                rate_per_s: 0.0,
            },
            kv_lease_duration_s: 30.0,
            kv_read_timeout_ms: 5000,
            decode_max_num_seqs: None,
            decode_max_model_len: None,
            decode_memlock_bytes: None,
            renew_engine_every: None,
            reconnect_every: None,
            health_interval_s: None,
            faults: Vec::new(),
            seed: 7,
            policy: Policy::RoundRobin,
            listen: ("127.0.0.1".into(), 0),
            ui: false,
            env: BTreeMap::new(),
        }
    }

    #[test]
    fn the_command_lines_are_those_that_the_roles_take() {
        let commands = plan().workers();
        let labels: Vec<&str> = commands.iter().map(|command| command.label.as_str()).collect();
        assert_eq!(labels, ["prefill-0", "decode-0", "decode-1"]);
        let engine = "--host 127.0.0.1 --port 0 --model tiny --kv-scale 0.5 --time-scale 0 \
                      --num-gpu-blocks 100 --block-size 16 --max-num-seqs 8 \
                      --max-num-batched-tokens 2048 --transport ucx --ucx /opt/ucx \
                      --kv-lease-duration 30";
        assert_eq!(
            commands[0].args.join(" "),
            format!(
                "prefill {engine} --side-channel-host 127.0.0.1 --side-channel-port 0 --die-with-parent"
            )
        );
        assert_eq!(
            commands[2].args.join(" "),
            format!(
                "decode {engine} --churn-pattern same --churn-bytes 4096 --churn-resident 1 \
                 --churn-per-step 3 --churn-per-token 0.5 --churn-rate 0 --kv-read-timeout-ms 5000 \
                 --seed 7 --die-with-parent"
            )
        );
        let router =
            plan().router(vec!["http://p".into()], vec!["http://a".into(), "http://b".into()]);
        assert_eq!(
            router.args.join(" "),
            "router --host 127.0.0.1 --port 0 --prefill http://p --decode http://a \
             --decode http://b --policy round_robin --die-with-parent"
        );
    }

    #[test]
    fn only_the_roles_that_make_mistakes_are_told_to() {
        let everyone = FaultPlan { kind: FaultKind::RkeyKept, process: None };
        let second = FaultPlan { kind: FaultKind::LateRead, process: Some(1) };
        let faults = vec![everyone, second];
        let plan = ClusterPlan { faults, reconnect_every: Some(5), ..plan() };
        let lines: Vec<String> =
            plan.workers().iter().map(|command| command.args.join(" ")).collect();
        assert!(!lines[0].contains("--fault") && !lines[0].contains("--reconnect"), "{}", lines[0]);
        assert!(lines[1].contains("--fault rkey-kept --") && !lines[1].contains("late-read"));
        assert!(lines[2].contains("--fault rkey-kept --fault late-read"), "{}", lines[2]);
        assert!(lines[2].contains("--reconnect-every 5"), "{}", lines[2]);
    }

    #[test]
    fn a_memory_lock_limit_binds_decode_even_as_root() {
        let words = |plan: &ClusterPlan, role, as_root| {
            let (program, args) = plan.program(role, as_root);
            format!("{} {}", program.display(), args.join(" ")).trim_end().to_owned()
        };
        let limited = ClusterPlan { decode_memlock_bytes: Some(65536), ..plan() };
        assert_eq!(
            words(&limited, Role::Decode, true),
            "setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock prlimit --memlock=65536:65536 /bin/pdlab"
        );
        assert_eq!(
            words(&limited, Role::Decode, false),
            "prlimit --memlock=65536:65536 /bin/pdlab"
        );
        assert_eq!(words(&limited, Role::Prefill, true), "/bin/pdlab");
        assert_eq!(words(&plan(), Role::Decode, true), "/bin/pdlab");
    }

    #[test]
    fn limits_of_one_role_do_not_bind_the_other() {
        let plan = ClusterPlan {
            decode_max_num_seqs: Some(2),
            decode_max_model_len: Some(300),
            renew_engine_every: Some(9),
            health_interval_s: Some(0.5),
            ui: true,
            ..plan()
        };
        let router = plan.router(Vec::new(), Vec::new()).args.join(" ");
        assert!(router.contains("--health-interval 0.5 --ui"), "{router}");
        let lines: Vec<String> =
            plan.workers().iter().map(|command| command.args.join(" ")).collect();
        assert!(lines[0].contains("--max-num-seqs 8") && !lines[0].contains("--max-model-len"));
        assert!(lines[0].contains("--renew-engine-every 9"), "{}", lines[0]);
        assert!(lines[1].contains("--max-num-seqs 2") && lines[1].contains("--max-model-len 300"));
        assert!(!lines[1].contains("--renew-engine-every"), "{}", lines[1]);
    }

    #[test]
    fn a_process_comes_back_on_its_port() {
        let decode = plan().workers().remove(1).on_port(4711).args.join(" ");
        assert!(decode.starts_with("decode --host 127.0.0.1 --port 4711 --model tiny"), "{decode}");
    }

    #[test]
    fn without_a_build_the_role_is_not_told_one() {
        let plan = ClusterPlan { ucx: None, transport: Transport::Tcp, ..plan() };
        assert!(plan.workers().iter().all(|command| !command.args.contains(&"--ucx".to_owned())));
    }
}
