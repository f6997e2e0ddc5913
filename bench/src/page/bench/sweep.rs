//! A sweep of rates as one page: what was served and how long it took, by the rate that was offered.

use maud::{Markup, html};
use serde::Deserialize;
use serde_json::Value;

use super::plot::{Line, Lines, run_class};
use crate::page::error::PageError;
use crate::page::html::{key, notice, page, table};

/// A sweep, from its `result.json`. Fields are described where they are written
/// (`bench/src/serve/sweep/table.rs`).
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct SweepRun {
    /// The directory's name.
    #[serde(skip)]
    pub name: String,
    finding: String,
    steps: Vec<Step>,
}

/// A rate that was tried.
#[derive(Debug, Clone, PartialEq, Deserialize)]
struct Step {
    request_rate: f64,
    sustained: bool,
    ceiling: Option<String>,
    num_prompts: u64,
    failed: u64,
    request_throughput: f64,
    request_goodput: Option<f64>,
    median_ttft_ms: Option<f64>,
    p99_ttft_ms: Option<f64>,
    median_e2el_ms: Option<f64>,
    p99_e2el_ms: Option<f64>,
    schedule_error_p99_ms: f64,
    #[serde(default)]
    warnings: Vec<String>,
}

impl SweepRun {
    /// Whether a `result.json` is one of these.
    pub(in crate::page) fn is_one(json: &str) -> bool {
        let value: Value = serde_json::from_str(json).unwrap_or_default();
        value["mode"] == "sweep" && value["steps"].is_array()
    }

    /// The sweep of the directory `name`.
    pub(in crate::page) fn parse(name: &str, json: &str) -> Result<Self, PageError> {
        let mut sweep: Self = serde_json::from_str(json)
            .map_err(|error| PageError::json(format!("{name}/result.json"), &error))?;
        // They were tried in the order of the search.
        sweep.steps.sort_by(|a, b| a.request_rate.total_cmp(&b.request_rate));
        Ok(Self { name: name.to_owned(), ..sweep })
    }

    fn line(&self, value: impl Fn(&Step) -> Option<f64>) -> Line {
        self.steps.iter().filter_map(|step| Some((step.request_rate, value(step)?))).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let of_step = |step: &Step| {
            let rate = step.request_rate;
            let with_rate = |warning: &String| format!("At {rate:.2} requests/s: {warning}");
            step.warnings.iter().map(with_rate).collect::<Vec<_>>()
        };
        self.steps.iter().flat_map(of_step).collect()
    }
}

/// The page.
pub(in crate::page) fn render(sweep: &SweepRun) -> String {
    page(
        &format!("Sweep: {}", sweep.name),
        &html! {
            header {
                p class="kicker" { "pdlab bench serve --sweep" }
                h1 { (sweep.finding) small { (sweep.name) } }
            }
            (notice("doubt", "Mind", &sweep.warnings()))
            (drawings(sweep))
            (steps(sweep))
        },
    )
}

fn drawings(sweep: &SweepRun) -> Markup {
    let legend = |keys: &[&str], text: &str| {
        html! { @for (i, name) in keys.iter().enumerate() { (key(&format!("run-key-{i}"), name)) } (text) }
    };
    let good = sweep.line(|step| step.request_goodput);
    let served: &[&str] =
        if good.is_empty() { &["answered"] } else { &["answered", "within the service level"] };
    let figure = |id, title, caption, y_title, lines: [Line; 2]| {
        let lines = lines.into_iter().enumerate();
        Lines {
            id,
            title,
            caption,
            x_unit: "requests/s offered",
            y_title,
            bytes: false,
            lines: lines.map(|(i, line)| (run_class(i), line)).collect(),
        }
        .draw()
    };
    html! {
        section {
            h2 { "By the rate offered" }
            (figure(
                "ttft", "Time to first token",
                legend(&["median", "99th percentile"], "of the time to the first token, from when a request was due."),
                "TTFT, ms",
                [sweep.line(|step| step.median_ttft_ms), sweep.line(|step| step.p99_ttft_ms)],
            ))
            (figure(
                "served", "Served",
                legend(served, "per second. Where the first bends away, requests queue."),
                "requests/s",
                [sweep.line(|step| Some(step.request_throughput)), good],
            ))
        }
    }
}

