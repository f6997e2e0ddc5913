//! One request to one worker.

use std::sync::Arc;
use std::time::Duration;

use hyper::header::HOST;
use hyper::{HeaderMap, Method, Request, Response, Uri};
use tokio::time::{Instant, timeout};

use crate::answer::Answer;
use crate::failure::Cause;
use crate::fleet::{Slot, Worker};
use crate::headers;
use crate::legs::{Pieces, opens_with_failure};
use crate::relay::Relay;
use crate::routes::Route;
use crate::server::Shared;
use crate::ui::Pace;
use crate::upstream::Reply;

/// What all requests to workers on behalf of one client request have in common.
pub(crate) struct Call {
    shared: Arc<Shared>,
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// When the client's request was there.
    arrived: Instant,
}

impl Call {
    pub(crate) fn new(shared: &Arc<Shared>, route: Route, client: &HeaderMap) -> Self {
        let key = shared.config.worker_api_key.as_ref();
        Self {
            shared: shared.clone(),
            method: route.method(),
            uri: Uri::from_static(route.path()),
            headers: headers::to_workers(client, || shared.request_ids.next(), key),
            arrived: Instant::now(),
        }
    }

    /// Sends to a worker and waits for the head of its answer.
    pub(crate) async fn send(
        &self,
        worker: &Worker,
        body: Pieces,
        patience: Duration,
    ) -> Result<Reply, Cause> {
        let mut request = Request::new(body);
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request.headers_mut().insert(HOST, worker.host.clone());
        match timeout(patience, worker.pool.send(request)).await {
            Ok(sent) => sent.map_err(Cause::from),
            Err(_) => Err(Cause::TimedOut(patience)),
        }
    }

    /// Sends to a worker and relays its answer, once there is a first byte of it.
    ///
    /// Fails with [`Cause::Answered`] when the worker says that it failed, be it by a status 5xx or
    /// by an event stream that opens with such an error.
    pub(crate) async fn relay(&self, slot: Slot, body: Pieces) -> Result<Response<Answer>, Cause> {
        let patience = self.shared.config.idle_timeout;
        let reply = self.send(&slot.worker, body, patience).await?;
        let status = reply.head.status;
        let headers = headers::to_client(reply.head.headers);
        let mut relay = Relay::new(reply.body, &headers, slot, self.shared.clone());
        let events = relay.has_events();
        let failed = match relay.first().await? {
            None if status.is_success() => {
                return Err(Cause::garbage(format!("an empty body with status {status}"), b""));
            }
            first => {
                status.is_server_error()
                    || (events && first.is_some_and(|first| opens_with_failure(first)))
            }
        };
        if events && !failed {
            relay.timed(Pace::begin(&self.shared, self.arrived));
        }
        let mut response = Response::new(Answer::relayed(relay));
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        if failed { Err(Cause::Answered(Box::new(response))) } else { Ok(response) }
    }
}
