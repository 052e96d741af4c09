//! The bytes in the log and in storage: golden ones, round trips, and damage.

use super::samples::Samples;
use crate::auth::{Access, AuthCommand, PasswordHash, Permission, Role, TokenId, User};
use crate::codec::{
    Batch, BatchEncoder, CodecErrorKind, Entry, EntryEncoder, decode_auth, decode_batch, decode_entry, decode_lease,
    decode_member_attributes, decode_record, decode_role, decode_user, decode_versions, encode_auth, encode_batch,
    encode_entry, encode_lease, encode_member_attributes, encode_record, encode_role, encode_user, encode_versions,
};
use crate::{
    Alarm, AlarmKind, Caller, Change, ClusterVersion, ClusterVersions, Command, Compare, CompareResult, CompareTarget,
    DeleteRange, KeyRange, Lease, LeaseId, MemberAttributes, MemberId, Op, Put, RangeRequest, Record, Request, Rev,
    Revision, SortOrder, SortTarget, TXN_DEPTH_MAX, Txn,
};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::collection::vec as vec_of;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ")
}

fn key(key: &'static str) -> Bytes {
    Bytes::from_static(key.as_bytes())
}

fn batch(commands: Vec<Command>) -> Batch {
    let requests = commands.into_iter().map(|command| Request { caller: Caller::Anonymous, command }).collect();
    Batch { origin: MemberId::new(5), first_seq: 300, requests }
}

/// Compares a command's bytes, without those of the batch around it, and decodes them again.
fn golden(command: Command, expected: Expect) {
    let begin = encode_batch(&batch(vec![])).len();
    let encoded = encode_batch(&batch(vec![command.clone()]));
    expected.assert_eq(&hex(&encoded[begin..]));
    assert_eq!(decode_batch(encoded), Ok(batch(vec![command])));
}

#[test]
fn golden_put() {
    let put = Put { key: key("foo"), value: key("bar"), lease: LeaseId::new(300), ..Put::default() };
    golden(Command::Txn(Txn::of(Op::Put(put))), expect!["01 00 01 02 00 03 66 6f 6f 03 62 61 72 ac 02 00"]);
    let keeping = Put { key: key("foo"), prev_kv: true, ignore_value: true, ignore_lease: true, ..Put::default() };
    golden(Command::Txn(Txn::of(Op::Put(keeping))), expect!["01 00 01 02 07 03 66 6f 6f 00 00 00"]);
}

#[test]
fn golden_delete_range() {
    let interval = KeyRange::Interval { start: key("a"), end: key("b") };
    golden(
        Command::Txn(Txn::of(Op::DeleteRange(DeleteRange { range: interval, prev_kv: true }))),
        expect!["01 00 01 03 01 01 01 61 01 62 00"],
    );
}

#[test]
fn golden_txn() {
    let compare = |range, result, target| Compare { range, result, target };
    let range = RangeRequest {
        limit: -1,
        revision: Revision::new(9),
        sort_order: SortOrder::Descend,
        sort_target: SortTarget::Mod,
        serializable: true,
        keys_only: false,
        count_only: true,
        min_mod_revision: Revision::new(1),
        max_mod_revision: Revision::new(2),
        min_create_revision: Revision::new(3),
        max_create_revision: Revision::new(4),
        ..RangeRequest::new(KeyRange::From { start: key("a") })
    };
    let txn = Txn {
        compares: vec![
            compare(KeyRange::Single(key("a")), CompareResult::Equal, CompareTarget::Version(1)),
            compare(KeyRange::Single(key("b")), CompareResult::Greater, CompareTarget::Create(Revision::new(2))),
            compare(KeyRange::Single(key("c")), CompareResult::Less, CompareTarget::Mod(Revision::new(3))),
            compare(KeyRange::Single(key("d")), CompareResult::NotEqual, CompareTarget::Value(key("x"))),
            compare(KeyRange::Single(key("e")), CompareResult::Equal, CompareTarget::Lease(LeaseId::new(4))),
        ],
        success: vec![Op::Range(range), Op::Txn(Txn::default())],
        failure: vec![Op::Range(RangeRequest::new(KeyRange::Single(key("a"))))],
    };
    golden(
        Command::Txn(txn),
        expect![
            "01 05 00 01 61 00 00 01 00 01 62 01 01 02 00 01 63 02 02 03 00 01 64 03 03 01 78 00 01 65 00 04 04 02 01 05 02 01 61 ff ff ff ff ff ff ff ff ff 01 09 02 03 01 02 03 04 04 00 00 00 01 01 00 00 01 61 00 00 00 00 00 00 00 00"
        ],
    );
}

