//! What the kernel says about a process: texts of procfs and tracefs, records of perf, netlink's answers about RDMA.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pdlab_leak::smaps;
use pdlab_leak::trace::tracefs::Tracepoint;

fuzz_target!(|data: &[u8]| {
    if let Ok(mappings) = smaps::read(data) {
        for mapping in mappings {
            let _ = mapping.len_bytes();
        }
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let _ = smaps::up_to_date(text).flat_map(smaps::sizes).count();
        if let Some(point) = Tracepoint::parse(text) {
            let _ = point.value(data, "addr");
        }
    }
    let _ = Tracepoint::id_of(data);
    pdlab_leak::fuzzing::decode(data);
});
