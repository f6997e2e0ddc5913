//! This process: its processor time and its file descriptors.

use std::time::Duration;

use nix::sys::resource::{Resource, UsageWho, getrlimit, getrusage, setrlimit};
use nix::sys::time::TimeVal;

/// User and system time that this process has used so far; zero if the system will not say.
pub(crate) fn cpu_time() -> Duration {
    let time = |value: TimeVal| {
        let (s, us) = (value.tv_sec().unsigned_abs(), value.tv_usec().unsigned_abs());
        Duration::from_secs(s) + Duration::from_micros(us)
    };
    getrusage(UsageWho::RUSAGE_SELF)
        .map(|usage| time(usage.user_time()) + time(usage.system_time()))
        .unwrap_or_default()
}

/// Descriptors that are not connections: files, timers, the runtime's own.
const RESERVED_DESCRIPTORS: u64 = 64;

/// Raises the soft limit of open files so that `connections` fit, as far as the hard limit
/// allows. Returns how many connections fit if that is fewer.
pub(super) fn make_room_for(connections: usize) -> Result<(), u64> {
    let needed = (connections as u64).saturating_add(RESERVED_DESCRIPTORS);
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return Ok(()) };
    if soft >= needed {
        return Ok(());
    }
    let raised = needed.min(hard);
    let limit = match setrlimit(Resource::RLIMIT_NOFILE, raised, hard) {
        Ok(()) => raised,
        Err(_) => soft,
    };
    if limit >= needed { Ok(()) } else { Err(limit.saturating_sub(RESERVED_DESCRIPTORS)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time() {
        let before = cpu_time();
        let mut sum = 0_u64;
        while cpu_time() == before {
            sum = std::hint::black_box(sum.wrapping_mul(3) + 1);
        }
        assert!(cpu_time() > before);
    }

    #[test]
    fn more_connections_than_the_system_allows_are_told() {
        assert_eq!(make_room_for(1), Ok(()));
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
        if hard < u64::MAX / 2 {
            assert_eq!(make_room_for(usize::MAX), Err(hard - RESERVED_DESCRIPTORS));
        }
    }
}
