//! Completions and chat say the same things in different words: this is the difference.

use bytes::Bytes;
use pdlab_api::chat::{ChatAnswer, ChatChoice, ChatChunk, ChatChunkChoice, ChatResponse, Delta};
use pdlab_api::completion::{
    CompletionChoice, CompletionChunk, CompletionChunkChoice, CompletionResponse,
};
use pdlab_api::openai::{PromptTokensDetails, Usage};
use pdlab_api::timings::RequestMetrics;
use serde::Serialize;

use crate::generation::{End, Piece};
use crate::intake::Intake;

/// Which API is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// `/v1/completions`.
    Completion,
    /// `/v1/chat/completions`.
    Chat,
}

/// Writes the answer to one request.
#[derive(Debug)]
pub struct Writer {
    dialect: Dialect,
    id: String,
    created: u64,
    model: String,
    prompt_tokens: u64,
    prompt_token_ids: Option<Vec<u32>>,
    return_token_ids: bool,
    echo: Option<String>,
    include_usage: bool,
    continuous_usage: bool,
    opened: bool,
}

impl Writer {
    /// `id` is the request id with its prefix, `created` Unix time in seconds.
    pub fn new(dialect: Dialect, id: String, created: u64, model: String, intake: &Intake) -> Self {
        Self {
            dialect,
            id,
            created,
            model,
            prompt_tokens: intake.tokens.len() as u64,
            prompt_token_ids: intake.return_token_ids.then(|| intake.tokens.clone()),
            return_token_ids: intake.return_token_ids,
            echo: intake.echo.clone(),
            include_usage: intake.include_usage,
            continuous_usage: intake.continuous_usage,
            opened: false,
        }
    }

    /// The events for one piece of output; `completion_tokens` so far. The last piece brings the
    /// usage, if asked for, and `[DONE]`.
    pub fn events(&mut self, piece: Piece, completion_tokens: u64) -> Bytes {
        let mut out = Vec::with_capacity(512);
        let last = piece.end.is_some();
        let cached = piece.end.as_ref().map_or(0, |end| end.cached_tokens);
        let metrics = piece.end.as_ref().and_then(|end| end.metrics);
        let usage = self.continuous_usage.then(|| self.usage(completion_tokens, 0));
        match self.dialect {
            Dialect::Completion => event(&mut out, &self.completion_chunk(piece, usage)),
            Dialect::Chat => {
                if !self.opened {
                    event(&mut out, &self.chat_opening(self.continuous_usage));
                }
                event(&mut out, &self.chat_chunk(piece, usage));
            }
        }
        self.opened = true;
        if last && self.include_usage {
            let usage = self.usage(completion_tokens, cached);
            match self.dialect {
                Dialect::Completion => {
                    let chunk = self.completion_frame(vec![], Some(usage));
                    event(&mut out, &Measured { chunk, metrics });
                }
                Dialect::Chat => {
                    let chunk = self.chat_frame(vec![], Some(usage));
                    event(&mut out, &Measured { chunk, metrics });
                }
            }
        }
        if last {
            out.extend_from_slice(DONE);
        }
        out.into()
    }

    /// The answer in one go.
    pub fn whole(&self, text: String, token_ids: Vec<u32>, tokens: u64, end: End) -> Bytes {
        let usage = self.usage(tokens, end.cached_tokens);
        let token_ids = self.return_token_ids.then_some(token_ids);
        let finish_reason = Some(end.reason.as_str().to_owned());
        let json = match self.dialect {
            Dialect::Completion => serde_json::to_vec(&CompletionResponse {
                id: self.id.clone(),
                object: "text_completion".into(),
                created: self.created,
                model: self.model.clone(),
                choices: vec![CompletionChoice {
                    text: self.echo.clone().unwrap_or_default() + &text,
                    finish_reason,
                    stop_reason: end.stop_reason,
                    token_ids,
                    prompt_token_ids: self.prompt_token_ids.clone(),
                    ..CompletionChoice::default()
                }],
                service_tier: None,
                system_fingerprint: None,
                usage,
                kv_transfer_params: end.kv,
                ec_transfer_params: None,
                metrics: None,
            }),
            Dialect::Chat => serde_json::to_vec(&ChatResponse {
                id: self.id.clone(),
                object: "chat.completion".into(),
                created: self.created,
                model: self.model.clone(),
                choices: vec![ChatChoice {
                    index: 0,
                    message: ChatAnswer {
                        role: "assistant".into(),
                        content: Some(text),
                        ..ChatAnswer::default()
                    },
                    logprobs: None,
                    finish_reason,
                    stop_reason: end.stop_reason,
                    token_ids,
                }],
                service_tier: None,
                system_fingerprint: None,
                usage,
                prompt_logprobs: None,
                prompt_token_ids: self.prompt_token_ids.clone(),
                kv_transfer_params: end.kv,
            }),
        };
        // Plain structs into memory: there is nothing that can fail.
        json.unwrap_or_default().into()
    }

