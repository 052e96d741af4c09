//! One JSON object per answer, with the names, the order and the omissions of etcd's Go client.
//!
//! Written by hand: the names follow no single rule (`kvs`, `peerURLs`, `granted-ttl`, `CompactRevision`), and scripts
//! depend on each of them.

use std::io::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::*;
use quorate_proto::mvccpb::{Event, KeyValue};

use super::{DirectoryCheck, EndpointHealth, Reply};
use crate::golang;

pub(super) fn render(reply: Reply<'_>, hex: bool, out: &mut Vec<u8>) {
    match reply {
        Reply::EndpointHealth(endpoints) => array(endpoints, out, health),
        Reply::EndpointStatus(endpoints) => array(endpoints, out, |(endpoint, response), o| {
            o.text_always("Endpoint", endpoint);
            o.object("Status", Some(response), status);
        }),
        Reply::EndpointHashKv(endpoints) => array(endpoints, out, |(endpoint, response), o| {
            o.text_always("Endpoint", endpoint);
            o.object("HashKV", Some(response), hash_kv);
        }),
        _ => object(out, |o| answer(reply, hex, o)),
    }
    out.push(b'\n');
}

fn answer(reply: Reply<'_>, hex: bool, o: &mut Object<'_>) {
    match reply {
        Reply::Put(response) => put(response, o),
        Reply::Get(response) => range(response, o),
        Reply::Delete(response) => delete(response, o),
        Reply::Txn(response) => txn(response, o),
        Reply::Watch(response) => watch(response, o),
        Reply::LeaseGrant(response) => {
            header_fields(&response.header, o);
            o.number_always("ID", response.id);
            o.number_always("TTL", response.ttl);
            o.text_always("Error", &response.error);
        }
        Reply::LeaseRevoke { response, .. } => header(&response.header, o),
        Reply::LeaseKeepAlive(response) => {
            header_fields(&response.header, o);
            o.number_always("ID", response.id);
            o.number_always("TTL", response.ttl);
        }
        Reply::LeaseTimeToLive { response, .. } => {
            header_fields(&response.header, o);
            o.number_always("id", response.id);
            o.number_always("ttl", response.ttl);
            o.number_always("granted-ttl", response.granted_ttl);
            o.bytes_list_or_null("keys", &response.keys);
        }
        Reply::LeaseList(response) => {
            header_fields(&response.header, o);
            o.list_always("leases", &response.leases, |lease, o| o.number_always("id", lease.id));
        }
        Reply::MemberAdd(response) => {
            member_header(&response.header, hex, o);
            o.object("member", response.member.as_ref(), |m, o| member(m, hex, o));
            members(&response.members, hex, o);
        }
        Reply::MemberRemove { response, .. } => {
            member_header(&response.header, hex, o);
            members(&response.members, hex, o);
        }
        Reply::MemberUpdate { response, .. } => {
            member_header(&response.header, hex, o);
            members(&response.members, hex, o);
        }
        Reply::MemberPromote { response, .. } => {
            member_header(&response.header, hex, o);
            members(&response.members, hex, o);
        }
        Reply::MemberList(response) => {
            member_header(&response.header, hex, o);
            members(&response.members, hex, o);
        }
        Reply::Alarm(response) => {
            header(&response.header, o);
            o.list("alarms", &response.alarms, |alarm, o| {
                o.number("memberID", alarm.member_id);
                o.number("alarm", alarm.alarm);
            });
        }
        Reply::MoveLeader { response, .. } => header(&response.header, o),
        Reply::Downgrade { response, .. } => {
            header(&response.header, o);
            o.text("version", &response.version);
        }
        Reply::SnapshotStatus(status) => {
            o.number_always("hash", status.hash);
            o.number_always("revision", status.revision);
            o.number_always("totalKey", status.total_keys);
            o.number_always("totalSize", status.total_bytes);
            o.text_always("version", &status.version);
        }
        Reply::DirectoryCheck(check) => directory_check(check, o),
        Reply::AuthChange { header: h, .. } => header(h, o),
        Reply::AuthStatus(response) => {
            header(&response.header, o);
            o.flag("enabled", response.enabled);
            o.number("authRevision", response.auth_revision);
        }
        Reply::UserGet { response, .. } => {
            header(&response.header, o);
            o.text_list("roles", &response.roles);
        }
        Reply::UserList(response) => {
            header(&response.header, o);
            o.text_list("users", &response.users);
        }
        Reply::RoleGet { response, .. } => {
            header(&response.header, o);
            o.list("perm", &response.perm, |permission, o| {
                o.number("permType", permission.perm_type);
                o.bytes("key", &permission.key);
                o.bytes("range_end", &permission.range_end);
            });
        }
        Reply::RoleList(response) => {
            header(&response.header, o);
            o.text_list("roles", &response.roles);
        }
        // These are arrays.
        Reply::EndpointHealth(_) | Reply::EndpointStatus(_) | Reply::EndpointHashKv(_) => {}
    }
}

