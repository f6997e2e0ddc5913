//! One request on its way through the worker: checked, numbered, and answered token by token.

use std::sync::mpsc::Sender;
use std::time::Instant;

use pdlab_api::kv_transfer::{KvTransferParams, RemotePrefill};
use pdlab_api::timings::RequestMetrics;
use pdlab_engine::{FinishReason, NewRequest, RequestId};
use tokio::sync::mpsc::UnboundedSender;

use crate::engine_loop::Command;

/// A request as the engine loop takes it.
#[derive(Debug)]
pub struct Job {
    /// What the engine gets.
    pub request: NewRequest,
    /// The id on the wire, such as `cmpl-<X-Request-Id>-0-1a2b3c4d`; what a remote peer echoes.
    pub wire_id: String,
    /// Where the prompt's KV is to be pulled from, on a decode leg.
    pub pull: Option<RemotePrefill>,
    /// Tell the client where the time went.
    pub timings: bool,
    /// When the request came in: queue time and TTFT count from here.
    pub arrived: Instant,
    /// Takes the outputs; the engine sends at most `max_tokens` of them, which bounds the queue.
    pub outputs: UnboundedSender<Output>,
}

/// What the engine loop answers.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A token, which may be the last.
    Token(u32, Option<Ending>),
    /// The end, without a token: aborted, failed, or refused by the engine.
    End(Ending),
}

/// How a request ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Ending {
    /// vLLM's reason.
    pub reason: FinishReason,
    /// On prefill, where the KV is kept for a remote reader.
    pub kv: Option<KvTransferParams>,
    /// Prompt tokens that needed no computation.
    pub cached_tokens: u64,
    /// Where the time went, for a client that asked and got a token.
    pub metrics: Option<RequestMetrics>,
    /// What went wrong, for [`FinishReason::Error`].
    pub problem: Option<Problem>,
}

/// Why a request failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The engine will never take it as it is; the client must change it.
    Refused(String),
    /// Too much is queued; the same request may be taken later.
    Busy(String),
    /// The KV could not be loaded from the remote prefill.
    Load(String),
    /// The worker is going down.
    Shutdown,
}

impl Ending {
    /// An end with an error.
    pub(crate) fn failed(problem: Problem) -> Self {
        Self {
            reason: FinishReason::Error,
            kv: None,
            cached_tokens: 0,
            metrics: None,
            problem: Some(problem),
        }
    }
}

/// Aborts a request when dropped before its end: the client went away.
#[derive(Debug)]
pub(crate) struct AbortGuard {
    id: RequestId,
    commands: Option<Sender<Command>>,
}

impl AbortGuard {
    pub(crate) fn new(id: RequestId, commands: Sender<Command>) -> Self {
        Self { id, commands: Some(commands) }
    }

    /// The request has ended by itself.
    pub(crate) fn disarm(&mut self) {
        self.commands = None;
    }

    /// A stop string was found: end the request without calling it aborted.
    pub(crate) fn stop(&mut self) {
        if let Some(commands) = self.commands.take() {
            // A loop that is gone has nothing left to stop.
            let _ = commands.send(Command::Stop(self.id));
        }
    }
}

impl Drop for AbortGuard {
    fn drop(&mut self) {
        if let Some(commands) = self.commands.take() {
            let _ = commands.send(Command::Abort(self.id));
        }
    }
}
