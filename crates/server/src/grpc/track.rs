//! Follows one call from its start to its end, for metrics and the slow-request log.

use super::{Kind, Method};
use crate::shared::Shared;
use std::ops::Deref;
use std::time::Instant;
use tonic::Code;

/// One call. Dropped before its end, it counts as canceled by the client.
pub struct Track<S: Deref<Target = Shared>> {
    shared: S,
    method: Method,
    start: Instant,
    received_bytes: usize,
    sent_bytes: usize,
    ended: bool,
}

impl<S: Deref<Target = Shared>> Track<S> {
    /// Counts the start.
    pub fn start(shared: S, method: Method) -> Self {
        shared.metrics.method(method).started.increment();
        Self { shared, method, start: Instant::now(), received_bytes: 0, sent_bytes: 0, ended: false }
    }

    /// Counts a message from the client.
    pub fn received(&mut self, bytes: usize) {
        self.received_bytes += bytes;
        self.shared.metrics.method(self.method).received.increment();
        self.shared.metrics.received_bytes.add(bytes as u64);
    }

    /// Counts messages to the client.
    pub fn sent(&mut self, messages: u64, bytes: usize) {
        self.sent_bytes += bytes;
        self.shared.metrics.method(self.method).sent.add(messages);
        self.shared.metrics.sent_bytes.add(bytes as u64);
    }

    /// Counts the end.
    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let took = self.start.elapsed();
        self.shared.metrics.method(self.method).handled(code, took);
        let is_expected = self.method.kind() != Kind::Unary || self.method.waits_for_clients();
        if took > self.shared.slow_request && !is_expected {
            self.shared.metrics.slow_requests.increment();
            tracing::warn!(
                request = self.shared.next_slow_request(),
                method = self.method.path(),
                took_ms = took.as_secs_f64() * 1e3,
                expected_ms = self.shared.slow_request.as_secs_f64() * 1e3,
                request_bytes = self.received_bytes,
                response_bytes = self.sent_bytes,
                code = ?code,
                "the request took too long"
            );
        }
    }
}

impl<S: Deref<Target = Shared>> Drop for Track<S> {
    fn drop(&mut self) {
        self.end(Code::Cancelled);
    }
}
