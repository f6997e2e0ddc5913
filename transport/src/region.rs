//! Registered memory, and the claims that keep two parties from touching the same bytes.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::claims::{Claims, normalize};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::metadata::BlockLayout;

/// Memory that is registered with an agent: read and written here, read by peers from afar.
///
/// Local access and incoming transfers take claims on byte ranges; what overlaps is refused with
/// [`Error::Busy`] and never raced. What claims cannot see is a *peer* that reads: its network
/// card, or the kernel on behalf of its socket, copies the bytes without asking. Overwriting a
/// block that a peer is still reading gives that peer torn bytes, exactly as over RDMA; the
/// protocol above must not reuse a block before the notification has come or the lease has ended.
///
/// The memory lives as long as any clone of the region or any transfer into it.
#[derive(Clone, Debug)]
pub struct Region {
    pub(crate) core: Arc<RegionCore>,
}

/// What backends keep alive while their device may touch the memory.
#[derive(Debug)]
pub(crate) struct RegionCore {
    /// Index in the owner's metadata.
    pub(crate) id: u32,
    /// Instance of the agent with which it is registered.
    pub(crate) agent: u64,
    pub(crate) layout: Option<BlockLayout>,
    mapping: Mapping,
    uses: Mutex<Uses>,
}

/// Who uses the memory, and for what it may be used. Under one lock, so that a deregistration and
/// a transfer cannot both be granted.
#[derive(Debug, Default)]
struct Uses {
    claims: Claims,
    /// Deregistered: transfers into it are over for good.
    retired: bool,
}

impl Region {
    /// Length in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a region is never empty")]
    pub fn len(&self) -> usize {
        self.core.len()
    }

    /// Index of this region in its agent's metadata: the `remote_region` of a peer's descriptor.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.core.id
    }

    /// The geometry that peers see, if one was given.
    #[must_use]
    pub fn layout(&self) -> Option<BlockLayout> {
        self.core.layout
    }

    /// The memory itself, once it is [deregistered](crate::Agent::deregister) and nobody else holds
    /// the region: to register it again.
    ///
    /// # Errors
    /// The region as it was, while it is registered, another clone lives, or it is being served.
    pub fn into_mapping(self) -> Result<Mapping, Self> {
        if !self.core.uses().retired {
            return Err(self);
        }
        Arc::try_unwrap(self.core).map(|core| core.mapping).map_err(|core| Self { core })
    }

    /// Runs `f` on the bytes of `range`; others may read them at the same time.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Busy`] while a writer or a transfer owns any of them.
    pub fn read<T>(&self, range: Range<usize>, f: impl FnOnce(&[u8]) -> T) -> Result<T, Error> {
        self.core.check("the range to read", &range)?;
        let claim = SharedClaim::take(&self.core, range.clone())?;
        // SAFETY: `range` is inside of the mapping, which `self.core` keeps alive. The claim keeps
        // every local writer away until it drops, after `f`; peers cannot write (there is no
        // remote write). The borrow cannot outlive this call.
        let bytes =
            unsafe { std::slice::from_raw_parts(self.core.base().add(range.start), range.len()) };
        let result = f(bytes);
        drop(claim);
        Ok(result)
    }

    /// Runs `f` on the bytes of `range`, which nobody else on this side touches meanwhile.
    ///
    /// # Errors
    /// [`Error::OutOfRange`]; [`Error::Busy`] while anybody reads, writes or receives into them.
    pub fn write<T>(
        &self,
        range: Range<usize>,
        f: impl FnOnce(&mut [u8]) -> T,
    ) -> Result<T, Error> {
        self.core.check("the range to write", &range)?;
        let claim = ExclusiveClaim::take(&self.core, vec![range.clone()])?;
        // SAFETY: bounds and lifetime as in `read`. The claim is exclusive, so no other reference
        // to these bytes exists in this process until it drops, after `f`. A peer's card or the
        // kernel may copy them out at the same time: that reads through no reference of ours,
        // changes nothing here, and at worst hands the peer torn bytes, as documented on `Region`.
        let bytes = unsafe {
            std::slice::from_raw_parts_mut(self.core.base().add(range.start), range.len())
        };
        let result = f(bytes);
        drop(claim);
        Ok(result)
    }
}

impl RegionCore {
    pub(crate) fn new(id: u32, agent: u64, mapping: Mapping, layout: Option<BlockLayout>) -> Self {
        Self { id, agent, layout, mapping, uses: Mutex::default() }
    }

    /// First byte of the memory. What is read or written through it must be covered by a claim,
    /// or be a copy by the kernel or a device on behalf of a remote reader.
    pub(crate) fn base(&self) -> *mut u8 {
        self.mapping.as_ptr()
    }

    pub(crate) fn len(&self) -> usize {
        self.mapping.len()
    }

    pub(crate) fn check(&self, what: &str, range: &Range<usize>) -> Result<(), Error> {
        if range.start <= range.end && range.end <= self.len() {
            return Ok(());
        }
        Err(Error::OutOfRange {
            what: what.to_owned(),
            offset: range.start as u64,
            len: range.end.saturating_sub(range.start) as u64,
            limit: self.len() as u64,
        })
    }

    /// Takes the region out of use for transfers.
    ///
    /// # Errors
    /// [`Error::Busy`] while anybody claims a byte of it; [`Error::NotRegistered`] if it has been
    /// retired before.
    pub(crate) fn retire(&self) -> Result<(), Error> {
        let mut uses = self.uses();
        if uses.retired {
            return Err(Error::NotRegistered { region: self.id });
        }
        if !uses.claims.is_empty() {
            return Err(self.busy(&(0..self.len())));
        }
        uses.retired = true;
        Ok(())
    }

