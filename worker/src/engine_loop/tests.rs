use pdlab_api::kv_transfer::KvTransferParams;
use pdlab_engine::cost::H100_SXM;
use pdlab_engine::{CostTable, EngineConfig, KvGeometry, Model, NewRequest};
use pdlab_transport::{Agent, AgentConfig, BackendChoice, BackendKind, Pages};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use super::*;
use crate::kv_pool::KvMemory;

/// A prefill that keeps everything and is asked for nothing.
struct Keeper;

impl Connector for Keeper {
    fn keep(&mut self, _: Kept<'_>, _: Duration) -> KvTransferParams {
        KvTransferParams::default()
    }
    fn expect(&mut self, _: &RemotePrefill) {}
    fn load(&mut self, _: Load) {}
    fn decline(&mut self, _: RemotePrefill, _: Declined) {}
    fn notified(&mut self, _: &Bytes, _: Duration) -> Vec<RequestId> {
        Vec::new()
    }
    fn tick(&mut self, _: Duration) -> Vec<RequestId> {
        Vec::new()
    }
    fn step_done(&mut self, _: u64) {}
}

async fn engine_loop() -> (Agent, EngineLoop<Keeper>) {
    let mut agent = AgentConfig::new("engine-loop");
    agent.choice = BackendChoice::Only(BackendKind::Tcp);
    let agent = Agent::open(agent).await.unwrap();
    let model = Model::by_name("qwen3-0.6b").unwrap();
    let geometry = KvGeometry::new(&model, 1, 0.01, 16, 32).unwrap();
    let cost = CostModel::new(CostTable::roofline(&model, &H100_SXM, 1), 0.0).unwrap();
    let memory = KvMemory { prefault: false, pages: Pages::Small };
    let config = EngineConfig::new(model, geometry);
    let looped = EngineLoop {
        cost,
        pool: KvPool::register(&agent, geometry, memory).unwrap(),
        connector: Keeper,
        inbox: channel().1,
        shared: Arc::new(Shared::default()),
        metrics: Arc::new(Metrics::new("m", &config, |_| {})),
        jobs: HashMap::new(),
        started: Instant::now(),
        engine: Engine::new(config).unwrap(),
    };
    (agent, looped)
}

fn job(id: u64, kv: KvMode) -> (Job, UnboundedReceiver<Output>) {
    let (outputs, answers) = unbounded_channel();
    let request = NewRequest {
        id: RequestId(id),
        tokens: (0..40).collect(),
        max_tokens: 1,
        min_tokens: 0,
        ignore_eos: true,
        stop_token_ids: Vec::new(),
        kv,
    };
    let arrived = Instant::now();
    (
        Job { request, wire_id: id.to_string(), pull: None, timings: false, arrived, outputs },
        answers,
    )
}

#[tokio::test]
async fn who_has_the_answer_finds_it_in_the_snapshot() {
    let (_agent, mut looped) = engine_loop().await;
    let (job, mut answers) = job(1, KvMode::ProduceForRemote);
    looped.apply(Command::Add(Box::new(job)));
    looped.step();
    assert!(matches!(answers.try_recv(), Ok(Output::Token(_, Some(_)))));
    let stats = looped.shared.stats();
    assert_eq!((stats.blocks_pinned, stats.running), (3, 0), "as the engine is, not as it was");
    assert_eq!(looped.shared.steps.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_failed_load_is_answered_and_published_at_once() {
    let (_agent, mut looped) = engine_loop().await;
    let (mut job, mut answers) = job(1, KvMode::FromRemote { remote_tokens: 40 });
    job.pull = Some(RemotePrefill {
        block_ids: vec![1, 2, 3],
        engine_id: "prefill".into(),
        request_id: "1".into(),
        host: "localhost".into(),
        port: 1,
        tp_size: 1,
        num_tokens: Some(40),
        cached_tokens: 0,
        timings: None,
    });
    looped.apply(Command::Add(Box::new(job)));
    looped.step();
    assert_eq!(looped.shared.stats().waiting_remote, 1);
    looped.apply(Command::Loaded(RequestId(1), Err("the peer is gone".into())));
    assert!(matches!(answers.try_recv(), Ok(Output::End(_))));
    let stats = looped.shared.stats();
    assert_eq!((stats.waiting_remote, stats.blocks_free), (0, stats.blocks_total));
}
