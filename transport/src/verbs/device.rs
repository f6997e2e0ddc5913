//! An open device with its protection domain, and what it and the kernel say about it.

use std::ffi::c_int;
use std::mem::zeroed;
use std::net::Ipv6Addr;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::Arc;

use super::choice::{GidEntry, LinkLayer, Port, mtu_bytes};
use super::ffi::{
    AsyncEvent, Functions, LINK_LAYER_ETHERNET, ibv_context, ibv_device_attr, ibv_gid, ibv_pd,
    ibv_port_attr, query_device_ex, text,
};
use super::library::{load, refused};
use crate::error::Error;
use crate::rdma::RdmaSettings;

/// A device, opened by this process. Everything that is made on it holds an `Arc` of it, so it is
/// closed last.
pub(super) struct Device {
    pub(super) verbs: &'static Functions,
    pub(super) name: String,
    pub(super) context: NonNull<ibv_context>,
    pub(super) pd: NonNull<ibv_pd>,
    pub(super) limits: DeviceLimits,
}

/// What the device can at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct DeviceLimits {
    pub(super) max_mr_size: u64,
    pub(super) max_mr: u64,
    pub(super) max_qp_wr: u32,
    /// Reads that a queue pair starts at a time.
    pub(super) initiator_depth: c_int,
    /// Reads that a queue pair answers at a time.
    pub(super) responder_resources: u8,
    pub(super) on_demand_reads: bool,
}

// SAFETY: verbs may be called from any thread, also for one object at a time from several
// (https://github.com/linux-rdma/rdma-core/blob/master/libibverbs/man/ibv_open_device.3: contexts
// and protection domains are shared between threads); the pointers are never handed out as `&mut`.
unsafe impl Send for Device {}
// SAFETY: as above.
unsafe impl Sync for Device {}

impl Device {
    /// Opens the device that `settings` names, else the first one with an active port.
    ///
    /// # Errors
    /// [`Error::Open`]: there is none, or not this one, or it cannot be opened.
    pub(super) fn open(settings: &RdmaSettings) -> Result<(Arc<Self>, Port), Error> {
        let list = DeviceList::get(load()?)?;
        let names = list.names();
        if names.is_empty() {
            return Err(refused(NO_DEVICE.to_owned()));
        }
        if let Some(wanted) = &settings.device {
            let index = names.iter().position(|name| name == wanted).ok_or_else(|| {
                refused(format!(
                    "there is no RDMA device '{wanted}'; there are {}",
                    names.join(", ")
                ))
            })?;
            let device = list.open(index)?;
            let port = device.port(settings.port)?;
            return Ok((device, port));
        }
        let mut inactive = Vec::new();
        for index in 0..names.len() {
            let opened = list.open(index).and_then(|device| {
                let port = device.port(settings.port)?;
                Ok((device, port))
            });
            match opened {
                Ok((device, port)) if port.is_active() => return Ok((device, port)),
                Ok((_, port)) => inactive.push(port.state_in_words()),
                Err(error) => inactive.push(error.to_string()),
            }
        }
        let reason = format!("no RDMA device has an active port: {}", inactive.join("; "));
        Err(refused(reason))
    }

    /// The port that was asked for, else the first active one, else the first.
    fn port(&self, wanted: Option<u8>) -> Result<Port, Error> {
        let count = self.attributes()?.phys_port_cnt;
        if let Some(number) = wanted {
            if !(1..=count).contains(&number) {
                let name = &self.name;
                return Err(refused(format!(
                    "{name} has ports 1 to {count}, and no port {number}"
                )));
            }
            return self.query_port(number);
        }
        let first = self.query_port(1)?;
        if first.is_active() {
            return Ok(first);
        }
        for number in 2..=count {
            let port = self.query_port(number)?;
            if port.is_active() {
                return Ok(port);
            }
        }
        Ok(first)
    }

    /// The state of a port at this moment: a number of `enum ibv_port_state`.
    pub(super) fn port_state(&self, number: u8) -> Result<u32, Error> {
        Ok(self.port_attributes(number)?.state)
    }

    /// A port as it is now.
    fn query_port(&self, number: u8) -> Result<Port, Error> {
        let attributes = self.port_attributes(number)?;
        let link_layer = match attributes.link_layer {
            LINK_LAYER_ETHERNET => LinkLayer::Ethernet,
            _ => LinkLayer::InfiniBand,
        };
        let gid_table = u32::try_from(attributes.gid_tbl_len).unwrap_or(0);
        Ok(Port {
            device: self.name.clone(),
            number,
            state: attributes.state,
            link_layer,
            lid: attributes.lid,
            active_mtu: mtu_bytes(attributes.active_mtu).unwrap_or(256),
            max_message: attributes.max_msg_sz,
            gids: self.gids(number, gid_table),
            gid_table,
        })
    }

