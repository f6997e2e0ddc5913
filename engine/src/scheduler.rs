//! Who computes what in the next step, as vLLM decides it.
//!
//! There is one budget of tokens per step and no phases of prefill and decode: every request gets
//! the tokens that it knows but has not computed, as far as the budget goes. Running requests come
//! first, in order of admission. When one of them finds no free block, the last one loses its blocks
//! and computes again later. Only if nobody did, waiting requests join: first those whose remote KV has
//! arrived, because they hold blocks, then the queue in order of arrival.

use std::collections::VecDeque;

use crate::config::EngineConfig;
use crate::kv_cache::KvCache;
use crate::request::RequestState;
use crate::request_table::RequestTable;
use crate::stats::Totals;
use crate::step::{Computed, RemoteLoad, Step};

/// The requests of an engine, where each of them stands, and their blocks.
///
/// A request in the table is in exactly one of the queues, or loading, or pinned.
#[derive(Debug)]
pub(crate) struct Scheduler {
    pub(crate) requests: RequestTable,
    pub(crate) running: Vec<u32>,
    /// Not admitted yet, or preempted; none of them holds blocks.
    pub(crate) waiting: VecDeque<u32>,
    /// Back from a remote load, with blocks for the whole prompt.
    pub(crate) ready: VecDeque<u32>,
    pub(crate) kv: KvCache,
    pub(crate) totals: Totals,
    /// The last step had nothing to do, and nothing has happened since that could change that.
    pub(crate) stalled: bool,
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
}

impl Scheduler {
    pub(crate) fn new(config: &EngineConfig) -> Self {
        let geometry = &config.geometry;
        Self {
            requests: RequestTable::default(),
            running: Vec::new(),
            waiting: VecDeque::new(),
            ready: VecDeque::new(),
            kv: KvCache::new(
                geometry.num_blocks,
                geometry.block_size_tokens,
                config.prefix_caching,
            ),
            totals: Totals::default(),
            stalled: false,
            max_num_seqs: config.max_num_seqs,
            max_num_batched_tokens: config.max_num_batched_tokens,
        }
    }

    /// Plans a step.
    pub(crate) fn schedule(&mut self) -> Step {
        let mut step = Step::with_capacity(self.running.len());
        let mut budget = self.max_num_batched_tokens;
        self.schedule_running(&mut step, &mut budget);
        if step.preempted.is_empty() {
            self.schedule_waiting(&mut step, &mut budget);
        }
        self.stalled = step.is_empty();
        self.totals.steps += u64::from(!self.stalled);
        step
    }

    fn schedule_running(&mut self, step: &mut Step, budget: &mut usize) {
        let mut index = 0;
        while index < self.running.len() && *budget > 0 {
            let slot = self.running[index];
            let request = &self.requests[slot];
            let count = (request.num_tokens() - request.num_computed).min(*budget);
            let end = request.num_computed + count;
            while !self.kv.grow(&mut self.requests[slot], end) {
                let victim = self.running.pop().expect("the request that grows is running");
                self.preempt(victim, step);
                if victim == slot {
                    return;
                }
            }
            self.compute(slot, count, step);
            *budget -= count;
            index += 1;
        }
    }

    fn schedule_waiting(&mut self, step: &mut Step, budget: &mut usize) {
        while *budget > 0 && self.running.len() < self.max_num_seqs {
            let used = if let Some(slot) = self.ready.pop_front() {
                Some(self.start(slot, *budget, step))
            } else if let Some(&slot) = self.waiting.front() {
                self.admit(slot, *budget, step)
            } else {
                return;
            };
            match used {
                Some(used) => *budget -= used,
                // Nobody overtakes a request that does not fit, or it might never run.
                None => return,
            }
        }
    }

