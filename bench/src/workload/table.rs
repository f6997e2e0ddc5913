//! A shape as text. Pure.

use std::fmt::Write;

use super::shape::{Shape, Spread};
use crate::transfer::words::size;

/// The shape, as lines for a terminal.
pub fn table(shape: &Shape) -> String {
    let mut out = String::new();
    // Writing to a String cannot fail.
    let _ = write(&mut out, shape);
    out
}

fn write(out: &mut String, shape: &Shape) -> std::fmt::Result {
    writeln!(
        out,
        "model      {}, tensor parallel {}: {} B of KV per token and rank",
        shape.model, shape.tensor_parallel_size, shape.bytes_per_token
    )?;
    writeln!(
        out,
        "KV block   {} tokens, {}; as vLLM lays it out {} descriptors of {}, one per layer",
        shape.block_size_tokens,
        size(shape.block_bytes),
        shape.layers,
        size(shape.block_bytes / u64::from(shape.layers.max(1)))
    )?;
    writeln!(out, "requests   {} of {}", shape.requests, shape.dataset)?;
    if shape.bad_lines > 0 {
        writeln!(out, "           {} lines could not be read and were left out", shape.bad_lines)?;
    }
    for note in &shape.notes {
        writeln!(out, "           {note}")?;
    }
    writeln!(out)?;
    writeln!(
        out,
        "{:<26}{:>12}{:>12}{:>12}{:>12}{:>12}",
        "per request", "mean", "p50", "p90", "p99", "max"
    )?;
    row(out, "prompt, tokens", &shape.prompt_tokens, 1.0, 0)?;
    row(out, "output, tokens", &shape.output_tokens, 1.0, 0)?;
    row(out, "KV blocks of the prompt", &shape.blocks, 1.0, 0)?;
    row(out, "on the wire, MB", &shape.bytes, 1e-6, 2)?;
    row(out, "KV blocks held by decode", &shape.blocks_held, 1.0, 0)?;
    if let (Some(gbps), Some(ms)) = (shape.link_gbps, &shape.link_ms) {
        row(out, &format!("at {gbps} Gbit/s alone, ms"), ms, 1.0, 3)?;
    }
    writeln!(out)?;
    let share = 100.0 * shape.shared_blocks as f64 / shape.total_blocks.max(1) as f64;
    writeln!(
        out,
        "in all     {:.3} GB in {} blocks; {share:.1} % of the blocks begin an earlier prompt, too: with a prefix\n           \
         cache that keeps everything {:.3} GB",
        shape.total_bytes as f64 / 1e9,
        shape.total_blocks,
        shape.distinct_bytes as f64 / 1e9
    )?;
    if let (Some(rate), Some(bytes)) = (shape.requests_per_s, shape.bytes_per_s) {
        let gbit = bytes * 8.0 / 1e9;
        write!(
            out,
            "needs      at {rate:.2} requests per second {:.3} GB/s, {gbit:.2} Gbit/s on average",
            bytes / 1e9
        )?;
        match shape.link_gbps {
            Some(link) => writeln!(out, ": {:.1} % of the link", 100.0 * gbit / link)?,
            None => writeln!(out)?,
        }
    }
    writeln!(
        out,
        "the like   pdlab bench transfer --block-size {} --blocks-per-read {} --depth 1",
        shape.block_bytes,
        shape.blocks.p50.max(1.0)
    )
}

fn row(
    out: &mut String,
    name: &str,
    spread: &Spread,
    factor: f64,
    decimals: usize,
) -> std::fmt::Result {
    write!(out, "{name:<26}")?;
    for value in [spread.mean, spread.p50, spread.p90, spread.p99, spread.max] {
        write!(out, "{:>12.decimals$}", value * factor)?;
    }
    writeln!(out)
}

#[cfg(test)]
mod tests {
    use super::super::shape::{Arrivals, of_requests};
    use super::*;
    use crate::serve::dataset::prompt::{PromptPlan, Run};
    use crate::serve::dataset::{Requests, Sample};

    #[test]
    fn every_figure_has_its_unit() {
        let prompt = PromptPlan::new(vec![Run { seed: 1, tokens: 1024 }]);
        let samples = vec![Sample { prompt, output_tokens: 128 }; 2];
        let requests = Requests { samples, bad_lines: 3, ..Requests::default() };
        let text = table(&of_requests(&requests, Arrivals::Rate(10.0)));
        for line in [
            "llama-3.1-8b, tensor parallel 1: 131072 B of KV per token and rank",
            "16 tokens, 2 MiB; as vLLM lays it out 32 descriptors of 64 KiB, one per layer",
            "3 lines could not be read",
            "on the wire, MB                 134.22",
            "KV blocks held by decode            72",
            "at 400 Gbit/s alone, ms          2.684",
            "0.268 GB in 128 blocks; 50.0 % of the blocks",
            "at 10.00 requests per second 1.342 GB/s, 10.74 Gbit/s on average: 2.7 % of the link",
            "pdlab bench transfer --block-size 2097152 --blocks-per-read 64 --depth 1",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
