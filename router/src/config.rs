//! Everything about the router that can be set.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;

use crate::error::Error;
use crate::policy::PolicyKind;

/// The router's settings. [`RouterConfig::new`] gives every field but the addresses its default.
#[derive(Debug, Clone)]
pub struct RouterConfig {
    /// Where to listen. Port 0 takes any free port; [`Router::local_addr`](crate::Router::local_addr)
    /// says which.
    pub listen: SocketAddr,
    /// The prefill workers, at least one.
    pub prefill: Vec<WorkerUrl>,
    /// The decode workers, at least one.
    pub decode: Vec<WorkerUrl>,
    /// How a worker is chosen among those that are healthy. Default: round robin.
    pub policy: PolicyKind,
    /// The largest request body taken, in bytes; a larger one is answered 413. It also bounds the
    /// answer of a prefill leg, which is held in memory. Default: 64 MiB, room for a prompt of
    /// several million token ids.
    pub max_body_bytes: usize,
    /// Client connections at once. Further clients wait in the listen backlog. Default: 16,384.
    pub max_connections: usize,
    /// Unused connections kept open to each worker. More are opened under load and closed after
    /// it. Default: 1,024.
    pub max_idle_per_worker: usize,
    /// Further attempts for a request whose client has not seen a byte. Each costs a whole prefill
    /// leg, and its predecessor's KV blocks stay pinned until their lease ends. Default: 2.
    pub retries: u32,
    /// Longest wait for a connection to a worker. Default: 3 s.
    pub connect_timeout: Duration,
    /// Longest prefill leg, from sending it to the last byte of its answer. Default: 300 s.
    pub prefill_timeout: Duration,
    /// Longest silence of a decode worker, before the first byte and between two. Default: 300 s,
    /// because a request may wait in decode's queue.
    pub idle_timeout: Duration,
    /// Longest silence of a client: between requests on one connection, within a request's head,
    /// and within its body. Default: 75 s.
    pub client_timeout: Duration,
    /// How long an unused connection to a worker is kept. It must be shorter than the worker's own
    /// limit, or requests meet connections that are just being closed. Default: 4 s, because vLLM
    /// closes after 5 (`VLLM_HTTP_TIMEOUT_KEEP_ALIVE`,
    /// <https://docs.vllm.ai/en/latest/configuration/env_vars/>).
    pub worker_keep_alive: Duration,
    /// How long requests in flight may go on after shutdown was asked for; then they are cut.
    /// Default: 30 s.
    pub drain_timeout: Duration,
    /// How workers are watched.
    pub health: HealthConfig,
    /// Sent to workers as `Authorization: Bearer KEY` for clients that send no `Authorization` of
    /// their own. Default: none.
    pub worker_api_key: Option<ApiKey>,
    /// Seed of the request ids made for clients that send no `X-Request-Id`. Two routers with one
    /// seed make the same ids, so it is for replaying a run, not for serving. Default: none, which
    /// takes it from the system.
    pub request_id_seed: Option<u64>,
    /// Serve the live page at `/ui`, and look at the workers once a second for it. Whoever reaches
    /// the router can read it, and can report memory to it. Default: no.
    pub ui: bool,
}

/// How workers are watched: `GET /health` on a fresh connection, again and again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HealthConfig {
    /// Pause between two checks of a worker. A failed leg brings the next one forward. Default: 2 s.
    pub interval: Duration,
    /// Longest wait for a check's answer. Default: 5 s, as in vLLM's router; a busy Python server
    /// can be slow to answer and healthy all the same.
    pub timeout: Duration,
    /// Failed checks in a row that take a healthy worker out. Default: 3, as in vLLM's router.
    pub failure_threshold: u32,
    /// Passed checks in a row that bring it back. Default: 2, as in vLLM's router.
    pub success_threshold: u32,
}

impl Default for HealthConfig {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(2),
            timeout: Duration::from_secs(5),
            failure_threshold: 3,
            success_threshold: 2,
        }
    }
}

impl RouterConfig {
    /// The defaults, for these addresses.
    pub fn new(listen: SocketAddr, prefill: Vec<WorkerUrl>, decode: Vec<WorkerUrl>) -> Self {
        Self {
            listen,
            prefill,
            decode,
            policy: PolicyKind::RoundRobin,
            max_body_bytes: 64 << 20,
            max_connections: 16_384,
            max_idle_per_worker: 1_024,
            retries: 2,
            connect_timeout: Duration::from_secs(3),
            prefill_timeout: Duration::from_secs(300),
            idle_timeout: Duration::from_secs(300),
            client_timeout: Duration::from_secs(75),
            worker_keep_alive: Duration::from_secs(4),
            drain_timeout: Duration::from_secs(30),
            health: HealthConfig::default(),
            worker_api_key: None,
            request_id_seed: None,
            ui: false,
        }
    }

