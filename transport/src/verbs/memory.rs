//! Registered memory: the pool's regions, and the buffers of messages.

use std::ffi::c_int;
use std::ptr::NonNull;
use std::sync::Arc;

use bytes::Bytes;

use super::device::Device;
use super::ffi::{ACCESS_LOCAL_WRITE, ACCESS_ON_DEMAND, ACCESS_REMOTE_READ, ibv_mr};
use super::plan::{RemoteKeys, chunk_len, chunks};
use super::status::{Limits, of_registration};
use crate::counters::{Gauge, Held};
use crate::error::Error;
use crate::mapping::Mapping;
use crate::rdma::RdmaSettings;
use crate::region::RegionCore;

/// A memory region of the device. Whoever owns it keeps the memory mapped until it is dropped.
struct MemoryRegion {
    handle: NonNull<ibv_mr>,
    device: Arc<Device>,
    _counted: Held,
}

// SAFETY: as for `Device`: the library's functions may be called from any thread.
unsafe impl Send for MemoryRegion {}
// SAFETY: as above; nothing is changed through it.
unsafe impl Sync for MemoryRegion {}

impl MemoryRegion {
    /// # Safety
    /// `address..address + len` must be mapped until this is dropped.
    unsafe fn new(
        device: &Arc<Device>,
        (address, len): (*mut u8, usize),
        access: u32,
        gauge: &Gauge,
    ) -> Result<Self, c_int> {
        // SAFETY: the protection domain is alive; the memory is the caller's promise.
        let handle = unsafe {
            (device.verbs.ibv_reg_mr)(device.pd.as_ptr(), address.cast(), len, access as c_int)
        };
        let failed = || std::io::Error::last_os_error().raw_os_error().unwrap_or(0);
        let handle = NonNull::new(handle).ok_or_else(failed)?;
        Ok(Self { handle, device: Arc::clone(device), _counted: gauge.hold(1) })
    }

    fn lkey(&self) -> u32 {
        // SAFETY: the library's struct lives until deregistration and does not change.
        unsafe { (*self.handle.as_ptr()).lkey }
    }

    fn rkey(&self) -> u32 {
        // SAFETY: as above.
        unsafe { (*self.handle.as_ptr()).rkey }
    }
}

impl Drop for MemoryRegion {
    fn drop(&mut self) {
        // SAFETY: registered by us, deregistered once. Work that still names it fails with an
        // access error and touches nothing.
        unsafe { (self.device.verbs.ibv_dereg_mr)(self.handle.as_ptr()) };
    }
}

/// A region of the agent, registered in as many chunks as the device demands.
pub(super) struct Registration {
    // Before the memory: it must be mapped while it is registered.
    chunks: Vec<MemoryRegion>,
    pub(super) chunk_len: u64,
    _region: Arc<RegionCore>,
}

impl Registration {
    /// Registers memory for reading by peers and as a destination of reads. Blocks while the
    /// kernel pins its pages.
    ///
    /// # Errors
    /// [`Error::Register`] names the limit that stopped it, and how to raise it.
    pub(super) fn new(
        device: &Arc<Device>,
        region: &Arc<RegionCore>,
        settings: &RdmaSettings,
        gauge: &Gauge,
    ) -> Result<Self, Error> {
        let len = region.len();
        let failed = |reason| Error::Register { len, reason };
        let mut access = ACCESS_LOCAL_WRITE | ACCESS_REMOTE_READ;
        if settings.on_demand_paging {
            if !device.limits.on_demand_reads {
                let name = &device.name;
                return Err(failed(format!(
                    "{name} does not offer on-demand paging for RDMA reads; leave it out"
                )));
            }
            access |= ACCESS_ON_DEMAND;
        }
        let limit = settings.max_region_bytes.unwrap_or(u64::MAX).min(device.limits.max_mr_size);
        let chunk_len = chunk_len(len as u64, limit);
        let count = chunks(len as u64, chunk_len);
        let explain =
            |errno, bytes: u64| failed(of_registration(errno, bytes, count, &limits_now(device)));
        if count > device.limits.max_mr {
            return Err(explain(libc::ENOMEM, chunk_len));
        }
        let mut registered = Vec::with_capacity(count as usize);
        for index in 0..count {
            let start = index * chunk_len;
            let bytes = chunk_len.min(len as u64 - start);
            let address = region.base().wrapping_add(start as usize);
            // SAFETY: inside of the mapping, which `region` keeps until after the chunks are gone.
            let memory =
                unsafe { MemoryRegion::new(device, (address, bytes as usize), access, gauge) };
            registered.push(memory.map_err(|errno| explain(errno, bytes))?);
        }
        Ok(Self { chunks: registered, chunk_len, _region: Arc::clone(region) })
    }

