//! What the events of one answer mean: pure, times are given.
//!
//! The rules are those of vLLM's client: in completions every event with a non-empty `choices` is
//! a step, whatever its text; in chat every event with content, reasoning or tool calls is, and
//! the opening event with the role alone is not. The first step ends the TTFT, the gap between
//! two steps is an ITL. An error object makes the request fail, and so does a stream that ends
//! without `[DONE]`.

use std::borrow::Cow;
use std::time::{Duration, Instant};

use pdlab_api::timings::Split;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::Value;

/// An answer as far as it has come.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    chat: bool,
    /// The text is collected only when somebody wants to see it.
    keep_text: bool,
    /// When the first step came.
    pub(super) first_at: Option<Instant>,
    /// When the latest step came.
    pub(super) last_at: Option<Instant>,
    /// Seconds between steps.
    pub(super) itls_s: Vec<f32>,
    /// Tokens of the prompt as the server counts them.
    pub(super) prompt_tokens: Option<u64>,
    /// Tokens generated as the server counts them.
    pub(super) completion_tokens: Option<u64>,
    /// Time in the server's queue, when it says so.
    pub(super) server_queue: Option<Duration>,
    /// TTFT by the server's own clock, when it says so.
    pub(super) server_ttft: Option<Duration>,
    /// What TTFT was made of, when the server says so.
    pub(super) split: Option<Split>,
    /// The generated text, if kept.
    pub(super) text: String,
    /// `[DONE]` has come.
    pub(super) done: bool,
    /// Why the request has failed.
    pub(super) error: Option<String>,
}

#[derive(Deserialize)]
struct Chunk<'a> {
    #[serde(borrow, default)]
    choices: Option<Vec<Choice<'a>>>,
    usage: Option<Usage>,
    metrics: Option<ServerMetrics>,
    error: Option<Value>,
    /// `error` in the flat form of old servers, which has a message beside it.
    object: Option<Cow<'a, str>>,
    message: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
struct Choice<'a> {
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    delta: Option<Delta<'a>>,
}

#[derive(Deserialize)]
struct Delta<'a> {
    role: Option<IgnoredAny>,
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default, alias = "reasoning_content")]
    reasoning: Option<Cow<'a, str>>,
    tool_calls: Option<Vec<IgnoredAny>>,
}

#[derive(Deserialize)]
struct Usage {
    prompt_tokens: Option<u64>,
    completion_tokens: Option<u64>,
}

#[derive(Deserialize)]
struct ServerMetrics {
    time_to_first_token_ms: Option<f64>,
    queue_time_ms: Option<f64>,
    pdlab: Option<Split>,
}

impl Answer {
    /// An answer of which nothing has come.
    pub(super) fn new(chat: bool, keep_text: bool) -> Self {
        Self {
            chat,
            keep_text,
            first_at: None,
            last_at: None,
            itls_s: Vec::new(),
            prompt_tokens: None,
            completion_tokens: None,
            server_queue: None,
            server_ttft: None,
            split: None,
            text: String::new(),
            done: false,
            error: None,
        }
    }

    /// Takes the data of one event that came at `at`. Returns whether it was a step.
    pub(super) fn event(&mut self, data: &[u8], at: Instant) -> bool {
        if self.error.is_some() {
            return false;
        }
        if data == b"[DONE]" {
            self.done = true;
            return false;
        }
        match serde_json::from_slice::<Chunk<'_>>(data) {
            Ok(chunk) => self.chunk(&chunk, at),
            Err(error) => {
                self.error = Some(format!("malformed event: {error}: {}", excerpt(data)));
                false
            }
        }
    }

    /// The stream has ended; `mid_event` if inside an event.
    pub(super) fn end(&mut self, mid_event: bool) {
        if self.error.is_some() {
            return;
        }
        let problem = if !self.done {
            if mid_event {
                "the stream ended inside an event"
            } else {
                "the stream ended without [DONE]"
            }
        } else if self.first_at.is_none() {
            "the stream had no token"
        } else {
            return;
        };
        self.error = Some(problem.to_owned());
    }

    /// Tokens generated: as the server counts, or the steps if it does not.
    pub(super) fn output_tokens(&self) -> u64 {
        let steps = if self.first_at.is_some() { 1 + self.itls_s.len() as u64 } else { 0 };
        self.completion_tokens.unwrap_or(steps)
    }

    fn chunk(&mut self, chunk: &Chunk<'_>, at: Instant) -> bool {
        if let Some(error) = &chunk.error {
            let message = error.get("message").and_then(Value::as_str);
            self.error =
                Some(message.map_or_else(|| format!("server error: {error}"), str::to_owned));
            return false;
        }
        if chunk.object.as_deref() == Some("error") {
            self.error = Some(chunk.message.as_deref().unwrap_or("server error").to_owned());
            return false;
        }
        if let Some(usage) = &chunk.usage {
            self.prompt_tokens = usage.prompt_tokens.or(self.prompt_tokens);
            self.completion_tokens = usage.completion_tokens.or(self.completion_tokens);
        }
        if let Some(metrics) = &chunk.metrics {
            self.server_ttft = metrics.time_to_first_token_ms.and_then(milliseconds);
            self.server_queue = metrics.queue_time_ms.and_then(milliseconds);
            self.split = metrics.pdlab;
        }
        let Some(choice) = chunk.choices.as_ref().and_then(|choices| choices.first()) else {
            return false;
        };
        if self.chat && !choice.delta.as_ref().is_some_and(Delta::is_step) {
            return false;
        }
        if self.keep_text {
            let of_chat = choice.delta.as_ref().and_then(|delta| delta.content.as_deref());
            self.text.push_str(choice.text.as_deref().or(of_chat).unwrap_or_default());
        }
        match self.last_at.replace(at) {
            None => self.first_at = Some(at),
            Some(before) => self.itls_s.push(at.duration_since(before).as_secs_f32()),
        }
        true
    }
}

