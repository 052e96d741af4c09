//! The audit log: one JSON line for each request, with who, what, on which keys, and with which outcome. Never a value,
//! never a password.
//!
//! A request is answered when its line is queued; a thread of its own writes. The queue is bounded in bytes. When it is
//! full, answers wait ([`WhenFull::Wait`]), or lines are dropped, counted, and the count is written ([`WhenFull::Drop`]). A
//! line that cannot be written is tried again until it can; that is said in the log and in metrics. So nothing is lost in
//! silence. What is queued when the process is killed is lost.

mod subject;

use crate::connection::Connection;
use crate::grpc::Method;
use crate::metrics::Counter;
use crate::rotate::{RotatingFile, Rotation};
use crate::{StartError, utc};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Code;

/// Most bytes that are written at a time.
const WRITE_BYTES_MAX: usize = 1 << 20;
/// Pause before a line that could not be written is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// How often a log that cannot be written is complained of.
const COMPLAIN_EVERY: Duration = Duration::from_secs(10);
/// How long a stop waits for lines to be written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(5);

/// What happens to a request when the queue is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenFull {
    /// Its answer waits until there is room.
    Wait,
    /// It is answered, and its line is lost, and counted.
    Drop,
}

/// Where and how to write.
#[derive(Clone, Debug)]
pub struct AuditOptions {
    /// The file.
    pub path: PathBuf,
    /// Whether reads are written, too.
    pub reads: bool,
    /// When the file is put aside.
    pub rotation: Rotation,
    /// Most bytes of lines that wait.
    pub queue_bytes_max: usize,
    /// What happens then.
    pub when_full: WhenFull,
}

/// Figures of the log.
#[derive(Debug, Default)]
pub struct AuditFigures {
    /// Lines that were written.
    pub written: Counter,
    /// Lines that were lost.
    pub lost: Counter,
    /// Answers that waited for room.
    pub waits: Counter,
    /// Attempts to write that failed.
    pub failures: Counter,
    /// Whether the last attempt failed.
    pub failing: AtomicBool,
}

/// Who asks.
#[derive(Clone, Debug)]
pub struct Who {
    /// The connection.
    pub connection: Option<Arc<Connection>>,
    /// The user, if authentication knows one.
    pub user: Option<String>,
}

/// The audit log.
pub struct AuditLog {
    reads: bool,
    when_full: WhenFull,
    queue_bytes_max: usize,
    room: Arc<Semaphore>,
    queue: mpsc::UnboundedSender<Message>,
    figures: Arc<AuditFigures>,
    /// Numbers the lines of this process.
    next: AtomicU64,
    /// Lost since the last line that was queued.
    lost: AtomicU64,
}

enum Message {
    Line(Vec<u8>, Option<OwnedSemaphorePermit>),
    /// Answered when everything before it is written.
    Flush(oneshot::Sender<()>),
}

impl AuditLog {
    /// Opens the file and starts the thread, which ends when the log is dropped.
    ///
    /// # Errors
    /// [`StartError::Config`] if the file cannot be opened.
    pub fn open(options: &AuditOptions) -> Result<Self, StartError> {
        let path = options.path.display();
        let file = RotatingFile::open(&options.path, Some(options.rotation))
            .map_err(|error| StartError::config(format!("--audit-log-path: cannot open {path}: {error}")))?;
        let (queue, messages) = mpsc::unbounded_channel();
        let figures = Arc::new(AuditFigures::default());
        let writer =
            Writer { file, path: options.path.clone(), messages, figures: Arc::clone(&figures), complained: None };
        std::thread::Builder::new()
            .name("quorate-audit".into())
            .spawn(move || writer.run())
            .map_err(StartError::Process)?;
        let queue_bytes_max = options.queue_bytes_max.clamp(1, u32::MAX as usize);
        Ok(Self {
            reads: options.reads,
            when_full: options.when_full,
            queue_bytes_max,
            room: Arc::new(Semaphore::new(queue_bytes_max)),
            queue,
            figures,
            next: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        })
    }

    /// Its figures.
    pub fn figures(&self) -> &AuditFigures {
        &self.figures
    }

    /// Bytes of lines that wait.
    pub fn queued_bytes(&self) -> usize {
        self.queue_bytes_max.saturating_sub(self.room.available_permits())
    }

    /// Whether calls of a method are written.
    pub fn wants(&self, method: Method) -> bool {
        self.reads || !subject::only_reads(method)
    }

    /// Writes that a call has ended. `request` is its message, `reply` its answer's, if it has them.
    pub async fn ended(
        &self,
        who: &Who,
        method: Method,
        request: Option<Bytes>,
        reply: Option<&[u8]>,
        outcome: (Code, &str),
    ) {
        let mut witness = self.witness(who, method);
        witness.request = request;
        witness.end(reply, outcome).await;
    }

