//! A Rust program that has the database inside: one node, no listener, its data in a directory.
//!
//! ```text
//! cargo run -p quorate-node --example embedded [DIRECTORY]
//! ```

use quorate_node::core::{Compare, CompareResult, CompareTarget, KeyRange, Op, Put, RangeRequest, Revision, Txn};
use quorate_node::{Config, Node, WatchCreate, WatchMessage};
use std::error::Error;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let temporary = tempfile::tempdir()?;
    let data_dir = std::env::args().nth(1).map_or_else(|| temporary.path().join("data"), Into::into);
    // A cluster of one needs no peer listener; with `listen_peer_urls` and `initial_cluster` the same code is a member of a
    // larger one.
    let node = Node::start(Config { data_dir, listen_peer_urls: Vec::new(), ..Config::default() }).await?;
    node.wait_ready().await?;

    // Write, and read it back: linearizable, unless asked otherwise.
    let put = |key: &'static str, value: &'static str| Put { key: key.into(), value: value.into(), ..Put::default() };
    let written = node.put(put("greeting", "hello")).await?;
    println!("put greeting at revision {}", written.header.revision);
    let read = node.range(RangeRequest::new(KeyRange::Single("greeting".into()))).await?;
    for kv in &read.body.kvs {
        println!("get {} = {}", String::from_utf8_lossy(&kv.key), String::from_utf8_lossy(&kv.value));
    }

    // Watch a range from the next revision on.
    let (control, mut events) = node.watch_stream();
    control.create(WatchCreate {
        watch_id: 0,
        range: KeyRange::Interval { start: "g".into(), end: "h".into() },
        start_revision: written.header.revision.next(),
        progress_notify: false,
        no_put: false,
        no_delete: false,
        prev_kv: true,
    });

    // A transaction: only the first to come wins.
    let first = Txn {
        compares: vec![Compare {
            range: KeyRange::Single("guard".into()),
            result: CompareResult::Equal,
            target: CompareTarget::Create(Revision::ZERO),
        }],
        success: vec![Op::Put(put("guard", "mine"))],
        failure: vec![],
    };
    println!("first to come: {}", node.txn(first.clone()).await?.body.succeeded);
    println!("second to come: {}", node.txn(first).await?.body.succeeded);

    while let Some(message) = events.next().await {
        if let WatchMessage::Events { events, .. } = message {
            for event in events {
                println!("event at revision {}: {}", event.record.rev, String::from_utf8_lossy(&event.record.key));
            }
            break;
        }
    }
    node.shutdown().await;
    Ok(())
}
