//! Who is in the cluster, and how that changes. Reads come from the applied membership; changes run on the leader.
//!
//! Changes go one after the other, each with its checks, so that two that exclude each other are never both made.
//! A voter is never added outright: it comes as a learner that the leader promotes when it has caught up, so that adding a
//! member that does not start cannot cost the quorum.

use crate::group::Group;
use crate::raft::{MemberNode, ProposeError, RaftMember};
use crate::{Config, Error, Member};
use pb::member_change::Change;
use quorate_core::{Command, MemberAttributes, MemberId};
use quorate_proto::peer_v1 as pb;
use quorate_sabotage::sabotage;
use quorate_storage::Store;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::oneshot;

/// How far a learner's log may lag behind to count as caught up, in percent of the leader's.
const READY_PERCENT: u64 = 90;

/// How often the leader looks for learners that it can promote.
const PROMOTE_INTERVAL: Duration = Duration::from_millis(100);

/// How long a leader that is to be removed tries to hand over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// A member that has answered within so many election timeouts is there.
const ACTIVE_ELECTIONS: u32 = 2;

/// How long to wait for another change to finish.
const BUSY_PAUSE: Duration = Duration::from_millis(50);

/// How long a learner that is to be promoted has to catch up, if it is there.
const LEARNER_PATIENCE: Duration = Duration::from_secs(1);

/// How long whoever asks for a change waits.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(7);

/// The members as applied here, sorted by id.
pub(crate) fn members(group: &Group) -> Result<Vec<Member>, Error> {
    let raft = raft_members(group)?;
    let attributes = told(&group.state.store);
    Ok(raft
        .into_iter()
        .map(|member| {
            let id = MemberId::new(member.id);
            let told = attributes.get(&id);
            Member {
                id,
                name: told.map(|a| a.name.clone()).unwrap_or_default(),
                client_urls: told.map(|a| a.client_urls.clone()).unwrap_or_default(),
                peer_urls: member.node.peer_urls,
                // Whoever asked for a voter sees a voter: that it is still catching up is our business.
                is_learner: !member.voter && !member.node.promote,
            }
        })
        .collect())
}

/// What members have told of themselves.
pub(crate) fn told(store: &Store) -> BTreeMap<MemberId, MemberAttributes> {
    store.members().into_iter().filter(|(_, attributes)| !is_note(attributes)).collect()
}

/// Of a member that is removed before it has told anything there is a note without anything: see [`note`].
fn is_note(attributes: &MemberAttributes) -> bool {
    attributes.data_dir_id == 0
}

fn raft_members(group: &Group) -> Result<Vec<RaftMember>, Error> {
    crate::raft::members_of(&group.state.store.membership()).map_err(|e| Error::Fatal(e.to_string()))
}

/// Changes the membership. Only the leader can. Returns the id of a member that was added, and the log index to wait for.
pub(crate) async fn change(group: &Arc<Group>, config: &Arc<Config>, change: Change) -> Result<(u64, u64), Error> {
    let (told, outcome) = oneshot::channel();
    let turn = Turn { group: Arc::clone(group), config: Arc::clone(config), change, told };
    tokio::spawn(turn.run());
    match tokio::time::timeout(CHANGE_TIMEOUT, outcome).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(_)) => Err(Error::Stopped),
        Err(_) => Err(Error::Timeout),
    }
}

/// One change, from its checks to the entry that carries it out. A task of its own: whoever asked may leave in the midst of it, and
/// the next change must still not be checked before this one is applied, or given up by Raft. Ends with that, at the latest when
/// Raft stops.
struct Turn {
    group: Arc<Group>,
    config: Arc<Config>,
    change: Change,
    told: oneshot::Sender<Result<(u64, u64), Error>>,
}

