//! A run of a given number of requests, from the settings to the report.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio_util::sync::CancellationToken;

use super::arrivals::{Ramp, schedule};
use super::client::Client;
use super::dataset::Sample;
use super::dataset::prompt::derive_seed;
use super::driver::{Driver, Keep, Ledger, Planned};
use super::memory::MemoryWatch;
use super::probe;
use super::progress::{News, Progress};
use super::report::Facts;
use super::{Dataset, Error, Goodput, Random, Rate, Report, Target, process};

/// A run. [`Config::new`] gives the defaults of `vllm bench serve`.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server.
    pub target: Target,
    /// What is sent.
    pub dataset: Dataset,
    /// How many requests; of a trace, its first ones.
    pub num_prompts: usize,
    /// Requests per second. Datasets with times of their own and ramps take [`Rate::Unlimited`]
    /// only.
    pub rate: Rate,
    /// A rate that grows during the run.
    pub ramp: Option<Ramp>,
    /// Regularity of arrivals: 1 is a Poisson process, infinite a metronome.
    pub burstiness: f64,
    /// Most requests at a time; what is due beyond them waits, and the wait is counted apart.
    pub max_concurrency: Option<usize>,
    /// Equal seeds send equal requests at equal times.
    pub seed: u64,
    /// One-token requests per second beside the load, one at a time, on a connection of their own:
    /// what a small request sees of a busy server. Zero for none.
    pub probe_rate: f64,
    /// Processes on this machine whose memory is read during the run, beside this one's own.
    pub watch_pids: Vec<u32>,
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
            ramp: None,
            burstiness: 1.0,
            max_concurrency: None,
            seed: 0,
            probe_rate: 0.0,
            watch_pids: Vec::new(),
            num_warmups: 0,
            ready_check_timeout: Duration::ZERO,
            goodput: Goodput::default(),
            detailed: false,
            drain_timeout: Duration::ZERO,
        }
    }

    /// All requests with their times; prompts stay plans.
    fn plan(&self) -> Result<Plan, Error> {
        if self.num_prompts == 0 {
            return Err(Error::config("--num-prompts", "must be at least 1"));
        }
        if self.max_concurrency == Some(0) {
            return Err(Error::config("--max-concurrency", "must be at least 1"));
        }
        if !(self.probe_rate >= 0.0 && self.probe_rate.is_finite()) {
            return Err(Error::config("--probe-request-rate", "must be a number of at least 0"));
        }
        if self.rate != Rate::Unlimited && self.dataset.is_timed() {
            let problem = "the dataset has its own times; leave the rate (a trace's times scale \
                           with --timed-trace-sec-multiplier)";
            return Err(Error::config("--request-rate", problem));
        }
        if self.ramp.is_some() && (self.rate != Rate::Unlimited || self.dataset.is_timed()) {
            let problem = "a ramp has its own rates; leave --request-rate and timed datasets";
            return Err(Error::config("--ramp-up-strategy", problem));
        }
        let found = self.dataset.requests(self.num_prompts, self.seed)?;
        let count = found.samples.len();
        let seed = derive_seed(self.seed, 0, 0);
        let due = match (found.due, self.ramp) {
            (Some(due), _) => due,
            (None, Some(ramp)) => ramp.schedule(count, self.burstiness, seed)?,
            (None, None) => schedule(count, self.rate, self.burstiness, seed)?,
        };
        let mut notes = found.notes;
        if count < self.num_prompts {
            notes.push(format!("the dataset gives {count} requests of {}", self.num_prompts));
        }
        let ramp_changes = self.ramp.map(|ramp| ramp.changes(&due)).unwrap_or_default();
        let planned = |(due, sample)| Planned { due: Some(due), sample, patience: None };
        Ok(Plan {
            requests: due.into_iter().zip(found.samples).map(planned).collect(),
            ramp_changes,
            bad_lines: found.bad_lines,
            notes,
        })
    }
}

