//! Between the messages of etcd's API and the types of the core. Free functions, both directions; keys and values are
//! moved, never copied.

use crate::status::rejected;
use bytes::Bytes;
use quorate_core::auth::{Access, Permission, ROOT_ROLE, Role};
use quorate_core::{
    Alarm, AlarmKind, Change, ClusterId, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, KeyValue,
    LeaseId, MemberId, Op, OpReply, Put, RangeReply, RangeRequest, Rejection, Revision, SortOrder, SortTarget, Term,
    Txn, TxnReply, check_delete, check_put,
};
use quorate_node::{Answer, Header, LeaseTimeToLive, Member, WatchCreate, WatchEvent};
use quorate_proto::authpb;
use quorate_proto::etcdserverpb as pb;
use quorate_proto::mvccpb;
use tonic::Status;

/// A range request.
///
/// # Errors
/// An empty key, or a sort option outside its enum.
pub fn range_request(request: pb::RangeRequest) -> Result<RangeRequest, Status> {
    // etcd looks at the key first.
    if request.key.is_empty() {
        return Err(rejected(Rejection::EmptyKey));
    }
    Ok(RangeRequest {
        sort_order: match pb::range_request::SortOrder::try_from(request.sort_order) {
            Ok(pb::range_request::SortOrder::None) => SortOrder::None,
            Ok(pb::range_request::SortOrder::Ascend) => SortOrder::Ascend,
            Ok(pb::range_request::SortOrder::Descend) => SortOrder::Descend,
            Err(_) => return Err(rejected(Rejection::InvalidSortOption)),
        },
        sort_target: match pb::range_request::SortTarget::try_from(request.sort_target) {
            Ok(pb::range_request::SortTarget::Key) => SortTarget::Key,
            Ok(pb::range_request::SortTarget::Version) => SortTarget::Version,
            Ok(pb::range_request::SortTarget::Create) => SortTarget::Create,
            Ok(pb::range_request::SortTarget::Mod) => SortTarget::Mod,
            Ok(pb::range_request::SortTarget::Value) => SortTarget::Value,
            Err(_) => return Err(rejected(Rejection::InvalidSortOption)),
        },
        range: KeyRange::from_wire(request.key, request.range_end),
        limit: request.limit,
        revision: Revision::new(request.revision),
        serializable: request.serializable,
        keys_only: request.keys_only,
        count_only: request.count_only,
        min_mod_revision: Revision::new(request.min_mod_revision),
        max_mod_revision: Revision::new(request.max_mod_revision),
        min_create_revision: Revision::new(request.min_create_revision),
        max_create_revision: Revision::new(request.max_create_revision),
    })
}

/// A put.
pub fn put_request(request: pb::PutRequest) -> Put {
    Put {
        key: request.key,
        value: request.value,
        lease: LeaseId::new(request.lease),
        prev_kv: request.prev_kv,
        ignore_value: request.ignore_value,
        ignore_lease: request.ignore_lease,
    }
}

/// A delete.
pub fn delete_request(request: pb::DeleteRangeRequest) -> DeleteRange {
    DeleteRange { range: KeyRange::from_wire(request.key, request.range_end), prev_kv: request.prev_kv }
}

/// A transaction.
///
/// # Errors
/// In etcd's order: more than `ops_max` operations in a list, an empty key in a compare, then what is wrong with each
/// operation, one after the other: it is empty, or none of its own checks lets it pass.
pub fn txn_request(request: pb::TxnRequest, ops_max: usize) -> Result<Txn, Status> {
    let longest = request.compare.len().max(request.success.len()).max(request.failure.len());
    let Some(ops_left) = ops_max.checked_sub(longest) else { return Err(rejected(Rejection::TooManyOps)) };
    Ok(Txn {
        compares: request.compare.into_iter().map(compare).collect::<Result<_, _>>()?,
        success: request.success.into_iter().map(|op| request_op(op, ops_left)).collect::<Result<_, _>>()?,
        failure: request.failure.into_iter().map(|op| request_op(op, ops_left)).collect::<Result<_, _>>()?,
    })
}

