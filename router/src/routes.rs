//! Which path does what, and the answers that need no worker.

use std::convert::Infallible;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{ALLOW, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use pdlab_api::VLLM_VERSION;
use pdlab_api::error::ErrorBody;

use crate::answer::{Answer, error, guarded, json, whole};
use crate::server::Shared;
use crate::{forward, single, ui};

/// A path whose requests go to workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Completions,
    Chat,
    Models,
    Tokenize,
    Detokenize,
}

/// A path that the router answers itself.
#[derive(Debug, Clone, Copy)]
enum Local {
    Health,
    Healthcheck,
    Version,
    Metrics,
    Snapshot,
}

enum Target {
    Workers(Route),
    Local(Local),
}

/// The content type of the OpenMetrics text format that `prometheus-client` writes.
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Answers a request.
pub(crate) async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Answer>, Infallible> {
    let path = request.uri().path();
    if let Some(page) = shared.ui.as_ref().filter(|_| ui::is_ours(path)) {
        return Ok(ui::serve(&shared, page, request).await);
    }
    let Some(target) = target(path) else {
        // FastAPI's phrase, which vLLM answers with where it has no route either.
        let message = format!("Not Found: the router has no route {path}");
        return Ok(error(&ErrorBody::new(404, "Not Found", message)));
    };
    let allowed = match &target {
        Target::Workers(route) => route.method(),
        Target::Local(_) => Method::GET,
    };
    if request.method() != allowed {
        let message = format!("Method Not Allowed: {path} takes {allowed}");
        let mut answer = error(&ErrorBody::new(405, "Method Not Allowed", message));
        let allow = HeaderValue::from_str(allowed.as_str()).expect("method names are tokens");
        answer.headers_mut().insert(ALLOW, allow);
        return Ok(answer);
    }
    Ok(match target {
        Target::Local(local) => answer_here(&shared, local),
        Target::Workers(route) => {
            // Before anything is awaited: a client that goes away now is counted too.
            let guard = shared.metrics.request(route);
            let answer = if route.has_two_legs() {
                forward::generate(&shared, route, request).await
            } else {
                single::pass_on(&shared, route, request).await
            };
            guarded(answer, guard)
        }
    })
}

fn target(path: &str) -> Option<Target> {
    let local = match path {
        "/health" => Local::Health,
        "/healthcheck" => Local::Healthcheck,
        "/version" => Local::Version,
        "/metrics" => Local::Metrics,
        "/pdlab/snapshot" => Local::Snapshot,
        _ => {
            let route = Route::ALL.into_iter().find(|route| route.path() == path)?;
            return Some(Target::Workers(route));
        }
    };
    Some(Target::Local(local))
}

fn answer_here(shared: &Shared, local: Local) -> Response<Answer> {
    match local {
        Local::Health => health(shared),
        // The shape, and the meaning, of vLLM's toy proxy: how many were configured.
        Local::Healthcheck => {
            let (prefill, decode) = (shared.config.prefill.len(), shared.config.decode.len());
            let body = serde_json::json!({
                "status": "ok", "prefill_instances": prefill, "decode_instances": decode,
            });
            json(StatusCode::OK, body.to_string())
        }
        Local::Version => {
            json(StatusCode::OK, serde_json::json!({ "version": VLLM_VERSION }).to_string())
        }
        Local::Metrics => whole(StatusCode::OK, OPENMETRICS, shared.metrics.text()),
        Local::Snapshot => match serde_json::to_string(&shared.snapshot()) {
            Ok(body) => json(StatusCode::OK, body),
            Err(problem) => error(&ErrorBody::internal(problem.to_string())),
        },
    }
}

/// 200 when a request could be served, with an empty body as vLLM's.
fn health(shared: &Shared) -> Response<Answer> {
    let without: Vec<_> = [&shared.prefill, &shared.decode]
        .into_iter()
        .filter(|fleet| !fleet.any_healthy())
        .map(|fleet| fleet.unhealthy())
        .collect();
    if without.is_empty() {
        return whole(StatusCode::OK, "text/plain", "");
    }
    let message = format!("no request can be served: {}", without.join("; "));
    error(&ErrorBody::unavailable(message))
}

impl Route {
    /// Every route, in the order of its declaration: `route as usize` is its place.
    pub(crate) const ALL: [Route; 5] =
        [Route::Completions, Route::Chat, Route::Models, Route::Tokenize, Route::Detokenize];

    pub(crate) fn path(self) -> &'static str {
        match self {
            Route::Completions => "/v1/completions",
            Route::Chat => "/v1/chat/completions",
            Route::Models => "/v1/models",
            Route::Tokenize => "/tokenize",
            Route::Detokenize => "/detokenize",
        }
    }

    pub(crate) fn method(self) -> Method {
        match self {
            Route::Models => Method::GET,
            _ => Method::POST,
        }
    }

    /// Goes to prefill and decode, not to decode alone.
    pub(crate) fn has_two_legs(self) -> bool {
        matches!(self, Route::Completions | Route::Chat)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes_are_found_by_their_own_path_and_place() {
        for (place, route) in Route::ALL.into_iter().enumerate() {
            assert!(matches!(target(route.path()), Some(Target::Workers(found)) if found == route));
            assert_eq!(route as usize, place);
        }
        assert!(target("/v1/completions/").is_none());
    }
}
