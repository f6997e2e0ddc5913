//! Which way of tracing a machine allows, and what to set for a better one. Pure: [`super::probe`] finds the facts.

use std::fmt;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// A way to see who maps memory, the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Kernel tracepoints through `perf_event_open`, stacks copied by the kernel.
    Perf,
    /// `strace -k`: every call stops the process twice.
    Strace,
    /// `/proc` alone: what grows, and not who.
    Proc,
}

impl Tier {
    /// All, in the order of preference.
    pub const ALL: [Tier; 3] = [Tier::Perf, Tier::Strace, Tier::Proc];

    /// What this tier cannot see, or what it costs: a sentence.
    pub fn blind_spot(self) -> &'static str {
        match self {
            Tier::Perf => {
                "Blind to what was mapped before it began, to shmat, to what glibc's malloc hands out of memory it has \
                 already, and to frames of code that has no file."
            }
            Tier::Strace => {
                "Stops the process twice per call, tens of microseconds each: rates of work are not its own. Blind to \
                 what was mapped before it began, to shmat, and to what malloc hands out of memory it has already."
            }
            Tier::Proc => "Sees which kinds of memory grow, and no stacks: not who mapped them.",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Tier::Perf => "perf tracepoints",
            Tier::Strace => "strace -k",
            Tier::Proc => "/proc alone",
        })
    }
}

/// Where the kernel's tracepoints are described.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracefs {
    /// Here, and it can be read.
    At(PathBuf),
    /// Mounted here, and closed to this user.
    Closed(PathBuf),
    /// Mounted nowhere.
    NotMounted,
    /// Mounted, but the kernel has no tracepoints on system calls.
    WithoutSyscalls(PathBuf),
}

/// What `strace` on this machine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strace {
    /// Not installed.
    Missing,
    /// Built without a stack unwinder.
    WithoutStacks,
    /// Has `-k`.
    WithStacks,
}

/// The process to be traced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Target {
    /// Its number.
    pub pid: u32,
    /// Whose it is (the effective user id).
    pub uid: u32,
    /// Who traces it already, by ptrace: a debugger, another strace.
    pub tracer_pid: Option<u32>,
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Own effective user id.
    pub uid: u32,
    /// Own effective capabilities, as the bits of `CapEff` in `/proc/self/status`.
    pub capabilities: u64,
    /// `/proc/sys/kernel/perf_event_paranoid`; `None` where the kernel has no perf events.
    pub perf_event_paranoid: Option<i32>,
    /// Where tracefs is.
    pub tracefs: Tracefs,
    /// What strace can do.
    pub strace: Strace,
    /// `/proc/sys/kernel/yama/ptrace_scope`; `None` where the kernel has no Yama.
    pub ptrace_scope: Option<i32>,
    /// The process, if it is known yet.
    pub target: Option<Target>,
}

/// Whether a tier applies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Assessment {
    /// The tier.
    pub tier: Tier,
    /// What is in its way, each with what to do; empty if it can be used.
    pub obstacles: Vec<Obstacle>,
}

impl Assessment {
    /// Whether nothing is in the way.
    pub fn usable(&self) -> bool {
        self.obstacles.is_empty()
    }
}

/// Something in the way of a tier, and the way around it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub remedy: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.remedy)
    }
}

/// Capabilities by number (<https://man7.org/linux/man-pages/man7/capabilities.7.html>).
const CAP_SYS_PTRACE: u32 = 19;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;

/// Up to this value of perf_event_paranoid a user may watch own processes while they are in the kernel, which is where a
/// tracepoint is hit (<https://docs.kernel.org/admin-guide/sysctl/kernel.html#perf-event-paranoid>).
const PARANOID_OWN_PROCESSES: i32 = 1;

/// Assesses every tier, the best first.
pub fn assess(facts: &Facts) -> Vec<Assessment> {
    Tier::ALL
        .into_iter()
        .map(|tier| {
            let mut obstacles: Vec<Obstacle> = stranger(facts).into_iter().collect();
            match tier {
                Tier::Perf => obstacles.extend(perf(facts)),
                Tier::Strace => obstacles.extend(strace(facts)),
                Tier::Proc => {}
            }
            Assessment { tier, obstacles }
        })
        .collect()
}

