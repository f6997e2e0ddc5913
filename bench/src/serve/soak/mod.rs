//! A load for hours: results by the window, memory and leak verdicts of every role as it goes.
//!
//! Nothing here grows with time: what is known of requests is forgotten with each window, readings
//! are thinned, and the files of windows rotate. The load generator is among the watched, so that a
//! run shows that, too.
//!
//! - here: the loop. [`eyes`]: who is watched and what the verdict is. [`files`]: files that rotate.

pub mod eyes;
pub mod files;

use std::time::{Duration, Instant, SystemTime};

use serde_json::{Map, Value, json};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::load::DEFAULT_MAX_CONCURRENCY;
use super::report::Facts;
use super::{Config, Error, Load, LoadConfig, LoadHandle, Presentation, Progress, Report, Totals};
use crate::run_dir::{self, RunDir};
use eyes::{Eyes, Role};
use files::Windows;

/// How long, and who is watched.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Until when requests are sent.
    pub duration: Duration,
    /// What one result covers.
    pub window: Duration,
    /// Roles of pdlab by their HTTP address, and other processes by their number.
    pub watch: Vec<String>,
}

/// What a soak has shown.
#[derive(Debug)]
pub struct Soak {
    /// How long it went.
    pub elapsed: Duration,
    /// Windows that were written.
    pub windows: u64,
    /// Requests answered.
    pub completed: u64,
    /// Requests that failed.
    pub failed: u64,
    /// Every process that was watched, with its verdict.
    pub roles: Vec<Role>,
}

/// Between two readings of memory.
const SAMPLE_PERIOD: Duration = Duration::from_secs(2);

/// Puts the load of `config` on its server for as long as `plan` says, and writes to `dir`.
/// `stop` ends it early and in order.
///
/// # Errors
/// On wrong settings, if the server cannot be reached, if a process cannot be watched, and if a
/// window cannot be written. Failed requests and roles that die are no error.
pub async fn soak(
    config: &Config,
    plan: &Plan,
    dir: &RunDir,
    presentation: &Presentation,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> Result<Soak, Error> {
    if plan.window < SAMPLE_PERIOD {
        return Err(Error::config("--window", "must be at least 2 s"));
    }
    let mut eyes = Eyes::open(&plan.watch).await?;
    let mut windows = Windows::open(&dir.make_dir("windows")?);
    let mut load = start(config).await?;
    let began = Instant::now();
    let mut sampling = tokio::time::interval(SAMPLE_PERIOD);
    sampling.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut window_began = Instant::now();
    let mut sum =
        Soak { elapsed: Duration::ZERO, windows: 0, completed: 0, failed: 0, roles: Vec::new() };
    loop {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = sampling.tick() => {}
        }
        eyes.read(load.counts().completed).await;
        let over = began.elapsed() >= plan.duration;
        if window_began.elapsed() >= plan.window && !over {
            let report = load.window(window_began.elapsed());
            sum.add(&report.totals);
            sum.roles = eyes.judge(config.seed).await;
            write(&mut windows, &report, presentation, &sum.roles)?;
            sum.windows += 1;
            progress.note(&line(began.elapsed(), &report, &sum.roles));
            window_began = Instant::now();
        }
        if over {
            break;
        }
    }
    let report = load.stop().await?;
    sum.add(&report.totals);
    sum.roles = eyes.judge(config.seed).await;
    write(&mut windows, &report, presentation, &sum.roles)?;
    sum.windows += 1;
    sum.elapsed = began.elapsed();
    progress.finish();
    Ok(sum)
}

async fn start(config: &Config) -> Result<LoadHandle, Error> {
    if config.dataset.is_timed() || config.ramp.is_some() {
        let problem = "goes on for longer than a ramp or a trace does; use --request-rate";
        return Err(Error::config("--duration", problem));
    }
    let load = LoadConfig {
        target: config.target.clone(),
        burstiness: config.burstiness,
        max_concurrency: config.max_concurrency.unwrap_or(DEFAULT_MAX_CONCURRENCY),
        seed: config.seed,
        drain_timeout: config.drain_timeout.max(Duration::from_secs(10)),
        ..LoadConfig::new(config.target.base_url.clone(), config.rate)
    };
    Load::start_dataset(load, &config.dataset, config.num_prompts, config.goodput).await
}

fn write(
    windows: &mut Windows,
    report: &Report,
    presentation: &Presentation,
    roles: &[Role],
) -> Result<(), Error> {
    let mut result = report.to_json(presentation);
    // Per-request lists are empty here, and pictures are made of whole runs.
    for name in ["latencies", "queue_times", "distributions", "timeline", "memory"] {
        result.remove(name);
    }
    result.insert("roles".to_owned(), roles.iter().map(Role::to_json).collect());
    windows.write(&Value::Object(result).to_string())
}

/// A window in a line.
fn line(elapsed: Duration, report: &Report, roles: &[Role]) -> String {
    let ttft = report.totals.ttft.percentiles(&[50.0, 99.0]);
    let roles: Vec<String> = roles.iter().map(Role::line).collect();
    format!(
        "{:>6.0} s  {:.1} req/s, {} failed, TTFT p50 {:.1} p99 {:.1} ms; {}",
        elapsed.as_secs_f64(),
        report.per_second(report.totals.completed),
        report.totals.failed,
        ttft[0] * 1e3,
        ttft[1] * 1e3,
        roles.join("; ")
    )
}

impl Soak {
    fn add(&mut self, totals: &Totals) {
        self.completed += totals.completed;
        self.failed += totals.failed;
    }

    /// Whether any process but the load generator leaks.
    pub fn leaks(&self) -> bool {
        self.roles.iter().any(Role::leaks)
    }

    /// What came out, for people.
    pub fn console(&self) -> String {
        let head = format!(
            "{} requests answered, {} failed, in {:.0} s and {} windows",
            self.completed,
            self.failed,
            self.elapsed.as_secs_f64(),
            self.windows
        );
        let roles = self.roles.iter().map(Role::sentence);
        std::iter::once(head).chain(roles).collect::<Vec<_>>().join("\n")
    }

    /// `mode` ("soak"), `date`, `duration` in seconds, `windows`, `completed`, `failed`, `roles`.
    pub fn to_json(&self, ended: SystemTime) -> Map<String, Value> {
        let value = json!({
            "mode": "soak",
            "date": run_dir::utc(ended),
            "duration": self.elapsed.as_secs_f64(),
            "windows": self.windows,
            "completed": self.completed,
            "failed": self.failed,
            "roles": self.roles.iter().map(Role::to_json).collect::<Vec<_>>(),
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

impl LoadHandle {
    /// What ended since the last window, which was so long ago; it is then forgotten.
    fn window(&mut self, length: Duration) -> Report {
        let (sent, over) = self.roll();
        let facts = Facts { started_at: SystemTime::now() - length, ..self.facts().clone() };
        let client_cpu = self.roll_cpu();
        Report { duration: length, ..Report::new(facts, over, sent, length, client_cpu) }
    }
}
