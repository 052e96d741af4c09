//! gRPC's framing of messages: one byte "compressed", four bytes length, the message. Knows no method.

use crate::limits::{Gauge, Limit, Taken};
use bytes::{BufMut, Bytes, BytesMut};
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use prost::Message;
use std::ops::Deref;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tonic::{Code, Status};

/// Bytes in front of each message.
pub const PREFIX_BYTES: usize = 5;

/// How long a unary request may take to arrive. Without it, halves of requests would hold their places for ever.
pub const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// How long the end of a request may take that is answered already, and what may still come with it.
const END_TIMEOUT: Duration = Duration::from_secs(1);
const END_BYTES_MAX: usize = 64 << 10;

/// Where a request's bytes come from.
pub enum Source {
    /// A client, over HTTP/2.
    Client(Incoming),
    /// The server itself: whole frames. The mutex is never locked; it lets sessions be borrowed across threads.
    Local(Mutex<BoxStream<'static, Bytes>>),
}

impl Source {
    /// Frames that the server has made of something else.
    pub fn local(frames: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        // It may be asked again after its end.
        Self::Local(Mutex::new(Box::pin(frames.fuse())))
    }

    /// Whether all of it is here.
    pub fn is_ended(&self) -> bool {
        match self {
            Self::Client(body) => body.is_end_stream(),
            Self::Local(_) => true,
        }
    }

    /// Waits for a bounded time for the end of a request that is answered already. Were it dropped before, its stream would be
    /// reset; what the client still sends on it would count as its fault, and after a thousand of those HTTP/2 closes the
    /// connection. Many clients end their side in a frame of its own, some time after the message.
    pub async fn end(mut self) {
        let mut left = END_BYTES_MAX;
        let rest = async {
            while let Some(Ok(data)) = self.data().await {
                match left.checked_sub(data.len()) {
                    Some(less) => left = less,
                    None => return,
                }
            }
        };
        // One that takes longer is reset after all.
        let _ = tokio::time::timeout(END_TIMEOUT, rest).await;
    }

    /// The next bytes, `None` at the end. Cancel-safe.
    async fn data(&mut self) -> Option<Result<Bytes, hyper::Error>> {
        match self {
            Self::Client(body) => loop {
                match body.frame().await? {
                    Ok(frame) => {
                        if let Ok(data) = frame.into_data() {
                            return Some(Ok(data));
                        }
                    }
                    Err(error) => return Some(Err(error)),
                }
            },
            Self::Local(frames) => frames.get_mut().unwrap_or_else(PoisonError::into_inner).next().await.map(Ok),
        }
    }
}

/// Reads the messages of one request body.
///
/// A message is never a slice of the connection's receive buffer: who keeps a key or a value keeps at most its request
/// in memory.
pub struct MessageReader<G: Deref<Target = Gauge>> {
    body: Source,
    inflight: G,
    /// For the message that was read last or is being read, if it is larger than a frame. Smaller ones are bounded by the
    /// number of requests, and what they would cost to count is a good part of what they cost.
    taken: Option<Taken<G>>,
    /// Part of a message is there.
    reading: bool,
    message_bytes_max: usize,
    buffer: Buffer,
}

/// Bytes that have come and are not yet a message.
#[derive(Default)]
struct Buffer {
    /// Rest of the last frame; empty while `partial` is not.
    frame: Bytes,
    /// The start of a message that spans frames.
    partial: BytesMut,
}

impl<G: Deref<Target = Gauge> + Clone> MessageReader<G> {
    /// Reads `body`; large messages count in `inflight` until the next one is asked for.
    pub fn new(body: Source, inflight: G, message_bytes_max: usize) -> Self {
        Self { body, inflight, taken: None, reading: false, message_bytes_max, buffer: Buffer::default() }
    }

    /// The next message, or `None` at the end. Cancel-safe: what has come is kept for the next call.
    ///
    /// # Errors
    /// A message that is too large, compressed or cut off; a request that was given up; too many bytes under way.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Status> {
        loop {
            if let Some(message) = self.take_message()? {
                return Ok(Some(message));
            }
            match self.body.data().await {
                Some(Ok(data)) => self.buffer.push(data),
                Some(Err(error)) => return Err(Status::new(Code::Cancelled, error.to_string())),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::new(Code::Internal, "grpc: the request ends within a message")),
            }
        }
    }

    /// Reads the only message of a unary request.
    pub async fn only(&mut self) -> Result<Bytes, Status> {
        // As in grpc-go, the answer does not wait for the client to end its side.
        let message = match tokio::time::timeout(READ_TIMEOUT, self.next()).await {
            Ok(message) => message?,
            Err(_) => return Err(Status::new(Code::DeadlineExceeded, "grpc: the request did not arrive in time")),
        };
        message.ok_or_else(|| Status::new(Code::Internal, "grpc: the request has no message"))
    }

    /// What the client has not ended yet, if so; the reader then has nothing more.
    pub fn unended(&mut self) -> Option<Source> {
        let nothing = || Source::local(futures::stream::empty());
        (!self.body.is_ended()).then(|| std::mem::replace(&mut self.body, nothing()))
    }

    /// A message that is there already, so that several can be answered at once.
    pub fn take_message(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(length) = self.buffer.message_bytes(self.message_bytes_max)? else { return Ok(None) };
        if !self.reading {
            // The message before is done with.
            self.taken = None;
            if !self.buffer.has(length) {
                let taken = Gauge::take(self.inflight.clone(), length);
                self.taken = Some(taken.ok_or_else(|| Limit::InflightBytes.refusal())?);
            }
        }
        let message = self.buffer.split(length);
        self.reading = message.is_none();
        Ok(message)
    }
}

