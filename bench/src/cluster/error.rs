//! What can go wrong with a cluster.

use std::io;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use pdlab_api::snapshot::Snapshot;

/// A role did not start, did not answer, or did not give back what it held.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// The operating system did not start the process.
    #[error("cannot start {role} ({}): {source}", program.display())]
    Spawn {
        /// Which process, such as `decode-0`.
        role: String,
        /// What was to be run.
        program: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The role's log file cannot be made.
    #[error("cannot write the log of {role}, {}: {source}; choose another directory with --out", path.display())]
    Log {
        /// Which process.
        role: String,
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The process ended before it printed its ready line.
    #[error(
        "{role} ended before it was ready ({status}){last_words}
`pdlab doctor` shows what can run here and why not"
    )]
    NotStarted {
        /// Which process.
        role: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log's last lines, quoted.
        last_words: String,
    },
    /// The first line of stdout is not the ready line of this role.
    #[error("{role} printed no ready line: {reason}; is {} the pdlab binary?{last_words}", program.display())]
    Garbage {
        /// Which process.
        role: String,
        /// What was run.
        program: PathBuf,
        /// What it printed, cut short, and what is wrong with it.
        reason: String,
        /// Its log's last lines, quoted.
        last_words: String,
    },
    /// No ready line in time.
    #[error("{role} was not ready after {:.1} s; is the machine overloaded?{last_words}", waited.as_secs_f64())]
    NotReady {
        /// Which process.
        role: String,
        /// How long it was waited for.
        waited: Duration,
        /// Its log's last lines, quoted.
        last_words: String,
    },
    /// A role that had been running is gone.
    #[error("{role} died ({status}){last_words}")]
    Died {
        /// Which process.
        role: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log's last lines, quoted.
        last_words: String,
    },
    /// A role answers HTTP in a way it should not, or not at all.
    #[error("{role} does not answer {url} as it should: {reason}")]
    Http {
        /// Which process.
        role: String,
        /// What was asked.
        url: String,
        /// What came back.
        reason: String,
    },
    /// The load is over and a role still holds something.
    #[error("{role} still holds {held} {:.0} s after the load ended; its log says more", waited.as_secs_f64())]
    NotDrained {
        /// Which process.
        role: String,
        /// How long it was waited for.
        waited: Duration,
        /// What it holds.
        held: String,
    },
    /// The start was cancelled.
    #[error("the start of the cluster was cancelled; what had been started was ended")]
    Cancelled,
    /// The state of the process cannot be asked for.
    #[error("cannot wait for {role}: {source}")]
    Wait {
        /// Which process.
        role: String,
        /// Why not.
        source: io::Error,
    },
}

/// What keeps `snapshot` from being drained, in words.
pub(super) fn held(snapshot: &Snapshot) -> String {
    let engine = snapshot.engine.unwrap_or_default();
    let transport = snapshot.transport.clone().unwrap_or_default();
    let used = engine.blocks_total.saturating_sub(engine.blocks_free);
    let parts = [
        (snapshot.http_in_flight, "HTTP requests"),
        (used, "KV blocks"),
        (engine.blocks_pinned, "pinned KV blocks"),
        (engine.running, "running requests"),
        (engine.waiting, "waiting requests"),
        (engine.waiting_remote, "requests that wait for remote KV"),
        (snapshot.leases, "leases"),
        (transport.transfers_in_flight, "transfers in flight"),
        (transport.notifications_queued, "unread notifications"),
    ];
    let held: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, what)| format!("{n} {what}")).collect();
    held.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_api::ready::Role;
    use pdlab_api::snapshot::EngineState;

    #[test]
    fn what_is_held_is_named_and_the_rest_is_not() {
        let mut snapshot = Snapshot::new(Role::Prefill, 1);
        snapshot.leases = 2;
        snapshot.engine =
            Some(EngineState { blocks_total: 8, blocks_free: 5, ..EngineState::default() });
        assert_eq!(held(&snapshot), "3 KV blocks, 2 leases");
    }
}
