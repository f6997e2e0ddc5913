//! A UCX worker: what one thread at a time drives, and what receives messages.

use std::ffi::{c_int, c_void};
use std::mem::zeroed;
use std::os::fd::BorrowedFd;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::slice;
use std::sync::Arc;

use bytes::Bytes;

use super::context::Context;
use super::events::{self, Event};
use super::ffi::{
    AM_EAGER, AM_HAS_REPLY, AM_IS_RENDEZVOUS, MessageCallback, ONE_THREAD_AT_A_TIME, Posted,
    Request, RequestParam, Status, WORKER_THREAD_MODE, message_handler, ucp_am_recv_param_t,
    ucp_ep_h, ucp_worker_h, ucp_worker_params_t,
};
use super::library::{Ucx, refused};
use super::wire::{self, Greeting};
use crate::backend::Shared;
use crate::error::Error;
use crate::rdma::Completion;

/// A worker, made and destroyed by one thread, and driven by one at a time.
pub(super) struct Worker {
    pub(super) handle: ucp_worker_h,
    /// Owned by UCX; valid while the worker lives.
    event_fd: c_int,
    /// What the message callbacks point to; dropped after the worker is destroyed.
    _inbox: Rc<Inbox>,
    pub(super) context: Rc<Context>,
}

impl Worker {
    /// Creates a worker that receives messages for `shared`.
    ///
    /// # Errors
    /// [`Error::Open`] with the call that failed and its status.
    pub(super) fn open(
        context: &Rc<Context>,
        shared: &Arc<Shared>,
        completion: Completion,
    ) -> Result<Rc<Self>, Error> {
        let ucx = context.ucx;
        let failed =
            |call: &str, status| refused(format!("{call} failed: {}", ucx.describe(status)));
        // SAFETY: plain data of C. All zeros is valid: an empty mask means a worker that only the
        // thread that made it uses.
        let mut params: ucp_worker_params_t = unsafe { zeroed() };
        if completion == Completion::Poll {
            params.field_mask = WORKER_THREAD_MODE;
            params.thread_mode = ONE_THREAD_AT_A_TIME;
        }
        let mut handle = null_mut();
        // SAFETY: the context is alive; `params` is not kept; `handle` is written on success.
        let status = unsafe { (ucx.f.ucp_worker_create)(context.handle, &params, &mut handle) };
        if !status.is_ok() {
            return Err(failed("ucp_worker_create", status));
        }
        let inbox = Rc::new(Inbox { ucx, shared: Arc::clone(shared) });
        let arg = Rc::as_ptr(&inbox);
        let mut worker = Self { handle, event_fd: -1, _inbox: inbox, context: Rc::clone(context) };
        // SAFETY: the worker is alive and was created with the wake-up feature.
        let status = unsafe { (ucx.f.ucp_worker_get_efd)(handle, &mut worker.event_fd) };
        if !status.is_ok() {
            return Err(failed("ucp_worker_get_efd", status));
        }
        let handlers: [(u32, MessageCallback); 3] = [
            (wire::HELLO, on_hello),
            (wire::ANSWER, on_answer),
            (wire::NOTIFICATION, on_notification),
        ];
        for (id, callback) in handlers {
            let handler = message_handler(id, callback, arg.cast_mut().cast());
            // SAFETY: UCX copies `handler`. `arg` stays valid until the worker is destroyed, and
            // the callbacks read it only.
            let status = unsafe { (ucx.f.ucp_worker_set_am_recv_handler)(handle, &handler) };
            if !status.is_ok() {
                return Err(failed("ucp_worker_set_am_recv_handler", status));
            }
        }
        Ok(Rc::new(worker))
    }

    pub(super) fn ucx(&self) -> &'static Ucx {
        self.context.ucx
    }

    /// Where peers reach this worker, framed for metadata.
    pub(super) fn address(&self) -> Result<Bytes, Error> {
        let ucx = self.ucx();
        let (mut address, mut len) = (null_mut(), 0);
        // SAFETY: the worker is alive; both results are written on success only.
        let status = unsafe { (ucx.f.ucp_worker_get_address)(self.handle, &mut address, &mut len) };
        if !status.is_ok() {
            let cause = ucx.describe(status);
            return Err(refused(format!("ucp_worker_get_address failed: {cause}")));
        }
        // SAFETY: UCX returned a buffer of `len` bytes, which is ours until released below.
        let framed = wire::frame_address(unsafe { slice::from_raw_parts(address.cast(), len) });
        // SAFETY: from this worker, released once, and copied before.
        unsafe { (ucx.f.ucp_worker_release_address)(self.handle, address) };
        Ok(framed)
    }

    /// Moves communication on; callbacks run in here. False if there was nothing to do.
    pub(super) fn progress(&self) -> bool {
        // SAFETY: the worker is alive, no other thread uses it now (it is not `Sync`), and we are not
        // in a callback: those are the functions of this file and of `events`, which do not call this.
        unsafe { (self.ucx().f.ucp_worker_progress)(self.handle) != 0 }
    }

    /// Prepares the event descriptor for a wait. False: there is work, progress again first.
    ///
    /// # Errors
    /// A status other than busy: waiting is not possible any more.
    pub(super) fn arm(&self) -> Result<bool, String> {
        // SAFETY: as for `progress`.
        match unsafe { (self.ucx().f.ucp_worker_arm)(self.handle) } {
            Status::OK => Ok(true),
            Status::BUSY => Ok(false),
            status => Err(format!("ucp_worker_arm failed: {}", self.ucx().describe(status))),
        }
    }

    /// Readable when an armed worker has work.
    pub(super) fn event_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: UCX keeps it open until the worker is destroyed, which `&self` rules out.
        unsafe { BorrowedFd::borrow_raw(self.event_fd) }
    }

    /// Gives a request back whose callback has run.
    pub(super) fn free(&self, request: Request) {
        // SAFETY: UCX handed it out, its operation is over, and `Event::Ended` brings it once.
        unsafe { (self.ucx().f.ucp_request_free)(request.as_ptr()) };
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once, on the thread that made it. Endpoints and remote keys
        // hold an `Rc` of it, so there are none left. Message callbacks may run for the last time
        // in here; their argument is freed later.
        unsafe { (self.ucx().f.ucp_worker_destroy)(self.handle) };
    }
}

