//! Loads and measures: arrivals, datasets, client, cluster, records, reports.

pub mod cluster;
pub mod serve;
