//! A tour of the client: `cargo run -p quorate-client --example tour -- http://127.0.0.1:2379`.

use quorate_client::{
    Client, Compare, ConnectOptions, DeleteOptions, GetOptions, Op, OpResponse, PutOptions, Txn, WatchOptions,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let endpoints: Vec<String> = std::env::args().skip(1).collect();
    if endpoints.is_empty() {
        return Err("usage: tour <endpoint>...".into());
    }
    let client = Client::connect(endpoints, ConnectOptions::new()).await?;

    // Write and read.
    let written = client.put("tour/greeting", "hello", PutOptions::new().prev_kv()).await?;
    println!("put at revision {}, before: {:?}", written.revision, written.prev_kv.map(|kv| kv.value));
    let read = client.get("tour/", GetOptions::new().prefix()).await?;
    println!("{} keys at revision {}: {:?}", read.count, read.revision, read.kvs[0].value);

    // Follow changes from where the read was: nothing in between is missed.
    let options = WatchOptions::new().prefix().start_revision(read.revision + 1);
    let mut watch = client.watch("tour/", options).await?;

    // Attach a key to a lease and keep the lease alive.
    let lease = client.lease_grant(5).await?;
    let alive = client.lease_keep_alive(lease.id).await?;
    client.put("tour/worker", "here", PutOptions::new().lease(lease.id)).await?;
    println!("lease {:x} of {} s is alive: {}", lease.id, lease.ttl_seconds, alive.is_alive());

    // Take a job unless somebody has it: once it works, then no more.
    for worker in ["ann", "bob"] {
        let txn = Txn::new()
            .when([Compare::missing("tour/job")])
            .then([Op::put("tour/job", worker, None)])
            .or_else([Op::get("tour/job", None)]);
        let done = client.txn(txn).await?;
        match &done.responses[..] {
            [OpResponse::Get(owner)] => println!("{worker} is late: it is {:?}'s", owner.kvs[0].value),
            _ => println!("{worker} has the job since revision {}", done.revision),
        }
    }

    // The end of a lease is the end of its keys.
    drop(alive);
    client.lease_revoke(lease.id).await?;
    client.delete("tour/", DeleteOptions::new().prefix()).await?;
    let end = client.get("tour/", None).await?.revision;

    // All of that was seen, in order.
    while let Some(batch) = watch.next().await {
        let batch = batch?;
        for event in &batch.events {
            println!("revision {}: {:?} {:?}", event.kv.mod_revision, event.kind, event.kv.key);
        }
        if batch.revision >= end {
            break;
        }
    }
    Ok(())
}
