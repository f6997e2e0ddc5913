//! What the router counts, and the guard that counts a request on every path.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::StatusCode;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use crate::config::WorkerUrl;
use crate::failure::Kind;
use crate::fleet::Leg;
use crate::routes::Route;

/// The router's metrics. Handles are looked up once, so that counting is one atomic addition.
pub(crate) struct Metrics {
    registry: Registry,
    in_flight: Gauge,
    /// By route and outcome, each in the order of its `ALL`.
    requests: [[Counter; Outcome::ALL.len()]; Route::ALL.len()],
    failures: Vec<(Leg, Kind, Counter)>,
    retries: Vec<(Leg, Counter)>,
    rejected: Counter,
    by_worker: WorkerFamilies,
}

/// The metrics of one worker.
pub(crate) struct WorkerMetrics {
    pub(crate) up: Gauge,
    pub(crate) in_flight: Gauge,
    pub(crate) connections: Gauge,
    pub(crate) legs: Counter,
}

/// A request in flight, counted with its outcome when dropped.
pub(crate) struct RequestGuard {
    metrics: Arc<Metrics>,
    route: Route,
    outcome: Outcome,
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// A whole answer with status 2xx or 3xx.
    Ok,
    /// A whole answer with status 4xx.
    Refused,
    /// A whole answer with status 5xx.
    Failed,
    /// An answer that broke off because decode did.
    Cut,
    /// The client did not wait.
    ClientGone,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FailureLabels {
    leg: &'static str,
    kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LegLabels {
    leg: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct WorkerLabels {
    role: &'static str,
    worker: String,
}

#[derive(Default)]
struct WorkerFamilies {
    up: Family<WorkerLabels, Gauge>,
    in_flight: Family<WorkerLabels, Gauge>,
    connections: Family<WorkerLabels, Gauge>,
    legs: Family<WorkerLabels, Counter>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("pdlab_router");
        let in_flight = Gauge::default();
        registry.register("requests_in_flight", "Requests being served", in_flight.clone());
        let requests = Family::<RequestLabels, Counter>::default();
        registry.register("requests", "Requests finished, by how they ended", requests.clone());
        let failures = Family::<FailureLabels, Counter>::default();
        registry.register("leg_failures", "Legs that failed, by how", failures.clone());
        let retries = Family::<LegLabels, Counter>::default();
        registry.register("retries", "Attempts made again after this leg failed", retries.clone());
        let rejected = Counter::default();
        registry.register("no_worker", "Requests for which no worker was left", rejected.clone());
        let by_worker = WorkerFamilies::default();
        by_worker.register(&mut registry);

        let outcomes = |route: Route| {
            Outcome::ALL.map(|outcome| {
                let labels = RequestLabels { route: route.path(), outcome: outcome.as_str() };
                requests.get_or_create_owned(&labels)
            })
        };
        let failure = |(leg, kind): (Leg, Kind)| {
            let labels = FailureLabels { leg: leg.as_str(), kind: kind.as_str() };
            (leg, kind, failures.get_or_create_owned(&labels))
        };
        let legs = [Leg::Prefill, Leg::Decode];
        let pairs = legs.iter().flat_map(|&leg| Kind::ALL.map(|kind| (leg, kind)));
        Self {
            in_flight,
            requests: Route::ALL.map(outcomes),
            failures: pairs.map(failure).collect(),
            retries: legs
                .map(|leg| (leg, retries.get_or_create_owned(&LegLabels { leg: leg.as_str() })))
                .into(),
            rejected,
            by_worker,
            registry,
        }
    }

    /// The handles of one worker.
    pub(crate) fn worker(&self, leg: Leg, url: &WorkerUrl) -> WorkerMetrics {
        self.by_worker.of(&WorkerLabels { role: leg.as_str(), worker: url.to_string() })
    }

    /// Counts a request from here until the guard is dropped.
    pub(crate) fn request(self: &Arc<Self>, route: Route) -> RequestGuard {
        self.in_flight.inc();
        RequestGuard { metrics: self.clone(), route, outcome: Outcome::ClientGone }
    }

    /// Counts a failed leg.
    pub(crate) fn failed(&self, leg: Leg, kind: Kind) {
        if let Some((_, _, count)) = self.failures.iter().find(|f| (f.0, f.1) == (leg, kind)) {
            count.inc();
        }
    }

    /// Counts an attempt made because this leg failed.
    pub(crate) fn retried(&self, leg: Leg) {
        if let Some((_, count)) = self.retries.iter().find(|(known, _)| *known == leg) {
            count.inc();
        }
    }

    /// Counts a request that found no worker.
    pub(crate) fn no_worker(&self) {
        self.rejected.inc();
    }

    /// Requests being served.
    pub(crate) fn in_flight(&self) -> u64 {
        self.in_flight.get().unsigned_abs()
    }

    /// Generation requests finished, with whatever end.
    pub(crate) fn generations(&self) -> u64 {
        let routes = Route::ALL.iter().filter(|route| route.has_two_legs());
        routes.flat_map(|route| &self.requests[*route as usize]).map(Counter::get).sum()
    }

    /// Of those, the ones that failed or were cut.
    pub(crate) fn failed_generations(&self) -> u64 {
        let routes = Route::ALL.iter().filter(|route| route.has_two_legs());
        let failed = |route: &Route| {
            let outcomes = &self.requests[*route as usize];
            outcomes[Outcome::Failed as usize].get() + outcomes[Outcome::Cut as usize].get()
        };
        routes.map(failed).sum()
    }

    /// What went wrong, by name; nothing that did not happen.
    pub(crate) fn failures(&self) -> BTreeMap<String, u64> {
        let legs = self
            .failures
            .iter()
            .map(|(leg, kind, count)| (format!("{leg}_{}", kind.as_str()), count.get()));
        let mut all: BTreeMap<_, _> = legs.collect();
        all.insert("no_worker".to_owned(), self.rejected.get());
        for outcome in [Outcome::Cut, Outcome::ClientGone] {
            let counts = self.requests.iter().map(|outcomes| outcomes[outcome as usize].get());
            all.insert(outcome.as_str().to_owned(), counts.sum());
        }
        all.retain(|_, count| *count > 0);
        all
    }

    /// The Prometheus text format.
    pub(crate) fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}

impl WorkerFamilies {
    fn register(&self, registry: &mut Registry) {
        registry.register("worker_up", "1 if the worker is healthy", self.up.clone());
        registry.register("legs_in_flight", "Legs being served", self.in_flight.clone());
        registry.register("worker_connections", "Open connections", self.connections.clone());
        registry.register("legs", "Legs sent", self.legs.clone());
    }

    fn of(&self, labels: &WorkerLabels) -> WorkerMetrics {
        WorkerMetrics {
            up: self.up.get_or_create_owned(labels),
            in_flight: self.in_flight.get_or_create_owned(labels),
            connections: self.connections.get_or_create_owned(labels),
            legs: self.legs.get_or_create_owned(labels),
        }
    }
}

impl RequestGuard {
    /// The whole answer went out.
    pub(crate) fn complete(&mut self, status: StatusCode) {
        self.outcome = match status.as_u16() {
            ..400 => Outcome::Ok,
            400..500 => Outcome::Refused,
            _ => Outcome::Failed,
        };
    }

    /// The answer broke off.
    pub(crate) fn cut(&mut self) {
        self.outcome = Outcome::Cut;
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.metrics.requests[self.route as usize][self.outcome as usize].inc();
        self.metrics.in_flight.dec();
    }
}

impl Outcome {
    const ALL: [Outcome; 5] =
        [Outcome::Ok, Outcome::Refused, Outcome::Failed, Outcome::Cut, Outcome::ClientGone];

    fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Refused => "refused",
            Outcome::Failed => "failed",
            Outcome::Cut => "cut",
            Outcome::ClientGone => "client_gone",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_count_every_end() {
        let metrics = Arc::new(Metrics::new());
        for status in [200, 404, 502] {
            let mut guard = metrics.request(Route::Chat);
            assert_eq!(metrics.in_flight(), 1);
            guard.complete(StatusCode::from_u16(status).unwrap());
        }
        metrics.request(Route::Completions).cut();
        drop(metrics.request(Route::Completions));
        drop(metrics.request(Route::Tokenize));
        assert_eq!((metrics.in_flight(), metrics.generations()), (0, 5));
        let failures = metrics.failures();
        assert_eq!((failures["cut"], failures["client_gone"], failures.len()), (1, 2, 2));
        let text = metrics.text();
        for line in [
            r#"pdlab_router_requests_total{route="/v1/chat/completions",outcome="refused"} 1"#,
            r#"pdlab_router_requests_total{route="/v1/completions",outcome="cut"} 1"#,
            "pdlab_router_requests_in_flight 0",
        ] {
            assert!(text.contains(line), "{line} in\n{text}");
        }
    }
}
