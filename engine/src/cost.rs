//! How long a step takes on hardware that is not there.
//!
//! A step reads the weights and the KV of its requests, and multiplies its tokens with the weights;
//! it takes as long as the slower of the two, plus what every step costs (a roofline). The table is
//! either derived from a model and a GPU, or given by the user, who may have measured his own.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::config::ConfigError;
use crate::model::{KvShape, Model};
use crate::step::StepLoad;

/// An accelerator, in figures of its data sheet and the share of them that kernels reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Hardware {
    /// Dense bf16 multiply-adds, in 10^12 floating-point operations per second.
    pub tflops: f64,
    /// Memory bandwidth, in 10^12 bytes per second.
    pub memory_tb_per_s: f64,
    /// Share of `tflops` that a step reaches.
    pub compute_efficiency: f64,
    /// Share of `memory_tb_per_s` that a step reaches.
    pub memory_efficiency: f64,
    /// Scheduling, launches and sampling of a step, in microseconds.
    pub step_overhead_us: f64,
}

/// The H100 SXM: 989.4 TFLOP/s dense bf16 and 3.35 TB/s
/// (<https://www.nvidia.com/en-us/data-center/h100/>). The efficiencies and the overhead are round
/// figures for large kernels under CUDA graphs, not measurements: with them an 8B model takes about
/// 6.5 ms per decode step of one request, and 3.3 ms per 100 prompt tokens beyond the first 200.
pub const H100_SXM: Hardware = Hardware {
    tflops: 989.4,
    memory_tb_per_s: 3.35,
    compute_efficiency: 0.5,
    memory_efficiency: 0.8,
    step_overhead_us: 500.0,
};

/// Coefficients of a step's time. All are per rank, so tensor parallelism is already divided out.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CostTable {
    /// Every step, in microseconds.
    pub step_overhead_us: f64,
    /// Reading all weights, in microseconds.
    pub weights_us: f64,
    /// Reading the weights that one token touches, in microseconds; less than `weights_us` in a
    /// mixture of experts, where a step reads all of them only once it has tokens enough.
    pub weights_per_token_us: f64,
    /// Multiplying one token with the weights, in microseconds.
    pub compute_per_token_us: f64,
    /// One token attending to one other, in nanoseconds.
    pub attend_pair_ns: f64,
    /// Reading one context token's KV, in nanoseconds.
    pub kv_read_per_token_ns: f64,
}

impl CostTable {
    /// The roofline of `model` on `tp_size` of `hardware`, which are taken to share the work evenly.
    pub fn roofline(model: &Model, hardware: &Hardware, tp_size: u32) -> Self {
        let ranks = f64::from(tp_size.max(1));
        let flop_us = 1.0 / (hardware.tflops * 1e6 * hardware.compute_efficiency * ranks);
        // KV is per rank already, because it may be replicated; weights are not.
        let rank_byte_us = 1.0 / (hardware.memory_tb_per_s * 1e6 * hardware.memory_efficiency);
        let weight_bytes = model.dtype.bytes() as f64 * 1e9;
        // A multiply-add is two operations: once with the key, once with the value.
        let elements = match model.kv {
            KvShape::Heads { head_dim, .. } => 2 * head_dim,
            KvShape::Latent { kv_lora_rank, rope_dim } => 2 * kv_lora_rank + rope_dim,
        };
        let pair_flop =
            2.0 * f64::from(model.layers) * f64::from(model.query_heads) * f64::from(elements);
        Self {
            step_overhead_us: hardware.step_overhead_us,
            weights_us: model.params_b * weight_bytes * rank_byte_us / ranks,
            weights_per_token_us: model.active_params_b * weight_bytes * rank_byte_us / ranks,
            compute_per_token_us: 2.0 * model.active_params_b * 1e9 * flop_us,
            attend_pair_ns: pair_flop * flop_us * 1e3,
            kv_read_per_token_ns: model.kv_bytes_per_token(tp_size.max(1)) as f64
                * rank_byte_us
                * 1e3,
        }
    }

    /// Time of a step of size `load`, in microseconds.
    pub fn step_us(&self, load: &StepLoad) -> f64 {
        if load.tokens == 0 {
            return 0.0;
        }
        let tokens = load.tokens as f64;
        let compute_us = tokens * self.compute_per_token_us
            + load.attended_pairs as f64 * self.attend_pair_ns / 1e3;
        let memory_us = (tokens * self.weights_per_token_us).min(self.weights_us)
            + load.context_tokens as f64 * self.kv_read_per_token_ns / 1e3;
        self.step_overhead_us + compute_us.max(memory_us)
    }

