use super::*;
use crate::estimate::simulate::{CONTROLS, MB, Run, chunks, control, coverage};

/// Half a megabyte per minute, in bytes per second.
const MARGIN: f64 = 0.5 * MB / 60.0;

fn by_time(run: &Run, seed: u64) -> Verdict {
    judge(&run.series(), &Criteria::new(Gauge::Held, MARGIN), seed).verdict
}

fn per_unit(run: &Run, seed: u64) -> Verdict {
    judge(&run.series(), &Criteria::new(Gauge::Held, 4.0), seed).verdict
}

/// A leak of 1 MB per minute in 500 MB that wander by 100 kB, with buffers of 1 MB in use now and then.
fn small_leak(seed: u64) -> Run {
    Run::minute(seed).noise(0.1 * MB).bursts(0.1, MB, 0.5).add(|t, _| t / 60.0 * MB)
}

fn why(verdict: Verdict) -> Option<Doubt> {
    match verdict {
        Verdict::Inconclusive { why, .. } => Some(why),
        _ => None,
    }
}

#[test]
fn a_small_leak_is_found_in_a_minute() {
    let found = (0..60).filter(|&seed| by_time(&small_leak(seed), seed) == Verdict::Leak).count();
    assert!(found >= 57, "{found} of 60");
    let plain = |seed| Run::minute(seed).noise(0.1 * MB).add(|t, _| t / 60.0 * MB);
    let found = (0..60).filter(|&seed| by_time(&plain(seed), seed) == Verdict::Leak).count();
    assert!(found >= 58, "{found} of 60");
}

#[test]
fn a_small_leak_is_never_called_clean() {
    for seed in 0..60 {
        for noise in [0.05, 0.3] {
            let run = Run::minute(seed).noise(noise * MB).add(|t, _| t / 60.0 * MB);
            assert_ne!(by_time(&run, seed), Verdict::Clean, "seed {seed}, noise {noise} MB");
        }
    }
}

#[test]
fn controls_are_not_called_leaks() {
    let mut leaks = Vec::new();
    for (kind, seed) in (0..CONTROLS).flat_map(|kind| (0..40).map(move |seed| (kind, seed))) {
        let (name, run) = control(kind, seed, 1);
        if by_time(&run, seed) == Verdict::Leak {
            leaks.push((name, seed));
        }
    }
    assert!(leaks.len() <= 1, "of {} controls: {leaks:?}", CONTROLS * 40);
}

#[test]
fn controls_come_out_clean_when_the_run_goes_on() {
    for kind in 0..CONTROLS {
        let verdicts: Vec<Verdict> =
            (0..20).map(|seed| by_time(&control(kind, seed, 3).1, seed)).collect();
        let name = control(kind, 0, 1).0;
        assert!(!verdicts.contains(&Verdict::Leak), "{name}: {verdicts:?}");
        let clean = verdicts.iter().filter(|&&verdict| verdict == Verdict::Clean).count();
        // A sawtooth of 8 MB hides a leak of half a megabyte per minute for longer than that: "noisy" is right.
        let due = if name == "sawtooth" { 8 } else { 18 };
        assert!(clean >= due, "{name}: {clean} of 20 clean, {verdicts:?}");
    }
}

#[test]
fn growth_by_work_is_a_leak_at_any_pace() {
    for seed in 0..30 {
        let run = chunks(seed, 60_000.0)
            .noise(0.1 * MB)
            .add(|t, _| 3.0 * MB * (1.0 - f64::exp(-t / 0.3)));
        assert_eq!(per_unit(&run, seed), Verdict::Leak, "seed {seed}");
    }
}

#[test]
fn three_chunks_are_not_enough_to_tell() {
    for seed in 0..30 {
        let verdict = per_unit(&chunks(seed, 3_000.0), seed);
        assert_eq!(why(verdict), Some(Doubt::Stepwise), "seed {seed}: {verdict:?}");
    }
}

#[test]
fn a_mitigated_run_is_clean_within_the_margin() {
    // 200,000 units, memory that wanders a little, and one chunk of a pool.
    let chunk = |t: f64| if t > 4.0 { 147_456.0 } else { 0.0 };
    for seed in 0..30 {
        let run = Run::new(seed, 6.0, 120, 33_000.0).noise(0.03 * MB).add(|t, _| chunk(t));
        assert_eq!(per_unit(&run, seed), Verdict::Clean, "seed {seed}");
    }
}