fn directory_check(check: &DirectoryCheck, o: &mut Object<'_>) {
    let verified = &check.verified;
    let id = |id: Option<u64>| id.map(|id| format!("{id:x}")).unwrap_or_default();
    o.text("clusterID", &id(verified.cluster_id));
    o.text("memberID", &id(verified.member_id));
    o.text("engine", verified.engine.map_or("", |engine| engine.name()));
    o.object("log", Some(&verified.log), |log, o| {
        o.number_always("segments", log.segments);
        o.number_always("records", log.records);
        o.number_always("bytes", log.bytes);
        o.number("tornAt", log.torn_at.unwrap_or_default());
    });
    o.object("rows", Some(&verified.rows), |rows, o| {
        o.number_always("rows", rows.rows);
        o.number_always("bytes", rows.bytes);
        o.number_always("records", rows.records);
        o.number_always("keys", rows.index_rows);
        o.number_always("otherRows", rows.other_rows);
        o.number_always("revision", rows.revisions.values().map(|revision| revision.get()).max().unwrap_or_default());
    });
    o.number_always("faultCount", verified.faults);
    o.list_always("faults", &check.faults, |fault, o| {
        o.text_always("file", &fault.file.display().to_string());
        if let Some(offset) = fault.offset {
            o.number_always("offset", offset);
        }
        o.text("row", fault.row.as_deref().unwrap_or_default());
        if let Some(key) = &fault.key {
            o.bytes("key", key);
        }
        o.number("revision", fault.revision.map_or(0, |revision| revision.get()));
        o.text_always("problem", &fault.problem);
    });
}

fn put(response: &PutResponse, o: &mut Object<'_>) {
    header(&response.header, o);
    o.object("prev_kv", response.prev_kv.as_ref(), key_value);
}

fn range(response: &RangeResponse, o: &mut Object<'_>) {
    header(&response.header, o);
    o.list("kvs", &response.kvs, key_value);
    o.flag("more", response.more);
    o.number("count", response.count);
}

fn delete(response: &DeleteRangeResponse, o: &mut Object<'_>) {
    header(&response.header, o);
    o.number("deleted", response.deleted);
    o.list("prev_kvs", &response.prev_kvs, key_value);
}

fn txn(response: &TxnResponse, o: &mut Object<'_>) {
    header(&response.header, o);
    o.flag("succeeded", response.succeeded);
    o.list("responses", &response.responses, |operation, o| match &operation.response {
        Some(response) => o.object("Response", Some(response), operation_response),
        None => o.null("Response"),
    });
}

fn operation_response(response: &Response, o: &mut Object<'_>) {
    match response {
        Response::ResponseRange(response) => o.object("response_range", Some(response), range),
        Response::ResponsePut(response) => o.object("response_put", Some(response), put),
        Response::ResponseDeleteRange(response) => o.object("response_delete_range", Some(response), delete),
        Response::ResponseTxn(response) => o.object("response_txn", Some(response), txn),
    }
}

