//! A run of a given number of requests, from the settings to the report.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::arrivals::schedule;
use super::client::Client;
use super::driver::{Driver, Keep, Ledger, Planned};
use super::progress::{News, Progress};
use super::prompt::derive_seed;
use super::random::Sample;
use super::report::Facts;
use super::{Error, Goodput, Random, Rate, Report, Target, TimedTrace, process};

/// What is sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Dataset {
    /// Random prompts at the configured rate.
    Random(Random),
    /// A trace with its own times.
    TimedTrace(TimedTrace),
}

/// A run. [`Config::new`] gives the defaults of `vllm bench serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server.
    pub target: Target,
    /// What is sent.
    pub dataset: Dataset,
    /// How many requests; of a trace, its first ones.
    pub num_prompts: usize,
    /// Requests per second. A trace has its own times and takes [`Rate::Unlimited`] only.
    pub rate: Rate,
    /// Regularity of arrivals: 1 is a Poisson process, infinite a metronome.
    pub burstiness: f64,
    /// Most requests at a time; what is due beyond them waits, and the wait is counted apart.
    pub max_concurrency: Option<usize>,
    /// Equal seeds send equal requests at equal times.
    pub seed: u64,
    /// Requests to send and wait for before the measurement.
    pub num_warmups: usize,
    /// How long to wait for the server to answer a first request; zero for no such check.
    pub ready_check_timeout: Duration,
    /// The service level that goodput counts.
    pub goodput: Goodput,
    /// Keep the time of each token and the text of each request for the report.
    pub detailed: bool,
    /// How long requests under way may take after the run was stopped; then they are aborted.
    pub drain_timeout: Duration,
}

impl Config {
    /// A thousand random requests at once to the server at `base_url`.
    pub fn new(base_url: impl Into<String>) -> Self {
        Self {
            target: Target::new(base_url),
            dataset: Dataset::Random(Random::default()),
            num_prompts: 1000,
            rate: Rate::Unlimited,
            burstiness: 1.0,
            max_concurrency: None,
            seed: 0,
            num_warmups: 0,
            ready_check_timeout: Duration::ZERO,
            goodput: Goodput::default(),
            detailed: false,
            drain_timeout: Duration::ZERO,
        }
    }

    /// All requests with their times; prompts stay plans.
    fn plan(&self) -> Result<Vec<Planned>, Error> {
        if self.num_prompts == 0 {
            return Err(Error::config("--num-prompts", "must be at least 1"));
        }
        if self.max_concurrency == Some(0) {
            return Err(Error::config("--max-concurrency", "must be at least 1"));
        }
        let planned = |(due, sample)| Planned { due: Some(due), sample, patience: None };
        match &self.dataset {
            Dataset::Random(random) => {
                let seed = derive_seed(self.seed, 0, 0);
                let due = schedule(self.num_prompts, self.rate, self.burstiness, seed)?;
                Ok(due.into_iter().zip(random.samples(self.seed)?).map(planned).collect())
            }
            Dataset::TimedTrace(_) if self.rate != Rate::Unlimited => Err(Error::config(
                "--request-rate",
                "a trace has its own times; leave the rate and scale the times with \
                 --timed-trace-sec-multiplier",
            )),
            Dataset::TimedTrace(trace) => {
                let entries = trace.read(self.num_prompts)?;
                let sample = |entry| trace.sample(entry, self.seed);
                Ok(entries.iter().map(|entry| planned((entry.due, sample(entry)))).collect())
            }
        }
    }
}

/// How often progress is told.
const NEWS_INTERVAL: Duration = Duration::from_millis(200);

/// Between two attempts of the ready check.
const READY_INTERVAL: Duration = Duration::from_millis(500);

