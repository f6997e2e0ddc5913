//! The `sharegpt` dataset: the first question of a conversation, and an answer as long as its own.
//!
//! The file is a JSON list of `{"conversations": [{"value": "..."}, {"value": "..."}]}`. vLLM's
//! rules are kept (`ShareGPTDataset` and `is_valid_sequence` in
//! <https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/datasets/datasets.py>):
//! conversations of fewer than two turns are left out, and so are prompts or answers that are too
//! short or too long.

use std::fs::File;
use std::io::BufReader;
use std::sync::Arc;

use serde::Deserialize;
use serde::de::IgnoredAny;

use super::lines::{BadLines, unreadable};
use super::prompt::PromptPlan;
use super::{Error, Requests, Sample, Source, choose};

/// Conversations from a file.
#[derive(Debug, Clone, PartialEq)]
pub struct ShareGpt {
    /// The file.
    pub source: Source,
    /// Tokens to generate, instead of the length of the recorded answer.
    pub output_tokens: Option<u32>,
    /// Bytes of text that are about one token.
    pub bytes_per_token: f64,
}

/// Bytes of English text per token of today's tokenizers, roughly
/// (<https://help.openai.com/en/articles/4936856>: "1 token is about 4 characters").
pub const BYTES_PER_TOKEN: f64 = 4.0;

/// Prompts and answers of fewer tokens are left out.
const SHORTEST: u32 = 4;
/// Longer prompts are left out.
const LONGEST_PROMPT: u32 = 1024;
/// Longer conversations are left out.
const LONGEST: u32 = 2048;

#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Good { conversations: Vec<Turn> },
    Bad(IgnoredAny),
}

#[derive(Deserialize)]
struct Turn {
    value: String,
}

const EXAMPLE: &str = r#"{"conversations": [{"value": "A question"}, {"value": "An answer"}]}"#;

impl ShareGpt {
    /// The conversations of `source`, with their own lengths.
    pub fn new(source: Source) -> Self {
        Self { source, output_tokens: None, bytes_per_token: BYTES_PER_TOKEN }
    }

    /// `count` first turns.
    pub(super) fn requests(&self, count: usize, seed: u64) -> Result<Requests, Error> {
        let path = &self.source.path;
        let file = BufReader::new(File::open(path).map_err(unreadable(path))?);
        let entries: Vec<Entry> = serde_json::from_reader(file).map_err(|error| {
            let first = vec![format!("  not a JSON list: {error}"), format!("  e.g. [{EXAMPLE}]")];
            Error::Dataset { path: path.clone(), bad: 1, first }
        })?;
        let mut bad = BadLines::new("entry");
        let (mut found, mut unfit) = (Vec::new(), 0_u64);
        for (number, entry) in (1..).zip(entries) {
            match entry {
                Entry::Good { conversations } => match self.sample(&conversations) {
                    Some(sample) => found.push(sample),
                    None => unfit += 1,
                },
                Entry::Bad(_) => {
                    bad.add(number, "no list \"conversations\" of turns with a \"value\"")
                }
            }
        }
        if found.is_empty() && unfit > 0 && bad.count() == 0 {
            bad.add(1, "every conversation is too short or too long");
        }
        let (bad_lines, mut notes) = bad.judge(&self.source, found.len(), EXAMPLE)?;
        if unfit > 0 {
            notes.push(format!("left out {unfit} conversations that are too short or too long"));
        }
        let samples = choose(found, count, &self.source, seed);
        Ok(Requests { samples, bad_lines, notes, due: None })
    }

    /// The request of a conversation, if it is one that vLLM would send.
    fn sample(&self, turns: &[Turn]) -> Option<Sample> {
        let [question, answer, ..] = turns else { return None };
        let tokens = |text: &str| super::custom::estimate_tokens(text, self.bytes_per_token);
        let prompt_tokens = tokens(&question.value);
        let output_tokens = self.output_tokens.unwrap_or_else(|| tokens(&answer.value));
        let long_enough = prompt_tokens >= SHORTEST
            && (self.output_tokens.is_some() || output_tokens >= SHORTEST);
        let short_enough = prompt_tokens <= LONGEST_PROMPT
            && prompt_tokens.saturating_add(output_tokens) <= LONGEST;
        (long_enough && short_enough).then(|| Sample {
            prompt: PromptPlan::text(Arc::from(question.value.as_str()), prompt_tokens),
            output_tokens,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(text: &str, change: fn(&mut ShareGpt)) -> Result<Requests, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text.as_bytes()).unwrap();
        let source = Source { shuffle: false, oversample: false, ..Source::new(file.path()) };
        let mut dataset = ShareGpt::new(source);
        change(&mut dataset);
        dataset.requests(10, 1)
    }

    fn conversation(question: usize, answer: usize) -> String {
        let value = |bytes| "x".repeat(bytes);
        format!(
            r#"{{"id":"a","conversations":[{{"from":"human","value":"{}"}},{{"from":"gpt","value":"{}"}}]}}"#,
            value(question),
            value(answer)
        )
    }

    #[test]
    fn the_first_turn_is_asked_and_the_second_gives_the_length() {
        let text = format!("[{},{}]", conversation(40, 80), conversation(3, 80));
        let requests = read(&text, |_| ()).unwrap();
        assert_eq!(requests.samples.len(), 1, "a prompt of three bytes is too short");
        assert_eq!(
            (requests.samples[0].prompt.tokens(), requests.samples[0].output_tokens),
            (10, 20)
        );
        assert_eq!(requests.notes, ["left out 1 conversations that are too short or too long"]);
        let requests = read(&text, |d| d.bytes_per_token = 1.0).unwrap();
        assert_eq!(requests.samples[0].prompt.tokens(), 40);
        assert_eq!(read(&text, |d| d.output_tokens = Some(1)).unwrap().samples[0].output_tokens, 1);
    }

    #[test]
    fn bounds_are_vllms() {
        let kept = |question: usize, answer: usize| {
            read(&format!("[{}]", conversation(question * 4, answer * 4)), |_| ()).is_ok()
        };
        assert!(kept(4, 4) && kept(1024, 1024));
        assert!(!kept(1025, 4) && !kept(1024, 1025) && !kept(3, 9) && !kept(9, 3));
    }

    #[test]
    fn bad_entries_are_counted_and_explained() {
        let text =
            format!("[{}, 7, {{\"conversations\":[{{\"from\":\"x\"}}]}}]", conversation(40, 80));
        let error = read(&text, |_| ()).unwrap_err().to_string();
        assert!(error.contains("2 bad line(s)") && error.contains("entry 2: no list"), "{error}");
        let requests = read(&text, |d| d.source.skip_bad_lines = true).unwrap();
        assert_eq!((requests.samples.len(), requests.bad_lines), (1, 2));
        assert!(read("{", |_| ()).unwrap_err().to_string().contains("not a JSON list"));
        assert!(read("[]", |_| ()).unwrap_err().to_string().contains("no request in the file"));
    }
}
