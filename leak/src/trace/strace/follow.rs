//! Runs strace on a process and keeps the account.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::EventFd;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use procfs::process::Process;

use super::super::book::{Book, StackId, Step};
use super::super::error::TraceError;
use super::super::maps::Maps;
use super::super::modules::Image;
use super::super::options::TraceOptions;
use super::super::stacks::{NO_STACK, Place, Stacks};
use super::super::symbols::Module;
use super::super::tier::Tier;
use super::super::traced::{Confidence, ModuleState};
use super::super::worker::{Published, Request, Snapshot};
use super::text::{Event, Parser, TextFrame};
use crate::sampler::SampleError;
use crate::smaps;

/// How long strace may take to attach to all threads.
const ATTACH: Duration = Duration::from_secs(10);

/// strace, which lets go of the process when it is dropped.
struct Strace(Child);

impl Drop for Strace {
    fn drop(&mut self) {
        // On this signal it detaches from all threads; a kill would have the kernel do it.
        let _ = kill(Pid::from_raw(self.0.id() as i32), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Follows one process.
pub(crate) struct Follower {
    pid: u32,
    process: Process,
    strace: Strace,
    parser: Parser,
    /// The begin of a line whose end is still to come.
    partial: Vec<u8>,
    book: Book,
    stacks: Stacks,
    files: HashMap<String, u32>,
    modules: Vec<Module>,
    names: HashMap<Place, String>,
    max_frames: usize,
    ended: bool,
    execs: u32,
    published: Published,
}

impl Follower {
    /// Attaches strace. The process is followed from the moment on that this returns.
    pub(crate) fn start(
        pid: u32,
        options: &TraceOptions,
        published: Published,
    ) -> Result<Follower, TraceError> {
        let process =
            Process::new(pid as i32).map_err(|_| TraceError::from(SampleError::Gone { pid }))?;
        let failed = |operation: String, source: io::Error| TraceError::System {
            operation,
            source,
            cure: "strace has said why on stderr; a debugger or another strace must be ended first"
                .into(),
        };
        let child = Command::new("strace")
            .args(["-f", "-k", "-qq", "-e", "signal=none", "-o", "/dev/stdout", "-p"])
            .arg(pid.to_string())
            .args(["-e", "trace=mmap,munmap,mremap,brk,execve,clone,?clone3,?fork,?vfork"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| failed("start strace".into(), error))?;
        let mut strace = Strace(child);
        let deadline = Instant::now() + ATTACH;
        while !attached(&process) {
            if strace.0.try_wait().is_ok_and(|status| status.is_some()) || Instant::now() > deadline
            {
                let error = io::Error::other("it has ended, or attaches to nothing");
                return Err(failed(format!("attach strace to process {pid}"), error));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let threads = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let mut follower = Follower {
            pid,
            parser: Parser::new(threads),
            process,
            strace,
            partial: Vec::new(),
            book: Book::new(procfs::page_size(), options.max_regions),
            stacks: Stacks::new(options.max_stacks),
            files: HashMap::new(),
            modules: Vec::new(),
            names: HashMap::new(),
            max_frames: options.max_frames,
            ended: false,
            execs: 0,
            published,
        };
        if let Some(end) = follower.maps().and_then(|maps| maps.heap_end) {
            follower.book.set_heap_end(end);
        }
        Ok(follower)
    }

    /// Runs until it is told to stop.
    pub(crate) fn run(mut self, requests: &Receiver<Request>, wake: &EventFd) {
        let Some(mut output) = self.strace.0.stdout.take() else { return };
        loop {
            let readable = self.wait(&output, wake, PollTimeout::from(100u8));
            if readable && !self.read(&mut output) {
                self.ended = true;
            }
            match requests.try_recv() {
                Ok(Request::Snapshot(reply)) => {
                    // What strace has printed up to now is taken in first.
                    while self.wait(&output, wake, PollTimeout::from(20u8))
                        && self.read(&mut output)
                    {}
                    // Whoever asked may have gone.
                    let _ = reply.send(self.snapshot());
                }
                Ok(Request::Stop) | Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            self.published.set(self.book.counts());
        }
    }

    /// Whether strace has printed something.
    fn wait(&self, output: &impl AsFd, wake: &EventFd, timeout: PollTimeout) -> bool {
        let mut fds = vec![PollFd::new(wake.as_fd(), PollFlags::POLLIN)];
        if !self.ended {
            fds.push(PollFd::new(output.as_fd(), PollFlags::POLLIN));
        }
        // Interrupted or not: the next thing is to look.
        let _ = poll(&mut fds, timeout);
        let readable = fds.get(1).is_some_and(|fd| fd.any() == Some(true));
        if fds[0].any() == Some(true) {
            let _ = wake.read();
        }
        readable
    }

    /// Takes in a piece of the output; false at its end.
    fn read(&mut self, output: &mut impl Read) -> bool {
        let mut bytes = [0; 1 << 16];
        let len = match output.read(&mut bytes) {
            Ok(0) | Err(_) => return false,
            Ok(len) => len,
        };
        self.partial.extend_from_slice(&bytes[..len]);
        let whole = self.partial.iter().rposition(|&byte| byte == b'\n').map_or(0, |at| at + 1);
        let rest = self.partial.split_off(whole);
        let text = std::mem::replace(&mut self.partial, rest);
        for line in String::from_utf8_lossy(&text).lines() {
            let mut events = Vec::new();
            self.parser.line(line, &mut |event| events.push(event));
            events.into_iter().for_each(|event| self.enter(event));
        }
        true
    }

    fn enter(&mut self, event: Event) {
        match event {
            Event::Begun { tid, call } => self.book.step(tid, Step::Enter(call, NO_STACK)),
            Event::Done { tid, call, returned, value, frames } => {
                let stack = self.stack(&frames);
                self.book.step(tid, Step::Enter(call, stack));
                self.book.step(tid, Step::Exit(returned, value));
            }
            Event::Ended { tid } => self.book.step(tid, Step::End),
            Event::Exec => {
                self.execs += 1;
                self.book.exec();
            }
        }
    }

    fn stack(&mut self, frames: &[TextFrame]) -> StackId {
        let places: Vec<Place> =
            frames.iter().take(self.max_frames).map(|frame| self.place(frame)).collect();
        self.stacks.id(places)
    }

    fn place(&mut self, frame: &TextFrame) -> Place {
        let module = frame.path.as_ref().map(|path| match self.files.get(path) {
            Some(&number) => number,
            None => {
                let number = self.modules.len() as u32;
                let image = Image { path: path.clone(), inode: 0, file: None, memory: None };
                self.modules.push(Module { image: Arc::new(image), state: ModuleState::Present });
                self.files.insert(path.clone(), number);
                number
            }
        });
        let place = Place { module, offset: frame.offset };
        if let Some(function) = &frame.function {
            self.names.entry(place).or_insert_with(|| function.clone());
        }
        place
    }

    fn snapshot(&mut self) -> Snapshot {
        let mut events = Vec::new();
        self.parser.end(&mut |event| events.push(event));
        events.into_iter().for_each(|event| self.enter(event));
        if let Some(maps) = self.maps() {
            self.book.retain(&maps.spans);
        }
        let holdings = self.book.holdings(None);
        let mut remarks = vec![Tier::Strace.blind_spot().to_owned()];
        if self.execs > 0 {
            remarks.push(format!(
                "The process has called exec {} time(s): what it held before is gone, and not shown.",
                self.execs
            ));
        }
        if self.ended {
            remarks.push(format!(
                "Process {} has ended, or strace: this is what it held then.",
                self.pid
            ));
        }
        Snapshot {
            stacks: holdings
                .iter()
                .map(|held| (held.owner.stack, self.stacks.places(held.owner.stack).to_vec()))
                .collect(),
            modules: self.modules.clone(),
            names: self.names.iter().map(|(place, name)| (*place, name.clone())).collect(),
            counts: self.book.counts(),
            confidence: Confidence::Complete,
            untracked_bytes: self.book.untracked_bytes(),
            remarks,
            holdings,
        }
    }

    fn maps(&self) -> Option<Maps> {
        let file = self.process.open_relative("maps").ok()?;
        Maps::read(smaps::in_small_steps(file)).ok().filter(|maps| !maps.spans.is_empty())
    }
}

fn attached(process: &Process) -> bool {
    process.status().is_ok_and(|status| status.tracerpid != 0)
}
