//! Opening events on every thread of a process, on every CPU.
//!
//! An event that is inherited by new threads cannot have a buffer of its own unless it is bound to a CPU. So every
//! thread that exists gets one event per tracepoint and CPU, threads that it starts inherit them, and all events of a
//! CPU write into one buffer. The list of threads is read until it has no new one. A thread that was started by one
//! whose events were open already is then watched twice; the account takes no notice of what it sees twice.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs;
use std::io;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::super::error::TraceError;
use super::record::{REGISTER_MASK, SAMPLE_TYPE};
use super::sys::{Event, Ring, bindings, perf_event_attr};
use crate::sampler::SampleError;

/// One event to open on every thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    /// Number of the tracepoint; `None` for the event that counts nothing and tells of exec, exits and mapped code.
    pub(super) point: Option<u16>,
    /// What it is, for messages.
    pub(super) name: &'static str,
    /// The kernel's own filter.
    pub(super) filter: Option<String>,
    /// Every how many hits a record is written; 0: never, it is only counted.
    pub(super) period: u64,
    /// Bytes of the stack that a record carries.
    pub(super) stack_bytes: u32,
}

impl Wanted {
    /// Every hit of a tracepoint, without a stack.
    pub(super) fn every(point: u16, name: &'static str) -> Wanted {
        Wanted { point: Some(point), name, filter: None, period: 1, stack_bytes: 0 }
    }

    fn attr(&self) -> perf_event_attr {
        let size = size_of::<perf_event_attr>() as u32;
        let mut attr = perf_event_attr { size, ..perf_event_attr::default() };
        match self.point {
            Some(id) => {
                attr.type_ = bindings::PERF_TYPE_TRACEPOINT;
                attr.config = u64::from(id);
                attr.__bindgen_anon_1.sample_period = self.period;
            }
            None => {
                attr.type_ = bindings::PERF_TYPE_SOFTWARE;
                attr.config = u64::from(bindings::PERF_COUNT_SW_DUMMY);
                attr.set_mmap(1);
                attr.set_mmap2(1);
                attr.set_comm(1);
                attr.set_comm_exec(1);
                attr.set_task(1);
            }
        }
        attr.sample_type = SAMPLE_TYPE.bits();
        attr.sample_regs_user = REGISTER_MASK;
        attr.sample_stack_user = self.stack_bytes;
        attr.set_disabled(1);
        attr.set_inherit(1);
        attr.set_inherit_thread(1);
        attr.set_sample_id_all(1);
        attr.set_exclude_hv(1);
        // One clock for all CPUs, and for the reader.
        attr.set_use_clockid(1);
        attr.clockid = nix::time::ClockId::CLOCK_MONOTONIC.as_raw();
        attr.set_watermark(1);
        attr
    }
}

/// Buffers, one per CPU. Events that write into them may come and go.
#[derive(Debug)]
pub(super) struct Buffers {
    cpus: Vec<u32>,
    /// Field order: a buffer is unmapped before its event is closed.
    rings: Vec<Ring>,
    leaders: Vec<Event>,
}

impl Buffers {
    /// Opens a buffer of `buffer_bytes` per CPU; smaller ones where the kernel does not lock so much memory for this user.
    pub(super) fn open(pid: u32, buffer_bytes: usize) -> Result<Buffers, TraceError> {
        raise_file_limit();
        let cpus =
            online_cpus(&fs::read_to_string("/sys/devices/system/cpu/online").unwrap_or_default());
        let page_bytes = procfs::page_size() as usize;
        let (mut rings, mut leaders) = (Vec::new(), Vec::new());
        let mut data_bytes = buffer_bytes.next_power_of_two().max(page_bytes);
        for &cpu in &cpus {
            let dummy = Wanted {
                point: None,
                name: "software dummy",
                filter: None,
                period: 0,
                stack_bytes: 0,
            };
            let mut attr = dummy.attr();
            attr.set_mmap(0);
            attr.set_mmap2(0);
            attr.set_comm(0);
            attr.set_comm_exec(0);
            attr.set_task(0);
            attr.__bindgen_anon_2.wakeup_watermark = (data_bytes / 4) as u32;
            let leader =
                Event::open(&mut attr, pid, cpu).map_err(|source| refused(pid, &dummy, source))?;
            loop {
                match Ring::new(&leader, page_bytes, data_bytes) {
                    Ok(ring) => break rings.push(ring),
                    Err(error)
                        if error.raw_os_error() == Some(libc::EPERM)
                            && data_bytes > 16 * page_bytes =>
                    {
                        data_bytes /= 2;
                    }
                    Err(source) => {
                        return Err(TraceError::System {
                            operation: format!("map a buffer of {data_bytes} B for perf events"),
                            source,
                            cure: "raise kernel.perf_event_mlock_kb, or run with CAP_IPC_LOCK"
                                .into(),
                        });
                    }
                }
            }
            leaders.push(leader);
        }
        Ok(Buffers { cpus, rings, leaders })
    }

    /// Appends what has come to `out`, buffer by buffer.
    pub(super) fn drain(&mut self, out: &mut Vec<u8>) {
        for ring in &mut self.rings {
            ring.drain(out);
        }
    }

