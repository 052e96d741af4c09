//! The door into the state machine. Finds out what a command does; writes nothing.

use crate::{
    Caller, Command, Delta, Effects, Rejection, Reply, Revision, SystemChange, View, alarm, auth, lease, txn, versions,
};
use alloc::vec;

/// Why a command ended early: refused, or the view could not be read.
pub(crate) enum Abort<E> {
    /// The client's fault; the same on every replica.
    Rejected(Rejection),
    /// The view's fault.
    View(E),
}

impl<E> From<Rejection> for Abort<E> {
    fn from(rejection: Rejection) -> Self {
        Self::Rejected(rejection)
    }
}

/// What a part of a command comes to.
pub(crate) type Outcome<T, V> = Result<T, Abort<<V as View>::Error>>;

/// What `command`, asked for by `caller`, does to the state that `view` shows. Deterministic: the same on every replica.
///
/// A command changes nothing or adds exactly one revision. A rejected one has an empty delta.
///
/// # Errors
/// The view's, if a record could not be read. Then nothing is known about the command, and the node must not go on.
pub fn apply<V: View>(view: &V, caller: &Caller, command: &Command) -> Result<Effects, V::Error> {
    match carry_out(view, caller, command) {
        Ok((reply, delta)) => Ok(Effects { reply: Ok(reply), delta }),
        Err(Abort::Rejected(rejection)) => Ok(Effects { reply: Err(rejection), delta: Delta::default() }),
        Err(Abort::View(error)) => Err(error),
    }
}

fn carry_out<V: View>(view: &V, caller: &Caller, command: &Command) -> Outcome<(Reply, Delta), V> {
    auth::authorize(view, caller, command)?;
    alarm::gate(&view.alarms(), command)?;
    match command {
        Command::Txn(txn) => txn::apply(view, txn),
        Command::Compact { revision } => Ok(compact(view, *revision)?),
        Command::LeaseGrant { id, ttl_seconds } => Ok(lease::grant(view, *id, *ttl_seconds)?),
        Command::LeaseRevoke { id } => lease::revoke(view, *id),
        Command::LeaseCheckpoint { remaining } => Ok(lease::checkpoint(view, remaining)),
        Command::MemberPublish { member, attributes } => {
            Ok((Reply::Member, system(SystemChange::MemberSet(*member, attributes.clone()))))
        }
        Command::MemberForget { member } => Ok((Reply::Member, system(SystemChange::MemberRemove(*member)))),
        Command::AlarmActivate(alarm) => Ok(alarm::activate(view, *alarm)),
        Command::AlarmDeactivate(alarm) => Ok(alarm::deactivate(view, *alarm)),
        Command::ClusterVersionSet(version) => Ok(versions::set(view, *version)),
        Command::DowngradeEnable(target) => Ok(versions::enable(view, *target)?),
        Command::DowngradeCancel => Ok(versions::cancel(view)?),
        Command::Auth(command) => Ok(auth::apply(view, command)?),
    }
}

fn compact<V: View>(view: &V, revision: Revision) -> Result<(Reply, Delta), Rejection> {
    // etcd compacts a store that never was at 0: nothing is lost by that.
    if revision == Revision::ZERO && view.compacted() == Revision::ZERO {
        return Ok((Reply::Compact, Delta::default()));
    }
    if revision <= view.compacted() {
        return Err(Rejection::Compacted);
    }
    if revision > view.revision() {
        return Err(Rejection::FutureRevision);
    }
    Ok((Reply::Compact, Delta { compacted: Some(revision), ..Delta::default() }))
}

/// A delta of one change of a small table.
pub(crate) fn system(change: SystemChange) -> Delta {
    Delta { system: vec![change], ..Delta::default() }
}
