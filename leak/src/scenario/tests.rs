use proptest::prelude::*;

use pdlab_api::fault::FaultKind;

use super::*;
use crate::verdict::VerdictKind;

const DEFAULT: &str = include_str!("../../scenarios/ucx-rcache-invq.toml");

fn default() -> Scenario {
    Scenario::builtin("ucx-rcache-invq").unwrap()
}

/// The default file with the first line that starts with `from` replaced.
fn with(from: &str, to: &str) -> String {
    let at = DEFAULT.lines().position(|line| line.starts_with(from)).expect("the line is there");
    let lines: Vec<&str> =
        DEFAULT.lines().enumerate().map(|(i, line)| if i == at { to } else { line }).collect();
    lines.join("\n")
}

fn line_of(start: &str) -> usize {
    1 + DEFAULT.lines().position(|line| line.starts_with(start)).expect("the line is there")
}

fn error(text: &str) -> String {
    Scenario::parse(text, "my.toml").unwrap_err().to_string()
}

/// What must come out of the default scenario with these overrides, on the library of `version`.
fn due(overrides: Overrides, version: Option<&str>) -> Option<Expectation> {
    let scenario = default().apply(&overrides).unwrap();
    scenario.expectation(&Conditions {
        transport: scenario.transport,
        ucx: version.map(|version| version.parse().unwrap()),
        churn: scenario.churn.as_ref().map(|churn| churn.pattern),
        env: &scenario.env,
        kv_lease_seconds: scenario.cluster.kv_lease_seconds,
    })
}

fn set(name: &str, value: &str) -> Overrides {
    Overrides { set: vec![(name.to_string(), value.to_string())], ..Overrides::default() }
}

#[test]
fn every_builtin_is_sound_and_bears_the_name_of_its_file() {
    let all = Scenario::builtins().unwrap();
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name.as_str()).collect();
    assert_eq!(names, Scenario::builtin_names());
    let mut files: Vec<String> =
        std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios"))
            .unwrap()
            .map(|file| file.unwrap().path().file_stem().unwrap().to_string_lossy().into_owned())
            .collect();
    let mut listed = names.clone();
    files.sort();
    listed.sort_unstable();
    assert_eq!(files, listed, "every file is listed, and nothing else");
    assert_eq!(names[0], "ucx-rcache-invq", "the first is the default");
}

#[test]
fn every_leak_has_a_bug_an_owner_and_a_cure() {
    for scenario in Scenario::builtins().unwrap() {
        let name = &scenario.name;
        let leaks: Vec<&Expect> =
            scenario.expects.iter().filter(|expect| expect.verdict == VerdictKind::Leak).collect();
        assert_eq!(scenario.control, scenario.bug.is_none(), "{name}: a control models no bug");
        assert!(
            scenario.bug.iter().all(|bug| bug.starts_with("https://github.com/")),
            "{name}: where is the bug discussed?"
        );
        assert!(scenario.control || !scenario.description.is_empty(), "{name}");
        for leak in &leaks {
            let margin = scenario.measure.margin_per_unit;
            assert!(leak.slope_min > margin, "{name}: a leak is no noise");
        }
        // A planted leak is there to be found: nobody holds it, and nothing cures it.
        if scenario.churn.as_ref().is_some_and(|churn| churn.pattern == Pattern::Plant) {
            continue;
        }
        assert!(leaks.iter().all(|leak| leak.owner.is_some()), "{name}: who holds it?");
        assert_eq!(leaks.is_empty(), scenario.mitigations.is_empty(), "{name}: a leak has a cure");
        // Of mistakes made on purpose, the first is the one that the bug is about.
        if let Some(fault) = scenario.faults.first() {
            assert_eq!(scenario.bug.as_deref(), Some(fault.kind.bug()), "{name}");
        }
    }
}

