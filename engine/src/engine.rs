//! The engine: what a driver calls.

use crate::admission::{self, AdmitError};
use crate::config::{ConfigError, EngineConfig, LoadFailurePolicy};
use crate::content::{ChainHash, extend_chain};
use crate::event::{AbortOutcome, Event, ExpectedBlock, Finished};
use crate::request::{FinishReason, KvMode, NewRequest, Request, RequestId, RequestState};
use crate::sampler::{EOS_TOKEN_ID, Sampler};
use crate::scheduler::Scheduler;
use crate::stats::EngineStats;
use crate::step::Step;

/// A model of a vLLM engine. See the [crate] for how its calls follow each other.
#[derive(Debug)]
pub struct Engine {
    config: EngineConfig,
    sampler: Sampler,
    /// Chain hash of the empty prompt.
    seed: ChainHash,
    pub(crate) scheduler: Scheduler,
    num_admitted: u64,
}

impl Engine {
    /// An engine without requests.
    ///
    /// # Errors
    /// As [`EngineConfig::validate`].
    pub fn new(config: EngineConfig) -> Result<Self, ConfigError> {
        config.validate()?;
        Ok(Self {
            sampler: Sampler { eos_one_in: config.eos_one_in },
            seed: ChainHash::seed(config.model.name, config.content_salt),
            scheduler: Scheduler::new(&config),
            num_admitted: 0,
            config,
        })
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Queues a request.
    ///
    /// # Errors
    /// The request is not taken, and says why.
    pub fn add(&mut self, new: NewRequest) -> Result<(), AdmitError> {
        admission::check(&new, &self.config, &self.scheduler)?;
        let mut chain = Vec::new();
        extend_chain(&mut chain, self.seed, &new.tokens);
        self.num_admitted += 1;
        let slot = self.scheduler.requests.insert(Request {
            id: new.id,
            serial: self.num_admitted,
            state: RequestState::Waiting,
            num_prompt_tokens: chain.len(),
            chain,
            num_computed: 0,
            blocks: Vec::new(),
            num_registered: 0,
            max_tokens: new.max_tokens,
            min_tokens: new.min_tokens,
            ignore_eos: new.ignore_eos,
            stop_token_ids: new.stop_token_ids,
            kv: new.kv,
            remote_asked: false,
            loading: false,
            cached_tokens: 0,
            remote_tokens: 0,
            num_preemptions: 0,
        });
        self.scheduler.waiting.push_back(slot);
        self.scheduler.totals.requests += 1;
        self.scheduler.stalled = false;
        Ok(())
    }

    /// Whether [`Engine::schedule`] would find something to do. False while all requests wait for a
    /// remote or for blocks that others hold.
    pub fn has_work(&self) -> bool {
        let scheduler = &self.scheduler;
        let queues_empty = scheduler.running.is_empty()
            && scheduler.ready.is_empty()
            && scheduler.waiting.is_empty();
        !scheduler.stalled && !queues_empty
    }

    /// Plans the next step. One step is in flight at a time: the one before must have been finished.
    pub fn schedule(&mut self) -> Step {
        self.scheduler.schedule()
    }

    /// Ends a step whose writes are done: its tokens count as computed, and every request that has
    /// none left to compute gets its next token.
    pub fn finish_step(&mut self, step: Step) -> Vec<Event> {
        let mut events = Vec::with_capacity(step.computed.len());
        let mut any_finished = false;
        for computed in &step.computed {
            let request = self.scheduler.requests.get_mut(computed.slot, computed.serial);
            // Aborted meanwhile, or a step that was superseded by another.
            let Some(request) = request.filter(|r| r.num_computed == computed.start_token) else {
                continue;
            };
            request.num_computed += computed.num_tokens;
            if request.num_computed == request.num_tokens() {
                let (token, reason) = self.next_token(computed.slot);
                let index = self.scheduler.requests[computed.slot].num_output_tokens() - 1;
                events.push(Event::Token { id: computed.id, token, index });
                if let Some(reason) = reason {
                    let finished = self.finish(computed.slot, reason, Some(token));
                    events.push(Event::Finished(Box::new(finished)));
                    any_finished = true;
                }
            }
        }
        if any_finished {
            self.drop_finished_from_running();
        }
        events
    }

    /// The remote load of `id` has written all its blocks. Ignored for a request that does not wait
    /// for one.
    pub fn remote_loaded(&mut self, id: RequestId) {
        let Some(slot) = self.end_load(id) else { return };
        let scheduler = &mut self.scheduler;
        let request = &mut scheduler.requests[slot];
        let loaded = request.num_computed + request.remote_tokens;
        scheduler.kv.register(request, loaded);
        // The last token is computed again, because the first output token is sampled from it.
        request.num_computed = loaded.min(request.num_tokens() - 1);
        request.state = RequestState::Waiting;
        scheduler.ready.push_back(slot);
    }

    /// The remote load of `id` has failed, and nothing writes into its blocks any more. By policy, the
    /// request ends with an error or computes its prompt here. Ignored for a request that does not
    /// wait for a load.
    pub fn remote_failed(&mut self, id: RequestId) -> Vec<Event> {
        let Some(slot) = self.end_load(id) else { return Vec::new() };
        let scheduler = &mut self.scheduler;
        let request = &mut scheduler.requests[slot];
        scheduler.totals.remote_load_failures += 1;
        request.remote_tokens = 0;
        if self.config.kv_load_failure_policy == LoadFailurePolicy::Fail {
            let finished = self.finish(slot, FinishReason::Error, None);
            return vec![Event::Finished(Box::new(finished))];
        }
        request.state = RequestState::Waiting;
        if request.num_computed > 0 {
            scheduler.ready.push_back(slot);
        } else {
            // Nothing of what it holds is of use, and the cache may know more by now.
            scheduler.kv.release(request);
            scheduler.waiting.push_front(slot);
        }
        Vec::new()
    }

    /// The client of `id` has gone.
    pub fn abort(&mut self, id: RequestId) -> AbortOutcome {
        self.end_early(id, FinishReason::Abort)
    }

    /// The front end has found a stop string in the output of `id`, which the engine cannot see.
    pub fn stop(&mut self, id: RequestId) -> AbortOutcome {
        self.end_early(id, FinishReason::Stop)
    }

    /// Frees the pinned blocks of a finished [`KvMode::ProduceForRemote`] request: its reader has
    /// notified, or its lease has run out. Returns whether there were any.
    pub fn release(&mut self, id: RequestId) -> bool {
        let scheduler = &mut self.scheduler;
        let slot = scheduler.requests.slot_of(id);
        let Some(slot) = slot.filter(|&slot| scheduler.requests[slot].is_pinned()) else {
            return false;
        };
        scheduler.kv.unpin(&mut scheduler.requests[slot]);
        scheduler.requests.remove(slot);
        scheduler.stalled = false;
        true
    }

    /// The state of a request that the engine holds.
    pub fn state(&self, id: RequestId) -> Option<RequestState> {
        let slot = self.scheduler.requests.slot_of(id)?;
        Some(self.scheduler.requests[slot].state)
    }

    /// Block `block_index` of a request, counted from the start of its prompt, and the hashes of the
    /// tokens that are computed in it or, during a remote load, that will be once it ends. None past
    /// the last such token.
    pub fn expected(&self, id: RequestId, block_index: usize) -> Option<ExpectedBlock<'_>> {
        let request = &self.scheduler.requests[self.scheduler.requests.slot_of(id)?];
        let block_size = self.scheduler.kv.block_size();
        let loading = if request.loading { request.remote_tokens } else { 0 };
        let filled = request.chain.get(..request.num_computed + loading)?;
        let hashes = filled.chunks(block_size).nth(block_index)?;
        Some(ExpectedBlock { block: request.blocks[block_index], hashes })
    }

