//! The options of `pdlab watch`, and the plan that they make.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use pdlab_leak::gauge::Gauge;
use pdlab_leak::work::Unit;

use super::WatchError;
use super::plan::{Plan, default_margin};
use super::target::Target;
use crate::repro::Trace;
use crate::repro::options::parse_bytes;

/// Options of `pdlab watch`.
#[derive(Debug, Clone, Args)]
pub struct WatchArgs {
    /// The process to watch, by its number out here (not that inside its container)
    #[arg(long, value_name = "PID")]
    pub pid: u32,
    /// Trace allocations with their stacks
    #[arg(long, value_enum, default_value_t, env = "PDLAB_TRACE")]
    pub trace: Trace,
    /// Trace with strace, which stops the process twice at every call that it traces
    #[arg(long)]
    pub strace: bool,
    /// What counts as work [default: metrics if --metrics is given, else time]
    #[arg(long, value_enum, value_name = "WHAT")]
    pub unit_from: Option<UnitFrom>,
    /// Page of Prometheus metrics that counts the work, such as http://127.0.0.1:8000/metrics
    #[arg(long, value_name = "URL", requires = "counter")]
    pub metrics: Option<String>,
    /// Counter on that page, such as vllm:generation_tokens_total; all its series are summed, or
    /// those that name{label="value"} picks
    #[arg(long, value_name = "NAME", requires = "metrics")]
    pub counter: Option<String>,
    /// End after this long, such as 90s, 10m or 2h
    #[arg(long, value_name = "TIME", value_parser = parse_duration)]
    pub duration: Option<f64>,
    /// End once the verdict stands
    #[arg(long)]
    pub until_verdict: bool,
    /// Time between readings, such as 250ms or 1s
    #[arg(long, value_name = "TIME", value_parser = parse_interval, default_value = "250ms")]
    pub interval: u64,
    /// Growth per unit of work that counts as clean [default: 4096 B per second, 4 B per unmap,
    /// 16 B per count]
    #[arg(long, value_name = "B", value_parser = parse_margin)]
    pub margin: Option<f64>,
    /// What is judged: held (memory that only the process can give back), rss, pinned, fds or
    /// threads
    #[arg(long, value_name = "GAUGE", default_value_t = Gauge::Held, value_parser = parse_gauge)]
    pub gauge: Gauge,
    /// Show it full screen; q or Ctrl-C ends it
    #[arg(long)]
    pub tui: bool,
    /// Memory limit for "full in so many hours", such as 64G (1024-based)
    #[arg(long, value_name = "BYTES", value_parser = parse_bytes, env = "PDLAB_MEMORY_LIMIT", default_value = "64G")]
    pub memory_limit: u64,
    /// Seed of the bootstrap
    #[arg(long, value_name = "N", env = "PDLAB_SEED", default_value_t = 1,
          value_parser = clap::value_parser!(u64).range(..i64::MAX as u64))]
    pub seed: u64,
    /// Print the result as one JSON object on the last line of stdout
    #[arg(long)]
    pub json: bool,
    /// Directory for results and samples [default: runs/{UTC time}-watch]
    #[arg(long, value_name = "DIR", env = "PDLAB_OUT")]
    pub out: Option<PathBuf>,
}

/// Where work is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum UnitFrom {
    /// Seconds of wall time.
    Time,
    /// Unmap calls of the process, counted by the tracer.
    Unmaps,
    /// The counter of --metrics.
    Metrics,
}

impl WatchArgs {
    /// The plan to watch `target`.
    ///
    /// # Errors
    /// [`WatchError::Option`] for options that contradict each other.
    pub fn plan(&self, target: Target) -> Result<Plan, WatchError> {
        let unit = self.unit()?;
        if self.strace && self.trace == Trace::Off {
            return Err(WatchError::Option(
                "--strace traces, and --trace off does not: leave one of them".to_owned(),
            ));
        }
        Ok(Plan {
            unit,
            gauge: self.gauge,
            margin_per_unit: self.margin.unwrap_or_else(|| default_margin(self.gauge, unit)),
            interval_ms: self.interval,
            duration_s: self.duration,
            until_verdict: self.until_verdict,
            metrics: self.metrics.clone(),
            counter: self.counter.clone(),
            trace: self.trace,
            strace: self.strace,
            memory_limit_bytes: self.memory_limit,
            seed: self.seed,
            target,
        })
    }

    fn unit(&self) -> Result<Unit, WatchError> {
        let wrong = |text: &str| Err(WatchError::Option(text.to_owned()));
        match (self.unit_from, &self.metrics) {
            (None | Some(UnitFrom::Metrics), Some(_)) => Ok(Unit::Count),
            (Some(UnitFrom::Metrics), None) => {
                wrong("--unit-from metrics needs --metrics URL and --counter NAME")
            }
            (Some(_), Some(_)) => wrong(
                "--metrics counts the work, and --unit-from says something else: leave one of them",
            ),
            (Some(UnitFrom::Unmaps), None) if self.trace == Trace::Off && !self.strace => wrong(
                "--unit-from unmaps counts by tracing, and --trace off forbids it: leave one of them",
            ),
            (Some(UnitFrom::Unmaps), None) => Ok(Unit::Unmap),
            (None | Some(UnitFrom::Time), None) => Ok(Unit::Second),
        }
    }
}