/// The best tier that applies; `None` if the process may not even be looked at.
pub fn choose(assessments: &[Assessment]) -> Option<Tier> {
    assessments.iter().find(|assessment| assessment.usable()).map(|assessment| assessment.tier)
}

fn stranger(facts: &Facts) -> Option<Obstacle> {
    let target = facts.target.filter(|target| target.uid != facts.uid)?;
    (!facts.may(CAP_SYS_PTRACE)).then(|| {
        obstacle(
            format!("process {} belongs to user {}, not to {}", target.pid, target.uid, facts.uid),
            "run as that user, as root, or with CAP_SYS_PTRACE",
        )
    })
}

fn perf(facts: &Facts) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    if !cfg!(any(target_arch = "x86_64", target_arch = "aarch64")) {
        obstacles.push(obstacle(
            "stacks are unwound on x86-64 and aarch64 only",
            "trace on one of these",
        ));
    }
    match facts.perf_event_paranoid {
        None => obstacles
            .push(obstacle("the kernel has no perf events", "use one with CONFIG_PERF_EVENTS")),
        Some(level) if level > PARANOID_OWN_PROCESSES && !facts.may(CAP_PERFMON) => {
            obstacles.push(obstacle(
                format!("kernel.perf_event_paranoid is {level}"),
                "sysctl kernel.perf_event_paranoid=1, or run with CAP_PERFMON",
            ));
        }
        Some(_) => {}
    }
    match &facts.tracefs {
        Tracefs::At(_) => {}
        Tracefs::Closed(path) => obstacles.push(obstacle(
            format!("{} is closed to this user", path.display()),
            format!(
                "as root: mount -o remount,mode=755,gid=GROUP {}, GROUP being one of this user",
                path.display()
            ),
        )),
        // It is mounted out of everybody's sight, for as long as it takes to read it.
        Tracefs::NotMounted if facts.may(CAP_SYS_ADMIN) => {}
        Tracefs::NotMounted => obstacles.push(obstacle(
            "tracefs is not mounted",
            "as root: mount -t tracefs -o mode=755,gid=GROUP tracefs /sys/kernel/tracing, GROUP being one of this user; or \
             run with CAP_SYS_ADMIN",
        )),
        Tracefs::WithoutSyscalls(path) => obstacles.push(obstacle(
            format!("{} has no tracepoints on system calls", path.display()),
            "use a kernel with CONFIG_FTRACE_SYSCALLS",
        )),
    }
    obstacles
}

fn strace(facts: &Facts) -> Vec<Obstacle> {
    let mut obstacles = Vec::new();
    match facts.strace {
        Strace::Missing => obstacles.push(obstacle(
            "strace is not installed",
            "install it, for example: apt-get install strace",
        )),
        Strace::WithoutStacks => obstacles
            .push(obstacle("this strace has no -k", "install one built with libunwind or libdw")),
        Strace::WithStacks => {}
    }
    // What strace is to be attached to is no child of strace, so that 1 is as good as 2.
    match facts.ptrace_scope {
        Some(scope @ 1..=2) if !facts.may(CAP_SYS_PTRACE) => obstacles.push(obstacle(
            format!("kernel.yama.ptrace_scope is {scope}"),
            "sysctl kernel.yama.ptrace_scope=0, or run with CAP_SYS_PTRACE",
        )),
        Some(scope) if scope > 2 => obstacles.push(obstacle(
            format!("kernel.yama.ptrace_scope is {scope}, which lasts until the next boot"),
            "boot without it",
        )),
        _ => {}
    }
    if let Some(tracer) = facts.target.and_then(|target| target.tracer_pid) {
        obstacles.push(obstacle(
            format!("process {tracer} traces it already"),
            "end that debugger or strace first",
        ));
    }
    obstacles
}

impl Facts {
    /// CAP_SYS_ADMIN includes CAP_PERFMON for the sake of old programs.
    fn may(&self, capability: u32) -> bool {
        let has = |capability: u32| self.capabilities & (1 << capability) != 0;
        has(capability) || (capability == CAP_PERFMON && has(CAP_SYS_ADMIN))
    }
}

