//! What the wire's forms mean, and how answers look on the wire.

use super::*;
use bytes::Bytes;
use quorate_core::{Record, Rev};

fn text<T>(result: Result<T, Status>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(status) => format!("{} {}", status.code() as i32, status.message()),
    }
}

#[test]
fn a_range_is_checked_in_etcds_order() {
    let request = |key: &'static str, order, target| pb::RangeRequest {
        key: key.into(),
        sort_order: order,
        sort_target: target,
        ..Default::default()
    };
    assert_eq!(text(range_request(request("", 9, 0))), "3 etcdserver: key is not provided");
    assert_eq!(text(range_request(request("a", 9, 0))), "3 etcdserver: invalid sort option");
    assert_eq!(text(range_request(request("a", 0, -1))), "3 etcdserver: invalid sort option");
    let converted = range_request(request("a", 2, 3)).unwrap();
    assert_eq!((converted.sort_order, converted.sort_target), (SortOrder::Descend, SortTarget::Mod));
    assert_eq!(converted.range, KeyRange::Single("a".into()));
}

fn put_op(key: &'static str) -> pb::RequestOp {
    let put = pb::PutRequest { key: key.into(), ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestPut(put)) }
}

fn txn_op(success: Vec<pb::RequestOp>) -> pb::RequestOp {
    let txn = pb::TxnRequest { success, ..Default::default() };
    pb::RequestOp { request: Some(pb::request_op::Request::RequestTxn(txn)) }
}

#[test]
fn a_transaction_is_checked_in_etcds_order() {
    let txn = |compare, success| pb::TxnRequest { compare, success, failure: vec![] };
    let empty_compare = pb::Compare::default();
    for (request, expected) in [
        (txn(vec![], vec![]), "ok"),
        (txn(vec![], vec![put_op("a"), put_op("b"), put_op("c")]), "3 etcdserver: too many operations in txn request"),
        (txn(vec![empty_compare.clone()], vec![pb::RequestOp { request: None }]), "3 etcdserver: key is not provided"),
        (txn(vec![], vec![pb::RequestOp { request: None }]), "3 etcdserver: key not found"),
        (txn(vec![], vec![put_op(""), pb::RequestOp { request: None }]), "3 etcdserver: key is not provided"),
        (txn(vec![], vec![pb::RequestOp { request: None }, put_op("")]), "3 etcdserver: key not found"),
        (txn(vec![], vec![put_op(""), txn_op(vec![put_op("a"), put_op("b")])]), "3 etcdserver: key is not provided"),
        (txn(vec![], vec![txn_op(vec![put_op("a")])]), "ok"),
        (txn(vec![], vec![txn_op(vec![put_op("a"), put_op("b")])]), "3 etcdserver: too many operations in txn request"),
    ] {
        assert_eq!(text(txn_request(request.clone(), 2)), expected, "{request:?}");
    }
}

#[test]
fn a_compare_takes_the_field_that_its_target_names() {
    let wire = |target: pb::compare::CompareTarget, value| pb::Compare {
        key: "a".into(),
        target: target as i32,
        target_union: value,
        ..Default::default()
    };
    use pb::compare::{CompareTarget as Target, TargetUnion as Value};
    for (request, expected) in [
        (wire(Target::Version, Some(Value::Version(3))), CompareTarget::Version(3)),
        (wire(Target::Version, Some(Value::Lease(3))), CompareTarget::Version(0)),
        (wire(Target::Value, None), CompareTarget::Value(Bytes::new())),
        (wire(Target::Lease, Some(Value::Lease(3))), CompareTarget::Lease(LeaseId::new(3))),
    ] {
        assert_eq!(compare(request).unwrap().target, expected);
    }
}

#[test]
fn a_compare_by_what_is_unknown_holds_as_in_etcd() {
    let wire = |target, result| pb::Compare { key: "a".into(), target, result, ..Default::default() };
    let (always, never) = ((CompareResult::NotEqual, -1), (CompareResult::Equal, -1));
    let exists = (CompareResult::Greater, 0);
    // Results: equal, greater, less, not equal, unknown. Targets: 3 is the value, 9 unknown.
    for (target, result, expected) in
        [(9, 0, always), (9, 1, never), (9, 2, never), (9, 3, never), (9, 9, always), (0, 9, always), (3, 9, exists)]
    {
        let request = pb::TxnRequest { compare: vec![wire(target, result)], ..Default::default() };
        let (expected_result, version) = expected;
        let expected = Compare {
            range: KeyRange::Single("a".into()),
            result: expected_result,
            target: CompareTarget::Version(version),
        };
        assert_eq!(txn_request(request, 2).unwrap().compares, [expected], "target {target}, result {result}");
    }
}

#[test]
fn headers_within_a_transaction_have_only_a_revision() {
    let reply = TxnReply {
        succeeded: true,
        responses: vec![
            OpReply::Put { revision: Revision::new(7), prev_kv: None },
            OpReply::Txn(TxnReply { succeeded: false, responses: vec![] }),
        ],
    };
    let outer = Header {
        cluster_id: ClusterId::new(1),
        member_id: MemberId::new(2),
        revision: Revision::new(7),
        raft_term: Term::new(3),
    };
    let response = txn_answer(Answer { header: outer, body: reply });
    assert_eq!(response.header.unwrap().member_id, 2);
    let inner: Vec<_> = response
        .responses
        .into_iter()
        .map(|op| match op.response.unwrap() {
            pb::response_op::Response::ResponsePut(put) => put.header,
            pb::response_op::Response::ResponseTxn(txn) => txn.header,
            other => panic!("{other:?}"),
        })
        .collect();
    let only_revision = pb::ResponseHeader { revision: 7, ..Default::default() };
    assert_eq!(inner, [Some(only_revision), Some(pb::ResponseHeader::default())]);
}

#[test]
fn a_delete_event_has_key_and_revision_only() {
    let record = Record {
        rev: Rev::new(Revision::new(9), 0),
        key: "a".into(),
        change: Change::Delete,
        replaces: Some(Rev::new(Revision::new(8), 0)),
    };
    let event = event(WatchEvent { record, prev_kv: None });
    let kv = mvccpb::KeyValue { key: "a".into(), mod_revision: 9, ..Default::default() };
    assert_eq!(event, mvccpb::Event { r#type: 1, kv: Some(kv), prev_kv: None });
}

#[test]
fn a_watch_without_a_key_starts_at_the_first_one() {
    let create = watch_create(pb::WatchCreateRequest { filters: vec![1, 7], ..Default::default() });
    assert_eq!(create.range, KeyRange::Single(Bytes::from_static(b"\0")));
    assert_eq!((create.no_put, create.no_delete), (false, true));
}
