//! The `timed_trace` dataset: requests with their times, from a JSONL file.
//!
//! One line is one request: `{"timestamp": 0, "input_length": 6758, "output_length": 500,
//! "hash_ids": [0, 1, 2]}`. Each hash id stands for a chunk of the prompt, the last chunk may be
//! partial. Equal ids become equal tokens, so requests of the trace share prefixes as they did
//! when it was recorded. vLLM's defaults are kept: chunks of 16 tokens and timestamps in seconds;
//! the traces of Mooncake (<https://github.com/kvcache-ai/Mooncake>) have chunks of 512 tokens and
//! timestamps in milliseconds.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Map, Value};

use super::lines::{BadLines, unreadable};
use super::prompt::{PromptPlan, Run, derive_seed};
use super::{Error, Requests, Sample, Source};

/// How to read a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct TimedTrace {
    /// The file. It keeps its order and is never drawn from twice.
    pub source: Source,
    /// Tokens that a hash id stands for.
    pub chunk_hash_tokens: u32,
    /// Seconds per unit of the timestamps.
    pub sec_multiplier: f64,
    /// What the fields are called.
    pub labels: Labels,
}

/// Names of the fields of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// When the request came.
    pub timestamp: String,
    /// Tokens of its prompt.
    pub input_length: String,
    /// Tokens that it generated.
    pub output_length: String,
    /// The chunks of its prompt.
    pub hash_ids: String,
}

impl Default for Labels {
    fn default() -> Self {
        Self {
            timestamp: "timestamp".to_owned(),
            input_length: "input_length".to_owned(),
            output_length: "output_length".to_owned(),
            hash_ids: "hash_ids".to_owned(),
        }
    }
}

/// One request of a trace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Since the first request of the trace.
    pub due: Duration,
    /// Tokens of the prompt.
    pub input_tokens: u32,
    /// Tokens to generate.
    pub output_tokens: u32,
    /// The chunks of the prompt.
    pub hash_ids: Vec<u64>,
}

/// Kind of the seeds of chunks.
const CHUNK: u64 = 4;

