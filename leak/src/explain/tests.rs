use super::*;
use crate::estimate::{MIN_SAMPLES, TooFew, Warmup};
use crate::scenario::Expect;
use crate::signature::known;

const BYTES: Axes = Axes { gauge: Gauge::Held, unit: Unit::Unmap };
const MEMORY: Option<Capacity> = Some(Capacity { taken: 1 << 30, of: 64 << 30 });
const BLOCKS: Axes = Axes { gauge: Gauge::KvBlocks, unit: Unit::Request };

fn estimate() -> Estimate {
    let slope = Slope { value: 144.02, low: 143.88, high: 144.14 };
    Estimate {
        slope,
        head: slope,
        tail: slope,
        steps: None,
        warmup: Warmup { samples: 7, units: 7_000.0, seconds: 0.7, growth: 3.2e6, at_limit: false },
        samples: 120,
        units: 243_000.0,
        seconds: 6.0,
        noise: 40_000.0,
    }
}

fn judged(verdict: Verdict) -> Judgement {
    Judgement { verdict, estimate: Some(estimate()) }
}

#[test]
fn the_verdict_is_one_sentence_with_interval_and_unit() {
    let leak = judged(Verdict::Leak);
    assert_eq!(
        verdict(&leak, BYTES),
        "LEAK. 144.0 B per unmap (95 % CI 143.9 to 144.1) over 243,000 unmaps."
    );
    assert_eq!(doubt(&leak, BYTES), None);
    let mut clean = judged(Verdict::Clean);
    let flat = Slope { value: -0.03, low: -0.2, high: 0.12 };
    clean.estimate.as_mut().unwrap().slope = flat;
    assert_eq!(
        verdict(&clean, BYTES),
        "CLEAN. 0.0 B per unmap (95 % CI -0.2 to 0.1) over 243,000 unmaps."
    );
}

#[test]
fn the_consequence_names_rate_limit_and_time() {
    // 144.02 B x 40,500 per second = 5.83 MB/s; 64 GiB less 1 GiB in 3.2 hours.
    assert_eq!(
        consequence(&estimate(), BYTES, MEMORY),
        "At the rate seen (40,500 unmaps/s): 350 MB/min; a 64 GiB limit is reached in 3.2 hours."
    );
    let mut flat = estimate();
    flat.slope = Slope { value: 0.0, low: -0.1, high: 0.1 };
    assert_eq!(
        consequence(&flat, BYTES, MEMORY),
        "At the rate seen (40,500 unmaps/s): 0.0 MB/min; no limit is ever reached."
    );
    flat.slope.value = 1e6;
    assert!(
        consequence(
            &flat,
            Axes { unit: Unit::Second, ..BYTES },
            Some(Capacity { taken: 0, of: 3 << 29 })
        )
        .starts_with("At the rate seen: 2430000 MB/min; a 1.5 GiB limit")
    );
}

#[test]
fn every_doubt_gives_a_reason_and_a_way_out() {
    for why in [Doubt::Noisy, Doubt::Slowing, Doubt::Stepwise, Doubt::Small, Doubt::Falling] {
        let text =
            doubt(&judged(Verdict::Inconclusive { why, more_work_factor: 2.0 }), BYTES).unwrap();
        assert!(
            text.starts_with("Memory ")
                && text.ends_with("measuring 500,000 unmaps in all should decide it."),
            "{text}"
        );
    }
    for few in [TooFew::NoWork, TooFew::Samples { have: 3, need: MIN_SAMPLES }] {
        let verdict = Verdict::Inconclusive { why: Doubt::TooFew(few), more_work_factor: 2.0 };
        let text = doubt(&Judgement { verdict, estimate: None }, BLOCKS).unwrap();
        assert!(text.contains(": ") && text.ends_with('.'), "{text}");
    }
}

