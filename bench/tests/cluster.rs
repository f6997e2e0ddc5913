//! Clusters of fake roles: what happens when a role behaves, and when it does not.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use pdlab_api::ready::Role;
use pdlab_bench::cluster::{
    ChurnPlan, Cluster, ClusterError, ClusterPlan, End, EnginePlan, Patience, Policy, up,
};
use pdlab_leak::scenario::{Pattern, Transport};
use tokio_util::sync::CancellationToken;

/// Short enough for tests, long enough for a busy machine to start a small process.
const PATIENCE: Patience = Patience {
    start: Duration::from_secs(10),
    stop: Duration::from_secs(5),
    drain: Duration::from_millis(200),
};

fn plan(env: &[(&str, &str)]) -> ClusterPlan {
    let env: BTreeMap<String, String> =
        env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    ClusterPlan {
        program: env!("CARGO_BIN_EXE_pdlab-fake-role").into(),
        prefill_count: 1,
        decode_count: 2,
        engine: EnginePlan {
            model: "fake".into(),
            served_model_name: None,
            kv_scale: 1.0,
            time_scale: 0.0,
            num_gpu_blocks: 10,
            kv_prefault: true,
            block_size: 16,
            max_num_seqs: 8,
            max_num_batched_tokens: 2048,
        },
        transport: Transport::Tcp,
        ucx: None,
        churn: ChurnPlan {
            pattern: Pattern::Same,
            bytes: 4096,
            resident: 1,
            per_step: 1.0,
            per_token: 0.0,
            rate_per_s: 0.0,
        },
        kv_lease_duration_s: 30.0,
        kv_read_timeout_ms: 1000,
        decode_max_num_seqs: None,
        decode_max_model_len: None,
        decode_memlock_bytes: None,
        renew_engine_every: None,
        reconnect_every: None,
        health_interval_s: None,
        faults: Vec::new(),
        seed: 1,
        policy: Policy::RoundRobin,
        listen: ("127.0.0.1".into(), 0),
        ui: false,
        env,
    }
}

fn never() -> CancellationToken {
    CancellationToken::new()
}

/// Processes that run the fake role with its log in `dir`: those of this test and no other's.
fn children(dir: &Path) -> Vec<u32> {
    let mut pids = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("/proc is there").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // Descriptor 2 of a zombie cannot be read: it counts as gone, which it is.
        let stderr = std::fs::read_link(format!("/proc/{pid}/fd/2"));
        if stderr.is_ok_and(|file| file.starts_with(dir)) {
            pids.push(pid);
        }
    }
    pids
}

/// Whether no child is left within a bound: a killed process takes a moment to go.
async fn none_left(dir: &Path) -> bool {
    for _ in 0..500 {
        if children(dir).is_empty() {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    false
}

async fn fails_to_start(env: &[(&str, &str)], patience: Patience) -> ClusterError {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let error = Cluster::start(&plan(env), dir.path(), patience, &never())
        .await
        .expect_err("it must not start");
    assert_eq!(
        children(dir.path()),
        [0u32; 0],
        "every child is reaped before the error is returned"
    );
    error
}

#[tokio::test]
async fn a_crashed_decode_comes_back_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&plan(&[]), dir.path(), PATIENCE, &never()).await.unwrap();
    let (before, url) = (cluster.roles()[2].pid(), cluster.roles()[2].ready().http.clone());
    cluster.crash(2).await.unwrap();
    let decode = &cluster.roles()[2];
    assert_eq!((decode.label(), &decode.ready().http), ("decode-1", &url));
    assert_ne!(decode.pid(), before);
    assert_eq!(cluster.snapshot(2).await.unwrap().pid, cluster.roles()[2].pid());
    let log = std::fs::read_to_string(dir.path().join("decode-1.log")).unwrap();
    assert_eq!(log.matches("fake decode with").count(), 2, "both lives are in one log: {log}");
    assert_eq!(cluster.stop().await.len(), 4);
    assert!(none_left(dir.path()).await);
}

