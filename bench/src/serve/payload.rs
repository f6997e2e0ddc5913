//! Request bodies, as vLLM's benchmark client writes them.
//!
//! Fields as in `async_request_openai_completions` and `async_request_openai_chat_completions` of
//! <https://github.com/vllm-project/vllm/blob/main/vllm/benchmarks/lib/endpoint_request_func.py>.
//! Completions carry a made prompt as token ids, so that no tokenizer stands between the dataset and
//! the server; chat has no such form and carries text, and so do prompts that were someone's words.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::dataset::prompt::PromptPlan;
use super::{Backend, Error, Target};

/// What all bodies of a load have in common, written once.
#[derive(Debug, Clone)]
pub(super) struct Template {
    chat: bool,
    /// `{"model":"m","stream":true,...` without the closing brace.
    head: Vec<u8>,
    /// The length is not in `head`, so each body has its own.
    own_length: bool,
}

/// Fields that the measurement depends on.
const RESERVED: [&str; 5] = ["prompt", "messages", "stream", "stream_options", "n"];

impl Template {
    /// The bodies for `target`, whose requests name `model`.
    ///
    /// Fails if the extra body replaces a field that the measurement depends on.
    pub(super) fn new(target: &Target, model: &str) -> Result<Self, Error> {
        if let Some(name) = RESERVED.iter().find(|name| target.extra_body.contains_key(**name)) {
            let problem = format!("{name:?} is set by the dataset and the measurement; leave it");
            return Err(Error::config("--extra-body", problem));
        }
        let chat = target.backend == Backend::OpenAiChat;
        let mut fields = Map::new();
        fields.insert("model".to_owned(), json!(model));
        fields.insert("stream".to_owned(), json!(true));
        fields.insert("stream_options".to_owned(), json!({"include_usage": true}));
        if !chat {
            fields.insert("repetition_penalty".to_owned(), json!(1.0));
            fields.insert("logprobs".to_owned(), Value::Null);
        }
        if target.ignore_eos {
            fields.insert("ignore_eos".to_owned(), json!(true));
        }
        fields.extend(target.extra_body.clone());
        let own_length =
            !["max_tokens", "max_completion_tokens"].iter().any(|name| fields.contains_key(*name));
        let mut head = Value::Object(fields).to_string().into_bytes();
        head.pop();
        Ok(Self { chat, head, own_length })
    }

    /// The body of one request.
    pub(super) fn render(&self, prompt: &PromptPlan, output_tokens: u32) -> Bytes {
        let mut body = Vec::with_capacity(self.head.len() + 160 + prompt.tokens() as usize * 4);
        body.extend_from_slice(&self.head);
        if self.own_length {
            let name = if self.chat { "max_completion_tokens" } else { "max_tokens" };
            body.extend_from_slice(format!(",\"{name}\":{output_tokens}").as_bytes());
        }
        if self.chat {
            body.extend_from_slice(
                br#","messages":[{"role":"user","content":[{"type":"text","text":"#,
            );
            prompt.write_json_string(&mut body);
            body.extend_from_slice(br#"}]}]}"#);
        } else {
            body.extend_from_slice(br#","prompt":"#);
            prompt.write_json(&mut body);
            body.push(b'}');
        }
        body.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::dataset::prompt::Run;
    use pdlab_api::chat::ChatRequest;
    use pdlab_api::completion::CompletionRequest;
    use pdlab_api::openai::Prompt;

    fn render(target: &Target) -> Bytes {
        let prompt = PromptPlan::new(vec![Run { seed: 1, tokens: 20 }]);
        Template::new(target, "m").unwrap().render(&prompt, 7)
    }

    #[test]
    fn completions_carry_token_ids_and_ask_for_usage() {
        let body = render(&Target::new("http://x"));
        let request: CompletionRequest = serde_json::from_slice(&body).unwrap();
        assert!(matches!(request.prompt, Prompt::Tokens(ids) if ids.len() == 20));
        assert_eq!((request.model.as_deref(), request.max_tokens), (Some("m"), Some(7)));
        assert_eq!(request.sampling.stream, Some(true));
        assert_eq!(request.sampling.ignore_eos, Some(true));
        assert_eq!(request.sampling.stream_options.unwrap().include_usage, Some(true));
        let raw: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((&raw["repetition_penalty"], &raw["logprobs"]), (&json!(1.0), &Value::Null));
    }

    #[test]
    fn chats_carry_text() {
        let mut target = Target::new("http://x");
        target.backend = Backend::OpenAiChat;
        target.ignore_eos = false;
        let request: ChatRequest = serde_json::from_slice(&render(&target)).unwrap();
        assert_eq!(request.messages[0].text().unwrap().len(), 20);
        assert_eq!(request.max_completion_tokens, Some(7));
        assert_eq!(request.sampling.ignore_eos, None);
    }

    #[test]
    fn the_extra_body_wins_where_it_may() {
        let mut target = Target::new("http://x");
        target.extra_body = json!({"max_tokens": 3, "top_k": 5}).as_object().unwrap().clone();
        let raw: Value = serde_json::from_slice(&render(&target)).unwrap();
        assert_eq!((&raw["max_tokens"], &raw["top_k"]), (&json!(3), &json!(5)));
        target.extra_body = json!({"stream": false}).as_object().unwrap().clone();
        let error = Template::new(&target, "m").unwrap_err().to_string();
        assert!(error.contains("\"stream\" is set by"), "{error}");
    }
}
