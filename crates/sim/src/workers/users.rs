//! Users and roles over gRPC, in mode `full`: they are made while everybody works, all other clients log in as root from then on,
//! and one client asks what is allowed and what is not.
//!
//! What is forbidden is not noted as a call, so that the ledger has something that nobody wrote if it happens all the same.

use super::Worker;
use super::auth::is_about_permissions;
use crate::history::{Condition, Field, Op, Outcome, Span, Step, Transaction};
use crate::library::{Library, client_url, watching};
use crate::oracle::Rule;
use quorate_client::Error;
use quorate_client::raw::Auth;
use quorate_proto::authpb::{Permission, permission};
use quorate_proto::etcdserverpb::*;

/// Who may do everything: all other clients.
pub const ROOT: (&str, &str) = ("root", "root word");

/// The same word as bcrypt has it, in base64. Everybody logs in as root, and bcrypt's least cost is soon paid.
const ROOT_HASH: &str = "JDJiJDA0JDl4RGYuZWs4ZHl4LnF5UlZzMENGd08xTnVNLlZoY0lJLmhqbU5ISXgxWXlyQVJ6UmFPT3ou";

/// May read and write `u/`; has the one word or the other.
const USER: [(&str, &str); 2] = [("user", "one"), ("user", "two")];

/// The same words as bcrypt has them.
const USER_HASHES: [&str; 2] = [
    "JDJiJDA0JG9nMGZVbW54U2dDMy9HQUcueEIvVy5Ld3drbmVBU01TZU16VE9MQll3L01HS3FwRFJURjYy",
    "JDJiJDA0JE1sRFRJRjZOSHgvODBnbGZwYWhQN09IT0RyL25XdmdJNUd5T1hML2cyclpoTk1uODU5VG9l",
];

/// May write `w/`, and read nothing. Its word the members hash themselves.
const WRITER: (&str, &str) = ("writer", "word");

/// The clients of the users.
struct Users {
    root: Library,
    user: Library,
    writer: Library,
    /// Which word the user has.
    word: usize,
    /// Somebody may still change it to another: what was asked for and not answered can happen later.
    word_is_known: bool,
}

