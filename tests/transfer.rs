//! `pdlab bench transfer` over real processes: what arrives, who dies, who refuses, who stops it.
#![expect(clippy::unwrap_used, reason = "tests fail by panicking")]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

const PDLAB: &str = env!("CARGO_BIN_EXE_pdlab");
/// How long anything that must happen may take; generous, because test machines are busy.
const PATIENCE: Duration = Duration::from_secs(60);

/// Small and quick; every block is checked.
const QUICK: [&str; 10] = [
    "--block-size",
    "64K",
    "--depth",
    "4",
    "--working-set",
    "1M",
    "--bytes",
    "1M",
    "--rounds",
    "1",
];

fn transfer(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(PDLAB);
    command.args(["bench", "transfer", "--warmup", "10ms", "--verify", "--json"]);
    command.args(args).current_dir(dir);
    command
}

/// The result of a run that must end well.
fn result(output: &Output) -> Value {
    let stdout = String::from_utf8_lossy(&output.stdout);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{:?}: {stderr}{stdout}", output.status);
    serde_json::from_str(stdout.lines().last().unwrap()).unwrap()
}

/// Every point has moved and verified something, and nothing was corrupt.
fn is_sound(result: &Value, points: usize) {
    let all = result["points"].as_array().unwrap();
    assert_eq!(all.len(), points, "{result}");
    for point in all {
        assert!(point["bytes"].as_u64().unwrap() >= 1 << 20, "{point}");
        assert!(point["verified_blocks"].as_u64() > Some(0), "{point}");
        assert_eq!(point["corrupt_blocks"], 0, "{point}");
        assert_eq!(point["latency"]["samples"], point["transfers"], "{point}");
        assert!(point["bytes_per_s"]["median"].as_f64() > Some(0.0), "{point}");
    }
}

/// A listener. Killed when dropped.
struct Listener {
    child: Child,
    address: String,
}

