//! Which version the members have agreed on, and the way back to the one before. The leader asks all members which version
//! they have, and says in the log what all of them know. What came with a version is proposed only from then on, so that
//! members of two builds stay in step.

use crate::group::Group;
use crate::{Answer, Error, Node, membership};
use futures::future::join_all;
use pb::request::Kind as Ask;
use pb::response::Kind as PeerAnswer;
use quorate_core::{ClusterVersion, ClusterVersions, Command, Rejection, check_downgrade};
use quorate_proto::peer_v1 as pb;
use std::sync::Weak;
use std::time::Duration;

/// The version of etcd's API that this build speaks.
pub const API_VERSION: ClusterVersion = ClusterVersion { major: 3, minor: 6 };

/// How long a member may take to tell its version.
const TIMEOUT: Duration = Duration::from_secs(1);

/// How often the leader looks while nothing is agreed on yet.
const FIRST_LOOKS: Duration = Duration::from_millis(200);

/// How long a request that needs an agreement waits for it, right after a start.
const AGREE_TIMEOUT: Duration = Duration::from_secs(3);

/// What to do about a downgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Downgrade {
    /// Tell whether it could begin.
    Validate(ClusterVersion),
    /// Begin.
    Enable(ClusterVersion),
    /// Stay with the version that there was.
    Cancel,
}

/// The task that keeps the agreement current. Ends with the group.
pub(crate) struct VersionMonitor {
    group: Weak<Group>,
    interval: Duration,
}

impl VersionMonitor {
    /// A monitor that was not started.
    pub(crate) fn new(group: Weak<Group>, interval: Duration) -> Self {
        Self { group, interval }
    }

    pub(crate) async fn run(self) {
        let mut pause = FIRST_LOOKS;
        loop {
            tokio::time::sleep(pause).await;
            let Some(group) = self.group.upgrade() else { return };
            if group.role().is_leader
                && let Err(error) = look(&group).await
            {
                tracing::debug!(%error, "cannot agree on a cluster version yet");
            }
            let agreed = group.state.store.versions().current.is_some();
            pause = if agreed { self.interval } else { FIRST_LOOKS };
        }
    }
}

async fn look(group: &Group) -> Result<(), Error> {
    let now = group.state.store.versions();
    if now == (ClusterVersions { current: Some(API_VERSION), target: None }) {
        // No member can have less than what all have, and more than this leader's own is not for it to say.
        return Ok(());
    }
    let Some(command) = decide(now, &member_versions(group).await?) else { return Ok(()) };
    tracing::info!(?command, "the members agree on a cluster version");
    group.write(command).await.map(drop)
}

/// The version of each member; `None`: it does not answer, or is of a build that does not tell.
async fn member_versions(group: &Group) -> Result<Vec<Option<ClusterVersion>>, Error> {
    let asked = membership::members(group)?.into_iter().map(|member| async move {
        if member.id == group.state.member {
            return Some(API_VERSION);
        }
        let ask = Ask::Status(pb::StatusRequest {});
        match group.peers().call(member.id.get(), group.state.group, ask, TIMEOUT).await {
            Ok(PeerAnswer::Status(status)) if status.api_major > 0 => {
                Some(ClusterVersion { major: status.api_major, minor: status.api_minor })
            }
            Ok(_) | Err(_) => None,
        }
    });
    Ok(join_all(asked).await)
}

/// What the leader proposes when the members have these versions.
fn decide(now: ClusterVersions, members: &[Option<ClusterVersion>]) -> Option<Command> {
    if let Some(target) = now.target {
        return if members.iter().all(|version| *version == Some(target)) {
            Some(Command::DowngradeCancel)
        } else {
            (now.current != Some(target)).then_some(Command::ClusterVersionSet(target))
        };
    }
    let known: Option<Vec<ClusterVersion>> = members.iter().copied().collect();
    let common = known?.into_iter().min()?;
    now.current.is_none_or(|current| current < common).then_some(Command::ClusterVersionSet(common))
}

impl Group {
    /// The version that the members have agreed on. Waits a little for it: a cluster that has just started agrees at once.
    pub(crate) async fn cluster_version(&self) -> Result<ClusterVersion, Error> {
        let store = &self.state.store;
        let mut applied = self.state.watch_applied();
        let agreed = applied.wait_for(|_| store.versions().current.is_some());
        // Whether it came in time is seen below.
        let _ = tokio::time::timeout(AGREE_TIMEOUT, agreed).await;
        store.versions().current.ok_or(Error::NotCapable)
    }
}

impl Node {
    /// Asks about a downgrade, begins or ends it. Answers with the version that the cluster has.
    ///
    /// # Errors
    /// [`Rejection::DowngradeTarget`], [`Rejection::DowngradeInProcess`], [`Rejection::NoDowngrade`];
    /// [`Rejection::VersionUnknown`] if the members have not agreed on a version; as [`Node::txn`].
    pub async fn downgrade(&self, request: Downgrade) -> Result<Answer<ClusterVersion>, Error> {
        self.refuse_on_learner()?;
        self.check_root()?;
        let group = self.group();
        let version = group.cluster_version().await.map_err(|_| Rejection::VersionUnknown)?;
        group.linearize().await?;
        let command = match request {
            Downgrade::Validate(target) => {
                check_downgrade(&group.state.store.view(), target)?;
                None
            }
            Downgrade::Enable(target) => Some(Command::DowngradeEnable(target)),
            Downgrade::Cancel => Some(Command::DowngradeCancel),
        };
        if let Some(command) = command {
            self.write(command).await?;
        }
        Ok(Answer { header: self.header(), body: version })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(minor: u32) -> ClusterVersion {
        ClusterVersion { major: 3, minor }
    }

    #[test]
    fn the_version_rises_to_what_all_members_have() {
        let none = ClusterVersions::default();
        let six = ClusterVersions { current: Some(version(6)), target: None };
        let set = |minor| Some(Command::ClusterVersionSet(version(minor)));
        assert_eq!(decide(none, &[Some(version(6)), None]), None, "one does not tell");
        assert_eq!(decide(none, &[Some(version(6)), Some(version(7))]), set(6));
        assert_eq!(decide(six, &[Some(version(6)), Some(version(7))]), None);
        assert_eq!(decide(six, &[Some(version(7)), Some(version(7))]), set(7));
        assert_eq!(decide(six, &[Some(version(5)), Some(version(6))]), None, "it falls by a downgrade only");
    }

    #[test]
    fn a_downgrade_lowers_the_version_and_ends_when_all_members_have_it() {
        let begun = ClusterVersions { current: Some(version(6)), target: Some(version(5)) };
        let lowered = ClusterVersions { current: Some(version(5)), ..begun };
        let set = Some(Command::ClusterVersionSet(version(5)));
        assert_eq!(decide(begun, &[Some(version(6)), None]), set);
        assert_eq!(decide(lowered, &[Some(version(6)), Some(version(5))]), None);
        assert_eq!(decide(lowered, &[Some(version(5)), None]), None);
        assert_eq!(decide(lowered, &[Some(version(5)), Some(version(5))]), Some(Command::DowngradeCancel));
    }
}
