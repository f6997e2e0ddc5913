//! Whom the load is for: address, kind of API, model, and what goes into every request.

use std::fmt;
use std::time::Duration;

use hyper::Uri;
use hyper::header::{HeaderName, HeaderValue};
use serde_json::{Map, Value};

use super::Error;

/// Which API is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Backend {
    /// `POST /v1/completions`; prompts as token ids.
    #[value(name = "openai")]
    OpenAi,
    /// `POST /v1/chat/completions`; prompts as text.
    #[value(name = "openai-chat")]
    OpenAiChat,
    /// The same as `openai`, under the name that vLLM also knows.
    #[value(name = "vllm")]
    Vllm,
}

impl Backend {
    /// Where requests go unless told otherwise.
    pub fn default_endpoint(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Vllm => "/v1/completions",
            Self::OpenAiChat => "/v1/chat/completions",
        }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::OpenAi => "openai",
            Self::OpenAiChat => "openai-chat",
            Self::Vllm => "vllm",
        })
    }
}

/// Whom the load is for. [`Target::new`] gives the defaults of `vllm bench serve`.
#[derive(Debug, Clone)]
pub struct Target {
    /// `http://host:port`, with a path prefix if the server has one.
    pub base_url: String,
    /// Path of the requests; [`Backend::default_endpoint`] if none.
    pub endpoint: Option<String>,
    /// Which API is spoken.
    pub backend: Backend,
    /// The model that the result names; the first one that the server lists if none.
    pub model: Option<String>,
    /// The model's name in requests, if another one.
    pub served_model_name: Option<String>,
    /// Headers of every request.
    pub headers: Vec<(String, String)>,
    /// Fields that are added to every request's body, or replace fields of it.
    pub extra_body: Map<String, Value>,
    /// Sends `ignore_eos`, so that outputs have the length that was asked for.
    pub ignore_eos: bool,
    /// `x-request-id` is this followed by the index of the request.
    pub request_id_prefix: String,
    /// A request that takes longer has failed.
    pub request_timeout: Duration,
}

/// vLLM's client gives up on a request after six hours
/// (`AIOHTTP_TIMEOUT` in
/// <https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/lib/endpoint_request_func.py>).
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(6 * 60 * 60);

impl Target {
    /// The OpenAI-compatible server at `base_url` with its first model.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            endpoint: None,
            backend: Backend::OpenAi,
            model: None,
            served_model_name: None,
            headers: Vec::new(),
            extra_body: Map::new(),
            ignore_eos: true,
            request_id_prefix: "bench-".to_owned(),
            request_timeout: REQUEST_TIMEOUT,
        }
    }

    /// The path and the address to connect to.
    pub(super) fn address(&self) -> Result<Address, Error> {
        let wrong = |problem: String| Error::config("--base-url", problem);
        let uri: Uri = self
            .base_url
            .parse()
            .map_err(|error| wrong(format!("{:?} is not a URL: {error}", self.base_url)))?;
        match uri.scheme_str() {
            Some("http") => {}
            Some("https") => {
                return Err(wrong(format!(
                    "{} needs TLS, which is not spoken here; give the http address, or put a \
                     TLS proxy in between",
                    self.base_url
                )));
            }
            _ => {
                let problem = format!("{:?} is not a URL; give http://host:port", self.base_url);
                return Err(wrong(problem));
            }
        }
        let host = uri.host().unwrap_or_default();
        Ok(Address {
            // An IPv6 address has brackets in a URL and none in a socket address.
            host: host.trim_matches(['[', ']']).to_owned(),
            port: uri.port_u16().unwrap_or(80),
            authority: uri.authority().map(ToString::to_string).unwrap_or_default(),
            prefix: uri.path().trim_end_matches('/').to_owned(),
        })
    }

    /// The endpoint, which always begins with a slash.
    pub(super) fn endpoint(&self) -> String {
        let endpoint = self.endpoint.as_deref().unwrap_or(self.backend.default_endpoint());
        format!("/{}", endpoint.trim_start_matches('/'))
    }

    /// The headers in hyper's types.
    pub(super) fn header_map(&self) -> Result<Vec<(HeaderName, HeaderValue)>, Error> {
        let parse = |(name, value): &(String, String)| {
            Some((name.parse::<HeaderName>().ok()?, value.parse::<HeaderValue>().ok()?))
        };
        self.headers
            .iter()
            .map(|header| {
                parse(header).ok_or_else(|| {
                    let problem = format!("{:?} is not a header name and value", header.0);
                    Error::config("--header", problem)
                })
            })
            .collect()
    }
}

/// A base URL taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
    /// As the `Host` header gives it.
    pub(super) authority: String,
    /// Path in front of every endpoint; empty or `/like/this`.
    pub(super) prefix: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let address = Target::new("http://[::1]:8000/gateway/").address().unwrap();
        let expected = Address {
            host: "::1".into(),
            port: 8000,
            authority: "[::1]:8000".into(),
            prefix: "/gateway".into(),
        };
        assert_eq!(address, expected);
        assert_eq!(Target::new("http://localhost").address().unwrap().port, 80);
    }

    #[test]
    fn wrong_urls_say_what_to_give() {
        for (url, cure) in [
            ("localhost:8000", "give http://host:port"),
            ("127.0.0.1", "give http://host:port"),
            ("https://x", "TLS proxy"),
            ("http://", "is not a URL"),
        ] {
            let error = Target::new(url).address().unwrap_err().to_string();
            assert!(error.contains(cure), "{url}: {error}");
        }
    }

    #[test]
    fn wrong_headers_are_named() {
        let mut target = Target::new("http://x");
        target.headers = vec![("a b".into(), "c".into())];
        assert!(target.header_map().unwrap_err().to_string().contains("\"a b\""));
    }
}
