//! One `"Field" : value` per line.

use std::io::Write as _;

use quorate_proto::etcdserverpb::response_op::Response;
use quorate_proto::etcdserverpb::*;
use quorate_proto::mvccpb::KeyValue;

use super::{Reply, alarm_name, event_type_name, put};
use crate::golang::{self, quote};

/// False if the answer has no such form.
pub(super) fn render(reply: Reply<'_>, hex: bool, out: &mut Vec<u8>) -> bool {
    Fields { hex, out }.render(reply)
}

struct Fields<'a> {
    hex: bool,
    out: &'a mut Vec<u8>,
}

impl Fields<'_> {
    fn render(&mut self, reply: Reply<'_>) -> bool {
        match reply {
            Reply::Put(response) => self.put(response),
            Reply::Get(response) => self.get(response),
            Reply::Delete(response) => self.delete(response),
            Reply::Txn(response) => self.txn(response),
            Reply::Watch(response) => {
                self.header(&response.header);
                for event in &response.events {
                    put!(self.out, "\"Type\" : {}", event_type_name(event));
                    event.prev_kv.iter().for_each(|kv| self.kv("Prev", kv));
                    event.kv.iter().for_each(|kv| self.kv("", kv));
                }
            }
            Reply::LeaseGrant(r) => self.lease(&r.header, r.id, r.ttl),
            Reply::LeaseKeepAlive(r) => self.lease(&r.header, r.id, r.ttl),
            Reply::LeaseRevoke { response, .. } => self.header(&response.header),
            Reply::LeaseTimeToLive { response, .. } => {
                self.lease(&response.header, response.id, response.ttl);
                put!(self.out, "\"GrantedTTL\" : {}", response.granted_ttl);
                response.keys.iter().for_each(|key| put!(self.out, "\"Key\" : {}", quote(key)));
            }
            Reply::LeaseList(response) => {
                self.header(&response.header);
                response.leases.iter().for_each(|lease| self.lease_id("ID", lease.id));
            }
            Reply::MemberList(response) => self.members(response),
            Reply::EndpointHealth(endpoints) => {
                for health in endpoints {
                    put!(self.out, "\"Endpoint\" : {}", quote(health.endpoint.as_bytes()));
                    put!(self.out, "\"Health\" : {}", health.error.is_none());
                    put!(self.out, "\"Took\" : {}", golang::duration(health.took));
                    put!(self.out, "\"Error\" : {}\n", health.error.as_deref().unwrap_or_default());
                }
            }
            Reply::EndpointStatus(endpoints) => endpoints.iter().for_each(|(ep, status)| self.status(ep, status)),
            Reply::EndpointHashKv(endpoints) => {
                for (endpoint, response) in endpoints {
                    self.header(&response.header);
                    put!(self.out, "\"Endpoint\" : {}", quote(endpoint.as_bytes()));
                    put!(self.out, "\"Hash\" : {}", response.hash);
                    put!(self.out, "\"HashRevision\" : {}\n", response.hash_revision);
                }
            }
            Reply::DirectoryCheck(check) => {
                put!(self.out, "\"Faults\" : {}", check.verified.faults);
                for fault in &check.faults {
                    put!(self.out, "\"File\" : {}", quote(fault.file.display().to_string().as_bytes()));
                    if let Some(offset) = fault.offset {
                        put!(self.out, "\"Offset\" : {offset}");
                    }
                    put!(self.out, "\"Row\" : {}", quote(fault.row.as_deref().unwrap_or_default().as_bytes()));
                    put!(self.out, "\"Revision\" : {}", fault.revision.map_or(0, |revision| revision.get()));
                    put!(self.out, "\"Problem\" : {}\n", quote(fault.problem.as_bytes()));
                }
            }
            Reply::SnapshotStatus(status) => {
                put!(self.out, "\"Hash\" : {}", status.hash);
                put!(self.out, "\"Revision\" : {}", status.revision);
                put!(self.out, "\"Keys\" : {}", status.total_keys);
                put!(self.out, "\"Size\" : {}", status.total_bytes);
                // Unlike every other text, etcdutl does not quote this one.
                put!(self.out, "\"Version\" : {}", status.version);
            }
            Reply::Alarm(response) => {
                self.header(&response.header);
                for alarm in &response.alarms {
                    self.id("MemberID", alarm.member_id);
                    put!(self.out, "\"AlarmType\" : {}\n", alarm_name(alarm.alarm));
                }
            }
            Reply::AuthChange { header, .. } => self.header(header),
            Reply::RoleGet { response, .. } => {
                self.header(&response.header);
                for permission in &response.perm {
                    put!(self.out, "\"PermType\" :  {}", permission.perm_type().as_str_name());
                    put!(self.out, "\"Key\" : {}", quote(&permission.key));
                    put!(self.out, "\"RangeEnd\" : {}", quote(&permission.range_end));
                }
            }
            Reply::RoleList(response) => {
                self.header(&response.header);
                let roles: String = response.roles.iter().map(|role| format!(" {}", quote(role.as_bytes()))).collect();
                put!(self.out, "\"Roles\" :{roles}");
            }
            Reply::AuthStatus(_) | Reply::UserGet { .. } | Reply::UserList(_) => return false,
            Reply::MemberAdd(_)
            | Reply::MemberRemove { .. }
            | Reply::MemberUpdate { .. }
            | Reply::MemberPromote { .. }
            | Reply::MoveLeader { .. }
            | Reply::Downgrade { .. } => return false,
        }
        true
    }

    fn put(&mut self, response: &PutResponse) {
        self.header(&response.header);
        response.prev_kv.iter().for_each(|kv| self.kv("Prev", kv));
    }

    fn get(&mut self, response: &RangeResponse) {
        self.header(&response.header);
        response.kvs.iter().for_each(|kv| self.kv("", kv));
        put!(self.out, "\"More\" : {}", response.more);
        put!(self.out, "\"Count\" : {}", response.count);
    }

    fn delete(&mut self, response: &DeleteRangeResponse) {
        self.header(&response.header);
        put!(self.out, "\"Deleted\" : {}", response.deleted);
        response.prev_kvs.iter().for_each(|kv| self.kv("Prev", kv));
    }

    fn txn(&mut self, response: &TxnResponse) {
        self.header(&response.header);
        put!(self.out, "\"Succeeded\" : {}", response.succeeded);
        for operation in &response.responses {
            match &operation.response {
                Some(Response::ResponseRange(response)) => self.get(response),
                Some(Response::ResponsePut(response)) => self.put(response),
                Some(Response::ResponseDeleteRange(response)) => self.delete(response),
                Some(Response::ResponseTxn(response)) => self.txn(response),
                None => {}
            }
        }
    }

    fn lease(&mut self, header: &Option<ResponseHeader>, id: i64, ttl: i64) {
        self.header(header);
        self.lease_id("ID", id);
        put!(self.out, "\"TTL\" : {ttl}");
    }

    fn members(&mut self, response: &MemberListResponse) {
        self.header(&response.header);
        for member in &response.members {
            self.id("ID", member.id);
            put!(self.out, "\"Name\" : {}", quote(member.name.as_bytes()));
            member.peer_urls.iter().for_each(|url| put!(self.out, "\"PeerURL\" : {}", quote(url.as_bytes())));
            member.client_urls.iter().for_each(|url| put!(self.out, "\"ClientURL\" : {}", quote(url.as_bytes())));
            put!(self.out, "\"IsLearner\" : {}\n", member.is_learner);
        }
    }

    fn status(&mut self, endpoint: &str, status: &StatusResponse) {
        self.header(&status.header);
        let downgrade = status.downgrade_info.clone().unwrap_or_default();
        put!(self.out, "\"Version\" : {}", quote(status.version.as_bytes()));
        put!(self.out, "\"StorageVersion\" : {}", quote(status.storage_version.as_bytes()));
        put!(self.out, "\"DBSize\" : {}", status.db_size);
        put!(self.out, "\"DBSizeInUse\" : {}", status.db_size_in_use);
        put!(self.out, "\"DBSizeQuota\" : {}", status.db_size_quota);
        put!(self.out, "\"Leader\" : {}", status.leader);
        put!(self.out, "\"IsLearner\" : {}", status.is_learner);
        put!(self.out, "\"RaftIndex\" : {}", status.raft_index);
        put!(self.out, "\"RaftTerm\" : {}", status.raft_term);
        put!(self.out, "\"RaftAppliedIndex\" : {}", status.raft_applied_index);
        put!(self.out, "\"Errors\" : [{}]", status.errors.join(" "));
        put!(self.out, "\"Endpoint\" : {}", quote(endpoint.as_bytes()));
        put!(self.out, "\"DowngradeTargetVersion\" : {}", quote(downgrade.target_version.as_bytes()));
        put!(self.out, "\"DowngradeEnabled\" : {}\n", downgrade.enabled);
    }

    fn header(&mut self, header: &Option<ResponseHeader>) {
        let header = header.unwrap_or_default();
        self.id("ClusterID", header.cluster_id);
        self.id("MemberID", header.member_id);
        // Answers about members have no revision.
        if header.revision > 0 {
            put!(self.out, "\"Revision\" : {}", header.revision);
        }
        put!(self.out, "\"RaftTerm\" : {}", header.raft_term);
    }

    fn kv(&mut self, prefix: &str, kv: &KeyValue) {
        put!(self.out, "\"{prefix}Key\" : {}", quote(&kv.key));
        put!(self.out, "\"{prefix}CreateRevision\" : {}", kv.create_revision);
        put!(self.out, "\"{prefix}ModRevision\" : {}", kv.mod_revision);
        put!(self.out, "\"{prefix}Version\" : {}", kv.version);
        put!(self.out, "\"{prefix}Value\" : {}", quote(&kv.value));
        self.lease_id(&format!("{prefix}Lease"), kv.lease);
    }

    fn id(&mut self, name: &str, id: u64) {
        if self.hex {
            put!(self.out, "\"{name}\" : {id:x}");
        } else {
            put!(self.out, "\"{name}\" : {id}");
        }
    }

    fn lease_id(&mut self, name: &str, id: i64) {
        if self.hex {
            put!(self.out, "\"{name}\" : {id:016x}");
        } else {
            put!(self.out, "\"{name}\" : {id}");
        }
    }
}
