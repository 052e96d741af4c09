//! Watchers that go on where they were whatever happens to their members, and the judgement of what they saw.
//!
//! What a watcher may not do: skip an event, see one twice, see revisions out of order or a value before that was not the one
//! before; be told that what it asks for is compacted, since compaction keeps behind all of them.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use quorate_checker::history::{Entry, Op, Outcome};
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use crate::client::{Client, bytes, prefix_end};

/// Without a message for so long, a watcher tries the next member: its own may be cut off.
const SILENCE: Duration = Duration::from_secs(3);

/// What one write left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// Of what.
    pub key: String,
    /// The value since then.
    pub value: String,
    /// How many writes since the key was made.
    pub version: i64,
}

/// Revision to write, as events told it.
pub type Ledger = BTreeMap<i64, Written>;

/// How far all watchers are.
#[derive(Clone, Debug)]
pub struct Position(Vec<Arc<AtomicI64>>);

impl Position {
    /// The revision up to which all have seen everything.
    pub fn seen_by_all(&self) -> i64 {
        self.0.iter().map(|seen| seen.load(Ordering::Relaxed)).min().unwrap_or(0)
    }
}

/// Watchers at work.
#[derive(Debug)]
pub struct Watchers {
    tasks: Vec<JoinHandle<Result<Ledger>>>,
    /// For each the revision up to which it has seen everything.
    seen: Vec<Arc<AtomicI64>>,
    end: Arc<AtomicI64>,
}

impl Watchers {
    /// Starts one at each endpoint.
    pub fn start(prefix: &str, endpoints: &[String]) -> Watchers {
        let end = Arc::new(AtomicI64::new(i64::MAX));
        let seen: Vec<Arc<AtomicI64>> = endpoints.iter().map(|_| Arc::default()).collect();
        let tasks = seen.iter().enumerate().map(|(at, seen)| {
            let clients = endpoints.iter().map(|endpoint| Client::new(endpoint, Duration::from_secs(2))).collect();
            let watcher = Watcher {
                prefix: prefix.to_owned(),
                clients,
                at,
                ledger: Ledger::new(),
                last: HashMap::new(),
                seen: seen.clone(),
            };
            tokio::spawn(watcher.run(end.clone()))
        });
        Watchers { tasks: tasks.collect(), seen, end }
    }

    /// How far they are, to be looked at from elsewhere.
    pub fn position(&self) -> Position {
        Position(self.seen.clone())
    }

    /// Lets them go on until they have seen `revision`, and gives what each saw.
    ///
    /// # Errors
    /// What one saw that must not be, or that it did not see the end in time.
    pub async fn finish(self, revision: i64, patience: Duration) -> Result<Vec<Ledger>> {
        self.end.store(revision, Ordering::Relaxed);
        let mut ledgers = Vec::new();
        let deadline = tokio::time::Instant::now() + patience;
        for (number, mut task) in self.tasks.into_iter().enumerate() {
            match tokio::time::timeout_at(deadline, &mut task).await {
                Ok(ledger) => ledgers.push(ledger??),
                Err(_) => {
                    task.abort();
                    let seen = self.seen[number].load(Ordering::Relaxed);
                    bail!("watcher {number} has seen revision {seen} and not {revision} after {patience:?}");
                }
            }
        }
        Ok(ledgers)
    }
}

struct Watcher {
    prefix: String,
    clients: Vec<Client>,
    at: usize,
    ledger: Ledger,
    /// The last value of each key.
    last: HashMap<String, String>,
    seen: Arc<AtomicI64>,
}

impl Watcher {
    async fn run(mut self, end: Arc<AtomicI64>) -> Result<Ledger> {
        loop {
            // As a client library does: on any failure, on to the next member, from the revision behind the last event.
            if let Ok((mut answers, _requests)) = self.open().await {
                while let Ok(Ok(Some(answer))) = tokio::time::timeout(SILENCE, answers.message()).await {
                    self.take(answer)?;
                    if self.seen.load(Ordering::Relaxed) >= end.load(Ordering::Relaxed) {
                        return Ok(self.ledger);
                    }
                }
            }
            self.at = (self.at + 1) % self.clients.len();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn open(&self) -> Result<(Streaming<WatchResponse>, mpsc::Sender<WatchRequest>), Status> {
        let (requests, receiver) = mpsc::channel(1);
        let create = WatchCreateRequest {
            key: bytes(&self.prefix),
            range_end: prefix_end(&self.prefix),
            start_revision: self.seen.load(Ordering::Relaxed) + 1,
            prev_kv: true,
            ..WatchCreateRequest::default()
        };
        let request = WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) };
        // There is room for one.
        let _ = requests.send(request).await;
        let client = &self.clients[self.at];
        let answers = client.within(client.watch().watch(ReceiverStream::new(receiver))).await?;
        Ok((answers, requests))
    }

