//! Load on any OpenAI-compatible server: `pdlab bench serve`.
//!
//! The options, the definitions of the metrics and the result file are those of
//! `vllm bench serve`; latency counts from the **scheduled** time, so that a stalled server cannot
//! hide the requests that it kept from being sent, and the load generator's own lateness is
//! measured and reported.
//!
//! It is not a server and not a quality benchmark: what the tokens say is of no interest.
//!
//! - [`run()`] with a [`Config`]: so many requests, then a [`Report`]; [`options`] is its command
//!   line, [`result`] its file, [`progress`] what the user sees meanwhile.
//! - [`sweep`]: many runs, to find the rate that a server sustains.
//! - [`soak`]: a load for hours, with leak verdicts.
//! - [`Load`]: an endless load in the background, with live counts.
//! - [`arrivals`]: when requests are due (pure).
//! - [`dataset`]: what they ask.
//! - [`target`]: whom they ask.
//! - [`record`], [`distribution`], [`recent`]: what is measured of each and of all.
//! - [`split`]: what TTFT is made of, where the server tells.
//! - [`sse`]: the parser of event streams (pure).
//! - inside: `payload` and `stream` write and read the API, `connection` and `client` do one
//!   request, `pacer` waits precisely, `driver` sends each request at its time.
//! - [`memory`]: memory of processes during a run.
//! - [`probe`]: small requests beside the load.
//!
//! Made prompts go to completions as token ids, as vLLM sends its own timed traces, and to chat as
//! text. Both are the same tokens for pdlab's byte-level tokenizer. A foreign tokenizer makes
//! fewer tokens of text; reports therefore count the prompt tokens that the server counted.

pub mod arrivals;
mod client;
mod connection;
pub mod dataset;
pub mod distribution;
mod driver;
mod error;
pub mod load;
pub mod memory;
pub mod options;
mod pacer;
mod payload;
pub mod probe;
pub(crate) mod process;
pub mod progress;
pub mod recent;
pub mod record;
pub mod report;
pub mod result;
pub mod run;
pub mod soak;
pub mod split;
pub mod sse;
mod stream;
mod summary;
pub mod sweep;
pub mod target;

pub use arrivals::{Ramp, RampUp, Rate};
pub use dataset::{Dataset, Random, TimedTrace};
pub use error::Error;
pub use load::{Counts, Leavers, Load, LoadConfig, LoadHandle};
pub use options::Options;
pub use progress::Progress;
pub use record::{Goodput, Record, Totals};
pub use report::{Presentation, Report};
pub use run::{Config, run};
pub use target::{Backend, Target};
