//! Random commands, requests and records.

use crate::auth::{Access, AuthCommand, PasswordHash, Permission, TokenId};
use crate::{
    Alarm, AlarmKind, Caller, Change, ClusterVersion, Command, Compare, CompareResult, CompareTarget, DeleteRange,
    KeyRange, LeaseId, MemberAttributes, MemberId, Op, Put, RangeRequest, Record, Request, Rev, Revision, SortOrder,
    SortTarget, Txn,
};
use alloc::string::String;
use alloc::vec;
use bytes::Bytes;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;

/// What the samples are made of.
#[derive(Clone)]
pub(super) struct Samples {
    number: BoxedStrategy<i64>,
    key: BoxedStrategy<Bytes>,
    value: BoxedStrategy<Bytes>,
}

impl Samples {
    /// So few keys, leases and revisions that they meet often.
    pub(super) fn few() -> Self {
        let key = prop_oneof![Just("a"), Just("aa"), Just("b"), Just("c"), Just("d")];
        let value = prop_oneof![Just(""), Just("x"), Just("y")];
        Self {
            number: prop_oneof![6 => 0..6i64, 2 => 6..20i64, 1 => Just(-1)].boxed(),
            key: key.prop_map(|key| Bytes::from_static(key.as_bytes())).boxed(),
            value: value.prop_map(|value| Bytes::from_static(value.as_bytes())).boxed(),
        }
    }

    /// Anything that the types allow.
    pub(super) fn any() -> Self {
        let bytes = vec_of(any::<u8>(), 0..200).prop_map(Bytes::from).boxed();
        Self { number: any::<i64>().boxed(), key: bytes.clone(), value: bytes }
    }

    pub(super) fn command(&self) -> BoxedStrategy<Command> {
        let number = &self.number;
        let alarm = (0..3u64, any::<bool>()).prop_map(|(member, corrupt)| Alarm {
            member: MemberId::new(member),
            kind: if corrupt { AlarmKind::Corrupt } else { AlarmKind::NoSpace },
        });
        let attributes = (".{0,9}", vec_of(".{0,9}", 0..3), any::<u64>())
            .prop_map(|(name, client_urls, data_dir_id)| MemberAttributes { name, client_urls, data_dir_id });
        prop_oneof![
            30 => self.op(2).prop_map(|op| Command::Txn(Txn::of(op))),
            20 => self.txn(2).prop_map(Command::Txn),
            2 => self.revision().prop_map(|revision| Command::Compact { revision }),
            4 => (self.lease(), number.clone())
                .prop_map(|(id, ttl_seconds)| Command::LeaseGrant { id, ttl_seconds }),
            3 => self.lease().prop_map(|id| Command::LeaseRevoke { id }),
            1 => vec_of((self.lease(), number.clone()), 0..3)
                .prop_map(|remaining| Command::LeaseCheckpoint { remaining }),
            1 => (any::<u64>(), attributes).prop_map(|(member, attributes)| Command::MemberPublish {
                member: MemberId::new(member),
                attributes
            }),
            1 => any::<u64>().prop_map(|member| Command::MemberForget { member: MemberId::new(member) }),
            1 => alarm.clone().prop_map(Command::AlarmActivate),
            4 => alarm.prop_map(Command::AlarmDeactivate),
            1 => (3..5u32, 0..9u32).prop_map(|(major, minor)| Command::ClusterVersionSet(ClusterVersion { major, minor })),
            1 => (3..5u32, 0..9u32).prop_map(|(major, minor)| Command::DowngradeEnable(ClusterVersion { major, minor })),
            1 => Just(Command::DowngradeCancel),
        ]
        .boxed()
    }

    /// Commands of all kinds, for all kinds of callers.
    pub(super) fn request(&self) -> BoxedStrategy<Request> {
        let name = || "[a-z]{0,3}";
        let caller = prop_oneof![
            3 => Just(Caller::Anonymous),
            1 => Just(Caller::System),
            3 => (name(), any::<u64>())
                .prop_map(|(name, auth_revision)| Caller::User { name: name.into(), auth_revision }),
        ];
        let command = prop_oneof![
            3 => self.command(),
            2 => self.auth_command(name().boxed()).prop_map(Command::Auth),
        ];
        (caller, command).prop_map(|(caller, command)| Request { caller, command }).boxed()
    }

    /// A change of users or roles, with names of the given kind.
    pub(super) fn auth_command(&self, name: BoxedStrategy<String>) -> BoxedStrategy<AuthCommand> {
        let hash = || "[a-z$]{0,9}".prop_map(|text| PasswordHash::new(&text));
        let pair = || (name.clone(), name.clone());
        let access = proptest::sample::select(vec![Access::Read, Access::Write, Access::ReadWrite]);
        let permission = (self.key_range(), access).prop_map(|(range, access)| Permission { range, access });
        prop_oneof![
            Just(AuthCommand::Enable),
            Just(AuthCommand::Disable),
            (name.clone(), proptest::option::of(hash()))
                .prop_map(|(user, password)| AuthCommand::UserAdd { user, password }),
            name.clone().prop_map(|user| AuthCommand::UserDelete { user }),
            (name.clone(), hash()).prop_map(|(user, password)| AuthCommand::UserChangePassword { user, password }),
            pair().prop_map(|(user, role)| AuthCommand::UserGrantRole { user, role }),
            pair().prop_map(|(user, role)| AuthCommand::UserRevokeRole { user, role }),
            name.clone().prop_map(|role| AuthCommand::RoleAdd { role }),
            name.clone().prop_map(|role| AuthCommand::RoleDelete { role }),
            (name.clone(), permission)
                .prop_map(|(role, permission)| AuthCommand::RoleGrantPermission { role, permission }),
            (name.clone(), self.key_range())
                .prop_map(|(role, range)| AuthCommand::RoleRevokePermission { role, range }),
            (name.clone(), any::<[u8; 32]>(), 0..9u64).prop_map(|(user, token, credentials_revision)| {
                AuthCommand::TokenAssign { user, token: TokenId(token), credentials_revision }
            }),
        ]
        .boxed()
    }

