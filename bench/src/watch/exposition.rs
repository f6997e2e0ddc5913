//! The text format of Prometheus metrics, as far as counting needs it: names, labels, values. Pure.
//!
//! The format is that of <https://prometheus.io/docs/instrumenting/exposition_formats/>. Parsers that are published as
//! crates drop names with colons, which all of vLLM's have, or split label values at commas. Here a line that is none of
//! the format is left out, so that one odd exporter on the page does not hide the others.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// One line: a value with its name and labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading<'a> {
    /// Name of the metric, colons and the suffixes of histograms included.
    pub name: &'a str,
    /// Labels in the order of the page, escapes undone.
    pub labels: Vec<(&'a str, Cow<'a, str>)>,
    /// The value; may be no number, or infinite.
    pub value: f64,
}

/// The readings of a page, in its order.
pub fn readings(page: &str) -> impl Iterator<Item = Reading<'_>> {
    page.lines().filter_map(reading)
}

fn reading(line: &str) -> Option<Reading<'_>> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let (name, labels, rest) = head(line)?;
    // A time, and with OpenMetrics an exemplar, may follow.
    let value = rest.split_whitespace().next()?;
    // Rust reads "inf" and "nan" in any case, as Go writes them.
    Some(Reading { name, labels, value: value.parse().ok()? })
}

/// Labels as they stand in a line.
type Labels<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// `name` or `name{label="value",...}`, and what follows.
fn head(text: &str) -> Option<(&str, Labels<'_>, &str)> {
    let (name, mut rest) = word(text, |c| c == ':')?;
    rest = rest.trim_start();
    let Some(inside) = rest.strip_prefix('{') else { return Some((name, Vec::new(), rest)) };
    let mut labels = Vec::new();
    rest = inside.trim_start();
    loop {
        if let Some(after) = rest.strip_prefix('}') {
            return Some((name, labels, after));
        }
        let (label, after) = word(rest, |_| false)?;
        let after = after.trim_start().strip_prefix('=')?.trim_start().strip_prefix('"')?;
        let (value, after) = quoted(after)?;
        labels.push((label, value));
        rest = after.trim_start();
        rest = match rest.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if rest.starts_with('}') => rest,
            None => return None,
        };
    }
}

/// A name at the start of `text`, and what follows. `more` are the characters that it may have beside those of a label.
fn word(text: &str, more: impl Fn(char) -> bool) -> Option<(&str, &str)> {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || more(c);
    let end = text.find(|c| !fits(c)).unwrap_or(text.len());
    let starts = text.starts_with(|c: char| !c.is_ascii_digit());
    (end > 0 && starts).then(|| text.split_at(end))
}

/// What stands before the closing quote, escapes undone, and what follows it.
fn quoted(text: &str) -> Option<(Cow<'_, str>, &str)> {
    let end = text.find(['"', '\\'])?;
    if text[end..].starts_with('"') {
        return Some((Cow::Borrowed(&text[..end]), &text[end + 1..]));
    }
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Some((Cow::Owned(value), &text[at + 1..])),
            '\\' => match letters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

/// Which readings are counted: all of a name, or those of them with certain labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selector {
    name: String,
    labels: Vec<(String, String)>,
}

impl FromStr for Selector {
    type Err = String;

    /// Reads `name` or `name{label="value"}`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || {
            format!(
                "\"{text}\" is no counter; write its name, such as vllm:generation_tokens_total, or \
                 name{{label=\"value\"}} for some of its series"
            )
        };
        let (name, labels, rest) = head(text.trim()).ok_or_else(wrong)?;
        if !rest.trim().is_empty() {
            return Err(wrong());
        }
        let owned = |(label, value): (&str, Cow<'_, str>)| (label.to_owned(), value.into_owned());
        Ok(Self { name: name.to_owned(), labels: labels.into_iter().map(owned).collect() })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if self.labels.is_empty() {
            return Ok(());
        }
        let pairs: Vec<String> =
            self.labels.iter().map(|(label, value)| format!("{label}={value:?}")).collect();
        write!(f, "{{{}}}", pairs.join(","))
    }
}

impl Selector {
    /// Whether `reading` is one of those that are counted.
    pub fn takes(&self, reading: &Reading<'_>) -> bool {
        let has = |(label, value): &(String, String)| {
            reading.labels.iter().any(|(known, is)| known == label && is == value)
        };
        reading.name == self.name && self.labels.iter().all(has)
    }

