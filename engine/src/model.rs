//! Presets of language models: the sizes that KV, cost and limits follow from.
//!
//! The figures are those of the `config.json` and the model card of the first Hugging Face
//! repository that each preset names.

use serde::Serialize;
use thiserror::Error;

/// A language model as far as its KV cache and its cost go.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Model {
    /// The name to ask for.
    pub name: &'static str,
    /// Hugging Face repositories that this preset stands for; they are accepted as names too.
    pub repositories: &'static [&'static str],
    /// Transformer layers.
    pub layers: u32,
    /// Query heads.
    pub query_heads: u32,
    /// What a layer keeps per token.
    pub kv: KvShape,
    /// Element type of the weights.
    pub dtype: Dtype,
    /// Element type of the KV cache, `--kv-cache-dtype`.
    pub kv_dtype: Dtype,
    /// Parameters, in units of 10^9.
    pub params_b: f64,
    /// Parameters that one token passes through, in units of 10^9; `params_b` unless experts are chosen.
    pub active_params_b: f64,
    /// Longest context, in tokens.
    pub max_model_len: usize,
    /// Token ids are below this. The lab itself speaks bytes, but clients send token-id prompts.
    pub vocab_size: u32,
}

/// What a layer keeps per token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KvShape {
    /// A key and a value per KV head (MHA, GQA).
    Heads {
        /// KV heads.
        kv_heads: u32,
        /// Elements of a key, and of a value.
        head_dim: u32,
    },
    /// One latent vector that all heads share (MLA).
    Latent {
        /// Elements of the compressed key-value vector (`kv_lora_rank`).
        kv_lora_rank: u32,
        /// Elements of the rotary part of the key (`qk_rope_head_dim`).
        rope_dim: u32,
    },
}

/// An element type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 2 bytes.
    Bf16,
    /// 1 byte.
    Fp8,
}

impl Dtype {
    /// Bytes per element.
    pub fn bytes(self) -> u64 {
        match self {
            Self::Bf16 => 2,
            Self::Fp8 => 1,
        }
    }
}

/// A model name that no preset has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("unknown model {name:?}; known models: {}", known_names())]
pub struct UnknownModel {
    /// The name asked for.
    pub name: String,
}

impl Model {
    /// The preset called `name`, by its own name or by a repository's, in any case of letters.
    ///
    /// # Errors
    /// [`UnknownModel`], which lists the names.
    pub fn by_name(name: &str) -> Result<Self, UnknownModel> {
        let matches = |model: &&Model| {
            let mut names = model.repositories.iter().chain([&model.name]);
            names.any(|known| known.eq_ignore_ascii_case(name))
        };
        let unknown = || UnknownModel { name: name.to_owned() };
        PRESETS.iter().find(matches).cloned().ok_or_else(unknown)
    }

    /// Every preset.
    pub fn presets() -> &'static [Self] {
        PRESETS
    }

    /// Bytes of KV that one token takes on one rank of `tp_size`, all layers together.
    ///
    /// KV heads are split among the ranks as long as there are enough, and replicated beyond; a
    /// latent is replicated on every rank.
    pub fn kv_bytes_per_token(&self, tp_size: u32) -> u64 {
        let elements = match self.kv {
            KvShape::Heads { kv_heads, head_dim } => {
                2 * u64::from(kv_heads.div_ceil(tp_size)) * u64::from(head_dim)
            }
            KvShape::Latent { kv_lora_rank, rope_dim } => u64::from(kv_lora_rank + rope_dim),
        };
        u64::from(self.layers) * elements * self.kv_dtype.bytes()
    }
}

fn known_names() -> String {
    let names: Vec<&str> = PRESETS.iter().map(|model| model.name).collect();
    names.join(", ")
}

/// Grouped-query attention with heads of 128 elements, which all of these models have.
const fn gqa(kv_heads: u32) -> KvShape {
    KvShape::Heads { kv_heads, head_dim: 128 }
}

