//! Commands that run scenarios, from start to files, on clusters of fake roles: what is measured
//! is real memory of real processes, only the serving is pretended.

mod fake;
mod gate;
mod matrix;
mod repro;
mod zoo;
