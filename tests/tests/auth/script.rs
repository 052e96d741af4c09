//! One long script, asked of both: users of every kind and what they may do, transactions three deep, leases, watches that
//! outlive a permission, every method, logins, and the rules of users and roles themselves.

use std::time::Duration;

use crate::calls::{
    Branches, Call, Keys, Step, count, delete, delete_prev, drain, everything, from, get, get_here, keep_alive,
    keys_only, open_watch, prefix, put, put_prev, single, span, txn, watch, watch_request,
};
use crate::deviations::DEVIATIONS;
use crate::other::{
    alarm, alarm_disarm, compact, defragment, downgrade, hash, hash_kv, lease_grant, lease_list, lease_revoke,
    member_add_nowhere, member_list, member_promote, member_remove, member_update, move_leader, put_on, snapshot,
    status, time_to_live,
};
use crate::pair::{Pair, Side};
use crate::recipes::{campaign, leader, leader_key, lock, observe, proclaim, resign, unlock};
use crate::users::{
    auth_disable, auth_enable, role_add, role_delete, role_get, role_grant, role_grant_nothing, role_list, role_revoke,
    user_add, user_add_without_password, user_delete, user_get, user_grant, user_list, user_password, user_revoke,
};

/// How long a stream of watches is silent when it has said everything.
const SILENCE: Duration = Duration::from_millis(300);

const READ: i32 = 0;
const WRITE: i32 = 1;
const BOTH: i32 = 2;

/// Users, each with a role of the same name, and what it grants.
fn users() -> Vec<(&'static str, Vec<(i32, Keys)>)> {
    vec![
        ("single", vec![(BOTH, single("k5"))]),
        ("range", vec![(BOTH, span("k3", "k6"))]),
        ("prefix", vec![(BOTH, prefix("k"))]),
        ("from", vec![(BOTH, from("k5"))]),
        ("whole", vec![(BOTH, everything())]),
        ("reader", vec![(READ, prefix("k"))]),
        ("writer", vec![(WRITE, prefix("k"))]),
        // Neighbours: together they are one range.
        (
            "union",
            vec![(READ, span("k3", "k5")), (READ, span("k5", "k7")), (WRITE, single("k4")), (BOTH, single("k5"))],
        ),
        ("nobody", vec![]),
    ]
}