    /// Takes the first waiting request in, if its whole prompt fits: a long prompt that is let in by
    /// chunks would be preempted half way. Returns the tokens that it takes of the budget.
    ///
    /// vLLM also keeps a load from taking blocks that running prefills have yet to ask for. That is
    /// given here: while there is budget left, no running request has a known token left to compute.
    fn admit(&mut self, slot: u32, budget: usize, step: &mut Step) -> Option<usize> {
        let request = &self.requests[slot];
        let num_tokens = request.num_tokens();
        let hits = self.kv.find_prefix(request);
        let cached = hits.len() * self.kv.block_size();
        let remote = request.remote_offer().map(|offer| offer.saturating_sub(cached));

        if self.kv.blocks_taken_by(&hits, num_tokens) > self.kv.pool.num_free() {
            return None;
        }

        self.waiting.pop_front();
        let request = &mut self.requests[slot];
        // Whoever comes back was counted before.
        if request.num_preemptions == 0 && !request.remote_asked {
            request.cached_tokens = cached;
            self.totals.prefix_queries += num_tokens as u64;
            self.totals.prefix_hits += cached as u64;
        }
        self.kv.adopt(request, hits);
        if let Some(remote) = remote {
            request.remote_asked = true;
            self.totals.external_queries += (num_tokens - cached) as u64;
            self.ask_remote(slot, remote, step);
        }
        if self.requests[slot].loading {
            return Some(0);
        }
        Some(self.start(slot, budget, step))
    }

    /// Starts the read of `remote_tokens` after the cached ones, or, if the cache has them all, only
    /// tells the remote so.
    fn ask_remote(&mut self, slot: u32, remote_tokens: usize, step: &mut Step) {
        let request = &mut self.requests[slot];
        let first_block_index = request.blocks.len();
        let mut local_blocks = Vec::new();
        if remote_tokens > 0 {
            let fits = self.kv.grow(request, request.num_tokens());
            debug_assert!(fits, "admission checked that the prompt fits");
            let end = self.kv.blocks_for(request.num_computed + remote_tokens);
            local_blocks.extend_from_slice(&request.blocks[first_block_index..end]);
            request.state = RequestState::WaitingForRemoteKvs;
            request.loading = true;
            request.remote_tokens = remote_tokens;
            self.totals.remote_loads += 1;
            self.totals.external_hits += remote_tokens as u64;
        }
        let id = request.id;
        let load = RemoteLoad { id, local_blocks, first_block_index, num_tokens: remote_tokens };
        step.remote_loads.push(load);
    }

    /// Makes a request run that is in no queue and for whose known tokens there are blocks.
    fn start(&mut self, slot: u32, budget: usize, step: &mut Step) -> usize {
        let request = &mut self.requests[slot];
        request.state = RequestState::Running;
        let count = (request.num_tokens() - request.num_computed).min(budget);
        let fits = self.kv.grow(request, request.num_computed + count);
        debug_assert!(fits, "admission checked that the prompt fits");
        self.running.push(slot);
        self.compute(slot, count, step);
        count
    }

    /// Puts the next `count` tokens of a running request into the step.
    fn compute(&mut self, slot: u32, count: usize, step: &mut Step) {
        let block_size = self.kv.block_size();
        let request = &mut self.requests[slot];
        let start_token = request.num_computed;
        let end_token = start_token + count;
        // Registered before they are written, as in vLLM: whoever finds them computes in this step
        // or a later one, and by its end the content is there.
        self.kv.register(request, end_token);
        let hashes = &request.chain[start_token..end_token];
        step.record_writes(&request.blocks, block_size, start_token, hashes);
        let decodes = request.num_output_tokens() > 0 && start_token + 1 == request.num_tokens();
        step.load.add(start_token, count, !decodes);
        step.computed.push(Computed {
            id: request.id,
            start_token,
            num_tokens: count,
            slot,
            serial: request.serial,
        });
    }

    /// Takes the blocks of a request that is in no queue any more, and puts it first in line.
    fn preempt(&mut self, slot: u32, step: &mut Step) {
        let request = &mut self.requests[slot];
        self.kv.release(request);
        request.state = RequestState::Preempted;
        request.num_preemptions += 1;
        self.totals.preemptions += 1;
        step.preempted.push(request.id);
        self.waiting.push_front(slot);
    }
}