    pub(super) fn txn(&self, depth: u32) -> BoxedStrategy<Txn> {
        let ops = vec_of(self.op(depth), 0..4);
        (vec_of(self.compare(), 0..3), ops.clone(), ops)
            .prop_map(|(compares, success, failure)| Txn { compares, success, failure })
            .boxed()
    }

    pub(super) fn op(&self, depth: u32) -> BoxedStrategy<Op> {
        let flat = prop_oneof![
            2 => self.range_request().prop_map(Op::Range),
            4 => self.put().prop_map(Op::Put),
            2 => (self.key_range(), any::<bool>())
                .prop_map(|(range, prev_kv)| Op::DeleteRange(DeleteRange { range, prev_kv })),
        ];
        if depth == 0 {
            return flat.boxed();
        }
        prop_oneof![6 => flat, 1 => self.txn(depth - 1).prop_map(Op::Txn)].boxed()
    }

    fn put(&self) -> BoxedStrategy<Put> {
        let lease = prop_oneof![2 => Just(LeaseId::NONE), 1 => self.lease()];
        let rarely = || proptest::bool::weighted(0.2);
        (self.key.clone(), self.value.clone(), lease, any::<bool>(), rarely(), rarely())
            .prop_map(|(key, value, lease, prev_kv, ignore_value, ignore_lease)| Put {
                key,
                value,
                lease,
                prev_kv,
                ignore_value,
                ignore_lease,
            })
            .boxed()
    }

    pub(super) fn range_request(&self) -> BoxedStrategy<RangeRequest> {
        let orders = vec![SortOrder::None, SortOrder::Ascend, SortOrder::Descend];
        let targets =
            vec![SortTarget::Key, SortTarget::Version, SortTarget::Create, SortTarget::Mod, SortTarget::Value];
        let order = prop_oneof![Just(SortOrder::None), proptest::sample::select(orders)];
        let target = prop_oneof![Just(SortTarget::Key), proptest::sample::select(targets)];
        let revision = || prop_oneof![3 => Just(Revision::ZERO), 1 => self.revision()];
        let filters = (revision(), revision(), revision(), revision());
        let flags = (any::<bool>(), any::<bool>(), proptest::bool::weighted(0.1));
        (self.key_range(), self.number.clone(), revision(), order, target, flags, filters)
            .prop_map(|(range, limit, revision, sort_order, sort_target, flags, filters)| RangeRequest {
                range,
                limit,
                revision,
                sort_order,
                sort_target,
                serializable: flags.0,
                keys_only: flags.1,
                count_only: flags.2,
                min_mod_revision: filters.0,
                max_mod_revision: filters.1,
                min_create_revision: filters.2,
                max_create_revision: filters.3,
            })
            .boxed()
    }

    fn compare(&self) -> BoxedStrategy<Compare> {
        let result = prop_oneof![
            Just(CompareResult::Equal),
            Just(CompareResult::Greater),
            Just(CompareResult::Less),
            Just(CompareResult::NotEqual)
        ];
        let target = prop_oneof![
            self.number.clone().prop_map(CompareTarget::Version),
            self.revision().prop_map(CompareTarget::Create),
            self.revision().prop_map(CompareTarget::Mod),
            self.value.clone().prop_map(CompareTarget::Value),
            self.lease().prop_map(CompareTarget::Lease),
        ];
        (self.key_range(), result, target).prop_map(|(range, result, target)| Compare { range, result, target }).boxed()
    }

    pub(super) fn key_range(&self) -> BoxedStrategy<KeyRange> {
        let key = &self.key;
        prop_oneof![
            5 => key.clone().prop_map(KeyRange::Single),
            3 => (key.clone(), key.clone()).prop_map(|(start, end)| KeyRange::Interval { start, end }),
            2 => key.clone().prop_map(|start| KeyRange::From { start }),
        ]
        .boxed()
    }

    fn revision(&self) -> BoxedStrategy<Revision> {
        self.number.clone().prop_map(Revision::new).boxed()
    }

    fn lease(&self) -> BoxedStrategy<LeaseId> {
        self.number.clone().prop_map(LeaseId::new).boxed()
    }

    pub(super) fn record(&self) -> BoxedStrategy<Record> {
        let rev = || (self.revision(), any::<u32>()).prop_map(|(main, sub)| Rev::new(main, sub));
        let put = (self.revision(), self.number.clone(), self.lease(), self.value.clone()).prop_map(
            |(create_revision, version, lease, value)| Change::Put { create_revision, version, lease, value },
        );
        let change = prop_oneof![put, Just(Change::Delete)];
        (rev(), self.key.clone(), change, proptest::option::of(rev()))
            .prop_map(|(rev, key, change, replaces)| Record { rev, key, change, replaces })
            .boxed()
    }
}
