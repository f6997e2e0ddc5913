//! Work counted by the process's own metrics, over HTTP.

use std::time::Duration;

use bytes::Bytes;
use hyper::Uri;

use super::WatchError;
use super::exposition::{Selector, readings};
use super::odometer::Odometer;
use crate::cluster::http::HttpClient;

/// Readings wait for the page. Servers make it in milliseconds; one that takes this long is down.
const PATIENCE: Duration = Duration::from_secs(2);

/// The page of a busy vLLM has some 100 kB. Whatever is larger than this is no page of metrics.
const PAGE_LIMIT_BYTES: usize = 16 << 20;

/// Names that are shown when the one asked for is not there.
const SHOWN: usize = 5;

/// A counter of a page of metrics.
#[derive(Debug)]
pub struct Metrics {
    client: HttpClient,
    url: String,
    selector: Selector,
    odometer: Odometer,
}

impl Metrics {
    /// Looks for `counter` at `url`.
    ///
    /// # Errors
    /// [`WatchError::Option`] if `url` is none or there is no such counter on the page;
    /// [`WatchError::Unavailable`] without a page.
    pub async fn open(url: &str, counter: &str) -> Result<Self, WatchError> {
        let selector: Selector = counter.parse().map_err(WatchError::Option)?;
        let uri: Uri = url
            .parse()
            .map_err(|error| WatchError::Option(format!("--metrics {url} is no URL: {error}")))?;
        if uri.scheme_str() != Some("http") || uri.host().is_none() {
            return Err(WatchError::Option(format!(
                "--metrics {url}: write http://HOST:PORT/metrics; https is not spoken here"
            )));
        }
        let (client, odometer) = (HttpClient::new(), Odometer::default());
        let mut metrics = Self { client, url: url.to_owned(), selector, odometer };
        let page = metrics.page().await.map_err(|reason| {
            WatchError::Unavailable(format!(
                "cannot read the metrics at {url}: {reason}; is the server up, and is this its page of metrics?"
            ))
        })?;
        let page = String::from_utf8_lossy(&page);
        if metrics.odometer.look(&metrics.selector, &page) {
            return Ok(metrics);
        }
        Err(WatchError::Option(metrics.missing(&page)))
    }

    /// What was counted since [`Metrics::open`].
    ///
    /// # Errors
    /// In words, if there is no page now, or the counter is not on it.
    pub async fn counted(&mut self) -> Result<u64, String> {
        let page = self.page().await?;
        if self.odometer.look(&self.selector, &String::from_utf8_lossy(&page)) {
            Ok(self.odometer.counted())
        } else {
            Err(format!("{} is no longer on the page", self.selector))
        }
    }

    /// How often the counter began anew.
    pub fn resets(&self) -> u64 {
        self.odometer.resets()
    }

    /// Where it is read.
    pub fn url(&self) -> &str {
        &self.url
    }

    async fn page(&self) -> Result<Bytes, String> {
        self.client.fetch(&self.url, PATIENCE, PAGE_LIMIT_BYTES).await
    }

    fn missing(&self, page: &str) -> String {
        let (selector, url) = (&self.selector, &self.url);
        if readings(page).next().is_none() {
            return format!(
                "{url} is no page of metrics: it has no line of the Prometheus text format"
            );
        }
        let nearest = selector.nearest(page, SHOWN).join(", ");
        format!("there is no counter {selector} at {url}; the nearest names are {nearest}")
    }
}
