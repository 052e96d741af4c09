//! Transcripts of every answer in every format. Those that etcdctl can give were compared with its own.

use clap::ValueEnum as _;
use expect_test::{Expect, expect};
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::mvccpb::{Event, KeyValue};

use super::*;

fn header() -> Option<ResponseHeader> {
    Some(ResponseHeader { cluster_id: 0xdc50_b8da_ae93_b3e0, member_id: 0xc8, revision: 7, raft_term: 2 })
}

/// Answers about members have no revision.
fn member_header() -> Option<ResponseHeader> {
    header().map(|header| ResponseHeader { revision: 0, ..header })
}

fn pair(key: &str, value: &'static [u8]) -> KeyValue {
    KeyValue {
        key: key.to_owned().into(),
        create_revision: 2,
        mod_revision: 3,
        version: 2,
        value: value.into(),
        lease: 0x7f,
    }
}

/// The answer in each format: to standard output, or why it has no such form.
fn check(reply: Reply<'_>, expected: Expect) {
    check_with(reply, false, expected);
}

fn check_with(reply: Reply<'_>, hex: bool, expected: Expect) {
    let mut text = String::new();
    for format in Format::value_variants() {
        let printer = Printer { format: *format, hex, values_only: false };
        text += &format!("-- {format:?}\n");
        match printer.render(reply) {
            Ok(Streams { out, err }) if *format == Format::Protobuf => {
                assert!(err.is_empty());
                text += &format!("{} bytes\n", out.len());
            }
            Ok(Streams { out, err }) => {
                text += &out
                    .utf8_chunks()
                    .map(|c| format!("{}{}", c.valid(), c.invalid().escape_ascii()))
                    .collect::<String>();
                text += &err.iter().map(|byte| char::from(*byte)).collect::<String>();
            }
            Err(failure) => text += &format!("exit {}: {}\n", failure.exit.code(), failure.message.unwrap()),
        }
    }
    expected.assert_eq(&text);
}

#[test]
fn put() {
    check(
        Reply::Put(&PutResponse { header: header(), prev_kv: Some(pair("a", b"1")) }),
        expect![[r#"
        -- Simple
        OK
        a
        1
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"prev_kv":{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127}}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "PrevKey" : "a"
        "PrevCreateRevision" : 2
        "PrevModRevision" : 3
        "PrevVersion" : 2
        "PrevValue" : "1"
        "PrevLease" : 127
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        36 bytes
    "#]],
    );
}

#[test]
fn get() {
    let kvs = vec![pair("a", b"1"), pair("b\n", b"x\xff<\"")];
    let response = RangeResponse { header: header(), kvs, more: true, count: 3 };
    check(
        Reply::Get(&response),
        expect![[r#"
        -- Simple
        a
        1
        b

        x\xff<"
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127},{"key":"Ygo=","create_revision":2,"mod_revision":3,"version":2,"value":"eP88Ig==","lease":127}],"more":true,"count":3}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "Key" : "a"
        "CreateRevision" : 2
        "ModRevision" : 3
        "Version" : 2
        "Value" : "1"
        "Lease" : 127
        "Key" : "b\n"
        "CreateRevision" : 2
        "ModRevision" : 3
        "Version" : 2
        "Value" : "x\xff<\""
        "Lease" : 127
        "More" : true
        "Count" : 3
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        60 bytes
    "#]],
    );
    check_with(
        Reply::Get(&response),
        true,
        expect![[r#"
        -- Simple
        \x61
        \x31
        \x62\x0a
        \x78\xff\x3c\x22
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127},{"key":"Ygo=","create_revision":2,"mod_revision":3,"version":2,"value":"eP88Ig==","lease":127}],"more":true,"count":3}
        -- Fields
        "ClusterID" : dc50b8daae93b3e0
        "MemberID" : c8
        "Revision" : 7
        "RaftTerm" : 2
        "Key" : "a"
        "CreateRevision" : 2
        "ModRevision" : 3
        "Version" : 2
        "Value" : "1"
        "Lease" : 000000000000007f
        "Key" : "b\n"
        "CreateRevision" : 2
        "ModRevision" : 3
        "Version" : 2
        "Value" : "x\xff<\""
        "Lease" : 000000000000007f
        "More" : true
        "Count" : 3
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        60 bytes
    "#]],
    );
}

