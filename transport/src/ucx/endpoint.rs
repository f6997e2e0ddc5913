//! An endpoint, and the keys to its peer's memory.

use std::mem::zeroed;
use std::ptr::null_mut;
use std::rc::Rc;

use super::context::Registration;
use super::events::{self, LinkId, Tag};
use super::ffi::{
    AM_EAGER, AM_WITH_REPLY, CLOSE_FORCE, EP_TO_ADDRESS_WITH_ERRORS, ERRORS_OF_PEER, Posted,
    RequestParam, Status, error_handler, ucp_ep_h, ucp_ep_params_t, ucp_rkey_h,
};
use super::wire;
use super::worker::Worker;
use crate::counters::Held;

/// A connection to a peer's worker. Must be closed, and its operations ended, before it drops.
pub(super) struct Endpoint {
    worker: Rc<Worker>,
    handle: ucp_ep_h,
    link: LinkId,
    closed: bool,
}

impl Endpoint {
    /// Begins to connect. UCX reports failures as [`events::Event::LinkFailed`] for `link`.
    ///
    /// # Errors
    /// What UCX finds wrong with the address at first sight.
    pub(super) fn open(worker: &Rc<Worker>, address: &[u8], link: LinkId) -> Result<Self, Status> {
        // A copy of its own, aligned for whatever UCX wants to read from it.
        let address = address.to_vec();
        // SAFETY: plain data of C; all zeros is valid, and the mask says which fields count.
        let mut params: ucp_ep_params_t = unsafe { zeroed() };
        params.field_mask = EP_TO_ADDRESS_WITH_ERRORS;
        params.address = address.as_ptr().cast();
        params.err_mode = ERRORS_OF_PEER;
        params.err_handler = error_handler(events::link_failed, link as usize);
        let mut handle = null_mut();
        // SAFETY: the worker is alive and this is its thread. UCX reads the address during the
        // call; it is framed, so it is one that a UCX made. `handle` is written on success only.
        let status = unsafe { (worker.ucx().f.ucp_ep_create)(worker.handle, &params, &mut handle) };
        if !status.is_ok() {
            return Err(status);
        }
        Ok(Self { worker: Rc::clone(worker), handle, link, closed: false })
    }

    /// Makes a key from metadata usable on this endpoint, counted while it lives.
    ///
    /// # Errors
    /// What UCX finds wrong with it.
    pub(super) fn unpack(&self, key: &[u8], counted: Held) -> Result<RemoteKey, Status> {
        if self.closed {
            return Err(Status::CANCELED);
        }
        let key = key.to_vec();
        let mut handle = null_mut();
        // SAFETY: the endpoint is open. UCX reads the key during the call; it is framed, so it is
        // one that a UCX packed. `handle` is written on success only.
        let status = unsafe {
            (self.worker.ucx().f.ucp_ep_rkey_unpack)(self.handle, key.as_ptr().cast(), &mut handle)
        };
        if !status.is_ok() {
            return Err(status);
        }
        Ok(RemoteKey { worker: Rc::clone(&self.worker), handle, _counted: counted })
    }

    /// Reads `len` bytes at `remote` in the peer's memory into `local`.
    ///
    /// # Safety
    /// `local..local + len` must lie in `registration`'s region and be the caller's alone until
    /// the operation has ended: now, if this returns [`Posted::Done`] or [`Posted::Failed`], else
    /// with the [`events::Event::Ended`] that bears `tag`. `key` must be of this endpoint and must
    /// live as long.
    pub(super) unsafe fn get(
        &self,
        tag: Tag,
        (local, len): (*mut u8, usize),
        (remote, key): (u64, &RemoteKey),
        registration: &Registration,
    ) -> Posted {
        if self.closed {
            return Posted::Failed(Status::CANCELED);
        }
        let ucx = self.worker.ucx();
        let param = RequestParam::new(events::ended, tag.pack()).with_memh(registration.memh);
        // SAFETY: the endpoint is open and this is its thread; the caller vouches for the memory,
        // the key and their lifetime. UCX copies `param`.
        let posted = unsafe {
            (ucx.f.ucp_get_nbx)(self.handle, local.cast(), len, remote, key.handle, &param)
        };
        posted.posted()
    }

    /// Sends an active message. A [`wire::HELLO`] asks for an answer.
    ///
    /// # Safety
    /// `header` and `payload` must stay where they are, unchanged, until the operation has ended,
    /// as for [`get`](Self::get).
    pub(super) unsafe fn send(&self, tag: Tag, id: u32, header: &[u8], payload: &[u8]) -> Posted {
        if self.closed {
            return Posted::Failed(Status::CANCELED);
        }
        let flags = if id == wire::HELLO { AM_WITH_REPLY } else { AM_EAGER };
        let param = RequestParam::new(events::ended, tag.pack()).with_flags(flags).copied();
        // SAFETY: the endpoint is open and this is its thread; the caller vouches for the buffers.
        let posted = unsafe {
            (self.worker.ucx().f.ucp_am_send_nbx)(
                self.handle,
                id,
                header.as_ptr().cast(),
                header.len(),
                payload.as_ptr().cast(),
                payload.len(),
                &param,
            )
        };
        posted.posted()
    }

    /// Closes by force: does not wait for the peer, and ends what is outstanding, in here or soon.
    /// [`Posted::Pending`]: over when an event comes with [`Tag::Close`].
    pub(super) fn close(&mut self) -> Posted {
        if self.closed {
            return Posted::Done;
        }
        self.closed = true;
        let tag = Tag::Close { link: self.link };
        let param = RequestParam::new(events::ended, tag.pack()).with_flags(CLOSE_FORCE);
        // SAFETY: the endpoint is open, and nothing uses the handle after this. Operations that
        // are outstanding own their memory until their callbacks have run.
        unsafe { (self.worker.ucx().f.ucp_ep_close_nbx)(self.handle, &param) }.posted()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        debug_assert!(self.closed, "the link closes its endpoint");
    }
}

/// A key to one region of a peer. UCX wants it destroyed when the operations that use it are
/// over. After a forced close they are over later than the endpoint, so then this comes last.
pub(super) struct RemoteKey {
    worker: Rc<Worker>,
    handle: ucp_rkey_h,
    _counted: Held,
}

impl Drop for RemoteKey {
    fn drop(&mut self) {
        // SAFETY: unpacked by us, destroyed once. Links drop keys when no operation is
        // outstanding. The key refers to the worker, which is alive, and not to the endpoint.
        unsafe { (self.worker.ucx().f.ucp_rkey_destroy)(self.handle) };
    }
}