#[test]
fn golden_small_commands() {
    golden(Command::Compact { revision: Revision::new(1000) }, expect!["02 e8 07"]);
    golden(
        Command::LeaseGrant { id: LeaseId::new(i64::MAX), ttl_seconds: 60 },
        expect!["03 ff ff ff ff ff ff ff ff 7f 3c"],
    );
    golden(Command::LeaseRevoke { id: LeaseId::new(-1) }, expect!["04 ff ff ff ff ff ff ff ff ff 01"]);
    golden(
        Command::LeaseCheckpoint { remaining: vec![(LeaseId::new(7), 30), (LeaseId::new(8), 0)] },
        expect!["05 02 07 1e 08 00"],
    );
    let alarm = |kind| Alarm { member: MemberId::new(5), kind };
    golden(Command::AlarmActivate(alarm(AlarmKind::NoSpace)), expect!["08 05 01"]);
    golden(Command::AlarmDeactivate(alarm(AlarmKind::Corrupt)), expect!["09 05 02"]);
    let version = |minor| ClusterVersion { major: 3, minor };
    golden(Command::ClusterVersionSet(version(6)), expect!["0a 03 06"]);
    golden(Command::DowngradeEnable(version(200)), expect!["0b 03 c8 01"]);
    golden(Command::DowngradeCancel, expect!["0c"]);
}

#[test]
fn golden_members() {
    let attributes = MemberAttributes {
        name: "n1".to_string(),
        client_urls: vec!["http://a".to_string(), "http://b".to_string()],
        data_dir_id: 128,
    };
    golden(
        Command::MemberPublish { member: MemberId::new(u64::MAX), attributes },
        expect![
            "06 ff ff ff ff ff ff ff ff ff 01 02 6e 31 02 08 68 74 74 70 3a 2f 2f 61 08 68 74 74 70 3a 2f 2f 62 80 01"
        ],
    );
    golden(Command::MemberForget { member: MemberId::new(5) }, expect!["07 05"]);
}

#[test]
fn golden_entry() {
    let first = encode_batch(&batch(vec![Command::Compact { revision: Revision::new(2) }]));
    let second = encode_batch(&Batch { origin: MemberId::new(6), first_seq: 0, requests: vec![] });
    let entry = encode_entry(1_700_000_000_000, &[first, second]);
    expect!["01 80 d0 95 ff bc 31 06 01 05 ac 02 02 02 03 01 06 00"].assert_eq(&hex(&entry));
}

