//! Counters of work at the moment of a memory reading. Pure.
//!
//! Counters come over HTTP and memory from `/proc`; the two cannot be read at one instant, and
//! at 50,000 unmaps per second a millisecond between them is 50 units. So counters are read on
//! both sides of every memory reading, and what they were in between is interpolated.

use pdlab_api::snapshot;
use pdlab_leak::work::Work;

/// Counters, and when they were true.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Microseconds since the measurement began: the middle of the exchange that asked for them.
    pub t_us: u64,
    /// The counters.
    pub work: Work,
}

impl Counted {
    /// The counters of an exchange that took from `asked_us` to `answered_us`. The process read
    /// them somewhere in between, most likely half way.
    pub fn in_exchange(asked_us: u64, answered_us: u64, work: &snapshot::Work) -> Self {
        Self { t_us: asked_us.midpoint(answered_us), work: counters(work) }
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
    }
}

/// The counters at `t_us`, on the line from `before` to `after`. Outside of the two, the nearer
/// one: counters do not run ahead of what was counted.
pub fn interpolate(before: Counted, after: Counted, t_us: u64) -> Work {
    let span = after.t_us.saturating_sub(before.t_us);
    let passed = t_us.saturating_sub(before.t_us).min(span);
    let share = if span == 0 { 1.0 } else { passed as f64 / span as f64 };
    let at = |from: u64, to: u64| from + (to.saturating_sub(from) as f64 * share).round() as u64;
    let (a, b) = (before.work, after.work);
    Work {
        unmaps: at(a.unmaps, b.unmaps),
        requests: at(a.requests, b.requests),
        transfers: at(a.transfers, b.transfers),
        tokens: at(a.tokens, b.tokens),
        kv_bytes: at(a.kv_bytes, b.kv_bytes),
        blocks_verified: at(a.blocks_verified, b.blocks_verified),
        corrupt_blocks: at(a.corrupt_blocks, b.corrupt_blocks),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn counted(t_us: u64, unmaps: u64) -> Counted {
        Counted { t_us, work: Work { unmaps, ..Work::default() } }
    }

    #[test]
    fn counters_move_in_step_with_time() {
        let (before, after) = (counted(1000, 500), counted(2000, 600));
        let at = |t_us| interpolate(before, after, t_us).unmaps;
        assert_eq!([at(1000), at(1250), at(1999), at(2000)], [500, 525, 600, 600]);
        assert_eq!([at(0), at(9999)], [500, 600], "never outside of what was counted");
    }

    #[test]
    fn two_readings_at_once_are_the_later_one() {
        assert_eq!(interpolate(counted(5, 1), counted(5, 3), 5).unmaps, 3);
    }

    #[test]
    fn an_exchange_is_true_half_way() {
        let work = snapshot::Work { unmaps: 7, generation_tokens: 9, ..Default::default() };
        let counted = Counted::in_exchange(100, 200, &work);
        assert_eq!((counted.t_us, counted.work.unmaps, counted.work.tokens), (150, 7, 9));
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
            let early = interpolate(before, after, t[0].min(t[1])).unmaps;
            let late = interpolate(before, after, t[0].max(t[1])).unmaps;
            prop_assert!(from <= early && early <= late && late <= from + gain);
        }
    }
}
