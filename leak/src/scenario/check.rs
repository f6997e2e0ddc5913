//! The checks that types alone cannot make: ranges, and relations between keys.

use super::error::Flaw;
use super::overrides::is_variable_name;
use super::{Churn, Expect, Mitigation, Pattern, Role, Scenario};
use crate::verdict::VerdictKind;
use crate::work::Unit;

impl Scenario {
    /// Ranges and relations between keys. The first flaw found is returned.
    pub(super) fn check(&self) -> Result<(), Flaw> {
        let name_ok = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        check(
            "name",
            !self.name.is_empty() && self.name.chars().all(name_ok),
            "must be lower-case letters, digits and dashes",
        )?;
        check("ucx", !self.ucx.is_empty(), "must be a version like 1.19.0, system, or a path")?;
        // TOML has no integers above i64::MAX, and the resolved scenario is written back as TOML.
        check("seed", i64::try_from(self.seed).is_ok(), "must be below 2^63")?;
        self.check_cluster()?;
        self.check_load()?;
        match &self.churn {
            Some(churn) => check_churn(churn)?,
            None => check(
                "unit",
                self.unit != Unit::Unmap,
                "is \"unmap\", but there is no [churn] to make any",
            )?,
        }
        let cluster = &self.cluster;
        let reconnects = cluster.reconnect_every.is_some() || cluster.renew_engine_every.is_some();
        check(
            "unit",
            self.unit != Unit::Reconnect || reconnects,
            "is \"reconnect\", but there is no cluster.reconnect_every or renew_engine_every to make any",
        )?;
        check(
            "unit",
            self.unit != Unit::Count,
            "is \"count\", which is for `pdlab watch --counter`: roles count units of their own",
        )?;
        self.check_faults()?;
        self.check_measure()?;
        for name in self.env.keys() {
            check(
                &format!("env.{name}"),
                is_variable_name(name),
                "is no name of an environment variable",
            )?;
        }
        self.check_outcomes()
    }

    fn check_cluster(&self) -> Result<(), Flaw> {
        let cluster = &self.cluster;
        for (key, count) in [("prefill", cluster.prefill), ("decode", cluster.decode)] {
            check(&format!("cluster.{key}"), (1..=64).contains(&count), "must be 1 to 64")?;
        }
        check("cluster.model", !cluster.model.is_empty(), "must name a model preset")?;
        check(
            "cluster.kv_scale",
            cluster.kv_scale > 0.0 && cluster.kv_scale <= 1.0,
            "must be above 0 and at most 1",
        )?;
        check(
            "cluster.time_scale",
            (0.0..=1000.0).contains(&cluster.time_scale),
            "must be 0 to 1000",
        )?;
        check(
            "cluster.num_gpu_blocks",
            cluster.num_gpu_blocks >= 2,
            "must be 2 or more; block 0 is never given out",
        )?;
        check(
            "cluster.block_size",
            (1..=1024).contains(&cluster.block_size),
            "must be 1 to 1024 tokens",
        )?;
        check("cluster.max_num_seqs", cluster.max_num_seqs >= 1, "must be 1 or more")?;
        check_lease("cluster.kv_lease_seconds", cluster.kv_lease_seconds)?;
        let timeout = cluster.kv_read_timeout_ms.unwrap_or(1);
        check(
            "cluster.kv_read_timeout_ms",
            (1..=86_400_000).contains(&timeout),
            "must be 1 ms to a day",
        )?;
        let counts = [
            ("reconnect_every", cluster.reconnect_every),
            ("renew_engine_every", cluster.renew_engine_every),
            ("decode_max_num_seqs", cluster.decode_max_num_seqs),
            ("decode_max_model_len", cluster.decode_max_model_len),
        ];
        for (key, count) in counts {
            check(&format!("cluster.{key}"), count != Some(0), "must be 1 or more")?;
        }
        let memlock = cluster.decode_memlock_bytes.unwrap_or(4096);
        check(
            "cluster.decode_memlock_bytes",
            memlock >= 4096 && i64::try_from(memlock).is_ok(),
            "must be 4096 or more: a page",
        )?;
        let crash = cluster.crash_every_seconds.unwrap_or(1.0);
        check(
            "cluster.crash_every_seconds",
            (0.1..=3600.0).contains(&crash),
            "must be 0.1 to 3600: a decode needs time to start",
        )?;
        // Its counters begin anew with every start, and its memory too.
        check(
            "cluster.crash_every_seconds",
            cluster.crash_every_seconds.is_none() || self.role != Role::Decode,
            "makes decode start anew, so decode cannot be judged",
        )
    }

