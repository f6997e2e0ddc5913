//! The agents of one transport, as the coordinator sees them: started or reached, opened, asked.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures_util::future::{join_all, try_join_all};
use serde::Deserialize;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::process::{Child, Command};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::error::{Error, Refusal};
use super::plan::Plan;
use super::wire::{self, Contact, Open, Opened, Reply, Report, Request, Run};

/// How long an agent may take to start, to connect, or to answer what takes no time.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long agents may take to release everything; then they are left to their own devices.
const FAREWELL: Duration = Duration::from_secs(10);
/// Of a ready line, bytes.
const READY_LINE_LIMIT: u64 = 4096;

/// Where agents are, and how they are started here.
#[derive(Debug, Clone)]
pub struct Sites {
    /// This program, which is every agent of this host.
    pub program: PathBuf,
    /// Hosts that listen; empty if all agents are here.
    pub connect: Vec<String>,
    /// Address for the data of the agents of this host.
    pub data_host: Option<IpAddr>,
    /// The UCX build of this host's agents, and of others unless they know better.
    pub ucx: Option<String>,
    /// Threads of each agent of this host; by default as many as it has flows and this host processors.
    pub threads: Option<usize>,
    /// Where the agents of this host log.
    pub logs: PathBuf,
}

/// What a process that listens prints when it does.
#[derive(Debug, serde::Serialize, Deserialize)]
pub struct Listening {
    /// Address and port.
    pub listening: SocketAddr,
    /// Its process id.
    pub pid: u32,
    /// Version of the protocol.
    pub protocol: u32,
}

/// One agent.
pub struct Member {
    /// `1 (10.0.0.2:7100)`, for people.
    pub label: String,
    /// What it said when it opened.
    pub opened: Opened,
    from: OwnedReadHalf,
    to: OwnedWriteHalf,
    /// The process, if we started it. Killed when dropped.
    child: Option<Child>,
}

/// All agents of one transport, by index.
pub struct Fleet {
    /// The agents.
    pub members: Vec<Member>,
}

impl Fleet {
    /// Starts or reaches every agent of `plan`, opens them over `transport`, and connects each to
    /// those that it moves blocks with.
    ///
    /// # Errors
    /// Which agent could not, and why. What was begun is undone.
    pub async fn assemble(plan: &Plan, transport: &str, sites: &Sites) -> Result<Self, Error> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let threads = |agent| sites.threads.unwrap_or_else(|| plan.flows_of(agent).min(processors));
        let mut lines = Vec::new();
        for index in 0..=plan.peers {
            let remote = (index > 0 && !sites.connect.is_empty())
                .then(|| &sites.connect[(index - 1) % sites.connect.len()]);
            lines.push(match remote {
                Some(address) => Line::reach(index, address).await?,
                None => Line::spawn(index, transport, threads(index), sites).await?,
            });
        }
        // The address by which the first host that listens knows this one.
        let seen = lines.iter().find(|line| line.child.is_none()).map(Line::local);
        let local = sites.data_host.or(seen.transpose()?);
        let local = local.unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        let opening = lines.into_iter().enumerate().map(|(index, line)| {
            let memory = plan.memory(index);
            let flows = plan.flows().len();
            let width = plan.cells.iter().map(|cell| cell.depth).max().unwrap_or(1);
            let is_here = line.child.is_some();
            let open = Open {
                index,
                transport: transport.to_owned(),
                ucx: sites.ucx.clone(),
                data_host: is_here.then_some(local),
                source_bytes: memory.source,
                target_bytes: memory.target,
                seed: plan.seed,
                reads_per_peer: width,
                regions: 2 + flows * width,
            };
            line.open(open)
        });
        let mut fleet = Self { members: try_join_all(opening).await? };
        fleet.agree(transport)?;
        fleet.connect(plan).await?;
        Ok(fleet)
    }

    /// Whether all have opened the same transport.
    fn agree(&self, asked: &str) -> Result<(), Error> {
        let first = &self.members[0];
        match self.members.iter().find(|other| other.opened.transport != first.opened.transport) {
            None => Ok(()),
            Some(other) => Err(Error::Here(format!(
                "with --transport {asked}, agent {} took {} ({}) and agent {} took {} ({}); name one \
                 that both have",
                first.label,
                first.opened.transport,
                first.opened.why,
                other.label,
                other.opened.transport,
                other.opened.why,
            ))),
        }
    }

    /// Targets to their sources, which they read; and sources to their targets, which they tell.
    async fn connect(&mut self, plan: &Plan) -> Result<(), Error> {
        let contact =
            |index: usize| Contact { index, metadata: self.members[index].opened.metadata.clone() };
        let contacts: Vec<Vec<Contact>> = (0..self.members.len())
            .map(|agent| {
                let others = plan.flows().into_iter().filter_map(|flow| match agent {
                    agent if agent == flow.target => Some(flow.source),
                    agent if agent == flow.source => Some(flow.target),
                    _ => None,
                });
                let mut others: Vec<usize> = others.collect();
                others.sort_unstable();
                others.dedup();
                others.into_iter().map(contact).collect()
            })
            .collect();
        let asked =
            self.members.iter_mut().zip(contacts).map(|(member, contacts)| async move {
                member.done(Request::Connect(contacts)).await
            });
        try_join_all(asked).await.map(|_| ())
    }

    /// Sends every agent its run, and waits for all. When one fails, or `cancel` comes, the others
    /// stop, too.
    ///
    /// # Errors
    /// The first agent that is lost or refuses.
    pub async fn run(
        &mut self,
        runs: Vec<(usize, Run)>,
        cancel: &CancellationToken,
    ) -> Result<Vec<(usize, Report)>, Error> {
        let stop = cancel.child_token();
        let mut runs: std::collections::BTreeMap<usize, Run> = runs.into_iter().collect();
        let asked = self.members.iter_mut().enumerate().filter_map(|(index, member)| {
            let run = runs.remove(&index)?;
            let stop = &stop;
            Some(async move {
                let report = member.run(run, stop).await;
                if !report.as_ref().is_ok_and(|report| report.failure.is_none()) {
                    stop.cancel();
                }
                report.map(|report| (index, report))
            })
        });
        join_all(asked).await.into_iter().collect()
    }

    /// Ends every agent in order, as far as it goes.
    pub async fn close(mut self) {
        let farewell = self.members.iter_mut().map(|member| async {
            let _ = timeout(FAREWELL, member.done(Request::Close)).await;
        });
        join_all(farewell).await;
        for member in &mut self.members {
            if let Some(mut child) = member.child.take() {
                let _ = child.kill().await;
            }
        }
    }
}