/// The argument of the message callbacks.
struct Inbox {
    ucx: &'static Ucx,
    shared: Arc<Shared>,
}

/// A reader asks who we are: the answer goes out from in here, because the endpoint to it is
/// UCX's own, and only sure to exist during the callback.
unsafe extern "C" fn on_hello(
    inbox: *mut c_void,
    header: *const c_void,
    header_len: usize,
    _: *mut c_void,
    _: usize,
    param: *const ucp_am_recv_param_t,
) -> Status {
    // SAFETY: set in `Worker::open`; alive while the worker is, and never written to.
    let inbox = unsafe { &*inbox.cast::<Inbox>() };
    // SAFETY: UCX passes a header of this length, and parameters, for the time of the call.
    let (header, param) = unsafe { (bytes_of(header, header_len), &*param) };
    match Greeting::decode(header) {
        Some(hello) if param.recv_attr & AM_HAS_REPLY != 0 => {
            let answer = Greeting { token: hello.token, instance: inbox.shared.instance };
            // SAFETY: UCX says that the endpoint is valid, and it is for the time of the call.
            unsafe { Answer::send(inbox.ucx, param.reply_ep, answer) };
        }
        _ => inbox.shared.counters.fail("protocol"),
    }
    Status::OK
}

/// The peer has answered a hello of ours.
unsafe extern "C" fn on_answer(
    inbox: *mut c_void,
    header: *const c_void,
    header_len: usize,
    _: *mut c_void,
    _: usize,
    _: *const ucp_am_recv_param_t,
) -> Status {
    // SAFETY: as in `on_hello`.
    let (inbox, header) = unsafe { (&*inbox.cast::<Inbox>(), bytes_of(header, header_len)) };
    match Greeting::decode(header) {
        Some(greeting) => events::note(Event::Answered(greeting)),
        None => inbox.shared.counters.fail("protocol"),
    }
    Status::OK
}

/// A peer has read its blocks.
unsafe extern "C" fn on_notification(
    inbox: *mut c_void,
    header: *const c_void,
    header_len: usize,
    data: *mut c_void,
    len: usize,
    param: *const ucp_am_recv_param_t,
) -> Status {
    // SAFETY: as in `on_hello`.
    let inbox = unsafe { &*inbox.cast::<Inbox>() };
    // SAFETY: as in `on_hello`.
    let (header, param) = unsafe { (bytes_of(header, header_len), &*param) };
    // Our peers send all messages eagerly; of another kind there would be no data yet.
    let here = param.recv_attr & AM_IS_RENDEZVOUS == 0;
    match wire::sender(header) {
        Some(from) if here && len <= inbox.shared.limits.notification_bytes => {
            // SAFETY: an eager message has `len` bytes of data, for the time of the call.
            let payload = unsafe { bytes_of(data, len) };
            inbox.shared.deliver(from, Bytes::copy_from_slice(payload));
        }
        _ => inbox.shared.counters.fail("protocol"),
    }
    Status::OK
}

/// # Safety
/// `start` must be valid for reading `len` bytes for as long as the result is used; it may be
/// anything if `len` is 0.
unsafe fn bytes_of<'a>(start: *const c_void, len: usize) -> &'a [u8] {
    if len == 0 {
        return &[];
    }
    // SAFETY: the caller vouches for it.
    unsafe { slice::from_raw_parts(start.cast(), len) }
}

/// An answer on its way: owns the bytes that UCX reads, until UCX says that it has.
struct Answer {
    ucx: &'static Ucx,
    header: [u8; Greeting::BYTES],
}

impl Answer {
    /// # Safety
    /// `endpoint` must be valid for the time of the call.
    unsafe fn send(ucx: &'static Ucx, endpoint: ucp_ep_h, greeting: Greeting) {
        let answer = Box::into_raw(Box::new(Self { ucx, header: greeting.encode() }));
        let param = RequestParam::new(answer_sent, answer as usize).with_flags(AM_EAGER).copied();
        // SAFETY: the header is in a box that `answer_sent` frees, so it outlives the operation;
        // there is no data. The caller vouches for the endpoint.
        let posted = unsafe {
            let header = (&raw const (*answer).header).cast();
            (ucx.f.ucp_am_send_nbx)(
                endpoint,
                wire::ANSWER,
                header,
                Greeting::BYTES,
                null(),
                0,
                &param,
            )
        };
        if !matches!(posted.posted(), Posted::Pending) {
            // A reader that cannot be answered finds out by its own deadline.
            // SAFETY: the callback will not run, so the box is ours again.
            drop(unsafe { Box::from_raw(answer) });
        }
    }
}

unsafe extern "C" fn answer_sent(request: *mut c_void, _: Status, answer: *mut c_void) {
    // SAFETY: the pointer that `Answer::send` made; this callback runs once.
    let answer = unsafe { Box::from_raw(answer.cast::<Answer>()) };
    // SAFETY: the request of this operation, which is over.
    unsafe { (answer.ucx.f.ucp_request_free)(request) };
}
