//! Who may do what: every kind of operation, in transactions up to three deep, on every form of range, for every kind of
//! caller, against a plain model; and the rules of changing users and roles.

use crate::auth::{Access, AuthCommand, PasswordHash, Permission, TokenId, authorize};
use crate::testing::MemoryView;
use crate::{
    AuthState, Caller, Command, Compare, CompareResult, CompareTarget, DeleteRange, KeyRange, LeaseId, Op, Put,
    RangeRequest, Rejection, Reply, Revision, SystemChange, Txn, View,
};
use alloc::borrow::ToOwned;
use alloc::format;
use alloc::string::String;
use alloc::vec;
use alloc::vec::Vec;
use bytes::Bytes;
use proptest::collection::vec as vec_of;
use proptest::prelude::*;

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

fn single(key: &str) -> KeyRange {
    KeyRange::Single(bytes(key))
}

fn interval(start: &str, end: &str) -> KeyRange {
    KeyRange::Interval { start: bytes(start), end: bytes(end) }
}

fn from(start: &str) -> KeyRange {
    KeyRange::From { start: bytes(start) }
}

fn run(view: &mut MemoryView, command: AuthCommand) -> Result<Reply, Rejection> {
    view.run(&Command::Auth(command)).expect("the state is whole").reply
}

fn must(view: &mut MemoryView, command: AuthCommand) {
    assert_eq!(run(view, command.clone()), Ok(Reply::Auth), "{command:?}");
}

fn user(view: &mut MemoryView, name: &str) {
    let password = Some(PasswordHash::new("$"));
    must(view, AuthCommand::UserAdd { user: name.to_owned(), password });
}

fn grant(view: &mut MemoryView, role: &str, range: KeyRange, access: Access) {
    let permission = Permission { range, access };
    must(view, AuthCommand::RoleGrantPermission { role: role.to_owned(), permission });
}

/// What each user's role may do. Ranges that touch, overlap, and leave a gap of one key.
fn permissions(user: &str) -> Vec<(KeyRange, Access)> {
    match user {
        "reader" => vec![(interval("a", "c"), Access::Read), (interval("c", "e"), Access::Read)],
        "writer" => vec![(interval("a", "d"), Access::Write), (single("d"), Access::Write)],
        "both" => vec![
            (interval("a", "b"), Access::ReadWrite),
            (interval("b", "d"), Access::Read),
            (from("b"), Access::Write),
        ],
        "all" => vec![(from("\0"), Access::ReadWrite)],
        _ => vec![],
    }
}

const USERS: [&str; 6] = ["root", "reader", "writer", "both", "all", "none"];

/// A state with users, roles, keys and leases, and authentication on.
fn state() -> MemoryView {
    let mut view = MemoryView::new();
    for name in USERS {
        user(&mut view, name);
        must(&mut view, AuthCommand::RoleAdd { role: name.to_owned() });
        must(&mut view, AuthCommand::UserGrantRole { user: name.to_owned(), role: name.to_owned() });
        for (range, access) in permissions(name) {
            grant(&mut view, name, range, access);
        }
    }
    for (lease, keys) in [(1, vec!["a"]), (2, vec!["b", "z"]), (3, vec![])] {
        let id = LeaseId::new(lease);
        view.run(&Command::LeaseGrant { id, ttl_seconds: 60 }).unwrap();
        for key in keys {
            let put = Put { key: bytes(key), lease: id, ..Put::default() };
            view.run(&Command::Txn(Txn::of(Op::Put(put)))).unwrap();
        }
    }
    must(&mut view, AuthCommand::Enable);
    view
}

fn caller(view: &MemoryView, name: &str) -> Caller {
    view.auth().proven(name)
}

/// The model: one access to one range.
type Need = (KeyRange, Access);

fn bounds(range: &KeyRange) -> (Vec<u8>, Option<Vec<u8>>) {
    match range {
        KeyRange::Single(key) => (key.to_vec(), Some([key, &b"\0"[..]].concat())),
        KeyRange::Interval { start, end } if start >= end => bounds(&KeyRange::Single(start.clone())),
        KeyRange::Interval { start, end } => (start.to_vec(), Some(end.to_vec())),
        KeyRange::From { start } => (start.to_vec(), None),
    }
}

