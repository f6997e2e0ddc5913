//! The code that a process has mapped: which file lies where, and how to unwind through it.
//!
//! Files are found through `/proc/PID/map_files`, which gives the very file that is mapped even if it was deleted or
//! replaced, or else through `/proc/PID/root`, so that a process in a container is seen with its own files. What an
//! unwinder needs of a file is read when a stack first leads into it, and kept: a file may be gone when it is asked for.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use framehop::{
    CacheNative, ExplicitModuleSectionInfo, FrameAddress, MayAllocateDuringUnwind, Module,
    Unwinder, UnwinderNative,
};
use object::{Object, ObjectSection, ObjectSegment, ReadCache};

use super::stacks::Place;

/// What is kept of a file's unwind tables at most. The largest that are known (of machine learning libraries) have some
/// tens of MB.
const MAX_SECTION_BYTES: u64 = 256 << 20;

/// A file that was mapped as code, once for all the places where it lies.
#[derive(Debug)]
pub(crate) struct Image {
    /// As the process names it.
    pub(crate) path: String,
    pub(crate) inode: u64,
    /// Open, so that its symbols can be read when the process, the path or the file's name is gone.
    pub(crate) file: Option<File>,
    /// The code itself, where there is no file: the kernel's `[vdso]`.
    pub(crate) memory: Option<Vec<u8>>,
}

/// A mapping of code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Code {
    pub(crate) start: u64,
    pub(crate) end: u64,
    pub(crate) file_offset: u64,
    pub(crate) inode: u64,
    pub(crate) path: String,
}

struct Mapped {
    end: u64,
    file_offset: u64,
    image: Option<u32>,
    known_to_unwinder: bool,
}

/// All code that a process has or had.
pub(crate) struct Modules {
    pid: u32,
    root: Option<File>,
    images: Vec<Arc<Image>>,
    numbers: HashMap<(String, u64), u32>,
    sections: HashMap<u32, Option<Sections>>,
    mapped: BTreeMap<u64, Mapped>,
    unwinder: UnwinderNative<Arc<[u8]>, MayAllocateDuringUnwind>,
    cache: CacheNative<MayAllocateDuringUnwind>,
}

/// What an unwinder needs of a file.
#[derive(Clone)]
struct Sections {
    info: ExplicitModuleSectionInfo<Arc<[u8]>>,
    /// (file offset, size, address) of the segments.
    segments: Vec<(u64, u64, u64)>,
}

impl Modules {
    /// No code yet, of process `pid`.
    pub(crate) fn new(pid: u32) -> Modules {
        Modules {
            pid,
            root: File::open(format!("/proc/{pid}/root")).ok(),
            images: Vec::new(),
            numbers: HashMap::new(),
            sections: HashMap::new(),
            mapped: BTreeMap::new(),
            unwinder: UnwinderNative::new(),
            cache: CacheNative::new(),
        }
    }

    /// All files, by their number.
    pub(crate) fn images(&self) -> &[Arc<Image>] {
        &self.images
    }

    /// Numbers of the files that are mapped now.
    pub(crate) fn mapped_images(&self) -> Vec<u32> {
        let mut numbers: Vec<u32> = self.mapped.values().filter_map(|code| code.image).collect();
        numbers.sort_unstable();
        numbers.dedup();
        numbers
    }

    /// Where `path` of the process is, seen from here, even when the process is gone.
    pub(crate) fn seen_from_here(&self, path: &str) -> PathBuf {
        match &self.root {
            Some(root) => PathBuf::from(format!("/proc/self/fd/{}{path}", root.as_raw_fd())),
            None => PathBuf::from(path),
        }
    }

    /// The process has mapped code; what was there is gone.
    pub(crate) fn add(&mut self, code: &Code) {
        if code.end <= code.start {
            return;
        }
        self.remove(code.start, code.end);
        let file_backed = code.inode != 0 || code.path == VDSO;
        let image = file_backed.then(|| self.image(code));
        let Code { start, end, file_offset, .. } = *code;
        self.mapped.insert(start, Mapped { end, file_offset, image, known_to_unwinder: false });
    }

