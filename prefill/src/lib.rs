//! Computes and pins KV blocks, serves the side channel, leases, frees on notification.
