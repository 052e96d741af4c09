//! Frames: length, CRC-32C, body. A frame that does not check out ends the connection.

use bytes::{BufMut, Bytes, BytesMut};
use prost::Message;
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt};

/// First bytes on a connection, each way.
pub(super) const PREFACE: &[u8; 8] = b"QUORATE1";

/// Largest frame: an append may hold a few MiB of entries, a single entry at most the request limit and change.
pub(super) const FRAME_BYTES_MAX: usize = 64 << 20;

const HEADER_BYTES: usize = 8;

/// Appends a message as a frame.
pub(super) fn encode(message: &impl Message, out: &mut BytesMut) {
    let length = message.encoded_len();
    out.reserve(HEADER_BYTES + length);
    let header_at = out.len();
    out.put_u32_le(length as u32);
    out.put_u32_le(0);
    let body_at = out.len();
    // A BytesMut grows as needed: encoding cannot run out of space.
    message.encode(out).unwrap_or_else(|e| unreachable!("a BytesMut has room: {e}"));
    let crc = crc32c::crc32c(&out[body_at..]);
    out[header_at + 4..body_at].copy_from_slice(&crc.to_le_bytes());
}

/// Reads frames from one direction of a connection.
pub(super) struct FrameReader<R> {
    stream: R,
    buffer: BytesMut,
    /// Bytes that were read and not yet asked for by [`take_received`](Self::take_received).
    received: usize,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    pub(super) fn new(stream: R) -> Self {
        Self { stream, buffer: BytesMut::with_capacity(64 << 10), received: 0 }
    }

    /// How many bytes have come since it was asked the last time.
    pub(super) fn take_received(&mut self) -> usize {
        std::mem::take(&mut self.received)
    }

    /// Reads the preface.
    pub(super) async fn preface(&mut self) -> io::Result<()> {
        while self.buffer.len() < PREFACE.len() {
            self.fill().await?;
        }
        if self.buffer.split_to(PREFACE.len()).as_ref() == PREFACE {
            Ok(())
        } else {
            Err(invalid("the other side does not speak Quorate's peer protocol (is this a client port?)"))
        }
    }

    /// The next message. Cancel-safe: what was read stays in the buffer.
    pub(super) async fn next<M: Message + Default>(&mut self) -> io::Result<M> {
        let body = self.next_body().await?;
        M::decode(body).map_err(|e| invalid(&format!("a frame from a peer does not decode: {e}")))
    }

    async fn next_body(&mut self) -> io::Result<Bytes> {
        loop {
            if let Some(header) = self.buffer.get(..HEADER_BYTES) {
                let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
                let crc = u32::from_le_bytes([header[4], header[5], header[6], header[7]]);
                if length > FRAME_BYTES_MAX {
                    return Err(invalid(&format!(
                        "a frame from a peer has {length} bytes; the limit is {FRAME_BYTES_MAX}"
                    )));
                }
                if self.buffer.len() >= HEADER_BYTES + length {
                    let _ = self.buffer.split_to(HEADER_BYTES);
                    let body = self.buffer.split_to(length).freeze();
                    if crc32c::crc32c(&body) != crc {
                        return Err(invalid("a frame from a peer has a wrong checksum"));
                    }
                    return Ok(body);
                }
                self.buffer.reserve(HEADER_BYTES + length - self.buffer.len());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        if self.buffer.capacity() - self.buffer.len() < 4096 {
            self.buffer.reserve(64 << 10);
        }
        match self.stream.read_buf(&mut self.buffer).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            bytes => {
                self.received += bytes;
                Ok(())
            }
        }
    }
}

pub(super) fn invalid(text: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_proto::peer_v1 as pb;

    fn hello() -> pb::Hello {
        pb::Hello { cluster_id: 1, member_id: 2, data_dir_id: 3, protocol_version: 1, to_member_id: 4 }
    }

    #[test]
    fn golden_frame() {
        let mut out = BytesMut::new();
        encode(&hello(), &mut out);
        assert_eq!(&out[..4], &[10, 0, 0, 0], "length, little endian");
        assert_eq!(&out[8..], &[0x08, 1, 0x10, 2, 0x18, 3, 0x20, 1, 0x28, 4]);
        assert_eq!(&out[4..8], crc32c::crc32c(&out[8..]).to_le_bytes());
    }

    #[tokio::test]
    async fn frames_survive_any_split_and_flips_are_found() {
        let mut bytes = BytesMut::new();
        bytes.put_slice(PREFACE);
        encode(&hello(), &mut bytes);
        encode(&hello(), &mut bytes);
        for chunk in 1..bytes.len() {
            let stream = tokio_test_reader(&bytes, chunk);
            let mut reader = FrameReader::new(stream);
            reader.preface().await.unwrap();
            assert_eq!(reader.next::<pb::Hello>().await.unwrap(), hello());
            assert_eq!(reader.next::<pb::Hello>().await.unwrap(), hello());
            assert_eq!(reader.next::<pb::Hello>().await.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        }
        for at in 0..26 * 8 {
            let mut flipped = bytes.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            let mut reader = FrameReader::new(flipped.as_ref());
            let result = async {
                reader.preface().await?;
                reader.next::<pb::Hello>().await
            };
            assert!(result.await.is_err(), "bit {at} was flipped and not noticed");
        }
    }

    fn tokio_test_reader(bytes: &[u8], chunk: usize) -> impl AsyncRead + Unpin + use<> {
        let (mut write, read) = tokio::io::duplex(chunk);
        let bytes = bytes.to_vec();
        tokio::spawn(async move {
            let _ = tokio::io::AsyncWriteExt::write_all(&mut write, &bytes).await;
        });
        read
    }
}
