//! A sweep as a table and as JSON.

use serde_json::{Map, Value, json};

use super::{Step, Sweep};
use crate::serve::distribution::Distribution;

const HEAD: &str = "    rate/s   served/s   TTFT p50       p99   TPOT p50       p99   E2EL p99  \
                    growth  verdict";

/// A step as a row of the table; times in milliseconds, growth in seconds per second.
pub(super) fn row(step: &Step) -> String {
    let totals = &step.report.totals;
    let [ttft, tpot, e2el] = [&totals.ttft, &totals.tpot, &totals.e2el].map(milliseconds);
    let verdict = step.ceiling.map_or("sustained".to_owned(), |ceiling| ceiling.to_string());
    format!(
        "{:>10.2} {:>10.2} {:>10.1} {:>9.1} {:>10.1} {:>9.1} {:>10.1} {:>7.3}  {verdict}",
        step.rate,
        step.report.per_second(totals.completed),
        ttft[0],
        ttft[1],
        tpot[0],
        tpot[1],
        e2el[1],
        step.growth
    )
}

fn milliseconds(distribution: &Distribution) -> [f64; 2] {
    let values = distribution.percentiles(&[50.0, 99.0]);
    [values[0] * 1e3, values[1] * 1e3]
}

impl Sweep {
    /// Every step in the order of its rate, and what was found.
    pub fn console(&self) -> String {
        let mut steps: Vec<&Step> = self.steps.iter().collect();
        steps.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let rows = steps.into_iter().map(row);
        let mut lines: Vec<String> = std::iter::once(HEAD.to_owned()).chain(rows).collect();
        lines.push(format!("knee       {}", self.finding()));
        lines.join("\n")
    }

    /// What was found, in a sentence.
    pub fn finding(&self) -> String {
        let so_far = if self.stopped { "stopped early; so far: " } else { "" };
        let reason = self
            .failed
            .and_then(|rate| self.steps.iter().find(|step| step.rate == rate)?.ceiling)
            .map(|ceiling| ceiling.to_string())
            .unwrap_or_default();
        match (self.sustained, self.failed) {
            (Some(sustained), Some(failed)) => {
                format!(
                    "{so_far}{sustained:.2} requests/s are sustained, {failed:.2} are not: {reason}"
                )
            }
            (Some(sustained), None) => {
                format!(
                    "{so_far}not reached: {sustained:.2} requests/s, the highest tried, are sustained"
                )
            }
            (None, Some(failed)) => {
                format!(
                    "{so_far}below the lowest rate: {failed:.2} requests/s are not sustained: {reason}"
                )
            }
            (None, None) => format!("{so_far}nothing was measured"),
        }
    }

    /// `mode` ("sweep"), `sustained_rps` and `failed_rps` (numbers or null), `finding`, `stopped`,
    /// and `steps`, each with `request_rate`, `sustained`, `ceiling` (or null), `latency_growth`
    /// and vLLM's names for the rest, in milliseconds.
    pub fn to_json(&self) -> Map<String, Value> {
        let steps: Vec<Value> = self.steps.iter().map(step_json).collect();
        let value = json!({
            "mode": "sweep",
            "sustained_rps": self.sustained,
            "failed_rps": self.failed,
            "finding": self.finding(),
            "stopped": self.stopped,
            "steps": steps,
        });
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

fn step_json(step: &Step) -> Value {
    let (report, totals) = (&step.report, &step.report.totals);
    let [ttft, tpot, e2el] = [&totals.ttft, &totals.tpot, &totals.e2el].map(milliseconds);
    let goodput = (!report.facts.goodput.is_empty()).then(|| report.per_second(totals.good));
    json!({
        "request_rate": step.rate,
        "sustained": step.ceiling.is_none(),
        "ceiling": step.ceiling.map(|ceiling| ceiling.to_string()),
        "latency_growth": step.growth,
        "num_prompts": report.sent,
        "duration": report.duration.as_secs_f64(),
        "completed": totals.completed,
        "failed": totals.failed,
        "request_throughput": report.per_second(totals.completed),
        "request_goodput": goodput,
        "output_throughput": report.per_second(totals.output_tokens),
        "median_ttft_ms": ttft[0],
        "p99_ttft_ms": ttft[1],
        "median_tpot_ms": tpot[0],
        "p99_tpot_ms": tpot[1],
        "median_e2el_ms": e2el[0],
        "p99_e2el_ms": e2el[1],
        "schedule_error_p99_ms": report.schedule_error_ms()[1],
        "client_cores": report.client_cores(),
        "warnings": report.warnings(),
    })
}