#[tokio::test]
async fn a_cluster_starts_answers_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(&plan(&[]), dir.path(), PATIENCE, &never()).await.unwrap();
    let labels: Vec<&str> = cluster.roles().iter().map(|role| role.label()).collect();
    assert_eq!(labels, ["prefill-0", "decode-0", "decode-1", "router"]);
    assert_eq!(cluster.of(Role::Decode).count(), 2);
    assert_eq!(children(dir.path()).len(), 4);
    for index in 0..4 {
        let snapshot = cluster.snapshot(index).await.unwrap();
        assert_eq!(snapshot.pid, cluster.roles()[index].pid());
    }
    assert_eq!(cluster.drained(cluster.drain_patience()).await.unwrap().len(), 4);
    let router_log = std::fs::read_to_string(dir.path().join("router.log")).unwrap();
    for decode in cluster.of(Role::Decode) {
        assert!(router_log.contains(&decode.ready().http), "the router knows {}", decode.label());
    }
    let ends = cluster.stop().await;
    assert!(
        ends.iter().all(|end| matches!(end, End::Exited(status) if status.success())),
        "{ends:?}"
    );
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn a_role_that_exits_at_once_is_quoted() {
    let error = fails_to_start(&[("FAKE_DECODE", "exit")], PATIENCE).await;
    assert!(
        matches!(&error, ClusterError::NotStarted { role, status, .. }
        if role == "decode-0" && status.code() == Some(3)),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains("ERROR no libucp here") && text.contains("decode-0.log"), "{text}");
}

#[tokio::test]
async fn a_garbled_ready_line_is_shown() {
    let error = fails_to_start(&[("FAKE_PREFILL", "garbage")], PATIENCE).await;
    assert!(error.to_string().contains("listening"), "{error}");
}

#[tokio::test]
async fn other_lines_on_stdout_go_to_the_log() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let plan = plan(&[("FAKE_DECODE", "chatty")]);
    let cluster = Cluster::start(&plan, dir.path(), PATIENCE, &never()).await.expect("it starts");
    cluster.stop().await;
    let log = std::fs::read_to_string(dir.path().join("decode-0.log")).expect("a log");
    assert!(log.contains("before it is ready") && log.contains("and after"), "{log}");
}

#[tokio::test]
async fn a_role_that_says_it_is_another_is_refused() {
    let error = fails_to_start(&[("FAKE_DECODE", "impostor")], PATIENCE).await;
    assert!(error.to_string().contains("started as decode, not as router"), "{error}");
}

#[tokio::test]
async fn a_role_that_is_never_ready_meets_a_deadline() {
    let patience = Patience { start: Duration::from_millis(300), ..PATIENCE };
    let error = fails_to_start(&[("FAKE_PREFILL", "silent")], patience).await;
    assert!(
        matches!(&error, ClusterError::NotReady { role, .. } if role == "prefill-0"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_role_that_is_never_healthy_meets_a_deadline() {
    let patience = Patience { start: Duration::from_millis(1000), ..PATIENCE };
    let error = fails_to_start(&[("FAKE_ROUTER", "sick")], patience).await;
    assert!(error.to_string().contains("503"), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let plan = ClusterPlan { program: "/nonexistent/pdlab".into(), ..plan(&[]) };
    let error = Cluster::start(&plan, dir.path(), PATIENCE, &never()).await.unwrap_err();
    assert!(error.to_string().contains("/nonexistent/pdlab"), "{error}");
}

#[tokio::test]
async fn a_log_directory_that_is_not_there_is_named() {
    let error = Cluster::start(&plan(&[]), Path::new("/nonexistent"), PATIENCE, &never())
        .await
        .unwrap_err();
    assert!(matches!(&error, ClusterError::Log { .. }), "{error:?}");
}

#[tokio::test]
async fn a_role_that_ignores_sigterm_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let patience = Patience { stop: Duration::from_millis(300), ..PATIENCE };
    let plan = plan(&[("FAKE_PREFILL", "deaf")]);
    let cluster = Cluster::start(&plan, dir.path(), patience, &never()).await.unwrap();
    let ends = cluster.stop().await;
    assert_eq!(ends[0], End::Killed);
    assert!(ends[1..].iter().all(|end| matches!(end, End::Exited(_))), "{ends:?}");
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn a_dropped_cluster_leaves_no_child() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&[("FAKE_DECODE", "deaf")]);
    drop(Cluster::start(&plan, dir.path(), PATIENCE, &never()).await.unwrap());
    assert!(none_left(dir.path()).await, "{:?}", children(dir.path()));
}

#[tokio::test]
async fn a_start_that_is_dropped_leaves_no_child() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, cancel) = (plan(&[("FAKE_PREFILL", "silent")]), never());
    let start = Cluster::start(&plan, dir.path(), PATIENCE, &cancel);
    tokio::time::timeout(Duration::from_millis(200), start).await.unwrap_err();
    assert!(none_left(dir.path()).await, "{:?}", children(dir.path()));
}

