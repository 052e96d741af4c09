//! What etcd keeps in which bucket, both directions. Source: etcd's `server/storage/schema` and `server/storage/mvcc`; the
//! messages are those of its API. Knows elements; does not know pages or files.
//!
//! | bucket | key | value |
//! |---|---|---|
//! | `key` | revision i64 BE, `_`, sub i64 BE, `t` behind a delete | `mvccpb.KeyValue`; of a delete the key alone |
//! | `meta` | `consistent_index`, `term` | u64 BE |
//! | | `scheduledCompactRev`, `finishedCompactRev` | a revision as in `key` |
//! | | `confState`, `storageVersion` | JSON; text |
//! | `lease` | id i64 BE | `leasepb.Lease` |
//! | `auth` | `authEnabled`, `authRevision` | one byte; u64 BE |
//! | `authUsers`, `authRoles` | name | `authpb.User`, `authpb.Role` |
//! | `members` | id, 16 digits | JSON |
//! | `members_removed` | id, 16 digits | `removed` |
//! | `cluster` | (nothing that a snapshot should say) | |
//! | `alarm` | `etcdserverpb.AlarmMember` | nothing |

use crate::raft;
use crate::versions::API_VERSION;
use bytes::Bytes;
use prost::Message;
use quorate_core::auth::{Access, PasswordHash, Permission, Role, User};
use quorate_core::{
    Alarm, AlarmKind, Change, KeyRange, Lease, LeaseId, MemberAttributes, MemberId, Record, Rev, Revision, SystemChange,
};
use quorate_proto::{authpb, etcdserverpb, mvccpb};
use quorate_storage::SnapshotMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::io;

pub(super) const KEY: &[u8] = b"key";
pub(super) const META: &[u8] = b"meta";
const LEASE: &[u8] = b"lease";
const AUTH: &[u8] = b"auth";
const USERS: &[u8] = b"authUsers";
const ROLES: &[u8] = b"authRoles";
const MEMBERS: &[u8] = b"members";
const MEMBERS_REMOVED: &[u8] = b"members_removed";
const CLUSTER: &[u8] = b"cluster";
const ALARM: &[u8] = b"alarm";

const CONSISTENT_INDEX: &[u8] = b"consistent_index";
const TERM: &[u8] = b"term";
const SCHEDULED_COMPACTION: &[u8] = b"scheduledCompactRev";
const FINISHED_COMPACTION: &[u8] = b"finishedCompactRev";
const CONF_STATE: &[u8] = b"confState";
pub(super) const STORAGE_VERSION: &[u8] = b"storageVersion";
const AUTH_ENABLED: &[u8] = b"authEnabled";
const AUTH_REVISION: &[u8] = b"authRevision";

/// Of a revision: two numbers, and what is between them.
const REV_BYTES: usize = 17;
const TOMBSTONE: u8 = b't';

/// Elements of a bucket.
pub(super) type Elements = BTreeMap<Vec<u8>, Vec<u8>>;

/// `leasepb.Lease`, which etcd has in no message of its API.
#[derive(Clone, PartialEq, Message)]
struct StoredLease {
    #[prost(int64, tag = "1")]
    id: i64,
    #[prost(int64, tag = "2")]
    ttl: i64,
    #[prost(int64, tag = "3")]
    remaining_ttl: i64,
}

/// The key in the bucket of all keys: of a put, or of a delete.
pub(super) fn rev_key(rev: Rev, delete: bool) -> Vec<u8> {
    let mut key = Vec::with_capacity(REV_BYTES + 1);
    key.extend(rev.main.get().to_be_bytes());
    key.push(b'_');
    key.extend(i64::from(rev.sub).to_be_bytes());
    if delete {
        key.push(TOMBSTONE);
    }
    key
}

/// A record as an element.
pub(super) fn element_of(record: &Record) -> (Vec<u8>, mvccpb::KeyValue) {
    let value = match &record.change {
        Change::Put { create_revision, version, lease, value } => mvccpb::KeyValue {
            key: record.key.clone(),
            create_revision: create_revision.get(),
            mod_revision: record.rev.main.get(),
            version: *version,
            value: value.clone(),
            lease: lease.get(),
        },
        Change::Delete => mvccpb::KeyValue { key: record.key.clone(), ..Default::default() },
    };
    (rev_key(record.rev, record.change == Change::Delete), value)
}

/// Tells that revisions went on to this one without a record that is left: a delete of no key. etcd's own `--bump-revision`
/// leaves a put of no key.
pub(super) fn revision_mark(revision: Revision) -> (Vec<u8>, Vec<u8>) {
    (rev_key(Rev::new(revision, 0), true), Vec::new())
}

