use super::*;
use crate::estimate::{Point, Series};
use crate::layout::{Segments, Told};
use crate::ledger::UNEXPLAINED;
use crate::sample::Counts;
use crate::smaps::Mapping;
use crate::stacks::fixture::{INVALIDATION_QUEUE, frames};
use crate::verdict::{Criteria, judge};
use crate::work::Unit;

const QUEUE: &str = "UCX registration cache, invalidation queue";
const UNMAPS: f64 = 200_000.0;

/// A process with `bytes` in one anonymous mapping.
fn layout(bytes: u64) -> Layout {
    let mapping = Mapping {
        start: 0x7f00_0000_1000,
        end: 0x7f00_0000_1000 + bytes.next_multiple_of(4096),
        accessible: true,
        shared: false,
        inode: 0,
        name: String::new(),
        rss_bytes: bytes,
        anonymous_bytes: bytes,
    };
    let mappings = [mapping];
    Layout::of(&mappings, &Segments::of(&mappings, &Told::default()), |_| None)
}

/// What comes of UCX 1.19.0 gaining `bytes_per_unmap`, of which its counter shows `queued` entries and a tracer `stacks`.
fn attributed(bytes_per_unmap: f64, queued: u64, stacks: Option<&Stacks>) -> Attribution {
    let point = |i: u64| {
        let work = UNMAPS * i as f64 / 100.0;
        Point { work, level: 1e8 + bytes_per_unmap * work, t_s: i as f64 / 20.0 }
    };
    let series = Series::new((0..=100).map(point));
    let judgement = judge(&series, &Criteria::new(Gauge::Held, 4.0), 1);
    let held = |rcache_queue| Counts { rcache_queue: Some(rcache_queue), ..Counts::default() };
    let sample = |queue| Sample { held: held(queue), ..Sample::default() };
    let (first, last) = (sample(0), sample(queued));
    let grown = 100_000_000 + (bytes_per_unmap * UNMAPS) as u64;
    let grounds = Grounds {
        axes: Axes { gauge: Gauge::Held, unit: Unit::Unmap },
        judgement: &judgement,
        units: UNMAPS,
        samples: Some((&first, &last)),
        layouts: (&layout(100_000_000), &layout(grown)),
        descriptors: &Default::default(),
        stacks,
        ucx: Some(UcxVersion::new(1, 19, 0)),
        env: &BTreeMap::new(),
    };
    attribute(Known::builtin(), &grounds)
}

fn stacks(growth: &[(&[&str], i64)]) -> Stacks {
    let stacks = growth
        .iter()
        .map(|(texts, bytes)| StackGrowth::of(frames(texts), Class::Anonymous, *bytes))
        .collect();
    Stacks { tier: crate::trace::tier::Tier::Perf, stacks, ..Stacks::default() }
}

fn rows(found: &Attribution) -> Vec<(&str, i64, Basis)> {
    let row = |row: &'_ Owner| (row.bytes, row.basis);
    found.memory.rows.iter().map(|r| (r.name.as_str(), row(r).0, row(r).1)).collect()
}

#[test]
fn a_stack_names_the_owner_and_the_bug() {
    let seen = stacks(&[(INVALIDATION_QUEUE, 28_700_000)]);
    let found = attributed(144.0, 0, Some(&seen));
    assert_eq!(
        rows(&found),
        [(QUEUE, 28_700_000, Basis::Stack), (UNEXPLAINED, 100_000, Basis::None)]
    );
    let reference = found.reference().unwrap();
    assert_eq!((reference.id.as_str(), reference.proof), ("vllm#24264", Some(Proof::Stack)));
    let stack = found.owners[0].stack.as_ref().unwrap();
    assert!(stack.iter().any(|frame| frame.starts_with("ucs_mpool_grow (")), "{stack:?}");
    assert_eq!(found.top.unwrap().frames, frames(INVALIDATION_QUEUE));
    assert!((found.explained_ratio.unwrap() - 28.7 / 28.8).abs() < 1e-9);
}

#[test]
fn a_counter_adds_what_the_tracer_has_missed_and_an_amount_what_both_have() {
    let seen = stacks(&[(INVALIDATION_QUEUE, 20_000_000)]);
    let found = attributed(144.0, 190_000, Some(&seen));
    assert_eq!(rows(&found)[0], (QUEUE, 144 * 190_000, Basis::Stack));
    let found = attributed(144.0, 0, None);
    assert_eq!(rows(&found), [(QUEUE, 28_800_000, Basis::Amount)]);
    assert_eq!(found.proof, Some(Proof::Growth));
    let found = attributed(500.0, 200_000, None);
    assert_eq!(rows(&found)[1], (QUEUE, 28_800_000, Basis::Counter));
    assert_eq!(found.signature, None, "500 bytes are none of its");
}

#[test]
fn who_else_maps_as_much_per_unit_is_not_taken_for_the_bug() {
    let seen = stacks(&[(&["mmap@libc.so.6", "Batch::grow@app", "main@app"], 28_800_000)]);
    let found = attributed(144.0, 0, Some(&seen));
    assert_eq!(found.signature, None);
    assert_eq!(rows(&found), [("Batch::grow (app)", 28_800_000, Basis::Stack)]);
    assert_eq!(found.explained_ratio, Some(1.0));
}
