//! Loads and measures: arrivals, datasets, client, cluster, records, reports.
