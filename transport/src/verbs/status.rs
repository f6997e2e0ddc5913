//! The names of what goes wrong on a device: completions, events, and failed registrations. Pure.

use super::ffi::ibv_wc_status as wc;

/// A way for an operation or a connection to fail, as counters name it and as people read it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// For [`Snapshot::failures`](crate::Snapshot::failures).
    pub(super) kind: &'static str,
    pub(super) text: &'static str,
}

/// What the status of a completion means; `None` for success, and for what was merely flushed
/// behind something that had failed before.
pub(super) fn of_completion(status: u32) -> Option<Failure> {
    let (kind, text) = match status {
        wc::IBV_WC_SUCCESS | wc::IBV_WC_WR_FLUSH_ERR => return None,
        wc::IBV_WC_RETRY_EXC_ERR => (
            "rdma_retry_exceeded",
            "retry exceeded: the peer's device does not answer (its host is down, its queue pair \
             is gone, or the network drops packets: check GIDs, MTU and PFC)",
        ),
        wc::IBV_WC_RNR_RETRY_EXC_ERR => (
            "rdma_rnr_retry_exceeded",
            "RNR retry exceeded: the peer takes no notifications; is it stopped?",
        ),
        wc::IBV_WC_REM_ACCESS_ERR => (
            "rdma_remote_access",
            "remote access error: the peer's device refuses the rkey or the range; its memory was \
             deregistered, or the metadata is stale or forged",
        ),
        wc::IBV_WC_REM_INV_REQ_ERR => (
            "rdma_remote_invalid_request",
            "remote invalid request: the peer's queue pair does not take such an operation",
        ),
        wc::IBV_WC_REM_OP_ERR => (
            "rdma_remote_operation",
            "remote operation error: the peer's device could not complete it",
        ),
        wc::IBV_WC_LOC_LEN_ERR => ("rdma_local_length", "local length error"),
        wc::IBV_WC_LOC_PROT_ERR => (
            "rdma_local_protection",
            "local protection error: the local memory is not registered for this",
        ),
        wc::IBV_WC_LOC_QP_OP_ERR => ("rdma_queue_pair", "local queue pair operation error"),
        wc::IBV_WC_LOC_ACCESS_ERR => ("rdma_local_access", "local access error"),
        wc::IBV_WC_BAD_RESP_ERR => ("rdma_bad_response", "bad response from the peer's device"),
        wc::IBV_WC_REM_ABORT_ERR => ("rdma_remote_abort", "the peer's device aborted it"),
        wc::IBV_WC_RESP_TIMEOUT_ERR => ("rdma_response_timeout", "response timeout"),
        wc::IBV_WC_FATAL_ERR => ("rdma_fatal", "fatal error of the device"),
        _ => ("rdma_other", "a completion with an error of the device's own"),
    };
    Some(Failure { kind, text })
}

/// What an asynchronous event of the device concerns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The device is of no use any more: it was removed, or failed.
    Device(Failure),
    /// This port went down.
    PortDown,
    /// A queue pair failed on its own; its work is flushed.
    QueuePair(Failure),
    /// Nothing to do about.
    Other,
}

/// Numbers of `enum ibv_event_type` (<infiniband/verbs.h>).
pub(super) fn of_event(number: i32) -> Event {
    let device = |kind, text| Event::Device(Failure { kind, text });
    let queue_pair = |kind, text| Event::QueuePair(Failure { kind, text });
    match number {
        0 => device("rdma_queue_overrun", "a completion queue was overrun"),
        1 => queue_pair("rdma_queue_pair", "its queue pair failed"),
        2 => queue_pair("rdma_remote_invalid_request", "a peer sent an invalid request"),
        3 => queue_pair(
            "rdma_remote_access",
            "a peer used a key or a range that it was not given (remote access error)",
        ),
        8 => device("rdma_device_removed", "the RDMA device was removed or has failed"),
        10 => Event::PortDown,
        _ => Event::Other,
    }
}

/// What is known about the limits when a registration fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    /// Bytes that this process may lock; `None` is unlimited.
    pub(super) memlock: Option<u64>,
    /// Bytes that it has locked or pinned.
    pub(super) locked: u64,
    /// Whether it may exceed the limit (`CAP_IPC_LOCK`).
    pub(super) privileged: bool,
    /// Longest memory region of the device.
    pub(super) max_mr_size: u64,
    /// Memory regions that the device has.
    pub(super) max_mr: u64,
}

