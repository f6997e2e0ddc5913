//! A local cluster: router, prefills and decodes as child processes of one program.
//!
//! Every role is a process of its own, because leaks, environment and crashes are per process.
//! A [`ClusterPlan`] says what to start; [`Cluster::start`] starts it, waits until every role
//! answers, and hands out URLs, process ids and snapshots. Whatever happens, no child outlives
//! the [`Cluster`]: [`Cluster::stop`] ends them in order, dropping it kills them, and the roles
//! ask the kernel to die with their parent.
//!
//! - [`plan`]: what a cluster is made of, as command lines (pure).
//! - [`child`]: one role process, from spawn to reaped.
//! - [`http`]: the few requests that a cluster sends to its roles.
//! - [`log`]: the last lines of a role's log, for error messages.
//! - [`memory`]: watches the memory of the roles, for the router's live page.
//! - [`up`]: `pdlab up`, a cluster until Ctrl-C.
//! - [`error`]: what can go wrong, with the role's own words.

pub mod child;
pub mod error;
pub mod http;
pub mod log;
pub mod memory;
pub mod plan;
pub mod up;

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pdlab_api::live::MemoryReport;
use pdlab_api::ready::Role;
use pdlab_api::snapshot::{AddressRange, Regions, Snapshot};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

pub use child::{End, RoleProcess};
pub use error::ClusterError;
pub use plan::{ChurnPlan, ClusterPlan, EnginePlan, FaultPlan, Policy};

use child::Starting;
use http::HttpClient;

/// How long the cluster waits for its roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patience {
    /// From the spawn of a role until its ready line and its first healthy answer. Loading UCX
    /// and touching the KV pool take well under a second; a busy machine may take many.
    pub start: Duration,
    /// From SIGTERM until SIGKILL. More than the 5 s that a role gives its requests to end.
    pub stop: Duration,
    /// From the end of the load until every block is free. More than the KV lease of 30 s, so
    /// that a lease that expires as it should is not called a leak of blocks.
    pub drain: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            start: Duration::from_secs(20),
            stop: Duration::from_secs(8),
            drain: Duration::from_secs(40),
        }
    }
}

/// How often health and drain are asked for: far below what a person notices, far above what a
/// role needs to answer.
const POLL: Duration = Duration::from_millis(20);

/// A running cluster. Dropping it kills its processes.
#[derive(Debug)]
pub struct Cluster {
    /// Prefills first, then decodes, the router last: the order in which they start.
    roles: Vec<RoleProcess>,
    /// Spawned and not ready yet; empty once the cluster is up.
    starting: VecDeque<Starting>,
    http: HttpClient,
    patience: Patience,
    plan: ClusterPlan,
    log_dir: PathBuf,
}

impl Cluster {
    /// Starts every role of `plan`, each logging to its own file in `log_dir` (which must
    /// exist), and returns once all of them are healthy.
    ///
    /// Call it from a thread that lives as long as the cluster (the runtime's own threads do,
    /// those of `spawn_blocking` do not): the kernel ties the children's lives to the thread
    /// that spawned them, see `PR_SET_PDEATHSIG` in
    /// <https://man7.org/linux/man-pages/man2/PR_SET_PDEATHSIG.2const.html>.
    ///
    /// # Errors
    /// [`ClusterError`] of the first role that fails, [`ClusterError::Cancelled`] once `cancel` is
    /// cancelled. What had been started is dead and reaped by then.
    pub async fn start(
        plan: &ClusterPlan,
        log_dir: &Path,
        patience: Patience,
        cancel: &CancellationToken,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self {
            roles: Vec::new(),
            starting: VecDeque::new(),
            http: HttpClient::new(),
            patience,
            plan: plan.clone(),
            log_dir: log_dir.to_owned(),
        };
        let started = tokio::select! {
            started = cluster.start_roles() => started,
            () = cancel.cancelled() => Err(ClusterError::Cancelled),
        };
        match started {
            Ok(()) => Ok(cluster),
            Err(error) => {
                cluster.kill().await;
                Err(error)
            }
        }
    }

    /// Base URL of the router.
    pub fn url(&self) -> &str {
        &self.router().ready().http
    }

    /// Every role: prefills, decodes, router.
    pub fn roles(&self) -> &[RoleProcess] {
        &self.roles
    }

