//! Clients: calls to a member with a deadline, over the simulated network, and everything noted in the history.

use crate::clock::MachineClock;
use crate::history::{
    Condition, Entry, Event, Field, Op, Outcome, Renewal, Seen, SharedHistory, Span, Step, StepAnswer, Transaction,
};
use crate::library::Library;
use crate::machine::Doors;
use crate::network::Network;
use crate::oracle::Rule;
use bytes::Bytes;
use quorate_core::{
    Caller, Change, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, KeyValue, LeaseId, Op as CoreOp,
    OpReply, Put, RangeRequest, Record, Revision, Txn,
};
use quorate_node::{Error, Node};
use std::sync::Arc;
use std::time::Duration;

/// What all clients share. They run on one machine of their own, whose place is behind the members'.
#[derive(Clone)]
pub struct Rpc {
    /// The members' doors.
    pub doors: Doors,
    /// The network.
    pub network: Network,
    /// The clients' clock.
    pub clock: Arc<MachineClock>,
    /// Where calls are noted.
    pub history: SharedHistory,
    /// The clients' place among the machines.
    pub me: usize,
    /// How long a client waits.
    pub deadline: Duration,
    /// The client library, in mode `full`; without it, calls go to the node itself.
    pub library: Option<Library>,
}

impl Rpc {
    /// Has the node of `member` do something. `None`: no answer in time.
    pub async fn call<T, F>(&self, member: usize, act: impl FnOnce(Node) -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let (answer, answered) = tokio::sync::oneshot::channel();
        let (network, me, door) = (self.network.clone(), self.me, self.doors[member].clone());
        let ask = async {
            tokio::time::sleep(network.delay(me, member)).await;
            if network.is_blocked(me, member) {
                std::future::pending::<()>().await;
            }
            let back = door.clone();
            let sent = door.send(Box::new(move |node| {
                Box::pin(async move {
                    let result = act(node).await;
                    // A process that must end tells nobody anything any more. What it has told by then arrives.
                    if back.fatal().is_none() {
                        let _ = answer.send(result);
                    }
                })
            }));
            if !sent {
                return None;
            }
            let result = answered.await.ok();
            tokio::time::sleep(network.delay(member, me)).await;
            if network.is_blocked(member, me) {
                std::future::pending::<()>().await;
            }
            result
        };
        tokio::time::timeout(self.deadline, ask).await.ok().flatten()
    }

    /// Calls, and notes what came of it.
    pub async fn run(&self, client: usize, member: usize, op: Op) -> Outcome {
        self.run_as(client, member, None, op).await
    }

    /// Likewise, in the name of somebody.
    pub async fn run_as(&self, client: usize, member: usize, caller: Option<Caller>, op: Op) -> Outcome {
        let start = self.clock.world_now();
        if let Some(library) = &self.library {
            let outcome = library.perform(member, &op).await;
            self.note(client, member, start, op, outcome.clone());
            return outcome;
        }
        let asked = op.clone();
        let act = move |node: Node| perform(caller.map_or(node.clone(), |caller| node.on_behalf_of(caller)), asked);
        let outcome = self.call(member, act).await.unwrap_or(Outcome::Unknown);
        self.note(client, member, start, op, outcome.clone());
        outcome
    }

    /// Notes a call that began at `start`, and what came of it now.
    pub fn note(&self, client: usize, member: usize, start: Duration, op: Op, outcome: Outcome) {
        let end = self.clock.world_now();
        self.history.lock().entries.push(Entry { client, member, start, end, op, outcome });
    }

    /// Grants a lease of this id. Whether it was granted.
    pub async fn grant(&self, member: usize, lease: i64, ttl_seconds: i64) -> bool {
        let start = self.clock.world_now();
        let granted = match &self.library {
            Some(library) => library.grant(member, lease, ttl_seconds).await,
            None => {
                let id = LeaseId::new(lease);
                let grant = self.call(member, move |node| async move { node.lease_grant(id, ttl_seconds).await });
                grant.await.and_then(Result::ok).map(|answer| answer.body.1)
            }
        };
        self.note_renewal(lease, granted.unwrap_or(ttl_seconds), start, granted.is_some());
        granted.is_some()
    }

    /// Renews a lease of this TTL. `Some(false)`: it is gone.
    pub async fn renew(&self, member: usize, lease: i64, ttl_seconds: i64) -> Option<bool> {
        let start = self.clock.world_now();
        let renewed = match &self.library {
            Some(library) => library.renew(member, lease, self.deadline).await,
            None => {
                let id = LeaseId::new(lease);
                let renew = self.call(member, move |node| async move { node.lease_keep_alive(id).await });
                renew.await.and_then(Result::ok).map(|answer| answer.body)
            }
        };
        if renewed != Some(0) {
            self.note_renewal(lease, renewed.unwrap_or(ttl_seconds), start, renewed.is_some());
        }
        renewed.map(|ttl_seconds| ttl_seconds > 0)
    }

