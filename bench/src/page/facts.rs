//! What was run, what it did, and how to do it again.

use maud::{Markup, html};

use pdlab_leak::explain;
use pdlab_leak::scenario::Scenario;

use super::html::{fact, link, prose};
use super::run::Run;
use super::words;
use crate::repro::report::RunReport;
use crate::repro::words::{amount, change, counted, grouped, path};

/// What was run: transport, versions, settings, sizes.
pub(super) fn settings(run: &Run) -> Markup {
    let scenario = &run.scenario;
    let cluster = &scenario.cluster;
    html! {
        section {
            h2 { "What was run" }
            dl class="facts" {
                (fact("Transport", &html! { (ran_on(run)) }))
                (fact("Settings", &env(scenario)))
                (fact("Judged", &html! {
                    (scenario.measure.gauge.subject()) " of " (scenario.role.name()) ", per "
                    (scenario.unit)
                }))
                @if !scenario.faults.is_empty() { (fact("Mistakes made on purpose", &faults(scenario))) }
                (fact("Cluster", &html! {
                    (counted(cluster.prefill.into(), "prefill")) ", "
                    (counted(cluster.decode.into(), "decode")) ", " (cluster.model)
                    " with KV scaled by " (cluster.kv_scale) ", "
                    (counted(u64::from(cluster.num_gpu_blocks), "KV block")) " of "
                    (cluster.block_size) " tokens"
                }))
                (fact("Load", &load(scenario)))
                @if let Some(churn) = &scenario.churn {
                    (fact("Churn", &html! {
                        (churn.pattern.name()) " in " (churn.role.name()) ", "
                        (amount(churn.bytes as f64)) " each; "
                        (churn.unmaps_per_step) " unmaps per engine step, "
                        (churn.unmaps_per_token) " per token"
                    }))
                }
                (fact("Seed", &html! { (scenario.seed) }))
                @if let Some(models) = &scenario.models { (fact("Stands for", &prose(models))) }
                @if let Some(bug) = &scenario.bug {
                    (fact("Discussed at", &link(bug, bug)))
                }
            }
            details {
                summary { "What the scenario models" }
                @for paragraph in scenario.description.split("\n\n") {
                    p { (prose(paragraph)) }
                }
            }
        }
    }
}

fn ran_on(run: &Run) -> String {
    match &run.report {
        Some(report) => {
            path(report.result.transport_or_any(), report.result.ucx_version.as_deref())
        }
        None => path(run.scenario.transport, Some(&run.scenario.ucx)),
    }
}

fn env(scenario: &Scenario) -> Markup {
    html! {
        @if scenario.env.is_empty() { "none" }
        @for (name, value) in &scenario.env {
            code { (words::breakable(&format!("{name}={value}"))) } br;
        }
    }
}

fn faults(scenario: &Scenario) -> Markup {
    html! {
        @for fault in &scenario.faults {
            (fault.role.name())
            @if let Some(process) = fault.process { "-" (process) }
            ": " code { (fault.kind) } br;
        }
    }
}

fn load(scenario: &Scenario) -> Markup {
    let load = &scenario.load;
    html! {
        @match load.request_rate.per_second() {
            Some(rate) => { (rate) " requests per second" },
            None => "as many requests per second as are answered",
        }
        ", at most " (load.concurrency) " at once; " (load.input_tokens) " tokens in, "
        (load.output_tokens) " out"
    }
}

/// What the run did: proof that it was no idle one.
pub(super) fn work(run: &Run) -> Markup {
    html! {
        @if let Some(report) = &run.report {
            section {
                h2 { "What it did meanwhile" }
                (done(run, report))
            }
        }
    }
}

fn done(run: &Run, report: &RunReport) -> Markup {
    let (result, work) = (&report.result, &report.result.work);
    let scenario = &run.scenario;
    let estimate = run.growth.as_ref().and_then(|growth| growth.judgement.estimate.as_ref());
    html! {
        dl class="facts" {
            (fact("Measured", &html! {
                (words::amount(report.units, result.unit)) " in "
                (format!("{:.1} s", result.duration_s)) ", "
                (format!("{:.1} s", report.total_s)) " in all"
                @if report.limit_reached.is_some() { "; a limit of the scenario was reached" }
            }))
            @if let Some(estimate) = estimate {
                (fact("Warm-up", &html! { (explain::warmup(estimate, scenario.axes())) }))
            }
            (fact("Requests", &html! {
                (grouped(work.requests)) " answered while measuring ("
                (format!("{:.0}", report.requests_per_s)) " per second), "
                (grouped(report.requests_failed)) " failed"
                @if report.requests_abandoned > 0 {
                    ", " (grouped(report.requests_abandoned)) " given up by their clients"
                }
            }))
            (fact("KV moved", &html! {
                (amount(work.kv_bytes as f64)) " in " (counted(work.transfers, "transfer")) "; "
                (counted(work.blocks_verified, "block")) " verified, "
                (grouped(work.corrupt_blocks)) " corrupt"
            }))
            @if report.reads_refused > 0 {
                (fact("KV reads refused or corrupt", &html! { (grouped(report.reads_refused)) }))
            }
            @if let Some(held) = &report.held_after_drain {
                (fact("Held after the drain", &html! { (held) }))
            }
            @if let (Some(first_us), Some(last_us)) = (result.cost_first_us, result.cost_last_us) {
                (fact(&format!("CPU per {}", result.unit), &html! {
                    (format!("{first_us:.1} µs in the first quarter, {last_us:.1} µs in the last"))
                }))
            }
            (fact("RSS of the judged process", &html! { (change(result.rss_growth_bytes as f64)) }))
        }
    }
}

/// How to run it again.
pub(super) fn repeat(run: &Run) -> Markup {
    let fetch = (run.scenario.transport.name() == "ucx" && run.scenario.ucx_version().is_some())
        .then(|| format!("pdlab ucx fetch {}\n", run.scenario.ucx));
    html! {
        section {
            h2 { "How to repeat it" }
            pre { (fetch.unwrap_or_default()) "pdlab repro " (run.name) "/scenario.toml" }
            details {
                summary { "scenario.toml" }
                pre { (run.scenario_toml) }
            }
        }
    }
}

/// The ends of the logs.
pub(super) fn logs(run: &Run) -> Markup {
    html! {
        @if !run.logs.is_empty() {
            section {
                h2 { "Logs" }
                @for (role, log) in &run.logs {
                    details {
                        summary { (role) ".log, last lines" }
                        pre { (log) }
                    }
                }
            }
        }
    }
}
