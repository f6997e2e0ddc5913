//! RDMA objects of processes, as the kernel counts them: memory regions, queue pairs, completion queues, protection
//! domains.
//!
//! The kernel tracks who has made each, and tells over netlink what `rdma resource show` prints
//! (<https://man7.org/linux/man-pages/man8/rdma-resource.8.html>), to any user. It is the same whatever library the process
//! uses, so it also shows what UCX holds and does not tell. Memory regions pin their pages: the bytes of both are memory that
//! is resident or, once it has been unmapped, memory that no RSS shows and that is taken all the same.
//!
//! - [`Objects`]: what one process has.
//! - [`Tracker`]: asks the kernel. [`Census`]: does so for whoever can go on without an answer.
//! - [`active_device`]: whether there is one at all.
//! - `account`: whose they are (pure). `message`: the bytes of questions and answers (pure).

mod account;
mod devices;
mod message;

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};

pub use devices::active_device;
use message::{Answer, Kind};

/// What one process has on all RDMA devices together.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Objects {
    /// Devices on which it has memory regions. Each pins the pages of its regions, and the kernel counts them each time.
    pub devices: u64,
    /// Memory regions.
    pub memory_regions: u64,
    /// Bytes in them.
    pub region_bytes: u64,
    /// Queue pairs.
    pub queue_pairs: u64,
    /// Completion queues.
    pub completion_queues: u64,
    /// Protection domains.
    pub protection_domains: u64,
}

