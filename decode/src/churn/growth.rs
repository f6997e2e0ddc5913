//! Patterns that take memory and keep it: for a while, for good reason, or for none.

use std::fs::File;

use pdlab_transport::file_view::FileView;
use pdlab_transport::mapping::page_size;
use pdlab_transport::{Error, Mapping};

use super::{Dice, Done, Source};

/// Address space that [`Plant`] takes at a time, at most; not 64 MiB, by which malloc arenas are known.
const PLOT_BYTES: usize = 32 << 20;

/// Reads this program's own file, page by page and then again: a file that is there, is large, and
/// does not change.
#[derive(Debug)]
pub(super) struct Files {
    bytes: usize,
    view: Option<FileView>,
    at: usize,
}

impl Files {
    pub(super) fn new(bytes: usize) -> Self {
        Self { bytes: bytes.next_multiple_of(page_size()), view: None, at: 0 }
    }
}

impl Source for Files {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let view = match &mut self.view {
            Some(view) => view,
            none => {
                let own = File::open("/proc/self/exe");
                let own = own.map_err(|source| Error::Io {
                    operation: "open this program's own file".into(),
                    source,
                })?;
                none.insert(FileView::open(own)?)
            }
        };
        let end = view.len().min(self.at + self.bytes);
        view.touch(self.at..end)?;
        self.at = if end == view.len() { 0 } else { end };
        Ok(Done::USE)
    }

    fn held(&self) -> u64 {
        u64::from(self.view.is_some())
    }
}

/// Fills up, and then uses what it has.
#[derive(Debug)]
pub(super) struct Pool {
    bytes: usize,
    resident: usize,
    dice: Dice,
    buffers: Vec<Mapping>,
}

impl Pool {
    pub(super) fn new(bytes: usize, resident: usize, dice: Dice) -> Self {
        Self { bytes, resident, dice, buffers: Vec::with_capacity(resident) }
    }
}

impl Source for Pool {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        if self.buffers.len() < self.resident {
            let mut buffer = Mapping::anonymous(self.bytes)?;
            buffer.prefault();
            self.buffers.push(buffer);
        } else {
            let at = self.dice.below(self.buffers.len());
            self.buffers[at].as_mut_slice().fill(1);
        }
        Ok(Done::USE)
    }

    fn held(&self) -> u64 {
        self.buffers.len() as u64
    }
}

/// Touches the next bytes and never gives them back. A mapping is for a few operations: so few bytes
/// per operation are what they say, and yet what is planted in a run was mapped in it, too.
#[derive(Debug)]
pub(super) struct Plant {
    bytes: usize,
    /// Address space to take next.
    plot_bytes: usize,
    plots: Vec<Mapping>,
    /// Bytes taken of the last one.
    taken: usize,
}

impl Plant {
    pub(super) fn new(bytes: usize) -> Self {
        let plot_bytes = bytes.next_multiple_of(page_size()).saturating_mul(4).min(PLOT_BYTES);
        Self { bytes, plot_bytes, plots: Vec::new(), taken: 0 }
    }
}

impl Source for Plant {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        let mut due = self.bytes;
        while due > 0 {
            let room = self.plots.last().map_or(0, |plot| plot.len() - self.taken);
            if room == 0 {
                let mut plot = Mapping::anonymous(self.plot_bytes)?;
                plot.refuse_huge_pages();
                self.plots.push(plot);
                self.taken = 0;
                continue;
            }
            let take = due.min(room);
            let plot = self.plots.last_mut().expect("it has room");
            plot.as_mut_slice()[self.taken..self.taken + take].fill(1);
            self.taken += take;
            due -= take;
        }
        Ok(Done::USE)
    }

    fn held(&self) -> u64 {
        self.plots.len() as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plant_takes_what_it_says() {
        let mut plant = Plant::new(PLOT_BYTES / 3);
        for _ in 0..4 {
            plant.run(1).unwrap();
        }
        assert_eq!((plant.plots.len(), plant.taken), (2, 4 * (PLOT_BYTES / 3) - PLOT_BYTES));
    }

    #[test]
    fn a_file_is_read_to_its_end_and_from_the_start_again() {
        let mut files = Files::new(1 << 20);
        files.run(1).unwrap();
        let len = files.view.as_ref().unwrap().len();
        for _ in 0..len.div_ceil(1 << 20) {
            files.run(1).unwrap();
        }
        assert_eq!(files.at, len.min(1 << 20));
    }
}
