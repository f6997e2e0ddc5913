//! `POST /v1/chat/completions`: request, response and stream chunk, as vLLM 0.33.

use serde::{Deserialize, Serialize};

use crate::completion::SamplingFields;
use crate::kv_transfer::KvTransferParams;
use crate::openai::Usage;

/// A chat request. Unknown fields are ignored and every field but `messages` may be null.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatRequest {
    /// The served model.
    #[serde(default)]
    pub model: Option<String>,
    /// The conversation so far.
    pub messages: Vec<Message>,
    /// Common parameters.
    #[serde(flatten)]
    pub sampling: SamplingFields,
    /// Older name of `max_completion_tokens`.
    #[serde(default)]
    pub max_tokens: Option<i64>,
    /// Most tokens to generate; null means up to the model's length.
    #[serde(default)]
    pub max_completion_tokens: Option<i64>,
    /// Close the template with the assistant's opening; true if null.
    #[serde(default)]
    pub add_generation_prompt: Option<bool>,
}

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user`, `assistant`, `tool`, ...
    pub role: String,
    /// Text, a list of parts, or null (an assistant message with tool calls only).
    #[serde(default)]
    pub content: Option<Content>,
}

/// A message's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "content must be a string or a list of parts with a type")]
pub enum Content {
    /// Plain text.
    Text(String),
    /// Typed parts; those of type `text` are read.
    Parts(Vec<Part>),
}

/// One part of a message's content.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Part {
    /// `text`, `image_url`, ...
    #[serde(rename = "type")]
    pub kind: String,
    /// The text, for `text`.
    #[serde(default)]
    pub text: Option<String>,
}

impl Message {
    /// The text of the message, or the type of the first part that is not text.
    pub fn text(&self) -> Result<String, String> {
        match &self.content {
            None => Ok(String::new()),
            Some(Content::Text(text)) => Ok(text.clone()),
            Some(Content::Parts(parts)) => parts
                .iter()
                .map(|part| match (part.kind.as_str(), &part.text) {
                    ("text", Some(text)) => Ok(text.as_str()),
                    _ => Err(part.kind.clone()),
                })
                .collect(),
        }
    }
}

/// A whole answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatResponse {
    /// `chatcmpl-<request id>`.
    pub id: String,
    /// `chat.completion`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The served model.
    pub model: String,
    /// One choice.
    pub choices: Vec<ChatChoice>,
    /// Always null.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Always null.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// Always null.
    #[serde(default)]
    pub prompt_logprobs: Option<serde_json::Value>,
    /// The prompt's token ids, when asked for.
    #[serde(default)]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// On prefill, where decode finds the KV; null on decode.
    #[serde(default)]
    pub kv_transfer_params: Option<KvTransferParams>,
}

/// The choice of a [`ChatResponse`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatChoice {
    /// Always 0.
    pub index: u32,
    /// The assistant's answer.
    pub message: ChatAnswer,
    /// Always null.
    #[serde(default)]
    pub logprobs: Option<serde_json::Value>,
    /// `stop`, `length`, `abort` or `error`.
    pub finish_reason: Option<String>,
    /// The stop string or stop token id that was met.
    #[serde(default)]
    pub stop_reason: Option<serde_json::Value>,
    /// Generated token ids, when asked for.
    #[serde(default)]
    pub token_ids: Option<Vec<u32>>,
}

/// The message of a [`ChatChoice`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatAnswer {
    /// `assistant`.
    pub role: String,
    /// The generated text.
    pub content: Option<String>,
    /// Always null.
    pub refusal: Option<String>,
    /// Always null.
    pub annotations: Option<serde_json::Value>,
    /// Always null.
    pub audio: Option<serde_json::Value>,
    /// Always null.
    pub function_call: Option<serde_json::Value>,
    /// Always empty.
    pub tool_calls: Vec<serde_json::Value>,
    /// Always null.
    pub reasoning: Option<String>,
}

/// One server-sent event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ChatChunk {
    /// `chatcmpl-<request id>`.
    pub id: String,
    /// `chat.completion.chunk`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The served model.
    pub model: String,
    /// One choice, or none in the usage chunk.
    pub choices: Vec<ChatChunkChoice>,
    /// In the first chunk, when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// In the usage chunk, or in every chunk when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// In the last chunk on prefill.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<KvTransferParams>,
}

/// The choice of a [`ChatChunk`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ChatChunkChoice {
    /// Always 0.
    pub index: u32,
    /// What is new.
    pub delta: Delta,
    /// Always null.
    pub logprobs: Option<serde_json::Value>,
    /// Set in the last chunk.
    pub finish_reason: Option<String>,
    /// The stop string or stop token id that was met; only in the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_reason: Option<serde_json::Value>,
    /// Token ids since the last chunk, when asked for.
    pub token_ids: Option<Vec<u32>>,
}

/// The part of the message that a chunk adds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Delta {
    /// `assistant`, in the first chunk only.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Text since the last chunk; empty in the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_text_or_parts() {
        let request: ChatRequest = serde_json::from_str(
            r#"{"messages":[{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
                {"role":"assistant","content":null},{"role":"user","content":"c","name":"x"}]}"#,
        )
        .unwrap();
        let texts: Vec<_> = request.messages.iter().map(Message::text).collect();
        assert_eq!(texts, [Ok("ab".to_owned()), Ok(String::new()), Ok("c".to_owned())]);
    }

    #[test]
    fn parts_that_are_not_text_are_named() {
        let message: Message =
            serde_json::from_str(r#"{"role":"user","content":[{"type":"image_url"}]}"#).unwrap();
        assert_eq!(message.text(), Err("image_url".to_owned()));
    }
}
