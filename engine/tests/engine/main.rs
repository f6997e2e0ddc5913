//! The engine as its driver sees it.

mod driver;
mod legs;
mod properties;
mod requests;
mod scheduling;
