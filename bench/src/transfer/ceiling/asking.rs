//! The reading side of a tool, from start to its figures.

use std::net::IpAddr;
use std::process::Stdio;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::serving::ToolSite;
use crate::transfer::error::Refusal;
use crate::transfer::wire::{Reply, ToolJob};

/// How long a tool may take in all, its start included: half of what a coordinator waits for.
const PATIENCE: Duration = Duration::from_secs(30);
/// A server that has just been started does not listen yet.
const START: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(200);

/// Runs `job` from here against the server at `host` and `port`.
///
/// # Errors
/// Why there is no figure.
pub async fn ask(
    job: &ToolJob,
    site: &ToolSite,
    host: IpAddr,
    port: u16,
) -> Result<Reply, Refusal> {
    let refuse = |reason: String| Refusal { bad_input: false, reason };
    let tool = job.tool;
    let args = tool.ask(&site.job(job, port), &host.to_string());
    let shown = format!("{} {}", tool.program(), args.join(" "));
    let (begun, until) = (Instant::now(), Instant::now() + PATIENCE);
    loop {
        let mut command = site.command(tool)?;
        command.args(&args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Dropping the future kills it.
        let output = timeout_at(until, command.kill_on_drop(true).output()).await;
        let output = output
            .map_err(|_| refuse(format!("`{shown}` did not end within {PATIENCE:?}")))?
            .map_err(|error| refuse(format!("cannot run `{shown}`: {error}")))?;
        if let Some(reading) = tool.read(&String::from_utf8_lossy(&output.stdout), job.depth) {
            return Ok(Reply::Told { reading, command: shown });
        }
        if begun.elapsed() > START {
            let said = [output.stderr, output.stdout].concat();
            let said = String::from_utf8_lossy(&said);
            let last = said.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing");
            return Err(refuse(format!("`{shown}` has no figure; it says: {}", last.trim())));
        }
        sleep(RETRY).await;
    }
}
