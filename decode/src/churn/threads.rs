//! Patterns of threads, and of malloc, whose arenas belong to threads.

use std::hint::black_box;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use pdlab_transport::Error;

use super::{Dice, Done, Source};

/// Buffers per operation of [`Arena`], and their size: below glibc's default mmap threshold, so
/// that they live in the arena (<https://man7.org/linux/man-pages/man3/mallopt.3.html>).
const ARENA_BUFFERS: usize = 64;
const ARENA_BUFFER_BYTES: usize = 60_000;
/// Threads of [`Heap`], each with an arena of its own.
const HEAP_THREADS: usize = 4;
/// Largest buffer of [`Heap`]: below the mmap threshold too.
const HEAP_BYTES_MAX: usize = 120_000;

/// Threads that start and end.
#[derive(Debug)]
pub(super) struct Threads;

impl Source for Threads {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        started("churn", || ())?.join().map_err(|_panic| lost())?;
        Ok(Done::UNMAP)
    }
}

/// Bursts in one arena, freed from the end, so that its top becomes free and is trimmed.
#[derive(Debug, Default)]
pub(super) struct Arena {
    thread: Option<Helper>,
}

impl Source for Arena {
    fn run(&mut self, operations: u64) -> Result<Done, Error> {
        // A thread that is not the first has an arena that is not the main one.
        let thread = match &mut self.thread {
            Some(thread) => thread,
            none => none.insert(Helper::start("churn-arena", || arena_round)?),
        };
        thread.run(operations)?;
        Ok(Done { operations, unmaps: operations })
    }
}

fn arena_round() {
    // One byte of each is enough: it is the free of the topmost that trims.
    let buffers = (0..ARENA_BUFFERS).map(|_| touched(ARENA_BUFFER_BYTES));
    let mut buffers: Vec<Vec<u8>> = buffers.collect();
    while let Some(buffer) = buffers.pop() {
        drop(black_box(buffer));
    }
}

/// Bursts of all sizes in several arenas, each with one small buffer that outlives the burst, so
/// that nothing can be trimmed: the arenas keep what they once had, and no more.
#[derive(Debug)]
pub(super) struct Heap {
    bytes: usize,
    resident: usize,
    dice: Dice,
    threads: Vec<Helper>,
    next: usize,
}

impl Heap {
    pub(super) fn new(bytes: usize, resident: usize, dice: Dice) -> Self {
        Self { bytes: bytes.min(HEAP_BYTES_MAX), resident, dice, threads: Vec::new(), next: 0 }
    }
}

impl Source for Heap {
    fn run(&mut self, _operations: u64) -> Result<Done, Error> {
        if self.threads.len() < HEAP_THREADS {
            let (bytes, resident) = (self.bytes, self.resident);
            let mut dice = Dice::new(self.dice.below(usize::MAX) as u64);
            let burst = move || {
                let mut last = Vec::new();
                move || {
                    let burst: Vec<Vec<u8>> =
                        (0..resident).map(|_| vec![1; 1 + dice.below(bytes)]).collect();
                    // On top of the burst, until the next one.
                    drop(std::mem::replace(&mut last, vec![1_u8; 64]));
                    drop(black_box(burst));
                }
            };
            self.threads.push(Helper::start("churn-heap", burst)?);
            return Ok(Done::PREPARED);
        }
        self.next = (self.next + 1) % HEAP_THREADS;
        self.threads[self.next].run(1)?;
        Ok(Done::USE)
    }
}

/// A buffer whose first byte is there.
fn touched(bytes: usize) -> Vec<u8> {
    let mut buffer = Vec::with_capacity(bytes);
    buffer.push(1);
    buffer
}

/// A thread that does one thing again and again, when told to. It ends with this.
#[derive(Debug)]
struct Helper {
    /// Rounds to do.
    rounds: Option<SyncSender<u64>>,
    done: Receiver<()>,
    thread: Option<JoinHandle<()>>,
}

impl Helper {
    /// Starts a thread that makes its work with `make`, so that what that keeps is of its arena.
    fn start<F: FnMut()>(
        name: &str,
        make: impl FnOnce() -> F + Send + 'static,
    ) -> Result<Self, Error> {
        let (rounds, orders) = sync_channel::<u64>(1);
        let (tell, done) = sync_channel(1);
        let thread = started(name, move || {
            let mut round = make();
            while let Ok(rounds) = orders.recv() {
                (0..rounds).for_each(|_| round());
                if tell.send(()).is_err() {
                    break;
                }
            }
        })?;
        Ok(Self { rounds: Some(rounds), done, thread: Some(thread) })
    }

    fn run(&self, rounds: u64) -> Result<(), Error> {
        let orders = self.rounds.as_ref().ok_or_else(lost)?;
        orders.send(rounds).map_err(|_gone| lost())?;
        self.done.recv().map_err(|_gone| lost())
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.rounds = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn started(name: &str, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>, Error> {
    let spawned = thread::Builder::new().name(name.into()).spawn(work);
    spawned.map_err(|source| Error::Io { operation: "start a churn thread".into(), source })
}

fn lost() -> Error {
    let source = std::io::Error::other("it panicked");
    Error::Io { operation: "use a churn thread".into(), source }
}
