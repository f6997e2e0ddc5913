//! What a process holds of devices: a view beside the ledger, never a part of its sum.
//!
//! A pinned page is resident as long as it is mapped, so the ledger has it already, under its owner. Once it is unmapped no
//! RSS shows it, and it is taken all the same. Which of the two it is the kernel does not tell; so it stands beside the sum,
//! with the RDMA objects that pin it.

use serde::{Deserialize, Serialize};

use crate::gauge::Gauge;
use crate::sample::Sample;

/// One count at the start and at the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Beside {
    /// What is counted; a gauge of that name judges it.
    pub gauge: Gauge,
    /// At the first sample.
    pub start: u64,
    /// At the last.
    pub end: u64,
}

impl Beside {
    /// For people: `pinned for devices`.
    pub fn name(&self) -> &'static str {
        match self.gauge {
            Gauge::Pinned => "pinned for devices",
            Gauge::RdmaMrBytes => "in RDMA memory regions",
            other => other.label(),
        }
    }

    /// What was gained; negative if given back.
    pub fn gained(&self) -> i64 {
        self.end as i64 - self.start as i64
    }
}

/// What the kernel counts, in the order in which it is shown.
const COUNTED: [Gauge; 6] = [
    Gauge::Pinned,
    Gauge::RdmaMrBytes,
    Gauge::RdmaMrs,
    Gauge::RdmaQps,
    Gauge::RdmaCqs,
    Gauge::RdmaPds,
];

/// All that the process held of devices at one of the two ends.
pub fn beside(first: &Sample, last: &Sample) -> Vec<Beside> {
    let row = |gauge: Gauge| {
        let (start, end) = (gauge.of(first)?, gauge.of(last)?);
        (start > 0 || end > 0).then_some(Beside { gauge, start, end })
    };
    COUNTED.into_iter().filter_map(row).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rdma::Objects;
    use crate::sample::Memory;

    fn sample(pinned_bytes: u64, rdma: Option<Objects>) -> Sample {
        Sample { memory: Memory { pinned_bytes, ..Memory::default() }, rdma, ..Sample::default() }
    }

    #[test]
    fn what_is_held_of_devices_is_told_and_nothing_else() {
        let queue_pairs = |queue_pairs| Some(Objects { queue_pairs, ..Objects::default() });
        assert_eq!(beside(&sample(0, None), &sample(0, None)), []);
        let rows = beside(&sample(4096, queue_pairs(3)), &sample(12288, queue_pairs(1)));
        let told: Vec<_> = rows.iter().map(|row| (row.name(), row.gained())).collect();
        assert_eq!(told, [("pinned for devices", 8192), ("RDMA queue pairs", -2)]);
    }
}
