//! From registers and a copied stack to places in the code.

use super::super::super::modules::Modules;
use super::super::super::stacks::Place;
use super::super::record::UserStack;

/// The stack, innermost first.
pub(super) fn unwind(modules: &mut Modules, stack: &UserStack, max_frames: usize) -> Vec<Place> {
    #[cfg(target_arch = "aarch64")]
    let regs = framehop::UnwindRegsNative::new(stack.lr, stack.sp, stack.fp);
    #[cfg(not(target_arch = "aarch64"))]
    let regs = framehop::UnwindRegsNative::new(stack.ip, stack.sp, stack.fp);
    let word = |address: u64| {
        let at = usize::try_from(address.checked_sub(stack.sp).ok_or(())?).map_err(|_| ())?;
        let bytes = stack.bytes.get(at..at.checked_add(8).ok_or(())?).ok_or(())?;
        Ok(u64::from_ne_bytes(bytes.try_into().map_err(|_| ())?))
    };
    modules.unwind(regs, stack.ip, max_frames, word)
}
