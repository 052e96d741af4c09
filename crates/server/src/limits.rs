//! Admission: how many requests and how many of their bytes are under way at once. Beyond a bound a request is refused
//! before anything of it is kept. Knows numbers, not protocols.

use std::ops::Deref;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tonic::Status;
use tonic::metadata::MetadataValue;

/// The name of the metadata that names the option.
const LIMIT: &str = "quorate-limit";

/// etcd's text.
const TOO_MANY: &str = "etcdserver: too many requests";

/// A bound that refuses requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Limit {
    /// Requests and streams at a time.
    Requests,
    /// Bytes of requests being read and carried out.
    InflightBytes,
    /// Bytes of large answers to reads that wait to be sent.
    AnswerBytes,
    /// Leases that exist.
    Leases,
    /// Bytes of one request.
    RequestBytes,
    /// Operations in one list of a transaction.
    TxnOps,
    /// Bytes of writes under way.
    ProposalBytes,
    /// Writes that wait to be taken up, or reads that wait for the leader.
    Waiting,
    /// Requests that read everything.
    Heavy,
    /// Passwords that are hashed or verified, or wait for it.
    LoginQueue,
    /// Watchers of this member.
    Watchers,
    /// Watchers of one stream.
    WatchersPerStream,
}

impl Limit {
    /// All of them, in the order of their discriminants.
    pub const ALL: [Self; 12] = [
        Self::Requests,
        Self::InflightBytes,
        Self::AnswerBytes,
        Self::Leases,
        Self::RequestBytes,
        Self::TxnOps,
        Self::ProposalBytes,
        Self::Waiting,
        Self::Heavy,
        Self::LoginQueue,
        Self::Watchers,
        Self::WatchersPerStream,
    ];

    /// The option that sets it.
    pub const fn flag(self) -> &'static str {
        match self {
            Self::Requests => "max-concurrent-requests",
            Self::InflightBytes => "max-inflight-bytes",
            Self::AnswerBytes => "max-answer-bytes",
            Self::Leases => "max-leases",
            Self::RequestBytes => "max-request-bytes",
            Self::TxnOps => "max-txn-ops",
            Self::ProposalBytes => "max-proposal-bytes",
            Self::Waiting => "max-waiting-requests",
            Self::Heavy => "max-heavy-tasks",
            Self::LoginQueue => "max-login-queue",
            Self::Watchers => "max-watchers",
            Self::WatchersPerStream => "max-watchers-per-stream",
        }
    }

    /// The refusal of a request for which there is no place.
    pub fn refusal(self) -> Status {
        self.named_in(Status::resource_exhausted(TOO_MANY))
    }

    /// A refusal that names the option. Clients match on etcd's text, so that it is beside the text, in the metadata.
    pub fn named_in(self, mut refusal: Status) -> Status {
        refusal.metadata_mut().insert(LIMIT, MetadataValue::from_static(self.flag()));
        refusal
    }

    /// The one that a refusal names.
    pub fn of(refusal: &Status) -> Option<Self> {
        let flag = refusal.metadata().get(LIMIT)?;
        Self::ALL.into_iter().find(|limit| *flag == limit.flag())
    }

    /// The one that refused a watcher, whose reason names the option.
    pub fn of_watcher(reason: &str) -> Option<Self> {
        [Self::Watchers, Self::WatchersPerStream]
            .into_iter()
            .find(|limit| reason.ends_with(&format!("(--{})", limit.flag())))
    }
}

/// A number that must stay at or below a bound.
#[derive(Debug)]
pub struct Gauge {
    used: AtomicUsize,
    max: usize,
}

impl Gauge {
    /// Starts at 0.
    pub fn new(max: usize) -> Self {
        Self { used: AtomicUsize::new(0), max }
    }

    /// How much is taken now.
    pub fn used(&self) -> usize {
        self.used.load(Relaxed)
    }

    /// Whether nothing more can be taken.
    pub fn is_full(&self) -> bool {
        self.used() >= self.max
    }

    /// Takes `amount`, unless that goes beyond the bound.
    pub fn take<G: Deref<Target = Self>>(this: G, amount: usize) -> Option<Taken<G>> {
        // Adding first and looking then is one atomic step; too much is given back at once.
        let (before, taken) = Self::add(this, amount);
        (before.saturating_add(amount) <= taken.gauge.max).then_some(taken)
    }

    /// Takes `amount`, unless that goes beyond the bound and there is something else.
    pub fn take_or_be_alone<G: Deref<Target = Self>>(this: G, amount: usize) -> Option<Taken<G>> {
        let (before, taken) = Self::add(this, amount);
        (before == 0 || before.saturating_add(amount) <= taken.gauge.max).then_some(taken)
    }

    /// Takes `amount`, bound or not; gives how much there was.
    pub fn add<G: Deref<Target = Self>>(this: G, amount: usize) -> (usize, Taken<G>) {
        let before = this.used.fetch_add(amount, Relaxed);
        (before, Taken { gauge: this, amount })
    }
}

/// An amount that was taken; given back when it is dropped.
#[derive(Debug)]
pub struct Taken<G: Deref<Target = Gauge>> {
    gauge: G,
    amount: usize,
}

impl<G: Deref<Target = Gauge>> Drop for Taken<G> {
    fn drop(&mut self) {
        self.gauge.used.fetch_sub(self.amount, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_has_etcds_text_and_names_its_option() {
        for (place, limit) in Limit::ALL.into_iter().enumerate() {
            assert_eq!(limit as usize, place);
            let refusal = limit.refusal();
            assert_eq!(refusal.message(), "etcdserver: too many requests");
            assert_eq!(refusal.metadata().get("quorate-limit").unwrap(), limit.flag());
            assert_eq!(Limit::of(&refusal), Some(limit));
            assert!(crate::config::flags::find(limit.flag()).is_some());
        }
        assert_eq!(Limit::of(&Status::unavailable("etcdserver: no leader")), None);
        let reason = "etcdserver: too many requests: too many watchers on this stream (--max-watchers-per-stream)";
        assert_eq!(Limit::of_watcher(reason), Some(Limit::WatchersPerStream));
        assert_eq!(Limit::of_watcher("mvcc: watcher range is empty"), None);
    }

    #[test]
    fn the_bound_holds_and_what_is_dropped_is_free_again() {
        let gauge = Gauge::new(10);
        let first = Gauge::take(&gauge, 6).unwrap();
        assert!(Gauge::take(&gauge, 5).is_none());
        assert_eq!(gauge.used(), 6);
        let second = Gauge::take(&gauge, 4).unwrap();
        drop(first);
        assert_eq!(gauge.used(), 4);
        let (before, beyond) = Gauge::add(&gauge, 20);
        assert_eq!((before, gauge.used()), (4, 24));
        drop((second, beyond));
        let alone = Gauge::take_or_be_alone(&gauge, 50).unwrap();
        assert!(Gauge::take_or_be_alone(&gauge, 1).is_none());
        drop(alone);
        assert!(Gauge::take(&gauge, usize::MAX).is_none());
        assert_eq!(gauge.used(), 0);
    }
}
