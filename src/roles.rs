//! One role as a process: configuration, ready line, serve, drain.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use clap::Args;
use pdlab_api::ready::{Ready, Role};
use pdlab_decode::churn::{ChurnConfig, Pattern};
use pdlab_decode::{Decode, DecodeConfig, DecodeError};
use pdlab_prefill::{Prefill, PrefillConfig};
use pdlab_router::{PolicyKind, Router, RouterConfig, WorkerUrl};
use pdlab_transport::Error as TransportError;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::engine_args::WorkerArgs;
use crate::exit::Failure;
use crate::fault_args::FaultArgs;
use crate::transport_args::TransportArgs;

/// `pdlab prefill`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrefillArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    transport: TransportArgs,
    /// Address of the side channel, bound and told to decode
    #[arg(long, default_value = "127.0.0.1", env = "VLLM_NIXL_SIDE_CHANNEL_HOST")]
    side_channel_host: String,
    /// Port of the side channel; 0 takes a free one
    #[arg(long, default_value_t = 0, env = "VLLM_NIXL_SIDE_CHANNEL_PORT")]
    side_channel_port: u16,
    /// Take a new engine id after so many answers, as if another prefill had come in its place
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    renew_engine_every: Option<u64>,
    #[command(flatten)]
    faults: FaultArgs,
}

/// `pdlab decode`.
#[derive(Debug, Clone, Args)]
pub(crate) struct DecodeArgs {
    #[command(flatten)]
    worker: WorkerArgs,
    #[command(flatten)]
    transport: TransportArgs,
    /// Milliseconds that one KV read may take before prefill counts as lost
    #[arg(long, default_value_t = 30_000)]
    kv_read_timeout_ms: u64,
    /// How memory is unmapped: same, adjacent, disjoint, random, arena, threads, madvise, mremap,
    /// register; or used: heap, files, pool, plant
    #[arg(long, default_value_t = Pattern::Same)]
    churn_pattern: Pattern,
    /// Bytes of an operation: for most patterns, of the range that is unmapped
    #[arg(long, default_value_t = 4096)]
    churn_bytes: usize,
    /// What disjoint, random, register, heap and pool keep at most
    #[arg(long, default_value_t = 1024)]
    churn_resident: usize,
    /// Operations per engine step
    #[arg(long, default_value_t = 0.0)]
    churn_per_step: f64,
    /// Operations per generated token
    #[arg(long, default_value_t = 0.0)]
    churn_per_token: f64,
    /// Operations per second
    #[arg(long, default_value_t = 0.0)]
    churn_rate: f64,
    /// Decides what is random about the churn
    #[arg(long, default_value_t = 0, env = "PDLAB_SEED")]
    seed: u64,
    /// Drop the connection to a prefill after so many transfers, and make a new one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    reconnect_every: Option<u64>,
    #[command(flatten)]
    faults: FaultArgs,
}

/// `pdlab router`.
#[derive(Debug, Clone, Args)]
pub(crate) struct RouterArgs {
    /// Address to listen on
    #[arg(long, default_value = "127.0.0.1", env = "PDLAB_HOST")]
    host: IpAddr,
    /// Port to listen on; 0 takes a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    /// URL of a prefill worker (repeatable, or several at once)
    #[arg(long, required = true, num_args = 1.., value_name = "URL")]
    prefill: Vec<WorkerUrl>,
    /// URL of a decode worker (repeatable, or several at once)
    #[arg(long, required = true, num_args = 1.., value_name = "URL")]
    decode: Vec<WorkerUrl>,
    /// How workers are chosen: round_robin or least_loaded
    #[arg(long, default_value = "round_robin")]
    policy: PolicyKind,
    /// Further attempts for a request that has produced no byte
    #[arg(long)]
    retries: Option<u32>,
    /// Seconds between health checks of a worker
    #[arg(long)]
    health_interval: Option<f64>,
    /// Largest request body in bytes
    #[arg(long)]
    max_body_bytes: Option<usize>,
    /// Serve a live page at /ui, to whoever reaches the router
    #[arg(long)]
    ui: bool,
    /// End when the parent process does
    #[arg(long)]
    die_with_parent: bool,
}

pub(crate) fn prefill(args: &PrefillArgs) -> Result<(), Failure> {
    let engine_id = fresh_id();
    let config = PrefillConfig {
        worker: args.worker.config(Role::Prefill, args.faults.of(Role::Prefill)?)?,
        agent: args.transport.agent(format!("prefill-{engine_id}"), args.worker.host)?,
        side_channel_host: args.side_channel_host.clone(),
        side_channel_port: args.side_channel_port,
        kv_lease: args.worker.kv_lease()?,
        engine_id,
        renew_engine_every: args.renew_engine_every,
    };
    run(two_threads(), args.worker.die_with_parent, |stop| async move {
        let prefill = Prefill::bind(config).await.map_err(Failure::environment)?;
        announce(prefill.ready());
        prefill.serve(stop).await.map_err(Failure::environment)
    })
}

