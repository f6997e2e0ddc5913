//! Whose the objects of one device are. Pure.
//!
//! The kernel names the thread that has made an object, and none once that thread has ended: a queue pair that a pool's
//! thread has made belongs to nobody then. But every object is in a context, which a process has opened, and somebody who has
//! made one of its objects mostly lives. So what is known of one object of a context holds for all of them.

use std::collections::{BTreeMap, BTreeSet};

use super::Objects;
use super::message::Kind;

/// One object, as the kernel lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Object {
    pub(super) kind: Kind,
    /// The thread that has made it; `None` if it has ended.
    pub(super) thread: Option<u32>,
    /// The protection domain that it is, or is in.
    pub(super) domain: Option<u32>,
    /// The context that it is in; the kernel tells it of protection domains and completion queues.
    pub(super) context: Option<u32>,
    /// Bytes of a memory region, 0 of others.
    pub(super) bytes: u64,
}

/// What each process has of `objects`, those of one device. `process_of` tells whose a thread is, and is asked once for each:
/// a thread may have made thousands of them.
pub(super) fn by_process(
    objects: &[Object],
    process_of: impl Fn(u32) -> Option<u32>,
) -> BTreeMap<u32, Objects> {
    let threads: BTreeSet<u32> = objects.iter().filter_map(|object| object.thread).collect();
    let processes: BTreeMap<u32, u32> =
        threads.into_iter().filter_map(|thread| Some((thread, process_of(thread)?))).collect();
    let domains = objects.iter().filter(|object| object.kind == Kind::ProtectionDomain);
    let contexts: BTreeMap<u32, u32> =
        domains.filter_map(|object| Some((object.domain?, object.context?))).collect();
    let context =
        |object: &Object| object.context.or_else(|| contexts.get(&object.domain?).copied());
    let maker = |object: &Object| object.thread.and_then(|thread| processes.get(&thread).copied());
    let owners: BTreeMap<u32, u32> =
        objects.iter().filter_map(|object| Some((context(object)?, maker(object)?))).collect();
    let mut held: BTreeMap<u32, Objects> = BTreeMap::new();
    for object in objects {
        let of_context = || owners.get(&context(object)?).copied();
        let Some(process) = maker(object).or_else(of_context) else { continue };
        held.entry(process).or_default().count(object);
    }
    held
}

impl Objects {
    fn count(&mut self, object: &Object) {
        match object.kind {
            Kind::QueuePair => self.queue_pairs += 1,
            Kind::CompletionQueue => self.completion_queues += 1,
            Kind::ProtectionDomain => self.protection_domains += 1,
            Kind::MemoryRegion => {
                self.devices = 1;
                self.memory_regions += 1;
                self.region_bytes += object.bytes;
            }
        }
    }

    /// Adds what the same process has on another device.
    pub(super) fn add(&mut self, other: &Objects) {
        self.devices += other.devices;
        self.memory_regions += other.memory_regions;
        self.region_bytes += other.region_bytes;
        self.queue_pairs += other.queue_pairs;
        self.completion_queues += other.completion_queues;
        self.protection_domains += other.protection_domains;
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::tests::captured;
    use super::*;

    #[test]
    fn objects_of_threads_that_are_gone_belong_to_who_opened_the_device() {
        let each = Objects {
            devices: 1,
            memory_regions: 2,
            region_bytes: 557_056 + 131_072,
            queue_pairs: 2,
            completion_queues: 1,
            protection_domains: 1,
        };
        let held = by_process(&captured(), Some);
        assert_eq!(held, BTreeMap::from([(170, each), (171, each)]));
        let (mut twice, once) = (each, each);
        twice.add(&once);
        assert_eq!((twice.devices, twice.queue_pairs), (2, 4));
    }

    #[test]
    fn a_thread_is_looked_up_once() {
        let asked = std::cell::RefCell::new(Vec::new());
        let process_of = |thread| {
            asked.borrow_mut().push(thread);
            Some(thread)
        };
        by_process(&captured(), process_of);
        assert_eq!(asked.into_inner(), [170, 171]);
    }

    #[test]
    fn threads_count_for_their_process_and_strangers_for_nobody() {
        let held = by_process(&captured(), |thread| (thread == 171).then_some(42));
        assert_eq!(held.keys().copied().collect::<Vec<_>>(), [42]);
        assert_eq!(held[&42].memory_regions, 2);
    }
}
