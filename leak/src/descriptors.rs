//! Open file descriptors by kind: which of them a process collects.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

/// What a descriptor refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DescriptorKind {
    /// Network and Unix sockets.
    Sockets,
    /// Pipes.
    Pipes,
    /// What only the kernel backs: eventfd, epoll, timers.
    Events,
    /// Files, devices and anything else with a path.
    Files,
}

impl fmt::Display for DescriptorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DescriptorKind::Sockets => "sockets",
            DescriptorKind::Pipes => "pipes",
            DescriptorKind::Events => "eventfds, epolls and timers",
            DescriptorKind::Files => "files and devices",
        })
    }
}

/// The open descriptors of a process at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Descriptors {
    counts: BTreeMap<DescriptorKind, u64>,
}

impl Descriptors {
    /// Sorts the targets of the links in `/proc/PID/fd`: `socket:[7]`, `anon_inode:[eventfd]`, `/dev/null`
    /// (<https://man7.org/linux/man-pages/man5/proc_pid_fd.5.html>).
    pub fn of(targets: impl IntoIterator<Item = impl AsRef<str>>) -> Descriptors {
        let mut descriptors = Descriptors::default();
        for target in targets {
            let kind = match target.as_ref().split_once(':') {
                Some(("socket", _)) => DescriptorKind::Sockets,
                Some(("pipe", _)) => DescriptorKind::Pipes,
                Some(("anon_inode", _)) => DescriptorKind::Events,
                _ => DescriptorKind::Files,
            };
            *descriptors.counts.entry(kind).or_default() += 1;
        }
        descriptors
    }

    /// What was opened of each kind from `self` to `end`, less what was closed.
    pub fn gained(&self, end: &Descriptors) -> Vec<(DescriptorKind, i64)> {
        let count = |side: &Descriptors, kind| side.counts.get(&kind).copied().unwrap_or(0) as i64;
        let kinds: std::collections::BTreeSet<DescriptorKind> =
            self.counts.keys().chain(end.counts.keys()).copied().collect();
        kinds.into_iter().map(|kind| (kind, count(end, kind) - count(self, kind))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_are_told_by_their_targets() {
        let start = Descriptors::of(["/dev/null", "socket:[17]", "pipe:[3]"]);
        let end =
            Descriptors::of(["socket:[17]", "socket:[18]", "anon_inode:[eventpoll]", "pipe:[3]"]);
        assert_eq!(
            start.gained(&end),
            [
                (DescriptorKind::Sockets, 1),
                (DescriptorKind::Pipes, 0),
                (DescriptorKind::Events, 1),
                (DescriptorKind::Files, -1),
            ]
        );
    }
}