impl Turn {
    async fn run(self) {
        if let Change::Promote(id) = self.change {
            await_learner(&self.group, &self.config, id).await;
        }
        let _turn = self.group.changing.lock().await;
        let outcome = loop {
            // Nobody waits any more for what has not begun.
            if self.told.is_closed() {
                return;
            }
            match self.attempt().await {
                // Somebody is being promoted, perhaps.
                Ok(None) => tokio::time::sleep(BUSY_PAUSE).await,
                Ok(Some(done)) => break Ok(done),
                Err(error) => break Err(error),
            }
        };
        let _ = self.told.send(outcome);
    }

    /// `None`: another change is under way.
    async fn attempt(&self) -> Result<Option<(u64, u64)>, Error> {
        let (group, config) = (&self.group, &self.config);
        // The checks look at the applied membership: it has to be the newest.
        group.linearize().await?;
        match self.change.clone() {
            Change::Add(add) => self::add(group, config, add).await,
            Change::Remove(id) => Ok(remove(group, config, id).await?.map(|index| (0, index))),
            Change::Update(update) => Ok(self::update(group, update).await?.map(|index| (0, index))),
            Change::Promote(id) => Ok(promote(group, config, id).await?.map(|index| (0, index))),
        }
    }
}

async fn add(group: &Group, config: &Config, add: pb::MemberAdd) -> Result<Option<(u64, u64)>, Error> {
    check_urls(&add.peer_urls)?;
    let now = members(group)?;
    refuse_url_in_use(&now, &add.peer_urls, None)?;
    if add.learner && now.iter().filter(|m| m.is_learner).count() >= config.learners_max {
        return Err(Error::TooManyLearners);
    }
    if !add.learner && config.strict_reconfig_check {
        if !may_add_voter(&now) {
            return Err(Error::NotEnoughStartedMembers);
        }
        let is_active = active(group, config);
        if !now.iter().filter(|m| !m.is_learner).all(|m| is_active(m.id.get())) {
            return Err(Error::UnhealthyCluster);
        }
    }
    let time_s = group.state.env.wall_clock_ms() / 1000;
    let id = crate::bootstrap::member_id(&add.peer_urls, &config.initial_cluster_token, Some(time_s));
    if now.iter().any(|m| m.id.get() == id) || group.state.store.is_forgotten(MemberId::new(id)) {
        return Err(Error::MemberExists);
    }
    let node = MemberNode { peer_urls: add.peer_urls, promote: !add.learner };
    let index = proposed(group.raft.set_nodes(BTreeMap::from([(id, node)]), true).await)?;
    Ok(index.map(|index| (id, index)))
}

/// The voter that is best prepared to lead in place of `me`.
pub(crate) fn heir(group: &Group, me: u64) -> Option<u64> {
    let matching = group.raft.matching();
    let voters = raft_members(group).ok()?.into_iter().filter(|m| m.voter && m.id != me).map(|m| m.id);
    voters.max_by_key(|id| matching.get(id).copied())
}

async fn remove(group: &Group, config: &Config, id: u64) -> Result<Option<u64>, Error> {
    let member = find(group, id)?;
    let me = group.state.member.get();
    if config.strict_reconfig_check && member.voter {
        let now = members(group)?;
        if !may_remove_voter(&now, id) {
            return Err(Error::NotEnoughStartedMembers);
        }
        if !leaves_active_quorum(&now, id, active(group, config)) {
            return Err(Error::UnhealthyCluster);
        }
    }
    if id == me {
        // A leader cannot see its own removal through: another one does it.
        if let Some(heir) = heir(group, me) {
            group.hand_over(heir, HAND_OVER_TIMEOUT).await;
        }
        return Err(Error::NotLeader);
    }
    let Some(index) = take_out(group, &member).await? else { return Ok(None) };
    // From here on its id is never used again, and whoever hears from it tells it that it is gone.
    if !sabotage!(RemovedNotForgotten) {
        group.write(Command::MemberForget { member: MemberId::new(id) }).await?;
    }
    Ok(Some(index))
}

