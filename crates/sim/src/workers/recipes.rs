//! Locks and elections, in mode `full`, of the client library and of the members' own services: at most one client at a time holds
//! one.

use super::Worker;
use crate::history::{Condition, Field, Hold, Op, Step, Transaction};
use crate::library::Library;
use crate::oracle::{RECIPES, Rule};
use bytes::Bytes;
use quorate_client::{Error, Leadership, LockGuard, Session};
use quorate_proto::v3electionpb::{CampaignRequest, LeaderKey, ResignRequest};
use quorate_proto::v3lockpb::{LockRequest, UnlockRequest};

/// What a client holds.
enum Held {
    Lock(LockGuard),
    Office(Leadership),
    /// By the services `Lock` and `Election` of a member.
    Served(Box<Served>),
}

/// What a member has given on a session's lease.
struct Served {
    library: Library,
    session: Session,
    key: Bytes,
    /// The revision that made the key.
    token: i64,
    /// It is an office.
    office: Option<LeaderKey>,
}

impl Served {
    async fn give_back(self) -> Result<(), Error> {
        let client = self.library.all();
        match self.office {
            Some(leader) => client.election_service().resign(ResignRequest { leader: Some(leader) }).await.map(drop),
            None => client.lock_service().unlock(UnlockRequest { key: self.key }).await.map(drop),
        }
    }
}

impl Held {
    fn key(&self) -> String {
        let key = match self {
            Held::Lock(guard) => guard.key(),
            Held::Office(office) => office.key(),
            Held::Served(served) => &served.key,
        };
        String::from_utf8_lossy(key).into_owned()
    }

    /// The revision that proves it.
    fn token(&self) -> i64 {
        match self {
            Held::Lock(guard) => guard.token(),
            Held::Office(office) => office.token(),
            Held::Served(served) => served.token,
        }
    }

    async fn lost(&self) -> Error {
        match self {
            Held::Lock(guard) => guard.lost().await,
            Held::Office(office) => office.lost().await,
            Held::Served(served) => served.session.lost().await,
        }
    }

    async fn give_back(self) -> Result<(), Error> {
        match self {
            Held::Lock(guard) => guard.unlock().await,
            Held::Office(office) => office.resign().await,
            Held::Served(served) => served.give_back().await,
        }
    }
}

impl Worker {
    /// Opens sessions, waits for a lock or an office, holds it for a while, and gives it back or leaves.
    pub async fn use_recipes(mut self) {
        let Some(library) = self.rpc.library.clone() else { return };
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            if self.random.chance(200) && library.all().member_list().await.is_ok_and(|members| members.is_empty()) {
                self.rpc.wrong(Rule::Call, "the list of members is empty".into());
            }
            let ttl = self.random.between(2, 5) as i64;
            let Ok(session) = library.all().session(ttl).await else { continue };
            // A session has one key for a name, whoever makes it.
            let served = self.random.chance(300);
            for _ in 0..self.random.between(1, 4) {
                counter += 1;
                let name = format!("{RECIPES}{}", self.random.below(2));
                let Some(held) = self.take(&library, &session, &name, counter, served).await else { break };
                self.hold(held, name, counter).await;
                if self.stop.is_set() || !session.is_alive() {
                    break;
                }
            }
            match self.random.below(3) {
                0 => drop(session),
                _ => drop(session.close().await),
            }
        }
    }

    /// Waits for as long as a client has patience.
    async fn take(
        &mut self,
        library: &Library,
        session: &Session,
        name: &str,
        counter: u64,
        served: bool,
    ) -> Option<Held> {
        let patience = self.random.millis(500, 8000);
        let wait = async {
            if served {
                ask_member(library, session, name, self.mark(counter))
                    .await
                    .map(|served| Held::Served(Box::new(served)))
            } else if name.ends_with('0') {
                session.lock(name).await.map(Held::Lock)
            } else {
                session.campaign(name, self.mark(counter)).await.map(Held::Office)
            }
        };
        tokio::time::timeout(patience, wait).await.ok()?.ok()
    }

    async fn hold(&mut self, held: Held, name: String, counter: u64) {
        let start = self.rpc.clock.world_now();
        let length = self.random.millis(0, 2500);
        let fenced = Transaction {
            conditions: vec![Condition { key: held.key(), field: Field::Create(held.token()) }],
            success: vec![Step::Put {
                key: format!("{RECIPES}by {name}"),
                value: Some(format!("{}f", self.mark(counter))),
                lease: Some(0),
            }],
            failure: Vec::new(),
        };
        let member = self.any_member();
        // The write is waited for also by a client that has lost its lock meanwhile: the fence has to stop it, not the client.
        let write = self.rpc.run(self.number, member, Op::Txn(fenced));
        let work = async {
            let lost = tokio::time::timeout(length, held.lost()).await.is_ok();
            (lost, self.rpc.clock.world_now())
        };
        let (_, (lost, end)) = tokio::join!(write, work);
        self.rpc.history.lock().holds.push(Hold { client: self.number, name, start, end, token: held.token() });
        if !lost && self.random.chance(700) {
            drop(held.give_back().await);
        }
    }
}

/// Has a member wait for the lock or the office.
async fn ask_member(library: &Library, session: &Session, name: &str, value: String) -> Result<Served, Error> {
    let (name, lease) = (Bytes::from(name.to_owned()), session.lease());
    let (client, library, session) = (library.all(), library.clone(), session.clone());
    if name.ends_with(b"0") {
        let key = client.lock_service().lock(LockRequest { name, lease }).await?.key;
        let kvs = client.get(key.clone(), None).await?.kvs;
        // It may have ended with its lease by now.
        let gone = || Error::LeaseLost { id: lease, reason: "its key is gone".into() };
        let token = kvs.first().filter(|kv| kv.lease == lease).ok_or_else(gone)?.create_revision;
        return Ok(Served { library, session, key, token, office: None });
    }
    let request = CampaignRequest { name, lease, value: value.into() };
    let leader = client.election_service().campaign(request).await?.leader.unwrap_or_default();
    Ok(Served { library, session, key: leader.key.clone(), token: leader.rev, office: Some(leader) })
}
