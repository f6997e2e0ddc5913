//! What varies, and which combinations come of it. Pure.
//!
//! The values of `--set` have a small language of their own, because settings combine in two ways:
//! - `NAME=V1,V2` varies one variable; several `--set` are multiplied with each other.
//! - A comma may also start another variable, `A=1,B=2`: alternatives, not a combination.
//! - `"A=1 B=2"` is one combination.
//! - `default`, alone or as a value, is nothing set. It is always part of the axis, as the first:
//!   what the others are compared with.
//! - A backslash takes the meaning from the character after it: `UCX_TLS=tcp\,self,all`.

use std::collections::BTreeSet;
use std::fmt::Display;

use pdlab_leak::scenario::{Pattern, Scenario, Transport, parse_setting};

use super::result::{Axes, Group, Setting};
use crate::repro::ReproError;

/// A value that is nothing set.
const DEFAULT: &str = "default";

/// Most cells of a matrix. More would run for days, and are a slip of the pen.
const MAX_CELLS: usize = 10_000;

impl Axes {
    /// The axes of options, `scenario` giving those for which there is none.
    ///
    /// # Errors
    /// [`ReproError::Option`] if a value comes twice, or if there are too many cells.
    pub fn new(
        scenario: &Scenario,
        transport: &[Transport],
        ucx: &[String],
        churn: &[Pattern],
        set: &[String],
    ) -> Result<Self, ReproError> {
        let own = scenario.churn.as_ref().map(|churn| churn.pattern);
        if own.is_none() && !churn.is_empty() {
            return Err(ReproError::Option(format!(
                "scenario {} makes no churn, so it has no pattern to vary; drop --churn or take \
                 another scenario",
                scenario.name
            )));
        }
        let axes = Self {
            transport: given_or("--transport", transport, scenario.transport)?,
            ucx: given_or("--ucx", ucx, scenario.ucx.clone())?,
            churn: if churn.is_empty() {
                vec![own]
            } else {
                distinct("--churn", churn)?;
                churn.iter().copied().map(Some).collect()
            },
            set: settings(set)?,
        };
        let cells = axes.cells().len();
        if cells > MAX_CELLS {
            return Err(ReproError::Option(format!(
                "{cells} cells are more than a matrix can have, which is {MAX_CELLS}: give fewer \
                 values"
            )));
        }
        Ok(axes)
    }

    /// The rows, in order: transport, UCX, churn. UCX does not vary where none runs.
    pub fn groups(&self) -> Vec<Group> {
        let mut groups = Vec::new();
        for &transport in &self.transport {
            let builds = self.ucx.iter().cloned().map(Some);
            let builds: Vec<_> = if runs_ucx(transport) { builds.collect() } else { vec![None] };
            for ucx in builds {
                for &churn in &self.churn {
                    groups.push(Group { transport, ucx: ucx.clone(), churn });
                }
            }
        }
        groups
    }

    /// All combinations, in order. Settings that are UCX's alone are left out where none runs:
    /// they would repeat the default.
    pub fn cells(&self) -> Vec<(Group, Setting)> {
        let mut cells = Vec::new();
        for group in self.groups() {
            for set in &self.set {
                let of_ucx = set.set.keys().all(|name| name.starts_with("UCX_"));
                if set.is_default() || runs_ucx(group.transport) || !of_ucx {
                    cells.push((group.clone(), set.clone()));
                }
            }
        }
        cells
    }
}

/// Whether UCX may be opened for this transport.
pub fn runs_ucx(transport: Transport) -> bool {
    matches!(transport, Transport::Ucx | Transport::Auto)
}

/// The settings that `--set` options name, the default first.
///
/// # Errors
/// [`ReproError::Option`] and [`ReproError::Scenario`] with the text that is wrong.
pub fn settings(options: &[String]) -> Result<Vec<Setting>, ReproError> {
    let mut product = vec![Setting::default()];
    let mut taken = BTreeSet::new();
    for option in options {
        let alternatives = alternatives(option)?;
        distinct("--set", &alternatives)?;
        let names: BTreeSet<String> =
            alternatives.iter().flat_map(|setting| setting.set.keys().cloned()).collect();
        if let Some(twice) = names.intersection(&taken).next() {
            return Err(ReproError::Option(format!(
                "{twice} is in two --set, which are multiplied with each other; write \
                 --set {twice}=V1,V2 for its values"
            )));
        }
        taken.extend(names);
        product = product.iter().flat_map(|left| with_each(left, &alternatives)).collect();
    }
    // Where no option lists the default, the product does not have it.
    product.retain(|setting| !setting.is_default());
    product.insert(0, Setting::default());
    Ok(product)
}

