//! The server's end of a connection, between hyper and the socket: follows the frames of HTTP/2 both ways for what hyper neither
//! does nor tells. Authorities are put right ([`crate::authority`]), pings are policed ([`crate::pings`]), and it is noticed that a
//! client has begun to speak.
//!
//! Guarantees: no byte is held back or copied; none is added but a farewell, which ends the connection and never comes in the
//! midst of a frame. The state is of fixed size. A connection that is not HTTP/2 passes as it is.

use crate::authority::{Frames, HEAD_BYTES, Head};
use crate::pings::{Farewell, Pings};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The server's end of a connection.
pub struct Wire<I> {
    inner: I,
    from_client: Frames,
    to_client: Heads,
    pings: Pings,
    /// What the client is told last, and how much of it has been.
    farewell: Option<(Farewell, usize)>,
    greeted: Arc<AtomicBool>,
}

impl<I> Wire<I> {
    /// Around a connection from which nothing has been read. A client may ping once in `ping_min_time` ([`Pings`]). `greeted`
    /// becomes true when it has [greeted](Frames::has_greeted).
    pub fn new(inner: I, ping_min_time: Duration, greeted: Arc<AtomicBool>) -> Self {
        Self {
            inner,
            from_client: Frames::default(),
            to_client: Heads::default(),
            pings: Pings::new(ping_min_time),
            farewell: None,
            greeted,
        }
    }

    /// Follows what the client has sent.
    fn received(&mut self, bytes: &mut [u8]) {
        let Self { from_client, pings, farewell, greeted, .. } = self;
        let already = from_client.has_greeted();
        from_client.pass(bytes, |head| {
            if let Some(last_words) = pings.received(head) {
                farewell.get_or_insert((last_words, 0));
            }
        });
        if from_client.has_greeted() && !already {
            greeted.store(true, Relaxed);
        }
    }

    /// Follows what the client has been sent.
    fn sent(&mut self, bytes: &[u8]) {
        let pings = &mut self.pings;
        self.to_client.pass(bytes, |head| pings.sent(head));
    }
}

impl<I: AsyncWrite + Unpin> Wire<I> {
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

impl<I: AsyncRead + Unpin> AsyncRead for Wire<I> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.inner).poll_read(context, buf))?;
        self.received(&mut buf.filled_mut()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Wire<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let mut length = bytes.len();
        // The answer to the ping that was one too many brings us here.
        if self.farewell.is_some() {
            if self.to_client.is_between_frames() {
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

/// Where in its frames a server's stream of bytes is. (Of what is not HTTP/2 it makes nothing that anybody asks for.)
#[derive(Debug)]
struct Heads {
    in_payload: bool,
    /// Bytes of the head or of the payload that are still to come.
    left: u32,
    head: [u8; HEAD_BYTES],
}

impl Default for Heads {
    fn default() -> Self {
        Self { in_payload: false, left: HEAD_BYTES as u32, head: [0; HEAD_BYTES] }
    }
}

impl Heads {
    fn is_between_frames(&self) -> bool {
        !self.in_payload && self.left as usize == HEAD_BYTES
    }

    /// Follows the next bytes, and shows the heads that end in them.
    fn pass(&mut self, mut bytes: &[u8], mut each: impl FnMut(Head)) {
        while !bytes.is_empty() {
            let (part, after) = bytes.split_at(bytes.len().min(self.left as usize));
            if !self.in_payload {
                let at = HEAD_BYTES - self.left as usize;
                self.head[at..at + part.len()].copy_from_slice(part);
            }
            bytes = after;
            // At most `left`.
            self.left -= part.len() as u32;
            if self.left == 0 {
                let ended = if self.in_payload { None } else { Some(Head::read(self.head)) };
                let payload = ended.map_or(0, |(_, payload)| payload);
                (self.in_payload, self.left) = if payload > 0 { (true, payload) } else { (false, HEAD_BYTES as u32) };
                if let Some((head, _)) = ended {
                    each(head);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const PREFACE_AND_SETTINGS: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";
    const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x0012345678";
    const PONG: &[u8] = b"\x00\x00\x08\x06\x01\x00\x00\x00\x0012345678";
    /// Of stream 5; what is in it does not matter.
    const HEADERS: &[u8] = b"\x00\x00\x01\x01\x04\x00\x00\x00\x05\x82";
    const DATA: &[u8] = b"\x00\x00\x03\x00\x00\x00\x00\x00\x05abc";
    const GOAWAY: &[u8] = b"\x00\x00\x16\x07\x00\x00\x00\x00\x00\x00\x00\x00\x05\x00\x00\x00\x0btoo_many_pings";
    const MINUTE: Duration = Duration::from_secs(60);

    fn wire<I>(inner: I) -> Wire<I> {
        Wire::new(inner, MINUTE, Arc::default())
    }

    #[test]
    fn heads_are_found_wherever_the_bytes_are_split() {
        let frames = [HEADERS, PING, DATA, PONG].concat();
        let expected = [(1, 4, 5), (6, 0, 0), (0, 0, 5), (6, 1, 0)];
        let mut bytes = [PREFACE_AND_SETTINGS, &frames].concat();
        for size in 1..bytes.len() {
            let (mut found, mut from_client) = (Vec::new(), Frames::default());
            for part in bytes.chunks_mut(size) {
                from_client.pass(part, |head| found.push((head.kind, head.flags, head.stream)));
            }
            assert_eq!(found, [&[(4, 0, 0)], &expected[..]].concat(), "split into {size}");
        }
        for size in 1..frames.len() {
            let (mut found, mut to_client) = (Vec::new(), Heads::default());
            for part in frames.chunks(size) {
                to_client.pass(part, |head| found.push((head.kind, head.flags, head.stream)));
            }
            assert_eq!(found, expected, "split into {size}");
            assert!(to_client.is_between_frames());
        }
    }

    #[tokio::test]
    async fn the_farewell_comes_after_the_frame_that_is_under_way() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut server = wire(server);
        let sent = [PREFACE_AND_SETTINGS, HEADERS, &PING.repeat(3)].concat();
        client.write_all(&sent).await.unwrap();
        server.read_exact(&mut vec![0; sent.len()]).await.unwrap();
        let (begun, rest) = PONG.split_at(11);
        server.write_all(begun).await.unwrap();
        client.write_all(PING).await.unwrap();
        server.read_exact(&mut [0; PING.len()]).await.unwrap();
        let error = server.write_all(&[rest, PONG].concat()).await.unwrap_err();
        assert!(error.to_string().contains("--grpc-keepalive-min-time"), "{error}");
        drop(server);
        let mut told = Vec::new();
        client.read_to_end(&mut told).await.unwrap();
        assert_eq!(told, [PONG, GOAWAY].concat());
    }

    #[tokio::test]
    async fn what_is_not_http2_passes() {
        let (mut client, server) = tokio::io::duplex(1 << 16);
        let mut server = wire(server);
        let sent = [b"GET / HTTP/1.1\r\n\r\n", &PING.repeat(9)[..]].concat();
        client.write_all(&sent).await.unwrap();
        let mut read = vec![0; sent.len()];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(read, sent);
        server.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
    }
}