#[test]
fn every_builtin_foresees_what_it_runs_by_default() {
    for scenario in Scenario::builtins().unwrap() {
        // What NIXL brings along tells its version once it is open.
        let ucx = scenario.ucx_version();
        assert!(ucx.is_some() || scenario.rdma, "{}: which UCX?", scenario.name);
        let ucx = ucx.filter(|_| scenario.transport == Transport::Ucx);
        let expectation = scenario.expectation(&Conditions {
            transport: scenario.transport,
            ucx,
            churn: scenario.churn.as_ref().map(|churn| churn.pattern),
            env: &scenario.env,
            kv_lease_seconds: scenario.cluster.kv_lease_seconds,
        });
        let expectation = expectation.unwrap_or_else(|| panic!("{}", scenario.name));
        assert_eq!(expectation.mitigation, None, "{}: its cure is in force", scenario.name);
        let cures = scenario.mitigations_to_prove(&expectation);
        assert_eq!(cures.len(), scenario.mitigations.len(), "{}", scenario.name);
    }
}

#[test]
fn a_scenario_written_is_a_scenario_read() {
    for scenario in Scenario::builtins().unwrap() {
        assert_eq!(Scenario::parse(&scenario.to_toml(), "again").unwrap(), scenario);
    }
    let overrides = Overrides {
        ucx: Some("/opt/hpcx/ucx".to_string()),
        transport: Some(Transport::Auto),
        set: vec![
            ("UCX_TLS".to_string(), "rc_v".to_string()),
            ("EMPTY".to_string(), String::new()),
        ],
        churn: Some(Pattern::Random),
        units: Some(1234),
        seed: Some(u64::MAX / 2),
        prove_mitigations: Some(false),
    };
    let changed = default().apply(&overrides).unwrap();
    assert_eq!(Scenario::parse(&changed.to_toml(), "again").unwrap(), changed);
    assert_eq!(changed.churn.as_ref().unwrap().pattern, Pattern::Random);
    assert_eq!((changed.measure.units, changed.measure.give_up_units()), (1234, 4936));
    assert!(changed.mitigations.iter().all(|mitigation| mitigation.units == Some(1234)));
    assert_eq!((changed.env["UCX_TLS"].as_str(), changed.env["EMPTY"].as_str()), ("rc_v", ""));
}

#[test]
fn the_default_does_what_was_promised() {
    let scenario = default();
    assert_eq!(scenario.ucx_version(), Some(UcxVersion::new(1, 19, 0)));
    assert_eq!(scenario.env["UCX_TLS"], "tcp");
    assert!(scenario.measure.units >= 200_000);
    assert_eq!((scenario.cluster.prefill, scenario.cluster.decode), (1, 1));
    assert_eq!(scenario.mitigations.len(), 3);
    assert!(scenario.is_about_ucx());
}

#[test]
fn the_expectation_follows_the_ucx_version() {
    let verdict = |version: &str| {
        due(Overrides::default(), Some(version))
            .map(|e| (e.due.verdict, e.due.slope_min, e.due.slope_max))
    };
    let leak = Some((VerdictKind::Leak, 141.0, 147.0));
    let clean = Some((VerdictKind::Clean, -2.0, 2.0));
    assert_eq!(verdict("1.13.1"), clean);
    assert_eq!(verdict("1.16.0"), clean);
    assert_eq!(verdict("1.17.0"), leak);
    assert_eq!(verdict("1.19.0"), leak);
    assert_eq!(verdict("1.20.1"), leak);
    assert_eq!(verdict("1.21.0"), clean);
    assert_eq!(verdict("1.22.0"), clean);
    assert_eq!(verdict("1.20.7"), None, "a release that nobody has measured");
}

#[test]
fn the_expectation_follows_churn_and_transport() {
    let disjoint = Overrides { churn: Some(Pattern::Disjoint), ..Overrides::default() };
    assert_eq!(due(disjoint.clone(), Some("1.22.0")), None);
    assert_eq!(due(disjoint, Some("1.19.0")).unwrap().due.verdict, VerdictKind::Leak);
    let arena = Overrides { churn: Some(Pattern::Arena), ..Overrides::default() };
    assert_eq!(due(arena, Some("1.22.0")), None);
    let tcp =
        Overrides { transport: Some(Transport::Tcp), ..set("UCX_MEM_MMAP_HOOK_MODE", "none") };
    let tcp = due(tcp, None).unwrap();
    assert_eq!((tcp.due.verdict, tcp.mitigation), (VerdictKind::Clean, None));
    assert!(tcp.due.note.unwrap().contains("cannot show UCX's leaks"));
}

