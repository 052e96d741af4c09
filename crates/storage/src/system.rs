//! The small replicated tables: leases, what members told of themselves, ids of members that are gone, alarms, users and
//! roles. All in memory; each row is also a row in the engine. Which keys hang on a lease is derived from the index.
//!
//! Rows: `1 | lease id i64 BE` -> lease; `2 | member id u64 BE` -> attributes, both as [`quorate_core::codec`] has them;
//! `3 | member id u64 BE` -> nothing (forgotten); `4 | member id u64 BE | alarm kind u8` -> nothing; `5 | 0 u64` -> what is
//! agreed on about versions; `6 | 0` -> whether authentication is on, and its revision; `6 | 1 | name` -> user;
//! `6 | 2 | name` -> role. The rows of table 6 are there once something in it was changed: a store without users is as it was before there were any.

use bytes::Bytes;
use quorate_core::auth::{Role, User};
use quorate_core::{
    Alarm, AlarmKind, AuthState, ClusterVersions, KeyMeta, Lease, LeaseId, MemberAttributes, MemberId, Record,
    SystemChange, codec,
};
use quorate_sabotage::sabotage;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

const TABLE_LEASE: u8 = 1;
const TABLE_MEMBER: u8 = 2;
const TABLE_FORGOTTEN: u8 = 3;
const TABLE_ALARM: u8 = 4;
const TABLE_VERSIONS: u8 = 5;
const TABLE_AUTH: u8 = 6;

const AUTH_SETTINGS: u8 = 0;
const AUTH_USER: u8 = 1;
const AUTH_ROLE: u8 = 2;

const ALARM_NO_SPACE: u8 = 1;
const ALARM_CORRUPT: u8 = 2;

/// Names a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum SystemKey {
    Lease(LeaseId),
    Member(MemberId),
    Forgotten(MemberId),
    Alarm(Alarm),
    Versions,
    Auth,
    User(String),
    Role(String),
}

impl SystemKey {
    pub fn encode(&self) -> Vec<u8> {
        let with_id = |table: u8, id: u64| {
            let mut key = vec![table];
            key.extend_from_slice(&id.to_be_bytes());
            key
        };
        let with_name = |kind: u8, name: &str| {
            let mut key = vec![TABLE_AUTH, kind];
            key.extend_from_slice(name.as_bytes());
            key
        };
        match self {
            Self::Lease(id) => with_id(TABLE_LEASE, id.get().cast_unsigned()),
            Self::Member(id) => with_id(TABLE_MEMBER, id.get()),
            Self::Forgotten(id) => with_id(TABLE_FORGOTTEN, id.get()),
            Self::Alarm(alarm) => {
                let mut key = with_id(TABLE_ALARM, alarm.member.get());
                key.push(match alarm.kind {
                    AlarmKind::NoSpace => ALARM_NO_SPACE,
                    AlarmKind::Corrupt => ALARM_CORRUPT,
                });
                key
            }
            Self::Versions => with_id(TABLE_VERSIONS, 0),
            Self::Auth => with_name(AUTH_SETTINGS, ""),
            Self::User(name) => with_name(AUTH_USER, name),
            Self::Role(name) => with_name(AUTH_ROLE, name),
        }
    }

    pub fn decode(key: &[u8]) -> Option<Self> {
        let (table, rest) = key.split_first()?;
        if *table == TABLE_AUTH {
            return Self::decode_auth(rest);
        }
        let (id, rest) = rest.split_first_chunk::<8>()?;
        let id = u64::from_be_bytes(*id);
        match (*table, rest) {
            (TABLE_LEASE, []) => Some(Self::Lease(LeaseId::new(id.cast_signed()))),
            (TABLE_MEMBER, []) => Some(Self::Member(MemberId::new(id))),
            (TABLE_FORGOTTEN, []) => Some(Self::Forgotten(MemberId::new(id))),
            (TABLE_ALARM, [kind]) => {
                let kind = match *kind {
                    ALARM_NO_SPACE => AlarmKind::NoSpace,
                    ALARM_CORRUPT => AlarmKind::Corrupt,
                    _ => return None,
                };
                Some(Self::Alarm(Alarm { member: MemberId::new(id), kind }))
            }
            (TABLE_VERSIONS, []) if id == 0 => Some(Self::Versions),
            _ => None,
        }
    }

    fn decode_auth(key: &[u8]) -> Option<Self> {
        let (kind, name) = key.split_first()?;
        let name = std::str::from_utf8(name).ok()?;
        match *kind {
            AUTH_SETTINGS if name.is_empty() => Some(Self::Auth),
            AUTH_USER => Some(Self::User(name.to_owned())),
            AUTH_ROLE => Some(Self::Role(name.to_owned())),
            _ => None,
        }
    }
}

