//! The serving side of a tool, as a process beside an agent.

use std::net::{IpAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::{Child, Command};

use super::tool::{Job, Tool};
use crate::transfer::error::Refusal;
use crate::transfer::wire::ToolJob;

/// Where a tool runs.
#[derive(Debug, Clone)]
pub struct ToolSite {
    /// Directory of the UCX that the agent has opened: the tool must run the same.
    pub libraries: Option<PathBuf>,
    /// Address on which it serves.
    pub address: IpAddr,
    /// What the agent sets that its library would not.
    pub environment: Vec<(String, String)>,
    /// RDMA device.
    pub device: Option<String>,
    /// Index of its GID.
    pub gid_index: Option<String>,
}

/// A tool that serves. Killed when dropped.
#[derive(Debug)]
pub struct ToolServer {
    child: Child,
    port: u16,
}

impl ToolServer {
    /// Starts it on a free port.
    ///
    /// # Errors
    /// If it is not installed, or does not start.
    pub fn start(job: &ToolJob, site: &ToolSite) -> Result<Self, Refusal> {
        let port = free_port(site.address)?;
        let tool = job.tool;
        let args = tool.serve(&site.job(job, port));
        let mut command = site.command(tool)?;
        command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.kill_on_drop(true).spawn();
        let child = child.map_err(|error| site.refuse(tool, &error.to_string()))?;
        Ok(Self { child, port })
    }

    /// The port on which it will serve.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends it; it is reaped when this returns.
    pub async fn end(mut self) {
        // Fails only for a process that has been reaped.
        let _ = self.child.kill().await;
    }
}

impl ToolSite {
    /// The command that runs `tool` with the agent's library and settings.
    ///
    /// # Errors
    /// If it is not installed.
    pub fn command(&self, tool: Tool) -> Result<Command, Refusal> {
        let program = find(tool, self.libraries.as_deref())
            .ok_or_else(|| self.refuse(tool, "it is not installed"))?;
        let mut command = Command::new(program);
        command.envs(self.environment.iter().cloned()).process_group(0);
        if let (Tool::UcxPerftest, Some(libraries)) = (tool, &self.libraries) {
            command.env("LD_LIBRARY_PATH", libraries);
        }
        Ok(command)
    }

    /// What the tool is to do here.
    pub fn job(&self, job: &ToolJob, port: u16) -> Job {
        Job {
            block_bytes: job.block_bytes,
            depth: job.depth,
            iterations: job.iterations,
            seconds: 1,
            port,
            device: self.device.clone(),
            gid_index: self.gid_index.clone(),
        }
    }

    fn refuse(&self, tool: Tool, reason: &str) -> Refusal {
        Refusal { bad_input: false, reason: format!("cannot run {}: {reason}", tool.program()) }
    }
}

/// The program of `tool`: for UCX the one beside the library, else the one on the search path.
fn find(tool: Tool, libraries: Option<&Path>) -> Option<PathBuf> {
    let name = tool.program();
    if tool == Tool::UcxPerftest {
        // PREFIX/lib, or PREFIX/lib/x86_64-linux-gnu as Debian has it.
        let prefixes = libraries?.ancestors().skip(1).take(2);
        return prefixes.map(|prefix| prefix.join("bin").join(name)).find(|path| path.is_file());
    }
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

/// A port that is free now. Somebody could take it before the tool does; then that reading fails,
/// and the next has another.
fn free_port(address: IpAddr) -> Result<u16, Refusal> {
    let bound = TcpListener::bind((address, 0)).and_then(|listener| listener.local_addr());
    bound.map(|address| address.port()).map_err(|error| Refusal {
        bad_input: false,
        reason: format!("cannot find a free port on {address}: {error}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_benchmark_of_a_library_is_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let (lib, bin) = (dir.path().join("lib/x86_64-linux-gnu"), dir.path().join("bin"));
        std::fs::create_dir_all(&lib).unwrap();
        std::fs::create_dir_all(&bin).unwrap();
        assert_eq!(find(Tool::UcxPerftest, Some(&lib)), None);
        std::fs::write(bin.join("ucx_perftest"), "").unwrap();
        let found = Some(bin.join("ucx_perftest"));
        assert_eq!(find(Tool::UcxPerftest, Some(&lib)), found);
        assert_eq!(find(Tool::UcxPerftest, Some(&dir.path().join("lib"))), found);
        assert_eq!(find(Tool::UcxPerftest, None), None);
    }
}