fn watch(response: &WatchResponse, o: &mut Object<'_>) {
    o.object("Header", Some(&response.header), header_fields);
    o.list_always("Events", &response.events, event);
    o.number_always("CompactRevision", response.compact_revision);
    o.flag_always("Canceled", response.canceled);
    o.flag_always("Created", response.created);
}

fn event(event: &Event, o: &mut Object<'_>) {
    o.number("type", event.r#type);
    o.object("kv", event.kv.as_ref(), key_value);
    o.object("prev_kv", event.prev_kv.as_ref(), key_value);
}

fn key_value(kv: &KeyValue, o: &mut Object<'_>) {
    o.bytes("key", &kv.key);
    o.number("create_revision", kv.create_revision);
    o.number("mod_revision", kv.mod_revision);
    o.number("version", kv.version);
    o.bytes("value", &kv.value);
    o.number("lease", kv.lease);
}

fn header(header: &Option<ResponseHeader>, o: &mut Object<'_>) {
    if header.is_some() {
        o.object("header", Some(header), header_fields);
    }
}

/// The fields of the header. Go's client embeds them in the answers about leases.
fn header_fields(header: &Option<ResponseHeader>, o: &mut Object<'_>) {
    let header = header.unwrap_or_default();
    o.number("cluster_id", header.cluster_id);
    o.number("member_id", header.member_id);
    o.number("revision", header.revision);
    o.number("raft_term", header.raft_term);
}

fn member_header(from: &Option<ResponseHeader>, hex: bool, o: &mut Object<'_>) {
    match from {
        Some(from) if hex => o.object("header", Some(from), |from, o| {
            o.text_always("cluster_id", &format!("{:x}", from.cluster_id));
            o.text_always("member_id", &format!("{:x}", from.member_id));
            o.number("revision", from.revision);
            o.number("raft_term", from.raft_term);
        }),
        _ => header(from, o),
    }
}

fn members(list: &[Member], hex: bool, o: &mut Object<'_>) {
    if hex {
        o.list_always("members", list, |m, o| member(m, hex, o));
    } else {
        o.list("members", list, |m, o| member(m, hex, o));
    }
}

fn member(member: &Member, hex: bool, o: &mut Object<'_>) {
    if hex {
        o.text_always("ID", &format!("{:x}", member.id));
    } else {
        o.number("ID", member.id);
    }
    o.text("name", &member.name);
    o.text_list("peerURLs", &member.peer_urls);
    o.text_list("clientURLs", &member.client_urls);
    o.flag("isLearner", member.is_learner);
}

fn health(health: &EndpointHealth, o: &mut Object<'_>) {
    o.text_always("endpoint", &health.endpoint);
    o.flag_always("health", health.error.is_none());
    o.text_always("took", &golang::duration(health.took));
    o.text("error", health.error.as_deref().unwrap_or_default());
}

fn status(status: &StatusResponse, o: &mut Object<'_>) {
    header(&status.header, o);
    o.text("version", &status.version);
    o.number("dbSize", status.db_size);
    o.number("leader", status.leader);
    o.number("raftIndex", status.raft_index);
    o.number("raftTerm", status.raft_term);
    o.number("raftAppliedIndex", status.raft_applied_index);
    o.text_list("errors", &status.errors);
    o.number("dbSizeInUse", status.db_size_in_use);
    o.flag("isLearner", status.is_learner);
    o.text("storageVersion", &status.storage_version);
    o.number("dbSizeQuota", status.db_size_quota);
    o.object("downgradeInfo", status.downgrade_info.as_ref(), |info, o| {
        o.flag("enabled", info.enabled);
        o.text("targetVersion", &info.target_version);
    });
}

fn hash_kv(response: &HashKvResponse, o: &mut Object<'_>) {
    header(&response.header, o);
    o.number("hash", response.hash);
    o.number("compact_revision", response.compact_revision);
    o.number("hash_revision", response.hash_revision);
}

/// An object in the making. Like Go's `omitempty`, the plain methods leave out what is zero or empty; those named
/// `always` do not.
struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

fn object(out: &mut Vec<u8>, fill: impl FnOnce(&mut Object<'_>)) {
    out.push(b'{');
    fill(&mut Object { out, empty: true });
    out.push(b'}');
}

fn array<T>(items: &[T], out: &mut Vec<u8>, fill: impl Fn(&T, &mut Object<'_>)) {
    separated(items, out, |item, out| object(out, |o| fill(item, o)));
}

fn separated<T>(items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
    out.push(b'[');
    for (at, item) in items.iter().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        write(item, out);
    }
    out.push(b']');
}

/// Like Go, also escapes what could end a script element, and the separators that JavaScript did not allow.
fn string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend_from_slice(&[b'\\', c as u8]),
            '\n' => out.extend_from_slice(b"\\n"),
            '\r' => out.extend_from_slice(b"\\r"),
            '\t' => out.extend_from_slice(b"\\t"),
            '\0'..='\x1f' | '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                write!(out, "\\u{:04x}", u32::from(c)).expect("a Vec takes any text");
            }
            _ => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    out.push(b'"');
}

