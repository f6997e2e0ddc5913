//! What completions and chat share: prompts, stop conditions, usage, model list, tokenize.

use std::fmt;

use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

/// A prompt: text or token ids, alone or as a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Prompt {
    /// One prompt as text.
    Text(String),
    /// One prompt as token ids.
    Tokens(Vec<u32>),
    /// Several prompts as text.
    Texts(Vec<String>),
    /// Several prompts as token ids.
    TokenLists(Vec<Vec<u32>>),
}

impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(PromptVisitor)
    }
}

/// Hand-written rather than `untagged`: prompts are the bulk of a request, and the derived form
/// buffers them once more and answers a mistake with "did not match any variant".
struct PromptVisitor;

#[derive(Deserialize)]
#[serde(untagged, expecting = "token ids must be integers from 0 to 4294967295, lists or strings")]
enum PromptItem {
    Token(u32),
    Text(String),
    Tokens(Vec<u32>),
}

impl<'de> Visitor<'de> for PromptVisitor {
    type Value = Prompt;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a prompt: a string, a list of token ids, or a list of either")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_string<E: de::Error>(self, text: String) -> Result<Prompt, E> {
        Ok(Prompt::Text(text))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Prompt, A::Error> {
        fn rest<'de, T: Deserialize<'de>, A: SeqAccess<'de>>(
            first: T,
            seq: &mut A,
        ) -> Result<Vec<T>, A::Error> {
            let mut all = vec![first];
            while let Some(next) = seq.next_element()? {
                all.push(next);
            }
            Ok(all)
        }
        match seq.next_element()? {
            None => Ok(Prompt::Tokens(Vec::new())),
            Some(PromptItem::Token(id)) => Ok(Prompt::Tokens(rest(id, &mut seq)?)),
            Some(PromptItem::Text(text)) => Ok(Prompt::Texts(rest(text, &mut seq)?)),
            Some(PromptItem::Tokens(ids)) => Ok(Prompt::TokenLists(rest(ids, &mut seq)?)),
        }
    }
}

/// Stop strings: one or several.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged, expecting = "stop must be a string or a list of strings")]
pub enum Stop {
    /// One string.
    One(String),
    /// Several strings; the first one found ends the text.
    Many(Vec<String>),
}

impl Stop {
    /// All strings as a list.
    pub fn into_vec(self) -> Vec<String> {
        match self {
            Stop::One(s) => vec![s],
            Stop::Many(v) => v,
        }
    }
}

/// `stream_options`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamOptions {
    /// Ask for one more chunk with the usage before `[DONE]`.
    pub include_usage: Option<bool>,
    /// Ask for usage on every chunk; needs `include_usage`.
    pub continuous_usage_stats: Option<bool>,
}

/// Token counts of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt_tokens: u64,
    /// Prompt and completion together.
    pub total_tokens: u64,
    /// Tokens generated.
    pub completion_tokens: u64,
    /// How many prompt tokens came from a cache, where known.
    #[serde(default)]
    pub prompt_tokens_details: Option<PromptTokensDetails>,
    /// vLLM's field; always null here.
    #[serde(default)]
    pub completion_tokens_details: Option<serde_json::Value>,
}

impl Usage {
    /// Usage of a request with these counts.
    pub fn new(prompt_tokens: u64, completion_tokens: u64) -> Self {
        Self {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens + completion_tokens,
            ..Self::default()
        }
    }
}

/// Details of [`Usage::prompt_tokens`].
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptTokensDetails {
    /// Prompt tokens that needed no computation.
    pub cached_tokens: u64,
}

/// `GET /v1/models`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelList {
    /// Always `list`.
    pub object: String,
    /// The served models.
    pub data: Vec<ModelCard>,
}

/// One served model.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelCard {
    /// The name that requests give as `model`.
    pub id: String,
    /// Always `model`.
    pub object: String,
    /// Unix time in seconds.
    pub created: u64,
    /// `vllm`, as tools expect.
    pub owned_by: String,
    /// The model preset behind the served name.
    pub root: String,
    /// Always null: there are no adapters.
    pub parent: Option<String>,
    /// Tokens of prompt and completion together.
    pub max_model_len: u64,
    /// vLLM's permission objects; tools only look for the key.
    #[serde(default)]
    pub permission: Vec<serde_json::Value>,
}

