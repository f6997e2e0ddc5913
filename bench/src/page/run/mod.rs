//! A run, from the text of its files; `view`: its page. A run that was cut off is one, too: what is there is taken,
//! and what is missing is told.

mod view;

use std::collections::BTreeMap;

use pdlab_leak::csv;
use pdlab_leak::sample::Sample;
use pdlab_leak::scenario::Scenario;
use pdlab_leak::stacks::Stacks;

use super::cures::CureSeries;
use super::error::PageError;
use super::growth::{Growth, Rule};
use crate::repro::STACKS;
use crate::repro::report::RunReport;

pub(super) use view::render;

/// The text of the files of a run; what is not there is `None` or empty.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RunFiles {
    /// What the run is called: the name of its directory.
    pub name: String,
    /// `result.json`.
    pub result: Option<String>,
    /// `samples.csv`.
    pub samples: Option<String>,
    /// `scenario.toml`.
    pub scenario: Option<String>,
    /// `stacks.json`.
    pub stacks: Option<String>,
    /// `mitigations/NAME.csv` by name.
    pub cures: BTreeMap<String, String>,
    /// The last lines of `logs/NAME.log` by name, where there are any.
    pub logs: BTreeMap<String, String>,
}

/// A run as it can be shown.
#[derive(Debug, Clone, PartialEq)]
pub struct Run {
    /// What it is called.
    pub name: String,
    /// What was to be run.
    pub scenario: Scenario,
    /// The file that says so.
    pub scenario_toml: String,
    /// What came out, if it came to that.
    pub report: Option<RunReport>,
    /// Readings of every process.
    pub samples: Vec<Sample>,
    /// Those of the judged process, judged again.
    pub growth: Option<Growth>,
    /// Growth by stack, if it was traced.
    pub stacks: Option<Stacks>,
    /// Readings with each cure.
    pub cures: Vec<CureSeries>,
    /// Last lines of the logs by role.
    pub logs: BTreeMap<String, String>,
    /// What is missing, and what was done about it.
    pub notes: Vec<String>,
}

impl RunFiles {
    /// `file` as errors name it.
    fn path(&self, file: &str) -> String {
        format!("{}/{file}", self.name)
    }
}

impl Run {
    /// The run that `files` tell of.
    ///
    /// # Errors
    /// If a file is not what it should be, other than by being cut off, or nothing was measured.
    pub fn parse(files: &RunFiles) -> Result<Self, PageError> {
        let mut notes = Vec::new();
        let report = parse_result(files, &mut notes)?;
        let text = files.samples.as_deref().unwrap_or_default();
        let samples = parse_samples(files, "samples.csv", text, &mut notes)?;
        if report.is_none() && samples.is_empty() {
            return Err(PageError::Nothing { name: files.name.clone() });
        }
        if samples.is_empty() {
            notes.push("There are no readings in samples.csv: no plots can be drawn.".to_owned());
        }
        let scenario_toml = files.scenario.clone().ok_or_else(|| PageError::File {
            file: files.path("scenario.toml"),
            reason: "it is missing, and without it nobody knows what was measured".to_owned(),
        })?;
        let scenario = Scenario::parse(&scenario_toml, &files.path("scenario.toml"))?;
        let judged = judged(&scenario, report.as_ref(), &samples);
        let growth = judged.and_then(|process| Growth::of(&samples, &process, Rule::of(&scenario)));
        let cures = parse_cures(files, &scenario, growth.as_ref(), &mut notes)?;
        let stacks = parse_stacks(files, &mut notes)?;
        let logs = files.logs.clone();
        let name = files.name.clone();
        let mut run = Self {
            name,
            scenario,
            scenario_toml,
            report,
            samples,
            growth,
            stacks,
            cures,
            logs,
            notes,
        };
        run.notes.extend(run.disagreement());
        Ok(run)
    }

    /// What the readings say, if it is not what the result says: an honest page shows both.
    fn disagreement(&self) -> Option<String> {
        let (report, growth) = (self.report.as_ref()?, self.growth.as_ref()?);
        let (told, seen) = (report.result.verdict, growth.judgement.verdict.kind());
        (told != seen).then(|| {
            format!(
                "result.json says {told}; the readings that are there, judged again, say {seen}."
            )
        })
    }
}

