//! `make-mirror`: copies keys to another cluster, and then their changes as they happen, one transaction per revision.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use clap::{ArgAction, Args};
use quorate_client::{Client, Event, EventKind, WatchOptions};
use quorate_proto::etcdserverpb::request_op::Request;
use quorate_proto::etcdserverpb::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::context::{Context, GlobalOptions};
use crate::failure::{Exit, Failure};
use crate::golang;
use crate::print::line;

/// How often the number of copied keys is printed, as by etcdctl.
const TELL_EVERY: Duration = Duration::from_secs(30);
/// Keys that are read at a time.
const PAGE_KEYS: i64 = 1000;

/// Arguments of `make-mirror`.
#[derive(Debug, Clone, Args)]
pub struct MirrorArgs {
    /// Client address of the cluster to copy to
    #[arg(value_name = "DESTINATION")]
    destination: Option<String>,

    #[arg(hide = true)]
    more: Vec<String>,

    /// Copy only keys that begin with this
    #[arg(long, default_value = "")]
    prefix: String,

    /// What --prefix becomes in the destination; the same if it is not given
    #[arg(long, default_value = "")]
    dest_prefix: String,

    /// Leave --prefix out in the destination
    #[arg(long)]
    no_dest_prefix: bool,

    /// Copy changes from this revision on, and nothing that was there before
    #[arg(long, default_value_t = 0, hide_default_value = true, value_name = "REVISION")]
    rev: i64,

    /// Most operations in one transaction of the destination
    #[arg(long, default_value_t = 128, value_name = "NUMBER")]
    max_txn_ops: usize,

    /// User of the destination
    #[arg(long, value_name = "NAME[:PASSWORD]")]
    dest_user: Option<String>,

    /// Password of --dest-user
    #[arg(long, value_name = "PASSWORD")]
    dest_password: Option<String>,

    /// Certificate of the client for the destination
    #[arg(long, value_name = "FILE")]
    dest_cert: Option<String>,

    /// Key of --dest-cert
    #[arg(long, value_name = "FILE")]
    dest_key: Option<String>,

    /// Certificates that may sign the destination's
    #[arg(long, value_name = "FILE")]
    dest_cacert: Option<String>,

    /// Connect to the destination without TLS
    #[arg(long, action = ArgAction::Set, default_value = "true", default_missing_value = "true", num_args = 0..=1,
          require_equals = true, value_parser = golang::parse_bool, value_name = "BOOL")]
    dest_insecure_transport: bool,
}

impl MirrorArgs {
    /// Runs until it is interrupted, or fails.
    pub async fn run(self, context: &Context) -> Result<(), Failure> {
        let Some(destination) = self.destination.clone().filter(|_| self.more.is_empty()) else {
            return Err(Failure::arguments("make-mirror takes one destination argument"));
        };
        if self.no_dest_prefix && !self.dest_prefix.is_empty() {
            return Err(Failure::arguments(
                "`--dest-prefix` and `--no-dest-prefix` cannot be set at the same time, choose one",
            ));
        }
        let options = GlobalOptions {
            endpoints: vec![destination],
            user: self.dest_user.clone(),
            password: self.dest_password.clone(),
            cert: self.dest_cert.clone(),
            key: self.dest_key.clone(),
            cacert: self.dest_cacert.clone(),
            insecure_transport: self.dest_insecure_transport,
            ..context.options.clone()
        };
        let to = Context { options, command_timeout_is_chosen: context.command_timeout_is_chosen };
        let mirror =
            Mirror { from: context.client().await?, to: to.client().await?, args: self, copied: AtomicU64::new(0) };
        tokio::select! {
            ended = mirror.run() => ended,
            never = mirror.tell() => never,
            _ = tokio::signal::ctrl_c() => Ok(()),
        }
    }
}

struct Mirror {
    from: Client,
    to: Client,
    args: MirrorArgs,
    copied: AtomicU64,
}

