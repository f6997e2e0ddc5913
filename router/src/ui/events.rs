//! Events: what they say, and which of them are kept. Pure.

use std::collections::VecDeque;

use pdlab_api::live::{EVENTS, LiveEvent, LiveLevel};
use pdlab_api::snapshot::Snapshot;

/// Events of one kind within this many milliseconds are one event that happened several times, so
/// that a flood of one kind does not push out all others.
const TOGETHER_MS: u64 = 10_000;

/// The last [`EVENTS`] events.
#[derive(Default)]
pub(crate) struct Events {
    list: VecDeque<LiveEvent>,
    seq: u64,
    at_ms: u64,
    changed: u64,
}

impl Events {
    /// From now on events belong to this tick.
    pub(crate) fn begin(&mut self, seq: u64, at_ms: u64) {
        (self.seq, self.at_ms) = (seq, at_ms);
    }

    /// Something happened to `role`, `count` times.
    pub(crate) fn add(&mut self, role: &str, level: LiveLevel, text: String, count: u64) {
        self.changed = self.seq;
        let at_ms = self.at_ms;
        let same = |event: &LiveEvent| {
            event.role == role
                && event.text == text
                && at_ms.saturating_sub(event.at_ms) <= TOGETHER_MS
        };
        // It moves to the end: the list stays in the order of its times.
        let earlier = self.list.iter().rposition(same).and_then(|at| self.list.remove(at));
        let count = count + earlier.map_or(0, |event| event.count);
        self.list.push_back(LiveEvent { at_ms, level, role: role.to_owned(), text, count });
        if self.list.len() > EVENTS {
            self.list.pop_front();
        }
    }

    /// The tick of the last event.
    pub(crate) fn changed(&self) -> u64 {
        self.changed
    }

    /// All that are kept, oldest first.
    pub(crate) fn list(&self) -> Vec<LiveEvent> {
        self.list.iter().cloned().collect()
    }
}

/// Adds what counters of failures say has happened between two snapshots of a process.
pub(crate) fn counted(events: &mut Events, role: &str, before: &Snapshot, now: &Snapshot) {
    let transport = |snapshot: &Snapshot| snapshot.transport.clone().unwrap_or_default().failures;
    let (own, theirs) = ((&before.failures, &now.failures), (transport(before), transport(now)));
    for (before, now) in [own, (&theirs.0, &theirs.1)] {
        for (name, count) in now {
            let more = count.saturating_sub(before.get(name).copied().unwrap_or(0));
            if more > 0
                && let Some((level, text)) = words(name)
            {
                events.add(role, level, text, more);
            }
        }
    }
    let more = now.work.corrupt_blocks.saturating_sub(before.work.corrupt_blocks);
    if more > 0 {
        let text = "KV block was not what it must be, and was not served".to_owned();
        events.add(role, LiveLevel::Problem, text, more);
    }
}

/// What a counter of failures means; `None` for what is no news. One that is not known here is
/// told by its own name.
fn words(counter: &str) -> Option<(LiveLevel, String)> {
    use LiveLevel::{Info, Problem, Warning};
    let (level, text) = match counter {
        "kv_expired" => (Warning, "lease expired: KV that nobody read was freed"),
        "notification_after_expiry" => (Warning, "KV was read after its lease had expired"),
        "handshake" => (Warning, "handshake with a prefill failed"),
        "transfer" => (Warning, "KV transfer failed"),
        "corrupt_transfer" => (Problem, "KV transfer brought wrong bytes"),
        "notification" => (Warning, "a prefill could not be told that its KV was read"),
        "no_worker" => (Problem, "request refused: no worker was left"),
        "cut" => (Warning, "answer broke off"),
        "client_gone" => (Info, "a client did not wait for its answer"),
        // A kept-alive connection that ended; the request goes out again on a fresh one.
        "prefill_stale_connection" | "decode_stale_connection" => return None,
        _ => return Some((Warning, counter.replace('_', " "))),
    };
    Some((level, text.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_api::ready::Role;

    #[test]
    fn a_flood_is_one_event_and_the_list_is_bounded() {
        let mut events = Events::default();
        for seq in 1..=1000 {
            events.begin(seq, 1000 * seq);
            events.add("router", LiveLevel::Warning, "answer broke off".into(), 2);
            if seq % 20 == 0 {
                events.add("decode-0", LiveLevel::Info, format!("news {seq}"), 1);
            }
        }
        assert_eq!((events.changed(), events.list().len()), (1000, 51));
        let list = events.list();
        let flood = list.iter().find(|event| event.role == "router").unwrap();
        assert_eq!((flood.count, flood.at_ms), (2000, 1_000_000));
        assert!(list.is_sorted_by_key(|event| event.at_ms));
        for seq in 0..1000 {
            events.add("router", LiveLevel::Info, format!("other {seq}"), 1);
        }
        assert_eq!(events.list().len(), EVENTS);
    }

    #[test]
    fn what_is_far_apart_happened_twice() {
        let mut events = Events::default();
        for at_ms in [0, TOGETHER_MS + 1] {
            events.begin(1, at_ms);
            events.add("prefill-0", LiveLevel::Warning, "lease expired".into(), 1);
        }
        assert_eq!(events.list().len(), 2);
    }

    #[test]
    fn counters_that_grow_are_told_in_words() {
        let mut before = Snapshot::new(Role::Prefill, 1);
        before.failures.insert("kv_expired".into(), 2);
        let mut now = before.clone();
        now.failures.insert("kv_expired".into(), 5);
        now.failures.insert("some_other".into(), 1);
        now.failures.insert("decode_stale_connection".into(), 9);
        now.work.corrupt_blocks = 1;
        let mut events = Events::default();
        counted(&mut events, "prefill-0", &before, &now);
        let told: Vec<_> = events.list().into_iter().map(|e| (e.text, e.count)).collect();
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].0.starts_with("lease expired") && told[0].1 == 3, "{told:?}");
        assert_eq!(told[1], ("some other".to_owned(), 1));
        assert!(told[2].0.contains("not what it must be"), "{told:?}");
        counted(&mut events, "prefill-0", &now, &now);
        assert_eq!(events.list().len(), 3);
    }
}
