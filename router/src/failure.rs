//! How a leg fails, and what the client is told when no attempt is left.

use std::sync::Arc;
use std::time::Duration;

use hyper::Response;
use pdlab_api::error::ErrorBody;

use crate::answer::{Answer, error};
use crate::fleet::{Leg, Worker};
use crate::health::Event;
use crate::server::Shared;
use crate::upstream::{CollectError, SendError};

/// How much of a worker's garbage is quoted.
const QUOTE_BYTES: usize = 200;

/// A leg that failed before the client saw a byte.
pub(crate) struct Failure {
    pub(crate) worker: Arc<Worker>,
    pub(crate) cause: Cause,
    /// Index of the prefill worker of this attempt.
    pub(crate) prefill: Option<usize>,
}

/// Why a leg failed.
pub(crate) enum Cause {
    /// A kept-alive connection turned out to be closed.
    Stale,
    /// No connection.
    Unreachable(String),
    /// The worker hung up.
    Broken(String),
    /// The worker was silent for this long.
    TimedOut(Duration),
    /// The worker answered something useless.
    Garbage(String),
    /// The worker answered that it failed; this is what it answered.
    Answered(Box<Response<Answer>>),
}

/// [`Cause`] without details, for counting and deciding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Stale,
    Unreachable,
    Broken,
    TimedOut,
    Garbage,
    Answered,
    /// Decode failed after the client had seen a byte.
    MidStream,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] = [
        Kind::Stale,
        Kind::Unreachable,
        Kind::Broken,
        Kind::TimedOut,
        Kind::Garbage,
        Kind::Answered,
        Kind::MidStream,
    ];

    /// The name in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Kind::Stale => "stale_connection",
            Kind::Unreachable => "unreachable",
            Kind::Broken => "broken",
            Kind::TimedOut => "timeout",
            Kind::Garbage => "garbage",
            Kind::Answered => "status_5xx",
            Kind::MidStream => "mid_stream",
        }
    }
}

impl Cause {
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Cause::Stale => Kind::Stale,
            Cause::Unreachable(_) => Kind::Unreachable,
            Cause::Broken(_) => Kind::Broken,
            Cause::TimedOut(_) => Kind::TimedOut,
            Cause::Garbage(_) => Kind::Garbage,
            Cause::Answered(_) => Kind::Answered,
        }
    }

    /// Garbage, with the beginning of what was answered.
    pub(crate) fn garbage(problem: impl std::fmt::Display, answer: &[u8]) -> Self {
        let quote = String::from_utf8_lossy(&answer[..answer.len().min(QUOTE_BYTES)]);
        let more = if answer.len() > QUOTE_BYTES { "…" } else { "" };
        Cause::Garbage(format!("{problem}; it answered `{quote}`{more}"))
    }

    /// What the worker did, as the rest of a sentence that starts with its name.
    pub(crate) fn describe(&self) -> String {
        match self {
            Cause::Stale => SendError::Stale.to_string(),
            Cause::Unreachable(why) => format!("cannot be reached: {why}"),
            Cause::Broken(why) => why.clone(),
            Cause::TimedOut(waited) => format!("was silent for {waited:?}"),
            Cause::Garbage(what) => format!("answered garbage: {what}"),
            Cause::Answered(answer) => format!("answered status {}", answer.status().as_u16()),
        }
    }
}

impl From<SendError> for Cause {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Connect(why) => Cause::Unreachable(why),
            SendError::Stale => Cause::Stale,
            SendError::Closed(_) => Cause::Broken(error.to_string()),
        }
    }
}

impl From<CollectError> for Cause {
    fn from(error: CollectError) -> Self {
        match error {
            CollectError::Broken(_) => Cause::Broken(error.to_string()),
            CollectError::TooLarge(_) => Cause::Garbage(error.to_string()),
        }
    }
}

impl Failure {
    /// Counts the failure and lets the worker's health know.
    pub(crate) fn note(&self, shared: &Shared) {
        note(shared, &self.worker, self.cause.kind(), &self.cause);
    }

    /// The client's answer when this was the last attempt.
    pub(crate) fn into_answer(self, shared: &Shared) -> Response<Answer> {
        let leg = self.worker.leg;
        let what = format!("{leg} worker {} {}", self.worker.url, self.cause.describe());
        match self.cause {
            Cause::Answered(answer) => *answer,
            Cause::Unreachable(_) => {
                let others = shared.fleet(leg).unhealthy();
                let message = format!("{what}; no other is left. Not healthy: {others}");
                error(&ErrorBody::unavailable(message))
            }
            Cause::Stale | Cause::Broken(_) | Cause::Garbage(_) => {
                error(&ErrorBody::bad_gateway(what))
            }
            Cause::TimedOut(_) => error(&ErrorBody::new(504, "GatewayTimeoutError", what)),
        }
    }
}

/// Counts a failed leg and lets the worker's health know.
pub(crate) fn note(shared: &Shared, worker: &Worker, kind: Kind, cause: &Cause) {
    shared.metrics.failed(worker.leg, kind);
    tracing::debug!(leg = %worker.leg, url = %worker.url, why = cause.describe(), "leg failed");
    match cause {
        // What one worker process closed is closed for the other unused connections too.
        Cause::Stale => worker.pool.clear(),
        Cause::Unreachable(_) | Cause::Broken(_) | Cause::TimedOut(_) => {
            shared.fleet(worker.leg).record(worker, Event::LegFailed, Some(cause.describe()));
        }
        // It is there and talks; what it says is not its health's business.
        Cause::Garbage(_) | Cause::Answered(_) => {}
    }
}

/// The answer when there is no worker to try.
pub(crate) fn no_worker(shared: &Shared, leg: Leg) -> Response<Answer> {
    shared.metrics.no_worker();
    let who = shared.fleet(leg).unhealthy();
    let message = format!("no {leg} worker is up: {who}. Try again when one is back");
    error(&ErrorBody::unavailable(message))
}