    /// The key of local memory in this chunk.
    pub(super) fn lkey(&self, chunk: usize) -> u32 {
        self.chunks[chunk].lkey()
    }

    /// What peers need to read it.
    pub(super) fn keys(&self) -> Bytes {
        let rkeys = self.chunks.iter().map(MemoryRegion::rkey).collect();
        RemoteKeys { chunk_len: self.chunk_len, rkeys }.encode()
    }
}

/// Buffers of one length for messages, registered together.
pub(super) struct Buffers {
    // Before the memory: it must be mapped while it is registered.
    registered: MemoryRegion,
    memory: Mapping,
    pub(super) len: usize,
    count: usize,
}

impl Buffers {
    /// `count` buffers of `len` bytes, at least one each.
    ///
    /// # Errors
    /// As [`Registration::new`].
    pub(super) fn new(
        device: &Arc<Device>,
        count: usize,
        len: usize,
        gauge: &Gauge,
    ) -> Result<Self, Error> {
        let len = len.max(1);
        let memory = Mapping::anonymous(count * len)?;
        let bytes = memory.len();
        // SAFETY: the mapping moves into the result, behind the registration.
        let registered = unsafe {
            MemoryRegion::new(device, (memory.as_ptr(), bytes), ACCESS_LOCAL_WRITE, gauge)
        };
        let registered = registered.map_err(|errno| {
            let reason = of_registration(errno, bytes as u64, 1, &limits_now(device));
            Error::Register { len: bytes, reason }
        })?;
        Ok(Self { registered, memory, len, count })
    }

    pub(super) fn lkey(&self) -> u32 {
        self.registered.lkey()
    }

    /// Where a buffer begins; it has `len` bytes.
    pub(super) fn address(&self, index: usize) -> *mut u8 {
        assert!(index < self.count, "buffers are numbered by their owner");
        self.memory.as_ptr().wrapping_add(index * self.len)
    }

    /// Copies a message into a buffer.
    ///
    /// # Safety
    /// The device must not be reading this buffer.
    pub(super) unsafe fn fill(&self, index: usize, message: &[u8]) {
        assert!(message.len() <= self.len, "messages are checked against the limit");
        // SAFETY: in bounds by the checks here and in `address`; the device is not reading it, by
        // the caller's word, and this thread is the only other one that has this value.
        unsafe {
            std::ptr::copy_nonoverlapping(message.as_ptr(), self.address(index), message.len());
        }
    }

    /// Copies a message of `len` bytes out of a buffer; more than fit are not there.
    ///
    /// # Safety
    /// The device must have finished writing this buffer.
    pub(super) unsafe fn message(&self, index: usize, len: usize) -> Bytes {
        // SAFETY: in bounds; nobody writes it, by the caller's word.
        let bytes = unsafe { std::slice::from_raw_parts(self.address(index), len.min(self.len)) };
        Bytes::copy_from_slice(bytes)
    }
}

/// What limits registrations at this moment.
fn limits_now(device: &Device) -> Limits {
    let mut memlock = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: a valid place for the limit.
    let status = unsafe { libc::getrlimit(libc::RLIMIT_MEMLOCK, &mut memlock) };
    let limited = status == 0 && memlock.rlim_cur != libc::RLIM_INFINITY;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).unwrap_or("")
    };
    let kilobytes = |name| {
        let number = field(name).split(' ').next().and_then(|number| number.parse().ok());
        number.unwrap_or(0_u64) * 1024
    };
    /// Number of `CAP_IPC_LOCK` (<linux/capability.h>).
    const CAP_IPC_LOCK: u64 = 14;
    let capabilities = u64::from_str_radix(field("CapEff:"), 16).unwrap_or(0);
    Limits {
        memlock: limited.then_some(memlock.rlim_cur),
        locked: kilobytes("VmLck:") + kilobytes("VmPin:"),
        privileged: capabilities >> CAP_IPC_LOCK & 1 == 1,
        max_mr_size: device.limits.max_mr_size,
        max_mr: device.limits.max_mr,
    }
}
