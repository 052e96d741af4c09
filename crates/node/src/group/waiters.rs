//! Who waits for which command. A batch of commands is named by its origin (this member) and its first sequence number;
//! whoever applies it here finds the waiters.

use super::space::command_cost;
use crate::Error;
use crate::raft::{AppliedCommand, ApplyTimes};
use crate::stages::{Stage, Stages};
use bytes::Bytes;
use parking_lot::Mutex;
use quorate_core::codec::{BatchEncoder, decode_batch};
use quorate_core::{MemberId, Rejection, Request};
use quorate_sabotage::sabotage;
use std::collections::BTreeMap;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// What became of a command.
pub(super) type Outcome = Result<Resolved, Error>;

/// A command that was applied.
pub(super) struct Resolved {
    /// What it did.
    pub command: AppliedCommand,
    /// When it was sent, the last time if several.
    pub sent: Instant,
    /// Where the time since then went.
    pub stages: Stages,
}

/// Batches of this member that are under way.
pub(super) struct Waiters {
    inner: Mutex<Inner>,
}

struct Inner {
    next_seq: u64,
    batches: BTreeMap<u64, Batch>,
    /// Newest term of which an entry was applied here.
    applied_term: u64,
}

struct Batch {
    body: Bytes,
    waiters: Vec<oneshot::Sender<Outcome>>,
    /// The term for which the batch was last sent; `None`: it was not sent yet.
    sent_in: Option<u64>,
    /// When it was last sent; before that, when it was made.
    sent: Instant,
    give_up: Instant,
}

/// A batch that has to be sent, for the first time or again.
#[derive(Clone)]
pub(super) struct Ready {
    /// Names the batch.
    pub first_seq: u64,
    /// Its encoded form.
    pub body: Bytes,
}

/// Whether a batch may go out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mark {
    /// Yes.
    Send,
    /// This member has applied something of a later term already: what goes out for this one would only be refused.
    Later,
    /// Nobody waits for it any more.
    Gone,
}

impl Waiters {
    /// `first_seq` is random, so that a restarted member does not answer what it asked in an earlier life.
    pub(super) fn new(first_seq: u64) -> Self {
        // The upper half stays free, so that the numbers never wrap.
        let first_seq = if sabotage!(OnceSequenceReused) { 0 } else { first_seq };
        let inner = Inner { next_seq: first_seq >> 1, batches: BTreeMap::new(), applied_term: 0 };
        Self { inner: Mutex::new(inner) }
    }

    /// Takes numbers for `count` commands.
    pub(super) fn reserve(&self, count: usize) -> u64 {
        let mut inner = self.inner.lock();
        let first = inner.next_seq;
        inner.next_seq += count as u64;
        first
    }

    /// Registers a batch before it is sent.
    pub(super) fn register(&self, ready: &Ready, waiters: Vec<oneshot::Sender<Outcome>>, give_up: Instant) {
        let batch = Batch { body: ready.body.clone(), waiters, sent_in: None, sent: Instant::now(), give_up };
        self.inner.lock().batches.insert(ready.first_seq, batch);
    }

    /// Notes that the batch goes out for `term`.
    pub(super) fn mark_sent(&self, first_seq: u64, term: u64) -> Mark {
        let mut inner = self.inner.lock();
        let applied_term = inner.applied_term;
        match inner.batches.get_mut(&first_seq) {
            Some(batch) if term >= applied_term => {
                batch.sent_in = Some(term);
                batch.sent = Instant::now();
                Mark::Send
            }
            Some(_) => Mark::Later,
            None => Mark::Gone,
        }
    }

    /// The batch that went out for `term` was certainly not proposed: it may be sent again. A refusal can come late, when
    /// [`term_applied`](Self::term_applied) has settled the matter and the batch is on its way for a later term; then it
    /// says nothing about that, and the batch must not go out a second time. INVARIANT(once).
    pub(super) fn unsent(&self, first_seq: u64, term: u64) -> Option<Ready> {
        let mut inner = self.inner.lock();
        let batch = inner.batches.get_mut(&first_seq).filter(|batch| batch.sent_in == Some(term))?;
        batch.sent_in = None;
        Some(Ready { first_seq, body: batch.body.clone() })
    }

