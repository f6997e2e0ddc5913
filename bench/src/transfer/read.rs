//! Reads: the target pulls, as many transfers at a time as the run says.

use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio_util::sync::CancellationToken;

use super::plan::Limit;
use super::pull::{Offsets, Puller, Slots};
use super::stats::Latencies;
use super::wire::{Leg, LegReport, Run};

/// Runs one flow to its limit, or until `stop`. What was begun is finished.
pub(super) async fn read(
    run: &Run,
    leg: &Leg,
    puller: &Puller,
    stop: &CancellationToken,
) -> (LegReport, Option<String>) {
    let mut report = LegReport { peer: leg.peer, ..LegReport::default() };
    let mut slots = match Slots::new(run, leg) {
        Ok(slots) => slots,
        Err(error) => return (report, Some(error.to_string())),
    };
    let mut offsets = Offsets::new(run, leg);
    let mut latencies = Latencies::default();
    let mut in_flight = FuturesUnordered::new();
    let mut failure = None;
    let started = Instant::now();
    let mut quota = Quota::new(run, started);
    loop {
        while in_flight.len() < run.width
            && failure.is_none()
            && !stop.is_cancelled()
            && quota.take(Instant::now())
        {
            let slot = slots.take().expect("the walk has a slot for every transfer in flight");
            in_flight.push(puller.pull(slot, offsets.step(), None));
        }
        match in_flight.next().await {
            Some(Ok((slot, pulled))) => {
                slots.give_back(slot);
                latencies.record(pulled.latency);
                puller.note(pulled, &mut report);
            }
            Some(Err(error)) => failure = failure.or(Some(error.to_string())),
            None => break,
        }
    }
    report.seconds = started.elapsed().as_secs_f64();
    report.latencies = latencies.counts();
    (report, failure)
}

/// How much may still be begun.
pub(super) struct Quota {
    transfer_bytes: u64,
    left: Option<u64>,
    until: Option<Instant>,
}

impl Quota {
    pub(super) fn new(run: &Run, now: Instant) -> Self {
        let (left, until) = match run.limit {
            Limit::Bytes(bytes) => (Some(bytes), None),
            Limit::Millis(ms) => (None, Some(now + Duration::from_millis(ms))),
        };
        Self { transfer_bytes: run.transfer_bytes(), left, until }
    }

    /// Whether one more transfer may begin, which then counts.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        if self.until.is_some_and(|until| now >= until) || self.left == Some(0) {
            return false;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(self.transfer_bytes);
        }
        true
    }
}