/// What is going to be sent. There is at least one request.
#[derive(Debug, PartialEq)]
struct Plan {
    requests: Vec<Planned>,
    /// Requests per second from when on, of a ramp.
    ramp_changes: Vec<(u32, Duration)>,
    bad_lines: u64,
    notes: Vec<String>,
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
    let Plan { requests, ramp_changes, bad_lines, notes } = config.plan()?;
    notes.iter().for_each(|note| progress.note(note));
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
        let prober = match config.probe_rate {
            0.0 => None,
            // A client of its own, so that probes do not count as steps of the load.
            rate => Some((Client::connect(&config.target, false).await?, rate)),
        };
        Ok::<_, Error>((client, prober))
    };
    let (client, prober) = tokio::select! {
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
    let watch = MemoryWatch::start(&config.watch_pids)?;
    let started_at = SystemTime::now();
    let cpu_before = process::cpu_time();
    let start = Instant::now();
    let load_over = CancellationToken::new();
    let mut probes = std::pin::pin!(async {
        match &prober {
            Some((client, rate)) => Some(probe::run(client, *rate, &load_over).await),
            None => None,
        }
    });
    let mut probed = None;
    let mut drive = std::pin::pin!(driver.run(start, requests.into_iter()));
    let mut tick = tokio::time::interval(NEWS_INTERVAL);
    let warm_up_steps = client.steps();
    let news = || {
        let counts = ledger.counts(client.steps() - warm_up_steps);
        let recent = ledger.recent();
        progress.update(&News {
            elapsed: start.elapsed(),
            planned: planned as u64,
            counts,
            recent,
        });
    };
    loop {
        tokio::select! {
            biased;
            driven = &mut drive => break driven?,
            stats = &mut probes, if probed.is_none() => probed = Some(stats),
            _ = tick.tick() => news(),
        }
    }
    let wall = start.elapsed();
    let client_cpu = process::cpu_time().saturating_sub(cpu_before);
    news();
    load_over.cancel();
    let probes = match probed {
        Some(probes) => probes,
        None => probes.await,
    };
    progress.finish();

    let facts = Facts {
        started_at,
        backend: config.target.backend,
        model: client.model().to_owned(),
        dataset: config.dataset.name(),
        bad_lines,
        rate: config.rate,
        ramp: config.ramp,
        ramp_changes,
        probe_rate: config.probe_rate,
        burstiness: config.burstiness,
        max_concurrency: config.max_concurrency,
        num_prompts: Some(planned),
        num_warmups: config.num_warmups,
        seed: config.seed,
        goodput: config.goodput,
    };
    let (sent, over) = ledger.take();
    let memory = watch.finish();
    Ok(Report { probes, memory, ..Report::new(facts, over, sent, wall, client_cpu) })
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
    use crate::serve::TimedTrace;
    use crate::serve::arrivals::RampUp;

    #[test]
    fn wrong_settings_are_named_before_anything_is_sent() {
        let problem = |change: fn(&mut Config)| {
            let mut config = Config::new("http://127.0.0.1:9");
            change(&mut config);
            config.plan().unwrap_err().to_string()
        };
        assert!(problem(|c| c.num_prompts = 0).starts_with("--num-prompts"));
        assert!(problem(|c| c.max_concurrency = Some(0)).starts_with("--max-concurrency"));
        assert!(problem(|c| c.probe_rate = -1.0).starts_with("--probe-request-rate"));
        assert!(problem(|c| c.burstiness = f64::NAN).starts_with("--burstiness"));
    }

    #[test]
    fn a_trace_with_a_rate_is_refused() {
        let mut config = Config::new("http://127.0.0.1:9");
        config.dataset = Dataset::TimedTrace(TimedTrace::new("x"));
        config.rate = Rate::PerSecond(1.0);
        let error = config.plan().unwrap_err().to_string();
        assert!(error.contains("--timed-trace-sec-multiplier"), "{error}");
        config.rate = Rate::Unlimited;
        config.ramp = Some(Ramp { strategy: RampUp::Linear, start_rps: 1, end_rps: 2 });
        let error = config.plan().unwrap_err().to_string();
        assert!(error.starts_with("--ramp-up-strategy"), "{error}");
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
        assert_eq!(plan(1).requests.len(), 1000);
    }
}
