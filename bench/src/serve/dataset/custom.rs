//! The `custom` dataset: the user's own prompts, a JSON object a line.
//!
//! `{"prompt": "What is the capital of India?", "output_tokens": 10}`, as vLLM reads it;
//! `output_tokens` may be missing when a length is given for all.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::sync::Arc;

use serde::Deserialize;

use super::lines::{BadLines, unreadable};
use super::prompt::PromptPlan;
use super::{Error, Requests, Sample, Source, choose};

/// Prompts from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct Custom {
    /// The file.
    pub source: Source,
    /// Tokens to generate, instead of what each line says.
    pub output_tokens: Option<u32>,
    /// Bytes of text that are about one token.
    pub bytes_per_token: f64,
}

#[derive(Deserialize)]
struct Line {
    prompt: String,
    output_tokens: Option<u32>,
}

const EXAMPLE: &str = r#"{"prompt": "What is the capital of India?", "output_tokens": 10}"#;

/// Tokens of `text`, at least one, where so many bytes are about one token.
pub(super) fn estimate_tokens(text: &str, bytes_per_token: f64) -> u32 {
    ((text.len() as f64 / bytes_per_token).round() as u32).max(1)
}

impl Custom {
    /// `count` prompts.
    pub(super) fn requests(&self, count: usize, seed: u64) -> Result<Requests, Error> {
        let path = &self.source.path;
        let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
        let mut bad = BadLines::new("line");
        let mut found = Vec::new();
        for (number, line) in (1..).zip(file.lines()) {
            let line = line.map_err(unreadable(path))?;
            if line.trim().is_empty() {
                continue;
            }
            match self.sample(&line) {
                Ok(sample) => found.push(sample),
                Err(problem) => bad.add(number, problem),
            }
        }
        let (bad_lines, notes) = bad.judge(&self.source, found.len(), EXAMPLE)?;
        let samples = choose(found, count, &self.source, seed);
        Ok(Requests { samples, bad_lines, notes, due: None })
    }

    fn sample(&self, line: &str) -> Result<Sample, String> {
        let line: Line = serde_json::from_str(line).map_err(|error| error.to_string())?;
        let output_tokens = self
            .output_tokens
            .or(line.output_tokens)
            .ok_or("\"output_tokens\" is missing; add it or set --custom-output-len")?;
        if output_tokens == 0 {
            return Err("\"output_tokens\" is 0, not a number of tokens above 0".to_owned());
        }
        if line.prompt.is_empty() {
            return Err("\"prompt\" is empty".to_owned());
        }
        let tokens = estimate_tokens(&line.prompt, self.bytes_per_token);
        Ok(Sample { prompt: PromptPlan::text(Arc::from(line.prompt), tokens), output_tokens })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn read(text: &[u8], output_tokens: Option<u32>, skip: bool) -> Result<Requests, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let mut source = Source { shuffle: false, ..Source::new(file.path()) };
        source.skip_bad_lines = skip;
        Custom { source, output_tokens, bytes_per_token: 4.0 }.requests(4, 1)
    }

    #[test]
    fn lines_are_prompts_and_come_again_when_they_are_few() {
        let text =
            "{\"prompt\":\"a\\nb\",\"output_tokens\":3}\n\n{\"prompt\":\"c\",\"output_tokens\":5}";
        let requests = read(text.as_bytes(), None, false).unwrap();
        assert_eq!(requests.samples.len(), 4);
        let lengths: Vec<u32> = requests.samples[..2].iter().map(|s| s.output_tokens).collect();
        assert_eq!(lengths, [3, 5]);
        let same = read(text.as_bytes(), Some(9), false).unwrap();
        assert!(same.samples.iter().all(|sample| sample.output_tokens == 9));
    }

    #[test]
    fn bad_lines_say_what_is_missing() {
        for (bad, problem) in [
            ("{\"prompt\":", "line 2: EOF"),
            ("{\"output_tokens\":1}", "line 2: missing field `prompt`"),
            ("{\"prompt\":\"x\"}", "line 2: \"output_tokens\" is missing; add it or set"),
            ("{\"prompt\":\"x\",\"output_tokens\":0}", "line 2: \"output_tokens\" is 0"),
            ("{\"prompt\":\"\",\"output_tokens\":1}", "line 2: \"prompt\" is empty"),
        ] {
            let text = format!("{EXAMPLE}\n{bad}\n");
            let error = read(text.as_bytes(), None, false).unwrap_err().to_string();
            assert!(error.contains(problem), "{error}");
            assert_eq!(read(text.as_bytes(), None, true).unwrap().bad_lines, 1);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&bytes, None, false);
        }
    }
}
