//! Clients that ask for far too much, and clients that do harm, all at once, of members whose memory has a limit. Meanwhile and
//! afterwards the others get what they ask for, nobody has lost the lead, and no process has had more memory than it may.

mod attack;
mod wire;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use attack::Attack;
use quorate_tests::client::Client;
use quorate_tests::cluster::{Cluster, ClusterSpec};
use quorate_tests::engine_tests;
use quorate_tests::engines::Engines;
use quorate_tests::memory::peak_bytes;

// What an attack meets is in front of the engines, and a member of each is there.
engine_tests! {
    an_attack_harms_nobody_else: mixed;
}

/// What a member may have in all: what the bounds below add up to, and the caches at their defaults.
const MEMORY_MIB: u32 = 1024;
const ATTACK: Duration = Duration::from_secs(6);
/// Puts and reads whose time is taken.
const CALLS: usize = 150;
/// What lists are made of.
const HUGE_VALUES: usize = 32;

async fn an_attack_harms_nobody_else(engines: Engines) {
    let spec = ClusterSpec::new(3)
        .on(engines)
        .in_memory_of(MEMORY_MIB)
        // The attackers and all members have the same two processors, so somebody may have to wait for one for long.
        .flag("--election-timeout=4000")
        .flag("--heartbeat-interval=200")
        .quorate_flag("--max-concurrent-requests=2048")
        .quorate_flag("--max-inflight-bytes=33554432")
        .quorate_flag("--max-proposal-bytes=16777216")
        .quorate_flag("--max-answer-bytes=67108864")
        .quorate_flag("--max-watchers-per-stream=2000")
        .quorate_flag("--max-leases=5");
    let Some(mut cluster) = Cluster::start(spec).await else { return };
    if !cluster.is_quorate() {
        return println!("etcd has no such bounds");
    }
    let clients: Vec<Client> = (0..cluster.len()).map(|member| cluster.client(member)).collect();
    for number in 0..HUGE_VALUES {
        clients[0].put(&attack::huge_key(number), &"x".repeat(1 << 20)).await.expect("a put");
    }
    let (leader, term) = (cluster.wait_leader().await, term(&clients[0]).await);
    let before = median(&clients).await;

    let attack = Attack::start(&cluster.endpoints());
    let acknowledged = work(&clients, ATTACK).await;
    let met = attack.finish().await;

    println!("attackers met:\n{met}");
    for member in 0..cluster.len() {
        assert!(cluster.try_exit(member).expect("its state").is_none(), "m{member} has ended");
        let peak = peak_bytes(cluster.pid(member)).expect("it runs") >> 20;
        println!("m{member} had {peak} MiB at most");
        assert!(peak < u64::from(MEMORY_MIB), "m{member} had {peak} MiB");
    }
    let after = median(&clients).await;
    println!("half of the calls took {before:?} before, and {after:?} afterwards");
    assert!(after <= before * 3 + Duration::from_millis(20), "{before:?} became {after:?}");
    assert_eq!(cluster.leader().await, Some(leader), "the lead was lost");
    assert_eq!(crate::term(&clients[0]).await, term, "there was an election");
    met.check();
    check(&clients[1], &acknowledged).await;
    cluster.assert_replicas_equal().await;
}

async fn term(client: &Client) -> u64 {
    client.status().await.expect("a status").raft_term
}

/// How long a call takes that is in the middle of all by time.
async fn median(clients: &[Client]) -> Duration {
    let mut took = Vec::new();
    for number in 0..CALLS {
        let (client, key) = (&clients[number % clients.len()], format!("quiet/{}", number % 7));
        let start = Instant::now();
        client.put(&key, "x").await.expect("a put without an attack");
        client.get(&key, false).await.expect("a read without an attack");
        took.push(start.elapsed());
    }
    took.sort();
    took[took.len() / 2]
}

/// Somebody who wants little, and is patient. Gives each write that was acknowledged, with its revision.
async fn work(clients: &[Client], length: Duration) -> BTreeMap<String, i64> {
    let (start, mut acknowledged, mut errors) = (Instant::now(), BTreeMap::new(), BTreeMap::new());
    let mut number = 0;
    while start.elapsed() < length {
        number += 1;
        let key = format!("patient/{number:06}");
        match clients[number % clients.len()].put(&key, &key).await {
            Ok(revision) => _ = acknowledged.insert(key, revision),
            Err(status) => *errors.entry(format!("{:?} {}", status.code(), status.message())).or_insert(0) += 1,
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("{} of {number} writes were acknowledged during the attack; errors: {errors:?}", acknowledged.len());
    assert!(acknowledged.len() > number / 2, "most writes of others must be done during the attack");
    acknowledged
}

async fn check(client: &Client, acknowledged: &BTreeMap<String, i64>) {
    let found = client.get_prefix("patient/").await.expect("a read");
    let found: BTreeMap<_, _> = found.kvs.into_iter().map(|kv| (kv.key, kv.mod_revision)).collect();
    for (key, revision) in acknowledged {
        assert_eq!(found.get(key.as_bytes()), Some(revision), "{key}");
    }
}
