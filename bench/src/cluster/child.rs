//! One role process, from spawn to reaped.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pdlab_api::ready::{Ready, Role};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
use tokio::process::{Child, ChildStdout, Command};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout, timeout_at};

use super::plan::{ALLOW_FAULTS, RoleCommand};
use super::{ClusterError, ClusterPlan, log};

/// A ready line has about 150 bytes. Whatever prints more without a line end is not a role.
const READY_LINE_LIMIT_BYTES: u64 = 4096;

/// How much of a wrong ready line an error shows.
const QUOTED_CHARS: usize = 120;

/// How long the pipe of a role that is gone may take to run dry.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How a role ended when it was told to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// By itself, after SIGTERM or before it.
    Exited(ExitStatus),
    /// It did not go in time and was killed.
    Killed,
}

/// A process that serves. Dropping it kills it.
#[derive(Debug)]
pub struct RoleProcess {
    label: String,
    ready: Ready,
    child: Child,
    log: PathBuf,
    /// Copies what it prints after the ready line to its log, until it closes stdout.
    strays: JoinHandle<()>,
}

impl RoleProcess {
    /// `decode-0`: the role and which one of it.
    pub fn label(&self) -> &str {
        &self.label
    }

    /// What it said when it began to serve.
    pub fn ready(&self) -> &Ready {
        &self.ready
    }

    /// Its process id, as the kernel gave it.
    pub fn pid(&self) -> u32 {
        self.ready.pid
    }

    /// Where its log goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Fails if it has exited.
    ///
    /// # Errors
    /// [`ClusterError::Died`] with its last log lines.
    pub fn check_alive(&mut self) -> Result<(), ClusterError> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(ClusterError::Died {
                role: self.label.clone(),
                status,
                last_words: log::last_words(&self.log),
            }),
            Err(source) => Err(ClusterError::Wait { role: self.label.clone(), source }),
        }
    }

    /// [`RoleProcess::check_alive`] for a process whose connections have ended: the kernel closes
    /// them some moments before it says that the process is dead.
    pub(super) async fn check_dying(&mut self) -> Result<(), ClusterError> {
        /// A process that dies is gone after some milliseconds, or tens of them on a busy machine.
        const MOMENT: Duration = Duration::from_millis(500);
        // Whether it ended in time, and how, is asked right after.
        let _ = timeout(MOMENT, self.child.wait()).await;
        self.check_alive()
    }

    /// Its HTTP port.
    pub(super) fn port(&self) -> Option<u16> {
        self.ready.http.rsplit(':').next()?.parse().ok()
    }

    /// Kills it without warning. It is reaped when this returns.
    pub(super) async fn kill(&mut self) {
        // Fails only for a process that has been reaped.
        let _ = self.child.kill().await;
        let _ = timeout(LAST_WORDS, &mut self.strays).await;
    }

    /// Asks it to end, with SIGTERM.
    pub(super) fn terminate(&self) {
        // `id` is None once it has been reaped, so the signal never hits a stranger that got
        // the same number. A process that is gone already needs no signal.
        if let Some(pid) = self.child.id() {
            let _ = kill(Pid::from_raw(pid as i32), Signal::SIGTERM);
        }
    }

    /// Waits for its end until `deadline`, then kills it. It is reaped when this returns.
    pub(super) async fn end(&mut self, deadline: Instant) -> End {
        let end = match timeout_at(deadline, self.child.wait()).await {
            Ok(Ok(status)) => End::Exited(status),
            Ok(Err(_)) | Err(_) => {
                self.kill().await;
                return End::Killed;
            }
        };
        // Its log is complete when this returns, unless a child of its own still holds stdout.
        let _ = timeout(LAST_WORDS, &mut self.strays).await;
        end
    }
}

/// A process that has been spawned and has not said yet that it serves.
#[derive(Debug)]
pub(super) struct Starting {
    label: String,
    role: Role,
    program: PathBuf,
    child: Child,
    stdout: BufReader<ChildStdout>,
    log: PathBuf,
    log_file: File,
}

