//! From a foreign request to a job: every check that needs no engine, in vLLM's words and limits.

use pdlab_api::chat::ChatRequest;
use pdlab_api::completion::{CompletionRequest, SamplingFields};
use pdlab_api::error::ErrorBody;
use pdlab_api::kv_transfer::{RemotePrefill, Transfer};
use pdlab_api::openai::{Prompt, Stop, StreamOptions};
use pdlab_api::{timings, tokenizer};
use pdlab_engine::KvMode;

/// `max_tokens` of a completion that does not say; OpenAI's and vLLM's default.
const COMPLETION_MAX_TOKENS: i64 = 16;

/// What the served model allows.
#[derive(Debug, Clone)]
pub struct Limits {
    /// The name that requests must give, if they give one.
    pub model_name: String,
    /// Tokens of prompt and completion together.
    pub max_model_len: usize,
    /// Token ids are below this.
    pub vocab_size: u32,
}

/// A request that passed the checks.
#[derive(Debug, Clone, PartialEq)]
pub struct Intake {
    /// The prompt.
    pub tokens: Vec<u32>,
    /// Output tokens, at least 1, capped by the model's length.
    pub max_tokens: usize,
    /// No stop before this many output tokens.
    pub min_tokens: usize,
    /// The end-of-sequence token does not end the output.
    pub ignore_eos: bool,
    /// Tokens that do.
    pub stop_token_ids: Vec<u32>,
    /// Strings that do.
    pub stops: Vec<String>,
    /// Leave the stop string in the text.
    pub keep_stop: bool,
    /// Answer as server-sent events.
    pub stream: bool,
    /// One more chunk with the usage.
    pub include_usage: bool,
    /// Usage on every chunk.
    pub continuous_usage: bool,
    /// Answer with token ids too.
    pub return_token_ids: bool,
    /// Text to put before the completion.
    pub echo: Option<String>,
    /// Where KV comes from and goes to.
    pub kv: KvMode,
    /// The remote prefill, when KV comes from one.
    pub pull: Option<RemotePrefill>,
    /// Tell the client where the time went.
    pub timings: bool,
}

/// A request that was refused. A remote prefill may still hold blocks for it.
#[derive(Debug)]
pub struct Refused {
    /// The answer.
    pub error: ErrorBody,
    /// Whom to tell that nobody will read.
    pub pull: Option<Box<RemotePrefill>>,
}

/// Checks a completion.
pub fn completion(request: CompletionRequest, limits: &Limits) -> Result<Intake, Refused> {
    let CompletionRequest { model, prompt, sampling, max_tokens, echo } = request;
    let max_tokens = Some(max_tokens.unwrap_or(COMPLETION_MAX_TOKENS));
    check(model, sampling, max_tokens, limits, || {
        let tokens = prompt_tokens(prompt, limits)?;
        let echo = echo.unwrap_or(false).then(|| tokenizer::decode(&tokens));
        Ok((tokens, echo))
    })
}

/// Checks a chat.
pub fn chat(request: ChatRequest, limits: &Limits) -> Result<Intake, Refused> {
    let max_tokens = request.max_completion_tokens.or(request.max_tokens);
    check(request.model, request.sampling, max_tokens, limits, || {
        if request.messages.is_empty() {
            return Err(bad("messages", "`messages` is empty: send at least one message"));
        }
        let generate = request.add_generation_prompt.unwrap_or(true);
        let tokens = tokenizer::encode_chat(&request.messages, generate).map_err(|part| {
            bad("messages", format!("content parts of type `{part}` are not supported: send text"))
        })?;
        Ok((tokens, None))
    })
}