impl TimedTrace {
    /// A trace in vLLM's default units.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            source: Source::new(path),
            chunk_hash_tokens: 16,
            sec_multiplier: 1.0,
            labels: Labels::default(),
        }
    }

    /// The first `count` requests, with their times.
    pub(super) fn requests(&self, count: usize, seed: u64) -> Result<Requests, Error> {
        let (entries, bad_lines, notes) = self.read(count)?;
        Ok(Requests {
            samples: entries.iter().map(|entry| self.sample(entry, seed)).collect(),
            due: Some(entries.iter().map(|entry| entry.due).collect()),
            bad_lines,
            notes,
        })
    }

    /// The first `limit` requests, in the order of their times; with them the number of bad lines
    /// that were skipped and what to say of them. The file is read line by line and not past
    /// them; empty lines are skipped.
    ///
    /// Fails if the file cannot be read, has no request, or any of these lines is bad and not to
    /// be skipped; the error counts the bad lines and explains the first ten.
    pub fn read(&self, limit: usize) -> Result<(Vec<Entry>, u64, Vec<String>), Error> {
        if self.chunk_hash_tokens == 0 {
            return Err(Error::config("--timed-trace-chunk-hash-size", "must be at least 1"));
        }
        if !(self.sec_multiplier > 0.0 && self.sec_multiplier.is_finite()) {
            let problem = format!("{} must be above 0", self.sec_multiplier);
            return Err(Error::config("--timed-trace-sec-multiplier", problem));
        }
        let path = &self.source.path;
        let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
        let mut entries: Vec<(f64, Entry)> = Vec::new();
        let mut bad = BadLines::new("line");
        for (number, line) in (1..).zip(file.lines()) {
            let refused = if self.source.skip_bad_lines { 0 } else { bad.count() };
            if entries.len() + refused == limit {
                break;
            }
            let line = line.map_err(unreadable(path))?;
            match self.entry(&line) {
                _ if line.trim().is_empty() => {}
                Ok(entry) => entries.push(entry),
                Err(problem) => bad.add(number, problem),
            }
        }
        let (bad_lines, notes) = bad.judge(&self.source, entries.len(), &self.example())?;
        entries.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        let start_s = entries[0].0;
        let entries = entries
            .into_iter()
            .map(|(at_s, entry)| Entry { due: Duration::from_secs_f64(at_s - start_s), ..entry })
            .collect();
        Ok((entries, bad_lines, notes))
    }

    /// The request of an entry. Equal seeds and hash ids give equal tokens.
    pub fn sample(&self, entry: &Entry, seed: u64) -> Sample {
        let mut left = entry.input_tokens;
        let runs = entry.hash_ids.iter().map(|&id| {
            let tokens = left.min(self.chunk_hash_tokens);
            left -= tokens;
            Run { seed: derive_seed(seed, CHUNK, id), tokens }
        });
        Sample { prompt: PromptPlan::new(runs.collect()), output_tokens: entry.output_tokens }
    }

    /// The time in seconds and the entry of a line, or what is wrong with it.
    fn entry(&self, line: &str) -> Result<(f64, Entry), String> {
        let fields: Map<String, Value> =
            serde_json::from_str(line).map_err(|error| format!("not a JSON object: {error}"))?;
        let field = |label: &String| fields.get(label).ok_or(format!("{label:?} is missing"));
        let at = field(&self.labels.timestamp)?;
        let at_s = at
            .as_f64()
            .map(|at| at * self.sec_multiplier)
            .filter(|at_s| Duration::try_from_secs_f64(*at_s).is_ok())
            .ok_or_else(|| format!("{:?} is {at}, not a time", self.labels.timestamp))?;
        let tokens = |label: &String| {
            let value = field(label)?;
            let tokens = value.as_u64().and_then(|tokens| u32::try_from(tokens).ok());
            tokens
                .filter(|&tokens| tokens > 0)
                .ok_or_else(|| format!("{label:?} is {value}, not a number of tokens above 0"))
        };
        let input_tokens = tokens(&self.labels.input_length)?;
        let output_tokens = tokens(&self.labels.output_length)?;
        let label = &self.labels.hash_ids;
        let hash_ids = field(label)?
            .as_array()
            .and_then(|ids| ids.iter().map(Value::as_u64).collect::<Option<Vec<u64>>>())
            .ok_or_else(|| format!("{label:?} is not a list of numbers"))?;
        let needed = input_tokens.div_ceil(self.chunk_hash_tokens) as usize;
        if hash_ids.len() != needed {
            return Err(format!(
                "{input_tokens} input tokens are {needed} chunks of {}, but {label:?} has {}; \
                 set --timed-trace-chunk-hash-size (512 for Mooncake's traces)",
                self.chunk_hash_tokens,
                hash_ids.len(),
            ));
        }
        Ok((at_s, Entry { due: Duration::ZERO, input_tokens, output_tokens, hash_ids }))
    }

    fn example(&self) -> String {
        let Labels { timestamp, input_length, output_length, hash_ids } = &self.labels;
        let input_tokens = self.chunk_hash_tokens.saturating_mul(2);
        format!(
            "{{\"{timestamp}\": 0, \"{input_length}\": {input_tokens}, \"{output_length}\": 50, \
             \"{hash_ids}\": [0, 1]}}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(lines: &str, limit: usize) -> Result<Vec<Entry>, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(lines.as_bytes()).unwrap();
        TimedTrace::new(file.path()).read(limit).map(|(entries, ..)| entries)
    }

    fn line(at: f64, input: u32, hash_ids: &[u64]) -> String {
        format!(
            "{{\"timestamp\":{at},\"input_length\":{input},\"output_length\":2,\
             \"hash_ids\":{hash_ids:?}}}\n"
        )
    }

    #[test]
    fn the_first_requests_in_the_order_of_time() {
        let trace = [line(7.5, 1, &[1]), "\n".into(), line(5.0, 17, &[2, 3]), "oops".into()];
        let entries = read(&trace.concat(), 2).unwrap();
        let due: Vec<f64> = entries.iter().map(|entry| entry.due.as_secs_f64()).collect();
        assert_eq!(due, [0.0, 2.5]);
        assert_eq!((entries[0].input_tokens, &entries[0].hash_ids[..]), (17, &[2, 3][..]));
    }

    #[test]
    fn equal_hash_ids_are_equal_tokens() {
        let entries = read(&[line(0.0, 40, &[1, 2, 3]), line(0.0, 36, &[1, 2, 4])].concat(), 9);
        let trace = TimedTrace::new("x");
        let texts = |seed| -> Vec<String> {
            let text = |entry| {
                let mut out = Vec::new();
                trace.sample(entry, seed).prompt.write_text(&mut out);
                String::from_utf8(out).unwrap()
            };
            entries.as_ref().unwrap().iter().map(text).collect()
        };
        let first = texts(1);
        assert_eq!((first[0].len(), first[1].len()), (40, 36));
        assert_eq!(first[0][..32], first[1][..32]);
        assert_ne!(first[0][32..36], first[1][32..36]);
        assert_eq!(first, texts(1));
        assert_ne!(first, texts(2));
    }

    #[test]
    fn bad_lines_are_counted_and_explained() {
        let good = line(0.0, 1, &[1]);
        for (bad, problem) in [
            ("{\"timestamp\":", "line 2: not a JSON object: EOF"),
            ("[1]", "line 2: not a JSON object"),
            ("{\"timestamp\":0}", "line 2: \"input_length\" is missing"),
            (&line(0.0, 0, &[]), "line 2: \"input_length\" is 0, not a number of tokens above 0"),
            (&line(-1.0, 1, &[1]), "line 2: \"timestamp\" is -1, not a time"),
            (&line(0.0, 512, &[1]), "line 2: 512 input tokens are 32 chunks of 16, but"),
            (
                r#"{"timestamp":0,"input_length":1,"output_length":1,"hash_ids":["a"]}"#,
                "line 2: \"hash_ids\" is not a list of numbers",
            ),
        ] {
            let error = read(&format!("{good}{bad}\n{good}"), 10).unwrap_err();
            assert!(error.is_bad_input());
            let text = error.to_string();
            assert!(text.contains(problem), "{text}");
            assert!(text.contains("1 bad line(s)") && text.contains("looks like this"), "{text}");
        }
        let many = read(&"x\n".repeat(30), 20).unwrap_err().to_string();
        assert!(many.contains("20 bad line(s)") && many.contains("line 10:"), "{many}");
        assert!(!many.contains("line 11:"), "{many}");
    }

    #[test]
    fn empty_and_missing_files_are_errors() {
        assert!(read("\n\n", 10).unwrap_err().to_string().contains("no request in the file"));
        let error = TimedTrace::new("/nowhere.jsonl").read(1).unwrap_err().to_string();
        assert!(error.starts_with("cannot read /nowhere.jsonl: "), "{error}");
    }

    #[test]
    fn the_example_is_a_good_line() {
        let example = TimedTrace::new("x").example();
        assert_eq!(read(&example, 1).unwrap().len(), 1);
    }
}
