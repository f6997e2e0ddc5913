//! What crosses the boundary to UCX: types, constants, and the table of functions.
//!
//! Types and constants come from `ucx1-sys`, generated from UCX 1.12.1; its functions are never
//! called, so that no UCX is linked. Every struct here is passed with a mask that says which
//! fields count, which is how UCX stays compatible with older and newer callers. Three things are
//! done by hand:
//! - `ucs_status_t` is an enum there, and a status that a newer UCX adds would be undefined
//!   behaviour in Rust: [`Status`] is a plain number.
//! - [`RequestParam`] has the memory handle that came with 1.13, the oldest that is opened.
//! - [`Posted`] stands for UCX's pointer-or-status results.

use std::ffi::{c_char, c_int, c_uint, c_void};
use std::fmt;
use std::ptr::NonNull;

use libloading::os::unix::Library;
use ucx1_sys as sys;

pub(super) use sys::{
    ucp_address_t, ucp_am_handler_param_t, ucp_am_recv_param_t, ucp_config_t, ucp_context_h,
    ucp_ep_h, ucp_ep_params_t, ucp_err_handler_t, ucp_mem_h, ucp_mem_map_params_t, ucp_params_t,
    ucp_rkey_h, ucp_worker_h, ucp_worker_params_t,
};

/// A `ucs_status_t`: 0 is success, 1 in progress, negative an error. One byte in UCX's ABI.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Status(i8);

impl Status {
    pub(super) const OK: Self = Self(sys::ucs_status_t::UCS_OK as i8);
    pub(super) const CANCELED: Self = Self(sys::ucs_status_t::UCS_ERR_CANCELED as i8);
    pub(super) const BUSY: Self = Self(sys::ucs_status_t::UCS_ERR_BUSY as i8);

    pub(super) fn is_ok(self) -> bool {
        self == Self::OK
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "status {}", self.0)
    }
}

/// What a posting call returned.
#[derive(Debug)]
pub(super) enum Posted {
    /// Done already. Its callback will not run.
    Done,
    /// Under way. Its callback runs exactly once, and the request must then be freed.
    Pending,
    /// It was not started. Its callback will not run.
    Failed(Status),
}

/// A `ucs_status_ptr_t`: null, a request, or a status in a pointer's clothes.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct StatusPtr(*mut c_void);

impl StatusPtr {
    pub(super) fn posted(self) -> Posted {
        // Errors are the pointers from UCS_ERR_LAST (-100) to -1, as UCX's macro has it.
        let lowest_error = sys::ucs_status_t::UCS_ERR_LAST as isize as usize;
        match self.0 as usize {
            0 => Posted::Done,
            address if address >= lowest_error => Posted::Failed(Status(address as i8)),
            _ => Posted::Pending,
        }
    }
}

/// A request that UCX has handed out and wants back.
pub(super) type Request = NonNull<c_void>;

/// `ucp_request_param_t` with its first later field.
#[repr(C)]
pub(super) struct RequestParam {
    pub(super) base: sys::ucp_request_param_t,
    /// Since UCX 1.13. Read only if [`OP_MEMH`] is in the mask.
    pub(super) memh: ucp_mem_h,
}

impl RequestParam {
    /// Calls `callback` with `user_data` on completion, and nothing else.
    pub(super) fn new(callback: SendCallback, user_data: usize) -> Self {
        // SAFETY: the struct is plain data of C for which all zeros is a valid value: null
        // pointers, empty masks, `None` callbacks, and memory type 0, which is host memory.
        let mut base: sys::ucp_request_param_t = unsafe { std::mem::zeroed() };
        base.op_attr_mask = sys::ucp_op_attr_t::UCP_OP_ATTR_FIELD_CALLBACK as u32
            | sys::ucp_op_attr_t::UCP_OP_ATTR_FIELD_USER_DATA as u32;
        // SAFETY: the two function types differ only in the status, which is one signed byte in
        // UCX's ABI (a packed enum) and in ours; `Status` accepts every value of it.
        base.cb.send = Some(unsafe {
            std::mem::transmute::<
                SendCallback,
                unsafe extern "C" fn(*mut c_void, sys::ucs_status_t, *mut c_void),
            >(callback)
        });
        base.user_data = user_data as *mut c_void;
        Self { base, memh: std::ptr::null_mut() }
    }

