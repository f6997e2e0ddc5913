//! Who is watched during a soak, and what the verdict on each is.

use std::sync::Arc;
use std::time::Instant;

use pdlab_api::snapshot::Snapshot;
use pdlab_leak::explain;
use pdlab_leak::rdma::Census;
use pdlab_leak::sample::Sample;
use pdlab_leak::sampler::Watched;
use pdlab_leak::work::{Unit, Work};
use serde_json::{Value, json};

use crate::cluster::http::HttpClient;
use crate::growth::{self, Finding};
use crate::repro::pairing::{Counted, interpolate};
use crate::serve::Error;

/// Slopes within this many bytes per unit are clean: what the scenarios of healthy servers allow
/// per request (`leak/scenarios/control-healthy-tcp.toml`).
const MARGIN_BYTES: f64 = 256.0;

/// Readings that are kept of a process. Beyond them every second one is dropped, and from then on
/// only every second one is kept.
const MOST_SAMPLES: usize = 400;

/// The processes under watch.
#[derive(Debug)]
pub struct Eyes {
    client: HttpClient,
    began: Instant,
    census: Census,
    eyes: Vec<Eye>,
}

/// One process.
#[derive(Debug)]
struct Eye {
    label: String,
    /// Where its counters are asked for; none for a process that has none, or is this one.
    url: Option<String>,
    unit: Unit,
    watched: Arc<Watched>,
    samples: Thinned,
    /// Why there are no more readings.
    gone: Option<String>,
}

/// A process with its verdict so far.
#[derive(Debug, Clone, PartialEq)]
pub struct Role {
    /// Its name.
    pub label: String,
    /// Its number.
    pub pid: u32,
    /// The verdict on its memory, or on what it leaks of RDMA devices.
    pub finding: Finding,
    /// Resident memory at the first and at the last reading, in bytes.
    pub rss_bytes: [u64; 2],
    /// Why it is read no more.
    pub gone: Option<String>,
}

impl Eyes {
    /// This process, and `named`: the HTTP addresses of pdlab's roles on this machine, or numbers
    /// of processes.
    ///
    /// Fails if one does not answer or cannot be read.
    pub async fn open(named: &[String]) -> Result<Self, Error> {
        let client = HttpClient::new();
        let own = Watched::open(std::process::id())?;
        let mut eyes = vec![Eye::new("client".to_owned(), None, Unit::Request, own)];
        for name in named {
            eyes.push(match name.parse() {
                Ok(pid) => Eye::new(format!("pid {pid}"), None, Unit::Second, Watched::open(pid)?),
                Err(_) => {
                    let url = format!("{}/pdlab/snapshot", name.trim_end_matches('/'));
                    let snapshot: Snapshot = client
                        .get_json("role", &url)
                        .await
                        .map_err(|error| Error::config("--watch", error.to_string()))?;
                    let label = format!("{} {}", snapshot.role.as_str(), snapshot.pid);
                    Eye::new(label, Some(url), Unit::Request, Watched::open(snapshot.pid)?)
                }
            });
        }
        Ok(Self { client, began: Instant::now(), census: Census::open(), eyes })
    }

    /// A reading of each; `answered` is this process's work so far. One that has ended is read no
    /// more.
    pub async fn read(&mut self, answered: u64) {
        let holdings = self.census.read();
        for eye in self.eyes.iter_mut().filter(|eye| eye.gone.is_none()) {
            match eye.sample(&self.client, self.began, answered).await {
                Ok(mut sample) => {
                    sample.rdma = holdings.of(eye.watched.pid());
                    eye.samples.push(sample);
                }
                Err(reason) => eye.gone = Some(reason),
            }
        }
    }

    /// The verdict on each so far. Judged apart from the runtime, since it takes a moment.
    pub async fn judge(&self, seed: u64) -> Vec<Role> {
        let mut roles = Vec::with_capacity(self.eyes.len());
        for eye in &self.eyes {
            let (samples, unit) = (eye.samples.kept.clone(), eye.unit);
            let judging = tokio::task::spawn_blocking(move || {
                let memory = growth::of_memory(&samples, unit, MARGIN_BYTES, seed);
                let devices = || growth::of_devices(&samples, unit, seed);
                if memory.leaks() { memory } else { devices().unwrap_or(memory) }
            });
            // A judge that panicked is a bug here; its verdict is missing, and the load goes on.
            let Ok(finding) = judging.await else { continue };
            let rss = |sample: Option<&Sample>| sample.map_or(0, |s| s.memory.rss_bytes);
            roles.push(Role {
                label: eye.label.clone(),
                pid: eye.watched.pid(),
                finding,
                rss_bytes: [rss(eye.samples.kept.first()), rss(eye.samples.last.as_ref())],
                gone: eye.gone.clone(),
            });
        }
        roles
    }
}

impl Eye {
    fn new(label: String, url: Option<String>, unit: Unit, watched: Watched) -> Self {
        Self {
            label,
            url,
            unit,
            watched: Arc::new(watched),
            samples: Thinned::default(),
            gone: None,
        }
    }

