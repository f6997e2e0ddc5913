//! The churn source: unmap events on purpose, as many as the settings say, counted exactly; and
//! other uses of memory, guilty and innocent, to be told apart from them.
//!
//! Mappings come from [`Mapping`], whose end is libc's `munmap`: the call that UCX patches.
//!
//! - [`config`], [`pattern`]: the settings.
//! - `mappings`: patterns that map and unmap. `register`: the one that also registers.
//! - `threads`: patterns of threads and malloc. `growth`: those that keep memory.
//!
//! [`Mapping`]: pdlab_transport::Mapping

pub mod config;
mod growth;
mod mappings;
pub mod pattern;
mod register;
mod threads;

use std::fmt::Debug;

use pdlab_transport::{Agent, Error};

pub use config::ChurnConfig;
pub use pattern::{Pattern, UnknownPattern};

/// One pattern at work.
trait Source: Debug + Send {
    /// Performs at most `operations`, at least one or what has to come before it.
    fn run(&mut self, operations: u64) -> Result<Done, Error>;

    /// The unmap events that dropping it will cause.
    fn held(&self) -> u64 {
        0
    }
}

/// What was done.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Done {
    operations: u64,
    unmaps: u64,
}

impl Done {
    /// Something that had to come first.
    const PREPARED: Self = Self { operations: 0, unmaps: 0 };
    /// An operation that unmaps.
    const UNMAP: Self = Self { operations: 1, unmaps: 1 };
    /// An operation that does not.
    const USE: Self = Self { operations: 1, unmaps: 0 };
}

/// Uses and unmaps memory. One at a time: the resident set is its own.
#[derive(Debug)]
pub struct Churner {
    config: ChurnConfig,
    source: Box<dyn Source>,
    agent: Agent,
    seed: u64,
    debt: f64,
}

impl Churner {
    /// A source with this configuration; `seed` decides the sizes and places that are random, and
    /// `agent` is what buffers are registered with.
    pub fn new(config: ChurnConfig, seed: u64, agent: Agent) -> Self {
        let source = source(&config, seed, &agent);
        Self { config, source, agent, seed, debt: 0.0 }
    }

    /// The settings in force.
    pub fn config(&self) -> &ChurnConfig {
        &self.config
    }

    /// Changes the settings. What the old ones kept is given back; the number of unmaps that took
    /// is returned.
    pub fn configure(&mut self, config: ChurnConfig) -> u64 {
        let freed = self.source.held();
        *self = Self::new(config, self.seed, self.agent.clone());
        freed
    }

    /// Adds operations to what is owed, and performs the whole ones. Returns the unmap events that
    /// they were.
    pub fn pay(&mut self, operations: f64) -> Result<u64, Error> {
        self.debt += operations;
        let whole = self.debt.floor();
        self.debt -= whole;
        let mut left = whole as u64;
        let mut unmaps = 0;
        while left > 0 {
            let done = self.source.run(left)?;
            left = left.saturating_sub(done.operations);
            unmaps += done.unmaps;
        }
        Ok(unmaps)
    }
}

fn source(config: &ChurnConfig, seed: u64, agent: &Agent) -> Box<dyn Source> {
    let ChurnConfig { pattern, bytes, resident, .. } = *config;
    match pattern {
        Pattern::Same => Box::new(mappings::Same::new(bytes)),
        Pattern::Adjacent => Box::new(mappings::Adjacent::new(bytes)),
        Pattern::Disjoint => Box::new(mappings::Disjoint::new(bytes, resident, Dice::new(seed))),
        Pattern::Random => Box::new(mappings::Random::new(bytes, resident, Dice::new(seed))),
        Pattern::Madvise => Box::new(mappings::Madvise::new(bytes)),
        Pattern::Mremap => Box::new(mappings::Mremap::new(bytes)),
        Pattern::Register => Box::new(register::Register::new(bytes, resident, agent.clone())),
        Pattern::Arena => Box::new(threads::Arena::default()),
        Pattern::Threads => Box::new(threads::Threads),
        Pattern::Heap => Box::new(threads::Heap::new(bytes, resident, Dice::new(seed))),
        Pattern::Files => Box::new(growth::Files::new(bytes)),
        Pattern::Pool => Box::new(growth::Pool::new(bytes, resident, Dice::new(seed))),
        Pattern::Plant => Box::new(growth::Plant::new(bytes)),
    }
}

/// SplitMix64 (<https://prng.di.unimi.it/splitmix64.c>).
#[derive(Debug, Clone)]
struct Dice(u64);

impl Dice {
    fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use pdlab_transport::{AgentConfig, BackendChoice, BackendKind};

    use super::*;

    async fn agent() -> Agent {
        let mut config = AgentConfig::new("churn");
        config.choice = BackendChoice::Only(BackendKind::Tcp);
        Agent::open(config).await.unwrap()
    }

    fn churner(pattern: Pattern, agent: &Agent) -> Churner {
        let config = ChurnConfig { pattern, resident: 8, ..ChurnConfig::default() };
        Churner::new(config, 1, agent.clone())
    }

    #[tokio::test]
    async fn every_pattern_pays_what_it_owes() {
        let agent = agent().await;
        for pattern in Pattern::ALL {
            let mut churner = churner(pattern, &agent);
            let done: u64 = (0..10).map(|_| churner.pay(20.25).unwrap()).sum();
            match pattern {
                Pattern::Heap | Pattern::Files | Pattern::Pool | Pattern::Plant => {
                    assert_eq!(done, 0, "{pattern}");
                }
                _ => assert!((202..=203).contains(&done), "{pattern}: {done}"),
            }
        }
    }

    #[tokio::test]
    async fn the_resident_set_is_bounded() {
        let agent = agent().await;
        for pattern in [Pattern::Disjoint, Pattern::Random, Pattern::Register, Pattern::Pool] {
            let mut churner = churner(pattern, &agent);
            churner.pay(500.0).unwrap();
            // Holes to be are held too, as many as stay between them.
            let most = if pattern == Pattern::Disjoint { 16 } else { 9 };
            assert!((1..=most).contains(&churner.source.held()), "{pattern}");
        }
    }

    #[tokio::test]
    async fn a_change_of_settings_gives_back_what_was_kept() {
        let agent = agent().await;
        let mut churner = churner(Pattern::Random, &agent);
        churner.pay(4.0).unwrap();
        let register =
            ChurnConfig { pattern: Pattern::Register, resident: 8, ..Default::default() };
        assert_eq!(churner.configure(register), 8);
        churner.pay(3.0).unwrap();
        assert_eq!(agent.snapshot().regions, 5);
        assert_eq!(churner.configure(ChurnConfig::default()), 5);
        assert_eq!(agent.snapshot().regions, 0);
        assert_eq!(churner.configure(ChurnConfig::default()), 0);
    }
}