/// The first half of a removal: the membership. Where this leader does not come to the second one, the next does
/// ([`forget_gone`]).
async fn take_out(group: &Group, member: &RaftMember) -> Result<Option<u64>, Error> {
    note(group, MemberId::new(member.id)).await?;
    proposed(group.raft.remove(member.id, member.voter).await)
}

/// Whoever leads next must know that there was this member, even if it has told nothing of itself yet. If it does at this moment,
/// the note may come to stand in place of that: it tells again (`start.rs`, `publish`).
async fn note(group: &Group, member: MemberId) -> Result<(), Error> {
    let known = group.state.store.members().iter().any(|(id, _)| *id == member);
    if known || sabotage!(RemovedNotForgotten) {
        return Ok(());
    }
    group.write(Command::MemberPublish { member, attributes: MemberAttributes::default() }).await.map(drop)
}

async fn update(group: &Group, update: pb::MemberUpdate) -> Result<Option<u64>, Error> {
    let member = find(group, update.id)?;
    check_urls(&update.peer_urls)?;
    refuse_url_in_use(&members(group)?, &update.peer_urls, Some(update.id))?;
    let node = MemberNode { peer_urls: update.peer_urls, ..member.node };
    proposed(group.raft.set_nodes(BTreeMap::from([(update.id, node)]), false).await)
}

async fn promote(group: &Group, config: &Config, id: u64) -> Result<Option<u64>, Error> {
    let member = find(group, id)?;
    if member.voter || member.node.promote {
        return Err(Error::MemberNotLearner);
    }
    if !caught_up(group, id) {
        return Err(Error::LearnerNotReady);
    }
    if config.strict_reconfig_check && !may_add_voter(&members(group)?) {
        return Err(Error::NotEnoughStartedMembers);
    }
    proposed(group.raft.add_voters(BTreeSet::from([id])).await)
}

fn find(group: &Group, id: u64) -> Result<RaftMember, Error> {
    raft_members(group)?.into_iter().find(|m| m.id == id).ok_or(Error::MemberNotFound)
}

fn check_urls(urls: &[String]) -> Result<(), Error> {
    if urls.is_empty() || urls.iter().any(|url| crate::urls::place(url).is_err()) {
        return Err(Error::MemberBadUrls);
    }
    Ok(())
}

fn refuse_url_in_use(members: &[Member], urls: &[String], except: Option<u64>) -> Result<(), Error> {
    let in_use =
        members.iter().filter(|m| Some(m.id.get()) != except).any(|m| m.peer_urls.iter().any(|url| urls.contains(url)));
    if in_use { Err(Error::PeerUrlExists) } else { Ok(()) }
}

/// Tells which members are there, as far as the leader knows.
fn active(group: &Group, config: &Config) -> impl Fn(u64) -> bool + use<> {
    let me = group.state.member.get();
    let answered = group.raft.since_answer();
    let recent = config.election_timeout * ACTIVE_ELECTIONS;
    move |id| id == me || answered.get(&id).is_some_and(|since| *since <= recent)
}

/// etcd's strict check: with one more voter that has not started, do those that have still make a quorum?
fn may_add_voter(members: &[Member]) -> bool {
    let (voters, started) = count(members, None);
    // A cluster of one may grow: there is no other way to two.
    (voters == 1 && started == 1) || started > voters.div_ceil(2)
}

/// Likewise, with one voter less.
fn may_remove_voter(members: &[Member], id: u64) -> bool {
    let (voters, started) = count(members, Some(id));
    voters > 0 && started > voters / 2
}

/// Whether those that answer are a quorum of those that are left when `id` is gone. One that does not answer is no part of the
/// active quorum: it may go in any case.
fn leaves_active_quorum(members: &[Member], id: u64, is_active: impl Fn(u64) -> bool) -> bool {
    let left = members.iter().filter(|m| !m.is_learner && m.id.get() != id);
    let active = left.clone().filter(|m| is_active(m.id.get())).count();
    !is_active(id) || active > left.count() / 2
}

