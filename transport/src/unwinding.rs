//! What must not unwind.

/// Ends the process when it is dropped. A progress thread holds one while a device may write into memory that it owns,
/// which unwinding would free, and forgets it once everything is released.
pub(crate) struct AbortOnDrop;

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        std::process::abort();
    }
}

/// Runs something that must not unwind.
pub(crate) fn or_abort<T>(work: impl FnOnce() -> T) -> T {
    let abort_on_panic = AbortOnDrop;
    let result = work();
    std::mem::forget(abort_on_panic);
    result
}