    /// Refuses what cannot work, naming the field.
    pub fn validate(&self) -> Result<(), Error> {
        let wrong = |setting, problem: String| Err(Error::Setting { setting, problem });
        for (setting, urls) in [("prefill", &self.prefill), ("decode", &self.decode)] {
            if urls.is_empty() {
                return wrong(setting, "give the address of at least one worker".to_owned());
            }
            if let Some(twice) =
                urls.iter().enumerate().find_map(|(i, url)| urls[..i].contains(url).then_some(url))
            {
                return wrong(setting, format!("{twice} is listed twice; list each worker once"));
            }
        }
        for (setting, value) in [
            ("max_body_bytes", self.max_body_bytes),
            ("max_connections", self.max_connections),
            ("health.failure_threshold", self.health.failure_threshold as usize),
            ("health.success_threshold", self.health.success_threshold as usize),
        ] {
            if value == 0 {
                return wrong(setting, "is 0; it must be at least 1".to_owned());
            }
        }
        for (setting, value) in [
            ("connect_timeout", self.connect_timeout),
            ("prefill_timeout", self.prefill_timeout),
            ("idle_timeout", self.idle_timeout),
            ("client_timeout", self.client_timeout),
            ("health.interval", self.health.interval),
            ("health.timeout", self.health.timeout),
        ] {
            if value.is_zero() {
                return wrong(setting, "is 0; nothing would ever be in time".to_owned());
            }
        }
        Ok(())
    }
}

/// The address of a worker, as `http://HOST:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WorkerUrl {
    authority: String,
}

impl WorkerUrl {
    /// `HOST:PORT`, which is both what to connect to and the `Host` header.
    pub fn authority(&self) -> &str {
        &self.authority
    }
}

impl fmt::Display for WorkerUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http://{}", self.authority)
    }
}

impl From<SocketAddr> for WorkerUrl {
    fn from(addr: SocketAddr) -> Self {
        Self { authority: addr.to_string() }
    }
}

impl FromStr for WorkerUrl {
    type Err = Error;

    /// Takes `http://HOST:PORT`, with or without a slash at the end, or `HOST:PORT`.
    fn from_str(url: &str) -> Result<Self, Error> {
        let wrong = |problem| Error::WorkerUrl { url: url.to_owned(), problem };
        let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
        let uri: Uri = full.parse().map_err(|_| wrong("is not a URL"))?;
        if uri.scheme_str() != Some("http") {
            return Err(wrong("only http is spoken to workers"));
        }
        if uri.query().is_some() || !matches!(uri.path(), "" | "/") {
            return Err(wrong("has a path, but the router appends its own"));
        }
        let authority = uri.authority().ok_or_else(|| wrong("has no host"))?;
        if authority.as_str().contains('@') {
            return Err(wrong("has a user name, which workers do not take"));
        }
        if authority.host().is_empty() || authority.port_u16().is_none() {
            return Err(wrong("has no port"));
        }
        Ok(Self { authority: authority.as_str().to_owned() })
    }
}

/// A key for the workers. It does not show in `Debug` output.
#[derive(Debug, Clone)]
pub struct ApiKey(HeaderValue);

impl ApiKey {
    /// Takes the bare key, without `Bearer`. Fails when it cannot stand in an HTTP header.
    pub fn new(key: &str) -> Result<Self, Error> {
        let mut value =
            HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| Error::Setting {
                setting: "worker_api_key",
                problem: "has characters that cannot stand in an HTTP header".to_owned(),
            })?;
        value.set_sensitive(true);
        Ok(Self(value))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn header(&self) -> HeaderValue {
        self.0.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> RouterConfig {
        let url = |port: u16| WorkerUrl::from(SocketAddr::from(([127, 0, 0, 1], port)));
        RouterConfig::new(([127, 0, 0, 1], 0).into(), vec![url(1)], vec![url(2)])
    }

    #[test]
    fn addresses_come_with_and_without_scheme() {
        for text in ["http://127.0.0.1:8100", "127.0.0.1:8100", "http://127.0.0.1:8100/"] {
            assert_eq!(text.parse::<WorkerUrl>().unwrap().to_string(), "http://127.0.0.1:8100");
        }
        assert_eq!("http://[::1]:80".parse::<WorkerUrl>().unwrap().authority(), "[::1]:80");
    }

    #[test]
    fn wrong_addresses_say_why() {
        for (text, problem) in [
            ("https://a:1", "only http"),
            ("http://a", "no port"),
            ("http://a:1/v1", "path"),
            ("http://u@a:1", "user name"),
            ("http://a:99999", "no"),
            ("", "not a URL"),
            ("a b", "not a URL"),
        ] {
            let error = text.parse::<WorkerUrl>().unwrap_err().to_string();
            assert!(error.contains(problem) && error.contains(text), "{text}: {error}");
        }
    }

    #[test]
    fn settings_that_cannot_work_are_named() {
        config().validate().unwrap();
        type Breakage = fn(&mut RouterConfig);
        let broken: [(&str, Breakage); 5] = [
            ("`decode`", |c| c.decode.clear()),
            ("`prefill`", |c| c.prefill.push(c.prefill[0].clone())),
            ("`max_body_bytes`", |c| c.max_body_bytes = 0),
            ("`idle_timeout`", |c| c.idle_timeout = Duration::ZERO),
            ("`health.success_threshold`", |c| c.health.success_threshold = 0),
        ];
        for (name, breakage) in broken {
            let mut config = config();
            breakage(&mut config);
            let error = config.validate().unwrap_err().to_string();
            assert!(error.contains(name), "{error}");
        }
    }

    #[test]
    fn keys_stay_out_of_logs() {
        let key = ApiKey::new("secret").unwrap();
        assert!(!format!("{key:?}").contains("secret"));
        assert_eq!(key.header(), "Bearer secret");
        assert!(ApiKey::new("a\nb").is_err());
    }
}
