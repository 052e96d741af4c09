//! HTTP/2 by hand, for what no library would send.

use std::io;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

/// The preface and empty settings.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00";

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a small frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A header that is in no table, as it is. For names and values of less than 127 bytes.
fn header(name: &str, value: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).expect("a short text")][..], text.as_bytes()].concat();
    [vec![0], text(name), text(value)].concat()
}

/// The beginning of a call of a method.
pub fn call(stream: u32, path: &str) -> Vec<u8> {
    // POST and http are in the table.
    let head = [vec![0x83, 0x86], header(":path", path), header(":authority", "x")].concat();
    frame(HEADERS, END_HEADERS, stream, &[head, header("content-type", "application/grpc")].concat())
}

/// The message of a call, and its end.
pub fn message(stream: u32, message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).expect("a small message").to_be_bytes();
    frame(DATA, END_STREAM, stream, &[&[0], &length[..], message].concat())
}

/// The client gives the call up.
pub fn reset(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// Sends something to a member on a connection of its own.
///
/// # Errors
/// When it does not take it.
pub async fn send(address: &str, bytes: &[u8]) -> io::Result<TcpStream> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(bytes).await?;
    Ok(stream)
}
