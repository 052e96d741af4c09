//! Finding members whose data differ: what checksums cannot see, because whoever wrote it was wrong. Members compare hashes of
//! their history, at equal revisions.
//!
//! - When it starts, a member compares itself with its peers before it takes part ([`check_at_start`]).
//! - Now and then, and after each compaction, the leader compares all members ([`CorruptionChecks`]) and raises CORRUPT
//!   for those that differ from the majority.
//!
//! Reads everything, so it is slow: a check works at its leisure on a thread of its own, and holds up nothing but the removal
//! of what compaction has made unreadable.

mod hash;
mod start;
mod verdict;

pub(crate) use hash::Hashing;
pub(crate) use start::check_at_start;
pub(crate) use verdict::Verdict;

use crate::Error;
use crate::group::Group;
use crate::membership;
use futures::future::join_all;
use pb::request::Kind as Ask;
use pb::response::Kind as PeerAnswer;
use quorate_core::{Alarm, AlarmKind, Command, MemberId, Revision};
use quorate_proto::peer_v1 as pb;
use quorate_storage::HashKv;
use std::sync::Weak;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;
use verdict::judge;

/// How long the others may take to hash what they have.
const HASH_TIMEOUT: Duration = Duration::from_secs(900);

/// How often the leader looks whether a check is due, at most.
const TICK: Duration = Duration::from_secs(1);

/// When the leader compares all members.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    /// How often, at the newest revision. Zero: never.
    pub interval: Duration,
    /// How often it looks whether there was a compaction, and then compares at its revision. Zero: never.
    pub compaction_interval: Duration,
}

/// The task that compares all members while this one leads. Ends with the group.
pub(crate) struct CorruptionChecks {
    group: Weak<Group>,
    hashing: Hashing,
    schedule: Schedule,
    last: Instant,
    last_compaction: Instant,
    /// The compaction that was compared last.
    compared: Revision,
}

impl CorruptionChecks {
    /// A task that was not started.
    pub(crate) fn new(group: Weak<Group>, hashing: Hashing, schedule: Schedule) -> Self {
        let now = Instant::now();
        Self { group, hashing, schedule, last: now, last_compaction: now, compared: Revision::ZERO }
    }

    pub(crate) async fn run(mut self) {
        let intervals = [self.schedule.interval, self.schedule.compaction_interval];
        let Some(shortest) = intervals.into_iter().filter(|interval| !interval.is_zero()).min() else { return };
        loop {
            tokio::time::sleep(shortest.min(TICK)).await;
            let Some(group) = self.group.upgrade() else { return };
            let Some(revision) = self.due(&group) else { continue };
            if !group.role().is_leader {
                continue;
            }
            if let Err(error) = check(&group, &self.hashing, revision).await {
                tracing::info!(%error, revision = revision.get(), "could not compare the data of the members");
            }
        }
    }

    /// The revision to compare at now. A member that does not lead keeps the time, and finds no more to do when it leads than
    /// there is.
    fn due(&mut self, group: &Group) -> Option<Revision> {
        let store = &group.state.store;
        let is_due = |last: Instant, interval: Duration| !interval.is_zero() && last.elapsed() >= interval;
        if is_due(self.last, self.schedule.interval) {
            self.last = Instant::now();
            return Some(store.revision());
        }
        if is_due(self.last_compaction, self.schedule.compaction_interval) {
            self.last_compaction = Instant::now();
            let compacted = store.compacted();
            if compacted > self.compared {
                self.compared = compacted;
                return Some(compacted);
            }
        }
        None
    }
}

/// What a comparison found: the hash of this member, those of the others that answered, and what follows.
struct Compared {
    own: HashKv,
    found: Vec<(MemberId, HashKv)>,
    members: usize,
    verdict: Verdict,
}