fn count(members: &[Member], except: Option<u64>) -> (usize, usize) {
    let voters = members.iter().filter(|m| !m.is_learner && Some(m.id.get()) != except);
    let started = voters.clone().filter(|m| !m.name.is_empty()).count();
    (voters.count(), started)
}

/// Whether a member may vote: it has nearly the whole log, and the cluster has heard which data directory is its own. If a voter
/// lost its directory before that, nobody could tell the empty one from it, and what it has acknowledged could be lost.
fn caught_up(group: &Group, id: u64) -> bool {
    if !told(&group.state.store).contains_key(&MemberId::new(id)) {
        return false;
    }
    let (last, _) = group.raft.log_position();
    group.raft.matching().get(&id).is_some_and(|matching| *matching * 100 >= last * READY_PERCENT)
}

/// Between a learner's own word that it is ready and the leader's knowing it there is a moment, in which it must not be refused.
/// Waits for that, but for no learner that does not answer.
async fn await_learner(group: &Group, config: &Config, id: u64) {
    let caught_up = async {
        while !caught_up(group, id) && active(group, config)(id) {
            tokio::time::sleep(BUSY_PAUSE).await;
        }
    };
    // Then the promotion is refused.
    let _ = tokio::time::timeout(LEARNER_PATIENCE, caught_up).await;
}

/// The index of a change; `None` if another one is under way.
fn proposed(result: Result<u64, ProposeError>) -> Result<Option<u64>, Error> {
    match result {
        Ok(index) => Ok(Some(index)),
        Err(ProposeError::ChangeInProgress) => Ok(None),
        Err(ProposeError::NotLeader | ProposeError::Unknown) => Err(Error::LeaderChanged),
        Err(ProposeError::Stopped) => Err(Error::Stopped),
        Err(ProposeError::BadChange(reason)) => {
            tracing::warn!(reason, "a membership change was refused");
            Err(Error::UnhealthyCluster)
        }
    }
}

/// Sees membership changes through, on the leader: ends those that a leader before it began, promotes members that were added as
/// voters as they catch up, and forgets those that are gone. Runs until the group is gone itself.
pub(crate) async fn run_promoter(group: Weak<Group>) {
    loop {
        tokio::time::sleep(PROMOTE_INTERVAL).await;
        let Some(group) = group.upgrade() else { return };
        if !group.role().is_leader {
            continue;
        }
        if let Err(error) = end_joint(&group).await {
            tracing::debug!(%error, "cannot end a membership change yet");
        }
        if let Err(error) = promote_ready(&group).await {
            tracing::debug!(%error, "cannot promote a member yet");
        }
        if let Err(error) = forget_gone(&group).await {
            tracing::debug!(%error, "cannot forget a member yet");
        }
    }
}

/// A change of voters has two steps: old and new voters decide together first, then the new ones alone. Of a leader that ends between
/// the two, the first is left, in which the cluster bears less: it needs a quorum of both.
async fn end_joint(group: &Group) -> Result<(), Error> {
    // A change of our own is between its steps, perhaps, or will be behind this.
    let Ok(_turn) = group.changing.try_lock() else { return Ok(()) };
    let is_joint = crate::raft::is_joint(&group.state.store.membership()).map_err(|e| Error::Fatal(e.to_string()))?;
    if is_joint && proposed(group.raft.end_joint().await)?.is_some() {
        tracing::info!("a membership change that an earlier leader began is through");
    }
    Ok(())
}

async fn promote_ready(group: &Arc<Group>) -> Result<(), Error> {
    let waiting = raft_members(group)?.into_iter().filter(|m| !m.voter && m.node.promote);
    for member in waiting.filter(|m| caught_up(group, m.id)) {
        tracing::info!(member = format!("{:x}", member.id), "the new member has caught up: it becomes a voter");
        group.raft.add_voters(BTreeSet::from([member.id])).await.map_err(|_| Error::LeaderChanged)?;
    }
    Ok(())
}