/// What an element of the bucket of all keys is.
pub(super) enum Entry {
    /// A change, without [`Record::replaces`].
    Record(Record),
    /// See [`revision_mark`].
    Mark(Revision),
}

fn parse_rev(key: &[u8]) -> Option<(Rev, bool)> {
    let (rev, rest) = key.split_at_checked(REV_BYTES)?;
    let (main, rest_of_rev) = rev.split_first_chunk::<8>()?;
    let (_, sub) = rest_of_rev.split_last_chunk::<8>()?;
    let delete = match rest {
        [] => false,
        [TOMBSTONE] => true,
        _ => return None,
    };
    let main = i64::from_be_bytes(*main);
    let sub = u32::try_from(i64::from_be_bytes(*sub)).ok()?;
    (main > 0 && rest_of_rev[0] == b'_').then_some((Rev::new(Revision::new(main), sub), delete))
}

/// The other direction; says what is wrong.
pub(super) fn entry_of(key: &[u8], value: Bytes) -> Result<Entry, String> {
    let (rev, delete) = parse_rev(key).ok_or("a key of the bucket of all keys is not a revision")?;
    let kv = mvccpb::KeyValue::decode(value).map_err(|error| format!("revision {rev}: {error}"))?;
    if kv.key.is_empty() {
        return Ok(Entry::Mark(rev.main));
    }
    if delete {
        return Ok(Entry::Record(Record { rev, key: kv.key, change: Change::Delete, replaces: None }));
    }
    if kv.mod_revision != rev.main.get() || kv.create_revision > kv.mod_revision || kv.version < 1 {
        return Err(format!(
            "revision {rev} says that it is version {} of revision {}, created at {}",
            kv.version, kv.mod_revision, kv.create_revision
        ));
    }
    let change = Change::Put {
        create_revision: Revision::new(kv.create_revision),
        version: kv.version,
        lease: LeaseId::new(kv.lease),
        value: kv.value,
    };
    Ok(Entry::Record(Record { rev, key: kv.key, change, replaces: None }))
}

/// All of etcd's buckets but the one of all keys.
pub(super) fn small_buckets(meta: &SnapshotMeta) -> io::Result<BTreeMap<&'static [u8], Elements>> {
    let (auth, users, roles) = auth_elements(meta);
    let (members, conf_state) = member_elements(meta)?;
    let removed = meta.removed_members().map(|id| (id_text(id.get()), b"removed".to_vec())).collect();
    let leases = meta.leases().map(|lease| {
        let stored =
            StoredLease { id: lease.id.get(), ttl: lease.ttl_seconds, remaining_ttl: lease.remaining_ttl_seconds };
        (lease.id.get().to_be_bytes().to_vec(), stored.encode_to_vec())
    });
    Ok([
        (ALARM, meta.alarms().map(|alarm| (alarm_key(alarm), Vec::new())).collect()),
        (AUTH, auth),
        (ROLES, roles),
        (USERS, users),
        // A version here would be taken for the one that all members of the new cluster must have at least.
        (CLUSTER, Elements::new()),
        (LEASE, leases.collect()),
        (MEMBERS, members),
        (MEMBERS_REMOVED, removed),
        (META, meta_elements(meta, conf_state)),
    ]
    .into())
}

fn meta_elements(meta: &SnapshotMeta, conf_state: String) -> Elements {
    let (term, index) = raft::last_of(meta.applied).unwrap_or_default();
    let mut elements: Elements = [
        (CONF_STATE.to_vec(), conf_state.into_bytes()),
        (CONSISTENT_INDEX.to_vec(), index.to_be_bytes().to_vec()),
        (TERM.to_vec(), term.to_be_bytes().to_vec()),
        (STORAGE_VERSION.to_vec(), storage_version().into_bytes()),
    ]
    .into();
    if meta.compacted > Revision::ZERO {
        let compacted = rev_key(Rev::new(meta.compacted, 0), false);
        elements.insert(SCHEDULED_COMPACTION.to_vec(), compacted.clone());
        elements.insert(FINISHED_COMPACTION.to_vec(), compacted);
    }
    elements
}

/// The version of etcd's storage that the file has.
pub(super) fn storage_version() -> String {
    format!("{API_VERSION}.0")
}

