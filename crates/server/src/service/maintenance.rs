//! The Maintenance service.

use super::{Answers, Outbox, body};
use crate::client::Client;
use crate::convert;
use crate::grpc::{Body, Session};
use crate::metrics::Counter;
use crate::status::status as failure;
use crate::version;
use quorate_core::{Alarm, MemberId, Revision};
use quorate_node::{Downgrade, SnapshotReader};
use quorate_proto::etcdserverpb as pb;
use sha2::{Digest, Sha256};
use std::time::Instant;
use tonic::Status;

/// The target of a downgrade is not a version.
const WRONG_VERSION: &str = "etcdserver: wrong downgrade target version format";

/// State of this member.
pub async fn status(client: &Client, _: pb::StatusRequest) -> Result<pb::StatusResponse, Status> {
    let header = client.node.header();
    let status = client.node.status();
    let mut errors = Vec::new();
    // A leader that has lost its quorum leads nobody.
    if !client.node.has_leader() {
        errors.push(quorate_node::Error::NoLeader.to_string());
    }
    // The trailing space is etcd's.
    errors.extend(
        status
            .alarms
            .iter()
            .map(|alarm| format!("memberID:{} alarm:{} ", alarm.member, convert::alarm_name(alarm.kind))),
    );
    Ok(pb::StatusResponse {
        header: Some(convert::header(header)),
        version: version::ETCD_SERVER.to_owned(),
        db_size: status.db_size_bytes,
        leader: status.leader.map_or(0, MemberId::get),
        raft_index: status.committed_index.get(),
        raft_term: status.term.get(),
        raft_applied_index: status.applied_index.get(),
        errors,
        db_size_in_use: status.db_size_in_use_bytes,
        is_learner: status.is_learner,
        storage_version: version::of_cluster(status.versions),
        db_size_quota: status.db_quota_bytes,
        downgrade_info: Some(pb::DowngradeInfo {
            enabled: status.versions.target.is_some(),
            target_version: status.versions.target.map_or_else(String::new, version::with_patch),
        }),
    })
}

/// Lists, raises or clears alarms.
pub async fn alarm(client: &Client, request: pb::AlarmRequest) -> Result<pb::AlarmResponse, Status> {
    use pb::alarm_request::AlarmAction;
    let kind = convert::alarm_kind(request.alarm);
    let active = match AlarmAction::try_from(request.action) {
        Ok(AlarmAction::Get) => {
            // etcd sends the question through the log: what was raised anywhere before is in the answer.
            let answer = client.node.alarms_linearizable().await.map_err(|error| failure(&error))?;
            let alarms = answer.body.into_iter().filter(|alarm| kind.is_none_or(|kind| alarm.kind == kind));
            return Ok(pb::AlarmResponse {
                header: Some(convert::header(answer.header)),
                alarms: alarms.map(convert::alarm).collect(),
            });
        }
        Ok(AlarmAction::Activate) => true,
        Ok(AlarmAction::Deactivate) => false,
        Err(_) => return Err(Status::invalid_argument("etcdserver: invalid alarm action")),
    };
    // As in etcd, setting "no alarm" changes nothing.
    let Some(kind) = kind else {
        return Ok(pb::AlarmResponse { header: Some(convert::header(client.node.header())), alarms: Vec::new() });
    };
    let alarm = Alarm { member: MemberId::new(request.member_id), kind };
    let answer = client.node.alarm_set(alarm, active).await.map_err(|error| failure(&error))?;
    Ok(pb::AlarmResponse {
        header: Some(convert::header(answer.header)),
        alarms: answer.body.into_iter().map(convert::alarm).collect(),
    })
}

/// Compacts the engine online. As in etcd, the answer has no header.
pub async fn defragment(client: &Client, _: pb::DefragmentRequest) -> Result<pb::DefragmentResponse, Status> {
    let start = Instant::now();
    client.metrics.defragmentations_begun.increment();
    // Counted as ended even if the client gives up and this call is dropped.
    let _ended = Ended(&client.metrics.defragmentations_ended);
    client.node.defragment().await.map_err(|error| failure(&error))?;
    client.metrics.defragmentations.observe(start.elapsed());
    Ok(pb::DefragmentResponse { header: None })
}

/// Counts when it is dropped.
struct Ended<'a>(&'a Counter);