    fn take(&mut self, answer: WatchResponse) -> Result<()> {
        if answer.canceled && answer.compact_revision > 0 {
            let seen = self.seen.load(Ordering::Relaxed);
            bail!("a watcher that has seen revision {seen} is told that {} is compacted", answer.compact_revision);
        }
        let mut highest = self.seen.load(Ordering::Relaxed);
        for event in answer.events {
            let Some(kv) = event.kv else { bail!("an event without a key") };
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            let (key, value) = (text(&kv.key), text(&kv.value));
            ensure!(kv.mod_revision > highest, "an event of revision {} came behind {highest}", kv.mod_revision);
            highest = kv.mod_revision;
            let before = event.prev_kv.map(|kv| text(&kv.value));
            let known = self.last.insert(key.clone(), value.clone());
            ensure!(before == known, "{key} at revision {highest} held {before:?} before, but {known:?} was written");
            self.ledger.insert(highest, Written { key, value, version: kv.version });
        }
        self.seen.store(highest, Ordering::Relaxed);
        Ok(())
    }
}

/// What is wrong with what watchers saw, beside what clients were told: all must have seen the same, each acknowledged write,
/// and nothing that nobody wrote.
pub fn check(ledgers: &[Ledger], history: &[Entry], end: i64) -> Vec<String> {
    let mut violations = Vec::new();
    let Some((first, others)) = ledgers.split_first() else { return violations };
    for (number, other) in others.iter().enumerate() {
        let same = first.range(..=end).eq(other.range(..=end));
        if !same {
            let difference = first.range(..=end).zip(other.range(..=end)).find(|(a, b)| a != b);
            violations.push(format!("watchers 0 and {} saw different events, first {difference:?}", number + 1));
        }
    }
    let mut writes: HashMap<(&str, &str), Option<i64>> = HashMap::new();
    for entry in history {
        let (Op::Put { key, value } | Op::Cas { key, value, .. }) = &entry.op else { continue };
        let revision = match entry.outcome {
            Outcome::Wrote { revision } => Some(revision),
            Outcome::Unknown => None,
            Outcome::Read { .. } => continue,
        };
        writes.insert((key, value), revision);
        let Some(revision) = revision.filter(|revision| *revision <= end) else { continue };
        match first.get(&revision) {
            Some(written) if (&written.key, &written.value) == (key, value) => {}
            found => {
                violations.push(format!("{key}={value} was acknowledged at revision {revision}; events say {found:?}"))
            }
        }
    }
    let mut versions: HashMap<&str, i64> = HashMap::new();
    for (revision, written) in first.range(..=end) {
        let version = versions.entry(&written.key).or_insert(0);
        *version += 1;
        if *version != written.version {
            violations.push(format!(
                "revision {revision} says that it is write {} of {}, the {version}th",
                written.version, written.key
            ));
        }
        match writes.get(&(written.key.as_str(), written.value.as_str())) {
            None => violations.push(format!("nobody wrote {}={} (revision {revision})", written.key, written.value)),
            Some(Some(told)) if told != revision => {
                violations
                    .push(format!("{}={} is at {revision}, its client was told {told}", written.key, written.value));
            }
            Some(_) => {}
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(writes: &[(i64, &str, &str, i64)]) -> Ledger {
        let written = |&(revision, key, value, version): &(i64, &str, &str, i64)| {
            (revision, Written { key: key.to_owned(), value: value.to_owned(), version })
        };
        writes.iter().map(written).collect()
    }

    fn put(key: &str, value: &str, outcome: Outcome) -> Entry {
        let op = Op::Put { key: key.to_owned(), value: value.to_owned() };
        Entry { start: Duration::ZERO, end: Duration::ZERO, op, outcome }
    }

    fn history() -> Vec<Entry> {
        vec![
            put("a", "1", Outcome::Wrote { revision: 2 }),
            put("b", "2", Outcome::Unknown),
            put("a", "3", Outcome::Wrote { revision: 4 }),
        ]
    }

    #[test]
    fn a_write_of_unknown_outcome_may_be_there_or_not() {
        let with = ledger(&[(2, "a", "1", 1), (3, "b", "2", 1), (4, "a", "3", 2)]);
        assert_eq!(check(&[with.clone(), with], &history(), 4), [""; 0]);
        let without = ledger(&[(2, "a", "1", 1), (4, "a", "3", 2)]);
        assert_eq!(check(&[without], &history(), 4), [""; 0]);
    }

    #[test]
    fn what_is_wrong_is_found() {
        let right = ledger(&[(2, "a", "1", 1), (4, "a", "3", 2)]);
        let lost = ledger(&[(2, "a", "1", 1)]);
        assert_eq!(check(std::slice::from_ref(&lost), &history(), 4).len(), 1, "an acknowledged write is missing");
        assert_eq!(check(&[right.clone(), lost], &history(), 4).len(), 1, "watchers differ");
        let moved = ledger(&[(2, "a", "1", 1), (5, "a", "3", 2)]);
        assert_eq!(check(&[moved], &history(), 5).len(), 2, "it is not where it was acknowledged, and elsewhere");
        let skipped = ledger(&[(2, "a", "1", 1), (4, "a", "3", 3)]);
        assert_eq!(check(&[skipped], &history(), 4).len(), 1, "a version is skipped");
        let strange = ledger(&[(2, "a", "1", 1), (3, "c", "9", 1), (4, "a", "3", 2)]);
        assert_eq!(check(&[strange], &history(), 4).len(), 1, "nobody wrote it");
    }
}
