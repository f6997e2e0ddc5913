//! Stacks as tests want them.

use crate::trace::{CallKind, Frame, ModuleState, Span, TracedStack};

/// Frames from `FUNCTION@MODULE`, innermost first; either part may be missing.
pub(crate) fn frames(texts: &[&str]) -> Vec<Frame> {
    let frame = |(i, text): (usize, &&str)| {
        let (function, module) = text.split_once('@').unwrap_or((text, ""));
        let some = |text: &str| (!text.is_empty()).then(|| text.to_string());
        Frame {
            function: some(function),
            module: some(module).map(|module| format!("/usr/lib/{module}")),
            offset: 0x1000 + i as u64,
            module_state: if module.is_empty() {
                ModuleState::NoFile
            } else {
                ModuleState::Present
            },
        }
    };
    texts.iter().enumerate().map(frame).collect()
}

/// The stack of UCX 1.19.0 that grows its invalidation queue.
pub(crate) const INVALIDATION_QUEUE: &[&str] = &[
    "syscall@libc.so.6",
    "ucm_orig_mmap_syscall@libucm.so.0.0.0",
    "ucs_rcache_mp_chunk_alloc@libucs.so.0.0.0",
    "ucs_mpool_grow@libucs.so.0.0.0",
    "ucs_mpool_get_grow@libucs.so.0.0.0",
    "ucs_rcache_unmapped_callback@libucs.so.0.0.0",
    "ucm_event_dispatch@libucm.so.0.0.0",
    "ucm_munmap@libucm.so.0.0.0",
    "munmap@libc.so.6",
    "app::churn@app",
    "main@app",
];

/// A stack that has mapped `spans`.
pub(crate) fn traced(texts: &[&str], spans: &[(u64, u64)]) -> TracedStack {
    let spans: Vec<Span> = spans.iter().map(|&(start, end)| Span { start, end }).collect();
    TracedStack {
        frames: frames(texts),
        kind: CallKind::Mmap,
        live_bytes: spans.iter().map(Span::len_bytes).sum(),
        maps: spans.len() as u64,
        spans,
        estimated: false,
    }
}