fn request_op(op: pb::RequestOp, ops_max: usize) -> Result<Op, Status> {
    Ok(match op.request {
        Some(pb::request_op::Request::RequestRange(request)) => Op::Range(range_request(request)?),
        Some(pb::request_op::Request::RequestPut(request)) => {
            let put = put_request(request);
            check_put(&put).map_err(rejected)?;
            Op::Put(put)
        }
        Some(pb::request_op::Request::RequestDeleteRange(request)) => {
            let delete = delete_request(request);
            check_delete(&delete).map_err(rejected)?;
            Op::DeleteRange(delete)
        }
        Some(pb::request_op::Request::RequestTxn(request)) => Op::Txn(txn_request(request, ops_max)?),
        None => return Err(rejected(Rejection::KeyNotFound)),
    })
}

fn compare(compare: pb::Compare) -> Result<Compare, Status> {
    use pb::compare::{CompareResult as Wire, CompareTarget as Target, TargetUnion as Value};
    if compare.key.is_empty() {
        return Err(rejected(Rejection::EmptyKey));
    }
    let range = KeyRange::from_wire(compare.key, compare.range_end);
    let unknown_result = Wire::try_from(compare.result).is_err();
    // A value of another field than the target counts as not given: 0, or empty.
    let target = match (Target::try_from(compare.target), compare.target_union) {
        (Ok(Target::Version), Some(Value::Version(version))) => CompareTarget::Version(version),
        (Ok(Target::Version), _) => CompareTarget::Version(0),
        (Ok(Target::Create), Some(Value::CreateRevision(revision))) => CompareTarget::Create(Revision::new(revision)),
        (Ok(Target::Create), _) => CompareTarget::Create(Revision::ZERO),
        (Ok(Target::Mod), Some(Value::ModRevision(revision))) => CompareTarget::Mod(Revision::new(revision)),
        (Ok(Target::Mod), _) => CompareTarget::Mod(Revision::ZERO),
        (Ok(Target::Value), Some(Value::Value(value))) => CompareTarget::Value(value),
        (Ok(Target::Value), _) => CompareTarget::Value(Bytes::new()),
        (Ok(Target::Lease), Some(Value::Lease(lease))) => CompareTarget::Lease(LeaseId::new(lease)),
        (Ok(Target::Lease), _) => CompareTarget::Lease(LeaseId::NONE),
        (Err(_), _) => return Ok(compare_unknown(range, compare.result == Wire::Equal as i32 || unknown_result)),
    };
    let result = match Wire::try_from(compare.result) {
        Ok(Wire::Equal) => CompareResult::Equal,
        Ok(Wire::Greater) => CompareResult::Greater,
        Ok(Wire::Less) => CompareResult::Less,
        Ok(Wire::NotEqual) => CompareResult::NotEqual,
        // etcd finds it true, but for the value of a missing key, which is never found to be anything.
        Err(_) if matches!(target, CompareTarget::Value(_)) => {
            return Ok(Compare { range, result: CompareResult::Greater, target: CompareTarget::Version(0) });
        }
        Err(_) => return Ok(compare_unknown(range, true)),
    };
    Ok(Compare { range, result, target })
}

/// A compare by a field that only a newer client knows. etcd finds every key equal by it: this one always holds, or never.
fn compare_unknown(range: KeyRange, holds: bool) -> Compare {
    let result = if holds { CompareResult::NotEqual } else { CompareResult::Equal };
    // No version is negative.
    Compare { range, result, target: CompareTarget::Version(-1) }
}

/// A request for a watcher. An empty key is the first possible key, as in etcd.
pub fn watch_create(request: pb::WatchCreateRequest) -> WatchCreate {
    use pb::watch_create_request::FilterType;
    let has = |filter: FilterType| request.filters.contains(&(filter as i32));
    let (no_put, no_delete) = (has(FilterType::Noput), has(FilterType::Nodelete));
    let key = if request.key.is_empty() { Bytes::from_static(b"\0") } else { request.key };
    WatchCreate {
        watch_id: request.watch_id,
        range: KeyRange::from_wire(key, request.range_end),
        start_revision: Revision::new(request.start_revision),
        progress_notify: request.progress_notify,
        no_put,
        no_delete,
        prev_kv: request.prev_kv,
    }
}