    /// The batch that went out for `term` was certainly not proposed, because the leader has no room: whoever asked for what
    /// takes space is told. What takes none is made a batch of its own, which may be sent.
    pub(super) fn refuse_for_space(&self, member: MemberId, first_seq: u64, term: u64) -> Option<Ready> {
        let batch = {
            let mut inner = self.inner.lock();
            inner.batches.get(&first_seq).filter(|batch| batch.sent_in == Some(term))?;
            inner.batches.remove(&first_seq)?
        };
        // (What was encoded here can be decoded here. If not, nobody is left to wait for nothing.)
        let requests = decode_batch(batch.body).map_or_else(|_| Vec::new(), |batch| batch.requests);
        let mut requests = requests.into_iter();
        let mut rest = Vec::new();
        for waiter in batch.waiters {
            match requests.next().filter(|request| command_cost(&request.command) == 0) {
                Some(request) => rest.push((request, waiter)),
                // Whoever asked may have given up.
                None => drop(waiter.send(Err(Error::Rejected(Rejection::NoSpace)))),
            }
        }
        if rest.is_empty() {
            return None;
        }
        let first_seq = self.reserve(rest.len());
        let mut encoder = BatchEncoder::new(member, first_seq);
        let mut waiters = Vec::with_capacity(rest.len());
        for (Request { caller, command }, waiter) in rest {
            encoder.push(&caller, &command);
            waiters.push(waiter);
        }
        let ready = Ready { first_seq, body: encoder.finish() };
        self.register(&ready, waiters, batch.give_up);
        Some(ready)
    }

    /// The batch was applied.
    pub(super) fn resolve(&self, first_seq: u64, commands: Vec<AppliedCommand>, times: ApplyTimes) {
        let Some(batch) = self.inner.lock().batches.remove(&first_seq) else { return };
        let (sent, stages) = (batch.sent, stages(batch.sent, times));
        for (waiter, command) in batch.waiters.into_iter().zip(commands) {
            // Whoever asked may have given up.
            let _ = waiter.send(Ok(Resolved { command, sent, stages }));
        }
    }

    /// An entry of `term` was applied. A batch that was sent for an earlier term and is not applied by now never will be:
    /// entries of a term all come before those of later terms, and a leader takes a batch only for its own term. So it can
    /// be sent again without being carried out twice. INVARIANT(once).
    pub(super) fn term_applied(&self, term: u64) -> Vec<Ready> {
        let mut inner = self.inner.lock();
        if term <= inner.applied_term {
            return Vec::new();
        }
        inner.applied_term = term;
        inner
            .batches
            .iter_mut()
            .filter(|(_, batch)| batch.sent_in.is_some_and(|sent| sent < term))
            .map(|(first_seq, batch)| {
                batch.sent_in = None;
                Ready { first_seq: *first_seq, body: batch.body.clone() }
            })
            .collect()
    }

    /// The state was replaced by a snapshot: what was under way may be in it, or not.
    pub(super) fn fail_sent(&self, error: &Error) {
        self.fail_where(error, |batch| batch.sent_in.is_some());
    }

    /// Nothing will be applied any more.
    pub(super) fn fail_all(&self, error: &Error) {
        self.fail_where(error, |_| true);
    }

    /// Drops what nobody waits for any more. (Whoever waited has timed out by itself.)
    pub(super) fn sweep(&self, now: Instant) {
        self.inner.lock().batches.retain(|_, batch| batch.give_up > now);
    }

    fn fail_where(&self, error: &Error, which: impl Fn(&Batch) -> bool) {
        let mut inner = self.inner.lock();
        let failed: Vec<u64> = inner.batches.iter().filter(|(_, b)| which(b)).map(|(seq, _)| *seq).collect();
        for seq in failed {
            if let Some(batch) = inner.batches.remove(&seq) {
                for waiter in batch.waiters {
                    let _ = waiter.send(Err(error.clone()));
                }
            }
        }
    }