    /// The names of `page` that are most like this one, the likeliest first; at most `most`.
    pub fn nearest(&self, page: &str, most: usize) -> Vec<String> {
        let names: BTreeSet<&str> = readings(page).map(|reading| reading.name).collect();
        let mut names: Vec<&str> = names.into_iter().collect();
        let likeness = |name: &str| {
            let part = name.contains(self.name.as_str()) || self.name.contains(name);
            strsim::jaro_winkler(&self.name, name) + if part { 0.5 } else { 0.0 }
        };
        names.sort_by(|a, b| likeness(b).total_cmp(&likeness(a)));
        names.into_iter().take(most).map(str::to_owned).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As vLLM writes it, with what else the format allows.
    const PAGE: &str = r#"
# HELP vllm:generation_tokens_total Number of generation tokens processed.
# TYPE vllm:generation_tokens_total counter
vllm:generation_tokens_total{engine="0",model_name="meta-llama/Llama-3.1-8B"} 1027.0
vllm:generation_tokens_total{ engine = "1" , model_name = "a,b}\"c\\d\n", } 3e2 1395066363000
process_resident_memory_bytes 1.458255915e9
lag_seconds +Inf
odd{le="0.5"} NaN # {trace_id="x"} 0.3
<html>no metric</html>
broken{engine="0" 7
7name 7
"#;

    fn selected(selector: &str) -> Vec<f64> {
        let selector: Selector = selector.parse().unwrap();
        readings(PAGE).filter(|r| selector.takes(r)).map(|r| r.value).collect()
    }

    #[test]
    fn every_line_of_the_format_is_read_and_no_other() {
        let names: Vec<&str> = readings(PAGE).map(|reading| reading.name).collect();
        let tokens = "vllm:generation_tokens_total";
        assert_eq!(names, [tokens, tokens, "process_resident_memory_bytes", "lag_seconds", "odd"]);
        let escaped = readings(PAGE).nth(1).unwrap();
        assert_eq!(escaped.labels[1], ("model_name", Cow::Borrowed("a,b}\"c\\d\n")));
        assert!(readings(PAGE).nth(3).unwrap().value.is_infinite());
    }

    #[test]
    fn a_counter_is_taken_whole_or_by_label() {
        assert_eq!(selected("vllm:generation_tokens_total"), [1027.0, 300.0]);
        assert_eq!(selected(r#"vllm:generation_tokens_total{engine="1"}"#), [300.0]);
        assert_eq!(selected(r#"vllm:generation_tokens_total{engine="2"}"#), [0.0; 0]);
        assert_eq!(selected("vllm:generation_tokens"), [0.0; 0], "names are whole");
    }

    #[test]
    fn what_is_no_selector_says_what_is() {
        for bad in ["", "7", "a b", "a{", "a{b}", "a{b=\"c\"} 7", "a{b=c}"] {
            let error = bad.parse::<Selector>().unwrap_err();
            assert!(error.contains("vllm:generation_tokens_total"), "{error}");
        }
        let selector: Selector = r#"a{b="c\"d"}"#.parse().unwrap();
        assert_eq!(selector.to_string().parse(), Ok(selector));
    }

    #[test]
    fn a_mistyped_name_finds_its_neighbours() {
        let selector: Selector = "vllm:generation_token_total".parse().unwrap();
        assert_eq!(selector.nearest(PAGE, 1), ["vllm:generation_tokens_total"]);
        let part: Selector = "generation_tokens".parse().unwrap();
        assert_eq!(part.nearest(PAGE, 2)[0], "vllm:generation_tokens_total");
        assert!(part.nearest("", 3).is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_left_out(page in "[a-z:{}=\",\\\\ 0-9.\n\u{e4}-]{0,200}") {
            for reading in readings(&page) {
                prop_assert!(!reading.name.is_empty());
            }
            let _ = page.parse::<Selector>();
        }

        #[test]
        fn a_damaged_page_is_read_or_left_out(at in 0..PAGE.len(), byte in any::<u8>(), cut in 0..PAGE.len()) {
            let mut bytes = PAGE.as_bytes().to_vec();
            bytes[at] = byte;
            bytes.truncate(cut);
            let _ = readings(&String::from_utf8_lossy(&bytes)).count();
        }

        #[test]
        fn what_is_written_is_read_back(
            name in "[a-z_:][a-z0-9_:]{0,20}",
            labels in proptest::collection::vec(("[a-z_][a-z0-9_]{0,8}", any::<String>()), 0..4),
            value in -1e15..1e15f64,
        ) {
            let escape = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            // Line ends of other kinds end a line nowhere in the format, but in Rust.
            prop_assume!(labels.iter().all(|(_, value)| !value.contains('\r')));
            let pairs: Vec<String> = labels.iter().map(|(l, v)| format!("{l}=\"{}\"", escape(v))).collect();
            let line = format!("{name}{{{}}} {value}", pairs.join(","));
            let reading = reading(&line).unwrap();
            prop_assert_eq!(reading.name, name);
            prop_assert_eq!(reading.value, value);
            let read: Vec<(String, String)> =
                reading.labels.into_iter().map(|(l, v)| (l.to_owned(), v.into_owned())).collect();
            prop_assert_eq!(read, labels);
        }
    }
}
