//! From a scenario to a cluster and a load. Pure.

use std::path::PathBuf;
use std::time::Duration;

use pdlab_leak::scenario::{Churn, Fault, Pattern, Scenario, WarmUp};

use super::tracing::Tracing;
use crate::cluster::plan::{KV_READ_TIMEOUT_MS, MAX_NUM_BATCHED_TOKENS};
use crate::cluster::{ChurnPlan, ClusterPlan, EnginePlan, FaultPlan, Patience, Policy};
use crate::serve::{Leavers, LoadConfig, Random, Rate};

/// What a run takes from outside of its scenario.
#[derive(Debug, Clone)]
pub struct Host {
    /// The pdlab binary, which is every role.
    pub program: PathBuf,
    /// The UCX build that the scenario names, resolved to what `--ucx` of a role takes; `None`
    /// if no UCX is to be used.
    pub ucx: Option<String>,
    /// How long to wait for roles.
    pub patience: Patience,
    /// How the judged process is traced.
    pub tracing: Tracing,
}

/// Requests under way that the end of a load waits for. One takes milliseconds; a role that is
/// stuck for this long is found by the check for what was not given back.
const LOAD_DRAIN: Duration = Duration::from_secs(10);

/// A request that takes longer than this has failed: a thousand times what one takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Seconds between health checks where decodes crash: little work, and far below the time from one
/// crash to the next.
const CRASH_HEALTH_INTERVAL_S: f64 = 0.1;

/// The processes that `scenario` asks for.
pub fn cluster(scenario: &Scenario, host: &Host) -> ClusterPlan {
    let cluster = &scenario.cluster;
    ClusterPlan {
        program: host.program.clone(),
        prefill_count: cluster.prefill,
        decode_count: cluster.decode,
        engine: EnginePlan {
            model: cluster.model.clone(),
            served_model_name: None,
            kv_scale: cluster.kv_scale,
            time_scale: cluster.time_scale,
            num_gpu_blocks: cluster.num_gpu_blocks,
            kv_prefault: cluster.kv_prefault,
            block_size: cluster.block_size,
            max_num_seqs: cluster.max_num_seqs,
            max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS,
        },
        transport: scenario.transport,
        ucx: host.ucx.clone(),
        churn: scenario.churn.as_ref().map_or(NO_CHURN, churn),
        kv_lease_duration_s: cluster.kv_lease_seconds,
        kv_read_timeout_ms: cluster.kv_read_timeout_ms.unwrap_or(KV_READ_TIMEOUT_MS),
        decode_max_num_seqs: cluster.decode_max_num_seqs,
        decode_max_model_len: cluster.decode_max_model_len,
        decode_memlock_bytes: cluster.decode_memlock_bytes,
        renew_engine_every: cluster.renew_engine_every,
        reconnect_every: cluster.reconnect_every,
        // A decode that comes back is to be found again before it is killed again.
        health_interval_s: cluster.crash_every_seconds.map(|_| CRASH_HEALTH_INTERVAL_S),
        faults: scenario.faults.iter().map(fault).collect(),
        seed: scenario.seed,
        policy: Policy::RoundRobin,
        listen: ("127.0.0.1".to_owned(), 0),
        ui: false,
        env: scenario.env.clone(),
    }
}

/// The requests that `scenario` sends to the router at `url`.
pub fn load(scenario: &Scenario, url: &str) -> LoadConfig {
    let load = &scenario.load;
    let rate = load.request_rate.per_second().map_or(Rate::Unlimited, Rate::PerSecond);
    let mut config = LoadConfig::new(url, rate);
    config.max_concurrency = load.concurrency as usize;
    config.dataset = Random {
        input_tokens: load.input_tokens - load.prefix_tokens,
        output_tokens: load.output_tokens,
        prefix_tokens: load.prefix_tokens,
        input_range_ratio: load.input_range_ratio,
        ..Random::default()
    };
    config.seed = scenario.seed;
    config.leavers = (load.abort_ratio > 0.0).then(|| Leavers {
        ratio: load.abort_ratio,
        patience: Duration::from_millis(load.abort_after_ms),
    });
    config.drain_timeout = LOAD_DRAIN;
    config.target.request_timeout = REQUEST_TIMEOUT;
    config
}

/// When the first sample is taken.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WarmUpPlan {
    /// Requests that must be answered in any case, for the cluster to count as serving.
    pub least_requests: u64,
    /// Requests to wait for.
    pub requests: u64,
    /// How long under load.
    pub least: Duration,
    /// How long to wait for `requests` at most, once the cluster serves.
    pub most: Duration,
}

/// A warm-up by requests that takes longer than this is cut short: a large pool or a slow engine
/// must not eat the time for measuring, and the estimator finds the rest of it by itself.
const WARM_UP: Duration = Duration::from_secs(5);

/// What goes before the first sample of `scenario`.
pub fn warm_up(scenario: &Scenario) -> WarmUpPlan {
    let least_requests = least_warm_up_requests(scenario);
    let plan = WarmUpPlan {
        least_requests,
        requests: least_requests,
        least: Duration::ZERO,
        most: WARM_UP,
    };
    match scenario.measure.warm_up {
        WarmUp::None => WarmUpPlan { least_requests: 0, requests: 0, ..plan },
        WarmUp::Blocks => WarmUpPlan { requests: warm_up_requests(scenario), ..plan },
        WarmUp::Seconds(seconds) => WarmUpPlan { least: Duration::from_secs_f64(seconds), ..plan },
    }
}

