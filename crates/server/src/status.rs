//! One table: which gRPC code each failure has. The texts are the failures' own, byte for byte etcd's: clients match on
//! them, and decide on the code whether to try again.

use crate::limits::Limit;
use quorate_core::Rejection;
use quorate_node::Error;
use quorate_sabotage::sabotage;
use tonic::{Code, Status};

/// The answer to a request that failed.
pub fn status(error: &Error) -> Status {
    let code = match error {
        Error::Timeout | Error::TimeoutLeaderFailure | Error::TimeoutConnectionLost
            if sabotage!(FrontTimeoutIsRefusal) =>
        {
            Code::FailedPrecondition
        }
        Error::Rejected(rejection) => return rejected(*rejection),
        Error::NoLeader
        | Error::LeaderChanged
        | Error::Timeout
        | Error::TimeoutLeaderFailure
        | Error::TimeoutConnectionLost
        | Error::TimeoutWaitAppliedIndex
        | Error::Stopped
        | Error::UnhealthyCluster => Code::Unavailable,
        Error::NotLeader
        | Error::NotSupportedForLearner
        | Error::MemberExists
        | Error::PeerUrlExists
        | Error::NotEnoughStartedMembers
        | Error::MemberNotLearner
        | Error::LearnerNotReady
        | Error::TooManyLearners
        | Error::BadLeaderTransferee
        | Error::NotCapable => Code::FailedPrecondition,
        Error::TooManyWaiting => return Limit::Waiting.refusal(),
        Error::TooManyHeavy => return Limit::Heavy.refusal(),
        Error::TooManyProposalBytes => return Limit::ProposalBytes.refusal(),
        Error::MemberBadUrls => Code::InvalidArgument,
        Error::MemberNotFound => Code::NotFound,
        Error::LeaderTransferTimeout => Code::Unknown,
        Error::Rebuild(_) => Code::Unavailable,
        // What happened is for the log; to a client this member is gone, and the next one may do.
        Error::Removed(_) | Error::Fatal(_) => return Status::new(Code::Unavailable, Error::Stopped.to_string()),
    };
    Status::new(code, error.to_string())
}

/// The answer to a request of a lock or an election whose inner request failed: etcd's services for these are clients of
/// their own server, and its codes are lost on the way.
pub fn unknown(inner: Status) -> Status {
    Status::with_metadata(Code::Unknown, inner.message(), inner.metadata().clone())
}

