//! The engine loop: one thread owns the engine, as vLLM's engine core does.
//!
//! It waits for a [`Command`], applies it, and runs steps while there is work. A thread and not a
//! task, because a step writes megabytes of KV and sleeps for the modelled time, which would stall
//! whatever shares its executor.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use pdlab_api::kv_transfer::RemotePrefill;
use pdlab_api::timings::KvLoadTimings;
use pdlab_engine::{
    AbortOutcome, AdmitError, CostModel, Engine, Event, Finished, KvMode, RemoteLoad, RequestId,
    Step,
};

use crate::connector::{Connector, Declined, Kept, Load, LoadBlock};
use crate::job::{Ending, Job, Output, Problem};
use crate::kv_pool::KvPool;
use crate::metrics::Metrics;
use crate::progress::Progress;
use crate::shared::Shared;

/// How often leases are looked at while nothing else happens.
const TICK: Duration = Duration::from_millis(100);

/// Everything that can happen to the engine.
#[derive(Debug)]
pub enum Command {
    /// A request came in.
    Add(Box<Job>),
    /// A client went away.
    Abort(RequestId),
    /// A stop string was found in a request's text.
    Stop(RequestId),
    /// A remote read ended; an error says what went wrong with which peer.
    Loaded(RequestId, Result<KvLoadTimings, String>),
    /// Nothing; asks whether the loop is still there.
    Probe,
    /// Nobody will read what was kept of this request.
    Release(RequestId),
    /// A notification arrived over the transport.
    Notified(Bytes),
    /// A request was refused before it reached the engine; the remote may free its blocks.
    Decline(RemotePrefill),
    /// End now; requests still here are failed.
    Shutdown,
}

/// Sends commands to the loop; cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    commands: Sender<Command>,
}

impl EngineHandle {
    /// Reports the end of a [`Load`].
    pub fn loaded(&self, id: RequestId, outcome: Result<KvLoadTimings, String>) {
        self.send(Command::Loaded(id, outcome));
    }

    /// Frees blocks that were kept for a remote reader after all.
    pub fn release(&self, id: RequestId) {
        self.send(Command::Release(id));
    }

    /// Passes on a notification from the transport.
    pub fn notified(&self, payload: Bytes) {
        self.send(Command::Notified(payload));
    }

    /// Whether the loop still takes commands.
    pub(crate) fn is_alive(&self) -> bool {
        self.send(Command::Probe)
    }

    pub(crate) fn sender(&self) -> Sender<Command> {
        self.commands.clone()
    }

    /// False when the loop is gone.
    pub(crate) fn send(&self, command: Command) -> bool {
        self.commands.send(command).is_ok()
    }
}

/// A channel to a loop that is yet to start: roles need the handle to build their connector.
pub fn channel() -> (EngineHandle, Receiver<Command>) {
    let (commands, inbox) = std::sync::mpsc::channel();
    (EngineHandle { commands }, inbox)
}

pub(crate) struct EngineLoop<C> {
    pub(crate) engine: Engine,
    pub(crate) cost: CostModel,
    pub(crate) pool: KvPool,
    pub(crate) connector: C,
    pub(crate) inbox: Receiver<Command>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) jobs: HashMap<RequestId, Live>,
    pub(crate) started: Instant,
}

/// A request in the loop's hands.
#[derive(Debug)]
pub(crate) struct Live {
    job: Job,
    progress: Progress,
}

impl<C: Connector> EngineLoop<C> {
    /// Starts the thread.
    pub(crate) fn spawn(self) -> std::io::Result<thread::JoinHandle<()>> {
        thread::Builder::new().name("engine".into()).spawn(move || self.run())
    }

    fn run(mut self) {
        let mut next_tick = TICK;
        loop {
            match self.next_command() {
                Ok(Some(Command::Shutdown)) | Err(()) => break,
                Ok(Some(command)) => {
                    self.apply(command);
                    continue;
                }
                Ok(None) => {}
            }
            let now = self.started.elapsed();
            if now >= next_tick {
                next_tick = now + TICK;
                let expired = self.connector.tick(now);
                self.release(expired);
                self.shared.publish(self.engine.stats());
            }
            self.step();
        }
        for (_, live) in self.jobs.drain() {
            let _ = live.job.outputs.send(Output::End(Ending::failed(Problem::Shutdown)));
        }
    }