/// What the kernel tells of any process; the other gauges need a role of pdlab that tells.
const GAUGES: [Gauge; 10] = [
    Gauge::Held,
    Gauge::Rss,
    Gauge::Pinned,
    Gauge::Fds,
    Gauge::Threads,
    Gauge::RdmaMrs,
    Gauge::RdmaMrBytes,
    Gauge::RdmaQps,
    Gauge::RdmaCqs,
    Gauge::RdmaPds,
];

fn parse_gauge(text: &str) -> Result<Gauge, String> {
    let found = GAUGES.into_iter().find(|gauge| gauge.name() == text);
    found.ok_or_else(|| {
        let known: Vec<&str> = GAUGES.iter().map(|gauge| gauge.name()).collect();
        format!("a process tells no \"{text}\" from outside; it tells {}", known.join(", "))
    })
}

fn parse_margin(text: &str) -> Result<f64, String> {
    let margin = text.parse().ok().filter(|margin: &f64| margin.is_finite() && *margin > 0.0);
    margin.ok_or_else(|| format!("\"{text}\" is no margin; write a number above 0"))
}

/// Seconds, from `90s`, `10m`, `2h`, `1.5h` or a plain number.
fn parse_duration(text: &str) -> Result<f64, String> {
    let wrong = || format!("\"{text}\" is no time; write 90s, 10m or 2h");
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let seconds = match unit {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" | "min" => 60.0,
        "h" => 3600.0,
        "d" => 86_400.0,
        _ => return Err(wrong()),
    };
    let time: f64 = number.parse().map_err(|_| wrong())?;
    let time = time * seconds;
    // A year is longer than anybody watches, and fits into every clock.
    if time > 0.0 && time <= 366.0 * 86_400.0 { Ok(time) } else { Err(wrong()) }
}

/// Milliseconds, 10 to 60,000: faster readings would be felt, slower ones come to no verdict.
fn parse_interval(text: &str) -> Result<u64, String> {
    let ms = (parse_duration(text)? * 1000.0).round() as u64;
    if (10..=60_000).contains(&ms) {
        Ok(ms)
    } else {
        Err(format!("\"{text}\" is not between 10ms and 60s"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;
    use proptest::prelude::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        watch: WatchArgs,
    }

    fn parse(line: &str) -> Result<WatchArgs, String> {
        let words = ["watch"].into_iter().chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.watch).map_err(|error| error.to_string())
    }

    fn plan(line: &str) -> Result<Plan, String> {
        parse(line)?.plan(Target::default()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_unit_decides_the_margin() {
        let of = |line: &str| plan(line).map(|plan| (plan.unit, plan.margin_per_unit)).unwrap();
        assert_eq!(of("--pid 1"), (Unit::Second, 4096.0));
        assert_eq!(of("--pid 1 --unit-from unmaps"), (Unit::Unmap, 4.0));
        assert_eq!(of("--pid 1 --metrics http://h/metrics --counter c"), (Unit::Count, 16.0));
        assert_eq!(of("--pid 1 --gauge fds"), (Unit::Second, 0.01));
        assert_eq!(of("--pid 1 --margin 7"), (Unit::Second, 7.0));
    }

    #[test]
    fn what_contradicts_itself_is_refused_in_words() {
        for (line, word) in [
            ("", "--pid"),
            ("--pid x", "x"),
            ("--pid 1 --counter c", "--metrics"),
            ("--pid 1 --metrics http://h/metrics", "--counter"),
            ("--pid 1 --unit-from metrics", "--metrics URL"),
            ("--pid 1 --unit-from time --metrics http://h/ --counter c", "leave one"),
            ("--pid 1 --unit-from unmaps --trace off", "--trace off"),
            ("--pid 1 --strace --trace off", "--strace"),
            ("--pid 1 --gauge kv_blocks", "held, rss, pinned"),
            ("--pid 1 --duration 5x", "10m"),
            ("--pid 1 --duration 0", "10m"),
            ("--pid 1 --interval 1ms", "10ms"),
            ("--pid 1 --margin -1", "-1"),
            ("--pid 1 --margin nan", "above 0"),
        ] {
            let error = plan(line).unwrap_err();
            assert!(error.contains(word), "{line}: {error}");
        }
    }

    #[test]
    fn times_have_units() {
        let times =
            ["90s", "10m", "2h", "1.5h", "7", "500ms"].map(|text| parse_duration(text).unwrap());
        assert_eq!(times, [90.0, 600.0, 7200.0, 5400.0, 7.0, 0.5]);
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_refused(text in "[0-9a-z.+-]{0,12}|.{0,5}") {
            if let Ok(seconds) = parse_duration(&text) {
                prop_assert!(seconds > 0.0 && seconds.is_finite());
            }
        }
    }
}
