//! Tracepoints as tracefs describes them: their numbers, and where their fields lie.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::tier::Tracefs;

/// Where tracefs is mounted on its own, and where inside debugfs
/// (<https://docs.kernel.org/trace/ftrace.html>).
const PLACES: [&str; 2] = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"];

/// A tracepoint whose description stands for that of all on system calls.
const WITNESS: &str = "events/syscalls/sys_exit_mmap/id";

/// Looks for tracefs at its usual places.
pub fn find() -> Tracefs {
    find_in(&PLACES.map(PathBuf::from))
}

/// Calls `read` with a tracefs: the one that is mounted, or else one that is mounted for the moment, by a thread in a mount
/// namespace of its own, which takes it away when it ends. Nobody else ever sees that one; it takes CAP_SYS_ADMIN.
pub fn with_mounted<T: Send>(read: impl FnOnce(&Path) -> io::Result<T> + Send) -> io::Result<T> {
    if let Tracefs::At(path) = find() {
        return read(&path);
    }
    let apart = || -> io::Result<T> {
        let place = Path::new(PLACES[0]);
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none: Option<&Path> = None;
        // Without this a mount would be passed on to the namespace that this one is a copy of.
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        mount(Some("tracefs"), place, Some("tracefs"), MsFlags::empty(), none)?;
        read(place)
    };
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("tracefs".to_owned());
        thread
            .spawn_scoped(scope, apart)?
            .join()
            .unwrap_or_else(|_| Err(io::Error::other("the thread that reads tracefs has panicked")))
    })
}

fn find_in(places: &[PathBuf]) -> Tracefs {
    let mut found = Tracefs::NotMounted;
    for place in places {
        match fs::read_dir(place).map(|mut entries| entries.next().is_some()) {
            Ok(true) => match fs::read_to_string(place.join(WITNESS)) {
                Ok(_) => return Tracefs::At(place.clone()),
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    found = Tracefs::Closed(place.clone());
                }
                Err(_) => found = Tracefs::WithoutSyscalls(place.clone()),
            },
            Err(error)
                if error.kind() == io::ErrorKind::PermissionDenied
                    && found == Tracefs::NotMounted =>
            {
                found = Tracefs::Closed(place.clone());
            }
            _ => {}
        }
    }
    found
}

/// A tracepoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tracepoint {
    /// Its number in this boot, which every record of it begins with.
    pub id: u16,
    fields: Vec<(String, Field)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Field {
    offset: usize,
    size: usize,
}

impl Tracepoint {
    /// Reads the description of `name`, for example `syscalls/sys_enter_munmap`.
    pub fn read(tracefs: &Path, name: &str) -> io::Result<Tracepoint> {
        let path = tracefs.join("events").join(name).join("format");
        Tracepoint::parse(&fs::read_to_string(&path)?).ok_or_else(|| {
            let reason = format!("{} is no description of a tracepoint", path.display());
            io::Error::new(io::ErrorKind::InvalidData, reason)
        })
    }

    /// Parses a `format` file.
    pub fn parse(format: &str) -> Option<Tracepoint> {
        let mut id = None;
        let mut fields = Vec::new();
        for line in format.lines() {
            if let Some(number) = line.strip_prefix("ID:") {
                id = Some(number.trim().parse().ok()?);
            } else if let Some(field) = line.trim().strip_prefix("field:") {
                fields.push(parse_field(field)?);
            }
        }
        Some(Tracepoint { id: id?, fields })
    }

    /// The field `name` of a record, widened; `None` if the tracepoint has no such field or the record is too short.
    pub fn value(&self, record: &[u8], name: &str) -> Option<u64> {
        let (_, field) = self.fields.iter().find(|(known, _)| known == name)?;
        let bytes = record.get(field.offset..field.offset.checked_add(field.size)?)?;
        match field.size {
            4 => Some(u64::from(u32::from_ne_bytes(bytes.try_into().ok()?))),
            8 => Some(u64::from_ne_bytes(bytes.try_into().ok()?)),
            _ => None,
        }
    }