    /// The next command, or none when it is time for a step or a tick. All waiting commands come
    /// before a step, so that requests that arrive together are scheduled together.
    fn next_command(&mut self) -> Result<Option<Command>, ()> {
        if self.engine.has_work() {
            return match self.inbox.try_recv() {
                Ok(command) => Ok(Some(command)),
                Err(TryRecvError::Empty) => Ok(None),
                Err(TryRecvError::Disconnected) => Err(()),
            };
        }
        self.shared.publish(self.engine.stats());
        match self.inbox.recv_timeout(TICK) {
            Ok(command) => Ok(Some(command)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(()),
        }
    }

    fn apply(&mut self, command: Command) {
        match command {
            Command::Add(job) => self.add(*job),
            Command::Abort(id) => self.abort(id),
            Command::Stop(id) => {
                self.engine.stop(id);
                self.ended_early(id, "stop");
            }
            Command::Loaded(id, Ok(timings)) => {
                if let Some(live) = self.jobs.get_mut(&id) {
                    live.progress.loaded(Instant::now(), timings);
                }
                self.engine.remote_loaded(id);
            }
            Command::Loaded(id, Err(problem)) => {
                if let Some(live) = self.jobs.get_mut(&id) {
                    live.progress.load_problem = Some(problem);
                }
                let events = self.engine.remote_failed(id);
                self.dispatch(events);
            }
            Command::Release(id) => self.release(vec![id]),
            Command::Notified(payload) => {
                let released = self.connector.notified(&payload, self.started.elapsed());
                self.release(released);
            }
            Command::Decline(pull) => self.connector.decline(pull, Declined::Rejected),
            // `run` ends before it applies a shutdown; a probe was answered by being taken.
            Command::Probe | Command::Shutdown => {}
        }
    }

    fn add(&mut self, job: Job) {
        let id = job.request.id;
        match self.engine.add(job.request.clone()) {
            Ok(()) => {
                if let Some(pull) = &job.pull {
                    self.connector.expect(pull);
                }
                let progress = Progress::new(job.arrived, job.request.tokens.len());
                self.jobs.insert(id, Live { job, progress });
            }
            Err(refusal) => {
                if let Some(pull) = job.pull {
                    self.connector.decline(pull, Declined::Rejected);
                }
                let problem = match refusal {
                    AdmitError::QueueFull { .. } => Problem::Busy(refusal.to_string()),
                    _ => Problem::Refused(refusal.to_string()),
                };
                let _ = job.outputs.send(Output::End(Ending::failed(problem)));
            }
        }
    }

    fn abort(&mut self, id: RequestId) {
        let outcome = self.engine.abort(id);
        let Some(live) = self.ended_early(id, "abort") else { return };
        // Once the read is under way its own notification tells the remote.
        if let (AbortOutcome::FreedNotifyRemote, Some(pull)) = (outcome, live.job.pull) {
            self.connector.decline(pull, Declined::Aborted);
        }
    }

    /// Forgets a request whose end the front end knows already.
    fn ended_early(&mut self, id: RequestId, reason: &'static str) -> Option<Live> {
        let live = self.jobs.remove(&id)?;
        Shared::add(&self.shared.requests, 1);
        self.metrics.finished(&live.progress, reason, live.job.request.max_tokens, Instant::now());
        Some(live)
    }

    fn release(&mut self, ids: Vec<RequestId>) {
        for id in ids {
            self.engine.release(id);
        }
    }

    fn step(&mut self) {
        if !self.engine.has_work() {
            return;
        }
        let began = Instant::now();
        let mut step = self.engine.schedule();
        for load in std::mem::take(&mut step.remote_loads) {
            self.start_load(load);
        }
        if step.computed.is_empty() {
            let events = self.engine.finish_step(step);
            return self.dispatch(events);
        }
        self.write(&step);
        for computed in &step.computed {
            if let Some(live) = self.jobs.get_mut(&computed.id) {
                live.progress.scheduled(began);
            }
        }
        self.metrics.step(step.load.tokens);
        let due = began + self.cost.step_time(&step.load);
        thread::sleep(due.saturating_duration_since(Instant::now()));
        let events = self.engine.finish_step(step);
        let tokens = events.iter().filter(|e| matches!(e, Event::Token { .. })).count() as u64;
        Shared::add(&self.shared.steps, 1);
        Shared::add(&self.shared.generation_tokens, tokens);
        self.connector.step_done(tokens);
        self.dispatch(events);
    }

    /// The forward pass, as far as memory is concerned.
    fn write(&mut self, step: &Step) {
        for write in step.writes() {
            if let Err(error) = self.pool.fill(write.block, write.first_slot, write.hashes) {
                // Somebody still reads or writes a block that the engine considers its own. What
                // is in it is unknown now; a remote reader will find it corrupt.
                self.shared.failed("kv_write");
                tracing::error!(block = write.block.0, %error, "KV block not written");
            }
        }
    }

    fn start_load(&mut self, load: RemoteLoad) {
        let Some(live) = self.jobs.get_mut(&load.id) else { return };
        let Some(pull) = live.job.pull.clone() else { return };
        live.progress.load_began(Instant::now());
        if load.local_blocks.is_empty() {
            return self.connector.decline(pull, Declined::Cached);
        }
        let blocks = (0..load.local_blocks.len())
            .filter_map(|i| self.engine.expected(load.id, load.first_block_index + i))
            .map(|expected| LoadBlock { block: expected.block, hashes: expected.hashes.to_vec() })
            .collect();
        let first_block_index = load.first_block_index;
        self.connector.load(Load { id: load.id, pull, first_block_index, blocks });
    }

    /// Answers. What the answers tell of is published before: a client that has one in hand finds
    /// it in the snapshot.
    fn dispatch(&mut self, events: Vec<Event>) {
        self.shared.publish(self.engine.stats());
        let mut events = events.into_iter().peekable();
        while let Some(event) = events.next() {
            match event {
                Event::Token { id, token, .. } => {
                    let ending = match events.peek() {
                        Some(Event::Finished(finished)) if finished.id == id => {
                            let Some(Event::Finished(finished)) = events.next() else { continue };
                            self.end(&finished)
                        }
                        _ => None,
                    };
                    self.token(id, token, ending);
                }
                Event::Finished(finished) => {
                    let id = finished.id;
                    if let Some(ending) = self.end(&finished) {
                        self.finish(id, &ending);
                        if let Some(live) = self.jobs.remove(&id) {
                            let _ = live.job.outputs.send(Output::End(ending));
                        }
                    }
                }
            }
        }
    }

    fn token(&mut self, id: RequestId, token: u32, ending: Option<Ending>) {
        let now = Instant::now();
        if let Some(live) = self.jobs.get_mut(&id) {
            let gap = live.progress.token(now);
            self.metrics.token(&live.progress, gap);
            if live.progress.tokens == 1 {
                Shared::add(&self.shared.prompt_tokens, live.progress.prompt_tokens as u64);
            }
        }
        if let Some(ending) = &ending {
            self.finish(id, ending);
        }
        let last = ending.is_some();
        if let Some(live) = self.jobs.get(&id) {
            // A client that is gone sends an abort of its own.
            let _ = live.job.outputs.send(Output::Token(token, ending));
        }
        if last {
            self.jobs.remove(&id);
        }
    }

    fn finish(&mut self, id: RequestId, ending: &Ending) {
        Shared::add(&self.shared.requests, 1);
        if let Some(live) = self.jobs.get(&id) {
            let max_tokens = live.job.request.max_tokens;
            self.metrics.finished(
                &live.progress,
                ending.reason.as_str(),
                max_tokens,
                Instant::now(),
            );
        }
    }

    /// What the front end is told about an end. Blocks that the engine pinned are put under a
    /// lease even when nobody is left to tell, so that they are freed.
    fn end(&mut self, finished: &Finished) -> Option<Ending> {
        let live = self.jobs.get(&finished.id);
        let mut kv = finished.kept_blocks.as_ref().map(|blocks| {
            let kept = Kept {
                id: finished.id,
                wire_id: live.map_or("", |live| live.job.wire_id.as_str()),
                blocks,
                num_tokens: finished.num_prompt_tokens,
                cached_tokens: finished.cached_tokens,
            };
            self.connector.keep(kept, self.started.elapsed())
        });
        let live = live?;
        let pulled = live.job.pull.as_ref().map_or(0, |pull| pull.cached_tokens);
        let local = match live.job.request.kv {
            KvMode::FromRemote { .. } => 0,
            _ => finished.cached_tokens as u64,
        };
        let problem = live.progress.load_problem.clone().map(Problem::Load);
        let mut metrics = None;
        if live.job.timings {
            if let Some(kv) = &mut kv {
                kv.pdlab_prefill = live.progress.prefill_timings();
            }
            metrics = live.progress.metrics(live.job.pull.as_ref().and_then(|pull| pull.timings));
        }
        let cached_tokens = pulled + local;
        Some(Ending { reason: finished.reason, kv, cached_tokens, metrics, problem })
    }
}

#[cfg(test)]
mod tests;
