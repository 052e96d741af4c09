//! What Quorate offers beyond etcd's API.

use crate::client::Client;
use crate::status::status;
use quorate_node::{MemberHealth, Work};
use quorate_proto::quorate_v1 as pb;
use tonic::Status;

/// Asks every member how it is.
pub async fn cluster_health(client: &Client, _: pb::ClusterHealthRequest) -> Result<pb::ClusterHealthResponse, Status> {
    let members = client.node.cluster_health().await.map_err(|error| status(&error))?;
    Ok(pb::ClusterHealthResponse {
        cluster_id: client.node.cluster_id().get(),
        member_id: client.node.member_id().get(),
        members: members.into_iter().map(member).collect(),
        warnings: client.security.warnings(),
    })
}

/// How far long work on this member's storage is.
pub async fn maintenance_progress(
    client: &Client,
    _: pb::MaintenanceProgressRequest,
) -> Result<pb::MaintenanceProgressResponse, Status> {
    let progress = client.node.maintenance_progress();
    let work = |work: Work| pb::Work { done: work.done, total: work.total };
    Ok(pb::MaintenanceProgressResponse {
        defragmentation: progress.defragmentation.map(work),
        compaction: progress.compaction.map(work),
    })
}

fn member(health: MemberHealth) -> pb::MemberHealth {
    let known = pb::MemberHealth {
        id: health.id.get(),
        name: health.name,
        is_learner: health.is_learner,
        ..pb::MemberHealth::default()
    };
    match health.state {
        Ok(state) => pb::MemberHealth {
            is_leader: state.is_leader,
            raft_term: state.term.get(),
            applied_index: state.applied_index.get(),
            committed_index: state.committed_index.get(),
            revision: state.revision.get(),
            compacted_revision: state.compacted.get(),
            db_size: state.db_size_bytes,
            engine: state.engine,
            errors: state.errors,
            ..known
        },
        Err(reason) => pb::MemberHealth { errors: vec![reason], ..known },
    }
}
