//! What is to be watched, and by which rules: `watch.toml`, from which the page of the run is made.

use std::fmt;

use pdlab_leak::gauge::{Axes, Gauge};
use pdlab_leak::scenario::Capacity;
use pdlab_leak::work::Unit;
use serde::{Deserialize, Serialize};

use super::target::Target;
use crate::page::growth::Rule;
use crate::repro::Trace;

/// A watch, resolved.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// The unit of work: seconds, unmaps, or counts of `counter`.
    pub unit: Unit,
    /// What is judged.
    pub gauge: Gauge,
    /// Slopes within this much of zero are clean, in what the gauge counts per unit.
    pub margin_per_unit: f64,
    /// Milliseconds between readings.
    pub interval_ms: u64,
    /// Seconds after which the watch ends. Absent: it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_s: Option<f64>,
    /// Whether it ends once a verdict stands.
    pub until_verdict: bool,
    /// Where the work is counted, if not here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<String>,
    /// What counts it there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counter: Option<String>,
    /// Whether allocations are traced.
    pub trace: Trace,
    /// Whether the way of tracing is strace, which stops the process at every call.
    pub strace: bool,
    /// The limit meant by "full in so many hours".
    pub memory_limit_bytes: u64,
    /// Seed of the bootstrap.
    pub seed: u64,
    /// Whose memory it is.
    pub target: Target,
}

impl Plan {
    /// What is judged over which work.
    pub fn axes(&self) -> Axes {
        Axes { gauge: self.gauge, unit: self.unit }
    }

    /// How readings are judged.
    pub fn rule(&self) -> Rule {
        Rule { axes: self.axes(), margin_per_unit: self.margin_per_unit, seed: self.seed }
    }

    /// What runs out, if memory is judged; the process has taken `rss_bytes` of it.
    pub fn capacity(&self, rss_bytes: u64) -> Option<Capacity> {
        let limit = Capacity { taken: rss_bytes, of: self.memory_limit_bytes };
        self.gauge.is_bytes().then_some(limit)
    }

    /// The plan as TOML.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("strings, numbers and tables of them have a TOML form")
    }

    /// Reads a plan back.
    ///
    /// # Errors
    /// With what is wrong with the text, if it is none.
    pub fn parse(text: &str) -> Result<Self, String> {
        toml::from_str(text).map_err(|error: toml::de::Error| error.message().to_owned())
    }

    /// What stands for one unit of work, if that does not speak for itself.
    pub fn unit_told(&self) -> Option<String> {
        match (self.unit, &self.counter, &self.metrics) {
            (Unit::Count, Some(counter), Some(url)) => {
                Some(format!("one count is 1 of {counter} at {url}"))
            }
            _ => None,
        }
    }
}

impl fmt::Display for Plan {
    /// The command that repeats it on a process of the same kind.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "pdlab watch --pid PID --gauge {} --margin {}",
            self.gauge, self.margin_per_unit
        )?;
        match self.unit {
            Unit::Unmap => f.write_str(" --unit-from unmaps")?,
            Unit::Count => {
                let (url, counter) = (self.metrics.as_deref(), self.counter.as_deref());
                let (url, counter) = (url.unwrap_or_default(), counter.unwrap_or_default());
                write!(f, " --metrics {url} --counter '{counter}'")?;
            }
            _ => {}
        }
        if let Some(duration_s) = self.duration_s {
            write!(f, " --duration {duration_s}s")?;
        }
        if self.until_verdict { f.write_str(" --until-verdict") } else { Ok(()) }
    }
}

/// The margin where the user sets none, in what `gauge` counts per `unit`: of bytes 4 KiB per second, which is 350 MB
/// per day, 4 per unmap, as the scenarios have it, and 16 per count; of things 36 per hour, or one per thousand units.
pub fn default_margin(gauge: Gauge, unit: Unit) -> f64 {
    match (gauge.is_bytes(), unit) {
        (true, Unit::Second) => 4096.0,
        (true, Unit::Unmap) => 4.0,
        (true, _) => 16.0,
        (false, Unit::Second) => 0.01,
        (false, _) => 0.001,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A plan as tests want it.
    pub(crate) fn plan(unit: Unit) -> Plan {
        Plan {
            unit,
            gauge: Gauge::Held,
            margin_per_unit: default_margin(Gauge::Held, unit),
            interval_ms: 250,
            duration_s: None,
            until_verdict: false,
            metrics: (unit == Unit::Count).then(|| "http://127.0.0.1:8000/metrics".to_owned()),
            counter: (unit == Unit::Count).then(|| "vllm:generation_tokens_total".to_owned()),
            trace: Trace::Auto,
            strace: false,
            memory_limit_bytes: 64 << 30,
            seed: 1,
            target: Target {
                pid: 4711,
                name: "VLLM::Worker".to_owned(),
                command: "python3 -m vllm".to_owned(),
                ..Target::default()
            },
        }
    }

    #[test]
    fn a_plan_is_read_back_as_it_was_written() {
        for unit in [Unit::Second, Unit::Unmap, Unit::Count] {
            let plan = Plan { duration_s: Some(1.5), ..plan(unit) };
            assert_eq!(Plan::parse(&plan.to_toml()), Ok(plan));
        }
        assert!(Plan::parse("unit = 7").is_err());
    }

    #[test]
    fn the_command_repeats_it() {
        assert_eq!(
            Plan { until_verdict: true, duration_s: Some(600.0), ..plan(Unit::Count) }.to_string(),
            "pdlab watch --pid PID --gauge held --margin 16 --metrics http://127.0.0.1:8000/metrics \
             --counter 'vllm:generation_tokens_total' --duration 600s --until-verdict"
        );
    }
}
