//! Starts real `pdlab` processes for the end-to-end tests and ends them again, whatever happens.

#![expect(clippy::unwrap_used, reason = "a test harness fails by panicking")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

/// The binary under test.
pub(crate) const PDLAB: &str = env!("CARGO_BIN_EXE_pdlab");

/// How long anything that must happen may take; generous, because test machines are busy.
pub(crate) const PATIENCE: Duration = Duration::from_secs(90);

/// A role as a child process. Killed when dropped.
pub(crate) struct Role {
    child: Child,
    pub(crate) ready: Value,
}

impl Role {
    /// Starts `pdlab ARGS` and waits for its ready line.
    pub(crate) fn start(args: &[&str]) -> Self {
        Self::start_with(args, &[])
    }

    /// The same with variables in its environment.
    pub(crate) fn start_with(args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = Command::new(PDLAB);
        command.args(args).arg("--die-with-parent").envs(env.iter().copied());
        // Failures should be read without a debugger: logs go to the test's own stderr.
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let line = json_line(&mut child);
        let ready = serde_json::from_str(&line);
        let Ok(ready) = ready else {
            let _ = child.kill();
            panic!("`pdlab {}` printed no ready line but {line:?}", args.join(" "));
        };
        Self { child, ready }
    }

    pub(crate) fn url(&self) -> &str {
        self.ready["http"].as_str().unwrap()
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The role's snapshot.
    pub(crate) async fn snapshot(&self) -> Value {
        get(&format!("{}/pdlab/snapshot", self.url())).await.1
    }

    /// Sends a signal by name, such as `STOP`.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.pid().to_string()]).status();
        assert!(sent.unwrap().success(), "signal {name}");
    }