pub(super) fn parse_result(
    files: &RunFiles,
    notes: &mut Vec<String>,
) -> Result<Option<RunReport>, PageError> {
    let Some(text) = &files.result else {
        notes.push(
            "There is no result.json: the run did not come to its end. The verdict is on the \
             readings that are there."
                .to_owned(),
        );
        return Ok(None);
    };
    match serde_json::from_str(text) {
        Ok(report) => Ok(Some(report)),
        Err(error) if error.is_eof() => {
            notes.push(format!(
                "result.json is cut off ({error}). The verdict is on the readings that are there."
            ));
            Ok(None)
        }
        Err(error) => Err(PageError::json(files.path("result.json"), &error)),
    }
}

pub(super) fn parse_stacks(
    files: &RunFiles,
    notes: &mut Vec<String>,
) -> Result<Option<Stacks>, PageError> {
    let Some(text) = &files.stacks else { return Ok(None) };
    match serde_json::from_str(text) {
        Ok(stacks) => Ok(Some(stacks)),
        Err(error) if error.is_eof() => {
            notes.push(format!("{STACKS} is cut off ({error}); growth by stack is left out."));
            Ok(None)
        }
        Err(error) => Err(PageError::json(files.path(STACKS), &error)),
    }
}

/// The samples in `text`. A last line without its end may be half of one, and is left out.
pub(super) fn parse_samples(
    files: &RunFiles,
    file: &str,
    text: &str,
    notes: &mut Vec<String>,
) -> Result<Vec<Sample>, PageError> {
    let whole = text.rfind('\n').map_or(0, |end| end + 1);
    if whole < text.len() {
        let line = text[..whole].lines().count() + 1;
        notes.push(format!("{file} is cut off in line {line}, which is left out."));
    }
    if whole == 0 {
        return Ok(Vec::new());
    }
    csv::read(&text.as_bytes()[..whole])
        .map_err(|error| PageError::File { file: files.path(file), reason: error.to_string() })
}

/// The judged process: the result says which; without one, the first of the judged role.
fn judged(scenario: &Scenario, report: Option<&RunReport>, samples: &[Sample]) -> Option<String> {
    if let Some(role) = report.and_then(|report| report.roles.first()) {
        return Some(role.process.clone());
    }
    let role = scenario.role.name();
    let first = samples.iter().find(|sample| sample.process.starts_with(role))?;
    Some(first.process.clone())
}