    /// Follows a call to its end, even if it is given up.
    pub fn witness<'a>(&'a self, who: &'a Who, method: Method) -> Witness<'a> {
        Witness { log: self, who, method, request: None, line: None, ended: false }
    }

    fn line(&self, who: &Who, method: Method) -> Map<String, Value> {
        let mut line = Map::new();
        line.insert("time".into(), json!(utc::rfc3339(SystemTime::now())));
        line.insert("id".into(), json!(self.next.fetch_add(1, Relaxed)));
        line.insert("method".into(), json!(method.path()));
        if let Some(connection) = &who.connection {
            line.insert("remote".into(), json!(connection.remote.to_string()));
            if let Some(name) = &connection.common_name {
                line.insert("common_name".into(), json!(&**name));
            }
        }
        if let Some(user) = &who.user {
            line.insert("user".into(), json!(user));
        }
        line
    }

    /// Room for a line, if there is any.
    fn try_room(&self, line: &[u8]) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.room).try_acquire_many_owned(self.cost(line)).ok()
    }

    /// A line that is larger than the queue takes all of it.
    fn cost(&self, line: &[u8]) -> u32 {
        u32::try_from(line.len().min(self.queue_bytes_max)).unwrap_or(u32::MAX)
    }

    fn lose(&self) {
        self.figures.lost.increment();
        self.lost.fetch_add(1, Relaxed);
    }

    fn queue(&self, mut line: Vec<u8>, permit: Option<OwnedSemaphorePermit>) {
        let lost = self.lost.swap(0, Relaxed);
        if lost > 0 {
            let note = json!({ "time": utc::rfc3339(SystemTime::now()), "lost": lost });
            line.splice(0..0, format!("{note}\n").into_bytes());
        }
        // The thread ends only when the queue does.
        let _ = self.queue.send(Message::Line(line, permit));
    }

    /// Waits, for a bounded time, until what is queued is written.
    pub async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.queue.send(Message::Flush(done)).is_ok() && tokio::time::timeout(FLUSH_TIMEOUT, written).await.is_err()
        {
            tracing::error!(bytes = self.queued_bytes(), "the end of the audit log could not be written and is lost");
        }
    }
}

/// A call that will be written. Dropped before its end, it is written as given up by the client: what it asked for may
/// happen all the same.
pub struct Witness<'a> {
    log: &'a AuditLog,
    who: &'a Who,
    method: Method,
    /// The call's message, once it is there.
    pub request: Option<Bytes>,
    /// Complete, and waits for room.
    line: Option<Vec<u8>>,
    ended: bool,
}

impl Witness<'_> {
    /// The call has ended.
    pub async fn end(mut self, reply: Option<&[u8]>, outcome: (Code, &str)) {
        let line = self.describe(reply, outcome);
        let permit = match (self.log.try_room(&line), self.log.when_full) {
            (Some(permit), _) => Some(permit),
            (None, WhenFull::Drop) => {
                self.ended = true;
                return self.log.lose();
            }
            (None, WhenFull::Wait) => {
                self.log.figures.waits.increment();
                let room = Arc::clone(&self.log.room).acquire_many_owned(self.log.cost(&line));
                self.line = Some(line);
                // The semaphore is never closed. Who is given up here still has the line.
                let permit = room.await.ok();
                let line = self.line.take().unwrap_or_default();
                self.ended = true;
                return self.log.queue(line, permit);
            }
        };
        self.ended = true;
        self.log.queue(line, permit);
    }

    fn describe(&mut self, reply: Option<&[u8]>, (code, text): (Code, &str)) -> Vec<u8> {
        let mut line = self.log.line(self.who, self.method);
        if let Some(request) = self.request.take() {
            subject::describe(self.method, request, &mut line);
        }
        if let Some(revision) = reply.and_then(subject::revision) {
            line.insert("revision".into(), json!(revision));
        }
        line.insert("code".into(), json!(crate::metrics::code_name(code as usize)));
        if code != Code::Ok {
            line.insert("error".into(), json!(text));
        }
        let mut bytes = Value::Object(line).to_string().into_bytes();
        bytes.push(b'\n');
        bytes
    }
}

impl Drop for Witness<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let line = match self.line.take() {
            Some(line) => line,
            None => self.describe(None, (Code::Cancelled, "given up by the client")),
        };
        // A drop cannot wait. Such lines may go beyond the queue's bound; the bound on requests holds for them.
        let permit = self.log.try_room(&line);
        if permit.is_none() && self.log.when_full == WhenFull::Drop {
            return self.log.lose();
        }
        self.log.queue(line, permit);
    }
}

/// The thread that writes.
struct Writer {
    file: RotatingFile,
    path: PathBuf,
    messages: mpsc::UnboundedReceiver<Message>,
    figures: Arc<AuditFigures>,
    complained: Option<Instant>,
}

