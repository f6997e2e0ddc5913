//! Counters of work at the moment of a memory reading, and what was held then. Pure.
//!
//! Both come over HTTP and memory from `/proc`; the two cannot be read at one instant, and at
//! 50,000 unmaps per second a millisecond between them is 50 units. So snapshots are taken on
//! both sides of every memory reading, and what they were in between is interpolated.

use pdlab_api::snapshot::{self, Snapshot};
use pdlab_leak::sample::Counts;
use pdlab_leak::work::Work;

/// What a snapshot says, and when it was true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Microseconds since the measurement began: the middle of the exchange that asked for them.
    pub t_us: u64,
    /// The counters.
    pub work: Work,
    /// What was held.
    pub held: Counts,
}

impl Counted {
    /// The snapshot of an exchange that took from `asked_us` to `answered_us`. The process took it
    /// somewhere in between, most likely half way.
    pub fn in_exchange(asked_us: u64, answered_us: u64, snapshot: &Snapshot) -> Self {
        let t_us = asked_us.midpoint(answered_us);
        Self { t_us, work: counters(&snapshot.work), held: held(snapshot) }
    }
}

/// The counters of a role's snapshot as the leak analysis names them.
pub fn counters(work: &snapshot::Work) -> Work {
    Work {
        unmaps: work.unmaps,
        requests: work.requests,
        transfers: work.transfers,
        tokens: work.generation_tokens,
        kv_bytes: work.kv_bytes,
        blocks_verified: work.blocks_verified,
        corrupt_blocks: work.corrupt_blocks,
        steps: work.steps,
        reconnects: work.reconnects,
        counted: 0,
    }
}

/// What a role's snapshot says it holds, as the leak analysis names it.
pub fn held(snapshot: &Snapshot) -> Counts {
    let engine = snapshot.engine.unwrap_or_default();
    let transport = snapshot.transport.clone().unwrap_or_default();
    Counts {
        kv_blocks: engine.blocks_total.saturating_sub(engine.blocks_free),
        kv_blocks_pinned: engine.blocks_pinned,
        waiting_remote: engine.waiting_remote,
        leases: snapshot.leases,
        regions: transport.regions,
        registered_bytes: transport.registered_bytes,
        endpoints: transport.endpoints,
        transfers_open: transport.transfers_in_flight,
        notifications_queued: transport.notifications_queued,
        remote_engines: snapshot.remote_engines,
        rkeys: transport.rkeys,
        rcache_regions: transport.rcache_regions,
        rcache_bytes: transport.rcache_bytes,
        rcache_queue: transport.rcache_queue,
    }
}

/// The state at `t_us`, on the line from `before` to `after`. Outside of the two, the nearer one:
/// nothing runs ahead of what was counted.
pub fn interpolate(before: Counted, after: Counted, t_us: u64) -> Counted {
    let span = after.t_us.saturating_sub(before.t_us);
    let passed = t_us.saturating_sub(before.t_us).min(span);
    let share = if span == 0 { 1.0 } else { passed as f64 / span as f64 };
    Counted {
        t_us,
        work: work_between(before.work, after.work, share),
        held: held_between(before.held, after.held, share),
    }
}

/// Counters never fall; one that does was restarted, and stays at its old value until the next.
fn work_between(a: Work, b: Work, share: f64) -> Work {
    let at = |from: u64, to: u64| from + (to.saturating_sub(from) as f64 * share).round() as u64;
    Work {
        unmaps: at(a.unmaps, b.unmaps),
        requests: at(a.requests, b.requests),
        transfers: at(a.transfers, b.transfers),
        tokens: at(a.tokens, b.tokens),
        kv_bytes: at(a.kv_bytes, b.kv_bytes),
        blocks_verified: at(a.blocks_verified, b.blocks_verified),
        corrupt_blocks: at(a.corrupt_blocks, b.corrupt_blocks),
        steps: at(a.steps, b.steps),
        reconnects: at(a.reconnects, b.reconnects),
        counted: at(a.counted, b.counted),
    }
}

