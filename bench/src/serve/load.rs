//! A load in the background that goes on until it is stopped.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::arrivals::Arrivals;
use super::client::Client;
use super::dataset::prompt::derive_seed;
use super::dataset::{Dataset, Sample};
use super::driver::{Driver, Keep, Ledger, Over, Planned};
use super::report::Facts;
use super::{Error, Goodput, Random, Rate, Report, Target, process};

/// Most requests at a time unless set: enough for any server that keeps up, few enough that one
/// that does not cannot fill the memory or use up file descriptors.
pub const DEFAULT_MAX_CONCURRENCY: usize = 512;

/// An endless load. [`LoadConfig::new`] gives the defaults.
#[derive(Debug, Clone)]
pub struct LoadConfig {
    /// The server.
    pub target: Target,
    /// Requests per second. Unlimited is a closed loop: a request is sent whenever one of
    /// `max_concurrency` slots is free.
    pub rate: Rate,
    /// Regularity of arrivals, as in [`Arrivals::new`].
    pub burstiness: f64,
    /// Most requests at a time; what is due beyond them waits.
    pub max_concurrency: usize,
    /// What is sent.
    pub dataset: Random,
    /// Equal seeds send equal requests at equal times.
    pub seed: u64,
    /// Clients that go away before they have an answer.
    pub leavers: Option<Leavers>,
    /// How long requests under way may take after the stop; then they are aborted.
    pub drain_timeout: Duration,
}

/// Clients that go away before they have an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Leavers {
    /// Share of all requests, 0 to 1. Which ones follows from the seed.
    pub ratio: f64,
    /// How long they wait.
    pub patience: Duration,
}

impl Leavers {
    /// How long the client of request `index` waits, if it goes away at all.
    fn patience(&self, seed: u64, index: u64) -> Option<Duration> {
        /// A stream of random numbers of its own.
        const KIND: u64 = 7;
        // 53 bits are a number below 1 that is exact.
        let drawn = (derive_seed(seed, KIND, index) >> 11) as f64 / (1u64 << 53) as f64;
        (drawn < self.ratio).then_some(self.patience)
    }
}