fn steps(sweep: &SweepRun) -> Markup {
    let columns = [
        "Offered/s",
        "Served/s",
        "TTFT p50, p99",
        "Latency p50, p99",
        "Failed",
        "Late by, p99",
        "Sustained",
    ];
    let pair = |median: Option<f64>, p99: Option<f64>| {
        let ms = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        html! { (ms(median)) ", " (ms(p99)) " ms" }
    };
    let row = |step: &Step| {
        vec![
            html! { (format!("{:.2}", step.request_rate)) },
            html! { (format!("{:.2}", step.request_throughput)) },
            pair(step.median_ttft_ms, step.p99_ttft_ms),
            pair(step.median_e2el_ms, step.p99_e2el_ms),
            html! { (step.failed) " of " (step.num_prompts) },
            html! { (format!("{:.2} ms", step.schedule_error_p99_ms)) },
            html! { @if step.sustained { "yes" } @else { (step.ceiling.as_deref().unwrap_or("no")) } },
        ]
    };
    let rows: Vec<Vec<Markup>> = sweep.steps.iter().map(row).collect();
    html! { section { h2 { "Every rate" } (table("Rates in rising order", &columns, &rows)) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn result() -> String {
        let step = |rate: f64, sustained: bool| {
            json!({"request_rate": rate, "sustained": sustained,
                "ceiling": (!sustained).then_some("saturated"), "latency_growth": 0.0,
                "num_prompts": 100, "duration": 10.0, "completed": 99, "failed": 1,
                "request_throughput": rate.min(30.0), "request_goodput": null,
                "output_throughput": 10.0 * rate, "median_ttft_ms": rate, "p99_ttft_ms": 3.0 * rate,
                "median_tpot_ms": 1.0, "p99_tpot_ms": 2.0, "median_e2el_ms": 40.0,
                "p99_e2el_ms": null, "schedule_error_p99_ms": 0.1, "client_cores": 0.2,
                "warnings": if sustained { vec![] } else { vec!["1 request failed <b>"] }})
        };
        json!({"mode": "sweep", "sustained_rps": 30.0, "failed_rps": 32.0,
            "finding": "30 requests/s are sustained", "stopped": null,
            "steps": [step(20.0, true), step(40.0, false), step(30.0, true)]})
        .to_string()
    }

    #[test]
    fn sweeps_are_told_from_others() {
        assert!(SweepRun::is_one(&result()));
        assert!(!SweepRun::is_one("{}") && !SweepRun::is_one("oops"));
        assert!(!SweepRun::is_one(&super::super::tests::result(5.0)));
    }

    #[test]
    fn the_page_has_every_rate_in_order_and_escapes_what_it_shows() {
        let sweep = SweepRun::parse("s", &result()).unwrap();
        let rates: Vec<f64> = sweep.steps.iter().map(|step| step.request_rate).collect();
        assert_eq!(rates, [20.0, 30.0, 40.0]);
        let page = render(&sweep);
        for part in [
            "30 requests/s are sustained",
            "1 of 100",
            "id=\"ttft\"",
            "id=\"served\"",
            "saturated",
            "At 40.00 requests/s: 1 request failed &lt;b&gt;",
            "40.0, - ms",
        ] {
            assert!(page.contains(part), "{part} is not in the page");
        }
        assert!(!page.contains("<script"));
    }

    #[test]
    fn the_service_level_is_shown_where_there_is_one() {
        let without = SweepRun::parse("s", &result()).unwrap();
        assert!(!render(&without).contains("within the service level"));
        let with = result().replace("\"request_goodput\":null", "\"request_goodput\":9.5");
        assert!(render(&SweepRun::parse("s", &with).unwrap()).contains("within the service level"));
    }

    #[test]
    fn a_sweep_without_a_step_has_a_page() {
        let json = json!({"mode": "sweep", "finding": "nothing was tried", "steps": []});
        let page = render(&SweepRun::parse("s", &json.to_string()).unwrap());
        assert!(page.contains("nothing was tried") && !page.contains("id=\"ttft\""));
    }
}
