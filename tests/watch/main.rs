//! `pdlab watch` on real processes that pdlab did not start.
//!
//! - [`subjects`]: a C program on UCX, Python with numpy and UCX, other users, containers.
//! - [`events`]: processes that end, execute, or have very many mappings; Ctrl-C.
//! - [`metrics`]: work that is counted over HTTP. [`screen`]: the full-screen view on a terminal.
//! - [`common`]: processes to watch, and how they are ended.

mod common;
mod events;
mod metrics;
mod screen;
mod subjects;
