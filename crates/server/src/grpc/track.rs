//! Follows one call from its start to its end, for metrics and the slow-request log.

use super::{Kind, Method};
use crate::shared::Shared;
use quorate_node::stages::{self, Stages};
use std::fmt::Write;
use std::ops::Deref;
use std::time::{Duration, Instant};
use tonic::{Code, Status};

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

    /// Counts a failure as the end, and the bound that it names.
    pub fn fail(&mut self, failure: &Status) {
        self.shared.metrics.count_refusal(failure);
        self.end(failure.code());
    }

    /// Counts the end.
    pub fn end(&mut self, code: Code) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        if code == Code::PermissionDenied {
            self.shared.metrics.denied.increment();
        }
        let took = self.start.elapsed();
        self.shared.metrics.method(self.method).handled(code, took);
        let stages = stages::taken();
        self.shared.metrics.stages(&stages);
        let is_expected = self.method.kind() != Kind::Unary || self.method.waits_for_clients();
        if took > self.shared.slow_request && !is_expected {
            self.shared.metrics.slow_requests.increment();
            let (slow_stage, stages) = describe(&stages, took);
            tracing::warn!(
                request = self.shared.next_slow_request(),
                method = self.method.path(),
                took_ms = took.as_secs_f64() * 1e3,
                expected_ms = self.shared.slow_request.as_secs_f64() * 1e3,
                slow_stage,
                stages,
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

/// The slowest stage, and all of them: `queue=0.1ms wal=310.0ms ... front=0.3ms`. What no stage accounts for is this front's:
/// reading the request, converting, waiting for a turn on a core.
fn describe(stages: &Stages, took: Duration) -> (&'static str, String) {
    let known: Duration = stages.passed().map(|(_, took)| took).sum();
    let front = took.saturating_sub(known);
    let (mut slowest, mut longest) = ("front", front);
    let mut text = String::new();
    for (stage, took) in stages.passed() {
        if took > longest {
            (slowest, longest) = (stage.name(), took);
        }
        let _ = write!(text, "{}={:.1}ms ", stage.name(), took.as_secs_f64() * 1e3);
    }
    let _ = write!(text, "front={:.1}ms", front.as_secs_f64() * 1e3);
    (slowest, text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_node::stages::Stage;

    #[test]
    fn the_slowest_stage_is_named() {
        let mut stages = Stages::default();
        stages.add(Stage::Wal, Duration::from_millis(310));
        stages.add(Stage::Queue, Duration::from_micros(100));
        let (slowest, text) = describe(&stages, Duration::from_millis(312));
        assert_eq!((slowest, text.as_str()), ("wal", "queue=0.1ms wal=310.0ms front=1.9ms"));
        assert_eq!(describe(&stages, Duration::from_secs(1)).0, "front");
    }
}
