//! What crosses the boundary to libibverbs: types, constants, and the table of functions.
//!
//! Types, constants and the inlines that call a device's own operations come from `rdma-sys`; its
//! functions that need a linked symbol are never called, so that no libibverbs is linked. Done by
//! hand: [`AsyncEvent`], because the crate's event type is a Rust enum, for which an event that a
//! newer kernel adds would be undefined behaviour.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};

use libloading::os::unix::Library;
use rdma_sys as sys;

pub(super) use sys::{
    ibv_comp_channel, ibv_context, ibv_cq, ibv_device, ibv_device_attr, ibv_device_attr_ex,
    ibv_gid, ibv_mr, ibv_pd, ibv_port_attr, ibv_qp, ibv_qp_attr, ibv_qp_init_attr, ibv_qp_state,
    ibv_qp_type, ibv_recv_wr, ibv_send_wr, ibv_sge, ibv_wc, ibv_wc_status, ibv_wr_opcode,
};
pub(super) use sys::{ibv_poll_cq, ibv_post_recv, ibv_post_send, ibv_req_notify_cq};

/// `IBV_LINK_LAYER_ETHERNET` (<infiniband/verbs.h>); the other one is InfiniBand.
pub(super) const LINK_LAYER_ETHERNET: u8 = 2;

pub(super) const ACCESS_LOCAL_WRITE: c_uint = sys::ibv_access_flags::IBV_ACCESS_LOCAL_WRITE.0;
pub(super) const ACCESS_REMOTE_READ: c_uint = sys::ibv_access_flags::IBV_ACCESS_REMOTE_READ.0;
pub(super) const ACCESS_ON_DEMAND: c_uint = sys::ibv_access_flags::IBV_ACCESS_ON_DEMAND.0;
pub(super) const SEND_SIGNALED: c_uint = sys::ibv_send_flags::IBV_SEND_SIGNALED.0;
pub(super) const SEND_INLINE: c_uint = sys::ibv_send_flags::IBV_SEND_INLINE.0;

use sys::ibv_qp_attr_mask as mask;

pub(super) const TO_INIT: c_int = (mask::IBV_QP_STATE.0
    | mask::IBV_QP_PKEY_INDEX.0
    | mask::IBV_QP_PORT.0
    | mask::IBV_QP_ACCESS_FLAGS.0) as c_int;
pub(super) const TO_RTR: c_int = (mask::IBV_QP_STATE.0
    | mask::IBV_QP_AV.0
    | mask::IBV_QP_PATH_MTU.0
    | mask::IBV_QP_DEST_QPN.0
    | mask::IBV_QP_RQ_PSN.0
    | mask::IBV_QP_MAX_DEST_RD_ATOMIC.0
    | mask::IBV_QP_MIN_RNR_TIMER.0) as c_int;
pub(super) const TO_RTS: c_int = (mask::IBV_QP_STATE.0
    | mask::IBV_QP_TIMEOUT.0
    | mask::IBV_QP_RETRY_CNT.0
    | mask::IBV_QP_RNR_RETRY.0
    | mask::IBV_QP_SQ_PSN.0
    | mask::IBV_QP_MAX_QP_RD_ATOMIC.0) as c_int;
pub(super) const TO_ERROR: c_int = mask::IBV_QP_STATE.0 as c_int;

/// `struct ibv_async_event`, with its type as the number that it is.
#[repr(C)]
pub(super) struct AsyncEvent {
    /// A queue, or a port number in its first four bytes; which one the type tells.
    pub(super) element: usize,
    pub(super) event_type: c_int,
}

const _: () = {
    assert!(size_of::<AsyncEvent>() == size_of::<sys::ibv_async_event>());
    assert!(
        std::mem::offset_of!(AsyncEvent, event_type)
            == std::mem::offset_of!(sys::ibv_async_event, event_type)
    );
};

macro_rules! functions {
    ($($name:ident: fn($($arg:ty),*) $(-> $ret:ty)?;)+) => {
        /// Functions of a loaded libibverbs.
        #[derive(Debug)]
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $ret)?,)+
        }

        impl Functions {
            /// Looks every function up.
            ///
            /// # Safety
            /// `library` must be libibverbs, and never be unloaded.
            pub(super) unsafe fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller vouches that these are the functions of libibverbs of that
                    // name; the pointer outlives the symbol because nothing is unloaded.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0").as_bytes()) }?,)+
                })
            }
        }
    };
}

