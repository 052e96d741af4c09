//! Checks the generated code against `etcd_contract.txt`, a table of etcd's wire facts that was written independently of
//! the `.proto` files: nothing is missing, nothing is extra, and every message encodes to the bytes that a tiny encoder
//! driven by the table computes. The messages of our own have no table but a file of golden bytes.

use std::collections::{BTreeMap, BTreeSet};

use expect_test::expect_file;
use prost::Message;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FileDescriptorSet};
use quorate_proto::{
    FILE_DESCRIPTOR_SET, authpb, etcdserverpb, health, mvccpb, peer_v1, quorate_v1, v3electionpb, v3lockpb,
};

const PACKAGES: &[&str] = &["etcdserverpb", "mvccpb", "authpb", "v3lockpb", "v3electionpb", "grpc.health.v1"];

/// Packages of our own.
const OWN_PACKAGES: &[&str] = &["quorate.v1", "quorate.peer.v1"];

/// Nested messages are filled in down to this depth and empty below it: transactions contain transactions.
const DEPTH_MAX: usize = 4;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Field {
    number: u32,
    kind: String,
    name: String,
    repeated: bool,
    oneof: Option<String>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct Contract {
    /// `service` to `method kind request response`.
    services: BTreeMap<String, BTreeSet<String>>,
    enums: BTreeMap<String, Vec<(i32, String)>>,
    messages: BTreeMap<String, Vec<Field>>,
}

fn table() -> Contract {
    let mut contract = Contract::default();
    let mut section = (' ', String::new());
    for line in include_str!("etcd_contract.txt").lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            [] | ["#", ..] => {}
            [head @ ("S" | "E" | "M"), name] => {
                section = (head.chars().next().unwrap(), name.to_owned());
                match head {
                    "S" => drop(contract.services.insert(name.to_owned(), BTreeSet::new())),
                    "E" => drop(contract.enums.insert(name.to_owned(), Vec::new())),
                    _ => drop(contract.messages.insert(name.to_owned(), Vec::new())),
                }
            }
            ["R", ref method @ ..] => {
                contract.services.get_mut(&section.1).unwrap().insert(method.join(" "));
            }
            [number, name] if section.0 == 'E' => {
                contract.enums.get_mut(&section.1).unwrap().push((number.parse().unwrap(), name.to_owned()));
            }
            [number, kind, name, ref rest @ ..] if section.0 == 'M' => {
                contract.messages.get_mut(&section.1).unwrap().push(Field {
                    number: number.parse().unwrap(),
                    kind: kind.to_owned(),
                    name: name.to_owned(),
                    repeated: rest.contains(&"repeated"),
                    oneof: rest.iter().find_map(|word| word.strip_prefix("oneof=")).map(str::to_owned),
                });
            }
            _ => panic!("unreadable line: {line}"),
        }
    }
    contract
}

fn descriptors(packages: &[&str]) -> Contract {
    let set = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut contract = Contract::default();
    for file in set.file.iter().filter(|file| packages.contains(&file.package())) {
        file.message_type.iter().for_each(|message| add_message(&mut contract, file.package(), message));
        file.enum_type.iter().for_each(|kind| add_enum(&mut contract, file.package(), kind));
        for service in &file.service {
            let methods = service.method.iter().map(|method| {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (false, true) => "server-stream",
                    (true, true) => "bidi",
                    (true, false) => "client-stream",
                };
                let (request, response) = (&method.input_type()[1..], &method.output_type()[1..]);
                format!("{} {kind} {request} {response}", method.name())
            });
            contract.services.insert(format!("{}.{}", file.package(), service.name()), methods.collect());
        }
    }
    contract
}

fn add_enum(contract: &mut Contract, scope: &str, kind: &EnumDescriptorProto) {
    let values = kind.value.iter().map(|value| (value.number(), value.name().to_owned())).collect();
    contract.enums.insert(format!("{scope}.{}", kind.name()), values);
}

