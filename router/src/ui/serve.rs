//! The paths of the live page.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, Response, StatusCode, Uri};
use pdlab_api::error::ErrorBody;
use pdlab_api::live::MemoryReport;
use tokio::time::Instant;

use super::Ui;
use crate::answer::{Answer, error, json, whole};
use crate::config::RouterConfig;
use crate::intake;
use crate::server::Shared;

/// The page, its script and its style: everything that it needs.
const PAGE: &str = include_str!("page.html");
const SCRIPT: &str = include_str!("page.js");
const STYLE: &str = include_str!("page.css");

/// Nothing from elsewhere, nothing inline, in nobody's frame
/// (<https://developer.mozilla.org/en-US/docs/Web/HTTP/Reference/Headers/Content-Security-Policy>).
/// `data:` is for the icon.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                      img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A report of 129 processes has 60 KB.
const REPORT_LIMIT_BYTES: usize = 256 << 10;

/// Whether this path belongs to the page.
pub(crate) fn is_ours(path: &str) -> bool {
    path == "/ui" || path.starts_with("/ui/")
}

/// Answers a request for such a path.
pub(crate) async fn serve(
    shared: &Arc<Shared>,
    ui: &Ui,
    request: Request<Incoming>,
) -> Response<Answer> {
    let path = request.uri().path();
    let allowed = if path == "/ui/memory" { Method::POST } else { Method::GET };
    let mut answer = if request.method() != allowed {
        let message = format!("Method Not Allowed: {path} takes {allowed}");
        let mut answer = error(&ErrorBody::new(405, "Method Not Allowed", message));
        let allow = HeaderValue::from_str(allowed.as_str()).expect("method names are tokens");
        answer.headers_mut().insert(ALLOW, allow);
        answer
    } else {
        match path {
            "/ui" => whole(StatusCode::OK, "text/html; charset=utf-8", PAGE),
            "/ui/page.js" => whole(StatusCode::OK, "text/javascript; charset=utf-8", SCRIPT),
            "/ui/page.css" => whole(StatusCode::OK, "text/css; charset=utf-8", STYLE),
            "/ui/state" => state(ui, request.uri()),
            "/ui/memory" => memory(&shared.config, ui, request).await,
            _ => {
                let message = format!("Not Found: the live page is at /ui, and has no {path}");
                error(&ErrorBody::new(404, "Not Found", message))
            }
        }
    };
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (CACHE_CONTROL, "no-store"),
    ] {
        let (name, value): (HeaderName, _) = (name, HeaderValue::from_static(value));
        answer.headers_mut().insert(name, value);
    }
    answer
}

fn state(ui: &Ui, uri: &Uri) -> Response<Answer> {
    let after = match after(uri.query().unwrap_or_default()) {
        Ok(after) => after,
        Err(problem) => return error(&ErrorBody::bad_request(problem)),
    };
    match serde_json::to_string(&ui.state(after)) {
        Ok(body) => json(StatusCode::OK, body),
        Err(problem) => error(&ErrorBody::internal(problem.to_string())),
    }
}

/// The number in `after=N`; 0 without.
fn after(query: &str) -> Result<u64, String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    match pairs.find(|(name, _)| *name == "after") {
        None => Ok(0),
        Some((_, value)) => value
            .parse()
            .map_err(|_| "after must be a whole number: `next` of the answer before".to_owned()),
    }
}

async fn memory(config: &RouterConfig, ui: &Ui, request: Request<Incoming>) -> Response<Answer> {
    let (head, body) = request.into_parts();
    // A page of another site can send text, but not JSON, without asking first, and is not
    // answered then.
    let kind = head.headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    if !kind.starts_with(b"application/json") {
        let message = "a report of memory must be application/json".to_owned();
        return error(&ErrorBody::new(415, "Unsupported Media Type", message));
    }
    let read = intake::read(&head.headers, body, REPORT_LIMIT_BYTES, config.client_timeout);
    let body = match read.await {
        Ok(body) => body,
        Err(problem) => return error(&problem),
    };
    let report: MemoryReport = match serde_json::from_slice(&body) {
        Ok(report) => report,
        Err(problem) => {
            return error(&ErrorBody::bad_request(format!("no report of memory: {problem}")));
        }
    };
    match ui.take_memory(report, Instant::now()) {
        Ok(()) => json(StatusCode::OK, "{}"),
        Err(stranger) => {
            let message = format!("the router has no process `{stranger}`; nothing was taken");
            error(&ErrorBody::bad_request(message))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_numbers_say_what_was_seen() {
        assert_eq!(after(""), Ok(0));
        assert_eq!(after("x=1&after=7"), Ok(7));
        for query in ["after=", "after=-1", "after=1.5", "after=99999999999999999999"] {
            assert!(after(query).is_err(), "{query}");
        }
    }

    #[test]
    fn the_page_needs_nothing_from_elsewhere_and_has_nothing_inline() {
        for part in [PAGE, SCRIPT, STYLE] {
            let from_elsewhere = part
                .match_indices("://")
                .map(|(at, _)| &part[at.saturating_sub(5)..(at + 20).min(part.len())])
                .filter(|around| !around.contains("http://www.w3.org"));
            assert_eq!(from_elsewhere.collect::<Vec<_>>(), [""; 0]);
        }
        for inline in ["<style", " style=", " onclick=", "<script>"] {
            assert!(!PAGE.contains(inline), "{inline}");
        }
    }
}
