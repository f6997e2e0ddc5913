//! `pdlab matrix`: one scenario over UCX versions, settings, churn patterns and transports.
//!
//! - [`axes`]: what varies, and the combinations (pure).
//! - [`schedule`]: in which order they run (pure).
//! - [`result`]: what `matrix.json` holds.

pub mod axes;
pub mod result;
pub mod schedule;
