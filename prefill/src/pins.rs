//! Pinned requests: how long prefill keeps blocks for a remote reader, as vLLM does since 0.22
//! (<https://github.com/vllm-project/vllm/pull/41383>): a lease, renewed by heartbeats, ended by
//! as many notifications as there are readers.

use std::collections::HashMap;
use std::time::Duration;

use pdlab_engine::{LeaseTable, RequestId};

/// How many expired ids are remembered, to tell a late notification from a foreign one.
const REMEMBERED: usize = 1024;

/// The pinned requests, by their id on the wire. Time is the engine loop's, counted from its start.
#[derive(Debug)]
pub struct Pins {
    lease: Duration,
    leases: LeaseTable<String>,
    pinned: HashMap<String, Pin>,
    expired: std::collections::VecDeque<String>,
}

#[derive(Debug)]
struct Pin {
    id: RequestId,
    notified: u32,
}

/// What a notification meant.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// All readers are done: free the blocks.
    Done(RequestId),
    /// More readers are to come.
    Partly,
    /// The lease had expired: what was read may have been overwritten
    /// (<https://github.com/vllm-project/vllm/issues/21570>).
    TooLate,
    /// Nobody by that id.
    Unknown,
}

impl Pins {
    /// Pins for this long unless renewed.
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            leases: LeaseTable::new(),
            pinned: HashMap::new(),
            expired: std::collections::VecDeque::new(),
        }
    }

    /// Pins a request.
    pub fn pin(&mut self, wire_id: &str, id: RequestId, now: Duration) {
        self.leases.grant(wire_id.to_owned(), now, self.lease);
        self.pinned.insert(wire_id.to_owned(), Pin { id, notified: 0 });
    }

    /// A reader is done, one of `readers`.
    pub fn read(&mut self, wire_id: &str, readers: u32) -> Read {
        let Some(pin) = self.pinned.get_mut(wire_id) else {
            let late = self.expired.iter().any(|id| id == wire_id);
            return if late { Read::TooLate } else { Read::Unknown };
        };
        pin.notified += 1;
        if pin.notified < readers {
            return Read::Partly;
        }
        let id = pin.id;
        self.pinned.remove(wire_id);
        self.leases.release(&wire_id.to_owned());
        Read::Done(id)
    }

    /// A reader still waits for its turn. Unknown ids are ignored, as vLLM does.
    pub fn heartbeat(&mut self, wire_id: &str, now: Duration) {
        self.leases.heartbeat(&wire_id.to_owned(), now, self.lease);
    }

    /// Ends the leases that have run out; their blocks are to be freed.
    pub fn expire(&mut self, now: Duration) -> Vec<(String, RequestId)> {
        let expired = self.leases.expire(now);
        let mut freed = Vec::with_capacity(expired.len());
        for wire_id in expired {
            if let Some(pin) = self.pinned.remove(&wire_id) {
                if self.expired.len() == REMEMBERED {
                    self.expired.pop_front();
                }
                self.expired.push_back(wire_id.clone());
                freed.push((wire_id, pin.id));
            }
        }
        freed
    }

    /// Requests pinned now.
    pub fn len(&self) -> usize {
        self.pinned.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.pinned.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    fn pins() -> Pins {
        let mut pins = Pins::new(30 * S);
        pins.pin("a", RequestId(1), Duration::ZERO);
        pins
    }

    #[test]
    fn one_reader_frees() {
        let mut pins = pins();
        assert_eq!(pins.read("a", 1), Read::Done(RequestId(1)));
        assert_eq!(pins.read("a", 1), Read::Unknown);
        assert!(pins.is_empty() && pins.expire(99 * S).is_empty());
    }

    #[test]
    fn several_readers_free_together() {
        let mut pins = pins();
        assert_eq!(pins.read("a", 2), Read::Partly);
        assert_eq!(pins.read("a", 2), Read::Done(RequestId(1)));
    }

    #[test]
    fn a_lease_ends_and_a_late_reader_is_told_apart() {
        let mut pins = pins();
        assert!(pins.expire(29 * S).is_empty());
        assert_eq!(pins.expire(31 * S), [("a".to_owned(), RequestId(1))]);
        assert_eq!(pins.read("a", 1), Read::TooLate);
        assert_eq!(pins.read("b", 1), Read::Unknown);
    }

    #[test]
    fn heartbeats_extend_by_two_thirds() {
        let mut pins = pins();
        pins.heartbeat("a", 25 * S);
        pins.heartbeat("nobody", 25 * S);
        assert!(pins.expire(44 * S).is_empty());
        assert_eq!(pins.expire(46 * S).len(), 1);
    }
}
