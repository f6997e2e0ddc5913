//! One agent in the service of one coordinator: opens, connects, moves, tells, closes.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use pdlab_transport::{Agent, AgentConfig, Error as TransportError, Mapping, Peer, Region};
use procfs::{Current, Meminfo};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::ceiling::{ToolServer, ToolSite, ask};
use super::content::Content;
use super::error::Refusal;
use super::plan::{BLOCK_BYTES, MAX_DEPTH, MAX_PEERS, Op, Register};
use super::pull::Puller;
use super::read::read;
use super::wire::{Contact, Open, Opened, Reply, Report, Request, Run, Usage};
use super::write::{Note, serve, write};
use crate::serve::process::cpu_time;

/// Notes that wait for a run to take them; its width bounds them, and a peer that sends more loses
/// them.
const NOTES_QUEUED: usize = 2 * MAX_DEPTH;
/// How long connecting to another agent may take.
const CONNECT: Duration = Duration::from_secs(20);

/// What a coordinator wants of an agent's transport.
#[derive(Debug, Clone)]
pub struct Wish {
    /// The agent's name.
    pub name: String,
    /// `tcp`, `ucx`, `verbs` or `auto`.
    pub transport: String,
    /// The UCX build.
    pub ucx: Option<String>,
    /// Where its data goes.
    pub data_host: IpAddr,
}

/// Turns a wish into a configuration: finds builds, reads the environment. The program's part.
pub type Configure = Arc<dyn Fn(&Wish) -> Result<AgentConfig, Refusal> + Send + Sync>;

/// What is the same for all agents of a process.
#[derive(Clone)]
pub struct Home {
    /// How agents are configured here.
    pub configure: Configure,
    /// Identifies the process.
    pub process: u64,
    /// Where data goes, whatever a coordinator says.
    pub data_host: Option<IpAddr>,
    /// RDMA device that tools are to use.
    pub device: Option<String>,
    /// Index of its GID.
    pub gid_index: Option<String>,
}

/// An agent, once it is open.
pub(super) struct Session {
    home: Home,
    /// Address over which the coordinator reached us.
    local: IpAddr,
    open: Option<Running>,
    tool: Option<ToolServer>,
}

struct Running {
    agent: Agent,
    index: u32,
    seed: u64,
    source: Option<Region>,
    target: Option<Region>,
    site: ToolSite,
    peers: BTreeMap<usize, Peer>,
    /// Answers to our writes.
    answers: mpsc::Receiver<Note>,
    /// Writes of others; away while they are served.
    asked: Option<mpsc::Receiver<Note>>,
    serving: Option<Serving>,
    next_write: u64,
    _mail: AbortOnDropHandle<()>,
}

struct Serving {
    stop: CancellationToken,
    task: JoinHandle<(Report, mpsc::Receiver<Note>)>,
}

impl Session {
    pub(super) fn new(home: Home, local: IpAddr) -> Self {
        Self { home, local, open: None, tool: None }
    }

    /// Does what is asked. `stop` ends a run early.
    pub(super) async fn answer(&mut self, request: Request, stop: &CancellationToken) -> Reply {
        let answered = match request {
            Request::Open(open) => self.open(open).await.map(Reply::Opened),
            Request::Connect(contacts) => self.connect(&contacts).await.map(|()| Reply::Done),
            Request::Run(run) => self.run(run, stop).await.map(Reply::Ran),
            Request::Serve(run) => self.serve(run).map(|()| Reply::Done),
            Request::EndServe => self.end_serve().await.map(Reply::Ran),
            Request::Usage => Ok(Reply::Usage(self.usage())),
            Request::StartTool(job) => match &self.open {
                None => Err(not_open()),
                Some(running) => ToolServer::start(&job, &running.site).map(|server| {
                    let port = server.port();
                    self.tool = Some(server);
                    Reply::Tool { port }
                }),
            },
            Request::AskTool { job, host, port } => match &self.open {
                None => Err(not_open()),
                Some(running) => ask(&job, &running.site, host, port).await,
            },
            Request::EndTool => {
                if let Some(tool) = self.tool.take() {
                    tool.end().await;
                }
                Ok(Reply::Done)
            }
            Request::Close => self.close().await.map(|()| Reply::Done),
            // Nothing is under way, and the one who asks expects no answer; see `listen`.
            Request::Stop => Err(Refusal::bad_input("there is nothing to stop")),
        };
        answered.unwrap_or_else(|refusal| Reply::Failed {
            bad_input: refusal.bad_input,
            reason: refusal.reason,
        })
    }

    /// Releases everything.
    pub(super) async fn close(&mut self) -> Result<(), Refusal> {
        if let Some(tool) = self.tool.take() {
            tool.end().await;
        }
        let Some(running) = self.open.take() else { return Ok(()) };
        if let Some(serving) = &running.serving {
            serving.stop.cancel();
        }
        running.agent.close().await.map_err(environment)
    }