/// Requests to answer before the first sample, so that growth that is certain to end is over:
/// lazy starts, and a prefix cache and transfer pools that fill until every KV block has been
/// used. What the estimator still finds out of line after that it cuts off by itself.
fn warm_up_requests(scenario: &Scenario) -> u64 {
    /// Times that every block is used. With the default scenario decode's heap stops growing
    /// after 2.5 rounds.
    const ROUNDS: u64 = 3;
    let (cluster, load) = (&scenario.cluster, &scenario.load);
    let tokens = u64::from(load.input_tokens) + u64::from(load.output_tokens);
    let blocks_per_request = tokens.div_ceil(u64::from(cluster.block_size)).max(1);
    let blocks = u64::from(cluster.num_gpu_blocks) * u64::from(cluster.decode.max(cluster.prefill));
    (ROUNDS * blocks / blocks_per_request).max(least_warm_up_requests(scenario))
}

/// Requests that must be answered before the first sample in any case: twice around, every slot
/// of the load has had an answer and has gone on. Where requests come at a rate, slots are only
/// there for when they pile up, and those of a second will do.
fn least_warm_up_requests(scenario: &Scenario) -> u64 {
    let slots = 2 * u64::from(scenario.load.concurrency);
    scenario.load.request_rate.per_second().map_or(slots, |rate| slots.min(rate.ceil() as u64))
}

/// A scenario without churn starts decode with these, which make none.
const NO_CHURN: ChurnPlan = ChurnPlan {
    pattern: Pattern::Same,
    bytes: 4096,
    resident: 1,
    per_step: 0.0,
    per_token: 0.0,
    rate_per_s: 0.0,
};

fn fault(fault: &Fault) -> FaultPlan {
    FaultPlan { kind: fault.kind, process: fault.process }
}

fn churn(churn: &Churn) -> ChurnPlan {
    ChurnPlan {
        pattern: churn.pattern,
        bytes: churn.bytes,
        resident: churn.resident,
        per_step: churn.unmaps_per_step.into(),
        per_token: churn.unmaps_per_token.into(),
        rate_per_s: churn.unmaps_per_second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::options::DEFAULT_SCENARIO;
    use pdlab_api::fault::FaultKind;

    fn host() -> Host {
        Host {
            program: "/bin/pdlab".into(),
            ucx: Some("/opt/ucx".into()),
            patience: Patience::default(),
            tracing: Tracing::off("a test"),
        }
    }

    #[test]
    fn the_default_scenario_becomes_one_of_each_over_ucx_on_loopback() {
        let scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        let plan = cluster(&scenario, &host());
        assert_eq!(plan.workers().len(), 2);
        assert_eq!(plan.env["UCX_TLS"], "tcp");
        assert!(plan.churn.per_step > 0.0);
        let decode = plan.workers()[1].args.join(" ");
        assert!(decode.contains("--transport ucx --ucx /opt/ucx"), "{decode}");
    }

    #[test]
    fn the_warm_up_uses_every_block_some_times() {
        let mut scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        scenario.cluster.num_gpu_blocks = 1000;
        scenario.cluster.block_size = 16;
        scenario.load.input_tokens = 150;
        scenario.load.output_tokens = 10;
        scenario.load.concurrency = 4;
        assert_eq!(warm_up_requests(&scenario), 300);
        scenario.cluster.decode = 2;
        assert_eq!(warm_up_requests(&scenario), 600);
        scenario.load.input_tokens = 100_000;
        assert_eq!(warm_up_requests(&scenario), 8);
        scenario.load.request_rate = pdlab_leak::scenario::Rate::new(5.5);
        assert_eq!(warm_up_requests(&scenario), 6);
    }

    #[test]
    fn a_warm_up_lasts_for_blocks_or_seconds_or_is_none() {
        let mut scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        let blocks = warm_up(&scenario);
        assert!(blocks.requests > blocks.least_requests && blocks.least.is_zero(), "{blocks:?}");
        scenario.measure.warm_up = WarmUp::Seconds(2.5);
        let seconds = warm_up(&scenario);
        assert_eq!(seconds.least, Duration::from_millis(2500));
        assert_eq!(seconds.requests, seconds.least_requests);
        scenario.measure.warm_up = WarmUp::None;
        assert_eq!((warm_up(&scenario).least_requests, warm_up(&scenario).requests), (0, 0));
    }

    #[test]
    fn mistakes_leases_and_leavers_reach_roles_and_load() {
        let mut scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        assert_eq!(load(&scenario, "http://x").leavers, None);
        scenario.load.abort_ratio = 0.5;
        scenario.cluster.kv_lease_seconds = 480.0;
        scenario.cluster.kv_read_timeout_ms = Some(700);
        scenario.faults = vec![Fault {
            role: pdlab_leak::scenario::Role::Decode,
            kind: FaultKind::SilentAbort,
            process: None,
        }];
        let plan = cluster(&scenario, &host());
        assert_eq!((plan.kv_lease_duration_s, plan.kv_read_timeout_ms), (480.0, 700));
        assert!(plan.workers()[1].args.join(" ").contains("--fault silent-abort"));
        let leavers = load(&scenario, "http://x").leavers.unwrap();
        assert_eq!((leavers.ratio, leavers.patience), (0.5, Duration::from_millis(50)));
    }

    #[test]
    fn without_churn_none_is_made() {
        let mut scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        scenario.churn = None;
        let churn = cluster(&scenario, &host()).churn;
        assert_eq!((churn.per_step, churn.per_token, churn.rate_per_s), (0.0, 0.0, 0.0));
    }

    #[test]
    fn the_shared_prefix_is_part_of_the_prompt() {
        let mut scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        scenario.load.input_tokens = 100;
        scenario.load.prefix_tokens = 30;
        let config = load(&scenario, "http://127.0.0.1:1");
        assert_eq!((config.dataset.input_tokens, config.dataset.prefix_tokens), (70, 30));
        assert_eq!(config.rate, Rate::Unlimited);
    }
}
