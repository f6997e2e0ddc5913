//! Which headers cross the router.

use hyper::HeaderMap;
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderName, HeaderValue, PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};

use crate::config::ApiKey;

/// Identifies a request on both legs.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What workers act on, besides the request id. `X-Data-Parallel-Rank` is not among them: a rank
/// of prefill says nothing about a rank of decode. Nor is `Accept-Encoding`: bodies are passed on
/// as they are.
const TO_WORKERS: [HeaderName; 6] = [
    AUTHORIZATION,
    CONTENT_TYPE,
    HeaderName::from_static("x-session-id"),
    HeaderName::from_static("x-vllm-priority"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// Headers about one connection, which end at the router
/// (<https://www.rfc-editor.org/rfc/rfc9110#name-connection>).
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRAILER,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The headers that every leg of a client's request carries.
pub(crate) fn to_workers(
    client: &HeaderMap,
    fresh_id: impl FnOnce() -> HeaderValue,
    key: Option<&ApiKey>,
) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(8);
    for name in TO_WORKERS {
        if let Some(value) = client.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    headers.entry(CONTENT_TYPE).or_insert(HeaderValue::from_static("application/json"));
    if let Some(key) = key {
        headers.entry(AUTHORIZATION).or_insert_with(|| key.header());
    }
    let id = client.get(X_REQUEST_ID).filter(|id| !id.is_empty()).cloned();
    headers.insert(X_REQUEST_ID, id.unwrap_or_else(fresh_id));
    headers
}

/// A worker's headers without those that end here.
pub(crate) fn to_client(mut worker: HeaderMap) -> HeaderMap {
    let named: Vec<HeaderName> = worker
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in HOP_BY_HOP.iter().chain(&named) {
        worker.remove(name);
    }
    worker
}

/// The body is a stream of server-sent events.
pub(crate) fn is_event_stream(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let stream = b"text/event-stream";
    kind.len() >= stream.len() && kind[..stream.len()].eq_ignore_ascii_case(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn the_clients_id_and_key_win() {
        let key = ApiKey::new("ours").unwrap();
        let client =
            map(&[("x-request-id", "mine"), ("authorization", "Bearer theirs"), ("cookie", "c")]);
        let sent = to_workers(&client, || "fresh".parse().unwrap(), Some(&key));
        assert_eq!(
            (&sent["x-request-id"], &sent["authorization"]),
            (&"mine".parse().unwrap(), &"Bearer theirs".parse().unwrap())
        );
        assert!(!sent.contains_key("cookie"));
        assert_eq!(sent["content-type"], "application/json");
        let sent =
            to_workers(&map(&[("x-request-id", "")]), || "fresh".parse().unwrap(), Some(&key));
        assert_eq!(sent["x-request-id"], "fresh");
        assert_eq!(sent["authorization"], "Bearer ours");
    }

    #[test]
    fn connection_headers_end_here() {
        let worker = map(&[
            ("connection", "keep-alive, X-Odd"),
            ("x-odd", "1"),
            ("transfer-encoding", "chunked"),
            ("content-type", "text/event-stream; charset=utf-8"),
        ]);
        let sent = to_client(worker);
        assert!(is_event_stream(&sent));
        assert_eq!(sent.len(), 1);
        assert!(!is_event_stream(&map(&[("content-type", "text/plain")])));
    }
}
