//! Moves KV bytes between processes over TCP or UCX.
