//! `deploy/`: whatever it names exists, and its files are what their readers take.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::common::{PDLAB, Trio, get_text, post};
use crate::foreign::script;

fn deploy(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(file)
}

/// Names of our metrics in a text: of routers they begin with `pdlab`, of workers with `vllm:`.
fn metrics(text: &str) -> BTreeSet<String> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let words = text.split(|c| !in_name(c));
    let ours = words.filter(|word| word.starts_with("vllm:") || word.starts_with("pdlab_router_"));
    ours.map(str::to_owned).collect()
}

#[tokio::test]
async fn every_metric_that_is_shown_or_alerted_on_exists() {
    let trio = Trio::start(&[], &[]);
    // Some series begin with the first request that they count.
    let body = json!({"prompt": "Every metric has a value after a request", "max_tokens": 4});
    let (status, answer) = post(&format!("{}/v1/completions", trio.router.url()), body).await;
    assert_eq!(status, 200, "{answer}");
    let mut exposed = BTreeSet::new();
    for role in [&trio.router, &trio.prefill, &trio.decode] {
        let text = get_text(&format!("{}/metrics", role.url())).await;
        exposed.extend(text.lines().filter(|line| !line.starts_with('#')).flat_map(metrics));
    }
    let dashboard = fs::read_to_string(deploy("grafana/pdlab.json")).unwrap();
    let alerts = fs::read_to_string(deploy("prometheus/alerts.yml")).unwrap();
    for (file, text, least) in [("dashboard", dashboard, 20), ("alerts", alerts, 5)] {
        let named = metrics(&text);
        assert!(named.len() >= least, "{file} names {named:?}");
        let missing: Vec<_> = named.difference(&exposed).collect();
        assert!(missing.is_empty(), "{file}: {missing:?} is not among {exposed:#?}");
    }
}

#[test]
fn the_dashboard_can_be_imported() {
    let text = fs::read_to_string(deploy("grafana/pdlab.json")).unwrap();
    let dashboard: Value = serde_json::from_str(&text).unwrap();
    assert!(dashboard["title"].is_string() && dashboard["schemaVersion"].is_u64());
    let panels = dashboard["panels"].as_array().unwrap();
    let ids: BTreeSet<u64> = panels.iter().map(|panel| panel["id"].as_u64().unwrap()).collect();
    assert_eq!(ids.len(), panels.len(), "ids are unique");
    let place = |p: &Value, side: &str| p["gridPos"][side].as_u64().unwrap();
    for (at, panel) in panels.iter().enumerate() {
        assert!(place(panel, "x") + place(panel, "w") <= 24, "{panel}");
        let apart = |other: &Value| {
            let beside = |near: &str, size: &str| {
                place(panel, near) + place(panel, size) <= place(other, near)
                    || place(other, near) + place(other, size) <= place(panel, near)
            };
            beside("x", "w") || beside("y", "h")
        };
        assert!(panels[..at].iter().all(apart), "panels lie over each other: {panel}");
        if panel["type"] == "row" {
            continue;
        }
        assert!(panel["description"].as_str().is_some_and(|words| !words.is_empty()), "{panel}");
        assert!(!panel["targets"].as_array().unwrap().is_empty(), "{panel}");
    }
}

#[test]
fn manifests_and_configurations_are_valid() {
    let files = ["kubernetes/router.yaml", "kubernetes/prefill.yaml", "kubernetes/decode.yaml"];
    let files = files.map(|file| deploy(file).display().to_string());
    let prometheus = ["prometheus/prometheus.yml", "prometheus/alerts.yml"];
    let prometheus = prometheus.map(|file| deploy(file).display().to_string());
    let args: Vec<&str> =
        std::iter::once(PDLAB).chain(files.iter().chain(&prometheus).map(String::as_str)).collect();
    script("check_deploy.py", &args);
}

#[test]
fn the_unit_of_systemd_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let unit = dir.path().join("pdlab@prefill.service");
    // The unit runs a binary that is not installed where tests run.
    let text = fs::read_to_string(deploy("systemd/pdlab@.service")).unwrap();
    fs::write(&unit, text.replace("/usr/local/bin/pdlab", PDLAB)).unwrap();
    let Ok(output) = Command::new("systemd-analyze").arg("verify").arg(&unit).output() else {
        eprintln!("skipped: systemd-analyze is not installed");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr);
    // It looks at the units of the machine, too; only ours is our business.
    let ours: Vec<_> = said.lines().filter(|line| line.contains("pdlab@")).collect();
    assert!(ours.is_empty(), "{ours:?}");
}

/// The batch script, with Slurm's part played by two lines of shell: every step runs here.
#[test]
fn the_batch_script_runs_a_cluster_and_a_load() {
    let dir = tempfile::tempdir().unwrap();
    let stub = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    stub("srun", r#"while case "$1" in --*) ;; *) false ;; esac; do shift; done; exec "$@""#);
    stub("scontrol", "echo localhost; echo localhost");
    let ports: Vec<String> = free_ports().iter().map(u16::to_string).collect();
    let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
    let out = dir.path().join("out");
    let output = Command::new("bash")
        .arg(deploy("slurm/pdlab.sbatch"))
        .envs([("PATH", &*path), ("PDLAB", PDLAB), ("SLURM_JOB_NODELIST", "localhost")])
        .envs([("KV_SCALE", "0.01"), ("TRANSPORT", "tcp"), ("TIME_SCALE", "0"), ("RATE", "inf")])
        .envs([("PROMPTS", "20"), ("PREFILL_PORT", &ports[0]), ("DECODE_PORT", &ports[1])])
        .env("ROUTER_PORT", &ports[2])
        .env("OUT", &out)
        .output()
        .unwrap();
    let (said, log) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{log}");
    let result = fs::read_to_string(out.join("bench.json")).unwrap();
    let result: Value = serde_json::from_str(&result).unwrap();
    assert_eq!(result["completed"], 20, "{said}");
    for role in ["prefill-0", "decode-0", "router"] {
        let ready = fs::read_to_string(out.join(format!("{role}.ready"))).unwrap();
        let pid = serde_json::from_str::<Value>(&ready).unwrap()["pid"].as_u64().unwrap();
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{role} was left behind");
    }
}

/// Three ports that nobody uses now.
fn free_ports() -> [u16; 3] {
    let listeners = [(); 3].map(|()| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    listeners.map(|listener| listener.local_addr().unwrap().port())
}