fn auth_elements(meta: &SnapshotMeta) -> (Elements, Elements, Elements) {
    let auth = meta.auth();
    let settings = [
        (AUTH_ENABLED.to_vec(), vec![u8::from(auth.enabled())]),
        (AUTH_REVISION.to_vec(), auth.revision().to_be_bytes().to_vec()),
    ];
    let users = auth.users().iter().map(|(name, user)| {
        let password = user.password.as_ref().map(|hash| Bytes::copy_from_slice(hash.expose().as_bytes()));
        let stored = authpb::User {
            name: Bytes::copy_from_slice(name.as_bytes()),
            options: Some(authpb::UserAddOptions { no_password: password.is_none() }),
            password: password.unwrap_or_default(),
            roles: user.roles.iter().cloned().collect(),
        };
        (name.clone().into_bytes(), stored.encode_to_vec())
    });
    let roles = auth.roles().iter().map(|(name, role)| {
        let permissions = role.permissions.iter().map(|permission| authpb::Permission {
            perm_type: match permission.access {
                Access::Read => authpb::permission::Type::Read,
                Access::Write => authpb::permission::Type::Write,
                Access::ReadWrite => authpb::permission::Type::Readwrite,
            }
            .into(),
            key: permission.range.start().clone(),
            range_end: permission.range.wire_end(),
        });
        let name_bytes = Bytes::copy_from_slice(name.as_bytes());
        let stored = authpb::Role { name: name_bytes, key_permission: permissions.collect() };
        (name.clone().into_bytes(), stored.encode_to_vec())
    });
    (settings.into(), users.collect(), roles.collect())
}

fn alarm_key(alarm: Alarm) -> Vec<u8> {
    let kind = match alarm.kind {
        AlarmKind::NoSpace => etcdserverpb::AlarmType::Nospace,
        AlarmKind::Corrupt => etcdserverpb::AlarmType::Corrupt,
    };
    etcdserverpb::AlarmMember { member_id: alarm.member.get(), alarm: kind.into() }.encode_to_vec()
}

fn id_text(id: u64) -> Vec<u8> {
    format!("{id:x}").into_bytes()
}

/// The bucket of members, and who votes.
fn member_elements(meta: &SnapshotMeta) -> io::Result<(Elements, String)> {
    let told: BTreeMap<MemberId, &MemberAttributes> = meta.members().collect();
    // A store that nothing was applied to yet has no membership.
    let members = if meta.membership.is_empty() { Vec::new() } else { raft::members_of(&meta.membership)? };
    let mut elements = Elements::new();
    let (mut voters, mut learners) = (Vec::new(), Vec::new());
    for member in members {
        let attributes = told.get(&MemberId::new(member.id));
        let learner = !member.voter && !member.node.promote;
        if learner { &mut learners } else { &mut voters }.push(member.id);
        let mut json = format!("{{\"id\":{},\"peerURLs\":{}", member.id, json_texts(&member.node.peer_urls));
        if learner {
            json.push_str(",\"isLearner\":true");
        }
        if let Some(told) = attributes {
            let _ = write!(json, ",\"name\":{}", json_text(&told.name));
            let _ = write!(json, ",\"clientURLs\":{}", json_texts(&told.client_urls));
        }
        json.push('}');
        elements.insert(id_text(member.id), json.into_bytes());
    }
    let mut conf_state = "{".to_owned();
    for (name, ids) in [("voters", voters), ("learners", learners)] {
        if !ids.is_empty() {
            let _ = write!(conf_state, "\"{name}\":{ids:?},");
        }
    }
    conf_state.push_str("\"auto_leave\":false}");
    Ok((elements, conf_state))
}

fn json_texts(texts: &[String]) -> String {
    let texts: Vec<String> = texts.iter().map(|text| json_text(text)).collect();
    format!("[{}]", texts.join(","))
}