    /// Gauges and counters. Takes time in proportion to the number of requests.
    pub fn stats(&self) -> EngineStats {
        let scheduler = &self.scheduler;
        let pool = &scheduler.kv.pool;
        let (total, free) = (pool.num_usable(), pool.num_free());
        let count = |test: fn(&Request) -> bool| {
            scheduler.requests.iter().filter(|(_, request)| test(request)).count()
        };
        EngineStats {
            running: scheduler.running.len(),
            waiting: scheduler.waiting.len() + scheduler.ready.len(),
            waiting_remote: count(|request| request.loading),
            pinned_requests: count(Request::is_pinned),
            blocks_total: total,
            blocks_free: free,
            blocks_cached: pool.cache().len(),
            blocks_pinned: pool.num_pinned(),
            kv_usage: 1.0 - free as f64 / total as f64,
            totals: scheduler.totals,
        }
    }

    /// Whether no request is held and every block is free: the state to return to.
    pub fn is_drained(&self) -> bool {
        let pool = &self.scheduler.kv.pool;
        self.scheduler.requests.len() == 0 && pool.num_free() == pool.num_usable()
    }

    /// Draws the next token of a request that is fully computed, and says whether it is the last.
    fn next_token(&mut self, slot: u32) -> (u32, Option<FinishReason>) {
        let totals = &mut self.scheduler.totals;
        let request = &mut self.scheduler.requests[slot];
        if request.num_output_tokens() == 0 {
            let computed =
                request.num_prompt_tokens - request.cached_tokens - request.remote_tokens;
            totals.prompt_tokens += request.num_prompt_tokens as u64;
            totals.prompt_tokens_computed += computed as u64;
            totals.prompt_tokens_cached += request.cached_tokens as u64;
            totals.prompt_tokens_remote += request.remote_tokens as u64;
        }
        totals.generation_tokens += 1;

        let last = *request.chain.last().expect("a prompt has at least one token");
        let may_stop = request.num_output_tokens() >= request.min_tokens;
        let banned: &[u32] = if may_stop { &[] } else { &request.stop_token_ids };
        let token = self.sampler.next(last, may_stop && !request.ignore_eos, banned);
        request.chain.push(last.next(token));

        // vLLM looks for a stop token first, so that an output that ends on one at its full length
        // counts as stopped.
        let stops = token == EOS_TOKEN_ID || may_stop && request.stop_token_ids.contains(&token);
        let full = request.num_output_tokens() >= request.max_tokens
            || request.num_tokens() >= self.config.max_model_len;
        let reason = match (stops, full) {
            (true, _) => Some(FinishReason::Stop),
            (false, true) => Some(FinishReason::Length),
            (false, false) => None,
        };
        (token, reason)
    }