impl Writer {
    fn run(mut self) {
        while let Some(message) = self.messages.blocking_recv() {
            let (mut bytes, mut permits, mut lines, mut flushed) = (Vec::new(), Vec::new(), 0, Vec::new());
            let mut next = Some(message);
            while let Some(message) = next {
                match message {
                    Message::Line(line, permit) => {
                        bytes.extend_from_slice(&line);
                        permits.push(permit);
                        lines += 1;
                    }
                    Message::Flush(done) => flushed.push(done),
                }
                next = if bytes.len() < WRITE_BYTES_MAX { self.messages.try_recv().ok() } else { None };
            }
            self.write(&bytes);
            self.figures.written.add(lines);
            drop(permits);
            for done in flushed {
                // Whoever waited may have given up.
                let _ = done.send(());
            }
        }
    }

    /// Tries until it is written. Until then the queue fills, and answers wait: that is the point of it.
    fn write(&mut self, bytes: &[u8]) {
        while let Err(error) = self.file.append(bytes) {
            self.figures.failures.increment();
            self.figures.failing.store(true, Relaxed);
            if self.complained.is_none_or(|when| when.elapsed() >= COMPLAIN_EVERY) {
                self.complained = Some(Instant::now());
                let path = self.path.display();
                tracing::error!(%path, %error, "the audit log cannot be written; when its queue is full, requests wait");
            }
            if self.messages.is_closed() {
                return;
            }
            std::thread::sleep(RETRY_PAUSE);
        }
        if self.figures.failing.swap(false, Relaxed) {
            tracing::warn!(path = %self.path.display(), "the audit log can be written again");
            self.complained = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use prost::Message as _;
    use quorate_proto::etcdserverpb as pb;

    fn open(dir: &std::path::Path, queue_bytes_max: usize, when_full: WhenFull) -> AuditLog {
        AuditLog::open(&AuditOptions {
            path: dir.join("audit.log"),
            reads: true,
            rotation: Rotation { bytes_max: 1 << 20, files_max: Some(1), age_max: None },
            queue_bytes_max,
            when_full,
        })
        .unwrap()
    }

    const NOBODY: Who = Who { connection: None, user: None };

    async fn put(log: &AuditLog, key: &str) {
        let request = pb::PutRequest { key: key.to_owned().into(), value: "s3cret".into(), ..Default::default() };
        let reply =
            pb::PutResponse { header: Some(pb::ResponseHeader { revision: 7, ..Default::default() }), prev_kv: None };
        let (request, reply) = (request.encode_to_vec().into(), reply.encode_to_vec());
        log.ended(&NOBODY, Method::Put, Some(request), Some(&reply), (Code::Ok, "")).await;
    }

    #[tokio::test]
    async fn a_line_says_what_was_done_and_no_value() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), 1 << 20, WhenFull::Wait);
        put(&log, "a").await;
        log.flush().await;
        let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
        let line: Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            (&line["method"], &line["ranges"], &line["revision"], &line["code"]),
            (&json!("/etcdserverpb.KV/Put"), &json!([{"op": "put", "key": "a"}]), &json!(7), &json!("OK"))
        );
        assert!(!text.contains("s3cret"));
        assert_eq!((log.figures().written.get(), log.queued_bytes()), (1, 0));
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), 1 << 20, WhenFull::Wait);
        let mut witness = log.witness(&NOBODY, Method::Put);
        witness.request = Some(pb::PutRequest { key: "a".into(), ..Default::default() }.encode_to_vec().into());
        drop(witness);
        // While an answer waits for room, too.
        let room = Arc::clone(&log.room).acquire_many_owned(1 << 20).await.unwrap();
        let waits = put(&log, "b");
        assert!(tokio::time::timeout(Duration::from_millis(10), waits).await.is_err());
        drop(room);
        log.flush().await;
        let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((&lines[0]["code"], &lines[0]["ranges"][0]["key"]), (&json!("Canceled"), &json!("a")));
        assert_eq!((&lines[1]["code"], &lines[1]["ranges"][0]["key"]), (&json!("OK"), &json!("b")));
    }

    #[tokio::test]
    async fn a_full_queue_makes_answers_wait_or_counts_what_is_lost() {
        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), 300, WhenFull::Wait);
        // More than the queue holds: all of them are written, because they wait for each other.
        for key in 0..50 {
            put(&log, &key.to_string()).await;
        }
        log.flush().await;
        assert_eq!(std::fs::read_to_string(dir.path().join("audit.log")).unwrap().lines().count(), 50);

        let dir = tempfile::tempdir().unwrap();
        let log = open(dir.path(), 300, WhenFull::Drop);
        let room = Arc::clone(&log.room).acquire_many_owned(300).await.unwrap();
        put(&log, "lost").await;
        drop(room);
        put(&log, "kept").await;
        log.flush().await;
        let text = std::fs::read_to_string(dir.path().join("audit.log")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!((lines.len(), &lines[0]["lost"], log.figures().lost.get()), (2, &json!(1), 1));
        assert_eq!(lines[1]["ranges"], json!([{"op": "put", "key": "kept"}]));
    }
}