/// Whether the union of the user's ranges covers the range: its first key is in one of them, and so is every point in it where
/// one of them ends.
fn model_allows(user: &str, (range, access): &Need) -> bool {
    if user == "root" {
        return true;
    }
    let granted: Vec<_> = permissions(user)
        .into_iter()
        .filter(|(_, granted)| *granted == Access::ReadWrite || granted == access)
        .map(|(range, _)| bounds(&range))
        .collect();
    let has = |key: &[u8]| {
        granted
            .iter()
            .any(|(start, end)| start.as_slice() <= key && end.as_ref().is_none_or(|end| key < end.as_slice()))
    };
    let (start, end) = bounds(range);
    let inside = |point: &Vec<u8>| *point > start && end.as_ref().is_none_or(|end| point < end);
    has(&start)
        && granted.iter().filter_map(|(_, end)| end.as_ref()).filter(|point| inside(point)).all(|point| has(point))
        && (end.is_some() || granted.iter().any(|(_, end)| end.is_none()))
}

/// Everything that a transaction needs, from a walk of its own over all of it.
fn needs(view: &MemoryView, txn: &Txn) -> Vec<Need> {
    let mut needs: Vec<Need> = txn.compares.iter().map(|compare| (compare.range.clone(), Access::Read)).collect();
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            Op::Range(request) => needs.push((request.range.clone(), Access::Read)),
            Op::Put(put) => {
                needs.push((KeyRange::Single(put.key.clone()), Access::Write));
                let others = view.lease_keys(put.lease).into_iter().filter(|_| put.lease.is_some());
                needs.extend(others.map(|key| (KeyRange::Single(key), Access::Write)));
                if put.prev_kv {
                    needs.push((KeyRange::Single(put.key.clone()), Access::Read));
                }
            }
            Op::DeleteRange(delete) => {
                needs.push((delete.range.clone(), Access::Write));
                if delete.prev_kv {
                    needs.push((delete.range.clone(), Access::Read));
                }
            }
            Op::Txn(nested) => needs.extend(self::needs(view, nested)),
        }
    }
    needs
}

fn check(view: &MemoryView, name: &str, txn: &Txn) {
    let allowed = needs(view, txn).iter().all(|need| model_allows(name, need));
    let expected = if allowed { Ok(()) } else { Err(Rejection::PermissionDenied) };
    let command = Command::Txn(txn.clone());
    assert_eq!(authorize(view, &caller(view, name), &command), expected, "{name}: {txn:?}");
}

fn compare(range: &KeyRange) -> Compare {
    Compare { range: range.clone(), result: CompareResult::Equal, target: CompareTarget::Version(0) }
}

/// One transaction for each kind of operation on the range.
fn kinds(range: &KeyRange) -> Vec<Txn> {
    let key = range.start().clone();
    let put = |lease, prev_kv, ignore_value| {
        Txn::of(Op::Put(Put { key: key.clone(), lease: LeaseId::new(lease), prev_kv, ignore_value, ..Put::default() }))
    };
    let delete = |prev_kv| Txn::of(Op::DeleteRange(DeleteRange { range: range.clone(), prev_kv }));
    let read = RangeRequest::new(range.clone());
    vec![
        Txn { compares: vec![compare(range)], ..Txn::default() },
        Txn::of(Op::Range(read.clone())),
        Txn::of(Op::Range(RangeRequest { count_only: true, serializable: true, ..read })),
        put(0, false, false),
        put(0, true, false),
        put(0, false, true),
        put(1, false, false),
        put(2, false, false),
        put(3, false, false),
        put(9, false, false),
        delete(false),
        delete(true),
    ]
}

/// The transaction within others, as deep as asked for, in the branch that runs and in the one that does not.
fn nested(txn: Txn, depth: usize) -> Vec<Txn> {
    (0..depth).fold(vec![txn], |txns, _| {
        let inside = |txn: Txn| {
            let op = vec![Op::Txn(txn)];
            let success = Txn { success: op.clone(), ..Txn::default() };
            [success, Txn { failure: op, ..Txn::default() }]
        };
        txns.into_iter().flat_map(inside).collect()
    })
}

fn ranges() -> Vec<KeyRange> {
    let mut ranges = vec![from("\0"), from(""), interval("", "\u{7f}")];
    for start in ["a", "b", "c", "d", "d\0", "e", "z"] {
        ranges.push(single(start));
        ranges.push(from(start));
        for end in ["a", "b", "c", "c\0", "d", "d\0", "d\0\0", "e", "f"] {
            ranges.push(interval(start, end));
        }
    }
    ranges
}

