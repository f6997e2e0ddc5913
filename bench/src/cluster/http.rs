//! The few requests that a cluster sends to its roles.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::ClusterError;

/// A role on the same machine answers in milliseconds; one that takes this long is stuck.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A snapshot has a few hundred bytes, a list of 60,000 memory regions 3 MB; whatever is larger than
/// this is neither.
const ANSWER_LIMIT_BYTES: usize = 8 << 20;

/// An HTTP client that keeps its connections.
#[derive(Debug, Clone)]
pub struct HttpClient {
    client: Client<HttpConnector, Full<Bytes>>,
}

impl HttpClient {
    /// A client without connections.
    #[expect(clippy::new_without_default, reason = "a client is made, not defaulted")]
    pub fn new() -> Self {
        Self { client: Client::builder(TokioExecutor::new()).build_http() }
    }

    /// The body of `GET url`; `role` names the asked one in errors.
    ///
    /// # Errors
    /// [`ClusterError::Http`] without an answer, on a status other than 200, on a body that is
    /// too large.
    pub async fn get(&self, role: &str, url: &str) -> Result<Bytes, ClusterError> {
        self.ask(role, url, Request::default()).await
    }

    /// Sends `content` as JSON with `POST url`.
    ///
    /// # Errors
    /// Those of [`HttpClient::get`].
    pub async fn post_json(
        &self,
        role: &str,
        url: &str,
        content: &impl Serialize,
    ) -> Result<(), ClusterError> {
        let json = serde_json::to_vec(content).map_err(|e| failed(role, url, e.to_string()))?;
        let mut request = Request::new(Full::from(json));
        *request.method_mut() = Method::POST;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        self.ask(role, url, request).await.map(|_| ())
    }

    async fn ask(
        &self,
        role: &str,
        url: &str,
        request: Request<Full<Bytes>>,
    ) -> Result<Bytes, ClusterError> {
        match tokio::time::timeout(TIMEOUT, self.exchange(url, request, ANSWER_LIMIT_BYTES)).await {
            Ok(answer) => answer.map_err(|reason| failed(role, url, reason)),
            Err(_) => Err(failed(role, url, format!("no answer within {} s", TIMEOUT.as_secs()))),
        }
    }

    /// `GET url`, parsed.
    ///
    /// # Errors
    /// Those of [`HttpClient::get`], and an answer of another shape.
    pub async fn get_json<T: DeserializeOwned>(
        &self,
        role: &str,
        url: &str,
    ) -> Result<T, ClusterError> {
        let body = self.get(role, url).await?;
        serde_json::from_slice(&body).map_err(|source| failed(role, url, source.to_string()))
    }

    /// The body of `GET url` on a server that is none of a cluster's: as much as `limit_bytes`, within `patience`.
    ///
    /// # Errors
    /// In words: no URL, no answer, a status other than 200, a body that is too large.
    pub async fn fetch(
        &self,
        url: &str,
        patience: Duration,
        limit_bytes: usize,
    ) -> Result<Bytes, String> {
        match tokio::time::timeout(patience, self.exchange(url, Request::default(), limit_bytes))
            .await
        {
            Ok(answer) => answer,
            Err(_) => Err(format!("no answer within {:.0} s", patience.as_secs_f64())),
        }
    }

    async fn exchange(
        &self,
        url: &str,
        mut request: Request<Full<Bytes>>,
        limit_bytes: usize,
    ) -> Result<Bytes, String> {
        let url: Uri = url.parse().map_err(|source| format!("no URL: {source}"))?;
        *request.uri_mut() = url;
        let response = self.client.request(request).await.map_err(|source| causes(&source))?;
        let status = response.status();
        let body = Limited::new(response.into_body(), limit_bytes).collect().await;
        let body = body.map_err(|source| source.to_string())?.to_bytes();
        if status == StatusCode::OK {
            return Ok(body);
        }
        let text: String = String::from_utf8_lossy(&body).chars().take(200).collect();
        Err(format!("status {status}: {text}"))
    }
}

fn failed(role: &str, url: &str, reason: String) -> ClusterError {
    ClusterError::Http { role: role.to_owned(), url: url.to_owned(), reason }
}

/// hyper's own message says "client error (Connect)"; the cause below it says why.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