fn add_message(contract: &mut Contract, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    message.enum_type.iter().for_each(|kind| add_enum(contract, &name, kind));
    message.nested_type.iter().for_each(|nested| add_message(contract, &name, nested));
    let fields = message.field.iter().map(|field| Field {
        number: field.number().try_into().unwrap(),
        kind: match field.r#type() {
            Type::Message | Type::Enum => field.type_name()[1..].to_owned(),
            scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
        },
        name: field.name().to_owned(),
        repeated: field.label() == Label::Repeated,
        oneof: field.oneof_index.map(|index| message.oneof_decl[index as usize].name().to_owned()),
    });
    contract.messages.insert(name, fields.collect());
}

#[test]
fn descriptors_say_what_the_table_says_and_nothing_else() {
    let (table, descriptors) = (table(), descriptors(PACKAGES));
    assert!(table.messages.len() > 100, "only {} messages in the table", table.messages.len());
    assert_eq!(table.services, descriptors.services);
    assert_eq!(table.enums, descriptors.enums);
    let names = |contract: &Contract| contract.messages.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&table), names(&descriptors));
    for (name, fields) in &table.messages {
        assert_eq!(fields, &descriptors.messages[name], "{name}");
    }
}

/// The wire format, from the protocol buffers documentation: just enough for the types in the table.
mod wire {
    pub fn varint(mut value: u64, out: &mut Vec<u8>) {
        while value >= 0x80 {
            out.push(value as u8 | 0x80);
            value >>= 7;
        }
        out.push(value as u8);
    }

    pub fn number(field: u32, value: u64, out: &mut Vec<u8>) {
        varint(u64::from(field) << 3, out);
        varint(value, out);
    }