fn base64(bytes: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    out.extend_from_slice(STANDARD.encode(bytes).as_bytes());
    out.push(b'"');
}

impl Object<'_> {
    fn name(&mut self, name: &str) {
        if !std::mem::take(&mut self.empty) {
            self.out.push(b',');
        }
        string(name, self.out);
        self.out.push(b':');
    }

    fn number_always(&mut self, name: &str, number: impl Into<i128>) {
        self.name(name);
        write!(self.out, "{}", number.into()).expect("a Vec takes any text");
    }

    fn number(&mut self, name: &str, number: impl Into<i128>) {
        let number = number.into();
        if number != 0 {
            self.number_always(name, number);
        }
    }

    fn flag_always(&mut self, name: &str, flag: bool) {
        self.name(name);
        write!(self.out, "{flag}").expect("a Vec takes any text");
    }

    fn flag(&mut self, name: &str, flag: bool) {
        if flag {
            self.flag_always(name, flag);
        }
    }

    fn text_always(&mut self, name: &str, text: &str) {
        self.name(name);
        string(text, self.out);
    }

    fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            self.text_always(name, text);
        }
    }

    fn text_list(&mut self, name: &str, texts: &[String]) {
        if !texts.is_empty() {
            self.name(name);
            separated(texts, self.out, |text, out| string(text, out));
        }
    }

    fn bytes(&mut self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.name(name);
            base64(bytes, self.out);
        }
    }

    fn bytes_list_or_null(&mut self, name: &str, list: &[impl AsRef<[u8]>]) {
        if list.is_empty() {
            self.null(name);
        } else {
            self.name(name);
            separated(list, self.out, |bytes, out| base64(bytes.as_ref(), out));
        }
    }

    fn null(&mut self, name: &str) {
        self.name(name);
        self.out.extend_from_slice(b"null");
    }

    fn object<T>(&mut self, name: &str, value: Option<&T>, fill: impl FnOnce(&T, &mut Object<'_>)) {
        if let Some(value) = value {
            self.name(name);
            object(self.out, |o| fill(value, o));
        }
    }

    fn list_always<T>(&mut self, name: &str, items: &[T], fill: impl Fn(&T, &mut Object<'_>)) {
        self.name(name);
        array(items, self.out, fill);
    }

    fn list<T>(&mut self, name: &str, items: &[T], fill: impl Fn(&T, &mut Object<'_>)) {
        if !items.is_empty() {
            self.list_always(name, items, fill);
        }
    }
}
