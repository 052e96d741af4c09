//! A tour of the client: `cargo run -p quorate-client --example tour -- http://127.0.0.1:2379`. Without an endpoint it starts
//! a server of its own, the `quorate` that was built beside it.

use quorate_client::{
    Client, Compare, ConnectOptions, DeleteOptions, GetOptions, Op, OpResponse, PutOptions, Txn, WatchOptions,
};

use std::net::TcpListener;
use std::process::{Child, Command};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut endpoints: Vec<String> = std::env::args().skip(1).collect();
    let server = if endpoints.is_empty() { Some(Server::start()?) } else { None };
    endpoints.extend(server.iter().map(|server| server.endpoint.clone()));
    let client = Client::connect(endpoints, ConnectOptions::new()).await?;
    wait_for(&client).await?;

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

/// A server that has just started needs a moment to elect itself.
async fn wait_for(client: &Client) -> Result<(), quorate_client::Error> {
    let give_up = std::time::Instant::now() + std::time::Duration::from_secs(20);
    loop {
        match client.get("tour/", None).await {
            Err(error) if std::time::Instant::now() > give_up => return Err(error),
            Err(_) => tokio::time::sleep(std::time::Duration::from_millis(100)).await,
            Ok(_) => return Ok(()),
        }
    }
}

/// A server that ends with this program.
struct Server {
    endpoint: String,
    process: Child,
    _data: tempfile::TempDir,
}

impl Server {
    fn start() -> Result<Self, Box<dyn std::error::Error>> {
        let program = std::env::current_exe()?.with_file_name("").join("../quorate");
        let data = tempfile::tempdir()?;
        let free_url =
            || -> std::io::Result<String> { Ok(format!("http://{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?)) };
        let (client_url, peer_url) = (free_url()?, free_url()?);
        let process = Command::new(&program)
            .args(["server", "--name=tour", "--log-level=error"])
            .arg(format!("--data-dir={}", data.path().join("tour").display()))
            .args([format!("--listen-client-urls={client_url}"), format!("--advertise-client-urls={client_url}")])
            .args([format!("--listen-peer-urls={peer_url}"), format!("--initial-advertise-peer-urls={peer_url}")])
            .arg(format!("--initial-cluster=tour={peer_url}"))
            .spawn()
            .map_err(|error| format!("{}: {error}: build it first (cargo build -p quorate)", program.display()))?;
        Ok(Self { endpoint: client_url, process, _data: data })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