    fn note_renewal(&self, lease: i64, ttl_seconds: i64, start: Duration, acknowledged: bool) {
        let end = self.clock.world_now();
        self.history.lock().renewals.push(Renewal { lease, ttl_seconds, start, end, acknowledged });
    }

    /// Notes something that nobody may see.
    pub fn wrong(&self, rule: Rule, text: String) {
        self.history.lock().seen_wrong.push((rule, text));
    }
}

/// Only what says that nothing has changed counts as refused.
fn outcome_of(error: &Error) -> Outcome {
    let no_place = matches!(error, Error::TooManyWaiting | Error::TooManyHeavy | Error::TooManyProposalBytes);
    if no_place || matches!(error, Error::Rejected(_) | Error::NotSupportedForLearner) {
        Outcome::Refused(error.to_string())
    } else {
        Outcome::Unknown
    }
}

/// Has a node carry out a call.
pub async fn perform(node: Node, op: Op) -> Outcome {
    let result = match op {
        Op::Put { key, value, lease } => {
            let put = Put { key: key.into(), value: value.into(), lease: LeaseId::new(lease), ..Put::default() };
            node.put(put).await.map(|answer| done(answer.header.revision, 0))
        }
        Op::Delete { span } => {
            let delete = DeleteRange { range: range_of(&span), prev_kv: false };
            node.delete_range(delete).await.map(|answer| done(answer.header.revision, answer.body.0))
        }
        Op::Get { span, serializable, revision } => {
            let request =
                RangeRequest { serializable, revision: Revision::new(revision), ..RangeRequest::new(range_of(&span)) };
            node.range(request).await.map(|answer| Outcome::Read {
                revision: answer.header.revision.get(),
                kvs: answer.body.kvs.iter().map(seen).collect(),
            })
        }
        Op::Swap { parts } => node.txn(swap(&parts)).await.map(|answer| {
            let revision = answer.header.revision;
            if answer.body.succeeded { done(revision, 0) } else { read(revision, answer.body.responses) }
        }),
        Op::Revoke { lease } => {
            node.lease_revoke(LeaseId::new(lease)).await.map(|answer| done(answer.header.revision, 0))
        }
        Op::Txn(transaction) => node.txn(txn(&transaction)).await.map(|answer| Outcome::Txn {
            revision: answer.header.revision.get(),
            succeeded: answer.body.succeeded,
            answers: answer.body.responses.iter().map(step_answer).collect(),
        }),
        Op::Page { span, limit, revision, count_only } => {
            let revision = Revision::new(revision);
            let request = RangeRequest { limit, revision, count_only, ..RangeRequest::new(range_of(&span)) };
            node.range(request).await.map(|answer| Outcome::Page {
                revision: answer.header.revision.get(),
                kvs: answer.body.kvs.iter().map(seen).collect(),
                more: answer.body.more,
                count: answer.body.count,
            })
        }
        // Some wait until it is gone from the disk, too.
        Op::Compact { revision } => {
            node.compact(Revision::new(revision), revision % 2 == 0).await.map(|answer| done(answer.header.revision, 0))
        }
    };
    result.unwrap_or_else(|error| outcome_of(&error))
}

/// Most pauses while a list is read in parts.
const PARTS_MAX: u32 = 8;

/// Has a node read a list in parts of `keys_max` keys, with pauses between them.
///
/// # Errors
/// Why it broke off a list that it had begun, if that is none of the reasons for which a member may break off.
pub async fn read_in_parts(node: Node, span: Span, keys_max: usize, pause: Duration) -> Result<Outcome, String> {
    let mut reader = match node.range_chunks(RangeRequest::new(range_of(&span))).await {
        Ok(reader) => reader,
        Err(error) => return Ok(outcome_of(&error)),
    };
    let (revision, mut kvs, mut parts) = (reader.header().revision.get(), Vec::new(), 0);
    loop {
        let keys_max = if parts < PARTS_MAX { keys_max } else { usize::MAX };
        match reader.next_chunk(keys_max, 1 << 20) {
            Ok(chunk) => {
                kvs.extend(chunk.kvs.iter().map(seen));
                if chunk.totals.is_some() {
                    return Ok(Outcome::Read { revision, kvs });
                }
            }
            // What it reads is kept for it.
            Err(error @ Error::Rejected(_)) => return Err(error.to_string()),
            Err(_) => return Ok(Outcome::Unknown),
        }
        parts += 1;
        tokio::time::sleep(pause).await;
    }
}

