//! Peers that can be killed and stopped: this very test binary, started again.
//!
//! The child opens an agent with a patterned region, prints its metadata as one JSON line, prints
//! every notification as one more, and ends when its standard input does.

use std::io::Write as _;
use std::process::Stdio;
use std::sync::Mutex;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pdlab_transport::BackendKind;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::lifecycle;
use crate::support::{Backend, SOON, runtime, until};
use crate::wire::{self, Cut};

/// Names the child's task in its environment; absent in a normal run.
const TASK: &str = "PDLAB_TEST_PEER_PROCESS";

/// A running child. Killed when dropped.
pub(crate) struct PeerProcess {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    pub(crate) metadata: Vec<u8>,
    /// The devices whose wire is cut when the child is stopped: they would answer for it.
    devices: Vec<String>,
    /// Some while it is.
    cut: Mutex<Option<Cut>>,
}

impl PeerProcess {
    /// A server whose region of `len` bytes holds the pattern of `seed`.
    pub(crate) async fn serve(backend: &Backend, len: usize, seed: u8) -> Self {
        let (child, lines) = start(backend, json!({"serve": {"len": len, "seed": seed}}));
        let mut process = Self::new(backend, child, lines);
        process.metadata = serde_json::from_value(process.line().await["metadata"].take()).unwrap();
        process
    }

    /// A client that connects to `metadata` and stays.
    pub(crate) async fn connect(backend: &Backend, metadata: &[u8]) -> Self {
        let (child, lines) = start(backend, json!({"connect": metadata}));
        let mut process = Self::new(backend, child, lines);
        assert_eq!(process.line().await["connected"], true);
        process
    }

    fn new(backend: &Backend, child: Child, lines: Lines<BufReader<ChildStdout>>) -> Self {
        let devices = backend.rdma.as_ref().map_or_else(Vec::new, |rdma| rdma.devices().to_vec());
        Self { child, lines, metadata: Vec::new(), devices, cut: Mutex::default() }
    }

    /// The next thing that the child has been told.
    pub(crate) async fn notification(&mut self) -> String {
        self.line().await["notification"].as_str().unwrap().to_owned()
    }

    /// Stops the child; returns when each of its threads has stopped.
    pub(crate) async fn stop(&self) {
        self.signal(Signal::SIGSTOP);
        let tasks = format!("/proc/{}/task", self.child.id().unwrap());
        let is_stopped = |task: std::io::Result<std::fs::DirEntry>| {
            let status = std::fs::read_to_string(task.unwrap().path().join("status"));
            status.is_ok_and(|status| status.contains("State:\tT"))
        };
        until("it has stopped", || std::fs::read_dir(&tasks).unwrap().all(is_stopped)).await;
        if !self.devices.is_empty() {
            *self.cut.lock().unwrap() = Some(wire::cut(&self.devices));
        }
    }

    pub(crate) fn resume(&self) {
        drop(self.cut.lock().unwrap().take());
        self.signal(Signal::SIGCONT);
    }

    /// Kills the child and waits until it is gone.
    pub(crate) async fn kill(&mut self) {
        self.child.kill().await.unwrap();
        drop(self.cut.lock().unwrap().take());
    }

    /// How many files and sockets the child has open.
    pub(crate) fn descriptors(&self) -> usize {
        let pid = self.child.id().expect("it has not been waited for");
        std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
    }

    /// Processor time of all of the child's threads so far, in ticks of 10 ms.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let pid = self.child.id().expect("it has not been waited for");
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        // The name, in brackets, may have spaces. `utime` and `stime` are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(") ").unwrap();
        fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum()
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().expect("it has not been waited for");
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    async fn line(&mut self) -> Value {
        timeout(SOON, next_json(&mut self.lines)).await.expect("the child is silent")
    }
}

/// Runs `lifecycle::isolated_rounds` in a process in which nothing else opens or closes anything.
pub(crate) async fn run_isolated(backend: &Backend) -> Value {
    let (mut child, mut lines) = start(backend, json!({"isolated": true}));
    let result = timeout(3 * SOON, next_json(&mut lines)).await.expect("the child is silent");
    child.kill().await.unwrap();
    result
}

fn start(backend: &Backend, task: Value) -> (Child, Lines<BufReader<ChildStdout>>) {
    let task = json!({"backend": backend.kind, "task": task});
    let mut command = Command::new(std::env::current_exe().unwrap());
    if let (Some(rdma), BackendKind::Ucx) = (&backend.rdma, backend.kind) {
        // UCX chooses its device by the environment alone.
        command.env("UCX_NET_DEVICES", format!("{}:1", rdma.peer_device));
    }
    let mut child = command
        .args(["--exact", "peer_process_entry", "--ignored", "--nocapture"])
        .env(TASK, task.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    (child, lines)
}

/// The next line that is JSON; the test harness writes lines of its own around them.
async fn next_json(lines: &mut Lines<BufReader<ChildStdout>>) -> Value {
    loop {
        let line = lines.next_line().await.unwrap().expect("the child has ended early");
        if line.starts_with('{') {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

/// The child's side.
pub(crate) fn enter() {
    let Ok(task) = std::env::var(TASK) else { return };
    let mut task: Value = serde_json::from_str(&task).unwrap();
    let kind: BackendKind = serde_json::from_value(task["backend"].take()).unwrap();
    let backend = Backend::find(kind).unwrap();
    let task = task["task"].take();
    runtime().block_on(async {
        if let Some(serve) = task.get("serve") {
            let (len, seed) = (serve["len"].as_u64().unwrap(), serve["seed"].as_u64().unwrap());
            answer_reads(&backend, len as usize, seed as u8).await;
        } else if let Some(metadata) = task.get("connect") {
            let metadata: Vec<u8> = serde_json::from_value(metadata.clone()).unwrap();
            let agent = backend.agent("child").await;
            let _peer = agent.connect(&metadata, SOON).await.unwrap();
            say(&json!({"connected": true}));
            end_of_input().await;
        } else {
            say(&lifecycle::isolated_rounds(&backend).await);
            end_of_input().await;
        }
    });
}

async fn answer_reads(backend: &Backend, len: usize, seed: u8) {
    let (agent, _region) = backend.server("child", len, seed).await;
    say(&json!({"metadata": agent.metadata().unwrap().to_vec()}));
    let print = async {
        while let Some(notification) = agent.next_notification().await {
            say(&json!({"notification": String::from_utf8_lossy(&notification.payload)}));
        }
    };
    tokio::select! {
        () = print => {}
        () = end_of_input() => {}
    }
    agent.close().await.unwrap();
}

/// Resolves when the parent has closed our input, or died.
async fn end_of_input() {
    let _ = tokio::io::stdin().read(&mut [0; 1]).await;
}

/// One line on standard output, whatever the test harness has left on the current one.
fn say(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\n{value}").unwrap();
    out.flush().unwrap();
}
