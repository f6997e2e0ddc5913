//! Fake workers and a plain client, over real sockets.
#![expect(clippy::unwrap_used, reason = "a helper that fails fails the test")]

pub(crate) mod client;
pub(crate) mod fake;

use std::net::SocketAddr;
use std::time::Duration;

use pdlab_router::{Drained, Handle, HealthConfig, Router, RouterConfig};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use fake::Fake;

/// What a prefill worker answers, with a number format that re-encoding would lose.
pub(crate) const PARAMS: &str = r#"{"do_remote_prefill":true,"do_remote_decode":false,"remote_block_ids":[[3,4]],"remote_engine_id":"e","remote_request_id":"cmpl-1","remote_host":"127.0.0.1","remote_port":5600,"tp_size":1,"x_future":1.50}"#;

/// A whole prefill answer around [`PARAMS`].
pub(crate) fn prefill_answer() -> String {
    format!(r#"{{"id":"cmpl-1","choices":[{{"text":"a"}}],"kv_transfer_params":{PARAMS}}}"#)
}

/// A router that serves, and how to stop it.
pub(crate) struct Serving {
    pub(crate) addr: SocketAddr,
    pub(crate) handle: Handle,
    stop: CancellationToken,
    task: JoinHandle<Drained>,
}

/// Settings with test-sized times.
pub(crate) fn config(prefill: &[&Fake], decode: &[&Fake]) -> RouterConfig {
    let urls = |fakes: &[&Fake]| fakes.iter().map(|fake| fake.addr.into()).collect();
    let mut config = RouterConfig::new(([127, 0, 0, 1], 0).into(), urls(prefill), urls(decode));
    config.health = HealthConfig { interval: Duration::from_millis(20), ..config.health };
    config.connect_timeout = Duration::from_secs(5);
    config
}

/// Serves once every worker has been found healthy.
pub(crate) async fn serve(config: RouterConfig) -> Serving {
    let serving = serve_at_once(config).await;
    let handle = serving.handle.clone();
    eventually("all workers healthy", || handle.workers().iter().all(|w| w.healthy)).await;
    serving
}

pub(crate) async fn serve_at_once(config: RouterConfig) -> Serving {
    let router = Router::bind(config).await.unwrap();
    let (addr, handle) = (router.local_addr(), router.handle());
    let stop = CancellationToken::new();
    let task = tokio::spawn(router.serve(stop.clone().cancelled_owned()));
    Serving { addr, handle, stop, task }
}

impl Serving {
    pub(crate) fn begin_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) async fn stop(self) -> Drained {
        self.stop.cancel();
        self.task.await.unwrap()
    }

    /// Nothing in flight, on the router or by its account of the workers.
    pub(crate) async fn drained(&self) {
        eventually("drained", || {
            self.handle.snapshot().is_drained()
                && self.handle.workers().iter().all(|w| w.in_flight == 0)
        })
        .await;
    }

    pub(crate) fn failure(&self, name: &str) -> u64 {
        self.handle.snapshot().failures.get(name).copied().unwrap_or(0)
    }
}

/// Waits for something that happens in another task; the bound only ends a failing test.
pub(crate) async fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..2_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("never: {what}");
}