    fn check_load(&self) -> Result<(), Flaw> {
        let load = &self.load;
        check(
            "load.concurrency",
            (1..=100_000).contains(&load.concurrency),
            "must be 1 to 100000",
        )?;
        check("load.input_tokens", load.input_tokens >= 1, "must be 1 or more")?;
        check("load.output_tokens", load.output_tokens >= 1, "must be 1 or more")?;
        check(
            "load.prefix_tokens",
            load.prefix_tokens <= load.input_tokens,
            "must not exceed input_tokens",
        )?;
        check(
            "load.input_range_ratio",
            (0.0..1.0).contains(&load.input_range_ratio),
            "must be 0 or more and below 1",
        )?;
        check(
            "load.abort_ratio",
            (0.0..=1.0).contains(&load.abort_ratio),
            "must be 0 to 1, a share of the requests",
        )?;
        check(
            "load.abort_after_ms",
            (1..=3_600_000).contains(&load.abort_after_ms),
            "must be 1 ms to an hour",
        )
    }

    fn check_faults(&self) -> Result<(), Flaw> {
        for (i, fault) in self.faults.iter().enumerate() {
            let right = fault.kind.role();
            check(
                &format!("fault.{i}.role"),
                fault.role.name() == right.as_str(),
                &format!("is {}, but {} is a mistake of {right}", fault.role, fault.kind),
            )?;
            let count = match fault.role {
                Role::Prefill => self.cluster.prefill,
                Role::Decode => self.cluster.decode,
                Role::Router => 1,
            };
            check(
                &format!("fault.{i}.process"),
                fault.process.is_none_or(|process| process < count),
                &format!("must be below {count}, the number of processes of {}", fault.role),
            )?;
            check(&format!("fault.{i}.kind"), !self.faults[..i].contains(fault), "is there twice")?;
        }
        Ok(())
    }

    fn check_measure(&self) -> Result<(), Flaw> {
        let measure = &self.measure;
        check_units("measure.units", measure.units)?;
        if let Some(max) = measure.max_units {
            check_units("measure.max_units", max)?;
            check("measure.max_units", max >= measure.units, "must not be below units")?;
        }
        let seconds = measure.max_seconds;
        check(
            "measure.max_seconds",
            seconds > 0.0 && seconds <= 1e7,
            "must be above 0 and at most 10000000",
        )?;
        let interval = measure.sample_interval_ms;
        check(
            "measure.sample_interval_ms",
            (10..=60_000).contains(&interval),
            "must be 10 to 60000 ms",
        )?;
        let margin = measure.margin_per_unit;
        check("measure.margin_per_unit", margin > 0.0 && margin.is_finite(), "must be above 0")?;
        let limit = measure.memory_limit_bytes;
        check(
            "measure.memory_limit_bytes",
            limit >= 1 && i64::try_from(limit).is_ok(),
            "must be 1 byte or more",
        )
    }

    fn check_outcomes(&self) -> Result<(), Flaw> {
        check(
            "expect",
            !self.expects.is_empty(),
            "needs one [[expect]] or more, or no run could ever be right",
        )?;
        for (i, expect) in self.expects.iter().enumerate() {
            self.check_expect(&format!("expect.{i}"), expect)?;
        }
        for (i, mitigation) in self.mitigations.iter().enumerate() {
            self.check_mitigation(&format!("mitigation.{i}"), mitigation)?;
        }
        for (i, refusal) in self.refusals.iter().enumerate() {
            let (set, reason) = (format!("refused.{i}.set"), format!("refused.{i}.reason"));
            check(&set, !refusal.set.is_empty(), "must set one variable or more")?;
            check(&reason, !refusal.reason.is_empty(), "must have words of the failure")?;
        }
        Ok(())
    }

