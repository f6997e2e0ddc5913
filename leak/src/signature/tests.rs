use super::*;
use crate::stacks::fixture::{INVALIDATION_QUEUE, frames};

fn slope(value: f64) -> Slope {
    Slope { value, low: value - 0.1, high: value + 0.1 }
}

fn finding(env: &BTreeMap<String, String>) -> Finding<'_> {
    Finding {
        verdict: VerdictKind::Leak,
        slope: slope(144.0),
        axes: Axes { gauge: Gauge::Held, unit: Unit::Unmap },
        top_class: Some(Class::Anonymous),
        owner: None,
        stack: None,
        ucx: Some(UcxVersion::new(1, 19, 0)),
        env,
    }
}

fn id(finding: &Finding<'_>) -> Option<String> {
    recognise(&Known::builtin().signatures, finding).map(|(signature, _)| signature.id.clone())
}

#[test]
fn the_list_is_sound() {
    let known = Known::parse(BUILTIN, "signatures.toml").unwrap();
    assert!(known.signatures.len() >= 8 && !known.evidence.is_empty());
    for signature in &known.signatures {
        // What UCX does, a setting of UCX may stop; what an application does, only its own repair.
        assert_eq!(signature.ucx.is_some(), !signature.cures.is_empty(), "{}", signature.id);
    }
}

#[test]
fn every_leak_of_the_zoo_that_has_been_reported_is_known() {
    let known = &Known::builtin().signatures;
    for scenario in crate::scenario::Scenario::builtins().unwrap() {
        let Some(bug) = &scenario.bug else { continue };
        let leaks = scenario.expects.iter().any(|due| due.verdict == VerdictKind::Leak);
        // A planted leak stands for any.
        if leaks && !scenario.name.starts_with("planted") {
            let told = |known: &Signature| known.url == *bug || known.related.contains(bug);
            assert!(known.iter().any(told), "{}: {bug}", scenario.name);
        }
    }
}

#[test]
fn what_is_wrong_with_a_list_is_named() {
    let with = |from: &str, to: &str| {
        assert!(BUILTIN.contains(from), "{from}");
        Known::parse(&BUILTIN.replacen(from, to, 1), "mine.toml").unwrap_err().to_string()
    };
    for (from, to, words) in [
        ("slope_min = 135.0", "slope_mim = 135.0", &["mine.toml", "slope_mim", "line"][..]),
        ("slope_min = 135.0", "slope_min = 156.0", &["mine.toml", "\"vllm#24264\"", "above"]),
        ("https://github.com/vllm-project/vllm/issues/24264", "24264", &["vllm#24264", "https://"]),
        ("class = \"anonymous\"", "# none", &["vllm#24264", "class"]),
        ("id = \"ucx#11248\"", "id = \"vllm#24264\"", &["vllm#24264", "another one"]),
        ("bytes_each = 144.0", "bytes_each = -1.0", &["invalidation queue", "more than 0"]),
        ("\"ucs_mpool_grow\", \"...\"", "\"...\"", &["mine.toml", "line", "a stack is"]),
        (
            "\"ucs_mpool_grow\", \"...\"",
            "\"ucs[\", \"...\"",
            &["line", "ucs[", "FUNCTION @ MODULE"],
        ),
        ("UCX_RCACHE_MAX_UNRELEASED = \"1024\"", "", &["vllm#24264", "cure"]),
    ] {
        let error = with(from, to);
        for word in words {
            assert!(error.contains(word), "{from} -> {to}: {word} is not in {error}");
        }
    }
}

