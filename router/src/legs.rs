//! The two legs of a request: pure rewriting of JSON bytes.
//!
//! A prompt can be megabytes, and the router has no business with it. So the body is scanned once
//! for where its top-level members lie, and each leg is spliced from slices of the original bytes:
//! unknown fields, number formats, order and escapes stay as the client wrote them.
//!
//! Where a key appears twice, JSON readers disagree on which one counts. Every occurrence of a key
//! that the router sets is therefore removed before its own is put in front; other duplicates are
//! the worker's to judge.

mod answer;
mod pieces;

use std::fmt;
use std::ops::Range;
use std::sync::LazyLock;

use bytes::Bytes;
use pdlab_api::kv_transfer::KvTransferParams;
use serde::Deserializer as _;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

pub use answer::{AnswerError, opens_with_failure, transfer_params};
pub use pieces::Pieces;

/// What every prefill leg starts with: one token, whole, and the KV kept for a remote reader.
static PREFILL_HEAD: LazyLock<Bytes> = LazyLock::new(|| {
    let params = KvTransferParams::for_prefill();
    format!(r#"{{"kv_transfer_params":{params},"stream":false,"max_tokens":1"#).into()
});

/// A client's body that is a JSON object, with the places of its members.
#[derive(Debug, Clone)]
pub struct ClientBody {
    bytes: Bytes,
    members: Vec<Member>,
}

/// A body that cannot be routed.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// Not JSON, or not an object.
    #[error("the request body must be a JSON object: {0}")]
    NotAnObject(serde_json::Error),
}

#[derive(Debug, Clone)]
struct Member {
    key: Key,
    /// From the key's first quote to the value's last byte.
    span: Range<usize>,
}

/// The keys that a leg may differ in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    KvTransferParams,
    MaxCompletionTokens,
    MaxTokens,
    MinCompletionTokens,
    MinTokens,
    Stream,
    StreamOptions,
    Other,
}

impl ClientBody {
    /// Finds the members of a body. All of it is checked to be JSON.
    pub fn parse(bytes: Bytes) -> Result<Self, BodyError> {
        let mut reader = serde_json::Deserializer::from_slice(&bytes);
        let members = reader
            .deserialize_map(Members { start: bytes.as_ptr() as usize })
            .and_then(|members| reader.end().map(|()| members))
            .map_err(BodyError::NotAnObject)?;
        Ok(Self { bytes, members })
    }

