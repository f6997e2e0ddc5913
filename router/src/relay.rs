//! Passes a worker's answer on as it comes, and says so when it ends too early.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::HeaderMap;
use pdlab_api::error::ErrorBody;
use tokio::time::{Instant, Sleep, sleep_until};

use crate::failure::{Cause, Kind, note};
use crate::fleet::Slot;
use crate::headers::is_event_stream;
use crate::server::Shared;
use crate::ui::Pace;
use crate::upstream::{ReplyBody, full};

/// A worker's body on its way to the client.
pub(crate) struct Relay {
    body: ReplyBody,
    slot: Slot,
    shared: Arc<Shared>,
    events: bool,
    /// Read before the client was answered; goes out first.
    first: Option<Bytes>,
    /// Ends the worker's silence. Armed while waiting, so that a slow client is not counted as one.
    silence: Pin<Box<Sleep>>,
    armed: bool,
    ended: Option<Ended>,
    /// The last bytes passed on end an event.
    between_events: bool,
    /// Times the stream for the live page.
    pace: Option<Pace>,
}

enum Ended {
    Well,
    /// Told the client so in an event, or is about to cut the connection.
    Cut,
}

/// The worker's answer broke off, so the client's must too.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Cut(String);

impl Relay {
    pub(crate) fn new(
        body: ReplyBody,
        headers: &HeaderMap,
        slot: Slot,
        shared: Arc<Shared>,
    ) -> Self {
        Self {
            body,
            slot,
            events: is_event_stream(headers),
            first: None,
            silence: Box::pin(sleep_until(Instant::now() + shared.config.idle_timeout)),
            shared,
            armed: false,
            ended: None,
            between_events: true,
            pace: None,
        }
    }

    /// Waits for the first bytes and keeps them; `None` for an empty body. Until then the request
    /// can go elsewhere.
    pub(crate) async fn first(&mut self) -> Result<Option<&Bytes>, Cause> {
        self.first = poll_fn(|cx| self.poll_worker(cx)).await?;
        if self.first.is_none() {
            self.ended = Some(Ended::Well);
        }
        Ok(self.first.as_ref())
    }

    /// From now on, times what comes.
    pub(crate) fn timed(&mut self, pace: Option<Pace>) {
        self.pace = pace;
    }

    /// The body is a stream of events.
    pub(crate) fn has_events(&self) -> bool {
        self.events
    }

    /// The next bytes for the client; `None` at the end.
    pub(crate) fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if let Some(first) = self.first.take() {
            return self.pass(first);
        }
        if self.ended.is_some() {
            return Poll::Ready(None);
        }
        match self.poll_worker(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Ok(Some(data))) => self.pass(data),
            Poll::Ready(Ok(None)) => {
                self.ended = Some(Ended::Well);
                Poll::Ready(None)
            }
            Poll::Ready(Err(cause)) => Poll::Ready(Some(self.cut(&cause))),
        }
    }

    /// Nothing more will come.
    pub(crate) fn is_over(&self) -> bool {
        self.first.is_none() && self.ended.is_some()
    }

    /// It ended because the worker failed.
    pub(crate) fn was_cut(&self) -> bool {
        matches!(self.ended, Some(Ended::Cut))
    }

    /// Bytes still to come, where the worker announced them.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        let first = self.first.as_ref().map_or(0, |first| first.len() as u64);
        self.body.exact_len().map(|rest| rest + first)
    }

    fn pass(&mut self, data: Bytes) -> Poll<Option<Result<Bytes, Cut>>> {
        self.between_events = data.ends_with(b"\n\n");
        if self.body.exact_len() == Some(0) {
            self.ended = Some(Ended::Well);
        }
        Poll::Ready(Some(Ok(data)))
    }

    fn poll_worker(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Cause>> {
        if let Poll::Ready(next) = self.body.poll_data(cx) {
            self.armed = false;
            if let (Some(pace), Some(Ok(data))) = (&mut self.pace, &next) {
                pace.bytes(data);
            }
            return Poll::Ready(next.transpose().map_err(|error| {
                Cause::Broken(format!("broke off in the middle of its answer: {}", full(&error)))
            }));
        }
        let patience = self.shared.config.idle_timeout;
        if !self.armed {
            self.silence.as_mut().reset(Instant::now() + patience);
            self.armed = true;
        }
        self.silence.as_mut().poll(cx).map(|()| Err(Cause::TimedOut(patience)))
    }

    /// Ends an answer of which the client has seen a part: with an error event where the client
    /// reads events, as vLLM ends its own failed streams; else by cutting the connection.
    fn cut(&mut self, cause: &Cause) -> Result<Bytes, Cut> {
        self.ended = Some(Ended::Cut);
        let worker = &self.slot.worker;
        note(&self.shared, worker, Kind::MidStream, cause);
        let what = format!("{} worker {} {}", worker.leg, worker.url, cause.describe());
        if !self.events || self.body.exact_len().is_some() {
            return Err(Cut(what));
        }
        // A blank line ends whatever event was under way.
        let gap = if self.between_events { "" } else { "\n\n" };
        let error = ErrorBody::bad_gateway(what).to_json();
        Ok(format!("{gap}data: {error}\n\ndata: [DONE]\n\n").into())
    }
}