#[test]
fn every_kind_of_operation_at_every_depth_is_allowed_as_the_model_says() {
    let view = state();
    let mut checked = 0;
    for range in ranges() {
        for kind in kinds(&range) {
            for depth in 0..=3 {
                for txn in nested(kind.clone(), depth) {
                    for name in USERS {
                        check(&view, name, &txn);
                        checked += 1;
                    }
                }
            }
        }
    }
    assert!(checked > 50_000, "{checked}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whole_transactions_are_allowed_as_the_model_says(
        txns in vec_of(super::samples::Samples::few().txn(3), 1..6)
    ) {
        let view = state();
        for txn in txns {
            USERS.iter().for_each(|name| check(&view, name, &txn));
        }
    }

    /// Whatever is asked, by whomever: what the check refuses has changed nothing.
    #[test]
    fn what_is_refused_changes_nothing(
        requests in vec_of((super::samples::Samples::few().request(), 0..USERS.len()), 1..20)
    ) {
        let mut view = state();
        for (request, user) in requests {
            let caller = caller(&view, USERS[user]);
            let before = view.clone();
            let refused = authorize(&view, &caller, &request.command).is_err();
            let effects = view.run_as(&caller, &request.command).expect("the state is whole");
            if refused {
                prop_assert!(effects.reply.is_err());
                prop_assert_eq!(&view, &before);
            }
        }
    }
}

#[test]
fn a_caller_must_be_known_and_of_now() {
    let mut view = state();
    let read = Command::Txn(Txn::of(Op::Range(RangeRequest::new(single("a")))));
    let put = Command::Txn(Txn::of(Op::Put(Put { key: bytes("a"), ..Put::default() })));
    let revoke = Command::LeaseRevoke { id: LeaseId::new(1) };
    let lease = Command::LeaseGrant { id: LeaseId::new(7), ttl_seconds: 9 };
    let compact = Command::Compact { revision: Revision::new(2) };
    let old = caller(&view, "all");
    let root = caller(&view, "root");
    for (who, expected) in [
        (Caller::Anonymous, Rejection::UserEmpty),
        (Caller::User { name: "".into(), auth_revision: 99 }, Rejection::UserEmpty),
        (Caller::User { name: "nobody".into(), auth_revision: 99 }, Rejection::PermissionDenied),
    ] {
        for command in [&read, &put, &revoke, &lease, &compact] {
            assert_eq!(authorize(&view, &who, command), Err(expected), "{who:?} {command:?}");
        }
    }
    // Any change of users and roles: for keys the name must be proven anew, also that of root.
    must(&mut view, AuthCommand::RoleAdd { role: "new".into() });
    for command in [&read, &put, &revoke] {
        assert_eq!(authorize(&view, &old, command), Err(Rejection::AuthOldRevision), "{command:?}");
        assert_eq!(authorize(&view, &root, command), Err(Rejection::AuthOldRevision), "{command:?}");
        assert_eq!(authorize(&view, &caller(&view, "all"), command), Ok(()), "{command:?}");
    }
    // For what concerns no key it still counts.
    assert_eq!(authorize(&view, &old, &lease), Ok(()));
    assert_eq!(authorize(&view, &root, &compact), Ok(()));
    assert_eq!(authorize(&view, &old, &compact), Err(Rejection::PermissionDenied));
    // But not after a change of the password, or if there is another user of the same name.
    must(&mut view, AuthCommand::UserChangePassword { user: "all".into(), password: PasswordHash::new("$2") });
    assert_eq!(authorize(&view, &old, &lease), Err(Rejection::AuthOldRevision));
    let before = caller(&view, "none");
    must(&mut view, AuthCommand::UserDelete { user: "none".into() });
    assert_eq!(authorize(&view, &before, &lease), Err(Rejection::PermissionDenied));
    user(&mut view, "none");
    assert_eq!(authorize(&view, &before, &lease), Err(Rejection::AuthOldRevision));
    // The cluster itself, and everybody while authentication is off.
    for command in [&read, &put, &revoke, &lease, &compact] {
        assert_eq!(authorize(&view, &Caller::System, command), Ok(()));
    }
    must(&mut view, AuthCommand::Disable);
    assert_eq!(authorize(&view, &Caller::Anonymous, &compact), Ok(()));
}