#[test]
fn values_are_written_as_they_are() {
    let response = RangeResponse { kvs: vec![pair("a", b"x\xff\0")], ..Default::default() };
    let printer = Printer { format: Format::Simple, hex: false, values_only: true };
    assert_eq!(printer.render(Reply::Get(&response)).unwrap().out, b"x\xff\0\n");
}

#[test]
fn nothing_found() {
    check(
        Reply::Get(&RangeResponse { header: header(), ..Default::default() }),
        expect![[r#"
        -- Simple
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2}}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "More" : false
        "Count" : 0
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        20 bytes
    "#]],
    );
}

#[test]
fn delete() {
    let response = DeleteRangeResponse { header: header(), deleted: 1, prev_kvs: vec![pair("a", b"1")] };
    check(
        Reply::Delete(&response),
        expect![[r#"
        -- Simple
        1
        a
        1
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"deleted":1,"prev_kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127}]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "Deleted" : 1
        "PrevKey" : "a"
        "PrevCreateRevision" : 2
        "PrevModRevision" : 3
        "PrevVersion" : 2
        "PrevValue" : "1"
        "PrevLease" : 127
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        38 bytes
    "#]],
    );
}

#[test]
fn txn() {
    let inner = Some(ResponseHeader { revision: 7, ..Default::default() });
    let responses = [
        Response::ResponsePut(PutResponse { header: inner, prev_kv: None }),
        Response::ResponseRange(RangeResponse { header: inner, kvs: vec![pair("a", b"1")], more: false, count: 1 }),
        Response::ResponseDeleteRange(DeleteRangeResponse { header: inner, deleted: 0, prev_kvs: vec![] }),
        Response::ResponseTxn(TxnResponse::default()),
    ];
    let responses = responses.map(|response| ResponseOp { response: Some(response) }).to_vec();
    check(
        Reply::Txn(&TxnResponse { header: header(), succeeded: true, responses }),
        expect![[r#"
        -- Simple
        SUCCESS

        OK

        a
        1

        0

        FAILURE
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"succeeded":true,"responses":[{"Response":{"response_put":{"header":{"revision":7}}}},{"Response":{"response_range":{"header":{"revision":7},"kvs":[{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127}],"count":1}}},{"Response":{"response_delete_range":{"header":{"revision":7}}}},{"Response":{"response_txn":{}}}]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "Succeeded" : true
        "ClusterID" : 0
        "MemberID" : 0
        "Revision" : 7
        "RaftTerm" : 0
        "ClusterID" : 0
        "MemberID" : 0
        "Revision" : 7
        "RaftTerm" : 0
        "Key" : "a"
        "CreateRevision" : 2
        "ModRevision" : 3
        "Version" : 2
        "Value" : "1"
        "Lease" : 127
        "More" : false
        "Count" : 1
        "ClusterID" : 0
        "MemberID" : 0
        "Revision" : 7
        "RaftTerm" : 0
        "Deleted" : 0
        "ClusterID" : 0
        "MemberID" : 0
        "RaftTerm" : 0
        "Succeeded" : false
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        68 bytes
    "#]],
    );
}

#[test]
fn watch() {
    let put = Event { r#type: 0, kv: Some(pair("a", b"2")), prev_kv: Some(pair("a", b"1")) };
    let tombstone = KeyValue { key: "a".into(), mod_revision: 4, ..Default::default() };
    let delete = Event { r#type: 1, kv: Some(tombstone), prev_kv: None };
    check(
        Reply::Watch(&WatchResponse { header: header(), events: vec![put, delete], ..Default::default() }),
        expect![[r#"
            -- Simple
            PUT
            a
            1
            a
            2
            DELETE
            a

            -- Json
            {"Header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"Events":[{"kv":{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"Mg==","lease":127},"prev_kv":{"key":"YQ==","create_revision":2,"mod_revision":3,"version":2,"value":"MQ==","lease":127}},{"type":1,"kv":{"key":"YQ==","mod_revision":4}}],"CompactRevision":0,"Canceled":false,"Created":false}
            -- Fields
            "ClusterID" : 15875391935852295136
            "MemberID" : 200
            "Revision" : 7
            "RaftTerm" : 2
            "Type" : PUT
            "PrevKey" : "a"
            "PrevCreateRevision" : 2
            "PrevModRevision" : 3
            "PrevVersion" : 2
            "PrevValue" : "1"
            "PrevLease" : 127
            "Key" : "a"
            "CreateRevision" : 2
            "ModRevision" : 3
            "Version" : 2
            "Value" : "2"
            "Lease" : 127
            "Type" : DELETE
            "Key" : "a"
            "CreateRevision" : 0
            "ModRevision" : 4
            "Version" : 0
            "Value" : ""
            "Lease" : 0
            -- Table
            exit 4: table not supported as output format
            -- Protobuf
            65 bytes
        "#]],
    );
    let canceled = WatchResponse { header: header(), canceled: true, compact_revision: 5, ..Default::default() };
    check(
        Reply::Watch(&canceled),
        expect![[r#"
        -- Simple
        -- Json
        {"Header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"Events":[],"CompactRevision":5,"Canceled":true,"Created":false}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        24 bytes
    "#]],
    );
}

#[test]
fn leases() {
    let id = 0x12c8_a20e_d4c6_9d2c;
    check(
        Reply::LeaseGrant(&LeaseGrantResponse { header: header(), id, ttl: 60, error: String::new() }),
        expect![[r#"
            -- Simple
            lease 12c8a20ed4c69d2c granted with TTL(60s)
            -- Json
            {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"ID":1353509872607862060,"TTL":60,"Error":""}
            -- Fields
            "ClusterID" : 15875391935852295136
            "MemberID" : 200
            "Revision" : 7
            "RaftTerm" : 2
            "ID" : 1353509872607862060
            "TTL" : 60
            -- Table
            exit 4: table not supported as output format
            -- Protobuf
            exit 4: protobuf not supported as output format
        "#]],
    );
    check(
        Reply::LeaseKeepAlive(&LeaseKeepAliveResponse { header: header(), id, ttl: 60 }),
        expect![[r#"
            -- Simple
            lease 12c8a20ed4c69d2c keepalived with TTL(60)
            -- Json
            {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"ID":1353509872607862060,"TTL":60}
            -- Fields
            "ClusterID" : 15875391935852295136
            "MemberID" : 200
            "Revision" : 7
            "RaftTerm" : 2
            "ID" : 1353509872607862060
            "TTL" : 60
            -- Table
            exit 4: table not supported as output format
            -- Protobuf
            exit 4: protobuf not supported as output format
        "#]],
    );
    check(
        Reply::LeaseRevoke { id, response: &LeaseRevokeResponse { header: header() } },
        expect![[r#"
        -- Simple
        lease 12c8a20ed4c69d2c revoked
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2}}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
    let leases = vec![LeaseStatus { id }, LeaseStatus { id: 0x77 }];
    check_with(
        Reply::LeaseList(&LeaseLeasesResponse { header: header(), leases }),
        true,
        expect![[r#"
        -- Simple
        found 2 leases
        12c8a20ed4c69d2c
        0000000000000077
        -- Json
        {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"leases":[{"id":1353509872607862060},{"id":119}]}
        -- Fields
        "ClusterID" : dc50b8daae93b3e0
        "MemberID" : c8
        "Revision" : 7
        "RaftTerm" : 2
        "ID" : 12c8a20ed4c69d2c
        "ID" : 0000000000000077
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
    check(
        Reply::LeaseList(&LeaseLeasesResponse { header: header(), leases: vec![] }),
        expect![[r#"
        -- Simple
        found 0 leases
        -- Json
        {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"leases":[]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
}

#[test]
fn lease_time_to_live() {
    let keys = vec!["a".into(), "b".into()];
    let response = LeaseTimeToLiveResponse { header: header(), id: 0x7f, ttl: 59, granted_ttl: 60, keys };
    check(
        Reply::LeaseTimeToLive { response: &response, keys: true },
        expect![[r#"
        -- Simple
        lease 000000000000007f granted with TTL(60s), remaining(59s), attached keys([a b])
        -- Json
        {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"id":127,"ttl":59,"granted-ttl":60,"keys":["YQ==","Yg=="]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "ID" : 127
        "TTL" : 59
        "GrantedTTL" : 60
        "Key" : "a"
        "Key" : "b"
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
    let gone = LeaseTimeToLiveResponse { header: header(), id: 0x7f, ttl: -1, ..Default::default() };
    check(
        Reply::LeaseTimeToLive { response: &gone, keys: false },
        expect![[r#"
        -- Simple
        lease 000000000000007f already expired
        -- Json
        {"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2,"id":127,"ttl":-1,"granted-ttl":0,"keys":null}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "ID" : 127
        "TTL" : -1
        "GrantedTTL" : 0
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
}

fn members() -> Vec<Member> {
    vec![
        Member {
            id: 0x6678_8015_7b88_12c8,
            name: "n1".into(),
            peer_urls: vec!["http://127.0.0.1:2380".into()],
            client_urls: vec!["http://127.0.0.1:2379".into(), "http://127.0.0.1:4001".into()],
            is_learner: false,
        },
        Member {
            id: 0xc8,
            name: String::new(),
            peer_urls: vec!["http://127.0.0.1:2382?a&b".into()],
            client_urls: vec![],
            is_learner: true,
        },
    ]
}

#[test]
fn member_list() {
    let response = MemberListResponse { header: member_header(), members: members() };
    check(
        Reply::MemberList(&response),
        expect![[r#"
        -- Simple
        667880157b8812c8, started, n1, http://127.0.0.1:2380, http://127.0.0.1:2379,http://127.0.0.1:4001, false
        c8, unstarted, , http://127.0.0.1:2382?a&b, , true
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"raft_term":2},"members":[{"ID":7383792418829112008,"name":"n1","peerURLs":["http://127.0.0.1:2380"],"clientURLs":["http://127.0.0.1:2379","http://127.0.0.1:4001"]},{"ID":200,"peerURLs":["http://127.0.0.1:2382?a\u0026b"],"isLearner":true}]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "RaftTerm" : 2
        "ID" : 7383792418829112008
        "Name" : "n1"
        "PeerURL" : "http://127.0.0.1:2380"
        "ClientURL" : "http://127.0.0.1:2379"
        "ClientURL" : "http://127.0.0.1:4001"
        "IsLearner" : false

        "ID" : 200
        "Name" : ""
        "PeerURL" : "http://127.0.0.1:2382?a&b"
        "IsLearner" : true

        -- Table
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        |        ID        |  STATUS   | NAME |        PEER ADDRS         |                CLIENT ADDRS                 | IS LEARNER |
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        | 667880157b8812c8 |   started |   n1 |     http://127.0.0.1:2380 | http://127.0.0.1:2379,http://127.0.0.1:4001 |      false |
        |               c8 | unstarted |      | http://127.0.0.1:2382?a&b |                                             |       true |
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        -- Protobuf
        137 bytes
    "#]],
    );
    check_with(
        Reply::MemberList(&response),
        true,
        expect![[r#"
        -- Simple
        667880157b8812c8, started, n1, http://127.0.0.1:2380, http://127.0.0.1:2379,http://127.0.0.1:4001, false
        c8, unstarted, , http://127.0.0.1:2382?a&b, , true
        -- Json
        {"header":{"cluster_id":"dc50b8daae93b3e0","member_id":"c8","raft_term":2},"members":[{"ID":"667880157b8812c8","name":"n1","peerURLs":["http://127.0.0.1:2380"],"clientURLs":["http://127.0.0.1:2379","http://127.0.0.1:4001"]},{"ID":"c8","peerURLs":["http://127.0.0.1:2382?a\u0026b"],"isLearner":true}]}
        -- Fields
        "ClusterID" : dc50b8daae93b3e0
        "MemberID" : c8
        "RaftTerm" : 2
        "ID" : 667880157b8812c8
        "Name" : "n1"
        "PeerURL" : "http://127.0.0.1:2380"
        "ClientURL" : "http://127.0.0.1:2379"
        "ClientURL" : "http://127.0.0.1:4001"
        "IsLearner" : false

        "ID" : c8
        "Name" : ""
        "PeerURL" : "http://127.0.0.1:2382?a&b"
        "IsLearner" : true

        -- Table
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        |        ID        |  STATUS   | NAME |        PEER ADDRS         |                CLIENT ADDRS                 | IS LEARNER |
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        | 667880157b8812c8 |   started |   n1 |     http://127.0.0.1:2380 | http://127.0.0.1:2379,http://127.0.0.1:4001 |      false |
        |               c8 | unstarted |      | http://127.0.0.1:2382?a&b |                                             |       true |
        +------------------+-----------+------+---------------------------+---------------------------------------------+------------+
        -- Protobuf
        137 bytes
    "#]],
    );
}

#[test]
fn member_changes() {
    let response = MemberAddResponse { header: member_header(), member: Some(members().remove(1)), members: members() };
    check(
        Reply::MemberAdd(&response),
        expect![[r#"
        -- Simple
        Member               c8 added to cluster dc50b8daae93b3e0
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"raft_term":2},"member":{"ID":200,"peerURLs":["http://127.0.0.1:2382?a\u0026b"],"isLearner":true},"members":[{"ID":7383792418829112008,"name":"n1","peerURLs":["http://127.0.0.1:2380"],"clientURLs":["http://127.0.0.1:2379","http://127.0.0.1:4001"]},{"ID":200,"peerURLs":["http://127.0.0.1:2382?a\u0026b"],"isLearner":true}]}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        171 bytes
    "#]],
    );
    let response = MemberRemoveResponse { header: member_header(), members: vec![] };
    check(
        Reply::MemberRemove { id: 0xc8, response: &response },
        expect![[r#"
        -- Simple
        Member               c8 removed from cluster dc50b8daae93b3e0
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"raft_term":2}}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        18 bytes
    "#]],
    );
    let response = MemberUpdateResponse { header: member_header(), members: vec![] };
    check_with(
        Reply::MemberUpdate { id: 0xc8, response: &response },
        true,
        expect![[r#"
        -- Simple
        Member               c8 updated in cluster dc50b8daae93b3e0
        -- Json
        {"header":{"cluster_id":"dc50b8daae93b3e0","member_id":"c8","raft_term":2},"members":[]}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        18 bytes
    "#]],
    );
    let response = MemberPromoteResponse { header: member_header(), members: vec![] };
    check(
        Reply::MemberPromote { id: 0xc8, response: &response },
        expect![[r#"
        -- Simple
        Member               c8 promoted in cluster dc50b8daae93b3e0
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"raft_term":2}}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        18 bytes
    "#]],
    );
}

#[test]
fn endpoint_health() {
    let took = Duration::from_nanos(2_000_610);
    let healthy = EndpointHealth { endpoint: "127.0.0.1:2379".into(), took, error: None };
    let error = Some("context deadline exceeded".into());
    let unhealthy = EndpointHealth { endpoint: "127.0.0.1:1".into(), took: Duration::from_secs(1), error };
    check(
        Reply::EndpointHealth(&[healthy, unhealthy]),
        expect![[r#"
        -- Simple
        127.0.0.1:2379 is healthy: successfully committed proposal: took = 2.00061ms
        127.0.0.1:1 is unhealthy: failed to commit proposal: context deadline exceeded
        -- Json
        [{"endpoint":"127.0.0.1:2379","health":true,"took":"2.00061ms"},{"endpoint":"127.0.0.1:1","health":false,"took":"1s","error":"context deadline exceeded"}]
        -- Fields
        "Endpoint" : "127.0.0.1:2379"
        "Health" : true
        "Took" : 2.00061ms
        "Error" : 

        "Endpoint" : "127.0.0.1:1"
        "Health" : false
        "Took" : 1s
        "Error" : context deadline exceeded

        -- Table
        +----------------+--------+-----------+---------------------------+
        |    ENDPOINT    | HEALTH |   TOOK    |           ERROR           |
        +----------------+--------+-----------+---------------------------+
        | 127.0.0.1:2379 |   true | 2.00061ms |                           |
        |    127.0.0.1:1 |  false |        1s | context deadline exceeded |
        +----------------+--------+-----------+---------------------------+
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
}

#[test]
fn endpoint_status() {
    let status = StatusResponse {
        header: header(),
        version: "3.6.0".into(),
        db_size: 24_576,
        leader: 0xc8,
        raft_index: 32,
        raft_term: 2,
        raft_applied_index: 31,
        errors: vec!["memberID:200 alarm:NOSPACE ".into(), "etcdserver: no leader".into()],
        db_size_in_use: 16_384,
        is_learner: false,
        storage_version: "3.6.0".into(),
        db_size_quota: 2_147_483_648,
        downgrade_info: Some(DowngradeInfo { enabled: true, target_version: "3.5.0".into() }),
    };
    check(
        Reply::EndpointStatus(&[("127.0.0.1:2379".into(), status)]),
        expect![[r#"
        -- Simple
        127.0.0.1:2379, c8, 3.6.0, 3.6.0, 25 kB, 16 kB, 34%, 2.1 GB, true, false, 2, 32, 31, memberID:200 alarm:NOSPACE , etcdserver: no leader, 3.5.0, true
        -- Json
        [{"Endpoint":"127.0.0.1:2379","Status":{"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"version":"3.6.0","dbSize":24576,"leader":200,"raftIndex":32,"raftTerm":2,"raftAppliedIndex":31,"errors":["memberID:200 alarm:NOSPACE ","etcdserver: no leader"],"dbSizeInUse":16384,"storageVersion":"3.6.0","dbSizeQuota":2147483648,"downgradeInfo":{"enabled":true,"targetVersion":"3.5.0"}}}]
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "Version" : "3.6.0"
        "StorageVersion" : "3.6.0"
        "DBSize" : 24576
        "DBSizeInUse" : 16384
        "DBSizeQuota" : 2147483648
        "Leader" : 200
        "IsLearner" : false
        "RaftIndex" : 32
        "RaftTerm" : 2
        "RaftAppliedIndex" : 31
        "Errors" : [memberID:200 alarm:NOSPACE  etcdserver: no leader]
        "Endpoint" : "127.0.0.1:2379"
        "DowngradeTargetVersion" : "3.5.0"
        "DowngradeEnabled" : true

        -- Table
        +----------------+----+---------+-----------------+---------+--------+-----------------------+--------+-----------+------------+-----------+------------+--------------------+------------------------------+--------------------------+-------------------+
        |    ENDPOINT    | ID | VERSION | STORAGE VERSION | DB SIZE | IN USE | PERCENTAGE NOT IN USE | QUOTA  | IS LEADER | IS LEARNER | RAFT TERM | RAFT INDEX | RAFT APPLIED INDEX |            ERRORS            | DOWNGRADE TARGET VERSION | DOWNGRADE ENABLED |
        +----------------+----+---------+-----------------+---------+--------+-----------------------+--------+-----------+------------+-----------+------------+--------------------+------------------------------+--------------------------+-------------------+
        | 127.0.0.1:2379 | c8 |   3.6.0 |           3.6.0 |   25 kB |  16 kB |                   34% | 2.1 GB |      true |      false |         2 |         32 |                 31 | memberID:200 alarm:NOSPACE , |                    3.5.0 |              true |
        |                |    |         |                 |         |        |                       |        |           |            |           |            |                    |        etcdserver: no leader |                          |                   |
        +----------------+----+---------+-----------------+---------+--------+-----------------------+--------+-----------+------------+-----------+------------+--------------------+------------------------------+--------------------------+-------------------+
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
    check(
        Reply::EndpointStatus(&[]),
        expect![[r#"
        -- Simple
        -- Json
        []
        -- Fields
        -- Table
        +----------+----+---------+-----------------+---------+--------+-----------------------+-------+-----------+------------+-----------+------------+--------------------+--------+--------------------------+-------------------+
        | ENDPOINT | ID | VERSION | STORAGE VERSION | DB SIZE | IN USE | PERCENTAGE NOT IN USE | QUOTA | IS LEADER | IS LEARNER | RAFT TERM | RAFT INDEX | RAFT APPLIED INDEX | ERRORS | DOWNGRADE TARGET VERSION | DOWNGRADE ENABLED |
        +----------+----+---------+-----------------+---------+--------+-----------------------+-------+-----------+------------+-----------+------------+--------------------+--------+--------------------------+-------------------+
        +----------+----+---------+-----------------+---------+--------+-----------------------+-------+-----------+------------+-----------+------------+--------------------+--------+--------------------------+-------------------+
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
}

#[test]
fn endpoint_hash() {
    let response = HashKvResponse { header: header(), hash: 1_845_797_935, compact_revision: 3, hash_revision: 7 };
    check(
        Reply::EndpointHashKv(&[("127.0.0.1:2379".into(), response)]),
        expect![[r#"
        -- Simple
        127.0.0.1:2379, 1845797935, 7
        -- Json
        [{"Endpoint":"127.0.0.1:2379","HashKV":{"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"hash":1845797935,"compact_revision":3,"hash_revision":7}}]
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "Endpoint" : "127.0.0.1:2379"
        "Hash" : 1845797935
        "HashRevision" : 7

        -- Table
        +----------------+------------+---------------+
        |    ENDPOINT    |    HASH    | HASH REVISION |
        +----------------+------------+---------------+
        | 127.0.0.1:2379 | 1845797935 |             7 |
        +----------------+------------+---------------+
        -- Protobuf
        exit 4: protobuf not supported as output format
    "#]],
    );
}

#[test]
fn alarms() {
    let alarms = vec![AlarmMember { member_id: 200, alarm: AlarmType::Nospace.into() }];
    check(
        Reply::Alarm(&AlarmResponse { header: header(), alarms }),
        expect![[r#"
        -- Simple
        memberID:200 alarm:NOSPACE 
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"alarms":[{"memberID":200,"alarm":1}]}
        -- Fields
        "ClusterID" : 15875391935852295136
        "MemberID" : 200
        "Revision" : 7
        "RaftTerm" : 2
        "MemberID" : 200
        "AlarmType" : NOSPACE

        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        27 bytes
    "#]],
    );
    check(
        Reply::Alarm(&AlarmResponse::default()),
        expect![[r#"
        -- Simple
        -- Json
        {}
        -- Fields
        "ClusterID" : 0
        "MemberID" : 0
        "RaftTerm" : 0
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        0 bytes
    "#]],
    );
}

#[test]
fn move_leader() {
    let response = MoveLeaderResponse { header: None };
    check(
        Reply::MoveLeader { from: 0xc8, to: 0x12, response: &response },
        expect![[r#"
        -- Simple
        Leadership transferred from c8 to 12
        -- Json
        {}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        0 bytes
    "#]],
    );
}

#[test]
fn downgrade() {
    let response = DowngradeResponse { header: header(), version: "3.6".into() };
    check(
        Reply::Downgrade { action: "validate", response: &response },
        expect![[r#"
        -- Simple
        Downgrade validate success, cluster version 3.6
        -- Json
        {"header":{"cluster_id":15875391935852295136,"member_id":200,"revision":7,"raft_term":2},"version":"3.6"}
        -- Fields
        exit 4: fields not supported as output format
        -- Table
        exit 4: table not supported as output format
        -- Protobuf
        25 bytes
    "#]],
    );
}
