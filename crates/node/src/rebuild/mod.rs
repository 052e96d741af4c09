//! A member whose data are wrong or damaged rebuilds itself from the others.
//!
//! - [`Keeper`] finds out: a row is damaged (a read or the [scrubber](crate::scrub) met it), or CORRUPT is raised for this
//!   member and a comparison with the others confirms it. The member then leaves service, hands leadership over, asks the leader
//!   for leave, and stops with [`Error::Rebuild`].
//! - At the next start, before it takes part, [`pull`] replaces its storage engine by a snapshot of another member.
//! - Back in service, the [`Keeper`] compares again, and clears CORRUPT for this member if a majority has the same data.
//!
//! INVARIANT(rebuild-keeps-log): a rebuild touches neither the vote nor what the log holds beyond the new state. Whatever this
//! member has acknowledged is afterwards in its log or in the state, so a quorum that counted on it may go on counting.
//!
//! One member at a time, and only while all others are there ([`Leave`]); at most [`ATTEMPTS_MAX`] times in a row.

mod leave;
mod pull;
mod record;

pub(crate) use leave::Leave;
pub(crate) use pull::{Outgoing, Pulls, fit_log, pull};
pub(crate) use record::Record;

use crate::corruption::{self, Hashing, Verdict};
use crate::env::Env;
use crate::group::Group;
use crate::{Config, EngineKind, Error, membership};
use pb::request::Kind as Ask;
use pb::response::Kind as Answer;
use quorate_core::{Alarm, AlarmKind, Command};
use quorate_proto::peer_v1 as pb;
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Rebuilds in a row: a disk that damages what is written to it is not helped by writing more.
pub(crate) const ATTEMPTS_MAX: u32 = 3;

/// In service for so long after a rebuild, the member is well, and the count begins anew.
const WELL_AFTER: Duration = Duration::from_secs(3600);

/// How often the keeper looks.
const TICK: Duration = Duration::from_millis(500);

/// How long it waits before it compares again.
const COMPARE_PAUSE: Duration = Duration::from_secs(5);

/// How long a leader in doubt waits for another to take over.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the leader may take to give leave.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a member with this configuration rebuilds itself at all.
pub(crate) fn is_on(config: &Config) -> bool {
    config.self_rebuild && config.engine != EngineKind::Memory
}

/// Writes down that the member in `config.data_dir` has to rebuild itself before it takes part again.
///
/// # Errors
/// [`Error::Fatal`]: it has done so too often already, or the disk fails.
pub(crate) fn make_due(config: &Config, env: &dyn Env, why: &str, peer_urls: Vec<String>) -> Result<(), Error> {
    let before = Record::read(&config.data_dir, env)?.unwrap_or_default();
    if before.attempts >= ATTEMPTS_MAX {
        return Err(Error::Fatal(format!(
            "{}: {why}. The member has rebuilt itself {ATTEMPTS_MAX} times already, and does not try again: check the disk; then \
             remove the member (`quorate member remove`), add it again (`quorate member add`), and start it with an empty data \
             directory and --initial-cluster-state existing",
            config.data_dir.display()
        )));
    }
    let record = Record { attempts: before.attempts + 1, due: Some(why.to_owned()), peer_urls };
    record.write(&config.data_dir, env)
}

/// Watches over this member's data while it runs. Ends with the group.
pub(crate) struct Keeper {
    group: Weak<Group>,
    hashing: Hashing,
    config: Arc<Config>,
    env: Arc<dyn Env>,
    stopped: watch::Sender<Option<Error>>,
    /// Rebuilds in a row before this start; 0: none.
    attempts: u32,
    started: Instant,
    next_compare: Instant,
    told: String,
}

impl Keeper {
    /// A task that was not started.
    pub(crate) fn new(
        group: &Arc<Group>,
        hashing: Hashing,
        config: Arc<Config>,
        env: Arc<dyn Env>,
        stopped: watch::Sender<Option<Error>>,
        attempts: u32,
    ) -> Self {
        let now = Instant::now();
        let (group, told) = (Arc::downgrade(group), String::new());
        Self { group, hashing, config, env, stopped, attempts, started: now, next_compare: now, told }
    }

    pub(crate) async fn run(mut self) {
        loop {
            tokio::time::sleep(TICK).await;
            let Some(group) = self.group.upgrade() else { return };
            let outcome = self.look(&group).await;
            if let Err(error) = outcome {
                self.tell(&error.to_string());
            }
        }
    }