    fn usage(&self, completion_tokens: u64, cached_tokens: u64) -> Usage {
        let details = (cached_tokens > 0).then_some(PromptTokensDetails { cached_tokens });
        Usage {
            prompt_tokens_details: details,
            ..Usage::new(self.prompt_tokens, completion_tokens)
        }
    }

    fn completion_chunk(&mut self, piece: Piece, usage: Option<Usage>) -> CompletionChunk {
        let text = match self.echo.take() {
            Some(echo) => echo + &piece.text,
            None => piece.text,
        };
        let (finish_reason, stop_reason, kv) = split(piece.end);
        let choice = CompletionChunkChoice {
            text,
            finish_reason,
            stop_reason,
            prompt_token_ids: self.prompt_token_ids.take(),
            token_ids: self.return_token_ids.then_some(piece.token_ids),
            ..CompletionChunkChoice::default()
        };
        CompletionChunk {
            kv_transfer_params: Some(kv),
            ..self.completion_frame(vec![choice], usage)
        }
    }

    fn completion_frame(
        &self,
        choices: Vec<CompletionChunkChoice>,
        usage: Option<Usage>,
    ) -> CompletionChunk {
        CompletionChunk {
            id: self.id.clone(),
            object: "text_completion".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            usage,
            kv_transfer_params: None,
        }
    }

    fn chat_opening(&mut self, with_usage: bool) -> ChatChunk {
        let delta = Delta { role: Some("assistant".into()), content: Some(String::new()) };
        let choice = ChatChunkChoice { delta, ..ChatChunkChoice::default() };
        let usage = with_usage.then(|| self.usage(0, 0));
        ChatChunk {
            prompt_token_ids: self.prompt_token_ids.take(),
            ..self.chat_frame(vec![choice], usage)
        }
    }

    fn chat_chunk(&self, piece: Piece, usage: Option<Usage>) -> ChatChunk {
        let (finish_reason, stop_reason, kv) = split(piece.end);
        let choice = ChatChunkChoice {
            delta: Delta { role: None, content: Some(piece.text) },
            finish_reason,
            stop_reason,
            token_ids: self.return_token_ids.then_some(piece.token_ids),
            ..ChatChunkChoice::default()
        };
        ChatChunk { kv_transfer_params: kv, ..self.chat_frame(vec![choice], usage) }
    }

    fn chat_frame(&self, choices: Vec<ChatChunkChoice>, usage: Option<Usage>) -> ChatChunk {
        ChatChunk {
            id: self.id.clone(),
            object: "chat.completion.chunk".into(),
            created: self.created,
            model: self.model.clone(),
            choices,
            prompt_token_ids: None,
            usage,
            kv_transfer_params: None,
        }
    }
}

/// A chunk with the times of its request, where they are asked for.
#[derive(Serialize)]
struct Measured<T> {
    #[serde(flatten)]
    chunk: T,
    #[serde(skip_serializing_if = "Option::is_none")]
    metrics: Option<RequestMetrics>,
}

/// Ends every stream.
pub const DONE: &[u8] = b"data: [DONE]\n\n";

type EndParts =
    (Option<String>, Option<serde_json::Value>, Option<pdlab_api::kv_transfer::KvTransferParams>);

fn split(end: Option<End>) -> EndParts {
    match end {
        None => (None, None, None),
        Some(end) => (Some(end.reason.as_str().to_owned()), end.stop_reason, end.kv),
    }
}

