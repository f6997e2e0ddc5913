//! `pdlab matrix`: one scenario over UCX versions, settings, churn patterns and transports.
//!
//! - [`result`]: what `matrix.json` holds.

pub mod result;
