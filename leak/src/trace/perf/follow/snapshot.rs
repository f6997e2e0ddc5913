//! What is live now.

use std::fs;
use std::os::unix::fs::MetadataExt;

use super::super::super::book::{Holding, Owner};
use super::super::super::modules::Image;
use super::super::super::symbols::Module;
use super::super::super::traced::{CallKind, Confidence, ModuleState};
use super::super::super::worker::Snapshot;
use super::*;

impl Follower {
    pub(super) fn snapshot(&mut self) -> Snapshot {
        let maps = if self.ended { None } else { self.maps() };
        let mut unknown_bytes = None;
        if let Some(maps) = &maps {
            self.modules.set(&maps.code);
            unknown_bytes = Some(self.unknown_bytes(maps));
        }
        let sampled_bytes = unknown_bytes.map(|bytes| bytes.saturating_sub(self.missed_bytes));
        let mut holdings = self.book.holdings(sampled_bytes);
        // What is mapped and stands in no stack.
        let mut untracked_bytes = self.book.untracked_bytes();
        if self.watch.worst_one_in > 1 || self.lost > 0 {
            let estimated = holdings.iter().filter(|held| held.spans.is_empty());
            let estimated: u64 = estimated
                .filter(|held| held.owner.kind != CallKind::Fault)
                .map(|held| held.live_bytes)
                .sum();
            untracked_bytes =
                untracked_bytes.max(unknown_bytes.unwrap_or(0).saturating_sub(estimated));
        }
        if let Some(maps) = &maps {
            holdings.extend(self.unseen_heap(maps));
        }
        let place =
            |held: &Holding| (held.owner.stack, self.stacks.places(held.owner.stack).to_vec());
        let mapped = self.modules.mapped_images();
        let state = |(number, image): (usize, &Arc<Image>)| Module {
            image: Arc::clone(image),
            state: self.state(image, mapped.binary_search(&(number as u32)).is_ok()),
        };
        let mut remarks = self.remarks.clone();
        remarks.extend(self.watch.thinning.as_ref().map(Thinning::remark));
        if self.execs > 0 {
            remarks.push(format!(
                "The process has called exec {} time(s): what it held before is gone, and not shown.",
                self.execs
            ));
        }
        if self.stacks.is_full() {
            remarks.push(format!(
                "There are more than {} distinct stacks; mappings of others are under the empty stack.",
                self.options.max_stacks
            ));
        }
        Snapshot {
            stacks: holdings.iter().map(place).collect(),
            modules: self.modules.images().iter().enumerate().map(state).collect(),
            names: Vec::new(),
            counts: self.counts(),
            confidence: self.confidence(),
            untracked_bytes,
            remarks,
            holdings,
        }
    }

    fn confidence(&self) -> Confidence {
        if self.lost > 0 {
            let all = self.records + self.lost;
            Confidence::Lost { share: self.lost as f64 / all as f64 }
        } else if self.watch.worst_one_in > 1 {
            Confidence::Sampled { one_in: self.watch.worst_one_in }
        } else {
            Confidence::Complete
        }
    }

    fn state(&self, image: &Image, mapped: bool) -> ModuleState {
        if image.memory.is_some() {
            return ModuleState::NoFile;
        }
        if !mapped {
            return ModuleState::Unloaded;
        }
        match fs::metadata(self.modules.seen_from_here(&image.path)) {
            Ok(file) if file.ino() == image.inode => ModuleState::Present,
            _ => ModuleState::Replaced,
        }
    }

    /// What is mapped now, was not when the trace began, and was followed by nobody.
    pub(super) fn unknown_bytes(&mut self, maps: &Maps) -> u64 {
        self.book.retain(&maps.spans);
        let new = maps.new_bytes(&self.baseline.spans);
        let followed = self.book.followed_bytes() + self.unseen_heap_growth(maps);
        new.saturating_sub(followed)
    }

    /// How much larger the heap of `brk` is, if nobody has followed who made it so.
    fn unseen_heap_growth(&self, maps: &Maps) -> u64 {
        match (self.watch.thinning.is_some(), self.baseline.heap_end, maps.heap_end) {
            (true, Some(before), Some(now)) => {
                let followed = self.book.holdings(None);
                let followed = followed.iter().filter(|held| held.owner.kind == CallKind::Brk);
                now.saturating_sub(before)
                    .saturating_sub(followed.map(|held| held.live_bytes).sum())
            }
            _ => 0,
        }
    }

    fn unseen_heap(&self, maps: &Maps) -> Option<Holding> {
        let live_bytes = self.unseen_heap_growth(maps);
        let end = maps.heap_end?;
        (live_bytes > 0).then(|| Holding {
            owner: Owner { stack: NO_STACK, kind: CallKind::Brk },
            live_bytes,
            spans: vec![Span { start: end - live_bytes, end }],
            maps: 0,
            estimated: false,
        })
    }
}