fn obstacle(what: impl Into<String>, remedy: impl Into<String>) -> Obstacle {
    Obstacle { what: what.into(), remedy: remedy.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open() -> Facts {
        Facts {
            uid: 1000,
            capabilities: 0,
            perf_event_paranoid: Some(1),
            tracefs: Tracefs::At("/sys/kernel/tracing".into()),
            strace: Strace::WithStacks,
            ptrace_scope: Some(0),
            target: Some(Target { pid: 7, uid: 1000, tracer_pid: None }),
        }
    }

    fn chosen(facts: &Facts) -> Option<Tier> {
        choose(&assess(facts))
    }

    fn text(facts: &Facts, tier: Tier) -> String {
        let assessments = assess(facts);
        let assessment = assessments.iter().find(|a| a.tier == tier).unwrap();
        assessment.obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_best_tier_that_applies_is_chosen() {
        assert_eq!(chosen(&open()), Some(Tier::Perf));
        let closed = Facts { perf_event_paranoid: Some(3), ..open() };
        assert_eq!(chosen(&closed), Some(Tier::Strace));
        assert_eq!(chosen(&Facts { strace: Strace::Missing, ..closed }), Some(Tier::Proc));
    }

    #[test]
    fn every_obstacle_comes_with_its_remedy() {
        let cases = [
            (Facts { perf_event_paranoid: Some(4), ..open() }, Tier::Perf, "perf_event_paranoid=1"),
            (Facts { perf_event_paranoid: None, ..open() }, Tier::Perf, "CONFIG_PERF_EVENTS"),
            (Facts { tracefs: Tracefs::NotMounted, ..open() }, Tier::Perf, "mount -t tracefs"),
            (
                Facts { tracefs: Tracefs::Closed("/sys/kernel/tracing".into()), ..open() },
                Tier::Perf,
                "mount -o remount,mode=755,gid=GROUP /sys/kernel/tracing",
            ),
            (
                Facts { tracefs: Tracefs::WithoutSyscalls("/t".into()), ..open() },
                Tier::Perf,
                "CONFIG_FTRACE_SYSCALLS",
            ),
            (Facts { strace: Strace::Missing, ..open() }, Tier::Strace, "apt-get install strace"),
            (Facts { strace: Strace::WithoutStacks, ..open() }, Tier::Strace, "libunwind"),
            (Facts { ptrace_scope: Some(1), ..open() }, Tier::Strace, "ptrace_scope=0"),
            (Facts { ptrace_scope: Some(3), ..open() }, Tier::Strace, "boot"),
            (
                Facts {
                    target: Some(Target { pid: 7, uid: 1000, tracer_pid: Some(99) }),
                    ..open()
                },
                Tier::Strace,
                "process 99",
            ),
        ];
        for (facts, tier, part) in cases {
            assert!(text(&facts, tier).contains(part), "{part}: {}", text(&facts, tier));
        }
        assert_eq!(text(&open(), Tier::Perf), "");
    }

    #[test]
    fn capabilities_open_what_settings_close() {
        let strict = Facts { perf_event_paranoid: Some(4), ptrace_scope: Some(2), ..open() };
        assert_eq!(chosen(&strict), Some(Tier::Proc));
        for capability in [CAP_PERFMON, CAP_SYS_ADMIN] {
            let may = Facts { capabilities: 1 << capability, ..strict.clone() };
            assert_eq!(chosen(&may), Some(Tier::Perf));
        }
        let may = Facts { capabilities: 1 << CAP_SYS_PTRACE, ..strict };
        assert_eq!(chosen(&may), Some(Tier::Strace));
    }

    #[test]
    fn who_may_mount_needs_no_mount() {
        let unmounted = Facts { tracefs: Tracefs::NotMounted, ..open() };
        assert_eq!(chosen(&unmounted), Some(Tier::Strace));
        let may = Facts { capabilities: 1 << CAP_SYS_ADMIN, ..unmounted };
        assert_eq!(chosen(&may), Some(Tier::Perf));
    }

    #[test]
    fn a_process_of_another_user_is_refused_in_words() {
        let theirs = Facts { target: Some(Target { pid: 7, uid: 0, tracer_pid: None }), ..open() };
        assert_eq!(chosen(&theirs), None);
        let refusal = text(&theirs, Tier::Proc);
        assert!(refusal.contains("process 7 belongs to user 0, not to 1000"), "{refusal}");
        assert!(refusal.contains("CAP_SYS_PTRACE"), "{refusal}");
        let root = Facts { uid: 0, capabilities: u64::MAX, ..theirs };
        assert_eq!(chosen(&root), Some(Tier::Perf));
    }
}