#[test]
fn counts_read_as_what_they_are() {
    let mut found = judged(Verdict::Leak);
    let estimate = found.estimate.as_mut().unwrap();
    estimate.slope = Slope { value: 16.0, low: 15.98, high: 16.04 };
    estimate.units = 1_200.0;
    estimate.warmup.growth = 320.0;
    let told = estimate.clone();
    assert_eq!(
        verdict(&found, BLOCKS),
        "LEAK. 16.0 KV blocks per request (95 % CI 16.0 to 16.0) over 1,200 requests."
    );
    assert_eq!(
        consequence(&told, BLOCKS, Some(Capacity { taken: 0, of: 40_000 })),
        "At the rate seen (200 requests/s): 192,000 KV blocks per minute; a pool of 40,000 lasts 13 seconds."
    );
    assert_eq!(
        warmup(&told, BLOCKS),
        "Warm-up found and left out: 7,000 requests in 0.7 s, while the number of KV blocks grew by 320."
    );
    let leases = Axes { gauge: Gauge::Leases, ..BLOCKS };
    assert!(consequence(&told, leases, None).ends_with(": 192,000 leases per minute."));
    found.verdict = Verdict::Inconclusive { why: Doubt::Small, more_work_factor: 2.0 };
    let fds = Axes { gauge: Gauge::Fds, unit: Unit::Reconnect };
    assert_eq!(
        doubt(&found, fds).unwrap(),
        "The number of fds grew by less than 16 fds, which proves nothing; measuring 16,400 reconnects in all \
         should decide it."
    );
    assert_eq!(
        [2.0, 0.0012, -0.0001, 12_345.6].map(|value| fixed(value, Gauge::Fds)),
        ["2.0", "0.001", "0.0", "12346"]
    );
}

#[test]
fn a_cost_that_grows_is_told_with_both_ends() {
    assert_eq!(
        cost_growth(10.0, 47.0, Unit::Unmap),
        "CPU time per unmap grew from 10.0 to 47.0 us (4.7x) from the first quarter of the run to the last."
    );
}

#[test]
fn the_warm_up_is_told_or_denied() {
    assert_eq!(
        warmup(&estimate(), BYTES),
        "Warm-up found and left out: 7,000 unmaps in 0.7 s, while memory grew by 3.2 MB."
    );
    let mut none = estimate();
    none.warmup = Warmup::default();
    assert_eq!(warmup(&none, BYTES), "No warm-up found.");
}

#[test]
fn a_known_bug_comes_with_its_cures_and_their_costs() {
    let known = known();
    let text = signature(&known[0]);
    assert!(text.starts_with("Known: vllm#24264. UCX registration cache"), "{text}");
    assert!(
        text.contains(&known[0].url) && text.contains("UCX_RCACHE_MAX_UNRELEASED=64M  Drains"),
        "{text}"
    );
    assert_eq!(text.lines().count(), 1 + known[0].cures.len());
}

#[test]
fn a_missed_expectation_says_what_was_due() {
    let expected =
        Expectation { due: Expect::new(VerdictKind::Leak, 141.0, 147.0), mitigation: None };
    assert_eq!(
        expectation(Some(&expected), true, BYTES),
        "As expected: leak, 141 to 147 B per unmap."
    );
    let missed = expectation(Some(&expected), false, BYTES);
    assert_eq!(missed, "NOT as expected, which is: leak, 141 to 147 B per unmap.");
    assert!(expectation(None, false, BYTES).contains("[[expect]]"));
}

#[test]
fn transports_without_ucx_admit_it() {
    assert!(blind_spot(Transport::Tcp).unwrap().contains("cannot show UCX's leaks"));
    assert_eq!(blind_spot(Transport::Ucx), None);
}

#[test]
fn a_mitigation_is_one_line() {
    let mut result = MitigationResult {
        setting: "UCX_MEM_MMAP_HOOK_MODE=none".to_string(),
        verdict: VerdictKind::Clean,
        matched: true,
        slope_per_unit: Some(0.12),
        slope_bytes_per_unit: Some(0.12),
        ci_low: Some(-0.9),
        ci_high: Some(1.1),
        cost_ratio: Some(0.904),
        cost_note: None,
    };
    let text = mitigation(&result, BYTES);
    assert_eq!(
        text,
        "UCX_MEM_MMAP_HOOK_MODE=none: clean, 0.1 B per unmap (-0.9 to 1.1), 0.90x CPU per unmap"
    );
    (result.matched, result.slope_per_unit, result.cost_ratio) = (false, None, None);
    assert_eq!(
        mitigation(&result, BYTES),
        "UCX_MEM_MMAP_HOOK_MODE=none: clean, no slope, NOT as expected"
    );
}

#[test]
fn numbers_are_grouped_and_sized() {
    assert_eq!(
        [0.4, 999.6, 1_000.0, 1_234_567.0, -12_000.0].map(grouped),
        ["0", "1,000", "1,000", "1,234,567", "-12,000"]
    );
    assert_eq!(
        [64 << 30, 3 << 29, 512 << 20, 4096].map(size),
        ["64 GiB", "1.5 GiB", "512 MiB", "4 KiB"]
    );
    assert_eq!(
        [0.02, 0.5, 10.0, 240.0, 1e6].map(duration),
        ["72 seconds", "30 minutes", "10.0 hours", "10 days", "years"]
    );
    assert_eq!([amount(1.0, Unit::Request), amount(0.0, Unit::Token)], ["1 request", "0 tokens"]);
}
