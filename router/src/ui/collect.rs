//! Looks at the cluster once a tick.

use std::sync::Arc;

use bytes::Bytes;
use hyper::header::HOST;
use hyper::{Request, StatusCode, Uri};
use pdlab_api::live::{LiveHealth, LiveRole};
use pdlab_api::ready::Role;
use pdlab_api::snapshot::Snapshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::timeline::Seen;
use super::{TICK, Ui, lock, name, now_ms};
use crate::fleet::{Fleet, Leg, Worker};
use crate::health::Status;
use crate::legs::Pieces;
use crate::server::Shared;

/// A snapshot has about a kilobyte; whatever is larger than this is not one.
const SNAPSHOT_LIMIT_BYTES: usize = 256 << 10;

/// Looks until the router ends. Never returns; returns at once if there is no page.
pub(crate) async fn collect(shared: Arc<Shared>) {
    let Some(ui) = &shared.ui else { return };
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let seen = look(&shared, ui).await;
        lock(&ui.timeline).tick(seen);
    }
}

async fn look(shared: &Arc<Shared>, ui: &Ui) -> Seen {
    let mut roles = vec![router(shared)];
    roles.extend(fleet(&shared.prefill, Leg::Prefill).await);
    roles.extend(fleet(&shared.decode, Leg::Decode).await);
    let now = Instant::now();
    for role in &mut roles {
        role.memory = ui.memory_of(&role.name, now);
    }
    let (ttft, itl) = ui.turn_latency();
    Seen { at_ms: now_ms(), roles, failed: shared.metrics.failed_generations(), ttft, itl }
}

fn router(shared: &Shared) -> LiveRole {
    LiveRole {
        name: "router".to_owned(),
        role: Role::Router,
        url: None,
        health: LiveHealth::Up,
        why: None,
        in_flight: shared.metrics.in_flight(),
        snapshot: Some(shared.snapshot()),
        memory: None,
    }
}

/// All workers of a role, asked at the same time, so that one that is stuck delays no other.
async fn fleet(fleet: &Fleet, leg: Leg) -> Vec<LiveRole> {
    let mut asked = JoinSet::new();
    let healths = fleet.healths();
    for (worker, (status, _)) in fleet.workers().iter().zip(&healths) {
        if *status != Status::Down {
            let worker = worker.clone();
            asked.spawn(async move {
                // Half a tick: a late answer is worth less than a point in time.
                let answer = timeout(TICK / 2, snapshot(&worker)).await;
                (worker.index, answer.ok().flatten())
            });
        }
    }
    let mut snapshots = vec![None; healths.len()];
    while let Some(answer) = asked.join_next().await {
        // A task that panicked has no answer.
        if let Ok((index, snapshot)) = answer {
            snapshots[index] = snapshot;
        }
    }
    let describe = |((worker, (status, why)), snapshot): ((&Arc<Worker>, _), _)| LiveRole {
        name: name(leg, worker.index),
        role: match leg {
            Leg::Prefill => Role::Prefill,
            Leg::Decode => Role::Decode,
        },
        url: Some(worker.url.to_string()),
        health: match status {
            Status::Healthy => LiveHealth::Up,
            Status::Suspect => LiveHealth::Suspect,
            Status::Down => LiveHealth::Down,
        },
        why,
        in_flight: worker.in_flight(),
        snapshot,
        memory: None,
    };
    fleet.workers().iter().zip(healths).zip(snapshots).map(describe).collect()
}

/// `None` if it has none, as a worker that is not pdlab's.
async fn snapshot(worker: &Worker) -> Option<Snapshot> {
    let mut request = Request::new(Pieces::from(Bytes::new()));
    *request.uri_mut() = Uri::from_static("/pdlab/snapshot");
    request.headers_mut().insert(HOST, worker.host.clone());
    let reply = worker.pool.send(request).await.ok()?;
    if reply.head.status != StatusCode::OK {
        return None;
    }
    let body = reply.body.collect(SNAPSHOT_LIMIT_BYTES).await.ok()?;
    serde_json::from_slice(&body).ok()
}
