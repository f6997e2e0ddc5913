//! Which worker gets a leg.

mod least_loaded;
mod round_robin;

use std::fmt;
use std::str::FromStr;

pub use least_loaded::LeastLoaded;
pub use round_robin::RoundRobin;

/// A worker that could take a leg.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// The worker's place in the configuration, which stays the same while candidates change.
    pub worker: usize,
    /// Legs that it is serving for this router.
    pub in_flight: u64,
}

/// Chooses among candidates. It may remember what it chose; it sees no clock and no socket.
pub trait Policy: Send {
    /// The index into `candidates` of the one to use; `None` only when there is none.
    ///
    /// Candidates come in ascending order of [`Candidate::worker`].
    fn pick(&mut self, candidates: &[Candidate]) -> Option<usize>;
}

/// The policies by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PolicyKind {
    /// [`RoundRobin`].
    #[default]
    RoundRobin,
    /// [`LeastLoaded`].
    LeastLoaded,
}

impl PolicyKind {
    /// Every policy.
    pub const ALL: [PolicyKind; 2] = [PolicyKind::RoundRobin, PolicyKind::LeastLoaded];

    /// The name in configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            PolicyKind::RoundRobin => "round_robin",
            PolicyKind::LeastLoaded => "least_loaded",
        }
    }

    /// A policy that has chosen nothing yet.
    pub fn build(self) -> Box<dyn Policy> {
        match self {
            PolicyKind::RoundRobin => Box::new(RoundRobin::default()),
            PolicyKind::LeastLoaded => Box::new(LeastLoaded::default()),
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for PolicyKind {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        PolicyKind::ALL.into_iter().find(|kind| kind.as_str() == name).ok_or_else(|| {
            let known: Vec<_> = PolicyKind::ALL.into_iter().map(PolicyKind::as_str).collect();
            format!("unknown policy `{name}`; known are {}", known.join(", "))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn names_round_trip() {
        for kind in PolicyKind::ALL {
            assert_eq!(kind.to_string().parse(), Ok(kind));
        }
        let error = "random".parse::<PolicyKind>().unwrap_err();
        assert!(error.contains("`random`") && error.contains("least_loaded"), "{error}");
    }

    proptest! {
        #[test]
        fn a_pick_is_always_a_candidate(
            rounds in prop::collection::vec(prop::collection::btree_map(0usize..8, 0u64..4, 0..6), 1..20),
        ) {
            for kind in PolicyKind::ALL {
                let mut policy = kind.build();
                for loads in &rounds {
                    let candidates: Vec<_> = loads
                        .iter()
                        .map(|(&worker, &in_flight)| Candidate { worker, in_flight })
                        .collect();
                    match policy.pick(&candidates) {
                        None => prop_assert!(candidates.is_empty()),
                        Some(index) => prop_assert!(index < candidates.len()),
                    }
                }
            }
        }
    }
}