    /// Sends SIGKILL and reaps.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Sends SIGTERM and waits for the end; returns the exit code.
    pub(crate) fn terminate(mut self) -> Option<i32> {
        self.signal("TERM");
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(Instant::now() < deadline, "SIGTERM was not obeyed");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until nothing is in flight, pinned or held, as the snapshot defines it.
    pub(crate) async fn drained(&self) -> Value {
        eventually(&format!("{} drains", self.ready["role"]), async || {
            let snapshot = self.snapshot().await;
            is_drained(&snapshot).then_some(snapshot)
        })
        .await
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The first line of a child's stdout that is JSON; empty if there is none in time.
fn json_line(child: &mut Child) -> String {
    let stdout = child.stdout.take().unwrap();
    let (sender, line) = mpsc::channel();
    std::thread::spawn(move || {
        // UCX may log to stdout before; and stdout must be read on, or its writer would stop.
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let _ = sender.send(lines.find(|line| line.starts_with('{')).unwrap_or_default());
        lines.for_each(|line| eprintln!("{line}"));
    });
    line.recv_timeout(PATIENCE).unwrap_or_default()
}

/// `pdlab up` over TCP on a free port. Killed when dropped, and its roles with it.
pub(crate) struct Up {
    pub(crate) child: Child,
    pub(crate) addresses: Value,
    _logs: tempfile::TempDir,
}

impl Up {
    pub(crate) fn start(args: &[&str]) -> Self {
        let logs = tempfile::tempdir().unwrap();
        let mut child = Command::new(PDLAB)
            .args(["up", "--json", "--port", "0", "--transport", "tcp", "--time-scale", "0"])
            .args(args)
            .arg("--out")
            .arg(logs.path().join("run"))
            .stdout(Stdio::piped())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let addresses = serde_json::from_str(&json_line(&mut child)).unwrap_or_default();
        Self { child, addresses, _logs: logs }
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One router, one prefill, one decode.
pub(crate) struct Trio {
    pub(crate) router: Role,
    pub(crate) prefill: Role,
    pub(crate) decode: Role,
}

impl Trio {
    /// Over TCP, with extra flags for prefill and decode.
    pub(crate) fn start(prefill: &[&str], decode: &[&str]) -> Self {
        let tcp = ["--transport", "tcp", "--time-scale", "0"];
        Self::start_with(&[&tcp, prefill].concat(), &[&tcp, decode].concat(), &[])
    }

    pub(crate) fn start_with(prefill: &[&str], decode: &[&str], env: &[(&str, &str)]) -> Self {
        let prefill = Role::start_with(&[&["prefill"], prefill].concat(), env);
        let decode = Role::start_with(&[&["decode"], decode].concat(), env);
        let router = start_router(&[&prefill], &[&decode]);
        Self { router, prefill, decode }
    }

    /// Everything drains, no block was corrupt; returns the snapshots of prefill and decode.
    pub(crate) async fn drained(&self) -> (Value, Value) {
        let (prefill, decode) = (self.prefill.drained().await, self.decode.drained().await);
        self.router.drained().await;
        assert_eq!(decode["work"]["corrupt_blocks"], 0);
        (prefill, decode)
    }
}

/// A router before these workers, with quick health checks.
pub(crate) fn start_router(prefill: &[&Role], decode: &[&Role]) -> Role {
    let mut args = vec!["router", "--health-interval", "0.2"];
    for role in prefill {
        args.extend(["--prefill", role.url()]);
    }
    for role in decode {
        args.extend(["--decode", role.url()]);
    }
    Role::start(&args)
}

/// The definition that `pdlab_api::snapshot::Snapshot::is_drained` implements.
pub(crate) fn is_drained(snapshot: &Value) -> bool {
    let snapshot: pdlab_api::snapshot::Snapshot =
        serde_json::from_value(snapshot.clone()).expect("a snapshot");
    snapshot.is_drained()
}

/// Asks again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask().await {
            return answer;
        }
        assert!(Instant::now() < deadline, "timed out: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What a router asks of prefill; the parameters to hand to decode.
pub(crate) async fn prefill_leg(prefill: &Role, prompt: &str) -> Value {
    let params = json!({"do_remote_decode": true, "do_remote_prefill": false, "remote_engine_id": null,
                        "remote_block_ids": null, "remote_host": null, "remote_port": null});
    let body = json!({"prompt": prompt, "max_tokens": 1, "kv_transfer_params": params});
    let (status, answer) = post(&format!("{}/v1/completions", prefill.url()), body).await;
    assert_eq!(status, 200, "{answer}");
    answer["kv_transfer_params"].clone()
}

/// GET of text that must be there.
pub(crate) async fn get_text(url: &str) -> String {
    reqwest::get(url).await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// GET; status and body, which is null if it is not JSON.
pub(crate) async fn get(url: &str) -> (u16, Value) {
    answer(reqwest::Client::new().get(url)).await
}

/// POST of JSON.
pub(crate) async fn post(url: &str, body: Value) -> (u16, Value) {
    answer(reqwest::Client::new().post(url).json(&body)).await
}

/// POST of any bytes as JSON.
pub(crate) async fn post_bytes(url: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    let request = reqwest::Client::new().post(url).header("content-type", "application/json");
    answer(request.body(body)).await
}

async fn answer(request: reqwest::RequestBuilder) -> (u16, Value) {
    let response = request.timeout(PATIENCE).send().await.unwrap();
    let status = response.status().as_u16();
    let text = response.text().await.unwrap_or_default();
    (status, serde_json::from_str(&text).unwrap_or(Value::Null))
}

/// The events of a stream up to `[DONE]`, and whether that came.
pub(crate) async fn stream(url: &str, body: Value) -> (Vec<Value>, bool) {
    let request = reqwest::Client::new().post(url).json(&body).timeout(PATIENCE);
    let text = request.send().await.unwrap().text().await.unwrap();
    let data: Vec<&str> = text.split("\n\n").filter_map(|e| e.strip_prefix("data: ")).collect();
    let done = data.last() == Some(&"[DONE]");
    let events = data.iter().filter(|e| **e != "[DONE]");
    (events.map(|e| serde_json::from_str(e).unwrap()).collect(), done)
}
