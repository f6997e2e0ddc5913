//! HTTP front door: two legs, policies, health, retries.