fn held_between(a: Counts, b: Counts, share: f64) -> Counts {
    let at = |from: u64, to: u64| {
        let change = (to as f64 - from as f64) * share;
        from.saturating_add_signed(change.round() as i64)
    };
    let known = |from: Option<u64>, to: Option<u64>| from.zip(to).map(|(from, to)| at(from, to));
    Counts {
        kv_blocks: at(a.kv_blocks, b.kv_blocks),
        kv_blocks_pinned: at(a.kv_blocks_pinned, b.kv_blocks_pinned),
        waiting_remote: at(a.waiting_remote, b.waiting_remote),
        leases: at(a.leases, b.leases),
        regions: at(a.regions, b.regions),
        registered_bytes: at(a.registered_bytes, b.registered_bytes),
        endpoints: at(a.endpoints, b.endpoints),
        transfers_open: at(a.transfers_open, b.transfers_open),
        notifications_queued: at(a.notifications_queued, b.notifications_queued),
        remote_engines: at(a.remote_engines, b.remote_engines),
        rkeys: known(a.rkeys, b.rkeys),
        rcache_regions: known(a.rcache_regions, b.rcache_regions),
        rcache_bytes: known(a.rcache_bytes, b.rcache_bytes),
        rcache_queue: known(a.rcache_queue, b.rcache_queue),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_api::ready::Role;
    use pdlab_api::snapshot::{EngineState, TransportState};
    use proptest::prelude::*;

    fn counted(t_us: u64, unmaps: u64) -> Counted {
        // A gauge that falls as the counter rises.
        let held = Counts { kv_blocks: 1000 - unmaps.min(1000), ..Counts::default() };
        Counted { t_us, work: Work { unmaps, ..Work::default() }, held }
    }

    #[test]
    fn counters_move_in_step_with_time() {
        let (before, after) = (counted(1000, 500), counted(2000, 600));
        let at = |t_us| interpolate(before, after, t_us).work.unmaps;
        assert_eq!([at(1000), at(1250), at(1999), at(2000)], [500, 525, 600, 600]);
        assert_eq!([at(0), at(9999)], [500, 600], "never outside of what was counted");
    }

    #[test]
    fn two_readings_at_once_are_the_later_one() {
        assert_eq!(interpolate(counted(5, 1), counted(5, 3), 5).work.unmaps, 3);
    }

    #[test]
    fn an_exchange_is_true_half_way() {
        let mut snapshot = Snapshot::new(Role::Decode, 1);
        snapshot.work =
            snapshot::Work { unmaps: 7, generation_tokens: 9, ..snapshot::Work::default() };
        let counted = Counted::in_exchange(100, 200, &snapshot);
        assert_eq!((counted.t_us, counted.work.unmaps, counted.work.tokens), (150, 7, 9));
    }

    #[test]
    fn what_is_held_may_fall_and_what_is_unknown_stays_so() {
        let (before, mut after) = (counted(1000, 500), counted(2000, 600));
        assert_eq!(interpolate(before, after, 1250).held.kv_blocks, 475);
        after.held.rkeys = Some(4);
        assert_eq!(interpolate(before, after, 1250).held.rkeys, None);
    }

    #[test]
    fn a_snapshot_tells_what_is_held() {
        let mut snapshot = Snapshot::new(Role::Prefill, 1);
        assert_eq!(held(&snapshot), Counts::default());
        let state = EngineState { blocks_total: 9, blocks_free: 2, ..EngineState::default() };
        (snapshot.leases, snapshot.engine) = (3, Some(state));
        let transport = TransportState { rkeys: Some(1), ..TransportState::default() };
        snapshot.transport = Some(transport);
        let held = held(&snapshot);
        assert_eq!((held.kv_blocks, held.leases, held.rkeys), (7, 3, Some(1)));
        assert_eq!(held.rcache_queue, None);
    }

    proptest! {
        #[test]
        fn later_is_never_less(
            t in proptest::array::uniform2(0..1_000_000u64),
            gap in 0..1_000_000u64,
            from in 0..1u64 << 40,
            gain in 0..1u64 << 40,
        ) {
            let (before, after) = (counted(1000, from), counted(1000 + gap, from + gain));
            let early = interpolate(before, after, t[0].min(t[1])).work.unmaps;
            let late = interpolate(before, after, t[0].max(t[1])).work.unmaps;
            prop_assert!(from <= early && early <= late && late <= from + gain);
        }
    }
}