impl Drop for Ended<'_> {
    fn drop(&mut self) {
        self.0.increment();
    }
}

/// Hash of everything that is kept.
pub async fn hash(client: &Client, _: pb::HashRequest) -> Result<pb::HashResponse, Status> {
    let start = Instant::now();
    let answer = client.node.hash_kv(Revision::ZERO).await.map_err(|error| failure(&error))?;
    client.metrics.hashes.observe(start.elapsed());
    Ok(pb::HashResponse { header: Some(convert::header(answer.header)), hash: answer.body.hash })
}

/// Hash of the history up to a revision.
pub async fn hash_kv(client: &Client, request: pb::HashKvRequest) -> Result<pb::HashKvResponse, Status> {
    let start = Instant::now();
    let answer = client.node.hash_kv(Revision::new(request.revision)).await.map_err(|error| failure(&error))?;
    client.metrics.revision_hashes.observe(start.elapsed());
    Ok(pb::HashKvResponse {
        header: Some(convert::header(answer.header)),
        hash: answer.body.hash,
        compact_revision: compact_revision(answer.body.compact_revision),
        hash_revision: answer.body.hash_revision.get(),
    })
}

/// Hands leadership over. As in etcd, the answer has no header.
pub async fn move_leader(client: &Client, request: pb::MoveLeaderRequest) -> Result<pb::MoveLeaderResponse, Status> {
    client.node.move_leader(MemberId::new(request.target_id)).await.map_err(|error| failure(&error))?;
    Ok(pb::MoveLeaderResponse { header: None })
}

/// Checks, begins or ends a downgrade.
pub async fn downgrade(client: &Client, request: pb::DowngradeRequest) -> Result<pb::DowngradeResponse, Status> {
    use pb::downgrade_request::DowngradeAction;
    let target = || version::parse(&request.version).ok_or_else(|| Status::invalid_argument(WRONG_VERSION));
    let downgrade = match DowngradeAction::try_from(request.action) {
        Ok(DowngradeAction::Validate) => Downgrade::Validate(target()?),
        Ok(DowngradeAction::Enable) => Downgrade::Enable(target()?),
        Ok(DowngradeAction::Cancel) => Downgrade::Cancel,
        Err(_) => return Err(Status::unknown("etcdserver: unknown method")),
    };
    let answer = client.node.downgrade(downgrade).await.map_err(|error| failure(&error))?;
    Ok(pb::DowngradeResponse { header: Some(convert::header(answer.header)), version: answer.body.to_string() })
}

/// Sends a snapshot of the keyspace, and its SHA-256 at the end.
pub async fn snapshot(session: Session, _: pb::SnapshotRequest) -> Result<Body, (Session, Status)> {
    match session.client.node.snapshot().await {
        Ok(reader) => Ok(body(SnapshotAnswers { session, reader, hash: Some(Sha256::new()), start: Instant::now() })),
        Err(error) => Err((session, failure(&error))),
    }
}

struct SnapshotAnswers {
    session: Session,
    reader: SnapshotReader,
    /// Of all that was sent; taken when it was sent itself.
    hash: Option<Sha256>,
    start: Instant,
}

impl Answers for SnapshotAnswers {
    fn session(&mut self) -> &mut Session {
        &mut self.session
    }

    async fn next(&mut self, out: &mut Outbox) -> Result<bool, Status> {
        let blob = match (self.reader.next().await.map_err(|error| failure(&error))?, &mut self.hash) {
            (_, None) => return Ok(false),
            (Some(blob), Some(hash)) => {
                hash.update(&blob);
                blob
            }
            (None, Some(hash)) => {
                let digest = hash.finalize_reset();
                self.hash = None;
                self.session.client.metrics.snapshots.observe(self.start.elapsed());
                bytes::Bytes::copy_from_slice(&digest)
            }
        };
        out.push(&pb::SnapshotResponse {
            header: None,
            remaining_bytes: self.reader.remaining_bytes(),
            blob,
            version: version::ETCD_STORAGE.to_owned(),
        });
        Ok(true)
    }
}

/// etcd says -1 where nothing was compacted yet.
fn compact_revision(revision: Revision) -> i64 {
    if revision == Revision::ZERO { -1 } else { revision.get() }
}
