//! What was found against what is due: every difference, in words.

use super::Expect;
use crate::gauge::Axes;
use crate::verdict::VerdictKind;

/// What a run found, as far as expectations ask for it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Found<'a> {
    /// The verdict.
    pub verdict: VerdictKind,
    /// What the slope is of.
    pub axes: Axes,
    /// The slope; `None` if there was too little to estimate from.
    pub slope: Option<f64>,
    /// Name of the first owner of the growth.
    pub owner: Option<&'a str>,
    /// Share of the growth that owners with a name hold; `None` if nothing grew.
    pub explained_ratio: Option<f64>,
    /// Whether call stacks were traced.
    pub traced: bool,
    /// Id of the known bug that it looks like.
    pub signature: Option<&'a str>,
    /// Largest growth of a role without churn divided by the judged role's; `None` if nothing else was measured.
    pub quiet_growth_ratio: Option<f64>,
    /// CPU time per unit in the last quarter over that in the first; `None` if it was not measured.
    pub cost_growth: Option<f64>,
    /// KV reads that were refused or found corrupt.
    pub refused: u64,
    /// Whether something was still held after the drain.
    pub held_after_drain: bool,
}

impl Expect {
    /// Why `found` is not what is due; empty if it is.
    pub fn mismatches(&self, found: &Found<'_>) -> Vec<String> {
        let mut differences = Vec::new();
        let Some(slope) = found.slope else { return vec!["there is no slope".to_string()] };
        if found.verdict != self.verdict {
            differences.push(format!("the verdict is {}, not {}", found.verdict, self.verdict));
        }
        if !(self.slope_min..=self.slope_max).contains(&slope) {
            differences.push(format!(
                "the slope of {slope:.3} is not within {} to {} {}",
                self.slope_min, self.slope_max, found.axes
            ));
        }
        if let Some(due) = &self.owner
            && found.owner != Some(due)
        {
            let owner = found.owner.unwrap_or("nobody");
            differences.push(format!("the first owner of the growth is {owner}, not {due}"));
        }
        if let (true, Some(min), Some(ratio)) =
            (found.traced, self.explained_ratio_due(), found.explained_ratio)
            && ratio < min
        {
            differences.push(format!(
                "owners with a name hold {:.1} % of the growth, less than {:.1} %",
                100.0 * ratio,
                100.0 * min
            ));
        }
        if let Some(due) = &self.signature
            && found.signature != Some(due)
        {
            let signature = found.signature.unwrap_or("no known bug");
            differences.push(format!("it looks like {signature}, not like {due}"));
        }
        if let (Some(max), Some(ratio)) = (self.quiet_growth_ratio_max, found.quiet_growth_ratio)
            && ratio > max
        {
            differences.push(format!(
                "roles without churn grew by {:.2} % of the judged one, more than {:.2} %",
                100.0 * ratio,
                100.0 * max
            ));
        }
        if let Some(min) = self.cost_growth_min
            && found.cost_growth.is_none_or(|growth| growth < min)
        {
            let growth =
                found.cost_growth.map_or("not known".to_string(), |growth| format!("{growth:.2}x"));
            differences.push(format!(
                "CPU time per {} from the first quarter to the last is {growth}, not {min}x or more",
                found.axes.unit
            ));
        }
        if let Some(min) = self.refused_min
            && found.refused < min
        {
            differences.push(format!(
                "{} KV reads were refused or found corrupt, not {min} or more",
                found.refused
            ));
        }
        if self.held_after_drain && !found.held_after_drain {
            differences.push("everything was given back in the end, and should not".to_string());
        }
        differences
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gauge::Gauge;
    use crate::work::Unit;

    const FOUND: Found<'static> = Found {
        verdict: VerdictKind::Leak,
        axes: Axes { gauge: Gauge::KvBlocks, unit: Unit::Request },
        slope: Some(16.0),
        owner: Some("leases"),
        explained_ratio: Some(0.97),
        traced: true,
        signature: Some("vllm#41269"),
        quiet_growth_ratio: Some(0.004),
        cost_growth: Some(3.0),
        refused: 7,
        held_after_drain: true,
    };

    fn strict() -> Expect {
        Expect {
            owner: Some("leases".to_string()),
            signature: Some("vllm#41269".to_string()),
            quiet_growth_ratio_max: Some(0.01),
            cost_growth_min: Some(2.0),
            refused_min: Some(5),
            held_after_drain: true,
            ..Expect::new(VerdictKind::Leak, 15.5, 16.5)
        }
    }

    #[test]
    fn what_is_due_has_no_mismatch() {
        assert_eq!(strict().mismatches(&FOUND), [""; 0]);
        let alone = Found { quiet_growth_ratio: None, ..FOUND };
        assert_eq!(strict().mismatches(&alone), [""; 0], "nothing else was measured");
        let untraced = Found { explained_ratio: Some(0.5), traced: false, ..FOUND };
        assert_eq!(strict().mismatches(&untraced), [""; 0], "without stacks nothing is promised");
        let lenient = Expect::new(VerdictKind::Leak, 15.5, 16.5);
        let other = Found { owner: None, signature: None, cost_growth: None, refused: 0, ..FOUND };
        assert_eq!(lenient.mismatches(&other), [""; 0], "what is not asked does not matter");
    }

    #[test]
    fn every_difference_is_named() {
        let cases = [
            (Found { verdict: VerdictKind::Clean, ..FOUND }, "the verdict is clean, not leak"),
            (
                Found { slope: Some(12.0), ..FOUND },
                "12.000 is not within 15.5 to 16.5 KV blocks per request",
            ),
            (Found { slope: Some(f64::NAN), ..FOUND }, "slope of NaN"),
            (Found { slope: None, ..FOUND }, "no slope"),
            (Found { owner: Some("heap"), ..FOUND }, "is heap, not leases"),
            (Found { owner: None, ..FOUND }, "is nobody, not leases"),
            (Found { explained_ratio: Some(0.94), ..FOUND }, "hold 94.0 % of the growth"),
            (Found { signature: None, ..FOUND }, "like no known bug, not like vllm#41269"),
            (Found { quiet_growth_ratio: Some(0.02), ..FOUND }, "grew by 2.00 %"),
            (Found { cost_growth: Some(1.5), ..FOUND }, "is 1.50x, not 2x or more"),
            (Found { cost_growth: None, ..FOUND }, "is not known"),
            (Found { refused: 4, ..FOUND }, "4 KV reads were refused"),
            (Found { held_after_drain: false, ..FOUND }, "everything was given back"),
        ];
        for (found, words) in cases {
            let told = strict().mismatches(&found);
            assert_eq!(told.len(), 1, "{told:?}");
            assert!(told[0].contains(words), "{told:?}");
        }
    }
}
