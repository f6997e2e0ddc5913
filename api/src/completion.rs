//! `POST /v1/completions`: request, response and stream chunk, field by field as vLLM 0.33.
//!
//! Responses carry every null field, chunks only those that vLLM sets
//! (<https://github.com/vllm-project/vllm/blob/main/vllm/entrypoints/openai/completion/protocol.py>).

use serde::{Deserialize, Serialize};

use crate::kv_transfer::KvTransferParams;
use crate::openai::{Prompt, Stop, StreamOptions, Usage};

/// A completion request. Unknown fields are ignored and every field but `prompt` may be null.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompletionRequest {
    /// The served model; any worker has just one.
    #[serde(default)]
    pub model: Option<String>,
    /// Text or token ids.
    pub prompt: Prompt,
    /// Common parameters.
    #[serde(flatten)]
    pub sampling: SamplingFields,
    /// Most tokens to generate, 16 if null.
    #[serde(default)]
    pub max_tokens: Option<i64>,
    /// Answer with the prompt before the completion.
    #[serde(default)]
    pub echo: Option<bool>,
}

/// The parameters that completions and chat share.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct SamplingFields {
    /// Fewest tokens to generate before a stop is obeyed.
    pub min_tokens: Option<i64>,
    /// Do not stop at the end-of-sequence token.
    pub ignore_eos: Option<bool>,
    /// Strings that end the text.
    pub stop: Option<Stop>,
    /// Token ids that end the text.
    pub stop_token_ids: Option<Vec<u32>>,
    /// Keep the stop string in the text.
    pub include_stop_str_in_output: Option<bool>,
    /// Choices per prompt; only 1 is simulated.
    pub n: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Options of the stream.
    pub stream_options: Option<StreamOptions>,
    /// The client's own id, used where there is no `X-Request-Id`.
    pub request_id: Option<String>,
    /// Also answer with token ids.
    pub return_token_ids: Option<bool>,
    /// The P/D transfer that this request is part of.
    pub kv_transfer_params: Option<KvTransferParams>,
    /// vLLM's field for what an extension wants to know; see [`timings`](crate::timings).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vllm_xargs: Option<serde_json::Map<String, serde_json::Value>>,
}

/// A whole answer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompletionResponse {
    /// `cmpl-<request id>`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The served model.
    pub model: String,
    /// One choice.
    pub choices: Vec<CompletionChoice>,
    /// Always null.
    #[serde(default)]
    pub service_tier: Option<String>,
    /// Always null.
    #[serde(default)]
    pub system_fingerprint: Option<String>,
    /// Token counts.
    pub usage: Usage,
    /// On prefill, where decode finds the KV; null on decode.
    #[serde(default)]
    pub kv_transfer_params: Option<KvTransferParams>,
    /// Always null.
    #[serde(default)]
    pub ec_transfer_params: Option<serde_json::Value>,
    /// Always null.
    #[serde(default)]
    pub metrics: Option<serde_json::Value>,
}

/// The choice of a [`CompletionResponse`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionChoice {
    /// Index of the prompt.
    pub index: u32,
    /// The generated text.
    pub text: String,
    /// Always null: there are no probabilities in a simulation.
    pub logprobs: Option<serde_json::Value>,
    /// `stop`, `length`, `abort` or `error`.
    pub finish_reason: Option<String>,
    /// The stop string or stop token id that was met.
    pub stop_reason: Option<serde_json::Value>,
    /// Generated token ids, when asked for.
    pub token_ids: Option<Vec<u32>>,
    /// Always null.
    pub prompt_logprobs: Option<serde_json::Value>,
    /// The prompt's token ids, when asked for.
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Always null.
    pub routed_experts: Option<serde_json::Value>,
    /// Always null.
    pub weight_versions: Option<serde_json::Value>,
}

/// One server-sent event.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CompletionChunk {
    /// `cmpl-<request id>`.
    pub id: String,
    /// `text_completion`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// The served model.
    pub model: String,
    /// One choice, or none in the usage chunk.
    pub choices: Vec<CompletionChunkChoice>,
    /// In the usage chunk, or in every chunk when asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// Filled in the last chunk on prefill, otherwise null; absent from the usage chunk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kv_transfer_params: Option<Option<KvTransferParams>>,
}

/// The choice of a [`CompletionChunk`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletionChunkChoice {
    /// Index of the prompt.
    pub index: u32,
    /// The text since the last chunk.
    pub text: String,
    /// Always null.
    pub logprobs: Option<serde_json::Value>,
    /// Set in the last chunk.
    pub finish_reason: Option<String>,
    /// The stop string or stop token id that was met.
    pub stop_reason: Option<serde_json::Value>,
    /// The prompt's token ids, in the first chunk, when asked for.
    pub prompt_token_ids: Option<Vec<u32>>,
    /// Token ids since the last chunk, when asked for.
    pub token_ids: Option<Vec<u32>>,
    /// Always null.
    pub weight_versions: Option<serde_json::Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_fields_and_nulls_are_tolerated() {
        let request: CompletionRequest = serde_json::from_str(
            r#"{"prompt":"a","min_tokens":null,"max_tokens":null,"temperature":0.5,"best_of":null,
                "max_completion_tokens":1,"kv_transfer_params":{"do_remote_decode":true}}"#,
        )
        .unwrap();
        assert_eq!(request.max_tokens, None);
        let kv = request.sampling.kv_transfer_params.unwrap();
        assert_eq!(kv.do_remote_decode, Some(true));
    }

    #[test]
    fn a_missing_prompt_is_named() {
        let error = serde_json::from_str::<CompletionRequest>("{}").unwrap_err();
        assert!(error.to_string().contains("prompt"), "{error}");
    }

    #[test]
    fn chunks_keep_nulls_of_the_choice() {
        let chunk = CompletionChunk {
            id: "cmpl-1".into(),
            object: "text_completion".into(),
            created: 1,
            model: "m".into(),
            choices: vec![CompletionChunkChoice { text: " a".into(), ..Default::default() }],
            usage: None,
            kv_transfer_params: Some(None),
        };
        let json = serde_json::to_string(&chunk).unwrap();
        assert!(json.contains(r#""finish_reason":null,"stop_reason":null"#), "{json}");
        assert!(json.ends_with(r#""kv_transfer_params":null}"#), "{json}");
    }
}
