//! How often a client may ping: `--grpc-keepalive-min-time`, as Go's gRPC server polices it. The HTTP/2 library answers pings
//! by itself and tells nobody of them, so that they are counted here, on the bytes that pass. Knows the heads of frames alone.
//!
//! A ping that comes sooner than the time allows after the one before is a strike, unless data or headers were sent to the
//! client in between: clients measure the connection by pings while answers flow. The third strike in a row is one too many:
//! the client is told GOAWAY with ENHANCE_YOUR_CALM and `too_many_pings`, upon which Go's clients double their interval, and
//! the connection ends.
//!
//! Guarantees: nothing is changed, held back or copied, and the farewell never comes in the midst of a frame. The state is of
//! fixed size. A connection that is not HTTP/2 passes as it is.

#[cfg(test)]
mod tests;

use crate::authority::{HEAD_BYTES, PREFACE};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const FLAG_ACK: u8 = 1;
const ENHANCE_YOUR_CALM: u32 = 11;
const TOO_MANY_PINGS: &[u8] = b"too_many_pings";
/// More strikes than these end the connection.
const STRIKES_MAX: u8 = 2;
/// Head, last stream, error code, text.
const FAREWELL_BYTES: usize = HEAD_BYTES + 8 + TOO_MANY_PINGS.len();

/// The server's end of a connection whose client may not ping too often.
pub struct Policed<I> {
    inner: I,
    from_client: Heads,
    to_client: Heads,
    pings: Pings,
    /// The newest stream that the client has begun.
    last_stream: u32,
    /// What the client is told last, and how much of it has been.
    farewell: Option<([u8; FAREWELL_BYTES], usize)>,
}

impl<I> Policed<I> {
    /// Around a connection from which nothing has been read. With a `min_time` of 0 clients ping as they like.
    pub fn new(inner: I, min_time: Duration) -> Self {
        let (from_client, to_client) = (Heads::of_client(), Heads::of_server());
        Self { inner, from_client, to_client, pings: Pings::new(min_time), last_stream: 0, farewell: None }
    }

    /// Follows what the client has sent.
    fn received(&mut self, bytes: &[u8]) {
        let Self { from_client, pings, last_stream, farewell, .. } = self;
        from_client.pass(bytes, |head| match head.kind {
            HEADERS => *last_stream = head.stream.max(*last_stream),
            PING if head.flags & FLAG_ACK == 0 && pings.one_too_many(Instant::now()) => {
                farewell.get_or_insert_with(|| (goaway(*last_stream), 0));
            }
            _ => {}
        });
    }

    /// Follows what the client has been sent.
    fn sent(&mut self, bytes: &[u8]) {
        let pings = &mut self.pings;
        self.to_client.pass(bytes, |head| pings.answered |= matches!(head.kind, DATA | HEADERS));
    }
}

impl<I: AsyncWrite + Unpin> Policed<I> {
    /// Writes what is left of a farewell, and then fails, which ends the connection.
    fn poll_farewell(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        while let Some((frame, told)) = &mut self.farewell
            && *told < frame.len()
        {
            match ready!(Pin::new(&mut self.inner).poll_write(context, &frame[*told..])) {
                Ok(0) => return Poll::Ready(io::ErrorKind::WriteZero.into()),
                Ok(written) => *told += written,
                Err(error) => return Poll::Ready(error),
            }
        }
        match ready!(Pin::new(&mut self.inner).poll_shutdown(context)) {
            Ok(()) => Poll::Ready(io::Error::other("the client pings too often (--grpc-keepalive-min-time)")),
            Err(error) => Poll::Ready(error),
        }
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Policed<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buf))?;
        self.received(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Policed<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut length = bytes.len();
        // The answer to the ping that was one too many brings us here.
        if self.farewell.is_some() {
            if self.to_client.between_frames() {
                return self.poll_farewell(context).map(Err);
            }
            length = length.min(self.to_client.left as usize);
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write(context, &bytes[..length]))?;
        self.sent(&bytes[..written]);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.farewell.is_some() {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(context, first.map_or(&[], |slice| slice));
        }
        let written = ready!(Pin::new(&mut self.inner).poll_write_vectored(context, slices))?;
        let mut left = written;
        for slice in slices {
            let part = left.min(slice.len());
            self.sent(&slice[..part]);
            left -= part;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }
}

