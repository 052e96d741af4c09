//! The JSON values that a client sends, one after the other. Bounded in bytes; knows no message.

use super::scanner::{self, Failure};
use crate::grpc::{OVERHEAD_BYTES, READ_TIMEOUT};
use crate::limits::{Gauge, Limit, Taken};
use crate::shared::Shared;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use std::sync::Arc;
use tonic::{Code, Status};

/// A value that is larger counts in the bytes under way.
const SMALL_BYTES: usize = 16 << 10;

/// Reads values. Cancel-safe.
pub struct Input {
    source: BoxStream<'static, Result<Bytes, Status>>,
    buffer: Vec<u8>,
    end: End,
    bytes_max: usize,
    message_bytes_max: usize,
    inflight: Arc<Gauge>,
    /// For a large value that is being read or carried out.
    taken: Option<Taken<Arc<Gauge>>>,
    /// Values that are being read count as requests; once one is read, the request itself does.
    requests: Arc<Gauge>,
}

/// Most bytes of JSON: base64 takes a third more than what it stands for, names and blanks some.
pub fn bytes_max(shared: &Shared) -> usize {
    2 * (shared.request_bytes_max + OVERHEAD_BYTES)
}

impl Input {
    /// The values in the body of a request.
    pub fn of_body(shared: &Shared, body: Incoming) -> Self {
        let data = futures::stream::unfold(body, |mut body| async move {
            loop {
                match body.frame().await? {
                    Ok(frame) => {
                        if let Ok(data) = frame.into_data() {
                            return Some((Ok(data), body));
                        }
                    }
                    Err(error) => return Some((Err(Status::new(Code::Cancelled, error.to_string())), body)),
                }
            }
        });
        Self::new(shared, data)
    }

    /// The values in a stream of bytes.
    pub fn new(shared: &Shared, source: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Self {
        Self {
            // It may be asked again after its end.
            source: source.fuse().boxed(),
            buffer: Vec::new(),
            end: End::default(),
            bytes_max: bytes_max(shared),
            message_bytes_max: shared.request_bytes_max + OVERHEAD_BYTES,
            inflight: Arc::clone(&shared.inflight),
            taken: None,
            requests: Arc::clone(&shared.requests),
        }
    }

    /// The only value of a request, or the first, which must come in time. `None` if there is none.
    ///
    /// # Errors
    /// Text that is no JSON; too much of it; too many requests.
    pub async fn only(&mut self) -> Result<Option<Vec<u8>>, Status> {
        let permit = Gauge::take(Arc::clone(&self.requests), 1);
        let _permit = permit.ok_or_else(|| Limit::Requests.refusal())?;
        match tokio::time::timeout(READ_TIMEOUT, self.next()).await {
            Ok(value) => value,
            Err(_) => Err(Status::new(Code::DeadlineExceeded, "grpc: the request did not arrive in time")),
        }
    }

    /// The next value; `None` after the last one.
    ///
    /// # Errors
    /// Text that is no JSON; too much of it.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, Status> {
        loop {
            if let Some(length) = self.end.find(&self.buffer) {
                return self.take(length).map(Some);
            }
            match self.source.next().await {
                Some(data) => self.push(&data?)?,
                None if self.buffer.iter().all(u8::is_ascii_whitespace) => return Ok(None),
                None => return self.take(self.buffer.len()).map(Some),
            }
        }
    }

    fn push(&mut self, data: &[u8]) -> Result<(), Status> {
        if self.buffer.is_empty() {
            // The value before is done with.
            self.taken = None;
        }
        let length = self.buffer.len() + data.len();
        if length > self.bytes_max {
            let max = self.message_bytes_max;
            let text = format!("grpc: received message larger than max ({} vs. {max})", length / 4 * 3);
            return Err(Limit::RequestBytes.named_in(Status::new(Code::ResourceExhausted, text)));
        }
        if length > SMALL_BYTES && self.taken.is_none() {
            let taken = Gauge::take(Arc::clone(&self.inflight), self.bytes_max);
            self.taken = Some(taken.ok_or_else(|| Limit::InflightBytes.refusal())?);
        }
        self.buffer.extend_from_slice(data);
        Ok(())
    }

    /// Takes the value within the first `length` bytes.
    fn take(&mut self, length: usize) -> Result<Vec<u8>, Status> {
        let rest = self.buffer.split_off(length);
        let text = std::mem::replace(&mut self.buffer, rest);
        self.end = End::default();
        match scanner::first_value(&text) {
            Ok(value) => Ok(value.to_vec()),
            Err(Failure::End) => Err(Status::invalid_argument("unexpected EOF")),
            Err(Failure::Syntax(text)) => Err(Status::invalid_argument(text)),
        }
    }
}

/// Finds where a value ends while it comes in pieces, looking at each byte once. Whether it is sound is not its matter.
#[derive(Debug, Default)]
struct End {
    /// How far it has looked.
    looked: usize,
    depth: usize,
    started: bool,
    in_string: bool,
    escaped: bool,
}

impl End {
    /// The length of the first value with the blanks before it, once all of it is there.
    fn find(&mut self, text: &[u8]) -> Option<usize> {
        while let Some(&byte) = text.get(self.looked) {
            self.looked += 1;
            if self.in_string {
                match byte {
                    _ if self.escaped => self.escaped = false,
                    b'\\' => self.escaped = true,
                    b'"' => self.in_string = false,
                    _ => {}
                }
                if self.in_string || self.depth > 0 {
                    continue;
                }
                return Some(self.looked);
            }
            match byte {
                b' ' | b'\t' | b'\r' | b'\n' if !self.started => continue,
                // A number or a word ends with what follows it.
                b' ' | b'\t' | b'\r' | b'\n' if self.depth == 0 => return Some(self.looked),
                b'"' => self.in_string = true,
                b'{' | b'[' => self.depth += 1,
                b'}' | b']' => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(self.looked);
                    }
                }
                _ => {}
            }
            self.started = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_value_is_found_however_it_is_cut() {
        let text = br#" {"a":"}\"","b":[{}]} "x\"" 12 {}"#;
        let expected = [r#" {"a":"}\"","b":[{}]}"#.len(), r#" "x\"""#.len(), " 12 ".len(), "{}".len()];
        for step in 1..text.len() {
            let (mut ends, mut rest, mut end) = (Vec::new(), &text[..], End::default());
            let mut there = 0;
            while there < rest.len() {
                there = (there + step).min(rest.len());
                while let Some(length) = end.find(&rest[..there]) {
                    ends.push(length);
                    (rest, end) = (&rest[length..], End::default());
                    there -= length;
                }
            }
            assert_eq!(ends, expected, "in pieces of {step}");
        }
        assert_eq!(End::default().find(b"{\"a\":1"), None);
    }
}