impl Member {
    /// Asks, and waits for the answer.
    ///
    /// # Errors
    /// [`Error::Refused`], or [`Error::Lost`].
    pub async fn ask(&mut self, request: Request) -> Result<Reply, Error> {
        let asked = ask(&mut self.to, &mut self.from, &request);
        let reply = timeout(PATIENCE, asked).await;
        settle(&self.label, reply.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())))
    }

    /// Asks for something whose only answer is that it is done.
    ///
    /// # Errors
    /// As for [`ask`](Self::ask).
    pub async fn done(&mut self, request: Request) -> Result<(), Error> {
        match self.ask(request).await? {
            Reply::Done => Ok(()),
            other => Err(unexpected(&self.label, &other)),
        }
    }

    async fn run(&mut self, run: Run, stop: &CancellationToken) -> Result<Report, Error> {
        let patience = run.patience();
        let Self { label, from, to, .. } = self;
        let asked = async {
            wire::send(to, &Request::Run(run)).await?;
            let receiving = wire::receive(from);
            tokio::pin!(receiving);
            tokio::select! {
                reply = &mut receiving => reply,
                () = stop.cancelled() => {
                    wire::send(to, &Request::Stop).await?;
                    receiving.await
                }
            }
        };
        let reply = match patience {
            Some(patience) => timeout(patience, asked).await,
            None => Ok(asked.await),
        };
        let reply = reply.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match settle(label, reply)? {
            Reply::Ran(report) => Ok(report),
            other => Err(unexpected(label, &other)),
        }
    }
}

impl Run {
    /// How long its answer may take; a run by bytes takes what it takes.
    fn patience(&self) -> Option<Duration> {
        match self.limit {
            super::plan::Limit::Millis(ms) => {
                Some(PATIENCE + Duration::from_millis(ms.saturating_add(self.deadline_ms)))
            }
            super::plan::Limit::Bytes(_) => None,
        }
    }
}

/// A connection to an agent that is not open yet.
struct Line {
    label: String,
    stream: TcpStream,
    child: Option<Child>,
}

impl Line {
    async fn reach(index: usize, address: &str) -> Result<Self, Error> {
        let label = format!("{index} ({address})");
        let lost = |reason: String| Error::Lost { agent: label.clone(), reason };
        let connecting = timeout(Duration::from_secs(10), TcpStream::connect(address)).await;
        let advice = format!(
            "is `pdlab bench transfer --listen {address}` running there, and is the port open?"
        );
        let stream = connecting
            .map_err(|_| lost(format!("cannot reach it: no answer within 10 s; {advice}")))?
            .map_err(|error| lost(format!("cannot reach it: {error}; {advice}")))?;
        Self::greet(label.clone(), stream, None).await
    }