impl Listener {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stdin(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line:?}"));
        let address = ready["listening"].as_str().unwrap().to_owned();
        Self { child, address }
    }

    fn here(args: &[&str]) -> Self {
        let mut command = Command::new(PDLAB);
        command.args(["bench", "transfer", "--listen", "127.0.0.1:0", "--die-with-parent"]);
        command.args(args);
        Self::start(command)
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A run that goes on until something happens to it, and has measured some rounds.
struct Going {
    child: Child,
    stderr: BufReader<std::process::ChildStderr>,
}

impl Going {
    fn start(args: &[&str], dir: &Path) -> Self {
        let endless = ["--rounds", "1000", "--block-size", "64K", "--working-set", "1M"];
        let mut command = transfer(&endless, dir);
        command.args(["--duration", "20ms", "--no-ceilings", "--transport", "tcp", "--out", "run"]);
        command.args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stderr = BufReader::new(child.stderr.take().unwrap());
        for _ in 0..3 {
            let mut line = String::new();
            stderr.read_line(&mut line).unwrap();
            assert!(line.starts_with("round "), "{line:?}");
        }
        Self { child, stderr }
    }

    /// Waits for its end; its exit code, and what it said on stderr.
    fn end(mut self) -> (Option<i32>, String) {
        // It must not wait for a reader of its output.
        let mut stdout = self.child.stdout.take().unwrap();
        let reading = std::thread::spawn(move || stdout.read_to_end(&mut Vec::new()));
        let mut said = String::new();
        self.stderr.read_to_string(&mut said).unwrap();
        reading.join().unwrap().unwrap();
        (self.child.wait().unwrap().code(), said)
    }
}

fn read_json(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

/// By all threads: a child belongs to the one that started it.
fn children_of(pid: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    let of = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children")).unwrap();
    let all: String = threads.map(|thread| of(thread.unwrap())).collect();
    all.split_whitespace().map(str::to_owned).collect()
}

fn eventually(what: &str, mut test: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !test() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn every_way_to_move_a_block_moves_it_whole() {
    let scratch = tempfile::tempdir().unwrap();
    let dir = scratch.path();
    let output = transfer(&["--transport", "tcp", "--out", "run"], dir)
        .args(["--op", "read,write", "--register", "once,each", "--working-set", "hot,1M"])
        .args(["--block-size", "4K,64K", "--depth", "4", "--bytes", "1M", "--rounds", "1"])
        .output()
        .unwrap();
    let found = result(&output);
    is_sound(&found, 16);
    let first = &found["points"][0];
    let ceilings = first["ceilings"].as_array().unwrap();
    for name in ["memcpy cold", "memcpy hot"] {
        let ceiling = ceilings.iter().find(|ceiling| ceiling["name"] == name).unwrap();
        assert!(ceiling["bandwidth_ratio"]["median"].as_f64() > Some(0.0), "{ceiling}");
    }
    assert_eq!(read_json(&dir.join("run/result.json")), found);

    let page = Command::new(PDLAB).args(["report", "run"]).current_dir(dir).output().unwrap();
    assert!(page.status.success(), "{}", String::from_utf8_lossy(&page.stderr));
    let page = fs::read_to_string(dir.join("run/report.html")).unwrap();
    assert!(page.contains("Bandwidth over block size") && page.contains("tcp write x 4, hot"));
}

#[test]
fn incast_and_its_like_keep_their_flows_apart() {
    let scratch = tempfile::tempdir().unwrap();
    for (pattern, flows) in [("incast", 3), ("one-to-many", 3), ("all-to-all", 12)] {
        let output = transfer(&QUICK, scratch.path())
            .args(["--transport", "tcp", "--pattern", pattern, "--peers", "3", "--out", pattern])
            .args(["--op", "read,write", "--blocks-per-read", "2", "--no-ceilings"])
            .output()
            .unwrap();
        let found = result(&output);
        is_sound(&found, 2);
        for point in found["points"].as_array().unwrap() {
            let seen = point["flows"].as_array().unwrap();
            assert_eq!(seen.len(), flows, "{pattern}: {point}");
            assert!(seen.iter().all(|flow| flow["bytes_per_s"]["median"].as_f64() > Some(0.0)));
        }
    }
}

#[test]
fn real_ucx_moves_blocks_beside_its_own_benchmark() {
    let Some(ucx) = std::env::var_os("PDLAB_TEST_UCX") else {
        println!("skipped: PDLAB_TEST_UCX names no UCX build");
        return;
    };
    let scratch = tempfile::tempdir().unwrap();
    let output = transfer(&QUICK, scratch.path())
        .args(["--transport", "ucx,tcp", "--op", "read,write", "--register", "once,each"])
        .args(["--out", "run", "--ucx"])
        .arg(ucx)
        .output()
        .unwrap();
    let found = result(&output);
    is_sound(&found, 8);
    let ucx = found["points"].as_array().unwrap().iter().find(|p| p["cell"]["transport"] == "ucx");
    assert!(ucx.unwrap()["transport"].as_str().unwrap().starts_with("ucx 1."), "{found}");
}

#[test]
fn two_listeners_serve_one_run_after_another() {
    let scratch = tempfile::tempdir().unwrap();
    let (one, two) = (Listener::here(&[]), Listener::here(&["--threads", "2"]));
    let both = format!("{},{}", one.address, two.address);
    for out in ["first", "second"] {
        let output = transfer(&QUICK, scratch.path())
            .args(["--transport", "tcp", "--connect", &both, "--out", out, "--no-ceilings"])
            .output()
            .unwrap();
        let found = result(&output);
        is_sound(&found, 1);
        assert_eq!(found["points"][0]["flows"].as_array().unwrap().len(), 2);
    }
}

#[test]
fn a_peer_that_is_killed_ends_the_run_with_what_was_measured() {
    let scratch = tempfile::tempdir().unwrap();
    let mut listener = Listener::here(&[]);
    let address = listener.address.clone();
    let going = Going::start(&["--connect", &address], scratch.path());
    listener.child.kill().unwrap();
    let (code, said) = going.end();
    assert_eq!(code, Some(3), "{said}");
    assert!(said.contains("error: agent "), "{said}");
    assert!(said.contains("transfer-1") || said.contains(&address), "{said}");
    let found = read_json(&scratch.path().join("run/result.json"));
    assert!(found["failure"].as_str().unwrap().contains("agent "), "{found}");
    assert!(found["points"][0]["rounds"].as_array().unwrap().len() >= 3, "{found}");
}

#[test]
fn a_signal_ends_a_run_in_order_and_its_agents_with_it() {
    let scratch = tempfile::tempdir().unwrap();
    let going = Going::start(&["--op", "write"], scratch.path());
    let pid = going.child.id().to_string();
    let children = children_of(&pid);
    assert_eq!(children.len(), 2);
    let sent = Command::new("kill").args(["-s", "INT", &pid]).status().unwrap();
    assert!(sent.success());
    let (code, said) = going.end();
    assert_eq!(code, Some(130), "{said}");
    let found = read_json(&scratch.path().join("run/result.json"));
    assert_eq!((&found["interrupted"], &found["failure"]), (&true.into(), &Value::Null));
    assert!(found["points"][0]["rounds"].as_array().unwrap().len() >= 3, "{found}");
    for child in children {
        assert!(!Path::new(&format!("/proc/{child}")).exists(), "agent {child} is still there");
    }
}

#[test]
fn a_listener_survives_strangers_and_lost_coordinators() {
    let scratch = tempfile::tempdir().unwrap();
    let listener = Listener::here(&[]);
    let connect = || TcpStream::connect(&listener.address).unwrap();
    let hello = [b"PDXF".as_slice(), &1_u32.to_le_bytes()].concat();
    let rest = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        hello.clone(),
        [&hello[..], &u32::MAX.to_le_bytes()].concat(),
        [&hello[..], &7_u32.to_le_bytes(), b"{\"run\":"].concat(),
        [&hello[..], &8_u32.to_le_bytes(), b"\"end_ser"].concat(),
        [&hello[..], &11_u32.to_le_bytes(), b"\"end_serve\""].concat(),
    ];
    for bytes in rest {
        let mut stream = connect();
        stream.write_all(&bytes).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // Its greeting, perhaps an answer, and the end.
        let _ = stream.read_to_end(&mut Vec::new());
    }
    // A coordinator that vanishes in the middle of a run.
    let address = listener.address.clone();
    let mut going = Going::start(&["--connect", &address], scratch.path());
    going.child.kill().unwrap();
    going.end();
    // What it had is given back.
    let pid = listener.child.id();
    let descriptors = || fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let output = transfer(&QUICK, scratch.path())
        .args(["--transport", "tcp", "--connect", &address, "--out", "after", "--no-ceilings"])
        .output()
        .unwrap();
    is_sound(&result(&output), 1);
    let idle = descriptors();
    let output = transfer(&QUICK, scratch.path())
        .args(["--transport", "tcp", "--connect", &address, "--out", "again", "--no-ceilings"])
        .output()
        .unwrap();
    is_sound(&result(&output), 1);
    eventually("the end of the session", || descriptors() <= idle);
}

#[test]
fn who_is_no_peer_is_named() {
    let scratch = tempfile::tempdir().unwrap();
    let fails = |address: &str, words: &[&str]| {
        let output = transfer(&QUICK, scratch.path())
            .args(["--transport", "tcp", "--connect", address, "--out", "x"])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in {said}");
        }
    };
    let answering = |bytes: &'static [u8]| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(bytes).unwrap();
            let _ = stream.read_to_end(&mut Vec::new());
        });
        address
    };
    fails(&answering(b"PDXF\x02\0\0\0"), &["agent 1", "version 2", "same pdlab on both hosts"]);
    fails(&answering(b"HTTP/1.1 400 Bad Request"), &["agent 1", "no pdlab bench transfer"]);
    // Bound and closed again: nobody listens there.
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    fails(&closed, &["cannot reach it", "--listen", "is the port open"]);
}

