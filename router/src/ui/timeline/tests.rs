use super::*;
use pdlab_api::live::{EVENTS, RoleMemory};
use pdlab_api::snapshot::EngineState;
use proptest::prelude::*;

fn role(name: &str, role: Role, snapshot: Option<Snapshot>) -> LiveRole {
    LiveRole {
        name: name.into(),
        role,
        url: None,
        health: LiveHealth::Up,
        why: None,
        in_flight: 0,
        snapshot,
        memory: None,
    }
}

/// A router, a prefill and a decode that have served so many requests of 10 tokens and 1 MB.
fn cluster(requests: u64) -> Vec<LiveRole> {
    let mut router = Snapshot::new(Role::Router, 1);
    router.work.requests = requests;
    let mut prefill = Snapshot::new(Role::Prefill, 2);
    prefill.side_channel = Some("127.0.0.1:5600".into());
    prefill.engine = Some(EngineState { blocks_pinned: 7, ..EngineState::default() });
    let mut decode = Snapshot::new(Role::Decode, 3);
    decode.work.generation_tokens = 10 * requests;
    decode.work.kv_bytes = 1_000_000 * requests;
    decode.kv_bytes_from.insert("127.0.0.1:5600".into(), 1_000_000 * requests);
    vec![
        role("router", Role::Router, Some(router)),
        role("prefill-0", Role::Prefill, Some(prefill)),
        role("decode-0", Role::Decode, Some(decode)),
    ]
}

fn seen(at_ms: u64, roles: Vec<LiveRole>) -> Seen {
    Seen { at_ms, roles, failed: 0, ttft: None, itl: None }
}

fn all(timeline: &Timeline) -> LiveState {
    timeline.state(0, 1000, 15_000)
}

fn texts(timeline: &Timeline) -> Vec<String> {
    all(timeline).events.unwrap().into_iter().map(|e| format!("{} {}", e.role, e.text)).collect()
}

#[test]
fn rates_are_what_counters_have_grown_by_per_second() {
    let mut timeline = Timeline::new(5);
    timeline.tick(seen(1000, cluster(100)));
    timeline.tick(Seen { failed: 3, ..seen(1500, cluster(120)) });
    let state = all(&timeline);
    let (first, second) = (&state.points[0], &state.points[1]);
    assert_eq!((first.requests_per_s, first.kv_bytes_per_s), (0.0, 0.0), "nothing to compare with");
    assert_eq!((second.requests_per_s, second.tokens_per_s), (40.0, 400.0));
    assert_eq!((second.failed_per_s, second.kv_bytes_per_s, second.blocks_pinned), (6.0, 4e7, 7));
    let link = &state.links[0];
    assert_eq!((&*link.from, &*link.to), ("prefill-0", "decode-0"));
    assert_eq!((link.bytes_per_s, link.bytes, state.links.len()), (4e7, 120_000_000, 1));
}

#[test]
fn a_snapshot_that_is_missing_once_leaves_the_average_right() {
    let mut timeline = Timeline::new(0);
    timeline.tick(seen(1000, cluster(0)));
    let mut silent = cluster(0);
    silent[2].snapshot = None;
    timeline.tick(seen(2000, silent));
    timeline.tick(seen(3000, cluster(20)));
    let state = all(&timeline);
    let rates: Vec<f64> = state.points.iter().map(|point| point.tokens_per_s).collect();
    assert_eq!(rates, [0.0, 0.0, 100.0]);
}

#[test]
fn a_prefill_that_is_not_known_is_named_by_its_address() {
    let mut timeline = Timeline::new(0);
    let mut roles = cluster(1);
    roles[1].snapshot = None;
    timeline.tick(seen(1000, roles));
    assert_eq!(all(&timeline).links[0].from, "127.0.0.1:5600");
}