#[test]
fn a_mitigation_that_is_set_decides_what_is_due() {
    let none = due(set("UCX_MEM_MMAP_HOOK_MODE", "none"), Some("1.19.0")).unwrap();
    assert_eq!(
        (none.due.verdict, none.due.slope_min, none.due.slope_max),
        (VerdictKind::Clean, -4.0, 4.0)
    );
    assert_eq!(none.mitigation.as_deref(), Some("no-hooks"));
    for value in ["1024", "64M"] {
        let drained = due(set("UCX_RCACHE_MAX_UNRELEASED", value), Some("1.19.0")).unwrap();
        assert_eq!(drained.due.verdict, VerdictKind::Clean, "{value}");
    }
    for (name, value) in [("UCX_MEM_EVENTS", "n"), ("UCX_RCACHE_ENABLE", "n")] {
        let cured = due(set(name, value), Some("1.19.0")).unwrap();
        assert_eq!((cured.due.verdict, cured.mitigation), (VerdictKind::Clean, None), "{name}");
    }
    let other = due(set("UCX_RCACHE_MAX_UNRELEASED", "100G"), Some("1.19.0")).unwrap();
    assert_eq!(other.due.verdict, VerdictKind::Leak, "only the values that are known to cure, do");
}

#[test]
fn mitigations_are_proven_where_something_leaks() {
    let scenario = default();
    let leak = due(Overrides::default(), Some("1.19.0")).unwrap();
    let clean = due(Overrides::default(), Some("1.16.0")).unwrap();
    assert_eq!(scenario.mitigations_to_prove(&leak).len(), 3);
    assert!(scenario.mitigations_to_prove(&clean).is_empty());
    let without = scenario
        .apply(&Overrides { prove_mitigations: Some(false), ..Overrides::default() })
        .unwrap();
    assert!(without.mitigations_to_prove(&leak).is_empty());

    let cured = scenario.with_mitigation(&scenario.mitigations[1]);
    assert_eq!(cured.env["UCX_RCACHE_MAX_UNRELEASED"], "1024");
    assert_eq!(cured.env["UCX_TLS"], "tcp");
    assert_eq!(Some(cured.measure.units), scenario.mitigations[1].units);
    assert!(cured.mitigations_to_prove(&leak).is_empty());
    assert_eq!(cured.check().map_err(|flaw| flaw.in_overrides("cured").to_string()), Ok(()));
    assert_eq!(scenario.mitigations[1].setting(), "UCX_RCACHE_MAX_UNRELEASED=1024");
}

#[test]
fn an_unknown_key_names_file_line_and_the_known_ones() {
    let text = with("pattern = ", "patern = \"same\"");
    let error = error(&text);
    let line = line_of("pattern = ");
    assert!(error.starts_with(&format!("my.toml, line {line}: unknown field `patern`")), "{error}");
    assert!(error.contains("`pattern`") && error.contains("`unmaps_per_step`"), "{error}");
}