static PRESETS: &[Model] = &[
    Model {
        name: "llama-3.1-8b",
        repositories: &["meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.1-8B-Instruct"],
        layers: 32,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 8.03,
        active_params_b: 8.03,
        max_model_len: 131_072,
        vocab_size: 128_256,
    },
    Model {
        name: "llama-3.1-70b",
        repositories: &[
            "meta-llama/Llama-3.1-70B",
            "meta-llama/Llama-3.1-70B-Instruct",
            "meta-llama/Llama-3.3-70B-Instruct",
        ],
        layers: 80,
        query_heads: 64,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 70.6,
        active_params_b: 70.6,
        max_model_len: 131_072,
        vocab_size: 128_256,
    },
    Model {
        name: "mistral-7b",
        repositories: &["mistralai/Mistral-7B-v0.3", "mistralai/Mistral-7B-Instruct-v0.3"],
        layers: 32,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 7.25,
        active_params_b: 7.25,
        max_model_len: 32_768,
        vocab_size: 32_768,
    },
    Model {
        name: "mistral-nemo-12b",
        repositories: &["mistralai/Mistral-Nemo-Base-2407", "mistralai/Mistral-Nemo-Instruct-2407"],
        layers: 40,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 12.2,
        active_params_b: 12.2,
        max_model_len: 131_072,
        vocab_size: 131_072,
    },
    Model {
        name: "mistral-small-24b",
        repositories: &[
            "mistralai/Mistral-Small-3.1-24B-Base-2503",
            "mistralai/Mistral-Small-3.1-24B-Instruct-2503",
            "mistralai/Mistral-Small-3.2-24B-Instruct-2506",
        ],
        layers: 40,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 23.6,
        active_params_b: 23.6,
        max_model_len: 131_072,
        vocab_size: 131_072,
    },
    Model {
        name: "mistral-large-2",
        repositories: &[
            "mistralai/Mistral-Large-Instruct-2407",
            "mistralai/Mistral-Large-Instruct-2411",
        ],
        layers: 88,
        query_heads: 96,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 122.6,
        active_params_b: 122.6,
        max_model_len: 131_072,
        vocab_size: 32_768,
    },
    Model {
        name: "qwen3-0.6b",
        repositories: &["Qwen/Qwen3-0.6B"],
        layers: 28,
        query_heads: 16,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 0.6,
        active_params_b: 0.6,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-4b",
        repositories: &["Qwen/Qwen3-4B"],
        layers: 36,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 4.0,
        active_params_b: 4.0,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-8b",
        repositories: &["Qwen/Qwen3-8B"],
        layers: 36,
        query_heads: 32,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 8.2,
        active_params_b: 8.2,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-14b",
        repositories: &["Qwen/Qwen3-14B"],
        layers: 40,
        query_heads: 40,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 14.8,
        active_params_b: 14.8,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-32b",
        repositories: &["Qwen/Qwen3-32B"],
        layers: 64,
        query_heads: 64,
        kv: gqa(8),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 32.8,
        active_params_b: 32.8,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-30b-a3b",
        repositories: &["Qwen/Qwen3-30B-A3B"],
        layers: 48,
        query_heads: 32,
        kv: gqa(4),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 30.5,
        active_params_b: 3.3,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "qwen3-235b-a22b",
        repositories: &["Qwen/Qwen3-235B-A22B"],
        layers: 94,
        query_heads: 64,
        kv: gqa(4),
        dtype: Dtype::Bf16,
        kv_dtype: Dtype::Bf16,
        params_b: 235.0,
        active_params_b: 22.0,
        max_model_len: 40_960,
        vocab_size: 151_936,
    },
    Model {
        name: "deepseek-v3",
        repositories: &["deepseek-ai/DeepSeek-V3", "deepseek-ai/DeepSeek-R1"],
        layers: 61,
        query_heads: 128,
        kv: KvShape::Latent { kv_lora_rank: 512, rope_dim: 64 },
        dtype: Dtype::Fp8,
        kv_dtype: Dtype::Bf16,
        params_b: 671.0,
        active_params_b: 37.0,
        max_model_len: 163_840,
        vocab_size: 129_280,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(name: &str, tp_size: u32) -> u64 {
        Model::by_name(name).unwrap().kv_bytes_per_token(tp_size)
    }

    #[test]
    fn bytes_per_token_are_the_published_ones() {
        let expected = [
            ("llama-3.1-8b", 131_072),
            ("llama-3.1-70b", 327_680),
            ("mistral-7b", 131_072),
            ("mistral-nemo-12b", 163_840),
            ("mistral-small-24b", 163_840),
            ("mistral-large-2", 360_448),
            ("qwen3-0.6b", 114_688),
            ("qwen3-4b", 147_456),
            ("qwen3-8b", 147_456),
            ("qwen3-14b", 163_840),
            ("qwen3-32b", 262_144),
            ("qwen3-30b-a3b", 98_304),
            ("qwen3-235b-a22b", 192_512),
            ("deepseek-v3", 70_272),
        ];
        assert_eq!(expected.len(), Model::presets().len());
        for (name, bytes_per_token) in expected {
            assert_eq!(bytes(name, 1), bytes_per_token, "{name}");
        }
    }

    #[test]
    fn tensor_parallelism_splits_heads_then_replicates_and_never_splits_a_latent() {
        assert_eq!(bytes("llama-3.1-8b", 2), 65_536);
        assert_eq!(bytes("llama-3.1-8b", 8), 16_384);
        assert_eq!(bytes("llama-3.1-8b", 16), 16_384);
        assert_eq!(bytes("deepseek-v3", 8), 70_272);
    }

    #[test]
    fn fp8_halves_the_cache() {
        let mut model = Model::by_name("llama-3.1-8b").unwrap();
        model.kv_dtype = Dtype::Fp8;
        assert_eq!(model.kv_bytes_per_token(1), 65_536);
    }

    #[test]
    fn names_are_unique_and_repositories_are_names() {
        let mut names = std::collections::BTreeSet::new();
        for model in Model::presets() {
            for name in model.repositories.iter().chain([&model.name]) {
                assert!(names.insert(name.to_lowercase()), "{name} twice");
                assert_eq!(&Model::by_name(&name.to_uppercase()).unwrap(), model);
            }
        }
    }

    #[test]
    fn an_unknown_model_is_answered_with_the_known_ones() {
        let error = Model::by_name("gpt-5").unwrap_err().to_string();
        assert!(error.contains("\"gpt-5\"") && error.contains("qwen3-0.6b"), "{error}");
    }
}