    pub(super) fn with_flags(mut self, flags: u32) -> Self {
        self.base.op_attr_mask |= sys::ucp_op_attr_t::UCP_OP_ATTR_FIELD_FLAGS as u32;
        self.base.flags = flags;
        self
    }

    /// Has UCX copy what is sent and be done with it, instead of sending it from where it lies.
    ///
    /// For small messages. UCX 1.20 sends even those over TCP without a copy unless it is told,
    /// and looks their memory up in the registration cache for it: a registration per message,
    /// which drains the cache's queue of unmapped ranges. Over RDMA it copies them by itself.
    pub(super) fn copied(mut self) -> Self {
        self.base.op_attr_mask |= sys::ucp_op_attr_t::UCP_OP_ATTR_FLAG_FAST_CMPL as u32;
        self
    }

    pub(super) fn with_memh(mut self, memh: ucp_mem_h) -> Self {
        self.base.op_attr_mask |= OP_MEMH;
        self.memh = memh;
        self
    }
}

/// `UCP_OP_ATTR_FIELD_MEMH`, bit 8 in every UCX that has it:
/// <https://github.com/openucx/ucx/blob/v1.13.1/src/ucp/api/ucp.h>.
const OP_MEMH: u32 = 1 << 8;

pub(super) const FEATURES: u64 = (sys::ucp_feature::UCP_FEATURE_RMA.0
    | sys::ucp_feature::UCP_FEATURE_AM.0
    | sys::ucp_feature::UCP_FEATURE_WAKEUP.0) as u64;
pub(super) const PARAMS_FEATURES: u64 = sys::ucp_params_field::UCP_PARAM_FIELD_FEATURES.0 as u64;
pub(super) const WORKER_THREAD_MODE: u64 =
    sys::ucp_worker_params_field::UCP_WORKER_PARAM_FIELD_THREAD_MODE.0 as u64;
pub(super) const ONE_THREAD_AT_A_TIME: sys::ucs_thread_mode_t =
    sys::ucs_thread_mode_t::UCS_THREAD_MODE_SERIALIZED;
pub(super) const MEM_MAP_RANGE: u64 =
    (sys::ucp_mem_map_params_field::UCP_MEM_MAP_PARAM_FIELD_ADDRESS.0
        | sys::ucp_mem_map_params_field::UCP_MEM_MAP_PARAM_FIELD_LENGTH.0) as u64;
pub(super) const EP_TO_ADDRESS_WITH_ERRORS: u64 =
    (sys::ucp_ep_params_field::UCP_EP_PARAM_FIELD_REMOTE_ADDRESS.0
        | sys::ucp_ep_params_field::UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE.0
        | sys::ucp_ep_params_field::UCP_EP_PARAM_FIELD_ERR_HANDLER.0) as u64;
pub(super) const ERRORS_OF_PEER: sys::ucp_err_handling_mode_t =
    sys::ucp_err_handling_mode_t::UCP_ERR_HANDLING_MODE_PEER;
pub(super) const AM_HANDLER_ALL: u64 =
    (sys::ucp_am_handler_param_field::UCP_AM_HANDLER_PARAM_FIELD_ID.0
        | sys::ucp_am_handler_param_field::UCP_AM_HANDLER_PARAM_FIELD_FLAGS.0
        | sys::ucp_am_handler_param_field::UCP_AM_HANDLER_PARAM_FIELD_CB.0
        | sys::ucp_am_handler_param_field::UCP_AM_HANDLER_PARAM_FIELD_ARG.0) as u64;
pub(super) const AM_WHOLE_MESSAGE: u32 = sys::ucp_am_cb_flags::UCP_AM_FLAG_WHOLE_MSG.0;
pub(super) const AM_EAGER: u32 = sys::ucp_send_am_flags::UCP_AM_SEND_FLAG_EAGER.0;
pub(super) const AM_WITH_REPLY: u32 = AM_EAGER | sys::ucp_send_am_flags::UCP_AM_SEND_FLAG_REPLY.0;
pub(super) const AM_IS_RENDEZVOUS: u64 = sys::ucp_am_recv_attr_t::UCP_AM_RECV_ATTR_FLAG_RNDV as u64;
pub(super) const AM_HAS_REPLY: u64 =
    sys::ucp_am_recv_attr_t::UCP_AM_RECV_ATTR_FIELD_REPLY_EP as u64;