fn check(
    model: Option<String>,
    sampling: SamplingFields,
    max_tokens: Option<i64>,
    limits: &Limits,
    prompt: impl FnOnce() -> Result<(Vec<u32>, Option<String>), ErrorBody>,
) -> Result<Intake, Refused> {
    let transfer = match sampling.kv_transfer_params.as_ref().map(|params| params.transfer()) {
        None => Ok(Transfer::Local),
        Some(Ok(transfer)) => Ok(transfer),
        Some(Err(error)) => Err(bad("kv_transfer_params", error.to_string())),
    };
    let pull = match &transfer {
        Ok(Transfer::Pull(pull)) => Some(pull.clone()),
        _ => None,
    };
    let accept = || -> Result<Intake, ErrorBody> {
        check_model(model.as_deref(), limits)?;
        let SamplingFields { stream_options, .. } = &sampling;
        let stream = sampling.stream.unwrap_or(false);
        let (include_usage, continuous_usage) = check_stream(stream, stream_options.as_ref())?;
        check_n(sampling.n)?;
        let (tokens, echo) = prompt()?;
        let room = check_length(tokens.len(), limits)?;
        let (max_tokens, min_tokens) = check_tokens(max_tokens, sampling.min_tokens, room)?;
        let kv = match transfer? {
            Transfer::Local => KvMode::Local,
            Transfer::Produce => KvMode::ProduceForRemote,
            Transfer::Pull(pull) => KvMode::FromRemote {
                remote_tokens: pull.num_tokens.map_or(tokens.len(), |n| n as usize),
            },
        };
        Ok(Intake {
            tokens,
            max_tokens,
            min_tokens,
            ignore_eos: sampling.ignore_eos.unwrap_or(false),
            stop_token_ids: sampling.stop_token_ids.unwrap_or_default(),
            stops: sampling.stop.map(Stop::into_vec).unwrap_or_default(),
            keep_stop: sampling.include_stop_str_in_output.unwrap_or(false),
            stream,
            include_usage,
            continuous_usage,
            return_token_ids: sampling.return_token_ids.unwrap_or(false),
            echo,
            kv,
            pull: pull.clone(),
            timings: sampling.vllm_xargs.is_some_and(|xargs| xargs.contains_key(timings::ASK)),
        })
    };
    accept().map_err(|error| Refused { error, pull: pull.clone().map(Box::new) })
}

/// The model must be the served one, if it is named at all.
pub fn check_model(model: Option<&str>, limits: &Limits) -> Result<(), ErrorBody> {
    match model {
        Some(name) if name != limits.model_name && !name.is_empty() => {
            let served = &limits.model_name;
            let message = format!("The model `{name}` does not exist: this server has `{served}`.");
            Err(ErrorBody::not_found(message).with_param("model"))
        }
        _ => Ok(()),
    }
}

fn check_stream(stream: bool, options: Option<&StreamOptions>) -> Result<(bool, bool), ErrorBody> {
    let Some(options) = options else { return Ok((false, false)) };
    if !stream {
        let message = "`stream_options` needs `stream`: set \"stream\": true or leave it out";
        return Err(bad("stream_options", message));
    }
    let usage = options.include_usage.unwrap_or(false);
    Ok((usage, usage && options.continuous_usage_stats.unwrap_or(false)))
}

fn check_n(n: Option<i64>) -> Result<(), ErrorBody> {
    match n {
        None | Some(1) => Ok(()),
        Some(n) => Err(bad(
            "n",
            format!("`n` is {n}: one choice per request is simulated; send {n} requests"),
        )),
    }
}

fn prompt_tokens(prompt: Prompt, limits: &Limits) -> Result<Vec<u32>, ErrorBody> {
    let tokens = match prompt {
        Prompt::Text(text) => tokenizer::encode(&text),
        Prompt::Tokens(tokens) => tokens,
        Prompt::Texts(texts) => tokenizer::encode(&one(texts)?),
        Prompt::TokenLists(lists) => one(lists)?,
    };
    if tokens.is_empty() {
        return Err(bad("prompt", "`prompt` is empty: send at least one token"));
    }
    if let Some(id) = tokens.iter().find(|id| **id >= limits.vocab_size) {
        let size = limits.vocab_size;
        return Err(bad(
            "prompt",
            format!("token id {id} is out of the vocabulary of {size} tokens"),
        ));
    }
    Ok(tokens)
}

fn one<T>(mut prompts: Vec<T>) -> Result<T, ErrorBody> {
    match (prompts.len(), prompts.pop()) {
        (1, Some(prompt)) => Ok(prompt),
        (n, _) => Err(bad(
            "prompt",
            format!("`prompt` holds {n} prompts: one prompt per request is simulated"),
        )),
    }
}

/// How many tokens may follow the prompt.
fn check_length(prompt_tokens: usize, limits: &Limits) -> Result<usize, ErrorBody> {
    let limit = limits.max_model_len;
    limit.checked_sub(prompt_tokens).filter(|room| *room > 0).ok_or_else(|| {
        let message = format!(
            "the prompt has {prompt_tokens} tokens, but prompt and output together may have at most \
             {limit}: shorten the prompt"
        );
        bad("input_tokens", message)
    })
}