/// Says which limit stopped the registration of `len` bytes, as one of `parts` regions, and how
/// to raise it.
pub(super) fn of_registration(errno: i32, len: u64, parts: u64, limits: &Limits) -> String {
    let error = std::io::Error::from_raw_os_error(errno);
    let memlock = limits.memlock.filter(|_| !limits.privileged);
    if parts > limits.max_mr {
        return format!(
            "it takes {parts} memory regions, and the device has {} (MR count); allow longer ones \
             with --rdma-max-region-bytes or register less memory",
            limits.max_mr
        );
    }
    if len > limits.max_mr_size {
        return format!(
            "a memory region of {len} bytes exceeds the device's {} (MR size); lower \
             --rdma-max-region-bytes",
            limits.max_mr_size
        );
    }
    match (errno, memlock) {
        (libc::ENOMEM | libc::EPERM | libc::EAGAIN, Some(limit))
            if limits.locked.saturating_add(len) > limit =>
        {
            format!(
                "the memory lock limit (memlock, RLIMIT_MEMLOCK) is {limit} bytes, {} are locked, \
                 and {len} more are to be pinned; raise it with `ulimit -l unlimited`, \
                 LimitMEMLOCK=infinity in a systemd unit, `--ulimit memlock=-1` for a container, or \
                 memlock in /etc/security/limits.conf",
                limits.locked
            )
        }
        (libc::ENOMEM, _) => format!(
            "{error}: memory regions (the device has {}), its translation entries or the host's \
             memory are used up; register less, in huge pages, or see `rdma resource show mr`",
            limits.max_mr
        ),
        (libc::EFAULT, _) => format!("{error}: the memory is not mapped for writing"),
        (libc::EOPNOTSUPP | libc::EINVAL, _) => format!(
            "{error}: the device does not take such a memory region; try a lower \
             --rdma-max-region-bytes, and without on-demand paging"
        ),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        memlock: Some(65_536),
        locked: 4096,
        privileged: false,
        max_mr_size: 1 << 30,
        max_mr: 100,
    };

    #[test]
    fn the_limit_at_fault_is_named_with_its_cure() {
        let memlock = of_registration(libc::ENOMEM, 1 << 20, 1, &LIMITS);
        assert!(memlock.contains("65536 bytes") && memlock.contains("ulimit -l"), "{memlock}");
        let privileged = Limits { privileged: true, ..LIMITS };
        assert!(!of_registration(libc::ENOMEM, 1 << 20, 1, &privileged).contains("ulimit"));
        let unlimited = Limits { memlock: None, ..LIMITS };
        assert!(of_registration(libc::ENOMEM, 1 << 20, 1, &unlimited).contains("has 100"));
        assert!(of_registration(libc::EINVAL, 1 << 31, 1, &LIMITS).contains("MR size"));
        assert!(of_registration(libc::ENOMEM, 4096, 101, &LIMITS).contains("MR count"));
        assert!(
            !of_registration(libc::ENOMEM, 4096, 1, &LIMITS).contains("ulimit"),
            "it would fit"
        );
    }

    #[test]
    fn flushed_work_is_no_failure_of_its_own() {
        assert_eq!(of_completion(wc::IBV_WC_SUCCESS), None);
        assert_eq!(of_completion(wc::IBV_WC_WR_FLUSH_ERR), None);
    }

    #[test]
    fn every_error_has_a_name() {
        for status in (0..40).filter(|status| !matches!(*status, 0 | wc::IBV_WC_WR_FLUSH_ERR)) {
            let failure = of_completion(status).unwrap();
            assert!(failure.kind.starts_with("rdma_") && !failure.text.is_empty());
        }
        let access = of_completion(wc::IBV_WC_REM_ACCESS_ERR).unwrap();
        assert_eq!(access.kind, "rdma_remote_access");
    }

    #[test]
    fn events_concern_the_device_the_port_or_a_queue_pair() {
        assert_eq!(of_event(10), Event::PortDown);
        assert!(
            matches!(of_event(8), Event::Device(failure) if failure.kind == "rdma_device_removed")
        );
        assert!(
            matches!(of_event(3), Event::QueuePair(failure) if failure.kind == "rdma_remote_access")
        );
        assert_eq!(of_event(9), Event::Other);
        assert_eq!(of_event(1234), Event::Other);
    }
}
