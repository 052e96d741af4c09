//! Alarms: raising and clearing them, and what they forbid.

use crate::apply::system;
use crate::{Alarm, AlarmKind, Command, Delta, Op, Rejection, Reply, SystemChange, Txn, View};
use alloc::vec;
use alloc::vec::Vec;

/// Refuses what the raised alarms forbid. NOSPACE forbids what takes space, so that deletes, compaction and revokes can
/// win it back; CORRUPT forbids every change of keys and leases by a client. Reads, members, users and alarms themselves
/// always pass.
pub(crate) fn gate(alarms: &[Alarm], command: &Command) -> Result<(), Rejection> {
    if alarms.is_empty() {
        return Ok(());
    }
    let raised = |kind| alarms.iter().any(|alarm| alarm.kind == kind);
    let (takes_space, changes) = match command {
        Command::Txn(txn) => (has_put(txn), !txn.is_read_only()),
        Command::LeaseGrant { .. } => (true, true),
        Command::Compact { .. } | Command::LeaseRevoke { .. } => (false, true),
        Command::LeaseCheckpoint { .. }
        | Command::MemberPublish { .. }
        | Command::MemberForget { .. }
        | Command::AlarmActivate(_)
        | Command::AlarmDeactivate(_)
        | Command::ClusterVersionSet(_)
        | Command::DowngradeEnable(_)
        | Command::DowngradeCancel
        | Command::Auth(_) => (false, false),
    };
    if changes && raised(AlarmKind::Corrupt) {
        return Err(Rejection::Corrupt);
    }
    if takes_space && raised(AlarmKind::NoSpace) {
        return Err(Rejection::NoSpace);
    }
    Ok(())
}

/// Whether any branch holds a put, as etcd has it: which branch would run is not asked. Unlike in etcd, puts of nested
/// transactions count too, or they would be a way around the quota.
fn has_put(txn: &Txn) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        Op::Put(_) => true,
        Op::Txn(nested) => has_put(nested),
        Op::Range(_) | Op::DeleteRange(_) => false,
    })
}

/// Raises an alarm. One that is raised already is answered the same and changes nothing.
pub(crate) fn activate<V: View>(view: &V, alarm: Alarm) -> (Reply, Delta) {
    let delta = if view.alarms().contains(&alarm) { Delta::default() } else { system(SystemChange::AlarmSet(alarm)) };
    (Reply::Alarm(vec![alarm]), delta)
}

/// Clears an alarm. The reply is empty if it was not raised.
pub(crate) fn deactivate<V: View>(view: &V, alarm: Alarm) -> (Reply, Delta) {
    if view.alarms().contains(&alarm) {
        (Reply::Alarm(vec![alarm]), system(SystemChange::AlarmRemove(alarm)))
    } else {
        (Reply::Alarm(Vec::new()), Delta::default())
    }
}
