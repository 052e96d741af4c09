//! What a request is about, for the audit log: keys, leases, members, users. Never a value, never a password.

use crate::grpc::Method;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use prost::Message;
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::{v3electionpb as electionpb, v3lockpb as lockpb};
use serde_json::{Map, Value, json};

/// Most keys and ranges of one line; how many more there are is said.
const RANGES_MAX: usize = 256;
/// Most bytes of one key; how long it is is said.
const KEY_BYTES_MAX: usize = 1024;

type Line = Map<String, Value>;

/// Whether a method changes nothing, and tells nothing but single keys and state. (A snapshot tells everything.)
pub fn only_reads(method: Method) -> bool {
    match method {
        Method::Range
        | Method::RangeStream
        | Method::Watch
        | Method::LeaseKeepAlive
        | Method::LeaseTimeToLive
        | Method::LeaseLeases
        | Method::MemberList
        | Method::Status
        | Method::Hash
        | Method::HashKv
        | Method::AuthStatus
        | Method::UserGet
        | Method::UserList
        | Method::RoleGet
        | Method::RoleList
        | Method::HealthCheck
        | Method::HealthWatch
        | Method::Leader
        | Method::Observe
        | Method::ClusterHealth
        | Method::MaintenanceProgress => true,
        Method::Put
        | Method::Txn
        | Method::DeleteRange
        | Method::LeaseGrant
        | Method::LeaseRevoke
        | Method::Compact
        | Method::MemberAdd
        | Method::MemberRemove
        | Method::MemberUpdate
        | Method::MemberPromote
        | Method::Alarm
        | Method::Defragment
        | Method::Snapshot
        | Method::MoveLeader
        | Method::Downgrade
        | Method::Authenticate
        | Method::AuthEnable
        | Method::AuthDisable
        | Method::UserAdd
        | Method::UserDelete
        | Method::UserChangePassword
        | Method::UserGrantRole
        | Method::UserRevokeRole
        | Method::RoleAdd
        | Method::RoleDelete
        | Method::RoleGrantPermission
        | Method::RoleRevokePermission
        | Method::Lock
        | Method::Unlock
        | Method::Campaign
        | Method::Proclaim
        | Method::Resign => false,
    }
}

/// Adds what a request is about. One that cannot be decoded adds nothing: its outcome says so.
pub fn describe(method: Method, message: Bytes, line: &mut Line) {
    // An error means that the request was refused for it already.
    let _ = try_describe(method, message, line);
}

