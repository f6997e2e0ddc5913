//! The page of benchmark runs.

use maud::{Markup, html};

use super::plot::{self, Lines, run_class};
use super::{BenchRun, Interval};
use crate::page::html::{fact, key, notice, page, table};
use crate::serve::split::Part;

/// The page of `runs`, of which there is at least one.
pub(in crate::page) fn render(runs: &[BenchRun]) -> String {
    let names: Vec<&str> = runs.iter().map(|run| run.name.as_str()).collect();
    let title = format!("Benchmark: {}", names.join(", "));
    page(
        &title,
        &html! {
            (header(runs))
            @for run in runs { (notice("doubt", &heading(runs, run, "Mind"), &run.warnings)) }
            (figures(runs))
            (latencies(runs))
            (timeline(runs))
            (split(runs))
            (memory(runs))
            (settings(runs))
        },
    )
}

/// A heading that names the run where there are several.
fn heading(runs: &[BenchRun], run: &BenchRun, text: &str) -> String {
    if runs.len() > 1 { format!("{text}: {}", run.name) } else { text.to_owned() }
}

fn header(runs: &[BenchRun]) -> Markup {
    let lead = |run: &BenchRun| {
        let ttft = |percent| {
            run.percentile("ttft", percent).map_or("none".to_owned(), |ms| format!("{ms:.1} ms"))
        };
        format!(
            "{}: {:.2} requests/s served, TTFT p50 {}, p99 {}, {:.0} tokens/s",
            run.load(),
            run.request_throughput,
            ttft(50.0),
            ttft(99.0),
            run.output_throughput
        )
    };
    html! {
        header {
            p class="kicker" { "pdlab bench serve" }
            h1 {
                @if let [run] = runs { (run.model_id) small { (run.name) } }
                @else { (runs.len()) " runs side by side" }
            }
            @for (i, run) in runs.iter().enumerate() {
                p class="lead" {
                    @if runs.len() > 1 { (key(&format!("run-key-{i}"), &run.name)) }
                    (lead(run))
                }
            }
        }
    }
}

/// The numbers, a row a run.
fn figures(runs: &[BenchRun]) -> Markup {
    let columns = [
        "Run",
        "Requests/s",
        "Goodput/s",
        "Tokens/s",
        "TTFT p50, p99",
        "TPOT p50, p99",
        "Latency p50, p99",
        "Failed",
    ];
    let pair = |run: &BenchRun, metric: &str| {
        let ms = |percent| {
            run.percentile(metric, percent).map_or("-".to_owned(), |ms| format!("{ms:.1}"))
        };
        html! { (ms(50.0)) ", " (ms(99.0)) " ms" }
    };
    let row = |run: &BenchRun| {
        vec![
            html! { (run.name) },
            html! { (format!("{:.2}", run.request_throughput)) },
            html! { (run.request_goodput.map_or("-".to_owned(), |good| format!("{good:.2}"))) },
            html! { (format!("{:.0}", run.output_throughput)) },
            pair(run, "ttft"),
            pair(run, "tpot"),
            pair(run, "e2el"),
            html! { (run.failed) " of " (run.completed + run.failed) },
        ]
    };
    let rows: Vec<Vec<Markup>> = runs.iter().map(row).collect();
    html! { section { h2 { "Throughput and latency" } (table("Each run", &columns, &rows)) } }
}

/// How requests are distributed over latencies: what share was answered within a time.
fn latencies(runs: &[BenchRun]) -> Markup {
    let cdf = |id: &'static str, title: &'static str| {
        let lines = runs.iter().enumerate().filter_map(|(i, run)| {
            let points = run.distributions.get(id)?;
            // To the 99th percentile: the very last would push all others to the left.
            let shown = points.iter().filter(|(percent, _)| *percent <= 99.0);
            Some((run_class(i), shown.map(|&(percent, ms)| (ms, percent)).collect()))
        });
        Lines {
            id,
            title,
            caption: html! { (title) ", up to the 99th percentile." },
            x_unit: "ms",
            y_title: "% of requests within",
            bytes: false,
            lines: lines.collect(),
        }
        .draw()
    };
    html! {
        section {
            h2 { "Latency distributions" }
            p class="note" { "Counted from when each request was due, whether or not it could be sent then." }
            (cdf("ttft", "Time to first token"))
            (cdf("itl", "Time from token to token"))
            (cdf("e2el", "Time to the last token"))
        }
    }
}

