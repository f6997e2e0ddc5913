//! What pictures of a run are made of: distributions as percentiles, and the run over time. Pure.
//!
//! A result file has every latency only with `--save-detailed`. These are always there, and of
//! bounded size.

use serde_json::{Map, Value, json};

use super::report::Metric;
use super::{Record, Totals};

/// The percentiles that a distribution is drawn from: every one, and the tail more finely.
fn percents() -> Vec<f64> {
    (0..=99).map(f64::from).chain([99.5, 99.9, 100.0]).collect()
}

/// Each metric's name with its percentiles: a list of `[percent, milliseconds]`. Metrics without
/// samples are left out.
pub(super) fn distributions(totals: &Totals) -> Map<String, Value> {
    let percents = percents();
    let metrics = Metric::ALL.into_iter().filter(|metric| metric.of(totals).count() > 0);
    let points = |metric: Metric| -> Value {
        let values = metric.of(totals).percentiles(&percents);
        percents.iter().zip(values).map(|(percent, s)| json!([percent, s * 1e3])).collect()
    };
    metrics.map(|metric| (metric.name().to_owned(), points(metric))).collect()
}

/// Most intervals of a timeline.
const MOST_INTERVALS: f64 = 240.0;

/// The run in intervals of equal length, whole seconds of them: `interval_s`, and `intervals`, each
/// with the requests `sent`, `completed` and `failed` in it, the `tokens` of those that completed,
/// and the median and 99th percentile of TTFT (`ttft_p50_ms`, `ttft_p99_ms`, of the requests that
/// were due in it; null without any).
pub(super) fn timeline(records: &[Record]) -> Value {
    let end_s = records.iter().map(|record| record.ended_s).fold(0.0, f64::max);
    let interval_s = (end_s / MOST_INTERVALS).ceil().max(1.0);
    let count = (end_s / interval_s) as usize + 1;
    let mut intervals = vec![Interval::default(); if records.is_empty() { 0 } else { count }];
    let at = |s: f64| ((s / interval_s) as usize).min(count - 1);
    for record in records {
        intervals[at(record.sent_s)].sent += 1;
        let ended = &mut intervals[at(record.ended_s)];
        if record.error.is_some() {
            ended.failed += 1;
        } else {
            ended.completed += 1;
            ended.tokens += record.output_tokens;
            intervals[at(record.scheduled_s)].ttfts_s.push(record.ttft_s);
        }
    }
    let intervals: Vec<Value> = intervals.into_iter().map(Interval::json).collect();
    json!({"interval_s": interval_s, "intervals": intervals})
}

#[derive(Debug, Clone, Default)]
struct Interval {
    sent: u64,
    completed: u64,
    failed: u64,
    tokens: u64,
    ttfts_s: Vec<f64>,
}

impl Interval {
    fn json(mut self) -> Value {
        self.ttfts_s.sort_unstable_by(f64::total_cmp);
        let rank = |share: f64| {
            let last = self.ttfts_s.len().checked_sub(1)?;
            Some(self.ttfts_s[(last as f64 * share).round() as usize] * 1e3)
        };
        json!({
            "sent": self.sent,
            "completed": self.completed,
            "failed": self.failed,
            "tokens": self.tokens,
            "ttft_p50_ms": rank(0.5),
            "ttft_p99_ms": rank(0.99),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::Goodput;
    use crate::serve::record::tests::record;

    #[test]
    fn a_timeline_counts_each_request_where_it_was() {
        let failed = Record { error: Some("x".into()), ..record(1.5, 0.0, &[]) };
        let records = [record(0.5, 0.75, &[0.5]), record(0.6, 0.25, &[]), failed];
        let timeline = timeline(&records);
        assert_eq!(timeline["interval_s"], 1.0);
        let of = |name: &str| -> Vec<Value> {
            timeline["intervals"].as_array().unwrap().iter().map(|i| i[name].clone()).collect()
        };
        assert_eq!(of("sent"), [2, 1]);
        assert_eq!(
            (of("completed"), of("failed")),
            (vec![json!(1), json!(1)], vec![json!(0), json!(1)])
        );
        assert_eq!(of("tokens"), [1, 2]);
        assert_eq!(of("ttft_p99_ms"), [json!(750.0), Value::Null]);
    }

    #[test]
    fn long_runs_have_few_intervals() {
        let records = [record(0.0, 0.5, &[]), record(86_000.0, 0.5, &[])];
        let timeline = timeline(&records);
        assert!(timeline["intervals"].as_array().unwrap().len() <= MOST_INTERVALS as usize + 1);
        assert_eq!(super::timeline(&[])["intervals"], json!([]));
    }

    #[test]
    fn distributions_rise_and_leave_out_what_was_not_measured() {
        let mut totals = Totals::default();
        for i in 1..=10 {
            totals.add(&record(0.0, f64::from(i) / 100.0, &[]), &Goodput::default());
        }
        let all = distributions(&totals);
        assert!(all.contains_key("ttft") && !all.contains_key("itl"));
        let values: Vec<f64> =
            all["ttft"].as_array().unwrap().iter().map(|p| p[1].as_f64().unwrap()).collect();
        assert!(values.is_sorted() && (values[0] - 10.0).abs() < 1e-3, "{values:?}");
    }
}
