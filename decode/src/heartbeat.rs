//! Which requests still wait for which prefill, and what to tell it about them.

use std::collections::{BTreeMap, BTreeSet};

use pdlab_api::kv_transfer::RemotePrefill;
use pdlab_api::notification::KvNotification;

/// vLLM sends a heartbeat every sixth of the lease.
pub const BEATS_PER_LEASE: u32 = 6;

/// Ids in one heartbeat; ids can be hundreds of bytes and a notification is a small message.
const IDS_PER_BEAT: usize = 32;

/// Requests whose KV is still at a prefill, by engine id.
#[derive(Debug, Default)]
pub struct Waiting {
    engines: BTreeMap<String, Engine>,
}

#[derive(Debug)]
struct Engine {
    /// A request of this prefill, for its address.
    any: RemotePrefill,
    request_ids: BTreeSet<String>,
}

impl Waiting {
    /// A request arrived that will read.
    pub fn insert(&mut self, pull: &RemotePrefill) {
        let fresh = || Engine { any: pull.clone(), request_ids: BTreeSet::new() };
        let engine = self.engines.entry(pull.engine_id.clone()).or_insert_with(fresh);
        engine.request_ids.insert(pull.request_id.clone());
    }

    /// It has read, or never will.
    pub fn remove(&mut self, pull: &RemotePrefill) {
        if let Some(engine) = self.engines.get_mut(&pull.engine_id) {
            engine.request_ids.remove(&pull.request_id);
            if engine.request_ids.is_empty() {
                self.engines.remove(&pull.engine_id);
            }
        }
    }

    /// The heartbeats that name every waiting request to its prefill, each with a request of that
    /// prefill.
    pub fn beats(&self) -> Vec<(RemotePrefill, KvNotification)> {
        let mut beats = Vec::new();
        for engine in self.engines.values() {
            let ids: Vec<String> = engine.request_ids.iter().cloned().collect();
            for some in ids.chunks(IDS_PER_BEAT) {
                beats.push((engine.any.clone(), KvNotification::Heartbeat(some.to_vec())));
            }
        }
        beats
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pull(engine_id: &str, request_id: &str) -> RemotePrefill {
        RemotePrefill {
            block_ids: vec![],
            engine_id: engine_id.into(),
            request_id: request_id.into(),
            host: "h".into(),
            port: 1,
            tp_size: 1,
            num_tokens: None,
            cached_tokens: 0,
            timings: None,
        }
    }

    /// Engine id and request ids of every beat.
    fn beats(waiting: &Waiting) -> Vec<(String, Vec<String>)> {
        let ids = |(pull, beat): (RemotePrefill, KvNotification)| match beat {
            KvNotification::Heartbeat(ids) => (pull.engine_id, ids),
            KvNotification::Read { .. } => panic!("not a heartbeat"),
        };
        waiting.beats().into_iter().map(ids).collect()
    }

    #[test]
    fn a_beat_names_all_requests_of_a_prefill() {
        let mut waiting = Waiting::default();
        for (engine, request) in [("p1", "a"), ("p1", "b"), ("p2", "c")] {
            waiting.insert(&pull(engine, request));
        }
        let both = ("p1".to_owned(), vec!["a".to_owned(), "b".to_owned()]);
        assert_eq!(beats(&waiting), [both, ("p2".to_owned(), vec!["c".to_owned()])]);
        waiting.remove(&pull("p2", "c"));
        waiting.remove(&pull("p2", "c"));
        waiting.remove(&pull("p1", "a"));
        assert_eq!(beats(&waiting), [("p1".to_owned(), vec!["b".to_owned()])]);
        waiting.remove(&pull("p1", "b"));
        assert!(waiting.engines.is_empty());
    }

    #[test]
    fn many_requests_take_several_beats() {
        let mut waiting = Waiting::default();
        for n in 0..70 {
            waiting.insert(&pull("p", &format!("{n:03}")));
        }
        let sizes: Vec<usize> = beats(&waiting).iter().map(|(_, ids)| ids.len()).collect();
        assert_eq!(sizes, [32, 32, 6]);
    }
}
