//! `kv_transfer_params`: what the router asks of prefill and hands to decode.
//!
//! Field by field as vLLM 0.33's NixlConnector has it
//! (<https://github.com/vllm-project/vllm/tree/main/vllm/distributed/kv_transfer>). Every field may
//! be null or missing in a request: routers send six of them, empty.

use serde::{Deserialize, Deserializer, Serialize};

use crate::timings::PrefillTimings;

/// The transfer parameters of a request or a response.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct KvTransferParams {
    /// In a request: decode must pull the prompt's KV from a remote prefill.
    pub do_remote_prefill: Option<bool>,
    /// In a request: prefill must keep the prompt's KV for a remote decode.
    pub do_remote_decode: Option<bool>,
    /// Block ids at prefill, one list per KV cache group (there is one group here).
    #[serde(deserialize_with = "nested_or_flat")]
    pub remote_block_ids: Option<Vec<Vec<u32>>>,
    /// Prefill's engine id, which its side channel must confirm.
    pub remote_engine_id: Option<String>,
    /// Prefill's own id of the request, to be echoed in notifications and heartbeats.
    pub remote_request_id: Option<String>,
    /// Host of prefill's side channel.
    pub remote_host: Option<String>,
    /// Port of prefill's side channel.
    pub remote_port: Option<u16>,
    /// Tensor parallel size of prefill.
    pub tp_size: Option<u32>,
    /// Decode context parallel size of prefill.
    pub dcp_size: Option<u32>,
    /// Pipeline parallel size of prefill.
    pub pp_size: Option<u32>,
    /// Tokens whose KV prefill holds: the prompt's length.
    pub remote_num_tokens: Option<u64>,
    /// When prefill's lease ends, on decode's clock; prefill sends null.
    pub remote_blocks_expiry_time: Option<f64>,
    /// Counts prefill's registrations, so that stale metadata is noticed.
    pub remote_registration_generation: Option<u64>,
    /// `pull`: decode reads. (`push` is not simulated.)
    pub transfer_mode: Option<String>,
    /// Prompt tokens that prefill took from its prefix cache.
    pub remote_prefill_cached_tokens: Option<u64>,
    /// How long the prefill leg took, for a client that asked; not a field of vLLM's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub pdlab_prefill: Option<PrefillTimings>,
}

/// Up to vLLM 0.17 the block ids were a flat list.
fn nested_or_flat<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Vec<Vec<u32>>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged, expecting = "remote_block_ids must be a list of lists of block ids")]
    enum Ids {
        Nested(Vec<Vec<u32>>),
        Flat(Vec<u32>),
    }
    Ok(Option::<Ids>::deserialize(d)?.map(|ids| match ids {
        Ids::Nested(groups) => groups,
        Ids::Flat(ids) => vec![ids],
    }))
}

/// Where decode finds the KV of a prompt: the complete form of what prefill answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RemotePrefill {
    /// Block ids at prefill, in prompt order.
    pub block_ids: Vec<u32>,
    /// Engine id that the side channel must confirm.
    pub engine_id: String,
    /// Prefill's id of the request.
    pub request_id: String,
    /// Side channel host.
    pub host: String,
    /// Side channel port.
    pub port: u16,
    /// Prefill's tensor parallel size.
    pub tp_size: u32,
    /// Tokens covered by the blocks, where prefill said so.
    pub num_tokens: Option<u64>,
    /// Prefill's prefix cache hits.
    pub cached_tokens: u64,
    /// How long the prefill leg took, where it was asked.
    pub timings: Option<PrefillTimings>,
}

/// Which transfer a request asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transfer {
    /// None: compute here, for here.
    Local,
    /// Keep the blocks for a remote decode.
    Produce,
    /// Pull the blocks from a remote prefill.
    Pull(RemotePrefill),
}

/// Transfer parameters that cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// A field that a pull needs is missing or null.
    #[error(
        "kv_transfer_params asks for a remote prefill but `{0}` is missing: pass on what prefill answered, unchanged"
    )]
    Missing(&'static str),
    /// Both directions at once.
    #[error(
        "kv_transfer_params sets both do_remote_prefill and do_remote_decode: a request is one or the other"
    )]
    BothWays,
    /// More than one KV cache group.
    #[error(
        "kv_transfer_params has {0} KV cache groups in remote_block_ids: only models with one are simulated"
    )]
    Groups(usize),
    /// A mode other than pull.
    #[error("kv_transfer_params asks for transfer_mode `{0}`: only `pull` is simulated")]
    Mode(String),
}