    pub fn block(field: u32, bytes: &[u8], out: &mut Vec<u8>) {
        varint(u64::from(field) << 3 | 2, out);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

/// Encodes a message with all fields set; of each oneof, the alternative number `pick` (counted around).
fn encode(contract: &Contract, name: &str, pick: usize, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if depth > DEPTH_MAX {
        return out;
    }
    let fields = &contract.messages[name];
    for field in fields {
        let rivals: Vec<&Field> = fields.iter().filter(|f| f.oneof.is_some() && f.oneof == field.oneof).collect();
        if !rivals.is_empty() && rivals[pick % rivals.len()].number != field.number {
            continue;
        }
        let n = field.number;
        // Two elements, so that a repeated field read as a single one is noticed.
        let times = if field.repeated { 2 } else { 1 };
        for _ in 0..times {
            match field.kind.as_str() {
                "int64" | "uint64" if field.repeated => {
                    let mut numbers = Vec::new();
                    wire::varint(-i64::from(n) as u64, &mut numbers);
                    wire::varint(u64::from(n), &mut numbers);
                    wire::block(n, &numbers, &mut out);
                    break; // Packed: all elements are in one block.
                }
                "bool" => wire::number(n, 1, &mut out),
                "int64" => wire::number(n, -i64::from(n) as u64, &mut out),
                "uint64" => wire::number(n, u64::MAX - u64::from(n), &mut out),
                "uint32" => wire::number(n, u64::from(u32::MAX - n), &mut out),
                "string" => wire::block(n, format!("text {n}").as_bytes(), &mut out),
                // Not UTF-8, so that a string in the place of bytes is noticed.
                "bytes" => wire::block(n, &[n as u8, 0xff, 0], &mut out),
                kind => match contract.enums.get(kind) {
                    Some(values) if field.repeated => {
                        wire::block(n, &[values.last().unwrap().0 as u8, 1], &mut out);
                        break; // Packed, too.
                    }
                    Some(values) => wire::number(n, values.last().unwrap().0 as u64, &mut out),
                    None => wire::block(n, &encode(contract, kind, pick, depth + 1), &mut out),
                },
            }
        }
    }
    out
}

/// How many alternatives the largest oneof of a message has; 1 without one.
fn alternatives(fields: &[Field]) -> usize {
    let mut sizes: BTreeMap<&str, usize> = BTreeMap::new();
    fields.iter().filter_map(|field| field.oneof.as_deref()).for_each(|name| *sizes.entry(name).or_default() += 1);
    sizes.into_values().max().unwrap_or(1)
}

fn round_trip<M: Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

type RoundTrip = fn(&[u8]) -> Vec<u8>;

/// Lists generated types under the names of the table, in lower case since the generator changes `KV` to `Kv`.
macro_rules! generated_types {
    ($($package:literal $module:ident { $($message:ident)* })*) => {
        [$($((concat!($package, ".", stringify!($message)), round_trip::<$module::$message> as RoundTrip),)*)*]
            .into_iter()
            .map(|(name, f)| (name.to_lowercase(), f))
            .collect::<BTreeMap<String, RoundTrip>>()
    };
}

fn generated() -> BTreeMap<String, RoundTrip> {
    generated_types! {
        "mvccpb" mvccpb {
            KeyValue Event
        }
        "authpb" authpb {
            UserAddOptions User Permission Role
        }
        "etcdserverpb" etcdserverpb {
            ResponseHeader RangeRequest RangeResponse PutRequest PutResponse DeleteRangeRequest
            DeleteRangeResponse RequestOp ResponseOp Compare TxnRequest TxnResponse CompactionRequest
            CompactionResponse HashRequest HashKvRequest HashKvResponse HashResponse SnapshotRequest
            SnapshotResponse WatchRequest WatchCreateRequest WatchCancelRequest WatchProgressRequest
            WatchResponse LeaseGrantRequest LeaseGrantResponse LeaseRevokeRequest LeaseRevokeResponse
            LeaseCheckpoint LeaseCheckpointRequest LeaseCheckpointResponse LeaseKeepAliveRequest
            LeaseKeepAliveResponse LeaseTimeToLiveRequest LeaseTimeToLiveResponse LeaseLeasesRequest
            LeaseStatus LeaseLeasesResponse Member MemberAddRequest MemberAddResponse
            MemberRemoveRequest MemberRemoveResponse MemberUpdateRequest MemberUpdateResponse
            MemberListRequest MemberListResponse MemberPromoteRequest MemberPromoteResponse
            DefragmentRequest DefragmentResponse MoveLeaderRequest MoveLeaderResponse AlarmRequest
            AlarmMember AlarmResponse DowngradeRequest DowngradeResponse StatusRequest StatusResponse
            DowngradeInfo AuthEnableRequest AuthDisableRequest AuthStatusRequest AuthenticateRequest
            AuthUserAddRequest AuthUserGetRequest AuthUserDeleteRequest AuthUserChangePasswordRequest
            AuthUserGrantRoleRequest AuthUserRevokeRoleRequest AuthRoleAddRequest AuthRoleGetRequest
            AuthUserListRequest AuthRoleListRequest AuthRoleDeleteRequest AuthRoleGrantPermissionRequest
            AuthRoleRevokePermissionRequest AuthEnableResponse AuthDisableResponse AuthStatusResponse
            AuthenticateResponse AuthUserAddResponse AuthUserGetResponse AuthUserDeleteResponse
            AuthUserChangePasswordResponse AuthUserGrantRoleResponse AuthUserRevokeRoleResponse
            AuthRoleAddResponse AuthRoleGetResponse AuthRoleListResponse AuthUserListResponse
            AuthRoleDeleteResponse AuthRoleGrantPermissionResponse AuthRoleRevokePermissionResponse
            RangeStreamResponse
        }
        "v3lockpb" v3lockpb {
            LockRequest LockResponse UnlockRequest UnlockResponse
        }
        "v3electionpb" v3electionpb {
            CampaignRequest CampaignResponse LeaderKey LeaderRequest LeaderResponse ResignRequest
            ResignResponse ProclaimRequest ProclaimResponse
        }
        "grpc.health.v1" health {
            HealthCheckRequest HealthCheckResponse
        }
    }
}

#[test]
fn every_message_encodes_to_the_bytes_that_the_table_gives() {
    let table = table();
    let mut generated = generated();
    for name in table.messages.keys() {
        let round_trip = generated.remove(&name.to_lowercase()).unwrap_or_else(|| panic!("no Rust type for {name}"));
        // As many rounds as the largest oneof has alternatives.
        for pick in 0..5 {
            let golden = encode(&table, name, pick, 0);
            assert_eq!(round_trip(&golden), golden, "{name}, alternative {pick}");
        }
    }
    assert!(generated.is_empty(), "not in the table: {:?}", generated.keys());
}

fn generated_own() -> BTreeMap<String, RoundTrip> {
    generated_types! {
        "quorate.v1" quorate_v1 {
            ClusterHealthRequest ClusterHealthResponse MemberHealth MaintenanceProgressRequest
            MaintenanceProgressResponse Work
        }
        "quorate.peer.v1" peer_v1 {
            Hello HelloReply LogId Vote Request Response Failure Append LogEntry AppendReply Matching VoteRequest
            VoteReply TransferLeader TransferLeaderReply ReadIndex ReadIndexReply Forward ForwardReply LeaseRenew
            LeaseRenewReply LeaseRemaining LeaseRemainingReply LeaseList LeaseListReply MemberChange MemberAdd
            MemberUpdate MemberChangeReply ClusterInfo ClusterInfoReply ClusterMember Membership VoterSet Node
            SnapshotBegin SnapshotChunk SnapshotEnd SnapshotReply PullBegin PullBeginReply PullNext RebuildRequest RebuildReply
            StatusRequest MemberStatus HashRequest HashReply
        }
    }
}

/// Members of two versions speak these to each other, so a line of the file may be added and none may change. A new message
/// gets its lines by `UPDATE_EXPECT=1 cargo test -p quorate-proto`.
#[test]
fn messages_of_our_own_have_their_golden_bytes() {
    let own = descriptors(OWN_PACKAGES);
    let mut generated = generated_own();
    let mut golden = String::from("# message, alternative of its oneofs, bytes with all fields set\n");
    for (name, fields) in &own.messages {
        let round_trip = generated.remove(&name.to_lowercase()).unwrap_or_else(|| panic!("add {name} to the test"));
        for pick in 0..alternatives(fields) {
            let bytes = encode(&own, name, pick, 0);
            assert_eq!(round_trip(&bytes), bytes, "{name}, alternative {pick}");
            golden.push_str(&format!("{name} {pick} {}\n", hex(&bytes)));
        }
    }
    assert!(generated.is_empty(), "in no package: {:?}", generated.keys());
    expect_file!["quorate_golden.txt"].assert_eq(&golden);
}

#[test]
fn service_names_are_those_of_the_table() {
    use etcdserverpb::*;
    let names = [
        kv_server::SERVICE_NAME,
        watch_server::SERVICE_NAME,
        lease_server::SERVICE_NAME,
        cluster_server::SERVICE_NAME,
        maintenance_server::SERVICE_NAME,
        auth_server::SERVICE_NAME,
        v3lockpb::lock_server::SERVICE_NAME,
        v3electionpb::election_server::SERVICE_NAME,
        health::health_server::SERVICE_NAME,
    ];
    assert_eq!(BTreeSet::from(names.map(str::to_owned)), table().services.into_keys().collect());
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Worked out by hand, to check the encoder of this file as well.
#[test]
fn a_few_messages_have_the_bytes_worked_out_by_hand() {
    let put = etcdserverpb::PutRequest {
        key: "a".into(),
        value: "b".into(),
        lease: 300,
        prev_kv: true,
        ignore_value: true,
        ignore_lease: true,
    };
    assert_eq!(
        hex(&put.encode_to_vec()),
        "0a0161" /* key */
            .to_owned()
            + "120162"
            + "18ac02"
            + "2001"
            + "2801"
            + "3001"
    );

    let progress = etcdserverpb::WatchResponse {
        header: Some(etcdserverpb::ResponseHeader { revision: 7, ..Default::default() }),
        watch_id: -1,
        events: vec![mvccpb::Event { r#type: mvccpb::event::EventType::Delete.into(), ..Default::default() }],
        ..Default::default()
    };
    assert_eq!(hex(&progress.encode_to_vec()), "0a021807".to_owned() + "10ffffffffffffffffff01" + "5a020801");

    let member =
        etcdserverpb::Member { peer_urls: vec!["p".into()], client_urls: vec!["c".into()], ..Default::default() };
    assert_eq!(hex(&member.encode_to_vec()), "1a0170220163");
}
