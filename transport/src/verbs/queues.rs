//! Owners of completion channels, completion queues and queue pairs. Children hold their parents.

use std::ffi::{c_int, c_void};
use std::mem::zeroed;
use std::os::fd::BorrowedFd;
use std::ptr::{NonNull, null_mut};
use std::sync::Arc;

use super::choice::{Path, Source, mtu_code};
use super::device::{Device, nonblocking};
use super::ffi::{
    ACCESS_REMOTE_READ, SEND_INLINE, SEND_SIGNALED, TO_ERROR, TO_INIT, TO_RTR, TO_RTS,
    ibv_comp_channel, ibv_cq, ibv_gid, ibv_poll_cq, ibv_post_recv, ibv_post_send, ibv_qp,
    ibv_qp_attr, ibv_qp_init_attr, ibv_qp_state, ibv_qp_type, ibv_recv_wr, ibv_req_notify_cq,
    ibv_send_wr, ibv_sge, ibv_wc, ibv_wr_opcode,
};
use super::record::{End, Lane};
use crate::counters::{Gauge, Held};
use crate::error::Error;
use crate::rdma::RdmaSettings;

/// Names one link or incoming connection of an agent. Never reused.
pub(super) type LinkId = u32;

/// Where the completion queues of an agent report that they have something.
pub(super) struct Channel {
    handle: NonNull<ibv_comp_channel>,
    device: Arc<Device>,
}

// SAFETY: as for `Device`: the library's functions may be called from any thread.
unsafe impl Send for Channel {}
// SAFETY: as above.
unsafe impl Sync for Channel {}

impl Channel {
    pub(super) fn new(device: &Arc<Device>) -> Result<Arc<Self>, Error> {
        // SAFETY: the context is open.
        let handle = unsafe { (device.verbs.ibv_create_comp_channel)(device.context.as_ptr()) };
        let handle =
            NonNull::new(handle).ok_or_else(|| device.last_error("create a completion channel"))?;
        let channel = Self { handle, device: Arc::clone(device) };
        nonblocking(channel.fd()).map_err(|error| {
            device.failed("read a completion channel", error.raw_os_error().unwrap_or(0))
        })?;
        Ok(Arc::new(channel))
    }

    /// Readable when an armed queue has a completion.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: open until the channel is destroyed, which `&self` rules out.
        unsafe { BorrowedFd::borrow_raw((*self.handle.as_ptr()).fd) }
    }

    /// The owner of a queue that has reported, and must be armed to report again.
    pub(super) fn next_report(&self) -> Option<LinkId> {
        let (mut queue, mut owner) = (null_mut(), null_mut());
        // SAFETY: the channel is alive and does not block; both results are written on success.
        let status = unsafe {
            (self.device.verbs.ibv_get_cq_event)(self.handle.as_ptr(), &mut queue, &mut owner)
        };
        if status != 0 {
            return None;
        }
        // SAFETY: the queue is alive: destroying it waits for this acknowledgement, and happens on
        // the progress thread, which is here.
        unsafe { (self.device.verbs.ibv_ack_cq_events)(queue, 1) };
        Some(owner as usize as LinkId)
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once. Queues hold an `Arc` of it, so there are none left.
        unsafe { (self.device.verbs.ibv_destroy_comp_channel)(self.handle.as_ptr()) };
    }
}

/// One completion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Completed {
    pub(super) tag: u64,
    /// A number of `enum ibv_wc_status`.
    pub(super) status: u32,
    /// Bytes received; of no meaning for what was sent.
    pub(super) len: u32,
}

/// A completion queue of one link.
pub(super) struct CompletionQueue {
    handle: NonNull<ibv_cq>,
    channel: Arc<Channel>,
    _counted: Held,
}

// SAFETY: as for `Channel`; one thread at a time polls it.
unsafe impl Send for CompletionQueue {}