impl Delta<'_> {
    fn is_step(&self) -> bool {
        let filled = |text: &Option<Cow<'_, str>>| text.as_ref().is_some_and(|t| !t.is_empty());
        filled(&self.content)
            || filled(&self.reasoning)
            || self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty())
            || (self.content.is_some() && self.role.is_none())
    }
}

fn milliseconds(ms: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(ms / 1e3).ok()
}

/// The beginning of something foreign, fit for one line of a message.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    const LONGEST: usize = 120;
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]).trim().to_owned();
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if bytes.len() > LONGEST { text + "…" } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One event each millisecond.
    fn play(chat: bool, events: &[&str]) -> Answer {
        let mut answer = Answer::new(chat, true);
        let start = Instant::now();
        for (i, event) in events.iter().enumerate() {
            answer.event(event.as_bytes(), start + Duration::from_millis(i as u64));
        }
        answer.end(false);
        answer
    }

    #[test]
    fn completions_count_every_choice() {
        let answer = play(
            false,
            &[
                r#"{"choices":[{"index":0,"text":"a"}],"usage":null}"#,
                r#"{"choices":[{"index":0,"text":""}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":4}}"#,
                "[DONE]",
            ],
        );
        assert_eq!(answer.error, None);
        assert_eq!((answer.itls_s.len(), answer.text.as_str()), (1, "a"));
        assert!((answer.itls_s[0] - 1e-3).abs() < 1e-6);
        assert_eq!((answer.prompt_tokens, answer.output_tokens()), (Some(5), 4));
    }

    #[test]
    fn the_opening_of_a_chat_is_no_token() {
        let answer = play(
            true,
            &[
                r#"{"choices":[{"delta":{"role":"assistant","content":""}}]}"#,
                r#"{"choices":[{"delta":{"reasoning":"hm"}}]}"#,
                r#"{"choices":[{"delta":{"content":"a"}}]}"#,
                r#"{"choices":[{"delta":{"content":""},"finish_reason":"stop"}]}"#,
                r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#,
                "[DONE]",
            ],
        );
        assert_eq!((answer.error.as_deref(), answer.output_tokens()), (None, 3));
        assert_eq!(answer.text, "a");
    }

    #[test]
    fn errors_in_the_stream_fail_the_request() {
        for (event, message) in [
            (r#"{"error":{"message":"KV load failed","code":500}}"#, "KV load failed"),
            (r#"{"error":"Unauthorized"}"#, "server error: \"Unauthorized\""),
            (r#"{"object":"error","message":"old","code":400}"#, "old"),
            ("{oops", "malformed event: "),
        ] {
            let answer = play(false, &[r#"{"choices":[{"text":"a"}]}"#, event, "[DONE]"]);
            let error = answer.error.unwrap();
            assert!(error.starts_with(message), "{error}");
        }
    }

    #[test]
    fn an_answer_needs_a_token_and_an_end() {
        assert_eq!(play(false, &["[DONE]"]).error.unwrap(), "the stream had no token");
        let cut = play(false, &[r#"{"choices":[{"text":"a"}]}"#]);
        assert_eq!(cut.error.unwrap(), "the stream ended without [DONE]");
    }

    #[test]
    fn times_of_the_server_are_taken() {
        let event = r#"{"choices":[{"text":"a"}],"metrics":{"time_to_first_token_ms":2.5,"queue_time_ms":1}}"#;
        let answer = play(false, &[event, "[DONE]"]);
        assert_eq!(answer.server_ttft, Some(Duration::from_micros(2500)));
        assert_eq!(answer.server_queue, Some(Duration::from_millis(1)));
    }

    #[test]
    fn excerpts_are_one_line() {
        assert_eq!(excerpt(b"a\nb"), "a b");
        assert!(excerpt(&[b'x'; 200]).ends_with('…'));
    }
}