pub(super) const CLOSE_FORCE: u32 = sys::ucp_ep_close_flags_t::UCP_EP_CLOSE_FLAG_FORCE.0;
/// The version of the API that the types are of; UCX refuses callers that are newer than itself.
pub(super) const API_VERSION: (c_uint, c_uint) = (sys::UCP_API_MAJOR, sys::UCP_API_MINOR);

/// Completion of a posted operation: request, status, user data.
pub(super) type SendCallback = unsafe extern "C" fn(*mut c_void, Status, *mut c_void);
/// Failure of an endpoint: argument, endpoint, status.
pub(super) type ErrorCallback = unsafe extern "C" fn(*mut c_void, ucp_ep_h, Status);
/// Arrival of an active message: argument, header and its length, data and its length, more.
pub(super) type MessageCallback = unsafe extern "C" fn(
    *mut c_void,
    *const c_void,
    usize,
    *mut c_void,
    usize,
    *const ucp_am_recv_param_t,
) -> Status;

/// `callback` as the header types it.
pub(super) fn error_handler(callback: ErrorCallback, arg: usize) -> ucp_err_handler_t {
    // SAFETY: as in `RequestParam::new`, the types differ in the status only.
    let callback = unsafe {
        std::mem::transmute::<
            ErrorCallback,
            unsafe extern "C" fn(*mut c_void, ucp_ep_h, sys::ucs_status_t),
        >(callback)
    };
    ucp_err_handler_t { cb: Some(callback), arg: arg as *mut c_void }
}

/// A handler for messages with this id.
pub(super) fn message_handler(
    id: c_uint,
    callback: MessageCallback,
    arg: *mut c_void,
) -> ucp_am_handler_param_t {
    // SAFETY: as in `RequestParam::new`, the types differ in the status; here it is what we return,
    // and we return statuses of the enum. They also differ in the names of C's `size_t`, which is
    // 64 bits wide wherever this compiles (see `events`).
    let cb: sys::ucp_am_recv_callback_t = Some(unsafe {
        std::mem::transmute::<
            MessageCallback,
            unsafe extern "C" fn(
                *mut c_void,
                *const c_void,
                sys::size_t,
                *mut c_void,
                sys::size_t,
                *const ucp_am_recv_param_t,
            ) -> sys::ucs_status_t,
        >(callback)
    });
    ucp_am_handler_param_t { field_mask: AM_HANDLER_ALL, id, flags: AM_WHOLE_MESSAGE, cb, arg }
}

/// Declares a struct of function pointers and how to fill it from a library.
macro_rules! functions {
    ($(fn $name:ident($($arg:ty),*) $(-> $result:ty)?;)*) => {
        /// The functions of one UCX, by their own names. Signatures as in `ucp.h`, with
        /// [`Status`], [`StatusPtr`] and [`RequestParam`] in the place of UCX's own types.
        pub(super) struct Functions {
            $(pub(super) $name: unsafe extern "C" fn($($arg),*) $(-> $result)?,)*
        }

        impl Functions {
            /// Looks every function up in `library` and what it depends on.
            ///
            /// # Safety
            /// `library` must be `libucp.so.0` of UCX 1.x and must never be unloaded.
            pub(super) unsafe fn load(library: &Library) -> Result<Self, libloading::Error> {
                Ok(Self {
                    // SAFETY: the caller vouches for the library, and so for the type behind the
                    // name; the pointer outlives the symbol because nothing is unloaded.
                    $($name: *unsafe { library.get(concat!(stringify!($name), "\0"))? },)*
                })
            }
        }
    };
}

