//! Finds the facts that decide how a process can be traced.

use std::fs;
use std::process::{Command, Stdio};

use procfs::process::Process;

use super::tier::{Facts, Strace, Target};
use super::tracefs;

/// What this machine, this user and the process allow. A process that is gone is no target.
pub fn facts(pid: Option<u32>) -> Facts {
    let own = Process::myself().and_then(|process| process.status());
    Facts {
        uid: own.as_ref().map_or(u32::MAX, |status| status.euid),
        capabilities: own.map_or(0, |status| status.capeff),
        perf_event_paranoid: setting("perf_event_paranoid"),
        tracefs: tracefs::find(),
        strace: strace(),
        ptrace_scope: setting("yama/ptrace_scope"),
        target: pid.and_then(target),
    }
}

fn target(pid: u32) -> Option<Target> {
    let status = Process::new(i32::try_from(pid).ok()?).ok()?.status().ok()?;
    let tracer = u32::try_from(status.tracerpid).ok().filter(|&tracer| tracer != 0);
    Some(Target { pid, uid: status.euid, tracer_pid: tracer })
}

fn setting(name: &str) -> Option<i32> {
    fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?.trim().parse().ok()
}

fn strace() -> Strace {
    let version = Command::new("strace").arg("-V").stdin(Stdio::null()).output();
    match version {
        Ok(output) if String::from_utf8_lossy(&output.stdout).contains("stack-trace=") => {
            Strace::WithStacks
        }
        Ok(_) => Strace::WithoutStacks,
        Err(_) => Strace::Missing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_is_a_target_and_one_that_never_was_is_none() {
        let facts_of_us = facts(Some(std::process::id()));
        let target = facts_of_us.target.unwrap();
        assert_eq!((target.pid, target.uid), (std::process::id(), facts_of_us.uid));
        assert_eq!(facts(Some(u32::MAX)).target, None);
        assert_eq!(facts(None).target, None);
    }
}
