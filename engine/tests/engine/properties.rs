//! What holds under any order of calls, on pools so small that everything happens.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use pdlab_engine::*;
use proptest::prelude::*;

use crate::driver::{Driver, config, request};

const LEASE: Duration = Duration::from_secs(30);

/// Something that happens to an engine. Indices choose among those that are there.
#[derive(Clone, Debug)]
enum Op {
    Add(Draft),
    Schedule,
    Finish,
    Loaded(usize),
    Failed(usize),
    Abort(usize),
    Stop(usize),
    Notified(usize),
    Heartbeat(usize),
    Pass(u64),
}

/// A request before it has an id. Prompts are prefixes of a few fixed texts, so that they share.
#[derive(Clone, Debug)]
struct Draft {
    text: u32,
    len: usize,
    max_tokens: usize,
    min_tokens: usize,
    ignore_eos: bool,
    stop_at_e: bool,
    kv: DraftKv,
}

#[derive(Clone, Copy, Debug)]
enum DraftKv {
    Local,
    Produce,
    FromRemote { percent: usize },
}

impl Draft {
    fn request(&self, id: u64) -> NewRequest {
        let tokens: Vec<u32> = (0..self.len as u32).map(|at| self.text * 1000 + at).collect();
        let kv = match self.kv {
            DraftKv::Local => KvMode::Local,
            DraftKv::Produce => KvMode::ProduceForRemote,
            DraftKv::FromRemote { percent } => {
                KvMode::FromRemote { remote_tokens: self.len * percent / 100 }
            }
        };
        NewRequest {
            min_tokens: self.min_tokens.min(self.max_tokens),
            ignore_eos: self.ignore_eos,
            stop_token_ids: if self.stop_at_e { vec![u32::from(b'e')] } else { Vec::new() },
            ..request(id, &tokens, self.max_tokens, kv)
        }
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let kv = prop_oneof![
        1 => Just(DraftKv::Local),
        1 => Just(DraftKv::Produce),
        3 => prop_oneof![Just(100), 0..130_usize].prop_map(|percent| DraftKv::FromRemote { percent }),
    ];
    let limits = (1..14_usize, 0..6_usize, any::<bool>(), any::<bool>());
    (0..3_u32, 1..26_usize, limits, kv).prop_map(|(text, len, limits, kv)| {
        let (max_tokens, min_tokens, ignore_eos, stop_at_e) = limits;
        Draft { text, len, max_tokens, min_tokens, ignore_eos, stop_at_e, kv }
    })
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => draft().prop_map(Op::Add),
        6 => Just(Op::Schedule),
        6 => Just(Op::Finish),
        2 => any::<usize>().prop_map(Op::Loaded),
        1 => any::<usize>().prop_map(Op::Failed),
        1 => any::<usize>().prop_map(Op::Abort),
        1 => any::<usize>().prop_map(Op::Stop),
        1 => any::<usize>().prop_map(Op::Notified),
        1 => any::<usize>().prop_map(Op::Heartbeat),
        1 => (0..20_u64).prop_map(Op::Pass),
    ]
}

/// Settings that may change when things happen, but not what comes out.
fn settings() -> impl Strategy<Value = EngineConfig> {
    let sizes = (2..6_usize, 1..5_usize, 1..40_usize);
    (sizes, any::<bool>(), any::<bool>(), 1..40_usize).prop_map(|(sizes, caching, fail, spare)| {
        let (block_size, max_num_seqs, max_num_batched_tokens) = sizes;
        // Enough for one request of 40 tokens, and `spare` tokens for the others.
        let mut config = config(block_size, (40 + spare).div_ceil(block_size) + 1);
        config.max_model_len = 40;
        config.max_num_seqs = max_num_seqs;
        config.max_num_batched_tokens = max_num_batched_tokens;
        config.prefix_caching = caching;
        config.eos_one_in = 12;
        if !fail {
            config.kv_load_failure_policy = LoadFailurePolicy::Recompute;
        }
        config
    })
}

/// A driver with a clock and leases, and a record of who was asked for.
struct World {
    driver: Driver,
    scheduled: bool,
    now: Duration,
    leases: LeaseTable<RequestId>,
    drafts: BTreeMap<RequestId, NewRequest>,
    /// Ended by the client; what happens to these is told to nobody.
    ended_early: BTreeSet<RequestId>,
}

