//! Users and roles. One client changes them, and asks what they allow and what they do not.
//!
//! The other clients act as the program that embeds the node does, and are not asked who they are. What is forbidden here is
//! not noted as a call, so that the ledger has something that nobody wrote if it happens all the same.

use super::Worker;
use crate::client::perform;
use crate::history::{Field, Op, Outcome, Span, Step, Transaction};
use crate::oracle::Rule;
use quorate_core::auth::{Access, Permission};
use quorate_core::{AuthCommand, Caller, KeyRange};
use quorate_node::{Error, Node};

/// May read and write `u/`.
const USER: &str = "user";
/// May write `w/`, and read nothing.
const WRITER: &str = "writer";

impl Worker {
    /// Sets users up, turns authentication on, and tries it.
    pub async fn try_permissions(mut self) {
        for command in beginning() {
            if !self.change(command).await {
                return;
            }
        }
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            match self.random.below(8) {
                0 | 1 => self.allowed(counter).await,
                2 => self.revoked(counter).await,
                3 => self.old_proof(counter).await,
                // Where all keys go now and then, a lease may be without any, and then anybody may end it.
                4 if !self.load.wipes => self.leases(counter).await,
                _ => self.forbidden(counter).await,
            }
        }
    }

    /// Changes users or roles: asks until it is known that it happened. `false`: there is no time left.
    async fn change(&mut self, command: AuthCommand) -> bool {
        self.attempts_to_change(command).await > 0
    }

    /// Likewise; how often it asked. What it asked for and had no answer to may happen later. 0: there is no time left.
    async fn attempts_to_change(&mut self, command: AuthCommand) -> usize {
        let mut attempts = 0;
        while !self.stop.is_set() {
            attempts += 1;
            let (member, asked) = (self.any_member(), command.clone());
            match self.rpc.call(member, move |node| async move { node.auth_change(asked).await }).await {
                // Nobody else changes any, so a refusal says that it happened at an attempt before.
                Some(Ok(_) | Err(Error::Rejected(_))) => return attempts,
                Some(Err(_)) | None => self.pause().await,
            }
        }
        0
    }

    /// Somebody who has just proven this name.
    async fn prove(&mut self, name: &'static str) -> Option<Caller> {
        let member = self.any_member();
        let auth = self.rpc.call(member, |node| async move { node.auth_linearizable().await }).await?.ok()?.body;
        if !auth.enabled() || !auth.users().contains_key(name) {
            self.rpc.wrong(Rule::Auth, format!("m{member} has lost that {name} is a user: enabled {}", auth.enabled()));
        }
        Some(auth.proven(name))
    }

    async fn allowed(&mut self, counter: u64) {
        let Some(user) = self.prove(USER).await else { return };
        let (member, value) = (self.any_member(), self.mark(counter));
        let key = format!("u/{}", self.random.below(4));
        let op = match self.random.below(3) {
            0 => Op::Get { span: Span::prefix("u/"), serializable: false, revision: 0 },
            1 => Op::Put { key, value, lease: 0 },
            _ => Op::Txn(Transaction {
                conditions: Vec::new(),
                success: vec![Step::Put { key, value: Some(value), lease: Some(0) }, Step::Get(Span::prefix("u/"))],
                failure: Vec::new(),
            }),
        };
        if let Outcome::Refused(text) = self.rpc.run_as(self.number, member, Some(user), op.clone()).await
            && is_about_permissions(&text)
        {
            self.rpc.wrong(Rule::Auth, format!("m{member} refused {op:?} of {USER}: {text}"));
        }
    }

    async fn forbidden(&mut self, counter: u64) {
        let value = format!("forbidden {}", self.mark(counter));
        let put = |key: &str| Op::Put { key: key.to_owned(), value: value.clone(), lease: 0 };
        let write = |key: &str| Step::Put { key: key.to_owned(), value: Some(value.clone()), lease: Some(0) };
        let txn = |success: Vec<Step>| Op::Txn(Transaction { success, ..Transaction::default() });
        let get = |span: Span| Op::Get { span, serializable: false, revision: 0 };
        let (name, op) = match self.random.below(8) {
            0 => (USER, put("x/1")),
            1 => (USER, get(Span { from: "u/".to_owned(), until: Some("v".to_owned()) })),
            2 => (USER, txn(vec![Step::Nested(Transaction { success: vec![write("x/2")], ..Transaction::default() })])),
            3 => (USER, txn(vec![Step::Delete(Span::prefix("x/"))])),
            // What was there before is read.
            4 => (WRITER, txn(vec![write("w/1")])),
            5 => (WRITER, get(Span::key("w/1"))),
            6 => {
                let condition = crate::history::Condition { key: "x/1".to_owned(), field: Field::Mod(0) };
                let success = vec![write("u/9")];
                (USER, Op::Txn(Transaction { conditions: vec![condition], success, failure: Vec::new() }))
            }
            _ => (USER, get(Span::all())),
        };
        if let Some(caller) = self.prove(name).await {
            self.must_be_refused(name, caller, op).await;
        }
    }

    async fn must_be_refused(&mut self, name: &str, caller: Caller, op: Op) {
        let (member, asked) = (self.any_member(), op.clone());
        let act = move |node: Node| perform(node.on_behalf_of(caller), asked);
        match self.rpc.call(member, act).await {
            None | Some(Outcome::Refused(_) | Outcome::Unknown) => {}
            Some(outcome) => self.rpc.wrong(Rule::Auth, format!("m{member} let {name} do {op:?}: {outcome:?}")),
        }
    }

    /// What was allowed, and is not any more.
    async fn revoked(&mut self, counter: u64) {
        // A range of its own, for what was asked earlier may still happen.
        let prefix = format!("y/{counter}/");
        let permission = Permission { range: range(&prefix), access: Access::ReadWrite };
        let grant = AuthCommand::RoleGrantPermission { role: "role".to_owned(), permission };
        if self.attempts_to_change(grant).await != 1 {
            return;
        }
        let Some(user) = self.prove(USER).await else { return };
        let (member, key) = (self.any_member(), format!("{prefix}1"));
        let put = Op::Put { key: key.clone(), value: self.mark(counter), lease: 0 };
        if let Outcome::Refused(text) = self.rpc.run_as(self.number, member, Some(user.clone()), put).await
            && is_about_permissions(&text)
        {
            self.rpc.wrong(Rule::Auth, format!("m{member} refused what was permitted: {text}"));
        }
        if !self.change(AuthCommand::RoleRevokePermission { role: "role".to_owned(), range: range(&prefix) }).await {
            return;
        }
        let value = format!("forbidden {}", self.mark(counter));
        let put = Op::Put { key, value, lease: 0 };
        let caller = if self.random.chance(500) { Some(user) } else { self.prove(USER).await };
        if let Some(caller) = caller {
            self.must_be_refused(USER, caller, put).await;
        }
    }

    /// A name that was proven before users and roles changed does not count for keys.
    async fn old_proof(&mut self, counter: u64) {
        let Some(user) = self.prove(USER).await else { return };
        let role = format!("another{}", self.random.below(1_000_000));
        if self.change(AuthCommand::RoleAdd { role }).await {
            let value = format!("forbidden {}", self.mark(counter));
            self.must_be_refused(USER, user, Op::Put { key: "u/1".to_owned(), value, lease: 0 }).await;
        }
    }

    /// Whoever ends a lease deletes its keys.
    async fn leases(&mut self, counter: u64) {
        let (member, lease) = (self.any_member(), self.new_lease(counter));
        if !self.rpc.grant(member, lease, 5).await {
            return;
        }
        let put = Op::Put { key: "x/leased".to_owned(), value: self.mark(counter), lease };
        if let (Outcome::Done { .. }, Some(user)) =
            (self.rpc.run(self.number, member, put).await, self.prove(USER).await)
        {
            self.must_be_refused(USER, user, Op::Revoke { lease }).await;
        }
    }
}