// Signatures as in <infiniband/verbs.h> of rdma-core; all of them are there since libibverbs 1.1.
functions! {
    ibv_get_device_list: fn(*mut c_int) -> *mut *mut ibv_device;
    ibv_free_device_list: fn(*mut *mut ibv_device);
    ibv_get_device_name: fn(*mut ibv_device) -> *const c_char;
    ibv_open_device: fn(*mut ibv_device) -> *mut ibv_context;
    ibv_close_device: fn(*mut ibv_context) -> c_int;
    ibv_query_device: fn(*mut ibv_context, *mut ibv_device_attr) -> c_int;
    ibv_query_port: fn(*mut ibv_context, u8, *mut ibv_port_attr) -> c_int;
    ibv_query_gid: fn(*mut ibv_context, u8, c_int, *mut ibv_gid) -> c_int;
    ibv_alloc_pd: fn(*mut ibv_context) -> *mut ibv_pd;
    ibv_dealloc_pd: fn(*mut ibv_pd) -> c_int;
    ibv_reg_mr: fn(*mut ibv_pd, *mut c_void, usize, c_int) -> *mut ibv_mr;
    ibv_dereg_mr: fn(*mut ibv_mr) -> c_int;
    ibv_create_comp_channel: fn(*mut ibv_context) -> *mut ibv_comp_channel;
    ibv_destroy_comp_channel: fn(*mut ibv_comp_channel) -> c_int;
    ibv_create_cq: fn(*mut ibv_context, c_int, *mut c_void, *mut ibv_comp_channel, c_int) -> *mut ibv_cq;
    ibv_destroy_cq: fn(*mut ibv_cq) -> c_int;
    ibv_get_cq_event: fn(*mut ibv_comp_channel, *mut *mut ibv_cq, *mut *mut c_void) -> c_int;
    ibv_ack_cq_events: fn(*mut ibv_cq, c_uint);
    ibv_create_qp: fn(*mut ibv_pd, *mut ibv_qp_init_attr) -> *mut ibv_qp;
    ibv_modify_qp: fn(*mut ibv_qp, *mut ibv_qp_attr, c_int) -> c_int;
    ibv_destroy_qp: fn(*mut ibv_qp) -> c_int;
    ibv_get_async_event: fn(*mut ibv_context, *mut AsyncEvent) -> c_int;
    ibv_ack_async_event: fn(*mut AsyncEvent);
}

/// Asks for the extended attributes, which tell of on-demand paging; `None` where the library or
/// the device does not know them.
///
/// # Safety
/// `context` must be open.
pub(super) unsafe fn query_device_ex(context: *mut ibv_context) -> Option<ibv_device_attr_ex> {
    use std::mem::{offset_of, zeroed};
    use sys::verbs_context;

    // As the inline of <infiniband/verbs.h>, which falls back to a linked symbol: a context with
    // this mark is the last member of a larger struct, of which `sz` tells how much is there.
    // SAFETY: the caller vouches for the context.
    if unsafe { (*context).abi_compat } as usize != u32::MAX as usize {
        return None;
    }
    // SAFETY: the mark says that the context lies within a `verbs_context` at this offset.
    let extended: *mut verbs_context =
        unsafe { context.byte_sub(offset_of!(verbs_context, context)) }.cast();
    let needed = size_of::<verbs_context>() - offset_of!(verbs_context, query_device_ex);
    // SAFETY: `sz` is next to the context in every version.
    if unsafe { (*extended).sz } < needed {
        return None;
    }
    // SAFETY: `sz` says that the member is there.
    let query = unsafe { (*extended).query_device_ex }?;
    // SAFETY: plain data of C, for which zeros are valid.
    let mut attributes: ibv_device_attr_ex = unsafe { zeroed() };
    // SAFETY: open context, no input, and room for as many bytes as we say.
    let status =
        unsafe { query(context, std::ptr::null(), &mut attributes, size_of_val(&attributes)) };
    (status == 0).then_some(attributes)
}

/// A string that the library owns and never changes.
///
/// # Safety
/// `text` must be null or a C string that lives as long as the process.
pub(super) unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return "?".to_owned();
    }
    // SAFETY: the caller vouches for it.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}
