//! The side channel: how decode learns where prefill's KV pool is.
//!
//! ZMQ REQ (decode) to ROUTER (prefill), msgpack frames, as vLLM's NixlConnector does it: decode
//! asks `("get_meta_msg", pp_rank, tp_rank)`, prefill answers a [`Handshake`] and its clock.
//! Older decoders ask with `(…, tp_rank)` or the bare bytes, and are answered too.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What a query starts with.
const QUERY: &[u8] = b"get_meta_msg";

/// vLLM's connector protocol version, 15 in vLLM 0.33; part of the compatibility hash.
pub const CONNECTOR_VERSION: u32 = 15;

/// Decode's question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Query {
    /// Pipeline parallel rank whose metadata is wanted.
    pub pp_rank: u32,
    /// Tensor parallel rank whose metadata is wanted.
    pub tp_rank: u32,
}

/// Prefill's answer: the hash first, so that an incompatible peer never parses the rest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Handshake {
    /// [`Compatibility::hash`] of prefill.
    pub compatibility_hash: String,
    /// An [`AgentMetadata`] in msgpack.
    #[serde(with = "serde_bytes")]
    pub agent_metadata_bytes: Vec<u8>,
}

/// Where prefill's KV pool is and how it is laid out; vLLM's `NixlAgentMetadata`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AgentMetadata {
    /// Must be the `remote_engine_id` of the request, or prefill has restarted.
    pub engine_id: String,
    /// The transport's own metadata: address and remote keys, opaque here.
    #[serde(with = "serde_bytes")]
    pub agent_metadata: Vec<u8>,
    /// Base address of each region.
    pub kv_caches_base_addr: Vec<u64>,
    /// Device index; 0 for host memory.
    pub device_id: u32,
    /// Blocks per region.
    pub num_blocks: u32,
    /// Bytes of a block, per region.
    pub block_lens: Vec<u64>,
    /// Bytes from one block to the next, per region.
    pub block_strides: Vec<u64>,
    /// vLLM's layout name, `HND` or `NHD`.
    pub kv_cache_layout: String,
    /// Tokens per block.
    pub block_size: u32,
    /// State-space model sizes; zeros for attention models.
    pub ssm_sizes: Vec<u64>,
    /// Attention backend name.
    pub attn_backend_name: String,
    /// Kernel blocks per logical block.
    pub physical_blocks_per_logical_kv_block: u32,
    /// Blocks per region where they differ; null here.
    #[serde(default)]
    pub region_num_blocks: Option<Vec<u32>>,
    /// KV cache group per region; null here.
    #[serde(default)]
    pub region_group_ids: Option<Vec<u32>>,
    /// Names of the regions; null here.
    #[serde(default)]
    pub region_names: Option<Vec<String>>,
    /// Memory types of the regions; null here.
    #[serde(default)]
    pub region_mem_types: Option<Vec<String>>,
    /// Decode context parallel size.
    #[serde(default = "one")]
    pub dcp_size: u32,
    /// Prefill context parallel size.
    #[serde(default = "one")]
    pub pcp_size: u32,
    /// Per-layer-embedding block length; null here.
    #[serde(default)]
    pub ple_block_len: Option<u64>,
    /// Members of packed regions; empty here.
    #[serde(default)]
    pub region_members: Vec<Vec<String>>,
    /// Layouts of packed regions; empty here.
    #[serde(default)]
    pub packed_member_layouts: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

impl AgentMetadata {
    /// A pool that is one region of equal blocks in host memory, on one rank.
    pub fn one_region(
        engine_id: String,
        agent_metadata: Vec<u8>,
        num_blocks: u32,
        block_bytes: u64,
        block_size_tokens: u32,
    ) -> Self {
        Self {
            engine_id,
            agent_metadata,
            // Where the pool is in its process's memory is the transport's business.
            kv_caches_base_addr: vec![0],
            device_id: 0,
            num_blocks,
            block_lens: vec![block_bytes],
            block_strides: vec![block_bytes],
            kv_cache_layout: "HND".into(),
            block_size: block_size_tokens,
            ssm_sizes: vec![0, 0],
            attn_backend_name: "PDLAB".into(),
            physical_blocks_per_logical_kv_block: 1,
            region_num_blocks: None,
            region_group_ids: None,
            region_names: None,
            region_mem_types: None,
            dcp_size: 1,
            pcp_size: 1,
            ple_block_len: None,
            region_members: vec![],
            packed_member_layouts: BTreeMap::new(),
        }
    }
}

/// What both sides must agree on before bytes move.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Compatibility {
    /// Model preset.
    pub model: String,
    /// Tokens per block are checked at run time by vLLM; here they are part of the hash, because
    /// only equal block sizes are simulated.
    pub block_size: u32,
    /// Bytes of KV per token, after scaling.
    pub bytes_per_token: u64,
}