/// Compares this member with all others, as they are now.
///
/// # Errors
/// There is no quorum, or this member cannot be read.
pub(crate) async fn compare_now(group: &Group, hashing: &Hashing) -> Result<Verdict, Error> {
    let compared = compare(group, hashing, group.state.store.revision()).await?;
    Ok(compared.map_or(Verdict::Equal { members: 1 }, |compared| compared.verdict))
}

/// `None` if there is nobody else.
async fn compare(group: &Group, hashing: &Hashing, revision: Revision) -> Result<Option<Compared>, Error> {
    // A leader that was deposed and does not know it yet has nobody to compare with.
    group.linearize().await?;
    let me = group.state.member;
    let others: Vec<MemberId> = membership::members(group)?.into_iter().map(|m| m.id).filter(|id| *id != me).collect();
    if others.is_empty() {
        return Ok(None);
    }
    let asked = join_all(others.iter().map(|id| ask(group, *id, revision)));
    let (own, answers) = tokio::join!(hashing.gently(revision), asked);
    let own = own?;
    let found: Vec<(MemberId, HashKv)> =
        others.iter().zip(answers).filter_map(|(id, answer)| Some((*id, answer?))).collect();
    let members = others.len() + 1;
    let verdict = judge(me, own, &found, members);
    Ok(Some(Compared { own, found, members, verdict }))
}

/// Compares all members at `revision`, and raises the alarm for those that are wrong.
async fn check(group: &Group, hashing: &Hashing, revision: Revision) -> Result<(), Error> {
    let Some(Compared { own, found, members: all, verdict }) = compare(group, hashing, revision).await? else {
        return Ok(());
    };
    let figures = &group.state.figures;
    figures.corruption_checks.fetch_add(1, Ordering::Relaxed);
    match verdict {
        Verdict::Equal { members } => {
            let all = members == all;
            tracing::info!(revision = revision.get(), members, all, "the data of the members are equal");
        }
        Verdict::Wrong(wrong) => {
            figures.corruption_found.fetch_add(1, Ordering::Relaxed);
            for member in wrong {
                raise(group, member, own, &found).await?;
            }
        }
    }
    Ok(())
}

/// The hash of another member; `None` if it has none to compare.
async fn ask(group: &Group, member: MemberId, revision: Revision) -> Option<HashKv> {
    let request = Ask::Hash(pb::HashRequest { revision: revision.get(), at_once: false });
    match group.peers().call(member.get(), group.state.group, request, HASH_TIMEOUT).await {
        Ok(PeerAnswer::Hash(reply)) => Some(of_reply(&reply)),
        Ok(_) => None,
        Err(error) => {
            let member = format!("{:x}", member.get());
            tracing::info!(member, %error, revision = revision.get(), "no hash of a member to compare");
            None
        }
    }
}

async fn raise(group: &Group, member: MemberId, own: HashKv, found: &[(MemberId, HashKv)]) -> Result<(), Error> {
    let alarm = Alarm { member, kind: AlarmKind::Corrupt };
    let others: Vec<String> = found.iter().map(|(id, kv)| format!("{:x}={:08x}", id.get(), kv.hash)).collect();
    tracing::error!(
        member = format!("{:x}", member.get()),
        revision = own.hash_revision.get(),
        leader = format!("{:x}={:08x}", group.state.member.get(), own.hash),
        others = others.join(" "),
        "the data of a member differ from the others' (member 0: it is not known whose are right): raising CORRUPT"
    );
    if group.state.store.alarms().contains(&alarm) {
        return Ok(());
    }
    group.write(Command::AlarmActivate(alarm)).await.map(drop)
}

fn of_reply(reply: &pb::HashReply) -> HashKv {
    HashKv {
        hash: reply.hash,
        compact_revision: Revision::new(reply.compact_revision),
        hash_revision: Revision::new(reply.revision),
    }
}

/// As it travels.
pub(crate) fn to_reply(hash: HashKv) -> pb::HashReply {
    pb::HashReply { hash: hash.hash, compact_revision: hash.compact_revision.get(), revision: hash.hash_revision.get() }
}
