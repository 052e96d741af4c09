//! What can go wrong with a call, and what a failure says about the effect of the call.
//!
//! Knows gRPC codes and etcd's texts. Guarantees that a write whose outcome is not certain is never reported as
//! refused, and never judged fit for another attempt.

use std::error::Error as StdError;

use tonic::{Code, ConnectError, Status};

use crate::connector::SPEAKS_TLS;

/// Why a call failed.
///
/// The variants tell apart what a caller does next: correct the request ([`Rejected`](Error::Rejected)), try again
/// later ([`Unavailable`](Error::Unavailable)), or find out first what happened
/// ([`UnknownOutcome`](Error::UnknownOutcome)).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument or option cannot be used. Nothing was sent.
    #[error("{0}")]
    InvalidArgument(String),

    /// A server answered and refused. The call had no effect.
    #[error("{message}")]
    Rejected {
        /// gRPC code of the answer.
        code: Code,
        /// Text of the answer, as etcd words it.
        message: String,
    },

    /// No endpoint did the call before its deadline. A write had no effect; it may be tried again.
    #[error("{message}")]
    Unavailable {
        /// gRPC code of the last failure.
        code: Code,
        /// Text of the last failure.
        message: String,
    },

    /// A write was sent and its answer never came: it may have been applied, may still be, or may be lost.
    ///
    /// The client never sends such a write twice. Read the key to learn what happened, or make the write safe to
    /// repeat with a [`Txn`](crate::Txn) that compares revisions.
    #[error("outcome unknown: {message}")]
    UnknownOutcome {
        /// gRPC code of the failure.
        code: Code,
        /// Text of the failure.
        message: String,
    },

    /// A watch reached revisions that are compacted. Read the keys anew and watch from the revision of that read.
    #[error("etcdserver: mvcc: required revision has been compacted")]
    WatchCompacted {
        /// Oldest revision that can still be watched.
        compact_revision: i64,
    },

    /// The server ended a watch.
    #[error("watch canceled: {reason}")]
    WatchCanceled {
        /// The server's reason.
        reason: String,
    },

    /// A lease has ended, or could not be renewed within its time to live.
    #[error("lease {id:x} lost: {reason}")]
    LeaseLost {
        /// The lease.
        id: i64,
        /// What happened.
        reason: String,
    },
}

impl Error {
    /// gRPC code of the failure, where a server or the transport gave one.
    pub fn code(&self) -> Option<Code> {
        match self {
            Error::Rejected { code, .. } | Error::Unavailable { code, .. } | Error::UnknownOutcome { code, .. } => {
                Some(*code)
            }
            Error::WatchCompacted { .. } => Some(Code::OutOfRange),
            Error::InvalidArgument(_) | Error::WatchCanceled { .. } | Error::LeaseLost { .. } => None,
        }
    }

    /// The revision that was asked for is compacted.
    pub fn is_compacted(&self) -> bool {
        matches!(self, Error::WatchCompacted { .. }) || self.is_rejected_with(text::COMPACTED)
    }

    /// The revision that was asked for does not exist yet.
    pub fn is_future_revision(&self) -> bool {
        self.is_rejected_with(text::FUTURE_REVISION)
    }

    /// The lease does not exist, or no longer.
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Error::LeaseLost { .. }) || self.is_rejected_with(text::LEASE_NOT_FOUND)
    }

    /// The store has reached its quota.
    pub fn is_no_space(&self) -> bool {
        self.is_rejected_with(text::NO_SPACE)
    }

    /// The user lacks a permission.
    pub fn is_permission_denied(&self) -> bool {
        // Locks and elections lose the code.
        self.code() == Some(Code::PermissionDenied) || self.is_rejected_with(text::PERMISSION_DENIED)
    }

    /// A write that may or may not have been applied.
    pub fn is_unknown_outcome(&self) -> bool {
        matches!(self, Error::UnknownOutcome { .. })
    }

    /// The server does not know the call, as with `RangeStream` on an older etcd.
    pub fn is_unimplemented(&self) -> bool {
        self.code() == Some(Code::Unimplemented)
    }

    fn is_rejected_with(&self, text: &str) -> bool {
        matches!(self, Error::Rejected { message, .. } if message == text)
    }

    pub(crate) fn rejected(status: &Status) -> Self {
        Error::Rejected { code: status.code(), message: status.message().to_owned() }
    }

    pub(crate) fn unavailable(status: &Status) -> Self {
        Error::Unavailable { code: status.code(), message: describe(status) }
    }

    /// As [`Self::unavailable`], of an attempt at one endpoint.
    pub(crate) fn unavailable_at(url: &str, status: &Status) -> Self {
        match Self::unavailable(status) {
            // Made by this side, which knows no better than the operating system: that does not say where.
            Error::Unavailable { code, message } if status.source().is_some() && !message.contains(url) => {
                Error::Unavailable { code, message: format!("{url}: {message}") }
            }
            other => other,
        }
    }

    /// As [`Self::unavailable`], with the reason that the server gave when it refused the connection.
    pub(crate) fn refused_connection(status: &Status, reason: String) -> Self {
        Error::Unavailable { code: status.code(), message: reason }
    }

    pub(crate) fn unknown_outcome(status: &Status) -> Self {
        Error::UnknownOutcome { code: status.code(), message: describe(status) }
    }
}