#[test]
fn golden_records() {
    let record = |change, replaces| Record { rev: Rev::new(Revision::new(300), 2), key: key("foo"), change, replaces };
    let put =
        || Change::Put { create_revision: Revision::new(9), version: 3, lease: LeaseId::new(7), value: key("bar") };
    let replaced = Some(Rev::new(Revision::new(299), 1));
    let mut lines = String::new();
    for record in [record(put(), None), record(put(), replaced), record(Change::Delete, replaced)] {
        let mut bytes = Vec::new();
        encode_record(&record, &mut bytes);
        lines.push_str(&hex(&bytes));
        lines.push('\n');
        assert_eq!(decode_record(bytes.into()), Ok(record));
    }
    expect![[r#"
        01 ac 02 02 03 66 6f 6f 09 03 07 03 62 61 72
        02 ac 02 02 ab 02 01 03 66 6f 6f 09 03 07 03 62 61 72
        03 ac 02 02 ab 02 01 03 66 6f 6f
    "#]]
    .assert_eq(&lines);
}

#[test]
fn golden_system_values() {
    let lease = Lease { id: LeaseId::new(7), ttl_seconds: 60, remaining_ttl_seconds: 30 };
    let mut bytes = Vec::new();
    encode_lease(&lease, &mut bytes);
    expect!["01 07 3c 1e"].assert_eq(&hex(&bytes));
    assert_eq!(decode_lease(bytes.into()), Ok(lease));

    let attributes = MemberAttributes { name: "n".to_string(), client_urls: vec!["u".to_string()], data_dir_id: 9 };
    let mut bytes = Vec::new();
    encode_member_attributes(&attributes, &mut bytes);
    expect!["01 01 6e 01 01 75 09"].assert_eq(&hex(&bytes));
    assert_eq!(decode_member_attributes(bytes.into()), Ok(attributes));

    let versions = ClusterVersions { current: Some(ClusterVersion { major: 3, minor: 6 }), target: None };
    let mut bytes = Vec::new();
    encode_versions(versions, &mut bytes);
    expect!["01 01 03 06 00"].assert_eq(&hex(&bytes));
    assert_eq!(decode_versions(bytes.into()), Ok(versions));
}

#[test]
fn golden_callers() {
    let begin = encode_batch(&batch(vec![])).len();
    let command = Command::LeaseRevoke { id: LeaseId::new(7) };
    for (caller, expected) in [
        (Caller::Anonymous, expect!["04 07"]),
        (Caller::System, expect!["10 04 07"]),
        (Caller::User { name: "ann".into(), auth_revision: 300 }, expect!["11 03 61 6e 6e ac 02 04 07"]),
    ] {
        let requests = vec![Request { caller, command: command.clone() }];
        let batch = Batch { origin: MemberId::new(5), first_seq: 300, requests };
        let encoded = encode_batch(&batch);
        expected.assert_eq(&hex(&encoded[begin..]));
        assert_eq!(decode_batch(encoded), Ok(batch));
    }
}

#[test]
fn golden_auth_commands() {
    let (user, role) = (String::from("ann"), String::from("r"));
    let hash = PasswordHash::new("$h");
    let range = KeyRange::Interval { start: key("a"), end: key("b") };
    let permission = Permission { range: range.clone(), access: Access::ReadWrite };
    for (command, expected) in [
        (AuthCommand::Enable, expect!["0d 01"]),
        (AuthCommand::Disable, expect!["0d 02"]),
        (AuthCommand::UserAdd { user: user.clone(), password: None }, expect!["0d 03 03 61 6e 6e 00"]),
        (
            AuthCommand::UserAdd { user: user.clone(), password: Some(hash.clone()) },
            expect!["0d 03 03 61 6e 6e 01 02 24 68"],
        ),
        (AuthCommand::UserDelete { user: user.clone() }, expect!["0d 04 03 61 6e 6e"]),
        (AuthCommand::UserChangePassword { user: user.clone(), password: hash }, expect!["0d 05 03 61 6e 6e 02 24 68"]),
        (AuthCommand::UserGrantRole { user: user.clone(), role: role.clone() }, expect!["0d 06 03 61 6e 6e 01 72"]),
        (AuthCommand::UserRevokeRole { user: user.clone(), role: role.clone() }, expect!["0d 07 03 61 6e 6e 01 72"]),
        (AuthCommand::RoleAdd { role: role.clone() }, expect!["0d 08 01 72"]),
        (AuthCommand::RoleDelete { role: role.clone() }, expect!["0d 09 01 72"]),
        (AuthCommand::RoleGrantPermission { role: role.clone(), permission }, expect!["0d 0a 01 72 02 01 01 61 01 62"]),
        (AuthCommand::RoleRevokePermission { role, range }, expect!["0d 0b 01 72 01 01 61 01 62"]),
        (
            AuthCommand::TokenAssign { user, token: TokenId([0xee; 32]), credentials_revision: 300 },
            expect![
                "0d 0c 03 61 6e 6e ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ee ac 02"
            ],
        ),
    ] {
        golden(Command::Auth(command), expected);
    }
}

#[test]
fn golden_users_and_roles() {
    let mut row = Vec::new();
    encode_auth(true, 300, &mut row);
    expect!["01 01 ac 02"].assert_eq(&hex(&row));
    assert_eq!(decode_auth(row.into()), Ok((true, 300)));

    let user = User {
        password: Some(PasswordHash::new("$h")),
        roles: ["q".into(), "r".into()].into(),
        credentials_revision: 5,
    };
    let mut row = Vec::new();
    encode_user(&user, &mut row);
    expect!["01 01 02 24 68 05 02 01 71 01 72"].assert_eq(&hex(&row));
    assert_eq!(decode_user(row.into()), Ok(user));

    let permissions = vec![
        Permission { range: KeyRange::Single(key("a")), access: Access::Read },
        Permission { range: KeyRange::From { start: key("b") }, access: Access::Write },
    ];
    let role = Role { permissions };
    let mut row = Vec::new();
    encode_role(&role, &mut row);
    expect!["01 02 00 00 01 61 01 02 01 62"].assert_eq(&hex(&row));
    assert_eq!(decode_role(row.into()), Ok(role));
}

#[test]
fn errors_tell_what_and_where() {
    let entry = |batch: &[u8]| {
        let mut encoder = EntryEncoder::new(1);
        encoder.push(batch);
        encoder.finish()
    };
    let cases: Vec<(&str, Bytes)> = vec![
        ("nothing", Bytes::new()),
        ("version of the entry", Bytes::from_static(&[9])),
        ("version of the batch", entry(&[8, 5, 0])),
        ("command tag", entry(&[1, 5, 0, 0x2a])),
        ("cut command", entry(&[1, 5, 0, 3, 1])),
        ("op tag", entry(&[1, 5, 0, 1, 0, 1, 9])),
        ("count beyond the end", entry(&[1, 5, 0, 1, 200, 1])),
        ("flags", entry(&[1, 5, 0, 1, 0, 1, 2, 8])),
        ("number of 65 bits", Bytes::from_static(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2])),
        ("number without end", Bytes::from_static(&[1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1])),
        ("batch longer than the entry", Bytes::from_static(&[1, 1, 9, 1])),
        ("text", entry(&[1, 5, 0, 6, 1, 1, 0xff, 0, 0])),
    ];
    let mut transcript = String::new();
    for (what, bytes) in cases {
        let error = decode_entry(bytes).expect_err(what);
        transcript.push_str(&format!("{what}: {error}\n"));
    }
    let error = decode_lease(Bytes::from_static(&[1, 2, 1, 0, 0])).expect_err("trailing bytes");
    transcript.push_str(&format!("trailing: {error}\n"));
    expect![[r#"
        nothing: unexpected end at byte 0
        version of the entry: unknown version 9 at byte 0
        version of the batch: unknown version 8 at byte 3
        command tag: unknown command tag 0x2a at byte 6
        cut command: unexpected end at byte 8
        op tag: unknown op tag 0x09 at byte 9
        count beyond the end: unexpected end at byte 9
        flags: unknown put flags tag 0x08 at byte 10
        number of 65 bits: number too large at byte 10
        number without end: number too large at byte 10
        batch longer than the entry: unexpected end at byte 4
        text: text is not UTF-8 at byte 9
        trailing: trailing bytes at byte 4
    "#]]
    .assert_eq(&transcript);
}

#[test]
fn nesting_is_bounded() {
    let deep = |depth| (1..depth).fold(Txn::default(), |txn, _| Txn::of(Op::Txn(txn)));
    let deepest = batch(vec![Command::Txn(deep(TXN_DEPTH_MAX))]);
    assert_eq!(decode_batch(encode_batch(&deepest)), Ok(deepest));
    let too_deep = encode_batch(&batch(vec![Command::Txn(deep(TXN_DEPTH_MAX + 1))]));
    assert_eq!(decode_batch(too_deep).map_err(|error| error.kind), Err(CodecErrorKind::TooDeep));
}

#[test]
fn keys_and_values_share_the_memory_of_the_entry() {
    let put = Put { key: key("some key"), value: key("some value"), ..Put::default() };
    let bytes = encode_entry(1, &[encode_batch(&batch(vec![Command::Txn(Txn::of(Op::Put(put)))]))]);
    let entry = decode_entry(bytes.clone()).expect("what was encoded decodes");
    let Command::Txn(txn) = &entry.batches[0].requests[0].command else { panic!("a transaction") };
    let Op::Put(put) = &txn.success[0] else { panic!("a put") };
    for part in [&put.key, &put.value] {
        assert!(bytes.as_ptr_range().contains(&part.as_ptr()));
    }
}

fn batches() -> impl Strategy<Value = Vec<Batch>> {
    let batch = (any::<u64>(), any::<u64>(), vec_of(Samples::any().request(), 0..4))
        .prop_map(|(origin, first_seq, requests)| Batch { origin: MemberId::new(origin), first_seq, requests });
    vec_of(batch, 0..4)
}

fn encode(time_ms: u64, batches: &[Batch]) -> Bytes {
    let encoded: Vec<Bytes> = batches.iter().map(encode_batch).collect();
    encode_entry(time_ms, &encoded)
}

/// Changes some bytes, then cuts off the end.
fn damage(bytes: &[u8], changes: &[(prop::sample::Index, u8)], cut: Option<prop::sample::Index>) -> Bytes {
    let mut bytes = bytes.to_vec();
    for (place, byte) in changes {
        let place = place.index(bytes.len());
        bytes[place] = *byte;
    }
    if let Some(cut) = cut {
        bytes.truncate(cut.index(bytes.len()));
    }
    bytes.into()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn entries_come_back_as_they_were(time_ms in any::<u64>(), batches in batches()) {
        prop_assert_eq!(decode_entry(encode(time_ms, &batches)), Ok(Entry { time_ms, batches }));
    }

    #[test]
    fn a_batch_can_be_encoded_step_by_step(batches in batches()) {
        for batch in &batches {
            let mut encoder = BatchEncoder::new(batch.origin, batch.first_seq);
            for (count, request) in batch.requests.iter().enumerate() {
                prop_assert_eq!((encoder.len(), encoder.is_empty()), (count, count == 0));
                let before = encoder.len_bytes();
                encoder.push(&request.caller, &request.command);
                prop_assert!(encoder.len_bytes() > before);
            }
            let bytes = encoder.len_bytes();
            let encoded = encoder.finish();
            prop_assert_eq!(encoded.len(), bytes);
            prop_assert_eq!(encoded, encode_batch(batch));
        }
    }

    #[test]
    fn records_come_back_as_they_were(record in Samples::any().record()) {
        let mut bytes = Vec::new();
        encode_record(&record, &mut bytes);
        prop_assert_eq!(decode_record(bytes.into()), Ok(record));
    }

    #[test]
    fn damaged_bytes_are_an_error_or_something_else_but_no_panic(
        batches in batches(),
        record in Samples::any().record(),
        changes in vec_of((any::<prop::sample::Index>(), any::<u8>()), 0..4),
        cut in proptest::option::of(any::<prop::sample::Index>()),
    ) {
        let entry = damage(&encode(1, &batches), &changes, cut);
        if let Ok(decoded) = decode_entry(entry) {
            // Whatever it is now, it is sound: it comes back as it is.
            prop_assert_eq!(decode_entry(encode(decoded.time_ms, &decoded.batches)), Ok(decoded));
        }
        let mut bytes = Vec::new();
        encode_record(&record, &mut bytes);
        if let Ok(decoded) = decode_record(damage(&bytes, &changes, cut)) {
            let mut again = Vec::new();
            encode_record(&decoded, &mut again);
            prop_assert_eq!(decode_record(again.into()), Ok(decoded));
        }
    }

    #[test]
    fn noise_does_not_panic(bytes in vec_of(prop_oneof![0..10u8, any::<u8>()], 0..300)) {
        let bytes = Bytes::from(bytes);
        let offsets = [
            decode_entry(bytes.clone()).err(),
            decode_batch(bytes.clone()).err(),
            decode_record(bytes.clone()).err(),
            decode_lease(bytes.clone()).err(),
            decode_member_attributes(bytes.clone()).err(),
            decode_versions(bytes.clone()).err(),
        ];
        prop_assert!(offsets.iter().flatten().all(|error| error.offset <= bytes.len()));
    }
}