impl CompletionQueue {
    /// Room for `len` completions, which must be as many as can be outstanding: an overrun is the
    /// end of a queue.
    pub(super) fn new(
        channel: &Arc<Channel>,
        owner: LinkId,
        len: usize,
        gauge: &Gauge,
    ) -> Result<Self, Error> {
        let device = &channel.device;
        let len = c_int::try_from(len).expect("settings bound queues to 16 x 4,104 entries");
        // SAFETY: context and channel are alive. The owner's number is a pointer to nobody but us.
        let handle = unsafe {
            (device.verbs.ibv_create_cq)(
                device.context.as_ptr(),
                len,
                owner as usize as *mut c_void,
                channel.handle.as_ptr(),
                0,
            )
        };
        let handle =
            NonNull::new(handle).ok_or_else(|| device.last_error("create a completion queue"))?;
        Ok(Self { handle, channel: Arc::clone(channel), _counted: gauge.hold(1) })
    }

    /// Takes completions that are there, at most as many as one call can.
    pub(super) fn poll(&self) -> Polled {
        const BATCH: usize = 32;
        // SAFETY: plain data of C, for which zeros are valid.
        let mut entries: [ibv_wc; BATCH] = unsafe { zeroed() };
        // SAFETY: the queue is alive, and there is room for as many entries as we say.
        let count =
            unsafe { ibv_poll_cq(self.handle.as_ptr(), BATCH as c_int, entries.as_mut_ptr()) };
        let Ok(count) = usize::try_from(count) else { return Polled::Failed };
        let completed = |entry: &ibv_wc| Completed {
            tag: entry.wr_id,
            status: entry.status,
            len: entry.byte_len,
        };
        Polled::Some(entries[..count].iter().map(completed).collect())
    }

    /// Asks for a report on the next completion. Those that are there already report nothing: poll
    /// again afterwards.
    pub(super) fn arm(&self) {
        // SAFETY: the queue is alive. It can only fail if the queue is broken, which polling shows.
        unsafe { ibv_req_notify_cq(self.handle.as_ptr(), 0) };
    }
}

/// What a poll has found.
#[derive(Debug)]
pub(super) enum Polled {
    /// These; none if it is empty.
    Some(Vec<Completed>),
    /// The queue is broken.
    Failed,
}

impl Drop for CompletionQueue {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once. Queue pairs that use it are dropped before it (see
        // their owners), and every report was acknowledged when it was taken.
        unsafe { (self.channel.device.verbs.ibv_destroy_cq)(self.handle.as_ptr()) };
    }
}

/// How much of what a queue pair takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Capacity {
    pub(super) sends: u32,
    pub(super) receives: u32,
    pub(super) inline_bytes: u32,
}

/// A reliable connection's end. Its owner drops it before the completion queue that it was made
/// with, and keeps every memory that was posted to it until it is dropped or has completed.
pub(super) struct QueuePair {
    handle: NonNull<ibv_qp>,
    pub(super) lane: Lane,
    /// Bytes that fit into a work request.
    pub(super) inline_bytes: u32,
    device: Arc<Device>,
    _counted: Held,
}

// SAFETY: as for `Channel`; one thread at a time posts to it.
unsafe impl Send for QueuePair {}

impl QueuePair {
    /// Creates a queue pair on a port, ready to be told of its peer.
    pub(super) fn new(
        device: &Arc<Device>,
        port: u8,
        queue: &CompletionQueue,
        capacity: Capacity,
        psn: u32,
        gauge: &Gauge,
    ) -> Result<Self, Error> {
        // SAFETY: plain data of C, for which zeros are valid.
        let mut attributes: ibv_qp_init_attr = unsafe { zeroed() };
        attributes.send_cq = queue.handle.as_ptr();
        attributes.recv_cq = queue.handle.as_ptr();
        attributes.qp_type = ibv_qp_type::IBV_QPT_RC;
        attributes.cap.max_send_wr = capacity.sends.max(1);
        attributes.cap.max_recv_wr = capacity.receives.max(1);
        attributes.cap.max_send_sge = 1;
        attributes.cap.max_recv_sge = 1;
        attributes.cap.max_inline_data = capacity.inline_bytes;
        // SAFETY: protection domain and queue are alive; `attributes` is not kept.
        let mut handle =
            unsafe { (device.verbs.ibv_create_qp)(device.pd.as_ptr(), &mut attributes) };
        if handle.is_null() && capacity.inline_bytes > 0 {
            // A device that cannot do so much inline refuses instead of doing less.
            attributes.cap.max_inline_data = 0;
            // SAFETY: as above.
            handle = unsafe { (device.verbs.ibv_create_qp)(device.pd.as_ptr(), &mut attributes) };
        }
        let handle =
            NonNull::new(handle).ok_or_else(|| device.last_error("create a queue pair"))?;
        // SAFETY: just created.
        let qpn = unsafe { (*handle.as_ptr()).qp_num };
        let pair = Self {
            handle,
            lane: Lane { qpn, psn },
            inline_bytes: attributes.cap.max_inline_data.min(capacity.inline_bytes),
            device: Arc::clone(device),
            _counted: gauge.hold(1),
        };
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_INIT;
        attributes.port_num = port;
        // A peer may read, with the right key; nobody may write.
        attributes.qp_access_flags = ACCESS_REMOTE_READ;
        pair.modify("initialise a queue pair", &mut attributes, TO_INIT)?;
        Ok(pair)
    }

