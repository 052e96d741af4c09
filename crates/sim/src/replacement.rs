//! One member leaves the cluster and joins it again as a new one, on an empty disk, while everything else goes wrong. Before
//! that it may have lost its disk, or come back although it was removed.

use parking_lot::Mutex;
use quorate_core::MemberId;
use quorate_node::Member;
use std::sync::Arc;
use std::time::Duration;

/// Where the answer to a call will be: nothing yet, no answer in time, or what the node said.
pub type Answer<T> = Arc<Mutex<Option<Option<T>>>>;

/// A replacement that is under way.
pub struct Replacement {
    /// The machine.
    pub machine: usize,
    /// The member that leaves.
    pub old: MemberId,
    /// What was asked last.
    pub stage: Stage,
    /// Why it leaves.
    pub reason: Reason,
}

/// Why a member leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Somebody asked for it.
    Asked,
    /// It had no data any more before it left.
    LostDisk {
        /// Whether it has voted with it.
        voted: bool,
    },
    /// To come back with the disk that it had: it must not be let in.
    ComesBack,
}

/// What a replacement waits for.
pub enum Stage {
    /// Somebody to notice, which takes until then.
    Unnoticed(Duration),
    /// The removal to be acknowledged.
    Removing(Answer<bool>),
    /// The members, since it is not known whether the removal happened.
    AskingRemoved(Answer<Vec<Member>>),
    /// The member, which was started again, to be told that it is removed.
    Returned {
        /// When it was started.
        since: Duration,
        /// Whether it has stopped for that.
        told: bool,
    },
    /// The addition to be acknowledged. The disk is wiped.
    Adding(Answer<bool>),
    /// The members, since it is not known whether the addition happened.
    AskingAdded(Answer<Vec<Member>>),
}

/// What to do next.
pub enum Next {
    /// Nothing has been answered yet.
    Wait,
    /// Ask the cluster for its members.
    Ask,
    /// The old member is still there: ask once more to remove it.
    Remove,
    /// The old member is gone: start it again as if it were not.
    Return,
    /// The old member is gone: wipe the disk and add a new one.
    Wipe,
    /// Ask once more to add.
    Add,
    /// Start the new member.
    Start,
}

impl Replacement {
    /// What follows from what has been answered by now. `url` is the machine's peer URL.
    pub fn next(&self, url: &str, now: Duration) -> Next {
        let gone = if self.reason == Reason::ComesBack { Next::Return } else { Next::Wipe };
        let has_url = |members: &[Member]| members.iter().any(|member| member.peer_urls.iter().any(|u| u == url));
        match &self.stage {
            Stage::Unnoticed(until) if now < *until => Next::Wait,
            Stage::Unnoticed(_) => Next::Remove,
            Stage::Returned { told: false, .. } => Next::Wait,
            Stage::Returned { told: true, .. } => Next::Wipe,
            Stage::Removing(answer) => match *answer.lock() {
                None => Next::Wait,
                Some(Some(true)) => gone,
                Some(Some(false) | None) => Next::Ask,
            },
            Stage::AskingRemoved(answer) => match answer.lock().as_ref() {
                None => Next::Wait,
                Some(None) => Next::Ask,
                // An error; a cluster has members.
                Some(Some(members)) if members.is_empty() => Next::Ask,
                Some(Some(members)) if members.iter().any(|member| member.id == self.old) => Next::Remove,
                Some(Some(_)) => gone,
            },
            Stage::Adding(answer) => match *answer.lock() {
                None => Next::Wait,
                Some(Some(true)) => Next::Start,
                Some(Some(false) | None) => Next::Ask,
            },
            Stage::AskingAdded(answer) => match answer.lock().as_ref() {
                None => Next::Wait,
                Some(None) => Next::Ask,
                Some(Some(members)) if members.is_empty() => Next::Ask,
                Some(Some(members)) if has_url(members) => Next::Start,
                Some(Some(_)) => Next::Add,
            },
        }
    }
}
