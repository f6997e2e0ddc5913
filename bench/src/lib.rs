//! Loads and measures: arrivals, datasets, client, cluster, records, reports.

pub mod cluster;
pub mod gate;
pub mod growth;
pub mod junit;
pub mod matrix;
pub mod page;
pub mod repro;
pub mod run_dir;
pub mod runtime;
pub mod serve;
pub mod transfer;
pub mod watch;
pub mod workload;
pub mod zoo;