#[tokio::test]
async fn a_start_that_is_cancelled_has_reaped_every_child() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, cancel) = (plan(&[("FAKE_PREFILL", "silent")]), never());
    let start = Cluster::start(&plan, dir.path(), PATIENCE, &cancel);
    let cancelling = async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        cancel.cancel();
    };
    let (started, ()) = tokio::join!(start, cancelling);
    assert!(matches!(started, Err(ClusterError::Cancelled)), "{started:?}");
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn up_serves_until_it_is_cancelled() {
    let dir = tempfile::tempdir().unwrap();
    let (plan, cancel) = (plan(&[]), never());
    let mut told = None;
    let ends = up::run(&plan, dir.path(), PATIENCE, &cancel, |addresses| {
        told = Some(addresses.clone());
        cancel.cancel();
    });
    assert_eq!(ends.await.unwrap().len(), 4);
    let addresses = told.unwrap();
    assert_eq!(addresses.roles.len(), 4);
    assert_eq!(addresses.url, addresses.roles[3].http);
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn up_ends_when_a_role_dies() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&[("FAKE_DECODE", "mortal")]);
    let error = up::run(&plan, dir.path(), PATIENCE, &never(), |_| {}).await.unwrap_err();
    assert!(matches!(&error, ClusterError::Died { .. }), "{error:?}");
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn a_role_that_dies_later_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&[("FAKE_PREFILL", "mortal")]);
    let mut cluster = Cluster::start(&plan, dir.path(), PATIENCE, &never()).await.unwrap();
    let mut snapshot = cluster.snapshot(0).await;
    for _ in 0..500 {
        if snapshot.is_err() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
        snapshot = cluster.snapshot(0).await;
    }
    let error = loop {
        // The connection may break a moment before the process can be reaped.
        match cluster.snapshot(0).await.unwrap_err() {
            ClusterError::Http { .. } => tokio::time::sleep(Duration::from_millis(10)).await,
            error => break error,
        }
    };
    assert!(
        matches!(&error, ClusterError::Died { status, .. } if status.code() == Some(9)),
        "{error:?}"
    );
    assert!(error.to_string().contains("ERROR out of luck"), "{error}");
    assert!(cluster.check_alive().is_err());
    let ends = cluster.stop().await;
    assert!(matches!(ends[0], End::Exited(status) if status.code() == Some(9)), "{ends:?}");
    assert_eq!(children(dir.path()), [0u32; 0]);
}

#[tokio::test]
async fn blocks_that_never_come_back_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let plan = plan(&[("FAKE_PREFILL", "hoarder")]);
    let mut cluster = Cluster::start(&plan, dir.path(), PATIENCE, &never()).await.unwrap();
    let error = cluster.drained(cluster.drain_patience()).await.unwrap_err();
    assert!(error.to_string().starts_with("prefill-0 still holds 4 KV blocks"), "{error}");
    cluster.stop().await;
}
