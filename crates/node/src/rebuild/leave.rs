//! The leader gives leave to rebuild: to one member at a time, and only while all others are there, so that the cluster is
//! never short of more than one.

use crate::group::Group;
use crate::membership;
use parking_lot::Mutex;
use std::time::Duration;
use tokio::time::Instant;

/// How long a leave is kept for the member that has it, which stops and comes back meanwhile. When it has begun to pull, that
/// keeps others away.
const LEAVE_KEPT: Duration = Duration::from_secs(60);

/// How long a leader has led before it gives leave: what its predecessor gave shows by then, because the member is gone.
const LEADING_MIN: Duration = Duration::from_secs(5);

/// Who has leave, as far as this member gave it.
#[derive(Default)]
pub(crate) struct Leave {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The term that this member leads, and since when it knows.
    leading: Option<(u64, Instant)>,
    given: Option<(u64, Instant)>,
}

impl Leave {
    /// Asks for `member`. `Err`: why not, or not yet.
    pub(crate) async fn ask(&self, group: &Group, member: u64, election_timeout: Duration) -> Result<(), String> {
        if group.linearize().await.is_err() || !group.role().is_leader {
            return Err("the leader is not known, or has no quorum".into());
        }
        if group.state.doubt().is_some() {
            return Err("the leader is in doubt itself".into());
        }
        let others = membership::members(group).map_err(|error| error.to_string())?;
        let me = group.state.member.get();
        let since = group.raft.since_answer();
        let is_there = |id: u64| id == me || since.get(&id).is_some_and(|ago| *ago <= election_timeout * 2);
        if let Some(absent) = others.iter().find(|other| other.id.get() != member && !is_there(other.id.get())) {
            return Err(format!("member {:x} is not there: a second one must not be missing", absent.id.get()));
        }
        self.give(member, group.role().term, Instant::now())
    }

    fn give(&self, member: u64, term: u64, now: Instant) -> Result<(), String> {
        let mut state = self.state.lock();
        let since = match state.leading {
            Some((led, since)) if led == term => since,
            Some(_) | None => {
                state.leading = Some((term, now));
                now
            }
        };
        if now - since < LEADING_MIN {
            return Err("the leader has just begun to lead".into());
        }
        match state.given {
            Some((other, at)) if other != member && now - at < LEAVE_KEPT => {
                Err(format!("member {other:x} rebuilds itself: one at a time"))
            }
            Some(_) | None => {
                state.given = Some((member, now));
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leave_is_given_to_one_at_a_time_by_a_leader_that_has_led_for_a_while() {
        let leave = Leave::default();
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        assert!(leave.give(1, 7, at(0)).is_err(), "it may not know yet whom its predecessor gave leave");
        assert_eq!(leave.give(1, 7, at(6)), Ok(()));
        assert_eq!(leave.give(1, 7, at(7)), Ok(()), "asked again, since the answer was lost");
        assert!(leave.give(2, 7, at(8)).is_err());
        assert!(leave.give(2, 7, at(66)).is_err());
        assert_eq!(leave.give(2, 7, at(67)), Ok(()));
        assert!(leave.give(2, 9, at(68)).is_err(), "another term is another leadership");
    }
}