impl LoadConfig {
    /// Short random requests as a Poisson process of `rate` to the server at `base_url`.
    pub fn new(base_url: impl Into<String>, rate: Rate) -> Self {
        Self {
            target: Target::new(base_url),
            rate,
            burstiness: 1.0,
            max_concurrency: DEFAULT_MAX_CONCURRENCY,
            dataset: Random::default(),
            seed: 0,
            leavers: None,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Starts loads.
#[derive(Debug)]
pub struct Load;

/// A running load. Dropping it aborts the load and everything under way.
#[derive(Debug)]
pub struct LoadHandle {
    client: Arc<Client>,
    ledger: Arc<Ledger>,
    stop: CancellationToken,
    task: AbortOnDrop,
    started: Instant,
    cpu_before: Duration,
    facts: Facts,
}

/// What a load has done so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests sent.
    pub sent: u64,
    /// Requests answered in full.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Requests whose client went away, as planned.
    pub abandoned: u64,
    /// Prompt tokens of completed requests.
    pub prompt_tokens: u64,
    /// Tokens received, those of requests still under way included. A server that sends several
    /// tokens in one event is undercounted until the request completes.
    pub output_tokens: u64,
}

impl Counts {
    /// Requests sent and not over yet.
    pub fn in_flight(&self) -> u64 {
        self.sent - self.completed - self.failed - self.abandoned
    }
}

impl Load {
    /// Finds the server and its model and starts the load as a task of this runtime.
    ///
    /// Fails on wrong settings and if the server cannot be reached or lacks the model.
    pub async fn start(config: LoadConfig) -> Result<LoadHandle, Error> {
        let samples = config.dataset.samples(config.seed)?;
        Self::start_samples(config, samples, "random", Goodput::default()).await
    }

    /// The same with the requests of any dataset; one that is read from a file gives `count`
    /// requests, which come again and again.
    pub(super) async fn start_dataset(
        config: LoadConfig,
        dataset: &Dataset,
        count: usize,
        goodput: Goodput,
    ) -> Result<LoadHandle, Error> {
        let name = dataset.name();
        if let Dataset::Random(random) = dataset {
            let samples = random.samples(config.seed)?;
            return Self::start_samples(config, samples, name, goodput).await;
        }
        let samples = dataset.requests(count, config.seed)?.samples.into_iter().cycle();
        Self::start_samples(config, samples, name, goodput).await
    }

    async fn start_samples(
        config: LoadConfig,
        samples: impl Iterator<Item = Sample> + Send + 'static,
        dataset: &'static str,
        goodput: Goodput,
    ) -> Result<LoadHandle, Error> {
        if config.max_concurrency == 0 {
            return Err(Error::config("--max-concurrency", "must be at least 1"));
        }
        // What does not fit becomes failed requests that say so.
        let _ = process::make_room_for(config.max_concurrency);
        let arrivals =
            Arrivals::new(config.rate, config.burstiness, derive_seed(config.seed, 0, 0))?;
        let closed = config.rate == Rate::Unlimited;
        let requests = arrivals.zip(samples).zip(0..).map(move |((due, sample), index)| Planned {
            due: (!closed).then_some(due),
            sample,
            patience: config.leavers.and_then(|leavers| leavers.patience(config.seed, index)),
        });

        let client = Arc::new(Client::connect(&config.target, false).await?);
        let ledger = Arc::new(Ledger::new(goodput, Keep::Sums));
        let stop = CancellationToken::new();
        let driver = Driver {
            client: Arc::clone(&client),
            ledger: Arc::clone(&ledger),
            slots: config.max_concurrency,
            stop: stop.clone(),
            drain_timeout: config.drain_timeout,
        };
        let facts = Facts {
            started_at: SystemTime::now(),
            backend: config.target.backend,
            model: client.model().to_owned(),
            dataset,
            bad_lines: 0,
            rate: config.rate,
            ramp: None,
            ramp_changes: Vec::new(),
            probe_rate: 0.0,
            burstiness: config.burstiness,
            max_concurrency: Some(config.max_concurrency),
            num_prompts: None,
            num_warmups: 0,
            seed: config.seed,
            goodput,
        };
        let started = Instant::now();
        let cpu_before = process::cpu_time();
        let task = AbortOnDrop(tokio::spawn(driver.run(started, requests)));
        Ok(LoadHandle { client, ledger, stop, task, started, cpu_before, facts })
    }
}

impl LoadHandle {
    /// What was run.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Requests sent and over since the last call, which are then forgotten but for their counts.
    pub(super) fn roll(&self) -> (u64, Over) {
        self.ledger.roll(self.started.elapsed().as_secs_f64())
    }

    /// Processor time since the last call.
    pub(super) fn roll_cpu(&mut self) -> Duration {
        let now = process::cpu_time();
        now.saturating_sub(std::mem::replace(&mut self.cpu_before, now))
    }

    /// What the load has done so far.
    pub fn counts(&self) -> Counts {
        self.ledger.counts(self.client.steps())
    }

    /// Forgets how long requests have taken so far, so that the report's latencies are those of
    /// what ends from here on: the first requests of a fresh server are no measure of it.
    pub fn forget_latencies(&self) {
        self.ledger.forget_latencies();
    }

    /// Sends nothing more, waits for what is under way (at most the drain timeout, then it is
    /// aborted), and reports.
    ///
    /// Fails if the load had to give up on its own, which takes a system without timers.
    pub async fn stop(mut self) -> Result<Report, Error> {
        self.stop.cancel();
        match (&mut self.task.0).await {
            Ok(result) => result?,
            Err(error) => {
                if let Ok(panic) = error.try_into_panic() {
                    std::panic::resume_unwind(panic);
                }
            }
        }
        let wall = self.started.elapsed();
        let (sent, over) = self.roll();
        let client_cpu = self.roll_cpu();
        Ok(Report::new(self.facts, over, sent, wall, client_cpu))
    }
}

/// A task that ends with its handle.
#[derive(Debug)]
struct AbortOnDrop(JoinHandle<Result<(), Error>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_seed_says_who_leaves() {
        let patience = Duration::from_millis(5);
        let leaves = |ratio: f64, seed: u64| {
            let leavers = Leavers { ratio, patience };
            (0..1000).filter(|&index| leavers.patience(seed, index) == Some(patience)).count()
        };
        assert_eq!((leaves(0.0, 1), leaves(1.0, 1)), (0, 1000));
        assert!((200..300).contains(&leaves(0.25, 1)), "{}", leaves(0.25, 1));
        assert_eq!(leaves(0.25, 3), leaves(0.25, 3));
    }
}