#[test]
fn every_kind_of_mistake_names_its_line() {
    let cases = [
        (
            "unit = ",
            "unit = \"onmap\"",
            "unknown variant `onmap`, expected one of `unmap`, `request`",
        ),
        ("role = ", "role = 3", "wanted string"),
        ("units = ", "units = 0", "measure.units must be 1 to"),
        ("kv_scale = ", "kv_scale = 0.0", "cluster.kv_scale must be above 0"),
        ("kv_scale = ", "kv_scale = nan", "cluster.kv_scale must be above 0"),
        ("bytes = ", "bytes = 1000", "churn.bytes must be a multiple of 4096"),
        ("unmaps_per_step = ", "unmaps_per_step = 0", "churn.unmaps_per_step is 0"),
        ("max_units = ", "max_units = 5", "measure.max_units must not be below units"),
        ("request_rate = ", "request_rate = \"fast\"", "or \"inf\""),
        ("request_rate = ", "request_rate = -1", "requests per second above 0"),
        ("name = ", "name = \"No Spaces\"", "lower-case letters"),
        ("UCX_TLS = ", "UCX_TLS = 1", "invalid type: integer"),
        ("UCX_TLS = ", "\"UCX TLS\" = \"tcp\"", "no name of an environment variable"),
        ("slope_min = ", "slope_min = 9.0", "expect.0.slope_min and slope_max must be numbers"),
        ("ucx = \"..1.17.0\"", "ucx = \"1.20..1.17\"", "not a range of UCX versions"),
        ("set = ", "set = {}", "mitigation.0.set must set one variable"),
        ("reason = ", "reason = \"\"", "refused.0.reason must have words"),
        ("gauge = ", "gauge = \"heap\"", "unknown variant `heap`, expected one of `held`, `rss`"),
        ("margin_per_unit = ", "margin_per_unit = 0", "measure.margin_per_unit must be above 0"),
        ("gauge = ", "warm_up = \"long\"", "\"none\", or seconds above 0"),
        ("gauge = ", "warm_up = 0", "seconds above 0"),
        ("max_num_seqs = ", "kv_lease_seconds = 0", "cluster.kv_lease_seconds must be above 0"),
        (
            "max_num_seqs = ",
            "decode_memlock_bytes = 1",
            "cluster.decode_memlock_bytes must be 4096",
        ),
        ("max_num_seqs = ", "kv_read_timeout_ms = 0", "cluster.kv_read_timeout_ms must be 1"),
        ("max_num_seqs = ", "reconnect_every = 0", "cluster.reconnect_every must be 1"),
        ("max_num_seqs = ", "crash_every_seconds = 0", "cluster.crash_every_seconds must be 0.1"),
        ("max_num_seqs = ", "crash_every_seconds = 1", "so decode cannot be judged"),
        ("max_num_seqs = ", "decode_max_model_len = 0", "cluster.decode_max_model_len must be 1"),
        ("prefix_tokens = ", "input_range_ratio = 1", "load.input_range_ratio must be 0"),
        ("prefix_tokens = ", "abort_ratio = 1.5", "load.abort_ratio must be 0 to 1"),
        ("prefix_tokens = ", "abort_after_ms = 0", "load.abort_after_ms must be 1"),
        ("unit = ", "unit = \"reconnect\"", "there is no cluster.reconnect_every"),
        ("note = ", "cost_growth_min = 0", "expect.0.cost_growth_min must be above 0"),
        ("set = ", "drop_faults = true", "mitigation.0.drop_faults is true, but there is no"),
        ("set = ", "kv_lease_seconds = -1", "mitigation.0.kv_lease_seconds must be above 0"),
        ("seed = ", "seed = 1 2", ""),
    ];
    for (from, to, message) in cases {
        let error = error(&with(from, to));
        assert!(error.starts_with(&format!("my.toml, line {}: ", line_of(from))), "{to}: {error}");
        assert!(error.contains(message), "{to}: {error}");
        assert!(!error.contains('\n'), "{to}: {error}");
    }
}

/// The default file with a `[[fault]]` at its end.
fn with_fault(keys: &str) -> String {
    format!("{DEFAULT}\n[[fault]]\n{keys}\n")
}

#[test]
fn mistakes_name_their_role_and_process() {
    let fine = with_fault("role = \"decode\"\nkind = \"rkey-kept\"\nprocess = 0");
    let scenario = Scenario::parse(&fine, "my.toml").unwrap();
    assert_eq!(scenario.faults[0].kind, FaultKind::RkeyKept);
    let wrong = [
        ("role = \"prefill\"\nkind = \"rkey-kept\"", "but rkey-kept is a mistake of decode"),
        ("role = \"decode\"\nkind = \"typo\"", "unknown variant `typo`"),
        ("role = \"decode\"\nkind = \"rkey-kept\"\nprocess = 1", "must be below 1"),
    ];
    for (keys, message) in wrong {
        let error = error(&with_fault(keys));
        assert!(error.contains(message), "{error}");
        assert!(error.contains(", line "), "{error}");
    }
}

