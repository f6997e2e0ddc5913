//! Who moves bytes to whom. Pure.
//!
//! Agent 0 is the hub, which runs where the command was given; agents 1 and on are its peers.

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// The shape of the traffic, by where the bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Pattern {
    /// Every peer's bytes go to the hub: incast.
    #[value(alias = "incast")]
    ManyToOne,
    /// The hub's bytes go to every peer.
    OneToMany,
    /// Everybody's bytes go to everybody else.
    AllToAll,
}

/// A stream of blocks from one agent to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Flow {
    /// Index of the agent whose memory it is.
    pub source: usize,
    /// Index of the agent that gets a copy.
    pub target: usize,
}

impl Pattern {
    /// The flows among one hub and `peers` peers.
    pub fn flows(self, peers: usize) -> Vec<Flow> {
        let flow = |source, target| Flow { source, target };
        match self {
            Self::ManyToOne => (1..=peers).map(|peer| flow(peer, 0)).collect(),
            Self::OneToMany => (1..=peers).map(|peer| flow(0, peer)).collect(),
            Self::AllToAll => (0..=peers)
                .flat_map(|source| (0..=peers).map(move |target| flow(source, target)))
                .filter(|flow| flow.source != flow.target)
                .collect(),
        }
    }

    /// As it is written on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::ManyToOne => "many-to-one",
            Self::OneToMany => "one-to-many",
            Self::AllToAll => "all-to-all",
        }
    }
}

/// Flows into `agent`, in order: its memory is divided among them.
pub fn into(flows: &[Flow], agent: usize) -> impl Iterator<Item = Flow> {
    flows.iter().copied().filter(move |flow| flow.target == agent)
}

/// Flows out of `agent`, in order.
pub fn out_of(flows: &[Flow], agent: usize) -> impl Iterator<Item = Flow> {
    flows.iter().copied().filter(move |flow| flow.source == agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_go_where_the_pattern_says() {
        let pairs = |pattern: Pattern, peers| -> Vec<_> {
            pattern.flows(peers).iter().map(|flow| (flow.source, flow.target)).collect()
        };
        assert_eq!(pairs(Pattern::ManyToOne, 2), [(1, 0), (2, 0)]);
        assert_eq!(pairs(Pattern::OneToMany, 2), [(0, 1), (0, 2)]);
        let all = pairs(Pattern::AllToAll, 2);
        assert_eq!(all, [(0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1)]);
    }

    #[test]
    fn names_are_those_of_the_command_line() {
        for pattern in Pattern::value_variants() {
            assert_eq!(Pattern::from_str(pattern.name(), false).as_ref(), Ok(pattern));
        }
        assert_eq!(Pattern::from_str("incast", false), Ok(Pattern::ManyToOne));
    }
}
