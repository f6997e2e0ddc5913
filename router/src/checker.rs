//! Watches one worker for as long as the router serves.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{CONNECTION, HOST, HeaderValue};
use hyper::{Request, StatusCode, Uri};
use tokio::time::{sleep, timeout};

use crate::fleet::Worker;
use crate::health::Event;
use crate::legs::Pieces;
use crate::server::Shared;
use crate::upstream::full;

/// Checks a worker at intervals, and at once when a leg has failed. Never returns.
pub(crate) async fn watch(shared: Arc<Shared>, worker: Arc<Worker>) {
    let config = shared.config.health;
    loop {
        let checked = timeout(config.timeout, check(&worker)).await;
        let checked = checked.unwrap_or_else(|_| {
            Err(format!("did not answer its health check within {:?}", config.timeout))
        });
        let event = if checked.is_ok() { Event::CheckPassed } else { Event::CheckFailed };
        shared.fleet(worker.leg).record(&worker, event, checked.err());
        worker.pool.sweep().await;
        tokio::select! {
            () = sleep(config.interval) => {}
            () = worker.check_now.notified() => {}
        }
    }
}

/// One check, on a connection of its own: a worker that takes no new connections is not healthy.
async fn check(worker: &Worker) -> Result<(), String> {
    let mut connection = worker.pool.connect().await.map_err(|error| error.to_string())?;
    let mut request = Request::new(Pieces::from(Bytes::new()));
    *request.uri_mut() = Uri::from_static("/health");
    request.headers_mut().insert(HOST, worker.host.clone());
    request.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    let answer = connection
        .request(request)
        .await
        .map_err(|failed| format!("closed its health check: {}", full(&failed.error)))?;
    match answer.status() {
        StatusCode::OK => Ok(()),
        status => Err(format!("answered its health check with status {}", status.as_u16())),
    }
}
