//! Work: the axis on which leaks are measured.
//!
//! The same leak shows 450 or 730 MB per minute depending on how busy the machine is, and 144 bytes per unmap always.
//! So every memory reading is paired with these counters, and slopes are bytes per unit of one of them.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What one step along the axis is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// One unmap event of the process: munmap, madvise, a thread's stack given back.
    Unmap,
    /// One request answered.
    Request,
    /// One KV transfer, many blocks in one read.
    Transfer,
    /// One generated token.
    Token,
    /// One step of the engine.
    Step,
    /// One connection to a prefill that decode had dropped and has made anew.
    Reconnect,
    /// One of what a counter counts that the user named, such as `vllm:generation_tokens_total` of the process's own
    /// metrics. What one of them is, only the user knows.
    Count,
    /// One second of wall time, for a process whose work cannot be counted.
    Second,
}

impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Unit::Unmap => "unmap",
            Unit::Request => "request",
            Unit::Transfer => "transfer",
            Unit::Token => "token",
            Unit::Step => "step",
            Unit::Reconnect => "reconnect",
            Unit::Count => "count",
            Unit::Second => "second",
        })
    }
}

/// Counters of a process, counted since it started. They never fall.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Work {
    /// Unmap events made by the churn source, counted exactly.
    pub unmaps: u64,
    /// Requests answered to the end.
    pub requests: u64,
    /// KV transfers completed.
    pub transfers: u64,
    /// Tokens generated.
    pub tokens: u64,
    /// KV bytes moved by those transfers.
    pub kv_bytes: u64,
    /// KV blocks whose content was checked after the transfer.
    pub blocks_verified: u64,
    /// Of those, blocks that did not hold what they should.
    pub corrupt_blocks: u64,
    /// Engine steps.
    pub steps: u64,
    /// Connections to prefills made anew.
    pub reconnects: u64,
    /// What the user's own counter has counted since the measurement began.
    pub counted: u64,
}

impl Work {
    /// The counters by name, in the order of the columns of `samples.csv`.
    pub fn fields(&self) -> [(&'static str, u64); 10] {
        [
            ("unmaps", self.unmaps),
            ("requests", self.requests),
            ("transfers", self.transfers),
            ("tokens", self.tokens),
            ("kv_bytes", self.kv_bytes),
            ("blocks_verified", self.blocks_verified),
            ("corrupt_blocks", self.corrupt_blocks),
            ("steps", self.steps),
            ("reconnects", self.reconnects),
            ("counted", self.counted),
        ]
    }

    /// What was done since `earlier`.
    pub fn since(&self, earlier: &Work) -> Work {
        Work {
            unmaps: self.unmaps.saturating_sub(earlier.unmaps),
            requests: self.requests.saturating_sub(earlier.requests),
            transfers: self.transfers.saturating_sub(earlier.transfers),
            tokens: self.tokens.saturating_sub(earlier.tokens),
            kv_bytes: self.kv_bytes.saturating_sub(earlier.kv_bytes),
            blocks_verified: self.blocks_verified.saturating_sub(earlier.blocks_verified),
            corrupt_blocks: self.corrupt_blocks.saturating_sub(earlier.corrupt_blocks),
            steps: self.steps.saturating_sub(earlier.steps),
            reconnects: self.reconnects.saturating_sub(earlier.reconnects),
            counted: self.counted.saturating_sub(earlier.counted),
        }
    }

    /// This and `more` together.
    pub fn plus(&self, more: &Work) -> Work {
        Work {
            unmaps: self.unmaps + more.unmaps,
            requests: self.requests + more.requests,
            transfers: self.transfers + more.transfers,
            tokens: self.tokens + more.tokens,
            kv_bytes: self.kv_bytes + more.kv_bytes,
            blocks_verified: self.blocks_verified + more.blocks_verified,
            corrupt_blocks: self.corrupt_blocks + more.corrupt_blocks,
            steps: self.steps + more.steps,
            reconnects: self.reconnects + more.reconnects,
            counted: self.counted + more.counted,
        }
    }

    /// The count of `unit`; `None` for [`Unit::Second`], which is no counter.
    pub fn count(&self, unit: Unit) -> Option<u64> {
        match unit {
            Unit::Unmap => Some(self.unmaps),
            Unit::Request => Some(self.requests),
            Unit::Transfer => Some(self.transfers),
            Unit::Token => Some(self.tokens),
            Unit::Step => Some(self.steps),
            Unit::Reconnect => Some(self.reconnects),
            Unit::Count => Some(self.counted),
            Unit::Second => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_since_subtracts_every_counter() {
        let early = Work {
            unmaps: 1,
            requests: 2,
            transfers: 3,
            tokens: 4,
            kv_bytes: 5,
            blocks_verified: 6,
            corrupt_blocks: 7,
            steps: 8,
            reconnects: 9,
            counted: 10,
        };
        let late = Work {
            unmaps: 11,
            requests: 22,
            transfers: 33,
            tokens: 44,
            kv_bytes: 55,
            blocks_verified: 66,
            corrupt_blocks: 77,
            steps: 88,
            reconnects: 99,
            counted: 110,
        };
        let values: Vec<u64> =
            late.since(&early).fields().into_iter().map(|(_, value)| value).collect();
        assert_eq!(values, [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(early.since(&late), Work::default(), "a restarted counter does not wrap around");
        assert_eq!(early.plus(&late.since(&early)), late);
    }

    #[test]
    fn every_unit_but_the_second_is_a_counter() {
        let work = Work {
            unmaps: 9,
            requests: 8,
            transfers: 7,
            tokens: 6,
            steps: 5,
            reconnects: 4,
            counted: 3,
            ..Work::default()
        };
        let units = [
            Unit::Unmap,
            Unit::Request,
            Unit::Transfer,
            Unit::Token,
            Unit::Step,
            Unit::Reconnect,
            Unit::Count,
        ];
        let counts = units.map(|unit| work.count(unit));
        assert_eq!(counts, [9, 8, 7, 6, 5, 4, 3].map(Some));
        assert_eq!(work.count(Unit::Second), None);
    }
}
