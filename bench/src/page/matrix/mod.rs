//! A matrix from the text of its file; `view`: its page.

mod view;

use pdlab_leak::explain::fixed;
use pdlab_leak::gauge;
use pdlab_leak::scenario::Scenario;

use super::error::PageError;
use crate::matrix::result::{MatrixResult, Outcome};
use crate::repro::words::counted;

pub(super) use view::render;

/// A matrix as it can be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Matrix {
    /// What it is called: the name of its directory.
    pub name: String,
    /// What was run and what came out.
    pub result: MatrixResult,
    /// The scenario that all cells start from.
    pub scenario: Scenario,
    /// What is missing.
    pub notes: Vec<String>,
}

impl Matrix {
    /// The matrix that `json`, the content of `matrix.json` in the directory `name`, tells of.
    ///
    /// # Errors
    /// If it is none, or only a part of one.
    pub fn parse(name: &str, json: &str) -> Result<Self, PageError> {
        let file = format!("{name}/matrix.json");
        let result: MatrixResult =
            serde_json::from_str(json).map_err(|error| PageError::json(file.clone(), &error))?;
        let scenario = Scenario::parse(&result.definition.scenario_toml, &file)?;
        let waiting = result.cells.iter().filter(|cell| cell.outcome.is_none()).count();
        let waiting = counted(waiting as u64, "cell");
        let note = format!("The matrix has not run to its end: {waiting} without an outcome.");
        let notes = if result.complete { Vec::new() } else { vec![note] };
        Ok(Self { name: name.to_owned(), result, scenario, notes })
    }

    /// What came out, in a sentence: `12 cells: 4 leak, 7 clean, 1 failed.`
    pub fn sentence(&self) -> String {
        let outcomes = [
            Some(Outcome::Leak),
            Some(Outcome::Clean),
            Some(Outcome::Inconclusive),
            Some(Outcome::Failed),
            None,
        ];
        let cells = &self.result.cells;
        let parts: Vec<String> = outcomes
            .into_iter()
            .map(|wanted| (cells.iter().filter(|cell| cell.outcome == wanted).count(), wanted))
            .filter(|(count, _)| *count > 0)
            .map(|(count, wanted)| format!("{count} {}", outcome(wanted).1))
            .collect();
        format!("{}: {}.", counted(cells.len() as u64, "cell"), parts.join(", "))
    }

    fn axes(&self) -> gauge::Axes {
        let definition = &self.result.definition;
        gauge::Axes { gauge: definition.gauge, unit: definition.unit }
    }

    /// The slope that is as hot as can be: the highest, but never one that is nearly clean, since
    /// noise must not look like a fire.
    fn hottest(&self) -> f64 {
        let slopes = self.result.cells.iter().filter_map(|cell| cell.slope_per_unit);
        slopes.fold(10.0 * self.scenario.measure.margin_per_unit, f64::max)
    }

    /// A slope and its interval as text.
    fn slope(&self, value: Option<f64>, low: Option<f64>, high: Option<f64>) -> String {
        let text = |value| fixed(value, self.axes().gauge);
        match (value, low, high) {
            (Some(value), Some(low), Some(high)) => {
                format!("{} ({} to {})", text(value), text(low), text(high))
            }
            (Some(value), ..) => text(value),
            _ => NONE.to_owned(),
        }
    }
}

/// What stands where there is no number.
const NONE: &str = "–";

/// The class and the word of an outcome.
fn outcome(outcome: Option<Outcome>) -> (&'static str, String) {
    let class = match outcome {
        Some(Outcome::Leak) => "leak",
        Some(Outcome::Clean) => "clean",
        Some(Outcome::Inconclusive | Outcome::Failed) | None => "doubt",
    };
    (class, outcome.map_or("not run".to_owned(), |outcome| outcome.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::fixture::{definition, run, ucx};
    use crate::matrix::result::Run;
    use crate::matrix::summary::summarise;

    /// Four cells, one of which has not run.
    fn result() -> MatrixResult {
        let definition = definition(&["1.16.0", "1.19.0"], &["A=1"]);
        let surprise = Run {
            mismatches: vec!["it was to be clean".to_owned()],
            note: Some("see https://example.org/cost.".to_owned()),
            ..run(1, ucx("1.19.0"), "default", Outcome::Leak, 144.0, 11.5)
        };
        let runs = vec![
            run(0, ucx("1.16.0"), "default", Outcome::Clean, 0.1, 10.0),
            surprise,
            run(2, ucx("1.19.0"), "A=1", Outcome::Failed, 0.0, 0.0),
        ];
        MatrixResult { warnings: vec!["UCX knows no A".to_owned()], ..summarise(definition, runs) }
    }

    fn matrix() -> Matrix {
        Matrix::parse("m", &serde_json::to_string(&result()).unwrap()).unwrap()
    }

    #[test]
    fn every_cell_is_in_its_place_with_its_verdict() {
        let matrix = matrix();
        assert_eq!(matrix.sentence(), "4 cells: 1 leak, 1 clean, 1 failed, 1 not run.");
        let page = render(&matrix);
        for words in [
            "4 cells: 1 leak",
            "This matrix is incomplete",
            "1 cell without an outcome",
            "UCX knows no A",
            "What to set",
            "Transport ucx, churn same",
            "<b>144.0</b> <span>leak</span> <span>not as expected</span>",
            "<b>0.1</b> <span>clean</span>",
            "not run",
            "error: no libucp",
            "144.0 (143.5 to 144.5)",
            "11.5 µs",
            "href=\"https://example.org/cost\"",
        ] {
            assert!(page.contains(words), "{words} is not in {page}");
        }
        let row = page.split("<tr>").find(|row| row.contains("<code>A=<wbr>1")).unwrap();
        assert!(row.find("not run") < row.find("failed"), "columns are UCX versions: {row}");
    }

    #[test]
    fn noise_is_no_fire() {
        let mut result = result();
        for cell in &mut result.cells {
            cell.slope_per_unit = cell.slope_per_unit.map(|_| 0.3);
        }
        let matrix = Matrix { result, ..matrix() };
        // The scenario's margin is 4 B per unmap.
        assert_eq!(matrix.hottest(), 40.0);
    }

    #[test]
    fn what_is_no_matrix_is_named() {
        let json = serde_json::to_string(&result()).unwrap();
        let error = |text: &str| Matrix::parse("m", text).unwrap_err().to_string();
        assert!(error(&json[..json.len() / 2]).starts_with("m/matrix.json: it is cut off"));
        assert!(error("{}").contains("missing field"), "{}", error("{}"));
    }
}