    fn uses(&self) -> MutexGuard<'_, Uses> {
        // The table is consistent between any two statements, so a poisoned lock is still good.
        self.uses.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn busy(&self, range: &Range<usize>) -> Error {
        Error::Busy { region: self.id, offset: range.start, end: range.end }
    }
}

/// Leave to read some bytes, while it lives.
struct SharedClaim<'a> {
    region: &'a RegionCore,
    range: Range<usize>,
}

impl<'a> SharedClaim<'a> {
    fn take(region: &'a RegionCore, range: Range<usize>) -> Result<Self, Error> {
        if region.uses().claims.share(&range) {
            Ok(Self { region, range })
        } else {
            Err(region.busy(&range))
        }
    }
}

impl Drop for SharedClaim<'_> {
    fn drop(&mut self) {
        self.region.uses().claims.unshare(&self.range);
    }
}

/// Sole ownership of some bytes of a region, and of the region's memory, while it lives.
#[derive(Debug)]
pub(crate) struct ExclusiveClaim {
    region: Arc<RegionCore>,
    /// Sorted and joined.
    ranges: Vec<Range<usize>>,
}

impl ExclusiveClaim {
    /// Claims all `ranges`, which must lie inside of the region, or none.
    fn take(region: &Arc<RegionCore>, ranges: Vec<Range<usize>>) -> Result<Self, Error> {
        Self::take_from(region, &mut region.uses(), ranges)
    }

    /// The same for a device, which needs the region to be registered until the claim drops.
    pub(crate) fn for_transfer(
        region: &Arc<RegionCore>,
        ranges: Vec<Range<usize>>,
    ) -> Result<Self, Error> {
        let mut uses = region.uses();
        if uses.retired {
            return Err(Error::NotRegistered { region: region.id });
        }
        Self::take_from(region, &mut uses, ranges)
    }

    fn take_from(
        region: &Arc<RegionCore>,
        uses: &mut Uses,
        ranges: Vec<Range<usize>>,
    ) -> Result<Self, Error> {
        let ranges = normalize(ranges).map_err(|range| region.busy(&range))?;
        uses.claims.own(&ranges).map_err(|range| region.busy(&range))?;
        Ok(Self { region: Arc::clone(region), ranges })
    }

    pub(crate) fn region(&self) -> &Arc<RegionCore> {
        &self.region
    }
}

impl Drop for ExclusiveClaim {
    fn drop(&mut self) {
        self.region.uses().claims.disown(&self.ranges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(len: usize) -> Region {
        let mapping = Mapping::anonymous(len).unwrap();
        Region { core: Arc::new(RegionCore::new(0, 0, mapping, None)) }
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let region = region(100);
        region.write(10..20, |bytes| bytes.fill(5)).unwrap();
        let inner = region
            .read(0..50, |outer| {
                assert_eq!(outer[15], 5);
                assert_eq!(region.write(49..60, |_| ()).unwrap_err().kind(), "busy");
                region.write(50..60, |_| ()).unwrap();
                region.read(10..20, <[u8]>::to_vec).unwrap()
            })
            .unwrap();
        assert_eq!(inner, [5; 10]);
        region
            .write(0..10, |_| {
                assert_eq!(region.read(9..11, |_| ()).unwrap_err().kind(), "busy");
                assert_eq!(region.write(0..1, |_| ()).unwrap_err().kind(), "busy");
                region.read(10..11, |_| ()).unwrap();
            })
            .unwrap();
        region.write(0..100, |_| ()).unwrap();
    }

    #[test]
    fn a_region_in_use_is_not_retired_and_a_retired_one_takes_no_transfers() {
        let region = region(10);
        let transfer = ExclusiveClaim::for_transfer(&region.core, vec![0..2, 3..4]).unwrap();
        assert_eq!(region.core.retire().unwrap_err().kind(), "busy");
        region
            .read(5..6, |_| assert_eq!(region.core.retire().unwrap_err().kind(), "busy"))
            .unwrap();
        drop(transfer);
        region.core.retire().unwrap();
        let late = ExclusiveClaim::for_transfer(&region.core, vec![0..2, 3..4]);
        assert_eq!(late.unwrap_err().kind(), "not_registered");
        assert_eq!(region.core.retire().unwrap_err().kind(), "not_registered");
        region.write(0..10, |_| ()).unwrap();
    }

    #[test]
    fn memory_comes_back_when_nobody_else_has_it() {
        let region = region(10);
        region.write(0..10, |bytes| bytes.fill(3)).unwrap();
        let region = region.into_mapping().unwrap_err();
        region.core.retire().unwrap();
        let clone = region.clone();
        let region = region.into_mapping().unwrap_err();
        drop(clone);
        assert_eq!(region.into_mapping().unwrap().as_slice(), [3; 10]);
    }

    #[test]
    fn a_panic_gives_the_claim_back() {
        let region = region(10);
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            region.write(0..10, |_| panic!("on purpose"))
        }));
        assert!(caught.is_err());
        region.write(0..10, |_| ()).unwrap();
    }

    #[test]
    #[expect(clippy::reversed_empty_ranges, reason = "a reversed range is the bad input")]
    fn ranges_outside_are_refused() {
        let region = region(10);
        assert_eq!(region.read(0..11, |_| ()).unwrap_err().kind(), "out_of_range");
        assert_eq!(region.read(5..4, |_| ()).unwrap_err().kind(), "out_of_range");
        assert_eq!(
            region.write(usize::MAX - 1..usize::MAX, |_| ()).unwrap_err().kind(),
            "out_of_range"
        );
        assert_eq!(region.read(10..10, |bytes| bytes.len()).unwrap(), 0);
    }
}