/// Appends one server-sent event.
pub fn event(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(b"data: ");
    // Writing plain structs to a Vec cannot fail.
    let _ = serde_json::to_writer(&mut *out, value);
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_engine::{FinishReason, KvMode};
    use serde_json::Value;

    fn intake() -> Intake {
        Intake {
            tokens: vec![1, 2, 3],
            max_tokens: 2,
            min_tokens: 0,
            ignore_eos: true,
            stop_token_ids: vec![],
            stops: vec![],
            keep_stop: false,
            stream: true,
            include_usage: true,
            continuous_usage: false,
            return_token_ids: false,
            echo: None,
            kv: KvMode::Local,
            pull: None,
            timings: false,
        }
    }

    fn end() -> End {
        End {
            reason: FinishReason::Length,
            stop_reason: None,
            kv: None,
            cached_tokens: 0,
            metrics: None,
        }
    }

    fn piece(text: &str, end: Option<End>) -> Piece {
        Piece { text: text.into(), token_ids: vec![97], end }
    }

    fn events(dialect: Dialect, intake: &Intake) -> Vec<Value> {
        let mut writer = Writer::new(dialect, "id".into(), 1, "m".into(), intake);
        let mut bytes = writer.events(piece("a", None), 1).to_vec();
        bytes.extend_from_slice(&writer.events(piece("b", Some(end())), 2));
        let text = String::from_utf8(bytes).unwrap();
        assert!(text.ends_with("data: [DONE]\n\n"));
        let events = text.split("\n\n").filter_map(|e| e.strip_prefix("data: "));
        events.filter(|e| *e != "[DONE]").map(|e| serde_json::from_str(e).unwrap()).collect()
    }

    #[test]
    fn a_completion_streams_text_then_usage() {
        let events = events(Dialect::Completion, &intake());
        assert_eq!(events.len(), 3);
        assert_eq!(events[0]["choices"][0]["text"], "a");
        assert!(events[0]["choices"][0]["finish_reason"].is_null());
        assert_eq!(events[1]["choices"][0]["finish_reason"], "length");
        assert_eq!(events[2]["choices"], serde_json::json!([]));
        assert_eq!(events[2]["usage"]["total_tokens"], 5);
        assert!(events[2].get("kv_transfer_params").is_none());
    }

    #[test]
    fn a_chat_opens_with_the_role() {
        let events = events(Dialect::Chat, &intake());
        let delta = |i: usize| events[i]["choices"][0]["delta"].clone();
        assert_eq!(delta(0), serde_json::json!({"role": "assistant", "content": ""}));
        assert_eq!(delta(1), serde_json::json!({"content": "a"}));
        assert_eq!(events[3]["usage"]["completion_tokens"], 2);
    }

    #[test]
    fn times_come_with_the_usage_of_who_asks() {
        let mut writer = Writer::new(Dialect::Chat, "id".into(), 1, "m".into(), &intake());
        let metrics = RequestMetrics { time_to_first_token_ms: 2.5, ..RequestMetrics::default() };
        let last = End { metrics: Some(metrics), ..end() };
        let text = String::from_utf8(writer.events(piece("a", Some(last)), 1).to_vec()).unwrap();
        let told: Vec<&str> = text.split("\n\n").filter(|e| e.contains("\"metrics\"")).collect();
        assert_eq!(told.len(), 1, "{text}");
        let event: Value = serde_json::from_str(told[0].strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(event["metrics"]["time_to_first_token_ms"], 2.5);
        assert_eq!(event["usage"]["completion_tokens"], 1);
        assert!(event["metrics"]["pdlab"]["kv"].is_null());
    }

    #[test]
    fn echo_comes_once() {
        let intake = Intake { echo: Some("P:".into()), include_usage: false, ..intake() };
        let events = events(Dialect::Completion, &intake);
        assert_eq!(events[0]["choices"][0]["text"], "P:a");
        assert_eq!(events[1]["choices"][0]["text"], "b");
    }

    #[test]
    fn a_whole_answer_keeps_its_nulls() {
        let writer = Writer::new(Dialect::Completion, "id".into(), 1, "m".into(), &intake());
        let json: Value =
            serde_json::from_slice(&writer.whole("ab".into(), vec![], 2, end())).unwrap();
        for key in ["system_fingerprint", "kv_transfer_params", "service_tier"] {
            assert!(json.as_object().unwrap().contains_key(key), "{key}");
        }
        assert_eq!(json["usage"]["completion_tokens"], 2);
    }
}