fn with_each(left: &Setting, alternatives: &[Setting]) -> Vec<Setting> {
    let join = |right: &Setting| {
        let mut both = left.clone();
        both.set.extend(right.set.clone());
        both
    };
    alternatives.iter().map(join).collect()
}

/// The alternatives of one `--set`.
fn alternatives(option: &str) -> Result<Vec<Setting>, ReproError> {
    // The variable that a value alone belongs to.
    let mut variable: Option<String> = None;
    let mut found = Vec::new();
    for text in split(option, ',') {
        let words: Vec<String> =
            split(&text, ' ').into_iter().filter(|word| !word.is_empty()).collect();
        let mut setting = Setting::default();
        match words.as_slice() {
            [] => {
                return Err(ReproError::Option(format!(
                    "--set {option:?} has an empty value; write {DEFAULT} for nothing set, or \
                     NAME= for an empty variable"
                )));
            }
            [word] if word == DEFAULT => {}
            [value] if !is_assignment(value) => {
                let name = variable.as_ref().ok_or_else(|| {
                    ReproError::Option(format!(
                        "--set {option:?}: which variable is {value:?} a value of? Write \
                         NAME=V1,V2"
                    ))
                })?;
                assign(&mut setting, name, value)?;
            }
            words => {
                for word in words {
                    match word.split_once('=') {
                        Some((name, value)) => assign(&mut setting, name, value)?,
                        // It is none, and this says how one is written.
                        None => drop(parse_setting(word)?),
                    }
                }
                let single = if let [word] = words { word.split_once('=') } else { None };
                variable = single.map(|(name, _)| name.to_owned());
            }
        }
        found.push(setting);
    }
    Ok(found)
}

fn assign(setting: &mut Setting, name: &str, value: &str) -> Result<(), ReproError> {
    let (name, unescaped) = parse_setting(&format!("{name}={}", unescape(value)))?;
    if value != DEFAULT && setting.set.insert(name.clone(), unescaped).is_some() {
        return Err(ReproError::Option(format!("{name} is set twice in one combination")));
    }
    Ok(())
}

/// Whether `word` is `NAME=VALUE`, and no value that happens to have an equals sign.
fn is_assignment(word: &str) -> bool {
    word.split_once('=').is_some_and(|(name, _)| parse_setting(&format!("{name}=")).is_ok())
}

/// The parts of `text` between separators that no backslash precedes. Backslashes stay.
fn split(text: &str, separator: char) -> Vec<String> {
    let mut parts = vec![String::new()];
    let mut escaped = false;
    for c in text.chars() {
        let part = parts.last_mut().expect("there is always one");
        if c == separator && !escaped {
            parts.push(String::new());
        } else {
            part.push(c);
        }
        escaped = c == '\\' && !escaped;
    }
    parts
}

fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        // A backslash at the end is one.
        plain.push(if c == '\\' { chars.next().unwrap_or(c) } else { c });
    }
    plain
}

fn given_or<T: Clone + Display + Ord>(
    option: &str,
    given: &[T],
    own: T,
) -> Result<Vec<T>, ReproError> {
    distinct(option, given)?;
    Ok(if given.is_empty() { vec![own] } else { given.to_vec() })
}

