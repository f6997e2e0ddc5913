//! Verdicts in words: plain text, no colours, one sentence or a few per function.

use crate::estimate::{Estimate, Slope};
use crate::gauge::{Axes, Gauge};
use crate::result::{MitigationResult, ReproResult};
use crate::scenario::{Capacity, Expectation, Transport};
use crate::signature::Signature;
use crate::verdict::{Doubt, Judgement, Verdict, VerdictKind};
use crate::work::Unit;

pub mod owner;

/// The verdict in one sentence: `LEAK. 144.0 B per unmap (95 % CI 143.9 to 144.1) over 243,000 unmaps.`
pub fn verdict(judgement: &Judgement, axes: Axes) -> String {
    let estimate = judgement.estimate.as_ref();
    let slope = estimate.map(|estimate| (estimate.slope, estimate.units));
    found(judgement.verdict.kind(), slope, axes)
}

/// The same sentence from the file of a result; `units` is the work measured, warm-up included.
pub fn finding(result: &ReproResult, units: f64) -> String {
    let slope = || {
        let (value, low, high) = (result.slope_per_unit?, result.ci_low?, result.ci_high?);
        Some((Slope { value, low, high }, units - result.warmup_units.unwrap_or(0.0)))
    };
    found(result.verdict, slope(), Axes { gauge: result.gauge, unit: result.unit })
}

/// Why a verdict is inconclusive and what would decide it; `None` for the others.
pub fn doubt(judgement: &Judgement, axes: Axes) -> Option<String> {
    let Verdict::Inconclusive { why, more_work_factor } = judgement.verdict else { return None };
    let subject = axes.gauge.subject();
    let reason = match why {
        Doubt::TooFew(few) => return Some(sentence(&few.to_string())),
        Doubt::Noisy => format!("{subject} varies too much to tell growth from none"),
        Doubt::Slowing => format!(
            "{subject} grows, but more slowly at the end than at the start: a pool may be filling up"
        ),
        Doubt::Stepwise => {
            format!("{subject} grew in a few steps and was flat between them: they may be the last")
        }
        Doubt::Small => {
            format!("{subject} grew by less than {}, which proves nothing", least(axes.gauge))
        }
        Doubt::Falling => {
            format!("{subject} fell: something is still being given back, and may hide a leak")
        }
    };
    let advice = match &judgement.estimate {
        Some(estimate) => {
            let units = (estimate.warmup.units + estimate.units) * more_work_factor;
            format!("measuring {} in all should decide it", amount(units, axes.unit))
        }
        None => format!("{more_work_factor:.1} times as much work should decide it"),
    };
    Some(sentence(&format!("{reason}; {advice}")))
}

/// What the slope means for an operator: `At the rate seen (41,000 unmaps/s): 354 MB/min; a 64 GiB limit is reached in
/// 3.2 hours.` For KV blocks: `At the rate seen (95 requests/s): 91,200 KV blocks per minute; a pool of 40,000 lasts 26
/// seconds.`
pub fn consequence(estimate: &Estimate, axes: Axes, capacity: Option<Capacity>) -> String {
    let rate = match axes.unit {
        Unit::Second => String::new(),
        unit => format!(" ({} {unit}s/s)", grouped(estimate.units_per_s())),
    };
    let bytes = axes.gauge.is_bytes();
    let growth = if bytes {
        format!("{} MB/min", significant(estimate.mb_per_min()))
    } else {
        format!("{} {} per minute", grouped(estimate.per_s() * 60.0), axes.gauge.label())
    };
    let end = capacity.map(|Capacity { taken, of }| match estimate.hours_to(of, taken) {
        Some(hours) if bytes => {
            format!("; a {} limit is reached in {}", size(of), duration(hours))
        }
        Some(hours) => format!("; a pool of {} lasts {}", grouped(of as f64), duration(hours)),
        None => "; no limit is ever reached".to_string(),
    });
    format!("At the rate seen{rate}: {growth}{}.", end.unwrap_or_default())
}

