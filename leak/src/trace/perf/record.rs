//! Records as the kernel writes them, decoded. Pure; takes any bytes.

use linux_perf_event_reader::{
    BranchSampleFormat, Endianness, EventRecord, Mmap2FileId, RawData, RawEventRecord, ReadFormat,
    RecordIdParseInfo, RecordParseInfo, RecordType, SampleFormat,
};

/// Size of what every record begins with: its type, flags and length.
const HEADER_BYTES: usize = 8;

/// `PERF_RECORD_MISC_MMAP_BUILD_ID`: never asked for, so that no record has it.
const MISC_BUILD_ID: u16 = 1 << 14;
const TYPE_MMAP2: u32 = 10;
const PROT_EXEC: u32 = 4;

/// What a sample carries, the same for every event: who, when, the tracepoint's own bytes, registers, stack.
pub(super) const SAMPLE_TYPE: SampleFormat = SampleFormat::TID
    .union(SampleFormat::TIME)
    .union(SampleFormat::RAW)
    .union(SampleFormat::REGS_USER)
    .union(SampleFormat::STACK_USER);

/// Registers that an unwinder starts from: frame pointer, stack pointer, instruction pointer, and the link register
/// where there is one. Numbers of `asm/perf_regs.h`.
#[cfg(target_arch = "aarch64")]
const REGISTERS: Numbers = Numbers { fp: 29, sp: 31, ip: 32, lr: Some(30) };
#[cfg(not(target_arch = "aarch64"))]
const REGISTERS: Numbers = Numbers { fp: 6, sp: 7, ip: 8, lr: None };

struct Numbers {
    fp: u64,
    sp: u64,
    ip: u64,
    lr: Option<u64>,
}

/// `sample_regs_user`: the registers as bits.
pub(super) const REGISTER_MASK: u64 = 1 << REGISTERS.fp
    | 1 << REGISTERS.sp
    | 1 << REGISTERS.ip
    | match REGISTERS.lr {
        Some(lr) => 1 << lr,
        None => 0,
    };

/// Where a thread was when it entered the kernel, and a copy of its stack from `sp` upwards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct UserStack {
    pub(crate) ip: u64,
    pub(crate) sp: u64,
    pub(crate) fp: u64,
    pub(crate) lr: u64,
    pub(crate) bytes: Vec<u8>,
}

/// A record with its time, in ns of the kernel's clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) time_ns: u64,
    pub(super) body: Body,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Body {
    /// A tracepoint was hit.
    Sample { pid: u32, tid: u32, raw: Vec<u8>, stack: Option<UserStack> },
    /// Code was mapped.
    Code { start: u64, len_bytes: u64, file_offset: u64, inode: u64, path: String },
    /// The process has called `exec`.
    Exec { pid: u32 },
    /// A thread has ended.
    Exit { pid: u32, tid: u32 },
    /// So many records found no room.
    Lost { count: u64 },
}

/// What the reader needs to know about how the events were opened.
fn parse_info() -> RecordParseInfo {
    RecordParseInfo {
        endian: Endianness::NATIVE,
        sample_format: SAMPLE_TYPE,
        branch_sample_format: BranchSampleFormat::empty(),
        read_format: ReadFormat::empty(),
        // TID and TIME, 8 bytes each, end every record that is no sample (`sample_id_all`).
        common_data_offset_from_end: Some(16),
        sample_regs_user: REGISTER_MASK,
        user_regs_count: REGISTER_MASK.count_ones() as u8,
        sample_regs_intr: 0,
        intr_regs_count: 0,
        id_parse_info: RecordIdParseInfo {
            nonsample_record_id_offset_from_end: None,
            sample_record_id_offset_from_start: None,
        },
        nonsample_record_time_offset_from_end: Some(8),
        sample_record_time_offset_from_start: Some(8),
    }
}

/// Decodes a run of whole records. What is damaged or of no interest is left out; a length that cannot be ends the run.
pub(super) fn decode(mut bytes: &[u8], mut take: impl FnMut(Record)) {
    let info = parse_info();
    while let Some(header) = bytes.first_chunk::<HEADER_BYTES>() {
        let [a, b, c, d, misc_low, misc_high, size_low, size_high] = *header;
        let kind = u32::from_ne_bytes([a, b, c, d]);
        let misc = u16::from_ne_bytes([misc_low, misc_high]);
        let size = usize::from(u16::from_ne_bytes([size_low, size_high]));
        let Some(body) = bytes.get(HEADER_BYTES..size) else { return };
        bytes = &bytes[size..];
        if let Some(record) = decode_one(kind, misc, body, info) {
            take(record);
        }
    }
}

fn decode_one(kind: u32, misc: u16, body: &[u8], info: RecordParseInfo) -> Option<Record> {
    // The same bit means something else in other records.
    let misc = if kind == TYPE_MMAP2 { misc & !MISC_BUILD_ID } else { misc };
    let kind = RecordType(kind);
    if !kind.is_builtin_type() {
        return None;
    }
    let raw = RawEventRecord::new(kind, misc, RawData::Single(body), info);
    let time_ns = raw.timestamp()?;
    let body = match raw.parse().ok()? {
        EventRecord::Sample(sample) => {
            let stack = sample.user_regs.as_ref().and_then(|regs| {
                let (bytes, len) = sample.user_stack?;
                let bytes = bytes.as_slice();
                // The kernel copies up to the first page that is not there, and says how much that was.
                let len = usize::try_from(len).map_or(bytes.len(), |len| len.min(bytes.len()));
                (len > 0).then(|| UserStack {
                    ip: regs.get(REGISTERS.ip).unwrap_or(0),
                    sp: regs.get(REGISTERS.sp).unwrap_or(0),
                    fp: regs.get(REGISTERS.fp).unwrap_or(0),
                    lr: REGISTERS.lr.and_then(|lr| regs.get(lr)).unwrap_or(0),
                    bytes: bytes[..len].to_vec(),
                })
            });
            Body::Sample {
                pid: sample.pid? as u32,
                tid: sample.tid? as u32,
                raw: sample.raw?.as_slice().into_owned(),
                stack,
            }
        }
        EventRecord::Mmap2(map) if map.protection & PROT_EXEC != 0 => Body::Code {
            start: map.address,
            len_bytes: map.length,
            file_offset: map.page_offset,
            inode: match map.file_id {
                Mmap2FileId::InodeAndVersion(file) => file.inode,
                Mmap2FileId::BuildId(_) => return None,
            },
            path: String::from_utf8_lossy(&map.path.as_slice()).into_owned(),
        },
        EventRecord::Comm(comm) if comm.is_execve => Body::Exec { pid: comm.pid as u32 },
        EventRecord::Exit(end) => Body::Exit { pid: end.pid as u32, tid: end.tid as u32 },
        EventRecord::Lost(lost) => Body::Lost { count: lost.count },
        _ => return None,
    };
    Some(Record { time_ns, body })
}

#[cfg(test)]
mod tests;
