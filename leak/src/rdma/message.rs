//! Questions to the kernel's RDMA resource tracker, and its answers, as bytes. Pure.
//!
//! Numbers are those of `<rdma/rdma_netlink.h>` and `<linux/netlink.h>`
//! (<https://github.com/torvalds/linux/blob/master/include/uapi/rdma/rdma_netlink.h>). A message is a header and attributes;
//! an attribute is a length, a type, and a value that may be attributes again. All numbers are in the machine's own order.

use std::io;
use std::ops::ControlFlow;

use super::account::Object;

/// What the kernel tracks, of which this program counts these.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    QueuePair,
    CompletionQueue,
    MemoryRegion,
    ProtectionDomain,
}

impl Kind {
    pub(super) const ALL: [Kind; 4] =
        [Kind::QueuePair, Kind::CompletionQueue, Kind::MemoryRegion, Kind::ProtectionDomain];

    /// The command that lists them, and the attributes of the list and of one of it: `RDMA_NLDEV_CMD_RES_QP_GET`,
    /// `RDMA_NLDEV_ATTR_RES_QP`, `RDMA_NLDEV_ATTR_RES_QP_ENTRY`.
    fn numbers(self) -> (u16, u16, u16) {
        match self {
            Kind::QueuePair => (10, 19, 20),
            Kind::CompletionQueue => (12, 35, 36),
            Kind::MemoryRegion => (13, 40, 41),
            Kind::ProtectionDomain => (14, 46, 47),
        }
    }
}

/// `RDMA_NLDEV_CMD_GET`: the devices.
const CMD_GET: u16 = 1;
/// `RDMA_NLDEV_ATTR_DEV_INDEX`, u32.
const ATTR_DEVICE: u16 = 1;
/// `RDMA_NLDEV_ATTR_RES_PID`, u32: the thread that has made the object. Absent once it has ended.
const ATTR_PID: u16 = 28;
/// `RDMA_NLDEV_ATTR_RES_KERN_NAME`, a string: of objects of the kernel.
const ATTR_KERNEL_NAME: u16 = 29;
/// `RDMA_NLDEV_ATTR_RES_PDN`, u32: the protection domain that the object is, or is in.
const ATTR_DOMAIN: u16 = 60;
/// `RDMA_NLDEV_ATTR_RES_CTXN`, u32: the context that the object is in.
const ATTR_CONTEXT: u16 = 64;
/// `RDMA_NLDEV_ATTR_RES_MRLEN`, u64.
const ATTR_REGION_BYTES: u16 = 45;

/// `RDMA_NL_NLDEV`, in the upper bits of a message's type.
const NLDEV: u16 = 5 << 10;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const LIST: u16 = 0x01 | 0x300;
/// `NLMSG_ERROR` and `NLMSG_DONE`.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Bytes of a message's header and of an attribute's.
const HEADER: usize = 16;
const ATTRIBUTE: usize = 4;
/// The upper two bits of an attribute's type are flags.
const TYPE: u16 = 0x3fff;

/// A list that is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Question {
    command: u16,
    device: Option<u32>,
}

impl Question {
    /// Which devices there are.
    pub(super) fn devices() -> Question {
        Question { command: CMD_GET, device: None }
    }

    /// The objects of one kind on one device.
    pub(super) fn objects(kind: Kind, device: u32) -> Question {
        Question { command: kind.numbers().0, device: Some(device) }
    }

    /// The message with this number.
    pub(super) fn bytes(self, sequence: u32) -> Vec<u8> {
        let mut bytes = vec![0; HEADER];
        if let Some(device) = self.device {
            bytes.extend(8u16.to_ne_bytes());
            bytes.extend(ATTR_DEVICE.to_ne_bytes());
            bytes.extend(device.to_ne_bytes());
        }
        let length = bytes.len() as u32;
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[4..6].copy_from_slice(&(NLDEV + self.command).to_ne_bytes());
        bytes[6..8].copy_from_slice(&LIST.to_ne_bytes());
        bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        bytes
    }
}

/// Hands the messages of `part` that answer the question numbered `sequence` to `each`; breaks at the end of the answer.
///
/// # Errors
/// What the kernel has answered instead, or that it cannot be understood.
pub(super) fn answers(
    part: &[u8],
    sequence: u32,
    each: &mut impl FnMut(Answer<'_>),
) -> io::Result<ControlFlow<()>> {
    let mut rest = part;
    while !rest.is_empty() {
        let (length, kind) = header(rest).ok_or_else(torn)?;
        let message = rest.get(..length).filter(|_| length >= HEADER).ok_or_else(torn)?;
        rest = rest.get(aligned(length)..).unwrap_or_default();
        if u32_at(message, 8) != Some(sequence) {
            continue;
        }
        match kind {
            DONE | ERROR => {
                // 0, or a negative error number.
                let code = u32_at(message, HEADER).ok_or_else(torn)? as i32;
                let failed = code < 0;
                return if failed {
                    Err(io::Error::from_raw_os_error(-code))
                } else {
                    Ok(ControlFlow::Break(()))
                };
            }
            _ => each(Answer(&message[HEADER..])),
        }
    }
    Ok(ControlFlow::Continue(()))
}

/// The attributes of one message.
#[derive(Debug, Clone, Copy)]
pub(super) struct Answer<'a>(&'a [u8]);

