//! The Cluster service.

use crate::client::Client;
use crate::convert;
use crate::status::status;
use quorate_core::MemberId;
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

/// Lists the members.
pub async fn member_list(client: &Client, request: pb::MemberListRequest) -> Result<pb::MemberListResponse, Status> {
    let answer = client.node.members(request.linearizable).await.map_err(|error| status(&error))?;
    Ok(pb::MemberListResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Adds a member.
pub async fn member_add(client: &Client, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, Status> {
    let answer = client.node.member_add(request.peer_urls, request.is_learner).await.map_err(|error| status(&error))?;
    let (member, members) = answer.body;
    Ok(pb::MemberAddResponse {
        header: Some(convert::cluster_header(answer.header)),
        member: Some(convert::member(member)),
        members: convert::members(members),
    })
}

/// Removes a member.
pub async fn member_remove(
    client: &Client,
    request: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, Status> {
    let answer = client.node.member_remove(MemberId::new(request.id)).await.map_err(|error| status(&error))?;
    Ok(pb::MemberRemoveResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Changes a member's peer URLs.
pub async fn member_update(
    client: &Client,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, Status> {
    let answer = client
        .node
        .member_update(MemberId::new(request.id), request.peer_urls)
        .await
        .map_err(|error| status(&error))?;
    Ok(pb::MemberUpdateResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Makes a learner a voter.
pub async fn member_promote(
    client: &Client,
    request: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, Status> {
    let answer = client.node.member_promote(MemberId::new(request.id)).await.map_err(|error| status(&error))?;
    Ok(pb::MemberPromoteResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}