fn check_tokens(
    max_tokens: Option<i64>,
    min_tokens: Option<i64>,
    room: usize,
) -> Result<(usize, usize), ErrorBody> {
    let max = match max_tokens {
        None => room,
        Some(n) => match usize::try_from(n) {
            Ok(n) if n > 0 => n,
            _ => {
                return Err(bad("max_tokens", format!("`max_tokens` must be at least 1, got {n}")));
            }
        },
    };
    let min = min_tokens.unwrap_or(0);
    let Ok(min) = usize::try_from(min) else {
        return Err(bad("min_tokens", format!("`min_tokens` must be at least 0, got {min}")));
    };
    if min > max {
        let message = format!("`min_tokens` ({min}) must not exceed `max_tokens` ({max})");
        return Err(bad("min_tokens", message));
    }
    Ok((max.min(room), min.min(room)))
}

fn bad(param: &str, message: impl Into<String>) -> ErrorBody {
    ErrorBody::bad_request(message).with_param(param)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn limits() -> Limits {
        Limits { model_name: "m".into(), max_model_len: 32, vocab_size: 1000 }
    }

    fn take(body: Value) -> Result<Intake, ErrorBody> {
        let request = serde_json::from_value(body).unwrap();
        completion(request, &limits()).map_err(|refused| refused.error)
    }

    fn refused(body: Value) -> (u16, Option<String>, String) {
        let error = take(body).unwrap_err().error;
        (error.code, error.param, error.message)
    }

    #[test]
    fn defaults_are_vllms() {
        let intake = take(json!({"prompt": "hello"})).unwrap();
        assert_eq!((intake.tokens.len(), intake.max_tokens, intake.min_tokens), (5, 16, 0));
        assert_eq!(intake.kv, KvMode::Local);
        let chat = chat(
            serde_json::from_value(json!({"messages": [{"role": "u", "content": "x"}]})).unwrap(),
            &limits(),
        )
        .unwrap();
        assert_eq!(chat.max_tokens, 32 - chat.tokens.len(), "up to the model's length");
    }

    #[test]
    fn too_many_tokens_are_capped_not_refused() {
        assert_eq!(take(json!({"prompt": [1, 2], "max_tokens": 100})).unwrap().max_tokens, 30);
    }

    #[test]
    fn a_prompt_that_leaves_no_room_is_refused() {
        let (code, param, message) = refused(json!({"prompt": vec![1; 32]}));
        assert_eq!((code, param.as_deref()), (400, Some("input_tokens")));
        assert!(message.contains("32 tokens"), "{message}");
    }

    #[test]
    fn bad_values_name_their_field() {
        for (body, param) in [
            (json!({"prompt": "a", "max_tokens": 0}), "max_tokens"),
            (json!({"prompt": "a", "max_tokens": -3}), "max_tokens"),
            (json!({"prompt": "a", "min_tokens": -1}), "min_tokens"),
            (json!({"prompt": "a", "min_tokens": 5, "max_tokens": 2}), "min_tokens"),
            (json!({"prompt": "a", "n": 2}), "n"),
            (json!({"prompt": ["a", "b"]}), "prompt"),
            (json!({"prompt": ""}), "prompt"),
            (json!({"prompt": [1000]}), "prompt"),
            (json!({"prompt": "a", "stream_options": {"include_usage": true}}), "stream_options"),
            (
                json!({"prompt": "a", "kv_transfer_params": {"do_remote_prefill": true}}),
                "kv_transfer_params",
            ),
        ] {
            let (code, named, _) = refused(body.clone());
            assert_eq!((code, named.as_deref()), (400, Some(param)), "{body}");
        }
        assert_eq!(refused(json!({"prompt": "a", "model": "other"})).0, 404);
    }

    #[test]
    fn a_refused_pull_still_names_the_prefill_to_free() {
        let request = serde_json::from_value(json!({"prompt": "a", "n": 7, "kv_transfer_params": {
            "do_remote_prefill": true, "remote_block_ids": [[1]], "remote_engine_id": "e",
            "remote_request_id": "r", "remote_host": "127.0.0.1", "remote_port": 1}}))
        .unwrap();
        let refused = completion(request, &limits()).unwrap_err();
        assert_eq!(refused.pull.unwrap().request_id, "r");
    }
}