#[test]
fn a_control_must_be_clean_whatever_is_run() {
    let error = error(&with("unit = ", "unit = \"unmap\"\ncontrol = true"));
    assert!(error.contains("expect.6.verdict must be \"clean\""), "{error}");
}

#[test]
fn the_margin_may_bear_its_old_name() {
    let old = with("margin_per_unit = ", "margin_bytes_per_unit = 4.0");
    assert_eq!(Scenario::parse(&old, "x").unwrap(), default());
}

#[test]
fn a_cure_may_be_another_lease_or_the_end_of_the_mistake() {
    let keys = "role = \"decode\"\nkind = \"silent-reject\"\n
[[mitigation]]\nname = \"sound\"\ndrop_faults = true\nslope_min = -1\nslope_max = 1\n
[[mitigation]]\nname = \"lease\"\nkv_lease_seconds = 30.5\nwarm_up = 31\nslope_min = -1\nslope_max = 1";
    let scenario = Scenario::parse(&with_fault(keys), "x").unwrap();
    assert_eq!(Scenario::parse(&scenario.to_toml(), "again").unwrap(), scenario);
    let [.., sound, lease] = &scenario.mitigations[..] else { panic!("two were added") };
    assert_eq!(sound.setting(), "without the mistake");
    assert_eq!(lease.setting(), "kv_lease_seconds=30.5");
    assert!(scenario.with_mitigation(sound).faults.is_empty());
    let cured = scenario.with_mitigation(lease);
    assert_eq!((cured.cluster.kv_lease_seconds, cured.faults.len()), (30.5, 1));
    assert_eq!(cured.measure.warm_up, WarmUp::Seconds(31.0));
    for cure in [sound, lease] {
        let cured = scenario.with_mitigation(cure);
        assert_eq!(Scenario::parse(&cured.to_toml(), "cured").unwrap(), cured);
        assert_eq!(cured.expects, [Expect::new(VerdictKind::Clean, -1.0, 1.0)]);
    }
}

#[test]
fn a_warm_up_is_a_word_or_seconds() {
    let warm_up =
        |line: &str| Scenario::parse(&with("gauge = ", line), "x").unwrap().measure.warm_up;
    assert_eq!(warm_up(""), WarmUp::Blocks);
    assert_eq!(warm_up("warm_up = \"blocks\""), WarmUp::Blocks);
    assert_eq!(warm_up("warm_up = \"none\""), WarmUp::None);
    assert_eq!(warm_up("warm_up = 3"), WarmUp::Seconds(3.0));
}

#[test]
fn what_is_missing_is_named() {
    assert!(error("").contains("missing field `name`"));
    let without = with("model = ", "");
    let error = error(&without);
    assert!(
        error.contains("missing field `model`")
            && error.contains(&format!("line {}", line_of("[cluster]"))),
        "{error}"
    );
    let idle = Scenario { churn: None, ..default() };
    let error = Scenario::parse(&idle.to_toml(), "x").unwrap_err().to_string();
    assert!(error.contains("unit is \"unmap\", but there is no [churn]"), "{error}");
}

const DOCS: &str = include_str!("../../../docs/SCENARIOS.md");

#[test]
fn the_documentation_has_every_key_and_word() {
    fn keys(value: &toml::Value, found: &mut Vec<String>) {
        match value {
            toml::Value::Table(table) => {
                for (key, value) in table {
                    found.push(key.clone());
                    // Variables of the environment have names of their own.
                    if key != "env" && key != "set" {
                        keys(value, found);
                    }
                }
            }
            toml::Value::Array(items) => items.iter().for_each(|item| keys(item, found)),
            _ => {}
        }
    }
    let mut words = Vec::new();
    for scenario in Scenario::builtins().unwrap() {
        keys(&toml::from_str(&scenario.to_toml()).unwrap(), &mut words);
    }
    words.extend(Pattern::ALL.iter().map(|pattern| pattern.name().to_string()));
    words.extend(Gauge::ALL.iter().map(|gauge| gauge.name().to_string()));
    for word in words {
        let told = [format!("`{word}`"), format!("[{word}]")];
        assert!(told.iter().any(|told| DOCS.contains(told)), "{word} is not documented");
    }
}

