//! From a scenario to a cluster and a load. Pure.

use std::path::PathBuf;
use std::time::Duration;

use pdlab_leak::scenario::{Churn, Pattern, Scenario};

use crate::cluster::plan::{KV_READ_TIMEOUT_MS, MAX_NUM_BATCHED_TOKENS, local_env};
use crate::cluster::{ChurnPlan, ClusterPlan, EnginePlan, Patience, Policy};
use crate::serve::{LoadConfig, Random, Rate};

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
}

/// Requests under way that the end of a load waits for. One takes milliseconds; a role that is
/// stuck for this long is found by the check for what was not given back.
const LOAD_DRAIN: Duration = Duration::from_secs(10);

/// A request that takes longer than this has failed: a thousand times what one takes.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// The processes that `scenario` asks for.
pub fn cluster(scenario: &Scenario, host: &Host) -> ClusterPlan {
    let cluster = &scenario.cluster;
    ClusterPlan {
        program: host.program.clone(),
        prefill_count: cluster.prefill,
        decode_count: cluster.decode,
        engine: EnginePlan {
            model: cluster.model.clone(),
            kv_scale: cluster.kv_scale,
            time_scale: cluster.time_scale,
            num_gpu_blocks: cluster.num_gpu_blocks,
            block_size: cluster.block_size,
            max_num_seqs: cluster.max_num_seqs,
            max_num_batched_tokens: MAX_NUM_BATCHED_TOKENS,
        },
        transport: scenario.transport,
        ucx: host.ucx.clone(),
        churn: scenario.churn.as_ref().map_or(NO_CHURN, churn),
        kv_read_timeout_ms: KV_READ_TIMEOUT_MS,
        seed: scenario.seed,
        policy: Policy::RoundRobin,
        listen: ("127.0.0.1".to_owned(), 0),
        env: local_env(&scenario.env),
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
        ..Random::default()
    };
    config.seed = scenario.seed;
    config.drain_timeout = LOAD_DRAIN;
    config.target.request_timeout = REQUEST_TIMEOUT;
    config
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

fn churn(churn: &Churn) -> ChurnPlan {
    ChurnPlan {
        pattern: churn.pattern,
        bytes: churn.bytes,
        resident: churn.resident,
        per_step: churn.unmaps_per_step.into(),
        per_token: churn.unmaps_per_token.into(),
        rate_per_s: 0.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::options::DEFAULT_SCENARIO;

    fn host() -> Host {
        Host {
            program: "/bin/pdlab".into(),
            ucx: Some("/opt/ucx".into()),
            patience: Patience::default(),
        }
    }

    #[test]
    fn the_default_scenario_becomes_one_of_each_over_ucx_on_loopback() {
        let scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        let plan = cluster(&scenario, &host());
        assert_eq!(plan.workers().len(), 2);
        assert_eq!(plan.env["UCX_NET_DEVICES"], "lo");
        assert_eq!(plan.env["UCX_TLS"], "tcp");
        assert!(plan.churn.per_step > 0.0);
        let decode = plan.workers()[1].args.join(" ");
        assert!(decode.contains("--transport ucx --ucx /opt/ucx"), "{decode}");
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
