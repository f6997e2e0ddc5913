use std::io::Write;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use super::*;
use crate::layout::Class;

/// A child that ends with the test, whatever happens.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A process that is up (it has echoed a line) and now waits, for ever.
fn idle() -> Reaped {
    let mut child =
        Reaped(Command::new("cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap());
    child.0.stdin.as_mut().unwrap().write_all(b"up\n").unwrap();
    let mut echo = [0; 3];
    child.0.stdout.as_mut().unwrap().read_exact(&mut echo).unwrap();
    child
}

/// What `seen` gives once it gives something: within ten seconds, or the test fails.
fn wait_for<T>(seen: impl Fn() -> Option<T>) -> T {
    (0..1000)
        .find_map(|_| {
            let value = seen();
            if value.is_none() {
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            value
        })
        .expect("within ten seconds")
}

/// Held by tests that change this process's own memory by much.
static OWN_MEMORY: Mutex<()> = Mutex::new(());

#[test]
fn our_own_memory_is_read_and_grows_by_what_is_touched() {
    let _alone = OWN_MEMORY.lock().unwrap();
    let own = Watched::open(std::process::id()).unwrap();
    let before = own.read().unwrap();
    let touched = vec![1u8; 32 << 20];
    let after = own.read().unwrap();
    assert!(after.rss_bytes >= before.rss_bytes + (24 << 20), "{before:?} {after:?}");
    assert!(after.anonymous_bytes >= before.anonymous_bytes + (24 << 20));
    assert!(after.vm_bytes >= after.rss_bytes && after.rss_bytes >= after.anonymous_bytes);
    assert!(after.threads >= 1 && after.fds >= 3);
    drop(touched);
}

#[test]
fn a_glance_sees_the_same_process_without_a_walk() {
    let child = idle();
    let watched = Watched::open(child.0.id()).unwrap();
    let (read, glance) = (watched.read().unwrap(), watched.glance().unwrap());
    // The counters lag by up to 64 pages per processor.
    let lag = 64 * 4096 * std::thread::available_parallelism().unwrap().get() as u64;
    assert!(glance.rss_bytes.abs_diff(read.rss_bytes) <= lag, "{glance:?} {read:?}");
    assert!(glance.anonymous_bytes.abs_diff(read.anonymous_bytes) <= lag, "{glance:?} {read:?}");
    assert_eq!((glance.vm_bytes, glance.threads), (read.vm_bytes, read.threads));
    assert_eq!(glance.pss_bytes, 0, "only a walk tells");
}

#[test]
fn another_program_in_the_same_process_is_another_image() {
    // The shell becomes cat once it has read a line.
    let mut child = Reaped(
        Command::new("sh")
            .args(["-c", "read line; echo up; exec cat"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap(),
    );
    let watched = Watched::open(child.0.id()).unwrap();
    // From here on it is the shell and no copy of this test; but `spawn` returns as soon as the old memory is left, which
    // may be before the kernel has noted where the new program lies.
    let shell = wait_for(|| watched.image());
    assert_eq!(watched.image(), Some(shell), "nothing has changed");
    child.0.stdin.as_mut().unwrap().write_all(b"go\n").unwrap();
    wait_for(|| watched.image().filter(|image| *image != shell));
    child.0.kill().unwrap();
    child.0.wait().unwrap();
    assert_eq!(watched.image(), None);
    assert!(matches!(watched.glance(), Err(SampleError::Gone { .. })));
}

#[test]
fn a_layout_names_the_pool_and_adds_up_to_the_rss() {
    let child = idle();
    let watched = Watched::open(child.0.id()).unwrap();
    // The echo is written; soon nothing changes any more.
    let mut stable = (watched.read().unwrap(), watched.layout(None).unwrap());
    for _ in 0..100 {
        let again = (watched.read().unwrap(), watched.layout(None).unwrap());
        if again == stable {
            break;
        }
        stable = again;
    }
    assert_eq!(stable.1.total_bytes(), stable.0.rss_bytes);
    assert!(stable.1.bytes(Class::Files) > 0 && stable.1.bytes(Class::Stacks) > 0, "{stable:?}");
}

#[test]
fn a_gentle_layout_is_the_same_layout() {
    let child = idle();
    let watched = Watched::open(child.0.id()).unwrap();
    // The echo is written; soon nothing changes any more.
    let same =
        (0..100).any(|_| watched.layout(None).unwrap() == watched.survey_gently().unwrap().layout);
    assert!(same, "{:?} {:?}", watched.layout(None), watched.survey_gently());
}

#[test]
fn the_pool_is_cut_out_of_a_larger_mapping_by_the_page_table() {
    let _alone = OWN_MEMORY.lock().unwrap();
    // A mapping of its own, of which the first half is touched; the "pool" is the middle half.
    let mib = 1usize << 20;
    let mut memory: Vec<u8> = Vec::with_capacity(64 * mib);
    memory.resize(32 * mib, 7);
    let base = (memory.as_ptr() as u64 + 16 * mib as u64).next_multiple_of(4096);
    let pool = Range { base, len_bytes: 32 * mib as u64 };
    let own = Watched::open(std::process::id()).unwrap();
    let bytes = own.layout(Some(pool)).unwrap().bytes(Class::KvPool);
    // Transparent huge pages may have filled up to 2 MiB more.
    assert!((15 << 20..=19 << 20).contains(&bytes), "{bytes}");
    drop(memory);
}

#[test]
fn a_process_that_never_was_is_gone() {
    for pid in [u32::MAX, 0x3fff_ffff] {
        let error = Watched::open(pid).unwrap_err();
        assert!(matches!(error, SampleError::Gone { pid: p } if p == pid), "{error}");
    }
}

#[test]
fn a_process_that_ends_is_gone_as_zombie_and_after() {
    let mut child = idle();
    let watched = Watched::open(child.0.id()).unwrap();
    child.0.kill().unwrap();
    // It becomes a zombie soon, and stays one until it is waited for.
    let error = loop {
        match watched.read() {
            Ok(_) => std::thread::yield_now(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, SampleError::Gone { .. }), "{error}");
    assert!(matches!(watched.layout(None), Err(SampleError::Gone { .. })));
    child.0.wait().unwrap();
    assert!(matches!(watched.read(), Err(SampleError::Gone { .. })));
}

#[test]
fn every_errno_has_its_meaning() {
    let denied = from_io(7, "smaps", io::Error::from_raw_os_error(13)).to_string();
    assert!(denied.contains("/proc/7/smaps") && denied.contains("CAP_SYS_PTRACE"), "{denied}");
    assert!(matches!(
        from_io(7, "smaps", io::Error::from_raw_os_error(3)),
        SampleError::Gone { pid: 7 }
    ));
    assert!(matches!(
        from_io(7, "smaps", io::Error::from_raw_os_error(5)),
        SampleError::Read { .. }
    ));
}

#[test]
fn a_sum_that_leaves_mappings_out_is_found_out() {
    let counters = Memory { rss_bytes: 165 << 20, threads: 6, vm_bytes: 7, ..Memory::default() };
    let rollup =
        "400000-7fff0000 ---p 00000000 00:00 0    [rollup]\nRss:  18432 kB\nAnonymous: 9216 kB\n";
    let torn = summed(rollup, counters).unwrap();
    assert_eq!((torn.rss_bytes, torn.anonymous_bytes, torn.vm_bytes), (18 << 20, 9 << 20, 7));
    assert!(!is_whole(&torn, &counters));
    // Six threads keep 64 pages each to themselves.
    let late = Memory { rss_bytes: (165 << 20) - 6 * 64 * procfs::page_size(), ..torn };
    assert!(is_whole(&late, &counters));
    let mappings = "1000-2000 r--p 00000000 00:00 0 /lib/a\nRss: 4 kB\nPss: 2 kB\nVmFlags: rd\n\
                    3000-9000 rw-p 00000000 00:00 0\nRss: 24 kB\nPss: 24 kB\nAnonymous: 24 kB\n";
    let whole = summed(mappings, counters).unwrap();
    assert_eq!((whole.rss_bytes, whole.pss_bytes, whole.anonymous_bytes), (28672, 26624, 24576));
    assert_eq!(summed("", counters), None, "a process that has ended");
}

#[test]
fn a_span_is_as_resident_as_its_pages_and_lies_in_one_class() {
    let _alone = OWN_MEMORY.lock().unwrap();
    const MIB: u64 = 1 << 20;
    let own = Watched::open(std::process::id()).unwrap();
    // Large enough to be a mapping of its own; zeroes are not touched before they are written.
    let mut memory = vec![0u8; 64 << 20];
    let page = procfs::page_size();
    let start = (memory.as_ptr() as u64).next_multiple_of(page);
    memory[..16 << 20].iter_mut().step_by(page as usize).for_each(|byte| *byte = 1);
    let whole = Span { start, end: start + 63 * MIB };
    let told = Told { regions: vec![Range { base: start, len_bytes: 8 * MIB }], ..Told::default() };
    let survey = own.survey(&told).unwrap();
    let nowhere = Span { start: page, end: 2 * page };
    let resident = own.resident(&survey, &[&[whole], &[nowhere], &[]]);
    assert_eq!(resident[0][&Class::Registered], 8 * MIB);
    let rest = resident[0][&Class::Anonymous];
    // Huge pages come whole.
    assert!((7 * MIB..=12 * MIB).contains(&rest), "{rest}");
    assert!(resident[1].is_empty() && resident[2].is_empty());
    assert_eq!(survey.layout.bytes(Class::Registered), 8 * MIB);
    drop(memory);
}