/// Ranges of each form: inside, across, at and outside of what is granted.
fn ranges() -> Vec<Keys> {
    vec![
        single("k5"),
        single("k2"),
        span("k3", "k6"),
        span("k3", "k7"),
        span("k6", "k3"),
        prefix("k"),
        from("k5"),
        from("k4"),
        everything(),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_equal_etcds() {
    let Some(mut pair) = Pair::start(&[]).await else { return };
    without_authentication(&mut pair).await;
    set_up(&mut pair).await;
    keys(&mut pair).await;
    nested(&mut pair).await;
    leases(&mut pair).await;
    recipes(&mut pair).await;
    watches(&mut pair).await;
    methods(&mut pair).await;
    logins(&mut pair).await;
    management(&mut pair).await;
    pair.must("root", auth_disable()).await;
    pair.forget("root");
    pair.ask("", put("k5")).await;
    pair.ask("?a.1", get(&single("k5"))).await;
    pair.finish(1200, DEVIATIONS).await;
}

async fn without_authentication(pair: &mut Pair) {
    pair.log_in("root", "rootpw").await;
    pair.ask("", auth_enable()).await;
    pair.ask("", user_add("", "x")).await;
    pair.ask("", user_add("root", "rootpw")).await;
    pair.ask("", auth_enable()).await;
    pair.ask("", user_grant("root", "root")).await;
    pair.ask("", role_add("root")).await;
    pair.ask("", user_grant("root", "root")).await;
    pair.ask("", role_add("")).await;
    pair.ask("", auth_disable()).await;
    // While it is off nobody is asked, whatever they show.
    pair.ask("?nonsense", get(&single("k1"))).await;
}

async fn set_up(pair: &mut Pair) {
    for (name, grants) in users() {
        pair.must("", user_add(name, "pw")).await;
        pair.must("", role_add(name)).await;
        for (access, keys) in grants {
            pair.must("", role_grant(name, access, &keys)).await;
        }
        pair.must("", user_grant(name, name)).await;
        pair.must("", role_get(name)).await;
    }
    pair.must("", user_add_without_password("certificate")).await;
    pair.must("", auth_enable()).await;
    pair.ask("", auth_enable()).await;
    pair.log_in("root", "rootpw").await;
    for (name, _) in users() {
        pair.log_in(name, "pw").await;
    }
}

fn all_keys() -> Branches {
    let names = (1..10).map(|number| format!("k{number}")).chain(["a".to_owned(), "z".to_owned()]);
    Branches::then(names.map(|name| Step::put(&name)).collect::<Vec<_>>())
}

/// Both hold the same again, to the last version of a key.
async fn start_over(pair: &mut Pair) {
    // How many keys that were depends on what was done to be level.
    pair.both_do("root", &delete(&everything())).await;
    pair.must("root", txn(all_keys())).await;
}

/// Asks for something that one of the two may do and the other not.
async fn try_it(pair: &mut Pair, who: &str, call: Call) {
    if !pair.ask(who, call).await {
        start_over(pair).await;
    }
}

/// Every user, every form of range, every operation.
async fn keys(pair: &mut Pair) {
    let names: Vec<_> = users().into_iter().map(|(name, _)| name).chain(["root", "", "?x.1"]).collect();
    for who in names {
        start_over(pair).await;
        for keys in ranges() {
            pair.ask(who, get(&keys)).await;
            pair.ask_at(0, who, get_here(&keys)).await;
            pair.ask_at(0, who, watch(&keys)).await;
            pair.ask(who, txn(Branches::then([Step::get(&keys)]))).await;
            pair.ask(who, txn(Branches::then([]).compare(&keys))).await;
            pair.ask(who, txn(Branches::or_else([Step::delete(&keys)]))).await;
        }
        pair.ask(who, count(&prefix("k"))).await;
        for key in ["k5", "k2"] {
            pair.ask(who, put(key)).await;
            pair.ask(who, put_prev(key)).await;
            try_it(pair, who, txn(Branches::or_else([Step::put_prev(key)]))).await;
            try_it(pair, who, txn(Branches::then([Step::put_prev(key)]))).await;
            pair.ask(who, delete_prev(&single(key))).await;
        }
        for keys in [span("k3", "k6"), span("k6", "k3"), prefix("k"), from("k5"), everything()] {
            pair.ask(who, txn(Branches::then([Step::delete_prev(&keys)]))).await;
            pair.ask(who, delete(&keys)).await;
        }
    }
    start_over(pair).await;
}

/// The same operations inside of one, two and three more transactions.
async fn nested(pair: &mut Pair) {
    for who in ["range", "reader", "writer", ""] {
        for depth in 1..=3 {
            let (one, other) = (single("k4"), single("k2"));
            for inner in [
                Branches::then([Step::get(&one)]),
                Branches::or_else([Step::get(&other)]),
                Branches::then([Step::put("k4")]),
                Branches::or_else([Step::put("k2")]),
                Branches::then([Step::put_prev("k4")]),
                Branches::then([Step::delete(&other)]),
                Branches::then([Step::delete_prev(&one)]),
                Branches::default().compare(&other),
                Branches::then([Step::get(&span("k3", "k6"))]),
            ] {
                try_it(pair, who, txn(inner.nested(depth))).await;
            }
        }
        start_over(pair).await;
    }
}

/// Whoever gives a key a lease can have the lease's other keys deleted, and whoever sees a lease sees its keys.
async fn leases(pair: &mut Pair) {
    pair.must("root", lease_grant(0x11, 600)).await;
    pair.must("root", put_on("k9", 0x11)).await;
    pair.must("root", lease_grant(0x12, 600)).await;
    pair.must("root", put_on("k5", 0x12)).await;
    pair.must("root", lease_grant(0x13, 600)).await;
    for who in ["single", "reader", "writer", "root", "", "?x.1"] {
        for id in [0x11, 0x12, 0x7f] {
            pair.ask(who, time_to_live(id, false)).await;
            pair.ask(who, time_to_live(id, true)).await;
            pair.ask(who, keep_alive(id)).await;
            pair.ask(who, txn(Branches::or_else([Step::put_on("k5", id)]))).await;
            pair.ask(who, put_on("k5", id)).await;
            pair.must("root", put_on("k5", 0x12)).await;
        }
        pair.ask(who, lease_list()).await;
        pair.ask(who, lease_grant(0x20, 600)).await;
        pair.ask(who, lease_revoke(0x20)).await;
        pair.ask(who, lease_revoke(0x7f)).await;
    }
    for (who, id) in
        [("single", 0x11), ("reader", 0x12), ("nobody", 0x13), ("", 0x12), ("single", 0x12), ("writer", 0x11)]
    {
        pair.ask(who, lease_revoke(id)).await;
    }
    pair.ask("root", keys_only(&prefix("k"))).await;
    start_over(pair).await;
}

/// Locks and elections: their keys are keys like others.
async fn recipes(pair: &mut Pair) {
    pair.must("root", lease_grant(0x31, 600)).await;
    pair.must("root", lease_grant(0x32, 600)).await;
    for who in ["prefix", "reader", "writer", "nobody", "root", "", "?x.1"] {
        pair.ask(who, lock("k/lock", 0x31)).await;
        pair.ask(who, lock("k/lock", 0x7f)).await;
        pair.ask(who, unlock("k/lock/31")).await;
        pair.ask(who, unlock("k/nothing")).await;
        pair.ask(who, leader("k/elect")).await;
        pair.ask(who, campaign("k/elect", 0x32)).await;
        pair.ask(who, campaign("k/elect", 0x7f)).await;
        pair.ask(who, leader("k/elect")).await;
        if who != "reader" {
            // With no leader there is nothing to observe, and who may not see the keys waits for ever in etcd.
            pair.ask(who, observe("k/elect")).await;
        }
        let forged = leader_key("k/elect", "k/elect/32", 1, 0x32);
        pair.ask(who, proclaim(Some(forged.clone()))).await;
        pair.ask(who, proclaim(None)).await;
        pair.ask(who, resign(Some(forged))).await;
        pair.ask(who, resign(None)).await;
        pair.must("root", delete(&prefix("k/elect/"))).await;
        pair.must("root", unlock("k/lock/31")).await;
    }
}

/// Watches are checked when they are created, and not again.
async fn watches(pair: &mut Pair) {
    let mut streams = Vec::new();
    // Not with watchers that are refused on one stream: in etcd 3.5.1 these silence the others.
    for (who, watched) in [
        ("range", vec![single("k5"), span("k3", "k6")]),
        ("reader", vec![prefix("k"), single("k5"), single("k2")]),
        ("nobody", vec![single("k5")]),
        ("", vec![single("k5")]),
        ("?x.1", vec![single("k5")]),
    ] {
        let open = async |side: &Side| {
            let requests = watched.iter().map(watch_request);
            open_watch(side.channel(0).clone(), side.credentials(who), requests).await.expect("a stream")
        };
        streams.push((who, open(&pair.theirs).await, open(&pair.ours).await));
    }
    for (what, change) in [
        ("created", None),
        ("with the permission", None),
        ("without the permission", Some(role_revoke("range", &span("k3", "k6")))),
        ("without the role", Some(user_revoke("reader", "reader"))),
        ("after another password", Some(user_password("range", "new"))),
        ("after the user went", Some(user_delete("reader"))),
    ] {
        if let Some(change) = change {
            pair.must("root", change).await;
        }
        if what != "created" {
            pair.must("root", put("k2")).await;
            pair.must("root", put("k5")).await;
        }
        for (who, theirs, ours) in &mut streams {
            let (theirs, ours) = tokio::join!(drain(theirs, SILENCE), drain(ours, SILENCE));
            pair.compare(who, format!("watches {what}"), theirs.join("\n"), ours.join("\n"));
        }
    }
    // A watch that is made on a stream from before the change is checked as of now, with the token from before.
    pair.ask_at(0, "range", watch(&single("k5"))).await;
    pair.ask_at(0, "reader", watch(&single("k5"))).await;
    pair.ask_at(0, "range", get(&single("k5"))).await;
    pair.must("root", role_grant("range", BOTH, &span("k3", "k6"))).await;
    pair.must("root", user_password("range", "pw")).await;
    pair.must("root", user_add("reader", "pw")).await;
    pair.must("root", user_grant("reader", "reader")).await;
    for name in ["range", "reader"] {
        pair.log_in(name, "pw").await;
    }
}

/// Every method that is not about keys, of those who are nobody, somebody, and root.
async fn methods(pair: &mut Pair) {
    for who in ["", "?x.1", "?nonsense", "nobody", "range", "root"] {
        for call in [
            member_list(),
            member_add_nowhere(),
            member_remove(0x7f),
            status(),
            alarm(0),
            alarm(1),
            alarm_disarm(),
            defragment(),
            hash(),
            hash_kv(),
            snapshot(),
            downgrade(2, ""),
            downgrade(0, "nonsense"),
            compact(1 << 40),
            auth_enable(),
            user_list(),
            user_get("range"),
            user_get("nobody"),
            user_get("root"),
            user_get("nothing"),
            role_list(),
            role_get("range"),
            role_get("nobody"),
            role_get("root"),
            role_get("nothing"),
        ] {
            pair.ask(who, call).await;
        }
        if who != "root" {
            for call in [
                member_update(0x7f),
                member_promote(0x7f),
                move_leader(),
                auth_disable(),
                user_add("new", "pw"),
                user_delete("range"),
                user_password("range", "x"),
                user_grant("range", "root"),
                user_revoke("range", "range"),
                role_add("new"),
                role_delete("range"),
                role_grant("range", BOTH, &everything()),
                role_grant_nothing("range"),
                role_revoke("range", &span("k3", "k6")),
            ] {
                pair.ask(who, call).await;
            }
        }
    }
}

async fn logins(pair: &mut Pair) {
    for (name, password) in [
        ("range", "wrong"),
        ("range", ""),
        ("range", "PW"),
        ("nothing", "pw"),
        ("nothing", ""),
        ("", ""),
        ("", "pw"),
        ("certificate", ""),
        ("certificate", "pw"),
        ("root", "pw"),
        ("range", "pw"),
    ] {
        pair.log_in(name, password).await;
    }
    pair.ask("range", get(&single("k5"))).await;
    // A second login does not end the first.
    let (theirs, ours) = (pair.theirs.tokens["range"].clone(), pair.ours.tokens["range"].clone());
    pair.log_in("range", "pw").await;
    pair.theirs.tokens.insert("first".to_owned(), theirs);
    pair.ours.tokens.insert("first".to_owned(), ours);
    pair.ask("first", get(&single("k5"))).await;
    pair.ask("range", get(&single("k5"))).await;
    pair.must("root", user_password("range", "second")).await;
    pair.ask("first", get(&single("k5"))).await;
    pair.log_in("range", "pw").await;
    pair.log_in("range", "second").await;
    pair.ask("range", get(&single("k5"))).await;
    pair.must("root", user_password("certificate", "pw")).await;
    pair.log_in("certificate", "pw").await;
    for text in ["?", "?.", "?a.b", "?a.", "?.1", "?a.1.2", "?AAAAAAAAAAAAAAAA.1", "?AAAAAAAAAAAAAAAA.0"] {
        pair.ask(text, get(&single("k5"))).await;
    }
}

/// Users and roles themselves, by root.
async fn management(pair: &mut Pair) {
    pair.ask("root", user_add("empty", "")).await;
    pair.log_in("empty", "").await;
    pair.ask("root", user_password("empty", "")).await;
    pair.log_in("empty", "").await;
    for call in [
        user_add("range", "x"),
        user_add("", "x"),
        user_add_without_password("none"),
        user_delete("nothing"),
        user_delete("root"),
        user_delete(""),
        user_password("nothing", "x"),
        user_password("none", "x"),
        user_grant("range", "nothing"),
        user_grant("nothing", "range"),
        user_grant("range", "range"),
        user_grant("range", "root"),
        user_get("range"),
        user_revoke("range", "root"),
        user_revoke("range", "root"),
        user_revoke("range", "nothing"),
        user_revoke("nothing", "range"),
        user_revoke("root", "root"),
        role_add("range"),
        role_add("root"),
        role_add(""),
        role_delete("nothing"),
        role_delete("root"),
        role_grant("nothing", BOTH, &single("a")),
        role_grant("writer", BOTH, &single("")),
        role_grant("writer", BOTH, &span("b", "a")),
        role_grant("writer", BOTH, &span("b", "b")),
        role_grant("writer", BOTH, &span("", "b")),
        role_grant("writer", 7, &single("q")),
        role_grant("writer", -1, &single("q")),
        role_grant_nothing("range"),
        role_grant_nothing("nothing"),
        role_grant("range", READ, &span("k3", "k6")),
        role_grant("range", WRITE, &single("b")),
        role_grant("range", READ, &from("b")),
        role_grant("range", READ, &everything()),
        role_get("range"),
        role_revoke("range", &span("k3", "k7")),
        role_revoke("range", &single("nothing")),
        role_revoke("nothing", &single("b")),
        role_revoke("range", &from("b")),
        role_revoke("range", &everything()),
        role_revoke("writer", &single("")),
        role_get("range"),
        role_list(),
        user_list(),
        role_delete("range"),
        user_get("range"),
        role_get("range"),
        user_list(),
        role_list(),
    ] {
        pair.ask("root", call).await;
    }
    pair.log_in("none", "x").await;
    pair.ask("range", get(&single("k5"))).await;
}
