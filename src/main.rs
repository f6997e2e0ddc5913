//! The command line of pdlab.
fn main() {}
