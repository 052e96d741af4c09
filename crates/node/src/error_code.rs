//! Node errors as numbers, so that a follower that asked the leader gives its client the leader's error.

use crate::Error;

/// Errors that travel between members. A number is never used again for another error.
const TABLE: &[(u32, Error)] = &[
    (1, Error::NoLeader),
    (2, Error::NotLeader),
    (3, Error::LeaderChanged),
    (4, Error::Timeout),
    (5, Error::TooManyWaiting),
    (6, Error::Stopped),
    (7, Error::MemberExists),
    (8, Error::PeerUrlExists),
    (9, Error::NotEnoughStartedMembers),
    (10, Error::MemberBadUrls),
    (11, Error::MemberNotFound),
    (12, Error::MemberNotLearner),
    (13, Error::LearnerNotReady),
    (14, Error::TooManyLearners),
    (15, Error::UnhealthyCluster),
    (16, Error::BadLeaderTransferee),
    (17, Error::TimeoutWaitAppliedIndex),
    (18, Error::TooManyProposalBytes),
    (19, Error::TooManyHeavy),
];

/// The member was removed.
pub(crate) const REMOVED: u32 = 100;

pub(crate) fn to_code(error: &Error) -> u32 {
    match error {
        Error::Removed(_) => REMOVED,
        Error::NoLeader
        | Error::NotLeader
        | Error::LeaderChanged
        | Error::Timeout
        | Error::TooManyWaiting
        | Error::TooManyHeavy
        | Error::TooManyProposalBytes
        | Error::Stopped
        | Error::MemberExists
        | Error::PeerUrlExists
        | Error::NotEnoughStartedMembers
        | Error::MemberBadUrls
        | Error::MemberNotFound
        | Error::MemberNotLearner
        | Error::LearnerNotReady
        | Error::TooManyLearners
        | Error::UnhealthyCluster
        | Error::BadLeaderTransferee
        | Error::TimeoutWaitAppliedIndex => TABLE.iter().find(|(_, e)| e == error).map_or(0, |(code, _)| *code),
        // Of no use to another member's client, or with a text of its own.
        Error::Rejected(_)
        | Error::TimeoutLeaderFailure
        | Error::TimeoutConnectionLost
        | Error::NotSupportedForLearner
        | Error::NotCapable
        | Error::LeaderTransferTimeout
        | Error::Rebuild(_)
        | Error::Fatal(_) => 0,
    }
}

/// 0 and numbers that this version does not know give `None`.
pub(crate) fn from_code(code: u32) -> Option<Error> {
    TABLE.iter().find(|(c, _)| *c == code).map(|(_, error)| error.clone())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_comes_back() {
        for (code, error) in TABLE {
            assert_eq!(to_code(error), *code);
            assert_eq!(from_code(*code).as_ref(), Some(error));
        }
        assert_eq!(from_code(0), None);
    }
}