    fn port_attributes(&self, number: u8) -> Result<ibv_port_attr, Error> {
        // SAFETY: plain data of C, for which zeros are valid.
        let mut attributes: ibv_port_attr = unsafe { zeroed() };
        // SAFETY: the context is open. The function writes the leading part of the struct, as long
        // as the one that was there when it got its version; ours has everything behind it, too.
        let status =
            unsafe { (self.verbs.ibv_query_port)(self.context.as_ptr(), number, &mut attributes) };
        if status != 0 {
            return Err(self.failed(&format!("query port {number}"), status));
        }
        Ok(attributes)
    }

    /// The entries of a GID table that are not zero. Indices past 255 do not fit an address
    /// handle.
    fn gids(&self, port: u8, table: u32) -> Vec<GidEntry> {
        let entry = |index: u8| {
            let mut gid = ibv_gid { raw: [0; 16] };
            // SAFETY: the context is open, and there is room for one GID.
            let status = unsafe {
                (self.verbs.ibv_query_gid)(self.context.as_ptr(), port, index.into(), &mut gid)
            };
            // SAFETY: either arm of the union is 16 bytes of plain data.
            let gid = Ipv6Addr::from(unsafe { gid.raw });
            if status != 0 || gid.is_unspecified() {
                return None;
            }
            // The library asks the kernel's files for it, and so do we.
            let kind = self.sysfs(&format!("ports/{port}/gid_attrs/types/{index}"));
            let kind = std::fs::read_to_string(kind).unwrap_or_default().trim().to_owned();
            Some(GidEntry { index, gid, kind })
        };
        (0..=u8::MAX).take_while(|index| u32::from(*index) < table).filter_map(entry).collect()
    }

    fn sysfs(&self, what: &str) -> PathBuf {
        PathBuf::from("/sys/class/infiniband").join(&self.name).join(what)
    }

    fn attributes(&self) -> Result<ibv_device_attr, Error> {
        // SAFETY: plain data of C, for which zeros are valid.
        let mut attributes: ibv_device_attr = unsafe { zeroed() };
        // SAFETY: the context is open, and the struct has not changed since version 1.1.
        let status =
            unsafe { (self.verbs.ibv_query_device)(self.context.as_ptr(), &mut attributes) };
        if status == 0 { Ok(attributes) } else { Err(self.failed("query it", status)) }
    }

    fn read_limits(&mut self) -> Result<(), Error> {
        let attributes = self.attributes()?;
        // SAFETY: the context is open.
        let extended = unsafe { query_device_ex(self.context.as_ptr()) };
        let at_least_zero = |value: c_int| u32::try_from(value).unwrap_or(0);
        self.limits = DeviceLimits {
            max_mr_size: attributes.max_mr_size,
            max_mr: at_least_zero(attributes.max_mr).into(),
            max_qp_wr: at_least_zero(attributes.max_qp_wr),
            initiator_depth: attributes.max_qp_init_rd_atom,
            responder_resources: attributes.max_qp_rd_atom.clamp(1, 255) as u8,
            // IBV_ODP_SUPPORT (1) in general, IBV_ODP_SUPPORT_READ (8) for reliable connections.
            on_demand_reads: extended.is_some_and(|extended| {
                extended.odp_caps.general_caps & 1 != 0
                    && extended.odp_caps.per_transport_caps.rc_odp_caps & 8 != 0
            }),
        };
        Ok(())
    }

    /// Readable when the device has an event to tell.
    pub(super) fn async_fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the library keeps it open until the context is closed, which `&self` rules out.
        unsafe { BorrowedFd::borrow_raw((*self.context.as_ptr()).async_fd) }
    }

    /// The next event of the device, acknowledged: its number, and the queue or port it is about.
    /// `None` if there is none.
    pub(super) fn next_event(&self) -> Option<(c_int, usize)> {
        let mut event = AsyncEvent { element: 0, event_type: -1 };
        // SAFETY: the context is open and its descriptor does not block; there is room for one
        // event, whose layout is checked in `ffi`.
        let status = unsafe { (self.verbs.ibv_get_async_event)(self.context.as_ptr(), &mut event) };
        if status != 0 {
            return None;
        }
        // SAFETY: an event that was just got, acknowledged once. The queue that it is about cannot
        // be gone: its destruction waits for this, and happens on this thread.
        unsafe { (self.verbs.ibv_ack_async_event)(&mut event) };
        Some((event.event_type, event.element))
    }

    /// An operation on this device has failed with this errno.
    pub(super) fn failed(&self, operation: &str, errno: c_int) -> Error {
        let operation = format!("{operation} of RDMA device {}", self.name);
        Error::Io { operation, source: std::io::Error::from_raw_os_error(errno.abs()) }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: made by us and destroyed once. Whatever is made on them holds an `Arc` of this
        // device, so nothing is left on them.
        unsafe {
            (self.verbs.ibv_dealloc_pd)(self.pd.as_ptr());
            (self.verbs.ibv_close_device)(self.context.as_ptr());
        }
    }
}