    /// Whatever was mapped is gone: the process has called `exec`.
    pub(crate) fn clear(&mut self) {
        self.remove(0, u64::MAX);
    }

    /// Takes `codes` for all that is mapped now, and forgets where the others lay.
    pub(crate) fn set(&mut self, codes: &[Code]) {
        let same = |start: u64, mapped: &Mapped| {
            codes.iter().any(|code| {
                (code.start, code.end, code.file_offset) == (start, mapped.end, mapped.file_offset)
                    && mapped.image.map_or(code.inode == 0, |image| {
                        self.images[image as usize].inode == code.inode
                    })
            })
        };
        let gone: Vec<(u64, u64)> = self
            .mapped
            .iter()
            .filter(|(start, mapped)| !same(**start, mapped))
            .map(|(&start, mapped)| (start, mapped.end))
            .collect();
        for (start, end) in gone {
            self.remove(start, end);
        }
        for code in codes {
            if !self.mapped.contains_key(&code.start) {
                self.add(code);
            }
        }
    }

    /// The stack from these registers outwards, innermost first, at most `max_frames`. `read` gives the word at an
    /// address of the stack.
    pub(crate) fn unwind(
        &mut self,
        mut regs: framehop::UnwindRegsNative,
        ip: u64,
        max_frames: usize,
        mut read: impl FnMut(u64) -> Result<u64, ()>,
    ) -> Vec<Place> {
        let mut address = FrameAddress::InstructionPointer(ip);
        let mut places = Vec::with_capacity(24);
        loop {
            let at = address.address_for_lookup();
            places.push(self.place(at));
            if places.len() >= max_frames {
                return places;
            }
            self.introduce(at);
            let next = self.unwinder.unwind_frame(address, &mut regs, &mut self.cache, &mut read);
            // What cannot be unwound any further is still a stack, of its inner part.
            let Some(next) = next.ok().flatten().and_then(FrameAddress::from_return_address) else {
                return places;
            };
            address = next;
        }
    }

    fn place(&self, address: u64) -> Place {
        match self.find(address) {
            Some((start, Mapped { file_offset, image: Some(image), .. })) => {
                Place { module: Some(*image), offset: address - start + file_offset }
            }
            _ => Place { module: None, offset: address },
        }
    }

    fn find(&self, address: u64) -> Option<(u64, &Mapped)> {
        let (&start, mapped) = self.mapped.range(..=address).next_back()?;
        (address < mapped.end).then_some((start, mapped))
    }

    /// Tells the unwinder of the code at `address`, the first time that a stack leads there.
    fn introduce(&mut self, address: u64) {
        let Some((start, mapped)) = self.find(address) else { return };
        let (Some(number), false) = (mapped.image, mapped.known_to_unwinder) else { return };
        let (end, file_offset) = (mapped.end, mapped.file_offset);
        if let Some(mapped) = self.mapped.get_mut(&start) {
            mapped.known_to_unwinder = true;
        }
        let image = &self.images[number as usize];
        let sections = self.sections.entry(number).or_insert_with(|| Sections::read(image));
        let Some(sections) = sections else { return };
        let Some(stated) = sections.address_of(file_offset) else { return };
        self.unwinder.add_module(Module::new(
            image.path.clone(),
            start..end,
            start.wrapping_sub(stated),
            sections.info.clone(),
        ));
    }

    fn remove(&mut self, start: u64, end: u64) {
        let first = self
            .mapped
            .range(..start)
            .next_back()
            .filter(|(_, mapped)| mapped.end > start)
            .map_or(start, |(&at, _)| at);
        let touched: Vec<u64> = self.mapped.range(first..end).map(|(&at, _)| at).collect();
        for at in touched {
            let Some(old) = self.mapped.remove(&at) else { continue };
            if old.known_to_unwinder {
                self.unwinder.remove_module(at);
            }
            let Mapped { end: old_end, file_offset, image, .. } = old;
            let piece =
                |end, file_offset| Mapped { end, file_offset, image, known_to_unwinder: false };
            if at < start {
                self.mapped.insert(at, piece(start, file_offset));
            }
            if old_end > end {
                self.mapped.insert(end, piece(old_end, file_offset + (end - at)));
            }
        }
    }