/// What was left out as warm-up, or that nothing was.
pub fn warmup(estimate: &Estimate, axes: Axes) -> String {
    let cut = &estimate.warmup;
    if cut.samples == 0 {
        return "No warm-up found.".to_string();
    }
    let growth = if cut.growth < 0.0 { "fell by" } else { "grew by" };
    let much = if axes.gauge.is_bytes() {
        format!("{:.1} MB", cut.growth.abs() / 1e6)
    } else {
        grouped(cut.growth.abs())
    };
    format!(
        "Warm-up found and left out: {} in {:.1} s, while {} {growth} {much}.",
        amount(cut.units, axes.unit),
        cut.seconds,
        axes.gauge.subject(),
    )
}

/// How the price of a unit of work developed: `CPU time per unmap grew from 10.2 to 48.0 us (4.7x) over the run.`
pub fn cost_growth(first_us: f64, last_us: f64, unit: Unit) -> String {
    let verb = if last_us >= first_us { "grew" } else { "fell" };
    let ratio = last_us / first_us;
    format!(
        "CPU time per {unit} {verb} from {first_us:.1} to {last_us:.1} us ({ratio:.1}x) from the first quarter of \
         the run to the last."
    )
}

/// The bug it looks like, with its cures.
pub fn signature(signature: &Signature) -> String {
    let mut text = format!(
        "Known: {}. {} ({}). {}",
        signature.id,
        sentence(&signature.title),
        signature.url,
        signature.fix
    );
    for cure in &signature.cures {
        text += &format!("\n  cure: {}  {}", cure.setting(), cure.cost);
    }
    text
}

/// Whether a run came out as expected, and if not, what was due.
pub fn expectation(expected: Option<&Expectation>, matched: bool, axes: Axes) -> String {
    let Some(Expectation { due, mitigation }) = expected else {
        return "The scenario foresees nothing for this UCX, transport and churn; add an [[expect]] to it.".to_string();
    };
    let mut text = format!("{}, {} to {} {axes}", due.verdict, due.slope_min, due.slope_max);
    if let Some(owner) = &due.owner {
        text += &format!(", held by {owner}");
    }
    if let Some(min) = due.cost_growth_min {
        text += &format!(", CPU time per {} growing {min}x or more", axes.unit);
    }
    if let Some(min) = due.refused_min {
        text += &format!(", {min} or more KV reads refused or corrupt and none of them served");
    }
    if due.held_after_drain {
        text += ", something held after the drain";
    }
    if let Some(name) = mitigation {
        text += &format!(" (mitigation {name})");
    }
    let note = due.note.as_ref().map_or(String::new(), |note| format!(" {note}"));
    let outcome = if matched { "As expected" } else { "NOT as expected, which is" };
    format!("{outcome}: {text}.{note}")
}

/// How much the roles without churn grew, beside the judged one: where the leak is *not*.
pub fn quiet(growth_ratio: f64) -> String {
    if growth_ratio <= 0.0 {
        return "The roles without churn did not grow.".to_string();
    }
    format!("The roles without churn grew by {:.2} % of that.", growth_ratio * 100.0)
}

/// What a transport cannot show, or `None` if it can show all.
pub fn blind_spot(transport: Transport) -> Option<&'static str> {
    match transport {
        Transport::Tcp => Some(
            "The tcp transport runs without UCX: it cannot show UCX's leaks. Use --transport ucx.",
        ),
        Transport::Verbs => Some(
            "The verbs transport runs without UCX: it cannot show UCX's leaks. Use --transport ucx.",
        ),
        Transport::Ucx | Transport::Auto => None,
    }
}