functions! {
    fn ucs_status_string(Status) -> *const c_char;
    fn ucp_get_version(*mut c_uint, *mut c_uint, *mut c_uint);
    fn ucp_config_read(*const c_char, *const c_char, *mut *mut ucp_config_t) -> Status;
    fn ucp_config_modify(*mut ucp_config_t, *const c_char, *const c_char) -> Status;
    fn ucp_config_release(*mut ucp_config_t);
    fn ucp_init_version(c_uint, c_uint, *const ucp_params_t, *const ucp_config_t, *mut ucp_context_h) -> Status;
    fn ucp_cleanup(ucp_context_h);
    fn ucp_mem_map(ucp_context_h, *const ucp_mem_map_params_t, *mut ucp_mem_h) -> Status;
    fn ucp_mem_unmap(ucp_context_h, ucp_mem_h) -> Status;
    fn ucp_rkey_pack(ucp_context_h, ucp_mem_h, *mut *mut c_void, *mut usize) -> Status;
    fn ucp_rkey_buffer_release(*mut c_void);
    fn ucp_worker_create(ucp_context_h, *const ucp_worker_params_t, *mut ucp_worker_h) -> Status;
    fn ucp_worker_destroy(ucp_worker_h);
    fn ucp_worker_get_address(ucp_worker_h, *mut *mut ucp_address_t, *mut usize) -> Status;
    fn ucp_worker_release_address(ucp_worker_h, *mut ucp_address_t);
    fn ucp_worker_get_efd(ucp_worker_h, *mut c_int) -> Status;
    fn ucp_worker_arm(ucp_worker_h) -> Status;
    fn ucp_worker_progress(ucp_worker_h) -> c_uint;
    fn ucp_worker_set_am_recv_handler(ucp_worker_h, *const ucp_am_handler_param_t) -> Status;
    fn ucp_ep_create(ucp_worker_h, *const ucp_ep_params_t, *mut ucp_ep_h) -> Status;
    fn ucp_ep_close_nbx(ucp_ep_h, *const RequestParam) -> StatusPtr;
    fn ucp_ep_rkey_unpack(ucp_ep_h, *const c_void, *mut ucp_rkey_h) -> Status;
    fn ucp_rkey_destroy(ucp_rkey_h);
    fn ucp_get_nbx(ucp_ep_h, *mut c_void, usize, u64, ucp_rkey_h, *const RequestParam) -> StatusPtr;
    fn ucp_am_send_nbx(ucp_ep_h, c_uint, *const c_void, usize, *const c_void, usize, *const RequestParam) -> StatusPtr;
    fn ucp_request_free(*mut c_void);
}

#[cfg(test)]
mod tests {
    use std::mem::{offset_of, size_of};

    use super::*;

    #[test]
    fn results_are_told_apart() {
        assert!(matches!(StatusPtr(std::ptr::null_mut()).posted(), Posted::Done));
        for status in [-1_i8, -25, -80, -99, -100] {
            let pointer = StatusPtr(status as isize as *mut c_void);
            assert!(matches!(pointer.posted(), Posted::Failed(found) if found == Status(status)));
        }
        for address in [-101_isize as usize, 0x7f00_0000_1000, 8] {
            let pointer = StatusPtr(address as *mut c_void);
            assert!(matches!(pointer.posted(), Posted::Pending));
        }
    }

    #[test]
    fn the_memory_handle_follows_the_last_field_that_1_12_knows() {
        // In UCX 1.13 to 1.22 the struct continues with the handle, right after `recv_info`.
        let last = offset_of!(sys::ucp_request_param_t, recv_info);
        assert_eq!(offset_of!(RequestParam, memh), last + size_of::<*mut c_void>());
        assert_eq!(size_of::<Status>(), size_of::<sys::ucs_status_t>());
    }

    #[test]
    fn only_what_is_asked_for_is_in_the_mask() {
        unsafe extern "C" fn ignore(_: *mut c_void, _: Status, _: *mut c_void) {}
        assert_eq!(RequestParam::new(ignore, 7).base.op_attr_mask & OP_MEMH, 0);
        let full = RequestParam::new(ignore, 7).with_memh(8 as ucp_mem_h).with_flags(CLOSE_FORCE);
        assert_ne!(full.base.op_attr_mask & OP_MEMH, 0);
        assert_eq!((full.base.user_data as usize, full.base.flags), (7, CLOSE_FORCE));
        let fast = sys::ucp_op_attr_t::UCP_OP_ATTR_FLAG_FAST_CMPL as u32;
        assert_eq!(full.base.op_attr_mask & fast, 0);
        assert_ne!(full.copied().base.op_attr_mask & fast, 0);
    }
}
