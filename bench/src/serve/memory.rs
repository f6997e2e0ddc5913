//! Memory of processes during a run: the load generator's own, and others' that are named.
//!
//! Read by a thread of its own, because a reading walks page tables and would make requests late.

use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pdlab_leak::sampler::{SampleError, Watched};

/// Between two readings.
const PERIOD: Duration = Duration::from_secs(1);

/// Readings that are kept of a process; beyond them every second one is dropped, and from then on
/// only half as many are taken.
const MOST_POINTS: usize = 240;

/// Resident memory of one process.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessMemory {
    /// `client`, or `pid 123`.
    pub process: String,
    /// Seconds since the start, and bytes resident.
    pub points: Vec<(f64, u64)>,
}

/// Processes under watch. Dropping it ends the thread.
#[derive(Debug)]
pub(super) struct MemoryWatch {
    stop: Sender<()>,
    thread: JoinHandle<Vec<ProcessMemory>>,
}

impl MemoryWatch {
    /// Watches this process and `pids`.
    ///
    /// Fails if one of them cannot be read.
    pub(super) fn start(pids: &[u32]) -> Result<Self, SampleError> {
        let own = Watched::open(std::process::id())?;
        let mut watched = vec![("client".to_owned(), own)];
        for &pid in pids {
            watched.push((format!("pid {pid}"), Watched::open(pid)?));
        }
        let (stop, stopped) = channel();
        let thread = std::thread::spawn(move || {
            let began = Instant::now();
            let empty = |(process, _): &(String, Watched)| ProcessMemory {
                process: process.clone(),
                points: Vec::new(),
            };
            let mut memory: Vec<ProcessMemory> = watched.iter().map(empty).collect();
            let mut period = PERIOD;
            loop {
                for (series, (_, process)) in memory.iter_mut().zip(&watched) {
                    // A process that has ended has no more readings.
                    if let Ok(reading) = process.read() {
                        series.points.push((began.elapsed().as_secs_f64(), reading.rss_bytes));
                    }
                }
                if memory.iter().any(|series| series.points.len() > MOST_POINTS) {
                    memory.iter_mut().for_each(|series| halve(&mut series.points));
                    period *= 2;
                }
                match stopped.recv_timeout(period) {
                    Err(RecvTimeoutError::Timeout) => {}
                    _ => return memory,
                }
            }
        });
        Ok(Self { stop, thread })
    }

    /// Ends the watch. Takes as long as a reading does.
    pub(super) fn finish(self) -> Vec<ProcessMemory> {
        drop(self.stop);
        self.thread.join().unwrap_or_default()
    }
}

/// Keeps every second point, the first among them.
fn halve<T>(points: &mut Vec<T>) {
    let mut index = 0;
    points.retain(|_| {
        index += 1;
        index % 2 == 1
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_and_one_that_is_gone_has_none() {
        let memory = MemoryWatch::start(&[std::process::id()]).unwrap().finish();
        assert_eq!(memory.len(), 2);
        assert!(memory.iter().all(|series| series.points[0].1 > 0), "{memory:?}");
        assert!(matches!(MemoryWatch::start(&[u32::MAX]), Err(SampleError::Gone { .. })));
    }

    #[test]
    fn halving_keeps_the_first_and_the_spacing() {
        let mut points: Vec<u32> = (0..7).collect();
        halve(&mut points);
        assert_eq!(points, [0, 2, 4, 6]);
    }
}
