//! Flags that make a role leak on purpose. Two consents are asked for, so that a copied command
//! line cannot make a real service leak.

use clap::Args;
use pdlab_api::fault::FaultKind;
use pdlab_api::ready::Role;

use crate::exit::Failure;

/// The second consent, beside the option.
const ALLOW: &str = "PDLAB_ALLOW_FAULTS";

/// Mistakes to make on purpose.
#[derive(Debug, Clone, Args)]
pub(crate) struct FaultArgs {
    /// Make a mistake on purpose, for leak detection to find (repeatable; needs PDLAB_ALLOW_FAULTS=1)
    #[arg(long = "fault", value_name = "KIND")]
    faults: Vec<FaultKind>,
}

impl FaultArgs {
    /// The mistakes that `role` is to make, each once.
    pub(crate) fn of(&self, role: Role) -> Result<Vec<FaultKind>, Failure> {
        let allowed = std::env::var(ALLOW).is_ok_and(|value| value == "1");
        check(&self.faults, role, allowed)
    }
}

fn check(faults: &[FaultKind], role: Role, allowed: bool) -> Result<Vec<FaultKind>, Failure> {
    if let Some(first) = faults.first().filter(|_| !allowed) {
        return Err(Failure::bad_input(format!(
            "--fault {first} makes this process leak or misbehave on purpose: it {}. That is for \
             testing leak detection only; set {ALLOW}=1 if you want it",
            first.mistake()
        )));
    }
    if let Some(foreign) = faults.iter().find(|fault| fault.role() != role) {
        let whose = foreign.role();
        return Err(Failure::bad_input(format!(
            "--fault {foreign} is a mistake of {whose}, not of {role}: give it to `pdlab {whose}`"
        )));
    }
    let mut faults = faults.to_vec();
    faults.sort_unstable();
    faults.dedup();
    Ok(faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(outcome: Result<Vec<FaultKind>, Failure>) -> String {
        match outcome {
            Err(Failure::BadInput(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn nothing_is_wrong_unless_asked_for_twice() {
        let faults = [FaultKind::RkeyKept, FaultKind::RegionKept, FaultKind::RkeyKept];
        assert_eq!(check(&[], Role::Decode, false).unwrap(), []);
        assert_eq!(
            check(&faults, Role::Decode, true).unwrap(),
            [FaultKind::RegionKept, FaultKind::RkeyKept]
        );
        let message = refusal(check(&faults, Role::Decode, false));
        assert!(message.contains("rkey-kept") && message.contains(ALLOW), "{message}");
    }

    #[test]
    fn a_fault_goes_to_the_role_that_can_make_it() {
        let message = refusal(check(&[FaultKind::Mute], Role::Decode, true));
        assert!(message.contains("pdlab prefill"), "{message}");
    }
}
