//! A worker's answer, read from the connection it comes on.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use hyper::Response;
use hyper::body::{Body, Incoming};
use hyper::http::response::Parts;

use super::{Connection, Pool};

/// The head of an answer, and its body to come.
pub(crate) struct Reply {
    pub(crate) head: Parts,
    pub(crate) body: ReplyBody,
}

/// The body of an answer. Read to its end, it gives the connection back to the pool; dropped
/// before that, it closes it.
pub(crate) struct ReplyBody {
    incoming: Incoming,
    connection: Option<Box<Connection>>,
    pool: Arc<Pool>,
}

/// A body that could not be read whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CollectError {
    /// The worker hung up, or broke the framing.
    #[error("broke off in the middle of its answer: {}", super::full(.0))]
    Broken(#[from] hyper::Error),
    /// The limit was passed; the rest was not read.
    #[error("answered more than {0} bytes")]
    TooLarge(usize),
}

impl Reply {
    pub(crate) fn new(
        answer: Response<Incoming>,
        connection: Box<Connection>,
        pool: Arc<Pool>,
    ) -> Self {
        let (head, incoming) = answer.into_parts();
        Self { head, body: ReplyBody { incoming, connection: Some(connection), pool } }
    }
}

impl ReplyBody {
    /// The next bytes; `None` at the end. Trailers are skipped.
    pub(crate) fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        loop {
            let Some(frame) = ready!(self.poll_frame(cx)) else {
                self.finish(cx);
                return Poll::Ready(None);
            };
            if let Ok(data) = frame?.into_data() {
                // Whoever knows the length may not ask for the end.
                if self.incoming.is_end_stream() {
                    self.finish(cx);
                }
                return Poll::Ready(Some(Ok(data)));
            }
        }
    }

    /// All of the body, up to a limit in bytes.
    pub(crate) async fn collect(mut self, limit: usize) -> Result<Bytes, CollectError> {
        let Some(first) = poll_fn(|cx| self.poll_data(cx)).await else { return Ok(Bytes::new()) };
        let first = first?;
        let Some(second) = poll_fn(|cx| self.poll_data(cx)).await else {
            return if first.len() > limit {
                Err(CollectError::TooLarge(limit))
            } else {
                Ok(first)
            };
        };
        let mut all = BytesMut::from(first);
        let mut next = Some(second);
        while let Some(data) = next {
            all.extend_from_slice(&data?);
            if all.len() > limit {
                return Err(CollectError::TooLarge(limit));
            }
            next = poll_fn(|cx| self.poll_data(cx)).await;
        }
        Ok(all.freeze())
    }

    /// Bytes still to come, where the worker announced them.
    pub(crate) fn exact_len(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, hyper::Error>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        // Asking has told the driver that there is room; now it may read.
        if let Some(connection) = &mut self.connection {
            connection.drive(cx);
        }
        Pin::new(&mut self.incoming).poll_frame(cx)
    }

    fn finish(&mut self, cx: &mut Context<'_>) {
        if let Some(mut connection) = self.connection.take()
            && connection.is_alive(cx)
        {
            self.pool.put_back(connection);
        }
    }
}
