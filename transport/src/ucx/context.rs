//! A UCX context and the memory registered with it.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::mem::zeroed;
use std::net::IpAddr;
use std::ptr::{null, null_mut};
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;

use super::ffi::{
    API_VERSION, FEATURES, MEM_MAP_RANGE, PARAMS_FEATURES, ucp_config_t, ucp_context_h, ucp_mem_h,
    ucp_mem_map_params_t, ucp_params_t,
};
use super::library::{Ucx, refused};
use super::settings::{self, Setting};
use super::wire;
use crate::error::Error;
use crate::region::RegionCore;

/// An initialised UCX. Used by one thread at a time: see [`super::progress::Progress`].
pub(super) struct Context {
    pub(super) ucx: &'static Ucx,
    pub(super) handle: ucp_context_h,
}

impl Context {
    /// Reads UCX's configuration, applies our defaults below the user's variables, initialises.
    ///
    /// # Errors
    /// [`Error::Open`] with the call that failed, its status, and the likely cure.
    pub(super) fn open(
        ucx: &'static Ucx,
        user: &BTreeMap<String, String>,
        listen: IpAddr,
    ) -> Result<Rc<Self>, Error> {
        let config = Config::read(ucx)?;
        for setting in settings::defaults(ucx.version, user, listen) {
            config.set(setting)?;
        }
        if listen.is_loopback() && settings::loopback_is_broken(ucx.version) {
            tracing::warn!(
                version = %ucx.version,
                "this UCX cannot use the loopback device: over TCP it listens on this host's other \
                 addresses"
            );
        }
        // SAFETY: plain data of C; all zeros is valid, and the mask says which fields count.
        let mut params: ucp_params_t = unsafe { zeroed() };
        params.field_mask = PARAMS_FEATURES;
        params.features = FEATURES;
        let (major, minor) = API_VERSION;
        let mut handle = null_mut();
        // SAFETY: `params` and `config` are valid for the call, which keeps neither; `handle` is
        // written on success only.
        let status =
            unsafe { (ucx.f.ucp_init_version)(major, minor, &params, config.handle, &mut handle) };
        if !status.is_ok() {
            let (cause, cure) = (ucx.describe(status), settings::cure(user));
            return Err(refused(format!(
                "ucp_init of UCX {} failed: {cause}; {cure}",
                ucx.version
            )));
        }
        Ok(Rc::new(Self { ucx, handle }))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: initialised by us, and the last user: workers and registrations hold an `Rc`.
        self.ucx.rcache.while_nobody_reads(|| unsafe { (self.ucx.f.ucp_cleanup)(self.handle) });
    }
}

/// UCX's configuration, read from its files and the environment.
struct Config {
    ucx: &'static Ucx,
    handle: *mut ucp_config_t,
}

impl Config {
    fn read(ucx: &'static Ucx) -> Result<Self, Error> {
        let mut handle = null_mut();
        // SAFETY: null prefix and file mean UCX's own; `handle` is written on success only.
        let status = unsafe { (ucx.f.ucp_config_read)(null(), null(), &mut handle) };
        if status.is_ok() {
            return Ok(Self { ucx, handle });
        }
        let cause = ucx.describe(status);
        Err(refused(format!(
            "ucp_config_read failed: {cause}; check the values of UCX_* variables"
        )))
    }

    fn set(&self, setting: Setting) -> Result<(), Error> {
        let c_string = |text: &str| CString::new(text).expect("our settings have no zero byte");
        let key = c_string(setting.key(self.ucx.version));
        let value = c_string(setting.value);
        // SAFETY: the configuration is ours, and both strings outlive the call, which copies them.
        let status =
            unsafe { (self.ucx.f.ucp_config_modify)(self.handle, key.as_ptr(), value.as_ptr()) };
        if status.is_ok() {
            return Ok(());
        }
        let (cause, variable, value) =
            (self.ucx.describe(status), setting.variable(), setting.value);
        Err(refused(format!(
            "ucp_config_modify failed: {cause}: this UCX does not take {variable}={value}; \
             set {variable} yourself"
        )))
    }
}

impl Drop for Config {
    fn drop(&mut self) {
        // SAFETY: read by us and released once; `ucp_init` has copied what it needs.
        unsafe { (self.ucx.f.ucp_config_release)(self.handle) };
    }
}

/// A region that UCX knows. Its memory handle is kept for the region's life and named in every
/// operation on it.
pub(super) struct Registration {
    context: Rc<Context>,
    pub(super) memh: ucp_mem_h,
    /// Dropped after the memory is unregistered, and unmapped at the earliest then.
    _region: Arc<RegionCore>,
}

impl Registration {
    /// Registers the memory; also returns the key for metadata.
    ///
    /// # Errors
    /// [`Error::Register`] with the call that failed and its status.
    pub(super) fn new(
        context: &Rc<Context>,
        region: Arc<RegionCore>,
    ) -> Result<(Self, Bytes), Error> {
        let (ucx, len) = (context.ucx, region.len());
        let failed = |call: &str, status| Error::Register {
            len,
            reason: format!("{call} failed: {}; check `ulimit -l`", ucx.describe(status)),
        };
        // SAFETY: plain data of C; all zeros is valid, and the mask says which fields count.
        let mut params: ucp_mem_map_params_t = unsafe { zeroed() };
        params.field_mask = MEM_MAP_RANGE;
        params.address = region.base().cast();
        params.length = len as u64;
        let mut memh = null_mut();
        // SAFETY: the range is a live mapping, which `_region` keeps until after `ucp_mem_unmap`.
        // The context is alive; `memh` is written on success only.
        let status = unsafe { (ucx.f.ucp_mem_map)(context.handle, &params, &mut memh) };
        if !status.is_ok() {
            return Err(failed("ucp_mem_map", status));
        }
        let registration = Self { context: Rc::clone(context), memh, _region: region };
        let (mut buffer, mut size) = (null_mut(), 0);
        // SAFETY: context and handle are alive and belong together; both results are written on
        // success only.
        let status = unsafe { (ucx.f.ucp_rkey_pack)(context.handle, memh, &mut buffer, &mut size) };
        if !status.is_ok() {
            return Err(failed("ucp_rkey_pack", status));
        }
        // SAFETY: UCX returned a buffer of `size` bytes, which is ours until released below.
        let key = wire::frame_key(unsafe { std::slice::from_raw_parts(buffer.cast(), size) });
        // SAFETY: from `ucp_rkey_pack`, released once, and copied before.
        unsafe { (ucx.f.ucp_rkey_buffer_release)(buffer) };
        Ok((registration, key))
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        // SAFETY: mapped by us, unmapped once. The progress thread drops a registration when its
        // region is retired, which it is only while no transfer claims any of it, or when every
        // link is gone: no operation on the memory is outstanding.
        let status = unsafe { (self.context.ucx.f.ucp_mem_unmap)(self.context.handle, self.memh) };
        if !status.is_ok() {
            tracing::warn!(cause = %self.context.ucx.describe(status), "ucp_mem_unmap failed");
        }
    }
}