    /// The processes of one role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &RoleProcess> {
        self.roles.iter().filter(move |process| process.ready().role == role)
    }

    /// What the role at `index` of [`Cluster::roles`] owns and has done.
    ///
    /// # Errors
    /// [`ClusterError::Died`] if the process is gone, else [`ClusterError::Http`].
    pub async fn snapshot(&mut self, index: usize) -> Result<Snapshot, ClusterError> {
        let process = &mut self.roles[index];
        let url = format!("{}/pdlab/snapshot", process.ready().http);
        let answer = self.http.get_json(process.label(), &url).await;
        // A dead process explains the failed request better than "connection refused" does.
        if answer.is_err() {
            process.check_dying().await?;
        }
        answer
    }

    /// Where the memory lies that the role at `index` has registered with its transport; nothing of
    /// a role that does not tell, as the router.
    pub async fn regions(&self, index: usize) -> Vec<AddressRange> {
        let process = &self.roles[index];
        let url = format!("{}/pdlab/regions", process.ready().http);
        let answer = self.http.get_json::<Regions>(process.label(), &url).await;
        answer.map_or_else(|_| Vec::new(), |answer| answer.regions)
    }

    /// The snapshots of all roles, in the order of [`Cluster::roles`].
    ///
    /// # Errors
    /// Those of [`Cluster::snapshot`].
    pub async fn snapshots(&mut self) -> Result<Vec<Snapshot>, ClusterError> {
        let mut snapshots = Vec::new();
        for index in 0..self.roles.len() {
            snapshots.push(self.snapshot(index).await?);
        }
        Ok(snapshots)
    }

    /// Fails if a role has exited.
    ///
    /// # Errors
    /// [`ClusterError::Died`] with the role's last log lines.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        self.roles.iter_mut().try_for_each(RoleProcess::check_alive)
    }

    /// The roles that have exited: their places in [`Cluster::roles`], and how they ended.
    pub fn deaths(&mut self) -> Vec<(usize, ClusterError)> {
        let ended = |(index, process): (usize, &mut RoleProcess)| {
            process.check_alive().err().map(|error| (index, error))
        };
        self.roles.iter_mut().enumerate().filter_map(ended).collect()
    }

    /// Tells the router what was seen of the memory of its processes.
    ///
    /// # Errors
    /// [`ClusterError::Http`] if it does not take it.
    pub async fn tell_memory(&self, report: &MemoryReport) -> Result<(), ClusterError> {
        let router = self.router();
        let url = format!("{}/ui/memory", router.ready().http);
        self.http.post_json(router.label(), &url, report).await
    }

    /// How long [`Cluster::drained`] should be given where everything is given back in time.
    pub fn drain_patience(&self) -> Duration {
        self.patience.drain
    }

    /// Waits for at most `patience` until [`Snapshot::is_drained`] holds for every role and
    /// returns their snapshots, in the order of [`Cluster::roles`].
    ///
    /// # Errors
    /// [`ClusterError::NotDrained`] with what is still held, or why a role did not answer.
    pub async fn drained(&mut self, patience: Duration) -> Result<Vec<Snapshot>, ClusterError> {
        let deadline = Instant::now() + patience;
        let mut drained = Vec::new();
        for index in 0..self.roles.len() {
            loop {
                let snapshot = self.snapshot(index).await?;
                if snapshot.is_drained() {
                    drained.push(snapshot);
                    break;
                }
                if Instant::now() >= deadline {
                    return Err(ClusterError::NotDrained {
                        role: self.roles[index].label().to_owned(),
                        waited: patience,
                        held: error::held(&snapshot),
                    });
                }
                sleep(POLL).await;
            }
        }
        Ok(drained)
    }

    /// Ends every role: SIGTERM to all, SIGKILL to those that do not go within the patience.
    /// Returns how each one ended, in the order of [`Cluster::roles`].
    pub async fn stop(mut self) -> Vec<End> {
        // The router first: what it still holds fails over to nobody, and the workers drain.
        for process in self.roles.iter().rev() {
            process.terminate();
        }
        let deadline = Instant::now() + self.patience.stop;
        let mut ends = Vec::new();
        for process in &mut self.roles {
            ends.push(process.end(deadline).await);
        }
        ends
    }

    /// Kills the worker at `index` of [`Cluster::roles`] without warning and starts it again on
    /// its port. Returns when it is ready to serve; the router finds out by itself.
    ///
    /// # Errors
    /// If it does not start again. It is not there then, and the cluster of no more use.
    pub async fn crash(&mut self, index: usize) -> Result<(), ClusterError> {
        let command = self.plan.workers().swap_remove(index);
        let process = &mut self.roles[index];
        process.kill().await;
        let command = match process.port() {
            Some(port) => command.on_port(port),
            None => command,
        };
        let mut starting = Starting::spawn(&self.plan, command, &self.log_dir, true)?;
        let deadline = Instant::now() + self.patience.start;
        let ready = starting.ready(deadline, self.patience.start).await?;
        self.roles[index] = starting.serving(ready);
        Ok(())
    }

    async fn start_roles(&mut self) -> Result<(), ClusterError> {
        // All workers load their libraries at the same time; the router needs their URLs.
        for command in self.plan.workers() {
            let starting = Starting::spawn(&self.plan, command, &self.log_dir, false)?;
            self.starting.push_back(starting);
        }
        self.await_ready().await?;
        let urls = |role| self.of(role).map(|process| process.ready().http.clone()).collect();
        let router = self.plan.router(urls(Role::Prefill), urls(Role::Decode));
        self.starting.push_back(Starting::spawn(&self.plan, router, &self.log_dir, false)?);
        self.await_ready().await?;
        let deadline = Instant::now() + self.patience.start;
        for index in 0..self.roles.len() {
            self.healthy(index, deadline).await?;
        }
        Ok(())
    }

    /// Waits for the ready lines of all that are starting, in their order.
    async fn await_ready(&mut self) -> Result<(), ClusterError> {
        let deadline = Instant::now() + self.patience.start;
        while let Some(starting) = self.starting.front_mut() {
            let ready = starting.ready(deadline, self.patience.start).await?;
            let starting = self.starting.pop_front().expect("its front is ready");
            self.roles.push(starting.serving(ready));
        }
        Ok(())
    }

    async fn healthy(&mut self, index: usize, deadline: Instant) -> Result<(), ClusterError> {
        let process = &mut self.roles[index];
        let url = format!("{}/health", process.ready().http);
        loop {
            let answer = self.http.get(process.label(), &url).await;
            process.check_alive()?;
            match answer {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() >= deadline => return Err(error),
                Err(_) => sleep(POLL).await,
            }
        }
    }

    fn router(&self) -> &RoleProcess {
        self.of(Role::Router).next().expect("a cluster starts with its router or not at all")
    }

    async fn kill(&mut self) {
        for process in &mut self.roles {
            process.end(Instant::now()).await;
        }
        for process in &mut self.starting {
            process.kill().await;
        }
    }
}