    /// Commands under way.
    pub(super) fn pending(&self) -> usize {
        self.inner.lock().batches.values().map(|b| b.waiters.len()).sum()
    }
}

/// Where the time between sending a batch and now, when it is applied, went.
fn stages(sent: Instant, times: ApplyTimes) -> Stages {
    let mut stages = Stages::default();
    let replicated_from = match times.durable {
        Some(durable) if durable >= sent && durable <= times.began => {
            stages.add(Stage::Wal, durable - sent);
            durable
        }
        // A quorum of others was faster than this member's disk, or nobody knows any more.
        Some(_) | None => sent,
    };
    stages.add(Stage::Replicate, times.began.saturating_duration_since(replicated_from));
    stages.add(Stage::Engine, times.had_room.saturating_duration_since(times.began));
    stages.add(Stage::Apply, times.had_room.elapsed());
    stages
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::{Caller, Command, DeleteRange, KeyRange, Op, Put, Txn};

    fn registered(waiters: &Waiters) -> u64 {
        let first_seq = waiters.reserve(1);
        let ready = Ready { first_seq, body: Bytes::from_static(b"batch") };
        waiters.register(&ready, Vec::new(), Instant::now());
        first_seq
    }

    #[test]
    fn a_refused_batch_goes_out_again() {
        let waiters = Waiters::new(0);
        let seq = registered(&waiters);
        assert_eq!(waiters.mark_sent(seq, 2), Mark::Send);
        assert!(waiters.unsent(seq, 2).is_some());
        assert!(waiters.unsent(seq, 2).is_none(), "one refusal, one more attempt");
    }

    #[test]
    fn for_want_of_space_only_what_takes_space_is_refused() {
        let waiters = Waiters::new(0);
        let member = MemberId::new(1);
        let put = Op::Put(Put { key: "key".into(), value: "value".into(), ..Put::default() });
        let delete = Op::DeleteRange(DeleteRange { range: KeyRange::Single("key".into()), prev_kv: false });
        let first_seq = waiters.reserve(2);
        let mut encoder = BatchEncoder::new(member, first_seq);
        for op in [put, delete.clone()] {
            encoder.push(&Caller::Anonymous, &Command::Txn(Txn::of(op)));
        }
        let (put_waits, mut put_outcome) = oneshot::channel();
        let (delete_waits, mut delete_outcome) = oneshot::channel();
        let ready = Ready { first_seq, body: encoder.finish() };
        waiters.register(&ready, vec![put_waits, delete_waits], Instant::now());
        assert_eq!(waiters.mark_sent(first_seq, 2), Mark::Send);
        assert!(waiters.refuse_for_space(member, first_seq, 1).is_none(), "a refusal of another term");

        let rest = waiters.refuse_for_space(member, first_seq, 2).expect("the delete is left");
        assert!(matches!(put_outcome.try_recv(), Ok(Err(Error::Rejected(Rejection::NoSpace)))));
        let batch = decode_batch(rest.body).expect("a batch");
        assert_eq!((batch.first_seq, batch.requests.len()), (rest.first_seq, 1));
        assert_eq!(batch.requests[0].command, Command::Txn(Txn::of(delete)));
        assert_eq!(waiters.mark_sent(first_seq, 2), Mark::Gone);
        assert_eq!(waiters.mark_sent(rest.first_seq, 2), Mark::Send);
        waiters.fail_all(&Error::Stopped);
        assert!(matches!(delete_outcome.try_recv(), Ok(Err(Error::Stopped))));
    }

    #[test]
    fn a_late_refusal_does_not_send_a_batch_twice() {
        let waiters = Waiters::new(0);
        let seq = registered(&waiters);
        // A paused leader: the batch waits in front of Raft while entries of the next term are applied.
        assert_eq!(waiters.mark_sent(seq, 2), Mark::Send);
        assert_eq!(waiters.term_applied(3).len(), 1);
        assert!(waiters.unsent(seq, 2).is_none(), "it is taken up again already");
        assert_eq!(waiters.mark_sent(seq, 3), Mark::Send);
        assert!(waiters.unsent(seq, 2).is_none(), "it is on its way for the next term");
    }
}
