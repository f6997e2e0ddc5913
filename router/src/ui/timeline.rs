//! What the page shows, tick by tick: points, links and events from what was seen. Pure.

use std::collections::{BTreeMap, VecDeque};

use pdlab_api::live::{
    LeakVerdict, LiveHealth, LiveLevel, LiveLink, LivePoint, LiveRole, LiveState, POINTS,
    Percentiles,
};
use pdlab_api::ready::Role;
use pdlab_api::snapshot::Snapshot;

use super::events::{Events, counted};

/// Everything seen at one tick.
pub(crate) struct Seen {
    /// Milliseconds since 1970.
    pub(crate) at_ms: u64,
    /// The router, prefills, decodes; always the same processes in the same order. A snapshot that
    /// could not be had this time is null.
    pub(crate) roles: Vec<LiveRole>,
    /// Generation requests that ended with an error or were cut, since the router began.
    pub(crate) failed: u64,
    pub(crate) ttft: Option<Percentiles>,
    pub(crate) itl: Option<Percentiles>,
}

/// What is kept of all ticks.
pub(crate) struct Timeline {
    run: u64,
    roles: Vec<LiveRole>,
    /// Of each role, the last snapshot that it gave, and when.
    last: Vec<Option<(u64, Snapshot)>>,
    links: Vec<LiveLink>,
    failed: u64,
    at_ms: u64,
    next: u64,
    points: VecDeque<LivePoint>,
    events: Events,
}

/// What a role has done since its last snapshot.
struct Step<'a> {
    seconds: f64,
    before: &'a Snapshot,
    now: &'a Snapshot,
}

impl Timeline {
    /// Nothing has been seen yet. `run` names this process: [`LiveState::run`].
    pub(crate) fn new(run: u64) -> Self {
        Self {
            run,
            roles: Vec::new(),
            last: Vec::new(),
            links: Vec::new(),
            failed: 0,
            at_ms: run,
            next: 1,
            points: VecDeque::new(),
            events: Events::default(),
        }
    }

    /// Takes in what was seen.
    pub(crate) fn tick(&mut self, seen: Seen) {
        let Seen { at_ms, roles, failed, ttft, itl } = seen;
        self.last.resize(roles.len(), None);
        let seq = self.next;
        self.events.begin(seq, at_ms);
        for (at, now) in roles.iter().enumerate() {
            let (before, last) = (self.roles.get(at), self.last[at].as_ref());
            happened(&mut self.events, before, last.map(|(_, snapshot)| snapshot), now);
        }
        let steps: Vec<Option<Step<'_>>> = roles
            .iter()
            .zip(&self.last)
            .map(|(now, last)| Step::between(last.as_ref()?, (at_ms, now.snapshot.as_ref()?)))
            .collect();
        let rate = |role: Role, count: fn(&Snapshot) -> u64| -> f64 {
            let of_role = steps.iter().flatten().filter(|step| step.now.role == role);
            of_role.map(|step| step.rate(count)).sum()
        };
        let elapsed_s = at_ms.saturating_sub(self.at_ms).max(1) as f64 / 1e3;
        let pinned = |role: &LiveRole| Some(role.snapshot.as_ref()?.engine?.blocks_pinned);
        let point = LivePoint {
            seq,
            at_ms,
            requests_per_s: rate(Role::Router, |s| s.work.requests),
            failed_per_s: failed.saturating_sub(self.failed) as f64 / elapsed_s,
            tokens_per_s: rate(Role::Decode, |s| s.work.generation_tokens),
            in_flight: roles.first().map_or(0, |router| router.in_flight),
            ttft,
            itl,
            kv_bytes_per_s: rate(Role::Decode, |s| s.work.kv_bytes),
            blocks_pinned: roles.iter().filter_map(pinned).sum(),
            rss_bytes: roles.iter().map(|r| r.memory.as_ref().map(|m| m.rss_bytes)).collect(),
        };
        self.links = links(&roles, &steps);
        drop(steps);
        if self.points.len() == POINTS {
            self.points.pop_front();
        }
        self.points.push_back(point);
        for (last, now) in self.last.iter_mut().zip(&roles) {
            if let Some(snapshot) = &now.snapshot {
                *last = Some((at_ms, snapshot.clone()));
            }
        }
        (self.roles, self.failed, self.at_ms, self.next) = (roles, failed, at_ms, seq + 1);
    }

