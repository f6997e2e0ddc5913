//! The `burstgpt` dataset: lengths of real requests, and their times if asked for.
//!
//! The file is the CSV of BurstGPT (<https://github.com/HPMLL/BurstGPT>): `Timestamp,Model,Request
//! tokens,Response tokens,Total tokens,Log Type`, times in seconds. As vLLM does, only requests to
//! GPT-4 that were answered are taken, in random order; with times of their own they keep the
//! order of the log.

use std::time::Duration;

use serde::Deserialize;

use super::lines::{BadLines, unreadable};
use super::prompt::{PromptPlan, Run, derive_seed};
use super::{Error, Requests, Sample, Source, choose};

/// Requests of a log.
#[derive(Debug, Clone, PartialEq)]
pub struct BurstGpt {
    /// The file.
    pub source: Source,
    /// Send each request at its recorded time.
    pub self_timed: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
struct Lengths {
    #[serde(rename = "Timestamp")]
    at_s: f64,
    #[serde(rename = "Request tokens")]
    prompt_tokens: u32,
    #[serde(rename = "Response tokens")]
    output_tokens: u32,
}

/// The model that vLLM takes.
const MODEL: &str = "GPT-4";

/// Kind of the seeds of prompts.
const PROMPT: u64 = 12;

const EXAMPLE: &str = "5,GPT-4,472,18,490,Conversation log, under the heads \
                       Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type";

impl BurstGpt {
    /// `count` requests.
    pub(super) fn requests(&self, count: usize, seed: u64) -> Result<Requests, Error> {
        let (mut found, bad_lines, notes) = self.read()?;
        if self.self_timed {
            found.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
            found.truncate(count);
        } else {
            found = choose(found, count, &self.source, seed);
        }
        let start_s = found.first().map_or(0.0, |first| first.at_s);
        let due = |lengths: &Lengths| Duration::from_secs_f64(lengths.at_s - start_s);
        let sample = |(index, lengths): (u64, &Lengths)| Sample {
            prompt: PromptPlan::new(vec![Run {
                seed: derive_seed(seed, PROMPT, index),
                tokens: lengths.prompt_tokens,
            }]),
            output_tokens: lengths.output_tokens,
        };
        Ok(Requests {
            samples: (0..).zip(&found).map(sample).collect(),
            due: self.self_timed.then(|| found.iter().map(due).collect()),
            bad_lines,
            notes,
        })
    }

    fn read(&self) -> Result<(Vec<Lengths>, u64, Vec<String>), Error> {
        let path = &self.source.path;
        let as_io = |error: csv::Error| unreadable(path)(std::io::Error::other(error));
        // Rows of too few fields are bad rows, not the end of the file.
        let mut reader = csv::ReaderBuilder::new().flexible(true).from_path(path).map_err(as_io)?;
        let heads = reader.byte_headers().map_err(as_io)?.clone();
        let model = heads.iter().position(|head| head == b"Model");
        let mut bad = BadLines::new("line");
        let (mut found, mut left_out) = (Vec::new(), 0_u64);
        for row in reader.byte_records() {
            let row = row.map_err(as_io)?;
            let number = row.position().map_or(0, csv::Position::line) as usize;
            match row.deserialize::<Lengths>(Some(&heads)) {
                Err(error) => bad.add(number, cause(&error)),
                Ok(lengths) if Duration::try_from_secs_f64(lengths.at_s).is_err() => {
                    bad.add(number, format!("the time {} is none", lengths.at_s));
                }
                Ok(lengths) => {
                    let wanted = model.is_none_or(|at| row.get(at) == Some(MODEL.as_bytes()));
                    if wanted && lengths.output_tokens > 0 && lengths.prompt_tokens > 0 {
                        found.push(lengths);
                    } else {
                        left_out += 1;
                    }
                }
            }
        }
        if found.is_empty() && left_out > 0 && bad.count() == 0 {
            bad.add(2, format!("no line has the model {MODEL} and tokens"));
        }
        let (bad_lines, mut notes) = bad.judge(&self.source, found.len(), EXAMPLE)?;
        if left_out > 0 {
            notes.push(format!("left out {left_out} lines of other models or without tokens"));
        }
        Ok((found, bad_lines, notes))
    }
}

/// What is wrong with a line, without where it is.
fn cause(error: &csv::Error) -> String {
    match error.kind() {
        csv::ErrorKind::Deserialize { err, .. } => err.to_string(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    const HEADS: &str = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n";

    fn read(text: &[u8], self_timed: bool, skip_bad_lines: bool) -> Result<Requests, Error> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(text).unwrap();
        let mut source = Source::new(file.path());
        source.skip_bad_lines = skip_bad_lines;
        BurstGpt { source, self_timed }.requests(3, 1)
    }

    #[test]
    fn answered_requests_of_one_model_are_taken() {
        let text = format!(
            "{HEADS}5,ChatGPT,1,2,3,Conversation log\n9,GPT-4,40,7,47,Conversation log\n\
             11,GPT-4,5,0,5,API log\n"
        );
        let requests = read(text.as_bytes(), false, false).unwrap();
        assert_eq!(requests.samples.len(), 3, "drawn again");
        assert_eq!(requests.due, None);
        assert_eq!(requests.samples[0].prompt.tokens(), 40);
        assert_eq!(requests.notes, ["left out 2 lines of other models or without tokens"]);
    }

    #[test]
    fn recorded_times_are_kept_in_order() {
        let text = format!("{HEADS}9.5,GPT-4,40,7,47,x\n5,GPT-4,30,6,36,x\n");
        let requests = read(text.as_bytes(), true, false).unwrap();
        let ms: Vec<u128> = requests.due.unwrap().iter().map(Duration::as_millis).collect();
        assert_eq!(ms, [0, 4500]);
        assert_eq!(requests.samples[0].output_tokens, 6);
    }

    #[test]
    fn bad_lines_are_counted_and_explained() {
        let text =
            format!("{HEADS}5,GPT-4,many,7,47,x\n-1,GPT-4,1,1,2,x\n5,GPT-4\n5,GPT-4,1,1,2,x\n");
        let error = read(text.as_bytes(), false, false).unwrap_err().to_string();
        assert!(error.contains("3 bad line(s)") && error.contains("line 2: "), "{error}");
        assert_eq!(read(text.as_bytes(), false, true).unwrap().bad_lines, 3);
        let none = format!("{HEADS}5,ChatGPT,1,2,3,x\n");
        let error = read(none.as_bytes(), false, false).unwrap_err().to_string();
        assert!(error.contains("no line has the model GPT-4"), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = read(&[HEADS.as_bytes(), &bytes].concat(), true, false);
        }
    }
}