/// A name that a model cannot be served under.
#[derive(Debug, thiserror::Error)]
#[error("{problem}; give the name that requests are to send as `model`")]
pub struct BadModelName {
    problem: &'static str,
}

/// A name to serve a model under, if clients can send it and people can read it.
///
/// # Errors
/// [`BadModelName`] for an empty name, which in a request means any model, and for blanks at either
/// end or control characters, which are slips of a shell and never show.
pub fn served_model_name(name: &str) -> Result<String, BadModelName> {
    let problem = if name.trim().is_empty() {
        "it is empty"
    } else if name.trim() != name {
        "it begins or ends with a blank"
    } else if name.contains(char::is_control) {
        "it has a control character in it"
    } else {
        return Ok(name.to_owned());
    };
    Err(BadModelName { problem })
}

/// `POST /tokenize`: either `prompt` or `messages`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct TokenizeRequest {
    /// The served model, or none.
    pub model: Option<String>,
    /// Text to tokenize.
    pub prompt: Option<String>,
    /// A chat to tokenize with the chat template.
    pub messages: Option<Vec<crate::chat::Message>>,
    /// Ask for each token's text too.
    pub return_token_strs: Option<bool>,
    /// With `messages`: end with the assistant's opening, which is the default.
    pub add_generation_prompt: Option<bool>,
}

/// Answer to [`TokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenizeResponse {
    /// Number of tokens.
    pub count: usize,
    /// Tokens of prompt and completion together that the model takes.
    pub max_model_len: u64,
    /// The token ids.
    pub tokens: Vec<u32>,
    /// Each token's text, when asked for.
    pub token_strs: Option<Vec<String>>,
}

/// `POST /detokenize`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DetokenizeRequest {
    /// The served model, or none.
    pub model: Option<String>,
    /// Token ids to turn into text.
    pub tokens: Vec<u32>,
}

/// Answer to [`DetokenizeRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DetokenizeResponse {
    /// The text.
    pub prompt: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(json: &str) -> Result<Prompt, String> {
        serde_json::from_str(json).map_err(|e| e.to_string())
    }

    #[test]
    fn prompts_come_in_four_shapes() {
        assert_eq!(prompt(r#""hi""#), Ok(Prompt::Text("hi".into())));
        assert_eq!(prompt("[1,2]"), Ok(Prompt::Tokens(vec![1, 2])));
        assert_eq!(prompt(r#"["a","b"]"#), Ok(Prompt::Texts(vec!["a".into(), "b".into()])));
        assert_eq!(prompt("[[1],[2,3]]"), Ok(Prompt::TokenLists(vec![vec![1], vec![2, 3]])));
        assert_eq!(prompt("[]"), Ok(Prompt::Tokens(vec![])));
    }

    #[test]
    fn wrong_prompts_say_what_a_prompt_is() {
        assert!(prompt("{}").unwrap_err().contains("a list of token ids"));
        assert!(prompt("[-1]").unwrap_err().contains("token ids must be"));
        assert!(prompt(r#"[1,"a"]"#).is_err());
    }

    #[test]
    fn models_are_served_under_names_that_can_be_sent_and_seen() {
        for good in ["simmodel", "meta-llama/Llama-3.1-8B", "my model", "modèle"] {
            assert_eq!(served_model_name(good).unwrap(), good);
        }
        for (bad, why) in [("", "empty"), (" ", "empty"), ("m\n", "blank"), ("a\0b", "control")] {
            let error = served_model_name(bad).unwrap_err().to_string();
            assert!(error.contains(why) && error.contains("`model`"), "{bad:?}: {error}");
        }
    }

    #[test]
    fn usage_totals() {
        assert_eq!(Usage::new(7, 1).total_tokens, 8);
    }
}
