//! The requests that an engine holds, by slot for the steps and by id for the driver.

use std::collections::BTreeMap;
use std::ops::{Index, IndexMut};

use crate::request::{Request, RequestId, RequestState};

/// Requests in slots that are used again. Queues and steps refer to slots, because a step over a
/// thousand requests has no time to look ids up.
#[derive(Debug, Default)]
pub(crate) struct RequestTable {
    slots: Vec<Option<Request>>,
    vacant: Vec<u32>,
    by_id: BTreeMap<RequestId, u32>,
}

impl RequestTable {
    pub(crate) fn len(&self) -> usize {
        self.by_id.len()
    }

    pub(crate) fn slot_of(&self, id: RequestId) -> Option<u32> {
        self.by_id.get(&id).copied()
    }

    /// The request in `slot`, if it is still the one that was admitted as `serial`.
    pub(crate) fn get_mut(&mut self, slot: u32, serial: u64) -> Option<&mut Request> {
        let request = self.slots.get_mut(slot as usize)?.as_mut();
        request.filter(|request| request.serial == serial)
    }

    /// Whether `slot` holds a running request; false once it is vacant.
    pub(crate) fn is_running(&self, slot: u32) -> bool {
        let request = self.slots[slot as usize].as_ref();
        request.is_some_and(|request| request.state == RequestState::Running)
    }

    /// Adds a request whose id is not in the table, and returns its slot.
    pub(crate) fn insert(&mut self, request: Request) -> u32 {
        let slot = self.vacant.pop().unwrap_or(self.slots.len() as u32);
        let previous = self.by_id.insert(request.id, slot);
        debug_assert!(previous.is_none(), "ids are checked on admission");
        match self.slots.get_mut(slot as usize) {
            Some(vacant) => *vacant = Some(request),
            None => self.slots.push(Some(request)),
        }
        slot
    }

    pub(crate) fn remove(&mut self, slot: u32) {
        if let Some(request) = self.slots[slot as usize].take() {
            self.by_id.remove(&request.id);
            self.vacant.push(slot);
        }
    }

    /// Slots and requests, in order of id.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &Request)> {
        self.by_id.values().map(|&slot| (slot, &self[slot]))
    }
}

impl Index<u32> for RequestTable {
    type Output = Request;

    fn index(&self, slot: u32) -> &Request {
        self.slots[slot as usize].as_ref().expect("queues name occupied slots")
    }
}

impl IndexMut<u32> for RequestTable {
    fn index_mut(&mut self, slot: u32) -> &mut Request {
        self.slots[slot as usize].as_mut().expect("queues name occupied slots")
    }
}
