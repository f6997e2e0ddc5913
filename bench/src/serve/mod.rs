//! Load on any OpenAI-compatible server: `pdlab bench serve`.
//!
//! The options, the definitions of the metrics and the result file are those of
//! `vllm bench serve`; latency counts from the **scheduled** time, so that a stalled server cannot
//! hide the requests that it kept from being sent, and the load generator's own lateness is
//! measured and reported.
//!
//! It is not a server and not a quality benchmark: what the tokens say is of no interest.
//!
//! - [`Load`]: an endless load in the background, with live counts.
//! - [`arrivals`]: when requests are due (pure).
//! - [`random`], [`prompt`]: what they ask.
//! - [`target`]: whom they ask.
//! - [`record`], [`distribution`]: what is measured of each and of all.
//! - [`report`]: the result.
//! - [`sse`]: the parser of event streams (pure).
//! - inside: `payload` and `stream` write and read the API, `connection` and `client` do one
//!   request, `pacer` waits precisely, `driver` sends each request at its time.

pub mod arrivals;
mod client;
mod connection;
mod cpu;
pub mod distribution;
mod driver;
mod error;
pub mod load;
mod pacer;
mod payload;
pub mod prompt;
pub mod random;
pub mod record;
pub mod report;
pub mod sse;
mod stream;
pub mod target;

pub use arrivals::Rate;
pub use error::Error;
pub use load::{Counts, Load, LoadConfig, LoadHandle};
pub use random::Random;
pub use record::{Goodput, Record, Totals};
pub use report::Report;
pub use target::{Backend, Target};