/// An alarm type; `None` for etcd's `NONE` and for numbers that are none of its alarms.
pub fn alarm_kind(alarm: i32) -> Option<AlarmKind> {
    match pb::AlarmType::try_from(alarm) {
        Ok(pb::AlarmType::Nospace) => Some(AlarmKind::NoSpace),
        Ok(pb::AlarmType::Corrupt) => Some(AlarmKind::Corrupt),
        Ok(pb::AlarmType::None) | Err(_) => None,
    }
}

/// A header.
pub fn header(header: Header) -> pb::ResponseHeader {
    pb::ResponseHeader {
        cluster_id: header.cluster_id.get(),
        member_id: header.member_id.get(),
        revision: header.revision.get(),
        raft_term: header.raft_term.get(),
    }
}

/// The header of an answer that is not about the store: without a revision.
pub fn cluster_header(with: Header) -> pb::ResponseHeader {
    header(Header { revision: Revision::ZERO, ..with })
}

/// The header within a transaction's answer: only a revision.
fn inner_header(revision: Revision) -> pb::ResponseHeader {
    header(Header { cluster_id: ClusterId::new(0), member_id: MemberId::new(0), revision, raft_term: Term::new(0) })
}

/// A key-value.
pub fn key_value(kv: KeyValue) -> mvccpb::KeyValue {
    mvccpb::KeyValue {
        key: kv.key,
        create_revision: kv.create_revision.get(),
        mod_revision: kv.mod_revision.get(),
        version: kv.version,
        value: kv.value,
        lease: kv.lease.get(),
    }
}

/// The answer to a range request.
pub fn range_response(with: pb::ResponseHeader, reply: RangeReply) -> pb::RangeResponse {
    pb::RangeResponse {
        header: Some(with),
        kvs: reply.kvs.into_iter().map(key_value).collect(),
        more: reply.more,
        count: reply.count,
    }
}

fn put_response(with: pb::ResponseHeader, prev_kv: Option<KeyValue>) -> pb::PutResponse {
    pb::PutResponse { header: Some(with), prev_kv: prev_kv.map(key_value) }
}

fn delete_response(with: pb::ResponseHeader, deleted: i64, prev_kvs: Vec<KeyValue>) -> pb::DeleteRangeResponse {
    pb::DeleteRangeResponse { header: Some(with), deleted, prev_kvs: prev_kvs.into_iter().map(key_value).collect() }
}

/// The answer to a put, from the answer to the transaction that it was.
///
/// # Errors
/// [`unexpected`], if the node answered something else.
pub fn put_answer(answer: Answer<TxnReply>) -> Result<pb::PutResponse, Status> {
    match only(answer.body)? {
        OpReply::Put { prev_kv, .. } => Ok(put_response(header(answer.header), prev_kv)),
        OpReply::Range { .. } | OpReply::DeleteRange { .. } | OpReply::Txn(_) => Err(unexpected()),
    }
}

/// The answer to a delete, from the answer to the transaction that it was.
///
/// # Errors
/// [`unexpected`], if the node answered something else.
pub fn delete_answer(answer: Answer<TxnReply>) -> Result<pb::DeleteRangeResponse, Status> {
    match only(answer.body)? {
        OpReply::DeleteRange { deleted, prev_kvs, .. } => Ok(delete_response(header(answer.header), deleted, prev_kvs)),
        OpReply::Range { .. } | OpReply::Put { .. } | OpReply::Txn(_) => Err(unexpected()),
    }
}

fn only(mut reply: TxnReply) -> Result<OpReply, Status> {
    reply.responses.pop().ok_or_else(unexpected)
}

/// The node broke its contract: a fault of ours, not of the client.
fn unexpected() -> Status {
    Status::internal("the node's answer does not fit the request")
}

/// The answer to a transaction.
pub fn txn_answer(answer: Answer<TxnReply>) -> pb::TxnResponse {
    txn_response(header(answer.header), answer.body)
}

fn txn_response(with: pb::ResponseHeader, reply: TxnReply) -> pb::TxnResponse {
    pb::TxnResponse {
        header: Some(with),
        succeeded: reply.succeeded,
        responses: reply
            .responses
            .into_iter()
            .map(|reply| pb::ResponseOp { response: Some(response_op(reply)) })
            .collect(),
    }
}