/// A disk may be full as well, and a change that nobody waits for any more may make a name that was just proven too old.
pub(super) fn is_about_permissions(text: &str) -> bool {
    !text.contains("revision of auth store is old")
        && ["permission", "user name", "auth"].iter().any(|word| text.contains(word))
}

fn range(prefix: &str) -> KeyRange {
    crate::client::range_of(&Span::prefix(prefix))
}

fn beginning() -> Vec<AuthCommand> {
    let role = |role: &str| AuthCommand::RoleAdd { role: role.to_owned() };
    let user = |user: &str| AuthCommand::UserAdd { user: user.to_owned(), password: None };
    let give = |user: &str, role: &str| AuthCommand::UserGrantRole { user: user.to_owned(), role: role.to_owned() };
    let permit = |role: &str, prefix: &str, access: Access| AuthCommand::RoleGrantPermission {
        role: role.to_owned(),
        permission: Permission { range: range(prefix), access },
    };
    vec![
        user("root"),
        role("role"),
        role("writing"),
        permit("role", "u/", Access::ReadWrite),
        permit("writing", "w/", Access::Write),
        user(USER),
        user(WRITER),
        give(USER, "role"),
        give(WRITER, "writing"),
        give("root", "root"),
        AuthCommand::Enable,
    ]
}