    async fn spawn(
        index: usize,
        transport: &str,
        threads: usize,
        sites: &Sites,
    ) -> Result<Self, Error> {
        let log = sites.logs.join(format!("agent-{index}-{transport}.log"));
        let (child, address) = start(&sites.program, threads, &log).await?;
        let label = format!("{index} (pid {})", child.id().unwrap_or_default());
        let stream = TcpStream::connect(address).await;
        let stream = stream.map_err(|error| Error::Start(error.to_string()))?;
        Self::greet(label, stream, Some(child)).await
    }

    async fn greet(
        label: String,
        mut stream: TcpStream,
        child: Option<Child>,
    ) -> Result<Self, Error> {
        // Without it small messages would only be slower.
        let _ = stream.set_nodelay(true);
        let greeting = timeout(Duration::from_secs(10), wire::greet(&mut stream)).await;
        let reason = match greeting {
            Ok(Ok(())) => return Ok(Self { label, stream, child }),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                "it hung up at once: is it a pdlab bench transfer --listen?".to_owned()
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => "it does not greet: is it a pdlab bench transfer --listen?".to_owned(),
        };
        Err(Error::Lost { agent: label, reason })
    }

    fn local(&self) -> Result<IpAddr, Error> {
        let address = self.stream.local_addr();
        address.map(|address| address.ip()).map_err(|error| Error::Here(error.to_string()))
    }

    async fn open(self, open: Open) -> Result<Member, Error> {
        let Self { label, stream, child } = self;
        let (mut from, mut to) = stream.into_split();
        let request = Request::Open(open);
        let reply = timeout(PATIENCE, ask(&mut to, &mut from, &request)).await;
        let reply = reply.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match settle(&label, reply)? {
            Reply::Opened(opened) => Ok(Member { label, opened, from, to, child }),
            other => Err(unexpected(&label, &other)),
        }
    }
}

async fn ask(
    to: &mut OwnedWriteHalf,
    from: &mut OwnedReadHalf,
    request: &Request,
) -> io::Result<Option<Reply>> {
    wire::send(to, request).await?;
    wire::receive(from).await
}

fn settle(label: &str, reply: io::Result<Option<Reply>>) -> Result<Reply, Error> {
    let lost = |reason: String| Error::Lost { agent: label.to_owned(), reason };
    match reply {
        Ok(Some(Reply::Failed { bad_input, reason })) => {
            let refusal = Refusal { bad_input, reason };
            Err(Error::Refused { agent: label.to_owned(), refusal })
        }
        Ok(Some(reply)) => Ok(reply),
        Ok(None) => Err(lost("it has gone: its process ended or was stopped".to_owned())),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            Err(lost("it does not answer: is it stopped, or its host overloaded?".to_owned()))
        }
        Err(error) => Err(lost(format!("it has gone: {error}"))),
    }
}

fn unexpected(label: &str, reply: &Reply) -> Error {
    let reply = format!("{reply:?}");
    let shown: String = reply.chars().take(60).collect();
    Error::Lost { agent: label.to_owned(), reason: format!("it answers out of turn: {shown}") }
}

/// Starts an agent's process and waits until it listens.
async fn start(program: &Path, threads: usize, log: &Path) -> Result<(Child, SocketAddr), Error> {
    let failed = |reason: String| Error::Start(format!("{}: {reason}", program.display()));
    let stderr =
        File::create(log).map_err(|error| failed(format!("{}: {error}", log.display())))?;
    let spawned = Command::new(program)
        .args(["bench", "transfer", "--listen", "127.0.0.1:0", "--die-with-parent"])
        .args(["--threads", &threads.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(stderr)
        // A group of its own: Ctrl-C in the terminal reaches us alone, and we stop it in order.
        .process_group(0)
        .kill_on_drop(true)
        .spawn();
    let mut child = spawned.map_err(|error| failed(error.to_string()))?;
    let stdout = child.stdout.take().expect("stdout was asked to be piped");
    let mut lines = BufReader::new(stdout);
    let ready = async {
        loop {
            let mut line = String::new();
            let read = (&mut lines).take(READY_LINE_LIMIT).read_line(&mut line).await?;
            // UCX may log there, too.
            if read == 0 || line.starts_with('{') {
                return io::Result::Ok(line);
            }
        }
    };
    let line = timeout(PATIENCE, ready).await;
    let line = line.map_err(|_| failed("it does not say that it listens".to_owned()))?;
    let line = line.map_err(|error| failed(error.to_string()))?;
    let listening: Listening = serde_json::from_str(&line)
        .map_err(|_| failed(format!("it ended before it listened; see {}", log.display())))?;
    // Whatever else it prints must go somewhere: a full pipe would stop it.
    tokio::spawn(async move {
        let _ = tokio::io::copy(&mut lines, &mut tokio::io::sink()).await;
    });
    Ok((child, listening.listening))
}