    /// What becomes readable when a quarter of a buffer is full.
    pub(super) fn leaders(&self) -> &[Event] {
        &self.leaders
    }
}

/// Open events of one kind of watch. Dropping it closes them.
#[derive(Debug)]
pub(super) struct Session {
    events: Vec<(usize, Event)>,
}

impl Session {
    /// Opens and starts `wanted` on all threads of `pid`.
    pub(super) fn open(
        pid: u32,
        wanted: &[Wanted],
        buffers: &Buffers,
    ) -> Result<Session, TraceError> {
        let filters: Vec<Option<CString>> = wanted
            .iter()
            .map(|event| {
                let filter = event.filter.as_deref()?;
                Some(CString::new(filter).expect("filters are made of names and numbers"))
            })
            .collect();
        let mut session = Session { events: Vec::new() };
        let mut done = BTreeSet::new();
        loop {
            let new: Vec<u32> =
                threads(pid)?.into_iter().filter(|tid| !done.contains(tid)).collect();
            if new.is_empty() {
                break;
            }
            let first = session.events.len();
            for tid in new {
                done.insert(tid);
                session
                    .open_on(tid, wanted, &filters, buffers)
                    .map_err(|(event, source)| refused(pid, &wanted[event], source))?;
            }
            // Started at once: what a thread does while the others' events are opened is seen as well.
            for (event, opened) in &session.events[first..] {
                opened.enable().map_err(|source| refused(pid, &wanted[*event], source))?;
            }
        }
        if session.events.is_empty() {
            return Err(SampleError::Gone { pid }.into());
        }
        Ok(session)
    }

    /// A thread that has ended meanwhile needs no events.
    fn open_on(
        &mut self,
        tid: u32,
        wanted: &[Wanted],
        filters: &[Option<CString>],
        buffers: &Buffers,
    ) -> Result<(), (usize, io::Error)> {
        for (number, (event, filter)) in wanted.iter().zip(filters).enumerate() {
            for (&cpu, leader) in buffers.cpus.iter().zip(&buffers.leaders) {
                let opened = match Event::open(&mut event.attr(), tid, cpu) {
                    Ok(opened) => opened,
                    Err(error) if error.raw_os_error() == Some(libc::ESRCH) => return Ok(()),
                    Err(error) => return Err((number, error)),
                };
                if let Some(filter) = filter {
                    opened.set_filter(filter).map_err(|error| (number, error))?;
                }
                if event.period > 0 || event.point.is_none() {
                    opened.set_output(leader).map_err(|error| (number, error))?;
                }
                self.events.push((number, opened));
            }
        }
        Ok(())
    }

    /// Stops all events and keeps them open: closing takes the kernel long.
    pub(super) fn pause(&self) {
        for (_, event) in &self.events {
            // An event that cannot be stopped is closed soon.
            let _ = event.disable();
        }
    }

    /// Starts them again.
    pub(super) fn resume(&self) {
        for (_, event) in &self.events {
            // That of a thread that has ended needs none.
            let _ = event.enable();
        }
    }

    /// How often the event that was wanted at `number` has happened, in all threads.
    pub(super) fn count(&self, number: usize) -> u64 {
        let of_it = self.events.iter().filter(|(event, _)| *event == number);
        of_it.map(|(_, event)| event.count().unwrap_or(0)).sum()
    }
}

fn threads(pid: u32) -> Result<Vec<u32>, TraceError> {
    let entries = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(SampleError::Gone { pid }.into());
        }
        Err(source) => return Err(SampleError::Read { pid, file: "task", source }.into()),
    };
    Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
}

fn refused(pid: u32, event: &Wanted, source: io::Error) -> TraceError {
    let cure = match source.raw_os_error() {
        Some(libc::ESRCH) => return SampleError::Gone { pid }.into(),
        Some(libc::EACCES | libc::EPERM) => {
            "run as root or with CAP_PERFMON, or: sysctl kernel.perf_event_paranoid=1 for processes of one's own"
        }
        Some(libc::EMFILE | libc::ENFILE) => {
            "one is needed per thread, CPU and event: raise the limit of open files, ulimit -n"
        }
        Some(libc::EINVAL | libc::ENOSYS | libc::EOPNOTSUPP) => {
            "this kernel is too old for it: Linux 5.13 or later is needed"
        }
        _ => "see perf_event_open(2)",
    };
    TraceError::System {
        operation: format!("open the perf event {} on process {pid}", event.name),
        source,
        cure: cure.into(),
    }
}

/// A process of many threads on many CPUs takes more events than the usual limit of open files; what may be raised
/// without asking is raised. If it cannot be, opening says so.
fn raise_file_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// `0-3,5` as numbers.
fn online_cpus(text: &str) -> Vec<u32> {
    let range = |part: &str| -> Option<std::ops::RangeInclusive<u32>> {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    let cpus: Vec<u32> = text.trim().split(',').filter_map(range).flatten().collect();
    if cpus.is_empty() { vec![0] } else { cpus }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus_are_read() {
        assert_eq!(online_cpus("0-3,5\n"), [0, 1, 2, 3, 5]);
        assert_eq!(online_cpus("0\n"), [0]);
        assert_eq!(online_cpus("nonsense"), [0]);
    }
}
