//! Lines for people and simple scripts.

use std::io::Write as _;

use quorate_proto::authpb::{Permission, permission};
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::*;
use quorate_proto::mvccpb::KeyValue;

use super::table::{hash_rows, member_rows, snapshot_rows, status_rows};
use super::{DirectoryCheck, Printer, Reply, Streams, alarm_name, event_type_name, put};
use crate::golang::{self, human_bytes};
use crate::kv::prefix_range;

pub(super) fn render(reply: Reply<'_>, printer: Printer, streams: &mut Streams) {
    let Streams { out, err } = streams;
    match reply {
        Reply::Put(response) => render_put(response, printer, out),
        Reply::Get(response) => render_get(response, printer, out),
        Reply::Delete(response) => render_delete(response, printer, out),
        Reply::Txn(response) => render_txn(response, printer, out),
        Reply::Watch(response) => {
            for event in &response.events {
                put!(out, "{}", event_type_name(event));
                event.prev_kv.iter().chain(&event.kv).for_each(|kv| render_kv(kv, printer, out));
            }
        }
        Reply::LeaseGrant(r) => put!(out, "lease {:016x} granted with TTL({}s)", r.id, r.ttl),
        Reply::LeaseRevoke { id, .. } => put!(out, "lease {id:016x} revoked"),
        Reply::LeaseKeepAlive(r) => put!(out, "lease {:016x} keepalived with TTL({})", r.id, r.ttl),
        Reply::LeaseTimeToLive { response, keys } => render_time_to_live(response, keys, out),
        Reply::LeaseList(response) => {
            put!(out, "found {} leases", response.leases.len());
            response.leases.iter().for_each(|lease| put!(out, "{:016x}", lease.id));
        }
        Reply::MemberAdd(response) => {
            let id = response.member.as_ref().map_or(0, |member| member.id);
            put!(out, "Member {id:16x} added to cluster {:16x}", cluster_id(&response.header));
        }
        Reply::MemberRemove { id, response } => {
            put!(out, "Member {id:16x} removed from cluster {:16x}", cluster_id(&response.header));
        }
        Reply::MemberUpdate { id, response } => {
            put!(out, "Member {id:16x} updated in cluster {:16x}", cluster_id(&response.header));
        }
        Reply::MemberPromote { id, response } => {
            put!(out, "Member {id:16x} promoted in cluster {:16x}", cluster_id(&response.header));
        }
        Reply::MemberList(response) => render_rows(&member_rows(response), out),
        Reply::EndpointHealth(endpoints) => {
            for health in endpoints {
                let endpoint = &health.endpoint;
                match &health.error {
                    None => put!(
                        out,
                        "{endpoint} is healthy: successfully committed proposal: took = {}",
                        golang::duration(health.took)
                    ),
                    Some(error) => put!(err, "{endpoint} is unhealthy: failed to commit proposal: {error}"),
                }
            }
        }
        Reply::EndpointStatus(endpoints) => render_rows(&status_rows(endpoints), out),
        Reply::EndpointHashKv(endpoints) => render_rows(&hash_rows(endpoints), out),
        Reply::Alarm(response) => {
            // Go prints the text form of the message, which leaves out zeros and has a space after each field.
            for alarm in &response.alarms {
                if alarm.member_id != 0 {
                    write!(out, "memberID:{} ", alarm.member_id).expect("a Vec takes any text");
                }
                if alarm.alarm != 0 {
                    write!(out, "alarm:{} ", alarm_name(alarm.alarm)).expect("a Vec takes any text");
                }
                put!(out, "");
            }
        }
        Reply::SnapshotStatus(status) => render_rows(&snapshot_rows(status), out),
        Reply::DirectoryCheck(check) => directory_check(check, out),
        Reply::AuthChange { done, .. } => put!(out, "{done}"),
        Reply::AuthStatus(response) => {
            put!(out, "Authentication Status: {}", response.enabled);
            put!(out, "AuthRevision: {}", response.auth_revision);
        }
        Reply::UserGet { name, response } => {
            put!(out, "User: {name}");
            let roles: String = response.roles.iter().map(|role| format!(" {role}")).collect();
            put!(out, "Roles:{roles}");
        }
        Reply::UserList(response) => response.users.iter().for_each(|user| put!(out, "{user}")),
        Reply::RoleGet { role, response } => render_role(role, response, out),
        Reply::RoleList(response) => response.roles.iter().for_each(|role| put!(out, "{role}")),
        Reply::MoveLeader { from, to, .. } => put!(out, "Leadership transferred from {from:x} to {to:x}"),
        Reply::Downgrade { action, response } => {
            put!(out, "Downgrade {action} success, cluster version {}", response.version);
        }
    }
}

