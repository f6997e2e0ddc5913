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
//! - [`Load`]: an endless load in the background, with live counts.
//! - [`arrivals`]: when requests are due (pure).
//! - [`random`], [`trace`], [`prompt`]: what they ask.
//! - [`target`]: whom they ask.
//! - [`record`], [`distribution`]: what is measured of each and of all.
//! - [`sse`]: the parser of event streams (pure).
//! - inside: `payload` and `stream` write and read the API, `connection` and `client` do one
//!   request, `pacer` waits precisely, `driver` sends each request at its time.
//!
//! Prompts go to completions as token ids, as vLLM sends its own timed traces, and to chat as
//! text. Both are the same tokens for pdlab's byte-level tokenizer. A foreign tokenizer makes
//! fewer tokens of text; reports therefore count the prompt tokens that the server counted.

pub mod arrivals;
mod client;
mod connection;
pub mod distribution;
mod driver;
mod error;
pub mod load;
pub mod options;
mod pacer;
mod payload;
pub(crate) mod process;
pub mod progress;
pub mod prompt;
pub mod random;
pub mod record;
pub mod report;
pub mod result;
pub mod run;
pub mod sse;
mod stream;
pub mod target;
pub mod trace;

pub use arrivals::Rate;
pub use error::Error;
pub use load::{Counts, Leavers, Load, LoadConfig, LoadHandle};
pub use options::Options;
pub use progress::Progress;
pub use random::Random;
pub use record::{Goodput, Record, Totals};
pub use report::{Presentation, Report};
pub use run::{Config, Dataset, run};
pub use target::{Backend, Target};
pub use trace::TimedTrace;