impl KvTransferParams {
    /// What routers send to prefill: six fields, four of them null.
    pub fn for_prefill() -> serde_json::Value {
        serde_json::json!({
            "do_remote_decode": true,
            "do_remote_prefill": false,
            "remote_engine_id": null,
            "remote_block_ids": null,
            "remote_host": null,
            "remote_port": null,
        })
    }

    /// What these parameters ask a worker to do.
    ///
    /// vLLM hangs or asserts on half-filled parameters; here they are an error.
    pub fn transfer(&self) -> Result<Transfer, TransferError> {
        let pull = self.do_remote_prefill.unwrap_or(false);
        let produce = self.do_remote_decode.unwrap_or(false);
        match (pull, produce) {
            (true, true) => Err(TransferError::BothWays),
            (false, true) => Ok(Transfer::Produce),
            (false, false) => Ok(Transfer::Local),
            (true, false) => self.pull().map(Transfer::Pull),
        }
    }

    fn pull(&self) -> Result<RemotePrefill, TransferError> {
        if let Some(mode) = self.transfer_mode.as_deref().filter(|m| *m != "pull") {
            return Err(TransferError::Mode(mode.to_owned()));
        }
        let groups =
            self.remote_block_ids.as_ref().ok_or(TransferError::Missing("remote_block_ids"))?;
        let [block_ids] = groups.as_slice() else {
            return Err(TransferError::Groups(groups.len()));
        };
        let need = |field: &Option<String>, name| field.clone().ok_or(TransferError::Missing(name));
        Ok(RemotePrefill {
            block_ids: block_ids.clone(),
            engine_id: need(&self.remote_engine_id, "remote_engine_id")?,
            request_id: need(&self.remote_request_id, "remote_request_id")?,
            host: need(&self.remote_host, "remote_host")?,
            port: self.remote_port.ok_or(TransferError::Missing("remote_port"))?,
            tp_size: self.tp_size.unwrap_or(1),
            num_tokens: self.remote_num_tokens,
            cached_tokens: self.remote_prefill_cached_tokens.unwrap_or(0),
            timings: self.pdlab_prefill,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered() -> KvTransferParams {
        KvTransferParams {
            do_remote_prefill: Some(true),
            do_remote_decode: Some(false),
            remote_block_ids: Some(vec![vec![3, 4]]),
            remote_engine_id: Some("e".into()),
            remote_request_id: Some("cmpl-a-0-1a2b3c4d".into()),
            remote_host: Some("127.0.0.1".into()),
            remote_port: Some(5600),
            ..KvTransferParams::default()
        }
    }

    #[test]
    fn empty_parameters_ask_prefill_to_keep() {
        let params: KvTransferParams =
            serde_json::from_value(KvTransferParams::for_prefill()).unwrap();
        assert_eq!(params.transfer(), Ok(Transfer::Produce));
        let short: KvTransferParams = serde_json::from_str(r#"{"do_remote_decode":true}"#).unwrap();
        assert_eq!(short.transfer(), Ok(Transfer::Produce));
    }

    #[test]
    fn prefills_answer_asks_decode_to_pull() {
        let Ok(Transfer::Pull(pull)) = answered().transfer() else { panic!("a pull") };
        assert_eq!((pull.block_ids, pull.port, pull.tp_size), (vec![3, 4], 5600, 1));
    }

    #[test]
    fn half_filled_parameters_name_what_is_missing() {
        let mut params = answered();
        params.remote_request_id = None;
        assert_eq!(params.transfer(), Err(TransferError::Missing("remote_request_id")));
        params = KvTransferParams { remote_block_ids: None, ..answered() };
        assert_eq!(params.transfer(), Err(TransferError::Missing("remote_block_ids")));
        params = KvTransferParams { remote_block_ids: Some(vec![vec![1], vec![2]]), ..answered() };
        assert_eq!(params.transfer(), Err(TransferError::Groups(2)));
        params = KvTransferParams { do_remote_decode: Some(true), ..answered() };
        assert_eq!(params.transfer(), Err(TransferError::BothWays));
        params = KvTransferParams { transfer_mode: Some("push".into()), ..answered() };
        assert_eq!(params.transfer(), Err(TransferError::Mode("push".into())));
    }

    #[test]
    fn old_flat_block_ids_are_one_group() {
        let params: KvTransferParams =
            serde_json::from_str(r#"{"remote_block_ids":[1,2],"unknown":1}"#).unwrap();
        assert_eq!(params.remote_block_ids, Some(vec![vec![1, 2]]));
    }

    #[test]
    fn nulls_are_kept_in_answers() {
        let json = serde_json::to_value(answered()).unwrap();
        assert!(json["remote_blocks_expiry_time"].is_null());
        assert!(json.as_object().unwrap().contains_key("remote_blocks_expiry_time"));
    }
}