fn response_op(reply: OpReply) -> pb::response_op::Response {
    use pb::response_op::Response;
    match reply {
        OpReply::Range { revision, reply } => Response::ResponseRange(range_response(inner_header(revision), reply)),
        OpReply::Put { revision, prev_kv } => Response::ResponsePut(put_response(inner_header(revision), prev_kv)),
        OpReply::DeleteRange { revision, deleted, prev_kvs } => {
            Response::ResponseDeleteRange(delete_response(inner_header(revision), deleted, prev_kvs))
        }
        OpReply::Txn(reply) => Response::ResponseTxn(txn_response(inner_header(Revision::ZERO), reply)),
    }
}

/// What a watcher sees.
pub fn event(event: WatchEvent) -> mvccpb::Event {
    let mod_revision = event.record.rev.main.get();
    let (kind, kv) = match event.record.change {
        Change::Put { create_revision, version, lease, value } => (
            mvccpb::event::EventType::Put,
            mvccpb::KeyValue {
                key: event.record.key,
                create_revision: create_revision.get(),
                mod_revision,
                version,
                value,
                lease: lease.get(),
            },
        ),
        Change::Delete => (
            mvccpb::event::EventType::Delete,
            mvccpb::KeyValue { key: event.record.key, mod_revision, ..Default::default() },
        ),
    };
    mvccpb::Event { r#type: kind as i32, kv: Some(kv), prev_kv: event.prev_kv.map(key_value) }
}

/// How long a lease has left.
pub fn lease_time_to_live(answer: Answer<LeaseTimeToLive>) -> pb::LeaseTimeToLiveResponse {
    pb::LeaseTimeToLiveResponse {
        header: Some(header(answer.header)),
        id: answer.body.id.get(),
        ttl: answer.body.ttl_seconds,
        granted_ttl: answer.body.granted_ttl_seconds,
        keys: answer.body.keys,
    }
}

/// A member.
pub fn member(member: Member) -> pb::Member {
    pb::Member {
        id: member.id.get(),
        name: member.name,
        peer_urls: member.peer_urls,
        client_urls: member.client_urls,
        is_learner: member.is_learner,
    }
}

/// A permission that is to be given.
///
/// # Errors
/// A kind that is none of etcd's.
pub fn permission(permission: authpb::Permission) -> Result<Permission, Status> {
    let access = match authpb::permission::Type::try_from(permission.perm_type) {
        Ok(authpb::permission::Type::Read) => Access::Read,
        Ok(authpb::permission::Type::Write) => Access::Write,
        Ok(authpb::permission::Type::Readwrite) => Access::ReadWrite,
        Err(_) => return Err(rejected(Rejection::InvalidAuthManagement)),
    };
    Ok(Permission { range: KeyRange::from_wire(permission.key, permission.range_end), access })
}

/// What a role may do. What the role root was given does not matter: as in etcd 3.6 it is shown with what it may do.
pub fn permissions(name: &str, role: &Role) -> Vec<authpb::Permission> {
    if name == ROOT_ROLE {
        let kind = authpb::permission::Type::Readwrite;
        return vec![authpb::Permission { perm_type: kind as i32, key: Bytes::new(), range_end: b"\0"[..].into() }];
    }
    role.permissions.iter().map(permission_to_wire).collect()
}

fn permission_to_wire(permission: &Permission) -> authpb::Permission {
    let kind = match permission.access {
        Access::Read => authpb::permission::Type::Read,
        Access::Write => authpb::permission::Type::Write,
        Access::ReadWrite => authpb::permission::Type::Readwrite,
    };
    authpb::Permission {
        perm_type: kind as i32,
        key: permission.range.start().clone(),
        range_end: permission.range.wire_end(),
    }
}

/// Members.
pub fn members(members: Vec<Member>) -> Vec<pb::Member> {
    members.into_iter().map(member).collect()
}

/// An alarm.
pub fn alarm(alarm: Alarm) -> pb::AlarmMember {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => pb::AlarmType::Nospace,
        AlarmKind::Corrupt => pb::AlarmType::Corrupt,
    };
    pb::AlarmMember { member_id: alarm.member.get(), alarm: kind as i32 }
}

/// The name of an alarm, as etcd's clients and health endpoints show it.
pub const fn alarm_name(kind: AlarmKind) -> &'static str {
    match kind {
        AlarmKind::NoSpace => "NOSPACE",
        AlarmKind::Corrupt => "CORRUPT",
    }
}

#[cfg(test)]
mod tests;
