//! Loads and measures: arrivals, datasets, client, cluster, records, reports.

pub mod cluster;