/// The tables.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tables {
    pub leases: BTreeMap<LeaseId, Lease>,
    pub members: BTreeMap<MemberId, MemberAttributes>,
    pub forgotten: BTreeSet<MemberId>,
    pub alarms: BTreeSet<Alarm>,
    pub versions: ClusterVersions,
    /// Shared with whoever checks a caller at this moment.
    pub auth: Arc<AuthState>,
}

impl Tables {
    pub fn apply(&mut self, change: &SystemChange) {
        match change {
            SystemChange::LeaseSet(lease) => drop(self.leases.insert(lease.id, *lease)),
            SystemChange::LeaseRemove(id) => drop(self.leases.remove(id)),
            SystemChange::MemberSet(id, attributes) => drop(self.members.insert(*id, attributes.clone())),
            SystemChange::MemberRemove(id) => {
                self.members.remove(id);
                self.forgotten.insert(*id);
            }
            SystemChange::AlarmSet(alarm) => drop(self.alarms.insert(*alarm)),
            SystemChange::AlarmRemove(alarm) => drop(self.alarms.remove(alarm)),
            SystemChange::VersionsSet(versions) => self.versions = *versions,
            SystemChange::AuthSet { .. }
            | SystemChange::UserSet(..)
            | SystemChange::UserRemove(_)
            | SystemChange::RoleSet(..)
            | SystemChange::RoleRemove(_) => Arc::make_mut(&mut self.auth).follow(change),
            // No table has tokens.
            SystemChange::TokenAssign { .. } => {}
        }
    }

    /// All rows, by key.
    pub fn rows(&self) -> impl Iterator<Item = (SystemKey, Vec<u8>)> {
        let leases = self.leases.values().map(|lease| (SystemKey::Lease(lease.id), encode_lease(lease)));
        let members = self.members.iter().map(|(id, member)| (SystemKey::Member(*id), encode_member(member)));
        let forgotten = self.forgotten.iter().map(|id| (SystemKey::Forgotten(*id), Vec::new()));
        let alarms = self.alarms.iter().map(|alarm| (SystemKey::Alarm(*alarm), Vec::new()));
        // There is no row before there is something to say.
        let versions = Some(self.versions).filter(|versions| *versions != ClusterVersions::default());
        let versions = versions.map(|versions| (SystemKey::Versions, encode_versions(versions)));
        let auth = (*self.auth != AuthState::default()).then(|| (SystemKey::Auth, encode_auth(&self.auth)));
        let users = self.auth.users().iter().map(|(name, user)| (SystemKey::User(name.clone()), encode_user(user)));
        let roles = self.auth.roles().iter().map(|(name, role)| (SystemKey::Role(name.clone()), encode_role(role)));
        leases.chain(members).chain(forgotten).chain(alarms).chain(versions).chain(auth).chain(users).chain(roles)
    }

    /// Takes one row in; `None` if it cannot be decoded.
    pub fn load(&mut self, key: SystemKey, content: &[u8]) -> Option<()> {
        let bytes = Bytes::copy_from_slice(content);
        match key {
            SystemKey::Lease(id) => {
                let lease = codec::decode_lease(bytes).ok().filter(|lease| lease.id == id)?;
                self.leases.insert(id, lease);
            }
            SystemKey::Member(id) => drop(self.members.insert(id, codec::decode_member_attributes(bytes).ok()?)),
            SystemKey::Forgotten(id) => drop(self.forgotten.insert(id)),
            SystemKey::Alarm(alarm) => drop(self.alarms.insert(alarm)),
            SystemKey::Versions => self.versions = codec::decode_versions(bytes).ok()?,
            SystemKey::Auth => {
                let (enabled, revision) = codec::decode_auth(bytes).ok()?;
                let revision = revision.saturating_sub(u64::from(sabotage!(AuthRevisionLost)));
                self.apply(&SystemChange::AuthSet { enabled, revision });
            }
            SystemKey::User(name) => self.apply(&SystemChange::UserSet(name, codec::decode_user(bytes).ok()?)),
            SystemKey::Role(name) => self.apply(&SystemChange::RoleSet(name, codec::decode_role(bytes).ok()?)),
        }
        Some(())
    }
}