    async fn open(&mut self, open: Open) -> Result<Opened, Refusal> {
        if self.open.is_some() {
            return Err(Refusal::bad_input("the agent is open already"));
        }
        if open.index > MAX_PEERS || open.regions > 2 * MAX_PEERS * MAX_DEPTH {
            return Err(Refusal::bad_input(format!("agent {} is one too many", open.index)));
        }
        enough_memory(open.source_bytes.saturating_add(open.target_bytes))?;
        let data_host = self.home.data_host.or(open.data_host).unwrap_or(self.local);
        let name = format!("transfer-{}", open.index);
        let wish = Wish { name, transport: open.transport, ucx: open.ucx, data_host };
        let mut config = (self.home.configure)(&wish)?;
        config.limits.regions = open.regions.max(2);
        config.limits.reads_per_peer = open.reads_per_peer.clamp(1, MAX_DEPTH);
        let site = ToolSite {
            libraries: config.ucx.as_ref().map(|build| build.directory.clone()),
            address: data_host,
            environment: Vec::new(),
            device: self.home.device.clone(),
            gid_index: self.home.gid_index.clone(),
        };
        let variables: Vec<_> = config.ucx_variables.clone().into_iter().collect();
        let agent = Agent::open(config).await.map_err(environment)?;
        let content = Content::new(open.seed, open.index);
        let registering = agent.clone();
        let registered = tokio::task::spawn_blocking(move || {
            let region = |bytes: u64, fill: &dyn Fn(&mut Mapping)| {
                if bytes == 0 {
                    return Ok(None);
                }
                let mut mapping = Mapping::anonymous(bytes as usize)?;
                fill(&mut mapping);
                registering.register(mapping).map(Some)
            };
            // First, so that it is region 0 for everybody who reads it.
            let source =
                region(open.source_bytes, &|mapping| content.fill(mapping.as_mut_slice(), 0))?;
            let target = region(open.target_bytes, &Mapping::prefault)?;
            Ok::<_, TransportError>((source, target))
        });
        let registered = registered.await.map_err(environment)?;
        let (source, target) = match registered {
            Ok(regions) => regions,
            Err(error) => {
                agent.close().await.map_err(environment)?;
                return Err(environment(error));
            }
        };
        let opened = Opened {
            metadata: agent.metadata().map_err(environment)?.to_vec(),
            transport: agent.backend().to_string(),
            library: agent.version(),
            why: agent.why().to_owned(),
            settings: agent.settings(),
            variables,
            process: self.home.process,
            data_host,
            host: host_name(),
            device: self.home.device.clone(),
        };
        let (to_answers, answers) = mpsc::channel(NOTES_QUEUED);
        let (to_asked, asked) = mpsc::channel(NOTES_QUEUED);
        let mail = tokio::spawn(sort_mail(agent.clone(), to_answers, to_asked));
        self.open = Some(Running {
            site: ToolSite { environment: agent.settings(), ..site },
            agent,
            index: open.index as u32,
            seed: open.seed,
            source,
            target,
            peers: BTreeMap::new(),
            answers,
            asked: Some(asked),
            serving: None,
            next_write: 0,
            _mail: AbortOnDropHandle::new(mail),
        });
        Ok(opened)
    }

    async fn connect(&mut self, contacts: &[Contact]) -> Result<(), Refusal> {
        let running = self.running()?;
        for Contact { index, metadata } in contacts {
            let peer = running.agent.connect(metadata, CONNECT).await.map_err(environment)?;
            running.peers.insert(*index, peer);
        }
        Ok(())
    }

    async fn run(&mut self, run: Run, stop: &CancellationToken) -> Result<Report, Refusal> {
        let running = self.running()?;
        running.check(&run, run.op == Op::Write)?;
        match run.op {
            Op::Read => running.read(run, stop).await,
            Op::Write => {
                let Running { index, peers, answers, next_write, .. } = running;
                Ok(write(&run, *index, peers, answers, next_write, stop).await)
            }
        }
    }

    fn serve(&mut self, run: Run) -> Result<(), Refusal> {
        let running = self.running()?;
        running.check(&run, false)?;
        let pullers = running.pullers(&run)?;
        let asked = running.asked.take();
        let mut asked = asked.ok_or_else(|| Refusal::bad_input("it serves writes already"))?;
        let (stop, me) = (CancellationToken::new(), running.index);
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            let report = serve(&run, me, pullers, &mut asked, &stopped).await;
            (report, asked)
        });
        running.serving = Some(Serving { stop, task });
        Ok(())
    }

    async fn end_serve(&mut self) -> Result<Report, Refusal> {
        let running = self.running()?;
        let serving = running.serving.take();
        let serving = serving.ok_or_else(|| Refusal::bad_input("it serves no writes"))?;
        serving.stop.cancel();
        let (report, asked) = serving.task.await.map_err(environment)?;
        running.asked = Some(asked);
        Ok(report)
    }

    fn usage(&self) -> Usage {
        let cpu_us = u64::try_from(cpu_time().as_micros()).unwrap_or(u64::MAX);
        Usage { process: self.home.process, cpu_us }
    }

    fn running(&mut self) -> Result<&mut Running, Refusal> {
        self.open.as_mut().ok_or_else(not_open)
    }
}