/// Texts of etcd that decide something here.
pub(crate) mod text {
    pub const COMPACTED: &str = "etcdserver: mvcc: required revision has been compacted";
    pub const FUTURE_REVISION: &str = "etcdserver: mvcc: required revision is a future revision";
    pub const LEASE_NOT_FOUND: &str = "etcdserver: requested lease not found";
    pub const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";
    pub const NO_LEADER: &str = "etcdserver: no leader";
    pub const LEARNER: &str = "etcdserver: rpc not supported for learner";
    pub const INVALID_TOKEN: &str = "etcdserver: invalid auth token";
    pub const AUTH_OLD_REVISION: &str = "etcdserver: revision of auth store is old";
    pub const USER_EMPTY: &str = "etcdserver: user name is empty";
    pub const PERMISSION_DENIED: &str = "etcdserver: permission denied";
    pub const AUTH_NOT_ENABLED: &str = "etcdserver: authentication is not enabled";
}

/// What a failed attempt says about the request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The request was never sent or certainly never taken up. Another endpoint may do it.
    NotTaken,
    /// The server looked at the request and refused it. Another attempt would end alike.
    Refused,
    /// The request may have been done, be it now or later.
    Unknown,
}

/// Judges a failed attempt. In doubt the answer is [`Verdict::Unknown`].
pub(crate) fn judge(status: &Status) -> Verdict {
    if let Some(source) = status.source() {
        // Made by the transport, not sent by a server.
        return if is_connect_error(source) || is_refused_before_any_request(source) || is_left_alone(source) {
            Verdict::NotTaken
        } else {
            Verdict::Unknown
        };
    }
    match status.code() {
        // Checked by the server before it does anything else.
        Code::Unavailable if status.message() == text::NO_LEADER => Verdict::NotTaken,
        Code::FailedPrecondition if status.message() == text::LEARNER => Verdict::NotTaken,
        // etcd sends some refusals without their code. Those have its prefix; its timeouts, which have it too, are
        // no refusals.
        Code::Unknown if status.message().starts_with("etcdserver: ") && !status.message().contains("timed out") => {
            Verdict::Refused
        }
        Code::Ok | Code::Cancelled | Code::Unknown | Code::DeadlineExceeded => Verdict::Unknown,
        Code::Aborted | Code::Internal | Code::Unavailable => Verdict::Unknown,
        Code::InvalidArgument | Code::NotFound | Code::AlreadyExists | Code::PermissionDenied => Verdict::Refused,
        Code::ResourceExhausted | Code::FailedPrecondition | Code::OutOfRange => Verdict::Refused,
        Code::Unimplemented | Code::DataLoss | Code::Unauthenticated => Verdict::Refused,
    }
}

/// The failure is about the path to the server or the server's state, so that a read may succeed elsewhere.
pub(crate) fn is_worth_reading_elsewhere(status: &Status) -> bool {
    // The client alone sets deadlines and cancels, so a server that reports one was too slow.
    let path_or_time = matches!(status.code(), Code::Unavailable | Code::DeadlineExceeded | Code::Cancelled);
    status.source().is_some() || path_or_time || judge(status) == Verdict::NotTaken
}

/// The server does not accept the token (or its absence), and a new one may help.
pub(crate) fn is_about_token(message: &str) -> bool {
    [text::INVALID_TOKEN, text::AUTH_OLD_REVISION, text::USER_EMPTY].iter().any(|text| message.ends_with(text))
}

fn is_connect_error(source: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(source);
    while let Some(error) = next {
        if error.is::<ConnectError>() {
            return true;
        }
        next = error.source();
    }
    false
}

/// A server that does not accept a client's certificate may say so only when the client has its first request ready, which
/// the server then never sees. What h2 passes on of an error is its text; hyper calls a request canceled that was still in
/// its hands when the connection ended.
fn is_refused_before_any_request(source: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(source);
    while let Some(error) = next {
        if error.downcast_ref::<hyper::Error>().is_some_and(hyper::Error::is_canceled) || is_refusal(&error.to_string())
        {
            return true;
        }
        next = error.source();
    }
    false
}

