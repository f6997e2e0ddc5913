//! The KV pool: one mapping, registered once, cut into blocks.

use pdlab_api::snapshot::AddressRange;
use pdlab_engine::content;
use pdlab_engine::{BlockId, ChainHash, KvGeometry};
use pdlab_transport::{Agent, BlockLayout, Error, Mapping, Pages, Region};

/// The memory that a pool is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KvMemory {
    /// Whether its pages are touched at start. If not, resident memory grows until every block has
    /// been used, which looks like a leak to whoever watches from outside.
    pub prefault: bool,
    /// Which pages.
    pub pages: Pages,
}

/// The registered memory behind the engine's block ids.
#[derive(Debug, Clone)]
pub struct KvPool {
    region: Region,
    geometry: KvGeometry,
    range: AddressRange,
}

impl KvPool {
    /// Maps the pool and registers it with the transport.
    pub fn register(agent: &Agent, geometry: KvGeometry, memory: KvMemory) -> Result<Self, Error> {
        let mut mapping = Mapping::of_pages(geometry.pool_bytes, memory.pages)?;
        if memory.prefault {
            mapping.prefault();
        }
        let range = AddressRange { base: mapping.as_ptr() as u64, len_bytes: mapping.len() as u64 };
        let layout = BlockLayout {
            block_len: geometry.block_bytes as u64,
            blocks: geometry.num_blocks as u64,
        };
        let region = agent.register_blocks(mapping, layout)?;
        Ok(Self { region, geometry, range })
    }

    /// Where it lies in the address space.
    pub fn range(&self) -> AddressRange {
        self.range
    }

    /// Layout of the pool.
    pub fn geometry(&self) -> &KvGeometry {
        &self.geometry
    }

    /// The registered region.
    pub fn region(&self) -> &Region {
        &self.region
    }

    /// Byte offset of a block.
    pub fn offset(&self, block: BlockId) -> usize {
        block.0 as usize * self.geometry.block_bytes
    }

    /// Writes the content of slots: the work of a forward pass, as far as memory is concerned.
    pub fn fill(
        &self,
        block: BlockId,
        first_slot: usize,
        hashes: &[ChainHash],
    ) -> Result<(), Error> {
        let width = self.geometry.bytes_per_token;
        let start = self.offset(block) + first_slot * width;
        let range = start..start + hashes.len() * width;
        self.region.write(range, |slots| content::fill(slots, hashes, width))
    }

    /// Checks that a block's leading slots hold what their tokens say.
    pub fn verify(
        &self,
        block: BlockId,
        hashes: &[ChainHash],
    ) -> Result<Result<(), content::Corrupt>, Error> {
        let width = self.geometry.bytes_per_token;
        let start = self.offset(block);
        let range = start..start + hashes.len() * width;
        self.region.read(range, |slots| content::verify(slots, hashes, width))
    }
}
