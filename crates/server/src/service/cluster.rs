//! The Cluster service, and what there is of Auth: that it is off.

use crate::convert;
use crate::shared::Shared;
use crate::status::status;
use quorate_core::MemberId;
use quorate_proto::etcdserverpb as pb;
use tonic::Status;

/// Lists the members.
pub async fn member_list(shared: &Shared, request: pb::MemberListRequest) -> Result<pb::MemberListResponse, Status> {
    let answer = shared.node.members(request.linearizable).await.map_err(|error| status(&error))?;
    Ok(pb::MemberListResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Adds a member.
pub async fn member_add(shared: &Shared, request: pb::MemberAddRequest) -> Result<pb::MemberAddResponse, Status> {
    let answer = shared.node.member_add(request.peer_urls, request.is_learner).await.map_err(|error| status(&error))?;
    let (member, members) = answer.body;
    Ok(pb::MemberAddResponse {
        header: Some(convert::cluster_header(answer.header)),
        member: Some(convert::member(member)),
        members: convert::members(members),
    })
}

/// Removes a member.
pub async fn member_remove(
    shared: &Shared,
    request: pb::MemberRemoveRequest,
) -> Result<pb::MemberRemoveResponse, Status> {
    let answer = shared.node.member_remove(MemberId::new(request.id)).await.map_err(|error| status(&error))?;
    Ok(pb::MemberRemoveResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Changes a member's peer URLs.
pub async fn member_update(
    shared: &Shared,
    request: pb::MemberUpdateRequest,
) -> Result<pb::MemberUpdateResponse, Status> {
    let answer = shared
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
    shared: &Shared,
    request: pb::MemberPromoteRequest,
) -> Result<pb::MemberPromoteResponse, Status> {
    let answer = shared.node.member_promote(MemberId::new(request.id)).await.map_err(|error| status(&error))?;
    Ok(pb::MemberPromoteResponse {
        header: Some(convert::cluster_header(answer.header)),
        members: convert::members(answer.body),
    })
}

/// Tells that authentication is off.
pub async fn auth_status(shared: &Shared, _: pb::AuthStatusRequest) -> Result<pb::AuthStatusResponse, Status> {
    let header = Some(convert::header(shared.node.header()));
    // etcd's auth revision starts at 1.
    Ok(pb::AuthStatusResponse { header, enabled: false, auth_revision: 1 })
}

/// Refuses as etcd does while authentication is off; clients with a password then go on without a token.
pub async fn authenticate(_: &Shared, _: pb::AuthenticateRequest) -> Result<pb::AuthenticateResponse, Status> {
    Err(Status::failed_precondition("etcdserver: authentication is not enabled"))
}
