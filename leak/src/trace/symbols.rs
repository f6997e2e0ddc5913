//! From places in the code to frames with names.

use std::collections::HashMap;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::sync::Arc;

use blazesym::symbolize::source::{Elf, Source};
use blazesym::symbolize::{Input, Symbolized, Symbolizer};
use object::{Object, ObjectSymbol};

use super::modules::Image;
use super::stacks::Place;
use super::traced::{Frame, ModuleState};

/// A file with what has become of it.
#[derive(Debug, Clone)]
pub(crate) struct Module {
    pub(crate) image: Arc<Image>,
    pub(crate) state: ModuleState,
}

/// Names that were looked up before: a place keeps its name, as its file is never another one.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<Place, Option<String>>);

impl Names {
    /// Takes names that are known already.
    pub(crate) fn know(&mut self, names: Vec<(Place, String)>) {
        self.0.extend(names.into_iter().map(|(place, name)| (place, Some(name))));
    }

    /// Looks up all `places` that are new, file by file.
    pub(crate) fn look_up<'a>(
        &mut self,
        places: impl Iterator<Item = &'a Place>,
        modules: &[Module],
    ) {
        let mut wanted: HashMap<u32, Vec<u64>> = HashMap::new();
        for place in places.filter(|place| !self.0.contains_key(place)) {
            if let Some(module) = place.module {
                wanted.entry(module).or_default().push(place.offset);
            }
        }
        let symbolizer =
            Symbolizer::builder().enable_code_info(false).enable_inlined_fns(false).build();
        for (number, mut offsets) in wanted {
            offsets.sort_unstable();
            offsets.dedup();
            let names = match modules.get(number as usize) {
                Some(module) => names_in(&symbolizer, &module.image, &offsets),
                None => vec![None; offsets.len()],
            };
            for (offset, name) in offsets.into_iter().zip(names) {
                self.0.insert(Place { module: Some(number), offset }, name);
            }
        }
    }

    /// The frame at `place`, with the name that was looked up.
    pub(crate) fn frame(&self, place: &Place, modules: &[Module]) -> Frame {
        let module = place.module.and_then(|number| modules.get(number as usize));
        Frame {
            function: self.0.get(place).cloned().flatten(),
            module: module.map(|module| module.image.path.clone()),
            offset: place.offset,
            module_state: module.map_or(ModuleState::NoFile, |module| module.state),
        }
    }
}

/// Names at file offsets, in their order.
fn names_in(symbolizer: &Symbolizer, image: &Image, offsets: &[u64]) -> Vec<Option<String>> {
    if let Some(memory) = &image.memory {
        return offsets.iter().map(|&offset| name_in_memory(memory, offset)).collect();
    }
    let Some(file) = &image.file else { return vec![None; offsets.len()] };
    // By the open file and not by its path, at which there may be another one by now.
    let mut elf = Elf::new(PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd())));
    // The symbol table is enough for names, and debug information may be gigabytes.
    elf.debug_syms = false;
    let name = |found: Symbolized<'_>| match found {
        Symbolized::Sym(symbol) => Some(symbol.name.into_owned()),
        Symbolized::Unknown(_) => None,
    };
    match symbolizer.symbolize(&Source::Elf(elf), Input::FileOffset(offsets)) {
        Ok(found) if found.len() == offsets.len() => found.into_iter().map(name).collect(),
        _ => vec![None; offsets.len()],
    }
}

/// The kernel's own code has offsets that are addresses, too.
fn name_in_memory(memory: &[u8], offset: u64) -> Option<String> {
    let file = object::File::parse(memory).ok()?;
    let symbol = file.dynamic_symbols().find(|symbol| {
        let start = symbol.address();
        start <= offset && offset - start < symbol.size()
    })?;
    Some(symbol.name().ok()?.to_owned())
}
