//! Settings of an engine.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::geometry::KvGeometry;
use crate::model::Model;

/// Settings of an engine. The defaults are those of vLLM's API server on a GPU with less than 70 GiB
/// (<https://docs.vllm.ai/en/latest/configuration/engine_args.html>).
#[derive(Clone, Debug)]
pub struct EngineConfig {
    /// The model served. Its name seeds the content of KV.
    pub model: Model,
    /// The KV pool.
    pub geometry: KvGeometry,
    /// Requests that run at the same time.
    pub max_num_seqs: usize,
    /// Tokens computed in one step, over all requests. Longer prompts are computed in chunks.
    pub max_num_batched_tokens: usize,
    /// Tokens of a request, prompt and output together. As in vLLM, one request of this length must
    /// fit the pool.
    pub max_model_len: usize,
    /// Requests that wait for their first step. vLLM has no limit unless told; here a flood ends in
    /// [`crate::AdmitError::QueueFull`] instead of memory.
    pub max_num_queued_reqs: usize,
    /// Whether full blocks are found again by later prompts with the same beginning.
    pub prefix_caching: bool,
    /// What becomes of a request whose remote KV could not be loaded.
    pub kv_load_failure_policy: LoadFailurePolicy,
    /// One output token in this many is the end of the sequence; 0 for never, so that outputs are as
    /// long as `max_tokens` says.
    pub eos_one_in: u32,
    /// Seeds the content of KV together with the model's name. Prefill and decode must agree.
    pub content_salt: u64,
}

/// vLLM's `kv_load_failure_policy`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadFailurePolicy {
    /// The request ends with an error. vLLM's default since 0.17.1.
    #[default]
    Fail,
    /// The prompt is computed here.
    Recompute,
}

/// A setting that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{field}: {problem}")]
pub struct ConfigError {
    /// The setting.
    pub field: &'static str,
    /// What is wrong with it, and what to do.
    pub problem: String,
}

impl ConfigError {
    pub(crate) fn new(field: &'static str, problem: impl Into<String>) -> Self {
        Self { field, problem: problem.into() }
    }
}

impl EngineConfig {
    /// The defaults for `model` on a pool of `geometry`: `max_model_len` is the model's, or what the
    /// pool holds if that is less.
    pub fn new(model: Model, geometry: KvGeometry) -> Self {
        Self {
            max_model_len: model.max_model_len.min(geometry.capacity_tokens()),
            model,
            geometry,
            max_num_seqs: 256,
            max_num_batched_tokens: 2048,
            max_num_queued_reqs: 65_536,
            prefix_caching: true,
            kv_load_failure_policy: LoadFailurePolicy::Fail,
            eos_one_in: 0,
            content_salt: 0,
        }
    }

    /// Checks what the types cannot.
    ///
    /// # Errors
    /// Names the first setting that is out of range.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let at_least_one = [
            ("max_num_seqs", self.max_num_seqs),
            ("max_num_batched_tokens", self.max_num_batched_tokens),
            ("max_num_queued_reqs", self.max_num_queued_reqs),
        ];
        if let Some((field, _)) = at_least_one.iter().find(|(_, value)| *value == 0) {
            return Err(ConfigError::new(field, "must be at least 1"));
        }
        if u32::try_from(self.max_num_batched_tokens).is_err() {
            let problem = format!("must be at most {}", u32::MAX);
            return Err(ConfigError::new("max_num_batched_tokens", problem));
        }
        if self.max_model_len < 2 {
            let problem = "must be at least 2, one token of prompt and one of output";
            return Err(ConfigError::new("max_model_len", problem));
        }
        let capacity = self.geometry.capacity_tokens();
        if self.max_model_len > capacity {
            let problem = format!(
                "one request of {} tokens does not fit the KV pool of {capacity}; lower it to \
                 {capacity} or raise num_blocks to {}",
                self.max_model_len,
                self.geometry.blocks_for(self.max_model_len) + 1
            );
            return Err(ConfigError::new("max_model_len", problem));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(num_blocks: usize) -> EngineConfig {
        let model = Model::by_name("qwen3-0.6b").unwrap();
        let geometry = KvGeometry::new(&model, 1, 0.01, 16, num_blocks).unwrap();
        EngineConfig::new(model, geometry)
    }

    #[test]
    fn defaults_are_valid_and_bounded_by_model_and_pool() {
        assert_eq!(config(100_000).max_model_len, 40_960);
        assert_eq!(config(11).max_model_len, 160);
        assert_eq!(config(11).validate(), Ok(()));
    }

    #[test]
    fn a_bad_setting_is_named() {
        let check = |change: fn(&mut EngineConfig)| {
            let mut config = config(11);
            change(&mut config);
            config.validate().unwrap_err()
        };
        assert_eq!(check(|c| c.max_num_seqs = 0).field, "max_num_seqs");
        assert_eq!(check(|c| c.max_num_batched_tokens = 0).field, "max_num_batched_tokens");
        assert_eq!(check(|c| c.max_num_queued_reqs = 0).field, "max_num_queued_reqs");
        assert_eq!(check(|c| c.max_model_len = 1).field, "max_model_len");
        let too_long = check(|c| c.max_model_len = 161).to_string();
        assert!(too_long.contains("lower it to 160 or raise num_blocks to 12"), "{too_long}");
    }
}
