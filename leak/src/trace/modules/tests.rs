use super::super::maps::Maps;
use super::*;

fn code(start: u64, end: u64, inode: u64) -> Code {
    Code { start, end, file_offset: 0x1000, inode, path: format!("/nowhere/{inode}") }
}

fn at(modules: &Modules, address: u64) -> Option<(u32, u64)> {
    let place = modules.place(address);
    Some((place.module?, place.offset))
}

#[test]
fn code_that_is_mapped_over_other_code_takes_its_place() {
    let mut modules = Modules::new(std::process::id());
    modules.add(&code(0x10_000, 0x20_000, 1));
    modules.add(&code(0x14_000, 0x18_000, 2));
    assert_eq!(at(&modules, 0x13_fff), Some((0, 0x4fff)));
    assert_eq!(at(&modules, 0x14_000), Some((1, 0x1000)));
    assert_eq!(at(&modules, 0x18_010), Some((0, 0x9010)));
    assert_eq!(at(&modules, 0x20_000), None);
    modules.set(&[code(0x14_000, 0x18_000, 2)]);
    assert_eq!((at(&modules, 0x13_fff), at(&modules, 0x14_000)), (None, Some((1, 0x1000))));
    assert_eq!(modules.mapped_images(), [1]);
    assert_eq!(modules.images().len(), 2, "a file stays known when it is unmapped");
    // The same file elsewhere is the same file.
    modules.add(&code(0x90_000, 0x91_000, 1));
    assert_eq!(at(&modules, 0x90_000), Some((0, 0x1000)));
}

#[test]
fn code_in_no_file_has_an_address_and_nothing_else() {
    let mut modules = Modules::new(std::process::id());
    modules.add(&Code { path: String::new(), ..code(0x1000, 0x2000, 0) });
    modules.add(&code(0x3000, 0x2000, 5));
    assert_eq!(modules.place(0x1800), Place { module: None, offset: 0x1800 });
}

#[test]
fn our_own_files_are_found_and_have_unwind_tables() {
    let maps = Maps::read(std::io::BufReader::new(File::open("/proc/self/maps").unwrap())).unwrap();
    let mut modules = Modules::new(std::process::id());
    modules.set(&maps.code);
    let ours = modules.images().iter().find(|image| image.path.contains("pdlab_leak")).unwrap();
    assert!(ours.file.is_some());
    let sections = Sections::read(ours).expect("a test binary is ELF");
    assert!(sections.info.eh_frame.is_some_and(|bytes| !bytes.is_empty()));
    let vdso = modules.images().iter().find(|image| image.path == VDSO).unwrap();
    assert!(vdso.memory.is_some() && Sections::read(vdso).is_some());
}
