//! Which requests still wait for which prefill, and what to tell it about them.

use std::collections::{BTreeMap, BTreeSet};

use pdlab_api::notification::KvNotification;

/// vLLM sends a heartbeat every sixth of the lease.
pub const BEATS_PER_LEASE: u32 = 6;

/// Ids in one heartbeat; ids can be hundreds of bytes and a notification is a small message.
const IDS_PER_BEAT: usize = 32;

/// Requests whose KV is still at a prefill.
#[derive(Debug, Default)]
pub struct Waiting {
    by_engine: BTreeMap<String, BTreeSet<String>>,
}

impl Waiting {
    /// A load began.
    pub fn insert(&mut self, engine_id: &str, request_id: &str) {
        let requests = self.by_engine.entry(engine_id.to_owned()).or_default();
        requests.insert(request_id.to_owned());
    }

    /// A load ended, in whatever way.
    pub fn remove(&mut self, engine_id: &str, request_id: &str) {
        if let Some(requests) = self.by_engine.get_mut(engine_id) {
            requests.remove(request_id);
            if requests.is_empty() {
                self.by_engine.remove(engine_id);
            }
        }
    }

    /// The heartbeats that name every waiting request to its prefill.
    pub fn beats(&self) -> Vec<(String, KvNotification)> {
        let mut beats = Vec::new();
        for (engine, ids) in &self.by_engine {
            let ids: Vec<String> = ids.iter().cloned().collect();
            for some in ids.chunks(IDS_PER_BEAT) {
                beats.push((engine.clone(), KvNotification::Heartbeat(some.to_vec())));
            }
        }
        beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_beat_per_prefill_names_its_requests() {
        let mut waiting = Waiting::default();
        waiting.insert("p1", "a");
        waiting.insert("p1", "b");
        waiting.insert("p2", "c");
        let heartbeat =
            |ids: &[&str]| KvNotification::Heartbeat(ids.iter().map(|s| (*s).to_owned()).collect());
        assert_eq!(
            waiting.beats(),
            [("p1".into(), heartbeat(&["a", "b"])), ("p2".into(), heartbeat(&["c"]))]
        );
        waiting.remove("p2", "c");
        waiting.remove("p2", "c");
        waiting.remove("p1", "a");
        assert_eq!(waiting.beats(), [("p1".into(), heartbeat(&["b"]))]);
        waiting.remove("p1", "b");
        assert!(waiting.by_engine.is_empty());
    }

    #[test]
    fn many_requests_take_several_beats() {
        let mut waiting = Waiting::default();
        for n in 0..70 {
            waiting.insert("p", &format!("{n:03}"));
        }
        let sizes = waiting.beats().into_iter().map(|(_, beat)| match beat {
            KvNotification::Heartbeat(ids) => ids.len(),
            KvNotification::Read { .. } => 0,
        });
        assert_eq!(sizes.collect::<Vec<_>>(), [32, 32, 6]);
    }
}
