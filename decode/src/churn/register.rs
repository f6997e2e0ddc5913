//! Registrations that end without another one after them.

use pdlab_transport::{Agent, Error, Mapping, Region};

use super::{Done, Source};

/// Registers buffers all at once; each operation deregisters and unmaps one. UCX keeps what was
/// registered until somebody registers again, in every version
/// (<https://github.com/openucx/ucx/issues/9616>).
#[derive(Debug)]
pub(super) struct Register {
    bytes: usize,
    resident: usize,
    agent: Agent,
    buffers: Vec<Region>,
}

impl Register {
    pub(super) fn new(bytes: usize, resident: usize, agent: Agent) -> Self {
        Self { bytes, resident, agent, buffers: Vec::new() }
    }
}

impl Source for Register {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        if self.buffers.is_empty() {
            for _ in 0..self.resident {
                self.buffers.push(self.agent.register(Mapping::anonymous(self.bytes)?)?);
            }
            return Ok(Done::PREPARED);
        }
        if let Some(buffer) = self.buffers.pop() {
            self.agent.deregister(&buffer)?;
        }
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        self.buffers.len() as u64
    }
}

impl Drop for Register {
    fn drop(&mut self) {
        for buffer in &self.buffers {
            // Fails only if the agent is closed, and then there is nothing registered.
            let _ = self.agent.deregister(buffer);
        }
    }
}