fn try_describe(method: Method, message: Bytes, line: &mut Line) -> Result<(), prost::DecodeError> {
    match method {
        Method::Range | Method::RangeStream => {
            let request = pb::RangeRequest::decode(message)?;
            ranges(line, vec![Op::of("range", request.key, request.range_end)]);
        }
        Method::Put => ranges(line, vec![Op::of("put", pb::PutRequest::decode(message)?.key, Bytes::new())]),
        Method::DeleteRange => {
            let request = pb::DeleteRangeRequest::decode(message)?;
            ranges(line, vec![Op::of("delete", request.key, request.range_end)]);
        }
        Method::Txn => {
            let mut ops = Vec::new();
            txn(pb::TxnRequest::decode(message)?, &mut ops);
            ranges(line, ops);
        }
        Method::Watch => {
            if let Some(pb::watch_request::RequestUnion::CreateRequest(create)) =
                pb::WatchRequest::decode(message)?.request_union
            {
                ranges(line, vec![Op::of("watch", create.key, create.range_end)]);
            }
        }
        Method::Compact => set(line, "compact_revision", pb::CompactionRequest::decode(message)?.revision),
        Method::LeaseGrant => {
            let request = pb::LeaseGrantRequest::decode(message)?;
            set(line, "lease", format!("{:x}", request.id));
            set(line, "ttl", request.ttl);
        }
        Method::LeaseRevoke => {
            set(line, "lease", format!("{:x}", pb::LeaseRevokeRequest::decode(message)?.id));
        }
        Method::LeaseTimeToLive => {
            set(line, "lease", format!("{:x}", pb::LeaseTimeToLiveRequest::decode(message)?.id));
        }
        Method::MemberAdd => set(line, "peer_urls", pb::MemberAddRequest::decode(message)?.peer_urls),
        Method::MemberRemove => member(line, pb::MemberRemoveRequest::decode(message)?.id),
        Method::MemberUpdate => {
            let request = pb::MemberUpdateRequest::decode(message)?;
            member(line, request.id);
            set(line, "peer_urls", request.peer_urls);
        }
        Method::MemberPromote => member(line, pb::MemberPromoteRequest::decode(message)?.id),
        Method::MoveLeader => member(line, pb::MoveLeaderRequest::decode(message)?.target_id),
        Method::Alarm => {
            let request = pb::AlarmRequest::decode(message)?;
            member(line, request.member_id);
            set(line, "action", request.action().as_str_name());
            set(line, "alarm", request.alarm().as_str_name());
        }
        Method::Downgrade => {
            let request = pb::DowngradeRequest::decode(message)?;
            set(line, "action", request.action().as_str_name());
            set(line, "version", request.version);
        }
        Method::Authenticate => set(line, "name", pb::AuthenticateRequest::decode(message)?.name),
        Method::UserAdd => set(line, "name", pb::AuthUserAddRequest::decode(message)?.name),
        Method::UserGet => set(line, "name", pb::AuthUserGetRequest::decode(message)?.name),
        Method::UserDelete => set(line, "name", pb::AuthUserDeleteRequest::decode(message)?.name),
        Method::UserChangePassword => {
            set(line, "name", pb::AuthUserChangePasswordRequest::decode(message)?.name);
        }
        Method::UserGrantRole => {
            let request = pb::AuthUserGrantRoleRequest::decode(message)?;
            set(line, "name", request.user);
            set(line, "role", request.role);
        }
        Method::UserRevokeRole => {
            let request = pb::AuthUserRevokeRoleRequest::decode(message)?;
            set(line, "name", request.name);
            set(line, "role", request.role);
        }
        Method::RoleAdd => set(line, "role", pb::AuthRoleAddRequest::decode(message)?.name),
        Method::RoleGet => set(line, "role", pb::AuthRoleGetRequest::decode(message)?.role),
        Method::RoleDelete => set(line, "role", pb::AuthRoleDeleteRequest::decode(message)?.role),
        Method::RoleGrantPermission => {
            let request = pb::AuthRoleGrantPermissionRequest::decode(message)?;
            set(line, "role", request.name);
            let permission = request.perm.unwrap_or_default();
            let op = match permission.perm_type() {
                authpb::permission::Type::Read => "grant read",
                authpb::permission::Type::Write => "grant write",
                authpb::permission::Type::Readwrite => "grant readwrite",
            };
            ranges(line, vec![Op::of(op, permission.key, permission.range_end)]);
        }
        Method::RoleRevokePermission => {
            let request = pb::AuthRoleRevokePermissionRequest::decode(message)?;
            set(line, "role", request.role);
            ranges(line, vec![Op::of("revoke", request.key, request.range_end)]);
        }
        Method::Lock => name(line, &lockpb::LockRequest::decode(message)?.name),
        Method::Unlock => {
            ranges(line, vec![Op::of("unlock", lockpb::UnlockRequest::decode(message)?.key, Bytes::new())])
        }
        Method::Campaign => name(line, &electionpb::CampaignRequest::decode(message)?.name),
        Method::Leader | Method::Observe => name(line, &electionpb::LeaderRequest::decode(message)?.name),
        Method::Proclaim => leader(line, "proclaim", electionpb::ProclaimRequest::decode(message)?.leader),
        Method::Resign => leader(line, "resign", electionpb::ResignRequest::decode(message)?.leader),
        Method::AuthEnable
        | Method::AuthDisable
        | Method::UserList
        | Method::RoleList
        | Method::LeaseKeepAlive
        | Method::LeaseLeases
        | Method::MemberList
        | Method::Status
        | Method::Defragment
        | Method::Hash
        | Method::HashKv
        | Method::Snapshot
        | Method::AuthStatus
        | Method::HealthCheck
        | Method::HealthWatch
        | Method::ClusterHealth
        | Method::MaintenanceProgress => {}
    }
    Ok(())
}

/// The revision in the header of an answer, whatever its type is: the header is always the first field.
pub fn revision(reply: &[u8]) -> Option<i64> {
    let revision = HeaderOnly::decode(reply).ok()?.header?.revision;
    (revision > 0).then_some(revision)
}

/// What all answers with a header have in common.
#[derive(Clone, PartialEq, Message)]
struct HeaderOnly {
    #[prost(message, optional, tag = "1")]
    header: Option<pb::ResponseHeader>,
}

fn set(line: &mut Line, name: &str, value: impl Into<Value>) {
    line.insert(name.to_owned(), value.into());
}

fn member(line: &mut Line, id: u64) {
    set(line, "member", format!("{id:x}"));
}

fn name(line: &mut Line, name: &[u8]) {
    bytes(line, "name", name);
}

fn leader(line: &mut Line, op: &'static str, leader: Option<electionpb::LeaderKey>) {
    if let Some(leader) = leader {
        ranges(line, vec![Op::of(op, leader.key, Bytes::new())]);
    }
}