/// The answer to a request that the state machine or a check refused.
pub fn rejected(rejection: Rejection) -> Status {
    let code = match rejection {
        Rejection::EmptyKey
        | Rejection::KeyNotFound
        | Rejection::ValueProvided
        | Rejection::LeaseProvided
        | Rejection::TooManyOps
        | Rejection::DuplicateKey
        | Rejection::InvalidSortOption
        | Rejection::RequestTooLarge
        | Rejection::DowngradeTarget
        | Rejection::UserEmpty
        | Rejection::RoleEmpty
        | Rejection::AuthFailed
        | Rejection::PermissionNotGiven
        | Rejection::InvalidAuthManagement
        | Rejection::AuthOldRevision => Code::InvalidArgument,
        Rejection::Compacted | Rejection::FutureRevision | Rejection::LeaseTtlTooLarge => Code::OutOfRange,
        Rejection::NoSpace => Code::ResourceExhausted,
        Rejection::Corrupt => Code::DataLoss,
        Rejection::LeaseNotFound => Code::NotFound,
        Rejection::LeaseExists
        | Rejection::VersionUnknown
        | Rejection::DowngradeInProcess
        | Rejection::NoDowngrade
        | Rejection::RootUserNotExist
        | Rejection::RootRoleNotExist
        | Rejection::UserAlreadyExists
        | Rejection::UserNotFound
        | Rejection::RoleAlreadyExists
        | Rejection::RoleNotFound
        | Rejection::RoleNotGranted
        | Rejection::PermissionNotGranted
        | Rejection::AuthNotEnabled => Code::FailedPrecondition,
        Rejection::PermissionDenied => Code::PermissionDenied,
        Rejection::InvalidAuthToken => Code::Unauthenticated,
        // etcd forgot it in its table.
        Rejection::NoPasswordUser => Code::Unknown,
    };
    let refusal = Status::new(code, rejection.to_string());
    let bounds = [(Rejection::RequestTooLarge, Limit::RequestBytes), (Rejection::TooManyOps, Limit::TxnOps)];
    match bounds.into_iter().find(|(refused, _)| *refused == rejection) {
        Some((_, limit)) => limit.named_in(refusal),
        None => refusal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Transcribed from etcd's error contract: code number and text.
    #[test]
    fn codes_and_texts_are_etcds() {
        let rejected = Error::Rejected;
        for (error, code, text) in [
            (rejected(Rejection::EmptyKey), 3, "etcdserver: key is not provided"),
            (rejected(Rejection::KeyNotFound), 3, "etcdserver: key not found"),
            (rejected(Rejection::ValueProvided), 3, "etcdserver: value is provided"),
            (rejected(Rejection::LeaseProvided), 3, "etcdserver: lease is provided"),
            (rejected(Rejection::TooManyOps), 3, "etcdserver: too many operations in txn request"),
            (rejected(Rejection::DuplicateKey), 3, "etcdserver: duplicate key given in txn request"),
            (rejected(Rejection::InvalidSortOption), 3, "etcdserver: invalid sort option"),
            (rejected(Rejection::Compacted), 11, "etcdserver: mvcc: required revision has been compacted"),
            (rejected(Rejection::FutureRevision), 11, "etcdserver: mvcc: required revision is a future revision"),
            (rejected(Rejection::NoSpace), 8, "etcdserver: mvcc: database space exceeded"),
            (rejected(Rejection::LeaseNotFound), 5, "etcdserver: requested lease not found"),
            (rejected(Rejection::LeaseExists), 9, "etcdserver: lease already exists"),
            (rejected(Rejection::LeaseTtlTooLarge), 11, "etcdserver: too large lease TTL"),
            (rejected(Rejection::RequestTooLarge), 3, "etcdserver: request is too large"),
            (rejected(Rejection::Corrupt), 15, "etcdserver: corrupt cluster"),
            (rejected(Rejection::DowngradeTarget), 3, "etcdserver: invalid downgrade target version"),
            (rejected(Rejection::VersionUnknown), 9, "etcdserver: cluster version not found during downgrade"),
            (rejected(Rejection::DowngradeInProcess), 9, "etcdserver: cluster has a downgrade job in progress"),
            (rejected(Rejection::NoDowngrade), 9, "etcdserver: no inflight downgrade job"),
            (rejected(Rejection::RootUserNotExist), 9, "etcdserver: root user does not exist"),
            (rejected(Rejection::RootRoleNotExist), 9, "etcdserver: root user does not have root role"),
            (rejected(Rejection::UserAlreadyExists), 9, "etcdserver: user name already exists"),
            (rejected(Rejection::UserEmpty), 3, "etcdserver: user name is empty"),
            (rejected(Rejection::UserNotFound), 9, "etcdserver: user name not found"),
            (rejected(Rejection::RoleAlreadyExists), 9, "etcdserver: role name already exists"),
            (rejected(Rejection::RoleNotFound), 9, "etcdserver: role name not found"),
            (rejected(Rejection::RoleEmpty), 3, "etcdserver: role name is empty"),
            (rejected(Rejection::AuthFailed), 3, "etcdserver: authentication failed, invalid user ID or password"),
            (
                rejected(Rejection::NoPasswordUser),
                2,
                "auth: authentication failed, password was given for no password user",
            ),
            (rejected(Rejection::PermissionNotGiven), 3, "etcdserver: permission not given"),
            (rejected(Rejection::PermissionDenied), 7, "etcdserver: permission denied"),
            (rejected(Rejection::RoleNotGranted), 9, "etcdserver: role is not granted to the user"),
            (rejected(Rejection::PermissionNotGranted), 9, "etcdserver: permission is not granted to the role"),
            (rejected(Rejection::AuthNotEnabled), 9, "etcdserver: authentication is not enabled"),
            (rejected(Rejection::InvalidAuthToken), 16, "etcdserver: invalid auth token"),
            (rejected(Rejection::InvalidAuthManagement), 3, "etcdserver: invalid auth management"),
            (rejected(Rejection::AuthOldRevision), 3, "etcdserver: revision of auth store is old"),
            (Error::MemberExists, 9, "etcdserver: member ID already exist"),
            (Error::PeerUrlExists, 9, "etcdserver: Peer URLs already exists"),
            (
                Error::NotEnoughStartedMembers,
                9,
                "etcdserver: re-configuration failed due to not enough started members",
            ),
            (Error::MemberBadUrls, 3, "etcdserver: given member URLs are invalid"),
            (Error::MemberNotFound, 5, "etcdserver: member not found"),
            (Error::MemberNotLearner, 9, "etcdserver: can only promote a learner member"),
            (Error::LearnerNotReady, 9, "etcdserver: can only promote a learner member which is in sync with leader"),
            (Error::TooManyLearners, 9, "etcdserver: too many learner members in cluster"),
            (Error::NotCapable, 9, "etcdserver: not capable"),
            (Error::TooManyWaiting, 8, "etcdserver: too many requests"),
            (Error::TooManyHeavy, 8, "etcdserver: too many requests"),
            (Error::TooManyProposalBytes, 8, "etcdserver: too many requests"),
            (Error::NoLeader, 14, "etcdserver: no leader"),
            (Error::NotLeader, 9, "etcdserver: not leader"),
            (Error::LeaderChanged, 14, "etcdserver: leader changed"),
            (Error::Stopped, 14, "etcdserver: server stopped"),
            (Error::Timeout, 14, "etcdserver: request timed out"),
            (Error::TimeoutLeaderFailure, 14, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Error::TimeoutConnectionLost, 14, "etcdserver: request timed out, possibly due to connection lost"),
            (
                Error::TimeoutWaitAppliedIndex,
                14,
                "etcdserver: request timed out, waiting for the applied index took too long",
            ),
            (Error::UnhealthyCluster, 14, "etcdserver: unhealthy cluster"),
            (Error::NotSupportedForLearner, 9, "etcdserver: rpc not supported for learner"),
            (Error::BadLeaderTransferee, 9, "etcdserver: bad leader transferee"),
            (Error::LeaderTransferTimeout, 2, "etcdserver: request timed out, leader transfer took too long"),
            (Error::Removed("start with a new data directory".into()), 14, "etcdserver: server stopped"),
            (Error::Fatal("segment 7 is damaged at 4096".into()), 14, "etcdserver: server stopped"),
        ] {
            let status = status(&error);
            assert_eq!((status.code() as i32, status.message()), (code, text), "{error:?}");
        }
    }
}
