//! Calls about leases, members and the server itself.

use quorate_proto::etcdserverpb::*;

use crate::calls::{Call, first_of_stream, put_as, put_request, unary};

pub fn lease_grant(id: i64, ttl: i64) -> Call {
    let request = LeaseGrantRequest { id, ttl };
    unary::<_, LeaseGrantResponse>(format!("lease grant {id:x}"), "/etcdserverpb.Lease/LeaseGrant", request)
}

pub fn lease_revoke(id: i64) -> Call {
    let request = LeaseRevokeRequest { id };
    unary::<_, LeaseRevokeResponse>(format!("lease revoke {id:x}"), "/etcdserverpb.Lease/LeaseRevoke", request)
}

pub fn time_to_live(id: i64, keys: bool) -> Call {
    let request = LeaseTimeToLiveRequest { id, keys };
    let shown = format!("lease timetolive {id:x}{}", if keys { " --keys" } else { "" });
    unary::<_, LeaseTimeToLiveResponse>(shown, "/etcdserverpb.Lease/LeaseTimeToLive", request)
}

pub fn lease_list() -> Call {
    unary::<_, LeaseLeasesResponse>("lease list", "/etcdserverpb.Lease/LeaseLeases", LeaseLeasesRequest {})
}

pub fn put_on(key: &str, lease: i64) -> Call {
    put_as(format!("put {key} --lease {lease:x}"), PutRequest { lease, ..put_request(key) })
}

pub fn compact(revision: i64) -> Call {
    let request = CompactionRequest { revision, physical: false };
    unary::<_, CompactionResponse>(format!("compact {revision}"), "/etcdserverpb.KV/Compact", request)
}

pub fn member_list() -> Call {
    let request = MemberListRequest::default();
    unary::<_, MemberListResponse>("member list", "/etcdserverpb.Cluster/MemberList", request).outcome_only()
}

pub fn member_add_nowhere() -> Call {
    let request = MemberAddRequest { peer_urls: vec!["nowhere".to_owned()], is_learner: true };
    unary::<_, MemberAddResponse>("member add", "/etcdserverpb.Cluster/MemberAdd", request)
}

pub fn member_remove(id: u64) -> Call {
    let request = MemberRemoveRequest { id };
    unary::<_, MemberRemoveResponse>("member remove", "/etcdserverpb.Cluster/MemberRemove", request)
}

pub fn member_update(id: u64) -> Call {
    let request = MemberUpdateRequest { id, peer_urls: vec!["http://127.0.0.1:1".to_owned()] };
    unary::<_, MemberUpdateResponse>("member update", "/etcdserverpb.Cluster/MemberUpdate", request)
}

pub fn member_promote(id: u64) -> Call {
    let request = MemberPromoteRequest { id };
    unary::<_, MemberPromoteResponse>("member promote", "/etcdserverpb.Cluster/MemberPromote", request)
}

pub fn status() -> Call {
    unary::<_, StatusResponse>("status", "/etcdserverpb.Maintenance/Status", StatusRequest {}).outcome_only()
}

/// `action` is the number on the wire: 0 to list, 1 to raise, 2 to clear.
pub fn alarm(action: i32) -> Call {
    let request = AlarmRequest { action, alarm: AlarmType::None.into(), member_id: 0 };
    unary::<_, AlarmResponse>(format!("alarm {action}"), "/etcdserverpb.Maintenance/Alarm", request)
}

pub fn alarm_disarm() -> Call {
    let request = AlarmRequest { action: 2, alarm: AlarmType::Nospace.into(), member_id: 1 };
    unary::<_, AlarmResponse>("alarm disarm", "/etcdserverpb.Maintenance/Alarm", request)
}

pub fn defragment() -> Call {
    unary::<_, DefragmentResponse>("defrag", "/etcdserverpb.Maintenance/Defragment", DefragmentRequest {})
}

pub fn hash() -> Call {
    unary::<_, HashResponse>("hash", "/etcdserverpb.Maintenance/Hash", HashRequest {}).outcome_only()
}

pub fn hash_kv() -> Call {
    let request = HashKvRequest { revision: 0 };
    unary::<_, HashKvResponse>("hashkv", "/etcdserverpb.Maintenance/HashKV", request).outcome_only()
}

pub fn snapshot() -> Call {
    first_of_stream::<_, SnapshotResponse>("snapshot", "/etcdserverpb.Maintenance/Snapshot", SnapshotRequest {})
        .outcome_only()
}

pub fn move_leader() -> Call {
    let request = MoveLeaderRequest { target_id: 1 };
    unary::<_, MoveLeaderResponse>("move-leader", "/etcdserverpb.Maintenance/MoveLeader", request)
}

/// `action` is the number on the wire: 0 to check, 1 to begin, 2 to end.
pub fn downgrade(action: i32, version: &str) -> Call {
    let request = DowngradeRequest { action, version: version.to_owned() };
    unary::<_, DowngradeResponse>(format!("downgrade {action}"), "/etcdserverpb.Maintenance/Downgrade", request)
}