/// A change of users and roles.
#[derive(Clone, Debug)]
enum Change {
    User(AuthUserAddRequest),
    Role(&'static str),
    Give(&'static str, &'static str),
    Permit(&'static str, Permission),
    Forbid(&'static str, String),
    Word(usize),
    Enable,
}

impl Change {
    async fn ask(self, auth: &Auth) -> Result<(), Error> {
        match self {
            Change::User(request) => auth.user_add(request).await.map(drop),
            Change::Role(name) => auth.role_add(AuthRoleAddRequest { name: name.into() }).await.map(drop),
            Change::Give(user, role) => {
                let request = AuthUserGrantRoleRequest { user: user.into(), role: role.into() };
                auth.user_grant_role(request).await.map(drop)
            }
            Change::Permit(role, permission) => {
                let request = AuthRoleGrantPermissionRequest { name: role.into(), perm: Some(permission) };
                auth.role_grant_permission(request).await.map(drop)
            }
            Change::Forbid(role, prefix) => {
                let Permission { key, range_end, .. } = permission(&prefix, permission::Type::Readwrite);
                let request = AuthRoleRevokePermissionRequest { role: role.into(), key, range_end };
                auth.role_revoke_permission(request).await.map(drop)
            }
            Change::Word(which) => {
                let request = AuthUserChangePasswordRequest {
                    name: USER[which].0.into(),
                    hashed_password: USER_HASHES[which].into(),
                    ..AuthUserChangePasswordRequest::default()
                };
                auth.user_change_password(request).await.map(drop)
            }
            Change::Enable => auth.auth_enable(AuthEnableRequest {}).await.map(drop),
        }
    }
}

impl Worker {
    /// Sets users up, turns authentication on, and tries it.
    pub async fn try_users(mut self) {
        let Some(root) = self.rpc.library.clone() else { return };
        let (Ok(user), Ok(writer)) = (root.of(USER[0]).await, root.of(WRITER).await) else { return };
        let mut users = Users { root, user, writer, word: 0, word_is_known: true };
        for change in beginning() {
            if self.attempt(&users, change).await == 0 {
                return;
            }
        }
        let mut counter = 0;
        while !self.stop.is_set() {
            self.pause().await;
            counter += 1;
            match self.random.below(10) {
                0..3 => self.allowed_to_user(&users, counter).await,
                3 => self.taken_from_user(&users, counter).await,
                4 => self.another_word(&mut users, counter).await,
                // Where all keys go now and then, a lease may be without any, and then anybody may end it.
                5 if !self.load.wipes => self.lease_of_others(&users, counter).await,
                6 => self.watch_of_others(&users).await,
                _ => self.forbidden_to_user(&users, counter).await,
            }
        }
    }

    /// Changes users or roles: asks until it is known that it happened, and says how often. What had no answer may happen later.
    /// 0: there is no time left.
    async fn attempt(&mut self, users: &Users, change: Change) -> usize {
        let mut attempts = 0;
        while !self.stop.is_set() {
            attempts += 1;
            match change.clone().ask(&users.root.all().auth()).await {
                Ok(()) => return attempts,
                // Nobody else changes any, so a refusal that is not about root itself says that it happened before.
                Err(Error::Rejected { message, .. }) if attempts > 1 && !is_about_login(&message) => return attempts,
                Err(_) => self.pause().await,
            }
        }
        0
    }

    async fn allowed_to_user(&mut self, users: &Users, counter: u64) {
        let (key, value) = (format!("u/{}", self.random.below(4)), self.mark(counter));
        let op = match self.random.below(3) {
            0 => Op::Get { span: Span::prefix("u/"), serializable: false, revision: 0 },
            1 => Op::Put { key, value, lease: 0 },
            _ => Op::Txn(Transaction {
                conditions: Vec::new(),
                success: vec![Step::Put { key, value: Some(value), lease: Some(0) }, Step::Get(Span::prefix("u/"))],
                failure: Vec::new(),
            }),
        };
        self.must_be_allowed(users, op).await;
    }

    async fn must_be_allowed(&mut self, users: &Users, op: Op) {
        let (member, start) = (self.any_member(), self.rpc.clock.world_now());
        let outcome = users.user.perform(member, &op).await;
        self.rpc.note(self.number, member, start, op.clone(), outcome.clone());
        if let Outcome::Refused(text) = outcome
            && is_about_permissions(&text)
            && (users.word_is_known || !text.contains("authentication failed"))
            // Its time was over before one was accepted that it had asked for.
            && !text.contains("no token was accepted in time")
        {
            self.rpc.wrong(Rule::Auth, format!("{op:?} of the user was refused: {text}"));
        }
    }

    async fn forbidden_to_user(&mut self, users: &Users, counter: u64) {
        let value = format!("forbidden {}", self.mark(counter));
        let put = |key: &str| Op::Put { key: key.to_owned(), value: value.clone(), lease: 0 };
        let write = |key: &str| Step::Put { key: key.to_owned(), value: Some(value.clone()), lease: Some(0) };
        let txn = |success: Vec<Step>| Op::Txn(Transaction { success, ..Transaction::default() });
        let nested = |step: Step| Step::Nested(Transaction { success: vec![step], ..Transaction::default() });
        let get = |span: Span| Op::Get { span, serializable: false, revision: 0 };
        let (library, op) = match self.random.below(11) {
            0 => (&users.user, put("x/1")),
            1 => (&users.user, get(Span { from: "u/".to_owned(), until: Some("v".to_owned()) })),
            2 => (&users.user, txn(vec![nested(write("x/2"))])),
            3 => (&users.user, txn(vec![Step::Delete(Span::prefix("x/"))])),
            4 => (&users.user, Op::Delete { span: Span::all() }),
            5 => (&users.user, Op::Compact { revision: 2 }),
            6 => (&users.user, Op::Get { span: Span::prefix("k"), serializable: true, revision: 0 }),
            7 => {
                let condition = Condition { key: "x/1".to_owned(), field: Field::Mod(0) };
                let success = vec![write("u/9")];
                (&users.user, Op::Txn(Transaction { conditions: vec![condition], success, failure: Vec::new() }))
            }
            // What was there before is read.
            8 => (&users.writer, txn(vec![write("w/1")])),
            9 => (&users.writer, get(Span::key("w/1"))),
            _ => (&users.user, get(Span::all())),
        };
        self.must_be_refused_to(library, op).await;
    }

    async fn must_be_refused_to(&mut self, library: &Library, op: Op) {
        let member = self.any_member();
        match library.perform(member, &op).await {
            Outcome::Refused(_) | Outcome::Unknown => {}
            outcome @ (Outcome::Done { .. } | Outcome::Read { .. } | Outcome::Txn { .. } | Outcome::Page { .. }) => {
                self.rpc.wrong(Rule::Auth, format!("{op:?} is forbidden, and was answered: {outcome:?}"));
            }
        }
    }

    /// What was allowed, and is not any more.
    async fn taken_from_user(&mut self, users: &Users, counter: u64) {
        // A range of its own, for what was asked earlier may still happen.
        let prefix = format!("y/{counter}/");
        let allow = Change::Permit("role", permission(&prefix, permission::Type::Readwrite));
        if self.attempt(users, allow).await != 1 {
            return;
        }
        let key = format!("{prefix}1");
        self.must_be_allowed(users, Op::Put { key: key.clone(), value: self.mark(counter), lease: 0 }).await;
        if self.attempt(users, Change::Forbid("role", prefix)).await > 0 {
            let value = format!("forbidden {}", self.mark(counter));
            self.must_be_refused_to(&users.user, Op::Put { key, value, lease: 0 }).await;
        }
    }

    /// A word that was changed opens nothing any more.
    async fn another_word(&mut self, users: &mut Users, counter: u64) {
        if !users.word_is_known {
            return;
        }
        let (outsider, new) = (users.user.clone(), 1 - users.word);
        users.word_is_known = self.attempt(users, Change::Word(new)).await == 1;
        if users.word_is_known {
            let Some(user) = self.log_in(users, USER[new]).await else { return };
            (users.word, users.user) = (new, user);
            let value = format!("forbidden {}", self.mark(counter));
            self.must_be_refused_to(&outsider, Op::Put { key: "u/1".to_owned(), value, lease: 0 }).await;
        }
    }

    /// A client of a user with this word, which is right.
    async fn log_in(&mut self, users: &Users, user: (&'static str, &'static str)) -> Option<Library> {
        while !self.stop.is_set() {
            match users.root.of(user).await {
                Ok(library) => return Some(library),
                Err(Error::Rejected { message, .. }) if message.contains("authentication failed") => {
                    self.rpc.wrong(Rule::Auth, format!("{user:?} cannot log in: {message}"));
                    return None;
                }
                Err(_) => self.pause().await,
            }
        }
        None
    }

    /// Whoever ends a lease deletes its keys.
    async fn lease_of_others(&mut self, users: &Users, counter: u64) {
        let (member, lease) = (self.any_member(), self.new_lease(counter));
        if !self.rpc.grant(member, lease, 5).await {
            return;
        }
        let put = Op::Put { key: "x/leased".to_owned(), value: self.mark(counter), lease };
        if let Outcome::Done { .. } = self.rpc.run(self.number, member, put).await {
            self.must_be_refused_to(&users.user, Op::Revoke { lease }).await;
        }
    }

    /// Nobody watches what he may not read.
    async fn watch_of_others(&mut self, users: &Users) {
        let span = Span::prefix("k");
        // Whoever has answered this has heard that there are users.
        let member = self.any_member();
        let Ok(client) = users.user.all().at(&client_url(member)) else { return };
        if client.get("u/0", None).await.is_err() {
            return;
        }
        if let Ok(watch) = client.watch(span.from.clone(), watching(&span)).await {
            let revision = watch.created_revision();
            self.rpc.wrong(Rule::Auth, format!("the user watches what it may not read, from {revision} on"));
        }
    }
}

/// A refusal for who asks and not for what.
fn is_about_login(text: &str) -> bool {
    is_about_permissions(text) && !text.contains("already") || text.contains("revision of auth store is old")
}

fn permission(prefix: &str, access: permission::Type) -> Permission {
    let Span { from, until } = Span::prefix(prefix);
    Permission { perm_type: access.into(), key: from.into(), range_end: until.unwrap_or_default().into() }
}

fn beginning() -> Vec<Change> {
    let user = |name: &str, hash: &str| {
        Change::User(AuthUserAddRequest {
            name: name.into(),
            hashed_password: hash.into(),
            ..AuthUserAddRequest::default()
        })
    };
    let writer =
        AuthUserAddRequest { name: WRITER.0.into(), password: WRITER.1.into(), ..AuthUserAddRequest::default() };
    vec![
        user(ROOT.0, ROOT_HASH),
        Change::Role("root"),
        Change::Role("role"),
        Change::Role("writing"),
        Change::Permit("role", permission("u/", permission::Type::Readwrite)),
        Change::Permit("writing", permission("w/", permission::Type::Write)),
        user(USER[0].0, USER_HASHES[0]),
        Change::User(writer),
        Change::Give("user", "role"),
        Change::Give("writer", "writing"),
        Change::Give("root", "root"),
        Change::Enable,
    ]
}