pub(crate) fn decode(args: &DecodeArgs) -> Result<(), Failure> {
    let churn = ChurnConfig {
        pattern: args.churn_pattern,
        bytes: args.churn_bytes,
        resident: args.churn_resident,
        per_step: args.churn_per_step,
        per_token: args.churn_per_token,
        rate: args.churn_rate,
    };
    churn.validate().map_err(Failure::bad_input)?;
    let config = DecodeConfig {
        worker: args.worker.config(Role::Decode, args.faults.of(Role::Decode)?)?,
        agent: args.transport.agent(format!("decode-{}", fresh_id()), args.worker.host)?,
        read_deadline: Duration::from_millis(args.kv_read_timeout_ms),
        kv_lease: args.worker.kv_lease()?,
        churn,
        seed: args.seed,
        reconnect_every: args.reconnect_every,
    };
    run(two_threads(), args.worker.die_with_parent, |stop| async move {
        let decode = Decode::bind(config).await.map_err(|error| match error {
            // Such as a fault that this transport cannot have.
            DecodeError::Transport(TransportError::BadConfig { .. }) => Failure::bad_input(error),
            _ => Failure::environment(error),
        })?;
        announce(decode.ready());
        decode.serve(stop).await.map_err(Failure::environment)
    })
}

pub(crate) fn router(args: &RouterArgs) -> Result<(), Failure> {
    let listen = SocketAddr::new(args.host, args.port);
    let mut config = RouterConfig::new(listen, args.prefill.clone(), args.decode.clone());
    config.policy = args.policy;
    config.ui = args.ui;
    config.retries = args.retries.unwrap_or(config.retries);
    config.max_body_bytes = args.max_body_bytes.unwrap_or(config.max_body_bytes);
    if let Some(interval) = args.health_interval {
        config.health.interval = Duration::try_from_secs_f64(interval)
            .map_err(|e| Failure::bad_input(format!("--health-interval is {interval}: {e}")))?;
    }
    config.validate().map_err(Failure::bad_input)?;
    run(one_thread(), args.die_with_parent, |stop| async move {
        let router = Router::bind(config).await.map_err(Failure::environment)?;
        announce(&Ready {
            role: Role::Router,
            http: format!("http://{}", router.local_addr()),
            side_channel: None,
            pid: std::process::id(),
            transport: None,
            ucx_version: None,
            faults: Vec::new(),
        });
        router.serve(async move { stop.cancelled().await }).await;
        Ok(())
    })
}

/// For a worker: it is an event loop beside its engine thread, and more threads would only add
/// stacks and malloc arenas to what is being measured.
fn two_threads() -> Builder {
    let mut builder = Builder::new_multi_thread();
    builder.worker_threads(2);
    builder
}

/// For the router: who is woken by a byte passes it on. With a second thread every byte would wake
/// that one as well, to see whether it could help, which costs more than passing a byte on.
fn one_thread() -> Builder {
    Builder::new_current_thread()
}

/// Runs a role until SIGTERM or Ctrl-C.
fn run<F, Fut>(mut runtime: Builder, die_with_parent: bool, serve: F) -> Result<(), Failure>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = Result<(), Failure>>,
{
    if die_with_parent {
        follow_parent()?;
    }
    log_to_stderr();
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|e| Failure::environment(format!("cannot start the runtime: {e}")))?;
    runtime.block_on(async move {
        let stop = CancellationToken::new();
        let wait = stop_signal()?;
        let stopper = stop.clone();
        let waiting = tokio::spawn(async move {
            wait.await;
            stopper.cancel();
        });
        let served = serve(stop).await;
        waiting.abort();
        served
    })
}

/// Resolves at the first SIGTERM or SIGINT.
pub(crate) fn stop_signal() -> Result<impl Future<Output = ()>, Failure> {
    let catch =
        |kind| signal(kind).map_err(|e| Failure::environment(format!("cannot catch signals: {e}")));
    let (mut terminate, mut interrupt) =
        (catch(SignalKind::terminate())?, catch(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

/// Asks the kernel for SIGTERM when the parent dies.
pub(crate) fn follow_parent() -> Result<(), Failure> {
    let parent = nix::unistd::getppid();
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGTERM)
        .map_err(|e| Failure::environment(format!("cannot follow the parent process: {e}")))?;
    // It may have died before the call; then the signal never comes.
    if nix::unistd::getppid() != parent {
        return Err(Failure::environment("the parent process has died"));
    }
    Ok(())
}

/// The ready line: the only thing a role prints on stdout.
fn announce(ready: &Ready) {
    use std::io::Write;
    // A parent that does not read it is its own problem; logs go to stderr.
    let line = serde_json::to_string(ready).unwrap_or_default();
    let _ = writeln!(std::io::stdout(), "{line}");
}

pub(crate) fn log_to_stderr() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("PDLAB_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Like a version 4 UUID: 122 random bits.
fn fresh_id() -> String {
    let bits = rand::random::<u128>() & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_look_like_uuids() {
        let id = fresh_id();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(&id[14..15], "4");
        assert!("89ab".contains(&id[19..20]), "{id}");
        assert_ne!(id, fresh_id());
    }
}