impl Running {
    async fn read(&self, run: Run, stop: &CancellationToken) -> Result<Report, Refusal> {
        let pullers = self.pullers(&run)?;
        let mut flows = JoinSet::new();
        // One that fails ends all.
        let stop = stop.child_token();
        for (at, puller) in pullers.into_iter().enumerate() {
            let (run, stop) = (run.clone(), stop.clone());
            flows.spawn(async move {
                let (report, failure) = read(&run, &run.flows[at], &puller, &stop).await;
                if failure.is_some() {
                    stop.cancel();
                }
                (at, report, failure)
            });
        }
        let mut ended: Vec<_> = flows.join_all().await;
        ended.sort_by_key(|(at, ..)| *at);
        let failure = ended.iter().find_map(|(.., failure)| failure.clone());
        Ok(Report { flows: ended.into_iter().map(|(_, report, _)| report).collect(), failure })
    }

    fn pullers(&self, run: &Run) -> Result<Vec<Puller>, Refusal> {
        let region = self.target.as_ref().ok_or_else(|| Refusal::bad_input("it has no target"))?;
        let puller = |leg: &super::wire::Leg| Puller {
            agent: self.agent.clone(),
            peer: self.peers[&leg.peer].clone(),
            region: region.clone(),
            block_bytes: run.block_bytes as usize,
            blocks: run.blocks_per_read,
            deadline: Duration::from_millis(run.deadline_ms),
            content: run.verify.then(|| Content::new(self.seed, leg.peer)),
        };
        Ok(run.flows.iter().map(puller).collect())
    }

    /// Whether a run fits this agent: a coordinator of another mind gets an answer, not a panic.
    fn check(&self, run: &Run, is_source: bool) -> Result<(), Refusal> {
        let refuse = |what: &str| Err(Refusal::bad_input(format!("the run does not fit: {what}")));
        let (region, what) =
            if is_source { (&self.source, "source") } else { (&self.target, "target") };
        let Some(region) = region else { return refuse(&format!("this agent is no {what}")) };
        let batch = run.blocks_per_read;
        if !BLOCK_BYTES.contains(&run.block_bytes) || !(1..=MAX_DEPTH).contains(&batch) {
            return refuse("its blocks");
        }
        if !(1..=MAX_DEPTH).contains(&run.width) || run.deadline_ms == 0 {
            return refuse("its depth or deadline");
        }
        let in_flight = run.transfer_bytes().saturating_mul(run.width as u64);
        for leg in &run.flows {
            if !self.peers.contains_key(&leg.peer) {
                return refuse(&format!("there is no connection to agent {}", leg.peer));
            }
            let slice_end = leg.slice_offset.checked_add(leg.slice_bytes);
            let inside = if is_source {
                leg.source_bytes <= region.len() as u64
            } else {
                slice_end.is_some_and(|end| end <= region.len() as u64)
            };
            if leg.source_bytes < run.transfer_bytes() || !inside {
                return refuse("its memory");
            }
            if run.register == Register::Once && leg.slice_bytes < in_flight {
                return refuse("its slice is smaller than what is in flight");
            }
        }
        Ok(())
    }
}

/// Hands notes to whoever they are for; what is none, or comes in excess, is dropped.
async fn sort_mail(agent: Agent, answers: mpsc::Sender<Note>, asked: mpsc::Sender<Note>) {
    while let Some(notification) = agent.next_notification().await {
        let sent = match Note::decode(&notification.payload) {
            Some(note @ Note::Done { .. }) => answers.try_send(note).is_ok(),
            Some(note @ Note::Pull { .. }) => asked.try_send(note).is_ok(),
            None => false,
        };
        if !sent {
            tracing::warn!(from = %notification.from, "dropped a notification");
        }
    }
}

fn not_open() -> Refusal {
    Refusal::bad_input("the agent is not open yet")
}

fn environment(error: impl std::fmt::Display) -> Refusal {
    Refusal { bad_input: false, reason: error.to_string() }
}

/// Refuses what the host has no memory for: mapping it would succeed, and touching it would not.
fn enough_memory(bytes: u64) -> Result<(), Refusal> {
    let available = Meminfo::current().ok().and_then(|info| info.mem_available);
    match available {
        Some(available) if bytes > available => Err(Refusal {
            bad_input: false,
            reason: format!(
                "{bytes} bytes of buffers are needed and {available} are available; lower --depth, \
                 --block-size, --peers or --working-set"
            ),
        }),
        _ => Ok(()),
    }
}

fn host_name() -> String {
    nix::unistd::gethostname()
        .map_or_else(|_| "unknown".to_owned(), |name| name.to_string_lossy().into_owned())
}