impl Starting {
    /// Spawns `command` with the environment of `plan` on top of the caller's. It begins a log of
    /// its own, unless it is `again` the process that logged there.
    pub(super) fn spawn(
        plan: &ClusterPlan,
        command: RoleCommand,
        log_dir: &Path,
        again: bool,
    ) -> Result<Self, ClusterError> {
        let RoleCommand { role, label, args } = command;
        let log = log_dir.join(format!("{label}.log"));
        let no_log = |source| ClusterError::Log { role: label.clone(), path: log.clone(), source };
        if !again {
            // What stood there is gone; from now on stderr and strays of stdout are both appended.
            File::create(&log).map_err(no_log)?;
        }
        let log_file = OpenOptions::new().append(true).open(&log).map_err(no_log)?;
        let stderr = log_file.try_clone().map_err(no_log)?;
        let (program, before) = plan.program(role, nix::unistd::geteuid().is_root());
        let mut process = Command::new(&program);
        if !plan.faults.is_empty() {
            process.env(ALLOW_FAULTS, "1");
        }
        let spawned = process
            .args(before)
            .args(args)
            .envs(&plan.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            // A group of its own: Ctrl-C in the terminal reaches the parent alone, which then
            // ends its children in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn();
        let mut child = spawned.map_err(|source| ClusterError::Spawn {
            role: label.clone(),
            program: program.clone(),
            source,
        })?;
        let stdout = child.stdout.take().expect("stdout was asked to be piped");
        let stdout = BufReader::new(stdout);
        let program = plan.program.clone();
        Ok(Self { label, role, program, child, stdout, log, log_file })
    }

    /// Waits for the ready line until `deadline`, which is `patience` after the spawn. A process
    /// that does not say one is dead when this returns.
    ///
    /// The ready line is the first that begins like JSON. UCX logs to stdout, and may do so before;
    /// that belongs into the log.
    pub(super) async fn ready(
        &mut self,
        deadline: Instant,
        patience: Duration,
    ) -> Result<Ready, ClusterError> {
        let mut line = Vec::new();
        let said_one = loop {
            line.clear();
            let mut limited = (&mut self.stdout).take(READY_LINE_LIMIT_BYTES);
            let read = timeout_at(deadline, limited.read_until(b'\n', &mut line)).await;
            if !matches!(read, Ok(Ok(n)) if n > 0) {
                break false;
            }
            if line.starts_with(b"{") {
                break true;
            }
            // A log that cannot be written is no reason to end the role.
            let _ = self.log_file.write_all(&line);
        };
        if !said_one {
            // An end of stdout is an exit or the beginning of one: what it exits with matters.
            let exit = timeout_at(deadline, self.child.wait()).await;
            self.kill().await;
            let (role, last_words) = (self.label.clone(), log::last_words(&self.log));
            return Err(match exit {
                Ok(Ok(status)) => ClusterError::NotStarted { role, status, last_words },
                Ok(Err(source)) => ClusterError::Wait { role, source },
                Err(_) => ClusterError::NotReady { role, waited: patience, last_words },
            });
        }
        match parse(&line, self.role, self.child.id()) {
            Ok(ready) => Ok(ready),
            Err(reason) => {
                self.kill().await;
                let text = String::from_utf8_lossy(&line);
                let shown: String = text.trim_end().chars().take(QUOTED_CHARS).collect();
                Err(ClusterError::Garbage {
                    role: self.label.clone(),
                    program: self.program.clone(),
                    reason: format!("{shown:?} ({reason})"),
                    last_words: log::last_words(&self.log),
                })
            }
        }
    }

    /// The process that has said `ready`.
    pub(super) fn serving(self, ready: Ready) -> RoleProcess {
        let Self { label, child, mut stdout, log, log_file, .. } = self;
        // A pipe that is full would stop who writes to it, and a closed one would kill it.
        let strays = tokio::spawn(async move {
            let mut log_file = tokio::fs::File::from_std(log_file);
            let _ = tokio::io::copy(&mut stdout, &mut log_file).await;
        });
        RoleProcess { label, ready, child, log, strays }
    }

    /// Kills and reaps it.
    pub(super) async fn kill(&mut self) {
        // Fails only for a process that has been reaped.
        let _ = self.child.kill().await;
    }
}

/// The ready line of the process `pid` that was started as `role`.
fn parse(line: &[u8], role: Role, pid: Option<u32>) -> Result<Ready, String> {
    let ready: Ready = serde_json::from_slice(line).map_err(|source| source.to_string())?;
    if ready.role != role {
        return Err(format!("it was started as {role}, not as {}", ready.role));
    }
    if Some(ready.pid) != pid {
        return Err(format!("its process id is not {}", ready.pid));
    }
    Ok(ready)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINE: &str = r#"{"role":"decode","http":"http://127.0.0.1:1","side_channel":null,"pid":7,"transport":"tcp","ucx_version":null}"#;

    #[test]
    fn a_ready_line_must_be_that_of_the_role_and_the_process() {
        assert_eq!(parse(LINE.as_bytes(), Role::Decode, Some(7)).unwrap().pid, 7);
        let role = parse(LINE.as_bytes(), Role::Prefill, Some(7)).unwrap_err();
        assert_eq!(role, "it was started as prefill, not as decode");
        assert!(parse(LINE.as_bytes(), Role::Decode, Some(8)).unwrap_err().contains('7'));
        assert!(parse(b"Listening on port 80\n", Role::Decode, Some(7)).is_err());
        assert!(parse(&LINE.as_bytes()[..40], Role::Decode, Some(7)).is_err());
    }
}
