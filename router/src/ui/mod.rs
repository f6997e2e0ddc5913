//! The live page: what the cluster does right now, for people.
//!
//! Off unless [`RouterConfig::ui`](crate::RouterConfig::ui) is set. One task asks every worker for
//! its snapshot once a second; streams that pass through leave their times behind; whoever watches
//! the processes reports their memory. All of it is bounded: five minutes of points, the last
//! events, percentiles of the last seconds.
//!
//! - `timeline`: points, links and events from what was seen; `events`, `latency`: parts of it. Pure.
//! - `collect`: sees, once a tick. `pace`: the times of one stream.
//! - `serve`: the page, `GET /ui/state`, `POST /ui/memory`.

mod collect;
mod events;
mod latency;
mod pace;
mod serve;
mod timeline;

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pdlab_api::live::{LiveState, MemoryReport, Percentiles, RoleMemory};
use tokio::time::Instant;

use crate::fleet::Leg;
use latency::{SLOTS, Window};
use timeline::Timeline;

pub(crate) use collect::collect;
pub(crate) use pace::Pace;
pub(crate) use serve::{is_ours, serve};

/// Between two points: often enough to look live, rarely enough to cost nothing.
const TICK: Duration = Duration::from_secs(1);

/// A report of memory that is older than this says nothing about now.
const MEMORY_FOR: Duration = Duration::from_secs(15);

/// Words of a report beyond this are cut off: they come from outside.
const SAYS_CHARS: usize = 400;

/// What the live page shows.
pub(crate) struct Ui {
    latency: Mutex<Latency>,
    timeline: Mutex<Timeline>,
    /// The last report of each process, and when it came.
    memory: Mutex<HashMap<String, (Instant, RoleMemory)>>,
    /// The processes that there are.
    names: Vec<String>,
}

struct Latency {
    ttft: Window,
    itl: Window,
}

impl Ui {
    /// Nothing has been seen yet, of a cluster of so many workers.
    pub(crate) fn new(prefills: usize, decodes: usize) -> Self {
        let workers = |leg: Leg, count: usize| (0..count).map(move |at| name(leg, at));
        let names = std::iter::once("router".to_owned())
            .chain(workers(Leg::Prefill, prefills))
            .chain(workers(Leg::Decode, decodes))
            .collect();
        Self {
            latency: Mutex::new(Latency { ttft: Window::new(), itl: Window::new() }),
            timeline: Mutex::new(Timeline::new(now_ms())),
            memory: Mutex::default(),
            names,
        }
    }

    /// The first bytes of a streamed answer came this long after its request.
    pub(crate) fn first_bytes(&self, after: Duration) {
        lock(&self.latency).ttft.record(after);
    }

    /// A further piece of a streamed answer came this long after the one before.
    pub(crate) fn further_bytes(&self, after: Duration) {
        lock(&self.latency).itl.record(after);
    }

    /// Takes in a report of memory. Fails with the first process in it that there is not.
    pub(crate) fn take_memory(&self, report: MemoryReport, now: Instant) -> Result<(), String> {
        let stranger = report.processes.iter().find(|p| !self.names.contains(&p.process));
        if let Some(stranger) = stranger {
            return Err(stranger.process.chars().take(SAYS_CHARS).collect());
        }
        let mut memory = lock(&self.memory);
        for mut process in report.processes {
            process.says = process.says.chars().take(SAYS_CHARS).collect();
            memory.insert(process.process.clone(), (now, process));
        }
        Ok(())
    }

    /// What the page shows that has seen everything before `after`.
    pub(crate) fn state(&self, after: u64) -> LiveState {
        let window = TICK * SLOTS as u32;
        lock(&self.timeline).state(after, TICK.as_millis() as u64, window.as_millis() as u64)
    }

    fn memory_of(&self, name: &str, now: Instant) -> Option<RoleMemory> {
        let memory = lock(&self.memory);
        let (at, seen) = memory.get(name)?;
        (now.saturating_duration_since(*at) < MEMORY_FOR).then(|| seen.clone())
    }

    fn turn_latency(&self) -> (Option<Percentiles>, Option<Percentiles>) {
        let mut latency = lock(&self.latency);
        (latency.ttft.turn(), latency.itl.turn())
    }
}

/// How a worker is called: by its role and its place in the configuration.
fn name(leg: Leg, index: usize) -> String {
    format!("{leg}-{index}")
}

/// Milliseconds since 1970; a clock before that stands still at it.
fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Figures for a page stay usable whatever panicked meanwhile.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_api::live::LeakVerdict;

    fn report(process: &str, says: &str) -> MemoryReport {
        let memory = RoleMemory {
            process: process.into(),
            rss_bytes: 1,
            held_bytes: 1,
            fds: 1,
            threads: 1,
            slope: None,
            verdict: LeakVerdict::Clean,
            says: says.into(),
        };
        MemoryReport { processes: vec![memory] }
    }

    #[test]
    fn memory_is_taken_of_processes_that_there_are_and_only_for_a_while() {
        let (ui, now) = (Ui::new(1, 2), Instant::now());
        assert_eq!(ui.take_memory(report("decode-2", ""), now), Err("decode-2".to_owned()));
        ui.take_memory(report("decode-1", &"x".repeat(10_000)), now).unwrap();
        assert_eq!(ui.memory_of("decode-1", now).unwrap().says.len(), SAYS_CHARS);
        assert_eq!(ui.memory_of("decode-0", now), None);
        assert_eq!(ui.memory_of("decode-1", now + MEMORY_FOR), None);
    }
}