    /// The coefficients by name.
    fn fields(&self) -> [(&'static str, f64); 6] {
        [
            ("step_overhead_us", self.step_overhead_us),
            ("weights_us", self.weights_us),
            ("weights_per_token_us", self.weights_per_token_us),
            ("compute_per_token_us", self.compute_per_token_us),
            ("attend_pair_ns", self.attend_pair_ns),
            ("kv_read_per_token_ns", self.kv_read_per_token_ns),
        ]
    }
}

/// Turns the size of a step into the time it is to take.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CostModel {
    table: CostTable,
    time_scale: f64,
}

impl CostModel {
    /// Steps as long as `table` says, times `time_scale`: 1 for real time, 0 for no time at all.
    ///
    /// # Errors
    /// Names the coefficient that is negative or not a number.
    pub fn new(table: CostTable, time_scale: f64) -> Result<Self, ConfigError> {
        let mut values = table.fields().into_iter().chain([("time_scale", time_scale)]);
        match values.find(|(_, value)| !(value.is_finite() && *value >= 0.0)) {
            Some((field, value)) => {
                let problem = format!("must be a number of at least 0, is {value}");
                Err(ConfigError::new(field, problem))
            }
            None => Ok(Self { table, time_scale }),
        }
    }

    /// How long a step of size `load` takes. Zero for an empty one.
    pub fn step_time(&self, load: &StepLoad) -> Duration {
        let seconds = self.table.step_us(load) * self.time_scale / 1e6;
        // Finite coefficients can still multiply to more than a Duration holds.
        Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> CostTable {
        CostTable::roofline(&Model::by_name(name).unwrap(), &H100_SXM, 1)
    }

    fn load(requests: &[(usize, usize)]) -> StepLoad {
        let mut load = StepLoad::default();
        for &(start, count) in requests {
            load.add(start, count, count > 1);
        }
        load
    }

    fn ms(table: &CostTable, requests: &[(usize, usize)]) -> f64 {
        table.step_us(&load(requests)) / 1e3
    }

    #[test]
    fn decode_of_one_request_reads_the_weights() {
        // 16.06 GB at 2.68 TB/s, and half a millisecond of overhead.
        let decode = ms(&table("llama-3.1-8b"), &[(1000, 1)]);
        assert!((6.4..6.7).contains(&decode), "{decode} ms");
    }

    #[test]
    fn prefill_is_bound_by_compute() {
        // 2048 x 16.06 GFLOP at 495 TFLOP/s is 66 ms; attention adds a little.
        let prefill = ms(&table("llama-3.1-8b"), &[(0, 2048)]);
        assert!((67.0..72.0).contains(&prefill), "{prefill} ms");
    }

    #[test]
    fn a_larger_batch_costs_little_and_a_longer_context_costs_something() {
        let table = table("llama-3.1-8b");
        let (one, many) = (ms(&table, &[(1000, 1)]), ms(&table, &[(1000, 1); 32]));
        assert!(many < one * 1.5, "{many} against {one} ms");
        assert!(ms(&table, &[(100_000, 1)]) > one * 1.5);
    }

    #[test]
    fn experts_are_read_as_they_are_touched() {
        let experts = table("qwen3-30b-a3b");
        let (one, many) = (ms(&experts, &[(10, 1)]), ms(&experts, &[(10, 1); 64]));
        assert!(one < 4.0 && many > 20.0, "{one} and {many} ms");
    }

    #[test]
    fn time_scales_and_zero_is_no_time() {
        let table = table("llama-3.1-8b");
        let decode = load(&[(1000, 1)]);
        let real = CostModel::new(table, 1.0).unwrap().step_time(&decode);
        let tenth = CostModel::new(table, 0.1).unwrap().step_time(&decode);
        assert!(real.abs_diff(tenth * 10) < Duration::from_micros(1));
        assert_eq!(CostModel::new(table, 0.0).unwrap().step_time(&decode), Duration::ZERO);
        let empty = StepLoad::default();
        assert_eq!(CostModel::new(table, 1.0).unwrap().step_time(&empty), Duration::ZERO);
        let endless = CostModel::new(table, f64::MAX).unwrap().step_time(&decode);
        assert_eq!(endless, Duration::MAX);
    }

    #[test]
    fn bad_coefficients_are_named() {
        let bad = CostTable { weights_us: -1.0, ..table("llama-3.1-8b") };
        assert_eq!(CostModel::new(bad, 1.0).unwrap_err().field, "weights_us");
        let error = CostModel::new(table("llama-3.1-8b"), f64::NAN).unwrap_err();
        assert_eq!(error.field, "time_scale");
    }

    #[test]
    fn a_table_can_be_read_and_unknown_fields_are_refused() {
        let table = table("llama-3.1-8b");
        let text = serde_json::to_string(&table).unwrap();
        assert_eq!(serde_json::from_str::<CostTable>(&text).unwrap(), table);
        let typo = text.replace("weights_us", "weight_us");
        assert!(
            serde_json::from_str::<CostTable>(&typo).unwrap_err().to_string().contains("weight_us")
        );
    }
}
