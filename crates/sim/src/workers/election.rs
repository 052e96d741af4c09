//! Clients that stand for election as etcd's recipe has it: whoever has the oldest key under `e/` leads, and tells so by writing
//! `f0` as long as its key is there. The others wait for their turn.

use super::Worker;
use crate::history::{Condition, Field, Op, Outcome, Seen, Span, Step, Transaction};

/// What only the leader writes. Its value says who wrote it, and the leader's key behind a space.
pub const FENCED_KEY: &str = "f0";

/// Where the candidates' keys are.
pub fn candidates() -> Span {
    Span::prefix("e/")
}

/// The key of the candidate that wrote `seen`, if that is what only a leader writes.
pub fn written_by(seen: &Seen) -> Option<&str> {
    (seen.key == FENCED_KEY).then(|| seen.value.split_once(' ').map_or("", |(_, key)| key))
}

/// A candidate's key, the revision that made it, its lease and that one's TTL.
struct Candidacy {
    key: String,
    revision: i64,
    lease: i64,
    ttl: i64,
}

impl Worker {
    /// Stands for election, leads for a while, and resigns or lets go.
    pub async fn stand_for_election(mut self) {
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            let (member, lease, ttl) = (self.any_member(), self.new_lease(counter), self.random.between(2, 5) as i64);
            if !self.rpc.grant(member, lease, ttl).await {
                continue;
            }
            let key = format!("e/{lease:x}");
            let campaign = Transaction {
                conditions: vec![Condition { key: key.clone(), field: Field::Create(0) }],
                success: vec![Step::Put { key: key.clone(), value: Some(self.mark(counter)), lease: Some(lease) }],
                failure: vec![Step::Get(Span::key(&key))],
            };
            // Of one that is not answered nothing is known: it ends with its lease.
            if let Outcome::Txn { succeeded: true, revision, .. } =
                self.rpc.run(self.number, member, Op::Txn(campaign)).await
            {
                self.wait_for_turn(Candidacy { key, revision, lease, ttl }, &mut counter).await;
            }
        }
    }

    async fn wait_for_turn(&mut self, candidacy: Candidacy, counter: &mut u64) {
        for _ in 0..self.random.between(1, 30) {
            let member = self.any_member();
            let list = Op::Get { span: candidates(), serializable: false, revision: 0 };
            if let Outcome::Read { kvs, .. } = self.rpc.run(self.number, member, list).await {
                let oldest = kvs.iter().min_by_key(|seen| seen.create_revision);
                if oldest.is_some_and(|seen| seen.key == candidacy.key && seen.create_revision == candidacy.revision) {
                    return self.lead(candidacy, counter).await;
                }
            }
            if self.stop.is_set() || self.rpc.renew(member, candidacy.lease, candidacy.ttl).await == Some(false) {
                return;
            }
            let pause = self.random.millis(20, 400);
            tokio::time::sleep(pause).await;
        }
        self.withdraw(candidacy).await;
    }

    async fn lead(&mut self, candidacy: Candidacy, counter: &mut u64) {
        for _ in 0..self.random.between(1, 5) {
            *counter += 1;
            let member = self.any_member();
            let mark = self.mark(*counter);
            let fenced = Transaction {
                conditions: vec![is_there(&candidacy)],
                success: vec![
                    Step::Put {
                        key: FENCED_KEY.to_owned(),
                        value: Some(format!("{mark} {}", candidacy.key)),
                        lease: Some(0),
                    },
                    // What it proclaims: anew, on the lease that it has.
                    Step::Put { key: candidacy.key.clone(), value: Some(format!("{mark}!")), lease: None },
                ],
                failure: vec![Step::Get(candidates())],
            };
            if let Outcome::Txn { succeeded: false, .. } = self.rpc.run(self.number, member, Op::Txn(fenced)).await {
                return;
            }
            // Some lead on for longer than their lease lives.
            let pause = self.random.millis(10, 1500);
            tokio::time::sleep(pause).await;
            if self.random.chance(600) {
                self.rpc.renew(member, candidacy.lease, candidacy.ttl).await;
            }
        }
        self.withdraw(candidacy).await;
    }

    async fn withdraw(&mut self, candidacy: Candidacy) {
        let member = self.any_member();
        let resign = Transaction {
            conditions: vec![is_there(&candidacy)],
            success: vec![Step::Delete(Span::key(&candidacy.key))],
            failure: vec![],
        };
        match self.random.below(3) {
            0 => drop(self.rpc.run(self.number, member, Op::Txn(resign)).await),
            1 => drop(self.rpc.run(self.number, member, Op::Revoke { lease: candidacy.lease }).await),
            _ => {}
        }
    }
}

fn is_there(candidacy: &Candidacy) -> Condition {
    Condition { key: candidacy.key.clone(), field: Field::Create(candidacy.revision) }
}