    /// The prefill leg: one token, not streamed, with the six transfer fields that ask prefill to
    /// keep the KV. Limits that one token could not meet are removed, and so is `stream_options`,
    /// which is an error without a stream.
    pub fn prefill_leg(&self) -> Pieces {
        let mut head = vec![PREFILL_HEAD.clone()];
        if self.members.iter().any(|m| m.key == Key::MaxCompletionTokens) {
            head.push(Bytes::from_static(br#","max_completion_tokens":1"#));
        }
        self.splice(head, |key| key != Key::Other)
    }

    /// The decode leg: the client's body with prefill's parameters, verbatim, in place of its own.
    pub fn decode_leg(&self, kv_transfer_params: Bytes) -> Pieces {
        let head = vec![Bytes::from_static(br#"{"kv_transfer_params":"#), kv_transfer_params];
        self.splice(head, |key| key == Key::KvTransferParams)
    }

    /// The head, which opens the object and holds at least one member, then the members that are
    /// not dropped. Neighbours that stay are one slice, with whatever space lies between them.
    fn splice(&self, head: Vec<Bytes>, drop: impl Fn(Key) -> bool) -> Pieces {
        let mut pieces = head;
        let mut kept: Option<Range<usize>> = None;
        let mut close = |run: Option<Range<usize>>| {
            if let Some(run) = run {
                pieces.push(Bytes::from_static(b","));
                pieces.push(self.bytes.slice(run));
            }
        };
        for member in &self.members {
            if drop(member.key) {
                close(kept.take());
            } else {
                let start = kept.map_or(member.span.start, |run| run.start);
                kept = Some(start..member.span.end);
            }
        }
        close(kept);
        pieces.push(Bytes::from_static(b"}"));
        Pieces::new(pieces)
    }
}

impl Key {
    /// From a key as it stands in the text, quotes and escapes included.
    fn from_json(json: &str) -> Result<Self, serde_json::Error> {
        let quoted = json.trim_matches('"');
        if !quoted.contains('\\') {
            return Ok(Key::from_name(quoted));
        }
        serde_json::from_str::<String>(json).map(|name| Key::from_name(&name))
    }

    fn from_name(name: &str) -> Self {
        match name {
            "kv_transfer_params" => Key::KvTransferParams,
            "max_completion_tokens" => Key::MaxCompletionTokens,
            "max_tokens" => Key::MaxTokens,
            "min_completion_tokens" => Key::MinCompletionTokens,
            "min_tokens" => Key::MinTokens,
            "stream" => Key::Stream,
            "stream_options" => Key::StreamOptions,
            _ => Key::Other,
        }
    }
}

/// Notes where members lie. Raw values are slices of the text, so their addresses are places in
/// it.
struct Members {
    /// Address of the text's first byte.
    start: usize,
}

impl<'de> Visitor<'de> for Members {
    type Value = Vec<Member>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Member>, A::Error> {
        let mut members = Vec::with_capacity(16);
        while let Some((key, value)) = map.next_entry::<&'de RawValue, &'de RawValue>()? {
            let (key, value) = (key.get(), value.get());
            let start = key.as_ptr() as usize - self.start;
            let end = value.as_ptr() as usize + value.len() - self.start;
            let key = Key::from_json(key).map_err(serde::de::Error::custom)?;
            members.push(Member { key, span: start..end });
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};

    fn body(text: &str) -> ClientBody {
        ClientBody::parse(Bytes::copy_from_slice(text.as_bytes())).unwrap()
    }

    fn text(pieces: &Pieces) -> String {
        String::from_utf8(pieces.to_bytes().to_vec()).unwrap()
    }

    const SIX: &str = r#"{"do_remote_decode":true,"do_remote_prefill":false,"remote_block_ids":null,"remote_engine_id":null,"remote_host":null,"remote_port":null}"#;

    #[test]
    fn prefill_leg_asks_for_one_token_and_keeps_the_rest() {
        let body = body(
            r#" { "model":"m" , "prompt":[1, 2],"max_tokens":64,"stream":true,
                "stream_options":{"include_usage":true},"temperature":0.10,"min_tokens":3} "#,
        );
        assert_eq!(
            text(&body.prefill_leg()),
            format!(
                r#"{{"kv_transfer_params":{SIX},"stream":false,"max_tokens":1,"model":"m" , "prompt":[1, 2],"temperature":0.10}}"#
            )
        );
    }

    #[test]
    fn max_completion_tokens_is_set_only_where_it_was() {
        let with = text(&body(r#"{"max_completion_tokens":null}"#).prefill_leg());
        assert!(with.contains(r#""max_completion_tokens":1"#), "{with}");
        let without = text(&body(r#"{"prompt":"max_completion_tokens"}"#).prefill_leg());
        assert!(!without.contains(r#""max_completion_tokens":1"#), "{without}");
    }

    #[test]
    fn decode_leg_differs_in_nothing_else() {
        let body = body(r#"{"a":1e400,"kv_transfer_params":null,"prompt":"\u00e9","stream":true}"#);
        assert_eq!(
            text(&body.decode_leg(Bytes::from_static(b"{\"x\":1.50}"))),
            r#"{"kv_transfer_params":{"x":1.50},"a":1e400,"prompt":"\u00e9","stream":true}"#
        );
    }

    #[test]
    fn empty_objects_stay_valid() {
        let body = body("{}");
        assert_eq!(text(&body.decode_leg("1".into())), r#"{"kv_transfer_params":1}"#);
        serde_json::from_str::<Value>(&text(&body.prefill_leg())).unwrap();
    }

    #[test]
    fn duplicates_and_escapes_cannot_smuggle_a_key_past() {
        let body = body(
            r#"{"max_tokens":5,"kv_transfer_params":{"do_remote_prefill":true},"a":1,"a":2,"max\u005ftokens":7,"kv_transfer_params":8}"#,
        );
        let prefill = text(&body.prefill_leg());
        assert_eq!(
            prefill,
            format!(r#"{{"kv_transfer_params":{SIX},"stream":false,"max_tokens":1,"a":1,"a":2}}"#)
        );
        assert_eq!(
            text(&body.decode_leg("9".into())),
            r#"{"kv_transfer_params":9,"max_tokens":5,"a":1,"a":2,"max\u005ftokens":7}"#
        );
    }

    #[test]
    fn what_is_not_an_object_is_refused() {
        for (text, problem) in [
            ("", "EOF"),
            ("{", "EOF"),
            ("[1]", "expected an object"),
            ("\"a\"", "expected an object"),
            ("{} {}", "trailing"),
            ("{\"a\":1,}", "trailing comma"),
            ("{\"a\":nul}", "expected ident"),
            ("{1:2}", "key must be a string"),
        ] {
            let error = ClientBody::parse(text.into()).unwrap_err().to_string();
            assert!(error.contains("must be a JSON object"), "{error}");
            assert!(error.contains(problem), "{text}: {error}");
        }
        assert!(ClientBody::parse(Bytes::from_static(b"{\"a\":\"\xff\"}")).is_err());
    }

    #[test]
    fn deep_nesting_is_survived() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(text(&body(&deep).decode_leg("1".into())).len(), deep.len() + 23);
    }

    /// Any JSON, with keys that are often those that matter.
    fn json_object() -> impl Strategy<Value = Map<String, Value>> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".{0,12}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                prop::collection::btree_map(".{0,6}", inner, 0..4)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        });
        let key = prop_oneof![
            3 => prop::sample::select(vec![
                "kv_transfer_params", "max_tokens", "max_completion_tokens", "min_tokens",
                "min_completion_tokens", "stream", "stream_options", "prompt",
            ])
            .prop_map(str::to_owned),
            2 => ".{0,8}",
        ];
        prop::collection::btree_map(key, value, 0..9).prop_map(|map| map.into_iter().collect())
    }

    proptest! {
        #[test]
        fn decode_leg_is_the_original_but_for_the_parameters(object in json_object(), pretty: bool) {
            let original = if pretty {
                serde_json::to_string_pretty(&object).unwrap()
            } else {
                serde_json::to_string(&object).unwrap()
            };
            let params = json!({"remote_port": 5600, "remote_block_ids": [[1, 2]]});
            let leg = body(&original).decode_leg(params.to_string().into());
            let mut expected = object;
            expected.insert("kv_transfer_params".into(), params);
            prop_assert_eq!(
                serde_json::from_str::<Value>(&text(&leg)).unwrap(),
                serde_json::from_str::<Value>(&Value::Object(expected).to_string()).unwrap()
            );
        }

        #[test]
        fn prefill_leg_follows_the_rules(object in json_object()) {
            let original = Value::Object(object.clone()).to_string();
            let leg = body(&original).prefill_leg();
            let mut expected = object;
            for gone in ["stream_options", "min_tokens", "min_completion_tokens"] {
                expected.remove(gone);
            }
            if expected.contains_key("max_completion_tokens") {
                expected.insert("max_completion_tokens".into(), json!(1));
            }
            expected.insert("max_tokens".into(), json!(1));
            expected.insert("stream".into(), json!(false));
            expected.insert("kv_transfer_params".into(), KvTransferParams::for_prefill());
            prop_assert_eq!(
                serde_json::from_str::<Value>(&text(&leg)).unwrap(),
                serde_json::from_str::<Value>(&Value::Object(expected).to_string()).unwrap()
            );
        }

        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(body) = ClientBody::parse(bytes.into()) {
                body.prefill_leg();
            }
        }
    }
}