/// One line per mitigation: setting, slope, cost.
pub fn mitigation(result: &MitigationResult, axes: Axes) -> String {
    let slope = match (result.slope_per_unit, result.ci_low, result.ci_high) {
        (Some(value), Some(low), Some(high)) => {
            let [value, low, high] = [value, low, high].map(|value| fixed(value, axes.gauge));
            format!("{value} {axes} ({low} to {high})")
        }
        _ => "no slope".to_string(),
    };
    let cost = result
        .cost_ratio
        .map_or(String::new(), |ratio| format!(", {ratio:.2}x CPU per {}", axes.unit));
    let surprise = if result.matched { "" } else { ", NOT as expected" };
    format!("{}: {}, {slope}{cost}{surprise}", result.setting, result.verdict)
}

/// What the KV path did meanwhile: proof that the run was no idle one.
pub fn traffic(result: &ReproResult) -> String {
    let work = &result.work;
    format!(
        "Meanwhile {} requests, {} KV transfers, {:.1} MB of KV, {} blocks verified, {} corrupt.",
        grouped(work.requests as f64),
        grouped(work.transfers as f64),
        work.kv_bytes as f64 / 1e6,
        grouped(work.blocks_verified as f64),
        work.corrupt_blocks
    )
}

/// A verdict, with the slope and the work that it was found on.
fn found(verdict: VerdictKind, slope: Option<(Slope, f64)>, axes: Axes) -> String {
    let word = verdict.to_string().to_uppercase();
    let Some((Slope { value, low, high }, units)) = slope else { return format!("{word}.") };
    let [value, low, high] = [value, low, high].map(|value| fixed(value, axes.gauge));
    let over = amount(units, axes.unit);
    format!("{word}. {value} {axes} (95 % CI {low} to {high}) over {over}.")
}

/// A slope: one decimal where it says something, none for large numbers, three for small counts, and no "-0.0".
pub fn fixed(value: f64, gauge: Gauge) -> String {
    let text = match value.abs() {
        large if large >= 10_000.0 => format!("{value:.0}"),
        small if !gauge.is_bytes() && (0.0005..0.095).contains(&small) => format!("{value:.3}"),
        _ => format!("{value:.1}"),
    };
    if text == "-0.0" { "0.0".to_string() } else { text }
}

/// The least growth that proves anything, in words.
fn least(gauge: Gauge) -> String {
    if gauge.is_bytes() {
        size(gauge.min_growth() as u64)
    } else {
        format!("{} {}", gauge.min_growth(), gauge.label())
    }
}

fn significant(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 0.1 => format!("{value:.1}"),
        small if small >= 0.0005 => format!("{value:.3}"),
        _ => "0.0".to_string(),
    }
}

/// `243,000 unmaps`, `60 seconds`, `1 request`.
fn amount(units: f64, unit: Unit) -> String {
    let plural = if units.round() == 1.0 { "" } else { "s" };
    format!("{} {unit}{plural}", grouped(units))
}

/// A whole number with commas between thousands.
fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if value.round() < 0.0 { format!("-{text}") } else { text }
}

/// Binary units, as memory limits are given.
fn size(bytes: u64) -> String {
    let (unit, name) = match bytes {
        0..0x10_0000 => (1u64 << 10, "KiB"),
        0x10_0000..0x4000_0000 => (1 << 20, "MiB"),
        _ => (1 << 30, "GiB"),
    };
    let value = bytes as f64 / unit as f64;
    if value.fract() == 0.0 { format!("{value:.0} {name}") } else { format!("{value:.1} {name}") }
}

fn duration(hours: f64) -> String {
    match hours {
        _ if hours < 1.0 / 30.0 => format!("{:.0} seconds", (hours * 3600.0).ceil()),
        _ if hours < 1.0 => format!("{:.0} minutes", (hours * 60.0).ceil()),
        _ if hours < 72.0 => format!("{hours:.1} hours"),
        _ if hours < 24.0 * 730.0 => format!("{:.0} days", hours / 24.0),
        _ => "years".to_string(),
    }
}

/// A capital at the start and a full stop at the end.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', '?', '!']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

#[cfg(test)]
mod tests;