/// A role taken away between the proposal and its application.
#[test]
fn what_was_revoked_meanwhile_is_refused_where_it_is_applied() {
    let mut view = state();
    let who = caller(&view, "all");
    let put = Command::Txn(Txn::of(Op::Put(Put { key: bytes("a"), ..Put::default() })));
    assert_eq!(authorize(&view, &who, &put), Ok(()));
    must(&mut view, AuthCommand::UserRevokeRole { user: "all".into(), role: "all".into() });
    let revision = view.revision();
    assert_eq!(view.run_as(&who, &put).unwrap().reply, Err(Rejection::AuthOldRevision));
    let anew = caller(&view, "all");
    assert_eq!(view.run_as(&anew, &put).unwrap().reply, Err(Rejection::PermissionDenied));
    assert_eq!(view.revision(), revision);
}

#[test]
fn only_root_changes_users_and_roles() {
    let view = state();
    for command in [
        AuthCommand::Enable,
        AuthCommand::Disable,
        AuthCommand::UserAdd { user: "x".into(), password: None },
        AuthCommand::UserDelete { user: "reader".into() },
        AuthCommand::UserChangePassword { user: "reader".into(), password: PasswordHash::new("$") },
        AuthCommand::UserGrantRole { user: "reader".into(), role: "root".into() },
        AuthCommand::UserRevokeRole { user: "reader".into(), role: "reader".into() },
        AuthCommand::RoleAdd { role: "x".into() },
        AuthCommand::RoleDelete { role: "reader".into() },
        AuthCommand::RoleGrantPermission {
            role: "reader".into(),
            permission: Permission { range: from("\0"), access: Access::ReadWrite },
        },
        AuthCommand::RoleRevokePermission { role: "reader".into(), range: interval("a", "c") },
    ] {
        let command = Command::Auth(command);
        for name in USERS {
            let expected = if name == "root" { Ok(()) } else { Err(Rejection::PermissionDenied) };
            assert_eq!(authorize(&view, &caller(&view, name), &command), expected, "{name} {command:?}");
        }
        assert_eq!(authorize(&view, &Caller::Anonymous, &command), Err(Rejection::UserEmpty));
    }
}

#[test]
fn a_user_named_root_is_root_only_by_the_role() {
    let mut view = MemoryView::new();
    assert_eq!(run(&mut view, AuthCommand::Enable), Err(Rejection::RootUserNotExist));
    user(&mut view, "root");
    assert_eq!(run(&mut view, AuthCommand::Enable), Err(Rejection::RootRoleNotExist));
    // The role root can be given without being there; no other role can.
    let give = |role: &str| AuthCommand::UserGrantRole { user: "root".into(), role: role.into() };
    assert_eq!(run(&mut view, give("other")), Err(Rejection::RoleNotFound));
    must(&mut view, give("root"));
    user(&mut view, "second");
    must(&mut view, AuthCommand::UserGrantRole { user: "second".into(), role: "root".into() });
    let revision = view.auth().revision();
    must(&mut view, AuthCommand::Enable);
    assert_eq!(view.auth().revision(), revision, "as in etcd, turning it on is no change");
    // Who has the role is root, whatever their name; root itself cannot be shut out.
    let compact = Command::Compact { revision: Revision::new(1) };
    assert_eq!(authorize(&view, &caller(&view, "second"), &compact), Ok(()));
    for command in [
        AuthCommand::UserDelete { user: "root".into() },
        AuthCommand::RoleDelete { role: "root".into() },
        AuthCommand::UserRevokeRole { user: "root".into(), role: "root".into() },
    ] {
        assert_eq!(run(&mut view, command.clone()), Err(Rejection::InvalidAuthManagement), "{command:?}");
    }
    must(&mut view, AuthCommand::UserRevokeRole { user: "second".into(), role: "root".into() });
    assert_eq!(authorize(&view, &caller(&view, "second"), &compact), Err(Rejection::PermissionDenied));
    must(&mut view, AuthCommand::Disable);
    assert_eq!(view.auth().revision(), revision + 2);
    must(&mut view, AuthCommand::UserDelete { user: "root".into() });
}