fn done(revision: Revision, deleted: i64) -> Outcome {
    Outcome::Done { revision: revision.get(), deleted }
}

fn read(revision: Revision, replies: Vec<OpReply>) -> Outcome {
    let mut kvs = Vec::new();
    for reply in replies {
        if let OpReply::Range { reply, .. } = reply {
            kvs.extend(reply.kvs.iter().map(seen));
        }
    }
    Outcome::Read { revision: revision.get(), kvs }
}

fn swap(parts: &[(String, i64, String)]) -> Txn {
    let compare = |(key, expected, _): &(String, i64, String)| Compare {
        range: KeyRange::Single(Bytes::from(key.clone())),
        result: CompareResult::Equal,
        target: CompareTarget::Mod(Revision::new(*expected)),
    };
    let put = |(key, _, value): &(String, i64, String)| {
        CoreOp::Put(Put { key: key.clone().into(), value: value.clone().into(), ..Put::default() })
    };
    let first = parts.first().map_or("", |(key, _, _)| key);
    Txn {
        compares: parts.iter().map(compare).collect(),
        success: parts.iter().map(put).collect(),
        failure: vec![CoreOp::Range(RangeRequest::new(KeyRange::Single(Bytes::from(first.to_owned()))))],
    }
}

fn txn(transaction: &Transaction) -> Txn {
    Txn {
        compares: transaction.conditions.iter().map(compare).collect(),
        success: transaction.success.iter().map(core_op).collect(),
        failure: transaction.failure.iter().map(core_op).collect(),
    }
}

fn compare(condition: &Condition) -> Compare {
    let target = match &condition.field {
        Field::Value(value) => CompareTarget::Value(value.clone().into()),
        Field::Version(version) => CompareTarget::Version(*version),
        Field::Create(revision) => CompareTarget::Create(Revision::new(*revision)),
        Field::Mod(revision) => CompareTarget::Mod(Revision::new(*revision)),
        Field::Lease(lease) => CompareTarget::Lease(LeaseId::new(*lease)),
    };
    Compare { range: KeyRange::Single(condition.key.clone().into()), result: CompareResult::Equal, target }
}

fn core_op(step: &Step) -> CoreOp {
    match step {
        Step::Put { key, value, lease } => CoreOp::Put(Put {
            key: key.clone().into(),
            value: value.clone().unwrap_or_default().into(),
            lease: LeaseId::new(lease.unwrap_or(0)),
            prev_kv: true,
            ignore_value: value.is_none(),
            ignore_lease: lease.is_none(),
        }),
        Step::Delete(span) => CoreOp::DeleteRange(DeleteRange { range: range_of(span), prev_kv: true }),
        Step::Get(span) => CoreOp::Range(RangeRequest::new(range_of(span))),
        Step::Nested(transaction) => CoreOp::Txn(txn(transaction)),
    }
}

fn step_answer(reply: &OpReply) -> StepAnswer {
    match reply {
        OpReply::Put { prev_kv, .. } => StepAnswer::Put(prev_kv.as_ref().map(seen)),
        OpReply::DeleteRange { prev_kvs, .. } => StepAnswer::Deleted(prev_kvs.iter().map(seen).collect()),
        OpReply::Range { reply, .. } => StepAnswer::Got(reply.kvs.iter().map(seen).collect()),
        OpReply::Txn(reply) => StepAnswer::Nested(reply.succeeded, reply.responses.iter().map(step_answer).collect()),
    }
}

/// The range of a span.
pub fn range_of(span: &Span) -> KeyRange {
    let until = span.until.clone().map_or_else(Bytes::new, Bytes::from);
    KeyRange::from_wire(Bytes::from(span.from.clone()), until)
}

/// What clients write is text.
pub fn text(bytes: &Bytes) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What a key held.
pub fn seen(kv: &KeyValue) -> Seen {
    Seen {
        key: text(&kv.key),
        value: text(&kv.value),
        create_revision: kv.create_revision.get(),
        mod_revision: kv.mod_revision.get(),
        version: kv.version,
        lease: kv.lease.get(),
    }
}

/// A change, as a watcher sees it.
pub fn event(record: &Record) -> Event {
    match record.key_value() {
        Some(kv) => Event::Put(seen(&kv)),
        None => {
            debug_assert!(matches!(record.change, Change::Delete));
            Event::Delete { key: text(&record.key), revision: record.rev.main.get() }
        }
    }
}