    fn check_expect(&self, at: &str, expect: &Expect) -> Result<(), Flaw> {
        check_slopes(at, expect.slope_min, expect.slope_max)?;
        let quiet = expect.quiet_growth_ratio_max.unwrap_or(0.0);
        check(
            &format!("{at}.quiet_growth_ratio_max"),
            quiet >= 0.0 && quiet.is_finite(),
            "must be 0 or more",
        )?;
        let growth = expect.cost_growth_min.unwrap_or(1.0);
        check(
            &format!("{at}.cost_growth_min"),
            growth > 0.0 && growth.is_finite(),
            "must be above 0; 2 is \"twice as much CPU time per unit at the end\"",
        )?;
        check(
            &format!("{at}.verdict"),
            !self.control || expect.verdict == VerdictKind::Clean,
            "must be \"clean\": the scenario is a control",
        )
    }

    fn check_mitigation(&self, at: &str, mitigation: &Mitigation) -> Result<(), Flaw> {
        check_slopes(at, mitigation.slope_min, mitigation.slope_max)?;
        let changes = !mitigation.set.is_empty()
            || mitigation.drop_faults
            || mitigation.kv_lease_seconds.is_some();
        check(
            &format!("{at}.set"),
            changes,
            "must set one variable or more, unless drop_faults or kv_lease_seconds is there",
        )?;
        check(
            &format!("{at}.drop_faults"),
            !mitigation.drop_faults || !self.faults.is_empty(),
            "is true, but there is no [[fault]] to drop",
        )?;
        for name in mitigation.set.keys() {
            let key = format!("{at}.set.{name}");
            check(&key, is_variable_name(name), "is no name of an environment variable")?;
        }
        if let Some(seconds) = mitigation.kv_lease_seconds {
            check_lease(&format!("{at}.kv_lease_seconds"), seconds)?;
        }
        mitigation.units.map_or(Ok(()), |units| check_units(&format!("{at}.units"), units))
    }
}

fn check_lease(key: &str, seconds: f64) -> Result<(), Flaw> {
    check(key, seconds > 0.0 && seconds <= 86_400.0, "must be above 0 and at most a day")
}

fn check_churn(churn: &Churn) -> Result<(), Flaw> {
    // A planted leak may be as small as it likes; everything else is pages.
    let (unit, message) = match churn.pattern {
        Pattern::Plant => (1, "must be 1 byte to 1 GiB"),
        _ => (4096, "must be a multiple of 4096, at least that and at most 1 GiB"),
    };
    let fits = churn.bytes.is_multiple_of(unit) && (unit..=1 << 30).contains(&churn.bytes);
    check("churn.bytes", fits, message)?;
    check("churn.resident", (1..=60_000).contains(&churn.resident), "must be 1 to 60000 mappings")?;
    let per_second = churn.unmaps_per_second;
    check("churn.unmaps_per_second", (0.0..=1e6).contains(&per_second), "must be 0 to 1000000")?;
    let works =
        churn.unmaps_per_step > 0 || churn.unmaps_per_token > 0 || churn.unmaps_per_second > 0.0;
    check(
        "churn.unmaps_per_step",
        works,
        "is 0, as are unmaps_per_token and unmaps_per_second: no churn would be made",
    )
}

fn check_units(key: &str, units: u64) -> Result<(), Flaw> {
    check(key, (1..=1_000_000_000_000).contains(&units), "must be 1 to 10^12 units of work")
}

fn check_slopes(key: &str, min: f64, max: f64) -> Result<(), Flaw> {
    let ordered = min.is_finite() && max.is_finite() && min <= max;
    check(
        &format!("{key}.slope_min"),
        ordered,
        "and slope_max must be numbers, the first not above the second",
    )
}

fn check(key: &str, ok: bool, message: &str) -> Result<(), Flaw> {
    if ok { Ok(()) } else { Err(Flaw::new(key, message)) }
}