    /// What is newer than `after`, which is [`LiveState::next`] of the answer before, or 0.
    pub(crate) fn state(&self, after: u64, tick_ms: u64, window_ms: u64) -> LiveState {
        // A number from the future is one of another run.
        let after = if after > self.next { 0 } else { after };
        LiveState {
            run: self.run,
            tick_ms,
            window_ms,
            next: self.next,
            roles: self.roles.clone(),
            links: self.links.clone(),
            points: self.points.iter().filter(|point| point.seq >= after).cloned().collect(),
            events: (self.events.changed() >= after).then(|| self.events.list()),
        }
    }
}

impl<'a> Step<'a> {
    /// Between two snapshots of one process.
    fn between(last: &'a (u64, Snapshot), now: (u64, &'a Snapshot)) -> Option<Self> {
        let seconds = now.0.checked_sub(last.0).filter(|ms| *ms > 0)? as f64 / 1e3;
        (last.1.pid == now.1.pid).then_some(Self { seconds, before: &last.1, now: now.1 })
    }

    fn rate(&self, count: impl Fn(&Snapshot) -> u64) -> f64 {
        count(self.now).saturating_sub(count(self.before)) as f64 / self.seconds
    }
}

/// Who reads from whom. A prefill is known by its side channel.
fn links(roles: &[LiveRole], steps: &[Option<Step<'_>>]) -> Vec<LiveLink> {
    let by_side_channel: BTreeMap<&str, &str> = roles
        .iter()
        .filter_map(|role| Some((role.snapshot.as_ref()?.side_channel.as_deref()?, &*role.name)))
        .collect();
    let mut links = Vec::new();
    for (role, step) in roles.iter().zip(steps) {
        let Some(now) = &role.snapshot else { continue };
        for (address, &bytes) in &now.kv_bytes_from {
            let from = by_side_channel.get(&**address).copied().unwrap_or(address).to_owned();
            let count = |s: &Snapshot| s.kv_bytes_from.get(address).copied().unwrap_or(0);
            let bytes_per_s = step.as_ref().map_or(0.0, |step| step.rate(count));
            links.push(LiveLink { from, to: role.name.clone(), bytes_per_s, bytes });
        }
    }
    links
}

/// Tells what has become of a role since the tick before.
fn happened(
    events: &mut Events,
    before: Option<&LiveRole>,
    last: Option<&Snapshot>,
    now: &LiveRole,
) {
    let health = before.map_or(LiveHealth::Suspect, |before| before.health);
    match (health, now.health) {
        (LiveHealth::Up | LiveHealth::Suspect, LiveHealth::Down) => {
            let why = now.why.as_deref().unwrap_or("it does not answer its health checks");
            events.add(&now.name, LiveLevel::Problem, format!("lost: {why}"), 1);
        }
        (LiveHealth::Down, LiveHealth::Up) => {
            events.add(&now.name, LiveLevel::Info, "back".to_owned(), 1);
        }
        _ => {}
    }
    if let (Some(last), Some(snapshot)) = (last, &now.snapshot) {
        if last.pid == snapshot.pid {
            counted(events, &now.name, last, snapshot);
        } else {
            let text = format!("restarted: process {} in place of {}", snapshot.pid, last.pid);
            events.add(&now.name, LiveLevel::Warning, text, 1);
        }
    }
    let verdict = |role: &LiveRole| role.memory.as_ref().map(|memory| memory.verdict);
    let verdict_before = before.and_then(verdict).unwrap_or(LeakVerdict::Inconclusive);
    if let Some(memory) = &now.memory
        && memory.verdict != verdict_before
    {
        let level = match memory.verdict {
            LeakVerdict::Leak => LiveLevel::Problem,
            LeakVerdict::Clean | LeakVerdict::Inconclusive => LiveLevel::Info,
        };
        events.add(&now.name, level, format!("memory: {}", memory.says), 1);
    }
}

#[cfg(test)]
mod tests;