impl World {
    fn new(config: EngineConfig) -> Self {
        Self {
            driver: Driver::new(config),
            scheduled: false,
            now: Duration::ZERO,
            leases: LeaseTable::new(),
            drafts: BTreeMap::new(),
            ended_early: BTreeSet::new(),
        }
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Add(draft) => {
                let new = draft.request(self.drafts.len() as u64);
                self.drafts.insert(new.id, new.clone());
                self.driver.add(new);
            }
            Op::Schedule if !self.scheduled => {
                self.driver.schedule();
                self.scheduled = true;
            }
            Op::Schedule => {}
            Op::Finish => {
                let pinned_before: BTreeSet<_> = self.driver.pinned.keys().copied().collect();
                self.driver.finish();
                self.scheduled = false;
                let pinned = self.driver.pinned.keys();
                for &id in pinned.filter(|id| !pinned_before.contains(id)) {
                    self.leases.grant(id, self.now, LEASE);
                }
            }
            Op::Loaded(index) => {
                if let Some(id) = choose(index, &self.driver.loading) {
                    self.driver.load(id);
                }
            }
            Op::Failed(index) => {
                if let Some(id) = choose(index, &self.driver.loading) {
                    self.driver.fail(id);
                }
            }
            Op::Abort(index) => self.end_early(index, Engine::abort),
            Op::Stop(index) => self.end_early(index, Engine::stop),
            Op::Notified(index) => {
                if let Some(id) = choose(index, self.driver.pinned.keys()) {
                    assert!(self.leases.release(&id));
                    self.driver.release(id);
                }
            }
            Op::Heartbeat(index) => {
                if let Some(id) = choose(index, self.drafts.keys()) {
                    let pinned = self.driver.pinned.contains_key(&id);
                    assert_eq!(self.leases.heartbeat(&id, self.now, LEASE), pinned);
                }
            }
            Op::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                for id in self.leases.expire(self.now) {
                    self.driver.release(id);
                }
            }
        }
        assert_eq!(self.leases.len(), self.driver.pinned.len(), "every pinned request has a lease");
    }

    fn end_early(&mut self, index: usize, end: fn(&mut Engine, RequestId) -> AbortOutcome) {
        let Some(id) = choose(index, self.drafts.keys()) else { return };
        let state = self.driver.engine.state(id);
        let asked = self.driver.loading.contains(&id);
        let outcome = end(&mut self.driver.engine, id);
        match outcome {
            AbortOutcome::Unknown => assert_eq!(state, None),
            AbortOutcome::Ignored => assert!(matches!(state, Some(RequestState::Finished(_)))),
            AbortOutcome::KeptUntilLoaded => assert!(asked),
            AbortOutcome::FreedNotifyRemote => assert_eq!(state, Some(RequestState::Waiting)),
            AbortOutcome::Freed => assert!(!asked),
        }
        if !matches!(outcome, AbortOutcome::Unknown | AbortOutcome::Ignored) {
            self.ended_early.insert(id);
        }
        self.driver.check();
    }

    /// Lets everything end: loads succeed, readers read.
    fn drain(&mut self) {
        self.apply(Op::Finish);
        for _ in 0..10_000 {
            self.apply(Op::Schedule);
            self.apply(Op::Finish);
            while !self.driver.loading.is_empty() {
                self.apply(Op::Loaded(0));
            }
            self.apply(Op::Pass(100));
            if self.driver.loading.is_empty() && !self.driver.engine.has_work() {
                break;
            }
        }
        let stats = self.driver.engine.stats();
        assert!(self.driver.engine.is_drained(), "stuck: {stats:?}");
    }
}

fn choose<'a>(index: usize, ids: impl IntoIterator<Item = &'a RequestId>) -> Option<RequestId> {
    let ids: Vec<_> = ids.into_iter().collect();
    ids.get(index.checked_rem(ids.len())?).map(|&&id| id)
}

/// What a request answers with the engine for itself alone.
fn alone(new: &NewRequest, config: &EngineConfig) -> (Vec<u32>, FinishReason) {
    let mut driver = Driver::new(EngineConfig {
        max_num_batched_tokens: 2048,
        prefix_caching: false,
        ..config.clone()
    });
    driver.add(NewRequest { kv: KvMode::Local, ..new.clone() });
    driver.run();
    let finished = &driver.finished[&new.id];
    (driver.outputs[&new.id].clone(), finished.reason)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// The driver checks after every call that each block has the owners that its count says, that
    /// pinned and computed blocks hold what they should, and that requests are in one place. Here is
    /// checked that all of it comes to an end, and that the output is what it would have been alone.
    #[test]
    fn nothing_is_lost_owned_twice_or_overwritten(
        config in settings(),
        ops in prop::collection::vec(op(), 0..120),
    ) {
        let mut world = World::new(config.clone());
        for op in ops {
            world.apply(op);
        }
        world.drain();
        for (id, new) in &world.drafts {
            let output = world.driver.output(id.0);
            let (expected, reason) = alone(new, &config);
            match world.driver.reason(id.0) {
                Some(FinishReason::Error) => {
                    prop_assert_eq!(config.kv_load_failure_policy, LoadFailurePolicy::Fail);
                    prop_assert!(output.is_empty());
                }
                Some(found) => prop_assert_eq!((output, found), (&expected[..], reason)),
                None => {
                    prop_assert!(world.ended_early.contains(id), "request {} never ended", id);
                    prop_assert!(expected.starts_with(output));
                }
            }
        }
        let totals = world.driver.engine.stats().totals;
        let ends = totals.finished_stop + totals.finished_length + totals.finished_abort
            + totals.finished_error;
        prop_assert_eq!(ends, totals.requests);
        let sources = totals.prompt_tokens_cached + totals.prompt_tokens_remote
            + totals.prompt_tokens_computed;
        prop_assert_eq!(sources, totals.prompt_tokens);
    }

    /// The same calls give the same steps, blocks and events.
    #[test]
    fn a_run_can_be_repeated(
        config in settings(),
        ops in prop::collection::vec(op(), 0..60),
    ) {
        let run = || {
            let mut world = World::new(config.clone());
            ops.iter().cloned().for_each(|op| world.apply(op));
            world.driver.log
        };
        prop_assert_eq!(run(), run());
    }

    /// Block size, pool, budget and cache decide when a token comes, never which.
    #[test]
    fn the_output_does_not_depend_on_the_settings(
        (one, other) in (settings(), settings()),
        drafts in prop::collection::vec(draft(), 1..8),
    ) {
        let outputs = |config: EngineConfig| {
            let mut driver = Driver::new(config);
            for (id, draft) in (0..).zip(&drafts) {
                driver.add(NewRequest { kv: KvMode::Local, ..draft.request(id) });
            }
            driver.run();
            driver.outputs
        };
        prop_assert_eq!(outputs(one), outputs(other));
    }
}