/// Sends all requests of `config` and reports. `stop` ends the run early, with a report of what
/// has been done. Dropping the future aborts everything.
///
/// # Errors
/// On wrong settings or datasets and if the server cannot be reached or lacks the model. Failed
/// requests are no error; the report counts them.
pub async fn run(
    config: Config,
    progress: &dyn Progress,
    stop: CancellationToken,
) -> Result<Report, Error> {
    let requests = config.plan()?;
    let planned = requests.len();
    let slots = config.max_concurrency.unwrap_or(planned);
    if let Err(fit) = process::make_room_for(slots.min(planned)) {
        progress.note(&format!(
            "warning: the limit of open files allows {fit} connections, and up to {} may be \
             needed; raise `ulimit -Hn` or set --max-concurrency",
            slots.min(planned)
        ));
    }
    let first = &requests[0].sample;
    let prepare = async {
        let client = Arc::new(connect(&config, first, progress).await?);
        warm_up(&config, &client, first, slots, &stop).await?;
        Ok::<_, Error>(client)
    };
    let client = tokio::select! {
        biased;
        () = stop.cancelled() => return Err(Error::Stopped),
        client = prepare => client?,
    };

    let keep = if config.detailed { Keep::Everything } else { Keep::Times };
    let ledger = Arc::new(Ledger::new(config.goodput, keep));
    let driver = Driver {
        client: Arc::clone(&client),
        ledger: Arc::clone(&ledger),
        slots,
        stop,
        drain_timeout: config.drain_timeout,
    };
    let started_at = SystemTime::now();
    let cpu_before = process::cpu_time();
    let start = Instant::now();
    let mut drive = std::pin::pin!(driver.run(start, requests.into_iter()));
    let mut tick = tokio::time::interval(NEWS_INTERVAL);
    let warm_up_steps = client.steps();
    let news = || {
        let counts = ledger.counts(client.steps() - warm_up_steps);
        progress.update(&News { elapsed: start.elapsed(), planned: planned as u64, counts });
    };
    loop {
        tokio::select! {
            biased;
            driven = &mut drive => break driven?,
            _ = tick.tick() => news(),
        }
    }
    let wall = start.elapsed();
    let client_cpu = process::cpu_time().saturating_sub(cpu_before);
    news();
    progress.finish();

    let facts = Facts {
        started_at,
        backend: config.target.backend,
        model: client.model().to_owned(),
        rate: config.rate,
        burstiness: config.burstiness,
        max_concurrency: config.max_concurrency,
        num_prompts: Some(planned),
        num_warmups: config.num_warmups,
        seed: config.seed,
        goodput: config.goodput,
    };
    let (sent, over) = ledger.take();
    Ok(Report::new(facts, over, sent, wall, client_cpu))
}

/// Finds the server, and with a ready check waits until it answers the first request.
async fn connect(
    config: &Config,
    first: &Sample,
    progress: &dyn Progress,
) -> Result<Client, Error> {
    let began = Instant::now();
    let attempt = async || {
        let client = Client::connect(&config.target, config.detailed).await?;
        if !config.ready_check_timeout.is_zero() {
            let body = client.render(&first.prompt, first.output_tokens);
            if let Some(error) = client.request("ready-check", body).await.answer.error {
                let problem = format!("does not answer a first request: {error}");
                return Err(Error::Server { url: config.target.base_url.clone(), problem });
            }
        }
        Ok(client)
    };
    let mut told = false;
    loop {
        match attempt().await {
            Err(Error::Unreachable { .. } | Error::Server { .. })
                if began.elapsed() < config.ready_check_timeout =>
            {
                if !std::mem::replace(&mut told, true) {
                    let s = config.ready_check_timeout.as_secs();
                    progress.note(&format!("waiting up to {s} s for the server to be ready"));
                }
                tokio::time::sleep(READY_INTERVAL).await;
            }
            result => return result,
        }
    }
}

/// Sends the first request as often as asked for, and forgets the answers.
async fn warm_up(
    config: &Config,
    client: &Arc<Client>,
    first: &Sample,
    slots: usize,
    stop: &CancellationToken,
) -> Result<(), Error> {
    let driver = Driver {
        client: Arc::clone(client),
        ledger: Arc::new(Ledger::new(Goodput::default(), Keep::Sums)),
        slots,
        stop: stop.clone(),
        drain_timeout: config.drain_timeout,
    };
    let first = Planned { due: Some(Duration::ZERO), sample: first.clone(), patience: None };
    driver.run(Instant::now(), std::iter::repeat_n(first, config.num_warmups)).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_settings_are_named_before_anything_is_sent() {
        let problem = |change: fn(&mut Config)| {
            let mut config = Config::new("http://127.0.0.1:9");
            change(&mut config);
            config.plan().unwrap_err().to_string()
        };
        assert!(problem(|c| c.num_prompts = 0).starts_with("--num-prompts"));
        assert!(problem(|c| c.max_concurrency = Some(0)).starts_with("--max-concurrency"));
        assert!(problem(|c| c.burstiness = f64::NAN).starts_with("--burstiness"));
    }

    #[test]
    fn a_trace_with_a_rate_is_refused() {
        let mut config = Config::new("http://127.0.0.1:9");
        config.dataset = Dataset::TimedTrace(TimedTrace::new("x"));
        config.rate = Rate::PerSecond(1.0);
        let error = config.plan().unwrap_err().to_string();
        assert!(error.contains("--timed-trace-sec-multiplier"), "{error}");
    }

    #[test]
    fn plans_are_a_function_of_the_seed() {
        let plan = |seed| {
            let mut config = Config::new("http://127.0.0.1:9");
            config.rate = Rate::PerSecond(10.0);
            config.seed = seed;
            config.plan().unwrap()
        };
        assert_eq!(plan(1), plan(1));
        assert_ne!(plan(1), plan(2));
        assert_eq!(plan(1).len(), 1000);
    }
}