    /// Ready to receive from `peer`, and to answer its reads.
    pub(super) fn listen_to(
        &self,
        peer: &End,
        lane: Lane,
        (source, port): (&Source, u8),
        path: Path,
        settings: &RdmaSettings,
    ) -> Result<(), Error> {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTR;
        attributes.path_mtu = mtu_code(path.mtu).into();
        attributes.dest_qp_num = lane.qpn;
        attributes.rq_psn = lane.psn;
        attributes.max_dest_rd_atomic = path.rd_atomic;
        attributes.min_rnr_timer = RNR_TIMER;
        let route = &mut attributes.ah_attr;
        route.dlid = peer.lid;
        route.sl = settings.service_level;
        route.port_num = port;
        if let Some(index) = source.gid_index {
            route.is_global = 1;
            route.grh.dgid = ibv_gid { raw: peer.gid.octets() };
            route.grh.sgid_index = index;
            route.grh.hop_limit = HOP_LIMIT;
            route.grh.traffic_class = settings.traffic_class;
        }
        self.modify("connect a queue pair", &mut attributes, TO_RTR)
    }

    /// Ready to send and read, too.
    pub(super) fn talk(&self, path: Path, settings: &RdmaSettings) -> Result<(), Error> {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_RTS;
        attributes.timeout = settings.timeout_exponent;
        attributes.retry_cnt = settings.retry_count;
        attributes.rnr_retry = settings.rnr_retry;
        attributes.sq_psn = self.lane.psn;
        attributes.max_rd_atomic = path.rd_atomic;
        self.modify("start a queue pair", &mut attributes, TO_RTS)
    }

    /// Ends it: everything that is posted is flushed, without the peer.
    pub(super) fn fail(&self) {
        let mut attributes = blank();
        attributes.qp_state = ibv_qp_state::IBV_QPS_ERR;
        // If it cannot be done, the device is gone, and dropping the queue pair ends its work.
        let _ = self.modify("end a queue pair", &mut attributes, TO_ERROR);
    }

    /// Whether this is the queue pair at this address, as events name it.
    pub(super) fn is_at(&self, address: usize) -> bool {
        self.handle.as_ptr() as usize == address
    }

