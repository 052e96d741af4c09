//! The JSON gateway for users: unary calls and streams, locks and elections, with good, bad and no tokens.

use std::time::Duration;

use quorate_tests::http;
use quorate_tests::tools::scratch_dir;

use crate::calls::{Call, get, keep_alive, prefix, put, single, watch};
use crate::deviations::{NO_NAME_FOR_LEASES, WATCHERS_ARE_TOLD};
use crate::other::lease_grant;
use crate::pair::{Deviation, Pair, Side};
use crate::recipes::lock;
use crate::users::{auth_disable, auth_enable, role_add, role_grant, user_add, user_get, user_grant, user_list};

const REQUESTS: &str = include_str!("requests.txt");

/// Servers with users that have logged in, authentication on.
pub async fn with_users(flags: &[&str]) -> Option<Pair> {
    let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
    let mut pair = Pair::start(&flags).await?;
    let a = prefix("a/");
    let grants: [(&str, &[Call]); 4] = [
        ("root", &[role_add("root"), user_grant("root", "root")]),
        ("ann", &[role_add("a"), role_grant("a", 2, &a), user_grant("ann", "a")]),
        ("eve", &[role_add("see"), role_grant("see", 0, &a), user_grant("eve", "see")]),
        ("nobody", &[]),
    ];
    for (name, calls) in &grants {
        pair.both_do("", &user_add(name, "pw")).await;
        for call in *calls {
            pair.both_do("", call).await;
        }
    }
    pair.both_do("", &auth_enable()).await;
    for (name, _) in grants {
        assert!(pair.log_in(name, "pw").await);
    }
    Some(pair)
}

impl Pair {
    /// Asks both gateways.
    async fn ask_http(&mut self, line: &str) {
        let ask = async |side: &Side| {
            let mut line = line.to_owned();
            for (name, token) in &side.tokens {
                line = line.replace(&format!("=${name} "), &format!("={token} "));
            }
            let answer = http::ask(&side.cluster.endpoint(0).replace("http://", ""), &line).await;
            format!("{:?}", answer.unwrap_or_else(|error| panic!("{line}: {error:#}")))
        };
        let (theirs, ours) = tokio::join!(ask(&self.theirs), ask(&self.ours));
        self.compare("", line.to_owned(), theirs, ours);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn users_ask_the_gateway_as_they_ask_etcds() {
    let Some(mut pair) = with_users(&[]).await else { return };
    for line in REQUESTS.lines().filter(|line| !line.starts_with('#')) {
        pair.ask_http(line).await;
    }
    pair.both_do("root", &auth_disable()).await;
    let first = Deviation {
        why: "who somebody is comes before what is wrong with the request",
        covers: |found| found.call == "POST /v3/kv/put {}" && found.ours.contains("user name is empty"),
    };
    pair.finish(100, &[first]).await;
}

/// A token that nobody used for its time is none any more, wherever it is shown; one that is used lives on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_expire_as_etcds_do() {
    let Some(mut pair) = with_users(&["--auth-token-ttl=2"]).await else { return };
    // Nothing is set right in the name of root, whose token ends like the others.
    pair.forget("root");
    for _ in 0..8 {
        pair.log_in("eve", "pw").await;
        pair.ask_at(0, "eve", get(&single("a/1"))).await;
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    tokio::time::sleep(Duration::from_secs(4)).await;
    pair.ask_at(0, "ann", get(&single("a/1"))).await;
    pair.ask_at(0, "ann", put("a/1")).await;
    pair.ask_at(0, "ann", lock("a/lock", 0)).await;
    pair.ask_at(0, "ann", lease_grant(0x11, 60)).await;
    pair.ask_at(0, "ann", keep_alive(0x11)).await;
    pair.ask_at(0, "ann", watch(&single("a/1"))).await;
    for path in ["kv/range", "kv/put"] {
        pair.ask_http(&format!("POST /v3/{path} @Authorization=$ann {{\"key\":\"YS8x\"}}")).await;
    }
    pair.ask_http("POST /v3/lock/lock @Authorization=$ann {\"name\":\"YS9sb2Nr\"}").await;
    pair.log_in("ann", "pw").await;
    pair.ask_at(0, "ann", put("a/1")).await;
    pair.log_in("root", "pw").await;
    pair.both_do("root", &auth_disable()).await;
    pair.finish(20, &[NO_NAME_FOR_LEASES, WATCHERS_ARE_TOLD]).await;
}

/// A JSON Web Token counts for keys until users or roles change, and goes on to count for what is not about keys. With the same
/// secret, either server takes the other's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_web_tokens_grow_old_as_etcds_do() {
    let dir = scratch_dir().expect("a directory");
    let secret = dir.path().join("secret");
    std::fs::write(&secret, "a secret that nobody guesses, and long enough for this").expect("a file");
    let flag = format!("--auth-token=jwt,priv-key={},sign-method=HS256,ttl=5m", secret.display());
    let Some(mut pair) = with_users(&[&flag]).await else { return };
    let key = single("a/1");
    std::mem::swap(&mut pair.theirs.tokens, &mut pair.ours.tokens);
    for who in ["ann", "eve", "nobody", "root"] {
        pair.ask_at(0, who, put("a/1")).await;
        pair.ask_at(0, who, get(&key)).await;
    }
    pair.ask_at(0, "root", role_add("another")).await;
    for who in ["ann", "root"] {
        pair.ask_at(0, who, put("a/1")).await;
        pair.ask_at(0, who, get(&key)).await;
        pair.ask_at(0, who, watch(&key)).await;
        pair.ask_at(0, who, lock("a/lock", 0)).await;
        pair.ask_at(0, who, lease_grant(0x11, 60)).await;
        pair.ask_at(0, who, user_list()).await;
        pair.ask_at(0, who, user_get("ann")).await;
        pair.ask_http(&format!("POST /v3/kv/range @Authorization=${who} {{\"key\":\"YS8x\"}}")).await;
    }
    pair.log_in("ann", "pw").await;
    pair.ask_at(0, "ann", get(&key)).await;
    pair.log_in("root", "pw").await;
    pair.both_do("root", &auth_disable()).await;
    let old = Deviation {
        why: "an old token has a text and a code of its own, as since 3.5.3",
        covers: |found| {
            found.theirs.contains("auth: revision in header is old")
                && found.ours.contains("etcdserver: revision of auth store is old")
        },
    };
    pair.finish(25, &[WATCHERS_ARE_TOLD, old]).await;
}
