//! Which version the cluster speaks, and the way back to the one before. The version is state like any other: it rises when
//! the leader has heard that every member knows it, and what came with a version may be proposed only from then on.

use crate::apply::system;
use crate::{ClusterVersion, ClusterVersions, Command, Delta, Rejection, Reply, SystemChange, View};

/// Sets the version that all members have.
pub(crate) fn set<V: View>(view: &V, current: ClusterVersion) -> (Reply, Delta) {
    change(view, ClusterVersions { current: Some(current), ..view.versions() })
}

/// Begins a downgrade.
pub(crate) fn enable<V: View>(view: &V, target: ClusterVersion) -> Result<(Reply, Delta), Rejection> {
    check_downgrade(view, target)?;
    Ok(change(view, ClusterVersions { target: Some(target), ..view.versions() }))
}

/// Ends a downgrade, whether it is through or not.
pub(crate) fn cancel<V: View>(view: &V) -> Result<(Reply, Delta), Rejection> {
    match view.versions().target {
        Some(_) => Ok(change(view, ClusterVersions { target: None, ..view.versions() })),
        None => Err(Rejection::NoDowngrade),
    }
}

fn change<V: View>(view: &V, to: ClusterVersions) -> (Reply, Delta) {
    let delta = if to == view.versions() { Delta::default() } else { system(SystemChange::VersionsSet(to)) };
    (Reply::Versions(to), delta)
}

/// Whether a downgrade to `target` may begin: it is the minor version just below, and none is under way.
///
/// # Errors
/// [`Rejection::VersionUnknown`], [`Rejection::DowngradeTarget`], [`Rejection::DowngradeInProcess`], looked for in this
/// order, as in etcd.
pub fn check_downgrade<V: View>(view: &V, target: ClusterVersion) -> Result<(), Rejection> {
    let versions = view.versions();
    let current = versions.current.ok_or(Rejection::VersionUnknown)?;
    if current.before() != Some(target) {
        return Err(Rejection::DowngradeTarget);
    }
    if versions.target.is_some() { Err(Rejection::DowngradeInProcess) } else { Ok(()) }
}

impl Command {
    /// Whether every member must be known to understand the command before it is proposed, which is so once the cluster has
    /// a version: builds from before there were versions cannot decode it, and would stop at the log entry.
    pub fn needs_cluster_version(&self) -> bool {
        match self {
            Self::DowngradeEnable(_) | Self::DowngradeCancel | Self::Auth(_) => true,
            // It is what says that all members know it: whoever proposes it has asked them.
            Self::ClusterVersionSet(_)
            | Self::Txn(_)
            | Self::Compact { .. }
            | Self::LeaseGrant { .. }
            | Self::LeaseRevoke { .. }
            | Self::LeaseCheckpoint { .. }
            | Self::MemberPublish { .. }
            | Self::MemberForget { .. }
            | Self::AlarmActivate(_)
            | Self::AlarmDeactivate(_) => false,
        }
    }
}
