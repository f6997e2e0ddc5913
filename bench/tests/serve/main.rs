//! The load generator against scripted servers: what is sent, what is measured, what is left.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

mod fake;
mod load;
mod measure;
mod shapes;
mod wire;
