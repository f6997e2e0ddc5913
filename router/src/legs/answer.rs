//! What the router reads of prefill's answer: where the KV is, and nothing else.

use bytes::Bytes;
use pdlab_api::error::ErrorBody;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// Prefill answered something that decode cannot continue from.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// Not JSON, or no object.
    #[error("not a JSON object ({0})")]
    NotAnObject(String),
    /// `kv_transfer_params` is missing or null.
    #[error("no kv_transfer_params; is it started with a KV connector that produces?")]
    NoParameters,
    /// `kv_transfer_params` is there but does not ask decode to fetch anything.
    #[error("kv_transfer_params without do_remote_prefill, so decode would fetch nothing")]
    NothingToFetch,
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    kv_transfer_params: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Direction {
    do_remote_prefill: Option<bool>,
}

/// The `kv_transfer_params` object of prefill's answer, as a slice of it.
pub fn transfer_params(answer: &Bytes) -> Result<Bytes, AnswerError> {
    let not_an_object = |error: serde_json::Error| AnswerError::NotAnObject(error.to_string());
    // A derived struct would also be read from a list.
    if !answer.trim_ascii_start().starts_with(b"{") {
        let problem = match serde_json::from_slice::<IgnoredAny>(answer) {
            Ok(_) => "it is JSON of another kind".to_owned(),
            Err(error) => error.to_string(),
        };
        return Err(AnswerError::NotAnObject(problem));
    }
    let parsed: Answer<'_> = serde_json::from_slice(answer).map_err(not_an_object)?;
    let params = parsed.kv_transfer_params.ok_or(AnswerError::NoParameters)?.get();
    if !params.starts_with('{') {
        return Err(AnswerError::NothingToFetch);
    }
    let direction: Direction =
        serde_json::from_str(params).map_err(|_| AnswerError::NothingToFetch)?;
    if direction.do_remote_prefill != Some(true) {
        return Err(AnswerError::NothingToFetch);
    }
    Ok(answer.slice_ref(params.as_bytes()))
}

/// An event stream opens with an error that is the server's own: nothing was generated, though the
/// status says 200. This is how vLLM reports a failed KV transfer to a streaming client.
pub fn opens_with_failure(first: &[u8]) -> bool {
    let Some(event) = first.strip_prefix(b"data:") else { return false };
    let event = event.trim_ascii_start();
    // Tokens do not start like this, so that they are not parsed.
    if !event.starts_with(br#"{"error""#) {
        return false;
    }
    let end = event.windows(2).position(|two| two == b"\n\n").unwrap_or(event.len());
    serde_json::from_slice::<ErrorBody>(&event[..end]).is_ok_and(|body| body.error.code >= 500)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn parameters_are_taken_verbatim() {
        let answer = Bytes::from_static(
            br#" {"id":"x","kv_transfer_params": {"do_remote_prefill": true,"n":1.0e0,"u":[ ]} ,"z":1}"#,
        );
        let params = transfer_params(&answer).unwrap();
        assert_eq!(&params[..], br#"{"do_remote_prefill": true,"n":1.0e0,"u":[ ]}"#);
    }

    #[test]
    fn garbage_is_told_apart() {
        for (answer, problem) in [
            ("<html>", "not a JSON object"),
            ("", "not a JSON object"),
            (r#"[{"do_remote_prefill":true}]"#, "another kind"),
            ("{}", "no kv_transfer_params"),
            (r#"{"kv_transfer_params":null}"#, "no kv_transfer_params"),
            (r#"{"kv_transfer_params":[true]}"#, "do_remote_prefill"),
            (r#"{"kv_transfer_params":{}}"#, "do_remote_prefill"),
            (r#"{"kv_transfer_params":{"do_remote_prefill":false}}"#, "do_remote_prefill"),
            (r#"{"kv_transfer_params":{"do_remote_prefill":1}}"#, "do_remote_prefill"),
            (r#"{"kv_transfer_params":{"do_remote_prefill":true}"#, "not a JSON object"),
        ] {
            let error = transfer_params(&answer.into()).unwrap_err().to_string();
            assert!(error.contains(problem), "{answer}: {error}");
        }
    }

    #[test]
    fn streams_that_open_with_a_server_error_are_told_apart() {
        let stream = |code| {
            let body = ErrorBody::new(code, "X", "y").to_json();
            format!("data: {body}\n\ndata: [DONE]\n\n")
        };
        assert!(opens_with_failure(stream(500).as_bytes()));
        assert!(!opens_with_failure(stream(400).as_bytes()));
        for first in ["", "data: {\"error\"", "data: {\"id\":\"x\"}\n\n", ": ping\n\n", "x"] {
            assert!(!opens_with_failure(first.as_bytes()), "{first}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            opens_with_failure(&bytes);
            let _ = transfer_params(&bytes.into());
        }
    }
}