impl Answer<'_> {
    /// The number of the device that it is about.
    pub(super) fn device(self) -> Option<u32> {
        number(self.0, ATTR_DEVICE)
    }

    /// The objects of `kind` that it lists and processes have made; those of the kernel bear a name.
    pub(super) fn objects(self, kind: Kind) -> Vec<Object> {
        let (_, list, entry) = kind.numbers();
        let lists = attributes(self.0).filter(|(number, _)| *number == list);
        let entries = lists.flat_map(|(_, list)| attributes(list));
        let of_process = |(number, object): &(u16, &[u8])| {
            *number == entry && find(object, ATTR_KERNEL_NAME).is_none()
        };
        let object = |(_, object): (u16, &[u8])| Object {
            kind,
            thread: number(object, ATTR_PID),
            domain: number(object, ATTR_DOMAIN),
            context: number(object, ATTR_CONTEXT),
            bytes: find(object, ATTR_REGION_BYTES)
                .and_then(|value| value.try_into().ok())
                .map_or(0, u64::from_ne_bytes),
        };
        entries.filter(of_process).map(object).collect()
    }
}

fn number(attributes_of: &[u8], wanted: u16) -> Option<u32> {
    find(attributes_of, wanted).and_then(|value| u32_at(value, 0))
}

fn find(attributes_of: &[u8], wanted: u16) -> Option<&[u8]> {
    attributes(attributes_of).find(|(number, _)| *number == wanted).map(|(_, value)| value)
}

/// Types and values; ends early where the bytes are torn.
fn attributes(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (length, kind) = (u16_at(rest, 0)?, u16_at(rest, 2)?);
        let value = rest.get(ATTRIBUTE..usize::from(length))?;
        rest = rest.get(aligned(length.into())..).unwrap_or_default();
        Some((kind & TYPE, value))
    })
}

fn header(bytes: &[u8]) -> Option<(usize, u16)> {
    Some((u32_at(bytes, 0)? as usize, u16_at(bytes, 4)?))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2)?.try_into().ok().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// Messages and attributes begin at multiples of four.
fn aligned(length: usize) -> usize {
    length.next_multiple_of(4)
}

fn torn() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer about RDMA resources is torn")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// What the kernel answered in the virtual machine of `scripts/rdma-vm` to questions numbered 7, while a prefill
    /// (process 170) and a decode (171) were connected over verbs on rxe0. A line is a name and a part of the answer.
    const CAPTURED: &str = include_str!("captured.txt");

    fn parts(name: &str) -> impl Iterator<Item = Vec<u8>> {
        let named =
            CAPTURED.lines().filter_map(move |line| line.strip_prefix(name)?.strip_prefix(' '));
        let byte =
            |digits: &[u8]| u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap();
        named.map(move |hex| hex.as_bytes().chunks(2).map(byte).collect())
    }

    fn answered(name: &str, each: &mut impl FnMut(Answer<'_>)) -> io::Result<bool> {
        let mut ended = false;
        for part in parts(name) {
            ended |= answers(&part, 7, each)?.is_break();
        }
        Ok(ended)
    }

    /// All objects of the capture.
    pub(in crate::rdma) fn captured() -> Vec<Object> {
        let mut objects = Vec::new();
        for (name, kind) in [
            ("qp", Kind::QueuePair),
            ("cq", Kind::CompletionQueue),
            ("mr", Kind::MemoryRegion),
            ("pd", Kind::ProtectionDomain),
        ] {
            let mut each = |answer: Answer<'_>| objects.extend(answer.objects(kind));
            assert!(answered(name, &mut each).unwrap());
        }
        objects
    }

    #[test]
    fn objects_of_processes_are_read_and_those_of_the_kernel_left_out() {
        let objects = captured();
        let of = |kind| objects.iter().filter(|object| object.kind == kind).count();
        assert_eq!(Kind::ALL.map(of), [4, 2, 4, 2]);
        let region = Object {
            kind: Kind::MemoryRegion,
            thread: Some(170),
            domain: Some(2),
            context: None,
            bytes: 557_056,
        };
        assert!(objects.contains(&region), "{objects:?}");
        // The thread that has registered it is gone.
        assert!(
            objects.contains(&Object { thread: None, bytes: 131_072, ..region }),
            "{objects:?}"
        );
    }

    #[test]
    fn devices_are_found_and_an_unknown_one_is_an_error() {
        let mut devices = Vec::new();
        assert!(answered("dev", &mut |answer| devices.extend(answer.device())).unwrap());
        assert_eq!(devices, [0, 1]);
        let error = answered("nodev", &mut |_| ()).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
        let mut none = |_: Answer<'_>| panic!("nothing is on it");
        assert!(answered("mr1", &mut none).unwrap());
    }

    #[test]
    fn answers_to_other_questions_are_passed_over_and_torn_ones_refused() {
        let part = parts("mr").next().unwrap();
        let mut count = 0;
        assert!(answers(&part, 8, &mut |_| count += 1).unwrap().is_continue());
        assert_eq!(count, 0);
        for length in 1..part.len() {
            // Shorter ones are refused, or end early; none may panic.
            let _ = answers(&part[..length], 7, &mut |answer| {
                answer.objects(Kind::MemoryRegion);
            });
        }
        assert!(answers(&part[..part.len() - 1], 7, &mut |_| ()).is_err());
    }

    #[test]
    fn a_question_is_a_message_of_its_own_length() {
        let bytes = Question::objects(Kind::MemoryRegion, 3).bytes(9);
        assert_eq!(bytes.len(), 24);
        assert_eq!((u32_at(&bytes, 0), u16_at(&bytes, 4)), (Some(24), Some((5 << 10) + 13)));
        assert_eq!((u32_at(&bytes, 8), u32_at(&bytes, 20)), (Some(9), Some(3)));
        assert_eq!(Question::devices().bytes(9).len(), HEADER);
    }
}