fn json_text(text: &str) -> String {
    let mut out = "\"".to_owned();
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => drop(write!(out, "\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// What the small buckets say.
#[derive(Debug, Default)]
pub(super) struct Imported {
    /// The newest revision to which a compaction was begun; what it removes may be there still.
    pub scheduled: Revision,
    /// The newest revision to which a compaction is through.
    pub finished: Revision,
    pub changes: Vec<SystemChange>,
    auth_enabled: bool,
    auth_revision: Option<u64>,
}

impl Imported {
    /// The oldest readable revision.
    pub fn compacted(&self) -> Revision {
        self.scheduled.max(self.finished)
    }

    /// Whether anything is taken from the bucket. Members and what they agreed on stay with the cluster that they are of.
    pub fn knows(bucket: &[u8]) -> bool {
        [META, LEASE, AUTH, USERS, ROLES, ALARM].contains(&bucket)
    }

    /// Takes an element in. The bucket `auth` comes before those of users and roles, as the names are ordered.
    pub fn take(&mut self, bucket: &[u8], key: &[u8], value: &Bytes) -> Result<(), String> {
        match bucket {
            META => self.take_meta(key, value),
            LEASE => self.take_lease(value),
            AUTH => self.take_auth(key, value),
            USERS => self.take_user(value),
            ROLES => self.take_role(value),
            ALARM => self.take_alarm(key),
            _ => Ok(()),
        }
    }

    /// The end of all elements.
    pub fn finish(&mut self) {
        if let Some(revision) = self.auth_revision {
            self.changes.push(SystemChange::AuthSet { enabled: self.auth_enabled, revision });
        }
    }

    fn take_meta(&mut self, key: &[u8], value: &Bytes) -> Result<(), String> {
        let revision = || {
            let parsed = parse_rev(value).map(|(rev, _)| rev.main);
            parsed.ok_or_else(|| format!("{} is not a revision", key.escape_ascii()))
        };
        match key {
            SCHEDULED_COMPACTION => self.scheduled = revision()?,
            FINISHED_COMPACTION => self.finished = revision()?,
            _ => {}
        }
        Ok(())
    }

    fn take_lease(&mut self, value: &Bytes) -> Result<(), String> {
        let stored = StoredLease::decode(value.clone()).map_err(|error| format!("a lease: {error}"))?;
        let id = LeaseId::new(stored.id);
        if !id.is_some() {
            return Err("a lease has the id 0".to_owned());
        }
        let lease = Lease { id, ttl_seconds: stored.ttl, remaining_ttl_seconds: stored.remaining_ttl };
        self.changes.push(SystemChange::LeaseSet(lease));
        Ok(())
    }

    fn take_auth(&mut self, key: &[u8], value: &Bytes) -> Result<(), String> {
        match key {
            AUTH_ENABLED => self.auth_enabled = value.as_ref() == [1],
            AUTH_REVISION => {
                let revision = <[u8; 8]>::try_from(value.as_ref());
                self.auth_revision = Some(u64::from_be_bytes(revision.map_err(|_| "authRevision has not 8 bytes")?));
            }
            _ => {}
        }
        Ok(())
    }

    fn take_user(&mut self, value: &Bytes) -> Result<(), String> {
        let stored = authpb::User::decode(value.clone()).map_err(|error| format!("a user: {error}"))?;
        let name = text(&stored.name, "the name of a user")?;
        let without_password = stored.password.is_empty() || stored.options.is_some_and(|options| options.no_password);
        let password = if without_password {
            None
        } else {
            Some(PasswordHash::new(&text(&stored.password, "the hash of a password")?))
        };
        // Tokens that etcd gave end: nobody here knows them.
        let credentials_revision = self.auth_revision.unwrap_or_default();
        let user = User { password, roles: stored.roles.into_iter().collect(), credentials_revision };
        self.changes.push(SystemChange::UserSet(name, user));
        Ok(())
    }

    fn take_role(&mut self, value: &Bytes) -> Result<(), String> {
        let stored = authpb::Role::decode(value.clone()).map_err(|error| format!("a role: {error}"))?;
        let name = text(&stored.name, "the name of a role")?;
        let mut seen = BTreeSet::new();
        let mut permissions = Vec::new();
        for permission in stored.key_permission {
            let access = match authpb::permission::Type::try_from(permission.perm_type) {
                Ok(authpb::permission::Type::Read) => Access::Read,
                Ok(authpb::permission::Type::Write) => Access::Write,
                Ok(authpb::permission::Type::Readwrite) => Access::ReadWrite,
                Err(_) => return Err(format!("the role {name} has a permission of kind {}", permission.perm_type)),
            };
            if seen.insert((permission.key.clone(), permission.range_end.clone())) {
                let range = KeyRange::from_wire(permission.key, permission.range_end);
                permissions.push(Permission { range, access });
            }
        }
        permissions.retain(|permission| !permission.range.is_empty());
        permissions.sort_by_cached_key(|permission| (permission.range.start().clone(), permission.range.wire_end()));
        self.changes.push(SystemChange::RoleSet(name, Role { permissions }));
        Ok(())
    }

    fn take_alarm(&mut self, key: &[u8]) -> Result<(), String> {
        let stored = etcdserverpb::AlarmMember::decode(key).map_err(|error| format!("an alarm: {error}"))?;
        let kind = match etcdserverpb::AlarmType::try_from(stored.alarm) {
            Ok(etcdserverpb::AlarmType::Nospace) => AlarmKind::NoSpace,
            Ok(etcdserverpb::AlarmType::Corrupt) => AlarmKind::Corrupt,
            Ok(etcdserverpb::AlarmType::None) => return Ok(()),
            Err(_) => return Err(format!("an alarm of kind {}", stored.alarm)),
        };
        self.changes.push(SystemChange::AlarmSet(Alarm { member: MemberId::new(stored.member_id), kind }));
        Ok(())
    }
}

fn text(bytes: &[u8], what: &str) -> Result<String, String> {
    String::from_utf8(bytes.to_vec()).map_err(|_| format!("{what} is not UTF-8"))
}
