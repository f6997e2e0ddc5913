//! The inbox: what peers have told this agent, bounded in number and bytes.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;

/// A message from a peer: attached to a read, or sent on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notification {
    /// Name of the sending agent, as it gave it. Not authenticated.
    pub from: String,
    /// What it said.
    pub payload: Bytes,
}

/// A queue that never blocks its producer: what does not fit is refused.
#[derive(Debug)]
pub(crate) struct Notifications {
    max_count: usize,
    max_bytes: usize,
    /// The fault: what was handed out stays in the queue.
    stay: bool,
    queue: Mutex<Queue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<Notification>,
    /// How many of them were handed out; 0 unless they stay.
    seen: usize,
    bytes: usize,
    closed: bool,
}

impl Notifications {
    pub(crate) fn new(max_count: usize, max_bytes: usize) -> Self {
        Self { max_count, max_bytes, stay: false, queue: Mutex::default(), arrived: Notify::new() }
    }

    /// A queue that is read and never emptied, and so cannot have a bound.
    pub(crate) fn that_stay() -> Self {
        Self { stay: true, ..Self::new(usize::MAX, usize::MAX) }
    }

    /// Queues a notification. False if it was dropped, for want of room or after `close`.
    pub(crate) fn push(&self, notification: Notification) -> bool {
        let size = size_of_one(&notification);
        let mut queue = self.lock();
        let bytes = queue.bytes.saturating_add(size);
        let full = queue.waiting.len() >= self.max_count || bytes > self.max_bytes;
        if full || queue.closed {
            return false;
        }
        queue.bytes = bytes;
        queue.waiting.push_back(notification);
        drop(queue);
        self.arrived.notify_one();
        true
    }

    /// The oldest notification, when there is one; `None` after `close`. Cancel safe.
    pub(crate) async fn next(&self) -> Option<Notification> {
        loop {
            // Registered before the queue is looked at, so that no arrival is missed in between.
            let arrived = self.arrived.notified();
            {
                let mut queue = self.lock();
                if queue.closed {
                    // Hand the permit on: every waiter must learn of the end.
                    self.arrived.notify_one();
                    return None;
                }
                if let Some(notification) = self.take(&mut queue) {
                    if queue.seen < queue.waiting.len() {
                        // One permit may stand for many arrivals: pass it to the next waiter.
                        self.arrived.notify_one();
                    }
                    return Some(notification);
                }
            }
            arrived.await;
        }
    }

    fn take(&self, queue: &mut Queue) -> Option<Notification> {
        if self.stay {
            let notification = queue.waiting.get(queue.seen)?.clone();
            queue.seen += 1;
            return Some(notification);
        }
        let notification = queue.waiting.pop_front()?;
        queue.bytes -= size_of_one(&notification);
        Some(notification)
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().waiting.len()
    }

    /// Forgets what waits and ends every `next`.
    pub(crate) fn close(&self) {
        let mut queue = self.lock();
        queue.closed = true;
        queue.waiting.clear();
        (queue.seen, queue.bytes) = (0, 0);
        drop(queue);
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn size_of_one(notification: &Notification) -> usize {
    notification.from.len() + notification.payload.len()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn note(payload: &'static [u8]) -> Notification {
        Notification { from: "a".to_owned(), payload: Bytes::from_static(payload) }
    }

    #[tokio::test]
    async fn keeps_order_and_bounds() {
        let inbox = Notifications::new(2, 1_000);
        assert!(inbox.push(note(b"1")) && inbox.push(note(b"2")));
        assert!(!inbox.push(note(b"3")), "two are the limit");
        assert_eq!(inbox.next().await, Some(note(b"1")));
        assert!(inbox.push(note(b"4")));
        assert_eq!(inbox.next().await, Some(note(b"2")));
        assert_eq!(inbox.next().await, Some(note(b"4")));
    }

    #[tokio::test]
    async fn bytes_are_bounded_too() {
        let inbox = Notifications::new(100, 5);
        assert!(inbox.push(note(b"1234")));
        assert!(!inbox.push(note(b"")), "the name counts as well");
        inbox.next().await;
        assert!(inbox.push(note(b"")));
    }

    #[tokio::test]
    async fn what_stays_is_handed_out_once_and_in_order() {
        let inbox = Notifications::that_stay();
        assert!(inbox.push(note(b"1")) && inbox.push(note(b"2")));
        assert_eq!(inbox.next().await, Some(note(b"1")));
        assert_eq!(inbox.next().await, Some(note(b"2")));
        assert!(inbox.push(note(b"3")));
        assert_eq!(inbox.next().await, Some(note(b"3")));
        assert_eq!(inbox.len(), 3);
        inbox.close();
        assert_eq!((inbox.next().await, inbox.len()), (None, 0));
    }

    #[tokio::test]
    async fn close_ends_all_waiters_and_empties_the_queue() {
        let inbox = Arc::new(Notifications::new(10, 1_000));
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                tokio::spawn(async move { inbox.next().await })
            })
            .collect();
        tokio::task::yield_now().await;
        inbox.close();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), None);
        }
        assert!(!inbox.push(note(b"late")));
        assert_eq!(inbox.len(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn many_waiters_take_each_notification_once() {
        let inbox = Arc::new(Notifications::new(1_000, 1_000_000));
        let waiters: Vec<_> = (0..4)
            .map(|_| {
                let inbox = Arc::clone(&inbox);
                tokio::spawn(async move {
                    for _ in 0..100 {
                        inbox.next().await.unwrap();
                    }
                })
            })
            .collect();
        for _ in 0..400 {
            assert!(inbox.push(note(b"x")));
        }
        for waiter in waiters {
            waiter.await.unwrap();
        }
        assert_eq!(inbox.len(), 0);
    }
}
