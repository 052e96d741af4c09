//! The Lease service.

use super::{Answers, Outbox, body};
use crate::client::Client;
use crate::convert;
use crate::grpc::{Body, Session, decode};
use crate::limits::Limit;
use crate::status::status;
use bytes::Bytes;
use quorate_core::LeaseId;
use quorate_node::Node;
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

/// Most keep-alives that are answered in one frame.
const KEEP_ALIVE_BATCH: u64 = 64;

/// Grants a lease.
pub async fn grant(client: &Client, request: pb::LeaseGrantRequest) -> Result<pb::LeaseGrantResponse, Status> {
    // The count may lag behind grants under way, whose number is bounded in turn.
    if client.node.lease_count() >= client.leases_max {
        return Err(Limit::Leases.refusal());
    }
    let answer =
        client.node.lease_grant(LeaseId::new(request.id), request.ttl).await.map_err(|error| status(&error))?;
    let (id, ttl) = answer.body;
    Ok(pb::LeaseGrantResponse { header: Some(convert::header(answer.header)), id: id.get(), ttl, error: String::new() })
}

/// Revokes a lease.
pub async fn revoke(client: &Client, request: pb::LeaseRevokeRequest) -> Result<pb::LeaseRevokeResponse, Status> {
    let answer = client.ask(LeaseId::new(request.id), |node, id| async move { node.lease_revoke(id).await }).await?;
    Ok(pb::LeaseRevokeResponse { header: Some(convert::header(answer.header)) })
}

/// How long a lease has left.
pub async fn time_to_live(
    client: &Client,
    request: pb::LeaseTimeToLiveRequest,
) -> Result<pb::LeaseTimeToLiveResponse, Status> {
    let lease = LeaseId::new(request.id);
    let answer =
        client.ask(lease, |node, lease| async move { node.lease_time_to_live(lease, request.keys).await }).await?;
    Ok(convert::lease_time_to_live(answer))
}

/// Lists leases.
pub async fn leases(client: &Client, _: pb::LeaseLeasesRequest) -> Result<pb::LeaseLeasesResponse, Status> {
    let answer = client.node.leases().await.map_err(|error| status(&error))?;
    Ok(pb::LeaseLeasesResponse {
        header: Some(convert::header(answer.header)),
        leases: answer.body.into_iter().map(|id| pb::LeaseStatus { id: id.get() }).collect(),
    })
}

/// Renews leases: one answer for each request, in order.
pub fn keep_alive(session: Session) -> Body {
    // Whether somebody may renew is decided when the stream begins. As in etcd, one that is open goes on when authentication is turned
    // on, so that nobody's lease ends by that; a new one needs a name.
    let node = match session.client.system.auth().enabled() {
        true => session.client.node.clone(),
        false => session.client.system.clone(),
    };
    body(KeepAlives { session, node })
}

struct KeepAlives {
    session: Session,
    /// In whose name leases are renewed.
    node: Node,
}

impl KeepAlives {
    async fn renew(&mut self, message: Bytes, out: &mut Outbox) -> Result<(), Status> {
        self.session.track.received(message.len());
        let request: pb::LeaseKeepAliveRequest = decode(message)?;
        let lease = LeaseId::new(request.id);
        let answer = self.node.lease_keep_alive(lease).await.map_err(|error| status(&error))?;
        out.push(&pb::LeaseKeepAliveResponse {
            header: Some(convert::header(answer.header)),
            id: request.id,
            ttl: answer.body,
        });
        Ok(())
    }
}

impl Answers for KeepAlives {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        let Some(message) = self.session.next_request().await? else { return Ok(false) };
        self.renew(message, out).await?;
        while out.messages < KEEP_ALIVE_BATCH {
            let Some(message) = self.session.requests.take_message()? else { break };
            self.renew(message, out).await?;
        }
        Ok(true)
    }
}
