//! The Election service: whoever has the oldest key below the election's name leads, and its value is what it says of
//! itself.

use super::recipe::{Place, Watch, created_at, oldest, op, range_of, rewrite, session};
use super::{Answers, Outbox, body, kv};
use crate::client::Client;
use crate::convert;
use crate::grpc::{Body, Session, end};
use crate::status::unknown;
use bytes::Bytes;
use pb::request_op::Request;
use quorate_core::{Change, KeyRange, Record, Rejection};
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb::KeyValue;
use quorate_proto::v3electionpb::{
    CampaignRequest, CampaignResponse, LeaderKey, LeaderRequest, LeaderResponse, ProclaimRequest, ProclaimResponse,
    ResignRequest, ResignResponse,
};
use tonic::Status;

fn leader_key(leader: Option<LeaderKey>) -> Result<LeaderKey, Status> {
    leader.ok_or_else(|| Status::unknown("\"leader\" field must be provided"))
}

/// Waits until the client's lease leads.
pub async fn campaign(client: &Client, request: CampaignRequest) -> Result<CampaignResponse, Status> {
    let CampaignRequest { name, lease, value } = request;
    let place = Place::take(client, name.clone(), lease, value).await.map_err(unknown)?;
    match place.wait(client).await.map_err(unknown)? {
        Some(_) => {
            let key = place.key.clone();
            let leader = LeaderKey { name, key, rev: place.revision, lease: place.lease };
            let header = Some(place.header);
            place.keep();
            Ok(CampaignResponse { header, leader: Some(leader) })
        }
        // etcd says that the election was won. It was not: the key is gone with its lease.
        None => Err(Status::unknown(Rejection::LeaseNotFound.to_string())),
    }
}

/// Replaces what the leader says of itself.
pub async fn proclaim(client: &Client, request: ProclaimRequest) -> Result<ProclaimResponse, Status> {
    let leader = leader_key(request.leader)?;
    let lease = session(client, leader.lease).await.map_err(unknown)?.lease;
    match rewrite(client, &leader.key, leader.rev, lease, request.value).await.map_err(unknown)? {
        Some(header) => Ok(ProclaimResponse { header: Some(header) }),
        None => Err(Status::unknown("election: not leader")),
    }
}

/// Tells who leads.
pub async fn leader(client: &Client, request: LeaderRequest) -> Result<LeaderResponse, Status> {
    let response = kv::range(client, oldest(&request.name)).await.map_err(unknown)?;
    match response.kvs.into_iter().next() {
        Some(kv) => Ok(LeaderResponse { header: response.header, kv: Some(kv) }),
        None => Err(Status::unknown("election: no leader")),
    }
}

/// Gives leadership up. As in etcd, it is no error if there is nothing to give up.
pub async fn resign(client: &Client, request: ResignRequest) -> Result<ResignResponse, Status> {
    let leader = leader_key(request.leader)?;
    let delete = pb::DeleteRangeRequest { key: leader.key.clone(), ..Default::default() };
    let request = pb::TxnRequest {
        compare: vec![created_at(&leader.key, leader.rev)],
        success: vec![op(Request::RequestDeleteRange(delete))],
        failure: Vec::new(),
    };
    let response = kv::txn(client, request).await.map_err(unknown)?;
    Ok(ResignResponse { header: response.header })
}

/// Sends who leads, and each change of it.
pub async fn observe(session: Session, request: LeaderRequest) -> Result<Body, (Session, Status)> {
    Ok(body(Observer { session, name: request.name, phase: Phase::Start }))
}

struct Observer {
    session: Session,
    name: Bytes,
    phase: Phase,
}

enum Phase {
    /// Nothing is known yet: the first answer is as of now.
    Start,
    /// The leader went: who leads by this member's state, which has seen it go?
    Look,
    /// Nobody leads: the first key that is put does.
    Vacant(Watch),
    /// Somebody leads, and may say something else, or go.
    Led(Watch),
}

impl Answers for Observer {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        while out.messages == 0 {
            let Session { client, no_leader, .. } = &mut self.session;
            let step = step(client, &self.name, &mut self.phase, out);
            tokio::select! {
                biased;
                outcome = step => outcome.map_err(unknown)?,
                failure = end(client, no_leader) => return Err(failure),
            }
        }
        Ok(true)
    }
}

/// Goes on by one phase, or by some events. Cancel-safe as long as it is not called again.
async fn step(client: &Client, name: &Bytes, phase: &mut Phase, out: &mut Outbox) -> Result<(), Status> {
    *phase = match phase {
        Phase::Start => look(client, name, false, out).await?,
        Phase::Look => look(client, name, true, out).await?,
        Phase::Vacant(watch) => match watch.next().await? {
            None => Phase::Look,
            Some((_, records)) => {
                let Some(kv) = records.into_iter().find_map(Record::into_key_value) else { return Ok(()) };
                let (key, revision) = (kv.key.clone(), kv.mod_revision.get());
                send(client, revision, convert::key_value(kv), out);
                follow(client, key, revision)
            }
        },
        Phase::Led(watch) => match watch.next().await? {
            None => Phase::Look,
            Some((revision, records)) => {
                for record in records {
                    match record.change {
                        Change::Put { .. } => {
                            if let Some(kv) = record.into_key_value() {
                                send(client, revision, convert::key_value(kv), out);
                            }
                        }
                        Change::Delete => {
                            *phase = Phase::Look;
                            return Ok(());
                        }
                    }
                }
                return Ok(());
            }
        },
    };
    Ok(())
}

async fn look(client: &Client, name: &Bytes, serializable: bool, out: &mut Outbox) -> Result<Phase, Status> {
    // The stream may be old: its client must still be who they were, and still be allowed to read.
    let client = &client.proven().await?;
    let response = kv::range(client, pb::RangeRequest { serializable, ..oldest(name) }).await?;
    let revision = response.header.unwrap_or_default().revision;
    Ok(match response.kvs.into_iter().next() {
        Some(kv) => {
            let key = kv.key.clone();
            send(client, revision, kv, out);
            follow(client, key, revision)
        }
        None => {
            let (start, end) = range_of(name);
            Phase::Vacant(Watch::after(client, revision, [KeyRange::Interval { start, end }], false))
        }
    })
}

fn follow(client: &Client, key: Bytes, seen: i64) -> Phase {
    Phase::Led(Watch::after(client, seen, [KeyRange::Single(key)], false))
}

fn send(client: &Client, revision: i64, kv: KeyValue, out: &mut Outbox) {
    let header = pb::ResponseHeader { revision, ..convert::header(client.node.header()) };
    out.push(&LeaderResponse { header: Some(header), kv: Some(kv) });
}
