//! What UCX reports: callbacks write it down, the progress thread acts on it afterwards.
//!
//! Callbacks run inside of calls into UCX, when the worker is in the middle of something, so they
//! decide nothing. They run on the thread that makes the call; so the list is that thread's own, and
//! whoever drives a worker takes what is in it before it lets somebody else do so.

use std::cell::RefCell;
use std::ffi::c_void;
use std::ptr::NonNull;

use super::ffi::{Request, Status, ucp_ep_h};
use super::wire::Greeting;
use crate::flow::{JOB_IDS, JobId};

/// Names one link of one worker. Never reused.
pub(super) type LinkId = u32;

/// Something that has happened to the worker of this thread.
#[derive(Debug)]
pub(super) enum Event {
    /// A posted operation has ended, and its request must be freed.
    Ended { tag: Tag, status: Status, request: Option<Request> },
    /// UCX has given up on an endpoint. It must still be closed.
    LinkFailed { link: LinkId, status: Status },
    /// A peer has answered a hello.
    Answered(Greeting),
}

/// What a posted operation was, packed into the pointer that UCX hands back with its completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    /// A read of one block.
    Get { link: LinkId, job: JobId },
    /// The message at the head of a link's outbox.
    Send { link: LinkId },
    /// The close of a link's endpoint.
    Close { link: LinkId },
}

// The link in the upper half; a job or one of these in the lower.
const SEND: u32 = JOB_IDS;
const CLOSE: u32 = JOB_IDS + 1;

const _: () = assert!(usize::BITS == 64, "a tag needs the 64 bits of a pointer");

impl Tag {
    pub(super) fn pack(self) -> usize {
        let (link, rest) = match self {
            Self::Get { link, job } => (link, job),
            Self::Send { link } => (link, SEND),
            Self::Close { link } => (link, CLOSE),
        };
        (link as usize) << 32 | rest as usize
    }

    fn unpack(packed: usize) -> Self {
        let link = (packed >> 32) as u32;
        match packed as u32 {
            SEND => Self::Send { link },
            CLOSE => Self::Close { link },
            job => Self::Get { link, job },
        }
    }
}

thread_local! {
    static EVENTS: RefCell<Vec<Event>> = const { RefCell::new(Vec::new()) };
}

/// Takes what has happened on this thread, oldest first, and leaves `spare`, an empty list whose
/// capacity is used again.
pub(super) fn take(spare: Vec<Event>) -> Vec<Event> {
    debug_assert!(spare.is_empty());
    EVENTS.with_borrow_mut(|events| std::mem::replace(events, spare))
}

/// Writes something down for the next [`take`] on this thread.
pub(super) fn note(event: Event) {
    EVENTS.with_borrow_mut(|events| events.push(event));
}

/// The completion callback of every operation with a [`Tag`].
pub(super) unsafe extern "C" fn ended(request: *mut c_void, status: Status, tag: *mut c_void) {
    let tag = Tag::unpack(tag as usize);
    note(Event::Ended { tag, status, request: NonNull::new(request) });
}

/// The error callback of every endpoint; its argument is the [`LinkId`].
pub(super) unsafe extern "C" fn link_failed(link: *mut c_void, _: ucp_ep_h, status: Status) {
    note(Event::LinkFailed { link: link as usize as LinkId, status });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_round_trip() {
        for link in [0, 1, u32::MAX] {
            let jobs = [0, 7, JOB_IDS - 1].map(|job| Tag::Get { link, job });
            for tag in jobs.into_iter().chain([Tag::Send { link }, Tag::Close { link }]) {
                assert_eq!(Tag::unpack(tag.pack()), tag);
            }
        }
    }

    #[test]
    fn events_are_taken_once_and_in_order() {
        note(Event::Answered(Greeting { token: 1, instance: 0 }));
        note(Event::Answered(Greeting { token: 2, instance: 0 }));
        let tokens: Vec<_> = take(Vec::new())
            .iter()
            .map(|event| match event {
                Event::Answered(greeting) => greeting.token,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(tokens, [1, 2]);
        assert!(take(Vec::new()).is_empty());
    }
}
