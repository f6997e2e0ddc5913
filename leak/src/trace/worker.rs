//! What the tracer's thread and whoever asks it say to each other.

use std::collections::HashMap;
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex, PoisonError};

use super::book::{Holding, StackId};
use super::stacks::Place;
use super::symbols::Module;
use super::traced::{Confidence, Counts};

/// A request to the thread.
#[derive(Debug)]
pub(crate) enum Request {
    /// Tell what is live now.
    Snapshot(Sender<Snapshot>),
    /// End.
    Stop,
}

/// What is live, before anybody has looked up names.
#[derive(Debug)]
pub(crate) struct Snapshot {
    pub(crate) holdings: Vec<Holding>,
    /// Stacks of the holdings.
    pub(crate) stacks: HashMap<StackId, Vec<Place>>,
    pub(crate) modules: Vec<Module>,
    /// Names that are known without looking them up.
    pub(crate) names: Vec<(Place, String)>,
    pub(crate) counts: Counts,
    pub(crate) confidence: Confidence,
    pub(crate) untracked_bytes: u64,
    pub(crate) remarks: Vec<String>,
}

/// Counts that the thread publishes and anybody may read.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published(Arc<Mutex<Counts>>);

impl Published {
    pub(crate) fn get(&self) -> Counts {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn set(&self, counts: Counts) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = counts;
    }
}