#[test]
fn every_doubt_has_its_case() {
    let cases = [
        (
            Doubt::Stepwise,
            Run::minute(1).noise(0.02 * MB).add(|t, _| if t > 45.0 { 5.0 * MB } else { 0.0 }),
        ),
        (
            Doubt::Slowing,
            Run::minute(1).noise(0.02 * MB).add(|t, _| 40.0 * MB * (1.0 - f64::exp(-t / 40.0))),
        ),
        (Doubt::Falling, Run::minute(1).noise(0.02 * MB).add(|t, _| -0.05 * MB * t)),
        (Doubt::Small, Run::minute(1).add(|t, _| 4096.0 * (t / 60.0 * 40.0).floor())),
        (Doubt::Noisy, Run::minute(1).noise(3.0 * MB)),
    ];
    for (doubt, run) in cases {
        let criteria = match doubt {
            Doubt::Small => Criteria::new(Gauge::Held, 100.0),
            _ => Criteria::new(Gauge::Held, MARGIN),
        };
        let verdict = judge(&run.series(), &criteria, 1).verdict;
        assert_eq!(why(verdict), Some(doubt), "{verdict:?}");
    }
    let few = judge(&Series::default(), &Criteria::new(Gauge::Held, 1.0), 1);
    assert!(matches!(why(few.verdict), Some(Doubt::TooFew(_))) && few.estimate.is_none());
}

#[test]
fn a_leak_that_starts_late_is_not_called_clean() {
    let run = Run::minute(4).noise(0.02 * MB).add(|t, _| MB * (t - 35.0).max(0.0));
    assert_ne!(by_time(&run, 4), Verdict::Clean);
}

#[test]
fn what_would_decide_a_noisy_run_does() {
    // A factor that is asked for is enough more often than not.
    let mut decided = 0;
    for seed in 0..20 {
        let noisy = |minutes| Run::minutes(minutes, seed).noise(1.0 * MB);
        let Verdict::Inconclusive { more_work_factor, .. } = by_time(&noisy(1), seed) else {
            decided += 1;
            continue;
        };
        assert!((1.5..=10.0).contains(&more_work_factor));
        decided += usize::from(
            by_time(&noisy(more_work_factor.ceil() as usize), seed) != by_time(&noisy(1), seed),
        );
    }
    assert!(decided >= 12, "{decided} of 20");
}

/// Prints the tables of `STATISTICS.md`.
#[test]
#[ignore = "tables for people, a minute: cargo test -p pdlab-leak calibration -- --ignored --nocapture"]
fn calibration() {
    const RUNS: u64 = 500;
    let tally = |name: &str, verdict: &dyn Fn(u64) -> Verdict| {
        let kinds: Vec<VerdictKind> = (0..RUNS).map(|seed| verdict(seed).kind()).collect();
        let count = |kind| kinds.iter().filter(|&&found| found == kind).count();
        let [leak, clean, open] =
            [VerdictKind::Leak, VerdictKind::Clean, VerdictKind::Inconclusive].map(count);
        println!("| {name} | {leak} | {clean} | {open} |");
    };
    println!("| process | leak | clean | inconclusive |\n|---|---|---|---|");
    for kind in 0..CONTROLS {
        let name = control(kind, 0, 1).0;
        tally(name, &|seed| by_time(&control(kind, seed, 1).1, seed));
        tally(&format!("{name}, three minutes"), &|seed| by_time(&control(kind, seed, 3).1, seed));
    }
    for noise in [0.05, 0.1, 0.2, 0.3] {
        let run = |seed| Run::minute(seed).noise(noise * MB).add(|t, _| t / 60.0 * MB);
        tally(&format!("1 MB/min, noise {noise} MB"), &|seed| by_time(&run(seed), seed));
    }
    tally("1 MB/min, noise 0.1 MB, bursts of 1 MB", &|seed| by_time(&small_leak(seed), seed));
    for units in [3_000.0, 10_000.0, 60_000.0, 250_000.0] {
        let run = |seed| chunks(seed, units).noise(0.02 * MB);
        tally(&format!("144 B per unit in chunks, {units} units in 6 s"), &|seed| {
            per_unit(&run(seed), seed)
        });
    }

    println!("\n| process | intervals that hold the truth |\n|---|---|");
    let cover = |name: &str, truth: f64, run: &dyn Fn(u64) -> Run| {
        let share = coverage(RUNS, truth, run);
        println!("| {name} | {:.1} % |", 100.0 * share);
    };
    let per_s = MB / 60.0;
    let leak = |run: Run| run.add(move |t, _| per_s * t);
    cover("noise 0.1 MB", 0.0, &|seed| Run::minute(seed).noise(0.1 * MB));
    cover("1 MB/min, noise 0.1 MB", per_s, &|seed| leak(Run::minute(seed).noise(0.1 * MB)));
    cover("1 MB/min, bursts of 2 MB", per_s, &|seed| {
        leak(Run::minute(seed).noise(0.05 * MB).bursts(0.3, 2.0 * MB, 0.5))
    });
    cover("1 MB/min, sawtooth of 1 MB", per_s, &|seed| {
        leak(Run::minute(seed).noise(0.05 * MB).sawtooth(3.0, MB))
    });
    cover("144 B per unit in chunks, 250000 units in 6 s", 144.0, &|seed| chunks(seed, 250_000.0));
    cover("the same, noise 0.1 MB", 144.0, &|seed| chunks(seed, 250_000.0).noise(0.1 * MB));
}
