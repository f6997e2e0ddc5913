//! From a low rate to saturation: which rate a server sustains, in as few steps as possible.
//!
//! Each step is a run of its own at a constant average rate, with prompts of its own, so that no
//! step profits from the prefix cache of another. Rates double until one is not sustained, then the
//! knee is closed in on. [`decide`] is pure; this is the loop around it, [`table`] what it shows.

pub mod decide;
pub mod table;

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::dataset::prompt::derive_seed;
use super::progress::Progress;
use super::{Config, Error, Rate, Report, run};
use decide::{Ceiling, Search, judge};

/// A sweep of the rates of a [`Config`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// The first rate, in requests per second.
    pub low: f64,
    /// No rate above this is tried.
    pub high: f64,
    /// How long requests are sent at each rate.
    pub step: Duration,
}

/// One rate that was tried.
#[derive(Debug)]
pub struct Step {
    /// Requests per second.
    pub rate: f64,
    /// What was measured.
    pub report: Report,
    /// Seconds by which latency grew per second of load.
    pub growth: f64,
    /// Why the rate counts as too high; none if it was sustained.
    pub ceiling: Option<Ceiling>,
}

/// What a sweep has found.
#[derive(Debug)]
pub struct Sweep {
    /// The rates in the order in which they were tried. A step that was stopped is not among them.
    pub steps: Vec<Step>,
    /// The highest rate that was sustained.
    pub sustained: Option<f64>,
    /// The lowest rate that was not; none if all were.
    pub failed: Option<f64>,
    /// Stopped by the user before the knee was found.
    pub stopped: bool,
}

/// Fewer requests than this say nothing about a rate.
const FEWEST_REQUESTS: f64 = 30.0;

/// Kind of the seeds of steps.
const STEP: u64 = 13;

/// Runs `config` at one rate after the other. `stop` ends the sweep with what has been found.
///
/// # Errors
/// Those of [`run()`], and on rates that make no sense.
pub async fn sweep(
    config: &Config,
    plan: Plan,
    progress: &dyn Progress,
    stop: &CancellationToken,
) -> Result<Sweep, Error> {
    if config.rate != Rate::Unlimited || config.ramp.is_some() || config.dataset.is_timed() {
        let problem = "a sweep has its own rates; leave --request-rate, ramps and timed datasets";
        return Err(Error::config("--sweep", problem));
    }
    if plan.step.is_zero() {
        return Err(Error::config("--sweep-seconds", "must be above 0"));
    }
    let mut search = Search::new(plan.low, plan.high)?;
    let mut steps: Vec<Step> = Vec::new();
    let mut stopped = false;
    while let Some(rate) = search.next() {
        let first = steps.is_empty();
        let config = step_config(config, rate, plan.step, steps.len() as u64);
        let report = match run(config, progress, stop.clone()).await {
            Err(Error::Stopped) if !first => {
                stopped = true;
                break;
            }
            report => report?,
        };
        if stop.is_cancelled() {
            stopped = true;
            break;
        }
        let (growth, ceiling) = judge(&report);
        let step = Step { rate, report, growth, ceiling };
        progress.note(&table::row(&step));
        search.saw(rate, step.ceiling.is_none());
        steps.push(step);
    }
    let (sustained, failed) = search.bounds();
    Ok(Sweep { steps, sustained, failed, stopped })
}

fn step_config(config: &Config, rate: f64, step: Duration, index: u64) -> Config {
    let requests = (rate * step.as_secs_f64()).round().max(FEWEST_REQUESTS);
    let mut config = Config {
        rate: Rate::PerSecond(rate),
        num_prompts: requests as usize,
        seed: derive_seed(config.seed, STEP, index),
        ..config.clone()
    };
    if index > 0 {
        // The server is warm and known to answer.
        config.num_warmups = 0;
        config.ready_check_timeout = Duration::ZERO;
    }
    config
}
