//! The TCP backend.

use std::sync::Arc;

use crate::backend::{Backend, Shared};
use crate::config::AgentConfig;
use crate::error::Error;

pub(crate) async fn open(_: &AgentConfig, _: Arc<Shared>) -> Result<Arc<dyn Backend>, Error> {
    Err(Error::Unsupported { reason: "tcp is being written".to_owned() })
}