fn distinct<T: Display + Ord>(option: &str, values: &[T]) -> Result<(), ReproError> {
    let mut seen = BTreeSet::new();
    match values.iter().find(|value| !seen.insert(*value)) {
        Some(twice) => Err(ReproError::Option(format!(
            "{option} lists {twice} twice; --repeat runs every cell several times"
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::repro::options::DEFAULT_SCENARIO;
    use proptest::prelude::*;

    fn texts(options: &[&str]) -> Result<Vec<String>, String> {
        let options: Vec<String> = options.iter().map(|option| (*option).to_owned()).collect();
        let settings = settings(&options).map_err(|error| error.to_string())?;
        Ok(settings.iter().map(ToString::to_string).collect())
    }

    fn axes(transport: &[Transport], ucx: &[&str], set: &[&str]) -> Result<Axes, ReproError> {
        let scenario = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let (ucx, set): (Vec<String>, Vec<String>) = (owned(ucx), owned(set));
        Axes::new(&scenario, transport, &ucx, &[], &set)
    }

    #[test]
    fn values_of_one_variable_are_alternatives() {
        assert_eq!(texts(&[]).unwrap(), ["default"]);
        assert_eq!(texts(&["A=1,2"]).unwrap(), ["default", "A=1", "A=2"]);
        assert_eq!(texts(&["A=1,default"]).unwrap(), ["default", "A=1"]);
        assert_eq!(texts(&["default,A=1,B=2,3"]).unwrap(), ["default", "A=1", "B=2", "B=3"]);
        assert_eq!(texts(&["A="]).unwrap(), ["default", "A="]);
    }

    #[test]
    fn options_multiply_and_blanks_combine() {
        assert_eq!(
            texts(&["A=default,1", "B=default,2"]).unwrap(),
            ["default", "B=2", "A=1", "A=1 B=2"]
        );
        assert_eq!(texts(&["A=1", "B=2,3"]).unwrap(), ["default", "A=1 B=2", "A=1 B=3"]);
        assert_eq!(texts(&["A=1 B=2,C=3"]).unwrap(), ["default", "A=1 B=2", "C=3"]);
    }

    #[test]
    fn a_backslash_takes_the_meaning_away() {
        assert_eq!(texts(&[r"T=tcp\,self,all"]).unwrap(), ["default", "T=tcp,self", "T=all"]);
        assert_eq!(texts(&[r"A=x\ y"]).unwrap(), ["default", "A=x y"]);
        assert_eq!(texts(&[r"A=\default"]).unwrap(), ["default", "A=default"]);
        assert_eq!(texts(&[r"A=1,b\=c"]).unwrap(), ["default", "A=1", "A=b=c"]);
        assert_eq!(texts(&[r"A=1\\,2\"]).unwrap(), ["default", r"A=1\", r"A=2\"]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (options, words) in [
            (&["A=1,1"][..], "--set lists A=1 twice"),
            (&["default,A=1,default"], "lists default twice"),
            (&["A=1", "A=2"], "A is in two --set"),
            (&["A=1,"], "empty value"),
            (&[""], "empty value"),
            (&["1,2"], "which variable is \"1\" a value of"),
            (&["A=1 B=2,3"], "which variable is \"3\""),
            (&["A=1 B"], "\"B\" is not a setting"),
            (&["A=1 A=2"], "A is set twice"),
            (&["1A=2"], "which variable"),
        ] {
            let error = texts(options).unwrap_err();
            assert!(error.contains(words), "{options:?}: {error}");
        }
    }

    #[test]
    fn without_options_the_axes_are_the_scenarios() {
        let axes = axes(&[], &[], &[]).unwrap();
        assert_eq!(axes.cells().len(), 1);
        let group = Group {
            transport: Transport::Ucx,
            ucx: Some("1.19.0".into()),
            churn: Some(Pattern::Same),
        };
        assert_eq!(axes.groups(), [group]);
    }

    #[test]
    fn what_no_ucx_reads_is_not_varied_where_none_runs() {
        let both = [Transport::Tcp, Transport::Ucx];
        let axes = axes(&both, &["1.16.0", "1.19.0"], &["UCX_A=1,MALLOC_ARENA_MAX=1"]).unwrap();
        let cells: Vec<String> = axes
            .cells()
            .iter()
            .map(|(group, set)| {
                format!("{} {} {set}", group.transport, group.ucx.as_deref().unwrap_or("-"))
            })
            .collect();
        assert_eq!(
            cells,
            [
                "tcp - default",
                "tcp - MALLOC_ARENA_MAX=1",
                "ucx 1.16.0 default",
                "ucx 1.16.0 UCX_A=1",
                "ucx 1.16.0 MALLOC_ARENA_MAX=1",
                "ucx 1.19.0 default",
                "ucx 1.19.0 UCX_A=1",
                "ucx 1.19.0 MALLOC_ARENA_MAX=1",
            ]
        );
    }

    #[test]
    fn axes_are_checked() {
        let twice = axes(&[], &["1.19.0", "1.16.0", "1.19.0"], &[]).unwrap_err().to_string();
        assert!(twice.contains("--ucx lists 1.19.0 twice"), "{twice}");
        let values: String = (0..200).map(|i| format!("{i},")).collect();
        let set = format!("A={}", values.trim_end_matches(','));
        let many = axes(&[], &[], &[&set, &set.replace('A', "B")]).unwrap_err().to_string();
        assert!(many.contains("more than a matrix can have"), "{many}");
        let mut idle = Scenario::builtin(DEFAULT_SCENARIO).unwrap();
        idle.churn = None;
        let error = Axes::new(&idle, &[], &[], &[Pattern::Same], &[]).unwrap_err().to_string();
        assert!(error.contains("makes no churn"), "{error}");
        assert_eq!(Axes::new(&idle, &[], &[], &[], &[]).unwrap().churn, [None]);
    }

    proptest! {
        #[test]
        fn any_option_is_read_or_refused(options in proptest::collection::vec("[A-C=12, \\\\]{0,12}", 0..3)) {
            if let Ok(settings) = settings(&options) {
                prop_assert!(settings[0].is_default());
                let distinct: BTreeSet<_> = settings.iter().collect();
                prop_assert_eq!(distinct.len(), settings.len(), "{:?}", settings);
            }
        }
    }
}
