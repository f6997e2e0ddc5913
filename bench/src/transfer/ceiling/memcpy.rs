//! Copies in memory: the ceiling of everything that moves bytes within one host.

use std::hint::black_box;
use std::time::{Duration, Instant};

use pdlab_transport::{Error, Mapping};

use crate::transfer::plan::COLD_BYTES;

/// Copied between two looks at the clock, which cost as much as a block of some hundred bytes.
const LOOK_BYTES: usize = 64 << 10;

/// Two regions far larger than the caches.
#[derive(Debug)]
pub struct Copies {
    source: Mapping,
    target: Mapping,
}

impl Copies {
    /// Maps them and makes them resident.
    ///
    /// # Errors
    /// If the kernel has no room.
    pub fn new() -> Result<Self, Error> {
        let resident = |byte| {
            let mut mapping = Mapping::anonymous(COLD_BYTES as usize)?;
            mapping.as_mut_slice().fill(byte);
            Ok::<_, Error>(mapping)
        };
        Ok(Self { source: resident(1)?, target: resident(2)? })
    }

    /// Copies blocks of `block` bytes for `time`, going through the first `walk` bytes of both
    /// regions, round and round. Bytes per second.
    pub fn measure(&mut self, block: usize, walk: usize, time: Duration) -> f64 {
        let block = block.clamp(1, self.source.len());
        let walk = walk.clamp(block, self.source.len());
        let (mut at, mut bytes) = (0, 0_u64);
        let started = Instant::now();
        loop {
            for _ in 0..LOOK_BYTES.div_ceil(block) {
                if at + block > walk {
                    at = 0;
                }
                let source = black_box(&self.source.as_slice()[at..at + block]);
                self.target.as_mut_slice()[at..at + block].copy_from_slice(source);
                at += block;
                bytes += block as u64;
            }
            let elapsed = started.elapsed();
            if elapsed >= time {
                black_box(self.target.as_slice());
                return bytes as f64 / elapsed.as_secs_f64();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_copied_and_counted() {
        let mut copies = Copies::new().unwrap();
        let rate = copies.measure(4096, 8192, Duration::from_millis(1));
        assert!(rate.is_finite() && rate > 0.0);
        assert_eq!(copies.target.as_slice()[..8193], [[1; 8192].as_slice(), &[2]].concat());
        assert!(copies.measure(1 << 30, 0, Duration::ZERO) > 0.0, "a block beyond the region");
    }
}
