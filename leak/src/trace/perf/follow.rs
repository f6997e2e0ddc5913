//! The thread that follows a process by perf events.
//!
//! Records of different CPUs come in different buffers. They are put into the order of their times, and the newest wait
//! a moment: a record may still be on its way into another buffer. When there are too many calls ([`super::thin`]), the
//! tracepoints on system calls are given up for one inside of `mmap`: they cost every system call of the machine some
//! hundred nanoseconds, whether it is followed or not.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::time::{ClockId, clock_gettime};
use procfs::process::Process;

use super::super::book::Book;
use super::super::error::TraceError;
use super::super::maps::Maps;
use super::super::modules::{Code, Modules};
use super::super::options::TraceOptions;
use super::super::space::Span;
use super::super::stacks::{NO_STACK, Stacks};
use super::super::traced::Counts;
use super::super::tracefs;
use super::super::worker::{Published, Request};
use super::points::{Points, Said};
use super::record::{Body, Record, UserStack, decode};
use super::session::{Buffers, Session, Wanted};
use super::thin::{Census, Thinning};
use crate::smaps;

mod snapshot;
mod stack;
mod watch;

/// How long a record may take from its time until it can be read: the kernel writes it with preemption off, but the
/// machine may be a virtual one that is stopped meanwhile.
const IN_FLIGHT: Duration = Duration::from_millis(2);
/// How long the thread sleeps if no buffer fills up.
const ROUND: Duration = Duration::from_millis(50);
/// How long the calls of a process are counted before it is decided how to follow them.
const CENSUS: Duration = Duration::from_millis(100);

/// Follows one process.
pub(crate) struct Follower {
    pid: u32,
    /// Tied to the process and not to its number.
    process: Process,
    options: TraceOptions,
    points: Points,
    watch: watch::Watch,
    buffers: Buffers,
    modules: Modules,
    stacks: Stacks,
    book: Book,
    /// What was mapped when the trace began.
    baseline: Maps,
    waiting: Vec<Record>,
    bytes: Vec<u8>,
    /// Records that were read, each by what it stands for.
    records: u64,
    lost: u64,
    /// Mapped while the buffers were full, before the calls were sampled: no sample stands for it.
    missed_bytes: u64,
    ended: bool,
    execs: u32,
    remarks: Vec<String>,
    published: Published,
}

impl Follower {
    /// Opens everything. The process is followed from the moment on that this returns.
    pub(crate) fn start(
        pid: u32,
        options: &TraceOptions,
        published: Published,
    ) -> Result<Follower, TraceError> {
        let gone = |_| TraceError::from(crate::sampler::SampleError::Gone { pid });
        let process = Process::new(pid as i32).map_err(gone)?;
        let points = tracefs::with_mounted(Points::read).map_err(|source| TraceError::System {
            operation: "read the tracepoints on mmap, munmap, mremap and brk from tracefs".into(),
            source,
            cure: "as root: mount -t tracefs tracefs /sys/kernel/tracing; the kernel needs \
                   CONFIG_FTRACE_SYSCALLS"
                .into(),
        })?;
        let buffers = Buffers::open(pid, options.buffer_bytes)?;
        let mut follower = Follower {
            pid,
            process,
            options: options.clone(),
            watch: watch::Watch::none(),
            points,
            buffers,
            modules: Modules::new(pid),
            stacks: Stacks::new(options.max_stacks),
            book: Book::new(procfs::page_size(), options.max_regions),
            baseline: Maps::default(),
            waiting: Vec::new(),
            bytes: Vec::new(),
            records: 0,
            lost: 0,
            missed_bytes: 0,
            ended: false,
            execs: 0,
            remarks: Vec::new(),
            published,
        };
        follower.begin()?;
        follower.look_around();
        Ok(follower)
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, requests: &Receiver<Request>, wake: &EventFd) {
        loop {
            self.sleep(wake);
            loop {
                match requests.try_recv() {
                    Ok(Request::Snapshot(reply)) => {
                        self.catch_up();
                        // Whoever asked may have gone.
                        let _ = reply.send(self.snapshot());
                    }
                    Ok(Request::Stop) | Err(TryRecvError::Disconnected) => return,
                    Err(TryRecvError::Empty) => break,
                }
            }
            self.round();
            self.adapt();
            self.published.set(self.counts());
        }
    }

