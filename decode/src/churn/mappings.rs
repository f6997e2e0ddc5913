//! Patterns that map memory and give it back.

use pdlab_transport::mapping::page_size;
use pdlab_transport::{Error, Mapping};

use super::{Dice, Done, Source};

/// Pieces that are cut from one mapping.
const PIECES: usize = 64;

/// A mapping whose first page is there: unmapping untouched memory would be cheaper than real.
fn touched(bytes: usize) -> Result<Mapping, Error> {
    let mut mapping = Mapping::anonymous(bytes)?;
    mapping.as_mut_slice()[0] = 1;
    Ok(mapping)
}

/// The same range again and again.
#[derive(Debug)]
pub(super) struct Same {
    bytes: usize,
}

impl Same {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes }
    }
}

impl Source for Same {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        drop(touched(self.bytes)?);
        Ok(Done::UNMAP)
    }
}

/// Pieces of large mappings, in order.
#[derive(Debug)]
pub(super) struct Adjacent {
    bytes: usize,
    rest: Option<Mapping>,
}

impl Adjacent {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: bytes.next_multiple_of(page_size()), rest: None }
    }

    /// The next piece.
    fn cut(&mut self) -> Result<Mapping, Error> {
        let whole = match self.rest.take() {
            Some(rest) => rest,
            None => touched(self.bytes * PIECES)?,
        };
        if whole.len() <= self.bytes {
            return Ok(whole);
        }
        let (piece, rest) = whole.split_at(self.bytes)?;
        self.rest = Some(rest);
        Ok(piece)
    }
}

impl Source for Adjacent {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        drop(self.cut()?);
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        u64::from(self.rest.is_some())
    }
}

/// Every second piece of one large mapping, in random order, so that no two of them touch; then the
/// pieces between them, and all over again. What it keeps is mapped at once and never touched: its
/// memory does not grow with the holes.
#[derive(Debug)]
pub(super) struct Disjoint {
    bytes: usize,
    resident: usize,
    dice: Dice,
    /// What stays between the holes.
    kept: Vec<Mapping>,
    /// What is to become a hole, the next one last.
    holes: Vec<Mapping>,
}

impl Disjoint {
    pub(super) fn new(bytes: usize, resident: usize, dice: Dice) -> Self {
        let bytes = bytes.next_multiple_of(page_size());
        Self { bytes, resident, dice, kept: Vec::new(), holes: Vec::new() }
    }

    fn map(&mut self) -> Result<(), Error> {
        let mut rest = Mapping::anonymous(2 * self.resident * self.bytes)?;
        for _ in 1..self.resident {
            let (hole, behind) = rest.split_at(self.bytes)?;
            let (kept, behind) = behind.split_at(self.bytes)?;
            self.holes.push(hole);
            self.kept.push(kept);
            rest = behind;
        }
        let (hole, kept) = rest.split_at(self.bytes)?;
        self.holes.push(hole);
        self.kept.push(kept);
        // Fisher-Yates.
        for at in (1..self.holes.len()).rev() {
            let other = self.dice.below(at + 1);
            self.holes.swap(at, other);
        }
        Ok(())
    }
}

impl Source for Disjoint {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let Some(mut piece) = self.holes.pop().or_else(|| self.kept.pop()) else {
            self.map()?;
            return Ok(Done::PREPARED);
        };
        piece.as_mut_slice()[0] = 1;
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        (self.kept.len() + self.holes.len()) as u64
    }
}

/// Replaces a mapping of random size at a random place.
#[derive(Debug)]
pub(super) struct Random {
    bytes: usize,
    resident: usize,
    kept: Vec<Mapping>,
    dice: Dice,
}

impl Random {
    pub(super) fn new(bytes: usize, resident: usize, dice: Dice) -> Self {
        Self { bytes, resident, kept: Vec::new(), dice }
    }
}

impl Source for Random {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let fresh = touched(1 + self.dice.below(self.bytes))?;
        if self.kept.len() < self.resident {
            self.kept.push(fresh);
            return Ok(Done::PREPARED);
        }
        let at = self.dice.below(self.kept.len());
        self.kept[at] = fresh;
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        self.kept.len() as u64
    }
}

/// Gives the pages of one mapping back, and the mapping stays.
#[derive(Debug)]
pub(super) struct Madvise {
    bytes: usize,
    mapping: Option<Mapping>,
}

impl Madvise {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes, mapping: None }
    }
}

impl Source for Madvise {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let mapping = match &mut self.mapping {
            Some(mapping) => mapping,
            none => none.insert(touched(self.bytes)?),
        };
        mapping.as_mut_slice()[0] = 1;
        let len = mapping.len();
        mapping.discard(0..len)?;
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        u64::from(self.mapping.is_some())
    }
}

/// Makes one mapping larger and smaller. UCX counts each `mremap` as an unmap of the old range.
#[derive(Debug)]
pub(super) struct Mremap {
    bytes: usize,
    mapping: Option<Mapping>,
}

impl Mremap {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: bytes.next_multiple_of(page_size()), mapping: None }
    }
}

impl Source for Mremap {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let mapping = match &mut self.mapping {
            Some(mapping) => mapping,
            none => none.insert(touched(self.bytes)?),
        };
        let len = if mapping.len() == self.bytes { 2 * self.bytes } else { self.bytes };
        mapping.resize(len)?;
        mapping.as_mut_slice()[len - 1] = 1;
        Ok(Done::UNMAP)
    }

    fn held(&self) -> u64 {
        u64::from(self.mapping.is_some())
    }
}
