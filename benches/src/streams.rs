//! Watchers that count events and how long each took from its put.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::LazyLock;

use anyhow::{Context, Result, bail};
use quorate_proto::etcdserverpb::watch_client::WatchClient;
use quorate_proto::etcdserverpb::watch_request::RequestUnion;
use quorate_proto::etcdserverpb::{WatchCreateRequest, WatchRequest, WatchResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::connection::Connection;
use crate::load::{Tally, Window};
use crate::workload::KEY_PREFIX;

/// Bytes at the start of every value that say when it was put.
pub const STAMP_BYTES: usize = 8;

/// All stamps count from here: writers and watchers are in one process.
static EPOCH: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The present time for the start of a value.
pub fn stamp() -> [u8; STAMP_BYTES] {
    (EPOCH.elapsed().as_micros() as u64).to_be_bytes()
}

/// Microseconds since the stamp at the start of `value` was made; 0 for a value without one.
fn age_us(value: &[u8]) -> u64 {
    let now = EPOCH.elapsed().as_micros() as u64;
    value.first_chunk().map_or(0, |stamp| now.saturating_sub(u64::from_be_bytes(*stamp)))
}

/// A stream with watchers on every key, all created.
pub struct Watchers {
    // Held open: the server ends the stream when the requests end.
    _requests: mpsc::Sender<WatchRequest>,
    answers: Streaming<WatchResponse>,
}

impl Watchers {
    /// Opens one stream with `count` watchers, and waits until the server has created them all.
    ///
    /// # Errors
    /// When the server refuses one.
    pub async fn open(connection: &Connection, count: usize) -> Result<Watchers> {
        let (requests, receiver) = mpsc::channel(count.max(1));
        let end = KEY_PREFIX.as_bytes().iter().map(|byte| byte + 1).collect::<Vec<u8>>();
        for _ in 0..count {
            let create = WatchCreateRequest {
                key: KEY_PREFIX.into(),
                range_end: end.clone().into(),
                ..WatchCreateRequest::default()
            };
            requests.send(WatchRequest { request_union: Some(RequestUnion::CreateRequest(create)) }).await?;
        }
        let mut client = WatchClient::with_origin(connection.clone(), connection.origin());
        // Answers of many watchers can be large together.
        client = client.max_decoding_message_size(64 << 20);
        let mut answers = client.watch(ReceiverStream::new(receiver)).await.context("watch stream")?.into_inner();
        let mut created = 0;
        while created < count {
            let answer = answers.message().await?.context("the watch stream ended")?;
            if answer.canceled {
                bail!("a watcher was refused: {}", answer.cancel_reason);
            }
            created += usize::from(answer.created);
        }
        Ok(Watchers { _requests: requests, answers })
    }

    /// Counts events into `tally` until the stream ends.
    pub async fn count(mut self, tally: Rc<RefCell<Tally>>, window: Window) {
        loop {
            let answer = match self.answers.message().await {
                Ok(Some(answer)) => answer,
                Ok(None) => return,
                Err(status) => return tally.borrow_mut().fail(&status),
            };
            if !window.holds(Instant::now()) {
                continue;
            }
            let mut tally = tally.borrow_mut();
            for event in &answer.events {
                if let Some(kv) = &event.kv {
                    tally.event(age_us(&kv.value));
                }
            }
            if answer.canceled {
                tally.fail(&tonic::Status::aborted("a watcher was canceled"));
            }
        }
    }
}