impl Mirror {
    async fn run(&self) -> Result<(), Failure> {
        let start = if self.args.rev > 0 { self.args.rev } else { self.copy_all().await? + 1 };
        let (key, _) = self.range();
        let options = WatchOptions::new().start_revision(start);
        let options = if self.args.prefix.is_empty() { options.from_key() } else { options.prefix() };
        let mut watch = self.from.watch(key, options).await.map_err(|error| Failure::call(&error))?;
        while let Some(batch) = watch.next().await {
            let events = batch.map_err(|error| Failure::new(Exit::Interrupted, error.to_string()))?.events;
            // A revision is copied in one piece, as far as the destination takes so many operations.
            for revision in events.chunk_by(|one, next| one.kv.mod_revision == next.kv.mod_revision) {
                for part in revision.chunks(self.args.max_txn_ops.max(1)) {
                    self.apply(part.iter().map(|event| self.operation(event)).collect()).await?;
                }
            }
        }
        Err(Failure::new(Exit::Interrupted, "the watch has ended"))
    }

    /// Copies what is there, all of one revision, which it returns.
    async fn copy_all(&self) -> Result<i64, Failure> {
        let (mut key, range_end) = self.range();
        let mut revision = 0;
        loop {
            let request = RangeRequest {
                key: key.clone().into(),
                range_end: range_end.clone().into(),
                limit: PAGE_KEYS,
                revision,
                ..Default::default()
            };
            let page = self.from.kv().range(request).await.map_err(|error| Failure::call(&error))?;
            if revision == 0 {
                revision = page.header.as_ref().map_or(0, |header| header.revision);
            }
            let Some(last) = page.kvs.last() else { return Ok(revision) };
            // The smallest key behind the last one.
            key = [&last.key[..], b"\0"].concat();
            for part in page.kvs.chunks(self.args.max_txn_ops.max(1)) {
                self.apply(part.iter().map(|kv| put(self.renamed(&kv.key), kv.value.to_vec())).collect()).await?;
            }
            if !page.more {
                return Ok(revision);
            }
        }
    }

    /// First key, and end of the range, of what is copied.
    fn range(&self) -> (Vec<u8>, Vec<u8>) {
        let prefix = self.args.prefix.as_bytes();
        let mut end = prefix.to_vec();
        match end.last_mut() {
            // Text has no byte 0xff.
            Some(last) => *last += 1,
            None => return (b"\0".to_vec(), b"\0".to_vec()),
        }
        (prefix.to_vec(), end)
    }

    fn renamed(&self, key: &[u8]) -> Vec<u8> {
        let MirrorArgs { prefix, dest_prefix, no_dest_prefix, .. } = &self.args;
        let rest = key.strip_prefix(prefix.as_bytes()).unwrap_or(key);
        let front = match (no_dest_prefix, dest_prefix.is_empty()) {
            (true, _) => "",
            (false, true) => prefix,
            (false, false) => dest_prefix,
        };
        [front.as_bytes(), rest].concat()
    }

    fn operation(&self, event: &Event) -> RequestOp {
        let key = self.renamed(&event.kv.key);
        match event.kind {
            EventKind::Put => put(key, event.kv.value.to_vec()),
            EventKind::Delete => {
                let delete = DeleteRangeRequest { key: key.into(), ..Default::default() };
                RequestOp { request: Some(Request::RequestDeleteRange(delete)) }
            }
        }
    }

    async fn apply(&self, success: Vec<RequestOp>) -> Result<(), Failure> {
        let count = success.len() as u64;
        let txn = TxnRequest { success, ..Default::default() };
        self.to.kv().txn(txn).await.map_err(|error| Failure::call(&error))?;
        self.copied.fetch_add(count, Relaxed);
        Ok(())
    }

    async fn tell(&self) -> Result<(), Failure> {
        loop {
            tokio::time::sleep(TELL_EVERY).await;
            line(self.copied.load(Relaxed))?;
        }
    }
}

fn put(key: Vec<u8>, value: Vec<u8>) -> RequestOp {
    let put = PutRequest { key: key.into(), value: value.into(), ..Default::default() };
    RequestOp { request: Some(Request::RequestPut(put)) }
}