/// Two network namespaces joined by a wire. Removed when dropped.
struct TwoHosts {
    names: [String; 2],
}

impl TwoHosts {
    /// `None`, and why, where that cannot be.
    fn new() -> Option<Self> {
        let id = std::process::id();
        let names = [format!("pdt{id}a"), format!("pdt{id}b")];
        let hosts = Self { names };
        let [a, b] = &hosts.names;
        let steps = [
            format!("netns add {a}"),
            format!("netns add {b}"),
            format!("link add {a} netns {a} type veth peer name {b} netns {b}"),
            format!("-n {a} addr add 10.77.0.1/24 dev {a}"),
            format!("-n {b} addr add 10.77.0.2/24 dev {b}"),
            format!("-n {a} link set {a} up"),
            format!("-n {b} link set {b} up"),
            format!("-n {a} link set lo up"),
            format!("-n {b} link set lo up"),
        ];
        for step in steps {
            let done = Command::new("ip").args(step.split_whitespace()).output();
            let failed = match done {
                Ok(output) if output.status.success() => continue,
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => error.to_string(),
            };
            println!("skipped: two hosts need network namespaces and root: ip {step}: {failed}");
            return None;
        }
        Some(hosts)
    }

    /// `program`, on one of the hosts.
    fn command(&self, host: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[host], PDLAB]);
        command
    }
}

impl Drop for TwoHosts {
    fn drop(&mut self) {
        for name in &self.names {
            let _ = Command::new("ip").args(["netns", "del", name]).stderr(Stdio::null()).status();
        }
    }
}

#[test]
fn two_hosts_find_each_others_addresses() {
    let Some(hosts) = TwoHosts::new() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let mut command = hosts.command(0);
    command.args(["bench", "transfer", "--listen", "10.77.0.1:7100"]);
    let listener = Listener::start(command);
    let mut transports = vec![vec!["--transport", "tcp"]];
    let ucx = std::env::var("PDLAB_TEST_UCX").ok();
    match &ucx {
        Some(ucx) => transports.push(vec!["--transport", "ucx", "--ucx", ucx]),
        None => println!("skipped for UCX: PDLAB_TEST_UCX names no UCX build"),
    }
    for transport in transports {
        let output = hosts
            .command(1)
            .args(["bench", "transfer", "--connect", &listener.address, "--out", transport[1]])
            .args(["--json", "--verify", "--op", "read,write", "--no-ceilings"])
            .args(QUICK)
            .args(&transport)
            .current_dir(scratch.path())
            .output()
            .unwrap();
        let found = result(&output);
        is_sound(&found, 2);
        let hosts: Vec<_> =
            found["agents"].as_array().unwrap().iter().map(|a| &a["data_host"]).collect();
        assert_eq!(hosts, ["10.77.0.2", "10.77.0.1"]);
    }
}
