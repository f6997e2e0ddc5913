//! The router over real sockets, between fake workers and a plain client.

mod bad_input;
mod drain;
mod failures;
mod fleet;
mod legs;
mod support;
mod ui;
