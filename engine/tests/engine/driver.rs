//! A driver for tests: it does what a worker does, on a memory of hashes instead of bytes, and
//! checks after every call that nothing is lost and that every block holds what it should.

#![expect(clippy::unwrap_used, reason = "a driver that cannot go on fails its test")]

use std::collections::{BTreeMap, BTreeSet};

use pdlab_engine::*;

/// What a token slot holds; None for garbage.
type Slot = Option<ChainHash>;

/// A pool of `num_blocks` blocks of `block_size` tokens, and defaults otherwise.
pub(crate) fn config(block_size: usize, num_blocks: usize) -> EngineConfig {
    let model = Model::by_name("qwen3-0.6b").unwrap();
    let geometry = KvGeometry::new(&model, 1, 1e-9, block_size, num_blocks).unwrap();
    EngineConfig::new(model, geometry)
}

/// Tokens per block in tests that do not vary it.
pub(crate) const BLOCK: usize = 4;

/// An engine with small blocks, one of them the null block.
pub(crate) fn driver(num_blocks: usize) -> Driver {
    Driver::new(config(BLOCK, num_blocks))
}

/// The same with other settings.
pub(crate) fn driver_with(num_blocks: usize, change: impl FnOnce(&mut EngineConfig)) -> Driver {
    let mut config = config(BLOCK, num_blocks);
    change(&mut config);
    Driver::new(config)
}

/// A request for `max_tokens` tokens, without conditions.
pub(crate) fn request(id: u64, tokens: &[u32], max_tokens: usize, kv: KvMode) -> NewRequest {
    NewRequest {
        id: RequestId(id),
        tokens: tokens.to_vec(),
        max_tokens,
        min_tokens: 0,
        ignore_eos: false,
        stop_token_ids: Vec::new(),
        kv,
    }
}

/// A decode leg whose remote has the whole prompt.
pub(crate) fn from_remote(id: u64, tokens: &[u32], max_tokens: usize) -> NewRequest {
    request(id, tokens, max_tokens, KvMode::FromRemote { remote_tokens: tokens.len() })
}

/// Consecutive token ids.
pub(crate) fn prompt(from: u32, len: usize) -> Vec<u32> {
    (from..).take(len).collect()
}

/// An engine with a memory.
pub(crate) struct Driver {
    pub(crate) engine: Engine,
    memory: Vec<Slot>,
    step: Option<Step>,
    /// Requests whose remote read is on its way, aborted ones included.
    pub(crate) loading: BTreeSet<RequestId>,
    pub(crate) pinned: BTreeMap<RequestId, Vec<BlockId>>,
    pub(crate) outputs: BTreeMap<RequestId, Vec<u32>>,
    pub(crate) finished: BTreeMap<RequestId, Finished>,
    /// Every call's outcome, to compare runs.
    pub(crate) log: Vec<String>,
}