    /// Ends a request that is not loading. It may still be named in `running`.
    fn finish(&mut self, slot: u32, reason: FinishReason, last_token: Option<u32>) -> Finished {
        let scheduler = &mut self.scheduler;
        scheduler.totals.count_finish(reason);
        let request = &mut scheduler.requests[slot];
        let stop_token =
            last_token.filter(|&token| reason == FinishReason::Stop && token != EOS_TOKEN_ID);
        let mut finished = Finished {
            id: request.id,
            reason,
            stop_token,
            kept_blocks: None,
            num_prompt_tokens: request.num_prompt_tokens,
            num_output_tokens: request.num_output_tokens(),
            cached_tokens: request.cached_tokens,
            remote_tokens: request.remote_tokens,
            num_preemptions: request.num_preemptions,
        };
        // Only decode legs end here with an error, so a prefill leg has its whole prompt computed.
        if request.kv == KvMode::ProduceForRemote {
            request.state = RequestState::Finished(reason);
            scheduler.kv.pin_prompt(request);
            finished.kept_blocks = Some(request.blocks.clone());
        } else {
            scheduler.kv.release(request);
            scheduler.requests.remove(slot);
        }
        finished
    }

    fn end_early(&mut self, id: RequestId, reason: FinishReason) -> AbortOutcome {
        let scheduler = &mut self.scheduler;
        let Some(slot) = scheduler.requests.slot_of(id) else {
            return AbortOutcome::Unknown;
        };
        let request = &mut scheduler.requests[slot];
        match request.state {
            RequestState::Finished(_) => return AbortOutcome::Ignored,
            RequestState::WaitingForRemoteKvs => {
                request.state = RequestState::Finished(reason);
                scheduler.totals.count_finish(reason);
                return AbortOutcome::KeptUntilLoaded;
            }
            RequestState::Running => scheduler.running.retain(|&other| other != slot),
            RequestState::Waiting | RequestState::Preempted => {
                scheduler.waiting.retain(|&other| other != slot);
                scheduler.ready.retain(|&other| other != slot);
            }
        }
        let remote_waits = request.remote_offer().is_some();
        scheduler.kv.release(request);
        scheduler.requests.remove(slot);
        scheduler.totals.count_finish(reason);
        scheduler.stalled = false;
        if remote_waits { AbortOutcome::FreedNotifyRemote } else { AbortOutcome::Freed }
    }

    /// Ends the load of `id`, if there is one. Returns the slot of a request that still wants it; one
    /// that was aborted meanwhile is freed.
    fn end_load(&mut self, id: RequestId) -> Option<u32> {
        let scheduler = &mut self.scheduler;
        let slot = scheduler.requests.slot_of(id)?;
        let request = &mut scheduler.requests[slot];
        if !request.loading {
            return None;
        }
        request.loading = false;
        scheduler.stalled = false;
        if request.state == RequestState::WaitingForRemoteKvs {
            return Some(slot);
        }
        scheduler.kv.release(request);
        scheduler.requests.remove(slot);
        None
    }

    fn drop_finished_from_running(&mut self) {
        let scheduler = &mut self.scheduler;
        let requests = &scheduler.requests;
        scheduler.running.retain(|&slot| requests.is_running(slot));
    }
}