    /// The number of the tracepoint that a record is of.
    pub fn id_of(record: &[u8]) -> Option<u16> {
        Some(u16::from_ne_bytes(record.get(..2)?.try_into().ok()?))
    }
}

/// `unsigned long addr; offset:16; size:8; signed:0;`
fn parse_field(text: &str) -> Option<(String, Field)> {
    let mut parts = text.split(';').map(str::trim);
    let name = parts.next()?.rsplit(' ').next()?.to_owned();
    let (mut offset, mut size) = (None, None);
    for part in parts {
        match part.split_once(':') {
            Some(("offset", number)) => offset = number.parse().ok(),
            Some(("size", number)) => size = number.parse().ok(),
            _ => {}
        }
    }
    Some((name, Field { offset: offset?, size: size? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// As Linux 6.18 prints it on x86-64.
    const MUNMAP: &str = "name: sys_enter_munmap\nID: 693\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:int __syscall_nr;\toffset:8;\tsize:4;\tsigned:1;\n\
        \tfield:unsigned long addr;\toffset:16;\tsize:8;\tsigned:0;\n\
        \tfield:size_t len;\toffset:24;\tsize:8;\tsigned:0;\n\n\
        print fmt: \"addr: 0x%08lx\", ((unsigned long)(REC->addr))\n";

    fn record() -> Vec<u8> {
        let mut bytes = vec![0; 32];
        bytes[..2].copy_from_slice(&693u16.to_ne_bytes());
        bytes[8..12].copy_from_slice(&11u32.to_ne_bytes());
        bytes[16..24].copy_from_slice(&0x7f00_1234_5000u64.to_ne_bytes());
        bytes[24..32].copy_from_slice(&65536u64.to_ne_bytes());
        bytes
    }

    #[test]
    fn fields_are_found_where_the_kernel_says() {
        let point = Tracepoint::parse(MUNMAP).unwrap();
        let record = record();
        assert_eq!((point.id, Tracepoint::id_of(&record)), (693, Some(693)));
        assert_eq!(point.value(&record, "addr"), Some(0x7f00_1234_5000));
        assert_eq!(point.value(&record, "len"), Some(65536));
        assert_eq!(point.value(&record, "__syscall_nr"), Some(11));
        assert_eq!(point.value(&record, "ret"), None);
        assert_eq!(point.value(&record[..20], "addr"), None);
    }

    #[test]
    fn tracefs_is_found_or_missed_with_a_reason() {
        let dir = tempfile::tempdir().unwrap();
        let (first, second) = (dir.path().join("tracing"), dir.path().join("debug"));
        let places = [first.clone(), second.clone()];
        fs::create_dir_all(&first).unwrap();
        assert_eq!(find_in(&places), Tracefs::NotMounted, "an empty directory is a mount point");
        fs::create_dir_all(second.join("events")).unwrap();
        assert_eq!(find_in(&places), Tracefs::WithoutSyscalls(second.clone()));
        fs::create_dir_all(second.join(WITNESS).parent().unwrap()).unwrap();
        fs::write(second.join(WITNESS), "173\n").unwrap();
        assert_eq!(find_in(&places), Tracefs::At(second));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_or_refused(text in ".{0,200}", record in proptest::collection::vec(any::<u8>(), 0..40)) {
            if let Some(point) = Tracepoint::parse(&text) {
                let _ = point.value(&record, "addr");
            }
        }

        #[test]
        fn damaged_descriptions_are_parsed_or_refused(
            at in 0..MUNMAP.len(), byte in 0u8..128, record in proptest::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut text = MUNMAP.as_bytes().to_vec();
            text[at] = byte;
            if let Some(point) = Tracepoint::parse(&String::from_utf8_lossy(&text)) {
                for name in ["addr", "len", "common_type"] {
                    let _ = point.value(&record, name);
                }
            }
        }
    }
}