/// One operation on keys.
struct Op {
    name: &'static str,
    key: Bytes,
    range_end: Bytes,
}

impl Op {
    fn of(name: &'static str, key: impl Into<Bytes>, range_end: impl Into<Bytes>) -> Self {
        Self { name, key: key.into(), range_end: range_end.into() }
    }
}

/// Conditions and operations, those of nested transactions included. Decoding has bounded the depth.
fn txn(txn: pb::TxnRequest, ops: &mut Vec<Op>) {
    ops.extend(txn.compare.into_iter().map(|compare| Op::of("compare", compare.key, compare.range_end)));
    for op in txn.success.into_iter().chain(txn.failure) {
        match op.request {
            Some(pb::request_op::Request::RequestRange(range)) => ops.push(Op::of("range", range.key, range.range_end)),
            Some(pb::request_op::Request::RequestPut(put)) => ops.push(Op::of("put", put.key, Bytes::new())),
            Some(pb::request_op::Request::RequestDeleteRange(delete)) => {
                ops.push(Op::of("delete", delete.key, delete.range_end));
            }
            Some(pb::request_op::Request::RequestTxn(nested)) => self::txn(nested, ops),
            None => {}
        }
    }
}

fn ranges(line: &mut Line, ops: Vec<Op>) {
    let more = ops.len().saturating_sub(RANGES_MAX);
    let shown = ops.into_iter().take(RANGES_MAX).map(|op| {
        let mut shown = Line::new();
        set(&mut shown, "op", op.name);
        bytes(&mut shown, "key", &op.key);
        if !op.range_end.is_empty() {
            bytes(&mut shown, "range_end", &op.range_end);
        }
        Value::Object(shown)
    });
    line.insert("ranges".into(), Value::Array(shown.collect()));
    if more > 0 {
        line.insert("more_ranges".into(), json!(more));
    }
}

/// As text if it is text, else as `..._base64`; cut if it is long, and then with its length.
fn bytes(line: &mut Line, name: &str, bytes: &[u8]) {
    let cut = &bytes[..bytes.len().min(KEY_BYTES_MAX)];
    match std::str::from_utf8(cut) {
        Ok(text) => set(line, name, text),
        Err(_) => set(line, &format!("{name}_base64"), BASE64_STANDARD.encode(cut)),
    }
    if cut.len() < bytes.len() {
        set(line, &format!("{name}_bytes"), bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described(method: Method, message: &impl Message) -> Value {
        let mut line = Line::new();
        describe(method, message.encode_to_vec().into(), &mut line);
        Value::Object(line)
    }

    #[test]
    fn keys_are_told_and_values_are_not() {
        let put = pb::PutRequest { key: "k".into(), value: "s3cret".into(), ..Default::default() };
        let nested = pb::TxnRequest {
            compare: vec![pb::Compare {
                key: "c".into(),
                target_union: Some(pb::compare::TargetUnion::Value("s3cret".into())),
                ..Default::default()
            }],
            success: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }],
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            failure: vec![pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(nested)) }],
            ..Default::default()
        };
        assert_eq!(
            described(Method::Txn, &txn),
            json!({ "ranges": [{ "op": "compare", "key": "c" }, { "op": "put", "key": "k" }] })
        );
        let delete = pb::DeleteRangeRequest { key: "a\0".into(), range_end: vec![0xff].into(), prev_kv: true };
        assert_eq!(
            described(Method::DeleteRange, &delete),
            json!({ "ranges": [{ "op": "delete", "key": "a\0", "range_end_base64": "/w==" }] })
        );
        let login = pb::AuthenticateRequest { name: "me".into(), password: "s3cret".into() };
        assert_eq!(described(Method::Authenticate, &login), json!({ "name": "me" }));
    }

    #[test]
    fn a_line_is_bounded_and_says_what_is_missing() {
        let put = pb::PutRequest { key: vec![b'k'; 5000].into(), ..Default::default() };
        let line = described(Method::Put, &put);
        assert_eq!(
            (line["ranges"][0]["key"].as_str().unwrap().len(), &line["ranges"][0]["key_bytes"]),
            (1024, &json!(5000))
        );
        let op = pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(pb::PutRequest::default())) };
        let txn = pb::TxnRequest { success: vec![op; 300], ..Default::default() };
        assert_eq!(described(Method::Txn, &txn)["more_ranges"], json!(44));
    }

    #[test]
    fn what_is_not_a_message_adds_nothing() {
        let mut line = Line::new();
        describe(Method::Put, Bytes::from_static(&[0xff; 8]), &mut line);
        assert!(line.is_empty());
        assert_eq!(revision(&[0xff; 8]), None);
    }
}