#[test]
fn losses_returns_restarts_and_expired_leases_are_events() {
    let mut timeline = Timeline::new(0);
    timeline.tick(seen(1000, cluster(0)));
    assert_eq!(texts(&timeline), [""; 0]);
    let mut lost = cluster(0);
    lost[2] = LiveRole {
        health: LiveHealth::Down,
        why: Some("refused".into()),
        snapshot: None,
        ..lost[2].clone()
    };
    timeline.tick(seen(2000, lost.clone()));
    timeline.tick(seen(3000, lost));
    let mut back = cluster(0);
    back[1].snapshot.as_mut().unwrap().failures.insert("kv_expired".into(), 4);
    back[2].snapshot.as_mut().unwrap().pid = 99;
    timeline.tick(seen(4000, back));
    let told = texts(&timeline);
    assert_eq!(told.len(), 4, "{told:?}");
    assert_eq!(told[0], "decode-0 lost: refused");
    assert!(told[1].starts_with("prefill-0 lease expired"), "{told:?}");
    assert_eq!(told[2..], ["decode-0 back", "decode-0 restarted: process 99 in place of 3"]);
}

#[test]
fn a_verdict_is_an_event_when_it_changes() {
    let memory = |verdict| RoleMemory {
        process: "decode-0".into(),
        rss_bytes: 10,
        held_bytes: 5,
        fds: 1,
        threads: 1,
        slope: None,
        verdict,
        says: format!("{verdict:?}"),
    };
    let mut timeline = Timeline::new(0);
    use LeakVerdict::{Clean, Inconclusive, Leak};
    for (at, verdict) in [Inconclusive, Inconclusive, Leak, Leak, Clean].into_iter().enumerate() {
        let mut roles = cluster(0);
        roles[2].memory = Some(memory(verdict));
        timeline.tick(seen(1000 * at as u64, roles));
    }
    let state = all(&timeline);
    let events = state.events.unwrap();
    assert_eq!(events.len(), 2);
    assert_eq!((&*events[0].text, events[0].level), ("memory: Leak", LiveLevel::Problem));
    assert_eq!((&*events[1].text, events[1].level), ("memory: Clean", LiveLevel::Info));
    assert_eq!(state.points[4].rss_bytes, [None, None, Some(10)]);
}

#[test]
fn only_what_is_new_is_answered() {
    let mut timeline = Timeline::new(0);
    for at in 1..=5 {
        timeline.tick(seen(1000 * at, cluster(at)));
    }
    let state = all(&timeline);
    assert_eq!((state.points.len(), state.next), (5, 6));
    let later = timeline.state(state.next, 1000, 15_000);
    assert_eq!((later.points.len(), later.events.is_none()), (0, true));
    timeline.tick(seen(6000, cluster(6)));
    let later = timeline.state(state.next, 1000, 15_000);
    assert_eq!((later.points.len(), later.points[0].seq), (1, 6));
    // A page that has seen more than there is has seen another process.
    assert_eq!(timeline.state(1000, 1000, 15_000).points.len(), 6);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn what_is_kept_is_bounded_and_in_order(
        ticks in prop::collection::vec((1u64..5000, 0u64..50, 0u32..5, any::<bool>()), 1..500),
    ) {
        let mut timeline = Timeline::new(0);
        let mut at_ms = 0;
        for (index, (pause, requests, pid, down)) in ticks.iter().enumerate() {
            at_ms += pause;
            let mut roles = cluster(*requests);
            let decode = roles[2].snapshot.as_mut().unwrap();
            decode.pid = *pid;
            decode.failures.insert(format!("kind_{}", index % 90), index as u64);
            if *down {
                roles[1].health = LiveHealth::Down;
            }
            timeline.tick(seen(at_ms, roles));
        }
        let state = all(&timeline);
        let events = state.events.unwrap();
        prop_assert_eq!(state.points.len(), ticks.len().min(POINTS));
        prop_assert!(events.len() <= EVENTS);
        prop_assert!(state.points.windows(2).all(|pair| pair[0].seq + 1 == pair[1].seq));
        prop_assert!(events.is_sorted_by_key(|event| event.at_ms));
        let sane = |rate: f64| rate.is_finite() && rate >= 0.0;
        prop_assert!(state.points.iter().all(|p| sane(p.requests_per_s) && sane(p.kv_bytes_per_s)));
    }
}