    /// Posts requests with one doorbell. Returns how many of them the device took, and why not
    /// the next one.
    ///
    /// # Safety
    /// The local memory of each must stay valid, and be touched by nobody else if it is a
    /// destination, until the request has completed or this queue pair is dropped.
    pub(super) unsafe fn post(&self, requests: &[Request]) -> Result<(), (usize, c_int)> {
        let mut pieces: Vec<ibv_sge> = requests
            .iter()
            .map(|request| ibv_sge {
                addr: request.address as u64,
                length: request.len,
                lkey: request.lkey,
            })
            .collect();
        // SAFETY: plain data of C, for which zeros are valid.
        let zero = || unsafe { zeroed::<ibv_send_wr>() };
        let mut works: Vec<ibv_send_wr> = requests.iter().map(|_| zero()).collect();
        // Pointers into buffers that neither grow nor move from here on.
        let (first_piece, first_work) = (pieces.as_mut_ptr(), works.as_mut_ptr());
        for (index, (request, work)) in requests.iter().zip(&mut works).enumerate() {
            work.wr_id = request.tag;
            if index + 1 < requests.len() {
                work.next = first_work.wrapping_add(index + 1);
            }
            if request.len > 0 {
                work.sg_list = first_piece.wrapping_add(index);
                work.num_sge = 1;
            }
            if request.signalled {
                work.send_flags |= SEND_SIGNALED;
            }
            match request.what {
                What::Read { address, rkey } => {
                    work.opcode = ibv_wr_opcode::IBV_WR_RDMA_READ;
                    work.wr.rdma = rdma_sys::rdma_t { remote_addr: address, rkey };
                }
                What::Send => {
                    work.opcode = ibv_wr_opcode::IBV_WR_SEND;
                    if request.len > 0 && request.len <= self.inline_bytes {
                        work.send_flags |= SEND_INLINE;
                    }
                }
            }
        }
        let mut refused = null_mut();
        // SAFETY: the queue pair is alive and only its owner posts to it. The chain ends in a
        // null `next`, and is copied by the device before the call returns; the memory is the
        // caller's promise.
        let status = unsafe { ibv_post_send(self.handle.as_ptr(), first_work, &mut refused) };
        if status == 0 {
            return Ok(());
        }
        // SAFETY: on failure it points to the first request, in `works`, that was not taken.
        let taken = unsafe { refused.offset_from(first_work) };
        Err((usize::try_from(taken).unwrap_or(0), status.abs()))
    }

    /// Posts room for one message.
    ///
    /// # Safety
    /// As for [`post`](Self::post).
    pub(super) unsafe fn post_receive(
        &self,
        tag: u64,
        (address, len, lkey): (*mut u8, u32, u32),
    ) -> Result<(), Error> {
        let mut piece = ibv_sge { addr: address as u64, length: len, lkey };
        let mut work =
            ibv_recv_wr { wr_id: tag, next: null_mut(), sg_list: &mut piece, num_sge: 1 };
        let mut refused = null_mut();
        // SAFETY: alive, and only its owner posts to it; the request is copied before the call
        // returns; the memory is the caller's promise.
        let status = unsafe { ibv_post_recv(self.handle.as_ptr(), &mut work, &mut refused) };
        if status == 0 { Ok(()) } else { Err(self.device.failed("post a receive", status)) }
    }

    fn modify(&self, what: &str, attributes: &mut ibv_qp_attr, mask: c_int) -> Result<(), Error> {
        // SAFETY: alive; `attributes` is valid where the mask says so, and not kept.
        let status =
            unsafe { (self.device.verbs.ibv_modify_qp)(self.handle.as_ptr(), attributes, mask) };
        if status == 0 { Ok(()) } else { Err(self.device.failed(what, status)) }
    }
}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: created by us, destroyed once. When it returns, the device has let go of
        // everything that was posted.
        unsafe { (self.device.verbs.ibv_destroy_qp)(self.handle.as_ptr()) };
    }
}

/// How long a peer whose message finds no room waits before it sends it again: code 12 is 0.64 ms
/// (InfiniBand specification, volume 1, table 45).
const RNR_TIMER: u8 = 12;
/// Routers that a packet may pass.
const HOP_LIMIT: u8 = 64;

fn blank() -> ibv_qp_attr {
    // SAFETY: plain data of C, for which zeros are valid; a mask says which fields count.
    unsafe { zeroed() }
}

/// One work request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request {
    pub(super) tag: u64,
    pub(super) signalled: bool,
    /// Local memory: destination of a read, source of a send.
    pub(super) address: *mut u8,
    pub(super) len: u32,
    pub(super) lkey: u32,
    pub(super) what: What,
}

/// What a work request does.
#[derive(Clone, Copy, Debug)]
pub(super) enum What {
    Read { address: u64, rkey: u32 },
    Send,
}

impl Device {
    /// The last library call has failed, and left its reason in errno.
    pub(super) fn last_error(&self, operation: &str) -> Error {
        self.failed(operation, std::io::Error::last_os_error().raw_os_error().unwrap_or(0))
    }
}
