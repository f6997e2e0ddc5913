//! The runtime of a program or an agent, by its number of threads.

use std::io;

use tokio::runtime::{Builder, Runtime};

/// A runtime of so many threads; one alone is that which calls it. On one, who is woken by an event acts
/// on it: no other thread is woken to see whether it could help.
///
/// # Errors
/// If the system gives no thread or no descriptor.
pub fn with_threads(threads: usize) -> io::Result<Runtime> {
    let mut builder = match threads {
        1 => Builder::new_current_thread(),
        _ => Builder::new_multi_thread(),
    };
    builder.enable_all().worker_threads(threads).build()
}