    async fn sample(
        &self,
        client: &HttpClient,
        began: Instant,
        answered: u64,
    ) -> Result<Sample, String> {
        let now_us = || began.elapsed().as_micros() as u64;
        let counted = async || {
            let Some(url) = &self.url else { return Ok(None) };
            let asked_us = now_us();
            let snapshot: Snapshot =
                client.get_json(&self.label, url).await.map_err(|error| error.to_string())?;
            Ok::<_, String>(Some(Counted::in_exchange(asked_us, now_us(), &snapshot)))
        };
        let before = counted().await?;
        // The kernel walks the process's pages for it; requests are not to be late for that.
        let watched = Arc::clone(&self.watched);
        let reading = tokio::task::spawn_blocking(move || watched.read()).await;
        let memory = reading.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let t_us = now_us();
        let after = counted().await?;
        let (work, held) = match before.zip(after) {
            Some((before, after)) => {
                let then = interpolate(before, after, t_us);
                (then.work, then.held)
            }
            None => (Work { requests: answered, ..Work::default() }, Default::default()),
        };
        Ok(Sample { process: self.label.clone(), t_us, work, memory, held, rdma: None })
    }
}

impl Role {
    /// Whether it leaks.
    pub fn leaks(&self) -> bool {
        self.finding.leaks()
    }

    pub(super) fn line(&self) -> String {
        let [_, now] = self.rss_bytes;
        let verdict = self.finding.judgement.verdict.kind();
        format!("{} {:.1} MB {verdict}", self.label, now as f64 / 1e6)
    }

    pub(super) fn sentence(&self) -> String {
        let [first, last] = self.rss_bytes.map(|bytes| bytes as f64 / 1e6);
        let gone = self.gone.as_ref().map(|why| format!(" No more readings: {why}."));
        format!(
            "{:<16} RSS {first:.1} to {last:.1} MB. {}{}",
            self.label,
            explain::verdict(&self.finding.judgement, self.finding.axes),
            gone.unwrap_or_default()
        )
    }

    pub(super) fn to_json(&self) -> Value {
        let Finding { axes, judgement } = &self.finding;
        let slope = judgement.estimate.as_ref().map(|estimate| estimate.slope);
        json!({
            "process": self.label,
            "pid": self.pid,
            "verdict": judgement.verdict.kind().to_string(),
            "gauge": axes.gauge.name(),
            "unit": axes.unit.to_string(),
            "slope_per_unit": slope.map(|slope| slope.value),
            "slope_bytes_per_unit": slope.filter(|_| axes.gauge.is_bytes()).map(|slope| slope.value),
            "ci_low": slope.map(|slope| slope.low),
            "ci_high": slope.map(|slope| slope.high),
            "rss_first_bytes": self.rss_bytes[0],
            "rss_last_bytes": self.rss_bytes[1],
            "gone": self.gone,
        })
    }
}

/// Readings evenly spaced over all the time there was, of which there are never too many.
#[derive(Debug, Default)]
struct Thinned {
    kept: Vec<Sample>,
    last: Option<Sample>,
    /// One of so many is kept, as a power of two.
    skip_log2: u32,
    seen: u64,
}

impl Thinned {
    fn push(&mut self, sample: Sample) {
        if self.seen.is_multiple_of(1 << self.skip_log2) {
            self.kept.push(sample.clone());
        }
        self.last = Some(sample);
        self.seen += 1;
        if self.kept.len() > MOST_SAMPLES {
            let mut index = 0;
            self.kept.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.skip_log2 += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readings_stay_few_and_evenly_spaced() {
        let mut thinned = Thinned::default();
        for t_us in 0..10_000 {
            thinned.push(Sample { t_us, ..Sample::default() });
        }
        assert!(thinned.kept.len() <= MOST_SAMPLES && thinned.kept.len() > MOST_SAMPLES / 2 - 1);
        let gaps: Vec<u64> = thinned.kept.windows(2).map(|w| w[1].t_us - w[0].t_us).collect();
        assert!(gaps.iter().all(|gap| *gap == gaps[0]), "{gaps:?}");
        assert_eq!((thinned.kept[0].t_us, thinned.last.unwrap().t_us), (0, 9999));
    }

    #[tokio::test]
    async fn this_process_is_watched_and_others_must_be_there() {
        let mut eyes = Eyes::open(&[std::process::id().to_string()]).await.unwrap();
        eyes.read(3).await;
        let roles = eyes.judge(1).await;
        let labels: Vec<&str> = roles.iter().map(|role| role.label.as_str()).collect();
        assert_eq!(labels[0], "client");
        assert_eq!((roles.len(), roles[1].finding.axes.unit), (2, Unit::Second));
        assert!(roles.iter().all(|role| role.rss_bytes[0] > 0 && !role.leaks()));
        let error = Eyes::open(&["http://127.0.0.1:9".to_owned()]).await.unwrap_err();
        assert!(error.is_bad_input() && error.to_string().starts_with("--watch"), "{error}");
        assert!(Eyes::open(&[u32::MAX.to_string()]).await.is_err());
    }
}
