//! How the KV pool is divided: bytes per token slot, slots per block, blocks per pool.

use serde::Serialize;

use crate::block_pool::BlockId;
use crate::config::ConfigError;
use crate::content::LANE_BYTES;
use crate::model::Model;

/// vLLM's default for `--block-size`
/// (<https://docs.vllm.ai/en/latest/configuration/engine_args.html>).
pub const DEFAULT_BLOCK_SIZE_TOKENS: usize = 16;

/// The layout of a pool of KV blocks. Blocks lie one after the other, and the token slots of a block
/// likewise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct KvGeometry {
    /// Token slots per block.
    pub block_size_tokens: usize,
    /// Bytes of a token slot, a multiple of 8.
    pub bytes_per_token: usize,
    /// Bytes of a block.
    pub block_bytes: usize,
    /// Blocks, the null block included.
    pub num_blocks: usize,
    /// Bytes of the pool.
    pub pool_bytes: usize,
}

impl KvGeometry {
    /// The pool of one rank of `tp_size`, for `model`, with `num_blocks` blocks (one of them the null
    /// block) of `block_size_tokens` each. `kv_scale` scales the bytes of a slot, so that a laptop
    /// moves megabytes where a cluster moves gigabytes; the result is rounded up to a multiple of 8.
    ///
    /// # Errors
    /// Names the parameter that is out of range, or whose product does not fit an address space.
    pub fn new(
        model: &Model,
        tp_size: u32,
        kv_scale: f64,
        block_size_tokens: usize,
        num_blocks: usize,
    ) -> Result<Self, ConfigError> {
        if tp_size == 0 {
            return Err(ConfigError::new("tp_size", "must be at least 1"));
        }
        if !(kv_scale.is_finite() && kv_scale > 0.0) {
            let problem = format!("must be a positive number, is {kv_scale}");
            return Err(ConfigError::new("kv_scale", problem));
        }
        if block_size_tokens == 0 {
            return Err(ConfigError::new("block_size", "must be at least 1 token"));
        }
        if num_blocks < 2 || u32::try_from(num_blocks).is_err() {
            let problem =
                format!("must be 2 to {} (one is the null block), is {num_blocks}", u32::MAX);
            return Err(ConfigError::new("num_blocks", problem));
        }
        // Float to integer casts saturate, so that an absurd scale ends in the overflow check below.
        let scaled = (model.kv_bytes_per_token(tp_size) as f64 * kv_scale).ceil() as usize;
        let sizes = scaled.checked_next_multiple_of(LANE_BYTES).and_then(|bytes_per_token| {
            let block_bytes = bytes_per_token.checked_mul(block_size_tokens)?;
            let pool_bytes = block_bytes.checked_mul(num_blocks)?;
            // No allocation may be larger than this.
            (pool_bytes <= isize::MAX as usize).then_some((
                bytes_per_token,
                block_bytes,
                pool_bytes,
            ))
        });
        let Some((bytes_per_token, block_bytes, pool_bytes)) = sizes else {
            let problem = format!(
                "{num_blocks} blocks of {block_size_tokens} tokens of {scaled} bytes exceed the address \
                 space; lower num_blocks or kv_scale"
            );
            return Err(ConfigError::new("num_blocks", problem));
        };
        Ok(Self { block_size_tokens, bytes_per_token, block_bytes, num_blocks, pool_bytes })
    }

    /// Tokens that the pool holds: all blocks but the null block.
    pub fn capacity_tokens(&self) -> usize {
        (self.num_blocks - 1) * self.block_size_tokens
    }

    /// Blocks that `tokens` take.
    pub fn blocks_for(&self, tokens: usize) -> usize {
        tokens.div_ceil(self.block_size_tokens)
    }

    /// Offset in the pool, in bytes, of slot `slot` of `block`.
    pub fn slot_offset(&self, block: BlockId, slot: usize) -> usize {
        block.0 as usize * self.block_bytes + slot * self.bytes_per_token
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(
        tp: u32,
        scale: f64,
        block: usize,
        blocks: usize,
    ) -> Result<KvGeometry, ConfigError> {
        KvGeometry::new(&Model::by_name("llama-3.1-8b").unwrap(), tp, scale, block, blocks)
    }

    #[test]
    fn a_full_scale_pool_has_the_bytes_of_the_real_one() {
        let full = geometry(1, 1.0, 16, 1000).unwrap();
        assert_eq!(full.bytes_per_token, 131_072);
        assert_eq!(full.block_bytes, 2 << 20);
        assert_eq!(full.pool_bytes, 2000 << 20);
        assert_eq!(full.capacity_tokens(), 999 * 16);
        assert_eq!(full.slot_offset(BlockId(2), 3), (4 << 20) + 3 * 131_072);
        assert_eq!((full.blocks_for(16), full.blocks_for(17)), (1, 2));
    }

    #[test]
    fn scaled_slots_are_whole_lanes_and_at_least_one() {
        assert_eq!(geometry(1, 0.001, 16, 2).unwrap().bytes_per_token, 136);
        assert_eq!(geometry(1, 1e-12, 16, 2).unwrap().bytes_per_token, 8);
        assert_eq!(geometry(4, 0.5, 16, 2).unwrap().bytes_per_token, 16_384);
    }

    #[test]
    fn bad_parameters_are_named() {
        let field = |result: Result<KvGeometry, ConfigError>| result.unwrap_err().field;
        assert_eq!(field(geometry(0, 1.0, 16, 2)), "tp_size");
        assert_eq!(field(geometry(1, 0.0, 16, 2)), "kv_scale");
        assert_eq!(field(geometry(1, f64::NAN, 16, 2)), "kv_scale");
        assert_eq!(field(geometry(1, 1.0, 0, 2)), "block_size");
        assert_eq!(field(geometry(1, 1.0, 16, 1)), "num_blocks");
        assert_eq!(field(geometry(1, 1.0, 16, usize::MAX)), "num_blocks");
        assert_eq!(field(geometry(1, 1e300, 16, 2)), "num_blocks");
        assert_eq!(field(geometry(1, 1.0, usize::MAX / 2, 2)), "num_blocks");
    }
}