impl Driver {
    pub(crate) fn new(config: EngineConfig) -> Self {
        let slots = config.geometry.num_blocks * config.geometry.block_size_tokens;
        Self {
            engine: Engine::new(config).unwrap(),
            memory: vec![None; slots],
            step: None,
            loading: BTreeSet::new(),
            pinned: BTreeMap::new(),
            outputs: BTreeMap::new(),
            finished: BTreeMap::new(),
            log: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, new: NewRequest) {
        self.engine.add(new).unwrap();
        self.check();
    }

    /// Plans a step and performs its writes. Returns a copy of its loads.
    pub(crate) fn schedule(&mut self) -> Vec<RemoteLoad> {
        assert!(self.step.is_none(), "one step at a time");
        let had_work = self.engine.has_work();
        let step = self.engine.schedule();
        assert!(had_work || step.is_empty(), "has_work() denied {step:?}");
        self.log.push(format!("{step:?}"));
        let budget = self.engine.config().max_num_batched_tokens;
        let num_tokens: usize = step.computed.iter().map(|computed| computed.num_tokens).sum();
        assert!(num_tokens <= budget && num_tokens as u64 == step.load.tokens);
        assert!(step.computed.iter().all(|computed| computed.num_tokens > 0));
        assert!(step.computed.len() <= self.engine.config().max_num_seqs);
        for load in &step.remote_loads {
            if load.local_blocks.is_empty() {
                continue;
            }
            assert!(self.loading.insert(load.id), "a second transfer for {}", load.id);
            for &block in &load.local_blocks {
                self.block_mut(block).fill(None);
            }
        }
        for write in step.writes() {
            assert_ne!(write.block, BlockId::NULL);
            let slots = write.first_slot..write.first_slot + write.hashes.len();
            for (slot, &hash) in self.block_mut(write.block)[slots].iter_mut().zip(write.hashes) {
                *slot = Some(hash);
            }
        }
        let loads = step.remote_loads.clone();
        self.step = Some(step);
        self.check();
        loads
    }

    /// Finishes the step in flight, if there is one.
    pub(crate) fn finish(&mut self) {
        if let Some(step) = self.step.take() {
            let events = self.engine.finish_step(step);
            self.take(events);
        }
    }

    /// A whole step. Returns whether there was anything to do.
    pub(crate) fn step(&mut self) -> bool {
        self.schedule();
        let busy = self.step.as_ref().is_some_and(|step| !step.is_empty());
        self.finish();
        busy
    }

    /// Steps until there is nothing to do.
    pub(crate) fn run(&mut self) {
        while self.step() {}
        assert!(!self.engine.has_work());
    }

    /// The remote read of `id` ends well: its blocks hold what the remote computed.
    pub(crate) fn load(&mut self, id: RequestId) {
        assert!(self.loading.remove(&id));
        let block_size = self.block_size();
        for index in 0.. {
            let Some(expected) = self.engine.expected(id, index) else { break };
            let start = expected.block.0 as usize * block_size;
            let slots = &mut self.memory[start..start + expected.hashes.len()];
            for (slot, &hash) in slots.iter_mut().zip(expected.hashes) {
                // Cached blocks in front of the load are there already and must not change.
                assert!(slot.is_none() || *slot == Some(hash));
                *slot = Some(hash);
            }
        }
        self.engine.remote_loaded(id);
        self.check();
    }

    /// The remote read of `id` fails half way.
    pub(crate) fn fail(&mut self, id: RequestId) {
        assert!(self.loading.remove(&id));
        let events = self.engine.remote_failed(id);
        self.take(events);
    }

    pub(crate) fn release(&mut self, id: RequestId) {
        let pinned = self.pinned.remove(&id).is_some();
        assert_eq!(self.engine.release(id), pinned);
        self.check();
    }

    pub(crate) fn output(&self, id: u64) -> &[u32] {
        self.outputs.get(&RequestId(id)).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn reason(&self, id: u64) -> Option<FinishReason> {
        self.finished.get(&RequestId(id)).map(|finished| finished.reason)
    }

    /// Every promise that holds at any time.
    pub(crate) fn check(&self) {
        self.engine.audit().unwrap();
        let known = self.outputs.keys().chain(&self.loading).chain(self.pinned.keys());
        for &id in known {
            if self.loading.contains(&id) {
                continue;
            }
            for index in 0.. {
                let Some(expected) = self.engine.expected(id, index) else { break };
                let held = self.block(expected.block);
                for (slot, (held, &hash)) in held.iter().zip(expected.hashes).enumerate() {
                    assert_eq!(*held, Some(hash), "request {id}, {}, slot {slot}", expected.block);
                }
            }
        }
        for (&id, blocks) in &self.pinned {
            for (index, &block) in blocks.iter().enumerate() {
                assert_eq!(self.engine.expected(id, index).unwrap().block, block);
            }
        }
        let stats = self.engine.stats();
        assert_eq!(stats.pinned_requests, self.pinned.len());
        let pinned: BTreeSet<_> = self.pinned.values().flatten().collect();
        assert_eq!(stats.blocks_pinned, pinned.len());
    }

    fn take(&mut self, events: Vec<Event>) {
        self.log.push(format!("{events:?}"));
        let mut last_token = None;
        for event in events {
            match event {
                Event::Token { id, token, index } => {
                    assert!(!self.finished.contains_key(&id), "a token after the end of {id}");
                    let output = self.outputs.entry(id).or_default();
                    assert_eq!(output.len(), index);
                    output.push(token);
                    last_token = Some(id);
                }
                Event::Finished(finished) => {
                    let id = finished.id;
                    let by_error = finished.reason == FinishReason::Error;
                    assert!(by_error || last_token == Some(id), "the end follows the last token");
                    assert_eq!(self.output(id.0).len(), finished.num_output_tokens);
                    if let Some(blocks) = &finished.kept_blocks {
                        self.pinned.insert(id, blocks.clone());
                    }
                    assert!(self.finished.insert(id, *finished).is_none(), "{id} ended twice");
                }
            }
        }
        self.check();
    }

    fn block_size(&self) -> usize {
        self.engine.config().geometry.block_size_tokens
    }

    fn block(&self, block: BlockId) -> &[Slot] {
        let start = block.0 as usize * self.block_size();
        &self.memory[start..start + self.block_size()]
    }

    fn block_mut(&mut self, block: BlockId) -> &mut [Slot] {
        let block_size = self.block_size();
        let start = block.0 as usize * block_size;
        &mut self.memory[start..start + block_size]
    }
}
