//! From a stack to the name of its owner.

use super::pattern::FramePattern;
use crate::signature::{Signature, closest};
use crate::trace::Frame;
use crate::version::UcxVersion;

/// Names owners. Its lists come from `signatures.toml`; see [`crate::signature::Known`].
#[derive(Debug, Clone, Copy)]
pub struct Namer<'a> {
    /// Known bugs, some of which know their stacks.
    pub signatures: &'a [Signature],
    /// Frames that only hand memory on: C libraries, allocators, pools.
    pub plumbing: &'a [FramePattern],
    /// The version of the UCX that runs, if one does and tells.
    pub ucx: Option<UcxVersion>,
}

impl Namer<'_> {
    /// The known owner of what `frames` has mapped, if it is one: of several, the one whose pattern says most.
    pub fn known(&self, frames: &[Frame]) -> Option<&Signature> {
        let affected = self.signatures.iter().filter(|signature| match (signature.ucx, self.ucx) {
            (Some(range), Some(version)) => range.contains(version),
            _ => true,
        });
        closest(affected, frames)
    }

    /// The name of the owner of what `frames` (innermost first) has mapped: a known one, or the first function that is
    /// no plumbing, with its module. `None` without a frame that says anything.
    pub fn name(&self, frames: &[Frame]) -> Option<String> {
        if let Some(signature) = self.known(frames) {
            return Some(signature.owner.clone());
        }
        self.frame(frames).map(short)
    }

    /// The frame that asked for the memory: the innermost that is no plumbing, else the innermost with a name, else the
    /// innermost that lies in a file.
    pub fn frame<'f>(&self, frames: &'f [Frame]) -> Option<&'f Frame> {
        let asks = |frame: &&Frame| {
            frame.module.is_some() && !self.plumbing.iter().any(|pattern| pattern.matches(frame))
        };
        frames
            .iter()
            .find(asks)
            .or_else(|| frames.iter().find(|frame| frame.function.is_some()))
            .or_else(|| frames.iter().find(|frame| frame.module.is_some()))
    }
}

/// `ucs_mpool_grow (libucs.so.0)`: without the offset, by which the callers of one function differ.
pub fn short(frame: &Frame) -> String {
    let file = frame.module.as_deref().map(|path| path.rsplit('/').next().unwrap_or(path));
    match (&frame.function, file) {
        (Some(function), Some(file)) => format!("{function} ({file})"),
        (None, Some(file)) => format!("{file}+{:#x}", frame.offset),
        (Some(function), None) => function.clone(),
        (None, None) => format!("{:#x}", frame.offset),
    }
}

#[cfg(test)]
mod tests {
    use crate::signature::Known;
    use crate::stacks::fixture::{INVALIDATION_QUEUE, frames};

    fn name(texts: &[&str], ucx: Option<&str>) -> Option<String> {
        let known = Known::builtin();
        let ucx = ucx.map(|version| version.parse().unwrap());
        known.namer(ucx).name(&frames(texts))
    }

    #[test]
    fn the_queue_of_ucx_is_known_by_its_stack_and_version() {
        let queue = Some("UCX registration cache, invalidation queue".to_string());
        assert_eq!(name(INVALIDATION_QUEUE, Some("1.19.0")), queue);
        assert_eq!(name(INVALIDATION_QUEUE, None), queue, "a process that tells no version");
        assert_ne!(name(INVALIDATION_QUEUE, Some("1.16.0")), queue);
    }

    #[test]
    fn the_tree_of_later_versions_is_told_from_the_queue() {
        let mut tree = frames(INVALIDATION_QUEUE);
        tree.insert(5, frames(&["ucs_interval_tree_insert_slow@libucs.so.0"]).remove(0));
        let known = Known::builtin();
        let owner = "UCX registration cache, invalidation tree";
        assert_eq!(known.namer(None).name(&tree).as_deref(), Some(owner));
        assert_eq!(known.namer("1.22.0".parse().ok()).name(&tree).as_deref(), Some(owner));
    }

    #[test]
    fn an_owner_is_who_asked_for_the_memory() {
        let asked = name(
            &[
                "mmap64@libc.so.6",
                "@libc.so.6",
                "malloc@libc.so.6",
                "alloc::alloc::alloc@app",
                "Batch::new@app",
                "main@app",
            ],
            None,
        );
        assert_eq!(asked.as_deref(), Some("Batch::new (app)"));
        assert_eq!(
            name(&["mmap@libc.so.6", "@libfoo.so.1"], None).as_deref(),
            Some("libfoo.so.1+0x1001")
        );
        assert_eq!(name(&["mmap@libc.so.6"], None).as_deref(), Some("mmap (libc.so.6)"));
        assert_eq!(name(&["@"], None), None);
        assert_eq!(name(&[], None), None);
    }
}