/// The rows that a change writes (content) or removes (`None`).
pub(crate) fn row_changes(change: &SystemChange) -> Vec<(SystemKey, Option<Vec<u8>>)> {
    match change {
        SystemChange::LeaseSet(lease) => vec![(SystemKey::Lease(lease.id), Some(encode_lease(lease)))],
        SystemChange::LeaseRemove(id) => vec![(SystemKey::Lease(*id), None)],
        SystemChange::MemberSet(id, attributes) => vec![(SystemKey::Member(*id), Some(encode_member(attributes)))],
        SystemChange::MemberRemove(id) => {
            vec![(SystemKey::Member(*id), None), (SystemKey::Forgotten(*id), Some(vec![]))]
        }
        SystemChange::AlarmSet(alarm) => vec![(SystemKey::Alarm(*alarm), Some(vec![]))],
        SystemChange::AlarmRemove(alarm) => vec![(SystemKey::Alarm(*alarm), None)],
        SystemChange::VersionsSet(versions) => vec![(SystemKey::Versions, Some(encode_versions(*versions)))],
        SystemChange::AuthSet { enabled, revision } => {
            let mut row = Vec::new();
            codec::encode_auth(*enabled, *revision, &mut row);
            vec![(SystemKey::Auth, Some(row))]
        }
        SystemChange::UserSet(name, user) => vec![(SystemKey::User(name.clone()), Some(encode_user(user)))],
        SystemChange::UserRemove(name) => vec![(SystemKey::User(name.clone()), None)],
        SystemChange::RoleSet(name, role) => vec![(SystemKey::Role(name.clone()), Some(encode_role(role)))],
        SystemChange::RoleRemove(name) => vec![(SystemKey::Role(name.clone()), None)],
        SystemChange::TokenAssign { .. } => Vec::new(),
    }
}

fn encode_lease(lease: &Lease) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_lease(lease, &mut row);
    row
}

fn encode_member(member: &MemberAttributes) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_member_attributes(member, &mut row);
    row
}

fn encode_versions(versions: ClusterVersions) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_versions(versions, &mut row);
    row
}

fn encode_auth(auth: &AuthState) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_auth(auth.enabled(), auth.revision(), &mut row);
    row
}

fn encode_user(user: &User) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_user(user, &mut row);
    row
}

fn encode_role(role: &Role) -> Vec<u8> {
    let mut row = Vec::new();
    codec::encode_role(role, &mut row);
    row
}

/// Which keys hang on which lease.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Attachments(BTreeMap<LeaseId, BTreeSet<Bytes>>);

impl Attachments {
    /// Follows one change of a key, which was `before`.
    pub fn follow(&mut self, record: &Record, before: Option<KeyMeta>) {
        let old = before.map_or(LeaseId::NONE, |meta| meta.lease);
        let new = record.meta().map_or(LeaseId::NONE, |meta| meta.lease);
        if old == new || (sabotage!(LeaseStillAttached) && !new.is_some() && record.meta().is_some()) {
            return;
        }
        if old.is_some()
            && let Some(keys) = self.0.get_mut(&old)
        {
            keys.remove(&record.key);
            if keys.is_empty() {
                self.0.remove(&old);
            }
        }
        if new.is_some() {
            self.attach(new, record.key.clone());
        }
    }

    pub fn attach(&mut self, lease: LeaseId, key: Bytes) {
        self.0.entry(lease).or_default().insert(key);
    }

    pub fn keys(&self, lease: LeaseId) -> Vec<Bytes> {
        self.0.get(&lease).map_or_else(Vec::new, |keys| keys.iter().cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_core::ClusterVersion;
    use quorate_core::KeyRange;
    use quorate_core::auth::{Access, PasswordHash, Permission};

    #[test]
    fn rows_read_back_and_sort_by_table() {
        let mut tables = Tables::default();
        let member = MemberAttributes { name: "a".into(), client_urls: vec!["http://a:1".into()], data_dir_id: 7 };
        for change in [
            SystemChange::LeaseSet(Lease { id: LeaseId::new(-3), ttl_seconds: 60, remaining_ttl_seconds: 5 }),
            SystemChange::MemberSet(MemberId::new(1), member.clone()),
            SystemChange::MemberSet(MemberId::new(2), member),
            SystemChange::MemberRemove(MemberId::new(2)),
            SystemChange::AlarmSet(Alarm { member: MemberId::new(1), kind: AlarmKind::Corrupt }),
            SystemChange::VersionsSet(ClusterVersions {
                current: Some(ClusterVersion { major: 3, minor: 6 }),
                target: Some(ClusterVersion { major: 3, minor: 5 }),
            }),
            SystemChange::AuthSet { enabled: true, revision: 9 },
            SystemChange::UserSet(
                "ann".into(),
                User {
                    password: Some(PasswordHash::new("$argon2id$")),
                    roles: ["reader".to_owned()].into(),
                    credentials_revision: 4,
                },
            ),
            SystemChange::UserSet(
                "gone".into(),
                User { password: None, roles: BTreeSet::new(), credentials_revision: 5 },
            ),
            SystemChange::UserRemove("gone".into()),
            SystemChange::RoleSet(
                "reader".into(),
                Role {
                    permissions: vec![Permission { range: KeyRange::From { start: "a".into() }, access: Access::Read }],
                },
            ),
        ] {
            tables.apply(&change);
        }
        let mut read = Tables::default();
        for (key, content) in tables.rows() {
            let key = SystemKey::decode(&key.encode()).expect("the key decodes");
            read.load(key, &content).expect("the row decodes");
        }
        assert_eq!(read, tables);
    }
}