#[test]
fn changes_are_refused_in_etcds_words_and_change_nothing() {
    let mut view = state();
    let password = || PasswordHash::new("$");
    let permission = |range| Permission { range, access: Access::Read };
    let before = view.clone();
    for (command, expected) in [
        (AuthCommand::UserAdd { user: "".into(), password: None }, Rejection::UserEmpty),
        (AuthCommand::UserAdd { user: "root".into(), password: None }, Rejection::UserAlreadyExists),
        (AuthCommand::UserDelete { user: "x".into() }, Rejection::UserNotFound),
        (AuthCommand::UserChangePassword { user: "x".into(), password: password() }, Rejection::UserNotFound),
        (AuthCommand::UserGrantRole { user: "x".into(), role: "reader".into() }, Rejection::UserNotFound),
        (AuthCommand::UserGrantRole { user: "none".into(), role: "x".into() }, Rejection::RoleNotFound),
        (AuthCommand::UserRevokeRole { user: "none".into(), role: "reader".into() }, Rejection::RoleNotGranted),
        (AuthCommand::RoleAdd { role: "".into() }, Rejection::RoleEmpty),
        (AuthCommand::RoleAdd { role: "reader".into() }, Rejection::RoleAlreadyExists),
        (AuthCommand::RoleDelete { role: "x".into() }, Rejection::RoleNotFound),
        (
            AuthCommand::RoleGrantPermission { role: "x".into(), permission: permission(single("a")) },
            Rejection::RoleNotFound,
        ),
        (
            AuthCommand::RoleGrantPermission { role: "reader".into(), permission: permission(interval("b", "a")) },
            Rejection::InvalidAuthManagement,
        ),
        (
            AuthCommand::RoleGrantPermission { role: "reader".into(), permission: permission(from("")) },
            Rejection::InvalidAuthManagement,
        ),
        (
            AuthCommand::RoleRevokePermission { role: "reader".into(), range: interval("a", "b") },
            Rejection::PermissionNotGranted,
        ),
        (
            AuthCommand::TokenAssign { user: "x".into(), token: TokenId([0; 32]), credentials_revision: 1 },
            Rejection::AuthFailed,
        ),
        (
            AuthCommand::TokenAssign { user: "reader".into(), token: TokenId([0; 32]), credentials_revision: 1 },
            Rejection::AuthOldRevision,
        ),
    ] {
        assert_eq!(run(&mut view, command.clone()), Err(expected), "{command:?}");
        assert_eq!(view, before, "{command:?}");
    }
}

#[test]
fn a_deleted_role_is_taken_from_all_and_a_user_without_a_password_stays_so() {
    let mut view = state();
    must(&mut view, AuthCommand::UserGrantRole { user: "none".into(), role: "reader".into() });
    let read = Command::Txn(Txn::of(Op::Range(RangeRequest::new(single("a")))));
    assert_eq!(authorize(&view, &caller(&view, "none"), &read), Ok(()));
    must(&mut view, AuthCommand::RoleDelete { role: "reader".into() });
    assert_eq!(authorize(&view, &caller(&view, "none"), &read), Err(Rejection::PermissionDenied));
    // A new role of the same name is not the old one.
    must(&mut view, AuthCommand::RoleAdd { role: "reader".into() });
    grant(&mut view, "reader", from("\0"), Access::Read);
    assert_eq!(authorize(&view, &caller(&view, "none"), &read), Err(Rejection::PermissionDenied));
    must(&mut view, AuthCommand::UserAdd { user: "cert".into(), password: None });
    must(&mut view, AuthCommand::UserChangePassword { user: "cert".into(), password: PasswordHash::new("$") });
    assert_eq!(view.auth().users()["cert"].password, None);
}

#[test]
fn who_may_see_users_and_roles() {
    let view = state();
    let auth = view.auth();
    let denied = Err(Rejection::PermissionDenied);
    let reader = auth.proven("reader");
    assert_eq!(auth.check_see_user(&reader, "reader"), Ok(()));
    assert_eq!(auth.check_see_user(&reader, "writer"), denied);
    assert_eq!(auth.check_see_role(&reader, "reader"), Ok(()));
    assert_eq!(auth.check_see_role(&reader, "writer"), denied);
    assert_eq!(auth.check_see_user(&auth.proven("root"), "writer"), Ok(()));
    assert_eq!(auth.check_see_role(&auth.proven("root"), "writer"), Ok(()));
    assert_eq!(auth.check_see_user(&auth.proven("ghost"), "ghost"), denied);
    assert_eq!(auth.check_see_role(&Caller::Anonymous, "reader"), Err(Rejection::UserEmpty));
    assert_eq!(AuthState::default().check_root(&Caller::Anonymous), Ok(()));
}

#[test]
fn a_password_does_not_show() {
    let command = AuthCommand::UserAdd { user: "ann".into(), password: Some(PasswordHash::new("$secret")) };
    let change = SystemChange::UserSet(
        "ann".into(),
        crate::auth::User {
            password: Some(PasswordHash::new("$secret")),
            roles: Default::default(),
            credentials_revision: 1,
        },
    );
    let shown: String = format!("{command:?} {change:?}");
    assert!(!shown.contains("secret"), "{shown}");
}
