//! What goes back to the client.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Response, StatusCode};
use pdlab_api::error::ErrorBody;

use crate::metrics::RequestGuard;
use crate::relay::{Cut, Relay};

/// The body of an answer, and the request's guard: a request is in flight until its answer is out.
pub(crate) struct Answer {
    source: Source,
    /// With the status to count when the body is out.
    guard: Option<(RequestGuard, StatusCode)>,
}

enum Source {
    Whole(Option<Bytes>),
    Relayed(Box<Relay>),
}

/// An answer that is known in full.
pub(crate) fn whole(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Answer> {
    let mut response = Response::new(Answer::whole(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: impl Into<Bytes>) -> Response<Answer> {
    whole(status, "application/json", body)
}

/// An error, with the status that its body names.
pub(crate) fn error(body: &ErrorBody) -> Response<Answer> {
    let status = StatusCode::from_u16(body.error.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    json(status, body.to_json())
}

/// Lets the request count as in flight until the answer is out.
pub(crate) fn guarded(mut response: Response<Answer>, guard: RequestGuard) -> Response<Answer> {
    let status = response.status();
    let answer = response.body_mut();
    answer.guard = Some((guard, status));
    if answer.is_end_stream() {
        answer.complete();
    }
    response
}

impl Answer {
    pub(crate) fn whole(body: Bytes) -> Self {
        Self { source: Source::Whole(Some(body).filter(|body| !body.is_empty())), guard: None }
    }

    pub(crate) fn relayed(relay: Relay) -> Self {
        Self { source: Source::Relayed(Box::new(relay)), guard: None }
    }

    fn complete(&mut self) {
        let cut = matches!(&self.source, Source::Relayed(relay) if relay.was_cut());
        match &mut self.guard {
            Some((guard, _)) if cut => guard.cut(),
            Some((guard, status)) => guard.complete(*status),
            None => {}
        }
    }
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let next = match &mut self.source {
            Source::Whole(body) => body.take().map(Ok),
            Source::Relayed(relay) => ready!(relay.poll_data(cx)),
        };
        // The writer stops asking once it has the announced length.
        if next.is_none() || self.is_end_stream() {
            self.complete();
        }
        Poll::Ready(next.map(|data| data.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Whole(body) => body.is_none(),
            Source::Relayed(relay) => relay.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let exact = match &self.source {
            Source::Whole(body) => Some(body.as_ref().map_or(0, |body| body.len() as u64)),
            Source::Relayed(relay) => relay.exact_len(),
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