/// Forgets members that are not in the membership any more and are not forgotten yet: their removal was interrupted between
/// the two, or `--force-new-cluster` dropped them.
async fn forget_gone(group: &Arc<Group>) -> Result<(), Error> {
    let there: BTreeSet<u64> = raft_members(group)?.into_iter().map(|member| member.id).collect();
    for (member, _) in group.state.store.members() {
        if !there.contains(&member.get()) && !sabotage!(RemovedNotForgotten) {
            tracing::info!(
                member = format!("{:x}", member.get()),
                "the member is gone for good: its id is not used again"
            );
            group.write(Command::MemberForget { member }).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Node;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_has_told_nothing_is_forgotten_though_its_removal_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), listen_peer_urls: Vec::new(), ..Config::default() };
        let node = Node::start(config).await.unwrap();
        node.wait_ready().await.unwrap();
        let added = node.member_add(vec!["http://127.0.0.1:1".into()], true).await.unwrap().body.0.id;
        let group = node.group();
        let member = find(group, added.get()).unwrap();
        // What a leader does that ends before it has the member forgotten.
        take_out(group, &member).await.unwrap();
        let forgotten = async {
            while !group.state.store.is_forgotten(added) {
                tokio::time::sleep(PROMOTE_INTERVAL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), forgotten).await.expect("whoever leads has it forgotten");
        node.shutdown().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_member_that_is_noted_while_it_tells_who_it_is_tells_it_again() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config { data_dir: dir.path().to_owned(), listen_peer_urls: Vec::new(), ..Config::default() };
        let node = Node::start(config).await.unwrap();
        node.wait_ready().await.unwrap();
        let (group, me) = (node.group(), node.member_id());
        // The note was proposed before the leader had applied what the member tells.
        let attributes = MemberAttributes::default();
        group.write(Command::MemberPublish { member: me, attributes }).await.unwrap();
        assert_eq!(super::members(group).unwrap()[0].name, "", "a note is no name");
        let again = async {
            while super::members(group).unwrap()[0].name != "default" {
                tokio::time::sleep(PROMOTE_INTERVAL).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), again).await.expect("it tells its name again");
        node.shutdown().await;
    }

    fn members(started: usize, unstarted: usize) -> Vec<Member> {
        (0..started + unstarted)
            .map(|i| Member {
                id: MemberId::new(i as u64 + 1),
                name: if i < started { format!("m{i}") } else { String::new() },
                peer_urls: vec![],
                client_urls: vec![],
                is_learner: false,
            })
            .collect()
    }

    #[test]
    fn strict_checks_are_etcds() {
        // (started, unstarted) -> may a voter be added?
        for (started, unstarted, expected) in
            [(1, 0, true), (2, 0, true), (3, 0, true), (3, 1, true), (1, 1, false), (2, 1, false), (2, 2, false)]
        {
            let voters = started + unstarted + 1;
            let etcd = (started == 1 && voters == 2) || started > voters / 2;
            assert_eq!(etcd, expected, "the table itself, {started} {unstarted}");
            assert_eq!(may_add_voter(&members(started, unstarted)), expected, "{started} started, {unstarted} not");
        }
        assert!(!may_remove_voter(&members(1, 0), 1), "the last one");
        assert!(may_remove_voter(&members(3, 0), 1));
        assert!(!may_remove_voter(&members(2, 1), 1), "the other has not started");
        assert!(may_remove_voter(&members(2, 1), 3));
    }

    #[test]
    fn who_answers_is_not_removed_if_the_others_could_not_decide() {
        // (voters, how many of them answer) -> may one that answers be removed?
        for (voters, answering, expected) in
            [(1, 1, false), (2, 2, true), (3, 3, true), (3, 2, false), (4, 3, true), (5, 3, false), (5, 4, true)]
        {
            let is_active = |id: u64| id <= answering;
            assert_eq!(leaves_active_quorum(&members(voters, 0), 1, is_active), expected, "{answering} of {voters}");
            assert!(
                leaves_active_quorum(&members(voters, 0), answering + 1, is_active),
                "one that is away, of {voters}"
            );
        }
    }
}