#[test]
fn the_documented_example_is_a_scenario() {
    let example = DOCS.split("```toml").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let scenario = Scenario::parse(example, "docs/SCENARIOS.md").unwrap();
    assert_eq!(scenario.faults[0].kind, FaultKind::TransferKept);
    assert!(scenario.mitigations[0].drop_faults);
}

#[test]
fn unknown_scenarios_and_files_say_what_to_do() {
    let error = Scenario::find("nope").unwrap_err().to_string();
    assert!(error.contains("ucx-rcache-invq") && error.contains(".toml"), "{error}");
    let error = Scenario::find("./nope.toml").unwrap_err().to_string();
    assert!(error.starts_with("cannot read scenario ./nope.toml"), "{error}");
    assert!(Scenario::find("ucx-rcache-invq").is_ok());
}

#[test]
fn overrides_are_checked_like_the_file() {
    let zero = default().apply(&Overrides { units: Some(0), ..Overrides::default() }).unwrap_err();
    assert!(zero.to_string().contains("measure.units must be 1"), "{zero}");
    let seed =
        default().apply(&Overrides { seed: Some(u64::MAX), ..Overrides::default() }).unwrap_err();
    assert!(seed.to_string().contains("seed must be below 2^63"), "{seed}");
    let mut idle = default();
    (idle.churn, idle.unit) = (None, Unit::Request);
    let churn =
        idle.apply(&Overrides { churn: Some(Pattern::Same), ..Overrides::default() }).unwrap_err();
    assert!(churn.to_string().contains("makes no churn"), "{churn}");
}

#[test]
fn names_on_the_command_line_parse_or_list_the_known_ones() {
    assert_eq!("disjoint".parse(), Ok(Pattern::Disjoint));
    assert_eq!("verbs".parse(), Ok(Transport::Verbs));
    let error = "rdma".parse::<Transport>().unwrap_err();
    assert_eq!(error, "unknown transport \"rdma\"; known are tcp, ucx, verbs, auto");
    assert_eq!(parse_setting("A_1=x=y").unwrap(), ("A_1".to_string(), "x=y".to_string()));
    assert_eq!(parse_setting("A=").unwrap().1, "");
    for bad in ["A", "=x", "1A=x", "A B=x", "A=\0"] {
        assert!(parse_setting(bad).unwrap_err().to_string().contains("NAME=VALUE"), "{bad}");
    }
}

#[test]
fn a_rate_is_a_number_or_infinite() {
    let rate = |line: &str| {
        Scenario::parse(&with("request_rate = ", line), "x").unwrap().load.request_rate.per_second()
    };
    assert_eq!(rate("request_rate = 12.5"), Some(12.5));
    assert_eq!(rate("request_rate = 12"), Some(12.0));
    assert_eq!(rate("request_rate = inf"), None);
    assert_eq!(rate("request_rate = \"inf\""), None);
    assert_eq!(rate(""), None, "the default");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\n]{0,300}", bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Scenario::parse(&text, "x");
        let _ = Scenario::parse(&String::from_utf8_lossy(&bytes), "x");
    }

    #[test]
    fn a_damaged_file_is_read_or_refused_with_a_line(at in 0..DEFAULT.len(), cut in 0..40usize, insert in "[ -~\n]{0,12}") {
        let mut text = DEFAULT.to_string();
        let end = (at + cut).min(text.len());
        prop_assume!(text.is_char_boundary(at) && text.is_char_boundary(end));
        text.replace_range(at..end, &insert);
        match Scenario::parse(&text, "x") {
            Ok(scenario) => prop_assert_eq!(Scenario::parse(&scenario.to_toml(), "again").unwrap(), scenario),
            Err(ScenarioError::Invalid { line, .. }) => prop_assert!((1..=text.lines().count() + 1).contains(&line)),
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
