//! Leases on pinned blocks: until when a finished request waits for its reader.
//!
//! vLLM's rules since 0.22 (<https://github.com/vllm-project/vllm/pull/41383>): a lease is granted when
//! prefill finishes, decode's heartbeats push its end out to two thirds of a lease from now, and a
//! request whose lease has ended is freed without asking the reader. `now` is the time since an
//! epoch of the caller's choice, the same in every call.

use std::collections::BTreeMap;
use std::time::Duration;

/// Deadlines by request.
#[derive(Clone, Debug)]
pub struct LeaseTable<K> {
    deadlines: BTreeMap<K, Duration>,
}

impl<K: Ord + Clone> LeaseTable<K> {
    /// A table without leases.
    pub fn new() -> Self {
        Self { deadlines: BTreeMap::new() }
    }

    /// Starts a lease that ends `lease` from `now`. A second grant replaces the first.
    pub fn grant(&mut self, id: K, now: Duration, lease: Duration) {
        self.deadlines.insert(id, now.saturating_add(lease));
    }

    /// Moves the end of a lease to two thirds of `lease` from `now`, never closer than it was.
    /// Returns false for an id without a lease: heartbeats that come before the grant or after the
    /// end are to be ignored, as vLLM does.
    pub fn heartbeat(&mut self, id: &K, now: Duration, lease: Duration) -> bool {
        let Some(deadline) = self.deadlines.get_mut(id) else {
            return false;
        };
        *deadline = (*deadline).max(now.saturating_add(lease * 2 / 3));
        true
    }

    /// Ends a lease because the reader is done. Returns false when there is none (any more): for a
    /// notification, that is one after expiry.
    pub fn release(&mut self, id: &K) -> bool {
        self.deadlines.remove(id).is_some()
    }

    /// Ends and returns, in order of id, every lease whose deadline has come. All entries are looked
    /// at: renewals make deadlines overtake each other, and a scan that stops at the first live one
    /// strands those behind it (<https://github.com/vllm-project/vllm/issues/58222>).
    pub fn expire(&mut self, now: Duration) -> Vec<K> {
        let due = self.deadlines.iter().filter(|&(_, &deadline)| deadline <= now);
        let due: Vec<K> = due.map(|(id, _)| id.clone()).collect();
        for id in &due {
            self.deadlines.remove(id);
        }
        due
    }

    /// The earliest deadline, for a driver that sleeps until then.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.deadlines.values().min().copied()
    }

    /// Number of leases.
    pub fn len(&self) -> usize {
        self.deadlines.len()
    }

    /// Whether there is no lease.
    pub fn is_empty(&self) -> bool {
        self.deadlines.is_empty()
    }
}

impl<K: Ord + Clone> Default for LeaseTable<K> {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_lease_without_heartbeats_ends_after_its_duration() {
        let mut leases = LeaseTable::new();
        leases.grant("a", at(100), LEASE);
        assert_eq!(leases.expire(at(129)), [""; 0]);
        assert_eq!(leases.next_deadline(), Some(at(130)));
        assert_eq!(leases.expire(at(130)), ["a"]);
        assert!(leases.is_empty());
        assert!(!leases.release(&"a"), "a late notification finds nothing");
    }

    #[test]
    fn a_heartbeat_extends_by_two_thirds_and_never_shortens() {
        let mut leases = LeaseTable::new();
        leases.grant(1, at(0), LEASE);
        assert!(leases.heartbeat(&1, at(5), LEASE));
        assert_eq!(leases.next_deadline(), Some(at(30)), "5 + 20 s is before 30 s");
        assert!(leases.heartbeat(&1, at(15), LEASE));
        assert_eq!(leases.next_deadline(), Some(at(35)));
        assert!(!leases.heartbeat(&2, at(15), LEASE), "unknown ids are ignored");
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn an_expired_lease_behind_a_renewed_one_is_found() {
        let mut leases = LeaseTable::new();
        leases.grant(1, at(0), LEASE);
        leases.grant(2, at(1), LEASE);
        leases.heartbeat(&1, at(25), LEASE);
        assert_eq!(leases.expire(at(31)), [2]);
        assert_eq!(leases.len(), 1);
    }

    #[test]
    fn a_released_lease_does_not_expire() {
        let mut leases = LeaseTable::default();
        leases.grant(1, at(0), LEASE);
        assert!(leases.release(&1));
        assert_eq!(leases.expire(at(1_000)), [0; 0]);
    }
}