impl Objects {
    /// The counts by name, in the order of the columns of `samples.csv`.
    pub fn fields(&self) -> [(&'static str, u64); 6] {
        [
            ("rdma_devices", self.devices),
            ("rdma_mrs", self.memory_regions),
            ("rdma_mr_bytes", self.region_bytes),
            ("rdma_qps", self.queue_pairs),
            ("rdma_cqs", self.completion_queues),
            ("rdma_pds", self.protection_domains),
        ]
    }

    /// The same from what `number` says of each name; the first `None` ends it.
    pub fn of_fields(mut number: impl FnMut(&'static str) -> Option<u64>) -> Option<Objects> {
        let [devices, memory_regions, region_bytes, queue_pairs, completion_queues, pds] =
            Objects::default().fields().map(|(name, _)| number(name));
        Some(Objects {
            devices: devices?,
            memory_regions: memory_regions?,
            region_bytes: region_bytes?,
            queue_pairs: queue_pairs?,
            completion_queues: completion_queues?,
            protection_domains: pds?,
        })
    }
}

/// The counts for a watch that goes on without them: on a machine that has no RDMA device, and from the moment on in which
/// the kernel does not answer any more.
#[derive(Debug, Default)]
pub struct Census(Option<Tracker>);

impl Census {
    /// Whatever there is to count here.
    pub fn open() -> Census {
        Census(Tracker::open())
    }

    /// Whether anything is counted.
    pub fn counts(&self) -> bool {
        self.0.is_some()
    }

    /// What every process has now.
    pub fn read(&mut self) -> Holdings {
        let objects = self.0.as_mut().and_then(|tracker| tracker.read().ok());
        if objects.is_none() {
            self.0 = None;
        }
        Holdings(objects)
    }
}

/// One reading: what every process has that has anything, or nothing if nothing was counted.
#[derive(Debug, Default)]
pub struct Holdings(Option<BTreeMap<u32, Objects>>);

impl Holdings {
    /// What one process has; `None` if nothing was counted.
    pub fn of(&self, pid: u32) -> Option<Objects> {
        let objects = self.0.as_ref()?;
        Some(objects.get(&pid).copied().unwrap_or_default())
    }
}

/// `NETLINK_RDMA` of `<linux/netlink.h>`.
const NETLINK_RDMA: i32 = 20;

/// A part of an answer is at most a page or 32 KiB, whichever the kernel takes for dumps; longer ones come in parts.
const PART_BYTES: usize = 64 << 10;

/// The kernel answers at once; this only keeps a kernel that does not from stopping a measurement.
const PATIENCE: Duration = Duration::from_secs(2);

/// Asks the kernel who holds what.
#[derive(Debug)]
pub struct Tracker {
    socket: Socket,
    /// Number of the next question, by which answers are told from those of a question that was given up.
    sequence: u32,
}

impl Tracker {
    /// A tracker, or `None` where the machine has no RDMA device or its kernel does not answer.
    pub fn open() -> Option<Tracker> {
        let mut devices = Path::new(devices::CLASS).read_dir().ok()?;
        devices.next()?.ok()?;
        let protocol = Protocol::from(NETLINK_RDMA);
        let socket =
            Socket::new(Domain::from(libc::AF_NETLINK), Type::from(libc::SOCK_RAW), Some(protocol));
        let socket = socket.ok()?;
        socket.set_read_timeout(Some(PATIENCE)).ok()?;
        let mut tracker = Tracker { socket, sequence: 1 };
        tracker.read().ok()?;
        Some(tracker)
    }

    /// What every process has that has anything, by process id.
    ///
    /// # Errors
    /// What the kernel or the socket says; an answer that cannot be understood.
    pub fn read(&mut self) -> io::Result<BTreeMap<u32, Objects>> {
        let mut held: BTreeMap<u32, Objects> = BTreeMap::new();
        let mut devices = Vec::new();
        self.ask(message::Question::devices(), |answer| devices.extend(answer.device()))?;
        for device in devices {
            let mut here = Vec::new();
            for kind in Kind::ALL {
                let list = |answer: Answer<'_>| here.extend(answer.objects(kind));
                self.ask(message::Question::objects(kind, device), list)?;
            }
            for (pid, objects) in account::by_process(&here, process_of) {
                held.entry(pid).or_default().add(&objects);
            }
        }
        Ok(held)
    }

    /// Sends `question` and hands every message of the answer to `each`.
    fn ask(
        &mut self,
        question: message::Question,
        mut each: impl FnMut(Answer<'_>),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        (&self.socket).write_all(&question.bytes(self.sequence))?;
        let mut part = vec![0; PART_BYTES];
        loop {
            let length = (&self.socket).read(&mut part)?;
            if message::answers(&part[..length], self.sequence, &mut each)?.is_break() {
                return Ok(());
            }
        }
    }
}

/// The process of a thread; `None` if it has ended meanwhile.
fn process_of(thread: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{thread}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("Tgid:")?.trim().parse().ok())
}

/// Puts `data` to the decoder of the kernel's answers. The message's own number is asked for, so that none is passed over.
#[cfg(fuzzing)]
pub(crate) fn fuzz(data: &[u8]) {
    let sequence = data.get(8..12).and_then(|bytes| bytes.try_into().ok()).map(u32::from_ne_bytes);
    let mut objects = Vec::new();
    for kind in Kind::ALL {
        let mut each = |answer: Answer<'_>| objects.extend(answer.objects(kind));
        let _ = message::answers(data, sequence.unwrap_or_default(), &mut each);
    }
    let _ = account::by_process(&objects, Some);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_belongs_to_its_process() {
        let own = std::thread::spawn(|| process_of(nix::unistd::gettid().as_raw() as u32));
        assert_eq!(own.join().unwrap(), Some(std::process::id()));
        assert_eq!(process_of(u32::MAX), None);
    }

    #[test]
    fn who_is_not_counted_has_nothing_and_without_a_count_nobody_knows() {
        let some = Objects { queue_pairs: 2, ..Objects::default() };
        let counted = Holdings(Some(BTreeMap::from([(7, some)])));
        assert_eq!((counted.of(7), counted.of(8)), (Some(some), Some(Objects::default())));
        assert_eq!(Holdings::default().of(7), None);
        assert_eq!(Census::default().read().of(7), None);
    }

    #[test]
    fn counts_come_back_from_their_columns_all_or_none() {
        let mut next = 0;
        let objects = Objects::of_fields(|_| {
            next += 1;
            Some(next)
        });
        let objects = objects.unwrap();
        assert_eq!(objects.fields().map(|(_, value)| value), [1, 2, 3, 4, 5, 6]);
        assert_eq!(Objects::of_fields(|name| (name != "rdma_qps").then_some(1)), None);
    }
}