impl Buffer {
    fn is_empty(&self) -> bool {
        self.frame.is_empty() && self.partial.is_empty()
    }

    fn bytes(&self) -> &[u8] {
        if self.partial.is_empty() { &self.frame } else { &self.partial }
    }

    fn push(&mut self, data: Bytes) {
        if self.is_empty() {
            self.frame = data;
        } else {
            self.partial.extend_from_slice(&std::mem::take(&mut self.frame));
            self.partial.extend_from_slice(&data);
        }
    }

    /// Length of the message that is at the front, once its prefix is there.
    fn message_bytes(&self, max: usize) -> Result<Option<usize>, Status> {
        let Some((prefix, _)) = self.bytes().split_first_chunk::<PREFIX_BYTES>() else { return Ok(None) };
        let [compressed, length @ ..] = *prefix;
        if compressed != 0 {
            return Err(Status::new(Code::Unimplemented, "grpc: Decompressor is not installed"));
        }
        let length = u32::from_be_bytes(length) as usize;
        if length > max {
            let text = format!("grpc: received message larger than max ({length} vs. {max})");
            return Err(Limit::RequestBytes.named_in(Status::new(Code::ResourceExhausted, text)));
        }
        Ok(Some(length))
    }

    /// Whether all of a message of `length` bytes is there.
    fn has(&self, length: usize) -> bool {
        self.bytes().len() >= PREFIX_BYTES + length
    }

    /// Takes the message of `length` bytes from the front, if all of it is there.
    fn split(&mut self, length: usize) -> Option<Bytes> {
        let end = PREFIX_BYTES + length;
        if !self.has(length) {
            // The length is known and within bounds: allocate once.
            self.partial.reserve(end - self.partial.len());
            self.partial.extend_from_slice(&std::mem::take(&mut self.frame));
            None
        } else if self.partial.is_empty() {
            let message = Bytes::copy_from_slice(&self.frame[PREFIX_BYTES..end]);
            self.frame = self.frame.slice(end..);
            Some(message)
        } else {
            let message = self.partial.split_to(end).freeze().slice(PREFIX_BYTES..);
            // What follows must not keep the large buffer.
            self.frame = Bytes::copy_from_slice(&std::mem::take(&mut self.partial));
            Some(message)
        }
    }
}

/// Decodes a message; the error is grpc-go's.
pub fn decode<M: Message + Default>(message: Bytes) -> Result<M, Status> {
    M::decode(message)
        .map_err(|error| Status::new(Code::Internal, format!("grpc: error unmarshalling request: {error}")))
}

/// Appends a message with its prefix.
pub fn encode<M: Message>(message: &M, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(PREFIX_BYTES + length);
    put_prefix(length, out);
    message.encode_raw(out);
}

/// Appends what comes before a message of `length` bytes.
pub fn put_prefix(length: usize, out: &mut BytesMut) {
    out.put_u8(0);
    // A length beyond 4 GiB cannot be framed; requests and ranges are bounded far below.
    out.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
}

/// The messages in whole frames that [`encode`] made.
pub fn split_messages(mut frames: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let ([_, length @ ..], rest) = frames.split_first_chunk::<PREFIX_BYTES>()?;
        let (message, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        frames = rest;
        Some(message)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(frames: &[&[u8]], max: usize) -> Result<Vec<Vec<u8>>, String> {
        let mut buffer = Buffer::default();
        let mut messages = Vec::new();
        for frame in frames {
            buffer.push(Bytes::copy_from_slice(frame));
            while let Some(length) = buffer.message_bytes(max).map_err(|status| status.message().to_owned())? {
                let Some(message) = buffer.split(length) else { break };
                messages.push(message.to_vec());
            }
        }
        Ok(messages)
    }

    #[test]
    fn messages_are_the_same_however_they_are_cut_into_frames() {
        let stream = b"\0\0\0\0\x03abc\0\0\0\0\0\0\0\0\0\x02de";
        let expected = vec![b"abc".to_vec(), vec![], b"de".to_vec()];
        assert_eq!(messages(&[stream], 10).unwrap(), expected);
        for first in 0..stream.len() {
            for second in first..stream.len() {
                let frames = [&stream[..first], &stream[first..second], &stream[second..]];
                assert_eq!(messages(&frames, 10).unwrap(), expected, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn a_large_message_is_refused_by_its_prefix() {
        assert_eq!(messages(&[b"\0\0\0\0\x0b"], 10).unwrap_err(), "grpc: received message larger than max (11 vs. 10)");
        assert!(messages(&[b"\x01\0\0\0\0"], 10).is_err());
    }

    #[test]
    fn a_message_that_was_encoded_is_read_again() {
        let mut out = BytesMut::new();
        encode(&quorate_proto::etcdserverpb::LeaseGrantRequest { ttl: 5, id: 7 }, &mut out);
        let message = messages(&[&out], 100).unwrap().remove(0);
        let request: quorate_proto::etcdserverpb::LeaseGrantRequest = decode(message.into()).unwrap();
        assert_eq!((request.ttl, request.id), (5, 7));
    }
}