    fn image(&mut self, code: &Code) -> u32 {
        let key = (code.path.clone(), code.inode);
        if let Some(&number) = self.numbers.get(&key) {
            return number;
        }
        let number = self.images.len() as u32;
        self.numbers.insert(key, number);
        self.images.push(Arc::new(self.open(code)));
        number
    }

    fn open(&self, code: &Code) -> Image {
        let Code { start, end, inode, path, .. } = code;
        let shown = path.strip_suffix(DELETED).unwrap_or(path);
        let memory = (path == VDSO).then(|| self.read_memory(*start, *end)).flatten();
        let map_file = format!("/proc/{}/map_files/{start:x}-{end:x}", self.pid);
        let candidates = [PathBuf::from(map_file), self.seen_from_here(shown)];
        let is_it = |file: &File| file.metadata().is_ok_and(|meta| meta.ino() == *inode);
        let file = (path != VDSO)
            .then(|| candidates.iter().filter_map(|path| File::open(path).ok()).find(is_it))
            .flatten();
        Image { path: shown.to_owned(), inode: *inode, file, memory }
    }

    fn read_memory(&self, start: u64, end: u64) -> Option<Vec<u8>> {
        let mut memory = File::open(format!("/proc/{}/mem", self.pid)).ok()?;
        memory.seek(SeekFrom::Start(start)).ok()?;
        let mut bytes = Vec::new();
        memory.take(end - start).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }
}

/// The name of the kernel's code in every process.
pub(crate) const VDSO: &str = "[vdso]";
/// What the kernel puts behind the path of a file that has no name any more.
const DELETED: &str = " (deleted)";

impl Sections {
    fn read(image: &Image) -> Option<Sections> {
        match (&image.file, &image.memory) {
            (Some(file), _) => {
                // Positions in the file are the cache's own business; nobody else reads from this handle.
                let cache = ReadCache::new(file);
                Sections::of(&object::File::parse(&cache).ok()?)
            }
            (None, Some(memory)) => Sections::of(&object::File::parse(&memory[..]).ok()?),
            (None, None) => None,
        }
    }

    fn of<'a>(file: &impl Object<'a>) -> Option<Sections> {
        let range = |name: &str| {
            let section = file.section_by_name(name)?;
            Some(section.address()..section.address().checked_add(section.size())?)
        };
        let data = |name: &str| {
            let section = file.section_by_name(name)?;
            if section.size() > MAX_SECTION_BYTES {
                return None;
            }
            Some(Arc::from(&*section.uncompressed_data().ok()?))
        };
        let segments = file.segments().map(|segment| {
            let (offset, size) = segment.file_range();
            (offset, size, segment.address())
        });
        Some(Sections {
            segments: segments.collect(),
            info: ExplicitModuleSectionInfo {
                base_svma: 0,
                text_svma: range(".text"),
                eh_frame_svma: range(".eh_frame"),
                eh_frame: data(".eh_frame"),
                eh_frame_hdr_svma: range(".eh_frame_hdr"),
                eh_frame_hdr: data(".eh_frame_hdr"),
                got_svma: range(".got"),
                debug_frame: data(".debug_frame"),
                ..ExplicitModuleSectionInfo::default()
            },
        })
    }

    /// The address that the file states for what lies at `file_offset` in it.
    fn address_of(&self, file_offset: u64) -> Option<u64> {
        // A mapping begins at a page, before the segment that it was made for.
        self.segments
            .iter()
            .find(|(offset, size, _)| {
                *offset < file_offset.saturating_add(PAGE_BYTES_MAX) && file_offset < offset + size
            })
            .map(|(offset, _, address)| address.wrapping_add(file_offset).wrapping_sub(*offset))
    }
}

/// The largest page size that a program can have.
const PAGE_BYTES_MAX: u64 = 65_536;

#[cfg(test)]
mod tests;
