//! The tracer: one thread that follows one process.

use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::error::TraceError;
use super::options::TraceOptions;
use super::perf;
use super::probe;
use super::strace;
use super::symbols::Names;
use super::tier::{self, Assessment, Tier};
use super::traced::{Confidence, Counts, MAX_SPANS, Traced, TracedStack};
use super::worker::{Published, Request, Snapshot};
use crate::sampler::Watched;

/// Follows one process from another thread, until it is dropped. Whatever it holds (events, buffers, files, the thread)
/// it gives back then; the process is never changed.
#[derive(Debug)]
pub struct Tracer {
    tier: Tier,
    worker: Option<Worker>,
    published: Published,
    names: Mutex<Names>,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Worker {
    requests: Sender<Request>,
    wake: Arc<EventFd>,
    thread: Option<JoinHandle<()>>,
}

impl Tracer {
    /// Starts to follow `pid` and all its threads, after counting its calls for a tenth of a second. Everything that
    /// it maps from the moment on that this returns is seen.
    ///
    /// # Errors
    /// If the process is gone or may not be looked at, or if the tier that was asked for does not apply. Where none was
    /// asked for and the kernel refuses, the tracer falls back to [`Tier::Proc`] and says why in a remark.
    pub fn start(pid: u32, options: &TraceOptions) -> Result<Tracer, TraceError> {
        options.check()?;
        Watched::open(pid)?;
        let assessments = tier::assess(&probe::facts(Some(pid)));
        let assessed = |tier: Tier| assessments.iter().find(|assessment| assessment.tier == tier);
        if let Some(tier) = options.tier {
            let obstacles = assessed(tier).map(|found| found.obstacles.clone()).unwrap_or_default();
            if !obstacles.is_empty() {
                return Err(TraceError::Unavailable { pid, tier, obstacles });
            }
            return Tracer::by(tier, pid, options);
        }
        let refusal = match assessed(Tier::Perf) {
            Some(perf) if perf.usable() => match Tracer::by(Tier::Perf, pid, options) {
                Err(error @ TraceError::System { .. }) => error.to_string(),
                started => return started,
            },
            Some(Assessment { obstacles, .. }) => {
                obstacles.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
            }
            None => String::new(),
        };
        let mut tracer = Tracer::by(Tier::Proc, pid, options)?;
        tracer.remarks.push(format!("No stacks by {}: {refusal}.", Tier::Perf));
        Ok(tracer)
    }

    fn by(tier: Tier, pid: u32, options: &TraceOptions) -> Result<Tracer, TraceError> {
        let published = Published::default();
        let worker = match tier {
            Tier::Perf => {
                let follower = perf::Follower::start(pid, options, published.clone())?;
                Some(Worker::spawn(|requests, wake| follower.run(requests, wake))?)
            }
            Tier::Strace => {
                let follower = strace::Follower::start(pid, options, published.clone())?;
                Some(Worker::spawn(|requests, wake| follower.run(requests, wake))?)
            }
            Tier::Proc => None,
        };
        let names = Mutex::default();
        Ok(Tracer { tier, worker, published, names, remarks: Vec::new() })
    }

    /// How the process is traced.
    pub fn tier(&self) -> Tier {
        self.tier
    }

    /// What is mapped now. Costs time in proportion to the stacks and regions that are live, and the tracer's thread
    /// some of it; buffers fill up meanwhile.
    pub fn live(&self) -> Traced {
        match self.worker.as_ref().and_then(Worker::snapshot) {
            Some(snapshot) => self.named(snapshot),
            None => self.nothing(),
        }
    }

    /// What was seen up to now, some tens of milliseconds old. Cheap.
    pub fn counts(&self) -> Counts {
        self.published.get()
    }

    /// Ends the trace. The process may have ended before, or called `exec`.
    pub fn stop(self) -> Traced {
        self.live()
    }

    fn nothing(&self) -> Traced {
        let mut remarks = self.remarks.clone();
        remarks.push(self.tier.blind_spot().to_owned());
        Traced {
            tier: self.tier,
            stacks: Vec::new(),
            counts: self.counts(),
            confidence: Confidence::None,
            untracked_bytes: 0,
            remarks,
        }
    }

    fn named(&self, snapshot: Snapshot) -> Traced {
        let Snapshot { holdings, stacks, modules, names: known, .. } = snapshot;
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        names.know(known);
        names.look_up(stacks.values().flatten(), &modules);
        let stacks = holdings.into_iter().map(|held| {
            let places = stacks.get(&held.owner.stack).map_or(&[][..], Vec::as_slice);
            let mut spans = held.spans;
            if spans.len() > MAX_SPANS {
                spans.sort_by_key(|span| std::cmp::Reverse(span.len_bytes()));
                spans.truncate(MAX_SPANS);
                spans.sort();
            }
            TracedStack {
                frames: places.iter().map(|place| names.frame(place, &modules)).collect(),
                kind: held.owner.kind,
                live_bytes: held.live_bytes,
                spans,
                maps: held.maps,
                estimated: held.estimated,
            }
        });
        let mut remarks = self.remarks.clone();
        remarks.extend(snapshot.remarks);
        Traced {
            tier: self.tier,
            stacks: stacks.collect(),
            counts: snapshot.counts,
            confidence: snapshot.confidence,
            untracked_bytes: snapshot.untracked_bytes,
            remarks,
        }
    }
}

impl Worker {
    fn spawn(
        run: impl FnOnce(&std::sync::mpsc::Receiver<Request>, &EventFd) + Send + 'static,
    ) -> Result<Worker, TraceError> {
        let failed = |operation: &str, source: std::io::Error| TraceError::System {
            operation: operation.to_owned(),
            source,
            cure: "raise the limits of open files and threads".to_owned(),
        };
        let wake = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| failed("open an eventfd for the tracer", error.into()))?;
        let wake = Arc::new(wake);
        let (requests, inbox) = channel();
        let woken = Arc::clone(&wake);
        let thread = thread::Builder::new()
            .name("tracer".to_owned())
            .spawn(move || run(&inbox, &woken))
            .map_err(|error| failed("start the tracer's thread", error))?;
        Ok(Worker { requests, wake, thread: Some(thread) })
    }

    /// `None` if the thread is gone.
    fn snapshot(&self) -> Option<Snapshot> {
        let (reply, answer) = channel();
        self.requests.send(Request::Snapshot(reply)).ok()?;
        // Should it fail, the thread wakes up by itself soon.
        let _ = self.wake.write(1);
        answer.recv().ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // If the thread is gone already there is nobody to be told.
        let _ = self.requests.send(Request::Stop);
        let _ = self.wake.write(1);
        if let Some(thread) = self.thread.take() {
            // A panic there has been reported by the thread itself.
            let _ = thread.join();
        }
    }
}