fn directory_check(check: &DirectoryCheck, out: &mut Vec<u8>) {
    for fault in &check.faults {
        let mut place = fault.file.display().to_string();
        if let Some(offset) = fault.offset {
            place.push_str(&format!(" at {offset}"));
        }
        if let Some(row) = &fault.row {
            place.push_str(&format!(", {row}"));
        }
        if let Some(key) = &fault.key {
            place.push_str(&format!(", key \"{}\"", key.escape_ascii()));
        }
        if let Some(revision) = fault.revision {
            place.push_str(&format!(", revision {revision}"));
        }
        put!(out, "{place}: {}", fault.problem);
    }
    let verified = &check.verified;
    if verified.faults > check.faults.len() as u64 {
        put!(out, "and {} more", verified.faults - check.faults.len() as u64);
    }
    let (log, rows) = (&verified.log, &verified.rows);
    put!(out, "log: {} segments, {} records, {}", log.segments, log.records, human_bytes(log.bytes));
    if let Some(at) = log.torn_at {
        put!(
            out,
            "log: the last batch was torn at {at} by a crash; it was never acknowledged, and is cut at the next start"
        );
    }
    put!(
        out,
        "engine: {} rows, {}: {} records, {} keys in the index, {} rows of no state in force",
        rows.rows,
        human_bytes(rows.bytes),
        rows.records,
        rows.index_rows,
        rows.other_rows
    );
    match verified.faults {
        0 => put!(out, "no fault was found"),
        1 => put!(out, "1 fault was found"),
        many => put!(out, "{many} faults were found"),
    }
}

fn render_role(role: &str, response: &AuthRoleGetResponse, out: &mut Vec<u8>) {
    use permission::Type;
    put!(out, "Role {role}");
    for (title, kind) in [("KV Read:", Type::Read), ("KV Write:", Type::Write)] {
        put!(out, "{title}");
        let fits = |permission: &&Permission| [kind, Type::Readwrite].contains(&permission.perm_type());
        response.perm.iter().filter(fits).for_each(|permission| render_permission(permission, out));
    }
}

fn render_permission(permission: &Permission, out: &mut Vec<u8>) {
    let Permission { key, range_end, .. } = permission;
    out.push(b'\t');
    if range_end.is_empty() {
        out.extend_from_slice(key);
    } else {
        out.push(b'[');
        out.extend_from_slice(key);
        if range_end[..] == b"\0"[..] {
            out.extend_from_slice(b", <open ended>");
        } else {
            out.extend_from_slice(b", ");
            out.extend_from_slice(range_end);
            out.push(b')');
        }
        if !key.is_empty() && prefix_range(key.clone()).1 == *range_end {
            out.extend_from_slice(b" (prefix ");
            out.extend_from_slice(key);
            out.push(b')');
        }
    }
    put!(out, "");
}

fn render_put(response: &PutResponse, printer: Printer, out: &mut Vec<u8>) {
    put!(out, "OK");
    response.prev_kv.iter().for_each(|kv| render_kv(kv, printer, out));
}

fn render_get(response: &RangeResponse, printer: Printer, out: &mut Vec<u8>) {
    response.kvs.iter().for_each(|kv| render_kv(kv, printer, out));
}

fn render_delete(response: &DeleteRangeResponse, printer: Printer, out: &mut Vec<u8>) {
    put!(out, "{}", response.deleted);
    response.prev_kvs.iter().for_each(|kv| render_kv(kv, printer, out));
}

fn render_txn(response: &TxnResponse, printer: Printer, out: &mut Vec<u8>) {
    put!(out, "{}", if response.succeeded { "SUCCESS" } else { "FAILURE" });
    for operation in &response.responses {
        put!(out, "");
        match &operation.response {
            Some(Response::ResponseRange(response)) => render_get(response, printer, out),
            Some(Response::ResponsePut(response)) => render_put(response, printer, out),
            Some(Response::ResponseDeleteRange(response)) => render_delete(response, printer, out),
            Some(Response::ResponseTxn(response)) => render_txn(response, printer, out),
            None => {}
        }
    }
}

fn render_kv(kv: &KeyValue, printer: Printer, out: &mut Vec<u8>) {
    if !printer.values_only {
        render_bytes(&kv.key, printer.hex, out);
    }
    render_bytes(&kv.value, printer.hex, out);
}

fn render_bytes(bytes: &[u8], hex: bool, out: &mut Vec<u8>) {
    if hex {
        bytes.iter().for_each(|byte| write!(out, "\\x{byte:02x}").expect("a Vec takes any text"));
    } else {
        out.extend_from_slice(bytes);
    }
    out.push(b'\n');
}

fn render_time_to_live(response: &LeaseTimeToLiveResponse, keys: bool, out: &mut Vec<u8>) {
    let LeaseTimeToLiveResponse { id, ttl, granted_ttl, .. } = response;
    if *granted_ttl == 0 && *ttl == -1 {
        put!(out, "lease {id:016x} already expired");
        return;
    }
    write!(out, "lease {id:016x} granted with TTL({granted_ttl}s), remaining({ttl}s)").expect("a Vec takes any text");
    if keys {
        out.extend_from_slice(b", attached keys([");
        out.extend_from_slice(&response.keys.join(&b' '));
        out.extend_from_slice(b"])");
    }
    out.push(b'\n');
}

fn render_rows<const N: usize>(rows: &[[String; N]], out: &mut Vec<u8>) {
    rows.iter().for_each(|row| put!(out, "{}", row.join(", ")));
}

fn cluster_id(header: &Option<ResponseHeader>) -> u64 {
    header.as_ref().map_or(0, |header| header.cluster_id)
}