const NO_DEVICE: &str = "this machine has no RDMA device; `rdma link` shows them, `modprobe rdma_rxe` and \
     `rdma link add rxe0 type rxe netdev INTERFACE` make one in software, and scripts/rdma-vm \
     runs a command on a machine that has two";

/// The devices there are, until it is dropped.
struct DeviceList {
    verbs: &'static Functions,
    list: *mut *mut super::ffi::ibv_device,
    count: usize,
}

impl DeviceList {
    fn get(verbs: &'static Functions) -> Result<Self, Error> {
        let mut count = 0;
        // SAFETY: a valid place for the count.
        let list = unsafe { (verbs.ibv_get_device_list)(&mut count) };
        if list.is_null() {
            let error = std::io::Error::last_os_error();
            // What a kernel without ib_uverbs says.
            if error.raw_os_error() == Some(libc::ENOSYS) {
                return Err(refused(format!(
                    "{NO_DEVICE} (the kernel module ib_uverbs is not loaded)"
                )));
            }
            return Err(refused(format!("cannot list the RDMA devices: {error}")));
        }
        Ok(Self { verbs, list, count: usize::try_from(count).unwrap_or(0) })
    }

    fn names(&self) -> Vec<String> {
        // SAFETY: `list` has `count` devices until it is freed, and names live as long as they.
        let name = |index| unsafe { text((self.verbs.ibv_get_device_name)(*self.list.add(index))) };
        (0..self.count).map(name).collect()
    }

    fn open(&self, index: usize) -> Result<Arc<Device>, Error> {
        let name = self.names().swap_remove(index);
        let failed = |what: &str| {
            let error = std::io::Error::last_os_error();
            refused(format!(
                "cannot {what} RDMA device {name}: {error}; check the permissions of \
                 /dev/infiniband and `ulimit -n`"
            ))
        };
        // SAFETY: one of the list's devices; the list is not freed yet.
        let context = unsafe { (self.verbs.ibv_open_device)(*self.list.add(index)) };
        let context = NonNull::new(context).ok_or_else(|| failed("open"))?;
        // SAFETY: the context was just opened.
        let pd = unsafe { (self.verbs.ibv_alloc_pd)(context.as_ptr()) };
        let Some(pd) = NonNull::new(pd) else {
            let error = failed("allocate a protection domain on");
            // SAFETY: opened above, and nothing was made on it.
            unsafe { (self.verbs.ibv_close_device)(context.as_ptr()) };
            return Err(error);
        };
        let limits = DeviceLimits {
            max_mr_size: 0,
            max_mr: 0,
            max_qp_wr: 0,
            initiator_depth: 0,
            responder_resources: 0,
            on_demand_reads: false,
        };
        let mut device = Device { verbs: self.verbs, name: name.clone(), context, pd, limits };
        device.read_limits()?;
        let async_fd = device.async_fd();
        nonblocking(async_fd).map_err(|error| {
            refused(format!("cannot make the event descriptor of {name} non-blocking: {error}"))
        })?;
        Ok(Arc::new(device))
    }
}

impl Drop for DeviceList {
    fn drop(&mut self) {
        // SAFETY: from `ibv_get_device_list`, freed once. Open devices do not need it.
        unsafe { (self.verbs.ibv_free_device_list)(self.list) };
    }
}

/// So that an empty queue of events says so instead of waiting.
pub(super) fn nonblocking(descriptor: BorrowedFd<'_>) -> std::io::Result<()> {
    use std::os::fd::AsRawFd;
    // SAFETY: an open descriptor; no memory is touched.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(std::io::Error::last_os_error());
    }
    let flags = flags | libc::O_NONBLOCK;
    // SAFETY: as above.
    if unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags) } < 0 {
        return Err(std::io::Error::last_os_error());
    }
    Ok(())
}