    async fn look(&mut self, group: &Arc<Group>) -> Result<(), Error> {
        if let Some(why) = group.state.doubt() {
            let why = why.to_owned();
            return self.leave(group, &why).await;
        }
        if let Some(damage) = group.state.store.damage() {
            return self.on_damage(group, damage).await;
        }
        if group.state.store.alarms().contains(&alarm(group)) && Instant::now() >= self.next_compare {
            self.next_compare = Instant::now() + COMPARE_PAUSE;
            return self.on_alarm(group).await;
        }
        if self.attempts > 0 && self.started.elapsed() >= WELL_AFTER {
            self.attempts = 0;
            Record::remove(&self.config.data_dir, self.env.as_ref())?;
        }
        Ok(())
    }

    /// Says the same thing once.
    fn tell(&mut self, text: &str) {
        if self.told != text {
            tracing::warn!(text, "this member cannot put its data right yet");
            text.clone_into(&mut self.told);
        }
    }

    /// A row is damaged: with others there, leave service; alone, say so.
    async fn on_damage(&mut self, group: &Arc<Group>, damage: String) -> Result<(), Error> {
        if self.may_rebuild(group)? {
            group.state.set_doubt(damage);
            return Ok(());
        }
        let alarm = alarm(group);
        if group.state.store.alarms().contains(&alarm) {
            return Ok(());
        }
        tracing::error!(
            damage,
            "data of this member are damaged, and it does not rebuild itself: raising CORRUPT. With other members: remove this \
             one and add it again with an empty data directory. Alone: restore a snapshot, or read what can be read, and begin \
             anew"
        );
        group.write(Command::AlarmActivate(alarm)).await.map(drop)
    }

    /// Somebody says that this member's data are wrong: whether that is so, and whether it has been put right, the others
    /// tell. Without a majority that agrees, nothing is known, and the alarm stays.
    async fn on_alarm(&mut self, group: &Arc<Group>) -> Result<(), Error> {
        let me = group.state.member;
        match corruption::compare_now(group, &self.hashing).await? {
            Verdict::Wrong(wrong) if wrong.contains(&me) && self.may_rebuild(group)? => {
                group.state.set_doubt("its data differ from those of a majority of the members".into());
            }
            Verdict::Wrong(_) => {}
            Verdict::Equal { members } => {
                let quorum = membership::members(group)?.len() / 2 + 1;
                if self.attempts > 0 && members >= quorum {
                    tracing::info!(
                        members,
                        "the data of this member are those of the majority again: clearing CORRUPT"
                    );
                    group.write(Command::AlarmDeactivate(alarm(group))).await?;
                }
            }
        }
        Ok(())
    }

    fn may_rebuild(&self, group: &Group) -> Result<bool, Error> {
        let alone = membership::members(group)?.len() <= 1;
        Ok(is_on(&self.config) && !alone && self.attempts < ATTEMPTS_MAX)
    }

    /// Ends this life of the member, once the leader gives leave.
    async fn leave(&mut self, group: &Arc<Group>, why: &str) -> Result<(), Error> {
        let (me, role) = (group.state.member, group.role());
        if role.is_leader {
            // Who leads decides what the others get: it must not be one that is in doubt.
            let heir = membership::heir(group, me.get()).ok_or(Error::NoLeader)?;
            group.hand_over(heir, HAND_OVER_TIMEOUT).await;
            return Ok(());
        }
        let leader = role.leader.ok_or(Error::NoLeader)?;
        let ask = Ask::Rebuild(pb::RebuildRequest { member_id: me.get() });
        let answer = group.peers().call(leader, group.state.group, ask, ASK_TIMEOUT).await;
        match answer {
            Ok(Answer::Rebuild(reply)) if reply.refusal.is_empty() => {}
            Ok(Answer::Rebuild(reply)) => {
                self.tell(&reply.refusal);
                return Ok(());
            }
            Ok(_) => return Err(Error::Fatal("the leader gave another answer than leave to rebuild".into())),
            Err(error) => {
                self.tell(&error.to_string());
                return Ok(());
            }
        }
        let others = membership::members(group)?.into_iter().filter(|member| member.id != me);
        make_due(&self.config, self.env.as_ref(), why, others.flat_map(|member| member.peer_urls).collect())?;
        crate::start::stop(&self.stopped, Error::Rebuild(format!("the member rebuilds itself from the others: {why}")));
        Ok(())
    }
}

fn alarm(group: &Group) -> Alarm {
    Alarm { member: group.state.member, kind: AlarmKind::Corrupt }
}