impl Compatibility {
    /// SHA-256 in hex over the factors, as vLLM's `compute_nixl_compatibility_hash` does over its
    /// own.
    pub fn hash(&self) -> String {
        let factors = format!(
            "{}\n{CONNECTOR_VERSION}\n{}\n{}\n{}\npull",
            crate::VLLM_VERSION,
            self.model,
            self.block_size,
            self.bytes_per_token
        );
        Sha256::digest(factors).iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Bytes that are not what the side channel speaks.
#[derive(Debug, thiserror::Error)]
#[error(
    "side channel: {what} is not valid msgpack of the expected form ({detail}): is the peer a vLLM-compatible worker?"
)]
pub struct SideChannelError {
    what: &'static str,
    detail: String,
}

impl SideChannelError {
    fn new(what: &'static str, detail: impl ToString) -> Self {
        Self { what, detail: detail.to_string() }
    }
}

impl Query {
    /// The request frame.
    pub fn encode(self) -> Vec<u8> {
        pack(&(serde_bytes::Bytes::new(QUERY), self.pp_rank, self.tp_rank))
    }

    /// Parses a request frame of any vLLM release.
    pub fn decode(frame: &[u8]) -> Result<Self, SideChannelError> {
        if frame == QUERY {
            return Ok(Self { pp_rank: 0, tp_rank: 0 });
        }
        type Current = (serde_bytes::ByteBuf, u32, u32);
        type Older = (serde_bytes::ByteBuf, u32);
        let (word, pp_rank, tp_rank) = rmp_serde::from_slice::<Current>(frame)
            .or_else(|_| rmp_serde::from_slice::<Older>(frame).map(|(word, tp)| (word, 0, tp)))
            .map_err(|e| SideChannelError::new("the query", e))?;
        if word.as_slice() != QUERY {
            return Err(SideChannelError::new("the query", "it does not ask get_meta_msg"));
        }
        Ok(Self { pp_rank, tp_rank })
    }
}

impl Handshake {
    /// The answer to a [`Query`].
    pub fn new(compatibility: &Compatibility, metadata: &AgentMetadata) -> Self {
        Self { compatibility_hash: compatibility.hash(), agent_metadata_bytes: pack(metadata) }
    }

    /// The first reply frame.
    pub fn encode(&self) -> Vec<u8> {
        pack(self)
    }

    /// Parses a first reply frame.
    pub fn decode(frame: &[u8]) -> Result<Self, SideChannelError> {
        rmp_serde::from_slice(frame).map_err(|e| SideChannelError::new("the handshake", e))
    }

    /// The metadata inside.
    pub fn metadata(&self) -> Result<AgentMetadata, SideChannelError> {
        rmp_serde::from_slice(&self.agent_metadata_bytes)
            .map_err(|e| SideChannelError::new("the agent metadata", e))
    }
}

/// The second reply frame: prefill's monotonic clock in seconds.
pub fn encode_clock(seconds: f64) -> Vec<u8> {
    pack(&seconds)
}

/// Maps, not arrays: that is how vLLM's encoder writes dataclasses.
fn pack<T: Serialize>(value: &T) -> Vec<u8> {
    // Writing to a Vec cannot fail and these types have no unserialisable variants.
    rmp_serde::to_vec_named(value).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn metadata() -> AgentMetadata {
        AgentMetadata::one_region("e".into(), vec![0, 1, 255], 8, 1024, 16)
    }

    fn factors() -> Compatibility {
        Compatibility { model: "m".into(), block_size: 16, bytes_per_token: 64 }
    }

    #[test]
    fn queries_of_all_ages_are_understood() {
        let query = Query { pp_rank: 0, tp_rank: 1 };
        assert_eq!(Query::decode(&query.encode()).unwrap(), query);
        let older = pack(&(serde_bytes::Bytes::new(QUERY), 1_u32));
        assert_eq!(Query::decode(&older).unwrap(), query);
        assert_eq!(Query::decode(QUERY).unwrap().tp_rank, 0);
        assert!(Query::decode(&pack(&(serde_bytes::Bytes::new(b"other"), 0_u32, 0_u32))).is_err());
    }

    #[test]
    fn the_handshake_round_trips_as_a_map() {
        let sent = Handshake::new(&factors(), &metadata());
        let frame = sent.encode();
        assert_eq!(frame[0] & 0xf0, 0x80, "a msgpack map");
        let received = Handshake::decode(&frame).unwrap();
        assert_eq!(received.compatibility_hash, factors().hash());
        assert_eq!(received.metadata().unwrap(), metadata());
    }

    #[test]
    fn the_hash_tells_layouts_apart() {
        let other = Compatibility { bytes_per_token: 128, ..factors() };
        assert_ne!(factors().hash(), other.hash());
        assert_eq!(factors().hash().len(), 64);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..128)) {
            let _ = Query::decode(&bytes);
            if let Ok(handshake) = Handshake::decode(&bytes) {
                let _ = handshake.metadata();
            }
        }
    }
}