    fn sleep(&self, wake: &EventFd) {
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        // A buffer of a process that has ended is readable for ever.
        if !self.ended {
            let leaders = self.buffers.leaders().iter();
            fds.extend(leaders.map(|leader| PollFd::new(leader.as_fd(), PollFlags::POLLIN)));
        }
        let timeout = PollTimeout::try_from(ROUND).unwrap_or(PollTimeout::ZERO);
        // Interrupted or not: the next thing is to look.
        let _ = poll(&mut fds, timeout);
        if fds[0].any() == Some(true) {
            let _ = wake.read();
        }
    }

    /// Takes in everything that has happened up to now.
    fn catch_up(&mut self) {
        let asked = now();
        while self.round() < asked {
            std::thread::sleep(IN_FLIGHT / 2);
        }
    }

    /// Reads all buffers, and enters what is old enough into the book. Returns the time up to which the book is complete.
    fn round(&mut self) -> Duration {
        let horizon = now().saturating_sub(IN_FLIGHT);
        let mut bytes = std::mem::take(&mut self.bytes);
        self.buffers.drain(&mut bytes);
        let waiting = &mut self.waiting;
        decode(&bytes, |record| waiting.push(record));
        bytes.clear();
        self.bytes = bytes;
        self.waiting.sort_by_key(|record| record.time_ns);
        let horizon_ns = horizon.as_nanos() as u64;
        let ready = self.waiting.partition_point(|record| record.time_ns <= horizon_ns);
        let later = self.waiting.split_off(ready);
        for record in std::mem::replace(&mut self.waiting, later) {
            self.enter(record);
        }
        if !self.ended && !self.alive() {
            self.ended = true;
            self.remarks.push("The process has ended: this is what it held then.".to_owned());
        }
        horizon
    }

    fn enter(&mut self, record: Record) {
        match record.body {
            Body::Sample { pid, tid, raw, stack } if pid == self.pid => {
                let Some(said) = self.points.said(&raw) else { return };
                self.sample(tid, said, stack);
            }
            Body::Code { start, len_bytes, file_offset, inode, path } => {
                let end = start.saturating_add(len_bytes);
                self.modules.add(&Code { start, end, file_offset, inode, path });
            }
            Body::Exec { pid } if pid == self.pid => {
                self.execs += 1;
                self.book.exec();
                self.modules.clear();
                self.baseline = Maps::default();
                self.missed_bytes = 0;
                self.look_around();
            }
            Body::Exit { pid, tid } if pid == self.pid => {
                self.book.step(tid, super::super::book::Step::End);
            }
            Body::Lost { count } => {
                self.lost += count;
                self.watch.missed(count);
            }
            // Of a child that was forked on an old kernel, or of no interest.
            _ => {}
        }
    }

    fn sample(&mut self, tid: u32, said: Said, stack: Option<UserStack>) {
        let weight = self.watch.note(said);
        self.records += u64::from(weight);
        let stack = match stack {
            Some(stack) if said.wants_stack() => {
                let places = stack::unwind(&mut self.modules, &stack, self.options.max_frames);
                self.stacks.id(places)
            }
            _ => NO_STACK,
        };
        if let Some(step) = said.step(stack, weight, procfs::page_size()) {
            self.book.step(tid, step);
        }
    }

    /// What is mapped now; nothing if the process is gone.
    fn maps(&self) -> Option<Maps> {
        let file: File = self.process.open_relative("maps").ok()?;
        Maps::read(smaps::in_small_steps(file)).ok().filter(|maps| !maps.spans.is_empty())
    }

    fn look_around(&mut self) {
        if let Some(maps) = self.maps() {
            self.modules.set(&maps.code);
            if let Some(end) = maps.heap_end {
                self.book.set_heap_end(end);
            }
            self.baseline = maps;
        }
    }

    /// A process that has ended and waits for its parent has no memory any more.
    fn alive(&self) -> bool {
        self.process.stat().is_ok_and(|stat| !matches!(stat.state, 'Z' | 'X' | 'x'))
    }
}

/// The kernel's clock, which records carry, too.
fn now() -> Duration {
    clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(Duration::ZERO, Duration::from)
}
