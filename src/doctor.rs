//! `pdlab doctor`: what can run here, and why not.

use std::fs;

use clap::Args;
use pdlab_leak::trace::probe;
use pdlab_leak::trace::tier::{self, Assessment};
use pdlab_transport::builds::{BuildSpec, UcxBuild};
use serde_json::json;

use crate::exit::Failure;
use crate::rdma_args::RdmaArgs;
use crate::transport_args::{DEFAULT_UCX, ucx_builds, ucx_variables};

/// `pdlab doctor`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DoctorArgs {
    /// UCX build to look at: a version, `system`, or a path
    #[arg(long, value_name = "BUILD", default_value = DEFAULT_UCX, env = "PDLAB_UCX")]
    ucx: BuildSpec,
    #[command(flatten)]
    rdma: RdmaArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// One thing that was looked at.
#[derive(Debug, serde::Serialize)]
struct Finding {
    what: String,
    ok: bool,
    detail: String,
}

pub(crate) fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let rdma = args.rdma.settings().map_err(Failure::bad_input)?;
    let (build, found) = find_build(&args.ucx);
    let mut findings = vec![found];
    for probe in pdlab_transport::probe(build.as_ref(), &rdma) {
        let what = format!("transport {}", probe.backend);
        findings.push(Finding { what, ok: probe.usable, detail: probe.detail });
    }
    findings.push(ucx_environment());
    findings.push(limit("map entries per process", "/proc/sys/vm/max_map_count", 65_530));
    findings.push(own_smaps());
    findings.extend(tracing());
    if args.json {
        println!("{}", json!({ "findings": findings }));
        return Ok(());
    }
    for Finding { what, ok, detail } in &findings {
        println!("{} {what}: {detail}", if *ok { "ok " } else { "NO " });
    }
    Ok(())
}

fn find_build(spec: &BuildSpec) -> (Option<UcxBuild>, Finding) {
    let what = format!("UCX build {spec}");
    match ucx_builds().resolve(spec) {
        Ok(build) => {
            let detail = build.directory.display().to_string();
            (Some(build), Finding { what, ok: true, detail })
        }
        Err(error) => (None, Finding { what, ok: false, detail: error.to_string() }),
    }
}

/// Variables that are set change what every run shows.
fn ucx_environment() -> Finding {
    let set: Vec<String> = ucx_variables().iter().map(|(k, v)| format!("{k}={v}")).collect();
    let detail = match set.as_slice() {
        [] => "no UCX_* variable is set".to_owned(),
        set => format!("these win over scenarios and defaults: {}", set.join(" ")),
    };
    Finding { what: "UCX environment".into(), ok: true, detail }
}

/// A kernel limit; `at_least` is the kernel's own default.
fn limit(what: &str, path: &str, at_least: u64) -> Finding {
    let value = fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u64>().ok());
    let (ok, detail) = match value {
        Some(n) if n >= at_least => (true, n.to_string()),
        Some(n) => (false, format!("{n} is below {at_least}: raise {path}")),
        None => (false, format!("{path} cannot be read")),
    };
    Finding { what: what.into(), ok, detail }
}

/// The ways to see who maps memory, the best first, and what to set for those that do not apply.
fn tracing() -> impl Iterator<Item = Finding> {
    let assessments = tier::assess(&probe::facts(None));
    let chosen = tier::choose(&assessments);
    assessments.into_iter().map(move |Assessment { tier, obstacles }| {
        let detail = match obstacles.as_slice() {
            [] if Some(tier) == chosen => format!("chosen. {}", tier.blind_spot()),
            [] => format!("applies. {}", tier.blind_spot()),
            obstacles => obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "),
        };
        Finding { what: format!("tracing by {tier}"), ok: obstacles.is_empty(), detail }
    })
}

/// Leaks are measured from smaps; without it nothing can be.
fn own_smaps() -> Finding {
    let (ok, detail) = match fs::read_to_string("/proc/self/smaps_rollup") {
        Ok(text) if text.contains("Rss:") => {
            (true, "/proc/PID/smaps_rollup can be read".to_owned())
        }
        Ok(_) => (
            false,
            "/proc/self/smaps_rollup has no Rss line: is this Linux 4.14 or later?".to_owned(),
        ),
        Err(error) => (false, format!("/proc/self/smaps_rollup cannot be read: {error}")),
    };
    Finding { what: "memory readings".into(), ok, detail }
}
