//! The tracepoints that are followed, and what a record of one means. Pure but for reading their descriptions.

use std::io;
use std::path::Path;

use super::super::book::{Call, Returned, StackId, Step};
use super::super::space::{Remap, Span};
use super::super::tracefs::Tracepoint;

/// `MREMAP_DONTUNMAP` of `linux/mman.h`.
const MREMAP_DONTUNMAP: u64 = 4;

/// All tracepoints that may be followed.
#[derive(Debug, Clone)]
pub(super) struct Points {
    pub(super) enter_mmap: Tracepoint,
    pub(super) exit_mmap: Tracepoint,
    pub(super) enter_munmap: Tracepoint,
    pub(super) exit_munmap: Tracepoint,
    pub(super) enter_mremap: Tracepoint,
    pub(super) exit_mremap: Tracepoint,
    pub(super) enter_brk: Tracepoint,
    pub(super) exit_brk: Tracepoint,
    /// Where the kernel looks for free addresses, inside of `mmap` and `mremap`; since Linux 5.8. It costs less than a
    /// tracepoint on a system call, which slows down every system call of the machine.
    pub(super) placed: Option<Tracepoint>,
    pub(super) fault: Option<Tracepoint>,
}

/// What a record says, before its stack is unwound.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Enter(Call),
    Exit(Returned, i64),
    Placed { start: u64, len_bytes: u64 },
    Fault { address: u64 },
}

impl Said {
    /// Whether it matters who said it.
    pub(super) fn wants_stack(self) -> bool {
        !matches!(self, Said::Exit(..) | Said::Enter(Call::Munmap { .. }))
    }

    /// The step, made from `stack`. `weight` is how many of its kind it stands for.
    pub(super) fn step(self, stack: StackId, weight: u32, page_bytes: u64) -> Option<Step> {
        Some(match self {
            Said::Enter(call) => Step::Enter(call, stack),
            Said::Exit(returned, value) => Step::Exit(returned, value),
            Said::Placed { start, len_bytes } => {
                Step::Placed { span: Span::pages(start, len_bytes, page_bytes)?, stack, weight }
            }
            Said::Fault { address } => Step::Fault { address, stack, weight },
        })
    }
}

impl Points {
    /// Reads their descriptions from a tracefs.
    pub(super) fn read(tracefs: &Path) -> io::Result<Points> {
        let syscall = |name: &str| Tracepoint::read(tracefs, &format!("syscalls/sys_{name}"));
        Ok(Points {
            enter_mmap: syscall("enter_mmap")?,
            exit_mmap: syscall("exit_mmap")?,
            enter_munmap: syscall("enter_munmap")?,
            exit_munmap: syscall("exit_munmap")?,
            enter_mremap: syscall("enter_mremap")?,
            exit_mremap: syscall("exit_mremap")?,
            enter_brk: syscall("enter_brk")?,
            exit_brk: syscall("exit_brk")?,
            placed: Tracepoint::read(tracefs, "mmap/vm_unmapped_area").ok(),
            fault: Tracepoint::read(tracefs, "exceptions/page_fault_user").ok(),
        })
    }

    /// What a record says; `None` if it is none of these, or too short.
    pub(super) fn said(&self, raw: &[u8]) -> Option<Said> {
        let id = Tracepoint::id_of(raw)?;
        let is = |point: &Tracepoint| point.id == id;
        let field = |point: &Tracepoint, name: &str| point.value(raw, name);
        let returned =
            |point: &Tracepoint, call| Some(Said::Exit(call, field(point, "ret")? as i64));
        if is(&self.enter_mmap) {
            Some(Said::Enter(Call::Mmap { len_bytes: field(&self.enter_mmap, "len")? }))
        } else if is(&self.exit_mmap) {
            returned(&self.exit_mmap, Returned::Mmap)
        } else if is(&self.enter_munmap) {
            let point = &self.enter_munmap;
            let (start, len_bytes) = (field(point, "addr")?, field(point, "len")?);
            Some(Said::Enter(Call::Munmap { start, len_bytes }))
        } else if is(&self.exit_munmap) {
            returned(&self.exit_munmap, Returned::Munmap)
        } else if is(&self.enter_mremap) {
            let point = &self.enter_mremap;
            Some(Said::Enter(Call::Mremap(Remap {
                old_start: field(point, "addr")?,
                old_len_bytes: field(point, "old_len")?,
                new_len_bytes: field(point, "new_len")?,
                keep_old: field(point, "flags")? & MREMAP_DONTUNMAP != 0,
            })))
        } else if is(&self.exit_mremap) {
            returned(&self.exit_mremap, Returned::Mremap)
        } else if is(&self.enter_brk) {
            Some(Said::Enter(Call::Brk))
        } else if is(&self.exit_brk) {
            returned(&self.exit_brk, Returned::Brk)
        } else if let Some(point) = self.placed.as_ref().filter(|point| is(point)) {
            let (start, len_bytes) = (field(point, "addr")?, field(point, "length")?);
            Some(Said::Placed { start, len_bytes })
        } else if let Some(point) = self.fault.as_ref().filter(|point| is(point)) {
            Some(Said::Fault { address: field(point, "address")? })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests;