/// The readings of the cures, in the order of the scenario.
fn parse_cures(
    files: &RunFiles,
    scenario: &Scenario,
    growth: Option<&Growth>,
    notes: &mut Vec<String>,
) -> Result<Vec<CureSeries>, PageError> {
    let mut series = Vec::new();
    let Some(growth) = growth else { return Ok(series) };
    for cure in &scenario.mitigations {
        let name = crate::repro::file_name(&cure.name);
        let Some(text) = files.cures.get(&name) else { continue };
        let samples = parse_samples(files, &format!("mitigations/{name}.csv"), text, notes)?;
        if let Some(growth) = Growth::of(&samples, &growth.process, Rule::of(scenario)) {
            series.push(CureSeries { setting: cure.setting(), growth });
        }
    }
    Ok(series)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page::fixture::files;
    use pdlab_leak::verdict::VerdictKind;
    use proptest::prelude::*;

    fn error(files: &RunFiles) -> String {
        Run::parse(files).unwrap_err().to_string()
    }

    #[test]
    fn a_whole_run_is_read_without_a_word() {
        let run = Run::parse(&files()).unwrap();
        assert_eq!(run.notes, [""; 0]);
        let growth = run.growth.as_ref().unwrap();
        assert_eq!(growth.process, "decode-0");
        let again = pdlab_leak::explain::verdict(&growth.judgement, growth.axes);
        assert_eq!(run.sentence(), again, "the file and the readings say the same");
        assert_eq!(run.cures.len(), 1);
        assert_eq!(run.cures[0].setting, "UCX_MEM_MMAP_HOOK_MODE=none");
    }

    #[test]
    fn a_run_that_was_cut_off_is_judged_on_what_is_there() {
        let mut cut = files();
        let result = cut.result.take().unwrap();
        let run = Run::parse(&cut).unwrap();
        assert!(run.notes[0].starts_with("There is no result.json"), "{:?}", run.notes);
        assert_eq!(run.verdict(), VerdictKind::Leak);
        assert!(run.sentence().starts_with("LEAK. 144.0 B per unmap"), "{}", run.sentence());

        cut.result = Some(result[..result.len() / 2].to_owned());
        let samples = cut.samples.take().unwrap();
        cut.samples = Some(samples[..samples.len() * 3 / 4].to_owned());
        let run = Run::parse(&cut).unwrap();
        assert!(run.notes[0].starts_with("result.json is cut off"), "{:?}", run.notes);
        assert!(run.notes[1].starts_with("samples.csv is cut off in line 2"), "{:?}", run.notes);
        assert_eq!(run.verdict(), VerdictKind::Leak);
    }

    #[test]
    fn a_result_without_readings_has_a_verdict_and_no_plots() {
        let run = Run::parse(&RunFiles { samples: None, ..files() }).unwrap();
        assert!(run.notes[0].contains("no plots"), "{:?}", run.notes);
        assert_eq!((run.verdict(), run.growth), (VerdictKind::Leak, None));
    }

    #[test]
    fn readings_that_contradict_the_result_are_told() {
        let mut files = files();
        files.result = files.result.map(|json| json.replacen("\"leak\"", "\"clean\"", 1));
        let run = Run::parse(&files).unwrap();
        assert_eq!(run.verdict(), VerdictKind::Clean, "the result is what the run came to");
        assert!(
            run.notes[0]
                .contains("says clean; the readings that are there, judged again, say leak")
        );
    }

    #[test]
    fn what_is_no_run_is_named() {
        let nothing = RunFiles { result: None, samples: None, ..files() };
        assert!(error(&nothing).contains("run-1 holds no measurement"));
        let unknown = RunFiles { scenario: None, ..files() };
        assert!(error(&unknown).starts_with("run-1/scenario.toml: it is missing"));
        let json = RunFiles { result: Some("{\"a\": 1}".to_owned()), ..files() };
        assert!(error(&json).starts_with("run-1/result.json: missing field"), "{}", error(&json));
        let csv = RunFiles { samples: Some("a,b\n1,2\n".to_owned()), ..files() };
        assert!(error(&csv).contains("run-1/samples.csv") && error(&csv).contains("line 1"));
        let toml = files().scenario.unwrap().replace("kv_scale =", "kv_skale =");
        let toml = RunFiles { scenario: Some(toml), ..files() };
        assert!(error(&toml).contains("run-1/scenario.toml, line"), "{}", error(&toml));
    }

    #[test]
    fn a_field_of_a_later_version_is_no_error_and_a_word_of_one_is() {
        let with = |from: &str, to: &str| {
            let result = files().result.map(|json| json.replacen(from, to, 1));
            Run::parse(&RunFiles { result, ..files() })
        };
        assert!(with("{", "{\"later\": [1],").is_ok());
        let error = with("\"leak\"", "\"maybe\"").unwrap_err().to_string();
        assert!(error.contains("maybe") && error.contains("another version"), "{error}");
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]
        #[test]
        fn a_run_cut_anywhere_is_read_or_refused(result in 0.0..1.0f64, samples in 0.0..1.0f64) {
            let cut = |text: Option<String>, share: f64| {
                let text = text.unwrap();
                let length = (share * text.len() as f64) as usize;
                Some(text[..length].to_owned())
            };
            let whole = files();
            let files = RunFiles {
                result: cut(whole.result.clone(), result),
                samples: cut(whole.samples.clone(), samples),
                ..whole
            };
            if let Ok(run) = Run::parse(&files) {
                prop_assert!(!run.notes.is_empty());
            }
        }
    }
}