fn timeline(runs: &[BenchRun]) -> Markup {
    let over_time = |i: usize, value: &dyn Fn(&Interval) -> Option<f64>| {
        let Some(run) = runs.get(i) else { return Vec::new() };
        let at = |slot: usize| slot as f64 * run.timeline.interval_s;
        let points = run.timeline.intervals.iter().enumerate();
        points.filter_map(|(slot, interval)| Some((at(slot), value(interval)?))).collect()
    };
    let per_second = |i: usize| {
        let interval_s = runs.get(i).map_or(1.0, |run| run.timeline.interval_s);
        over_time(i, &|interval| Some(interval.completed as f64 / interval_s))
    };
    let each = |line: &dyn Fn(usize) -> Vec<(f64, f64)>| -> Vec<(String, Vec<(f64, f64)>)> {
        (0..runs.len()).map(|i| (run_class(i), line(i))).collect()
    };
    let mut ttft = each(&|i| over_time(i, &|interval| interval.ttft_p50_ms));
    for i in 0..runs.len() {
        let tail = over_time(i, &|interval| interval.ttft_p99_ms);
        ttft.push((format!("{} tail", run_class(i)), tail));
    }
    let throughput = Lines {
        id: "timeline",
        title: "Requests answered per second",
        caption: html! { "Requests answered per second." },
        x_unit: "s",
        y_title: "requests/s",
        bytes: false,
        lines: each(&per_second),
    };
    let latency = Lines {
        id: "ttft-timeline",
        title: "TTFT over time",
        caption: html! { "TTFT of the requests that were due in each interval: median, and 99th percentile thin." },
        x_unit: "s",
        y_title: "TTFT, ms",
        bytes: false,
        lines: ttft,
    };
    html! { section { h2 { "Over time" } (throughput.draw()) (latency.draw()) } }
}

fn split(runs: &[BenchRun]) -> Markup {
    if runs.iter().all(|run| run.ttft_split.is_none()) {
        return html! {};
    }
    let legend = html! {
        @for (i, part) in Part::ALL.into_iter().enumerate() {
            (key(&format!("part-{i}"), part.title()))
        }
    };
    let columns = ["Run", "Part", "Mean", "p99"];
    let mut rows = Vec::new();
    for run in runs {
        let Some(split) = &run.ttft_split else { continue };
        for part in Part::ALL {
            let times = split.parts.get(part.name()).copied().unwrap_or_default();
            rows.push(vec![
                html! { (run.name) },
                html! { (part.title()) },
                html! { (format!("{:.2} ms", times.mean_ms)) },
                html! { (format!("{:.2} ms", times.p99_ms)) },
            ]);
        }
    }
    html! {
        section {
            h2 { "What TTFT is made of" }
            (plot::split(runs, &legend))
            @for run in runs {
                @if let Some(split) = &run.ttft_split {
                    p {
                        (run.name) ": " (split.requests) " requests told; "
                        (split.kv_loads) " moved KV, "
                        (format!("{:.1} MB", split.kv_bytes_per_request / 1e6)) " each."
                    }
                }
            }
            details { summary { "Every part" } (table("Parts of TTFT", &columns, &rows)) }
        }
    }
}

fn memory(runs: &[BenchRun]) -> Markup {
    if runs.iter().all(|run| run.memory.is_empty()) {
        return html! {};
    }
    let lines = runs.iter().enumerate().flat_map(|(i, run)| {
        run.memory.iter().map(move |process| (run_class(i), process.points.clone()))
    });
    let columns = ["Run", "Process", "First", "Last"];
    let end = |point: Option<&(f64, f64)>| {
        point.map_or("-".to_owned(), |(_, bytes)| format!("{:.1} MB", bytes / 1e6))
    };
    let rows = runs.iter().flat_map(|run| {
        run.memory.iter().map(|process| {
            vec![
                html! { (run.name) },
                html! { (process.process) },
                html! { (end(process.points.first())) },
                html! { (end(process.points.last())) },
            ]
        })
    });
    let figure = Lines {
        id: "memory",
        title: "Resident memory",
        caption: html! { "Resident memory of the load generator and of the processes watched." },
        x_unit: "s",
        y_title: "RSS",
        bytes: true,
        lines: lines.collect(),
    };
    let rows: Vec<Vec<Markup>> = rows.collect();
    html! {
        section { h2 { "Memory" } (figure.draw()) (table("Resident memory", &columns, &rows)) }
    }
}

fn settings(runs: &[BenchRun]) -> Markup {
    html! {
        section {
            h2 { "Settings, and the load generator itself" }
            @for run in runs {
                @if runs.len() > 1 { h3 { (run.name) } }
                dl class="facts" {
                    (fact("Model", &html! { (run.model_id) ", " (run.backend) }))
                    (fact("Load", &html! { (run.load()) ", burstiness " (plain(&run.burstiness)) }))
                    (fact("Requests", &html! { (run.num_prompts) " in " (format!("{:.1} s", run.duration)) }))
                    (fact("Tokens", &html! { (run.total_input_tokens) " in, " (run.total_output_tokens) " out" }))
                    (fact("Begun", &html! { (run.date) " UTC" }))
                    (fact("Schedule error p99", &html! { (format!("{:.3} ms", run.schedule_error_p99_ms)) }))
                    (fact("Wait for a slot p99", &html! { (format!("{:.1} ms", run.client_queue_p99_ms)) }))
                    (fact("Processors of the load generator", &html! { (format!("{:.2}", run.client_cores)) }))
                }
                @if !run.errors_by_message.is_empty() {
                    ul { @for (error, count) in &run.errors_by_message { li { (count) " x " (error) } } }
                }
            }
        }
    }
}

/// A number or a word of JSON, without quotes.
fn plain(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