/// That the connection ends, and why. Streams beyond `last_stream` were not looked at.
fn goaway(last_stream: u32) -> [u8; FAREWELL_BYTES] {
    let mut frame = [0; FAREWELL_BYTES];
    frame[2] = (FAREWELL_BYTES - HEAD_BYTES) as u8;
    frame[3] = GOAWAY;
    frame[9..13].copy_from_slice(&last_stream.to_be_bytes());
    frame[13..17].copy_from_slice(&ENHANCE_YOUR_CALM.to_be_bytes());
    frame[17..].copy_from_slice(TOO_MANY_PINGS);
    frame
}

/// When pings came.
#[derive(Debug)]
struct Pings {
    min_time: Duration,
    last: Option<Instant>,
    strikes: u8,
    /// Whether the client has been sent data or headers since the last ping.
    answered: bool,
}

impl Pings {
    fn new(min_time: Duration) -> Self {
        Self { min_time, last: None, strikes: 0, answered: false }
    }

    /// Counts a ping; whether that was one too many.
    fn one_too_many(&mut self, now: Instant) -> bool {
        let too_soon = self.last.replace(now).is_some_and(|last| now.duration_since(last) < self.min_time);
        if std::mem::take(&mut self.answered) {
            self.strikes = 0;
        } else if too_soon {
            self.strikes = self.strikes.saturating_add(1);
        }
        self.strikes > STRIKES_MAX
    }
}

/// What a frame's head says, but its length.
struct Head {
    kind: u8,
    flags: u8,
    stream: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Preface,
    Head,
    Payload,
    /// It is not HTTP/2; this part does not end.
    Foreign,
}

/// Where in its frames a stream of bytes is.
#[derive(Debug)]
struct Heads {
    part: Part,
    /// Bytes of the part that are still to come.
    left: u32,
    head: [u8; HEAD_BYTES],
}

impl Heads {
    fn of_client() -> Self {
        Self { part: Part::Preface, left: PREFACE.len() as u32, head: [0; HEAD_BYTES] }
    }

    fn of_server() -> Self {
        Self { part: Part::Head, left: HEAD_BYTES as u32, head: [0; HEAD_BYTES] }
    }

    fn between_frames(&self) -> bool {
        self.part == Part::Head && self.left as usize == HEAD_BYTES
    }

    /// Follows the next bytes, and shows the heads that end in them.
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() && self.part != Part::Foreign {
            let (part, after) = bytes.split_at(bytes.len().min(self.left as usize));
            self.take(part);
            bytes = after;
            // At most `left`.
            self.left -= part.len() as u32;
            if self.left == 0 {
                self.advance(&mut each);
            }
        }
    }

    fn take(&mut self, bytes: &[u8]) {
        match self.part {
            Part::Preface => {
                let at = PREFACE.len() - self.left as usize;
                if !PREFACE[at..].starts_with(bytes) {
                    self.part = Part::Foreign;
                }
            }
            Part::Head => {
                let at = HEAD_BYTES - self.left as usize;
                self.head[at..at + bytes.len()].copy_from_slice(bytes);
            }
            Part::Payload | Part::Foreign => {}
        }
    }

    /// The current part is over.
    fn advance(&mut self, each: &mut impl FnMut(Head)) {
        let mut payload = 0;
        if self.part == Part::Head {
            let [high, middle, low, kind, flags, a, b, c, d] = self.head;
            payload = u32::from_be_bytes([0, high, middle, low]);
            // The first bit is reserved.
            each(Head { kind, flags, stream: u32::from_be_bytes([a & 0x7f, b, c, d]) });
        }
        (self.part, self.left) = match self.part {
            Part::Head if payload > 0 => (Part::Payload, payload),
            Part::Preface | Part::Head | Part::Payload => (Part::Head, HEAD_BYTES as u32),
            Part::Foreign => (Part::Foreign, 0),
        };
    }
}
