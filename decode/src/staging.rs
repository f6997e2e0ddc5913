//! A buffer per transfer, for the fault [`FaultKind::RegionKept`].
//!
//! [`FaultKind::RegionKept`]: pdlab_api::fault::FaultKind::RegionKept

use std::sync::{Mutex, PoisonError};

use pdlab_transport::{Agent, Descriptor, Error, Mapping, Region};

/// Registers buffers and never deregisters one. They go with the agent and this.
#[derive(Debug)]
pub struct Staging {
    agent: Agent,
    kept: Mutex<Vec<Region>>,
}

impl Staging {
    /// Registers with `agent`, whose limit of regions has to allow it.
    pub fn new(agent: Agent) -> Self {
        Self { agent, kept: Mutex::default() }
    }

    /// A registered buffer for what these descriptors read, and descriptors that read it there,
    /// one behind the other.
    pub fn buffer(&self, descriptors: &[Descriptor]) -> Result<(Region, Vec<Descriptor>), Error> {
        let mut local_offset = 0;
        let place = |descriptor: &Descriptor| {
            let placed = Descriptor { local_offset, ..*descriptor };
            local_offset += descriptor.len;
            placed
        };
        let placed: Vec<Descriptor> = descriptors.iter().map(place).collect();
        let region = self.agent.register(Mapping::anonymous(local_offset)?)?;
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(region.clone());
        Ok((region, placed))
    }
}

/// Copies what was read into `staged` to where the descriptors wanted it.
pub fn unload(
    staged: &Region,
    placed: &[Descriptor],
    region: &Region,
    wanted: &[Descriptor],
) -> Result<(), Error> {
    for (from, to) in placed.iter().zip(wanted) {
        let range = to.local_offset..to.local_offset + to.len;
        region.write(range, |to| {
            staged.read(from.local_offset..from.local_offset + from.len, |from| {
                to.copy_from_slice(from);
            })
        })??;
    }
    Ok(())
}
