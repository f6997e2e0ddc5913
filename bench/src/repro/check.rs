//! What must hold at the end of every run: requests flowed, KV bytes moved and were right, and
//! everything was given back. Pure.

use pdlab_api::ready::Role;
use pdlab_api::snapshot::Snapshot;
use pdlab_leak::scenario::Expect;

use super::cell::Requests;
use crate::cluster::End;

/// Faults in what was done: `last` are the snapshots of all roles after the drain. What `due`
/// expects to go wrong is none, but a corrupt block that was served always is.
pub fn conservation(requests: &Requests, last: &[Snapshot], due: Option<&Expect>) -> Vec<String> {
    let decodes = || last.iter().filter(|snapshot| snapshot.role == Role::Decode);
    let verified: u64 = decodes().map(|snapshot| snapshot.work.blocks_verified).sum();
    let corrupt: u64 = decodes().map(|snapshot| snapshot.work.corrupt_blocks).sum();
    let transfers: u64 = decodes().map(|snapshot| snapshot.work.transfers).sum();
    let corrupt_transfers: u64 = decodes().map(|snapshot| count(snapshot, CORRUPT)).sum();
    let mut faults = Vec::new();
    if requests.completed == 0 {
        faults.push("no request was answered".to_owned());
    }
    if verified == 0 {
        faults.push(
            "no KV block was verified: nothing moved from prefill to decode, so this was no \
             disaggregated serving"
                .to_owned(),
        );
    }
    let allowed = due.map_or(0, |due| due.corrupt_max);
    if corrupt > allowed {
        faults.push(format!("{corrupt} KV blocks did not hold what they must"));
    }
    // Every request of a scenario that is about corrupt reads needs one that was right.
    let right = transfers.saturating_sub(corrupt_transfers);
    if corrupt > 0 && requests.completed > right {
        faults.push(format!(
            "{} requests were answered, but only {right} reads were right: corrupt KV was served",
            requests.completed
        ));
    }
    faults
}

/// Reads that decodes count as refused by the other side, as corrupt, or as having had no memory to go to.
pub fn refused(last: &[Snapshot]) -> u64 {
    let decodes = last.iter().filter(|snapshot| snapshot.role == Role::Decode);
    let kinds = [CORRUPT, REFUSED, UNREGISTERED];
    decodes.map(|snapshot| kinds.map(|kind| count(snapshot, kind)).iter().sum::<u64>()).sum()
}

/// What decode calls a read whose blocks did not hold what they must.
const CORRUPT: &str = "corrupt_transfer";

/// What decode calls a read that failed, whatever the reason.
const REFUSED: &str = "transfer";

/// What decode calls a read whose buffer could not be registered.
const UNREGISTERED: &str = "registration";

fn count(snapshot: &Snapshot, failure: &str) -> u64 {
    snapshot.failures.get(failure).copied().unwrap_or(0)
}

/// Failures that were counted and do not spoil the measurement, in words.
pub fn failures(requests: &Requests, labels: &[String], last: &[Snapshot]) -> Vec<String> {
    let mut remarks = Vec::new();
    if requests.failed > 0 {
        let total = requests.failed + requests.completed;
        remarks.push(format!("{} of {total} requests failed", requests.failed));
    }
    remarks.extend(requests.errors.iter().map(|(error, count)| format!("{count}x {error}")));
    for (label, snapshot) in labels.iter().zip(last) {
        let transport = snapshot.transport.iter().flat_map(|transport| &transport.failures);
        for (kind, count) in snapshot.failures.iter().chain(transport) {
            if *count > 0 {
                remarks.push(format!("{label} counted {count} of {kind}"));
            }
        }
    }
    remarks
}

/// Roles that did not end as they should, in words.
pub fn ends(labels: &[String], ends: &[End]) -> Vec<String> {
    let odd = labels.iter().zip(ends).filter_map(|(label, end)| match end {
        End::Exited(status) if status.success() => None,
        End::Exited(status) => Some(format!("{label} ended with {status} after SIGTERM")),
        End::Killed => Some(format!("{label} did not end after SIGTERM and was killed")),
    });
    odd.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pdlab_leak::verdict::VerdictKind;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    fn decode(blocks_verified: u64, corrupt_blocks: u64) -> Snapshot {
        let mut snapshot = Snapshot::new(Role::Decode, 1);
        snapshot.work.blocks_verified = blocks_verified;
        snapshot.work.corrupt_blocks = corrupt_blocks;
        snapshot
    }

    fn answered(completed: u64, failed: u64) -> Requests {
        Requests { completed, failed, ..Requests::default() }
    }

    #[test]
    fn a_run_that_moved_and_verified_blocks_has_no_fault() {
        let router = Snapshot::new(Role::Router, 2);
        let faults = conservation(&answered(5, 1), &[decode(0, 0), decode(7, 0), router], None);
        assert_eq!(faults, [""; 0]);
    }

    #[test]
    fn what_did_not_happen_is_a_fault() {
        let faults = |requests, last: &[Snapshot]| conservation(&requests, last, None);
        assert_eq!(faults(answered(0, 9), &[decode(1, 0)]), ["no request was answered"]);
        assert!(faults(answered(9, 0), &[decode(0, 0)])[0].contains("no KV block"));
        let corrupt = faults(answered(9, 0), &[decode(5, 2), decode(5, 1)]);
        assert_eq!(corrupt[0], "3 KV blocks did not hold what they must");
    }

    #[test]
    fn corrupt_reads_are_forgiven_where_they_are_due_and_never_when_served() {
        let due = Expect { corrupt_max: 50, ..Expect::new(VerdictKind::Clean, -1.0, 1.0) };
        let mut late = decode(80, 32);
        late.work.transfers = 7;
        late.failures =
            [(CORRUPT.to_owned(), 2), (REFUSED.to_owned(), 2), (UNREGISTERED.to_owned(), 1)].into();
        let faults = |completed, due| {
            conservation(&answered(completed, 5), std::slice::from_ref(&late), due)
        };
        assert_eq!(faults(5, Some(&due)), [""; 0]);
        assert!(faults(6, Some(&due))[0].contains("only 5 reads were right"));
        assert!(faults(5, None)[0].contains("32 KV blocks did not hold"));
        let stricter = Expect { corrupt_max: 31, ..due.clone() };
        assert_eq!(faults(5, Some(&stricter)).len(), 1);
        assert_eq!(refused(&[late.clone(), Snapshot::new(Role::Prefill, 2)]), 5);
    }

    #[test]
    fn failures_are_told_with_their_messages() {
        let mut requests = answered(90, 10);
        requests.errors.insert("HTTP 503".into(), 10);
        assert_eq!(failures(&requests, &[], &[]), ["10 of 100 requests failed", "10x HTTP 503"]);
        let mut prefill = Snapshot::new(Role::Prefill, 1);
        prefill.failures = [("kv_expired".to_owned(), 2), ("handshake".to_owned(), 0)].into();
        let told = failures(&answered(90, 0), &["prefill-0".to_owned()], &[prefill]);
        assert_eq!(told, ["prefill-0 counted 2 of kv_expired"]);
    }

    #[test]
    fn odd_ends_are_told() {
        let labels = ["a", "b", "c"].map(str::to_owned);
        let segv = ExitStatus::from_raw(11);
        let told =
            ends(&labels, &[End::Exited(ExitStatus::from_raw(0)), End::Exited(segv), End::Killed]);
        assert_eq!(told.len(), 2);
        assert!(told[0].starts_with("b ended with signal: 11"), "{}", told[0]);
        assert!(told[1].starts_with("c did not end"), "{}", told[1]);
    }
}
