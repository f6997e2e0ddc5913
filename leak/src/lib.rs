//! Watches memory from outside: how many bytes a process gains per unit of work, whether it stops, and who holds them.
//!
//! It is a library of pure judgements around a thin reader of `/proc` and a tracer. It needs no cooperation of the process
//! and knows neither UCX nor HTTP: whoever runs the cluster hands in process ids and counters of work. It starts no
//! process but `strace`, and that on request only.
//!
//! - [`work`]: counters of work, the axis that slopes are given on.
//! - [`sampler`]: reads a process; [`sample`]: one reading of memory and work; [`csv`]: `samples.csv`.
//! - [`rdma`]: memory regions, queue pairs and the like that the kernel counts for a process.
//! - [`gauge`]: which number of a reading is judged: bytes, or a count of something held.
//! - [`smaps`], [`layout`]: the mappings of a process and what holds them; [`descriptors`]: its open files by kind.
//! - [`ledger`]: growth by owner; [`evidence`]: what the process's own counters prove about it; [`attribution`]: all
//!   evidence put into one ledger.
//! - [`estimate`]: from readings to a slope with its interval. [`verdict`]: from there to leak, clean or inconclusive.
//!   Start here: [`verdict::judge`].
//! - [`scenario`]: what to run and what must come out, as strict TOML. [`result`]: `result.json`.
//! - [`trace`]: who maps the memory that is gained, by stack. All `unsafe` of this crate is in one module of it.
//! - [`stacks`]: growth by stack, and whose it is.
//! - [`signature`]: known bugs by their stacks and by the growth they cause, from `signatures.toml`. [`explain`]: all of
//!   it in words.
//! - [`version`]: UCX versions and ranges of them.

pub mod attribution;
mod beside;
pub mod csv;
pub mod descriptors;
pub mod estimate;
pub mod evidence;
pub mod explain;
#[cfg(fuzzing)]
pub mod fuzzing;
pub mod gauge;
pub mod layout;
pub mod ledger;
mod names;
pub mod rdma;
pub mod result;
pub mod sample;
pub mod sampler;
pub mod scenario;
pub mod signature;
pub mod smaps;
pub mod stacks;
pub mod trace;
pub mod verdict;
pub mod version;
pub mod work;