/// A server that stops says by `GOAWAY` which requests it has taken up; those that it has not end with this error, as does
/// one that it refuses by `REFUSED_STREAM`. RFC 9113, section 8.7: "this is safe to retry".
fn is_left_alone(source: &(dyn StdError + 'static)) -> bool {
    let mut next = Some(source);
    while let Some(error) = next {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            let reason = error.reason();
            return error.is_remote()
                && (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)
                    || error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM));
        }
        next = error.source();
    }
    false
}

/// Whether an error's text tells of a server that refused the connection, with or without TLS.
pub(crate) fn is_refusal(text: &str) -> bool {
    text.contains(quorate_tls::REFUSED) || text.contains(SPEAKS_TLS)
}

/// The innermost cause says most: "transport error" alone helps nobody.
fn describe(status: &Status) -> String {
    let mut next = status.source();
    let mut innermost = None;
    while let Some(error) = next {
        innermost = Some(error.to_string());
        next = error.source();
    }
    match innermost {
        Some(cause) if cause != status.message() => format!("{}: {cause}", status.message()),
        _ => status.message().to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// The error of the first request of a connection to a server that answers it with these frames and closes.
    async fn answered_with(frames: &[u8]) -> h2::Error {
        const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (mut requests, connection) = h2::client::handshake(ours).await.unwrap();
        tokio::spawn(connection);
        let (answer, _) = requests.send_request(http::Request::new(()), true).unwrap();
        theirs.write_all(EMPTY_SETTINGS).await.unwrap();
        // Preface, settings, and then the request; what follows it is of no interest.
        let (mut read, mut headers) = (Vec::new(), false);
        while !headers {
            read.push(theirs.read_u8().await.unwrap());
            // Type HEADERS, flags END_STREAM and END_HEADERS.
            headers = read.windows(3).any(|window| window == [1, 5, 0]);
        }
        theirs.write_all(frames).await.unwrap();
        drop(theirs);
        answer.await.unwrap_err()
    }

    #[tokio::test]
    async fn what_a_stopping_server_leaves_alone_may_be_tried_elsewhere() {
        const UP_TO_NONE: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        const UP_TO_FIRST: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0];
        const REFUSED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
        const CANCELED: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 8];
        for (frames, expected) in [
            (UP_TO_NONE, Verdict::NotTaken),
            (REFUSED, Verdict::NotTaken),
            // Taken up, and then the connection ended.
            (UP_TO_FIRST, Verdict::Unknown),
            (CANCELED, Verdict::Unknown),
            (&[], Verdict::Unknown),
        ] {
            let error = answered_with(frames).await;
            let text = error.to_string();
            assert_eq!(judge(&Status::from_error(Box::new(error))), expected, "{frames:?}: {text}");
        }
    }

    #[test]
    fn a_refusal_by_the_server_is_final() {
        for (code, message) in [
            (Code::InvalidArgument, "etcdserver: key is not provided"),
            (Code::OutOfRange, text::COMPACTED),
            (Code::ResourceExhausted, text::NO_SPACE),
            (Code::DataLoss, "etcdserver: corrupt cluster"),
            (Code::Unknown, "etcdserver: re-configuration failed due to not enough started members"),
        ] {
            assert_eq!(judge(&Status::new(code, message)), Verdict::Refused, "{message}");
        }
    }

    #[test]
    fn a_server_that_may_have_proposed_the_write_leaves_it_unknown() {
        for (code, message) in [
            (Code::Unavailable, "etcdserver: request timed out"),
            (Code::Unavailable, "etcdserver: request timed out, possibly due to previous leader failure"),
            (Code::Unavailable, "etcdserver: leader changed"),
            (Code::Unavailable, "etcdserver: server stopped"),
            (Code::Unknown, "etcdserver: request timed out, leader transfer took too long"),
            (Code::Unknown, "something else"),
            (Code::DeadlineExceeded, "etcdserver: context deadline exceeded"),
            (Code::Cancelled, "etcdserver: request canceled"),
            (Code::Internal, "stream terminated"),
        ] {
            assert_eq!(judge(&Status::new(code, message)), Verdict::Unknown, "{message}");
        }
    }

    #[test]
    fn only_proof_that_nothing_was_taken_up_allows_another_attempt() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let connect = Status::from_error(Box::new(ConnectError(Box::new(refused))));
        assert_eq!(judge(&connect), Verdict::NotTaken);
        assert_eq!(judge(&Status::unavailable(text::NO_LEADER)), Verdict::NotTaken);
        assert_eq!(judge(&Status::failed_precondition(text::LEARNER)), Verdict::NotTaken);

        let broken = std::io::Error::from(std::io::ErrorKind::BrokenPipe);
        assert_eq!(judge(&Status::from_error(Box::new(broken))), Verdict::Unknown);
    }
}