#[test]
fn a_stack_is_recognised_whatever_the_slope_and_goes_before_it() {
    let none = BTreeMap::new();
    let queue = frames(INVALIDATION_QUEUE);
    let by = |finding: &Finding<'_>| {
        recognise(&Known::builtin().signatures, finding)
            .map(|(signature, proof)| (signature.id.clone(), proof))
    };
    let traced = Finding { slope: slope(9000.0), stack: Some(&queue), ..finding(&none) };
    assert_eq!(by(&traced), Some(("vllm#24264".to_string(), Proof::Stack)));
    let any_process = Finding {
        ucx: None,
        axes: Axes { gauge: Gauge::Held, unit: Unit::Second },
        top_class: None,
        ..traced
    };
    assert_eq!(by(&any_process), Some(("vllm#24264".to_string(), Proof::Stack)));
    let mut tree = queue.clone();
    tree.insert(5, frames(&["ucs_interval_tree_insert_slow@libucs.so.0"]).remove(0));
    let newer = Finding { ucx: Some(UcxVersion::new(1, 22, 0)), stack: Some(&tree), ..traced };
    assert_eq!(by(&newer), Some(("ucx#11248".to_string(), Proof::Stack)));
    let older = Finding { ucx: Some(UcxVersion::new(1, 16, 0)), ..traced };
    assert_eq!(by(&older), None);
    // 144 bytes per unmap that somebody else maps are another bug.
    let other = frames(&["mmap@libc.so.6", "load@app"]);
    assert_eq!(by(&Finding { stack: Some(&other), ..finding(&none) }), None);
    let cured = BTreeMap::from([("UCX_MEM_EVENTS".to_string(), "n".to_string())]);
    assert_eq!(by(&Finding { env: &cured, ..traced }), None);
    assert_eq!(by(&finding(&none)), Some(("vllm#24264".to_string(), Proof::Growth)));
}

#[test]
fn what_is_counted_must_have_the_owner_of_the_bug() {
    let none = BTreeMap::new();
    let axes = Axes { gauge: Gauge::KvBlocks, unit: Unit::Request };
    let stranded = |owner| Finding {
        axes,
        slope: slope(8.0),
        top_class: None,
        ucx: None,
        owner: Some(owner),
        ..finding(&none)
    };
    assert_eq!(id(&stranded("leases")).as_deref(), Some("vllm#41269"));
    assert_eq!(id(&stranded("requests that wait for remote KV")).as_deref(), Some("vllm#46283"));
    assert_eq!(id(&stranded("requests")), None);
}

#[test]
fn each_bug_is_recognised_by_its_own_version() {
    let env = BTreeMap::new();
    assert_eq!(id(&finding(&env)).as_deref(), Some("vllm#24264"));
    let newer =
        Finding { ucx: Some(UcxVersion::new(1, 22, 0)), slope: slope(150.0), ..finding(&env) };
    assert_eq!(id(&newer).as_deref(), Some("ucx#11248"));
}

#[test]
fn what_is_counted_is_recognised_by_its_gauge() {
    let env = BTreeMap::new();
    let axes = Axes { gauge: Gauge::Fds, unit: Unit::Reconnect };
    let sockets = Finding { axes, slope: slope(2.0), top_class: None, ucx: None, ..finding(&env) };
    assert_eq!(id(&sockets).as_deref(), Some("nixl#2025"));
    let leases = Finding { axes: Axes { gauge: Gauge::Leases, ..axes }, ..sockets };
    assert_eq!(id(&leases), None);
    // One bug, by UCX's count and by the kernel's.
    for gauge in [Gauge::Outlived, Gauge::PinnedOutlived] {
        let axes = Axes { gauge, unit: Unit::Unmap };
        let ucx = Some(UcxVersion::new(1, 19, 0));
        let kept = Finding { axes, slope: slope(4096.0), ucx, ..sockets };
        assert_eq!(id(&kept).as_deref(), Some("ucx#9616"), "{gauge}");
    }
}

#[test]
fn whatever_does_not_fit_is_not_recognised() {
    let none = BTreeMap::new();
    let fits = finding(&none);
    let strangers = [
        Finding { verdict: VerdictKind::Clean, ..fits },
        Finding { verdict: VerdictKind::Inconclusive, ..fits },
        Finding { slope: slope(288.0), ..fits },
        Finding { slope: slope(20.0), ..fits },
        Finding { axes: Axes { unit: Unit::Request, ..fits.axes }, ..fits },
        Finding { axes: Axes { gauge: Gauge::Rss, ..fits.axes }, ..fits },
        Finding { top_class: Some(Class::Heap), ..fits },
        Finding { top_class: None, ..fits },
        Finding { ucx: Some(UcxVersion::new(1, 16, 0)), ..fits },
        Finding { ucx: None, ..fits },
    ];
    for stranger in strangers {
        assert_eq!(id(&stranger), None, "{stranger:?}");
    }
    let cured = BTreeMap::from([("UCX_MEM_MMAP_HOOK_MODE".to_string(), "none".to_string())]);
    assert_eq!(id(&finding(&cured)), None, "with its cure in force it must be something else");
    let harmless = BTreeMap::from([("UCX_MEM_MMAP_HOOK_MODE".to_string(), "reloc".to_string())]);
    assert!(id(&finding(&harmless)).is_some(), "another value of the same variable cures nothing");
}
